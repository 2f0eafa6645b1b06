"""A server that daemons dial, with the standard library alone: it accepts each
handshake, lists the allowed directories of the machine, and prints what it is
told. For a real service take a WebSocket library; this shows what goes over
the wire (RFC 6455).

    python3 server.py PORT
"""
import asyncio
import base64
import hashlib
import itertools
import json
import struct
import sys

LIMIT = 16 << 20  # --max-message of the daemon
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class Link:
    """One daemon."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.waiting = {}  # id of a request -> future of its answer
        self.ids = itertools.count(1)

    def send(self, opcode, payload):
        size = len(payload)
        if size < 126:
            head = bytes([0x80 | opcode, size])
        elif size < 1 << 16:
            head = bytes([0x80 | opcode, 126]) + struct.pack(">H", size)
        else:
            head = bytes([0x80 | opcode, 127]) + struct.pack(">Q", size)
        self.writer.write(head + payload)

    def send_json(self, message):
        self.send(TEXT, json.dumps({"jsonrpc": "2.0", **message}).encode())

    async def call(self, method, params):
        number = next(self.ids)
        self.waiting[number] = asyncio.get_running_loop().create_future()
        self.send_json({"id": number, "method": method, "params": params})
        return await self.waiting[number]

    async def messages(self):
        """Yields each message; answers pings, and ends with the link."""
        message = b""
        while True:
            first, second = await self.reader.readexactly(2)
            size = second & 127
            if size == 126:
                (size,) = struct.unpack(">H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", await self.reader.readexactly(8))
            if len(message) + size > LIMIT or not second & 128:
                return
            mask = await self.reader.readexactly(4)
            data = await self.reader.readexactly(size)
            # XOR with the mask repeated (RFC 6455, section 5.3).
            key = (mask * (size // 4 + 1))[:size]
            data = (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
            opcode = first & 15
            if opcode == CLOSE:
                self.send(CLOSE, data)
                return
            if opcode == PING:
                self.send(PONG, data)
            elif opcode != PONG:
                message += data
                if first & 128:  # the last frame of this message
                    yield json.loads(message)
                    message = b""


async def upgrade(reader, writer):
    """Answers the HTTP upgrade; reports whether it was one for this path."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head.split("\r\n")[1:])}
    if not head.startswith("GET /ws/daemon ") or "sec-websocket-key" not in headers:
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        return False
    digest = hashlib.sha1((headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    accept = base64.b64encode(digest).decode()
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        + f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
    )
    return True


async def list_directories(link, paths):
    for path in paths:
        answer = await link.call("fs/listDir", {"path": path})
        if "error" in answer:
            print(f"{path}: {answer['error']['message']}", flush=True)
            continue
        print(f"{path}: {' '.join(entry['name'] for entry in answer['result']['entries'])}", flush=True)


async def serve(reader, writer):
    machine, work = None, None
    try:
        if not await upgrade(reader, writer):
            return
        link = Link(reader, writer)
        async for message in link.messages():
            method = message.get("method")
            if method == "daemon/handshake":
                machine = message["params"]["machine_id"]
                link.send_json({"id": message["id"], "result": {"accepted": True}})
                print(f"{machine} connected", flush=True)
                work = asyncio.create_task(list_directories(link, message["params"]["allowed_paths"]))
            elif method == "daemon/heartbeat":
                print(f"{machine} is alive, {message['params']['active_requests']} requests run", flush=True)
            elif method == "task/progress":
                print(f"{message['params']['method']}: {message['params']['percent']} %", flush=True)
            elif message.get("id") in link.waiting:
                link.waiting.pop(message["id"]).set_result(message)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        if work:
            work.cancel()
        writer.close()
        print(f"{machine} disconnected", flush=True)


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 5100)
    print(f"daemons may dial ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


asyncio.run(main())
