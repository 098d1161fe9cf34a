//! The way to a partner: proxies, TLS, connections that are kept, framing, the time that connecting may take. Seen from the
//! partner's end by haproxy, which stands before BOB; the proxy on the way to him is tinyproxy.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tests::pair::add_partner;
use tests::peer::Identity;
use tests::process::{Server, as2gate, free_port, is_installed, tool};
use tests::wire::Request;
use tests::{Gateway, Pair, Parcel, noise, order};

fn set_bob(pair: &Pair, options: &[&str]) {
    pair.alice().change(&[&["partner", "set", "BOB"], options].concat());
}

/// ALICE takes this certificate for the partner's.
fn pin(pair: &Pair, name: &str, partner: &str, tls: &Identity) {
    let file = tls.path("cert.pem").display().to_string();
    let add = ["cert", "add", name, "--partner", partner, "--use", "https", "--file", &file];
    pair.alice().change(&add);
}

/// The header block of a message as it came to BOB.
fn came(pair: &Pair, got: &Value) -> Request {
    let path = format!("AS2/headers/BOB/ALICE/inbox/{}/headers.txt", got["id"].as_str().unwrap());
    Request::captured(&String::from_utf8(pair.bob_user.get(&path)).unwrap(), Vec::new())
}

/// Puts a file whose only try fails before any of it is sent; why.
#[track_caller]
fn never_leaves(pair: &Pair, name: &str) -> String {
    pair.put(name, &order(1));
    let failed = pair.alice().reaches("out", name, "failed");
    assert_eq!(
        (&failed["code"], &failed["tries"][0]["body_sent"]),
        (&"not-delivered".into(), &false.into()),
        "{failed:#}"
    );
    failed["reason"].as_str().unwrap().to_owned()
}

/// BOB behind haproxy, which adds to the head of each request what it saw of it.
struct Front {
    pair: Pair,
    /// Its ports: without TLS, and with one version each.
    clear: u16,
    tls10: u16,
    tls12: u16,
    tls13: u16,
    tls: Identity,
    _haproxy: Server,
}

impl Front {
    fn new() -> Option<Self> {
        if !is_installed("haproxy") {
            return None;
        }
        let (pair, tls) = (Pair::two_gateways(), Identity::new("bob-tls"));
        let [clear, tls10, tls12, tls13] = [(); 4].map(|()| free_port());
        let (door, pem) = (pair.bob().as2_port, tls.path("both.pem").display().to_string());
        let secure = |port: u16, version: &str, more: &str| {
            format!(" bind 127.0.0.1:{port} ssl crt {pem} ssl-min-ver TLSv{version} ssl-max-ver TLSv{version}{more}\n")
        };
        let config = format!(
            "defaults\n mode http\n timeout connect 30s\n timeout client 60s\n timeout server 60s\n\
             frontend front\n bind 127.0.0.1:{clear}\n{}{}{}\
             \x20http-request set-header X-Seen-Port %[src_port]\n\
             \x20http-request set-header X-Seen-TLS %[ssl_fc_protocol]\n\
             \x20http-request set-header X-Seen-Coding %[req.hdr(transfer-encoding)]\n\
             \x20http-request set-header X-Seen-Length %[req.hdr(content-length)]\n\
             \x20default_backend bob\n\
             backend bob\n server bob 127.0.0.1:{door}\n",
            secure(tls10, "1.0", " ciphers ALL:@SECLEVEL=0"),
            secure(tls12, "1.2", ""),
            secure(tls13, "1.3", ""),
        );
        let file = pair.bob().file("haproxy.cfg", config.as_bytes());
        let mut command = tool("haproxy", &["-db", "-f", file.to_str().unwrap()]);
        let haproxy = Server::start(&mut command, clear, &pair.bob().path("haproxy.log"));
        Some(Front {
            pair,
            clear,
            tls10,
            tls12,
            tls13,
            tls,
            _haproxy: haproxy,
        })
    }

    /// What haproxy saw of the request that brought a message: `Port`, `TLS`, `Coding` or `Length`.
    #[track_caller]
    fn saw(&self, parcel: &Parcel, what: &str) -> String {
        let came = came(&self.pair, &parcel.got);
        came.header(&format!("X-Seen-{what}")).expect("haproxy's word").to_owned()
    }
}

