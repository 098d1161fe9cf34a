//! The `AS2/` tree: paths below an account's root are made and read here; what stands in its upper directories is `sftp_tree/shelves.rs`.
//!
//! `<S>` and `<P>` are AS2 ids with every byte outside `[A-Za-z0-9._-]`, and a leading dot, written as `%XX`. The mapping
//! is injective, so that no partner's id can name another's directory or leave its own.

use unicode_normalization::UnicodeNormalization as _;

use crate::words;

/// Longest name of an uploaded file in bytes: 255 less room for our suffixes.
pub const MAX_UPLOAD_NAME: usize = 229;
/// Longest encoded directory name in bytes.
pub const MAX_DIR_NAME: usize = 255;
/// Longest name of a received attachment in bytes; longer ones are cut, keeping the extension.
pub const MAX_ATTACHMENT_NAME: usize = 200;
/// The header block of a message, in its directory below `headers`.
pub const HEADERS_FILE: &str = "headers.txt";
/// The raw bytes of a message, in its directory below `raw-message`.
pub const RAW_FILE: &str = "message.as2";

words! {
    /// The branches of the tree that hold records of messages, each with a box below station and partner.
    pub enum Area {
        /// Payloads in clear.
        Files = "files",
        /// Header blocks as on the wire.
        Headers = "headers",
        /// Message bodies as on the wire.
        RawMessage = "raw-message",
        /// MDNs, by direction.
        RawMdn = "raw-mdn",
        /// Uploads refused by the six-hour rule.
        Duplicate = "duplicate",
    }
}

words! {
    /// The boxes below station and partner.
    pub enum Tray {
        /// Received.
        Inbox = "inbox",
        /// Sent and delivered.
        Outbox = "outbox",
        /// Given up; only below `files`.
        Failed = "failed",
    }
}

/// What a path below an account's home means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The account's home.
    Home,
    /// `AS2/`.
    Top,
    /// `AS2/send`.
    Send,
    /// `AS2/send/<S>`.
    SendStation(String),
    /// `AS2/send/<S>/<P>`: the only place that takes uploads.
    SendPair(String, String),
    /// A file there.
    SendFile(String, String, String),
    /// A directory made by configuration: an area, a station, a partner, a box.
    Shelf(Vec<String>),
    /// A message's directory or a file in the records: parent directory and name.
    Record(String, String),
    /// `AS2/keystore`, `AS2/tmp` and everything below.
    Closed,
    /// Nothing can be here.
    Nowhere,
}

impl Place {
    /// Reads the components below the account's home. Station and partner come back as AS2 ids.
    #[must_use]
    pub fn read(components: &[&str]) -> Place {
        match components {
            [] => Place::Home,
            ["AS2"] => Place::Top,
            ["AS2", "keystore" | "tmp", ..] => Place::Closed,
            ["AS2", "send", rest @ ..] => Self::read_send(rest),
            ["AS2", area, rest @ ..] => match area.parse::<Area>() {
                Ok(area) => Self::read_area(area, rest),
                Err(_) => Place::Nowhere,
            },
            _ => Place::Nowhere,
        }
    }

    fn read_send(rest: &[&str]) -> Place {
        let (Some(station), Some(partner)) = (
            rest.first().map_or(Some(String::new()), |s| decode(s)),
            rest.get(1).map_or(Some(String::new()), |p| decode(p)),
        ) else {
            return Place::Nowhere;
        };
        match rest.len() {
            0 => Place::Send,
            1 => Place::SendStation(station),
            2 => Place::SendPair(station, partner),
            3 => Place::SendFile(station, partner, rest[2].to_owned()),
            _ => Place::Nowhere,
        }
    }

    fn read_area(area: Area, rest: &[&str]) -> Place {
        // How many levels below the area are made by configuration, and how many by messages.
        let (shelves, records) = match area {
            Area::Files | Area::Headers | Area::RawMessage => (3, 2),
            Area::RawMdn => (1, 1),
            Area::Duplicate => (2, 1),
        };
        if rest.len() <= shelves {
            let mut path = vec![area.as_str().to_owned()];
            path.extend(rest.iter().map(|part| (*part).to_owned()));
            return Place::Shelf(path);
        }
        if rest.len() > shelves + records {
            return Place::Nowhere;
        }
        let (name, parents) = rest.split_last().unwrap_or((&"", &[]));
        Place::Record(format!("AS2/{area}/{}", parents.join("/")), (*name).to_owned())
    }
}

/// An account's directory: the home of its users, in the published tree and among the key stores.
#[must_use]
pub fn home(account: &str) -> String {
    format!("mftg-{account}")
}

/// The account whose home a path begins with.
#[must_use]
pub fn account_of(path: &str) -> Option<&str> {
    path.strip_prefix("mftg-")?.split('/').next()
}

/// A path below the account's home, which may stand in front of it.
#[must_use]
pub fn below_home<'a>(account: &str, path: &'a str) -> &'a str {
    path.strip_prefix(&format!("{}/", home(account))).unwrap_or(path)
}

