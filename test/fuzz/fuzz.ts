// Feeds mutants to a decoder, keeps those that reach something new, and tells what must not be: another error than a
// MeshError, an input that takes too long, memory that is not given back.
import { MeshError } from '../../protocols/error.js'
import { Random } from '../sim/random.js'
import type { Coverage } from './coverage.js'
import type { Decoder } from './decoders/decoder.js'
import { mutant } from './mutate.js'

/** What one input may take, in milliseconds of CPU. */
const MAX_TIME = 50
/** So often is an input that took longer measured again: the least of it is its own, the rest is the machine's. */
const MEASURES = 7
/** What a run may leave behind beyond its first tenth, in bytes: some hundred caches that fill, and no input that is kept. */
export const MAX_GROWTH = 8 * 2 ** 20
/** Inputs after which coverage is looked at: that costs about as much as they do. */
const BATCH = 2000
/** Bytes of an input of which mutants are made: those of a bigger one are slow, and rarely new. */
const MAX_SEED = 4096
/** Findings after which a run ends. */
const MAX_FINDINGS = 20

export interface Finding {
  readonly why: string
  readonly input: Uint8Array
}

export interface Run {
  readonly inputs: number
  readonly seconds: number
  /** Milliseconds of the slowest input. */
  readonly slowest: number
  /** Bytes; undefined where the garbage collector cannot be called. */
  readonly growth: number | undefined
  readonly findings: readonly Finding[]
  /** The inputs that reached what the seeds did not. */
  readonly kept: readonly Uint8Array[]
}

/** What went wrong with one input, or undefined. */
export async function complaint({ decode }: Decoder, input: Uint8Array): Promise<string | undefined> {
  try {
    const decoded = decode(input)
    if (decoded instanceof Promise) await decoded
    return undefined
  } catch (error) {
    if (error instanceof MeshError) return undefined
    return error instanceof Error
      ? `${error.name}: ${error.message.slice(0, 200)}\n${error.stack
          ?.split('\n')
          .filter((line) => line.includes(' at '))
          .slice(0, 4)
          .join('\n')}`
      : String(error)
  }
}

/** Milliseconds of CPU that an input takes at the least. */
export async function timeOf(decoder: Decoder, input: Uint8Array): Promise<number> {
  let least = Number.POSITIVE_INFINITY
  for (let i = 0; i < MEASURES && least > MAX_TIME; i++) {
    const before = process.cpuUsage()
    await complaint(decoder, input)
    const { user, system } = process.cpuUsage(before)
    least = Math.min(least, (user + system) / 1000)
  }
  return least
}

/**
 * @param pool what to begin with
 * @param coverage guides the run, where it is given
 * @param onInput is called with each input, each time before it is decoded
 */
export async function fuzz(
  decoder: Decoder,
  pool: readonly Uint8Array[],
  inputs: number,
  seed: string,
  coverage?: Coverage,
  onInput: (input: Uint8Array) => void = () => {},
): Promise<Run> {
  const random = new Random(`${seed}/${decoder.name}`)
  const all = [...pool]
  const kept: Uint8Array[] = []
  const findings = new Map<string, Finding>()
  const heap: number[] = []
  let slowest = 0
  let done = 0
  const startedAt = performance.now()

  const decoded = (input: Uint8Array): Promise<string | undefined> => {
    onInput(input)
    return complaint(decoder, input)
  }

  const attempt = async (input: Uint8Array): Promise<void> => {
    const from = performance.now()
    const why = await decoded(input)
    const took = performance.now() - from
    if (why !== undefined) findings.set(why.replace(/\d+|"[^"]*"/g, '#'), { why, input })
    if (took <= slowest) return
    const least = took <= MAX_TIME ? took : await timeOf(decoder, input)
    slowest = Math.max(slowest, Math.min(took, least))
    if (least > MAX_TIME)
      findings.set(`slow ${Math.round(Math.log2(least))}`, { why: `took ${least.toFixed(0)} ms`, input })
  }

  /** Keeps the inputs of a batch that reach something new: found by halves, so that what is old costs nothing. */
  const search = async (batch: readonly Uint8Array[], hasRun = false): Promise<void> => {
    if (!hasRun) for (const input of batch) await decoded(input)
    if (!coverage!.isNew()) return
    if (batch.length === 1) {
      await decoded(batch[0]!)
      coverage!.note()
      kept.push(batch[0]!)
      if (batch[0]!.length <= MAX_SEED) all.push(batch[0]!)
      return
    }
    const middle = batch.length >> 1
    await search(batch.slice(0, middle))
    await search(batch.slice(middle))
  }

  for (const input of pool) await attempt(input)
  coverage?.note()
  while (done < inputs && findings.size < MAX_FINDINGS) {
    const batch = Array.from({ length: Math.min(BATCH, inputs - done) }, () =>
      mutant(random, all, decoder.form, decoder.limit),
    )
    for (const input of batch) await attempt(input)
    done += batch.length
    if (coverage !== undefined) await search(batch, true)
    if (global.gc !== undefined && heap.length < Math.floor((20 * done) / inputs)) heap.push(await held(all))
  }
  const seconds = (performance.now() - startedAt) / 1000
  const growth = heap.length < 20 ? undefined : Math.min(...heap.slice(-3)) - Math.min(...heap.slice(1, 4))
  return { inputs: done, seconds, slowest, growth, findings: [...findings.values()], kept }
}

async function held(pool: readonly Uint8Array[]): Promise<number> {
  // What finalizers free, as those of bodies of requests, they free in a turn of their own.
  for (let turn = 0; turn < 3; turn++) {
    global.gc!()
    await new Promise((resolve) => setImmediate(resolve))
  }
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external - pool.reduce((sum, { length }) => sum + length, 0)
}
