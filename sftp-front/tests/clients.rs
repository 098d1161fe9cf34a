//! The server against the real OpenSSH client, with a plain directory behind the traits.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use sftp_front::{
    Authenticator, CloseSign, Closed, Config, Download, Entry, Fault, Kind, Listing, Method, OpenHow, Peer, Proven, PublicKey, Refused,
    Server, SetStat, Space, Stat, Tree, Upload, UploadFacts, VPath,
};
use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::watch;

// ------------------------------------------------------------------------------------- a directory as a tree

#[derive(Clone, Debug)]
enum Event {
    Login,
    Failed(String),
    Logout(String),
    Synced(VPath),
    Closed(VPath, UploadFacts),
    Abandoned(VPath, UploadFacts),
    Sign(VPath, CloseSign),
}

type Log = Arc<Mutex<Vec<Event>>>;

struct Directory {
    root: PathBuf,
    log: Log,
}

impl Directory {
    fn real(&self, path: &VPath) -> PathBuf {
        path.components().iter().fold(self.root.clone(), |dir, part| dir.join(part))
    }
}

fn stat(meta: &fs::Metadata) -> Stat {
    let kind = if meta.is_dir() { Kind::Dir } else { Kind::File };
    Stat {
        kind,
        size: meta.len(),
        mtime: u64::try_from(meta.mtime()).unwrap(),
        mode: meta.mode() & 0o7777,
    }
}

