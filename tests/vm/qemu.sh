# shellcheck shell=bash disable=SC2034,SC2154 # The files that `machine` sources share its variables.
# One QEMU process: boots the machine, saves it, restores it, shares a folder with it, stops it.
# Only `machine` sources this file. A machine's folder holds vmlinux, initrd, disk and state.

# What both the boot that is saved and every restore must have alike, so it stands once.
#  - Random numbers come from the CPU and the clock checks are skipped, because emulated time fails them.
#  - Memory is a shared object because virtiofsd must reach it.
#  - There is one CPU unless told, as small servers have it. With two, a fourth of what is emulated is one waiting for the other.
kernel_arguments='console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on no_timer_check tsc=reliable'
kernel_arguments+=' audit=0 net.ifnames=0 cryptomgr.notests'
machine_arguments=(
    -nodefaults -no-user-config -display none -no-reboot
    -accel 'tcg,thread=multi,tb-size=512' -cpu max -smp "$cpus" -m "${memory}M"
    -object "memory-backend-memfd,id=ram,size=${memory}M,share=on" -machine 'pc,memory-backend=ram'
    -kernel vmlinux -initrd initrd
    -append "$kernel_arguments"
    -device 'virtio-blk-pci,drive=disk'
    -device virtio-serial-pci
    -device 'virtserialport,chardev=control,nr=1'
    -device 'virtserialport,chardev=stdout,nr=2'
    -device 'virtserialport,chardev=stderr,nr=3'
    -mon 'chardev=monitor,mode=control'
)

# Starts QEMU in the machine's folder. It dies with this process, even if that is killed outright.
start_qemu() { # FOLDER DISK-OPTION QEMU-ARGUMENT...
    local folder=$1 disk_option=$2
    shift 2
    mkfifo "$scratch"/{control,monitor}.{in,out}
    # Opened for reading and writing: that never blocks, and there is no end of file while QEMU comes up.
    exec {control_out}<>"$scratch/control.in" {control_in}<>"$scratch/control.out"
    exec {monitor_out}<>"$scratch/monitor.in" {monitor_in}<>"$scratch/monitor.out"
    TMPDIR=$scratch setpriv --pdeathsig KILL -- env --chdir="$folder" \
        qemu-system-x86_64 "${machine_arguments[@]}" \
        -drive "if=none,id=disk,format=raw,cache=unsafe,file=disk,$disk_option" \
        -chardev "pipe,id=control,path=$scratch/control" \
        -chardev "file,id=stdout,path=$scratch/stdout" \
        -chardev "file,id=stderr,path=$scratch/stderr" \
        -chardev "pipe,id=monitor,path=$scratch/monitor" \
        -serial "file:$scratch/console" \
        "$@" </dev/null >"$scratch/qemu.log" 2>&1 &
    qemu=$!
    children["$qemu"]=QEMU
    listen "$monitor_in" 60 || die "QEMU did not come up within 60 s; is the host overloaded?"
    monitor qmp_capabilities
}

boot_machine() { # FOLDER
    activity='the new machine booted'
    start_qemu "$1" snapshot=off
    listen "$control_in" 300 || die "the guest did not boot within 300 s; the last that was heard: $(last_words)"
    [[ $line == ready ]] || die "the guest did not come up whole: $line"
}

# Writes of a restored machine go to a file that QEMU has already unlinked: the disk must stay as it was
# at the moment the state was saved, or the guest's page cache would not match it.
restore_machine() { # FOLDER
    activity="the machine was restored (if that happens again, remove $1 to have it built anew)"
    start_qemu "$1" snapshot=on -incoming file:state
    await_status query-status '"status": "paused"' '"status": "(internal-error|io-error)"'
    monitor cont
    activity='the machine ran'
}

save_machine() {
    activity='the machine was saved'
    monitor stop
    monitor migrate-set-parameters '{"max-bandwidth": 4000000000}'
    monitor migrate '{"uri": "file:state"}'
    await_status query-migrate '"status": "completed"' '"status": "(failed|cancelled)"'
}

stop_machine() {
    local twentieths
    kill -TERM "$qemu"
    for ((twentieths = 0; twentieths < 600; twentieths++)); do
        if ! kill -0 "$qemu" 2>/dev/null; then
            unset "children[$qemu]"
            return
        fi
        sleep 0.05
    done
    die "QEMU did not stop within 30 s and was killed; does something still read the command's output?"
}

# The guest sees FOLDER as the virtiofs device "host". It is plugged in now because QEMU cannot save a
# machine that has one.
share_folder() { # FOLDER
    local socket=$scratch/share tenths
    # The sandbox of the two that also works where the tests run in a container or a chroot.
    setpriv --pdeathsig KILL -- "$virtiofsd" --socket-path="$socket" -o "source=$1" -o sandbox=chroot -o cache=auto \
        </dev/null >"$scratch/virtiofsd.log" 2>&1 &
    children[$!]=virtiofsd
    for ((tenths = 0; ; tenths++)); do
        [[ ! -S $socket ]] || break
        require_children
        ((tenths < 300)) || die "virtiofsd did not listen within 30 s; is the host overloaded?"
        sleep 0.1
    done
    monitor chardev-add '{"id": "share", "backend": {"type": "socket", "data":
        {"server": false, "addr": {"type": "unix", "data": {"path": "'"$socket"'"}}}}}'
    monitor device_add '{"driver": "vhost-user-fs-pci", "id": "share", "chardev": "share", "tag": "host"}'
}

# Gives a command to QEMU's monitor; the answer is left in $line.
monitor() { # COMMAND [JSON-ARGUMENTS]
    printf '{"execute": "%s", "arguments": %s}\n' "$1" "${2-"{}"}" >&"$monitor_out"
    while :; do
        listen "$monitor_in" 60 || die "QEMU did not answer $1 within 60 s; is the host overloaded?"
        case $line in
            '{"return"'*) return 0 ;;
            '{"error"'*) die "QEMU refused $1: $line; the last that was heard: $(last_words)" ;;
        esac
    done
}

await_status() { # COMMAND WANTED-PATTERN FAILED-PATTERN
    local deadline=$((SECONDS + 120))
    while :; do
        monitor "$1"
        if [[ $line =~ $2 ]]; then return; fi
        [[ ! $line =~ $3 ]] || die "QEMU cannot go on with the machine's state: $line"
        ((SECONDS < deadline)) || die "QEMU took over 120 s with the machine's state; is the host overloaded?"
        sleep 0.05
    done
}

# Reads one line into $line. Returns 1 when the deadline passes first.
listen() { # DESCRIPTOR SECONDS
    local deadline=$((SECONDS + $2)) part
    line=
    until IFS= read -r -t 1 -u "$1" part; do
        # A read that times out keeps what it got, which can be half a line.
        line+=$part
        require_children
        ((SECONDS < deadline)) || return 1
    done
    line+=$part
}

# A machine with a dead part answers nothing, so every wait looks at the parts.
require_children() {
    local pid
    for pid in "${!children[@]}"; do
        if kill -0 "$pid" 2>/dev/null; then continue; fi
        # When QEMU ends, what hangs on it ends too, and can be seen to end first.
        sleep 0.5
        kill -0 "$qemu" 2>/dev/null || pid=$qemu
        die "${children[$pid]} ended while $activity; the last that was heard: $(last_words)"
    done
}

last_words() {
    local words
    words=$(cat "$scratch"/{console,qemu.log,virtiofsd.log} 2>/dev/null |
        tr --complement --delete '[:print:]\n' | grep . | tail -n 1) || true
    echo "${words:-nothing}"
}
