#!/bin/bash
# Shows that the machine is what the tests in it take for granted.
# usage: tests/vm/smoke.sh [SUITE...]     all suites unless some are named
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
passed=0
failed=0

check() { # NAME WANTED GOT
    if [[ $3 == "$2" ]]; then
        passed=$((passed + 1))
        echo "ok    $suite: $1"
    else
        failed=$((failed + 1))
        printf 'FAIL  %s: %s\n      wanted: %s\n      got:    %s\n' "$suite" "$1" "$2" "$3"
    fi
}

# Runs a command in the machine; leaves its status in $status and its output in two files. If the machine
# itself fails, that is one failure, and nothing is left to check.
machine() { # OPTION... -- COMMAND...
    "$here/machine" run "$suite" "$@" >"$scratch/stdout" 2>"$scratch/stderr"
    status=$?
    ((status != 125)) || check 'the machine works' 'no error' "$(tail -n 1 "$scratch/stderr")"
    ((status != 125))
}

# The value of NAME=VALUE, as the scripts below print it.
said() { # NAME
    sed -n "s/^$1=//p" "$scratch/stdout"
}

# A scope of 64 MiB: what it says its limit is, and how a program fares that wants 32 or 256 MiB.
# shellcheck disable=SC2016  # Both scripts are the guest's.
scope='
limited() { systemd-run "$manager" --quiet --scope -p MemoryMax=64M -p MemorySwapMax=0 "$@"; }
echo "limit=$(limited sh -c '\''cat "/sys/fs/cgroup$(cut -d : -f 3 /proc/self/cgroup)/memory.max"'\'')"
limited python3 -c "bytearray(32 << 20)"
echo "within=$?"
limited python3 -c "bytearray(256 << 20)"
echo "beyond=$?"
'
# shellcheck disable=SC2016
as_root='
manager=--system
own=/sys/fs/cgroup$(cut -d : -f 3 /proc/self/cgroup)
has() { for word in $1; do case " $2 " in *" $word "*) ;; *) echo "without $word"; return ;; esac; done; echo yes; }
echo "init=$(cat /proc/1/comm)"
echo "state=$(systemctl is-system-running)"
echo "cgroups=$(findmnt --noheadings --output FSTYPE --mountpoint /sys/fs/cgroup)"
echo "options=$(has "nsdelegate memory_recursiveprot" "$(findmnt -no OPTIONS /sys/fs/cgroup | tr , " ")")"
echo "controllers=$(has "cpu io memory pids" "$(cat /sys/fs/cgroup/cgroup.controllers)")"
echo "delegated=$(has "cpu io memory pids" "$(cat "$own/cgroup.controllers")")"
echo "pressure=$(cut -d " " -f 1 "$own/memory.pressure" | tr "\n" " ")"
mkdir "$own/leaf" && echo 0 >"$own/leaf/cgroup.procs" && echo +memory >"$own/cgroup.subtree_control"
echo "handed_on=$(cat "$own/leaf/memory.max")"
echo "node=$(node -e "console.log(6 * 7)")"
echo "bwrap=$(bwrap --ro-bind / / --unshare-pid echo inside)"
echo "clock=$(date +%s)"
cat /mnt/host/question >/mnt/host/answer
'"$scope"'
echo "to stderr" >/dev/stderr
exit 7
'
# shellcheck disable=SC2016
as_agent='
manager=--user
echo "account=$(id -u)$(id -un)"
echo "state=$(systemctl --user is-system-running)"
echo "variables=$XDG_RUNTIME_DIR $DBUS_SESSION_BUS_ADDRESS"
'"$scope"'
kill -KILL $$
'

suites=("$@")
((${#suites[@]})) || suites=(trixie bookworm)
for suite in "${suites[@]}"; do
    mkdir -p "$scratch/share"
    echo "from the host" >"$scratch/share/question"
    machine --share "$scratch/share" -- bash -c "$as_root" || continue
    check 'the exit status passes through' 7 "$status"
    check 'stderr passes through, apart from stdout' 'to stderr' "$(tail -n 1 "$scratch/stderr")"
    check 'PID 1 is systemd' systemd "$(said init)"
    check 'the system is up whole' running "$(said state)"
    check '/sys/fs/cgroup is cgroup v2' cgroup2 "$(said cgroups)"
    check 'it is mounted with nsdelegate and memory_recursiveprot' yes "$(said options)"
    check 'it has the cpu, io, memory and pids controllers' yes "$(said controllers)"
    check 'the command has them delegated' yes "$(said delegated)"
    check 'the command can hand memory on to a leaf' max "$(said handed_on)"
    check 'the kernel tells memory pressure' 'some full ' "$(said pressure)"
    check 'a scope has its MemoryMax' $((64 << 20)) "$(said limit)"
    check 'a program within MemoryMax lives' 0 "$(said within)"
    check 'a program beyond MemoryMax is killed' 137 "$(said beyond)"
    check 'node runs' 42 "$(said node)"
    check 'bubblewrap makes a sandbox' inside "$(said bwrap)"
    check 'the shared folder is readable and writable' 'from the host' "$(cat "$scratch/share/answer" 2>&1)"
    clock=$(said clock)
    drift=$(($(date +%s) - ${clock:-0}))
    check 'the clock is set' yes "$( ((drift >= -5 && drift <= 120)) && echo yes || echo "it is $drift s behind")"

    machine --user -- bash -c "$as_agent" || continue
    check 'a signal that ends the command shows in the exit status' 137 "$status"
    check '--user runs as uid 1000, named agent' 1000agent "$(said account)"
    check 'the user manager answers' running "$(said state)"
    check 'the user manager can be found' '/run/user/1000 unix:path=/run/user/1000/bus' "$(said variables)"
    check 'a scope of the user manager has its MemoryMax' $((64 << 20)) "$(said limit)"
    check 'a program within it lives' 0 "$(said within)"
    check 'a program beyond it is killed' 137 "$(said beyond)"

    machine --timeout 1 -- sleep 60 || continue
    check 'a command that runs too long ends with status 124' 124 "$status"
done
echo "$passed passed, $failed failed"
((failed == 0))
