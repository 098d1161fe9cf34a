//! `user`: SFTP logins and their keys.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use keystore::ssh::{KeyFile, KeyFormat, KeyKind, KeyOptions, MAX_PUBLIC_TEXT, PublicKey};
use serde_json::{Value, json};

use super::audit::{Newest, facts_cell};
use super::error::DONE;
use super::output::{Cell, List, facts};
use super::settings::{OfUser, Settings};
use super::{Ctx, Outcome, check};
use crate::clock::rfc3339;
use crate::gateway::Core;
use crate::hint::quoted;
use crate::layout;
use crate::login::{LoginStep, LoginWays};
use crate::manage::host_keys::{HostKey, HostKeyState};
use crate::manage::users::{self, KeySource, KeyWish};
use crate::manage::{Refusal, Result, host_keys, objects};
use crate::user::User;

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  as2gate user add acme-erp --generate-key ed25519 --out acme-erp.key
  as2gate user add acme-wms --public-key wms.pub
  as2gate user disable acme-wms")]
pub(crate) enum Verb {
    /// List users.
    #[command(after_help = "Examples:
  as2gate user list
  as2gate user list -o json")]
    List,
    /// Show a user, its keys and how it connects.
    #[command(after_help = "Examples:
  as2gate user show acme-erp")]
    Show {
        /// Its name.
        name: String,
    },
    /// Add a user with a new or an existing key, or with other ways to log in.
    #[command(after_help = "Examples:
  as2gate user add acme-erp --generate-key
  as2gate user add acme-win --generate-key rsa --format ppk --out acme-win.ppk --passphrase file:pass.txt
  as2gate user add acme-wms --public-key wms.pub --allowed-ips 192.0.2.0/24
  as2gate user add acme-old --login password")]
    Add {
        /// Its name: a-z, A-Z, 0-9, - and _; not beginning with -.
        #[arg(allow_hyphen_values = true)]
        name: String,
        #[command(flatten)]
        key: KeyArgs,
        #[command(flatten)]
        settings: Settings<OfUser>,
    },
    /// Change a user.
    #[command(after_help = "Examples:
  as2gate user set acme-wms --allowed-ips 192.0.2.0/24,198.51.100.7
  as2gate user set acme-wms --delete-received")]
    Set {
        /// Its name.
        name: String,
        #[command(flatten)]
        settings: Settings<OfUser>,
    },
    /// Remove a user; its open connections end.
    #[command(after_help = "Examples:
  as2gate user rm acme-wms")]
    Rm {
        /// Its name.
        name: String,
    },
    /// Allow logins again.
    #[command(after_help = "Examples:
  as2gate user enable acme-wms")]
    Enable {
        /// Its name.
        name: String,
    },
    /// Refuse logins; open connections end.
    #[command(after_help = "Examples:
  as2gate user disable acme-wms")]
    Disable {
        /// Its name.
        name: String,
    },
    /// Keys of a user.
    #[command(subcommand)]
    Key(KeyVerb),
    /// Give a user a password, or take it away; sessions that the old one opened end.
    #[command(after_help = "Examples:
  as2gate user password acme-old                                asks for it
  as2gate user password acme-old --password file:password.txt
  as2gate user password acme-old --generate                     shows it once")]
    Password {
        /// Its name.
        name: String,
        /// Where it stands: env:NAME, file:PATH, or - for a line of standard input.
        #[arg(long, value_name = "SOURCE", conflicts_with_all = ["generate", "remove"])]
        password: Option<String>,
        /// Make one and show it once.
        #[arg(long, conflicts_with = "remove")]
        generate: bool,
        /// Take it away.
        #[arg(long)]
        remove: bool,
    },
    /// Give a user a secret for codes of an authenticator app, shown once; or take it away.
    #[command(after_help = "Examples:
  as2gate user totp acme-ops
  as2gate user set acme-ops --login publickey,totp")]
    Totp {
        /// Its name.
        name: String,
        /// Take it away.
        #[arg(long)]
        remove: bool,
    },
    /// Show what users did: logins, uploads, downloads, deletes, renames, disconnects.
    #[command(after_help = "Examples:
  as2gate user log
  as2gate user log acme-erp
  as2gate user log acme-erp --limit 20 -o json")]
    Log {
        /// One user; all without it.
        name: Option<String>,
        /// The last so many [default: 100].
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
}

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  as2gate user key list acme-erp
  as2gate user key rotate acme-erp --out acme-erp-2.key")]
pub(crate) enum KeyVerb {
    /// List keys.
    #[command(after_help = "Examples:
  as2gate user key list acme-erp")]
    List {
        /// The user.
        name: String,
    },
    /// Add a key.
    #[command(after_help = "Examples:
  as2gate user key add acme-erp --public-key second.pub")]
    Add {
        /// The user.
        name: String,
        #[command(flatten)]
        key: KeyArgs,
    },
    /// Replace all keys; the old ones no longer work.
    #[command(after_help = "Examples:
  as2gate user key rotate acme-erp --out acme-erp-2.key
  as2gate user key rotate acme-erp --public-key new.pub")]
    Rotate {
        /// The user.
        name: String,
        #[command(flatten)]
        key: KeyArgs,
    },
    /// Remove a key by its fingerprint or comment.
    #[command(after_help = "Examples:
  as2gate user key rm acme-erp SHA256:Vt8nQm3E")]
    Rm {
        /// The user.
        name: String,
        /// Fingerprint or comment.
        key: String,
    },
}

/// Where a key comes from.
#[derive(Clone, Debug, Args)]
pub(crate) struct KeyArgs {
    /// Public key: a .pub file, authorized_keys lines or an RFC 4716 block; - is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "generate_key")]
    public_key: Option<PathBuf>,
    /// Make a key pair: ed25519, ecdsa or rsa.
    #[arg(long, value_name = "TYPE", num_args = 0..=1, default_missing_value = "ed25519")]
    generate_key: Option<KeyKind>,
    /// File format of the private key: openssh, pem, ppk, ppk2.
    #[arg(long, value_name = "FORM", default_value = "openssh", conflicts_with = "public_key")]
    format: KeyFormat,
    /// What protects the private key's file: env:NAME, file:PATH, or - for a line of standard input.
    #[arg(long, value_name = "SOURCE", conflicts_with = "public_key")]
    passphrase: Option<String>,
    /// Where the private key is written, mode 0400; - is standard output [default: <user>.key].
    #[arg(long, value_name = "FILE", conflicts_with = "public_key")]
    out: Option<PathBuf>,
}

impl KeyArgs {
    /// `default` makes a key where neither way was chosen.
    fn source(&self, default: bool) -> Result<KeySource> {
        match self.chosen()? {
            Some(source) => Ok(source),
            None if default => Ok(KeySource::Generate(self.wish(KeyKind::default())?)),
            None => Err(Refusal::usage(
                "which key?",
                "a user logs in with a key",
                "add --generate-key, or --public-key FILE",
            )),
        }
    }

