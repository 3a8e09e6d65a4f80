// What one's behaviour comes to, in time that the test makes.
import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Backlog } from '../../../node/mesh/backlog.js'
import { Conduct, type Verdict } from '../../../node/mesh/conduct.js'
import { Allowances } from '../../../protocols/allowance.js'

function conduct() {
  const clock = { now: 1000 }
  const verdicts: Verdict[] = []
  const of = new Conduct(
    () => clock.now,
    (verdict) => verdicts.push(verdict),
  )
  const offend = (times: number, who = 'villain') => {
    for (let i = 0; i < times; i++) of.offend(who, 'a lie')
  }
  return { clock, verdicts, of, offend }
}

test('who does ten bad things is not heard, told once, and heard again as time forgives', () => {
  const { clock, verdicts, of, offend } = conduct()
  offend(9)
  assert.ok(of.isHeard('villain'))
  offend(5)
  assert.not.ok(of.isHeard('villain'))
  assert.ok(of.isHeard('another'))
  assert.equal(verdicts, [{ kind: 'throttled', who: 'villain', reason: 'a lie' }])
  clock.now += 10_000
  assert.ok(of.isHeard('villain'))
  offend(3)
  assert.not.ok(of.isHeard('villain'))
  assert.is(verdicts.length, 1, 'it is the same episode until all is forgiven')
  clock.now += 60_000
  offend(10)
  assert.is(verdicts.length, 2)
})

test('who goes on is shut out, twice as long each time up to ten minutes, and after a quiet hour as if for the first time', () => {
  const { clock, verdicts, of, offend } = conduct()
  const terms: number[] = []
  for (let i = 0; i < 9; i++) {
    offend(1000)
    const { kind, ms } = verdicts.at(-1)!
    assert.is(kind, 'shut-out')
    terms.push(ms! / 1000)
    clock.now += ms! - 1
    assert.ok(of.isShutOut('villain'))
    clock.now += 1
    assert.not.ok(of.isShutOut('villain'))
    assert.ok(of.isHeard('villain'))
  }
  assert.equal(terms, [10, 20, 40, 80, 160, 320, 600, 600, 600])
  assert.is(verdicts.length, 18, 'not one for each thing it did')
  clock.now += 3_600_001
  offend(30)
  assert.is(verdicts.at(-1)!.ms, 10_000)
})

test('nothing is forgiven faster than half a point a second, whatever comes in between', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(5000), fc.nat(3)), { maxLength: 60 }), (steps) => {
      const { clock, of, offend } = conduct()
      for (const [ms, offences] of steps) {
        const before = of.points('villain')
        clock.now += ms
        assert.ok(of.points('villain') >= before - (ms / 1000) * 0.5 - 1e-9)
        if (of.points('villain') + offences < 30) offend(offences)
      }
    }),
  )
})

test('who keeps within its budget is always heard, however it spreads it', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(3000), fc.nat(4000)), { maxLength: 60 }), (steps) => {
      const { clock, verdicts, of } = conduct()
      let left = 8192
      for (const [ms, wanted] of steps) {
        clock.now += ms
        left = Math.min(8192, left + (ms / 1000) * 640)
        const amount = Math.min(wanted, Math.floor(left - 1e-6))
        if (amount < 0) continue
        left -= amount
        assert.ok(of.spend('honest', 'messages', amount))
      }
      assert.equal(verdicts, [])
    }),
  )
})

test('no stock gives more than its burst and what came since', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(2000), fc.integer({ min: 1, max: 50 })), { maxLength: 80 }), (steps) => {
      const stock = new Allowances({ burst: 40, perSecond: 10 })
      let [now, taken] = [0, 0]
      for (const [ms, amount] of steps) {
        now += ms
        if (stock.take('one', now, amount)) taken += amount
        assert.ok(taken <= 40 + (now / 1000) * 10 + 1e-6)
      }
    }),
  )
})

test('however many misbehave, a thousand are remembered', () => {
  const { of, offend } = conduct()
  for (let i = 0; i < 5000; i++) {
    offend(1, `villain ${i}`)
    of.spend(`villain ${i}`, 'messages')
  }
  assert.is(Reflect.get(of, 'accounts').size, 1000)
})

test('what waits is bounded, of one and of all, and nobody waits for ever', () => {
  const waiting = new Backlog(10_000, 25_000)
  const take = (who: string) => {
    const done: (() => void)[] = []
    for (let i = 0; i < 100; i++) {
      const one = waiting.enter(who, 1000)
      if (one !== undefined) done.push(one)
    }
    return done
  }
  const [a, b, c] = [take('a'), take('b'), take('c')]
  assert.equal([a.length, b.length, c.length], [4, 4, 4])
  for (const done of a) done()
  assert.is(take('a').length, 4)
})

test.run()
