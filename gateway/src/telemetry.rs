//! Metrics and health on a port of their own: `/metrics`, `/healthz`, `/readyz`.
//!
//! Few labels and only from fixed sets: never a file name, a message or an address, and a station or partner in one metric only.
//! That is the end of each certificate in use ([`Registry::set_certificates`]): whoever is woken by it has to know which one, and
//! whose (product.md §15). It is bounded, and grows with what operators set up and not with what partners send.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use as2_core::disposition::Disposition;
use as2_core::receive::{MdnSignature, ReceivedMdn};
use sftp_front::{Fault, Op};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::certificate::Certificate;
use crate::clock::Millis;
use crate::http;
use crate::journal::Swept;
use crate::layout::Area;
use crate::login::LoginStep;
use crate::message::{Direction, Message, State};

/// Most rows of a metric whose rows are not all known beforehand.
const MAX_ROWS: usize = 256;

/// What becomes of messages.
const RESULTS: &[[&str; 2]] = &[
    ["in", "filed"],
    ["in", "quarantined"],
    ["in", "rejected"],
    ["in", "unknown"],
    ["out", "delivered"],
    ["out", "duplicate"],
    ["out", "failed"],
    ["out", "repeated"],
];

/// What MDNs say. Ours are never unverified.
const MDNS: &[[&str; 3]] = &[
    ["in", "sync", "processed"],
    ["in", "sync", "negative"],
    ["in", "sync", "unverified"],
    ["in", "async", "processed"],
    ["in", "async", "negative"],
    ["in", "async", "unverified"],
    ["out", "sync", "processed"],
    ["out", "sync", "negative"],
    ["out", "async", "processed"],
    ["out", "async", "negative"],
];

/// What SFTP requests are answered with, in the order of [`Registry::sftp_request`].
const REQUEST_RESULTS: [&str; 4] = ["ok", "missing", "denied", "failed"];

/// Upper ends of the classes of durations, in milliseconds: from a sync MDN at once to a day of tries.
const DURATIONS: [(Millis, &str); 10] = [
    (100, "0.1"),
    (500, "0.5"),
    (1_000, "1"),
    (5_000, "5"),
    (15_000, "15"),
    (60_000, "60"),
    (300_000, "300"),
    (3_600_000, "3600"),
    (21_600_000, "21600"),
    (86_400_000, "86400"),
];

/// Every metric of the server; rendered as Prometheus text 0.0.4.
#[derive(Debug)]
pub struct Registry {
    messages: Counters,
    message_bytes: Counters,
    message_durations: Durations,
    mdns: Counters,
    delayed_answers: Counters,
    queue_depth: Family,
    uploads_waiting: Family,
    oldest_queued: Family,
    http_requests: Family,
    sftp_connections: Family,
    sftp_logins: Counters,
    sftp_requests: Counters,
    sftp_bans: Counters,
    sftp_bytes: Counters,
    certificates_expiring: Family,
    certificate_ends: Family,
    lifecycle_files: Counters,
    sweep_holds: Family,
}

/// Counters whose rows are all known beforehand, one for each combination of labels: counting takes no lock. The rows are there
/// from the start: a counter whose first row is a 1 has not increased, to whoever watches it.
#[derive(Debug)]
struct Counters {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    rows: Vec<(Vec<&'static str>, AtomicU64)>,
}

/// A histogram by direction.
#[derive(Debug)]
struct Durations {
    name: &'static str,
    help: &'static str,
    rows: [(Direction, Classes); 2],
}

/// How many fell into each class, behind the last one those that took longer, and the sum of all in milliseconds.
#[derive(Debug, Default)]
struct Classes {
    counts: [AtomicU64; DURATIONS.len() + 1],
    sum: AtomicU64,
}

/// One metric and its rows, a row for each combination of labels that came up.
#[derive(Debug)]
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    rows: RwLock<BTreeMap<Vec<String>, AtomicU64>>,
}

