//! What partners answer to a POST, and what the message becomes (as2.md §6.2).

use super::*;

#[test]
fn a_good_answer_delivers_in_every_mode() {
    let stage = stage();
    let scenes: Vec<_> = ["sync", "sync-signed", "async", "async-signed", "none"]
        .map(|mode| {
            let good = good(&stage);
            Scene::play(mode, &[], move |hit, _| good(hit))
        })
        .into();
    scenes.iter().for_each(|scene| {
        let message = scene.reaches("delivered");
        assert_eq!(message["mdn_signature"], "signed", "{message:#}");
    });
    scenes[0].ends("delivered", "", 1);
    scenes.iter().for_each(|scene| scene.posts(1));
}

#[test]
fn a_2xx_without_mdn_is_an_unknown_outcome() {
    let bodies = [
        http(200, &[], ""),
        http(200, &[("Content-Type", "text/html")], "<html>OK</html>"),
        http(204, &[], ""),
        http(
            200,
            &[("Content-Type", "multipart/report; report-type=disposition-notification; boundary=x")],
            "--x\r\ngarbage",
        ),
        http(200, &[("Content-Type", "multipart/signed; boundary=x")], "\0\0\0"),
    ];
    for bytes in bodies {
        let (one, two, three) = (bytes.clone(), bytes.clone(), bytes);
        let sync = Scene::play("sync-signed", &[], move |_, _| one.clone());
        let asynchronous = Scene::play("async-signed", &[], move |_, _| two.clone());
        let none = Scene::play("none", &[], move |_, _| three.clone());
        asynchronous.reaches("waiting-mdn");
        none.reaches("delivered");
        let message = sync.ends("failed", "no-mdn", 1);
        assert_eq!(message["mdn_disposition"].as_str().unwrap_or_default(), "");
        assert_eq!(asynchronous.message()["state"], "waiting-mdn");
        asynchronous.posts(1);
        none.posts(1);
    }
}

#[test]
fn an_answer_larger_than_any_mdn_is_an_unknown_outcome_at_once() {
    let scene = Scene::play("sync-signed", &[], |_, _| {
        http(200, &[("Content-Type", "text/html")], &"x".repeat(3 << 20))
    });
    scene.ends("failed", "no-mdn", 1);
}

#[test]
fn an_answer_cut_off_in_its_body_goes_again_with_the_same_bytes() {
    let _held = stage();
    let play = |mode: &str| {
        Scene::play(
            mode,
            &[],
            with_stage(|stage, hit, count| {
                let mut bytes = answer(200, &Receipt::of(hit).signed(&stage.partner));
                if count < 3 {
                    bytes.truncate(bytes.len() - 300);
                }
                bytes
            }),
        )
    };
    let (sync, waiting, none) = (play("sync-signed"), play("async-signed"), play("none"));
    waiting.reaches("waiting-mdn");
    none.reaches("delivered");
    sync.ends("delivered", "", 3);
    assert_eq!(waiting.message()["state"], "waiting-mdn");
    waiting.posts(1);
    none.posts(1);
}

/// The same answer in three modes ends in the same way, after one post.
#[track_caller]
fn final_in_every_mode(status: u16, headers: &'static [(&'static str, &'static str)], code: &str) -> Value {
    let scenes = ["sync-signed", "async-signed", "none"].map(|mode| Scene::play(mode, &[], move |_, _| http(status, headers, "Sorry.")));
    for scene in &scenes {
        let message = scene.reaches("failed");
        assert_eq!(message["code"], code, "{message:#}");
    }
    let message = scenes[0].ends("failed", code, 1);
    scenes.iter().for_each(|scene| scene.posts(1));
    assert_ne!(message["hint"].as_str().unwrap_or_default(), "", "{message:#}");
    message
}

#[test]
fn redirects_are_errors_of_configuration() {
    for status in [301, 302, 307, 308] {
        final_in_every_mode(status, &[("Location", "http://127.0.0.1:9/elsewhere")], "redirect");
    }
}

