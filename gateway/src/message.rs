//! One AS2 exchange: its `<id>`, its state as people see it, and the record that the journal keeps.

use as2_core::disposition::Disposition;
use serde::{Deserialize, Serialize};

use crate::clock::{Millis, compact};
use crate::code;
use crate::config::DuplicateRelease;
use crate::partner::MdnMode;
use crate::random::random;
use crate::text::word_or_empty;
use crate::words;

/// Names a message everywhere: `20261122T002913123Z-048291637`, UTC milliseconds and nine random digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Id(String);

impl Id {
    /// A new id for this moment; unique by the journal's constraint.
    #[must_use]
    pub fn draw(now: Millis) -> Self {
        // A failing random source only makes the digits less random; the journal still refuses a double.
        Id(format!("{}-{:09}", compact(now), u64::from_le_bytes(random()) % 1_000_000_000))
    }

    /// An id as it stands in the journal.
    #[must_use]
    pub fn stored(text: String) -> Self {
        Id(text)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The nine digits that tables print.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.rsplit('-').next().unwrap_or(&self.0)
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

words! {
    /// Which way a message goes.
    pub enum Direction {
        /// From us to the partner.
        Out = "out",
        /// From the partner to us.
        In = "in",
    }
}

words! {
    /// The states that people see, and the ones that the journal stores.
    pub enum State {
        /// Accepted; waits for its release or for a worker.
        Queued = "queued",
        /// An attempt is under way.
        Sending = "sending",
        /// Posted; the async MDN is due.
        WaitingMdn = "waiting-mdn",
        /// A try failed; the next one is scheduled.
        Retrying = "retrying",
        /// The outcome is unknown, an operator decides.
        Held = "held",
        /// A valid positive receipt came (or none was asked for).
        Delivered = "delivered",
        /// Given up, with a reason.
        Failed = "failed",
        /// The same name within the window.
        Duplicate = "duplicate",
        /// Durable, not yet checked.
        Received = "received",
        /// Checked and in the inbox.
        Filed = "filed",
        /// Refused with an error MDN or status.
        Rejected = "rejected",
        /// A known Message-ID with other content: kept, not delivered.
        Quarantined = "quarantined",
    }
}

impl State {
    /// A sent message in which a worker's step may happen.
    pub const WORKED_ON: [State; 4] = [State::Queued, State::Sending, State::WaitingMdn, State::Retrying];

    /// A sent message in work: one that a worker has, or on which an operator decides.
    pub const IN_WORK: [State; 5] = [State::Queued, State::Sending, State::WaitingMdn, State::Retrying, State::Held];

    /// Nothing moves any more by itself.
    #[must_use]
    pub fn is_final(self) -> bool {
        use State::{Delivered, Duplicate, Failed, Filed, Quarantined, Rejected};
        matches!(self, Delivered | Failed | Duplicate | Filed | Rejected | Quarantined)
    }

    /// It is [in work](State::IN_WORK).
    #[must_use]
    pub fn is_in_work(self) -> bool {
        Self::IN_WORK.contains(&self)
    }
}

words! {
    /// What a sent message waits for on our side, as its code: it goes out by itself once that is there.
    pub enum Lacking {
        /// The pair, or a key of it.
        NotConfigured = "not-configured",
        /// Leave to send to the partner.
        PartnerBlocked = "partner-blocked",
        /// A key to sign with.
        NoIdentity = "no-identity",
        /// A certificate to encrypt to.
        NoCertificate = "no-certificate",
        /// Settings that a message can be made by.
        CannotCompose = "cannot-compose",
    }
}

/// One file of a message.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct FileRecord {
    /// Its name in the tree.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 in hex, where it was taken.
    #[serde(default)]
    pub sha256: String,
    /// As sent or received.
    #[serde(default)]
    pub content_type: String,
}

/// One try to post.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Attempt {
    /// Counted from 1.
    pub n: u32,
    /// When it began.
    pub at: Millis,
    /// Milliseconds until its outcome was known.
    #[serde(default)]
    pub took: Millis,
    /// HTTP status, if an answer came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What came of it; empty while it is under way.
    #[serde(default)]
    pub outcome: String,
    /// The whole body left: the partner may hold it.
    #[serde(default)]
    pub body_sent: bool,
    /// It went out twice: the first time on a connection that ended without an answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub twice: bool,
}

