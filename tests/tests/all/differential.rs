//! Differential replay: the same SFTP version 3 requests to OpenSSH's `sftp-server` and to our engine (`sftp-stdio`), each on
//! a copy of the same directory, the answers compared one by one and the directories at the end. The requests are generated
//! from a seed, or recorded from real clients. What may differ is written down, with its reason, in [`permitted`].

mod permitted;
mod requests;
mod server;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use permitted::{Permitted, parting, permitted};
use requests::{Step, each_open, recorded, sequence};
use server::Server;
use tests::process::{Ran, profile_dir, run_with, tool};
use tests::{Random, files_below, noise};

const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";
/// Sequences of requests that are generated, and requests in each.
const SEQUENCES: u64 = 400;
const LENGTH: usize = 30;
const SEED: u64 = 20_261_128;

/// Our side as a program; `None`, said loudly, where one of the two is not there.
fn both() -> Option<[PathBuf; 2]> {
    let ours = profile_dir().join("examples/sftp-stdio");
    if !Path::new(SFTP_SERVER).exists() || !ours.exists() {
        eprintln!("skipped: no {SFTP_SERVER} (apt-get install -y openssh-sftp-server), or the example sftp-stdio is not built");
        return None;
    }
    Some([PathBuf::from(SFTP_SERVER), ours])
}

/// Two directories alike, whose paths have the same length.
struct Places {
    top: tempfile::TempDir,
}

impl Places {
    fn new() -> Self {
        let places = Places {
            top: tempfile::tempdir().unwrap(),
        };
        for dir in places.dirs() {
            fs::create_dir_all(dir.join("dir/sub")).unwrap();
            for (name, bytes) in [
                ("a", noise(10_000, 7)),
                ("b", Vec::new()),
                ("dir/c", noise(300, 8)),
                ("log", noise(77, 9)),
            ] {
                fs::write(dir.join(name), bytes).unwrap();
                let file = fs::File::options().write(true).open(dir.join(name)).unwrap();
                file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000))
                    .unwrap();
            }
            std::os::unix::fs::symlink("a", dir.join("link")).unwrap();
            std::os::unix::fs::symlink("nowhere", dir.join("dead")).unwrap();
        }
        places
    }

    fn dirs(&self) -> [PathBuf; 2] {
        ["one", "two"].map(|name| self.top.path().join(name))
    }

    /// What lies in them: content, and permissions.
    fn content(dir: &Path) -> BTreeMap<String, (Vec<u8>, u32)> {
        let names = files_below(dir).into_iter();
        let each = names.map(|name| {
            let path = dir.join(&name);
            let facts = fs::symlink_metadata(&path).unwrap();
            let bytes = if facts.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            (name, (bytes, facts.permissions().mode() & 0o7777 | facts.mode() & 0o170_000))
        });
        each.collect()
    }
}

/// What a replay came to.
#[derive(Default)]
struct Tally {
    answers: usize,
    permitted: BTreeMap<&'static str, usize>,
    wrong: Vec<String>,
}

impl Tally {
    /// Runs one sequence to its end, or to a permitted difference behind which the two cannot be alike.
    fn replay(&mut self, programs: &[PathBuf; 2], what: &str, steps: &[Step]) {
        let places = Places::new();
        let dirs = places.dirs();
        let [mut theirs, mut ours] = [0, 1].map(|n| Server::start(&programs[n], &dirs[n]));
        for (at, step) in steps.iter().enumerate() {
            let seen = [theirs.ask(step), ours.ask(step)];
            self.answers += 1;
            let rule = if seen[0].is_like(&seen[1]) {
                match parting(step) {
                    None => continue,
                    some => some,
                }
            } else {
                permitted(step, &seen[0], &seen[1])
            };
            match rule {
                Some(Permitted { name, ends }) => {
                    *self.permitted.entry(name).or_default() += 1;
                    if ends {
                        return;
                    }
                }
                None => {
                    let before: Vec<String> = steps[..at].iter().map(|step| format!("\n      {step}")).collect();
                    self.wrong.push(format!(
                        "{what}, request {at}: {step}\n   sftp-server: {:?}\n   ours:        {:?}\n   behind:{}",
                        seen[0],
                        seen[1],
                        before.concat()
                    ));
                    return;
                }
            }
        }
        drop((theirs, ours));
        let [theirs, ours] = dirs.map(|dir| Places::content(&dir));
        for name in theirs.keys().chain(ours.keys()) {
            if theirs.get(name) != ours.get(name) {
                let size = |side: &BTreeMap<String, (Vec<u8>, u32)>| side.get(name).map(|(bytes, mode)| (bytes.len(), format!("{mode:o}")));
                self.wrong
                    .push(format!("{what}: {name} is left different: {:?}, {:?}", size(&theirs), size(&ours)));
            }
        }
    }

