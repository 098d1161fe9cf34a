//! The TLS door follows certificates without a restart: those of clients, and its own. OpenSSL is the client.

use std::io::{Read as _, Write as _};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tests::Gateway;
use tests::peer::Identity;
use tests::process::{PATIENCE, free_port, run, run_with, tool, wait_for, wait_seeing};
use tests::wire::tls_client;

/// How soon a running server follows its objects and its files at the latest; it needs about 0.3 and 5 seconds, and its share of the
/// machine.
const FOLLOWS: Duration = PATIENCE;
const GET: &str = "GET /as2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

struct Scene {
    gateway: Gateway,
    server: Identity,
    port: u16,
}

impl Scene {
    /// A gateway that knows no client's certificate yet, and the partner ALICE.
    fn new(client_auth: &str) -> Self {
        let (server, port) = (Identity::new("bob-tls"), free_port());
        let door = server.door(port);
        let [listen, cert, key] = door.each_ref().map(|(key, value)| (*key, value.as_str()));
        let gateway = Gateway::stopped(&[listen, cert, key, ("as2.tls.client_auth", &format!("\"{client_auth}\""))]);
        gateway.start();
        let alice = Identity::new("alice");
        let certificate = alice.path("cert.pem").display().to_string();
        gateway.ok(&["station", "add", "BOB"]);
        gateway.ok(&[
            "partner",
            "add",
            "ALICE",
            "--url",
            "http://127.0.0.1:9/as2",
            "--private",
            "true",
            "--certificate",
            &certificate,
        ]);
        Scene { gateway, server, port }
    }

    fn pin(&self, name: &str, client: &Identity) {
        let file = client.path("cert.pem").display().to_string();
        self.gateway
            .ok(&["cert", "add", name, "--partner", "ALICE", "--use", "https", "--file", &file]);
    }

    /// ALICE's pinned certificates are these from now on.
    fn pins(&self, names: &[&str]) {
        let mut command = vec!["partner", "set", "ALICE"];
        match names {
            [] => command.extend(["--https-certificate", ""]),
            names => names.iter().for_each(|name| command.extend(["--https-certificate", *name])),
        }
        self.gateway.ok(&command);
    }

    /// Whether the server answers a client; more arguments of `openssl s_client` may follow.
    fn answers(&self, client: Option<&Identity>, more: &[&str]) -> bool {
        let answer = run_with(tls_client(self.port, client).args(more), GET).stdout;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 200 "), "{answer}");
        !answer.is_empty()
    }

    #[track_caller]
    fn becomes(&self, client: &Identity, answered: bool) {
        let still = if answered { "refused" } else { "accepted" };
        wait_seeing(FOLLOWS, || match self.answers(Some(client), &[]) == answered {
            true => Ok(()),
            false => Err(format!("still {still}\n{}", self.gateway.log())),
        });
    }

    /// SHA-256 of the certificate that the server shows.
    fn shown(&self) -> String {
        let script = format!(
            "openssl s_client -connect 127.0.0.1:{} </dev/null 2>/dev/null | openssl x509 -noout -fingerprint -sha256",
            self.port
        );
        run(&mut tool("sh", &["-c", &script])).stdout
    }
}

/// A connection that stays open after its first answer.
struct Kept(Child);

