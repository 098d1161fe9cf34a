//! Who may log in: the [`Authenticator`] that the program supplies, and the algorithms that the server speaks. The only
//! method offered is `publickey` (RFC 4252 §7); an identity comes from a verified signature and from nothing else.

use crate::tree::Tree;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, EcdsaCurve, HashAlg};
use russh::{Preferred, cipher, compression, kex, mac};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

/// Longest user name, in bytes.
pub const MAX_USER_NAME: usize = 128;
/// Shortest RSA key of a user or host, in bits.
pub const MIN_RSA_BITS: u32 = 2048;
/// Longest RSA key of a user, in bits: verifying a longer one costs us more than it costs the client to send it.
pub const MAX_RSA_BITS: u32 = 8192;

/// A user's public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// Type of the key: `ssh-ed25519`, `ecdsa-sha2-nistp256`, `ssh-rsa` and so on.
    pub algorithm: String,
    /// The key in SSH wire form (RFC 4253 §6.6).
    pub blob: Vec<u8>,
    /// The key as a line of `authorized_keys`, without a comment.
    pub openssh: String,
}

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Address and port.
    pub addr: SocketAddr,
    /// The client's identification line, such as `SSH-2.0-OpenSSH_9.2p1`, printable ASCII; may be empty.
    pub client: String,
}

/// A login that is refused although the key is right (account disabled, too many sessions); the text is for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// The accounts. Methods run on blocking threads, but for [`admit`](Authenticator::admit).
pub trait Authenticator: Send + Sync + 'static {
    /// Asked for each new connection before any byte is sent, in the accept loop: for ban and allow lists in memory.
    fn admit(&self, _addr: SocketAddr) -> bool {
        true
    }

    /// Whether connections from this address begin with a PROXY header (version 2) that names the client. Asked in the
    /// accept loop, before [`admit`](Authenticator::admit), which then gets the client's address.
    fn is_proxy(&self, _addr: SocketAddr) -> bool {
        false
    }

    /// Whether `key` is one of the user's. Asked when a key is offered, and again after its signature was verified.
    /// Unknown users must take the same time as known ones; refusals are delayed to one second in any case.
    fn public_key(&self, user: &str, key: &PublicKey, peer: &Peer) -> bool;

    /// Opens the session after the signature was verified. `session` is the number in [`SessionInfo`](crate::SessionInfo).
    ///
    /// # Errors
    /// [`Refused`]; the client sees a failed login.
    fn login(&self, user: &str, key: &PublicKey, peer: &Peer, session: u64) -> Result<Arc<dyn Tree>, Refused>;

    /// A connection ended without a login; called once for each user name that it had tried in vain.
    fn failed(&self, user: &str, peer: &Peer);

    /// A session that had logged in has ended, and all its uploads are closed or abandoned. The bytes are those on the
    /// wire, in both directions.
    fn logout(&self, session: u64, user: &str, reason: &str, bytes_in: u64, bytes_out: u64);
}

/// Which algorithms the server offers. All policies have strict key exchange (against Terrapin, CVE-2023-48795) and no
/// compression; none has CBC, Diffie-Hellman group exchange or groups above 14, whose cost a client can turn against a
/// server (CVE-2002-20001).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AlgorithmPolicy {
    /// ML-KEM and Curve25519; AES-GCM, ChaCha20, AES-CTR; SHA-2; Ed25519, ECDSA, RSA with SHA-2. Every client that is
    /// still cared for connects with its defaults, libssh2 1.10 (2021) through the plain SHA-2 MACs.
    #[default]
    Modern,
    /// Adds the NIST curves, group 14 and SHA-1 (key exchange, MAC, RSA signatures), for partners that know nothing else.
    Compatible,
    /// Only what FIPS 140-3 approves: NIST curves and group 14, AES, SHA-2, ECDSA and RSA. The code is not validated.
    FipsLike,
}

impl AlgorithmPolicy {
    pub(crate) fn preferred(self) -> Preferred {
        let mut kex = match self {
            Self::FipsLike => Vec::new(),
            Self::Modern | Self::Compatible => vec![kex::MLKEM768X25519_SHA256, kex::CURVE25519, kex::CURVE25519_PRE_RFC_8731],
        };
        let mut ciphers = vec![cipher::AES_256_GCM, cipher::AES_128_GCM];
        if self != Self::FipsLike {
            ciphers.push(cipher::CHACHA20_POLY1305);
        }
        ciphers.extend([cipher::AES_256_CTR, cipher::AES_192_CTR, cipher::AES_128_CTR]);
        let mut macs = vec![mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM, mac::HMAC_SHA256, mac::HMAC_SHA512];
        if self != Self::Modern {
            kex.extend([
                kex::ECDH_SHA2_NISTP256,
                kex::ECDH_SHA2_NISTP384,
                kex::ECDH_SHA2_NISTP521,
                kex::DH_G14_SHA256,
            ]);
        }
        if self == Self::Compatible {
            kex.push(kex::DH_G14_SHA1);
            macs.extend([mac::HMAC_SHA1_ETM, mac::HMAC_SHA1]);
        }
        kex.extend([kex::EXTENSION_SUPPORT_AS_SERVER, kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER]);
        Preferred {
            kex: Cow::Owned(kex),
            key: Cow::Owned(self.signatures()),
            host_key_certificates: Cow::Borrowed(&[]),
            cipher: Cow::Owned(ciphers),
            mac: Cow::Owned(macs),
            compression: Cow::Borrowed(&[compression::NONE]),
        }
    }

    /// Signature algorithms of hosts and users. Security keys (`sk-…`) are not among them: their user-presence flag would
    /// not be checked.
    pub(crate) fn signatures(self) -> Vec<Algorithm> {
        let ecdsa = [EcdsaCurve::NistP256, EcdsaCurve::NistP384, EcdsaCurve::NistP521];
        let mut list = Vec::from_iter((self != Self::FipsLike).then_some(Algorithm::Ed25519));
        list.extend(ecdsa.map(|curve| Algorithm::Ecdsa { curve }));
        list.extend([HashAlg::Sha512, HashAlg::Sha256].map(|hash| Algorithm::Rsa { hash: Some(hash) }));
        if self == Self::Compatible {
            list.push(Algorithm::Rsa { hash: None });
        }
        list
    }
}

/// A key that is fit to be asked about: its type and size are allowed.
pub(crate) fn usable(key: &russh::keys::PublicKey) -> Option<PublicKey> {
    if let KeyData::Rsa(rsa) = key.key_data()
        && !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&rsa.key_size())
    {
        return None;
    }
    let mut bare = key.clone();
    bare.set_comment("");
    Some(PublicKey {
        algorithm: bare.algorithm().to_string(),
        blob: bare.to_bytes().ok()?,
        openssh: bare.to_openssh().ok()?.trim().to_owned(),
    })
}

/// Whether a user name is fit to be asked about and logged.
pub(crate) fn sane_user(user: &str) -> bool {
    !user.is_empty() && user.len() <= MAX_USER_NAME && !user.chars().any(char::is_control)
}