#[test]
fn posts_share_a_connection_only_where_the_partner_is_set_so() {
    let Some(front) = Front::new() else { return };
    let url = format!("http://127.0.0.1:{}/as2", front.clear);
    set_bob(&front.pair, &["--url", &url, "--in-order", "true"]);
    let settings: [(&[&str], usize); 3] = [
        (&["--keep-alive", "true"], 1),
        (&["--keep-alive", "false"], 4),
        // Where a kept one breaks off, nobody knows whether such a partner has the message already.
        (&["--keep-alive", "true", "--detects-duplicates", "false"], 4),
    ];
    for (n, (options, connections)) in settings.into_iter().enumerate() {
        set_bob(&front.pair, options);
        let names: Vec<String> = (0..4).map(|m| format!("kept-{n}-{m}.edi")).collect();
        let puts: Vec<String> = names
            .iter()
            .map(|name| {
                let local = front.pair.alice().file(name, &order(1));
                format!("put {} AS2/send/ALICE/BOB/{name}", local.display())
            })
            .collect();
        front.pair.alice_user.ok(&puts.iter().map(String::as_str).collect::<Vec<_>>());
        let ports: BTreeSet<String> = names.iter().map(|name| front.saw(&front.pair.delivered(name), "Port")).collect();
        assert_eq!(ports.len(), connections, "{options:?}: {ports:?}");
    }
}

#[test]
fn a_partner_gets_an_exact_length_or_chunks() {
    let Some(front) = Front::new() else { return };
    let (pair, url) = (&front.pair, format!("http://127.0.0.1:{}/as2", front.clear));
    for (chunked, coding) in [("false", ""), ("true", "chunked")] {
        set_bob(pair, &["--url", &url, "--chunked", chunked]);
        let bytes = noise(300_000, 4);
        let parcel = pair.deliver(&format!("{chunked}.bin"), &bytes);
        assert!(pair.fetch(&parcel) == bytes, "chunked {chunked}: other bytes");
        let body = format!("AS2/raw-message/ALICE/BOB/outbox/{}/message.as2", parcel.sent_id());
        let length = pair.alice_user.get(&body).len().to_string();
        let wanted = if chunked == "true" { String::new() } else { length };
        assert_eq!([front.saw(&parcel, "Coding"), front.saw(&parcel, "Length")], [coding, &wanted]);
    }
}

#[test]
fn each_partner_is_reached_by_its_own_tls_and_its_own_pins() {
    let Some(front) = Front::new() else { return };
    let (pair, alice) = (&front.pair, front.pair.alice());
    let url = |port: u16| format!("https://127.0.0.1:{port}/as2");
    set_bob(pair, &["--url", &url(front.tls13), "--retry-max-tries", "1"]);
    let why = never_leaves(pair, "unknown.edi");
    assert!(why.contains("is not trusted"), "{why}");
    pin(pair, "bob-tls", "BOB", &front.tls);
    for (tls, port, seen) in [
        ("1.3", front.tls13, "TLSv1.3"),
        ("1.3", front.tls12, ""),
        ("default", front.tls12, "TLSv1.2"),
        ("default", front.tls10, ""),
        ("legacy", front.tls10, "TLSv1"),
        ("default", front.tls13, "TLSv1.3"),
    ] {
        set_bob(pair, &["--url", &url(port), "--tls", tls]);
        let name = format!("{tls}-{port}.edi");
        if seen.is_empty() {
            let why = never_leaves(pair, &name);
            assert!(why.contains("the TLS handshake failed"), "{tls}: {why}");
        } else {
            assert_eq!(front.saw(&pair.deliver(&name, &order(1)), "TLS"), seen, "{tls}");
        }
    }

    // CAROL shares the address, and the connection to BOB waits for its next message; but her certificate is another.
    let certificate = alice.path("BOB.pem");
    add_partner(alice, "CAROL", &url(front.tls13), certificate.to_str().unwrap());
    pin(pair, "carol-tls", "CAROL", &Identity::new("carol-tls"));
    let send = |name: &str| {
        let file = alice.file(name, &order(2));
        alice.followed();
        alice.ok(&["send", file.to_str().unwrap(), "--from", "ALICE", "--to", "CAROL"]);
        alice.reaches("out", name, "failed")
    };
    alice.ok(&["partner", "set", "CAROL", "--retry-max-tries", "1"]);
    let failed = send("carol.edi");
    let why = failed["reason"].as_str().unwrap();
    assert!(why.contains("is not the one pinned for this partner"), "{failed:#}");
    // The control: with BOB's certificate she is reached, and nobody of that name is there.
    alice.ok(&["partner", "set", "CAROL", "--https-certificate", "bob-tls"]);
    assert_eq!(send("control.edi")["tries"][0]["body_sent"], true);
}

