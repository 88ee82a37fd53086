# What the scripts that run in a guest check with. They source it.
# shellcheck shell=bash

passed=0 failed=0

check() { # NAME WANTED GOT
    if [[ $3 == "$2" ]]; then
        passed=$((passed + 1))
        echo "ok    $1"
    else
        failed=$((failed + 1))
        printf 'FAIL  %s\n      wanted: %s\n      got:    %s\n' "$1" "$2" "$3"
    fi
}

# Waits for a level: until the command says what is wanted; its last word is left in $got.
await() { # WANTED COMMAND...
    local deadline=$((SECONDS + 180))
    while got=$("${@:2}" 2>&1); [[ $got != "$1" ]] && ((SECONDS < deadline)); do sleep 0.2; done
}

awaited() { # NAME WANTED COMMAND...
    await "${@:2}"
    check "$1" "$2" "$got"
}
