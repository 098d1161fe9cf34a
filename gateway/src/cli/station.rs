//! `station`: our AS2 identities.

use std::path::PathBuf;

use clap::Subcommand;
use keystore::KeySpec;
use serde_json::{Value, json};

use super::error::DONE;
use super::output::{Cell, List, facts};
use super::settings::{OfStation, Settings};
use super::upload::{note_former, note_left};
use super::{CertificateFile, Ctx, Outcome, check, output};
use crate::certificate::taken_over;
use crate::gateway::Core;
use crate::hint::command;
use crate::manage::certificates::day;
use crate::manage::stations::{self, NewStation};
use crate::manage::{Result, objects, rules};
use crate::objects::{ObjectKind, Objects};
use crate::station::Station;

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  as2gate station add ACME_PROD --name \"Acme production\" --email edi@acme.example
  as2gate station profile ACME_PROD > acme-as2.txt")]
pub(crate) enum Verb {
    /// List stations.
    #[command(after_help = "Examples:
  as2gate station list
  as2gate station list -o json")]
    List,
    /// Show a station.
    #[command(after_help = "Examples:
  as2gate station show ACME_PROD")]
    Show {
        /// AS2 id.
        id: String,
    },
    /// Add a station; without a certificate, one is made.
    #[command(after_help = "Examples:
  as2gate station add ACME_PROD --name Acme --email edi@acme.example
  as2gate station add ACME_EC --key ec-p256
  as2gate station add ACME_OLD --certificate acme.p12 --passphrase env:P12_PASSWORD")]
    Add {
        /// AS2 id: 1 to 128 printable ASCII characters, compared exactly.
        id: String,
        /// Key pair in PEM, PKCS#12 or JKS.
        #[arg(long, value_name = "FILE")]
        certificate: Option<PathBuf>,
        /// Name of the certificate here [default: made of the AS2 id and the year].
        #[arg(long, value_name = "NAME")]
        cert_name: Option<String>,
        /// Key that is made: rsa-2048, rsa-3072, rsa-4096, ec-p256, ec-p384, ec-p521.
        #[arg(long, value_name = "TYPE", default_value = "rsa-3072", conflicts_with = "certificate")]
        key: KeySpec,
        #[command(flatten)]
        file: CertificateFile,
        #[command(flatten)]
        settings: Settings<OfStation>,
    },
    /// Change a station.
    #[command(after_help = "Examples:
  as2gate station set ACME_PROD --email edi@acme.example
  as2gate station set ACME_PROD --as2-id ACME2 -y")]
    Set {
        /// AS2 id.
        id: String,
        /// New AS2 id: folders and history stay under the old one; users that see only some stations see the new one.
        #[arg(long, value_name = "ID")]
        as2_id: Option<String>,
        #[command(flatten)]
        settings: Settings<OfStation>,
    },
    /// Remove a station; its certificates stay, belonging to nobody.
    #[command(after_help = "Examples:
  as2gate station rm ACME_OLD")]
    Rm {
        /// AS2 id.
        id: String,
    },
    /// Print what a partner asks for: id, URL, certificate, fingerprints, algorithms.
    #[command(after_help = "Examples:
  as2gate station profile ACME_PROD
  as2gate station profile ACME_PROD --out acme-as2.txt")]
    Profile {
        /// AS2 id.
        id: String,
        /// Write here instead.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

pub(crate) async fn run(ctx: &Ctx, verb: Verb) -> Outcome {
    let core = ctx.core()?;
    match verb {
        Verb::List => list(ctx, &core, &objects(&core)?),
        Verb::Show { id } => {
            let all = objects(&core)?;
            let station = stations::choose(&all, ctx.account(), &id)?;
            let (object, text) = shown(&core, &all, station);
            ctx.printer.show(&object, &text);
        }
        Verb::Add {
            id,
            certificate,
            cert_name,
            key,
            file,
            settings,
        } => {
            let certificate = certificate.map(|path| file.read(&path, cert_name.clone())).transpose()?;
            let made = certificate.is_none();
            let new = NewStation {
                account: ctx.account().map(str::to_owned),
                as2_id: id,
                settings: settings.pairs()?,
                certificate,
                key,
            };
            let (station, certificate) = stations::add(&core, &new, ctx.dry_run()).await?;
            let origin = if made { "self-signed, " } else { "" };
            let text = format!(
                "Station {:<7} url {}   certificate {} ({}, {origin}expires {})",
                station.as2_id,
                core.station_url(&station),
                certificate.name,
                certificate.key,
                day(certificate.not_after)
            );
            ctx.printer.done(&object(&core, &station), &ctx.would(text));
            check::note_certificates(ctx, &core, [&certificate.name])?;
        }
        Verb::Set { id, as2_id, settings } => set(ctx, &core, &id, as2_id, &settings).await?,
        Verb::Rm { id } => {
            ctx.confirm(&format!("remove station {id}?"))?;
            stations::remove(&core, ctx.account(), &id, ctx.dry_run()).await?;
            let removed = ctx.tense("removed", "would be removed");
            let text = format!("Station {id} {removed}; its certificates stay: as2gate cert list");
            ctx.printer
                .done(&json!({ "as2_id": id, "removed": !ctx.dry_run() }), &ctx.would(text));
            note_left(ctx, &core, ctx.account(), (ObjectKind::Station, &id))?;
        }
        Verb::Profile { id, out } => profile(ctx, &core, &id, out)?,
    }
    Ok(DONE)
}

async fn set(ctx: &Ctx, core: &Core, id: &str, as2_id: Option<String>, settings: &Settings<OfStation>) -> Result<()> {
    let mut pairs = settings.pairs()?;
    if let Some(new) = as2_id.filter(|new| new != id) {
        let explanation = format!(
            "folders and history of {id} stay under that name; {new} begins with empty ones, and every partner has to learn the new id"
        );
        pairs.push(("as2_id".to_owned(), new));
        // Nobody is asked about what will be refused.
        stations::set(core, ctx.account(), id, &pairs, true).await?;
        ctx.confirm_by_name(&explanation, id)?;
    } else if pairs.is_empty() {
        stations::choose(&objects(core)?, ctx.account(), id)?;
        settings.some("station", id)?;
    }
    let station = stations::set(core, ctx.account(), id, &pairs, ctx.dry_run()).await?;
    let changed = ctx.tense("changed", "would be changed");
    ctx.printer
        .done(&object(core, &station), &ctx.would(format!("Station {} {changed}", station.as2_id)));
    if station.as2_id != id {
        note_former(ctx, core, &station.account, (ObjectKind::Station, id))?;
    }
    Ok(())
}

fn profile(ctx: &Ctx, core: &Core, id: &str, out: Option<PathBuf>) -> Result<()> {
    let all = objects(core)?;
    let station = stations::choose(&all, ctx.account(), id)?;
    let text = stations::profile(core, &all, station)?;
    if core.config.public_url.is_empty() && station.url.is_empty() {
        let set = command("station set", id, "--url URL");
        let why = "its URL is this machine's own name, where no partner gets";
        ctx.printer
            .note(&format!("note: {why}; set public_url in the configuration, or {set}"));
    }
    match out {
        Some(file) => {
            ctx.write_file(&file, &text, 0o644)?;
            ctx.printer
                .done(&json!({ "as2_id": id, "file": file, "written": !ctx.dry_run() }), &ctx.wrote(&file));
        }
        None if ctx.printer.format == output::Format::Json => ctx.printer.show(&json!({ "as2_id": id, "profile": text }), &text),
        None => output::out(&text),
    }
    Ok(())
}

fn list(ctx: &Ctx, core: &Core, all: &Objects) {
    let columns = [
        ("as2_id", "AS2 ID"),
        ("account", "ACCOUNT"),
        ("name", "NAME"),
        ("url", "URL"),
        ("certificate", "CERTIFICATE"),
        ("expires", "EXPIRES"),
    ];
    let mut list = List::new(&columns, "no stations; as2gate station add AS2_ID");
    for station in all.stations.values().filter(|station| ctx.lists(&station.account)) {
        let expires = all
            .certificate(&station.account, &station.certificate)
            .map(|c| day(c.not_after))
            .unwrap_or_default();
        let cells = [
            &station.as2_id,
            &station.account,
            &station.name,
            &core.station_url(station),
            &station.certificate,
            &expires,
        ];
        list.push(cells.map(Cell::text).to_vec());
    }
    ctx.printer.list(&list);
}

fn object(core: &Core, station: &Station) -> Value {
    let mut value = json!(station);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("url".to_owned(), json!(core.station_url(station)));
        fields.insert("mdn_url".to_owned(), json!(core.mdn_url(station)));
    }
    value
}

fn shown(core: &Core, all: &Objects, station: &Station) -> (Value, String) {
    let mut value = object(core, station);
    let described = |name: &String| {
        all.certificate(&station.account, name)
            .map(|c| format!("{} ({}, expires {})\nSHA-256 {}", c.name, c.key, day(c.not_after), c.fingerprint))
            .unwrap_or_default()
    };
    let now = core.clock.now();
    // The one that signs, after the switches that have taken place.
    let current = taken_over(all, &station.account, &station.certificate, now)
        .last()
        .map_or(&station.certificate, |newest| &newest.name);
    let others = all
        .certificates
        .values()
        .filter(|c| c.account == station.account && c.owner == station.as2_id && c.name != *current && c.sealed_key.is_some());
    let others: Vec<String> = others
        .map(|c| match c.takes_over_at() {
            Some(at) if at > now => format!("{} (signs from {})", c.name, c.active_from),
            _ => c.name.clone(),
        })
        .collect();
    let partners: Vec<&str> = all
        .partners
        .values()
        .filter(|p| p.account == station.account && p.trades_with(&station.as2_id))
        .map(|p| p.as2_id.as_str())
        .collect();
    if let Some(fields) = value.as_object_mut() {
        fields.insert("partners".to_owned(), json!(partners));
        fields.insert("signs_with".to_owned(), json!(current));
        fields.insert("other_certificates".to_owned(), json!(others));
        fields.insert(
            "warnings".to_owned(),
            json!(
                rules::warnings(&core.config, all, now)
                    .into_iter()
                    .filter(|(what, _)| what.contains(&format!("station {} ", station.as2_id)))
                    .map(|(what, _)| what)
                    .collect::<Vec<_>>()
            ),
        );
    }
    let text = facts(&[
        ("Station", station.as2_id.clone()),
        ("Account", station.account.clone()),
        ("Name", station.name.clone()),
        ("E-mail", station.email.clone()),
        ("URL", core.station_url(station)),
        ("Certificate", described(current)),
        ("Also decrypts", others.join("\n")),
        ("Partners", partners.join(", ")),
        ("Folders", format!("AS2/send/{}/<partner>", crate::layout::encode(&station.as2_id))),
    ]);
    (value, text)
}
