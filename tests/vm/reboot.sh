#!/usr/bin/env bash
# In the guest, on the system manager: what becomes of sessions when the machine boots again, and of what was written down of
# them.
#
#   reboot.sh before   sets up two daemons with living sessions: the installed service, whose runtime directory is in /run,
#                      and one with the cgroupfs backend whose runtime directory is on the disk
#   reboot.sh after reset|reboot
#                      in the boot after it: nothing of before is taken for living, nothing is left, and all works anew
#
# A reset stops nothing; a reboot asks each server to terminate.
#
# A daemon cannot tell a process that was given the number of a server of before from that server, but by the boot. So strangers
# take the servers' places in the records: their numbers and starts, and the servers' marks in their environment.
set -uo pipefail

kept=/var/lib/reboot-test
disk=/var/lib/pinfold-disk
runtime=/run/pinfold/pinfold.sock
pinfold=/usr/local/bin/pinfold
# shellcheck source=tests/vm/checks.sh
. /mnt/host/checks.sh

# A field of each server in `ls --json`, in the order of their sessions and names.
servers() { # SOCKET FIELD
    "$pinfold" ls --json --socket "$1" | python3 -c '
import json, sys
for session in sorted(json.load(sys.stdin), key=lambda session: session["id"]):
    for server in sorted(session["servers"], key=lambda server: server["name"]):
        print(session["id"], server["name"], server[sys.argv[1]])' "$2"
}

running() { # SOCKET
    servers "$1" state | paste -sd ,
}

# A host with a pipe to its server, in a unit of its own that lives on when this script ends. That has no limit, which a
# cgroupfs daemon would not free its server from.
host() { # UNIT SOCKET SESSION SERVER
    systemd-run --quiet --unit="$1" --service-type=exec --property=TasksMax=infinity --setenv=PINFOLD_SOCKET="$2" -- \
        bash -c "sleep 100000 | $pinfold run --session $3 --server $4 --memory-max 64M -- sh $kept/server"
}

serve_on_disk() {
    mkdir -p "$disk"
    systemd-run --quiet --unit=pinfold-disk --service-type=notify --property=Delegate=yes --property=FileDescriptorStoreMax=100 \
        -- "$pinfold" serve --backend cgroupfs --socket "$disk/pinfold.sock"
}

stored() { # UNIT
    systemctl show --value --property=NFileDescriptorStore "$1"
}

records() { # SOCKET
    find "$1.d" -type f -printf '%f\n' 2>/dev/null | sort | paste -sd ' '
}

# The processes that carry the mark of a server, but strangers. Many end while they are looked at.
marked() {
    local environment
    grep --files-with-matches --null-data --no-messages '^PINFOLD_SERVER=' /proc/[0-9]*/environ |
        while read -r environment; do
            grep --quiet --null-data --no-messages '^STRANGER=' "$environment" || echo "$environment"
        done
}

session_units() {
    # One that is only named by another unit is none.
    systemctl list-units --all --plain --no-legend 'pinfold-*.slice' 'pinfold-*.scope' | grep -v ' not-found '
}

# What the disk has of us. The second daemon's own directory is looked at apart.
on_disk() {
    find /etc /var /root /home /usr/local -xdev -name '*pinfold*' -not -path "$disk*" -not -path "$kept*" | sort | paste -sd ' '
}

# What a daemon has said in this boot since TIME, at this priority or worse, each line once.
said() { # UNIT SINCE PRIORITY
    journalctl --no-pager --quiet --boot --output=cat --unit="$1" --since="@$2" --priority="$3" _COMM=pinfold
}

# How often each server is said to have ended with an earlier boot.
told() { # UNIT SINCE
    said "$1" "$2" info | sed -n 's/^\(server .* of session .*\) ended with an earlier boot of the machine$/\1/p' |
        sort | uniq -c | sed 's/^ *//' | paste -sd ,
}

# Who was asked to terminate.
terminated() {
    sort "$kept/terminated" 2>/dev/null | paste -sd ' '
}

