//! Messages: sent, cancelled, sent again, exported.

use serde_json::Value;
use tests::process::{run, tool};
use tests::{Gateway, Pair, order};

#[test]
fn files_are_sent_from_the_command_line() {
    let pair = Pair::two_gateways();
    pair.alice().file("a.edi", &order(1));
    pair.alice().file("b.edi", &order(2));
    pair.alice().ok(&[
        "send",
        "a.edi",
        "b.edi",
        "--from",
        "ALICE",
        "--to",
        "BOB",
        "--subject",
        "Both",
        "--wait",
    ]);
    for (name, bytes) in [("a.edi", order(1)), ("b.edi", order(2))] {
        let parcel = pair.delivered(name);
        assert_eq!(parcel.got["subject"], "Both");
        assert_eq!(pair.fetch(&parcel), bytes);
    }
    let again = pair.alice().cli(&["send", "a.edi", "--from", "ALICE", "--to", "BOB", "--wait"]);
    assert_ne!(again.code, 0, "a duplicate is not sent: {again}");
    assert!(!again.stderr.contains("WARN"), "the result tells it: {again}");
    pair.bob().kill9();
    pair.alice().file("c.edi", &order(3));
    let queued = pair.alice().cli(&["send", "c.edi", "--from", "ALICE", "--to", "BOB"]);
    assert_eq!(queued.code, 0, "{queued}");
}

#[test]
fn what_waits_for_its_turn_says_whose_turn_it_is() {
    let gateway = Gateway::with(&[("retry.initial", "\"1h\""), ("retry.max_wait", "\"1h\"")]);
    gateway.ok(&["station", "add", "ALICE"]);
    let nobody = format!("http://127.0.0.1:{}/as2", tests::process::free_port());
    let plain = ["--private", "true", "--sign", "none", "--encrypt", "none"];
    gateway.ok(&[&["partner", "add", "BOB", "--url", &nobody, "--in-order", "true"][..], &plain].concat());
    for name in ["first.edi", "next.edi"] {
        gateway.file(name, &order(1));
        gateway.ok(&["send", name, "--from", "ALICE", "--to", "BOB"]);
        if name == "first.edi" {
            gateway.reaches("out", name, "retrying");
        }
    }
    let id = |name: &str| {
        gateway.json(&["message", "list", "--file", name])[0]["id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (first, next) = (id("first.edi"), id("next.edi"));
    let turn = format!(
        "after message {}, which is retrying; BOB gets one after the other",
        &first[first.len() - 9..]
    );
    let shown = || {
        let shown = gateway.ok(&["message", "show", &next, "-o", "table"]);
        assert!(shown.contains(&format!("Next try   {turn}\n")), "{shown}");
        assert_eq!(gateway.json(&["message", "show", &next])["behind"], first.as_str());
    };
    shown();
    let retry = |args: &[&str]| gateway.ok(&[&["message", "retry", "-o", "table"], args].concat());
    for args in [&[&*next][..], &[&next, "--dry-run"]] {
        let told = retry(args);
        assert!(told.ends_with(&format!("out again {turn}\n")), "{told}");
    }
    shown();
    assert_eq!(gateway.json(&["message", "show", &first])["behind"], Value::Null);
    assert!(retry(&[&first, "--dry-run"]).ends_with("out again now\n"));
    gateway.ok(&["partner", "set", "BOB", "--in-order", "false"]);
    assert_eq!(gateway.json(&["message", "show", &next])["behind"], Value::Null);
}

#[test]
fn a_page_goes_on_behind_a_message_however_it_is_named() {
    let gateway = Gateway::stopped(&[]);
    gateway.sql(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5)
         INSERT INTO message (id, account, direction, station, partner, message_id, bare_id, state, created, updated, detail)
         SELECT printf('20261122T150342118Z-%09d', i), 'acme', 'in', 'ALICE', 'BOB', printf('<%d@bob>', i), printf('%d@bob', i),
            'filed', i, i, '{}' FROM n",
    );
    let page = |before: &str| gateway.json(&["message", "list", "--before", before]).as_array().unwrap().len();
    for before in ["20261122T150342118Z-000000003", "000000003", "<3@bob>"] {
        assert_eq!(page(before), 2, "{before}");
    }
    for nobody in ["000000009", "3"] {
        let told = gateway.cli(&["message", "list", "--before", nobody]).fails(3);
        assert!(told.contains(&format!("no message {nobody}")), "{told}");
    }
}

#[test]
fn the_list_has_reasons_where_there_are_some() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    gateway.ok(&["partner", "add", "BOB", "--url", "http://192.0.2.1/as2"]);
    for name in ["a.edi", "b.edi"] {
        gateway.file(name, &order(1));
        gateway.ok(&["send", name, "--from", "ALICE", "--to", "BOB"]);
    }
    let before = gateway.ok(&["message", "list", "-o", "table"]);
    assert!(before.lines().next().unwrap().ends_with("MDN"), "{before}");
    let columns = |told: &str| told.lines().next().unwrap().to_owned();
    let tsv = columns(&gateway.ok(&["message", "list"]));
    gateway.sql(
        "UPDATE message SET reason = 'cannot connect to 192.0.2.1:80: nobody answers there within the time given' WHERE file = 'a.edi'",
    );
    let list = gateway.ok(&["message", "list", "-o", "table"]);
    assert!(list.lines().next().unwrap().ends_with("MDN  REASON"), "{list}");
    assert!(list.contains("  cannot connect to 192.0.2.1:80: nobody answers…\n"), "{list}");
    let told = gateway.ok(&["message", "list"]);
    assert!(columns(&told) == tsv && told.contains("within the time given\t"), "{told}");
}

