//! `partner test`: what it tells of each step, and that it leaves nothing behind that goes on by itself.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tests::peer::Identity;
use tests::process::{PATIENCE, Server, free_port, run, tool};
use tests::wire::{http, serve};
use tests::{Gateway, Pair, order};

/// A web server of Python over TLS, with one protocol version, and its port.
fn tls_server(identity: &Identity, version: &str) -> (Server, u16) {
    let port = free_port();
    let script = "import http.server, ssl, sys\n\
                      c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n\
                      c.load_cert_chain(sys.argv[2])\n\
                      c.minimum_version = c.maximum_version = getattr(ssl.TLSVersion, sys.argv[3])\n\
                      s = http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler)\n\
                      s.socket = c.wrap_socket(s.socket, server_side=True)\n\
                      s.serve_forever()";
    let both = identity.path("both.pem");
    let args = ["-c", script, &port.to_string(), both.to_str().unwrap(), version];
    let server = Server::start(&mut tool("python3", &args), port, &identity.path(version));
    (server, port)
}

#[test]
fn partner_test_tells_each_step_and_what_to_do() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    let peer = Identity::new("peer");
    let (old, new) = (tls_server(&peer, "TLSv1_2"), tls_server(&peer, "TLSv1_3"));
    let url = |port: u16| format!("https://127.0.0.1:{port}/as2");
    let certificate = peer.path("cert.pem").display().to_string();
    let add = ["partner", "add", "PEER", "--private", "true", "--certificate", &certificate];
    gateway.ok(&[&add[..], &["--url", &url(old.1)]].concat());
    let test = || gateway.cli(&["partner", "test", "PEER", "--connect-only"]);
    let fails_with = |step: &str, hint: &str| {
        let ran = test();
        assert!(
            ran.code != 0 && ran.stdout.contains(&format!("no   {step}")) && ran.stderr.contains(hint),
            "{ran}"
        );
    };
    // Nobody vouches for its certificate; pinned, it is good.
    fails_with("TLS", "as2gate cert add NAME --partner PEER --use https --file FILE");
    gateway.ok(&[
        "cert",
        "add",
        "peer-tls",
        "--partner",
        "PEER",
        "--use",
        "https",
        "--file",
        &certificate,
    ]);
    let ran = test();
    for words in [
        "ok   name resolves",
        "ok   connection is made",
        "TLSv1.2",
        ", as pinned",
        "ok   HTTP answers",
        "ok   url answers",
    ] {
        assert!(ran.code == 0 && ran.stdout.contains(words), "{words}: {ran}");
    }
    // The least version is a setting of the partner.
    gateway.ok(&["partner", "set", "PEER", "--tls", "1.3"]);
    fails_with("TLS", "as2gate partner set PEER --tls default");
    gateway.ok(&["partner", "set", "PEER", "--url", &url(new.1)]);
    let ran = test();
    assert!(ran.code == 0 && ran.stdout.contains("TLSv1.3"), "{ran}");
    // Another certificate than the pinned one.
    let other = tls_server(&Identity::new("other"), "TLSv1_3");
    gateway.ok(&["partner", "set", "PEER", "--url", &url(other.1)]);
    fails_with("TLS", "compare the fingerprint");
    // Nobody there; no such name; a name inside our own networks.
    gateway.ok(&["partner", "set", "PEER", "--url", &url(free_port())]);
    fails_with("connection", "firewall");
    gateway.ok(&["partner", "set", "PEER", "--url", "http://nobody.invalid/as2"]);
    fails_with("name", "host name");
    gateway.ok(&["partner", "set", "PEER", "--url", &url(new.1), "--private", "false"]);
    fails_with("name", "as2gate partner set PEER --private true");
}

