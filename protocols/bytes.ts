// Bytes, and the few ways in which the mesh writes them as text. Knows nothing of records.
import { createHash } from 'node:crypto'
import { base32 } from 'multiformats/bases/base32'
import { base58btc } from 'multiformats/bases/base58'
import { MeshError } from './error.js'

export const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text)

export const hex = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('hex')

export const unhex = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, 'hex'))

export function concat(...parts: Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}

/** Lexicographic order of bytes: negative, zero or positive, for `sort`. */
export const compareBytes = (a: Uint8Array, b: Uint8Array): number => Buffer.compare(a, b)

export const equalBytes = (a: Uint8Array, b: Uint8Array): boolean => compareBytes(a, b) === 0

export const sha256 = (...parts: Uint8Array[]): Uint8Array => {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(part)
  return new Uint8Array(hash.digest())
}

/** Base32 of RFC 4648, lower case, no padding: fits DNS labels, and QR codes when upper-cased. */
export const toBase32 = (bytes: Uint8Array): string => base32.baseEncode(bytes)

/** @throws MeshError `malformed` at what `toBase32` does not write, but for upper case */
export function fromBase32(text: string): Uint8Array {
  const lower = text.toLowerCase()
  try {
    const bytes = base32.baseDecode(lower)
    if (toBase32(bytes) === lower) return bytes // padding it would let pass
  } catch {}
  throw new MeshError('malformed', `"${text.slice(0, 80)}" is not base32: letters and the digits 2 to 7`)
}

// A libp2p peer id of an Ed25519 key is the identity multihash (0x00, length 0x24) of the protobuf
// { 1: key type Ed25519 = 1, 2: 32 key bytes }, in base58btc. libp2p spec, peer-ids/peer-ids.md.
const PEER_ID_PREFIX = Uint8Array.of(0x00, 0x24, 0x08, 0x01, 0x12, 0x20)

// Base58 divides large numbers, and the same few keys of the same records are asked for again and again.
const apIds = new WeakMap<Uint8Array, string>()

/** The AP id people see (`12D3KooW…`), as libp2p prints it, of a 32-byte Ed25519 public key. */
export function apId(publicKey: Uint8Array): string {
  let id = apIds.get(publicKey)
  if (id === undefined) {
    id = base58btc.baseEncode(concat(PEER_ID_PREFIX, publicKey))
    apIds.set(publicKey, id)
  }
  return id
}

/** How an AP id looks. Base58 takes the square of its length to read, and its reader lets characters pass that are none of it. */
const AP_ID = /^[1-9A-HJ-NP-Za-km-z]{52}$/

/** The public key of an AP id. @throws MeshError `ap-id` when the text is not the id of an Ed25519 key. */
export function apKey(id: string): Uint8Array {
  let bytes: Uint8Array
  try {
    bytes = AP_ID.test(id) ? base58btc.baseDecode(id) : new Uint8Array()
  } catch {
    bytes = new Uint8Array()
  }
  if (bytes.length !== 38 || !equalBytes(bytes.subarray(0, 6), PEER_ID_PREFIX)) {
    throw new MeshError('ap-id', `"${id.slice(0, 80)}" is not an AP id (they begin with 12D3KooW)`)
  }
  return bytes.slice(6)
}
