//! The `Range` of a request (RFC 9110, section 14).

use std::ops::Range;

/// What of a blob is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Everything; also where the header makes no sense or names several ranges, which a server may ignore.
    Whole,
    /// Some of it, at least one byte.
    Part(Range<u64>),
    /// A range that lies outside: 416.
    Outside,
}

/// Reads a `Range` header for a blob of `size` bytes: `bytes=a-b`, `bytes=a-`, `bytes=-n`.
pub(super) fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some((first, last)) = header.and_then(|h| h.strip_prefix("bytes=")).and_then(|spec| spec.split_once('-'))
    else {
        return Wanted::Whole;
    };
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Some(first), None) if last.trim().is_empty() => first..size,
        (None, Some(count)) if first.trim().is_empty() => size.saturating_sub(count)..size,
        _ => return Wanted::Whole,
    };
    match range.start < range.end {
        true => Wanted::Part(range),
        false => Wanted::Outside,
    }
}

/// Digits alone: `parse` would also take a sign. What is larger than any blob is outside of every blob.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_three_forms_of_a_range_are_understood() {
        assert_eq!(wanted(Some("bytes=0-0"), 10), Wanted::Part(0..1));
        assert_eq!(wanted(Some("bytes=3-"), 10), Wanted::Part(3..10));
        assert_eq!(wanted(Some("bytes=-4"), 10), Wanted::Part(6..10));
        assert_eq!(wanted(Some("bytes=-40"), 10), Wanted::Part(0..10));
        assert_eq!(wanted(Some("bytes=3-99999999999999999999999"), 10), Wanted::Part(3..10));
    }

    #[test]
    fn a_range_behind_the_end_is_outside() {
        for header in ["bytes=10-", "bytes=10-11", "bytes=99999999999999999999999-", "bytes=-0"] {
            assert_eq!(wanted(Some(header), 10), Wanted::Outside, "{header}");
        }
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Outside);
    }

    #[test]
    fn what_makes_no_sense_gets_everything() {
        for header in
            ["", "bytes", "bytes=", "bytes=-", "bytes=5-3", "bytes=0-1,3-4", "bytes=+1-2", "lines=0-1", "bytes=a-b"]
        {
            assert_eq!(wanted(Some(header), 10), Wanted::Whole, "{header}");
        }
        assert_eq!(wanted(None, 10), Wanted::Whole);
    }

    proptest! {
        #[test]
        fn a_part_is_never_empty_and_never_outside(header in "bytes=[0-9]{0,20}-[0-9]{0,20}", size in 0u64..1 << 40) {
            if let Wanted::Part(range) = wanted(Some(&header), size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }
    }
}
