// Who sends next, of those that want to: a few at a time, and each peer once before any has a second turn. Pulses stand behind
// what is under way on a slow uplink: with thirty chunks at once they came so late that the AP was taken for dead.

export class FairQueue {
  private taken = 0
  /** Who waits, by peer, in the order in which peers had their last turn. */
  private readonly waiting = new Map<string, (() => void)[]>()

  /** @param most at a time */
  constructor(private readonly most: number) {}

  /** Resolves when it is this peer's turn, with what ends it. */
  async take(peer: string): Promise<() => void> {
    if (this.taken < this.most) this.taken++
    else {
      await new Promise<void>((resolve) => {
        const own = this.waiting.get(peer) ?? []
        this.waiting.set(peer, [...own, resolve])
      })
    }
    let isOver = false
    return () => {
      if (isOver) return
      isOver = true
      this.pass()
    }
  }

  private pass(): void {
    const [first] = this.waiting
    if (first === undefined) {
      this.taken--
      return
    }
    const [peer, [wake, ...later]] = first
    this.waiting.delete(peer)
    if (later.length > 0) this.waiting.set(peer, later)
    wake!()
  }
}
