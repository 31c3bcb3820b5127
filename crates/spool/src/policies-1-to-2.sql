-- From format 1 to format 2: what tells strangers from those who get mail again. Single values are in queue.db now.
ALTER TABLE policies ADD COLUMN first_used_at INTEGER;
ALTER TABLE policies ADD COLUMN known_since INTEGER;
DROP TABLE marks;
