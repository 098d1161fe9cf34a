//! What was promised, and what the only other copy was let go of, is on the disk by then: power cuts at every moment that counts,
//! played on what the syncs of a server under strace had saved (durability.md §13 F2, F3, F20).

mod disk;
mod trace;

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::packets::{Packets, string};
use tests::pair::add_partner;
use tests::peer::Identity;
use tests::process::{below, is_installed, run, tool};
use tests::wire::{exchange, http, serve};
use tests::{Gateway, noise, wait_for};

use disk::{Disk, Left};
use trace::{Call, Moment, Trace};

/// Every call that writes to a file or a socket, changes a name or syncs.
const CALLS: &str = "write,writev,pwrite64,pwritev,pwritev2,lseek,ftruncate,fallocate,copy_file_range,sendfile,splice,\
    ?open,openat,?mkdir,mkdirat,?unlink,unlinkat,?rmdir,?link,linkat,?rename,renameat,renameat2,\
    fsync,fdatasync,syncfs,sync,sendto,sendmsg";
/// strace keeps so many bytes of a write: more than the server writes at once.
const WHOLE: &str = "4194304";
/// The journal's log, in the data directory.
const LOG: &str = "db/as2gate.db-wal";

/// The journal takes these bytes itself.
const SMALL: usize = 1_000;
/// And these not any more.
const MIDDLE: usize = 70_000;
const LARGE: usize = 1_000_003;
/// Bytes of one SFTP WRITE.
const BLOCK: usize = 200_000;

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Put,
    PostedForMdn,
    PostedForLaterMdn,
}

/// A message that has to outlive a power cut once its answer leaves.
struct Promise {
    name: &'static str,
    bytes: Vec<u8>,
    way: Way,
    /// How long the trace was when the answer was here.
    seen: usize,
}

/// A run of the server, ended.
struct Record {
    gateway: Gateway,
    trace: Trace,
    promises: Vec<Promise>,
    /// What was looked at and found well.
    fine: RefCell<HashSet<u64>>,
}

fn can_trace() -> bool {
    let can = is_installed("strace") && run(&mut tool("strace", &["-o", "/dev/null", "true"])).code == 0;
    if !can {
        eprintln!("skipped: strace may not look at other programs here");
    }
    can
}

/// A station with a partner at this address whose messages come in clear, served below strace.
fn traced(partner: &str) -> Gateway {
    let gateway = Gateway::stopped(&[("uploads.release_after", "\"1h\"")]);
    gateway.ok(&["station", "add", "BOB"]);
    let alice = Identity::new("alice");
    add_partner(&gateway, "ALICE", partner, alice.path("cert.pem").to_str().unwrap());
    gateway.ok(&[
        "partner",
        "set",
        "ALICE",
        "--require-signed",
        "false",
        "--require-encrypted",
        "false",
    ]);
    let key = format!("{}.pub", gateway.ssh_key("erp", "ed25519").display());
    gateway.ok(&["user", "add", "erp", "--public-key", &key]);
    let (data, before) = (gateway.path("data"), gateway.path("before"));
    let _ = run(&mut tool("cp", &["-a", data.to_str().unwrap(), before.to_str().unwrap()])).ok();
    // With -D the server is our child, and strace its.
    let args = [
        "-D",
        "-f",
        "-q",
        "-y",
        "-s",
        WHOLE,
        "--seccomp-bpf",
        "-o",
        "trace",
        "-e",
        &format!("trace={CALLS}"),
    ];
    gateway.start_as(below(tool("strace", &args), &gateway.command(&["serve"])));
    gateway
}

fn put(client: &mut Packets, name: &str, bytes: &[u8]) {
    let path = string(format!("AS2/send/BOB/ALICE/{name}").as_bytes());
    let handle = string(&client.ask(3, &[&path, &0x1au32.to_be_bytes(), &[0; 4]]).text());
    for (number, block) in (0u64..).zip(bytes.chunks(BLOCK)) {
        let offset = (number * BLOCK as u64).to_be_bytes();
        assert_eq!(client.ask(6, &[&handle, &offset, &string(block)]).code(), Some(0));
    }
    assert_eq!(client.ask(4, &[&handle]).code(), Some(0));
}

