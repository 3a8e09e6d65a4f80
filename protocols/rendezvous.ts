// Rendezvous (highest random weight) hashing: everyone who knows the same candidates picks the same ones, and adding or
// removing a candidate moves nothing else. Thaler and Ravishankar, 1998; weights as in Schindelhauer and Schomaker, 2005.
import { sha256, utf8 } from './bytes.js'

const TWO_53 = 2 ** 53

/** A number in (0, 1) that depends on `domain`, `key` and `candidate` alone. */
function draw(domain: string, key: Uint8Array, candidate: Uint8Array): number {
  const hash = sha256(utf8(`dropmesh ${domain}\0`), key, candidate)
  const view = new DataView(hash.buffer, hash.byteOffset)
  const bits = view.getUint32(0) * 2 ** 21 + (view.getUint32(4) >>> 11)
  return (bits + 0.5) / TWO_53
}

/**
 * The score of a candidate for a key: higher is better, and among candidates of weights w the chance to come first is
 * w over the sum of all. A last-bit difference in `Math.log` between two machines can only swap two candidates that are
 * all but equal; both then claim, and the order of claims settles it.
 */
export const score = (domain: string, key: Uint8Array, candidate: Uint8Array, weight: number): number =>
  weight > 0 ? -weight / Math.log(draw(domain, key, candidate)) : 0

/** How many watchers an AP has in a mesh of `members` (architecture: min(5, members − 1)). */
export const watcherCount = (members: number): number => Math.max(0, Math.min(5, members - 1))

/** How many of k watchers must agree. */
export const majority = (k: number): number => Math.floor(k / 2) + 1
