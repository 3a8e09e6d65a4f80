// Gives blobs to other APs, chunk by chunk: those that are here, and those that are still coming.
import type { Connection, Stream } from '@libp2p/interface'
import { apKey, equalBytes, hex } from '../../protocols/bytes.js'
import { ChunkSet, chunksOf, LEAVES_AT_ONCE } from '../../protocols/chunks.js'
import { MAX_SMALL_FRAME } from '../../protocols/limits.js'
import { type BlobState, blobOpening, blobRequest } from '../../protocols/wire.js'
import { exchange, Frames } from '../mesh/frames.js'
import { setBulk } from '../mesh/host.js'
import type { Network } from '../mesh/network.js'
import { FairQueue } from './fair-queue.js'
import type { Rate } from './rate.js'

/** Chunks that are on their way at a time, to all APs together. */
const SENT_AT_ONCE = 3
/** Who takes a chunk more slowly than in so many milliseconds holds up no others. */
const TURN = 2000
/** One that takes longer to ask, or to take a chunk, in milliseconds, has to begin anew. */
const PATIENCE = 30_000
/** After so long there is an answer even where nothing is new; and between two of them is so much, in milliseconds. */
const QUIET = 5000
const PACE = 100
/** Streams of one AP: as many blobs as it fetches at a time, and as many that it has just done with. */
const STREAMS = 8
/** For at least so long, and at most twice, a chunk counts as given to somebody who will have it soon, in milliseconds. */
const GIVEN_FOR = 5000
/** APs that are named to others, and for how long after they last asked, in milliseconds. */
const NAMED = 32
const NAMED_FOR = 60_000

/** A blob that can be given away: whole, or what there is of it. */
export interface Shared {
  readonly size: number
  /** Undefined where it is all there. */
  readonly bits: Uint8Array | undefined
  /** Hashes of its chunks; undefined where a single chunk needs none, or they are not known yet. */
  leaves(): Promise<Uint8Array | undefined>
  /** Undefined where it is not there. */
  read(index: number): Promise<Uint8Array | undefined>
  /** Resolves when there may be more of it. */
  news(): Promise<void>
  close(): Promise<void>
}

export interface SeedingOptions {
  readonly network: Pick<Network, 'host' | 'blobProtocol'>
  /** What of a blob may be given to other APs, by digest in hex: nothing that belongs to no chute. */
  readonly share: (digest: string) => Promise<Shared | undefined>
  /** Blobs are asked for, and given, on this connection; once for each of them. */
  readonly onBulk?: ((connection: Connection) => void) | undefined
  /** An AP asked for a blob: what of it it has, it will give as well. */
  readonly onAsked: (ap: string, digest: string) => void
  readonly rate: Rate
  readonly onSent: (bytes: number) => void
  readonly now: () => number
}

export class Seeding {
  private readonly turns = new FairQueue(SENT_AT_ONCE)
  /** By a blob's digest: when each AP last asked for it, and which chunks they were given. */
  private readonly asked = new Map<string, { aps: Map<string, number>; given: Given }>()
  /** Bytes of chunks that were sent. */
  sent = 0

  constructor(private readonly options: SeedingOptions) {}

  async start(): Promise<void> {
    const { network } = this.options
    await network.host.handle(
      network.blobProtocol,
      async (stream: Stream, connection: Connection) => {
        setBulk(connection)
        this.options.onBulk?.(connection)
        await exchange(stream, () => this.serve(new Frames(stream, MAX_SMALL_FRAME, PATIENCE), connection))
      },
      { maxInboundStreams: STREAMS },
    )
  }

