# What pinfold needs to be built, shown and tested: set up once per machine, and again only where something changed.
# Sourced by tests/run and deploy/demo/run, from the repository's top. Debian packages are installed only where a command is
# missing; what is downloaded stays in tests/.cache, tests/servers/node_modules and target. Several may set up at once: each thing
# has a lock, and whoever comes second finds it done.
# shellcheck shell=bash

readonly cache=$PWD/tests/.cache
readonly venv=$cache/servers-venv
# Of all that is on npm, this carries the schema of Compose.
readonly compose_schema=dclint@3.1.0
# What chrome-devtools-mcp asks for; and what stands in where a distribution's is older.
readonly node_least=20.19.0 node_instead=22.23.3 npm_instead=11.19.1

# What looks at and packs what cargo makes. Another version is another directory, and is built anew.
readonly cargo_deb=3.8.0 cargo_generate_rpm=0.21.1 cargo_deny=0.20.2
# How long whoever needs what another process sets up waits for it, in seconds.
readonly lock_most=1200

export npm_config_update_notifier=false npm_config_fund=false npm_config_audit=false
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore DEBIAN_FRONTEND=noninteractive
# A cargo that rustup has put here is found also where no login shell has read its profile.
[[ -d ${CARGO_HOME:-${HOME:-/root}/.cargo}/bin ]] && PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin

# quietly COMMAND…: what it prints is seen only when it fails.
quietly() {
    local log status
    log=$(mktemp) || return
    "$@" >"$log" 2>&1
    status=$?
    ((status == 0)) || cat "$log" >&2
    rm -f "$log"
    return "$status"
}

have() { command -v "$1" >/dev/null 2>&1; }

root() { ((EUID == 0)); }

# locked NAME COMMAND…: one at a time of those with this name. It stands in a shell of its own, so what it sets is lost.
locked() {
    local name=$1
    shift
    mkdir -p "$cache/locks" || return
    (
        flock --nonblock 9 || {
            echo "waiting for another process that sets this up ($name)"
            flock --wait "$lock_most" 9
        } || {
            echo "another process has kept $cache/locks/$name for $((lock_most / 60)) minutes; see who with: fuser $cache/locks/$name" >&2
            exit 1
        }
        # What a package starts would keep the lock.
        "$@" 9>&-
    ) 9>"$cache/locks/$name"
}

# debian WHY PACKAGE…
debian() {
    local why=$1
    shift
    if ! root || ! have apt-get; then
        echo "$why is missing. As root on Debian or Ubuntu it is installed here; else install: $*" >&2
        return 1
    fi
    echo "installing $* ($why is missing)"
    locked debian install_debian "$@"
}

install_debian() {
    # The recipe of the virtual machines may be at it too. In a session of its own, it is not cut short with its caller: what is
    # half installed would be in everybody's way.
    quietly apt-get update &&
        quietly setsid --wait apt-get -o DPkg::Lock::Timeout=600 install --yes --no-install-recommends "$@"
}

# A command is there before all that it needs is.
debian_settled() { locked debian true; }

# stamped FILE COMMAND…: runs the command unless it has already succeeded for the same inputs (on stdin).
stamped() {
    local stamp=$1 inputs
    shift
    inputs=$(sha256sum) || return
    locked "${stamp//\//-}" unless_stamped "$stamp" "$inputs" "$@"
}

unless_stamped() { # FILE INPUTS COMMAND…
    [[ ! -f $1 || $(<"$1") != "$2" ]] || return 0
    "${@:3}" && printf '%s\n' "$2" >"$1"
}

# ---- What the rings need

rust() {
    have cc || debian 'a C linker' build-essential || return
    have cargo || {
        echo 'cargo is missing: install Rust (https://rustup.rs; the version is in Cargo.toml)' >&2
        return 1
    }
    cargo --version
}

# What libFuzzer is compiled with.
cxx() {
    debian_settled || return
    have c++ || debian 'a C++ compiler' build-essential || return
    c++ --version | head -n 1
}

rust_lints() {
    rust || return
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 && return
    have rustup || {
        echo 'cargo fmt and cargo clippy are missing: install rustfmt and clippy' >&2
        return 1
    }
    quietly rustup component add rustfmt clippy
}

# cargo_tool NAME VERSION [FLAG...]: a program of cargo's, built here once. It works little, so that to optimise it would take
# longer than all that it ever does.
cargo_tool() {
    local into=$cache/tools/$1-$2
    PATH=$PATH:$into/bin
    locked "$1" build_cargo_tool "$into" "$@"
}

build_cargo_tool() { # INTO NAME VERSION [FLAG...]
    [[ ! -x $1/bin/$2 ]] || return 0
    echo "building $2 $3 into tests/.cache"
    CARGO_TARGET_DIR=$cache/tools/building-$2 CARGO_PROFILE_DEV_DEBUG=0 \
        quietly cargo install --locked --debug --root "$1" "${@:4}" "$2@$3" || return
    rm -rf "$cache/tools/building-$2"
}

dependency_lints() {
    cargo_tool cargo-deny "$cargo_deny"
}

packers() {
    debian_settled || return
    # xz(1) packs for it, which spares it a library in C.
    have xz || debian xz xz-utils || return
    cargo_tool cargo-deb "$cargo_deb" --no-default-features || return
    cargo_tool cargo-generate-rpm "$cargo_generate_rpm" || return
    have dpkg-deb || debian 'dpkg' dpkg || return
    have rpm || debian rpm rpm
}

# A terminal that tells what stands on it.
tmux_here() {
    have tmux || debian tmux tmux || return
    tmux -V
}

