-- From format 3 to format 4: checksums of what never changes. Rows that are there have none. Only the schema is written.
ALTER TABLE messages ADD COLUMN body_crc INTEGER;
ALTER TABLE messages ADD COLUMN crc INTEGER;
ALTER TABLE recipients ADD COLUMN crc INTEGER;
ALTER TABLE lanes ADD COLUMN crc INTEGER;
ALTER TABLE enforced ADD COLUMN crc INTEGER;
ALTER TABLE marks ADD COLUMN crc INTEGER;
