-- How far the fleet log has been applied. One row.
-- snapshot is the state machine at snapshot_index <= applied_index; after a
-- restart the entries between the two are read again and change nothing here.
CREATE TABLE progress (
    id             INTEGER PRIMARY KEY CHECK (id = 1),
    applied_index  INTEGER NOT NULL,
    snapshot_index INTEGER NOT NULL,
    snapshot       BLOB
) STRICT;
INSERT INTO progress (id, applied_index, snapshot_index, snapshot) VALUES (1, 0, 0, NULL);

CREATE TABLE rollouts (
    id             TEXT PRIMARY KEY,
    state          TEXT NOT NULL,
    terminal       INTEGER NOT NULL,
    proposed_index INTEGER NOT NULL,
    updated_index  INTEGER NOT NULL,
    created_ms     INTEGER NOT NULL,
    updated_ms     INTEGER NOT NULL,
    document       TEXT NOT NULL
) STRICT;
CREATE INDEX rollouts_by_age ON rollouts (proposed_index DESC, id DESC);

-- The outbox of the event streams. AUTOINCREMENT: an id is never given twice,
-- not even after the newest rows were pruned.
CREATE TABLE events (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    log_index INTEGER NOT NULL,
    rollout   TEXT,
    at_ms     INTEGER NOT NULL,
    body      TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_rollout ON events (rollout, id);

CREATE TABLE manifests (
    hash      TEXT PRIMARY KEY,
    bytes     BLOB NOT NULL,
    stored_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE nodes (
    id           TEXT PRIMARY KEY,
    last_seen_ms INTEGER NOT NULL,
    report       TEXT NOT NULL
) STRICT;

CREATE TABLE ledger_heads (
    node    TEXT PRIMARY KEY,
    size    INTEGER NOT NULL,
    hash    TEXT NOT NULL,
    seen_ms INTEGER NOT NULL,
    broken  INTEGER NOT NULL
) STRICT;

-- Only hashes: whoever reads the database cannot call the controller.
CREATE TABLE tokens (
    name TEXT PRIMARY KEY,
    hash BLOB NOT NULL
) STRICT;
