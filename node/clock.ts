// An AP's sense of time: the wall clock, held up by what the ledger has seen, on a scale that never runs backwards.
import { setImmediate } from 'node:timers/promises'
import { type Clock, compareClocks, tick } from '../protocols/clock.js'

/** Where an AP takes the time from: the machine it runs on, or the simulator. */
export interface Time {
  /** Milliseconds since 1970, as the machine believes. */
  wall(): number
  /** Milliseconds on a scale that only grows: what timeouts are measured on. */
  monotonic(): number
  /** Runs something later. Returns what prevents it. */
  after(ms: number, run: () => void): () => void
  /** Resolves once everything else that waits for its turn has had it. */
  breathe(): Promise<void>
}

export const SYSTEM_TIME: Time = {
  wall: () => Date.now(),
  monotonic: () => performance.now(),
  after: (ms, run) => {
    const timer = setTimeout(run, ms)
    return () => clearTimeout(timer)
  },
  breathe: () => setImmediate(),
}

/**
 * Boxes without a battery clock boot in 1970. So that such an AP does not take all the mesh's records for future ones, its
 * clock never runs behind a floor: the time at which it last wrote to its disk, or what a member told it when it joined.
 */
export class NodeClock {
  private last: Clock
  private floorMs: number
  private floorSetAt: number

  constructor(
    floor: Clock = [0, 0],
    private readonly time: Time = SYSTEM_TIME,
  ) {
    this.last = floor
    this.floorMs = floor[0]
    this.floorSetAt = time.monotonic()
  }

  /** Milliseconds since 1970, as far as this AP knows. */
  now(): number {
    return Math.max(this.time.wall(), Math.floor(this.floorMs + this.time.monotonic() - this.floorSetAt))
  }

  /** Takes over a later time from a source that is trusted for it. */
  raise(ms: number): void {
    if (ms <= this.now()) return
    this.floorMs = ms
    this.floorSetAt = this.time.monotonic()
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
