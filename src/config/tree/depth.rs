//! How deep do brackets nest? Asked before parsing, because the time the parser takes grows with the square of it.

/// More than any file of ours needs; the parser itself gives up a value at 128.
const DEEPEST: usize = 200;

/// The line where brackets nest too deep, if they do.
///
/// Never takes deep text for flat: where quotes may be read differently from YAML, opening brackets still count.
pub(super) fn too_deep(text: &str) -> Option<usize> {
    let mut depth: usize = 0;
    let mut line = 1;
    let mut inside = Inside::Value;
    let mut previous = b' ';
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match (inside, byte) {
            (Inside::Comment, b'\n') => inside = Inside::Value,
            (Inside::Comment, _) => {}
            (_, b'[' | b'{') => depth += 1,
            (Inside::Value, b']' | b'}') => depth = depth.saturating_sub(1),
            (Inside::Value, b'#') if previous.is_ascii_whitespace() => inside = Inside::Comment,
            (Inside::Value, b'"' | b'\'') if begins_a_value(previous) => inside = Inside::Quotes { by: byte, depth },
            (Inside::Quotes { depth: before, .. }, b']' | b'}') => depth = depth.saturating_sub(1).max(before),
            (Inside::Quotes { by: b'"', .. }, b'\\') => line += usize::from(bytes.next() == Some(b'\n')),
            (Inside::Quotes { by, .. }, _) if by == byte => {
                let doubled = byte == b'\'' && bytes.next_if_eq(&byte).is_some();
                inside = if doubled { inside } else { Inside::Value };
            }
            _ => {}
        }
        if depth > DEEPEST {
            return Some(line);
        }
        line += usize::from(byte == b'\n');
        previous = byte;
    }
    None
}

#[derive(Clone, Copy)]
enum Inside {
    Value,
    Comment,
    /// Closing brackets only undo what was opened since `depth`.
    Quotes {
        by: u8,
        depth: usize,
    },
}

/// Can a quoted text begin after this byte?
fn begins_a_value(previous: u8) -> bool {
    previous.is_ascii_whitespace() || matches!(previous, b'[' | b'{' | b',' | b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_brackets_are_found_wherever_closing_ones_hide() {
        let many = DEEPEST + 1;
        for level in ["[", "{a: ", "[ # ]\n", "[ \"]\", ", "[ ']', ", "[a ' ', [", "[ \"\\\"]\", ", "[ 'it''s ]', "] {
            assert!(too_deep(&level.repeat(many)).is_some(), "{level}");
        }
        assert_eq!(too_deep(&"[\n".repeat(many)), Some(many));
    }

    #[test]
    fn many_brackets_that_close_are_fine() {
        for item in ["{ a: [1] }\n", "# [\n", "'[::1]:80'\n", "\"]\"\n", "]\n", "don't [x]\n", "'it''s' [x] # it's {\n"]
        {
            assert_eq!(too_deep(&item.repeat(1000)), None, "{item}");
        }
    }
}
