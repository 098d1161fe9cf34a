//! Stations, partners and users: listed, shown, changed beside a server, as TOML.

use serde_json::{Value, json};
use tests::peer::Identity;
use tests::{Gateway, Pair, order, wait_for};

use super::three_lines;

#[test]
fn objects_of_a_newer_version_are_named() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    gateway.sql("UPDATE object SET json = json_set(json, '$.teleport', 'yes') WHERE kind = 'station'");
    for args in [&["station", "list"][..], &["serve"], &["doctor"]] {
        let ran = gateway.cli(args);
        let words = ran.stdout.clone() + &ran.stderr;
        assert!(ran.code != 0, "{ran}");
        for wanted in [
            "station ALICE",
            "unknown field `teleport`",
            "written by a newer as2gate?",
            "install the",
        ] {
            assert!(words.contains(wanted), "{wanted}: {ran}");
        }
    }
}

#[test]
fn the_records_of_a_removed_account_are_not_the_next_ones() {
    let gateway = Gateway::stopped(&[]);
    let tenant = |args: &[&str]| gateway.ok(&[&["-a", "tenant"], args].concat());
    gateway.ok(&["account", "add", "tenant"]);
    gateway.ok(&["account", "rm", "tenant", "-y"]);
    gateway.ok(&["account", "add", "tenant"]);
    tenant(&["station", "add", "CAROL"]);
    tenant(&["partner", "add", "DAVE", "--url", "http://192.0.2.1/as2"]);
    gateway.file("secret.edi", &order(1));
    tenant(&["send", "secret.edi", "--from", "CAROL", "--to", "DAVE"]);
    tenant(&["message", "cancel", "--state", "queued"]);
    let export = gateway.file("tenant.toml", tenant(&["export"]).as_bytes());
    tenant(&["partner", "rm", "DAVE", "-y"]);
    tenant(&["station", "rm", "CAROL", "-y"]);
    for certificate in gateway.json(&["-a", "tenant", "cert", "list"]).as_array().unwrap() {
        tenant(&["cert", "rm", certificate["name"].as_str().unwrap(), "-y"]);
    }
    gateway.ok(&["account", "rm", "tenant", "-y"]);
    for args in [&["account", "add", "tenant"][..], &["apply", "-f", export.to_str().unwrap()]] {
        let ran = gateway.cli(args);
        assert!(ran.code != 0 && ran.stderr.contains("account add tenant --with-records"), "{ran}");
    }
    gateway.ok(&["account", "add", "tenant", "--with-records"]);
    gateway.ok(&["account", "add", "tenant-2"]);
}

#[test]
fn what_is_in_work_keeps_its_station_and_its_partner_at_every_door() {
    let pair = Pair::two_with(&[("retry.max_tries", "1000")]);
    let alice = pair.alice();
    pair.bob().kill9();
    pair.put("stuck.edi", &order(1));
    let stuck = alice.reaches("out", "stuck.edi", "retrying");
    let less = alice.file("less.toml", b"[[account]]\nid = \"acme\"\n");
    let doors = [
        &["partner", "rm", "BOB"][..],
        &["partner", "set", "BOB", "--as2-id", "ROB"],
        &["station", "rm", "ALICE"],
        &["station", "set", "ALICE", "--as2-id", "CAROL"],
        &["apply", "-f", less.to_str().unwrap(), "--prune"],
    ];
    let short = stuck["id"].as_str().unwrap().rsplit('-').next().unwrap();
    let cancel = format!("as2gate message cancel {short}");
    for door in doors {
        // Nobody is asked first: without a terminal the question would be the refusal.
        for answer in ["-n", "-y", "-q"] {
            let words = alice.cli(&[door, &[answer]].concat()).fails(1);
            assert!(words.contains("1 of its messages is in work") && words.contains(&cancel), "{words}");
        }
    }
    alice.ok(&["message", "cancel", short]);
    assert!(alice.cli(doors[1]).fails(5).contains("stay under that name"));
    for door in [doors[1], doors[3], doors[4]] {
        alice.ok(&[door, &["-y"]].concat());
    }
    assert_eq!(alice.json(&["partner", "list"]).as_array().unwrap().len(), 0);
}

