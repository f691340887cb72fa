#!/usr/bin/env bash
# Process 1 of a lab host, in namespaces of its own. Arguments: name, its folder, the folder that all hosts share (or an
# empty string), folders to see read-only at the same path.
set -euo pipefail
name=$1 folder=$2 shared=$3
shift 3
mount --make-rprivate /
hostname "$name"
# The host's own /tmp and /root hide the machine's: what lies below them and is needed is bound into them first.
for path in "$@"; do
  case $path in
    /tmp/* | /root/*) mkdir -p "$folder$path" && mount --bind -o ro "$path" "$folder$path" && mount -o remount,bind,ro "$folder$path" ;;
  esac
done
mount -t tmpfs -o mode=755 srv "$folder/srv"
if [ -n "$shared" ]; then
  mkdir "$folder/srv/ie"
  mount --bind "$shared" "$folder/srv/ie"
fi
mount --bind "$folder/etc/hosts" /etc/hosts
# No name server: unknown names fail at once. The machine's own cannot be reached from here, and each look-up would wait 5 s.
if [ -e /etc/resolv.conf ] && [ -e "$folder/etc/resolv.conf" ]; then
  mount --bind "$folder/etc/resolv.conf" /etc/resolv.conf
fi
cp "$folder/etc/sshd_config" "$folder/etc/host_key" "$folder/srv/"
mount --rbind "$folder/srv" /srv
mount -t tmpfs -o size=512m,mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mkdir /run/sshd /run/host
# Outside /srv, which a test may take away.
cp /srv/sshd_config /srv/host_key /run/host/
chmod 600 /run/host/host_key
rm /srv/sshd_config /srv/host_key
mount --rbind "$folder/root" /root
mount --rbind "$folder/tmp" /tmp
ulimit -n "$(ulimit -Hn)"
/usr/sbin/sshd -D -e -f /run/host/sshd_config &
echo READY
while :; do
  wait -n 2>/dev/null || true
  sleep 1
done
