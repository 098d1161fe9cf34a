//! `serve --demo`: a gateway to try, with two stations that trade with each other, in a directory that goes away with it.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use keystore::KeySpec;
use keystore::ssh::{KeyFormat, KeyKind};

use super::{Ctx, write_file};
use crate::config::Config;
use crate::gateway::{Core, ServeOptions};
use crate::manage::stations::NewStation;
use crate::manage::users::{KeySource, KeyWish};
use crate::manage::{Refusal, Result, accounts, partners, setup, stations, users};

const ACCOUNT: &str = "demo";
const USER: &str = "demo";
const STATIONS: [&str; 2] = ["ALICE", "BOB"];

/// Its directory, which is removed at the end.
pub(super) struct Demo {
    dir: PathBuf,
}

impl Demo {
    /// Makes the directory.
    pub(super) fn new(ctx: &Ctx) -> Result<Self> {
        let globals = &ctx.globals;
        if globals.config.is_some() || globals.data_dir.is_some() || globals.account.is_some() {
            return Err(Refusal::usage(
                "a demo takes no -c, --data-dir or --account",
                "it has a configuration, a directory and an account of its own",
                "as2gate serve --demo",
            ));
        }
        let dir = std::env::temp_dir().join(format!("as2gate-demo-{}", std::process::id()));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(|error| Refusal::from_io(format!("cannot make {}", dir.display()), &error))?;
        Ok(Demo { dir })
    }

    /// A configuration of defaults, set up.
    pub(super) fn config(&self) -> Result<Config> {
        let config = Config::load(None, Some(&self.dir))?;
        setup::set_up(&config)?;
        Ok(config)
    }

    /// Ports that are free, on this machine only, unless others are asked for.
    pub(super) fn listen(options: ServeOptions) -> ServeOptions {
        let here = || Some(vec!["127.0.0.1:0".to_owned()]);
        ServeOptions {
            sftp: options.sftp.or_else(here),
            as2: options.as2.or_else(here),
            telemetry: options.telemetry.or_else(|| Some(String::new())),
        }
    }

    /// Fills the running server with an account, two stations, each the other's partner, and a user; what to do with them.
    pub(super) async fn furnish(&self, core: &Core) -> Result<String> {
        accounts::add(core, ACCOUNT, &[], false, false).await?;
        for id in STATIONS {
            let station = NewStation {
                account: None,
                as2_id: id.to_owned(),
                settings: Vec::new(),
                certificate: None,
                key: KeySpec::default(),
            };
            stations::add(core, &station, false).await?;
            partners::add_from_station(core, None, id, &[], false).await?;
        }
        let wish = KeyWish {
            kind: KeyKind::default(),
            format: KeyFormat::default(),
            passphrase: None,
        };
        let (_, key) = users::add(core, None, USER, Some(&KeySource::Generate(wish)), &[], false).await?;
        let file = self.dir.join(format!("{USER}.key"));
        if let Some(key) = key {
            write_file(&file, &key.private, 0o400)?;
        }
        Ok(self.guide(core, &file))
    }

    fn guide(&self, core: &Core, key: &Path) -> String {
        let connect = users::connect_command(core, "sftp", USER, Some(&key.display().to_string()));
        let [alice, bob] = STATIONS;
        let gate = format!("as2gate --data-dir {}", self.dir.display());
        let lines = [
            (
                format!("put FILE AS2/send/{alice}/{bob}/"),
                format!("{alice} signs, encrypts and posts it two seconds later"),
            ),
            (format!("ls -l AS2/files/{bob}/{alice}/inbox/*"), format!("what {bob} received")),
            (
                "ls AS2/raw-mdn/incoming".to_owned(),
                format!("the receipts that {alice} got and checked"),
            ),
        ];
        let lines: String = lines.map(|(what, why)| format!("  {what:<37} {why}\n")).concat();
        format!(
            "A gateway to try: {alice} and {bob} trade with each other. Ctrl-C ends it and removes everything.\n\n\
             \x20 {connect}\n\n{lines}\n\x20 {gate} message list\n\x20 {gate} status\n"
        )
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // The system clears its temporary directory, should this fail.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
