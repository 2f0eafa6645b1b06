#!/usr/bin/env bash
# Checks that the tables of docs/scale.md are the output of scripts/scale.py.
#
#   scripts/test-scale.sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
. scripts/testlib.sh
need python3:python3

scripts/scale.py --check
scripts/scale.py >"$tmp/once"
scripts/scale.py >"$tmp/twice"
cmp "$tmp/once" "$tmp/twice" || die 'two runs differ, want the same tables'
printf 'docs/scale.md: its tables are those of scripts/scale.py\n'
