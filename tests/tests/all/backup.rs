//! Backups: taken while files come and go, put back into an empty directory, and as good as what was there.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::peer::Identity;
use tests::process::{PATIENCE, run, tool};
use tests::{Gateway, Pair, Sftp, noise, order};

/// Every file that SFTP shows below a place, with its bytes.
fn tree(user: &Sftp, place: &str) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for name in user.ls(place) {
        let path = format!("{place}/{name}");
        if user.run(&[&format!("cd {path}")]).code == 0 {
            files.extend(tree(user, &path));
        } else {
            files.insert(path.clone(), user.get(&path));
        }
    }
    files
}

/// Moves the data directory away and keeps its master key at hand, as after the loss of a disk.
fn lose(gateway: &Gateway) {
    gateway.kill9();
    fs::rename(gateway.path("data/master.key"), gateway.path("master.key")).unwrap();
    fs::rename(gateway.path("data"), gateway.path("lost")).unwrap();
}

#[test]
fn what_is_restored_serves_the_same_tree_and_repeats_the_stored_mdn() {
    let pair = Pair::two_gateways();
    let (alice, bob) = (pair.alice(), pair.bob());
    let message = pair.captured("first.edi", &order(1));
    let answer = message.post(bob.as2_port);
    assert!(answer.disposition().ends_with("processed"), "{}", answer.text());
    pair.deliver("large.bin", &noise(300_000, 3));
    pair.put("large.bin", &order(2));
    alice.reaches("out", "large.bin", "duplicate");
    pair.put("waiting.part", &noise(100_000, 4));
    let shown = |user: &Sftp| {
        let mut all = tree(user, "AS2/files");
        for place in ["AS2/send", "AS2/headers", "AS2/raw-message", "AS2/raw-mdn", "AS2/duplicate"] {
            all.extend(tree(user, place));
        }
        all
    };
    alice.published();
    bob.published();
    let (alices, bobs) = (shown(&pair.alice_user), shown(&pair.bob_user));
    assert!(alices.len() > 8 && bobs.len() > 6, "{:?} {:?}", alices.keys(), bobs.keys());

    let told = alice.json(&["backup", "safe"]);
    assert_eq!(told["missing"], Value::Array(Vec::new()), "{told:#}");
    bob.ok(&["backup", "safe"]);
    assert_eq!(alice.cli(&["backup", "safe"]).code, 1, "nothing is overwritten");
    for gateway in [alice, bob] {
        lose(gateway);
        let without = gateway.cli(&["restore", "safe"]);
        assert!(without.code == 4 && without.stderr.contains("--master-key"), "{without}");
        gateway.ok(&["restore", "safe", "--master-key", "master.key", "--dry-run"]);
        assert!(!gateway.path("data/db").exists());
        gateway.ok(&["restore", "safe", "--master-key", "master.key"]);
        assert_eq!(gateway.cli(&["restore", "safe"]).code, 1, "only into an empty directory");
        gateway.ok(&["check"]);
        let events = gateway.json(&["audit", "list", "--kind", "journal.restored"]);
        let facts = &events[0]["facts"];
        assert!(facts["taken"].is_string() && facts["operator"].is_string(), "{events:#}");
        gateway.ok(&["audit", "verify"]);
        gateway.start();
    }
    let restored = alice.json(&["audit", "list", "--kind", "journal.restored"]);
    assert_eq!(restored[0]["facts"]["taken"], told["taken"]);
    // The same logins, host keys, contents; and the exchange goes on.
    assert!(shown(&pair.alice_user) == alices && shown(&pair.bob_user) == bobs);
    let again = message.post(bob.as2_port);
    assert_eq!(again.body, answer.body, "the stored MDN, byte for byte");
    assert_eq!(bob.messages_of("in", "first.edi").len(), 2);
    pair.deliver("after.edi", &order(5));
    pair.alice_user
        .ok(&["rename AS2/send/ALICE/BOB/waiting.part AS2/send/ALICE/BOB/waiting.bin"]);
    assert_eq!(pair.fetch(&pair.delivered("waiting.bin")), noise(100_000, 4));
}