    fn chosen(&self) -> Result<Option<KeySource>> {
        match (&self.public_key, self.generate_key) {
            (Some(file), _) => {
                let bytes = super::read_file(file, u64::try_from(MAX_PUBLIC_TEXT).unwrap_or(u64::MAX))?;
                let cannot = || Refusal::invalid(format!("cannot read {}", file.display()), "it is no text", "give the .pub file");
                let text = keystore::decode_text(&bytes).ok_or_else(cannot)?;
                Ok(Some(KeySource::Public(text.as_str().to_owned())))
            }
            (None, Some(kind)) => Ok(Some(KeySource::Generate(self.wish(kind)?))),
            (None, None) => Ok(None),
        }
    }

    fn wish(&self, kind: KeyKind) -> Result<KeyWish> {
        let passphrase = self.passphrase.as_deref().map(super::read_secret).transpose()?;
        Ok(KeyWish {
            kind,
            format: self.format,
            passphrase,
        })
    }

    /// PuTTY's own form, which OpenSSH cannot read.
    fn is_ppk(&self) -> bool {
        matches!(self.format, KeyFormat::Ppk3 | KeyFormat::Ppk2)
    }

    /// Where the private key goes. The file is made before anything is changed, for the key exists only once.
    fn target(&self, user: &str, source: &KeySource) -> Result<Target> {
        let extension = if self.is_ppk() { "ppk" } else { "key" };
        let path = self.out.clone().unwrap_or_else(|| PathBuf::from(format!("{user}.{extension}")));
        match source {
            KeySource::Generate(_) if path != Path::new("-") => Target::reserve(path),
            _ => Ok(Target { path, file: None }),
        }
    }