# What counts calls and instructions, and adds them up (tomllib is of Python 3.11).
counters() {
    have strace || debian strace strace || return
    have valgrind || debian Valgrind valgrind || return
    { have python3 && python3 -c 'import tomllib' 2>/dev/null; } || debian 'python3, 3.11 or newer,' python3 || return
    strace --version | head -n 1 && valgrind --version && python3 --version
}

# A browser that needs no screen.
chromium_here() {
    debian_settled || return
    have chromium || debian Chromium chromium || return
    chromium --version --no-sandbox 2>/dev/null | head -n 1
}

node_suffices() {
    have node && have npm && have npx || return
    local found
    found=$(node --version) || return
    printf '%s\n' "$node_least" "${found#v}" | sort --version-sort --check=quiet
}

node_runtime() {
    debian_settled || return
    PATH=$cache/node/node_modules/.bin:$PATH
    if ! node_suffices; then
        have npm || debian npm nodejs npm || return
    fi
    if ! node_suffices; then
        locked node install_node || return
        hash -r
        node_suffices || return
    fi
    echo "node $(node --version), npm $(npm --version)"
}

install_node() {
    ! node_suffices || return 0
    echo "installing node $node_instead into tests/.cache (here is $(node --version), needed is $node_least)"
    quietly npm install --prefix "$cache/node" --no-save "node@$node_instead" "npm@$npm_instead"
}

npm_packages() {
    debian_settled || return
    { have make && have g++; } || debian 'a C++ compiler' build-essential || return
    have python3 || debian python3 python3 || return
    # The one native module comes built, or where that cannot be had is compiled, against Node-API and so with the
    # headers of any Node: those that lie beside it or the distribution's, which saves one more download.
    local prefix headers
    prefix=$(node -p 'require("path").resolve(process.execPath, "../..")') || return
    for headers in "$prefix" /usr; do
        [[ -f $headers/include/node/node_api.h ]] || continue
        local -x npm_config_nodedir=$headers
        break
    done
    { cat tests/servers/package.json tests/servers/package-lock.json && node --version; } |
        stamped tests/servers/node_modules/.installed quietly npm ci --prefix tests/servers
}

# Two versions of OpenClaw and the Node that they want, as their locks have them; 1.7 GB. Nothing that comes with them runs
# while they are installed.
openclaw_gateways() {
    local each from
    for each in node 2026.4.15 2026.9.6; do
        from=tests/openclaw/installed/$each
        { cat "$from/package.json" "$from/package-lock.json" && uname --machine; } |
            stamped "$cache/openclaw-$each/.installed" fill_openclaw "$from" "$cache/openclaw-$each" || return
    done
    "$cache/openclaw-node/node_modules/.bin/node" --version
}

# fill_openclaw FROM INTO
fill_openclaw() {
    mkdir -p "$2" && cp "$1/package.json" "$1/package-lock.json" "$1/.npmrc" "$2" &&
        quietly npm ci --ignore-scripts --prefix "$2"
}

python_packages() {
    debian_settled || return
    { have python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; } ||
        debian 'python3 with venv' python3 python3-venv || return
    { cat tests/servers/requirements.txt && python3 --version; } | stamped "$venv/.installed" fill_venv
}

fill_venv() {
    quietly python3 -m venv --clear "$venv" &&
        quietly "$venv/bin/pip" install --requirement tests/servers/requirements.txt &&
        # uvx keeps an environment of its own; the ring then runs it without network. It is to trust whom pip and npm trust.
        UV_SYSTEM_CERTS=1 UV_NATIVE_TLS=1 UV_CACHE_DIR=$cache/uv UV_CONSTRAINT=tests/servers/requirements.txt \
            UV_PYTHON=$venv/bin/python UV_PYTHON_DOWNLOADS=never \
            quietly "$venv/bin/uvx" mcp-server-time --help
}

# What the papers for containers are checked against: the schemas of Kubernetes and of Compose, as these packages carry them.
container_schemas() {
    { have python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; } ||
        debian 'python3 with venv' python3 python3-venv || return
    { cat tests/containers/requirements.txt && echo "$compose_schema" && python3 --version; } |
        stamped "$cache/containers/.installed" fill_container_schemas
}

fill_container_schemas() {
    quietly python3 -m venv --clear "$cache/containers" &&
        quietly "$cache/containers/bin/pip" install --requirement tests/containers/requirements.txt &&
        quietly npm install --prefix "$cache/containers" --no-save --ignore-scripts --omit=dev "$compose_schema"
}

container_papers() {
    "$cache/containers/bin/python" tests/containers/check \
        "$cache/containers/node_modules/${compose_schema%@*}/schemas/compose.schema.json"
}

# Debian's package, taken apart into the cache: installed, it would start a server of its own, and at each boot.
prometheus_tools() {
    if ! { have prometheus && have promtool; }; then
        PATH=$PATH:$cache/prometheus/usr/bin
        locked debian unpack_prometheus || return
        hash -r
    fi
    promtool --version 2>&1 | head -n 1
}

unpack_prometheus() {
    ! { have prometheus && have promtool; } || return 0
    have apt-get || {
        echo 'prometheus and promtool are missing: install Prometheus' >&2
        return 1
    }
    echo 'downloading prometheus into tests/.cache'
    local new=$cache/prometheus.new
    rm -rf "$new" "$cache/prometheus" && mkdir -p "$new" || return
    quietly env -C "$new" apt-get download prometheus || {
        root && quietly apt-get update && quietly env -C "$new" apt-get download prometheus
    } || return
    dpkg-deb --extract "$new"/prometheus_*.deb "$new" && rm "$new"/prometheus_*.deb && mv "$new" "$cache/prometheus"
}
