//! The module as a whole: files that are right, files that are wrong, and files that make no sense at all.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;

const QUICKSTART: &str = include_str!("../../config/quickstart.yaml");
const STICKY_COOKIE: &str = include_str!("../../config/sticky-cookie.yaml");
const APP_SESSION: &str = include_str!("../../config/app-session.yaml");
const CONSISTENT_HASH: &str = include_str!("../../config/consistent-hash.yaml");
const REFERENCE: &str = include_str!("../../config/reference.yaml");

/// A valid file around the settings of its only pool.
fn pool_with(settings: &str) -> String {
    format!("listeners: ['127.0.0.1:80']\npools:\n  p:\n    backends: ['127.0.0.1:1']\n    {settings}\n")
}

#[track_caller]
fn parse(text: &str) -> Config {
    Config::parse("app.yaml", text).unwrap_or_else(|problems| panic!("{problems}\nin\n{text}"))
}

#[track_caller]
fn problems(text: &str) -> Vec<String> {
    match Config::parse("app.yaml", text) {
        Ok(_) => panic!("no problem found in\n{text}"),
        Err(problems) => problems.to_string().lines().map(str::to_owned).collect(),
    }
}

#[test]
fn the_quickstart_is_a_whole_configuration() {
    let config = parse(QUICKSTART);
    assert_eq!(config.listeners[0].address.to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin.unwrap().address.to_string(), "127.0.0.1:9900");
    let route = Route { host: HostPattern::Any, path_prefix: "/".into(), pool: 0, affinity: true };
    assert_eq!(config.routes, [route]);
    let [pool] = config.pools.as_slice() else { panic!("{:?}", config.pools) };
    assert_eq!(pool.balance, Balance::LeastPins);
    assert_eq!(pool.health.probe, Probe::Tcp);
    let names: Vec<_> = pool.backends.iter().map(|backend| backend.name.as_ref()).collect();
    assert_eq!(names, ["127.0.0.1:9101", "127.0.0.1:9102", "127.0.0.1:9103"]);
}

#[test]
fn the_sticky_cookie_file_says_what_it_seems_to_say() {
    let config = parse(STICKY_COOKIE);
    let pool = &config.pools[0];
    let Affinity::Cookie(cookie) = &pool.affinity else { panic!("no cookie") };
    assert_eq!((cookie.name.as_ref(), cookie.idle_timeout), ("stickpin", Duration::from_secs(1800)));
    let Probe::Http(probe) = &pool.health.probe else { panic!("no http probe") };
    assert_eq!((probe.path.as_ref(), probe.expected_status.as_slice()), ("/health", [(200, 299)].as_slice()));
}

#[test]
fn the_app_session_file_says_what_it_seems_to_say() {
    let config = parse(APP_SESSION);
    let session = |pool: usize| match &config.pools[pool].affinity {
        Affinity::AppSession(session) => session,
        other => panic!("{other:?}"),
    };
    let sources = [SessionSource::Cookie("JSESSIONID".into()), SessionSource::PathParameter("jsessionid".into())];
    assert_eq!((session(0).sources.as_slice(), session(0).home_by), (sources.as_slice(), HomeBy::Learn));
    let header = SessionSource::Header(http::HeaderName::from_static("mcp-session-id"));
    assert_eq!(session(1).sources, [header]);
    assert_eq!(session(2).home_by, HomeBy::RouteSuffix('.'));
    assert_eq!(config.pools[2].backends[1].route.as_deref(), Some("node2"));
    assert_eq!(config.pools[0].balance, Balance::LeastPins);
    assert_eq!(config.pin_store, PinStore { max_pins: 1_000_000, max_pins_per_client: 10_000, redis: None });
}

#[test]
fn the_consistent_hash_file_says_what_it_seems_to_say() {
    let config = parse(CONSISTENT_HASH);
    let hash = |pool: usize| match &config.pools[pool].affinity {
        Affinity::Hash(hash) => hash,
        other => panic!("{other:?}"),
    };
    let token = TokenSource::Header(http::header::AUTHORIZATION);
    let keys = [
        KeySource::Header(http::HeaderName::from_static("x-tenant")),
        KeySource::JwtClaim { claim: "tenant".into(), token },
        KeySource::ClientAddress { ipv4_prefix: 32, ipv6_prefix: 64 },
    ];
    assert_eq!((hash(0).keys.as_slice(), hash(0).without_key), (keys.as_slice(), WithoutKey::Balance));
    assert_eq!((hash(0).home_hash, hash(0).bounded_load), (HomeHash::Rendezvous, None));
    assert_eq!((hash(1).keys.as_slice(), hash(1).home_hash), ([KeySource::Path].as_slice(), HomeHash::Maglev));
}

#[test]
fn a_backend_has_the_bounds_of_its_pool_unless_it_has_its_own() {
    let config = parse(
        "listeners: ['127.0.0.1:8080']
pools:
  p:
    max_requests: 10
    max_connections: 20
    queue: { length: 0, timeout: 1s }
    backends: ['127.0.0.1:1', { address: '127.0.0.1:2', max_requests: 3, max_connections: 4 }]
  q: { backends: ['127.0.0.1:1'] }
routes: [{ pool: p }, { path_prefix: /q, pool: q }]",
    );
    let bounds = |pool: usize, backend: usize| {
        let pool = &config.pools[pool];
        pool.bounds_of(&pool.backends[backend])
    };
    assert_eq!([bounds(0, 0), bounds(0, 1), bounds(1, 0)], [(Some(10), Some(20)), (Some(3), Some(4)), (None, None)]);
    assert_eq!(config.pools[0].queue, Queue { length: 0, timeout: Duration::from_secs(1) });
    assert_eq!(config.pools[1].queue, Queue { length: 100, timeout: Duration::from_secs(5) });
}

#[test]
fn the_reference_states_the_defaults() {
    let minimal = "
        listeners:
          - 127.0.0.1:8080
          - { address: '127.0.0.1:8081', redirect_to_https: true }
          - address: 127.0.0.1:8443
            tls:
              certificates: [ { cert_file: shop.pem, key_file: shop.key } ]
              client_certificates: { mode: required, ca_file: clients-ca.pem }
            hsts: { max_age: 365d }
        admin: { address: '127.0.0.1:9900' }
        pin_store: { redis: { url: 'redis://127.0.0.1:6379/0' } }
        routes: [ { pool: shop }, { host: api.example.com, pool: api } ]
        pools:
          shop:
            backends: [ { name: shop1, address: '127.0.0.1:9101' }, { name: shop2, address: '127.0.0.1:9102' } ]
          api:
            health: { http: { agent: { header: X-Load }, tls: {} } }
            backends: ['127.0.0.1:9201']
          rpc:
            health: { grpc: { tls: {} } }
            backends: ['127.0.0.1:9202']
          portal:
            affinity:
              app_session:
                cookie: JSESSIONID
                header: Mcp-Session-Id
                path_parameter: jsessionid
                query_parameter: sid
            sessions: replicated
            health: { tcp: { tls: {} } }
            rebalance: {}
            backends: ['127.0.0.1:9301']
          tenants:
            affinity:
              hash:
                keys:
                  - { header: X-User }
                  - { cookie: uid }
                  - { query_parameter: user }
                  - { jwt_claim: sub }
                  - { jwt_claim: { claim: sub, header: X-Token } }
                  - { jwt_claim: { claim: sub, cookie: token } }
                  - client_address
                  - path
            backends: ['127.0.0.1:9401']
          pods:
            backends_from: { dns: { name: app.example.com, port: 8080 } }
        ";
    assert_eq!(parse(REFERENCE), parse(minimal));
}

