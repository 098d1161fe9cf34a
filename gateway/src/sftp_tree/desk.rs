//! What a login has to know about names beyond the journal: uploads that are being written, and names whose file has
//! moved on but about which clients still ask (sftp.md §4.6).

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::Millis;

/// How long a name keeps answering after its upload, at least.
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
    session: u64,
}

#[derive(Default)]
struct Names {
    seen: HashMap<Key, Seen>,
    /// The sizes of what is being written under a name, the latest last.
    live: HashMap<Key, Vec<Arc<AtomicU64>>>,
    sessions: HashSet<u64>,
    /// Session and path of a file that looks broken off unless its client looks back; one for each session.
    awaited: HashMap<u64, String>,
}

/// The names of all logins.
#[derive(Default)]
pub(super) struct Desk {
    names: Mutex<Names>,
    quotas: Mutex<()>,
}

/// An upload that is being written; its size is seen by its user until this is dropped.
pub(super) struct Live {
    desk: Arc<Desk>,
    key: Key,
    size: Arc<AtomicU64>,
}

impl Live {
    pub(super) fn set(&self, size: u64) {
        self.size.store(size, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let mut names = self.desk.names();
        if let Some(sizes) = names.live.get_mut(&self.key) {
            sizes.retain(|size| !Arc::ptr_eq(size, &self.size));
            if sizes.is_empty() {
                names.live.remove(&self.key);
            }
        }
    }
}

impl Desk {
    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held from the look at a quota until the upload [is counted](Self::write).
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.quotas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, session: u64) {
        self.names().sessions.insert(session);
    }

    pub(super) fn end(&self, session: u64) {
        let mut names = self.names();
        names.sessions.remove(&session);
        names.awaited.remove(&session);
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
    pub(super) fn write(self: &Arc<Self>, user: &str, path: &str, exclusive: bool) -> Option<Live> {
        let key = (user.to_owned(), path.to_owned());
        let size = Arc::new(AtomicU64::new(0));
        let mut names = self.names();
        let sizes = names.live.entry(key.clone()).or_default();
        if exclusive && !sizes.is_empty() {
            return None;
        }
        sizes.push(Arc::clone(&size));
        Some(Live {
            desk: Arc::clone(self),
            key,
            size,
        })
    }

    /// The size of an upload of this user that is being written.
    pub(super) fn live_size(&self, user: &str, path: &str) -> Option<u64> {
        self.names()
            .live
            .get(&(user.to_owned(), path.to_owned()))
            .and_then(|sizes| latest(sizes))
    }

    /// The names of this user's uploads below a directory that are being written.
    pub(super) fn live_below(&self, user: &str, dir: &str) -> Vec<(String, u64)> {
        let names = self.names();
        let below = names.live.iter().filter(|((owner, _), _)| owner == user);
        below
            .filter_map(|((_, path), sizes)| {
                let name = path.strip_prefix(dir)?.strip_prefix('/')?;
                let size = latest(sizes)?;
                (!name.contains('/')).then(|| (name.to_owned(), size))
            })
            .collect()
    }

    /// Number and bytes of this user's uploads that are being written.
    pub(super) fn live_total(&self, user: &str) -> (u64, u64) {
        let names = self.names();
        let sizes = names
            .live
            .iter()
            .filter(|((owner, _), _)| owner == user)
            .flat_map(|(_, sizes)| sizes)
            .map(|size| size.load(Ordering::Relaxed));
        sizes.fold((0, 0), |(files, bytes), size| (files + 1, bytes + size))
    }

    /// A file was accepted; its name goes on answering.
    pub(super) fn remember(&self, user: &str, path: &str, size: u64, mtime: u64, session: u64, now: Millis) {
        let mut names = self.names();
        if names.seen.len() >= MAX_NAMES {
            let Names { seen, sessions, .. } = &mut *names;
            seen.retain(|_, seen| seen.until > now || sessions.contains(&seen.session));
            if seen.len() >= MAX_NAMES {
                seen.retain(|_, seen| seen.until > now + AFTERGLOW / 2);
            }
        }
        names.seen.insert(
            (user.to_owned(), path.to_owned()),
            Seen {
                size,
                mtime,
                until: now + AFTERGLOW,
                session,
            },
        );
    }

    /// Size and time of a file that has moved on.
    pub(super) fn recall(&self, user: &str, path: &str, now: Millis) -> Option<(u64, u64)> {
        let names = self.names();
        let seen = names.seen.get(&(user.to_owned(), path.to_owned()))?;
        (seen.until > now || names.sessions.contains(&seen.session)).then_some((seen.size, seen.mtime))
    }

    /// The client set a time on a file that has moved on.
    pub(super) fn touch(&self, user: &str, path: &str, mtime: u64) {
        if let Some(seen) = self.names().seen.get_mut(&(user.to_owned(), path.to_owned())) {
            seen.mtime = mtime;
        }
    }

    pub(super) fn forget(&self, user: &str, path: &str) {
        self.names().seen.remove(&(user.to_owned(), path.to_owned()));
    }
}

/// The size of the upload that began last.
fn latest(sizes: &[Arc<AtomicU64>]) -> Option<u64> {
    sizes.last().map(|size| size.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_answer_while_the_session_lives_or_ten_minutes() {
        let desk = Arc::new(Desk::default());
        desk.begin(1);
        desk.remember("u", "AS2/send/A/B/f", 5, 7, 1, 0);
        assert_eq!(desk.recall("u", "AS2/send/A/B/f", AFTERGLOW * 2), Some((5, 7)));
        desk.end(1);
        assert_eq!(desk.recall("u", "AS2/send/A/B/f", AFTERGLOW - 1), Some((5, 7)));
        assert_eq!(desk.recall("u", "AS2/send/A/B/f", AFTERGLOW), None);
        assert_eq!(desk.recall("v", "AS2/send/A/B/f", 0), None, "other users see what is really there");
    }

    #[test]
    fn uploads_in_work_are_seen_by_their_user() {
        let desk = Arc::new(Desk::default());
        let live = desk.write("u", "AS2/send/A/B/f", true).unwrap();
        live.set(9);
        assert_eq!(desk.live_size("u", "AS2/send/A/B/f"), Some(9));
        assert_eq!(desk.live_below("u", "AS2/send/A/B"), vec![("f".to_owned(), 9)]);
        assert!(desk.live_below("v", "AS2/send/A/B").is_empty());
        assert!(desk.write("u", "AS2/send/A/B/f", true).is_none(), "it is there already");
        assert!(desk.write("v", "AS2/send/A/B/f", true).is_some(), "others do not see it");
        let again = desk.write("u", "AS2/send/A/B/f", false).unwrap();
        again.set(4);
        assert_eq!(desk.live_size("u", "AS2/send/A/B/f"), Some(4));
        assert_eq!(desk.live_total("u"), (2, 13), "two uploads of one name count twice");
        drop(again);
        assert_eq!(desk.live_size("u", "AS2/send/A/B/f"), Some(9));
        drop(live);
        assert_eq!(desk.live_size("u", "AS2/send/A/B/f"), None);
    }
}
