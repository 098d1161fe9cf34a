//! OpenSSH's own file format (PROTOCOL.key), by the `ssh-key` crate.

use ssh_key::encoding::{Decode, Encode};
use ssh_key::private::KeypairData;
use ssh_key::{Cipher, Kdf, LineEnding, PrivateKey};
use zeroize::Zeroizing;

use super::private::Private;
use crate::error::{Error, Format, Result};
use crate::secret::random;

const FORMAT: Format = Format::OpenSsh;
/// What `ssh-keygen` uses.
const BCRYPT_ROUNDS: u32 = 16;
/// Most rounds computed for a file that we read; `ssh-keygen -a` seldom goes beyond 1,000.
const MAX_BCRYPT_ROUNDS: u32 = 10_000;
const SALT_BYTES: usize = 16;

pub(crate) fn read(text: &str, passphrase: Option<&str>) -> Result<Private> {
    let mut key = parse(text)?;
    if key.is_encrypted() {
        let passphrase = passphrase.ok_or(Error::PassphraseNeeded(FORMAT))?;
        if matches!(key.kdf(), Kdf::Bcrypt { rounds, .. } if *rounds > MAX_BCRYPT_ROUNDS) {
            return Err(Error::broken(
                FORMAT,
                format!("its passphrase protection asks for more than {MAX_BCRYPT_ROUNDS} rounds"),
            ));
        }
        key = key.decrypt(passphrase).map_err(|_| Error::WrongPassphrase(FORMAT))?;
    }
    if key.algorithm().is_dsa() {
        return Err(Error::RefusedKey(super::private::DSA_REFUSED.into()));
    }
    let mut pair = Zeroizing::new(Vec::new());
    key.key_data().encode(&mut *pair).map_err(|e| Error::broken(FORMAT, e))?;
    Private::from_pair_blob(&pair, key.comment().to_string())
}

/// The public half, which needs no passphrase.
pub(crate) fn read_public_blob(text: &str) -> Result<Vec<u8>> {
    let key = parse(text)?;
    key.public_key().to_bytes().map_err(|e| Error::broken(FORMAT, e))
}

fn parse(text: &str) -> Result<PrivateKey> {
    // The crate wants the block alone, with plain line ends.
    let blocks = crate::pem::blocks(text)?;
    let block = blocks.iter().find(|b| b.label == super::OPENSSH_LABEL);
    let block = block.ok_or_else(|| Error::broken(FORMAT, "it has no end line"))?;
    PrivateKey::from_openssh(block.to_text().as_bytes()).map_err(|_| Error::broken(FORMAT, "it does not parse"))
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