impl Attempt {
    /// The partner may hold the message after this try. Without an outcome we died while posting.
    #[must_use]
    pub fn may_have_arrived(&self) -> bool {
        self.twice || (self.body_sent || self.outcome.is_empty()) && !self.status.is_some_and(|status| (400..500).contains(&status))
    }
}

/// An operator had a message posted again.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Retried {
    /// When.
    pub at: Millis,
    /// Tries that were made before.
    pub after: u32,
}

/// A digest that a receipt may name: what it covers, the algorithm, base64.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct MicRecord {
    /// `signed-part`, `with-headers`, …
    pub what: String,
    /// `<base64>, sha-256`.
    pub mic: String,
}

/// What is kept about a message besides the columns that are searched.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct Detail {
    /// The user that uploaded it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Files, for a received message several.
    pub files: Vec<FileRecord>,
    /// The host of its Message-ID: that of its acceptance, whatever `public_url` is when it is packed. Journals of before have none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id_host: String,
    /// Key of the staged payload in the store.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub payload: String,
    /// Key of the packaged or received body in the store, until it is filed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub raw: String,
    /// Bytes of that body.
    pub raw_size: u64,
    /// SHA-256 of that body in hex.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub raw_sha256: String,
    /// The HTTP header block, as made or as received.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub headers: String,
    /// The header block was no UTF-8: each character stands for one byte.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub headers_latin1: bool,
    /// URL that it goes to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// What was signed with, empty if not.
    pub signed: String,
    /// What was encrypted with, empty if not.
    pub encrypted: String,
    /// Compressed, and where.
    pub compressed: String,
    /// The MIC that a receipt should carry, or that ours carries.
    pub mic: String,
    /// Further digests that a receipt may name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mics: Vec<MicRecord>,
    /// The receipt asked for; of a sent message, once it is packed.
    #[serde(with = "word_or_empty")]
    pub mdn_mode: Option<MdnMode>,
    /// The receipt's disposition.
    pub mdn_disposition: String,
    /// How its signature stands: `signed`, `unsigned`, `unverified`.
    pub mdn_signature: String,
    /// Its text for people.
    pub mdn_text: String,
    /// When it came or went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mdn_at: Option<Millis>,
    /// When an async receipt is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mdn_due: Option<Millis>,
    /// How often the same bytes were posted again for want of an async receipt.
    pub mdn_tries: u32,
    /// Where an async receipt of ours goes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mdn_url: String,
    /// When it was last asked for again, by a repeat or an operator: its tries count from then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mdn_asked_again: Option<Millis>,
    /// Tries.
    pub tries: Vec<Attempt>,
    /// AS2 Restart: the partner refused what it lacked, sent alone, so that every try from then on brings all of it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
    /// The message that this one repeats (resend), or whose name it doubles.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub previous: String,
    /// The partner's MDN says verifiably that it holds nothing after the last try.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
    /// When an operator last had it posted again: its tries count from then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retried: Option<Retried>,
    /// What to do next, for a failed one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// Marks such as `no MIC`, `late`, `receipt lost`, `SHA-1`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<String>,
}

impl Detail {
    /// Keeps a header block, byte for byte.
    pub fn set_head(&mut self, block: &[u8]) {
        let text = std::str::from_utf8(block);
        self.headers_latin1 = text.is_err();
        self.headers = text.map_or_else(|_| block.iter().copied().map(char::from).collect(), str::to_owned);
    }

    /// The header block as it was on the wire.
    #[must_use]
    pub fn head(&self) -> Vec<u8> {
        if self.headers_latin1 {
            // Every character came from one byte.
            return self.headers.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect();
        }
        self.headers.clone().into_bytes()
    }
}

