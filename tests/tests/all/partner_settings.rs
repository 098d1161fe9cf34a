//! Settings of a partner as they show on the wire: variables, logins, limits of time.

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::process::{run, tool};
use tests::wire::exchange;
use tests::{Pair, order};

/// How soon a running server follows a change of its objects.
const FOLLOWS: Duration = Duration::from_secs(2);

/// The header block that came with a received message.
fn headers_of(pair: &Pair, got: &Value) -> String {
    let id = got["id"].as_str().unwrap();
    let bytes = pair.bob_user.get(&format!("AS2/headers/BOB/ALICE/inbox/{id}/headers.txt"));
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn variables_fill_subject_file_name_and_headers() {
    let pair = Pair::two_gateways();
    pair.alice().ok(&[
        "partner",
        "set",
        "BOB",
        "--subject",
        "$stem of $station for $partner, $$5",
        "--file-name",
        "../x/${stem}_$date.$ext",
        "--set",
        "headers.X-Source=$file;$id",
    ]);
    std::thread::sleep(FOLLOWS);
    pair.put("order-1.edi", &order(1));
    let sent = pair.alice().reaches("out", "order-1.edi", "delivered");
    let created = sent["created"].as_str().unwrap();
    let wanted = format!("order-1_{}.edi", created[..10].replace('-', ""));
    let got = pair.bob().reaches("in", &wanted, "filed");
    assert_eq!(got["subject"], "order-1 of ALICE for BOB, $5", "{got:#}");
    let headers = headers_of(&pair, &got);
    let line = format!("X-Source: order-1.edi;{}", sent["id"].as_str().unwrap());
    assert!(headers.lines().any(|found| found == line), "{headers}");
}

#[test]
fn a_variable_in_what_a_user_names_stays_text() {
    let pair = Pair::two_gateways();
    pair.alice().ok(&["partner", "set", "BOB", "--subject", "[$file]"]);
    std::thread::sleep(FOLLOWS);
    let parcel = pair.deliver("$station ${id}.edi", &order(2));
    assert_eq!(parcel.got["subject"], "[$station ${id}.edi]", "{:#}", parcel.got);
}

#[test]
fn unknown_variables_are_refused_where_they_are_written() {
    let pair = Pair::one_gateway();
    for setting in [
        ["--subject", "$filename"],
        ["--file-name", "x-${nobody}"],
        ["--set", "headers.X-A=$"],
    ] {
        let ran = pair.alice().cli(&[&["partner", "set", "BOB"][..], &setting].concat());
        assert!(
            ran.code != 0 && ran.stderr.contains("$station") && ran.stderr.contains("$$"),
            "{ran}"
        );
    }
    let file = pair.alice().file("a.edi", &order(3));
    let ran = pair.alice().cli(&[
        "send",
        file.to_str().unwrap(),
        "--from",
        "ALICE",
        "--to",
        "BOB",
        "--subject",
        "costs $5",
    ]);
    assert!(ran.code != 0 && ran.stderr.contains("is no variable"), "{ran}");
}

#[test]
fn a_partner_may_have_to_log_in() {
    let pair = Pair::two_gateways();
    let password = "correct horse: battery";
    for gateway in [pair.alice(), pair.bob()] {
        gateway.file("password.txt", password.as_bytes());
        gateway.file("wrong.txt", b"correct horse: bat");
    }
    pair.bob().ok(&[
        "partner",
        "set",
        "ALICE",
        "--inbound-user",
        "alice",
        "--inbound-password",
        "file:password.txt",
    ]);
    std::thread::sleep(FOLLOWS);
    let refused = |name: &str| {
        pair.put(name, &order(4));
        let failed = pair.alice().reaches("out", name, "failed");
        assert_eq!(failed["code"], "http-401", "{failed:#}");
        assert!(failed["hint"].to_string().contains("--http-user"), "{failed:#}");
        assert!(pair.bob().messages_of("in", name).is_empty());
    };
    refused("without.edi");
    let give = |file: &str| {
        let password = format!("file:{file}");
        pair.alice()
            .ok(&["partner", "set", "BOB", "--http-user", "alice", "--http-password", &password]);
        std::thread::sleep(FOLLOWS);
    };
    give("wrong.txt");
    refused("wrong.edi");
    give("password.txt");
    let parcel = pair.deliver("right.edi", &order(5));
    // What users may fetch never holds the password.
    let headers = headers_of(&pair, &parcel.got);
    assert!(
        headers.contains("Authorization: ***\n") || headers.contains("Authorization: ***\r\n"),
        "{headers}"
    );
    let shown = pair.bob().ok(&["partner", "show", "ALICE", "-o", "json"]);
    assert!(!shown.contains(password) && !headers.contains("Basic "), "{shown}");

    // The other way an async MDN comes by a POST of ALICE, whose signature is its proof. Nothing else passes there.
    pair.bob().ok(&["partner", "set", "ALICE", "--mdn", "async-signed"]);
    std::thread::sleep(FOLLOWS);
    let back = pair.bob().file("back.edi", &order(6));
    pair.bob().ok(&["send", back.to_str().unwrap(), "--from", "BOB", "--to", "ALICE"]);
    pair.bob().reaches("out", "back.edi", "delivered");
    let names = [("AS2-From", "ALICE"), ("AS2-To", "BOB"), ("Message-ID", "<x@test>")];
    let names = names.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(exchange(pair.bob().as2_port, "POST", "/mdn", &names, b"no MDN").status, 401);
}

#[test]
fn a_post_without_the_credentials_is_challenged_before_its_body() {
    let pair = Pair::two_gateways();
    pair.bob().file("password.txt", b"secret");
    pair.bob().ok(&[
        "partner",
        "set",
        "ALICE",
        "--inbound-user",
        "alice",
        "--inbound-password",
        "file:password.txt",
    ]);
    std::thread::sleep(FOLLOWS);
    let lines = |auth: Option<&str>| {
        let mut lines: Vec<(String, String)> = [("AS2-From", "ALICE"), ("AS2-To", "BOB"), ("Message-ID", "<x@test>")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec();
        lines.extend(auth.map(|auth| ("Authorization".to_owned(), auth.to_owned())));
        lines
    };
    // YWxpY2U6c2VjcmV0 = alice:secret
    for (auth, status) in [
        (None, 401),
        (Some("Basic"), 401),
        (Some("Basic ***"), 401),
        (Some("Bearer YWxpY2U6c2VjcmV0"), 401),
        (Some("Basic YWxpY2U6c2VjcmV1"), 401),
        (Some("Basic YWxpY2U6"), 401),
        (Some("basic YWxpY2U6c2VjcmV0"), 204),
    ] {
        let answer = exchange(pair.bob().as2_port, "POST", "/as2", &lines(auth), b"hello");
        assert_eq!(answer.status, status, "{auth:?}: {}", answer.text());
        let challenge = answer.header("WWW-Authenticate").unwrap_or_default();
        assert_eq!(challenge.starts_with("Basic realm="), status == 401, "{auth:?}");
    }
}

#[test]
fn a_post_that_drips_on_ends_with_the_time_in_all() {
    use std::io::{Read as _, Write as _};
    let pair = Pair::two_gateways();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/as2", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut piece = [0; 65536];
            let _ = stream.read(&mut piece);
            // Interim answers and a head that never ends keep every other clock of the client alive.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
            while stream.write_all(b"X: y\r\n").is_ok() {
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    });
    pair.alice().ok(&[
        "partner",
        "set",
        "BOB",
        "--url",
        &url,
        "--total-timeout",
        "2s",
        "--retry-max-tries",
        "1",
    ]);
    std::thread::sleep(FOLLOWS);
    let began = Instant::now();
    pair.put("slow.edi", &order(7));
    let failed = pair.alice().reaches("out", "slow.edi", "failed");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert!(failed["reason"].to_string().contains("not done within 2 s"), "{failed:#}");
}

#[test]
fn an_unpacked_zip_arrives_as_several_files() {
    let pair = Pair::two_gateways();
    pair.alice().ok(&["partner", "set", "BOB", "--zip", "unpack"]);
    std::thread::sleep(FOLLOWS);
    let path = pair.alice().path("bundle.zip");
    let script = "import sys, zipfile\n\
                  z = zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED)\n\
                  z.writestr('order.xml', '<order/>')\n\
                  z.writestr('../up/scan.tif', b'II*\\0' + b'x' * 5000)\n\
                  z.writestr('other/order.xml', '<second/>')\n\
                  z.close()";
    let _ = run(&mut tool("python3", &["-c", script, path.to_str().unwrap()])).ok();
    pair.alice_user.put(&path, "AS2/send/ALICE/BOB/bundle.zip");
    let sent = pair.alice().reaches("out", "bundle.zip", "delivered");
    assert_eq!(
        sent["mdn_disposition"].as_str().unwrap().split("; ").last(),
        Some("processed"),
        "{sent:#}"
    );
    let got = pair.bob().reaches("in", "order.xml", "filed");
    let inbox = format!("AS2/files/BOB/ALICE/inbox/{}", got["id"].as_str().unwrap());
    let mut names = pair.bob_user.ls(&inbox);
    names.sort();
    assert_eq!(names, ["order.xml", "order~2.xml", "scan.tif"]);
    assert_eq!(pair.bob_user.get(&format!("{inbox}/order.xml")), b"<order/>");
    assert_eq!(pair.bob_user.get(&format!("{inbox}/order~2.xml")), b"<second/>");
    assert_eq!(pair.bob_user.get(&format!("{inbox}/scan.tif")).len(), 5004);
}
