//! What a session id says about its home: the route that the app appended, or the name that Stickpin put in front.

/// The longest name of a backend.
const LONGEST_NAME: usize = 64;

/// The backends that a session id names, by the names the app has for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Routes<'a> {
    /// The one that holds the session.
    pub home: Option<&'a str>,
    /// The one that holds the copy.
    pub heir: Option<&'a str>,
}

/// Splits a session id into the id itself and its routes.
///
/// With `!` they are all that follows the first one: `ID!home!heir`, where the heir may be `NONE` and whatever follows it
/// is ignored (WebLogic). With any other separator there is one route, after the last one: `ID.home` (Tomcat and most
/// others). What could not be a backend's name is no route, yet no part of the id either: the app may give the same
/// session another route later.
pub fn split_route(id: &[u8], separator: char) -> (&[u8], Routes<'_>) {
    // Separators are ASCII; for any other no byte of the id is one.
    let separator = u8::try_from(separator).ok().filter(u8::is_ascii);
    if separator == Some(b'!') {
        let mut parts = id.split(|byte| *byte == b'!');
        let bare = parts.next().unwrap_or_default();
        let home = parts.next().and_then(backend_name);
        let heir = parts.next().and_then(backend_name).filter(|name| *name != "NONE");
        return (bare, Routes { home, heir });
    }
    match separator.and_then(|separator| memchr::memrchr(separator, id)) {
        Some(end) => (&id[..end], Routes { home: backend_name(&id[end + 1..]), heir: None }),
        None => (id, Routes::default()),
    }
}

/// Splits the value of a cookie that Stickpin put a name in front of: `app1~VALUE`.
///
/// `None` when there is no name that a backend could have. A value of the app's own that looks like that is taken for one,
/// so every value has to be given its prefix, also one that has a `~` already.
pub fn split_prefix(value: &[u8]) -> Option<(&str, &[u8])> {
    let end = memchr::memchr(b'~', &value[..value.len().min(LONGEST_NAME + 1)])?;
    Some((backend_name(&value[..end])?, &value[end + 1..]))
}

/// The same bytes that the configuration accepts as a name.
fn backend_name(bytes: &[u8]) -> Option<&str> {
    let allowed = |byte: &u8| byte.is_ascii_graphic() && *byte != b'/';
    let is_name = (1..=LONGEST_NAME).contains(&bytes.len()) && bytes.iter().all(allowed);
    if is_name { str::from_utf8(bytes).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_route_stands_after_the_last_separator() {
        type Row<'a> = (&'a [u8], char, &'a [u8], Option<&'a str>);
        let long = format!("ID.{}", "x".repeat(65));
        let table: &[Row<'_>] = &[
            (b"ABC.app1", '.', b"ABC", Some("app1")),
            (b"A.B.C.app1", '.', b"A.B.C", Some("app1")),
            (b"ABC", '.', b"ABC", None),
            (b"ABC.", '.', b"ABC", None),
            (b".app1", '.', b"", Some("app1")),
            (b".", '.', b"", None),
            (b"", '.', b"", None),
            (b"ABC.a b", '.', b"ABC", None),
            (b"ABC.a/b", '.', b"ABC", None),
            (b"ABC.\xff", '.', b"ABC", None),
            (b"\xff\xfe.app1", '.', b"\xff\xfe", Some("app1")),
            (b"ABC!app1", '.', b"ABC!app1", None),
            (b"ABC-app1", '-', b"ABC", Some("app1")),
            (b"ABC\xc3\xa9app1", '\u{e9}', b"ABC\xc3\xa9app1", None),
            (long.as_bytes(), '.', b"ID", None),
            (&long.as_bytes()[..67], '.', b"ID", Some(&long[3..67])),
        ];
        for &(id, separator, bare, home) in table {
            let shown = String::from_utf8_lossy(id);
            assert_eq!(split_route(id, separator), (bare, Routes { home, heir: None }), "{shown}");
        }
    }

    #[test]
    fn after_exclamation_marks_stand_home_and_heir() {
        type Row<'a> = (&'a [u8], &'a [u8], Option<&'a str>, Option<&'a str>);
        let table: &[Row<'_>] = &[
            (b"ID!app1!app2", b"ID", Some("app1"), Some("app2")),
            (b"ID!-1234567!7654321!1700000000000", b"ID", Some("-1234567"), Some("7654321")),
            (b"ID!app1!NONE", b"ID", Some("app1"), None),
            (b"ID!app1", b"ID", Some("app1"), None),
            (b"ID!app1!", b"ID", Some("app1"), None),
            (b"ID!!app2", b"ID", None, Some("app2")),
            (b"ID!", b"ID", None, None),
            (b"ID", b"ID", None, None),
            (b"!app1", b"", Some("app1"), None),
            (b"!!!!", b"", None, None),
            (b"ID.a!app.1!app.2", b"ID.a", Some("app.1"), Some("app.2")),
            (b"", b"", None, None),
        ];
        for &(id, bare, home, heir) in table {
            assert_eq!(split_route(id, '!'), (bare, Routes { home, heir }), "{}", String::from_utf8_lossy(id));
        }
    }

    #[test]
    fn a_prefix_is_a_name_before_the_first_tilde() {
        type Row<'a> = (&'a [u8], Option<(&'a str, &'a [u8])>);
        let longest = format!("{}~v", "x".repeat(64));
        let too_long = format!("{}~v", "x".repeat(65));
        let table: &[Row<'_>] = &[
            (b"app1~v", Some(("app1", b"v"))),
            (b"app1~", Some(("app1", b""))),
            (b"app1~a~b", Some(("app1", b"a~b"))),
            (b"127.0.0.1:9101~v", Some(("127.0.0.1:9101", b"v"))),
            (b"app1~\xff\x80", Some(("app1", b"\xff\x80"))),
            (longest.as_bytes(), Some((&longest[..64], b"v"))),
            (too_long.as_bytes(), None),
            (b"~v", None),
            (b"v", None),
            (b"", None),
            (b"a b~v", None),
            (b"a/b~v", None),
            (b"\xff~v", None),
        ];
        for (value, expected) in table {
            assert_eq!(split_prefix(value), *expected, "{}", String::from_utf8_lossy(value));
        }
    }

    proptest! {
        #[test]
        fn an_id_begins_with_what_is_left_of_it(id in prop::collection::vec(any::<u8>(), 0..80), separator in any::<char>()) {
            for separator in [separator, '.', '!'] {
                let (bare, routes) = split_route(&id, separator);
                prop_assert!(id.starts_with(bare));
                prop_assert!(routes == Routes::default() || bare.len() < id.len());
            }
        }

        #[test]
        fn a_prefix_that_was_put_in_front_is_found_again(name in "[!-.0-}]{1,64}", value in prop::collection::vec(any::<u8>(), 0..80)) {
            let prefixed = [name.as_bytes(), b"~", &value].concat();
            prop_assert_eq!(split_prefix(&prefixed), Some((name.as_str(), value.as_slice())));
        }
    }
}
