-- One row a message that still has recipients.
CREATE TABLE messages (
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,              -- 16 octets, big-endian
    sender TEXT NOT NULL,                 -- empty: the null reverse-path
    client TEXT NOT NULL,
    arrived_at INTEGER NOT NULL,          -- all times: milliseconds since 1970
    place INTEGER NOT NULL,               -- 0: in bodies; 1: the file bodies/xx/ID
    size INTEGER NOT NULL,
    header_len INTEGER NOT NULL,
    has_8bit INTEGER NOT NULL,
    longest_line INTEGER NOT NULL,
    ends_with_newline INTEGER NOT NULL,
    received_count INTEGER NOT NULL,
    body_sha256_simple BLOB NOT NULL,     -- of releases before format 4, as the next; now empty
    body_sha256_relaxed BLOB NOT NULL,
    ret INTEGER,                          -- RET; 0: FULL; 1: HDRS
    envelope_id TEXT,                     -- ENVID, as xtext
    smtp_utf8 INTEGER NOT NULL DEFAULT 0,
    require_tls INTEGER NOT NULL DEFAULT 0,
    deliver_by INTEGER,                   -- BY, as a time
    deliver_by_mode TEXT,                 -- BY's mode and trace: R, RT, N, NT
    not_before INTEGER,                   -- HOLDFOR, HOLDUNTIL
    user TEXT,                            -- who authenticated
    body_crc INTEGER,                     -- CRC-32C of the body; as crc, null: of a release before format 4
    crc INTEGER                           -- CRC-32C of the values that never change
) STRICT;

-- Apart from the messages, so that a scan of those does not read these.
CREATE TABLE bodies (
    seq INTEGER PRIMARY KEY,              -- messages.seq
    body BLOB NOT NULL
) STRICT;

-- One row a recipient that is not done. The key holds the message, so no index for that is needed.
CREATE TABLE recipients (
    id INTEGER PRIMARY KEY,               -- messages.seq * 65536 + number
    lane INTEGER NOT NULL,                -- lanes.id
    state INTEGER NOT NULL,               -- 0: queued; 1: held
    due_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    mailbox TEXT NOT NULL,
    last_at INTEGER,                      -- the last problem; null: none yet
    last_status TEXT,
    last_reason TEXT,
    last_mx TEXT,
    last_text TEXT,
    priority INTEGER NOT NULL DEFAULT 0,  -- MT-PRIORITY of its message
    notify INTEGER,                       -- NOTIFY; 0: NEVER; else 1: SUCCESS, 2: FAILURE, 4: DELAY
    original TEXT,                        -- ORCPT, as it was written
    -- The greatest number: the sender knows that it waits, or shall not be told.
    waits_since INTEGER NOT NULL DEFAULT 9223372036854775807,
    deadline INTEGER,                     -- of BY; null: none, or it was dealt with
    crc INTEGER                           -- CRC-32C of the values that never change; null: as in messages
) STRICT;
CREATE INDEX recipients_due
    ON recipients (lane, state, priority, due_at, expires_at, waits_since);
CREATE INDEX recipients_deadline ON recipients (deadline) WHERE deadline IS NOT NULL;

-- One row a next hop that recipients wait for, or that failed.
CREATE TABLE lanes (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    failures INTEGER NOT NULL,            -- 0: healthy, and what follows is null
    next_probe_at INTEGER,
    first_failed_at INTEGER,
    last_at INTEGER,
    last_status TEXT,
    last_reason TEXT,
    last_mx TEXT,
    last_text TEXT,
    crc INTEGER                           -- CRC-32C of id and key; null: as in messages
) STRICT;

-- Domains with a stored `enforce` policy: if policies.db is lost, their mail waits, and nobody else's.
CREATE TABLE enforced (
    domain TEXT PRIMARY KEY,
    fetched_at INTEGER NOT NULL,          -- of that policy
    expires_at INTEGER NOT NULL,
    crc INTEGER                           -- CRC-32C of the row; null: as in messages
) STRICT, WITHOUT ROWID;

-- Single values that mail hangs on: what the operator stopped, and the clock's mark.
CREATE TABLE marks (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    crc INTEGER                           -- CRC-32C of the row; null: as in messages
) STRICT, WITHOUT ROWID;
