//! What `examples/` shows has to work as it stands: it is what people copy.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use tests::Gateway;
use tests::peer::Identity;

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(path)
}

/// Applies a file twice: the second time there is nothing to do.
fn applies_and_settles(gateway: &Gateway, file: &str) {
    let first = gateway.json(&["apply", "-f", file]);
    let again = gateway.json(&["apply", "-f", file]);
    let changes = |answer: &serde_json::Value| {
        answer
            .as_array()
            .map_or_else(|| answer["changes"].as_array().map_or(0, Vec::len), Vec::len)
    };
    assert!(changes(&first) > 0, "{first}");
    assert_eq!(changes(&again), 0, "{again}");
}

#[test]
fn the_partner_example_can_be_applied() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    let text = fs::read(example("partner/partner.toml")).unwrap();
    gateway.file("partner.toml", &text);
    gateway.file("bigmart-2026.cer", &fs::read(Identity::new("bigmart").path("cert.pem")).unwrap());
    applies_and_settles(&gateway, "partner.toml");
    let partner = gateway.json(&["partner", "show", "BIGMART"]);
    assert_eq!(partner["mdn"], "async-signed");
    assert_eq!(partner["in_order"], false);
}

#[test]
fn both_sides_of_the_demo_can_be_applied() {
    for (side, other) in [("alice", "bob"), ("bob", "alice")] {
        let gateway = Gateway::stopped(&[]);
        // The example has its own account beside the harness's.
        let objects = fs::read_to_string(example(&format!("two-stations/{side}/objects.toml"))).unwrap();
        let objects = objects.replace(&format!("id = \"{side}\""), "id = \"acme\"");
        gateway.file("objects.toml", objects.as_bytes());
        gateway.file(&format!("{other}.cer"), &fs::read(Identity::new(other).path("cert.pem")).unwrap());
        gateway.ok(&["station", "add", &side.to_uppercase()]);
        applies_and_settles(&gateway, "objects.toml");
        let config = example(&format!("two-stations/{side}/as2gate.toml"));
        gateway.file("example.toml", &fs::read(config).unwrap());
        gateway.ok(&["-c", "example.toml", "check"]);
    }
}

#[test]
fn the_users_example_can_be_applied() {
    let gateway = Gateway::stopped(&[]);
    gateway.file("users.toml", &fs::read(example("users/users.toml")).unwrap());
    gateway.file("scanner.password", b"not the one of the example\n");
    applies_and_settles(&gateway, "users.toml");
    let login = |name: &str| gateway.json(&["user", "show", name])["login"].clone();
    assert_eq!([login("erp"), login("partner")], ["publickey", "publickey password,totp"]);
    let text = gateway.ok(&["check"]);
    assert!(text.contains("totp operators") && !text.contains("password scanner"), "{text}");
}

#[test]
fn alert_rules_name_metrics_that_exist() {
    let gateway = Gateway::with(&[("telemetry.listen", "\"127.0.0.1:0\"")]);
    let status = gateway.json(&["status"]);
    let address = status["listening"]["telemetry"].as_str().expect("an address").to_owned();
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    stream
        .write_all(format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())
        .unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    let rules = fs::read_to_string(example("prometheus.rules")).unwrap();
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let names: Vec<&str> = rules.split(|c| !is_name(c)).filter(|word| word.starts_with("as2gate_")).collect();
    assert!(names.len() > 5, "{names:?}");
    for name in names {
        assert!(page.contains(&format!("# TYPE {name} ")), "{name} is not shown");
    }
}
