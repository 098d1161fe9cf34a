//! A disk that runs full under a running gateway (as2.md §8, X15), on a small file system of its own. Where nobody may mount
//! one, the watermark stands in for it, and the output says so.

use std::fs;
use std::process::Stdio;

use tests::packets::{Packets, string};

use super::*;

/// Size of the disk, in MiB.
const DISK: u32 = 48;
/// More checks than a message gets that fails by a fault of its own.
const TRIES: i64 = 23;

/// The data directory of a stage, on a disk that can be filled.
struct Disk {
    stage: Stage,
    /// Mounted; otherwise the watermark plays the full disk.
    mounted: bool,
}

impl Disk {
    /// Moves the data directory of a new stage to a small disk.
    fn new() -> Self {
        let stage = Stage::new(&[]);
        assert_eq!(stage.gate.term(), 0);
        let at = stage.gate.path("small");
        fs::create_dir(&at).unwrap();
        let size = format!("size={DISK}m,mode=0700");
        let made = run(&mut tool(
            "mount",
            &["-t", "tmpfs", "-o", &size, "as2gate-test", at.to_str().unwrap()],
        ));
        let disk = Disk {
            stage,
            mounted: made.code == 0,
        };
        if disk.mounted {
            let (from, to) = (disk.stage.gate.path("data/."), at);
            let _ = run(&mut tool("cp", &["-a", from.to_str().unwrap(), to.to_str().unwrap()])).ok();
        } else {
            aloud(&format!(
                "no disk could be mounted, so the watermark plays a full one: {}",
                made.stderr.trim()
            ));
        }
        disk.configure(false);
        disk.stage.gate.start();
        disk
    }

    fn configure(&self, full: bool) {
        let data = if self.mounted { "\"small\"" } else { "\"data\"" };
        let min_free = if full && !self.mounted { "\"100TiB\"" } else { "\"0\"" };
        self.stage.gate.configure(&[("data_dir", data), ("storage.min_free", min_free)]);
    }

    /// Fills the disk up to so many bytes.
    fn fill(&self, left: u64) {
        if !self.mounted {
            self.configure(true);
            return self.stage.gate.restart();
        }
        let mut filler = fs::File::create(self.filler()).unwrap();
        let piece = vec![b'x'; 4096];
        while filler.write_all(&piece).is_ok() {}
        let len = filler.metadata().unwrap().len();
        filler.set_len(len - left).unwrap();
    }

    fn make_room(&self) {
        if !self.mounted {
            self.configure(false);
            return self.stage.gate.restart();
        }
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.stage.gate.path("small/filler")
    }

    fn data(&self) -> PathBuf {
        self.stage.gate.path(if self.mounted { "small" } else { "data" })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.stage.gate.kill9();
        if self.mounted {
            let at = self.stage.gate.path("small");
            let _ = run(&mut tool("umount", &["-l", at.to_str().unwrap()]));
        }
    }
}

