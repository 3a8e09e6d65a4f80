import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { utf8 } from '../../protocols/bytes.js'
import { majority, score } from '../../protocols/rendezvous.js'
import { keyOf } from './support.js'

const upTo = (n: number) => Array.from({ length: n }, (_, i) => i)

test('the chance to come first is in proportion to the weight', () => {
  const weights = [1, 2, 3, 6]
  const wins = weights.map(() => 0)
  const rounds = 6000
  for (let i = 0; i < rounds; i++) {
    const scores = weights.map((weight, n) => score('test', utf8(`instance ${i}`), keyOf(n), weight))
    wins[scores.indexOf(Math.max(...scores))]!++
  }
  for (const [i, weight] of weights.entries()) {
    const [share, expected] = [wins[i]! / rounds, weight / 12]
    assert.ok(Math.abs(share - expected) < 0.02, `weight ${weight}: ${share} instead of ${expected}`)
  }
})

test('a weight that grows raises the score of its candidate, and no other score', () => {
  fc.assert(
    fc.property(
      fc.nat(1000),
      fc.nat(1000),
      fc.double({ min: 0.01, max: 100, noNaN: true }),
      (key, candidate, weight) => {
        const of = (w: number) => score('test', keyOf(key), keyOf(candidate), w)
        assert.ok(of(weight * 1.5) > of(weight))
        assert.ok(of(weight) > 0 && Number.isFinite(of(weight)))
      },
    ),
    { numRuns: 300 },
  )
})

test('what has no weight has the lowest score there is', () => {
  for (const weight of [0, -1, Number.NaN]) assert.is(score('test', keyOf(1), keyOf(2), weight), 0)
})

test('two domains rank independently', () => {
  const ranks = (domain: string) =>
    upTo(30).map(
      (key) =>
        upTo(5).sort((a, b) => score(domain, keyOf(key), keyOf(b), 1) - score(domain, keyOf(key), keyOf(a), 1))[0],
    )
  const [a, b] = [ranks('a'), ranks('b')]
  const same = a.filter((first, i) => first === b[i]).length
  assert.ok(same < 15, `${same} of 30`)
})

test('scores are those of the formula, so that another implementation ranks alike', () => {
  // SHA-256 of "dropmesh watcher 1", a zero byte, 32 times 1 and 32 times 2, worked out apart from this code.
  const value = score('watcher 1', new Uint8Array(32).fill(1), new Uint8Array(32).fill(2), 1)
  assert.ok(Math.abs(value - 1.1736007535300716) < 1e-9, `${value}`)
})

test('a majority is more than half', () => {
  assert.equal([1, 2, 3, 4, 5].map(majority), [1, 2, 2, 3, 3])
})

test.run()
