//! What MDNs say, in the answer and by themselves (as2.md §5.4).

use std::net::TcpStream;

use super::*;

#[test]
fn the_mdn_for_another_message_is_no_receipt() {
    let _held = stage();
    let scene = Scene::play(
        "sync-signed",
        &[],
        with_stage(|stage, hit, _| {
            let mut receipt = Receipt::of(hit);
            receipt.original = "<another@test>".to_owned();
            answer(200, &receipt.signed(&stage.partner))
        }),
    );
    scene.ends("failed", "mdn-mismatch", 1);
}

#[test]
fn an_mdn_in_the_answer_that_names_no_message_counts_by_its_signature_and_its_mic() {
    let _held = stage();
    let play = |change: fn(&mut Receipt), is_signed: bool| {
        Scene::play(
            "sync-signed",
            &[],
            with_stage(move |stage, hit, _| {
                let mut receipt = Receipt::of(hit);
                receipt.original.clear();
                change(&mut receipt);
                let mdn = if is_signed {
                    receipt.signed(&stage.partner)
                } else {
                    receipt.unsigned()
                };
                answer(200, &mdn)
            }),
        )
    };
    let good = play(|_| {}, true);
    let (without, unsigned) = (play(|receipt| receipt.mic.clear(), true), play(|_| {}, false));
    let wrong = play(
        |receipt| "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=".clone_into(&mut receipt.mic),
        true,
    );
    let negative = play(
        |receipt| *receipt = receipt.clone().says("processed/error: decryption-failed"),
        true,
    );
    good.ends("delivered", "", 1);
    without.ends("failed", "mdn-mismatch", 1);
    unsigned.ends("failed", "mdn-mismatch", 1);
    wrong.ends("failed", "mic-mismatch", 1);
    negative.ends("failed", "decryption-failed", 1);
}

#[test]
fn a_receipt_that_asks_for_a_receipt_is_read_and_not_answered() {
    let scene = Scene::play(
        "sync-signed",
        &[],
        with_stage(|stage, hit, _| {
            let mut mdn = Receipt::of(hit).signed(&stage.partner);
            for (name, value) in [
                ("Disposition-Notification-To", "mdn@test"),
                (
                    "Disposition-Notification-Options",
                    "signed-receipt-protocol=optional, pkcs7-signature; signed-receipt-micalg=optional, sha1",
                ),
            ] {
                mdn.headers.push((name.to_owned(), value.to_owned()));
            }
            answer(200, &mdn)
        }),
    );
    scene.ends("delivered", "", 1);
}

#[test]
fn a_partner_whose_messages_are_blocked_may_still_send_its_receipts() {
    for nameless in [false, true] {
        let scene = Scene::play("async-signed", &[], |_, _| http(204, &[], ""));
        scene.reaches("waiting-mdn");
        let gate = &scene.stage.gate;
        gate.ok(&["partner", "block", &scene.partner, "in"]);
        gate.followed();
        let message = payload().signed(&scene.stage.partner).message("<blocked@test>");
        let refused = message.clone().without("Disposition-Notification-To").post(gate.as2_port);
        assert!(refused.status != 200, "a message of a blocked partner is taken");
        scene.post_mdn(&Receipt::of(&scene.hit()).signed(&scene.stage.stranger));
        assert_eq!(scene.message()["state"], "waiting-mdn");
        let mdn = Receipt::of(&scene.hit()).signed(&scene.stage.partner);
        let mdn = if nameless { mdn.without("AS2-From").without("AS2-To") } else { mdn };
        scene.post_mdn(&mdn);
        scene.ends("delivered", "", 1);
    }
}

#[test]
fn the_mdn_of_another_partner_is_no_receipt() {
    let _held = stage();
    let scene = Scene::play(
        "sync-signed",
        &[],
        with_stage(|stage, hit, _| {
            let mut receipt = Receipt::of(hit);
            receipt.from = CRAFT.to_owned();
            answer(200, &receipt.signed(&stage.partner))
        }),
    );
    scene.ends("failed", "mdn-mismatch", 1);
}

#[test]
fn an_unsigned_mdn_where_a_signed_one_was_asked_for_proves_nothing() {
    let positive = Scene::play("sync-signed", &[], |hit, _| answer(200, &Receipt::of(hit).unsigned()));
    let negative = Scene::play("sync-signed", &[], |hit, _| {
        answer(200, &Receipt::of(hit).says("processed/error: decryption-failed").unsigned())
    });
    assert_eq!(negative.reaches("failed")["code"], "decryption-failed");
    let message = positive.ends("failed", "mdn-not-signed", 1);
    assert_eq!(message["mdn_signature"], "unsigned", "{message:#}");
    negative.posts(1);
}

