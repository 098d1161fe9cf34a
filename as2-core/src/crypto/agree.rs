//! Key agreement with EC certificates: ephemeral-static ECDH, the X9.63 key derivation, and AES key wrap (RFC 5753, 3394).

use openssl::aes::{AesKey, unwrap_key, wrap_key};
use openssl::bn::{BigNum, BigNumContext};
use openssl::derive::Deriver;
use openssl::ec::{EcGroupRef, EcKey, EcPoint, PointConversionForm};
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private, Public};
use zeroize::Zeroizing;

use super::{Hasher, Unwrapped};
use crate::algorithm::Digest;
use crate::error::Error;

/// Bytes that key wrap adds to a key (RFC 3394 §2.2.1).
pub(crate) const WRAP_OVERHEAD: usize = 8;

/// What both sides know beside their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agreement {
    /// The digest of the key derivation.
    pub(crate) digest: Digest,
    /// Cofactor Diffie-Hellman, which is the same as the standard one on curves of cofactor one.
    pub(crate) cofactor: bool,
    /// Bytes of the key that wraps: 16, 24 or 32.
    pub(crate) kek_len: usize,
    /// ECC-CMS-SharedInfo in DER (RFC 5753 §7.2).
    pub(crate) shared_info: Vec<u8>,
}

/// Wraps a content key for an EC key under a fresh ephemeral one. Gives the ephemeral public point, uncompressed, and the
/// wrapped key.
pub(crate) fn wrap_by_agreement(recipient: &PKey<Public>, agreement: &Agreement, cek: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let theirs = recipient
        .ec_key()
        .map_err(|_| Error::invalid("the recipient's certificate holds no EC key"))?;
    let group = theirs.group();
    let ephemeral = EcKey::generate(group)?;
    let mut context = BigNumContext::new()?;
    let point = ephemeral
        .public_key()
        .to_bytes(group, PointConversionForm::UNCOMPRESSED, &mut context)?;
    let kek = derive(&PKey::from_ec_key(ephemeral)?, recipient, agreement)?;
    let kek = AesKey::new_encrypt(&kek).map_err(|_| Error::invalid("key wrap of an unknown key length"))?;
    let mut wrapped = vec![0; cek.len() + WRAP_OVERHEAD];
    wrap_key(&kek, None, &mut wrapped, cek).map_err(|_| Error::invalid("a content key that cannot be wrapped"))?;
    Ok((point, wrapped))
}

/// Unwraps a content key of exactly `len` bytes with our EC key and the sender's ephemeral point. As with RSA, no error tells a
/// key that does not fit from one that does; lengths and point are public.
pub(crate) fn unwrap_by_agreement(key: &PKey<Private>, agreement: &Agreement, point: &[u8], wrapped: &[u8], len: usize) -> Unwrapped {
    let mut found = Zeroizing::new(vec![0; len]);
    let mut unwrap = || -> Option<()> {
        if wrapped.len() != len + WRAP_OVERHEAD || !wrapped.len().is_multiple_of(8) {
            return None;
        }
        let sender = public_key(key, point, agreement.cofactor).ok()??;
        let kek = derive(key, &sender, agreement).ok()?;
        let kek = AesKey::new_decrypt(&kek).ok()?;
        let length = unwrap_key(&kek, None, &mut found, wrapped).ok()?;
        (length == len).then_some(())
    };
    let good = 0u8.wrapping_sub(u8::from(unwrap().is_some()));
    found.iter_mut().for_each(|byte| *byte &= good);
    Unwrapped { key: found, good }
}

/// The sender's point as a key on our curve. None for a point that is not on it, or infinity: such points draw bits out of our
/// key (RFC 5753 §9).
fn public_key(key: &PKey<Private>, point: &[u8], cofactor: bool) -> Result<Option<PKey<Public>>, ErrorStack> {
    let ours = key.ec_key()?;
    let group = ours.group();
    if cofactor && !has_cofactor_one(group)? {
        return Ok(None);
    }
    let mut context = BigNumContext::new()?;
    let point = EcPoint::from_bytes(group, point, &mut context)?;
    let sender = EcKey::from_public_key(group, &point)?;
    sender.check_key()?;
    PKey::from_ec_key(sender).map(Some)
}

