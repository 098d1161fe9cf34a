//! A copy of the whole journal at one moment, and what it needs of the store: for backups.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, params};

use super::recent::Recent;
use super::tree::{ENTRY, Entry, read_entry};
use super::{Journal, JournalError, Result, SCHEMA_VERSION, STEPS, Tx, connect, connect_reader, migrate};

/// A closed copy of the journal, opened to be read.
pub struct Snapshot {
    db: Connection,
    recent: Recent,
}

impl Journal {
    /// Writes the journal as it is at this moment to a new file, beside a running server and without holding it up.
    ///
    /// # Errors
    /// The database's; a file that is there already.
    pub fn snapshot(&self, to: &Path) -> Result<Snapshot> {
        // A reader's connection may write nothing, not even another file.
        let db = connect_reader(&self.path)?;
        db.execute_batch("PRAGMA query_only=OFF;")?;
        // SQLite would make it readable for all; it writes into an empty one.
        let private = OpenOptions::new().create_new(true).write(true).mode(0o600).open(to);
        private.map_err(|error| JournalError::Open(format!("make {}: {error}", to.display())))?;
        db.execute("VACUUM INTO ?1", [to.to_string_lossy()])?;
        Snapshot::open(to)
    }

    /// Changes a closed copy before anybody opens it, and leaves it one file.
    ///
    /// # Errors
    /// The database's, or the change's own; then nothing is changed.
    pub fn change_copy<T>(path: &Path, change: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
        let db = connect(path)?;
        migrate(&db, STEPS)?;
        let recent = Recent::default();
        db.execute_batch("BEGIN IMMEDIATE")?;
        let outcome = change(&Tx { db: &db, recent: &recent });
        db.execute_batch(if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
        db.flush_prepared_statement_cache();
        db.execute_batch("PRAGMA journal_mode=DELETE")?;
        outcome
    }
}

impl Snapshot {
    /// Opens one that was written before.
    ///
    /// # Errors
    /// The database's; `Newer` for that of a newer version.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags)?;
        match db.query_row("PRAGMA user_version", [], |row| row.get(0))? {
            0 => Err(JournalError::Corrupt(format!("nothing is in {}", path.display()))),
            1..=SCHEMA_VERSION => Ok(Snapshot {
                db,
                recent: Recent::default(),
            }),
            found => Err(JournalError::Newer { found }),
        }
    }

    /// Reads.
    ///
    /// # Errors
    /// The database's, or the reader's own.
    pub fn read<T>(&self, read: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
        read(&Tx {
            db: &self.db,
            recent: &self.recent,
        })
    }
}

impl Tx<'_> {
    /// Every file of the store that a message in work or a waiting upload names. Those of entries are told with the entries.
    ///
    /// # Errors
    /// The database's.
    pub fn store_keys(&self) -> Result<Vec<String>> {
        let sql = "SELECT detail ->> '$.payload' FROM message WHERE finished IS NULL AND detail ->> '$.payload' LIKE 'f:%'
             UNION SELECT detail ->> '$.raw' FROM message WHERE finished IS NULL AND detail ->> '$.raw' LIKE 'f:%'
             UNION SELECT store FROM upload WHERE store LIKE 'f:%'";
        self.all(sql, [], |row| Ok(row.get(0)?))
    }

    /// Files of the records in the order of their names, out of view or not, after the one given.
    ///
    /// # Errors
    /// The database's.
    pub fn files_after(&self, last: Option<&Entry>, limit: u32) -> Result<Vec<Entry>> {
        let (account, parent, name, version) = last.map_or(("", "", "", -1), |e| {
            (e.account.as_str(), e.parent.as_str(), e.name.as_str(), e.version)
        });
        let sql = format!(
            "SELECT {ENTRY} FROM entry
             WHERE (account, parent, name, version) > (?1, ?2, ?3, ?4) AND is_dir = 0
             ORDER BY account, parent, name, version LIMIT ?5"
        );
        self.all(&sql, params![account, parent, name, version, limit], read_entry)
    }

    /// So many files of the records of each place where bytes lie: in the tree, out of view, staged.
    ///
    /// # Errors
    /// The database's.
    pub fn some_files(&self, limit: u32) -> Result<Vec<Entry>> {
        let places = ["noncurrent IS NULL AND store = ''", "noncurrent IS NOT NULL", "store <> ''"];
        let samples = places.map(|place| format!("SELECT * FROM (SELECT {ENTRY} FROM entry WHERE is_dir = 0 AND {place} LIMIT ?1)"));
        self.all(&samples.join(" UNION ALL "), [limit], read_entry)
    }
}