#[test]
fn a_disk_that_ran_full_asks_for_another_try_and_keeps_nothing() {
    let disk = Disk::new();
    let (gate, port) = (&disk.stage.gate, disk.stage.gate.as2_port);
    let small = payload().signed(&disk.stage.partner);
    let large = compressed(&zlib(&Entity::new("application/octet-stream", noise(6 << 20, 3)).bytes(), 0));
    let silent = small
        .message("<silent@test>")
        .without("Disposition-Notification-To")
        .without("Disposition-Notification-Options");
    let later = small
        .message("<later@test>")
        .with("Receipt-Delivery-Option", "http://127.0.0.1:9/mdn");
    let requests = [small.message("<small@test>"), large.message("<large@test>"), silent, later];
    let refused = |request: &Request| {
        let id = request.header("Message-ID").unwrap();
        let answer = request.post(port);
        assert_eq!(answer.status, 503, "{id}: {}", answer.text());
        assert!(
            answer.header("Retry-After").is_some() && answer.disposition().is_empty(),
            "{id}: {}",
            answer.text()
        );
    };
    // Room for a part of the large one, then for nothing at all.
    disk.fill(3 << 20);
    refused(&requests[1]);
    if disk.mounted {
        disk.make_room();
    }
    disk.fill(0);
    requests.iter().for_each(refused);
    // Who starts it on a full disk is told so.
    if disk.mounted {
        gate.kill9();
        let ran = gate.cli(&["serve"]);
        assert!(
            ran.code != 0 && ran.stderr.contains("disk is full") && ran.stderr.contains("hint:"),
            "{ran}"
        );
        disk.make_room();
        gate.start();
        // Nor can a command open the database, where nobody left it open; unless the few pages are found that it takes.
        assert_eq!(gate.term(), 0);
        disk.fill(0);
        let ran = gate.cli(&["station", "list"]);
        assert!(ran.code == 0 || ran.stderr.contains("error: the disk is full"), "{ran}");
        disk.make_room();
        gate.start();
    } else {
        disk.make_room();
    }
    for request in &requests {
        assert_eq!(disk.stage.listed(request.header("Message-ID").unwrap()).len(), 0);
    }
    assert_eq!(tests::files_below(&disk.data().join("spool")), [""; 0], "halves are left");
    for request in &requests {
        let (id, answer) = (request.header("Message-ID").unwrap(), request.post(port));
        assert!((200..300).contains(&answer.status), "{id}: {}", answer.text());
        assert!(
            answer.body.is_empty() || answer.disposition() == PROCESSED,
            "{id}: {}",
            answer.text()
        );
        gate.wait("the message to be filed", |_| {
            let rows = disk.stage.listed(id);
            (rows.len() == 1 && rows[0]["state"] == "filed").then_some(())
        });
    }
}

#[test]
fn what_cannot_be_unpacked_for_want_of_room_is_never_receipted_as_good() {
    let disk = Disk::new();
    if !disk.mounted {
        return aloud("nothing was proven about a disk that runs full after a message was taken");
    }
    let (gate, port) = (&disk.stage.gate, disk.stage.gate.as2_port);
    let url_port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", url_port)).unwrap();
    let url = format!("http://127.0.0.1:{url_port}/mdn");
    let open = ["--require-encrypted", "false", "--require-signed", "false", "--mdn-urls", &url];
    disk.stage.add("LATER", url_port, &open);
    gate.restart();
    let big = |seed| compressed(&zlib(&Entity::new("application/octet-stream", noise(6 << 20, seed)).bytes(), 0));
    let sync = big(1).message("<sync@test>");
    let later = big(2)
        .message("<async@test>")
        .with("AS2-From", "LATER")
        .with("Receipt-Delivery-Option", &url);

    // The body finds room, and the payload in it does not.
    disk.fill(9 << 20);
    let answer = sync.post(port);
    assert!(
        answer.status == 503 && answer.header("Retry-After").is_some(),
        "{}: {}",
        answer.status,
        answer.text()
    );
    let row = disk.stage.listed("<sync@test>").remove(0);
    assert_eq!(row["state"], "received", "{row:#}");
    assert_eq!(disk.stage.inbox(), [""; 0]);
    // With room again the worker ends it, and the sender's next try gets the receipt.
    disk.make_room();
    gate.set_clock(31);
    gate.wait("the message to be filed", |_| {
        (disk.stage.listed("<sync@test>")[0]["state"] == "filed").then_some(())
    });
    assert_eq!(sync.post(port).disposition(), PROCESSED);
    assert_eq!(disk.stage.listed("<sync@test>").len(), 1);

    // One that was promised is never given up for want of room, however long that lasts.
    disk.fill(9 << 20);
    let told = |words: &str| gate.log().matches(words).count();
    let one_more = |words: &str, before: usize| gate.wait("the check to fail", |_| (told(words) > before).then_some(()));
    let (at_once, again) = ("cannot check a received message yet", "a received message cannot be checked yet");
    let before = told(at_once);
    assert_eq!(later.post(port).status, 204);
    one_more(at_once, before);
    for n in 2..=TRIES {
        let before = told(again);
        gate.set_clock(n * 31);
        one_more(again, before);
        let row = disk.stage.listed("<async@test>").remove(0);
        assert_eq!(row["state"], "received", "{row:#}");
    }
    disk.make_room();
    gate.set_clock((TRIES + 1) * 31);
    let mut stream = accepted(&listener);
    let hit = read_request(&mut stream).unwrap();
    stream.write_all(&http(200, &[], "")).unwrap();
    let text = String::from_utf8_lossy(&hit.message.body).into_owned();
    assert!(
        text.contains("Original-Message-ID: <async@test>")
            && text.contains("Disposition: automatic-action/MDN-sent-automatically; processed\r\n"),
        "{text}"
    );
    assert!(hit.message.header("Content-Type").unwrap().starts_with("multipart/signed"));
    assert_eq!(disk.stage.listed("<async@test>")[0]["state"], "filed");
}