#[test]
fn sockets_come_by_address_path_and_name() {
    let config = parse(
        "user: www-data:adm
trusted_proxies: [10.0.0.0/8, unix]
listeners:
  - '[::]:80'
  - 0.0.0.0:80
  - { address: 'unix:/run/stickpin.sock', mode: 0600, proxy_protocol: required }
  - systemd:web
  - systemd:web
pools:
  p:
    send_proxy_protocol: v2
    backends: ['unix:/run/app1.sock', { name: app2, address: '[::1]:80' }]
",
    );
    let listeners: Vec<_> = config.listeners.iter().map(|listener| listener.address.to_string()).collect();
    assert_eq!(listeners, ["[::]:80", "0.0.0.0:80", "unix:/run/stickpin.sock", "systemd:web", "systemd:web"]);
    assert_eq!((config.listeners[0].mode, config.listeners[2].mode), (0o660, 0o600));
    let settings: Vec<_> = config.listeners.iter().map(|listener| listener.proxy_protocol).collect();
    assert_eq!(settings[1..3], [ProxyProtocol::Off, ProxyProtocol::Required]);
    assert_eq!(config.user.unwrap().to_string(), "www-data:adm");
    assert!(config.trusted_proxies.unix && config.trusted_proxies.contains("::ffff:10.1.2.3".parse().unwrap()));
    let pool = &config.pools[0];
    assert_eq!(pool.send_proxy_protocol, SendProxyProtocol::V2);
    let backends: Vec<_> = pool.backends.iter().map(|it| (it.name.as_ref(), it.address.to_string())).collect();
    assert_eq!(backends, [("app1.sock", "unix:/run/app1.sock".to_owned()), ("app2", "[::1]:80".to_owned())]);
}

#[test]
fn http2_is_on_unless_it_is_said_to_be_off() {
    let listening = |http2: &str| {
        let listener = format!("{{ address: '127.0.0.1:80'{http2} }}");
        let config = parse(&format!("listeners: [ {listener} ]\npools: {{ p: {{ backends: ['127.0.0.1:1'] }} }}\n"));
        config.listeners[0].http2.map(|it| (it.max_streams, it.stream_window, it.connection_window))
    };
    let defaults = Some((100, 128 << 10, 1 << 20));
    for (http2, expected) in [
        ("", defaults),
        (", http2: on", defaults),
        (", http2: off", None),
        (", http2: { max_streams: 250 }", Some((250, 128 << 10, 1 << 20))),
        // The window of the connection has room for one stream at least.
        (", http2: { stream_window: 4MiB }", Some((100, 4 << 20, 4 << 20))),
    ] {
        assert_eq!(listening(http2), expected, "{http2}");
    }
}

#[test]
fn the_reference_has_every_key() {
    let mut keys = BTreeSet::new();
    let schema = schema();
    let reference: Json = serde_yaml::from_str(REFERENCE).unwrap();
    missing_keys(&schema, &schema, &[&reference], "", &mut keys);
    assert!(keys.is_empty(), "not in reference.yaml: {keys:?}");
}

/// Walks the schema and all values it stands for side by side; gathers properties that no value has.
fn missing_keys(root: &Json, schema: &Json, values: &[&Json], path: &str, missing: &mut BTreeSet<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let definition = root.pointer(name.trim_start_matches('#')).expect("the definition is in the schema");
        missing_keys(root, definition, values, path, missing);
    }
    for option in schema["anyOf"].as_array().into_iter().flatten() {
        missing_keys(root, option, values, path, missing);
    }
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let found: Vec<_> = values.iter().filter_map(|value| value.get(key)).collect();
        let path = format!("{path}.{key}");
        if found.is_empty() {
            missing.insert(path.clone());
        }
        missing_keys(root, property, &found, &path, missing);
    }
    if schema["additionalProperties"].is_object() {
        let found: Vec<_> = values.iter().filter_map(|value| value.as_object()).flat_map(|map| map.values()).collect();
        missing_keys(root, &schema["additionalProperties"], &found, &format!("{path}.*"), missing);
    }
    if schema["items"].is_object() {
        let found: Vec<_> = values.iter().filter_map(|value| value.as_array()).flatten().collect();
        missing_keys(root, &schema["items"], &found, &format!("{path}[]"), missing);
    }
}

#[test]
fn the_sample_of_the_design_is_valid() {
    let config = parse(
        "
workers: 4
state_dir: /var/lib/stickpin
listeners:
  - address: 0.0.0.0:8080
admin:
  address: 127.0.0.1:9900
  token_file: admin.token
cookie_keys_file: cookie.keys
routes:
  - { host: shop.example.com, path_prefix: /, pool: shop }
pools:
  shop:
    sessions: local
    balance: least_pins
    affinity:
      cookie: { name: stickpin, idle_timeout: 30m, max_lifetime: 12h }
    rehome:
      when_unavailable: rehome
      wait: 0s
      hold_home: 10m
      on_session_lost: forward
    health:
      http: { path: /health, interval: 2s, timeout: 1s, healthy_after: 2, unhealthy_after: 3, instance_header: X-Instance }
    retry: { attempts: 2, body_limit: 64KiB, budget: 20% }
    timeouts: { connect: 2s, first_byte: 30s, idle: 60s }
    backends:
      - { name: app1, address: 127.0.0.1:9101, weight: 100 }
      - { name: app2, address: 127.0.0.1:9102, weight: 100 }
",
    );
    assert_eq!(config.workers, NonZeroUsize::new(4));
    assert_eq!(config.routes[0].host, HostPattern::Exact("shop.example.com".into()));
    assert_eq!(config.pools[0].backends[1].weight.get(), 100);
    let Probe::Http(probe) = &config.pools[0].health.probe else { panic!("no http probe") };
    assert_eq!(probe.instance_header, Some(http::HeaderName::from_static("x-instance")));
}

