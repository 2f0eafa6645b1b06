// A server that daemons dial: it accepts each handshake, lists the allowed
// directories of the machine, and prints what it is told.
//
//   npm install ws
//   node server.mjs PORT
import { WebSocketServer } from 'ws'

// The limit of a message is 16 MiB each way (--max-message of the daemon).
const server = new WebSocketServer({ host: '127.0.0.1', port: Number(process.argv[2] ?? 5100), path: '/ws/daemon', maxPayload: 16 << 20 })

server.on('connection', (socket) => {
  let machine
  let lastId = 0
  const waiting = new Map() // id of a request -> [resolve, reject]

  function call(method, params) {
    const id = ++lastId
    socket.send(JSON.stringify({ jsonrpc: '2.0', id, method, params }))
    return new Promise((resolve, reject) => waiting.set(id, [resolve, reject]))
  }

  socket.on('message', async (data) => {
    const message = JSON.parse(data)
    if (message.method === 'daemon/handshake') {
      machine = message.params.machine_id
      socket.send(JSON.stringify({ jsonrpc: '2.0', id: message.id, result: { accepted: true } }))
      console.log(`${machine} connected`)
      for (const path of message.params.allowed_paths) {
        const listing = await call('fs/listDir', { path })
        console.log(`${path}: ${listing.entries.map((entry) => entry.name).join(' ')}`)
      }
    } else if (message.method === 'daemon/heartbeat') {
      console.log(`${machine} is alive, ${message.params.active_requests} requests run`)
    } else if (message.method === 'task/progress') {
      console.log(`${message.params.method}: ${message.params.percent} %`)
    } else if (waiting.has(message.id)) {
      const [resolve, reject] = waiting.get(message.id)
      waiting.delete(message.id)
      if (message.error) reject(new Error(message.error.message))
      else resolve(message.result)
    }
  })
  socket.on('close', (code) => {
    for (const [, reject] of waiting.values()) reject(new Error('the link was lost'))
    console.log(`${machine} disconnected (${code})`)
  })
})
server.on('listening', () => console.log(`daemons may dial ws://127.0.0.1:${server.address().port}`))
