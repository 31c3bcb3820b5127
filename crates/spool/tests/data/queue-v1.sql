-- What the first release wrote; never to be changed.
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
    body_sha256_simple BLOB NOT NULL,
    body_sha256_relaxed BLOB NOT NULL
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
    last_text TEXT
) STRICT;
CREATE INDEX recipients_due ON recipients (lane, state, due_at, expires_at);

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
    last_text TEXT
) STRICT;

INSERT INTO lanes (id, key, failures) VALUES (1, 'to.example', 0);
INSERT INTO messages VALUES (1, x'01890000000000010000000000000001', 'sender@from.example', '192.0.2.1',
    1800000000000, 0, 20, 13, 0, 13, 1, 0, zeroblob(32), zeroblob(32));
INSERT INTO bodies VALUES (1, x'5375626a6563743a206b6570740d0a0d0a780d0a');
INSERT INTO recipients VALUES (65536, 1, 0, 1800000000000, 1800432000000, 1, 'b@to.example',
    1800000002000, '4.4.1', 'connect_failed', 'mx.example', 'connection refused');
INSERT INTO recipients VALUES (65537, 1, 1, 1800000000000, 1800432000000, 0, 'c@to.example',
    NULL, NULL, NULL, NULL, NULL);
PRAGMA application_id = 1400139377;
PRAGMA user_version = 1;
