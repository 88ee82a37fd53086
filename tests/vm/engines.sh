#!/usr/bin/env bash
# In the guest: servers that are `podman run`, made by podman with crun of a root that the guest has itself.
#
#   engines.sh systemd|cgroupfs   as root on the system manager, with a daemon of this backend: root's containers, and those of a user
#   engines.sh user               as a user with a daemon of its own
#   engines.sh docker             as root, and docker with systemd's cgroups and with directories
set -uo pipefail

# shellcheck source=tests/vm/checks.sh
. /mnt/host/checks.sh

# The server's container, as the daemon tells it: how many cgroups and processes, or why it is outside.
told_of() { # SESSION
    "$pinfold" ls --json | python3 -c '
import json, sys
for session in json.load(sys.stdin):
    for server in session["servers"]:
        if session["id"] == sys.argv[1]:
            container = server["container"]
            print(container["outside"] or (len(container["cgroups"]), container["processes"]))' "$1"
}

leaf_of() { # SESSION
    "$pinfold" ls --json | python3 -c '
import json, sys
print(*[server["cgroup"] for session in json.load(sys.stdin) if session["id"] == sys.argv[1] for server in session["servers"]])' "$1"
}

# Of whom the container's first process is, for those who may see it.
cgroup_of() { # PODMAN... CONTAINER
    echo "/sys/fs/cgroup$(cut -d: -f3 "/proc/$("${@:1:$#-1}" inspect --format '{{.State.Pid}}' "${@:$#}")/cgroup")"
}

start_daemon() {
    "$pinfold" serve --socket "$socket" "${serve[@]}" 2>>"$kept/log" &
    daemon=$!
    awaited 'a daemon answers' yes eval "$pinfold ls >/dev/null 2>&1 && echo yes"
}

# A host that keeps the stdin of its server open.
host() { # SESSION RUN-OPTION... -- COMMAND...
    local session=$1
    shift
    sleep 1000000 | "${as[@]}" "$pinfold" run --session "$session" --server fs "$@" 2>>"$kept/told" &
    hosts+=("$!")
}

# One container from its launch to its end, over a daemon that is killed in between.
contained() { # WHO
    local cgroup leaf pid
    host s -- podman run --rm --interactive --name inside --network none "$image" sleep 1000000
    awaited "$1: the container is told with its server" '(1, 1)' told_of s
    leaf=$(leaf_of s)
    cgroup=$(cgroup_of "${as[@]}" podman inside)
    pid=$("${as[@]}" podman inspect --format '{{.State.Pid}}' inside)
    check "$1: the kernel tells it below the server's leaf" "$leaf/pinfold-containers" "${cgroup%/*}"
    check "$1: and its monitor with it" yes \
        "$(grep -q "^$(pgrep -o -x conmon)$" "$leaf/pinfold-client/cgroup.procs" && echo yes)"
    kill -KILL "$daemon"
    wait "$daemon" 2>/dev/null
    start_daemon
    awaited "$1: the next daemon knows it again" '(1, 1)' told_of s
    "$pinfold" end s >/dev/null
    check "$1: the end ends it" gone "$([[ -d /proc/$pid ]] || echo gone)"
    check "$1: its engine has removed it" '' "$("${as[@]}" podman ps --all --quiet)"
    check "$1: and no cgroup is left of it" gone "$([[ -d $leaf ]] || echo gone)"
}

# What a server may use, its container may.
limited() { # WHO
    local told
    told=$("${as[@]}" "$pinfold" run --session big --server big --memory-max 64M -- \
        podman run --rm --network none "$image" dd if=/dev/zero of=/dev/null bs=400M count=1 2>&1)
    check "$1: the server's memory limit holds for the container" yes \
        "$(grep -q "the server's own memory limit was reached" <<<"$told" && echo yes || echo "$told")"
    awaited "$1: whose engine has removed it then" '' "${as[@]}" podman ps --all --quiet
}

# The first processes of what a server has outside, as the daemon tells them.
outside_of() { # SESSION
    "$pinfold" ls --json | python3 -c '
import json, sys
print(*[pid for session in json.load(sys.stdin) if session["id"] == sys.argv[1] for server in session["servers"]
    for pid in server["container"]["outside_pids"]])' "$1"
}

