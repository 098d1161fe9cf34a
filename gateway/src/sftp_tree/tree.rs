//! One login's view of the account's tree (product.md §3): what is where, and who may do what.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::json;
use sftp_front::{CloseSign, Download, Entry, Fault, Listing, OpenHow, SetStat, Space, Stat, Tree, Upload, VPath};

use super::desk::Desk;
use super::listing::{Names, Records, Sends, dir_stat, entry_stat, file_stat, seconds};
use super::pace::{Pace, Way};
use super::trail::Trail;
use super::upload::Writing;
use super::{failure, now};
use crate::clock::millis;
use crate::gateway::Core;
use crate::journal::{self, UploadRow, UploadState};
use crate::layout::{self, Area, Place};
use crate::message::{Message, State};
use crate::storage::Content;
use crate::user::{Act, User};
use crate::{intake, lifecycle};

/// Known pairs that a refusal names.
const NAMED_PAIRS: usize = 5;

/// One login.
pub(super) struct As2Tree {
    pub(super) core: Arc<Core>,
    pub(super) desk: Arc<Desk>,
    pub(super) trail: Arc<Trail>,
    pub(super) pace: Arc<Pace>,
    pub(super) account: String,
    pub(super) user: String,
    pub(super) session: u64,
    home: String,
    since: u64,
}

/// What the logins share.
pub(super) struct Tools {
    pub(super) desk: Arc<Desk>,
    pub(super) trail: Arc<Trail>,
    pub(super) pace: Arc<Pace>,
}

/// A file in a send directory.
pub(super) struct SendPath {
    pub(super) station: String,
    pub(super) partner: String,
    pub(super) name: String,
    /// Below the account's home.
    pub(super) path: String,
}

/// What a name in a send directory is at this moment.
pub(super) enum Sent {
    /// A message in work.
    Message(Box<Message>),
    /// A part, parked or ignored file.
    Waits(Box<UploadRow>),
    /// Nothing that the journal knows.
    Nothing,
}

impl As2Tree {
    pub(super) fn new(core: Arc<Core>, tools: Tools, user: &User, session: u64) -> Self {
        let since = seconds(core.clock.now());
        let Tools { desk, trail, pace } = tools;
        As2Tree {
            core,
            desk,
            trail,
            pace,
            account: user.account.clone(),
            user: user.name.clone(),
            session,
            home: format!("mftg-{}", user.account),
            since,
        }
    }

    /// What a path means; other accounts' homes are names that do not exist.
    fn place(&self, path: &VPath) -> Result<Option<Place>, Fault> {
        let Some((first, rest)) = path.components().split_first() else {
            return Ok(None);
        };
        if *first != self.home {
            return Err(Fault::no_such_file());
        }
        // What the user may not see is not there, the same as what is not there.
        if !self
            .core
            .objects()
            .user_of(&self.account, &self.user)
            .is_some_and(|user| user.sees(rest))
        {
            return Err(Fault::no_such_file());
        }
        let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
        match Place::read(&rest) {
            Place::Closed => Err(denied()),
            Place::Nowhere => Err(Fault::no_such_file()),
            place => Ok(Some(place)),
        }
    }

    /// Refuses what the user's rights do not allow at this moment.
    fn need(&self, act: Act, path: &VPath) -> Result<(), Fault> {
        let below = path.components().get(1..).unwrap_or_default();
        let objects = self.core.objects();
        let user = objects.user_of(&self.account, &self.user).ok_or_else(denied)?;
        let lists = act == Act::Read && user.leads_on(below);
        if lists || user.may(act, below) { Ok(()) } else { Err(denied()) }
    }

    /// A deed for the user's log.
    pub(super) fn did(&self, kind: &'static str, mut facts: serde_json::Value) {
        facts["session"] = self.session.into();
        self.trail.add(kind, &self.account, &self.user, facts, now(&self.core));
    }

    fn is_station(&self, station: &str) -> bool {
        self.core.objects().pairs(&self.account).any(|(s, _)| s.as2_id == station)
    }

