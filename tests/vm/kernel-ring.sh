#!/usr/bin/env bash
# In the guest: runs the kernel ring, and tells what it passed over.
#
#   kernel-ring.sh cgroupfs FILTER...   in the cgroup subtree that systemd delegated to this job
#   kernel-ring.sh systemd FILTER...    on the service manager of whoever runs this
set -euo pipefail
# shellcheck source=tests/vm/ring.sh
source "$(dirname "$0")/ring.sh"

here=$(mktemp -d)
cp /mnt/host/pinfold /mnt/host/kernel "$here/"
chmod 755 "$here"
export PINFOLD_TEST_HOST=kernel PINFOLD_TEST_BINARY=$here/pinfold PINFOLD_TEST_PASSED_OVER=$here/passed-over
touch "$PINFOLD_TEST_PASSED_OVER"

in_a_subtree() { # FILTER...
    local job left
    # A cgroup with processes cannot give its children limits: the ring goes one level down, and the tests beside it.
    job=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)
    mkdir "$job/ring" "$job/machines"
    echo $$ >"$job/ring/cgroup.procs"
    echo '+memory +pids +cpu +io' >"$job/cgroup.subtree_control"
    echo '+memory +pids +cpu +io' >"$job/machines/cgroup.subtree_control"
    PINFOLD_TEST_CGROUP=$job/machines PINFOLD_TEST_SLOWNESS=8 ring "$here/kernel" --test-threads 2 "$@"
    left=$(find "$job/machines" -mindepth 1 -type d)
    [[ -z $left ]] || {
        echo "left behind: $left" >&2
        exit 1
    }
}

# All tests share one manager, so they run one at a time.
on_the_manager() { # FILTER...
    PINFOLD_TEST_BACKEND=systemd PINFOLD_TEST_SLOWNESS=5 ring "$here/kernel" --test-threads 1 "$@"
}

case $1 in
    cgroupfs) in_a_subtree "${@:2}" ;;
    systemd) on_the_manager "${@:2}" ;;
esac
echo "passed over: $(wc -l <"$PINFOLD_TEST_PASSED_OVER")"
cut -d: -f3- "$PINFOLD_TEST_PASSED_OVER" | sort | uniq -c