#[test]
fn what_a_partner_would_take_twice_is_held_after_a_restore() {
    let pair = Pair::two_with(&[("retry.max_tries", "1000")]);
    let (alice, bob) = (pair.alice(), pair.bob());
    bob.change(&["station", "add", "CAROL"]);
    tests::pair::introduce(bob, "CAROL", alice);
    alice.ok(&["partner", "set", "BOB", "--detects-duplicates", "false"]);
    alice.followed();
    bob.kill9();
    // Of both partners one that was tried, and of BOB one that was never packed.
    let to_carol = alice.file("carol.edi", &order(1));
    pair.alice_user.put(&to_carol, "AS2/send/ALICE/CAROL/carol.edi");
    pair.put("tried.edi", &order(2));
    let tried = ["carol.edi", "tried.edi"].map(|file| alice.reaches("out", file, "retrying"));
    alice.change(&["partner", "block", "BOB", "out"]);
    pair.put("queued.edi", &order(3));
    alice.wait("the third to wait", |alice| {
        let waits = alice.messages_of("out", "queued.edi");
        (waits.first()?["code"] == "partner-blocked").then_some(())
    });
    alice.ok(&["backup", "safe"]);

    // All arrive after it.
    bob.start();
    alice.ok(&["partner", "unblock", "BOB"]);
    for file in ["carol.edi", "tried.edi", "queued.edi"] {
        alice.reaches("out", file, "delivered");
    }
    lose(alice);
    let planned = alice.json(&["restore", "safe", "--master-key", "master.key", "-n"]);
    assert_eq!(planned["held"], 2, "{planned:#}");
    let told = alice.ok(&["restore", "safe", "--master-key", "master.key"]);
    assert!(told.contains("message list --state held   2 may have arrived since"), "{told}");
    alice.ok(&["audit", "verify"]);
    alice.ok(&["partner", "unblock", "BOB"]);
    alice.start();
    let again = alice.reaches("out", "carol.edi", "delivered");
    assert_eq!(again["message_id"], tried[0]["message_id"], "it is told from a new one by this");
    for file in ["tried.edi", "queued.edi"] {
        let held = alice.reaches("out", file, "held");
        let id = held["id"].as_str().unwrap().rsplit('-').next().unwrap();
        assert_eq!((&held["code"], &held["next_try"]), (&Value::from("outcome-unknown"), &Value::Null));
        assert!(held["reason"].as_str().unwrap().contains("a backup was restored"), "{held:#}");
        assert!(
            held["hint"].as_str().unwrap().contains(&format!("as2gate message retry {id}")),
            "{held:#}"
        );
        assert_eq!(bob.messages_of("in", file).len(), 1);
        // Whoever has asked the partner has it sent all the same.
        alice.ok(&["message", "retry", id]);
        alice.reaches("out", file, "delivered");
        // This partner does tell repeats: even what is packed anew has the Message-ID of before.
        assert_eq!(bob.messages_of("in", file).len(), 1);
    }
}

#[test]
fn a_relative_data_dir_is_restored_beside_its_configuration() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    gateway.ok(&["backup", "safe"]);
    let restore = ["restore", "safe", "--master-key", "data/master.key"];
    let shown = |name: &str| gateway.path(name).display().to_string();
    let says = |told: &str, words: &[String]| assert!(words.iter().all(|words| told.contains(words)), "{words:?}: {told}");
    let told = gateway.ok(&[&["-c", "conf/gate.toml"][..], &restore].concat());
    says(&told, &[format!("Restored   {}   ", shown("conf/data")), shown("conf/gate.toml")]);
    // Wherever it is started.
    let file = shown("conf/gate.toml");
    let elsewhere = run(gateway.command(&["-c", &file, "station", "list"]).current_dir("/")).ok();
    assert!(elsewhere.contains("ALICE"), "{elsewhere}");

    // The configuration in the data directory itself, whatever its name.
    let kept = fs::read_to_string(gateway.path("safe/as2gate.toml")).unwrap();
    fs::write(
        gateway.path("safe/as2gate.toml"),
        kept.replace("data_dir = \"data\"", "data_dir = \".\""),
    )
    .unwrap();
    let told = gateway.ok(&[&["-c", "one/gate.toml"][..], &restore].concat());
    says(&told, &[format!("Restored   {}   ", shown("one")), shown("one/gate.toml")]);
    assert!(gateway.ok(&["-c", "one/gate.toml", "station", "list"]).contains("ALICE"));

    // What the configuration says by itself is not where the files are.
    let told = gateway.ok(&[&["-c", "two/gate.toml", "--data-dir", "apart"][..], &restore].concat());
    says(
        &told,
        &[
            format!("Restored   {}   ", shown("apart")),
            format!("its data_dir is {}: go on with", shown("two")),
        ],
    );
}

