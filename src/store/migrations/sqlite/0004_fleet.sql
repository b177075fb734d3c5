-- The processes of gateways, and how far each says that it has come.

CREATE TABLE gateways (
    incarnation      BLOB    PRIMARY KEY CHECK (length(incarnation) = 16),
    gateway_id       TEXT    NOT NULL,
    sequence         INTEGER NOT NULL,
    revision         INTEGER NOT NULL,
    commit_id        BLOB    NOT NULL CHECK (length(commit_id) = 16),
    streams_cut      INTEGER NOT NULL,
    denies           INTEGER NOT NULL CHECK (denies IN (0, 1)),
    max_staleness    INTEGER NOT NULL,
    version          TEXT    NOT NULL,
    host             TEXT    NOT NULL,
    pid              INTEGER NOT NULL,
    started_at       INTEGER NOT NULL,
    last_seen        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX gateways_by_id ON gateways (gateway_id);
