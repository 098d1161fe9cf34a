//! The SFTP door under attack: rules of the protocol broken on purpose, ways out of the tree, other people's places, and
//! clients that never say who they are (security.md §3, §9; sftp.md §10).

use std::io::Read as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tests::process::{run, tool};
use tests::{Gateway, Pair, Sftp, peer, wait_for};

/// What attacks may cost in memory.
const ALLOWED: u64 = 64 << 20;
/// The same for connections without a login.
const ALLOWED_HALF_OPEN: u64 = 50 << 20;
/// Connections without a login, all open at once.
const HALF_OPEN: usize = 500;

/// Runs one of the hostile clients as this user; its own words.
fn attack(gateway: &Gateway, script: &str, user: &str, args: &[&str]) -> String {
    let mut command = tool(peer::python().to_str().unwrap(), &[peer::script(script).to_str().unwrap()]);
    command
        .args([&gateway.sftp_port.to_string(), user])
        .arg(gateway.path(&format!("{user}-ed25519.key")))
        .args(args);
    run(&mut command).ok()
}

#[test]
fn broken_rules_end_the_peer_that_broke_them_and_nobody_else() {
    let gateway = Gateway::new();
    let user = gateway.user("victim");
    user.ok(&["pwd"]);
    let before = gateway.peak_memory();
    let told = attack(&gateway, "hostile_ssh.py", "victim", &[]);
    assert_eq!(told.lines().filter(|line| line.starts_with("ok ")).count(), 18, "{told}");
    let grown = gateway.peak_memory() - before;
    assert!(grown < ALLOWED, "the attacks cost {grown} bytes");
    user.ok(&["pwd"]);
    let log = gateway.log();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn no_spelling_of_a_path_leads_out_of_the_tree() {
    let pair = Pair::one_with(&[("uploads.release_after", "\"1h\"")]);
    let gateway = pair.alice();
    let _ = gateway.user("walker");
    let told = attack(gateway, "trespass.py", "walker", &["traversal"]);
    let paths: u32 = told.split(' ').next().unwrap().parse().unwrap();
    assert!(paths >= 300, "{told}");
}

/// Every path below this one that the user sees.
fn walk(user: &Sftp, top: &str, found: &mut Vec<String>) {
    found.push(top.to_owned());
    for name in user.ls(top) {
        let path = format!("{top}/{name}");
        let closed = path.ends_with("/keystore") || path.ends_with("/tmp");
        if !closed && !name.contains('.') {
            walk(user, &path, found);
        } else {
            found.push(path);
        }
    }
}

#[test]
fn another_account_looks_like_one_that_never_was() {
    let pair = Pair::one_with(&[("uploads.release_after", "\"0s\"")]);
    let gateway = pair.alice();
    pair.deliver("secret.edi", b"secret");
    gateway.ok(&["account", "add", "rival"]);
    let made = gateway.cli(&[
        "--account",
        "rival",
        "user",
        "add",
        "spy",
        "--generate-key",
        "--out",
        "spy-ed25519.key",
    ]);
    let _ = made.ok();
    let mut paths = Vec::new();
    walk(&pair.alice_user, "/mftg-acme", &mut paths);
    assert!(paths.iter().any(|path| path.ends_with("/secret.edi")), "{paths:#?}");
    let args: Vec<&str> = ["foreign"].into_iter().chain(paths.iter().map(String::as_str)).collect();
    let told = attack(gateway, "trespass.py", "spy", &args);
    assert!(told.starts_with(&format!("{} paths", paths.len())), "{told}");
}

#[test]
fn closed_places_look_the_same_whatever_is_in_them() {
    let pair = Pair::one_gateway();
    let gateway = pair.alice();
    let _ = gateway.user("curious");
    let inside = ["identity.jks", "trust.jks", "https.jks"].map(|name| format!("/mftg-acme/AS2/keystore/{name}"));
    assert!(
        gateway.path("data/keystore/mftg-acme/identity.jks").exists(),
        "there is something to hide"
    );
    let args: Vec<&str> = ["foreign"].into_iter().chain(inside.iter().map(String::as_str)).collect();
    let _ = attack(gateway, "trespass.py", "curious", &args);
}

#[test]
fn clients_that_never_log_in_cost_little_and_lock_nobody_out() {
    let gateway = Gateway::with(&[
        ("sftp.max_connections", "2000"),
        ("sftp.max_connections_per_ip", "2000"),
        ("sftp.max_unauthenticated", "2000"),
        ("sftp.login_grace", "\"60s\""),
    ]);
    let user = gateway.user("patient");
    let timed = || {
        let began = Instant::now();
        user.ok(&["pwd"]);
        began.elapsed()
    };
    let alone = timed();
    let before = gateway.peak_memory();
    let mut open: Vec<TcpStream> = Vec::new();
    for _ in 0..HALF_OPEN {
        let mut stream = TcpStream::connect(("127.0.0.1", gateway.sftp_port)).unwrap();
        let mut banner = [0u8; 8];
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.read_exact(&mut banner).unwrap();
        open.push(stream);
    }
    let grown = gateway.peak_memory() - before;
    assert!(grown < ALLOWED_HALF_OPEN, "{HALF_OPEN} half-open connections cost {grown} bytes");
    let among_them = timed();
    assert!(
        among_them < Duration::from_secs(5) + 5 * alone,
        "a login took {among_them:?}, and alone {alone:?}"
    );
    drop(open);
}

#[test]
fn a_source_of_connections_that_try_no_login_is_shut_out_where_nobody_logs_in() {
    let gateway = Gateway::with(&[
        // Enough for a client that does log in.
        ("sftp.login_grace", "\"5s\""),
        ("sftp.ban.failures", "3"),
        ("sftp.ban.for", "\"1h\""),
        ("telemetry.log", "\"info,sftp_front=debug\""),
    ]);
    let user = gateway.user("patient");
    let greeted = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        matches!(stream.read(&mut [0u8; 64]), Ok(n) if n > 0)
    };
    let mute = |count: usize| {
        let connect = |_| TcpStream::connect(("127.0.0.1", gateway.sftp_port)).unwrap();
        let mut open: Vec<TcpStream> = (0..count).map(connect).collect();
        for stream in &mut open {
            assert!(greeted(stream), "{}", gateway.log());
            // To the end, which the server sets.
            let _ = std::io::copy(stream, &mut std::io::sink());
        }
    };
    let ended = |all: usize| {
        gateway.wait("the server to end them", |gateway| {
            let log = gateway.log();
            (log.matches("no login within the grace time").count() == all).then_some(())
        });
        // The end is told before it is counted.
        std::thread::sleep(Duration::from_millis(500));
    };
    for round in 1..=2 {
        mute(2);
        ended(2 * round);
        assert!(user.logs_in(), "somebody logs in there");
    }
    mute(3);
    gateway.wait("the source to be shut out", |gateway| {
        gateway.log().contains("their source is shut out").then_some(())
    });
    assert!(!greeted(&mut TcpStream::connect(("127.0.0.1", gateway.sftp_port)).unwrap()));
    assert!(!user.logs_in());
}