#[test]
fn partner_test_ends_in_time_and_tells_how_far_it_came() {
    let pair = Pair::two_gateways();
    let alice = pair.alice();
    let point_to = |listener: &TcpListener| {
        let url = format!("http://{}/as2", listener.local_addr().unwrap());
        alice.change(&["partner", "set", "BOB", "--url", &url]);
    };
    let test = |more: &[&str]| {
        let began = Instant::now();
        let ran = alice.cli(&[&["partner", "test", "BOB", "--timeout", "6s"], more].concat());
        assert!(ran.code == 6 && began.elapsed() < PATIENCE, "{:?} {ran}", began.elapsed());
        ran
    };
    // Nobody takes the connection out of the queue: the request goes out, and no answer comes.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    point_to(&silent);
    let ran = test(&[]);
    assert!(
        ran.stdout.contains("ok   connection is made") && ran.stdout.contains("ok   HTTP is silent"),
        "{ran}"
    );
    assert!(
        ran.stdout.contains("no   test message") && ran.stderr.contains("whether by http:// or https://"),
        "{ran}"
    );
    drop(silent);
    alice.wait("the end of its one try", |alice| {
        (alice.messages("out").iter().all(|message| message["state"] == "failed")).then_some(())
    });

    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    point_to(&busy);
    serve(busy, |_, _| http(503, &[], ""));
    let ran = test(&[]);
    assert!(
        ran.stdout.contains("no   test message")
            && ran.stdout.contains("failed: HTTP 503; nothing more of it is sent")
            && ran.stderr.contains("HTTP 503")
            && ran.stderr.contains("its server is busy or down"),
        "{ran}"
    );
    let told: serde_json::Value = serde_json::from_str(&test(&["-o", "json"]).stdout).unwrap();
    let (steps, last) = (told["steps"].as_array().unwrap(), told["steps"].as_array().unwrap().last().unwrap());
    assert!(steps.len() > 4 && steps[0]["ok"] == true && told["ok"] == false, "{told:#}");
    assert!(
        last["detail"].as_str().unwrap().contains("HTTP 503") && last["hint"] != "",
        "{told:#}"
    );

    // Nobody waits for the files of tests.
    for test in alice.messages("out") {
        let shown = alice.json(&["message", "show", test["id"].as_str().unwrap()]);
        assert_eq!(shown["marks"], serde_json::json!(["test"]), "{shown:#}");
        assert_eq!(
            (&shown["state"], shown["tries"].as_array().unwrap().len()),
            (&"failed".into(), 1),
            "{shown:#}"
        );
    }
    assert_eq!(alice.json(&["message", "retry", "--state", "failed", "-n"]), serde_json::json!([]));

    // What was not even packaged, as it waits for those before it, was protected by nothing.
    alice.change(&["partner", "set", "BOB", "--in-order", "true"]);
    pair.put("before.edi", &order(1));
    alice.reaches("out", "before.edi", "retrying");
    let ran = test(&[]);
    assert!(
        !ran.stdout.contains("protected by") && ran.stdout.contains("failed: still queued when the time was over"),
        "{ran}"
    );
    assert!(
        alice
            .messages("out")
            .iter()
            .all(|message| message["file"] == "before.edi" || message["state"] == "failed")
    );
}

#[test]
fn a_failed_partner_test_posts_once_and_no_more() {
    let pair = Pair::two_with(&[("retry.initial", "\"100ms\""), ("retry.mdn_wait", "\"1s\"")]);
    let alice = pair.alice();
    // A web server: it greets everybody, and hangs up on what it did not read.
    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", web.local_addr().unwrap());
    let posts = Arc::new(AtomicUsize::new(0));
    let reads = Arc::new(AtomicBool::new(false));
    let (count, read) = (Arc::clone(&posts), Arc::clone(&reads));
    std::thread::spawn(move || {
        for mut stream in web.incoming().map_while(Result::ok) {
            let mut verb = [0; 4];
            let _ = stream.read_exact(&mut verb);
            let is_post = verb == *b"POST";
            count.fetch_add(usize::from(is_post), Ordering::SeqCst);
            if !is_post || read.load(Ordering::SeqCst) {
                let _ = stream.read(&mut [0; 1 << 16]);
            }
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<html>It works!</html>");
        }
    });
    alice.change(&["partner", "set", "BOB", "--url", &url]);
    for (mode, all) in [("sync-signed", false), ("sync-signed", true), ("async-signed", true)] {
        alice.change(&["partner", "set", "BOB", "--mdn", mode]);
        reads.store(all, Ordering::SeqCst);
        posts.store(0, Ordering::SeqCst);
        let ran = alice.cli(&["partner", "test", "BOB", "--timeout", "10s"]);
        assert!(ran.code == 6 && ran.stdout.contains("nothing more of it is sent"), "{ran}");
        let own = format!("http://127.0.0.1:{}/as2", alice.as2_port);
        assert_eq!(ran.stderr.contains(&own), mode == "async-signed", "{ran}");
        let test = alice.messages("out")[0].clone();
        assert_eq!(test["state"], "failed", "{mode} {all}: {test:#}");
        // Time enough for several tries of a message.
        std::thread::sleep(Duration::from_millis(1_500));
        assert_eq!(posts.load(Ordering::SeqCst), 1, "{mode} {all}: {ran}");
    }
}

#[test]
fn partner_test_names_the_algorithms_that_were_used() {
    let pair = Pair::one_gateway();
    pair.alice().change(&[
        "partner",
        "set",
        "BOB",
        "--encrypt",
        "aes256-gcm",
        "--sign",
        "sha384",
        "--key-transport",
        "oaep-sha256",
    ]);
    let told = pair.alice().ok(&["partner", "test", "BOB", "--from", "ALICE"]);
    let line = told
        .lines()
        .find(|line| line.contains("protected by"))
        .unwrap_or_default()
        .to_lowercase();
    for word in ["384", "gcm", "oaep-sha256", "sync-signed"] {
        assert!(line.contains(word), "{word}: {told}");
    }
    // What is said of RSA keys is not said of others.
    let gateway = Gateway::stopped(&[]);
    for id in ["ALICE", "BOB"] {
        gateway.ok(&["station", "add", id, "--key", "ec-p256"]);
    }
    for id in ["ALICE", "BOB"] {
        gateway.ok(&["partner", "add", "--from-station", id]);
    }
    gateway.start();
    let told = gateway.ok(&["partner", "test", "BOB", "--from", "ALICE"]);
    assert!(told.contains("sign sha256 by ECDSA, encrypt aes256-cbc by ecdh-sha256,"), "{told}");
}

