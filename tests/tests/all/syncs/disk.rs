//! A directory as a disk keeps it: what was written, and what of that a power cut would leave.
//!
//! As hard as POSIX allows. Bytes stay if their file was synced after they were written, a name if its directory was, and
//! `syncfs` counts for all. A removed name is gone at once.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use super::trace::{Call, Moment, Trace};

/// Calls that go by names.
const NAMING: &[&str] = &[
    "open",
    "openat",
    "mkdir",
    "mkdirat",
    "unlink",
    "unlinkat",
    "rmdir",
    "link",
    "linkat",
    "rename",
    "renameat",
    "renameat2",
];
/// Calls that would write in ways that are not followed here.
const STRANGE: &[&str] = &["fallocate", "copy_file_range", "sendfile", "splice"];

#[derive(Clone, PartialEq)]
enum Body {
    File(Vec<u8>),
    /// Names, and which node they lead to.
    Dir(BTreeMap<String, usize>),
}

struct Node {
    now: Body,
    kept: Body,
    /// When that which is kept was caught by a sync.
    caught: usize,
}

/// What a call took hold of when it began.
enum Held {
    /// The file that it writes to.
    File(usize),
    /// What it syncs, as it was at this time.
    Caught(usize, Vec<(usize, Body)>),
}

/// What would be there after a power cut, by path below the root.
pub(super) type Left = BTreeMap<PathBuf, Vec<u8>>;

pub(super) struct Disk {
    root: PathBuf,
    nodes: Vec<Node>,
    held: HashMap<usize, Held>,
    /// Where the next write to a descriptor goes.
    positions: HashMap<u64, u64>,
    time: usize,
}

impl Disk {
    /// All of what is in `copy`, kept; the calls name it `root`.
    pub(super) fn of(root: &Path, copy: &Path) -> Self {
        let mut disk = Disk {
            root: root.to_owned(),
            nodes: Vec::new(),
            held: HashMap::new(),
            positions: HashMap::new(),
            time: 0,
        };
        disk.load(copy);
        disk
    }

    fn load(&mut self, path: &Path) -> usize {
        if !path.is_dir() {
            return self.node(Body::File(fs::read(path).unwrap()));
        }
        // The root is the first of all.
        let node = self.node(Body::Dir(BTreeMap::new()));
        let names = tests::names_in(path).into_iter();
        let body = Body::Dir(names.map(|name| (name.clone(), self.load(&path.join(name)))).collect());
        self.nodes[node].now = body.clone();
        self.nodes[node].kept = body;
        node
    }

    fn node(&mut self, body: Body) -> usize {
        self.nodes.push(Node {
            now: body.clone(),
            kept: body,
            caught: 0,
        });
        self.nodes.len() - 1
    }

    /// What a moment changes.
    pub(super) fn follow(&mut self, trace: &Trace, moment: Moment) {
        self.time += 1;
        match moment {
            Moment::Begin(at) => {
                let held = self.taken_hold(&trace.calls[at]);
                self.held.extend(held.map(|held| (at, held)));
            }
            Moment::End(at) => {
                let (call, held) = (&trace.calls[at], self.held.remove(&at));
                if let Some(value) = call.value {
                    self.done(call, held, value);
                }
            }
        }
    }

    fn taken_hold(&self, call: &Call) -> Option<Held> {
        let node = || self.find(Path::new(call.target(0)?));
        match call.name.as_str() {
            "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2" | "ftruncate" => node().map(Held::File),
            "fsync" | "fdatasync" => node().map(|node| Held::Caught(self.time, vec![(node, self.nodes[node].now.clone())])),
            "syncfs" | "sync" => {
                let all = self.nodes.iter().map(|node| node.now.clone());
                Some(Held::Caught(self.time, all.enumerate().collect()))
            }
            _ => None,
        }
    }

    fn done(&mut self, call: &Call, held: Option<Held>, value: u64) {
        let number = |place: usize| call.args[place].parse::<u64>().unwrap();
        match (call.name.as_str(), held) {
            (_, Some(Held::Caught(time, caught))) => caught.into_iter().for_each(|(node, body)| self.keep(node, body, time)),
            ("write" | "writev", held) => {
                let position = self.positions.entry(call.descriptor().unwrap_or_default()).or_default();
                let at = *position;
                *position += value;
                if let Some(Held::File(node)) = held {
                    self.write(node, at, &call.strings.concat(), value);
                }
            }
            ("pwrite64" | "pwritev" | "pwritev2", Some(Held::File(node))) => {
                self.write(node, number(3), &call.strings.concat(), value);
            }
            ("ftruncate", Some(Held::File(node))) => {
                if let Body::File(bytes) = &mut self.nodes[node].now {
                    bytes.resize(usize::try_from(number(1)).unwrap(), 0);
                }
            }
            ("lseek", _) => drop(self.positions.insert(call.descriptor().unwrap(), value)),
            (name, _) if NAMING.contains(&name) => self.named(call, value),
            (name, _) => {
                let is_ours = (0..2).any(|place| call.target(place).is_some_and(|path| Path::new(path).starts_with(&self.root)));
                assert!(!is_ours || !STRANGE.contains(&name), "{name} is not followed: {:?}", call.args);
            }
        }
    }

