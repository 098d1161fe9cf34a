#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::clock::ManualClock;
use crate::journal::{Accepted, Claim, NewUpload};
use crate::manage::tests::{Place, accept, message, place, place_with, plain_pair, set_bob, station};
use crate::message::{Direction, Message, State};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: i64 = 3_600_000;

/// Lets the time pass, and works on all that is due then; how many jobs that were.
async fn round(core: &Arc<Core>, clock: &ManualClock, later: Duration) -> usize {
    clock.advance(later);
    let kinds = vec![Room::for_all(JobKind::Send, 64), Room::for_all(JobKind::Receive, 64)];
    let jobs = claim(core, kinds).await.unwrap();
    let found = jobs.len();
    for job in jobs {
        hold(Arc::clone(core), job, None, Arc::new(Notify::new())).await;
    }
    found
}

/// A message that was answered with a 2xx, and whose check was left to the worker.
async fn receive(core: &Core, body: Option<&[u8]>) -> Message {
    let now = core.clock.now();
    let mut message = message(Direction::In, State::Received, "j:1", now);
    message.message_id = "<1@bob>".to_owned();
    message
        .detail
        .set_head(b"AS2-From: BOB\r\nAS2-To: ALICE\r\nMessage-ID: <1@bob>\r\nContent-Type: text/plain\r\n");
    let claim = Claim {
        message: message.clone(),
        inline: body.map(|bytes| ("j:1".to_owned(), bytes.to_vec().into())),
        owner: "a process that died".to_owned(),
    };
    core.journal.write(move |tx| tx.receive(claim, now)).await.unwrap();
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_order_counts_a_held_message_holds_up_the_next_ones() {
    let Place { core, dir: _dir, .. } = place().await;
    plain_pair(&core).await;
    set_bob(&core, &[("in_order", "true")]).await;
    let now = core.clock.now();
    let [order, change] = ["j:1", "j:2"].map(|key| message(Direction::Out, State::Queued, key, now));
    for (message, bytes) in [(&order, b"one"), (&change, b"two")] {
        accept(&core, message, bytes).await;
    }
    let claimed = || async { claim(&core, vec![Room::for_all(JobKind::Send, 9)]).await.unwrap() };
    let job = claimed().await.remove(0);
    assert_eq!(job.message, order.id.as_str());
    crate::outbox::settle(&core, crate::outbox::held(order.clone(), "nobody knows", now), now)
        .await
        .unwrap();
    assert!(claimed().await.is_empty());
    let id = order.id.clone();
    core.journal.write(move |tx| tx.retry_now(id.as_str(), None, now)).await.unwrap();
    assert_eq!(claimed().await[0].message, order.id.as_str());
    // Cancelled, it holds up nothing.
    let held = crate::outbox::held(
        core.journal.read(|tx| tx.expect_message(order.id.as_str())).unwrap(),
        "nobody knows",
        now,
    );
    crate::outbox::settle(&core, held, now).await.unwrap();
    let held = core.journal.read(|tx| tx.expect_message(order.id.as_str())).unwrap();
    crate::manage::messages::cancel(&core, &held, false).await.unwrap();
    assert_eq!(claimed().await[0].message, change.id.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_message_waits_for_no_slot_of_a_large_one() {
    let Place { core, dir: _dir, .. } = place().await;
    plain_pair(&core).await;
    let left = |n: u64, raw_size| {
        let core = Arc::clone(&core);
        async move {
            let now = core.clock.now();
            let mut message = message(Direction::In, State::Received, "j:1", now);
            message.message_id = format!("<{n}@bob>");
            message.detail.raw_size = raw_size;
            let claim = Claim {
                message: message.clone(),
                inline: None,
                owner: "a process that died".to_owned(),
            };
            core.journal.write(move |tx| tx.receive(claim, now)).await.unwrap();
            message
        }
    };
    let slots = Slots::new(&core);
    let mut taken = Vec::new();
    let mut claimed = async || {
        let jobs = claim(&core, slots.free()).await.unwrap();
        for job in &jobs {
            taken.push(slots.take(job.kind).await.unwrap());
        }
        jobs
    };
    for (round, raw_size) in (0..).zip([1 << 30, 10 << 20]) {
        for n in 0..20 {
            left(100 * round + n, raw_size).await;
        }
        assert_eq!(claimed().await.len(), CHECK_SLOTS);
        assert_eq!(claimed().await.len(), 0);
    }
    let small = left(1_000, 10 << 10).await;
    let [job] = &claimed().await[..] else { panic!("it waits") };
    assert_eq!(job.message, small.id.as_str());
    // None is taken for one without a job.
    assert!(core.journal.write(|tx| tx.adopt_jobless(1)).await.unwrap().is_empty());
    let before = core.journal.read(|tx| tx.queue()).unwrap().0;
    assert_eq!(before, 41);
}

fn found(core: &Core, message: &Message) -> Message {
    core.journal.read(|tx| tx.expect_message(message.id.as_str())).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_rejects_nothing_that_was_promised() {
    let Place { core, clock, dir: _dir } = place_with(|config| config.storage.min_free = u64::MAX).await;
    plain_pair(&core).await;
    let message = receive(&core, Some(b"abc")).await;
    for _ in 0..30 {
        assert_eq!(round(&core, &clock, MINUTE).await, 1);
    }
    assert_eq!(found(&core, &message).state, State::Received);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_lacks_something_for_a_while_rejects_nothing_that_was_promised() {
    let Place { core, clock, dir: _dir } = place_with(|config| config.storage.min_free = 0).await;
    plain_pair(&core).await;
    let message = receive(&core, Some(b"abc")).await;
    station(&core, "CAROL").await;
    set_bob(&core, &[("stations", "CAROL")]).await;
    for _ in 0..30 {
        assert_eq!(round(&core, &clock, MINUTE).await, 1);
    }
    set_bob(&core, &[("stations", "ALICE")]).await;
    round(&core, &clock, MINUTE).await;
    let message = found(&core, &message);
    assert_eq!((message.state, message.code.as_str()), (State::Filed, ""), "{}", message.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_cannot_succeed_is_tried_as_often_as_is_said() {
    let Place { core, clock, dir: _dir } = place_with(|config| config.storage.min_free = 0).await;
    plain_pair(&core).await;
    let message = receive(&core, None).await;
    for n in 0..20 {
        assert_eq!(found(&core, &message).state, State::Received, "after {n} checks");
        assert_eq!(round(&core, &clock, MINUTE).await, 1);
    }
    round(&core, &clock, MINUTE).await;
    let message = found(&core, &message);
    assert_eq!(
        (message.state, message.code.as_str()),
        (State::Rejected, "unexpected-processing-error")
    );
    // What is listed can be published, or the publisher would fail at it for ever.
    tokio::task::block_in_place(|| core.storage.publish_listed()).unwrap();
    let left = core.journal.read(|tx| tx.unpublished(9, 9, &|_| false)).unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_settings_says_so_once() {
    let Place { core, clock, dir: _dir } = place().await;
    plain_pair(&core).await;
    set_bob(&core, &[("blocked", "out")]).await;
    let message = message(Direction::Out, State::Queued, "j:1", core.clock.now());
    accept(&core, &message, b"abc").await;
    let mut rounds = 0;
    for _ in 0..120 {
        rounds += round(&core, &clock, Duration::from_secs(30)).await;
    }
    let told = core.journal.read(|tx| tx.events(0, None, None, 1_000)).unwrap();
    assert_eq!(told.iter().filter(|event| event.kind == "message.waiting").count(), 1);
    assert!((5..10).contains(&rounds), "{rounds} looks in an hour");
    let mut rounds = 0;
    for _ in 0..10 * 24 {
        rounds += round(&core, &clock, 60 * MINUTE).await;
    }
    assert!((10..16).contains(&rounds), "{rounds} looks in ten days");
    let waiting = found(&core, &message);
    assert_eq!((waiting.state, waiting.code.as_str()), (State::Queued, "partner-blocked"));
    assert!(waiting.next_try.unwrap() > core.clock.now(), "what is shown is true");
    set_bob(&core, &[("max_parallel", "2")]).await;
    outbox::look_again(&core).await.unwrap();
    assert_eq!(round(&core, &clock, Duration::ZERO).await, 0, "it is blocked still");
    set_bob(&core, &[("blocked", "none")]).await;
    outbox::look_again(&core).await.unwrap();
    assert_eq!(round(&core, &clock, Duration::ZERO).await, 1);
    assert_eq!(found(&core, &message).attempts, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_waits_for_no_settings() {
    let Place { core, clock, dir: _dir } = place().await;
    plain_pair(&core).await;
    set_bob(&core, &[("blocked", "out")]).await;
    let mut test = message(Direction::Out, State::Queued, "j:1", core.clock.now());
    test.mark_as_test();
    accept(&core, &test, b"abc").await;
    assert_eq!(round(&core, &clock, Duration::ZERO).await, 1);
    let ended = found(&core, &test);
    assert_eq!((ended.state, ended.code.as_str()), (State::Failed, "partner-blocked"));
    assert_eq!(ended.detail.hint, "as2gate partner unblock BOB");
    set_bob(&core, &[("blocked", "none")]).await;
    outbox::look_again(&core).await.unwrap();
    assert_eq!(round(&core, &clock, MINUTE).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_makes_no_wait_longer() {
    let Place { core, clock, dir: _dir } = place().await;
    plain_pair(&core).await;
    clock.advance(60 * MINUTE);
    assert_eq!(core.clock.step(), None);
    set_bob(&core, &[("blocked", "out")]).await;
    accept(&core, &message(Direction::Out, State::Queued, "j:1", core.clock.now()), b"abc").await;
    assert_eq!(round(&core, &clock, Duration::ZERO).await, 1);
    assert_eq!(round(&core, &clock, MINUTE / 4).await, 0, "it waits for half a minute");
    clock.step_by(-HOUR);
    assert!(follow_clock(&core, core.clock.step().unwrap()).await);
    assert_eq!(round(&core, &clock, Duration::ZERO).await, 0);
    assert_eq!(round(&core, &clock, MINUTE).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_ahead_ends_no_wait_and_no_window() {
    let Place { core, clock, dir: _dir } = place().await;
    plain_pair(&core).await;
    set_bob(&core, &[("blocked", "out")]).await;
    let first = message(Direction::Out, State::Queued, "j:1", core.clock.now());
    accept_as(&core, &first, "first.edi").await;
    assert_eq!(round(&core, &clock, Duration::ZERO).await, 1);
    clock.advance(MINUTE / 4);
    clock.step_by(HOUR / 15);
    assert_eq!(core.clock.step(), None, "so much is no matter");
    clock.step_by(25 * HOUR);
    // A command that goes by the machine's clock already.
    let since = message(Direction::Out, State::Queued, "j:3", core.clock.now() + 25 * HOUR);
    assert!(accept_as(&core, &since, "since.edi").await);
    let shown = found(&core, &first).next_try.unwrap();
    assert!(follow_clock(&core, core.clock.step().unwrap()).await);
    assert_eq!((core.clock.step(), found(&core, &first).next_try), (None, Some(shown + 25 * HOUR)));
    assert_eq!(round(&core, &clock, Duration::ZERO).await, 1, "what was sent since");
    assert_eq!(round(&core, &clock, Duration::ZERO).await, 0, "it waits for half a minute");
    assert_eq!(round(&core, &clock, MINUTE).await, 2);
    // The name is free six hours after its file came.
    let again = || message(Direction::Out, State::Queued, "j:2", core.clock.now());
    clock.advance(358 * MINUTE);
    assert!(!accept_as(&core, &again(), "first.edi").await);
    clock.advance(MINUTE);
    assert!(accept_as(&core, &again(), "first.edi").await);
    // What is given up after a day is given up after a day.
    assert_eq!(core.jumps.passed(first.created, core.clock.now()) / 60_000, 360);
    // That of the command too.
    assert!(accept_as(&core, &again(), "since.edi").await);
    let told = core.journal.read(|tx| tx.events(0, None, Some("clock."), 9)).unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].facts["seconds"], 25 * 3600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_right_while_nobody_served_makes_no_wait_longer() {
    let Place { core, clock, dir: _dir } = place().await;
    plain_pair(&core).await;
    check_clock(&core).await;
    // A name of the time before the clock went wrong keeps its window.
    let before = message(Direction::Out, State::Queued, "j:0", core.clock.now());
    accept_as(&core, &before, "before.edi").await;
    clock.advance(24 * 60 * MINUTE);
    // What a running server does every minute, and when it stops.
    note_clock(&core, core.clock.now()).await;
    let ahead = message(Direction::Out, State::Queued, "j:1", core.clock.now());
    accept_as(&core, &ahead, "ahead.edi").await;
    clock.set_back(24 * 60 * MINUTE);
    let due = || async { claim(&core, vec![Room::for_all(JobKind::Send, 64)]).await.unwrap().len() };
    assert_eq!(due().await, 1, "only the one of before is due");
    check_clock(&core).await;
    assert_eq!(due().await, 1);
    // Both names are free six hours after their files came, and not earlier.
    let free = |name: &'static str| {
        let core = Arc::clone(&core);
        async move {
            let again = message(Direction::Out, State::Queued, "j:2", core.clock.now());
            accept_as(&core, &again, name).await
        }
    };
    clock.advance(359 * MINUTE);
    assert_eq!([free("before.edi").await, free("ahead.edi").await], [false, false]);
    clock.advance(MINUTE);
    assert_eq!([free("before.edi").await, free("ahead.edi").await], [true, true]);
    // What was seen once is not seen again.
    let jobs = core.journal.read(|tx| tx.queue()).unwrap();
    check_clock(&core).await;
    assert_eq!(core.journal.read(|tx| tx.queue()).unwrap(), jobs);
}

/// Accepts it under a name, with the window of one; whether it was the first.
async fn accept_as(core: &Core, message: &Message, name: &str) -> bool {
    let mut message = message.clone();
    name.clone_into(&mut message.file);
    let now = message.created;
    let upload = NewUpload {
        message,
        window: Some(360 * MINUTE),
        due: now,
        inline: None,
        replaces: None,
    };
    let accepted = core.journal.write(move |tx| tx.accept_upload(upload, now)).await.unwrap();
    accepted == Accepted::Queued
}
