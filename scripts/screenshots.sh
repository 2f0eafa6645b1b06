#!/usr/bin/env bash
# Takes screenshots of the status page in a real Chromium: light, dark, 360 pixels
# wide, a running clone, an error, 1,000 daemons. It needs the packages chromium and
# chromium-driver.
#
#   scripts/screenshots.sh [DIRECTORY]    default: ./screenshots
set -euo pipefail
dir=${1:-screenshots}
mkdir -p -- "$dir"
dir=$(cd -- "$dir" && pwd)
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
TEST_SCREENSHOTS=$dir go test -count=1 -run 'TestPageInBrowser/pictures' .
ls -l -- "$dir"
