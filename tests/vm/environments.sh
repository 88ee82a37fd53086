#!/usr/bin/env bash
# In the guest: each row of the README's table of environments, as far as a machine with cgroup v2 can be one.
#
# As root it tells all rows; as a user, in a unit that is delegated to that user, the row of that.
set -uo pipefail

pinfold=/tmp/pinfold-$EUID
cp /mnt/host/pinfold "$pinfold"
work=$(mktemp -d)
passed=0 failed=0

ok() {
    echo "ok    $1"
    passed=$((passed + 1))
}

not_ok() {
    echo "FAILED $1"
    sed 's/^/       /' "$work/out"
    failed=$((failed + 1))
}

# refused WHAT TEXT COMMAND…: it fails, and says TEXT.
refused() {
    local what=$1 text=$2
    shift 2
    if ! timeout 20 "$@" >"$work/out" 2>&1 && grep -q "$text" "$work/out"; then ok "$what"; else not_ok "$what"; fi
}

# works WHAT COMMAND…
works() {
    local what=$1
    shift
    if "$@" >"$work/out" 2>&1; then ok "$what"; else not_ok "$what"; fi
}

# One server from launch to end, under a limit that the kernel is asked about, by a daemon of this environment.
cat >"$work/launch" <<'JOB'
set -eu
export PINFOLD_SOCKET=$2/pinfold.sock
$1 serve --backend cgroupfs ${3:+--root "$3"} 2>"$2/log" &
daemon=$!
trap 'kill $daemon 2>/dev/null || :' EXIT
for _ in $(seq 100); do [ -S "$PINFOLD_SOCKET" ] && break; sleep 0.1; done
sleep 1000 | $1 run --session s --server cat --memory-max 64M -- sh -c 'setsid sleep 1000 & exec cat' &
for _ in $(seq 100); do
    leaf=$($1 ls --json | sed -n 's/.*"cgroup": "\(.*cat\.[0-9]*\)".*/\1/p')
    [ -n "$leaf" ] && [ "$(wc -l <"$leaf/cgroup.procs")" = 2 ] && break
    sleep 0.1
done
[ "$(cat "$leaf/memory.max")" = 67108864 ]
[ "$(cat "$leaf/memory.oom.group")" = 1 ]
$1 end s
[ ! -e "$leaf" ]
kill $daemon
wait $daemon || { cat "$2/log"; exit 1; }
JOB

job=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)
mkdir "$job/tests" "$job/tree"
echo $$ >"$job/tests/cgroup.procs"
echo '+memory +pids' >"$job/cgroup.subtree_control"
works "a delegated unit, as uid $EUID: launched, limited and ended" bash "$work/launch" "$pinfold" "$work" "$job/tree"

if ((EUID == 0)); then
    refused 'a unit that is not delegated: says what owns the cgroups' 'systemd manages the cgroups' \
        systemd-run --quiet --wait --pipe --property=Delegate=no "$pinfold" serve --backend cgroupfs --socket "$work/a.sock"
    refused 'a read-only /sys/fs/cgroup, as in a default container: says so' 'mounted read-only' \
        bwrap --dev-bind / / --ro-bind /sys/fs/cgroup /sys/fs/cgroup "$pinfold" serve --root "$job/tree" --socket "$work/b.sock"
    refused 'a user without delegation: says what to do' 'Delegate=yes' \
        runuser -u agent -- "$pinfold" serve --root "$job/tree" --socket /tmp/agent/pinfold.sock

    # A container with writable cgroups and nothing else: a cgroup namespace whose root holds processes.
    mkdir "$job/container"
    chmod 755 "$work"
    works 'a container with writable cgroups: its processes go aside, limits hold' bash -c "
        echo \$\$ >$job/container/cgroup.procs
        unshare --cgroup --mount bash -ec '
            umount --lazy /sys/fs/cgroup
            mount -t cgroup2 cgroup2 /sys/fs/cgroup
            mount -t tmpfs tmpfs /run/systemd
            bash $work/launch $pinfold $work
            grep -q pinfold-moved /proc/self/cgroup'"
    refused 'a limit above the caller that pinfold is not below: not shed' 'would free it from pids.max' bash -c "
        mkdir $job/limited && echo 100 >$job/limited/pids.max && echo \$\$ >$job/limited/cgroup.procs
        PINFOLD_SOCKET=$work/c.sock PINFOLD_ROOT=$job/tree $pinfold run -- true"
fi
echo "$passed passed, $failed failed"
((failed == 0))
