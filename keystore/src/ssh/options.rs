//! The `authorized_keys` options that we honour (sshd(8), AUTHORIZED_KEYS FILE FORMAT): `from=`, `expiry-time=`,
//! `cert-authority` with `principals=`, `no-touch-required` and `verify-required`.
//!
//! Those about terminals and forwarding are taken and dropped: here is neither, whatever they say. All others are refused
//! with the reason rather than skipped: whoever wrote `command=` relied on it.

use std::net::IpAddr;

const MAX_FROM_PATTERNS: usize = 100;
const MAX_PRINCIPALS: usize = 100;
const SECONDS_PER_DAY: i64 = 86_400;

/// The options of a user's key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyOptions {
    /// `from=`: addresses, CIDR ranges, patterns with `*` and `?`, each perhaps with `!` before it; empty allows any.
    pub from: Vec<String>,
    /// `expiry-time=` in Unix seconds; a time without `Z` is read as UTC.
    pub expiry_time: Option<i64>,
    /// `cert-authority`: the key logs nobody in; certificates that it signed do.
    pub cert_authority: bool,
    /// `principals=`: a certificate has to name one of these; empty means the user's own name.
    pub principals: Vec<String>,
    /// `no-touch-required`: a security key may sign without being touched.
    pub no_touch_required: bool,
    /// `verify-required`: a security key has to have checked its owner's PIN or finger.
    pub verify_required: bool,
}

impl KeyOptions {
    /// Whether `from=` lets this address in: some pattern matches it, and none of those with `!`.
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let mut allowed = self.from.is_empty();
        for pattern in &self.from {
            match pattern.strip_prefix('!') {
                Some(pattern) if matches(pattern, address) => return false,
                Some(_) => {}
                None => allowed |= matches(pattern, address),
            }
        }
        allowed
    }

    /// The options as they stand before a key, nothing for none.
    pub fn to_text(&self) -> String {
        let mut all = Vec::new();
        let flags = [
            (self.cert_authority, "cert-authority"),
            (self.no_touch_required, "no-touch-required"),
            (self.verify_required, "verify-required"),
        ];
        all.extend(flags.iter().filter(|(set, _)| *set).map(|(_, name)| (*name).to_owned()));
        for (name, list) in [("principals", &self.principals), ("from", &self.from)] {
            if !list.is_empty() {
                all.push(format!("{name}=\"{}\"", list.join(",")));
            }
        }
        all.extend(self.expiry_time.map(|end| format!("expiry-time=\"{}Z\"", date(end))));
        all.join(",")
    }

    /// Whether the key may be used at `now`, in Unix seconds.
    pub fn is_current(&self, now: i64) -> bool {
        self.expiry_time.is_none_or(|end| now < end)
    }
}

/// Splits a line at the end of its options: the first white space outside quotes. The first part may be the key's type.
pub(super) fn split(line: &str) -> (&str, &str) {
    let mut quoted = false;
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ' ' | '\t' if !quoted => {
                let (options, rest) = line.split_at(at);
                return (options, rest.trim_start());
            }
            _ => {}
        }
    }
    (line, "")
}

pub(super) fn parse(text: &str) -> Result<KeyOptions, String> {
    let mut options = KeyOptions::default();
    let mut seen_from = false;
    for option in split_commas(text) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let value = value.trim().strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
        match name.trim().to_ascii_lowercase().as_str() {
            "from" if !seen_from => {
                seen_from = true;
                options.from = from_patterns(value)?;
            }
            "from" => {
                return Err("two from= options; join their addresses with commas in one".into());
            }
            "expiry-time" => {
                let end = expiry(value).ok_or("expiry-time= is not YYYYMMDD or YYYYMMDDHHMM[SS], perhaps with Z")?;
                // sshd too takes the earliest.
                options.expiry_time = Some(options.expiry_time.map_or(end, |other| other.min(end)));
            }
            "cert-authority" => options.cert_authority = true,
            "principals" if options.principals.is_empty() => options.principals = principals(value)?,
            "principals" => return Err("two principals= options; join their names with commas in one".into()),
            "no-touch-required" => options.no_touch_required = true,
            "verify-required" => options.verify_required = true,
            harmless if HARMLESS.contains(&harmless) => {}
            other => return Err(refuse(other)),
        }
    }
    if !options.principals.is_empty() && !options.cert_authority {
        return Err("principals= means something beside cert-authority only; add that, or remove it".into());
    }
    Ok(options)
}

/// What allows or forbids things that do not exist here.
const HARMLESS: [&str; 11] = [
    "restrict",
    "agent-forwarding",
    "no-agent-forwarding",
    "port-forwarding",
    "no-port-forwarding",
    "pty",
    "no-pty",
    "user-rc",
    "no-user-rc",
    "x11-forwarding",
    "no-x11-forwarding",
];

