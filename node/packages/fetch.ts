// One blob on its way in, from several APs at once. Each is asked for a few chunks ahead, so that the line is never idle; one that lies,
// stands still or dies loses what it was asked for to the others, and nothing begins anew.
import type { Stream } from '@libp2p/interface'
import { apId, concat, hex } from '../../protocols/bytes.js'
import { type Blob, ChunkSet, chunksOf, LEAVES_AT_ONCE, spanOf } from '../../protocols/chunks.js'
import { MeshError, messageOf } from '../../protocols/error.js'
import { MAX_CHUNK } from '../../protocols/limits.js'
import { Picker } from '../../protocols/picker.js'
import { type BlobState, blobOpened, blobReply } from '../../protocols/wire.js'
import { exchange, Frames } from '../mesh/frames.js'
import type { Partial } from './partial.js'
import type { Worth } from './worth.js'

/** APs that are asked at a time. */
const SOURCES = 6
/**
 * Chunks that one is asked for ahead: 1 MiB, enough for 100 Mbit/s at 80 ms. Where one takes so many milliseconds it stands in a queue, and
 * asking for more makes only that longer: the fewer, the sooner what is rare is passed on.
 */
const AHEAD = 4
const QUEUED = 400
const AHEAD_QUEUED = 2
/** One that sends nothing for so long is given up, in milliseconds, and asked again after so long. */
const PATIENCE = 30_000
const RETRY_AFTER = 2000
/**
 * One that lets a chunk wait so many times longer than the others do, and so long in any case, in milliseconds, is given up where they
 * have what it was asked for, and asked again after so long.
 */
const SLOWER = 4
const SLOW = 2000
const SLOW_RETRY = 30_000
/**
 * What was asked for, and has been on its way so many times longer than what came lately, and so long in any case, in milliseconds, is
 * asked of another one as well. Sooner, a small blob would come twice wherever one of the lines is a little busier.
 */
const LATER = 2
const LATE = 1000
/** One that waits takes the place of one that is asked, and can be spared, where it is worth so many times more. */
const BETTER = 2
/** Without a source and without a chunk for so long it is given up, in milliseconds. What came stays. */
export const DROUGHT = 15_000
const LOOK_EVERY = 500

export interface FetchOptions {
  /** Opens a stream about blobs on a connection for bulk. */
  open(ap: string): Promise<Stream>
  /** APs that are believed to have it, the likeliest first: the next are asked only where all before them fail. */
  sources(): Iterable<readonly string[]>
  /** What APs are worth as sources. */
  readonly worth: Worth
  /** So many bytes came. */
  onReceived(bytes: number): void
  /** An AP sent what is not the blob. */
  onLie(ap: string): void
  /** Whether one that is named as a source is asked at all. */
  isAsked(ap: string): boolean
  /** As `DROUGHT`. */
  readonly drought: number
  /** Resolves when so many bytes may come. */
  take(bytes: number): Promise<void>
  random(): number
}

/** One AP that is asked. */
interface Session {
  stream?: Stream
  /** What it was asked for and has not sent, the oldest first, and when. */
  readonly asked: { index: number; at: number }[]
  /** Milliseconds that its last chunk took from when it was asked for. */
  took?: number
}

export class Fetch {
  /** Bytes that came, those of chunks that came twice included. */
  received = 0
  /** Who sent what is of use. */
  readonly givers = new Set<string>()
  private readonly blob: Blob
  private readonly picker: Picker
  private readonly sessions = new Map<string, Session>()
  private readonly notBefore = new Map<string, number>()
  /** Named by other sources, or asked for it here. */
  private readonly heardOf = new Set<string>()
  private readonly failures = new Map<string, string>()
  private isOver = false
  private broken: Error | undefined
  private lastNews = performance.now()

  constructor(
    readonly partial: Partial,
    private readonly options: FetchOptions,
  ) {
    this.blob = partial.blob
    this.picker = new Picker(chunksOf(this.blob.size), options.random, partial.here)
  }

  /** An AP may have some of it. */
  hear(ap: string): void {
    if (this.heardOf.size < 256) this.heardOf.add(ap)
  }