#[test]
fn a_signature_of_a_stranger_on_an_mdn_proves_nothing() {
    let _held = stage();
    let stranger = Scene::play(
        "sync-signed",
        &[],
        with_stage(|stage, hit, _| answer(200, &Receipt::of(hit).signed(&stage.stranger))),
    );
    let unasked = Scene::play(
        "sync",
        &[],
        with_stage(|stage, hit, _| answer(200, &Receipt::of(hit).signed(&stage.stranger))),
    );
    let altered = Scene::play(
        "sync-signed",
        &[],
        with_stage(|stage, hit, _| {
            let mut mdn = Receipt::of(hit).says("processed/error: decryption-failed").signed(&stage.partner);
            let text = String::from_utf8(mdn.body).unwrap();
            mdn.body = text.replace("processed/error: decryption-failed", "processed").into_bytes();
            answer(200, &mdn)
        }),
    );
    for scene in [&unasked, &altered] {
        let message = scene.reaches("failed");
        assert_eq!(message["code"], "mdn-signature-invalid", "{message:#}");
    }
    stranger.ends("failed", "mdn-signature-invalid", 1);
}

#[test]
fn a_wrong_mic_fails_and_a_missing_one_is_marked() {
    let _held = stage();
    let play = |options: &[&str], mic: &'static str| {
        Scene::play(
            "sync-signed",
            options,
            with_stage(move |stage, hit, _| {
                let mut receipt = Receipt::of(hit);
                mic.clone_into(&mut receipt.mic);
                answer(200, &receipt.signed(&stage.partner))
            }),
        )
    };
    let wrong = play(&[], "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    let unreadable = play(&[], "not!base64");
    let (missing, null) = (play(&[], ""), play(&[], "null"));
    let strict = play(&["--strict-mic", "true"], "");
    for scene in [missing, null] {
        let message = scene.reaches("delivered");
        assert!(message["marks"].to_string().contains("no MIC"), "{message:#}");
        let shown = scene
            .stage
            .gate
            .ok(&["message", "show", message["id"].as_str().unwrap(), "-o", "table"]);
        assert!(shown.contains("(no MIC in the MDN)") && !shown.contains("agrees"), "{shown}");
    }
    assert_eq!(
        unreadable.reaches("failed")["code"],
        "mic-mismatch",
        "what cannot be read is taken for missing"
    );
    assert_eq!(strict.reaches("failed")["code"], "mic-missing");
    let message = wrong.ends("failed", "mic-mismatch", 1);
    let mdn = format!("ls AS2/raw-mdn/incoming/{}.mdn", message["id"].as_str().unwrap());
    assert_eq!(wrong.stage.user.run(&[&mdn]).code, 0, "the MDN is not kept");
}

#[test]
fn a_mic_by_an_algorithm_that_nobody_asked_for_is_computed() {
    let _held = stage();
    let by_sha512 = |hit: &Hit| {
        let mut receipt = Receipt::of(hit);
        receipt.mic = format!("{}, sha-512", mic_of(hit, "sha512"));
        receipt
    };
    let at_once = Scene::play(
        "sync-signed",
        &[],
        with_stage(move |stage, hit, _| answer(200, &by_sha512(hit).signed(&stage.partner))),
    );
    let late = Scene::play("sync-signed", &[], |_, _| http(200, &[], ""));
    late.reaches("failed");
    let changed = Scene::play("sync-signed", &[], |_, _| http(200, &[], ""));
    changed.reaches("failed");
    let message = at_once.reaches("delivered");
    assert!(message["marks"].to_string().contains("MIC by sha"), "{message:#}");
    // What would be sent today is other bytes: nobody can tell any more what those of then digest to.
    let partner = changed.partner.as_str();
    changed.stage.gate.ok(&["partner", "set", partner, "--file-name", "another.edi"]);
    changed.stage.gate.followed();
    changed.post_mdn(&by_sha512(&changed.hit()).signed(&changed.stage.partner));
    changed.ends("failed", "no-mdn", 1);
    // Its payload is nowhere but in the tree.
    late.stage.gate.published();
    late.post_mdn(&by_sha512(&late.hit()).signed(&late.stage.partner));
    late.reaches("delivered");
}

