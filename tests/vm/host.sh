# shellcheck shell=bash disable=SC2034,SC2154 # The files that `machine` sources share its variables.
# What the host must have, and its installation from the host's own Debian mirror.
# Only `machine` sources this file. It never changes the host's apt sources: backports are looked up
# through lists of its own.

# Debian's package for each command that the other files run.
declare -A package_of=(
    [mmdebstrap]=mmdebstrap [mkfs.ext4]=e2fsprogs [lz4]=lz4 [xz]=xz-utils [zstd]=zstd
    [flock]=util-linux [setpriv]=util-linux [timeout]=coreutils
)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
PATH=$PATH:/usr/sbin:/sbin

need_host() {
    local missing
    ((EUID == 0)) || die "building and running the machine needs root (apt, chroot, virtiofsd); run it as root"
    [[ $(uname -m) == x86_64 ]] || die "the machine's recipe is for x86_64 hosts, this one is $(uname -m)"
    command -v apt-get >/dev/null || die "the machine is built with Debian's packages, and there is no apt-get here"
    if host_is_ready; then return; fi
    mkdir -p "$cache/host"
    exec {host_lock}>"$cache/host/lock"
    flock --wait 1200 "$host_lock" || die "another process has kept $cache/host/lock for 20 minutes"
    if ! host_is_ready; then install_missing; fi
    exec {host_lock}>&-
}

host_is_ready() {
    mapfile -t missing < <(missing_packages)
    ((${#missing[@]} == 0)) && qemu_is_recent && find_virtiofsd
}

missing_packages() {
    local command
    for command in "${!package_of[@]}"; do
        command -v "$command" >/dev/null || echo "${package_of[$command]}"
    done
    [[ -f $keyring ]] || echo debian-archive-keyring
}

# QEMU 7.2, which Debian 12 has, panics a 6.12 kernel every other boot, and it cannot restore from a file.
qemu_is_recent() {
    local version
    command -v qemu-system-x86_64 >/dev/null || return 1
    version=$(qemu-system-x86_64 --version | sed -n '1s/.*version \([0-9]*\).*/\1/p')
    ((version >= 10))
}

# Debian 13 has virtiofsd as a package; before, it was a part of qemu-system-common.
find_virtiofsd() {
    for virtiofsd in /usr/libexec/virtiofsd /usr/lib/qemu/virtiofsd "$cache/host/virtiofsd"; do
        if [[ -x $virtiofsd ]]; then return 0; fi
    done
    return 1
}

install_missing() {
    local release=()
    log=$cache/host/log
    : >"$log"
    say "installing what the host lacks, log in $log"
    find_mirror
    apt_lists_with_backports
    if ! qemu_is_recent; then
        missing+=(qemu-system-x86)
        if ! candidate_is_recent; then release=(--target-release "$codename-backports"); fi
    fi
    if ! find_virtiofsd && has_candidate virtiofsd; then missing+=(virtiofsd); fi
    if ((${#missing[@]})); then
        step 900 apt-get "${private_apt[@]}" "${release[@]}" install --yes --no-install-recommends "${missing[@]}"
    fi
    qemu_is_recent || die "QEMU 10 or later is needed, and neither $codename nor its backports have it"
    if ! find_virtiofsd; then extract_virtiofsd; fi
    rm -rf "$cache/host/apt"
}

# The host's sources and its backports, with lists of their own.
apt_lists_with_backports() {
    local own=$cache/host/apt file
    rm -rf "$own"
    mkdir -p "$own"/{sources,lists/partial,cache/archives/partial}
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources}; do
        if [[ -f $file ]]; then cp "$file" "$own/sources/"; fi
    done
    echo "deb [signed-by=$keyring] $mirror $codename-backports main" >"$own/sources/pinfold-backports.list"
    private_apt=(
        -o "Dir::Etc::SourceList=/dev/null" -o "Dir::Etc::SourceParts=$own/sources"
        -o "Dir::State::Lists=$own/lists" -o "Dir::Cache=$own/cache"
        -o DPkg::Lock::Timeout=600 -o APT::Sandbox::User=root
    )
    step 300 apt-get "${private_apt[@]}" update
}

# Where the host gets Debian itself from; the guests come from there too.
find_mirror() {
    codename=$(sed -n 's/^VERSION_CODENAME="\?\([a-z]*\).*/\1/p' /etc/os-release)
    [[ -n $codename ]] || die "/etc/os-release names no VERSION_CODENAME; the host must be a Debian release"
    mirror=${PINFOLD_VM_MIRROR-}
    if [[ -z $mirror ]]; then
        # Without release info, because that would need an apt-get update first.
        # shellcheck disable=SC2016  # apt's own variables.
        mirror=$(apt-get indextargets --no-release-info --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' |
            awk -v codename="$codename" '$2 == "main" && ($1 == codename || $1 ~ /^(old)*stable$/) { print $3; exit }')
    fi
    [[ -n $mirror ]] || die "the apt sources name no Debian mirror for $codename; name one in PINFOLD_VM_MIRROR"
}

# Prints the host's own settings for its mirror, for an apt that works on the guest: a proxy, a clock to ignore.
fetch_settings() {
    apt-config dump | grep -E '^Acquire::(https?::.*|Check-Date|Check-Valid-Until|Retries) ' || true
}

candidate_is_recent() {
    local candidate
    candidate=$(apt-cache "${private_apt[@]}" policy qemu-system-x86 |
        sed -n 's/ *Candidate: \([0-9]*:\)\?\([0-9]*\).*/\2/p')
    ((${candidate:-0} >= 10))
}

has_candidate() { # PACKAGE
    apt-cache "${private_apt[@]}" policy "$1" | grep --quiet 'Candidate: [0-9]'
}

extract_virtiofsd() {
    local own=$cache/host/apt version
    version=$(apt-cache "${private_apt[@]}" madison qemu-system-common | awk '$3 ~ /^1:7\./ { print $3; exit }')
    [[ -n $version ]] || die "virtiofsd is in no package here: neither virtiofsd nor qemu-system-common 7"
    # apt-get downloads into the folder it stands in.
    pushd "$own" >/dev/null || return
    step 300 apt-get "${private_apt[@]}" download "qemu-system-common=$version"
    popd >/dev/null || return
    step 60 dpkg-deb --extract "$own"/qemu-system-common_*.deb "$own/unpacked"
    install "$own/unpacked/usr/lib/qemu/virtiofsd" "$cache/host/virtiofsd"
    find_virtiofsd
}
