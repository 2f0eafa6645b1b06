// A node server that runs a scheduler as its child, on a Unix socket, and mounts
// the scheduler's API under /c4a/. The server decides which requests may pass.
//
//   node embed.mjs PORT WORKSPACE [FLAG OF THE SCHEDULER]...
import { spawn } from 'node:child_process'
import http from 'node:http'
import { join } from 'node:path'
import { mkdirSync } from 'node:fs'

const [port, workspace, ...flags] = process.argv.slice(2)
mkdirSync(workspace, { recursive: true, mode: 0o700 })
const socketPath = join(workspace, 'scheduler.sock')
const program = process.env.C4A_SCHEDULER ?? 'c4a-daemon-scheduler'

// The socket's directory belongs to this user alone, so no API token is needed.
const scheduler = spawn(program, ['--host', `unix:${socketPath}`, '--workspace', join(workspace, 'pool'), ...flags], { stdio: ['ignore', 'inherit', 'inherit'] })
scheduler.on('exit', (status) => process.exit(status ?? 1))
scheduler.on('error', (error) => {
  console.error(`starting the scheduler: ${error.message}`)
  process.exit(1)
})

const server = http.createServer((request, response) => {
  if (!request.url.startsWith('/c4a/')) {
    response.end('an application of your own\n')
    return
  }
  // Here an application checks its session: a request that passes can use the entire API.
  const { host, connection, ...headers } = request.headers
  const upstream = http.request(
    { socketPath, path: request.url.slice('/c4a'.length), method: request.method, headers: { ...headers, host: 'localhost' } },
    (answer) => {
      response.writeHead(answer.statusCode, answer.headers)
      answer.pipe(response)
    },
  )
  upstream.on('error', (error) => {
    if (response.headersSent) response.destroy()
    else response.writeHead(502).end(`the scheduler cannot be reached: ${error.message}\n`)
  })
  response.on('close', () => upstream.destroy()) // a client that hangs up cancels its call
  request.pipe(upstream)
})
server.listen(Number(port), '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}/c4a/health`))

// The scheduler ends its daemons when it is stopped.
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => scheduler.kill('SIGTERM'))
