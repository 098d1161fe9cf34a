//! One as2gate: a directory of its own, a server process that can be stopped, killed and started again, and its CLI.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{PATIENCE, Ran, as2gate, free_port, run, run_with, tool, wait_for, wait_seeing};
use crate::sftp::Sftp;

/// The account that the harness makes.
pub const ACCOUNT: &str = "acme";
/// Lines of the log that a failing wait shows.
const LOG_TAIL: usize = 20;

/// A program that holds a journal for as long as this is there.
pub struct HeldJournal(Child);

impl Drop for HeldJournal {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// A gateway with its data directory.
pub struct Gateway {
    dir: TempDir,
    binary: PathBuf,
    variables: Vec<(String, String)>,
    server: Mutex<Option<Child>>,
    /// What the clock that tests move begins at, in seconds from now.
    noon: AtomicI64,
    /// Where SFTP answers while the server runs.
    pub sftp_port: u16,
    /// Where AS2 answers while the server runs.
    pub as2_port: u16,
}

/// Settings with short waits: what a test does not measure should not cost time.
const QUICK: &[(&str, &str)] = &[
    ("data_dir", "\"data\""),
    ("uploads.release_after", "\"0s\""),
    ("retry.initial", "\"1s\""),
    ("retry.max_wait", "\"2s\""),
    ("retry.jitter", "0.0"),
    ("retry.mdn_wait", "\"30s\""),
    ("sftp.ban.failures", "0"),
    ("telemetry.listen", "\"\""),
    ("telemetry.log", "\"info\""),
];

/// The RSA host key of the first gateway of this process. The others bring it along: finding one takes a second, and was a fifth
/// of the time of all tests.
static HOST_KEY: OnceLock<Vec<u8>> = OnceLock::new();
const HOST_KEY_FILE: &str = "data/host-keys/ssh_host_rsa_key";

impl Gateway {
    /// A new gateway, set up and serving.
    #[must_use]
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// The same with further settings, as TOML keys and values.
    #[must_use]
    pub fn with(settings: &[(&str, &str)]) -> Self {
        let gateway = Self::stopped(settings);
        gateway.start();
        gateway
    }

    /// Set up, not serving.
    #[must_use]
    pub fn stopped(settings: &[(&str, &str)]) -> Self {
        Self::of(as2gate(), Vec::new(), settings)
    }

    /// Of another binary, with further environment.
    #[must_use]
    pub fn of(binary: PathBuf, variables: Vec<(String, String)>, settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("as2gate-test-").tempdir().unwrap();
        let (sftp_port, as2_port) = (free_port(), free_port());
        let gateway = Gateway {
            dir,
            binary,
            variables,
            server: Mutex::new(None),
            noon: AtomicI64::new(0),
            sftp_port,
            as2_port,
        };
        gateway.bring_host_key();
        let _ = gateway.ok(&["init", "--account", ACCOUNT]);
        HOST_KEY.get_or_init(|| fs::read(gateway.path(HOST_KEY_FILE)).unwrap());
        gateway.configure(settings);
        gateway
    }

    fn bring_host_key(&self) {
        let Some(key) = HOST_KEY.get() else { return };
        let path = self.path(HOST_KEY_FILE);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path.parent().unwrap())
            .unwrap();
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
        file.write_all(key).unwrap();
    }

    /// Writes the configuration anew: the harness's own settings with these over them.
    pub fn configure(&self, settings: &[(&str, &str)]) {
        let mut all: BTreeMap<&str, String> = QUICK.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        all.insert("public_url", format!("\"http://127.0.0.1:{}\"", self.as2_port));
        all.insert("sftp.listen", format!("[\"127.0.0.1:{}\"]", self.sftp_port));
        all.insert("as2.listen", format!("[\"127.0.0.1:{}\"]", self.as2_port));
        all.extend(settings.iter().map(|(key, value)| (*key, (*value).to_owned())));
        let text: String = all.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        fs::write(self.path("as2gate.toml"), text).unwrap();
    }

    /// A path in the gateway's directory, where commands run.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file into the gateway's directory.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A place in the account's tree on disk, e.g. `files/BOB/ALICE/inbox`.
    #[must_use]
    pub fn tree(&self, below: &str) -> PathBuf {
        self.path("data/tree").join(format!("mftg-{ACCOUNT}")).join("AS2").join(below)
    }

