//! SFTP packets by hand, over OpenSSH's `ssh`: requests exactly as a test wants them.

use std::io::{BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::sftp::Sftp;

/// A client that writes packets (draft-ietf-secsh-filexfer-02) and reads the answers.
pub struct Packets {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    next: u32,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Packet type, e.g. 101 for a status.
    pub kind: u8,
    /// The request's id.
    pub id: u32,
    /// What follows the id.
    pub body: Vec<u8>,
}

impl Answer {
    /// The status code; `None` for other answers.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        (self.kind == 101).then(|| u32::from_be_bytes(self.body[..4].try_into().unwrap()))
    }

    /// The first string of the body: a handle, or the text of a status.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        let at = if self.kind == 101 || self.kind == 104 { 4 } else { 0 };
        let len = u32::from_be_bytes(self.body[at..at + 4].try_into().unwrap()) as usize;
        self.body[at + 4..at + 4 + len].to_vec()
    }
}

/// A string with its length.
#[must_use]
pub fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// A packet with its length.
#[must_use]
pub fn packet(kind: u8, id: u32, fields: &[&[u8]]) -> Vec<u8> {
    string(&[&[kind][..], &id.to_be_bytes(), &fields.concat()].concat())
}

impl Packets {
    /// Logs in and says INIT.
    #[must_use]
    #[track_caller]
    pub fn of(user: &Sftp) -> Self {
        Self::with(user.subsystem("sftp"))
    }

    /// OpenSSH's server on this machine, without a login.
    #[must_use]
    #[track_caller]
    pub fn local() -> Self {
        let servers = [
            "/usr/lib/openssh/sftp-server",
            "/usr/libexec/openssh/sftp-server",
            "/usr/lib/ssh/sftp-server",
        ];
        let server = servers.iter().find(|server| std::path::Path::new(server).exists());
        Self::with(Command::new(server.expect("OpenSSH's sftp-server")))
    }

    #[track_caller]
    fn with(mut program: Command) -> Self {
        let mut child = program
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut client = Packets {
            child,
            stdin,
            stdout,
            next: 1,
        };
        client.send(&packet(1, 3, &[]));
        assert_eq!(client.answer().expect("VERSION").kind, 2);
        client
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().unwrap();
        let _ = stdin.write_all(bytes).and_then(|()| stdin.flush());
    }

    /// The next answer; `None` when the channel has ended.
    pub fn answer(&mut self) -> Option<Answer> {
        let mut head = [0; 4];
        self.stdout.read_exact(&mut head).ok()?;
        let mut body = vec![0; u32::from_be_bytes(head) as usize];
        self.stdout.read_exact(&mut body).ok()?;
        Some(Answer {
            kind: body[0],
            id: u32::from_be_bytes(body[1..5].try_into().unwrap()),
            body: body[5..].to_vec(),
        })
    }

    /// Sends a request and reads its answer.
    #[track_caller]
    pub fn ask(&mut self, kind: u8, fields: &[&[u8]]) -> Answer {
        self.next += 1;
        let id = self.next;
        self.send(&packet(kind, id, fields));
        let answer = self.answer().expect("an answer");
        assert_eq!(answer.id, id, "{answer:?}");
        answer
    }
}

impl Drop for Packets {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The names of a NAME answer with size, owner, mode and times, and which are directories by their long name.
#[must_use]
pub fn page_names(body: &[u8]) -> Vec<(String, bool)> {
    let mut rest = &body[4..];
    let mut names = Vec::new();
    for _ in 0..u32::from_be_bytes(body[..4].try_into().unwrap()) {
        let mut next = || {
            let len = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
            let (head, tail) = rest[4..].split_at(len);
            rest = tail;
            String::from_utf8(head.to_vec()).unwrap()
        };
        let (name, line) = (next(), next());
        let flags = u32::from_be_bytes(rest[..4].try_into().unwrap());
        let length = [(1, 8), (2, 8), (4, 4), (8, 8)].iter().filter(|(flag, _)| flags & flag != 0);
        rest = &rest[4 + length.map(|(_, len)| len).sum::<usize>()..];
        names.push((name, line.starts_with('d')));
    }
    names
}
