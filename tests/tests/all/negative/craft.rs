//! Messages and MDNs made by hand; every CMS object by the command line of OpenSSL.

use std::path::{Path, PathBuf};

use tests::order;
use tests::peer::Identity;
use tests::process::{run, run_with, tool};
use tests::wire::{Hit, Request};

use super::{CRAFT, STATION, next};

/// A MIME entity: header lines and a body.
pub(super) struct Entity {
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Entity {
    pub(super) fn new(kind: &str, body: impl Into<Vec<u8>>) -> Self {
        Entity {
            headers: vec![("Content-Type".to_owned(), kind.to_owned())],
            body: body.into(),
        }
    }

    pub(super) fn and(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let head: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        [head.as_bytes(), b"\r\n", &self.body].concat()
    }

    /// As text; everything that is signed here is ASCII.
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.bytes()).unwrap()
    }

    /// `multipart/signed` around it, with a SHA-256 signature.
    pub(super) fn signed(&self, by: &Identity) -> Self {
        self.signed_with(by, "sha256")
    }

    pub(super) fn signed_with(&self, by: &Identity, digest: &str) -> Self {
        let (content, path) = (self.text(), |file: &str| by.path(file).display().to_string());
        let (cert, key) = (path("cert.pem"), path("key.pem"));
        let args = [
            "cms", "-sign", "-binary", "-outform", "PEM", "-md", digest, "-signer", &cert, "-inkey", &key,
        ];
        let made = run_with(&mut tool("openssl", &args), &content).ok();
        let signature: String = made
            .lines()
            .filter(|line| !line.starts_with("-----"))
            .map(|line| line.to_owned() + "\r\n")
            .collect();
        let boundary = format!("signed-{}", next());
        let body = format!(
            "--{boundary}\r\n{content}\r\n--{boundary}\r\nContent-Type: application/pkcs7-signature; name=smime.p7s\r\n\
             Content-Transfer-Encoding: base64\r\n\r\n{signature}--{boundary}--\r\n"
        );
        let kind = format!("multipart/signed; protocol=\"application/pkcs7-signature\"; micalg={digest}; boundary=\"{boundary}\"");
        Entity::new(&kind, body)
    }

    /// Enveloped to a certificate.
    pub(super) fn encrypted(&self, to: &Path) -> Self {
        self.encrypted_with(to, "-aes-256-cbc")
    }

    pub(super) fn encrypted_with(&self, to: &Path, cipher: &str) -> Self {
        let out = tempfile();
        let args = [
            "cms",
            "-encrypt",
            "-binary",
            cipher,
            "-outform",
            "DER",
            "-out",
            out.1.to_str().unwrap(),
            to.to_str().unwrap(),
        ];
        let _ = run_with(&mut tool("openssl", &args), &self.text()).ok();
        let kind = "application/pkcs7-mime; smime-type=enveloped-data; name=smime.p7m";
        Entity::new(kind, std::fs::read(&out.1).unwrap()).and("Content-Transfer-Encoding", "binary")
    }

    /// As a message from the partner, asking for a signed MDN in the answer.
    pub(super) fn message(&self, id: &str) -> Request {
        let own = [
            ("AS2-Version", "1.2"),
            ("AS2-From", CRAFT),
            ("AS2-To", STATION),
            ("Message-ID", id),
            ("Subject", "by hand"),
            ("Disposition-Notification-To", "craft@test"),
            (
                "Disposition-Notification-Options",
                "signed-receipt-protocol=required, pkcs7-signature; signed-receipt-micalg=optional, sha-256",
            ),
        ];
        let mut headers: Vec<_> = own.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        headers.extend(self.headers.clone());
        Request {
            headers,
            body: self.body.clone(),
        }
    }
}

pub(super) fn tempfile() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    (dir, path)
}

pub(super) fn payload() -> Entity {
    Entity::new("application/edi-x12", order(next())).and("Content-Disposition", "attachment; filename=\"order.edi\"")
}

pub(super) fn sha256(text: &str) -> String {
    digest("sha256", text)
}

pub(super) fn digest(algorithm: &str, text: &str) -> String {
    let digest = format!("openssl dgst -{algorithm} -binary | openssl base64 -A");
    run_with(&mut tool("sh", &["-c", &digest]), text).ok().trim().to_owned()
}

