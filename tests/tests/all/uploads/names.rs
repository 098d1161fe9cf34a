//! One name, several uploads: of two users, of two sessions of one user, and of one that comes back to it.

use serde_json::Value;
use tests::packets::{Packets, string};
use tests::{Pair, order, wait_for};

use super::{HOUR, PUT, SEND, broken_off, opened, outcomes, waiting, writes};

/// The block of an OpenSSH that does not know the server's limits: what ends on it is parked.
const BLOCK: usize = 32_768;

fn path(name: &str) -> Vec<u8> {
    string(format!("{SEND}/{name}").as_bytes())
}

/// Uploads a file whole.
#[track_caller]
fn put(client: &mut Packets, name: &str, bytes: &[u8]) {
    let handle = opened(client, name, PUT);
    for (at, block) in (0u64..).zip(bytes.chunks(BLOCK)) {
        writes(client, &handle, at * BLOCK as u64, block);
    }
    assert_eq!(client.ask(4, &[&handle]).code(), Some(0), "the promise");
}

/// The size of a file, as STAT tells it.
fn size(client: &mut Packets, name: &str) -> Option<u64> {
    let attrs = client.ask(17, &[&path(name)]);
    (attrs.kind == 105).then(|| u64::from_be_bytes(attrs.body[4..12].try_into().unwrap()))
}

fn len(bytes: &[u8]) -> Option<u64> {
    u64::try_from(bytes.len()).ok()
}

/// The size that ALICE's user sees in the listing.
fn listed(pair: &Pair, name: &str) -> Option<u64> {
    let text = pair.alice_user.ok(&[&format!("ls -ln {SEND}")]);
    let line = text.lines().find(|line| line.trim_end().ends_with(name))?;
    line.split_whitespace().nth(4)?.parse().ok()
}

fn all_waiting(pair: &Pair) -> Value {
    pair.alice().json(&["upload", "list"])
}

#[test]
fn what_another_user_left_under_a_name_hides_nothing_of_ones_own() {
    let pair = Pair::one_with(HOUR);
    let mut ben = Packets::of(&pair.alice().user("ben"));
    let mut ann = Packets::of(&pair.alice_user);
    let (half, whole) = (&order(1)[..50], order(1));
    for (at, (name, left)) in [("ignored.edi", vec![]), ("parked.edi", vec![7; 2 * BLOCK])]
        .into_iter()
        .enumerate()
    {
        put(&mut ben, name, &left);
        assert_eq!(waiting(pair.alice(), name)["user"], "ben", "{name}");
        // Her later one takes the place of the earlier, as anywhere else.
        for bytes in [half, &whole] {
            put(&mut ann, name, bytes);
            assert_eq!(size(&mut ann, name), len(bytes), "{name}");
            assert_eq!(listed(&pair, name), len(bytes), "{name}: as listed");
            assert_eq!(pair.alice_user.get(&format!("{SEND}/{name}")), bytes, "{name}");
        }
        assert_eq!(size(&mut ben, name), len(&left), "{name}: his own");
        // And it is hers to rename and to remove.
        let other = format!("renamed-{name}");
        assert_eq!(ann.ask(13, &[&path(name)]).code(), Some(0), "{name}: REMOVE");
        put(&mut ann, name, &whole);
        assert_eq!(ann.ask(18, &[&path(name), &path(&other)]).code(), Some(0), "{name}: RENAME");
        assert_eq!(pair.fetch(&pair.delivered(&other)), whole);
        assert_eq!(waiting(pair.alice(), name)["user"], "ben", "{name} is his still");
        // Nor does it stand in the way of a rename to it.
        put(&mut ann, "temporary.tmp", &whole);
        let renamed = ann.ask(200, &[&string(b"posix-rename@openssh.com"), &path("temporary.tmp"), &path(name)]);
        assert_eq!(renamed.code(), Some(0), "{name}: {renamed:?}");
        assert_eq!(pair.fetch(&pair.delivered(name)), whole);
        assert!(!outcomes(pair.alice(), name).contains(&"duplicate".to_owned()), "{name}");
        assert_eq!(all_waiting(&pair).as_array().unwrap().len(), at + 1);
    }
}

