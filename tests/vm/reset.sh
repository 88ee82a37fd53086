# shellcheck shell=bash disable=SC2034,SC2154 # The files that `machine` sources share its variables.
# A cold boot of a machine that runs, by its reset button or by its own systemd. No saved state depends on it, so a change here outdates none.
# Only `machine` sources this file.

# Presses the reset button: nothing in the machine is stopped first.
reset_machine() {
    activity='the machine booted after its reset'
    allow_boot
    monitor system_reset
    await_boot
}

# Has the machine stop all that runs in it, and boot again.
reboot_machine() {
    activity='the machine rebooted'
    allow_boot
    printf "%s 'root' 'alone' 'systemctl' 'reboot'\n" "$(date +%s.%N)" >&"$control_out"
    await_boot
}

# QEMU was told to end instead of booting again, as after a panic. That holds off until the guest is up, because its BIOS resets
# the machine once more when it finds that it had run before.
allow_boot() {
    monitor set-action '{"reboot": "reset"}'
}

# Waits until another kernel has booted from the disk as the one before left it. A shared folder stays plugged in.
await_boot() {
    local deadline=$((SECONDS + 300))
    line=
    # The job-runner may still tell how `systemctl reboot` fares.
    while [[ $line =~ ^(started|exit 0)?$ ]]; do
        listen "$control_in" $((deadline - SECONDS)) ||
            die "the guest did not boot again within 300 s; the last that was heard: $(last_words)"
    done
    [[ $line == ready ]] || die "the guest did not come up whole again: $line"
    monitor set-action '{"reboot": "shutdown"}'
    activity='the machine ran'
}