impl Kept {
    fn open(port: u16, client: Option<&Identity>) -> Self {
        let mut child = tls_client(port, client)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let request = GET.replace("Connection: close\r\n", "");
        child.stdin.as_mut().unwrap().write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 12];
        child.stdout.as_mut().unwrap().read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        Kept(child)
    }

    /// Whether the server closes it soon, of itself.
    fn ends(&mut self) -> bool {
        let mut output = self.0.stdout.take().unwrap();
        let (ended, wait) = mpsc::channel();
        thread::spawn(move || {
            let _ = output.read_to_end(&mut Vec::new());
            let _ = ended.send(());
        });
        wait.recv_timeout(FOLLOWS).is_ok()
    }

    fn is_open(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_tls_door_follows_clients_certificates_without_a_restart() {
    let scene = Scene::new("required");
    let (old, new) = (Identity::new("alice-tls"), Identity::new("alice-tls"));
    assert!(!scene.answers(Some(&old), &[]) && !scene.answers(None, &[]));
    scene.pin("old", &old);
    scene.becomes(&old, true);
    assert!(!scene.answers(Some(&new), &[]));

    // The new one comes beside the old one, and disturbs nobody.
    let mut kept = Kept::open(scene.port, Some(&old));
    scene.pin("new", &new);
    scene.becomes(&new, true);
    assert!(scene.answers(Some(&old), &[]) && kept.is_open());

    // What a client of the old one could go on with: tickets of both versions, and the open connection.
    let tickets = ["-tls1_2", "-tls1_3"].map(|version| {
        let file = old.path(version).display().to_string();
        assert!(scene.answers(Some(&old), &[version, "-sess_out", &file]));
        assert!(
            scene.answers(None, &[version, "-sess_in", &file]),
            "a ticket is good while its certificate is"
        );
        (version, file)
    });
    scene.pins(&["new"]);
    scene.becomes(&old, false);
    assert!(kept.ends(), "a connection goes on whose certificate is gone");
    for (version, file) in &tickets {
        assert!(!scene.answers(None, &[version, "-sess_in", file]), "{version}");
        assert!(!scene.answers(Some(&old), &[version, "-sess_in", file]), "{version}");
    }
    assert!(scene.answers(Some(&new), &[]));
    scene.gateway.ok(&["cert", "rm", "old"]);
    scene.gateway.restart();
    assert!(scene.answers(Some(&new), &[]) && !scene.answers(Some(&old), &[]));

    // None at all does not mean any.
    let mut kept = Kept::open(scene.port, Some(&new));
    scene.pins(&[]);
    scene.becomes(&new, false);
    assert!(kept.ends());
    assert!(!scene.answers(Some(&old), &[]) && !scene.answers(None, &[]));
}

#[test]
fn an_optional_client_certificate_is_a_pinned_one_at_any_time() {
    let scene = Scene::new("optional");
    let client = Identity::new("alice-tls");
    assert!(scene.answers(None, &[]) && !scene.answers(Some(&client), &[]));
    scene.pin("tls", &client);
    scene.becomes(&client, true);
    scene.pins(&[]);
    scene.becomes(&client, false);
    assert!(scene.answers(None, &[]));
}

#[test]
fn the_tls_door_shows_a_renewed_certificate_without_a_restart() {
    let scene = Scene::new("none");
    let (former, next) = (scene.shown(), Identity::new("bob-tls"));
    let write = |file: &str| std::fs::copy(next.path(file), scene.server.path(file)).unwrap();
    let mut kept = Kept::open(scene.port, None);

    // The one without the other shows nothing wrong, but the log says so.
    write("cert.pem");
    wait_for("a word of the log", || {
        scene.gateway.log().contains("does not belong").then_some(())
    });
    assert_eq!(scene.shown(), former);
    write("key.pem");
    let renewed = wait_for("the new certificate", || Some(scene.shown()).filter(|shown| *shown != former));
    let mut fingerprint = tool("openssl", &["x509", "-noout", "-fingerprint", "-sha256", "-in"]);
    assert_eq!(renewed, run(fingerprint.arg(next.path("cert.pem"))).ok());
    assert!(scene.answers(None, &[]) && kept.is_open(), "it ends nobody's connection");
}

#[test]
fn the_end_of_our_own_tls_certificate_is_told_wherever_ends_are() {
    // Ten days.
    let (server, port) = (Identity::new("bob-tls"), free_port());
    let door = server.door(port);
    let [listen, cert, key] = door.each_ref().map(|(key, value)| (*key, value.as_str()));
    let gateway = Gateway::stopped(&[listen, cert, key, ("telemetry.listen", "\"127.0.0.1:0\"")]);
    let due = |within: &str| gateway.cli(&["cert", "needs-renewal", "--within", within]);
    assert_eq!(due("5d").code, 0);
    let told = due("30d");
    let hint = format!("put the renewed certificate into {}", server.path("cert.pem").display());
    assert!(
        told.code == 1 && told.stdout.contains("as2.tls.cert\t") && told.stderr.contains(&hint),
        "{told}"
    );
    let says = |command: &str, words: &str| {
        let text = gateway.ok(&[command, "-o", "table"]);
        assert!(text.contains(words), "{command} without {words}: {text}");
    };
    let name = "our HTTPS certificate (as2.tls.cert)";
    says("status", &format!("{name} expires in "));
    for command in ["check", "doctor"] {
        says(command, &format!("{name} expires on "));
        says(command, &hint);
    }

    gateway.set_clock(5 * 86_400);
    gateway.start();
    assert_eq!(gateway.json(&["status"])["expiring"][0]["name"], "as2.tls.cert");
    let named = |log: &str| log.contains("a certificate in use expires") && log.contains("as2.tls.cert");
    gateway.wait("the warning", |gateway| named(&gateway.log()).then_some(()));
    gateway.wait("the metric", |gateway| {
        let expiring = gateway.metric("as2gate_certificates_expiring{days=\"7\"}")?;
        (expiring == "1").then_some(())
    });
    // A server that starts anew does not say it again: it was said today.
    gateway.restart();
    gateway.wait("the metric", |gateway| {
        let ends = "as2gate_certificate_expiry_timestamp_seconds{account=\"\",name=\"as2.tls.cert\",";
        gateway.metrics().contains(ends).then_some(())
    });
    let told = gateway.json(&["audit", "list", "--kind", "certificate.expiring"]);
    assert_eq!((told.as_array().unwrap().len(), &told[0]["subject"]), (1, &"as2.tls.cert".into()));
    gateway.term();

    gateway.set_clock(11 * 86_400);
    assert_eq!(due("5d").code, 1);
    says("status", &format!("{name} has expired"));
    for command in ["check", "doctor"] {
        says(command, &format!("{name} expired on "));
    }
}
