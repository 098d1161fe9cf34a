#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod fixtures;

use super::*;
use crate::algorithm::{Compression, DigestNames, KeyTransport, SignatureScheme};
use crate::cms::testkit;
use crate::compose::{Composed, Composer, Encryption, Finished, Outgoing, PartMeta, Signing, TransferEncoding};
use crate::disposition::Disposition;
use crate::id::As2Id;
use crate::mdn::{self, MdnOut};
use crate::message_id::MessageId;

/// Keeps what arrives.
#[derive(Default)]
struct Kept {
    parts: Vec<(PartInfo, Vec<u8>)>,
    ended: usize,
}

impl PayloadSink for Kept {
    fn part(&mut self, info: PartInfo) -> Result<(), SinkError> {
        self.parts.push((info, Vec::new()));
        Ok(())
    }
    fn data(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        self.parts.last_mut().unwrap().1.extend_from_slice(bytes);
        Ok(())
    }
    fn part_end(&mut self) -> Result<(), SinkError> {
        self.ended += 1;
        Ok(())
    }
}

/// Cuts bytes at places that look random and are the same every time.
struct Cuts(u64);

impl Cuts {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn each(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8])) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let largest = [3, 50, 4000][usize::try_from(self.next() % 3).unwrap()];
            let n = usize::try_from(1 + self.next() % largest).unwrap().min(rest.len());
            let (piece, tail) = rest.split_at(n);
            take(piece);
            rest = tail;
        }
    }
}

/// The dimensions of a message.
#[derive(Clone, Copy, Debug)]
struct Case {
    sign: bool,
    encrypt: Option<Cipher>,
    compress: Compression,
    parts: usize,
    encoding: TransferEncoding,
    der_max: u64,
}

const PLAIN: Case = Case {
    sign: false,
    encrypt: None,
    compress: Compression::None,
    parts: 1,
    encoding: TransferEncoding::Binary,
    der_max: 1 << 20,
};
const FULL: Case = Case {
    sign: true,
    encrypt: Some(Cipher::Aes256Cbc),
    ..PLAIN
};

fn payload(parts: usize) -> Vec<Vec<u8>> {
    let text = b"\r\n\nISA*00*          *00*\r\n--as2-\r\n\nlast\r\n\r\n".to_vec();
    let noise: Vec<u8> = (0..70_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    [text.clone(), noise, Vec::new()]
        .into_iter()
        .cycle()
        .take(parts)
        .map(|p| if parts == 1 { [text.clone(), p].concat() } else { p })
        .collect()
}

fn outgoing(case: Case, payload: &[Vec<u8>]) -> Outgoing<'static> {
    let identity = testkit::rsa();
    Outgoing {
        from: As2Id::parse("ACME").unwrap(),
        to: As2Id::parse("AS2 Test").unwrap(),
        message_id: MessageId::new("1", "host").unwrap(),
        now: 1_753_968_890,
        subject: "order".to_owned(),
        as2_version: "1.2".to_owned(),
        recipient_url: "https://x.example/as2".to_owned(),
        parts: payload
            .iter()
            .enumerate()
            .map(|(i, p)| PartMeta {
                file_name: Some(format!("größe {i}.edi")),
                content_type: "application/EDI-X12".to_owned(),
                length: p.len() as u64,
            })
            .collect(),
        sign: case.sign.then_some(Signing {
            identity,
            digest: Digest::Sha384,
            scheme: SignatureScheme::RsaPkcs1,
            include_certificate: true,
            protect_algorithms: false,
        }),
        encrypt: case.encrypt.map(|cipher| Encryption {
            recipients: vec![testkit::other().certificate()],
            cipher,
            key_transport: KeyTransport::RsaPkcs1,
        }),
        compress: case.compress,
        transfer_encoding: case.encoding,
        digest_names: DigestNames::Rfc5751,
        receipt: Some(ReceiptRequest::sync("me").signed(vec![Digest::Sha384, Digest::Sha256])),
        der_max: case.der_max,
        extra_headers: vec![("X-True-Receiver".to_owned(), "y".to_owned())],
        product: "as2gate/1".to_owned(),
        nonce: [9; 16],
        also_digest: vec![Digest::Sha1],
    }
}

fn compose(outgoing: Outgoing<'_>, payload: &[Vec<u8>], seed: u64) -> (Composed, Vec<u8>) {
    compose_with(Composer::new(outgoing).unwrap(), payload, seed)
}

fn compose_with(mut composer: Composer<'_>, payload: &[Vec<u8>], seed: u64) -> (Composed, Vec<u8>) {
    let mut bytes = payload.concat();
    let mut cuts = Cuts(seed);
    loop {
        let mut out = Vec::new();
        cuts.each(&bytes, |piece| composer.push(piece, &mut out).unwrap());
        match composer.finish(&mut out).unwrap() {
            Finished::Done(composed) => return (*composed, out),
            Finished::Again(next) => {
                assert!(!next.needs_scratch());
                (composer, bytes) = (*next, out);
            }
        }
    }
}

fn incoming<'a>(headers: &'a Headers, identities: &'a [Identity], signers: &'a [Certificate]) -> Incoming<'a> {
    let limits = Limits { max_payload: 1 << 30 };
    Incoming {
        headers,
        identities,
        signers,
        policy: SecurityPolicy::default(),
        limits,
        also_hash: &[],
    }
}

fn receive(incoming: Incoming<'_>, body: &[u8], seed: u64) -> (Result<Received, Failure>, Kept) {
    let mut kept = Kept::default();
    let mut receiver = match Receiver::new(incoming) {
        Ok(receiver) => receiver,
        Err(failure) => return (Err(failure), kept),
    };
    let mut failed = None;
    let mut feed = |piece: &[u8]| {
        if failed.is_none() {
            failed = receiver.push(piece, &mut kept).err();
        }
    };
    if seed == 0 {
        feed(body)
    } else {
        Cuts(seed).each(body, feed)
    }
    match failed {
        Some(failure) => (Err(failure), kept),
        None => (receiver.finish(&mut kept), kept),
    }
}

fn message(result: Result<Received, Failure>) -> ReceivedMessage {
    match result.unwrap() {
        Received::Message(message) => message,
        Received::Mdn(_) => panic!("an MDN"),
    }
}

/// Receives with the usual keys.
fn take(headers: &Headers, body: &[u8], seed: u64) -> (Result<Received, Failure>, Kept) {
    let identities = [testkit::other().clone()];
    let signers = [testkit::rsa().certificate().clone()];
    receive(incoming(headers, &identities, &signers), body, seed)
}

/// What the composer and the receiver make of a large message, alone and with a helper.
#[test]
fn a_helper_changes_nothing() {
    for case in [
        FULL,
        Case { der_max: 0, ..FULL },
        Case {
            encrypt: Some(Cipher::Aes256Gcm),
            ..FULL
        },
        Case {
            encrypt: None,
            compress: Compression::AfterSign,
            ..FULL
        },
        Case { sign: false, ..FULL },
        PLAIN,
    ] {
        let parts = [testkit::content(2_500_000)];
        let run = |helper: Option<Arc<testkit::Threads>>| {
            let mut outgoing = outgoing(case, &parts);
            if case.der_max == 0 {
                // The digest that begins beside the decryption and goes on with the helper.
                outgoing.sign.iter_mut().for_each(|signing| signing.digest = Digest::Sha256);
            }
            let mut composer = Composer::new(outgoing).unwrap();
            if let Some(helper) = &helper {
                composer = composer.with_helper(helper.clone());
            }
            let (composed, body) = compose_with(composer, &parts, 3);
            let identities = [testkit::other().clone()];
            let signers = [testkit::rsa().certificate().clone()];
            let mut receiver = Receiver::new(incoming(&composed.headers, &identities, &signers)).unwrap();
            if let Some(helper) = &helper {
                receiver = receiver.with_helper(helper.clone());
            }
            let mut kept = Kept::default();
            Cuts(5).each(&body, |piece| receiver.push(piece, &mut kept).unwrap());
            let Received::Message(message) = receiver.finish(&mut kept).unwrap() else {
                panic!("an MDN");
            };
            assert!(kept.parts[0].1 == parts[0], "{case:?}");
            let mics: Vec<_> = composed.mics.iter().map(|c| (c.what, c.mic.clone())).collect();
            (mics, composed.mic, message.mic)
        };
        let helper = testkit::Threads::new(20);
        let (alone, helped) = (run(None), run(Some(helper.clone())));
        assert!(alone == helped && alone.1 == alone.2, "{case:?}");
        assert!(helper.taken() >= 2, "{case:?}: composer and receiver both had help");
        helper.join();
    }
}

