-- From version 8 to 9.

-- Rows of files that were deleted long ago stood between those that a listing shows.
DELETE FROM entry WHERE deleted IS NOT NULL;
DROP INDEX entry_deleted;
DROP INDEX entry_noncurrent;
ALTER TABLE entry DROP COLUMN deleted;
-- A legal hold is what its partner's row says.
ALTER TABLE entry DROP COLUMN hold;
CREATE INDEX entry_noncurrent ON entry (noncurrent) WHERE noncurrent IS NOT NULL;