fn has_cofactor_one(group: &EcGroupRef) -> Result<bool, ErrorStack> {
    let mut cofactor = BigNum::new()?;
    group.cofactor(&mut cofactor, &mut *BigNumContext::new()?)?;
    Ok(cofactor == BigNum::from_u32(1)?)
}

/// The wrapping key: ECDH, then the key derivation of ANSI X9.63 (RFC 5753 §7.2, SEC 1 §3.6.1).
fn derive(key: &PKey<Private>, peer: &PKey<Public>, agreement: &Agreement) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut deriver = Deriver::new(key)?;
    deriver.set_peer(peer)?;
    let secret = Zeroizing::new(deriver.derive_to_vec()?);
    let mut kek = Zeroizing::new(Vec::with_capacity(agreement.kek_len + 64));
    let mut counter = 0u32;
    while kek.len() < agreement.kek_len {
        counter += 1;
        let mut hasher = Hasher::new(agreement.digest)?;
        hasher.update(&secret)?;
        hasher.update(&counter.to_be_bytes())?;
        hasher.update(&agreement.shared_info)?;
        kek.extend_from_slice(&Zeroizing::new(hasher.finish()?));
    }
    kek.truncate(agreement.kek_len);
    Ok(kek)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::cms::testkit;
    use openssl::nid::Nid;

    fn agreement(digest: Digest, kek_len: usize) -> Agreement {
        Agreement {
            digest,
            cofactor: false,
            kek_len,
            shared_info: b"info".to_vec(),
        }
    }

    #[test]
    fn a_wrapped_key_comes_back_and_a_changed_one_does_not() {
        for curve in [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1] {
            let ours = testkit::ec(curve);
            for (digest, kek_len) in [(Digest::Sha1, 32), (Digest::Sha256, 16), (Digest::Sha384, 24), (Digest::Sha512, 32)] {
                let agreement = agreement(digest, kek_len);
                let (point, wrapped) = wrap_by_agreement(ours.certificate().public_key(), &agreement, &[7; 32]).unwrap();
                let unwrap = |agreement: &Agreement, point: &[u8], wrapped: &[u8], len| {
                    let found = unwrap_by_agreement(ours.key(), agreement, point, wrapped, len);
                    (found.good == 0xff).then(|| found.key.to_vec())
                };
                assert_eq!(unwrap(&agreement, &point, &wrapped, 32), Some(vec![7; 32]));
                assert_eq!(unwrap(&agreement, &point, &wrapped, 16), None);
                assert_eq!(unwrap(&agreement, &point, &wrapped[..31], 32), None);
                let cofactor = Agreement {
                    cofactor: true,
                    ..agreement.clone()
                };
                assert_eq!(unwrap(&cofactor, &point, &wrapped, 32), Some(vec![7; 32]));
                let other = Agreement {
                    shared_info: Vec::new(),
                    ..agreement.clone()
                };
                assert_eq!(unwrap(&other, &point, &wrapped, 32), None);
                for at in 0..wrapped.len() {
                    let mut mutant = wrapped.clone();
                    mutant[at] ^= 1;
                    assert_eq!(unwrap(&agreement, &point, &mutant, 32), None);
                }
                // Not on the curve, infinity, nothing, another form without its sign.
                let mut off = point.clone();
                off[point.len() - 1] ^= 1;
                for bad in [&off[..], &[0], &[], &point[..point.len() / 2]] {
                    assert_eq!(unwrap(&agreement, bad, &wrapped, 32), None);
                }
            }
        }
        let refused = wrap_by_agreement(testkit::rsa().certificate().public_key(), &agreement(Digest::Sha256, 16), &[7; 16]);
        assert!(refused.is_err());
    }
}
