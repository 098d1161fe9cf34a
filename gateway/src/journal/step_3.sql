-- From version 2 to 3: messages, bindings and entries as tables with row ids.

ALTER TABLE message RENAME TO message_2;
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
INSERT INTO message SELECT * FROM message_2;
DROP TABLE message_2;
CREATE INDEX message_by_message_id ON message (bare_id) WHERE bare_id <> '';
CREATE INDEX message_by_account ON message (account, id);
CREATE INDEX message_in_send ON message (account, station, partner, file, id) WHERE finished IS NULL AND direction = 'out';
CREATE INDEX message_same_payload ON message (account, station, partner, file, detail ->> '$.mic', created)
    WHERE direction = 'in' AND state = 'filed';
CREATE INDEX message_stranger ON message (id) WHERE code = 'unknown-trading-relationship' AND direction = 'in';
CREATE INDEX message_finished ON message (finished) WHERE finished IS NOT NULL;
CREATE INDEX message_open ON message (state) WHERE finished IS NULL;
CREATE INDEX message_payload ON message (detail ->> '$.payload') WHERE finished IS NULL;
CREATE INDEX message_raw ON message (detail ->> '$.raw') WHERE finished IS NULL;

ALTER TABLE inbound RENAME TO inbound_2;
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
INSERT INTO inbound SELECT * FROM inbound_2;
DROP TABLE inbound_2;

ALTER TABLE entry RENAME TO entry_2;
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
    deleted    INTEGER,
    hold       INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (account, parent, name, version)
);
INSERT INTO entry SELECT * FROM entry_2;
DROP TABLE entry_2;
CREATE INDEX entry_by_age ON entry (created) WHERE noncurrent IS NULL AND deleted IS NULL;
CREATE INDEX entry_noncurrent ON entry (noncurrent) WHERE noncurrent IS NOT NULL AND deleted IS NULL;
CREATE INDEX entry_unpublished ON entry (store) WHERE store <> '';
CREATE INDEX entry_by_message ON entry (message);
