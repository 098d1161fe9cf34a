//! What `examples/` shows has to work as it stands: it is what people copy.

use std::fs;
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

/// The commands at the head of the unit, in a directory of this test's; the user and the directories are there.
#[test]
fn the_unit_is_set_up_as_it_says() {
    let unit = fs::read_to_string(example("systemd/as2gate.service")).unwrap();
    let gateway = Gateway::stopped(&[]);
    let (etc, var) = (gateway.path("etc"), gateway.path("var"));
    fs::create_dir(&etc).unwrap();
    fs::create_dir(&var).unwrap();
    let here = |text: &str| {
        text.replace("/etc/as2gate", etc.to_str().unwrap())
            .replace("/var/lib/as2gate", var.to_str().unwrap())
    };
    let commands: Vec<String> = unit
        .lines()
        .filter_map(|line| line.strip_prefix("#   sudo -u as2gate as2gate "))
        .map(here)
        .collect();
    assert!(commands.iter().any(|command| command.contains(" init ")), "{unit}");
    for command in commands {
        // Without it the data directory is the real one.
        let more = if command.contains("--data-dir") {
            Vec::new()
        } else {
            vec!["--data-dir", var.to_str().unwrap()]
        };
        gateway.ok(&command.split(' ').chain(more).collect::<Vec<_>>());
    }
    // The unit may write below one of the two only.
    let names: Vec<_> = fs::read_dir(&etc).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["as2gate.toml"]);
    assert!(var.join("master.key").is_file() && var.join("db/as2gate.db").is_file());
    let run = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/as2gate "))
        .map(here);
    let args = run.unwrap().replace(" serve", &format!(" --data-dir {} check", var.display()));
    gateway.ok(&args.split(' ').collect::<Vec<_>>());
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
    let page = gateway.metrics();
    let rules = fs::read_to_string(example("prometheus.rules")).unwrap();
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let names: Vec<&str> = rules.split(|c| !is_name(c)).filter(|word| word.starts_with("as2gate_")).collect();
    assert!(names.len() > 5, "{names:?}");
    for name in names {
        assert!(page.contains(&format!("# TYPE {name} ")), "{name} is not shown");
    }
    // What a partner sends and is not filed is refused, whatever the reason is called.
    let came = "as2gate_as2_messages_total{direction=\"in\",result=";
    let results: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix(came)?.split('"').nth(1)).collect();
    let refused: String = rules.lines().filter(|line| line.contains("direction=\"in\"")).collect();
    assert!(results.contains(&"unknown"), "{page}");
    for result in results.into_iter().filter(|result| *result != "filed") {
        assert!(refused.contains(result), "{result}: {refused}");
    }
    // One in a week is one too many, unless anybody at all may have sent it.
    let strict = rules.lines().find(|line| line.contains("rejected|quarantined")).unwrap();
    assert!(strict.ends_with("> 0") && !strict.contains("unknown"), "{strict}");
    // A row that comes with its first event has not increased by it: those of a rule are there before.
    let selectors: Vec<(&str, &str)> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: "))
        .filter_map(|expr| expr.split("as2gate_").nth(1)?.split_once('{'))
        .filter_map(|(name, rest)| Some((name, rest.split_once('}')?.0)).filter(|_| name.ends_with("_total") && name.chars().all(is_name)))
        .collect();
    assert!(selectors.len() > 3, "{selectors:?}");
    for (name, labels) in selectors {
        let wanted: Vec<&str> = labels.split(", ").filter(|label| !label.contains("=~")).collect();
        let has_row = |line: &str| line.starts_with(&format!("as2gate_{name}{{")) && wanted.iter().all(|label| line.contains(label));
        assert!(page.lines().any(has_row), "no row for {name}{{{labels}}}: {page}");
    }
}
