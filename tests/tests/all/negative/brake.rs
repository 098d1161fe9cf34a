//! Message after message that does not decrypt: each answer takes longer, and nobody else waits (security.md §6).

use std::time::Instant;

use super::*;

/// Failures an hour that cost nothing.
const FREE: u32 = 20;

#[test]
fn failures_to_decrypt_slow_their_own_answers_and_no_others() {
    let stage = Stage::new(&[("telemetry.listen", "\"127.0.0.1:0\"")]);
    let broken = payload().signed(&stage.partner).encrypted(&stage.stranger.path("cert.pem"));
    let timed = |request: &Request| {
        let began = Instant::now();
        let answer = request.post(stage.gate.as2_port);
        (answer.disposition(), began.elapsed())
    };
    let mut waits = Vec::new();
    for n in 0..FREE + 2 {
        let (said, took) = timed(&broken.message(&format!("<broken-{n}@test>")));
        assert!(said.ends_with("processed/error: decryption-failed"), "{said}");
        waits.push(took);
    }
    let (free, braked) = waits.split_at(usize::try_from(FREE).unwrap());
    assert!(free.iter().all(|wait| *wait < Duration::from_millis(900)), "{waits:?}");
    assert!(
        braked[0] >= Duration::from_secs(1) && braked[1] >= Duration::from_secs(2),
        "{waits:?}"
    );

    let (said, took) = timed(&payload().signed(&stage.partner).encrypted(&stage.ours).message("<good@test>"));
    assert!(said == PROCESSED && took < Duration::from_millis(900), "{said} after {took:?}");
    let log = stage.gate.log();
    assert_eq!(log.matches("many messages do not decrypt").count(), 1, "{log}");
}

#[test]
fn an_answer_that_took_more_than_a_minute_is_told() {
    let stage = Arc::new(Stage::new(&[]));
    let broken = Arc::new(payload().signed(&stage.partner).encrypted(&stage.stranger.path("cert.pem")));
    for n in 0..FREE + 1 {
        let _ = broken.message(&format!("<before-{n}@test>")).post(stage.gate.as2_port);
    }
    assert!(!stage.gate.log().contains("took long"));
    // This one waits two seconds, in which the clock goes on by more than a minute.
    let waiting = {
        let (stage, broken) = (Arc::clone(&stage), Arc::clone(&broken));
        thread::spawn(move || broken.message("<slow-one@test>").post(stage.gate.as2_port).status)
    };
    thread::sleep(Duration::from_millis(700));
    stage.gate.set_clock(61);
    assert_eq!(waiting.join().unwrap(), 200);
    let log = stage.gate.log();
    let line = log.lines().find(|line| line.contains("took long")).expect("a line");
    assert!(
        line.contains("WARN") && line.contains("<slow-one@test>") && line.contains(CRAFT),
        "{line}"
    );
    assert_eq!(log.matches("took long").count(), 1);
}

#[test]
fn a_brake_holds_no_permit_for_cryptography() {
    let stage = Arc::new(Stage::new(&[]));
    let broken = Arc::new(payload().signed(&stage.partner).encrypted(&stage.stranger.path("cert.pem")));
    for n in 0..FREE {
        let _ = broken.message(&format!("<spent-{n}@test>")).post(stage.gate.as2_port);
    }
    // More waits at once than the gateway has permits on this machine.
    let permits = 2 * thread::available_parallelism().map_or(2, usize::from);
    let waiting: Vec<_> = (0..permits + 2)
        .map(|n| {
            let (stage, broken) = (Arc::clone(&stage), Arc::clone(&broken));
            thread::spawn(move || broken.message(&format!("<waits-{n}@test>")).post(stage.gate.as2_port).status)
        })
        .collect();
    thread::sleep(Duration::from_millis(600));
    let began = Instant::now();
    let good = payload().signed(&stage.partner).encrypted(&stage.ours).message("<between@test>");
    assert_eq!(good.post(stage.gate.as2_port).disposition(), PROCESSED);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(waiting.iter().any(|waits| !waits.is_finished()), "nobody was made to wait");
    assert!(waiting.into_iter().all(|waits| waits.join().unwrap() == 200));
}

#[test]
fn the_async_mdn_of_a_failure_waits_on_disk() {
    let stage = Stage::new(&[]);
    let port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let url = format!("http://127.0.0.1:{port}/mdn");
    stage.add("LATE", port, &["--mdn-urls", &url]);
    let broken = payload().signed(&stage.partner).encrypted(&stage.stranger.path("cert.pem"));
    let with = |id: &str| broken.message(id).with("AS2-From", "LATE");
    wait_for("the new partner", || {
        let answer = with("<first@test>").post(stage.gate.as2_port);
        answer.disposition().ends_with("decryption-failed").then_some(())
    });
    for n in 0..FREE {
        let _ = with(&format!("<sync-{n}@test>")).post(stage.gate.as2_port);
    }
    let began = Instant::now();
    let answer = with("<async@test>").with("Receipt-Delivery-Option", &url).post(stage.gate.as2_port);
    assert!(answer.status == 204 && began.elapsed() < Duration::from_millis(900));
    let mut stream = listener.accept().unwrap().0;
    let hit = read_request(&mut stream).unwrap();
    stream.write_all(&http(200, &[], "")).unwrap();
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(String::from_utf8_lossy(&hit.message.body).contains("decryption-failed"));
}
