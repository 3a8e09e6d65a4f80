// How long an AP waits for another before it thinks the worst: longer for one that is heard irregularly, and longer while it
// does not keep time itself. Pure: all times are milliseconds on one monotonic scale.

/** Gaps that are remembered of one AP: half a minute of pulses. */
const WINDOW = 64
/** Gaps needed before they say anything. */
const ENOUGH = 8
/** A gap longer than this was an outage, and says nothing of what is usual. */
const OUTAGE = 5000

/** The gaps between the pulses of one AP. */
export class Arrivals {
  private readonly gaps: number[] = []
  private next = 0
  private last: number | undefined
  private sum = 0
  private squares = 0

  note(now: number): void {
    const gap = now - (this.last ?? Number.NEGATIVE_INFINITY)
    this.last = now
    if (gap > OUTAGE) return
    const dropped = this.gaps[this.next] ?? 0
    this.gaps[this.next] = gap
    this.next = (this.next + 1) % WINDOW
    this.sum += gap - dropped
    this.squares += gap ** 2 - dropped ** 2
  }

  /** This AP stood still for so long: the gap it is in is that much shorter. */
  postpone(ms: number): void {
    if (this.last !== undefined) this.last += ms
  }

  /**
   * The silence after which an AP is late beyond chance, as an accrual detector reckons it (Hayashibara and others, 2004):
   * so many standard deviations above the mean of what was seen. Zero while too little was seen.
   */
  lateAfter(deviations: number): number {
    const n = this.gaps.length
    if (n < ENOUGH) return 0
    const mean = this.sum / n
    return mean + deviations * Math.sqrt(Math.max(0, this.squares / n - mean ** 2))
  }
}

/** Its timeouts are at most so many times as long. */
const MAX_FACTOR = 5
/** For so long without a new sign of slowness it regains one step. */
const RECOVERY = 2000

/**
 * How far this AP may trust its own sense of time: the local health multiplier of Lifeguard (Dadgar, Phillips and Currey,
 * 2018). An AP that is starved or that cannot reach what others reach is more likely at fault than they are.
 */
export class Health {
  private score = 0
  private since = Number.NEGATIVE_INFINITY

  /** This AP was slow, or was wrong about another. */
  worsen(now: number): void {
    this.score = Math.min(MAX_FACTOR - 1, this.scoreAt(now) + 1)
    this.since = now
  }

  /** By how much to lengthen each timeout: 1 where all is well. */
  factor(now: number): number {
    return 1 + this.scoreAt(now)
  }

  private scoreAt(now: number): number {
    return Math.max(0, this.score - Math.floor((now - this.since) / RECOVERY))
  }
}
