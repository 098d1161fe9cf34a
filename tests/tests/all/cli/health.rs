//! What is wrong with a configuration, a data directory or a server is found and told, and `serve` does not start on it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use tests::Gateway;
use tests::process::{as2gate, free_port, run};

use super::{Place, three_lines};

#[test]
fn an_unknown_key_names_its_line_and_the_nearest_known_one() {
    let gateway = Gateway::stopped(&[]);
    for (text, line, nearest) in [
        ("data_dir = \"data\"\n\n[sftp]\nlisen = []\n", "4", "listen"),
        ("data_dir = \"data\"\n[uplaods]\nrelease_after = \"0s\"\n", "2", "uploads"),
        ("data_dir = \"data\"\nretry.max-tries = 3\n", "2", "max_tries"),
    ] {
        fs::write(gateway.path("as2gate.toml"), text).unwrap();
        let words = gateway.cli(&["check"]).fails(4);
        three_lines(&words);
        assert!(words.contains(&format!("line {line}")) && words.contains(nearest), "{words}");
    }
    for (text, wrong) in [
        ("data_dir = ", "TOML"),
        ("data_dir = \"data\"\n[uploads]\nrelease_after = \"soon\"\n", "release_after"),
    ] {
        fs::write(gateway.path("as2gate.toml"), text).unwrap();
        let words = gateway.cli(&["check"]).fails(4);
        three_lines(&words);
        assert!(words.contains(wrong), "{words}");
    }
}

#[test]
fn the_environment_overrides_and_check_tells_where_values_come_from() {
    let gateway = Gateway::stopped(&[("uploads.release_after", "\"7s\"")]);
    let told = gateway.ok(&["check", "--effective"]);
    let line = |told: &str, key: &str| {
        told.lines()
            .find(|line| line.contains(key))
            .unwrap_or_else(|| panic!("{key}: {told}"))
            .to_owned()
    };
    assert!(
        line(&told, "uploads.release_after").contains("7s") && line(&told, "uploads.release_after").contains("line "),
        "{told}"
    );
    assert!(line(&told, "retry.factor").contains("default"), "{told}");
    let ran = run(gateway
        .command(&["check", "--effective"])
        .env("AS2GATE_UPLOADS__RELEASE_AFTER", "9s"));
    let told = ran.ok();
    assert!(
        line(&told, "uploads.release_after").contains("9s")
            && line(&told, "uploads.release_after").contains("AS2GATE_UPLOADS__RELEASE_AFTER")
    );
    let ran = run(gateway.command(&["check"]).env("AS2GATE_UPLOADS__RELAESE_AFTER", "9s"));
    assert!(ran.fails(4).contains("release_after"));
    let ran = run(gateway.command(&["check"]).env("AS2GATE_PUBLC_URL", "https://as2.example.com"));
    assert!(ran.fails(4).contains("public_url"));
    let told = gateway.ok(&["check", "--effective", "-v", "-o", "table"]);
    let (_, block) = told.split_once("uploads.release_after = \"7s\"").unwrap();
    let (block, _) = block.split_once("\n\n").unwrap();
    assert!(block.contains("default \"2s\"") && block.contains("\n    Wait between"), "{block}");
    let rows = gateway.json(&["check", "--effective", "-v"]);
    let explained = |row: &serde_json::Value| row["meaning"].as_str().is_some_and(|text| text.len() > 10);
    assert!(rows.as_array().unwrap().iter().all(explained), "{rows:#}");
}

#[test]
fn a_shifted_clock_is_told_at_the_start() {
    let gateway = Gateway::new();
    let log = gateway.log();
    assert!(log.contains("WARN") && log.contains("AS2GATE_TEST_CLOCK is set"), "{log}");
}

#[test]
fn a_crash_of_the_server_leaves_no_core_file() {
    let gateway = Gateway::stopped(&[]);
    // From a shell that asks for them.
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "ulimit -S -c $(ulimit -H -c); exec \"$0\" serve"]);
    shell.arg(gateway.command(&[]).get_program()).current_dir(gateway.path("."));
    let mut server = shell.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut ready = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.id())).unwrap();
    let _ = (server.kill(), server.wait());
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(line.split_whitespace().nth(4), Some("0"), "{line}");
}

