//! `key`: SSH key files, OpenSSH ⇄ PEM ⇄ PPK and RFC 4716. It owns no objects.

use std::path::PathBuf;

use clap::Subcommand;
use keystore::ssh::{KeyFormat, MAX_PRIVATE_TEXT, convert, show, to_rfc4716};
use serde_json::json;

use super::error::DONE;
use super::output::{Cell, List, out};
use super::{Ctx, Outcome};
use crate::manage::{Refusal, Result};

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  as2gate key show acme-erp.key
  as2gate key convert acme-erp.key --to ppk --out acme-erp.ppk")]
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
}

fn read(file: &std::path::Path) -> Result<zeroize::Zeroizing<String>> {
    let bytes = super::read_file(file, u64::try_from(MAX_PRIVATE_TEXT).unwrap_or(u64::MAX))?;
    String::from_utf8(bytes)
        .map(zeroize::Zeroizing::new)
        .map_err(|_| Refusal::invalid(format!("cannot read {}", file.display()), "it is no text", "give a key file"))
}

pub(crate) fn run(ctx: &Ctx, verb: Verb) -> Outcome {
    let secret = |source: Option<String>| source.as_deref().map(super::read_secret).transpose();
    match verb {
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
            super::write_file(&target, &made.private, 0o400)?;
            if target.as_os_str() != "-" {
                ctx.printer.done(
                    &json!({ "file": target, "format": to.name(), "fingerprint": made.fingerprint }),
                    &format!("Wrote {} ({to}, mode 0400)   fingerprint {}", target.display(), made.fingerprint),
                );
            }
        }
    }
    Ok(DONE)
}
