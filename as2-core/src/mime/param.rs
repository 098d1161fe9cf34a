//! `type/subtype; name=value` in all the spellings met: case, order, quotes, blanks, RFC 2231 and RFC 2047 names.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::without_comments;

/// Most parameters read of one value.
const MAX_PARAMS: usize = 64;
/// Longest file name that is decoded, in bytes as it comes. File systems take 255; in RFC 2231 each of them is three.
const MAX_NAME: usize = 1024;

/// A parsed `Content-Type` or `Content-Disposition`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MediaType {
    /// Before the first `;`, as spelled.
    pub(crate) spelled: String,
    /// The same in lower case.
    pub(crate) essence: String,
    /// Names in lower case, values without quotes.
    params: Vec<(String, String)>,
}

impl MediaType {
    /// Never fails: what cannot be understood is not there.
    pub(crate) fn parse(value: &str) -> Self {
        let value = value.trim();
        // COMPAT(as2-lib #95): a whole value in quotes.
        let value = if value.starts_with('"') {
            value.trim_matches('"').trim_end()
        } else {
            value
        };
        let value = &*without_comments(value);
        let (head, mut rest) = value.split_once(';').unwrap_or((value, ""));
        let mut params = Vec::new();
        while !rest.trim().is_empty() && params.len() < MAX_PARAMS {
            let end = rest.find(['=', ';']).unwrap_or(rest.len());
            let (name, tail) = rest.split_at(end);
            let Some(tail) = tail.strip_prefix('=') else {
                rest = tail.trim_start_matches(';');
                continue;
            };
            let (text, tail) = param_value(tail.trim_start());
            params.push((name.trim().to_ascii_lowercase(), text));
            rest = tail;
        }
        let spelled: String = head.trim().to_owned();
        MediaType {
            essence: spelled.to_ascii_lowercase(),
            spelled,
            params,
        }
    }

    /// A parameter by its name in lower case.
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A parameter that is a file name, from its best form: RFC 2231 (also in pieces), else plain with RFC 2047 words decoded.
    /// One that is too long is none: half of it would lack its ending. Nor is one in a charset that we do not know: a neutral name
    /// is better than a wrong one.
    pub(crate) fn name_param(&self, name: &str) -> Option<String> {
        let plain = || {
            let text = self.param(name).filter(|text| text.len() <= MAX_NAME)?;
            let (text, complete) = decode_words(text);
            complete.then_some(text)
        };
        let found = self.extended(name).or_else(plain);
        found.filter(|text| !text.is_empty() && !text.contains(ESCAPE))
    }

    /// A file name that came and is [none](Self::name_param) for us, as it came.
    pub(crate) fn strange_name(&self, name: &str) -> Option<&str> {
        if self.name_param(name).is_some() {
            return None;
        }
        let forms = [format!("{name}*"), format!("{name}*0*"), name.to_owned()];
        forms
            .iter()
            .find_map(|form| self.param(form))
            .filter(|text| !text.trim().is_empty())
    }

    /// `name*`, or `name*0`, `name*1*` … joined (RFC 2231 §3, §4).
    fn extended(&self, name: &str) -> Option<String> {
        if let Some(value) = self.param(&format!("{name}*")).filter(|text| text.len() <= MAX_NAME) {
            let (charset, text) = split_charset(value);
            return decode_charset(charset, &percent_decode(text)).filter(|text| !text.is_empty());
        }
        let mut charset = "";
        let mut bytes = Vec::new();
        for index in 0..MAX_PARAMS {
            if let Some(value) = self.param(&format!("{name}*{index}*")) {
                let text = if index == 0 {
                    let (found, text) = split_charset(value);
                    charset = found;
                    text
                } else {
                    value
                };
                bytes.extend(percent_decode(text));
            } else if let Some(value) = self.param(&format!("{name}*{index}")) {
                bytes.extend_from_slice(value.as_bytes());
            } else {
                break;
            }
            if bytes.len() > MAX_NAME {
                return None;
            }
        }
        decode_charset(charset, &bytes).filter(|text| !text.is_empty())
    }

    pub(crate) fn is_multipart(&self) -> bool {
        self.essence.starts_with("multipart/")
    }

    /// `application/pkcs7-mime` in both spellings, except the container of bare certificates.
    pub(crate) fn is_cms(&self) -> bool {
        matches!(self.essence.as_str(), "application/pkcs7-mime" | "application/x-pkcs7-mime")
            && !self.param("smime-type").is_some_and(|t| t.eq_ignore_ascii_case("certs-only"))
    }

