//! Where our own requests may not go, in every spelling: addresses, names, redirects and names that change their mind
//! (as2.md §8, X17 and SEC1; security.md §5).

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;

use tests::process::as2gate;

use super::*;

/// Hosts that are this machine, its neighbours or nobody: as a resolver or a library might read them.
const INSIDE: [&str; 40] = [
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7F.1",
    "0177.0.0.01",
    "017700000001",
    "127.255.255.254",
    "0",
    "0.0.0.0",
    "localhost",
    "LOCALHOST.",
    "a.localhost",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:0:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
    "[fe80::1]",
    "[fec0::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "169.254.169.254",
    "169.254.43518",
    "100.100.100.200",
    "192.0.0.192",
    "10.0.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
];

/// Listens on every address of this machine, and must never be called.
struct Trap(TcpListener, u16);

impl Trap {
    fn new() -> Self {
        let listener = TcpListener::bind("[::]:0").or_else(|_| TcpListener::bind("0.0.0.0:0")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        Trap(listener, port)
    }

    fn is_called(&self) -> bool {
        self.0.accept().is_ok()
    }
}

/// Posts a good message that wants its MDN at this URL: it is filed, and its MDN stays here for this reason.
#[track_caller]
fn held(stage: &Stage, from: &str, url: &str, why: &str) {
    let id = format!("<held-{}@test>", next());
    let request = payload().signed(&stage.partner).message(&id).with("AS2-From", from);
    let answer = request.with("Receipt-Delivery-Option", url).post(stage.gate.as2_port);
    assert!(
        answer.status == 204 && answer.body.is_empty(),
        "{url}: {} {}",
        answer.status,
        answer.text()
    );
    let row = wait_for("the message to be filed", || {
        stage.listed(&id).into_iter().find(|row| row["state"] == "filed")
    });
    let whole = stage.gate.wait("the alert", |gate| {
        let whole = gate.show(row["id"].as_str().unwrap());
        whole["marks"].as_array().is_some_and(|marks| !marks.is_empty()).then_some(whole)
    });
    let marks = whole["marks"].to_string();
    assert!(marks.contains("MDN not delivered") && marks.contains(why), "{url}: {marks}");
}

/// Adds a partner that may or may not live in inner networks.
fn partner(stage: &Stage, id: &str, url: &str, private: &str, options: &[&str]) {
    let certificate = stage.partner.path("cert.pem");
    let certificate = certificate.to_str().unwrap();
    let add = [
        "partner",
        "add",
        id,
        "--url",
        url,
        "--private",
        private,
        "--certificate",
        certificate,
    ];
    stage.gate.ok(&[&add[..], options].concat());
}

/// Sends an order to a new partner at this URL; its name.
fn sent(stage: &Stage, url: &str, private: &str) -> String {
    let id = format!("P{}", next());
    partner(stage, &id, url, private, &["--mdn", "none", "--retry-max-tries", "3"]);
    let file = stage.gate.file(&format!("local/{id}.edi"), &order(next()));
    stage.gate.ok(&["send", "--from", STATION, "--to", &id, file.to_str().unwrap()]);
    id
}

/// The one message to a partner, once it failed.
#[track_caller]
fn failed(stage: &Stage, partner: &str) -> Value {
    stage.gate.wait("the end", |gate| {
        let list = gate.json(&["message", "list", "--direction", "out", "--partner", partner]);
        let row = list.as_array().unwrap()[0].clone();
        (row["state"] == "failed").then(|| gate.show(row["id"].as_str().unwrap()))
    })
}

#[test]
fn no_mdn_goes_to_an_origin_that_is_not_the_partners() {
    let (stage, trap) = (stage(), Trap::new());
    let port = trap.1;
    // CRAFT lives at 127.0.0.1:9, private addresses allowed: another spelling, port or scheme is another origin.
    let mut urls: Vec<String> = INSIDE.iter().map(|host| format!("http://{host}:{port}/mdn")).collect();
    urls.extend(
        [
            "http://127.0.0.1:9@127.0.0.1:PORT/mdn",
            "http://127.0.0.1:9%40127.0.0.1:PORT/mdn",
            "http://craft:secret@127.0.0.1:9/as2",
            "http://127.0.0.1:PORT#@127.0.0.1:9/",
            "http://127.0.0.1:PORT\\@127.0.0.1:9/",
            "http://[fe80::1%25lo]:PORT/",
            "http://[::1%lo]:PORT/",
            "http://127。0。0。1:PORT/",
            "https://127.0.0.1:9/as2",
            "http://127.0.0.1:0/",
            "http://127.0.0.1:-1/",
            "http://127.0.0.1:65536/",
            "http://127.0.0.1:9:PORT/",
            "http:/127.0.0.1:9/",
            "//127.0.0.1:9/",
            "/mdn",
            "file:///etc/passwd",
            "gopher://127.0.0.1:PORT/_POST",
            "ftp://127.0.0.1:PORT/",
            "dict://127.0.0.1:PORT/x",
            "jar:http://127.0.0.1:PORT!/",
            "mailto:mdn@craft.test",
            "http://metadata.google.internal/computeMetadata/v1/",
            "http://169.254.169.254/latest/meta-data/",
            "not a url",
        ]
        .map(|url| url.replace("PORT", &port.to_string())),
    );
    for url in &urls {
        held(&stage, CRAFT, url, "is not among the partner's origins");
    }
    thread::sleep(QUIET);
    assert!(!trap.is_called(), "the gateway called a foreign address");
}

#[test]
fn not_even_a_listed_origin_leads_inside() {
    let (stage, trap) = (stage(), Trap::new());
    let urls = INSIDE.map(|host| format!("http://{host}:{}/mdn", trap.1));
    for (n, some) in urls.chunks(16).enumerate() {
        let id = format!("INSIDE{n}");
        // From the first moment on: a setting that comes later would leave some of them room for a call.
        let options = ["--mdn-urls", &some.join(","), "--require-encrypted", "false"];
        partner(&stage, &id, "http://127.0.0.1:9/as2", "false", &options);
        let first = payload()
            .signed(&stage.partner)
            .message(&format!("<{id}@test>"))
            .with("AS2-From", &id);
        wait_for("the new partner", || {
            (first.post(stage.gate.as2_port).disposition() == PROCESSED).then_some(())
        });
        for url in some {
            held(&stage, &id, url, "inside our own networks");
        }
    }
    // And no message goes there either: it fails at once.
    let partners: Vec<_> = urls.iter().step_by(3).map(|url| sent(&stage, url, "false")).collect();
    for partner in &partners {
        let message = failed(&stage, partner);
        assert_eq!(message["attempts"], 1, "{message:#}");
        assert!(message.to_string().contains("inside our own networks"), "{message:#}");
    }
    thread::sleep(QUIET);
    assert!(!trap.is_called(), "the gateway called an address inside");
}

#[test]
fn what_was_denied_goes_out_by_hand_once_it_is_allowed() {
    let (stage, trap) = (stage(), Trap::new());
    let id = sent(&stage, &format!("http://127.0.0.1:{}/as2", trap.1), "false");
    let message = failed(&stage, &id);
    assert_eq!(message["code"], "destination-denied", "{message:#}");
    assert!(message["hint"].as_str().unwrap().contains("--private true"), "{message:#}");
    stage.gate.ok(&["partner", "set", &id, "--private", "true"]);
    stage.gate.followed();
    stage.gate.ok(&["message", "retry", message["id"].as_str().unwrap()]);
    wait_for("the message", || trap.is_called().then_some(()));
}

#[test]
fn an_mdn_follows_no_redirect() {
    let (stage, trap) = (stage(), Trap::new());
    let port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    stage.add("MOVED", port, &["--require-encrypted", "false"]);
    let url = format!("http://127.0.0.1:{port}/mdn");
    let request = payload().signed(&stage.partner).message("<moved@test>").with("AS2-From", "MOVED");
    let request = request.with("Receipt-Delivery-Option", &url);
    wait_for("the new partner", || {
        (request.post(stage.gate.as2_port).status == 204).then_some(())
    });
    let elsewhere = format!("http://127.0.0.1:{}/mdn", trap.1);
    let mut hits = Vec::new();
    for status in [302, 307, 308, 200] {
        let mut stream = accepted(&listener);
        hits.push(read_request(&mut stream).unwrap());
        stream.write_all(&http(status, &[("Location", &elsewhere)], "")).unwrap();
    }
    assert!(
        hits.iter()
            .all(|hit| hit.head == hits[0].head && hit.message.body == hits[0].message.body)
    );
    assert!(!trap.is_called(), "a redirect was followed");
}

/// What a name resolves to, at its first question and later: addresses in wire form.
type Records = fn(&str, usize) -> Vec<std::net::IpAddr>;

/// A name server for A and AAAA on a loopback address of its own, so that tests do not meet; `None` where port 53 is
/// closed to us.
fn name_server(records: Records) -> Option<(String, Arc<Mutex<Vec<String>>>)> {
    let id = std::process::id().to_be_bytes();
    let address = format!("127.53.{}.{}", id[2], id[3].max(1));
    let socket = UdpSocket::bind((address.as_str(), 53)).ok()?;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    thread::spawn(move || {
        let mut packet = [0u8; 512];
        while let Ok((_, peer)) = socket.recv_from(&mut packet) {
            // Header of twelve bytes, then labels up to an empty one, type and class (RFC 1035 §4.1.2).
            let (mut name, mut at) = (String::new(), 12);
            while packet[at] != 0 {
                let end = at + 1 + usize::from(packet[at]);
                name += &String::from_utf8_lossy(&packet[at + 1..end]).to_ascii_lowercase();
                name.push('.');
                at = end;
            }
            let (kind, question) = (packet[at + 2], &packet[12..at + 5]);
            let wanted = |address: &std::net::IpAddr| address.is_ipv4() == (kind == 1) && [1, 28].contains(&kind);
            let before = {
                let mut seen = seen.lock().unwrap();
                let line = format!("{name} {kind}");
                let before = seen.iter().filter(|one| **one == line).count();
                seen.push(line);
                before
            };
            let found: Vec<_> = records(&name, before).into_iter().filter(wanted).collect();
            let mut answer = [
                &packet[..2],
                &[0x81, 0x80, 0, 1, 0, u8::try_from(found.len()).unwrap(), 0, 0, 0, 0],
                question,
            ]
            .concat();
            for address in found {
                let data = match address {
                    std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
                    std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
                };
                answer.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 0, 0, u8::try_from(data.len()).unwrap()]);
                answer.extend(data);
            }
            let _ = socket.send_to(&answer, peer);
        }
    });
    Some((address, asked))
}

