//! The command line: noun, then verb (product.md §11). Grammar here, one file per noun below; what may be done with
//! objects is decided in `manage`.

mod account;
mod apply;
mod audit;
mod backup;
mod ban;
mod cert;
mod check;
mod demo;
mod error;
mod init;
mod inspect;
mod key;
mod lifecycle;
mod message;
mod output;
mod pages;
mod partner;
mod partner_test;
mod send;
mod serve;
mod session;
mod settings;
mod station;
mod status;
mod support;
mod upload;
mod user;

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand};
use zeroize::Zeroizing;

use crate::config::Config;
use crate::gateway::{Core, StartError};
use crate::hint::quoted;
use crate::manage::certificates::NewCertificate;
use crate::manage::{Refusal, Result, accounts, secrets, write_new};
use output::{Format, Printer};

/// Largest certificate file read, in bytes; the keystore refuses longer ones.
const MAX_CERTIFICATE_FILE: u64 = 4 << 20;

/// A managed file transfer gateway: AS2 on one side, SFTP on the other.
#[derive(Debug, Parser)]
#[command(
    name = "as2gate",
    version,
    max_term_width = 120,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(after_help = "Examples:
  as2gate init --account acme          a configuration, keys and an account, here
  as2gate serve                        start the server
  as2gate station add ACME_PROD        our AS2 identity
  as2gate status                       how it is doing
  as2gate message list --state failed  what went wrong

Exit codes:
  0  done
  1  failed, or not possible as things stand: it exists already, is in use, in work or over;
     or a check whose result is no (cert needs-renewal)
  2  the command line makes no sense, or leaves open what is meant
  3  what it names is not there
  4  a value, a file or the configuration is invalid
  5  somebody does not allow it: rights, a blocked partner; or you answered no to its question
  6  the network or the remote side
  7  done in part")]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// Configuration file [default: $AS2GATE_CONFIG, ./as2gate.toml, /etc/as2gate/as2gate.toml].
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Data directory; alone it is enough, its own as2gate.toml counts if there is one.
    #[arg(long, value_name = "DIR", global = true)]
    data_dir: Option<PathBuf>,
    /// Account; may be left out while there is one.
    #[arg(short, long, value_name = "ID", env = "AS2GATE_ACCOUNT", hide_env = true, global = true)]
    account: Option<String>,
    /// Form of the result [default: table to a terminal, tsv to a pipe].
    #[arg(short, long, value_name = "FORM", global = true)]
    output: Option<Format>,
    /// Say only what was asked for, and errors.
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Say more; twice, still more.
    #[arg(short, long, action = ArgAction::Count, global = true)]
    verbose: u8,
    /// No colours.
    #[arg(long, global = true)]
    no_color: bool,
    /// Answer yes to every question. Without a terminal rm and the like ask nothing; only a new AS2 id needs -y there.
    #[arg(short, long, global = true)]
    yes: bool,
    /// Check everything, change nothing.
    #[arg(short = 'n', long, global = true)]
    dry_run: bool,
}

