//! What the API answers, for people. Fields that are missing are shown as `-`: another version may answer.

use std::fmt::Write as _;

use serde_json::Value;

/// Every pool.
pub(super) fn pools(view: &Value) -> String {
    list(&view["pools"]).iter().map(pool).collect::<Vec<_>>().join("\n")
}

/// One pool, and a table of its backends.
pub(super) fn pool(view: &Value) -> String {
    let panicking = if view["panicking"] == true { ", panicking" } else { "" };
    let title = format!(
        "{}: sessions {}, balance {}, affinity {}{panicking}\n",
        word(&view["name"]),
        word(&view["sessions"]),
        word(&view["balance"]),
        word(&view["affinity"])
    );
    let mut rows =
        vec![["BACKEND", "ADDRESS", "WEIGHT", "HEALTH", "STATE", "PINS", "IN FLIGHT", ""].map(str::to_owned)];
    rows.extend(list(&view["backends"]).iter().map(|backend| {
        let of = |field: &str| word(&backend[field]);
        [
            of("name"),
            of("address"),
            weight(backend),
            health(backend),
            admin_state(backend),
            of("active_pins"),
            of_at_most(backend, "in_flight", "max_requests"),
            if backend["drain"].is_object() { drain(&backend["drain"]) } else { String::new() },
        ]
    }));
    let sources: String = list(&view["backends_from"]).iter().map(source).collect();
    title + &sources + &table(&rows)
}

/// Where more backends are looked for.
fn source(view: &Value) -> String {
    let of = |field: &str| word(&view[field]);
    let mut text = format!("backends from {}: {}, {} found", of("source"), of("looks_at"), of("backends"));
    if let Some(error) = view["error"].as_str() {
        // Each problem of a file has a line of its own.
        let _ = write!(text, ", last at {}, since then: {}", of("last_success"), error.replace('\n', "; "));
    }
    text + "\n"
}

/// One backend, a line each.
pub(super) fn backend(view: &Value) -> String {
    let mut rows = vec![
        ["name".to_owned(), word(&view["name"])],
        ["address".to_owned(), word(&view["address"])],
        ["source".to_owned(), word(&view["source"])],
        ["weight".to_owned(), weight(view)],
        ["health".to_owned(), format!("{}, for {} s", health(view), word(&view["changed_seconds_ago"]))],
        ["admin state".to_owned(), admin_state(view)],
        ["tier".to_owned(), word(&view["tier"])],
        ["active pins".to_owned(), word(&view["active_pins"])],
        ["in flight".to_owned(), of_at_most(view, "in_flight", "max_requests")],
        ["tunnels".to_owned(), word(&view["tunnels"])],
        ["queued".to_owned(), word(&view["queued"])],
        ["connections".to_owned(), of_at_most(view, "connections", "max_connections")],
    ];
    if !view["slow_start_seconds_left"].is_null() {
        rows.push(["slow start".to_owned(), format!("{} s left", word(&view["slow_start_seconds_left"]))]);
    }
    if view["drain"].is_object() {
        rows.push(["drain".to_owned(), drain(&view["drain"])]);
        rows.push(["pace".to_owned(), word(&view["drain"]["pace"])]);
    }
    table(&rows)
}

/// A count, and its bound if there is one.
fn of_at_most(view: &Value, count: &str, bound: &str) -> String {
    let bound = if view[bound].is_null() { String::new() } else { format!(" of {}", word(&view[bound])) };
    word(&view[count]) + &bound
}

/// A backend that was given an order.
pub(super) fn order(pool: &str, view: &Value) -> String {
    let mut text = format!("{pool}/{}: {}, weight {}", word(&view["name"]), word(&view["admin_state"]), weight(view));
    if view["drain"].is_object() {
        text = format!("{text}; {}", drain(&view["drain"]));
    }
    text
}

/// A backend that is no more.
pub(super) fn removed(pool: &str, view: &Value) -> String {
    format!("removed {pool}/{}, which was at {}", word(&view["name"]), word(&view["address"]))
}

