-- From version 8 to 9.

-- Rows of files that were deleted long ago stood between those that a listing shows, and a legal hold is what its partner's own row
-- says. Copied, since in a journal of years nearly all rows go.
ALTER TABLE entry RENAME TO entry_8;
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
INSERT INTO entry SELECT account, parent, name, version, area, message, is_dir, store, size, created, noncurrent
    FROM entry_8 WHERE deleted IS NULL;
DROP TABLE entry_8;
CREATE INDEX entry_noncurrent ON entry (noncurrent) WHERE noncurrent IS NOT NULL;
CREATE INDEX entry_unpublished ON entry (store) WHERE store <> '';
CREATE INDEX entry_by_message ON entry (message);