    fn is_pair(&self, station: &str, partner: &str) -> bool {
        let objects = self.core.objects();
        let deals = objects
            .user_of(&self.account, &self.user)
            .is_some_and(|user| user.deals_with(station, partner));
        deals
            && objects
                .pairs(&self.account)
                .any(|(s, p)| s.as2_id == station && p.as2_id == partner)
    }

    /// The names below an area: what is configured now, and what has records of the past.
    fn area_children(&self, parts: &[String]) -> Result<Vec<String>, Fault> {
        let objects = self.core.objects();
        let mut names: Vec<String> = match parts {
            [_] => objects.pairs(&self.account).map(|(s, _)| layout::encode(&s.as2_id)).collect(),
            [_, station] => objects
                .pairs(&self.account)
                .filter(|(s, _)| layout::encode(&s.as2_id) == *station)
                .map(|(_, p)| layout::encode(&p.as2_id))
                .collect(),
            _ => Vec::new(),
        };
        let prefix = format!("AS2/{}/", parts.join("/"));
        let mut from = prefix.clone();
        // Jumps from child to child: '0' is the character behind '/'.
        while let Some(parent) = self
            .core
            .journal
            .read(|tx| tx.next_parent(&self.account, &prefix, &from))
            .map_err(failure)?
        {
            let child = parent
                .get(prefix.len()..)
                .and_then(|rest| rest.split('/').next())
                .unwrap_or_default()
                .to_owned();
            from = format!("{prefix}{child}0");
            names.push(child);
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Whether a directory of the records is there: by configuration, or because something lies in it.
    fn shelf_exists(&self, parts: &[String]) -> Result<bool, Fault> {
        if parts.first().is_some_and(|area| area == Area::RawMdn.as_str()) {
            return Ok(parts.get(1).is_none_or(|way| way == "incoming" || way == "outgoing"));
        }
        let station = parts.get(1).map(|s| layout::decode(s));
        let partner = parts.get(2).map(|p| layout::decode(p));
        let tray_fits = parts.get(3).is_none_or(|tray| trays(parts).contains(&tray.as_str()));
        let configured = match (station, partner) {
            (None, _) => true,
            (Some(Some(station)), None) => self.is_station(&station),
            (Some(Some(station)), Some(Some(partner))) => self.is_pair(&station, &partner),
            _ => false,
        };
        if configured || !tray_fits {
            return Ok(tray_fits);
        }
        let below = format!("AS2/{}", parts.join("/"));
        let found = self
            .core
            .journal
            .read(|tx| tx.next_parent(&self.account, &below, &below))
            .map_err(failure)?;
        Ok(found.is_some_and(|parent| parent == below || parent.starts_with(&format!("{below}/"))))
    }

    fn list_shelf(&self, parts: &[String]) -> Result<Box<dyn Listing>, Fault> {
        if !self.shelf_exists(parts)? {
            return Err(Fault::no_such_file());
        }
        let is_mdn = parts.first().is_some_and(|area| area == Area::RawMdn.as_str());
        let is_duplicate = parts.first().is_some_and(|area| area == Area::Duplicate.as_str());
        match (parts.len(), is_mdn, is_duplicate) {
            (1, true, _) => Ok(Names::dirs(["incoming".to_owned(), "outgoing".to_owned()], self.since)),
            (2, true, _) | (3, _, true) | (4, ..) => Ok(Records::of(
                Arc::clone(&self.core),
                &self.account,
                format!("AS2/{}", parts.join("/")),
            )),
            (3, ..) => Ok(Names::dirs(trays(parts).iter().map(|tray| (*tray).to_owned()), self.since)),
            _ => Ok(Names::dirs(self.area_children(parts)?, self.since)),
        }
    }

    fn list_send(&self, station: String, partner: String) -> Result<Box<dyn Listing>, Fault> {
        let dir = layout::send_dir(&station, &partner);
        let mut first: Vec<Entry> = self
            .desk
            .live_below(&self.user, &dir)
            .into_iter()
            .map(|(name, size)| Entry {
                name,
                stat: file_stat(size, self.since, 0o640),
            })
            .collect();
        let rows = self
            .core
            .journal
            .read(|tx| tx.uploads(&self.account, &station, &partner, &self.user))
            .map_err(failure)?;
        for row in rows {
            if self.shows(&row) && !first.iter().any(|entry| entry.name == row.name) {
                first.push(Entry {
                    stat: file_stat(row.size, seconds(row.updated), 0o640),
                    name: row.name,
                });
            }
        }
        Ok(Sends::of(Arc::clone(&self.core), &self.account, station, partner, first))
    }

    /// Parts are seen by their own user, and for a day.
    fn shows(&self, row: &UploadRow) -> bool {
        row.state != UploadState::Part || (row.owner == self.user && lifecycle::part_is_current(&self.core, row.updated))
    }

    /// What a name in a send directory is: the user's own upload before others', what waits before what is on its way.
    pub(super) fn sent(&self, at: &SendPath) -> Result<Sent, Fault> {
        let rows = self
            .core
            .journal
            .read(|tx| tx.uploads(&self.account, &at.station, &at.partner, &self.user))
            .map_err(failure)?;
        let mut rows: Vec<UploadRow> = rows.into_iter().filter(|row| row.name == at.name && self.shows(row)).collect();
        rows.sort_by_key(|row| row.owner != self.user);
        if let Some(row) = rows.into_iter().next() {
            return Ok(Sent::Waits(Box::new(row)));
        }
        let message = self
            .core
            .journal
            .read(|tx| tx.message_in_send(&self.account, &at.station, &at.partner, &at.name))
            .map_err(failure)?;
        Ok(message.map_or(Sent::Nothing, |message| Sent::Message(Box::new(message))))
    }

    fn stat_send(&self, at: &SendPath) -> Result<Stat, Fault> {
        if let Some(size) = self.desk.live_size(&self.user, &at.path) {
            return Ok(file_stat(size, seconds(now(&self.core)), 0o640));
        }
        let recalled = self.desk.recall(&self.user, &at.path, now(&self.core));
        match (self.sent(at)?, recalled) {
            (Sent::Waits(row), _) => Ok(file_stat(row.size, seconds(row.updated), 0o640)),
            (_, Some((size, mtime))) => Ok(file_stat(size, mtime, 0o640)),
            (Sent::Message(message), None) => Ok(file_stat(message.size, seconds(message.created), 0o640)),
            (Sent::Nothing, None) => Err(Fault::no_such_file()),
        }
    }

    /// A path that is a file in a send directory of a known pair.
    pub(super) fn send_path(&self, place: Place) -> Result<SendPath, Fault> {
        let Place::SendFile(station, partner, name) = place else {
            return Err(denied());
        };
        if !self.is_pair(&station, &partner) {
            return Err(self.no_pair(&station, &partner));
        }
        let path = format!("{}/{name}", layout::send_dir(&station, &partner));
        Ok(SendPath {
            station,
            partner,
            name,
            path,
        })
    }

    fn no_pair(&self, station: &str, partner: &str) -> Fault {
        let objects = self.core.objects();
        let mine = |(s, p): &(&crate::station::Station, &crate::partner::Partner)| {
            objects
                .user_of(&self.account, &self.user)
                .is_some_and(|user| user.deals_with(&s.as2_id, &p.as2_id))
        };
        let of_station: Vec<&str> = objects
            .pairs(&self.account)
            .filter(mine)
            .filter(|(s, _)| s.as2_id == station)
            .map(|(_, p)| p.as2_id.as_str())
            .take(NAMED_PAIRS)
            .collect();
        if of_station.is_empty() {
            let mut stations: Vec<&str> = objects.pairs(&self.account).filter(mine).map(|(s, _)| s.as2_id.as_str()).collect();
            stations.dedup();
            stations.truncate(NAMED_PAIRS);
            return Fault::NoSuchFile(format!("no station {station}; known: {}", stations.join(", ")));
        }
        Fault::NoSuchFile(format!(
            "no partner {partner} for station {station}; known: {}",
            of_station.join(", ")
        ))
    }

    fn record(&self, parent: &str, name: &str) -> Result<journal::Entry, Fault> {
        let found = self
            .core
            .journal
            .read(|tx| tx.entry(&self.account, parent, name))
            .map_err(failure)?;
        found.ok_or_else(Fault::no_such_file)
    }

    /// Takes back an accepted file of this name, if nobody has worked on it yet.
    pub(super) fn take_back(
        &self,
        message: &Message,
        delay_only: bool,
        code: &'static str,
        reason: &'static str,
    ) -> Result<Message, Fault> {
        let taken = intake::withdraw(&self.core, message.id.as_str(), delay_only, code, reason).map_err(failure)?;
        taken.ok_or_else(|| Fault::PermissionDenied(format!("already accepted for sending as {}", message.id)))
    }

    fn remove_send(&self, at: &SendPath) -> Result<(), Fault> {
        match self.sent(at)? {
            Sent::Waits(row) if row.owner != self.user => return Err(denied()),
            Sent::Message(message) if message.detail.user != self.user => return Err(denied()),
            former @ Sent::Waits(_) => self.drop_former(former)?,
            Sent::Message(message) => {
                let before = self.take_back(&message, false, "cancelled", "removed by its user before it was sent")?;
                self.core.let_go_blocking(vec![before.detail.payload]);
            }
            Sent::Nothing => {
                self.desk
                    .recall(&self.user, &at.path, now(&self.core))
                    .ok_or_else(Fault::no_such_file)?;
                return Err(Fault::PermissionDenied(
                    "already handled; look into AS2/files and AS2/duplicate".to_owned(),
                ));
            }
        }
        self.desk.forget(&self.user, &at.path);
        Ok(())
    }

    /// A user with the right takes a fetched file out of its inbox; restorable for the time of the life cycle.
    fn remove_record(&self, parent: &str, name: &str) -> Result<(), Fault> {
        let mut parts = parent.split('/');
        let is_inbox = parts.nth(1) == Some("files") && parts.nth(2) == Some("inbox") && parts.next().is_some();
        let allowed = self
            .core
            .objects()
            .user_of(&self.account, &self.user)
            .is_some_and(|user| user.delete_received);
        let entry = self.record(parent, name)?;
        if !is_inbox || !allowed || entry.is_dir {
            return Err(denied());
        }
        if !entry.store.is_empty() {
            while self.core.storage.publish_batch().map_err(failure)?.placed > 0 {}
        }
        let entry = self.record(parent, name)?;
        lifecycle::retire_now(&self.core, entry).map_err(failure)?;
        let left = self
            .core
            .journal
            .read(|tx| tx.entries(&self.account, parent, "", 1))
            .map_err(failure)?;
        if left.is_empty()
            && let Some((above, dir)) = parent.rsplit_once('/')
        {
            lifecycle::retire_now(&self.core, self.record(above, dir)?).map_err(failure)?;
        }
        Ok(())
    }

    fn rename_send(&self, from: &SendPath, to: &SendPath, replace: bool) -> Result<(), Fault> {
        let row = match self.sent(from)? {
            Sent::Waits(row) if row.owner == self.user => *row,
            Sent::Waits(_) => return Err(denied()),
            Sent::Message(message) => return self.rename_pending(&message, from, to, replace),
            Sent::Nothing => return Err(Fault::no_such_file()),
        };
        if row.state == UploadState::Part {
            return Err(Fault::Failure("this upload was broken off; finish it first".to_owned()));
        }
        if !replace && !matches!(self.sent(to)?, Sent::Nothing) {
            return Err(Fault::Failure(format!("{} exists already", to.name)));
        }
        let uploads = &self.core.config.uploads;
        let to_temp = layout::matches_any(&to.name, &uploads.temp_names);
        let from_temp = layout::matches_any(&from.name, &uploads.temp_names);
        let same_pair = from.station == to.station && from.partner == to.partner;
        let in_time = now(&self.core) - row.updated <= millis(self.core.config.uploads.rename_within);
        let mtime = seconds(row.updated);
        let size = row.size;
        if !same_pair || row.state == UploadState::Ignored || !uploads.rename_completes || !(in_time || to_temp) {
            tracing::warn!(
                user = self.user,
                from = from.path,
                to = to.path,
                "moved into send: ignored; upload it instead"
            );
            let moved = UploadRow {
                station: to.station.clone(),
                partner: to.partner.clone(),
                ..row.clone()
            };
            return intake::rename_waiting(
                &self.core,
                row,
                moved,
                &to.name,
                UploadState::Ignored,
                "moved here; upload it instead",
            )
            .map_err(failure);
        }
        if to_temp || !from_temp {
            let reason = row.reason.clone();
            return intake::rename_waiting(&self.core, row.clone(), row, &to.name, UploadState::Parked, &reason).map_err(failure);
        }
        if row.reason.starts_with(INTERRUPTED) {
            let reason = row.reason.clone();
            return intake::rename_waiting(&self.core, row.clone(), row, &to.name, UploadState::Parked, &reason).map_err(failure);
        }
        let former = self.sent(to)?;
        let landed = intake::complete(&self.core, row, &to.name).map_err(failure)?;
        self.drop_former(former)?;
        self.desk.remember(&self.user, &to.path, size, mtime, self.session, now(&self.core));
        tracing::debug!(?landed, "rename completed an upload");
        Ok(())
    }

    /// A client with a temporary name that nobody listed (`curl -Q "-rename …"`, Cyberduck's `name-<uuid>`): as long as
    /// the release delay runs, the message goes out under its final name instead.
    fn rename_pending(&self, message: &Message, from: &SendPath, to: &SendPath, replace: bool) -> Result<(), Fault> {
        let uploads = &self.core.config.uploads;
        let same_pair = from.station == to.station && from.partner == to.partner;
        let fits = same_pair && uploads.rename_completes && !layout::matches_any(&to.name, &uploads.temp_names);
        if fits && message.detail.user == self.user {
            if !replace && !matches!(self.sent(to)?, Sent::Nothing) {
                return Err(Fault::Failure(format!("{} exists already", to.name)));
            }
            let former = self.sent(to)?;
            if intake::rename_pending(&self.core, message, &to.name).map_err(failure)?.is_some() {
                self.drop_former(former)?;
                let mtime = seconds(message.created);
                self.desk.forget(&self.user, &from.path);
                self.desk
                    .remember(&self.user, &to.path, message.size, mtime, self.session, now(&self.core));
                return Ok(());
            }
        }
        Err(Fault::PermissionDenied(format!("already accepted for sending as {}", message.id)))
    }

    /// Lets go of the user's own file that waited under a name: it was removed, or a rename has put a message in its place
    /// (`rclone touch` makes an empty one first).
    fn drop_former(&self, former: Sent) -> Result<(), Fault> {
        let Sent::Waits(row) = former else { return Ok(()) };
        if row.owner != self.user {
            return Ok(());
        }
        let store = row.store.clone();
        self.core
            .journal
            .write_blocking(move |tx| tx.remove_upload(&row))
            .map_err(failure)?;
        self.core.let_go_blocking(vec![store]);
        Ok(())
    }

    /// Sends a parked file that looked broken off, after a sign that only a finished transfer gives.
    fn confirm(&self, at: &SendPath, row: UploadRow, mtime: u64) -> Result<(), Fault> {
        let size = row.size;
        intake::complete(&self.core, row, &at.name).map_err(failure)?;
        self.desk.remember(&self.user, &at.path, size, mtime, self.session, now(&self.core));
        Ok(())
    }

    /// Whether a sign that follows a CLOSE can still clear this file of looking broken off.
    fn may_confirm(&self, row: &UploadRow) -> bool {
        let looked_cut = row.state == UploadState::Parked && row.reason.starts_with(INTERRUPTED) && row.reason != CUT_APPEND;
        let temp = layout::matches_any(&row.name, &self.core.config.uploads.temp_names);
        let delay = millis(self.core.config.uploads.release_after.max(std::time::Duration::from_secs(2)));
        looked_cut && row.owner == self.user && !temp && now(&self.core) - row.updated <= delay
    }

    /// paramiko's `put` asks for the size when it is through, and at no other time.
    fn looked_back(&self, path: &VPath) -> Result<(), Fault> {
        let at = self.send_path(self.place(path)?.ok_or_else(denied)?)?;
        if self.desk.was_awaited(self.session, &at.path)
            && let Sent::Waits(row) = self.sent(&at)?
            && self.may_confirm(&row)
        {
            let mtime = seconds(row.updated);
            self.confirm(&at, *row, mtime)?;
        }
        Ok(())
    }

    fn set_send(&self, at: &SendPath, set: &SetStat) -> Result<(), Fault> {
        let recalled = self.desk.recall(&self.user, &at.path, now(&self.core));
        match self.sent(at)? {
            Sent::Waits(row) => {
                if set.size.is_some_and(|size| size != row.size) {
                    return Err(Fault::PermissionDenied("the size of a finished upload cannot be set".to_owned()));
                }
                if let Some((_, mtime)) = set.times
                    && self.may_confirm(&row)
                {
                    // Only a client that finished its transfer sets times right afterwards (sftp.md §4.2, S4).
                    self.confirm(at, *row, mtime)?;
                }
                Ok(())
            }
            Sent::Message(message) => {
                if set.size.is_some_and(|size| size != message.size) {
                    return Err(Fault::PermissionDenied(format!("already accepted for sending as {}", message.id)));
                }
                if message.state == State::Queued && message.detail.user == self.user && recalled.is_some() {
                    intake::release(&self.core, message.id.as_str()).map_err(failure)?;
                }
                if let Some((_, mtime)) = set.times {
                    self.desk.touch(&self.user, &at.path, mtime);
                }
                Ok(())
            }
            Sent::Nothing if recalled.is_some() => {
                if let Some((_, mtime)) = set.times {
                    self.desk.touch(&self.user, &at.path, mtime);
                }
                Ok(())
            }
            Sent::Nothing => Err(Fault::no_such_file()),
        }
    }
}

/// How the reason of a parked file begins that looks broken off.
pub(super) const INTERRUPTED: &str = "looks interrupted";

/// Its reason when the client itself cut it: nothing but a new upload mends that.
pub(super) const CUT_APPEND: &str = "looks interrupted: the client cut it while appending";

/// The one refusal: the same text for every place and every reason that is nobody's business.
pub(super) fn denied() -> Fault {
    Fault::PermissionDenied("Permission denied".to_owned())
}

fn trays(parts: &[String]) -> &'static [&'static str] {
    if parts.first().is_some_and(|area| area == Area::Files.as_str()) {
        &["inbox", "outbox", "failed"]
    } else {
        &["inbox", "outbox"]
    }
}

impl As2Tree {
    fn list_place(&self, place: Place) -> Result<Box<dyn Listing>, Fault> {
        match place {
            Place::Home => Ok(Names::dirs(["AS2".to_owned()], self.since)),
            Place::Top => {
                let names = ["duplicate", "files", "headers", "keystore", "raw-mdn", "raw-message", "send", "tmp"];
                Ok(Names::dirs(names.map(str::to_owned), self.since))
            }
            Place::Send => {
                let objects = self.core.objects();
                let mut stations: Vec<String> = objects.pairs(&self.account).map(|(s, _)| layout::encode(&s.as2_id)).collect();
                stations.dedup();
                Ok(Names::dirs(stations, self.since))
            }
            Place::SendStation(station) => {
                let objects = self.core.objects();
                let partners: Vec<String> = objects
                    .pairs(&self.account)
                    .filter(|(s, _)| s.as2_id == station)
                    .map(|(_, p)| layout::encode(&p.as2_id))
                    .collect();
                if partners.is_empty() {
                    Err(Fault::no_such_file())
                } else {
                    Ok(Names::dirs(partners, self.since))
                }
            }
            Place::SendPair(station, partner) if self.is_pair(&station, &partner) => self.list_send(station, partner),
            Place::Shelf(parts) => self.list_shelf(&parts),
            Place::Record(parent, name) if self.record(&parent, &name)?.is_dir => {
                Ok(Records::of(Arc::clone(&self.core), &self.account, format!("{parent}/{name}")))
            }
            Place::Record(..) | Place::SendFile(..) => Err(Fault::Failure("not a directory".to_owned())),
            Place::SendPair(..) | Place::Nowhere | Place::Closed => Err(Fault::no_such_file()),
        }
    }
}

impl Tree for As2Tree {
    fn home(&self) -> VPath {
        VPath::absolute(&format!("/{}", self.home)).unwrap_or_else(|_| VPath::root())
    }

