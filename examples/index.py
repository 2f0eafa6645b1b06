"""Keeps a full-text index of a repository up to date, and reads no file twice.

    python3 index.py URL INDEX       clone or update, then index what is new
    python3 index.py --find WORD INDEX

The first run lists the commit (index/manifest) and reads its files in bulk
(index/readBlobs). Every further run asks only for what changed between the two
commits (index/diff). INDEX is a SQLite database.
"""
import json
import os
import sqlite3
import sys
import urllib.error
import urllib.request

SERVER = os.environ.get("C4A_URL", "http://127.0.0.1:5110")
LIBRARY = os.environ.get("LIBRARY", "demo")
MOST_AT_ONCE = 1000  # of the 20,000 ids that one readBlobs takes
LARGEST = 1 << 20  # bytes; larger files are not worth an index


class RPCError(Exception):
    def __init__(self, error):
        super().__init__(error["message"])
        self.name = error.get("data", {}).get("code")


def call(method, **params):
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    request = urllib.request.Request(f"{SERVER}/libraries/{LIBRARY}/rpc", json.dumps(body).encode())
    if token := os.environ.get("C4A_API_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        answer = json.load(error)
    if "error" in answer:
        raise RPCError(answer["error"])
    if "result" not in answer:
        sys.exit(answer["detail"])
    return answer["result"]


def pages(method, key, **params):
    """Yields the entries of all pages. A list that changes meanwhile is CONFLICT."""
    while True:
        page = call(method, **params)
        yield from page[key]
        if page["next_cursor"] is None:
            return
        params["cursor"] = page["next_cursor"]


def read_new(index, path, oids):
    """Reads the blobs that the index does not have; returns how many."""
    known = {oid for (oid,) in index.execute("SELECT oid FROM blobs")}
    missing = sorted(set(oids) - known)
    start = 0
    while start < len(missing):
        part = missing[start : start + MOST_AT_ONCE]
        answer = call("index/readBlobs", path=path, oids=part)
        for blob in answer["blobs"]:
            # base64 is a binary file, an error one that this clone does not have.
            text = blob["content"] if blob.get("encoding") == "utf-8" else ""
            index.execute("INSERT INTO blobs VALUES (?, ?)", (blob["oid"], text))
        # next_index: the rest did not fit into one answer.
        start += answer["next_index"] or len(part)
    return len(missing)


def is_text_candidate(entry):
    return entry["mode"].startswith("100") and (entry["size"] or 0) <= LARGEST


def update(index, url):
    clone = call("vcs/clone", url=url, name="indexed", depth=0)
    last = index.execute("SELECT oid FROM indexed").fetchone()
    changes = None
    if last:
        try:
            changes = list(pages("index/diff", "changes", path=clone["path"], **{"from": last[0]}, renames=False))
        except RPCError as error:
            # The history was rewritten, or the clone is another one now.
            if error.name not in ("COMMIT_NOT_FOUND", "COMMIT_NOT_AVAILABLE"):
                raise
    if changes is None:
        index.execute("DELETE FROM files")
        changes = [{"status": "A", **file} for file in pages("index/manifest", "files", path=clone["path"])]
    for change in changes:
        index.execute("DELETE FROM files WHERE path = ?", (change["path"],))
    present = [change for change in changes if change["status"] != "D" and is_text_candidate(change)]
    read = read_new(index, clone["path"], [change["oid"] for change in present])
    index.executemany("INSERT INTO files VALUES (?, ?)", [(change["path"], change["oid"]) for change in present])
    index.execute("DELETE FROM indexed")
    index.execute("INSERT INTO indexed VALUES (?)", (clone["commit"],))
    print(f"{clone['action']}: {len(changes)} changes, {read} files read")


def find(index, word):
    rows = index.execute("SELECT path, text FROM files JOIN blobs USING (oid) WHERE instr(text, ?) ORDER BY path", (word,))
    for path, text in rows:
        for number, line in enumerate(text.split("\n"), 1):
            if word in line:
                print(f"{path}:{number}: {line}")


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    with sqlite3.connect(sys.argv[-1]) as index:  # commits at the end, or nothing
        for table in ("files (path TEXT PRIMARY KEY, oid TEXT)", "blobs (oid TEXT PRIMARY KEY, text TEXT)", "indexed (oid TEXT)"):
            index.execute(f"CREATE TABLE IF NOT EXISTS {table}")
        if sys.argv[1] == "--find":
            find(index, sys.argv[2])
        else:
            update(index, sys.argv[1])


main()
