-- Version 11 (an older journal gets there by the steps in mod.rs). Times are UTC milliseconds. Every row carries its
-- account, but for `inbound`, which goes by the station (one account's only), and contents, which go by the rows that name them.
-- WITHOUT ROWID is for small rows only: of longer ones SQLite keeps the end in a page of their own, and every index would
-- repeat the long keys.

CREATE TABLE object (                 -- accounts, stations, partners, certificates, users
    kind     TEXT NOT NULL,
    account  TEXT NOT NULL,
    name     TEXT NOT NULL,
    json     TEXT NOT NULL,
    der      BLOB,                    -- a certificate's own bytes
    sealed   BLOB,                    -- its private key, sealed
    changed  INTEGER NOT NULL,
    PRIMARY KEY (kind, account, name)
) WITHOUT ROWID;
CREATE UNIQUE INDEX station_is_unique ON object (name) WHERE kind = 'station';
CREATE UNIQUE INDEX account_is_unique ON object (name) WHERE kind = 'account';
CREATE UNIQUE INDEX user_is_unique ON object (name COLLATE NOCASE) WHERE kind = 'user';

CREATE TABLE fact (key TEXT PRIMARY KEY, value) WITHOUT ROWID;   -- high-water clock, sweep marks

CREATE TABLE message (
    id           TEXT NOT NULL PRIMARY KEY,
    account      TEXT NOT NULL,
    direction    TEXT NOT NULL,
    station      TEXT NOT NULL,
    partner      TEXT NOT NULL,
    message_id   TEXT NOT NULL DEFAULT '',
    bare_id      TEXT NOT NULL DEFAULT '',       -- Message-ID without brackets, for matching
    state        TEXT NOT NULL,
    code         TEXT NOT NULL DEFAULT '',
    reason       TEXT NOT NULL DEFAULT '',
    file         TEXT NOT NULL DEFAULT '',
    size         INTEGER NOT NULL DEFAULT 0,
    sha256       TEXT NOT NULL DEFAULT '',
    content_type TEXT NOT NULL DEFAULT '',
    subject      TEXT NOT NULL DEFAULT '',
    created      INTEGER NOT NULL,
    updated      INTEGER NOT NULL,
    finished     INTEGER,
    attempts     INTEGER NOT NULL DEFAULT 0,
    next_try     INTEGER,
    detail       TEXT NOT NULL
);
CREATE INDEX message_by_message_id ON message (bare_id) WHERE bare_id <> '';
CREATE INDEX message_in_send ON message (account, station, partner, file, id) WHERE finished IS NULL AND direction = 'out';
CREATE INDEX message_same_payload ON message (account, station, partner, file, detail ->> '$.mic', created)
    WHERE direction = 'in' AND state = 'filed';
CREATE INDEX message_stranger ON message (id) WHERE code = 'unknown-trading-relationship' AND direction = 'in';
CREATE INDEX message_rejected ON message (station, partner, id, detail ->> '$.raw_size')
    WHERE direction = 'in' AND state IN ('rejected', 'quarantined');
CREATE INDEX message_finished ON message (finished) WHERE finished IS NOT NULL;
CREATE INDEX message_open ON message (state) WHERE finished IS NULL;
CREATE INDEX message_payload ON message (detail ->> '$.payload') WHERE finished IS NULL AND detail ->> '$.payload' IS NOT NULL;
CREATE INDEX message_raw ON message (detail ->> '$.raw') WHERE finished IS NULL AND detail ->> '$.raw' IS NOT NULL;

CREATE TABLE job (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,   -- never used again: who read a job claims that one or none
    kind        TEXT NOT NULL,
    account     TEXT NOT NULL,
    message     TEXT NOT NULL,
    lane        TEXT NOT NULL,        -- what runs side by side only so often: station and partner
    due         INTEGER NOT NULL,
    lease_owner TEXT,
    lease_until INTEGER,
    fence       INTEGER NOT NULL DEFAULT 0,
    tries       INTEGER NOT NULL DEFAULT 0,
    UNIQUE (kind, message)
);
CREATE INDEX job_due ON job (due);
CREATE INDEX job_by_lane ON job (lane, kind, due, id);
CREATE INDEX job_in_order ON job (lane, kind, id);
CREATE INDEX job_leased ON job (lane, kind) WHERE lease_owner IS NOT NULL;

CREATE TABLE name_window (
    account    TEXT NOT NULL,
    scope      TEXT NOT NULL,         -- station and partner today, a feed later
    name_key   TEXT NOT NULL,
    opened_at  INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    message    TEXT NOT NULL,
    PRIMARY KEY (account, scope, name_key)
) WITHOUT ROWID;

CREATE TABLE inbound (                -- which Message-IDs are bound (durability.md §3.2)
    station     TEXT NOT NULL,
    partner     TEXT NOT NULL,
    bare_id     TEXT NOT NULL,
    message     TEXT NOT NULL,
    state       TEXT NOT NULL,        -- received, filed, rejected
    raw_sha256  TEXT NOT NULL,
    mic         TEXT NOT NULL DEFAULT '',
    mdn_headers TEXT,
    mdn_body    BLOB,
    lease_owner TEXT,
    lease_until INTEGER NOT NULL,
    fence       INTEGER NOT NULL,
    updated     INTEGER NOT NULL,
    PRIMARY KEY (station, partner, bare_id)
);

CREATE TABLE upload (                 -- what lies in send without being a message: parts, parked and ignored files
    account  TEXT NOT NULL,
    station  TEXT NOT NULL,
    partner  TEXT NOT NULL,
    name     TEXT NOT NULL,
    owner    TEXT NOT NULL,           -- the user; parts are seen by nobody else
    state    TEXT NOT NULL,           -- part, parked, ignored
    reason   TEXT NOT NULL DEFAULT '',
    store    TEXT NOT NULL,
    size     INTEGER NOT NULL,
    sha256   TEXT NOT NULL DEFAULT '',
    created  INTEGER NOT NULL,
    updated  INTEGER NOT NULL,
    PRIMARY KEY (account, station, partner, name, owner, store)   -- of one name and owner a part, and what it does not replace yet
) WITHOUT ROWID;
CREATE INDEX upload_store ON upload (store);

CREATE TABLE entry (                  -- what the tree shows of the records: directories and files
    account    TEXT NOT NULL,
    parent     TEXT NOT NULL,
    name       TEXT NOT NULL,
    version    INTEGER NOT NULL DEFAULT 0,   -- counts up when a name is used again after it became non-current
    area       TEXT NOT NULL,
    message    TEXT NOT NULL,
    is_dir     INTEGER NOT NULL,
    store      TEXT NOT NULL DEFAULT '',     -- where the bytes are; empty: in the tree, under this path
    size       INTEGER NOT NULL,
    created    INTEGER NOT NULL,
    noncurrent INTEGER,
    PRIMARY KEY (account, parent, name, version)
);
CREATE INDEX entry_noncurrent ON entry (noncurrent) WHERE noncurrent IS NOT NULL;
CREATE INDEX entry_unpublished ON entry (store) WHERE store <> '';
CREATE INDEX entry_by_message ON entry (message);

CREATE TABLE blob (                   -- small contents, durable with the decision about them; they move to files later
    key   TEXT PRIMARY KEY,
    bytes BLOB NOT NULL
);

CREATE TABLE event (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    account TEXT NOT NULL,
    kind    TEXT NOT NULL,
    subject TEXT NOT NULL,
    facts   TEXT NOT NULL,
    hash    BLOB NOT NULL
);