/// What the receiver says of a body and what it gives, by one kernel.
fn by_kernel(kernel: Kernel, headers: &Headers, policy: SecurityPolicy, body: &[u8], seed: u64) -> (String, Vec<Vec<u8>>, usize) {
    let identities = [testkit::other().clone()];
    let signers = [testkit::rsa().certificate().clone()];
    let incoming = Incoming {
        policy,
        ..incoming(headers, &identities, &signers)
    };
    let mut receiver = Receiver::new(incoming).unwrap().with_kernel(kernel);
    let (mut kept, mut failed) = (Kept::default(), None);
    Cuts(seed).each(body, |piece| {
        if failed.is_none() {
            failed = receiver.push(piece, &mut kept).err();
        }
    });
    let told = match failed.map_or_else(|| receiver.finish(&mut kept), Err) {
        Ok(received) => format!("{received:?}"),
        // Its MIC may be a random value.
        Err(Failure { error, mic, sink, .. }) => format!("{error:?} {:?} {sink}", mic.map(|mic| mic.digest)),
    };
    (told, kept.parts.into_iter().map(|(_, bytes)| bytes).collect(), kept.ended)
}

/// Bytes at the beginning that hold the encrypted key: where that is altered, a random key takes its place, and no two runs are
/// the same.
const RECIPIENTS: usize = 1024;

/// Whole, altered and cut messages are the same to both kernels.
#[test]
fn the_kernel_changes_no_answer() {
    let mut cuts = Cuts(11);
    for case in [
        FULL,
        Case { der_max: 0, ..FULL },
        Case {
            encrypt: Some(Cipher::Aes128Cbc),
            compress: Compression::AfterSign,
            ..FULL
        },
        Case {
            encrypt: Some(Cipher::Aes192Cbc),
            compress: Compression::BeforeSign,
            parts: 3,
            ..FULL
        },
        Case {
            encrypt: Some(Cipher::Aes256Gcm),
            ..FULL
        },
        Case { sign: false, ..FULL },
    ] {
        let payload = payload(case.parts);
        let mut outgoing = outgoing(case, &payload);
        let signing = outgoing.sign.map(|signing| Signing {
            digest: Digest::Sha256,
            ..signing
        });
        outgoing.sign = signing;
        outgoing.receipt = Some(ReceiptRequest::sync("me").signed(vec![Digest::Sha256]));
        let (composed, body) = compose(outgoing, &payload, 1);
        for n in 0..60 {
            let policy = SecurityPolicy {
                require_signed: n % 2 == 0,
                ..SecurityPolicy::default()
            };
            let mut altered = body.clone();
            let from = RECIPIENTS.min(body.len() - 64);
            let at = from + usize::try_from(cuts.next()).unwrap() % (body.len() - from);
            match n {
                0 | 1 => {}
                // The last blocks, of which the very last holds the padding; then anything.
                2..20 => altered[body.len() - n * 3] ^= 0x40,
                20..40 => altered[at] ^= 1,
                40..50 => altered.truncate(body.len() - (n - 39) * 7),
                _ => altered.truncate(at),
            }
            let seed = n as u64 + 1;
            let fused = by_kernel(Kernel::Fused, &composed.headers, policy, &altered, seed);
            let separate = by_kernel(Kernel::Separate, &composed.headers, policy, &altered, seed);
            assert!(fused == separate, "{case:?} {n}: {} but {}", fused.0, separate.0);
            assert!(
                n > 1 || fused.0.starts_with("Message(") || n == 0 && !case.sign,
                "{case:?}: {}",
                fused.0
            );
        }
    }
}

#[test]
fn every_combination_arrives_with_the_same_mic() {
    let mut seed = 1;
    for sign in [false, true] {
        for encrypt in [None, Some(Cipher::Aes256Cbc), Some(Cipher::Aes128Gcm)] {
            for compress in [Compression::None, Compression::BeforeSign, Compression::AfterSign] {
                for parts in [1, 3] {
                    for encoding in [TransferEncoding::Binary, TransferEncoding::Base64] {
                        for der_max in [0, 1 << 20] {
                            seed += 1;
                            let case = Case {
                                sign,
                                encrypt,
                                compress,
                                parts,
                                encoding,
                                der_max,
                            };
                            arrives(case, seed);
                        }
                    }
                }
            }
        }
    }
}

fn arrives(case: Case, seed: u64) {
    let payload = payload(case.parts);
    let (composed, body) = compose(outgoing(case, &payload), &payload, seed);
    assert_eq!(composed.content_length, body.len() as u64, "{case:?}");
    let wanted = composed.mic.clone().unwrap();
    assert!(composed.mics.iter().any(|c| c.mic == wanted));
    if case.sign {
        assert!(composed.mics.iter().all(|c| c.what == "signed content"));
        assert_eq!(composed.mics.len(), 3, "{case:?}");
    }
    let (result, kept) = take(&composed.headers, &body, seed);
    let message = message(result.inspect_err(|f| panic!("{case:?}: {f}")));
    assert_eq!(message.mic, Some(wanted), "{case:?}");
    assert_eq!(message.signed.is_some(), case.sign);
    assert_eq!(message.encrypted, case.encrypt);
    assert_eq!(message.compressed, case.compress != Compression::None);
    assert_eq!((message.parts, kept.ended), (case.parts, case.parts));
    assert!(message.notes.is_empty(), "{case:?}: {:?}", message.notes);
    for (i, ((info, bytes), sent)) in kept.parts.iter().zip(&payload).enumerate() {
        assert_eq!(
            (info.file_name.as_deref(), info.content_type.as_str()),
            (Some(format!("größe {i}.edi").as_str()), "application/EDI-X12")
        );
        assert!(bytes == sent, "{case:?}: part {i} differs");
    }
    assert!(composed.headers.to_bytes().is_ascii());
    assert_eq!(composed.headers.get("Date"), Some("Thu, 31 Jul 2025 13:34:50 GMT"));
}

/// A message whose zlib bytes, which come back too, are pushed in the second pass in pieces of this many.
fn compose_compressed(outgoing: Outgoing<'_>, payload: &[u8], step: usize) -> (Composed, Vec<u8>, Vec<u8>) {
    let (mut composer, mut zlib, mut body) = (Composer::new(outgoing).unwrap(), Vec::new(), Vec::new());
    composer.push(payload, &mut zlib).unwrap();
    let Finished::Again(mut composer) = composer.finish(&mut zlib).unwrap() else {
        panic!("one pass");
    };
    zlib.chunks(step).for_each(|piece| composer.push(piece, &mut body).unwrap());
    match composer.finish(&mut body).unwrap() {
        Finished::Done(composed) => (*composed, body, zlib),
        Finished::Again(_) => panic!("three passes"),
    }
}

/// The content of a CompressedData in indefinite lengths, which begins here, and what follows it.
fn compressed_pieces(cms: &[u8]) -> (Vec<u8>, &[u8]) {
    // ContentInfo, CompressedData with version and zlib, EncapsulatedContentInfo, and the string (RFC 3274 §1.1, §2).
    let head = b"\x30\x80\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01\x09\xa0\x80\x30\x80\x02\x01\x00\
        \x30\x0d\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x03\x08\x30\x80\
        \x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01\xa0\x80\x24\x80";
    let mut rest = cms.strip_prefix(head).unwrap();
    let mut zlib = Vec::new();
    while let Some(piece) = rest.strip_prefix(b"\x04\x83\x01\x00\x00") {
        zlib.extend_from_slice(&piece[..65_536]);
        rest = &piece[65_536..];
    }
    let [4, 0x82, high, low, last @ ..] = rest else {
        panic!("{:?}", &rest[..20]);
    };
    let (last, rest) = last.split_at(usize::from(u16::from_be_bytes([*high, *low])));
    zlib.extend_from_slice(last);
    (zlib, rest.strip_prefix(&[0; 12]).unwrap())
}

/// The CompressedData of a message, encrypted or not, and what follows it; in a signed part if `in_front`.
fn compressed_inside(body: &[u8], encrypted: bool, in_front: bool) -> Vec<u8> {
    let behind_head = |whole: &[u8]| memchr::memmem::find(whole, b"\r\n\r\n").unwrap() + 4;
    let mut inner = body.to_vec();
    if encrypted {
        let mut opener = crate::cms::Opener::new(&[testkit::other().clone()], crate::cms::OpenPolicy::default());
        inner.clear();
        opener.push(body, &mut inner).unwrap();
        opener.finish(&mut inner).unwrap();
        inner.drain(..behind_head(&inner));
    }
    if in_front {
        inner.drain(..behind_head(&inner));
    }
    inner
}

