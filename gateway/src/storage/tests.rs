#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::clock::Millis;
use crate::config::Config;
use crate::layout::Area;

fn storage() -> (tempfile::TempDir, Storage) {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path(), 0);
    (dir, storage)
}

fn open(dir: &Path, min_free: u64) -> Storage {
    let config = Config {
        data_dir: dir.to_owned(),
        ..Config::default()
    };
    let journal = Arc::new(Journal::open(&dir.join("db")).unwrap());
    Storage::open(&config.paths(), journal, min_free).unwrap()
}

fn read_all(content: &Content) -> Vec<u8> {
    let mut out = Vec::new();
    content
        .for_each::<StorageError>(1000, |piece| {
            out.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
    out
}

#[test]
fn small_drafts_stay_in_memory_and_large_ones_spill() {
    let (dir, storage) = storage();
    let mut draft = storage.draft();
    draft.append(b"abc").unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("spool")).unwrap().count(), 0);
    assert_eq!(draft.stage().unwrap().inline.as_deref(), Some(&b"abc"[..]));

    let mut draft = storage.draft();
    let big: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    for (at, piece) in big.chunks(7_000).enumerate().rev() {
        draft.write_at(at as u64 * 7_000, piece).unwrap();
    }
    let staged = draft.stage().unwrap();
    assert!(staged.key.starts_with("f:") && staged.inline.is_none());
    assert_eq!(read_all(&storage.open_staged(&staged.key).unwrap()), big);
}

#[test]
fn what_cannot_be_published_stands_in_nobodys_way() {
    let (dir, storage) = storage();
    let entry = |name: &str, key: &str| crate::journal::NewEntry::file(Area::RawMdn, "AS2/raw-mdn/outgoing".to_owned(), name, key, 3);
    let mut entries: Vec<_> = (0..600).map(|n| entry(&format!("{n}.mdn"), &format!("f:aa{n}"))).collect();
    entries.push(entry("good.mdn", "j:zz"));
    storage
        .journal
        .write_blocking(move |tx| {
            tx.put_blob("j:zz", &bytes::Bytes::from_static(b"abc"))?;
            tx.add_entries("acme", "m", &entries, 5)
        })
        .unwrap();
    // A first round takes as many as a round may, and none of them can be placed.
    assert_eq!(storage.publish_batch().unwrap().placed, 0);
    assert_eq!(storage.publish_batch().unwrap().placed, 1);
    assert!(dir.path().join("tree/mftg-acme/AS2/raw-mdn/outgoing/good.mdn").exists());
    assert_eq!(storage.publish_batch().unwrap().placed, 0);
}

#[test]
fn what_would_pass_the_watermark_is_not_begun() {
    // Others use the disk as well, so the steps are wide.
    const STEP: u64 = 4 << 30;
    let dir = tempfile::tempdir().unwrap();
    let min_free = free_bytes(dir.path()).unwrap().saturating_sub(STEP);
    let storage = open(dir.path(), min_free);
    storage.check_room_for(0).unwrap();
    storage.check_room_for(STEP / 4).unwrap();
    for much in [STEP * 2, u64::MAX] {
        assert!(storage.check_room_for(much).unwrap_err().is_full());
    }
}

#[test]
fn a_copy_for_a_resend_leaves_the_watermark() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path(), u64::MAX);
    let entry = Entry {
        account: "acme".to_owned(),
        parent: "AS2/files/A/B/outbox/1".to_owned(),
        name: "sent.edi".to_owned(),
        version: 0,
        area: Area::Files,
        message: "1".to_owned(),
        is_dir: false,
        store: String::new(),
        size: 3,
        created: 0,
        noncurrent: None,
    };
    let path = storage.tree_path(&entry);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "abc").unwrap();
    assert!(storage.restage(&entry).unwrap_err().is_full());
    assert_eq!(fs::read_dir(dir.path().join("store")).unwrap().count(), 0);
}

#[test]
fn a_dropped_draft_leaves_nothing() {
    let (dir, storage) = storage();
    let mut draft = storage.draft();
    draft.write_at(1 << 20, b"x").unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("spool")).unwrap().count(), 1);
    drop(draft);
    assert_eq!(std::fs::read_dir(dir.path().join("spool")).unwrap().count(), 0);
}

#[test]
fn bytes_whose_sync_failed_are_never_promised() {
    let (dir, storage) = storage();
    let mut draft = storage.draft();
    draft.append(&[7; 100_000]).unwrap();
    let draft::DraftPlace::File { file, .. } = &mut draft.place else {
        panic!("a large draft is in a file")
    };
    // A pipe cannot be synced (EINVAL).
    let (reader, _writer) = std::io::pipe().unwrap();
    *file = std::os::fd::OwnedFd::from(reader).into();
    draft.sync().unwrap_err();
    assert!(draft.is_empty(), "what is kept to be gone on with has none of them");
    assert_eq!(draft.keep_as_part().unwrap().len, 0);
    assert_eq!(std::fs::read_dir(dir.path().join("spool")).unwrap().count(), 0);
}

