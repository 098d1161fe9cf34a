//! What could reach a partner twice, or be told twice: repeats by us of which the outcome is unknown, and contradicting receipts.

use super::*;

/// An order whose first post is read whole and not answered, and each other with a receipt that was changed so.
fn lost_then(change: impl Fn(&mut Receipt) + Send + Sync + 'static) -> Scene {
    Scene::play(
        "sync-signed",
        &[],
        with_stage(move |stage, hit, count| {
            if count == 1 {
                return Vec::new();
            }
            let mut receipt = Receipt::of(hit);
            change(&mut receipt);
            answer(200, &receipt.signed(&stage.partner))
        }),
    )
}

/// An error of no name with this text.
fn error(text: &'static str) -> impl Fn(&mut Receipt) {
    move |receipt| {
        *receipt = receipt.clone().says("processed/error: unexpected-processing-error");
        receipt.mic.clear();
        text.clone_into(&mut receipt.text);
    }
}

#[test]
fn a_refusal_of_a_repeat_says_nothing_about_what_came_first() {
    let _held = stage();
    let seen = lost_then(error("Duplicate document received."));
    let (refused, by_name) = (lost_then(error("No room.")), lost_then(error("No room.")));
    let message = seen.reaches("delivered");
    assert!(message["marks"].to_string().contains("receipt lost"), "{message:#}");
    let told = seen.stage.gate.log();
    let line = told.lines().find(|line| line.contains("receipt lost")).unwrap_or_default();
    assert!(line.contains("WARN"), "nobody is told: {line}");

    let message = refused.reaches("failed");
    let hint = message["hint"].as_str().unwrap();
    assert!(hint.contains("an earlier try may have arrived"), "{message:#}");
    let gate = &refused.stage.gate;
    let some = gate
        .cli(&["message", "resend", "--state", "failed", "--partner", &refused.partner, "--dry-run"])
        .to_string();
    assert!(some.contains("left out: 1 that the partner may have"), "{some}");

    // The name is not free: the same file would go out under another Message-ID.
    by_name.reaches("failed");
    let file = gate.file(&format!("local/{}.edi", by_name.partner), &order(next()));
    let _ = gate.cli(&["send", "--from", STATION, "--to", &by_name.partner, file.to_str().unwrap()]);
    let list = gate.json(&["message", "list", "--direction", "out", "--partner", &by_name.partner]);
    let states: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["duplicate", "failed"], "{list:#}");
}

#[test]
fn a_repeat_of_which_another_fault_is_told_or_other_bytes_are_held_is_not_delivered() {
    let _held = stage();
    let play = |disposition: &'static str, mic: Option<&'static str>| {
        lost_then(move |receipt| {
            *receipt = receipt.clone().says(disposition);
            if let Some(mic) = mic {
                mic.clone_into(&mut receipt.mic);
            }
            "The content was altered. This is not a duplicate message.".clone_into(&mut receipt.text);
        })
    };
    let altered = play("processed/error: integrity-check-failed", Some(""));
    let other = play(
        "processed/warning: duplicate-document",
        Some("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="),
    );
    let same = play("processed/error: duplicate-document", None);
    altered.ends("failed", "integrity-check-failed", 2);
    other.ends("failed", "mic-mismatch", 2);
    let message = same.ends("delivered", "", 2);
    assert!(!message["marks"].to_string().contains("receipt lost"), "{message:#}");
}

#[test]
fn a_partner_that_detects_no_repeats_any_more_gets_none_that_nobody_asked_for() {
    let stage = Arc::new(Stage::new(&[("retry.initial", "\"20s\""), ("retry.jitter", "0.0")]));
    let scene = Scene::of(&stage, "sync-signed", &[], |_, _| Vec::new());
    scene.reaches("retrying");
    let gate = &stage.gate;
    gate.ok(&["partner", "set", &scene.partner, "--detects-duplicates", "false"]);
    gate.followed();
    gate.set_clock(60);
    let message = scene.reaches("held");
    assert_eq!(
        (&message["code"], &message["attempts"]),
        (&"outcome-unknown".into(), &1.into()),
        "{message:#}"
    );
    // A person who asked the partner may have it posted again.
    gate.ok(&["message", "retry", message["id"].as_str().unwrap()]);
    gate.wait("the post that was asked for", |_| {
        (scene.hits.lock().unwrap().len() == 2).then_some(())
    });
    assert_eq!(scene.reaches("held")["attempts"], 2);
}

#[test]
fn tries_are_counted_anew_from_a_retry_by_hand() {
    let scene = Scene::play("sync-signed", &["--retry-max-tries", "2"], |_, _| http(503, &[], "Later."));
    let message = scene.reaches("failed");
    let id = message["id"].as_str().unwrap();
    scene.stage.gate.ok(&["message", "retry", id]);
    let message = scene.stage.gate.wait("the end of the tries", |_| {
        Some(scene.message()).filter(|message| message["state"] == "failed" && message["attempts"] != 2)
    });
    assert_eq!(message["attempts"], 4, "{message:#}");
    assert!(
        message["reason"].as_str().unwrap().starts_with("given up after 2 tries"),
        "{message:#}"
    );
    assert!(message["retried"]["at"].is_string(), "{message:#}");
}