#[test]
fn negative_mdns_are_final_and_named_after_what_they_say() {
    let _held = stage();
    let said = [
        ("processed/error: authentication-failed", "authentication-failed"),
        ("processed/error: unknown-trading-relationship", "unknown-trading-relationship"),
        ("processed/error: unknown-trading-partner", "unknown-trading-partner"),
        ("processed/error: integrity-check-failed", "integrity-check-failed"),
        ("processed/error: decryption-failed", "decryption-failed"),
        ("processed/error: insufficient-message-security", "insufficient-message-security"),
        ("processed/error: signed-message-required", "signed-message-required"),
        ("processed/error: invalid-message-id", "invalid-message-id"),
        ("processed/error: duplicate-filename", "duplicate-filename"),
        ("processed/error: illegal-filename", "illegal-filename"),
        ("failed/Failure: unsupported MIC-algorithms", "unsupported-mic-algorithms"),
        ("error: integrity-check-failed", "integrity-check-failed"),
        ("processed/Error: Decompression-Failed", "decompression-failed"),
        ("failed/failure: sender-equals-receiver", "sender-equals-receiver"),
        ("processed/error: unexpected-processing-error", "unexpected-processing-error"),
        ("failed/Failure: unsupported format", "unsupported-format"),
    ];
    let scenes = said.map(|(words, _)| {
        Scene::play(
            "sync-signed",
            &[],
            with_stage(move |stage, hit, _| answer(200, &Receipt::of(hit).says(words).signed(&stage.partner))),
        )
    });
    for (scene, (words, code)) in scenes.iter().zip(said) {
        let message = scene.reaches("failed");
        assert_eq!(message["code"], code, "{words}: {message:#}");
    }
    let hint = scenes[1].message()["hint"].as_str().unwrap().to_owned();
    let renamed = format!("as2gate partner set {} --as2-id ID", scenes[1].partner);
    assert!(hint.contains(&format!("our AS2 id {STATION}")) && hint.contains(&renamed), "{hint}");
    scenes[0].ends("failed", said[0].1, 1);
    scenes.iter().for_each(|scene| scene.posts(1));
}

#[test]
fn an_mdn_that_is_whole_for_http_and_cut_inside_is_an_unknown_outcome() {
    let _held = stage();
    // Its length is announced as it is: nothing but its own structure tells that something is missing.
    let scenes = [1, 2, 3].map(|quarters| {
        Scene::play(
            "sync-signed",
            &[],
            with_stage(move |stage, hit, _| {
                let mut mdn = Receipt::of(hit).signed(&stage.partner);
                mdn.body.truncate(mdn.body.len() * quarters / 4);
                answer(200, &mdn)
            }),
        )
    });
    for scene in &scenes {
        let message = scene.reaches("failed");
        let code = message["code"].as_str().unwrap();
        assert!(["no-mdn", "mdn-signature-invalid"].contains(&code), "{message:#}");
    }
    thread::sleep(QUIET);
    scenes.iter().for_each(|scene| scene.posts(1));
}

#[test]
fn a_negative_mdn_counts_where_none_was_asked_for() {
    let none = Scene::play("none", &[], |hit, _| {
        answer(200, &Receipt::of(hit).says("processed/error: decryption-failed").unsigned())
    });
    none.ends("failed", "decryption-failed", 1);
}

#[test]
fn an_mdn_decides_whatever_the_status_says() {
    let _held = stage();
    let play = |status: u16, mode: &str, words: &'static str| {
        Scene::play(
            mode,
            &[],
            with_stage(move |stage, hit, _| answer(status, &Receipt::of(hit).says(words).signed(&stage.partner))),
        )
    };
    let delivered: Vec<_> = [
        (500, "sync-signed"),
        (404, "sync-signed"),
        (500, "async-signed"),
        (500, "none"),
        (302, "sync-signed"),
    ]
    .map(|(status, mode)| play(status, mode, "processed"))
    .into();
    let failed = play(503, "sync-signed", "processed/error: decryption-failed");
    delivered.iter().for_each(|scene| {
        scene.reaches("delivered");
    });
    failed.ends("failed", "decryption-failed", 1);
    delivered.iter().for_each(|scene| scene.posts(1));
}

#[test]
fn a_warning_is_positive() {
    let _held = stage();
    let scene = Scene::play(
        "sync-signed",
        &[],
        with_stage(|stage, hit, _| {
            let words = "processed/warning: authentication-failed, processing continued";
            answer(200, &Receipt::of(hit).says(words).signed(&stage.partner))
        }),
    );
    scene.ends("delivered", "", 1);
}

#[test]
fn a_duplicate_notice_holds_a_first_try_and_ends_a_second() {
    let _held = stage();
    let play = |first: &'static str| {
        Scene::play(
            "sync-signed",
            &[],
            with_stage(move |stage, hit, count| match (first, count) {
                ("lost", 1) => Vec::new(),
                _ => {
                    let mut receipt = Receipt::of(hit).says("processed/warning: duplicate-document");
                    receipt.mic.clear();
                    answer(200, &receipt.signed(&stage.partner))
                }
            }),
        )
    };
    let (first, second) = (play("known"), play("lost"));
    assert_eq!(first.reaches("held")["code"], "duplicate-at-partner");
    let message = second.ends("delivered", "", 2);
    assert!(message["marks"].to_string().contains("receipt lost"), "{message:#}");
    first.posts(1);
}

