import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Differences, isInformed } from '../../protocols/pace.js'

test('an AP takes no work before it has synced, or has heard nothing for five seconds, unless it knows of nobody', () => {
  const other = { isAlone: false, hasSynced: false, isDamaged: false }
  const at = (since: number, is: Partial<typeof other> = {}): boolean => {
    const { isAlone, hasSynced, isDamaged } = { ...other, ...is }
    return isInformed(isAlone, hasSynced, isDamaged, since)
  }
  assert.not(at(4999))
  assert.ok(at(5000))
  assert.ok(at(0, { hasSynced: true }))
  assert.ok(at(0, { isAlone: true }))
  assert.not(at(3_600_000, { isDamaged: true }))
  assert.ok(at(0, { isDamaged: true, hasSynced: true }))
})

test('a ledger that differs is synced with after a while, also where it was heard to differ while a sync went on', () => {
  const [ours, theirs] = [new Uint8Array(16), new Uint8Array(16).fill(1)]
  const due = (differences: Differences, now: number) => differences.due(['a'], now, 0)
  const heardAt = (...times: number[]) => {
    const differences = new Differences(0)
    for (const now of times) differences.compare('a', theirs, ours, now)
    return differences
  }
  assert.equal(due(heardAt(1000), 2400), [], 'gossip may bring it')
  assert.equal(due(heardAt(1000, 2000), 2600), ['a'])
  const before = heardAt(1000)
  before.synced('a', 1500)
  assert.equal(due(before, 9000), [])
  const during = heardAt(1000, 1700)
  during.synced('a', 1500)
  assert.equal(due(during, 3100), [])
  assert.equal(due(during, 3300), ['a'])
  during.failed('a', 13_000)
  assert.equal(due(during, 14_000), [])
  assert.equal(due(during, 15_000), ['a'])
  const equal = heardAt(1000)
  equal.compare('a', ours, ours, 1100)
  assert.equal(due(equal, 9000), [])
})

test.run()
