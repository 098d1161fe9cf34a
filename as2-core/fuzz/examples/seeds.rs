//! Writes the seeds of the corpus afresh: `cargo run --example seeds -- corpus`. Made by our own code and by `openssl cms`; what
//! should be accepted is checked before it is written.

use as2_core::algorithm::{Cipher, Compression, Digest, DigestNames, KeyTransport, SignatureScheme};
use as2_core::cert::Identity;
use as2_core::cms::{Deflater, EnvelopePlan, Form, OpaqueVerifier, OpenPolicy, Opener, Sealer, SignParams, p7s, verify_detached};
use as2_core::compose::{Composer, Encryption, Finished, Outgoing, PartMeta, Signing, TransferEncoding};
use as2_core::disposition::Disposition;
use as2_core::headers::Headers;
use as2_core::id::As2Id;
use as2_core::mdn::{self, MdnOut};
use as2_core::message_id::MessageId;
use as2_core::mic::Mic;
use as2_core::receipt::ReceiptRequest;
use as2_core::receive::SecurityPolicy;
use as2_core_fuzz::{SHA256_OF_NOTHING, STATIONS, receive};
use std::path::{Path, PathBuf};
use std::process::Command;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const PAYLOAD: &[u8] = b"UNB+UNOA:2+ALICE+BOB+260101:1200+1'\r\nUNZ+1+1'\r\n";
const NOW: i64 = 1_795_478_400;
/// Settings: pieces of 7 bytes; and the same with the legacy bit.
const PIECES: u8 = 6;
const LEGACY: u8 = PIECES | 64;
const SEALED: u8 = PIECES | 32;

