//! The codes of sent messages that ended without the partner's verified word, and what may still become of them.

/// No MDN came in time, or none with the answer.
pub const NO_MDN: &str = "no-mdn";
/// The partner was not reached.
pub const NOT_DELIVERED: &str = "not-delivered";
/// Somebody without the partner's certificate was reached. What it ends as is one of the two above.
pub const TLS_UNTRUSTED: &str = "tls-untrusted";
/// The MDN came in the answer, without the signature that was asked for.
pub const MDN_NOT_SIGNED: &str = "mdn-not-signed";
/// The MDN came in the answer, and its signature does not hold.
pub const MDN_SIGNATURE_INVALID: &str = "mdn-signature-invalid";
/// The MDN in the answer is about something else.
pub const MDN_MISMATCH: &str = "mdn-mismatch";
/// The partner's address led elsewhere.
pub const REDIRECT: &str = "redirect";
/// Settings of ours do not let us go to the address.
pub const DESTINATION_DENIED: &str = "destination-denied";
/// The address cannot be read.
pub const BAD_URL: &str = "bad-url";
/// The token endpoint gave no token.
pub const TOKEN_REFUSED: &str = "token-refused";

/// When an MDN that comes by itself after the end still counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Late {
    Always,
    /// The last try met something else, while an earlier one may have arrived.
    IfArrived,
    Never,
}

/// Every code after which the outcome is open. One that is not here is final: it is neither retried nor answered any more.
const OPEN: [(&str, Late); 9] = [
    (NO_MDN, Late::Always),
    (NOT_DELIVERED, Late::Always),
    (MDN_NOT_SIGNED, Late::Never),
    (MDN_SIGNATURE_INVALID, Late::Never),
    (MDN_MISMATCH, Late::Never),
    (REDIRECT, Late::IfArrived),
    (DESTINATION_DENIED, Late::IfArrived),
    (BAD_URL, Late::IfArrived),
    (TOKEN_REFUSED, Late::IfArrived),
];

/// The code of an answer with a status that ends the message.
#[must_use]
pub fn http(status: u16) -> String {
    format!("{HTTP}{status}")
}

const HTTP: &str = "http-";

fn late(code: &str) -> Option<Late> {
    if code.starts_with(HTTP) {
        return Some(Late::IfArrived);
    }
    OPEN.iter().find(|(open, _)| *open == code).map(|(_, late)| *late)
}

/// Whether the same bytes may be posted again after it.
#[must_use]
pub fn may_be_retried(code: &str) -> bool {
    late(code).is_some()
}

/// Whether an MDN may still settle it. `arrived`: the partner may hold the message after one of the tries.
#[must_use]
pub fn may_be_late(code: &str, arrived: bool) -> bool {
    late(code).is_some_and(|late| late == Late::Always || (late == Late::IfArrived && arrived))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_may_be_retried_and_some_of_it_answered_late() {
        for (code, retried, late) in [
            (NO_MDN, true, [true, true]),
            (TOKEN_REFUSED, true, [false, true]),
            ("http-404", true, [false, true]),
            (MDN_SIGNATURE_INVALID, true, [false, false]),
            ("mic-mismatch", false, [false, false]),
            ("cancelled", false, [false, false]),
            ("", false, [false, false]),
        ] {
            assert_eq!(may_be_retried(code), retried, "{code}");
            assert_eq!([false, true].map(|arrived| may_be_late(code, arrived)), late, "{code}");
        }
    }
}
