#!/usr/bin/env bash
# In the guest, on the system manager: the life of the Debian package, from its installation to its purge, with sessions that
# live through it.
#
#   life.sh    expects in /mnt/host the packages now.deb and next.deb, of two versions in this order
set -uo pipefail
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive

socket=/run/pinfold/pinfold.sock
kept=/var/lib/pinfold/wrapped
# shellcheck source=tests/vm/checks.sh
. /mnt/host/checks.sh

holds() { # NAME TEXT COMMAND...: the output of the command has this text in it
    local got
    got=$("${@:3}" 2>&1)
    if [[ $got == *"$2"* ]]; then check "$1" '' ''; else check "$1" "…$2…" "$got"; fi
}

# A field of each server that root's daemon tells of.
servers() { # FIELD
    pinfold ls --json --socket "$socket" | python3 -c '
import json, sys
for session in sorted(json.load(sys.stdin), key=lambda session: session["id"]):
    for server in sorted(session["servers"], key=lambda server: server["name"]):
        print(session["id"], server["name"], server[sys.argv[1]])' "$1" | paste -sd ,
}

# A host with a pipe to its server, in a unit of its own.
host() { # UNIT USER SESSION SERVER
    systemd-run --quiet --unit="$1" --service-type=exec --uid="$2" -- \
        bash -c "sleep 100000 | pinfold run --session $3 --server $4 --memory-max 64M -- sh -c 'setsid sleep 100000 & cat; wait'"
}

# Each process of a server, by its number and start: the same line is the same processes.
alive() {
    local each
    find /sys/fs/cgroup/pinfold.slice -name cgroup.procs -exec cat {} + 2>/dev/null | while read -r each; do
        echo "$each@$(sed 's/.*) //' "/proc/$each/stat" | cut -d ' ' -f 20)"
    done | sort | paste -sd ' '
}

daemon() { systemctl show --value --property=MainPID pinfold.service; }

# What root's daemon has warned of in this boot, but for what is launched in the midst of it: that has its own check.
warned() {
    journalctl --quiet --boot --output=cat --unit=pinfold.service --priority=warning _COMM=pinfold | grep -v ' of session x[0-9]'
}

installed() { dpkg-query --show --showformat='${db:Status-Abbrev} ${Version}\n' pinfold 2>&1 | tr -s ' '; }

as_agent() { env -C /home/agent setpriv --reuid=agent --regid=agent --init-groups --reset-env -- "$@"; }

# What stands in the file system by our name, but what belongs to this test.
traces() {
    find / -xdev \( -path /proc -o -path /sys -o -path /mnt -o -path /tmp -o -path /home \) -prune -o -iname '*pinfold*' -print | sort | paste -sd ' '
}

state_of_units() {
    local unit
    for unit in pinfold.socket pinfold.service; do
        [[ ! -e /usr/lib/systemd/system/$unit ]] || echo "$(systemctl is-active "$unit") $(systemctl is-enabled "$unit")"
    done | sort -u
}

install_now() {
    echo 'a fresh installation'
    local before
    before=$(traces)
    check 'nothing of it is there' '' "$(find /usr /etc /var /run -xdev -iname '*pinfold*' ! -path '/var/lib/systemd/*' | head -n 3)"
    dpkg -i /mnt/host/now.deb
    check 'dpkg has it' "ii $now" "$(installed)"
    check 'its units are enabled, and run' 'active enabled' "$(state_of_units)"
    check 'there is a group pinfold, of the system' yes "$(getent group pinfold | awk -F: '$3 < 1000 { print "yes" }')"
    check 'its socket is for that group' 'srw-rw---- root pinfold' "$(stat --format '%A %U %G' "$socket")"
    check 'its configuration is a conffile, and dpkg keeps what is changed there' /etc/pinfold/pinfold.toml \
        "$(dpkg-query --show --showformat='${Conffiles}\n' pinfold | awk '{ print $1 }' | paste -sd ' ')"
    pinfold doctor >/dev/null
    check 'doctor finds nothing wrong' 0 $?
    check 'it has warned of nothing' '' "$(warned)"
    holds 'who is not in the group is told how to get in' 'join the group' as_agent pinfold ls
    sed -i '/^pinfold:/s/$/agent/' /etc/group
    printf '%s\n' "$before" >/tmp/traces
}

