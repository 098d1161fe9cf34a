//! Running programs and waiting for conditions.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
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

/// A command run by another one, which takes program and arguments behind its own; with the environment and the directory of the
/// inner one.
#[must_use]
pub fn below(mut outer: Command, inner: &Command) -> Command {
    outer.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    if let Some(dir) = inner.get_current_dir() {
        outer.current_dir(dir);
    }
    outer
}

/// Whether a program that a test cannot do without is installed; where it is not, the test says so and ends.
#[must_use]
#[track_caller]
pub fn is_installed(program: &str) -> bool {
    let found = run(&mut tool("sh", &["-c", &format!("command -v {program}")])).code == 0;
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// A server of others, until it is dropped.
pub struct Server(Child);

impl Server {
    /// Starts it and waits until it listens on a port. What it says goes into a file.
    #[must_use]
    #[track_caller]
    pub fn start(command: &mut Command, port: u16, log: &Path) -> Self {
        let log = File::create(log).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let server = Server(command.spawn().unwrap());
        wait_for("the server to listen", || TcpStream::connect(("127.0.0.1", port)).ok());
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Looks until there is something, and fails with `what` when patience ends.
#[track_caller]
pub fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, look)
}

/// The same with a deadline of its own.
#[track_caller]
pub fn wait_within<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    wait_seeing(deadline, || look().ok_or(what))
}

/// The same; a failure tells what the last look has seen instead.
#[track_caller]
pub fn wait_seeing<T, E: Display>(deadline: Duration, mut look: impl FnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + deadline;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(Instant::now() < end, "waited {deadline:?} in vain: {seen}"),
        }
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

/// The first of the ports that tests use, below the range from which the system draws: nobody else gets one while a server
/// restarts.
const FIRST_PORT: u16 = 10_000;
/// Ports that a process takes for itself alone.
const BLOCK: u16 = 1_000;
const BLOCKS: u16 = 20;

/// Held by a test that opens hundreds of sockets: of 1,024 files, as many as a process may often have, two such tests leave none.
pub fn hundreds_of_sockets() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The next connection. Where none comes it fails, as with everything that is waited for: a server may have ended.
#[must_use]
#[track_caller]
pub fn accepted(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let (stream, _) = wait_for("a connection", || listener.accept().ok());
    listener.set_nonblocking(false).unwrap();
    stream.set_nonblocking(false).unwrap();
    stream
}

/// A port that nobody listens on, and that no other test gets before a thousand more have been asked for.
///
/// No socket is bound to find out: a program that is being started beside holds a copy of each until it runs, and who then binds
/// the port for good would find it in use.
#[must_use]
#[track_caller]
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static MINE: LazyLock<(File, u16)> = LazyLock::new(take_block);
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let free = (0..BLOCK)
        .map(|_| MINE.1 + NEXT.fetch_add(1, Ordering::Relaxed) % BLOCK)
        .find(|port| !is_used(*port));
    free.expect("a free port")
}

/// Takes the first block of ports that no other process has, for as long as this one lives.
fn take_block() -> (File, u16) {
    for block in (0..BLOCKS).cycle() {
        let lock = std::env::temp_dir().join(format!("as2gate-test-ports-{block}"));
        // Another user's file cannot be opened; its block counts as taken.
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(lock);
        if let Ok(file) = file
            && file.try_lock().is_ok()
        {
            return (file, FIRST_PORT + block * BLOCK);
        }
        if block + 1 == BLOCKS {
            sleep(LOOK);
        }
    }
    unreachable!("a cycle has no end")
}

/// Whether the system knows a socket with this port of its own, be it listening or connected.
fn is_used(port: u16) -> bool {
    let own = format!(":{port:04X}");
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| {
        let table = fs::read_to_string(table).unwrap_or_default();
        table
            .lines()
            .any(|line| line.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&own)))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_free_port_is_nobodys_and_can_be_bound_at_once() {
        let busy = std::thread::spawn(|| (0..200).for_each(|_| drop(run(&mut tool("true", &[])))));
        let mut seen = HashSet::new();
        for _ in 0..500 {
            let port = free_port();
            assert!(seen.insert(port) && TcpListener::bind(("127.0.0.1", port)).is_ok(), "{port}");
        }
        busy.join().unwrap();
    }
}