/// A proxy that lets in `gateway` with its password.
struct Proxy {
    url: String,
    log: PathBuf,
    _tinyproxy: Server,
}

impl Proxy {
    fn new(place: &Gateway) -> Option<Self> {
        if !is_installed("tinyproxy") {
            return None;
        }
        let (port, log) = (free_port(), place.path("tinyproxy.log"));
        let config = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 60\nLogLevel Connect\nLogFile \"{}\"\nBasicAuth gateway secret\n",
            log.display()
        );
        let file = place.file("tinyproxy.conf", config.as_bytes());
        let mut command = tool("tinyproxy", &["-d", "-c", file.to_str().unwrap()]);
        Some(Proxy {
            url: format!("http://127.0.0.1:{port}"),
            log,
            _tinyproxy: Server::start(&mut command, port, &place.path("tinyproxy.out")),
        })
    }

    /// The request lines that it got so far.
    fn asked(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap();
        let lines = log.lines().filter(|line| line.contains("Request (file descriptor"));
        lines.map(|line| line.split("): ").last().unwrap().to_owned()).collect()
    }
}

/// ALICE and BOB, who has a TLS door besides, and a proxy for ALICE who has the right password in one file and a wrong one in another.
fn behind_a_proxy() -> Option<(Pair, Proxy, u16)> {
    let (tls, port) = (Identity::new("bob-tls"), free_port());
    let bob = Gateway::stopped(&tls.door(port).each_ref().map(|(key, value)| (*key, value.as_str())));
    // What a shell says of proxies leads nowhere, and is not asked.
    let elsewhere = ["http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"];
    let elsewhere = elsewhere.map(|name| (name.to_owned(), "http://127.0.0.1:9".to_owned()));
    let alice = Gateway::of(as2gate(), elsewhere.to_vec(), &[]);
    let proxy = Proxy::new(&alice)?;
    let pair = Pair::two_of(alice, bob);
    for gateway in [pair.alice(), pair.bob()] {
        gateway.file("right.txt", b"secret");
        gateway.file("wrong.txt", b"secrets");
    }
    pin(&pair, "bob-tls", "BOB", &tls);
    // Time enough to mend the credentials.
    set_bob(&pair, &["--proxy", &proxy.url, "--retry-max-tries", "1000"]);
    Some((pair, proxy, port))
}

const RIGHT: [&str; 4] = ["--proxy-user", "gateway", "--proxy-password", "file:right.txt"];
const WRONG: [&str; 4] = ["--proxy-user", "gateway", "--proxy-password", "file:wrong.txt"];

/// Puts a file that the proxy does not let through, mends the credentials while it is tried, and sees it arrive once.
#[track_caller]
fn goes_once_the_proxy_lets_it(pair: &Pair, name: &str, status: u16) -> Parcel {
    pair.put(name, &order(3));
    let waiting = pair.alice().reaches("out", name, "retrying");
    let why = format!("the proxy wants other credentials: HTTP {status}");
    assert_eq!(waiting["reason"], why.as_str(), "{waiting:#}");
    // Whoever tests hears it as well, and what to do.
    let told = pair.alice().cli(&["partner", "test", "BOB", "--connect-only"]).fails(6);
    assert!(told.contains(&why) && told.contains("--proxy-user USER --proxy-password"), "{told}");
    set_bob(pair, &RIGHT);
    let parcel = pair.delivered(name);
    assert_eq!(pair.bob().messages_of("in", name).len(), 1);
    parcel
}

