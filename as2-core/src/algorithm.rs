//! The algorithms, each under one name of ours and all the names that partners use (as2.md §4).

use std::fmt;
use std::str::FromStr;

macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vmeta])* $variant),+ }

        impl $name {
            /// Every value.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// Our words for them, in order.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// Our word for it, as settings and listings spell it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($name::$variant),)+
                    other => Err(format!("`{}` is not one of: {}", other.escape_default(), Self::WORDS.join(", "))),
                }
            }
        }
    };
}

named! {
    /// Digest algorithms.
    Digest {
        /// On receipt by explicit opt-in only.
        Md5 = "md5",
        /// Legacy partners only.
        Sha1 = "sha1",
        /// Legacy partners only.
        Sha224 = "sha224",
        /// The default.
        Sha256 = "sha256",
        /// Allowed per partner.
        Sha384 = "sha384",
        /// Allowed per partner.
        Sha512 = "sha512",
        /// On receipt only.
        Sha3_256 = "sha3-256",
        /// On receipt only.
        Sha3_384 = "sha3-384",
        /// On receipt only.
        Sha3_512 = "sha3-512",
    }
}

named! {
    /// How digests are spelt for a partner; every spelling is read.
    DigestNames {
        /// `sha-256`, and SHA-1 in the older form, which every product reads.
        Rfc5751 = "rfc5751",
        /// `sha256`, which products of before RFC 5751 know alone.
        Rfc3851 = "rfc3851",
    }
}

impl Digest {
    /// Too weak for what is agreed today: only who can do no better may have it.
    #[must_use]
    pub fn is_legacy(self) -> bool {
        matches!(self, Digest::Md5 | Digest::Sha1 | Digest::Sha224)
    }

    /// We sign by it and ask for receipts by it; the others are for receipt.
    #[must_use]
    pub fn is_sent(self) -> bool {
        matches!(
            self,
            Digest::Sha1 | Digest::Sha224 | Digest::Sha256 | Digest::Sha384 | Digest::Sha512
        )
    }

    /// The usual spelling on the wire (RFC 5751 form).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Digest::Md5 => "md5",
            Digest::Sha1 => "sha1",
            Digest::Sha224 => "sha-224",
            Digest::Sha256 => "sha-256",
            Digest::Sha384 => "sha-384",
            Digest::Sha512 => "sha-512",
            Digest::Sha3_256 => "sha3-256",
            Digest::Sha3_384 => "sha3-384",
            Digest::Sha3_512 => "sha3-512",
        }
    }

    /// The spelling for a partner: `micalg`, `Disposition-Notification-Options`, `Received-content-MIC`.
    #[must_use]
    pub fn spelt(self, names: DigestNames) -> &'static str {
        match names {
            DigestNames::Rfc5751 => self.name(),
            // Our own words are those of RFC 3851 §3.4.3.2.
            DigestNames::Rfc3851 => self.as_str(),
        }
    }

    /// Reads any spelling that products use (as2.md §4, micalg fold).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let folded: String = text
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .map(|c| c.to_ascii_lowercase())
            .collect();
        Some(match folded.strip_prefix("rsa").unwrap_or(&folded) {
            "md5" => Digest::Md5,
            "sha" | "sha1" => Digest::Sha1,
            "sha224" | "sha2224" => Digest::Sha224,
            "sha256" | "sha2256" => Digest::Sha256,
            "sha384" | "sha2384" => Digest::Sha384,
            "sha512" | "sha2512" => Digest::Sha512,
            "sha3256" => Digest::Sha3_256,
            "sha3384" => Digest::Sha3_384,
            "sha3512" => Digest::Sha3_512,
            _ => return None,
        })
    }
}

named! {
    /// Signature schemes with RSA keys; EC keys sign by ECDSA under either.
    SignatureScheme {
        /// RSASSA-PKCS1-v1_5.
        RsaPkcs1 = "pkcs1",
        /// RSASSA-PSS.
        RsaPss = "pss",
    }
}

