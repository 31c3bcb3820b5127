#!/usr/bin/env bash
# Two libraries prepare the same password (OpaqueString, RFC 8265 §4.2): precis-profiles in Rust asks tables of Unicode 6.3, the last version
# in IANA's registry, about the characters as they came; precis_i18n in Python asks the Unicode of its interpreter, and composes first. RFC
# 8264 §5.1 and §7 have the tables follow Unicode, and §4.1.1 asks about the string before it is composed.
#
# Guess: they agree on all that is assigned, since a password may be any letter or symbol.
# Seen 2026-11-30, precis-profiles 0.2.0 and precis_i18n 1.1.2:
#   an emoji of Unicode 6 is a password for both; one of Unicode 8 (2015, U+1F917) and a Georgian capital of Unicode 11 only for Python;
#   a Hangul syllable is one for both, the same syllable in three parts, as macOS makes file names, only for Python, and then it is the whole one;
#   U+0387, which composes to U+00B7, is one only for Rust.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat > "$folder/Cargo.toml" <<'TOML'
[package]
name = "look"
version = "0.0.0"
edition = "2021"
[dependencies]
precis-profiles = "=0.2.0"
[workspace]
TOML
cat > "$folder/src/main.rs" <<'RS'
use precis_profiles::precis_core::profile::PrecisFastInvocation;
use precis_profiles::OpaqueString;
fn main() {
    for text in std::env::args().skip(1) {
        let prepared = OpaqueString::enforce(text.as_str());
        let shown = prepared.map_or("refused".into(), |text| text.escape_unicode().to_string());
        println!("{shown}");
    }
}
RS
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet 'precis_i18n==1.1.2'
cat > "$folder/look.py" <<'PY'
import subprocess, sys
from precis_i18n import get_profile

passwords = ["\U0001f600", "\U0001f917", "\u1c90", "\ud55c", "\u1112\u1161\u11ab", "\u0387"]
rust = subprocess.run([sys.argv[1], *passwords], capture_output=True, text=True, check=True).stdout.split()
profile = get_profile("OpaqueString")

def prepared(text):
    try:
        return "".join("\\u{%x}" % ord(c) for c in profile.enforce(text))
    except UnicodeEncodeError:
        return "refused"

for text, one in zip(passwords, rust):
    print(ascii(text), "Rust:", one, "Python:", prepared(text))
want = [
    ("\\u{1f600}", "\\u{1f600}"),
    ("refused", "\\u{1f917}"),
    ("refused", "\\u{1c90}"),
    ("\\u{d55c}", "\\u{d55c}"),
    ("refused", "\\u{d55c}"),
    ("\\u{b7}", "refused"),
]
assert [(one, prepared(text)) for text, one in zip(passwords, rust)] == want
PY
(cd "$folder" && cargo build --quiet)
"$folder/venv/bin/python" "$folder/look.py" "$folder/target/debug/look"