#[test]
fn check_and_doctor_find_what_is_wrong() {
    use std::os::unix::fs::PermissionsExt as _;
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["check"]);
    let open = |mode| fs::set_permissions(gateway.path("data"), fs::Permissions::from_mode(mode)).unwrap();
    for mode in [0o755, 0o500] {
        open(mode);
        for command in ["check", "doctor"] {
            let ran = gateway.cli(&[command]);
            // But for root, what cannot be written to cannot be opened.
            let is_hidden = ran.code != 0 && command == "check";
            assert!(is_hidden || ran.stdout.contains("chmod 700 data"), "{mode:o} {command}: {ran}");
        }
    }
    open(0o700);
    assert!(!gateway.ok(&["doctor"]).contains("chmod 700"));
    // A note beside an error would hide it.
    gateway.ok(&["station", "add", "LONELY"]);
    three_lines(&gateway.cli(&["send", "nothing.edi", "--from", "LONELY", "--to", "NOBODY"]).fails(3));
    let key = gateway.path("data/master.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let ran = gateway.cli(&["doctor"]);
    assert!(
        ran.code == 4 && ran.stdout.contains("no    master key: ") && ran.stdout.contains("chmod 600 data/master.key"),
        "{ran}"
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(&key).unwrap();
    let ran = gateway.cli(&["serve"]);
    three_lines(&ran.stderr);
    assert!(ran.code != 0 && ran.stderr.contains("master.key"), "{ran}");
}

#[test]
fn async_mdns_that_are_asked_for_at_a_name_of_our_own_are_told() {
    let gateway = Gateway::stopped(&[("public_url", "\"\"")]);
    gateway.ok(&["station", "add", "ALICE"]);
    let add = |id: &str, url: &str| gateway.cli(&["partner", "add", id, "--url", url, "--mdn", "async"]);
    let told = "is asked for async MDNs at http://localhost";
    assert!(add("FAR", "https://as2.far.example/as2").stderr.contains(told));
    assert!(!add("NEAR", "http://127.0.0.1:9/as2").stderr.contains(told));
    for command in ["check", "doctor"] {
        let ran = gateway.cli(&[command]);
        assert!(ran.stdout.contains(&format!("partner FAR {told}")), "{ran}");
        assert!(!ran.stdout.contains(&format!("partner NEAR {told}")), "{ran}");
        assert!(ran.stdout.contains("as2gate station set ALICE --url URL"), "{ran}");
    }
    let profile = || gateway.cli(&["station", "profile", "ALICE"]);
    assert!(profile().stderr.contains("set public_url"), "{}", profile());
    gateway.ok(&["station", "set", "ALICE", "--url", "https://as2.alice.example/as2"]);
    assert!(profile().stderr.is_empty(), "{}", profile());
    assert!(!gateway.cli(&["check"]).stdout.contains(told));
}

#[test]
fn host_keys_that_others_get_at_or_the_server_does_not_are_told() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
    let gateway = Gateway::stopped(&[]);
    let file = "data/host-keys/ssh_host_rsa_key";
    let told = |words: &str| {
        for command in ["check", "doctor"] {
            let text = gateway.cli(&[command]).stdout;
            assert!(text.contains(words), "{command} without {words}: {text}");
        }
    };
    for mode in [0o640, 0o200] {
        fs::set_permissions(gateway.path(file), fs::Permissions::from_mode(mode)).unwrap();
        told(&format!("chmod 600 {file}"));
    }
    fs::set_permissions(gateway.path(file), fs::Permissions::from_mode(0o400)).unwrap();
    let clean = gateway.ok(&["check"]);
    assert!(!clean.contains("chmod") && !clean.contains("chown"), "{clean}");
    // As after `sudo as2gate init` for a server of another user.
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        chown(gateway.path("data"), Some(12_345), None).unwrap();
        told(&format!("chown 12345 {file}"));
        told("chown 12345 data/master.key");
        chown(gateway.path(file), Some(12_345), None).unwrap();
        assert!(!gateway.ok(&["check"]).contains(file));
        assert!(gateway.ok(&["check"]).contains("ssh_host_ecdsa_key"));
    }
    fs::write(gateway.path(file), "nonsense").unwrap();
    assert!(gateway.cli(&["check"]).fails(4).contains("host keys"));
}

