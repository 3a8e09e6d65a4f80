import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { isInformed } from '../../protocols/pace.js'

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

test.run()