impl Globals {
    /// The options that name this place, as they were given.
    fn place(&self) -> String {
        let option = |name: &str, path: Option<&PathBuf>| {
            path.map(|path| format!(" {name} {}", quoted(&path.to_string_lossy())))
                .unwrap_or_default()
        };
        option("-c", self.config.as_ref()) + &option("--data-dir", self.data_dir.as_ref())
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Set up a data directory with keys and an account.
    Init(init::Init),
    /// Run the server.
    Serve(serve::Serve),
    /// Validate configuration and objects without starting.
    Check(check::Check),
    /// Show how the server and its queue are doing.
    Status(status::Status),
    /// Look for what could go wrong: keys, ports, disk, clock, database.
    Doctor(check::Doctor),
    /// Accounts: each has stations, partners and users of its own.
    #[command(subcommand)]
    Account(account::Verb),
    /// Our AS2 identities.
    #[command(subcommand)]
    Station(station::Verb),
    /// Remote AS2 identities and their settings.
    #[command(subcommand)]
    Partner(partner::Verb),
    /// Key pairs and trusted certificates.
    #[command(subcommand)]
    Cert(cert::Verb),
    /// SFTP logins.
    #[command(subcommand)]
    User(user::Verb),
    /// SFTP sessions of the running server.
    #[command(subcommand)]
    Session(session::Verb),
    /// Sources that the running server shuts out for failed SFTP logins.
    #[command(subcommand)]
    Ban(ban::Verb),
    /// Send files.
    Send(send::Send),
    /// Files that wait in send and are no messages: look, send as they are, delete.
    #[command(subcommand)]
    Upload(upload::Verb),
    /// Messages, sent and received.
    #[command(subcommand)]
    Message(message::Verb),
    /// The life of the records: in view, out of view, deleted.
    #[command(subcommand)]
    Lifecycle(lifecycle::Verb),
    /// What happened, and whether the record of it is whole.
    #[command(subcommand)]
    Audit(audit::Verb),
    /// Open a captured AS2 message or MDN offline.
    Inspect(inspect::Inspect),
    /// Bring objects into the state that TOML files describe.
    Apply(apply::Apply),
    /// Write all objects as TOML.
    Export(apply::Export),
    /// Copy everything but the master key and the files of TLS to a new directory, beside a running server.
    Backup(backup::Backup),
    /// Put a backup into an empty data directory.
    Restore(backup::Restore),
    /// Write what somebody who helps needs to know, without secrets and payloads, to one text file.
    SupportBundle(support::SupportBundle),
    /// SSH key files and the server's host keys.
    #[command(subcommand)]
    Key(key::Verb),
    /// Print the completion script of a shell.
    Completions(pages::Completions),
    /// Print the manual page, or write those of all commands.
    Man(pages::Man),
}

/// What a command ends with: the exit code.
pub(crate) type Outcome = Result<u8>;

/// What every command works with.
pub(crate) struct Ctx {
    pub(crate) globals: Globals,
    pub(crate) printer: Printer,
}

/// Runs the command line of this process, on a runtime of its own. What a program polls is compiled with the program: that is
/// why this is not async, or all that it awaits would be compiled outside of this library.
pub fn run() -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(command_line());
            // What still runs on blocking threads is covered by the journal; nobody waits for it.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            eprintln!("error: cannot start\nwhy:   {error}\nhint:  look at the limits of this process (ulimit -u)");
            ExitCode::FAILURE
        }
    }
}

async fn command_line() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => {
            // Help and version; a reader that has gone away is no error.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            return ExitCode::from(2);
        }
        Err(error) => {
            let json = std::env::args().any(|arg| matches!(arg.as_str(), "json" | "-ojson" | "--output=json"));
            let form = if json { Format::Json } else { Format::Table };
            let printer = Printer::new(Some(form), false, true, String::new());
            error::report(&error::from_clap(&error, std::env::args()), &printer);
            return ExitCode::from(2);
        }
    };
    let globals = &cli.globals;
    let printer = Printer::new(globals.output, globals.quiet, globals.no_color, globals.place());
    let ctx = Ctx {
        globals: cli.globals,
        printer,
    };
    if !matches!(cli.command, Command::Serve(_)) {
        serve::log_to_stderr(ctx.globals.verbose);
        crate::event::told_by(operator());
    }
    match dispatch(&ctx, cli.command).await {
        Ok(code) => ExitCode::from(code),
        Err(refusal) => {
            error::report(&refusal, &ctx.printer);
            ExitCode::from(error::exit_code(&refusal))
        }
    }
}

async fn dispatch(ctx: &Ctx, command: Command) -> Outcome {
    match command {
        Command::Init(args) => init::run(ctx, args).await,
        Command::Serve(args) => serve::run(ctx, args).await,
        Command::Check(args) => check::run(ctx, &args),
        Command::Status(args) => status::run(ctx, &args).await,
        Command::Doctor(args) => check::doctor(ctx, &args),
        Command::Account(verb) => account::run(ctx, verb).await,
        Command::Station(verb) => station::run(ctx, verb).await,
        Command::Partner(verb) => partner::run(ctx, verb).await,
        Command::Cert(verb) => cert::run(ctx, verb).await,
        Command::User(verb) => user::run(ctx, verb).await,
        Command::Session(verb) => session::run(ctx, verb).await,
        Command::Ban(verb) => ban::run(ctx, verb).await,
        Command::Send(args) => send::run(ctx, args).await,
        Command::Upload(verb) => upload::run(ctx, verb).await,
        Command::Message(verb) => message::run(ctx, verb).await,
        Command::Lifecycle(verb) => lifecycle::run(ctx, verb).await,
        Command::Audit(verb) => audit::run(ctx, verb),
        Command::Inspect(args) => inspect::run(ctx, &args),
        Command::Apply(args) => apply::run(ctx, &args).await,
        Command::Export(args) => apply::export(ctx, &args),
        Command::Backup(args) => backup::run(ctx, args).await,
        Command::Restore(args) => backup::restore(ctx, args).await,
        Command::SupportBundle(args) => support::run(ctx, &args),
        Command::Key(verb) => key::run(ctx, verb).await,
        Command::Completions(args) => pages::completions(&args, Cli::command()),
        Command::Man(args) => pages::man(ctx, &args, Cli::command()),
    }
}