#[test]
fn status_401_asks_for_credentials() {
    let message = final_in_every_mode(401, &[("WWW-Authenticate", "Basic realm=x")], "http-401");
    assert!(message["hint"].as_str().unwrap().contains("credentials"), "{message:#}");
}

#[test]
fn status_403_and_404_are_final() {
    final_in_every_mode(403, &[], "http-403");
    final_in_every_mode(404, &[], "http-404");
}

#[test]
fn status_411_hints_at_chunking() {
    let message = final_in_every_mode(411, &[], "http-411");
    let set = format!("as2gate partner set {} --chunked false", message["partner"].as_str().unwrap());
    assert!(message["hint"].as_str().unwrap().contains(&set), "{message:#}");
}

#[test]
fn status_413_and_422_are_final() {
    let message = final_in_every_mode(413, &[], "http-413");
    assert!(message["hint"].as_str().unwrap().contains("size"), "{message:#}");
    let message = final_in_every_mode(422, &[], "http-422");
    assert!(message["hint"].as_str().unwrap().contains("AS2 id"), "{message:#}");
}

#[test]
fn passing_trouble_is_tried_again_with_the_same_bytes() {
    let stage = stage();
    let scenes: Vec<_> = [408, 407, 425, 429, 500, 502, 503, 504]
        .map(|status| {
            let good = good(&stage);
            Scene::play(
                "sync-signed",
                &[],
                move |hit, count| if count < 2 { http(status, &[], "Later.") } else { good(hit) },
            )
        })
        .into();
    scenes.iter().for_each(|scene| {
        scene.reaches("delivered");
    });
    scenes.iter().for_each(|scene| scene.posts(2));
    let message = scenes[0].ends("delivered", "", 2);
    assert_eq!(message["tries"][0]["status"], 408, "{message:#}");
}

#[test]
fn retry_after_is_honoured() {
    let stage = stage();
    let scenes = [429, 503].map(|status| {
        let good = good(&stage);
        Scene::play("sync-signed", &[], move |hit, count| {
            if count < 2 {
                http(status, &[("Retry-After", &RETRY_AFTER.to_string())], "Later.")
            } else {
                good(hit)
            }
        })
    });
    for scene in &scenes {
        scene.reaches("delivered");
        scene.posts(2);
        let hits = scene.hits.lock().unwrap();
        assert!(
            hits[1].at - hits[0].at >= Duration::from_secs(RETRY_AFTER),
            "{:?}",
            hits[1].at - hits[0].at
        );
    }
}

#[test]
fn what_was_asked_for_judges_the_answer_not_the_setting_of_today() {
    // Asked for a signed MDN, then the setting says that none is asked for: a bare 2xx is still no delivery.
    let asked = Scene::play("sync-signed", &[], |_, count| http(if count < 2 { 503 } else { 200 }, &[], ""));
    asked.hit();
    asked.stage.gate.ok(&["partner", "set", &asked.partner, "--mdn", "none"]);
    let failed = asked.reaches("failed");
    assert_eq!(failed["code"], "no-mdn", "{failed:#}");
    // And the other way: nothing was asked for, so a 2xx is all there is.
    let silent = Scene::play("none", &[], |_, count| http(if count < 2 { 503 } else { 200 }, &[], ""));
    silent.hit();
    silent.stage.gate.ok(&["partner", "set", &silent.partner, "--mdn", "sync-signed"]);
    silent.reaches("delivered");
}

#[test]
fn retry_after_may_be_a_date() {
    let good = good(&stage());
    let scene = Scene::play("sync-signed", &[], move |hit, count| {
        if count < 2 {
            let date = run(&mut tool("date", &["-u", "-d", "+6 seconds", "+%a, %d %b %Y %H:%M:%S GMT"])).ok();
            http(503, &[("Retry-After", date.trim())], "Later.")
        } else {
            good(hit)
        }
    });
    scene.reaches("delivered");
    let hits = scene.hits.lock().unwrap();
    assert!(
        hits[1].at - hits[0].at >= Duration::from_secs(RETRY_AFTER),
        "{:?}",
        hits[1].at - hits[0].at
    );
}