# A container whose own options say where it goes is told so wherever one looks, and ends with its server, however that ends.
outside() { # WHO HOW PODMAN-OPTION RUN-OPTION...
    local who=$1 how=$2 manager=$3 pid leaf leader left=''
    shift 3
    : >"$kept/told"
    "${as[@]}" "$pinfold" run --session o --server fs --memory-max 64M -- \
        podman "$manager" run --rm --interactive --name outside --network none "$@" "$image" sleep 1000000 \
        <"$kept/stdin" 2>>"$kept/told" 9>&- &
    hosts+=("$!")
    exec 9>"$kept/stdin"
    awaited "$who, $how: its first process is told" yes eval '[[ -n $(outside_of o) ]] && echo yes'
    pid=$(outside_of o) leaf=$(leaf_of o)
    check "$who, $how: it is the container's" "$("${as[@]}" podman inspect --format '{{.State.Pid}}' outside)" "$pid"
    check "$who, $how: which the kernel tells outside" yes "$(grep -q "${leaf#/sys/fs/cgroup}" "/proc/$pid/cgroup" || echo yes)"
    check "$who, $how: it is told at launch" 1 \
        "$(grep -c 'OUTSIDE the session.*which ends with its server: its own options say where it goes' "$kept/told")"
    check "$who, $how: and in ls" own_options "$(told_of o)"
    check "$who, $how: and in status" 1 "$("$pinfold" status o | grep -c "OUTSIDE.*it ends with its server, first process $pid")"
    leader=$("$pinfold" ls --json | python3 -c '
import json, sys
print(json.load(sys.stdin)[0]["servers"][0]["leader_pid"])')
    case $how in
        end) "$pinfold" end o >/dev/null ;;
        now) "$pinfold" end o --now >/dev/null ;;
        stdin) exec 9>&- ;;
        leader) kill -KILL "$leader" ;;
        memory)
            # The kernel spares root's conmon, which has seen to that (oom_score_adj).
            (echo "$BASHPID" >"$leaf/cgroup.procs" && exec dd if=/dev/zero of=/dev/null bs=400M count=1 2>/dev/null)
            ;;
        takeover | too-late)
            kill -KILL "$daemon"
            wait "$daemon" 2>/dev/null
            if [[ $how == takeover ]]; then kill -KILL "$leader"; else echo 1 >"$leaf/cgroup.kill" && left=outside; fi
            check "$who, $how: it lives while no daemon runs" yes "$([[ -d /proc/$pid ]] && echo yes)"
            start_daemon 9>&-
            ;;
    esac
    exec 9>&-
    awaited "$who, $how: it ends" gone eval "[[ -d /proc/$pid ]] || echo gone"
    awaited "$who, $how: no session is left" '[]' "$pinfold" ls --json
    check "$who, $how: what its engine has of it" "$left" "$("${as[@]}" podman ps --all --format '{{.Names}}')"
    # The first time podman finds that it does not run.
    [[ -z $left ]] || awaited "$who, $how: its engine can remove that" '' \
        eval '"${as[@]}" podman rm --force --time 1 outside >/dev/null 2>&1; "${as[@]}" podman ps --all --quiet'
}