#[test]
fn files_that_the_configuration_names_are_told_before_and_after() {
    let gateway = Gateway::stopped(&[
        ("as2.tls.listen", "[\"127.0.0.1:0\"]"),
        ("as2.tls.cert", "\"file:data/tls/cert.pem\""),
        ("as2.tls.key", "\"file:data/tls/key.pem\""),
        ("sftp.revoked_keys", "\"revoked.txt\""),
        ("sftp.user_ca", "[\"file:ca.pub\"]"),
    ]);
    let tls = Identity::new("gate");
    let ca = fs::read_to_string(format!("{}.pub", gateway.ssh_key("ca", "ed25519").display())).unwrap();
    // At the places that the configuration of this directory leads to.
    let give = |dir: &str| {
        for file in ["cert.pem", "key.pem"] {
            gateway.file(&format!("{dir}data/tls/{file}"), &fs::read(tls.path(file)).unwrap());
        }
        gateway.file(&format!("{dir}revoked.txt"), b"# none\n");
        gateway.file(&format!("{dir}ca.pub"), ca.as_bytes());
    };
    give("");
    gateway.ok(&["check"]);
    let told = gateway.ok(&["backup", "safe"]);
    for line in [
        "  master_key         data/master.key\n",
        "  as2.tls.cert       data/tls/cert.pem\n",
        "  as2.tls.key        data/tls/key.pem\n",
        "  sftp.revoked_keys  revoked.txt\n",
        "  sftp.user_ca       ca.pub\n",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }

    // Without its authorities no configuration is read, and so none is restored.
    let restore = ["-c", "new/gate.toml", "restore", "safe", "--master-key", "data/master.key"];
    assert!(gateway.cli(&restore).fails(4).contains("ca.pub"));
    gateway.file("new/ca.pub", ca.as_bytes());
    let told = gateway.ok(&restore);
    for (key, file) in [
        ("as2.tls.cert", "new/data/tls/cert.pem"),
        ("as2.tls.key", "new/data/tls/key.pem"),
        ("sftp.revoked_keys", "new/revoked.txt"),
    ] {
        assert!(told.contains(&format!("put {key} to {file}: it is in no backup")), "{told}");
        for command in ["check", "doctor"] {
            let found = gateway.cli(&["-c", "new/gate.toml", command]);
            assert!(
                found.code == 4 && found.stdout.contains(&format!("no    {key}: ")),
                "{command} {key}: {found}"
            );
            assert!(found.stdout.contains("no backup has"), "{found}");
        }
    }
    give("new/");
    gateway.ok(&["-c", "new/gate.toml", "check"]);

    // What was put there before stands in nobody's way, and is not asked for.
    give("ready/");
    let told = gateway.ok(&["-c", "ready/gate.toml", "restore", "safe", "--master-key", "data/master.key"]);
    assert!(!told.contains("it is in no backup"), "{told}");
    gateway.ok(&["-c", "ready/gate.toml", "check"]);
}