#[test]
fn short_forms_and_spelled_out_forms_are_both_read() {
    let affinity = |text: &str| parse(&pool_with(text)).pools.remove(0).affinity;
    assert_eq!(affinity("affinity: off"), Affinity::Off);
    assert_eq!(affinity("affinity: false"), Affinity::Off);
    assert_eq!(affinity("affinity: { cookie: }"), affinity(""));
    assert_eq!(parse(&pool_with("affinity: off")).pools[0].balance, Balance::TwoChoices);
    assert_eq!(parse(&pool_with("affinity: off\n    balance: random")).pools[0].balance, Balance::Random);

    let secure = |text: &str| match affinity(&format!("affinity: {{ cookie: {{ secure: {text} }} }}")) {
        Affinity::Cookie(cookie) => cookie.secure,
        other => panic!("{other:?}"),
    };
    assert_eq!((secure("true"), secure("false"), secure("auto")), (Secure::Always, Secure::Never, Secure::Auto));

    let probe = |text: &str| parse(&pool_with(text)).pools.remove(0).health.probe;
    assert_eq!(probe("health: off"), Probe::Off);
    assert_eq!(probe("health: { tcp: { interval: 1s } }"), Probe::Tcp);
    let expected_status = |text: &str| match probe(&format!("health: {{ http: {{ expected_status: {text} }} }}")) {
        Probe::Http(probe) => probe.expected_status,
        Probe::Off | Probe::Tcp | Probe::Grpc(_) => panic!("no http probe"),
    };
    assert_eq!(expected_status("204"), [(204, 204)]);
    assert_eq!(expected_status("2xx"), [(200, 299)]);
    assert_eq!(expected_status("[200, 300-399]"), [(200, 200), (300, 399)]);

    let health = |text: &str| parse(&pool_with(text)).pools.remove(0).health;
    let off = health("health: { traffic: off }");
    assert_eq!((off.probe, off.traffic), (Probe::Tcp, None));
    assert_eq!(health("health: off").traffic, Some(Traffic::default()));
    let quiet = health("health: { http: {}, traffic: { slow: 0, errors: 20 } }").traffic.expect("it is on");
    assert_eq!(quiet, Traffic { slow: 0.0, errors: 20, ..Traffic::default() });
    let probe = health("health: { http: { headers: { X-A: b }, interval: 5s, port: 81, tls: { ca_file: ca.pem } } }");
    assert_eq!((probe.port, probe.unhealthy_interval), (Some(81), Duration::from_secs(5)));
    let ca = CaFile { path: "ca.pem".into(), pem: [].into() };
    assert_eq!(probe.tls, Some(BackendTls { ca: Some(ca), server_name: None, verify: true }));
    let Probe::Http(probe) = probe.probe else { panic!("no http probe") };
    assert_eq!(probe.headers, [(http::HeaderName::from_static("x-a"), http::HeaderValue::from_static("b"))]);
    assert_eq!(
        health("health: { http: { agent: { body: true } } }").probe,
        Probe::Http(HttpProbe { agent: Some(Agent::Body), ..HttpProbe::default() })
    );
    let grpc = GrpcProbe { service: "shop.v1.Carts".into(), host: None };
    assert_eq!(health("health: { grpc: { service: shop.v1.Carts } }").probe, Probe::Grpc(grpc));

    let log = |text: &str| parse(&format!("access_log: {text}\n{}", pool_with(""))).access_log;
    assert_eq!(log("off").target, AccessLogTarget::Off);
    assert_eq!(log("{ target: file, path: a.log }").target, AccessLogTarget::File("a.log".into()));
    assert_eq!(log("{ sample: 5% }").sample, Percent::new(5.0).unwrap());

    let rebalance = |text: &str| parse(&pool_with(text)).pools.remove(0).rebalance;
    assert_eq!((rebalance(""), rebalance("rebalance: off"), rebalance("rebalance: false")), (None, None, None));
    let Rebalance { when_above, pace, idle_for } = rebalance("rebalance: { when_above: 2, idle_for: 0s }").unwrap();
    assert_eq!((when_above, pace, idle_for), (2.0, "1%/m".parse().unwrap(), Duration::ZERO));
    let drain = parse(&pool_with("drain: { pace: 10%/h }"));
    assert_eq!(drain.pools[0].drain_pace.to_string(), "10%/h");

    let hash = |keys: &str| match affinity(&format!("affinity: {{ hash: {{ keys: [{keys}] }} }}")) {
        Affinity::Hash(hash) => hash.keys,
        other => panic!("{other:?}"),
    };
    let whole = KeySource::ClientAddress { ipv4_prefix: 32, ipv6_prefix: 64 };
    assert_eq!(hash("client_address, { client_address: }, { client_address: {} }"), vec![whole; 3]);
    let network = KeySource::ClientAddress { ipv4_prefix: 24, ipv6_prefix: 56 };
    assert_eq!(hash("{ client_address: { ipv4_prefix: 24, ipv6_prefix: 56 } }"), [network]);
    assert_eq!(hash("{ jwt_claim: sub }"), hash("{ jwt_claim: { claim: sub } }"));
    let homes = |balance: &str, bounded: &str| {
        let text = format!("{balance}\n    affinity: {{ hash: {{ keys: [path]{bounded} }} }}");
        let pool = parse(&pool_with(&text)).pools.remove(0);
        let Affinity::Hash(hash) = pool.affinity else { panic!("{text}") };
        (pool.balance, hash.home_hash, hash.bounded_load)
    };
    for (balance, bounded, expected) in [
        ("", "", (Balance::TwoChoices, HomeHash::Rendezvous, None)),
        ("balance: rendezvous", ", bounded_load: off", (Balance::TwoChoices, HomeHash::Rendezvous, None)),
        ("balance: maglev", ", bounded_load: on", (Balance::TwoChoices, HomeHash::Maglev, Some(1.25))),
        ("balance: ring", ", bounded_load: false", (Balance::TwoChoices, HomeHash::Ring, None)),
        ("balance: peak_ewma", ", bounded_load: 2", (Balance::PeakEwma, HomeHash::Rendezvous, Some(2.0))),
        ("balance: least_requests", ", bounded_load: 1.05", (Balance::LeastRequests, HomeHash::Rendezvous, Some(1.05))),
    ] {
        assert_eq!(homes(balance, bounded), expected, "{balance}{bounded}");
    }

    let session = |settings: &str| match affinity(&format!("affinity: {{ app_session: {{ {settings} }} }}")) {
        Affinity::AppSession(session) => session.home_by,
        other => panic!("{other:?}"),
    };
    assert_eq!(session("cookie: a"), HomeBy::Learn);
    assert_eq!(session("cookie: a, home_by: prefix"), HomeBy::Prefix);
    let text = "affinity: { app_session: { header: a, home_by: route_suffix, separator: '!' } }";
    assert!(matches!(affinity(text), Affinity::AppSession(session) if session.home_by == HomeBy::RouteSuffix('!')));

    let store = |text: &str| parse(&format!("pin_store: {text}\n{}", pool_with(""))).pin_store;
    assert_eq!(store("{ max_pins: 2000 }").max_pins_per_client, 2000, "the default is never above max_pins");
    let redis = store("{ redis: { url: 'rediss://app@[::1]', password_file: p } }").redis.unwrap();
    let expected = RedisStore {
        url: "rediss://app@[::1]".into(),
        password_file: Some("p".into()),
        lookup_timeout: Duration::from_millis(20),
    };
    assert_eq!(redis, expected);

    let quick = parse(&pool_with("health: { tcp: { interval: 50ms } }"));
    assert_eq!(
        quick.pools[0].health.suspect_interval,
        Duration::from_millis(50),
        "the default is never above interval"
    );
}

#[test]
fn anchors_and_aliases_work() {
    let text = "listeners: ['127.0.0.1:80']\npools:\n  a: &settings\n    backends: ['127.0.0.1:1']\n  b: *settings\nroutes: [ { pool: a, path_prefix: /a }, { pool: b } ]\n";
    let config = parse(text);
    assert_eq!(config.pools[0].backends, config.pools[1].backends);
    assert_eq!(config.routes[1].pool, 1);
}

#[test]
fn an_empty_file_says_what_is_needed() {
    for text in ["", "# nothing\n", "---\n", "null"] {
        assert_eq!(problems(text), ["app.yaml: expected listeners and pools, found an empty file"]);
    }
    assert_eq!(problems("hello"), ["app.yaml:1: expected a mapping, found \"hello\""]);
    assert_eq!(
        problems("{}"),
        [
            "app.yaml: listeners: expected at least one listener, found nothing",
            "app.yaml: pools: expected at least one pool, found nothing",
        ]
    );
}

#[test]
fn a_file_with_ten_mistakes_reports_all_ten() {
    let text = "\
workers: 0
listeners:
  - address: app.example.com:80
  - { address: '127.0.0.1:8080', header_timeout: 10 }
admin: { address: '0.0.0.0:9900' }
routes:
  - { host: 'a.com:80', pool: shopp }
pools:
  shop:
    balanse: random
    affinity: { cookie: { same_site: none, secure: never } }
    backends:
      - { name: app1, address: '127.0.0.1:9101', weight: 5000 }
      - { name: app1, adress: '127.0.0.1:9102' }
";
    assert_eq!(
        problems(text),
        [
            "app.yaml:1: workers: expected 1 to 1024, found 0",
            "app.yaml:3: listeners[0].address: expected an IP address and port such as 127.0.0.1:8080 or [::1]:8080 (names are not resolved, give an IP and port), found \"app.example.com:80\"",
            "app.yaml:4: listeners[1].header_timeout: expected a duration with its unit (ms, s, m, h or d) such as 500ms, 2s, 30m, 12h or 1d, found 10",
            "app.yaml:5: admin.token_file: expected a file with a token, because others can reach 0.0.0.0:9900 (only loopback needs none), found nothing",
            "app.yaml:7: routes[0].host: expected a host name without a port, found \"a.com:80\"",
            "app.yaml:7: routes[0].pool: expected the name of a pool (shop), found \"shopp\"",
            "app.yaml:10: pools.shop.balanse: unknown key \"balanse\", did you mean \"balance\"?",
            "app.yaml:11: pools.shop.affinity.cookie.secure: expected always or auto, because browsers ask it of same_site: none, found \"never\"",
            "app.yaml:13: pools.shop.backends[0].weight: expected 0 to 1000, found 5000",
            "app.yaml:14: pools.shop.backends[1].adress: unknown key \"adress\", did you mean \"address\"?",
            "app.yaml:14: pools.shop.backends[1].name: expected a name of its own, not that of backends[0], found \"app1\"",
        ]
    );
}

