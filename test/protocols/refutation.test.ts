import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { apId } from '../../protocols/bytes.js'
import { MAX_BOOT, MAX_DENIED, MAX_SEQUENCE } from '../../protocols/limits.js'
import { denialsOf, refutes } from '../../protocols/refutation.js'
import { ledgerOf, memberOf, NOW, record, signer } from './support.js'

const AP = signer(1).publicKey
const statement = (by: number, boot: number, sequence: number, at = NOW) =>
  record(signer(by), 'statement', AP, [at, 0], {
    ...{ boot, sequence, silence: 2000, probes: 3, heard: true, watchers: new Uint8Array(16) },
  })

const membership = {
  members: new Map(Array.from({ length: 100 }, (_, n) => [apId(signer(n + 2).publicKey), memberOf(n)])),
}
const NEXT = { boot: 3, sequence: 50 }

test('what a statement says of an AP that lives never outlasts its answer, and takes it no number', () => {
  const honest = statement(2, 3, 49)
  const lies = [statement(3, 3, 50), statement(4, MAX_BOOT, MAX_SEQUENCE), statement(5, 4, 0)]
  const answer = { ...NEXT, ...denialsOf(ledgerOf([honest, ...lies]), membership, AP, NEXT, NOW) }
  for (const one of [honest, ...lies]) assert.ok(refutes(answer, one))
  assert.is(answer.denies?.length, lies.length)
  assert.not.ok(refutes(answer, statement(4, MAX_BOOT, MAX_SEQUENCE, NOW + 1)), 'a later one waits for its own answer')
  assert.equal(denialsOf(ledgerOf([honest]), membership, AP, NEXT, NOW), {})
})

test('an answer has room for the lies of many members, and heeds no stranger', () => {
  const all = Array.from({ length: MAX_DENIED + 9 }, (_, n) => statement(n + 2, MAX_BOOT, n))
  assert.is(denialsOf(ledgerOf(all), membership, AP, NEXT, NOW).denies?.length, MAX_DENIED)
  assert.equal(denialsOf(ledgerOf([statement(200, MAX_BOOT, 1)]), membership, AP, NEXT, NOW), {})
})

test.run()