/// The recipe after an outage, typed after each one: nothing goes out twice, and all in the order in which it came.
#[test]
fn all_failed_messages_are_sent_anew_once_and_the_oldest_first() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    gateway.ok(&["partner", "add", "BOB", "--url", "http://192.0.2.1/as2"]);
    let ids: Vec<String> = (1..=4)
        .map(|n| {
            let name = format!("step-{n}.edi");
            gateway.file(&name, &order(n));
            gateway.ok(&["send", &name, "--from", "ALICE", "--to", "BOB"]);
            let id = gateway.messages_of("out", &name)[0]["id"].as_str().unwrap().to_owned();
            gateway.ok(&["message", "cancel", &id]);
            id
        })
        .collect();
    let posted = r#"json('[{"n":1,"at":0,"outcome":"no answer","body_sent":true}]')"#;
    gateway.sql(&format!(
        "UPDATE message SET detail = json_set(detail, '$.tries', {posted}) WHERE id = '{}'",
        ids[1]
    ));
    let told = gateway.cli(&["message", "resend", "--state", "failed", "-y"]);
    assert!(told.stderr.contains("left out: 1 that the partner may have"), "{told}");
    let lines: Vec<&str> = told.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{told}");
    for (line, id) in lines.iter().zip([&ids[0], &ids[2], &ids[3]]) {
        assert!(line.starts_with(&format!("Message {id}   sent anew as ")), "{told}");
    }
    let anew = lines[0].rsplit(' ').next().unwrap();
    assert!(gateway.ok(&["message", "show", &ids[0], "-o", "table"]).contains(anew));

    // The next outage, with another file.
    gateway.ok(&["message", "cancel", anew]);
    for verb in ["resend", "retry"] {
        let told = gateway.cli(&["message", verb, "--state", "failed", "-n", "-y"]);
        assert!(told.stderr.contains("left out: 3 sent anew before"), "{told}");
        assert!(!told.stdout.contains(&ids[0]), "{told}");
        // One that was cancelled is only sent anew.
        assert_eq!(told.stdout.contains(anew), verb == "resend", "{told}");
    }
    gateway.set_clock(3 * 3600);
    let none = gateway.ok(&["message", "resend", "--state", "failed", "--since", "1h", "-n"]);
    assert_eq!(none.trim(), "no messages");
}