    fn stat(&self, path: &VPath, _follow: bool) -> Result<Stat, Fault> {
        let Some(place) = self.place(path)? else {
            return Ok(dir_stat(self.since));
        };
        let dir = |exists: bool| {
            if exists {
                Ok(dir_stat(self.since))
            } else {
                Err(Fault::no_such_file())
            }
        };
        match place {
            Place::Home | Place::Top | Place::Send => dir(true),
            Place::SendStation(station) => dir(self.is_station(&station)),
            Place::SendPair(station, partner) => dir(self.is_pair(&station, &partner)),
            Place::SendFile(..) => self.stat_send(&self.send_path(place)?),
            Place::Shelf(parts) => dir(self.shelf_exists(&parts)?),
            Place::Record(parent, name) => self.record(&parent, &name).map(|entry| entry_stat(&entry)),
            Place::Closed | Place::Nowhere => Err(denied()),
        }
    }

    fn realpath(&self, path: &VPath) -> Result<VPath, Fault> {
        match self.place(path) {
            Err(fault @ Fault::PermissionDenied(_)) => Err(fault),
            _ => Ok(path.clone()),
        }
    }

    fn list(&self, path: &VPath) -> Result<Box<dyn Listing>, Fault> {
        let Some(place) = self.place(path)? else {
            return Ok(Names::dirs([self.home.clone()], self.since));
        };
        self.need(Act::Read, path)?;
        let all = self.list_place(place)?;
        Ok(Box::new(Seen {
            core: Arc::clone(&self.core),
            account: self.account.clone(),
            user: self.user.clone(),
            dir: path.components().get(1..).unwrap_or_default().to_vec(),
            all,
        }))
    }

