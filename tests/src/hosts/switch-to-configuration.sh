#!/bin/sh
# Mini-NixOS activation: what a NixOS switch-to-configuration does, as far as the
# tests can tell the difference. Exit codes: 0 done, 1 usage or boot loader,
# 2 activation script, 4 a unit failed, 11 locked, 100 needs a reboot.
set -u
PATH=/usr/sbin:/usr/bin:/sbin:/bin
top=$(dirname "$(dirname "$(readlink -f "$0")")")
action=${1:-}
case $action in test | switch | boot | dry-activate) ;; *) echo "usage: $0 test|switch|boot|dry-activate" >&2; exit 1 ;; esac

mkdir -p /run/nixos
exec 9>/run/nixos/switch-to-configuration.lock
flock -n 9 || { echo "could not acquire the switch lock" >&2; exit 11; }

# The boot default moves before anything is activated, as on NixOS: this is why
# SafeSwitch activates with `test`.
if [ "$action" = switch ] || [ "$action" = boot ]; then
    ln -sfn "$top" /boot/default.new && mv -T /boot/default.new /boot/default || exit 1
    sync
    [ "$action" = boot ] && exit 0
fi

old=$(readlink /run/current-system || true)
if [ -n "$old" ] && ! cmp -s "$old/init-interface-version" "$top/init-interface-version"; then
    echo "the new system needs a reboot" >&2
    exit 100
fi

stop=; start=
for file in "$old"/units/*; do
    unit=${file##*/}
    [ -e "$file" ] || continue
    cmp -s "$file" "$top/units/$unit" || stop="$stop $unit"
done
for file in "$top"/units/*; do
    unit=${file##*/}
    [ -e "$file" ] || continue
    cmp -s "$file" "/run/systemd/system/$unit" && systemctl -q is-active "$unit" || start="$start $unit"
done
if [ "$action" = dry-activate ]; then
    echo "would stop:$stop; would start:$start" >&2
    exit 0
fi

result=0
for unit in $stop; do systemctl stop "$unit" 9>&- || true; done
for unit in $stop; do rm -f "/run/systemd/system/$unit"; done
[ -x "$top/activate" ] && { "$top/activate" 9>&- || result=2; }
mkdir -p /run/systemd/system
for file in "$top"/units/*; do
    [ -e "$file" ] && cp "$file" "/run/systemd/system/${file##*/}"
done
ln -sfn "$top" /run/current-system.new && mv -T /run/current-system.new /run/current-system
systemctl reset-failed 9>&-
systemctl daemon-reload 9>&-
for unit in $start; do systemctl start "$unit" 9>&- || result=4; done
for file in "$top"/units/*; do
    [ -e "$file" ] && systemctl -q is-failed "${file##*/}" && result=4
done
exit $result
