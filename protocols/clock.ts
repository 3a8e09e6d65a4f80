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
