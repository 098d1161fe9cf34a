//! Durations and sizes as people write them, and the nearest word to a misspelt one.

use std::time::Duration;

/// Longest duration accepted: ten years. What is longer is a slip of the keyboard.
pub const MAX_DURATION: Duration = Duration::from_secs(3_650 * 86_400);
/// Words further away than this many letters are not offered as a correction.
const MAX_DISTANCE: usize = 3;

/// Reads `2s`, `500ms`, `30m`, `6h`, `35d` or `0`.
///
/// # Errors
/// The form expected, in words.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("`{}` is not a duration; write it like 2s, 30m, 6h or 35d", text.escape_default());
    let text_trimmed = text.trim();
    if text_trimmed == "0" {
        return Ok(Duration::ZERO);
    }
    let digits = text_trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(text_trimmed.len());
    let (number, unit) = text_trimmed.split_at(digits);
    let number: u64 = number.parse().map_err(|_| expected())?;
    let milliseconds = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(expected()),
    };
    let span = number
        .checked_mul(milliseconds)
        .map(Duration::from_millis)
        .filter(|span| *span <= MAX_DURATION);
    span.ok_or_else(|| format!("`{}` is longer than 3650d", text.escape_default()))
}

/// The same, but 0, which people write for a limit that they do not want, and which here would be over at once.
///
/// # Errors
/// The form expected, or that it is 0.
pub(crate) fn parse_duration_over_0(text: &str) -> Result<Duration, String> {
    parse_duration(text).and_then(|span| {
        if span.is_zero() {
            return Err("it has to be more than 0, which would be no time at all and not one without a limit".to_owned());
        }
        Ok(span)
    })
}

/// The same, at least so many days.
pub(super) fn parse_duration_from(days: u64, text: &str) -> Result<Duration, String> {
    parse_duration(text).and_then(|span| {
        if span < Duration::from_secs(days * 86_400) {
            return Err(format!("it has to be at least {days}d, and is {}", text.escape_default()));
        }
        Ok(span)
    })
}

/// The shortest text that `parse_duration` reads back to the same value.
#[must_use]
pub fn show_duration(span: Duration) -> String {
    let ms = span.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    match units.iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None if ms == 0 => "0".to_owned(),
        None => format!("{ms}ms"),
    }
}

/// Reads a number of bytes: `512`, `64KiB`, `100GiB`, `5GB`.
///
/// # Errors
/// The form expected, in words.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let expected = || {
        format!(
            "`{}` is not a size; write it like 512, 64KiB, 10MB or 100GiB",
            text.escape_default()
        )
    };
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let number: u64 = number.parse().map_err(|_| expected())?;
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(expected()),
    };
    // Databases and file offsets count in i64.
    let bytes = number.checked_mul(factor).filter(|bytes| i64::try_from(*bytes).is_ok());
    bytes.ok_or_else(|| format!("`{}` is more bytes than a file can have", text.escape_default()))
}

/// `1.2 kB`, for people.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let (mut tenths, mut unit) = (bytes / 100, 0);
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// The candidate that a misspelt word most likely meant.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let measured = candidates.into_iter().map(|candidate| (distance(word, candidate), candidate));
    measured
        .filter(|(distance, _)| *distance <= MAX_DISTANCE)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, where `_` and `-` are the same.
fn distance(a: &str, b: &str) -> usize {
    let fold = |text: &str| -> Vec<char> { text.to_lowercase().replace('-', "_").chars().collect() };
    let (a, b) = (fold(a), fold(b));
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = i;
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
        for (j, to) in b.iter().enumerate() {
            let (above, left) = (row[j + 1], row[j]);
            let replaced = diagonal + usize::from(from != to);
            diagonal = above;
            row[j + 1] = replaced.min(above + 1).min(left + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_and_sizes_are_read() {
        assert_eq!(parse_duration("2s").unwrap(), Duration::from_secs(2));
        assert_eq!(parse_duration("35d").unwrap(), Duration::from_secs(35 * 86_400));
        assert_eq!(parse_duration("0").unwrap(), Duration::ZERO);
        assert!(parse_duration("5x").is_err() && parse_duration("5").is_err() && parse_duration("").is_err());
        assert!(parse_duration("99999999999999999999d").is_err() && parse_duration("4000d").is_err());
        assert_eq!(parse_size("100GiB").unwrap(), 100 << 30);
        assert_eq!(parse_size("7").unwrap(), 7);
        assert!(parse_size("-1").is_err() && parse_size("9999999TiB").is_err());
    }

    #[test]
    fn a_slip_finds_its_word() {
        assert_eq!(nearest("lisen", ["listen", "host"]), Some("listen"));
        assert_eq!(nearest("max-tries", ["max_time", "max_tries"]), Some("max_tries"));
        assert_eq!(nearest("zebra", ["listen", "host"]), None);
    }

    proptest! {
        #[test]
        fn shown_durations_read_back(ms in 0u64..=86_400_000_000) {
            let span = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&show_duration(span)), Ok(span));
        }
    }
}