wrap_and_launch() {
    echo 'what an operator does with it'
    mkdir -p /root/project /root/broken
    printf '{ "mcpServers": { "fs": { "command": "cat" } } } // root\n' >/root/project/.mcp.json
    cp /root/project/.mcp.json /root/broken/.mcp.json
    printf '{\n  "mcpServers": { "fs": { "command": "cat", "args": [] } }\n}\n' >/home/agent/.claude.json
    chown agent: /home/agent/.claude.json
    cp /root/project/.mcp.json /tmp/root.json
    cp /home/agent/.claude.json /tmp/agent.json
    pinfold wrap /root/project/.mcp.json --yes >/dev/null
    pinfold wrap /root/broken/.mcp.json --yes >/dev/null
    as_agent pinfold wrap claude-code --yes >/dev/null
    check 'files of root and of a user are wrapped' 3 \
        "$(grep -l bin/pinfold /root/project/.mcp.json /root/broken/.mcp.json /home/agent/.claude.json | wc -l)"
    echo '# mine' >>/etc/pinfold/pinfold.toml
    host host-one root a one
    host host-two root a two
    host host-three agent b three
    host host-four root c four
    await "$running" servers state
    check 'servers of root and of a user live' "$running" "$got"
    await 12 eval 'alive | wc -w'
    pids=$(alive)
    check 'with three processes each' 12 "$(wc -w <<<"$pids")"
}

# The daemon is another one, of the package that was put in place, and everything that lived lives.
carried_over() { # WHAT WANTED-VERSION
    check "$1: dpkg has it" "ii $2" "$(installed)"
    check "$1: the daemon is another one" other "$([[ $(daemon) != 0 && $(daemon) != "$old" ]] && echo other)"
    check "$1: it runs the program of this package" /usr/bin/pinfold "$(readlink "/proc/$(daemon)/exe")"
    await "$running" servers state
    check "$1: it has adopted the sessions" "$running" "$got"
    check "$1: each process is the one that it was" "$pids" "$(alive)"
    check "$1: the units run, and are enabled" 'active enabled' "$(state_of_units)"
    check "$1: what was changed in the configuration is there" '# mine' "$(tail -n 1 /etc/pinfold/pinfold.toml)"
    check "$1: it has warned of nothing" '' "$(warned)"
}

# Launches one server after the other until it is told to stop, and counts those that failed.
launching() {
    local failures=0 launches=0
    while [[ ! -e /tmp/stop ]]; do
        pinfold run --session "x$launches" --server short -- true </dev/null >/dev/null 2>>/tmp/launches || failures=$((failures + 1))
        launches=$((launches + 1))
        sleep 0.5
    done
    echo "$failures" >/tmp/failures
    echo "$launches launches"
}

upgrade() {
    echo 'an upgrade while sessions live'
    old=$(daemon)
    launching &
    dpkg -i /mnt/host/next.deb
    touch /tmp/stop
    wait $!
    check 'upgrade: no launch failed meanwhile' 0 "$(cat /tmp/failures)"
    ((failed == 0)) || cat /tmp/launches
    # shellcheck disable=SC2016  # await evaluates it.
    await 'no sessions' eval 'pinfold ls --socket $socket | grep " short " || echo no sessions'
    carried_over upgrade "$next"

    systemctl stop host-four.service
    running=${running%,c four running}
    await "$running" servers state
    check 'upgrade: a server whose host ends is ended' "$running" "$got"
    pinfold end --server a/two --socket "$socket" >/dev/null
    check 'upgrade: what is ended has gone when that is said' "a one running,b three running" "$(servers state)"
    running='a one running,b three running'
    await 6 eval 'alive | wc -w'
    pids=$(alive)
    check 'upgrade: and all its processes with it' 6 "$(wc -w <<<"$pids")"
    holds 'upgrade: the history goes on over it' two pinfold history --socket "$socket"
}

