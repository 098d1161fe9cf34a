//! Receiving: which Message-IDs are bound, and the two ends of a received message (durability.md §3).

use as2_core::message_id::bare;
use rusqlite::{OptionalExtension as _, params};

use super::contents::{Blob, file_name};
use super::jobs::{JobKind, LEASE};
use super::outbound::lane;
use super::tree::NewEntry;
use super::{JournalError, Result, Tx, read_word};
use crate::clock::{DAY, Millis};
use crate::message::{Message, State};

/// A name that came is a duplicate for so long, and flagged with the same MIC under another Message-ID (durability.md §3.2).
const NAME_WINDOW: Millis = DAY;
/// An earlier message of a pair with this name and MIC, by one look into an index.
pub(super) const SAME_PAYLOAD: &str =
    "SELECT id FROM message WHERE account = ?1 AND station = ?2 AND partner = ?3 AND direction = 'in' AND state = 'filed'
     AND file = ?4 AND created >= ?5 AND detail ->> '$.mic' = ?6 AND id <> ?7 LIMIT 1";
/// The same for a name alone.
pub(super) const SAME_NAME: &str =
    "SELECT id FROM message WHERE account = ?1 AND station = ?2 AND partner = ?3 AND direction = 'in' AND state = 'filed'
     AND file = ?4 AND created >= ?5 AND id <> ?6 LIMIT 1";
/// Lines kept about messages of strangers.
const MAX_STRANGERS: u32 = 1_000;
/// Rejected messages of a pair that are events, an hour: whoever knows its two names may send them, and events are kept for long.
const MAX_REJECTED_EVENTS: u32 = 1_000;
const HOUR: Millis = 3_600_000;

/// The row that binds a Message-ID.
#[derive(Clone, Debug, PartialEq)]
pub struct InboundRow {
    /// The message that holds it.
    pub message: String,
    /// `received`, `filed` or `rejected`.
    pub state: State,
    /// Digest of the body that came first.
    pub raw_sha256: String,
    /// Its MIC, once filed.
    pub mic: String,
    /// Header block of the MDN that was made for it.
    pub mdn_headers: Option<String>,
    /// Body of that MDN.
    pub mdn_body: Option<Vec<u8>>,
    /// Last change.
    pub updated: Millis,
}

/// A body that is durable, with the claim on its Message-ID.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The row, state `received`.
    pub message: Message,
    /// The raw body, if it is small enough to live in the journal.
    pub inline: Option<Blob>,
    /// Who checks it.
    pub owner: String,
}

/// What a claim came to.
#[derive(Clone, Debug)]
pub enum Claimed {
    /// Ours to check; its job is held with fence 1.
    New,
    /// The Message-ID is bound, or somebody is at it: nothing was stored.
    Bound(InboundRow),
}

/// The end of a received message.
#[derive(Clone, Debug)]
pub struct Filing {
    /// The row, state `filed`, `rejected` or `quarantined`.
    pub message: Message,
    /// What becomes visible.
    pub entries: Vec<NewEntry>,
    /// Small contents to keep.
    pub blobs: Vec<Blob>,
    /// The MDN, as header block and body.
    pub mdn: Option<(String, Vec<u8>)>,
    /// It goes out by a POST of ours, not before this time: a job is made for it.
    pub post_mdn_at: Option<Millis>,
}

impl Filing {
    /// Keys of the staged files among its entries that no row names before it is filed; the raw body is not among them.
    #[must_use]
    pub fn staged_parts(&self) -> Vec<String> {
        let files = self.entries.iter().map(|entry| &entry.store);
        files
            .filter(|store| file_name(store).is_some() && **store != self.message.detail.raw)
            .cloned()
            .collect()
    }
}

/// What a bound Message-ID stands for.
struct Binding<'a> {
    state: State,
    mic: &'a str,
    mdn: Option<(&'a str, &'a [u8])>,
}

impl<'a> Binding<'a> {
    /// A message that is yet to be checked.
    fn received() -> Self {
        Binding {
            state: State::Received,
            mic: "",
            mdn: None,
        }
    }

    /// One whose check has ended.
    fn ended(filing: &'a Filing) -> Self {
        Binding {
            state: filing.message.state,
            mic: &filing.message.detail.mic,
            mdn: filing.mdn.as_ref().map(|(headers, body)| (headers.as_str(), body.as_slice())),
        }
    }
}

