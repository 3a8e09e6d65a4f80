import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Authority } from '../../protocols/authority.js'
import { apId } from '../../protocols/bytes.js'
import { chuteKey } from '../../protocols/chute.js'
import { type Chute, instanceOf } from '../../protocols/desired.js'
import type { Body } from '../../protocols/kinds.js'
import { LEASE } from '../../protocols/leases.js'
import { neighbourhoodsOf } from '../../protocols/neighbourhood.js'
import { dutiesOf, type Outlook, Turns } from '../../protocols/outlook.js'
import type { Candidate, Placed } from '../../protocols/placement.js'
import type { RosterState } from '../../protocols/roster.js'
import { creationOf, keyOf, memberOf, NO_MEMBERS, NOW, specOf, unsigned } from './support.js'

const [BEFORE, LAST] = [1, 2]
const id = { publisher: keyOf(9), name: 'hello', creation: creationOf(1) }
const spec = specOf()
const deployment = unsigned(keyOf(9), 'deployment', keyOf(9), [NOW, 0], { creation: id.creation, revision: 1, spec })
const chute: Chute = { id, key: chuteKey(id), spec, revision: 1, desired: 'running', restarts: 0, deployment }
const { subject, instance } = instanceOf(chute, 0)

/** What is asked of the AP that ran an instance before the last one claimed it, which may hold it no more for its labels. */
function keptWhile(last: RosterState, isRunningIt: boolean): boolean {
  const claim = unsigned(keyOf(LAST), 'claim', subject, [NOW, 0], { epoch: 2, cause: 'dead' })
  const candidateOf = (n: number, state: RosterState, instances: Body<'beacon'>['instances']): [string, Candidate] => {
    const engine = { version: '27', platform: 'linux/amd64', cpu: 4000, memory: 2 ** 32 }
    const beacon = {
      ...{ boot: 1, sequence: 1, version: '', addresses: [], engine, cannot: [], images: [], packages: [] },
      ...{ instances, ledger: new Uint8Array(16) },
    }
    return [apId(keyOf(n)), { member: memberOf(n), state, beacon }]
  }
  const report = { instance: subject, epoch: 2, revision: 1, state: 'running' as const, since: NOW, ports: [] }
  const placed: Placed = {
    ...{ chute, copy: 0, instance, subject, claim, holder: undefined, cause: 'labels', ranks: [] },
    ...{ waitsFor: apId(keyOf(LAST)), obstacles: new Map() },
  }
  const outlook: Outlook = {
    authority: new Authority([], [], keyOf(0)),
    barred: [],
    membership: NO_MEMBERS,
    electorates: new Map(),
    isBraked: false,
    neighbourhoods: neighbourhoodsOf(new Map(), new Map()),
    chutes: [chute],
    claims: { get: () => [claim] },
    candidates: new Map([candidateOf(BEFORE, 'alive', []), candidateOf(LAST, last, isRunningIt ? [report] : [])]),
    placed: [placed],
  }
  return dutiesOf(outlook, apId(keyOf(BEFORE))).kept.has(instance)
}

test('of an instance that nobody may hold, the copy of who held it last is kept, and no other', () => {
  assert.not(keptWhile('alive', true))
})

test('an older copy is kept while who held the instance last is dead, or does not run it', () => {
  assert.ok(keptWhile('dead', true))
  assert.ok(keptWhile('alive', false))
})

const exclusive = { voters: [1, 2, 3].map(keyOf), salt: new Uint8Array(10) }

/** What is known of the one instance there is. */
function outlookOf(more: Partial<Placed>, isExclusive: boolean): Outlook {
  const one: Chute = isExclusive ? { ...chute, spec: specOf({ exclusive }) } : chute
  const unplaced = { holder: undefined, claim: undefined, cause: undefined, ranks: [], waitsFor: undefined }
  const placed: Placed = { chute: one, copy: 0, subject, instance, ...unplaced, obstacles: new Map(), ...more }
  return {
    authority: new Authority([], [], keyOf(0)),
    barred: [],
    membership: NO_MEMBERS,
    chutes: [one],
    claims: { get: () => [] },
    candidates: new Map(),
    placed: [placed],
    electorates: new Map(),
    isBraked: false,
    neighbourhoods: neighbourhoodsOf(new Map(), new Map()),
  }
}

test('a copy that another AP holds is left running until that one serves; an exclusive one is not', () => {
  const claim = unsigned(keyOf(2), 'claim', new Uint8Array(25), [NOW, 0], { epoch: 1, cause: 'new' })
  const kept = (isExclusive: boolean) =>
    dutiesOf(outlookOf({ holder: apId(keyOf(LAST)), claim }, isExclusive), apId(keyOf(BEFORE))).kept.size
  assert.is(kept(false), 1)
  assert.is(kept(true), 0)
})

test('a lower rank lets each one before it try for so long as that may have to wait for the end of the last lease', () => {
  const firstTurn = (isExclusive: boolean): number => {
    const turns = new Turns()
    for (let now = 0; ; now += 100) {
      if (
        turns.due(outlookOf({ ranks: [apId(keyOf(LAST)), apId(keyOf(BEFORE))] }, isExclusive), apId(keyOf(BEFORE)), now)
          .length > 0
      )
        return now
    }
  }
  assert.is(firstTurn(false), 5000)
  assert.is(firstTurn(true), 5000 + LEASE.voter)
})

test('under the brake an AP takes over one instance of the dead each ten seconds; what is new, and what has a lease, at once', () => {
  const self = apId(keyOf(BEFORE))
  const outlook = (cause: Placed['cause'], isExclusive = false): Outlook => {
    const one = outlookOf({ ranks: [self], cause }, isExclusive)
    const placed = [1, 2, 3].map((n) => ({ ...one.placed[0]!, instance: `${n}` }))
    return { ...one, placed, isBraked: true }
  }
  const turns = new Turns()
  const due = (now: number) => turns.due(outlook('dead'), self, now).map(({ placed }) => placed.instance)
  assert.equal(due(0), ['1'])
  assert.equal(due(9999), ['1'], 'what it began it goes on with')
  assert.equal(due(10_000), ['1', '2'])
  assert.equal(due(20_000), ['1', '2', '3'])
  assert.is(
    turns.due({ ...outlook('dead'), isBraked: false, neighbourhoods: neighbourhoodsOf(new Map(), new Map()) }, self, 1)
      .length,
    3,
  )
  assert.is(new Turns().due(outlook('left'), self, 0).length, 3)
  assert.is(new Turns().due(outlook('dead', true), self, 0).length, 3)
})

test.run()
