#!/usr/bin/env bash
# In the guest: runs the kernel ring in the cgroup subtree that systemd delegated to this job.
#
# $1 is where the ring's program expects pinfold, the place it was built in.
set -euo pipefail

mkdir -p "$(dirname "$1")" /tmp/ring
cp /mnt/host/pinfold /mnt/host/kernel /tmp/ring/
ln -sf /tmp/ring/pinfold "$1"

# A cgroup with processes cannot give its children limits: the ring goes one level down, and the tests beside it.
job=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)
mkdir "$job/ring" "$job/machines"
echo $$ >"$job/ring/cgroup.procs"
echo '+memory +pids +cpu +io' >"$job/cgroup.subtree_control"
echo '+memory +pids +cpu +io' >"$job/machines/cgroup.subtree_control"

export PINFOLD_TEST_HOST=kernel PINFOLD_TEST_CGROUP=$job/machines PINFOLD_TEST_SLOWNESS=8
/tmp/ring/kernel --test-threads 2 "${@:2}"
left=$(find "$job/machines" -mindepth 1 -type d)
[[ -z $left ]] || {
    echo "left behind: $left" >&2
    exit 1
}
