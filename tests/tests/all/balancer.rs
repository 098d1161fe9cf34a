//! Balancers in front of the doors, with the PROXY protocol: one by hand, and haproxy.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use tests::process::{Server, free_port, is_installed, run, run_with, tool};
use tests::{Gateway, Pair, Sftp, wait_for};

/// A balancer in front of a port, which says that every client is 192.0.2.7; its own port.
fn balancer(behind: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let mut server = TcpStream::connect(("127.0.0.1", behind)).unwrap();
            let head = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x0a\0\0\x01\x9c\x40\0\x16";
            server.write_all(head).unwrap();
            for (mut from, mut to) in [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server.try_clone().unwrap(), client.try_clone().unwrap()),
            ] {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    port
}

#[test]
fn a_listed_balancer_names_the_client() {
    let gateway = Gateway::with(&[("sftp.proxy_protocol_from", "[\"127.0.0.0/8\"]")]);
    let direct = gateway.user("behind");
    let through = Sftp::new(balancer(gateway.sftp_port), "behind", &gateway.path("behind-ed25519.key"));
    assert!(through.logs_in());
    let log = gateway.json(&["user", "log", "behind"]);
    let login = log.as_array().unwrap().iter().find(|event| event["kind"] == "user.login").unwrap();
    assert_eq!(login["facts"]["peer"], "192.0.2.7:40000");
    assert!(!direct.logs_in(), "a balancer has to say whom it brings");
    gateway.ok(&["user", "set", "behind", "--allowed-ips", "192.0.2.8"]);
    wait_for("the address to count", || (!through.logs_in()).then_some(()));
    gateway.ok(&["user", "set", "behind", "--allowed-ips", "192.0.2.0/24"]);
    wait_for("the address to count", || through.logs_in().then_some(()));
}

#[test]
fn a_listed_balancer_names_the_partner() {
    let bob = Gateway::stopped(&[
        ("as2.proxy_protocol_from", "[\"127.0.0.0/8\"]"),
        ("as2.max_connections_per_ip", "4"),
    ]);
    let pair = Pair::two_of(Gateway::stopped(&[]), bob);
    let through = balancer(pair.bob().as2_port);
    let url = format!("http://127.0.0.1:{through}/as2");
    let before = pair.alice().json(&["partner", "show", "BOB"])["url"].as_str().unwrap().to_owned();
    pair.alice().change(&["partner", "set", "BOB", "--url", &url]);
    pair.bob().change(&["partner", "set", "ALICE", "--allowed-ips", "192.0.2.7"]);
    pair.deliver("named.edi", b"a order through a balancer");
    pair.bob().change(&["partner", "set", "ALICE", "--allowed-ips", "127.0.0.0/8"]);
    pair.put("elsewhere.edi", b"from an address that is not the partner's");
    let failed = pair.alice().reaches("out", "elsewhere.edi", "failed");
    assert_eq!(failed["code"], "http-403", "{failed:#}");
    assert!(pair.bob().log().contains("peer=192.0.2.7:40000"));
    // The limit for one address is about the client too: it is full with the four that say nothing.
    let waiting: Vec<_> = (0..4).map(|_| TcpStream::connect(("127.0.0.1", through)).unwrap()).collect();
    pair.bob().wait("the address to have its connections", |gateway| {
        let _ = run(&mut tool("curl", &["-s", "-m", "5", &url]));
        gateway.log().contains("too many connections").then_some(())
    });
    drop(waiting);
    // A balancer has to say whom it brings.
    pair.alice().change(&["partner", "set", "BOB", "--url", &before]);
    pair.put("unnamed.edi", b"without a header");
    pair.bob().wait("the connection to be refused", |gateway| {
        gateway.log().contains("without a good PROXY header").then_some(())
    });
    assert!(pair.bob().messages_of("in", "unnamed.edi").is_empty());
}

#[test]
fn a_look_whether_the_doors_are_open_is_no_bad_header() {
    let anywhere = "[\"127.0.0.0/8\"]";
    let gateway = Gateway::with(&[("sftp.proxy_protocol_from", anywhere), ("as2.proxy_protocol_from", anywhere)]);
    gateway.ok(&["status"]);
    let doors = [gateway.sftp_port, gateway.as2_port];
    for door in doors {
        drop(TcpStream::connect(("127.0.0.1", door)).unwrap());
    }
    // What a connection has to say is told still, and of each door once.
    for door in doors {
        TcpStream::connect(("127.0.0.1", door))
            .unwrap()
            .write_all(b"GET / HTTP/1.1\r\n\r\n")
            .unwrap();
    }
    let bad = || gateway.log().matches("without a good PROXY header").count();
    wait_for("both to be refused", || (bad() >= 2).then_some(()));
    assert_eq!(bad(), 2, "{}", gateway.log());
}

