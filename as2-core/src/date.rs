//! Dates without a clock, as headers and signatures spell them.

use crate::error::Error;

/// UTCTime has no longer a meaning from 2050-01-01 (RFC 5280 §4.1.2.5.1); Unix seconds.
pub(crate) const UTC_TIME_END: i64 = 2_524_608_000;

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Year, month (1 to 12) and day of a day counted from 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    // In eras of 400 years that begin on 1 March, so that the leap day is a year's last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// Unix seconds as IMF-fixdate, `Thu, 31 Jul 2025 13:34:50 GMT` (RFC 9110 §5.6.7).
pub(crate) fn imf_fixdate(unix: i64) -> String {
    let (days, second) = (unix.div_euclid(86_400), unix.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let name =
        |names: &'static [&'static str], index: i64| usize::try_from(index).ok().and_then(|i| names.get(i)).copied().unwrap_or_default();
    format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        name(&DAYS, days.rem_euclid(7)),
        name(&MONTHS, month - 1),
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

/// Unix seconds as UTCTime, `YYMMDDhhmmssZ` for 1970 to 2049.
pub(crate) fn utc_time(unix: i64) -> Result<String, Error> {
    if !(0..UTC_TIME_END).contains(&unix) {
        return Err(Error::invalid("the signing time is not in 1970 to 2049"));
    }
    let (year, month, day) = civil(unix / 86_400);
    let (hour, minute, second) = (unix / 3600 % 24, unix / 60 % 60, unix % 60);
    Ok(format!("{:02}{month:02}{day:02}{hour:02}{minute:02}{second:02}Z", year % 100))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn known_dates() {
        assert_eq!(imf_fixdate(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(imf_fixdate(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(imf_fixdate(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(imf_fixdate(1_753_968_890), "Thu, 31 Jul 2025 13:34:50 GMT");
        assert_eq!(imf_fixdate(4_102_444_799), "Thu, 31 Dec 2099 23:59:59 GMT");
    }

    #[test]
    fn times_of_signatures() {
        for (unix, text) in [
            (0, "700101000000Z"),
            (951_782_399, "000228235959Z"),
            (951_782_400, "000229000000Z"),
            (1_709_251_199, "240229235959Z"),
            (1_790_000_000, "260921141320Z"),
            (UTC_TIME_END - 1, "491231235959Z"),
        ] {
            assert_eq!(utc_time(unix).unwrap(), text);
        }
        assert!(utc_time(-1).is_err() && utc_time(UTC_TIME_END).is_err());
    }
}