#[test]
fn a_part_whose_sync_failed_is_not_gone_on_with() {
    let (dir, storage) = storage();
    let mut draft = storage.draft();
    draft.append(&[7; 100_000]).unwrap();
    if let draft::DraftPlace::File { file, .. } = &mut draft.place {
        // A pipe cannot be synced (EINVAL).
        *file = std::os::fd::OwnedFd::from(std::io::pipe().unwrap().0).into();
    }
    draft.keep_as_part().unwrap_err();
    assert_eq!(std::fs::read_dir(dir.path().join("spool")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(dir.path().join("store")).unwrap().count(), 0);
}

#[test]
fn a_part_goes_on_where_it_stopped() {
    let (_dir, storage) = storage();
    let mut draft = storage.draft();
    draft.append(b"first ").unwrap();
    let part = draft.keep_as_part().unwrap();
    let mut draft = storage.resume(&part.key).unwrap();
    assert_eq!(draft.len(), 6);
    draft.append(b"second").unwrap();
    let staged = draft.stage().unwrap();
    assert_eq!(read_all(&storage.open_staged(&staged.key).unwrap()), b"first second");
    assert!(storage.resume(&part.key).is_err(), "the part is used up");
}

#[test]
fn cutting_a_draft_forgets_the_tail() {
    let (_dir, storage) = storage();
    let mut draft = storage.draft();
    draft.append(&[1u8; 100]).unwrap();
    draft.set_len(3).unwrap();
    draft.append(&[2u8; 2]).unwrap();
    assert_eq!(draft.stage().unwrap().inline.unwrap().as_ref(), [1, 1, 1, 2, 2]);
}

fn broken_off(storage: &Storage, transfer: &str, bytes: &[u8]) -> (Place, Draft) {
    let place = storage.partials().place("aa", transfer).unwrap();
    let mut draft = place.begin(storage).unwrap();
    draft.append(bytes).unwrap();
    (place, draft)
}

#[test]
fn a_part_is_gone_on_with_and_becomes_a_whole() {
    let (_dir, storage) = storage();
    let body: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    for cut in [1, 1_000, 70_000, 199_999] {
        let (place, draft) = broken_off(&storage, "bb", &body[..cut]);
        assert!(storage.partials().place("aa", "bb").is_none(), "two writers at one place");
        draft.keep().unwrap();
        assert_eq!(place.kept_bytes(0).unwrap(), Kept::Part(cut as u64));
        assert_eq!(place.kept_bytes(Millis::MAX).unwrap(), Kept::Nothing, "too old");
        let mut draft = place.go_on(&storage, cut as u64).unwrap();
        draft.append(&body[cut..]).unwrap();
        let staged = draft.whole().stage().unwrap();
        assert_eq!(read_all(&storage.open_staged(&staged.key).unwrap()), body);
        assert_eq!(place.kept_bytes(0).unwrap(), Kept::Nothing);
        place.came_whole(200_000).unwrap();
        assert_eq!(place.kept_bytes(0).unwrap(), Kept::Whole(200_000));
    }
}

#[test]
fn parts_count_for_their_pair_and_are_swept_when_they_are_old() {
    let (_dir, storage) = storage();
    let (place, draft) = broken_off(&storage, "bb", &[1; 1_000]);
    draft.keep().unwrap();
    let (other, draft) = broken_off(&storage, "cc", &[2; 100_000]);
    draft.keep().unwrap();
    let usage = storage.partials().usage("aa", &place).unwrap();
    assert_eq!((usage.parts, usage.bytes, usage.whole), (1, 100_000, 0));
    drop(other);
    assert_eq!(storage.partials().sweep(0).unwrap(), 0);
    assert_eq!(
        storage.partials().sweep(Millis::MAX).unwrap(),
        1,
        "only the one that nobody works on"
    );
    assert_eq!(place.kept_bytes(0).unwrap(), Kept::Part(1_000));
}

#[test]
fn after_a_kill_all_is_held_and_after_a_power_cut_what_was_synced() {
    let (dir, storage) = storage();
    storage.partials().adopt().unwrap();
    let body = vec![3; 100_000];
    // A kill: nobody says goodbye to the drafts.
    let (kept, draft) = broken_off(&storage, "kept", &body);
    draft.keep().unwrap();
    let mut longer = kept.go_on(&storage, 100_000).unwrap();
    longer.append(&body).unwrap();
    drop(longer);
    let (fresh, draft) = broken_off(&storage, "fresh", &body);
    drop(draft);
    storage.partials().adopt().unwrap();
    assert_eq!(kept.kept_bytes(0).unwrap(), Kept::Part(200_000));
    assert_eq!(fresh.kept_bytes(0).unwrap(), Kept::Part(100_000));
    fs::write(dir.path().join("partial/boot"), "another boot").unwrap();
    storage.partials().adopt().unwrap();
    assert_eq!(kept.kept_bytes(0).unwrap(), Kept::Part(100_000));
    assert_eq!(fresh.kept_bytes(0).unwrap(), Kept::Nothing);
}

/// Lists a small file to be published.
fn list(storage: &Storage, name: &str) {
    use crate::journal::{Filing, NewEntry};
    use crate::layout::Area;
    use crate::message::{Direction, State};
    let staged = Staged::small(b"abc".to_vec());
    let filing = Filing {
        message: crate::manage::tests::message(Direction::In, State::Rejected, &staged.key, 1),
        entries: vec![NewEntry::file(
            Area::RawMdn,
            "AS2/raw-mdn/outgoing".to_owned(),
            name,
            &staged.key,
            3,
        )],
        blobs: staged.blob().into_iter().collect(),
        mdn: None,
        post_mdn_at: None,
    };
    storage.journal.write_blocking(move |tx| tx.record_refused(&filing, 1)).unwrap();
}

#[test]
fn what_is_listed_is_published_while_more_keeps_coming() {
    let (dir, storage) = storage();
    list(&storage, "first");
    let stop = AtomicBool::new(false);
    let (began, limit) = (Instant::now(), std::time::Duration::from_secs(5));
    let took = std::thread::scope(|scope| {
        for lister in 0..2 {
            let (storage, stop) = (&storage, &stop);
            scope.spawn(move || {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) && began.elapsed() < limit {
                    list(storage, &format!("{lister}-{n}"));
                    n += 1;
                }
            });
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        storage.publish_listed().unwrap();
        let took = began.elapsed();
        stop.store(true, Ordering::Relaxed);
        took
    });
    assert!(took < limit, "{took:?}");
    assert!(dir.path().join("tree/mftg-acme/AS2/raw-mdn/outgoing/first").is_file());
}

/// An entry that is listed under this name, out of view since a moment; its bytes stand where a power cut left them.
fn retired(storage: &Storage, name: &'static str, at: Millis) -> Entry {
    list(storage, name);
    storage.publish_listed().unwrap();
    let visible = || {
        let found = storage.journal.read(|tx| tx.entry("acme", "AS2/raw-mdn/outgoing", name));
        found.unwrap().unwrap()
    };
    let entry = visible();
    let retired = entry.clone();
    storage.journal.write_blocking(move |tx| tx.retire_entry(&retired, at)).unwrap();
    Entry {
        noncurrent: Some(at),
        ..entry
    }
}

#[test]
fn what_is_out_of_view_is_not_read_at_a_place_that_is_anothers_by_now() {
    let (_dir, storage) = storage();
    let used = retired(&storage, "used", 5);
    list(&storage, "used");
    storage.publish_listed().unwrap();
    assert!(matches!(storage.open_entry(&used), Err(StorageError::Missing(_))));
    let current = Entry {
        version: 1,
        noncurrent: None,
        ..used
    };
    assert!(storage.open_entry(&current).is_ok());
}

#[test]
fn what_a_power_cut_left_in_the_tree_goes_with_its_entry() {
    let (dir, storage) = storage();
    let in_tree = |name: &str| dir.path().join("tree/mftg-acme/AS2/raw-mdn/outgoing").join(name).exists();
    let left = retired(&storage, "left", 5);
    assert!(in_tree("left"));
    storage.purge(&left).unwrap();
    assert!(!in_tree("left"));
    // Not what is another's by now, in view or out of it, and not while something is brought back.
    let used = retired(&storage, "used", 5);
    list(&storage, "used");
    storage.publish_listed().unwrap();
    storage.purge(&used).unwrap();
    assert!(in_tree("used"));
    let old = retired(&storage, "again", 5);
    let newer = retired(&storage, "again", 6);
    assert_eq!((old.version, newer.version), (0, 1));
    storage.purge(&old).unwrap();
    assert!(in_tree("again"));
    let restoring = storage.restoring().unwrap();
    let back = retired(&storage, "back", 5);
    storage.purge(&back).unwrap();
    assert!(in_tree("back"));
    drop(restoring);
    storage.purge(&back).unwrap();
    assert!(!in_tree("back"));
}

#[test]
fn one_entry_is_made_durable_out_of_view_without_a_sync_of_all() {
    let (_dir, storage) = storage();
    let entry = retired(&storage, "gone", 5);
    let current = Entry { noncurrent: None, ..entry };
    storage.retire(&current).unwrap();
    assert!(storage.noncurrent_path(&current).exists());
    storage.sync_retired(&current).unwrap();
    // Also if it was lost, or is retired once more.
    storage.retire(&current).unwrap();
    storage.sync_retired(&current).unwrap();
}

#[test]
fn a_sweep_beside_another_loses_no_directory_to_it() {
    const VERSIONS: i64 = 2_000;
    let (dir, storage) = storage();
    let current = Entry {
        noncurrent: None,
        ..retired(&storage, "again", 5)
    };
    let path = storage.tree_path(&current);
    std::fs::remove_file(&path).unwrap();
    // Nobody looks for what was left behind.
    let _restoring = storage.restoring().unwrap();
    // A version of the name goes for good, with its directories, while the next one is moved there.
    let (tell, told) = std::sync::mpsc::channel::<Entry>();
    std::thread::scope(|scope| {
        let storage = &storage;
        scope.spawn(move || told.iter().for_each(|entry| storage.purge(&entry).unwrap()));
        for version in 0..VERSIONS {
            let entry = Entry {
                version,
                ..current.clone()
            };
            std::fs::write(&path, b"abc").unwrap();
            storage.retire(&entry).unwrap();
            assert!(!path.exists(), "version {version} was left in the tree");
            tell.send(entry).unwrap();
        }
        drop(tell);
    });
    assert_eq!(std::fs::read_dir(dir.path().join("noncurrent")).unwrap().count(), 0);
}

/// Lists a file in the directory of its message, and publishes it; the rows of both.
fn listed_below(storage: &Storage, message: &'static str) -> Vec<Entry> {
    use crate::journal::NewEntry;
    let staged = Staged::small(b"abc".to_vec());
    let shelf = "AS2/files/ALICE/BOB/inbox";
    let entries = [
        NewEntry::dir(Area::Files, shelf.to_owned(), message),
        NewEntry::file(Area::Files, format!("{shelf}/{message}"), "a.edi", &staged.key, 3),
    ];
    storage
        .journal
        .write_blocking(move |tx| {
            let (key, bytes) = staged.blob().unwrap();
            tx.put_blob(&key, &bytes)?;
            tx.add_entries("acme", message, &entries, 1)
        })
        .unwrap();
    storage.publish_listed().unwrap();
    storage.journal.read(|tx| tx.entries_of(message)).unwrap()
}

#[test]
fn the_directory_of_a_message_goes_with_its_files() {
    let (dir, storage) = storage();
    let shelf = dir.path().join("tree/mftg-acme/AS2/files/ALICE/BOB/inbox");
    let entries = listed_below(&storage, "m1");
    // As a sweep does it: the directory's row comes first, while it is full.
    entries.iter().for_each(|entry| storage.retire(entry).unwrap());
    storage.drop_emptied(&entries);
    assert!(!shelf.join("m1").exists() && shelf.exists());
    // What a sweep of before left goes when its row does, and in the end even without one.
    for name in ["m1", "m2", "m3"] {
        fs::create_dir(shelf.join(name)).unwrap();
    }
    let retired = entries.into_iter().find(|entry| entry.is_dir).unwrap();
    storage.purge(&retired).unwrap();
    assert!(!shelf.join("m1").exists());
    listed_below(&storage, "m4");
    let listed = listed_below(&storage, "m5");
    fs::remove_file(storage.tree_path(&listed[1])).unwrap();
    assert_eq!(storage.drop_unlisted_directories(3600).unwrap(), 0, "they are fresh");
    assert_eq!(storage.drop_unlisted_directories(0).unwrap(), 2);
    assert!(shelf.join("m4/a.edi").exists() && shelf.join("m5").exists());
}

#[test]
fn a_sweep_beside_the_publisher_takes_no_directory_from_it() {
    let (_dir, storage) = storage();
    let listed = listed_below(&storage, "m0");
    let dir = storage.tree_path(&listed[1]).parent().unwrap().to_owned();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Another process, whom no lock of ours holds up.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = fs::remove_dir(&dir);
                // Sweeps come once a day: one that never rests would win for ever.
                std::thread::sleep(std::time::Duration::from_micros(20));
            }
        });
        let put = |n: usize| {
            let target = dir.join(n.to_string());
            publish::replace_below(&target, |path| fs::write(path, b"abc"))?;
            fs::remove_file(&target)?;
            let _ = fs::remove_file(storage.tree_path(&listed[1]));
            Ok::<_, io::Error>(())
        };
        let all = (0..2_000).try_for_each(put);
        // The other one has to end before anything is judged.
        stop.store(true, Ordering::Relaxed);
        all.unwrap();
    });
}
