//! An SSH private key between its file formats.

use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::{Asn1Flag, EcGroup, EcKey, EcPoint, PointConversionForm};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey};
use openssl::rsa::Rsa;
use zeroize::Zeroizing;

use super::KeyKind;
use super::wire::{Blob, Fields};
use crate::error::{Error, Result};

/// Bits of the RSA keys that we make.
const RSA_BITS: u32 = 3072;
/// Bytes of an Ed25519 seed and of its public key (RFC 8032).
pub(crate) const ED25519_BYTES: usize = 32;

type Secret = Zeroizing<Vec<u8>>;

/// A private key with its comment. No `Debug`: it is secret.
pub(crate) struct Private {
    pub(crate) material: Material,
    pub(crate) comment: String,
}

/// The numbers of a key; integers big-endian.
pub(crate) enum Material {
    Ed25519 {
        seed: Zeroizing<[u8; ED25519_BYTES]>,
        public: [u8; ED25519_BYTES],
    },
    Ecdsa {
        curve: Curve,
        point: Vec<u8>,
        scalar: Secret,
    },
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
        d: Secret,
        p: Secret,
        q: Secret,
        iqmp: Secret,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    const ALL: [Curve; 3] = [Curve::P256, Curve::P384, Curve::P521];

    /// RFC 5656 §10.1.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Curve::P256 => "nistp256",
            Curve::P384 => "nistp384",
            Curve::P521 => "nistp521",
        }
    }

    pub(crate) fn algorithm(self) -> &'static str {
        match self {
            Curve::P256 => "ecdsa-sha2-nistp256",
            Curve::P384 => "ecdsa-sha2-nistp384",
            Curve::P521 => "ecdsa-sha2-nistp521",
        }
    }

    pub(crate) fn bits(self) -> u32 {
        match self {
            Curve::P256 => 256,
            Curve::P384 => 384,
            Curve::P521 => 521,
        }
    }

    /// Bytes of a number below the curve's order.
    fn scalar_bytes(self) -> usize {
        match self {
            Curve::P256 => 32,
            Curve::P384 => 48,
            Curve::P521 => 66,
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|curve| curve.name() == name)
    }

    fn nid(self) -> Nid {
        match self {
            Curve::P256 => Nid::X9_62_PRIME256V1,
            Curve::P384 => Nid::SECP384R1,
            Curve::P521 => Nid::SECP521R1,
        }
    }

    fn group(self) -> Result<EcGroup, ErrorStack> {
        let mut group = EcGroup::from_curve_name(self.nid())?;
        group.set_asn1_flag(Asn1Flag::NAMED_CURVE);
        Ok(group)
    }

    /// Whether these bytes are a point of the curve, other than infinity, uncompressed (RFC 5656 §3.1).
    pub(crate) fn has_point(self, point: &[u8]) -> bool {
        let on_curve = || {
            let (group, mut context) = (self.group()?, BigNumContext::new()?);
            let point = EcPoint::from_bytes(&group, point, &mut context)?;
            Ok::<_, ErrorStack>(!point.is_infinity(&group) && point.is_on_curve(&group, &mut context)?)
        };
        point.first() == Some(&4) && on_curve().unwrap_or(false)
    }
}

impl Private {
    pub(crate) fn generate(kind: KeyKind, comment: &str) -> Result<Self> {
        let key = match kind {
            KeyKind::Ed25519 => PKey::generate_ed25519(),
            KeyKind::Ecdsa => Curve::P256.group().and_then(|g| EcKey::generate(&g)).and_then(PKey::from_ec_key),
            KeyKind::Rsa => Rsa::generate(RSA_BITS).and_then(PKey::from_rsa),
        };
        let key = key.map_err(Error::crypto("make an SSH key"))?;
        Self::from_pkey(&key, comment)
    }