/// Where a public host would be: a network for documentation, which is routed nowhere (RFC 5737).
const PUBLIC: &str = "203.0.113.9";

fn records(name: &str, asked_before: usize) -> Vec<std::net::IpAddr> {
    let of = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    match name {
        "inside.partner.test." => of(&["127.0.0.1"]),
        "both.partner.test." => of(&[PUBLIC, "127.0.0.1"]),
        "six.partner.test." => of(&["::1"]),
        "mapped.partner.test." => of(&["::ffff:127.0.0.1"]),
        "metadata.partner.test." => of(&["169.254.169.254"]),
        // Outside when it is checked, inside when somebody asks again.
        "flips.partner.test." if asked_before == 0 => of(&[PUBLIC]),
        "flips.partner.test." => of(&["127.0.0.1"]),
        _ => Vec::new(),
    }
}

/// A stage whose gateway asks the test's name server, by a mount that only its own process sees.
fn stage_with_names(server: &str) -> Option<(Stage, tempfile::TempDir)> {
    let dir = tempfile::tempdir().unwrap();
    let (resolver, wrapper) = (dir.path().join("resolv.conf"), dir.path().join("as2gate"));
    std::fs::write(&resolver, format!("nameserver {server}\noptions timeout:20 attempts:1\n")).unwrap();
    let script = format!(
        "#!/bin/sh\nexec unshare -m sh -c 'mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"' {} {} \"$@\"\n",
        resolver.display(),
        as2gate().display()
    );
    std::fs::write(&wrapper, script).unwrap();
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let works = run(&mut tool(wrapper.to_str().unwrap(), &["--version"])).code == 0;
    works.then(|| {
        let quick = [("as2.connect_timeout", "\"1s\"")];
        (Stage::of(Gateway::of(wrapper, Vec::new(), &quick)), dir)
    })
}

