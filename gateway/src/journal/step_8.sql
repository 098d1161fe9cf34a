-- From version 7 to 8.

-- A lane whose order counts had all its jobs sorted for each claim.
CREATE INDEX job_in_order ON job (lane, kind, id);

-- A part stands beside the file that it is to take the place of.
ALTER TABLE upload RENAME TO upload_7;
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
INSERT INTO upload SELECT * FROM upload_7;
DROP TABLE upload_7;
CREATE INDEX upload_store ON upload (store);