    /// Writes the private key and says so.
    fn write(&self, target: &mut Target, file: &KeyFile, ending: &str) -> Result<String> {
        target.write(&file.private)?;
        let form = match self.format {
            KeyFormat::Openssh => "OpenSSH",
            KeyFormat::Pem => "PEM",
            KeyFormat::Ppk3 => "PPK version 3",
            KeyFormat::Ppk2 => "PPK version 2",
        };
        // PKCS#8 is the only PEM of Ed25519.
        let unread = matches!(self.format, KeyFormat::Pem) && file.public_line.starts_with("ssh-ed25519 ");
        let warning = if unread {
            "\nOpenSSH reads no Ed25519 key in PEM (\"invalid format\"); for it give --format openssh"
        } else {
            ""
        };
        Ok(format!(
            "Wrote {} ({form}, mode 0400)   fingerprint {}{ending}{warning}",
            target.path.display(),
            file.fingerprint
        ))
    }
}

/// The file of a private key that is still to be made; without its key it is removed again.
#[derive(Debug, Default)]
struct Target {
    path: PathBuf,
    /// Open and empty until the key is in it.
    file: Option<std::fs::File>,
}

impl Target {
    /// A dry run hears the same refusals.
    fn reserve(path: PathBuf) -> Result<Self> {
        let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(&path);
        let file = opened.map_err(|error| super::cannot_write(&path, &error))?;
        Ok(Self { path, file: Some(file) })
    }

