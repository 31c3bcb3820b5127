-- From format 2 to format 3: who took mail lately.
CREATE TABLE proven (
    domain TEXT PRIMARY KEY,              -- a registrable domain
    took_mail_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Files that were made in format 2, or came to it early, still have it. queue.db knows better.
DROP TABLE IF EXISTS marks;
