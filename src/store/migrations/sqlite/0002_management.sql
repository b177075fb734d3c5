-- What the management API needs: who asked from where, what was refused, and what was answered.

-- Where the actor asked from; none at the command line.
ALTER TABLE events ADD COLUMN address TEXT;

-- Answers to requests that shall be done once. A token among them is sealed under a key that needs
-- what only the caller has.
CREATE TABLE once (
    once     BLOB    NOT NULL CHECK (length(once) = 32),
    request  BLOB    NOT NULL CHECK (length(request) = 32),
    key_id   BLOB,
    revision INTEGER NOT NULL,
    sealed   BLOB,
    until    INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    PRIMARY KEY (once)
) STRICT, WITHOUT ROWID;

CREATE INDEX once_by_age ON once (at);
CREATE INDEX once_by_end ON once (until) WHERE sealed IS NOT NULL;

-- Refused attempts, counted by the minute. They have no revision: no reader of changes needs them.
CREATE TABLE audit_refusals (
    minute    INTEGER NOT NULL,
    actor     TEXT    NOT NULL,
    address   TEXT    NOT NULL,
    operation TEXT    NOT NULL,
    code      TEXT    NOT NULL,
    key_id    BLOB,
    user_id   TEXT,
    count     INTEGER NOT NULL,
    last_at   INTEGER NOT NULL,
    PRIMARY KEY (minute, actor, address, operation, code)
) STRICT, WITHOUT ROWID;