    pub(crate) fn is_signature(&self) -> bool {
        matches!(
            self.essence.as_str(),
            "application/pkcs7-signature" | "application/x-pkcs7-signature"
        )
    }
}

/// A value and what follows its `;`. Quotes may be missing, doubled, or hold a Windows path.
fn param_value(text: &str) -> (String, &str) {
    let doubled = text
        .strip_prefix("\"\"")
        .is_some_and(|rest| !rest.trim_start().starts_with(';') && !rest.trim().is_empty());
    let Some(quoted) = text.strip_prefix('"').filter(|_| !doubled) else {
        let (value, rest) = text.split_once(';').unwrap_or((text, ""));
        return (value.trim().trim_matches('"').to_owned(), rest);
    };
    let mut out = String::new();
    let mut chars = quoted.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                let after = quoted.get(at + 1..).unwrap_or_default();
                return (out, after.split_once(';').map_or("", |(_, rest)| rest));
            }
            // Only these two are escapes that products write; any other backslash belongs to a path.
            '\\' if chars.peek().is_some_and(|(_, next)| matches!(next, '"' | '\\')) => out.extend(chars.next().map(|(_, next)| next)),
            other => out.push(other),
        }
    }
    (out, "")
}

fn split_charset(value: &str) -> (&str, &str) {
    let mut pieces = value.splitn(3, '\'');
    match (pieces.next(), pieces.next(), pieces.next()) {
        (Some(charset), Some(_), Some(text)) => (charset, text),
        _ => ("utf-8", value),
    }
}

