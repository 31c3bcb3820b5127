# What .ci/run and .ci/long share. Sourced, not run.

export CARGO_TERM_COLOR=never
export DEBIAN_FRONTEND=noninteractive

# Debian's packages that tests start by hand; nothing of them is started as a service.
packages=(postfix nginx-light knot knot-dnsutils strace e2fsprogs systemd faketime g++)

install_packages() {
    local missing=() package
    for package in "${packages[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        # Without this, installing a server starts it.
        if [ ! -e /usr/sbin/policy-rc.d ]; then
            printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
            chmod 755 /usr/sbin/policy-rc.d
        fi
        echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
        step "Packages: ${missing[*]}" install_missing "${missing[@]}"
    fi
    # Each Postfix of a test has its own configuration, but the programs want a default one, too.
    if [ ! -e /etc/postfix/main.cf ]; then
        printf 'compatibility_level = 3.6\n' > /etc/postfix/main.cf
    fi
}

install_missing() {
    apt-get -qq update
    apt-get -qq -y --no-install-recommends install "$@" >/dev/null
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

# A failed step never gets here.
summary() {
    printf '\nAll steps in %d s\nsteps: %d passed, 0 failed\n' "$SECONDS" "$passed"
}
