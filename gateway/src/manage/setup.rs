//! The first minute: directories, master key, journal, host keys. Never over what is there.

use keystore::MasterKey;

use super::host_keys::{self, HostKey};
use super::{Refusal, Result, make_dir};
use crate::config::{Config, Secret};
use crate::gateway::{StartError, check_set_up, expect_own};
use crate::journal::Journal;

/// What was made.
pub struct SetUp {
    /// A new master key; false if it comes from elsewhere or was there already.
    pub master_key: bool,
    /// The SSH host keys.
    pub host_keys: Vec<HostKey>,
    /// The kinds of those that were not there already.
    pub new_host_keys: Vec<String>,
}

/// Makes a data directory ready for a server.
///
/// # Errors
/// When it is set up already, or the disk refuses.
pub fn set_up(config: &Config) -> Result<SetUp> {
    let paths = config.paths();
    match check_set_up(&paths) {
        Err(StartError::NotSetUp(_)) => {}
        Err(error) => return Err(error.into()),
        Ok(()) => {
            let what = format!("{} is set up already", paths.data.display());
            return Err(Refusal::exists(
                what,
                "init never overwrites",
                "`as2gate serve` starts it, `as2gate status` shows it",
            ));
        }
    }
    expect_own(&paths)?;
    for dir in [&paths.data, &paths.keystore, &paths.host_keys] {
        make_dir(dir)?;
    }
    if let Some(parent) = paths.db.parent() {
        make_dir(parent)?;
    }
    let master_key = match &config.master_key {
        Secret::File(file) if !file.exists() => {
            let made = MasterKey::create(file);
            made.map_err(|error| Refusal::from_keystore("cannot make the master key", &error))?;
            true
        }
        _ => {
            let why = |why: String| Refusal::invalid("cannot use the master key", why, "look at master_key in the configuration");
            config.load_master_key().map_err(why)?;
            false
        }
    };
    let new_host_keys = host_keys::create_missing(config)?;
    let host_keys = host_keys::load(config)?;
    // Last: its presence is what says "set up".
    drop(Journal::open(&paths.db)?);
    Ok(SetUp {
        master_key,
        host_keys,
        new_host_keys,
    })
}

/// The configuration that `init` writes: only what differs from the defaults.
#[must_use]
pub fn config_text(data_dir: Option<&str>, public_url: Option<&str>, sftp: Option<&str>, as2: Option<&str>) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let mut text =
        "# as2gate configuration. Every key has a default; `as2gate check --effective -v` shows and explains them all. Restart to\n\
                    # take a change; docs/CONFIGURATION.md tells more.\n"
            .to_owned();
    if let Some(dir) = data_dir {
        text.push_str(&format!("data_dir = {}\n", quoted(dir)));
    }
    match public_url {
        Some(url) => text.push_str(&format!("public_url = {}\n", quoted(url))),
        None => text.push_str("# public_url = \"https://as2.example.com\"   # base of the URL that partners post to\n"),
    }
    if let Some(address) = sftp {
        text.push_str(&format!("\n[sftp]\nlisten = [{}]\n", quoted(address)));
    }
    if let Some(address) = as2 {
        text.push_str(&format!("\n[as2]\nlisten = [{}]\n", quoted(address)));
    }
    text
}
