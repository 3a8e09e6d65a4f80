// Inputs made of other inputs: what a decoder gets from someone who knows what it expects. By bytes, and by what the bytes
// say, for which each form has a reader and a writer.
import * as cborg from 'cborg'
import { concat, utf8 } from '../../protocols/bytes.js'
import { MAX_DEPTH } from '../../protocols/limits.js'
import type { Random } from '../sim/random.js'

/** What the input of a decoder is written in. */
export type Form = 'cbor' | 'json' | 'text' | 'bytes'

/** One in so many mutants is blown up to the limit of its decoder: what is slow or big shows there, and takes long. */
const BIG = 500

const NUMBERS = [
  0,
  1,
  -1,
  23,
  24,
  255,
  256,
  65535,
  65536,
  2 ** 31,
  2 ** 32,
  2 ** 48,
  2 ** 48 + 1,
  2 ** 53 - 1,
  -(2 ** 53),
  0.5,
]
const TEXTS = ['', 'a', '__proto__', 'constructor', 'toString', 'length', '\0', '\u{10ffff}', 'é', '-', '/', '*', ' ']
const LENGTHS = [0, 1, 16, 20, 25, 31, 32, 33, 53, 64]

/** Tokens that mean something to one of the decoders of text. */
const WORDS = [
  ...[
    ':',
    ' ',
    '\n',
    '\t',
    '- ',
    '  ',
    '&a ',
    '*a',
    '<<: *a',
    '|',
    '>',
    '"',
    "'",
    '#',
    '---\n',
    '...\n',
    '!!str ',
    '? ',
    '%',
    '@',
    '`',
  ],
  ...[
    '{',
    '}',
    '[',
    ']',
    ',',
    'null',
    'true',
    '1e999',
    '-0',
    '0x1',
    '$',
    '$$',
    '\\',
    '\\u0000',
    '\r\n',
    '\ufeff',
    '/',
    '..',
    '=',
  ],
]

/** A mutant of one of `pool`, mostly of a few steps; at most `limit` bytes long. */
export function mutant(random: Random, pool: readonly Uint8Array[], form: Form, limit: number): Uint8Array {
  let input = random.pick(pool)
  const isBig = random.int(BIG) === 0
  for (let steps = 1 + random.int(4); steps > 0; steps--)
    input = step(random, input, random.pick(pool), form, limit, isBig)
  return input.length > limit ? input.subarray(0, limit) : input
}

function step(
  random: Random,
  input: Uint8Array,
  other: Uint8Array,
  form: Form,
  limit: number,
  isBig: boolean,
): Uint8Array {
  // What is not well-formed is refused early by most decoders, so most mutants are.
  if ((form === 'cbor' || form === 'json') && random.chance(0.8)) {
    const value = read(form, input)
    const donor = random.chance(0.3) ? read(form, other) : undefined
    if (value !== NOTHING)
      return write(form, changed(random, value, donor === NOTHING ? undefined : donor, isBig ? limit : 64)) ?? input
  }
  if ((form === 'json' || form === 'text') && random.chance(0.6))
    return changedText(random, input, other, isBig ? limit : 200)
  return changedBytes(random, input, other, isBig ? limit : 64)
}

// --- values -------------------------------------------------------------------------------------------------------------

const NOTHING = Symbol('nothing')

function read(form: Form, input: Uint8Array): unknown {
  try {
    return form === 'cbor' ? cborg.decode(input) : JSON.parse(Buffer.from(input).toString())
  } catch {
    return NOTHING
  }
}

function write(form: Form, value: unknown): Uint8Array | undefined {
  try {
    return form === 'cbor' ? cborg.encode(value) : utf8(JSON.stringify(value))
  } catch {
    return undefined
  }
}

type Box = Record<string | number, unknown>
const isBox = (value: unknown): value is Box =>
  value !== null && typeof value === 'object' && !(value instanceof Uint8Array)

/** All places in a value where another one could stand. */
function places(value: unknown, found: [Box, string | number][] = []): [Box, string | number][] {
  if (!isBox(value)) return found
  for (const key of Object.keys(value)) {
    if (found.length > 2000) break
    found.push([value, key])
    places(value[key], found)
  }
  return found
}

/** @param room how much bigger it may become, in bytes, or about */
function changed(random: Random, root: unknown, donor: unknown, room: number): unknown {
  const whole: Box = { root }
  const [box, key] = random.pick(places(whole))
  const old = box[key]
  const set = (value: unknown) =>
    Object.defineProperty(box, key, { value, enumerable: true, writable: true, configurable: true })
  switch (random.int(8)) {
    case 0:
    case 1:
      set(anyValue(random, old))
      break
    case 2: {
      const from: Box = { donor: donor ?? root }
      const [there, at] = random.pick(places(from))
      set(copy(there[at]))
      break
    }
    case 3:
      if (Array.isArray(box)) box.splice(Number(key), 1)
      else if (box !== whole) delete box[key]
      break
    case 4:
      if (isBox(old) && !Array.isArray(old)) old[random.pick(TEXTS)] = anyValue(random, old)
      else if (Array.isArray(old)) old.push(random.pick([old[0], anyValue(random, old)]))
      else set([old])
      break
    case 5:
      if (!Array.isArray(box) && box !== whole) {
        const name = random.chance(0.5) ? random.pick(TEXTS) : `${key}${random.int(10)}`
        Object.defineProperty(box, name, { value: old, enumerable: true, writable: true, configurable: true })
        delete box[key]
      }
      break
    case 6:
      set(nested(random, old))
      break
    case 7:
      set(many(random, old, random.chance(0.7) ? Math.min(room, 40) : room))
      break
  }
  return whole.root
}

