//! OpenSSH's `sftp`, in batch mode, as one user.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::process::{Ran, run, run_with, tool};

/// A limit for `sftp -l` in kbit/s, at which twelve mebibytes take 24 seconds: a machine that is busy has to catch the client in
/// the middle of its upload.
pub const SLOW: &str = "4000";

/// How one user logs in.
#[derive(Clone)]
pub struct Sftp {
    port: u16,
    user: String,
    key: PathBuf,
}

/// The part of every command line that keeps the machine's own SSH set-up out.
fn options(key: &Path) -> Vec<String> {
    let fixed = [
        "-F",
        "/dev/null",
        "-o",
        "BatchMode=yes",
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "StrictHostKeyChecking=no",
    ];
    let mut all: Vec<String> = fixed.map(str::to_owned).to_vec();
    all.extend(
        [
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "LogLevel=ERROR",
            "-o",
            "IdentityAgent=none",
        ]
        .map(str::to_owned),
    );
    all.extend(["-i".to_owned(), key.display().to_string()]);
    all
}

/// A name as sftp's own parser takes it.
#[must_use]
pub fn quoted(name: &str) -> String {
    let escaped: String = name
        .chars()
        .flat_map(|c| if matches!(c, '"' | '\\') { vec!['\\', c] } else { vec![c] })
        .collect();
    format!("\"{escaped}\"")
}

impl Sftp {
    /// A user on a loopback port.
    #[must_use]
    pub fn new(port: u16, user: &str, key: &Path) -> Self {
        Sftp {
            port,
            user: user.to_owned(),
            key: key.to_owned(),
        }
    }

    /// The same port with another key.
    #[must_use]
    pub fn with_key(&self, key: &Path) -> Self {
        Sftp {
            key: key.to_owned(),
            ..self.clone()
        }
    }

    /// The client as a command that reads its lines from standard input.
    #[must_use]
    pub fn command(&self, more: &[&str]) -> Command {
        let mut command = tool("sftp", &["-b", "-", "-P", &self.port.to_string()]);
        command.args(more).args(options(&self.key)).arg(format!("{}@127.0.0.1", self.user));
        command
    }

    /// The command line of an interactive client, for a shell.
    #[must_use]
    pub fn interactive(&self, more: &str) -> String {
        let options: Vec<String> = options(&self.key).iter().map(|word| format!("'{word}'")).collect();
        format!("sftp {more} -P {} {} {}@127.0.0.1", self.port, options.join(" "), self.user)
    }

    /// `ssh` as this user, with further arguments before the host and a remote command after it.
    #[must_use]
    #[track_caller]
    pub fn ssh(&self, before: &[&str], after: &[&str]) -> Ran {
        let mut command = tool("ssh", &["-p", &self.port.to_string()]);
        command
            .args(before)
            .args(options(&self.key))
            .arg(format!("{}@127.0.0.1", self.user))
            .args(after);
        run(&mut command)
    }

    /// `ssh` with a subsystem as this user.
    #[must_use]
    pub fn subsystem(&self, name: &str) -> Command {
        let mut command = tool("ssh", &["-p", &self.port.to_string(), "-s"]);
        command.args(options(&self.key)).arg(format!("{}@127.0.0.1", self.user)).arg(name);
        command
    }

    /// Old `scp`, which speaks a protocol of its own, as this user.
    #[must_use]
    #[track_caller]
    pub fn scp(&self, more: &[&str], local: &Path, remote: &str) -> Ran {
        let mut command = tool("scp", &["-P", &self.port.to_string()]);
        command.args(more).args(options(&self.key)).arg(local);
        run(command.arg(format!("{}@127.0.0.1:{remote}", self.user)))
    }

    /// Runs lines in batch mode: the first that fails ends it, unless it begins with `-`.
    #[must_use]
    #[track_caller]
    pub fn run(&self, lines: &[&str]) -> Ran {
        run_with(&mut self.command(&[]), &format!("{}\n", lines.join("\n")))
    }

    /// Runs lines that all have to succeed; what they print, without the echo of the commands.
    #[track_caller]
    pub fn ok(&self, lines: &[&str]) -> String {
        let text = self.run(lines).ok();
        let shown = text.lines().filter(|line| !line.starts_with("sftp> "));
        shown.map(|line| format!("{line}\n")).collect()
    }

    /// Runs one line that the server has to refuse; the client's words.
    #[must_use]
    #[track_caller]
    pub fn refused(&self, line: &str) -> String {
        let ran = self.run(&[line]);
        // Without a login, or without a server, it would be 255.
        assert_eq!(ran.code, 1, "not refused: {line}\n{ran}");
        ran.stderr
    }

    /// Whether this user can log in at all.
    #[must_use]
    #[track_caller]
    pub fn logs_in(&self) -> bool {
        self.run(&["pwd"]).code == 0
    }

    /// Uploads a local file.
    #[track_caller]
    pub fn put(&self, local: &Path, remote: &str) {
        self.ok(&[&format!("put {} {}", quoted(&local.display().to_string()), quoted(remote))]);
    }

    /// Downloads a file; its bytes.
    #[must_use]
    #[track_caller]
    pub fn get(&self, remote: &str) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let local = dir.path().join("got");
        self.ok(&[&format!("get {} {}", quoted(remote), quoted(local.to_str().unwrap()))]);
        std::fs::read(local).unwrap()
    }

    /// The names in a directory, sorted.
    #[must_use]
    #[track_caller]
    pub fn ls(&self, dir: &str) -> Vec<String> {
        let text = self.ok(&[&format!("ls -1a {}", quoted(dir))]);
        let names = text
            .lines()
            .map(|line| line.trim_end().rsplit('/').next().unwrap_or_default().to_owned());
        let mut names: Vec<String> = names.filter(|name| !matches!(name.as_str(), "" | "." | "..")).collect();
        names.sort();
        names
    }

    /// Bytes of the first file of a directory, as it is listed.
    #[must_use]
    #[track_caller]
    pub fn size(&self, dir: &str) -> Option<u64> {
        let text = self.ok(&[&format!("ls -ln {}", quoted(dir))]);
        text.split_whitespace().nth(4)?.parse().ok()
    }

    /// Starts a client with lines and leaves it running.
    #[must_use]
    pub fn start(&self, more: &[&str], lines: &[&str]) -> Child {
        use std::io::Write as _;
        let mut child = self
            .command(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The pipe stays open, so that the client waits for more after the last line.
        let pipe = child.stdin.as_mut().unwrap();
        pipe.write_all(format!("{}\n", lines.join("\n")).as_bytes()).unwrap();
        pipe.flush().unwrap();
        child
    }
}