#[test]
fn the_last_try_tells_whether_the_partner_may_hold_the_message() {
    let tries = ["--retry-max-tries", "2"];
    let refused = Scene::towards(&stage(), free_port(), "sync-signed", &tries, &order(1), Arc::default());
    let answered = Scene::play("sync-signed", &tries, |_, _| http(503, &[], "Later."));
    let silent = Scene::play("sync-signed", &tries, |_, _| Vec::new());
    for scene in [&answered, &silent] {
        let message = scene.reaches("failed");
        assert_eq!(
            (&message["code"], &message["attempts"]),
            (&"no-mdn".into(), &2.into()),
            "{message:#}"
        );
    }
    let message = refused.ends("failed", "not-delivered", 0);
    assert_eq!(message["attempts"], 2, "{message:#}");
    assert!(
        message["tries"].as_array().unwrap().iter().all(|one| one["body_sent"] == false),
        "{message:#}"
    );
    answered.ends("failed", "no-mdn", 2);
    silent.ends("failed", "no-mdn", 2);
}

#[test]
fn a_reset_after_the_body_goes_again_in_every_mode() {
    let stage = stage();
    let cases = [
        ("sync-signed", ""),
        ("async-signed", ""),
        ("none", ""),
        ("none", "HTTP/1.1 2"),
        ("none", "SSH-2.0-OpenSSH_9.2\r\n"),
    ];
    let scenes = cases.map(|(mode, first)| {
        let good = good(&stage);
        Scene::play(mode, &[], move |hit, count| if count < 2 { first.into() } else { good(hit) })
    });
    scenes.iter().for_each(|scene| {
        scene.reaches("delivered");
    });
    scenes[0].ends("delivered", "", 2);
    scenes.iter().for_each(|scene| scene.posts(2));
}

#[test]
fn a_connection_reset_after_the_body_goes_again_with_the_same_bytes() {
    let stage = stage();
    let (good, port) = (good(&stage), free_port());
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let hits = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&hits);
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let Some(hit) = read_request(&mut stream) else { continue };
            seen.lock().unwrap().push(hit.clone());
            if seen.lock().unwrap().len() < 2 {
                // Closed with this set, a socket says RST and not FIN.
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            } else {
                let _ = stream.write_all(&good(&hit));
            }
        }
    });
    let scene = Scene::towards(&stage, port, "sync-signed", &[], &order(next()), hits);
    let message = scene.ends("delivered", "", 2);
    let first = &message["tries"][0];
    assert!(first["body_sent"] == true && first.to_string().contains("reset"), "{message:#}");
}

/// A TLS server of openssl with a certificate for this name by an authority that the gateway trusts.
fn server_named(authority: &Identity, name: &str) -> (std::process::Child, u16) {
    let (port, files) = (free_port(), authority.path(name));
    let at = |file: &str| format!("{}.{file}", files.display());
    let kind = if name.parse::<std::net::IpAddr>().is_ok() { "IP" } else { "DNS" };
    let key = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "10",
        "-subj",
        "/CN=server",
    ];
    let alternative = format!("subjectAltName={kind}:{name}");
    let (ca, ca_key) = (authority.path("cert.pem"), authority.path("key.pem"));
    let issuer = [
        "-CA",
        ca.to_str().unwrap(),
        "-CAkey",
        ca_key.to_str().unwrap(),
        "-addext",
        &alternative,
    ];
    let out = [
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-keyout",
        &at("key"),
        "-out",
        &at("crt"),
    ];
    let _ = run(&mut tool("openssl", &[&key[..], &issuer, &out].concat())).ok();
    let server = tool(
        "openssl",
        &[
            "s_server",
            "-quiet",
            "-accept",
            &port.to_string(),
            "-cert",
            &at("crt"),
            "-key",
            &at("key"),
        ],
    )
    .stdin(std::process::Stdio::piped())
    .stdout(std::process::Stdio::null())
    .stderr(std::process::Stdio::null())
    .spawn()
    .unwrap();
    wait_for("the TLS server", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    (server, port)
}

