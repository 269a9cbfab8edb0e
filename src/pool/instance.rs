//! One life of a backend's process, and whether a pin names an earlier one.
//!
//! A pin carries a number for the life it was made in. Where probes read an instance header, the number is a hash of its
//! value, the same on every replica. Without one, a new life is inferred: connections were refused at the threshold, so
//! the process was gone, and now it answers again; the number is then the second in which it did, by the wall clock.
//! 0 stands for a life whose beginning nobody has seen.

/// Replicas notice a restart at slightly different moments; births this close are one.
const SAME_BIRTH_SECONDS: u32 = 10;

/// The number of a life, from the hash of the instance header. Never 0.
pub fn named(hash: u64) -> u32 {
    ((hash >> 32) as u32 ^ hash as u32) | 1
}

/// Whether the backend lives another life than the one that a pin names, whose session went with it.
///
/// `current` is the backend's number, `pinned` the pin's; `sealed` is when the pin was last sealed, in seconds of the wall
/// clock. `has_names`: the numbers are hashes, not births.
pub fn is_another(has_names: bool, current: u32, pinned: u32, sealed: u32) -> bool {
    if current == 0 || current == pinned {
        return false;
    }
    if has_names {
        return pinned != 0;
    }
    // A pin that was sealed after the birth was sealed for this life, by a replica that may not have seen its beginning.
    let is_same_birth = pinned != 0 && current.abs_diff(pinned) <= SAME_BIRTH_SECONDS;
    sealed < current && !is_same_birth
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_changed_is_another_instance() {
        let (one, other) = (named(0x1234_5678_9abc_def0), named(7));
        assert_ne!(one, other);
        assert!(is_another(true, one, other, 100));
        assert!(!is_another(true, one, one, 0));
        assert!(!is_another(true, one, 0, 0), "the pin is older than the first probe");
        assert!(!is_another(true, 0, one, 0), "not probed yet");
        assert_ne!(named(0), 0);
    }

    #[test]
    fn a_pin_sealed_before_the_birth_names_an_earlier_life() {
        let table = [
            // Backend's birth, pin's birth, sealed at, another?
            (0, 0, 50, false),
            (100, 0, 99, true),
            (100, 0, 100, false),
            (100, 0, 500, false),
            (100, 40, 99, true),
            (100, 100, 99, false),
            (100, 95, 99, false),
            (100, 105, 99, false),
            (0, 100, 99, false),
        ];
        for (current, pinned, sealed, expected) in table {
            assert_eq!(is_another(false, current, pinned, sealed), expected, "{current} {pinned} {sealed}");
        }
    }
}
