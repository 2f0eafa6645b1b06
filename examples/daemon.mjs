// A daemon of your own: a machine of the hub with methods that you write. It shows
// what a daemon in another language needs: handshake, heartbeat, progress, cancel,
// reconnect, and task_ids, with which a caller comes back after a lost link.
//
//   npm install ws
//   node daemon.mjs ws://127.0.0.1:5110/ws/daemon MACHINE_ID
//
// The token is in C4A_TOKEN. Batches are left out: the hub sends none.
import { randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import WebSocket from 'ws'

const [server = 'ws://127.0.0.1:5110/ws/daemon', machine_id = hostname()] = process.argv.slice(2)
const instance_id = randomUUID() // of this process, so that a reconnect is not a duplicate
const started = Date.now()

// A method gets its params, a signal that aborts it, and a function for its progress.
let runs = 0
const methods = {
  async 'demo/echo'(params) {
    return params
  },
  async 'demo/count'({ to, pause_ms = 100 }, signal, progress) {
    if (!Number.isInteger(to)) throw failure(-32602, 'to must be an integer')
    const run = ++runs
    console.log(`run ${run} begins`)
    signal.addEventListener('abort', () => console.log(`run ${run} is aborted`))
    for (let n = 0; n < to; n++) {
      await sleep(pause_ms, undefined, { signal })
      progress(Math.floor((100 * n) / to), `${n} of ${to}`)
    }
    return { to, run }
  },
}

function failure(code, message, name) {
  return Object.assign(new Error(message), { code, data: name && { code: name } })
}

// A task is one run of a method. It belongs to its callers: it goes on while one of
// them waits. With a task_id it also outlives the link, and its result is kept for
// a caller that asks again.
const tasks = new Map() // task_id -> task
const keptMs = 60_000

function begin(method, params, taskId, fingerprint) {
  const task = { fingerprint, callers: new Set(), abort: new AbortController() }
  const progress = (percent, message) => task.callers.forEach((caller) => caller.progress({ percent, message }))
  task.result = methods[method](params, task.abort.signal, progress)
  if (taskId !== undefined) {
    tasks.set(taskId, task)
    const forget = () => tasks.get(taskId) === task && tasks.delete(taskId)
    task.result.catch(() => {}).finally(() => setTimeout(forget, keptMs).unref())
    task.abort.signal.addEventListener('abort', forget)
  }
  return task
}

// A link serves one connection. It resolves when the connection has ended.
function link() {
  return new Promise((ended) => {
    const token = process.env.C4A_TOKEN
    const socket = new WebSocket(server, {
      headers: { 'X-C4A-Machine-Id': encodeURIComponent(machine_id), ...(token && { Authorization: `Bearer ${token}` }) },
      handshakeTimeout: 10_000,
      maxPayload: 16 << 20, // --max-message of the server
    })
    const send = (message) => socket.readyState === WebSocket.OPEN && socket.send(JSON.stringify({ jsonrpc: '2.0', ...message }))
    const running = new Map() // id of a request -> its caller
    const timers = []
    let acceptedAt = 0
    let alive

    // The server pings every 20 s, and ws answers. Silence means that the link is dead.
    const heard = () => {
      clearTimeout(alive)
      alive = setTimeout(() => socket.terminate(), 35_000)
    }
    heard()

    async function request({ id, method, params = {} }) {
      const { task_id: taskId, timeout_ms: timeoutMs = 60_000, ...own } = params
      if (!Object.hasOwn(methods, method)) throw failure(-32601, `method not found: ${method}`)
      const fingerprint = JSON.stringify([method, own])
      const task = tasks.get(taskId) ?? begin(method, own, taskId, fingerprint)
      if (task.fingerprint !== fingerprint) throw failure(-32009, 'the task_id is in use for another request', 'CONFLICT')
      const began = Date.now()
      let told = 0
      let leave
      const left = new Promise((_, reject) => (leave = reject))
      const caller = {
        keepsTask: taskId !== undefined,
        leave,
        progress(p) {
          if (Date.now() - began < 1000 || Date.now() - told < 250) return
          told = Date.now()
          send({ method: 'task/progress', params: { task_id: taskId ?? String(id), method, ...p } })
        },
      }
      running.set(JSON.stringify(id), caller)
      task.callers.add(caller)
      const timer = setTimeout(() => leave(failure(-32006, `the request took longer than ${timeoutMs} ms`, 'TIMEOUT')), timeoutMs)
      try {
        return await Promise.race([task.result, left])
      } catch (error) {
        if (error.lost && caller.keepsTask) throw error // the task goes on: its caller comes back
        task.callers.delete(caller)
        if (task.callers.size === 0) {
          task.abort.abort()
          await task.result.catch(() => {}) // nothing of it runs after the answer
        }
        throw error
      } finally {
        clearTimeout(timer)
        task.callers.delete(caller)
        running.delete(JSON.stringify(id))
      }
    }

    async function answer(message) {
      try {
        send({ id: message.id, result: (await request(message)) ?? null })
      } catch (error) {
        send({ id: message.id, error: { code: error.code > -33000 ? error.code : -32603, message: error.message, data: error.data } })
      }
    }

    function accepted(result) {
      if (!result?.accepted) {
        console.log(`refused: ${result?.reason}`) // the server closes the link; it is tried again
        return
      }
      console.log('accepted')
      acceptedAt = Date.now()
      let seq = 0
      const beat = () => {
        const uptime_seconds = Math.floor((Date.now() - started) / 1000)
        send({ method: 'daemon/heartbeat', params: { machine_id, instance_id, seq: ++seq, uptime_seconds, active_requests: running.size } })
      }
      beat()
      timers.push(setInterval(beat, result.heartbeat_interval_ms ?? 30_000))
    }

    socket.on('open', () => {
      const params = {
        machine_id, instance_id, protocol_version: 1, version: '1.0.0', hostname: hostname(), os: process.platform, arch: process.arch, pid: process.pid,
        allowed_paths: [], work_dir: null, git_version: '', methods: Object.keys(methods).sort(), heartbeat_interval_ms: 30_000,
      }
      send({ id: 1, method: 'daemon/handshake', params })
      timers.push(setTimeout(() => acceptedAt || socket.terminate(), 10_000))
    })
    socket.on('ping', heard)
    socket.on('message', (data) => {
      heard()
      let message
      try {
        message = JSON.parse(data)
      } catch {
        send({ id: null, error: { code: -32700, message: 'the message is not JSON' } })
        return
      }
      if (message.method === '$/cancelRequest') running.get(JSON.stringify(message.params?.id))?.leave(failure(-32800, 'the request was cancelled', 'REQUEST_CANCELLED'))
      else if (message.method !== undefined && message.id !== undefined) answer(message)
      else if (message.id === 1 && message.method === undefined) accepted(message.result)
    })
    socket.on('unexpected-response', (_, response) => {
      console.log(`the server answered ${response.statusCode}`)
      if (response.statusCode === 401 || response.statusCode === 403) process.exit(4) // a new attempt gets the same answer
      socket.terminate()
    })
    socket.on('error', (error) => console.log(`the link failed: ${error.message}`))
    socket.on('close', (code) => {
      if (code === 4001) process.exit(5) // replaced: two would replace each other for ever
      timers.forEach(clearTimeout)
      clearTimeout(alive)
      for (const caller of running.values()) caller.leave(Object.assign(failure(-32603, 'the link was lost'), { lost: true }))
      ended(acceptedAt && Date.now() - acceptedAt)
    })
  })
}

process.once('SIGTERM', () => process.exit(0))
for (let attempt = 1; ; attempt++) {
  if ((await link()) > 10_000) attempt = 1
  const base = Math.min(30_000, 1000 * 2 ** attempt)
  await sleep(base / 2 + (Math.random() * base) / 2) // random, so that all machines do not come back at once
}
