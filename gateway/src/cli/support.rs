//! `support-bundle`: what somebody who helps needs to know, in one text file that its sender can read first.
//!
//! It holds no secret, no key and no payload: passwords and private keys are left out, and so is what may be or carry one: the
//! values of headers and the queries of URLs that partners get, and the header blocks of messages. A section that cannot be made says why, because
//! the bundle is needed most where something is broken.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::audit::last_events;
use super::error::DONE;
use super::output::plain;
use super::{Ctx, Outcome, check, message};
use crate::clock::{Clock as _, SystemClock, rfc3339};
use crate::config::Config;
use crate::gateway::{Core, health, status};
use crate::journal::MessageFilter;
use crate::manage::{Result, apply, objects};
use crate::message::State;
use crate::objects::Objects;
use crate::url::without_query;

/// The last events, and the last messages of each state, that are told.
const EVENTS: usize = 300;
const MESSAGES: u32 = 10;
/// Fields of a message that are left out: what went over the wire may hold a password, and texts are the partner's.
const LEFT_OUT: [&str; 2] = ["headers", "mdn_text"];
/// What stands in the place of a value.
const HIDDEN: &str = "(left out)";

/// Write what somebody who helps needs to know, without secrets and payloads, to one text file.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  as2gate support-bundle                      as2gate-support-<time>.txt, here
  as2gate support-bundle --out - | less

It holds the version, the system, the configuration, all objects, what doctor and status say, the last events and the last
messages that wait or failed. It names users, partners and files: read it before you send it.")]
pub(crate) struct SupportBundle {
    /// Write here instead; - is standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) fn run(ctx: &Ctx, args: &SupportBundle) -> Outcome {
    let config = ctx.config()?;
    let now = rfc3339(SystemClock::from_env().now());
    let mut text = format!("as2gate {} support bundle, {now}\n", env!("CARGO_PKG_VERSION"));
    let mut section = |name: &str, content: Result<String>| {
        let content = content.unwrap_or_else(|refusal| format!("not to be had: {}: {}", refusal.what, refusal.why));
        text.push_str(&format!("\n===== {name} =====\n{}\n", plain(content.trim_end())));
    };
    section("system", Ok(system(&config)));
    section("configuration", Ok(check::effective(&config).tsv().replace('\t', "   ")));
    let opened = Core::open(config.clone());
    let findings = health::diagnose(&config, opened.as_ref().map(|core| &**core));
    let unopened = opened.as_ref().err().map(|error| check::unopened(ctx, error));
    section(
        "doctor",
        findings.map(|all| all.iter().chain(&unopened).map(|finding| check::line(finding) + "\n").collect()),
    );
    if let Ok(core) = &opened {
        section("status", status::gather(core).map(|facts| pretty(&facts.object())));
        section(
            "objects",
            objects(core).map(|all| apply::export(&without_tokens(all), ctx.account(), false)),
        );
        section("messages that wait or failed", messages(ctx, core));
        section("events", events(ctx, core));
    }
    let stamp: String = now.chars().filter(char::is_ascii_alphanumeric).take(15).collect();
    let file = args
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("as2gate-support-{stamp}Z.txt")));
    ctx.write_file(&file, &text, 0o600)?;
    if file.as_os_str() != "-" {
        let told = format!(
            "{}; it names users, partners and files: read it before you send it",
            ctx.wrote(&file)
        );
        ctx.printer.done(&json!({ "file": file, "written": !ctx.dry_run() }), &told);
    }
    Ok(DONE)
}

/// The machine, as far as it says so itself.
fn system(config: &Config) -> String {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let release = read("/etc/os-release");
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .unwrap_or("unknown");
    let memory = read("/proc/meminfo");
    let memory: Vec<&str> = memory.lines().take(3).collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let paths = config.paths();
    let database = std::fs::metadata(&paths.db).map_or(0, |found| found.len());
    format!(
        "system      {}\nkernel      {}\ncores       {cores}\nmemory      {}\ndata        {}\ndatabase    {database} bytes\n",
        name.trim_matches('"'),
        read("/proc/sys/kernel/osrelease").trim(),
        memory.join("; "),
        paths.data.display(),
    )
}

/// The objects without what may be a token: the values of headers that partners get, and the queries of URLs.
fn without_tokens(mut all: Objects) -> Objects {
    for partner in all.partners.values_mut() {
        partner.headers.values_mut().for_each(|value| HIDDEN.clone_into(value));
        partner.url = hide_query(&partner.url);
        partner.token_url = hide_query(&partner.token_url);
        partner.mdn_urls.iter_mut().for_each(|url| *url = hide_query(url));
    }
    all
}

fn hide_query(url: &str) -> String {
    match without_query(url) {
        all if all == url => url.to_owned(),
        before => format!("{before}?{HIDDEN}"),
    }
}

fn messages(ctx: &Ctx, core: &Core) -> Result<String> {
    let mut text = String::new();
    for state in State::ALL.iter().filter(|state| !matches!(state, State::Delivered | State::Filed)) {
        let filter = MessageFilter {
            account: ctx.account().map(str::to_owned),
            state: Some(*state),
            limit: MESSAGES,
            ..MessageFilter::default()
        };
        for message in core.journal.read(|tx| tx.messages(&filter))? {
            let mut object = message::object(&message);
            if let Some(fields) = object.as_object_mut() {
                fields.retain(|name, value| !LEFT_OUT.contains(&name.as_str()) && !value.is_null() && value != "");
                for url in ["url", "mdn_url"] {
                    if let Some(value) = fields.get_mut(url) {
                        *value = json!(hide_query(value.as_str().unwrap_or_default()));
                    }
                }
            }
            text.push_str(&pretty(&object));
            text.push('\n');
        }
    }
    Ok(text)
}

fn events(ctx: &Ctx, core: &Core) -> Result<String> {
    let events = last_events(ctx, core, 0, None, None, EVENTS)?;
    let lines = events.iter().map(|event| {
        let (at, account) = (rfc3339(event.at), &event.account);
        format!("{} {at} {account} {} {} {}\n", event.seq, event.kind, event.subject, event.facts)
    });
    Ok(lines.collect())
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
