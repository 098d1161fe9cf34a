//! Which addresses our own requests may go to (security.md §5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Networks that are not the open Internet: network and length of its prefix.
const DENIED_V4: [([u8; 4], u32); 13] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
    ([255, 255, 255, 255], 32),
];
const DENIED_V6: [(Ipv6Addr, u32); 7] = [
    (Ipv6Addr::UNSPECIFIED, 128),
    (Ipv6Addr::LOCALHOST, 128),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    // Link-local and the old site-local.
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 9),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
    // Teredo: an IPv4 host behind an address translator.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32),
    // NAT64 for local use.
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48),
];

/// Whether an address is loopback, private, link-local, multicast, shared, reserved, or wraps one that is.
pub(super) fn denied(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => denied_v4(v4),
        IpAddr::V6(v6) => {
            DENIED_V6
                .iter()
                .any(|(network, length)| (network.to_bits() ^ v6.to_bits()).leading_zeros() >= *length)
                || wrapped(v6).is_some_and(denied_v4)
        }
    }
}

/// The address that a host spells, also in the forms of old: fewer than four numbers, octal, hexadecimal, a dot at the end.
/// Resolvers read these, and so would a proxy's.
pub(super) fn spelled(host: &str) -> Option<IpAddr> {
    let host = host.trim_end_matches('.');
    host.parse().ok().or_else(|| loose_v4(host).map(IpAddr::V4))
}

/// As `inet_aton` reads it: up to four numbers, of which the last fills what the others leave.
fn loose_v4(host: &str) -> Option<Ipv4Addr> {
    let number = |text: &str| match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some("") => Some(0),
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None if text.starts_with('0') => u32::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    };
    let numbers = host.split('.').map(number).collect::<Option<Vec<u32>>>()?;
    let (last, firsts) = numbers.split_last()?;
    let filled = u32::try_from(firsts.len()).ok().filter(|count| *count < 4)? * 8;
    let firsts = firsts
        .iter()
        .try_fold(0u32, |all, byte| Some((all << 8) | u32::from(u8::try_from(*byte).ok()?)))?;
    let fits = u64::from(*last) < 1u64 << (32 - filled);
    fits.then(|| Ipv4Addr::from_bits(u32::try_from(u64::from(firsts) << (32 - filled)).unwrap_or_default() | last))
}

fn denied_v4(v4: Ipv4Addr) -> bool {
    DENIED_V4
        .iter()
        .any(|(network, length)| (u32::from_be_bytes(*network) ^ v4.to_bits()).leading_zeros() >= *length)
}

/// The IPv4 address inside a mapped, compatible, translated, NAT64 or 6to4 address.
fn wrapped(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = v6.segments();
    let pair = |high: u16, low: u16| Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low));
    match s {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(pair(high, low))
        }
        [0x2002, high, low, ..] => Some(pair(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn inner_networks_and_their_disguises() {
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "::ffff:0:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::8.8.8.8",
            "2002:7f00:1::",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(denied(text.parse().unwrap()), "{text}");
        }
        for text in [
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "223.255.255.255",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::",
        ] {
            assert!(!denied(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn old_spellings_are_addresses() {
        for (text, address) in [
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1.", "127.0.0.1"),
            ("2130706433", "127.0.0.1"),
            ("0x7f000001", "127.0.0.1"),
            ("0X7F.1", "127.0.0.1"),
            ("017700000001", "127.0.0.1"),
            ("0177.0.0.01", "127.0.0.1"),
            ("127.1", "127.0.0.1"),
            ("10.258", "10.0.1.2"),
            ("169.254.43518", "169.254.169.254"),
            ("0", "0.0.0.0"),
            ("0x", "0.0.0.0"),
            ("4294967295", "255.255.255.255"),
            ("::1", "::1"),
        ] {
            assert_eq!(spelled(text), Some(address.parse().unwrap()), "{text}");
        }
        for text in [
            "",
            ".",
            "a.example",
            "1.2.3.4.5",
            "256.1.1.1",
            "1.2.3.256",
            "4294967296",
            "08.1",
            "0xg",
            "1..2",
            "1.2.3.4.example",
        ] {
            assert_eq!(spelled(text), None, "{text}");
        }
    }
}