/// One threshold for all layers (cms-streaming.md §4.3): Java products hold a definite length in memory.
#[test]
fn compressed_content_above_der_max_comes_in_pieces() {
    let mut noise = Cuts(77);
    let payload = vec![(0..150_000).map(|_| noise.next() as u8).collect::<Vec<_>>()];
    let length = payload[0].len() as u64;
    for (sign, compress) in [
        (true, Compression::BeforeSign),
        (true, Compression::AfterSign),
        (false, Compression::BeforeSign),
    ] {
        let in_front = sign && compress == Compression::BeforeSign;
        for encrypt in [None, Some(Cipher::Aes256Cbc), Some(Cipher::Aes128Gcm)] {
            let case = |der_max| Case {
                sign,
                encrypt,
                compress,
                der_max,
                ..PLAIN
            };
            let mut seen = Vec::new();
            for step in [usize::MAX, 1, 65_537] {
                let (composed, body, zlib) = compose_compressed(outgoing(case(length - 1), &payload), &payload[0], step);
                assert_eq!(composed.content_length, body.len() as u64, "{:?}", case(0));
                assert!(in_front && encrypt.is_none() || body.starts_with(&[0x30, 0x80]), "{:?}", case(0));
                let inside = compressed_inside(&body, encrypt.is_some(), in_front);
                let (found, rest) = compressed_pieces(&inside);
                assert!(found == zlib && zlib.len() > 2 * 65_536, "{:?} {step}", case(0));
                assert!(rest.is_empty() != in_front, "{:?}: {rest:?}", case(0));
                let (result, kept) = take(&composed.headers, &body, step as u64 % 7);
                assert_eq!(message(result).mic, composed.mic, "{:?} {step}", case(0));
                assert!(kept.parts[0].1 == payload[0]);
                seen.push(inside);
            }
            assert!(seen.iter().all(|inside| *inside == seen[0]), "{:?}: the split shows", case(0));
            let (_, body, _) = compose_compressed(outgoing(case(length), &payload), &payload[0], 1000);
            let inside = compressed_inside(&body, encrypt.is_some(), in_front);
            assert!(inside.starts_with(&[0x30, 0x83]), "{:?}: {:?}", case(length), &inside[..20]);
        }
    }
}

#[test]
fn lengths_are_promises() {
    let payload = payload(1);
    let mut composer = Composer::new(outgoing(FULL, &payload)).unwrap();
    let mut out = Vec::new();
    composer.push(&payload[0][1..], &mut out).unwrap();
    assert!(composer.finish(&mut out).is_err());
    let mut composer = Composer::new(outgoing(PLAIN, &payload)).unwrap();
    assert!(composer.push(&[payload[0].as_slice(), b"x"].concat(), &mut out).is_err());
    let reserved = Outgoing {
        extra_headers: vec![("as2-from".to_owned(), "x".to_owned())],
        ..outgoing(PLAIN, &payload)
    };
    let mut composer = Composer::new(reserved).unwrap();
    composer.push(&payload[0], &mut out).unwrap();
    assert!(composer.finish(&mut out).is_err());
}

#[test]
fn openssl_accepts_what_we_sign() {
    let bench = testkit::Bench::new(testkit::rsa());
    // The program reads a message by lines and cannot keep other bytes, so what is no text is cut apart for it.
    let text = vec![b"\r\nISA*00*          *00*\r\n\r\n".repeat(50)];
    for (compress, payload) in [(Compression::None, text), (Compression::BeforeSign, payload(1))] {
        let (composed, body) = compose(
            outgoing(
                Case {
                    sign: true,
                    compress,
                    ..PLAIN
                },
                &payload,
            ),
            &payload,
            5,
        );
        let content_type = composed.headers.get("Content-Type").unwrap();
        if compress == Compression::None {
            let head = format!("MIME-Version: 1.0\r\nContent-Type: {content_type}\r\n\r\n");
            bench.put("message", &[head.as_bytes(), &body].concat());
            bench.openssl("smime -verify -noverify -certfile cert.pem -in message -out out");
            bench.openssl("cms -verify -noverify -certfile cert.pem -in message -out out");
        } else {
            let media = crate::mime::MediaType::parse(content_type);
            let (parts, closed) = crate::mime::scanner::split(&body, media.param("boundary"), 2).unwrap();
            assert!(closed);
            let at = parts[1].windows(4).position(|w| w == b"\r\n\r\n").unwrap();
            bench.put("part", &parts[0]);
            bench.put("p7s", &crate::mime::transfer::decode_strict(&parts[1][at..]).unwrap());
            bench.openssl("cms -verify -noverify -binary -inform DER -in p7s -content part -certfile cert.pem -out out");
        }
        let mic = crate::crypto::hash(Digest::Sha384, &bench.get("out")).unwrap();
        assert_eq!(composed.mic.clone().unwrap().value, mic, "{compress}");
    }
}

#[test]
fn altered_content_and_foreign_signers_are_told_apart() {
    let payload = payload(1);
    let (composed, body) = compose(outgoing(Case { sign: true, ..PLAIN }, &payload), &payload, 3);
    let at = body.windows(4).position(|w| w == b"last").unwrap();
    let mut altered = body.clone();
    altered[at] = b'L';
    let failure = take(&composed.headers, &altered, 0).0.unwrap_err();
    assert_eq!(failure.error.kind, ErrorKind::IntegrityCheckFailed);
    assert!(failure.mic.is_some() && failure.mic != composed.mic);

    let signers = [testkit::other().certificate().clone()];
    let failure = receive(incoming(&composed.headers, &[], &signers), &body, 0).0.unwrap_err();
    assert_eq!(failure.error.kind, ErrorKind::AuthenticationFailed);
    assert_eq!(failure.mic, composed.mic);
    let failure = receive(incoming(&composed.headers, &[], &[]), &body, 0).0.unwrap_err();
    assert_eq!(failure.error.kind, ErrorKind::AuthenticationFailed);
}

#[test]
fn requirements_are_held_against_what_was_found() {
    let payload = payload(1);
    let identities = [testkit::other().clone()];
    let signers = [testkit::rsa().certificate().clone()];
    let policy = SecurityPolicy {
        require_signed: true,
        require_encrypted: true,
        ..SecurityPolicy::default()
    };
    let encrypted = Case {
        encrypt: Some(Cipher::Aes256Cbc),
        ..PLAIN
    };
    for (case, lack) in [
        (PLAIN, Lack::Both),
        (Case { sign: true, ..PLAIN }, Lack::Encryption),
        (encrypted, Lack::Signature),
    ] {
        let (composed, body) = compose(outgoing(case, &payload), &payload, 3);
        let incoming = Incoming {
            policy,
            ..incoming(&composed.headers, &identities, &signers)
        };
        let failure = receive(incoming, &body, 4).0.unwrap_err();
        assert_eq!(failure.error.kind, ErrorKind::InsufficientMessageSecurity(lack), "{case:?}");
        // Of what a stranger may have altered no digest is told.
        let told = composed.mic.filter(|_| case.encrypt.is_none());
        assert_eq!(failure.mic, told, "{case:?}");
    }
    let (composed, body) = compose(outgoing(FULL, &payload), &payload, 3);
    let incoming = Incoming {
        policy,
        ..incoming(&composed.headers, &identities, &signers)
    };
    message(receive(incoming, &body, 4).0);
}

#[test]
fn micalg_is_a_hint_and_digests_are_held_against_the_policy() {
    let payload = payload(1);
    let mut out = outgoing(Case { sign: true, ..PLAIN }, &payload);
    out.receipt = None;
    let (composed, body) = compose(out, &payload, 3);
    let mut headers = composed.headers.clone();
    let lie = headers.get("Content-Type").unwrap().replace("sha-384", "sha-512");
    headers.remove("Content-Type");
    headers.push("Content-Type", &lie).unwrap();
    let failure = take(&headers, &body, 0).0.unwrap_err();
    assert_eq!(failure.rehash(), Some(Digest::Sha384));
    let signers = [testkit::rsa().certificate().clone()];
    let again = Incoming {
        also_hash: &[Digest::Sha384],
        ..incoming(&headers, &[], &signers)
    };
    assert_eq!(message(receive(again, &body, 0).0).mic, composed.mic);

    let mut out = outgoing(Case { sign: true, ..PLAIN }, &payload);
    out.sign = out.sign.map(|s| Signing { digest: Digest::Sha1, ..s });
    out.receipt = Some(ReceiptRequest::sync("me").signed(vec![Digest::Sha1]));
    let (composed, body) = compose(out, &payload, 3);
    assert_eq!(
        take(&composed.headers, &body, 0).0.unwrap_err().error.kind,
        ErrorKind::UnsupportedMicAlgorithms
    );
    let mut headers = composed.headers.clone();
    headers.remove("Disposition-Notification-Options");
    let failure = take(&headers, &body, 0).0.unwrap_err();
    assert_eq!(
        failure.error.kind,
        ErrorKind::InsufficientMessageSecurity(Lack::Digest(Digest::Sha1))
    );
    assert_eq!(failure.mic.unwrap().digest, Digest::Sha256);
    let policy = SecurityPolicy {
        legacy_sha1: true,
        ..SecurityPolicy::default()
    };
    let legacy = Incoming {
        policy,
        ..incoming(&headers, &[], &signers)
    };
    assert_eq!(message(receive(legacy, &body, 0).0).mic, composed.mic);
}

