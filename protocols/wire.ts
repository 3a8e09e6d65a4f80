// Names and frames of the wire: topics, protocol ids, and the messages of each stream protocol. protocols/README.md says
// who sends which when.
import { z } from 'zod'
import { concat } from './bytes.js'
import { byteString, decode } from './codec.js'
import { describe } from './envelope.js'
import { MeshError } from './error.js'
import { aboutAp, admission } from './kinds.js'
import { MAX_AWAY, MAX_BLOB, MAX_BOOT, MAX_CHUNK, MAX_GRANT, MAX_LEASES, MAX_RECORD, MAX_SEQUENCE } from './limits.js'
import type { Range } from './sync.js'

/** What a mesh that is not divided calls its one neighbourhood. */
const WHOLE_MESH = 'all'

/**
 * Gossip topics. Deployment records and membership go mesh-wide, beacons stay in a neighbourhood.
 * @param prefix of the neighbourhood's positions
 */
export const topics = (mesh: string, prefix = '') => ({
  records: `/dropmesh/1/${mesh}/records`,
  beacons: `/dropmesh/1/${mesh}/${prefix || WHOLE_MESH}/beacons`,
})

/** Stream protocols. Two meshes on one network never speak to each other. */
export const protocolIds = (mesh: string) => ({
  join: `/dropmesh/1/${mesh}/join`,
  sync: `/dropmesh/1/${mesh}/sync`,
  pulse: `/dropmesh/1/${mesh}/pulse`,
  probe: `/dropmesh/1/${mesh}/probe`,
  reach: `/dropmesh/1/${mesh}/reach`,
  lease: `/dropmesh/1/${mesh}/lease`,
  blob: `/dropmesh/1/${mesh}/blob`,
  beacon: `/dropmesh/1/${mesh}/beacon`,
})

/** The mDNS service: a DNS label of at most 63 characters, so that two meshes on one LAN do not answer each other. */
export const mdnsService = (mesh: string): string => `_dropmesh-${mesh}._udp.local`

const uint = z
  .int()
  .min(0)
  .max(2 ** 48)
const boot = z.int().min(0).max(MAX_BOOT)
const sequence = z.int().min(0).max(MAX_SEQUENCE)
const envelope = byteString(1, MAX_RECORD)
const reason = z.string().max(512)
const MAX_CHUNKS = MAX_BLOB / MAX_CHUNK
const chunkIndex = z
  .int()
  .min(0)
  .max(MAX_CHUNKS - 1)

/** Joiner: grant and member record. Member: welcome with its time (milliseconds since 1970), or a reason. */
export const joinRequest = z.tuple([z.literal('join'), envelope, envelope])
export const joinReply = z.union([z.tuple([z.literal('welcome'), uint]), z.tuple([z.literal('refused'), reason])])

/** What one speaks with members of a mesh that one does not know yet, and the mDNS service by which those are found. */
export const ASK = '/dropmesh/1/ask'
export const LAN_SERVICE = '_dropmesh._udp.local'

/** Which mesh is this? Let me in: the hash of a number I drew, and who I am. Was I let in? */
export const askRequest = z.union([
  z.tuple([z.literal('look')]),
  z.tuple([z.literal('ask'), byteString(32), aboutAp.shape.name, aboutAp.shape.labels]),
  z.tuple([z.literal('poll')]),
])
export const lookReply = z.tuple([z.literal('mesh'), byteString(32), aboutAp.shape.name])
/** The number that the member drew; then comes the asker's. */
export const askedReply = z.union([
  z.tuple([z.literal('asked'), byteString(32)]),
  z.tuple([z.literal('refused'), reason]),
])
export const askReveal = z.tuple([z.literal('reveal'), byteString(32)])
export const pollReply = z.union([
  z.tuple([z.literal('waiting')]),
  z.tuple([z.literal('unknown')]),
  z.tuple([z.literal('let-in'), byteString(1, MAX_GRANT), admission]),
])

/** One each half second: by datagram, and on a stream that stays open where datagrams do not pass. `away` as in a beacon. */
export const pulse = z.object({
  boot,
  sequence,
  away: z.int().min(0).max(MAX_AWAY).optional(),
  ledger: byteString(16),
})
export type Pulse = z.infer<typeof pulse>

/** Empty `ap`: are you there? Else: can you reach this AP (by key)? */
export const probeRequest = z.object({ ap: byteString(32).optional() })
export type ProbeRequest = z.infer<typeof probeRequest>
export const probeReply = z.object({ boot, sequence, reached: z.boolean() })
export type ProbeReply = z.infer<typeof probeReply>

