//! The SFTP door under attack: rules of the protocol broken on purpose, ways out of the tree, other people's places, and
//! clients that never say who they are (security.md §3, §9; sftp.md §10).

use std::fs;
use std::io::Read as _;
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::{Duration, Instant};

use tests::packets::{Packets, string};
use tests::process::{hundreds_of_sockets, run, tool};
use tests::{Gateway, Pair, Sftp, peer, wait_for};

/// What attacks may cost in memory.
const ALLOWED: u64 = 64 << 20;
/// The same for connections without a login.
const ALLOWED_HALF_OPEN: u64 = 50 << 20;
/// Connections without a login, all open at once.
const HALF_OPEN: usize = 500;
/// What sessions that came and went may leave behind.
const LEFT: u64 = 4 << 20;

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
    assert_eq!(told.lines().filter(|line| line.starts_with("ok ")).count(), 23, "{told}");
    let grown = gateway.peak_memory() - before;
    assert!(grown < ALLOWED, "the attacks cost {grown} bytes");
    user.ok(&["pwd"]);
    let log = gateway.log();
    assert!(!log.contains("panicked"), "{log}");
    let odd = |c: char| c.is_control() && c != '\n';
    assert!(!log.contains(odd), "{log:?}");
}

/// The legacy policies too, which have key exchanges of their own.
#[test]
fn no_algorithm_of_any_policy_gives_a_secret_away() {
    for policy in ["\"compatible\"", "\"fips-like\""] {
        let gateway = Gateway::with(&[("sftp.algorithms", policy)]);
        let _ = gateway.user("victim");
        let cases = ["algorithms_with_known_faults", "public_values_that_give_the_secret_away"];
        let told = attack(&gateway, "hostile_ssh.py", "victim", &cases);
        assert_eq!(told.matches("ok ").count(), cases.len(), "{policy}: {told}");
    }
}

/// Processor time of the server so far, in hundredths of a second.
fn worked(gateway: &Gateway) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", gateway.pid())).unwrap();
    let fields = stat.rsplit(") ").next().unwrap().split(' ');
    fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

/// x/crypto CVE-2026-39829.
#[test]
fn an_rsa_key_is_judged_by_its_length_before_it_is_computed_with() {
    let gateway = Gateway::new();
    let _ = gateway.user("victim");
    let before = worked(&gateway);
    let told = attack(&gateway, "hostile_ssh.py", "victim", &["keys_that_cost_more_than_they_prove"]);
    assert!(told.starts_with("ok "), "{told}");
    let took = worked(&gateway) - before;
    assert!(took < 100, "{took} hundredths of a second");
    // Nor does one become a user's.
    let number = |bytes: &[u8]| string(&[&[0], bytes].concat());
    let blob = [string(b"ssh-rsa"), number(&[1, 0, 1]), number(&[0xff; 2048])].concat();
    let blob = gateway.file("long.blob", &blob);
    let base64 = run(&mut tool("base64", &["-w", "0", blob.to_str().unwrap()])).ok();
    let line = format!("ssh-rsa {base64} long\n");
    let long = gateway.cli_with(&["user", "add", "long", "--public-key", "-"], &line).fails(4);
    assert!(long.contains("16384 bits is longer than 8192"), "{long}");
}

/// russh CVE-2026-42189.
#[test]
fn as_many_answers_are_read_as_there_are() {
    let gateway = Gateway::new();
    let _ = gateway.user("victim");
    gateway.ok(&["user", "set", "victim", "--login", "publickey,totp"]);
    let _ = gateway.json(&["user", "totp", "victim"]);
    gateway.followed();
    let before = gateway.peak_memory();
    let told = attack(&gateway, "hostile_ssh.py", "victim", &["an_answer_that_counts_in_billions"]);
    assert!(told.starts_with("ok "), "{told}");
    let grown = gateway.peak_memory() - before;
    assert!(grown < ALLOWED, "{grown} bytes");
}

/// OpenSSH CVE-2024-6387.
#[test]
fn the_time_for_a_login_ends_on_time_and_ends_nothing_else() {
    let gateway = Gateway::with(&[("sftp.login_grace", "\"3s\"")]);
    let user = gateway.user("victim");
    let told = attack(&gateway, "hostile_ssh.py", "victim", &["the_time_for_a_login_is_counted_in_all"]);
    assert!(told.starts_with("ok "), "{told}");
    assert!(user.logs_in() && !gateway.log().contains("panicked"), "{}", gateway.log());
}

