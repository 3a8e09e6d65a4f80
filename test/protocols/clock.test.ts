import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type Clock, clockSchema, compareClocks, MemberTimes, tick, ZERO_CLOCK } from '../../protocols/clock.js'

const MAX_MS = 2 ** 48 - 1
const MAX_COUNTER = 2 ** 16 - 1

// Few values, so that equal ones and the ends of the range are met often.
const ms = fc.oneof(fc.nat(5), fc.integer({ min: 0, max: MAX_MS - 1 }), fc.constant(MAX_MS - 1))
const counter = fc.oneof(fc.nat(3), fc.nat(MAX_COUNTER), fc.constant(MAX_COUNTER))
const clock: fc.Arbitrary<Clock> = fc.tuple(ms, counter)

test('the next clock is later than the last one, fit for the wire, and behind neither time nor the last one', () => {
  fc.assert(
    fc.property(clock, ms, (last, now) => {
      const next = tick(last, now)
      assert.ok(compareClocks(next, last) > 0, `${next} after ${last}`)
      assert.ok(next[0] >= now)
      assert.ok(clockSchema.safeParse(next).success, `${next}`)
    }),
    { numRuns: 2000 },
  )
})

test('a clock runs ahead of the time and of the last one by no more than its counter makes necessary', () => {
  fc.assert(
    fc.property(clock, ms, (last, now) => {
      const next = tick(last, now)
      if (now > last[0]) assert.equal(next, [now, 0])
      else if (last[1] < MAX_COUNTER) assert.equal(next, [last[0], last[1] + 1])
      else assert.equal(next, [last[0] + 1, 0])
    }),
    { numRuns: 1000 },
  )
})

test('clocks keep growing while the wall clock jumps back and forth', () => {
  fc.assert(
    fc.property(fc.array(ms, { maxLength: 50 }), (times) => {
      let last: Clock = ZERO_CLOCK
      for (const now of times) {
        const next = tick(last, now)
        assert.ok(compareClocks(next, last) > 0)
        last = next
      }
    }),
    { numRuns: 200 },
  )
})

test('the order of clocks is total: milliseconds first, then the counter', () => {
  assert.ok(compareClocks([1, 9], [2, 0]) < 0)
  assert.ok(compareClocks([2, 1], [2, 2]) < 0)
  assert.is(compareClocks([2, 2], [2, 2]), 0)
  fc.assert(
    fc.property(clock, clock, clock, (a, b, c) => {
      assert.is(Math.sign(compareClocks(a, b)), 0 - Math.sign(compareClocks(b, a)))
      if (compareClocks(a, b) <= 0 && compareClocks(b, c) <= 0) assert.ok(compareClocks(a, c) <= 0)
      assert.is(compareClocks(a, b) === 0, a[0] === b[0] && a[1] === b[1])
    }),
    { numRuns: 1000 },
  )
})

test('what is no clock is refused: negative, broken or too great numbers, and other shapes', () => {
  const wrong = [[-1, 0], [0, -1], [1.5, 0], [0, 0.5], [MAX_MS + 1, 0], [0, MAX_COUNTER + 1], [0], [0, 0, 0], 5, null]
  for (const value of wrong) assert.not(clockSchema.safeParse(value).success, JSON.stringify(value))
  assert.ok(clockSchema.safeParse([MAX_MS, MAX_COUNTER]).success)
})

const HOUR = 3_600_000

/** What an AP that shows `own`, in a mesh of so many, goes on from after others told it their times. */
function corrected(own: number, members: number, told: readonly number[], later = 0): number | undefined {
  const ids = Array.from({ length: members }, (_, i) => ({ id: `ap${i}` }))
  const times = new MemberTimes()
  for (const [i, time] of told.entries()) times.note(`ap${i + 1}`, time, 500)
  return times.correction(own, 500 + later, ids)
}

test('a clock that is hours behind goes on from what most other members have reached', () => {
  assert.is(corrected(0, 4, [2 * HOUR, 3 * HOUR, 4 * HOUR]), 3 * HOUR)
  assert.is(corrected(0, 4, [2 * HOUR, 3 * HOUR, 4 * HOUR], 1000), 3 * HOUR + 1000, 'their clocks go on')
  assert.is(corrected(0, 3, [2 * HOUR, 3 * HOUR]), 2 * HOUR)
})

test('no clock is moved back, or for a little', () => {
  assert.is(corrected(2 * HOUR, 4, [HOUR, HOUR, HOUR]), undefined)
  assert.is(corrected(HOUR - 2000, 4, [HOUR, HOUR, HOUR]), undefined)
})

test('whatever less than half of the others claim, and whoever is asked first, no clock is moved beyond that of an honest one', () => {
  const honest = fc.array(fc.integer({ min: 0, max: 3 * HOUR }), { minLength: 1, maxLength: 12 })
  fc.assert(
    fc.property(honest, fc.array(fc.maxSafeNat(), { maxLength: 11 }), fc.nat(12), (times, lies, silent) => {
      if (lies.length >= times.length) return
      const told = [...lies, ...times.slice(0, times.length - (silent % times.length))]
      const to = corrected(0, 1 + times.length + lies.length, told)
      assert.ok(to === undefined || to <= Math.max(...times))
    }),
    { numRuns: 500 },
  )
})

test('one member alone cannot move a clock, even where there is no other, and who was forgotten has no say', () => {
  assert.is(corrected(0, 2, [HOUR]), undefined)
  assert.is(corrected(0, 3, [HOUR]), undefined)
  const times = new MemberTimes()
  for (const ap of ['a', 'b', 'c']) times.note(ap, HOUR, 0)
  const members = ['self', 'a', 'd'].map((id) => ({ id }))
  assert.is(times.correction(0, 0, members), undefined)
})

test.run()