#[test]
fn events_of_commands_say_who_ran_them() {
    let pair = Pair::one_gateway();
    let gateway = pair.alice();
    let parcel = pair.deliver("first.edi", &order(1));
    let events = |kind: &str| gateway.json(&["audit", "list", "--kind", kind]).as_array().unwrap().clone();
    let last = |kind: &str| events(kind).last().unwrap()["facts"].clone();
    let me = run(&mut tool("id", &["-un"])).ok().trim().to_owned();
    let plain = gateway
        .command(&["partner", "set", "BOB", "--subject", "one"])
        .env_remove("SUDO_USER")
        .status();
    assert!(plain.unwrap().success());
    assert_eq!(last("partner.changed")["operator"], me.as_str());
    let sudo = gateway
        .command(&["message", "resend", parcel.sent_id()])
        .env("SUDO_USER", "carol")
        .status();
    assert!(sudo.unwrap().success());
    let accepted = events("message.accepted");
    assert!(accepted[0]["facts"]["operator"].is_null(), "nobody ran a command: {accepted:#?}");
    assert!(accepted[0]["facts"]["previous"].is_null());
    let facts = &accepted[1]["facts"];
    assert_eq!(facts["operator"], format!("{me}, by sudo of carol"));
    assert_eq!(facts["previous"], parcel.sent_id());
    // What the server does with it is its own.
    gateway.wait("the end of the second one", |_| {
        (events("message.delivered").len() == 2).then_some(())
    });
    assert!(last("message.delivered")["operator"].is_null());
    gateway.ok(&["audit", "verify"]);
    let shown = |id: &str| gateway.ok(&["message", "show", id, "-o", "table"]);
    let again = shown(accepted[1]["subject"].as_str().unwrap());
    assert!(shown(parcel.sent_id()).contains("alice-erp"));
    assert!(again.contains(parcel.sent_id()) && !again.contains("alice-erp"), "{again}");
}

#[test]
fn a_list_says_that_it_ends_before_its_end() {
    let gateway = Gateway::stopped(&[]);
    let more = |n: u32| {
        let numbers = format!("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {n})");
        gateway.sql("DELETE FROM message");
        gateway.sql("DELETE FROM event");
        gateway.sql(&format!(
            "INSERT INTO message (id, account, direction, station, partner, state, created, updated, detail)
             {numbers} SELECT printf('20261122T150342118Z-%09d', i), 'acme', 'in', 'ALICE', 'BOB', 'filed', i, i, '{{}}' FROM n"
        ));
        gateway.sql(&format!(
            "INSERT INTO event (at, account, kind, subject, facts, hash) {numbers} SELECT i, 'acme', 'user.login', 'erp', '{{}}', '' FROM n"
        ));
    };
    let lists: [&[&str]; 3] = [&["message", "list"], &["audit", "list"], &["user", "log", "erp"]];
    let rows_and_note = |list: &[&str]| {
        let ran = gateway.cli(list);
        (ran.stdout.lines().count() - 1, ran.stderr)
    };
    more(101);
    for list in lists {
        let note = "note: the newest 100; --limit N shows more\n".to_owned();
        assert_eq!(rows_and_note(list), (100, note), "{list:?}");
        assert_eq!(
            rows_and_note(&[list, &["--limit", "101"]].concat()),
            (101, String::new()),
            "{list:?}"
        );
        assert_eq!(rows_and_note(&[list, &["--limit", "7"]].concat()), (7, String::new()), "{list:?}");
    }
    more(100);
    for list in lists {
        assert_eq!(rows_and_note(list), (100, String::new()), "{list:?}");
    }
}

