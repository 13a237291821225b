#!/bin/sh
set -e

# $2 is the version that is or was here (its data may still be), $3 the one to be installed.
case "$1" in
    install|upgrade)
        # `python -m duxcommon.goback` has put back what an older version can read (docs/upgrades.md).
        if [ ! -e /var/lib/duxnet/going-back ] && [ -n "$2" ] && [ -n "$3" ] && dpkg --compare-versions "$2" gt "$3"; then
            cat >&2 <<TEXT
$DPKG_MAINTSCRIPT_PACKAGE: version $3 can't replace version $2.
  Why: $2 may have changed this node's databases to a form that $3 can't read.
  Nothing was changed. What to do now: keep $2 (apt install dux-node=$2).
  To go back all the same: /usr/share/doc/dux-common/upgrades.md (section "Going back") says how, and what is lost.
TEXT
            exit 1
        fi
        ;;
esac

# What is installed anew starts when all packages are configured; an upgrade starts what it stopped.
if [ "$1" = install ] && [ -d /run/systemd/system ]; then
    touch /run/duxnet.start
fi

#DEBHELPER#

exit 0