impl Default for Registry {
    fn default() -> Self {
        let areas: Vec<&'static str> = Area::ALL.iter().map(|area| area.as_str()).chain(["tmp"]).collect();
        Registry {
            messages: Counters::of(
                "as2gate_as2_messages_total",
                "AS2 messages settled.",
                &["direction", "result"],
                RESULTS,
            ),
            message_bytes: Counters::product(
                "as2gate_as2_message_bytes_total",
                "Bytes of the payloads of messages delivered and filed.",
                &["direction"],
                &[&["in", "out"]],
            ),
            message_durations: Durations {
                name: "as2gate_as2_message_duration_seconds",
                help: "From the acceptance of a message until it was delivered or filed.",
                rows: [Direction::In, Direction::Out].map(|direction| (direction, Classes::default())),
            },
            mdns: Counters::of(
                "as2gate_as2_mdn_total",
                "MDNs that came, and MDNs of ours that were made.",
                &["direction", "mode", "disposition"],
                MDNS,
            ),
            delayed_answers: Counters::product(
                "as2gate_as2_delayed_answers_total",
                "Answers delayed because message after message did not decrypt.",
                &[],
                &[],
            ),
            queue_depth: Family::gauge("as2gate_as2_queue_depth", "Messages to be sent, by state.", &["state"]),
            oldest_queued: Family::gauge(
                "as2gate_as2_oldest_queued_seconds",
                "Age of the oldest message that is queued; 0 without any.",
                &[],
            ),
            http_requests: Family::counter(
                "as2gate_http_requests_total",
                "HTTP requests answered.",
                &["listener", "method", "status"],
            ),
            uploads_waiting: Family::gauge(
                "as2gate_sftp_uploads_waiting",
                "Files in `send` that are no message, by the reason.",
                &["reason"],
            ),
            sftp_connections: Family::gauge("as2gate_sftp_connections", "SFTP connections open now.", &[]),
            sftp_logins: Counters::product(
                "as2gate_sftp_logins_total",
                "SFTP logins tried, by their last step.",
                &["method", "result"],
                &[LoginStep::WORDS, &["failed", "ok"]],
            ),
            sftp_requests: Counters::product(
                "as2gate_sftp_requests_total",
                "SFTP requests answered; a read when it is taken up.",
                &["op", "result"],
                &[&Op::ALL.map(Op::as_str), &REQUEST_RESULTS],
            ),
            sftp_bans: Counters::product("as2gate_sftp_bans_total", "Times that a source was shut out.", &[], &[]),
            sftp_bytes: Counters::product(
                "as2gate_sftp_bytes_total",
                "Bytes moved by SFTP.",
                &["direction"],
                &[&["in", "out"]],
            ),
            certificates_expiring: Family::gauge(
                "as2gate_certificates_expiring",
                "Certificates in use without a successor that expire within so many days.",
                &["days"],
            ),
            certificate_ends: Family::gauge(
                "as2gate_certificate_expiry_timestamp_seconds",
                "When a certificate in use without a successor expires; those that end first.",
                &["account", "name", "purpose", "owner"],
            ),
            lifecycle_files: Counters::product(
                "as2gate_lifecycle_files_total",
                "Files that the server's sweeps took out of view or deleted for good.",
                &["area", "action"],
                &[areas.as_slice(), &["deleted", "noncurrent"]],
            ),
            sweep_holds: Family::gauge(
                "as2gate_lifecycle_held",
                "Areas of accounts in which the life cycle waits for a person.",
                &[],
            ),
        }
    }
}

