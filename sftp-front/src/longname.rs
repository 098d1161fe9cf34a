//! The `longname` of a directory entry: one line of `ls -l`. Draft 02 calls it free text, but FileZilla, psftp and lftp
//! read owner and group from it and OpenSSH prints it, so it keeps the columns of `ls`.

use crate::tree::{Kind, Stat};
use std::fmt::Write;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
/// Entries older than this, or in the future, show the year instead of the time, as `ls` does.
const RECENT_SECS: u64 = 182 * 86_400;

/// One line of `ls -l` in UTC; `now` in seconds since 1970.
pub(crate) fn longname(name: &str, stat: &Stat, now: u64) -> String {
    let mut line = String::with_capacity(64 + name.len());
    line.push(match stat.kind {
        Kind::Dir => 'd',
        Kind::File => '-',
    });
    for (bit, letter) in (0..9).rev().zip("rwxrwxrwx".chars()) {
        line.push(if stat.mode >> bit & 1 == 1 { letter } else { '-' });
    }
    let links = match stat.kind {
        Kind::Dir => 2,
        Kind::File => 1,
    };
    let (year, month, day) = civil(stat.mtime / 86_400);
    let month = MONTHS.get(month - 1).copied().unwrap_or("Jan");
    let recent = stat.mtime <= now && now - stat.mtime < RECENT_SECS;
    let when = if recent {
        format!("{:02}:{:02}", stat.mtime / 3600 % 24, stat.mtime / 60 % 60)
    } else {
        format!("{year:5}")
    };
    // Writing to a String cannot fail.
    let _ = write!(line, " {links:4} owner    group    {:12} {month} {day:2} {when} {name}", stat.size);
    line
}

/// Year, month (1–12) and day (1–31) of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
fn civil(days: u64) -> (u64, usize, u64) {
    // Eras of 400 years that begin on 1 March of year 0: the leap day is the last day of its year.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (
        year_of_era + era * 400 + u64::from(month <= 2),
        usize::try_from(month).unwrap_or(1),
        day,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_454), (2026, 1, 1));
        assert_eq!(civil(47_540), (2100, 2, 28));
        assert_eq!(civil(47_541), (2100, 3, 1));
    }

    #[test]
    fn lines() {
        let file = Stat {
            kind: Kind::File,
            size: 1234,
            mtime: 1_767_229_445,
            mode: 0o640,
        };
        assert_eq!(
            longname("a b", &file, 1_767_300_000),
            "-rw-r-----    1 owner    group            1234 Jan  1 01:04 a b"
        );
        assert_eq!(
            longname("a b", &file, 1_900_000_000),
            "-rw-r-----    1 owner    group            1234 Jan  1  2026 a b"
        );
        let dir = Stat {
            kind: Kind::Dir,
            size: 0,
            mtime: 0,
            mode: 0o755,
        };
        assert!(longname("d", &dir, 0).starts_with("drwxr-xr-x    2 "));
        let late = Stat { mtime: u64::MAX, ..dir };
        assert!(longname("d", &late, 0).ends_with(" d"));
    }
}