/// The mark of a received message whose async MDN was held or given up begins so.
const MDN_UNDELIVERED: &str = "MDN not delivered";

/// The mark of a delivered message whose MDN has no MIC.
pub const NO_MIC: &str = "no MIC";
/// The mark of one whose first MDN was lost, and whose next one has another MIC.
pub const RECEIPT_LOST: &str = "receipt lost";
/// The mark of a received message whose partner sent the same name and bytes under another Message-ID begins so.
const SAME_PAYLOAD: &str = "same payload as ";
/// The mark of a message of `partner test`.
const TEST: &str = "test";

/// The mark of a received message that asks for certificates to be changed (CEM).
const CERTIFICATE_EXCHANGE: &str = "certificate exchange";

impl Message {
    /// One that begins between these: account, station, partner.
    #[must_use]
    pub fn new(direction: Direction, state: State, (account, station, partner): (&str, &str, &str), now: Millis) -> Self {
        Self {
            id: Id::draw(now),
            account: account.to_owned(),
            direction,
            station: station.to_owned(),
            partner: partner.to_owned(),
            message_id: String::new(),
            state,
            code: String::new(),
            reason: String::new(),
            file: String::new(),
            size: 0,
            sha256: String::new(),
            content_type: String::new(),
            subject: String::new(),
            created: now,
            updated: now,
            finished: None,
            attempts: 0,
            next_try: None,
            detail: Detail::default(),
        }
    }

    /// An operator sent the file of another one anew: nobody has uploaded it again.
    #[must_use]
    pub fn is_resent(&self) -> bool {
        self.direction == Direction::Out && self.state != State::Duplicate && !self.detail.previous.is_empty()
    }

    /// Its partner sent the same before, as this message, under another Message-ID.
    pub fn mark_same_payload(&mut self, earlier: &str) {
        self.detail.marks.push(format!("{SAME_PAYLOAD}{earlier}"));
    }

    /// It may have been booked twice, or not as it was sent: a person should look.
    #[must_use]
    pub fn is_doubtful(&self) -> bool {
        let mut marks = self.detail.marks.iter();
        marks.any(|mark| mark == RECEIPT_LOST || mark.starts_with(SAME_PAYLOAD))
    }

    /// It only tried whether messages arrive: nobody waits for its file.
    #[must_use]
    pub fn is_test(&self) -> bool {
        self.detail.marks.iter().any(|mark| mark == TEST)
    }

    /// Marks it so.
    pub fn mark_as_test(&mut self) {
        self.detail.marks.push(TEST.to_owned());
    }

    /// Its partner asks for certificates to be changed.
    #[must_use]
    pub fn is_certificate_exchange(&self) -> bool {
        self.detail.marks.iter().any(|mark| mark == CERTIFICATE_EXCHANGE)
    }

    /// Marks it so.
    pub fn mark_as_certificate_exchange(&mut self) {
        self.detail.marks.push(CERTIFICATE_EXCHANGE.to_owned());
    }

    /// The receipt in one word: what stands behind the semicolon of the disposition.
    #[must_use]
    pub fn receipt_word(&self) -> String {
        let text = &self.detail.mdn_disposition;
        text.rsplit_once(';').map_or(text.as_str(), |(_, rest)| rest).trim().to_owned()
    }

    /// The partner asked for an async MDN of this received message, and it was held or given up: the mark that says so, with
    /// the reason.
    #[must_use]
    pub fn undelivered_mdn(&self) -> Option<&str> {
        let mut marks = self.detail.marks.iter().map(String::as_str);
        marks.find(|mark| mark.starts_with(MDN_UNDELIVERED))
    }