/** What do you say of yourself? The latest beacon, or nothing. */
export const beaconRequest = z.object({})
export const beaconReply = z.object({ beacon: envelope.optional() })

/** Of an exclusive chute, which never runs everywhere. */
const instance = byteString(25)

/** Requests are [instance, generation, epoch], what is given back [instance, epoch]; the reply has an answer a request. */
export const leaseRequest = z.object({
  asks: z.array(z.tuple([instance, uint, uint])).max(MAX_LEASES),
  releases: z.array(z.tuple([instance, uint])).max(MAX_LEASES),
})
const refusal = z.enum(['unknown', 'quiet', 'held', 'superseded'])
export const leaseReply = z
  .array(z.union([z.tuple([z.literal('granted')]), z.tuple([refusal, uint, uint])]))
  .max(MAX_LEASES)

/** Hashes travel as one byte string, 32 bytes each. */
const hashes = byteString(0, 4096 * 32).refine((b) => b.length % 32 === 0, 'whole hashes')

const prefix = z.string().regex(/^[0-9a-f]{0,62}$/)
const digests = byteString(16 * 16, 16 * 256).refine((b) => b.length === 16 * 16 || b.length === 16 * 256, '16 or 256')
const range = z.union([
  z.tuple([z.literal('digests'), prefix, digests]),
  z.tuple([z.literal('hashes'), prefix, hashes]),
])
type RangeFrame = z.infer<typeof range>

/** The latest beacon that is known of an AP: its key, boot, sequence. */
const beaconMark = z.tuple([byteString(32), uint, uint])
export type BeaconMark = z.infer<typeof beaconMark>

export const syncFrame = z.union([
  z.tuple([z.literal('hello'), byteString(16), uint, z.array(beaconMark).max(256)]),
  z.tuple([z.literal('ranges'), z.array(range).max(1024)]),
  z.tuple([z.literal('want'), hashes]),
  z.tuple([z.literal('records'), z.array(envelope).max(4096)]),
  z.tuple([z.literal('beacons'), z.array(envelope).max(4096)]),
  z.tuple([z.literal('end')]),
])
export type SyncFrame = z.infer<typeof syncFrame>

/**
 * Which chunks of a blob somebody has: a bit each, or left out where it is all of them. Which of them others have asked it for lately, and
 * will have soon. And who they are.
 */
const chunkBits = byteString(0, MAX_CHUNKS / 8).optional()
const blobState = z.object({ has: chunkBits, given: chunkBits, others: z.array(byteString(32)).max(32) })

/** A stream is about one blob. The first frame says which, the answer what of it is there. */
export const blobOpening = z.object({ blob: byteString(32) })
export const blobOpened = z.union([z.tuple([z.literal('open'), blobState]), z.tuple([z.literal('refused'), reason])])
/**
 * Then requests, answered in their order: for the hashes of chunks from that one on, as bytes; for a chunk, as bytes after a frame that
 * says so, or, where it is asked for as one that nobody was given yet and somebody was, by that alone; and for what is new, answered once
 * something is, or after a while.
 */
export const blobRequest = z.union([
  z.tuple([z.literal('leaves'), chunkIndex]),
  z.tuple([z.literal('chunk'), chunkIndex]),
  z.tuple([z.literal('first'), chunkIndex]),
  z.tuple([z.literal('news')]),
])
export const blobReply = z.union([
  z.tuple([z.literal('chunk'), chunkIndex]),
  z.tuple([z.literal('chunk'), chunkIndex, blobState]),
  z.tuple([z.literal('given'), chunkIndex, blobState]),
  z.tuple([z.literal('news'), blobState]),
  z.tuple([z.literal('gone')]),
])
export type BlobState = z.infer<typeof blobState>

/** Reads one frame. @throws MeshError `malformed` */
export function readFrame<T>(schema: z.ZodType<T>, bytes: Uint8Array): T {
  const parsed = schema.safeParse(decode(bytes))
  if (!parsed.success) throw new MeshError('malformed', `a frame with a wrong ${describe(parsed.error)}`)
  return parsed.data
}

export const splitHashes = (joined: Uint8Array): Uint8Array[] => split(joined, 32)

const split = (joined: Uint8Array, size: number): Uint8Array[] =>
  Array.from({ length: joined.length / size }, (_, i) => joined.subarray(i * size, (i + 1) * size))

export const readRange = ([kind, prefix, joined]: RangeFrame): Range =>
  kind === 'hashes' ? { prefix, hashes: splitHashes(joined) } : { prefix, digests: split(joined, 16) }

export const writeRange = (range: Range): RangeFrame =>
  'hashes' in range
    ? ['hashes', range.prefix, concat(...range.hashes)]
    : ['digests', range.prefix, concat(...range.digests)]