#[test]
fn a_duplicate_notice_ends_what_went_out_twice_in_one_try() {
    let stage = stage();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let partner = Arc::clone(&stage);
    let server = thread::spawn(move || {
        let mut kept = accepted(&listener);
        let hit = read_request(&mut kept).unwrap();
        let good = String::from_utf8(answer(200, &Receipt::of(&hit).signed(&partner.partner))).unwrap();
        kept.write_all(good.replace("Connection: close\r\n", "").as_bytes()).unwrap();
        // The next one is taken, and the connection is gone before the answer.
        let taken = read_request(&mut kept).unwrap();
        drop(kept);
        let mut fresh = accepted(&listener);
        let again = read_request(&mut fresh).unwrap();
        assert!(again.message.body == taken.message.body);
        let mut receipt = Receipt::of(&again).says("processed/error: unexpected-processing-error");
        receipt.mic.clear();
        "This message has already been processed.".clone_into(&mut receipt.text);
        fresh.write_all(&answer(200, &receipt.signed(&partner.partner))).unwrap();
    });
    let scene = Scene::towards(&stage, port, "sync-signed", &[], &order(next()), Arc::default());
    scene.reaches("delivered");
    let file = stage.gate.file("local/twice.edi", &order(next()));
    stage
        .gate
        .ok(&["send", "--from", STATION, "--to", &scene.partner, file.to_str().unwrap()]);
    server.join().unwrap();
    let message = stage.gate.reaches("out", "twice.edi", "delivered");
    assert!(message["marks"].to_string().contains("receipt lost"), "{message:#}");
}

// MDNs that come by themselves.

#[test]
fn an_async_mdn_without_as2_names_counts_if_the_partner_signed_it() {
    let scene = Scene::play("async-signed", &[], |_, _| http(204, &[], ""));
    scene.reaches("waiting-mdn");
    let nameless = |mdn: Request| mdn.without("AS2-From").without("AS2-To");
    let receipt = Receipt::of(&scene.hit());
    let mut unknown = receipt.clone();
    "<never-sent@test>".clone_into(&mut unknown.original);
    for forged in [
        receipt.unsigned(),
        receipt.signed(&scene.stage.stranger),
        unknown.signed(&scene.stage.partner),
    ] {
        scene.post_mdn(&nameless(forged));
        assert_eq!(scene.message()["state"], "waiting-mdn", "{:#}", scene.message());
    }
    let port = scene.stage.gate.as2_port;
    let message = nameless(payload().signed(&scene.stage.partner).message("<nameless@test>"));
    assert_eq!(message.without("Disposition-Notification-To").post(port).status, 400);
    scene.post_mdn(&nameless(receipt.signed(&scene.stage.partner)));
    scene.ends("delivered", "", 1);
}

#[test]
fn a_disk_below_its_watermark_takes_receipts_and_no_messages() {
    let stage = Arc::new(Stage::new(&[]));
    let scene = Scene::of(&stage, "async-signed", &[], |_, _| http(204, &[], ""));
    let nameless = Scene::of(&stage, "async-signed", &[], |_, _| http(204, &[], ""));
    [&scene, &nameless].into_iter().for_each(|scene| drop(scene.reaches("waiting-mdn")));
    stage.gate.configure(&[("storage.min_free", "\"100TiB\"")]);
    stage.gate.restart();
    // Small, and without a wish for a receipt: only its body tells that it is none.
    let message = payload()
        .signed(&stage.partner)
        .message("<no-room@test>")
        .without("Disposition-Notification-To");
    assert_eq!(message.post(stage.gate.as2_port).status, 503);
    assert_eq!(stage.listed("<no-room@test>").len(), 0);
    scene.post_mdn(&Receipt::of(&scene.hit()).signed(&stage.partner));
    scene.ends("delivered", "", 1);
    let mdn = Receipt::of(&nameless.hit()).signed(&stage.partner);
    nameless.post_mdn(&mdn.without("AS2-From").without("AS2-To"));
    nameless.ends("delivered", "", 1);
}

#[test]
fn an_async_mdn_may_come_before_the_answer() {
    let _held = stage();
    let scenes = [204, 200, 503].map(|status| {
        Scene::play(
            "async-signed",
            &[],
            with_stage(move |stage, hit, _| {
                post_mdn(stage.gate.as2_port, &Receipt::of(hit).signed(&stage.partner));
                http(status, &[], "")
            }),
        )
    });
    let dropped = Scene::play(
        "async-signed",
        &[],
        with_stage(|stage, hit, _| {
            post_mdn(stage.gate.as2_port, &Receipt::of(hit).signed(&stage.partner));
            Vec::new()
        }),
    );
    scenes[0].ends("delivered", "", 1);
    for scene in scenes.iter().chain([&dropped]) {
        scene.ends("delivered", "", 1);
    }
}

#[test]
fn an_mdn_in_the_answer_is_kept_beside_an_async_one_that_was_faster() {
    let _held = stage();
    let scene = Scene::play(
        "async-signed",
        &[],
        with_stage(|stage, hit, _| {
            let receipt = Receipt::of(hit);
            post_mdn(stage.gate.as2_port, &receipt.signed(&stage.partner));
            answer(200, &receipt.says("processed/error: decryption-failed").signed(&stage.partner))
        }),
    );
    let message = scene.ends("delivered", "", 1);
    let id = message["id"].as_str().unwrap();
    let kept = scene.stage.user.ls("AS2/raw-mdn/incoming");
    let kept: Vec<_> = kept.iter().filter(|name| name.starts_with(id)).collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
}

