#!/usr/bin/env bash
# The URL of a policy host that exists in DNS cannot be parsed by Rust's `url` crate, and so by no client that is built on it
# (reqwest among them), when another label of the name begins with a digit or an underscore and one reads from right to left.
#
# RFC 8461 §3.3 makes the name by putting `mta-sts.` in front of the domain, so nobody has to be able to write it as
# an internationalized name: `mta-sts.1mail.xn--4dbrk0ce.test` is plain letters, digits and hyphens, DNS answers it, and
# certificates name it. The crate applies IDNA's bidi rule (RFC 5893) to the whole name all the same, by which each label
# beside a right-to-left one must not begin with a digit.
#
# Guess: what is plain ASCII and LDH is taken by all of them, or refused by all of them.
# Seen 2026-11-29, one line a name:
#   url 2.5.8 (Rust, idna 1.1.0)   refuses the second and the third
#   whatwg-url 14.2.0 (npm)        refuses the same two: the URL standard asks for it
#   ada-url 4.0.0 (PyPI)           takes all three: Ada is the URL parser of Node.js
#   idna 3.10 (PyPI)               takes the second, refuses the third for its underscore
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
names=(mta-sts.xn--4dbrk0ce.test mta-sts.1mail.xn--4dbrk0ce.test _mta-sts.xn--4dbrk0ce.test)

mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "names"
version = "0.0.0"
edition = "2021"
[dependencies]
url = "=2.5.8"
idna = "=1.1.0"
TOML
cat > src/main.rs <<'RUST'
fn main() {
    for name in std::env::args().skip(1) {
        let parsed = url::Url::parse(&format!("https://{name}/.well-known/mta-sts.txt"));
        println!("{}", if parsed.is_ok() { "takes" } else { "refuses" });
    }
}
RUST
by_url=$(cargo run -q -- "${names[@]}" | tr '\n' ' ')

npm install --silent --no-fund --no-audit whatwg-url@14.2.0 > /dev/null
by_whatwg=$(node -e '
const { URL } = require("whatwg-url");
for (const name of process.argv.slice(1)) {
  let said = "takes";
  try { new URL("https://" + name + "/.well-known/mta-sts.txt"); } catch { said = "refuses"; }
  console.log(said);
}' "${names[@]}" | tr '\n' ' ')

python3 -m venv venv
venv/bin/pip -q install idna==3.10 ada-url==4.0.0 2> /dev/null
by_ada=$(venv/bin/python - "${names[@]}" <<'PY' | tr '\n' ' '
import sys, ada_url
for name in sys.argv[1:]:
    takes = ada_url.check_url("https://" + name + "/.well-known/mta-sts.txt")
    print("takes" if takes else "refuses")
PY
)
by_idna=$(venv/bin/python - "${names[@]}" <<'PY' | tr '\n' ' '
import sys, idna
for name in sys.argv[1:]:
    try:
        idna.encode(name)
        print("takes")
    except idna.IDNAError:
        print("refuses")
PY
)

printf 'url:        %s\nwhatwg-url: %s\nada-url:    %s\nidna:       %s\n' "$by_url" "$by_whatwg" "$by_ada" "$by_idna"
[ "$by_url" = 'takes refuses refuses ' ]
[ "$by_whatwg" = 'takes refuses refuses ' ]
[ "$by_ada" = 'takes takes takes ' ]
[ "$by_idna" = 'takes takes refuses ' ]
