#!/usr/bin/env bash
# In the guest, as root on the system manager unless said otherwise: containers, made by podman with crun of a root that the guest has itself.
#
#   containers.sh systemd|cgroupfs   the host's daemon, of this backend, serves hosts inside containers over its mounted socket
#   containers.sh inside             a daemon inside a container, or its refusal
#   containers.sh user               a user's own daemon, and what that user runs in a user namespace, as a rootless container does;
#                                    as that user, on its manager, and without podman
set -uo pipefail

kept=/var/lib/containers-test
runtime=/run/pinfold/pinfold.sock
pinfold=/usr/local/bin/pinfold
# shellcheck source=tests/vm/checks.sh
. /mnt/host/checks.sh

# An image of busybox and pinfold, with the libraries that this one is linked to.
make_image() {
    local root=$kept/root library
    mkdir -p "$root"/{bin,tmp,run,proc,sys,dev,etc}
    install -m 755 /mnt/host/pinfold "$pinfold"
    cp "$pinfold" /bin/busybox "$root/bin/"
    chroot "$root" /bin/busybox --install -s /bin
    for library in $(ldd "$pinfold" | grep -o '/[^ ]*'); do
        mkdir -p "$root${library%/*}"
        cp -L "$library" "$root$library"
    done
    tar -C "$root" -c . | podman import --quiet - pinfold-test >/dev/null
}

# A container that has the daemon's socket, and lives until it is stopped.
container() { # NAME OPTION...
    podman run --detach --name "$1" --network none --volume /run/pinfold:/run/pinfold "${@:2}" pinfold-test \
        sh -c 'trap exit TERM; sleep 1000000 & wait' >/dev/null
}

# A host in a container, and its server with a grandchild of its own session.
host_in() { # CONTAINER SESSION SERVER OPTION...
    podman exec --detach "$1" \
        sh -c "sleep 1000000 | pinfold run --session $2 --server $3 ${*:4} -- sh -c 'setsid sleep 1000000 & exec sleep 1000000'" >/dev/null
}

# What is seen where `ls` is run: a line for each server.
seen() { # COMMAND...
    "$@" ls --json | python3 -c '
import json, sys
for session in sorted(json.load(sys.stdin), key=lambda session: (session["id"], session["cgroup"])):
    for server in sorted(session["servers"], key=lambda server: server["name"]):
        print(session["id"], server["name"], server["state"], server["processes"])' | paste -sd ,
}

in_container() { # NAME ARGUMENT...
    podman exec "$1" pinfold "${@:2}"
}

cgroup_of() { # CONTAINER
    echo "/sys/fs/cgroup$(cut -d: -f3 "/proc/$(podman inspect --format '{{.State.Pid}}' "$1")/cgroup")"
}

# The cgroups of ours that stand below any container, as far as there are any.
left_below() { # DIRECTORY...
    find "$@" -type d -name 'pinfold.*' 2>/dev/null | wc -l
}

records() {
    find "$runtime.d" -name '*.json' 2>/dev/null | wc -l
}

# The daemon; of the cgroupfs backend in a subtree of what was delegated to this job.
start_daemon() { # BACKEND
    local place=()
    [[ $1 != cgroupfs ]] || place=(--root "$job/tree")
    mkdir -p "${runtime%/*}"
    "$pinfold" serve --backend "$1" --config "$kept/pinfold.toml" --socket "$runtime" "${place[@]}" 2>>"$kept/log" &
    daemon=$!
    await yes eval "[[ -S $runtime ]] && $pinfold ls >/dev/null 2>&1 && echo yes"
}

stop_daemon() { # SIGNAL
    kill "-$1" "$daemon"
    wait "$daemon" 2>/dev/null
}

