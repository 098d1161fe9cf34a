//! `inspect`: a captured message or MDN, opened offline with the keys at hand. It changes nothing.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use as2_core::algorithm::Digest;
use as2_core::cert::{Certificate, Identity};
use as2_core::headers::{Headers, MAX_BLOCK};
use as2_core::id::As2Id;
use as2_core::receive::{
    Failure, Incoming, Limits, MdnSignature, PartInfo, PayloadSink, Received, ReceivedMdn, ReceivedMessage, Receiver, SecurityPolicy,
    SinkError,
};
use clap::Args;
use openssl::sha::Sha256;
use serde_json::{Value, json};

use super::error::{DONE, FAILED};
use super::output::{facts, grouped};
use super::{CertificateFile, Ctx, Outcome};
use crate::helper::SpareCores;
use crate::manage::{Refusal, Result};
use crate::{content_type, layout};

/// Bytes handed over at a time.
const PIECE: usize = 256 * 1024;
/// Largest payload taken out, in bytes.
const MAX_PAYLOAD: u64 = 1 << 40;
/// Most digests taken beside the usual ones.
const MAX_REHASH: usize = 4;
/// What to do where nothing was given that a signature could be held against.
const NOT_CHECKED: &str =
    "no signature was checked, for no pinned certificate was given: add --partner-cert FILE, the sender's (as2gate cert export NAME)";

/// Open a captured AS2 message or MDN offline.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  as2gate inspect message.as2 --headers headers.txt
  as2gate inspect message.as2 --headers headers.txt --key key.pem --cert cert.pem --partner-cert partner.pem
  as2gate inspect message.as2 --headers headers.txt --key key.pem --cert cert.pem --extract out
  as2gate inspect message.as2 --headers headers.txt --key data/keystore/mftg-acme/identity.jks --alias alice-2026 --passphrase -
  as2gate inspect 20261122T150342118Z-048291637.mdn --partner-cert partner.pem -o json

Without --partner-cert no signature can be verified; without --key nothing can be decrypted. The key and the certificate of a
station are in its account's store: `as2gate cert stores --reveal` shows its place, DATA/keystore/mftg-ACCOUNT/identity.jks, and
its password; `as2gate station show ID` the name of the certificate, which is the alias. An MDN from raw-mdn has its
headers in the same file. Exit code 1: the message would be refused.")]
pub(crate) struct Inspect {
    /// The body as it was on the wire.
    file: PathBuf,
    /// Its HTTP header lines; without this option the file begins with them.
    #[arg(long, value_name = "FILE")]
    headers: Option<PathBuf>,
    /// Our private key: PEM, or a key store with its certificate.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Our certificate; not needed if the key's file has it.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The sender's certificate; may be repeated.
    #[arg(long, value_name = "FILE")]
    partner_cert: Vec<PathBuf>,
    /// Write the payload into this directory.
    #[arg(long, value_name = "DIR")]
    extract: Option<PathBuf>,
    #[command(flatten)]
    source: CertificateFile,
}

pub(crate) fn run(ctx: &Ctx, args: &Inspect) -> Outcome {
    let (headers, skip) = headers(args)?;
    let identities = identity(args)?.into_iter().collect::<Vec<_>>();
    let mut signers = Vec::new();
    for file in &args.partner_cert {
        let der = certificate(&args.source, file)?;
        signers.push(Certificate::from_der(&der).map_err(|error| {
            Refusal::invalid(
                format!("cannot use {}", file.display()),
                error.to_string(),
                "give an X.509 certificate",
            )
        })?);
    }
    if let Some(dir) = args.extract.as_ref().filter(|_| !ctx.dry_run()) {
        std::fs::create_dir_all(dir).map_err(|error| Refusal::from_io(format!("cannot make {}", dir.display()), &error))?;
    }
    let mut also_hash: Vec<Digest> = Vec::new();
    loop {
        let mut sink = Sink {
            dir: args.extract.clone(),
            dry_run: ctx.dry_run(),
            ..Sink::default()
        };
        let outcome = open(&args.file, skip, &headers, &identities, &signers, &also_hash, &mut sink)?;
        if let Err(failure) = &outcome
            && let Some(digest) = failure
                .rehash()
                .filter(|digest| also_hash.len() < MAX_REHASH && !also_hash.contains(digest))
        {
            sink.discard();
            also_hash.push(digest);
            continue;
        }
        return report(ctx, args, &headers, outcome, sink);
    }
}

