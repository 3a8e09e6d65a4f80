// The hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", 2014) that orders records without agreed time.
import { z } from 'zod'
import { majority } from './rendezvous.js'

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

  /**
   * The time that this AP should go on from: the latest one that a majority of the other members have reached, where that is
   * far later than its own. One that said nothing counts as one that has not reached it, and a single one is never enough:
   * whatever the others claim, where most of them are honest an honest one has come as far.
   * @param members those it hears of, this AP among them
   */
  correction(nowMs: number, monotonicMs: number, members: readonly { id: string }[]): number | undefined {
    const vouchers = Math.max(2, majority(members.length - 1))
    const told = members.flatMap(({ id }) => this.offsets.get(id) ?? []).map((offset) => offset + monotonicMs)
    const reached = told.sort((a, b) => b - a)[vouchers - 1]
    return reached !== undefined && reached > nowMs + BEHIND ? Math.floor(reached) : undefined
  }
}