named! {
    /// Content encryption.
    Cipher {
        /// AES-128 in CBC mode.
        Aes128Cbc = "aes128-cbc",
        /// AES-192 in CBC mode.
        Aes192Cbc = "aes192-cbc",
        /// The default.
        Aes256Cbc = "aes256-cbc",
        /// AuthEnvelopedData, AES-128.
        Aes128Gcm = "aes128-gcm",
        /// AuthEnvelopedData, AES-256.
        Aes256Gcm = "aes256-gcm",
        /// AuthEnvelopedData, AES-192; on receipt.
        Aes192Gcm = "aes192-gcm",
        /// AuthEnvelopedData, AES-128 in CCM mode; on receipt.
        Aes128Ccm = "aes128-ccm",
        /// AuthEnvelopedData, AES-192 in CCM mode; on receipt.
        Aes192Ccm = "aes192-ccm",
        /// AuthEnvelopedData, AES-256 in CCM mode; on receipt.
        Aes256Ccm = "aes256-ccm",
        /// On receipt by opt-in.
        TripleDesCbc = "3des-cbc",
    }
}

named! {
    /// How the content key travels. An EC certificate always has it by ECDH, with SHA-256 where an RSA word is set.
    KeyTransport {
        /// RSAES-PKCS1-v1_5.
        RsaPkcs1 = "pkcs1",
        /// RSAES-OAEP with SHA-1.
        OaepSha1 = "oaep-sha1",
        /// RSAES-OAEP with SHA-256.
        OaepSha256 = "oaep-sha256",
        /// RSAES-OAEP with SHA-384.
        OaepSha384 = "oaep-sha384",
        /// RSAES-OAEP with SHA-512.
        OaepSha512 = "oaep-sha512",
        /// dhSinglePass-stdDH-sha256kdf-scheme with AES key wrap (RFC 5753).
        EcdhSha256 = "ecdh-sha256",
        /// The same with SHA-384.
        EcdhSha384 = "ecdh-sha384",
        /// The same with SHA-512.
        EcdhSha512 = "ecdh-sha512",
        /// The same with SHA-1; on receipt.
        EcdhSha1 = "ecdh-sha1",
        /// The same with SHA-224; on receipt.
        EcdhSha224 = "ecdh-sha224",
    }
}

named! {
    /// Compression (RFC 5402) and its place.
    Compression {
        /// None.
        None = "none",
        /// The usual order.
        BeforeSign = "before-sign",
        /// Legal, rarer.
        AfterSign = "after-sign",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_folds() {
        let spellings = [
            (Digest::Sha1, ["sha1", "SHA-1", "SHA", "rsa-sha1", "RSA-SHA1"]),
            (Digest::Sha256, ["SHA_256", "sha2_256", "SHA2-256", "rsa-sha256", "sha-256"]),
            (Digest::Sha384, ["sha384", "SHA-384", "sha2-384", "sha_384", "SHA384"]),
        ];
        for (digest, names) in spellings {
            for name in names {
                assert_eq!(Digest::parse(name), Some(digest), "{name}");
            }
        }
        assert_eq!(Digest::parse("sha3-256"), Some(Digest::Sha3_256));
        assert_eq!(Digest::parse("pkcs7-signature"), None);
        for digest in Digest::ALL {
            for names in DigestNames::ALL {
                assert_eq!(Digest::parse(digest.spelt(*names)), Some(*digest));
            }
        }
        let spelt = |names| [Digest::Sha1, Digest::Sha256, Digest::Sha512].map(|digest| digest.spelt(names));
        assert_eq!(spelt(DigestNames::Rfc5751), ["sha1", "sha-256", "sha-512"]);
        assert_eq!(spelt(DigestNames::Rfc3851), ["sha1", "sha256", "sha512"]);
    }
}
