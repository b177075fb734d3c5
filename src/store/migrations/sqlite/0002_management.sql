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

-- Lists are newest first, in the order of storing: every index ends in the row's number, and so
-- gives each of these lists in its order.
DROP INDEX keys_by_project;
DROP INDEX keys_by_user;
CREATE INDEX keys_by_project ON keys (project);
CREATE INDEX keys_by_environment ON keys (environment);
CREATE INDEX keys_by_place ON keys (project, environment);
CREATE INDEX keys_by_user ON keys (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX keys_revoked ON keys (revoked) WHERE revoked = 1;
CREATE INDEX keys_disabled ON keys (disabled) WHERE disabled = 1;
CREATE INDEX keys_superseded ON keys (superseded) WHERE superseded = 1;
CREATE INDEX keys_by_grace ON keys (grace_expires_at) WHERE grace_expires_at IS NOT NULL;
CREATE INDEX keys_working ON keys (revoked) WHERE revoked = 0 AND disabled = 0 AND superseded = 0;
CREATE INDEX users_off ON users (id) WHERE active = 0 OR deleted = 1;