#[test]
fn each_mistake_at_the_top_is_named_with_its_place() {
    const DURATION: &str = "a duration with its unit (ms, s, m, h or d) such as 500ms, 2s, 30m, 12h or 1d";
    const ADDRESS: &str = "an IP address and port such as 127.0.0.1:8080 or [::1]:8080";
    let file = |settings: &str| format!("{settings}\npools: {{ p: {{ backends: ['127.0.0.1:1'] }} }}\n");
    let listening = |settings: &str| file(&format!("{settings}\nlisteners: ['127.0.0.1:80']"));
    let tls = |settings: &str| file(&format!("listeners: [ {{ address: '127.0.0.1:443', tls: {{ {settings} }} }} ]"));
    let tls_with = |settings: &str| tls(&format!("certificates: [ {{ cert_file: a, key_file: b }} ], {settings}"));
    for (text, expected) in [
        (listening("colour: red"), "1: colour: unknown key \"colour\", expected one of workers, state_dir, cookie_keys_file, pin_store, stop_deadline, user, trusted_proxies, access_log, listeners, admin, routes, pools".to_owned()),
        (listening("workers: many"), "1: workers: expected 1 to 1024, found \"many\"".to_owned()),
        (listening("workers: -1"), "1: workers: expected 1 to 1024, found -1".to_owned()),
        (listening("workers: [1]"), "1: workers: expected 1 to 1024, found a list".to_owned()),
        (listening("state_dir: ''"), "1: state_dir: expected the path of a file or folder, found \"\"".to_owned()),
        (listening("stop_deadline: soon"), format!("1: stop_deadline: expected {DURATION}, found \"soon\"")),
        (listening("pin_store: memory"), "1: pin_store: expected a mapping, found \"memory\"".to_owned()),
        (listening("pin_store: { max_pins: 1000 }"), "1: pin_store.max_pins: expected 1024 to 100000000, found 1000".to_owned()),
        (listening("pin_store: { max_pins: 2000, max_pins_per_client: 2001 }"), "1: pin_store.max_pins_per_client: expected at most max_pins, which is 2000, found 2001".to_owned()),
        (listening("pin_store: { redis: {} }"), "1: pin_store.redis.url: expected the URL of a Redis or Valkey, such as redis://127.0.0.1:6379/0, found nothing".to_owned()),
        (listening("pin_store: { redis: { url: 'http://a' } }"), "1: pin_store.redis.url: expected a URL such as redis://127.0.0.1:6379/0, or rediss:// for TLS, found \"http://a\"".to_owned()),
        (listening("pin_store: { redis: { url: 'redis://app:secret@a/0' } }"), "1: pin_store.redis.url: expected a URL without a password, found one; give it in password_file".to_owned()),
        (listening("pin_store: { redis: { url: 'redis://a', lookup_timeout: 0s } }"), "1: pin_store.redis.lookup_timeout: expected a duration above 0s, found \"0s\"".to_owned()),
        (listening("trusted_proxies:\n  - ::1\n  - lan"), "3: trusted_proxies[1]: expected an IP address or network such as 127.0.0.1 or 10.0.0.0/8, or unix, found \"lan\"".to_owned()),
        (listening("trusted_proxies: ::1"), "1: trusted_proxies: expected a list, found \"::1\"".to_owned()),
        (listening("access_log: file"), "1: access_log: expected stdout or off, or a mapping, found \"file\"".to_owned()),
        (listening("access_log: { target: file }"), "1: access_log.path: expected the path of a file, because the target is file, found nothing".to_owned()),
        (listening("access_log: { path: a.log }"), "1: access_log.path: expected no path, because the target is stdout, not file, found \"a.log\"".to_owned()),
        (listening("access_log: { sample: 5 }"), "1: access_log.sample: expected 0% to 100%, found 5".to_owned()),
        (listening("admin: { token_file: t }"), "1: admin.address: expected an address to listen on, found nothing".to_owned()),
        (listening("admin: { address: '127.0.0.1:80' }"), "1: admin.address: expected an address of its own, not that of listeners[0], found \"127.0.0.1:80\"".to_owned()),
        (listening("admin: 127.0.0.1:9900"), "1: admin: expected a mapping, found \"127.0.0.1:9900\"".to_owned()),
        (file("listeners: []"), "1: listeners: expected at least one listener, found an empty list".to_owned()),
        (file("listeners:\n  - 127.0.0.1:80\n  -"), "3: listeners[1]: expected a listener, found nothing".to_owned()),
        (file("listeners:\n  - 8080"), format!("2: listeners[0]: expected {ADDRESS}, unix:/PATH or systemd:NAME, or a mapping, found 8080")),
        (file("listeners: [ 'unix:/run/a.sock', 'unix:/run/a.sock' ]"), "1: listeners[1]: expected an address of its own, not that of listeners[0], found \"unix:/run/a.sock\"".to_owned()),
        (file("listeners: [ 'unix:run/a.sock' ]"), "1: listeners[0]: expected unix: and an absolute path of at most 107 bytes, such as unix:/run/app.sock, found \"unix:run/a.sock\"".to_owned()),
        (file("listeners: [ { address: 'unix:/run/a.sock', mode: 660 } ]"), "1: listeners[0].mode: expected four octal digits such as 0660, the first of them 0, found 660".to_owned()),
        (file("listeners: [ { address: '127.0.0.1:80', mode: 0660 } ]"), "1: listeners[0].mode: expected no mode, because 127.0.0.1:80 is no path, found \"0660\"".to_owned()),
        (file("listeners: [ '127.0.0.1:81', { address: '127.0.0.1:80', proxy_protocol: optional } ]"), "1: listeners[1].proxy_protocol: expected off, because trusted_proxies names nobody who may send such a header, found \"optional\"".to_owned()),
        (file("listeners: [ { address: '127.0.0.1:80', proxy_protocol: v2 } ]"), "1: listeners[0].proxy_protocol: expected off, optional or required, found \"v2\"".to_owned()),
        (listening("user: a:b:c"), "1: user: expected the name of a user, or USER:GROUP, found \"a:b:c\"".to_owned()),
        (file("listeners:\n  - 127.0.0.1:80\n  - address: 127.0.0.1:80"), "3: listeners[1].address: expected an address of its own, not that of listeners[0], found \"127.0.0.1:80\"".to_owned()),
        (tls("certificates: []"), "1: listeners[0].tls.certificates: expected at least one certificate, found an empty list".to_owned()),
        (tls(""), "1: listeners[0].tls.certificates: expected at least one certificate, found nothing".to_owned()),
        (tls("certificates: [ { cert_file: a.pem } ]"), "1: listeners[0].tls.certificates[0].key_file: expected a PEM file with its private key, found nothing".to_owned()),
        (tls_with("min_version: 1.1"), "1: listeners[0].tls.min_version: expected 1.2 or 1.3, found 1.1".to_owned()),
        (tls_with("min_version: 1.3, cipher_suites: [ TLS_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 ]"), "1: listeners[0].tls.cipher_suites[1]: expected a cipher suite of TLS 1.3, because min_version is 1.3, found \"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\"".to_owned()),
        (tls_with("cipher_suites: [ TLS_AES_128_GCM_SHA256 ]"), "1: listeners[0].tls.cipher_suites: expected a cipher suite of TLS 1.2 (TLS_ECDHE_…) as well, or min_version: 1.3, found a list".to_owned()),
        (tls_with("session_tickets: { lifetime: 8d }"), "1: listeners[0].tls.session_tickets.lifetime: expected a duration from 1m to 7d, found \"8d\"".to_owned()),
        (tls_with("client_certificates: { mode: required }"), "1: listeners[0].tls.client_certificates.ca_file: expected a PEM file with those who may issue the clients' certificates, found nothing".to_owned()),
        (tls_with("client_certificates: { ca_file: a.pem }"), "1: listeners[0].tls.client_certificates.mode: expected off, optional or required, found nothing".to_owned()),
        (file("listeners: [ { address: '127.0.0.1:443', redirect_to_https: true, tls: { certificates: [ { cert_file: a, key_file: b } ] } } ]"), "1: listeners[0].redirect_to_https: expected no redirect to https at a listener that speaks TLS itself".to_owned()),
        (file("listeners: [ { address: '127.0.0.1:80', redirect_to_https: { status: 303 } } ]"), "1: listeners[0].redirect_to_https.status: expected 301, 302, 307 or 308, found 303".to_owned()),
        (file("listeners: [ { address: '127.0.0.1:80', hsts: { max_age: 1d, preload: true } } ]"), "1: listeners[0].hsts.preload: expected no preload without include_subdomains and a max_age of at least 365d, which the lists ask for, found true".to_owned()),
        (file("listeners: [ { address: '127.0.0.1:80', hsts: {} } ]"), "1: listeners[0].hsts.max_age: expected a duration such as 365d, found nothing".to_owned()),
        (file("listeners: [ { address: '127.0.0.1:80', head_limit: 1KiB } ]"), "1: listeners[0].head_limit: expected 8KiB to 1MiB, found \"1KiB\"".to_owned()),
        (file("listeners: [ { address: '127.0.0.1:80', http2: { max_streams: 0 } } ]"), "1: listeners[0].http2.max_streams: expected 1 to 10000, found 0".to_owned()),
        (file("listeners: [ { address: '127.0.0.1:80', http2: { stream_window: 2MiB, connection_window: 1MiB } } ]"), "1: listeners[0].http2.connection_window: expected at least the stream_window, found \"1MiB\"".to_owned()),
        (file("listeners: [ { address: '127.0.0.1:80', http2: maybe } ]"), "1: listeners[0].http2: expected on or off, or a mapping, found \"maybe\"".to_owned()),
        (file("listeners: [ { address: '127.0.0.1:80', keep_alive_timeout: 0s } ]"), "1: listeners[0].keep_alive_timeout: expected a duration above 0s, found \"0s\"".to_owned()),
        (listening("routes: [ { path_prefix: shop, pool: p } ]"), "1: routes[0].path_prefix: expected a path that begins with /, without a query, such as /shop, found \"shop\"".to_owned()),
        (listening("routes: [ {} ]"), "1: routes[0].pool: expected the name of a pool (p), found nothing".to_owned()),
        (listening("routes: [ { pool: p, affinity: on } ]"), "1: routes[0].affinity: expected off, found \"on\"".to_owned()),
        (listening("routes:\n- { host: A.com, pool: p }\n- { host: a.com., path_prefix: /, pool: p }"), "3: routes[1]: expected a host and path_prefix of its own, found those of routes[0]".to_owned()),
    ] {
        assert_eq!(problems(&text).iter().map(|line| line.trim_start_matches("app.yaml:")).collect::<Vec<_>>(), [expected], "{text}");
    }
}

