// Reads a repository through the tools for language models, with the official SDK:
// clones it, finds a function, reads it at a tag, and sees who changed it last.
// Prints each call and its text, as docs/tools.md shows them.
//
//   npm install @modelcontextprotocol/client
//   node tools.mjs REPOSITORY_URL FUNCTION TAG
//
// Environment: C4A_URL (default http://127.0.0.1:5110), C4A_API_TOKEN, C4A_LIBRARY.
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';

const [repository, name, tag] = process.argv.slice(2);
const base = process.env.C4A_URL ?? 'http://127.0.0.1:5110';
const token = process.env.C4A_API_TOKEN;

const client = new Client({ name: 'example', version: '1' }, { versionNegotiation: { mode: 'auto' } });
const url = new URL(`/libraries/${process.env.C4A_LIBRARY ?? 'tools'}/mcp`, base);
await client.connect(new StreamableHTTPClientTransport(url, { requestInit: { headers: token ? { Authorization: `Bearer ${token}` } : {} } }));

let calls = 0;
let bytes = 0;
async function call(tool, args) {
  const answer = await client.callTool({ name: tool, arguments: args });
  const text = answer.content.map((part) => part.text ?? `(${part.mimeType})`).join('\n');
  calls++;
  bytes += Buffer.byteLength(text);
  console.log(`> ${tool} ${JSON.stringify(args)}\n${text}\n`);
  if (answer.isError) throw new Error(text);
  return text;
}

// A long clone answers how far it is; the same call waits for the rest.
async function clone(args) {
  let text;
  do text = await call('clone_repo', { url: repository, ...args });
  while (text.startsWith('[not finished'));
  return text.match(/^\[\w+ (\S+)/)[1];
}
const path = await clone({ depth: 0 });
const found = await call('search', { path, pattern: `func .*${name}\\(`, regexp: true, include: ['**/*.go'], limit: 5 });
const [, file, line] = found.match(/^(.+?):(\d+): /m);
await call('read_file', { path: `${path}/${file}`, start_line: Number(line), lines: 12 });
// A clone has one branch or tag. Another one is a clone of another name.
const old = await clone({ ref: tag, name: `${path.split('/').pop()}-${tag}` });
await call('read_file', { path: `${old}/${file}`, lines: 40 });
await call('git_log', { path, file, limit: 3 });
await call('call_method', { method: 'vcs/blame', params: { path, file, start_line: Number(line), lines: 3 } });
console.log(`${calls} calls, ${bytes} bytes of text`);
await client.close();
