//! One of the two servers, asked request by request, and what it answers in comparable form.

use std::collections::HashMap;
use std::io::{BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use tests::packets::{packet, string};
use tests::process::tool;

use super::requests::{Field, Step};

/// The id of the request behind each: where its answer comes, the one before has been answered, or never will be.
const SENTINEL: u32 = 0xffff_fff0;
/// Seconds by which times may differ that nobody set.
const CLOCK: u32 = 60;
/// Names of a directory, at most, so that a server that never ends its listing fails the test.
const MAX_PAGES: usize = 100;

/// What a file is said to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    pub(super) mode: Option<u32>,
    pub(super) modified: Option<u32>,
}

impl Attributes {
    fn read(body: &mut &[u8]) -> Self {
        let flags = number(body);
        let mut attributes = Attributes::default();
        if flags & 1 != 0 {
            attributes.size = Some(u64::from(number(body)) << 32 | u64::from(number(body)));
        }
        if flags & 2 != 0 {
            // Owner and group: ours names none.
            let _ = (number(body), number(body));
        }
        if flags & 4 != 0 {
            attributes.mode = Some(number(body));
        }
        if flags & 8 != 0 {
            let _ = number(body);
            attributes.modified = Some(number(body));
        }
        attributes
    }

    fn is_like(&self, other: &Self) -> bool {
        let is_file = self.mode.is_some_and(|mode| mode & 0o170_000 == 0o100_000);
        let times = match (self.modified, other.modified) {
            (Some(a), Some(b)) => a.abs_diff(b) <= CLOCK,
            (a, b) => a == b,
        };
        self.mode == other.mode && times && (!is_file || self.size == other.size)
    }
}

/// An answer, without what is any server's own choice: the bytes of a handle, texts, long names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Nothing,
    Status(u32),
    Handle,
    Data(Vec<u8>),
    /// With the directory replaced by `~~`.
    Path(String),
    /// A whole listing, sorted, and the status that ended it.
    Names(Vec<(String, Attributes)>, u32),
    Attributes(Attributes),
    Extended(usize),
}

impl Seen {
    pub(super) fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Seen::Attributes(a), Seen::Attributes(b)) => a.is_like(b),
            (Seen::Names(a, s), Seen::Names(b, t)) => {
                s == t && a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0 == b.0 && a.1.is_like(&b.1))
            }
            _ => self == other,
        }
    }
}

pub(super) struct Server {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    dir: PathBuf,
    next: u32,
    /// The handles by the number of the request that got them.
    handles: HashMap<usize, Vec<u8>>,
    asked: usize,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn number(body: &mut &[u8]) -> u32 {
    let (head, rest) = body.split_first_chunk::<4>().expect("a number");
    *body = rest;
    u32::from_be_bytes(*head)
}

fn text<'a>(body: &mut &'a [u8]) -> &'a [u8] {
    let length = number(body) as usize;
    let (head, rest) = body.split_at(length);
    *body = rest;
    head
}

impl Server {
    pub(super) fn start(program: &Path, dir: &Path) -> Self {
        let mut child = tool(program.to_str().unwrap(), &[])
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut server = Server {
            child,
            stdin,
            stdout,
            dir: dir.to_owned(),
            next: 0,
            handles: HashMap::new(),
            asked: 0,
        };
        server.stdin.write_all(&packet(1, 3, &[])).unwrap();
        assert_eq!(server.packet()[0], 2, "VERSION");
        server
    }

    fn packet(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.stdout.read_exact(&mut length).expect("an answer");
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        self.stdout.read_exact(&mut body).unwrap();
        body
    }

    /// Runs a request; a READDIR is repeated to the end of the listing.
    pub(super) fn ask(&mut self, step: &Step) -> Seen {
        let number = self.asked;
        self.asked += 1;
        let mut all = Vec::new();
        for _ in 0..MAX_PAGES {
            match self.once(step, number) {
                Seen::Names(mut page, _) if step.kind == 12 => all.append(&mut page),
                Seen::Status(code) if step.kind == 12 && (code == 1 || !all.is_empty()) => {
                    // The directory itself and the one above: ours leaves them out.
                    all.retain(|(name, _)| name != "." && name != "..");
                    all.sort_by(|a, b| a.0.cmp(&b.0));
                    return Seen::Names(all, code);
                }
                other => return other,
            }
        }
        panic!("a listing without an end");
    }

    fn once(&mut self, step: &Step, number: usize) -> Seen {
        self.next += 1;
        let id = self.next;
        let place = self.dir.to_str().unwrap().to_owned();
        let fields: Vec<Vec<u8>> = step.fields.iter().map(|field| self.field(field, &place)).collect();
        let fields: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
        self.stdin.write_all(&packet(step.kind, id, &fields)).unwrap();
        self.stdin.write_all(&packet(16, SENTINEL, &[&string(b".")])).unwrap();
        let (mut seen, mut is_last) = (None, false);
        // What takes long may be answered behind the sentinel, but is answered for certain.
        while !is_last || (seen.is_none() && step.may_be_late()) {
            let answer = self.packet();
            let (kind, mut body) = (answer[0], &answer[1..]);
            match super::server::number(&mut body) {
                SENTINEL => is_last = true,
                found => {
                    assert!(found == id && seen.is_none(), "an answer to nothing: {found}");
                    seen = Some(self.read(step, number, kind, body));
                }
            }
        }
        seen.unwrap_or(Seen::Nothing)
    }

    fn field(&self, field: &Field, place: &str) -> Vec<u8> {
        match field {
            Field::Raw(bytes) => bytes.clone(),
            Field::Path(path) => string(&path.replace("~~", place)),
            Field::Handle(of) => string(self.handles.get(of).map_or(b"none".as_slice(), Vec::as_slice)),
        }
    }

    fn read(&mut self, step: &Step, number: usize, kind: u8, mut body: &[u8]) -> Seen {
        match kind {
            101 => Seen::Status(super::server::number(&mut body)),
            102 => {
                self.handles.insert(number, text(&mut body).to_vec());
                Seen::Handle
            }
            103 => Seen::Data(text(&mut body).to_vec()),
            104 if step.kind != 12 => {
                assert_eq!(super::server::number(&mut body), 1);
                let path = String::from_utf8_lossy(text(&mut body)).into_owned();
                Seen::Path(path.replace(self.dir.to_str().unwrap(), "~~"))
            }
            104 => {
                let count = super::server::number(&mut body);
                let names = (0..count).map(|_| {
                    let name = String::from_utf8_lossy(text(&mut body)).into_owned();
                    let _ = text(&mut body);
                    (name, Attributes::read(&mut body))
                });
                Seen::Names(names.collect(), 0)
            }
            105 => Seen::Attributes(Attributes::read(&mut body)),
            201 => Seen::Extended(body.len()),
            other => panic!("an answer of type {other}"),
        }
    }
}
