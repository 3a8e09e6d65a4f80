// Which chunk to ask whom for: the rarest first, so that what only one has is soon with several, and who has all may go. Where
// nothing else is left, what others were asked for and have not sent: the last chunks of a slow peer hold nobody up.
import { ChunkSet } from './chunks.js'

export class Picker {
  /** What is here. */
  readonly here: ChunkSet
  private readonly sources = new Map<string, ChunkSet>()
  /** How many of the sources have all. */
  private whole = 0
  /** How many of the sources have each chunk. */
  private readonly copies: Uint16Array
  /** Who was asked for a chunk, in the order in which they were. */
  private readonly asked = new Map<number, Set<string>>()
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
  }

  /** Tells what a source has now. */
  tell(source: string, has: ChunkSet): void {
    const before = this.sources.get(source)
    for (let index = 0; index < has.count; index++)
      this.copies[index]! += Number(has.has(index)) - Number(before?.has(index) ?? false)
    this.whole += Number(has.isFull) - Number(before?.isFull ?? false)
    this.sources.set(source, has)
  }

  /** A source is gone: what it was asked for can be had from others. */
  drop(source: string): void {
    const has = this.sources.get(source)
    for (let index = 0; index < this.copies.length; index++) if (has?.has(index)) this.copies[index]!--
    if (has?.isFull) this.whole--
    this.sources.delete(source)
    for (const [index, who] of this.asked) if (who.delete(source) && who.size === 0) this.asked.delete(index)
  }

  /** What to ask a source for next, which counts as asked for then; undefined where it has nothing that is wanted. */
  take(source: string): number | undefined {
    const has = this.sources.get(source)
    if (has === undefined) return undefined
    const index = this.rarest(has) ?? this.overdue(source, has)
    if (index !== undefined) this.asked.set(index, (this.asked.get(index) ?? new Set()).add(source))
    return index
  }

  /** A chunk came. @returns false where it was here before */
  got(index: number): boolean {
    this.asked.delete(index)
    return this.here.add(index)
  }

  /** True where others have all that a source was asked for. */
  canSpare(source: string): boolean {
    for (const [index, who] of this.asked) if (who.has(source) && this.copies[index]! < 2) return false
    return true
  }

  private rarest(has: ChunkSet): number | undefined {
    const { count } = has
    const start = this.sources.size > 1 ? Math.floor(this.random() * count) : this.next
    let best: number | undefined
    for (let i = 0; i < count; i++) {
      const index = (start + i) % count
      if (!has.has(index) || this.here.has(index) || this.asked.has(index)) continue
      if (best !== undefined && this.copies[index]! >= this.copies[best]!) continue
      best = index
      if (this.copies[index]! <= Math.max(1, this.whole)) break // there is no rarer one
    }
    if (best !== undefined) this.next = (best + 1) % count
    return best
  }

  // The one that was asked for first; of nobody more than twice, or the end of each blob would come many times.
  private overdue(source: string, has: ChunkSet): number | undefined {
    for (const [index, who] of this.asked) if (has.has(index) && who.size < 2 && !who.has(source)) return index
    return undefined
  }
}