    /// Why a sent message failed, as far as its receipt tells: a `negative` one came, or none in time (`overdue`). The code of a
    /// negative one is what its partner says.
    #[must_use]
    pub fn failed_receipt(&self) -> Option<&'static str> {
        if self.direction != Direction::Out || self.state != State::Failed {
            return None;
        }
        if self.code == code::NO_MDN {
            return self.detail.mdn_due.map(|_| "overdue");
        }
        let said = &self.detail.mdn_disposition;
        let is_negative = !said.is_empty() && !Disposition::parse(said).is_positive();
        let counts = self.detail.mdn_signature != "unverified" && !code::may_be_retried(&self.code);
        (is_negative && counts).then_some("negative")
    }

    /// Marks it so, with the reason.
    pub fn mdn_not_delivered(&mut self, why: &str) {
        self.detail.marks.push(format!("{MDN_UNDELIVERED}: {why}"));
    }

    /// The MDN was delivered, or is to be tried again.
    pub fn forget_undelivered_mdn(&mut self) {
        self.detail.marks.retain(|mark| !mark.starts_with(MDN_UNDELIVERED));
    }

    /// The partner may hold it after one of its tries.
    #[must_use]
    pub fn may_have_arrived(&self) -> bool {
        self.detail.tries.iter().any(Attempt::may_have_arrived)
    }

    /// The partner may have held it already when the last try came.
    #[must_use]
    pub fn may_have_arrived_before(&self) -> bool {
        let mut tries = self.detail.tries.iter().rev();
        tries.next().is_some_and(|last| last.twice) || tries.any(Attempt::may_have_arrived)
    }

    /// The partner may hold what failed here: some try may have arrived, other than one that it refused.
    #[must_use]
    pub fn partner_may_hold_it(&self) -> bool {
        if self.detail.refused {
            self.may_have_arrived_before()
        } else {
            self.may_have_arrived()
        }
    }

    /// Whether its name may be used again at once now that it failed (durability.md §6).
    #[must_use]
    pub fn frees_name(&self, rule: DuplicateRelease) -> bool {
        match rule {
            DuplicateRelease::Never => false,
            DuplicateRelease::ProvablyUndelivered => !self.partner_may_hold_it(),
            DuplicateRelease::AnyFailure => true,
        }
    }

    /// Tries that count against the most that there are: since an operator had it posted again, if one did, and none of those for
    /// want of an MDN.
    #[must_use]
    pub fn tries_that_count(&self) -> u32 {
        let before = self.detail.retried.map_or(0, |retried| retried.after);
        self.attempts.saturating_sub(before).saturating_sub(self.detail.mdn_tries)
    }

    /// Since when they are counted.
    #[must_use]
    pub fn tried_since(&self) -> Millis {
        let first = || self.detail.tries.first().map_or(self.created, |first| first.at);
        self.detail.retried.map_or_else(first, |retried| retried.at)
    }

    /// An operator had it posted again, and that try was not made yet.
    #[must_use]
    pub fn is_retried(&self) -> bool {
        self.detail.retried.is_some_and(|retried| retried.after == self.attempts)
    }

    /// Whether the same bytes may be posted again: it is in work, or it failed without the partner's verified word. Not while
    /// a try is under way: its answer counts, and after a crash the state alone tells that its outcome is unknown.
    #[must_use]
    pub fn can_be_retried(&self) -> bool {
        (self.state.is_in_work() && self.state != State::Sending)
            || (self.state == State::Failed && code::may_be_retried(&self.code) && !self.message_id.is_empty())
    }
}

