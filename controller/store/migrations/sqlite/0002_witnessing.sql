-- What nodes say of their own ledgers, what they hold as witnesses of others,
-- and whom they caught. Alarms stay: evidence does not age.
CREATE TABLE ledger_reports (
    node        TEXT PRIMARY KEY,
    received_ms INTEGER NOT NULL,
    document    TEXT NOT NULL
) STRICT;

CREATE TABLE ledger_held (
    witness TEXT NOT NULL,
    node    TEXT NOT NULL,
    size    INTEGER NOT NULL,
    note    TEXT NOT NULL,
    time_s  INTEGER NOT NULL,
    PRIMARY KEY (node, witness)
) STRICT, WITHOUT ROWID;
CREATE INDEX ledger_held_by_witness ON ledger_held (witness);

CREATE TABLE ledger_alarms (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    witness     TEXT NOT NULL,
    node        TEXT NOT NULL,
    finding     TEXT NOT NULL,
    held        TEXT NOT NULL,
    shown       TEXT NOT NULL,
    time_s      INTEGER NOT NULL,
    received_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX ledger_alarms_by_witness ON ledger_alarms (witness, node);