#[test]
fn each_mistake_in_a_pool_is_named_with_its_place() {
    let cookie = |settings: &str| format!("affinity: {{ cookie: {{ {settings} }} }}");
    let session = |settings: &str| format!("affinity: {{ app_session: {{ {settings} }} }}");
    let hash = |settings: &str| format!("affinity: {{ hash: {{ {settings} }} }}");
    let http = |settings: &str| format!("health: {{ http: {{ {settings} }} }}");
    for (settings, expected) in [
        ("sessions: nowhere".to_owned(), "sessions: expected local, replicated, backup or external, found \"nowhere\""),
        (
            "balance: maglev".to_owned(),
            "balance: expected least_pins, least_requests, peak_ewma, round_robin, random or two_choices, because affinity is not hash, found \"maglev\"",
        ),
        (
            "balance: ring\n    affinity: off".to_owned(),
            "balance: expected least_pins, least_requests, peak_ewma, round_robin, random or two_choices, because affinity is not hash, found \"ring\"",
        ),
        (
            "balance: ketama".to_owned(),
            "balance: expected least_pins, least_requests, peak_ewma, round_robin, random, two_choices, rendezvous, maglev or ring, found \"ketama\"",
        ),
        (hash("keys: [path], bounded_load: 1"), "affinity.hash.bounded_load: expected on, off, or 1.05 to 10, found 1"),
        (
            hash("keys: [path], bounded_load: 10.5"),
            "affinity.hash.bounded_load: expected on, off, or 1.05 to 10, found 10.5",
        ),
        (
            hash("keys: [path], bounded_load: some"),
            "affinity.hash.bounded_load: expected on, off, or 1.05 to 10, found \"some\"",
        ),
        ("affinity: on".to_owned(), "affinity: expected off, or a mapping, found \"on\""),
        (
            "affinity: { app_session: {} }".to_owned(),
            "affinity.app_session: expected cookie, header, path_parameter or query_parameter, found an empty mapping",
        ),
        (
            "affinity: { app_session: }".to_owned(),
            "affinity.app_session: expected cookie, header, path_parameter or query_parameter, found nothing",
        ),
        (
            "affinity: { hash: {} }".to_owned(),
            "affinity.hash.keys: expected at least one key such as path or { header: X-User }, found nothing",
        ),
        (
            "affinity: { cookie: {}, hash: { keys: [path] } }".to_owned(),
            "affinity: expected one of cookie, app_session and hash, found cookie and hash",
        ),
        (
            "affinity: { token: {} }".to_owned(),
            "affinity.token: unknown key \"token\", expected one of cookie, app_session, hash",
        ),
        (
            session("cookie: 'a b'"),
            "affinity.app_session.cookie: expected a cookie name of 1 to 128 letters, digits and !#$%&'*+-.^_`|~, found \"a b\"",
        ),
        (
            session("header: 'a b'"),
            "affinity.app_session.header: expected the name of a header such as X-Instance, found \"a b\"",
        ),
        (
            session("path_parameter: 'a;b'"),
            "affinity.app_session.path_parameter: expected a parameter name of 1 to 64 letters, digits, -, ., _ and ~, found \"a;b\"",
        ),
        (
            session("cookie: a, home_by: cookie"),
            "affinity.app_session.home_by: expected learn, route_suffix or prefix, found \"cookie\"",
        ),
        (
            session("cookie: a, separator: '!'"),
            "affinity.app_session.separator: expected no separator, because home_by is not route_suffix, found \"!\"",
        ),
        (
            session("cookie: a, home_by: route_suffix, separator: '-'"),
            "affinity.app_session.separator: expected . or !, found \"-\"",
        ),
        (
            session("cookie: a, header: b, home_by: prefix"),
            "affinity.app_session.home_by: expected learn or route_suffix, because only the value of a cookie can get a prefix, and there are other sources, found \"prefix\"",
        ),
        (
            session("cookie: a, idle_timeout: 13h"),
            "affinity.app_session.idle_timeout: expected at most max_lifetime, which is 12h, found \"13h\"",
        ),
        (
            hash("keys: []"),
            "affinity.hash.keys: expected at least one key such as path or { header: X-User }, found an empty list",
        ),
        (hash("keys: path"), "affinity.hash.keys: expected a list, found \"path\""),
        (hash("keys: [user]"), "affinity.hash.keys[0]: expected path or client_address, or a mapping, found \"user\""),
        (
            hash("keys: [path, {}]"),
            "affinity.hash.keys[1]: expected one of header, cookie, query_parameter, client_address and jwt_claim, found none",
        ),
        (
            hash("keys: [{ header: a, cookie: b }]"),
            "affinity.hash.keys[0]: expected one of header, cookie, query_parameter, client_address and jwt_claim, found header and cookie",
        ),
        (hash("keys: [{ header: }]"), "affinity.hash.keys[0].header: expected the name of a header, found nothing"),
        (
            hash("keys: [{ client_address: { ipv4_prefix: 33 } }]"),
            "affinity.hash.keys[0].client_address.ipv4_prefix: expected 1 to 32, found 33",
        ),
        (
            hash("keys: [{ jwt_claim: '' }]"),
            "affinity.hash.keys[0].jwt_claim: expected the name of a claim such as sub, or a mapping, found \"\"",
        ),
        (
            hash("keys: [{ jwt_claim: { header: a } }]"),
            "affinity.hash.keys[0].jwt_claim.claim: expected the name of a claim such as sub, found nothing",
        ),
        (
            hash("keys: [{ jwt_claim: { claim: sub, header: a, cookie: b } }]"),
            "affinity.hash.keys[0].jwt_claim: expected either header or cookie, found both",
        ),
        (
            hash("keys: [path], without_key: fail"),
            "affinity.hash.without_key: expected balance, client_address or reject, found \"fail\"",
        ),
        ("rebalance: on".to_owned(), "rebalance: expected off, or a mapping, found \"on\""),
        ("rebalance: { when_above: 1 }".to_owned(), "rebalance.when_above: expected 1.05 to 10, found 1"),
        ("rebalance: { when_above: 10.5 }".to_owned(), "rebalance.when_above: expected 1.05 to 10, found 10.5"),
        (
            "rebalance: { pace: 5% }".to_owned(),
            "rebalance.pace: expected a share for each s, m or h such as 5%/s, 1%/m or 10%/h, found \"5%\"",
        ),
        ("drain: { pace: 0%/s }".to_owned(), "drain.pace: expected a pace above 0%/s and up to 100%/s, found \"0%/s\""),
        (
            "rehome: { gate: 5 }".to_owned(),
            "rehome.gate: expected a duration with its unit (ms, s, m, h or d) such as 500ms, 2s, 30m, 12h or 1d, found 5",
        ),
        (
            cookie("name: 'a b'"),
            "affinity.cookie.name: expected a cookie name of 1 to 128 letters, digits and !#$%&'*+-.^_`|~, found \"a b\"",
        ),
        (
            cookie("idle_timeout: 13h"),
            "affinity.cookie.idle_timeout: expected at most max_lifetime, which is 12h, found \"13h\"",
        ),
        (
            cookie("max_lifetime: 5m"),
            "affinity.cookie.max_lifetime: expected at least idle_timeout, which is 30m, found \"5m\"",
        ),
        (cookie("idle_timeout: 0s"), "affinity.cookie.idle_timeout: expected a duration above 0s, found \"0s\""),
        (
            cookie("name: __Host-x, secure: never"),
            "affinity.cookie.secure: expected always or auto, because browsers ask it of a name that begins with __Host-, found \"never\"",
        ),
        (
            cookie("name: __secure-x, secure: false"),
            "affinity.cookie.secure: expected always or auto, because browsers ask it of a name that begins with __Secure-, found false",
        ),
        (
            cookie("name: __Host-x, path: /a"),
            "affinity.cookie.path: expected /, because browsers ask it of a name that begins with __Host-, found \"/a\"",
        ),
        (
            cookie("name: __Host-x, domain: a.com"),
            "affinity.cookie.domain: expected no domain, because browsers refuse one with a name that begins with __Host-, found \"a.com\"",
        ),
        (cookie("http_only: yes"), "affinity.cookie.http_only: expected true or false, found \"yes\""),
        (
            "rehome: { on_session_lost: redirect }".to_owned(),
            "rehome.on_session_lost: expected forward, or a mapping, found \"redirect\"",
        ),
        (
            "rehome: { when_unavailable: wait }".to_owned(),
            "rehome.when_unavailable: expected rehome, detour or refuse, found \"wait\"",
        ),
        (
            "rehome: { when: { gone: wait } }".to_owned(),
            "rehome.when.gone: expected detour, rehome or refuse, found \"wait\"",
        ),
        (
            "rehome: { when: { draining: detour } }".to_owned(),
            "rehome.when.draining: expected keep or rehome, found \"detour\"",
        ),
        (
            "rebalance: {}\n    affinity: { app_session: { cookie: SID, home_by: prefix } }".to_owned(),
            "rebalance: expected off, because a session id that names its home does not tell when it was last used, found an empty mapping",
        ),
        ("health: { http: {}, tcp: {} }".to_owned(), "health: expected either http or tcp, found both"),
        ("health: { grpc: {}, tcp: {} }".to_owned(), "health: expected either tcp or grpc, found both"),
        (
            "health: { grpc: {}, tcp: {}, http: {} }".to_owned(),
            "health: expected one of http, tcp and grpc, found all of them",
        ),
        ("health: { tcp: { port: 0 } }".to_owned(), "health.tcp.port: expected 1 to 65535, found 0"),
        (
            "health: { tcp: { unhealthy_interval: 0s } }".to_owned(),
            "health.tcp.unhealthy_interval: expected a duration above 0s, found \"0s\"",
        ),
        (
            "health: { tcp: { tls: { server_name: 'a b' } } }".to_owned(),
            "health.tcp.tls.server_name: expected the name in the backend's certificate, without a port, such as shop.example.com, found \"a b\"",
        ),
        (
            "health: { grpc: { service: 'a b' } }".to_owned(),
            "health.grpc.service: expected the name of a gRPC service such as shop.v1.Carts, or nothing for the server, found \"a b\"",
        ),
        ("health: { traffic: on }".to_owned(), "health.traffic: expected off, or a mapping, found \"on\""),
        (
            "health: { traffic: { window: 500ms } }".to_owned(),
            "health.traffic.window: expected 1s to 10m, found \"500ms\"",
        ),
        ("health: { traffic: { clients: 1 } }".to_owned(), "health.traffic.clients: expected 2 to 16, found 1"),
        ("health: { traffic: { slow: 1.1 } }".to_owned(), "health.traffic.slow: expected 1.5 to 100, or 0, found 1.1"),
        (
            "health: { traffic: { max_out: 200% } }".to_owned(),
            "health.traffic.max_out: expected 0% to 100%, found \"200%\"",
        ),
        (http("agent: {}"), "health.http.agent: expected the name of a header, or body: true"),
        (
            http("agent: { header: X-Load, body: true }"),
            "health.http.agent: expected either header or body, found both",
        ),
        (
            http("method: HEAD, agent: { body: true }"),
            "health.http.agent: expected none with method HEAD, whose replies have no body",
        ),
        (
            http("method: HEAD, expected_body: ok"),
            "health.http.expected_body: expected none with method HEAD, whose replies have no body",
        ),
        (
            http("expected_body: ok, agent: { body: true }"),
            "health.http.expected_body: expected none where the body is the agent's",
        ),
        (
            http("expected_body: ''"),
            "health.http.expected_body: expected 1 to 1024 bytes of text, in quotes if it is a number, found \"\"",
        ),
        (http("headers: { 'a b': c }"), "health.http.headers.\"a b\": expected the name of a header, found \"a b\""),
        (
            http("headers: { Host: c }"),
            "health.http.headers.Host: expected another header, this one is not free to set; the key for it is host",
        ),
        (http("headers: { X-A: a, x-a: b }"), "health.http.headers.x-a: expected each header once"),
        (http("headers: { X-A: }"), "health.http.headers.X-A: expected the value of the header, found nothing"),
        (
            http("headers: { X-A: 5 }"),
            "health.http.headers.X-A: expected the value of a header, in quotes if it is a number, found 5",
        ),
        ("health: on".to_owned(), "health: expected off, or a mapping, found \"on\""),
        (
            "health: { tcp: { suspect_interval: 3s } }".to_owned(),
            "health.tcp.suspect_interval: expected at most interval, which is 2s, found \"3s\"",
        ),
        (
            http("expected_status: 99"),
            "health.http.expected_status: expected status codes from 100 to 599 such as 200, 200-399 or 2xx, or a list, found 99",
        ),
        (
            http("expected_status: []"),
            "health.http.expected_status: expected at least one status code, found an empty list",
        ),
        (
            http("expected_status: [200, ok]"),
            "health.http.expected_status[1]: expected status codes from 100 to 599 such as 200, 200-399 or 2xx, found \"ok\"",
        ),
        (http("method: POST"), "health.http.method: expected GET, HEAD or OPTIONS, found \"POST\""),
        (
            http("path: health"),
            "health.http.path: expected a path that begins with /, such as /health, found \"health\"",
        ),
        (http("healthy_after: 0"), "health.http.healthy_after: expected 1 to 1000, found 0"),
        (http("timeout: 0s"), "health.http.timeout: expected a duration above 0s, found \"0s\""),
        ("retry: { attempts: 11 }".to_owned(), "retry.attempts: expected 0 to 10, found 11"),
        (
            "retry: { body_limit: 64 }".to_owned(),
            "retry.body_limit: expected a size with its unit (B, KiB, MiB, KB or MB) such as 512B, 64KiB or 1MiB, found 64",
        ),
        (
            "retry: { retry_on: [connect, 500] }".to_owned(),
            "retry.retry_on[1]: expected connect, reset_before_reply, 502, 503 or 504, found 500",
        ),
        (
            "retry: { hedge_after: p95 }".to_owned(),
            "retry.hedge_after: expected off, because only where all backends share a store (sessions: external) may two \
             serve one request, found \"p95\"",
        ),
        (
            "retry: { hedge_after: p100 }".to_owned(),
            "retry.hedge_after: expected off, a percentile from p50 to p99, or a duration such as 200ms, found \"p100\"",
        ),
        ("timeouts: { attempt: 0s }".to_owned(), "timeouts.attempt: expected a duration above 0s, found \"0s\""),
        ("retry: { budget: 200% }".to_owned(), "retry.budget: expected 0% to 100%, found \"200%\""),
        ("panic_below: 30".to_owned(), "panic_below: expected 0% to 100%, found 30"),
        ("panic_below: 101%".to_owned(), "panic_below: expected 0% to 100%, found \"101%\""),
        (
            "slow_start: 30".to_owned(),
            "slow_start: expected a duration with its unit (ms, s, m, h or d) such as 500ms, 2s, 30m, 12h or 1d, found 30",
        ),
        ("timeouts: { connect: 0s }".to_owned(), "timeouts.connect: expected a duration above 0s, found \"0s\""),
        (
            "timeouts: { first_bite: 1s }".to_owned(),
            "timeouts.first_bite: unknown key \"first_bite\", did you mean \"first_byte\"?",
        ),
    ] {
        assert_eq!(problems(&pool_with(&settings)), [format!("app.yaml:5: pools.p.{expected}")], "{settings}");
    }
}

