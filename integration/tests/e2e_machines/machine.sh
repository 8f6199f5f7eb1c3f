# Boots a machine: this system's files under a layer in memory, nothing of its configuration of systemd, its own network.
# Arguments: name, directory (empty), what else must be visible there. Runs in mount, network and PID namespaces of its own,
# and in a control group of its own, so that nothing of it outlives them.
set -eu
name=$1 root=$2 bind=$3
for hierarchy in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
  [ -e "$hierarchy/cgroup.procs" ] || continue
  mkdir -p "$hierarchy/$name"
  echo 0 >"$hierarchy/$name/cgroup.procs"
done
mount -t tmpfs -o mode=755 tmpfs "$root"
mkdir "$root/upper" "$root/work" "$root/merged"
mount -t overlay overlay -o "lowerdir=/,upperdir=$root/upper,workdir=$root/work" "$root/merged"
rm -rf "$root/merged/etc/systemd/system" "$root/merged/etc/weft" "$root/merged/var/lib/weft" "$root/merged/var/lib/weft-proxy"
mkdir -p "$root/merged/etc/systemd/system"
echo "${name##*-}" >"$root/merged/etc/hostname"
# No name server: then the C library asks 127.0.0.1.
rm -f "$root/merged/etc/resolv.conf"
: >"$root/merged/etc/resolv.conf"
systemd-id128 new >"$root/merged/etc/machine-id"
while
  result=0
  systemd-nspawn --quiet --directory="$root/merged" --boot --machine="$name" --register=no --keep-unit --console=pipe --resolv-conf=off \
    --network-namespace-path=/proc/self/ns/net --capability=CAP_NET_ADMIN --bind-ro="$bind" </dev/null || result=$?
  [ "$result" = 133 ] # that is: boot again
do :; done
exit "$result"