#[test]
fn commands_work_beside_a_server_and_without_one() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    gateway.ok(&["station", "add", "BOB"]);
    gateway.ok(&["partner", "add", "--from-station", "BOB"]);
    let user = gateway.user("erp");
    assert!(gateway.ok(&["status", "-o", "table"]).contains("not"), "nothing listens");
    gateway.start();
    assert_eq!(user.ls("AS2/send/ALICE"), ["BOB"]);
    // Beside the server, which follows.
    gateway.ok(&["station", "add", "CAROL", "--key", "ec-p256"]);
    gateway.ok(&["partner", "add", "--from-station", "CAROL"]);
    wait_for("the new pair", || (user.ls("AS2/send/ALICE") == ["BOB", "CAROL"]).then_some(()));
    gateway.ok(&["partner", "rm", "CAROL", "-y"]);
    wait_for("the pair to go", || (user.ls("AS2/send/ALICE") == ["BOB"]).then_some(()));
}

#[test]
fn lists_are_arrays_shows_are_objects_and_tsv_has_the_same_names() {
    let pair = Pair::one_gateway();
    let gateway = pair.alice();
    pair.deliver("named.edi", &order(1));
    for noun in ["account", "station", "partner", "cert", "user", "message"] {
        let list = gateway.json(&[noun, "list"]);
        let first = list
            .as_array()
            .unwrap()
            .first()
            .unwrap_or_else(|| panic!("{noun}: empty"))
            .as_object()
            .unwrap()
            .clone();
        let tsv = gateway.ok(&[noun, "list"]);
        let names: Vec<&str> = tsv.lines().next().unwrap().split('\t').collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        let mut fields: Vec<&str> = first.keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(sorted, fields, "{noun}");
        assert_eq!(tsv.lines().count(), list.as_array().unwrap().len() + 1, "{noun}: one line each");
        let key = ["id", "as2_id", "name"].into_iter().find(|key| first.contains_key(*key)).unwrap();
        let shown = gateway.json(&[noun, "show", first[key].as_str().unwrap()]);
        assert_eq!(shown[key], first[key], "{noun}");
    }
}

#[test]
fn objects_as_toml_make_the_round_trip() {
    let pair = Pair::one_gateway();
    let gateway = pair.alice();
    gateway.ok(&[
        "partner",
        "set",
        "BOB",
        "--subject",
        "Orders",
        "--set",
        "headers.X-Env=prod",
        "--retry-max-tries",
        "7",
    ]);
    let text = gateway.ok(&["export"]);
    let read: Value = serde_json::from_str(&gateway.ok(&["export", "-o", "json"])).unwrap();
    let subject = |partner: &Value| partner["subject"] == "Orders";
    assert!(
        read["partner"].as_array().unwrap().iter().any(subject) && read["certificate"][0]["pem"].is_string(),
        "{read:#}"
    );
    for table in ["[[account]]", "[[station]]", "[[partner]]", "[[user]]"] {
        assert!(text.contains(table), "{table}: {text}");
    }
    assert!(
        !text.contains("PRIVATE") && !text.contains("sealed:"),
        "secrets stay out of an export"
    );
    let file = gateway.file("objects.toml", text.as_bytes());
    let file = file.to_str().unwrap();
    gateway.ok(&["apply", "-f", file]);
    assert_eq!(gateway.ok(&["export"]), text, "applying what is there changes nothing");

    let changed = gateway.file("changed.toml", text.replace("\"Orders\"", "\"Invoices\"").as_bytes());
    let changed = changed.to_str().unwrap();
    let dry = gateway.ok(&["apply", "-f", changed, "--dry-run", "-o", "table"]);
    assert!(dry.contains("BOB") && dry.contains("subject"), "{dry}");
    assert_eq!(gateway.ok(&["export"]), text, "a dry run changes nothing");
    gateway.ok(&["apply", "-f", changed]);
    assert_eq!(gateway.json(&["partner", "show", "BOB"])["subject"], "Invoices");

    // All or nothing.
    let broken = gateway.file(
        "broken.toml",
        (text.clone() + "\n[[partner]]\nas2_id = \"X\"\nsign = \"crc32\"\n").as_bytes(),
    );
    three_lines(&gateway.cli(&["apply", "-f", broken.to_str().unwrap()]).fails(4));
    assert_eq!(
        gateway.json(&["partner", "show", "BOB"])["subject"],
        "Invoices",
        "nothing of it was applied"
    );

    // Nothing is deleted without --prune.
    let less: String = text
        .split("[[partner]]")
        .enumerate()
        .filter(|(n, part)| *n == 0 || !part.contains("\"BOB\""))
        .map(|(n, part)| if n == 0 { part.to_owned() } else { format!("[[partner]]{part}") })
        .collect();
    let less = gateway.file("less.toml", less.as_bytes());
    gateway.ok(&["apply", "-f", less.to_str().unwrap()]);
    let _ = gateway.json(&["partner", "show", "BOB"]);
    gateway.ok(&["apply", "-f", less.to_str().unwrap(), "--prune", "-y"]);
    let _ = gateway.cli(&["partner", "show", "BOB"]).fails(3);
}