#[test]
fn a_backup_under_load_holds_everything_that_its_journal_names() {
    let pair = Pair::one_gateway();
    let gateway = pair.alice();
    let busy = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                if !busy.load(Ordering::Relaxed) {
                    break;
                }
                let local = gateway.file(&format!("load/{n}"), &noise(if n % 2 == 0 { 2_000 } else { 150_000 }, n));
                pair.alice_user.put(&local, &format!("AS2/send/ALICE/BOB/load-{n}.bin"));
            }
        });
        gateway.wait("some of the load", |gateway| (gateway.messages("in").len() > 3).then_some(()));
        for n in 0..5 {
            let told = gateway.json(&["backup", &format!("safe-{n}")]);
            assert_eq!(told["missing"], Value::Array(Vec::new()), "{told:#}");
        }
        busy.store(false, Ordering::Relaxed);
    });
    gateway.ok(&[
        "--data-dir",
        "nowhere",
        "restore",
        "safe-0",
        "--master-key",
        "data/master.key",
        "-n",
    ]);
    gateway.ok(&[
        "-c",
        "elsewhere/as2gate.toml",
        "restore",
        "safe-0",
        "--master-key",
        "data/master.key",
        "-n",
    ]);
    for place in ["nowhere", "elsewhere"] {
        assert!(!gateway.path(place).exists(), "a dry run made {place}");
    }
    // Each is whole in the eyes of `restore`, which looks at every file that the journal names.
    for n in 0..5 {
        let (data, safe) = (format!("data-{n}"), format!("safe-{n}"));
        gateway.ok(&["--data-dir", &data, "restore", &safe, "--master-key", "data/master.key"]);
        assert!(gateway.path(&data).join("as2gate.toml").is_file());
    }
    // One that lost a file is found out.
    let lost = first_file(&gateway.path("safe-0/data/tree"));
    fs::remove_file(lost).unwrap();
    let broken = gateway.cli(&["--data-dir", "data-x", "restore", "safe-0", "--master-key", "data/master.key"]);
    assert!(broken.code == 1 && broken.stderr.contains("not whole"), "{broken}");
    assert_eq!(
        gateway.cli(&["--data-dir", "data-x", "status"]).code,
        1,
        "and nobody serves from it"
    );
}

#[test]
fn what_leaves_while_a_backup_is_taken_is_in_the_backup() {
    let pair = Pair::one_gateway();
    let gateway = pair.alice();
    let names: Vec<String> = (0..40).map(|n| format!("waits-{n}.part")).collect();
    for (name, n) in names.iter().zip(0..) {
        pair.put(name, &noise(100_000, n));
    }
    let published = || fs::read_dir(gateway.tree("files/ALICE/BOB/outbox")).map_or(0, Iterator::count);
    // The backup stands still with its copy of the journal in the making or made.
    let mut backup = gateway.command(&["backup", "safe", "-q"]).spawn().unwrap();
    let id = backup.id().to_string();
    let signal = |name: &str| run(&mut tool("kill", &[name, &id])).ok();
    // It is empty before the first look at what it is a copy of.
    let end = Instant::now() + PATIENCE;
    while fs::metadata(gateway.path("safe/journal.db")).map_or(0, |copy| copy.len()) == 0 {
        let ended = backup.try_wait().unwrap();
        assert!(
            ended.is_none() && Instant::now() < end,
            "nothing was copied; the backup ended: {ended:?}"
        );
        std::thread::sleep(Duration::from_micros(100));
    }
    let _ = signal("-STOP");
    let (removed, renamed) = names.split_first().unwrap();
    let dir = "AS2/send/ALICE/BOB";
    let mut commands = vec![format!("rm {dir}/{removed}")];
    commands.extend(
        renamed
            .iter()
            .map(|name| format!("rename {dir}/{name} {dir}/{}", name.replace(".part", ".bin"))),
    );
    pair.alice_user.ok(&commands.iter().map(String::as_str).collect::<Vec<_>>());
    gateway.wait("everything to be delivered and at its place", |gateway| {
        let sent = gateway.messages("out");
        let delivered = sent.iter().filter(|message| message["state"] == "delivered").count();
        (delivered == renamed.len() && published() == renamed.len()).then_some(())
    });
    std::thread::sleep(Duration::from_secs(1));
    let _ = signal("-CONT");
    assert!(
        backup.wait().unwrap().success(),
        "something is missing: {}",
        gateway.path("safe").display()
    );
    let told: Value = serde_json::from_slice(&fs::read(gateway.path("safe/backup.json")).unwrap()).unwrap();
    assert_eq!(told["missing"], Value::Array(Vec::new()), "{told:#}");
    gateway.ok(&["--data-dir", "again", "restore", "safe", "--master-key", "data/master.key"]);
    let waiting = gateway.json(&["--data-dir", "again", "upload", "list"]);
    assert_eq!(waiting.as_array().unwrap().len(), names.len(), "{waiting:#}");
    // Nothing is held any more.
    let staged = || {
        run(&mut tool("find", &[gateway.path("data/store").to_str().unwrap(), "-type", "f"]))
            .ok()
            .lines()
            .count()
    };
    let before = staged();
    pair.deliver("after.bin", &noise(100_000, 99));
    gateway.published();
    gateway.wait("the staged bytes to go", |_| (staged() == before).then_some(()));
}

