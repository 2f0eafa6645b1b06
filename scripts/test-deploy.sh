#!/usr/bin/env bash
# Checks what deploy/ holds beside units and proxies: YAML and JSON parse, alert
# rules pass promtool, every metric is one that a running scheduler shows, every
# variable is one that a program reads.
#
#   scripts/test-deploy.sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
. scripts/testlib.sh
need go:golang python3:python3 curl:curl
python=python3
if ! "$python" -c 'import yaml' 2>/dev/null; then
	if [[ $EUID == 0 ]]; then { apt-get update -q && apt-get install -y -q --no-install-recommends python3-yaml; } >/dev/null 2>&1 || true; fi
	python=/usr/bin/python3
	"$python" -c 'import yaml' 2>/dev/null || skip 'python3-yaml is missing and cannot be installed'
fi

go build -o "$tmp/c4a-daemon" .
go build -tags scheduler -o "$tmp/c4a-daemon-scheduler" .
"$tmp/c4a-daemon-scheduler" --host "unix:$tmp/api" --workspace "$tmp/workspace" >"$tmp/log" 2>&1 &
at_end_kill $!
wait_for 'the scheduler' curl -sf --unix-socket "$tmp/api" http://localhost/readyz
# The workspace is measured in the background.
measured() { curl -s --unix-socket "$tmp/api" http://localhost/metrics >"$tmp/metrics" && grep -q '^c4a_workspace_bytes' "$tmp/metrics"; }
wait_for 'the size of the workspace in /metrics' measured
{ "$tmp/c4a-daemon" --help && "$tmp/c4a-daemon-scheduler" --help; } >"$tmp/help"

"$python" - "$tmp/metrics" "$tmp/help" <<-'END'
	import json, pathlib, re, sys
	import yaml

	metrics = set(re.findall(r"^(c4a_\w+)", open(sys.argv[1]).read(), re.M))
	variables = {"C4A_" + flag.upper().replace("-", "_") for flag in re.findall(r"^  --([a-z-]+)", open(sys.argv[2]).read(), re.M)}
	variables |= {"C4A_API_TOKEN", "C4A_DAEMON_TOKEN", "C4A_TOKEN", "C4A_PORT"}
	faults = []
	for path in sorted(pathlib.Path("deploy").rglob("*")):
	    if not path.is_file():
	        continue
	    text = path.read_text()
	    if path.suffix in (".yaml", ".yml"):
	        list(yaml.safe_load_all(re.sub(r"\$\{\w+\}", "x", text)))
	    if path.suffix == ".json":
	        json.loads(text)
	    for name in re.findall(r"\bc4a_[a-z_]+", text):
	        if path.parent.name in ("prometheus", "grafana") and name not in metrics:
	            faults.append(f"{path}: no metric {name} in /metrics")
	    for name in re.findall(r"\bC4A_[A-Z_]+", text):
	        if name not in variables:
	            faults.append(f"{path}: no program reads {name}")
	objects = list(yaml.safe_load_all(open("deploy/kubernetes.yaml")))
	assert [o["kind"] for o in objects] == ["Service", "StatefulSet"], objects
	assert objects[0]["metadata"]["name"] != "c4a"
	objects = {o["kind"] + "/" + o["metadata"]["name"]: o for o in yaml.safe_load_all(open("deploy/kubernetes-cluster.yaml"))}
	nodes = objects["StatefulSet/c4a-node"]["spec"]
	assert objects["Service/" + nodes["serviceName"]]["spec"]["clusterIP"] == "None", "the Service of the StatefulSet is not headless"
	names = [f"c4a-node-{i}.{nodes['serviceName']}" for i in range(nodes["replicas"])]
	env = {e["name"]: e["value"] for e in nodes["template"]["spec"]["containers"][0]["env"]}
	assert env["C4A_PEERS"].split(",") == [f"http://{name}:5110" for name in names], env["C4A_PEERS"]
	hosts = [rule["host"] for rule in objects["Ingress/c4a-cluster"]["spec"]["rules"]]
	assert env["C4A_ALLOW_HOST"].split(",") == hosts + names, env["C4A_ALLOW_HOST"]
	print("\n".join(faults))
	sys.exit(bool(faults))
END

# promtool alone, out of its package: the server would be started.
promtool=$(command -v promtool || true)
if [[ -z $promtool ]]; then
	promtool=${XDG_CACHE_HOME:-$HOME/.cache}/c4a-ci/promtool
	if [[ ! -x $promtool ]]; then
		(cd "$tmp" && { apt-get download prometheus || { apt-get update -q && apt-get download prometheus; }; } && dpkg -x prometheus_*.deb prometheus) >"$tmp/log" 2>&1 &&
			mkdir -p "${promtool%/*}" && cp "$tmp/prometheus/usr/bin/promtool" "$promtool" || true
	fi
fi
if [[ -x $promtool ]]; then
	"$promtool" check rules deploy/prometheus/rules.yaml >"$tmp/out" 2>&1 || die "promtool: $(cat "$tmp/out")"
	"$promtool" check metrics <"$tmp/metrics" >"$tmp/out" 2>&1 || die "promtool check metrics: $(cat "$tmp/out")"
	printf 'promtool: rules and metrics are well\n'
else
	printf 'skipped: promtool (the package prometheus cannot be had)\n'
fi
printf 'deploy: files parse, metrics and variables are known\n'
