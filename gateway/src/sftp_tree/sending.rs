//! The names in a send directory: what each of them is, and what a client may still do to a file that it has closed. What a
//! file being written is about lies in `upload.rs`.

use std::collections::HashSet;
use std::sync::Arc;

use sftp_front::{Entry, Fault, Listing, SetStat, Stat, VPath};

use super::listing::{Sends, file_stat, seconds};
use super::tree::{As2Tree, denied};
use super::{failure, now, unchanged};
use crate::clock::millis;
use crate::intake::{self, Sign};
use crate::journal::{Tx, UploadRow, UploadState, WaitReason};
use crate::layout::{self, Place};
use crate::lifecycle;
use crate::message::{Message, State};

/// Known pairs that a refusal names.
const NAMED_PAIRS: usize = 5;

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

/// What a client gets that would change what is on its way.
pub(super) fn accepted(message: &Message) -> Fault {
    Fault::PermissionDenied(format!("already accepted for sending as {}", message.id))
}

/// What a rename makes of a file that waits.
enum Renamed {
    /// A message: it got its final name.
    Complete,
    /// It goes on waiting as it does, under the new name.
    Waits,
    /// It was moved here, which is no upload.
    Ignored,
}

impl As2Tree {
    pub(super) fn list_send(&self, station: String, partner: String) -> Result<Box<dyn Listing>, Fault> {
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
        let rows = self.core.journal.read(|tx| {
            let mut rows = Vec::new();
            for row in tx.uploads(&self.account, &station, &partner, &self.user)? {
                // The user's own message of that name is listed with the others.
                let is_hidden = row.owner != self.user
                    && tx
                        .message_in_send(&self.account, &station, &partner, &row.name)?
                        .is_some_and(|message| message.detail.user == self.user);
                if !is_hidden {
                    rows.push(row);
                }
            }
            Ok(rows)
        });
        // One entry for each name, as STAT tells it.
        let mut shown: HashSet<String> = first.iter().map(|entry| entry.name.clone()).collect();
        for row in rows.map_err(failure)? {
            if self.shows(&row) && shown.insert(row.name.clone()) {
                first.push(Entry {
                    stat: file_stat(row.size, seconds(row.updated), 0o640),
                    name: row.name,
                });
            }
        }
        Ok(Sends::of(Arc::clone(&self.core), &self.account, station, partner, first, shown))
    }

    /// Parts are seen by their own user, and for a day.
    fn shows(&self, row: &UploadRow) -> bool {
        row.state != UploadState::Part || (row.owner == self.user && lifecycle::part_is_current(&self.core, row.updated))
    }

    /// What a name in a send directory is: what waits of the user's own, the user's own message, what waits of others, and theirs.
    pub(super) fn sent(&self, at: &SendPath) -> Result<Sent, Fault> {
        let (rows, message) = self
            .core
            .journal
            .read_few(|tx| {
                let rows = tx.uploads_named(&self.account, &at.station, &at.partner, &at.name)?;
                Ok((rows, tx.message_in_send(&self.account, &at.station, &at.partner, &at.name)?))
            })
            .map_err(failure)?;
        let mut rows: Vec<UploadRow> = rows.into_iter().filter(|row| self.shows(row)).collect();
        rows.sort_by_key(|row| (row.owner != self.user, row.state != UploadState::Part));
        let row = rows.into_iter().next();
        let is_mine = message.as_ref().is_some_and(|message| message.detail.user == self.user);
        Ok(match (row, message) {
            (Some(row), _) if row.owner == self.user || !is_mine => Sent::Waits(Box::new(row)),
            (_, Some(message)) => Sent::Message(Box::new(message)),
            (_, None) => Sent::Nothing,
        })
    }

    /// The user's own message in work under a name, whatever stands before it.
    pub(super) fn own_message(&self, at: &SendPath) -> Result<Option<Message>, Fault> {
        let read = |tx: &Tx<'_>| tx.message_in_send(&self.account, &at.station, &at.partner, &at.name);
        let message = self.core.journal.read_few(read).map_err(failure)?;
        Ok(message.filter(|message| message.detail.user == self.user))
    }