    fn open_read(&self, path: &VPath) -> Result<Box<dyn Download>, Fault> {
        let Some(place) = self.place(path)? else {
            return Err(Fault::Failure("is a directory".to_owned()));
        };
        self.need(Act::Read, path)?;
        let (content, stat) = match place {
            Place::Record(parent, name) => {
                let entry = self.record(&parent, &name)?;
                if entry.is_dir {
                    return Err(Fault::Failure("is a directory".to_owned()));
                }
                (self.core.storage.open_entry(&entry).map_err(failure)?, entry_stat(&entry))
            }
            Place::SendFile(..) => {
                let at = self.send_path(place)?;
                let (key, stat) = match self.sent(&at)? {
                    Sent::Waits(row) => (row.store.clone(), file_stat(row.size, seconds(row.updated), 0o640)),
                    Sent::Message(message) => (
                        message.detail.payload.clone(),
                        file_stat(message.size, seconds(message.created), 0o640),
                    ),
                    Sent::Nothing => return Err(Fault::no_such_file()),
                };
                (self.core.storage.open_staged(&key).map_err(failure)?, stat)
            }
            _ => return Err(Fault::Failure("is a directory".to_owned())),
        };
        Ok(Box::new(Reading {
            core: Arc::clone(&self.core),
            trail: Arc::clone(&self.trail),
            pace: Arc::clone(&self.pace),
            account: self.account.clone(),
            user: self.user.clone(),
            session: self.session,
            path: path.to_string(),
            begun: Instant::now(),
            bytes: AtomicU64::new(0),
            content,
            stat,
        }))
    }

