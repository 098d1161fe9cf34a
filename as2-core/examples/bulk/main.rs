//! Composes and opens one large message through the public API, as a program that `make bench` measures from outside.
//!
//! `bulk compose KEYS PAYLOAD BODY` signs (SHA-256) as alice and encrypts (AES-256-CBC) to bob; writes BODY and BODY.headers.
//! With `AS2_FUSED=off` in the environment, digest and cipher go one after the other.
//! `bulk open KEYS BODY PAYLOAD` decrypts and verifies as bob. Both print the MIC.
//! `bulk speed KEYS MIB` works from memory to memory in several ways, see memory.rs; prints their rates as JSON.
//! KEYS is a directory with `alice.cer`, `alice.key`, `bob.cer`, `bob.key`: DER, the keys as unencrypted PKCS#8.

// An example may read and write files; the library may not.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod memory;

use std::error::Error;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use as2_core::algorithm::{Cipher, Compression, Digest, DigestNames, KeyTransport, SignatureScheme};
use as2_core::cert::{Certificate, Identity};
use as2_core::compose::{Composer, Encryption, Finished, Outgoing, PartMeta, Signing, TransferEncoding};
use as2_core::headers::Headers;
use as2_core::id::As2Id;
use as2_core::kernel::Kernel;
use as2_core::message_id::MessageId;
use as2_core::receipt::ReceiptRequest;
use as2_core::receive::{Incoming, Limits, PartInfo, PayloadSink, Received, Receiver, SecurityPolicy, SinkError};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Bytes read at once, as the gateway does.
const PIECE: usize = 256 * 1024;
/// Definite lengths up to this size, as the gateway's default.
const DER_MAX: u64 = 256 << 20;
/// Largest payload that is opened, in bytes.
const MAX_PAYLOAD: u64 = 100 << 30;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["compose", keys, payload, body] => compose(Path::new(keys), Path::new(payload), Path::new(body)),
        ["speed", keys, size] => memory::speed(Path::new(keys), size),
        ["open", keys, body, payload] => open(Path::new(keys), Path::new(body), Path::new(payload)),
        _ => Err("usage: bulk compose KEYS PAYLOAD BODY | bulk open KEYS BODY PAYLOAD | bulk speed KEYS MIB RUNS".into()),
    };
    match done {
        Ok(mic) => {
            println!("{mic}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compose(keys: &Path, payload: &Path, body: &Path) -> Result<String> {
    let (alice, bob) = (identity(keys, "alice")?, identity(keys, "bob")?);
    let mut source = File::open(payload)?;
    let length = source.metadata()?.len();
    let name = payload.file_name().map(|name| name.to_string_lossy().into_owned());
    let kernel = if std::env::var("AS2_FUSED").is_ok_and(|word| word == "off") {
        Kernel::Separate
    } else {
        Kernel::Fused
    };
    let mut composer = Composer::with_kernel(outgoing(&alice, &bob, name, length)?, kernel)?;
    let mut target = File::create(body)?;
    let mut out = Vec::with_capacity(PIECE + 4096);
    each_piece(&mut source, |piece| {
        composer.push(piece, &mut out)?;
        target.write_all(&out)?;
        out.clear();
        Ok(())
    })?;
    let Finished::Done(composed) = composer.finish(&mut out)? else {
        return Err("a second pass without compression".into());
    };
    target.write_all(&out)?;
    std::fs::write(headers_of(body), composed.headers.to_bytes())?;
    Ok(composed.mic.map(|mic| mic.to_string()).unwrap_or_default())
}

fn outgoing<'a>(alice: &'a Identity, bob: &'a Identity, file_name: Option<String>, length: u64) -> Result<Outgoing<'a>> {
    let mut nonce = [0u8; 16];
    openssl::rand::rand_bytes(&mut nonce)?;
    Ok(Outgoing {
        from: As2Id::parse("ALICE")?,
        to: As2Id::parse("BOB")?,
        message_id: MessageId::new("bulk", "localhost")?,
        now: 1_795_478_400,
        subject: String::new(),
        as2_version: "1.2".to_owned(),
        recipient_url: String::new(),
        parts: vec![PartMeta {
            file_name,
            content_type: "application/octet-stream".to_owned(),
            length,
        }],
        sign: Some(Signing {
            identity: alice,
            digest: Digest::Sha256,
            scheme: SignatureScheme::RsaPkcs1,
            include_certificate: true,
            protect_algorithms: false,
        }),
        encrypt: Some(Encryption {
            recipients: vec![bob.certificate()],
            cipher: Cipher::Aes256Cbc,
            key_transport: KeyTransport::RsaPkcs1,
        }),
        compress: Compression::None,
        transfer_encoding: TransferEncoding::Binary,
        digest_names: DigestNames::Rfc5751,
        receipt: Some(ReceiptRequest::sync("alice@example.com").signed(vec![Digest::Sha256])),
        der_max: DER_MAX,
        extra_headers: Vec::new(),
        product: "bulk/1".to_owned(),
        nonce,
        also_digest: Vec::new(),
    })
}

fn open(keys: &Path, body: &Path, payload: &Path) -> Result<String> {
    let identities = [identity(keys, "bob")?];
    let signers = [Certificate::from_der(&std::fs::read(keys.join("alice.cer"))?)?];
    let headers = Headers::parse(&std::fs::read(headers_of(body))?)?;
    let mut receiver = Receiver::new(incoming(&headers, &identities, &signers))?;
    let mut sink = ToFile(File::create(payload)?);
    each_piece(&mut File::open(body)?, |piece| Ok(receiver.push(piece, &mut sink)?))?;
    match receiver.finish(&mut sink)? {
        Received::Message(message) => Ok(message.mic.map(|mic| mic.to_string()).unwrap_or_default()),
        Received::Mdn(_) => Err("this is an MDN".into()),
    }
}

fn incoming<'a>(headers: &'a Headers, identities: &'a [Identity], signers: &'a [Certificate]) -> Incoming<'a> {
    Incoming {
        headers,
        identities,
        signers,
        policy: SecurityPolicy {
            require_signed: true,
            require_encrypted: true,
            ..SecurityPolicy::default()
        },
        limits: Limits { max_payload: MAX_PAYLOAD },
        also_hash: &[],
    }
}

fn each_piece(source: &mut File, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut buffer = vec![0u8; PIECE];
    loop {
        match source.read(&mut buffer)? {
            0 => return Ok(()),
            n => take(buffer.get(..n).unwrap_or_default())?,
        }
    }
}

fn identity(keys: &Path, name: &str) -> Result<Identity> {
    let read = |suffix: &str| std::fs::read(keys.join(format!("{name}.{suffix}")));
    Ok(Identity::new(&read("cer")?, &read("key")?)?)
}

fn headers_of(body: &Path) -> PathBuf {
    let mut name = body.as_os_str().to_owned();
    name.push(".headers");
    name.into()
}

/// All parts into one file; there is one.
struct ToFile(File);

impl PayloadSink for ToFile {
    fn part(&mut self, _: PartInfo) -> std::result::Result<(), SinkError> {
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> std::result::Result<(), SinkError> {
        Ok(self.0.write_all(bytes)?)
    }

    fn part_end(&mut self) -> std::result::Result<(), SinkError> {
        Ok(())
    }
}
