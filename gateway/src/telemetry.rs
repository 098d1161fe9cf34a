//! Metrics and health on a port of their own: `/metrics`, `/healthz`, `/readyz`.
//!
//! Few labels and only from fixed sets: never a file name, a station, a partner or an address.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::http;

/// Most rows of one metric. Labels come from fixed sets, so this is never reached; a mistake must not fill the memory.
const MAX_ROWS: usize = 256;

/// What becomes of messages. Their rows are there from the start, as those of every fixed set: a counter whose first row is a 1
/// has not increased, to whoever watches it.
const RESULTS: &[&[&str]] = &[
    &["in", "filed"],
    &["in", "quarantined"],
    &["in", "rejected"],
    &["in", "unknown"],
    &["out", "delivered"],
    &["out", "duplicate"],
    &["out", "failed"],
    &["out", "repeated"],
];

/// Every metric of the server; rendered as Prometheus text 0.0.4.
#[derive(Debug)]
pub struct Registry {
    messages: Family,
    delayed_answers: Family,
    http_requests: Family,
    sftp_connections: Family,
    sftp_logins: Family,
    sftp_bytes: Family,
    queue_depth: Family,
    certificates_expiring: Family,
    sweep_holds: Family,
}

/// One metric and its rows, a row for each combination of labels.
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
        Registry {
            messages: Family::counter("as2gate_as2_messages_total", "AS2 messages settled.", &["direction", "result"]).with_rows(RESULTS),
            delayed_answers: Family::counter(
                "as2gate_as2_delayed_answers_total",
                "Answers delayed because message after message did not decrypt.",
                &[],
            ),
            http_requests: Family::counter(
                "as2gate_http_requests_total",
                "HTTP requests answered.",
                &["listener", "method", "status"],
            ),
            sftp_connections: Family::gauge("as2gate_sftp_connections", "SFTP connections open now.", &[]),
            sftp_logins: Family::counter("as2gate_sftp_logins_total", "SFTP logins tried.", &["result"]).with_rows(&[&["failed"], &["ok"]]),
            sftp_bytes: Family::counter("as2gate_sftp_bytes_total", "Bytes moved by SFTP.", &["direction"]).with_rows(&[&["in"], &["out"]]),
            certificates_expiring: Family::gauge(
                "as2gate_certificates_expiring",
                "Certificates in use without a successor that expire within so many days.",
                &["days"],
            ),
            sweep_holds: Family::gauge(
                "as2gate_lifecycle_held",
                "Areas of accounts in which the life cycle waits for a person.",
                &[],
            ),
            queue_depth: Family::gauge("as2gate_as2_queue_depth", "Messages to be sent, by state.", &["state"]),
        }
    }
}

impl Registry {
    /// All zero.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Registry::default())
    }

    /// A message came to its end: direction `in` or `out`, result e.g. `delivered`, `failed`, `filed`; or was none, as its name
    /// was used before: `duplicate` with other bytes, `repeated` with the same.
    pub fn message(&self, direction: &str, result: &str) {
        self.messages.add(&[direction, result], 1);
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

    /// A login was tried: result `ok` or `failed`.
    pub fn sftp_login(&self, result: &str) {
        self.sftp_logins.add(&[result], 1);
    }

    /// Bytes went through SFTP: direction `in` (uploads) or `out`.
    pub fn sftp_bytes(&self, direction: &str, bytes: u64) {
        self.sftp_bytes.add(&[direction], bytes);
    }

    /// So many messages are in this state.
    pub fn set_queue_depth(&self, state: &str, depth: u64) {
        self.queue_depth.set(&[state], depth);
    }

    /// So many certificates in use, without a successor, expire within these days.
    pub fn set_certificates_expiring(&self, days: i64, count: u64) {
        self.certificates_expiring.set(&[&days.to_string()], count);
    }

    /// In so many areas of accounts the life cycle waits for a person.
    pub fn set_sweep_holds(&self, areas: u64) {
        self.sweep_holds.set(&[], areas);
    }

    /// The text that a scraper reads.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::with_capacity(4096);
        let version = env!("CARGO_PKG_VERSION");
        out.push_str("# HELP as2gate_build_info The running version.\n# TYPE as2gate_build_info gauge\n");
        let _ = writeln!(out, "as2gate_build_info{{version=\"{version}\"}} 1");
        for family in [
            &self.messages,
            &self.delayed_answers,
            &self.http_requests,
            &self.sftp_connections,
            &self.sftp_logins,
            &self.sftp_bytes,
            &self.queue_depth,
            &self.certificates_expiring,
            &self.sweep_holds,
        ] {
            family.render(&mut out);
        }
        out
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

    /// With these rows at 0.
    fn with_rows(self, rows: &[&[&str]]) -> Self {
        rows.iter().for_each(|labels| self.add(labels, 0));
        self
    }

    fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Family {
            name,
            kind: "gauge",
            help,
            labels,
            rows: RwLock::default(),
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
        let _ = writeln!(out, "# HELP {} {}\n# TYPE {} {}", self.name, self.help, self.name, self.kind);
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        if rows.is_empty() && self.labels.is_empty() {
            let _ = writeln!(out, "{} 0", self.name);
        }
        for (values, count) in rows.iter() {
            let labels: Vec<String> = self
                .labels
                .iter()
                .zip(values)
                .map(|(label, value)| format!("{label}=\"{}\"", escape(value)))
                .collect();
            let labels = if labels.is_empty() {
                String::new()
            } else {
                format!("{{{}}}", labels.join(","))
            };
            let _ = writeln!(out, "{}{labels} {}", self.name, count.load(Ordering::Relaxed));
        }
    }
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
            "as2gate_sftp_logins_total{result=\"failed\"} 0",
            "as2gate_sftp_bytes_total{direction=\"in\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains("as2gate_http_requests_total{"), "{text}");
    }

    #[test]
    fn rows_are_bounded() {
        let registry = Registry::new();
        let at_first = registry.render().lines().count();
        for n in 0..2 * MAX_ROWS {
            registry.sftp_login(&n.to_string());
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
