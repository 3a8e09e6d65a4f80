// Sync: makes the ledgers of two APs equal, at a cost that follows their difference. protocols/README.md says how.
import type { Stream } from '@libp2p/interface'
import { concat, equalBytes, hex } from '../../protocols/bytes.js'
import type { SignedRecord } from '../../protocols/envelope.js'
import { MeshError } from '../../protocols/error.js'
import { BUCKETS, Ledger } from '../../protocols/ledger.js'
import { MAX_SYNC_FRAME } from '../../protocols/limits.js'
import { type SyncFrame, splitHashes, syncFrame } from '../../protocols/wire.js'
import type { LedgerStore } from '../store/ledger-store.js'
import { Frames } from './frames.js'

/** Of each read or write, in milliseconds; and of a whole exchange. */
const FRAME_DEADLINE = 10_000
const DEADLINE = 120_000
/** A page of records in bytes, and of hashes in number. */
const PAGE_BYTES = MAX_SYNC_FRAME - 40 * 1024
const PAGE_HASHES = 4096
/** Frames one side may send in one exchange: a million records, and an end to a peer that never ends. */
const MAX_FRAMES = 20_000
/** Records asked for in one exchange; what is lacking beyond them, the next one brings. 8 MB of hashes. */
const MAX_WANTED = 250_000
/** Records of a peer that are refused before the exchange is given up: an honest one sends none. */
const MAX_REFUSED = 100

export interface SyncDependencies {
  readonly store: LedgerStore
  /** Latest beacons of everyone, which travel along. */
  beacons(): Uint8Array[]
  onBeacon(beacon: SignedRecord): void
  /** A record that the peer sent is provably bad. */
  onRefused(error: MeshError): void
  /** The peer's time in milliseconds since 1970. */
  onTime?(ms: number): void
}

export interface SyncResult {
  readonly received: number
  readonly sent: number
}

/** Initiates an exchange. When it resolves, both sides have synced to disk what they got. */
export async function initiateSync(stream: Stream, deps: SyncDependencies): Promise<SyncResult> {
  const link = new SyncLink(stream, deps)
  const { ledger, clock } = deps.store
  const digest = ledger.digest() // the ledger may grow meanwhile, but both sides must compare the same two
  await link.write(['hello', digest, clock.now()])
  const hello = await link.expect('hello')
  deps.onTime?.(hello[2])
  if (!equalBytes(hello[1], digest)) {
    const [, theirs] = await link.expect('buckets')
    const ours = ledger.bucketDigests()
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      if (equalBytes(theirs[bucket]!, ours[bucket]!)) continue
      const hashes = ledger.bucket(bucket)
      for (let at = 0; at === 0 || at < hashes.length; at += PAGE_HASHES) {
        await link.write(['hashes', bucket, concat(...hashes.slice(at, at + PAGE_HASHES))])
      }
    }
  }
  await link.write(['end'])
  const { received, wanted } = await link.receive()
  const sent = await link.send(wanted)
  await link.expect('end')
  return { received, sent }
}

/** Answers an exchange. */
export async function answerSync(stream: Stream, deps: SyncDependencies): Promise<SyncResult> {
  const link = new SyncLink(stream, deps)
  const { ledger, clock } = deps.store
  const hello = await link.expect('hello')
  const digest = ledger.digest()
  const buckets = ledger.bucketDigests()
  await link.write(['hello', digest, clock.now()])
  if (!equalBytes(hello[1], digest)) await link.write(['buckets', buckets])

  // Of what a peer sends, no more is kept than this AP has or asks for; and that joined, since an array of its own would
  // take seven times what is in a hash.
  const lacking = new Map<number, Map<string, Uint8Array>>()
  const unknown: Uint8Array[] = []
  let wanted = 0
  for (;;) {
    const frame = await link.read()
    if (frame[0] === 'end') break
    if (frame[0] !== 'hashes') throw unexpected(frame)
    const [, bucket, hashes] = frame
    if (!lacking.has(bucket)) lacking.set(bucket, new Map(ledger.bucket(bucket).map((hash) => [hex(hash), hash])))
    const named = splitHashes(hashes)
    for (const hash of named) lacking.get(bucket)!.delete(hex(hash))
    const fresh = wanted < MAX_WANTED ? named.filter((hash) => !ledger.has(hash)) : []
    if (fresh.length > 0) unknown.push(concat(...fresh))
    wanted += fresh.length
  }
  for (const page of unknown) await link.write(['want', page])
  const sent = await link.send([...lacking.values()].flatMap((bucket) => [...bucket.values()]))
  const { received } = await link.receive()
  // What the peer did not send because it is here already may still be on its way to the disk.
  await deps.store.saved()
  await link.write(['end'])
  return { received, sent }
}