    pub(crate) fn from_pkey(key: &PKey<openssl::pkey::Private>, comment: &str) -> Result<Self> {
        let material = match key.id() {
            Id::ED25519 => ed25519_material(key),
            Id::EC => {
                return Ok(Self {
                    material: ec_material(key)?,
                    comment: comment.into(),
                });
            }
            Id::RSA => rsa_material(key),
            Id::DSA => return Err(Error::RefusedKey(DSA_REFUSED.into())),
            _ => {
                return Err(Error::Unsupported(
                    "this key is neither Ed25519, ECDSA nor RSA; make one of these".into(),
                ));
            }
        };
        let material = material.map_err(Error::crypto("read an SSH key"))?;
        Ok(Self {
            material,
            comment: comment.into(),
        })
    }

    pub(crate) fn to_pkey(&self) -> Result<PKey<openssl::pkey::Private>> {
        let key = match &self.material {
            Material::Ed25519 { seed, .. } => PKey::private_key_from_raw_bytes(seed.as_slice(), Id::ED25519),
            Material::Ecdsa { curve, point, scalar } => ec_pkey(*curve, point, scalar),
            Material::Rsa { n, e, d, p, q, iqmp } => rsa_pkey(n, e, d, p, q, iqmp),
        };
        key.map_err(Error::crypto("use an SSH key"))
    }

    pub(crate) fn algorithm(&self) -> &'static str {
        match &self.material {
            Material::Ed25519 { .. } => "ssh-ed25519",
            Material::Ecdsa { curve, .. } => curve.algorithm(),
            Material::Rsa { .. } => "ssh-rsa",
        }
    }

    /// The public key as it goes over the wire (RFC 4253 §6.6, RFC 5656 §3.1, RFC 8709 §4).
    pub(crate) fn public_blob(&self) -> Vec<u8> {
        let blob = Blob::default().string(self.algorithm());
        let blob = match &self.material {
            Material::Ed25519 { public, .. } => blob.string(public),
            Material::Ecdsa { curve, point, .. } => blob.string(curve.name()).string(point),
            Material::Rsa { n, e, .. } => blob.mpint(e).mpint(n),
        };
        blob.finish().to_vec()
    }

    /// The key pair as it stands in OpenSSH's own files (draft-miller-ssh-agent §3.2), an ECDSA scalar at its full length: one
    /// in 256 begins with a zero byte, and some readers want that too.
    pub(crate) fn pair_blob(&self) -> Zeroizing<Vec<u8>> {
        let blob = Blob::default().string(self.algorithm());
        let blob = match &self.material {
            Material::Ed25519 { seed, public } => {
                let both = Zeroizing::new([seed.as_slice(), public].concat());
                blob.string(public).string(both.as_slice())
            }
            Material::Ecdsa { curve, point, scalar } => blob.string(curve.name()).string(point).padded_mpint(scalar, curve.scalar_bytes()),
            Material::Rsa { n, e, d, p, q, iqmp } => blob.mpint(n).mpint(e).mpint(d).mpint(iqmp).mpint(p).mpint(q),
        };
        blob.finish()
    }

    /// The key of the pair that comes next, without a comment.
    pub(crate) fn read_pair(fields: &mut Fields<'_>) -> Option<Self> {
        let material = read_pair(fields)?;
        let comment = String::new();
        Some(Self { material, comment })
    }
}

pub(crate) const DSA_REFUSED: &str = "DSA keys are too weak and no longer accepted; make an Ed25519 key";

fn read_pair(fields: &mut Fields<'_>) -> Option<Material> {
    let secret = |digits: &[u8]| Zeroizing::new(digits.to_vec());
    let algorithm = fields.text()?;
    match algorithm {
        "ssh-ed25519" => {
            let public = fields.string()?.try_into().ok()?;
            let seed = fields.string()?.get(..ED25519_BYTES)?;
            ed25519_from_seed(seed, Some(public))
        }
        "ssh-rsa" => {
            let (n, e) = (fields.mpint()?.to_vec(), fields.mpint()?.to_vec());
            let (d, iqmp) = (secret(fields.mpint()?), secret(fields.mpint()?));
            let (p, q) = (secret(fields.mpint()?), secret(fields.mpint()?));
            Some(Material::Rsa { n, e, d, p, q, iqmp })
        }
        _ => {
            let curve = Curve::named(fields.text()?).filter(|c| c.algorithm() == algorithm)?;
            let point = fields.string()?.to_vec();
            let scalar = secret(fields.mpint()?);
            Some(Material::Ecdsa { curve, point, scalar })
        }
    }
}

