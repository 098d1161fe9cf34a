//! Lists of keys and certificates that count no more: OpenSSH's binary KRL, or a text in the manner of `ssh-keygen`'s KRL
//! specifications. Either is refused as a whole when a part of it is not understood.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use openssl::sha::sha1;

use super::krl::{self, Bitmap};
use super::public::{fingerprint, parse_public};

/// What is revoked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Fingerprints, `SHA256:…`, of users' and authorities' keys.
    keys: HashSet<String>,
    /// SHA-1 of such keys.
    sha1: HashSet<[u8; 20]>,
    certificates: Vec<Certificates>,
}

/// Certificates of one authority, or of any.
#[derive(Debug, Default, PartialEq, Eq)]
struct Certificates {
    /// Fingerprint of the authority's key; `None` for every authority.
    authority: Option<String>,
    /// Serial numbers from one to another, in order and apart.
    serials: Vec<(u64, u64)>,
    bitmaps: Vec<Bitmap>,
    ids: HashSet<String>,
}

impl Revocations {
    /// Reads a list of either form.
    ///
    /// # Errors
    /// What is not understood, in one line; of a text its number.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.is_empty() {
            // Rather a file that is just being written than one that was meant to revoke nothing.
            return Err("it is empty; a list that revokes nothing has a line that begins with #".to_owned());
        }
        if krl::is_krl(bytes) {
            let again = "make it again with ssh-keygen -k";
            return krl::parse(bytes)
                .map(Self::from)
                .map_err(|why| format!("not a good OpenSSH revocation list: {why}; {again}"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| "neither a text nor an OpenSSH revocation list (ssh-keygen -k)".to_owned())?;
        parse_text(text)
    }

    /// Whether a key, in SSH wire form, is revoked.
    #[must_use]
    pub fn has_key(&self, blob: &[u8]) -> bool {
        self.keys.contains(&fingerprint(blob)) || (!self.sha1.is_empty() && self.sha1.contains(&sha1(blob)))
    }

    /// Whether a certificate is revoked, for itself: its key and its authority's are asked about by
    /// [`has_key`](Self::has_key).
    #[must_use]
    pub fn has_certificate(&self, authority: &[u8], serial: u64, id: &str) -> bool {
        let authority = fingerprint(authority);
        let mine = |list: &&Certificates| list.authority.as_ref().is_none_or(|named| *named == authority);
        self.certificates.iter().filter(mine).any(|list| list.has(serial, id))
    }
}

impl Certificates {
    fn has(&self, serial: u64, id: &str) -> bool {
        // Serial 0 means that the authority gives no numbers (PROTOCOL.certkeys).
        let before = self.serials.partition_point(|(first, _)| *first <= serial);
        let within = before
            .checked_sub(1)
            .and_then(|at| self.serials.get(at))
            .is_some_and(|(_, last)| serial <= *last);
        within || (serial != 0 && self.bitmaps.iter().any(|bits| bits.has(serial))) || self.ids.contains(&printable(id))
    }

    fn sorted(mut self) -> Self {
        self.serials.sort_unstable();
        let mut apart: Vec<(u64, u64)> = Vec::new();
        for (first, last) in self.serials {
            match apart.last_mut() {
                Some((_, end)) if first <= *end => *end = last.max(*end),
                _ => apart.push((first, last)),
            }
        }
        Self { serials: apart, ..self }
    }
}

/// Control characters do not count in names: they would not be seen in a list either.
fn printable(id: &str) -> String {
    id.chars().filter(|c| !c.is_control()).collect()
}

impl From<krl::Krl> for Revocations {
    fn from(krl: krl::Krl) -> Self {
        let digests = krl.sha256.iter().map(|digest| format!("SHA256:{}", STANDARD_NO_PAD.encode(digest)));
        let keys = krl.keys.iter().map(|blob| fingerprint(blob));
        let certificates = krl.certificates.into_iter().map(|list| {
            Certificates {
                authority: list.authority.as_deref().map(fingerprint),
                serials: list.serials,
                bitmaps: list.bitmaps,
                ids: list.ids.iter().map(|id| printable(id)).collect(),
            }
            .sorted()
        });
        Self {
            keys: digests.chain(keys).collect(),
            sha1: krl.sha1.into_iter().collect(),
            certificates: certificates.collect(),
        }
    }
}

