#!/bin/sh
# The lab's first process: makes /dev/kvm, then runs what arrives on the second serial port.
# A request is one line, `<nonce> <seconds> <base64 of a shell script>`; the answer is the script's output, then a line
# of the record separator (0x1e), the nonce and the exit code.
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm /tmp /run
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
# A checkout below /tmp must stay visible.
case "$(cat /lab/root)" in
  /tmp/*) ;;
  *) mount -t tmpfs tmpfs /tmp ;;
esac
ip link set lo up

for word in $(cat /proc/cmdline); do
  case "$word" in
    lab.npt=*) npt="${word#lab.npt=}" ;;
    lab.disks=*) disks="${word#lab.disks=}" ;;
  esac
done
for module in $(cat /modules/kvm.order); do
  case "$module" in
    kvm-amd.ko) insmod "/modules/$module" "npt=$npt" ;;
    *) insmod "/modules/$module" ;;
  esac
done
# A virtio driver's timing would make instruction counts differ from run to run: only where a disk was asked for.
if [ -n "$disks" ]; then
  for module in $(cat /modules/disk.order); do insmod "/modules/$module"; done
fi

export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root DENO_DIR=/deno_dir NO_COLOR=1 LAB=1
export DENO_NO_UPDATE_CHECK=1 DENO_NO_PROMPT=1 TMPDIR=/tmp
port=/dev/ttyS1
# Held open from here on: the last close of a serial port throws away what has arrived.
exec 3<>$port
stty -F $port -echo -opost -ixon icanon
root="$(cat /lab/root)"

run() {
  (cd "$root" && exec timeout -s KILL "$2" sh "$3") </dev/null >&3 2>&1 3>&-
  printf '\036%s %d\n' "$1" $? >&3
}

if [ -e /lab/autorun ]; then
  run autorun "$(cat /lab/seconds)" /lab/autorun
  # Changing the port's settings waits until all that was written has left.
  stty -F $port -echo
  poweroff -f
fi
printf '\036ready 0\n' >&3
while read -r nonce seconds script; do
  echo "$script" | base64 -d >"/run/$nonce"
  run "$nonce" "$seconds" "/run/$nonce"
  rm "/run/$nonce"
done <&3
