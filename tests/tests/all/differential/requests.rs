//! The requests: generated from a seed, every kind of OPEN, or recorded from a client.

use std::collections::HashMap;
use std::fmt;

use tests::Random;
use tests::packets::string;

/// A part of a request behind its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Raw(Vec<u8>),
    /// A string, in which `~~` is the server's directory.
    Path(Text),
    /// The handle that the request of this number got.
    Handle(usize),
}

/// Bytes of a path.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Text(pub(super) Vec<u8>);

impl Text {
    pub(super) fn replace(&self, from: &str, to: &str) -> Vec<u8> {
        let (mut rest, mut all) = (self.0.as_slice(), Vec::new());
        while let Some(first) = rest.first() {
            match rest.strip_prefix(from.as_bytes()) {
                Some(behind) => {
                    all.extend(to.as_bytes());
                    rest = behind;
                }
                None => {
                    all.push(*first);
                    rest = &rest[1..];
                }
            }
        }
        all
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) kind: u8,
    pub(super) fields: Vec<Field>,
}

pub(super) const OPEN: u8 = 3;
pub(super) const CLOSE: u8 = 4;
pub(super) const READ: u8 = 5;
pub(super) const WRITE: u8 = 6;
pub(super) const FSTAT: u8 = 8;
pub(super) const SETSTAT: u8 = 9;
pub(super) const FSETSTAT: u8 = 10;
pub(super) const RENAME: u8 = 18;
pub(super) const EXTENDED: u8 = 200;

const NAMES: [(u8, &str); 19] = [
    (3, "OPEN"),
    (4, "CLOSE"),
    (5, "READ"),
    (6, "WRITE"),
    (7, "LSTAT"),
    (8, "FSTAT"),
    (9, "SETSTAT"),
    (10, "FSETSTAT"),
    (11, "OPENDIR"),
    (12, "READDIR"),
    (13, "REMOVE"),
    (14, "MKDIR"),
    (15, "RMDIR"),
    (16, "REALPATH"),
    (17, "STAT"),
    (18, "RENAME"),
    (19, "READLINK"),
    (20, "SYMLINK"),
    (200, "EXTENDED"),
];

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES
            .iter()
            .find(|(kind, _)| *kind == self.kind)
            .map_or("unknown", |(_, name)| name);
        write!(f, "{name}")?;
        for field in &self.fields {
            match field {
                Field::Raw(bytes) if bytes.len() > 60 => write!(f, " ({} bytes)", bytes.len())?,
                Field::Raw(bytes) => write!(f, " {}", bytes.escape_ascii())?,
                Field::Path(path) => write!(f, " {path:?}")?,
                Field::Handle(of) => write!(f, " handle of request {of}")?,
            }
        }
        Ok(())
    }
}

impl Step {
    fn new(kind: u8, fields: &[Field]) -> Self {
        Step {
            kind,
            fields: fields.to_vec(),
        }
    }

    /// OPEN, CLOSE and `fsync@openssh.com` run beside the requests behind them.
    pub(super) fn may_be_late(&self) -> bool {
        matches!(self.kind, OPEN | CLOSE) || (self.kind == EXTENDED && self.extension() == b"fsync@openssh.com")
    }

    /// The name of an extended request.
    pub(super) fn extension(&self) -> &[u8] {
        match self.fields.first() {
            Some(Field::Raw(name)) if self.kind == EXTENDED => &name[4..],
            _ => b"",
        }
    }

    /// The flags of an OPEN.
    pub(super) fn flags(&self) -> u32 {
        match self.fields.get(1) {
            Some(Field::Raw(bytes)) if self.kind == OPEN => u32::from_be_bytes(bytes[..4].try_into().unwrap()),
            _ => 0,
        }
    }

