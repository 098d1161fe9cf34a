//! One login's view of the account's tree (product.md §3): what a path means, who may do what, and which file tells the
//! rest: `shelves.rs` about records and directories, `sending.rs` about names in send directories, `upload.rs` and
//! `reading.rs` about open files.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use serde_json::json;
use sftp_front::{CloseSign, Download, Fault, Listing, Op, OpenHow, SetStat, Space, Stat, Tree, Tried, Upload, VPath};

use super::desk::Desk;
use super::listing::{Names, dir_stat, entry_stat, file_stat, seconds};
use super::pace::Pace;
use super::reading::Reading;
use super::sending::Sent;
use super::shelves::Seen;
use super::trail::Trail;
use super::upload::Writing;
use super::{failure, now};
use crate::gateway::Core;
use crate::layout::{self, Place};
use crate::partner::Partner;
use crate::station::Station;
use crate::user::{Act, User};

/// Refusals of one session that become events, at most; one that says so follows, and further ones stand in the log only.
const MAX_REFUSALS: u32 = 20;

/// What a client is told that makes a directory which is there: they do so before they upload.
const DIR_EXISTS: &str = "the directory exists already";

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
    pub(super) since: u64,
    refusals: AtomicU32,
}

/// What the logins share.
pub(super) struct Tools {
    pub(super) desk: Arc<Desk>,
    pub(super) trail: Arc<Trail>,
    pub(super) pace: Arc<Pace>,
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
            home: layout::home(&user.account),
            since,
            refusals: AtomicU32::new(0),
        }
    }

    /// What a path means; other accounts' homes are names that do not exist.
    pub(super) fn place(&self, path: &VPath) -> Result<Option<Place>, Fault> {
        let Some((first, rest)) = path.components().split_first() else {
            return Ok(None);
        };
        if *first != self.home {
            return Err(Fault::no_such_file());
        }
        // What the user may not see is not there, the same as what is not there.
        let objects = self.core.objects();
        let sees = objects.user_of(&self.account, &self.user).is_some_and(|user| user.sees(rest));
        if !sees {
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

    /// A put to where nothing can lie, as `put order.edi` right behind the login: told where files go.
    fn is_for_files(&self, path: &VPath) -> Result<(), Fault> {
        let Some((first, rest)) = path.components().split_first() else {
            return Ok(());
        };
        let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
        if *first == self.home && matches!(Place::read(&rest), Place::Nowhere) {
            let dir = self.meant_by(&rest).unwrap_or_else(|| "AS2/send/<station>/<partner>".to_owned());
            return Err(Fault::PermissionDenied(format!("files to be sent are put into {dir}/")));
        }
        Ok(())
    }

    /// The directory of one of the user's pairs whose ids stand in the path as they are, not as the directory spells them.
    fn meant_by(&self, rest: &[&str]) -> Option<String> {
        let ["AS2", "send", named @ ..] = rest else { return None };
        let named = format!("{}/", named.join("/"));
        let objects = self.core.objects();
        let user = objects.user_of(&self.account, &self.user)?;
        let spellings = |id: &str| [id.to_owned(), layout::encode(id)];
        let is_named = |(s, p): &(&Station, &Partner)| {
            let partners = spellings(&p.as2_id);
            let mut pairs = spellings(&s.as2_id)
                .into_iter()
                .flat_map(|s| partners.each_ref().map(|p| format!("{s}/{p}/")));
            pairs.any(|pair| named.starts_with(&pair))
        };
        let mut mine = objects.pairs(&self.account).filter(|(s, p)| user.deals_with(&s.as2_id, &p.as2_id));
        mine.find(is_named).map(|(s, p)| layout::send_dir(&s.as2_id, &p.as2_id))
    }

    /// A deed for the user's log.
    pub(super) fn did(&self, kind: &'static str, mut facts: serde_json::Value) {
        facts["session"] = self.session.into();
        self.trail.add(kind, &self.account, &self.user, facts, now(&self.core));
    }

    pub(super) fn is_station(&self, station: &str) -> bool {
        self.core.objects().pairs(&self.account).any(|(s, _)| s.as2_id == station)
    }

    pub(super) fn is_pair(&self, station: &str, partner: &str) -> bool {
        let objects = self.core.objects();
        let deals = objects
            .user_of(&self.account, &self.user)
            .is_some_and(|user| user.deals_with(station, partner));
        deals
            && objects
                .pairs(&self.account)
                .any(|(s, p)| s.as2_id == station && p.as2_id == partner)
    }
}

/// The one refusal: the same text for every place and every reason that is nobody's business.
pub(super) fn denied() -> Fault {
    Fault::PermissionDenied("Permission denied".to_owned())
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
        Ok(Reading::of(self, path, content, stat))
    }

    fn open_write(&self, path: &VPath, how: &OpenHow) -> Result<Box<dyn Upload>, Fault> {
        self.is_for_files(path)?;
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
        match self.stat(path, true) {
            Ok(_) => Err(Fault::Failure(DIR_EXISTS.to_owned())),
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
            // `scp -r` and `put -r` set the mode of a directory that they filled, and complain if they cannot.
            Place::SendPair(station, partner) if set.size.is_none() && self.is_pair(&station, &partner) => Ok(()),
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

    fn answered(&self, op: Op, fault: Option<&Fault>) {
        self.core.metrics.sftp_request(op, fault);
    }

    fn refused(&self, tried: Tried<'_>, path: &str, fault: &Fault) {
        let reason = fault.to_string();
        if tried == Tried::MkDir && reason == DIR_EXISTS {
            return;
        }
        let (tried, to) = match tried {
            Tried::Write => ("write", None),
            Tried::Remove => ("delete", None),
            Tried::MkDir => ("mkdir", None),
            Tried::RmDir => ("rmdir", None),
            Tried::Rename(to) => ("rename", Some(to)),
        };
        let mut facts = json!({ "path": path, "tried": tried, "reason": reason });
        if let Some(to) = to {
            facts["to"] = to.into();
        }
        match self.refusals.fetch_add(1, Ordering::Relaxed) {
            ..MAX_REFUSALS => self.did("user.refused", facts),
            before => {
                tracing::info!(user = self.user, session = self.session, %facts, "user.refused");
                if before == MAX_REFUSALS {
                    self.did(
                        "user.refused",
                        json!({ "reason": "further refusals of this session stand in the log only" }),
                    );
                }
            }
        }
    }

    /// A user with a quota sees that: programs look at it before they begin.
    fn space(&self) -> Option<Space> {
        let storage = &self.core.storage;
        let (total, free) = (storage.total_bytes().ok()?, storage.free_bytes().ok()?);
        let objects = self.core.objects();
        let quota = objects.user_of(&self.account, &self.user).map_or(0, |user| user.quota_bytes);
        if quota == 0 {
            return Some(Space { total, free });
        }
        let usage = self.core.journal.read(|tx| tx.send_usage(&self.account, &self.user));
        let taken = usage.ok()?.1.saturating_add(self.desk.live_total(&self.user).1);
        Some(Space {
            total: quota,
            free: free.min(quota.saturating_sub(taken)),
        })
    }
}

/// Milliseconds since then.
pub(super) fn elapsed(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}
