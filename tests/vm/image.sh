# shellcheck shell=bash disable=SC2034,SC2154 # The files that `machine` sources share its variables.
# The recipe of the guest: a Debian root filesystem, Debian's cloud kernel, and an initrd that joins them.
# Only `machine` sources this file. A change here, in qemu.sh or in guest/ makes a prepared machine outdated.

guest_packages=(
    systemd systemd-sysv libpam-systemd dbus dbus-user-session
    bubblewrap cgroup-tools kmod nodejs procps python3 systemd-oomd
    podman crun # neither netavark nor catatonit, which are recommended only: containers there have no network and their own init
    busybox-static # for the initrd
)
# What only one suite's guest has.
suite_packages() { # SUITE
    # Its client comes with the daemon in Debian 12, whose containers are podman's here.
    if [[ $1 == trixie ]]; then echo docker.io docker-cli; fi
}
# The modules between the kernel and its root, and the devices of qemu.sh. There is no udev to load them.
boot_modules=(virtio_pci virtio_blk ext4 crc32c_generic virtio_console virtiofs)

build_image() { # SUITE FOLDER
    local suite=$1 folder=$2 root=$2/root kernel busybox=$2/root/bin/busybox
    find_mirror
    install_root
    unpack_kernel
    make_initrd
    configure_root
    describe_root >"$folder/versions"
    # Without a journal: no machine ever runs long enough to need it.
    step 300 mkfs.ext4 -q -m 0 -O ^has_journal -E lazy_itable_init=0 -d "$root" "$folder/disk" "${disk_size}G"
    rm -rf "$root" "$folder"/{initrd.d,apt.conf}
}

install_root() {
    # The kernel is only fetched: its installation would build an initrd for real hardware, which is slow.
    # shellcheck disable=SC2016  # mmdebstrap's shell expands it, with the root as $1.
    local fetch_kernel='cd "$1/var/tmp" && export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" &&
        kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n "s/ *Depends: \(linux-image-\)/\1/p") &&
        apt-get download "$kernel"'
    fetch_settings >"$folder/apt.conf"
    # What the tests never read stays out.
    step 900 mmdebstrap --mode=root --format=directory --variant=essential \
        --include="${guest_packages[*]} $(suite_packages "$suite")" --aptopt="$folder/apt.conf" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/i18n/*' \
        --customize-hook="$fetch_kernel" \
        "$suite" "$root" "deb [signed-by=$keyring] $mirror $suite main"
}

# Leaves the modules in the root and the uncompressed kernel beside it: decompressing itself takes the
# emulated machine longer than the rest of its kernel's start.
unpack_kernel() {
    local package image
    package=$(echo "$root"/var/tmp/linux-image-*.deb)
    # In Debian 13 the package says /usr/lib where Debian 12 says /lib, which is a symlink by now.
    dpkg-deb --fsys-tarfile "$package" | tar --extract --keep-directory-symlink --directory="$root"
    image=$(echo "$root"/boot/vmlinuz-*)
    kernel=${image#*/vmlinuz-}
    unpack_vmlinux "$image" >"$folder/vmlinux"
    rm -r "$package" "${root:?}"/boot/*
    chroot "$root" depmod "$kernel"
}

# Prints the ELF image inside a bzImage. The kernel's Documentation/arch/x86/boot.rst tells the header: the
# payload stands payload_offset after the setup sectors, and its last four bytes are its unpacked size.
unpack_vmlinux() { # BZIMAGE
    local sectors offset length
    sectors=$(od --address-radix=n --format=u1 --skip-bytes=$((0x1f1)) --read-bytes=1 "$1")
    offset=$(od --address-radix=n --format=u4 --skip-bytes=$((0x248)) --read-bytes=4 "$1")
    length=$(od --address-radix=n --format=u4 --skip-bytes=$((0x24c)) --read-bytes=4 "$1")
    dd if="$1" iflag=skip_bytes,count_bytes bs=1M status=none \
        skip=$(((sectors + 1) * 512 + offset)) count=$((length - 4)) >"$folder/payload"
    case $(od --address-radix=n --format=x1 --read-bytes=4 "$folder/payload") in
        ' 28 b5 2f fd') zstd --decompress --stdout "$folder/payload" ;;
        ' 02 21 4c 18') lz4 --decompress --stdout "$folder/payload" ;;
        ' fd 37 7a 58') xz --decompress --stdout "$folder/payload" ;;
        *) gzip --decompress --stdout "$folder/payload" ;;
    esac
    rm "$folder/payload"
}

make_initrd() {
    local tree=$folder/initrd.d module path name order=10
    mkdir -p "$tree"/{bin,modules,dev,root}
    install "$busybox" "$tree/bin/busybox"
    install "$here/guest/init" "$tree/init"
    for module in "${boot_modules[@]}"; do
        # In the order in which they must be loaded; built-in ones need nothing.
        while read -r path; do
            name=${path##*/}
            name=${name%%.ko*}
            if compgen -G "$tree/modules/*-$name.ko" >/dev/null; then continue; fi
            case $path in
                *.xz) xz --decompress --stdout "$root$path" ;;
                *) cat "$root$path" ;;
            esac >"$tree/modules/$order-$name.ko"
            order=$((order + 1))
        done < <(chroot "$root" modprobe --set-version "$kernel" --show-depends "$module" 2>>"$log" |
            sed -n 's/^insmod \([^ ]*\).*/\1/p')
    done
    (cd "$tree" && find . | "$busybox" cpio -o -H newc 2>>"$log") >"$folder/initrd"
}

configure_root() {
    local unit
    install "$here/guest/job-runner" "$root/usr/local/sbin/job-runner"
    install --mode=644 "$here/guest/job-runner.service" "$root/etc/systemd/system/"
    mkdir -p "$root/etc/systemd/system/multi-user.target.wants" "$root/mnt/host"
    ln -s ../job-runner.service "$root/etc/systemd/system/multi-user.target.wants/"
    # The clock leaps forward at each restore, which would set off every timer that Debian's packages bring.
    ln -s /dev/null "$root/etc/systemd/system/timers.target"
    # The tests that want it unmask it: it would end what others overload.
    ln -sf /dev/null "$root/etc/systemd/system/systemd-oomd.service"
    # The tests that want docker start its daemon as they need it.
    for unit in docker.service docker.socket containerd.service; do ln -sf /dev/null "$root/etc/systemd/system/$unit"; done
    # Nobody logs in, and without udev a terminal's unit is waited for in vain.
    ln -s /dev/null "$root/etc/systemd/system/getty.target"

    echo 'agent:x:1000:1000::/home/agent:/bin/bash' >>"$root/etc/passwd"
    echo 'agent:x:1000:' >>"$root/etc/group"
    echo 'agent:*:19000::::::' >>"$root/etc/shadow"
    install --directory --mode=755 --owner=1000 --group=1000 "$root/home/agent"
    mkdir -p "$root/var/lib/systemd/linger"
    touch "$root/var/lib/systemd/linger/agent"

    echo pinfold-vm >"$root/etc/hostname"
    echo '127.0.0.1 localhost pinfold-vm' >"$root/etc/hosts"
    echo 'LANG=C.UTF-8' >"$root/etc/locale.conf"
    # Without an id, systemd takes the boot for a first one and sets itself up anew.
    tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
    rm -f "$root/etc/resolv.conf"
}

describe_root() {
    # shellcheck disable=SC2016  # dpkg-query's own variable.
    printf 'systemd %s, kernel %s\n' \
        "$(dpkg-query --admindir="$root/var/lib/dpkg" --show --showformat='${Version}' systemd)" "$kernel"
}
