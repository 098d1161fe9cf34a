//! A whole SFTP channel: the bytes of a client through the packet decoder, the engine and its answers, over a tree in memory.
//!
//! The input begins with one byte, the length of the pieces in which the rest arrives. Handles are random, so the input names
//! them by number: a handle of seven zeros and `n` stands for the n-th that was given. Every answer must be a whole packet,
//! every upload must end exactly once.
#![no_main]
#![allow(dead_code, reason = "the files are included as they are")]

#[path = "../../src/answers.rs"]
mod answers;
#[path = "../../src/attrs.rs"]
mod attrs;
#[path = "../../src/budget.rs"]
mod budget;
#[path = "../../src/engine.rs"]
mod engine;
#[path = "../../src/facts.rs"]
mod facts;
#[path = "../../src/lock.rs"]
mod lock;
#[path = "../../src/longname.rs"]
mod longname;
#[path = "../../src/packet.rs"]
mod packet;
#[path = "../../src/path.rs"]
mod path;
#[path = "../../src/reply.rs"]
mod reply;
#[path = "../../src/tree.rs"]
mod tree;
#[path = "../../src/writing.rs"]
mod writing;

use answers::Outbox;
use budget::{Budget, Pool};
use bytes::Bytes;
use engine::{Aside, Expected, Engine, Shared, Work};
use facts::UploadFacts;
use libfuzzer_sys::fuzz_target;
use path::VPath;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use tokio::runtime::Runtime;
use tree::{CloseSign, Download, Entry, Fault, Kind, Listing, OpenHow, SetStat, Space, Stat, Tree, Upload, Wait};

pub use engine::{MAX_ASIDE, MAX_CLOSED_NAMES, MAX_HANDLES};
pub use packet::{MAX_DATA, MAX_PACKET};

/// Most bytes of one file of the tree.
const MAX_FILE: u64 = 64 << 10;
/// Longest packet type of the answers, and where handles are told.
const HANDLE: u8 = 102;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime"));

fuzz_target!(|data: &[u8]| {
    let Some((&settings, mut stream)) = data.split_first() else {
        return;
    };
    let tree = Arc::new(Memory::default());
    let shared = Arc::new(Shared::default());
    let (mut client, outbox) = (Client::default(), Outbox::new(Budget::new(Pool::new(1 << 30))));
    let mut engine = Engine::new(Arc::clone(&tree) as Arc<dyn Tree>, "SSH-2.0-fuzz".to_owned(), Arc::clone(&shared));
    while let Some(frame) = cut(&mut stream) {
        for piece in client.with_handles(frame).chunks(usize::from(settings) + 1) {
            engine.push(Bytes::copy_from_slice(piece));
            let (result, held) = (engine.run(&outbox, &AtOnce(&outbox), Wait::Long), engine.cost());
            assert!(held <= data.len() * (packet::PIECE_COST + 1), "the engine holds more than came in");
            client.read(&outbox);
            if result.is_err() {
                stream = &[];
                break;
            }
        }
    }
    engine.ended_by_client();
    drop(engine);
    assert_eq!(shared.uploads.load(Ordering::SeqCst), 0, "an upload is still counted");
    assert_eq!(
        tree.begun.load(Ordering::SeqCst),
        tree.ended.load(Ordering::SeqCst),
        "an upload without an end, or with two"
    );
});

/// What goes on aside, without a thread of its own.
struct AtOnce<'a>(&'a Outbox);

impl Aside for AtOnce<'_> {
    fn run(&self, work: Work) {
        self.0.ready(work(), 1).expect("a client that reads");
    }

    fn expect(&self) -> Expected {
        unreachable!("the uploads of this tree close at once")
    }

    fn pause(&self, _length: Duration) -> Arc<AtomicBool> {
        unreachable!("nothing limits this tree's bandwidth")
    }
}

/// The next packet by its length field, or all the rest where that does not fit.
fn cut<'a>(stream: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = stream
        .first_chunk::<4>()
        .map_or(usize::MAX, |head| u32::from_be_bytes(*head) as usize);
    let (frame, rest) = stream.split_at(length.saturating_add(4).min(stream.len()));
    *stream = rest;
    (!frame.is_empty()).then_some(frame)
}

/// The other end of the channel.
#[derive(Default)]
struct Client {
    handles: Vec<[u8; 8]>,
    answers: Vec<u8>,
}

impl Client {
    /// The packet with its handle by number, behind length, type and id, replaced by the real one.
    fn with_handles(&self, frame: &[u8]) -> Vec<u8> {
        let mut frame = frame.to_vec();
        if let Some([0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, number]) = frame.get(9..21)
            && let Some(handle) = self.handles.get(usize::from(*number))
        {
            frame[13..21].copy_from_slice(handle);
        }
        frame
    }

    /// Takes all answers that wait; they must be whole packets.
    fn read(&mut self, outbox: &Outbox) {
        while !outbox.is_idle() {
            let batch = RUNTIME.block_on(outbox.next()).expect("answers");
            batch.bytes.iter().for_each(|bytes| self.answers.extend_from_slice(bytes));
            outbox.sent();
        }
        let mut rest = self.answers.as_slice();
        while let Some((head, body)) = rest.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*head) as usize;
            assert!((5..=MAX_PACKET).contains(&length), "an answer of {length} bytes");
            let (packet, next) = body.split_at_checked(length).expect("a whole answer");
            if let [HANDLE, _, _, _, _, 0, 0, 0, 8, handle @ ..] = packet {
                self.handles.push(handle.try_into().expect("a handle of 8 bytes"));
            }
            rest = next;
        }
        assert!(rest.is_empty(), "an answer is cut");
        self.answers.clear();
    }
}