# How root's are ended.
elsewhere() {
    local directory=(--cgroup-manager=cgroupfs --cgroup-parent=/elsewhere) systemd=(--cgroup-manager=systemd)
    outside root end "${directory[@]}"
    outside root now "${systemd[@]}"
    outside root stdin "${systemd[@]}" --cgroup-parent=system.slice
    outside root leader "${directory[@]}"
    outside root takeover "${systemd[@]}"
    outside root too-late "${systemd[@]}"
    outside root memory "${directory[@]}"
    podman pod create --infra=false --name pod >/dev/null
    outside root end --log-level=error --pod pod
    podman pod rm --force pod >/dev/null
    rmdir /sys/fs/cgroup/elsewhere/* /sys/fs/cgroup/elsewhere 2>/dev/null

    # Whose monitor is elsewhere too is in nobody's hands: its label names its session.
    : >"$kept/told"
    host o -- podman --cgroup-manager=systemd run --interactive --name outside --network none --cgroups=enabled \
        "$image" sleep 1000000
    awaited 'what the command says of cgroups is left to it' 1 eval "podman ps --quiet | wc -l"
    check 'and that no end of it is to be had is told at launch' 1 \
        "$(grep -c 'OUTSIDE the session.*whose end does not end it' "$kept/told")"
    check 'its label names its session' 1 \
        "$(podman ps --quiet --filter "label=io.pinfold.session=$("$pinfold" ls --json | python3 -c '
import json, sys
print(json.load(sys.stdin)[0]["key"])')" | wc -l)"
    "$pinfold" end o >/dev/null
    podman rm --force --time 1 outside >/dev/null 2>&1
    told=$("$pinfold" run --session x --server fs -- podman run --rm --no-such-option "$image" true 2>&1)
    check 'what the engine refuses is its error' '125 Error: unknown flag: --no-such-option' "$? $(head -n 1 <<<"$told")"
}

# An image of busybox whose files are of one user, which is all that a user without subordinate ids can have.
make_image() {
    local root=$kept/root name
    mkdir -p "$root/bin" "$root/tmp"
    cp /bin/busybox "$root/bin/"
    for name in sh sleep dd true echo; do ln -s busybox "$root/bin/$name"; done
    tar -C "$root" --owner=0 --group=0 -c . >"$kept/image.tar"
    chmod 755 "$kept" && chmod 644 "$kept/image.tar"
    podman import --quiet "$kept/image.tar" "$image" >/dev/null 2>&1
}

start_docker() { # DRIVER
    # Its containerd may take longer than it waits for, on a machine as slow as this one.
    systemd-run --quiet --collect --unit="dockerd-$1" --property=Delegate=yes --property=TasksMax=infinity \
        --property=Restart=on-failure -- dockerd --host unix:///run/docker.sock \
        --bridge=none --iptables=false --ip6tables=false --exec-opt "native.cgroupdriver=$1" --storage-driver overlay2
    awaited "docker answers, with $1" "$1" docker info --format '{{.CgroupDriver}}'
}

stop_docker() { # DRIVER
    systemctl stop "dockerd-$1"
    # A container that lives on would have its containerd do so.
    check 'docker leaves nothing' '' "$(pgrep -f containerd-shim)"
}

# A reload reaches where the limit of the server's container is.
reloaded() { # DRIVER CGROUP MEGABYTES
    printf '[session]\nmemory_max = "256M"\n[server]\nmemory_max = "%sM"\n' "$3" >"$kept/pinfold.toml"
    "$pinfold" reload >/dev/null
    check "$1: a reload gives its place other limits" $(($3 << 20)) "$(<"$2/memory.max")"
    [[ $1 != systemd ]] || check 'and systemd holds them too' $(($3 << 20)) \
        "$(systemctl show --property MemoryMax --value "$(basename "$2")")"
}

# With docker the container is its daemon's, which is told a slice of the session, or a directory in the leaf.
of_docker() { # DRIVER
    local cgroup leaf pid slice told
    start_docker "$1"
    docker import "$kept/image.tar" "$image" >/dev/null
    host s -- docker run --rm --interactive --name inside --network none "$image" sleep 1000000
    awaited "$1: the container is told with its server" '(1, 1)' told_of s
    awaited "$1: it runs" true docker inspect --format '{{.State.Running}}' inside
    leaf=$(leaf_of s) cgroup=$(cgroup_of docker inside)
    pid=$(docker inspect --format '{{.State.Pid}}' inside)
    case $1 in
        systemd)
            slice=${leaf%/*/*}
            check 'the kernel tells it in a slice of the session' yes \
                "$([[ ${cgroup%/*} == "$slice"/pinfold-*.slice ]] && echo yes || echo "$cgroup")"
            ;;
        cgroupfs) check "the kernel tells it below the server's leaf" "$leaf/pinfold-containers" "${cgroup%/*}" ;;
    esac
    # The limit is the slice's, or that of the leaf around.
    [[ $1 == systemd ]] && slice=${cgroup%/*} || slice=$leaf
    reloaded "$1" "$slice" 200
    kill -KILL "$daemon"
    wait "$daemon" 2>/dev/null
    start_daemon
    awaited "$1: the next daemon knows it again" '(1, 1)' told_of s
    reloaded "$1" "$slice" 180
    printf '[session]\nmemory_max = "256M"\n' >"$kept/pinfold.toml"
    "$pinfold" reload >/dev/null
    "$pinfold" end s >/dev/null
    check "$1: the end ends it" gone "$([[ -d /proc/$pid ]] || echo gone)"
    awaited "$1: its engine has removed it" '' docker ps --all --quiet
    check "$1: and no cgroup is left of it" gone "$([[ -d ${cgroup%/*} ]] || echo gone)"

    told=$("$pinfold" run --session big --server big --memory-max 64M -- \
        docker run --rm --network none "$image" dd if=/dev/zero of=/dev/null bs=400M count=1 2>&1)
    check "$1: the server's memory limit holds for the container" yes \
        "$(grep -q "the server's own memory limit was reached" <<<"$told" && echo yes || echo "$told")"

    # Nobody attends to a container that is killed with its client; without --rm, and elsewhere, docker would keep it.
    : >"$kept/told"
    [[ $1 == systemd ]] && slice=elsewhere.slice || slice=/elsewhere
    host o -- docker run --interactive --name outside --network none --cgroup-parent "$slice" "$image" sleep 1000000
    awaited "$1: a parent of its own is left to the command" true docker inspect --format '{{.State.Running}}' outside
    check "$1: and told in ls" own_options "$(told_of o)"
    check "$1: and at launch, with what becomes of it" 1 "$(grep -c 'OUTSIDE.*its engine is asked to remove it' "$kept/told")"
    docker run --detach --name foreign --network none "$image" sleep 1000000 >/dev/null
    "$pinfold" end o --now >/dev/null
    check "$1: the end has its engine remove it, and nothing else" foreign "$(docker ps --all --format '{{.Names}}')"

    host r -- docker run --interactive --name later --network none --cgroup-parent "$slice" "$image" sleep 1000000
    awaited "$1: another one" true docker inspect --format '{{.State.Running}}' later
    pid=$("$pinfold" ls --json | python3 -c '
import json, sys
print(json.load(sys.stdin)[0]["servers"][0]["leader_pid"])')
    kill -KILL "$daemon"
    wait "$daemon" 2>/dev/null
    kill -KILL "$pid"
    awaited "$1: it outlives its client while no daemon runs" "$(printf 'foreign\nlater')" \
        eval "docker ps --format '{{.Names}}' | sort"
    start_daemon
    awaited "$1: and is removed when one takes over" foreign docker ps --all --format '{{.Names}}'
    docker rm --force foreign >/dev/null
    stop_docker "$1"
}

image=engines-test serve=() as=() hosts=()
# A unit's id tells podman that its monitor has a cgroup already; hosts of agents give their servers none.
unset INVOCATION_ID
if [[ $1 == user ]]; then
    kept=$XDG_RUNTIME_DIR/engines
    mkdir -p "$kept"
    socket=$kept/pinfold.sock pinfold=$kept/pinfold
    install -m 755 /mnt/host/pinfold "$pinfold"
    export PINFOLD_SOCKET=$socket
    make_image
    start_daemon
    mkfifo "$kept/stdin"
    contained user
    limited user
    outside user end --cgroup-manager=systemd
    outside user takeover --cgroup-manager=systemd
else
    kept=/var/lib/engines-test
    mkdir -p "$kept" /run/pinfold
    socket=/run/pinfold/pinfold.sock pinfold=/usr/local/bin/pinfold
    install -m 755 /mnt/host/pinfold "$pinfold"
    printf '[session]\nmemory_max = "96M"\n' >"$kept/pinfold.toml"
    mkfifo --mode=644 "$kept/stdin"
    [[ $1 == cgroupfs ]] && backend=cgroupfs || backend=systemd
    serve=(--backend "$backend" --config "$kept/pinfold.toml")
    job=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)
    mkdir "$job/script" "$job/tree"
    echo $$ >"$job/script/cgroup.procs"
    echo '+memory +pids +cpu +io' >"$job/cgroup.subtree_control"
    [[ $1 != cgroupfs ]] || serve+=(--root "$job/tree")
    # Who is in this group may speak to the system's daemon.
    echo 'pinfold:x:990:' >>/etc/group
    make_image
    start_daemon
    if [[ $1 == docker ]]; then
        printf '[session]\nmemory_max = "256M"\n' >"$kept/pinfold.toml"
        for driver in systemd cgroupfs; do
            of_docker "$driver"
        done
    else
        contained root
        limited root
        told=$("$pinfold" run --session whole --server big -- \
            podman run --rm --network none "$image" dd if=/dev/zero of=/dev/null bs=400M count=1 2>&1)
        check "the session's memory limit holds for the container" yes \
            "$(grep -q "its session's memory limit was reached" <<<"$told" && echo yes || echo "$told")"
        elsewhere
        # A user's podman, which has no root, under the system's daemon: its environment is a host's.
        cd /home/agent
        as=(setpriv --reuid 1000 --regid 1000 --groups 990 env -i HOME=/home/agent PATH="$PATH" USER=agent LOGNAME=agent)
        "${as[@]}" podman import --quiet "$kept/image.tar" "$image" >/dev/null 2>&1
        contained rootless
        limited rootless
    fi
fi
kill "${hosts[@]}" 2>/dev/null
awaited 'no session is left' '[]' "$pinfold" ls --json
kill -TERM "$daemon"
wait "$daemon" 2>/dev/null
((failed == 0)) || tail -n 20 "$kept/log" "$kept/told"
((failed == 0)) || journalctl --no-pager --lines 20 --unit 'dockerd-*' 2>/dev/null
echo "$passed ok, $failed failed"
((failed == 0))
