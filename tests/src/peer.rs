//! Peers that others wrote: pyas2lib and paramiko in a virtual environment, identities made by openssl.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{profile_dir, run, tool, wait_for};

/// A script beside this crate.
#[must_use]
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name)
}

/// The interpreter of the virtual environment, made on first use and kept in the build directory.
#[must_use]
#[track_caller]
pub fn python() -> PathBuf {
    let dir = profile_dir().parent().unwrap().join("python-peer");
    let lock = fs::File::create(dir.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let text = run(&mut tool("sh", &[script("setup.sh").to_str().unwrap(), dir.to_str().unwrap()])).ok();
    PathBuf::from(text.trim())
}

/// A key pair with a self-signed certificate, made by openssl.
pub struct Identity {
    dir: TempDir,
}

impl Identity {
    /// RSA 2048, ten days.
    #[must_use]
    #[track_caller]
    pub fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |file: &str| dir.path().join(file).display().to_string();
        let (key, cert, subject) = (at("key.pem"), at("cert.pem"), format!("/CN={name}"));
        let args = [
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-days", "10", "-subj", &subject, "-keyout", &key, "-out", &cert,
        ];
        let _ = run(&mut tool("openssl", &args)).ok();
        let both = fs::read_to_string(&key).unwrap() + &fs::read_to_string(&cert).unwrap();
        fs::write(at("both.pem"), both).unwrap();
        Identity { dir }
    }

    /// A file of it: `key.pem`, `cert.pem`, `both.pem`, or one to be written.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// The settings of a gateway with a TLS door at this port that shows it.
    #[must_use]
    pub fn door(&self, port: u16) -> [(&'static str, String); 3] {
        let at = |file: &str| format!("\"file:{}\"", self.path(file).display());
        [
            ("as2.tls.listen", format!("[\"127.0.0.1:{port}\"]")),
            ("as2.tls.cert", at("cert.pem")),
            ("as2.tls.key", at("key.pem")),
        ]
    }
}

/// pyas2lib's side of a partnership.
pub struct Peer {
    /// Its AS2 id.
    pub id: String,
    /// Its keys.
    pub identity: Identity,
    partner: String,
    partner_certificate: PathBuf,
    server: Option<(Child, u16)>,
}

impl Peer {
    /// A peer that knows one partner by its certificate in PEM.
    #[must_use]
    #[track_caller]
    pub fn new(id: &str, partner: &str, partner_certificate: &str) -> Self {
        let identity = Identity::new(id);
        let path = identity.path("partner.pem");
        fs::write(&path, partner_certificate).unwrap();
        Peer {
            id: id.to_owned(),
            identity,
            partner: partner.to_owned(),
            partner_certificate: path,
            server: None,
        }
    }

    /// The peer's script as a command: `receive` or `send`.
    #[must_use]
    #[track_caller]
    pub fn command(&self, mode: &str) -> Command {
        let mut command = Command::new(python());
        command
            .arg(script("peer.py"))
            .args([mode, "--me", &self.id, "--peer", &self.partner]);
        command
            .arg("--key")
            .arg(self.identity.path("both.pem"))
            .arg("--peer-cert")
            .arg(&self.partner_certificate);
        command
    }

    /// Starts to receive; the URL to post to.
    #[track_caller]
    pub fn listen(&mut self) -> String {
        let mut command = self.command("receive");
        command
            .arg("--out")
            .arg(self.identity.path("received"))
            .stdout(Stdio::piped())
            .stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line
            .trim()
            .strip_prefix("ready ")
            .unwrap_or_else(|| panic!("the peer did not start: {line}"))
            .parse()
            .unwrap();
        self.server = Some((child, port));
        format!("http://127.0.0.1:{port}/as2")
    }

    /// Waits for the `n`th message: what the peer says about it, and its payload.
    #[track_caller]
    pub fn received(&self, n: usize) -> (Value, Vec<u8>) {
        let stem = self.identity.path("received").join(n.to_string());
        let facts = wait_for(&format!("message {n} at the peer"), || {
            fs::read_to_string(stem.with_extension("json")).ok()
        });
        (
            serde_json::from_str(&facts).unwrap(),
            fs::read(stem.with_extension("payload")).unwrap_or_default(),
        )
    }

    /// Sends a file and tells what came of it.
    #[track_caller]
    pub fn send(&self, url: &str, file: &Path, options: &[&str]) -> Value {
        let mut command = self.command("send");
        let text = run(command.args(["--url", url]).arg("--file").arg(file).args(options)).ok();
        serde_json::from_str(&text).unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some((child, _)) = &mut self.server {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