/// The header lines and where the body begins.
fn headers(args: &Inspect) -> Result<(Headers, u64)> {
    let cannot = |file: &Path, error: &std::io::Error| Refusal::from_io(format!("cannot read {}", file.display()), error);
    let broken = |file: &Path, why: String| {
        Refusal::invalid(
            format!("no header lines in {}", file.display()),
            why,
            "give lines like `Content-Type: …`, as headers.txt has them",
        )
    };
    if let Some(file) = &args.headers {
        let bytes = super::read_file(file, MAX_BLOCK as u64)?;
        return Ok((
            Headers::parse(without_request_line(&bytes)).map_err(|error| broken(file, error.to_string()))?,
            0,
        ));
    }
    let mut head = Vec::new();
    File::open(&args.file)
        .and_then(|file| file.take(MAX_BLOCK as u64).read_to_end(&mut head))
        .map_err(|error| cannot(&args.file, &error))?;
    let ends = [b"\r\n\r\n".as_slice(), b"\n\n".as_slice()];
    let found = ends
        .iter()
        .filter_map(|end| head.windows(end.len()).position(|window| window == *end).map(|at| at + end.len()))
        .min();
    let Some(end) = found else {
        return Err(Refusal::usage(
            format!("{} does not begin with header lines", args.file.display()),
            "there is no blank line behind them",
            "add --headers FILE",
        ));
    };
    let block = without_request_line(head.get(..end).unwrap_or_default());
    let headers = Headers::parse(block).map_err(|_| {
        Refusal::usage(
            format!("{} does not begin with header lines", args.file.display()),
            "what stands before the first blank line is something else",
            "add --headers FILE",
        )
    })?;
    Ok((headers, end as u64))
}

/// A capture may have `POST /as2 HTTP/1.1` or `HTTP/1.1 200 OK` before the header lines.
fn without_request_line(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|b| *b == b'\n').map_or(bytes.len(), |at| at + 1);
    let line = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).trim_end().to_owned();
    let is_start = line.starts_with("HTTP/1.") || line.ends_with(" HTTP/1.1") || line.ends_with(" HTTP/1.0");
    if is_start { bytes.get(end..).unwrap_or_default() } else { bytes }
}

fn identity(args: &Inspect) -> Result<Option<Identity>> {
    let Some(file) = &args.key else { return Ok(None) };
    let what = || format!("cannot use {}", file.display());
    let from_keystore = |error: keystore::Error| Refusal::from_keystore(what(), &error);
    let given = args.source.read(file, None)?;
    let passphrase = given.passphrase.as_ref().map(|text| text.as_str());
    let imported = match &given.alias {
        Some(alias) => keystore::import_alias(&given.bytes, passphrase, alias),
        None => keystore::import(&given.bytes, passphrase),
    };
    let imported = imported.map_err(from_keystore)?;
    let key = imported.key.as_ref().ok_or_else(|| {
        Refusal::invalid(
            what(),
            "there is no private key in it",
            "give the key with --key and the certificate with --cert",
        )
    })?;
    let der = match (&args.cert, imported.certificates.first()) {
        (Some(file), _) => certificate(&args.source, file)?,
        (None, Some(own)) => own.clone(),
        (None, None) => {
            return Err(Refusal::usage(
                what(),
                "the certificate that belongs to it is missing",
                "add --cert FILE",
            ));
        }
    };
    let identity = Identity::new(&der, key).map_err(|error| {
        Refusal::invalid(
            what(),
            error.to_string(),
            "give the key and the certificate that were made together",
        )
    })?;
    Ok(Some(identity))
}

