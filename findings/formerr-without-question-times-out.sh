#!/usr/bin/env bash
# A name server that does not know EDNS may answer FORMERR with the twelve octets of the header alone (RFC 6891 §7 asks for no
# more, and RFC 1035 §4.1.1 lets QDCOUNT be 0). hickory-resolver does not take that for an answer: the query times out, so
# whoever wants to ask again without EDNS on FORMERR never hears of it, and waits for the whole time-out instead.
#
# Guess: FORMERR is FORMERR, with or without the question.
# Seen 2026-11-29, a server that answers FORMERR to everything, time-out 2 s, one further try:
#   hickory-resolver 0.26.3   question repeated: "error response: Form Error" at once
#                             header alone:      "request timed out" after 4 s
#   dnspython 2.7.0           FORMERR at once, both times
set -euo pipefail
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2> /dev/null; rm -rf "$folder"' EXIT
cd "$folder"

cat > server.py <<'PY'
import socket, sys
repeats_question = sys.argv[1] == "question"
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 0))
print(udp.getsockname()[1], flush=True)
while True:
    query, client = udp.recvfrom(4096)
    question = query[12 : query.index(b"\0", 12) + 5] if repeats_question else b""
    counts = bytes([0, 1 if question else 0]) + bytes(6)
    udp.sendto(query[:2] + b"\x81\x81" + counts + question, client)
PY

mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "asks"
version = "0.0.0"
edition = "2021"
[dependencies]
hickory-resolver = { version = "=0.26.3", default-features = false, features = ["tokio"] }
tokio = { version = "=1.54.1", features = ["rt-multi-thread", "macros"] }
TOML
cat > src/main.rs <<'RUST'
use std::time::Duration;

use hickory_resolver::Resolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;

#[tokio::main]
async fn main() {
    let mut udp = ConnectionConfig::udp();
    udp.port = std::env::args().nth(1).unwrap().parse().unwrap();
    let server = NameServerConfig::new("127.0.0.1".parse().unwrap(), true, vec![udp]);
    let config = ResolverConfig::from_parts(None, vec![], vec![server]);
    let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    (options.timeout, options.attempts, options.edns0) = (Duration::from_secs(2), 1, true);
    let answer = builder.build().unwrap().mx_lookup("example.com.").await;
    println!("{}", answer.err().map(|error| error.to_string()).unwrap_or_default());
}
RUST
cargo build -q
python3 -m venv venv
venv/bin/pip -q install dnspython==2.7.0 2> /dev/null

for form in question header; do
    python3 server.py "$form" > port & server=$!
    until [ -s port ]; do sleep 0.1; done
    by_hickory=$(target/debug/asks "$(cat port)")
    by_dnspython=$(venv/bin/python - "$(cat port)" <<'PY'
import sys, dns.resolver
asks = dns.resolver.Resolver(configure=False)
asks.nameservers, asks.port, asks.timeout, asks.lifetime = ["127.0.0.1"], int(sys.argv[1]), 2, 4
asks.use_edns(0, 0, 1232)
try:
    asks.resolve("example.com", "MX")
except dns.exception.DNSException as error:
    print("FORMERR" if "FORMERR" in str(error) else type(error).__name__)
PY
    )
    kill "$server"; wait "$server" 2> /dev/null || true; server=; : > port
    printf '%-8s  hickory: %s; dnspython: %s\n' "$form" "$by_hickory" "$by_dnspython"
    case $form in
        question) [[ $by_hickory == *'Form Error'* ]] ;;
        header) [[ $by_hickory == *'timed out'* ]] ;;
    esac
    [ "$by_dnspython" = FORMERR ]
done
