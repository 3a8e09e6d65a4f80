// Which chunk to ask whom for: the rarest first, so that what only one has is soon with several, and who has all may go. Where
// nothing else is left, what others were asked for long ago and have not sent: the last chunks of a slow peer hold nobody up.
import { ChunkSet } from './chunks.js'

/**
 * What who has all gave to another AP comes from that one: it is waited for so long at least, in milliseconds. Else the small blobs of an image
 * would go to each AP from the one that published it, whose uplink all wait for.
 */
const PASSED_ON_WITHIN = 2000

/** What a source told. */
interface Source {
  readonly has: ChunkSet
  readonly given: ChunkSet
}

export class Picker {
  /** What is here. */
  readonly here: ChunkSet
  private readonly sources = new Map<string, Source>()
  /** How many of the sources have all. */
  private whole = 0
  /** How many of the sources have each chunk, and how many have given it to somebody, who need not be a source yet. */
  private readonly copies: Uint16Array
  private readonly given: Uint16Array
  /** When it was heard first that a chunk was given to somebody. */
  private readonly givenAt: Float64Array
  /** Who was asked for a chunk, and when first, in that order. */
  private readonly asked = new Map<number, { who: Set<string>; at: number }>()
  /** Of a single source the next chunk is taken, so that disks read and write in order. */
  private next: number

  /** @param random a number in [0, 1): chunks that are equally rare are asked for in no order that all peers share */
  constructor(
    count: number,
    private readonly random: () => number,
    here = new ChunkSet(count),
  ) {
    this.here = here
    this.next = Math.floor(random() * count)
    this.copies = new Uint16Array(count)
    this.given = new Uint16Array(count)
    this.givenAt = new Float64Array(count).fill(Number.POSITIVE_INFINITY)
  }

  /** Tells what a source has now, and what of it others have asked it for. */
  tell(source: string, now: number, has: ChunkSet, given = new ChunkSet(has.count)): void {
    this.count(this.sources.get(source), -1)
    const told = { has, given }
    this.count(told, 1)
    this.sources.set(source, told)
    // For good: one that says now this, now that keeps nobody waiting longer.
    for (const [index, times] of this.given.entries())
      if (times > 0) this.givenAt[index] = Math.min(now, this.givenAt[index]!)
  }

  /** A source is gone: what it was asked for can be had from others. */
  drop(source: string): void {
    this.count(this.sources.get(source), -1)
    this.sources.delete(source)
    for (const index of this.asked.keys()) this.refused(source, index)
  }

  private count(told: Source | undefined, by: 1 | -1): void {
    if (told === undefined) return
    if (told.has.isFull) this.whole += by
    for (let index = 0; index < this.copies.length; index++) {
      if (told.has.has(index)) this.copies[index]! += by
      if (told.given.has(index)) this.given[index]! += by
    }
  }

  /**
   * What to ask a source for next, which counts as asked for then; undefined where it has nothing that is wanted.
   * @param now milliseconds by any clock
   * @param patience for so many milliseconds nobody else is asked for the same
   */
  take(source: string, now: number, patience: number): number | undefined {
    const has = this.sources.get(source)?.has
    if (has === undefined) return undefined
    const index = this.rarest(has, now, patience) ?? this.overdue(source, has, now - patience)
    if (index === undefined) return undefined
    const asked = this.asked.get(index) ?? { who: new Set(), at: now }
    asked.who.add(source)
    this.asked.set(index, asked)
    return index
  }

  /** Whether nobody but who has all has a chunk, or was given it, as far as is known. A blob of one chunk is not worth the question. */
  isFirst(index: number): boolean {
    return this.given.length > 1 && this.given[index] === 0 && this.copies[index]! <= this.whole
  }

  private isOnItsWay(index: number, now: number, patience: number): boolean {
    return (
      this.given.length > 1 &&
      this.given[index]! > 0 &&
      this.copies[index]! <= this.whole &&
      now - this.givenAt[index]! < Math.max(PASSED_ON_WITHIN, patience)
    )
  }

  /** A source will not send what it was asked for. */
  refused(source: string, index: number): void {
    const who = this.asked.get(index)?.who
    if (who?.delete(source) && who.size === 0) this.asked.delete(index)
  }

  /** A chunk came. @returns false where it was here before */
  got(index: number): boolean {
    this.asked.delete(index)
    return this.here.add(index)
  }

  /** True where a source has all. */
  isWhole(source: string): boolean {
    return this.sources.get(source)?.has.isFull === true
  }

  /** True where others have all that a source was asked for. */
  canSpare(source: string): boolean {
    for (const [index, { who }] of this.asked) if (who.has(source) && this.copies[index]! < 2) return false
    return true
  }

  private rarest(has: ChunkSet, now: number, patience: number): number | undefined {
    const { count } = has
    const start = this.sources.size > 1 ? Math.floor(this.random() * count) : this.next
    let best: number | undefined
    let least = Number.POSITIVE_INFINITY
    for (let i = 0; i < count; i++) {
      const index = (start + i) % count
      if (!has.has(index) || this.here.has(index) || this.asked.has(index)) continue
      const copies = this.copies[index]! + this.given[index]!
      if (copies >= least || this.isOnItsWay(index, now, patience)) continue
      best = index
      least = copies
      if (copies <= Math.max(1, this.whole)) break // there is no rarer one
    }
    if (best !== undefined) this.next = (best + 1) % count
    return best
  }

  // The one that was asked for first; of nobody more than twice, or the end of each blob would come many times.
  private overdue(source: string, has: ChunkSet, before: number): number | undefined {
    for (const [index, { who, at }] of this.asked) {
      if (at > before) return undefined
      if (has.has(index) && who.size < 2 && !who.has(source)) return index
    }
    return undefined
  }
}