/// MINA CVE-2021-30129.
#[test]
fn sessions_that_came_and_went_leave_no_memory_behind() {
    let gateway = Gateway::new();
    let _ = gateway.user("victim");
    let soak = || {
        let told = attack(&gateway, "hostile_ssh.py", "victim", &["what_comes_and_goes"]);
        assert!(told.starts_with("ok "), "{told}");
        gateway.peak_memory()
    };
    let _ = soak();
    let warm = soak();
    let _ = soak();
    let grown = soak() - warm;
    println!("{} KiB over {} KiB", grown >> 10, warm >> 10);
    assert!(grown < LEFT, "{grown} bytes over {warm}");
}

/// Cleo CVE-2024-50623, CVE-2024-55956: no name and no mode makes a program of a file, and none of the places that a server
/// might look into takes one. MINA CVE-2022-45047: nor is a host key anything but a key.
#[test]
fn what_is_uploaded_is_data_and_is_never_run() {
    let pair = Pair::one_gateway();
    let (gateway, user) = (pair.alice(), &pair.alice_user);
    let marker = gateway.path("was-run");
    let script = format!("#!/bin/sh\ntouch {}\n", marker.display());
    let names = [
        "autorun.sh",
        "hosts.xml",
        "healthchecktemplate.txt",
        "run.cmd",
        "x.jsp",
        "x.jar",
        "%3bx.php",
        "$(x).py",
        "`x`.pl",
    ];
    for name in names {
        let local = gateway.file(&format!("local/{name}"), script.as_bytes());
        fs::set_permissions(&local, fs::Permissions::from_mode(0o755)).unwrap();
        let quoted = tests::sftp::quoted(&local.display().to_string());
        user.ok(&[&format!("put -p {quoted} AS2/send/ALICE/BOB/")]);
        let got = gateway.reaches("in", name, "filed");
        let filed = gateway.tree(&format!("files/BOB/ALICE/inbox/{}", got["id"].as_str().unwrap()));
        gateway.wait("the file on disk", |_| filed.is_dir().then_some(()));
        let filed = wait_for("the file", || fs::read_dir(&filed).unwrap().next()).unwrap().path();
        // Its name is there before its bytes.
        wait_for(name, || (fs::read_to_string(&filed).unwrap() == script).then_some(()));
        assert_eq!(fs::metadata(&filed).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    let local = gateway.path("local/autorun.sh");
    for place in [
        "",
        "AS2/",
        "AS2/send/",
        "AS2/autorun/",
        "AS2/keystore/",
        "AS2/tmp/",
        "AS2/files/BOB/ALICE/inbox/",
        "/etc/cron.d/",
    ] {
        let _ = user.refused(&format!("put {} {place}autorun.sh", local.display()));
    }
    assert!(!marker.exists());

    let other = Gateway::stopped(&[]);
    other.file(
        "data/host-keys/ssh_host_ed25519_key",
        b"\xac\xed\0\x05sr\0\x15java.security.KeyPair\x97\x03\x0c:\xd2\xcd\x12\x93",
    );
    other.spawn();
    other.wait("the refusal", |other| {
        other.log().contains("cannot read the host key").then_some(())
    });
}

/// bssh 214: the journal says what is there; a link on the disk is nothing, and is replaced where a file has to be.
#[test]
fn links_on_the_disk_are_neither_shown_nor_followed() {
    let pair = Pair::one_gateway();
    let (gateway, user) = (pair.alice(), &pair.alice_user);
    let secret = gateway.file("secret", b"untouched");
    let parcel = pair.deliver("seen.edi", b"seen");
    let inbox = format!("files/BOB/ALICE/inbox/{}", parcel.got_id());
    gateway.wait("the file on disk", |gateway| {
        gateway.tree(&inbox).join("seen.edi").exists().then_some(())
    });
    symlink(&secret, gateway.tree(&inbox).join("link.edi")).unwrap();
    symlink(gateway.path("."), gateway.tree(&inbox).join("out")).unwrap();
    symlink("/", gateway.tree("files/out")).unwrap();
    assert_eq!(user.ls(&format!("AS2/{inbox}")), ["seen.edi"]);
    for path in [
        format!("{inbox}/link.edi"),
        format!("{inbox}/out/secret"),
        "files/out/etc/passwd".to_owned(),
    ] {
        let told = user.refused(&format!("get AS2/{path} {}", gateway.path("got").display()));
        assert!(told.contains("not found") || told.contains("No such file"), "{told}");
    }
    // Through the link nothing is written.
    let duplicate = gateway.tree("duplicate/ALICE/BOB/seen.edi");
    fs::create_dir_all(duplicate.parent().unwrap()).unwrap();
    symlink(&secret, &duplicate).unwrap();
    pair.put("seen.edi", b"written");
    gateway.wait("the link to be replaced", |_| {
        fs::symlink_metadata(&duplicate).unwrap().is_file().then_some(())
    });
    assert_eq!(fs::read(&secret).unwrap(), b"untouched");
    assert_eq!(user.get("AS2/duplicate/ALICE/BOB/seen.edi"), b"written");
    let _ = user.refused(&format!("ln -s {} AS2/send/ALICE/BOB/made", secret.display()));
}

/// SFTPGo CVE-2026-30914: rights are judged on the path that is used, however it is spelled. ProFTPD CVE-2019-12815: by whatever
/// request something would come to be.
#[test]
fn no_spelling_and_no_request_gets_around_a_right() {
    const NO: [Option<u32>; 2] = [Some(2), Some(3)];
    let pair = Pair::one_with(&[("uploads.release_after", "\"1h\"")]);
    let gateway = pair.alice();
    let user = gateway.user("narrow");
    gateway.ok(&["user", "set", "narrow", "--rights", "AS2/send/ALICE=rwd"]);
    gateway.followed();
    let mut client = Packets::of(&user);
    let name = |path: &str| string(path.as_bytes());
    let create = |client: &mut Packets, path: &str| client.ask(3, &[&name(path), &0x1au32.to_be_bytes(), &[0; 4]]);
    let spellings = |place: &str| {
        [
            format!("/mftg-acme/AS2/{place}"),
            format!("AS2/send/ALICE/BOB/../../../{place}"),
            format!("AS2/send/ALICE/../../../AS2/./{place}/"),
            format!("AS2//send/ALICE/BOB/..//..//..//{place}//"),
            format!("/../mftg-acme/AS2/send/ALICE/../../{place}/."),
            format!("/mftg-acme/AS2/send/ALICE/BOB/x/../../../../{place}"),
        ]
    };
    for own in spellings("send/ALICE/BOB") {
        assert_eq!(client.ask(11, &[&name(&own)]).kind, 102, "{own}");
    }
    let opened = create(&mut client, "AS2/send/ALICE/BOB/own.edi");
    let handle = string(&opened.text());
    assert_eq!(client.ask(6, &[&handle, &[0; 8], &string(b"content")]).code(), Some(0));
    assert_eq!(client.ask(4, &[&handle]).code(), Some(0));
    let own = name("AS2/send/ALICE/BOB/own.edi");
    for closed in ["send/BOB/ALICE", "files", "headers", "keystore", "tmp"]
        .into_iter()
        .flat_map(spellings)
    {
        assert!(NO.contains(&client.ask(11, &[&name(&closed)]).code()), "OPENDIR {closed}");
        let file = format!("{closed}/x.edi");
        for flags in [0x1u32, 0x2, 0xa, 0x1a, 0x2a, 0xe] {
            let told = client.ask(3, &[&name(&file), &flags.to_be_bytes(), &[0; 4]]);
            assert!(NO.contains(&told.code()), "OPEN {flags} {file}: {told:?}");
        }
        let more: [(u8, Vec<u8>); 7] = [
            (13, name(&file)),
            (14, [name(&file), vec![0; 4]].concat()),
            (18, [own.clone(), name(&file)].concat()),
            (20, [own.clone(), name(&file)].concat()),
            (200, [name("posix-rename@openssh.com"), own.clone(), name(&file)].concat()),
            (200, [name("hardlink@openssh.com"), own.clone(), name(&file)].concat()),
            (9, [name(&file), 1u32.to_be_bytes().to_vec(), vec![0; 8]].concat()),
        ];
        for (kind, fields) in more {
            let told = client.ask(kind, &[&fields]);
            assert!(![None, Some(0)].contains(&told.code()), "request {kind} {file}: {told:?}");
        }
    }
    assert_eq!(pair.alice_user.ls("AS2/send/ALICE/BOB"), ["own.edi"]);
    assert!(pair.bob_user.ls("AS2/send/BOB/ALICE").is_empty());
}

/// SFTPGo CVE-2026-30914.
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

/// MINA CVE-2023-35887.
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
    let _turn = hundreds_of_sockets();
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

/// DHEat, CVE-2002-20001.
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