    /// Attributes without any.
    pub(super) fn sets_nothing(&self) -> bool {
        self.fields.last() == Some(&Field::Raw(vec![0; 4]))
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &[u8]> {
        self.fields.iter().filter_map(|field| match field {
            Field::Path(path) => Some(path.0.as_slice()),
            _ => None,
        })
    }
}

fn path(text: &str) -> Field {
    Field::Path(Text(text.as_bytes().to_vec()))
}

fn raw(bytes: &[u8]) -> Field {
    Field::Raw(bytes.to_vec())
}

fn name(text: &str) -> Field {
    Field::Raw(string(text.as_bytes()))
}

fn at(offset: u64) -> Field {
    raw(&offset.to_be_bytes())
}

fn open(file: &str, flags: u32, attributes: &[u8]) -> Step {
    Step::new(OPEN, &[path(file), raw(&flags.to_be_bytes()), raw(attributes)])
}

/// Every combination of flags on a file, an empty one, a new one, a directory, and below what is not there; then the handle
/// in both directions and what is left.
pub(super) fn each_open() -> Vec<(String, Vec<Step>)> {
    let mut all = Vec::new();
    for flags in 0..64u32 {
        for file in ["a", "b", "new", "dir", "missing/x", "a/x", "link", "dead"] {
            let (write, read) = (raw(&string(b"12345")), raw(&20u32.to_be_bytes()));
            let steps = vec![
                open(file, flags, &[0; 4]),
                Step::new(WRITE, &[Field::Handle(0), at(3), write.clone()]),
                Step::new(READ, &[Field::Handle(0), at(0), read]),
                Step::new(WRITE, &[Field::Handle(0), at(10_005), write]),
                Step::new(8, &[Field::Handle(0)]),
                Step::new(CLOSE, &[Field::Handle(0)]),
                Step::new(17, &[path(file)]),
                Step::new(CLOSE, &[Field::Handle(0)]),
            ];
            all.push((format!("{file} opened with {flags:06b}"), steps));
        }
    }
    all
}

const FILES: [&str; 14] = [
    "a",
    "b",
    "dir/c",
    "new",
    "dir/new",
    "./a",
    "dir//c",
    "dir/../a",
    "~~/a",
    "~~/dir/new",
    "missing/x",
    "a/x",
    "link",
    "dead",
];
const DIRS: [&str; 8] = ["dir", "dir/sub", "dir/", ".", "~~/dir", "made", "dir/made", "missing/made"];
const ODD: [&str; 16] = [
    "",
    ".",
    "/",
    "//",
    "/..",
    "a/b/../..",
    "dir/.",
    "dir/",
    "missing",
    "missing/x",
    "link",
    "dir/../dir/./c",
    "~~//dir/sub/..",
    "../one/../two",
    "./././",
    "a/",
];

/// Attributes that set some of size, permissions and times; never an owner, which ours has not.
fn attributes(random: &mut Random) -> Vec<u8> {
    let flags = random.below(8);
    let mut bytes = u32::to_be_bytes([0, 1, 4, 8, 5, 9, 12, 0][usize::try_from(flags).unwrap()]).to_vec();
    if bytes[3] & 1 != 0 {
        bytes.extend((random.below(20_000)).to_be_bytes());
    }
    if bytes[3] & 4 != 0 {
        bytes.extend(u32::to_be_bytes(
            [0o600, 0o640, 0o644, 0o755][usize::try_from(random.below(4)).unwrap()],
        ));
    }
    if bytes[3] & 8 != 0 {
        let time = u32::try_from(1_000_000_000 + random.below(500_000_000)).unwrap().to_be_bytes();
        bytes.extend([time, time].concat());
    }
    bytes
}

fn pick<T: Copy>(random: &mut Random, list: &[T]) -> T {
    list[usize::try_from(random.below(list.len() as u64)).unwrap()]
}

/// An OPEN as clients send it, mostly: the others are in [`each_open`]. What is appended to is nobody else's: where two write
/// to one file, the end is where each of them left it for ours, since an upload is its handle's.
fn some_open(random: &mut Random, file: &str, number: usize, is_first: bool) -> Step {
    const FLAGS: [u32; 10] = [0x01, 0x1a, 0x02, 0x0a, 0x0e, 0x06, 0x03, 0x1b, 0x2a, 0x0b];
    let (flags, set) = (pick(random, &FLAGS), attributes(random));
    // A size in an OPEN is a promise for ours (WinSCP), and nothing for OpenSSH.
    let set = if set[3] & 1 == 0 { &set[..] } else { &[0; 4] };
    match flags & 0x04 {
        0 => open(file, flags, set),
        _ if is_first => open("log", flags, set),
        _ => open(&format!("log{number}"), flags, set),
    }
}

/// Some requests in a row; the handles in them are of files and directories opened before, closed ones and none.
pub(super) fn sequence(random: &mut Random, length: usize) -> Vec<Step> {
    let (mut steps, mut files, mut dirs) = (Vec::new(), vec![9_999], vec![9_999]);
    let (mut last, mut has_log) = ("a", false);
    while steps.len() < length {
        let file = if random.below(3) == 0 { last } else { pick(random, &FILES) };
        let dir = pick(random, &DIRS);
        let handle = Field::Handle(if random.below(8) == 0 {
            pick(random, &dirs)
        } else {
            *files.last().unwrap()
        });
        let listed = Field::Handle(if random.below(8) == 0 {
            pick(random, &files)
        } else {
            *dirs.last().unwrap()
        });
        let offset = pick(random, &[0, 0, 1, 5, 299, 300, 4_095, 9_999, 10_000, 32_768, 70_001]);
        let number = steps.len();
        steps.push(match random.below(24) {
            0..=3 => {
                last = file;
                files.push(number);
                let step = some_open(random, file, number, !has_log);
                has_log |= step.paths().any(|path| path == b"log");
                step
            }
            4..=7 => {
                let text = tests::noise(usize::try_from(pick(random, &[0u64, 1, 7, 300, 5_000])).unwrap(), random.next());
                Step::new(WRITE, &[handle, at(offset), raw(&string(&text))])
            }
            8..=9 => Step::new(
                READ,
                &[
                    handle,
                    at(offset),
                    raw(&pick(random, &[0u32, 1, 300, 32_768, 300_000]).to_be_bytes()),
                ],
            ),
            10 => Step::new(8, &[handle]),
            11 => Step::new(FSETSTAT, &[handle, raw(&attributes(random))]),
            12..=13 => Step::new(CLOSE, &[handle]),
            14 => Step::new(pick(random, &[7, 17]), &[path(pick(random, &[file, dir]))]),
            15 => Step::new(9, &[path(file), raw(&attributes(random))]),
            16 => {
                dirs.push(number);
                Step::new(11, &[path(pick(random, &[dir, file]))])
            }
            17 => Step::new(12, &[listed]),
            18 => Step::new(13, &[path(pick(random, &[file, dir]))]),
            19 if random.below(2) == 0 => Step::new(
                15,
                &[path(pick(random, &["dir/sub", "made", "dir/made", "dir", "a", "missing/made"]))],
            ),
            19 => {
                let set = attributes(random);
                Step::new(14, &[path(dir), raw(if set[3] & 1 == 0 { &set } else { &[0; 4] })])
            }
            20 => Step::new(16, &[path(pick(random, &ODD))]),
            21 => {
                let files = [pick(random, &FILES), pick(random, &FILES)];
                let [from, to] = files.map(|file| pick(random, &[file, "made", "dir/sub"]));
                // A link that leads nowhere could be anything from then on.
                let from = if from == "dead" { "a" } else { from };
                match random.below(2) {
                    0 => Step::new(18, &[path(from), path(to)]),
                    _ => Step::new(EXTENDED, &[name("posix-rename@openssh.com"), path(from), path(to)]),
                }
            }
            22 => match random.below(3) {
                0 => Step::new(19, &[path(pick(random, &["link", "dead", "a", "dir", "missing"]))]),
                1 => Step::new(
                    20,
                    &[
                        path(pick(random, &["a", "nowhere"])),
                        path(pick(random, &["new-link", "a", "missing/x"])),
                    ],
                ),
                _ => Step::new(
                    EXTENDED,
                    &[
                        name("hardlink@openssh.com"),
                        path(file),
                        path(pick(random, &["hard", "a", "missing/x"])),
                    ],
                ),
            },
            _ => match random.below(6) {
                0 => Step::new(EXTENDED, &[name("fsync@openssh.com"), handle]),
                1 => Step::new(EXTENDED, &[name("statvfs@openssh.com"), path(".")]),
                2 => Step::new(EXTENDED, &[name("fstatvfs@openssh.com"), handle]),
                3 => Step::new(EXTENDED, &[name("limits@openssh.com")]),
                4 => Step::new(EXTENDED, &[name("expand-path@openssh.com"), path(pick(random, &ODD))]),
                _ => Step::new(EXTENDED, &[name("nonsense@example.com"), path("a")]),
            },
        });
    }
    steps
}

/// Where a handle stands among the fields of a request, if there is one: behind the name of an extended one.
fn handle_of(kind: u8, body: &[u8]) -> Option<usize> {
    match kind {
        CLOSE | READ | WRITE | 8 | FSETSTAT | 12 => Some(0),
        EXTENDED => {
            let length = u32::from_be_bytes(body[..4].try_into().unwrap()) as usize;
            let name = &body[4..4 + length];
            [&b"fsync@openssh.com"[..], b"fstatvfs@openssh.com"]
                .contains(&name)
                .then_some(4 + length)
        }
        _ => None,
    }
}

fn frames(mut bytes: &[u8]) -> Vec<(u8, u32, &[u8])> {
    let mut all = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let Some((frame, behind)) = rest.split_at_checked(u32::from_be_bytes(*length) as usize) else {
            break;
        };
        all.push((frame[0], u32::from_be_bytes(frame[1..5].try_into().unwrap()), &frame[5..]));
        bytes = behind;
    }
    all
}

