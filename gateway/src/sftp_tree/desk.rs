//! What a login has to know about names beyond the journal: uploads that are being written, and names whose file has
//! moved on but about which clients still ask (sftp.md §4.6).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::clock::Millis;
use crate::lock::locked;

/// How long a name keeps answering after its upload: a mount that stays for weeks must not see it for so long.
const AFTERGLOW: Millis = 10 * 60 * 1000;
/// Most names remembered on the server.
const MAX_NAMES: usize = 20_000;

/// A file of a user: the user's name and the path below the account's home.
type Key = (String, String);

#[derive(Clone, Copy)]
struct Seen {
    size: u64,
    mtime: u64,
    until: Millis,
}

#[derive(Default)]
struct Names {
    seen: HashMap<Arc<Key>, Seen>,
    /// The names in `seen`, each as often as it was remembered, oldest first, and until when it was to answer then.
    order: VecDeque<(Arc<Key>, Millis)>,
    /// What is being written under a name, the latest last.
    live: HashMap<Key, Vec<Arc<Open>>>,
    /// Users and their uploads that were removed while they were written: the bytes stay until their handles are closed.
    removed: Vec<(String, Arc<Open>)>,
    sessions: HashSet<u64>,
    /// Store keys of accepted files that were taken back, and how many open uploads are to take their place.
    taken_back: HashMap<String, usize>,
    /// Session and path of a file that looks broken off unless its client looks back; one for each session.
    awaited: HashMap<u64, String>,
}

/// The names of all logins.
#[derive(Default)]
pub(super) struct Desk {
    names: Mutex<Names>,
    quotas: Mutex<()>,
}

/// An open upload as requests about its name see it.
struct Open {
    session: u64,
    size: AtomicU64,
    /// Another upload of its user has ended, and its bytes are counted elsewhere by now.
    is_stale: AtomicBool,
    /// Another upload of its name has been open beside it, and may have left a part.
    is_beside: AtomicBool,
    /// Locked behind the names.
    fate: Mutex<Fate>,
}

/// What requests about its name have made of an open upload.
struct Fate {
    /// Its path; another one than it was opened under if it was renamed.
    path: String,
    /// It was removed: its bytes go nowhere.
    is_removed: bool,
    /// It is being decided about, too late for the above.
    is_ending: bool,
    /// A later upload of its name has been finished: if this one breaks off, there is nothing to go on with.
    is_outdone: bool,
    /// The time that its client set.
    mtime: Option<u64>,
}

impl Fate {
    fn path(&self) -> Option<String> {
        (!self.is_removed).then(|| self.path.clone())
    }
}

impl Open {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    fn fate(&self) -> MutexGuard<'_, Fate> {
        locked(&self.fate)
    }
}

/// An upload that is being written; its size is seen by its user until this is dropped.
pub(super) struct Live {
    desk: Arc<Desk>,
    user: String,
    open: Arc<Open>,
}