/// What root writes beside the server of another user stops that server: its staged files, the database's log.
#[test]
fn root_does_not_write_on_another_users_data() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    const OWNER: u32 = 12_345;
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return;
    }
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    let mut left = vec![gateway.path("data")];
    while let Some(path) = left.pop() {
        chown(&path, Some(OWNER), Some(OWNER)).unwrap();
        if path.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    for args in [&["status"][..], &["station", "add", "BOB"], &["message", "list"], &["doctor"]] {
        let ran = gateway.cli(args);
        let words = format!("{}{}", ran.stdout, ran.stderr);
        assert!(
            ran.code != 0 && words.contains("user 12345") && words.contains("sudo -u"),
            "{args:?}: {ran}"
        );
    }
    let _ = gateway.cli(&["station", "list"]).fails(5);
    // As an older version's `sudo as2gate send` left it.
    fs::create_dir(gateway.path("data/store/zz")).unwrap();
    let told = gateway.cli(&["doctor"]).stdout;
    assert!(told.contains("1 places") && told.contains("chown -R 12345 data/store"), "{told}");
    let data = gateway.path("data");
    let files = tests::files_below(&data);
    let owner = |file: &String| fs::metadata(data.join(file)).unwrap().uid();
    let foreign: Vec<_> = files.iter().filter(|file| owner(file) != OWNER).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}

#[test]
fn commands_without_the_environment_of_the_server_are_told_so() {
    let variables = [
        ("AS2GATE_PUBLIC_URL", "https://planted.example.com"),
        ("AS2GATE_LIFECYCLE__MESSAGES__CURRENT", "365d"),
    ];
    let owned = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let gateway = Gateway::of(as2gate(), owned.to_vec(), &[]);
    gateway.start();
    let bare = |args: &[&str]| {
        let mut command = gateway.command(args);
        for (name, _) in variables {
            command.env_remove(name);
        }
        run(&mut command)
    };
    let same = "configuration is what the server was started with";
    assert!(gateway.ok(&["doctor"]).contains(same));
    let told = bare(&["doctor"]).ok();
    let keys = [
        "public_url (AS2GATE_PUBLIC_URL is set for the server and not here)",
        "lifecycle.messages.current (AS2GATE_LIFECYCLE__MESSAGES__CURRENT is set for the server and not here)",
    ];
    assert!(told.contains(&keys.join(", ")) && !told.contains(same), "{told}");
    let status: serde_json::Value = serde_json::from_str(&bare(&["status", "-o", "json"]).ok()).unwrap();
    assert_eq!(
        status["other_settings"],
        serde_json::json!(["public_url", "lifecycle.messages.current"])
    );
    // What deletes goes by the server's figures or not at all.
    gateway.ok(&["lifecycle", "run"]);
    assert_eq!(bare(&["lifecycle", "run", "--dry-run"]).code, 0);
    let refused = bare(&["lifecycle", "run"]).fails(1);
    assert!(
        refused.contains(keys[1]) && refused.contains("hint:  set the same variables"),
        "{refused}"
    );
    let mut command = gateway.command(&["lifecycle", "run"]);
    let refused = run(command.env("AS2GATE_LIFECYCLE__HISTORY", "90d")).fails(1);
    assert!(
        refused.contains("lifecycle.history (AS2GATE_LIFECYCLE__HISTORY is set here"),
        "{refused}"
    );
    gateway.configure(&[("lifecycle.tmp.current", "\"2d\""), ("lifecycle.run_at", "\"05:00\"")]);
    let refused = gateway.cli(&["lifecycle", "run"]).fails(1);
    assert!(refused.contains("values of lifecycle.tmp.current\nhint:  restart"), "{refused}");
    let kept = gateway.sql("SELECT value FROM fact").concat();
    assert!(!kept.contains("planted") && !kept.contains("365d"), "{kept}");
    assert_eq!(gateway.term(), 0);
    assert_eq!(bare(&["lifecycle", "run"]).code, 0);
}

