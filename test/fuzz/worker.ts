// One decoder's run, in a thread that can be ended where an input has no end. Its decoders are loaded after V8 began to
// note which branches run.
import { inspect } from 'node:util'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { parentPort, workerData } from 'node:worker_threads'
import { Coverage } from './coverage.js'

export type Report = Awaited<ReturnType<typeof report>>

/** Inputs with which coverage is looked at. By then little is new, and without it everything is several times as fast. */
const GUIDED = 50_000
/** Bytes of an input that is kept, and of all that are kept of one decoder. */
const MAX_KEPT = 2048
const MAX_CORPUS = 6 * 1024

const {
  decoder: name,
  inputs,
  seed,
  current,
} = workerData as { decoder: string; inputs: number; seed: string; current: SharedArrayBuffer }
const head = new Int32Array(current, 0, 2)
const body = new Uint8Array(current, 8)

setFlagsFromString('--expose-gc')
global.gc = runInNewContext('gc')
/** Libraries that read what comes guide a run, too. */
const isWatched = (url: string) =>
  /\/dist\/(protocols|node|cli)\/|\/node_modules\/(cborg|yaml|tar-stream|ssh2)\//.test(url)
const coverage = new Coverage(isWatched)

async function report() {
  const { complaint, fuzz, MAX_GROWTH } = await import('./fuzz.js')
  const { DECODERS } = await import('./decoders.js')
  const { readCorpus } = await import('./corpus.js')
  const decoder = DECODERS.find((each) => each.name === name)!
  const pool = [...decoder.seeds, ...readCorpus(name).map(({ input }) => input)]
  const onInput = (input: Uint8Array): void => {
    body.set(input)
    head[1] = input.length
    Atomics.add(head, 0, 1)
  }
  const guided = await fuzz(decoder, pool, Math.min(inputs, GUIDED), seed, coverage, onInput)
  const reached = coverage.reached(decoder.reads)
  // Those that are still needed, the shortest first.
  const corpus: Uint8Array[] = []
  coverage.clear()
  for (const seed of decoder.seeds) await complaint(decoder, seed)
  coverage.note()
  let size = 0
  for (const input of [...pool.slice(decoder.seeds.length), ...guided.kept].sort((a, b) => a.length - b.length)) {
    if (input.length > MAX_KEPT || size + input.length > MAX_CORPUS) break
    await complaint(decoder, input)
    if (!coverage.note()) continue
    corpus.push(input)
    size += input.length
  }
  coverage.stop()
  const run = await fuzz(
    decoder,
    [...decoder.seeds, ...corpus],
    inputs - guided.inputs,
    `${seed}/2`,
    undefined,
    onInput,
  )
  return {
    inputs: guided.inputs + run.inputs,
    seconds: guided.seconds + run.seconds,
    slowest: Math.max(guided.slowest, run.slowest),
    growth: run.growth,
    findings: [...guided.findings, ...run.findings],
    reached,
    corpus,
    maxGrowth: MAX_GROWTH,
  }
}

// Not every error can go from thread to thread.
parentPort!.postMessage(await report().catch((error) => ({ why: inspect(error), input: body.slice(0, head[1]) })))
