//! What is in work keeps its station, its partner and its key, at every door.

use super::*;
use crate::intake::{self, Arrived, Sign};
use crate::journal::{Claim, Filing, JobKind, JournalError, UploadRow, UploadState, WaitReason};
use crate::storage::Staged;

/// A received message with its body, as its claim.
fn claim(key: &str, state: State) -> Claim {
    let mut message = message(Direction::In, state, key, START);
    message.message_id = format!("<{key}@bob>");
    message.detail.mdn_url = "http://192.0.2.1/as2".to_owned();
    message.detail.set_head(
        b"AS2-From: BOB\r\nAS2-To: ALICE\r\nContent-Type: text/plain\r\nDisposition-Notification-To: bob\r\n\
          Receipt-Delivery-Option: http://192.0.2.1/as2\r\n",
    );
    Claim {
        message,
        inline: Some((key.to_owned(), b"abc".as_slice().into())),
        owner: "a process that died".to_owned(),
    }
}

/// Has the journal take a message in this state, whichever way it goes.
async fn take(core: &Core, state: State, key: &str) -> Message {
    if state.is_in_work() {
        let mut sent = message(Direction::Out, state, key, START);
        if state != State::Queued {
            (sent.attempts, sent.message_id) = (1, format!("<{key}@alice>"));
        }
        accept(core, &sent, b"abc").await;
        return sent;
    }
    let mut claim = claim(key, state);
    let message = claim.message.clone();
    let took = core.journal.write(move |tx| {
        if state == State::Received {
            return tx.receive(claim, START);
        }
        claim.message.finished = Some(START);
        let mut filing = Filing {
            message: claim.message.clone(),
            entries: Vec::new(),
            blobs: Vec::new(),
            mdn: Some(("A: b\r\n".to_owned(), b"mdn".to_vec())),
            post_mdn_at: Some(START),
        };
        tx.receive_and_file(&claim, &mut filing, START)
    });
    took.await.unwrap();
    message
}

fn now(core: &Core, message: &Message) -> Message {
    core.journal.read(|tx| tx.expect_message(message.id.as_str())).unwrap()
}