/// What a client asked, with its handles by the requests that got them, and its directory as `~~`.
pub(super) fn recorded(asked: &[u8], answered: &[u8], dir: &str) -> Vec<Step> {
    let handles: HashMap<u32, &[u8]> = frames(answered)
        .into_iter()
        .filter(|(kind, ..)| *kind == 102)
        .map(|(_, id, body)| (id, &body[4..]))
        .collect();
    let (mut steps, mut known): (Vec<Step>, HashMap<&[u8], usize>) = (Vec::new(), HashMap::new());
    for (kind, id, body) in frames(asked).into_iter().filter(|(kind, ..)| *kind != 1) {
        let number = steps.len();
        let mut fields = Vec::new();
        match handle_of(kind, body) {
            Some(place) => {
                let length = u32::from_be_bytes(body[place..place + 4].try_into().unwrap()) as usize;
                let (handle, rest) = body[place + 4..].split_at(length);
                if place > 0 {
                    fields.push(raw(&body[..place]));
                }
                fields.push(Field::Handle(known.get(handle).copied().unwrap_or(9_999)));
                fields.push(raw(rest));
            }
            None => strings(kind, body, dir, &mut fields),
        }
        if let Some(handle) = handles.get(&id).filter(|_| kind == OPEN || kind == 11) {
            known.insert(handle, number);
        }
        // A listing is asked for to its end at once.
        if kind != 12 || steps.last().is_none_or(|step| step.kind != 12) {
            steps.push(Step { kind, fields });
        }
    }
    steps
}

/// The paths of a request, and what is behind them.
fn strings(kind: u8, mut body: &[u8], dir: &str, fields: &mut Vec<Field>) {
    let paths = match kind {
        RENAME | 20 => 2,
        EXTENDED => 3,
        _ => 1,
    };
    for n in 0..paths {
        let Some((length, rest)) = body.split_first_chunk::<4>() else {
            break;
        };
        let Some((text, rest)) = rest.split_at_checked(u32::from_be_bytes(*length) as usize) else {
            break;
        };
        fields.push(if kind == EXTENDED && n == 0 {
            raw(&string(text))
        } else {
            Field::Path(Text(Text(text.to_vec()).replace(dir, "~~")))
        });
        body = rest;
    }
    fields.push(raw(body));
}
