-- Keys, users, their history, and the counter that orders it.
-- Times are nanoseconds since 1970-01-01T00:00:00Z; ids and hashes are raw bytes; sets of flags
-- are flags joined by one space.

CREATE TABLE meta (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    store_id   BLOB    NOT NULL CHECK (length(store_id) = 16),
    created_at INTEGER NOT NULL
) STRICT;

-- The first row every mutation writes: its lock makes revisions commit-ordered.
CREATE TABLE counter (
    one       INTEGER PRIMARY KEY CHECK (one = 1),
    revision  INTEGER NOT NULL CHECK (revision >= 0),
    commit_id BLOB    NOT NULL CHECK (length(commit_id) = 16)
) STRICT;

-- The commit id at each revision, by which a reader knows that the history is still its own.
CREATE TABLE revisions (
    revision  INTEGER PRIMARY KEY,
    commit_id BLOB    NOT NULL,
    at        INTEGER NOT NULL
) STRICT;

CREATE TABLE users (
    id         TEXT    PRIMARY KEY,
    project    TEXT,
    flags      TEXT    NOT NULL,
    active     INTEGER NOT NULL CHECK (active IN (0, 1)),
    deleted    INTEGER NOT NULL CHECK (deleted IN (0, 1)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    revision   INTEGER NOT NULL,
    ordinal    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE keys (
    number                INTEGER PRIMARY KEY,
    id                    BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    lineage               BLOB    NOT NULL CHECK (length(lineage) = 16),
    hash                  BLOB    NOT NULL UNIQUE CHECK (length(hash) = 64),
    format                TEXT    NOT NULL CHECK (format IN ('opaque', 'jwt', 'imported')),
    shown_prefix          TEXT,
    last_four             TEXT,
    name                  TEXT    NOT NULL,
    project               TEXT,
    environment           TEXT    NOT NULL,
    user_id               TEXT    REFERENCES users (id),
    inherit               INTEGER NOT NULL CHECK (inherit IN (0, 1)),
    flags                 TEXT    NOT NULL,
    props                 TEXT    NOT NULL,
    may_grant             TEXT    NOT NULL,
    operates              INTEGER NOT NULL CHECK (operates IN (0, 1)),
    operates_project      TEXT,
    operates_environment  TEXT,
    self_rotate           INTEGER NOT NULL CHECK (self_rotate IN (0, 1)),
    minted_by             BLOB,
    revoked               INTEGER NOT NULL CHECK (revoked IN (0, 1)),
    disabled              INTEGER NOT NULL CHECK (disabled IN (0, 1)),
    superseded            INTEGER NOT NULL CHECK (superseded IN (0, 1)),
    revoked_at            INTEGER,
    replaced_by           BLOB,
    expires_at            INTEGER,
    grace_expires_at      INTEGER,
    rotation_days         INTEGER,
    rotation_next_at      INTEGER,
    rotation_webhook_url  TEXT,
    created_at            INTEGER NOT NULL,
    updated_at            INTEGER NOT NULL,
    revision              INTEGER NOT NULL,
    ordinal               INTEGER NOT NULL
) STRICT;

CREATE INDEX keys_by_project ON keys (project, id);
CREATE INDEX keys_by_user ON keys (user_id, id) WHERE user_id IS NOT NULL;
CREATE INDEX keys_by_lineage ON keys (lineage);
CREATE INDEX keys_by_minter ON keys (minted_by) WHERE minted_by IS NOT NULL;
CREATE INDEX keys_by_expiry ON keys (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX keys_by_rotation ON keys (rotation_next_at) WHERE rotation_next_at IS NOT NULL;

-- The audit log and the change feed.
CREATE TABLE events (
    revision INTEGER NOT NULL,
    ordinal  INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    kind     TEXT    NOT NULL,
    actor    TEXT    NOT NULL,
    key_id   BLOB,
    user_id  TEXT,
    changes  TEXT    NOT NULL,
    PRIMARY KEY (revision, ordinal),
    CHECK ((key_id IS NULL) <> (user_id IS NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX events_by_key ON events (key_id) WHERE key_id IS NOT NULL;
CREATE INDEX events_by_user ON events (user_id) WHERE user_id IS NOT NULL;

CREATE TABLE key_usage (
    key_id       BLOB    NOT NULL REFERENCES keys (id),
    gateway_id   TEXT    NOT NULL,
    last_used_at INTEGER NOT NULL,
    count        INTEGER NOT NULL,
    PRIMARY KEY (key_id, gateway_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE secrets (
    number      INTEGER PRIMARY KEY,
    fingerprint BLOB    NOT NULL CHECK (length(fingerprint) = 32)
) STRICT;
