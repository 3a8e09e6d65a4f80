// An AP's sense of time: the wall clock, held up by what the ledger has seen, on a scale that never runs backwards.
import { type Clock, compareClocks, tick } from '../protocols/clock.js'

/**
 * Boxes without a battery clock boot in 1970. So that such an AP does not take all the mesh's records for future ones, its
 * clock never runs behind a floor: the highest effective clock it has on disk, or what a member told it when it joined.
 */
export class NodeClock {
  private last: Clock
  private floorMs: number
  private floorSetAt = performance.now()

  constructor(floor: Clock = [0, 0]) {
    this.last = floor
    this.floorMs = floor[0]
  }

  /** Milliseconds since 1970, as far as this AP knows. */
  now(): number {
    return Math.max(Date.now(), Math.floor(this.floorMs + performance.now() - this.floorSetAt))
  }

  /** Takes over a later time from a source that is trusted for it. */
  raise(ms: number): void {
    if (ms <= this.now()) return
    this.floorMs = ms
    this.floorSetAt = performance.now()
  }

  /** Notes the clock of a record, so that what this AP signs next comes after it. */
  observe(clock: Clock): void {
    if (compareClocks(clock, this.last) > 0) this.last = clock
  }

  /** The clock of a record that is signed now. */
  next(): Clock {
    this.last = tick(this.last, this.now())
    return this.last
  }
}

/** Milliseconds on a scale that only grows: what timeouts are measured on. */
export const monotonic = (): number => performance.now()
