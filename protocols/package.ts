// A package: all that a chute is made of, named by one digest. The blob behind that digest, the descriptor, names every other
// one: manifests, configs and layers of its images, and sources that APs build. Each with what it takes to check it chunk by
// chunk, so that an AP needs nothing but the signed record to know that what it runs is what was signed.
import { z } from 'zod'
import { compareBytes, hex } from './bytes.js'
import { type Blob, chunksOf } from './chunks.js'
import { decode, encode } from './codec.js'
import { describe } from './envelope.js'
import { MeshError } from './error.js'
import { MAX_BLOB, MAX_CHUNK } from './limits.js'

const shape = z.object({ blobs: z.array(z.unknown()).min(1) })

/**
 * Writes a descriptor.
 * @throws MeshError `package-too-big` where it would be more than one chunk, which some 3,400 blobs fill
 */
export function writeDescriptor(blobs: Iterable<Blob>): Uint8Array {
  const distinct = new Map([...blobs].map((blob) => [hex(blob.digest), blob]))
  const sorted = [...distinct.values()].sort((a, b) => compareBytes(a.digest, b.digest))
  const bytes = encode({
    blobs: sorted.map(({ digest, size, root }) => (root === undefined ? [digest, size] : [digest, size, root])),
  })
  if (bytes.length <= MAX_CHUNK) return bytes
  throw new MeshError(
    'package-too-big',
    `a package of ${sorted.length} blobs: its descriptor must fit ${MAX_CHUNK} bytes`,
  )
}

/** Reads one. @returns its blobs by their digests in hex; @throws MeshError `malformed` */
export function readDescriptor(bytes: Uint8Array): Map<string, Blob> {
  if (bytes.length > MAX_CHUNK) throw new MeshError('malformed', `a descriptor of ${bytes.length} bytes`)
  const parsed = shape.safeParse(decode(bytes))
  if (!parsed.success) throw new MeshError('malformed', `a descriptor with a wrong ${describe(parsed.error)}`)
  const blobs = new Map<string, Blob>()
  let before: Uint8Array | undefined
  for (const [i, entry] of parsed.data.blobs.entries()) {
    const blob = readEntry(entry)
    // Ascending, so that equal packages have one digest whoever makes them.
    if (blob === undefined || (before !== undefined && compareBytes(before, blob.digest) >= 0))
      throw new MeshError('malformed', `a descriptor with a wrong blob ${i}, or one out of order`)
    blobs.set(hex(blob.digest), blob)
    before = blob.digest
  }
  return blobs
}

/** Digest and size, and the root of its chunks where there are several. By hand: there are thousands of them. */
function readEntry(entry: unknown): Blob | undefined {
  if (!Array.isArray(entry)) return undefined
  const [digest, size, root] = entry as unknown[]
  if (!isDigest(digest) || !Number.isSafeInteger(size) || (size as number) < 0 || (size as number) > MAX_BLOB)
    return undefined
  const isLong = chunksOf(size as number) > 1
  if (entry.length !== (isLong ? 3 : 2) || (isLong && !isDigest(root))) return undefined
  return { digest, size: size as number, root: isLong ? (root as Uint8Array) : undefined }
}

const isDigest = (value: unknown): value is Uint8Array => value instanceof Uint8Array && value.length === 32