fn post(gateway: &Gateway, name: &str, bytes: &[u8], later: Option<&str>) {
    let disposition = format!("attachment; filename=\"{name}\"");
    let mut headers = vec![
        ("AS2-From", "ALICE".to_owned()),
        ("AS2-To", "BOB".to_owned()),
        ("Message-ID", format!("<{name}@test>")),
        ("Content-Type", "application/octet-stream".to_owned()),
        ("Content-Disposition", disposition),
        ("Disposition-Notification-To", "alice".to_owned()),
    ];
    headers.extend(later.map(|url| ("Receipt-Delivery-Option", url.to_owned())));
    let headers: Vec<_> = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let answer = exchange(gateway.as2_port, "POST", "/as2", &headers, bytes);
    assert!(matches!(answer.status, 200 | 204), "{}", answer.text());
    assert_eq!(answer.disposition().ends_with("processed"), later.is_none(), "{}", answer.text());
}

/// Has all kinds of promises made, and published what was promised; then the power goes.
fn recorded() -> Record {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let partner = format!("http://{}/as2", listener.local_addr().unwrap());
    let mdns = serve(listener, |_, _| http(200, &[], ""));
    let gateway = traced(&partner);
    let mut promises = Vec::new();
    let mut promised = |name, bytes, way| {
        let seen = usize::try_from(fs::metadata(gateway.path("trace")).unwrap().len()).unwrap();
        promises.push(Promise { name, bytes, way, seen });
    };
    let user = gateway.login("erp", &gateway.path("erp-ed25519.key"));
    let mut client = Packets::of(&user);
    for (name, size) in [("alone.bin", SMALL), ("middle.bin", MIDDLE), ("large.bin", LARGE)] {
        let bytes = noise(size, size as u64);
        put(&mut client, name, &bytes);
        promised(name, bytes, Way::Put);
    }
    // With a second session the journal's own thread commits.
    let other = Packets::of(&user);
    let bytes = noise(SMALL, 7);
    put(&mut client, "beside.bin", &bytes);
    promised("beside.bin", bytes, Way::Put);
    drop((client, other));

    for (name, size, way) in [
        ("small-sync.bin", SMALL, Way::PostedForMdn),
        ("middle-sync.bin", MIDDLE, Way::PostedForMdn),
        ("small-async.bin", SMALL, Way::PostedForLaterMdn),
        ("middle-async.bin", MIDDLE, Way::PostedForLaterMdn),
    ] {
        let bytes = noise(size, 8 + size as u64);
        post(&gateway, name, &bytes, (way == Way::PostedForLaterMdn).then_some(&*partner));
        promised(name, bytes, way);
    }
    wait_for("the MDNs to come", || (mdns.lock().unwrap().len() == 2).then_some(()));
    gateway.published();
    gateway.kill9();
    let text = wait_for("strace to end", || {
        let text = fs::read_to_string(gateway.path("trace")).unwrap();
        text.ends_with("+++ killed by SIGKILL +++\n").then_some(text)
    });
    Record {
        gateway,
        trace: Trace::read(&text),
        promises,
        fine: RefCell::default(),
    }
}

impl Record {
    /// The answers that the promises left with, in order.
    fn answers(&self) -> Vec<usize> {
        let calls: Vec<&Call> = self.trace.calls.iter().filter(|call| call.is_answer()).collect();
        let ssh: Vec<_> = calls
            .iter()
            .filter(|call| call.begins_with(b"SSH-2.0-"))
            .map(|call| call.target(0))
            .collect();
        let last = |promise: &Promise| {
            let mut answers = calls.iter().filter(|call| match promise.way {
                Way::Put => ssh.contains(&call.target(0)),
                Way::PostedForMdn | Way::PostedForLaterMdn => call.begins_with(b"HTTP/1.1 2"),
            });
            answers.rfind(|call| call.at < promise.seen).expect("the answer in the trace").at
        };
        let found: Vec<usize> = self.promises.iter().map(last).collect();
        assert!(found.is_sorted_by(|one, next| one < next), "{found:?}");
        found
    }

