-- Imports, whose keys are put aside in batches and taken in at once by one row.

-- A stage's keys and events are rows like all others, but for their revision, which is the stage's number
-- and so below zero. They are real once the stage has a revision, which is then theirs.
CREATE TABLE stages (
    number     INTEGER PRIMARY KEY CHECK (number < 0),
    id         BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    keys       INTEGER NOT NULL CHECK (keys >= 0),
    touched_at INTEGER NOT NULL,
    lost       INTEGER NOT NULL CHECK (lost IN (0, 1)),
    revision   INTEGER UNIQUE,
    at         INTEGER,
    CHECK ((revision IS NULL) = (at IS NULL)),
    CHECK (revision IS NULL OR lost = 0)
) STRICT;

-- A key that is forgotten must be nobody's: that is looked up for each.
CREATE INDEX webhook_deliveries_by_key ON webhook_deliveries (key_id);