/// Who runs this command: the name of its user, and of whoever became that by `sudo`.
fn operator() -> String {
    let uid = rustix::process::getuid().as_raw();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = user_name(&users, uid).map_or_else(|| format!("user {uid}"), str::to_owned);
    match std::env::var("SUDO_USER") {
        Ok(before) if !before.is_empty() => format!("{name}, by sudo of {}", before.chars().take(64).collect::<String>()),
        _ => name,
    }
}

/// The name of a user in the text of `/etc/passwd`; one of a directory service has none there.
fn user_name(users: &str, uid: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(uid)).then_some(name)
    })
}

impl Ctx {
    fn config(&self) -> Result<Config> {
        Ok(Config::load(self.globals.config.as_deref(), self.globals.data_dir.as_deref())?)
    }

    /// The data directory, opened beside a server or without one.
    fn core(&self) -> Result<Arc<Core>> {
        let core = Core::open(self.config()?).map_err(|error| self.cannot_start(error))?;
        // A misspelt account would look like an empty one.
        if self.account().is_some() {
            accounts::choose(&core.objects(), self.account())?;
        }
        Ok(core)
    }

    /// Why a data directory cannot be opened.
    fn cannot_start(&self, error: StartError) -> Refusal {
        Refusal {
            hint: self.start_hint(&error),
            ..error.into()
        }
    }

    /// What helps then, as this command line writes it.
    fn start_hint(&self, error: &StartError) -> String {
        match error {
            StartError::NotSetUp(_) => {
                let init = self.command("init");
                format!("`{init}` sets one up here; another is named with -c FILE or --data-dir DIR")
            }
            other => other.hint().into_owned(),
        }
    }

    /// A command with the options that name this place.
    fn command(&self, verb: &str) -> String {
        self.printer.placed(&format!("as2gate {verb}"))
    }

    fn account(&self) -> Option<&str> {
        self.globals.account.as_deref().filter(|account| !account.is_empty())
    }

    fn dry_run(&self) -> bool {
        self.globals.dry_run
    }

    /// Whether an object of this account is to be listed.
    fn lists(&self, account: &str) -> bool {
        self.account().is_none_or(|wanted| wanted == account)
    }

    /// Asks a person, if there is one; a script has decided already.
    fn confirm(&self, question: &str) -> Result<()> {
        if self.globals.yes || self.dry_run() || !std::io::stdin().is_terminal() {
            return Ok(());
        }
        let answer = self.ask(&format!("{question} [y/N] "))?;
        if matches!(answer.as_str(), "y" | "Y" | "yes") {
            return Ok(());
        }
        Err(Refusal::new(
            crate::manage::RefusalKind::Denied,
            "declined",
            "nothing was changed",
            "the answer was no",
            "-y answers yes",
        ))
    }

    /// Lets a person type a name again before something that cannot be undone; a script has to say -y.
    fn confirm_by_name(&self, explanation: &str, name: &str) -> Result<()> {
        if self.globals.yes || self.dry_run() {
            return Ok(());
        }
        let refused = |why: &str| {
            Refusal::new(
                crate::manage::RefusalKind::Denied,
                "declined",
                "nothing was changed",
                why,
                "read the explanation, then add -y",
            )
        };
        self.printer.note(explanation);
        if !std::io::stdin().is_terminal() {
            return Err(refused(explanation));
        }
        if self.ask(&format!("type {name} to go on: "))? == name {
            Ok(())
        } else {
            Err(refused("the name was not typed"))
        }
    }

