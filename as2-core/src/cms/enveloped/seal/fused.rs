//! Sealing with the signature's digest taken in the same pass of the processor (cms-streaming.md §9).

use as2_fused::{BLOCK, FusedCbcSha256, GROUP};

use super::{Form, Sealer, off_plan};
use crate::algorithm::Cipher;
use crate::crypto::CipherStream;
use crate::error::Error;

impl Sealer {
    /// From here on what is pushed is also digested by SHA-256, in one go with the encryption. `false`, and nothing changes, if
    /// that cannot be: another cipher, a place between two blocks, a machine without the instructions.
    pub(crate) fn begin_sha256(&mut self) -> bool {
        let cbc = matches!(self.algorithm, Cipher::Aes128Cbc | Cipher::Aes192Cbc | Cipher::Aes256Cbc);
        let aligned = (self.plain_len - self.plain_left).is_multiple_of(BLOCK as u64);
        let iv = self.chain.as_slice().try_into().ok().filter(|_| cbc && aligned);
        self.fused = iv.and_then(|iv| FusedCbcSha256::new(&self.key, iv)).map(Box::new);
        self.fused.is_some()
    }

    /// The digest of what was pushed since [`Sealer::begin_sha256`], if that said `true`. The ordinary cipher goes on.
    pub(crate) fn end_sha256(&mut self, out: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Error> {
        let Some(fused) = self.fused.take() else { return Ok(None) };
        let end = fused.finish();
        self.cipher = CipherStream::encrypt(self.algorithm, &self.key, &end.iv)?;
        let start = out.len();
        let mut sealed = Vec::new();
        self.cipher.update(&end.rest, &mut sealed)?;
        self.emit(&sealed, out)?;
        self.written += (out.len() - start) as u64;
        Ok(Some(end.digest.to_vec()))
    }

    /// Encrypts straight into `out`, piece by piece; only what straddles two pieces is copied.
    pub(super) fn push_fused(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let Some(mut fused) = self.fused.take() else { return Ok(()) };
        let mut left = plain;
        while !left.is_empty() {
            let room = match self.form {
                Form::Der => usize::MAX,
                Form::Ber => self.chunk_left as usize,
            };
            if room < GROUP {
                // The rest of the piece, or none yet: `emit` begins the next one.
                let (now, later) = left.split_at(left.len().min(GROUP));
                let mut scratch = std::mem::take(&mut self.scratch);
                scratch.clear();
                fused.update(now, &mut scratch);
                self.emit(&scratch, out)?;
                self.scratch = scratch;
                left = later;
            } else {
                let (now, later) = left.split_at(left.len().min(fused.fits(room)));
                let before = out.len();
                fused.update(now, out);
                let sealed = (out.len() - before) as u64;
                let rest = self.sealed_left.checked_sub(sealed);
                self.sealed_left = rest.ok_or_else(|| off_plan("more ciphertext than was predicted"))?;
                self.chunk_left = self.chunk_left.saturating_sub(sealed);
                left = later;
            }
        }
        self.fused = Some(fused);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::super::{CHUNK, EnvelopePlan};
    use super::*;
    use crate::algorithm::{Digest, KeyTransport};
    use crate::cms::enveloped::{OpenPolicy, Opener};
    use crate::cms::testkit::{self, content, in_pieces};
    use crate::crypto::hash;
    use proptest::prelude::*;

    fn plan(cipher: Cipher, plain_len: usize, form: Form) -> EnvelopePlan<'static> {
        EnvelopePlan {
            recipients: vec![testkit::rsa().certificate()],
            cipher,
            key_transport: KeyTransport::RsaPkcs1,
            plain_len: plain_len as u64,
            form,
        }
    }

    /// Seals `plain`, of which `head..end` is digested on the way; gives message and digest.
    fn seal(plan: &EnvelopePlan<'_>, plain: &[u8], head: usize, end: usize, seed: u64) -> (Vec<u8>, Vec<u8>) {
        let mut sealer = Sealer::new(plan).unwrap();
        let foreseen = sealer.content_length();
        let mut out = Vec::new();
        in_pieces(&plain[..head], seed, |piece| sealer.push(piece, &mut out)).unwrap();
        assert!(sealer.begin_sha256());
        in_pieces(&plain[head..end], seed, |piece| sealer.push(piece, &mut out)).unwrap();
        let digest = sealer.end_sha256(&mut out).unwrap().unwrap();
        assert!(sealer.end_sha256(&mut out).unwrap().is_none());
        in_pieces(&plain[end..], seed, |piece| sealer.push(piece, &mut out)).unwrap();
        sealer.finish(&mut out).unwrap();
        assert_eq!(out.len() as u64, foreseen);
        (out, digest)
    }

    fn open(cms: &[u8]) -> Vec<u8> {
        let mut opener = Opener::new(&[testkit::rsa().clone()], OpenPolicy::default());
        let mut plain = Vec::new();
        opener.push(cms, &mut plain).unwrap();
        opener.finish(&mut plain).unwrap();
        plain
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_message_opens_and_the_digest_is_right(
            length in prop_oneof![0usize..500, 60_000usize..200_000],
            head in 0usize..40,
            tail in 0usize..3000,
            cipher in prop::sample::select(vec![Cipher::Aes128Cbc, Cipher::Aes192Cbc, Cipher::Aes256Cbc]),
            form in prop::sample::select(vec![Form::Der, Form::Ber]),
            seed in any::<u64>(),
        ) {
            if as2_fused::is_supported() {
                let plain = content(length);
                let head = (head * BLOCK).min(length / BLOCK * BLOCK);
                let end = length - tail.min(length - head);
                let (cms, digest) = seal(&plan(cipher, length, form), &plain, head, end, seed);
                prop_assert!(open(&cms) == plain);
                prop_assert_eq!(digest, hash(Digest::Sha256, &plain[head..end]).unwrap());
            }
        }
    }

    #[test]
    fn large_pushes_fill_pieces_to_the_byte() {
        if !as2_fused::is_supported() {
            return;
        }
        let plain = content(5 * CHUNK as usize + 100);
        for head in [0, 16, 32, 224] {
            let mut sealer = Sealer::new(&plan(Cipher::Aes256Cbc, plain.len(), Form::Ber)).unwrap();
            let mut out = Vec::new();
            sealer.push(&plain[..head], &mut out).unwrap();
            assert!(sealer.begin_sha256());
            sealer.push(&plain[head..], &mut out).unwrap();
            let digest = sealer.end_sha256(&mut out).unwrap().unwrap();
            sealer.finish(&mut out).unwrap();
            assert_eq!(digest, hash(Digest::Sha256, &plain[head..]).unwrap());
            assert!(open(&out) == plain);
        }
    }

    #[test]
    fn other_ciphers_and_places_go_the_ordinary_way() {
        let plain = content(1000);
        for (cipher, head) in [(Cipher::Aes256Gcm, 16), (Cipher::Aes256Cbc, 17)] {
            let mut sealer = Sealer::new(&plan(cipher, plain.len(), Form::Der)).unwrap();
            let mut out = Vec::new();
            sealer.push(&plain[..head], &mut out).unwrap();
            assert!(!sealer.begin_sha256());
            sealer.push(&plain[head..], &mut out).unwrap();
            assert!(sealer.end_sha256(&mut out).unwrap().is_none());
            sealer.finish(&mut out).unwrap();
            assert!(open(&out) == plain);
        }
    }
}
