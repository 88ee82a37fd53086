#!/usr/bin/env bash
# In the guest: runs the systemd ring against the service manager of whoever runs this, and tells what it passed over.
set -euo pipefail
# shellcheck source=tests/vm/ring.sh
source "$(dirname "$0")/ring.sh"

here=$(mktemp -d)
cp /mnt/host/pinfold /mnt/host/systemd "$here/"
chmod 755 "$here"
export PINFOLD_TEST_HOST=systemd PINFOLD_TEST_SLOWNESS=4 PINFOLD_TEST_BINARY=$here/pinfold
export PINFOLD_TEST_PASSED_OVER=$here/passed-over
touch "$PINFOLD_TEST_PASSED_OVER"
ring "$here/systemd" --test-threads 1 "$@"
echo "passed over: $(wc -l <"$PINFOLD_TEST_PASSED_OVER")"
cut -d: -f3- "$PINFOLD_TEST_PASSED_OVER" | sort | uniq -c