fn main() -> Result<()> {
    let corpus = PathBuf::from(std::env::args().nth(1).ok_or("usage: seeds CORPUS")?);
    let scratch = std::env::temp_dir().join(format!("as2-seeds-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let corpus = Corpus { corpus, scratch };
    corpus.envelopes()?;
    corpus.signatures()?;
    corpus.compressed()?;
    corpus.messages()?;
    corpus.receipts()?;
    corpus.words()?;
    std::fs::remove_dir_all(&corpus.scratch)?;
    Ok(())
}

struct Corpus {
    corpus: PathBuf,
    scratch: PathBuf,
}

impl Corpus {
    fn put(&self, target: &str, name: &str, settings: Option<u8>, bytes: &[u8]) -> Result<()> {
        let folder = self.corpus.join(target);
        std::fs::create_dir_all(&folder)?;
        match target {
            "cms_open" => {
                let (mut opener, mut plain) = (Opener::new(&STATIONS.ours, OpenPolicy { accept_3des: true }), Vec::new());
                opener.push(bytes, &mut plain)?;
                opener.finish(&mut plain)?;
                assert_eq!(plain, PAYLOAD, "{name}");
            }
            "cms_signed" if name.starts_with("opaque") => {
                let (mut verifier, mut content) = (OpaqueVerifier::new(), Vec::new());
                verifier.push(bytes, &mut content)?;
                verifier.finish(&mut content, &STATIONS.signers, &|_| true)?;
            }
            "cms_signed" => {
                let digests = [(Digest::Sha256, SHA256_OF_NOTHING.to_vec())];
                verify_detached(bytes, &digests, &STATIONS.signers, &|_| true)?;
            }
            _ => {}
        }
        let head: Vec<u8> = settings.into_iter().collect();
        Ok(std::fs::write(folder.join(name), [&head, bytes].concat())?)
    }

    /// `openssl cms`, with the keys as files, the payload as input.
    fn openssl(&self, words: &str) -> Result<Vec<u8>> {
        let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("keys");
        for name in ["alice", "bob", "carol"] {
            for (suffix, kind) in [("cer", "x509"), ("key", "pkey")] {
                let to = self.scratch.join(format!("{name}.{suffix}"));
                let from = keys.join(format!("{name}.{suffix}"));
                let done = Command::new("openssl")
                    .args([kind, "-inform", "DER", "-in"])
                    .arg(from)
                    .arg("-out")
                    .arg(to)
                    .status()?;
                done.success().then_some(()).ok_or("openssl cannot read a key")?;
            }
        }
        std::fs::write(self.scratch.join("payload"), PAYLOAD)?;
        let done = Command::new("openssl")
            .current_dir(&self.scratch)
            .arg("cms")
            .args(words.split(' '))
            .args(["-in", "payload", "-binary", "-outform", "DER"])
            .output()?;
        if done.status.success() {
            Ok(done.stdout)
        } else {
            Err(String::from_utf8_lossy(&done.stderr).into())
        }
    }

    fn envelopes(&self) -> Result<()> {
        let ours = [
            ("cbc-pkcs1", &STATIONS.bob, Cipher::Aes256Cbc, KeyTransport::RsaPkcs1, Form::Der),
            (
                "cbc-oaep-ber",
                &STATIONS.bob,
                Cipher::Aes128Cbc,
                KeyTransport::OaepSha256,
                Form::Ber,
            ),
            ("gcm-oaep", &STATIONS.bob, Cipher::Aes256Gcm, KeyTransport::OaepSha1, Form::Der),
            (
                "gcm-ecdh-ber",
                &STATIONS.carol,
                Cipher::Aes128Gcm,
                KeyTransport::EcdhSha256,
                Form::Ber,
            ),
            ("cbc-ecdh", &STATIONS.carol, Cipher::Aes128Cbc, KeyTransport::EcdhSha384, Form::Der),
        ];
        for (name, to, cipher, key_transport, form) in ours {
            let plan = EnvelopePlan {
                recipients: vec![to.certificate()],
                cipher,
                key_transport,
                plain_len: PAYLOAD.len() as u64,
                form,
            };
            let (mut sealer, mut out) = (Sealer::new(&plan)?, Vec::new());
            sealer.push(PAYLOAD, &mut out)?;
            sealer.finish(&mut out)?;
            self.put("cms_open", name, Some(PIECES), &out)?;
        }
        self.put(
            "cms_open",
            "openssl-3des",
            Some(LEGACY),
            &self.openssl("-encrypt -des3 -recip bob.cer")?,
        )?;
        self.put(
            "cms_open",
            "openssl-stream",
            Some(PIECES),
            &self.openssl("-encrypt -stream -aes128 -recip bob.cer")?,
        )?;
        self.put(
            "cms_open",
            "openssl-keyid",
            Some(PIECES),
            &self.openssl("-encrypt -aes256 -keyid -recip bob.cer")?,
        )?;
        self.put(
            "cms_open",
            "openssl-two",
            Some(PIECES),
            &self.openssl("-encrypt -aes128 -recip carol.cer -recip bob.cer")?,
        )
    }

    fn signatures(&self) -> Result<()> {
        let cases: [(&str, &Identity, SignatureScheme); 3] = [
            ("pkcs1", &STATIONS.alice, SignatureScheme::RsaPkcs1),
            ("pss", &STATIONS.alice, SignatureScheme::RsaPss),
            ("ecdsa", &STATIONS.carol, SignatureScheme::RsaPkcs1),
        ];
        for (name, identity, scheme) in cases {
            let params = SignParams {
                identity,
                digest: Digest::Sha256,
                scheme,
                include_certificate: name == "pkcs1",
                protect_algorithms: false,
            };
            self.put("cms_signed", name, Some(PIECES), &p7s(&params, &SHA256_OF_NOTHING, NOW)?)?;
        }
        self.put(
            "cms_signed",
            "opaque",
            Some(PIECES),
            &self.openssl("-sign -nodetach -signer alice.cer -inkey alice.key -md sha256")?,
        )?;
        self.put(
            "cms_signed",
            "opaque-stream",
            Some(PIECES),
            &self.openssl("-sign -nodetach -stream -signer carol.cer -inkey carol.key -md sha384")?,
        )?;
        self.put(
            "cms_signed",
            "opaque-plain",
            Some(LEGACY),
            &self.openssl("-sign -nodetach -noattr -nocerts -keyid -signer alice.cer -inkey alice.key -md sha1")?,
        )
    }

    fn compressed(&self) -> Result<()> {
        let (mut deflater, mut out) = (Deflater::new(), Vec::new());
        deflater.push(PAYLOAD, &mut out)?;
        deflater.finish(&mut out)?;
        self.put("cms_compressed", "ber", Some(PIECES), &out)?;
        let (mut zlib, mut stream) = (as2_core::cms::Compressor::new(), Vec::new());
        zlib.push(PAYLOAD, &mut stream)?;
        zlib.finish(&mut stream)?;
        let der = [as2_core::cms::compressed_prefix(stream.len() as u64), stream].concat();
        self.put("cms_compressed", "der", Some(PIECES), &der)?;
        let (mut bomb, mut out) = (Deflater::new(), Vec::new());
        bomb.push(&vec![0; 512 << 10], &mut out)?;
        bomb.finish(&mut out)?;
        self.put("cms_compressed", "zeros", Some(PIECES), &out)
    }

    fn messages(&self) -> Result<()> {
        let rsa = (KeyTransport::RsaPkcs1, Cipher::Aes128Cbc);
        let gcm = (KeyTransport::OaepSha256, Cipher::Aes256Gcm);
        let signed = Some((Digest::Sha256, SignatureScheme::RsaPkcs1));
        let pss = Some((Digest::Sha384, SignatureScheme::RsaPss));
        let cases = [
            ("plain", PIECES, None, None, Compression::None, 1),
            ("signed", PIECES, signed, None, Compression::None, 1),
            ("sealed", PIECES, None, Some(gcm), Compression::None, 1),
            ("signed-sealed", PIECES | 128, signed, Some(rsa), Compression::None, 1),
            ("compressed", PIECES, None, None, Compression::BeforeSign, 1),
            ("compressed-signed", PIECES, pss, None, Compression::BeforeSign, 1),
            ("signed-compressed", LEGACY, signed, None, Compression::AfterSign, 1),
            ("two-parts", PIECES, None, None, Compression::None, 2),
            ("two-parts-signed", SEALED, signed, None, Compression::None, 2),
            ("compressed-inside", SEALED, signed, None, Compression::AfterSign, 1),
        ];
        for (name, settings, sign, encrypt, compress, parts) in cases {
            let base64 = parts == 2;
            let (headers, body) = message(sign, encrypt, compress, parts, base64)?;
            let policy = SecurityPolicy {
                legacy_sha1: true,
                ..SecurityPolicy::default()
            };
            let outcome = receive(&headers, policy, &mut || vec![body.clone()]).map_err(|kind| format!("{name}: {kind:?}"))?;
            assert_eq!(outcome.parts.len(), parts, "{name}");
            self.put(
                "receive",
                name,
                Some(settings),
                &[headers.to_bytes(), b"\r\n".to_vec(), body].concat(),
            )?;
        }
        let opaque = self.openssl("-sign -nodetach -stream -signer alice.cer -inkey alice.key -md sha256")?;
        let head = b"Content-Type: application/pkcs7-mime; smime-type=signed-data\r\n\r\n";
        self.put("receive", "opaque", Some(PIECES), &[&head[..], &opaque].concat())?;
        let quoted = b"Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\na=3Db=\r\nc\r\n";
        self.put("receive", "quoted-printable", Some(PIECES), quoted)?;
        let nested = b"Content-Type: multipart/mixed; boundary=\"a b\"\r\n\r\nx\r\n--a b\r\nContent-Type: multipart/related; boundary=c\r\n\r\n--c\r\n\r\n1\r\n--c--\r\n--a b  \r\nContent-Transfer-Encoding: base64\r\n\r\nQUJD\r\n--a b--\r\nend";
        self.put("receive", "nested", Some(SEALED), nested)
    }

    fn receipts(&self) -> Result<()> {
        for (name, sign, disposition) in [
            ("good", None, Disposition::processed()),
            (
                "bad",
                None,
                Disposition::parse("automatic-action/MDN-sent-automatically; processed/error: decryption-failed"),
            ),
            ("signed", Some(()), Disposition::warning("duplicate-document")),
        ] {
            let (headers, body) = mdn::compose(MdnOut {
                from: As2Id::parse("BOB")?,
                to: As2Id::parse("ALICE")?,
                message_id: MessageId::new("r1", "localhost")?,
                original_message_id: "<m1@localhost>".to_owned(),
                now: NOW,
                disposition,
                mic: Some(Mic {
                    digest: Digest::Sha256,
                    value: vec![7; 32],
                }),
                digest_names: DigestNames::Rfc5751,
                text: "Grüße".to_owned(),
                explanation: None,
                sign: sign.map(|()| signing(Digest::Sha256, SignatureScheme::RsaPkcs1)),
                as2_version: "1.2".to_owned(),
                product: "fuzz/1".to_owned(),
                subject: "receipt".to_owned(),
                nonce: [1; 16],
                recipient_url: None,
            })?;
            receive(&headers, SecurityPolicy::default(), &mut || vec![body.clone()]).map_err(|kind| format!("{name}: {kind:?}"))?;
            self.put(
                "receive",
                &format!("mdn-{name}"),
                Some(PIECES),
                &[headers.to_bytes(), b"\r\n".to_vec(), body.clone()].concat(),
            )?;
            if sign.is_none() {
                let boundary = headers
                    .get("Content-Type")
                    .and_then(|value| value.split("boundary=\"").nth(1))
                    .ok_or("a boundary")?;
                let report = String::from_utf8_lossy(&body).replace(boundary.trim_end_matches('"'), "b");
                self.put("mdn", name, Some(PIECES), report.as_bytes())?;
            }
        }
        let fields = "Reporting-UA: x\r\nOriginal-Recipient: rfc822; \"A B\"\r\nFinal-Recipient: rfc822;AB\r\nOriginal-Message-ID: <1@x>\r\n\r\nReceived-content-MIC: eHh4,\r\n sha-256\r\nDisposition: a/b;processed/Warning:x;failed/Failure\r\nError: y\r\n";
        self.put("mdn", "fields", Some(PIECES), fields.as_bytes())
    }

    fn words(&self) -> Result<()> {
        for (name, text) in [
            ("plain", "attachment; filename=\"a b.edi\"\napplication/edifact\nbinary\nx"),
            (
                "extended",
                "attachment; filename*=UTF-8''%e2%82%ac%20r.txt; filename=x\ntext/plain; name=y\n\nx",
            ),
            (
                "continued",
                "attachment; filename*0*=iso-8859-1'en'%E4; filename*1=\"b\\\"c\"; filename*2*=%41\ntext/plain\n7bit\nx",
            ),
            (
                "encoded",
                "attachment; filename=\"=?utf-8?B?w6Q=?= =?iso-8859-1?Q?_=E4?=\"\nx/y; charset=\"utf-8\"\nbase64\nQUJD",
            ),
            (
                "parts",
                "inline\nmultipart/mixed; boundary=\"b\"\n\n--b\r\nContent-Disposition: attachment; filename=a\r\n\r\n1\r\n--b--\r\n",
            ),
        ] {
            self.put("names", name, None, text.as_bytes())?;
        }
        for (name, text) in [
            (
                "block",
                "AS2-From: \"A \\\"B\\\"\"\r\nAS2-To: BOB\r\nMessage-ID: <1@x>\r\nDisposition-Notification-To: x\r\nDisposition-Notification-Options: signed-receipt-protocol=optional, pkcs7-signature;\r\n\tsigned-receipt-micalg=required, sha-256, sha1\r\nReceipt-Delivery-Option: http://x/?a\r\n\r\n",
            ),
            ("id", "\"\\\"A B\\\"\""),
            ("mic", "w5Q6lyTzYMQUkJkV1CfJUg==, sha1"),
            (
                "disposition",
                "automatic-action/MDN-sent-automatically; failed/Failure: unsupported MIC-algorithms",
            ),
            ("two", "x; processed; y; processed/error: authentication-failed"),
        ] {
            self.put("headers", name, None, text.as_bytes())?;
        }
        for (name, identity) in [("rsa", &STATIONS.alice), ("ec", &STATIONS.carol)] {
            self.put("certificate", name, None, identity.certificate().der())?;
        }
        Ok(())
    }
}

fn signing(digest: Digest, scheme: SignatureScheme) -> Signing<'static> {
    Signing {
        identity: &STATIONS.alice,
        digest,
        scheme,
        include_certificate: false,
        protect_algorithms: false,
    }
}

type SignWith = Option<(Digest, SignatureScheme)>;
type SealWith = Option<(KeyTransport, Cipher)>;

fn message(sign: SignWith, encrypt: SealWith, compress: Compression, parts: usize, base64: bool) -> Result<(Headers, Vec<u8>)> {
    let part = PartMeta {
        file_name: Some("größe 1.edi".to_owned()),
        content_type: "application/edifact".to_owned(),
        length: PAYLOAD.len() as u64,
    };
    let outgoing = || -> Result<Outgoing<'static>> {
        Ok(Outgoing {
            from: As2Id::parse("ALICE")?,
            to: As2Id::parse("BOB")?,
            message_id: MessageId::new("m1", "localhost")?,
            now: NOW,
            subject: String::new(),
            as2_version: "1.2".to_owned(),
            recipient_url: String::new(),
            parts: vec![part.clone(); parts],
            sign: sign.map(|(digest, scheme)| signing(digest, scheme)),
            encrypt: encrypt.map(|(key_transport, cipher)| Encryption {
                recipients: vec![STATIONS.bob.certificate()],
                cipher,
                key_transport,
            }),
            compress,
            transfer_encoding: if base64 {
                TransferEncoding::Base64
            } else {
                TransferEncoding::Binary
            },
            digest_names: DigestNames::Rfc5751,
            receipt: Some(ReceiptRequest::sync("x").signed(vec![Digest::Sha256, Digest::Sha384])),
            der_max: 1 << 20,
            extra_headers: Vec::new(),
            product: "fuzz/1".to_owned(),
            nonce: [2; 16],
            also_digest: Vec::new(),
        })
    };
    let mut out = Vec::new();
    let mut composer = Composer::new(outgoing()?)?;
    for _ in 0..parts {
        composer.push(PAYLOAD, &mut out)?;
    }
    match composer.finish(&mut out)? {
        Finished::Done(composed) => Ok((composed.headers, out)),
        Finished::Again(mut again) => {
            let mut whole = Vec::new();
            again.push(&out, &mut whole)?;
            match again.finish(&mut whole)? {
                Finished::Done(composed) => Ok((composed.headers, whole)),
                Finished::Again(_) => Err("a third pass".into()),
            }
        }
    }
}
