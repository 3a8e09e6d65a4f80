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

function timesOf(...told: number[]): MemberTimes {
  const times = new MemberTimes()
  for (const [i, time] of told.entries()) times.note(`ap${i}`, time, 500)
  return times
}

test('a clock that is hours behind most members goes on from the middle of their times', () => {
  assert.is(timesOf(2 * HOUR, 3 * HOUR, 4 * HOUR).correction(0, 500, 30), 3 * HOUR)
  assert.is(timesOf(2 * HOUR, 3 * HOUR, 4 * HOUR).correction(0, 1500, 30), 3 * HOUR + 1000, 'their clocks go on')
  assert.is(timesOf(2 * HOUR).correction(0, 500, 2), 2 * HOUR, 'there is only one other')
})

test('a minority of members cannot move a clock, and no clock is moved back or for a little', () => {
  assert.is(timesOf(9 * HOUR, 9 * HOUR, HOUR, HOUR).correction(HOUR, 500, 5), undefined)
  assert.is(timesOf(9 * HOUR, 9 * HOUR).correction(HOUR, 500, 30), undefined, 'two are too few to ask')
  assert.is(timesOf(HOUR, HOUR, HOUR).correction(2 * HOUR, 500, 4), undefined)
  assert.is(timesOf(HOUR, HOUR, HOUR).correction(HOUR - 2000, 500, 4), undefined)
})

test.run()
