-- From version 5 to 6: the id of a job that ended is never given to another one.

ALTER TABLE job RENAME TO job_5;
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
INSERT INTO job SELECT * FROM job_5;
DROP TABLE job_5;
CREATE INDEX job_due ON job (due);
CREATE INDEX job_by_lane ON job (lane, kind, due, id);
CREATE INDEX job_leased ON job (lane, kind) WHERE lease_owner IS NOT NULL;
