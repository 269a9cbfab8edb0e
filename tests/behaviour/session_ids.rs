//! The session app's ids on the wire: what tests of `app_session` affinity believe of them.

use http::Request;

use crate::support::session_app::COOKIE;
use crate::support::{BackendProcess, Client, Reply};

#[tokio::test]
async fn a_server_appends_its_name_and_corrects_the_id_of_a_session_it_takes_over() {
    let arguments = ["--sessions", "replicated", "--route", "{name}", "--session-cookie", "JSESSIONID"];
    let [one, two] = BackendProcess::cluster(["one", "two"], &arguments);
    let mut client = Client::new(one.address());
    client.post("/login?user=ann", "").await.unwrap();
    let id = client.cookies.value("JSESSIONID").unwrap().to_owned();
    let bare = id.strip_suffix(".one").unwrap();
    assert_eq!(client.get("/whoami").await.unwrap().header("set-cookie"), "", "it is right");

    let mut elsewhere = Client::new(two.address());
    elsewhere.cookies = client.cookies.clone();
    let reply = elsewhere.get("/whoami").await.unwrap();
    assert_eq!(reply.field("user"), "ann");
    assert_eq!(reply.header("set-cookie"), format!("JSESSIONID={bare}.two; Path=/; HttpOnly; SameSite=Lax"));
    elsewhere.cookies.set("JSESSIONID", "none.one");
    let reply = elsewhere.get("/whoami").await.unwrap();
    assert_eq!((reply.field("session").as_str(), reply.header("set-cookie")), ("unknown", ""));
}

#[tokio::test]
async fn an_id_can_name_the_server_that_has_the_copy_too() {
    let arguments = ["--sessions", "backup", "--route", "{name}", "--route-separator", "!"];
    let [one, two] = BackendProcess::cluster(["one", "two"], &arguments);
    let mut client = Client::new(one.address());
    client.post("/login?user=ann", "").await.unwrap();
    let bare = client.cookies.value(COOKIE).unwrap().strip_suffix("!one!NONE").unwrap().to_owned();
    let ask = || Request::get("/whoami").header("Stickpin-Heir", "two").body("".into()).unwrap();
    client.send(ask()).await.unwrap();
    assert_eq!(client.cookies.value(COOKIE), Some(&*format!("{bare}!one!two")));
    assert_eq!(client.send(ask()).await.unwrap().header("set-cookie"), "", "it is right");

    let mut elsewhere = Client::new(two.address());
    elsewhere.cookies = client.cookies.clone();
    assert_eq!(elsewhere.get("/whoami").await.unwrap().field("user"), "ann");
    assert_eq!(elsewhere.cookies.value(COOKIE), Some(&*format!("{bare}!two!NONE")));
}

#[tokio::test]
async fn an_id_can_come_and_go_in_a_header() {
    let server = BackendProcess::start_with("one", &["--session-header", "Mcp-Session-Id", "--route", "one"]);
    let mut client = Client::new(server.address());
    let login = client.post("/login?user=ann", "").await.unwrap();
    let id = login.header("mcp-session-id");
    assert!(id.ends_with(".one"), "{id}");
    assert_eq!(login.header("set-cookie"), "");
    assert_eq!(client.get("/whoami").await.unwrap().field("session"), "none");
    let with_id = |method: &str, path: &str| {
        Request::builder().method(method).uri(path).header("Mcp-Session-Id", id).body("".into()).unwrap()
    };
    assert_eq!(client.send(with_id("GET", "/whoami")).await.unwrap().field("user"), "ann");

    let logout = client.send(with_id("POST", "/logout")).await.unwrap();
    assert_eq!((logout.header("stickpin-pin"), logout.header("set-cookie")), ("release", ""));
    assert_eq!(client.send(with_id("GET", "/whoami")).await.unwrap().field("session"), "unknown");
}

#[tokio::test]
async fn an_id_can_come_in_the_path_or_the_query() {
    let server = BackendProcess::start_with("one", &["--route", "one"]);
    let mut browser = Client::new(server.address());
    browser.post("/login?user=ann", "").await.unwrap();
    let id = browser.cookies.value(COOKIE).unwrap();
    let bare = id.strip_suffix(".one").unwrap();
    let mut client = Client::new(server.address());
    for path in [format!("/whoami;jsessionid={id}"), format!("/whoami?sid={id}"), format!("/whoami?a=b&sid={bare}.two")]
    {
        assert_eq!(client.get(&path).await.unwrap().field("user"), "ann", "{path}");
    }
    assert_eq!(client.cookies.value(COOKIE), Some(id), "the last one was wrong, and corrected");
}

#[tokio::test]
async fn a_logout_ends_the_session_and_takes_the_cookie_back() {
    let server = BackendProcess::start("one");
    let mut client = Client::new(server.address());
    client.post("/login?user=ann", "").await.unwrap();
    let stolen = client.cookies.clone();
    let is_released = |reply: &Reply| reply.status == 200 && reply.header("stickpin-pin") == "release";
    let logout = client.post("/logout", "").await.unwrap();
    assert!(is_released(&logout), "{logout:?}");
    assert_eq!(logout.header("set-cookie"), format!("{COOKIE}=; Path=/; Max-Age=0"));
    assert_eq!(client.get("/whoami").await.unwrap().field("session"), "none");
    assert!(is_released(&client.post("/logout", "").await.unwrap()), "there is nothing to end, which is no mistake");
    client.cookies = stolen;
    assert_eq!(client.get("/whoami").await.unwrap().field("session"), "unknown");
}

#[tokio::test]
async fn without_its_store_a_server_says_so() {
    // Port 1 refuses.
    let server = BackendProcess::start_with("one", &["--sessions", "external", "--redis", "redis://127.0.0.1:1/"]);
    let mut client = Client::new(server.address());
    assert_eq!(client.get("/whoami").await.unwrap().field("session"), "none", "no session, no question");
    let login = client.post("/login?user=ann", "").await.unwrap();
    client.cookies.set(COOKIE, "0123456789abcdef");
    let who = client.get("/whoami").await.unwrap();
    for reply in [login, who] {
        let told = (reply.status.as_u16(), reply.field("error"), reply.served_by());
        assert_eq!(told, (503, "the session store does not answer".into(), "one".into()));
    }
    assert_eq!(client.get("/health").await.unwrap().status, 200);
}
