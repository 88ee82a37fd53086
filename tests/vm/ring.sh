# In the guest, for the scripts that run a ring: its program's tests, and those that failed once more.
# shellcheck shell=bash

# How many may fail at the first go.
readonly AGAIN_MAX=2

# ring PROGRAM ARGUMENT...: runs the tests. A guest is emulated and may be starved by its host for seconds, beyond any deadline
# that a test can have; so two at most that fail may show alone that they do not fail for what they are about. It is told.
ring() {
    local told test failed=()
    told=$(mktemp)
    if "$@" | tee "$told"; then
        return 0
    fi
    # The last of two lists of that name: the first has what they said.
    mapfile -t failed < <(tac "$told" | sed '/^failures:$/q' | sed -n 's/^    \([a-z0-9_]\+::[a-z0-9_:]\+\)$/\1/p')
    if ((${#failed[@]} == 0 || ${#failed[@]} > AGAIN_MAX)); then
        return 1
    fi
    for test in "${failed[@]}"; do
        echo "FAILED, and once more alone: $test"
        "$1" --test-threads 1 --exact "$test" | tee "$told" || return 1
        grep -q '^test result: ok\. 1 passed;' "$told" || return 1
    done
    echo "passed at the second go only: ${failed[*]}"
}