#[test]
fn doctor_tells_which_settings_the_running_server_does_not_have_yet() {
    let gateway = Gateway::new();
    let doctor = || gateway.ok(&["doctor"]);
    let same = "configuration is what the server was started with";
    assert!(doctor().contains(same), "{}", doctor());
    assert_eq!(gateway.json(&["status"])["other_settings"], serde_json::json!([]));
    let plain = fs::read(gateway.path("as2gate.toml")).unwrap();
    gateway.configure(&[("retry.max_tries", "7"), ("sftp.banner", "\"planted-banner\"")]);
    let told = doctor();
    let words = "differs from what the running server was started with: sftp.banner, retry.max_tries   (restart the server";
    assert!(told.contains(words), "{told}");
    let status = gateway.ok(&["status", "-o", "table"]);
    assert!(
        status.contains("has other values of sftp.banner, retry.max_tries: as2gate doctor"),
        "{status}"
    );
    assert_eq!(
        gateway.json(&["status"])["other_settings"],
        serde_json::json!(["sftp.banner", "retry.max_tries"])
    );
    // A variable of this shell hides what the file says.
    let here = run(gateway.command(&["doctor"]).env("AS2GATE_SFTP__BANNER", "mine")).ok();
    assert!(here.contains("started with: retry.max_tries "), "{here}");
    let words = "than the running server: sftp.banner (AS2GATE_SFTP__BANNER is set here and not for the server)";
    assert!(here.contains(words), "{here}");

    gateway.restart();
    assert!(doctor().contains(same), "{}", doctor());
    fs::write(gateway.path("other.toml"), plain).unwrap();
    let other = gateway.ok(&["-c", "other.toml", "doctor"]);
    let file = gateway.path("as2gate.toml");
    let words = [
        format!(
            "is not that of the running server, {}; it differs in sftp.banner, retry.max_tries",
            file.display()
        ),
        format!("as2gate -c {} doctor", file.display()),
    ];
    assert!(words.iter().all(|words| other.contains(words)), "{other}");
    // Values are not kept, and nothing is said of a server that is gone.
    let kept = gateway.sql("SELECT value FROM fact").concat();
    assert!(!kept.contains("planted-banner") && !kept.contains("http://"), "{kept}");
    assert_eq!(gateway.term(), 0);
    assert!(!gateway.ok(&["-c", "other.toml", "doctor"]).contains("running server"));
    assert_eq!(
        gateway.json(&["-c", "other.toml", "status"])["other_settings"],
        serde_json::json!([])
    );
}

#[test]
fn doctor_tells_that_2022_answers_where_22_is_not_to_be_had() {
    let address = "127.22.22.22:22";
    // Who may not have the port finds it closed, whoever has it.
    let (taken, why) = match std::net::TcpListener::bind(address) {
        Ok(taken) => (Some(taken), "is taken by another program"),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => (None, "needs a privilege"),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => (None, "is taken by another program"),
        Err(error) => panic!("{error}"),
    };
    let gateway = Gateway::stopped(&[("sftp.listen", &format!("[\"{address}\"]"))]);
    let told = gateway.ok(&["doctor"]);
    assert!(
        told.contains(&format!("warn  sftp port {address} {why}; a server answers at 2022 instead")) && told.contains("for sftp.listen"),
        "{told}"
    );
    // Where that one is gone as well, a server does not start.
    let other = std::net::TcpListener::bind("127.22.22.22:2022").unwrap();
    let told = gateway.cli(&["doctor"]).stdout;
    assert!(told.contains(&format!("no    sftp port: {address} {why}   (")), "{told}");
    drop(other);
    // A server that runs on another port, because it was told so.
    drop(taken);
    let gateway = Gateway::stopped(&[("sftp.listen", "[\"127.22.22.22:2222\"]")]);
    let told = gateway.ok(&["doctor"]);
    assert!(
        told.contains("sftp port is 2222; clients expect 22") && told.contains(address),
        "{told}"
    );
}

#[test]
fn doctor_finds_the_telemetry_port_taken() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let gateway = Gateway::stopped(&[("telemetry.listen", &format!("\"{at}\""))]);
    // The server would start all the same.
    let told = gateway.ok(&["doctor"]);
    assert!(
        told.contains(&format!("warn  telemetry port {at} is taken by another program; ")),
        "{told}"
    );
    drop(taken);
    assert!(!gateway.ok(&["doctor"]).contains("telemetry"));
}