fn certificate(source: &CertificateFile, file: &Path) -> Result<Vec<u8>> {
    let given = source.read(file, None)?;
    let imported = keystore::import(&given.bytes, given.passphrase.as_ref().map(|text| text.as_str()));
    let refused = |error: keystore::Error| Refusal::from_keystore(format!("cannot use {}", file.display()), &error);
    imported
        .and_then(|imported| imported.certificate().map(<[u8]>::to_vec))
        .map_err(refused)
}

fn open(
    file: &Path,
    skip: u64,
    headers: &Headers,
    identities: &[Identity],
    signers: &[Certificate],
    also_hash: &[Digest],
    sink: &mut Sink,
) -> Result<std::result::Result<Received, Failure>> {
    use std::io::{Seek as _, SeekFrom};
    let cannot = |error: &std::io::Error| Refusal::from_io(format!("cannot read {}", file.display()), error);
    let mut body = File::open(file).map_err(|error| cannot(&error))?;
    let length = body.seek(SeekFrom::End(0)).map_err(|error| cannot(&error))?.saturating_sub(skip);
    body.seek(SeekFrom::Start(skip)).map_err(|error| cannot(&error))?;
    // Whatever can be read is shown; nothing here is let in anywhere.
    let policy = SecurityPolicy {
        require_signed: false,
        require_encrypted: false,
        legacy_sha1: true,
        accept_md5: true,
        accept_3des: true,
    };
    let incoming = Incoming {
        headers,
        identities,
        signers,
        policy,
        limits: Limits { max_payload: MAX_PAYLOAD },
        also_hash,
    };
    let mut receiver = match Receiver::new(incoming) {
        Ok(receiver) => receiver.with_helper(Arc::new(SpareCores::for_one_message())).with_length(length),
        Err(failure) => return Ok(Err(failure)),
    };
    let mut buffer = vec![0u8; PIECE];
    loop {
        let n = body.read(&mut buffer).map_err(|error| cannot(&error))?;
        if n == 0 {
            return Ok(receiver.finish(sink));
        }
        if let Err(failure) = receiver.push(buffer.get(..n).unwrap_or_default(), sink) {
            return Ok(Err(failure));
        }
    }
}

/// What a part turned out to be.
struct Part {
    info: PartInfo,
    size: u64,
    sha256: String,
    path: Option<PathBuf>,
}

/// Counts and, if wanted, writes what is inside.
#[derive(Default)]
struct Sink {
    dir: Option<PathBuf>,
    /// Only tells what it would write.
    dry_run: bool,
    parts: Vec<Part>,
    hash: Option<Sha256>,
    file: Option<File>,
}