    pub(super) fn stat_send(&self, at: &SendPath) -> Result<Stat, Fault> {
        if let Some((size, mtime)) = self.desk.live(&self.user, &at.path) {
            return Ok(file_stat(size, mtime.unwrap_or_else(|| seconds(now(&self.core))), 0o640));
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

    /// Takes back an accepted file for good; false if somebody has worked on it already, or its release delay had to be running.
    fn cancel(&self, message: &Message, delay_only: bool) -> Result<bool, Fault> {
        let reason = "removed by its user before it was sent";
        let taken = intake::withdraw(&self.core, message.id.as_str(), delay_only, reason).map_err(failure)?;
        let was_taken = taken.is_some();
        self.core
            .let_go_blocking(taken.into_iter().map(|before| before.detail.payload).collect());
        Ok(was_taken)
    }

    pub(super) fn remove_send(&self, at: &SendPath) -> Result<(), Fault> {
        // What is being written goes as the name of an open file does; what was stored under the name before goes too.
        let was_open = self.desk.remove_live(&self.user, &at.path);
        match self.remove_stored(at) {
            Err(_) if was_open => {}
            outcome => outcome?,
        }
        self.desk.forget(&self.user, &at.path);
        Ok(())
    }

    fn remove_stored(&self, at: &SendPath) -> Result<(), Fault> {
        match self.sent(at)? {
            Sent::Waits(row) if row.owner != self.user => Err(denied()),
            Sent::Message(message) if message.detail.user != self.user => Err(denied()),
            Sent::Waits(row) => {
                let is_part = row.state == UploadState::Part;
                self.drop_former(Sent::Waits(row))?;
                if is_part && let Some(message) = self.own_message(at)? {
                    // What the part was to take the place of.
                    self.cancel(&message, true)?;
                }
                Ok(())
            }
            Sent::Message(message) if self.cancel(&message, false)? => Ok(()),
            Sent::Message(message) => Err(accepted(&message)),
            // Not listed, whatever STAT still tells of it: programs that remove a name before they rename another to it take no
            // other refusal than this (Spring Integration).
            Sent::Nothing => {
                self.desk.forget(&self.user, &at.path);
                Err(Fault::no_such_file())
            }
        }
    }

    pub(super) fn rename_send(&self, from: &SendPath, to: &SendPath, replace: bool) -> Result<(), Fault> {
        if self.desk.is_writing(&self.user, self.session, &from.path) {
            return self.rename_open(from, to);
        }
        let row = match self.sent(from)? {
            Sent::Waits(row) if row.owner == self.user => *row,
            Sent::Waits(_) => return Err(denied()),
            Sent::Message(message) => return self.rename_pending(&message, from, to, replace),
            Sent::Nothing => return Err(Fault::no_such_file()),
        };
        if row.state == UploadState::Part {
            return Err(Fault::Failure("this upload was broken off; finish it first".to_owned()));
        }
        if row.reason.is_taken_back() {
            // Under another name it would wait for ever, and what is written in its place take its name nonetheless.
            return Err(Fault::Failure(format!("{} is being written again; finish that first", from.name)));
        }
        if !replace && !matches!(self.sent(to)?, Sent::Nothing) {
            return Err(Fault::Failure(format!("{} exists already", to.name)));
        }
        let (mtime, size) = (seconds(row.updated), row.size);
        match self.renamed(&row, from, to) {
            Renamed::Complete => {}
            Renamed::Waits => {
                let (state, reason) = (row.state, row.reason);
                return intake::rename_waiting(&self.core, row.clone(), row, &to.name, state, reason).map_err(unchanged);
            }
            Renamed::Ignored => {
                let (user, from) = (&self.user, &from.path);
                tracing::warn!(user, from, to = to.path, "moved into send: ignored; upload it instead");
                let moved = UploadRow {
                    station: to.station.clone(),
                    partner: to.partner.clone(),
                    ..row.clone()
                };
                return intake::rename_waiting(&self.core, row, moved, &to.name, UploadState::Ignored, WaitReason::MovedHere)
                    .map_err(unchanged);
            }
        }
        let former = self.sent(to)?;
        let landed = intake::complete(&self.core, row, &to.name, Sign::Finished).map_err(unchanged)?;
        self.drop_former(former)?;
        self.desk.remember(&self.user, &to.path, size, mtime, now(&self.core));
        tracing::debug!(?landed, "rename completed an upload");
        Ok(())
    }

    /// An upload that this session is writing gets its final name (programs that close a file behind its rename, as Go's deferred
    /// `Close` does): it is decided about under that one, at its CLOSE as ever. What waits under the old name is its former
    /// content and must not go out in its place.
    fn rename_open(&self, from: &SendPath, to: &SendPath) -> Result<(), Fault> {
        let same_pair = from.station == to.station && from.partner == to.partner;
        if !same_pair || !self.core.config.uploads.rename_completes {
            return Err(Fault::Failure(format!("{} is still being written; close it first", from.name)));
        }
        let is_taken = self.desk.live_size(&self.user, &to.path).is_some() || !matches!(self.sent(to)?, Sent::Nothing);
        if is_taken {
            return Err(Fault::Failure(format!(
                "{} exists already, and {} is still being written; close it first",
                to.name, from.name
            )));
        }
        if self.desk.rename_live(&self.user, self.session, &from.path, &to.path) {
            Ok(())
        } else {
            Err(Fault::Failure(format!("{} is being closed; try again", from.name)))
        }
    }

    /// What a rename makes of a file that waits (product.md §4.1).
    fn renamed(&self, row: &UploadRow, from: &SendPath, to: &SendPath) -> Renamed {
        let uploads = &self.core.config.uploads;
        let to_temp = layout::matches_any(&to.name, &uploads.temp_names);
        let from_temp = layout::matches_any(&from.name, &uploads.temp_names);
        let same_pair = from.station == to.station && from.partner == to.partner;
        let in_time = now(&self.core) - row.updated <= millis(uploads.rename_within);
        if same_pair && row.reason == WaitReason::Empty {
            // No upload would mend that.
            Renamed::Waits
        } else if !same_pair || row.state == UploadState::Ignored || !uploads.rename_completes || !(in_time || to_temp) {
            Renamed::Ignored
        } else if to_temp || !from_temp || row.reason.looks_interrupted() {
            Renamed::Waits
        } else {
            Renamed::Complete
        }
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
                self.desk.remember(&self.user, &to.path, message.size, mtime, now(&self.core));
                return Ok(());
            }
        }
        Err(accepted(message))
    }