#[test]
fn a_trusted_certificate_for_another_name_is_no_delivery() {
    let authority = Identity::new("authority");
    let trusted = vec![("SSL_CERT_FILE".to_owned(), authority.path("cert.pem").display().to_string())];
    let stage = Arc::new(Stage::of(Gateway::of(tests::process::as2gate(), trusted, &[])));
    let outcomes = ["127.0.0.1", "other.example"].map(|name| {
        let (mut server, port) = server_named(&authority, name);
        let url = format!("https://127.0.0.1:{port}/as2");
        let options = ["--retry-max-tries", "1", "--response-timeout", "2s", "--url", &url];
        let message = Scene::towards(&stage, 9, "none", &options, &order(1), Arc::default()).reaches("failed");
        let _ = (server.kill(), server.wait());
        message
    });
    // The control: under its own name it gets the whole message, and gives no answer.
    assert_eq!(outcomes[0]["tries"][0]["body_sent"], true, "{:#}", outcomes[0]);
    assert_eq!(
        (&outcomes[1]["code"], &outcomes[1]["tries"][0]["body_sent"]),
        (&"not-delivered".into(), &false.into()),
        "{:#}",
        outcomes[1]
    );
    assert!(stage.gate.log().contains("certificate"), "nobody was told");
}

#[test]
fn names_and_certificates_that_do_not_hold_are_no_delivery() {
    let stage = stage();
    let port = free_port();
    let key = stage.stranger.path("both.pem");
    let listen = port.to_string();
    let args = [
        "s_server",
        "-quiet",
        "-accept",
        &listen,
        "-cert",
        key.to_str().unwrap(),
        "-key",
        key.to_str().unwrap(),
    ];
    let mut server = tool("openssl", &args);
    let mut server = server
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let ended = [format!("https://127.0.0.1:{port}/as2"), "http://nobody.invalid/as2".to_owned()].map(|url| {
        let options = ["--retry-max-tries", "2", "--url", &url];
        Scene::towards(&stage, 9, "none", &options, &order(1), Arc::default()).reaches("failed")
    });
    let _ = (server.kill(), server.wait());
    // Somebody else answers there: that is told at the first try.
    let untrusted = |partner: &serde_json::Value| {
        let events = format!("SELECT facts ->> '$.code' FROM event WHERE kind = 'message.retrying' AND facts ->> '$.partner' = {partner}");
        stage.gate.sql(&events.replace('"', "'"))
    };
    assert_eq!(untrusted(&ended[0]["partner"]), ["tls-untrusted"]);
    assert_eq!(untrusted(&ended[1]["partner"]), ["not-delivered"]);
    for message in ended {
        assert_eq!(
            (&message["code"], &message["attempts"]),
            (&"not-delivered".into(), &2.into()),
            "{message:#}"
        );
        assert!(
            message["tries"].as_array().unwrap().iter().all(|one| one["body_sent"] == false),
            "{message:#}"
        );
    }
}

#[test]
fn a_retry_by_hand_posts_the_same_bytes() {
    let good = good(&stage());
    let scene = Scene::play("sync-signed", &[], move |hit, count| match count {
        1 => http(404, &[], "Not here."),
        2 => http(200, &[], ""),
        _ => good(hit),
    });
    for code in ["http-404", "no-mdn"] {
        let message = scene.stage.gate.wait("the end of a try", |_| {
            Some(scene.message()).filter(|message| message["state"] == "failed" && message["code"] == code)
        });
        scene.stage.gate.ok(&["message", "retry", message["id"].as_str().unwrap()]);
    }
    let message = scene.stage.gate.wait("delivery", |_| {
        Some(scene.message()).filter(|message| message["state"] == "delivered")
    });
    scene.posts(3);
    assert_eq!(message["attempts"], 3, "{message:#}");
}