#[test]
fn a_long_list_of_what_is_missing_is_read_whole() {
    use std::os::unix::ffi::OsStrExt as _;
    let gateway = Gateway::stopped(&[]);
    // Nothing is left out for its name.
    let odd = std::ffi::OsStr::from_bytes(b"odd-\xff.p12");
    fs::create_dir_all(gateway.path("data/keystore")).unwrap();
    fs::write(gateway.path("data/keystore").join(odd), b"bytes").unwrap();
    gateway.ok(&["backup", "safe"]);
    let file = gateway.path("safe/backup.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let missing = (0..20_000).map(|n| format!("AS2/files/ALICE/BOB/outbox/{n:064}/order.edi"));
    manifest["missing"] = missing.collect();
    fs::write(&file, manifest.to_string()).unwrap();
    assert!(fs::metadata(&file).unwrap().len() > 1 << 20);
    gateway.ok(&["--data-dir", "again", "restore", "safe", "--master-key", "data/master.key"]);
    assert_eq!(fs::read(gateway.path("again/keystore").join(odd)).unwrap(), b"bytes");
    // A manifest beyond its limit is refused as such, not read in part.
    fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len((64 << 20) + 1)
        .unwrap();
    let words = gateway.cli(&["--data-dir", "third", "restore", "safe"]).stderr;
    assert!(words.contains("longer than 67108864 bytes"), "{words}");
}

#[test]
fn what_was_accepted_has_one_message_id_under_any_public_url() {
    let pair = Pair::two_gateways();
    let (alice, bob) = (pair.alice(), pair.bob());
    let first = pair.deliver("first.edi", &order(1));
    alice.change(&["partner", "block", "BOB", "out"]);
    pair.put("put.edi", &order(2));
    assert_eq!(alice.term(), 0);
    // None of them is packed yet.
    alice.ok(&["partner", "unblock", "BOB"]);
    alice.file("sent.edi", &order(3));
    alice.ok(&["send", "sent.edi", "--from", "ALICE", "--to", "BOB"]);
    alice.ok(&["message", "resend", first.sent_id()]);
    let ids = |gateway: &Gateway, direction: &str| {
        let messages = gateway.messages(direction);
        let mut ids: Vec<_> = messages
            .iter()
            .map(|message| message["message_id"].as_str().unwrap().to_owned())
            .collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(alice, "out").iter().filter(|id| id.is_empty()).count(), 3);
    alice.ok(&["backup", "safe"]);

    let deliver = || {
        alice.start();
        alice.wait("all to be delivered", |alice| {
            let sent = alice.messages("out");
            sent.iter().all(|message| message["state"] == "delivered").then_some(())
        });
        ids(alice, "out")
    };
    let before = deliver();
    lose(alice);
    alice.ok(&["restore", "safe", "--master-key", "master.key"]);
    alice.configure(&[("public_url", "\"http://new.example\"")]);
    assert_eq!(deliver(), before);
    assert_eq!(ids(bob, "in"), before, "nothing came twice");
    // What is accepted from now on has the new one.
    let after = pair.deliver("after.edi", &order(4));
    assert!(
        after.sent["message_id"].as_str().unwrap().ends_with("@new.example>"),
        "{:#}",
        after.sent
    );
}

#[test]
fn a_backup_of_a_newer_version_is_refused_before_anything_is_copied() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["backup", "safe"]);
    let journal = gateway.path("safe/journal.db");
    let good = fs::read(&journal).unwrap();
    // SQLite keeps `user_version` here.
    let newer = [&good[..60], &99_u32.to_be_bytes(), &good[64..]].concat();
    let restore = ["--data-dir", "again", "restore", "safe", "--master-key", "data/master.key"];
    let expect_refused = |bytes: &[u8], code: i32, words: &str| {
        fs::write(&journal, bytes).unwrap();
        for dry_run in [&["-n"][..], &[]] {
            let told = gateway.cli(&[&restore, dry_run].concat()).fails(code);
            assert!(told.contains("cannot restore safe") && told.contains(words), "{told}");
            assert!(tests::files_below(&gateway.path("again")).is_empty(), "{told}");
        }
    };
    expect_refused(&newer, 4, "install the newer as2gate");
    expect_refused(b"", 1, "take another one");
    expect_refused(&[7; 8192], 1, "take another one");
    fs::write(&journal, good).unwrap();
    gateway.ok(&restore);
}

