//! The directories of records and of what is configured: what is in them, who sees it, and what leaves an inbox.

use std::sync::Arc;

use sftp_front::{Entry, Fault, Listing};

use super::failure;
use super::listing::{Names, Records};
use super::tree::{As2Tree, denied};
use crate::gateway::Core;
use crate::layout::{self, Area, Place};
use crate::{journal, lifecycle};

impl As2Tree {
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
        let prefix = format!("{}/", layout::shelf_dir(parts));
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
    pub(super) fn shelf_exists(&self, parts: &[String]) -> Result<bool, Fault> {
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
        let below = layout::shelf_dir(parts);
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
            (2, true, _) | (3, _, true) | (4, ..) => Ok(Records::of(Arc::clone(&self.core), &self.account, layout::shelf_dir(parts))),
            (3, ..) => Ok(Names::dirs(trays(parts).iter().map(|tray| (*tray).to_owned()), self.since)),
            _ => Ok(Names::dirs(self.area_children(parts)?, self.since)),
        }
    }

    pub(super) fn record(&self, parent: &str, name: &str) -> Result<journal::Entry, Fault> {
        let found = self
            .core
            .journal
            .read(|tx| tx.entry(&self.account, parent, name))
            .map_err(failure)?;
        found.ok_or_else(Fault::no_such_file)
    }

    /// A user with the right takes a fetched file out of its inbox; restorable for the time of the life cycle.
    pub(super) fn remove_record(&self, parent: &str, name: &str) -> Result<(), Fault> {
        let allowed = self
            .core
            .objects()
            .user_of(&self.account, &self.user)
            .is_some_and(|user| user.delete_received);
        let entry = self.record(parent, name)?;
        if !layout::is_received(parent) || !allowed || entry.is_dir {
            return Err(denied());
        }
        if !entry.store.is_empty() {
            self.core.storage.publish_listed().map_err(failure)?;
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

    pub(super) fn list_place(&self, place: Place) -> Result<Box<dyn Listing>, Fault> {
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

fn trays(parts: &[String]) -> &'static [&'static str] {
    if parts.first().is_some_and(|area| area == Area::Files.as_str()) {
        &["inbox", "outbox", "failed"]
    } else {
        &["inbox", "outbox"]
    }
}

/// The entries of a directory that the user sees.
pub(super) struct Seen {
    pub(super) core: Arc<Core>,
    pub(super) account: String,
    pub(super) user: String,
    /// Below the account's home.
    pub(super) dir: Vec<String>,
    pub(super) all: Box<dyn Listing>,
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