    fn write(&mut self, text: &str) -> Result<()> {
        let Some(mut file) = self.file.take() else {
            return super::write_file(&self.path, text, 0o400);
        };
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        written.map_err(|error| super::cannot_write(&self.path, &error))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

pub(crate) async fn run(ctx: &Ctx, verb: Verb) -> Outcome {
    let core = ctx.core()?;
    match verb {
        Verb::List => list(ctx, &core)?,
        Verb::Show { name } => {
            let all = objects(&core)?;
            let user = users::choose(&all, ctx.account(), &name)?;
            let (object, text) = shown(&core, user)?;
            ctx.printer.show(&object, &text);
        }
        Verb::Add { name, key, settings } => add(ctx, &core, &name, &key, &settings).await?,
        Verb::Set { name, settings } => {
            let user = users::set(&core, ctx.account(), &name, &settings.some("user", &name)?, ctx.dry_run()).await?;
            let changed = ctx.tense("changed", "would be changed");
            ctx.printer
                .done(&object(&user), &ctx.would(format!("User {} {changed}", user.name)));
            check::note(ctx, &core, &format!("user {} ", user.name))?;
        }
        Verb::Rm { name } => {
            ctx.confirm(&format!("remove user {name}?"))?;
            users::remove(&core, ctx.account(), &name, ctx.dry_run()).await?;
            let removed = ctx.tense("removed", "would be removed");
            ctx.printer.done(
                &json!({ "name": name, "removed": !ctx.dry_run() }),
                &ctx.would(format!("User {name} {removed}")),
            );
        }
        Verb::Enable { name } => {
            let user = users::enable(&core, ctx.account(), &name, true, ctx.dry_run()).await?;
            let may = ctx.tense("may", "could");
            ctx.printer
                .done(&object(&user), &ctx.would(format!("User {} {may} log in", user.name)));
        }
        Verb::Disable { name } => {
            let user = users::enable(&core, ctx.account(), &name, false, ctx.dry_run()).await?;
            let (may, end) = (ctx.tense("may", "could"), ctx.tense("end", "would end"));
            ctx.printer.done(
                &object(&user),
                &ctx.would(format!("User {} {may} not log in; open connections {end}", user.name)),
            );
        }
        Verb::Password {
            name,
            password,
            generate,
            remove,
        } => set_password(ctx, &core, &name, password.as_deref(), generate, remove).await?,
        Verb::Totp { name, remove } => set_totp(ctx, &core, &name, remove).await?,
        Verb::Key(verb) => keys(ctx, &core, verb).await?,
        Verb::Log { name, limit } => log(ctx, &core, name.as_deref(), limit)?,
    }
    Ok(DONE)
}

async fn add(ctx: &Ctx, core: &Core, name: &str, key: &KeyArgs, settings: &Settings<OfUser>) -> Result<()> {
    let source = key.chosen()?;
    let mut target = source
        .as_ref()
        .map(|source| key.target(name, source))
        .transpose()?
        .unwrap_or_default();
    let (user, file) = users::add(core, ctx.account(), name, source.as_ref(), &settings.pairs()?, ctx.dry_run()).await?;
    let mut text = format!("User {}   {}   home /{}\n", user.name, ways(&user), layout::home(&user.account));
    let mut private = None;
    if let Some(file) = file.as_ref().filter(|_| !ctx.dry_run()) {
        text.push_str(&format!("{}\n", key.write(&mut target, file, "")?));
        private = Some(target.path.display().to_string()).filter(|target| target != "-");
    }
    let client = if private.is_some() && key.is_ppk() { "psftp" } else { "sftp" };
    let connect = users::connect_command(core, client, &user.name, private.as_deref());
    text.push_str(&format!("Connect:  {connect}\n"));
    for key in users::keys(&user) {
        if let Some(end) = key.options.expiry_time.filter(|end| end.saturating_mul(1000) <= core.clock.now()) {
            let (key, end) = (&key.fingerprint, rfc3339(end.saturating_mul(1000)));
            text.push_str(&format!(
                "Note:     {key} is refused: its expiry-time= is over since {end} (read as UTC)\n"
            ));
        }
    }
    for (step, verb, lack) in [
        (LoginStep::Password, "password", user.password.is_empty()),
        (LoginStep::Totp, "totp", user.totp.is_empty()),
    ] {
        if lack && user.login.has(step) {
            text.push_str(&format!("Next:     as2gate user {verb} {}\n", user.name));
        }
    }
    let mut object = object(&user);
    if let Some(fields) = object.as_object_mut() {
        fields.insert("connect".to_owned(), json!(connect));
        fields.insert("private_key_file".to_owned(), json!(private));
    }
    ctx.printer.done(&object, &ctx.would(text));
    Ok(())
}

async fn keys(ctx: &Ctx, core: &Core, verb: KeyVerb) -> Result<()> {
    match verb {
        KeyVerb::List { name } => list_keys(ctx, core, &name)?,
        KeyVerb::Add { name, key } => {
            let source = key.source(false)?;
            let mut target = key.target(&name, &source)?;
            let (user, file) = users::add_key(core, ctx.account(), &name, &source, ctx.dry_run()).await?;
            let text = match file.as_ref().filter(|_| !ctx.dry_run()) {
                Some(file) => key.write(&mut target, file, "")?,
                None => format!("User {} {} {} keys", user.name, ctx.tense("has", "would have"), user.keys.len()),
            };
            ctx.printer.done(&object(&user), &ctx.would(text));
        }
        KeyVerb::Rotate { name, key } => {
            let source = key.source(true)?;
            let mut target = key.target(&name, &source)?;
            let (user, file) = users::rotate_key(core, ctx.account(), &name, &source, ctx.dry_run()).await?;
            let text = match file.as_ref().filter(|_| !ctx.dry_run()) {
                Some(file) => key.write(&mut target, file, "   the old key no longer works")?,
                None => {
                    let works = ctx.tense("no longer works", "would no longer work");
                    format!("User {}   the old key {works}", user.name)
                }
            };
            ctx.printer.done(&object(&user), &ctx.would(text));
        }
        KeyVerb::Rm { name, key } => {
            ctx.confirm(&format!("remove the key {key} of {name}?"))?;
            let user = users::remove_key(core, ctx.account(), &name, &key, ctx.dry_run()).await?;
            let (removed, has) = (ctx.tense("removed", "would be removed"), ctx.tense("has", "would have"));
            ctx.printer.done(
                &object(&user),
                &ctx.would(format!("Key {removed}; {} {has} {} left", user.name, user.keys.len())),
            );
        }
    }
    Ok(())
}

fn list_keys(ctx: &Ctx, core: &Core, name: &str) -> Result<()> {
    let all = objects(core)?;
    let user = users::choose(&all, ctx.account(), name)?;
    let columns = [
        ("fingerprint", "FINGERPRINT"),
        ("algorithm", "TYPE"),
        ("bits", "BITS"),
        ("comment", "COMMENT"),
        ("from", "FROM"),
        ("expires", "EXPIRES"),
        ("options", "OPTIONS"),
        ("line", ""),
    ];
    let mut list = List::new(&columns, "no keys; as2gate user key add NAME --public-key FILE");
    for key in users::keys(user) {
        let expires = key.options.expiry_time.map(|end| end.saturating_mul(1000));
        list.push(vec![
            Cell::text(&key.fingerprint),
            Cell::text(&key.algorithm),
            Cell::number(u64::from(key.bits)),
            Cell::text(&key.comment),
            Cell::names(&key.options.from),
            Cell::time(expires, core.clock.now()),
            Cell::text(options(&key)),
            Cell::text(users::line(&key)),
        ]);
    }
    ctx.printer.list(&list);
    Ok(())
}

fn list(ctx: &Ctx, core: &Core) -> Result<()> {
    let all = objects(core)?;
    let columns = [
        ("name", "NAME"),
        ("account", "ACCOUNT"),
        ("kind", "KIND"),
        ("enabled", "ENABLED"),
        ("keys", "KEYS"),
        ("allowed_ips", "ALLOWED"),
        ("delete_received", ""),
        ("expires", "EXPIRES"),
        ("login", "LOGIN"),
    ];
    let mut list = List::new(&columns, "no users; as2gate user add NAME --generate-key");
    for user in all.users.values().filter(|user| ctx.lists(&user.account)) {
        let allowed = if user.allowed_ips.is_empty() {
            Cell::short("anywhere", json!([]))
        } else {
            Cell::names(&user.allowed_ips)
        };
        list.push(vec![
            Cell::text(&user.name),
            Cell::text(&user.account),
            Cell::text(user.kind.to_string()),
            Cell::flag(user.enabled),
            Cell::number(u64::try_from(user.keys.len()).unwrap_or(u64::MAX)),
            allowed,
            Cell::flag(user.delete_received),
            Cell::text(&user.expires),
            Cell::text(String::from(user.login.clone())),
        ]);
    }
    ctx.printer.list(&list);
    Ok(())
}

async fn set_password(ctx: &Ctx, core: &Core, name: &str, source: Option<&str>, generate: bool, remove: bool) -> Result<()> {
    let made = generate.then(keystore::new_password).transpose();
    let made = made.map_err(|error| Refusal::from_keystore("cannot make a password", &error))?;
    let given = match (source, &made) {
        (Some(source), _) => Some(super::read_secret(source)?),
        (None, Some(made)) => Some(made.clone()),
        (None, None) if remove => None,
        (None, None) => Some(ctx.ask_new_secret(&format!("password of {name}: "))?),
    };
    let user = users::set_password(core, ctx.account(), name, given.as_ref().map(|text| text.as_str()), ctx.dry_run()).await?;
    // One that was made for a dry run is nobody's.
    let made = made.filter(|_| !ctx.dry_run());
    let has = ctx.tense("has", "would have");
    let mut text = match (&made, remove) {
        (Some(made), _) => format!("Password of {}: {}   it is shown this once\n", user.name, made.as_str()),
        (None, true) => format!("User {} {has} no password any more\n", user.name),
        (None, false) => format!("User {} {has} a new password\n", user.name),
    };
    if !remove && !user.login.has(LoginStep::Password) {
        text.push_str(&format!(
            "It {} asked for yet:  as2gate user set {} --login password\n",
            ctx.tense("is not", "would not be"),
            user.name
        ));
    }
    let mut object = object(&user);
    if let (Some(fields), Some(made)) = (object.as_object_mut(), &made) {
        fields.insert("generated_password".to_owned(), json!(made.as_str()));
    }
    ctx.printer.done(&object, &ctx.would(text));
    Ok(())
}

async fn set_totp(ctx: &Ctx, core: &Core, name: &str, remove: bool) -> Result<()> {
    let (user, secret) = users::set_totp(core, ctx.account(), name, remove, ctx.dry_run()).await?;
    // One that was made for a dry run is nobody's.
    let secret = secret.filter(|_| !ctx.dry_run());
    let has = ctx.tense("has", "would have");
    let mut object = object(&user);
    let mut text = match &secret {
        Some(secret) => format!(
            "Secret of {}, shown this once:\n  {}\n  {}\n",
            user.name,
            secret.base32.as_str(),
            secret.uri.as_str()
        ),
        None if remove => format!("User {} {has} no secret for codes any more\n", user.name),
        None => format!("User {} {has} a new secret for codes\n", user.name),
    };
    if let (Some(fields), Some(secret)) = (object.as_object_mut(), &secret) {
        fields.insert("totp_secret".to_owned(), json!(secret.base32.as_str()));
        fields.insert("totp_uri".to_owned(), json!(secret.uri.as_str()));
    }
    if !remove && !user.login.has(LoginStep::Totp) {
        let login = String::from(user.login.with_codes());
        text.push_str(&format!(
            "Codes {} asked for yet:  as2gate user set {} --login {}\n",
            ctx.tense("are not", "would not be"),
            user.name,
            quoted(&login)
        ));
    }
    ctx.printer.done(&object, &ctx.would(text));
    Ok(())
}

/// The options of a key that have no column of their own.
fn options(key: &PublicKey) -> String {
    let others = KeyOptions {
        from: Vec::new(),
        expiry_time: None,
        ..key.options.clone()
    };
    others.to_text()
}

/// How a user logs in, in a few words.
fn ways(user: &User) -> String {
    if user.login == LoginWays::default() {
        "key only".to_owned()
    } else {
        user.login.describe()
    }
}

/// The user's fields without what it logs in with.
fn object(user: &User) -> Value {
    let mut user = user.clone();
    for secret in [&mut user.password, &mut user.totp] {
        if !secret.is_empty() {
            "…".clone_into(secret);
        }
    }
    json!(user)
}

fn shown(core: &Core, user: &User) -> Result<(Value, String)> {
    let keys: Vec<PublicKey> = users::keys(user);
    let mut hosts = host_keys::load(&core.config)?;
    hosts.retain(|key| key.state == HostKeyState::Current);
    let home = format!("/{}", layout::home(&user.account));
    let connect = users::connect_command(core, "sftp", &user.name, user.login.has(LoginStep::PublicKey).then_some("KEYFILE"));
    let mut value = object(user);
    if let Some(fields) = value.as_object_mut() {
        let fingerprints: Vec<_> = keys.iter().map(|key| &key.fingerprint).collect();
        let host_keys: Vec<_> = hosts.iter().map(|key| &key.fingerprint).collect();
        fields.insert("home".to_owned(), json!(home));
        fields.insert("connect".to_owned(), json!(connect));
        fields.insert("fingerprints".to_owned(), json!(fingerprints));
        fields.insert("host_keys".to_owned(), json!(host_keys));
    }
    let login = if user.enabled {
        format!("enabled, {}", ways(user))
    } else {
        "disabled".to_owned()
    };
    let key_line = |key: &PublicKey| format!("{} {} {}", key.fingerprint, key.algorithm, key.comment);
    let host_line = |key: &HostKey| format!("{:<8} {}", key.kind, key.fingerprint);
    let allowed = if user.allowed_ips.is_empty() {
        "from anywhere".to_owned()
    } else {
        user.allowed_ips.join(", ")
    };
    let rights = if user.delete_received { "may delete what was received" } else { "" };
    let text = facts(&[
        ("User", user.name.clone()),
        ("Account", user.account.clone()),
        ("Home", home),
        ("Login", login),
        ("Keys", keys.iter().map(key_line).collect::<Vec<_>>().join("\n")),
        ("Allowed", allowed),
        ("Rights", rights.to_owned()),
        ("Limits", limits(user)),
        ("Expires", user.expires.clone()),
        ("Connect", connect),
        ("Host keys", hosts.iter().map(host_line).collect::<Vec<_>>().join("\n")),
    ]);
    Ok((value, text))
}

/// What is restricted, in the words of `set`.
fn limits(user: &User) -> String {
    let rights: Vec<String> = user.rights.iter().cloned().map(String::from).collect();
    let lists = [
        ("rights", rights),
        ("stations", user.stations.clone()),
        ("partners", user.partners.clone()),
    ];
    let numbers = [
        ("max_sessions", user.max_sessions),
        ("quota_bytes", user.quota_bytes),
        ("quota_files", user.quota_files),
        ("bandwidth", user.bandwidth),
    ];
    let lists = lists
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| format!("{name} {}", list.join(",")));
    let numbers = numbers.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name} {n}"));
    lists.chain(numbers).collect::<Vec<_>>().join("\n")
}

fn log(ctx: &Ctx, core: &Core, name: Option<&str>, limit: Option<usize>) -> Result<()> {
    let columns = [("time", "TIME"), ("user", "USER"), ("kind", "EVENT"), ("facts", "FACTS")];
    let mut list = List::new(&columns, "nothing happened");
    let newest = Newest::of(ctx, core, 0, (name, Some("user.")), limit)?;
    if let Some(name) = name.filter(|_| newest.events.is_empty()) {
        // One that was removed has a log; one that never was has none.
        users::choose(&core.objects(), ctx.account(), name)?;
    }
    for event in &newest.events {
        list.push(vec![
            Cell::time(Some(event.at), core.clock.now()),
            Cell::text(&event.subject),
            Cell::text(&event.kind),
            facts_cell(event),
        ]);
    }
    ctx.printer.list(&list);
    newest.note(ctx);
    Ok(())
}