/// What each door says that would take ALICE or BOB away.
async fn doors(place: &Place, dry_run: bool) -> Vec<Result<()>> {
    let core = &place.core;
    let less = place.dir.path().join("less.toml");
    std::fs::write(&less, "[[account]]\nid = \"acme\"\n").unwrap();
    vec![
        partners::remove(core, None, "BOB", dry_run).await,
        partners::set(core, None, "BOB", &pairs(&[("as2_id", "ROB")]), dry_run)
            .await
            .map(drop),
        stations::remove(core, None, "ALICE", dry_run).await,
        stations::set(core, None, "ALICE", &pairs(&[("as2_id", "CAROL")]), dry_run)
            .await
            .map(drop),
        apply::apply(core, None, &[less], true, dry_run).await.map(drop),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_door_waits_for_what_is_in_work_and_names_what_ends_it() {
    let place = place().await;
    let core = &place.core;
    plain_pair(core).await;
    let states = [
        State::Queued,
        State::Retrying,
        State::WaitingMdn,
        State::Held,
        State::Received,
        State::Filed,
    ];
    for (state, n) in states.into_iter().zip(1..) {
        let message = take(core, state, &format!("j:{n}")).await;
        for dry_run in [true, false] {
            for door in doors(&place, dry_run).await {
                let refusal = door.unwrap_err();
                assert_eq!(
                    (refusal.code, refusal.why.as_str()),
                    ("in-use", "1 of its messages is in work"),
                    "{state}"
                );
                let cancel = format!("as2gate message cancel {}", message.id.short());
                assert!(refusal.hint.ends_with(&cancel), "{state}: {refusal:?}");
            }
        }
        // As the hint says; that of a received message may leave the MDN that tells its partner.
        messages::cancel(core, &message, true).await.unwrap();
        let ended = messages::cancel(core, &message, false).await.unwrap();
        assert_eq!(ended, now(core, &message));
        assert!(ended.state.is_final(), "{state}");
        if state == State::Received {
            assert_eq!((ended.state, ended.reason.as_str()), (State::Rejected, "cancelled by an operator"));
            messages::cancel(core, &ended, false).await.unwrap();
        }
        if message.direction == Direction::In {
            let given_up = now(core, &message);
            assert_eq!(given_up.undelivered_mdn(), Some("MDN not delivered: cancelled by an operator"));
            let again = messages::cancel(core, &given_up, false).await.unwrap_err();
            assert_eq!(again.code, "received");
        }
        for door in doors(&place, true).await {
            door.unwrap();
        }
    }
    let removed = doors(&place, false).await.remove(0);
    removed.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_file_that_is_written_again_keeps_its_pair() {
    let place = place().await;
    let core = &place.core;
    plain_pair(core).await;
    let row = |reason, state| UploadRow {
        account: "acme".to_owned(),
        station: "ALICE".to_owned(),
        partner: "BOB".to_owned(),
        name: "order.edi".to_owned(),
        owner: "ann".to_owned(),
        state,
        reason,
        store: "j:1".to_owned(),
        size: 3,
        sha256: String::new(),
        created: START,
        updated: START,
    };
    for reason in [WaitReason::TakenBack, WaitReason::GoneOnWith] {
        let waits = row(reason, UploadState::Parked);
        core.journal.write(move |tx| tx.put_upload(&waits)).await.unwrap();
        for dry_run in [true, false] {
            for door in doors(&place, dry_run).await {
                let refusal = door.unwrap_err();
                assert_eq!(refusal.code, "in-use", "{reason}");
                assert!(refusal.why.contains("order.edi of ann waits in send"), "{refusal:?}");
                let cure = "as2gate upload rm AS2/send/ALICE/BOB/order.edi";
                assert!(refusal.hint.ends_with(cure), "{refusal:?}");
            }
        }
    }
    // What was never accepted is no reason.
    for (reason, state) in [
        (WaitReason::TemporaryName, UploadState::Parked),
        (WaitReason::BrokenOff, UploadState::Part),
        (WaitReason::Empty, UploadState::Ignored),
    ] {
        let (waits, former) = (row(reason, state), row(WaitReason::GoneOnWith, UploadState::Parked));
        let put = core.journal.write(move |tx| {
            tx.remove_upload(&former)?;
            tx.put_upload(&waits)
        });
        put.await.unwrap();
        for door in doors(&place, true).await {
            door.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_during_a_removal_is_counted_or_refused() {
    let Place { core, dir: _dir, .. } = place().await;
    plain_pair(&core).await;
    let before = objects(&core).unwrap();
    let changes = [Change::Remove(ObjectKind::Partner, "acme".to_owned(), "BOB".to_owned())];
    let leaving = in_work::leaving(&before, &with_changes(&before, &changes), &changes);
    // The plan is made, and nothing is in work.
    let slipped_in = take(&core, State::Queued, "j:1").await;
    let refused = write(&core, &before, &changes, leaving, None).await.unwrap_err();
    assert_eq!(refused.code, "in-use");
    messages::cancel(&core, &slipped_in, false).await.unwrap();
    partners::remove(&core, None, "BOB", false).await.unwrap();

    // The server's flows go by the objects of before for a moment, and an upload may have been open for hours.
    assert!(core.partnership("ALICE", "BOB").is_ok());
    let claim = claim("j:2", State::Received);
    let received = core.journal.write(move |tx| tx.receive(claim, START)).await;
    assert!(matches!(received, Err(JournalError::Conflict(_))), "{received:?}");
    let arrived = Arrived {
        account: "acme".to_owned(),
        station: "ALICE".to_owned(),
        partner: "BOB".to_owned(),
        owner: "erp".to_owned(),
        name: "late.edi".to_owned(),
        staged: Staged::in_memory("j:3".to_owned(), b"abc".to_vec()),
        sha256: String::new(),
        replaces: None,
        subject: String::new(),
        content_type: String::new(),
    };
    let landed = tokio::task::block_in_place(|| intake::land(&core, arrived, Sign::Plain));
    assert!(matches!(landed, Err(JournalError::Conflict(_))), "{landed:?}");
    plain_bob(&core).await;
    let left = core.journal.read(|tx| tx.in_work("acme", None, None)).unwrap();
    assert_eq!(left.count, 0, "the next BOB gets nothing of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stays_until_what_was_received_is_checked() {
    let Place { core, dir: _dir, .. } = place().await;
    plain_pair(&core).await;
    let alice = objects(&core).unwrap().stations["ALICE"].clone();
    let pair = stations::make_pair(&core, KeySpec::EcP256, &alice).unwrap();
    let old = certificates::with_key(&core, ("acme", "alice-old"), crate::certificate::Purpose::Station, "ALICE", &pair).unwrap();
    edit(&core, false, |_| Ok((vec![old.clone().into()], ()))).await.unwrap();
    let sent = take(&core, State::Queued, "j:1").await;
    certificates::remove(&core, None, "alice-old", true).await.unwrap();
    messages::cancel(&core, &sent, false).await.unwrap();
    let received = take(&core, State::Received, "j:2").await;
    for dry_run in [true, false] {
        let refused = certificates::remove(&core, None, "alice-old", dry_run).await.unwrap_err();
        assert_eq!(refused.what, "cannot take key pair alice-old from station ALICE");
        assert!(refused.hint.ends_with(received.id.short()), "{refused:?}");
    }
    messages::cancel(&core, &received, false).await.unwrap();
    certificates::remove(&core, None, "alice-old", false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_waits_for_what_nothing_of_it_has_any_more() {
    let Place { core, dir: _dir, .. } = place().await;
    plain_pair(&core).await;
    let all = [
        take(&core, State::Held, "j:1").await,
        take(&core, State::Received, "j:2").await,
        // A try broke off, and nobody is at it.
        take(&core, State::Sending, "j:3").await,
    ];
    // A program of before let them go.
    let gone = core.journal.write(|tx| {
        for (kind, name) in [
            (ObjectKind::Partner, "BOB"),
            (ObjectKind::Station, "ALICE"),
            (ObjectKind::Certificate, "alice-2026"),
        ] {
            tx.remove_object(kind, "acme", name)?;
        }
        Ok(())
    });
    gone.await.unwrap();
    core.refresh_objects().unwrap();
    let refused = accounts::remove(&core, "acme", false).await.unwrap_err();
    assert_eq!(
        (refused.what.as_str(), refused.why.as_str()),
        ("cannot remove account acme", "3 of its messages are in work")
    );
    for message in &all {
        let ended = messages::cancel(&core, message, false).await.unwrap();
        assert!(
            !core.journal.read(|tx| tx.has_job(JobKind::Mdn, ended.id.as_str())).unwrap(),
            "nobody can make it"
        );
    }
    accounts::remove(&core, "acme", false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_of_many_are_named_and_the_others_can_be_listed() {
    let Place { core, dir: _dir, .. } = place().await;
    plain_pair(&core).await;
    for n in 1..8 {
        take(&core, State::Queued, &format!("j:{n}")).await;
    }
    let refused = partners::remove(&core, None, "BOB", false).await.unwrap_err();
    assert_eq!(refused.why, "7 of its messages are in work");
    assert!(
        refused.hint.ends_with("; as2gate message list --partner BOB shows the others"),
        "{refused:?}"
    );
    let ids = refused.hint.split("cancel ").nth(1).unwrap().split(';').next().unwrap();
    assert_eq!(ids.split(' ').count(), 5);
}
