#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

fn storage() -> (tempfile::TempDir, Storage) {
    let dir = tempfile::tempdir().unwrap();
    let journal = Arc::new(Journal::open(&dir.path().join("db")).unwrap());
    let storage = Storage::open(dir.path(), journal, 0).unwrap();
    (dir, storage)
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
fn a_dropped_draft_leaves_nothing() {
    let (dir, storage) = storage();
    let mut draft = storage.draft();
    draft.write_at(1 << 20, b"x").unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("spool")).unwrap().count(), 1);
    drop(draft);
    assert_eq!(std::fs::read_dir(dir.path().join("spool")).unwrap().count(), 0);
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
    assert_eq!(draft.stage().unwrap().inline.unwrap(), [1, 1, 1, 2, 2]);
}
