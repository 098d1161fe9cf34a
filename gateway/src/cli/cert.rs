//! `cert`: key pairs and trusted certificates.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use jiff::Timestamp;
use keystore::{CertInfo, KeySpec};
use serde_json::{Value, json};

use super::error::{DONE, FAILED};
use super::output::{Cell, Format, List, facts, local, out, plain};
use super::{CertificateFile, Ctx, Outcome, check};
use crate::certificate::{Certificate, Purpose};
use crate::clock::millis;
use crate::config::parse_duration;
use crate::event::NewEvent;
use crate::gateway::Core;
use crate::hint::{command, listed};
use crate::manage::certificates::{self, Added, For, Use, colons, day};
use crate::manage::switch::{Switch, When};
use crate::manage::{Refusal, Result, accounts, expiry, objects, rollover, rules, stores, switch};
use crate::objects::{Object, Objects};

/// What stands in the first line of PEM.
const CERTIFICATE: &str = "CERTIFICATE";
const REQUEST: &str = "CERTIFICATE REQUEST";

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  as2gate cert list
  as2gate cert add bigmart-2027 --partner BIGMART --file bigmart-2027.cer
  as2gate cert schedule bigmart-2026 --replace-with bigmart-2027.cer --at 2026-12-05T06:00Z
  as2gate cert needs-renewal --within 30d")]
