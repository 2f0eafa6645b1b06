#!/usr/bin/env python3
"""text/words: counts the words of {"text": …}.

What goes to standard error is logged by the daemon at level debug; with an exit
status other than 0 its last line is the message of the error.
"""
import json
import os
import sys

params = json.load(sys.stdin)
if not isinstance(params.get("text"), str):
    sys.exit("text must be a string")
with os.fdopen(3, "w") as progress:
    print(json.dumps({"percent": 50, "message": "counting"}), file=progress)
json.dump({"words": len(params["text"].split())}, sys.stdout)
