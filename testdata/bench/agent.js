'use strict';
// An agent on ws with JSON-RPC by hand: the same work as c4a-daemon, without its
// access rules. node agent.js ws://127.0.0.1:PORT/
const WebSocket = require('ws');
const fs = require('fs').promises;

const methods = {
  'fs/stat': async ({ path }) => {
    const s = await fs.lstat(path);
    return { entries: [{ path, exists: true, type: s.isDirectory() ? 'dir' : 'file', size: s.size, mode: (s.mode & 0o7777).toString(8).padStart(4, '0'), mtime: s.mtime.toISOString() }] };
  },
  'fs/readFile': async ({ path }) => {
    const [s, content] = [await fs.stat(path), await fs.readFile(path, 'utf8')];
    return { path, content, encoding: 'utf-8', offset: 0, length: content.length, size: s.size, eof: true, mtime: s.mtime.toISOString() };
  },
};

const ws = new WebSocket(process.argv[2], { perMessageDeflate: false });
ws.on('open', () => ws.send(JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'daemon/handshake', params: { machine_id: 'bench' } })));
ws.on('message', async (data) => {
  const { id, method, params } = JSON.parse(data.toString());
  if (!method) return;
  let answer;
  try {
    answer = { jsonrpc: '2.0', id, result: await methods[method](params) };
  } catch (e) {
    answer = { jsonrpc: '2.0', id, error: { code: -32603, message: e.message } };
  }
  ws.send(JSON.stringify(answer));
});
ws.on('close', () => process.exit(0));
