//! The negative list and the faults of partners: what must not get through, in the exact words of the answer, and what a
//! sent message becomes after every kind of answer, with the same bytes under the same Message-ID on each try.

mod brake;
mod craft;
mod destinations;
mod disk;
mod hostile;
mod http;
mod posting;
mod receipts;
mod receiving;
mod scene;
mod sending;
mod twice;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tests::pair::station_certificate;
use tests::peer::Identity;
use tests::process::{accepted, free_port, run, run_with, tool};
use tests::wire::{Answer, Hit, Request, http, raw, read_request};
use tests::{Gateway, Sftp, Shared, noise, order, wait_for};

use craft::{Entity, Receipt, compressed, mic_of, payload, sha256, zlib};
use scene::{Scene, answer, good, post_mdn, with_stage};

const STATION: &str = "GATE";
/// The partner whose messages this module makes by hand.
const CRAFT: &str = "CRAFT";
const PROCESSED: &str = "automatic-action/MDN-sent-automatically; processed";
/// Longer than the pause before another try: a try that is still to come would have come.
const QUIET: Duration = Duration::from_millis(2500);
/// Tells the tests' retry waits, in seconds at most, from a `Retry-After` that is longer.
const RETRY_AFTER: u64 = 4;

static STAGE: Shared<Stage> = Shared::new();
static NUMBER: AtomicU32 = AtomicU32::new(1);

fn next() -> u32 {
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// A gateway, and the keys of everybody who talks to it.
struct Stage {
    gate: Gateway,
    user: Sftp,
    ours: PathBuf,
    partner: Identity,
    stranger: Identity,
}

impl Stage {
    fn new(settings: &[(&str, &str)]) -> Self {
        Self::of(Gateway::stopped(settings))
    }

    fn of(gate: Gateway) -> Self {
        gate.ok(&["station", "add", STATION]);
        let ours = gate.file("ours.pem", station_certificate(&gate, STATION).as_bytes());
        let stage = Stage {
            user: gate.user("watch"),
            gate,
            ours,
            partner: Identity::new("partner"),
            stranger: Identity::new("stranger"),
        };
        stage.add(CRAFT, 9, &["--require-signed", "false", "--require-encrypted", "false"]);
        stage.gate.start();
        stage
    }

    fn add(&self, id: &str, port: u16, options: &[&str]) {
        let certificate = self.partner.path("cert.pem");
        let own = format!("http://127.0.0.1:{port}/as2");
        let named = options.iter().position(|option| *option == "--url");
        let (url, options) = named.map_or((own.as_str(), options), |at| (options[at + 1], &options[..at]));
        let basic = [
            "partner",
            "add",
            id,
            "--url",
            url,
            "--private",
            "true",
            "--encrypt",
            "none",
            "--certificate",
        ];
        // One change at a time: what happens to two at once is no subject of this module.
        static CHANGE: Mutex<()> = Mutex::new(());
        let _one = CHANGE.lock().unwrap_or_else(PoisonError::into_inner);
        self.gate.ok(&[&basic[..], &[certificate.to_str().unwrap()], options].concat());
    }

    fn inbox(&self) -> Vec<String> {
        self.user.ls(&format!("AS2/files/{STATION}/{CRAFT}/inbox"))
    }

    /// All that the gateway lists of a Message-ID.
    fn listed(&self, message_id: &str) -> Vec<Value> {
        let mut found = self.gate.messages("in");
        found.retain(|message| message["message_id"] == message_id);
        found
    }
}

/// Says something past the harness, which shows the output of failing tests only.
fn aloud(text: &str) {
    std::io::stderr().write_all(format!("NOTICE: {text}\n").as_bytes()).unwrap();
}

fn stage() -> Arc<Stage> {
    STAGE.get(|| Stage::new(&[("retry.mdn_tries", "1")]))
}

/// Posts what has to be refused, and checks every word of the answer, the list and the inbox.
#[track_caller]
fn refused(stage: &Stage, request: &Request, said: &str, code: &str, signed: bool, mic: Option<&str>) -> Answer {
    let before = stage.inbox();
    let answer = request.post(stage.gate.as2_port);
    let text = answer.text();
    assert_eq!(answer.status, 200, "{text}");
    assert_eq!(
        answer.disposition(),
        format!("automatic-action/MDN-sent-automatically; {said}"),
        "{text}"
    );
    assert_eq!(answer.is_signed(), signed, "{said}: {text}");
    let found = text
        .lines()
        .find(|line| line.to_ascii_lowercase().starts_with("received-content-mic:"));
    match mic {
        None => assert_eq!(found, None, "{said}"),
        Some(mic) => assert!(found.is_some_and(|line| line.contains(mic)), "{said}: {found:?} is not {mic}"),
    }
    let rows = stage.listed(request.header("Message-ID").unwrap());
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!(
        (&rows[0]["state"], &rows[0]["code"]),
        (&"rejected".into(), &code.into()),
        "{rows:#?}"
    );
    let id = rows[0]["id"].as_str().unwrap().to_owned();
    assert!(!stage.inbox().contains(&id), "it is in the inbox: {before:?}");
    answer
}
