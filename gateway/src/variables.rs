//! `$`-variables of a partner's `subject`, `file_name` and `headers`, and of a submitter's subject: a closed set of words.
//!
//! Only operators and submitters write templates. What stands for a variable is put in once and never looked at again, so
//! that a `$` in a file name or an AS2 id means itself (as2.md SEC9).

use crate::clock::Millis;
use crate::message::Message;

/// The variables, in the order in which help shows them.
pub const KNOWN: [&str; 8] = ["file", "stem", "ext", "station", "partner", "id", "date", "time"];

/// A piece of a template.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    /// `$name` or `${name}`, and how it was written.
    Variable(&'a str, &'a str),
}

/// Whether every variable of a template is known.
///
/// # Errors
/// The first one that is not, and what to write instead.
pub fn check(name: &str, template: &str) -> Result<(), String> {
    for piece in pieces(template) {
        if let Piece::Variable(variable, written) = piece
            && !KNOWN.contains(&variable)
        {
            let known: Vec<String> = KNOWN.iter().map(|known| format!("${known}")).collect();
            return Err(format!(
                "{name}: `{}` is no variable\nknown are {}; write $$ for a dollar",
                written.escape_default(),
                known.join(", ")
            ));
        }
    }
    Ok(())
}

/// The text of a template for a message. Unknown variables stay as they are: those of a template that was accepted before
/// there was a rule.
#[must_use]
pub fn expand(template: &str, message: &Message) -> String {
    expand_with(template, message, |value| value)
}

/// The same for the name of a file, which ids are not made for: no slash or drive of a value makes a path of it.
#[must_use]
pub fn expand_name(template: &str, message: &Message) -> String {
    expand_with(template, message, |value| value.replace(['/', '\\', ':'], "_"))
}

fn expand_with(template: &str, message: &Message, put: impl Fn(String) -> String) -> String {
    let pieces = pieces(template).into_iter().map(|piece| match piece {
        Piece::Text(text) => text.to_owned(),
        Piece::Variable(variable, written) => value(variable, message).map_or_else(|| written.to_owned(), &put),
    });
    pieces
        .collect::<String>()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Date and time are those of acceptance, in UTC: the same bytes come out whenever a message is packaged.
fn value(variable: &str, message: &Message) -> Option<String> {
    let (stem, ext) = match message.file.rsplit_once('.') {
        Some((stem, ext)) if !stem.is_empty() => (stem, ext),
        _ => (message.file.as_str(), ""),
    };
    Some(match variable {
        "file" => message.file.clone(),
        "stem" => stem.to_owned(),
        "ext" => ext.to_owned(),
        "station" => message.station.clone(),
        "partner" => message.partner.clone(),
        "id" => message.id.as_str().to_owned(),
        "date" => stamp(message.created, "%Y%m%d"),
        "time" => stamp(message.created, "%H%M%S"),
        _ => return None,
    })
}

fn stamp(at: Millis, form: &str) -> String {
    jiff::Timestamp::from_millisecond(at).map_or_else(|_| String::new(), |at| at.strftime(form).to_string())
}

/// Cuts a template: `$$` is a dollar; a name is letters, or anything in braces.
fn pieces(template: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        let (before, dollar) = rest.split_at(at);
        if !before.is_empty() {
            pieces.push(Piece::Text(before));
        }
        let after = dollar.get(1..).unwrap_or_default();
        let (piece, len) = if after.starts_with('$') {
            (Piece::Text("$"), 2)
        } else if let Some(end) = after.strip_prefix('{').and_then(|inner| inner.find('}')) {
            let written = dollar.get(..end + 3).unwrap_or(dollar);
            (Piece::Variable(after.get(1..=end).unwrap_or_default(), written), end + 3)
        } else {
            let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
            let written = dollar.get(..=end).unwrap_or(dollar);
            (Piece::Variable(after.get(..end).unwrap_or_default(), written), end + 1)
        };
        pieces.push(piece);
        rest = dollar.get(len..).unwrap_or_default();
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    pieces
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::message::{Direction, State};

    fn message(file: &str) -> Message {
        let between = ("acme", "ALICE", "B$file");
        Message {
            file: file.to_owned(),
            ..Message::new(Direction::Out, State::Queued, between, 1_753_968_890_000)
        }
    }

    #[test]
    fn every_variable_stands_for_its_value() {
        let message = message("order.v2.edi");
        let text = expand("$file|$stem|$ext|$station|$id|$date-$time|${stem}x|$$5", &message);
        let wanted = format!(
            "order.v2.edi|order.v2|edi|ALICE|{}|20250731-133450|order.v2x|$5",
            message.id.as_str()
        );
        assert_eq!(text, wanted);
        for known in KNOWN {
            assert!(check("subject", &format!("a ${known}.${{{known}}}")).is_ok(), "{known}");
            assert!(value(known, &message).is_some(), "{known}");
        }
    }

    #[test]
    fn values_are_never_templates() {
        assert_eq!(expand("$partner $file", &message("$station.txt")), "B$file $station.txt");
    }

    #[test]
    fn unknown_variables_are_refused_and_name_the_known_ones() {
        for bad in ["$filename", "$", "a $ b", "${}", "${file", "$5", "$FILE", "${file name}"] {
            let why = check("subject", bad).unwrap_err();
            assert!(why.contains("$station") && why.contains("$$"), "{bad}: {why}");
        }
        assert_eq!(expand("$nobody, $5", &message("a")), "$nobody, $5");
    }

    #[test]
    fn no_value_makes_a_path_of_a_name() {
        let message = Message {
            station: "C:S".to_owned(),
            partner: "X/Y\\Z".to_owned(),
            ..message("o1.edi")
        };
        assert_eq!(expand_name("$station-$partner-$stem.$ext", &message), "C_S-X_Y_Z-o1.edi");
        assert_eq!(expand("$station-$partner", &message), "C:S-X/Y\\Z", "a subject has any character");
    }

    #[test]
    fn names_without_extension_and_hidden_ones() {
        assert_eq!(expand("$stem,$ext", &message("README")), "README,");
        assert_eq!(expand("$stem,$ext", &message(".profile")), ".profile,");
    }

    #[test]
    fn control_characters_never_come_out() {
        assert_eq!(expand("a\r\nb $file", &message("c\td")), "a  b c d");
    }
}