/// Whether a line of the log has all these words, soon.
fn logs(gateway: &Gateway, words: &[&str]) {
    gateway.wait(&format!("{words:?} in the log"), |gateway| {
        let log = gateway.log();
        log.lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
    });
}

/// What the server says first to a new connection; nothing if it closes it.
fn greeting(gateway: &Gateway) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", gateway.sftp_port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut first = [0u8; 8];
    let len = stream.read(&mut first).unwrap_or(0);
    first[..len].to_vec()
}

#[test]
fn who_is_refused_before_a_login_stands_in_the_log() {
    let gateway = Gateway::with(&[]);
    let old = Sftp::new(gateway.sftp_port, "old", &gateway.ssh_key("old", "ed25519"));
    assert_ne!(old.ssh(&["-o", "KexAlgorithms=diffie-hellman-group14-sha1"], &["true"]).code, 0);
    logs(
        &gateway,
        &[
            "WARN",
            "no algorithm in common",
            "OpenSSH",
            "sftp.algorithms",
            "compatible",
            "group14-sha1",
        ],
    );
    let gateway = Gateway::with(&[("sftp.max_connections", "1")]);
    wait_for("a place", || {
        let held = TcpStream::connect(("127.0.0.1", gateway.sftp_port)).unwrap();
        held.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let taken = (&mut &held).read(&mut [0u8; 8]).is_ok_and(|len| len > 0);
        (taken && greeting(&gateway).is_empty()).then_some(())
    });
    logs(&gateway, &["WARN", "limit=\"max_connections\""]);

    let gateway = Gateway::with(&[("sftp.allowed_ips", "[\"192.0.2.0/24\"]")]);
    assert!(greeting(&gateway).is_empty());
    logs(&gateway, &["WARN", "sftp.allowed_ips", "127.0.0.1"]);
}

#[test]
fn connections_without_a_login_are_dropped_early() {
    let gateway = Gateway::with(&[("sftp.max_unauthenticated", "20"), ("sftp.max_connections_per_ip", "200")]);
    let open: Vec<TcpStream> = (0..100)
        .map(|_| TcpStream::connect(("127.0.0.1", gateway.sftp_port)).unwrap())
        .collect();
    let kept = open
        .iter()
        .filter(|stream| {
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            matches!((&mut &**stream).read(&mut [0u8; 8]), Ok(n) if n > 0)
        })
        .count();
    assert!((1..=20).contains(&kept), "{kept} of 100 strangers were kept");
    // The operator is told, and not eighty times.
    let log = gateway.log();
    let told = log.lines().filter(|line| line.contains("max_unauthenticated")).count();
    assert!((1..=3).contains(&told), "{log}");
}
