//! The test of a partner: from its name to its receipt, step by step, and what to do about the one that fails.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use as2_core::headers::Headers;
use serde::Serialize;

use super::{Refusal, Result, messages, objects, partners};
use crate::clock::compact;
use crate::code;
use crate::gateway::{Core, is_served};
use crate::hint::command;
use crate::intake;
use crate::message::{Message, State};
use crate::outbox;
use crate::partner::MdnMode;
use crate::partnership::Partnership;
use crate::post::{Probe, ProbeStep, Target};

/// What to do where something listens and does not speak HTTP.
const NO_ANSWER: &str = "ask the partner whether this is its AS2 address, and whether by http:// or https://";

/// What to do where something speaks HTTP and gives no receipt.
const NO_MDN: &str = "ask the partner whether this is its AS2 address, and whether it sends the MDN that was asked for";

/// What is tested.
#[derive(Clone, Debug)]
pub struct Test {
    /// The partner.
    pub id: String,
    /// The station that sends.
    pub from: Option<String>,
    /// No message.
    pub connect_only: bool,
    /// How long each step may take, the MDN included.
    pub timeout: Duration,
}

/// What was seen of one step.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// It went as it should.
    pub ok: bool,
    /// Which one.
    pub name: String,
    /// What was seen.
    pub detail: String,
    /// What to do about it.
    pub hint: String,
}

impl Step {
    fn ok(name: &str, detail: String) -> Self {
        Step {
            ok: true,
            name: name.to_owned(),
            detail,
            hint: String::new(),
        }
    }
}

/// How a test went.
#[derive(Clone, Debug, Serialize)]
pub struct Tested {
    /// The partner.
    pub partner: String,
    /// The station that sent, or would.
    pub station: String,
    /// All steps went as they should.
    pub ok: bool,
    /// In their order.
    pub steps: Vec<Step>,
    /// Id of the test message.
    pub message: Option<String>,
}

/// Tests a partner; `tell` hears of each step as it is through, since one may take a minute.
///
/// # Errors
/// What keeps the test from being made. A step that fails is a step.
pub async fn run(core: &Arc<Core>, account: Option<&str>, test: &Test, dry_run: bool, tell: impl Fn(&Step)) -> Result<Tested> {
    let id = test.id.as_str();
    let station = station(core, account, test)?;
    let pair = core.partnership(&station, id)?;
    if !test.connect_only {
        messages::may_send(&pair.partner, format!("cannot test partner {id}"))?;
    }
    let target = patient_for(outbox::target(core, &pair, &pair.partner.url), test.timeout);
    let sends = !test.connect_only && !dry_run;
    let probed = core.poster.probe(&target).await;
    let is_silent = probed.iter().any(|step| step.step == Probe::Silence);
    let mut steps = connection(&pair, probed, sends);
    steps.iter().for_each(&tell);
    let mut sent = None;
    if steps.iter().all(|step| step.ok) && sends {
        let message = send_test(core, &station, id, test.timeout).await?;
        let message = give_up(core, message).await?;
        let mut seen = Vec::new();
        // A message that never got so far was protected by nothing yet.
        if !message.message_id.is_empty() {
            seen.push(Step::ok("protected by", algorithms(&message, &pair)));
        }
        seen.extend(verdicts(&message, is_silent));
        seen.iter().for_each(&tell);
        steps.extend(seen);
        sent = Some(message.id.to_string());
    }
    Ok(Tested {
        partner: id.to_owned(),
        station,
        ok: steps.iter().all(|step| step.ok),
        steps,
        message: sent,
    })
}

/// The partner's own patience is for messages that somebody needs; here somebody looks on.
fn patient_for(target: Target, most: Duration) -> Target {
    Target {
        connect_timeout: target.connect_timeout.min(most),
        progress_timeout: target.progress_timeout.min(most),
        response_timeout: target.response_timeout.min(most),
        ..target
    }
}