#[test]
fn a_rejected_message_that_came_again_is_not_told_of_twice() {
    let stage = Stage::new(&[]);
    let opened = Arc::new(AtomicBool::new(false));
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let door = Arc::clone(&opened);
    let hits = tests::wire::serve(listener, move |_, _| match door.load(Ordering::SeqCst) {
        false => http(503, &[("Retry-After", "2")], ""),
        true => http(204, &[], ""),
    });
    let url = format!("http://127.0.0.1:{port}/mdn");
    stage.add("AGAIN", port, &["--require-encrypted", "false", "--mdn-urls", &url]);
    let request = payload()
        .message("<again@test>")
        .with("AS2-From", "AGAIN")
        .with("Receipt-Delivery-Option", &url);
    let gate = &stage.gate;
    wait_for("the new partner", || (request.post(gate.as2_port).status == 204).then_some(()));
    wait_for("the first try of the MDN", || (!hits.lock().unwrap().is_empty()).then_some(()));
    gate.ok(&["partner", "set", "AGAIN", "--require-signed", "false"]);
    gate.followed();
    assert_eq!(request.post(gate.as2_port).status, 204);
    gate.wait("the filing", |_| {
        stage.listed("<again@test>").iter().any(|row| row["state"] == "filed").then_some(())
    });
    let before = hits.lock().unwrap().len();
    opened.store(true, Ordering::SeqCst);
    let says = |hit: &Hit, what: &str| String::from_utf8_lossy(&hit.message.body).contains(what);
    wait_for("the MDN of what was filed", || {
        hits.lock().unwrap()[before..]
            .iter()
            .any(|hit| says(hit, "; processed\r\n"))
            .then_some(())
    });
    let rejected = gate.wait("the end of the other one", |_| {
        let rows = stage.listed("<again@test>");
        let row = rows.iter().find(|row| row["state"] == "rejected").unwrap();
        Some(gate.show(row["id"].as_str().unwrap())).filter(|row| row["marks"].to_string().contains("received again"))
    });
    assert!(hits.lock().unwrap()[before..].iter().all(|hit| !says(hit, "processed/error")));
    let told = gate.cli(&["message", "retry", rejected["id"].as_str().unwrap()]).to_string();
    assert!(told.contains("it was received again, as"), "{told}");
}

#[test]
fn an_mdn_that_changes_nothing_is_counted_as_nothing() {
    let stage = Arc::new(Stage::new(&[("telemetry.listen", "\"127.0.0.1:0\"")]));
    let scene = Scene::of(&stage, "async-signed", &[], |_, _| http(204, &[], ""));
    scene.reaches("waiting-mdn");
    let receipt = Receipt::of(&scene.hit());
    let first = receipt.signed(&stage.partner);
    let error = receipt.clone().says("processed/error: decryption-failed");
    scene.post_mdn(&first);
    scene.reaches("delivered");
    scene.post_mdn(&first);
    scene.post_mdn(&error.signed(&stage.stranger));
    let mut known = receipt.clone().says("processed/error: unexpected-processing-error");
    "This message has already been processed.".clone_into(&mut known.text);
    scene.post_mdn(&known.signed(&stage.partner));
    let row = r#"as2gate_as2_messages_total{direction="out",result="delivered"}"#;
    assert_eq!(stage.gate.metric(row).as_deref(), Some("1"));
    let contradicting = |kind| stage.gate.sql(&format!("SELECT count(*) FROM event WHERE kind = '{kind}'"));
    assert_eq!(contradicting("mdn.contradicting"), ["0"]);
    scene.post_mdn(&error.signed(&stage.partner));
    assert_eq!(contradicting("mdn.contradicting"), ["1"]);
    assert_eq!(stage.gate.metric(row).as_deref(), Some("1"));
    let log = stage.gate.log();
    assert!(
        log.lines().any(|line| line.contains("WARN") && line.contains("contradicts")),
        "{log}"
    );
    assert_eq!(log.matches("message settled").count(), 1, "{log}");
}

#[test]
fn a_clock_that_jumps_gives_nothing_up_and_frees_no_name() {
    let stage = Arc::new(Stage::new(&[("retry.initial", "\"1s\""), ("retry.max_wait", "\"1s\"")]));
    let scene = Scene::of(&stage, "sync-signed", &["--retry-max-tries", "99"], |_, _| http(503, &[], "Later."));
    scene.reaches("retrying");
    let gate = &stage.gate;
    gate.jump_clock(3 * 86_400);
    gate.wait("the jump to be told", |gate| {
        gate.log().contains("the clock jumped ahead").then_some(())
    });
    assert_eq!(
        gate.sql("SELECT facts ->> '$.seconds' FROM event WHERE kind = 'clock.set'").len(),
        1
    );
    let tries = scene.message()["attempts"].as_u64().unwrap();
    gate.wait("tries after it", |_| {
        (scene.message()["attempts"].as_u64().unwrap() > tries + 2).then_some(())
    });
    assert_eq!(scene.message()["state"], "retrying", "{:#}", scene.message());
    let file = gate.file(&format!("local/{}.edi", scene.partner), &order(next()));
    let _ = gate.cli(&["send", "--from", STATION, "--to", &scene.partner, file.to_str().unwrap()]);
    let list = gate.json(&["message", "list", "--direction", "out", "--partner", &scene.partner]);
    assert_eq!(list[0]["state"], "duplicate", "{list:#}");
}