#[test]
fn a_server_tells_which_address_it_cannot_have_and_which_setting_asks_for_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    // An address of documentation, which is nobody's.
    for (key, address, why) in [
        ("sftp.listen", taken.as_str(), "is taken by another program"),
        ("as2.listen", taken.as_str(), "is taken by another program"),
        ("as2.listen", "192.0.2.1:8080", "cannot be had"),
    ] {
        let gateway = Gateway::stopped(&[(key, &format!("[\"{address}\"]"))]);
        let ran = gateway.cli(&["serve"]);
        three_lines(&ran.stderr);
        let told = format!("why:   {address} {why}");
        assert!(ran.code != 0 && ran.stderr.contains(&told) && ran.stderr.contains(key), "{ran}");
    }
    let gateway = Gateway::stopped(&[]);
    for (option, address, hint) in [
        ("--as2", taken.as_str(), "another address for --as2"),
        ("--sftp", "2022", "write it like 0.0.0.0:2022"),
        ("--as2", "localhost", "write it like 0.0.0.0:2022"),
    ] {
        let ran = gateway.cli(&["serve", option, address]);
        three_lines(&ran.stderr);
        assert!(ran.code != 0 && ran.stderr.contains(hint), "{ran}");
    }
}

#[test]
fn a_directory_that_was_never_set_up_is_told_what_to_do() {
    let place = Place::new();
    let ran = place.cli(&["--data-dir", place.path("nothing").to_str().unwrap(), "station", "list"]);
    three_lines(&ran.stderr);
    assert!(ran.code != 0 && ran.stderr.contains("/nothing init` sets one up here"), "{ran}");
    assert!(!place.path("nothing").exists());
}

#[test]
fn all_commands_tell_a_strange_data_directory_alike() {
    use std::os::unix::fs::PermissionsExt as _;
    let gateway = Gateway::stopped(&[]);
    let data = gateway.path("data").display().to_string();
    let told = |place: &str, words: &str| {
        for command in ["serve", "doctor", "check", "status"] {
            let ran = gateway.cli(&["--data-dir", place, command]);
            let all = ran.stdout.clone() + &ran.stderr;
            assert!(all.contains(words) && !all.contains("master key"), "{command}: {ran}");
            assert!(ran.code != 0 && ran.stderr.contains("hint:"), "{command}: {ran}");
        }
    };
    let nothing = gateway.path("nothing").display().to_string();
    told(&nothing, &format!("{nothing} is not a data directory"));
    // As another user would see it: root may look everywhere, but not below a file.
    let file = gateway.file("file", b"").display().to_string();
    told(&file, &format!("cannot look into {file}"));
    if !std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0) {
        fs::set_permissions(&data, fs::Permissions::from_mode(0o000)).unwrap();
        told(&data, &format!("cannot look into {data}"));
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    }
}

#[test]
fn a_server_does_not_start_on_what_belongs_to_others_or_is_gone() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    let key = gateway.path("data/master.key");
    let own = fs::read(&key).unwrap();
    // Another master key: every message would fail, one by one.
    fs::write(&key, "7b".repeat(32)).unwrap();
    for command in ["serve", "doctor"] {
        let ran = gateway.cli(&[command]);
        assert!(ran.code != 0, "{ran}");
        three_lines(&ran.stderr);
    }
    assert!(gateway.cli(&["serve"]).stderr.contains("not the one that sealed"));
    fs::write(&key, own).unwrap();
    let host_key = gateway.path("data/host-keys/ssh_host_ed25519_key");
    let good = fs::read(&host_key).unwrap();
    fs::write(&host_key, "nonsense").unwrap();
    let ran = gateway.cli(&["serve"]);
    assert!(
        ran.code == 4 && ran.stderr.contains("ssh_host_ed25519_key") && !ran.stderr.contains("hint:  look at master_key"),
        "{ran}"
    );
    fs::write(&host_key, good).unwrap();
    // A database without anything in it would let the sweep take what it does not know.
    for file in ["as2gate.db", "as2gate.db-wal"] {
        fs::write(gateway.path("data/db").join(file), "").unwrap();
    }
    for command in ["serve", "status"] {
        let ran = gateway.cli(&[command]);
        assert!(
            ran.code == 1 && ran.stderr.contains("is empty") && ran.stderr.contains("restore a backup"),
            "{ran}"
        );
    }
    fs::write(gateway.path("data/db/as2gate.db"), "no database at all, by far").unwrap();
    let ran = gateway.cli(&["serve"]);
    assert!(ran.code == 1 && ran.stderr.contains("as2gate restore"), "{ran}");
}