/// The digest of what is signed in a request.
pub(super) fn mic_of(hit: &Hit, algorithm: &str) -> String {
    let text = String::from_utf8_lossy(&hit.message.body).into_owned();
    let mark = text.lines().next().unwrap_or_default().to_owned();
    let Some(content) = text.split(&format!("{mark}\r\n")).nth(1) else {
        return String::new();
    };
    digest(algorithm, content.strip_suffix("\r\n").unwrap_or(content))
}

/// A DER value with a long length.
pub(super) fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let len = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x84], &len[..], &content].concat()
}

/// CompressedData (RFC 3274 §1.1) around a zlib stream.
pub(super) fn compressed(zlib: &[u8]) -> Entity {
    const COMPRESSED: &[u8] = b"\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01\x09";
    const ZLIB: &[u8] = b"\x30\x0d\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x03\x08";
    const DATA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01";
    let content = der(0x30, &[DATA, &der(0xa0, &[&der(0x04, &[zlib])])]);
    let made = der(0x30, &[COMPRESSED, &der(0xa0, &[&der(0x30, &[b"\x02\x01\x00", ZLIB, &content])])]);
    let kind = "application/pkcs7-mime; smime-type=compressed-data; name=smime.p7z";
    Entity::new(kind, made).and("Content-Transfer-Encoding", "binary")
}

/// What Python's zlib makes of a head and so many MiB of zeros.
pub(super) fn zlib(head: &[u8], zeros: u32) -> Vec<u8> {
    let out = tempfile();
    std::fs::write(&out.1, head).unwrap();
    let script = "import sys, zlib\nz = zlib.compressobj(9)\nmade = z.compress(open(sys.argv[1], 'rb').read())\n\
                  for _ in range(int(sys.argv[2])): made += z.compress(bytes(1 << 20))\n\
                  open(sys.argv[1], 'wb').write(made + z.flush())";
    let _ = run(&mut tool("python3", &["-c", script, out.1.to_str().unwrap(), &zeros.to_string()])).ok();
    std::fs::read(&out.1).unwrap()
}

/// An MDN in the making.
#[derive(Clone)]
pub(super) struct Receipt {
    pub(super) disposition: String,
    /// A digest, by SHA-256 if nothing stands behind it.
    pub(super) mic: String,
    pub(super) original: String,
    pub(super) from: String,
    pub(super) text: String,
}

impl Receipt {
    /// The one that a message deserves.
    pub(super) fn of(hit: &Hit) -> Self {
        Receipt {
            disposition: "processed".to_owned(),
            mic: mic_of(hit, "sha256"),
            original: hit.message.header("Message-ID").unwrap().to_owned(),
            from: hit.message.header("AS2-To").unwrap().to_owned(),
            text: "Received.".to_owned(),
        }
    }

    pub(super) fn says(mut self, disposition: &str) -> Self {
        disposition.clone_into(&mut self.disposition);
        self
    }

    pub(super) fn entity(&self) -> Entity {
        let boundary = format!("report-{}", next());
        let (from, original, disposition, text) = (&self.from, &self.original, &self.disposition, &self.text);
        let mic = if self.mic.is_empty() {
            String::new()
        } else {
            let algorithm = if self.mic.contains(',') { "" } else { ", sha-256" };
            format!("Received-Content-MIC: {}{algorithm}\r\n", self.mic)
        };
        let body = format!(
            "--{boundary}\r\nContent-Type: text/plain\r\n\r\n{text}\r\n--{boundary}\r\nContent-Type: message/disposition-notification\r\n\r\n\
             Reporting-UA: by hand\r\nFinal-Recipient: rfc822; {from}\r\nOriginal-Message-ID: {original}\r\n\
             Disposition: automatic-action/MDN-sent-automatically; {disposition}\r\n{mic}\r\n--{boundary}--\r\n"
        );
        let kind = format!("multipart/report; report-type=disposition-notification; boundary=\"{boundary}\"");
        Entity::new(&kind, body)
    }

    pub(super) fn wrapped(&self, entity: Entity) -> Request {
        let id = format!("<mdn-{}-{}@test>", std::process::id(), next());
        let own = [
            ("AS2-Version", "1.2"),
            ("AS2-From", &self.from),
            ("AS2-To", STATION),
            ("Message-ID", &id),
        ];
        let mut headers: Vec<_> = own.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        headers.extend(entity.headers);
        Request {
            headers,
            body: entity.body,
        }
    }

    pub(super) fn unsigned(&self) -> Request {
        self.wrapped(self.entity())
    }

    pub(super) fn signed(&self, by: &Identity) -> Request {
        self.wrapped(self.entity().signed(by))
    }
}
