'use strict';
// A hub in 25 lines: requests come over HTTP and go out over WebSocket.
// node hub.js PORT
const http = require('http');
const { WebSocketServer } = require('ws');

let agent;
let last = 0;
const waiting = new Map();
const server = http.createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    const { id, method, params } = JSON.parse(Buffer.concat(parts).toString());
    waiting.set(++last, ({ result, error }) => {
      const text = JSON.stringify({ jsonrpc: '2.0', id, result, error });
      response.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(text) });
      response.end(text);
    });
    agent.send(JSON.stringify({ jsonrpc: '2.0', id: last, method, params }));
  });
});
new WebSocketServer({ server, perMessageDeflate: false }).on('connection', (ws) => ws.on('message', (data) => {
  const message = JSON.parse(data.toString());
  if (message.method) {
    agent = ws;
    ws.send(JSON.stringify({ jsonrpc: '2.0', id: message.id, result: { accepted: true } }));
    return;
  }
  waiting.get(message.id)(message);
  waiting.delete(message.id);
}));
server.listen(+process.argv[2], '127.0.0.1');
