//! Just enough DER and BER to recognise files, to cut certificates out of containers byte for byte, and to bound what a
//! container asks us to compute (X.690 §8).
//!
//! openssl decodes the contents; this module only walks the outside. Indefinite lengths occur in P7B and PKCS#12 files of
//! older Java tools.

/// Deepest nesting walked.
const MAX_DEPTH: usize = 32;
/// Most rounds of a key derivation that we compute for a file: about ten seconds.
pub(crate) const MAX_KDF_ITERATIONS: u64 = 10_000_000;

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const CONTEXT_0: u8 = 0xa0;
pub(crate) const CONTEXT_3: u8 = 0xa3;
const CONSTRUCTED: u8 = 0x20;
const CONSTRUCTED_OCTET_STRING: u8 = OCTET_STRING | CONSTRUCTED;

/// One value with its tag.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    /// Without tag and length, and without the end marker of an indefinite length.
    pub(crate) content: &'a [u8],
    /// The whole of it, as it stands in the file.
    pub(crate) raw: &'a [u8],
}

impl<'a> Element<'a> {
    /// The values inside, or nothing if one of them is broken.
    pub(crate) fn children(&self) -> Option<Vec<Element<'a>>> {
        elements(self.content, MAX_DEPTH)
    }

    pub(crate) fn child(&self, index: usize) -> Option<Element<'a>> {
        self.children()?.into_iter().nth(index)
    }

    fn is_constructed(&self) -> bool {
        self.tag & CONSTRUCTED != 0
    }
}

/// The first value of `input`; what follows it is left alone.
pub(crate) fn first(input: &[u8]) -> Option<Element<'_>> {
    read(input, MAX_DEPTH)
}

fn elements(mut input: &[u8], depth: usize) -> Option<Vec<Element<'_>>> {
    let mut found = Vec::new();
    while !input.is_empty() {
        let element = read(input, depth)?;
        input = input.get(element.raw.len()..)?;
        found.push(element);
    }
    Some(found)
}

fn read(input: &[u8], depth: usize) -> Option<Element<'_>> {
    let depth = depth.checked_sub(1)?;
    let (&tag, mut rest) = input.split_first()?;
    if tag & 0x1f == 0x1f {
        // A high tag number: seven bits per byte, the last one below 0x80.
        let end = rest.iter().position(|b| *b < 0x80)?;
        rest = rest.get(end + 1..)?;
    }
    let (&length, rest) = rest.split_first()?;
    let header = input.len() - rest.len();
    match length {
        0x80 if tag & CONSTRUCTED != 0 => read_indefinite(input, header, tag, depth),
        0x80 => None,
        0..0x80 => cut(input, header, tag, usize::from(length)),
        _ => {
            let digits = rest.get(..usize::from(length & 0x7f))?;
            let bytes = digits
                .iter()
                .try_fold(0usize, |sum, digit| sum.checked_mul(256)?.checked_add(usize::from(*digit)))?;
            cut(input, header.checked_add(digits.len())?, tag, bytes)
        }
    }
}

fn cut(input: &[u8], header: usize, tag: u8, bytes: usize) -> Option<Element<'_>> {
    let end = header.checked_add(bytes)?;
    Some(Element {
        tag,
        content: input.get(header..end)?,
        raw: input.get(..end)?,
    })
}

fn read_indefinite(input: &[u8], header: usize, tag: u8, depth: usize) -> Option<Element<'_>> {
    let mut at = header;
    loop {
        let rest = input.get(at..)?;
        if rest.starts_with(&[0, 0]) {
            return Some(Element {
                tag,
                content: input.get(header..at)?,
                raw: input.get(..at.checked_add(2)?)?,
            });
        }
        at = at.checked_add(read(rest, depth)?.raw.len())?;
    }
}

/// Whether a key derivation in this file asks for more than [`MAX_KDF_ITERATIONS`].
///
/// In PBKDF2, in PKCS#12's own derivation and in its MAC alike the count is the INTEGER after the salt's OCTET STRING.
pub(crate) fn asks_too_much(input: &[u8]) -> bool {
    walk(input, MAX_DEPTH)
}

fn walk(input: &[u8], depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else {
        return false;
    };
    let Some(children) = elements(input, MAX_DEPTH) else {
        return false;
    };
    let mut after_salt = false;
    for child in children {
        if after_salt && child.tag == INTEGER && unsigned(child.content) > MAX_KDF_ITERATIONS {
            return true;
        }
        let inside = match child.tag {
            CONSTRUCTED_OCTET_STRING => octets(&child).is_some_and(|joined| walk(&joined, depth)),
            // PKCS#12 nests its containers in octet strings.
            OCTET_STRING => walk(child.content, depth),
            _ => child.is_constructed() && walk(child.content, depth),
        };
        if inside {
            return true;
        }
        after_salt = matches!(child.tag, OCTET_STRING | CONSTRUCTED_OCTET_STRING);
    }
    false
}