impl Registry {
    /// All zero.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Registry::default())
    }

    /// A message came to this result without being settled: of direction `in` `unknown`; of direction `out`, as its name was used
    /// before, `duplicate` with other bytes, `repeated` with the same.
    pub fn message(&self, direction: &str, result: &str) {
        self.messages.add(&[direction, result], 1);
    }

    /// A message came to its end.
    pub fn settled(&self, message: &Message) {
        let direction = message.direction.as_str();
        self.message(direction, message.state.as_str());
        if matches!(message.state, State::Delivered | State::Filed) {
            self.message_bytes.add(&[direction], message.size);
            self.message_durations.add(message.direction, message.updated - message.created);
        }
    }

    /// A partner's MDN came: mode `sync`, in the answer, or `async`.
    pub fn mdn_came(&self, mode: &str, mdn: &ReceivedMdn) {
        let said = match mdn.signature {
            MdnSignature::Bad(_) => "unverified",
            MdnSignature::None | MdnSignature::Verified { .. } => word(&mdn.mdn.disposition),
        };
        self.mdns.add(&["in", mode, said], 1);
    }

    /// We made an MDN.
    pub fn mdn_made(&self, mode: &str, disposition: &Disposition) {
        self.mdns.add(&["out", mode, word(disposition)], 1);
    }

    /// The answer to a message that did not decrypt was delayed.
    pub fn answer_delayed(&self) {
        self.delayed_answers.add(&[], 1);
    }

    /// A request was answered: listener e.g. `as2` or `as2-tls`.
    pub fn http_request(&self, listener: &str, method: &str, status: u16) {
        self.http_requests.add(&[listener, method, &status.to_string()], 1);
    }

    /// So many SFTP connections are open.
    pub fn set_sftp_connections(&self, open: u64) {
        self.sftp_connections.set(&[], open);
    }

    /// A login was tried: method, its last step, such as `publickey`; result `ok` or `failed`.
    pub fn sftp_login(&self, method: &str, result: &str) {
        self.sftp_logins.add(&[method, result], 1);
    }

    /// An SFTP request was answered.
    pub fn sftp_request(&self, op: Op, fault: Option<&Fault>) {
        let result = match fault {
            None => 0,
            Some(Fault::NoSuchFile(_)) => 1,
            Some(Fault::PermissionDenied(_)) => 2,
            Some(Fault::Failure(_) | Fault::BadMessage(_) | Fault::OpUnsupported(_)) => 3,
        };
        self.sftp_requests.add_at(op as usize * REQUEST_RESULTS.len() + result);
    }

    /// A source was shut out.
    pub fn sftp_ban(&self) {
        self.sftp_bans.add(&[], 1);
    }

    /// Bytes went through SFTP: direction `in` (uploads) or `out`.
    pub fn sftp_bytes(&self, direction: &str, bytes: u64) {
        self.sftp_bytes.add(&[direction], bytes);
    }

    /// So many messages are in this state.
    pub fn set_queue_depth(&self, state: &str, depth: u64) {
        self.queue_depth.set(&[state], depth);
    }

    /// So many files lie in `send` for this reason.
    pub fn set_uploads_waiting(&self, reason: &str, count: u64) {
        self.uploads_waiting.set(&[reason], count);
    }

    /// The oldest message that is queued came so long ago.
    pub fn set_oldest_queued(&self, age: Millis) {
        self.oldest_queued.set(&[], u64::try_from(age / 1000).unwrap_or(0));
    }

    /// So many certificates in use, without a successor, expire within these days.
    pub fn set_certificates_expiring(&self, days: i64, count: u64) {
        self.certificates_expiring.set(&[&days.to_string()], count);
    }

    /// These are the certificates in use without a successor, those that end first in front.
    pub fn set_certificates<'a>(&self, certificates: impl Iterator<Item = &'a Certificate>) {
        let row = |c: &Certificate| {
            let labels = [c.account.as_str(), &c.name, c.purpose.as_str(), &c.owner].map(str::to_owned);
            (labels.to_vec(), AtomicU64::new(u64::try_from(c.not_after).unwrap_or(0)))
        };
        self.certificate_ends.replace(certificates.take(MAX_ROWS).map(row).collect());
    }

    /// A step of a sweep is over.
    pub fn swept(&self, area: &str, step: Swept) {
        self.lifecycle_files.add(&[area, "noncurrent"], step.noncurrent);
        self.lifecycle_files.add(&[area, "deleted"], step.deleted);
    }

    /// In so many areas of accounts the life cycle waits for a person.
    pub fn set_sweep_holds(&self, areas: u64) {
        self.sweep_holds.set(&[], areas);
    }

    /// The text that a scraper reads.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::with_capacity(16_384);
        head(&mut out, "as2gate_build_info", "gauge", "The running version.");
        sample(&mut out, "as2gate_build_info", [("version", env!("CARGO_PKG_VERSION"))], 1);
        self.messages.render(&mut out);
        self.message_bytes.render(&mut out);
        self.message_durations.render(&mut out);
        for counters in [
            &self.mdns,
            &self.delayed_answers,
            &self.sftp_logins,
            &self.sftp_requests,
            &self.sftp_bans,
            &self.sftp_bytes,
            &self.lifecycle_files,
        ] {
            counters.render(&mut out);
        }
        for family in [
            &self.queue_depth,
            &self.oldest_queued,
            &self.http_requests,
            &self.uploads_waiting,
            &self.sftp_connections,
            &self.certificates_expiring,
            &self.certificate_ends,
            &self.sweep_holds,
        ] {
            family.render(&mut out);
        }
        out
    }
}

