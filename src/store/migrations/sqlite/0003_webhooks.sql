-- Announcements of rotations, expiries and ends: what is still to be sent, and what became of the rest.

-- The secret that a receiver was told is derived from lineage and version. The version before it signs
-- too until the second time. Every key of a lineage holds the same.
ALTER TABLE keys ADD COLUMN webhook_secret_version INTEGER NOT NULL DEFAULT 1 CHECK (webhook_secret_version >= 1);
ALTER TABLE keys ADD COLUMN webhook_old_secret_until INTEGER;

CREATE INDEX keys_by_announced_rotation ON keys (rotation_next_at)
    WHERE rotation_webhook_url IS NOT NULL AND rotation_next_at IS NOT NULL;
CREATE INDEX keys_by_announced_expiry ON keys (expires_at)
    WHERE rotation_webhook_url IS NOT NULL AND expires_at IS NOT NULL;

-- For which of its dates a key was announced last, so that each date is announced once.
CREATE TABLE webhook_notices (
    key_id BLOB    NOT NULL REFERENCES keys (id),
    kind   TEXT    NOT NULL,
    at     INTEGER NOT NULL,
    PRIMARY KEY (key_id, kind)
) STRICT, WITHOUT ROWID;

-- How far the events were read for what is to be announced.
CREATE TABLE webhook_cursor (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    revision INTEGER NOT NULL,
    ordinal  INTEGER NOT NULL
) STRICT;
-- What happened before there were announcements is not announced.
INSERT INTO webhook_cursor (one, revision, ordinal)
    VALUES (1, coalesce((SELECT revision FROM counter), 0), 4294967295);

-- One announcement each. A gateway that sends one holds it by a lease, which ends by itself.
CREATE TABLE webhook_deliveries (
    id              BLOB    PRIMARY KEY CHECK (length(id) = 16),
    key_id          BLOB    NOT NULL REFERENCES keys (id),
    lineage         BLOB    NOT NULL CHECK (length(lineage) = 16),
    kind            TEXT    NOT NULL,
    at              INTEGER NOT NULL,
    host            TEXT    NOT NULL,
    body            TEXT    NOT NULL,
    created_at      INTEGER NOT NULL,
    attempts        INTEGER NOT NULL,
    next_attempt_at INTEGER NOT NULL,
    lease_owner     BLOB,
    leased_until    INTEGER NOT NULL,
    state           TEXT    NOT NULL,
    told            TEXT    NOT NULL,
    finished_at     INTEGER,
    CHECK ((state = 'pending') = (finished_at IS NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX webhook_deliveries_pending ON webhook_deliveries (host, next_attempt_at, leased_until)
    WHERE state = 'pending';
CREATE INDEX webhook_deliveries_finished ON webhook_deliveries (finished_at) WHERE state <> 'pending';
CREATE INDEX webhook_deliveries_by_lineage ON webhook_deliveries (lineage, created_at);