    fn open_write(&self, path: &VPath, how: &OpenHow) -> Result<Box<dyn Upload>, Fault> {
        let place = self.place(path)?.ok_or_else(denied)?;
        self.need(Act::Write, path)?;
        let at = self.send_path(place)?;
        Writing::open(self, at, how)
    }

    /// A refusal is told by the other, which comes to the same.
    fn open_write_at_once(&self, path: &VPath, how: &OpenHow) -> Option<Result<Box<dyn Upload>, Fault>> {
        let place = self.place(path).ok()??;
        self.need(Act::Write, path).ok()?;
        let at = self.send_path(place).ok()?;
        Writing::open_at_once(self, at, how).map(Ok)
    }

    fn remove(&self, path: &VPath) -> Result<(), Fault> {
        let place = self.place(path)?.ok_or_else(denied)?;
        self.need(Act::Delete, path)?;
        match place {
            Place::Record(parent, name) => self.remove_record(&parent, &name),
            place => self.remove_send(&self.send_path(place)?),
        }?;
        self.did("user.delete", json!({ "path": path.to_string() }));
        Ok(())
    }

    fn mkdir(&self, path: &VPath, _set: &SetStat) -> Result<(), Fault> {
        // Clients make the directories of a path before they upload; one that is there already is told so.
        match self.stat(path, true) {
            Ok(_) => Err(Fault::Failure("the directory exists already".to_owned())),
            Err(_) => Err(denied()),
        }
    }

