-- From format 1 to format 2: what MAIL and RCPT ask for is kept with the message.
ALTER TABLE messages ADD COLUMN ret INTEGER;
ALTER TABLE messages ADD COLUMN envelope_id TEXT;
ALTER TABLE messages ADD COLUMN smtp_utf8 INTEGER NOT NULL DEFAULT 0;
ALTER TABLE messages ADD COLUMN require_tls INTEGER NOT NULL DEFAULT 0;
ALTER TABLE messages ADD COLUMN deliver_by INTEGER;
ALTER TABLE messages ADD COLUMN deliver_by_mode TEXT;
ALTER TABLE messages ADD COLUMN not_before INTEGER;
ALTER TABLE messages ADD COLUMN user TEXT;

ALTER TABLE recipients ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
ALTER TABLE recipients ADD COLUMN notify INTEGER;
ALTER TABLE recipients ADD COLUMN original TEXT;
ALTER TABLE recipients ADD COLUMN waits_since INTEGER NOT NULL DEFAULT 9223372036854775807;
ALTER TABLE recipients ADD COLUMN deadline INTEGER;

-- Format 1 knew no notices of delay, so nobody has had one.
UPDATE recipients SET waits_since = coalesce(
    (SELECT arrived_at FROM messages WHERE seq = recipients.id >> 16 AND sender <> ''), waits_since);

DROP INDEX recipients_due;
CREATE INDEX recipients_due
    ON recipients (lane, state, priority, due_at, expires_at, waits_since);
CREATE INDEX recipients_deadline ON recipients (deadline) WHERE deadline IS NOT NULL;
