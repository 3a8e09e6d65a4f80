// Which revision a rollback puts in force again.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { revisionToRestore } from '../../cli/history.js'
import type { RevisionState } from '../../protocols/history.js'
import { refusalOf, specOf } from '../protocols/support.js'

/** Revisions that differ in their replicas. */
const revision = (number: number, state: RevisionState, hash: string, replicas = number) => ({
  chute: 'web',
  revision: number,
  state,
  hash: hash.padEnd(64, '0'),
  spec: specOf({ replicas }),
})

const CONFLICT = [
  revision(3, 'in-force', 'aaaaaaaa1', 5),
  revision(3, 'lost', 'aaaaaaaa2', 3),
  revision(2, 'superseded', 'bbbbbbbb'),
  revision(1, 'superseded', '12345678'),
]

test('without more said, it is the newest earlier one that says something else and lost no conflict', () => {
  assert.is(revisionToRestore(CONFLICT, undefined), CONFLICT[2])
  const again = [revision(4, 'future', 'f'), revision(3, 'in-force', 'c', 2), ...CONFLICT.slice(2)]
  assert.is(revisionToRestore(again, undefined), CONFLICT[3], 'revision 3 says what revision 2 said')
})

test('it is the one with the number, or whose hash begins so', () => {
  assert.is(revisionToRestore(CONFLICT, '1'), CONFLICT[3])
  assert.is(revisionToRestore(CONFLICT, '12345678'), CONFLICT[3])
  assert.is(revisionToRestore(CONFLICT, 'AAAAAAAA2'), CONFLICT[1])
})

test('what cannot be restored is refused with what could be', () => {
  const refusal = (revisions: typeof CONFLICT, asked?: string) => {
    const { code, message } = refusalOf(() => revisionToRestore(revisions, asked))
    return `${code}: ${message}`
  }
  const kept =
    'kept are revision 3 (aaaaaaaa1000), revision 3 (aaaaaaaa2000), revision 2 (bbbbbbbb0000), revision 1 (123456780000)'
  for (const asked of ['4', '0', 'web', 'bbbbbbb', 'aaaaaaaa3', '']) {
    assert.is(refusal(CONFLICT, asked), `no-such-revision: web has no revision "${asked}"; ${kept}`)
  }
  assert.is(
    refusal(CONFLICT, '3'),
    'ambiguous: web has 2 revisions "3", which conflict; say aaaaaaaa1000 or aaaaaaaa2000',
  )
  assert.is(refusal(CONFLICT, 'aaaaaaaa1'), 'in-force: revision 3 (aaaaaaaa1000) of web is in force')
  assert.is(
    refusal(CONFLICT.slice(0, 2)),
    'no-such-revision: web has no earlier revision that says anything else; kept are revision 3 (aaaaaaaa1000), revision 3 (aaaaaaaa2000)',
  )
})

test.run()
