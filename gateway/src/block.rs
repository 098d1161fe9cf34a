//! Blocks of addresses, as settings name them: `192.0.2.0/24`, `2001:db8::/32`, or one address.

use std::net::{IpAddr, Ipv6Addr};

/// Whether these blocks let an address in; none at all let in everybody.
#[must_use]
pub fn admit(blocks: &[String], address: IpAddr) -> bool {
    blocks.is_empty() || blocks.iter().any(|block| holds(block, address))
}

/// Whether this is an address or a block like `192.0.2.0/24`.
#[must_use]
pub fn is_block(text: &str) -> bool {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let Ok(address) = address.parse::<IpAddr>() else {
        return false;
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    bits.is_none_or(|bits| bits.parse::<u8>().is_ok_and(|bits| bits <= most))
}

/// Whether an address lies in `10.0.0.0/8`, `2001:db8::/32` or is the one that stands there.
#[must_use]
pub fn holds(block: &str, address: IpAddr) -> bool {
    let (net, bits) = block
        .split_once('/')
        .map_or((block, None), |(net, bits)| (net, bits.parse::<u32>().ok()));
    let bits = if block.contains('/') && bits.is_none() {
        return false;
    } else {
        bits
    };
    match (net.parse::<IpAddr>().map(|net| net.to_canonical()), address.to_canonical()) {
        (Ok(IpAddr::V4(net)), IpAddr::V4(address)) => {
            let shift = 32u32.saturating_sub(bits.unwrap_or(32));
            shift == 32 || net.to_bits() >> shift == address.to_bits() >> shift
        }
        (Ok(IpAddr::V6(net)), IpAddr::V6(address)) => {
            let shift = 128u32.saturating_sub(bits.unwrap_or(128));
            shift == 128 || net.to_bits() >> shift == address.to_bits() >> shift
        }
        _ => false,
    }
}

/// What counts as one source: an IPv4 address, or an IPv6 /64, which is what one customer gets.
#[must_use]
pub fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_addresses() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap_or(IpAddr::from([0, 0, 0, 0]));
        for (block, address) in [
            ("10.0.0.0/8", "10.9.8.7"),
            ("192.0.2.1", "192.0.2.1"),
            ("0.0.0.0/0", "1.2.3.4"),
            ("2001:db8::/32", "2001:db8::9"),
            ("10.0.0.0/8", "::ffff:10.1.1.1"),
        ] {
            assert!(holds(block, ip(address)), "{block} {address}");
        }
        for (block, address) in [
            ("10.0.0.0/8", "11.0.0.1"),
            ("192.0.2.1", "192.0.2.2"),
            ("10.0.0.0/x", "10.0.0.1"),
            ("nonsense", "10.0.0.1"),
            ("10.0.0.0/8", "2001:db8::9"),
        ] {
            assert!(!holds(block, ip(address)), "{block} {address}");
        }
    }
}
