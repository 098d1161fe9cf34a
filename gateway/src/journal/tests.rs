#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use rusqlite::params;

use super::*;
use crate::clock::Millis;
use crate::layout;
use crate::layout::Area;
use crate::message::{Detail, Direction, Message, State};
use crate::objects::Object;
use crate::partner::Partner;
use crate::station::Station;

const WINDOW: Duration = Duration::from_secs(21_600);

fn journal() -> (tempfile::TempDir, Arc<Journal>) {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&dir.path().join("as2gate.db")).unwrap();
    put_pair(&journal);
    (dir, Arc::new(journal))
}

/// Puts the station and the partner there that all messages are of.
fn put_pair(journal: &Journal) {
    let station = Station {
        as2_id: "ALICE".to_owned(),
        account: "acme".to_owned(),
        name: String::new(),
        email: String::new(),
        url: String::new(),
        certificate: String::new(),
        also_decrypt: Vec::new(),
    };
    let partner = Partner {
        account: "acme".to_owned(),
        as2_id: "BOB".to_owned(),
        ..Partner::default()
    };
    journal
        .write_blocking(move |tx| {
            tx.put_object(&Object::Station(station), 0)?;
            tx.put_object(&Object::Partner(Box::new(partner)), 0)
        })
        .unwrap();
}

fn upload(file: &str, now: i64) -> NewUpload {
    let message = Message {
        file: file.into(),
        size: 3,
        sha256: "aa".into(),
        content_type: "text/plain".into(),
        detail: Detail {
            payload: format!("k{now}{file}"),
            ..Detail::default()
        },
        ..Message::new(Direction::Out, State::Queued, ("acme", "ALICE", "BOB"), now)
    };
    NewUpload {
        message,
        window: Some(WINDOW),
        due: now,
        inline: None,
        replaces: None,
    }
}

fn accept(journal: &Journal, file: &str, now: i64) -> Accepted {
    let upload = upload(file, now);
    journal.write_blocking(move |tx| tx.accept_upload(upload, now)).unwrap()
}

#[test]
fn the_window_is_six_hours_to_the_millisecond() {
    let (_dir, journal) = journal();
    let six_hours = 21_600_000;
    assert_eq!(accept(&journal, "a.edi", 1_000), Accepted::Queued);
    assert!(matches!(accept(&journal, "a.edi", 1_000), Accepted::Duplicate { .. }));
    assert!(matches!(accept(&journal, "a.edi", 999 + six_hours), Accepted::Duplicate { .. }));
    assert_eq!(accept(&journal, "A.edi", 2_000), Accepted::Queued, "case counts");
    assert_eq!(accept(&journal, "a.edi", 1_000 + six_hours), Accepted::Queued);
}

#[test]
fn unicode_spellings_are_one_name() {
    let (_dir, journal) = journal();
    assert_eq!(accept(&journal, "u\u{308}.edi", 1), Accepted::Queued);
    assert!(matches!(accept(&journal, "ü.edi", 2), Accepted::Duplicate { .. }));
}

#[test]
fn racing_uploads_have_one_winner_and_keep_every_file() {
    let (_dir, journal) = journal();
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..16).map(|_| scope.spawn(|| accept(&journal, "a.edi", 5))).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Accepted::Queued).count(), 1);
    let listed = journal.read(|tx| tx.entries("acme", "AS2/duplicate/ALICE/BOB", "", 100)).unwrap();
    assert_eq!(listed.len(), 15, "each duplicate keeps a name of its own");
}

#[test]
fn a_few_rows_are_read_beside_a_change_and_without_what_it_has_not_committed() {
    let (_dir, journal) = journal();
    let look = |journal: &Journal| journal.read_few(|tx| tx.fact("seen")).unwrap();
    assert_eq!(look(&journal), None);
    let (written, has_written) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let change = scope.spawn(|| {
            journal.write_blocking(move |tx| {
                tx.set_fact("seen", "yes")?;
                written.send(()).unwrap();
                may_go_on.recv().unwrap();
                Ok(())
            })
        });
        has_written.recv().unwrap();
        assert_eq!(look(&journal), None, "not committed yet");
        go_on.send(()).unwrap();
        change.join().unwrap().unwrap();
    });
    assert_eq!(look(&journal), Some("yes".to_owned()));
}

/// Claims what may be sent.
fn claim(journal: &Journal, owner: &'static str, now: i64, in_order: bool) -> Vec<Job> {
    journal
        .write_blocking(move |tx| {
            let found = tx.due_jobs(&[Room::for_all(JobKind::Send, 10)], owner, now, &|_, _, _| Lane {
                width: 9,
                in_order,
            })?;
            tx.claim_jobs(found, owner, now)
        })
        .unwrap()
}

#[test]
fn a_withdrawn_upload_frees_its_name_and_is_never_claimed() {
    let (_dir, journal) = journal();
    let new = upload("a.edi", 10);
    let id = new.message.id.clone();
    journal.write_blocking(move |tx| tx.accept_upload(new, 10)).unwrap();
    let gone = journal
        .write_blocking(move |tx| tx.withdraw(id.as_str(), false, "cancelled", "test", 11))
        .unwrap();
    assert!(gone.is_some());
    assert_eq!(accept(&journal, "a.edi", 12), Accepted::Queued);
    assert_eq!(claim(&journal, "me", 100, false).len(), 1);
}

#[test]
fn a_job_found_before_it_was_withdrawn_claims_nobody_elses() {
    let (_dir, journal) = journal();
    let (first, second) = (upload("a.edi", 10), upload("b.edi", 10));
    let (id, wanted) = (first.message.id.clone(), second.message.id.clone());
    journal.write_blocking(move |tx| tx.accept_upload(first, 10)).unwrap();
    let everything = |_: &str, _: &str, _| Lane { width: 9, in_order: false };
    let due = || {
        journal
            .read(|tx| tx.due_jobs(&[Room::for_all(JobKind::Send, 10)], "me", 10, &everything))
            .unwrap()
    };
    let found = due();
    assert_eq!(found.len(), 1);
    // As a rename within the release delay does.
    let renamed = journal.write_blocking(move |tx| {
        tx.withdraw(id.as_str(), false, "cancelled", "test", 11)?;
        tx.accept_upload(second, 11)
    });
    assert_eq!(renamed.unwrap(), Accepted::Queued);
    let stale = journal.write_blocking(move |tx| tx.claim_jobs(found, "me", 12)).unwrap();
    assert!(stale.is_empty(), "{stale:?}");
    assert_eq!(due()[0].message, wanted.as_str());
}

