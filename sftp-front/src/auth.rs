//! Who may log in: the [`Authenticator`] that the program supplies, what it is asked about, and the algorithms that the
//! server speaks.

use crate::tree::Tree;
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::ssh_key::{self, Signature};
use russh::keys::{Algorithm, EcdsaCurve, HashAlg};
use russh::{AlgorithmKind, Preferred, cipher, compression, kex, mac};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Longest user name, in bytes.
pub const MAX_USER_NAME: usize = 128;
/// Shortest RSA key of a user or host, in bits.
pub const MIN_RSA_BITS: u32 = 2048;
/// Longest RSA key of a user, in bits: verifying a longer one costs us more than it costs the client to send it.
pub const MAX_RSA_BITS: u32 = 8192;

/// Longest password, in bytes.
pub const MAX_PASSWORD: usize = 1024;
/// Longest answer to the question for a code, in bytes.
pub const MAX_CODE: usize = 64;

/// How a client shows who it is (RFC 4252, RFC 4256).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `publickey`: a key, or a certificate of one.
    PublicKey,
    /// `password`.
    Password,
    /// `keyboard-interactive`: one question, for a code.
    Code,
}

/// A user's public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// Type of the key: `ssh-ed25519`, `ecdsa-sha2-nistp256`, `ssh-rsa` and so on.
    pub algorithm: String,
    /// The key in SSH wire form (RFC 4253 §6.6).
    pub blob: Vec<u8>,
    /// The key as a line of `authorized_keys`, without a comment.
    pub openssh: String,
    /// `SHA256:…`, as `ssh-keygen -l` shows it.
    pub fingerprint: String,
    /// The certificate that the key came in.
    pub certificate: Option<Box<Certificate>>,
    /// What a security key's signature says about its owner; nothing while the key is only offered.
    pub presence: Option<Presence>,
}

/// The flags in the signature of a security key (OpenSSH's PROTOCOL.u2f).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Somebody touched it.
    pub touched: bool,
    /// It knew its owner, by PIN or finger.
    pub verified: bool,
}

impl Presence {
    const TOUCHED: u8 = 0x01;
    const VERIFIED: u8 = 0x04;
    /// Flags and counter at the end of a signature.
    const TRAILER: usize = 5;

    pub(crate) fn of(signature: &Signature) -> Option<Self> {
        if !matches!(signature.algorithm(), Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256) {
            return None;
        }
        let bytes = signature.as_bytes();
        let flags = *bytes.get(bytes.len().checked_sub(Self::TRAILER)?)?;
        Some(Self {
            touched: flags & Self::TOUCHED != 0,
            verified: flags & Self::VERIFIED != 0,
        })
    }
}

/// An OpenSSH certificate (PROTOCOL.certkeys) whose signature is its authority's. Whether the authority is trusted, and
/// whether the certificate is good for this user now, is the [`Authenticator`]'s to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Of a user, not of a host.
    pub for_user: bool,
    /// Number that its authority gave it; 0 if it gives none.
    pub serial: u64,
    /// Name that its authority gave it, printable.
    pub key_id: String,
    /// Whom it is for; empty for anybody.
    pub principals: Vec<String>,
    /// Unix seconds from which on it is good.
    pub valid_after: u64,
    /// Unix seconds from which on it is not.
    pub valid_before: u64,
    /// Options that have to be understood, with their values.
    pub critical: Vec<(String, String)>,
    /// Names of the options that need not be.
    pub extensions: Vec<String>,
    /// The authority's key as a line of `authorized_keys`.
    pub authority: String,
    /// The same in SSH wire form.
    pub authority_blob: Vec<u8>,
    /// The authority's fingerprint.
    pub authority_fingerprint: String,
}

/// What a client shows to prove who it is. No `Debug`: it may be a secret.
pub enum Proof {
    /// A key with a verified signature.
    Key(PublicKey),
    /// A password, as it was sent.
    Password(Zeroizing<String>),
    /// A code, as it was typed.
    Code(Zeroizing<String>),
}

impl Proof {
    pub(crate) fn method(&self) -> Method {
        match self {
            Proof::Key(_) => Method::PublicKey,
            Proof::Password(_) => Method::Password,
            Proof::Code(_) => Method::Code,
        }
    }
}

/// A proof that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proven {
    /// With this key.
    Key(PublicKey),
    /// With the password that was [known as this](Authenticator::mark) when it was given.
    Password(String),
    /// With a code of the secret that was known as this.
    Code(String),
}

