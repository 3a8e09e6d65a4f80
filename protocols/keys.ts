// Ed25519 keys: making them, signing, and the one function that verifies, everywhere in the mesh.
import {
  createPrivateKey,
  createPublicKey,
  sign as cryptoSign,
  verify as cryptoVerify,
  type KeyObject,
} from 'node:crypto'
import nacl from 'tweetnacl'
import { concat, hex, unhex } from './bytes.js'

/** Signs with one key. `publicKey` is 32 bytes, a signature 64. */
export interface Signer {
  readonly publicKey: Uint8Array
  sign(message: Uint8Array): Uint8Array
}

// DER wrappings of raw Ed25519 keys, RFC 8410.
const PKCS8 = unhex('302e020100300506032b657004220420')
const SPKI = unhex('302a300506032b6570032100')

/** A signer over node:crypto, for what an AP signs by itself, often. `seed` is 32 secret bytes. */
export function apSigner(seed: Uint8Array): Signer {
  const key = createPrivateKey({ key: Buffer.from(concat(PKCS8, seed)), format: 'der', type: 'pkcs8' })
  const publicKey = nacl.sign.keyPair.fromSeed(seed).publicKey
  return { publicKey, sign: (message) => new Uint8Array(cryptoSign(null, message, key)) }
}

/** A signer over tweetnacl, for keys of people: publishers, mesh owners, tickets. `seed` is 32 secret bytes. */
export function personSigner(seed: Uint8Array): Signer {
  const pair = nacl.sign.keyPair.fromSeed(seed)
  return { publicKey: pair.publicKey, sign: (message) => nacl.sign.detached(message, pair.secretKey) }
}

// Points whose order divides 8, in every encoding a lenient decoder takes (RFC 7748 section 6.1 discussion; the list is
// libsodium's `ge25519_has_small_order`). The holder of such a "key" can make one signature fit many messages.
const SMALL_ORDER = new Set([
  '0000000000000000000000000000000000000000000000000000000000000000',
  '0100000000000000000000000000000000000000000000000000000000000000',
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
  'ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
])

/** True for a 32-byte key that no honest party has. The sign bit of the encoding is ignored, as decoders do. */
export function isSmallOrder(publicKey: Uint8Array): boolean {
  const y = publicKey.slice()
  y[31] = y[31]! & 0x7f
  return SMALL_ORDER.has(hex(y))
}

// Rebuilding a KeyObject costs half a verification (measured: 6,500 against 12,900 a second), and a mesh has few signers.
const keyObjects = new Map<string, KeyObject>()
const KEY_OBJECTS = 1024

function keyObject(publicKey: Uint8Array): KeyObject {
  const id = hex(publicKey)
  let key = keyObjects.get(id)
  if (key === undefined) {
    key = createPublicKey({ key: Buffer.from(concat(SPKI, publicKey)), format: 'der', type: 'spki' })
    if (keyObjects.size >= KEY_OBJECTS) keyObjects.delete(keyObjects.keys().next().value!)
    keyObjects.set(id, key)
  }
  return key
}

/**
 * Ed25519 as RFC 8032 verifies it (S < L), and no small-order key. Never throws: what is not a signature does not verify.
 * A signature is no identity: two can fit one message.
 */
export function verify(publicKey: Uint8Array, message: Uint8Array, signature: Uint8Array): boolean {
  if (publicKey.length !== 32 || signature.length !== 64 || isSmallOrder(publicKey)) return false
  try {
    return cryptoVerify(null, message, keyObject(publicKey), signature)
  } catch {
    return false
  }
}
