//! Stored bytes, read at any offset.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use as2_core::hex;
use bytes::Bytes;
use openssl::sha::Sha256;

use super::{Context as _, Result, StorageError};

/// Bytes on disk or, when small, in memory.
#[derive(Debug)]
pub enum Content {
    /// An open file and its length.
    File(File, u64),
    /// Small contents.
    Bytes(Bytes),
}

impl Content {
    pub(super) fn from_bytes(bytes: Bytes) -> Self {
        Content::Bytes(bytes)
    }

    pub(super) fn from_file(path: &Path) -> Result<Self> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StorageError::Missing(path.display().to_string()));
            }
            Err(source) => {
                return Err(StorageError::Io {
                    what: format!("cannot open {}", path.display()),
                    source,
                });
            }
        };
        let len = file.metadata().context(|| format!("cannot look at {}", path.display()))?.len();
        Ok(Content::File(file, len))
    }

    /// Bytes in all.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Content::File(_, len) => *len,
            Content::Bytes(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        }
    }

    /// Nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads at an offset; 0 means the end.
    ///
    /// # Errors
    /// The disk's.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        match self {
            Content::File(file, _) => file.read_at(buffer, offset).context(|| "cannot read stored bytes".to_owned()),
            Content::Bytes(bytes) => {
                let rest = usize::try_from(offset).ok().and_then(|from| bytes.get(from..)).unwrap_or_default();
                let n = rest.len().min(buffer.len());
                buffer[..n].copy_from_slice(&rest[..n]);
                Ok(n)
            }
        }
    }

    /// Holds it against the SHA-256 that the journal has of it.
    ///
    /// # Errors
    /// `Damaged` if it is another; the disk's.
    pub fn expect_sha256(&self, key: &str, wanted: &str) -> Result<()> {
        let found = sha256_of(|at, buffer| self.read_at(at, buffer))?;
        if found == wanted {
            Ok(())
        } else {
            Err(StorageError::Damaged(key.to_owned()))
        }
    }

    /// Hands all bytes over in order, in pieces of at most `piece` bytes.
    ///
    /// # Errors
    /// The disk's, or the taker's.
    pub fn for_each<E: From<StorageError>>(
        &self,
        piece: usize,
        mut take: impl FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        if let Content::Bytes(bytes) = self {
            return take(bytes);
        }
        pieces(piece, |at, buffer| self.read_at(at, buffer), take)
    }
}

/// Bytes that are digested at once.
const DIGEST_PIECE: usize = 256 * 1024;

/// SHA-256 in hex of what lies from the start to the end.
pub(super) fn sha256_of(read_at: impl Fn(u64, &mut [u8]) -> Result<usize>) -> Result<String> {
    let mut hash = Sha256::new();
    pieces(DIGEST_PIECE, read_at, |piece| {
        hash.update(piece);
        Ok::<_, StorageError>(())
    })?;
    Ok(hex(&hash.finish()))
}

/// Reads from the start to the end with one buffer of `piece` bytes, and hands over what it holds each time.
pub(super) fn pieces<E: From<StorageError>>(
    piece: usize,
    read_at: impl Fn(u64, &mut [u8]) -> Result<usize>,
    mut take: impl FnMut(&[u8]) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let mut buffer = vec![0u8; piece];
    let mut at = 0u64;
    loop {
        let n = read_at(at, &mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        take(buffer.get(..n).unwrap_or_default())?;
        at += u64::try_from(n).unwrap_or(u64::MAX);
    }
}
