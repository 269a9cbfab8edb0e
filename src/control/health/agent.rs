//! What a backend says about itself in the reply to a probe: its agent's words.
//!
//! Words are separated by commas, semicolons or line ends: `draining`, `disabled`, `enabled`, and `weight: 50%` of the
//! weight in the file. Those that HAProxy's agents use are understood, too: `up`, `ready`, `drain`, `maint`, `50%`.

use crate::pool::{AdminState, AgentWord};

/// What one reply said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    /// What is understood of it.
    pub(super) said: AgentWord,
    /// The first word that is not; cut off when it is long, and without control characters.
    pub(super) unknown: Option<String>,
}

/// Reads them; `None` when nothing was said. Of two words about one thing, the last one counts.
pub(super) fn words(text: &[u8]) -> Option<Words> {
    let text = &text[..text.len().min(LIMIT)];
    let mut words = Words::default();
    let mut is_empty = true;
    for word in text.split(|byte| matches!(byte, b',' | b';' | b'\n' | b'\r')) {
        let word = word.trim_ascii();
        if word.is_empty() {
            continue;
        }
        is_empty = false;
        match word.to_ascii_lowercase().as_slice() {
            b"enabled" | b"up" | b"ready" => words.said.admin = Some(AdminState::Enabled),
            b"draining" | b"drain" => words.said.admin = Some(AdminState::Draining),
            b"disabled" | b"maint" => words.said.admin = Some(AdminState::Disabled),
            lower => match weight(lower) {
                Some(percent) => words.said.weight_percent = Some(percent),
                None => {
                    words.unknown.get_or_insert_with(|| word[..word.len().min(SHOWN)].escape_ascii().to_string());
                }
            },
        }
    }
    (!is_empty).then_some(words)
}

/// `weight: 50%`, `weight=50%` or `50%`, from 0 to 100.
fn weight(word: &[u8]) -> Option<u8> {
    let value = match word.strip_prefix(b"weight") {
        Some(rest) => {
            let rest = rest.trim_ascii_start();
            rest.strip_prefix(b":").or_else(|| rest.strip_prefix(b"="))?.trim_ascii()
        }
        None => word,
    };
    let digits = value.strip_suffix(b"%")?.trim_ascii_end();
    if !(1..=3).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok().filter(|percent| *percent <= 100)
}

/// How much of a reply is looked at, in bytes.
const LIMIT: usize = 1024;

/// How much of an unknown word is shown, in bytes.
const SHOWN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> (Option<AdminState>, Option<u8>, Option<String>) {
        let words = words(text.as_bytes()).unwrap_or_else(|| panic!("nothing said: {text:?}"));
        (words.said.admin, words.said.weight_percent, words.unknown)
    }

    #[test]
    fn each_word_means_one_thing() {
        use AdminState::{Disabled, Draining, Enabled};
        for (text, admin, weight) in [
            ("enabled", Some(Enabled), None),
            ("up", Some(Enabled), None),
            ("Ready\n", Some(Enabled), None),
            ("draining", Some(Draining), None),
            (" DRAIN ", Some(Draining), None),
            ("disabled", Some(Disabled), None),
            ("maint", Some(Disabled), None),
            ("weight: 50%", None, Some(50)),
            ("Weight : 7 %", None, Some(7)),
            ("weight=0%", None, Some(0)),
            ("100%\r\n", None, Some(100)),
            ("draining; weight: 25%", Some(Draining), Some(25)),
            ("ready, 75%", Some(Enabled), Some(75)),
            ("draining\nenabled", Some(Enabled), None),
        ] {
            assert_eq!(said(text), (admin, weight, None), "{text:?}");
        }
    }

    #[test]
    fn a_word_that_is_not_understood_is_shown_and_the_others_count() {
        for word in [
            "down",
            "weight",
            "weight 50%",
            "weight: 101%",
            "weight: -1%",
            "50",
            "%",
            "weight: 0x10%",
            "weight: 1000%",
            "weights: 5%",
        ] {
            let text = format!("draining, {word}");
            assert_eq!(said(&text), (Some(AdminState::Draining), None, Some(word.to_owned())), "{word}");
        }
        assert_eq!(said("a,b").2.as_deref(), Some("a"));
        assert_eq!(said(&"x".repeat(5000)).2.map(|word| word.len()), Some(SHOWN));
        assert_eq!(words(b"\x00\xff\x1b[31m").and_then(|words| words.unknown).as_deref(), Some("\\x00\\xff\\x1b[31m"));
    }

    #[test]
    fn silence_says_nothing() {
        for text in ["", " ", "\r\n", ",;,"] {
            assert_eq!(words(text.as_bytes()), None, "{text:?}");
        }
    }
}
