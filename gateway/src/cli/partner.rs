//! `partner`: remote AS2 identities, their settings, and the test of a connection.

mod shown;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::error::DONE;
use super::output::{Cell, List, facts};
use super::settings::{OfPartner, Settings};
use super::upload::{note_former, note_left};
use super::{CertificateFile, Ctx, Outcome, cert, check, partner_test};
use crate::gateway::Core;
use crate::manage::certificates::colons;
use crate::manage::partner_test::Test;
use crate::manage::partners::{self, NewPartner};
use crate::manage::{Result, objects};
use crate::objects::{ObjectKind, Objects};
use crate::partner::{Blocked, Partner};
use crate::presets::{self, PRESETS, Preset};

/// How long `partner test` waits for the MDN, unless told otherwise.
const TEST_WITHIN: &str = "60s";

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  as2gate partner add BIGMART --url https://as2.bigmart.example/as2 --certificate bigmart.cer
  as2gate partner test BIGMART --from ACME_PROD
  as2gate partner set BIGMART --mdn async-signed")]
pub(crate) enum Verb {
    /// List partners.
    #[command(after_help = "Examples:
  as2gate partner list
  as2gate partner list -o json")]
    List,
    /// Show a partner with every setting that differs from its default.
    #[command(after_help = "Examples:
  as2gate partner show BIGMART
  as2gate partner show BIGMART -o json")]
    Show {
        /// AS2 id.
        id: String,
    },
    /// Add a partner.
    #[command(after_help = "Examples:
  as2gate partner add BIGMART --url https://as2.bigmart.example/as2 --certificate bigmart.cer
  as2gate partner add OLDCO --url http://192.0.2.7/as2 --certificate oldco.p7b --sign sha1 --legacy
  as2gate partner add SHOP --url http://shop.example:10080/ --certificate shop.cer --preset openas2
  as2gate partner add --from-station BOB")]
    Add(Box<Add>),
    /// List the presets of `partner add`, or show one with its reasons.
    #[command(after_help = "Examples:
  as2gate partner presets
  as2gate partner presets openas2")]
    Presets {
        /// One of them.
        #[arg(value_parser = preset_words())]
        name: Option<String>,
    },
    /// Change a partner.
    #[command(after_help = "Examples:
  as2gate partner set BIGMART --url https://new.bigmart.example/as2
  as2gate partner set BIGMART --http-user acme --http-password env:BIGMART_PASSWORD
  as2gate partner set BIGMART --set headers.X-Env=prod --retry-max-tries 20")]
    Set {
        /// AS2 id.
        id: String,
        /// New AS2 id: folders and history stay under the old one; users that see only some partners see the new one.
        #[arg(long, value_name = "ID")]
        as2_id: Option<String>,
        #[command(flatten)]
        settings: Settings<OfPartner>,
    },
    /// Remove a partner; its records stay until their life ends.
    #[command(after_help = "Examples:
  as2gate partner rm OLDCO")]
    Rm {
        /// AS2 id.
        id: String,
    },
    /// Connect, send a small test message once, check its MDN.
    #[command(after_help = "Examples:
  as2gate partner test BIGMART --from ACME_PROD
  as2gate partner test BIGMART --connect-only")]
    Test {
        /// AS2 id.
        id: String,
        /// The station that sends; may be left out while one trades with it.
        #[arg(long, value_name = "STATION")]
        from: Option<String>,
        /// Send no message.
        #[arg(long)]
        connect_only: bool,
        /// How long each step may take, the MDN included.
        #[arg(long, value_name = "TIME", default_value = TEST_WITHIN, value_parser = crate::config::parse_duration)]
        timeout: Duration,
    },
    /// Refuse traffic of a partner.
    #[command(after_help = "Examples:
  as2gate partner block BIGMART in
  as2gate partner block BIGMART both")]
    Block {
        /// AS2 id.
        id: String,
        /// in, out or both.
        #[arg(default_value = "both")]
        which: Blocked,
    },
    /// Let traffic of a partner pass again.
    #[command(after_help = "Examples:
  as2gate partner unblock BIGMART")]
    Unblock {
        /// AS2 id.
        id: String,
    },
}

