-- The whole store: keys, users, their history, the counter that orders it, and what is announced.
-- Times are nanoseconds since 1970-01-01T00:00:00Z; sets of flags are flags joined by one space.
-- Every name is qualified: a connection through a pooler has no search path of its own.

CREATE SCHEMA IF NOT EXISTS keyward;

CREATE TABLE keyward.meta (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    store_id   uuid    NOT NULL,
    migrations integer NOT NULL,
    created_at bigint  NOT NULL
);

-- The first row every mutation writes: its lock makes revisions commit-ordered.
CREATE TABLE keyward.counter (
    one         boolean PRIMARY KEY DEFAULT true CHECK (one),
    revision    bigint  NOT NULL CHECK (revision >= 0),
    commit_id   uuid    NOT NULL,
    previous_id uuid    NOT NULL
) WITH (fillfactor = 10);

-- The commit id at each revision, by which a reader knows that the history is still its own, and a
-- writer whose connection was lost whether it had committed.
CREATE TABLE keyward.revisions (
    revision  bigint PRIMARY KEY,
    commit_id uuid   NOT NULL,
    at        bigint NOT NULL
);

CREATE TABLE keyward.users (
    id         text    COLLATE "C" PRIMARY KEY,
    project    text    COLLATE "C",
    flags      text    NOT NULL,
    active     boolean NOT NULL,
    deleted    boolean NOT NULL,
    created_at bigint  NOT NULL,
    updated_at bigint  NOT NULL,
    revision   bigint  NOT NULL,
    ordinal    bigint  NOT NULL
);

CREATE INDEX users_off ON keyward.users (id) WHERE NOT active OR deleted;

CREATE TABLE keyward.keys (
    number                   bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id                       uuid    NOT NULL UNIQUE,
    lineage                  uuid    NOT NULL,
    hash                     bytea   NOT NULL UNIQUE CHECK (length(hash) = 64),
    format                   text    NOT NULL CHECK (format IN ('opaque', 'jwt', 'imported')),
    shown_prefix             text,
    last_four                text,
    name                     text    NOT NULL,
    project                  text    COLLATE "C",
    environment              text    COLLATE "C" NOT NULL,
    user_id                  text    COLLATE "C" REFERENCES keyward.users (id),
    inherit                  boolean NOT NULL,
    flags                    text    NOT NULL,
    props                    text    NOT NULL,
    may_grant                text    NOT NULL,
    operates                 boolean NOT NULL,
    operates_project         text,
    operates_environment     text,
    self_rotate              boolean NOT NULL,
    minted_by                uuid,
    revoked                  boolean NOT NULL,
    disabled                 boolean NOT NULL,
    superseded               boolean NOT NULL,
    revoked_at               bigint,
    replaced_by              uuid,
    expires_at               bigint,
    grace_expires_at         bigint,
    rotation_days            bigint,
    rotation_next_at         bigint,
    rotation_webhook_url     text,
    webhook_secret_version   bigint  NOT NULL CHECK (webhook_secret_version >= 1),
    webhook_old_secret_until bigint,
    created_at               bigint  NOT NULL,
    updated_at               bigint  NOT NULL,
    revision                 bigint  NOT NULL,
    ordinal                  bigint  NOT NULL
);