/// A message as the journal keeps it.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Message {
    /// Its name.
    pub id: Id,
    /// Whose it is.
    pub account: String,
    /// Which way.
    pub direction: Direction,
    /// Our AS2 id.
    pub station: String,
    /// The partner's AS2 id.
    pub partner: String,
    /// Message-ID as on the wire; empty until composed.
    pub message_id: String,
    /// Where it stands.
    pub state: State,
    /// Error code in kebab-case; empty without error.
    pub code: String,
    /// The reason in words.
    pub reason: String,
    /// File name (the first, of several).
    pub file: String,
    /// Bytes of payload.
    pub size: u64,
    /// SHA-256 of the payload in hex.
    pub sha256: String,
    /// Payload's content type.
    pub content_type: String,
    /// Subject line.
    pub subject: String,
    /// When accepted or received.
    pub created: Millis,
    /// Last change.
    pub updated: Millis,
    /// When it became final.
    pub finished: Option<Millis>,
    /// Tries so far.
    pub attempts: u32,
    /// When the next try is due.
    pub next_try: Option<Millis>,
    /// Everything else.
    pub detail: Detail,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_final_in_work_or_being_checked() {
        for state in State::ALL {
            let kinds = [state.is_final(), state.is_in_work(), *state == State::Received];
            assert_eq!(kinds.iter().filter(|is| **is).count(), 1, "{state}");
            assert_eq!(
                State::WORKED_ON.contains(state),
                state.is_in_work() && *state != State::Held,
                "{state}"
            );
        }
    }

    #[test]
    fn only_what_surely_did_not_arrive_counts_so() {
        let tried = |body_sent, status, outcome: &str| Attempt {
            n: 1,
            at: 0,
            took: 0,
            status,
            outcome: outcome.to_owned(),
            body_sent,
            twice: false,
        };
        // Cut off by a crash: recorded before the connection was made, and nothing after it.
        assert!(tried(false, None, "").may_have_arrived());
        assert!(tried(true, None, "no answer within 60 s").may_have_arrived());
        assert!(tried(true, Some(503), "HTTP 503").may_have_arrived());
        assert!(!tried(true, Some(413), "HTTP 413").may_have_arrived());
        assert!(!tried(false, None, "cannot connect").may_have_arrived());
        let twice = Attempt {
            twice: true,
            ..tried(true, Some(413), "HTTP 413")
        };
        assert!(twice.may_have_arrived(), "the first of the two got no answer");
    }

    #[test]
    fn a_failed_message_frees_its_name_by_one_rule() {
        let message = crate::manage::tests::message(Direction::Out, State::Failed, "j:1", 0);
        let tried = |body_sent| Attempt {
            n: 1,
            at: 0,
            took: 0,
            status: None,
            outcome: "connection lost".to_owned(),
            body_sent,
            twice: false,
        };
        // What did not arrive, what may have with the last try, and what may have with an earlier one; each without the partner's
        // refusal of the last try and with it.
        let tries = [
            vec![tried(false), tried(false)],
            vec![tried(false), tried(true)],
            vec![tried(true), tried(true)],
        ];
        let frees = |rule| {
            tries.clone().map(|tries| {
                [false, true].map(|refused| {
                    let mut message = message.clone();
                    (message.detail.tries, message.detail.refused) = (tries.clone(), refused);
                    message.frees_name(rule)
                })
            })
        };
        assert_eq!(frees(DuplicateRelease::Never), [[false; 2]; 3]);
        assert_eq!(
            frees(DuplicateRelease::ProvablyUndelivered),
            [[true, true], [false, true], [false, false]]
        );
        assert_eq!(frees(DuplicateRelease::AnyFailure), [[true; 2]; 3]);
    }

    #[test]
    fn the_mode_of_the_receipt_is_one_word_in_the_journal() {
        for (word, mode) in [
            ("", None),
            ("none", Some(MdnMode::None)),
            ("sync-signed", Some(MdnMode::SyncSigned)),
            ("async", Some(MdnMode::Async)),
        ] {
            let row = format!(r#"{{"mdn_mode":"{word}"}}"#);
            let detail: Result<Detail, _> = serde_json::from_str(&row);
            assert_eq!(detail.as_ref().ok().and_then(|detail| detail.mdn_mode), mode, "{detail:?}");
            assert_eq!(serde_json::json!(detail.ok())["mdn_mode"], word);
        }
        let old: Result<Detail, _> = serde_json::from_str("{}");
        assert!(old.is_ok_and(|old| old.mdn_mode.is_none()));
    }

    #[test]
    fn header_blocks_come_back_byte_for_byte() {
        for block in [&b"A: b\r\n"[..], b"A: \xc3\xa9\r\n", b"A: \xe9\x80\xff\r\nB: \xc3\xa9\r\n", b""] {
            let mut detail = Detail::default();
            detail.set_head(block);
            assert_eq!(detail.head(), block);
        }
    }
}