    fn ask(&self, question: &str) -> Result<String> {
        let cannot = |error: &std::io::Error| Refusal::from_io("cannot ask", error);
        let mut stderr = std::io::stderr();
        write!(stderr, "{question}")
            .and_then(|()| stderr.flush())
            .map_err(|error| cannot(&error))?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer).map_err(|error| cannot(&error))?;
        Ok(answer.trim().to_owned())
    }

    /// A secret that a person chooses, typed twice and not shown.
    fn ask_new_secret(&self, question: &str) -> Result<Zeroizing<String>> {
        if !std::io::stdin().is_terminal() {
            return Err(Refusal::usage(
                "which secret?",
                "nobody is here to be asked",
                "give env:NAME, file:PATH or - for a line of standard input, or let one be made",
            ));
        }
        let first = self.ask_unseen(question)?;
        if *first != *self.ask_unseen("the same again: ")? {
            return Err(Refusal::usage("nothing was changed", "the two are not the same", "try again"));
        }
        Ok(first)
    }

    fn ask_unseen(&self, question: &str) -> Result<Zeroizing<String>> {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let cannot = |error: rustix::io::Errno| Refusal::from_io("cannot ask", &error.into());
        let stdin = std::io::stdin();
        let shown = tcgetattr(&stdin).map_err(cannot)?;
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &hidden).map_err(cannot)?;
        let answer = self.ask(question).map(Zeroizing::new);
        let restored = tcsetattr(&stdin, OptionalActions::Now, &shown).map_err(cannot);
        self.printer.note("");
        restored.and(answer)
    }

    /// Tells what became of what a person named, `one` thing or several; `Ok` is the object and its line. What was refused
    /// decides the exit code.
    fn each_done(&self, things: &str, one: bool, results: Vec<Result<(serde_json::Value, String)>>) -> Outcome {
        let all = results.len();
        let (mut done, mut text, mut refused) = (Vec::new(), String::new(), Vec::new());
        for result in results {
            match result {
                Ok((object, line)) => {
                    text.push_str(&format!("{line}\n"));
                    done.push(object);
                }
                Err(refusal) => refused.push(refusal),
            }
        }
        if !one {
            let text = if text.is_empty() { format!("no {things}") } else { text };
            self.printer.done(&serde_json::Value::Array(done), &text);
        } else if let Some(object) = done.first() {
            self.printer.done(object, &text);
        }
        match refused.len() {
            0 => Ok(error::DONE),
            _ if all == 1 => Err(refused.remove(0)),
            some => {
                let first = refused.remove(0);
                let kind = if some < all {
                    crate::manage::RefusalKind::Partly
                } else {
                    first.kind
                };
                Err(Refusal {
                    kind,
                    what: format!("{some} of {all} {things} were left as they are"),
                    why: format!("{}: {}", first.what, first.why),
                    ..first
                })
            }
        }
    }

    /// Writes a new file, or in a dry run only looks whether it could; `-` is standard output.
    fn write_file(&self, file: &Path, text: &str, mode: u32) -> Result<()> {
        if !self.dry_run() || file == Path::new("-") {
            return write_file(file, text, mode);
        }
        expect_dir_of(file)?;
        if file.exists() {
            return Err(cannot_write(file, &std::io::ErrorKind::AlreadyExists.into()));
        }
        Ok(())
    }

    /// `Wrote FILE`, or in a dry run that it would.
    fn wrote(&self, file: &Path) -> String {
        self.would(format!("{} {}", self.tense("Wrote", "would write"), file.display()))
    }

    /// What was done, or in a dry run what would be.
    fn tense<'a>(&self, done: &'a str, would: &'a str) -> &'a str {
        if self.dry_run() { would } else { done }
    }

    /// `text`, or in a dry run the same marked as one.
    fn would(&self, text: String) -> String {
        if self.dry_run() { format!("(dry run) {text}") } else { text }
    }
}

/// A certificate's file on the command line.
#[derive(Clone, Debug, Args)]
pub(crate) struct CertificateFile {
    /// What opens the file: env:NAME, file:PATH, or - for a line of standard input.
    #[arg(long, value_name = "SOURCE")]
    passphrase: Option<String>,
    /// The entry wanted of a key store with several.
    #[arg(long, value_name = "ALIAS")]
    alias: Option<String>,
}

