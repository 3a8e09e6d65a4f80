import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { apId, hex } from '../../protocols/bytes.js'
import { chuteKey, creationTime } from '../../protocols/chute.js'
import { compareClocks } from '../../protocols/clock.js'
import { type Chute, instanceOf } from '../../protocols/desired.js'
import { beginOf, endOf, firstClock, highestAfter, possibleClaims } from '../../protocols/epochs.js'
import { MAX_GENERATION } from '../../protocols/limits.js'
import { creationOf, deployment, keyOf, memberOf, NOW, OWNER, specOf, unsigned } from './support.js'

const CREATED = NOW - 1000
const made = deployment(OWNER, 'hello', [NOW, 0], { creation: creationOf(CREATED) })
const id = { publisher: OWNER.publicKey, name: 'hello', creation: made.body.creation }
const chute: Chute = {
  ...{ id, key: chuteKey(id), spec: specOf(), revision: 1, desired: 'running', restarts: 0, deployment: made },
}
const { subject, instance } = instanceOf(chute, 0)
const claim = (by: number, epoch: number, at = NOW) =>
  unsigned(keyOf(by), 'claim', subject, [at, 0], { epoch, cause: 'new' })

/** Epochs of the claims that count, where 1 is a member and 2 was one. */
function counting(generation: number, ...claims: ReturnType<typeof claim>[]): number[] | undefined {
  const members = new Map([[apId(keyOf(1)), memberOf(1)]])
  const of = new Map([[instance, claims]])
  const electorates = new Map([[hex(chute.key), { generation }]])
  const forgotten = new Map([[apId(keyOf(2)), 'was forgotten']])
  return possibleClaims(of, [chute], electorates, { members, forgotten })
    .get(instance)
    ?.map(({ body }) => body.epoch)
}

test('an epoch that no AP can have come to since the chute was created counts for nothing', () => {
  assert.equal(counting(0, claim(1, 2 ** 48), claim(1, 1002), claim(1, 1001), claim(1, 1)), [1001, 1])
  assert.is(counting(0, claim(1, 2 ** 40)), undefined)
})

test('of an exclusive chute the epochs of each generation so far count, and none of one that is not there yet', () => {
  const epochs = [beginOf(2) + 1, beginOf(1) + 1001, beginOf(1) + 1002, beginOf(1) + 1, endOf(0) - 1, 3]
  assert.equal(counting(1, ...epochs.map((epoch) => claim(1, epoch))), [beginOf(1) + 1001, beginOf(1) + 1, 3])
  assert.ok(endOf(MAX_GENERATION) <= 2 ** 48)
})

test('whatever member claims with whatever epoch, the next one can claim with a higher one, a millisecond later', () => {
  for (const generation of [0, 3]) {
    const highest = highestAfter(generation, NOW + 300_000 - CREATED)
    const next = highest + 1
    const clock = firstClock(made.body.creation, next)
    assert.is(creationTime(made.body.creation), CREATED)
    assert.is(compareClocks(clock, [NOW + 300_001, 0]), 0)
    assert.equal(counting(generation, claim(1, next, clock[0])), [next])
  }
})

test('a claim by a key that never was a member counts for nothing, one by an AP that was forgotten for its epoch', () => {
  assert.equal(counting(0, claim(3, 900), claim(2, 7), claim(1, 2)), [7, 2])
})

test.run()