#[test]
fn after_decryption_everything_broken_is_one_answer() {
    let payload = vec![b"short payload".to_vec()];
    let identities = [testkit::other().clone()];
    let signers = [testkit::rsa().certificate().clone()];
    let policy = SecurityPolicy {
        require_signed: true,
        ..SecurityPolicy::default()
    };
    for compress in [Compression::None, Compression::BeforeSign, Compression::AfterSign] {
        let (composed, body) = compose(outgoing(Case { compress, ..FULL }, &payload), &payload, 3);
        let open = |body: &[u8]| {
            receive(
                Incoming {
                    policy,
                    ..incoming(&composed.headers, &identities, &signers)
                },
                body,
                0,
            )
            .0
        };
        message(open(&body));
        for cut in (0..body.len()).step_by(37) {
            assert_eq!(
                open(&body[..cut]).unwrap_err().error.kind,
                ErrorKind::DecryptionFailed,
                "cut at {cut}"
            );
        }
        for at in (0..body.len()).step_by(41) {
            let mut bad = body.clone();
            bad[at] ^= 0x10;
            match open(&bad) {
                Ok(_) => {}
                Err(failure) => match failure.error.kind {
                    ErrorKind::DecryptionFailed => assert!(failure.mic.is_none()),
                    // The content was complete in structure, and only the signature did not hold.
                    ErrorKind::IntegrityCheckFailed | ErrorKind::AuthenticationFailed => {}
                    other => panic!("{other:?} at {at}: {failure}"),
                },
            }
        }
        let failure = receive(incoming(&composed.headers, &[testkit::rsa().clone()], &signers), &body, 0)
            .0
            .unwrap_err();
        assert_eq!(failure.error.kind, ErrorKind::DecryptionFailed);
    }
}

/// Vaudenay's attack, and those by format: content that is not signed has one answer for good padding and bad, whatever the attacker
/// puts in front and wherever it ends. Else the answers decrypt a captured message, a byte in some 256 of them.
#[test]
fn where_a_signature_is_required_padding_is_never_told() {
    let insufficient = ErrorKind::InsufficientMessageSecurity(Lack::Signature);
    let related = "Content-Type: multipart/related; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\none\r\n--b";
    let x = |times| "x".repeat(times);
    let cases = [
        (format!("Content-Type: text/plain\r\n\r\n{}", x(100)), insufficient),
        (format!("content-type:text/plain\r\n\r\n{}", x(70_000)), insufficient),
        (format!("Content-Type: text/plain\r\nX: y\r\n\r\n{}", x(40)), insufficient),
        // The blank line is in the last block, or nowhere, or what is before it is no header block.
        (format!("Content-Type: text/plain\r\n\r\n{}", x(2)), ErrorKind::DecryptionFailed),
        (format!("Content-Type: text/plain; no={}", x(300)), ErrorKind::DecryptionFailed),
        (
            format!("Content-Type: text/plain\r\nno field\r\n\r\n{}", x(99)),
            ErrorKind::DecryptionFailed,
        ),
        (
            format!("Content-Type: text/plain; \u{fc}\r\n\r\n{}", x(99)),
            ErrorKind::DecryptionFailed,
        ),
        // An MDN: whether it can be read tells as well.
        (
            format!("Content-Type:me(\u{fc})ssage/disposition-notification\r\n\r\n{}", x(99)),
            ErrorKind::DecryptionFailed,
        ),
        (
            format!(
                "Content-Type: message/disposition-notification\r\n\r\nDisposition: a; processed\r\n{}",
                x(99)
            ),
            insufficient,
        ),
        (format!("{related}--\r\n"), insufficient),
        (related.to_owned(), insufficient),
        (format!("Content-ID:\r\n\r\nX{}", x(200)), ErrorKind::DecryptionFailed),
        (format!("Content-ID:\r\n\r\nX{}", x(70_000)), ErrorKind::DecryptionFailed),
        ("Content-Type: ap".to_owned(), ErrorKind::DecryptionFailed),
        (format!("Content-Type: ap{}", x(9)), ErrorKind::DecryptionFailed),
        (x(300), ErrorKind::DecryptionFailed),
        (
            format!("Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\n{}", x(99)),
            ErrorKind::DecryptionFailed,
        ),
        (
            format!("MIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n{}", x(99)),
            ErrorKind::DecryptionFailed,
        ),
    ];
    let mut cases: Vec<_> = cases.into_iter().map(|(plain, kind)| (plain.into_bytes(), kind)).collect();
    cases.push((compressed(b"Content-Type: text/plain\r\n\r\nfile"), ErrorKind::DecryptionFailed));
    for (plain, kind) in cases {
        let body = sealed(&plain);
        let padding = u8::try_from(16 - plain.len() % 16).unwrap();
        // In the last block but one, or the IV before a single one: what is changed there changes the padding.
        let at = body.len() - 17;
        for change in (0..=u8::MAX).step_by(17).chain([padding ^ 1]) {
            let mut altered = body.clone();
            altered[at] ^= change;
            for seed in [0, 3] {
                let failure = required_to_sign(&altered, seed);
                let shown = String::from_utf8_lossy(&plain[..plain.len().min(40)]).into_owned();
                assert_eq!((failure.error.kind, failure.mic), (kind, None), "{shown} with {change}");
            }
        }
    }
}

/// A digest of altered plain text would let a stranger check guesses about it.
#[test]
fn inside_encryption_a_bad_signature_is_told_without_a_mic() {
    let entity = signed(b"Content-Type: text/plain\r\n\r\nfile", false);
    let altered = String::from_utf8_lossy(&entity).replace("file", "fire").into_bytes();
    assert_ne!(altered, entity);
    let failure = required_to_sign(&sealed(&altered), 3);
    assert_eq!((failure.error.kind, failure.mic), (ErrorKind::IntegrityCheckFailed, None));
    let failure = required_to_sign_by(&[], &sealed(&entity), 3);
    assert_eq!((failure.error.kind, failure.mic), (ErrorKind::AuthenticationFailed, None));
}

/// What a signature does not cover takes no garbage: whether it is read would tell about blocks that were put there.
#[test]
fn around_a_signature_inside_encryption_headers_are_ascii() {
    let entity = signed(b"Content-Type: text/plain\r\n\r\nfile", false);
    let text = String::from_utf8_lossy(&entity).into_owned();
    let signature = text.rfind("Content-Type:").unwrap();
    for at in [0, signature] {
        let with = |line: &str| sealed(&[&entity[..at], line.as_bytes(), &entity[at..]].concat());
        let headers = enveloped();
        let took = |body: &[u8]| {
            let (identities, signers) = ([testkit::other().clone()], [testkit::rsa().certificate().clone()]);
            receive(must_sign(incoming(&headers, &identities, &signers)), body, 3).0
        };
        message(took(&with("X-Good: line\r\n")));
        let failure = took(&with("X-Bad: \u{fc}\r\n")).unwrap_err();
        assert_eq!((failure.error.kind, failure.mic), (ErrorKind::DecryptionFailed, None));
    }
}

fn enveloped() -> Headers {
    let mut headers = Headers::new();
    headers
        .push("Content-Type", "application/pkcs7-mime; smime-type=enveloped-data")
        .unwrap();
    headers
}