#[test]
fn settings_of_a_user_that_keep_it_out_are_told() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["user", "add", "erp", "--generate-key", "ed25519", "--out", "erp.key"]);
    for (setting, value, note) in [
        ("--stations", "ALCIE", "user erp is to see station ALCIE, and there is none"),
        ("--login", "password", "user erp has no password"),
        ("--expires", "2020-01-01T00:00:00Z", "user erp expired at 2020-01-01T00:00:00Z"),
    ] {
        let ran = gateway.cli(&["user", "set", "erp", setting, value]);
        assert!(ran.code == 0 && ran.stderr.contains(note), "{ran}");
        assert!(gateway.ok(&["doctor"]).contains(note), "{note}");
    }
    assert!(
        !gateway.ok(&["user", "show", "erp", "-o", "table"]).contains("KEYFILE"),
        "it logs in without a key"
    );
}

#[test]
fn dry_runs_change_nothing() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    let bob = Identity::new("bob");
    let before = gateway.ok(&["export"]);
    gateway.ok(&["station", "add", "CAROL", "-n"]);
    gateway.ok(&[
        "partner",
        "add",
        "BOB",
        "--url",
        "http://192.0.2.1/as2",
        "--certificate",
        bob.path("cert.pem").to_str().unwrap(),
        "-n",
    ]);
    gateway.ok(&["user", "add", "erp", "--generate-key", "-n"]);
    gateway.ok(&["station", "rm", "ALICE", "-n"]);
    assert_eq!(gateway.ok(&["export"]), before);
    assert!(!gateway.path("erp.key").exists());
}

#[test]
fn dry_runs_write_no_files() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    gateway.ok(&["partner", "add", "BOB", "--url", "http://192.0.2.1/as2"]);
    gateway.file("order.edi", &order(1));
    gateway.file("there.toml", b"");
    gateway.file("captured.as2", b"AS2-From: BOB\nAS2-To: ALICE\nContent-Type: text/plain\n\nABC");
    let _ = gateway.ssh_key("erp", "ed25519");
    gateway.ok(&["send", "order.edi", "--from", "ALICE", "--to", "BOB"]);
    let sent = gateway.messages("out")[0]["id"].as_str().unwrap().to_owned();
    let certificate = tests::pair::certificate_name(&gateway, "ALICE");
    let files = || {
        let all = tests::files_below(&gateway.path("")).into_iter();
        all.filter(|file| !file.starts_with("data/db/")).collect::<Vec<_>>()
    };
    let before = files();
    for (args, wrote) in [
        (&["export", "--out", "all.toml"][..], "all.toml"),
        (&["support-bundle"], "as2gate-support-"),
        (&["support-bundle", "--out", "bundle.txt"], "bundle.txt"),
        (&["station", "profile", "ALICE", "--out", "alice.txt"], "alice.txt"),
        (&["cert", "export", &certificate, "--out", "alice.pem"], "alice.pem"),
        (
            &["cert", "export", &certificate, "--form", "der", "--out", "alice.cer"],
            "alice.cer",
        ),
        (&["key", "convert", "erp-ed25519.key", "--to", "ppk", "--out", "erp.ppk"], "erp.ppk"),
        (&["message", "export", &sent, "--out", "evidence"], "evidence"),
    ] {
        let told = gateway.ok(&[args, &["-n"]].concat());
        assert!(told.starts_with(&format!("(dry run) would write {wrote}")), "{args:?}: {told}");
    }
    let told = gateway.ok(&["inspect", "captured.as2", "--extract", "out", "-n", "-o", "table"]);
    assert!(told.contains("would write out/"), "{told}");
    // The same refusals as without.
    for args in [
        &["export", "--out", "there.toml", "-n"][..],
        &["export", "--out", "no/where.toml", "-n"],
        &["cert", "stores", "--reveal", "-n"],
        &["--data-dir", "fresh", "init", "-n"],
    ] {
        three_lines(&gateway.cli(args).stderr);
    }
    assert_eq!(files(), before);
}