/// How far a drain is.
pub(super) fn drain(view: &Value) -> String {
    if view["drained"] == true {
        return format!("drained since {}", word(&view["drained_since"]));
    }
    let mut text = match &view["pins_left"] {
        one if *one == 1 => "1 pin left".to_owned(),
        pins => format!("{} pins left", word(pins)),
    };
    for (field, words) in [("eta", "expected to be over at"), ("deadline", "deadline")] {
        if let Some(date) = view[field].as_str() {
            text = format!("{text}, {words} {date}");
        }
    }
    text
}

/// A reload that took effect.
pub(super) fn reload(view: &Value) -> String {
    format!("generation {} is in effect", word(&view["generation"]))
}

/// Where a request would go.
pub(super) fn explanation(view: &Value) -> String {
    view["summary"].as_str().map_or_else(|| view.to_string(), str::to_owned)
}

/// Something that happened.
pub(super) fn event(name: &str, data: &Value) -> String {
    let of = |field: &str| word(&data[field]);
    let backend = || format!("{}/{}", of("pool"), of("backend"));
    let what = match name {
        "health" | "admin_state" => {
            // An admin state is the operator's, unless it says otherwise.
            let cause = data["cause"].as_str().or(data["by"].as_str().filter(|by| *by != "operator"));
            let cause = cause.map_or_else(String::new, |cause| format!(" ({cause})"));
            format!("{} {} -> {}{cause}", backend(), of("from"), of("to"))
        }
        "drained" => backend(),
        "panic" => {
            let word = if data["panicking"] == true { "health is ignored for new clients" } else { "over" };
            format!("{} {word}", of("pool"))
        }
        "fullness" if data["full"] == true => format!("{} has no room ({})", of("pool"), of("bound")),
        "fullness" => format!("{} has room again ({})", of("pool"), of("bound")),
        "discovery" => match data["error"].as_str() {
            Some(error) => format!("{} {}: {error}", of("pool"), of("source")),
            None => format!("{} {}: backends are found again", of("pool"), of("source")),
        },
        "backends" => {
            let names = |field: &str| list(&data[field]).iter().map(word).collect::<Vec<_>>().join(" ");
            let mut text = format!("{} {}:", of("pool"), of("source"));
            let counts = [("added", "added_count"), ("removed", "removed_count"), ("changed", "changed_count")];
            for (field, count) in counts {
                if data[count].as_u64().is_some_and(|count| count > 0) {
                    let _ = write!(text, " {field} {} ({})", of(count), names(field));
                }
            }
            text
        }
        "reload" if data["result"] == "ok" => format!("generation {} is in effect", of("generation")),
        "reload" => format!("nothing was changed: {}", of("error")),
        "lagged" => return format!("{} events were missed", of("missed")),
        _ => data.to_string(),
    };
    format!("{} {name} {what}", of("time"))
}

/// A refusal, with what may help.
pub(super) fn refusal(error: &str, answer: &Value) -> String {
    let mut text = error.to_owned();
    for problem in list(&answer["problems"]) {
        let line = problem["line"].as_u64().map_or_else(String::new, |line| format!("line {line}: "));
        // Writing to a `String` cannot fail.
        let _ = write!(text, "\n{line}{}: {}", word(&problem["path"]), word(&problem["message"]));
    }
    let known: Vec<String> = list(&answer["known"]).iter().map(word).collect();
    if !known.is_empty() {
        let _ = write!(text, "; there are: {}", known.join(", "));
    }
    text
}

fn weight(view: &Value) -> String {
    match &view["file_weight"] {
        Value::Null => word(&view["weight"]),
        in_file => format!("{} (file: {})", word(&view["weight"]), word(in_file)),
    }
}

/// With a mark where it is the agent that wants it so.
fn admin_state(view: &Value) -> String {
    let (state, agent) = (word(&view["admin_state"]), &view["agent"]);
    let is_agents = agent["overruled"] == false && agent["admin_state"] == view["admin_state"];
    if is_agents && state != "enabled" { format!("{state} (agent)") } else { state }
}