/// The one that was named, or the only one that trades with the partner.
fn station(core: &Core, account: Option<&str>, test: &Test) -> Result<String> {
    let (all, id) = (objects(core)?, test.id.as_str());
    let partner = partners::choose(&all, account, id)?;
    if let Some(station) = &test.from {
        return Ok(station.clone());
    }
    let mut trading = all
        .pairs(&partner.account)
        .filter(|(_, p)| p.as2_id == id)
        .map(|(s, _)| s.as2_id.clone());
    match (trading.next(), trading.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(Refusal::not_found(
            format!("nobody trades with {id}"),
            "the account has no station for it",
            "as2gate station add AS2_ID",
        )),
        _ => Err(Refusal::usage(
            format!("which station tests {id}?"),
            "several trade with it",
            "add --from STATION",
        )),
    }
}

/// Name, TCP, TLS and HTTP, then all of them in one line.
fn connection(pair: &Partnership, steps: Vec<ProbeStep>, sends: bool) -> Vec<Step> {
    let mut seen = Vec::new();
    let took: Duration = steps.iter().map(|step| step.took).sum();
    let good = steps.iter().all(|step| step.ok && step.step != Probe::Silence);
    for step in steps {
        let (name, verdict) = match step.step {
            Probe::Url => ("URL", " is one"),
            Probe::Resolve => ("name", " resolves"),
            Probe::Connect => ("connection", " is made"),
            Probe::Tls => ("TLS", " and certificate"),
            Probe::Token => ("token", " is given"),
            Probe::Answer => ("HTTP", " answers"),
            Probe::Silence => {
                seen.push(silence(step.detail, sends));
                continue;
            }
        };
        let trust = match (step.step, pair.pinned_tls.is_empty()) {
            (Probe::Tls, true) => ", trusted by the system's roots",
            (Probe::Tls, false) => ", as pinned",
            _ => "",
        };
        let detail = if step.ok { format!("{}{trust}", step.detail) } else { step.detail };
        let name = if step.ok { format!("{name}{verdict}") } else { name.to_owned() };
        let hint = match step.step {
            Probe::Answer if !step.ok && step.hint.is_empty() => format!("no message was sent; {NO_ANSWER}"),
            _ => step.hint,
        };
        seen.push(Step {
            ok: step.ok,
            name,
            detail,
            hint,
        });
    }
    if good {
        let detail = format!("{}  ({:.1} ms)", pair.partner.url, took.as_secs_f64() * 1000.0);
        seen.push(Step::ok("url answers", detail));
    }
    seen
}

/// Where nothing answers to a question, the message has to tell, if one is sent.
fn silence(detail: String, sends: bool) -> Step {
    if sends {
        return Step::ok("HTTP is silent", format!("{detail}; the message tells more"));
    }
    Step {
        ok: false,
        name: "HTTP".to_owned(),
        detail,
        hint: format!("{NO_ANSWER}; some servers answer a message alone: leave out --connect-only to send one"),
    }
}

/// Sends a small text and waits until its fate is known, or the time is over.
async fn send_test(core: &Arc<Core>, station: &str, partner: &str, timeout: Duration) -> Result<Message> {
    if !is_served(&core.config) {
        return Err(Refusal::failed(
            "not-serving",
            "cannot send a test message",
            "no server is running here",
            "as2gate serve",
        ));
    }
    let now = core.clock.now();
    let name = format!("as2gate-test-{}.txt", compact(now));
    let cannot = |error: &std::io::Error| Refusal::from_io("cannot write the test file", error);
    let dir = core.config.paths().spool;
    let path = dir.join(format!("{}-{name}", std::process::id()));
    let text = format!(
        "Test message of as2gate {} from {station} to {partner}.\r\n",
        env!("CARGO_PKG_VERSION")
    );
    std::fs::File::create_new(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| cannot(&error))?;
    let what = intake::Submission {
        file: path.clone(),
        name,
        subject: "as2gate test message".to_owned(),
        content_type: String::new(),
        is_test: true,
    };
    let submitted = intake::submit(core, station, partner, what).await;
    let _ = std::fs::remove_file(&path);
    let id = submitted?.id;
    messages::wait_until_final(core, id.as_str(), Some(timeout)).await
}

