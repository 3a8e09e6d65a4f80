// Strict CBOR: the deterministic subset of RFC 8949 (section 4.2.1) in which everything on the wire is written.
import * as cborg from 'cborg'
import { z } from 'zod'
import { equalBytes } from './bytes.js'
import { MeshError } from './error.js'
import { MAX_DEPTH, MAX_ITEMS } from './limits.js'

const DECODE: cborg.DecodeOptions = {
  strict: true,
  allowIndefinite: false,
  allowUndefined: false,
  allowInfinity: false,
  allowNaN: false,
  allowBigInt: false,
  rejectDuplicateMapKeys: true,
}

/**
 * For text keys cborg's own order, shorter ones first, is that of RFC 8949, at a third of the cost of its RFC 8949 mode.
 * @throws Error where `value` holds something the wire has no form for (`undefined` in an array, a bigint over 2^53)
 */
export const encode = (value: unknown): Uint8Array => cborg.encode(withoutUndefined(value))

/**
 * @throws MeshError `malformed` on anything but one canonical CBOR item, and on one that is nested more than MAX_DEPTH
 * deep, or has more than MAX_ITEMS items; `bytes` must have passed its size limit before.
 */
export function decode(bytes: Uint8Array): unknown {
  if (hasTooManyItems(bytes)) throw new MeshError('malformed', `CBOR of more than ${MAX_ITEMS} items`)
  try {
    const value = cborg.decode(bytes, DECODE)
    // cborg's strict mode lets keys out of order, long floats and broken UTF-8 pass. Writing the value again does not.
    if (isWithinDepth(value, MAX_DEPTH) && equalBytes(cborg.encode(value), bytes)) return value
  } catch (cause) {
    throw new MeshError('malformed', 'not canonical CBOR', { cause })
  }
  throw new MeshError('malformed', 'not canonical CBOR, or nested too deep')
}

/** Reads what `decode` read before, at a third of the cost. */
export const decodeAgain = (bytes: Uint8Array): unknown => cborg.decode(bytes)

/** Counts the heads of items, and makes nothing of them: what is not well-formed the decoder tells. */
function hasTooManyItems(bytes: Uint8Array): boolean {
  let items = 0
  for (let at = 0; at < bytes.length; ) {
    if (++items > MAX_ITEMS) return true
    const head = bytes[at++]!
    let value = head & 0x1f
    if (value >= 24) {
      const end = at + (value < 28 ? 1 << (value - 24) : 0)
      for (value = 0; at < end; at++) value = value * 256 + (bytes[at] ?? 0)
    }
    const type = head >> 5
    if (type === 2 || type === 3) at += value
  }
  return false
}

// A stack that overflows is no limit that is the same on two APs.
function isWithinDepth(value: unknown, depth: number): boolean {
  if (value === null || typeof value !== 'object' || value instanceof Uint8Array) return true
  return depth > 0 && Object.values(value).every((item) => isWithinDepth(item, depth - 1))
}

// An absent optional field and one that is `undefined` are the same thing to TypeScript; on the wire only absence exists.
function withoutUndefined(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutUndefined)
  if (value === null || typeof value !== 'object' || value instanceof Uint8Array) return value
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, item]) => item !== undefined)
      .map(([key, item]) => [key, withoutUndefined(item)]),
  )
}

/** A byte string of `min` to `max` bytes, for schemas of what came over the wire. */
export const byteString = (min: number, max = min) =>
  z.custom<Uint8Array>(
    (value) => value instanceof Uint8Array && value.length >= min && value.length <= max,
    `${min === max ? min : `${min} to ${max}`} bytes`,
  )
