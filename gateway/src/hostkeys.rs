//! The server's SSH host keys: made once, kept as files that only we read.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use keystore::ssh::{KeyKind, host_key, show};
use zeroize::Zeroizing;

/// Largest host key file that is read, bytes.
const MAX_FILE: u64 = 64 * 1024;

/// One host key.
pub struct HostKeyFile {
    /// `ed25519`, `ecdsa`, `rsa`.
    pub kind: String,
    /// OpenSSH private key text.
    pub private: Zeroizing<String>,
    /// `SHA256:…`.
    pub fingerprint: String,
}

/// Reads the host keys of these kinds, making those that are missing.
///
/// # Errors
/// What is wrong, in words.
pub fn load_or_make(dir: &Path, kinds: &[String]) -> Result<Vec<HostKeyFile>, String> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
    kinds.iter().map(|kind| load_or_make_one(dir, kind)).collect()
}

fn load_or_make_one(dir: &Path, kind: &str) -> Result<HostKeyFile, String> {
    let parsed: KeyKind = kind.parse().map_err(|error: keystore::Error| error.to_string())?;
    let path = dir.join(format!("ssh_host_{kind}_key"));
    if !path.exists() {
        let key = host_key(parsed).map_err(|error| error.to_string())?;
        write_new(dir, &path, key.private.as_bytes()).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    let cannot = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    if fs::metadata(&path).map_err(cannot)?.len() > MAX_FILE {
        return Err(format!("{} is larger than {MAX_FILE} bytes", path.display()));
    }
    let private = Zeroizing::new(fs::read_to_string(&path).map_err(cannot)?);
    let shown = show(&private, None).map_err(|error| format!("{}: {error}", path.display()))?;
    let fingerprint = shown.first().map(|key| key.fingerprint.clone()).unwrap_or_default();
    Ok(HostKeyFile { kind: kind.to_owned(), private, fingerprint })
}

/// A new file that is complete or not there at all.
fn write_new(dir: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temp = path.with_extension("new");
    let _ = fs::remove_file(&temp);
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&temp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    // A link refuses to replace a key that another process made meanwhile.
    match fs::hard_link(&temp, path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::remove_file(&temp)?;
    fs::File::open(dir)?.sync_all()
}
