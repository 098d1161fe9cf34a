#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::message::{Detail, Direction, Id, Message, State};

const WINDOW: Duration = Duration::from_secs(21_600);

fn journal() -> (tempfile::TempDir, Arc<Journal>) {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&dir.path().join("as2gate.db")).unwrap();
    (dir, Arc::new(journal))
}

fn upload(file: &str, now: i64) -> NewUpload {
    let message = Message {
        id: Id::draw(now),
        account: "acme".into(),
        direction: Direction::Out,
        station: "ALICE".into(),
        partner: "BOB".into(),
        message_id: String::new(),
        state: State::Queued,
        code: String::new(),
        reason: String::new(),
        file: file.into(),
        size: 3,
        sha256: "aa".into(),
        content_type: "text/plain".into(),
        subject: String::new(),
        created: now,
        updated: now,
        finished: None,
        attempts: 0,
        next_try: None,
        detail: Detail {
            payload: format!("k{now}{file}"),
            ..Detail::default()
        },
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
    let jobs = journal
        .write_blocking(|tx| tx.claim_jobs(&[JobKind::Send], "me", 100, 10, &|_, _, _| Lane { width: 9, in_order: false }))
        .unwrap();
    assert_eq!(jobs.len(), 1);
}

#[test]
fn a_claimed_job_is_nobody_elses_until_its_process_is_gone() {
    let (_dir, journal) = journal();
    accept(&journal, "a.edi", 10);
    let claim = |owner: &'static str, now| {
        journal
            .write_blocking(move |tx| tx.claim_jobs(&[JobKind::Send], owner, now, 10, &|_, _, _| Lane { width: 9, in_order: false }))
            .unwrap()
    };
    let first = claim("boot-1", 10);
    assert_eq!(first.len(), 1);
    assert!(claim("boot-1", 11).is_empty());
    let second = claim("boot-2", 12);
    assert_eq!(second.len(), 1, "a lease of a dead process is void");
    let (job, fence) = (first[0].id, first[0].fence);
    let late = journal.write_blocking(move |tx| tx.put_back_job(job, fence, 99));
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
    let first = journal.submit(
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
        journal.submit(
            |tx| tx.set_fact("bad", "1").and(Err::<(), _>(JournalError::Conflict("no".into()))),
            failing,
        )
    };
    let refused = failing(Failing::Alone);
    let second = journal.submit(|tx| tx.set_fact("second", "1"), Failing::WithAll);
    let broken = failing(Failing::WithAll);
    let later = journal.submit(|tx| tx.set_fact("later", "1"), Failing::Alone);
    hold.send(()).unwrap();
    let ended = [first, refused, second, broken, later].map(|sent| sent.unwrap().blocking_recv().unwrap().is_ok());
    assert_eq!(ended, [false, false, false, false, true]);
    let kept = |key: &str| journal.read(|tx| tx.fact(key)).unwrap().is_some();
    assert_eq!(["first", "bad", "second", "later"].map(kept), [false, false, false, true]);
}

#[test]
fn the_event_chain_shows_a_rewritten_row() {
    let (dir, journal) = journal();
    accept(&journal, "a.edi", 10);
    accept(&journal, "b.edi", 10);
    assert_eq!(journal.read(|tx| tx.verify_events()).unwrap(), Ok(2));
    let db = Connection::open(dir.path().join("as2gate.db")).unwrap();
    db.execute("UPDATE event SET subject = 'x' WHERE seq = 1", []).unwrap();
    assert_eq!(journal.read(|tx| tx.verify_events()).unwrap(), Err(1));
}

#[test]
fn an_ordered_lane_waits_for_its_oldest() {
    let (_dir, journal) = journal();
    for (at, file) in [(0, "a"), (1, "b")] {
        accept(&journal, file, at);
    }
    let claim = |now: i64| {
        journal
            .write_blocking(move |tx| tx.claim_jobs(&[JobKind::Send], "me", now, 10, &|_, _, _| Lane { width: 9, in_order: true }))
            .unwrap()
    };
    let first = claim(10);
    assert_eq!(first.len(), 1);
    let (id, fence) = (first[0].id, first[0].fence);
    journal.write_blocking(move |tx| tx.put_back_job(id, fence, 1_000)).unwrap();
    assert!(
        claim(20).is_empty(),
        "the older one waits for its next try, so the younger one waits too"
    );
    assert_eq!(claim(1_000).first().map(|job| job.id), Some(id));
}

/// The schema's objects as SQLite keeps them, without the spaces of their text.
fn schema_of(db: &Connection) -> Vec<String> {
    let mut query = db
        .prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
        .unwrap();
    let rows = query.query_map([], |row| row.get::<_, String>(0)).unwrap();
    rows.map(|sql| sql.unwrap().split_whitespace().collect()).collect()
}

#[test]
fn a_journal_of_the_first_version_becomes_one_of_today() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old.db"), dir.path().join("new.db"));
    drop(Journal::open(&new).unwrap());
    drop(Journal::open(&old).unwrap());
    let db = Connection::open(&old).unwrap();
    // Back to what version 1 made.
    db.execute_batch(
        "DROP INDEX message_same_payload;
         CREATE INDEX message_again ON message (account, station, partner, file, created) WHERE direction = 'in' AND state = 'filed';
         PRAGMA user_version = 1;",
    )
    .unwrap();
    let kept = Journal::open(&old).unwrap();
    assert_eq!(accept(&kept, "a.edi", 10), Accepted::Queued);
    assert_eq!(schema_of(&db), schema_of(&Connection::open(&new).unwrap()));
    let version = |db: &Connection| db.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(
        (version(&db), STEPS.len() + 1),
        (SCHEMA_VERSION, usize::try_from(SCHEMA_VERSION).unwrap())
    );
    db.pragma_update(None, "user_version", SCHEMA_VERSION + 1).unwrap();
    assert!(matches!(Journal::open(&old), Err(JournalError::Newer { .. })));
}

#[test]
fn the_same_payload_and_the_same_name_are_looked_up_in_an_index() {
    let (_dir, journal) = journal();
    let plan = |query: &str, values: &[&str]| -> String {
        let explained = format!("EXPLAIN QUERY PLAN {query}");
        let values = rusqlite::params_from_iter(values);
        journal
            .read(|tx| Ok(tx.db.query_row(&explained, values, |row| row.get(3))?))
            .unwrap()
    };
    let payload = plan(inbound::SAME_PAYLOAD, &["acme", "ALICE", "BOB", "orders.edi", "0", "mic", "id"]);
    assert!(
        payload.contains("message_same_payload (account=? AND station=? AND partner=? AND file=? AND <expr>=? AND created>?)"),
        "{payload}"
    );
    let name = plan(inbound::SAME_NAME, &["acme", "ALICE", "BOB", "orders.edi", "0", "id"]);
    assert!(
        name.contains("message_same_payload (account=? AND station=? AND partner=? AND file=?)"),
        "{name}"
    );
}