    /// Lets go of the user's own file that waited under a name: it was removed, or a rename has put a message in its place
    /// (`rclone touch` makes an empty one first).
    fn drop_former(&self, former: Sent) -> Result<(), Fault> {
        let Sent::Waits(row) = former else { return Ok(()) };
        if row.owner != self.user {
            return Ok(());
        }
        let gone = self.core.journal.write_blocking(move |tx| tx.outdo_upload(&row)).map_err(failure)?;
        self.core.let_go_blocking(gone);
        Ok(())
    }

    /// Accepts a parked file that looked broken off, after a sign of a finished transfer.
    fn confirm(&self, at: &SendPath, row: UploadRow, mtime: u64, sign: Sign) -> Result<(), Fault> {
        let size = row.size;
        intake::complete(&self.core, row, &at.name, sign).map_err(unchanged)?;
        self.desk.remember(&self.user, &at.path, size, mtime, now(&self.core));
        Ok(())
    }

    /// Whether a sign that follows a CLOSE can still clear this file of looking broken off.
    fn may_confirm(&self, row: &UploadRow) -> bool {
        let looked_cut = row.state == UploadState::Parked && row.reason.looks_interrupted() && row.reason != WaitReason::AppendCut;
        let temp = layout::matches_any(&row.name, &self.core.config.uploads.temp_names);
        let delay = millis(self.core.config.uploads.release_after.max(std::time::Duration::from_secs(2)));
        looked_cut && row.owner == self.user && !temp && now(&self.core) - row.updated <= delay
    }

    /// paramiko's `put` asks for the size when it is through. So does a program that looks at what it broke off before it removes
    /// it or puts it again: the release delay is its time to do so.
    pub(super) fn looked_back(&self, path: &VPath) -> Result<(), Fault> {
        let at = self.send_path(self.place(path)?.ok_or_else(denied)?)?;
        if self.desk.was_awaited(self.session, &at.path)
            && let Sent::Waits(row) = self.sent(&at)?
            && self.may_confirm(&row)
        {
            let mtime = seconds(row.updated);
            self.confirm(&at, *row, mtime, Sign::Plain)?;
        }
        Ok(())
    }

    /// The name of what is being written: `cp -p` and `tar` over sshfs set its times and mode before the CLOSE.
    fn set_live(&self, at: &SendPath, size: u64, set: &SetStat) -> Result<(), Fault> {
        if set.size.is_some_and(|wanted| wanted != size) {
            let text = format!("{} is being written; set its size on its handle", at.name);
            return Err(Fault::PermissionDenied(text));
        }
        if let Some((_, mtime)) = set.times {
            self.desk.touch_live(&self.user, &at.path, mtime);
        }
        Ok(())
    }

    pub(super) fn set_send(&self, at: &SendPath, set: &SetStat) -> Result<(), Fault> {
        let live = self.desk.live_size(&self.user, &at.path);
        if let Some(size) = live
            && self.desk.is_writing(&self.user, self.session, &at.path)
        {
            return self.set_live(at, size, set);
        }
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
                    self.confirm(at, *row, mtime, Sign::Finished)?;
                }
                Ok(())
            }
            Sent::Message(message) => {
                if set.size.is_some_and(|size| size != message.size) {
                    return Err(accepted(&message));
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
            Sent::Nothing => match live {
                Some(size) => self.set_live(at, size, set),
                None => Err(Fault::no_such_file()),
            },
        }
    }
}