#[test]
fn a_message_in_work_without_a_job_gets_one() {
    let (_dir, journal) = journal();
    let ids: Vec<_> = [
        ("a", State::Queued),
        ("b", State::Held),
        ("c", State::Failed),
        ("d", State::Received),
    ]
    .into_iter()
    .map(|(file, state)| {
        let mut new = upload(file, 10);
        new.message.state = state;
        new.message.finished = state.is_final().then_some(10);
        if state == State::Received {
            new.message.direction = Direction::In;
        }
        let id = new.message.id.as_str().to_owned();
        let gone = id.clone();
        journal
            .write_blocking(move |tx| {
                tx.accept_upload(new, 10)?;
                tx.finish_job(JobKind::Send, &gone)
            })
            .unwrap();
        id
    })
    .collect();
    accept(&journal, "e", 10);
    let adopted = journal.write_blocking(|tx| tx.adopt_jobless(20)).unwrap();
    assert_eq!(
        adopted,
        [ids[0].clone(), ids[3].clone()],
        "neither held, nor final, nor one that has its job"
    );
    assert!(journal.write_blocking(|tx| tx.adopt_jobless(30)).unwrap().is_empty());
    let kinds: Vec<_> = journal
        .read(|tx| {
            tx.due_jobs(
                &[Room::for_all(JobKind::Send, 9), Room::for_all(JobKind::Receive, 9)],
                "me",
                20,
                &|_, _, _| Lane { width: 9, in_order: false },
            )
        })
        .unwrap()
        .into_iter()
        .map(|job| (job.kind, job.message))
        .filter(|(_, message)| ids.contains(message))
        .collect();
    assert_eq!(kinds, [(JobKind::Send, ids[0].clone()), (JobKind::Receive, ids[3].clone())]);
}

#[test]
fn a_claimed_job_is_nobody_elses_until_its_process_is_gone() {
    let (_dir, journal) = journal();
    accept(&journal, "a.edi", 10);
    let claim = |owner: &'static str, now| claim(&journal, owner, now, false);
    let first = claim("boot-1", 10);
    assert_eq!(first.len(), 1);
    assert!(claim("boot-1", 11).is_empty());
    let second = claim("boot-2", 12);
    assert_eq!(second.len(), 1, "a lease of a dead process is void");
    let lease = first[0].lease;
    let late = journal.write_blocking(move |tx| tx.put_back_job(lease, 99));
    assert!(matches!(late, Err(JournalError::Conflict(_))), "the late holder is unmasked");
}

#[test]
fn a_failing_change_takes_nothing_along() {
    let (_dir, journal) = journal();
    let new = upload("a.edi", 10);
    let outcome = journal.write_blocking(move |tx| {
        tx.accept_upload(new, 10)?;
        Err::<(), _>(JournalError::Conflict("no".into()))
    });
    assert!(outcome.is_err());
    assert_eq!(accept(&journal, "a.edi", 11), Accepted::Queued);
}

#[test]
fn a_sure_change_that_fails_after_all_takes_its_group_along_and_no_other() {
    let (_dir, journal) = journal();
    let (hold, held) = mpsc::channel::<()>();
    let (entered, inside) = mpsc::channel();
    let first = journal.asked(
        move |tx| {
            entered.send(()).unwrap();
            // The others queue up behind it, into the same group.
            held.recv().unwrap();
            tx.set_fact("first", "1")
        },
        Failing::Alone,
    );
    inside.recv().unwrap();
    let failing = |failing| {
        journal.asked(
            |tx| tx.set_fact("bad", "1").and(Err::<(), _>(JournalError::Conflict("no".into()))),
            failing,
        )
    };
    let refused = failing(Failing::Alone);
    let second = journal.asked(|tx| tx.set_fact("second", "1"), Failing::Unwritten);
    let broken = failing(Failing::Unwritten);
    let later = journal.asked(|tx| tx.set_fact("later", "1"), Failing::Alone);
    hold.send(()).unwrap();
    let ended = [first, refused, second, broken, later].map(|sent| sent.unwrap().blocking_recv().unwrap().is_ok());
    assert_eq!(ended, [false, false, false, false, true]);
    let kept = |key: &str| journal.read(|tx| tx.fact(key)).unwrap().is_some();
    assert_eq!(["first", "bad", "second", "later"].map(kept), [false, false, false, true]);
}

#[test]
fn who_does_not_wait_is_told_when_it_is_durable() {
    let (dir, journal) = journal();
    let (told, outcomes) = mpsc::channel();
    let write = |name: &'static str, here: bool, refuse: bool, panics: bool| {
        let (told, path) = (told.clone(), dir.path().join("as2gate.db"));
        let change = move |tx: &Tx<'_>| {
            if refuse {
                return Err(JournalError::Conflict("no".into()));
            }
            tx.set_fact(name, "1")
        };
        let then = move |outcome: Result<()>| {
            // Another connection sees what is committed only.
            let db = Connection::open(path).unwrap();
            let kept: i64 = db
                .query_row("SELECT count(*) FROM fact WHERE key = ?1", [name], |row| row.get(0))
                .unwrap();
            told.send((name, outcome.is_ok(), kept)).unwrap();
            assert!(!panics);
        };
        if here {
            journal.write_here(change, then);
        } else {
            journal.write_then(change, then);
        }
        outcomes.recv().unwrap()
    };
    for (here, names) in [
        (false, ["good", "bad", "panics", "after"]),
        (true, ["good2", "bad2", "panics2", "after2"]),
    ] {
        assert_eq!(write(names[0], here, false, false), (names[0], true, 1));
        assert_eq!(write(names[1], here, true, false), (names[1], false, 0));
        assert_eq!(write(names[2], here, false, true), (names[2], true, 1));
        assert_eq!(write(names[3], here, false, false), (names[3], true, 1));
    }
}

#[test]
fn a_change_waits_for_the_writer_only_if_that_is_busy() {
    let (_dir, journal) = journal();
    let (hold, held) = mpsc::channel::<()>();
    let (entered, inside) = mpsc::channel();
    let (told, outcomes) = mpsc::channel();
    let here = |name: &'static str| {
        let told = told.clone();
        journal.write_here(
            move |tx| tx.set_fact(name, "1"),
            move |outcome| told.send((outcome.is_ok(), std::thread::current().id())).unwrap(),
        );
    };
    here("alone");
    assert_eq!(
        outcomes.try_recv().unwrap(),
        (true, std::thread::current().id()),
        "it was done at once, and here"
    );
    let busy = journal.asked(
        move |tx| {
            entered.send(()).unwrap();
            held.recv().unwrap();
            tx.set_fact("busy", "1")
        },
        Failing::Alone,
    );
    inside.recv().unwrap();
    here("behind");
    assert!(outcomes.try_recv().is_err(), "the writer has it");
    hold.send(()).unwrap();
    let (is_good, thread) = outcomes.recv().unwrap();
    assert!(is_good && thread != std::thread::current().id());
    busy.unwrap().blocking_recv().unwrap().unwrap();

    // A change that panics leaves nothing behind, and nobody writes any more.
    let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        journal.write_here(
            |tx| tx.set_fact("broken", "1").map(|()| panic!("a fault of ours")),
            |_: Result<()>| (),
        );
    }));
    assert!(broken.is_err());
    assert!(journal.has_stopped() && !journal.is_writable());
    assert!(journal.read(|tx| tx.fact("broken")).unwrap().is_none());
    assert!(matches!(
        journal.write_blocking(|tx| tx.set_fact("later", "1")),
        Err(JournalError::Closed)
    ));
}

