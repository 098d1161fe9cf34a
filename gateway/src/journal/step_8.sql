-- From version 7 to 8.

-- A lane whose order counts had all its jobs sorted for each claim.
CREATE INDEX job_in_order ON job (lane, kind, id);
