import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { utf8 } from '../../protocols/bytes.js'
import { majority, score, watcherCount, watchersOf } from '../../protocols/rendezvous.js'
import { keyOf, memberOf } from './support.js'

const membersOf = (numbers: Iterable<number>) => new Map([...numbers].map((n) => [memberOf(n).id, memberOf(n)]))
const upTo = (n: number) => Array.from({ length: n }, (_, i) => i)
const watchers = (ap: number, numbers: Iterable<number>) => watchersOf(keyOf(ap), memberOf(ap).id, membersOf(numbers))

test('an AP has min(5, n − 1) watchers, all different, none of them itself, all of them members', () => {
  for (let n = 1; n <= 12; n++) {
    const members = membersOf(upTo(n))
    for (const ap of upTo(n)) {
      const of = watchersOf(keyOf(ap), memberOf(ap).id, members)
      assert.is(of.length, Math.min(5, n - 1))
      assert.is(of.length, watcherCount(n))
      assert.is(new Set(of).size, of.length)
      assert.not(of.includes(memberOf(ap).id))
      for (const id of of) assert.ok(members.has(id))
    }
  }
  assert.is(watcherCount(0), 0)
})

test('who watches an AP does not depend on the order in which members are known', () => {
  fc.assert(
    fc.property(fc.shuffledSubarray(upTo(20), { minLength: 2 }), fc.nat(19), (numbers, ap) => {
      const sorted = [...numbers].sort((a, b) => a - b)
      assert.equal(watchers(ap, numbers), watchers(ap, sorted))
    }),
    { numRuns: 100 },
  )
})

test('a member that does not watch an AP comes or goes, and its watchers stay the same', () => {
  fc.assert(
    fc.property(fc.shuffledSubarray(upTo(30), { minLength: 8 }), (numbers) => {
      const ap = numbers[0]!
      const before = watchers(ap, numbers)
      for (const other of numbers.slice(1)) {
        const without = numbers.filter((n) => n !== other)
        const after = watchers(ap, without)
        if (before.includes(memberOf(other).id)) {
          // The four that stay keep their order, and one is new.
          assert.equal(
            after.slice(0, 4),
            before.filter((id) => id !== memberOf(other).id),
          )
        } else assert.equal(after, before)
      }
    }),
    { numRuns: 40 },
  )
})

test('the watching is spread: in a mesh of 40 nobody watches more than three times its share', () => {
  const counts = new Map<string, number>()
  for (const ap of upTo(40)) for (const id of watchers(ap, upTo(40))) counts.set(id, (counts.get(id) ?? 0) + 1)
  assert.ok(counts.size >= 36)
  for (const count of counts.values()) assert.ok(count <= 15, `${count}`)
})

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
