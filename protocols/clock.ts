// The hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", 2014) that orders records without agreed time.
import { z } from 'zod'

/** Milliseconds since 1970 and a counter for what happened within one; on the wire `[ms, counter]`. */
export type Clock = readonly [ms: number, counter: number]

/** 2^48 ms is the year 10889; the counter is 16 bits wide. */
export const clockSchema: z.ZodType<Clock> = z.tuple([
  z
    .int()
    .min(0)
    .max(2 ** 48 - 1),
  z
    .int()
    .min(0)
    .max(2 ** 16 - 1),
])

export const ZERO_CLOCK: Clock = [0, 0]

export const compareClocks = (a: Clock, b: Clock): number => a[0] - b[0] || a[1] - b[1]

/** The clock of the next event at `nowMs`, later than `last`, the latest one seen. */
export function tick(last: Clock, nowMs: number): Clock {
  if (nowMs > last[0]) return [nowMs, 0]
  return last[1] < 2 ** 16 - 1 ? [last[0], last[1] + 1] : [last[0] + 1, 0]
}

/** A clock that is less behind is left alone, in milliseconds: it matters once it comes near to MAX_CLOCK_AHEAD. */
const BEHIND = 60_000
/** So many others must have said what time it is: one alone could send an AP's clock anywhere. */
const ASKED = 3

/**
 * What other members say that the time is. An AP without a battery clock that had no power for a while would take all that
 * was signed meanwhile for records of the future, and never see them in force.
 */
export class MemberTimes {
  /** By AP id, how much its clock shows beyond this AP's monotonic scale. */
  private readonly offsets = new Map<string, number>()

  /** @param timeMs the time that the AP told, @param monotonicMs when it did */
  note(ap: string, timeMs: number, monotonicMs: number): void {
    this.offsets.set(ap, timeMs - monotonicMs)
  }

  /** The time that this AP should go on from: the one in the middle of all, where that is far later than its own. */
  correction(nowMs: number, monotonicMs: number, members: number): number | undefined {
    if (this.offsets.size < Math.min(ASKED, members - 1)) return undefined
    const times = [nowMs, ...[...this.offsets.values()].map((offset) => offset + monotonicMs)].sort((a, b) => a - b)
    const middle = Math.floor(times[Math.floor(times.length / 2)]!)
    return middle > nowMs + BEHIND ? middle : undefined
  }
}