impl Live {
    pub(super) fn set(&self, size: u64) {
        self.open.size.store(size, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.open.size()
    }

    /// Whether what else its user has in `send` has to be counted again; told once.
    pub(super) fn is_stale(&self) -> bool {
        self.open.is_stale.swap(false, Ordering::SeqCst)
    }

    /// Whether another upload of its name was open at the same time.
    pub(super) fn was_beside_another(&self) -> bool {
        self.open.is_beside.load(Ordering::SeqCst)
    }

    /// Its path at this moment, and `None` if it was removed.
    pub(super) fn path(&self) -> Option<String> {
        self.open.fate().path()
    }

    pub(super) fn is_removed(&self) -> bool {
        self.open.fate().is_removed
    }

    /// The time that its client set, on the handle or on the name.
    pub(super) fn mtime(&self) -> Option<u64> {
        self.open.fate().mtime
    }

    pub(super) fn touch(&self, mtime: u64) {
        self.open.fate().mtime = Some(mtime);
    }

    /// A later upload of its name has been finished.
    pub(super) fn is_outdone(&self) -> bool {
        self.open.fate().is_outdone
    }

    /// This upload has been finished: those of its name that began earlier are outdone.
    pub(super) fn outdo(&self) {
        let names = self.desk.names();
        let key = (self.user.clone(), self.open.fate().path.clone());
        let all = names.live.get(&key).into_iter().flatten();
        let earlier = all.take_while(|open| !Arc::ptr_eq(open, &self.open));
        earlier.for_each(|open| open.fate().is_outdone = true);
    }

    /// The upload ends: from now on it can be neither renamed nor removed here. Its path at this moment, and `None` if it was
    /// removed.
    pub(super) fn end(&self) -> Option<String> {
        let mut fate = self.open.fate();
        fate.is_ending = true;
        fate.path()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let mut names = self.desk.names();
        names.removed.retain(|(_, open)| !Arc::ptr_eq(open, &self.open));
        let key = (std::mem::take(&mut self.user), self.open.fate().path.clone());
        if let Some(open) = names.live.get_mut(&key) {
            open.retain(|open| !Arc::ptr_eq(open, &self.open));
            if open.is_empty() {
                names.live.remove(&key);
            }
        }
    }
}

impl Desk {
    fn names(&self) -> MutexGuard<'_, Names> {
        locked(&self.names)
    }

