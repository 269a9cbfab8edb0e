//! The figures as a table that a README takes as it is.

use crate::figures::{Figures, Share, StoreDeath};
use crate::plan;

/// What stands in a column.
type Answer = fn(&Figures) -> String;

/// A row for each question, a column for each strategy.
pub(crate) fn table(columns: &[Figures]) -> String {
    let rows: [(&str, Answer); 10] = [
        ("copies of a session held, with three servers and with four", |it| pair(it.copies, 1)),
        ("bytes for each request between servers, or to the store and back; with three and with four", |it| {
            pair(it.bytes, 0)
        }),
        ("a server is killed: logins lost of those that lived there", |it| {
            format!("{} of {}", it.killed.lost.len(), it.killed.lived_there.len())
        }),
        ("requests that fail in the hour, but for the store's death", failed),
        ("a server is added: it serves 0.8 of its due after", works_after),
        ("busiest server over the mean, ten minutes later", |it| format!("{:.2}", it.busiest)),
        ("a server is drained: nobody is left after", |it| {
            it.empty_after.map_or_else(|| "not in the hour".to_owned(), |after| format!("{after:.1} min"))
        }),
        ("logins lost by the drain, of those that lived there", |it| {
            format!("{} of {}", it.drained.lost.len(), it.drained.lived_there.len())
        }),
        ("the store dies: requests that fail", |it| of_store(it, |death| share(death.failed))),
        ("logins lost when it is back, with nothing in its memory", |it| of_store(it, |death| share(death.lost))),
    ];
    let mut lines = vec![line("", columns, |it| format!("`{}`", it.strategy.word()))];
    lines.push(format!("|---|{}", "---:|".repeat(columns.len())));
    lines.extend(rows.iter().map(|(question, answer)| line(question, columns, answer)));
    lines.join("\n") + "\n"
}

fn line(question: &str, columns: &[Figures], answer: impl Fn(&Figures) -> String) -> String {
    let answers: String = columns.iter().map(|it| format!(" {} |", answer(it))).collect();
    format!("| {question} |{answers}")
}

fn pair([three, four]: [f64; 2], digits: usize) -> String {
    format!("{three:.digits$}, {four:.digits$}")
}

/// Logins and logouts are not sent twice, so one that is under way at a death fails.
fn failed(it: &Figures) -> String {
    let orders = match it.failed_orders {
        0 => String::new(),
        orders => format!(", and {orders} under way at the death that must not be sent twice"),
    };
    share(it.failed) + &orders
}

fn works_after(it: &Figures) -> String {
    match it.works_after {
        Some(after) => format!("{after:.1} min"),
        None => format!("not in {:.0} min: {:.2}", plan::DRAINED - plan::ADDED, it.part_served),
    }
}

fn of_store(it: &Figures, answer: impl Fn(&StoreDeath) -> String) -> String {
    it.store.as_ref().map_or_else(|| "there is none".to_owned(), answer)
}

fn share(share: Share) -> String {
    format!("{} of {}", share.some, share.of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Loss;
    use crate::strategy::Strategy;

    #[test]
    fn every_row_has_a_cell_for_each_strategy() {
        let loss = Loss { lost: [1].into(), lived_there: [1, 2].into() };
        let local = Figures {
            strategy: Strategy::Local,
            copies: [1.0, 1.04],
            bytes: [0.0, 0.0],
            killed: loss.clone(),
            failed: Share { some: 0, of: 9 },
            failed_orders: 0,
            works_after: None,
            part_served: 0.456,
            busiest: 1.234,
            empty_after: None,
            drained: loss,
            store: None,
            contradictions: Vec::new(),
        };
        let death = StoreDeath { failed: Share { some: 3, of: 4 }, lost: Share { some: 5, of: 6 } };
        let external = Figures {
            strategy: Strategy::External,
            bytes: [1234.4, 1300.6],
            works_after: Some(2.25),
            empty_after: Some(0.5),
            failed_orders: 2,
            store: Some(death),
            ..local.clone()
        };
        let table = table(&[local, external]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[..2], ["|  | `local` | `external` |", "|---|---:|---:|"]);
        assert!(lines.iter().all(|line| line.matches('|').count() == 4), "{table}");
        for cells in [
            "| 1.0, 1.0 | 1.0, 1.0 |",
            "| 0, 0 | 1234, 1301 |",
            "| 1 of 2 | 1 of 2 |",
            "| not in 16 min: 0.46 | 2.2 min |",
            "| 1.23 | 1.23 |",
            "| 0 of 9 | 0 of 9, and 2 under way at the death that must not be sent twice |",
            "| not in the hour | 0.5 min |",
            "| there is none | 3 of 4 |",
            "| there is none | 5 of 6 |",
        ] {
            assert!(lines.iter().any(|line| line.ends_with(cells)), "{cells}\n{table}");
        }
    }
}