  private async serve(frames: Frames, connection: Connection): Promise<void> {
    const ap = connection.remotePeer.toString()
    const { blob } = await frames.read(blobOpening)
    const digest = hex(blob)
    const shared = await this.options.share(digest)
    if (shared === undefined) return frames.write(['refused', 'this AP does not have that blob'])
    try {
      this.note(ap, digest, shared)
      this.options.onAsked(ap, digest)
      let told = this.stateOf(shared, ap, digest)
      await frames.write(['open', told])
      for (;;) {
        const request = await frames.read(blobRequest).catch(() => undefined)
        if (request === undefined) return // it has what it wants, or is gone
        this.note(ap, digest, shared)
        if (request[0] === 'news') {
          await this.waitForNews(shared, told, ap, digest)
          told = this.stateOf(shared, ap, digest)
          await frames.write(['news', told])
        } else if (request[0] === 'leaves') {
          const leaves = (await shared.leaves()) ?? new Uint8Array()
          await frames.writeBytes(leaves.subarray(request[1] * 32, (request[1] + LEAVES_AT_ONCE) * 32))
        } else {
          const [how, index] = request
          const state = this.stateOf(shared, ap, digest)
          const isNew = !isSame(state, told)
          if (isNew) told = state
          const given = state.given && new ChunkSet(chunksOf(shared.size), state.given)
          if (how === 'first' && given?.has(index)) {
            await frames.write(['given', index, state])
            continue
          }
          if (index < chunksOf(shared.size)) this.asked.get(digest)?.given.add(index, this.options.now())
          if (!(await this.send(frames, shared, ap, index, isNew ? state : undefined))) return
        }
      }
    } finally {
      await shared.close()
    }
  }

  /** @returns false where there is no such chunk any more */
  private async send(
    frames: Frames,
    shared: Shared,
    ap: string,
    index: number,
    state: BlobState | undefined,
  ): Promise<boolean> {
    const endTurn = await this.turns.take(ap)
    const timer = setTimeout(endTurn, TURN)
    try {
      const chunk = index < chunksOf(shared.size) ? await shared.read(index) : undefined
      if (chunk === undefined) {
        await frames.write(['gone'])
        return false
      }
      await this.options.rate.take(chunk.length)
      await frames.writeWithBytes(state === undefined ? ['chunk', index] : ['chunk', index, state], chunk)
      this.sent += chunk.length
      this.options.onSent(chunk.length)
      return true
    } finally {
      clearTimeout(timer)
      endTurn()
    }
  }

  private async waitForNews(shared: Shared, told: BlobState, ap: string, digest: string): Promise<void> {
    const endsAt = performance.now() + QUIET
    await pause(PACE)
    while (isSame(this.stateOf(shared, ap, digest), told) && performance.now() < endsAt)
      await Promise.race([shared.news(), pause(endsAt - performance.now())])
  }

  private note(ap: string, digest: string, { size }: Shared): void {
    const { now } = this.options
    for (const [other, { aps }] of this.asked) {
      for (const [id, at] of aps) if (now() - at > NAMED_FOR) aps.delete(id)
      if (aps.size === 0) this.asked.delete(other)
    }
    const asked = this.asked.get(digest) ?? { aps: new Map(), given: new Given(chunksOf(size)) }
    this.asked.set(digest, asked)
    asked.aps.delete(ap)
    asked.aps.set(ap, now())
  }

  private stateOf({ bits }: Shared, ap: string, digest: string): BlobState {
    const asked = this.asked.get(digest)
    const others = [...(asked?.aps.keys() ?? [])].filter((other) => other !== ap).slice(-NAMED)
    return {
      ...(bits !== undefined && { has: bits.slice() }),
      // To one that is alone it would say what it knows.
      ...(asked !== undefined && others.length > 0 && { given: asked.given.bits(this.options.now()) }),
      others: others.sort().map(apKey),
    }
  }
}

/** Chunks that were given to somebody lately. */
class Given {
  private lately: ChunkSet
  private before: ChunkSet
  private since = Number.NEGATIVE_INFINITY

  constructor(private readonly count: number) {
    this.lately = this.before = new ChunkSet(count)
  }

  add(index: number, now: number): void {
    this.turn(now)
    this.lately.add(index)
  }

  bits(now: number): Uint8Array {
    this.turn(now)
    return this.lately.bits.map((byte, i) => byte | this.before.bits[i]!)
  }

  private turn(now: number): void {
    if (now - this.since < GIVEN_FOR) return
    this.before = now - this.since < 2 * GIVEN_FOR ? this.lately : new ChunkSet(this.count)
    this.lately = new ChunkSet(this.count)
    this.since = now
  }
}

const isSame = (a: BlobState, b: BlobState): boolean =>
  isSameBytes(a.has, b.has) &&
  isSameBytes(a.given, b.given) &&
  a.others.length === b.others.length &&
  a.others.every((key, i) => equalBytes(key, b.others[i]!))

const isSameBytes = (a?: Uint8Array, b?: Uint8Array): boolean =>
  a === undefined || b === undefined ? a === b : equalBytes(a, b)

const pause = (ms: number): Promise<void> =>
  new Promise((resolve) => {
    setTimeout(resolve, Math.max(0, ms)).unref()
  })
