-- From version 3 to 4: no index that no query uses, or only one sweep a day, and one for who names a content. The keys h: and m: of
-- entry.store are new; an older program cannot read them.

DROP INDEX message_by_account;
DROP INDEX event_by_kind;
DROP INDEX event_by_subject;
DROP INDEX entry_by_age;
CREATE INDEX upload_store ON upload (store);
