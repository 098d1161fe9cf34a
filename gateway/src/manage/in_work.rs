//! Messages in work go by the names of their station and partner, and those that are not checked yet by the station's keys: none
//! of these leaves before they have ended. Under a name that somebody else has got they would go to the wrong one. So would an
//! accepted file that was opened for writing again.

use super::{Change, Refusal};
use crate::certificate::Certificate;
use crate::hint::{command, option};
use crate::journal::{self, InWork, Tx, UploadRow};
use crate::layout;
use crate::message::Id;
use crate::objects::{ObjectKind, Objects};
use crate::station::Station;

/// What would leave.
pub(super) enum Leaving {
    Account(String),
    /// Account and AS2 id.
    Station(String, String),
    /// Account and AS2 id.
    Partner(String, String),
    /// The key pair that a station decrypts with: account, station, certificate.
    Key(String, String, String),
}

/// What the changes would take away that messages in work may need.
pub(super) fn leaving(before: &Objects, after: &Objects, changes: &[Change]) -> Vec<Leaving> {
    let mut all = Vec::new();
    for change in changes {
        let Change::Remove(kind, account, name) = change else { continue };
        match kind {
            ObjectKind::Account => all.push(Leaving::Account(name.clone())),
            ObjectKind::Station => all.push(Leaving::Station(account.clone(), name.clone())),
            ObjectKind::Partner => all.push(Leaving::Partner(account.clone(), name.clone())),
            ObjectKind::Certificate | ObjectKind::User => {}
        }
    }
    let touches_keys = |change: &Change| matches!(change.kind(), ObjectKind::Station | ObjectKind::Certificate);
    if changes.iter().any(touches_keys) {
        for station in after.stations.values() {
            let Some(former) = before.stations.get(&station.as2_id) else {
                continue;
            };
            let has = |key: &Certificate| key_pairs(after, station).any(|other| other.der == key.der);
            let gone = key_pairs(before, former).filter(|key| !has(key));
            all.extend(gone.map(|key| Leaving::Key(key.account.clone(), station.as2_id.clone(), key.name.clone())));
        }
    }
    all
}

/// Every key pair that a station decrypts with.
fn key_pairs<'a>(objects: &'a Objects, station: &'a Station) -> impl Iterator<Item = &'a Certificate> {
    let is_named = |name: &String| station.certificate == *name || station.also_decrypt.contains(name);
    let of_account = objects
        .certificates
        .values()
        .filter(|c| c.account == station.account && c.sealed_key.is_some());
    of_account.filter(move |c| c.owner == station.as2_id || is_named(&c.name))
}

/// Why one of them may not leave yet. Asked by the transaction that lets them leave: what is accepted before it is counted, and
/// nothing is accepted behind it.
pub(super) fn refused(tx: &Tx<'_>, leaving: &[Leaving]) -> journal::Result<Option<Refusal>> {
    for leaving in leaving {
        let found = match leaving {
            Leaving::Account(id) => tx.in_work(id, None, None),
            Leaving::Station(account, id) => tx.in_work(account, Some(id), None),
            Leaving::Partner(account, id) => tx.in_work(account, None, Some(id)),
            Leaving::Key(account, station, _) => tx.unchecked(account, station),
        }?;
        if found.count > 0 {
            return Ok(Some(leaving.refusal(&found)));
        }
        let waiting = match leaving {
            Leaving::Account(id) => tx.uploads_below(id, None, None),
            Leaving::Station(account, id) => tx.uploads_below(account, Some(id), None),
            Leaving::Partner(account, id) => tx.uploads_below(account, None, Some(id)),
            Leaving::Key(..) => Ok(Vec::new()),
        }?;
        if let Some(row) = waiting.iter().find(|row| row.reason.is_taken_back()) {
            return Ok(Some(leaving.kept_by(row)));
        }
    }
    Ok(None)
}

impl Leaving {
    /// What cannot be done.
    fn what(&self) -> String {
        match self {
            Leaving::Account(id) => format!("cannot remove account {id}"),
            Leaving::Station(_, id) => format!("cannot remove or rename station {id}"),
            Leaving::Partner(_, id) => format!("cannot remove or rename partner {id}"),
            Leaving::Key(_, station, certificate) => format!("cannot take key pair {certificate} from station {station}"),
        }
    }

    fn kept_by(&self, row: &UploadRow) -> Refusal {
        let why = format!("{} of {} waits in send: {}", row.name, row.owner, row.reason.text());
        let path = format!("{}/{}", layout::send_dir(&row.station, &row.partner), row.name);
        let hint = format!("let that upload end, or take the file away: {}", command("upload rm", &path, ""));
        Refusal::failed("in-use", self.what(), why, hint)
    }

    fn refusal(&self, found: &InWork) -> Refusal {
        let (why, list) = match self {
            Leaving::Account(id) => (its_messages(found), format!("--account {id}")),
            Leaving::Station(_, id) => (its_messages(found), option("station", id)),
            Leaving::Partner(_, id) => (its_messages(found), option("partner", id)),
            Leaving::Key(_, station, _) => (
                format!("{} received messages may be encrypted to it and are not checked yet", found.count),
                format!("--state received {}", option("station", station)),
            ),
        };
        Refusal::failed("in-use", self.what(), why, let_end(found, &list))
    }
}

fn its_messages(found: &InWork) -> String {
    match found.count {
        1 => "1 of its messages is in work".to_owned(),
        count => format!("{count} of its messages are in work"),
    }
}

/// The command as it can be given, for the first of them.
fn let_end(found: &InWork, list: &str) -> String {
    let ids: Vec<&str> = found.first.iter().map(Id::short).collect();
    let mut hint = format!("let them end, or give them up: as2gate message cancel {}", ids.join(" "));
    let shown = u64::try_from(ids.len()).unwrap_or(u64::MAX);
    if found.count > shown {
        hint.push_str(&format!("; as2gate message list {list} shows the others"));
    }
    hint
}
