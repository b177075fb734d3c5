-- Where a store's content came from: another store, or a backup.

-- The store of which this is a copy that is not finished.
CREATE TABLE copying (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    source BLOB    NOT NULL CHECK (length(source) = 16)
) STRICT;

-- Restored backups that an operator has taken for right. A gateway that does not know the newest takes the
-- store as it is, once.
CREATE TABLE acceptances (
    id       BLOB    PRIMARY KEY CHECK (length(id) = 16),
    revision INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    actor    TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
