#!/usr/bin/env node
// text/upper: returns {"text": …} in capitals. The params also hold task_id, if the
// caller gave one.
import { readFileSync, writeSync } from 'node:fs'

const params = JSON.parse(readFileSync(0, 'utf8'))
if (typeof params.text !== 'string') {
  console.error('text must be a string')
  process.exit(1)
}
writeSync(3, JSON.stringify({ percent: 50, message: 'converting' }) + '\n')
console.log(JSON.stringify({ text: params.text.toUpperCase() }))