/// The directories of an area, as texts: from the first one on, and before the second.
#[must_use]
pub fn below(area: Area) -> (String, String) {
    // '0' follows '/'.
    (format!("AS2/{area}/"), format!("AS2/{area}0"))
}

/// The directory of a message's records, e.g. `AS2/files/ALICE/BOB/inbox`.
#[must_use]
pub fn shelf(area: Area, station: &str, partner: &str, which: Tray) -> String {
    format!("AS2/{area}/{}/{}/{which}", encode(station), encode(partner))
}

/// The directory of [`Place::Shelf`].
#[must_use]
pub fn shelf_dir(parts: &[String]) -> String {
    format!("AS2/{}", parts.join("/"))
}

/// Whether a directory holds files of one received message: `AS2/files/<S>/<P>/inbox/<message>`, or below that.
#[must_use]
pub fn is_received(dir: &str) -> bool {
    let mut parts = dir.split('/').skip(1);
    parts.next() == Some(Area::Files.as_str()) && parts.nth(2) == Some(Tray::Inbox.as_str()) && parts.next().is_some()
}

/// `AS2/duplicate/<S>/<P>`.
#[must_use]
pub fn duplicate_dir(station: &str, partner: &str) -> String {
    format!("AS2/duplicate/{}/{}", encode(station), encode(partner))
}

/// `AS2/send/<S>/<P>`.
#[must_use]
pub fn send_dir(station: &str, partner: &str) -> String {
    format!("AS2/send/{}/{}", encode(station), encode(partner))
}

/// `AS2/raw-mdn/incoming` or `AS2/raw-mdn/outgoing`.
#[must_use]
pub fn mdn_dir(incoming: MdnDirection) -> &'static str {
    match incoming {
        MdnDirection::Incoming => "AS2/raw-mdn/incoming",
        MdnDirection::Outgoing => "AS2/raw-mdn/outgoing",
    }
}

/// Which way an MDN went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MdnDirection {
    /// A partner's answer to us.
    Incoming,
    /// Our answer to a partner.
    Outgoing,
}