    fn rmdir(&self, _path: &VPath) -> Result<(), Fault> {
        Err(denied())
    }

    fn rename(&self, from: &VPath, to: &VPath, replace: bool) -> Result<(), Fault> {
        let place = |path: &VPath| {
            let place = self.place(path)?.ok_or_else(denied)?;
            self.need(Act::Write, path)?;
            self.send_path(place)
        };
        let (old, new) = (place(from)?, place(to)?);
        layout::check_upload_name(new.name.as_bytes()).map_err(Fault::Failure)?;
        self.rename_send(&old, &new, replace)?;
        self.did("user.rename", json!({ "from": from.to_string(), "to": to.to_string() }));
        Ok(())
    }

    fn set_stat(&self, path: &VPath, set: &SetStat) -> Result<(), Fault> {
        let place = self.place(path)?.ok_or_else(denied)?;
        self.need(Act::Write, path)?;
        match place {
            place @ Place::SendFile(..) => self.set_send(&self.send_path(place)?, set),
            _ => Err(denied()),
        }
    }

    fn after_close(&self, path: &VPath, sign: CloseSign) {
        if sign == CloseSign::Stat
            && let Err(fault) = self.looked_back(path)
        {
            tracing::warn!(%fault, path = path.to_string(), "an upload could not be completed after its client looked back");
        }
    }

