//! The keystore judged by tools that we did not write: openssl, keytool, ssh-keygen, puttygen. A missing tool is printed, and
//! its tests are skipped.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod certificates;
mod secrets;
mod ssh_keys;
mod stores;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// 2026-11-24, in Unix seconds.
const NOW: i64 = 1_795_478_400;

/// A directory for one test, gone at its end.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        // ssh-keygen refuses private keys that others can read.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    /// Runs a tool here; its standard output and error. Words of the line are separated by blanks; `~` is an empty word.
    fn try_run(&self, line: &str) -> Output {
        let words = line.split_whitespace().map(|w| if w == "~" { "" } else { w });
        let words: Vec<&str> = words.collect();
        let (tool, args) = words.split_first().unwrap();
        Command::new(tool)
            .args(args)
            .current_dir(self.0.path())
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn run(&self, line: &str) -> String {
        let output = self.try_run(line);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{line}\n{out}\n{err}");
        out + &err
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether a tool is there; says loudly when it is not.
fn has(tool: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).any(|dir| dir.join(tool).is_file());
    if !found {
        eprintln!("SKIPPED: {tool} is not installed; this test proved nothing");
    }
    found
}

fn fixture(name: &str) -> Option<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures");
    let found = std::fs::read(root.join(name)).ok();
    if found.is_none() {
        eprintln!("SKIPPED: the fixture {name} is not here");
    }
    found
}

/// The words of an error; fails the test if there was none.
fn error<T>(result: keystore::Result<T>) -> String {
    match result {
        Ok(_) => panic!("it should have failed"),
        Err(e) => e.to_string(),
    }
}