fn principals(list: &str) -> Result<Vec<String>, String> {
    let names: Vec<String> = list.split(',').map(|name| name.trim().to_owned()).collect();
    let plain = |name: &String| !name.is_empty() && name.chars().all(|c| !c.is_control() && !matches!(c, '"' | '\\'));
    if names.len() > MAX_PRINCIPALS || !names.iter().all(plain) {
        return Err(format!("principals= takes 1 to {MAX_PRINCIPALS} names with commas between them"));
    }
    Ok(names)
}

/// Names only what is known to be an option: anything else may be a piece of a secret.
fn refuse(name: &str) -> String {
    const KNOWN: [&str; 5] = ["command", "environment", "permitlisten", "permitopen", "tunnel"];
    match KNOWN.iter().find(|known| **known == name) {
        Some(name) => format!("the option {name} has no meaning here, where users transfer files and nothing else; remove it"),
        None => "this is not an SSH public key; give the line of a .pub file, like ssh-ed25519 AAAA… name".into(),
    }
}

fn split_commas(text: &str) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(|c: char| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => return true,
            _ => {}
        }
        false
    })
    .collect()
}

fn from_patterns(list: &str) -> Result<Vec<String>, String> {
    let patterns: Vec<String> = list.split(',').map(|p| p.trim().to_owned()).collect();
    if patterns.len() > MAX_FROM_PATTERNS {
        return Err(format!("from= has more than {MAX_FROM_PATTERNS} addresses"));
    }
    let known = |pattern: &String| {
        let pattern = pattern.strip_prefix('!').unwrap_or(pattern);
        let wildcard = |b: u8| b.is_ascii_hexdigit() || b".:*?".contains(&b);
        // A bare word like "bad" has only hexadecimal digits in it, too.
        let punctuated = pattern.contains(['.', ':', '*', '?']);
        range(pattern).is_some()
            || (punctuated && pattern.parse::<IpAddr>().is_ok())
            || (pattern.contains(['*', '?']) && pattern.bytes().all(wildcard))
    };
    match patterns.iter().all(known) {
        true => Ok(patterns),
        false => {
            Err("from= takes addresses (192.0.2.1), ranges (192.0.2.0/24) and patterns (192.0.2.*); host names are not looked up".into())
        }
    }
}

fn matches(pattern: &str, address: IpAddr) -> bool {
    if let Some((network, bits)) = range(pattern) {
        return in_range(network, bits, address);
    }
    match pattern.parse::<IpAddr>() {
        Ok(exact) => exact.to_canonical() == address,
        Err(_) => glob(pattern.to_ascii_lowercase().as_bytes(), address.to_string().as_bytes()),
    }
}

fn range(pattern: &str) -> Option<(IpAddr, u32)> {
    let (network, bits) = pattern.split_once('/')?;
    let (network, bits): (IpAddr, u32) = (network.parse().ok()?, bits.parse().ok()?);
    let most = if network.is_ipv4() { 32 } else { 128 };
    (bits <= most).then_some((network, bits))
}

fn in_range(network: IpAddr, bits: u32, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(n), IpAddr::V4(a)) => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            n.to_bits() & mask == a.to_bits() & mask
        }
        (IpAddr::V6(n), IpAddr::V6(a)) => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            n.to_bits() & mask == a.to_bits() & mask
        }
        _ => false,
    }
}

/// `*` and `?` as in sshd, in time proportional to the product of the lengths.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || text.get(t) == Some(c) => {
                p += 1;
                t += 1;
            }
            _ => match &mut star {
                Some((at, taken)) => {
                    *taken += 1;
                    (p, t) = (*at + 1, *taken);
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|c| *c == b'*')
}