    fn named(&mut self, call: &Call, value: u64) {
        let paths = self.paths(call);
        match (call.name.as_str(), paths.as_slice()) {
            ("open" | "openat", [path]) => {
                self.positions.insert(value, 0);
                let has = |flag: &str| call.args.iter().any(|arg| arg.split('|').any(|word| word == flag));
                if has("O_CREAT") && self.find(path).is_none() {
                    let node = self.node(Body::File(Vec::new()));
                    self.link(path, node);
                } else if has("O_TRUNC")
                    && let Some(node) = self.find(path)
                {
                    self.nodes[node].now = Body::File(Vec::new());
                }
            }
            ("mkdir" | "mkdirat", [path]) => drop(self.directory(path)),
            ("unlink" | "unlinkat" | "rmdir", [path]) => self.unlink(path),
            ("link" | "linkat", [from, to]) => {
                if let Some(node) = self.find(from) {
                    self.link(to, node);
                }
            }
            ("rename" | "renameat" | "renameat2", [from, to]) => {
                if let Some(node) = self.find(from) {
                    self.names_of(from).map(|(names, name)| names.remove(&name));
                    self.link(to, node);
                }
            }
            _ => panic!("not followed: {} {paths:?}", call.name),
        }
    }

    /// The paths among the arguments, each with the directory before it if it is relative.
    fn paths(&self, call: &Call) -> Vec<PathBuf> {
        // Without a directory of their own they go by the one that the server runs in.
        let home = self.root.parent().unwrap();
        let dirs = (0..call.args.len())
            .filter_map(|place| call.target(place).map(Path::new))
            .filter(|dir| dir.is_absolute());
        let dirs = dirs.chain(std::iter::repeat(home));
        let texts = call.strings.iter().map(|path| String::from_utf8_lossy(path).into_owned());
        texts.zip(dirs).map(|(path, dir)| dir.join(path)).collect()
    }

    fn write(&mut self, node: usize, at: u64, bytes: &[u8], written: u64) {
        let (at, written) = (usize::try_from(at).unwrap(), usize::try_from(written).unwrap());
        if let Body::File(file) = &mut self.nodes[node].now {
            file.resize(file.len().max(at + written), 0);
            file[at..at + written].copy_from_slice(&bytes[..written]);
        }
    }

    fn keep(&mut self, node: usize, body: Body, time: usize) {
        let node = &mut self.nodes[node];
        // Of two syncs side by side the one that began later counts, whichever ends first.
        if time >= node.caught {
            node.kept = body;
            node.caught = time;
        }
    }

    fn find(&self, path: &Path) -> Option<usize> {
        let mut node = 0;
        for name in path.strip_prefix(&self.root).ok()?.components() {
            let Body::Dir(names) = &self.nodes[node].now else { return None };
            node = *names.get(name.as_os_str().to_str()?)?;
        }
        Some(node)
    }

    /// The directory at this path, made if its making was not seen yet: of two calls side by side either may end first.
    fn directory(&mut self, path: &Path) -> Option<usize> {
        path.strip_prefix(&self.root).ok()?;
        if let Some(node) = self.find(path) {
            return Some(node);
        }
        self.directory(path.parent()?)?;
        let node = self.node(Body::Dir(BTreeMap::new()));
        self.link(path, node);
        Some(node)
    }

    fn names_of(&mut self, path: &Path) -> Option<(&mut BTreeMap<String, usize>, String)> {
        let dir = self.directory(path.parent()?)?;
        let name = path.file_name()?.to_str()?.to_owned();
        match &mut self.nodes[dir].now {
            Body::Dir(names) => Some((names, name)),
            Body::File(_) => None,
        }
    }

    fn link(&mut self, path: &Path, node: usize) {
        self.names_of(path).map(|(names, name)| names.insert(name, node));
    }

    fn unlink(&mut self, path: &Path) {
        let removed = self
            .names_of(path)
            .and_then(|(names, name)| names.remove(&name).map(|node| (node, name)));
        let dir = path.parent().and_then(|dir| self.find(dir));
        if let (Some((node, name)), Some(dir)) = (removed, dir)
            && let Body::Dir(kept) = &mut self.nodes[dir].kept
            && kept.get(&name) == Some(&node)
        {
            kept.remove(&name);
        }
    }

    /// What a power cut would leave now, if what was written below `early` had reached the disk by itself already.
    pub(super) fn left(&self, early: Option<&Path>) -> Left {
        let mut left = Left::new();
        self.gather(0, Path::new(""), early, &mut left);
        left
    }

    fn gather(&self, node: usize, path: &Path, early: Option<&Path>, left: &mut Left) {
        let node = &self.nodes[node];
        match if early.is_some_and(|early| path.starts_with(early)) {
            &node.now
        } else {
            &node.kept
        } {
            Body::File(bytes) => drop(left.insert(path.to_owned(), bytes.clone())),
            Body::Dir(names) => names
                .iter()
                .for_each(|(name, node)| self.gather(*node, &path.join(name), early, left)),
        }
    }
}
