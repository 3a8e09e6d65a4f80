// How a secret is locked, and for whom: NaCl's secretbox around the value, and its box around the key to that, for each AP.
// An AP's box key is its identity in Montgomery form, so that whoever knows an AP can seal to it, with nothing to ask for.
import { ed25519 } from '@noble/curves/ed25519.js'
import nacl from 'tweetnacl'
import { concat, equalBytes, hex } from './bytes.js'
import { isSmallOrder } from './keys.js'
import type { Body, RecordOf } from './kinds.js'
import { hashesIn } from './secrets.js'

/** Every key here locks one message and no other, so no nonce has to tell messages apart. */
const NONCE = new Uint8Array(24)

/** Bytes of randomness that sealing takes. */
export const SEAL_RANDOM = 64

type Sealed = NonNullable<Body<'secret'>['sealed']>

/** The X25519 key of an AP, or undefined for one that nothing can be sealed to. @param ap its Ed25519 key */
function boxKey(ap: Uint8Array): Uint8Array | undefined {
  if (isSmallOrder(ap)) return undefined // anyone could open what is sealed to such a one
  try {
    return ed25519.utils.toMontgomery(ap)
  } catch {
    return undefined
  }
}

/** What an AP opens boxes with. @param seed of its Ed25519 key */
export const boxSecret = (seed: Uint8Array): Uint8Array => ed25519.utils.toMontgomerySecret(seed)

/**
 * Locks a value for some APs. Those that nothing can be sealed to are left out.
 * @param random SEAL_RANDOM bytes that are used for nothing else
 */
export function sealValue(value: Uint8Array, aps: readonly Uint8Array[], random: Uint8Array): Sealed {
  const [key, pair] = drawn(random)
  const keys = aps.flatMap((ap) => {
    const to = boxKey(ap)
    return to === undefined ? [] : [{ ap, box: nacl.box(key, NONCE, to, pair.secretKey) }]
  })
  return { value: nacl.secretbox(value, NONCE, key), ephemeral: pair.publicKey, keys }
}

/** Lets an AP open secrets that the one who seals can open. @returns undefined where nothing can be sealed to it */
export function sealKeys(
  opened: readonly { record: RecordOf<'secret'>; key: Uint8Array }[],
  ap: Uint8Array,
  random: Uint8Array,
): Body<'share'> | undefined {
  const to = boxKey(ap)
  if (to === undefined) return undefined
  const [, pair] = drawn(random)
  const box = nacl.box(concat(...opened.map(({ key }) => key)), NONCE, to, pair.secretKey)
  return { secrets: concat(...opened.map(({ record }) => record.hash)), ephemeral: pair.publicKey, box }
}

function drawn(random: Uint8Array): [key: Uint8Array, pair: nacl.BoxKeyPair] {
  return [random.slice(0, 32), nacl.box.keyPair.fromSecretKey(random.slice(32, SEAL_RANDOM))]
}

/**
 * Opens a secret, by its own record or by what others sealed. What does not open, whoever sealed it, is passed over.
 * @param shares to this AP
 * @param self the AP's Ed25519 key; @param own its `boxSecret`
 */
export function openSecret(
  record: RecordOf<'secret'>,
  shares: readonly RecordOf<'share'>[],
  self: Uint8Array,
  own: Uint8Array,
): { key: Uint8Array; value: Uint8Array } | undefined {
  const { sealed } = record.body
  if (sealed === undefined) return undefined
  for (const key of keysTo(record, sealed, shares, self, own)) {
    const value = nacl.secretbox.open(sealed.value, NONCE, key)
    if (value !== null) return { key, value }
  }
  return undefined
}

function* keysTo(
  { hash }: RecordOf<'secret'>,
  { ephemeral, keys }: Sealed,
  shares: readonly RecordOf<'share'>[],
  self: Uint8Array,
  own: Uint8Array,
): Generator<Uint8Array> {
  for (const { ap, box } of keys) {
    const key = equalBytes(ap, self) && nacl.box.open(box, NONCE, ephemeral, own)
    if (key) yield key
  }
  for (const { body } of shares) {
    const at = hashesIn(body).indexOf(hex(hash))
    const opened = at >= 0 && nacl.box.open(body.box, NONCE, body.ephemeral, own)
    if (opened) yield opened.slice(32 * at, 32 * (at + 1))
  }
}
