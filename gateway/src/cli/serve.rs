//! `serve`: the server in the foreground, and where log lines go.

use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::demo::Demo;
use super::error::{DONE, FAILED};
use super::output::{Format, out};
use super::{Ctx, Outcome};
use crate::clock::{Clock as _, SystemClock, rfc3339};
use crate::config::{Config, LogFormat, log_filter};
use crate::gateway::{Gateway, Running, ServeOptions};
use crate::listen;
use crate::manage::{Refusal, Result};

/// Descriptors that are enough for as many connections as the doors take, with their files.
const DESCRIPTORS: u64 = 16_384;

/// Run the server.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  as2gate serve                                         as configured
  as2gate serve --sftp 127.0.0.1:2022 --as2 127.0.0.1:8080
  as2gate serve --sftp 127.0.0.1:0 --as2 127.0.0.1:0    free ports; the ready line names them
  as2gate serve --demo                                  two stations to try, gone when it ends

SIGTERM or SIGINT stops it: what is under way may end (uploads for sftp.drain); a second one stops at once.
Sockets that systemd hands over as sftp, as2, as2-tls or telemetry are used instead of the configured addresses.")]
pub(crate) struct Serve {
    /// Listen here for SFTP instead; may be repeated.
    #[arg(long, value_name = "ADDR")]
    sftp: Vec<String>,
    /// Listen here for AS2 instead; may be repeated.
    #[arg(long, value_name = "ADDR")]
    as2: Vec<String>,
    /// Serve health and metrics here instead; "" switches them off.
    #[arg(long, value_name = "ADDR")]
    telemetry: Option<String>,
    /// Try it: two stations that trade with each other and a user, on free ports, in a directory that is removed at the end.
    #[arg(long)]
    demo: bool,
}

pub(crate) async fn run(ctx: &Ctx, args: Serve) -> Outcome {
    if ctx.dry_run() {
        let hint = "as2gate check looks at the configuration, as2gate doctor at the machine as well";
        return Err(Refusal::usage(
            "serve has no dry run",
            "a server that runs sends and receives",
            hint,
        ));
    }
    let demo = args.demo.then(|| Demo::new(ctx)).transpose()?;
    let config = demo.as_ref().map_or_else(|| ctx.config(), Demo::config)?;
    start_log(&config, ctx.globals.verbose)?;
    leave_no_core();
    allow_descriptors();
    let json_lines = config.telemetry.log_format == LogFormat::Json || ctx.globals.output == Some(Format::Json);
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    let options = ServeOptions {
        sftp: some(args.sftp),
        as2: some(args.as2),
        telemetry: args.telemetry,
    };
    let options = if demo.is_some() { Demo::listen(options) } else { options };
    let cannot = |error: &std::io::Error| Refusal::from_io("cannot listen for signals", error);
    // Before anything is announced: whoever sees the ready line may stop us.
    let mut term = signal(SignalKind::terminate()).map_err(|error| cannot(&error))?;
    let mut int = signal(SignalKind::interrupt()).map_err(|error| cannot(&error))?;
    let mut hup = signal(SignalKind::hangup()).map_err(|error| cannot(&error))?;
    let running = Gateway::start(config, options).await.map_err(|error| ctx.cannot_start(error))?;
    out(&ready_line(&running, json_lines));
    if let Some(demo) = &demo {
        out(&demo.furnish(&running.core).await?);
    }
    listen::notify("READY=1");
    let cause = loop {
        tokio::select! {
            _ = term.recv() => break "SIGTERM",
            _ = int.recv() => break "SIGINT",
            () = running.broken() => {
                // Whoever watches over it starts it anew, which takes up what was left.
                tracing::error!("the journal is not written any more, or a part of the server has ended, after a fault of ours; ending");
                return Ok(FAILED);
            }
            _ = hup.recv() => tracing::warn!("SIGHUP: objects follow by themselves; restart to take a changed configuration"),
        }
    };
    tracing::info!(cause, "stopping; what is under way may end");
    listen::notify("STOPPING=1");
    tokio::select! {
        () = running.stop() => {}
        _ = term.recv() => return Ok(FAILED),
        _ = int.recv() => return Ok(FAILED),
    }
    tracing::info!("stopped");
    Ok(DONE)
}

