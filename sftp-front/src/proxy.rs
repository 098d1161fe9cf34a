//! The PROXY protocol, version 2 (haproxy's `proxy-protocol.txt` §2.2): the header with which a balancer names the client.
//! It is read from listed balancers only; anybody else's is the start of a broken connection.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// How the header begins.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Longest rest of a header, in bytes: addresses and further fields, which are skipped.
const MAX_REST: usize = 1024;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// Reads one header; the client that it names, or `None` where the balancer speaks for itself (a health check).
///
/// # Errors
/// The stream's, and `InvalidData` for anything that is not a header of version 2 about TCP.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut head = [0u8; 16];
    stream.read_exact(&mut head).await?;
    let (signature, [command, family, high, low]) = (&head[..12], [head[12], head[13], head[14], head[15]]);
    let len = usize::from(u16::from_be_bytes([high, low]));
    if signature != SIGNATURE || len > MAX_REST {
        return Err(invalid("no PROXY header of version 2"));
    }
    let mut rest = vec![0u8; len];
    stream.read_exact(&mut rest).await?;
    match (command, family) {
        // Unspecified: it does not know the client, and its own address counts.
        (LOCAL, _) | (PROXY, UNSPECIFIED) => Ok(None),
        (PROXY, TCP4) => {
            let (ip, port) = (field::<4>(&rest, 0)?, field::<2>(&rest, 8)?);
            Ok(Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), u16::from_be_bytes(port))))
        }
        (PROXY, TCP6) => {
            let (ip, port) = (field::<16>(&rest, 0)?, field::<2>(&rest, 32)?);
            Ok(Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(ip)), u16::from_be_bytes(port))))
        }
        _ => Err(invalid("the PROXY header is not about TCP")),
    }
}

fn field<const N: usize>(rest: &[u8], at: usize) -> io::Result<[u8; N]> {
    let bytes = rest.get(at..at + N).and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| invalid("the PROXY header is too short"))
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut all = SIGNATURE.to_vec();
        all.extend([command, family]);
        all.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        all.extend(rest);
        all
    }

    async fn parse(bytes: &[u8]) -> io::Result<Option<SocketAddr>> {
        let mut stream = bytes;
        let outcome = read(&mut stream).await;
        if outcome.is_ok() {
            assert_eq!(stream, b"SSH-2.0-x", "nothing behind the header is eaten");
        }
        outcome
    }

    #[tokio::test]
    async fn headers_name_the_client() {
        let ssh = |mut bytes: Vec<u8>| {
            bytes.extend(b"SSH-2.0-x");
            bytes
        };
        let four = [192, 0, 2, 7, 10, 0, 0, 1, 0x9c, 0x40, 0, 22, 4, 0, 1, 0];
        assert_eq!(
            parse(&ssh(header(PROXY, TCP4, &four))).await.unwrap(),
            Some("192.0.2.7:40000".parse().unwrap())
        );
        let mut six = "2001:db8::7".parse::<Ipv6Addr>().unwrap().octets().to_vec();
        six.extend([0; 16]);
        six.extend([0x9c, 0x40, 0, 22]);
        assert_eq!(
            parse(&ssh(header(PROXY, TCP6, &six))).await.unwrap(),
            Some("[2001:db8::7]:40000".parse().unwrap())
        );
        for command in [LOCAL, PROXY] {
            assert_eq!(parse(&ssh(header(command, UNSPECIFIED, &[]))).await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn everything_else_is_refused() {
        let good = header(PROXY, TCP4, &[0; 12]);
        for cut in 0..good.len() {
            assert!(parse(&good[..cut]).await.is_err(), "{cut}");
        }
        for bad in [
            header(PROXY, TCP4, &[0; 9]),
            header(PROXY, TCP6, &[0; 12]),
            header(PROXY, 0x12, &[0; 12]),
            header(0x11, TCP4, &[0; 12]),
            header(PROXY, TCP4, &[0; MAX_REST + 1]),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 40000 22\r\n".to_vec(),
            b"SSH-2.0-OpenSSH_9.2p1\r\n".to_vec(),
        ] {
            assert!(parse(&bad).await.is_err());
        }
    }
}
