#!/bin/sh
# machine.sh DIR STAUNCH COMMAND...: runs a command on a machine that has DIR/etc above its own /etc, and staunch as its
# /usr/sbin/sendmail. Only this process and its children see that (unshare -m).
set -e
dir=$1 staunch=$2
shift 2
cover() {
    mkdir "$work$2" "$work$2.work"
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$work$2,workdir=$work$2.work" "$1"
}
work=/mnt
mount -t tmpfs tmpfs "$work"
cover /etc /etc
cover /usr/sbin /sbin
# Jobs of the real machine are not for this one.
rm -rf /etc/cron.d /etc/crontab
mount -t tmpfs tmpfs /var/spool
mkdir -p /var/spool/cron/crontabs
mount -t tmpfs tmpfs /run
cp -R "$dir/etc/." /etc
ln -sf "$staunch" /usr/sbin/sendmail
exec "$@"