#[test]
fn an_async_mdn_ends_the_wait_for_another_try() {
    let scene = Scene::play("async-signed", &[], |_, _| {
        http(503, &[("Retry-After", &RETRY_AFTER.to_string())], "Later.")
    });
    scene.reaches("retrying");
    scene.post_mdn(&Receipt::of(&scene.hit()).signed(&scene.stage.partner));
    scene.reaches("delivered");
    thread::sleep(Duration::from_secs(RETRY_AFTER));
    scene.ends("delivered", "", 1);
}

#[test]
fn a_late_mdn_settles_an_unknown_outcome() {
    let scene = Scene::play("async-signed", &["--mdn-wait", "1s"], |_, _| http(204, &[], ""));
    // The same bytes again once, then the end.
    let message = scene.ends("failed", "no-mdn", 2);
    assert_eq!(failed_receipt(&scene), "overdue");
    let receipt = Receipt::of(&scene.hit());
    let settled = |scene: &Scene| scene.message()["state"] == "delivered";
    scene.post_mdn(&receipt.unsigned());
    scene.post_mdn(&receipt.signed(&scene.stage.stranger));
    scene.post_mdn(
        &receipt
            .clone()
            .says("processed/error: decryption-failed")
            .signed(&scene.stage.partner),
    );
    thread::sleep(Duration::from_millis(300));
    assert!(
        !settled(&scene),
        "a forged or negative MDN changed a final message: {:#}",
        scene.message()
    );
    assert_eq!(scene.message()["code"], "no-mdn");
    scene.post_mdn(&receipt.signed(&scene.stage.partner));
    let late = scene.ends("delivered", "", 2);
    assert!(late["marks"].to_string().contains("late"), "{late:#}");
    assert_eq!(late["id"], message["id"]);
}

#[test]
fn a_partner_has_a_number_of_posts_of_its_own_for_want_of_an_mdn() {
    // The server's is 1.
    let scene = Scene::play("async-signed", &["--mdn-wait", "1s", "--mdn-tries", "0"], |_, _| http(204, &[], ""));
    scene.ends("failed", "no-mdn", 1);
}

#[test]
fn a_late_mdn_settles_a_sync_message_without_one() {
    let scene = Scene::play("sync-signed", &[], |_, _| http(200, &[], ""));
    scene.reaches("failed");
    scene.post_mdn(&Receipt::of(&scene.hit()).signed(&scene.stage.partner));
    let late = scene.ends("delivered", "", 1);
    assert!(late["marks"].to_string().contains("late"), "{late:#}");
}

#[test]
fn a_late_mdn_leaves_nothing_in_failed() {
    let scene = Scene::play("sync-signed", &[], |_, _| http(200, &[], ""));
    let id = scene.reaches("failed")["id"].as_str().unwrap().to_owned();
    scene.post_mdn(&Receipt::of(&scene.hit()).signed(&scene.stage.partner));
    scene
        .stage
        .gate
        .wait("delivery", |_| (scene.message()["state"] == "delivered").then_some(()));
    let listed = |tray: &str| {
        scene
            .stage
            .user
            .ls(&format!("AS2/files/{STATION}/{}/{tray}", scene.partner))
            .contains(&id)
    };
    assert!(listed("outbox") && !listed("failed"));
}

#[test]
fn a_late_mdn_settles_what_a_later_try_could_not() {
    let statuses = [401, 404, 302];
    let scenes = statuses.map(|status| {
        Scene::play("async-signed", &["--mdn-wait", "1s"], move |_, count| {
            http(if count < 2 { 204 } else { status }, &[], "")
        })
    });
    for scene in &scenes {
        scene.reaches("failed");
        scene.posts(2);
        scene.post_mdn(&Receipt::of(&scene.hit()).signed(&scene.stage.partner));
        let message = scene.reaches("delivered");
        assert!(message["marks"].to_string().contains("late"), "{message:#}");
    }
    scenes[0].ends("delivered", "", 2);
    // A partner that took none of the tries holds nothing.
    let never = Scene::play("async-signed", &[], |_, _| http(401, &[], ""));
    never.reaches("failed");
    never.post_mdn(&Receipt::of(&never.hit()).signed(&never.stage.partner));
    never.ends("failed", "http-401", 1);
}

