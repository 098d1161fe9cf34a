//! Thirty-five days in view, thirty-five more restorable, then gone; parts of uploads after two days.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use tests::process::{run, tool};
use tests::sftp::{SLOW, quoted};
use tests::{Gateway, Pair, files_below, noise, order, wait_for};

const DAY: i64 = 86_400;

/// ALICE and BOB in one gateway, whose first day begins at noon: ages count from midnight, and none passes while a test runs.
fn pair() -> Pair {
    pair_with(&[])
}

fn pair_with(settings: &[(&str, &str)]) -> Pair {
    let pair = Pair::one_with(settings);
    pair.alice().begin_at_noon();
    pair
}

/// Moves the clock and waits for the sweep that a new day brings.
fn on_day(gateway: &Gateway, day: i64) {
    gateway.set_clock(day * DAY);
    // The daily sweep runs by itself; by hand it is the same sweep, and it is over when the command is.
    gateway.ok(&["lifecycle", "run", "-y"]);
}

/// The data files of the account that lie in view, and those out of view.
fn on_disk(gateway: &Gateway) -> (Vec<String>, Vec<String>) {
    let noncurrent = files_below(&gateway.path("data/noncurrent"));
    (files_below(&gateway.tree("")), noncurrent)
}

/// The directories of messages in the tree.
fn directories(gateway: &Gateway) -> Vec<String> {
    let found = run(tool("find", &[".", "-type", "d", "-name", "20*Z-*"]).current_dir(gateway.tree("")));
    found.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn records_leave_the_view_after_35_days_and_the_disk_after_70() {
    let pair = pair();
    let gateway = pair.alice();
    let parcel = pair.deliver("old.edi", &order(1));
    pair.put("old.edi", &order(2));
    let inbox = format!("AS2/files/BOB/ALICE/inbox/{}", parcel.got_id());
    let paths = [
        format!("{inbox}/old.edi"),
        format!("AS2/files/ALICE/BOB/outbox/{}/old.edi", parcel.sent_id()),
        format!("AS2/raw-message/ALICE/BOB/outbox/{}/message.as2", parcel.sent_id()),
        format!("AS2/headers/BOB/ALICE/inbox/{}/headers.txt", parcel.got_id()),
        format!("AS2/raw-mdn/incoming/{}.mdn", parcel.sent_id()),
        format!("AS2/raw-mdn/outgoing/{}.mdn", parcel.got_id()),
        "AS2/duplicate/ALICE/BOB/old.edi".to_owned(),
    ];
    gateway.published();

    on_day(gateway, 34);
    for path in &paths {
        assert!(!pair.alice_user.get(path).is_empty(), "{path} is gone on day 34");
    }
    assert_eq!(on_disk(gateway).1, [""; 0]);

    // Ages round up to the next midnight: what is made at noon is due on day 36.
    on_day(gateway, 36);
    for path in &paths {
        let _ = pair
            .alice_user
            .refused(&format!("get {path} {}", gateway.path("nothing").display()));
    }
    assert_eq!(pair.bob_user.ls("AS2/files/BOB/ALICE/inbox"), [""; 0]);
    assert_eq!(pair.alice_user.ls("AS2/duplicate/ALICE/BOB"), [""; 0]);
    let (current, noncurrent) = on_disk(gateway);
    assert_eq!(current, [""; 0], "still in the tree on disk");
    assert_eq!(directories(gateway), [""; 0], "empty ones are still there");
    assert!(noncurrent.len() >= 9, "{noncurrent:?}");
    for file in &noncurrent {
        let mode = fs::metadata(gateway.path("data/noncurrent").join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }

    // One is brought back and begins a new life.
    gateway.ok(&["lifecycle", "restore", &inbox]);
    assert_eq!(pair.bob_user.get(&paths[0]), order(1));
    assert_eq!(directories(gateway).len(), 1);

    on_day(gateway, 70);
    assert!(!on_disk(gateway).1.is_empty(), "deleted too early");
    on_day(gateway, 73);
    assert_eq!(on_disk(gateway).1.len(), 1, "{:?}", on_disk(gateway));
    assert_eq!(files_below(&gateway.path("data/store")), [""; 0]);
    on_day(gateway, 110);
    assert_eq!(on_disk(gateway), (Vec::new(), Vec::new()));
    assert_eq!(directories(gateway), [""; 0]);
    // Rows outlive files.
    assert_eq!(gateway.messages("out").len(), 2);
    // The events say what went, whoever swept.
    let told = |kind: &str| gateway.json(&["audit", "list", "--kind", kind]).as_array().unwrap().clone();
    let swept = told("lifecycle.swept");
    let sum = |area: &str, fact: &str| -> u64 {
        let of_area = swept.iter().map(|event| &event["facts"]).filter(|facts| facts["area"] == area);
        of_area.map(|facts| facts[fact].as_u64().unwrap()).sum()
    };
    // One of the two files left the view twice.
    assert_eq!((sum("files", "noncurrent"), sum("files", "deleted")), (3, 2), "{swept:#?}");
    assert_eq!((sum("duplicate", "deleted"), sum("raw-mdn", "deleted")), (1, 2), "{swept:#?}");
    let back = told("lifecycle.restored");
    assert_eq!(
        (back.len(), &back[0]["subject"], &back[0]["facts"]["files"]),
        (1, &inbox.as_str().into(), &1.into())
    );
    assert!(back[0]["facts"]["operator"].is_string(), "{back:#?}");
}

#[test]
fn a_message_out_of_view_says_until_when_and_comes_back_by_its_id() {
    let pair = pair();
    let gateway = pair.alice();
    let parcel = pair.deliver("old.edi", &order(1));
    gateway.published();
    let shown = |id: &str| gateway.ok(&["message", "show", id, "-o", "table"]);
    assert!(!shown(parcel.sent_id()).contains("out of view"));
    on_day(gateway, 36);
    let until = gateway.show(parcel.sent_id())["out_of_view_until"].as_str().unwrap().to_owned();
    let (until, rest) = until.split_once('T').unwrap();
    assert!(rest.starts_with("00:00:00"), "{rest}");
    let (sent, got) = (parcel.sent_id(), parcel.got_id());
    for id in [sent, got] {
        let digits = id.rsplit('-').next().unwrap();
        let words = format!("out of view until {until}: as2gate lifecycle restore {digits}");
        assert!(shown(id).contains(&words), "{}", shown(id));
        let told = gateway.cli(&["message", "export", id]);
        assert!(told.code == 7 && told.stdout.contains(&format!("old.edi: {words}\n")), "{told}");
        assert!(!told.stdout.contains("not kept any more"), "{told}");
    }
    let refused = gateway.cli(&["message", "resend", sent]).fails(3);
    let digits = sent.rsplit('-').next().unwrap();
    assert!(
        refused.contains(&format!("kept until {until}")) && refused.contains(&format!("as2gate lifecycle restore {digits} brings")),
        "{refused}"
    );

    let would = gateway.json(&["lifecycle", "restore", digits, "-n"])["would_restore"].clone();
    assert_eq!(gateway.json(&["lifecycle", "restore", digits])["restored"], would);
    assert!(would.as_u64().unwrap() >= 4, "payload, headers, message and MDN: {would}");
    assert!(!shown(sent).contains("out of view") && shown(got).contains("out of view"));
    let path = format!("AS2/files/ALICE/BOB/outbox/{sent}/old.edi");
    assert_eq!(pair.alice_user.get(&path), order(1));
    gateway.ok(&["message", "export", sent, "--out", "evidence"]);
    let told = gateway.json(&["audit", "list", "--kind", "message.exported", "--subject", sent]);
    assert!(told.as_array().unwrap().len() == 2, "once without its files: {told}");
    assert_eq!(gateway.cli(&["lifecycle", "restore", digits]).code, 3, "nothing is left to restore");
    let message_id = gateway.show(got)["message_id"].as_str().unwrap().to_owned();
    gateway.ok(&["lifecycle", "restore", got]);
    assert!(!message_id.is_empty() && !shown(got).contains("out of view"));

    // The day that was named is the day.
    on_day(gateway, 72);
    let until = gateway.show(sent)["out_of_view_until"].as_str().unwrap().to_owned();
    on_day(gateway, 106);
    assert_eq!(gateway.show(sent)["out_of_view_until"], until.as_str());
    on_day(gateway, 108);
    assert!(gateway.show(sent)["out_of_view_until"].is_null());
    let told = gateway.cli(&["message", "resend", sent]).fails(3);
    assert!(told.contains("not kept any more"), "{told}");
}

#[test]
fn the_sweep_runs_by_itself_when_a_day_has_passed() {
    let pair = pair();
    pair.deliver("swept.edi", &order(1));
    pair.alice().published();
    pair.alice().set_clock(36 * DAY);
    wait_for("the daily sweep", || on_disk(pair.alice()).0.is_empty().then_some(()));
    // The files go first, then the rows.
    let inbox = "AS2/files/BOB/ALICE/inbox";
    wait_for("an empty inbox", || pair.bob_user.ls(inbox).is_empty().then_some(()));
    let files = |event: &serde_json::Value| event["facts"]["area"] == "files" && event["facts"]["noncurrent"] == 2;
    pair.alice().wait("the event", |gateway| {
        let swept = gateway.json(&["audit", "list", "--kind", "lifecycle.swept"]);
        let event = swept.as_array()?.iter().find(|event| files(event))?.clone();
        assert!(event["facts"]["operator"].is_null(), "nobody ran it: {event}");
        Some(())
    });
}

#[test]
fn a_dry_run_tells_and_changes_nothing() {
    let pair = pair();
    let gateway = pair.alice();
    pair.deliver("dry.edi", &order(1));
    gateway.published();
    assert_eq!(gateway.term(), 0);
    let before = on_disk(gateway);
    gateway.set_clock(36 * DAY);
    let plan = gateway.json(&["lifecycle", "run", "--dry-run"]);
    assert!(plan.to_string().contains("files"), "{plan}");
    let told = gateway.ok(&["lifecycle", "run", "--dry-run", "-o", "table"]);
    assert!(told.contains("would become non-current") && told.contains("AS2/files"), "{told}");
    assert_eq!(on_disk(gateway), before);
    gateway.ok(&["lifecycle", "run", "-y"]);
    assert_eq!(on_disk(gateway).0, [""; 0]);
    let swept = gateway.json(&["audit", "list", "--kind", "lifecycle.swept"]);
    let swept = swept.as_array().unwrap();
    assert!(
        swept.len() > 3 && swept.iter().all(|event| event["facts"]["operator"].is_string()),
        "{swept:#?}"
    );
}

#[test]
fn what_is_not_final_stays() {
    let pair = Pair::two_with(&[("retry.max_time", "\"3650d\""), ("retry.max_tries", "100000")]);
    pair.bob().kill9();
    pair.put("waiting.edi", &order(1));
    pair.alice().reaches("out", "waiting.edi", "retrying");
    on_day(pair.alice(), 80);
    assert_eq!(pair.alice_user.ls("AS2/send/ALICE/BOB"), ["waiting.edi"]);
    pair.bob().set_clock(80 * DAY);
    pair.bob().start();
    let parcel = pair.delivered("waiting.edi");
    assert_eq!(pair.fetch(&parcel), order(1));
}

#[test]
fn parts_leave_the_view_after_a_day_and_the_disk_after_two() {
    let pair = pair();
    let gateway = pair.alice();
    let local = gateway.file("part.bin", &noise(12 << 20, 1));
    let line = format!("put {} AS2/send/ALICE/BOB/part.bin", quoted(local.to_str().unwrap()));
    let mut client = pair.alice_user.start(&["-l", SLOW], &[&line]);
    wait_for("some of the upload", || {
        pair.alice_user.size("AS2/send/ALICE/BOB").filter(|size| *size > 1 << 16)
    });
    client.kill().unwrap();
    client.wait().unwrap();
    let stored = || files_below(&gateway.path("data/store")).len() + files_below(&gateway.path("data/spool")).len();
    gateway.wait("the part to be kept", |gateway| gateway.log().contains("broken off").then_some(()));
    assert!(stored() > 0);
    gateway.set_clock(DAY - 600);
    assert_eq!(pair.alice_user.ls("AS2/send/ALICE/BOB"), ["part.bin"]);
    gateway.set_clock(DAY + 600);
    assert_eq!(pair.alice_user.ls("AS2/send/ALICE/BOB"), [""; 0]);
    on_day(gateway, 1);
    assert!(stored() > 0, "deleted too early");
    on_day(gateway, 3);
    wait_for("the part's bytes to be gone", || (stored() == 0).then_some(()));
}

#[test]
fn an_account_may_have_its_own_figures() {
    let pair = pair();
    let gateway = pair.alice();
    gateway.ok(&["account", "set", "acme", "--keep-messages", "90d"]);
    gateway.restart();
    let parcel = pair.deliver("kept.edi", &order(1));
    gateway.published();
    on_day(gateway, 80);
    assert_eq!(pair.fetch(&parcel), order(1));
    on_day(gateway, 92);
    assert_eq!(pair.bob_user.ls("AS2/files/BOB/ALICE/inbox"), [""; 0]);
}

#[test]
fn a_legal_hold_covers_what_came_before_it_and_what_comes_after() {
    let pair = pair();
    let gateway = pair.alice();
    let before = pair.deliver("before.edi", &order(1));
    gateway.ok(&["partner", "set", "BOB", "--hold", "true"]);
    let parcel = pair.deliver("after.edi", &order(2));
    let paths = [
        format!("AS2/files/ALICE/BOB/outbox/{}/before.edi", before.sent_id()),
        format!("AS2/files/ALICE/BOB/outbox/{}/after.edi", parcel.sent_id()),
        format!("AS2/raw-message/ALICE/BOB/outbox/{}/message.as2", parcel.sent_id()),
    ];
    let held = |path: &String| pair.alice_user.get(path).len();
    let sizes = paths.each_ref().map(held);
    gateway.published();
    on_day(gateway, 36);
    on_day(gateway, 73);
    assert_eq!(paths.each_ref().map(held), sizes);
    // The other direction is not held.
    assert_eq!(pair.bob_user.ls("AS2/files/BOB/ALICE/inbox"), [""; 0]);
}

#[test]
fn a_lost_file_keeps_no_other_from_coming_back() {
    let pair = pair();
    let gateway = pair.alice();
    let parcel = pair.deliver("old.edi", &order(1));
    gateway.published();
    on_day(gateway, 36);
    let below = gateway.path("data/noncurrent");
    let lost = files_below(&below).into_iter().find(|file| file.contains("outbox")).unwrap();
    fs::remove_file(below.join(&lost)).unwrap();
    gateway.ok(&["lifecycle", "restore", "AS2/files"]);
    assert_eq!(pair.fetch(&parcel), order(1), "without {lost}");
}

#[test]
fn the_brake_of_one_account_stops_no_other() {
    let pair = pair_with(&[("telemetry.listen", "\"127.0.0.1:0\"")]);
    let gateway = pair.alice();
    pair.deliver("swept.edi", &order(1));
    gateway.published();
    gateway.ok(&["account", "add", "busy"]);
    gateway.sql(
        "WITH RECURSIVE n (k) AS (SELECT 0 UNION ALL SELECT k + 1 FROM n WHERE k < 100)
         INSERT INTO entry (account, parent, name, area, message, is_dir, size, created)
         SELECT 'busy', 'AS2/raw-mdn/incoming', k || '.mdn', 'raw-mdn', '', 0, 9, strftime('%s', 'now') * 1000 FROM n",
    );
    gateway.jump_clock(36 * DAY);
    wait_for("the daily sweep", || on_disk(gateway).0.is_empty().then_some(()));
    gateway.wait("the brake", |gateway| {
        gateway.log().contains("101 of 101 files of account busy, raw-mdn").then_some(())
    });
    let kept = gateway.json(&["lifecycle", "status", "-a", "busy"]);
    let area = kept.as_array().unwrap().iter().find(|row| row["area"] == "raw-mdn").unwrap();
    assert_eq!((&area["files"], &area["next_noncurrent"]), (&101.into(), &101.into()), "{kept}");

    // It is told, until a person has decided.
    let words = "101 of 101 files of account busy, raw-mdn wait for a person";
    assert_eq!(gateway.json(&["status"])["sweep_holds"][0]["noncurrent"], 101);
    for command in ["status", "doctor"] {
        let told = gateway.cli(&[command, "-o", "table"]).stdout;
        assert!(told.contains(words), "{command}: {told}");
    }
    let metric = |value: &str| {
        gateway.wait("the gauge", |gateway| {
            let shown = gateway.metric("as2gate_lifecycle_held")?;
            (shown == value).then_some(())
        });
    };
    metric("1");
    // Who means one account lifts the brake of no other.
    let refused = gateway.cli(&["lifecycle", "run", "-y", "-a", "acme"]).fails(2);
    assert!(
        refused.contains("busy") && gateway.json(&["status"])["sweep_holds"][0]["noncurrent"] == 101,
        "{refused}"
    );
    gateway.ok(&["lifecycle", "run", "-y"]);
    assert_eq!(gateway.json(&["status"])["sweep_holds"], serde_json::json!([]));
    assert!(!gateway.cli(&["doctor", "-o", "table"]).stdout.contains(words));
    metric("0");
}

/// The hash of the last event.
fn head(gateway: &Gateway) -> String {
    gateway.json(&["audit", "verify"])["head"].as_str().unwrap().to_owned()
}

#[test]
fn messages_are_forgotten_when_their_history_is_over() {
    let pair = pair_with(&[("lifecycle.history", "\"100d\"")]);
    let gateway = pair.alice();
    let early = head(gateway);
    pair.deliver("old.edi", &order(1));
    gateway.published();
    let known = || (gateway.messages("out").len(), gateway.messages("in").len());
    on_day(gateway, 36);
    on_day(gateway, 73);
    assert_eq!(on_disk(gateway), (Vec::new(), Vec::new()));
    on_day(gateway, 100);
    assert_eq!(known(), (1, 1), "forgotten too early");
    let late = head(gateway);

    // The server would sweep by itself.
    assert_eq!(gateway.term(), 0);
    gateway.set_clock(102 * DAY);
    let told = gateway.ok(&["lifecycle", "run", "--dry-run", "-o", "table"]);
    assert!(told.contains("2 messages would be forgotten"), "{told}");
    gateway.ok(&["lifecycle", "run", "-y"]);
    assert_eq!(known(), (0, 0));
    let trimmed = gateway.json(&["audit", "list", "--kind", "audit.trimmed"]);
    assert!(trimmed[0]["facts"]["events"].as_u64().unwrap() > 5, "{trimmed}");
    gateway.ok(&["audit", "verify", "--head", &late]);
    let why = gateway.cli(&["audit", "verify", "--head", &early]).fails(1);
    assert!(why.contains("there are events since 2"), "{why}");

    // What is new begins anew, under the same name.
    gateway.start();
    pair.deliver("old.edi", &order(2));
    assert_eq!(known(), (1, 1));
}
