// Who is at something that only a few may be at a time: at being sent an image.

/**
 * Images that are sent at a time; who asks meanwhile asks another AP, or later. All of a mesh asks the one that published a chute, and pulses
 * stand behind what is under way on a slow uplink: with thirty at once they came so late that the AP was taken for dead.
 */
export const SENT_AT_ONCE = 3
/** Images that are sent for later, beside these, and only while none of these is under way. */
export const SPARES_SENT_AT_ONCE = 1

export class Slots {
  private readonly taken = new Set<string>()
  private readonly waiting: (() => void)[] = []

  constructor(private readonly most: number) {}

  /** Returns what gives the slot back, or undefined where there is none for `who`: nobody has two, or a slow one had all. */
  take(who: string): (() => void) | undefined {
    if (this.taken.size >= this.most || this.taken.has(who)) return undefined
    this.taken.add(who)
    return () => {
      this.taken.delete(who)
      if (this.taken.size > 0) return
      for (const wake of this.waiting.splice(0)) wake()
    }
  }

  /** Resolves while nobody has one. */
  async free(): Promise<void> {
    while (this.taken.size > 0) await new Promise<void>((resolve) => this.waiting.push(resolve))
  }
}