#[test]
fn a_late_mdn_settles_a_message_whose_file_has_left_the_view() {
    let stage = Arc::new(Stage::new(&[]));
    let [kept, lost] = [(); 2].map(|()| Scene::of(&stage, "sync-signed", &[], |_, _| http(200, &[], "")));
    let below = |scene: &Scene, tray: &str| {
        let (id, partner) = (scene.message()["id"].as_str().unwrap().to_owned(), &scene.partner);
        format!("files/{STATION}/{partner}/{tray}/{id}/{partner}.edi")
    };
    let places = [&kept, &lost].map(|scene| {
        scene.reaches("failed");
        stage.gate.tree(&below(scene, "failed"))
    });
    wait_for("their files to be at their places", || {
        places.iter().all(|place| place.exists()).then_some(())
    });
    let on_day = |day: i64| {
        stage.gate.set_clock(day * 24 * 3600);
        wait_for("the sweep", || {
            stage.gate.ok(&["lifecycle", "run", "-y"]);
            places.iter().all(|place| !place.exists()).then_some(())
        });
    };
    let by_sha512 = |scene: &Scene| {
        let mut receipt = Receipt::of(&scene.hit());
        receipt.mic = format!("{}, sha-512", mic_of(&scene.hit(), "sha512"));
        scene.post_mdn(&receipt.signed(&stage.partner));
    };
    // Out of view: a MIC by any algorithm can be checked, and the file comes back where it belongs now.
    on_day(37);
    by_sha512(&kept);
    assert!(kept.reaches("delivered")["marks"].to_string().contains("late"));
    let path = format!("AS2/{}", below(&kept, "outbox"));
    stage.gate.ok(&["lifecycle", "restore", &path]);
    assert!(stage.user.get(&path).starts_with(b"ISA*"));
    // Deleted: what needs no look at it is decided, anything else is evidence; the partner gets its 2xx.
    on_day(75);
    by_sha512(&lost);
    assert_eq!(lost.message()["state"], "failed");
    lost.post_mdn(&Receipt::of(&lost.hit()).signed(&stage.partner));
    assert_eq!(lost.reaches("delivered")["mdn_signature"], "signed");
}

#[test]
fn a_late_mdn_does_not_settle_what_failed_for_another_reason() {
    let _held = stage();
    let mismatch = Scene::play(
        "sync-signed",
        &[],
        with_stage(|stage, hit, _| {
            let mut receipt = Receipt::of(hit);
            receipt.mic = sha256("something else");
            answer(200, &receipt.signed(&stage.partner))
        }),
    );
    mismatch.reaches("failed");
    mismatch.post_mdn(&Receipt::of(&mismatch.hit()).signed(&mismatch.stage.partner));
    mismatch.ends("failed", "mic-mismatch", 1);
}

#[test]
fn forged_async_mdns_change_nothing() {
    let scene = Scene::play("async-signed", &[], |_, _| http(204, &[], ""));
    scene.reaches("waiting-mdn");
    let receipt = Receipt::of(&scene.hit());
    let negative = receipt.clone().says("processed/error: decryption-failed");
    let mut elsewhere = receipt.clone();
    elsewhere.from = CRAFT.to_owned();
    let mut unknown = receipt.clone();
    unknown.original = "<never-sent@test>".to_owned();
    for forged in [
        receipt.unsigned(),
        negative.unsigned(),
        receipt.signed(&scene.stage.stranger),
        negative.signed(&scene.stage.stranger),
        elsewhere.signed(&scene.stage.partner),
        unknown.signed(&scene.stage.partner),
    ] {
        scene.post_mdn(&forged);
        assert_eq!(scene.message()["state"], "waiting-mdn", "{:#}", scene.message());
    }
    let good = receipt.signed(&scene.stage.partner);
    scene.post_mdn(&good);
    scene.ends("delivered", "", 1);
    // Those before it are kept beside it.
    assert!(kept_with(&scene, &good) >= 5);
}

#[test]
fn an_unsigned_async_mdn_counts_only_where_such_a_one_was_asked_for() {
    let stage = stage();
    let negative = |scene: &Scene| Receipt::of(&scene.hit()).says("processed/error: decryption-failed").unsigned();
    let answers = Arc::new(AtomicBool::new(false));
    let scenes = ["none", "sync"].map(|mode| {
        let (good, may_answer) = (good(&stage), Arc::clone(&answers));
        Scene::play(mode, &[], move |hit, _| {
            wait_for("leave to answer", || may_answer.load(Ordering::Relaxed).then_some(()));
            good(hit)
        })
    });
    for scene in &scenes {
        scene.post_mdn(&negative(scene));
        assert_eq!(scene.message()["state"], "sending", "{:#}", scene.message());
    }
    answers.store(true, Ordering::Relaxed);
    scenes.iter().for_each(|scene| {
        scene.reaches("delivered");
    });
    let asked = Scene::play("async", &[], |_, _| http(204, &[], ""));
    asked.reaches("waiting-mdn");
    asked.post_mdn(&negative(&asked));
    asked.ends("failed", "decryption-failed", 1);
}