    fn space(&self) -> Option<Space> {
        let storage = &self.core.storage;
        Some(Space {
            total: storage.total_bytes().ok()?,
            free: storage.free_bytes().ok()?,
        })
    }
}

/// The entries of a directory that the user sees.
struct Seen {
    core: Arc<Core>,
    account: String,
    user: String,
    /// Below the account's home.
    dir: Vec<String>,
    all: Box<dyn Listing>,
}

impl Listing for Seen {
    fn next(&mut self, max: usize) -> Result<Vec<Entry>, Fault> {
        loop {
            let mut page = self.all.next(max)?;
            if page.is_empty() {
                return Ok(page);
            }
            let objects = self.core.objects();
            let user = objects.user_of(&self.account, &self.user).ok_or_else(denied)?;
            if user.rights.is_empty() && user.stations.is_empty() && user.partners.is_empty() {
                return Ok(page);
            }
            page.retain(|entry| {
                self.dir.push(entry.name.clone());
                let seen = user.sees(&self.dir);
                self.dir.pop();
                seen
            });
            if !page.is_empty() {
                return Ok(page);
            }
        }
    }
}

/// An open file of the tree.
struct Reading {
    core: Arc<Core>,
    trail: Arc<Trail>,
    pace: Arc<Pace>,
    account: String,
    user: String,
    session: u64,
    path: String,
    begun: Instant,
    bytes: AtomicU64,
    content: Content,
    stat: Stat,
}

impl Download for Reading {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Fault> {
        let n = self.content.read_at(offset, buf).map_err(failure)?;
        self.pace.wait(
            Way::Out,
            n,
            self.core
                .objects()
                .user_of(&self.account, &self.user)
                .map_or(0, |user| user.bandwidth),
        );
        self.bytes.fetch_add(u64::try_from(n).unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(n)
    }

    fn stat(&self) -> Result<Stat, Fault> {
        Ok(Stat {
            size: self.content.len(),
            ..self.stat
        })
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let facts = json!({
            "path": self.path, "bytes": self.bytes.load(Ordering::Relaxed), "size": self.content.len(), "millis": elapsed(self.begun),
            "session": self.session,
        });
        self.trail.add("user.download", &self.account, &self.user, facts, now(&self.core));
    }
}

/// Milliseconds since then.
pub(super) fn elapsed(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}
