//! `key`: SSH key files, OpenSSH ⇄ PEM ⇄ PPK and RFC 4716; and the server's own keys. It owns no objects.

use std::path::PathBuf;

use clap::Subcommand;
use keystore::ssh::{KeyFormat, MAX_PRIVATE_TEXT, convert, show, to_rfc4716};
use serde_json::json;

use super::error::DONE;
use super::output::{Cell, List, out};
use super::{Ctx, Outcome};
use crate::manage::host_keys::{self, HostKey};
use crate::manage::{Refusal, Result, deed};

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  as2gate key show acme-erp.key
  as2gate key convert acme-erp.key --to ppk --out acme-erp.ppk
  as2gate key host list")]
pub(crate) enum Verb {
    /// Show what a private or public key file is.
    #[command(after_help = "Examples:
  as2gate key show acme-erp.key
  as2gate key show id_ed25519.pub --rfc4716")]
    Show {
        /// The file; - is standard input.
        file: PathBuf,
        /// What opens it: env:NAME, file:PATH, or - for a line of standard input.
        #[arg(long, value_name = "SOURCE")]
        passphrase: Option<String>,
        /// Print the public half as PuTTYgen saves it.
        #[arg(long)]
        rfc4716: bool,
    },
    /// Write a private key in another format.
    #[command(after_help = "Examples:
  as2gate key convert acme-erp.key --to ppk --out acme-erp.ppk
  as2gate key convert old.ppk --to openssh --passphrase env:OLD --new-passphrase env:NEW --out new.key")]
    Convert {
        /// The file; - is standard input.
        file: PathBuf,
        /// openssh, pem, ppk or ppk2.
        #[arg(long, value_name = "FORM")]
        to: KeyFormat,
        /// What opens it: env:NAME, file:PATH, or - for a line of standard input.
        #[arg(long, value_name = "SOURCE")]
        passphrase: Option<String>,
        /// What protects the new file.
        #[arg(long, value_name = "SOURCE")]
        new_passphrase: Option<String>,
        /// Where it is written, mode 0400; - is standard output.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// The server's own keys, and their rotation.
    #[command(subcommand)]
    Host(HostVerb),
}

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  as2gate key host add ed25519       make the next key; clients learn it at their logins (OpenSSH's UpdateHostKeys)
  as2gate key host rotate ed25519    some weeks later: it takes over, the old one goes")]
pub(crate) enum HostVerb {
    /// List the keys in use and those to come.
    #[command(after_help = "Examples:
  as2gate key host list")]
    List,
    /// Make the next key of a type and announce it.
    #[command(after_help = "Examples:
  as2gate key host add ed25519")]
    Add {
        /// ed25519, ecdsa or rsa.
        kind: String,
    },
    /// Let the next key take over; the old one is put aside and no longer announced.
    #[command(after_help = "Examples:
  as2gate key host rotate ed25519")]
    Rotate {
        /// ed25519, ecdsa or rsa.
        kind: String,
    },
    /// Drop the next key of a type.
    #[command(after_help = "Examples:
  as2gate key host rm ed25519")]
    Rm {
        /// ed25519, ecdsa or rsa.
        kind: String,
    },
}

async fn host(ctx: &Ctx, verb: HostVerb) -> Outcome {
    let config = ctx.config()?;
    let done = |key: Option<HostKey>, kind: &str, text: &str| {
        let fingerprint = key.as_ref().map(|key| key.fingerprint.clone()).unwrap_or_default();
        ctx.printer.done(
            &json!({ "kind": kind, "fingerprint": fingerprint }),
            &ctx.would(format!("Host key {kind} {fingerprint}   {text}\n")),
        );
    };
    let note = async |kind: &str, what, key: Option<&HostKey>| match ctx.core() {
        Ok(core) if !ctx.dry_run() => {
            let fingerprint = key.map(|key| key.fingerprint.as_str()).unwrap_or_default();
            let told = deed(&core, "", what, kind, json!({ "fingerprint": fingerprint }));
            Ok(core.journal.write(told).await?)
        }
        // Before the first set-up there is no record to write it to.
        _ => Ok::<(), Refusal>(()),
    };
    match verb {
        HostVerb::List => {
            let columns = [
                ("kind", "TYPE"),
                ("state", "STATE"),
                ("fingerprint", "FINGERPRINT"),
                ("file", "FILE"),
            ];
            let mut list = List::new(&columns, "no host keys; as2gate init, or the first start, makes them");
            for key in host_keys::load(&config)? {
                list.push(vec![
                    Cell::text(&key.kind),
                    Cell::text(key.state.as_str()),
                    Cell::text(&key.fingerprint),
                    Cell::text(key.path.display().to_string()),
                ]);
            }
            ctx.printer.list(&list);
        }
        HostVerb::Add { kind } => {
            let key = host_keys::add(&config, &kind, ctx.dry_run())?;
            note(&kind, "host_key.added", key.as_ref()).await?;
            done(key, &kind, ctx.tense("is announced from now on", "would be announced from now on"));
        }
        HostVerb::Rotate { kind } => {
            ctx.confirm(&format!("clients that have not learned the next {kind} key will warn; go on?"))?;
            let key = host_keys::rotate(&config, &kind, ctx.dry_run())?;
            note(&kind, "host_key.rotated", Some(&key)).await?;
            let words = ("is in use; the old one is no longer announced", "would come into use");
            done(Some(key), &kind, ctx.tense(words.0, words.1));
        }
        HostVerb::Rm { kind } => {
            let key = host_keys::remove(&config, &kind, ctx.dry_run())?;
            note(&kind, "host_key.removed", Some(&key)).await?;
            done(Some(key), &kind, ctx.tense("is dropped", "would be dropped"));
        }
    }
    Ok(DONE)
}

fn read(file: &std::path::Path) -> Result<zeroize::Zeroizing<String>> {
    let bytes = super::read_file(file, u64::try_from(MAX_PRIVATE_TEXT).unwrap_or(u64::MAX))?;
    let bytes = zeroize::Zeroizing::new(bytes);
    keystore::decode_text(&bytes)
        .ok_or_else(|| Refusal::invalid(format!("cannot read {}", file.display()), "it is no text", "give a key file"))
}

pub(crate) async fn run(ctx: &Ctx, verb: Verb) -> Outcome {
    let secret = |source: Option<String>| source.as_deref().map(super::read_secret).transpose();
    match verb {
        Verb::Host(verb) => return host(ctx, verb).await,
        Verb::Show { file, passphrase, rfc4716 } => {
            let (text, passphrase) = (read(&file)?, secret(passphrase)?);
            let keys = show(&text, passphrase.as_ref().map(|p| p.as_str()))
                .map_err(|error| Refusal::from_keystore(format!("cannot show {}", file.display()), &error))?;
            if rfc4716 {
                keys.iter().for_each(|key| out(&to_rfc4716(key)));
                return Ok(DONE);
            }
            let mut list = List::new(
                &[
                    ("fingerprint", "FINGERPRINT"),
                    ("algorithm", "TYPE"),
                    ("bits", "BITS"),
                    ("comment", "COMMENT"),
                    ("line", ""),
                ],
                "no keys",
            );
            for key in &keys {
                list.push(vec![
                    Cell::text(&key.fingerprint),
                    Cell::text(&key.algorithm),
                    Cell::number(u64::from(key.bits)),
                    Cell::text(&key.comment),
                    Cell::text(&key.line),
                ]);
            }
            ctx.printer.list(&list);
        }
        Verb::Convert {
            file,
            to,
            passphrase,
            new_passphrase,
            out: target,
        } => {
            let (text, old, new) = (read(&file)?, secret(passphrase)?, secret(new_passphrase)?);
            let made = convert(&text, old.as_ref().map(|p| p.as_str()), to, new.as_ref().map(|p| p.as_str()));
            let made = made.map_err(|error| Refusal::from_keystore(format!("cannot convert {}", file.display()), &error))?;
            ctx.write_file(&target, &made.private, 0o400)?;
            if target.as_os_str() != "-" {
                ctx.printer.done(
                    &json!({ "file": target, "format": to.name(), "fingerprint": made.fingerprint, "written": !ctx.dry_run() }),
                    &format!("{} ({to}, mode 0400)   fingerprint {}", ctx.wrote(&target), made.fingerprint),
                );
            }
        }
    }
    Ok(DONE)
}
