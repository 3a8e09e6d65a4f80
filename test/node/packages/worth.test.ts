// What other APs are worth as sources.
import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Worth } from '../../../node/packages/worth.js'

const latency = fc.double({ min: 0.1, max: 5000, noNaN: true })
const rate = fc.double({ min: 0.1, max: 1e6, noNaN: true })

test('of two sources that send as fast the nearer one is worth more, of two as near the faster one', () => {
  fc.assert(
    fc.property(latency, rate, fc.double({ min: 1.1, max: 10, noNaN: true }), (ms, bytes, times) => {
      const worth = new Worth()
      for (const [ap, itsLatency, itsRate] of [
        ['one', ms, bytes],
        ['far', ms * times, bytes],
        ['slow', ms, bytes / times],
      ] as const) {
        worth.noteLatency(ap, itsLatency)
        worth.noteRate(ap, itsRate)
      }
      assert.ok(worth.of('one') > worth.of('far'))
      assert.ok(worth.of('one') > worth.of('slow'))
    }),
  )
})

test('one that is not known is worth as much as the middle, and what was measured long ago counts less and less', () => {
  const worth = new Worth()
  assert.is(worth.of('new'), 0)
  for (const [i, ap] of ['a', 'b', 'c'].entries()) worth.noteRate(ap, 10 ** i)
  assert.is(worth.of('new'), worth.of('b'))
  for (let i = 0; i < 20; i++) worth.noteRate('a', 1000)
  assert.ok(worth.of('a') > worth.of('c'))
})

test.run()