pub(crate) enum Verb {
    /// List certificates.
    #[command(after_help = "Examples:
  as2gate cert list
  as2gate cert list -o json")]
    List,
    /// Show a certificate.
    #[command(after_help = "Examples:
  as2gate cert show acme-2026")]
    Show {
        /// Its name.
        name: String,
    },
    /// Add a certificate from PEM, DER, P7B, PKCS#12 or JKS.
    #[command(after_help = "Examples:
  as2gate cert add bigmart-2027 --partner BIGMART --file bigmart.cer
  as2gate cert add bigmart-tls --partner BIGMART --use https --file bigmart-tls.pem
  as2gate cert add acme-2027 --station ACME_PROD --file acme.p12 --passphrase env:P12_PASSWORD --activate
  as2gate cert add acme-tls --purpose https --file tls.pem")]
    Add {
        /// Its name here.
        name: String,
        /// The file; - is standard input.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        /// It is this partner's.
        #[arg(long, value_name = "ID", group = "whose")]
        partner: Option<String>,
        /// It is this station's; its private key is in the file, or here since `cert request`.
        #[arg(long, value_name = "ID", group = "whose")]
        station: Option<String>,
        /// It is nobody's yet: station, partner, partner-chain, https, https-chain.
        #[arg(long, value_name = "PURPOSE", group = "whose")]
        purpose: Option<Purpose>,
        /// What the partner uses it for: auto, both, sign, encrypt, https.
        #[arg(long = "use", value_name = "USE", default_value = "auto", conflicts_with_all = ["station", "purpose"])]
        used_for: Use,
        /// The station signs with it from now on.
        #[arg(long, conflicts_with_all = ["partner", "purpose"])]
        activate: bool,
        #[command(flatten)]
        source: CertificateFile,
    },
    /// Write a certificate, without its private key.
    #[command(after_help = "Examples:
  as2gate cert export acme-2026 > acme.pem
  as2gate cert export acme-2026 --form der --out acme.cer")]
    Export {
        /// Its name.
        name: String,
        /// pem or der.
        #[arg(long, value_name = "FORM", default_value = "pem", value_parser = ["pem", "der"])]
        form: String,
        /// Write here instead; of what is there, only a certificate is replaced.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Write a certificate signing request (PKCS#10) for a CA, for a key that is here.
    ///
    /// What the CA issues needs no key in its file: `cert schedule` and `cert add` find the one that is here. To have a new
    /// key signed, make it first: `cert renew`.
    #[command(after_help = "Examples:
  as2gate cert request acme-2026 --out acme.csr
  as2gate cert schedule acme-2026 --replace-with acme-from-ca.crt      what the CA issued")]
    Request {
        /// The certificate whose key and subject it is for.
        name: String,
        /// Write here instead; of what is there, only a request is replaced.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Make a station's certificate anew, with a new key.
    ///
    /// Where a CA issued the old one, only the key is made, for `cert request`; with --at or --now its self-signed certificate
    /// takes over all the same.
    #[command(after_help = "Examples:
  as2gate cert renew acme-2026                           in two weeks; partners get it first
  as2gate cert renew acme-2026 --at 2026-12-05T06:00Z
  as2gate cert renew acme-2026 --now                     signs with it at once
  as2gate cert renew acme-2026 --key rsa-4096            with another key than it has")]
    Renew {
        /// The certificate to replace.
        name: String,
        /// When it begins to sign [default: in two weeks]; both decrypt from now on.
        #[arg(long, value_name = "TIME")]
        at: Option<Timestamp>,
        /// It signs at once: for a lost key.
        #[arg(long, conflicts_with = "at")]
        now: bool,
        /// Name of the new one.
        #[arg(long = "name", value_name = "NAME")]
        new_name: Option<String>,
        /// Its key, e.g. rsa-3072 or ec-p384 [default: of the type and size of the old one].
        #[arg(long, value_name = "TYPE")]
        key: Option<KeySpec>,
    },
    /// Switch to another certificate at a time; old and new are valid side by side around it.
    #[command(after_help = "Examples:
  as2gate cert schedule bigmart-enc --replace-with bigmart-2027.cer --at 2026-12-05T06:00Z
  as2gate cert schedule acme-2026 --replace-with acme.p12 --passphrase file:pass.txt --at 2026-12-05T06:00Z")]
    Schedule {
        /// The certificate to replace.
        name: String,
        /// The file with the new one.
        #[arg(long, value_name = "FILE")]
        replace_with: PathBuf,
        /// When; without it, now.
        #[arg(long, value_name = "TIME")]
        at: Option<Timestamp>,
        /// Name of the new one.
        #[arg(long = "name", value_name = "NAME")]
        new_name: Option<String>,
        #[command(flatten)]
        source: CertificateFile,
    },
    /// Guide through a change of certificates: every step with its command and how far it is.
    #[command(after_help = "Examples:
  as2gate cert rollover ACME_PROD        our own: new key pair, who has taken it, switch, end of the old one
  as2gate cert rollover BIGMART          a partner's")]
    Rollover {
        /// AS2 id of a station or partner.
        id: String,
    },
    /// Note that partners have taken a station's certificate.
    #[command(after_help = "Examples:
  as2gate cert confirm acme-2027 --partner BIGMART
  as2gate cert confirm acme-2027 --partner BIGMART,OLDCO
  as2gate cert confirm acme-2027 --partner BIGMART --undo     it uses another still, or again")]
    Confirm {
        /// The station's next certificate.
        name: String,
        /// AS2 ids, with commas.
        #[arg(long, value_name = "IDS", required = true)]
        partner: Vec<String>,
        /// They have not taken it.
        #[arg(long)]
        undo: bool,
    },
    /// Move the time of a planned switch, or call it off.
    #[command(after_help = "Examples:
  as2gate cert switch acme-2027 --at 2026-12-19T06:00Z
  as2gate cert switch acme-2027                          at once
  as2gate cert switch acme-2027 --cancel                 not at all")]
    Switch {
        /// The certificate that takes over.
        name: String,
        /// When; without it, now.
        #[arg(long, value_name = "TIME")]
        at: Option<Timestamp>,
        /// The old one stays.
        #[arg(long, conflicts_with = "at")]
        cancel: bool,
    },
    /// Remove an unused certificate, and its private key with it.
    #[command(after_help = "Examples:
  as2gate cert rm bigmart-2024")]
    Rm {
        /// Its name.
        name: String,
    },
    /// Show the Java-readable key stores; written again if they are missing.
    #[command(after_help = "Examples:
  as2gate cert stores
  as2gate cert stores --reveal      with the passwords for keytool")]
    Stores {
        /// Show the passwords; leaves an event.
        #[arg(long)]
        reveal: bool,
    },
    /// Exit with 1 if a certificate in use expires soon.
    #[command(after_help = "Examples:
  as2gate cert needs-renewal
  as2gate -q cert needs-renewal --within 14d || echo renew")]
    NeedsRenewal {
        /// How soon.
        #[arg(long, value_name = "TIME", default_value = "30d", value_parser = parse_duration)]
        within: Duration,
    },
}

pub(crate) async fn run(ctx: &Ctx, verb: Verb) -> Outcome {
    let core = ctx.core()?;
    match verb {
        Verb::List => list(ctx, &core)?,
        Verb::Show { name } => {
            let all = objects(&core)?;
            let certificate = certificates::choose(&all, ctx.account(), &name)?;
            let (object, text) = shown(&core, &all, certificate)?;
            ctx.printer.show(&object, &text);
        }
        add @ Verb::Add { .. } => self::add(ctx, &core, add).await?,
        Verb::Export { name, form, out: file } => {
            let all = objects(&core)?;
            export(ctx, certificates::choose(&all, ctx.account(), &name)?, &form, named(file))?;
        }
        Verb::Request { name, out: file } => {
            let all = objects(&core)?;
            request(ctx, &core, certificates::choose(&all, ctx.account(), &name)?, named(file))?;
        }
        Verb::Renew {
            name,
            at,
            now,
            new_name,
            key,
        } => renew(ctx, &core, &name, (at, now), new_name.as_deref(), key).await?,
        Verb::Schedule {
            name,
            replace_with,
            at,
            new_name,
            source,
        } => schedule(ctx, &core, &name, &replace_with, (at, new_name), &source).await?,
        Verb::Rollover { id } => guide(ctx, &core, &id)?,
        Verb::Confirm { name, partner, undo } => {
            let certificate = rollover::confirm(&core, ctx.account(), &name, &partner, !undo, ctx.dry_run()).await?;
            let taken = ctx.tense("taken by", "would be taken by");
            let by = listed(certificate.confirmed_by.iter().map(String::as_str), "nobody");
            let text = format!("Certificate {name}   {taken} {by}");
            ctx.printer
                .done(&object(&core, &with(&core, &certificate)?, &certificate), &ctx.would(text));
        }
        Verb::Switch { name, cancel: true, .. } => {
            let certificate = rollover::cancel(&core, ctx.account(), &name, ctx.dry_run()).await?;
            let follows = ctx.tense("follows", "would follow");
            let text = format!("Certificate {name}   {follows} no other any more");
            ctx.printer
                .done(&object(&core, &with(&core, &certificate)?, &certificate), &ctx.would(text));
        }
        Verb::Switch { name, at, .. } => {
            let all = objects(&core)?;
            if let Ok(next) = certificates::choose(&all, ctx.account(), &name)
                && next.takes_over_at().is_some()
            {
                confirm_at_once(ctx, &core, &all, next, at.map_or(When::Now, When::At))?;
            }
            let certificate = rollover::switch(&core, ctx.account(), &name, at, ctx.dry_run()).await?;
            switched(ctx, &core, &certificate, &certificate.replaces)?;
        }
        Verb::Rm { name } => {
            let found = certificates::choose(&objects(&core)?, ctx.account(), &name)?.sealed_key.is_some();
            let loss = if found { " Its private key is gone for good." } else { "" };
            ctx.confirm(&format!("remove certificate {name}?{loss}"))?;
            certificates::remove(&core, ctx.account(), &name, ctx.dry_run()).await?;
            let removed = ctx.tense("removed", "would be removed");
            ctx.printer.done(
                &json!({ "name": name, "removed": !ctx.dry_run() }),
                &ctx.would(format!("Certificate {name} {removed}")),
            );
        }
        Verb::Stores { reveal } => show_stores(ctx, &core, reveal).await?,
        Verb::NeedsRenewal { within } => return needs_renewal(ctx, &core, within),
    }
    Ok(DONE)
}

fn list(ctx: &Ctx, core: &Core) -> Result<()> {
    let all = objects(core)?;
    let mut list = columns("no certificates; `as2gate station add` makes one");
    all.certificates
        .values()
        .filter(|c| ctx.lists(&c.account))
        .for_each(|c| list.push(row(core, &all, c)));
    ctx.printer.list(&list);
    Ok(())
}

async fn add(ctx: &Ctx, core: &Core, verb: Verb) -> Result<()> {
    let Verb::Add {
        name,
        file,
        partner,
        station,
        purpose,
        used_for,
        activate,
        source,
    } = verb
    else {
        return Ok(());
    };
    let whom = match (partner, station, purpose) {
        (Some(id), ..) => For::Partner(id, used_for),
        (_, Some(id), _) => For::Station(id, activate),
        (_, _, Some(purpose)) => For::Purpose(purpose),
        _ => {
            return Err(Refusal::usage(
                format!("whose is certificate {name}?"),
                "neither --partner, --station nor --purpose was given",
                "add --partner ID, --station ID or --purpose https",
            ));
        }
    };
    let new = source.read(&file, Some(name.clone()))?;
    let Added { certificate, user } = certificates::add(core, ctx.account(), &name, &new, &whom, ctx.dry_run()).await?;
    let text = format!(
        "{}{}",
        headline(&certificate),
        user.as_ref().map(|user| uses(user, &name)).unwrap_or_default()
    );
    ctx.printer
        .done(&object(core, &with(core, &certificate)?, &certificate), &ctx.would(text));
    if let Some(Object::Partner(partner)) = user
        && partner.sign_certificate.len() > 1
        && partner.encrypt_certificate != name
    {
        note_steps(ctx, &partner.as2_id);
    }
    check::note_certificates(ctx, core, [&certificate.name])
}

/// What a station or partner uses a certificate for and, where it is not for both, what stays with another.
fn uses(user: &Object, name: &str) -> String {
    let Object::Partner(partner) = user else {
        return ", which signs with it from now on".to_owned();
    };
    let named = |list: &[String]| list.iter().any(|other| other == name);
    let encrypts = partner.encrypt_certificate == name;
    let used = match (named(&partner.sign_certificate), encrypts) {
        (true, true) => "for its signatures and for encryption to it",
        (true, false) => "for its signatures",
        (false, true) => "for encryption to it",
        (false, false) => "for TLS to it",
    };
    match partner.encrypt_certificate.as_str() {
        other if !other.is_empty() && !encrypts && named(&partner.sign_certificate) => {
            format!(", {used} only; encryption stays with {other}")
        }
        _ => format!(", {used}"),
    }
}

fn note_steps(ctx: &Ctx, owner: &str) {
    let steps = command("cert rollover", owner, "");
    ctx.printer.note(&format!("every step with its command: {steps}"));
}

async fn renew(
    ctx: &Ctx,
    core: &Core,
    name: &str,
    (at, at_once): (Option<Timestamp>, bool),
    new_name: Option<&str>,
    key: Option<KeySpec>,
) -> Result<()> {
    let at = match (at_once, at) {
        (true, _) => When::Now,
        (false, Some(at)) => When::At(at),
        (false, None) => When::AfterNotice,
    };
    confirm_next_at_once(ctx, core, name, at)?;
    let switch = Switch {
        account: ctx.account(),
        old: name,
        at,
        name: new_name,
    };
    let certificate = switch::renew(core, &switch, key, ctx.dry_run()).await?;
    if certificate.active_from.is_empty() {
        ctx.printer.done(
            &object(core, &with(core, &certificate)?, &certificate),
            &ctx.would(headline(&certificate)),
        );
        ctx.printer.note(&format!(
            "{name} is a CA's work; have the CA sign the new key as well: as2gate cert request {}",
            certificate.name
        ));
        return Ok(());
    }
    switched(ctx, core, &certificate, name)?;
    ctx.printer.note(&format!(
        "send the new certificate to your partners: as2gate cert export {}",
        certificate.name
    ));
    note_steps(ctx, &certificate.owner);
    Ok(())
}

async fn schedule(
    ctx: &Ctx,
    core: &Core,
    name: &str,
    file: &std::path::Path,
    (at, new_name): (Option<Timestamp>, Option<String>),
    source: &CertificateFile,
) -> Result<()> {
    // The file's own year is a better name than the switch's.
    let from_file = new_name.or_else(|| year_name(name, file));
    let all = objects(core)?;
    let account = certificates::choose(&all, ctx.account(), name)?.account.clone();
    let wanted = from_file
        .filter(|wanted| *wanted != name)
        .map(|wanted| certificates::free_name(&all, &account, &wanted));
    let new = source.read(file, wanted.clone())?;
    let at = at.map_or(When::Now, When::At);
    confirm_next_at_once(ctx, core, name, at)?;
    let switch = Switch {
        account: ctx.account(),
        old: name,
        at,
        name: wanted.as_deref(),
    };
    let certificate = switch::schedule(core, &switch, &new, ctx.dry_run()).await?;
    switched(ctx, core, &certificate, name)
}

/// A person is asked before a station signs at once with what is not confirmed by its partners.
fn confirm_at_once(ctx: &Ctx, core: &Core, all: &Objects, certificate: &Certificate, at: When) -> Result<()> {
    if !at.is_at_once(core.clock.now(), certificate) || certificate.sealed_key.is_none() || !all.stations.contains_key(&certificate.owner) {
        return Ok(());
    }
    let (_, missing) = rollover::confirmations(all, certificate);
    if missing.is_empty() {
        return Ok(());
    }
    let names = listed(missing.iter().map(String::as_str), "");
    ctx.confirm(&format!(
        "the new certificate is not confirmed by {names}, where what it signs may be refused; switch at once?"
    ))
}

/// The same of the next certificate in the place of this one, which nobody can have confirmed.
fn confirm_next_at_once(ctx: &Ctx, core: &Core, old: &str, at: When) -> Result<()> {
    let all = objects(core)?;
    let next = Certificate {
        confirmed_by: Vec::new(),
        ..certificates::choose(&all, ctx.account(), old)?.clone()
    };
    confirm_at_once(ctx, core, &all, &next, at)
}

/// The steps of a change of certificates.
fn guide(ctx: &Ctx, core: &Core, id: &str) -> Result<()> {
    let all = objects(core)?;
    let guide = rollover::guide(&all, ctx.account(), id, core.clock.now())?;
    let mut text = facts(&[
        ("Belongs to", guide.owner.clone()),
        ("In force", guide.current.clone()),
        ("Next", guide.next.clone().unwrap_or_default()),
        ("Confirmed by", guide.confirmed.join(", ")),
        ("Missing", guide.missing.join(", ")),
    ]);
    for (n, step) in guide.steps.iter().enumerate() {
        let (what, command) = (plain(&step.what), plain(&step.command));
        text.push_str(&format!(
            "\n{}  {:<5}  {what}\n          {command}\n",
            n + 1,
            step.progress.as_str()
        ));
    }
    ctx.printer.show(&json!(guide), &text);
    Ok(())
}

fn needs_renewal(ctx: &Ctx, core: &Core, within: Duration) -> Outcome {
    let all = objects(core)?;
    let due = expiry::due(&core.config, &all, core.clock.now(), millis(within));
    let mut list = columns("nothing is due");
    due.iter()
        .filter(|c| ctx.lists(&c.account) || expiry::is_own_tls(c))
        .for_each(|c| list.push(row(core, &all, c)));
    let nothing = list.is_empty();
    if !ctx.printer.quiet {
        ctx.printer.list(&list);
        // The others' commands are those of `cert`.
        if let Some(own) = due.iter().find(|c| expiry::is_own_tls(c)) {
            let hint = expiry::renewal(&core.config, own);
            ctx.printer.note(&format!("note: {}: {hint}", expiry::label(own)));
        }
    }
    Ok(if nothing { DONE } else { FAILED })
}

/// `bigmart-enc` and `bigmart-2027.cer` → `bigmart-enc-2027`.
fn year_name(old: &str, file: &std::path::Path) -> Option<String> {
    let is_year = |text: &str| text.len() == 4 && text.starts_with("20") && text.bytes().all(|b| b.is_ascii_digit());
    let stem = file.file_stem()?.to_str()?;
    let year = stem.rsplit(['-', '_', '.', ' ']).next().filter(|part| is_year(part))?;
    let base = old.rsplit_once('-').filter(|(_, last)| is_year(last)).map_or(old, |(base, _)| base);
    Some(format!("{base}-{year}"))
}

fn columns(empty: &'static str) -> List {
    let columns = [
        ("name", "NAME"),
        ("account", "ACCOUNT"),
        ("purpose", "PURPOSE"),
        ("owner", "BELONGS TO"),
        ("key", "KEY"),
        ("private_key", "PRIVATE"),
        ("expires", "EXPIRES"),
        ("days", "DAYS"),
        ("used_by", "USED BY"),
        ("active_from", ""),
        ("replaces", ""),
        ("subject", ""),
        ("sha256", ""),
    ];
    List::new(&columns, empty)
}

fn days_left(core: &Core, certificate: &Certificate) -> i64 {
    (certificate.not_after - core.clock.now() / 1000).div_euclid(86_400)
}

fn row(core: &Core, all: &Objects, certificate: &Certificate) -> Vec<Cell> {
    let mut used = rules::used_by(all, &certificate.account, &certificate.name);
    if expiry::is_own_tls(certificate) {
        used.push("our HTTPS (as2.tls.listen)".to_owned());
    }
    if !certificate.replaces.is_empty() {
        let has_switched = certificate.takes_over_at().is_some_and(|at| at <= core.clock.now());
        let verb = if has_switched { "took over from" } else { "follows" };
        used.push(format!("{verb} {}", certificate.replaces));
    }
    let days = days_left(core, certificate);
    vec![
        Cell::text(&certificate.name),
        Cell::text(&certificate.account),
        Cell::text(certificate.purpose.to_string()),
        Cell::text(&certificate.owner),
        Cell::text(&certificate.key),
        Cell::flag(certificate.sealed_key.is_some()),
        Cell::short(
            day(certificate.not_after),
            crate::clock::rfc3339(certificate.not_after.saturating_mul(1000)),
        ),
        Cell::short(days.to_string(), days),
        Cell::names(&used),
        Cell::text(&certificate.active_from),
        Cell::text(&certificate.replaces),
        Cell::text(&certificate.subject),
        Cell::text(&certificate.fingerprint),
    ]
}

/// The objects with this certificate among them, as in a dry run it is not.
fn with(core: &Core, certificate: &Certificate) -> Result<Objects> {
    Ok(crate::manage::with_changes(&objects(core)?, &[certificate.clone().into()]))
}

fn object(core: &Core, all: &Objects, certificate: &Certificate) -> Value {
    let mut value = json!(certificate);
    if let Some(fields) = value.as_object_mut() {
        fields.remove("fingerprint");
        fields.insert("sha256".to_owned(), json!(certificate.fingerprint));
        fields.insert("private_key".to_owned(), json!(certificate.sealed_key.is_some()));
        fields.insert(
            "not_before".to_owned(),
            json!(crate::clock::rfc3339(certificate.not_before.saturating_mul(1000))),
        );
        fields.insert(
            "expires".to_owned(),
            json!(crate::clock::rfc3339(certificate.not_after.saturating_mul(1000))),
        );
        fields.remove("not_after");
        fields.insert("days".to_owned(), json!(days_left(core, certificate)));
        fields.insert(
            "used_by".to_owned(),
            json!(rules::used_by(all, &certificate.account, &certificate.name)),
        );
    }
    value
}

pub(super) fn headline(certificate: &Certificate) -> String {
    let owner = if certificate.owner.is_empty() {
        String::new()
    } else {
        format!("   belongs to {}", certificate.owner)
    };
    format!(
        "Certificate {}   {} ({}, expires {}){owner}",
        certificate.name,
        certificate.subject,
        certificate.key,
        day(certificate.not_after)
    )
}

fn switched(ctx: &Ctx, core: &Core, certificate: &Certificate, old: &str) -> Result<()> {
    let now = core.clock.now();
    let at = certificate.active_from.parse::<Timestamp>().map_or(now, |at| at.as_millisecond());
    let when = if at <= now {
        "now".to_owned()
    } else {
        let utc = Timestamp::from_millisecond(at)
            .map(|at| at.strftime("%H:%M").to_string())
            .unwrap_or_default();
        let here = local(at, now).replacen(' ', " at ", 1);
        format!("on {here} ({utc} UTC)")
    };
    let replaces = ctx.tense("replaces", "would replace");
    let whose = match certificate.owner.as_str() {
        "" => String::new(),
        owner => format!(" for {owner}"),
    };
    let text = format!("Certificate {}   {replaces} {old}{whose} {when}", certificate.name);
    ctx.printer
        .done(&object(core, &with(core, certificate)?, certificate), &ctx.would(text));
    if at > now {
        return Ok(());
    }
    check::note_certificates(ctx, core, [&certificate.name])
}

fn shown(core: &Core, all: &Objects, certificate: &Certificate) -> Result<(Value, String)> {
    let info = CertInfo::from_der(&certificate.der)
        .map_err(|error| Refusal::from_keystore(format!("cannot show {}", certificate.name), &error))?;
    let mut value = object(core, all, certificate);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("issuer".to_owned(), json!(info.issuer));
        fields.insert("serial".to_owned(), json!(info.serial_hex));
        fields.insert("sha1".to_owned(), json!(info.sha1));
        fields.insert("self_signed".to_owned(), json!(info.self_signed));
        fields.insert("key_usage".to_owned(), json!(info.key_usage));
    }
    let issuer = if info.self_signed { "self-signed" } else { &info.issuer };
    let private = certificate.sealed_key.as_ref().map(|_| ", private key here, sealed");
    let left = match days_left(core, certificate) {
        ..0 => "expired".to_owned(),
        days => format!("{days} days left"),
    };
    let text = facts(&[
        ("Certificate", certificate.name.clone()),
        ("Account", certificate.account.clone()),
        ("Purpose", certificate.purpose.to_string()),
        ("Belongs to", certificate.owner.clone()),
        ("Subject", info.subject.clone()),
        ("Issuer", issuer.to_owned()),
        ("Serial", info.serial_hex.clone()),
        ("Key", format!("{}{}", info.key, private.unwrap_or_default())),
        ("Key usage", info.key_usage.join(", ")),
        ("Valid", format!("{} to {} ({left})", day(info.not_before), day(info.not_after))),
        ("SHA-256", colons(&info.sha256)),
        ("SHA-1", colons(&info.sha1)),
        ("Used by", rules::used_by(all, &certificate.account, &certificate.name).join("\n")),
        ("Replaces", certificate.replaces.clone()),
        ("From", certificate.active_from.clone()),
    ]);
    Ok((value, text))
}

/// `-` is standard output.
fn named(file: Option<PathBuf>) -> Option<PathBuf> {
    file.filter(|file| file != Path::new("-"))
}

fn export(ctx: &Ctx, certificate: &Certificate, form: &str, file: Option<PathBuf>) -> Result<()> {
    use std::io::Write as _;
    let what = (certificate.name.as_str(), CERTIFICATE);
    match (form, &file) {
        ("pem", _) => give_pem(ctx, what, &certificate.der, file),
        (_, Some(file)) => overwrite(ctx, what, file, &certificate.der),
        (_, None) => {
            let mut stdout = std::io::stdout().lock();
            stdout
                .write_all(&certificate.der)
                .and_then(|()| stdout.flush())
                .map_err(|error| Refusal::from_io("cannot write the certificate", &error))
        }
    }
}

fn request(ctx: &Ctx, core: &Core, certificate: &Certificate, file: Option<PathBuf>) -> Result<()> {
    let der = certificates::request(core, certificate)?;
    give_pem(ctx, (&certificate.name, REQUEST), &der, file)?;
    let all = objects(core)?;
    let in_force = switch::finalized(&all, core.clock.now());
    let station = in_force.stations.get(&certificate.owner).map(|station| &station.certificate);
    let replaced = station.unwrap_or(&certificate.name);
    ctx.printer.note(&format!(
        "when the CA has signed it: as2gate cert schedule {replaced} --replace-with FILE --at TIME"
    ));
    Ok(())
}

fn give_pem(ctx: &Ctx, (name, label): (&str, &str), der: &[u8], file: Option<PathBuf>) -> Result<()> {
    let pem = keystore::to_pem(label, der);
    match file {
        Some(file) => return overwrite(ctx, (name, label), &file, pem.as_bytes()),
        None if ctx.printer.format == Format::Json => ctx.printer.show(&json!({ "name": name, "pem": *pem }), ""),
        None => out(&pem),
    }
    Ok(())
}

/// What is public and exported again at will: one of its kind that is there is replaced, and nothing else.
fn overwrite(ctx: &Ctx, (name, label): (&str, &str), file: &Path, bytes: &[u8]) -> Result<()> {
    if !may_be_replaced(file, label) {
        let why = format!("the file exists and holds something else than a {}", label.to_lowercase());
        let what = format!("cannot write {}", file.display());
        return Err(Refusal::exists(what, why, "give another name with --out"));
    }
    if ctx.dry_run() {
        super::expect_dir_of(file)?;
    } else {
        std::fs::write(file, bytes).map_err(|error| Refusal::from_io(format!("cannot write {}", file.display()), &error))?;
    }
    let exported = json!({ "name": name, "file": file, "written": !ctx.dry_run() });
    ctx.printer.done(&exported, &ctx.wrote(file));
    Ok(())
}

/// Whether nothing is lost with what a file holds. A key behind its certificate would be.
fn may_be_replaced(file: &Path, label: &str) -> bool {
    if !std::fs::metadata(file).is_ok_and(|there| there.is_file() && there.len() > 0) {
        return true;
    }
    super::read_file(file, super::MAX_CERTIFICATE_FILE).is_ok_and(|bytes| {
        let text = String::from_utf8_lossy(&bytes);
        let is_pem = text.starts_with(&format!("-----BEGIN {label}-----")) && text.matches("-----BEGIN").count() == 1;
        is_pem || label == CERTIFICATE && CertInfo::from_der(&bytes).is_ok()
    })
}

async fn show_stores(ctx: &Ctx, core: &Core, reveal: bool) -> Result<()> {
    let all = objects(core)?;
    let chosen: Vec<String> = match ctx.account() {
        Some(id) => vec![accounts::choose(&all, Some(id))?.id.clone()],
        None => all.accounts.keys().cloned().collect(),
    };
    if ctx.dry_run() && reveal {
        let why = "passwords are shown with an event only, and a dry run leaves none";
        return Err(Refusal::usage("no password was shown", why, "run it without -n"));
    }
    let mut columns = vec![("account", "ACCOUNT"), ("file", "FILE"), ("format", "FORMAT")];
    if reveal {
        columns.push(("password", "PASSWORD"));
    }
    let mut list = List::new(&columns, "no accounts; as2gate account add ID");
    for account in &chosen {
        let left_out = if ctx.dry_run() { Vec::new() } else { stores::write(core, account)? };
        for name in left_out {
            ctx.printer
                .note(&format!("note: certificate {name} is too odd for Java and in none of the stores"));
        }
        let passwords = stores::passwords(core, account)?;
        let dir = stores::of_account(core, account).dir().to_owned();
        for (file, password) in [
            ("identity.jks", &passwords.identity),
            ("trust.jks", &passwords.trust),
            ("https.jks", &passwords.https),
        ] {
            let mut row = vec![
                Cell::text(account),
                Cell::text(dir.join(file).display().to_string()),
                Cell::text(core.config.keystore_format.to_string()),
            ];
            if reveal {
                row.push(Cell::text(password.as_str()));
            }
            list.push(row);
        }
        if reveal {
            let (account, now) = (account.clone(), core.clock.now());
            let recorded = core.journal.write(move |tx| {
                let event = NewEvent {
                    account: &account,
                    kind: "keystore.revealed",
                    subject: &account,
                    facts: json!({}),
                };
                tx.record(&event, now)
            });
            // No password is shown that left no trace.
            recorded.await?;
        }
    }
    ctx.printer.list(&list);
    Ok(())
}