    /// Held from the look at a quota until the upload [is counted](Self::write).
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        locked(&self.quotas)
    }

    pub(super) fn begin(&self, session: u64) {
        self.names().sessions.insert(session);
    }

    pub(super) fn end(&self, session: u64) {
        let mut names = self.names();
        names.sessions.remove(&session);
        names.awaited.remove(&session);
    }

    /// One more upload is open that is to take the place of a file which was taken back.
    pub(super) fn hold_back(&self, store: &str) {
        *self.names().taken_back.entry(store.to_owned()).or_default() += 1;
    }

    /// One of them has ended; whether it was the last.
    pub(super) fn end_hold(&self, store: &str) -> bool {
        let mut names = self.names();
        let left = names.taken_back.get_mut(store).map_or(0, |open| {
            *open -= 1;
            *open
        });
        if left == 0 {
            names.taken_back.remove(store);
        }
        left == 0
    }

    /// No two sessions are logged in.
    pub(super) fn has_one_session(&self) -> bool {
        self.names().sessions.len() <= 1
    }

    /// The client of this session will ask for the size of this file, if it finished it.
    pub(super) fn awaits_look(&self, session: u64, path: &str) {
        self.names().awaited.insert(session, path.to_owned());
    }

    /// Whether that was so; it counts once.
    pub(super) fn was_awaited(&self, session: u64, path: &str) -> bool {
        let mut names = self.names();
        let awaited = names.awaited.get(&session).is_some_and(|awaited| awaited == path);
        if awaited {
            names.awaited.remove(&session);
        }
        awaited
    }

    /// An upload begins; not under a name that its user is writing already, if it is to be the only one.
    pub(super) fn write(self: &Arc<Self>, user: &str, session: u64, path: &str, exclusive: bool) -> Option<Live> {
        let open = Arc::new(Open {
            session,
            size: AtomicU64::new(0),
            is_stale: AtomicBool::new(false),
            is_beside: AtomicBool::new(false),
            fate: Mutex::new(Fate {
                path: path.to_owned(),
                is_removed: false,
                is_ending: false,
                is_outdone: false,
                mtime: None,
            }),
        });
        let mut names = self.names();
        let all = names.live.entry(key(user, path)).or_default();
        if exclusive && !all.is_empty() {
            return None;
        }
        all.push(Arc::clone(&open));
        are_beside(all);
        Some(Live {
            desk: Arc::clone(self),
            user: user.to_owned(),
            open,
        })
    }

    /// The uploads of this user that are being written under a name are removed, as a file system would let go of the name
    /// of an open file; false if there are none.
    pub(super) fn remove_live(&self, user: &str, path: &str) -> bool {
        let mut names = self.names();
        let removed = names.take_open(user, path, |_| true, |fate| fate.is_removed = true);
        let was_open = !removed.is_empty();
        names.removed.extend(removed.into_iter().map(|open| (user.to_owned(), open)));
        was_open
    }

    /// Those of this session get another name; false if there are none. What another session writes is not meant.
    pub(super) fn rename_live(&self, user: &str, session: u64, from: &str, to: &str) -> bool {
        let mut names = self.names();
        let own = |open: &Open| open.session == session;
        let renamed = names.take_open(user, from, own, |fate| to.clone_into(&mut fate.path));
        if renamed.is_empty() {
            return false;
        }
        let all = names.live.entry(key(user, to)).or_default();
        all.extend(renamed);
        are_beside(all);
        true
    }

    /// Whether this session is writing a file of this name.
    pub(super) fn is_writing(&self, user: &str, session: u64, path: &str) -> bool {
        let names = self.names();
        let open = names.live.get(&key(user, path));
        open.is_some_and(|open| open.iter().any(|open| open.session == session))
    }

    /// The size of an upload of this user that is being written.
    pub(super) fn live_size(&self, user: &str, path: &str) -> Option<u64> {
        Some(self.live(user, path)?.0)
    }

    /// The same, and the time that its client set.
    pub(super) fn live(&self, user: &str, path: &str) -> Option<(u64, Option<u64>)> {
        let names = self.names();
        let open = names.live.get(&key(user, path))?.last()?;
        Some((open.size(), open.fate().mtime))
    }

    /// The client set a time on the name of what it is writing.
    pub(super) fn touch_live(&self, user: &str, path: &str, mtime: u64) {
        let names = self.names();
        let open = names.live.get(&key(user, path)).into_iter().flatten();
        open.for_each(|open| open.fate().mtime = Some(mtime));
    }

    /// The names of this user's uploads below a directory that are being written.
    pub(super) fn live_below(&self, user: &str, dir: &str) -> Vec<(String, u64)> {
        let names = self.names();
        let below = names.live.iter().filter(|((owner, _), _)| owner == user);
        below
            .filter_map(|((_, path), open)| {
                let name = path.strip_prefix(dir)?.strip_prefix('/')?;
                let size = latest(open)?;
                (!name.contains('/')).then(|| (name.to_owned(), size))
            })
            .collect()
    }

    /// An upload of this user is in the journal now, and its [`Live`] about to go: the others have to count again.
    pub(super) fn recount(&self, user: &str) {
        let names = self.names();
        let all = names.live.iter().filter(|((owner, _), _)| owner == user).flat_map(|(_, open)| open);
        all.for_each(|open| open.is_stale.store(true, Ordering::SeqCst));
    }

    /// Number and bytes of this user's uploads that are being written, or were and take room still.
    pub(super) fn live_total(&self, user: &str) -> (u64, u64) {
        let names = self.names();
        let written = names.live.iter().filter(|((owner, _), _)| owner == user).flat_map(|(_, open)| open);
        let removed = names.removed.iter().filter(|(owner, _)| owner == user).map(|(_, open)| open);
        written
            .chain(removed)
            .map(|open| open.size())
            .fold((0, 0), |(files, bytes), size| (files + 1, bytes + size))
    }

    /// A file was accepted; its name goes on answering.
    pub(super) fn remember(&self, user: &str, path: &str, size: u64, mtime: u64, now: Millis) {
        let mut names = self.names();
        while names.order.len() >= MAX_NAMES
            && let Some((oldest, until)) = names.order.pop_front()
        {
            // It may have been remembered once more since.
            if names.seen.get(&oldest).is_some_and(|seen| seen.until == until) {
                names.seen.remove(&oldest);
            }
        }
        let (name, until) = (Arc::new(key(user, path)), now + AFTERGLOW);
        names.order.push_back((Arc::clone(&name), until));
        names.seen.insert(name, Seen { size, mtime, until });
    }

    /// Size and time of a file that has moved on.
    pub(super) fn recall(&self, user: &str, path: &str, now: Millis) -> Option<(u64, u64)> {
        let names = self.names();
        let seen = names.seen.get(&key(user, path))?;
        (seen.until > now).then_some((seen.size, seen.mtime))
    }

    /// The client set a time on a file that has moved on.
    pub(super) fn touch(&self, user: &str, path: &str, mtime: u64) {
        if let Some(seen) = self.names().seen.get_mut(&key(user, path)) {
            seen.mtime = mtime;
        }
    }

    pub(super) fn forget(&self, user: &str, path: &str) {
        self.names().seen.remove(&key(user, path));
    }
}