impl Sink {
    /// Payload of a message that does not hold is not left lying around.
    fn discard(&mut self) {
        self.file = None;
        for part in self.parts.drain(..) {
            if let Some(path) = part.path.filter(|_| !self.dry_run) {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

impl PayloadSink for Sink {
    fn part(&mut self, info: PartInfo) -> std::result::Result<(), SinkError> {
        self.hash = Some(Sha256::new());
        let mut target = None;
        if let Some(dir) = &self.dir {
            let name = layout::attachment_name(
                info.file_name.as_deref(),
                info.index,
                content_type::extension_for(&info.content_type),
            );
            let taken = |path: &PathBuf| path.exists();
            let mut path = dir.join(&name);
            let mut n = 2;
            while taken(&path) {
                path = dir.join(layout::numbered(&name, n));
                n += 1;
            }
            if !self.dry_run {
                let made = File::create_new(&path).map_err(|error| SinkError(format!("cannot write {}: {error}", path.display())))?;
                self.file = Some(made);
            }
            target = Some(path);
        }
        self.parts.push(Part {
            info,
            size: 0,
            sha256: String::new(),
            path: target,
        });
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> std::result::Result<(), SinkError> {
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        if let Some(file) = &mut self.file {
            file.write_all(bytes)?;
        }
        if let Some(part) = self.parts.last_mut() {
            part.size += bytes.len() as u64;
        }
        Ok(())
    }

    fn part_end(&mut self) -> std::result::Result<(), SinkError> {
        self.file = None;
        if let (Some(part), Some(hash)) = (self.parts.last_mut(), self.hash.take()) {
            part.sha256 = as2_core::hex(&hash.finish());
        }
        Ok(())
    }
}

fn report(ctx: &Ctx, args: &Inspect, headers: &Headers, outcome: std::result::Result<Received, Failure>, mut sink: Sink) -> Outcome {
    let id = |name: &str| {
        headers
            .get(name)
            .map(|value| As2Id::from_header(value.as_bytes()).map_or_else(|_| value.to_owned(), |id| id.as_str().to_owned()))
            .unwrap_or_default()
    };
    let (from, to) = (id("AS2-From"), id("AS2-To"));
    let message_id = headers.get("Message-ID").unwrap_or_default().to_owned();
    let mut lines = vec![
        ("AS2", format!("{from} → {to}   {message_id}")),
        ("Subject", headers.get("Subject").unwrap_or_default().to_owned()),
    ];
    let mut object = json!({ "file": args.file, "as2_from": from, "as2_to": to, "message_id": message_id });
    let code = match outcome {
        Ok(Received::Message(message)) => {
            describe_message(&message, &sink, &mut lines, &mut object);
            DONE
        }
        Ok(Received::Mdn(mdn)) => describe_mdn(args, &mdn, &mut lines, &mut object),
        Err(failure) if failure.sink => {
            sink.discard();
            return Err(Refusal::failed(
                "file",
                "cannot write the payload",
                failure.error.detail.clone(),
                "choose another directory with --extract",
            ));
        }
        Err(failure) => {
            sink.discard();
            describe_failure(args, &failure, &mut lines, &mut object);
            FAILED
        }
    };
    ctx.printer.show(&object, &facts(&lines));
    Ok(code)
}

type Lines = Vec<(&'static str, String)>;

fn add(object: &mut Value, fields: Value) {
    if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), fields) {
        object.extend(fields);
    }
}

fn describe_message(message: &ReceivedMessage, sink: &Sink, lines: &mut Lines, object: &mut Value) {
    let signed = message
        .signed
        .as_ref()
        .map(|signed| format!("{} by {}", signed.digest, signed.signer.subject()));
    let parts: Vec<Value> = sink
        .parts
        .iter()
        .map(|part| json!({ "name": part.info.file_name, "content_type": part.info.content_type, "size": part.size, "sha256": part.sha256, "path": part.path }))
        .collect();
    let named = sink.parts.iter().map(|part| {
        let name = part.info.file_name.as_deref().unwrap_or("(no name)");
        let path = part
            .path
            .as_ref()
            .map(|path| format!("\n{} {}", if sink.dry_run { "would write" } else { "wrote" }, path.display()))
            .unwrap_or_default();
        format!(
            "{name}   {}   {} bytes   sha256 {}{path}",
            part.info.content_type,
            grouped(part.size),
            part.sha256
        )
    });
    lines.extend([
        ("Kind", "message".to_owned()),
        ("Layers", message.layers.join("\n")),
        ("Signed", signed.clone().unwrap_or_else(|| "no".to_owned())),
        (
            "Encrypted",
            message.encrypted.map_or_else(|| "no".to_owned(), |cipher| cipher.to_string()),
        ),
        ("Compressed", if message.compressed { "yes" } else { "no" }.to_owned()),
        ("MIC", message.mic.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("Attachments", named.collect::<Vec<_>>().join("\n")),
        ("Notes", message.notes.join("\n")),
        ("Verdict", "it holds".to_owned()),
    ]);
    add(
        object,
        json!({
            "kind": "message",
            "verdict": "ok",
            "layers": message.layers,
            "signed": message.signed.as_ref().map(|signed| signed.digest.as_str()),
            "signer": message.signed.as_ref().map(|signed| signed.signer.subject()),
            "encrypted": message.encrypted.map(|cipher| cipher.as_str()),
            "compressed": message.compressed,
            "mic": message.mic.as_ref().map(ToString::to_string),
            "attachments": parts,
            "notes": message.notes,
        }),
    );
}

fn describe_mdn(args: &Inspect, received: &ReceivedMdn, lines: &mut Lines, object: &mut Value) -> u8 {
    let mdn = &received.mdn;
    let (signature, digest, signer, bad) = match &received.signature {
        MdnSignature::None => ("unsigned".to_owned(), None, None, false),
        MdnSignature::Verified { digest, signer } => (
            format!("signed {digest} by {}", signer.subject()),
            Some(digest.as_str()),
            Some(signer.subject()),
            false,
        ),
        MdnSignature::Bad(why) => (format!("not proven: {why}"), None, None, true),
    };
    let hint = if bad && args.partner_cert.is_empty() { NOT_CHECKED } else { "" };
    lines.extend([
        ("Kind", "MDN".to_owned()),
        ("Answers", mdn.original_message_id.clone()),
        ("Disposition", mdn.disposition.to_string()),
        ("MIC", mdn.mic.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("Signature", signature.clone()),
        ("Recipient", mdn.final_recipient.clone()),
        ("Made by", mdn.reporting_ua.clone()),
        ("Says", mdn.text.trim().to_owned()),
        ("Hint", hint.to_owned()),
    ]);
    add(
        object,
        json!({
            "kind": "mdn",
            "verdict": if bad { "unproven" } else { "ok" },
            "original_message_id": mdn.original_message_id,
            "disposition": mdn.disposition.to_string(),
            "positive": mdn.disposition.is_positive(),
            "mic": mdn.mic.as_ref().map(ToString::to_string),
            "signature": if bad { "bad" } else if signer.is_some() { "verified" } else { "none" },
            "signature_detail": signature,
            "signed": digest,
            "signer": signer,
            "final_recipient": mdn.final_recipient,
            "original_recipient": mdn.original_recipient,
            "reporting_ua": mdn.reporting_ua,
            "text": mdn.text,
            "hint": hint,
        }),
    );
    if bad { FAILED } else { DONE }
}

fn describe_failure(args: &Inspect, failure: &Failure, lines: &mut Lines, object: &mut Value) {
    let kind = failure.error.kind.as_str();
    let hint = match (kind, args.key.is_some()) {
        ("decryption-failed", false) => "it is encrypted: add --key and --cert",
        ("decryption-failed", true) if !failure.strangers.is_empty() => {
            "the key given is not that of its recipient: as2gate cert show NAME tells the serial"
        }
        // Inside of decrypted content a signature that does not hold may have the same word.
        ("authentication-failed" | "decryption-failed", _) if args.partner_cert.is_empty() => NOT_CHECKED,
        _ => "",
    };
    lines.extend([
        ("Kind", "unreadable".to_owned()),
        ("Verdict", format!("{kind}: {}", failure.error.detail)),
        ("Encrypted for", failure.strangers.join("\n")),
        ("MIC", failure.mic.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("Hint", hint.to_owned()),
    ]);
    add(
        object,
        json!({
            "kind": "unreadable",
            "verdict": kind,
            "detail": failure.error.detail,
            "encrypted_for": failure.strangers,
            "mic": failure.mic.as_ref().map(ToString::to_string),
            "hint": hint,
        }),
    );
}
