//! What the targets share: two stations with fixed keys, and the way of an input through a decoder in pieces.
//!
//! Where a decoder takes a stream, its input begins with one byte of settings: the length of the pieces in which the rest is
//! pushed, and in some targets further bits. Each such target runs twice, in one piece and in small ones, and both must agree.

use as2_core::cert::{Certificate, Identity};
use as2_core::headers::Headers;
use as2_core::receive::{Failure, Incoming, Limits, PartInfo, PayloadSink, Received, Receiver, SecurityPolicy, SinkError};
use as2_core::{Error, ErrorKind};
use std::sync::LazyLock;

/// Most payload bytes that one input may yield: small, so that bombs are met soon.
pub const MAX_PAYLOAD: u64 = 8 << 20;

/// What the detached signatures of the corpus are over.
pub const SHA256_OF_NOTHING: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b,
    0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

/// The stations. Their keys are weak and public: they exist for these tests alone.
pub struct Stations {
    /// Signs.
    pub alice: Identity,
    /// Decrypts, by RSA.
    pub bob: Identity,
    /// Decrypts, by ECDH.
    pub carol: Identity,
    /// Both who decrypt.
    pub ours: Vec<Identity>,
    /// Who may sign.
    pub signers: Vec<Certificate>,
}

/// The stations, read once.
pub static STATIONS: LazyLock<Stations> = LazyLock::new(|| {
    macro_rules! identity {
        ($name:literal) => {
            Identity::new(
                include_bytes!(concat!("../keys/", $name, ".cer")),
                include_bytes!(concat!("../keys/", $name, ".key")),
            )
            .expect("a key of the fuzz targets")
        };
    }
    let (alice, bob, carol) = (identity!("alice"), identity!("bob"), identity!("carol"));
    Stations {
        ours: vec![bob.clone(), carol.clone()],
        signers: vec![alice.certificate().clone(), carol.certificate().clone()],
        alice,
        bob,
        carol,
    }
});

/// Splits off the settings.
#[must_use]
pub fn settings(data: &[u8]) -> Option<(u8, &[u8])> {
    data.split_first().map(|(settings, rest)| (*settings, rest))
}

/// The length of the pieces: 1 to 32 bytes by the lower five bits.
#[must_use]
pub fn piece_len(settings: u8) -> usize {
    usize::from(settings & 31) + 1
}

/// Runs a decoder over the input in one piece and in small ones; both must end alike. Bytes count only if the end is good:
/// before, they are unproven, and a content key that does not fit is replaced by a random one.
///
/// # Panics
/// They do not end alike.
pub fn both_ways<T: PartialEq + std::fmt::Debug>(
    settings: u8,
    input: &[u8],
    run: impl Fn(&mut dyn Iterator<Item = &[u8]>) -> Result<T, Error>,
) {
    let whole = run(&mut std::iter::once(input)).map_err(|error| error.kind);
    let pieces = run(&mut input.chunks(piece_len(settings))).map_err(|error| error.kind);
    assert_eq!(whole, pieces, "the cuts between pieces change the outcome");
}

/// What came out of a whole message.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    /// The payload parts and their bytes.
    pub parts: Vec<(PartInfo, Vec<u8>)>,
    /// What else was found, in words.
    pub found: String,
}

/// Receives a message, cut as given; asks for a second pass where a digest was missing, as the gateway does.
///
/// # Errors
/// What the receiver says.
pub fn receive(headers: &Headers, policy: SecurityPolicy, pieces: &mut dyn FnMut() -> Vec<Vec<u8>>) -> Result<Outcome, ErrorKind> {
    let mut also_hash = Vec::new();
    loop {
        match receive_once(headers, policy, &also_hash, &pieces()) {
            Ok(outcome) => return Ok(outcome),
            Err(failure) => match failure.rehash() {
                Some(digest) => {
                    assert!(!also_hash.contains(&digest), "a digest is asked for again");
                    also_hash.push(digest);
                }
                None => return Err(failure.error.kind),
            },
        }
    }
}

fn receive_once(
    headers: &Headers,
    policy: SecurityPolicy,
    also_hash: &[as2_core::algorithm::Digest],
    pieces: &[Vec<u8>],
) -> Result<Outcome, Failure> {
    let mut receiver = Receiver::new(Incoming {
        headers,
        identities: &STATIONS.ours,
        signers: &STATIONS.signers,
        policy,
        limits: Limits { max_payload: MAX_PAYLOAD },
        also_hash,
    })?;
    let mut sink = Memory::default();
    for piece in pieces {
        if let Err(failure) = receiver.push(piece, &mut sink) {
            let again = receiver.push(b"x", &mut sink);
            assert!(again.is_err(), "a failed message goes on");
            return Err(failure);
        }
    }
    let found = match receiver.finish(&mut sink)? {
        Received::Message(message) => {
            assert_eq!(message.parts, sink.parts.len(), "parts are counted wrong");
            assert!(!sink.open, "a part without an end");
            assert!(!policy.require_signed || message.signed.is_some(), "unsigned, against the policy");
            assert!(
                !policy.require_encrypted || message.encrypted.is_some(),
                "in clear, against the policy"
            );
            let signed = message.signed.as_ref().map(|signed| (signed.digest, signed.signer.der()));
            format!(
                "{signed:?} {:?} {} {:?} {:?}",
                message.encrypted, message.compressed, message.mic, message.layers
            )
        }
        Received::Mdn(received) => format!("{:?} {:?}", received.mdn.disposition, received.mdn.mic),
    };
    Ok(Outcome { parts: sink.parts, found })
}

/// Keeps what it is given, and minds the order of calls and the ceiling.
#[derive(Default)]
struct Memory {
    parts: Vec<(PartInfo, Vec<u8>)>,
    open: bool,
    total: u64,
}

impl PayloadSink for Memory {
    fn part(&mut self, info: PartInfo) -> Result<(), SinkError> {
        assert!(!self.open, "a part begins inside a part");
        assert_eq!(info.index, self.parts.len(), "parts are numbered wrong");
        self.open = true;
        self.parts.push((info, Vec::new()));
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        assert!(self.open, "bytes outside of a part");
        self.total += bytes.len() as u64;
        assert!(self.total <= MAX_PAYLOAD, "more payload than allowed");
        self.parts.last_mut().expect("a part").1.extend_from_slice(bytes);
        Ok(())
    }

    fn part_end(&mut self) -> Result<(), SinkError> {
        assert!(self.open, "the end of no part");
        self.open = false;
        Ok(())
    }
}

/// Splits an HTTP-like input at its first blank line.
#[must_use]
pub fn head_and_body(message: &[u8]) -> (&[u8], &[u8]) {
    match message.windows(4).position(|window| window == b"\r\n\r\n") {
        Some(at) => (&message[..at + 2], &message[at + 4..]),
        None => (message, &[]),
    }
}