pub(crate) async fn run(ctx: &Ctx, verb: Verb) -> Outcome {
    if let Verb::Presets { name } = &verb {
        presets(ctx, name.as_deref());
        return Ok(DONE);
    }
    let core = ctx.core()?;
    match verb {
        Verb::List => list(ctx, &objects(&core)?),
        Verb::Show { id } => {
            let all = objects(&core)?;
            let partner = partners::choose(&all, ctx.account(), &id)?;
            let (object, text) = shown::partner(&core, &all, partner)?;
            ctx.printer.show(&object, &text);
        }
        Verb::Add(args) => add(ctx, &core, *args).await?,
        Verb::Set { id, as2_id, settings } => set(ctx, &core, &id, as2_id, &settings).await?,
        Verb::Rm { id } => {
            ctx.confirm(&format!("remove partner {id}?"))?;
            partners::remove(&core, ctx.account(), &id, ctx.dry_run()).await?;
            let removed = ctx.tense("removed", "would be removed");
            let text = format!("Partner {id} {removed}; its certificates and records stay");
            ctx.printer
                .done(&json!({ "as2_id": id, "removed": !ctx.dry_run() }), &ctx.would(text));
            note_left(ctx, &core, ctx.account(), (ObjectKind::Partner, &id))?;
        }
        Verb::Test {
            id,
            from,
            connect_only,
            timeout,
        } => {
            let test = Test {
                id,
                from,
                connect_only,
                timeout,
            };
            return partner_test::run(ctx, &core, test).await;
        }
        Verb::Block { id, which } => block(ctx, &core, &id, which).await?,
        Verb::Unblock { id } => block(ctx, &core, &id, Blocked::None).await?,
        // Answered above: it needs no server.
        Verb::Presets { .. } => {}
    }
    Ok(DONE)
}

/// What `partner add` was told.
#[derive(Debug, Args)]
pub(crate) struct Add {
    /// AS2 id, compared exactly.
    #[arg(required_unless_present = "from_station", conflicts_with = "from_station")]
    id: Option<String>,
    /// Its certificate, for signatures and encryption: PEM, DER, P7B.
    #[arg(long, value_name = "FILE", conflicts_with = "from_station")]
    certificate: Option<PathBuf>,
    /// Name of the certificate here [default: made of the AS2 id and the year].
    #[arg(long, value_name = "NAME")]
    cert_name: Option<String>,
    /// Take id, URL and certificate of a station of this server.
    #[arg(long, value_name = "STATION")]
    from_station: Option<String>,
    /// Product at the other end: sets what suits it; what is given beside it wins. `partner presets` shows all.
    #[arg(long, value_name = "NAME", value_parser = preset_words())]
    preset: Option<String>,
    #[command(flatten)]
    file: CertificateFile,
    #[command(flatten)]
    settings: Settings<OfPartner>,
}

async fn add(ctx: &Ctx, core: &Core, add: Add) -> Result<()> {
    let given = add.settings.pairs()?;
    let preset = add.preset.as_deref().and_then(presets::find);
    let settings = match preset {
        Some(preset) => preset.before(given),
        None => given,
    };
    let (partner, origin) = match add.from_station {
        Some(station) => {
            let partner = partners::add_from_station(core, ctx.account(), &station, &settings, ctx.dry_run()).await?;
            (partner, format!("   from station {station}"))
        }
        None => {
            let certificate = add.certificate.map(|path| add.file.read(&path, add.cert_name)).transpose()?;
            let new = NewPartner {
                account: ctx.account().map(str::to_owned),
                as2_id: add.id.unwrap_or_default(),
                settings,
                certificate,
            };
            (partners::add(core, &new, ctx.dry_run()).await?, String::new())
        }
    };
    ctx.printer
        .done(&object(&partner), &ctx.would(format!("{}{origin}", headline(&partner))));
    // A file of a wrong name is seen here first, or by whoever compares the fingerprint with the partner.
    let all = objects(core)?;
    if let Some(certificate) = all
        .certificate(&partner.account, &partner.encrypt_certificate)
        .filter(|_| origin.is_empty())
    {
        let fingerprint = colons(&certificate.fingerprint);
        ctx.printer
            .note(&format!("{}   SHA-256 {fingerprint}", cert::headline(certificate)));
    }
    if let Some(preset) = preset {
        ctx.printer
            .note(&format!("preset {}: {}. {}", preset.name, sets(preset), preset.advice));
    }
    note(ctx, core, &partner)
}

/// What a preset sets, in a few words.
fn sets(preset: &Preset) -> String {
    if preset.settings.is_empty() {
        "the defaults".to_owned()
    } else {
        preset.summary()
    }
}

async fn set(ctx: &Ctx, core: &Core, id: &str, as2_id: Option<String>, settings: &Settings<OfPartner>) -> Result<()> {
    let mut pairs = settings.pairs()?;
    if let Some(new) = as2_id.filter(|new| new != id) {
        let explanation = format!(
            "folders and history of {id} stay under that name; {new} begins with empty ones, and knows no receipts and repeats of what was {id}'s"
        );
        pairs.push(("as2_id".to_owned(), new));
        // Nobody is asked about what will be refused.
        partners::set(core, ctx.account(), id, &pairs, true).await?;
        ctx.confirm_by_name(&explanation, id)?;
    } else if pairs.is_empty() {
        partners::choose(&objects(core)?, ctx.account(), id)?;
        settings.some("partner", id)?;
    }
    let partner = partners::set(core, ctx.account(), id, &pairs, ctx.dry_run()).await?;
    ctx.printer.done(&object(&partner), &ctx.would(headline(&partner)));
    if partner.as2_id != id {
        note_former(ctx, core, &partner.account, (ObjectKind::Partner, id))?;
    }
    note(ctx, core, &partner)
}