/// Where haproxy's connections come from: one that is listed, and one that is not.
const LISTED: &str = "127.0.0.9";
const STRANGE: &str = "127.0.0.10";

struct Haproxy {
    _server: Server,
    /// Ports: in front of the listed balancer, the same over IPv6, in front of the unlisted one.
    ports: [u16; 3],
}

impl Haproxy {
    fn start(gateway: &Gateway) -> Option<Self> {
        if !is_installed("haproxy") {
            return None;
        }
        let ports = [free_port(), free_port(), free_port()];
        let (listed, listed6, strange) = (ports[0], ports[1], ports[2]);
        let (door, stats) = (gateway.sftp_port, gateway.path("haproxy.sock"));
        // One server is checked by a connection alone, the other until it says that it speaks SSH. Without a time for the check
        // haproxy gives it no longer than the interval.
        let config = format!(
            "global\n stats socket {} level user\n\
             defaults\n mode tcp\n timeout connect 30s\n timeout check 30s\n timeout client 60s\n timeout server 60s\n\
             frontend listed\n bind 127.0.0.1:{listed}\n bind [::1]:{listed6}\n default_backend listed\n\
             frontend strange\n bind 127.0.0.1:{strange}\n default_backend strange\n\
             backend listed\n source {LISTED}\n server plain 127.0.0.1:{door} send-proxy-v2 check inter 200ms\n\
             server named 127.0.0.1:{door} send-proxy-v2 proxy-v2-options crc32c,unique-id check inter 200ms\n\
             backend greeted\n source {LISTED}\n option tcp-check\n tcp-check expect rstring ^SSH-2.0-as2gate\n\
             server one 127.0.0.1:{door} send-proxy-v2 check inter 200ms\n\
             backend strange\n source {STRANGE}\n server one 127.0.0.1:{door} send-proxy-v2\n",
            stats.display()
        );
        let file = gateway.file("haproxy.cfg", config.as_bytes());
        let mut command = tool("haproxy", &["-db", "-f", file.to_str().unwrap()]);
        Some(Haproxy {
            _server: Server::start(&mut command, strange, &gateway.path("haproxy.log")),
            ports,
        })
    }

    /// What the last check of a server that is over came to, such as `UP L4OK`.
    fn check(gateway: &Gateway, backend: &str, server: &str) -> String {
        let mut socket = UnixStream::connect(gateway.path("haproxy.sock")).unwrap();
        socket.write_all(b"show stat\n").unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let names = lines.next().unwrap();
        let line = lines.find(|line| line[..2] == [backend, server]).unwrap();
        let field = |name: &str| line[names.iter().position(|column| *column == name).unwrap()];
        // A star says that the next one is running.
        format!("{} {}", field("status"), field("check_status").trim_start_matches("* "))
    }
}

/// Whether a key logs in through a port, as a client with this address.
fn goes(port: u16, from: &str, key: &Path) -> bool {
    let client = Sftp::new(port, "behind", key);
    let bind = format!("BindAddress={from}");
    run_with(&mut client.command(&["-o", &bind]), "pwd\n").code == 0
}

fn logged_in_from(gateway: &Gateway) -> String {
    let log = gateway.json(&["user", "log", "behind"]);
    let login = log
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .find(|event| event["kind"] == "user.login")
        .unwrap();
    login["facts"]["peer"].as_str().unwrap().to_owned()
}