#[test]
fn a_journal_that_cannot_be_written_says_so_until_it_can() {
    let (_dir, journal) = journal();
    journal.write_blocking(|tx| tx.set_fact("a", "1")).unwrap();
    assert!(journal.is_writable());
    let db = journal.writer.lock().unwrap();
    db.execute_batch("PRAGMA query_only=ON").unwrap();
    drop(db);
    journal.write_blocking(|tx| tx.set_fact("a", "2")).unwrap_err();
    assert!(!journal.is_writable());
    journal.writer.lock().unwrap().execute_batch("PRAGMA query_only=OFF").unwrap();
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while !journal.is_writable() {
        assert!(std::time::Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!journal.has_stopped());
}

#[test]
fn small_contents_that_nobody_names_are_found() {
    let (_dir, journal) = journal();
    let entry = NewEntry::file(Area::RawMdn, "AS2/raw-mdn/outgoing".into(), "a.mdn", "j:named", 3);
    journal
        .write_blocking(move |tx| {
            tx.put_blob("j:named", &bytes::Bytes::from_static(b"abc"))?;
            tx.put_blob("j:left", &bytes::Bytes::from_static(b"abc"))?;
            tx.add_entries("acme", "m", &[entry], 5)
        })
        .unwrap();
    assert_eq!(journal.read(|tx| tx.unnamed_blobs()).unwrap(), ["j:left"]);
}

#[test]
fn a_sure_change_that_refuses_before_it_writes_fails_alone() {
    let (_dir, journal) = journal();
    let (hold, held) = mpsc::channel::<()>();
    let first = journal.asked(
        move |tx| {
            held.recv().unwrap();
            tx.set_fact("first", "1")
        },
        Failing::Unwritten,
    );
    let refused = journal.asked(|tx| tx.renew_job(Lease { job: 7, fence: 1 }, 5), Failing::Unwritten);
    let second = journal.asked(|tx| tx.set_fact("second", "1"), Failing::Unwritten);
    hold.send(()).unwrap();
    let ended = [first, refused, second].map(|sent| sent.unwrap().blocking_recv().unwrap().is_ok());
    assert_eq!(ended, [true, false, true]);
    let kept = |key: &str| journal.read(|tx| tx.fact(key)).unwrap().is_some();
    assert_eq!(["first", "second"].map(kept), [true, true]);
}

#[test]
fn the_event_chain_shows_a_rewritten_row() {
    let (dir, journal) = journal();
    accept(&journal, "a.edi", 10);
    accept(&journal, "b.edi", 10);
    let mut hashes = Vec::new();
    let chain = journal
        .read(|tx| tx.verify_events(|hash| hashes.push(hash.to_vec())))
        .unwrap()
        .unwrap();
    let last = journal.read(|tx| tx.last_hash()).unwrap();
    assert_eq!((chain.events, &chain.head, hashes.len(), hashes.last()), (2, &last, 2, Some(&last)));
    let db = Connection::open(dir.path().join("as2gate.db")).unwrap();
    db.execute("UPDATE event SET subject = 'x' WHERE seq = 1", []).unwrap();
    assert_eq!(journal.read(|tx| tx.verify_events(|_| ())).unwrap(), Err(1));
}

#[test]
fn an_ordered_lane_waits_for_its_oldest() {
    let (_dir, journal) = journal();
    for (at, file) in [(0, "a"), (1, "b")] {
        accept(&journal, file, at);
    }
    let claim = |now| claim(&journal, "me", now, true);
    let first = claim(10);
    assert_eq!(first.len(), 1);
    let lease = first[0].lease;
    journal.write_blocking(move |tx| tx.put_back_job(lease, 1_000)).unwrap();
    assert!(
        claim(20).is_empty(),
        "the older one waits for its next try, so the younger one waits too"
    );
    assert_eq!(claim(1_000).first().map(|job| job.lease.job), Some(lease.job));
}

#[test]
fn a_part_stands_beside_what_it_is_to_replace_and_goes_with_it() {
    let (_dir, journal) = journal();
    let row = |state, store: &str| UploadRow {
        account: "acme".into(),
        station: "ALICE".into(),
        partner: "BOB".into(),
        name: "a.edi".into(),
        owner: "erp".into(),
        state,
        reason: WaitReason::TemporaryName,
        store: store.into(),
        size: 1,
        sha256: String::new(),
        created: 1,
        updated: 1,
    };
    let put = |state, store: &str| {
        let row = row(state, store);
        journal.write_blocking(move |tx| tx.put_upload(&row)).unwrap()
    };
    let stores = || {
        let rows = journal.read(|tx| tx.own_uploads("acme", "ALICE", "BOB", "a.edi", "erp")).unwrap();
        rows.into_iter().map(|row| row.store).collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    assert_eq!(put(UploadState::Parked, "k1"), none);
    assert_eq!(put(UploadState::Part, "p1"), none, "the whole one is kept");
    assert_eq!(put(UploadState::Part, "p2"), ["p1"]);
    assert_eq!(stores(), ["p2", "k1"]);
    assert_eq!(put(UploadState::Parked, "k2"), ["p2", "k1"]);
    assert_eq!(put(UploadState::Part, "p3"), none);
    // Whoever read it before it was gone on with does not send it.
    let known = row(UploadState::Parked, "k2");
    let mut new = upload("a.edi", 5);
    new.message.detail.payload = "k2".into();
    new.replaces = Some(known.clone());
    journal
        .write_blocking(move |tx| {
            tx.set_upload_reason(&known, WaitReason::GoneOnWith)?;
            assert_eq!(tx.bring_back(new, 5)?, None);
            Ok(())
        })
        .unwrap();
    let mut new = upload("a.edi", 6);
    new.replaces = Some(row(UploadState::Part, "p3"));
    journal.write_blocking(move |tx| tx.accept_upload(new, 6)).unwrap();
    assert_eq!(stores(), none);
}

/// A job that waits or is due, without a message.
fn job(tx: &Tx<'_>, lane: &str, due: i64) -> Result<()> {
    let message = format!("{lane} {due} {:016x}", u64::from_le_bytes(crate::random::random()));
    tx.add_job(JobKind::Send, "acme", &message, lane, due)
}

#[test]
fn the_lanes_of_all_stations_to_a_partner_count_together() {
    let (_dir, journal) = journal();
    let add = |account: &'static str, lane: &'static str| {
        let add =
            move |tx: &Tx<'_>| (0..3).try_for_each(|n| tx.add_job(JobKind::Send, account, &format!("{account} {lane} {n}"), lane, 10 + n));
        journal.write_blocking(add).unwrap();
    };
    for (account, lane) in [("acme", "A\nBOB"), ("acme", "B\nBOB"), ("acme", "A\nCAROL"), ("other", "C\nBOB")] {
        add(account, lane);
    }
    let claim = |width: u32, in_order| {
        let found = journal.write_blocking(move |tx| {
            let found = tx.due_jobs(&[Room::for_all(JobKind::Send, 9)], "me", 20, &|_, _, _| Lane { width, in_order })?;
            tx.claim_jobs(found, "me", 20)
        });
        let mut lanes: Vec<_> = found.unwrap().into_iter().map(|job| (job.account, job.lane)).collect();
        lanes.sort();
        lanes
            .iter()
            .map(|(account, lane)| format!("{account} {}", lane.replace('\n', " ")))
            .collect::<Vec<_>>()
    };
    assert_eq!(claim(1, false), ["acme A BOB", "acme A CAROL", "other C BOB"]);
    assert!(claim(1, false).is_empty());
    // The station that has fewer under way is next.
    assert_eq!(claim(2, false), ["acme A CAROL", "acme B BOB", "other C BOB"]);
    // In order, one of a pair is under way already.
    assert!(claim(9, true).is_empty());
}

#[test]
fn what_waits_for_a_person_keeps_its_place_in_an_ordered_lane() {
    let (_dir, journal) = journal();
    for name in ["a.edi", "b.edi"] {
        accept(&journal, name, 10);
    }
    let first = claim(&journal, "me", 20, true);
    let held = first[0].message.clone();
    let of_held = held.clone();
    journal.write_blocking(move |tx| tx.hold_job(JobKind::Send, &of_held)).unwrap();
    assert!(claim(&journal, "me", Millis::MAX - 1, true).is_empty());
    assert_eq!(journal.read(|tx| tx.queue()).unwrap(), (1, Some(10)));
    let again = held.clone();
    journal
        .write_blocking(move |tx| tx.add_job(JobKind::Send, "acme", &again, "ALICE\nBOB", 30))
        .unwrap();
    assert_eq!(claim(&journal, "me", 30, true)[0].message, held);
    // Where the order does not count, the others go on.
    journal.write_blocking(move |tx| tx.hold_job(JobKind::Send, &held)).unwrap();
    assert_eq!(claim(&journal, "me", 40, false).len(), 1);
}

#[test]
fn a_list_begins_and_ends_where_it_is_told() {
    let (_dir, journal) = journal();
    let at = [0, 999, 1_000, 1_001, 86_400_000];
    let ids: Vec<String> = at
        .map(|now| {
            let message = upload(&format!("{now}.edi"), now).message;
            let id = message.id.to_string();
            journal.write_blocking(move |tx| tx.insert_message(&message)).unwrap();
            id
        })
        .to_vec();
    let listed = |since: Option<Millis>, before: Option<&String>| {
        let filter = MessageFilter {
            since,
            before: before.cloned(),
            ..MessageFilter::default()
        };
        let rows = journal.read(|tx| tx.messages(&filter)).unwrap();
        rows.iter().rev().map(|row| row.created).collect::<Vec<_>>()
    };
    assert_eq!(listed(None, None), at);
    assert_eq!(listed(Some(1_000), None), at[2..]);
    assert_eq!(listed(Some(-1_000_000), Some(&ids[4])), at[..4]);
    assert_eq!(listed(Some(1_000), Some(&ids[3])), at[2..3]);
    assert_eq!(listed(Some(Millis::MAX), None), [] as [Millis; 0]);
}

#[test]
fn jobs_are_found_in_the_same_lanes_however_many_there_are() {
    const LANES: u32 = 70;
    // Few that are due; many of few lanes; many of many lanes; more than are read.
    for (lanes, each) in [(LANES, 1), (3, 200), (LANES, 5), (LANES, 240)] {
        let (_dir, journal) = journal();
        journal
            .write_blocking(move |tx| {
                for lane in 0..lanes {
                    (0..each).try_for_each(|n| job(tx, &format!("{lane:03}"), 10 + i64::from(n)))?;
                    job(tx, &format!("{lane:03}"), 9_000)?;
                }
                (0..20).try_for_each(|n| job(tx, &format!("waits {n}"), 9_000))
            })
            .unwrap();
        let claim = |limit: usize, now| {
            journal
                .write_blocking(move |tx| {
                    let rule = |_: &str, lane: &str, _| Lane {
                        width: if lane == "001" { 0 } else { 2 },
                        in_order: lane == "002",
                    };
                    let found = tx.due_jobs(
                        &[Room::for_all(JobKind::Send, limit), Room::for_all(JobKind::Mdn, 9)],
                        "me",
                        now,
                        &rule,
                    )?;
                    Ok(tx.claim_jobs(found, "me", now)?.into_iter().map(|job| job.lane).collect::<Vec<_>>())
                })
                .unwrap()
        };
        assert!(claim(5, 9).is_empty());
        // One of each lane, and one more of each; no third one of any, and none of the one that may have none.
        let expected: Vec<String> = (0..lanes).filter(|lane| *lane != 1).map(|lane| format!("{lane:03}")).collect();
        let mut first = claim(expected.len(), 500);
        first.sort();
        assert_eq!(first, expected, "{lanes}, {each}");
        let second = claim(1_000, 500);
        let expected = if each > 1 { expected.len() - 1 } else { 0 };
        assert_eq!(second.len(), expected, "{lanes}, {each}: {second:?}");
        assert!(claim(1_000, 500).is_empty());
    }
}

#[test]
fn partners_that_hold_all_slots_leave_some_to_the_others() {
    let (_dir, journal) = journal();
    let add = |lane: &'static str| journal.write_blocking(move |tx| (0..9).try_for_each(|_| job(tx, lane, 1))).unwrap();
    let claim = |jobs: usize| {
        journal
            .write_blocking(move |tx| {
                let room = Room {
                    kept: 2,
                    ..Room::for_all(JobKind::Send, jobs)
                };
                let found = tx.due_jobs(&[room], "me", 5, &|_, _, _| Lane { width: 9, in_order: false })?;
                Ok(tx.claim_jobs(found, "me", 5)?.into_iter().map(|job| job.lane).collect::<Vec<_>>())
            })
            .unwrap()
    };
    ["a", "b", "c"].into_iter().for_each(add);
    // One of each, and then as many as leave two of the six slots.
    assert_eq!(claim(6).len(), 4);
    assert!(claim(2).is_empty());
    add("d");
    assert_eq!(claim(2), ["d"]);
    assert!(claim(1).is_empty());
}

#[test]
fn lanes_whose_jobs_wait_cost_a_claim_nothing() {
    let (_dir, journal) = journal();
    let claims = |lanes: u32| {
        journal
            .write_blocking(move |tx| {
                (0..lanes).try_for_each(|lane| job(tx, &format!("waits {lane:05}"), 1_000))?;
                (0..20).try_for_each(|lane| job(tx, &format!("due {lane}"), 5))
            })
            .unwrap();
        let began = std::time::Instant::now();
        let mut found = 0;
        while let [job] = &journal
            .read_few(|tx| {
                tx.due_jobs(
                    &[
                        Room::for_all(JobKind::Send, 1),
                        Room::for_all(JobKind::Receive, 1),
                        Room::for_all(JobKind::Mdn, 1),
                    ],
                    "me",
                    10,
                    &|_, _, _| Lane { width: 1, in_order: false },
                )
            })
            .unwrap()[..]
        {
            let job = job.clone();
            journal
                .write_blocking(move |tx| tx.claim_jobs(vec![job], "me", 10)?.iter().try_for_each(|job| tx.end_job(job)))
                .unwrap();
            found += 1;
        }
        assert_eq!(found, 20);
        began.elapsed()
    };
    let (few, many) = (claims(0), claims(20_000));
    assert!(many < few * 5 + Duration::from_millis(200), "{few:?} {many:?}");
}

#[test]
fn jobs_are_claimed_by_indexes() {
    let (_dir, journal) = journal();
    let lanes = plan(&journal, jobs::DUE_LANES, params![9, "me"]);
    assert!(lanes[0].contains("job USING INDEX job_due (due<?)"), "{lanes:?}");
    let leases = plan(&journal, jobs::LEASES, ["me"]);
    assert_eq!(leases, ["SCAN job USING INDEX job_leased"]);
    let first = plan(&journal, jobs::FIRST_IN_ORDER, params!["l", "send", 9, "me", 1]);
    assert!(
        first.iter().any(|step| step.contains("job_in_order (lane=? AND kind=?)")),
        "{first:?}"
    );
    assert!(!first.iter().any(|step| step.contains("TEMP B-TREE")), "{first:?}");
}

/// The schema's objects as SQLite keeps them, without the spaces of their text.
fn schema_of(db: &Connection) -> Vec<String> {
    let mut query = db
        .prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
        .unwrap();
    let rows = query.query_map([], |row| row.get::<_, String>(0)).unwrap();
    rows.map(|sql| sql.unwrap().split_whitespace().collect()).collect()
}

/// A journal as a program of that version made it, with a message in work and what belongs to it.
fn old_journal(path: &Path, version: i64) -> Connection {
    let db = Connection::open(path).unwrap();
    let schema = if version < 3 {
        include_str!("schema_2.sql")
    } else {
        include_str!("schema_3.sql")
    };
    db.execute_batch(schema).unwrap();
    if version == 1 {
        db.execute_batch(
            "DROP INDEX message_same_payload;
             CREATE INDEX message_again ON message (account, station, partner, file, created) WHERE direction = 'in' AND state = 'filed';",
        )
        .unwrap();
    }
    if version >= 4 {
        db.execute_batch(include_str!("step_4.sql")).unwrap();
    }
    for step in STEPS.iter().take(usize::try_from(version - 1).unwrap()).skip(3) {
        db.execute_batch(step).unwrap();
    }
    db.execute_batch(
        "INSERT INTO message (id, account, direction, station, partner, state, file, created, updated, detail)
            VALUES ('m1', 'acme', 'out', 'ALICE', 'BOB', 'queued', 'old.edi', 7, 8, '{\"payload\":\"j:1\"}');
         INSERT INTO inbound (station, partner, bare_id, message, state, raw_sha256, mdn_headers, mdn_body, lease_until, fence, updated)
            VALUES ('ALICE', 'BOB', 'x@y', 'm0', 'filed', 'aa', 'A: b', x'01ff', 5, 3, 9);
         INSERT INTO entry (account, parent, name, version, area, message, is_dir, store, size, created, noncurrent)
            VALUES ('acme', 'AS2/raw-mdn/outgoing', 'm0.mdn', 0, 'raw-mdn', 'm0', 0, '', 4, 6, 7),
                   ('acme', 'AS2/raw-mdn/outgoing', 'm0.mdn', 1, 'raw-mdn', 'm0', 0, 'j:2', 5, 8, NULL);
         INSERT INTO blob (key, bytes) VALUES ('j:1', x'01'), ('j:2', x'02');
         INSERT INTO upload (account, station, partner, name, owner, state, store, size, created, updated)
            VALUES ('acme', 'ALICE', 'BOB', 'waits.tmp', 'erp', 'parked', 'j:3', 1, 2, 3);
         INSERT INTO upload (account, station, partner, name, owner, state, reason, store, size, created, updated)
            VALUES ('acme', 'ALICE', 'BOB', 'back.edi', 'erp', 'parked', 'accepted, and opened for writing again before it was sent', 'j:4', 1, 2, 3);
         INSERT INTO job (id, kind, account, message, lane, due, fence, tries) VALUES (7, 'send', 'acme', 'm1', 'ALICE\nBOB', 5, 2, 3);",
    )
    .unwrap();
    if version < 9 {
        db.execute_batch(
            "INSERT INTO entry (account, parent, name, version, area, message, is_dir, size, created, noncurrent, deleted)
                VALUES ('acme', 'AS2/raw-mdn/outgoing', 'm0.mdn', 2, 'raw-mdn', 'm0', 0, 4, 6, 7, 8);",
        )
        .unwrap();
    }
    if version >= 10 {
        db.execute_batch("UPDATE upload SET reason = iif(reason = '', 'temporary-name', 'taken-back')")
            .unwrap();
    }
    db.pragma_update(None, "user_version", version).unwrap();
    db
}

#[test]
fn a_journal_of_an_older_version_becomes_one_of_today() {
    let dir = tempfile::tempdir().unwrap();
    let new = dir.path().join("new.db");
    drop(Journal::open(&new).unwrap());
    assert_eq!(STEPS.len() + 1, usize::try_from(SCHEMA_VERSION).unwrap());
    for version in 1..SCHEMA_VERSION {
        let old = dir.path().join(format!("{version}.db"));
        let db = old_journal(&old, version);
        let kept = Journal::open(&old).unwrap();
        put_pair(&kept);
        assert_eq!(
            schema_of(&db),
            schema_of(&Connection::open(&new).unwrap()),
            "from version {version}"
        );
        let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(found, SCHEMA_VERSION);
        let message = kept.read(|tx| tx.expect_message("m1")).unwrap();
        assert_eq!((message.state, message.detail.payload.as_str()), (State::Queued, "j:1"));
        let bound = kept.read(|tx| tx.inbound("ALICE", "BOB", "<x@y>")).unwrap().unwrap();
        assert_eq!((bound.mdn_headers.as_deref(), bound.mdn_body), (Some("A: b"), Some(vec![1, 255])));
        let versions = |kept: &Journal| {
            kept.read(|tx| tx.entries_of("m0"))
                .unwrap()
                .iter()
                .map(|e| e.version)
                .collect::<Vec<_>>()
        };
        assert_eq!(versions(&kept), [0, 1]);
        assert_eq!(kept.read(|tx| tx.unpublished(9, 9, &|_| false)).unwrap().len(), 1);
        let uploads = kept.read(|tx| tx.all_uploads()).unwrap();
        let uploads: Vec<_> = uploads.iter().map(|row| (row.store.as_str(), row.reason, row.updated)).collect();
        assert_eq!(uploads, [("j:4", WaitReason::TakenBack, 3), ("j:3", WaitReason::TemporaryName, 3)]);
        let jobs = claim(&kept, "me", 10, false);
        let [job] = jobs.as_slice() else { panic!("{jobs:?}") };
        assert_eq!((job.lease, job.message.as_str(), job.tries), (Lease { job: 7, fence: 3 }, "m1", 3));
        let job = job.clone();
        kept.write_blocking(move |tx| tx.end_job(&job)).unwrap();
        assert_eq!(accept(&kept, "a.edi", 10), Accepted::Queued);
        assert_eq!(claim(&kept, "me", 10, false)[0].lease.job, 8, "an id is not used again");
    }
}

/// A received message that ended in this state, with a header block and an MDN.
fn filing(message_id: &str, state: State, mdn: &[u8], now: i64) -> (Claim, Filing) {
    let mut message = upload("in.edi", now).message;
    message.direction = Direction::In;
    message.message_id = message_id.to_owned();
    message.state = state;
    message.finished = Some(now);
    message.detail.set_head(b"AS2-From: \xe4\r\n");
    let id = message.id.as_str();
    let headers = "A: b\r\n".to_owned();
    let shown = mdn_file(&headers, mdn);
    let key = if state == State::Filed { mdn_key(id) } else { format!("j:{id}") };
    let entry = |name: String, key: &str, len: usize| NewEntry::file(Area::RawMdn, "AS2/raw-mdn/outgoing".into(), &name, key, len as u64);
    let filing = Filing {
        entries: vec![
            entry(format!("{id}.txt"), &head_key(id), message.detail.head().len()),
            entry(format!("{id}.mdn"), &key, shown.len()),
        ],
        blobs: vec![(head_key(id), message.detail.head().into()), (key, shown.into())],
        mdn: Some((headers, mdn.to_vec())),
        post_mdn_at: None,
        message: message.clone(),
    };
    let claim = Claim {
        message,
        inline: None,
        owner: "me".into(),
    };
    (claim, filing)
}

#[test]
fn what_a_row_holds_is_kept_once_and_shown_after_a_restart() {
    let (dir, journal) = journal();
    let take = |journal: &Journal, state, mdn: &[u8], now| {
        let (claim, mut filing) = filing("<a@b>", state, mdn, now);
        assert!(matches!(
            journal
                .write_blocking(move |tx| tx.receive_and_file(&claim, &mut filing, now))
                .unwrap(),
            Claimed::New
        ));
    };
    take(&journal, State::Rejected, b"no\xff", 5);
    // The same Message-ID again, accepted this time: it takes the binding over.
    take(&journal, State::Filed, b"yes\xff", 6);
    drop(journal);
    let path = dir.path().join("as2gate.db");
    let kept: i64 = Connection::open(&path)
        .unwrap()
        .query_row("SELECT count(*) FROM blob", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, 1, "the MDN of the rejected one only");
    let journal = Journal::open(&path).unwrap();
    let mut unpublished = journal.read(|tx| tx.unpublished(9, 999, &|_| false)).unwrap();
    unpublished.sort_by_key(|(entry, _)| entry.name.clone());
    let shown: Vec<_> = unpublished.iter().map(|(_, bytes)| bytes.as_deref().unwrap()).collect();
    let (head, no, yes): (&[u8], &[u8], &[u8]) = (b"AS2-From: \xe4\r\n", b"A: b\r\n\r\nno\xff", b"A: b\r\n\r\nyes\xff");
    assert_eq!(shown, [no, head, yes, head]);
    assert!(
        unpublished
            .iter()
            .zip(&shown)
            .all(|((entry, _), bytes)| entry.size == bytes.len() as u64)
    );

    let placed = unpublished.into_iter().map(|(entry, _)| entry).collect::<Vec<_>>();
    journal.write_blocking(move |tx| tx.published(&placed)).unwrap();
    assert!(journal.read(|tx| tx.unpublished(9, 999, &|_| false)).unwrap().is_empty());
    let bound = journal.read(|tx| tx.inbound("ALICE", "BOB", "a@b")).unwrap().unwrap();
    assert_eq!(
        (bound.state, bound.mdn_body.as_deref()),
        (State::Filed, Some(b"yes\xff".as_slice()))
    );
}

#[test]
fn the_first_event_of_a_moment_is_found_by_halving() {
    let (_dir, journal) = journal();
    let before = |at| journal.read(|tx| tx.events_before(at)).unwrap();
    assert_eq!(before(5), 0);
    for (file, at) in [("a", 10), ("b", 10), ("c", 20), ("d", 30)] {
        accept(&journal, file, at);
    }
    assert_eq!([0, 10, 11, 20, 21, 30, 31].map(before), [0, 0, 2, 2, 3, 3, 4]);
    // The clock was set back: the last of all is the last all the same.
    accept(&journal, "e", 5);
    assert_eq!(before(Millis::MAX), 5);
}

#[test]
fn steps_sort_on_the_disk_and_not_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let db = connect(&dir.path().join("as2gate.db")).unwrap();
    db.pragma_update(None, "user_version", SCHEMA_VERSION - 1).unwrap();
    let mut steps = vec![""; STEPS.len() - 1];
    steps.push("CREATE TABLE seen AS SELECT temp_store FROM pragma_temp_store");
    migrate(&db, &steps).unwrap();
    let stored = |query: &str| db.query_row(query, [], |row| row.get::<_, i64>(0)).unwrap();
    let (file, memory) = (1, 2);
    assert_eq!(stored("SELECT temp_store FROM seen"), file);
    assert_eq!(stored("PRAGMA temp_store"), memory);
}

#[test]
fn a_journal_of_a_newer_version_is_left_alone() {
    let (dir, journal) = journal();
    drop(journal);
    let path = dir.path().join("as2gate.db");
    let db = Connection::open(&path).unwrap();
    db.pragma_update(None, "user_version", SCHEMA_VERSION + 1).unwrap();
    assert!(matches!(Journal::open(&path), Err(JournalError::Newer { .. })));
}

#[test]
fn a_name_that_left_the_view_is_used_again_as_another_version() {
    let (_dir, journal) = journal();
    let add = |message: &'static str, key: &'static str| {
        let entry = NewEntry::file(Area::RawMdn, "AS2/raw-mdn/outgoing".into(), "a.mdn", key, 3);
        journal
            .write_blocking(move |tx| tx.add_entries("acme", message, &[entry], 5))
            .unwrap();
    };
    let shown = || journal.read(|tx| tx.entry("acme", "AS2/raw-mdn/outgoing", "a.mdn")).unwrap();
    add("m1", "j:1");
    add("m2", "j:2");
    let first = shown().unwrap();
    assert_eq!((first.version, first.message.as_str()), (0, "m1"), "what is visible stays as it is");
    journal.write_blocking(move |tx| tx.retire_entry(&first, 6)).unwrap();
    assert_eq!(shown(), None);
    add("m2", "j:2");
    let second = shown().unwrap();
    assert_eq!((second.version, second.message.as_str()), (1, "m2"));
}

/// The steps in which SQLite runs a query.
fn plan(journal: &Journal, query: &str, values: impl rusqlite::Params) -> Vec<String> {
    journal
        .read(|tx| {
            let mut query = tx.db.prepare(&format!("EXPLAIN QUERY PLAN {query}"))?;
            let rows = query.query_map(values, |row| row.get(3))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .unwrap()
}

#[test]
fn the_same_payload_and_the_same_name_are_looked_up_in_an_index() {
    let (_dir, journal) = journal();
    let payload = plan(
        &journal,
        inbound::SAME_PAYLOAD,
        ["acme", "ALICE", "BOB", "orders.edi", "0", "mic", "id"],
    );
    assert!(
        payload[0].contains("message_same_payload (account=? AND station=? AND partner=? AND file=? AND <expr>=? AND created>?)"),
        "{payload:?}"
    );
    let name = plan(&journal, inbound::SAME_NAME, ["acme", "ALICE", "BOB", "orders.edi", "0", "id"]);
    assert!(
        name[0].contains("message_same_payload (account=? AND station=? AND partner=? AND file=?)"),
        "{name:?}"
    );
}

#[test]
fn what_every_message_writes_is_written_without_a_table_in_between() {
    let (_dir, journal) = journal();
    let statements = [
        (tree::ADD_ENTRY.to_owned(), 10),
        (outbound::OPEN_WINDOW.to_owned(), 6),
        (messages::update_sql(&State::WORKED_ON), 16),
    ];
    for (statement, values) in statements {
        let explained = journal.read(|tx| {
            let mut query = tx.db.prepare(&format!("EXPLAIN {statement}"))?;
            let rows = query.query_map(rusqlite::params_from_iter(std::iter::repeat_n("", values)), |row| row.get(1))?;
            Ok(rows.collect::<rusqlite::Result<Vec<String>>>()?)
        });
        let steps = explained.unwrap();
        assert!(steps.iter().any(|step| step == "Insert" || step == "IdxInsert"), "{steps:?}");
        assert!(!steps.iter().any(|step| step == "OpenEphemeral"), "{statement}: {steps:?}");
    }
}

#[test]
fn who_names_a_content_is_looked_up_in_indexes() {
    let (_dir, journal) = journal();
    let plan = plan(&journal, &format!("SELECT {}", contents::NAMED), ["j:a"]);
    let found = |index: &str| plan.iter().any(|step| step.contains(index));
    let indexes = ["entry_unpublished", "upload_store", "message_payload", "message_raw"];
    assert!(indexes.into_iter().all(found), "{plan:?}");
    let tables = |step: &&String| {
        ["entry", "upload", "message"]
            .iter()
            .any(|table| step.starts_with(&format!("SCAN {table}")))
    };
    assert!(!plan.iter().any(|step| tables(&step)), "{plan:?}");
}

#[test]
fn what_was_rejected_is_found_by_an_index() {
    let (_dir, journal) = journal();
    let plan = plan(&journal, history::REJECTED_OVER, params!["ALICE", "BOB", 9, 9, 9]);
    let indexed = |step: &String| step.contains("message USING INDEX message_rejected (station=? AND partner=?)");
    assert!(plan.iter().any(indexed), "{plan:?}");
}

#[test]
fn a_sweep_walks_once_through_an_area_by_its_paths() {
    let (_dir, journal) = journal();
    let values = params!["acme", "AS2/files/", "", -1, "AS2/files0", 9, 3];
    let plan = plan(&journal, &lifecycle::to_retire_sql(), values);
    assert!(plan[0].contains("sqlite_autoindex_entry_1 (account=? AND"), "{plan:?}");
    assert!(
        plan.iter().all(|step| !step.contains("TEMP B-TREE") && !step.contains("SCAN")),
        "{plan:?}"
    );

    let shelf = layout::shelf(Area::Files, "ALICE", "BOB", layout::Tray::Inbox);
    let file = |area, parent: &str, name: &str| NewEntry {
        store: String::new(),
        ..NewEntry::file(area, parent.to_owned(), name, "", 3)
    };
    let mut entries: Vec<_> = (0..5)
        .flat_map(|n| {
            [
                NewEntry::dir(Area::Files, shelf.clone(), &format!("m{n}")),
                file(Area::Files, &format!("{shelf}/m{n}"), "a"),
            ]
        })
        .collect();
    entries.push(file(Area::RawMdn, "AS2/raw-mdn/outgoing", "m0.mdn"));
    entries.push(file(Area::Duplicate, "AS2/duplicate/ALICE/BOB", "a"));
    journal
        .write_blocking(move |tx| {
            tx.add_entries("acme", "m", &entries, 5)?;
            tx.add_entries("acme", "new", &[file(Area::Files, "AS2/files/ALICE/BOB/inbox/n", "a")], 50)?;
            tx.add_entries("other", "m", &[file(Area::Files, "AS2/files/ALICE/BOB/inbox/o", "a")], 5)
        })
        .unwrap();
    let swept = |area| {
        let (mut found, mut last) = (Vec::new(), None);
        loop {
            let page = journal.read(|tx| tx.to_retire("acme", area, 9, last.as_ref(), 3)).unwrap();
            let Some(end) = page.last() else { return found };
            last = Some(end.clone());
            found.extend(page.into_iter().map(|entry| (entry.parent, entry.name)));
        }
    };
    let found = swept(Area::Files);
    assert_eq!(found.len(), 10);
    assert!(
        found.is_sorted() && found.iter().all(|(parent, _)| parent.starts_with(&shelf)),
        "{found:?}"
    );
    for area in [Area::RawMdn, Area::Duplicate] {
        assert_eq!(swept(area).len(), 1, "{area}");
    }
    let count = journal.read(|tx| tx.count_sweep("acme", Area::Files, 9, 9)).unwrap();
    assert_eq!((count.retire, count.purge, count.all), (5, 0, 6));
}

/// Takes an entry out of view and deletes it.
fn end_entry(journal: &Journal, mut entry: Entry, now: i64) {
    let ended = journal.write_blocking(move |tx| {
        let is_out = tx.retire_entry(&entry, now)?;
        entry.noncurrent = Some(now);
        Ok(is_out && tx.purge_entry(&entry)?)
    });
    assert!(ended.unwrap());
}

#[test]
fn the_directory_of_what_came_back_stays_in_view_as_long() {
    let (_dir, journal) = journal();
    let shelf = "AS2/files/ALICE/BOB/inbox";
    let dir = NewEntry::dir(Area::Files, shelf.into(), "m");
    let files = ["a.edi", "b.edi"].map(|name| NewEntry::file(Area::Files, format!("{shelf}/m"), name, "", 3));
    let entries = [&[dir][..], &files[..]].concat();
    journal.write_blocking(move |tx| tx.add_entries("acme", "m", &entries, 1)).unwrap();
    let shown = |parent: &str, name: &str| journal.read(|tx| tx.entry("acme", parent, name)).unwrap().unwrap();
    let gone = shown(&format!("{shelf}/m"), "a.edi");
    journal
        .write_blocking(move |tx| {
            tx.retire_entry(&gone, 5)?;
            tx.restore_entry(
                &Entry {
                    noncurrent: Some(5),
                    ..gone
                },
                9,
            )
        })
        .unwrap();
    assert_eq!((shown(&format!("{shelf}/m"), "a.edi").created, shown(shelf, "m").created), (9, 9));
    assert_eq!(shown(&format!("{shelf}/m"), "b.edi").created, 1);
}

#[test]
fn what_came_back_is_not_deleted_by_who_read_it_before() {
    let (_dir, journal) = journal();
    let entry = NewEntry::file(Area::Duplicate, "AS2/duplicate/ALICE/BOB".into(), "a.edi", "", 3);
    journal.write_blocking(move |tx| tx.add_entries("acme", "m", &[entry], 1)).unwrap();
    let current = journal.read(|tx| tx.entries_of("m")).unwrap().remove(0);
    let mut hidden = current.clone();
    hidden.noncurrent = Some(2);
    let (again, late) = (hidden.clone(), hidden.clone());
    journal.write_blocking(move |tx| tx.retire_entry(&current, 2)).unwrap();
    // A restore has moved the bytes while a sweep forgot the row; and the other way round.
    journal.write_blocking(move |tx| tx.purge_entry(&hidden)).unwrap();
    assert!(journal.write_blocking(move |tx| tx.restore_entry(&again, 4)).unwrap());
    assert!(!journal.write_blocking(move |tx| tx.purge_entry(&late)).unwrap());
    assert!(
        journal
            .read(|tx| tx.entry("acme", "AS2/duplicate/ALICE/BOB", "a.edi"))
            .unwrap()
            .is_some()
    );
}

#[test]
fn history_is_forgotten_only_when_nothing_hangs_on_it() {
    let (_dir, journal) = journal();
    let take = |message_id: &str, now| {
        let (claim, mut filing) = filing(message_id, State::Filed, b"yes", now);
        let id = claim.message.id.to_string();
        journal
            .write_blocking(move |tx| tx.receive_and_file(&claim, &mut filing, now))
            .unwrap();
        id
    };
    let end = |id: &str, now| {
        journal
            .read(|tx| tx.entries_of(id))
            .unwrap()
            .into_iter()
            .for_each(|entry| end_entry(&journal, entry, now));
    };
    let (kept, held, gone) = (take("<kept@a>", 5), take("<held@a>", 6), take("<gone@a>", 7));
    [&held, &gone].into_iter().for_each(|id| end(id, 8));
    let set_hold = |hold| {
        let partner = Partner {
            account: "acme".to_owned(),
            as2_id: "BOB".to_owned(),
            hold,
            ..Partner::default()
        };
        let partner = Object::Partner(Box::new(partner));
        journal.write_blocking(move |tx| tx.put_object(&partner, 8)).unwrap();
    };
    let forget = || journal.write_blocking(|tx| tx.forget_messages("acme", 9, 100)).unwrap();
    set_hold(true);
    assert_eq!(forget(), 0, "all are under legal hold");
    set_hold(false);
    assert_eq!(journal.read(|tx| tx.count_history("acme", 6)).unwrap(), (1, 3));
    assert_eq!(forget(), 2);
    assert_eq!(journal.read(|tx| tx.count_history("acme", 9)).unwrap(), (0, 1));
    let known = |id: &str| journal.read(|tx| tx.message(id)).unwrap().is_some();
    assert_eq!([&kept, &held, &gone].map(|id| known(id)), [true, false, false]);
    let bound = |id: &str| journal.read(|tx| tx.inbound("ALICE", "BOB", id)).unwrap().is_some();
    assert_eq!(["<kept@a>", "<gone@a>"].map(bound), [true, false]);
}

#[test]
fn a_name_that_was_used_gets_a_version_of_its_own() {
    let (_dir, journal) = journal();
    let add = |now| {
        journal
            .write_blocking(move |tx| {
                let entry = NewEntry::file(Area::Duplicate, "AS2/duplicate/ALICE/BOB".into(), "a.edi", "f:1", 3);
                tx.add_entries("acme", "unknown", &[entry], now)
            })
            .unwrap();
    };
    let versions = || {
        let all = journal.read(|tx| tx.entries_of("unknown")).unwrap();
        all.iter().map(|entry| entry.version).collect::<Vec<_>>()
    };
    add(1);
    let first = journal.read(|tx| tx.entries_of("unknown")).unwrap().remove(0);
    let retired = first.clone();
    journal.write_blocking(move |tx| tx.retire_entry(&retired, 2)).unwrap();
    add(3);
    assert_eq!(versions(), [0, 1]);
    let out_of_view = Entry {
        noncurrent: Some(2),
        ..first
    };
    assert!(journal.write_blocking(move |tx| tx.purge_entry(&out_of_view)).unwrap());
    add(4);
    assert_eq!(versions(), [1], "one name is shown once");
}

#[test]
fn the_chain_of_events_holds_after_its_front_was_forgotten() {
    let (_dir, journal) = journal();
    for at in 1..=5 {
        accept(&journal, &format!("{at}.edi"), at);
    }
    let hashes = || {
        let mut seen = Vec::new();
        let chain = journal.read(|tx| tx.verify_events(|hash| seen.push(hash.to_vec()))).unwrap();
        (chain, seen)
    };
    let (whole, before) = hashes();
    let last = whole.unwrap().events;
    let through = i64::try_from(last).unwrap() - 2;
    let trim = |through, limit| journal.write_blocking(move |tx| tx.trim_events(through, limit)).unwrap();
    assert_eq!(trim(through, 2).unwrap().through, 2);
    while trim(through, 2).is_some() {}
    let (chain, after) = hashes();
    assert_eq!(chain.unwrap().events, 2);
    assert_eq!(after[..], before[before.len() - 3..], "the last forgotten one is known still");
    // The last event stays, or the next one would go on from nothing.
    assert_eq!(trim(i64::MAX, 100).unwrap().events, 1);
    assert_eq!(trim(i64::MAX, 100), None);
    accept(&journal, "next.edi", 9);
    let chain = hashes().0.unwrap();
    assert!(chain.events >= 2 && chain.since == Some(5), "{chain:?}");
    journal
        .write_blocking(|tx| {
            tx.db
                .execute("DELETE FROM event WHERE seq = (SELECT min(seq) FROM event)", [])
                .map_err(Into::into)
        })
        .unwrap();
    assert!(hashes().0.is_err(), "taken out by another hand");
}

#[test]
fn what_is_deleted_or_forgotten_is_found_by_its_age() {
    let (_dir, journal) = journal();
    // From where the last look ended, and in the order of the index: whoever has many under hold does not read them again and again.
    let of_one_moment = plan(
        &journal,
        &lifecycle::to_purge_of_one_moment_sql(),
        params!["acme", "files", 9, 3, 5, 7],
    );
    let later = plan(&journal, &lifecycle::to_purge_sql(), params!["acme", "files", 9, 3, 5]);
    for (plan, bounds) in [
        (of_one_moment, "noncurrent=? AND rowid>?"),
        (later, "noncurrent>? AND noncurrent<?"),
    ] {
        assert!(
            plan[0].contains(&format!("entry USING INDEX entry_noncurrent ({bounds})")),
            "{plan:?}"
        );
        assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{plan:?}");
    }
    let messages = plan(&journal, &history::forgettable_sql(), params!["acme", 9, 3]);
    assert!(messages[0].contains("message_finished (finished<?)"), "{messages:?}");
    let scans = |step: &String| step.contains("SCAN") || step.contains("TEMP B-TREE");
    assert!(!messages.iter().any(scans), "{messages:?}");
}

#[test]
fn what_is_deleted_is_walked_through_once() {
    let (_dir, journal) = journal();
    // Two moments, and rows that are not free among them.
    for n in 0..20i64 {
        let mut message = upload(&format!("{n}.edi"), n).message;
        message.detail.payload.clear();
        message.finished = (n % 3 != 0).then_some(n);
        let id = message.id.to_string();
        let file = NewEntry::file(Area::RawMdn, "AS2/raw-mdn/outgoing".into(), &format!("{n}.mdn"), "", 3);
        journal
            .write_blocking(move |tx| {
                tx.insert_message(&message)?;
                tx.add_entries("acme", &id, &[file], 1)?;
                let entry = tx.entries_of(&id)?.remove(0);
                tx.retire_entry(&entry, if n < 12 { 5 } else { 6 })
            })
            .unwrap();
    }
    let (mut found, mut last) = (Vec::new(), None);
    loop {
        let (page, end) = journal.read(|tx| tx.to_purge("acme", Area::RawMdn, 6, last, 3)).unwrap();
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 3);
        last = end;
        found.extend(page.into_iter().map(|entry| entry.name));
    }
    let free: Vec<String> = (0..20).filter(|n| n % 3 != 0).map(|n| format!("{n}.mdn")).collect();
    assert_eq!(found, free);
}

#[test]
fn the_oldest_queued_message_is_that_which_waits_longest() {
    let (_dir, journal) = journal();
    let oldest = || journal.read(|tx| tx.oldest_queued()).unwrap();
    assert_eq!(oldest(), None);
    let [first, second] = [("a", 10), ("b", 20)].map(|(file, at)| upload(file, at));
    let mut moved = first.message.clone();
    for new in [first, second] {
        journal.write_blocking(move |tx| tx.accept_upload(new, 30)).unwrap();
    }
    assert_eq!(oldest(), Some(10));
    moved.state = State::Retrying;
    let step = Settlement {
        next: Next::At(40),
        ..Settlement::new(moved, &[State::Queued], "message.retrying")
    };
    journal.write_blocking(move |tx| tx.settle(&step, 30)).unwrap();
    assert_eq!(oldest(), Some(20));
}
