//! What refusals and their hints say in the same words everywhere: what there is instead, and commands that a shell takes.

use std::borrow::Cow;

use crate::message::Message;

/// The word as POSIX shells read it: as it is where that is safe, else in single quotes (POSIX.1-2017, Shell Command Language
/// §2.2). AS2 ids may hold blanks, quotes and dollar signs; names of users, accounts and certificates need none of this.
#[must_use]
pub(crate) fn quoted(word: &str) -> Cow<'_, str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/' | b':' | b'@' | b'%' | b'+' | b',' | b'=');
    if !word.is_empty() && word.bytes().all(plain) {
        return Cow::Borrowed(word);
    }
    Cow::Owned(format!("'{}'", word.replace('\'', r"'\''")))
}

/// A command about an AS2 id with its options; an id that begins with a minus stands last, behind `--`.
pub(crate) fn command(verb: &str, id: &str, options: &str) -> String {
    let word = quoted(id);
    let words = match id.starts_with('-') {
        true => [verb, options, "--", &word],
        false => [verb, &word, options, ""],
    };
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    format!("as2gate {}", words.join(" "))
}

/// An option with an AS2 id as its value, which may begin with a minus.
pub(crate) fn option(name: &str, id: &str) -> String {
    let between = if id.starts_with('-') { "=" } else { " " };
    format!("--{name}{between}{}", quoted(id))
}

/// A rule's word, which is why and, behind a line break if there is one, what to do next; empty if there is none.
pub(crate) fn with_hint(why: &str) -> (&str, &str) {
    why.split_once('\n').unwrap_or((why, ""))
}

/// Why an AS2 id is not found, and what helps: to look at the spelling, or to `add` the first one.
pub(crate) fn instead<'a>(kind: &str, known: impl Iterator<Item = &'a str>, add: &'static str) -> (String, &'static str) {
    let mut known = known.peekable();
    let hint = match known.peek() {
        Some(_) => "AS2 ids are compared exactly, case included",
        None => add,
    };
    (format!("known {kind}: {}", listed(known, "none")), hint)
}

/// What is left of an id or a name for people who read over case and blanks.
pub(crate) fn at_a_glance(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").to_lowercase()
}

/// Whether people take one AS2 id for the other: they differ, in case or blanks only.
pub(crate) fn look_alike(one: &str, other: &str) -> bool {
    one != other && at_a_glance(one) == at_a_glance(other)
}

/// What helps where a partner does not know the pair of a message: one of the two ids is not what it goes by.
pub(crate) fn unknown_pair(message: &Message) -> String {
    format!(
        "ask the partner to register our AS2 id {}, exact in case; or if its own is not {}: {}, then as2gate message resend {} --to ID",
        message.station,
        message.partner,
        command("partner set", &message.partner, "--as2-id ID"),
        message.id.short()
    )
}

/// "a, b and c", or what to say when there is none.
pub(crate) fn listed<'a>(names: impl Iterator<Item = &'a str>, none: &str) -> String {
    /// Names shown in one line.
    const MAX_LISTED: usize = 5;
    let names: Vec<&str> = names.take(MAX_LISTED + 1).collect();
    match names.len() {
        0 => none.to_owned(),
        n if n > MAX_LISTED => format!("{}, …", names[..MAX_LISTED].join(", ")),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_id_that_begins_with_a_minus_is_no_option() {
        assert_eq!(command("partner set", "ACME", "--url URL"), "as2gate partner set ACME --url URL");
        assert_eq!(
            command("partner set", "-B c", "--url URL"),
            "as2gate partner set --url URL -- '-B c'"
        );
        assert_eq!(command("cert rollover", "-B", ""), "as2gate cert rollover -- -B");
        assert_eq!(
            [option("partner", "ACME"), option("partner", "-B")],
            ["--partner ACME", "--partner=-B"]
        );
    }

    #[test]
    fn a_shell_reads_one_word() {
        let words = [
            "ACME_PROD",
            "Big Co",
            "",
            "it's",
            r#"a"b\c"#,
            "$HOME",
            "a;b|c&d",
            "*",
            "~root",
            "#x",
            "x=1",
            "ä/ö",
            "`id`",
            "!!",
        ];
        for word in words {
            let script = format!("printf '<%s>' {}", quoted(word));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("<{word}>"));
        }
        assert_eq!(quoted("ACME_PROD-1.x"), "ACME_PROD-1.x");
    }
}
