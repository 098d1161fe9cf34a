//! RSA signatures by OpenSSL, which blinds them and checks them for faults of the processor. The `rsa` crate does neither
//! when it signs through `signature::Signer` (RUSTSEC-2023-0071).

use ::openssl::bn::{BigNum, BigNumContext, BigNumRef};
use ::openssl::error::ErrorStack;
use ::openssl::hash::MessageDigest;
use ::openssl::pkey::{PKey, Private};
use ::openssl::rsa::Rsa;
use ::openssl::sign::Signer;
use ssh_key::private::RsaKeypair;
use ssh_key::{Algorithm, Error, HashAlg, Mpint, Signature};

/// A signature of RFC 8332 §3, or of RFC 4253 §6.6 where there is no `hash`.
pub(crate) fn sign(key: &RsaKeypair, hash: Option<HashAlg>, data: &[u8]) -> ssh_key::Result<Signature> {
    let digest = match hash {
        None => MessageDigest::sha1(),
        Some(HashAlg::Sha256) => MessageDigest::sha256(),
        Some(HashAlg::Sha512) => MessageDigest::sha512(),
        Some(_) => return Err(Error::AlgorithmUnknown),
    };
    let bytes = private(key).and_then(|key| Signer::new(digest, &key)?.sign_oneshot_to_vec(data));
    Signature::new(Algorithm::Rsa { hash }, bytes.map_err(|_| Error::Crypto)?)
}

fn private(key: &RsaKeypair) -> Result<PKey<Private>, ErrorStack> {
    let (public, private) = (key.public(), key.private());
    let (d, p, q) = (secret(private.d())?, secret(private.p())?, secret(private.q())?);
    let (dmp1, dmq1) = (exponent(&d, &p)?, exponent(&d, &q)?);
    let iqmp = secret(private.iqmp())?;
    let rsa = Rsa::from_private_components(number(public.n())?, number(public.e())?, d, p, q, dmp1, dmq1, iqmp)?;
    PKey::from_rsa(rsa)
}

/// `d` modulo `prime - 1`.
fn exponent(d: &BigNumRef, prime: &BigNumRef) -> Result<BigNum, ErrorStack> {
    let mut less = prime.to_owned()?;
    less.set_const_time();
    less.sub_word(1)?;
    let mut exponent = BigNum::new_secure()?;
    exponent.set_const_time();
    let mut context = BigNumContext::new_secure()?;
    exponent.nnmod(d, &less, &mut context)?;
    Ok(exponent)
}

fn secret(number: &Mpint) -> Result<BigNum, ErrorStack> {
    let mut secret = self::number(number)?;
    secret.set_const_time();
    Ok(secret)
}

fn number(number: &Mpint) -> Result<BigNum, ErrorStack> {
    BigNum::from_slice(number.as_positive_bytes().unwrap_or_default())
}