#[test]
fn what_is_being_posted_is_neither_retried_nor_cancelled() {
    let (good, answers) = (good(&stage()), Arc::new(AtomicBool::new(false)));
    let may_answer = Arc::clone(&answers);
    let scene = Scene::play("sync-signed", &["--detects-duplicates", "false"], move |hit, _| {
        wait_for("leave to answer", || may_answer.load(Ordering::Relaxed).then_some(()));
        good(hit)
    });
    scene.hit();
    let id = scene.message()["id"].as_str().unwrap().to_owned();
    for verb in ["cancel", "retry", "cancel"] {
        let ran = scene.stage.gate.cli(&["message", verb, &id]);
        assert!(ran.code == 1 && ran.stderr.contains("being posted"), "{verb}: {ran}");
        assert_eq!(scene.message()["state"], "sending", "after {verb}");
    }
    answers.store(true, Ordering::Relaxed);
    let message = scene.ends("delivered", "", 1);
    assert_eq!(message["mdn_signature"], "signed", "{message:#}");
}

#[test]
fn no_answer_in_time_goes_again() {
    let good = good(&stage());
    // The second answer is signed by a program, which takes its time on a busy machine.
    let scene = Scene::play("sync-signed", &["--response-timeout", "5s"], move |hit, count| {
        if count < 2 {
            thread::sleep(Duration::from_secs(8));
        }
        good(hit)
    });
    scene.ends("delivered", "", 2);
}

#[test]
fn interim_answers_are_not_the_answer() {
    let good = good(&stage());
    let scene = Scene::play("sync-signed", &[], move |hit, _| {
        [
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nX-Some: thing\r\n\r\n".as_slice(),
            &good(hit),
        ]
        .concat()
    });
    scene.ends("delivered", "", 1);
}

/// A partner that answers after the head, reads nothing for a while, and drains or drops the rest.
fn early(mode: &str, status: u16, drains: bool) -> Scene {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut piece = [0u8; 4096];
            let _ = stream.read(&mut piece);
            if status > 0 {
                let _ = stream.write_all(&http(status, &[], "Enough."));
            }
            thread::sleep(Duration::from_millis(500));
            while drains && stream.read(&mut piece).is_ok_and(|n| n > 0) {}
        }
    });
    let tries = ["--retry-max-tries", "2"];
    Scene::towards(&stage(), port, mode, &tries, &noise(16 << 20, 7), Arc::default())
}

#[test]
fn an_answer_before_the_end_of_the_body_counts() {
    let (refused, dropped, later) = (
        early("sync-signed", 413, true),
        early("async-signed", 413, false),
        early("none", 503, true),
    );
    for scene in [&refused, &dropped] {
        let message = scene.reaches("failed");
        assert_eq!(
            (&message["code"], &message["attempts"]),
            (&"http-413".into(), &1.into()),
            "{message:#}"
        );
    }
    let message = later.reaches("failed");
    assert_eq!(message["attempts"], 2, "{message:#}");
}

#[test]
fn a_200_before_the_end_of_the_body_is_no_delivery() {
    // The partner never took the body: its 200 cannot mean that it holds the message.
    let message = early("none", 200, false).reaches("failed");
    assert_eq!(message["attempts"], 2, "{message:#}");
}

#[test]
fn a_connection_lost_inside_the_body_is_no_delivery() {
    let message = early("none", 0, false).reaches("failed");
    assert_eq!(
        (&message["code"], &message["attempts"]),
        (&"not-delivered".into(), &2.into()),
        "{message:#}"
    );
}
