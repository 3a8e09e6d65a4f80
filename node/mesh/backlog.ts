// What waits for something slow, bounded: of each and of all.

/** What each costs beside its bytes. */
const OVERHEAD = 1024

export class Backlog {
  private readonly of = new Map<string, number>()
  private total = 0

  /** @param each bytes of one, @param all bytes of all together */
  constructor(
    private readonly each: number,
    private readonly all: number,
  ) {}

  /** Returns what is to be called when it waits no more, or undefined where there is no room for it. */
  enter(who: string, bytes: number): (() => void) | undefined {
    const size = bytes + OVERHEAD
    const held = this.of.get(who) ?? 0
    if (held + size > this.each || this.total + size > this.all) return undefined
    this.of.set(who, held + size)
    this.total += size
    return () => {
      this.total -= size
      const left = this.of.get(who)! - size
      if (left > 0) this.of.set(who, left)
      else this.of.delete(who)
    }
  }
}