#[test]
fn a_disk_that_runs_full_under_an_upload_turns_no_byte_into_a_zero() {
    const BLOCK: usize = 32 << 10;
    let disk = Disk::new();
    if !disk.mounted {
        return aloud("nothing was proven about a disk that runs full under an upload");
    }
    let (gate, user) = (&disk.stage.gate, &disk.stage.user);
    let (dir, bytes) = (format!("AS2/send/{STATION}/{CRAFT}"), noise(5 * BLOCK - 100, 9));
    let mut session = Packets::of(user);
    let path = string(format!("{dir}/cut.edi").as_bytes());
    let create = session.ask(3, &[&path, &0x1a_u32.to_be_bytes(), &0_u32.to_be_bytes()]);
    let handle = string(&create.text());
    let mut write = |n: usize| {
        let (at, data) = ((n * BLOCK) as u64, string(&bytes[n * BLOCK..(n + 1) * BLOCK]));
        session.ask(6, &[&handle, &at.to_be_bytes(), &data]).code().unwrap()
    };
    assert_eq!([write(0), write(1)], [0, 0]);
    // The third does not fit into the memory of a small file any more, nor on the disk.
    disk.fill(0);
    assert_ne!(write(2), 0);
    disk.make_room();
    drop(session);
    let kept = wait_for("what was taken to be kept", || user.size(&dir));
    assert_eq!(kept, 2 * BLOCK as u64);

    let local = gate.file("cut.edi", &bytes);
    user.ok(&[&format!("reput {} {dir}/cut.edi", local.display())]);
    // Nobody listens there, and what is sent stays in view until its message is final.
    gate.reaches("out", "cut.edi", "retrying");
    assert!(user.get(&format!("{dir}/cut.edi")) == bytes, "what is sent is what was uploaded");
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let stage = Stage::new(&[]);
    assert_eq!(stage.gate.term(), 0);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = stage.gate.command(&["serve"]);
    let mut server = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(full).spawn().unwrap();
    wait_for("the door", || std::net::TcpStream::connect(("127.0.0.1", stage.gate.as2_port)).ok());
    for n in 0..30 {
        let stranger = payload()
            .signed(&stage.stranger)
            .message(&format!("<{n}@test>"))
            .with("AS2-From", "NOBODY");
        let told = stranger.post(stage.gate.as2_port);
        assert!(told.disposition().ends_with("unknown-trading-relationship"), "{n}: {}", told.text());
    }
    let local = stage.gate.file("a.edi", &order(1));
    for n in 0..8 {
        stage.user.put(&local, &format!("AS2/send/{STATION}/{CRAFT}/{n}.edi"));
    }
    assert!(server.try_wait().unwrap().is_none(), "it still runs");
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(stage.gate.messages("out").len(), 8);
}