/// Has an authority certify the key of an identity anew: for this name, and for so many days.
fn certify(authority: &Identity, identity: &Identity, name: &str, days: &str) {
    let at = |identity: &Identity, file: &str| identity.path(file).display().to_string();
    let (key, csr, cert, names) = (
        at(identity, "key.pem"),
        at(identity, "csr.pem"),
        at(identity, "cert.pem"),
        at(identity, "names"),
    );
    std::fs::write(&names, format!("subjectAltName={name}")).unwrap();
    let _ = run(&mut tool(
        "openssl",
        &["req", "-new", "-key", &key, "-subj", "/CN=peer", "-out", &csr],
    ))
    .ok();
    let (ca, ca_key) = (at(authority, "cert.pem"), at(authority, "key.pem"));
    let by = ["x509", "-req", "-in", &csr, "-CA", &ca, "-CAkey", &ca_key, "-set_serial", "7"];
    let what = ["-days", days, "-extfile", &names, "-out", &cert];
    let _ = run(&mut tool("openssl", &[&by[..], &what].concat())).ok();
    let both = std::fs::read_to_string(&key).unwrap() + &std::fs::read_to_string(&cert).unwrap();
    std::fs::write(identity.path("both.pem"), both).unwrap();
}

#[test]
fn a_fault_of_a_tls_certificate_is_not_to_be_pinned() {
    let authority = Identity::new("authority");
    let trusted = vec![("SSL_CERT_FILE".to_owned(), authority.path("cert.pem").display().to_string())];
    let gateway = Gateway::of(tests::process::as2gate(), trusted, &[]);
    gateway.ok(&["station", "add", "ALICE"]);
    gateway.ok(&["partner", "add", "PEER", "--private", "true", "--url", "https://127.0.0.1:1/"]);
    let test = || gateway.cli(&["partner", "test", "PEER", "--connect-only"]);
    let peer = Identity::new("peer");
    for (name, days, words) in [
        (
            "DNS:other.example",
            "9",
            "look at the host in the URL: as2gate partner set PEER --url URL",
        ),
        ("IP:127.0.0.1", "-1", "the partner has to renew it"),
    ] {
        certify(&authority, &peer, name, days);
        let (_server, port) = tls_server(&peer, "TLSv1_3");
        gateway.ok(&["partner", "set", "PEER", "--url", &format!("https://127.0.0.1:{port}/as2")]);
        let ran = test();
        assert!(
            ran.code == 6 && ran.stderr.contains(words) && !ran.stderr.contains("cert add"),
            "{name}: {ran}"
        );
    }
    // Whoever pins it all the same sees that it has ended.
    let (_server, port) = tls_server(&peer, "TLSv1_3");
    gateway.ok(&["partner", "set", "PEER", "--url", &format!("https://127.0.0.1:{port}/as2")]);
    let file = peer.path("cert.pem").display().to_string();
    gateway.ok(&["cert", "add", "peer-tls", "--partner", "PEER", "--use", "https", "--file", &file]);
    let ran = test();
    assert!(ran.code == 0 && ran.stdout.contains("(expired "), "{ran}");
}

#[test]
fn a_partner_that_answers_messages_alone_passes_its_test() {
    let pair = Pair::two_gateways();
    let (alice, bob) = (pair.alice(), ("127.0.0.1", pair.bob().as2_port));
    let front = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/as2", front.local_addr().unwrap());
    std::thread::spawn(move || {
        for near in front.incoming().map_while(Result::ok) {
            let mut verb = [0; 4];
            if !near.peek(&mut verb).is_ok_and(|read| read == 4) || verb != *b"POST" {
                continue;
            }
            let far = TcpStream::connect(bob).unwrap();
            for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
        }
    });
    alice.change(&["partner", "set", "BOB", "--url", &url]);
    let ran = alice.cli(&["partner", "test", "BOB"]);
    assert!(
        ran.code == 0 && ran.stdout.contains("ok   HTTP is silent") && ran.stdout.contains("ok   signed MDN"),
        "{ran}"
    );
    let ran = alice.cli(&["partner", "test", "BOB", "--connect-only"]);
    assert!(
        ran.code == 6 && ran.stdout.contains("no   HTTP") && ran.stderr.contains("leave out --connect-only"),
        "{ran}"
    );
    // An answer to a question says little about messages.
    let locked = TcpListener::bind("127.0.0.1:0").unwrap();
    alice.change(&[
        "partner",
        "set",
        "BOB",
        "--url",
        &format!("http://{}/", locked.local_addr().unwrap()),
    ]);
    serve(locked, |_, _| http(401, &[], ""));
    let ran = alice.cli(&["partner", "test", "BOB", "--connect-only"]);
    assert!(
        ran.code == 0 && ran.stdout.contains("HTTP 401 to HEAD; a message may get another answer"),
        "{ran}"
    );
}