#[test]
fn a_proxy_takes_messages_and_receipts_to_plain_partners() {
    let Some((pair, proxy, _)) = behind_a_proxy() else { return };
    let (alice, bob) = (pair.alice(), pair.bob());
    let parcel = goes_once_the_proxy_lets_it(&pair, "plain.edi", 407);
    let line = format!("POST http://127.0.0.1:{}/as2 HTTP/1.1", bob.as2_port);
    assert!(proxy.asked().contains(&line), "{:?}", proxy.asked());
    let came = came(&pair, &parcel.got);
    assert!(came.header("Via").is_some_and(|via| via.contains("tinyproxy")), "{came:?}");
    assert_eq!(came.header("Proxy-Authorization"), None);

    // This proxy's word for a wrong password is 401, which could be the partner's own: both cures are named.
    set_bob(&pair, &WRONG);
    pair.put("wrong.edi", &order(4));
    let failed = pair.alice().reaches("out", "wrong.edi", "failed");
    assert_eq!(failed["code"], "http-401", "{failed:#}");
    let hint = failed["hint"].as_str().unwrap();
    assert!(hint.contains("--proxy-user") && hint.contains("--http-user"), "{hint}");

    // BOB's receipt comes by a POST of his, through the proxy on his way to ALICE.
    set_bob(&pair, &[&RIGHT[..], &["--mdn", "async-signed"]].concat());
    bob.change(&[&["partner", "set", "ALICE", "--proxy", &proxy.url][..], &RIGHT].concat());
    let parcel = pair.deliver("async.edi", &order(5));
    let shown = format!("AS2/headers/ALICE/BOB/outbox/{}/headers.txt", parcel.sent_id());
    let shown = String::from_utf8(pair.alice_user.get(&shown)).unwrap();
    assert!(shown.contains("Proxy-Authorization: Basic ***\r\n"), "{shown}");
    let line = format!("POST http://127.0.0.1:{}/as2 HTTP/1.1", alice.as2_port);
    assert!(proxy.asked().contains(&line), "{:?}", proxy.asked());

    // Without the setting there is none.
    bob.change(&["partner", "set", "ALICE", "--proxy", ""]);
    set_bob(&pair, &["--proxy", ""]);
    let before = proxy.asked().len();
    pair.deliver("direct.edi", &order(6));
    assert_eq!(proxy.asked().len(), before, "{:?}", proxy.asked());
}

#[test]
fn a_proxy_tunnels_to_tls_partners() {
    let Some((pair, proxy, port)) = behind_a_proxy() else { return };
    set_bob(&pair, &["--url", &format!("https://127.0.0.1:{port}/as2")]);
    goes_once_the_proxy_lets_it(&pair, "none.edi", 407);
    set_bob(&pair, &WRONG);
    let parcel = goes_once_the_proxy_lets_it(&pair, "wrong.edi", 401);
    // What goes through the tunnel is nothing that a proxy could add to, and the credentials are for the proxy alone.
    let came = came(&pair, &parcel.got);
    assert_eq!((came.header("Via"), came.header("Proxy-Authorization")), (None, None));
    let line = format!("CONNECT 127.0.0.1:{port} HTTP/1.1");
    let asked = proxy.asked();
    assert!(asked.len() > 4 && asked.iter().all(|asked| *asked == line), "{asked:?}");
}

/// A port behind which the queue of connections is full, so that the system leaves further ones without an answer.
fn full_port() -> (u16, Vec<TcpStream>, socket2::Socket) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let queue = std::iter::from_fn(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()).collect();
    (address.port(), queue, socket)
}

#[test]
fn a_partner_has_its_own_time_to_connect() {
    // That of the server would outlast the test.
    let pair = Pair::two_with(&[("as2.connect_timeout", "\"10m\"")]);
    let (full, _queue, _socket) = full_port();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap();
    set_bob(&pair, &["--connect-timeout", "1s", "--retry-max-tries", "1"]);
    for (name, url, proxy, wanted) in [
        (
            "tcp.edi",
            format!("http://127.0.0.1:{full}/as2"),
            String::new(),
            "no answer in time",
        ),
        (
            "tls.edi",
            format!("https://{silent}/as2"),
            String::new(),
            "the TLS handshake took too long",
        ),
        (
            "proxy.edi",
            "https://192.0.2.1/as2".to_owned(),
            format!("http://{silent}"),
            "did not answer in time",
        ),
    ] {
        set_bob(&pair, &["--url", &url, "--proxy", &proxy]);
        let why = never_leaves(&pair, name);
        assert!(why.contains(wanted), "{name}: {why}");
    }
}