#[test]
fn behind_haproxy_the_client_is_judged_and_not_the_balancer() {
    let listed = format!("[\"{LISTED}\"]");
    let gateway = Gateway::with(&[
        ("sftp.proxy_protocol_from", &listed),
        ("sftp.allowed_ips", "[\"127.0.0.0/25\", \"::1\"]"),
        ("sftp.ban.failures", "3"),
    ]);
    let Some(haproxy) = Haproxy::start(&gateway) else { return };
    let _ = gateway.user("behind");
    let key = gateway.path("behind-ed25519.key");
    let stranger = gateway.ssh_key("stranger", "ed25519");
    let [port, port6, strange] = haproxy.ports;

    // Both servers of the backend in turn, the second with further fields in its header.
    for _ in 0..2 {
        assert!(goes(port, "127.0.0.50", &key));
        assert!(logged_in_from(&gateway).starts_with("127.0.0.50:"));
    }
    let mut six = Sftp::new(port6, "behind", &key).command(&["-o", "HostName=::1"]);
    if TcpListener::bind("[::1]:0").is_ok() {
        assert_eq!(run_with(&mut six, "pwd\n").code, 0);
        assert!(logged_in_from(&gateway).starts_with("[::1]:"));
    }

    // Each list of addresses is about the client: the server's, the user's, the key's.
    assert!(!goes(port, "127.0.0.200", &key), "sftp.allowed_ips");
    gateway.ok(&["user", "set", "behind", "--allowed-ips", "127.0.0.51"]);
    wait_for("the user's addresses to count", || (!goes(port, "127.0.0.50", &key)).then_some(()));
    assert!(goes(port, "127.0.0.51", &key), "allowed_ips of the user");
    gateway.ok(&["user", "set", "behind", "--allowed-ips", ""]);
    let other = gateway.ssh_key("other", "ed25519");
    let public = std::fs::read_to_string(format!("{}.pub", other.display())).unwrap();
    gateway.file("line", format!("from=\"127.0.0.52\" {public}").as_bytes());
    gateway.ok(&["user", "key", "add", "behind", "--public-key", "line"]);
    assert!(
        goes(port, "127.0.0.52", &other) && !goes(port, "127.0.0.53", &other),
        "from= of the key"
    );

    // So are the penalties: who fails is shut out, and neither the balancer nor anybody else behind it.
    for _ in 0..3 {
        assert!(!goes(port, "127.0.0.60", &stranger));
    }
    wait_for("the penalty", || gateway.log().contains("shut_seconds").then_some(()));
    assert!(!goes(port, "127.0.0.60", &key), "shut out");
    assert!(goes(port, "127.0.0.50", &key));

    // A header from an address that is not listed is no header: nobody gets in, nobody is named.
    assert!(!goes(strange, "127.0.0.70", &key));
    assert!(!gateway.log().contains("127.0.0.70"));
    assert!(!goes(gateway.sftp_port, LISTED, &key), "a balancer has to say whom it brings");
    assert!(goes(gateway.sftp_port, STRANGE, &key), "without a header, as itself");
}

/// Connections that may stand open without a login in the test of health checks; from the half on some are dropped.
const UNAUTHENTICATED: usize = 20;

#[test]
fn health_checks_of_haproxy_do_no_harm() {
    let listed = format!("[\"{LISTED}\"]");
    let gateway = Gateway::with(&[
        ("sftp.proxy_protocol_from", &listed),
        ("sftp.max_unauthenticated", &UNAUTHENTICATED.to_string()),
        ("sftp.ban.failures", "1"),
        ("telemetry.log", "\"info,sftp_front=debug\""),
    ]);
    let Some(haproxy) = Haproxy::start(&gateway) else { return };
    let _ = gateway.user("behind");
    let key = gateway.path("behind-ed25519.key");
    // Each check is a connection without a login, and the three servers' do not wait for each other: they are far fewer at a time
    // than may stand open, and in all a multiple of that.
    gateway.wait("the checks", |gateway| {
        for (backend, server) in [("listed", "plain"), ("listed", "named"), ("greeted", "one")] {
            let check = Haproxy::check(gateway, backend, server);
            assert!(check.starts_with("UP"), "{backend}/{server}: {check}\n{}", gateway.log());
        }
        let log = gateway.log();
        let ended = log
            .lines()
            .filter(|line| line.contains("connection ended") && line.contains(LISTED));
        (ended.count() > 4 * UNAUTHENTICATED).then_some(())
    });
    assert_eq!(Haproxy::check(&gateway, "greeted", "one"), "UP L7OK");
    assert_eq!(Haproxy::check(&gateway, "listed", "plain"), "UP L4OK");
    for from in ["127.0.0.50", LISTED] {
        assert!(goes(haproxy.ports[0], from, &key), "{from}");
    }
    let log = gateway.log();
    for harm in ["PROXY header", "login failed", "connection refused"] {
        assert!(!log.contains(harm), "{harm}: {log}");
    }
}