#[test]
fn messages_are_cancelled_resent_and_exported() {
    let pair = Pair::two_with(&[("retry.max_tries", "1000")]);
    pair.bob().kill9();
    pair.put("stuck.edi", &order(1));
    let stuck = pair.alice().reaches("out", "stuck.edi", "retrying");
    for (verb, words) in [("retry", "would go out again now"), ("cancel", "would be cancelled")] {
        let told = pair.alice().ok(&["message", verb, stuck["id"].as_str().unwrap(), "-n"]);
        assert!(told.contains(words), "{told}");
    }
    let cancelled = pair.alice().cli(&["message", "cancel", stuck["id"].as_str().unwrap()]);
    assert!(cancelled.code == 0 && cancelled.stderr.is_empty(), "{cancelled}");
    let told = pair.alice().ok(&["partner", "rm", "BOB", "-n"]);
    assert!(told.contains("Partner BOB would be removed"), "{told}");
    let failed = pair.alice().reaches("out", "stuck.edi", "failed");
    assert_eq!(failed["code"], "cancelled");
    assert_eq!(failed["hint"], Value::Null, "no try came through");
    let refused = pair.alice().cli(&["message", "retry", failed["id"].as_str().unwrap()]).fails(1);
    assert!(refused.contains("its outcome is final: cancelled"), "{refused}");
    let list = pair.alice().ok(&["message", "list", "-o", "table"]);
    let lines: Vec<&str> = list.lines().collect();
    assert!(
        lines[0].ends_with("MDN  REASON") && lines[1].ends_with("cancelled by an operator"),
        "{list}"
    );
    pair.bob().start();
    let resent = pair.alice().json(&["message", "resend", "--state", "failed", "--partner", "BOB"]);
    assert_eq!(resent.as_array().unwrap().len(), 1, "{resent:#}");
    let parcel = pair.delivered("stuck.edi");
    assert_ne!(parcel.sent["id"], failed["id"], "a resend is a new message");
    assert_eq!(parcel.sent["previous"], failed["id"]);
    assert_eq!(pair.fetch(&parcel), order(1));

    let digits = parcel.sent_id().split('-').next_back().unwrap();
    pair.alice().ok(&["message", "export", digits, "--out", "evidence"]);
    let dir = pair.alice().path("evidence").join(parcel.sent_id());
    let files = tests::files_below(&dir);
    for name in ["stuck.edi", "message.as2", "headers.txt"] {
        assert!(files.iter().any(|file| file.ends_with(name)), "{name}: {files:?}");
    }
    assert!(files.iter().any(|file| file.ends_with(".mdn")), "{files:?}");
    let _ = pair.alice().cli(&["message", "cancel", parcel.sent_id()]).fails(1);
}

/// Who sends one of these again should know that the partner has it, or may have it.
#[test]
fn what_the_partner_may_have_is_said_when_it_is_sent_anew() {
    let pair = Pair::one_gateway();
    let gateway = pair.alice();
    let parcel = pair.deliver("first.edi", &order(1));
    let id = parcel.sent_id();
    let short = id.rsplit('-').next().unwrap();
    let notes = |args: &[&str]| gateway.cli(&[&["message", "resend", id], args].concat()).stderr;
    assert_eq!(notes(&["-n"]), format!("note: message {short} was delivered\n"));
    gateway.sql(&format!(
        "UPDATE message SET state = 'failed', code = 'mdn-signature-invalid' WHERE id = '{id}'"
    ));
    let told = notes(&[]);
    assert!(
        told.contains(&format!("may have arrived: as2gate message retry {short} ")),
        "{told}"
    );
    let told = notes(&["-n"]);
    assert!(told.contains(&format!("message {short} was sent anew before, as ")), "{told}");
    gateway.ok(&["partner", "block", "BOB", "out"]);
    gateway.followed();
    gateway.file("never.edi", &order(2));
    gateway.ok(&["send", "never.edi", "--from", "ALICE", "--to", "BOB"]);
    let never = gateway.messages_of("out", "never.edi")[0]["id"].as_str().unwrap().to_owned();
    gateway.ok(&["message", "cancel", &never]);
    gateway.ok(&["partner", "unblock", "BOB"]);
    let told = gateway.cli(&["message", "resend", &never, "-n"]);
    assert!(told.code == 0 && told.stderr.is_empty(), "{told}");
}