#[test]
fn a_database_that_is_missing_beside_what_belongs_to_it_is_told() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    let keys = gateway.path("data/keystore/mftg-acme/identity.jks");
    let before = fs::read(&keys).unwrap();
    // As where its disk is not mounted.
    fs::rename(gateway.path("data/db"), gateway.path("away")).unwrap();
    for command in [&["serve"][..], &["status"], &["check"], &["init", "--account", "acme"]] {
        let ran = gateway.cli(command);
        three_lines(&ran.stderr);
        assert!(ran.code == 1 && ran.stderr.contains("as2gate.db is missing"), "{command:?}: {ran}");
        assert!(
            ran.stderr.contains("mount") && ran.stderr.contains("as2gate restore"),
            "{command:?}: {ran}"
        );
    }
    let told = gateway.cli(&["doctor"]).fails(4);
    assert!(told.contains("is missing") && told.contains("mount"), "{told}");
    assert_eq!(fs::read(&keys).unwrap(), before);
    fs::create_dir(gateway.path("data/db")).unwrap();
    let _ = gateway.cli(&["init", "--account", "acme"]).fails(1);
    fs::remove_dir(gateway.path("data/db")).unwrap();
    fs::rename(gateway.path("away"), gateway.path("data/db")).unwrap();
    gateway.ok(&["check"]);

    // Host keys and a master key may be brought along.
    for dir in ["db", "keystore", "tree", "store", "noncurrent"] {
        fs::remove_dir_all(gateway.path("data").join(dir)).unwrap();
    }
    fs::remove_file(gateway.path("data/host-keys/ssh_host_ecdsa_key")).unwrap();
    let ran = gateway.cli(&["--data-dir", "data", "status"]);
    assert!(ran.code == 3 && ran.stderr.contains("`as2gate --data-dir data init`"), "{ran}");
    let told = gateway.ok(&["--data-dir", "data", "init"]);
    super::says(
        &told,
        &["Created host keys ecdsa SHA256:", "Kept host keys ed25519 SHA256:", "rsa SHA256:"],
    );
}

#[test]
fn under_another_master_key_nothing_is_sealed_and_serve_stays_refused() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    gateway.ok(&["partner", "add", "BOB", "--url", "https://as2.bob.example/as2"]);
    gateway.ok(&["user", "add", "ops", "--login", "password"]);
    let secret = gateway.file("secret", b"planted-secret\n").display().to_string();
    let password = format!("file:{secret}");
    let commands = [
        &["station", "add", "Z"][..],
        &["user", "totp", "ops"],
        &["partner", "set", "BOB", "--http-user", "u", "--http-password", &password],
        &["cert", "renew", "alice-1", "--now"],
        &["backup", "safe"],
    ];
    let key = gateway.path("data/master.key");
    let own = fs::read(&key).unwrap();
    let name = tests::pair::certificate_name(&gateway, "ALICE");
    fs::write(&key, "7b".repeat(32)).unwrap();
    for command in commands {
        let command: Vec<&str> = command.iter().map(|word| if *word == "alice-1" { &*name } else { word }).collect();
        let ran = gateway.cli(&command);
        three_lines(&ran.stderr);
        assert!(
            ran.code == 4 && ran.stderr.contains("put back the master key"),
            "{command:?}: {ran}"
        );
    }
    assert!(gateway.cli(&["serve"]).fails(4).contains("put back the master key"));
    for command in ["check", "doctor"] {
        let told = gateway.cli(&[command]).stdout;
        assert!(
            told.contains("no    master key: the master key is not the one"),
            "{command}: {told}"
        );
    }
    fs::write(&key, own).unwrap();
    gateway.ok(&["check"]);

    // What was sealed under another key all the same: each with what puts another in its place.
    for command in &commands[1..3] {
        gateway.ok(command);
    }
    gateway.sql("UPDATE object SET json = replace(json, 'sealed:A', 'sealed:B')");
    let told = gateway.cli(&["check"]).stdout;
    for words in [
        "no    partner BOB: ",
        "partner set BOB --http-password SOURCE",
        "no    user ops: ",
        "user totp ops",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
}

