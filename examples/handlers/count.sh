#!/bin/sh
# text/count: counts the bytes of its parameters. Progress goes to descriptor 3,
# one JSON object a line; the result is the JSON on standard output.
set -eu
printf '{"percent":50,"message":"counting"}\n' >&3
bytes=$(wc -c | tr -d ' ')
printf '{"bytes":%s}\n' "$bytes"
