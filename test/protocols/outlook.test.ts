import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { hex } from '../../protocols/bytes.js'
import { chuteKey, instanceSubject } from '../../protocols/chute.js'
import { LEASE } from '../../protocols/leases.js'
import { dutiesOf, type Outlook, Turns } from '../../protocols/outlook.js'
import type { Placed } from '../../protocols/placement.js'
import { creationOf, keyOf, memberOf, NOW, specOf, unsigned } from './support.js'

const [SELF, OTHER] = [1, 2].map((n) => memberOf(n).id) as [string, string]

/** What is known of the one instance there is. */
function outlookOf(placed: Partial<Placed>, isExclusive: boolean): Outlook {
  const id = { publisher: keyOf(1000), name: 'one', creation: creationOf(1000) }
  const exclusive = { voters: [1, 2, 3].map(keyOf), salt: new Uint8Array(10) }
  const spec = specOf(isExclusive ? { exclusive } : {})
  const body = { creation: id.creation, revision: 1, spec }
  const deployment = unsigned(id.publisher, 'deployment', id.publisher, [NOW, 0], body)
  const chute = { id, key: chuteKey(id), spec, revision: 1, desired: 'running' as const, restarts: 0, deployment }
  const subject = instanceSubject(chute.key, 0)
  const unplaced = { holder: undefined, claim: undefined, cause: undefined, ranks: [], obstacles: [] }
  const one = { chute, copy: 0, subject, instance: hex(subject), ...unplaced, ...placed } as Placed
  return { placed: [one], claims: new Map(), candidates: new Map(), chutes: [chute] } as unknown as Outlook
}

test('a copy that another AP holds is left running until that one serves; an exclusive one is not', () => {
  const claim = unsigned(keyOf(2), 'claim', new Uint8Array(25), [NOW, 0], { epoch: 1, cause: 'new' })
  const kept = (isExclusive: boolean) => dutiesOf(outlookOf({ holder: OTHER, claim }, isExclusive), SELF).kept.size
  assert.is(kept(false), 1)
  assert.is(kept(true), 0)
})

test('a lower rank lets each one before it try for so long as that may have to wait for the end of the last lease', () => {
  const firstTurn = (isExclusive: boolean): number => {
    const turns = new Turns()
    for (let now = 0; ; now += 100) {
      if (turns.due(outlookOf({ ranks: [OTHER, SELF] }, isExclusive), SELF, now).length > 0) return now
    }
  }
  assert.is(firstTurn(false), 5000)
  assert.is(firstTurn(true), 5000 + LEASE.voter)
})

test.run()
