-- Where a store's content came from: another store, or a backup.

-- The store of which this is a copy that is not finished.
CREATE TABLE keyward.copying (
    one    boolean PRIMARY KEY DEFAULT true CHECK (one),
    source uuid    NOT NULL
);

-- Restored backups that an operator has taken for right. A gateway that does not know the newest takes the
-- store as it is, once.
CREATE TABLE keyward.acceptances (
    id       uuid   PRIMARY KEY,
    revision bigint NOT NULL,
    at       bigint NOT NULL,
    actor    text   NOT NULL
);