#[test]
fn root_sets_up_nothing_in_another_users_directory() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return;
    }
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["backup", "safe"]);
    fs::create_dir(gateway.path("theirs")).unwrap();
    chown(gateway.path("theirs"), Some(12_345), None).unwrap();
    let restore = ["restore", "safe", "--master-key", "data/master.key"];
    for args in [&restore[..], &[&restore[..], &["-n"]].concat(), &["init", "--account", "acme"]] {
        let told = gateway.cli(&[&["--data-dir", "theirs"], args].concat()).fails(5);
        assert!(told.contains("user 12345") && told.contains("sudo -u"), "{args:?}: {told}");
        assert!(tests::files_below(&gateway.path("theirs")).is_empty(), "{args:?}");
    }
    assert!(gateway.cli(&["--data-dir", "theirs", "status"]).fails(3).contains("init"));
}

#[test]
fn places_that_the_server_does_not_get_at_are_told() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["status"]);
    let told = |words: &str| {
        for command in ["check", "doctor"] {
            let text = gateway.cli(&[command]).stdout;
            assert!(text.contains(words), "{command} without {words}: {text}");
        }
    };
    for place in ["tree", "spool", "partial", "noncurrent", "store", "keystore", "db"] {
        let place = format!("data/{place}");
        let mode = |mode| fs::set_permissions(gateway.path(&place), fs::Permissions::from_mode(mode)).unwrap();
        // But for root, a database that cannot be written to cannot be opened.
        if !place.ends_with("db") {
            mode(0o500);
            told(&format!("chmod u+rwX {place}"));
            mode(0o700);
        }
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            chown(gateway.path(&place), Some(12_345), None).unwrap();
            told(&format!("chown -R 0 {place}"));
            chown(gateway.path(&place), Some(0), None).unwrap();
        }
    }
    let clean = gateway.ok(&["check"]);
    assert!(!clean.contains("chmod") && !clean.contains("chown"), "{clean}");
}

#[test]
fn files_that_are_gone_from_the_tree_are_told() {
    let pair = tests::Pair::one_gateway();
    let gateway = pair.alice();
    pair.deliver("order.edi", b"an order");
    gateway.published();
    assert_eq!(gateway.term(), 0);
    for command in ["check", "doctor"] {
        assert!(!gateway.ok(&[command]).contains("files "), "{command}");
    }
    fs::remove_dir_all(gateway.path("data/tree")).unwrap();
    for command in ["check", "doctor"] {
        let ran = gateway.cli(&[command]);
        assert!(ran.code == 4 && ran.stdout.contains("no    files: "), "{command}: {ran}");
    }
}

#[test]
fn the_log_tells_what_has_expired_from_what_expires() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    let days = gateway.json(&["cert", "list"])[0]["days"].as_i64().unwrap();
    for (until, words) in [(-6, "a certificate in use expires"), (6, "a certificate in use has expired")] {
        gateway.set_clock((days + until) * 86_400);
        let before = gateway.log().len();
        gateway.start();
        gateway.wait("the word of the certificate", |gateway| {
            gateway.log()[before..].contains(words).then_some(())
        });
        assert_eq!(gateway.term(), 0);
    }
}

#[test]
fn a_second_server_on_the_same_data_directory_is_refused() {
    let gateway = Gateway::new();
    let words = gateway.cli(&["serve", "--sftp", "127.0.0.1:0", "--as2", "127.0.0.1:0"]).fails(1);
    three_lines(&words);
    assert!(words.contains("another as2gate server"), "{words}");
    assert_eq!(
        tests::wire::exchange(gateway.as2_port, "HEAD", "/as2", &[], b"").status,
        200,
        "the first one goes on"
    );
}

#[test]
fn a_busy_port_is_named() {
    let gateway = Gateway::new();
    let other = Gateway::stopped(&[]);
    let busy = format!("127.0.0.1:{}", gateway.as2_port);
    let words = other.cli(&["serve", "--as2", &busy]).fails(1);
    assert!(words.contains(&busy) && words.contains("hint:"), "{words}");
}