downgrade() {
    echo 'a downgrade while sessions live'
    old=$(daemon)
    dpkg -i /mnt/host/now.deb
    carried_over downgrade "$now"
}

remove() {
    echo 'a removal while sessions live'
    local log=/tmp/removal
    # It cannot be taken out of what is no configuration any more.
    echo 'no json' >/root/broken/.mcp.json
    dpkg -r pinfold >"$log" 2>&1
    check 'remove: dpkg did it, although a file is still wrapped' 0 $?
    cat "$log"
    check 'remove: dpkg knows what is left of it' "rc $now" "$(installed)"
    check 'remove: root'"'"'s file is as it was' "$(cat /tmp/root.json)" "$(cat /root/project/.mcp.json)"
    check 'remove: so is the user'"'"'s' "$(cat /tmp/agent.json)" "$(cat /home/agent/.claude.json)"
    check 'remove: and it is theirs' agent "$(stat --format %U /home/agent/.claude.json)"
    holds 'remove: what is still wrapped is told' /root/broken/.mcp.json cat "$log"
    holds 'remove: and of whom' 'still wrapped (see above), of: root' cat "$log"
    holds 'remove: what lives on is told' ' three ' cat "$log"
    holds 'remove: and how to end it' 'systemctl stop pinfold.slice' cat "$log"
    check 'remove: it lives' "$pids" "$(alive)"
    check 'remove: the daemon does not' inactive "$(systemctl is-active pinfold.service)"
    check 'remove: its program and units are gone' '' "$(find /usr -xdev -iname '*pinfold*')"
    check 'remove: its configuration stays' '# mine' "$(tail -n 1 /etc/pinfold/pinfold.toml)"

    dpkg -i /mnt/host/now.deb
    old=0
    carried_over 'installed anew' "$now"
    dpkg -r pinfold >/dev/null 2>&1
    check 'remove: once more' "rc $now" "$(installed)"
    systemctl stop pinfold.slice
    await '' alive
    check 'remove: what it says ends what lived on' '' "$got"
}

purge() {
    echo 'a purge'
    dpkg -P pinfold
    check 'purge: dpkg did it' 0 $?
    holds 'purge: dpkg knows nothing of it' 'no packages found' installed
    check 'purge: the group is gone' '' "$(getent group pinfold)"
    check 'purge: what stood in a file that is still wrapped is left' 1 "$(find "$kept" -name '*.before' | wc -l)"
    rm -rf /var/lib/pinfold
    dpkg -i /mnt/host/now.deb >/dev/null
    dpkg -P pinfold >/dev/null
    check 'purge: with nothing wrapped it leaves no trace' "$(cat /tmp/traces)" "$(traces)"
    check 'purge: and no unit' '' "$(systemctl list-units --all --plain --no-legend 'pinfold*')"
}

# The guest has no package passwd.
# shellcheck disable=SC2016  # Its own $1.
printf '%s\n' '#!/bin/sh' 'sed -i "/^$1:/d" /etc/group /etc/gshadow' >/usr/local/sbin/groupdel
chmod 755 /usr/local/sbin/groupdel

version() { dpkg-deb --field "$1" Version; }
now=$(version /mnt/host/now.deb) next=$(version /mnt/host/next.deb)
running='a one running,a two running,b three running,c four running'
install_now
wrap_and_launch
upgrade
downgrade
remove
purge
((failed == 0)) || journalctl --no-pager --quiet --boot --lines=80 --unit='*pinfold*' --unit='host-*'
echo "$passed passed, $failed failed"
((failed == 0))