-- Lists are newest first, in the order of storing: these give each list in its order.
CREATE INDEX keys_by_project ON keyward.keys (project, number);
CREATE INDEX keys_by_environment ON keyward.keys (environment, number);
CREATE INDEX keys_by_place ON keyward.keys (project, environment, number);
CREATE INDEX keys_by_user ON keyward.keys (user_id, number) WHERE user_id IS NOT NULL;
CREATE INDEX keys_by_lineage ON keyward.keys (lineage, number);
CREATE INDEX keys_revoked ON keyward.keys (number) WHERE revoked;
CREATE INDEX keys_disabled ON keyward.keys (number) WHERE disabled;
CREATE INDEX keys_working ON keyward.keys (number) WHERE NOT revoked AND NOT disabled AND NOT superseded;
-- And these the few rows that a date or a minter picks out.
CREATE INDEX keys_by_minter ON keyward.keys (minted_by) WHERE minted_by IS NOT NULL;
CREATE INDEX keys_by_expiry ON keyward.keys (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX keys_by_grace ON keyward.keys (grace_expires_at) WHERE grace_expires_at IS NOT NULL;
CREATE INDEX keys_by_rotation ON keyward.keys (rotation_next_at) WHERE rotation_next_at IS NOT NULL;
CREATE INDEX keys_by_announced_rotation ON keyward.keys (rotation_next_at)
    WHERE rotation_webhook_url IS NOT NULL AND rotation_next_at IS NOT NULL;
CREATE INDEX keys_by_announced_expiry ON keyward.keys (expires_at)
    WHERE rotation_webhook_url IS NOT NULL AND expires_at IS NOT NULL;

-- The audit log and the change feed.
CREATE TABLE keyward.events (
    revision bigint NOT NULL,
    ordinal  bigint NOT NULL,
    at       bigint NOT NULL,
    kind     text   NOT NULL,
    actor    text   NOT NULL,
    address  text,
    key_id   uuid,
    user_id  text   COLLATE "C",
    changes  text   NOT NULL,
    PRIMARY KEY (revision, ordinal),
    CHECK ((key_id IS NULL) <> (user_id IS NULL))
);

CREATE INDEX events_by_key ON keyward.events (key_id, revision, ordinal) WHERE key_id IS NOT NULL;
CREATE INDEX events_by_user ON keyward.events (user_id, revision, ordinal) WHERE user_id IS NOT NULL;

-- No reference to keys: its check would lock key rows whenever usage is written.
CREATE TABLE keyward.key_usage (
    key_id       uuid   NOT NULL,
    gateway_id   text   COLLATE "C" NOT NULL,
    last_used_at bigint NOT NULL,
    count        bigint NOT NULL,
    PRIMARY KEY (key_id, gateway_id)
) WITH (fillfactor = 70);

-- Imports, whose keys are put aside in batches and taken in at once by one row. A stage's keys and events
-- are rows like all others, but for their revision, which is the stage's number and so below zero. They are
-- real once the stage has a revision, which is then theirs.
CREATE TABLE keyward.stages (
    number     bigint  PRIMARY KEY CHECK (number < 0),
    id         uuid    NOT NULL UNIQUE,
    keys       bigint  NOT NULL CHECK (keys >= 0),
    touched_at bigint  NOT NULL,
    lost       boolean NOT NULL,
    revision   bigint  UNIQUE,
    at         bigint,
    CHECK ((revision IS NULL) = (at IS NULL)),
    CHECK (revision IS NULL OR NOT lost)
);

-- The processes of gateways, and how far each says that it has come.
CREATE TABLE keyward.gateways (
    incarnation   uuid    PRIMARY KEY,
    gateway_id    text    COLLATE "C" NOT NULL,
    sequence      bigint  NOT NULL,
    revision      bigint  NOT NULL,
    commit_id     uuid    NOT NULL,
    streams_cut   bigint  NOT NULL,
    denies        boolean NOT NULL,
    max_staleness bigint  NOT NULL,
    version       text    NOT NULL,
    host          text    NOT NULL,
    pid           bigint  NOT NULL,
    started_at    bigint  NOT NULL,
    last_seen     bigint  NOT NULL
) WITH (fillfactor = 50);

CREATE INDEX gateways_by_id ON keyward.gateways (gateway_id);

CREATE TABLE keyward.secrets (
    number      bigint PRIMARY KEY,
    fingerprint bytea  NOT NULL CHECK (length(fingerprint) = 32)
);

-- Answers to requests that shall be done once. A token among them is sealed under a key that needs
-- what only the caller has.
CREATE TABLE keyward.once (
    once     bytea  PRIMARY KEY CHECK (length(once) = 32),
    request  bytea  NOT NULL CHECK (length(request) = 32),
    key_id   uuid,
    revision bigint NOT NULL,
    sealed   bytea,
    until    bigint NOT NULL,
    at       bigint NOT NULL
);

CREATE INDEX once_by_age ON keyward.once (at);
CREATE INDEX once_by_end ON keyward.once (until) WHERE sealed IS NOT NULL;

-- Refused attempts, counted by the minute. They have no revision: no reader of changes needs them.
CREATE TABLE keyward.audit_refusals (
    minute    bigint NOT NULL,
    actor     text   COLLATE "C" NOT NULL,
    address   text   COLLATE "C" NOT NULL,
    operation text   COLLATE "C" NOT NULL,
    code      text   COLLATE "C" NOT NULL,
    key_id    uuid,
    user_id   text   COLLATE "C",
    count     bigint NOT NULL,
    last_at   bigint NOT NULL,
    PRIMARY KEY (minute, actor, address, operation, code)
);

-- For which of its dates a key was announced last, so that each date is announced once.
CREATE TABLE keyward.webhook_notices (
    key_id uuid   NOT NULL,
    kind   text   COLLATE "C" NOT NULL,
    at     bigint NOT NULL,
    PRIMARY KEY (key_id, kind)
);

-- How far the events were read for what is to be announced.
CREATE TABLE keyward.webhook_cursor (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    revision bigint  NOT NULL,
    ordinal  bigint  NOT NULL
);

-- One announcement each. A gateway that sends one holds it by a lease, which ends by itself.
CREATE TABLE keyward.webhook_deliveries (
    id              uuid   PRIMARY KEY,
    key_id          uuid   NOT NULL,
    lineage         uuid   NOT NULL,
    kind            text   NOT NULL,
    at              bigint NOT NULL,
    host            text   COLLATE "C" NOT NULL,
    body            text   NOT NULL,
    created_at      bigint NOT NULL,
    attempts        bigint NOT NULL,
    next_attempt_at bigint NOT NULL,
    lease_owner     uuid,
    leased_until    bigint NOT NULL,
    state           text   NOT NULL,
    told            text   NOT NULL,
    finished_at     bigint,
    CHECK ((state = 'pending') = (finished_at IS NULL))
);

CREATE INDEX webhook_deliveries_pending ON keyward.webhook_deliveries (host, next_attempt_at, leased_until)
    WHERE state = 'pending';
CREATE INDEX webhook_deliveries_finished ON keyward.webhook_deliveries (finished_at) WHERE state <> 'pending';
CREATE INDEX webhook_deliveries_by_lineage ON keyward.webhook_deliveries (lineage, created_at);

INSERT INTO keyward.counter (revision, commit_id, previous_id)
    VALUES (0, '00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000');
INSERT INTO keyward.webhook_cursor (revision, ordinal) VALUES (0, 4294967295);