/// The key of a seed; `None` if it is not the key of `public`.
pub(crate) fn ed25519_from_seed(seed: &[u8], public: Option<[u8; ED25519_BYTES]>) -> Option<Material> {
    let key = PKey::private_key_from_raw_bytes(seed, Id::ED25519).ok()?;
    let derived: [u8; ED25519_BYTES] = key.raw_public_key().ok()?.try_into().ok()?;
    if public.is_some_and(|public| public != derived) {
        return None;
    }
    let seed = Zeroizing::new(seed.try_into().ok()?);
    Some(Material::Ed25519 { seed, public: derived })
}

fn ed25519_material(key: &PKey<openssl::pkey::Private>) -> Result<Material, ErrorStack> {
    let seed = Zeroizing::new(key.raw_private_key()?);
    ed25519_from_seed(&seed, None).ok_or_else(ErrorStack::get)
}

fn ec_material(key: &PKey<openssl::pkey::Private>) -> Result<Material> {
    let read = || {
        let key = key.ec_key()?;
        let mut context = BigNumContext::new()?;
        let point = key
            .public_key()
            .to_bytes(key.group(), PointConversionForm::UNCOMPRESSED, &mut context)?;
        let scalar = Zeroizing::new(key.private_key().to_vec());
        Ok::<_, ErrorStack>((key.group().curve_name(), point, scalar))
    };
    let (name, point, scalar) = read().map_err(Error::crypto("read an SSH key"))?;
    let curve = Curve::ALL.into_iter().find(|curve| Some(curve.nid()) == name);
    let curve =
        curve.ok_or_else(|| Error::Unsupported("SSH knows ECDSA only on P-256, P-384 and P-521; make a key on one of these".into()))?;
    Ok(Material::Ecdsa { curve, point, scalar })
}

fn rsa_material(key: &PKey<openssl::pkey::Private>) -> Result<Material, ErrorStack> {
    let rsa = key.rsa()?;
    let (Some(p), Some(q)) = (rsa.p(), rsa.q()) else {
        return Err(ErrorStack::get());
    };
    let mut iqmp = BigNum::new_secure()?;
    iqmp.mod_inverse(q, p, &mut *BigNumContext::new()?)?;
    let secret = |number: &openssl::bn::BigNumRef| Zeroizing::new(number.to_vec());
    Ok(Material::Rsa {
        n: rsa.n().to_vec(),
        e: rsa.e().to_vec(),
        d: secret(rsa.d()),
        p: secret(p),
        q: secret(q),
        iqmp: secret(&iqmp),
    })
}

fn ec_pkey(curve: Curve, point: &[u8], scalar: &[u8]) -> Result<PKey<openssl::pkey::Private>, ErrorStack> {
    let (group, mut context) = (curve.group()?, BigNumContext::new()?);
    let point = EcPoint::from_bytes(&group, point, &mut context)?;
    let scalar = BigNum::from_slice(scalar)?;
    let key = EcKey::from_private_components(&group, &scalar, &point)?;
    key.check_key()?;
    PKey::from_ec_key(key)
}

fn rsa_pkey(n: &[u8], e: &[u8], d: &[u8], p: &[u8], q: &[u8], iqmp: &[u8]) -> Result<PKey<openssl::pkey::Private>, ErrorStack> {
    let number = |digits: &[u8]| BigNum::from_slice(digits);
    let mut context = BigNumContext::new()?;
    let (d, p, q) = (number(d)?, number(p)?, number(q)?);
    let mut exponent = |prime: &BigNum| {
        let (mut less_one, mut rest) = (BigNum::new()?, BigNum::new_secure()?);
        less_one.checked_sub(prime, BigNum::from_u32(1)?.as_ref())?;
        rest.nnmod(&d, &less_one, &mut context)?;
        Ok::<_, ErrorStack>(rest)
    };
    let (dmp1, dmq1) = (exponent(&p)?, exponent(&q)?);
    PKey::from_rsa(Rsa::from_private_components(
        number(n)?,
        number(e)?,
        d,
        p,
        q,
        dmp1,
        dmq1,
        number(iqmp)?,
    )?)
}