impl Names {
    /// Takes these open uploads of a name, but for those that are being decided about, each changed so.
    fn take_open(&mut self, user: &str, path: &str, which: impl Fn(&Open) -> bool, change: impl Fn(&mut Fate)) -> Vec<Arc<Open>> {
        let key = key(user, path);
        let Some(all) = self.live.remove(&key) else { return Vec::new() };
        let (taken, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|open| {
            let mut fate = open.fate();
            let takes = which(open) && !fate.is_ending;
            if takes {
                change(&mut fate);
            }
            takes
        });
        if !others.is_empty() {
            self.live.insert(key, others);
        }
        taken
    }
}

fn key(user: &str, path: &str) -> Key {
    (user.to_owned(), path.to_owned())
}

/// Of several uploads of a name each has been beside another.
fn are_beside(all: &[Arc<Open>]) {
    if all.len() > 1 {
        all.iter().for_each(|open| open.is_beside.store(true, Ordering::SeqCst));
    }
}

/// The size of the upload that began last.
fn latest(open: &[Arc<Open>]) -> Option<u64> {
    open.last().map(|open| open.size())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_answer_for_ten_minutes_however_long_the_session_lives() {
        let desk = Arc::new(Desk::default());
        desk.begin(1);
        desk.remember("u", "AS2/send/A/B/f", 5, 7, 0);
        assert_eq!(desk.recall("u", "AS2/send/A/B/f", AFTERGLOW - 1), Some((5, 7)));
        assert_eq!(desk.recall("u", "AS2/send/A/B/f", AFTERGLOW), None);
        assert_eq!(desk.recall("v", "AS2/send/A/B/f", 0), None, "other users see what is really there");
    }

    #[test]
    fn the_names_that_are_remembered_are_bounded() {
        let desk = Desk::default();
        desk.begin(1);
        let path = |n: usize| format!("AS2/send/A/B/{n}");
        (0..MAX_NAMES + 10).for_each(|n| desk.remember("u", &path(n), 1, 1, 0));
        assert_eq!(desk.names().seen.len(), MAX_NAMES);
        assert_eq!(desk.recall("u", &path(9), 0), None, "the oldest went");
        assert_eq!(desk.recall("u", &path(10), 0), Some((1, 1)));
        (0..MAX_NAMES).for_each(|at| desk.remember("u", &path(0), 2, 2, i64::try_from(at).unwrap()));
        assert_eq!(desk.names().order.len(), MAX_NAMES);
        assert_eq!(desk.names().seen.len(), 1);
        assert_eq!(desk.recall("u", &path(0), 0), Some((2, 2)));
    }

    #[test]
    fn a_finished_upload_outdoes_those_that_began_before_it() {
        let desk = Arc::new(Desk::default());
        let path = "AS2/send/A/B/f";
        let [first, second, third] = [1, 2, 3].map(|session| desk.write("u", session, path, false).unwrap());
        let other = desk.write("v", 4, path, false).unwrap();
        second.outdo();
        assert_eq!([&first, &second, &third, &other].map(Live::is_outdone), [true, false, false, false]);
    }

    #[test]
    fn an_upload_knows_of_others_that_were_open_beside_it() {
        let desk = Arc::new(Desk::default());
        let (path, temporary) = ("AS2/send/A/B/f", "AS2/send/A/B/f.tmp");
        let first = desk.write("u", 1, path, false).unwrap();
        let of_another = desk.write("v", 2, path, false).unwrap();
        assert!(!first.was_beside_another() && !of_another.was_beside_another());
        drop(desk.write("u", 3, path, false).unwrap());
        assert!(first.was_beside_another(), "that one has ended");
        let alone = desk.write("u", 4, temporary, false).unwrap();
        drop(first);
        let next = desk.write("u", 5, path, false).unwrap();
        assert!(!alone.was_beside_another() && !next.was_beside_another());
        assert!(desk.rename_live("u", 4, temporary, path));
        assert!(alone.was_beside_another() && next.was_beside_another(), "by its new name");
    }

    #[test]
    fn uploads_in_work_are_seen_by_their_user() {
        let desk = Arc::new(Desk::default());
        let live = desk.write("u", 1, "AS2/send/A/B/f", true).unwrap();
        live.set(9);
        assert_eq!(desk.live_size("u", "AS2/send/A/B/f"), Some(9));
        assert_eq!(desk.live_below("u", "AS2/send/A/B"), vec![("f".to_owned(), 9)]);
        assert!(desk.live_below("v", "AS2/send/A/B").is_empty());
        assert!(desk.write("u", 1, "AS2/send/A/B/f", true).is_none(), "it is there already");
        assert!(desk.write("v", 1, "AS2/send/A/B/f", true).is_some(), "others do not see it");
        let again = desk.write("u", 1, "AS2/send/A/B/f", false).unwrap();
        again.set(4);
        assert_eq!(desk.live_size("u", "AS2/send/A/B/f"), Some(4));
        assert_eq!(desk.live_total("u"), (2, 13), "two uploads of one name count twice");
        drop(again);
        assert_eq!(desk.live_size("u", "AS2/send/A/B/f"), Some(9));
        drop(live);
        assert_eq!(desk.live_size("u", "AS2/send/A/B/f"), None);
    }

    #[test]
    fn uploads_in_work_are_renamed_and_removed_until_they_end() {
        let desk = Arc::new(Desk::default());
        let (old, new) = ("AS2/send/A/B/f.tmp", "AS2/send/A/B/f");
        let live = desk.write("u", 1, old, false).unwrap();
        assert!(!desk.rename_live("u", 2, old, new), "another session's");
        assert!(desk.is_writing("u", 1, old) && !desk.is_writing("u", 2, old));
        assert!(!desk.rename_live("v", 1, old, new) && !desk.remove_live("u", new));
        assert!(desk.rename_live("u", 1, old, new));
        assert_eq!((desk.live_size("u", old), desk.live_size("u", new)), (None, Some(0)));
        assert_eq!(live.end().as_deref(), Some(new));
        assert!(
            !desk.rename_live("u", 1, new, old) && !desk.remove_live("u", new),
            "it is being decided about"
        );
        assert_eq!(desk.live_size("u", new), Some(0));
        drop(live);
        assert_eq!(desk.live_total("u"), (0, 0));
        let removed = desk.write("u", 1, old, false).unwrap();
        assert!(desk.remove_live("u", old));
        assert_eq!(removed.end(), None);
        let again = desk.write("u", 1, old, true).unwrap();
        assert_eq!(desk.live_total("u").0, 2, "a removed one takes room until its handle is closed");
        drop(removed);
        assert_eq!(desk.live_total("u").0, 1);
        assert_eq!(desk.live_size("u", old), Some(0), "the one of before takes nothing along");
        drop(again);
    }
}