fn parse_text(text: &str) -> Result<Revocations, String> {
    let (mut keys, mut list) = (HashSet::new(), Certificates::default());
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = || {
            format!(
                "line {}: neither a public key, SHA256:… of one, serial: N[-M], id: NAME, key: LINE, sha256: LINE nor hash: SHA256:…",
                at + 1
            )
        };
        let (word, rest) = line.split_once(':').map_or(("", line), |(word, rest)| (word, rest.trim()));
        match word.to_ascii_lowercase().as_str() {
            "serial" => {
                let (first, last) = rest.split_once('-').unwrap_or((rest, rest));
                let number = |text: &str| text.trim().parse::<u64>().map_err(|_| wrong());
                let (first, last) = (number(first)?, number(last)?);
                // The other way round it would be taken and revoke nothing.
                if last < first {
                    return Err(wrong());
                }
                list.serials.push((first, last));
            }
            "id" if !rest.is_empty() => {
                list.ids.insert(printable(rest));
            }
            // ssh-keygen means a key by `sha1:` and `sha256:`, and a fingerprint by `hash:`.
            "sha256" | "hash" => match digest(rest) {
                Some(key) => drop(keys.insert(key)),
                None => keys.extend(fingerprints(rest).ok_or_else(wrong)?),
            },
            "key" | "sha1" => keys.extend(fingerprints(rest).ok_or_else(wrong)?),
            _ => keys.extend(fingerprints(line).ok_or_else(wrong)?),
        }
    }
    Ok(Revocations {
        keys,
        sha1: HashSet::new(),
        certificates: vec![list.sorted()],
    })
}

/// A fingerprint as [`fingerprint`] writes it; with `SHA256:` before it or not, with `=` behind it or not.
fn digest(text: &str) -> Option<String> {
    let digest = text.trim_start_matches("SHA256:").trim_end_matches('=');
    let bytes = STANDARD_NO_PAD.decode(digest).ok()?;
    (bytes.len() == 32).then(|| format!("SHA256:{digest}"))
}

