//! What the headers say about a transfer that may be gone on with: `ETag` and `Content-Range`
//! (draft-harding-as2-restart-07).

use as2_core::headers::Headers;

/// Longest tag that is understood, quotes included.
pub(super) const MAX_TAG: usize = 256;

/// The tag that names a transfer: strong, or bare as early products send it. Others mean nothing here.
pub(super) fn tag(headers: &Headers) -> Option<String> {
    let mut all = headers.all("ETag");
    let (text, None) = (all.next()?.trim(), all.next()) else {
        return None;
    };
    if text.is_empty() || text.len() > MAX_TAG || text.starts_with("W/") {
        return None;
    }
    let inside = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    // COMPAT: the quotes are missing in implementations of the draft's first version.
    (!inside.is_empty() && !inside.contains('"')).then(|| inside.to_owned())
}

/// `Content-Range: bytes first-last/total` of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) total: u64,
}

impl Range {
    /// What cannot be read says nothing (RFC 9110 §14.4).
    pub(super) fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        // COMPAT: the unit is missing in implementations of the draft's first version.
        let unit = text.get(..5).filter(|unit| unit.eq_ignore_ascii_case("bytes"));
        let numbers = text.get(unit.map_or(0, str::len)..)?.trim_start_matches([' ', '\t', '=']);
        let (range, total) = numbers.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let last = last.trim().parse().ok()?;
        Some(Range {
            first: first.trim().parse().ok()?,
            last,
            total: match total.trim() {
                "*" => u64::checked_add(last, 1)?,
                total => total.parse().ok()?,
            },
        })
    }

    /// It reaches to the end, and is as long as the body.
    pub(super) fn is_sound(&self, length: Option<u64>) -> bool {
        let len = self.total.checked_sub(self.first);
        self.first <= self.last && self.last.checked_add(1) == Some(self.total) && (length.is_none() || length == len)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read_tag(values: &[&str]) -> Option<String> {
        let mut headers = Headers::new();
        values.iter().for_each(|value| headers.push("ETag", value).unwrap());
        tag(&headers)
    }

    #[test]
    fn strong_and_bare_tags_count_and_no_others() {
        assert_eq!(read_tag(&["\"a b/c\""]).as_deref(), Some("a b/c"));
        assert_eq!(read_tag(&["{0E1B}"]).as_deref(), Some("{0E1B}"));
        let long = format!("\"{}\"", "x".repeat(MAX_TAG));
        for odd in [
            &["W/\"a\""][..],
            &[""],
            &["\"\""],
            &["\"a"],
            &["a\"b"],
            &[&long],
            &["\"a\"", "\"b\""],
            &[],
        ] {
            assert_eq!(read_tag(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn ranges_are_read_and_weighed() {
        let range = |first, last, total| Some(Range { first, last, total });
        for text in ["bytes 10-99/100", "Bytes=10-99/100", "10-99/100", "bytes 10-99/*"] {
            assert_eq!(Range::read(text), range(10, 99, 100), "{text}");
        }
        for odd in [
            "",
            "bytes",
            "bytes */100",
            "bytes 1-2",
            "bytes a-b/c",
            "bytes 0-18446744073709551616/1",
            "pages 1-2/3",
        ] {
            assert_eq!(Range::read(odd), None, "{odd}");
        }
        let sound = |text: &str, length| Range::read(text).unwrap().is_sound(length);
        assert!(sound("bytes 10-99/100", Some(90)) && sound("bytes 10-99/100", None));
        assert!(!sound("bytes 10-99/100", Some(91)), "longer than it says");
        assert!(!sound("bytes 10-98/100", Some(89)), "does not reach to the end");
        assert!(!sound("bytes 99-10/100", None) && !sound("bytes 5-18446744073709551615/1", None));
    }
}