/// A core file would hold private keys and customers' files (security.md §12). The hard limit stays: whoever looks for a fault may raise
/// it for this process.
fn leave_no_core() {
    let hard = getrlimit(Resource::Core).maximum;
    let none = Rlimit {
        current: Some(0),
        maximum: hard,
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "a crash may leave a core file with private keys: set the limit for core files to 0");
    }
}

/// Every connection, open file and directory is a descriptor, and most systems begin with 1,024: that is what the doors alone may hold.
fn allow_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // None: no limit.
    let wanted = maximum.map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS));
    if current.is_none_or(|now| now >= wanted) {
        return;
    }
    let raised = Rlimit {
        current: Some(wanted),
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    } else if wanted < DESCRIPTORS {
        tracing::warn!(
            limit = wanted,
            "few files may be open at once: raise LimitNOFILE= of the service to {DESCRIPTORS}"
        );
    }
}

/// `<time> INFO as2gate 0.1.0 ready sftp=… as2=… telemetry=…`, on standard output whatever is logged.
fn ready_line(running: &Running, json_line: bool) -> String {
    let listening = &running.listening;
    let version = env!("CARGO_PKG_VERSION");
    let now = rfc3339(SystemClock::from_env().now());
    if json_line {
        let mut line = json!({ "time": now, "level": "INFO", "message": format!("as2gate {version} ready"), "version": version });
        if let (Some(line), Ok(serde_json::Value::Object(listening))) = (line.as_object_mut(), serde_json::to_value(listening)) {
            line.extend(listening);
        }
        return line.to_string();
    }
    let listed = |name: &str, list: Vec<String>| {
        if list.is_empty() {
            String::new()
        } else {
            format!(" {name}={}", list.join(","))
        }
    };
    let texts = |list: &[std::net::SocketAddr]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (seconds, _) = now.split_once('.').unwrap_or((&now, ""));
    format!(
        "{seconds}Z INFO as2gate {version} ready{}{}{}{}",
        listed("sftp", texts(&listening.sftp)),
        listed("as2", texts(&listening.as2)),
        listed("as2_tls", texts(&listening.as2_tls)),
        listed("telemetry", listening.telemetry.iter().map(ToString::to_string).collect()),
    )
}

static LOGGING: AtomicBool = AtomicBool::new(false);

/// The server's log: standard error, as configured; `-v` raises the level.
fn start_log(config: &Config, verbose: u8) -> Result<()> {
    let wanted = match verbose {
        0 => config.telemetry.log.clone(),
        1 => "debug".to_owned(),
        _ => "trace".to_owned(),
    };
    let filter = log_filter(&wanted).map_err(|why| Refusal::failed("log", "cannot start the log", why, "look at telemetry.log"))?;
    if LOGGING.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would tell by a write to the same place, and panic where that fails: a full disk or a reader that has gone.
        .log_internal_errors(false)
        .with_ansi(false);
    let started = match config.telemetry.log_format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| {
        Refusal::failed(
            "log",
            "cannot start the log",
            error.to_string(),
            "start as2gate in a process of its own",
        )
    })
}

/// Commands log warnings only, unless asked for more. What the flows say about the decisions that were asked of them is the
/// command's result, which it tells itself.
pub(crate) fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => "warn,gateway::intake=error,gateway::outbox=error",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    if !LOGGING.swap(true, Ordering::SeqCst) {
        // A second logger in a test process is no trouble.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(level))
            .with_writer(std::io::stderr)
            .log_internal_errors(false)
            .with_ansi(false)
            .try_init();
    }
}