/// Says what keeps it, or its certificates, from doing their work.
fn note(ctx: &Ctx, core: &Core, partner: &Partner) -> Result<()> {
    check::note(ctx, core, &format!("partner {} ", partner.as2_id))?;
    check::note_certificates(ctx, core, partner.sign_certificate.iter().chain([&partner.encrypt_certificate]))
}

/// The words of `--preset` with their products, for help and completion.
fn preset_words() -> PossibleValuesParser {
    let words = PRESETS.iter().map(|preset| PossibleValue::new(preset.name).help(preset.product));
    PossibleValuesParser::new(words)
}

fn presets(ctx: &Ctx, name: Option<&str>) {
    let Some(preset) = name.and_then(presets::find) else {
        let mut list = List::new(&[("name", "PRESET"), ("product", "PRODUCT"), ("settings", "SETS")], "no presets");
        for preset in PRESETS {
            list.push(vec![Cell::text(preset.name), Cell::text(preset.product), Cell::text(sets(preset))]);
        }
        return ctx.printer.list(&list);
    };
    let reasons = preset.settings.iter().map(|s| format!("{} = {}\n  {}", s.field, s.value, s.why));
    let settings = preset
        .settings
        .iter()
        .map(|s| json!({ "field": s.field, "value": s.value, "why": s.why }))
        .collect::<Vec<_>>();
    let object = json!({ "name": preset.name, "product": preset.product, "settings": settings, "advice": preset.advice });
    let text = facts(&[
        ("Preset", preset.name.to_owned()),
        ("Product", preset.product.to_owned()),
        ("Sets", reasons.collect::<Vec<_>>().join("\n")),
        ("Advice", preset.advice.to_owned()),
    ]);
    ctx.printer.show(&object, &text);
}

async fn block(ctx: &Ctx, core: &Core, id: &str, which: Blocked) -> Result<()> {
    let partner = partners::block(core, ctx.account(), id, which, ctx.dry_run()).await?;
    let text = if which == Blocked::None {
        let passes = ctx.tense("passes", "would pass");
        format!("Partner {id}   traffic {passes} both ways")
    } else {
        format!("Partner {id}   {} {which}", ctx.tense("blocked", "would be blocked"))
    };
    ctx.printer.done(&object(&partner), &ctx.would(text));
    Ok(())
}

fn list(ctx: &Ctx, all: &Objects) {
    let columns = [
        ("as2_id", "AS2 ID"),
        ("account", "ACCOUNT"),
        ("url", "URL"),
        ("sign", "SIGN"),
        ("encrypt", "ENCRYPT"),
        ("compress", ""),
        ("mdn", "MDN"),
        ("stations", "STATIONS"),
        ("blocked", "BLOCKED"),
        ("name", ""),
    ];
    let mut list = List::new(&columns, "no partners; as2gate partner add AS2_ID --url URL --certificate FILE");
    for partner in all.partners.values().filter(|partner| ctx.lists(&partner.account)) {
        let word = |word: Option<String>| Cell::text(word.unwrap_or_else(|| "none".to_owned()));
        list.push(vec![
            Cell::text(&partner.as2_id),
            Cell::text(&partner.account),
            Cell::text(&partner.url),
            word(partner.sign.map(|digest| digest.to_string())),
            word(partner.encrypt.map(|cipher| cipher.to_string())),
            Cell::text(partner.compress.to_string()),
            Cell::text(partner.mdn.to_string()),
            Cell::names(&partner.stations),
            Cell::text(partner.blocked.to_string()),
            Cell::text(&partner.name),
        ]);
    }
    ctx.printer.list(&list);
}

/// The partner's fields without its passwords.
fn object(partner: &Partner) -> Value {
    let mut partner = partner.clone();
    for (_, auth) in partner.credentials() {
        if !auth.password.is_empty() {
            "…".clone_into(&mut auth.password);
        }
    }
    json!(partner)
}

/// `Partner BOB     sign sha256   encrypt aes256-cbc   mdn sync-signed`.
fn headline(partner: &Partner) -> String {
    let word = |word: Option<String>| word.unwrap_or_else(|| "none".to_owned());
    let (sign, encrypt) = (
        word(partner.sign.map(|d| d.to_string())),
        word(partner.encrypt.map(|c| c.to_string())),
    );
    format!(
        "Partner {:<7} sign {sign}   encrypt {encrypt}   mdn {}",
        partner.as2_id, partner.mdn
    )
}
