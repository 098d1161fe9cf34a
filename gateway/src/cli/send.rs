//! `send`: files straight to a partner, without SFTP.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::error::DONE;
use super::output::{Format, out, plain};
use super::{Ctx, Outcome, message};
use crate::config::parse_duration;
use crate::gateway::{Core, is_served};
use crate::intake;
use crate::manage::{Refusal, RefusalKind, Result, messages};
use crate::message::{Message, State};

/// Send files.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  as2gate send order-1001.edi --from ACME_PROD --to BIGMART
  as2gate send *.edi --from ACME_PROD --to BIGMART --wait
  as2gate send invoice.xml --from ACME_PROD --to BIGMART --type application/xml --subject Invoice")]
pub(crate) struct Send {
    /// The files; each becomes a message, by the 6-hour rule.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The station that sends.
    #[arg(long, value_name = "STATION")]
    from: String,
    /// The partner that receives.
    #[arg(long, value_name = "PARTNER")]
    to: String,
    /// Name under which the file is sent; for one file.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Subject line; may hold $file, $stem, $ext, $station, $partner, $id, $date, $time, and $$ for a dollar.
    #[arg(long, value_name = "TEXT")]
    subject: Option<String>,
    /// Content type instead of the partner's, e.g. application/EDI-X12.
    #[arg(long = "type", value_name = "TYPE")]
    content_type: Option<String>,
    /// Wait until each is delivered or has failed.
    #[arg(long)]
    wait: bool,
    /// Wait at most this long.
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

pub(crate) async fn run(ctx: &Ctx, args: Send) -> Outcome {
    if args.name.is_some() && args.files.len() > 1 {
        return Err(Refusal::usage(
            "--name is for one file",
            "several files cannot share a name",
            "send them one by one",
        ));
    }
    let core = ctx.core()?;
    let served = is_served(&core.config);
    if args.wait && !served && !ctx.dry_run() {
        return Err(Refusal::failed(
            "not-serving",
            "cannot wait for delivery",
            "no server is running here, and only a server sends",
            "as2gate serve, or leave --wait out",
        ));
    }
    if let (true, Ok(pair)) = (args.wait, core.partnership(&args.from, &args.to)) {
        // It would wait until somebody lifts the block.
        messages::may_send(&pair.partner, "cannot wait for delivery".to_owned())?;
    }
    if ctx.dry_run() {
        return would_send(ctx, &core, &args);
    }
    let (mut sent, refused) = submit(ctx, &core, &args).await;
    if sent.iter().any(|message| message.state != State::Duplicate) {
        note_block(ctx, &core, &args.from, &args.to);
    }
    if args.wait {
        wait(ctx, &core, &args, &mut sent).await?;
    } else if !served && !sent.is_empty() {
        ctx.printer
            .note("note: no server is running here; the files go out when one does: as2gate serve");
    }
    if ctx.printer.format == Format::Json && !sent.is_empty() {
        let objects: Vec<Value> = sent.iter().map(message::object).collect();
        ctx.printer.list_of(objects);
    }
    verdict(&args, sent, refused)
}

fn would_send(ctx: &Ctx, core: &Core, args: &Send) -> Outcome {
    let (mut lines, mut objects) = (Vec::new(), Vec::new());
    for file in &args.files {
        intake::check(core, &args.from, &args.to, &submission(args, file))?;
        std::fs::metadata(file).map_err(|error| Refusal::from_io(format!("cannot send {}", file.display()), &error))?;
        lines.push(ctx.would(format!("{} would go from {} to {}", file.display(), args.from, args.to)));
        objects.push(json!({ "file": file.to_string_lossy(), "station": args.from, "partner": args.to }));
    }
    core.partnership(&args.from, &args.to)?;
    ctx.printer.done(&Value::Array(objects), &lines.join("\n"));
    note_block(ctx, core, &args.from, &args.to);
    Ok(DONE)
}

/// Says that what was just accepted does not go out.
pub(super) fn note_block(ctx: &Ctx, core: &Core, station: &str, partner: &str) {
    let pair = core.partnership(station, partner).ok();
    if let Some(words) = pair.and_then(|pair| messages::waits_for_block(&pair.partner)) {
        ctx.printer.note(&format!("note: {words}"));
    }
}

/// Hands every file in; those that are not taken are told at the end.
async fn submit(ctx: &Ctx, core: &Arc<Core>, args: &Send) -> (Vec<Message>, Vec<Refusal>) {
    let (mut sent, mut refused) = (Vec::new(), Vec::new());
    for file in &args.files {
        match intake::submit(core, &args.from, &args.to, submission(args, file)).await {
            Ok(message) => {
                let duplicate = if message.state == State::Duplicate { &message.reason } else { "" };
                tell(ctx, &message, duplicate);
                sent.push(message);
            }
            Err(error) => refused.push(error),
        }
    }
    (sent, refused)
}

fn submission(args: &Send, file: &Path) -> intake::Submission {
    intake::Submission {
        file: file.to_owned(),
        name: args.name.clone().unwrap_or_default(),
        subject: args.subject.clone().unwrap_or_default(),
        content_type: args.content_type.clone().unwrap_or_default(),
        is_test: false,
    }
}

async fn wait(ctx: &Ctx, core: &Arc<Core>, args: &Send, sent: &mut [Message]) -> Result<()> {
    for message in sent {
        *message = messages::wait_until_final(core, message.id.as_str(), args.timeout).await?;
        if !message.state.is_final() && message.state != State::Held {
            return Err(late(message));
        }
        if message.state == State::Duplicate {
            continue;
        }
        let why = if message.reason.is_empty() {
            message.receipt_word()
        } else {
            message.reason.clone()
        };
        tell(ctx, message, &why);
    }
    Ok(())
}

/// The time given is over.
fn late(message: &Message) -> Refusal {
    let why = if message.reason.is_empty() {
        format!("it is still {}", message.state)
    } else {
        format!("it is {}: {}", message.state, message.reason)
    };
    Refusal::new(
        RefusalKind::Remote,
        "timeout",
        format!("message {} is not final yet", message.id),
        why,
        format!("as2gate message follow {}", message.id.short()),
    )
}

fn tell(ctx: &Ctx, message: &Message, why: &str) {
    if ctx.printer.format != Format::Json && !ctx.printer.quiet {
        let line = format!("Message {}   {}   {}   {why}", message.id, message.file, message.state);
        out(&plain(line.trim_end()));
    }
}

fn verdict(args: &Send, sent: Vec<Message>, mut refused: Vec<Refusal>) -> Outcome {
    let all = args.files.len();
    if all > 1 && !refused.is_empty() {
        let accepted = sent.iter().filter(|message| message.state != State::Duplicate).count();
        let first = refused.remove(0);
        let what = format!("{} of {all} files were not accepted", all - accepted);
        let kind = if accepted > 0 { RefusalKind::Partly } else { first.kind };
        return Err(of_several(first, kind, what));
    }
    if let Some(only) = refused.pop() {
        return Err(only);
    }
    let judged = sent.iter().filter(|message| args.wait || message.state == State::Duplicate);
    let bad: Vec<&Message> = judged.filter(|message| message::verdict(message) != DONE).collect();
    match bad.as_slice() {
        [] => Ok(DONE),
        [only] if all == 1 => Err(not_delivered(only)),
        [first, ..] => {
            let what = format!(
                "{} of {all} files were not {}",
                bad.len(),
                if args.wait { "delivered" } else { "accepted" }
            );
            Err(of_several(not_delivered(first), RefusalKind::Partly, what))
        }
    }
}

/// What is wrong with several, by the example of the first.
fn of_several(first: Refusal, kind: RefusalKind, what: String) -> Refusal {
    Refusal {
        kind,
        what,
        why: format!("{}: {}", first.what, first.why),
        ..first
    }
}

fn not_delivered(message: &Message) -> Refusal {
    let kind = if message.state == State::Duplicate {
        RefusalKind::Failed
    } else {
        RefusalKind::Remote
    };
    let hint = if message.detail.hint.is_empty() {
        format!("as2gate message show {}", message.id.short())
    } else {
        message.detail.hint.clone()
    };
    Refusal::new(
        kind,
        "not-delivered",
        format!("{} is {}", message.file, message.state),
        message.reason.clone(),
        hint,
    )
}
