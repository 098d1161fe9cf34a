//! SignedData that holds its content.

use super::verify::{Verified, read_signer, unauthentic};
use crate::algorithm::Digest;
use crate::cert::Certificate;
use crate::cms::ber::{self, Fault, Reader};
use crate::cms::octets::{Layer, Start, Stream, end_of_message};
use crate::cms::oid;
use crate::crypto::Hasher;
use crate::error::{Error, ErrorKind};

/// Digest algorithms that opaque data may announce.
const MAX_DIGESTS: usize = 8;

/// Reads SignedData that holds its content (`smime-type=signed-data`): gives the content while it takes its digests.
pub struct OpaqueVerifier {
    stream: Stream,
    state: OpaqueState,
    failed: Option<Error>,
}

#[derive(Default)]
struct OpaqueState {
    hashers: Vec<Hasher>,
    /// Ends of ContentInfo, its `[0]`, SignedData, EncapsulatedContentInfo, its `[0]`.
    frames: [Option<u64>; 5],
}

impl Default for OpaqueVerifier {
    fn default() -> Self {
        Self::new()
    }
}

impl OpaqueVerifier {
    /// For one message.
    #[must_use]
    pub fn new() -> Self {
        OpaqueVerifier {
            stream: Stream::new(ErrorKind::AuthenticationFailed),
            state: OpaqueState::default(),
            failed: None,
        }
    }

    /// Takes the next bytes of the message and appends its content, not proven yet, to `content`.
    ///
    /// # Errors
    /// `AuthenticationFailed` if it is no SignedData with content; then the same again.
    pub fn push(&mut self, cms: &[u8], content: &mut Vec<u8>) -> Result<(), Error> {
        self.guard(|stream, state| stream.push(cms, &mut OpaqueLayer { state, content }))
    }

    /// The message is complete: verifies it as [`super::verify_detached`] does, with the digests that the message announces.
    ///
    /// # Errors
    /// As [`super::verify_detached`].
    pub fn finish(&mut self, content: &mut Vec<u8>, pinned: &[Certificate], allowed: &dyn Fn(Digest) -> bool) -> Result<Verified, Error> {
        self.guard(|stream, state| {
            let (tail, base) = stream.finish(&mut OpaqueLayer { state, content })?;
            let [outer, explicit, data, info, inner] = state.frames;
            let read = || {
                let mut reader = Reader::new(&tail);
                reader.close(base, inner)?;
                reader.close(base, info)?;
                let signer = read_signer(&mut reader)?;
                reader.close(base, data)?;
                reader.close(base, explicit)?;
                reader.close(base, outer)?;
                end_of_message(&reader)?;
                Ok(signer)
            };
            let signer = read().map_err(|fault: Fault| fault.into_error(ErrorKind::AuthenticationFailed))?;
            let digests = state.hashers.drain(..).map(|hasher| Ok((hasher.digest(), hasher.finish()?)));
            let digests = digests.collect::<Result<Vec<_>, Error>>()?;
            // A signer's digest must be announced (RFC 5652 §5.1); one that is not cannot be verified in one pass.
            let announced = |name: Digest| digests.iter().any(|(digest, _)| *digest == name);
            if !oid::digest_of(signer.digest).is_none_or(announced) {
                return Err(unauthentic("the signer's digest was not announced"));
            }
            signer.verify(&digests, pinned, allowed)
        })
    }

    fn guard<T>(&mut self, step: impl FnOnce(&mut Stream, &mut OpaqueState) -> Result<T, Error>) -> Result<T, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        step(&mut self.stream, &mut self.state).inspect_err(|error| self.failed = Some(error.clone()))
    }
}

struct OpaqueLayer<'a> {
    state: &'a mut OpaqueState,
    content: &'a mut Vec<u8>,
}

impl Layer for OpaqueLayer<'_> {
    fn head(&mut self, bytes: &[u8]) -> Result<Result<Start, Error>, Fault> {
        let mut reader = Reader::new(bytes);
        let outer = reader.open(ber::SEQUENCE)?;
        if reader.expect(ber::OID)?.body != oid::SIGNED_DATA {
            return Err(Fault::Bad("not SignedData"));
        }
        let explicit = reader.open(ber::context(0))?;
        let data = reader.open(ber::SEQUENCE)?;
        reader.expect(ber::INTEGER)?;
        let mut announced = reader.expect(ber::SET)?.reader();
        let info = reader.open(ber::SEQUENCE)?;
        if reader.expect(ber::OID)?.body != oid::DATA {
            return Err(Fault::Bad("the signed content is not id-data"));
        }
        let inner = reader.open(ber::context(0))?;
        let header = reader.open_any()?;
        if header.id & !0x20 != ber::OCTET_STRING {
            return Err(Fault::Bad("the content is no octet string"));
        }
        let mut digests = Vec::new();
        while !announced.is_empty() {
            if digests.len() == MAX_DIGESTS {
                return Err(Fault::Bad("too many digest algorithms"));
            }
            digests.extend(oid::digest_of(announced.expect(ber::SEQUENCE)?.reader().expect(ber::OID)?.body));
        }
        self.state.frames = [outer, explicit, data, info, inner];
        Ok(digests.into_iter().map(Hasher::new).collect::<Result<_, _>>().map(|hashers| {
            self.state.hashers = hashers;
            Start { at: reader.at(), header }
        }))
    }

    fn content(&mut self, octets: &[u8]) -> Result<(), Error> {
        self.state.hashers.iter_mut().try_for_each(|hasher| hasher.update(octets))?;
        self.content.extend_from_slice(octets);
        Ok(())
    }
}