#[test]
fn what_an_earlier_session_leaves_hides_nothing_that_was_accepted() {
    let pair = Pair::one_with(HOUR);
    for (ends, (name, bytes)) in [("small.edi", vec![b'b'; 2_500]), ("large.edi", vec![b'b'; 100_000])]
        .into_iter()
        .enumerate()
    {
        let mut old = Packets::of(&pair.alice_user);
        let handle = opened(&mut old, name, PUT);
        writes(&mut old, &handle, 0, &[b'a'; 1_000]);
        let mut new = Packets::of(&pair.alice_user);
        let handle = opened(&mut new, name, PUT);
        // Its line was cut, which is noticed while the other is open.
        drop(old);
        broken_off(pair.alice(), ends + 1);
        pair.alice()
            .wait("its part", |_| (all_waiting(&pair)[0]["state"] == "part").then_some(()));
        for (at, block) in (0u64..).zip(bytes.chunks(BLOCK)) {
            writes(&mut new, &handle, at * BLOCK as u64, block);
        }
        assert_eq!(new.ask(4, &[&handle]).code(), Some(0), "the promise");
        assert_eq!(size(&mut new, name), len(&bytes), "{name}");
        assert_eq!(all_waiting(&pair), Value::Array(vec![]), "{name}");
        assert_eq!(new.ask(13, &[&path(name)]).code(), Some(0), "{name}: REMOVE");
        assert_eq!(outcomes(pair.alice(), name), ["failed"], "{name} is cancelled");
        put(&mut new, name, b"whole");
        assert_eq!(size(&mut new, name), Some(5), "{name}");
    }
    pair.alice().set_clock(3700);
    for name in ["small.edi", "large.edi"] {
        assert_eq!(pair.fetch(&pair.delivered(name)), b"whole");
    }
    pair.alice().published();
    let kept = pair.alice().path("data/store");
    wait_for("the bytes of the parts to go", || {
        tests::files_below(&kept).is_empty().then_some(())
    });
}

#[test]
fn a_file_that_is_written_again_is_not_renamed_by_another_session() {
    let pair = Pair::one_with(HOUR);
    let mut first = Packets::of(&pair.alice_user);
    // With truncation, and to go on with it.
    for (name, flags) in [("again.edi", PUT), ("longer.edi", 0x02)] {
        put(&mut first, name, &order(1));
        let mut second = Packets::of(&pair.alice_user);
        let handle = opened(&mut second, name, flags);
        let begin = if flags == PUT { 0 } else { len(&order(1)).unwrap() };
        writes(&mut second, &handle, begin, b"order two");
        let refused = first.ask(18, &[&path(name), &path("final.edi")]);
        assert_eq!(refused.code(), Some(4), "{name}: {refused:?}");
        assert!(
            String::from_utf8_lossy(&refused.text()).contains("is being written again"),
            "{refused:?}"
        );
        assert_eq!(second.ask(4, &[&handle]).code(), Some(0));
        assert_eq!(size(&mut first, name), Some(begin + 9), "{name}");
    }
    assert_eq!(all_waiting(&pair), Value::Array(vec![]));
    // Now it is.
    assert_eq!(first.ask(18, &[&path("again.edi"), &path("final.edi")]).code(), Some(0));
    assert_eq!(pair.fetch(&pair.delivered("final.edi")), b"order two");
}

#[test]
fn a_file_keeps_its_name_while_it_is_written_again() {
    let pair = Pair::one_with(HOUR);
    let mut ben = Packets::of(&pair.alice().user("ben"));
    let states = |name: &str| {
        let mut states = outcomes(pair.alice(), name);
        states.sort_unstable();
        states
    };
    // Hers was accepted first: it goes out, whatever comes of the second.
    for (ends, name) in ["broken.edi", "finished.edi"].into_iter().enumerate() {
        let mut ann = Packets::of(&pair.alice_user);
        put(&mut ann, name, &order(1));
        let handle = opened(&mut ann, name, PUT);
        writes(&mut ann, &handle, 0, &order(2));
        put(&mut ben, name, &order(3));
        assert_eq!(states(name), ["duplicate", "failed"], "{name}");
        if ends == 0 {
            drop(ann);
            broken_off(pair.alice(), 1);
        } else {
            assert_eq!(ann.ask(4, &[&handle]).code(), Some(0));
        }
        pair.alice().wait("hers to be accepted", |_| {
            (states(name) == ["duplicate", "failed", "queued"]).then_some(())
        });
    }
    // What she removed, and a beginning that broke off, keep no name.
    let mut ann = Packets::of(&pair.alice_user);
    put(&mut ann, "removed.edi", &order(1));
    let handle = opened(&mut ann, "removed.edi", PUT);
    assert_eq!(ann.ask(13, &[&path("removed.edi")]).code(), Some(0));
    put(&mut ben, "removed.edi", &order(4));
    assert_eq!(ann.ask(4, &[&handle]).code(), Some(4));
    put(&mut ann, "begun.edi", &order(1));
    let handle = opened(&mut ann, "begun.edi", 0x02);
    writes(&mut ann, &handle, len(&order(1)).unwrap(), b"more");
    drop(ann);
    broken_off(pair.alice(), 3);
    pair.alice().wait("the name to be free", |gateway| {
        put(&mut ben, "begun.edi", &order(4));
        outcomes(gateway, "begun.edi").contains(&"queued".to_owned()).then_some(())
    });
    pair.alice().set_clock(3700);
    for (name, content) in [("broken.edi", 1), ("finished.edi", 2), ("removed.edi", 4), ("begun.edi", 4)] {
        assert_eq!(pair.fetch(&pair.delivered(name)), order(content), "{name}");
    }
}

