// A package: all that a chute is made of, named by one digest. The blob behind that digest, the descriptor, names every other
// one: manifests, configs and layers of its images, and sources that APs build. Each with what it takes to check it chunk by
// chunk, so that an AP needs nothing but the signed record to know that what it runs is what was signed.
import { z } from 'zod'
import { compareBytes, hex } from './bytes.js'
import { type Blob, chunksOf } from './chunks.js'
import { byteString, decode, encode } from './codec.js'
import { describe } from './envelope.js'
import { MeshError } from './error.js'
import { MAX_BLOB, MAX_CHUNK } from './limits.js'

const size = z.int().min(0).max(MAX_BLOB)

/** Digest and size, and the root of its chunks where there are several. */
const entry = z.union([
  z
    .tuple([byteString(32), size])
    .refine(([, bytes]) => chunksOf(bytes) <= 1, 'a blob of several chunks without a root'),
  z
    .tuple([byteString(32), size, byteString(32)])
    .refine(([, bytes]) => chunksOf(bytes) > 1, 'a root of a single chunk'),
])

/** Blobs by their digests, ascending, so that equal packages have one digest whoever makes them. */
const descriptor = z.object({
  blobs: z
    .array(entry)
    .min(1)
    .refine((all) => all.every(([digest], i) => i === 0 || compareBytes(all[i - 1]![0], digest) < 0), 'order of blobs'),
})

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
  const parsed = descriptor.safeParse(decode(bytes))
  if (!parsed.success) throw new MeshError('malformed', `a descriptor with a wrong ${describe(parsed.error)}`)
  return new Map(parsed.data.blobs.map(([digest, size, root]) => [hex(digest), { digest, size, root }]))
}
