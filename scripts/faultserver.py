"""Serves a release tree on loopback, with faults. The first part of a path is
what goes wrong, the rest is the file:

  /good/FILE      the file
  /cut-N/FILE     its true length is announced, N bytes are sent
  /short-N/FILE   N bytes are sent and no length, so that the cut looks like the end
  /html/FILE      a page of HTML with status 200, as a captive portal sends
  /status-N/FILE  that status
  /hang/FILE      half of the file, then nothing until the client goes
  /only-hang-TEXT/FILE  as hang for files whose name has TEXT, else good

  faultserver.py DIR PORTFILE
"""

import http.server
import os
import sys
import threading

root, port_file = sys.argv[1], sys.argv[2]


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        fault, _, name = self.path.lstrip("/").partition("/")
        if fault == "html":
            return self.answer(b"<!DOCTYPE html><title>Sign in</title>\n")
        if fault.startswith("status-"):
            return self.send_error(int(fault.removeprefix("status-")))
        try:
            with open(os.path.join(root, os.path.normpath("/" + name).lstrip("/")), "rb") as file:
                data = file.read()
        except OSError:
            return self.send_error(404)
        if fault.startswith("only-hang-"):
            fault = "hang" if fault.removeprefix("only-hang-") in name else "good"
        kind, _, number = fault.partition("-")
        if kind == "cut":
            self.answer(data[: int(number)], length=len(data))
        elif kind == "short":
            self.answer(data[: int(number)], length=None)
        elif kind == "hang":
            self.answer(data[: len(data) // 2], length=len(data))
            self.wfile.flush()
            self.rfile.read(1)  # until the client closes
        else:
            self.answer(data)

    def answer(self, data, length=-1):
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(len(data) if length < 0 else length))
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass


server = Server(("127.0.0.1", 0), Handler)
with open(port_file + ".new", "w") as file:
    file.write(str(server.server_port))
os.rename(port_file + ".new", port_file)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()  # ends with its parent
server.serve_forever()
