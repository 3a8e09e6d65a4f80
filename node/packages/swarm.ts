// Blobs between APs: fetches what is wanted, each blob once however many ask for it, and gives away what is here, also while it is
// still coming.
import { createReadStream } from 'node:fs'
import { open, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Connection, Stream } from '@libp2p/interface'
import { hex } from '../../protocols/bytes.js'
import { type Blob, describeBlob, spanOf } from '../../protocols/chunks.js'
import { MAX_CHUNK } from '../../protocols/limits.js'
import { closeConnection, setBulk } from '../mesh/host.js'
import type { Network } from '../mesh/network.js'
import { FairQueue } from './fair-queue.js'
import { DROUGHT, Fetch } from './fetch.js'
import { Partial } from './partial.js'
import { Rate } from './rate.js'
import { Seeding, type Shared } from './seeding.js'
import { Sweeper } from './sweeper.js'
import { Worth } from './worth.js'

/** Blobs that are fetched at a time. */
const FETCHED_AT_ONCE = 4
/** An AP has so long to answer a dial, or to open a stream, in milliseconds. */
const OPENING = 10_000
/** Of so many blobs that are here the hashes of their chunks are remembered: of most 25 kB each. */
const LEAVES_KEPT = 64

export interface SwarmOptions {
  readonly self: string
  readonly network: Pick<Network, 'host' | 'blobProtocol' | 'connectForBulk'>
  /** Where lies what is still coming; on the file system of the store. */
  readonly dir: string
  /** Blobs that are here, by digest in hex. */
  readonly store: {
    size(digest: string): number | undefined
    pathOf(digest: string): string
    /** Takes over a file that is the blob. */
    adopt(path: string, digest: string): Promise<void>
    /** Sees that so many bytes more may come. @throws MeshError `no-room` */
    makeRoom?(bytes: number): Promise<void>
  }
  /** Whether a blob may be given to other members. */
  readonly mayShare: (digest: string) => boolean
  /** As `FetchOptions` has it. */
  readonly sources: (digest: string) => Iterable<readonly string[]>
  readonly isMember: (ap: string) => boolean
  readonly onLie: (ap: string, digest: string) => void
  /** A blob has come: so many bytes, from these. */
  readonly onFetched?: (digest: string, arrival: { bytes: number; from: readonly string[] }) => void
  /** As `SeedingOptions` has it. */
  readonly onBulk?: (connection: Connection) => void
  /** Resolves when nothing is fetched that is more urgent. */
  readonly turn?: (digest: string) => Promise<void>
  /** Bytes a second, up and down each. */
  readonly rate?: number
  /** Milliseconds after which what nobody has is given up. */
  readonly drought?: number
}

export class Swarm {
  private readonly fetches = new Map<string, UnderWay>()
  private readonly connections = new Map<string, { connection: Promise<Connection>; users: number }>()
  private readonly worth = new Worth()
  private readonly liars = new Set<string>()
  private readonly leaves = new Map<string, Promise<Uint8Array>>()
  private readonly turns = new FairQueue(FETCHED_AT_ONCE)
  private readonly down: Rate
  private readonly sweeper = new Sweeper()
  readonly seeding: Seeding

  constructor(private readonly options: SwarmOptions) {
    this.down = new Rate(options.rate)
    this.seeding = new Seeding({
      network: options.network,
      share: (digest) => this.share(digest),
      onBulk: options.onBulk,
      onAsked: (ap, digest) => this.fetches.get(digest)?.fetch?.hear(ap),
      rate: new Rate(options.rate),
      onSent: (bytes) => this.sweeper.note(bytes),
      now: () => performance.now(),
    })
  }

  start(): Promise<void> {
    return this.seeding.start()
  }

  /**
   * Resolves once a blob is in the store.
   * @throws MeshError `no-blob` where nobody has it; `blob-refused` where it is not what was signed for
   */
  async fetch(blob: Blob): Promise<void> {
    if (this.options.store.size(hex(blob.digest)) === undefined) await this.underWay(blob).end
  }

  /**
   * Bytes of a blob from `start` up to, and without, `end`: from the store, or as they come.
   * @throws as `fetch` does
   */
  async *read(blob: Blob, start: number, end: number): AsyncGenerator<Uint8Array> {
    const { store } = this.options
    const digest = hex(blob.digest)
    if (store.size(digest) === undefined) {
      const { partial } = this.underWay(blob)
      yield* (await partial).read(start, end)
    } else if (start < end) yield* createReadStream(store.pathOf(digest), { start, end: end - 1 })
  }

  /** Bytes of the blobs that are on their way. */
  get coming(): number {
    let bytes = 0
    for (const { size } of this.fetches.values()) bytes += size
    return bytes
  }

  /** Removes what came of blobs that nobody wants any more. */
  async sweep(isWanted: (digest: string) => boolean): Promise<void> {
    const names = await readdir(this.options.dir).catch(() => [])
    for (const name of names) {
      const [digest = ''] = name.split('.')
      if (this.fetches.has(digest) || isWanted(digest)) continue
      await rm(join(this.options.dir, name), { force: true })
    }
  }

  /** Bytes of a blob that are here; undefined where it is not being fetched. */
  progress(digest: string): number | undefined {
    const partial = this.fetches.get(digest)?.fetch?.partial
    return partial && Math.min(partial.blob.size, partial.here.size * MAX_CHUNK)
  }