/// What an MDN says, in a word.
fn word(disposition: &Disposition) -> &'static str {
    if disposition.is_positive() { "processed" } else { "negative" }
}

impl Counters {
    /// With these rows.
    fn of<const N: usize>(name: &'static str, help: &'static str, labels: &'static [&'static str], rows: &[[&'static str; N]]) -> Self {
        let rows = rows.iter().map(|row| (row.to_vec(), AtomicU64::new(0))).collect();
        Counters { name, help, labels, rows }
    }

    /// With a row for each combination of these values.
    fn product(name: &'static str, help: &'static str, labels: &'static [&'static str], values: &[&[&'static str]]) -> Self {
        let longer = |rows: Vec<Vec<&'static str>>, set: &&[&'static str]| {
            let with_each = |row: Vec<&'static str>| set.iter().map(move |value| [&row[..], &[*value]].concat());
            rows.into_iter().flat_map(with_each).collect::<Vec<_>>()
        };
        let rows = values.iter().fold(vec![Vec::new()], longer);
        let rows = rows.into_iter().map(|row| (row, AtomicU64::new(0))).collect();
        Counters { name, help, labels, rows }
    }

    /// What is not among the rows is not counted.
    fn add(&self, labels: &[&str], by: u64) {
        if let Some((_, count)) = self.rows.iter().find(|(row, _)| row.as_slice() == labels) {
            count.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// One more of the row at this place of the product: for what is counted all the time.
    fn add_at(&self, place: usize) {
        if let Some((_, count)) = self.rows.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn render(&self, out: &mut String) {
        head(out, self.name, "counter", self.help);
        for (values, count) in &self.rows {
            let labels = self.labels.iter().copied().zip(values.iter().copied());
            sample(out, self.name, labels, count.load(Ordering::Relaxed));
        }
    }
}

impl Durations {
    fn add(&self, direction: Direction, took: Millis) {
        let Some((_, classes)) = self.rows.iter().find(|(known, _)| *known == direction) else {
            return;
        };
        let class = DURATIONS.iter().position(|(end, _)| took <= *end).unwrap_or(DURATIONS.len());
        if let Some(count) = classes.counts.get(class) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        classes.sum.fetch_add(u64::try_from(took).unwrap_or(0), Ordering::Relaxed);
    }

    fn render(&self, out: &mut String) {
        head(out, self.name, "histogram", self.help);
        let [bucket, sum, count] = ["bucket", "sum", "count"].map(|part| format!("{}_{part}", self.name));
        for (direction, classes) in &self.rows {
            let label = ("direction", direction.as_str());
            let mut so_far = 0;
            for (count, end) in classes.counts.iter().zip(DURATIONS.iter().map(|(_, end)| *end).chain(["+Inf"])) {
                so_far += count.load(Ordering::Relaxed);
                sample(out, &bucket, [label, ("le", end)], so_far);
            }
            let millis = classes.sum.load(Ordering::Relaxed);
            sample(out, &sum, [label], format_args!("{}.{:03}", millis / 1000, millis % 1000));
            sample(out, &count, [label], so_far);
        }
    }
}

impl Family {
    fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Family {
            name,
            kind: "counter",
            help,
            labels,
            rows: RwLock::default(),
        }
    }

    fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Family {
            kind: "gauge",
            ..Family::counter(name, help, labels)
        }
    }

    fn add(&self, labels: &[&str], by: u64) {
        self.with(labels, |value| {
            value.fetch_add(by, Ordering::Relaxed);
        });
    }

    fn set(&self, labels: &[&str], to: u64) {
        self.with(labels, |value| value.store(to, Ordering::Relaxed));
    }

    fn replace(&self, rows: BTreeMap<Vec<String>, AtomicU64>) {
        *self.rows.write().unwrap_or_else(PoisonError::into_inner) = rows;
    }

    fn with(&self, labels: &[&str], change: impl Fn(&AtomicU64)) {
        let key: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        if let Some(value) = self.rows.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return change(value);
        }
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        if rows.len() < MAX_ROWS || rows.contains_key(&key) {
            change(rows.entry(key).or_default());
        }
    }

    fn render(&self, out: &mut String) {
        head(out, self.name, self.kind, self.help);
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        if rows.is_empty() && self.labels.is_empty() {
            sample(out, self.name, [], 0);
        }
        for (values, count) in rows.iter() {
            let labels = self.labels.iter().copied().zip(values.iter().map(String::as_str));
            sample(out, self.name, labels, count.load(Ordering::Relaxed));
        }
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn sample<'a>(out: &mut String, name: &str, labels: impl IntoIterator<Item = (&'a str, &'a str)>, value: impl Display) {
    let labels: Vec<String> = labels
        .into_iter()
        .map(|(label, value)| format!("{label}=\"{}\"", escape(value)))
        .collect();
    let _ = match labels.is_empty() {
        true => writeln!(out, "{name} {value}"),
        false => writeln!(out, "{name}{{{}}} {value}", labels.join(",")),
    };
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Whether the server is ready: one line per part; `Err` names the parts that are not.
pub type Ready = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// Serves health and metrics until `stop`. `ready` is asked on every `/readyz` and has to be quick.
pub async fn serve(listener: TcpListener, registry: Arc<Registry>, ready: Ready, stop: watch::Receiver<bool>) {
    let answer: http::Answerer = Arc::new(move |path| match path {
        "/metrics" => Some((200, registry.render())),
        "/healthz" => Some((200, "ok\n".to_owned())),
        "/readyz" => Some(match ready() {
            Ok(text) => (200, text),
            Err(text) => (503, text),
        }),
        _ => None,
    });
    http::serve_text(listener, answer, stop).await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let registry = Registry::new();
        registry.message("in", "filed");
        registry.message("in", "filed");
        registry.http_request("as2", "POST", 200);
        registry.sftp_bytes("out", 5_000);
        registry.set_queue_depth("que\"ued", 3);
        let text = registry.render();
        for line in [
            "as2gate_as2_messages_total{direction=\"in\",result=\"filed\"} 2",
            "as2gate_http_requests_total{listener=\"as2\",method=\"POST\",status=\"200\"} 1",
            "as2gate_sftp_connections 0",
            "as2gate_sftp_bytes_total{direction=\"out\"} 5000",
            "as2gate_as2_queue_depth{state=\"que\\\"ued\"} 3",
            "# TYPE as2gate_as2_queue_depth gauge",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn rows_of_fixed_sets_are_there_before_their_first_event() {
        let text = Registry::new().render();
        for line in [
            "as2gate_as2_messages_total{direction=\"out\",result=\"failed\"} 0",
            "as2gate_as2_messages_total{direction=\"in\",result=\"rejected\"} 0",
            "as2gate_sftp_logins_total{method=\"totp\",result=\"failed\"} 0",
            "as2gate_sftp_bytes_total{direction=\"in\"} 0",
            "as2gate_sftp_bans_total 0",
            "as2gate_as2_mdn_total{direction=\"in\",mode=\"async\",disposition=\"negative\"} 0",
            "as2gate_lifecycle_files_total{area=\"raw-mdn\",action=\"deleted\"} 0",
            "as2gate_lifecycle_files_total{area=\"tmp\",action=\"noncurrent\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains("as2gate_http_requests_total{"), "{text}");
    }

    #[test]
    fn each_request_is_counted_in_its_own_row() {
        let registry = Registry::new();
        let faults = [
            None,
            Some(Fault::no_such_file()),
            Some(Fault::PermissionDenied(String::new())),
            Some(Fault::unsupported()),
        ];
        for (times, op) in Op::ALL.into_iter().enumerate() {
            for (more, fault) in faults.iter().enumerate() {
                (0..times * 10 + more).for_each(|_| registry.sftp_request(op, fault.as_ref()));
            }
        }
        let text = registry.render();
        for (times, op) in Op::ALL.into_iter().enumerate() {
            for (more, result) in REQUEST_RESULTS.iter().enumerate() {
                let count = times * 10 + more;
                let line = format!("as2gate_sftp_requests_total{{op=\"{}\",result=\"{result}\"}} {count}", op.as_str());
                assert!(text.lines().any(|found| found == line), "{line}\n{text}");
            }
        }
    }

    #[test]
    fn durations_are_counted_by_class_and_in_all() {
        let registry = Registry::new();
        for took in [100, 101, 4_000, 90_000_000] {
            let mut message = Message::new(Direction::Out, State::Delivered, ("acme", "A", "B"), 5);
            (message.updated, message.size) = (5 + took, 10);
            registry.settled(&message);
        }
        // What was given up is counted, and took no time that a partner would answer for.
        registry.settled(&Message::new(Direction::Out, State::Failed, ("acme", "A", "B"), 5));
        let text = registry.render();
        let class = |end: &str| format!("as2gate_as2_message_duration_seconds_bucket{{direction=\"out\",le=\"{end}\"}}");
        for line in [
            format!("{} 1", class("0.1")),
            format!("{} 2", class("0.5")),
            format!("{} 2", class("1")),
            format!("{} 3", class("5")),
            format!("{} 3", class("86400")),
            format!("{} 4", class("+Inf")),
            "as2gate_as2_message_duration_seconds_sum{direction=\"out\"} 90004.201".to_owned(),
            "as2gate_as2_message_duration_seconds_count{direction=\"out\"} 4".to_owned(),
            "as2gate_as2_message_duration_seconds_count{direction=\"in\"} 0".to_owned(),
            "as2gate_as2_message_bytes_total{direction=\"out\"} 40".to_owned(),
            "as2gate_as2_messages_total{direction=\"out\",result=\"failed\"} 1".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_certificate_that_is_no_more_is_shown_no_more() {
        let registry = Registry::new();
        let certificate = |name: &str| -> Certificate {
            let object = serde_json::json!({
                "name": name, "account": "acme", "purpose": "partner", "owner": "B\"G", "not_after": 1_800_000_000,
            });
            serde_json::from_value(object).unwrap()
        };
        let (old, new) = (certificate("old"), certificate("new"));
        let many: Vec<_> = (0..2 * MAX_ROWS).map(|n| certificate(&n.to_string())).collect();
        let rows = || {
            let text = registry.render();
            let rows = text
                .lines()
                .filter(|line| line.starts_with("as2gate_certificate_expiry_timestamp_seconds{"));
            rows.map(str::to_owned).collect::<Vec<_>>()
        };
        registry.set_certificates(many.iter());
        assert_eq!(rows().len(), MAX_ROWS);
        registry.set_certificates([&old, &new].into_iter());
        registry.set_certificates([&new].into_iter());
        let row = "{account=\"acme\",name=\"new\",purpose=\"partner\",owner=\"B\\\"G\"} 1800000000";
        assert_eq!(rows(), [format!("as2gate_certificate_expiry_timestamp_seconds{row}")]);
    }

    #[test]
    fn the_documentation_names_each_metric() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/METRICS.md");
        let page = std::fs::read_to_string(file).unwrap();
        let documented: Vec<(String, String, String)> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `"))
            .map(|row| {
                let cells: Vec<&str> = row.split('|').map(str::trim).collect();
                (cells[0].trim_matches('`').to_owned(), cells[1].to_owned(), cells[3].to_owned())
            })
            .collect();
        let text = Registry::new().render();
        let told = |word: &str| -> Vec<(String, String)> {
            let lines = text.lines().filter_map(|line| line.strip_prefix(word)?.split_once(' '));
            lines.map(|(name, rest)| (name.to_owned(), rest.to_owned())).collect()
        };
        let mut shown: Vec<_> = told("# HELP ")
            .into_iter()
            .zip(told("# TYPE "))
            .map(|((name, help), (_, kind))| (name, kind, help))
            .collect();
        let mut documented = documented;
        shown.sort();
        documented.sort();
        assert_eq!(documented, shown);
    }

    #[test]
    fn rows_are_bounded() {
        let registry = Registry::new();
        let at_first = registry.render().lines().count();
        for n in 0..2 * MAX_ROWS {
            registry.http_request("as2", &n.to_string(), 200);
            registry.sftp_login(&n.to_string(), "ok");
        }
        assert!(registry.render().lines().count() <= at_first + MAX_ROWS);
    }

    #[tokio::test]
    async fn health_and_readiness() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let ready: Ready = Arc::new(|| Err("storage: full\n".to_owned()));
        let server = tokio::spawn(serve(listener, Registry::new(), ready, stopped));
        for (path, status, text) in [
            ("/healthz", "200", "ok\n"),
            ("/readyz", "503", "storage: full\n"),
            ("/metrics?x=1", "200", "as2gate_build_info{version="),
            ("/", "404", "not found"),
        ] {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream
                .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
                .await
                .unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(text),
                "{path}: {answer}"
            );
        }
        stop.send(true).unwrap();
        server.await.unwrap();
    }
}
