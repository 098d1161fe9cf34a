//! The command line.

mod errors;
mod first_steps;
mod health;
mod help;
mod inspect;
mod messages;
mod objects;
mod pasted;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tests::process::{Ran, as2gate, run, tool};
use tests::wait_for;

/// An empty directory in which a person types commands.
struct Place {
    dir: TempDir,
    server: Option<Child>,
}

impl Place {
    fn new() -> Self {
        Place {
            dir: tempfile::tempdir().unwrap(),
            server: None,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Any program, with `as2gate` on its path.
    fn command(&self, program: &str) -> Command {
        let mut command = tool(program, &[]);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AS2GATE_")) {
            command.env_remove(name);
        }
        let binaries = as2gate().canonicalize().unwrap().parent().unwrap().display().to_string();
        let path = format!("{binaries}:{}", std::env::var("PATH").unwrap());
        command
            .current_dir(self.dir.path())
            .env("PATH", path)
            .env("AS2GATE_TELEMETRY__LISTEN", "127.0.0.1:0");
        command
    }

    #[track_caller]
    fn cli(&self, args: &[&str]) -> Ran {
        run(self.command(as2gate().to_str().unwrap()).args(args))
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        self.cli(args).ok()
    }

    /// `as2gate serve &`; the ready line.
    #[track_caller]
    fn serve(&mut self, args: &[&str]) -> String {
        let log = fs::File::create(self.path("serve.log")).unwrap();
        let mut command = self.command(as2gate().to_str().unwrap());
        command
            .arg("serve")
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.server = Some(command.spawn().unwrap());
        wait_for("the ready line", || {
            let log = fs::read_to_string(self.path("serve.log")).unwrap();
            log.lines().find(|line| line.contains(" ready ")).map(str::to_owned)
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Asserts that a text has these lines in this order, others between them; each is given by its words.
#[track_caller]
fn says(text: &str, lines: &[&str]) {
    let mut left = text.lines();
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let fits = |shown: &str| {
            let shown: Vec<&str> = shown.split_whitespace().collect();
            let mut at = 0;
            words
                .iter()
                .all(|word| match shown[at..].iter().position(|found| found.starts_with(word)) {
                    Some(next) => {
                        at += next + 1;
                        true
                    }
                    None => false,
                })
        };
        assert!(left.any(fits), "missing, or in another order: {line}\nin:\n{text}");
    }
}

/// Three lines: what, why, hint.
#[track_caller]
fn three_lines(stderr: &str) {
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    let starts = ["error: ", "why:   ", "hint:  "];
    assert!(
        lines.len() == 3
            && lines
                .iter()
                .zip(starts)
                .all(|(line, start)| line.starts_with(start) && line.len() > start.len()),
        "{stderr}"
    );
}
