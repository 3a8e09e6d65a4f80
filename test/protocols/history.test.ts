import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { hex } from '../../protocols/bytes.js'
import { compareRecords } from '../../protocols/envelope.js'
import { newConflicts, revisionsOf } from '../../protocols/history.js'
import { MAX_CLOCK_AHEAD } from '../../protocols/limits.js'
import { creationOf, deployment, NOW, signer } from './support.js'

const PUBLISHER = signer(1)
const [FIRST, SECOND] = [creationOf(1000), creationOf(2000)]

const publish = (at: number, revision: number, creation = FIRST) =>
  deployment(PUBLISHER, 'hello', [NOW + at, 0], { creation, revision })
type Deployment = ReturnType<typeof publish>

const newestFirst = (records: readonly Deployment[]): Deployment[] =>
  [...records].sort((a, b) => Buffer.compare(b.body.creation, a.body.creation) || compareRecords(b, a))

/** Each revision as `number@time state`, with what it lost to and what it came after. */
function told(...records: Deployment[]): string[] {
  const short = (one: Deployment | undefined) => (one === undefined ? '' : `${one.body.revision}@${one.clock[0] - NOW}`)
  return revisionsOf(newestFirst(records), NOW + 1000).map(({ deployment, state, lostTo, before }) =>
    [short(deployment), state, lostTo && `to ${short(lostTo)}`, before && `after ${short(before)}`]
      .filter((part) => part !== undefined)
      .join(' '),
  )
}

test('of revisions that knew of each other the newest is in force, and each follows the one before it', () => {
  assert.equal(told(publish(1, 1), publish(2, 2), publish(3, 3)), [
    '3@3 in-force after 2@2',
    '2@2 superseded after 1@1',
    '1@1 superseded',
  ])
  assert.equal(revisionsOf([], NOW), [])
})

test('of one number published on two sides the later clock wins, and both follow what both knew', () => {
  assert.equal(told(publish(1, 1), publish(5, 2), publish(9, 2)), [
    '2@9 in-force after 1@1',
    '2@5 lost to 2@9 after 1@1',
    '1@1 superseded',
  ])
})

test('what one side published more often loses as well, where the other side published last', () => {
  assert.equal(told(publish(1, 1), publish(5, 2), publish(6, 3), publish(9, 2)), [
    '2@9 in-force after 1@1',
    '3@6 lost to 2@9 after 2@5',
    '2@5 lost to 2@9 after 1@1',
    '1@1 superseded',
  ])
})

test('of three, each lost to the next one', () => {
  assert.equal(told(publish(5, 2), publish(9, 2), publish(12, 2)), [
    '2@12 in-force',
    '2@9 lost to 2@12',
    '2@5 lost to 2@9',
  ])
})

test('a loser stays one when more is published', () => {
  assert.equal(told(publish(5, 2), publish(9, 2), publish(10, 3)), [
    '3@10 in-force after 2@9',
    '2@9 superseded',
    '2@5 lost to 2@9',
  ])
})

test('a name made new on two sides is a conflict, which the later creation wins', () => {
  assert.equal(told(publish(1, 1), publish(9, 2), publish(5, 3, SECOND)), [
    '3@5 in-force',
    '2@9 lost to 3@5 after 1@1',
    '1@1 lost to 3@5',
  ])
})

test('what is not due yet is not in force, and nothing has lost to it', () => {
  const future = publish(MAX_CLOCK_AHEAD + 2000, 1)
  assert.equal(told(publish(1, 1), future), [`1@${MAX_CLOCK_AHEAD + 2000} future`, '1@1 in-force'])
})

const any = fc
  .uniqueArray(fc.tuple(fc.nat(20), fc.integer({ min: 1, max: 4 }), fc.boolean()), { maxLength: 8 })
  .map((all) => all.map(([at, revision, later]) => publish(at, revision, later ? SECOND : FIRST)))

test('each conflict is told once, in whatever order and batches the records come', () => {
  fc.assert(
    fc.property(any, fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 8, maxLength: 8 }), (records, sizes) => {
      const ledger: Deployment[] = []
      const losers: string[] = []
      const left = [...records]
      for (const size of sizes) {
        const batch = left.splice(0, size)
        ledger.push(...batch)
        for (const { loser } of newConflicts(newestFirst(ledger), (one) => batch.includes(one), NOW + 1000))
          losers.push(hex(loser.hash))
      }
      const lost = revisionsOf(newestFirst(records), NOW + 1000).filter(({ state }) => state === 'lost')
      assert.equal(losers.sort(), lost.map(({ deployment }) => hex(deployment.hash)).sort())
    }),
  )
})

test.run()
