#!/usr/bin/env bash
# In the guest, as root on the system manager: idle servers, with swap. The installed service, real MCP servers from npm, and
# the official client as their host.
#
#   park.sh [TURNS] [SESSIONS] [PART...]    how many random turns, how many sessions of three servers are parked for the table,
#                                           and which parts of park.mjs, all of them unless told
set -euo pipefail

export PINFOLD=/usr/local/bin/pinfold
swap=/var/lib/swap
fallocate -l "$(df --output=avail --block-size=1 /var/lib | awk 'END { printf "%.0f", $1 * 2 / 3 }')" "$swap"
chmod 600 "$swap"
mkswap --quiet "$swap" && swapon "$swap"
install -m 755 /mnt/host/pinfold "$PINFOLD"
cp /mnt/host/units/pinfold.service /etc/systemd/system/
mkdir -p /etc/pinfold
: >/etc/pinfold/pinfold.toml
systemctl daemon-reload
systemctl start pinfold.service
# On a disk of the guest, where a server that starts reads its hundreds of files.
cp -r /mnt/host/servers .
cd servers
tar --extract --file=/mnt/host/servers.tar
node park.mjs "${1:-20}" "${2:-1}" "${@:3}"
systemctl stop pinfold.service
swapoff "$swap"