impl Proven {
    /// The method.
    #[must_use]
    pub fn method(&self) -> Method {
        match self {
            Proven::Key(_) => Method::PublicKey,
            Proven::Password(_) => Method::Password,
            Proven::Code(_) => Method::Code,
        }
    }
}

/// What a proof leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It counts for nothing.
    Refused(Refused),
    /// It counts, and one of these has to follow (RFC 4252 §5.1, partial success).
    Next(Vec<Method>),
    /// It was the last that was needed.
    Complete,
}

/// Whether a connection may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Granted,
    /// It may not, by this setting, which the log has to name: the client sees nothing but its end.
    Refused(&'static str),
    /// It may not, and the log knows already.
    RefusedBefore,
}

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Address and port.
    pub addr: SocketAddr,
    /// The client's identification line, such as `SSH-2.0-OpenSSH_9.2p1`, printable ASCII; may be empty.
    pub client: String,
}

/// A key, a proof or a login that is refused. The client never learns why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refused {
    /// Why, for the log.
    pub why: String,
    /// It may have been a guess; not so if it was right, and something else is in the way (account disabled, too many sessions).
    pub is_guess: bool,
}

impl Refused {
    /// What was shown is wrong.
    #[must_use]
    pub fn guess(why: impl Into<String>) -> Self {
        let why = why.into();
        Self { why, is_guess: true }
    }

    /// What was shown is right.
    #[must_use]
    pub fn right(why: impl Into<String>) -> Self {
        let why = why.into();
        Self { why, is_guess: false }
    }
}

/// The accounts. Methods run on blocking threads, but for [`is_proxy`](Authenticator::is_proxy) and
/// [`admit`](Authenticator::admit).
pub trait Authenticator: Send + Sync + 'static {
    /// Asked for each new connection before any byte is sent, in the accept loop: for ban and allow lists in memory.
    fn admit(&self, _addr: SocketAddr) -> Admission {
        Admission::Granted
    }

    /// Whether connections from this address begin with a PROXY header (version 2) that names the client. Asked in the
    /// accept loop, before [`admit`](Authenticator::admit), which then gets the client's address.
    fn is_proxy(&self, _addr: SocketAddr) -> bool {
        false
    }

    /// The methods that are named to everybody, user or not: those that some user's login may begin with. Asked
    /// once for each user name on a connection.
    fn methods(&self) -> Vec<Method> {
        vec![Method::PublicKey]
    }

    /// Whether `key` is one of the user's. Asked when a key is offered, before anything is signed.
    /// Unknown users must take the same time as known ones; refusals are delayed to one second in any case.
    ///
    /// # Errors
    /// It is not, or does not count now.
    fn public_key(&self, user: &str, key: &PublicKey, peer: &Peer) -> Result<(), Refused>;

    /// What tells the user's password of this moment, or the secret of the codes, from earlier and later ones, as its hash does.
    /// Asked before a proof is judged: one that is changed before the login is complete can be told from the one that was proven.
    fn mark(&self, _user: &str, _method: Method) -> String {
        String::new()
    }

    /// Judges a proof, after those in `given`, all of the same user. Passwords are asked about two at a time at most.
    /// Unknown users must take the same time as known ones.
    fn prove(&self, user: &str, given: &[Proven], proof: &Proof, peer: &Peer) -> Step {
        match proof {
            Proof::Key(key) if given.is_empty() && self.public_key(user, key, peer).is_ok() => Step::Complete,
            _ => Step::Refused(Refused::guess("not allowed")),
        }
    }

    /// Opens the session after the last proof. `session` is the number in [`SessionInfo`](crate::SessionInfo).
    ///
    /// # Errors
    /// [`Refused`]; the client sees a failed login.
    fn login(&self, user: &str, given: &[Proven], peer: &Peer, session: u64) -> Result<Arc<dyn Tree>, Refused>;

    /// A connection ended without a login, or logged in as another user; called once for each user name that it had tried in
    /// vain, with the method that it tried last and the reasons of the refusals, oldest first. `guessed`: a
    /// [guess](Refused::is_guess) was among them that was not followed by the right proof.
    fn failed(&self, user: &str, method: Method, tried: &[String], guessed: bool, peer: &Peer);

    /// A connection used up the time for a login and tried none.
    fn mute(&self, _peer: &Peer) {}

    /// A session that had logged in has ended, and all its uploads are closed or abandoned. The bytes are those on the
    /// wire, in both directions.
    fn logout(&self, session: u64, user: &str, reason: &str, bytes_in: u64, bytes_out: u64);
}