serve_containers() { # BACKEND
    local cgroup place told
    : >"$kept/pinfold.toml"
    start_daemon "$1"
    container one --memory 256m
    container two
    host_in one s fs
    host_in two s fs
    systemd-run --quiet --unit=host-of-h --service-type=exec --property=TasksMax=infinity -- \
        sh -c "sleep 1000000 | $pinfold run --session h --server on-the-host -- sleep 1000000"
    awaited 'the host sees all sessions, those of containers as two of one name' \
        'h on-the-host running 1,s fs running 2,s fs running 2' seen "$pinfold"
    awaited 'a container sees its own session alone' 's fs running 2' seen in_container one
    awaited 'so does the other' 's fs running 2' seen in_container two

    cgroup=$(cgroup_of one)
    place=$(find "$cgroup" -type d -name 'fs.*')
    check 'the leaf of a server stands below the cgroup of its own container' "$cgroup" "${place%/pinfold.*}"
    check 'and holds it with its grandchild' 2 "$(wc -l <"$place/cgroup.procs")"
    check 'the limit of the container holds for it' 268435456 "$(cat "${place%/pinfold.*}/memory.max")"

    told=$(podman exec one pinfold run --server x -- true 2>&1)
    check 'a launch is told once that no limit of its own holds' \
        'pinfold: warning: no memory_max, memory_swap_max, pids_max is held here but the container'"'"'s own: processes of the container stand in its own cgroup' \
        "$told"
    told=$(podman exec one pinfold run --memory-max 64M --server x -- true 2>&1)
    check 'one that asks for a limit is refused' 125 $?
    check 'with what to do' yes "$(grep -q 'move_processes = true under \[containers\]' <<<"$told" && echo yes || echo "$told")"
    told=$(podman exec one pinfold run --session big --server big -- dd if=/dev/zero of=/dev/null bs=400M count=1 2>&1)
    check 'a server beyond the limit of its container dies' yes "$( (($? > 125)) && echo yes || echo "$told")"

    for order in 'adopt 1' reload history; do
        # shellcheck disable=SC2086  # Words.
        told=$(in_container one $order 2>&1)
        check "$order is not for containers" yes "$([[ $told == *'on the host only'* ]] && echo yes || echo "$told")"
    done
    told=$(podman exec two pinfold events 2>&1)
    check 'nor of what happens elsewhere' 0 "$(grep -c 'on-the-host\|big' <<<"$told")"
    in_container two end h >/dev/null 2>&1
    in_container two end --all >/dev/null 2>&1
    awaited 'what a container ends is its own' 'h on-the-host running 1,s fs running 2' seen "$pinfold"
    check 'and nothing of it is left there' 0 "$(left_below "$(cgroup_of two)")"

    stop_daemon KILL
    start_daemon "$1"
    awaited 'the next daemon adopts what lives in containers' 'h on-the-host running 1,s fs running 2' seen "$pinfold"
    awaited 'as the sessions of these containers' 's fs running 2' seen in_container one
    awaited 'which others do not see' '' seen in_container two
    "$pinfold" end s >/dev/null
    awaited 'the host ends what is in a container' 'h on-the-host running 1' seen "$pinfold"
    check 'to the last process and cgroup' "0 0" "$(left_below "$cgroup") $(find "$cgroup" -type d -name 'fs.*' | wc -l)"

    sandboxed "$1"
    forged "$1"
    removed "$1"
    limited "$1"

    systemctl stop host-of-h
    await '' seen "$pinfold"
    stop_daemon TERM
    podman rm --force --time 1 --all >/dev/null 2>&1
    check "$1: no record is left" 0 "$(records)"
}