  /**
   * Resolves once all chunks are here.
   * @throws MeshError `no-blob` saying who was asked
   */
  async run(): Promise<void> {
    try {
      for (; !this.partial.here.isFull; await this.pause()) {
        if (this.broken !== undefined) throw this.broken
        this.engage()
        if (this.sessions.size > 0 || performance.now() - this.lastNews < this.options.drought) continue
        const why = [...this.failures].map(([ap, reason]) => `${ap}: ${reason}`).join('; ') || 'no reachable AP has it'
        throw new MeshError('no-blob', `blob ${hex(this.blob.digest).slice(0, 12)} cannot be had: ${why}`)
      }
    } finally {
      this.isOver = true
      for (const { stream } of this.sessions.values()) stream?.abort(new Error('the blob is here'))
    }
  }

  private async pause(): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, LOOK_EVERY)
    })
    await Promise.race([late, this.partial.news()])
    clearTimeout(timer)
  }

  private engage(): void {
    this.partWithTheSlow()
    const { isAsked, worth, random } = this.options
    const now = performance.now()
    const waiting = [...new Set([...this.likely(), ...this.heardOf])].filter(
      (ap) => !this.sessions.has(ap) && isAsked(ap) && now >= (this.notBefore.get(ap) ?? 0),
    )
    // Of those that are worth as much each asks others, or all would ask the same few.
    const ranked = waiting.map((ap) => ({ ap, worth: worth.of(ap), lot: random() }))
    ranked.sort((a, b) => b.worth - a.worth || a.lot - b.lot)
    for (const { ap } of ranked.splice(0, SOURCES - this.sessions.size)) this.ask(ap)
    if (ranked.length > 0) this.makeRoomFor(ranked[0]!.ap)
  }

  /** Sources, the next ones too where those before lie, refuse, cannot be reached, or bring nothing. */
  private likely(): string[] {
    const { sources, isAsked, drought } = this.options
    const isDry = performance.now() - this.lastNews > drought
    const found: string[] = []
    for (const group of sources()) {
      found.push(...group)
      if (!isDry && group.some((ap) => isAsked(ap) && !this.failures.has(ap))) break
    }
    return found
  }

  private ask(ap: string): void {
    const session: Session = { asked: [] }
    this.sessions.set(ap, session)
    this.fetchFrom(ap, session)
      .then(
        () => this.failures.delete(ap),
        (error) => {
          if (!this.isOver) this.failures.set(ap, messageOf(error))
        },
      )
      .finally(() => {
        this.picker.drop(ap)
        this.sessions.delete(ap)
        this.notBefore.set(ap, Math.max(this.notBefore.get(ap) ?? 0, performance.now() + RETRY_AFTER))
      })
  }

  private partWithTheSlow(): void {
    const now = performance.now()
    const usual = this.usual()
    if (usual === undefined) return
    const most = Math.max(SLOW, SLOWER * usual)
    for (const [ap, { asked }] of this.sessions)
      if (asked[0] !== undefined && now - asked[0].at > most) this.part(ap, 'it is slower than others')
  }

  /** Milliseconds that a chunk takes from when it is asked for; undefined until some have come. */
  private usual(): number | undefined {
    const times = [...this.sessions.values()].flatMap(({ took }) => took ?? []).sort((a, b) => a - b)
    return times[times.length >> 1]
  }

  private makeRoomFor(better: string): void {
    const { worth } = this.options
    const [worst] = [...this.sessions.keys()].sort((a, b) => worth.of(a) - worth.of(b))
    if (worst !== undefined && worth.of(better) > BETTER * worth.of(worst)) this.part(worst, 'others are faster')
  }

  /** Gives up an AP where others have what it was asked for. */
  private part(ap: string, why: string): void {
    const { stream } = this.sessions.get(ap)!
    if (stream === undefined || !this.picker.canSpare(ap)) return
    this.notBefore.set(ap, performance.now() + SLOW_RETRY)
    stream.abort(new Error(why))
  }

  private async fetchFrom(ap: string, session: Session): Promise<void> {
    const stream = await this.options.open(ap)
    if (this.isOver) return stream.abort(new Error('the blob is here'))
    session.stream = stream
    await exchange(stream, async () => {
      const frames = new Frames(stream, MAX_CHUNK, PATIENCE)
      const before = performance.now()
      await frames.write({ blob: this.blob.digest })
      const [word, answer] = await frames.read(blobOpened)
      this.options.worth.noteLatency(ap, performance.now() - before)
      if (word === 'refused') throw new Error(answer)
      this.tell(ap, answer)
      await this.exchangeChunks(ap, frames, session)
    })
  }

  /** Asks for the hashes of all chunks. One that has just begun to fetch the blob may not know them either. */
  private async learn(ap: string, frames: Frames): Promise<void> {
    const count = chunksOf(this.blob.size)
    const parts: Uint8Array[] = []
    for (let from = 0; from < count; from += LEAVES_AT_ONCE) {
      await frames.write(['leaves', from])
      const part = await frames.readBytes()
      if (part.length === 0) return
      parts.push(part)
    }
    await this.partial.learn(concat(...parts)).catch((error) => {
      if (error.code === 'malformed') this.options.onLie(ap)
      else this.broken = error // as in `put`
      throw error
    })
  }

  private async exchangeChunks(ap: string, frames: Frames, session: Session): Promise<void> {
    const { asked } = session
    let last = 0
    while (!this.isOver && !this.partial.here.isFull) {
      if (this.partial.leaves === undefined) await this.learn(ap, frames)
      const ahead = (session.took ?? 0) > QUEUED ? AHEAD_QUEUED : AHEAD
      while (asked.length < ahead && this.partial.leaves !== undefined) {
        const index = this.picker.take(ap, performance.now(), Math.max(LATE, LATER * (this.usual() ?? LATE)))
        if (index === undefined) break
        const { start, end } = spanOf(this.blob.size, index)
        const before = performance.now()
        await this.options.take(end - start)
        for (const each of asked) each.at += performance.now() - before // it is not the source that was waited for
        // Of several that fetch at once each is to have others from who has all, to give them to the rest.
        await frames.write([this.picker.isFirst(index) ? 'first' : 'chunk', index])
        asked.push({ index, at: performance.now() })
      }
      if (asked.length === 0 && this.partial.leaves !== undefined && this.picker.isWhole(ap)) {
        await this.pause() // it has no news, but others may fail
        continue
      }
      if (asked.length === 0) await frames.write(['news'])
      const reply = await frames.read(blobReply)
      if (reply[0] === 'gone') throw new Error('it does not have it any more')
      if (reply[0] === 'news') {
        if (asked.length > 0) throw new MeshError('malformed', 'news that nobody asked for')
        this.tell(ap, reply[1])
        continue
      }
      const [, index, state] = reply
      const [first] = asked
      if (first?.index !== index) throw new MeshError('malformed', 'a chunk that nobody asked for')
      if (reply[0] === 'given') {
        asked.shift()
        this.picker.refused(ap, index)
        this.tell(ap, reply[2])
        continue
      }
      const chunk = await frames.readPieces()
      asked.shift()
      const bytes = chunk.reduce((sum, piece) => sum + piece.length, 0)
      this.received += bytes
      this.options.onReceived(bytes)
      if (!(await this.put(index, chunk))) {
        this.options.onLie(ap)
        throw new Error('it sent what is not the blob')
      }
      this.picker.got(index)
      this.givers.add(ap)
      this.lastNews = performance.now()
      const now = performance.now()
      session.took = now - first.at
      this.options.worth.noteRate(ap, bytes / Math.max(1, now - Math.max(first.at, last)))
      last = now
      if (state !== undefined) this.tell(ap, state)
    }
  }

  private async put(index: number, chunk: Uint8Array[]): Promise<boolean> {
    try {
      return await this.partial.put(index, ...chunk)
    } catch (error) {
      // It is this AP that fails, and another source would be no help.
      this.broken = error as Error
      throw error
    }
  }

  private tell(ap: string, { has, given, others }: BlobState): void {
    const count = chunksOf(this.blob.size)
    const full = has === undefined ? ChunkSet.full(count) : new ChunkSet(count, has)
    this.picker.tell(ap, performance.now(), full, given && new ChunkSet(count, given))
    for (const key of others) this.hear(apId(key))
  }
}
