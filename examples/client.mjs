// Clones a repository into the library "demo", prints the progress, and lists the
// files of its commit.
//
//   node client.mjs URL
const server = process.env.C4A_URL ?? 'http://127.0.0.1:5110'
const headers = { 'Content-Type': 'application/json' }
if (process.env.C4A_API_TOKEN) headers.Authorization = `Bearer ${process.env.C4A_API_TOKEN}`

// call resolves to the result of a method. With onProgress the answer is a stream
// of events: "progress" any number of times, then "result".
async function call(method, params, onProgress) {
  const response = await fetch(`${server}/libraries/demo/rpc`, {
    method: 'POST',
    headers: onProgress ? { ...headers, Accept: 'text/event-stream' } : headers,
    body: JSON.stringify({ jsonrpc: '2.0', id: 1, method, params }),
  })
  let answer
  if (response.headers.get('Content-Type')?.startsWith('text/event-stream')) {
    for await (const { event, data } of events(response.body)) {
      if (event === 'progress') onProgress(data)
      if (event === 'result') answer = data
    }
  } else {
    answer = await response.json()
  }
  if (answer?.result !== undefined) return answer.result
  // Errors of a method are JSON-RPC errors; those of the HTTP API are problem+json.
  throw new Error(answer?.error ? `${answer.error.code}: ${answer.error.message}` : (answer?.detail ?? 'the stream ended early'))
}

// events parses Server-Sent Events whose data is one line of JSON.
async function* events(body) {
  let text = ''
  for await (const part of body.pipeThrough(new TextDecoderStream())) {
    text += part
    for (let end; (end = text.indexOf('\n\n')) >= 0; text = text.slice(end + 2)) {
      const fields = Object.fromEntries(text.slice(0, end).split('\n').map((line) => line.split(/: (.*)/s)))
      if (fields.data) yield { event: fields.event, data: JSON.parse(fields.data) }
    }
  }
}

const clone = await call('vcs/clone', { url: process.argv[2], name: 'example' }, (p) => console.error(`${p.percent} % ${p.phase ?? ''}`))
console.log(`${clone.action} ${clone.commit}`)
for (let cursor; cursor !== null; ) {
  const page = await call('index/manifest', { path: clone.path, cursor })
  for (const file of page.files) console.log(`${file.oid} ${file.path}`)
  cursor = page.next_cursor
}
