-- From version 9 to 10.

-- A row says why its file waits by a word of its own, and no program has to read a sentence.
UPDATE upload SET reason = CASE
    WHEN reason = 'accepted, and opened for writing again before it was sent' THEN 'taken-back'
    WHEN reason = 'accepted, and then gone on with before it was sent' THEN 'gone-on-with'
    WHEN reason = 'looks interrupted: the client cut it while appending' THEN 'append-cut'
    WHEN reason = 'looks interrupted: shorter than announced' THEN 'short'
    WHEN reason = 'looks interrupted: nothing was added to what had been broken off' THEN 'nothing-added'
    WHEN reason LIKE 'looks interrupted%' THEN 'full-block'
    WHEN reason = 'bytes are missing' THEN 'bytes-missing'
    WHEN state = 'part' THEN 'broken-off'
    WHEN state = 'parked' THEN 'temporary-name'
    WHEN size = 0 THEN 'empty'
    ELSE 'moved-here' END;

-- Each message had a place in both, though few have both bodies.
DROP INDEX message_payload;
DROP INDEX message_raw;
CREATE INDEX message_payload ON message (detail ->> '$.payload') WHERE finished IS NULL AND detail ->> '$.payload' IS NOT NULL;
CREATE INDEX message_raw ON message (detail ->> '$.raw') WHERE finished IS NULL AND detail ->> '$.raw' IS NOT NULL;