impl CertificateFile {
    /// Reads the file; its name in the gateway is given or made of its owner's.
    fn read(&self, file: &Path, name: Option<String>) -> Result<NewCertificate> {
        let passphrase = self.passphrase.as_deref().map(read_secret).transpose()?;
        Ok(NewCertificate {
            name,
            bytes: Zeroizing::new(read_file(file, MAX_CERTIFICATE_FILE)?),
            passphrase,
            alias: self.alias.clone(),
        })
    }
}

/// A secret from `env:NAME`, `file:PATH` or, with `-`, a line of standard input.
fn read_secret(source: &str) -> Result<Zeroizing<String>> {
    if source != "-" {
        return secrets::read(source);
    }
    let mut line = Zeroizing::new(String::new());
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|error| Refusal::from_io("cannot read the secret", &error))?;
    Ok(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned()))
}

/// A small file, or with `-` standard input.
fn read_file(file: &Path, limit: u64) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let what = || format!("cannot read {}", file.display());
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(limit + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|open| open.take(limit + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| Refusal::from_io(what(), &error))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(Refusal::invalid(
            what(),
            format!("it is larger than {limit} bytes"),
            "look whether it is the right file",
        ));
    }
    Ok(bytes)
}

/// Writes a new file; `-` is standard output.
fn write_file(file: &Path, text: &str, mode: u32) -> Result<()> {
    if file == Path::new("-") {
        output::out(text);
        return Ok(());
    }
    write_new(file, text.as_bytes(), mode).map_err(|error| cannot_write(file, &error))
}

/// Whether there is a directory for a file that would be written.
fn expect_dir_of(file: &Path) -> Result<()> {
    match file.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.is_dir()) {
        Some(_) => Err(cannot_write(file, &std::io::ErrorKind::NotFound.into())),
        None => Ok(()),
    }
}

fn cannot_write(file: &Path, error: &std::io::Error) -> Refusal {
    let what = format!("cannot write {}", file.display());
    match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Refusal::exists(what, "the file exists, and nothing is overwritten", "give another name with --out")
        }
        _ => Refusal::from_io(what, error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn users_have_names() {
        let users = "root:x:0:0:root:/root:/bin/sh\nodd\nas2gate:x:998:998::/var/lib/as2gate:/bin/false\n";
        let names = [0, 998, 7].map(|uid| user_name(users, uid));
        assert_eq!(names, [Some("root"), Some("as2gate"), None]);
    }

    #[test]
    fn the_grammar_is_sound_and_every_command_teaches_by_example() {
        fn walk(command: &clap::Command, path: &str) {
            if command.get_name() == "help" {
                return;
            }
            let here = format!("{path} {}", command.get_name());
            let taught = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(taught.contains("Example"), "{here} has no examples");
            command.get_subcommands().for_each(|inner| walk(inner, &here));
        }
        let mut command = Cli::command();
        command.clone().debug_assert();
        command.build();
        walk(&command, "");
    }

    #[test]
    fn the_help_of_message_list_tells_every_state() {
        let command = Cli::command();
        let list = command
            .find_subcommand("message")
            .and_then(|message| message.find_subcommand("list"));
        let help = list.and_then(|list| list.get_after_help()).unwrap().to_string();
        for state in crate::message::State::ALL {
            let told = format!("  {:<13}", state.as_str());
            assert!(help.lines().any(|line| line.starts_with(&told)), "{state}");
        }
    }

    #[test]
    fn every_example_parses() {
        fn examples(command: &clap::Command, all: &mut Vec<String>) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let lines = help
                .lines()
                .filter_map(|line| line.trim().strip_prefix("as2gate ").map(str::to_owned));
            all.extend(lines.map(|line| line.split("  ").next().unwrap_or_default().to_owned()));
            command.get_subcommands().for_each(|inner| examples(inner, all));
        }
        let mut all = Vec::new();
        examples(&Cli::command(), &mut all);
        assert!(all.len() > 40, "{}", all.len());
        for example in all {
            let command = example.split(['>', '|', '<', '&']).next().unwrap_or_default();
            // Every second piece stands between quotes.
            let pieces = command.split('"').enumerate();
            let words = pieces.flat_map(|(n, piece)| {
                if n % 2 == 1 {
                    vec![piece]
                } else {
                    piece.split_whitespace().collect()
                }
            });
            let parsed = Cli::try_parse_from(std::iter::once("as2gate").chain(words));
            assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
        }
    }
}