# Namespaces of its own in a unit that is systemd's, as bubblewrap makes them: no container to stand below, and yet apart.
sandboxed() { # BACKEND
    local place
    systemd-run --quiet --unit=host-of-box --service-type=exec --property=TasksMax=infinity -- sh -c "sleep 1000000 |
        unshare --cgroup --pid --fork --kill-child --mount-proc $pinfold run --session box --server boxed -- sleep 1000000"
    awaited 'a sandbox in a unit launches' 'box boxed running 1,h on-the-host running 1' seen "$pinfold"
    place=$("$pinfold" ls --json | python3 -c '
import json, sys
print(*[session["cgroup"] for session in json.load(sys.stdin) if session["id"] == "box"])')
    check 'to where the hosts of the machine do' yes \
        "$([[ $place == */pinfold.slice/* || $place == */tree/pinfold/* ]] && echo yes || echo "$place")"
    check 'and sees nothing of those' '[]' \
        "$(unshare --cgroup --pid --fork --mount-proc "$pinfold" ls --json)"
    systemctl stop host-of-box
    awaited 'it ends with its host' 'h on-the-host running 1' seen "$pinfold"
}

# A container that may write its cgroups makes directories of the names of another's leaf, and stands in them.
forged() {
    local tag leaf key
    container forger --privileged --cgroupns=private
    host_in forger own own
    awaited 'a privileged container has its session' 'own own running 2' seen in_container forger
    tag=$(basename "$(find "$(cgroup_of forger)" -type d -name 'pinfold.*')")
    leaf=$("$pinfold" ls --json | python3 -c '
import json, sys
print(*[server["leaf"] for session in json.load(sys.stdin) if session["id"] == "h" for server in session["servers"]])')
    key=$("$pinfold" ls --json | python3 -c '
import json, sys
print(*[session["key"] for session in json.load(sys.stdin) if session["id"] == "h"])')
    podman exec forger sh -c "mkdir -p /sys/fs/cgroup/$tag/$key/$leaf && echo \$\$ >/sys/fs/cgroup/$tag/$key/$leaf/cgroup.procs &&
        pinfold end h; pinfold run --server more -- true" >"$kept/forged" 2>&1
    check 'who forges the cgroups of another session is none of it' 1 \
        "$(grep -c 'inside a session that this daemon does not hold' "$kept/forged")"
    awaited 'and ends nothing of it' 'h on-the-host running 1,own own running 2' seen "$pinfold"
    podman rm --force --time 1 forger >/dev/null
    awaited 'it goes with its container' 'h on-the-host running 1' seen "$pinfold"
}

# What becomes of containers in which servers live, and of those.
removed() {
    local cgroup how
    for how in 'stop --time 2' 'rm --force --time 2' 'kill'; do
        podman rm --force --time 1 short >/dev/null 2>&1
        container short
        host_in short brief fs
        awaited "a server lives in a container before podman $how" 'brief fs running 2' seen in_container short
        cgroup=$(cgroup_of short)
        # shellcheck disable=SC2086  # It has options.
        podman $how short >/dev/null 2>&1
        check "podman $how succeeds beside a living server" 0 $?
        awaited 'the session ends with its container' 'h on-the-host running 1' seen "$pinfold"
        awaited 'and no cgroup of it is left' gone eval "[[ -d $cgroup ]] || echo gone"
    done
    podman rm --force --time 1 short >/dev/null 2>&1
    awaited 'no record of them is left' 1 records
}

# With the container's own processes out of the way, servers have limits of their own.
limited() {
    local place
    stop_daemon KILL
    printf '[containers]\nmove_processes = true\n' >"$kept/pinfold.toml"
    start_daemon "$1"
    container three --memory 512m
    host_in three s fs --memory-max 64M
    awaited 'a launch that asks for a limit is granted it where processes may be moved' 's fs running 2' seen in_container three
    place=$(find "$(cgroup_of three)/.." -type d -name 'fs.*')
    check 'the leaf has it' 67108864 "$(cat "$place/memory.max")"
    check 'the processes of the container stand beside' yes "$([[ $(cgroup_of three) == */pinfold-moved ]] && echo yes)"
    check 'and others can still be started in it' fine "$(podman exec three echo fine)"
    podman exec three pinfold run --session big --server big --memory-max 64M -- dd if=/dev/zero of=/dev/null bs=200M count=1 \
        >/dev/null 2>&1
    awaited 'a server beyond its own limit dies of that' yes \
        eval "$pinfold events | grep -q 'ended server big .*memory limit' && echo yes || $pinfold events | tail -n 3"
    awaited 'and its siblings live' 's fs running 2' seen in_container three
    podman rm --force --time 1 three >/dev/null
    check 'the container is removed as any other' 0 $?
    awaited 'its session with it' 'h on-the-host running 1' seen "$pinfold"
}

# A container of its own daemon: no socket is mounted, and the first launch starts one.
alone() { # OPTION...
    podman run --rm --network none "$@" pinfold-test \
        sh -c 'pinfold run --session s --server fs --memory-max 64M -- cat /proc/self/cgroup; echo "status $?"' 2>&1
}

inside() {
    local told
    told=$(alone)
    check 'a default container is refused' yes "$([[ $told == *'status 125'* ]] && echo yes || echo "$told")"
    check 'in a line that says why and what to do' yes \
        "$(grep -q 'mounted read-only, as in a default container: .*unmask=/sys/fs/cgroup' <<<"$told" && echo yes || echo "$told")"
    for options in '--security-opt unmask=/sys/fs/cgroup' '--privileged' '--systemd=always'; do
        # shellcheck disable=SC2086  # Two words.
        told=$(alone $options --cgroupns=private)
        check "with $options it contains" yes "$([[ $told == *pinfold/s_*/fs.*'status 0'* ]] && echo yes || echo "$told")"
    done
    # shellcheck disable=SC2016  # The container's own.
    told=$(podman run --rm --network none --security-opt unmask=/sys/fs/cgroup --memory 512m pinfold-test sh -c '
        pinfold run --session s --server fs --memory-max 64M -- dd if=/dev/zero of=/dev/null bs=200M count=1; echo "status $?"
        sleep 1000000 | pinfold run --session t --server fs -- sh -c "setsid sleep 1000000 & exec sleep 1000000" &
        for _ in $(seq 300); do pinfold ls | grep -q running && break; sleep 0.1; done
        pinfold end t >/dev/null; pinfold ls --json; find /sys/fs/cgroup -name "fs.*" | wc -l' 2>&1)
    check 'a limit holds in there, and is told' yes "$(grep -q 'memory limit' <<<"$told" && echo yes || echo "$told")"
    check 'and an end ends all of it' '[] 0' "$(tail -n 2 <<<"$told" | paste -sd ' ')"
}

# May not look into the cgroup namespace: the caller's own cgroup counts, below a unit that this user's manager delegated.
user() {
    local socket=${pinfold%/*}/pinfold.sock place
    mkdir "$job/container" "$job/beside"
    "$pinfold" serve --socket "$socket" 2>"$XDG_RUNTIME_DIR/log" &
    daemon=$!
    export PINFOLD_SOCKET=$socket
    awaited "a user's daemon answers" yes eval "$pinfold ls >/dev/null 2>&1 && echo yes"
    contained() { # CGROUP COMMAND...
        sh -c 'echo $$ >"$1/cgroup.procs"; shift; exec unshare --user --map-root-user --cgroup --pid --fork --kill-child \
            --mount-proc "$@"' sh "$@"
    }
    sleep 1000000 | contained "$job/container" "$pinfold" run --session s --server fs -- sleep 1000000 &
    awaited 'it serves what the user runs in a user namespace' 's fs running 1' seen "$pinfold"
    place=$("$pinfold" ls --json | python3 -c '
import json, sys
print(*[server["cgroup"] for session in json.load(sys.stdin) for server in session["servers"]])')
    check 'below its own cgroup' "$job/container" "${place%/pinfold.*}"
    check 'which sees its session' 1 "$(contained "$job/container" "$pinfold" ls --json | grep -c '"id": *"s"')"
    check 'and nobody else in another' '[]' "$(contained "$job/beside" "$pinfold" ls --json)"
    "$pinfold" end s --now >/dev/null
    check 'an end leaves nothing' '0 ' "$(left_below "$job") $(cat "$job/container/cgroup.procs")"
    stop_daemon TERM
}

if [[ $1 == user ]]; then
    pinfold=$XDG_RUNTIME_DIR/of-containers/pinfold
    mkdir -p "${pinfold%/*}"
    install -m 755 /mnt/host/pinfold "$pinfold"
    job=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)
    user
    ((failed == 0)) || tail -n 20 "$XDG_RUNTIME_DIR/log"
    echo "$passed ok, $failed failed"
    exit "$((failed > 0))"
fi
mkdir -p "$kept"
make_image
case $1 in
    inside) inside ;;
    *)
        # A cgroup with processes cannot give its children limits: this script goes one level down, and the daemon beside it.
        job=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)
        mkdir "$job/script" "$job/tree"
        echo $$ >"$job/script/cgroup.procs"
        echo '+memory +pids +cpu +io' >"$job/cgroup.subtree_control"
        serve_containers "$1"
        ((failed == 0)) || tail -n 20 "$kept/log"
        ;;
esac
podman rm --force --time 1 --all >/dev/null 2>&1
echo "$passed ok, $failed failed"
((failed == 0))