/// Which algorithms the server offers. All policies have strict key exchange (against Terrapin, CVE-2023-48795) and no
/// compression; none has CBC, Diffie-Hellman group exchange or groups above 14, whose cost a client can turn against a
/// server (CVE-2002-20001).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AlgorithmPolicy {
    /// ML-KEM and Curve25519; AES-GCM, ChaCha20, AES-CTR; UMAC-128, SHA-2; Ed25519, ECDSA, RSA with SHA-2. Every client that is
    /// still cared for connects with its defaults, libssh2 1.10 (2021) through the plain SHA-2 MACs.
    #[default]
    Modern,
    /// Adds the NIST curves, group 14 and SHA-1 (key exchange, MAC, RSA signatures), for partners that know nothing else.
    Compatible,
    /// Only what FIPS 140-3 approves: NIST curves and group 14, AES, SHA-2, ECDSA and RSA. The code is not validated.
    FipsLike,
}

impl AlgorithmPolicy {
    /// Whether the compatible policy speaks one of these algorithms, of which this one speaks none.
    pub(crate) fn is_too_new_for(self, kind: &AlgorithmKind, theirs: &[String]) -> bool {
        let all = Self::Compatible.preferred();
        let speaks = |name: &str| match kind {
            AlgorithmKind::Kex => all.kex.iter().any(|known| known.as_ref() == name),
            AlgorithmKind::Key => all.key.iter().any(|known| known.as_str() == name),
            AlgorithmKind::Cipher => all.cipher.iter().any(|known| known.as_ref() == name),
            AlgorithmKind::Mac => all.mac.iter().any(|known| known.as_ref() == name),
            AlgorithmKind::Compression => false,
        };
        self == Self::Modern && theirs.iter().any(|name| speaks(name))
    }

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
        let mut macs = Vec::from_iter((self != Self::FipsLike).then_some(mac::UMAC_128_ETM));
        macs.extend([mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM, mac::HMAC_SHA256, mac::HMAC_SHA512]);
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

    /// Signature algorithms of users' keys and of those who certify them.
    pub(crate) fn user_signatures(self) -> Vec<Algorithm> {
        let mut list = self.signatures();
        list.extend((self != Self::FipsLike).then_some(Algorithm::SkEd25519));
        list.push(Algorithm::SkEcdsaSha2NistP256);
        list
    }

    /// Signature algorithms of hosts.
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

/// A key that is fit to be asked about: its type and size are allowed, and those of the authority that certifies it.
pub(crate) fn usable(key: &KeyData, certificate: Option<&ssh_key::Certificate>, allowed: &[Algorithm]) -> Option<PublicKey> {
    let certificate = match certificate {
        Some(certificate) => Some(Box::new(certified(certificate, allowed)?)),
        None => None,
    };
    let key = fit(key)?;
    Some(PublicKey {
        algorithm: key.algorithm().to_string(),
        blob: key.to_bytes().ok()?,
        openssh: key.to_openssh().ok()?.trim().to_owned(),
        fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
        certificate,
        presence: None,
    })
}

fn fit(key: &KeyData) -> Option<ssh_key::PublicKey> {
    if let KeyData::Rsa(rsa) = key
        && !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&rsa.key_size())
    {
        return None;
    }
    Some(ssh_key::PublicKey::new(key.clone(), ""))
}

fn certified(certificate: &ssh_key::Certificate, allowed: &[Algorithm]) -> Option<Certificate> {
    if !allowed.contains(&certificate.signature().algorithm()) {
        return None;
    }
    let authority = fit(certificate.signature_key())?;
    let printable = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
    Some(Certificate {
        for_user: certificate.cert_type() == CertType::User,
        serial: certificate.serial(),
        key_id: printable(certificate.key_id()),
        principals: certificate.valid_principals().to_vec(),
        valid_after: certificate.valid_after(),
        valid_before: certificate.valid_before(),
        critical: certificate
            .critical_options()
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        extensions: certificate.extensions().keys().cloned().collect(),
        authority: authority.to_openssh().ok()?.trim().to_owned(),
        authority_blob: authority.to_bytes().ok()?,
        authority_fingerprint: authority.fingerprint(HashAlg::Sha256).to_string(),
    })
}

/// Whether a user name is fit to be asked about and logged.
pub(crate) fn sane_user(user: &str) -> bool {
    !user.is_empty() && user.len() <= MAX_USER_NAME && !user.chars().any(char::is_control)
}
