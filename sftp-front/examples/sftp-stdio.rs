//! The engine on standard input and output over the whole file system, in the place of OpenSSH's `sftp-server`, so that
//! suites which drive one can drive ours: `sftp -D target/release/examples/sftp-stdio`. A test tool: it has no accounts.
//!
//! Options as sftp-server's: `-d DIR` start here, `-R` read-only, `-p LIST` only these requests, `-P LIST` none of these;
//! `-e` and `-l LEVEL` are taken and ignored.
use sftp_front::{Download, Entry, Fault, Kind, Listing, OpenHow, SetStat, Space, Stat, Tree, Upload, UploadFacts, VPath};
use std::collections::HashSet;
use std::fs::{self, File, FileTimes};
use std::io::{Read, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// Which requests may run, by OpenSSH's names.
#[derive(Default)]
struct Rules {
    read_only: bool,
    only: Option<HashSet<String>>,
    none_of: HashSet<String>,
}

impl Rules {
    fn allow(&self, request: &str, writes: bool) -> Result<(), Fault> {
        let only = self.only.as_ref().is_none_or(|only| only.contains(request));
        if only && !self.none_of.contains(request) && !(writes && self.read_only) {
            Ok(())
        } else {
            Err(Fault::PermissionDenied("Permission denied".into()))
        }
    }
}

struct Files {
    home: VPath,
    rules: Arc<Rules>,
}

fn real(path: &VPath) -> PathBuf {
    PathBuf::from(path.to_string())
}

fn stat(meta: &fs::Metadata) -> Stat {
    Stat {
        kind: if meta.is_dir() { Kind::Dir } else { Kind::File },
        size: meta.len(),
        mtime: u64::try_from(meta.mtime()).unwrap_or(0),
        mode: meta.mode() & 0o7777,
    }
}

fn set(file: &File, set: &SetStat) -> Result<(), Fault> {
    if let Some(size) = set.size {
        file.set_len(size)?;
    }
    mark(file, set)
}

/// Sets what needs no right to write.
fn mark(file: &File, set: &SetStat) -> Result<(), Fault> {
    if let Some(mode) = set.mode {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    if let Some((accessed, modified)) = set.times {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        file.set_times(FileTimes::new().set_accessed(at(accessed)).set_modified(at(modified)))?;
    }
    Ok(())
}

impl Tree for Files {
    fn home(&self) -> VPath {
        self.home.clone()
    }

    fn stat(&self, path: &VPath, follow: bool) -> Result<Stat, Fault> {
        self.rules.allow(if follow { "stat" } else { "lstat" }, false)?;
        let meta = if follow {
            fs::metadata(real(path))
        } else {
            fs::symlink_metadata(real(path))
        };
        Ok(stat(&meta?))
    }

    fn realpath(&self, path: &VPath) -> Result<VPath, Fault> {
        self.rules.allow("realpath", false)?;
        Ok(path.clone())
    }

    fn list(&self, path: &VPath) -> Result<Box<dyn Listing>, Fault> {
        self.rules.allow("opendir", false)?;
        Ok(Box::new(Names(fs::read_dir(real(path))?, Arc::clone(&self.rules))))
    }

    fn open_read(&self, path: &VPath) -> Result<Box<dyn Download>, Fault> {
        self.rules.allow("open", false)?;
        let file = File::open(real(path))?;
        Ok(Box::new(Open(file, Arc::clone(&self.rules))))
    }

    fn open_write(&self, path: &VPath, how: &OpenHow) -> Result<Box<dyn Upload>, Fault> {
        self.rules.allow("open", true)?;
        let mut options = File::options();
        options.read(how.read).write(true).mode(how.mode.unwrap_or(0o666));
        options
            .create(how.create)
            .truncate(how.truncate)
            .create_new(how.create && how.exclusive);
        Ok(Box::new(Open(options.open(real(path))?, Arc::clone(&self.rules))))
    }

    fn remove(&self, path: &VPath) -> Result<(), Fault> {
        self.rules.allow("remove", true)?;
        Ok(fs::remove_file(real(path))?)
    }

    fn mkdir(&self, path: &VPath, set: &SetStat) -> Result<(), Fault> {
        self.rules.allow("mkdir", true)?;
        Ok(fs::DirBuilder::new().mode(set.mode.unwrap_or(0o777)).create(real(path))?)
    }

    fn rmdir(&self, path: &VPath) -> Result<(), Fault> {
        self.rules.allow("rmdir", true)?;
        Ok(fs::remove_dir(real(path))?)
    }

    fn rename(&self, from: &VPath, to: &VPath, replace: bool) -> Result<(), Fault> {
        self.rules.allow(if replace { "posix-rename" } else { "rename" }, true)?;
        fs::symlink_metadata(real(from))?;
        if !replace && fs::symlink_metadata(real(to)).is_ok() {
            return Err(Fault::Failure("the name exists already".into()));
        }
        Ok(fs::rename(real(from), real(to))?)
    }

    fn has_links(&self) -> bool {
        true
    }

    fn link(&self, old: &VPath, new: &VPath) -> Result<(), Fault> {
        self.rules.allow("hardlink", true)?;
        Ok(fs::hard_link(real(old), real(new))?)
    }

    fn symlink(&self, target: &str, new: &VPath) -> Result<(), Fault> {
        self.rules.allow("symlink", true)?;
        Ok(std::os::unix::fs::symlink(target, real(new))?)
    }

    fn read_link(&self, path: &VPath) -> Result<String, Fault> {
        self.rules.allow("readlink", false)?;
        Ok(fs::read_link(real(path))?.to_string_lossy().into_owned())
    }

    fn set_stat(&self, path: &VPath, to: &SetStat) -> Result<(), Fault> {
        self.rules.allow("setstat", true)?;
        // A directory cannot be opened for writing, and has times all the same.
        if to.size.is_some() {
            return set(&File::options().write(true).open(real(path))?, to);
        }
        mark(&File::open(real(path))?, to)
    }

    fn space(&self) -> Option<Space> {
        self.rules.allow("statvfs", false).ok()?;
        Some(Space {
            total: 1 << 40,
            free: 1 << 39,
        })
    }
}

struct Names(fs::ReadDir, Arc<Rules>);

impl Listing for Names {
    fn next(&mut self, max: usize) -> Result<Vec<Entry>, Fault> {
        self.1.allow("readdir", false)?;
        let page = self.0.by_ref().take(max).map(|entry| {
            let entry = entry?;
            Ok(Entry {
                name: entry.file_name().to_string_lossy().into_owned(),
                stat: stat(&entry.metadata()?),
            })
        });
        page.collect()
    }
}

struct Open(File, Arc<Rules>);

impl Download for Open {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Fault> {
        self.1.allow("read", false)?;
        Ok(self.0.read_at(buf, offset)?)
    }

    fn stat(&self) -> Result<Stat, Fault> {
        Ok(stat(&self.0.metadata()?))
    }
}

impl Upload for Open {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Fault> {
        self.1.allow("write", true)?;
        Ok(self.0.write_all_at(data, offset)?)
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<usize, Fault> {
        self.1.allow("read", false)?;
        Ok(self.0.read_at(buf, offset)?)
    }

    fn stat(&self) -> Result<Stat, Fault> {
        Ok(stat(&self.0.metadata()?))
    }

    fn set_stat(&mut self, to: &SetStat) -> Result<(), Fault> {
        self.1.allow("fsetstat", true)?;
        set(&self.0, to)
    }

    fn sync(&mut self) -> Result<(), Fault> {
        self.1.allow("fsync", true)?;
        Ok(self.0.sync_all()?)
    }

    fn close(self: Box<Self>, _facts: &UploadFacts) -> Result<(), Fault> {
        Ok(())
    }

    fn abandon(self: Box<Self>, _facts: &UploadFacts) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut rules = Rules::default();
    let mut home = std::env::current_dir()?;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        // Options may stand together, as in `-el debug3`.
        for letter in arg.trim_start_matches('-').chars() {
            let mut list = || args.next().map(|list| list.split(',').map(str::to_owned).collect::<HashSet<_>>());
            match letter {
                'e' => {}
                'R' => rules.read_only = true,
                'p' => rules.only = list(),
                'P' => rules.none_of = list().unwrap_or_default(),
                'l' => drop(list()),
                'd' => home = args.next().map(PathBuf::from).unwrap_or_default(),
                other => return Err(format!("no option -{other}").into()),
            }
        }
    }
    let tree = Files {
        home: VPath::absolute(home.to_str().ok_or("the directory is not UTF-8")?)?,
        rules: Arc::new(rules),
    };
    let (requests, answers) = (incoming()?, outgoing()?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let input = tokio::net::UnixStream::from_std(requests)?;
        let output = tokio::net::UnixStream::from_std(answers.0)?;
        sftp_front::serve_pipe(Arc::new(tree), input, output).await
    })?;
    // The output's end has been dropped: what is on its way arrives before this returns.
    answers.1.join().map_err(|_| "the output failed")?;
    Ok(())
}

/// Standard input as a socket that the runtime can wait for.
fn incoming() -> std::io::Result<UnixStream> {
    let (mut far, near) = UnixStream::pair()?;
    let mut input = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    std::thread::spawn(move || {
        let _ = pump(&mut input, &mut far);
    });
    near.set_nonblocking(true)?;
    Ok(near)
}

/// Standard output, the same.
fn outgoing() -> std::io::Result<(UnixStream, JoinHandle<()>)> {
    let (mut far, near) = UnixStream::pair()?;
    let mut output = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let copying = std::thread::spawn(move || {
        let _ = pump(&mut far, &mut output);
    });
    near.set_nonblocking(true)?;
    Ok((near, copying))
}

/// Copies by reading and writing. `std::io::copy` would splice, which keeps the pipe locked while it waits for the socket: the
/// client could not even read what is in it.
fn pump(from: &mut impl Read, to: &mut impl Write) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            n => to.write_all(buffer.get(..n).unwrap_or_default())?,
        }
    }
}