#[test]
fn what_waits_for_a_partner_is_not_handed_on_unseen() {
    let pair = Pair::one_with(HOUR);
    let mut client = Packets::of(&pair.alice_user);
    put(&mut client, "order.edi", &order(1));
    put(&mut client, "later.tmp", &order(2));
    let handle = opened(&mut client, "order.edi", PUT);
    // The next BOB would get it, if this upload broke off.
    let refused = pair.alice().cli(&["partner", "rm", "BOB", "-y"]);
    assert_eq!(refused.code, 1, "{refused}");
    assert!(
        refused.stderr.contains("as2gate upload rm AS2/send/ALICE/BOB/order.edi"),
        "{refused}"
    );
    assert_eq!(client.ask(13, &[&path("order.edi")]).code(), Some(0));
    assert_eq!(client.ask(4, &[&handle]).code(), Some(4), "it was removed");
    let removed = pair.alice().cli(&["partner", "rm", "BOB", "-y"]);
    assert_eq!(removed.code, 0, "{removed}");
    let note = "1 file still waits in send, and would be there for the next of that id: as2gate upload list --partner BOB";
    assert!(removed.stderr.contains(note), "{removed}");
}

#[test]
fn of_two_parts_the_longer_is_kept() {
    let pair = Pair::one_with(HOUR);
    for (round, (name, order)) in [("longer-last.edi", [1_000, 30_000]), ("longer-first.edi", [30_000, 1_000])]
        .into_iter()
        .enumerate()
    {
        let mut sessions = order.map(|bytes| {
            let mut client = Packets::of(&pair.alice_user);
            let handle = opened(&mut client, name, PUT);
            writes(&mut client, &handle, 0, &vec![b'x'; bytes]);
            Some(client)
        });
        for (at, session) in sessions.iter_mut().enumerate() {
            drop(session.take());
            broken_off(pair.alice(), 2 * round + at + 1);
        }
        let mut client = Packets::of(&pair.alice_user);
        pair.alice()
            .wait("the longer part", |_| (waiting(pair.alice(), name)["size"] == 30_000).then_some(()));
        assert_eq!(size(&mut client, name), Some(30_000), "{name}");
    }
}

#[test]
fn what_broke_off_beside_an_accepted_file_stands_before_it_for_a_resume_only() {
    let pair = Pair::one_with(HOUR);
    let mut ann = Packets::of(&pair.alice_user);
    for (ends, name) in ["again.edi", "removed.edi"].into_iter().enumerate() {
        put(&mut ann, name, &order(1));
        let mut second = Packets::of(&pair.alice_user);
        let handle = opened(&mut second, name, PUT);
        writes(&mut second, &handle, 0, b"half");
        drop(second);
        broken_off(pair.alice(), ends + 1);
        // The first is a message again.
        pair.alice().wait("the first to come back", |gateway| {
            outcomes(gateway, name).contains(&"queued".to_owned()).then_some(())
        });
        assert_eq!(size(&mut ann, name), Some(4), "{name}: where a resume would begin");
    }
    put(&mut ann, "again.edi", &order(2));
    assert!(
        !outcomes(pair.alice(), "again.edi").contains(&"duplicate".to_owned()),
        "the later one counts"
    );
    assert_eq!(ann.ask(13, &[&path("removed.edi")]).code(), Some(0));
    assert_eq!(ann.ask(17, &[&path("removed.edi")]).code(), Some(2), "nothing is left of it");
    assert!(!outcomes(pair.alice(), "removed.edi").contains(&"queued".to_owned()));
    assert_eq!(all_waiting(&pair), Value::Array(vec![]));
    pair.alice().set_clock(3700);
    assert_eq!(pair.fetch(&pair.delivered("again.edi")), order(2));
    // What waits for more than the delay is not meant by the REMOVE of a part.
    pair.alice().change(&["partner", "block", "BOB", "out"]);
    put(&mut ann, "kept.edi", &order(3));
    pair.alice().set_clock(2 * 3700);
    let mut second = Packets::of(&pair.alice_user);
    let handle = opened(&mut second, "kept.edi", PUT);
    writes(&mut second, &handle, 0, b"half");
    drop(second);
    broken_off(pair.alice(), 3);
    pair.alice()
        .wait("its part", |_| (size(&mut ann, "kept.edi") == Some(4)).then_some(()));
    assert_eq!(ann.ask(13, &[&path("kept.edi")]).code(), Some(0));
    assert_eq!(size(&mut ann, "kept.edi"), len(&order(3)));
    assert_eq!(outcomes(pair.alice(), "kept.edi"), ["queued"]);
}