fn health(view: &Value) -> String {
    let health = word(&view["health"]);
    match (view["memory"].as_str(), view["outlier"]["cause"].as_str()) {
        (Some("gone"), _) => format!("{health}, gone"),
        (_, Some(cause)) => format!("{health} ({cause})"),
        _ => health,
    }
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Columns as wide as their widest cell.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn app1() -> Value {
        json!({
            "name": "app1", "address": "127.0.0.1:9101", "weight": 50, "file_weight": 100, "health": "unhealthy",
            "memory": "gone", "admin_state": "draining", "active_pins": 12, "in_flight": 0, "changed_seconds_ago": 7,
            "drain": { "pins_left": 1, "eta": "2026-01-01T00:00:20Z", "deadline": null, "pace": "5%/s", "drained": false },
        })
    }

    #[test]
    fn a_pool_is_a_table() {
        let app2 = json!({ "name": "a-longer-name", "address": "[::1]:9102", "weight": 1, "health": "healthy" });
        let view = json!({ "name": "shop", "sessions": "local", "balance": "random", "backends": [app1(), app2] });
        let expected = "\
shop: sessions local, balance random, affinity -
BACKEND        ADDRESS         WEIGHT          HEALTH           STATE     PINS  IN FLIGHT
app1           127.0.0.1:9101  50 (file: 100)  unhealthy, gone  draining  12    0          1 pin left, expected to be \
                        over at 2026-01-01T00:00:20Z
a-longer-name  [::1]:9102      1               healthy          -         -     -
";
        assert_eq!(pool(&view), expected);
        assert_eq!(pools(&json!({ "pools": [view] })), expected);
        assert_eq!(pools(&json!({})), "");
    }

    #[test]
    fn a_backend_is_a_list_and_an_order_a_line() {
        assert!(backend(&app1()).contains("\nhealth       unhealthy, gone, for 7 s\n"), "{}", backend(&app1()));
        let line = order("shop", &app1());
        assert_eq!(
            line,
            "shop/app1: draining, weight 50 (file: 100); 1 pin left, expected to be over at 2026-01-01T00:00:20Z"
        );
        let drained = json!({ "drained": true, "drained_since": "2026-01-01T00:00:00Z", "pins_left": 0 });
        assert_eq!(drain(&drained), "drained since 2026-01-01T00:00:00Z");
    }

    #[test]
    fn an_event_is_a_line() {
        let of = |name, mut data: Value| {
            data["time"] = "T".into();
            event(name, &data)
        };
        let change =
            json!({ "pool": "shop", "backend": "app1", "from": "healthy", "to": "suspect", "cause": "refused" });
        assert_eq!(of("health", change), "T health shop/app1 healthy -> suspect (refused)");
        assert_eq!(
            of("panic", json!({ "pool": "shop", "panicking": true })),
            "T panic shop health is ignored for new clients"
        );
        assert_eq!(of("drained", json!({ "pool": "shop", "backend": "app1" })), "T drained shop/app1");
        assert_eq!(of("reload", json!({ "result": "failed", "error": "x" })), "T reload nothing was changed: x");
        let failed = json!({ "pool": "shop", "source": "dns", "error": "no answer in time" });
        assert_eq!(of("discovery", failed), "T discovery shop dns: no answer in time");
        let again = json!({ "pool": "shop", "source": "dns", "error": null });
        assert_eq!(of("discovery", again), "T discovery shop dns: backends are found again");
        let changed = json!({
            "pool": "shop", "source": "api", "added": ["a", "b"], "removed": [], "changed": ["c"],
            "added_count": 2, "removed_count": 0, "changed_count": 1,
        });
        assert_eq!(of("backends", changed), "T backends shop api: added 2 (a b) changed 1 (c)");
        assert_eq!(of("lagged", json!({ "missed": 3 })), "3 events were missed");
        assert_eq!(of("later", json!({ "a": 1 })), "T later {\"a\":1,\"time\":\"T\"}");
    }

    #[test]
    fn a_refusal_says_what_may_help() {
        let answer = json!({ "known": ["shop", "app"] });
        assert_eq!(refusal("there is no pool \"x\"", &answer), "there is no pool \"x\"; there are: shop, app");
        let answer = json!({ "problems": [{ "path": "pools", "line": 3, "message": "expected a mapping" }] });
        assert_eq!(refusal("wrong", &answer), "wrong\nline 3: pools: expected a mapping");
    }
}