    /// The server's log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.path("log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        // Logins are many and rarely the point.
        let lines: Vec<&str> = log
            .lines()
            .filter(|line| !line.contains("sftp login") && !line.contains("sftp logout"))
            .collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }

    // Commands.

    /// A command line of this gateway, run in its directory.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("AS2GATE_") {
                command.env_remove(name);
            }
        }
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("AS2GATE_TEST_CLOCK", self.path("clock"));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command.
    #[must_use]
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> Ran {
        let ran = run(&mut self.command(args));
        assert!(!ran.stderr.contains("panicked") && !ran.stderr.contains("RUST_BACKTRACE"), "{ran}");
        ran
    }

    /// Runs a command that has to succeed; its standard output.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        self.cli(args).ok()
    }

    /// Runs a command that changes objects, and waits until the running server goes by them. If one change follows another,
    /// both have to come this way: the server's word for the first would be taken for that for the second.
    #[track_caller]
    pub fn change(&self, args: &[&str]) -> String {
        let before = self.log().len();
        let told = self.ok(args);
        self.wait("the server to follow a change", |gateway| {
            let log = gateway.log();
            log.get(before..)?.contains("goes by the changed objects").then_some(())
        });
        told
    }

    /// Runs a command that reads standard input.
    #[must_use]
    #[track_caller]
    pub fn cli_with(&self, args: &[&str], input: &str) -> Ran {
        run_with(&mut self.command(args), input)
    }

    /// Runs a command with `-o json` and reads what it prints.
    #[must_use]
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(&[args, &["-o", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }

    // The server.

    /// Starts the server and waits until it is ready.
    #[track_caller]
    pub fn start(&self) {
        self.start_as(self.command(&["serve"]));
    }

    /// The same with another command, of which the server becomes the process.
    #[track_caller]
    pub fn start_as(&self, command: Command) {
        let before = self.log().len();
        self.spawn_as(command);
        self.wait("the server to be ready", |gateway| {
            if let Some(status) = gateway.server.lock().unwrap().as_mut().unwrap().try_wait().unwrap() {
                panic!("the server ended with {status}:\n{}", gateway.log_tail());
            }
            let log = gateway.log();
            log.get(before..)
                .is_some_and(|new| new.contains(" ready ") || new.contains("\"ready\""))
                .then_some(())
        });
    }

    /// Starts the server without waiting.
    pub fn spawn(&self) {
        self.spawn_as(self.command(&["serve"]));
    }

    fn spawn_as(&self, mut command: Command) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        *self.server.lock().unwrap() = Some(command.spawn().unwrap());
    }

    /// The files that wait in the store.
    #[must_use]
    pub fn stored(&self) -> Vec<PathBuf> {
        let below = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        below(self.path("data/store"))
            .flat_map(below)
            .filter(|path| path.is_file())
            .collect()
    }

    /// The server's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.lock().unwrap().as_ref().map(Child::id).expect("a running server")
    }

    /// SIGKILL: what a power cut looks like to the process.
    pub fn kill9(&self) {
        // A start that failed has left its lock poisoned, and this runs in the destructor then.
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = server {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and the end of the process; its exit code.
    #[track_caller]
    pub fn term(&self) -> i32 {
        let mut child = self.server.lock().unwrap().take().expect("a running server");
        let _ = run(&mut tool("kill", &["-TERM", &child.id().to_string()])).ok();
        let status = wait_for("the server to stop", || child.try_wait().unwrap());
        status.code().unwrap_or(-1)
    }

    /// SIGTERM and start again.
    #[track_caller]
    pub fn restart(&self) {
        assert_eq!(self.term(), 0, "{}", self.log_tail());
        self.start();
    }

    /// Lets the clock begin at the next noon UTC: for tests that count days, through which no midnight may pass unasked.
    pub fn begin_at_noon(&self) {
        const DAY: i64 = 86_400;
        const NOON: i64 = DAY / 2;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let now = i64::try_from(now).unwrap();
        self.noon.store((NOON - now).rem_euclid(DAY), Ordering::Relaxed);
        self.set_clock(0);
    }

    /// Moves the clock of server and commands to so many seconds from now, or from the noon that it began at, as if they had passed.
    pub fn set_clock(&self, seconds: i64) {
        let seconds = self.noon.load(Ordering::Relaxed) + seconds;
        self.shift_clock(&seconds.to_string());
    }

    /// Has the clock of server and commands jump there, while no time passes.
    pub fn jump_clock(&self, seconds: i64) {
        let noon = self.noon.load(Ordering::Relaxed);
        self.shift_clock(&format!("{} {noon}", noon + seconds));
    }

    fn shift_clock(&self, text: &str) {
        // A rename, so that nobody reads half a number.
        fs::write(self.path("clock.new"), text).unwrap();
        fs::rename(self.path("clock.new"), self.path("clock")).unwrap();
    }

    // Set-up.

    /// Adds a user with a new ed25519 key, and gives the client that logs in with it.
    #[must_use]
    #[track_caller]
    pub fn user(&self, name: &str) -> Sftp {
        let key = self.ssh_key(name, "ed25519");
        self.ok(&["user", "add", name, "--public-key", &format!("{}.pub", key.display())]);
        self.login(name, &key)
    }

    /// A key pair made by ssh-keygen; the path of its private half.
    #[must_use]
    #[track_caller]
    pub fn ssh_key(&self, name: &str, kind: &str) -> PathBuf {
        let path = self.path(&format!("{name}-{kind}.key"));
        let _ = run(&mut tool(
            "ssh-keygen",
            &["-q", "-t", kind, "-N", "", "-C", name, "-f", path.to_str().unwrap()],
        ))
        .ok();
        path
    }

    /// The client of a user with a key.
    #[must_use]
    pub fn login(&self, user: &str, key: &Path) -> Sftp {
        Sftp::new(self.sftp_port, user, key)
    }

    // Messages.

    /// The messages of a direction, `in` or `out`, newest state.
    #[must_use]
    #[track_caller]
    pub fn messages(&self, direction: &str) -> Vec<Value> {
        let list = self.json(&["message", "list", "--direction", direction, "--limit", "100000"]);
        list.as_array().expect("an array").clone()
    }

    /// The messages of a direction with this file name.
    #[must_use]
    #[track_caller]
    pub fn messages_of(&self, direction: &str, file: &str) -> Vec<Value> {
        let list = self.json(&["message", "list", "--direction", direction, "--file", file]);
        list.as_array().expect("an array").clone()
    }

    /// Waits until a message of this file name reaches this state, and shows it whole.
    #[track_caller]
    pub fn reaches(&self, direction: &str, file: &str, state: &str) -> Value {
        wait_seeing(PATIENCE, || {
            let found = self.messages_of(direction, file);
            if let Some(message) = found.iter().find(|message| message["state"] == state) {
                return Ok(self.show(message["id"].as_str().unwrap()));
            }
            let given_up = !found.is_empty() && found.iter().all(|message| message["state"] == "failed");
            if state == "delivered" && given_up {
                panic!("{file} failed instead: {:#}", self.show(found[0]["id"].as_str().unwrap()));
            }
            Err(format!("{file} to become {state}; last seen: {:#}", Value::Array(found)))
        })
    }

    /// One message as `message show` gives it.
    #[must_use]
    #[track_caller]
    pub fn show(&self, id: &str) -> Value {
        self.json(&["message", "show", id])
    }

    /// The page of metrics, where `telemetry.listen` is set.
    #[must_use]
    #[track_caller]
    pub fn metrics(&self) -> String {
        let status = self.json(&["status"]);
        let address = status["listening"]["telemetry"].as_str().expect("an address").to_owned();
        let mut stream = TcpStream::connect(&address).unwrap();
        stream
            .write_all(format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())
            .unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        assert!(page.starts_with("HTTP/1.1 200"), "{page}");
        page
    }

    /// The value of a row of them, named with its labels.
    #[must_use]
    #[track_caller]
    pub fn metric(&self, row: &str) -> Option<String> {
        let page = self.metrics();
        let mut rows = page.lines().filter_map(|line| line.rsplit_once(' '));
        rows.find(|(name, _)| *name == row).map(|(_, value)| value.to_owned())
    }

    /// Changes the journal behind the gateway's back, or looks into it: the first column of what was asked for.
    #[track_caller]
    pub fn sql(&self, statement: &str) -> Vec<String> {
        let program = "import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=60)
for row in db.execute(sys.argv[2]).fetchall(): print(row[0])
db.commit()";
        let database = self.path("data/db/as2gate.db");
        let told = run(tool("python3", &["-c", program]).arg(database).arg(statement)).ok();
        told.lines().map(str::to_owned).collect()
    }

    /// Waits until the running server goes by all changes of objects that were made, one or several, since it was started; others
    /// may make further ones meanwhile.
    #[track_caller]
    pub fn followed(&self) {
        let made: u64 = self
            .sql("SELECT value FROM fact WHERE key = 'objects.version'")
            .concat()
            .parse()
            .unwrap();
        self.wait("the server to follow the changes", |gateway| {
            let log = gateway.log();
            let mut versions = log.split("goes by the changed objects version=").skip(1);
            let followed = |text: &str| {
                text.lines()
                    .next()
                    .is_some_and(|version| version.parse().is_ok_and(|version: u64| version >= made))
            };
            versions.any(followed).then_some(())
        });
    }

    /// Holds the journal, so that nobody can write it until this is dropped.
    #[must_use]
    pub fn hold_journal(&self) -> HeldJournal {
        let hold = "import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
db.execute('BEGIN IMMEDIATE')
print('held', flush=True)
sys.stdin.read()";
        let mut holder = tool("python3", &["-c", hold, self.path("data/db/as2gate.db").to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        holder.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
        HeldJournal(holder)
    }

    /// Waits until all records are published. That their files are there is too early: the publisher tells the journal after it,
    /// and until then the life cycle leaves them alone.
    #[track_caller]
    pub fn published(&self) {
        self.wait("all records to be published", |gateway| {
            let left = gateway.sql("SELECT parent || '/' || name FROM entry WHERE store <> ''");
            left.is_empty().then_some(())
        });
    }

    /// Waits for something of this gateway; a failure shows the end of the log.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        wait_seeing(PATIENCE, || {
            look(self).ok_or_else(|| format!("{what}; the log ends with:\n{}", self.log_tail()))
        })
    }

    /// Processor time that the server has had so far, however long it waited for it.
    #[must_use]
    #[track_caller]
    pub fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // Behind the name, which may hold blanks: user and system time in hundredths of a second (proc_pid_stat(5)).
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Peak resident memory of the server so far, in bytes.
    #[must_use]
    #[track_caller]
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            eprintln!(
                "--- end of the log of the gateway on {}/{}\n{}",
                self.sftp_port,
                self.as2_port,
                self.log_tail()
            );
        }
    }
}
