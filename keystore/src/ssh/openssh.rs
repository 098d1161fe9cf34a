//! OpenSSH's own file format (PROTOCOL.key). It is read here, with the ciphers of the `ssh-key` crate, for the crate refuses the
//! P-256 keys whose number begins with a zero byte, one in 256; it is written by the crate.

use ssh_key::encoding::Decode;
use ssh_key::private::KeypairData;
use ssh_key::{Cipher, Kdf, LineEnding, PrivateKey};
use zeroize::Zeroizing;

use super::private::{DSA_REFUSED, Private};
use super::wire::Fields;
use crate::error::{Error, Format, Result};
use crate::secret::random;

const FORMAT: Format = Format::OpenSsh;
/// What the decoded file begins with.
const MAGIC: &[u8] = b"openssh-key-v1\0";
/// Bytes of an authenticating cipher's tag, behind the private part.
const TAG_BYTES: usize = 16;
/// What `ssh-keygen` uses.
const BCRYPT_ROUNDS: u32 = 16;
/// Most rounds computed for a file that we read; `ssh-keygen -a` seldom goes beyond 1,000.
const MAX_BCRYPT_ROUNDS: u32 = 10_000;
const SALT_BYTES: usize = 16;

pub(crate) fn read(text: &str, passphrase: Option<&str>) -> Result<Private> {
    let bytes = decoded(text)?;
    let file = KeyFile::parse(&bytes).ok_or_else(|| Error::broken(FORMAT, "it does not parse"))?;
    let private = file.open(passphrase)?;
    if Fields(file.public).text() == Some("ssh-dss") {
        return Err(Error::RefusedKey(DSA_REFUSED.into()));
    }
    let key = unwrap(&private).ok_or_else(|| Error::broken(FORMAT, "its key does not parse"))?;
    if key.public_blob() != file.public {
        return Err(Error::broken(FORMAT, "its two halves do not belong together"));
    }
    Ok(key)
}

/// The public half, which needs no passphrase.
pub(crate) fn read_public_blob(text: &str) -> Result<Vec<u8>> {
    let bytes = decoded(text)?;
    let file = KeyFile::parse(&bytes).ok_or_else(|| Error::broken(FORMAT, "it does not parse"))?;
    Ok(file.public.to_vec())
}

fn decoded(text: &str) -> Result<Zeroizing<Vec<u8>>> {
    let blocks = crate::pem::blocks(text)?;
    let block = blocks.iter().find(|b| b.label == super::OPENSSH_LABEL);
    block.ok_or_else(|| Error::broken(FORMAT, "it has no end line"))?.der()
}

/// The parts of a file with one key, still encrypted.
struct KeyFile<'a> {
    cipher: Cipher,
    kdf: Kdf,
    public: &'a [u8],
    private: &'a [u8],
    tag: &'a [u8],
}

impl<'a> KeyFile<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(bytes.strip_prefix(MAGIC)?);
        let cipher = match fields.text()? {
            "none" => Cipher::None,
            name => Cipher::new(name).ok()?,
        };
        let kdf = match (fields.text()?, Fields(fields.string()?)) {
            ("none", options) if options.is_empty() && cipher.is_none() => Kdf::None,
            ("bcrypt", mut options) if cipher.is_some() => Kdf::Bcrypt {
                salt: options.string()?.to_vec(),
                rounds: options.u32().filter(|_| options.is_empty())?,
            },
            _ => return None,
        };
        let (1, public, private) = (fields.u32()?, fields.string()?, fields.string()?) else {
            return None;
        };
        let tag = fields.bytes(if cipher.has_tag() { TAG_BYTES } else { 0 })?;
        let is_whole = fields.is_empty() && private.len() % cipher.block_size() == 0;
        is_whole.then_some(KeyFile {
            cipher,
            kdf,
            public,
            private,
            tag,
        })
    }

    /// The private part in the clear.
    fn open(&self, passphrase: Option<&str>) -> Result<Zeroizing<Vec<u8>>> {
        let mut private = Zeroizing::new(self.private.to_vec());
        if self.cipher.is_none() {
            return Ok(private);
        }
        let passphrase = passphrase.ok_or(Error::PassphraseNeeded(FORMAT))?;
        if self.cipher == Cipher::TdesCbc {
            return Err(Error::Unsupported(
                "the private key is encrypted with 3des-cbc, which is not read; encrypt it again: ssh-keygen -p -Z aes256-ctr \
                 -f FILE"
                    .into(),
            ));
        }
        if matches!(self.kdf, Kdf::Bcrypt { rounds, .. } if rounds > MAX_BCRYPT_ROUNDS) {
            return Err(Error::broken(
                FORMAT,
                format!("its passphrase protection asks for more than {MAX_BCRYPT_ROUNDS} rounds"),
            ));
        }
        let wrong = || Error::WrongPassphrase(FORMAT);
        let (key, iv) = self.kdf.derive_key_and_iv(self.cipher, passphrase).map_err(|_| wrong())?;
        let tag = self.tag.try_into().ok();
        let opened = self.cipher.decrypt(&key, &iv, &mut private, tag);
        opened.map_err(|_| wrong())?;
        // Twice the same number: the passphrase is the right one.
        let mut fields = Fields(&private);
        if fields.u32() == fields.u32() { Ok(private) } else { Err(wrong()) }
    }
}

/// The key of a private part: a number twice, the pair, the comment, and padding that counts up from 1.
fn unwrap(private: &[u8]) -> Option<Private> {
    let mut fields = Fields(private);
    if fields.u32()? != fields.u32()? {
        return None;
    }
    let mut key = Private::read_pair(&mut fields)?;
    key.comment = String::from_utf8_lossy(fields.string()?).into_owned();
    fields.0.iter().copied().eq((1..).take(fields.0.len())).then_some(key)
}

pub(crate) fn write(key: &Private, passphrase: Option<&str>) -> Result<Zeroizing<String>> {
    let failed = || Error::crypto("write an OpenSSH key");
    let pair = key.pair_blob();
    let data = KeypairData::decode(&mut pair.as_slice()).map_err(failed())?;
    let mut file = PrivateKey::new(data, key.comment.as_str()).map_err(failed())?;
    if let Some(passphrase) = passphrase {
        let mut salt = vec![0; SALT_BYTES];
        random(&mut salt)?;
        let mut check = [0; 4];
        random(&mut check)?;
        let kdf = Kdf::Bcrypt {
            salt,
            rounds: BCRYPT_ROUNDS,
        };
        file = file
            .encrypt_with(Cipher::Aes256Ctr, kdf, u32::from_be_bytes(check), passphrase)
            .map_err(failed())?;
    }
    file.to_openssh(LineEnding::LF).map_err(failed())
}
