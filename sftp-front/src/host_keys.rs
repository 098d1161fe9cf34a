//! The server's keys, and their rotation by OpenSSH's `hostkeys-00@openssh.com` (PROTOCOL §2.5): after a login the server
//! names all its keys, those included that it does not use yet; a client asks for proofs of those that it does not know, and
//! remembers them. So a new key is known by the time the old one goes.

use crate::auth::MIN_RSA_BITS;
use crate::server::Error;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg};
use std::sync::Arc;

/// The announcement.
pub(crate) const ANNOUNCE: &str = "hostkeys-00@openssh.com";
/// The request for proofs, and what they begin with.
pub(crate) const PROVE: &str = "hostkeys-prove-00@openssh.com";

/// All keys of the server, each with its wire form.
pub(crate) struct HostKeys(Vec<(Vec<u8>, PrivateKey)>);

impl HostKeys {
    /// Of the keys in use and those to come.
    pub(crate) fn new<'a>(keys: impl Iterator<Item = &'a PrivateKey>) -> Result<Self, Error> {
        let known = keys.map(|key| {
            let blob = key.public_key().to_bytes().map_err(|e| Error::HostKey(e.to_string()))?;
            Ok((blob, key.clone()))
        });
        Ok(Self(known.collect::<Result<_, Error>>()?))
    }

    /// The body of the announcement.
    pub(crate) fn announcement(&self) -> Vec<u8> {
        let mut body = Vec::new();
        self.0.iter().for_each(|(blob, _)| string(&mut body, blob));
        body
    }

    /// The proofs of the keys that a request names, in its order; `None` if it names one that is not ours.
    pub(crate) fn prove(&self, session: &[u8], request: &[u8]) -> Option<Vec<u8>> {
        let mut asked = Vec::new();
        let mut rest = request;
        while !rest.is_empty() {
            let (blob, after) = cut(rest)?;
            // Once each: the work is bounded by the keys that there are.
            let (_, key) = self.0.iter().find(|(known, _)| known == blob)?;
            if asked.iter().any(|(earlier, _)| *earlier == blob) {
                return None;
            }
            asked.push((blob, key));
            rest = after;
        }
        let mut proofs = Vec::new();
        for (blob, key) in asked {
            let mut signed = Vec::new();
            [PROVE.as_bytes(), session, blob].iter().for_each(|part| string(&mut signed, part));
            string(&mut proofs, &sign(key, &signed)?);
        }
        Some(proofs)
    }
}

/// RSA with SHA-512, which is what both ends prefer in the key exchange; blinded, as there.
fn sign(key: &PrivateKey, data: &[u8]) -> Option<Vec<u8>> {
    let key = PrivateKeyWithHashAlg::new(Arc::new(key.clone()), Some(HashAlg::Sha512));
    russh::sign_with_hash_alg(&key, data).ok()
}

fn string(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    to.extend_from_slice(bytes);
}

fn cut(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// A key that is fit to be shown to clients; none if the algorithm policy does not have its type.
pub(crate) fn read(text: &str, allowed: &[Algorithm]) -> Result<Option<PrivateKey>, Error> {
    let key = PrivateKey::from_openssh(text).map_err(|e| Error::HostKey(e.to_string()))?;
    if key.is_encrypted() {
        return Err(Error::HostKey("the key is encrypted".into()));
    }
    if let KeyData::Rsa(rsa) = key.public_key().key_data()
        && rsa.key_size() < MIN_RSA_BITS
    {
        return Err(Error::HostKey(format!("an RSA key needs {MIN_RSA_BITS} bits")));
    }
    let fits = |a: &Algorithm| {
        if a.clone().is_rsa() {
            key.algorithm().is_rsa()
        } else {
            key.algorithm() == *a
        }
    };
    Ok(allowed.iter().any(fits).then_some(key))
}