#[test]
fn each_mistake_in_backends_is_named_with_its_place() {
    for (backends, expected) in [
        ("    backends: []", "4: pools.p.backends: expected at least one backend, found an empty list"),
        ("    sessions: local", "3: pools.p.backends: expected at least one backend, found nothing"),
        (
            "    backends:\n    - 127.0.0.1:1\n    - 127.0.0.1:1",
            "6: pools.p.backends[1]: expected an address of its own, not that of backends[0], found \"127.0.0.1:1\"",
        ),
        (
            "    backends:\n    - name: a\n      address: 127.0.0.1:1\n    - name: a\n      address: 127.0.0.1:2",
            "7: pools.p.backends[1].name: expected a name of its own, not that of backends[0], found \"a\"",
        ),
        (
            "    backends:\n    - { name: '127.0.0.1:2', address: '127.0.0.1:1' }\n    - 127.0.0.1:2",
            "6: pools.p.backends[1]: expected a name of its own, not that of backends[0], found \"127.0.0.1:2\"",
        ),
        (
            "    backends:\n    - { name: a/b, address: '127.0.0.1:1' }",
            "5: pools.p.backends[0].name: expected a name of 1 to 64 visible ASCII characters without /, found \"a/b\"",
        ),
        (
            "    backends:\n    - { name: a }",
            "5: pools.p.backends[0].address: expected the IP address and port of the backend, found nothing",
        ),
        (
            "    backends:\n    - 127.0.0.1:0",
            "5: pools.p.backends[0]: expected a port from 1 to 65535, found \"127.0.0.1:0\"",
        ),
        (
            "    backends:\n    - { address: '127.0.0.1:1', tier: 16 }",
            "5: pools.p.backends[0].tier: expected 0 to 15, found 16",
        ),
        (
            "    backends:\n    - { address: '127.0.0.1:1', max_pins: 0 }",
            "5: pools.p.backends[0].max_pins: expected 1 to 100000000, found 0",
        ),
        (
            "    backends:\n    - { address: '127.0.0.1:1', max_requests: 0 }",
            "5: pools.p.backends[0].max_requests: expected 1 to 10000000, found 0",
        ),
        (
            "    max_connections: 10000001\n    backends:\n    - 127.0.0.1:1",
            "4: pools.p.max_connections: expected 1 to 10000000, found 10000001",
        ),
        (
            "    queue: { length: 100001 }\n    backends:\n    - 127.0.0.1:1",
            "4: pools.p.queue.length: expected 0 to 100000, found 100001",
        ),
        (
            "    backends:\n    - { name: a, address: '127.0.0.1:1' }\n    - { name: b, address: '127.0.0.1:2', route: a }",
            "6: pools.p.backends[1].route: expected a route of its own, not that of backends[0], found \"a\"",
        ),
        (
            "    backends:\n    - { name: a, address: '127.0.0.1:1', route: b }\n    - { name: b, address: '127.0.0.1:2' }",
            "6: pools.p.backends[1].name: expected a route of its own, not that of backends[0], found \"b\"",
        ),
        (
            "    affinity: { app_session: { cookie: a, home_by: route_suffix } }\n    backends:\n    - 127.0.0.1:1",
            "6: pools.p.backends[0]: expected a name or route without ., which stands between the session id and the route, found \"127.0.0.1:1\"",
        ),
        (
            "    affinity: { app_session: { cookie: a, home_by: route_suffix, separator: '!' } }\n    backends:\n    - { address: '127.0.0.1:1', route: a!b }",
            "6: pools.p.backends[0].route: expected a name or route without !, which stands between the session id and the route, found \"a!b\"",
        ),
        (
            "    affinity: { app_session: { cookie: a, home_by: prefix } }\n    backends:\n    - { name: a~b, address: '127.0.0.1:1' }",
            "6: pools.p.backends[0].name: expected a name without ~ ; , \" and \\, because it stands in the value of the app's cookie, found \"a~b\"",
        ),
        (
            "    backends:\n    - { address: '127.0.0.1:1', weight: 0 }",
            "4: pools.p.backends: expected at least one backend with a weight above 0, found none; a new client would have no home",
        ),
    ] {
        let text = format!("listeners: ['127.0.0.1:80']\npools:\n  p:\n{backends}\n");
        assert_eq!(problems(&text), [format!("app.yaml:{expected}")]);
    }
}