fn must_sign(incoming: Incoming<'_>) -> Incoming<'_> {
    let policy = SecurityPolicy {
        require_signed: true,
        ..SecurityPolicy::default()
    };
    Incoming { policy, ..incoming }
}

/// What becomes of an encrypted body from a partner that has to sign.
fn required_to_sign(body: &[u8], seed: u64) -> Failure {
    required_to_sign_by(&[testkit::rsa().certificate().clone()], body, seed)
}

fn required_to_sign_by(signers: &[Certificate], body: &[u8], seed: u64) -> Failure {
    let (headers, identities) = (enveloped(), [testkit::other().clone()]);
    receive(must_sign(incoming(&headers, &identities, signers)), body, seed)
        .0
        .unwrap_err()
}

/// What a message comes to once its inner bytes are changed and encrypted again.
fn sealed_again(change: impl Fn(&str) -> String) -> Result<Received, Failure> {
    use crate::cms::{EnvelopePlan, Form, Sealer};
    let payload = vec![b"short payload".to_vec()];
    let (_, inner) = compose(outgoing(Case { encrypt: None, ..FULL }, &payload), &payload, 3);
    let (composed, _) = compose(outgoing(FULL, &payload), &payload, 3);
    let head = compose(outgoing(Case { encrypt: None, ..FULL }, &payload), &payload, 3).0.headers;
    let entity = format!(
        "Content-Type: {}\r\n\r\n{}",
        head.get("Content-Type").unwrap(),
        change(std::str::from_utf8(&inner).unwrap())
    );
    let mut sealer = Sealer::new(&EnvelopePlan {
        recipients: vec![testkit::other().certificate()],
        cipher: Cipher::Aes256Cbc,
        key_transport: KeyTransport::RsaPkcs1,
        plain_len: entity.len() as u64,
        form: Form::Der,
    })
    .unwrap();
    let mut body = Vec::new();
    sealer.push(entity.as_bytes(), &mut body).unwrap();
    sealer.finish(&mut body).unwrap();
    let identities = [testkit::other().clone()];
    let signers = [testkit::rsa().certificate().clone()];
    receive(incoming(&composed.headers, &identities, &signers), &body, 0).0
}

#[test]
fn inside_encryption_a_signature_in_odd_base64_is_not_read() {
    message(sealed_again(str::to_owned));
    // Each of these is read in clear, where nobody learns anything from it; behind CBC it would tell about the padding.
    let signature = |text: &str| text.rfind("\r\n\r\n").unwrap() + 4;
    type Change<'a> = Box<dyn Fn(&str) -> String + 'a>;
    let odd: [(&str, Change<'_>); 3] = [
        (
            "a stray character",
            Box::new(|text| {
                let at = signature(text);
                format!("{}!{}", &text[..at + 8], &text[at + 8..])
            }),
        ),
        ("bytes after the closing boundary", Box::new(|text| format!("{text}more"))),
        (
            "no closing boundary",
            Box::new(|text| text.get(..text.rfind("\r\n--").unwrap()).unwrap().to_owned()),
        ),
    ];
    let payload = vec![b"short payload".to_vec()];
    let (composed, inner) = compose(outgoing(Case { encrypt: None, ..FULL }, &payload), &payload, 3);
    let signers = [testkit::rsa().certificate().clone()];
    for (name, change) in odd {
        let clear = change(std::str::from_utf8(&inner).unwrap());
        let clear = receive(incoming(&composed.headers, &[], &signers), clear.as_bytes(), 0).0;
        assert!(clear.is_ok(), "{name}: in clear it is read");
        let failure = sealed_again(change).unwrap_err();
        assert_eq!(
            (failure.error.kind, failure.mic.is_some()),
            (ErrorKind::DecryptionFailed, false),
            "{name}"
        );
    }
}

#[test]
fn cut_and_bent_messages_never_panic() {
    let payload = payload(1).iter().map(|p| p[..40].to_vec()).collect::<Vec<_>>();
    for case in [
        PLAIN,
        Case { sign: true, ..PLAIN },
        Case {
            compress: Compression::BeforeSign,
            ..PLAIN
        },
        Case {
            parts: 3,
            sign: true,
            ..PLAIN
        },
    ] {
        let (composed, body) = compose(outgoing(case, &payload), &payload, 3);
        for at in 0..body.len() {
            let whole = take(&composed.headers, &body[..at], 0).0;
            let signature_ends = at + 64 > body.len();
            assert!(whole.is_err() || !case.sign || signature_ends, "cut at {at} of {}", body.len());
            let mut bent = body.clone();
            bent[at] ^= 0x21;
            let _ = take(&composed.headers, &bent, 0);
        }
    }
}

#[test]
fn compression_is_bounded_and_single() {
    let zeros = vec![vec![0u8; 8 << 20]];
    let (composed, body) = compose(
        outgoing(
            Case {
                compress: Compression::BeforeSign,
                ..PLAIN
            },
            &zeros,
        ),
        &zeros,
        0,
    );
    assert_eq!(
        take(&composed.headers, &body, 0).0.unwrap_err().error.kind,
        ErrorKind::DecompressionFailed
    );
    // Compressed content inside compressed content.
    let payload = payload(1);
    let (inner, body) = compose(
        outgoing(
            Case {
                compress: Compression::BeforeSign,
                ..PLAIN
            },
            &payload,
        ),
        &payload,
        1,
    );
    let mut zlib = Vec::new();
    let mut compressor = crate::cms::Compressor::new();
    compressor
        .push(
            format!("Content-Type: {}\r\n\r\n", inner.headers.get("Content-Type").unwrap()).as_bytes(),
            &mut zlib,
        )
        .unwrap();
    compressor.push(&body, &mut zlib).unwrap();
    compressor.finish(&mut zlib).unwrap();
    let doubled = [crate::cms::compressed_prefix(zlib.len() as u64), zlib].concat();
    assert_eq!(
        take(&inner.headers, &doubled, 2).0.unwrap_err().error.kind,
        ErrorKind::DecompressionFailed
    );
}

#[test]
fn a_file_name_in_an_unknown_charset_is_noted_as_it_came() {
    let payload = payload(1);
    let (composed, body) = compose(outgoing(PLAIN, &payload), &payload, 3);
    for (name, note) in [
        ("filename=\"=?KOI8-R?B?+sHLwdou?=\"", Some("=?KOI8-R?B?+sHLwdou?=")),
        ("filename*=iso-8859-2''zam%F3wienie.edi", Some("iso-8859-2''zam%F3wienie.edi")),
        ("filename=smime.p7m", None),
        ("filename=\"\"", None),
    ] {
        let mut headers = composed.headers.clone();
        headers.remove("Content-Disposition");
        headers.push("Content-Disposition", &format!("attachment; {name}")).unwrap();
        let notes = message(take(&headers, &body, 9).0).notes;
        let wanted = note.map(|name| format!("a file name that cannot be read: {name}"));
        assert_eq!(notes, wanted.into_iter().collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn bodies_in_base64_are_read() {
    let payload = payload(1);
    for case in [
        FULL,
        Case { sign: true, ..PLAIN },
        Case {
            compress: Compression::AfterSign,
            sign: true,
            ..PLAIN
        },
    ] {
        let (composed, body) = compose(outgoing(case, &payload), &payload, 3);
        let mut headers = composed.headers.clone();
        headers.push("Content-Transfer-Encoding", "base64").unwrap();
        let encoded = crate::mime::transfer::encode(&body);
        let (result, kept) = take(&headers, &encoded, 9);
        let message = message(result);
        assert_eq!(message.mic, composed.mic);
        assert_eq!(kept.parts[0].1, payload[0]);
        assert_eq!(message.notes.len(), 1);
        // The header alone, over a body that is not encoded.
        assert_eq!(take(&headers, &body, 9).1.parts[0].1, payload[0]);
    }
}

#[test]
fn line_ends_are_mended_once_for_a_signature() {
    let part = b"Content-Type: text/plain\r\nContent-Transfer-Encoding: 7bit\r\n\r\none\r\ntwo\r\n";
    let digest = crate::crypto::hash(Digest::Sha256, part).unwrap();
    let params = crate::cms::SignParams {
        identity: testkit::rsa(),
        digest: Digest::Sha256,
        scheme: SignatureScheme::RsaPkcs1,
        include_certificate: false,
        protect_algorithms: false,
    };
    let p7s = crate::mime::transfer::encode(&crate::cms::p7s(&params, &digest, 0).unwrap());
    let text = [
        b"--b\r\n",
        &part[..],
        b"\r\n--b\r\nContent-Type: application/pkcs7-signature\r\n\r\n",
        &p7s,
        b"\r\n--b--\r\n",
    ]
    .concat();
    let text: Vec<u8> = text.into_iter().filter(|b| *b != b'\r').collect();
    let mut headers = Headers::new();
    headers.push("Content-Type", "multipart/signed; boundary=b").unwrap();
    for seed in 0..20 {
        let message = message(take(&headers, &text, seed).0);
        assert_eq!(message.mic.unwrap().value, digest);
        assert_eq!(message.notes, ["the signature holds with line ends made CRLF"]);
    }
}

#[test]
fn content_inside_its_signature_is_read() {
    let part = b"Content-Type: text/plain\r\nContent-Disposition: attachment; filename=a.txt\r\n\r\none\r\ntwo\r\n";
    let bench = testkit::Bench::new(testkit::rsa());
    bench.put("part", part);
    bench.openssl("cms -sign -binary -nodetach -outform DER -md sha256 -in part -signer cert.pem -inkey key.pem -out out");
    let mut headers = Headers::new();
    headers
        .push("Content-Type", "application/x-pkcs7-mime; smime-type=signed-data")
        .unwrap();
    for seed in 0..5 {
        let (result, kept) = take(&headers, &bench.get("out"), seed);
        let message = message(result);
        assert_eq!(message.mic.unwrap().value, crate::crypto::hash(Digest::Sha256, part).unwrap());
        assert_eq!(message.signed.unwrap().digest, Digest::Sha256);
        assert_eq!(
            (kept.parts[0].0.file_name.as_deref(), kept.parts[0].1.as_slice()),
            (Some("a.txt"), &b"one\r\ntwo\r\n"[..])
        );
    }
    let mut altered = bench.get("out");
    let at = altered.windows(3).position(|w| w == b"two").unwrap();
    altered[at] = b'T';
    assert_eq!(
        take(&headers, &altered, 0).0.unwrap_err().error.kind,
        ErrorKind::IntegrityCheckFailed
    );
}

/// RFC 2045 §5.1, §6.1.
#[test]
fn comments_in_mime_fields_change_no_file() {
    let coded = "Content-Type: text/plain (x)\r\nContent-Transfer-Encoding: base64 (coded)\r\n\r\nSVNBKjENCg==\r\n";
    let related = format!("Content-Type: multipart/related (x; y); boundary=r (z)\r\n\r\n--r\r\n{coded}--r--\r\n");
    for part in [coded, &related] {
        let (headers, body) = signed_part(part.as_bytes(), true, b"\r\n--b--\r\n");
        for seed in 0..4 {
            let (result, kept) = take(&headers, &body, seed);
            assert!(message(result).notes.is_empty(), "{part}");
            assert_eq!(kept.parts[0].0.content_type, "text/plain", "{part}");
            assert!(kept.parts.len() == 1 && kept.parts[0].1 == b"ISA*1\r\n", "{part}: {:?}", kept.parts);
        }
    }
    // The line ends of a part that is coded so, whatever a comment says, are its signer's.
    let (headers, body) = signed_part(coded.replace("coded", "8bit").as_bytes(), true, b"\r\n--b--\r\n");
    let body: Vec<u8> = body.into_iter().filter(|b| *b != b'\r').collect();
    assert_eq!(take(&headers, &body, 0).0.unwrap_err().error.kind, ErrorKind::IntegrityCheckFailed);
}

/// A zlib layer around an entity, as an entity.
fn compressed(entity: &[u8]) -> Vec<u8> {
    let (mut compressor, mut zlib) = (crate::cms::Compressor::new(), Vec::new());
    compressor.push(entity, &mut zlib).unwrap();
    compressor.finish(&mut zlib).unwrap();
    let head = b"Content-Type: application/pkcs7-mime; smime-type=compressed-data\r\n\r\n".to_vec();
    [head, crate::cms::compressed_prefix(zlib.len() as u64), zlib].concat()
}

/// The EnvelopedData of these bytes.
fn sealed(plain: &[u8]) -> Vec<u8> {
    let plan = crate::cms::EnvelopePlan {
        recipients: vec![testkit::other().certificate()],
        cipher: Cipher::Aes128Cbc,
        key_transport: KeyTransport::RsaPkcs1,
        plain_len: plain.len() as u64,
        form: crate::cms::Form::Der,
    };
    let (mut sealer, mut out) = (crate::cms::Sealer::new(&plan).unwrap(), Vec::new());
    sealer.push(plain, &mut out).unwrap();
    sealer.finish(&mut out).unwrap();
    out
}

/// An encrypted layer around an entity, as an entity.
fn encrypted(entity: &[u8]) -> Vec<u8> {
    let head = b"Content-Type: application/pkcs7-mime; smime-type=enveloped-data\r\n\r\n";
    [&head[..], &sealed(entity)].concat()
}

/// A signature beside an entity, or around it, as an entity.
fn signed(entity: &[u8], opaque: bool) -> Vec<u8> {
    if !opaque {
        let (headers, body) = signed_part(entity, true, b"\r\n--b--\r\n");
        return [&headers.to_bytes(), &b"\r\n"[..], &body].concat();
    }
    let bench = testkit::Bench::new(testkit::rsa());
    bench.put("part", entity);
    bench.openssl("cms -sign -binary -nodetach -outform DER -md sha256 -in part -signer cert.pem -inkey key.pem -out out");
    [
        b"Content-Type: application/pkcs7-mime; smime-type=signed-data\r\n\r\n",
        &bench.get("out")[..],
    ]
    .concat()
}

/// RFC 2045 §2.4, §5.2: an entity may say nothing about its content, and its header block may be empty. It is no part of the file.
#[test]
fn a_header_block_without_content_fields_is_no_payload() {
    let blocks = [
        ("\r\n", true),
        ("\n", true),
        ("Date: x\r\n\r\n", true),
        ("X-Empty:\r\n folded\r\nDate: x\r\n\r\n", true),
        // What begins so may be the file itself.
        ("UNA:+.? '\r\nUNB+UNOA:1+a:b'\r\n\r\n", false),
        ("UNA:+.? '\r\n\r\n", false),
        ("ISA*00* : *\r\n\r\n", false),
        ("12: 30\r\n\r\n", false),
        ("Date: x\r\nno header\r\n\r\n", false),
    ];
    for (block, head) in blocks {
        let entity = [block.as_bytes(), b"ISA*1\r\n"].concat();
        let forms = [
            (signed(&entity, true), head),
            (signed(&compressed(&entity), false), head),
            (compressed(&signed(&entity, true)), head),
            (compressed(&entity), head),
            (encrypted(&compressed(&entity)), head),
            (encrypted(&signed(&compressed(&entity), false)), head),
            // COMPAT(mendelson): the bare payload.
            (encrypted(&entity), false),
        ];
        for (n, (whole, head)) in forms.iter().enumerate() {
            let at = memchr::memmem::find(whole, b"\r\n\r\n").unwrap();
            let (headers, body) = (Headers::parse(&whole[..at]).unwrap(), &whole[at + 4..]);
            for seed in 0..4 {
                let (result, kept) = take(&headers, body, seed);
                let message = message(result);
                let payload = if *head { b"ISA*1\r\n" } else { &entity[..] };
                assert!(
                    kept.parts.len() == 1 && kept.parts[0].1 == payload,
                    "{block:?} {n}: {:?}",
                    kept.parts
                );
                let over = if matches!(n, 1 | 5) { compressed(&entity) } else { entity.clone() };
                assert_eq!(
                    message.mic.unwrap().value,
                    crate::crypto::hash(Digest::Sha256, &over).unwrap(),
                    "{n}"
                );
                assert_eq!(message.notes.is_empty(), *head, "{block:?} {n}: {:?}", message.notes);
            }
        }
    }
}

#[test]
fn a_bare_payload_behind_encryption_is_taken_where_unsigned_ones_are() {
    let payload = b"UNA:+.? '\r\nUNB+UNOA:1+a:b'\r\n\r\nend";
    let body = sealed(payload);
    let mut headers = Headers::new();
    headers
        .push("Content-Type", "application/pkcs7-mime; smime-type=enveloped-data")
        .unwrap();
    headers.push("Content-Disposition", "attachment; filename=\"smime.p7m\"").unwrap();
    let (result, kept) = take(&headers, &body, 3);
    assert_eq!(
        message(result).mic.unwrap().value,
        crate::crypto::hash(Digest::Sha256, payload).unwrap()
    );
    assert_eq!(kept.parts[0].1, payload);
    assert_eq!(
        kept.parts[0].0,
        PartInfo {
            index: 0,
            file_name: None,
            content_type: "application/octet-stream".to_owned()
        }
    );
    let failure = required_to_sign(&body, 0);
    assert_eq!((failure.error.kind, failure.mic), (ErrorKind::DecryptionFailed, None));
}

fn mdn_out(sign: bool) -> MdnOut<'static> {
    MdnOut {
        from: As2Id::parse("AS2 Test").unwrap(),
        to: As2Id::parse("ACME").unwrap(),
        message_id: MessageId::new("2", "host").unwrap(),
        original_message_id: "<1@host>".to_owned(),
        now: 1_753_968_890,
        disposition: Disposition::processed(),
        mic: Some(Mic {
            digest: Digest::Sha256,
            value: vec![1; 32],
        }),
        digest_names: DigestNames::Rfc5751,
        text: "received".to_owned(),
        explanation: None,
        sign: sign.then_some(Signing {
            identity: testkit::rsa(),
            digest: Digest::Sha256,
            scheme: SignatureScheme::RsaPkcs1,
            include_certificate: true,
            protect_algorithms: false,
        }),
        as2_version: "1.2".to_owned(),
        product: "as2gate/1".to_owned(),
        subject: "receipt".to_owned(),
        nonce: [3; 16],
        recipient_url: None,
    }
}

fn receipt(result: Result<Received, Failure>) -> ReceivedMdn {
    match result.unwrap() {
        Received::Mdn(mdn) => *mdn,
        Received::Message(_) => panic!("a message"),
    }
}

#[test]
fn our_mdns_are_read_and_verified() {
    for sign in [false, true] {
        let (headers, body) = mdn::compose(mdn_out(sign)).unwrap();
        for seed in 0..10 {
            let (result, kept) = take(&headers, &body, seed);
            let read = receipt(result);
            assert_eq!(read.mdn.original_message_id, "<1@host>");
            assert_eq!(read.mdn.mic, mdn_out(sign).mic);
            assert!(kept.parts.is_empty());
            assert_eq!(matches!(read.signature, MdnSignature::Verified { .. }), sign);
        }
        let text = String::from_utf8(body).unwrap().replace("; processed", "; PROCESSED");
        let read = receipt(take(&headers, text.as_bytes(), 0).0);
        assert_eq!(matches!(read.signature, MdnSignature::Bad(_)), sign);
    }
    let (headers, body) = mdn::compose(mdn_out(true)).unwrap();
    for cut in 0..body.len() {
        if let Ok(Received::Mdn(mdn)) = take(&headers, &body[..cut], 0).0 {
            assert!(!matches!(mdn.signature, MdnSignature::None), "cut at {cut}");
        }
    }
}

#[test]
fn a_report_signed_without_its_last_line_end_is_verified() {
    let signed_over = |end: &str| {
        let report = "Content-Type: multipart/report; report-type=disposition-notification; boundary=r\r\n\r\n\
            --r\r\nContent-Type: text/plain\r\n\r\nGot it.\r\n--r\r\nContent-Type: message/disposition-notification\r\n\r\n\
            Original-Message-ID: <1@host>\r\nDisposition: automatic-action/MDN-sent-automatically; processed\r\n\r\n--r--";
        let bench = testkit::Bench::new(testkit::rsa());
        bench.put("part", format!("{report}{end}").as_bytes());
        bench.openssl("cms -sign -binary -outform DER -md sha256 -in part -signer cert.pem -inkey key.pem -out out");
        let p7s = crate::mime::transfer::encode(&bench.get("out"));
        let head = b"\r\n--b\r\nContent-Type: application/pkcs7-signature\r\n\r\n";
        [b"--b\r\n", report.as_bytes(), b"\r\n", head, &p7s, b"\r\n--b--\r\n"].concat()
    };
    let mut headers = Headers::new();
    let kind = "multipart/signed; protocol=\"application/pkcs7-signature\"; micalg=sha-256; boundary=b";
    headers.push("Content-Type", kind).unwrap();
    headers.push("AS2-Version", "1.2").unwrap();
    for seed in 0..20 {
        for (end, good) in [("\r\n", true), ("", true), (" ", false), ("\r\n\r\n", false)] {
            let read = receipt(take(&headers, &signed_over(end), seed).0);
            assert_eq!(matches!(read.signature, MdnSignature::Verified { .. }), good, "{end:?}");
        }
    }
}

#[test]
fn a_failing_sink_is_our_trouble() {
    struct Full;
    impl PayloadSink for Full {
        fn part(&mut self, _: PartInfo) -> Result<(), SinkError> {
            Ok(())
        }
        fn data(&mut self, _: &[u8]) -> Result<(), SinkError> {
            Err(SinkError("disk full".to_owned()))
        }
        fn part_end(&mut self) -> Result<(), SinkError> {
            Ok(())
        }
    }
    let payload = payload(1);
    for case in [
        PLAIN,
        FULL,
        Case {
            compress: Compression::BeforeSign,
            ..FULL
        },
    ] {
        let (composed, body) = compose(outgoing(case, &payload), &payload, 3);
        let (identities, signers) = ([testkit::other().clone()], [testkit::rsa().certificate().clone()]);
        let mut receiver = Receiver::new(incoming(&composed.headers, &identities, &signers)).unwrap();
        let failure = receiver
            .push(&body, &mut Full)
            .and_then(|()| receiver.finish(&mut Full).map(|_| ()))
            .unwrap_err();
        assert!(failure.sink && failure.error.detail == "disk full", "{case:?}");
    }
}

/// A part signed by the usual signer, without anything after the last boundary's name that is not given.
fn signed_part(part: &[u8], attributes: bool, end: &[u8]) -> (Headers, Vec<u8>) {
    let bench = testkit::Bench::new(testkit::rsa());
    bench.put("part", part);
    let flags = if attributes { "" } else { "-noattr " };
    bench.openssl(&format!(
        "cms -sign -binary {flags}-outform DER -md sha256 -in part -signer cert.pem -inkey key.pem -out out"
    ));
    let p7s = crate::mime::transfer::encode(&bench.get("out"));
    let head = b"\r\n--b\r\nContent-Type: application/pkcs7-signature\r\n\r\n";
    let mut headers = Headers::new();
    let kind = "multipart/signed; protocol=\"application/pkcs7-signature\"; micalg=sha-256; boundary=b";
    headers.push("Content-Type", kind).unwrap();
    (headers, [b"--b\r\n", part, head, &p7s, end].concat())
}

/// COMPAT(Drummond 3Q09-5): a Content-Length that is short by the dashes of the last boundary.
#[test]
fn a_body_that_is_cut_in_its_last_boundary_is_read() {
    let part = b"Content-Type: text/plain\r\nContent-Transfer-Encoding: binary\r\n\r\nx";
    for end in [&b"\r\n--b"[..], b"\r\n--b-", b"\r\n--", b"\r\n-", b""] {
        let (headers, body) = signed_part(part, true, end);
        for seed in 0..5 {
            let (result, kept) = take(&headers, &body, seed);
            assert_eq!(message(result).notes, ["the closing boundary was missing"], "{end:?}");
            assert_eq!(kept.parts[0].1, b"x");
        }
    }
    // A third part that begins is still one too many.
    let (headers, body) = signed_part(part, true, b"\r\n--b\r\n\r\nx");
    assert!(take(&headers, &body, 0).0.is_err());
}

#[test]
fn line_ends_are_mended_where_seven_bits_are_the_default() {
    let report = "Content-Type: multipart/report; report-type=disposition-notification; boundary=r\n\n\
        --r\nContent-Type: text/plain\n\nGot it.\n--r\nContent-Type: message/disposition-notification\n\n\
        Original-Message-ID: <1@host>\nDisposition: automatic-action/MDN-sent-automatically; processed\n\n--r--\n";
    let cases = [
        ("Content-Type: application/EDI-X12\n\none\ntwo\n", true),
        (
            "Content-Type: application/octet-stream\nContent-Transfer-Encoding: 8bit\n\none\ntwo\n",
            true,
        ),
        (
            "Content-Type: application/EDI-X12\nContent-Transfer-Encoding: binary\n\none\ntwo\n",
            false,
        ),
        (report, true),
    ];
    for (lf, good) in cases {
        let (headers, body) = signed_part(lf.replace('\n', "\r\n").as_bytes(), true, b"\r\n--b--\r\n");
        let body: Vec<u8> = body.into_iter().filter(|b| *b != b'\r').collect();
        for seed in 0..5 {
            match take(&headers, &body, seed).0 {
                Ok(Received::Message(message)) => {
                    assert_eq!(message.notes, ["the signature holds with line ends made CRLF"], "{lf}");
                    assert!(good, "{lf}");
                }
                Ok(Received::Mdn(mdn)) => assert!(matches!(mdn.signature, MdnSignature::Verified { .. }), "{:?}", mdn.signature),
                Err(failure) => assert!(!good && failure.error.kind == ErrorKind::IntegrityCheckFailed, "{lf}: {failure}"),
            }
        }
    }
}

/// as2.md Q47 with Q54: what a signature without attributes must not cover is a SET, for which attributes could be passed off.
#[test]
fn a_signature_without_attributes_covers_anything_but_a_set() {
    for part in [
        &b"\r\nISA*00*\r\n"[..],
        b"X-Sent-By: y\r\n\r\nISA*00*\r\n",
        b"Content-Type: text/plain\r\n\r\n1",
    ] {
        let (headers, body) = signed_part(part, false, b"\r\n--b--\r\n");
        for seed in 0..5 {
            assert!(message(take(&headers, &body, seed).0).signed.is_some());
        }
    }
    for part in [&b"1\x0b: x\r\n\r\nISA*00*"[..], b"1: x\r\n\r\n", b"1\r\n\r\n"] {
        let (headers, body) = signed_part(part, false, b"\r\n--b--\r\n");
        for seed in 0..5 {
            assert!(take(&headers, &body, seed).0.is_err());
        }
    }
    let bench = testkit::Bench::new(testkit::rsa());
    let mut headers = Headers::new();
    headers
        .push("Content-Type", "application/pkcs7-mime; smime-type=signed-data")
        .unwrap();
    for (content, good) in [("ISA*00*\r\n\r\nx", true), ("1SA*00*\r\n\r\nx", false), ("\x31\x02\x05\x00", false)] {
        bench.put("part", content.as_bytes());
        bench.openssl("cms -sign -binary -nodetach -noattr -outform DER -md sha256 -in part -signer cert.pem -inkey key.pem -out out");
        assert_eq!(take(&headers, &bench.get("out"), 1).0.is_ok(), good, "{content}");
    }
}

/// What an invoice with a signature of its own is: SignedData or EnvelopedData that nobody here could read.
fn foreign_cms(kind: &str) -> Vec<u8> {
    let bench = testkit::Bench::new(&testkit::ec(openssl::nid::Nid::X9_62_PRIME256V1));
    bench.put("part", b"<invoice/>");
    bench.openssl(match kind {
        "signed" => "cms -sign -binary -nodetach -outform DER -md sha256 -in part -signer cert.pem -inkey key.pem -out out",
        "encrypted" => "cms -encrypt -binary -outform DER -aes128 -in part -out out cert.pem",
        _ => "cms -sign -binary -nodetach -outform PEM -md sha256 -in part -signer cert.pem -inkey key.pem -out out",
    });
    bench.get("out")
}

#[test]
fn a_payload_that_is_a_cms_file_is_payload() {
    let sealed = |entity: &[u8]| {
        let plan = crate::cms::EnvelopePlan {
            recipients: vec![testkit::other().certificate()],
            cipher: Cipher::Aes128Cbc,
            key_transport: KeyTransport::RsaPkcs1,
            plain_len: entity.len() as u64,
            form: crate::cms::Form::Der,
        };
        let (mut sealer, mut body) = (crate::cms::Sealer::new(&plan).unwrap(), Vec::new());
        sealer.push(entity, &mut body).unwrap();
        sealer.finish(&mut body).unwrap();
        body
    };
    let mut envelope = Headers::new();
    envelope
        .push("Content-Type", "application/pkcs7-mime; smime-type=enveloped-data")
        .unwrap();
    let head = b"Content-Type: application/pkcs7-mime; name=\"i.xml.p7m\"\r\nContent-Transfer-Encoding: binary\r\n\r\n";
    let base64 = b"Content-Type: application/x-pkcs7-mime; name=\"i.xml.p7m\"\r\nContent-Transfer-Encoding: base64\r\n\r\n";
    for (kind, encrypt, clear_too) in [("signed", true, true), ("encrypted", true, false), ("armoured", false, true)] {
        let file = foreign_cms(kind);
        for coded in [false, true] {
            let part = if coded {
                [&base64[..], &crate::mime::transfer::encode(&file)].concat()
            } else {
                [&head[..], &file].concat()
            };
            // Base64 twice is not looked through, and nothing but base64 inside encryption.
            if coded && kind == "armoured" {
                continue;
            }
            let (headers, body) = signed_part(&part, true, b"\r\n--b--\r\n");
            let entity = format!("Content-Type: {}\r\n\r\n", headers.get("Content-Type").unwrap());
            let whole = sealed(&[entity.as_bytes(), &body].concat());
            for seed in 0..5 {
                for (headers, body, read) in [(&headers, &body, clear_too), (&envelope, &whole, encrypt)] {
                    let (result, kept) = take(headers, body, seed);
                    if !read {
                        result.unwrap_err();
                        continue;
                    }
                    let message = message(result);
                    assert_eq!((message.parts, message.signed.is_some()), (1, true));
                    assert_eq!(message.mic.unwrap().value, crate::crypto::hash(Digest::Sha256, &part).unwrap());
                    assert!(kept.parts[0].1 == file, "{kind} {coded}");
                    assert_eq!(kept.parts[0].0.file_name.as_deref(), Some("i.xml.p7m"));
                    assert!(message.notes.is_empty(), "{:?}", message.notes);
                }
                // A stranger's signature around it makes nothing of it.
                let identities = [testkit::other().clone()];
                let strangers = [testkit::other().certificate().clone()];
                receive(incoming(&headers, &identities, &strangers), &body, seed).0.unwrap_err();
            }
            // Policy is held against the layers around it.
            let policy = SecurityPolicy {
                require_signed: true,
                require_encrypted: true,
                ..SecurityPolicy::default()
            };
            let signers = [testkit::rsa().certificate().clone()];
            let incoming = Incoming {
                policy,
                ..incoming(&headers, &[], &signers)
            };
            receive(incoming, &body, 0).0.unwrap_err();
        }
    }
    // Without a signature around it, no layer is taken for a file: neither one more envelope nor a foreign signature.
    let inner = [b"Content-Type: application/pkcs7-mime\r\n\r\n".to_vec(), foreign_cms("encrypted")].concat();
    assert_eq!(
        take(&envelope, &sealed(&inner), 0).0.unwrap_err().error.kind,
        ErrorKind::DecryptionFailed
    );
    take(&envelope, &foreign_cms("signed"), 0).0.unwrap_err();
    // What says CMS and is none is refused as before.
    let (headers, body) = signed_part(
        &[&head[..], b"0no cms at all, but long enough to tell"].concat(),
        true,
        b"\r\n--b--\r\n",
    );
    take(&headers, &body, 0).0.unwrap_err();
}

/// as2.md SEC2 allows 200 times the whole input: where it shrinks is no matter.
#[test]
fn compression_is_judged_by_the_whole_body() {
    let noise: Vec<u8> = (0..2_000_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 ^ (i >> 7) as u8)
        .collect();
    for (blanks, noise, good) in [(8 << 20, &noise[..], true), (8 << 20, &[][..], false)] {
        let payload = vec![[vec![b' '; blanks], noise.to_vec()].concat()];
        let case = Case {
            compress: Compression::BeforeSign,
            ..PLAIN
        };
        let (composed, body) = compose(outgoing(case, &payload), &payload, 1);
        assert_eq!(body.len() as u64 * 200 > payload[0].len() as u64, good, "{}", body.len());
        let receive = |length: Option<u64>| {
            let mut kept = Kept::default();
            let mut receiver = Receiver::new(incoming(&composed.headers, &[], &[])).unwrap();
            if let Some(length) = length {
                receiver = receiver.with_length(length);
            }
            receiver.push(&body, &mut kept).and_then(|()| receiver.finish(&mut kept))
        };
        assert_eq!(receive(Some(body.len() as u64)).is_ok(), good);
        assert_eq!(receive(None).unwrap_err().error.kind, ErrorKind::DecompressionFailed);
    }
}

#[test]
fn a_list_of_digests_is_judged_only_for_a_signed_receipt() {
    let payload = payload(1);
    let (composed, body) = compose(outgoing(PLAIN, &payload), &payload, 1);
    let ours = "signed-receipt-protocol=optional, pkcs7-signature";
    for (options, good) in [
        ("signed-receipt-micalg=optional, md5".to_owned(), true),
        (
            "signed-receipt-micalg=optional, sha1; signed-receipt-protocol=optional, pgp".to_owned(),
            true,
        ),
        (format!("signed-receipt-micalg=optional, md5; {ours}"), false),
        (format!("signed-receipt-micalg=optional, crc32; {ours}"), false),
    ] {
        let mut headers = composed.headers.clone();
        headers.remove("Disposition-Notification-Options");
        headers.push("Disposition-Notification-Options", &options).unwrap();
        match take(&headers, &body, 0).0 {
            Ok(_) => assert!(good, "{options}"),
            Err(failure) => assert!(
                !good && failure.error.kind == ErrorKind::UnsupportedMicAlgorithms,
                "{options}: {failure}"
            ),
        }
    }
}
