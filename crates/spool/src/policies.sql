-- What is known about the MTA-STS policy of a domain.
CREATE TABLE policies (
    domain TEXT PRIMARY KEY,
    fetched_at INTEGER,                   -- the last successful fetch; null: none yet
    expires_at INTEGER,
    policy_id TEXT,                       -- the id the policy was fetched for
    mode TEXT,
    body BLOB,
    last_used_at INTEGER,                 -- for mail
    failed_id TEXT,                       -- the id whose fetch failed
    failed_at INTEGER,
    failed_count INTEGER NOT NULL,
    first_fetch_failures INTEGER NOT NULL,
    dns_failing_since INTEGER,
    none_seen_at INTEGER,                 -- the last conclusive "no record"
    recent_fetches TEXT NOT NULL,         -- the keeper's own form
    alarm TEXT,
    first_used_at INTEGER,                -- for mail
    known_since INTEGER                   -- since when there was a policy without a break
) STRICT;

-- Hosts that completed STARTTLS with us.
CREATE TABLE hosts (
    host TEXT PRIMARY KEY,
    starttls_seen_at INTEGER NOT NULL,
    note TEXT NOT NULL                    -- the connector's own form
) STRICT, WITHOUT ROWID;

-- Registrable domains that took mail lately.
CREATE TABLE proven (
    domain TEXT PRIMARY KEY,              -- a registrable domain
    took_mail_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
