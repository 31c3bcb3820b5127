-- From format 2 to format 3: who took mail lately.
CREATE TABLE proven (
    domain TEXT PRIMARY KEY,              -- a registrable domain
    took_mail_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