/// The directory name of an AS2 id.
#[must_use]
pub fn encode(id: &str) -> String {
    let mut out = String::with_capacity(id.len());
    for (at, byte) in id.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || (byte == b'.' && at > 0);
        if plain {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The AS2 id of a directory name, if it is one that `encode` makes.
#[must_use]
pub fn decode(dir: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(dir.len());
    let mut rest = dir.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let hex = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    let id = String::from_utf8(bytes).ok()?;
    (encode(&id) == dir).then_some(id)
}

/// Checks the name of an uploaded file.
///
/// # Errors
/// The reason, in words for the client.
pub fn check_upload_name(name: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(name).map_err(|_| "file name is not valid UTF-8".to_owned())?;
    if text.is_empty() || text == "." || text == ".." {
        return Err("file name is empty or a directory".to_owned());
    }
    if text.len() > MAX_UPLOAD_NAME {
        return Err(format!("file name is longer than {MAX_UPLOAD_NAME} bytes"));
    }
    if text.chars().any(|c| c == '/' || c.is_control()) {
        return Err("file name holds a control character or a slash".to_owned());
    }
    Ok(text)
}

/// The form in which names are compared: NFC, so that macOS and Windows spellings are one name.
#[must_use]
pub fn name_key(name: &str) -> String {
    name.nfc().collect()
}

/// A safe name for a received attachment (as2.md SEC7): never fails, falls back to `payload-<n>`.
#[must_use]
pub fn attachment_name(wanted: Option<&str>, index: usize, extension: &str) -> String {
    let last = wanted.unwrap_or_default().rsplit(['/', '\\']).next().unwrap_or_default();
    let clean: String = last.nfc().filter(|c| !c.is_control() && !is_bidi(*c)).collect();
    // A time of day in a name is no drive.
    let clean = match clean.as_bytes() {
        [drive, b':', ..] if drive.is_ascii_alphabetic() => &clean[2..],
        _ => &clean,
    };
    let clean = clean.replace(':', "_");
    let clean = clean.trim().trim_start_matches('.').trim_end_matches(['.', ' ']);
    if clean.is_empty() {
        return format!("payload-{}.{extension}", index + 1);
    }
    let clean = if is_device(clean) { format!("_{clean}") } else { clean.to_owned() };
    cut(&clean, MAX_ATTACHMENT_NAME)
}

/// The name with `~2`, `~3` … before the extension.
#[must_use]
pub fn numbered(name: &str, n: usize) -> String {
    tagged(name, &n.to_string())
}

/// `<stem>~<tag><ext>`, for further duplicates of one name.
#[must_use]
pub fn tagged(name: &str, tag: &str) -> String {
    match name.rsplit_once('.') {
        Some((stem, ext)) if !stem.is_empty() => format!("{stem}~{tag}.{ext}"),
        _ => format!("{name}~{tag}"),
    }
}

/// Cuts a name to a number of bytes, keeping a short extension and whole characters.
fn cut(name: &str, max: usize) -> String {
    if name.len() <= max {
        return name.to_owned();
    }
    let ext = name
        .rsplit_once('.')
        .map(|(_, e)| format!(".{e}"))
        .filter(|e| e.len() <= 20)
        .unwrap_or_default();
    let mut end = max - ext.len();
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{ext}", &name[..end])
}

fn is_bidi(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().to_ascii_uppercase();
    matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL")
        || (stem.len() == 4 && (stem.starts_with("COM") || stem.starts_with("LPT")) && stem.ends_with(|c: char| c.is_ascii_digit()))
}

/// Matches a file name against patterns with `*` as the only special character; ASCII letters match in either case, since systems
/// that know no case write `INV1.TMP`.
#[must_use]
pub fn matches_any(name: &str, patterns: &[String]) -> bool {
    patterns.iter().any(|pattern| matches(name.as_bytes(), pattern.as_bytes()))
}

fn matches(name: &[u8], pattern: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|skip| matches(&name[skip..], rest)),
        Some((first, rest)) => name.first().is_some_and(|byte| byte.eq_ignore_ascii_case(first)) && matches(&name[1..], rest),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_become_safe_directories() {
        assert_eq!(encode("AS 2/x"), "AS%202%2Fx");
        assert_eq!(encode("../etc"), "%2E.%2Fetc");
        assert_eq!(encode("a.b"), "a.b");
        assert_eq!(decode("AS%202%2fx"), None, "only our own spelling is a directory");
    }

    #[test]
    fn places_are_read() {
        assert_eq!(
            Place::read(&["AS2", "send", "A", "B", "f"]),
            Place::SendFile("A".into(), "B".into(), "f".into())
        );
        assert_eq!(Place::read(&["AS2", "tmp", "x"]), Place::Closed);
        assert_eq!(
            Place::read(&["AS2", "files", "A", "B", "inbox"]),
            Place::Shelf(vec!["files".into(), "A".into(), "B".into(), "inbox".into()])
        );
        assert_eq!(
            Place::read(&["AS2", "files", "A", "B", "inbox", "id", "f"]),
            Place::Record("AS2/files/A/B/inbox/id".into(), "f".into())
        );
        assert_eq!(
            Place::read(&["AS2", "raw-mdn", "incoming", "x.mdn"]),
            Place::Record("AS2/raw-mdn/incoming".into(), "x.mdn".into())
        );
        assert_eq!(Place::read(&["AS2", "files", "A", "B", "inbox", "id", "f", "g"]), Place::Nowhere);
    }

    #[test]
    fn only_directories_below_an_inbox_hold_received_files() {
        let inbox = shelf(Area::Files, "ALICE", "BOB", Tray::Inbox);
        assert!(is_received(&format!("{inbox}/01J")) && is_received(&format!("{inbox}/01J/x")));
        assert!(!is_received(&inbox));
        let others = [
            (Area::Files, Tray::Outbox),
            (Area::RawMessage, Tray::Inbox),
            (Area::Headers, Tray::Inbox),
        ];
        for (area, tray) in others {
            assert!(!is_received(&format!("{}/01J", shelf(area, "ALICE", "BOB", tray))), "{area}");
        }
    }

    #[test]
    fn attachment_names_are_safe() {
        assert_eq!(attachment_name(Some("../../etc/passwd"), 0, "bin"), "passwd");
        assert_eq!(attachment_name(Some("C:\\x\\order.edi"), 0, "bin"), "order.edi");
        assert_eq!(attachment_name(Some("C:order.edi"), 0, "bin"), "order.edi");
        assert_eq!(
            attachment_name(Some("ORDERS_2025-07-31T13:34:50.xml"), 0, "bin"),
            "ORDERS_2025-07-31T13_34_50.xml"
        );
        assert_eq!(attachment_name(Some(".."), 1, "bin"), "payload-2.bin");
        assert_eq!(attachment_name(Some("nul.txt"), 0, "bin"), "_nul.txt");
        assert!(attachment_name(Some(&format!("{}.edi", "ä".repeat(300))), 0, "bin").ends_with(".edi"));
    }

    #[test]
    fn temp_names_match() {
        let patterns: Vec<String> = ["*.part", ".*", "*~"].iter().map(|p| (*p).to_string()).collect();
        assert!(matches_any("a.part", &patterns) && matches_any(".x", &patterns) && matches_any("a~", &patterns));
        assert!(!matches_any("a.parts", &patterns));
        assert!(matches_any("INV1.PART", &patterns) && matches_any("x.tmp", &["*.TMP".to_owned()]));
    }

    proptest! {
        #[test]
        fn encoding_is_injective_and_safe(id in "[ -~]{1,128}") {
            let dir = encode(&id);
            prop_assert_eq!(decode(&dir), Some(id));
            prop_assert!(!dir.contains('/') && dir != "." && dir != "..");
        }

        #[test]
        fn attachment_names_never_escape(name in "\\PC{0,400}") {
            let safe = attachment_name(Some(&name), 0, "bin");
            prop_assert!(!safe.is_empty() && safe.len() <= MAX_ATTACHMENT_NAME && !safe.contains(['/', '\\', '\0']) && !safe.starts_with('.'));
        }
    }
}
