//! Comments in structured header values (RFC 2045 §5.1, RFC 822 §3.4.3).

use std::borrow::Cow;

/// The value without its `(comments)`: before the first `;` and in front of a parameter's `=` anywhere, in other parameters' values
/// behind a blank or a quote only, for there are boundaries with parentheses and without quotes. The values of `name` and `filename`
/// stay as they are: `order (1).edi` is met without quotes. A comment that does not end is none, nor what follows it.
pub(crate) fn without_comments(value: &str) -> Cow<'_, str> {
    if !value.contains('(') {
        return Cow::Borrowed(value);
    }
    let mut out = String::with_capacity(value.len());
    let mut left = value;
    // Where in `out` the part between two `;` began; behind its `=`, whether it is a file name.
    let (mut start, mut file) = (0, None);
    let mut quoted = false;
    while let Some(c) = left.chars().next() {
        let mut len = c.len_utf8();
        match c {
            '\\' if quoted => len += usize::from(left.starts_with("\\\"") || left.starts_with("\\\\")),
            '"' => quoted = !quoted,
            ';' if !quoted => (start, file) = (out.len() + 1, None),
            '=' if !quoted && file.is_none() => file = Some(is_file_name(out.get(start..).unwrap_or_default())),
            '(' if !quoted && may_begin(file, &out) => match comment_len(left) {
                Some(len) => {
                    left = left.get(len..).unwrap_or_default();
                    continue;
                }
                None => break,
            },
            _ => {}
        }
        let (taken, rest) = left.split_at(len);
        out.push_str(taken);
        left = rest;
    }
    out.push_str(left);
    Cow::Owned(out)
}

/// Whether a comment may stand behind `before`, in a value of this sort.
fn may_begin(file: Option<bool>, before: &str) -> bool {
    match file {
        None => true,
        Some(true) => false,
        Some(false) => before.ends_with(|c: char| c == '"' || c.is_whitespace()),
    }
}

/// Whether a parameter is a file name, in whichever form (RFC 2231).
fn is_file_name(parameter: &str) -> bool {
    let name = parameter.split('*').next().unwrap_or_default().trim();
    name.eq_ignore_ascii_case("name") || name.eq_ignore_ascii_case("filename")
}

/// Bytes of the comment that begins here, with those inside of it.
fn comment_len(text: &str) -> Option<usize> {
    let mut depth = 0u32;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_types, clippy::disallowed_methods)]
    use super::*;
    use crate::headers::Headers;
    use crate::mime::{Encoding, MediaType, file_name};

    #[test]
    fn comments_say_nothing() {
        for form in [
            "multipart/related (x); boundary=zz; type=\"a/(b)\"",
            "(a (b) \\) c; boundary=no) multipart/related(\");boundary=zz (y; boundary=q) ;type=\"a/(b)\" (c;d)",
            "multipart(x)/related; (x=y) boundary (x) = (y) zz; type=\"a/(b)\"(ü)",
        ] {
            let media = MediaType::parse(form);
            assert_eq!(media.essence, "multipart/related", "{form}");
            assert_eq!(media.param("boundary"), Some("zz"), "{form}");
            assert_eq!(media.param("type"), Some("a/(b)"), "{form}");
        }
        for (word, encoding) in [
            ("base64 (coded)", Encoding::Base64),
            ("(8bit; once) BASE64", Encoding::Base64),
            ("quoted-printable(a(b))", Encoding::QuotedPrintable),
            ("(x)", Encoding::Identity),
            ("base64 (x", Encoding::Unknown("base64 (x".to_owned())),
        ] {
            let mut headers = Headers::new();
            headers.push("Content-Transfer-Encoding", word).unwrap();
            assert_eq!(Encoding::of(&headers), encoding, "{word}");
        }
    }

    #[test]
    fn parentheses_of_names_and_boundaries_stay() {
        for (form, name) in [
            ("name=order (1).edi", "order (1).edi"),
            ("filename=a(1).txt", "a(1).txt"),
            ("filename=(1).txt; size=3 (x)", "(1).txt"),
            ("size=3; FileName = o.edi (comment)", "o.edi (comment)"),
            ("(c) name = a (b).edi", "a (b).edi"),
            ("name=\"a (1).edi\" (comment)", "a (1).edi"),
            ("filename=\"\"a (1).edi\"\"", "a (1).edi"),
            ("filename=\"a\\\" (1).edi\"", "a\" (1).edi"),
            ("filename*=UTF-8''a (1)%20.edi", "a (1) .edi"),
            ("filename*0*=UTF-8''a (1); filename*1=\" (2).edi\"", "a (1) (2).edi"),
        ] {
            for head in ["attachment; ", "attachment (x;y); ", "attachment; a=\"(\"; "] {
                let mut headers = Headers::new();
                let line = if form.contains("ile") {
                    "Content-Disposition"
                } else {
                    "Content-Type"
                };
                headers.push(line, &format!("{head}{form}")).unwrap();
                assert_eq!(file_name(&headers).as_deref(), Some(name), "{head}{form}");
            }
        }
        for (form, boundary) in [
            ("boundary=Boundary_(ID_a)", "Boundary_(ID_a)"),
            ("boundary=(a)", "(a)"),
            ("boundary=\"a (b)\"", "a (b)"),
            ("boundary=zz (y", "zz (y"),
        ] {
            let media = MediaType::parse(&format!("multipart/mixed; {form}; name=\"x\""));
            assert_eq!(media.param("boundary"), Some(boundary), "{form}");
            assert_eq!(media.param("name"), Some("x"), "{form}");
        }
    }

    #[test]
    fn comments_cost_no_more_than_they_are_long() {
        let started = std::time::Instant::now();
        for piece in ["(", "()", "(;", "a(", " (a=b)", "((\\)", ";a= (", ";(=", "\"(\"", "=("] {
            let long = piece.repeat(1_000_000 / piece.len());
            for form in [long.clone(), format!("{long}))"), format!("a; b={long}"), format!("a; name={long}")] {
                without_comments(&form);
            }
        }
        assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
    }
}