#[test]
fn a_lost_host_key_is_made_anew_and_not_in_silence() {
    let gateway = Gateway::stopped(&[]);
    fs::remove_file(gateway.path("data/host-keys/ssh_host_ecdsa_key")).unwrap();
    gateway.start();
    let log = gateway.log();
    assert!(log.contains("made a host key") && log.contains("ecdsa"), "{log}");
}

#[test]
fn status_says_that_new_data_is_refused() {
    let gateway = Gateway::stopped(&[("storage.min_free", "\"100TiB\"")]);
    let text = gateway.ok(&["status", "-o", "table"]);
    assert!(
        text.contains("storage full, new data is refused") && !text.contains("storage ok"),
        "{text}"
    );
}

#[test]
fn status_for_scripts_is_plain_text() {
    let gateway = Gateway::new();
    let told = gateway.ok(&["status", "-o", "tsv"]);
    let (names, cells) = told.trim_end().split_once('\n').unwrap();
    let cell = |name: &str| {
        let at = names.split('\t').position(|found| found == name).unwrap();
        cells.split('\t').nth(at).unwrap().to_owned()
    };
    assert!(!told.contains(['{', '[', '"']), "{told}");
    assert!(cell("listening").contains(&format!("as2=127.0.0.1:{}", gateway.as2_port)), "{told}");
    assert!(cell("host_keys").starts_with("fingerprint=SHA256:"), "{told}");
    assert!(cell("objects").contains("accounts=1,"), "{told}");
}

#[test]
fn a_support_bundle_helps_and_gives_nothing_away() {
    let place = Place::new();
    let at = format!("127.0.0.1:{}", free_port());
    let _ = place.ok(&["init", "--account", "acme", "--as2", &at, "--sftp", "127.0.0.1:0"]);
    let _ = place.ok(&["station", "add", "ALICE", "--key", "rsa-2048"]);
    let url = format!("http://127.0.0.1:{}/as2?key=planted-query", free_port());
    let _ = place.ok(&["station", "add", "BOB", "--key", "rsa-2048"]);
    let _ = place.ok(&["partner", "add", "--from-station", "BOB", "--set", "headers.X-Token=planted-header"]);
    fs::write(place.path("password"), "planted-password\n").unwrap();
    let _ = place.ok(&[
        "partner",
        "set",
        "BOB",
        "--url",
        &url,
        "--http-user",
        "bob",
        "--http-password",
        "file:password",
        "--mdn-urls",
        "https://b.example/mdn?token=planted-query",
        "--token-url",
        "https://b.example/token?key=planted-query",
    ]);
    let _ = place.ok(&["user", "add", "acme-erp", "--login", "password"]);
    let _ = place.ok(&["user", "password", "acme-erp", "--password", "file:password"]);
    fs::write(place.path("planted-file.edi"), b"planted-payload").unwrap();
    let _ = place.ok(&["send", "planted-file.edi", "--from", "ALICE", "--to", "BOB"]);

    let told = place.ok(&["support-bundle"]);
    let file = told.split_whitespace().nth(1).unwrap().trim_end_matches(';').to_owned();
    let text = fs::read_to_string(place.path(&file)).unwrap();
    for section in [
        "system",
        "configuration",
        "doctor",
        "status",
        "objects",
        "messages that wait or failed",
        "events",
    ] {
        assert!(text.contains(&format!("\n===== {section} =====\n")), "{section}:\n{text}");
    }
    assert!(text.contains("planted-file.edi") && text.contains("message.accepted"), "{text}");
    let master = fs::read_to_string(place.path("data/master.key")).unwrap();
    for secret in [
        "planted-query",
        "planted-header",
        "planted-password",
        "$argon2",
        "planted-payload",
        "PRIVATE KEY",
        master.trim(),
    ] {
        assert!(!text.contains(secret), "{secret}:\n{text}");
    }

    // Where something is broken it is needed most.
    fs::write(place.path("data/db/as2gate.db"), b"no database").unwrap();
    // It may hold all that was in the database.
    let _ = fs::remove_file(place.path("data/db/as2gate.db-wal"));
    let text = place.ok(&["support-bundle", "--out", "-"]);
    assert!(
        text.contains("===== doctor =====") && text.contains("no    data directory: journal"),
        "{text}"
    );
}