/// Nothing of a test goes out when nobody looks on any more.
async fn give_up(core: &Arc<Core>, message: Message) -> Result<Message> {
    if message.state.is_final() {
        return Ok(message);
    }
    let why = match (message.state, message.reason.as_str()) {
        (State::Held, reason) => reason.to_owned(),
        (state, "") => format!("still {state} when the time was over"),
        (state, reason) => format!("still {state} when the time was over: {reason}"),
    };
    let longer = command("partner test", &message.partner, "--timeout TIME");
    let asked = (message.state == State::WaitingMdn).then(|| asked_at(&message)).flatten();
    let hint = match (asked, message.detail.hint.as_str()) {
        // It asks for what an operator decides about a message that somebody waits for.
        _ if message.state == State::Held => format!("as2gate message show {}", message.id.short()),
        (Some(url), _) => format!("look whether the partner gets to {url}, where the MDN was asked for; {longer} waits longer"),
        (None, "") => format!("{longer} waits longer"),
        (None, hint) => hint.to_owned(),
    };
    match messages::give_up(core, &message, &why, &hint, false).await {
        Ok(ended) => Ok(ended),
        Err(refusal) => {
            // Its one try is under way, and ends it; or it has just ended.
            let now = core.journal.read(|tx| tx.expect_message(message.id.as_str()))?;
            let ends = now.state.is_final() || now.state == State::Sending;
            if ends { Ok(now) } else { Err(refusal) }
        }
    }
}

/// Where an async MDN was asked for.
fn asked_at(message: &Message) -> Option<String> {
    let headers = Headers::parse(&message.detail.head()).ok()?;
    headers.get("Receipt-Delivery-Option").map(|url| url.trim().to_owned())
}

/// What the test message was protected with.
fn algorithms(message: &Message, pair: &Partnership) -> String {
    let (detail, partner) = (&message.detail, &pair.partner);
    let or_none = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
    // Two settings are about RSA keys; the other kind of key has one way each.
    let scheme = partner.sign.map(|_| match pair.signer() {
        Some(identity) if identity.certificate().is_ec() => " by ECDSA".to_owned(),
        _ => format!(" by {}", partner.signature_scheme),
    });
    let transport = partner.encrypt.map(|_| match &pair.recipient {
        Some(certificate) if certificate.is_ec() => format!(" by {}", partner.key_transport.for_ec()),
        _ => format!(" by {}", partner.key_transport),
    });
    let (scheme, transport) = (scheme.unwrap_or_default(), transport.unwrap_or_default());
    format!(
        "sign {}{scheme}, encrypt {}{transport}, compress {}, receipt {}",
        or_none(&detail.signed),
        or_none(&detail.encrypted),
        or_none(&detail.compressed),
        detail.mdn_mode.unwrap_or(MdnMode::None)
    )
}

/// Delivery and receipt.
fn verdicts(message: &Message, is_silent: bool) -> Vec<Step> {
    let detail = &message.detail;
    if message.state != State::Delivered {
        let outcome = match message.state {
            State::Sending => "still sending when the time is over; it is not posted again".to_owned(),
            state => format!("{state}: {}; nothing more of it is sent", message.reason),
        };
        let status = detail.tries.last().and_then(|last| last.status);
        let answered = status.is_some_and(|status| (200..300).contains(&status));
        let hint = match (message.code.as_str(), detail.hint.as_str()) {
            (code::NO_MDN, _) if answered => match asked_at(message) {
                Some(url) => format!("{NO_MDN}, at {url}"),
                None => NO_MDN.to_owned(),
            },
            _ if is_silent && status.is_none() => NO_ANSWER.to_owned(),
            (_, "") => format!("as2gate message show {}", message.id.short()),
            (_, hint) => hint.to_owned(),
        };
        return vec![Step {
            ok: false,
            name: "test message".to_owned(),
            detail: outcome,
            hint,
        }];
    }
    let mut lines = vec![Step::ok("test message delivered", message.message_id.clone())];
    if !detail.mdn_disposition.is_empty() {
        let signed = detail.mdn_signature.starts_with("signed");
        lines.push(Step::ok(
            if signed { "signed MDN" } else { "MDN" },
            format!("{}{}", message.receipt_word(), messages::mic_words(message)),
        ));
    }
    lines
}
