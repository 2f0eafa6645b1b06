// Talks to a scheduler as four clients do: the official SDK of 2025, and that of
// 2026 by default, with detection, and pinned to 2026-07-28. See test-mcp.sh.
//
//   node mcp-clients.mjs NODE_MODULES URL TOKEN DIR
import { existsSync, readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const [modules, url, token, dir] = process.argv.slice(2);
const load = (file) => import(pathToFileURL(`${modules}/@modelcontextprotocol/${file}`));
const old = await load('sdk/dist/esm/client/index.js');
const oldHTTP = await load('sdk/dist/esm/client/streamableHttp.js');
const now = await load('client/dist/index.mjs');

const info = { name: 'test', version: '1' };
const modes = [
  ['sdk 1.x, default', () => new old.Client(info), oldHTTP, true],
  ['client 2.x, default', () => new now.Client(info), now, false],
  ['client 2.x, auto', () => new now.Client(info, { versionNegotiation: { mode: 'auto' } }), now, false, true],
  ['client 2.x, pinned', () => new now.Client(info, { versionNegotiation: { mode: { pin: '2026-07-28' } } }), now, false, true],
];

let failed = 0;
function check(mode, what, ok, got) {
  if (ok) return 1;
  failed++;
  console.log(`FAILED: ${mode}: ${what}: got ${JSON.stringify(got)}`);
  return 0;
}
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const alive = (pid) => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};

for (const [mode, make, http, isOld, isModern] of modes) {
  const connect = async (bearer) => {
    const client = make();
    const headers = bearer ? { Authorization: `Bearer ${bearer}` } : {};
    await client.connect(new http.StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } }));
    return client;
  };
  let passed = 0;
  const client = await connect(token);
  passed += check(mode, 'the name of the server', client.getServerVersion()?.name === 'c4a', client.getServerVersion());
  passed += check(mode, 'instructions', /overview/.test(client.getInstructions() ?? ''), client.getInstructions());
  const { tools } = await client.listTools();
  passed += check(mode, 'nine tools', tools.length === 9, tools.map((tool) => tool.name));
  const call = (name, args, options) =>
    isOld ? client.callTool({ name, arguments: args }, undefined, options) : client.callTool({ name, arguments: args }, options);
  const file = await call('read_file', { path: `${dir}/greeting.txt` });
  passed += check(mode, 'read_file', !file.isError && /1\thello/.test(file.content[0].text), file);
  const missing = await call('read_file', { path: `${dir}/missing` });
  passed += check(mode, 'an error of a tool', missing.isError && /^SOURCE_NOT_FOUND: /.test(missing.content[0].text), missing);
  const unknown = await call('nope', {}).then((answer) => answer, (error) => error);
  passed += check(mode, 'an unknown tool', /-32602|Unknown tool/.test(String(unknown.code) + unknown.message), String(unknown));
  const steps = [];
  const slow = await call('call_method', { method: 'test/slow', params: { seconds: 2 } }, { onprogress: (p) => steps.push(p.progress) });
  const rising = steps.length > 0 && steps.every((step, i) => i === 0 || step > steps[i - 1]);
  passed += check(mode, 'progress that rises', rising && !slow.isError, [steps, slow]);
  const abort = new AbortController();
  setTimeout(() => abort.abort(), 1000);
  const aborted = await call('call_method', { method: 'test/slow', params: { seconds: 60 } }, { signal: abort.signal }).then(
    () => false,
    () => true,
  );
  const pid = existsSync(`${dir}/pid`) ? Number(readFileSync(`${dir}/pid`)) : 0;
  // Clients of 2025 keep the connection and send a notification, which a server
  // without sessions cannot match to a request.
  for (let i = 0; isModern && i < 100 && alive(pid); i++) await sleep(100);
  passed += check(mode, 'an abort that ends the work', aborted && pid > 0 && !(isModern && alive(pid)), [aborted, pid]);
  await client.close();
  for (const bearer of ['', 'wrong']) {
    const refused = await connect(bearer).then(() => 'connected', (error) => String(error));
    passed += check(mode, `the token ${JSON.stringify(bearer)}`, /401|Unauthorized|UNAUTHORIZED/.test(refused), refused);
  }
  console.log(`${mode}: ${passed} of 10`);
}
process.exit(failed ? 1 : 0);