  private underWay(blob: Blob): UnderWay {
    const digest = hex(blob.digest)
    const before = this.fetches.get(digest)
    if (before !== undefined) return before
    const turn = this.turns.take(digest)
    const partial = turn.then(async () => {
      await this.options.store.makeRoom?.(0) // it counts as coming already
      return Partial.open(this.options.dir, blob)
    })
    const under: UnderWay = { size: blob.size, partial, end: Promise.resolve() }
    this.fetches.set(digest, under)
    under.end = partial
      .then((opened) => this.complete(under, opened))
      .finally(async () => {
        this.fetches.delete(digest)
        ;(await turn)()
      })
    under.end.catch(() => {}) // who only reads it hears it from the reader
    return under
  }

  private async complete(under: UnderWay, partial: Partial): Promise<void> {
    const { store, sources, isMember, drought = DROUGHT } = this.options
    const digest = hex(partial.blob.digest)
    under.fetch = new Fetch(partial, {
      open: (ap) => this.open(ap),
      sources: () => sources(digest),
      worth: this.worth,
      isAsked: (ap) => ap !== this.options.self && isMember(ap) && !this.liars.has(ap),
      onLie: (ap) => this.noteLiar(ap, digest),
      take: async (bytes) => {
        await this.options.turn?.(digest)
        await this.down.take(bytes)
      },
      onReceived: (bytes) => this.sweeper.note(bytes),
      random: Math.random,
      drought,
    })
    try {
      await under.fetch.run()
      this.options.onFetched?.(digest, { bytes: under.fetch.received, from: [...under.fetch.givers] })
      await store.adopt(await partial.finish(), digest)
      await partial.release()
    } catch (error) {
      await partial.fail(error as Error)
      throw error
    }
  }

  private noteLiar(ap: string, digest: string): void {
    if (this.liars.has(ap)) return
    this.liars.add(ap)
    this.options.onLie(ap, digest)
  }

  // --- connections ------------------------------------------------------------------------------------------------

  /** Opens a stream on a connection that all fetches from one AP share, and nothing else. */
  private async open(ap: string): Promise<Stream> {
    const { network } = this.options
    let shared = this.connections.get(ap)
    if (shared === undefined) {
      shared = { connection: network.connectForBulk(ap, AbortSignal.timeout(OPENING)), users: 0 }
      this.connections.set(ap, shared)
    }
    const { connection } = shared
    shared.users++
    const leave = () => {
      if (--shared.users > 0) return
      if (this.connections.get(ap) === shared) this.connections.delete(ap)
      connection.then(closeConnection, () => {})
    }
    try {
      const opened = await connection
      setBulk(opened)
      const stream = await opened.newStream(network.blobProtocol, { signal: AbortSignal.timeout(OPENING) })
      stream.addEventListener('close', leave)
      return stream
    } catch (error) {
      // The next one dials anew.
      if (this.connections.get(ap) === shared) this.connections.delete(ap)
      leave()
      throw error
    }
  }

  // --- what others may have -----------------------------------------------------------------------------------------

  private async share(digest: string): Promise<Shared | undefined> {
    const { store, mayShare } = this.options
    if (!mayShare(digest)) return undefined
    const size = store.size(digest)
    if (size !== undefined) return this.whole(digest, size)
    const partial = this.fetches.get(digest)?.fetch?.partial
    return partial && part(partial)
  }

  private async whole(digest: string, size: number): Promise<Shared> {
    const file = await open(this.options.store.pathOf(digest))
    return {
      size,
      bits: undefined,
      leaves: () => this.leavesOf(digest),
      async read(index) {
        const { start, end } = spanOf(size, index)
        const bytes = Buffer.allocUnsafeSlow(end - start)
        const { bytesRead } = await file.read(bytes, 0, bytes.length, start)
        return bytesRead === bytes.length ? bytes : undefined
      },
      news: () => new Promise(() => {}),
      close: () => file.close(),
    }
  }

  private leavesOf(digest: string): Promise<Uint8Array> {
    let leaves = this.leaves.get(digest)
    if (leaves === undefined) {
      leaves = describeFile(this.options.store.pathOf(digest)).then(({ leaves }) => leaves)
      leaves.catch(() => this.leaves.delete(digest))
      this.leaves.set(digest, leaves)
      if (this.leaves.size > LEAVES_KEPT) this.leaves.delete(this.leaves.keys().next().value!)
    }
    return leaves
  }
}

interface UnderWay {
  readonly size: number
  readonly partial: Promise<Partial>
  fetch?: Fetch
  end: Promise<void>
}

const part = (partial: Partial): Shared => ({
  size: partial.blob.size,
  get bits() {
    return partial.here.bits
  },
  leaves: async () => partial.leaves,
  read: async (index) => (partial.here.has(index) ? partial.readAt(index) : undefined),
  news: () => partial.news(),
  close: async () => {},
})

/** What a publisher signs of a file that is a blob, and the hashes of its chunks. */
export const describeFile = (path: string): Promise<{ blob: Blob; leaves: Uint8Array }> =>
  describeBlob(createReadStream(path, { highWaterMark: MAX_CHUNK }))
