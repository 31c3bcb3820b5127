# What .ci/run and .ci/long share. Sourced, not run.

export CARGO_TERM_COLOR=never
# What a clean build would never use, and a third of its disk space.
export CARGO_INCREMENTAL=0
export DEBIAN_FRONTEND=noninteractive

# Debian's packages that tests start by hand; nothing of them is started as a service.
packages=(
    postfix nginx-light knot knot-dnsutils strace e2fsprogs systemd faketime g++
    # Clients of the accepting side, with what they need for TLS and AUTH.
    curl msmtp swaks bsd-mailx libnet-ssleay-perl libauthen-sasl-perl libsasl2-modules php-cli libjakarta-mail-java
    # A server of that kind, and what the unpacked ones below need.
    python3-aiosmtpd python3-dkim python3-cryptography libgnutls-dane0 libevent-2.1-7 libidn12 libnsl2 libgdbm6
)

# Servers that cannot be installed beside Postfix, and a library from npm: unpacked, not installed.
unpacked=/opt/staunch-interop
nodemailer=6.9.16

install_packages() {
    local missing=() package
    add_runtimes
    for package in "${packages[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
        step "Packages: ${missing[*]}" install_missing "${missing[@]}"
    fi
    unpack_servers
    # Each Postfix of a test has its own configuration, but the programs want a default one, too.
    if [ ! -e /etc/postfix/main.cf ]; then
        printf 'compatibility_level = 3.6\n' > /etc/postfix/main.cf
    fi
}

# A JDK, since Jakarta Mail is given a source file, and Node, from wherever they come.
add_runtimes() {
    java --list-modules 2>/dev/null | grep -q '^jdk.compiler' || packages+=(default-jdk-headless)
    command -v npm >/dev/null || packages+=(nodejs npm)
}

# With the users and folders that their packages would make.
unpack_servers() {
    local user program
    for user in Debian-exim opensmtpd opensmtpq; do
        id "$user" >/dev/null 2>&1 || useradd --system --user-group --no-create-home \
            --home-dir /var/lib/opensmtpd/empty --shell /usr/sbin/nologin "$user"
    done
    install -d -m 755 "$unpacked" /var/lib/opensmtpd /var/lib/opensmtpd/empty
    install -d -m 711 /var/spool/smtpd
    unpack exim4-daemon-light exim
    unpack opensmtpd opensmtpd
    # Programs that write to root: they are not to run on this machine.
    for program in cron monit nullmailer dma; do unpack "$program" "$program"; done
    [ -e /usr/libexec/opensmtpd ] || ln -s "$unpacked/opensmtpd/usr/libexec/opensmtpd" /usr/libexec/opensmtpd
    unpack_courier
    [ -d "$unpacked/node_modules/nodemailer" ] ||
        npm install --silent --no-fund --no-audit --prefix "$unpacked" "nodemailer@$nodemailer"
}

# Its paths are built in. It takes mail for courier.test without a look at users, filters or authdaemon.
unpack_courier() {
    local package
    id courier >/dev/null 2>&1 || useradd --system --user-group --no-create-home \
        --home-dir /var/lib/courier --shell /usr/sbin/nologin courier
    for package in courier-mta courier-authlib libcourier-unicode4; do
        unpack "$package" "$package"
        [ "$package" = courier-mta ] || cp -rn "$unpacked/$package/." "$unpacked/courier-mta/"
    done
    ln -sfn "$unpacked/courier-mta" "$unpacked/courier"
    if [ -e /etc/courier/me ]; then return; fi
    ln -sfn "$unpacked/courier/usr/lib/courier" /usr/lib/courier
    install -d -o courier -g courier /etc/courier /var/lib/courier /var/lib/courier/{msgq,msgs,tmp,track}
    echo courier.test > /etc/courier/esmtpacceptmailfor
    install -o courier -g courier -m 4755 "$unpacked/courier/usr/lib/courier/courier/submitmkdir" \
        "$unpacked/courier/submitmkdir"
    mv "$unpacked/courier/submitmkdir" "$unpacked/courier/usr/lib/courier/courier/submitmkdir"
    echo mx.courier.test > /etc/courier/me
}

# unpack PACKAGE FOLDER: the files of a package that is not installed.
unpack() {
    local download
    if [ -d "$unpacked/$2" ]; then return; fi
    download=$(mktemp -d)
    apt-get -qq update
    (cd "$download" && apt-get -qq download "$1" 2>/dev/null && dpkg -x "$1"_*.deb contents)
    mv "$download/contents" "$unpacked/$2"
    rm -r "$download"
}

# Without the policy, installing a server starts it. It goes again: the machine's own packages want to start theirs.
install_missing() {
    local policy=/usr/sbin/policy-rc.d is_ours=no
    if [ ! -e "$policy" ]; then
        is_ours=yes
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod 755 "$policy"
    fi
    apt-get -qq update
    apt-get -qq -y --no-install-recommends install "$@" >/dev/null
    if [ "$is_ours" = yes ]; then rm "$policy"; fi
}

# systemd-analyze only warns about unknown keys: whatever it prints about our unit is a failure.
check_unit_file() {
    local unit said
    command -v systemd-analyze >/dev/null || { echo 'systemd-analyze is not here: skipped'; return; }
    for unit in deploy/*.service deploy/*/*.service; do
        [ -e "$unit" ] || continue
        said=$(systemd-analyze verify "$unit" 2>&1 | grep -v 'is not executable' || true)
        if [ -n "$said" ]; then echo "$said"; return 1; fi
    done
}

passed=0

# step HEADING COMMAND…: says what comes, runs it, says how long it took. The first failure ends the script.
step() {
    local heading=$1 start=$SECONDS
    shift
    printf '\n== %s\n' "$heading"
    "$@"
    passed=$((passed + 1))
    printf -- '-- %s: %d s\n' "$heading" $((SECONDS - start))
}

# Builds and full disks do not go together: the linker just crashes.
say_room() { df -h --output=avail,target . | awk 'NR == 2 { print "Free: " $1 " on " $2 }'; }

# A failed step never gets here.
summary() {
    say_room
    printf '\nAll steps in %d s\nsteps: %d passed, 0 failed\n' "$SECONDS" "$passed"
}
