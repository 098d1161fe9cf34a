//! The SSH wire's strings and integers (RFC 4251 §5), in which keys are written.

use zeroize::Zeroizing;

/// Reads fields; `None` when the bytes end too soon.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.bytes(1)?.first().copied()
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.bytes(4)?.try_into().ok()?))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.bytes(8)?.try_into().ok()?))
    }

    pub(crate) fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.bytes(usize::try_from(length).ok()?)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.string()?).ok()
    }

    /// A positive integer without its leading zeros; `None` for a negative one.
    pub(crate) fn mpint(&mut self) -> Option<&'a [u8]> {
        let digits = self.string()?;
        if digits.first().is_some_and(|first| first & 0x80 != 0) {
            return None;
        }
        Some(trim(digits))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Writes fields; wiped when dropped, for they may be a private key's.
#[derive(Default)]
pub(crate) struct Blob(Zeroizing<Vec<u8>>);

impl Blob {
    pub(crate) fn string(mut self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        // Keys and comments are bounded far below this by their callers.
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn mpint(self, digits: &[u8]) -> Self {
        let digits = trim(digits);
        if digits.first().is_some_and(|first| first & 0x80 != 0) {
            let signed = Zeroizing::new([&[0], digits].concat());
            return self.string(signed.as_slice());
        }
        self.string(digits)
    }

    /// The same with as many leading zeros as make it `length` bytes.
    pub(crate) fn padded_mpint(self, digits: &[u8], length: usize) -> Self {
        let digits = trim(digits);
        let mut whole = Zeroizing::new(Vec::with_capacity(length.max(digits.len())));
        whole.resize(length.saturating_sub(digits.len()), 0);
        whole.extend_from_slice(digits);
        if whole.first().is_some_and(|first| first & 0x80 != 0) {
            return self.mpint(digits);
        }
        self.string(whole.as_slice())
    }

    pub(crate) fn finish(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

pub(crate) fn trim(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|d| **d == 0).count();
    digits.get(zeros..).unwrap_or_default()
}
