#!/usr/bin/env bash
# In the guest: runs the systemd ring against the service manager of whoever runs this.
set -euo pipefail

here=$(mktemp -d)
cp /mnt/host/pinfold /mnt/host/systemd "$here/"
chmod 755 "$here"
export PINFOLD_TEST_HOST=systemd PINFOLD_TEST_SLOWNESS=4 PINFOLD_TEST_BINARY=$here/pinfold
"$here/systemd" --test-threads 1 "$@"
