#!/bin/sh
# Clones a repository into the library "demo" and reads its first file.
#
#   client.sh URL
set -eu
server=${C4A_URL:-http://127.0.0.1:5110}

# call METHOD PARAMS prints the answer of the library's daemon. The token goes
# through a pipe: the arguments of a process can be read by other users.
call() {
	if [ -n "${C4A_API_TOKEN-}" ]; then printf 'header = "Authorization: Bearer %s"\n' "$C4A_API_TOKEN"; fi |
		curl -sS --config - "$server/libraries/demo/rpc" \
			-d '{"jsonrpc":"2.0","id":1,"method":"'"$1"'","params":'"$2"'}'
}

call vcs/clone '{"url":"'"$1"'","name":"example"}'
call index/manifest '{"path":"repos/example","limit":1}'