fn fingerprints(line: &str) -> Option<Vec<String>> {
    let keys = parse_public(line).ok()?;
    Some(keys.into_iter().map(|key| key.fingerprint).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ssh::wire::Blob;
    use openssl::sha::sha256;

    #[test]
    fn texts_are_read_line_by_line() {
        let [one, two, three] = [1u8, 2, 3].map(|n| STANDARD_NO_PAD.encode([n; 32]));
        let text = format!(
            "# gone\n\nserial: 7\nserial: 10-12\nserial: 11-20\nid: bob at acme\nSHA256:{one}\nsha256: SHA256:{two}=\nhash: SHA256:{three}\n"
        );
        let list = parse_text(&text).unwrap();
        let certificates = &list.certificates[0];
        assert_eq!(certificates.serials, [(7, 7), (10, 20)]);
        assert!(certificates.ids.contains("bob at acme"));
        assert!([one, two, three].iter().all(|key| list.keys.contains(&format!("SHA256:{key}"))));
        for (serial, revoked) in [(0, false), (6, false), (7, true), (8, false), (10, true), (20, true), (21, false)] {
            assert_eq!(list.has_certificate(b"any", serial, "x"), revoked, "{serial}");
        }
        assert!(
            list.has_certificate(b"any", 0, "bob at\u{7} acme"),
            "what cannot be seen does not count"
        );
        for wrong in [
            "serial: x",
            "serial: 9-7",
            "nonsense",
            "key: nonsense",
            "id:",
            "sha256:",
            "sha256: SHA256:short",
            "hash: MD5:00:11",
        ] {
            assert!(
                parse_text(&format!("serial: 1\n{wrong}\n")).unwrap_err().starts_with("line 2"),
                "{wrong}"
            );
        }
        assert!(Revocations::parse(b"").unwrap_err().contains("empty"));
        assert!(Revocations::parse(&[0xff, 0xfe]).is_err());
    }

    #[test]
    fn a_key_counts_whichever_word_ssh_keygen_has_for_it() {
        let line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let known = fingerprints(line).unwrap();
        for word in ["", "key: ", "sha1: ", "sha256: "] {
            let list = parse_text(&format!("{word}{line}\n")).unwrap();
            assert!(list.keys.len() == 1 && known.iter().all(|key| list.keys.contains(key)), "{word}");
        }
    }

    fn section(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind][..], &Blob::default().string(body).finish()].concat()
    }

    fn krl(sections: &[Vec<u8>]) -> Vec<u8> {
        let texts = Blob::default().string("").string("a comment").finish();
        [&krl::MAGIC[..], &1u32.to_be_bytes(), &[0; 24], &texts, &sections.concat()].concat()
    }

    fn certificates(authority: &[u8], parts: &[Vec<u8>]) -> Vec<u8> {
        let head = Blob::default().string(authority).string("").finish();
        section(1, &[&head[..], &parts.concat()].concat())
    }

    #[test]
    fn sections_count_for_whom_they_name() {
        let numbers = |list: &[u64]| list.iter().flat_map(|n| n.to_be_bytes()).collect::<Vec<u8>>();
        let bitmap = [&numbers(&[1000])[..], &Blob::default().mpint(&[0x81, 0x05]).finish()].concat();
        let ids = Blob::default().string("one").string("two").finish();
        let list = Revocations::parse(&krl(&[
            certificates(b"ours", &[section(0x20, &numbers(&[5, 9])), section(0x22, &bitmap)]),
            certificates(b"", &[section(0x21, &numbers(&[20, 30])), section(0x23, &ids)]),
            section(2, &Blob::default().string("a key").finish()),
            section(3, &Blob::default().string(sha1(b"by sha1")).finish()),
            section(5, &Blob::default().string(sha256(b"by sha256")).finish()),
            section(
                255,
                &[&Blob::default().string("x@example.com").finish()[..], &[0, 0, 0, 0, 0]].concat(),
            ),
        ]))
        .unwrap();
        for (authority, serial, id, revoked) in [
            (&b"ours"[..], 5, "", true),
            (b"ours", 6, "", false),
            (b"theirs", 5, "", false),
            (b"ours", 1000, "", true),
            (b"ours", 1001, "", false),
            (b"ours", 1002, "", true),
            (b"ours", 1008, "", true),
            (b"ours", 1015, "", true),
            (b"ours", 1016, "", false),
            (b"theirs", 25, "", true),
            (b"theirs", 0, "two", true),
            (b"theirs", 0, "three", false),
        ] {
            assert_eq!(list.has_certificate(authority, serial, id), revoked, "{serial} {id}");
        }
        for (blob, revoked) in [(&b"a key"[..], true), (b"by sha1", true), (b"by sha256", true), (b"another", false)] {
            assert_eq!(list.has_key(blob), revoked);
        }
    }

    #[test]
    fn what_is_not_understood_refuses_the_whole_list() {
        let good = krl(&[section(2, &Blob::default().string("a key").finish())]);
        assert!(Revocations::parse(&good).is_ok());
        // Behind the comment the list may end; anywhere else it is cut.
        let header = krl(&[]).len();
        for cut in 1..good.len() {
            assert_eq!(Revocations::parse(&good[..cut]).is_ok(), cut == header, "{cut}");
        }
        let mut newer = good.clone();
        newer[11] = 2;
        let critical = [&Blob::default().string("x@example.com").finish()[..], &[1, 0, 0, 0, 0]].concat();
        for (bad, why) in [
            (newer, "version 1"),
            (krl(&[section(7, b"")]), "unknown type"),
            (krl(&[section(4, b"")]), "signed"),
            (krl(&[section(255, &critical)]), "must be understood"),
            (krl(&[section(3, &Blob::default().string("short").finish())]), "wrong length"),
            (krl(&[certificates(b"", &[section(0x21, &[0; 16])])]), "begins at 0"),
            (krl(&[certificates(b"", &[section(0x21, &[1; 17])])]), "more bytes"),
            (krl(&[certificates(b"", &[section(0x30, b"")])]), "unknown type"),
        ] {
            let told = Revocations::parse(&bad).unwrap_err();
            assert!(told.contains(why) && !told.contains('\n'), "{told}");
        }
    }

    #[test]
    fn no_flipped_bit_panics_or_grows() {
        let bitmap = [&[0, 0, 0, 0, 0, 0, 0, 1][..], &Blob::default().mpint(&[0x81, 0x05]).finish()].concat();
        let good = krl(&[
            certificates(b"ours", &[section(0x20, &[0, 0, 0, 0, 0, 0, 0, 9]), section(0x22, &bitmap)]),
            section(3, &Blob::default().string([7; 20]).finish()),
        ]);
        let mut understood = 0;
        for bit in 0..good.len() * 8 {
            let mut list = good.clone();
            list[bit / 8] ^= 1 << (bit % 8);
            if let Ok(list) = Revocations::parse(&list) {
                understood += 1;
                let _ = list.has_certificate(b"ours", 9, "x");
            }
        }
        assert!(understood > 0 && understood < good.len() * 8);
    }
}
