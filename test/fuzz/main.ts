// npm run fuzz [-- DECODER …] [--inputs N] [--seed S] [--keep]: prints a line for each decoder, and what was found. With
// --keep what reached something new, and what was found, goes into the corpus.
import { inspect, parseArgs } from 'node:util'
import { Worker } from 'node:worker_threads'
import { scratch } from '../support/scratch.js'
import { readCorpus, writeCorpus } from './corpus.js'
import type { Finding } from './fuzz.js'
import type { Report } from './worker.js'

/** Milliseconds for one input, after which it counts as one without an end. */
const PATIENCE = 60_000
/** Of the longest input. */
const ROOM = 2 ** 20
/** Bytes of a finding that is kept; a bigger one wants a test of its own. */
const MAX_KEPT = 16 * 1024
/** MiB of heap that a decoder may fill. */
const HEAP = 1024

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    inputs: { type: 'string', default: '1000000' },
    seed: { type: 'string', default: '1' },
    keep: { type: 'boolean', default: false },
  },
})

/** For what a worker leaves behind that is ended. */
const folder = scratch('fuzz')

/** What one worker says; where it says nothing, the input that ended it. */
function run(decoder: string): Promise<Report | Finding> {
  const current = new SharedArrayBuffer(ROOM + 8)
  const head = new Int32Array(current, 0, 2)
  const worker = new Worker(new URL('./worker.js', import.meta.url), {
    workerData: { decoder, inputs: Number(values.inputs), seed: values.seed, current },
    env: { ...process.env, TMPDIR: folder },
    resourceLimits: { maxOldGenerationSizeMb: HEAP },
  })
  const input = () => Uint8Array.from(new Uint8Array(current, 8, head[1]))
  return new Promise((resolve) => {
    let before = -1
    const watch = setInterval(() => {
      const now = Atomics.load(head, 0)
      if (now === before) end({ why: `takes more than ${PATIENCE / 1000} s`, input: input() })
      before = now
    }, PATIENCE)
    const end = (result: Report | Finding) => {
      clearInterval(watch)
      void worker.terminate()
      resolve(result)
    }
    worker.once('message', end)
    worker.once('error', (error) => end({ why: inspect(error), input: input() }))
  })
}

const { DECODERS } = await import('./decoders.js')
const names = DECODERS.map(({ name }) => name).filter(
  (name) => positionals.length === 0 || positionals.some((each) => name.startsWith(each)),
)
const row = (...cells: (string | number)[]) =>
  process.stdout.write(
    `${cells.map((cell, i) => (i === 0 ? String(cell).padEnd(20) : String(cell).padStart(10))).join(' ')}\n`,
  )

row('decoder', 'inputs', 'inputs/s', 'branches', 'ms', 'kB', 'corpus', 'findings')
let found = 0
for (const name of names) {
  const result = await run(name)
  const findings = 'input' in result ? [result] : [...result.findings]
  if ('input' in result) row(name, '', '', '', '', '', '', findings.length)
  else {
    const { inputs, seconds, slowest, growth, reached, corpus } = result
    if (growth !== undefined && growth > result.maxGrowth)
      findings.push({ why: `grew by ${growth} bytes`, input: new Uint8Array() })
    const kB = growth === undefined ? '' : Math.round(growth / 1024)
    row(
      name,
      inputs,
      Math.round(inputs / seconds),
      `${reached.ran}/${reached.of}`,
      slowest.toFixed(1),
      kB,
      corpus.length,
      findings.length,
    )
  }
  for (const { why, input } of findings) {
    const shown = Buffer.from(input).toString('base64')
    process.stdout.write(
      `  ${why}\n  ${shown.length > 2000 ? `${shown.slice(0, 2000)}… (${input.length} bytes)` : shown}\n`,
    )
  }
  found += findings.length
  if (!values.keep) continue
  const kept = readCorpus(name).filter(({ wasFinding }) => wasFinding)
  const fresh = findings
    .filter(({ input }) => input.length > 0 && input.length <= MAX_KEPT)
    .map(({ input }) => ({ input, wasFinding: true }))
  const reaching = 'input' in result ? [] : result.corpus.map((input) => ({ input, wasFinding: false }))
  writeCorpus(name, [...kept, ...fresh, ...reaching])
}
process.exitCode = found > 0 ? 1 : 0
process.exit()
