// Blobs in chunks: what an AP can check as soon as it has it, and pass on before it has the rest. The root of a hash tree over the
// chunks is signed beside the blob's digest, so a chunk from anybody is right, or not.
import { createHash } from 'node:crypto'
import { concat, equalBytes, sha256 } from './bytes.js'
import { MeshError } from './error.js'
import { MAX_BLOB, MAX_CHUNK } from './limits.js'

const HASH_BYTES = 32
/** Leaves in one frame: as many bytes as a chunk. */
export const LEAVES_AT_ONCE = MAX_CHUNK / HASH_BYTES

/** A blob as those name it who signed for it. */
export interface Blob {
  /** SHA-256 of all of it. */
  readonly digest: Uint8Array
  /** Bytes. */
  readonly size: number
  /** Of the hash tree over its chunks. One of a single chunk needs none: its digest tells as much. */
  readonly root?: Uint8Array | undefined
}

/** How many chunks a blob of so many bytes has. */
export const chunksOf = (size: number): number => Math.ceil(size / MAX_CHUNK)

/** Where chunk `index` begins and ends, in bytes. */
export const spanOf = (size: number, index: number): { start: number; end: number } => ({
  start: index * MAX_CHUNK,
  end: Math.min(size, (index + 1) * MAX_CHUNK),
})

// Leaves and nodes begin otherwise, or a node could be taken for a chunk of 64 bytes (RFC 6962, section 2.1).
const LEAF = Uint8Array.of(0)
const NODE = Uint8Array.of(1)

/** @param chunk in one piece or several */
export const leafOf = (...chunk: Uint8Array[]): Uint8Array => sha256(LEAF, ...chunk)

/**
 * The root of the tree of RFC 6962 over leaves.
 * @param leaves their hashes, one after the other
 */
export function rootOf(leaves: Uint8Array): Uint8Array {
  const count = leaves.length / HASH_BYTES
  if (count <= 1) return count === 1 ? leaves.slice() : sha256()
  // The largest power of two below the count goes to the left.
  const left = 2 ** Math.floor(Math.log2(count - 1)) * HASH_BYTES
  return sha256(NODE, rootOf(leaves.subarray(0, left)), rootOf(leaves.subarray(left)))
}

/** The hashes of a blob's chunks, once they are known to be the ones that were signed for. */
export class Leaves {
  private constructor(
    private readonly blob: Blob,
    readonly bytes: Uint8Array,
  ) {}

  /** @throws MeshError `malformed` where they are not those of the blob */
  static of(blob: Blob, bytes: Uint8Array): Leaves {
    const isRight =
      blob.root !== undefined &&
      bytes.length === chunksOf(blob.size) * HASH_BYTES &&
      equalBytes(rootOf(bytes), blob.root)
    if (!isRight) throw new MeshError('malformed', 'hashes of chunks that are not those of the blob')
    return new Leaves(blob, bytes)
  }

  /** Of a blob that has a single chunk, or none. */
  static ofOne(blob: Blob): Leaves {
    return new Leaves(blob, new Uint8Array())
  }

  /** True where a chunk, in one piece or several, is the one that the blob has there. */
  matches(index: number, ...chunk: Uint8Array[]): boolean {
    const { start, end } = spanOf(this.blob.size, index)
    if (chunk.reduce((sum, piece) => sum + piece.length, 0) !== end - start) return false
    if (this.bytes.length === 0) return equalBytes(sha256(...chunk), this.blob.digest)
    return equalBytes(leafOf(...chunk), this.bytes.subarray(index * HASH_BYTES, (index + 1) * HASH_BYTES))
  }
}

/** Reads a blob once, and says what has to be signed of it. @throws what reading it throws */
export async function describeBlob(chunks: AsyncIterable<Uint8Array>): Promise<{ blob: Blob; leaves: Uint8Array }> {
  const hash = createHash('sha256')
  const leaves: Uint8Array[] = []
  let size = 0
  let rest: Uint8Array = new Uint8Array()
  for await (const bytes of chunks) {
    hash.update(bytes)
    size += bytes.length
    rest = rest.length === 0 ? bytes : concat(rest, bytes)
    for (; rest.length >= MAX_CHUNK; rest = rest.subarray(MAX_CHUNK)) leaves.push(leafOf(rest.subarray(0, MAX_CHUNK)))
  }
  if (rest.length > 0) leaves.push(leafOf(rest))
  if (size > MAX_BLOB) throw new MeshError('blob-too-big', `a blob of ${size} bytes; ${MAX_BLOB} are allowed`)
  const all = concat(...leaves)
  return {
    blob: { digest: new Uint8Array(hash.digest()), size, root: leaves.length > 1 ? rootOf(all) : undefined },
    leaves: all,
  }
}

/** Which chunks there are: a bit each, the first one the highest of the first byte. */
export class ChunkSet {
  readonly bits: Uint8Array
  private held = 0

  /** @param bits as `bits` of another one gave them. @throws MeshError `malformed` where they are too many or too few */
  constructor(
    readonly count: number,
    bits?: Uint8Array,
  ) {
    this.bits = new Uint8Array(Math.ceil(count / 8))
    if (bits === undefined) return
    if (bits.length !== this.bits.length) throw new MeshError('malformed', 'a set of chunks of another size')
    for (let index = 0; index < count; index++) if ((bits[index >> 3]! & (0x80 >> (index & 7))) !== 0) this.add(index)
  }

  static full(count: number): ChunkSet {
    return new ChunkSet(count, new Uint8Array(Math.ceil(count / 8)).fill(0xff))
  }

  has(index: number): boolean {
    return (this.bits[index >> 3]! & (0x80 >> (index & 7))) !== 0
  }

  /** @returns false where it was there before */
  add(index: number): boolean {
    if (this.has(index)) return false
    this.bits[index >> 3]! |= 0x80 >> (index & 7)
    this.held++
    return true
  }

  get size(): number {
    return this.held
  }

  get isFull(): boolean {
    return this.held === this.count
  }
}