#[test]
fn a_disk_of_its_own_is_empty_for_a_restore() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["backup", "safe"]);
    // As mkfs.ext4 leaves it.
    fs::create_dir_all(gateway.path("disk/lost+found")).unwrap();
    gateway.ok(&["--data-dir", "disk", "restore", "safe", "--master-key", "data/master.key"]);
    gateway.ok(&["--data-dir", "disk", "check"]);
}

#[test]
fn nobody_else_gets_at_a_backup() {
    let pair = Pair::one_gateway();
    let gateway = pair.alice();
    pair.deliver("large.bin", &noise(100_000, 1));
    gateway.ok(&["backup", "safe"]);
    let mut left = vec![gateway.path("safe")];
    while let Some(path) = left.pop() {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let wanted = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, wanted, "{}: {mode:o}", path.display());
        if path.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}

#[test]
fn a_backup_lies_outside_of_what_it_is_a_copy_of() {
    let gateway = Gateway::stopped(&[]);
    fs::create_dir(gateway.path("links")).unwrap();
    std::os::unix::fs::symlink(gateway.path("data/keystore"), gateway.path("links/keys")).unwrap();
    for place in [
        "data/safe",
        "data/keystore/new/safe",
        "links/keys/safe",
        "links/keys/../safe",
        "new/../data/safe",
    ] {
        let told = gateway.cli(&["backup", place]).fails(4);
        assert!(
            told.contains("lies in the data directory data") && told.contains("outside"),
            "{told}"
        );
    }
    for made in ["data/safe", "data/keystore/new", "data/keystore/safe", "new"] {
        assert!(!gateway.path(made).exists(), "{made}");
    }
    gateway.ok(&["backup", "links/safe"]);
}

fn first_file(dir: &Path) -> std::path::PathBuf {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let found = entries
        .iter()
        .map(|path| if path.is_dir() { first_file(path) } else { path.clone() });
    found.into_iter().next().expect("a file")
}

#[test]
fn a_backup_holds_no_secret_in_clear_and_opens_with_its_own_master_key_only() {
    let pair = Pair::one_gateway();
    let gateway = pair.alice();
    pair.deliver("one.edi", &order(1));
    gateway.ok(&["backup", "safe"]);
    let grep = |what: &str| run(&mut tool("grep", &["-rlF", "--", what, gateway.path("safe").to_str().unwrap()])).stdout;
    let master = fs::read_to_string(gateway.path("data/master.key")).unwrap();
    assert_eq!((grep(master.trim()), grep("PRIVATE KEY")), (String::new(), String::new()));
    assert_eq!(fs::metadata(gateway.path("safe")).unwrap().permissions().mode() & 0o777, 0o700);

    let other = Gateway::stopped(&[]);
    let key = other.path("data/master.key");
    let refused = gateway.cli(&["--data-dir", "new", "restore", "safe", "--master-key", key.to_str().unwrap()]);
    assert!(refused.code == 4 && refused.stderr.contains("another master key"), "{refused}");
    fs::remove_file(gateway.path("safe/backup.json")).unwrap();
    let refused = gateway.cli(&["--data-dir", "new", "restore", "safe", "--master-key", "data/master.key"]);
    assert!(refused.code == 3 && refused.stderr.contains("not finished"), "{refused}");
    assert!(!gateway.path("new/db").exists());
}