fn percent_decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let pair = bytes
            .get(at + 1..at + 3)
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (byte, pair) {
            (b'%', Some(value)) => {
                out.push(value);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// Begins a change of the character set in ISO-2022, which some products write without a word about it.
const ESCAPE: char = '\u{1b}';

/// The characters of windows-1252 at 0x80 and on; NUL where there is none.
const WINDOWS_1252: [char; 32] = [
    '€', '\0', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\0', 'Ž', '\0', '\0', '‘', '’', '“', '”', '•', '–', '—', '˜', '™',
    'š', '›', 'œ', '\0', 'ž', 'Ÿ',
];

/// What these bytes say, if we know the charset: UTF-8, and the two of Western Europe, as which also those names are read that claim
/// UTF-8, or nothing. Of others only what is ASCII, where that is certain.
fn decode_charset(charset: &str, bytes: &[u8]) -> Option<String> {
    let single = |character: fn(u8) -> char| {
        let text: String = bytes.iter().map(|&b| character(b)).collect();
        (!text.contains('\0')).then_some(text)
    };
    match charset.to_ascii_lowercase().as_str() {
        "" | "utf-8" | "utf8" | "us-ascii" | "ascii" => match str::from_utf8(bytes) {
            Ok(text) => Some(text.to_owned()),
            Err(_) => single(windows_1252),
        },
        // Nobody writes the control characters that ISO 8859-1 has there.
        "iso-8859-1" | "iso8859-1" | "iso_8859-1" | "latin1" | "windows-1252" | "cp1252" => single(windows_1252),
        "iso-8859-15" | "iso8859-15" | "latin9" | "latin-9" => single(iso_8859_15),
        other => {
            // These are made of ASCII and mean something else.
            let shifts = ["iso-2022", "utf-7", "hz-gb"].iter().any(|name| other.starts_with(name));
            let text = str::from_utf8(bytes).ok().filter(|text| text.is_ascii() && !shifts);
            text.map(str::to_owned)
        }
    }
}

fn windows_1252(byte: u8) -> char {
    let special = byte.checked_sub(0x80).and_then(|at| WINDOWS_1252.get(usize::from(at)));
    special.copied().unwrap_or(char::from(byte))
}

fn iso_8859_15(byte: u8) -> char {
    match byte {
        0xa4 => '€',
        0xa6 => 'Š',
        0xa8 => 'š',
        0xb4 => 'Ž',
        0xb8 => 'ž',
        0xbc => 'Œ',
        0xbd => 'œ',
        0xbe => 'Ÿ',
        other => windows_1252(other),
    }
}

/// Decodes `=?charset?B|Q?text?=`; blanks between two such words vanish (RFC 2047 §6.2). A word in a charset that we do not know
/// stays as it is, and makes the answer `false`.
pub(crate) fn decode_words(text: &str) -> (String, bool) {
    let mut complete = true;
    let mut out = String::new();
    let mut rest = text;
    // Neighbours of one charset.
    let mut words: Vec<Word<'_>> = Vec::new();
    while let Some(start) = rest.find("=?") {
        let (before, found) = rest.split_at(start);
        let word = Word::read(found);
        let last = words.last().filter(|_| before.trim().is_empty());
        let goes_on = last.is_some();
        let is_of_one = |(word, _): &(Word<'_>, _)| last.is_some_and(|last| last.charset.eq_ignore_ascii_case(word.charset));
        if !word.as_ref().is_some_and(is_of_one) {
            complete &= write_words(&mut out, &mut words);
        }
        let Some((word, tail)) = word else {
            out.push_str(before);
            out.push_str("=?");
            rest = found.get(2..).unwrap_or_default();
            continue;
        };
        if !goes_on {
            out.push_str(before);
        }
        words.push(word);
        rest = tail;
    }
    complete &= write_words(&mut out, &mut words);
    out.push_str(rest);
    (out, complete)
}

/// Writes words of one charset, and takes them away; false if it is not known.
///
/// COMPAT: a letter of several bytes may be split between two words, which RFC 2047 §5 forbids.
fn write_words(out: &mut String, words: &mut Vec<Word<'_>>) -> bool {
    let mut complete = true;
    let joined = words.iter().flat_map(|word| word.bytes.iter().copied()).collect();
    if let (Some(first), Ok(text)) = (words.first(), String::from_utf8(joined))
        && let Some(text) = decode_charset(first.charset, text.as_bytes())
    {
        out.push_str(&text);
        words.clear();
    }
    for word in words.drain(..) {
        let decoded = decode_charset(word.charset, &word.bytes);
        complete &= decoded.is_some();
        out.push_str(decoded.as_deref().unwrap_or(word.spelled));
    }
    complete
}

struct Word<'a> {
    /// As it stands there.
    spelled: &'a str,
    charset: &'a str,
    bytes: Vec<u8>,
}

impl<'a> Word<'a> {
    /// The word that a text begins with, and what follows it.
    fn read(text: &'a str) -> Option<(Self, &'a str)> {
        let mut pieces = text.strip_prefix("=?")?.splitn(3, '?');
        let (charset, encoding, rest) = (pieces.next()?, pieces.next()?, pieces.next()?);
        // The text holds no `?` (RFC 2047 §2). So no search goes past the next word, and all of them together read the value once.
        let (body, tail) = rest.split_once('?')?;
        let tail = tail.strip_prefix('=')?;
        let bytes = match encoding {
            "B" | "b" => STANDARD_NO_PAD.decode(body.trim_end_matches('=')).ok()?,
            "Q" | "q" => percent_decode(&body.replace('%', "%25").replace('_', " ").replace('=', "%")),
            _ => return None,
        };
        let word = Word {
            spelled: text.get(..text.len() - tail.len()).unwrap_or(text),
            charset: charset.split('*').next().unwrap_or_default(),
            bytes,
        };
        Some((word, tail))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_types, clippy::disallowed_methods)]
    use super::*;

    #[test]
    fn parameters_in_every_spelling() {
        let forms = [
            "multipart/signed; protocol=\"application/pkcs7-signature\"; micalg=sha256; \tboundary=\"--=_x;1\"",
            "Multipart/Signed;BOUNDARY=\"--=_x;1\" ; MicAlg = sha256;protocol=application/pkcs7-signature;",
        ];
        for form in forms {
            let parsed = MediaType::parse(form);
            assert_eq!(parsed.essence, "multipart/signed", "{form}");
            assert_eq!(parsed.param("boundary"), Some("--=_x;1"), "{form}");
            assert_eq!(parsed.param("micalg"), Some("sha256"), "{form}");
            assert_eq!(parsed.param("protocol"), Some("application/pkcs7-signature"), "{form}");
        }
        assert_eq!(
            MediaType::parse("multipart/signed; boundary==_a=b").param("boundary"),
            Some("=_a=b")
        );
        assert_eq!(MediaType::parse("\"application/EDI-X12\"").spelled, "application/EDI-X12");
    }

    #[test]
    fn names_in_every_spelling() {
        let forms = [
            ("attachment; filename=\"a b.edi\"", "a b.edi"),
            ("Attachment; filename=a b.edi; x=y", "a b.edi"),
            ("attachment; filename=\"\"a.edi\"\"", "a.edi"),
            ("attachment; filename=\"a\\\"b.edi\"", "a\"b.edi"),
            ("attachment; filename=\"C:\\dir\\new.edi\"", "C:\\dir\\new.edi"),
            ("attachment; filename=\"x\"; filename*=UTF-8''%C3%BC%20.edi", "ü .edi"),
            ("attachment; filename*=iso-8859-1'en'%FC.edi", "ü.edi"),
            ("attachment; filename*0*=UTF-8''%C3%BC; filename*1=\"b.edi\"", "üb.edi"),
            ("attachment; filename=\"=?UTF-8?B?w7wuZWRp?=\"", "ü.edi"),
            ("attachment; filename=\"=?iso-8859-1?Q?=FC_a?= =?utf-8?q?.edi?=\"", "ü a.edi"),
            ("attachment; filename=\"x.edi\"; filename*=UTF-8''", "x.edi"),
            (
                "attachment; filename=\"=?UTF-8?B?Z3LD?= =?utf-8*de?Q?=BC=C3=9F?= e.edi\"",
                "grüß e.edi",
            ),
            ("attachment; filename=\"=?UTF-8?B?w7w=?= =?UTF-8?Q?=E9.edi?=\"", "üé.edi"),
            ("attachment; filename=\"=?UTF-8?Q?a?= b =?UTF-8?Q?c?=\"", "a b c"),
        ];
        for (form, name) in forms {
            assert_eq!(MediaType::parse(form).name_param("filename").as_deref(), Some(name), "{form}");
        }
        assert_eq!(MediaType::parse("attachment; filename=\"\"").name_param("filename"), None);
        assert_eq!(MediaType::parse("attachment; filename=\"\"; size=3").param("size"), Some("3"));
    }

    #[test]
    fn names_cost_no_more_than_they_are_long() {
        let started = std::time::Instant::now();
        for piece in ["=?a?b? ", "=?a?b?x", "=?a?q", "=?", "=?a?b?=?a?b?", "%C3", "; "] {
            let long = piece.repeat(240_000 / piece.len());
            decode_words(&long);
            decode_words(&format!("{long}?="));
            for form in [
                format!("attachment; filename=\"{long}\""),
                format!("attachment; filename*=UTF-8''{long}"),
                format!("\"attachment{long}      \""),
                format!("attachment; filename=\"{long}?=\"; x={long}"),
            ] {
                MediaType::parse(&form).name_param("filename");
            }
        }
        // Each took seconds where words without an end were looked for again and again.
        assert!(started.elapsed() < std::time::Duration::from_secs(2), "{:?}", started.elapsed());
        let name = |len: usize| MediaType::parse(&format!("attachment; filename={}", "n".repeat(len))).name_param("filename");
        assert!(name(MAX_NAME).is_some() && name(MAX_NAME + 1).is_none());
    }

    #[test]
    fn names_in_charsets_of_others() {
        let forms = [
            ("attachment; filename*=windows-1252''%80uro%95.edi", Some("€uro•.edi")),
            ("attachment; filename=\"=?Windows-1252?Q?=80=FC.edi?=\"", Some("€ü.edi")),
            ("attachment; filename*=ISO-8859-15''%A4.edi", Some("€.edi")),
            ("attachment; filename*=iso-8859-1''%A4.edi", Some("¤.edi")),
            ("attachment; filename*=us-ascii''a.edi", Some("a.edi")),
            ("attachment; filename*=koi8-r''a.edi", Some("a.edi")),
            ("attachment; filename*=''%C3%BC.edi", Some("ü.edi")),
            ("attachment; filename*=utf-8''%FC.edi", Some("ü.edi")),
            ("attachment; filename*=shift_jis''%83e%83X%83g.edi", None),
            ("attachment; filename*=shift_jis''%CF%B0.edi", None),
            (
                "attachment; filename=\"b.edi\"; filename*=shift_jis''%83e%83X%83g.edi",
                Some("b.edi"),
            ),
            ("attachment; filename=\"=?ISO-2022-JP?B?GyRCRnxLXBsoQg==?=.edi\"", None),
            ("attachment; filename=\"\x1b$BF|K\\\x1b(B.edi\"", None),
            ("attachment; filename*=windows-1252''%81.edi", None),
        ];
        for (form, name) in forms {
            assert_eq!(MediaType::parse(form).name_param("filename").as_deref(), name, "{form}");
        }
        assert_eq!(decode_words("a =?shift_jis?B?g2U=?= b").0, "a =?shift_jis?B?g2U=?= b");
    }
}
