// The short code that two people compare when an AP asks to be let in. Each side draws a number; the asker commits to its own
// before it sees the other's. So who sits between the two and speaks with each has drawn everything that is in one code
// before it can know the other, whatever keys and numbers it tries.
import { concat, equalBytes, sha256, utf8 } from './bytes.js'

export const NONCE_BYTES = 32

/** What the asker says of its number before it hears the member's. */
export const commitTo = (nonce: Uint8Array): Uint8Array => sha256(utf8('dropmesh ask 1\0'), nonce)

export const isCommitted = (commitment: Uint8Array, nonce: Uint8Array): boolean =>
  equalBytes(commitTo(nonce), commitment)

export interface Exchange {
  readonly meshKey: Uint8Array
  /** Public keys of both APs, as their connection was opened with. */
  readonly asker: Uint8Array
  readonly member: Uint8Array
  readonly askerNonce: Uint8Array
  readonly memberNonce: Uint8Array
}

/** Six digits. */
export function codeOf({ meshKey, asker, member, askerNonce, memberNonce }: Exchange): string {
  const digest = sha256(utf8('dropmesh code 1\0'), concat(meshKey, asker, member, askerNonce, memberNonce))
  // 48 bits: that six digits do not divide them makes no code likelier than another by more than one in 10^8.
  return String(Buffer.from(digest).readUIntBE(0, 6) % 1_000_000).padStart(6, '0')
}