#[test]
fn what_looks_alike_is_told_and_taken() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE", "--name", "Alice Ltd"]);
    gateway.ok(&["partner", "add", "--from-station", "ALICE"]);
    let add = |id: &str, name: &str| gateway.cli(&["partner", "add", id, "--url", "http://192.0.2.1/as2", "--name", name]);
    assert!(!add("BIGMART", "Big Mart").stderr.contains("differ"));
    let told = gateway.ok(&["check"]);
    assert!(!told.contains("differ"), "{told}");
    let twin = add("BigMart", "BIG  MART");
    let ids = "partner BigMart and partner BIGMART have AS2 ids that differ in case or blanks only";
    assert!(twin.code == 0 && twin.stderr.contains(ids), "{twin}");
    assert!(add("alice", "").code == 0);
    let told = gateway.ok(&["check"]);
    for warning in [
        &format!("warn  {ids}   (if one is a slip: as2gate partner rm BigMart)"),
        "partner BigMart and partner BIGMART have names that differ in case or blanks only: BIG  MART, Big Mart",
        "partner alice and partner ALICE have AS2 ids",
    ] {
        assert!(told.contains(warning), "{warning}: {told}");
    }
    // An older one that comes later in the alphabet.
    gateway.ok(&["partner", "rm", "BIGMART"]);
    let twin = add("BIGMART", "");
    assert!(twin.stderr.contains(ids), "{twin}");
}

#[test]
fn users_follow_a_new_as2_id_and_what_stays_under_the_old_one_is_told() {
    let pair = Pair::one_gateway();
    let gateway = pair.alice();
    gateway.ok(&["user", "set", "alice-erp", "--stations", "ALICE", "--partners", "BOB"]);
    gateway.ok(&["user", "set", "bob-erp", "--rights", "AS2/send/ALICE/BOB=rw,AS2/files=r"]);
    gateway.followed();
    pair.put("x.edi.part", &order(1));

    let told = gateway.cli(&["partner", "set", "BOB", "--as2-id", "ROB", "-y"]);
    for words in [
        "1 file still waits in send",
        "as2gate upload list --partner BOB",
        "rights of user bob-erp are still at folders of BOB",
    ] {
        assert!(told.code == 0 && told.stderr.contains(words), "{words}: {told}");
    }
    let told = gateway.cli(&["station", "set", "ALICE", "--as2-id", "ALISON", "-y"]);
    assert!(
        told.code == 0 && told.stderr.contains("as2gate upload list --station ALICE"),
        "{told}"
    );
    let user = gateway.json(&["user", "show", "alice-erp"]);
    assert_eq!((&user["stations"], &user["partners"]), (&json!(["ALISON"]), &json!(["ROB"])));

    // Whoever gets the former id is nobody that this user was to see.
    gateway.ok(&["partner", "add", "BOB", "--url", "http://192.0.2.1/as2"]);
    gateway.followed();
    assert_eq!(pair.alice_user.ls("AS2/send/ALISON"), ["ROB"]);
}
