import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { monotonic, NodeClock } from '../../node/clock.js'
import { compareClocks } from '../../protocols/clock.js'

const original = { now: Date.now, monotonic: performance.now }
let wall = 0
let elapsed = 0
test.before.each(() => {
  ;[wall, elapsed] = [1_700_000_000_000, 1000]
  Date.now = () => wall
  performance.now = () => elapsed
})
test.after.each(() => {
  Date.now = original.now
  performance.now = original.monotonic
})

function pass(ms: number): void {
  wall += ms
  elapsed += ms
}

test('an AP takes the time from the wall clock where that is not behind what it knows', () => {
  const clock = new NodeClock()
  assert.is(clock.now(), wall)
  clock.raise(wall - 5000)
  assert.is(clock.now(), wall)
})

test('a box that boots in 1970 goes on from the time it was told, and follows the wall clock once that is set', () => {
  wall = 5000
  const clock = new NodeClock()
  assert.is(clock.now(), 5000)
  clock.raise(1_700_000_000_000)
  pass(2500)
  assert.is(clock.now(), 1_700_000_002_500)
  clock.raise(1_600_000_000_000)
  assert.is(clock.now(), 1_700_000_002_500, 'what is earlier changes nothing')
  wall = 1_800_000_000_000
  assert.is(clock.now(), 1_800_000_000_000)
})

test('each clock that is signed comes after the one before, also within a millisecond and when time runs backwards', () => {
  const clock = new NodeClock()
  let last = clock.next()
  for (const step of [0, 0, 1, 0, -50_000, 0, 10, 60_000, 0]) {
    wall += step
    const next = clock.next()
    assert.ok(compareClocks(next, last) > 0, `${last} then ${next}`)
    last = next
  }
})

test('what an AP signs comes after what it has seen, without its time being taken over', () => {
  const clock = new NodeClock()
  const seen = [wall + 60_000, 7] as const
  clock.observe(seen)
  assert.equal(clock.next(), [wall + 60_000, 8])
  assert.is(clock.now(), wall)
  clock.observe([wall, 0])
  assert.equal(clock.next(), [wall + 60_000, 9])
  pass(60_001)
  assert.equal(clock.next(), [wall, 0])
})

test('what timeouts are measured on does not follow the wall clock', () => {
  const before = monotonic()
  wall -= 3_600_000
  assert.ok(monotonic() >= before)
})

test.run()