before() {
    mkdir -p "$kept" /etc/pinfold
    # It ends for SIGTERM alone: its host may be stopped first, and its own processes may be asked before it.
    cat >"$kept/server" <<SERVER
trap 'echo "\${PINFOLD_SERVER%.*}" >>$kept/terminated; kill \$!; exit' TERM
setsid sleep 100000 &
while :; do sleep 100000 & wait \$!; done
SERVER
    install -m 755 /mnt/host/pinfold "$pinfold"
    install -m 644 /mnt/host/units/pinfold*.{service,socket,slice} /etc/systemd/system/
    systemd-sysusers /mnt/host/units/pinfold.conf
    printf '[session]\nttl = "1h"\n' >/etc/pinfold/pinfold.toml
    systemctl daemon-reload
    systemctl --quiet enable --now pinfold.service || systemctl --no-pager status pinfold.service
    host host-one "$runtime" a one
    host host-two "$runtime" a two
    host host-three "$runtime" b three
    serve_on_disk
    host host-disk "$disk/pinfold.sock" d four

    await 'a one running,a two running,b three running' running "$runtime"
    check 'before: the installed service has living servers' 'a one running,a two running,b three running' "$got"
    await 'd four running' running "$disk/pinfold.sock"
    check 'before: so has a daemon whose runtime directory is on the disk' 'd four running' "$got"
    await 6 stored pinfold.service
    check 'before: the manager keeps the stdin and stderr of each' 6 "$got"
    await 12 eval 'marked | wc -l'
    check 'before: they are found by their marks, three processes each' 12 "$got"
    check 'before: they have units: two slices, three scopes' 5 "$(session_units | wc -l)"
    check 'before: they have records' 4 "$(find "$runtime.d" "$disk/pinfold.sock.d" -name '*.json' | wc -l)"
    check 'before: and a time-to-live' True "$("$pinfold" ls --json | python3 -c '
import json, sys
print(all(session["expires_at"] for session in json.load(sys.stdin)))')"

    cat /proc/sys/kernel/random/boot_id >"$kept/boot_id"
    { servers "$runtime" generation && servers "$disk/pinfold.sock" generation; } >"$kept/generations"
    on_disk >"$kept/on_disk"
    cp -a "$runtime.d" "$kept/run"
    cp -a "$disk/pinfold.sock.d" "$kept/disk"
    check 'before: none was asked to terminate' '' "$(terminated)"
    sync
}

# Puts strangers into the records: each is a process of this boot that is, for all its record says, the server.
strangers_into() { # DIRECTORY-OF-RECORDS
    local record leaf
    for record in "$1"/*.json; do
        leaf=${record##*/}
        STRANGER=1 PINFOLD_SERVER=${leaf%.json} sleep 100000 &
        strangers+=("$!")
        python3 - "$record" "$!" <<'PYTHON'
import json, sys
path, pid = sys.argv[1], int(sys.argv[2])
record = json.load(open(path))
start = int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[19])
record["leader"] = record["owner"] = {"pid": pid, "start_time": start}
record["ending"] = {"cause": {"cause": "requested"}, "killing": True}
record["expires"] = {"ttl": record["expires"]["ttl"] if record.get("expires") else "1s", "at": {"secs": 0, "nanos": 1}}
json.dump(record, open(path, "w"))
PYTHON
    done
}

living_strangers() {
    local pid living=0
    for pid in "${strangers[@]}"; do
        [[ $(ps -o stat= -p "$pid") != [SRD]* ]] || living=$((living + 1))
    done
    echo "$living of ${#strangers[@]}"
}

# One server from launch to end.
launches_anew() { # SOCKET SESSION SERVER
    local leaf before
    host "host-new-$3" "$1" "$2" "$3"
    await "$2 $3 running" running "$1"
    check "  a launch in session $2 works" "$2 $3 running" "$got"
    leaf=$(servers "$1" cgroup | cut -d ' ' -f 3)
    check '  its limit is in the kernel' $((64 << 20)) "$(cat "$leaf/memory.max" 2>&1)"
    await 3 grep -c . "$leaf/cgroup.procs"
    check '  all its processes are in its leaf' 3 "$got"
    before=$(sed -n "s/^$2 $3 //p" "$kept/generations")
    "$pinfold" end "$2" --generation "$before" --socket "$1" >/dev/null 2>&1
    check "  an end of generation $before, which was of the boot before, spares it" "$2 $3 running" "$(running "$1")"
    "$pinfold" end "$2" --socket "$1" >/dev/null 2>&1
    check '  it ends when that is asked for' 'gone, no sessions' \
        "$([[ -e $leaf ]] || echo gone), $("$pinfold" ls --socket "$1" 2>&1)"
    systemctl stop "host-new-$3.service"
}