#[test]
fn what_went_to_a_wrong_as2_id_is_sent_anew_to_the_right_one() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ACME"]);
    gateway.ok(&["partner", "add", "BIG2", "--url", "http://192.0.2.1/as2"]);
    gateway.file("order.edi", &order(1));
    gateway.ok(&["send", "order.edi", "--from", "ACME", "--to", "BIG2"]);
    let id = gateway.messages_of("out", "order.edi")[0]["id"].as_str().unwrap().to_owned();
    let short = id.rsplit('-').next().unwrap();
    gateway.ok(&["message", "cancel", &id]);
    gateway.ok(&["partner", "set", "BIG2", "--as2-id", "BIGMART", "-y"]);
    let told = gateway.cli(&["message", "resend", &id]).fails(3);
    assert!(told.contains(&format!("as2gate message resend {short} --to PARTNER")), "{told}");
    gateway.ok(&["message", "resend", &id, "--to", "BIGMART"]);
    let newest = || {
        gateway
            .messages_of("out", "order.edi")
            .into_iter()
            .max_by_key(|m| m["id"].to_string())
            .unwrap()
    };
    let anew = newest();
    assert_eq!((&anew["partner"], &anew["state"]), (&"BIGMART".into(), &"queued".into()));
    assert_eq!(anew["previous"], id.as_str());

    gateway.ok(&["message", "cancel", anew["id"].as_str().unwrap()]);
    gateway.ok(&["station", "set", "ACME", "--as2-id", "ACME2", "-y"]);
    let told = gateway.cli(&["message", "resend", &id, "--to", "BIGMART"]).fails(3);
    assert!(told.contains(&format!("as2gate message resend {short} --from STATION")), "{told}");
    gateway.ok(&["message", "resend", &id, "--to", "BIGMART", "--from", "ACME2"]);
    assert_eq!(newest()["station"], "ACME2");
    let told = gateway
        .cli(&["message", "resend", &id, "--to", "NOBODY", "--from", "ACME2"])
        .fails(3);
    assert!(told.contains("no partner NOBODY"), "{told}");
}

#[test]
fn messages_are_found_by_message_id_and_by_the_name_of_the_file() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["account", "add", "other"]);
    let row = |n: u32, account: &str, direction: &str, state: &str, file: &str| {
        let id = format!("20261122T150342118Z-00000000{n}");
        gateway.sql(&format!(
            "INSERT INTO message (id, account, direction, station, partner, message_id, bare_id, state, file, created, updated, detail)
             VALUES ('{id}', '{account}', '{direction}', 'ALICE', 'BOB', '<o@bob>', 'o@bob', '{state}', '{file}', {n}, {n}, '{{}}')"
        ));
        id
    };
    let rejected = row(1, "acme", "in", "rejected", "\u{e9}.edi");
    let filed = row(2, "acme", "in", "filed", "e\u{301}.edi");
    let sent = row(3, "other", "out", "delivered", "order-1.edi");

    let told = gateway.cli(&["message", "show", "<o@bob>"]).fails(2);
    for words in [
        format!("{sent} (out, delivered), {filed} (in, filed), {rejected} (in, rejected)"),
        "as2gate message list --message-id '<o@bob>'".to_owned(),
    ] {
        assert!(told.contains(&words), "{words}: {told}");
    }
    let only = gateway.json(&["-a", "other", "message", "show", "<o@bob>"]);
    assert_eq!(only["id"], sent.as_str());
    let _ = gateway.cli(&["-a", "other", "message", "show", &filed]).fails(3);

    let count = |args: &[&str], found: usize| {
        let list = gateway.json(&[&["message", "list"], args].concat());
        assert_eq!(list.as_array().unwrap().len(), found, "{args:?}: {list:#}");
    };
    count(&["--message-id", "<o@bob>"], 3);
    count(&["--message-id", "o@bob", "--state", "filed"], 1);
    count(&["--message-id", "o@bob", "-a", "other"], 1);
    count(&["--message-id", "nobody"], 0);
    count(&["--file", "\u{e9}.edi"], 2);
    count(&["--file", "e\u{301}.edi"], 2);
    count(&["--file", "*.edi"], 3);
    count(&["--file", "*.EDI", "--limit", "2"], 2);
    count(&["--file", "order-*"], 1);
    count(&["--file", "order"], 0);
}
