#!/usr/bin/env bash
# RFC 5321 §4.1.2 wants dots between atoms: `a..b`, `.a` and `a.` are no local parts without quotes. Mobile carriers gave such mailboxes
# out all the same, and relays ask whether a strict host would refuse the mail. Exim, which refuses an underscore in a domain and a dot
# behind it with 501, and closes the session at the fourth such 501, takes all three kinds of dots with 250.
#
# Guess: 501 for each of them, as for the underscore and the dot behind the domain.
# Seen 2026-11-30, exim4-daemon-light 4.96-15+deb12u11 with -bs and a configuration that accepts every recipient:
#   a..b@ .a@ a.@ "a b"@          250 Accepted
#   @odd_1.example.test           501 malformed address
#   @example.test. @example..test 501 domain missing or malformed
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
cd "$folder"
apt-get -qq download exim4-daemon-light=4.96-15+deb12u11 2> /dev/null
dpkg -x exim4-daemon-light_*.deb exim
id Debian-exim > /dev/null 2>&1 || useradd --system --user-group --no-create-home --shell /usr/sbin/nologin Debian-exim
install -d -m 1777 spool
cat > exim.conf <<EOF
primary_hostname = mx.example.test
spool_directory = $folder/spool
log_file_path = $folder/spool/%slog
keep_environment =
host_lookup =
acl_smtp_rcpt = accept
begin routers
keep:
  driver = accept
  transport = keep
begin transports
keep:
  driver = appendfile
  file = $folder/box
EOF

# say ADDRESS...: the answers to RCPT, each its code.
say() {
    local address
    {
        printf 'EHLO client.test\r\nMAIL FROM:<a@client.test>\r\n'
        for address in "$@"; do printf 'RCPT TO:<%s>\r\n' "$address"; done
        printf 'QUIT\r\n'
    } | exim/usr/sbin/exim4 -C "$folder/exim.conf" -bs | tail -n "$(($# + 1))" | head -n $# | cut -c1-3 | xargs
}

dots=$(say a..b@example.test .a@example.test a.@example.test '"a b"@example.test')
names=$(say b@odd_1.example.test b@example.test. b@example..test)
echo "dots in the local part: $dots; underscore and dots in the domain: $names"
[ "$dots" = '250 250 250 250' ]
[ "$names" = '501 501 501' ]