# A daemon that was started at the moment SINCE, and found records in which strangers have the servers' places.
passes_over() { # UNIT SOCKET SINCE WANTED-TO-BE-TOLD
    check '  the daemon runs' active "$(systemctl is-active "$1")"
    check '  it tells once of each server that it ended with an earlier boot' "$4" "$(told "$1" "$3")"
    check '  and warns of nothing' '' "$(said "$1" "$3" warning)"
    check '  their records are gone' '' "$(records "$2")"
    check '  nothing of them is listed' 'no sessions' "$("$pinfold" ls --socket "$2" 2>&1)"
    check '  who has their numbers now lives' "${#strangers[@]} of ${#strangers[@]}" "$(living_strangers)"
}

after() { # reset|reboot
    local since strangers=() asked=''
    [[ $1 == reset ]] || asked='four one three two'
    check 'after: it is another boot' differs "$([[ $(<"$kept/boot_id") == "$(</proc/sys/kernel/random/boot_id)" ]] || echo differs)"
    check 'after: who was asked to terminate' "$asked" "$(terminated)"
    check 'after: the installed service came up by itself, at once' 'active 0' \
        "$(systemctl is-active pinfold.service) $(systemctl show --value --property=NRestarts pinfold.service)"
    check '  it warns of nothing' '' "$(said pinfold.service 0 warning)"
    check '  it lists no session' 'no sessions' "$("$pinfold" ls 2>&1)"
    check '  it has no record' '' "$(records "$runtime")"
    check '  the manager keeps no descriptor for it' 0 "$(stored pinfold.service)"
    check '  no process of a server is left' '' "$(marked)"
    check '  no unit of a session is left' '' "$(session_units)"
    check '  the disk has what was installed, and no more' "$(<"$kept/on_disk")" "$(on_disk)"
    launches_anew "$runtime" a one
    # It stays until the history has the end.
    for _ in {1..100}; do
        [[ -n $(records "$runtime") ]] || break
        sleep 0.1
    done
    check '  its record went with it' '' "$(records "$runtime")"

    echo 'after: as if /run had outlived the boot'
    systemctl stop pinfold.service
    rm -rf "$runtime.d"
    cp -a "$kept/run" "$runtime.d"
    strangers_into "$runtime.d"
    since=$(date +%s.%N)
    systemctl start pinfold.service
    passes_over pinfold.service "$runtime" "$since" \
        '1 server one of session a,1 server three of session b,1 server two of session a'
    launches_anew "$runtime" a one

    echo 'after: a runtime directory on the disk, with the cgroupfs backend'
    if [[ $1 == reset ]]; then
        check '  its record outlived the boot, and its sockets' 'four 2' \
            "$(records "$disk/pinfold.sock" | sed 's/\.[0-9]*\.json$//') $(find "$disk" -maxdepth 1 -type s | wc -l)"
    else
        # Whether its daemon or its server ended first, that is as if it had been the daemon.
        rm -rf "$disk/pinfold.sock.d"
        cp -a "$kept/disk" "$disk/pinfold.sock.d"
    fi
    strangers_into "$disk/pinfold.sock.d"
    # What a machine leaves of files whose data was not on the disk yet.
    : >"$disk/pinfold.sock.d/empty.7.json"
    truncate --size 700 "$disk/pinfold.sock.d/zeroes.8.json" "$disk/pinfold.sock.d/draft.9.new"
    since=$(date +%s.%N)
    serve_on_disk
    passes_over pinfold-disk.service "$disk/pinfold.sock" "$since" '1 server four of session d'
    check '  of records without data it tells, each once' 2 \
        "$(said pinfold-disk.service "$since" info | grep -c 'does not tell of which server, and is removed')"
    launches_anew "$disk/pinfold.sock" d four
    systemctl stop pinfold-disk.service
    check '  a stop leaves nothing but its lock and its history' 'pinfold.sock.history.db pinfold.sock.lock' \
        "$(find "$disk" -mindepth 1 -printf '%f\n' | sort | paste -sd ' ')"
    check 'after: no process of a server is left' '' "$(marked)"
    kill "${strangers[@]}"
}

"$@"
((failed == 0)) || journalctl --no-pager --quiet --boot --lines=60 --unit='*pinfold*' --unit='host-*'
echo "$passed passed, $failed failed"
((failed == 0))
