//! Listening sockets that outlive the server, as systemd's do.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Stdio};

use tests::process::{below, tool};
use tests::{Gateway, wait_for};

/// The program that holds the sockets and is told what to do.
struct Parent {
    child: Child,
    words: BufReader<ChildStdout>,
}

impl Parent {
    fn tell(&mut self, word: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{word}").unwrap();
        self.listen()
    }

    fn listen(&mut self) -> String {
        let mut line = String::new();
        self.words.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// What the harness runs is `as2gate serve`, below a parent with these sockets.
fn parent(gateway: &Gateway, doors: &[&str]) -> Parent {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/activate.py");
    let mut python = tool("python3", &[script]);
    python.args(doors).arg("--");
    let mut python = below(python, &gateway.command(&["serve"]));
    let log = std::fs::File::create(gateway.path("log")).unwrap();
    let mut child = python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
    let words = BufReader::new(child.stdout.take().unwrap());
    let mut parent = Parent { child, words };
    assert_eq!(parent.listen(), "bound");
    parent
}

/// Waits until a client has a connection to this port, whoever has it at the other end.
fn connected(port: u16) {
    // The other end, and the state ESTABLISHED (proc_pid_net_tcp(5)).
    let wanted = format!(":{port:04X} 01");
    wait_for("the client to connect", || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        table.lines().any(|line| line.contains(&wanted)).then_some(())
    });
}

/// Words of the parent; the server's ready line is among them.
fn answer(parent: &mut Parent, word: &str) -> String {
    let mut said = parent.tell(word);
    while said.contains("as2gate") {
        said = parent.listen();
    }
    said
}

#[test]
fn a_restart_keeps_the_sockets_and_the_clients_that_wait() {
    let gateway = Gateway::stopped(&[("sftp.listen", "[\"127.0.0.1:1\"]"), ("as2.listen", "[\"127.0.0.1:2\"]")]);
    let doors = [format!("sftp={}", gateway.sftp_port), format!("as2={}", gateway.as2_port)];
    let mut parent = parent(&gateway, &[&doors[0], &doors[1]]);
    let user = gateway.user("anna");
    // Nobody serves yet; the connection waits in the socket.
    let early = std::thread::spawn({
        let user = user.clone();
        move || user.logs_in()
    });
    connected(gateway.sftp_port);
    assert_eq!(answer(&mut parent, "start"), "ready", "{}", gateway.log());
    assert!(early.join().unwrap(), "{}", gateway.log());
    let page = |port: u16| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    assert!(page(gateway.as2_port));

    assert_eq!(answer(&mut parent, "stop"), "STOPPING=1 0", "{}", gateway.log());
    let between = std::thread::spawn(move || user.logs_in());
    connected(gateway.sftp_port);
    assert!(!between.is_finished() && page(gateway.as2_port), "the sockets are still open");
    assert_eq!(answer(&mut parent, "start"), "ready");
    assert!(between.join().unwrap(), "{}", gateway.log());
}

#[test]
fn a_socket_without_a_door_is_refused() {
    let gateway = Gateway::stopped(&[]);
    let door = format!("nonsense={}", gateway.sftp_port);
    let mut parent = parent(&gateway, &[&door]);
    writeln!(parent.child.stdin.as_mut().unwrap(), "start").unwrap();
    wait_for("the server to say why", || {
        let log = gateway.log();
        (log.contains("nonsense") && log.contains("FileDescriptorName=")).then_some(())
    });
    parent.child.kill().unwrap();
}
