//! Session ids on the wire: where a request carries one, what a server appends to it, how a reply sets it.

use clap::ValueEnum;
use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::parameters::parameter;

/// The app's own session cookie, unless another is named.
pub const COOKIE: &str = "APPSESSION";

/// The path parameter that Java servers put the id into for clients without cookies.
const PATH_PARAMETER: &str = ";jsessionid=";

/// The query parameter of the same use.
const QUERY_PARAMETER: &str = "sid";

/// What WebLogic writes for a session without a copy.
const NO_HEIR: &str = "NONE";

/// How the ids of one server travel.
#[derive(Clone, Debug)]
pub struct Ids {
    /// What they come and go in.
    pub carrier: Carrier,
    /// What is appended to them; `None` for nothing.
    pub route: Option<Route>,
}

/// What ids come and go in. A path or query parameter is read besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A cookie of this name.
    Cookie(String),
    /// A header of this name, as MCP does it; no cookie then.
    Header(HeaderName),
}

/// The server's name, appended to the ids it issues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The name.
    pub name: String,
    /// What stands before it.
    pub separator: Separator,
}

/// What stands between the parts of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Separator {
    /// `BARE.NAME`, as Tomcat does it.
    #[value(name = ".")]
    Dot,
    /// `BARE!NAME!HEIR`, as WebLogic does it; `NONE` where no other server has a copy.
    #[value(name = "!")]
    Bang,
}

/// An id as it travels. Sessions are looked up by its [bare](SessionId::bare) part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionId(String);

impl Default for Ids {
    fn default() -> Self {
        Self { carrier: Carrier::Cookie(COOKIE.to_owned()), route: None }
    }
}

impl Ids {
    /// The id that a request carries. `path_id` is what [`split_path`] found.
    pub fn find(&self, headers: &HeaderMap, path_id: Option<&str>, query: &str) -> Option<SessionId> {
        let carried = match &self.carrier {
            Carrier::Cookie(name) => cookie(headers, name),
            Carrier::Header(name) => headers.get(name).and_then(|value| value.to_str().ok()),
        };
        let id = carried.or(path_id).map(str::to_owned).or_else(|| parameter(query, QUERY_PARAMETER))?;
        (!id.is_empty()).then_some(SessionId(id))
    }

    /// The id of a session that is here now, and has a copy at `heir`.
    pub fn issue(&self, bare: &str, heir: Option<&str>) -> SessionId {
        SessionId(match &self.route {
            None => bare.to_owned(),
            Some(Route { name, separator: Separator::Dot }) => format!("{bare}.{name}"),
            Some(Route { name, separator: Separator::Bang }) => {
                format!("{bare}!{name}!{}", heir.unwrap_or(NO_HEIR))
            }
        })
    }

    /// The id to give to a client whose own names another server or heir; `None` when its own is right.
    pub fn reissue(&self, presented: &SessionId, heir: Option<&str>) -> Option<SessionId> {
        // A server without a name to append has nothing to correct.
        self.route.as_ref()?;
        let right = self.issue(presented.bare(), heir);
        (right != *presented).then_some(right)
    }

    /// The header of a reply that gives the client its id.
    pub fn set(&self, SessionId(id): &SessionId) -> (HeaderName, HeaderValue) {
        match &self.carrier {
            Carrier::Cookie(cookie) => (SET_COOKIE, value(format!("{cookie}={id}; Path=/; HttpOnly; SameSite=Lax"))),
            Carrier::Header(name) => (name.clone(), value(id.clone())),
        }
    }

    /// The header of a reply that takes the id away from the client; only a cookie can be taken.
    pub fn clear(&self) -> Option<(HeaderName, HeaderValue)> {
        match &self.carrier {
            Carrier::Cookie(cookie) => Some((SET_COOKIE, value(format!("{cookie}=; Path=/; Max-Age=0")))),
            Carrier::Header(_) => None,
        }
    }
}

impl SessionId {
    /// Without what servers append. An id never contains a separator itself: it is hexadecimal.
    pub fn bare(&self) -> &str {
        self.0.split(['.', '!']).next().unwrap_or_default()
    }
}

/// The path without the id that stands in it as a parameter, and that id.
pub fn split_path(uri: &Uri) -> (String, Option<String>) {
    let path = uri.path();
    let Some((before, rest)) = path.split_once(PATH_PARAMETER) else { return (path.to_owned(), None) };
    let (id, after) = rest.split_at(rest.find(['/', ';']).unwrap_or(rest.len()));
    (format!("{before}{after}"), Some(id.to_owned()))
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let values = headers.get_all("cookie").iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(known, _)| *known == name).map(|(_, value)| value)
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("only ids that a header carried are set, and names that were checked")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_in_the_path_is_taken_out_of_it() {
        for (uri, path, id) in [
            ("/whoami", "/whoami", None),
            ("/whoami;jsessionid=ab.one", "/whoami", Some("ab.one")),
            ("/whoami;jsessionid=ab?user=ann", "/whoami", Some("ab")),
            ("/who;jsessionid=ab;v=1/ami", "/who;v=1/ami", Some("ab")),
            ("/who;jsessionid=/ami", "/who/ami", Some("")),
            ("/whoami;v=1", "/whoami;v=1", None),
        ] {
            assert_eq!(split_path(&uri.parse().unwrap()), (path.to_owned(), id.map(str::to_owned)), "{uri}");
        }
    }

    #[test]
    fn an_id_is_found_in_its_carrier_then_in_the_path_then_in_the_query() {
        let mut headers = HeaderMap::new();
        headers.insert("cookie", HeaderValue::from_static("a=1; APPSESSION=cookie; b=2"));
        headers.insert("mcp-session-id", HeaderValue::from_static("header"));
        let by_cookie = Ids::default();
        let by_header = Ids { carrier: Carrier::Header(HeaderName::from_static("mcp-session-id")), route: None };
        let none = HeaderMap::new();
        for (ids, headers, path_id, query, expected) in [
            (&by_cookie, &headers, Some("path"), "sid=query", Some("cookie")),
            (&by_header, &headers, Some("path"), "sid=query", Some("header")),
            (&by_cookie, &none, Some("path"), "sid=query", Some("path")),
            (&by_header, &none, None, "a=b&sid=query", Some("query")),
            (&by_cookie, &none, None, "sid=", None),
            (&by_cookie, &none, None, "", None),
        ] {
            let found = ids.find(headers, path_id, query).map(|SessionId(id)| id);
            assert_eq!(found.as_deref(), expected, "{:?} {path_id:?} {query}", ids.carrier);
        }
    }

    #[test]
    fn a_server_appends_its_own_name_and_corrects_another() {
        let dot = Ids { route: Some(Route { name: "one".to_owned(), separator: Separator::Dot }), ..Ids::default() };
        let bang = Ids { route: Some(Route { name: "one".to_owned(), separator: Separator::Bang }), ..Ids::default() };
        for (ids, heir, presented, expected) in [
            (&Ids::default(), None, "ab.two", None),
            (&dot, None, "ab.one", None),
            (&dot, None, "ab.two", Some("ab.one")),
            (&dot, Some("two"), "ab", Some("ab.one")),
            (&bang, Some("two"), "ab!one!two", None),
            (&bang, Some("two"), "ab!two!one", Some("ab!one!two")),
            (&bang, None, "ab!one!two", Some("ab!one!NONE")),
        ] {
            let again = ids.reissue(&SessionId(presented.to_owned()), heir);
            assert_eq!(again, expected.map(|id| SessionId(id.to_owned())), "{presented} {heir:?}");
        }
    }
}
