"""Clones a repository into the library "demo" and lists the files of its commit.

    python3 client.py URL
"""
import json
import os
import sys
import urllib.error
import urllib.request

SERVER = os.environ.get("C4A_URL", "http://127.0.0.1:5110")
TOKEN = os.environ.get("C4A_API_TOKEN")


def call(method, **params):
    """Returns the result of a method; raises RuntimeError with the error's text."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    request = urllib.request.Request(f"{SERVER}/libraries/demo/rpc", json.dumps(body).encode())
    if TOKEN:
        request.add_header("Authorization", f"Bearer {TOKEN}")
    try:
        with urllib.request.urlopen(request) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        # 503 and 504 carry a JSON-RPC error, other statuses a problem+json.
        answer = json.load(error)
    if "result" in answer:
        return answer["result"]
    raise RuntimeError(answer["error"]["message"] if "error" in answer else answer["detail"])


clone = call("vcs/clone", url=sys.argv[1], name="example")
print(clone["action"], clone["commit"])
cursor = None
while True:
    page = call("index/manifest", path=clone["path"], **({"cursor": cursor} if cursor else {}))
    for file in page["files"]:
        print(file["oid"], file["path"])
    cursor = page["next_cursor"]
    if cursor is None:
        break
