// A cap on bytes a second, for all that passes through together: who wants to send waits until it is its turn.
import { setTimeout as delay } from 'node:timers/promises'

/** What may go at once after a while in which nothing did, in milliseconds of the rate. */
const BURST = 250

export class Rate {
  private next = 0

  /** @param perSecond bytes; without it there is no cap */
  constructor(private readonly perSecond?: number) {}

  /** Resolves when so many bytes may pass. */
  async take(bytes: number): Promise<void> {
    if (this.perSecond === undefined) return
    const now = performance.now()
    const at = Math.max(this.next, now - BURST)
    this.next = at + (bytes / this.perSecond) * 1000
    if (this.next > now) await delay(this.next - now, undefined, { ref: false })
  }
}