#[test]
fn names_that_resolve_to_the_inside_are_not_called_nor_those_that_change_their_mind() {
    let named = name_server(records).and_then(|(server, asked)| Some((stage_with_names(&server)?, asked)));
    let Some(((stage, _scripts), asked)) = named else {
        return aloud("nothing was proven about names that lead inside: no port 53 or no mount for this user");
    };
    // The control: the gateway does ask this name server, and calls what it names where that is allowed.
    let (control, trap) = (Trap::new(), Trap::new());
    sent(&stage, &format!("http://inside.partner.test:{}/as2", control.1), "true");
    wait_for("a call", || control.is_called().then_some(()));

    let url = |name: &str| format!("http://{name}.partner.test:{}/as2", trap.1);
    let names = ["inside", "both", "six", "mapped", "metadata"];
    let partners = names.map(|name| sent(&stage, &url(name), "false"));
    let flips = sent(&stage, &url("flips"), "false");
    // A resolver may say something else soon: no try is the last but by its number.
    for (partner, name) in partners.iter().zip(names) {
        let message = failed(&stage, partner);
        assert_eq!(
            (&message["attempts"], &message["code"]),
            (&3.into(), &"not-delivered".into()),
            "{name}: {message:#}"
        );
        assert!(message.to_string().contains("inside our own networks"), "{name}: {message:#}");
    }
    let message = failed(&stage, &flips);
    assert_eq!(
        message["attempts"], 3,
        "the first try goes outside, others are refused: {message:#}"
    );
    assert!(message.to_string().contains("inside our own networks"), "{message:#}");
    let questions = asked.lock().unwrap().iter().filter(|line| *line == "flips.partner.test. 1").count();
    assert_eq!(questions, 3, "each try resolves once and connects to what it checked");
    assert!(!trap.is_called(), "a name led inside");
}