    /// What a power cut would have cost at the worst moment, had these calls not been made; nothing if all is well.
    fn lost(&self, without: impl Fn(&Call) -> bool) -> Option<String> {
        let (data, answers) = (self.gateway.path("data"), self.answers());
        let mut disk = Disk::of(&data, &self.gateway.path("before"));
        let mut due = 0;
        let cut = |disk: &Disk, call: &Call, early: Option<&Path>, due: usize| {
            let left = disk.left(early);
            let survived = self.survives(&left, due);
            survived.map_err(|what| format!("{what}, at {} {}", call.name, call.args.join(", ")))
        };
        for moment in &self.trace.moments {
            let (Moment::Begin(at) | Moment::End(at)) = *moment;
            let call = &self.trace.calls[at];
            if without(call) {
                continue;
            }
            let (begins, is_log) = (matches!(moment, Moment::Begin(_)), call.is_sync() && call.is_on(data.join(LOG)));
            let before = if begins && answers.contains(&call.at) {
                due += 1;
                cut(&disk, call, None, due)
            } else if begins && is_log {
                // What was written into the journal may have reached the disk without its sync, and before all else.
                cut(&disk, call, Some(Path::new("db")), due)
            } else {
                Ok(())
            };
            disk.follow(&self.trace, *moment);
            let after = if !begins && (is_log || call.name.starts_with("unlink")) {
                cut(&disk, call, None, due)
            } else {
                Ok(())
            };
            if let Err(what) = before.and(after) {
                return Some(what);
            }
        }
        None
    }

    /// Looks, by the commands of an operator, whether the messages are whole on a disk with these files: the first so many have to
    /// be there, the others if they are listed.
    fn survives(&self, left: &Left, due: usize) -> Result<(), String> {
        let mut hash = DefaultHasher::new();
        (left, due).hash(&mut hash);
        // Most moments leave what others do.
        if self.fine.borrow().contains(&hash.finish()) {
            return Ok(());
        }
        let home = self.gateway.path("cut");
        let _ = fs::remove_dir_all(&home);
        for (path, bytes) in left {
            let path = home.join("data").join(path);
            let mut dirs = fs::DirBuilder::new();
            dirs.recursive(true).mode(0o700).create(path.parent().unwrap()).unwrap();
            let mut file = fs::OpenOptions::new();
            let mut file = file.write(true).create_new(true).mode(0o600).open(path).unwrap();
            std::io::Write::write_all(&mut file, bytes).unwrap();
        }
        fs::copy(self.gateway.path("as2gate.toml"), home.join("as2gate.toml")).unwrap();
        let ask = |args: &[&str]| run(self.gateway.command(args).current_dir(&home));
        let list = ask(&["message", "list", "-o", "json"]).ok();
        let list: Vec<Value> = serde_json::from_str(&list).unwrap();
        for (number, promise) in self.promises.iter().enumerate() {
            let listed = list.iter().find(|row| match promise.way {
                Way::Put => row["file"] == promise.name,
                _ => row["message_id"] == format!("<{}@test>", promise.name),
            });
            match listed {
                Some(row) => {
                    let id = row["id"].as_str().unwrap();
                    // 7: it is not all there.
                    let exported = ask(&["message", "export", id, "--out", "evidence"]);
                    assert!(matches!(exported.code, 0 | 7), "{exported}");
                    promise.is_whole(&home.join("evidence").join(id), row, number < due)?;
                }
                None if number < due => return Err(format!("{} is lost", promise.name)),
                None => {}
            }
        }
        self.fine.borrow_mut().insert(hash.finish());
        Ok(())
    }
}

impl Promise {
    /// Whether all of it is among the evidence; and if it is due, whether it has come as far as it was said.
    fn is_whole(&self, evidence: &Path, row: &Value, due: bool) -> Result<(), String> {
        let holds = |file: &str| fs::read(evidence.join(file)).is_ok_and(|bytes| bytes == self.bytes);
        let filed = row["state"] == "filed";
        let mut wanted = vec![];
        if self.way != Way::Put {
            wanted.push(holds("message.as2"));
        }
        if self.way == Way::Put || filed {
            wanted.push(holds(&format!("files/{}", self.name)));
        }
        if filed {
            let mdn = format!("{}.mdn", row["id"].as_str().unwrap());
            wanted.push(fs::read(evidence.join(mdn)).is_ok_and(|mdn| !mdn.is_empty()));
        }
        if due && self.way == Way::PostedForMdn {
            wanted.push(filed);
        }
        if wanted.contains(&false) {
            return Err(format!("{} is {} and not whole: {wanted:?}", self.name, row["state"]));
        }
        Ok(())
    }
}

