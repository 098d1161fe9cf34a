//! SFTP clients that others wrote, with their defaults, through the habits of their users: a file that they call finished is
//! sent whole and once; one that was broken off is kept back, and goes out when it has been resumed. What the clients say on
//! the wire stands in COMPATIBILITY.md; `tests/clients` has the programs.

mod curl;
mod libraries;
mod openssh;
mod psftp;
mod replay;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::process::{Ran, profile_dir, run, stays, tool};
use tests::{Gateway, Pair, Sftp, noise, wait_for};

const SEND: &str = "AS2/send/ALICE/BOB";
/// The block of clients that do not ask for the server's limits.
const BLOCK: usize = 32_768;
/// The release delay: longer than any client needs from one put of a name to the next.
const DELAY: Duration = Duration::from_secs(4);
/// So slow that a time limit ends in the middle of a large file, and that a client can be caught there.
const BANDWIDTH: &str = "3MiB";
const SLOW: &str = "1MiB";
const LARGE: usize = (24 << 20) + 7;
/// So much of a large file has to be there before it is broken off.
const CAUGHT: u64 = 500_000;

/// Several blocks of every client, and no exact multiple of any.
fn content() -> Vec<u8> {
    (0..600_001u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect()
}

fn is_sent(gateway: &Gateway, name: &str, bytes: &[u8]) {
    let message = gateway.reaches("out", name, "delivered");
    assert_eq!(message["size"].as_u64(), Some(bytes.len() as u64), "{name}");
}

/// A client at a gateway.
struct Scene {
    client: &'static str,
    pair: Pair,
    user: Sftp,
    key: PathBuf,
}

impl Scene {
    fn of(client: &'static str) -> Self {
        let delay = format!("\"{}s\"", DELAY.as_secs());
        let pair = Pair::one_with(&[("uploads.release_after", &delay)]);
        let gateway = pair.alice();
        let user = gateway.user("client");
        let mut key = gateway.path("client-ed25519.key");
        if client == "psftp" {
            let ppk = gateway.path("client.ppk");
            let _ = run(&mut tool(
                "puttygen",
                &[key.to_str().unwrap(), "-O", "private", "-o", ppk.to_str().unwrap()],
            ))
            .ok();
            key = ppk;
        }
        gateway.ok(&["user", "set", "client", "--bandwidth", BANDWIDTH]);
        Scene { client, pair, user, key }
    }

    fn large(&self) -> Vec<u8> {
        noise(LARGE, 5)
    }

    /// The command that takes the client through a habit.
    fn command(&self, habit: &str, name: &str, local: &Path, head: &Path) -> Command {
        let script = if self.client == "replay" { "replay.py" } else { "habits.py" };
        let mut command = Command::new(clients());
        command.env("PYTHONDONTWRITEBYTECODE", "1").arg(program(script));
        if self.client != "replay" {
            command.arg(self.client).arg("--head").arg(head);
        }
        command.args([habit, "--user", "client", "--name", name, "--dir", &format!("/mftg-acme/{SEND}")]);
        command.arg("--port").arg(self.pair.alice().sftp_port.to_string());
        command.arg("--key").arg(&self.key).arg("--local").arg(local);
        if self.client == "psftp" {
            let keys = self.pair.alice().json(&["user", "show", "client"])["host_keys"].clone();
            for fingerprint in keys.as_array().unwrap() {
                command.args(["--hostkey", fingerprint.as_str().unwrap()]);
            }
        }
        command
    }

    fn start(&self, habit: &str, name: &str, bytes: &[u8]) -> std::process::Child {
        let local = self.pair.alice().file(&format!("local/{name}"), bytes);
        let head = self.pair.alice().file("local/head", &bytes[..bytes.len() / 2]);
        let mut command = self.command(habit, name, &local, &head);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Takes the client through a habit to its end.
    fn drives(&self, habit: &str, name: &str, bytes: &[u8]) -> Ran {
        let output = self.start(habit, name, bytes).wait_with_output().unwrap();
        Ran {
            command: format!("{} {habit}", self.client),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Each habit ends well for the client, all of them at the same time, and the file goes out whole and once.
    fn sends(&self, habits: &[&str]) {
        let bytes = content();
        let started: Vec<_> = habits
            .iter()
            .map(|habit| self.start(habit, &format!("{habit}.edi"), &bytes))
            .collect();
        for (habit, child) in habits.iter().zip(started) {
            let output = child.wait_with_output().unwrap();
            let words = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{} {habit}: {words}", self.client);
        }
        for habit in habits {
            self.is_sent_once(&format!("{habit}.edi"), &bytes);
        }
        wait_for("an empty send directory", || self.user.ls(SEND).is_empty().then_some(()));
    }

    fn is_sent_once(&self, name: &str, bytes: &[u8]) {
        let gateway = self.pair.alice();
        let message = gateway.reaches("out", name, "delivered");
        let local = gateway.file("local/expected", bytes);
        let sum = run(&mut tool("sha256sum", &[local.to_str().unwrap()])).ok();
        assert_eq!(
            message["sha256"],
            sum[..64],
            "{} {name}: other bytes than the client has",
            self.client
        );
        let got = gateway.messages_of("in", name);
        assert_eq!(got.len(), 1, "{} {name}: {got:#?}", self.client);
    }

    /// The name twice in a row from a client that says each time that it is through: the first is sent at once, and the
    /// other is a duplicate by the six-hour rule.
    fn sends_the_first_again(&self) {
        let bytes = content();
        let _ = self.drives("again", "again.edi", &bytes).ok();
        self.is_sent_once("again.edi", &bytes[..bytes.len() / 2]);
        let other = self.pair.alice().reaches("out", "again.edi", "duplicate");
        assert_eq!(other["size"].as_u64(), Some(bytes.len() as u64));
    }

    /// Bytes of the files in `send` whose names begin so, as the client's user sees them.
    fn held(&self, name: &str) -> u64 {
        let listed = self.user.ok(&[&format!("ls -ln {SEND}")]);
        let of_name = listed
            .lines()
            .filter(|line| line.contains(&format!(" {name}")) || line.contains(&format!("/{name}")));
        of_name.filter_map(|line| line.split_whitespace().nth(4)?.parse::<u64>().ok()).sum()
    }

    fn lists(&self, name: &str) -> bool {
        self.user.ls(SEND).iter().any(|listed| listed.starts_with(name))
    }

    /// Catches the client twice in the middle of a large file: the user breaks off, and the client is killed.
    fn breaks_off(&self) -> Vec<u8> {
        let bytes = self.large();
        self.pair.alice().change(&["user", "set", "client", "--bandwidth", SLOW]);
        for (name, signal) in [("broken.bin", "USR1"), ("lost.bin", "USR2")] {
            let child = self.start("held", name, &bytes);
            wait_for(&format!("{} to be in the middle of {name}", self.client), || {
                (self.held(name) > CAUGHT).then_some(())
            });
            let _ = run(&mut tool("kill", &[&format!("-{signal}"), &child.id().to_string()])).ok();
            let _ = child.wait_with_output().unwrap();
        }
        self.is_kept_back("broken.bin");
        self.is_kept_back("lost.bin");
        bytes
    }

    fn breaks_off_and_resumes(&self) {
        let bytes = self.breaks_off();
        self.pair.alice().change(&["user", "set", "client", "--bandwidth", "0"]);
        for name in ["broken.bin", "lost.bin"] {
            let _ = self.drives("resume", name, &bytes).ok();
            self.is_sent_once(name, &bytes);
        }
    }

    /// No message comes of it.
    fn is_kept_back(&self, name: &str) {
        let begins = |message: &Value| message["file"].as_str().unwrap().starts_with(name.trim_end_matches(".tmp"));
        stays(
            DELAY + Duration::from_millis(500),
            &format!("{} {name}: a broken-off upload is no message", self.client),
            || !self.pair.alice().messages("out").iter().any(begins),
        );
    }

    /// Neither half of a file goes out as if it were the whole, and nothing that has a hole.
    fn nothing_whole_is_made_of(&self, name: &str, bytes: &[u8]) {
        let half = bytes.len() / 2 / BLOCK * BLOCK;
        std::thread::sleep(DELAY + Duration::from_millis(500));
        for message in self.pair.alice().messages_of("out", name) {
            assert_eq!(
                message["size"].as_u64(),
                Some(half as u64),
                "only the writer that closed a gapless file is believed"
            );
        }
    }
}

/// A program beside the tests.
fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

/// The interpreter beside which the clients of the package registries lie, fetched on first use.
fn clients() -> PathBuf {
    let dir = profile_dir().parent().unwrap().join("sftp-clients");
    let lock = std::fs::File::create(dir.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let text = run(&mut tool("sh", &[program("setup.sh").to_str().unwrap(), dir.to_str().unwrap()])).ok();
    PathBuf::from(text.trim())
}