/** Answers an AP that was forgotten: it gets the records that say so, and nothing else. What it has nobody asks for. */
export async function answerForgotten(stream: Stream, deps: SyncDependencies, records: SignedRecord[]): Promise<void> {
  const link = new SyncLink(stream, deps)
  const told = new Ledger()
  for (const record of records) told.merge(record)
  await link.expect('hello')
  await link.write(['hello', told.digest(), deps.store.clock.now()])
  await link.write(['buckets', told.bucketDigests()])
  while ((await link.read())[0] !== 'end');
  await link.write(['records', records.map(({ bytes }) => bytes)])
  await link.write(['end'])
  while ((await link.read())[0] !== 'end');
  await link.write(['end'])
}

class SyncLink {
  private readonly frames: Frames
  private count = 0
  private refused = 0

  constructor(
    stream: Stream,
    private readonly deps: SyncDependencies,
  ) {
    this.frames = new Frames(stream, MAX_SYNC_FRAME, FRAME_DEADLINE, DEADLINE)
  }

  write(frame: SyncFrame): Promise<void> {
    return this.frames.write(frame)
  }

  async read(): Promise<SyncFrame> {
    if (++this.count > MAX_FRAMES) throw new MeshError('malformed', `a sync of more than ${MAX_FRAMES} frames`)
    return this.frames.read(syncFrame)
  }

  async expect<K extends SyncFrame[0]>(kind: K): Promise<Extract<SyncFrame, [K, ...unknown[]]>> {
    const frame = await this.read()
    if (frame[0] !== kind) throw unexpected(frame)
    return frame as Extract<SyncFrame, [K, ...unknown[]]>
  }

  /** Sends records, then all beacons, then `end`. */
  async send(hashes: Uint8Array[]): Promise<number> {
    const records = hashes.flatMap((hash) => this.deps.store.ledger.get(hash)?.bytes ?? [])
    let page: Uint8Array[] = []
    let size = 0
    for (const bytes of [...records, ...this.deps.beacons()]) {
      if (page.length > 0 && (size + bytes.length > PAGE_BYTES || page.length === PAGE_HASHES)) {
        await this.write(['records', page])
        page = []
        size = 0
      }
      page.push(bytes)
      size += bytes.length
    }
    if (page.length > 0) await this.write(['records', page])
    await this.write(['end'])
    return records.length
  }

  /** Takes in records until `end`, and collects what the peer wants. */
  async receive(): Promise<{ received: number; wanted: Uint8Array[] }> {
    let received = 0
    const wanted = new Map<string, Uint8Array>()
    for (;;) {
      const frame = await this.read()
      if (frame[0] === 'end') return { received, wanted: [...wanted.values()] }
      if (frame[0] === 'want') this.note(frame[1], wanted)
      else if (frame[0] === 'records') received += await this.takeIn(frame[1])
      else throw unexpected(frame)
    }
  }

  private note(hashes: Uint8Array, wanted: Map<string, Uint8Array>): void {
    for (const hash of splitHashes(hashes)) {
      const record = this.deps.store.ledger.get(hash)
      if (record !== undefined) wanted.set(hex(hash), record.hash)
    }
  }

  private async takeIn(envelopes: Uint8Array[]): Promise<number> {
    const { added, beacons, refused } = await this.deps.store.accept(envelopes)
    for (const beacon of beacons) this.deps.onBeacon(beacon)
    for (const error of refused) this.deps.onRefused(error)
    this.refused += refused.length
    if (this.refused > MAX_REFUSED) throw new MeshError('malformed', `a sync with ${this.refused} bad records`)
    return added.length
  }
}

const unexpected = (frame: SyncFrame): MeshError => new MeshError('malformed', `a ${frame[0]} frame where none belongs`)