#[test]
fn what_is_promised_and_what_is_let_go_outlives_a_power_cut_at_any_moment() {
    if !can_trace() {
        return;
    }
    let record = recorded();
    assert_eq!(record.lost(|_| false), None);

    // Each kind of sync, left out of the same record, has to be missed.
    let data = record.gateway.path("data");
    let is_in = |call: &Call, dir: &str| call.target(0).is_some_and(|path| Path::new(path).parent() == Some(&data.join(dir)));
    type Kind<'a> = (&'a str, &'a dyn Fn(&Call) -> bool);
    let kinds: [Kind<'_>; 5] = [
        ("the journal's log", &|call| call.is_on(data.join(LOG))),
        ("a finished write", &|call| is_in(call, "spool")),
        ("its name in the store", &|call| is_in(call, "store")),
        ("a new directory of the store", &|call| call.is_on(data.join("store"))),
        ("the published tree", &|call| call.is_on(data.join("tree"))),
    ];
    for (what, is_it) in kinds {
        let lost = record.lost(|call| call.is_sync() && is_it(call));
        println!("without the syncs of {what}: {}", lost.as_deref().unwrap_or("nothing is lost"));
        assert!(lost.is_some(), "without the syncs of {what} nothing is lost");
    }
}

/// As strace wrote them, but for what was left out: a write is synced and gets its name while another thread answers.
const SMALL_TRACE: &str = r#"70 openat(AT_FDCWD</d>, "data/spool/a b", O_RDWR|O_CREAT|O_EXCL|O_CLOEXEC, 0600) = 7</d/data/spool/a b>
70 pwrite64(7</d/data/spool/a b>, "UNB\"+\1\0012\\\n", 10, 0) = 10
71 sendto(9<socket:[141668]>, "first, (1", 9, MSG_NOSIGNAL, NULL, 0) = 9
70 fsync(7</d/data/spool/a b> <unfinished ...>
71 sendto(9<socket:[141668]>, "second", 6, MSG_NOSIGNAL, NULL, 0) = 6
70 <... fsync resumed>)               = 0
70 rename("/d/data/spool/a b", "/d/data/store/x") = 0
70 mkdir("/d/data/store", 0700)         = -1 EEXIST (File exists)
70 fsync(8</d/data/store>)              = 0
71 sendto(9<socket:[141668]>, "third", 5, MSG_NOSIGNAL, NULL, 0) = 5
70 unlink("/d/data/store/x")            = 0
71 sendto(9<socket:[141668]>, "fourth", 6, MSG_NOSIGNAL, NULL, 0) = -1 EPIPE (Broken pipe)
70 --- SIGPIPE {si_signo=SIGPIPE, si_code=SI_USER} ---
70 +++ exited with 0 +++
"#;

#[test]
fn a_power_cut_leaves_what_was_synced_and_no_more() {
    let before = tempfile::tempdir().unwrap();
    for dir in ["spool", "store"] {
        fs::create_dir(before.path().join(dir)).unwrap();
    }
    let left_at_answers = |trace: &str| -> Vec<Vec<(PathBuf, Vec<u8>)>> {
        let trace = Trace::read(trace);
        let mut disk = Disk::of(Path::new("/d/data"), before.path());
        let mut left = Vec::new();
        for moment in &trace.moments {
            if let Moment::Begin(call) = *moment
                && trace.calls[call].is_answer()
            {
                left.push(disk.left(None).into_iter().collect());
            }
            disk.follow(&trace, *moment);
        }
        left
    };
    let kept = |bytes: &[u8]| vec![(PathBuf::from("store/x"), bytes.to_vec())];
    assert_eq!(left_at_answers(SMALL_TRACE), [vec![], vec![], kept(b"UNB\"+\x01\x012\\\n"), vec![]]);
    // Without the sync of its bytes there is the name of an empty file, without that of its name nothing.
    let without = |word: &str| -> String { SMALL_TRACE.split_inclusive('\n').filter(|line| !line.contains(word)).collect() };
    assert_eq!(left_at_answers(&without("fsync(7"))[2], kept(b""));
    assert_eq!(left_at_answers(&without("fsync(8"))[2], []);
}