function anyValue(random: Random, old: unknown): unknown {
  switch (random.int(8)) {
    case 0:
      return random.pick(NUMBERS)
    case 1:
      return random.pick(TEXTS)
    case 2:
      return random.bytes(random.pick(LENGTHS))
    case 3:
      return random.pick([null, true, false, [], {}])
    case 4:
      return typeof old === 'number' ? old + random.pick([-1, 1, 0.5]) : random.int(100)
    case 5:
      return typeof old === 'string'
        ? old.slice(0, random.int(old.length + 1)) + random.pick(TEXTS) + old.slice(random.int(old.length + 1))
        : ''
    case 6:
      return old instanceof Uint8Array ? changedBytes(random, old, old, 8) : new Uint8Array(random.int(70))
    default:
      return typeof old === 'number' ? random.pick(NUMBERS) : String.fromCodePoint(random.int(0xd800))
  }
}

function nested(random: Random, value: unknown): unknown {
  let all = value
  for (let depth = random.pick([1, 2, MAX_DEPTH, 2 * MAX_DEPTH]); depth > 0; depth--)
    all = random.chance(0.5) ? [all] : { a: all }
  return all
}

function copy(value: unknown): unknown {
  try {
    return structuredClone(value)
  } catch {
    return null // the reader hands out a symbol for a break where no array ends
  }
}

/** About `room` bytes of something that there is now one of. */
function many(random: Random, one: unknown, room: number): unknown {
  if (typeof one === 'string') return one.padEnd(1, 'a').repeat(Math.max(1, Math.floor(room / Math.max(1, one.length))))
  if (one instanceof Uint8Array && random.chance(0.5)) return new Uint8Array(room)
  const each = Array.isArray(one) && one.length > 0 ? random.pick(one) : random.pick([one, 0, '', null, {}, []])
  const count = Math.max(1, Math.floor(room / Math.max(1, write('cbor', each)?.length ?? 1)))
  if (!Array.isArray(one) && isBox(one))
    return Object.fromEntries(Array.from({ length: Math.floor(room / 5) }, (_, n) => [n.toString(36), each]))
  return Array.from({ length: count }, () => each)
}

// --- text and bytes -----------------------------------------------------------------------------------------------------

function changedText(random: Random, input: Uint8Array, other: Uint8Array, room: number): Uint8Array {
  const text = Buffer.from(input).toString()
  const at = random.int(text.length + 1)
  const to = Math.min(text.length, at + 1 + random.int(20))
  const lines = text.split('\n')
  const line = random.int(lines.length)
  switch (random.int(7)) {
    case 0:
      return utf8(text.slice(0, at) + random.pick(WORDS) + text.slice(at))
    case 1:
      return utf8(text.slice(0, at) + text.slice(to))
    case 2:
      return utf8(text.slice(0, at) + random.pick(WORDS) + text.slice(to))
    case 3:
      return utf8(lines.toSpliced(line, 1).join('\n'))
    case 4:
      return utf8(lines.toSpliced(line, 0, random.pick(Buffer.from(other).toString().split('\n'))).join('\n'))
    case 5:
      return utf8(lines.with(line, ' '.repeat(random.int(9)) + lines[line]!.trimStart()).join('\n'))
    default: {
      const part = random.chance(0.5) ? random.pick(WORDS) : text.slice(at, to) || ' '
      return utf8(
        text.slice(0, at) + part.repeat(Math.max(1, Math.floor((room * random.next()) / part.length))) + text.slice(at),
      )
    }
  }
}

function changedBytes(random: Random, input: Uint8Array, other: Uint8Array, room: number): Uint8Array {
  const at = random.int(input.length + 1)
  const to = Math.min(input.length, at + 1 + random.int(16))
  const [head, tail] = [input.subarray(0, at), input.subarray(at)]
  const copy = Uint8Array.from(input)
  switch (random.int(8)) {
    case 0:
      if (at < copy.length) copy[at]! ^= 1 << random.int(8)
      return copy
    case 1:
      if (at < copy.length) copy[at] = random.pick([0, 1, 0x7f, 0x80, 0xff, 0x20, 0x30, random.int(256)])
      return copy
    case 2:
      return random.chance(0.5) ? head : concat(head, input.subarray(to))
    case 3:
      return concat(head, random.bytes(1 + random.int(8)), tail)
    case 4:
      return concat(head, other.subarray(random.int(other.length + 1)))
    case 5:
      return concat(head, input.subarray(at, to), tail)
    case 6: {
      // A length that promises more than there is.
      const declared = random.pick([
        [0xff],
        [0xff, 0xff],
        [0xff, 0xff, 0xff, 0xff],
        [0x9a, 0x7f, 0xff, 0xff, 0xff],
        [0xbb, 0, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
      ])
      copy.set(declared.slice(0, copy.length - at), at)
      return copy
    }
    default: {
      const part = random.pick([
        [0x81],
        [0xa1, 0x60],
        [0xd8, 0x20],
        [0],
        [0xff],
        [0x80],
        [0x5b],
        [0x7b],
        [random.int(256)],
      ])
      const times = Math.max(1, Math.floor((room * random.next()) / part.length))
      return concat(
        head,
        new Uint8Array(times * part.length).map((_, i) => part[i % part.length]!),
        tail,
      )
    }
  }
}