/// Where the names of a pair's received files stand among the name windows.
fn received(message: &Message) -> String {
    format!("in\n{}", lane(&message.station, &message.partner))
}

impl Tx<'_> {
    /// Binds (station, partner, Message-ID) to a new message. Only an accepted message binds for good: a rejected one
    /// may be received again (R14).
    ///
    /// # Errors
    /// The database's.
    pub fn receive(&self, claim: Claim, now: Millis) -> Result<Claimed> {
        if let Some(row) = self.bind(&claim, &Binding::received(), now)? {
            return Ok(Claimed::Bound(row));
        }
        let message = &claim.message;
        self.insert_message(message)?;
        let lane = lane(&message.station, &message.partner);
        let kind = JobKind::check(message.detail.raw_size);
        self.add_held_job(kind, (&message.account, message.id.as_str(), &lane), &claim.owner, now)?;
        Ok(Claimed::New)
    }

    /// Binds a small message that was checked before it was kept, and files, rejects or quarantines it in the same step. What it
    /// marks it with stands in `filing`.
    ///
    /// # Errors
    /// The database's.
    pub fn receive_and_file(&self, claim: &Claim, filing: &mut Filing, now: Millis) -> Result<Claimed> {
        if let Some(row) = self.bind(claim, &Binding::ended(filing), now)? {
            return Ok(Claimed::Bound(row));
        }
        self.flag_same_payload(&mut filing.message, now)?;
        self.insert_message(&filing.message)?;
        self.show_filed(filing, now)?;
        Ok(Claimed::New)
    }

    /// Takes the Message-ID and keeps the raw body, or gives the row that has it.
    fn bind(&self, claim: &Claim, binding: &Binding<'_>, now: Millis) -> Result<Option<InboundRow>> {
        let message = &claim.message;
        self.expect_pair(message)?;
        let mut upsert = self.db.prepare_cached(
            "INSERT INTO inbound (station, partner, bare_id, message, state, raw_sha256, mic, mdn_headers, mdn_body, lease_owner,
                lease_until, fence, updated)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 1, ?12)
             ON CONFLICT (station, partner, bare_id) DO UPDATE
                SET message = excluded.message, state = excluded.state, raw_sha256 = excluded.raw_sha256, mic = excluded.mic,
                    mdn_headers = excluded.mdn_headers, mdn_body = excluded.mdn_body, lease_owner = excluded.lease_owner,
                    lease_until = excluded.lease_until, fence = inbound.fence + 1, updated = excluded.updated
                WHERE inbound.state = 'rejected'",
        )?;
        let bound = upsert.execute(params![
            message.station,
            message.partner,
            bare(&message.message_id),
            message.id.as_str(),
            binding.state.as_str(),
            message.detail.raw_sha256,
            binding.mic,
            binding.mdn.map(|(headers, _)| headers),
            binding.mdn.map(|(_, body)| body),
            (binding.state == State::Received).then_some(&claim.owner),
            now + LEASE,
            now
        ])?;
        if bound == 0 {
            let row = self.inbound(&message.station, &message.partner, &message.message_id)?;
            return row.map(Some).ok_or_else(|| JournalError::Conflict("the claim vanished".to_owned()));
        }
        if let Some((key, bytes)) = &claim.inline {
            self.put_blob(key, bytes)?;
        }
        Ok(None)
    }

    /// The row that binds a Message-ID.
    ///
    /// # Errors
    /// The database's.
    pub fn inbound(&self, station: &str, partner: &str, message_id: &str) -> Result<Option<InboundRow>> {
        let mut query = self.db.prepare_cached(
            "SELECT message, state, raw_sha256, mic, mdn_headers, mdn_body, updated FROM inbound
             WHERE station = ?1 AND partner = ?2 AND bare_id = ?3",
        )?;
        let mut rows = query.query_and_then([station, partner, bare(message_id)], |row| {
            Ok(InboundRow {
                message: row.get(0)?,
                state: read_word(row, 1)?,
                raw_sha256: row.get(2)?,
                mic: row.get(3)?,
                mdn_headers: row.get(4)?,
                mdn_body: row.get(5)?,
                updated: row.get(6)?,
            })
        })?;
        rows.next().transpose()
    }

    /// Files, rejects or quarantines a received message, with its MDN, in one step. What it marks it with stands in `filing`.
    ///
    /// # Errors
    /// `Conflict` if somebody else ended it.
    pub fn file_message(&self, filing: &mut Filing, now: Millis) -> Result<()> {
        self.flag_same_payload(&mut filing.message, now)?;
        self.update_message(&filing.message, &[State::Received])?;
        self.finish_receive(filing.message.id.as_str())?;
        self.end_binding(filing, now)?;
        self.show_filed(filing, now)
    }

    fn end_binding(&self, filing: &Filing, now: Millis) -> Result<()> {
        let message = &filing.message;
        if message.state != State::Quarantined {
            let (headers, body) = Binding::ended(filing).mdn.unzip();
            self.db
                .prepare_cached(
                    "UPDATE inbound SET state = ?4, mic = ?5, mdn_headers = ?6, mdn_body = ?7, lease_owner = NULL, updated = ?8
                     WHERE station = ?1 AND partner = ?2 AND bare_id = ?3 AND message = ?9",
                )?
                .execute(params![
                    message.station,
                    message.partner,
                    bare(&message.message_id),
                    message.state.as_str(),
                    message.detail.mic,
                    headers,
                    body,
                    now,
                    message.id.as_str()
                ])?;
        }
        Ok(())
    }

    fn show_filed(&self, filing: &Filing, now: Millis) -> Result<()> {
        let message = &filing.message;
        self.show(filing, now)?;
        if message.state != State::Filed {
            return self.record_rejected(message, now);
        }
        self.note_names(message, now)?;
        self.record_message("message.received", message, now)?;
        if message.is_certificate_exchange() {
            self.record_message("message.certificate_exchange", message, now)?;
        }
        Ok(())
    }

    /// Keeps evidence of a message that could not be claimed, such as one with a reused Message-ID.
    ///
    /// # Errors
    /// The database's.
    pub fn record_refused(&self, filing: &Filing, now: Millis) -> Result<()> {
        let message = &filing.message;
        self.insert_message(message)?;
        self.show(filing, now)?;
        self.record_rejected(message, now)
    }

    /// The event of a rejected message, unless its pair had more than enough of them within the hour.
    fn record_rejected(&self, message: &Message, now: Millis) -> Result<()> {
        let mut query = self.db.prepare_cached(
            "SELECT created FROM message WHERE station = ?1 AND partner = ?2 AND direction = 'in' AND state IN ('rejected', 'quarantined')
             ORDER BY id DESC LIMIT 1 OFFSET ?3",
        )?;
        let before: Option<Millis> = query
            .query_row(params![message.station, message.partner, MAX_REJECTED_EVENTS - 1], |row| row.get(0))
            .optional()?;
        if before.is_some_and(|at| at > now - HOUR) {
            return Ok(());
        }
        self.record_message("message.rejected", message, now)
    }

    /// Keeps what is seen of a message whose check has ended, and has its MDN posted where one is to be.
    fn show(&self, filing: &Filing, now: Millis) -> Result<()> {
        let message = &filing.message;
        for (key, bytes) in &filing.blobs {
            self.put_blob(key, bytes)?;
        }
        self.add_entries(&message.account, message.id.as_str(), &filing.entries, now)?;
        match filing.post_mdn_at.filter(|_| filing.mdn.is_some()) {
            Some(due) => self.post_mdn_at(message, due),
            None => Ok(()),
        }
    }

    /// The MDN of a received message is to be posted; if it is already, at this time.
    fn post_mdn_at(&self, message: &Message, due: Millis) -> Result<()> {
        let lane = lane(&message.station, &message.partner);
        self.add_job(JobKind::Mdn, &message.account, message.id.as_str(), &lane, due)
    }

    /// Keeps a line about a message of a stranger, and forgets the oldest ones: strangers must not fill the disk.
    ///
    /// # Errors
    /// The database's.
    pub fn record_stranger(&self, message: &Message) -> Result<()> {
        self.insert_message(message)?;
        let mut delete = self.db.prepare_cached(
            "DELETE FROM message WHERE id IN (SELECT id FROM message WHERE code = 'unknown-trading-relationship' AND direction = 'in'
             ORDER BY id DESC LIMIT -1 OFFSET ?1)",
        )?;
        delete.execute([MAX_STRANGERS])?;
        Ok(())
    }

    /// The MDN of a received message, as header block and body.
    ///
    /// # Errors
    /// The database's.
    pub fn stored_mdn(&self, message: &Message) -> Result<Option<(String, Vec<u8>)>> {
        let row = self.inbound(&message.station, &message.partner, &message.message_id)?;
        Ok(row
            .filter(|row| row.message == message.id.as_str())
            .and_then(|row| row.mdn_headers.zip(row.mdn_body)))
    }

    /// The MDN of a received message was posted, held or given up; what that changes in its row is `change`'s. Where it was asked
    /// for again meanwhile, and what was tried is not what that wants, `change` says false, and the job stays.
    ///
    /// # Errors
    /// `Conflict` if the message changed meanwhile.
    pub fn mdn_posted(&self, id: &str, kind: &'static str, change: impl FnOnce(&mut Message) -> bool, now: Millis) -> Result<()> {
        let mut message = self.expect_message(id)?;
        let is_over = change(&mut message);
        self.update_message(&message, &[message.state])?;
        self.finish_job(JobKind::Mdn, id)?;
        if !is_over {
            self.post_mdn_at(&message, now)?;
        }
        self.record_message(kind, &message, now)
    }

    /// Asks for the MDN of a received message to be posted again, with all its tries: a repeat that asked for it at this URL, or
    /// an operator.
    ///
    /// # Errors
    /// The database's.
    pub fn post_mdn_again(&self, id: &str, url: &str, due: Millis) -> Result<Message> {
        let mut message = self.expect_message(id)?;
        url.clone_into(&mut message.detail.mdn_url);
        message.detail.mdn_asked_again = Some(due);
        message.forget_undelivered_mdn();
        self.update_message(&message, &[message.state])?;
        self.post_mdn_at(&message, due)?;
        Ok(message)
    }

    /// [`Tx::post_mdn_again`] by an operator, at the URL that the partner asked for it at last.
    ///
    /// # Errors
    /// The database's.
    pub fn retry_mdn(&self, id: &str, due: Millis, now: Millis) -> Result<Message> {
        let url = self.expect_message(id)?.detail.mdn_url;
        let message = self.post_mdn_again(id, &url, due)?;
        self.record_message("mdn.retry", &message, now)?;
        Ok(message)
    }

    /// Whether this partner sent a file of this name not long ago.
    ///
    /// # Errors
    /// The database's.
    pub fn same_name_lately(&self, message: &Message, name: &str, now: Millis) -> Result<Option<String>> {
        let since = now - NAME_WINDOW;
        let (account, station, partner) = (&message.account, &message.station, &message.partner);
        let first = self
            .db
            .prepare_cached(SAME_NAME)?
            .query_row(params![account, station, partner, name, since, message.id.as_str()], |row| {
                row.get(0)
            })
            .optional()?;
        if first.is_some() {
            return Ok(first);
        }
        let mut query = self
            .db
            .prepare_cached("SELECT message FROM name_window WHERE account = ?1 AND scope = ?2 AND name_key = ?3 AND opened_at >= ?4")?;
        Ok(query
            .query_row(params![account, received(message), name, since], |row| row.get(0))
            .optional()?)
    }

    /// Remembers the names of a filed message's further files; that of the first stands in its row, in an index.
    fn note_names(&self, message: &Message, now: Millis) -> Result<()> {
        for file in message.detail.files.iter().skip(1) {
            self.db
                .prepare_cached(
                    "INSERT INTO name_window (account, scope, name_key, opened_at, expires_at, message) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                     ON CONFLICT (account, scope, name_key) DO UPDATE
                        SET opened_at = excluded.opened_at, expires_at = excluded.expires_at, message = excluded.message",
                )?
                .execute(params![
                    message.account,
                    received(message),
                    file.name,
                    now,
                    now + NAME_WINDOW,
                    message.id.as_str()
                ])?;
        }
        Ok(())
    }

    /// Marks a filed message whose name and MIC this partner sent under another Message-ID not long ago: a partner that
    /// resends under a new one is filed, flagged and never dropped.
    fn flag_same_payload(&self, message: &mut Message, now: Millis) -> Result<()> {
        if message.state != State::Filed || message.detail.mic.is_empty() {
            return Ok(());
        }
        let mut query = self.db.prepare_cached(SAME_PAYLOAD)?;
        let row = query.query_row(
            params![
                message.account,
                message.station,
                message.partner,
                message.file,
                now - NAME_WINDOW,
                message.detail.mic,
                message.id.as_str()
            ],
            |row| row.get::<_, String>(0),
        );
        if let Some(earlier) = row.optional()? {
            message.mark_same_payload(&earlier);
        }
        Ok(())
    }
}