#[test]
fn pools_and_routes_must_fit_together() {
    let text = "listeners: ['127.0.0.1:80']\npools:\n  a: { backends: ['127.0.0.1:1'] }\n  b c: { backends: ['127.0.0.1:1'] }\n";
    assert_eq!(
        problems(text),
        [
            "app.yaml:4: pools.\"b c\": expected a name of 1 to 64 letters, digits, _, . and -, found \"b c\"",
            "app.yaml: routes: expected at least one route, because there are several pools (a, b c), found nothing",
        ]
    );
    // What cannot be read is reported once: the route that names the pool is not to blame.
    let text = "listeners: ['127.0.0.1:80']\nroutes: [ { pool: a } ]\npools: { a: 5 }\n";
    assert_eq!(problems(text), ["app.yaml:3: pools.a: expected a mapping, found 5"]);
    let text = "listeners: ['127.0.0.1:80']\nroutes: [ { pool: a } ]\npools: 5\n";
    assert_eq!(problems(text), ["app.yaml:3: pools: expected a mapping, found 5"]);
}

#[test]
fn the_value_of_a_misspelt_key_is_checked_too() {
    let text = pool_with("retries: { attempts: many }");
    assert_eq!(
        problems(&text),
        [
            "app.yaml:5: pools.p.retries: unknown key \"retries\", did you mean \"retry\"?",
            "app.yaml:5: pools.p.retries.attempts: expected 0 to 10, found \"many\"",
        ]
    );
}

#[test]
fn a_repeated_key_and_broken_yaml_are_problems_with_a_line() {
    assert_eq!(
        problems(&pool_with("sessions: local\n    sessions: backup")),
        ["app.yaml:6: pools.p.sessions: expected each key once, found \"sessions\" again"]
    );
    let broken = problems("listeners:\n  - [127.0.0.1:80\npools: }\n");
    assert_eq!(broken.len(), 1);
    assert!(broken[0].starts_with("app.yaml:3: expected valid YAML, found: "), "{}", broken[0]);
}

#[test]
fn ten_thousand_mistakes_are_all_reported_in_reasonable_time() {
    let backends: String = (0..10_000).map(|n| format!("      - {{ name: a/{n}, wait: 5, weight: -1 }}\n")).collect();
    let text = format!("listeners: ['127.0.0.1:80']\npools:\n  p:\n    backends:\n{backends}");
    assert_eq!(problems(&text).len(), 40_000);
}

