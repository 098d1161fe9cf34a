//! Who may ask for, and go on with, a transfer: its partner, as it has to prove itself.

use tests::peer::Identity;
use tests::process::{free_port, run_with, tool};
use tests::wire::over_tls;

use super::*;

#[test]
fn a_partner_that_has_to_log_in_logs_in_to_ask_and_to_go_on() {
    let pair = Pair::two_gateways();
    let (payload, port) = (noise(SIZE, 31), pair.bob().as2_port);
    let request = pair.captured("login.bin", &payload).with("ETag", "\"login.bin\"");
    pair.bob().file("password.txt", b"secret");
    let login = ["--inbound-user", "alice", "--inbound-password", "file:password.txt"];
    pair.bob().change(&[&["partner", "set", "ALICE"][..], &login].concat());
    let [right, wrong] = ["alice:secret", "alice:Secret"].map(|pair| {
        let encoded = run_with(&mut tool("openssl", &["base64", "-A"]), pair).ok();
        request.clone().with("Authorization", &format!("Basic {}", encoded.trim()))
    });
    let ask = |request: &Request| {
        let names = ["AS2-From", "AS2-To", "AS2-Version", "ETag", "Authorization"];
        let question: Vec<_> = names
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), request.header(name)?.to_owned())))
            .collect();
        exchange(port, "HEAD", "/as2", &question, b"")
    };
    let cut = request.body.len() / 2;
    broken(port, &right, cut);
    let held = |request: &Request| {
        wait_for("the server to see the end of the connection", || {
            let answer = ask(request);
            (answer.status != 500).then_some(answer)
        })
    };
    let challenged = |answer: &Answer| {
        assert_eq!(answer.status, 401, "{answer:?}");
        assert!(
            answer.header("WWW-Authenticate").is_some_and(|line| line.starts_with("Basic ")),
            "{answer:?}"
        );
        assert_ne!(
            answer.header("Content-Length"),
            Some(cut.to_string().as_str()),
            "it tells how much is held"
        );
    };
    let kept = |request: &Request| {
        let answer = held(request);
        assert_eq!(
            (answer.status, answer.header("Content-Length")),
            (200, Some(cut.to_string().as_str())),
            "{answer:?}"
        );
    };
    kept(&right);
    for stranger in [&request, &wrong] {
        challenged(&ask(stranger));
        challenged(&ranged(stranger, cut).post(port));
        kept(&right);
    }
    // A HEAD that asks for nothing needs no login: whoever probes the address learns that it answers.
    assert_eq!(exchange(port, "HEAD", "/as2", &[], b"").status, 200);
    taken(&ranged(&right, cut).post(port));
    payload_filed(&pair, &request, &payload);
}

/// A request in full, for a connection that ends with its answer.
fn bytes_of(method: &str, headers: &[(String, String)], length: usize, body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} /as2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    if method == "POST" {
        head += &format!("Content-Length: {length}\r\n");
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

#[test]
fn only_the_pinned_client_certificate_learns_what_is_held() {
    let (server, alice, mallory) = (Identity::new("bob-tls"), Identity::new("alice-tls"), Identity::new("mallory-tls"));
    let tls = free_port();
    let door = server.door(tls);
    let [listen, cert, key] = door.each_ref().map(|(key, value)| (*key, value.as_str()));
    let settings = [listen, cert, key, ("as2.tls.client_auth", "\"optional\"")];
    let pair = Pair::two_gateways();
    let payload = noise(SIZE, 32);
    let request = pair.captured("pinned.bin", &payload).with("ETag", "\"pinned.bin\"");
    // MALLORY is a partner as well, so that the TLS door lets both in.
    let trust = mallory.path("cert.pem").display().to_string();
    pair.bob().ok(&[
        "partner",
        "add",
        "MALLORY",
        "--url",
        "http://127.0.0.1:9/as2",
        "--private",
        "true",
        "--certificate",
        &trust,
    ]);
    for (partner, identity) in [("ALICE", &alice), ("MALLORY", &mallory)] {
        let (name, file) = (format!("{partner}-tls"), identity.path("cert.pem"));
        let pin = [
            "cert",
            "add",
            &name,
            "--partner",
            partner,
            "--use",
            "https",
            "--file",
            file.to_str().unwrap(),
        ];
        pair.bob().ok(&pin);
    }
    pair.bob().configure(&settings);
    pair.bob().restart();

    // Half of it, then the connection is gone.
    let cut = request.body.len() / 2;
    let start = bytes_of("POST", &request.headers, request.body.len(), &request.body[..cut]);
    let mut client = tests::wire::tls_client(tls, Some(&alice));
    let mut child = client
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&start).unwrap();
    input.flush().unwrap();
    let store = pair.bob().path("data/partial");
    pair.bob().wait("some of it on disk", |_| {
        let files = tests::files_below(&store);
        files
            .iter()
            .any(|file| file != "boot" && std::fs::metadata(store.join(file)).is_ok_and(|meta| meta.len() > 0))
            .then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();

    let names = ["AS2-From", "AS2-To", "AS2-Version", "ETag"];
    let question: Vec<_> = names
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), request.header(name)?.to_owned())))
        .collect();
    let head = bytes_of("HEAD", &question, 0, b"");
    let told = |client: &Identity| {
        wait_for("the server to see the end of the connection", || {
            let answer = over_tls(tls, Some(client), &head);
            (answer.status != 500).then(|| {
                (
                    answer.status,
                    answer.header("Content-Length").unwrap_or("0").parse::<usize>().unwrap(),
                )
            })
        })
    };
    let (status, length) = told(&alice);
    assert!(status == 200 && length > 0 && length <= cut, "{status}, {length} of {cut}");
    assert_eq!(told(&mallory), (200, 0), "a stranger learns what is held");
    let nobody = tests::process::run(&mut tests::wire::tls_client(tls, Some(&Identity::new("nobody"))));
    assert_eq!(nobody.stdout, "", "a certificate of no partner gets no answer");
    let rest = ranged(&request, length);
    let post = bytes_of("POST", &rest.headers, rest.body.len(), &rest.body);
    let refused = over_tls(tls, Some(&mallory), &post);
    assert!(
        refused.status == 403 && refused.text().contains("certificate"),
        "{}: {}",
        refused.status,
        refused.text()
    );
    assert_eq!(told(&alice), (200, length), "what a stranger posts changes nothing");
    taken(&over_tls(tls, Some(&alice), &post));
    payload_filed(&pair, &request, &payload);
}
