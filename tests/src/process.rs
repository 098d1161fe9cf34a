//! Running programs and waiting for conditions.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a condition may take: the slowest machine that runs the tests has two busy cores.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(50);

/// What a program left behind.
#[derive(Debug)]
pub struct Ran {
    /// The command line, for reports.
    pub command: String,
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    fn of(command: &Command, output: &Output) -> Self {
        Ran {
            command: format!("{command:?}"),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asserts success and gives standard output.
    #[must_use]
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self}");
        self.stdout
    }

    /// Asserts an exit code and gives standard error.
    #[must_use]
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self}");
        self.stderr
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}\nexit {}\n--- stdout\n{}\n--- stderr\n{}",
            self.command, self.code, self.stdout, self.stderr
        )
    }
}

/// Runs a command to its end with nothing on standard input.
#[must_use]
#[track_caller]
pub fn run(command: &mut Command) -> Ran {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}{}", advice(command)));
    Ran::of(command, &output)
}

/// Runs a command to its end with a text on standard input.
#[must_use]
#[track_caller]
pub fn run_with(command: &mut Command, input: &str) -> Ran {
    let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = started.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}{}", advice(command)));
    // A program that ends early does not read; its exit code tells why.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    Ran::of(command, &child.wait_with_output().unwrap())
}

/// The one command that installs what is missing.
fn advice(command: &Command) -> &'static str {
    match command.get_program().to_str().unwrap_or_default() {
        "sftp" | "ssh" | "ssh-keygen" => "; install it: apt-get install -y openssh-client",
        "openssl" => "; install it: apt-get install -y openssl",
        "keytool" => "; install it: apt-get install -y default-jre-headless",
        "python3" | "sh" => "; install it: apt-get install -y python3 python3-venv",
        _ => "",
    }
}

/// A shell word list as a command: `tool("openssl", &["x509", …])`.
#[must_use]
pub fn tool(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).env("LC_ALL", "C.UTF-8");
    command
}

/// Looks until there is something, and fails with `what` when patience ends.
#[track_caller]
pub fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, look)
}

/// The same with a deadline of its own.
#[track_caller]
pub fn wait_within<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited {deadline:?} in vain: {what}");
        sleep(LOOK);
    }
}

/// Whether something stays so for a time; the time is the product's own delay plus its reaction.
#[track_caller]
pub fn stays(span: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + span;
    while Instant::now() < end {
        assert!(holds(), "did not stay: {what}");
        sleep(LOOK * 4);
    }
}

/// The build directory of this run, `target/release` or the like.
#[must_use]
pub fn profile_dir() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.parent().and_then(Path::parent).unwrap().to_owned()
}

/// The `as2gate` under test: `AS2GATE_BIN`, else the one of this build directory.
#[must_use]
#[track_caller]
pub fn as2gate() -> PathBuf {
    if let Some(path) = std::env::var_os("AS2GATE_BIN") {
        return PathBuf::from(path);
    }
    let release = profile_dir().parent().unwrap().join("release/as2gate");
    assert!(
        release.exists(),
        "{} is not there: run `make build` first, or name a binary with AS2GATE_BIN",
        release.display()
    );
    release
}

/// A port that is free now, below the range from which the system draws: nobody else gets it while a server restarts.
#[must_use]
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(7919);
    loop {
        let port = 10_000 + (start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000);
        let port = u16::try_from(port).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
