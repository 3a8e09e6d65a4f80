// What a decoder of the fuzzer is, and what several of them use.
import { seal } from '../../../protocols/envelope.js'
import type { Kind } from '../../../protocols/kinds.js'
import { CLOCK, GOOD } from '../../protocols/samples.js'
import { MESH } from '../../protocols/support.js'
import type { Form } from '../mutate.js'

export interface Decoder {
  readonly name: string
  /** What mutants are made by. */
  readonly form: Form
  /** Bytes of the longest input: what its caller lets through, or what it checks itself, and some more. */
  readonly limit: number
  /** The first one is read without a complaint. */
  readonly seeds: readonly Uint8Array[]
  /** The scripts whose branches count as reached or not. */
  readonly reads: readonly string[]
  /** Fresh inputs in the quick test: fewer where one takes long. */
  readonly quick?: number
  /** Throws anything but a MeshError where something is wrong with it. */
  decode(input: Uint8Array): unknown
}

export const must = (holds: boolean, what: string): void => {
  if (!holds) throw new Error(what)
}
export const text = (input: Uint8Array): string => Buffer.from(input).toString()

export const key = (n: number): Uint8Array => new Uint8Array(32).fill(n)
export const records = (Object.keys(GOOD) as Kind[]).map((kind) => {
  const { by, subject, body } = GOOD[kind]
  return seal(by, MESH, CLOCK, kind, subject, body)
})