    fn judge(self, at_least: usize) {
        eprintln!("differential replay: {} answers compared; permitted differences:", self.answers);
        for (name, count) in &self.permitted {
            eprintln!("  {count:6} {name}");
        }
        assert!(
            self.wrong.is_empty(),
            "{} differences:\n{}",
            self.wrong.len(),
            self.wrong[..self.wrong.len().min(12)].join("\n")
        );
        assert!(self.answers >= at_least, "only {} answers", self.answers);
    }
}

#[test]
fn every_kind_of_open_is_answered_as_sftp_server_does() {
    let Some(programs) = both() else { return };
    let mut tally = Tally::default();
    for (what, steps) in each_open() {
        tally.replay(&programs, &what, &steps);
    }
    tally.judge(1_000);
}

#[test]
fn generated_requests_are_answered_as_sftp_server_does() {
    let Some(programs) = both() else { return };
    let mut tally = Tally::default();
    let mut random = Random::new(SEED);
    for n in 0..SEQUENCES {
        let steps = sequence(&mut random, LENGTH);
        tally.replay(&programs, &format!("sequence {n}"), &steps);
    }
    tally.judge(5_000);
}

/// What a real client says to `sftp-server` while it does something, by a script between the two.
fn record(client: &[&str], input: &str) -> Option<(Vec<Step>, Ran)> {
    let places = Places::new();
    let [dir, local] = places.dirs();
    let script = places.top.path().join("record");
    let top = places.top.path().display();
    fs::write(
        &script,
        format!(
            "#!/bin/sh\ncd {}\ntee -a {top}/asked | {SFTP_SERVER} | tee -a {top}/answered\n",
            dir.display()
        ),
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
    if tests::process::run(&mut tool("sh", &["-c", &format!("command -v {}", client[0])])).code != 0 {
        eprintln!("skipped: {} is not installed", client[0]);
        return None;
    }
    let words: Vec<String> = client.iter().map(|word| word.replace("RECORD", script.to_str().unwrap())).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut command = tool(words[0], &words[1..]);
    command.current_dir(&local);
    let ran = run_with(&mut command, input);
    let files = ["asked", "answered"].map(|name| fs::read(places.top.path().join(name)).unwrap_or_default());
    let steps = recorded(&files[0], &files[1], dir.to_str().unwrap());
    Some((steps, ran))
}

#[test]
fn what_real_clients_say_is_answered_as_sftp_server_does() {
    let Some(programs) = both() else { return };
    let mut tally = Tally::default();
    let session = "put a new\nput -p a kept\nreput a b\nls -la\nls -l dir\nget a got\nmkdir made\nput a made/x\nrename made/x made/y\nrm made/y\n\
                   rmdir made\nchmod 600 a\nln -s a other\nln a hard\ndf .\n-rm missing\n-get missing\ncd dir\npwd\nget c c2\n";
    let lftp = "set sftp:connect-program RECORD; open -u x,x sftp://localhost; cls -la; put a -o new; put -c a -o b; get dir/c -o c2; \
                mkdir made; mirror -R dir made; mv new newer; chmod 600 newer; rm newer; cls missing; bye";
    for (client, input) in [
        (&["sftp", "-b", "-", "-D", "RECORD"][..], session),
        (&["scp", "-r", "-p", "-D", "RECORD", "dir", "a", "somewhere:."], ""),
        (&["scp", "-r", "-D", "RECORD", "somewhere:dir", "fetched"], ""),
        (&["lftp", "-c", lftp], ""),
    ] {
        let Some((steps, ran)) = record(client, input) else { continue };
        assert!(steps.len() > 10, "{client:?}: {} requests\n{ran}", steps.len());
        tally.replay(&programs, client[0], &steps);
    }
    tally.judge(60);
}