/// The name of an encryption in this file that neither of our libraries decrypts.
pub(crate) fn unsupported_scheme(input: &[u8]) -> Option<&'static str> {
    scheme(input, MAX_DEPTH)
}

fn scheme(input: &[u8], depth: usize) -> Option<&'static str> {
    let depth = depth.checked_sub(1)?;
    elements(input, MAX_DEPTH)?.iter().find_map(|child| match child.tag {
        OID => UNSUPPORTED.iter().find(|(oid, _)| *oid == child.content).map(|(_, name)| *name),
        CONSTRUCTED_OCTET_STRING => scheme(&octets(child)?, depth),
        OCTET_STRING => scheme(child.content, depth),
        _ if child.is_constructed() => scheme(child.content, depth),
        _ => None,
    })
}

/// Of PKCS#5, PKCS#12 and, for PBES2, the ciphers themselves: openssl has them in its legacy provider only.
const UNSUPPORTED: [(&[u8], &str); 12] = [
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 1], "PBE-MD2-DES"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 3], "PBE-MD5-DES"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 4], "PBE-MD2-RC2-64"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 6], "PBE-MD5-RC2-64"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 10], "PBE-SHA1-DES"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 11], "PBE-SHA1-RC2-64"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 12, 1, 1], "PBE-SHA1-RC4-128"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 12, 1, 2], "PBE-SHA1-RC4-40"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 12, 1, 5], "PBE-SHA1-RC2-128"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 3, 2], "RC2"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 3, 4], "RC4"),
    (&[0x2b, 0x0e, 3, 2, 7], "DES"),
];

/// The bytes of an octet string, joined if BER has cut it into pieces.
pub(crate) fn octets(element: &Element<'_>) -> Option<Vec<u8>> {
    match element.tag {
        OCTET_STRING => Some(element.content.to_vec()),
        CONSTRUCTED_OCTET_STRING => {
            let parts = element.children()?;
            parts
                .iter()
                .map(|p| (p.tag == OCTET_STRING).then_some(p.content))
                .collect::<Option<Vec<_>>>()
                .map(|p| p.concat())
        }
        _ => None,
    }
}

fn unsigned(content: &[u8]) -> u64 {
    content
        .iter()
        .fold(0u64, |sum, digit| sum.saturating_mul(256).saturating_add(u64::from(*digit)))
}

/// A value in DER of the given parts.
pub(crate) fn encode(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let bytes: usize = parts.iter().map(|p| p.len()).sum();
    let mut out = vec![tag];
    match u8::try_from(bytes) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let digits = bytes.to_be_bytes();
            let zeros = digits.iter().take_while(|d| **d == 0).count();
            let digits = digits.get(zeros..).unwrap_or_default();
            out.push(0x80 | u8::try_from(digits.len()).unwrap_or(8));
            out.extend_from_slice(digits);
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn definite_and_indefinite_lengths_give_the_same_children() {
        let der = [0x30, 6, 2, 1, 5, 4, 1, 9];
        let ber = [0x30, 0x80, 2, 1, 5, 4, 1, 9, 0, 0, 0xff];
        for input in [&der[..], &ber] {
            let children = first(input).unwrap().children().unwrap();
            assert_eq!(children.len(), 2);
            assert_eq!((children[0].tag, children[0].content), (INTEGER, &[5][..]));
            assert_eq!(children[1].raw, [4, 1, 9]);
        }
        assert_eq!(first(&ber).unwrap().raw.len(), ber.len() - 1);
    }

    #[test]
    fn no_prefix_of_a_value_reads_or_panics() {
        let value = encode(SEQUENCE, &[&encode(OCTET_STRING, &[&[7; 300]])]);
        for end in 0..value.len() {
            assert!(first(&value[..end]).is_none(), "prefix of {end}");
        }
        assert!(first(&value).is_some());
    }

    #[test]
    fn deep_nesting_ends() {
        let deep = [0x30, 0x80].repeat(100_000);
        assert!(first(&deep).is_none());
        assert!(!asks_too_much(&deep));
    }

    #[test]
    fn a_huge_iteration_count_is_seen_at_any_depth() {
        let params = |count: &[u8]| {
            let salt = encode(OCTET_STRING, &[&[1; 8]]);
            encode(SEQUENCE, &[&salt, &encode(INTEGER, &[count])])
        };
        let hidden = |count| encode(SEQUENCE, &[&encode(OCTET_STRING, &[&params(count)])]);
        assert!(asks_too_much(&hidden(&[0x7f, 0xff, 0xff, 0xff])));
        assert!(!asks_too_much(&hidden(&[0x27, 0x10])));
    }
}
