//! What goes back over the wire.

use std::net::SocketAddr;

use as2_core::headers::Headers;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::receipt::Mdn;
use crate::clock::Millis;
use crate::http::{Arrival, Reply};
use crate::storage::StorageError;

/// 413 with the limit.
pub(super) fn too_large(max: u64) -> Reply {
    Reply::text(413, &format!("the message is larger than {max} bytes\r\n"))
}

/// 401 with its challenge (RFC 7617 §2).
pub(super) fn unauthorized(peer: SocketAddr) -> Reply {
    tracing::warn!(%peer, "a POST without the partner's credentials refused");
    let mut reply = Reply::text(401, "user name and password are missing or wrong\r\n");
    let _ = reply.headers.push("WWW-Authenticate", "Basic realm=\"AS2\", charset=\"UTF-8\"");
    reply
}

/// Tells that a sender waited long for its answer, and may have given up.
pub(super) fn slow(arrival: &Arrival, took: Millis, status: u16) {
    let field = |name: &str| arrival.head.headers.get(name).unwrap_or_default();
    tracing::warn!(
        station = field("AS2-To"),
        partner = field("AS2-From"),
        message_id = field("Message-ID"),
        seconds = took / 1000,
        status,
        "a message took long to answer: its sender may have given up"
    );
}

/// Whether a request shows the credentials that are asked of its partner, if any. Takes the same time for every wrong one
/// of the same length.
pub(super) fn shows(arrival: &Arrival, asked: Option<&(String, Zeroizing<String>)>) -> bool {
    let Some((user, password)) = asked else { return true };
    let shown = arrival.head.headers.get("Authorization").unwrap_or_default();
    let Some(encoded) = shown
        .get(..6)
        .filter(|scheme| scheme.eq_ignore_ascii_case("basic "))
        .and(shown.get(6..))
    else {
        return false;
    };
    let Ok(decoded) = STANDARD.decode(encoded.trim()) else {
        return false;
    };
    let wanted = Zeroizing::new(format!("{user}:{}", password.as_str()));
    decoded.len() == wanted.len() && openssl::memcmp::eq(&decoded, wanted.as_bytes())
}

/// A header block as it came, but for passwords: it becomes a file that users fetch.
pub(super) fn without_secrets(block: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(block.len());
    let mut secret = false;
    for line in block.split_inclusive(|byte| *byte == b'\n') {
        let folded = line.starts_with(b" ") || line.starts_with(b"\t");
        if !folded {
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            secret = [&b"authorization"[..], b"proxy-authorization"]
                .iter()
                .any(|known| name.eq_ignore_ascii_case(known));
            if secret {
                kept.extend_from_slice(name);
                kept.extend_from_slice(b": ***\r\n");
            }
        }
        if !secret {
            kept.extend_from_slice(line);
        }
    }
    kept
}

/// The body is not as long as its head said.
pub(super) fn other_length() -> Reply {
    Reply::text(400, "the body has another length than its Content-Range says\r\n")
}

/// 503 with `Retry-After`.
pub(super) fn later(line: &str) -> Reply {
    let mut reply = Reply::text(503, &format!("{line}\r\n"));
    let _ = reply.headers.push("Retry-After", "30");
    reply
}

/// Our disk cannot take it.
pub(super) fn not_now(error: &StorageError) -> Reply {
    tracing::error!(%error, "cannot keep a message");
    later(if error.is_full() {
        "no room at this moment"
    } else {
        "cannot store the message at this moment"
    })
}

/// A stored MDN, in the answer.
pub(super) fn mdn((block, body): Mdn) -> Reply {
    match Headers::parse(block.as_bytes()) {
        Ok(headers) => Reply {
            status: 200,
            headers,
            body,
            length: None,
        },
        Err(error) => {
            tracing::error!(%error, "a stored MDN cannot be read");
            later("the stored receipt cannot be read")
        }
    }
}

/// Partner text for a row and a line of ours.
pub(super) fn clean(text: &str, most: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_no_evidence() {
        let block = b"Host: x\r\nAUTHORIZATION: Basic\r\n\tYTpi\r\nX: \xff\r\n y\r\nProxy-Authorization: z\r\n";
        let kept = without_secrets(block);
        assert_eq!(
            kept,
            b"Host: x\r\nAUTHORIZATION: ***\r\nX: \xff\r\n y\r\nProxy-Authorization: ***\r\n"
        );
    }
}