#[test]
fn the_schema_names_keys_bounds_and_words() {
    let schema = schema();
    let weight = schema.pointer("/$defs/Backend/properties/weight").unwrap();
    assert_eq!((&weight["minimum"], &weight["maximum"]), (&0.into(), &1000.into()));
    assert!(weight["description"].as_str().unwrap().contains("pinned clients only"));
    let sessions = schema.pointer("/$defs/Pool/properties/sessions/enum").unwrap();
    assert_eq!(sessions, &serde_json::json!(["local", "replicated", "backup", "external", null]));
    assert_eq!(schema["additionalProperties"], false);
    assert!(schema.pointer("/$defs/Pool/required").is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC*") {
        // Only that it returns.
        let _ = Config::parse("app.yaml", &text);
    }

    #[test]
    fn no_yaml_like_text_makes_it_panic(text in "([a-c:*&!\\[\\]{},\\-#|>'\" \n0-9.%~]|pools|listeners|backends|<<|---|!!int){0,80}") {
        let _ = Config::parse("app.yaml", &text);
    }

    #[test]
    fn no_mutation_of_the_reference_makes_it_panic(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0..40_usize, "\\PC{0,4}|[a-z0-9:\\[\\]{},\\- \n&*!]{0,8}"), 1..6),
    ) {
        let mut chars: Vec<char> = REFERENCE.chars().collect();
        for (place, length, text) in cuts {
            let start = place.index(chars.len());
            let end = (start + length).min(chars.len());
            chars.splice(start..end, text.chars());
            chars.push('\n');
        }
        let text: String = chars.into_iter().collect();
        if let Err(problems) = Config::parse("app.yaml", &text) {
            prop_assert!(!problems.list.is_empty());
        }
    }
}

#[test]
fn a_bound_of_clients_has_no_place_where_a_key_decides() {
    let text = "listeners: [127.0.0.1:0]\npools:\n  p:\n    affinity: { hash: { keys: [path] } }\n    backends:\n      \
                - { name: a, address: 127.0.0.1:1, max_pins: 5 }";
    let problems = Config::parse("app.yaml", text).unwrap_err().to_string();
    assert!(
        problems.contains("expected no max_pins, because a key decides where a request goes; a has one"),
        "{problems}"
    );
}

#[test]
fn backends_may_come_from_elsewhere_with_a_list_or_without() {
    let from = |text: &str| {
        let text = format!("listeners: ['127.0.0.1:80']\npools:\n  p: {{ {text} }}\n");
        let pool = parse(&text).pools.remove(0);
        (pool.backends.len(), pool.backends_from)
    };
    assert_eq!(from("backends_from: api"), (0, BackendsFrom::default()));
    assert_eq!(from("backends: ['127.0.0.1:1'], backends_from: api"), (1, BackendsFrom::default()));
    let (count, both) = from("backends_from: { dns: { name: App.example, port: 80 }, file: b.yaml }");
    let dns = DnsSource {
        name: "app.example".into(),
        record: DnsRecord::Addresses { ipv4: true, ipv6: false, port: 80 },
        refresh: DnsRefresh::Every(Duration::from_secs(30)),
        timeout: Duration::from_secs(5),
        remove_after: 2,
        servers: Vec::new(),
    };
    assert_eq!((count, both), (0, BackendsFrom { dns: Some(dns), file: Some("b.yaml".into()) }));
    let (_, srv) = from(
        "backends_from: { dns: { name: _http._tcp.app, record: srv, refresh: ttl, timeout: 1s, remove_after: 1, \
         servers: [10.0.0.2, '127.0.0.1:5353'] } }",
    );
    let srv = srv.dns.unwrap();
    assert_eq!((srv.record, srv.refresh, srv.remove_after), (DnsRecord::Srv, DnsRefresh::Ttl, 1));
    assert_eq!(srv.servers, ["10.0.0.2:53".parse().unwrap(), "127.0.0.1:5353".parse().unwrap()]);
}

#[test]
fn what_is_wrong_with_a_source_of_backends_is_said() {
    for (text, expected) in [
        ("backends_from: dns", "app.yaml:3: pools.p.backends_from: expected api, or a mapping, found \"dns\""),
        (
            "backends_from: {}",
            "pools.p.backends_from: expected dns, file or both; or the word api, found an empty mapping",
        ),
        (
            "backends_from: { dns: { port: 80 } }",
            "pools.p.backends_from.dns.name: expected the name to look up, found noth",
        ),
        (
            "backends_from: { dns: { name: app } }",
            "pools.p.backends_from.dns.port: expected the port of the backends, found",
        ),
        ("backends_from: { dns: { name: app, port: 0 } }", "dns.port: expected 1 to 65535, found 0"),
        (
            "backends_from: { dns: { name: 10.0.0.1, port: 80 } }",
            "dns.name: expected a name to look up; an IP address goes",
        ),
        (
            "backends_from: { dns: { name: app, port: 80, record: srv } }",
            "dns.port: expected no port, because SRV records",
        ),
        (
            "backends_from: { dns: { name: app, port: 80, record: mx } }",
            "dns.record: expected a, aaaa, both or srv, found",
        ),
        (
            "backends_from: { dns: { name: app, port: 80, refresh: 1ms } }",
            "dns.refresh: expected ttl, or a duration of at",
        ),
        (
            "backends_from: { dns: { name: app, port: 80, servers: [dns] } }",
            "dns.servers[0]: expected the IP address of a",
        ),
        (
            "backends_from: { dns: { name: app, port: 80, remove_after: 0 } }",
            "dns.remove_after: expected 1 to 100, found 0",
        ),
        ("backends_from: { file: '' }", "pools.p.backends_from.file: expected the path of a file or folder"),
        ("backends_from: { fil: b.yaml }", "pools.p.backends_from.fil: unknown key \"fil\", did you mean \"file\"?"),
        (
            "affinity: { app_session: { cookie: sid, home_by: route_suffix } }, backends_from: { dns: { name: a, port: 1 } }",
            "backends_from.dns: expected no dns, because the app cannot know its address as its route",
        ),
    ] {
        let problems = problems(&format!("listeners: ['127.0.0.1:80']\npools:\n  p: {{ {text} }}\n"));
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{text}: {problems:?}");
    }
}

#[test]
fn a_list_of_backends_is_read_like_the_one_in_the_file() {
    let list = |text: &str| parse_backends("b.yaml", text, &Affinity::Off, Source::WatchedFile);
    let read = list("- 127.0.0.1:1\n- { name: b, address: 127.0.0.1:2, weight: 0 }\n").unwrap();
    assert_eq!(read.iter().map(|it| &*it.name).collect::<Vec<_>>(), ["127.0.0.1:1", "b"]);
    assert!(read.iter().all(|it| it.source == Source::WatchedFile));
    let json = "[\n\t{\"name\":\"b\",\"address\":\"127.0.0.1:2\",\"weight\":0}\n]\n";
    assert_eq!(list(json).unwrap(), read[1..]);
    assert_eq!(list("[]").unwrap(), [], "nobody, in so many words");
    for (text, expected) in [
        ("", "b.yaml: expected a list of backends, found an empty file"),
        ("# nothing yet\n", "b.yaml: expected a list of backends, found an empty file"),
        ("backends: []", "b.yaml: expected a list, found a mapping"),
        (
            "- 127.0.0.1:1\n- 127.0.0.1:1",
            "b.yaml:2: [1]: expected an address of its own, not that of [0], found \"127.0.0.1:1\"",
        ),
        (
            "- 127.0.0.1:1\n- { address: 127.0.0.1:2, weight: 5000 }",
            "b.yaml:2: [1].weight: expected 0 to 1000, found 5000",
        ),
        ("- app.example:80", "b.yaml:1: [0]: expected an IP address and port"),
        ("- {", "b.yaml:"),
    ] {
        let problems = list(text).unwrap_err().to_string();
        assert!(problems.starts_with(expected), "{text:?}: {problems}");
    }
    let one = |text: &str| parse_backend(text, &Affinity::Off, Source::Api).map_err(|problems| problems[0].to_string());
    assert_eq!(one("{\"address\":\"127.0.0.1:1\"}").unwrap().source, Source::Api);
    for (text, expected) in [
        ("{}", "address: expected the IP address and port of the backend, found nothing"),
        ("[]", "expected a mapping, found an empty list"),
        ("null", "expected a mapping, found nothing"),
        ("\"127.0.0.1:1\"", "expected a mapping, found \"127.0.0.1:1\""),
        ("{\"address\":\"127.0.0.1:1\",\"weigth\":1}", "weigth: unknown key \"weigth\", did you mean \"weight\"?"),
        ("{\"address\":\"127.0.0.1:1\",\"address\":\"127.0.0.1:1\"}", "address: expected each key once"),
        ("{\"address\":\"127.0.0.1:1\",\"source\":\"file\"}", "source: unknown key"),
    ] {
        let problem = one(text).unwrap_err();
        assert!(problem.starts_with(expected), "{text}: {problem}");
    }
}