/// Files by their path; every directory exists.
#[derive(Default)]
struct Memory {
    files: Arc<Mutex<BTreeMap<VPath, Vec<u8>>>>,
    begun: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

fn stat(file: Option<&Vec<u8>>) -> Stat {
    Stat {
        kind: if file.is_some() { Kind::File } else { Kind::Dir },
        size: file.map_or(0, |bytes| bytes.len() as u64),
        mtime: 1_795_478_400,
        mode: 0o644,
    }
}

fn read_at(bytes: &[u8], offset: u64, buf: &mut [u8]) -> usize {
    let from = usize::try_from(offset).map_or(bytes.len(), |offset| offset.min(bytes.len()));
    let n = buf.len().min(bytes.len() - from);
    buf[..n].copy_from_slice(&bytes[from..from + n]);
    n
}

impl Tree for Memory {
    fn home(&self) -> VPath {
        VPath::absolute("/home").expect("a path")
    }

    fn stat(&self, path: &VPath, _follow: bool) -> Result<Stat, Fault> {
        Ok(stat(self.files.lock().expect("files").get(path)))
    }

    fn list(&self, path: &VPath) -> Result<Box<dyn Listing>, Fault> {
        let files = self.files.lock().expect("files");
        let inside = files.iter().filter(|(name, _)| name.parent().as_ref() == Some(path));
        let entries = inside.map(|(name, bytes)| Entry {
            name: name.name().unwrap_or_default().to_owned(),
            stat: stat(Some(bytes)),
        });
        Ok(Box::new(Names(entries.collect())))
    }

    fn open_read(&self, path: &VPath) -> Result<Box<dyn Download>, Fault> {
        let files = self.files.lock().expect("files");
        Ok(Box::new(Reading(files.get(path).cloned().ok_or_else(Fault::no_such_file)?)))
    }

    fn open_write(&self, path: &VPath, how: &OpenHow) -> Result<Box<dyn Upload>, Fault> {
        let old = self.files.lock().expect("files").get(path).cloned();
        if how.exclusive && old.is_some() {
            return Err(Fault::Failure("exists".to_owned()));
        }
        self.begun.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Writing {
            path: path.clone(),
            bytes: if how.truncate { Vec::new() } else { old.unwrap_or_default() },
            files: Arc::clone(&self.files),
            ended: Arc::clone(&self.ended),
        }))
    }

    fn remove(&self, path: &VPath) -> Result<(), Fault> {
        self.files
            .lock()
            .expect("files")
            .remove(path)
            .map(drop)
            .ok_or_else(Fault::no_such_file)
    }

    fn rename(&self, from: &VPath, to: &VPath, replace: bool) -> Result<(), Fault> {
        let mut files = self.files.lock().expect("files");
        if !replace && files.contains_key(to) {
            return Err(Fault::Failure("exists".to_owned()));
        }
        let bytes = files.remove(from).ok_or_else(Fault::no_such_file)?;
        files.insert(to.clone(), bytes);
        Ok(())
    }

    fn set_stat(&self, _path: &VPath, set: &SetStat) -> Result<(), Fault> {
        if set.size.is_some() { Err(Fault::unsupported()) } else { Ok(()) }
    }

    fn space(&self) -> Option<Space> {
        Some(Space {
            total: u64::MAX,
            free: u64::MAX - 1,
        })
    }

    fn after_close(&self, path: &VPath, _sign: CloseSign) {
        assert!(
            !path.components().is_empty() || self.begun.load(Ordering::SeqCst) > 0,
            "a sign of no upload"
        );
    }
}

struct Names(Vec<Entry>);

impl Listing for Names {
    fn next(&mut self, max: usize) -> Result<Vec<Entry>, Fault> {
        Ok(self.0.drain(..max.min(self.0.len())).collect())
    }
}

struct Reading(Vec<u8>);

impl Download for Reading {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Fault> {
        Ok(read_at(&self.0, offset, buf))
    }

    fn stat(&self) -> Result<Stat, Fault> {
        Ok(stat(Some(&self.0)))
    }
}

struct Writing {
    path: VPath,
    bytes: Vec<u8>,
    files: Arc<Mutex<BTreeMap<VPath, Vec<u8>>>>,
    ended: Arc<AtomicUsize>,
}

impl Upload for Writing {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Fault> {
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= MAX_FILE);
        let Some(end) = end else {
            return Err(Fault::Failure("the disk is full".to_owned()));
        };
        let (from, end) = (offset as usize, end as usize);
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[from..end].copy_from_slice(data);
        Ok(())
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<usize, Fault> {
        Ok(read_at(&self.bytes, offset, buf))
    }

    fn stat(&self) -> Result<Stat, Fault> {
        Ok(stat(Some(&self.bytes)))
    }

    fn set_stat(&mut self, set: &SetStat) -> Result<(), Fault> {
        match set.size {
            Some(size) if size > MAX_FILE => Err(Fault::Failure("the disk is full".to_owned())),
            Some(size) => {
                self.bytes.resize(size as usize, 0);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn sync(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    fn close(self: Box<Self>, facts: &UploadFacts) -> Result<(), Fault> {
        assert_eq!(facts.failed, 0, "a good end after a failure");
        assert_eq!(facts.size, self.bytes.len() as u64, "the size is reported wrong");
        self.ended.fetch_add(1, Ordering::SeqCst);
        self.files.lock().expect("files").insert(self.path, self.bytes);
        Ok(())
    }

    fn abandon(self: Box<Self>, _facts: &UploadFacts) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }
}
