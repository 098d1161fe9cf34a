//! Message after message that does not decrypt: each answer takes longer, and nobody else waits (security.md §6).

use std::time::Instant;

use super::*;

/// Less than the shortest wait.
const QUICK: Duration = Duration::from_millis(900);
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
        let told = stage.gate.log().contains("many messages do not decrypt");
        assert_eq!(told, n >= FREE, "after {n} others");
        waits.push(took);
    }
    let (free, braked) = waits.split_at(usize::try_from(FREE).unwrap());
    // A brake would slow each of them, a busy machine only some.
    assert!(free.iter().any(|wait| *wait < QUICK), "{waits:?}");
    assert!(
        braked[0] >= Duration::from_secs(1) && braked[1] >= Duration::from_secs(2),
        "{waits:?}"
    );

    let good = payload().signed(&stage.partner).encrypted(&stage.ours);
    let quick = (0..FREE).any(|n| {
        let (said, took) = timed(&good.message(&format!("<good-{n}@test>")));
        assert_eq!(said, PROCESSED);
        took < QUICK
    });
    assert!(quick, "good messages wait");
    let log = stage.gate.log();
    assert_eq!(log.matches("many messages do not decrypt").count(), 1, "{log}");
}

#[test]
fn an_answer_that_took_more_than_a_minute_is_told() {
    let stage = Stage::new(&[]);
    let broken = payload().signed(&stage.partner).encrypted(&stage.stranger.path("cert.pem"));
    for n in 0..FREE + 1 {
        let _ = broken.message(&format!("<before-{n}@test>")).post(stage.gate.as2_port);
    }
    assert!(!stage.gate.log().contains("took long"));
    // It waits two seconds, in which the clock goes on by more than a minute. Where this machine takes longer to deliver it than
    // until then, there is a next one, which waits longer.
    let told = (1..10).find_map(|n| {
        let (port, request) = (stage.gate.as2_port, broken.message(&format!("<slow-{n}@test>")));
        let waiting = thread::spawn(move || request.post(port).status);
        thread::sleep(Duration::from_millis(700));
        stage.gate.set_clock(61 * n);
        assert_eq!(waiting.join().unwrap(), 200);
        let log = stage.gate.log();
        let line = log.lines().find(|line| line.contains("took long"))?.to_owned();
        Some((line, format!("<slow-{n}@test>")))
    });
    let (line, id) = told.expect("a line");
    assert!(line.contains("WARN") && line.contains(&id) && line.contains(CRAFT), "{line}");
    assert_eq!(stage.gate.log().matches("took long").count(), 1);
}

#[test]
fn a_brake_holds_no_permit_for_cryptography() {
    // More of them wait than the gateway has permits on this machine: where they held them, a message behind them would wait for
    // more than so many of them, each of which takes a second longer than the one before.
    const MORE: usize = 8;
    let stage = Stage::new(&[]);
    let broken = payload().signed(&stage.partner).encrypted(&stage.stranger.path("cert.pem"));
    for n in 0..FREE {
        let _ = broken.message(&format!("<spent-{n}@test>")).post(stage.gate.as2_port);
    }
    let good = payload().signed(&stage.partner).encrypted(&stage.ours).message("<between@test>");
    let (port, permits) = (stage.gate.as2_port, 2 * thread::available_parallelism().map_or(2, usize::from));
    let waiting: Vec<_> = (0..permits + MORE)
        .map(|n| {
            let request = broken.message(&format!("<waits-{n}@test>"));
            thread::spawn(move || request.post(port).status)
        })
        .collect();
    thread::sleep(Duration::from_millis(600));
    assert_eq!(good.post(port).disposition(), PROCESSED);
    let ended = waiting.iter().filter(|waits| waits.is_finished()).count();
    assert!(ended < MORE, "it waited for {ended} others");
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
    for n in 0..=FREE {
        let _ = with(&format!("<sync-{n}@test>")).post(stage.gate.as2_port);
    }
    let request = with("<async@test>").with("Receipt-Delivery-Option", &url);
    let wait = Duration::from_secs(3);
    let began = Instant::now();
    let answer = request.post(stage.gate.as2_port);
    assert!(answer.status == 204 && began.elapsed() < wait, "{:?}", began.elapsed());
    let mut stream = accepted(&listener);
    let hit = read_request(&mut stream).unwrap();
    stream.write_all(&http(200, &[], "")).unwrap();
    assert!(began.elapsed() >= wait, "{:?}", began.elapsed());
    assert!(String::from_utf8_lossy(&hit.message.body).contains("decryption-failed"));
}