fn apply(path: &Path, set: &SetStat) -> Result<(), Fault> {
    if let Some(size) = set.size {
        File::options().write(true).open(path)?.set_len(size)?;
    }
    if let Some(mode) = set.mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

impl Tree for Directory {
    fn home(&self) -> VPath {
        VPath::root()
    }
    fn stat(&self, path: &VPath, _follow: bool) -> Result<Stat, Fault> {
        Ok(stat(&fs::symlink_metadata(self.real(path))?))
    }
    fn list(&self, path: &VPath) -> Result<Box<dyn Listing>, Fault> {
        Ok(Box::new(Names(fs::read_dir(self.real(path))?)))
    }
    fn open_read(&self, path: &VPath) -> Result<Box<dyn Download>, Fault> {
        Ok(Box::new(Reading(File::open(self.real(path))?)))
    }
    fn open_write(&self, path: &VPath, how: &OpenHow) -> Result<Box<dyn Upload>, Fault> {
        if path.name().is_some_and(|name| name.starts_with("opens")) {
            std::thread::sleep(SLOW);
        }
        let mut options = File::options();
        options.write(true).read(true).create(how.create).truncate(how.truncate);
        let file = if how.exclusive {
            options.create_new(true).open(self.real(path))?
        } else {
            options.open(self.real(path))?
        };
        Ok(Box::new(Written {
            path: path.clone(),
            real: self.real(path),
            file,
            log: Arc::clone(&self.log),
        }))
    }
    fn remove(&self, path: &VPath) -> Result<(), Fault> {
        Ok(fs::remove_file(self.real(path))?)
    }
    fn mkdir(&self, path: &VPath, _set: &SetStat) -> Result<(), Fault> {
        Ok(fs::create_dir(self.real(path))?)
    }
    fn rmdir(&self, path: &VPath) -> Result<(), Fault> {
        Ok(fs::remove_dir(self.real(path))?)
    }
    fn rename(&self, from: &VPath, to: &VPath, replace: bool) -> Result<(), Fault> {
        if !replace && self.real(to).exists() {
            return Err(Fault::Failure("the target exists".into()));
        }
        Ok(fs::rename(self.real(from), self.real(to))?)
    }
    fn set_stat(&self, path: &VPath, set: &SetStat) -> Result<(), Fault> {
        apply(&self.real(path), set)
    }
    fn space(&self) -> Option<Space> {
        Some(Space {
            total: 1 << 40,
            free: 1 << 39,
        })
    }
    fn after_close(&self, path: &VPath, sign: CloseSign) {
        self.log.lock().unwrap().push(Event::Sign(path.clone(), sign));
    }
}

struct Names(fs::ReadDir);
impl Listing for Names {
    fn next(&mut self, max: usize) -> Result<Vec<Entry>, Fault> {
        let page = self.0.by_ref().take(max).map(|e| {
            let e = e?;
            Ok(Entry {
                name: e.file_name().into_string().unwrap(),
                stat: stat(&e.metadata()?),
            })
        });
        page.collect()
    }
}

struct Reading(File);
impl Download for Reading {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Fault> {
        Ok(self.0.read_at(buf, offset)?)
    }
    fn stat(&self) -> Result<Stat, Fault> {
        Ok(stat(&self.0.metadata()?))
    }
}

/// How long the CLOSE of a file takes whose name begins with "slow", the sync of one with "syncs", the OPEN of one with "opens".
const SLOW: Duration = Duration::from_secs(2);

/// How long others take to close a file whose name begins with "soon".
const SOON: Duration = Duration::from_millis(700);

struct Written {
    path: VPath,
    real: PathBuf,
    file: File,
    log: Log,
}

impl Upload for Written {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Fault> {
        Ok(self.file.write_all_at(data, offset)?)
    }
    fn stat(&self) -> Result<Stat, Fault> {
        Ok(stat(&self.file.metadata()?))
    }
    fn set_stat(&mut self, set: &SetStat) -> Result<(), Fault> {
        apply(&self.real, set)
    }
    fn sync(&mut self) -> Result<(), Fault> {
        match self.path.name() {
            Some("syncs-badly") => return Err(Fault::Failure("the disk is broken".into())),
            Some(name) if name.starts_with("syncs") => std::thread::sleep(SLOW),
            _ => {}
        }
        self.file.sync_all()?;
        self.log.lock().unwrap().push(Event::Synced(self.path.clone()));
        Ok(())
    }
    fn close(self: Box<Self>, facts: &UploadFacts) -> Result<(), Fault> {
        if self.path.name().is_some_and(|name| name.starts_with("slow")) {
            std::thread::sleep(SLOW);
        }
        self.log.lock().unwrap().push(Event::Closed(self.path.clone(), facts.clone()));
        Ok(())
    }
    fn closes_soon(&self, _facts: &UploadFacts) -> bool {
        self.path.name().is_some_and(|name| name.starts_with("soon"))
    }
    fn close_soon(self: Box<Self>, facts: &UploadFacts, closed: Closed) {
        let facts = facts.clone();
        std::thread::spawn(move || {
            std::thread::sleep(SOON);
            let is_lost = self.path.name() == Some("soon-lost");
            let result = self.close(&facts);
            if !is_lost {
                closed(result);
            }
        });
    }
    fn abandon(self: Box<Self>, facts: &UploadFacts) {
        self.log.lock().unwrap().push(Event::Abandoned(self.path.clone(), facts.clone()));
    }
}

struct Accounts {
    root: PathBuf,
    key: String,
    log: Log,
}

impl Authenticator for Accounts {
    fn public_key(&self, user: &str, key: &PublicKey, _peer: &Peer) -> Result<(), Refused> {
        let good = user == "alice" && key.openssh == self.key && key.algorithm == "ssh-ed25519";
        if good && key.blob.starts_with(b"\0\0\0\x0bssh-ed25519") {
            Ok(())
        } else {
            Err(Refused::guess("not alice's"))
        }
    }
    fn login(&self, _user: &str, given: &[Proven], peer: &Peer, _session: u64) -> Result<Arc<dyn Tree>, Refused> {
        assert!(peer.client.starts_with("SSH-2.0-OpenSSH_"));
        assert!(matches!(given, [Proven::Key(_)]));
        self.log.lock().unwrap().push(Event::Login);
        Ok(Arc::new(Directory {
            root: self.root.clone(),
            log: Arc::clone(&self.log),
        }))
    }
    fn failed(&self, user: &str, _method: Method, tried: &[String], guessed: bool, _peer: &Peer) {
        assert!(!tried.is_empty() && guessed);
        self.log.lock().unwrap().push(Event::Failed(user.into()));
    }
    fn logout(&self, _session: u64, _user: &str, reason: &str, bytes_in: u64, bytes_out: u64) {
        assert!(bytes_in > 0 && bytes_out > 0);
        self.log.lock().unwrap().push(Event::Logout(reason.into()));
    }
}

// ------------------------------------------------------------------------------------------------- the world

struct World {
    dir: TempDir,
    addr: SocketAddr,
    log: Log,
    server: Arc<Server>,
    stop: watch::Sender<bool>,
    _runtime: tokio::runtime::Runtime,
}

fn keygen(path: &Path) {
    let status = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
        .arg(path)
        .status()
        .unwrap();
    assert!(status.success());
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for key in ["host", "alice", "mallory"] {
            keygen(&dir.path().join(key));
        }
        fs::create_dir(dir.path().join("srv")).unwrap();
        let log = Log::default();
        let key = fs::read_to_string(dir.path().join("alice.pub")).unwrap().trim().to_owned();
        let auth = Arc::new(Accounts {
            root: dir.path().join("srv"),
            key,
            log: Arc::clone(&log),
        });
        let mut config = Config {
            host_keys: vec![fs::read_to_string(dir.path().join("host")).unwrap()],
            ..Config::default()
        };
        change(&mut config);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let server = Server::new(config, auth).unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        runtime.spawn(Arc::clone(&server).serve(listener, stopped));
        Self {
            dir,
            addr,
            log,
            server,
            stop,
            _runtime: runtime,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn client(&self, program: &str, key: &str) -> Command {
        let mut c = Command::new(program);
        c.current_dir(self.dir.path())
            .args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
        c.args(["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-i", key]);
        c.arg("-o").arg(format!("Port={}", self.addr.port()));
        c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        c
    }

    /// Runs `sftp` with a batch, to its end.
    fn sftp(&self, options: &[&str], batch: &str) -> Output {
        let mut child = self
            .client("sftp", "alice")
            .args(options)
            .args(["-b", "-", "alice@127.0.0.1"])
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(batch.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn ok(&self, options: &[&str], batch: &str) -> String {
        let out = self.sftp(options, batch);
        assert!(out.status.success(), "{batch}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    fn wait<T>(&self, what: &str, mut found: impl FnMut(&Event) -> Option<T>) -> T {
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            if let Some(t) = self.log.lock().unwrap().iter().find_map(&mut found) {
                return t;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{what} did not happen: {:?}", self.log.lock().unwrap());
    }

    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < until, "waited in vain: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn closed(&self, name: &str) -> UploadFacts {
        self.wait(name, |e| match e {
            Event::Closed(p, f) if p.name() == Some(name) => Some(f.clone()),
            _ => None,
        })
    }
}

/// Bytes that do not repeat in step with any block.
fn noise(len: usize) -> Vec<u8> {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.to_le_bytes());
    }
    out.truncate(len);
    out
}

const BIG: usize = 20 << 20;

#[test]
fn put_get_and_the_rest_of_the_protocol() {
    let w = World::new();
    let content = noise(BIG);
    fs::write(w.path("big"), &content).unwrap();
    w.ok(&[], "put big\nget big back\n");
    assert!(fs::read(w.path("srv/big")).unwrap() == content && fs::read(w.path("back")).unwrap() == content);
    let facts = w.closed("big");
    assert_eq!((facts.size, facts.block_len), (BIG as u64, 261_120));
    assert!(!facts.gap && facts.failed == 0 && facts.how.truncate && !facts.ends_on_full_block());

    for (options, name) in [
        (&["-B", "261120", "-R", "64"][..], "b1"),
        (&["-B", "1000", "-R", "200"][..], "b2"),
        (&["-C", "-o", "RekeyLimit=4M"][..], "b3"),
    ] {
        w.ok(options, &format!("put big {name}\nget {name} back-{name}\n"));
        assert!(fs::read(w.path(&format!("srv/{name}"))).unwrap() == content, "{name}");
        assert!(fs::read(w.path(&format!("back-{name}"))).unwrap() == content, "{name}");
    }

    // OpenSSH renames with posix-rename, which replaces.
    let listing = w.ok(
        &[],
        "mkdir d\nrename b1 d/b2\nrename b2 d/b2\nrm b3\nls -l\nls -1 d\npwd\ncd d\npwd\ndf\nchmod 600 b2\nrm b2\ncd ..\nrmdir d\n",
    );
    assert!(listing.contains("Remote working directory: /d\n"), "{listing}");
    let line = listing.lines().find(|l| l.ends_with(" big")).unwrap();
    assert!(line.starts_with("-rw") && line.contains(&BIG.to_string()), "{line}");
    assert!(!w.path("srv/d").exists() && !w.path("srv/b3").exists());

    // Nothing climbs out, links are refused, missing is missing.
    for batch in [
        "get ../../host x\n",
        "ln -s big link\n",
        "ln big link\n",
        "get none x\n",
        "rmdir none\n",
        "put big none/x\n",
        "rename big none/x\n",
    ] {
        assert!(!w.sftp(&[], batch).status.success(), "{batch}");
    }
    assert_eq!(fs::read_dir(w.path("srv")).unwrap().count(), 1);
    w.until("the sessions end", || {
        w.server.sessions().is_empty() && w.server.connection_count() == 0
    });
}

#[test]
fn many_names() {
    let w = World::new();
    for i in 0..1234 {
        fs::write(w.path(&format!("srv/file-{i:04}")), b"").unwrap();
    }
    let names = w.ok(&[], "ls -1\n");
    assert_eq!(names.lines().filter(|l| l.starts_with("file-")).count(), 1234);
    w.ok(&[], "get file-*\n");
    assert!(w.path("file-1233").exists());
}

#[test]
fn resume_and_what_it_shows() {
    let w = World::new();
    let content = noise(BIG);
    fs::write(w.path("big"), &content).unwrap();
    fs::write(w.path("srv/big"), &content[..7_000_000]).unwrap();
    fs::write(w.path("back"), &content[..5_000_000]).unwrap();
    w.ok(&["-f", "-p"], "reput big\nreget big back\n");
    assert!(fs::read(w.path("srv/big")).unwrap() == content && fs::read(w.path("back")).unwrap() == content);
    let facts = w.closed("big");
    assert!(facts.how.append && !facts.gap && !facts.append_was_cut());
    assert_eq!((facts.size_at_open, facts.size), (7_000_000, BIG as u64));
    w.wait("the sync", |e| {
        matches!(e, Event::Synced(p) if p.name() == Some("big")).then_some(())
    });

    // scp confirms the size; over a longer old file it is a restart.
    fs::write(w.path("small"), b"0123456789").unwrap();
    fs::write(w.path("srv/small"), noise(1000)).unwrap();
    let status = w
        .client("scp", "alice")
        .args(["-s", "small", "alice@127.0.0.1:small"])
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(fs::read(w.path("srv/small")).unwrap(), b"0123456789");
    let facts = w.closed("small");
    assert_eq!((facts.size_at_open, facts.size), (1000, 10));
    assert!(facts.size_confirmed() && facts.client.contains("OpenSSH"), "{facts:?}");
    // A stat of the name just closed is told to the tree.
    w.ok(&[], "put small again\nls -l again\nrm again\n");
    w.wait("signs", |e| {
        matches!(e, Event::Sign(p, CloseSign::Removed) if p.name() == Some("again")).then_some(())
    });
}

#[test]
fn programs_are_refused() {
    let w = World::new();
    for args in [
        &["alice@127.0.0.1"][..],
        &["alice@127.0.0.1", "id"],
        &["-A", "-X", "alice@127.0.0.1", "scp -t ."],
    ] {
        let mut child = w.client("ssh", "alice").args(args).spawn().unwrap();
        drop(child.stdin.take());
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{args:?}");
        assert!(
            String::from_utf8_lossy(&out.stderr).contains("This service allows sftp connections only."),
            "{args:?}"
        );
        assert!(out.stdout.is_empty());
    }
    fs::write(w.path("x"), b"x").unwrap();
    let out = w.client("scp", "alice").args(["-O", "x", "alice@127.0.0.1:x"]).output().unwrap();
    assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("sftp connections only"));
    for args in [
        &["-tt", "alice@127.0.0.1"][..],
        &["-s", "alice@127.0.0.1", "netconf"],
        &["-W", "127.0.0.1:22", "alice@127.0.0.1"],
        &["-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1", "-N", "alice@127.0.0.1"],
    ] {
        let mut child = w.client("ssh", "alice").args(args).spawn().unwrap();
        drop(child.stdin.take());
        assert!(!child.wait_with_output().unwrap().status.success(), "{args:?}");
    }
}

#[test]
fn a_wrong_key_or_user_is_refused() {
    let w = World::with(|c| c.banner = "Hello there\nand here".into());
    for (key, user) in [("mallory", "alice"), ("alice", "bob")] {
        let out = w
            .client("ssh", key)
            .args(["-v", "-s"])
            .arg(format!("{user}@127.0.0.1"))
            .arg("sftp")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && text.contains("Permission denied (publickey)"), "{text}");
        assert!(text.contains("Hello there") && text.contains("and here"), "the banner: {text}");
        w.wait("failed", |e| matches!(e, Event::Failed(u) if u == user).then_some(()));
    }
    assert!(!w.log.lock().unwrap().iter().any(|e| matches!(e, Event::Login)));
}

/// The key exchanges of a session that runs this batch.
fn exchanges(w: &World, batch: &str) -> usize {
    let out = w.sftp(&["-v"], batch);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{text}");
    text.matches("SSH2_MSG_NEWKEYS received").count()
}

#[test]
fn keys_are_exchanged_again_by_our_limits_and_no_byte_is_lost() {
    let content = noise(5 << 20);
    let moved = |w: &World| {
        fs::write(w.path("five"), &content).unwrap();
        let count = exchanges(w, "put five there\nget there back\n!sleep 1.5\nls\n");
        assert!(fs::read(w.path("srv/there")).unwrap() == content, "upload");
        assert!(fs::read(w.path("back")).unwrap() == content, "download");
        count
    };
    assert!(moved(&World::with(|c| c.rekey_bytes = 1 << 20)) >= 4, "by volume");
    assert!(moved(&World::with(|c| c.rekey_time = Duration::from_secs(1))) >= 2, "by time");
    let off = World::with(|c| (c.rekey_time, c.idle_timeout) = (Duration::ZERO, Duration::ZERO));
    assert_eq!(moved(&off), 1, "zero turns a limit off");
}

#[test]
fn a_stopped_client_is_gone() {
    let w = World::with(|c| c.keepalive = Duration::from_millis(300));
    let mut child = w.client("ssh", "alice").args(["-s", "alice@127.0.0.1", "sftp"]).spawn().unwrap();
    w.wait("login", |e| matches!(e, Event::Login).then_some(()));
    let send = |signal: &str| {
        let status = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(status.unwrap().success());
    };
    // One that answers stays, however long it says nothing.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(w.server.sessions().len(), 1);
    send("-STOP");
    w.wait("logout", |e| matches!(e, Event::Logout(_)).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Starts an upload of a file that never ends, and waits until bytes have arrived.
fn endless(w: &World, name: &str) -> std::process::Child {
    fs::write(w.path("huge"), b"").unwrap();
    File::options().write(true).open(w.path("huge")).unwrap().set_len(1 << 40).unwrap();
    let mut child = w
        .client("sftp", "alice")
        .args(["-b", "-", "-l", "8000", "alice@127.0.0.1"])
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(format!("put huge {name}\n").as_bytes()).unwrap();
    w.until("the upload starts", || {
        fs::metadata(w.path("srv").join(name)).is_ok_and(|m| m.len() > 0)
    });
    child
}

fn abandoned_once(w: &World, name: &str) {
    let of = |e: &Event| matches!(e, Event::Abandoned(p, _) if p.name() == Some(name));
    w.wait("abandon", |e| of(e).then_some(()));
    w.wait("logout", |e| matches!(e, Event::Logout(_)).then_some(()));
    let log = w.log.lock().unwrap();
    assert_eq!(log.iter().filter(|e| of(e)).count(), 1);
    assert!(!log.iter().any(|e| matches!(e, Event::Closed(..))));
}

#[test]
fn a_killed_client_abandons() {
    let w = World::new();
    let mut child = endless(&w, "cut");
    child.kill().unwrap();
    child.wait().unwrap();
    abandoned_once(&w, "cut");
}

#[test]
fn a_removed_user_is_cut() {
    let w = World::new();
    let mut child = endless(&w, "cut");
    let sessions = w.server.sessions();
    assert_eq!((sessions.len(), sessions[0].user.as_str()), (1, "alice"));
    assert_eq!(w.server.end_sessions(&|s| s.user == "bob"), 0);
    assert_eq!(w.server.end_sessions(&|s| s.user == "alice"), 1);
    assert!(!child.wait().unwrap().success());
    abandoned_once(&w, "cut");
    w.until("the place is given back", || w.server.connection_count() == 0);
}

#[test]
fn the_right_key_may_be_the_sixth() {
    let w = World::new();
    let wrong = ["w1", "w2", "w3", "w4"].map(|name| {
        keygen(&w.path(name));
        name
    });
    let mut child = w.client("sftp", "mallory");
    for key in wrong.iter().chain(&["alice"]) {
        child.arg("-i").arg(key);
    }
    let mut child = child.args(["-b", "-", "alice@127.0.0.1"]).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"pwd\n").unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_stop_lets_an_upload_end() {
    let w = World::new();
    let content = noise(3 << 20);
    fs::write(w.path("slow"), &content).unwrap();
    // 16 Mbit/s: about a second and a half.
    let mut child = w
        .client("sftp", "alice")
        .args(["-b", "-", "-l", "16000", "alice@127.0.0.1"])
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"put slow\n").unwrap();
    w.wait("login", |e| matches!(e, Event::Login).then_some(()));
    w.until("the upload starts", || fs::metadata(w.path("srv/slow")).is_ok_and(|m| m.len() > 0));
    w.stop.send_replace(true);
    let out = child.wait_with_output().unwrap();
    assert!(
        fs::read(w.path("srv/slow")).unwrap() == content,
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    w.closed("slow");
    w.wait("logout", |e| matches!(e, Event::Logout(_)).then_some(()));
    assert!(std::net::TcpStream::connect(w.addr).is_err());
}

#[test]
fn a_stop_waits_for_an_upload_no_longer_than_it_was_told() {
    let w = World::with(|c| c.drain = Duration::from_secs(2));
    let mut child = endless(&w, "cut");
    let asked = Instant::now();
    w.stop.send_replace(true);
    child.wait().unwrap();
    assert!((Duration::from_secs(2)..Duration::from_secs(6)).contains(&asked.elapsed()));
    abandoned_once(&w, "cut");
}

#[test]
fn limits_on_connections() {
    use std::io::Read;
    let w = World::with(|c| {
        c.max_connections_per_ip = 2;
        c.login_grace = Duration::from_secs(2);
    });
    let started = Instant::now();
    let mut held: Vec<_> = (0..2).map(|_| std::net::TcpStream::connect(w.addr).unwrap()).collect();
    let mut first = [0; 8];
    held.iter_mut().for_each(|s| s.read_exact(&mut first).unwrap());
    assert_eq!(&first, b"SSH-2.0-");
    let mut third = std::net::TcpStream::connect(w.addr).unwrap();
    assert!(
        matches!(third.read(&mut first), Ok(0) | Err(_)),
        "the third connection is not closed"
    );
    // The grace time ends the others, however busy they look.
    let mut rest = Vec::new();
    let _ = held[0].read_to_end(&mut rest);
    assert!((Duration::from_secs(1)..Duration::from_secs(6)).contains(&started.elapsed()));
    drop(held);
    w.until("the places are given back", || w.server.connection_count() == 0);
    w.ok(&[], "ls\n");
}

#[test]
fn an_idle_session_ends() {
    let w = World::with(|c| c.idle_timeout = Duration::from_millis(300));
    let mut child = w.client("ssh", "alice").args(["-s", "alice@127.0.0.1", "sftp"]).spawn().unwrap();
    let _stdin = child.stdin.take();
    let reason = w.wait("logout", |e| if let Event::Logout(r) = e { Some(r.clone()) } else { None });
    assert_eq!(reason, "idle");
    child.wait().unwrap();
}

// ------------------------------------------------------------------------------------- raw packets through ssh

/// A client that writes SFTP packets by hand, over the `ssh` program.
struct Raw {
    child: std::process::Child,
    stdin: std::process::ChildStdin,
    stdout: std::io::BufReader<std::process::ChildStdout>,
}

fn packet(kind: u8, id: u32, fields: &[&[u8]]) -> Vec<u8> {
    let mut body = vec![kind];
    body.extend(id.to_be_bytes());
    fields.iter().for_each(|f| body.extend_from_slice(f));
    let mut out = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    out.extend(body);
    out
}

fn string(s: &[u8]) -> Vec<u8> {
    [&u32::try_from(s.len()).unwrap().to_be_bytes()[..], s].concat()
}

impl Raw {
    fn new(w: &World) -> Self {
        let mut child = w.client("ssh", "alice").args(["-s", "alice@127.0.0.1", "sftp"]).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut raw = Self { child, stdin, stdout };
        raw.send(&packet(1, 6, &[]));
        let version = raw.answer().unwrap();
        assert_eq!(version[..5], [2, 0, 0, 0, 3]);
        raw
    }
    fn send(&mut self, bytes: &[u8]) {
        let _ = self.stdin.write_all(bytes);
        let _ = self.stdin.flush();
    }
    fn answer(&mut self) -> Option<Vec<u8>> {
        use std::io::Read;
        let mut len = [0; 4];
        self.stdout.read_exact(&mut len).ok()?;
        let mut body = vec![0; u32::from_be_bytes(len) as usize];
        self.stdout.read_exact(&mut body).ok()?;
        Some(body)
    }
    fn handle(&mut self) -> Vec<u8> {
        let answer = self.answer().unwrap();
        assert_eq!(answer[0], 102, "no handle: {}", String::from_utf8_lossy(&answer));
        string(&answer[9..])
    }
    fn code(&mut self) -> (u32, u32) {
        let a = self.answer().unwrap();
        assert_eq!(a[0], 101);
        (
            u32::from_be_bytes(a[1..5].try_into().unwrap()),
            u32::from_be_bytes(a[5..9].try_into().unwrap()),
        )
    }
}

#[test]
fn floods_do_not_hang() {
    let w = World::new();
    let content = noise(BIG);
    fs::write(w.path("srv/f"), &content).unwrap();
    let mut raw = Raw::new(&w);
    raw.send(&packet(3, 1, &[&string(b"f"), &1u32.to_be_bytes(), &0u32.to_be_bytes()]));
    let handle = raw.handle();
    // 5,000 READs and 50,000 LSTATs, all sent before anything is read.
    let reads: Vec<u8> = (0..5000u32)
        .flat_map(|k| packet(5, k, &[&handle, &(u64::from(k) * 4096).to_be_bytes(), &4096u32.to_be_bytes()]))
        .collect();
    let stats: Vec<u8> = (0..50_000u32).flat_map(|k| packet(7, k, &[&string(b"/f")])).collect();
    let mut stdin = raw.stdin;
    let sender = std::thread::spawn(move || {
        stdin.write_all(&reads).unwrap();
        stdin.write_all(&packet(4, 7, &[&handle])).unwrap();
        stdin.write_all(&stats).unwrap();
        stdin
    });
    let stdin = sender.join().unwrap();
    let mut raw = Raw {
        child: raw.child,
        stdin,
        stdout: raw.stdout,
    };
    let mut got = Vec::new();
    for k in 0..5000u32 {
        let a = raw.answer().unwrap();
        assert_eq!((a[0], &a[1..5]), (103, &k.to_be_bytes()[..]));
        got.extend_from_slice(&a[9..]);
    }
    assert!(got == content[..got.len()] && got.len() == 5000 * 4096);
    assert_eq!(raw.code(), (7, 0));
    for k in 0..50_000u32 {
        let a = raw.answer().unwrap();
        assert_eq!((a[0], &a[1..5]), (105, &k.to_be_bytes()[..]));
    }
    drop(raw.stdin);
    assert_eq!(raw.child.wait().unwrap().code(), Some(0));
}

#[test]
fn bad_packets() {
    let w = World::new();
    let mut raw = Raw::new(&w);
    // Unreadable bodies are answered with their own id; the stream stays in step.
    raw.send(&packet(17, 11, &[&[0, 0, 9, 9], b"short"]));
    assert_eq!(raw.code(), (11, 5));
    raw.send(&packet(
        6,
        12,
        &[&string(b"handle"), &0u64.to_be_bytes(), &u32::MAX.to_be_bytes(), b"data"],
    ));
    assert_eq!(raw.code(), (12, 5));
    raw.send(&packet(99, 13, &[]));
    assert_eq!(raw.code(), (13, 8));
    raw.send(&packet(200, 14, &[&string(b"hardlink@openssh.com"), &string(b"a"), &string(b"b")]));
    assert_eq!(raw.code(), (14, 8));
    raw.send(&packet(4, 15, &[&string(b"guessed!")]));
    assert_eq!(raw.code(), (15, 4));
    raw.send(&packet(3, 16, &[&string(b"a\xffb"), &0x1au32.to_be_bytes(), &0u32.to_be_bytes()]));
    assert_eq!(raw.code(), (16, 4));
    // A hole in an upload is seen, and an upload left open at the end of the channel is abandoned.
    raw.send(&packet(3, 17, &[&string(b"holes"), &0x1au32.to_be_bytes(), &0u32.to_be_bytes()]));
    let handle = raw.handle();
    raw.send(&packet(6, 18, &[&handle, &100u64.to_be_bytes(), &string(b"data")]));
    assert_eq!(raw.code(), (18, 0));
    // The 257th handle is refused.
    for k in 0..255 {
        raw.send(&packet(11, k, &[&string(b"/")]));
        raw.handle();
    }
    raw.send(&packet(11, 1000, &[&string(b"/")]));
    assert_eq!(raw.code(), (1000, 4));
    // A packet beyond the limit ends the channel.
    raw.send(&[0, 4, 0, 1, 5]);
    assert!(raw.answer().is_none());
    drop(raw.stdin);
    raw.child.wait().unwrap();
    let facts = w.wait("abandon", |e| if let Event::Abandoned(_, f) = e { Some(f.clone()) } else { None });
    assert!(facts.gap && facts.size == 104);
}

#[test]
fn write_and_close_behind_each_other() {
    let w = World::new();
    let mut raw = Raw::new(&w);
    raw.send(&packet(
        3,
        1,
        &[&string(b"x"), &0x1au32.to_be_bytes(), &1u32.to_be_bytes(), &8u64.to_be_bytes()],
    ));
    let handle = raw.handle();
    // As WinSCP: WRITEs, CLOSE, SETSTAT of the path without waiting, then the end of the channel.
    let mut burst = packet(6, 2, &[&handle, &0u64.to_be_bytes(), &string(b"0123")]);
    burst.extend(packet(6, 3, &[&handle, &4u64.to_be_bytes(), &string(b"4567")]));
    burst.extend(packet(4, 4, &[&handle]));
    burst.extend(packet(9, 5, &[&string(b"x"), &8u32.to_be_bytes(), &[0; 8]]));
    raw.send(&burst);
    drop(raw.stdin);
    let facts = w.closed("x");
    assert!(facts.declared_size_reached(), "{facts:?}");
    w.wait("sign", |e| matches!(e, Event::Sign(_, CloseSign::SetStat)).then_some(()));
    w.wait("sign", |e| matches!(e, Event::Sign(_, CloseSign::ChannelEnded)).then_some(()));
    assert_eq!(fs::read(w.path("srv/x")).unwrap(), b"01234567");
    raw.child.wait().unwrap();
}

/// OPEN for writing, creating and truncating.
fn open_write(id: u32, name: &[u8]) -> Vec<u8> {
    packet(3, id, &[&string(name), &0x1au32.to_be_bytes(), &0u32.to_be_bytes()])
}

#[test]
fn a_slow_close_holds_up_its_own_name_only() {
    let w = World::new();
    fs::write(w.path("srv/there"), b"old").unwrap();
    let mut raw = Raw::new(&w);
    raw.send(&[open_write(1, b"slow"), open_write(2, b"quick")].concat());
    let (slow, quick) = (raw.handle(), raw.handle());
    raw.send(&packet(6, 3, &[&slow, &0u64.to_be_bytes(), &string(b"12345")]));
    assert_eq!(raw.code(), (3, 0));
    let began = Instant::now();
    raw.send(
        &[
            packet(4, 4, &[&slow]),
            packet(6, 5, &[&quick, &0u64.to_be_bytes(), &string(b"6789")]),
            packet(17, 6, &[&string(b"there")]),
            packet(4, 7, &[&quick]),
            // The name that is being closed: these see it closed. What stands behind them waits with them.
            packet(17, 8, &[&string(b"./slow")]),
            packet(18, 9, &[&string(b"slow"), &string(b"done")]),
            packet(17, 10, &[&string(b"there")]),
        ]
        .concat(),
    );
    let ids: Vec<u32> = (0..7)
        .map(|_| {
            let answer = raw.answer().unwrap();
            let id = u32::from_be_bytes(answer[1..5].try_into().unwrap());
            assert!(answer[0] == 105 || answer[5..9] == [0; 4], "{id}: {answer:?}");
            id
        })
        .collect();
    // What these say waited for nobody's CLOSE.
    let mut before = ids[..3].to_vec();
    before.sort_unstable();
    assert_eq!((before, &ids[3..]), (vec![5, 6, 7], &[4, 8, 9, 10][..]));
    assert!(began.elapsed() >= SLOW);
    assert_eq!(fs::read(w.path("srv/done")).unwrap(), b"12345");
    w.wait("sign", |e| {
        matches!(e, Event::Sign(p, CloseSign::Renamed) if p.name() == Some("slow")).then_some(())
    });

    // Twenty at a time, the connection lost behind them: every one is closed, and the end waits for it.
    let names: Vec<String> = (0..20).map(|k| format!("slow{k}")).collect();
    for (k, name) in names.iter().enumerate() {
        raw.send(&open_write(u32::try_from(k).unwrap(), name.as_bytes()));
    }
    let handles: Vec<Vec<u8>> = names.iter().map(|_| raw.handle()).collect();
    let closes: Vec<u8> = handles.iter().flat_map(|h| packet(4, 1, &[h])).collect();
    raw.send(&closes);
    std::thread::sleep(Duration::from_millis(300));
    raw.child.kill().unwrap();
    raw.child.wait().unwrap();
    w.wait("logout", |e| matches!(e, Event::Logout(_)).then_some(()));
    for name in &names {
        w.closed(name);
    }
}

#[test]
fn a_close_that_others_end_is_answered_by_them() {
    let w = World::new();
    fs::write(w.path("srv/there"), b"old").unwrap();
    let mut raw = Raw::new(&w);
    let open = |raw: &mut Raw, name: &[u8]| {
        raw.send(&open_write(1, name));
        raw.handle()
    };
    let handle = open(&mut raw, b"soon");
    let began = Instant::now();
    raw.send(&packet(4, 2, &[&handle]));
    raw.send(&packet(17, 3, &[&string(b"there")]));
    let other = raw.answer().unwrap();
    assert_eq!((other[0], other[4]), (105, 3));
    assert!(began.elapsed() < SOON, "a STAT waited for another's CLOSE");
    // About the name that is being closed: it waits, and what comes behind it too.
    raw.send(&packet(18, 4, &[&string(b"soon"), &string(b"done")]));
    raw.send(&packet(17, 5, &[&string(b"there")]));
    assert_eq!((raw.code(), raw.code()), ((2, 0), (4, 0)));
    assert_eq!(raw.answer().unwrap()[4], 5);
    assert!(began.elapsed() >= SOON && w.path("srv/done").exists());

    // Nobody answers: the client must not wait for ever.
    let handle = open(&mut raw, b"soon-lost");
    raw.send(&packet(4, 6, &[&handle]));
    assert_eq!(raw.answer(), None);
    raw.child.wait().unwrap();

    // The client ends the channel meanwhile: the answer still comes, then the end.
    let mut raw = Raw::new(&w);
    let handle = open(&mut raw, b"soon-last");
    raw.send(&packet(4, 7, &[&handle]));
    drop(raw.stdin);
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut raw.stdout, &mut rest).unwrap();
    assert_eq!(rest.get(4..13), Some(&[101, 0, 0, 0, 7, 0, 0, 0, 0][..]));
    raw.child.wait().unwrap();
    w.wait("sign", |e| {
        matches!(e, Event::Sign(p, CloseSign::ChannelEnded) if p.name() == Some("soon-last")).then_some(())
    });
}

fn fsync(id: u32, handle: &[u8]) -> Vec<u8> {
    packet(200, id, &[&string(b"fsync@openssh.com"), handle])
}

#[test]
fn a_slow_sync_holds_up_its_own_handle_only() {
    let w = World::new();
    fs::write(w.path("srv/there"), b"old").unwrap();
    let mut raw = Raw::new(&w);
    raw.send(&[open_write(1, b"syncs"), open_write(2, b"other"), open_write(3, b"syncs-badly")].concat());
    let (slow, other, bad) = (raw.handle(), raw.handle(), raw.handle());
    let write = |id, handle: &[u8], at: u64, text: &[u8]| packet(6, id, &[handle, &at.to_be_bytes(), &string(text)]);
    let began = Instant::now();
    raw.send(
        &[
            write(4, &slow, 0, b"12"),
            fsync(5, &slow),
            write(6, &other, 0, b"ab"),
            packet(17, 7, &[&string(b"there")]),
            fsync(8, &other),
            packet(4, 9, &[&other]),
            // The handle that is being synced: these wait, and what stands behind them with them.
            write(10, &slow, 2, b"34"),
            packet(17, 11, &[&string(b"there")]),
            packet(8, 12, &[&slow]),
            packet(4, 13, &[&slow]),
        ]
        .concat(),
    );
    let ids: Vec<u32> = (0..10)
        .map(|_| {
            let answer = raw.answer().unwrap();
            let id = u32::from_be_bytes(answer[1..5].try_into().unwrap());
            assert!(![6, 7, 8].contains(&id) || began.elapsed() < SLOW, "{id} waited for another's sync");
            assert!(answer[0] == 105 || answer[5..9] == [0; 4], "{id}: {answer:?}");
            id
        })
        .collect();
    let at = |id| ids.iter().position(|one| *one == id).unwrap();
    assert!(at(4) < at(5) && at(8) < at(9), "{ids:?}");
    assert!([6, 7, 8, 9].iter().all(|id| at(*id) < at(5)), "{ids:?}");
    assert_eq!(ids[6..], [10, 11, 12, 13], "{ids:?}");
    assert!(began.elapsed() >= SLOW);
    assert_eq!(fs::read(w.path("srv/syncs")).unwrap(), b"1234");
    assert_eq!(w.closed("syncs").size, 4, "written after the sync");

    // A failed sync stays with the handle.
    raw.send(&[fsync(20, &bad), write(21, &bad, 0, b"x"), packet(4, 22, &[&bad]), fsync(23, &bad)].concat());
    assert_eq!(
        [raw.code(), raw.code(), raw.code(), raw.code()],
        [(20, 4), (21, 4), (22, 4), (23, 4)]
    );

    // The connection lost while one is synced: it is abandoned, once.
    raw.send(&open_write(30, b"syncs-and-goes"));
    let handle = raw.handle();
    raw.send(&[write(31, &handle, 0, b"1"), fsync(32, &handle), packet(8, 33, &[&handle])].concat());
    assert_eq!(raw.code(), (31, 0));
    raw.child.kill().unwrap();
    raw.child.wait().unwrap();
    w.wait("logout", |e| matches!(e, Event::Logout(_)).then_some(()));
    let of = |e: &Event| match e {
        Event::Abandoned(path, _) | Event::Closed(path, _) => path.name() == Some("syncs-and-goes"),
        _ => false,
    };
    let log = w.log.lock().unwrap();
    let ends: Vec<_> = log.iter().filter(|e| of(e)).collect();
    assert!(matches!(ends[..], [Event::Abandoned(..)]), "{ends:?}");
}

#[test]
fn a_slow_open_holds_up_its_own_name_only() {
    let w = World::new();
    fs::write(w.path("srv/there"), b"old").unwrap();
    let mut raw = Raw::new(&w);
    let write = |id, handle: &[u8], text: &[u8]| packet(6, id, &[handle, &0u64.to_be_bytes(), &string(text)]);
    raw.send(&open_write(1, b"other"));
    let other = raw.handle();
    let began = Instant::now();
    raw.send(
        &[
            open_write(2, b"opens"),
            packet(17, 3, &[&string(b"there")]),
            write(4, &other, b"ab"),
            packet(4, 5, &[&other]),
        ]
        .concat(),
    );
    let ids: Vec<u8> = (0..3).map(|_| raw.answer().unwrap()[4]).collect();
    assert!(ids == [3, 4, 5] && began.elapsed() < SLOW, "{ids:?} after {:?}", began.elapsed());
    // The name that is being opened: it waits, and what comes behind it too.
    raw.send(&[packet(17, 6, &[&string(b"opens")]), packet(17, 7, &[&string(b"there")])].concat());
    let handle = raw.handle();
    assert!(began.elapsed() >= SLOW);
    assert_eq!(
        (raw.answer().unwrap()[..5].to_vec(), raw.answer().unwrap()[4]),
        (vec![105, 0, 0, 0, 6], 7)
    );
    raw.send(&[write(8, &handle, b"12"), packet(4, 9, &[&handle])].concat());
    assert_eq!((raw.code(), raw.code()), ((8, 0), (9, 0)));
    assert_eq!(
        (fs::read(w.path("srv/opens")).unwrap(), w.closed("opens").size),
        (b"12".to_vec(), 2)
    );

    // No more at a time than the limit, whether they fail or not; and the failed ones leave no handle behind.
    let began = Instant::now();
    let names: Vec<String> = (0..=sftp_front::MAX_ASIDE).map(|n| format!("no-directory/opens-{n}")).collect();
    raw.send(&names.iter().flat_map(|name| open_write(10, name.as_bytes())).collect::<Vec<u8>>());
    names.iter().for_each(|_| assert_eq!(raw.code(), (10, 2)));
    assert!(began.elapsed() >= 2 * SLOW);
    for n in 0..sftp_front::MAX_HANDLES {
        raw.send(&open_write(11, format!("f{n}").as_bytes()));
        raw.handle();
    }
    raw.send(&open_write(12, b"one-too-many"));
    assert_eq!(raw.code(), (12, 4));
    drop(raw);

    // The connection lost meanwhile: it is abandoned, once.
    let mut raw = Raw::new(&w);
    raw.send(&[open_write(20, b"opens-and-goes"), packet(17, 21, &[&string(b"there")])].concat());
    assert_eq!(raw.answer().unwrap()[4], 21);
    raw.child.kill().unwrap();
    raw.child.wait().unwrap();
    let of = |e: &Event| match e {
        Event::Abandoned(path, _) | Event::Closed(path, _) => path.name() == Some("opens-and-goes"),
        _ => false,
    };
    w.wait("abandoned", |e| of(e).then_some(()));
    let log = w.log.lock().unwrap();
    let ends: Vec<_> = log.iter().filter(|e| of(e)).collect();
    assert!(matches!(ends[..], [Event::Abandoned(..)]), "{ends:?}");
}

/// Prints wall time and the CPU time of this process (the server; the client is a child) for 1 GiB each way. Run with
/// `cargo test --release -p sftp-front --test clients -- --ignored --nocapture throughput`, with TMPDIR on a tmpfs.
#[test]
#[ignore = "a measurement"]
fn throughput() {
    const CLOCK_TICKS: f64 = 100.0;
    let cpu = || -> f64 {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / CLOCK_TICKS
    };
    let w = World::new();
    fs::write(w.path("big"), noise(1 << 30)).unwrap();
    for cipher in ["aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes256-ctr"] {
        for batch in ["put big\n", "get big back\n"] {
            let (wall, used) = (Instant::now(), cpu());
            w.ok(&["-c", cipher], batch);
            let (wall, used) = (wall.elapsed().as_secs_f64(), cpu() - used);
            println!("{cipher} {} {:.0} MiB/s, {used:.2} CPU s", &batch[..3], 1024.0 / wall);
        }
    }
    assert_eq!(fs::metadata(w.path("back")).unwrap().len(), 1 << 30);
}