/// `YYYYMMDD[HHMM[SS]][Z]` in Unix seconds.
fn expiry(text: &str) -> Option<i64> {
    let digits = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    if !digits.bytes().all(|b| b.is_ascii_digit()) || ![8, 12, 14].contains(&digits.len()) {
        return None;
    }
    let number = |from: usize, to: usize| digits.get(from..to).map_or(Some(0), |d| d.parse::<i64>().ok());
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let (hour, minute, second) = (number(8, 10)?, number(10, 12)?, number(12, 14)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if year < 1970 || !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some(days_since_epoch(year, month, day) * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second)
}

/// `YYYYMMDDHHMMSS` of a time in Unix seconds; the inverse of [`expiry`].
fn date(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(SECONDS_PER_DAY), seconds.rem_euclid(SECONDS_PER_DAY));
    // Counted from 0000-03-01, in cycles of 400 years.
    let days = days + 719_468;
    let (cycle, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (year, day) = (year + cycle * 400 + i64::from(month >= 10), day - (153 * month + 2) / 5 + 1);
    let month = if month < 10 { month + 3 } else { month - 9 };
    format!("{year:04}{month:02}{day:02}{:02}{:02}{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Days since 1970-01-01 of a date in the Gregorian calendar, counting years from March so that the leap day comes last.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn from(list: &str) -> KeyOptions {
        parse(&format!("from=\"{list}\"")).unwrap()
    }

    fn allows(list: &str, address: &str) -> bool {
        from(list).allows(address.parse().unwrap())
    }

    #[test]
    fn from_takes_addresses_ranges_patterns_and_negation() {
        assert!(allows("192.0.2.0/24", "192.0.2.77"));
        assert!(allows("192.0.2.0/24", "::ffff:192.0.2.77"));
        assert!(!allows("192.0.2.0/24", "192.0.3.1"));
        assert!(allows("0.0.0.0/0", "8.8.8.8"));
        assert!(!allows("0.0.0.0/0", "2001:db8::1"));
        assert!(allows("2001:db8::/32", "2001:db8:1::5"));
        assert!(allows("2001:DB8:*", "2001:db8::5"));
        assert!(allows("10.0.?.1,10.9.9.9", "10.0.7.1"));
        assert!(!allows("10.0.?.1", "10.0.77.1"));
        assert!(!allows("10.*,!10.6.*", "10.6.1.1"));
        assert!(allows("10.*,!10.6.*", "10.7.1.1"));
        assert!(!allows("!10.6.*", "10.7.1.1"), "only negations allow nobody");
        assert!(KeyOptions::default().allows("10.6.1.1".parse().unwrap()));
    }

    #[test]
    fn from_refuses_host_names_and_nonsense() {
        for list in [
            "gateway.example.com",
            "",
            "10.0.0.0/33",
            "*.example.com",
            "bad",
            "10.0.0.1,,10.0.0.2",
        ] {
            assert!(parse(&format!("from=\"{list}\"")).is_err(), "{list}");
        }
    }

    #[test]
    fn expiry_is_as_date_says() {
        // date -u -d '…' +%s
        assert_eq!(expiry("20270101"), Some(1_798_761_600));
        assert_eq!(expiry("20280229235959Z"), Some(1_835_481_599));
        assert_eq!(expiry("202612310830"), Some(1_798_705_800));
        for wrong in ["2027", "20270229", "20271301", "2027010124", "202701012400", "2027-01-01", "Z", ""] {
            assert_eq!(expiry(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn dates_are_the_inverse_of_expiry() {
        for seconds in [
            0,
            951_782_400,
            951_868_799,
            1_798_761_600,
            1_835_481_599,
            4_107_542_400,
            253_402_300_799,
        ] {
            assert_eq!(expiry(&date(seconds)), Some(seconds), "{}", date(seconds));
        }
    }

    #[test]
    fn options_of_certificates_and_security_keys_are_kept_and_harmless_ones_dropped() {
        let text = r#"restrict,cert-authority,no-pty,principals="ops,alice",from="10.0.0.0/8",expiry-time="20270101",verify-required"#;
        let options = parse(text).unwrap();
        assert!(options.cert_authority && options.verify_required && !options.no_touch_required);
        assert_eq!(options.principals, ["ops", "alice"]);
        let stored = options.to_text();
        assert_eq!(
            stored,
            r#"cert-authority,verify-required,principals="ops,alice",from="10.0.0.0/8",expiry-time="20270101000000Z""#
        );
        assert_eq!(parse(&stored).unwrap(), options);
        assert!(parse("no-touch-required").unwrap().no_touch_required);
    }

    #[test]
    fn options_that_promise_what_is_not_here_are_refused_by_name() {
        for (text, word) in [
            (r#"command="true""#, "command"),
            (r#"environment="A=b""#, "environment"),
            (r#"permitopen="h:1""#, "permitopen"),
            (r#"tunnel="0""#, "tunnel"),
            (r#"principals="a""#, "cert-authority"),
            (r#"cert-authority,principals="a,,b""#, "principals"),
            (r#"cert-authority,principals="a",principals="b""#, "principals"),
        ] {
            assert!(parse(text).unwrap_err().contains(word), "{text}");
        }
        assert!(!parse("hunter2").unwrap_err().contains("hunter2"), "a secret is repeated");
    }

    #[test]
    fn patterns_of_many_stars_end_soon() {
        assert!(!glob("*1".repeat(2_000).as_bytes(), "2".repeat(2_000).as_bytes()));
    }
}