#[test]
fn an_unsigned_async_mdn_shows_the_credentials_that_its_partner_has_to_show() {
    let password = stage().gate.file("local/mdn-password.txt", b"secret");
    let password = format!("file:{}", password.display());
    let login = ["--inbound-user", "mdns", "--inbound-password", &password];
    let scene = Scene::play("async", &login, |_, _| http(204, &[], ""));
    scene.reaches("waiting-mdn");
    let receipt = Receipt::of(&scene.hit());
    let unsigned = receipt.clone().says("processed/error: decryption-failed").unsigned();
    let encoded = |login: &str| format!("Basic {}", run_with(&mut tool("openssl", &["base64", "-A"]), login).ok().trim());
    for anybodys in [unsigned.clone(), unsigned.with("Authorization", &encoded("mdns:guess"))] {
        scene.post_mdn(&anybodys);
        assert_eq!(scene.message()["state"], "waiting-mdn", "{:#}", scene.message());
    }
    scene.post_mdn(&receipt.unsigned().with("Authorization", &encoded("mdns:secret")));
    scene.ends("delivered", "", 1);
    // A signature needs no login.
    let signed = Scene::play("async", &login, |_, _| http(204, &[], ""));
    signed.reaches("waiting-mdn");
    signed.post_mdn(&Receipt::of(&signed.hit()).signed(&signed.stage.partner));
    signed.reaches("delivered");
    // Nor where messages go, which need one, whether they look like an MDN or not.
    let beside = Scene::play("async-signed", &login, |_, _| http(204, &[], ""));
    beside.reaches("waiting-mdn");
    let stage = &beside.stage;
    let mdn = Receipt::of(&beside.hit()).signed(&stage.partner);
    let large = Entity::new("application/edi-x12", vec![b'x'; 2 << 20]);
    let messages = [payload(), payload().signed(&stage.partner), large].map(|entity| entity.message("<no-login@test>"));
    for message in messages {
        let silent = message
            .clone()
            .without("Disposition-Notification-To")
            .without("Disposition-Notification-Options");
        for request in [silent, message] {
            let answer = request.with("AS2-From", &beside.partner).post(stage.gate.as2_port);
            assert_eq!(answer.status, 401, "{}", answer.text());
        }
    }
    let chunked = format!(
        "POST /as2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAS2-From: {}\r\nAS2-To: {STATION}\r\nMessage-ID: <no-login@test>\r\n\
         Content-Type: application/edi-x12\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
        beside.partner,
        2 << 20
    );
    let answer = raw(stage.gate.as2_port, chunked.as_bytes(), &vec![b'x'; (1 << 20) + 1]);
    assert_eq!(answer.status, 401, "{}", answer.text());
    assert!(stage.listed("<no-login@test>").is_empty());
    assert_eq!(mdn.post(stage.gate.as2_port).status, 200);
    beside.reaches("delivered");
}

/// How many MDNs are kept of a message; the one that proves the delivery has the message's name.
#[track_caller]
fn kept_with(scene: &Scene, proof: &Request) -> usize {
    let id = scene.message()["id"].as_str().unwrap().to_owned();
    let user = &scene.stage.user;
    assert!(user.get(&format!("AS2/raw-mdn/incoming/{id}.mdn")).ends_with(&proof.body));
    let names = user.ls("AS2/raw-mdn/incoming");
    names.iter().filter(|name| name.starts_with(&id)).count()
}

#[test]
fn a_flood_of_forged_mdns_is_kept_in_part() {
    let scene = Scene::play("async-signed", &[], |_, _| http(204, &[], ""));
    scene.reaches("waiting-mdn");
    let receipt = Receipt::of(&scene.hit());
    let forged = receipt.signed(&scene.stage.stranger);
    for _ in 0..25 {
        scene.post_mdn(&forged);
    }
    // The true one counts and is kept all the same, and one more that its partner signed.
    let good = receipt.signed(&scene.stage.partner);
    scene.post_mdn(&good);
    scene.post_mdn(&good);
    scene.ends("delivered", "", 1);
    assert_eq!(kept_with(&scene, &good), 22);
}

#[test]
fn mdns_for_messages_that_were_never_sent_are_kept_for_diagnosis() {
    let stage = Stage::new(&[]);
    let unknown = |n: u32| Receipt {
        disposition: "processed".to_owned(),
        mic: sha256("x"),
        original: format!("<never-sent-{n}@test>"),
        from: CRAFT.to_owned(),
        text: format!("Number {n}."),
    };
    for n in 0..2 {
        let mdn = unknown(n).signed(&stage.partner);
        let answer = tests::wire::exchange(stage.gate.as2_port, "POST", "/mdn", &mdn.headers, &mdn.body);
        assert!(
            answer.status == 200 && answer.body.is_empty(),
            "whether an id exists is told: {}",
            answer.text()
        );
        // Of a flood one a second is kept.
        thread::sleep(Duration::from_millis(1100));
    }
    let dir = stage.gate.path("data/unknown-mdn");
    let kept = tests::names_in(&dir)
        .into_iter()
        .map(|name| std::fs::read_to_string(dir.join(name)).unwrap());
    let kept: Vec<String> = kept.collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    for (text, n) in kept.iter().zip(0..) {
        assert!(text.contains("AS2-From: CRAFT\r\n"), "no header block: {text}");
        assert!(text.contains(&format!("Original-Message-ID: <never-sent-{n}@test>")), "{text}");
    }
    assert!(stage.gate.log().contains("unknown-mdn"), "the log does not tell where");
}

