#!/usr/bin/env bash
# The checksum of a frame in SQLite's write-ahead log ("Database File Format", 4.2) is a pair of sums, s0 += x + s1 and
# s1 += y + s0 over 32-bit words, so a word counts by Fibonacci numbers modulo 2^32, and a bit of it by their last bits alone: the
# highest bit of a word only by whether a Fibonacci number is odd. So a changed bit cannot be told by trying which bit makes the sum fit:
# a page's number that lost a bit looks like a page that lost one, in a third of all words.
#
# Guess: 64 bits of checksum over 4,104 octets tell any two single changed bits apart.
# Seen 2026-11-30, apsw 3.53.1.0 (SQLite 3.53.1), the first frame of a log as SQLite wrote it, page size 4096: so many of the page's
# 32,768 bits change the checksum exactly as a bit of the last octet of the page's number does, from its highest bit down:
#   341, 169, 84, 42, 21, 10, 5, 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet 'apsw==3.53.1.0'
cat > "$folder/look.py" <<'PY'
import struct, sys
import apsw

path = sys.argv[1] + "/a.db"
db = apsw.Connection(path)
db.execute("PRAGMA page_size = 4096")
db.execute("PRAGMA journal_mode = WAL")
db.execute("CREATE TABLE t (a)")
db.execute("INSERT INTO t VALUES ('a')")
log = open(path + "-wal", "rb").read()
little = struct.unpack(">I", log[:4])[0] == 0x377F0682
form = "<%dI" if little else ">%dI"

def sums(octets, seed):
    one, two = seed
    words = struct.unpack(form % (len(octets) // 4), octets)
    for x, y in zip(words[::2], words[1::2]):
        one = (one + x + two) & 0xFFFFFFFF
        two = (two + y + one) & 0xFFFFFFFF
    return one, two

seed = struct.unpack(">2I", log[24:32])
head, page = log[32:56], log[56 : 56 + 4096]
summed = bytearray(head[:8] + page)
assert sums(bytes(summed), seed) == struct.unpack(">2I", head[16:24]), "that is how SQLite sums"

def with_bit(place, bit):
    summed[place] ^= 1 << bit
    result = sums(bytes(summed), seed)
    summed[place] ^= 1 << bit
    return result

wanted = {bit: with_bit(3, bit) for bit in range(7, -1, -1)}
alike = dict.fromkeys(wanted, 0)
for place in range(8, 8 + 4096):
    for bit in range(8):
        result = with_bit(place, bit)
        for which, want in wanted.items():
            alike[which] += result == want
print("SQLite", apsw.sqlite_lib_version(), alike)
PY
found=$("$folder/venv/bin/python" "$folder/look.py" "$folder")
echo "$found"
[[ $found == *'{7: 341, 6: 169, 5: 84, 4: 42, 3: 21, 2: 10, 1: 5, 0: 0}' ]]
