# shellcheck shell=bash disable=SC2034,SC2154 # The files that `machine` sources share its variables.
# The processes and the scratch folder of one call of `machine`: however it ends, neither stays behind.
# Only `machine` sources this file.

# What runs, by pid. Signals go to these pids alone, never to a name.
declare -A children=()
scratch=

leave() {
    local status=$?
    set +e
    trap - ERR
    trap '' INT TERM HUP
    end_children
    if [[ -n $scratch ]]; then rm -rf "$scratch"; fi
    exit "$status"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Asks first: a build step has processes of its own to end.
end_children() {
    local signal tenths pid
    for signal in TERM KILL; do
        for ((tenths = 0; tenths < 50; tenths++)); do
            for pid in "${!children[@]}"; do
                if ! kill -0 "$pid" 2>/dev/null; then unset "children[$pid]"; fi
            done
            ((${#children[@]})) || return 0
            if ((tenths == 0)); then kill "-$signal" "${!children[@]}" 2>/dev/null; fi
            sleep 0.1
        done
    done
}

make_scratch() {
    if [[ -n $scratch ]]; then rm -rf "$scratch"; fi
    scratch=$(mktemp --directory)
}

# Runs a build step with its output in the log and a deadline. It stands in the background because bash
# answers no signal while a command in the foreground runs, and a build step takes minutes.
step() { # SECONDS COMMAND...
    local seconds=$1 pid
    shift
    printf '+ %s\n' "$*" >>"$log"
    setpriv --pdeathsig TERM -- timeout --kill-after=10 "$seconds" "$@" >>"$log" 2>&1 </dev/null &
    pid=$!
    children[$pid]=step
    wait "$pid" || die "\`$1\` failed or took over $seconds s: $(reason_in_log) (the log is $log)"
    unset "children[$pid]"
}

# apt and mmdebstrap mark errors with E:, and the first one is the cause of the others.
reason_in_log() {
    grep --max-count=1 '^E: ' "$log" || tail -n 1 "$log"
}