#[test]
fn an_mdn_signed_with_an_old_digest_names_the_setting_that_allows_it() {
    let _held = stage();
    for (digest, switch) in [("sha1", "--legacy"), ("md5", "--accept-md5")] {
        let play = |options: &[&str]| {
            let signs = with_stage(move |stage, hit, _| {
                let receipt = Receipt::of(hit);
                answer(200, &receipt.wrapped(receipt.entity().signed_with(&stage.partner, digest)))
            });
            Scene::play("sync-signed", options, signs)
        };
        let scene = play(&[]);
        let message = scene.reaches("failed");
        assert_eq!(message["code"], "mdn-signature-invalid", "{message:#}");
        let hint = message["hint"].as_str().unwrap();
        let command = format!("as2gate partner set {} {switch} true", scene.partner);
        assert!(hint.contains(&command), "{hint}");
        play(&[switch, "true"]).reaches("delivered");
    }
}

/// What the event of a message's end says about its receipt.
fn failed_receipt(scene: &Scene) -> Value {
    let id = scene.message()["id"].as_str().unwrap().to_owned();
    let events = scene
        .stage
        .gate
        .json(&["audit", "list", "--kind", "message.failed", "--subject", &id]);
    events[0]["facts"]["receipt"].clone()
}

#[test]
fn a_negative_async_mdn_is_final() {
    let scene = Scene::play("async-signed", &[], |_, _| http(204, &[], ""));
    scene.reaches("waiting-mdn");
    let receipt = Receipt::of(&scene.hit());
    scene.post_mdn(
        &receipt
            .clone()
            .says("processed/error: authentication-failed")
            .signed(&scene.stage.partner),
    );
    scene.reaches("failed");
    assert_eq!(failed_receipt(&scene), "negative");
    // Contradicted afterwards: kept as evidence, without effect.
    scene.post_mdn(&receipt.signed(&scene.stage.partner));
    scene.ends("failed", "authentication-failed", 1);
}

#[test]
fn a_second_and_a_contradicting_mdn_change_nothing() {
    let scene = Scene::play("async-signed", &[], |_, _| http(204, &[], ""));
    scene.reaches("waiting-mdn");
    let receipt = Receipt::of(&scene.hit());
    let first = receipt.signed(&scene.stage.partner);
    scene.post_mdn(&first);
    scene.reaches("delivered");
    scene.post_mdn(&first);
    scene.post_mdn(&receipt.signed(&scene.stage.partner));
    scene.post_mdn(
        &receipt
            .clone()
            .says("processed/error: decryption-failed")
            .signed(&scene.stage.partner),
    );
    let message = scene.ends("delivered", "", 1);
    let id = message["id"].as_str().unwrap();
    assert!(
        message["mdn_disposition"].as_str().unwrap().ends_with("processed"),
        "the contradiction overwrote the receipt: {message:#}"
    );
    let kept = scene.stage.user.ls("AS2/raw-mdn/incoming");
    assert!(
        kept.iter().filter(|name| name.contains(id)).count() > 1,
        "the contradiction is not kept: {kept:?}"
    );
}

#[test]
fn async_mdns_that_come_at_once_are_all_taken() {
    let scene = Scene::play("async-signed", &[], |_, _| http(204, &[], ""));
    scene.reaches("waiting-mdn");
    let mdn = Receipt::of(&scene.hit()).signed(&scene.stage.partner);
    let mut bytes = b"POST /mdn HTTP/1.1\r\nHost: gate\r\nConnection: close\r\n".to_vec();
    for (name, value) in &mdn.headers {
        bytes.extend(format!("{name}: {value}\r\n").bytes());
    }
    bytes.extend(format!("Content-Length: {}\r\n\r\n", mdn.body.len()).bytes());
    bytes.extend(&mdn.body);
    // Each lacks its last byte until all are there.
    let (last, most) = bytes.split_last().unwrap();
    let mut streams: Vec<_> = (0..12)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", scene.stage.gate.as2_port)).unwrap();
            stream.write_all(most).unwrap();
            stream
        })
        .collect();
    thread::sleep(Duration::from_millis(300));
    streams.iter_mut().for_each(|stream| stream.write_all(&[*last]).unwrap());
    for mut stream in streams {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    scene.ends("delivered", "", 1);
    assert_eq!(kept_with(&scene, &mdn), 12, "each is evidence");
}

#[test]
fn a_wrong_mic_in_an_async_mdn_fails_the_message() {
    let scene = Scene::play("async-signed", &[], |_, _| http(204, &[], ""));
    scene.reaches("waiting-mdn");
    let mut receipt = Receipt::of(&scene.hit());
    receipt.mic = sha256("something else");
    scene.post_mdn(&receipt.signed(&scene.stage.partner));
    scene.ends("failed", "mic-mismatch", 1);
}
