import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Figures } from '../../node/figures.js'
import { Authority } from '../../protocols/authority.js'
import { hex } from '../../protocols/bytes.js'
import { chuteKey } from '../../protocols/chute.js'
import { type Chute, instanceOf } from '../../protocols/desired.js'
import { neighbourhoodsOf } from '../../protocols/neighbourhood.js'
import type { Outlook } from '../../protocols/outlook.js'
import type { Candidate, Placed } from '../../protocols/placement.js'
import type { RosterState } from '../../protocols/roster.js'
import { creationOf, keyOf, memberOf, NO_MEMBERS, NOW, specOf, unsigned } from '../protocols/support.js'

const id = { publisher: keyOf(9), name: 'hello', creation: creationOf(1) }
const spec = specOf()
const deployment = unsigned(keyOf(9), 'deployment', keyOf(9), [NOW, 0], { creation: id.creation, revision: 1, spec })
const chute: Chute = { id, key: chuteKey(id), spec, revision: 1, desired: 'running', restarts: 0, deployment }
const { subject, instance } = instanceOf(chute, 0)
const claim = unsigned(keyOf(2), 'claim', subject, [NOW, 0], { epoch: 2, cause: 'dead' })
const [A, B] = [memberOf(1), memberOf(2)]

/** What is so where these APs run the one instance. */
function outlookOf(...servers: [typeof A, RosterState][]): Outlook {
  const report = { instance: subject, epoch: 1, revision: 1, state: 'running' as const, since: NOW, ports: [] }
  const candidates = servers.map(([member, state]): [string, Candidate] => {
    const beacon = {
      ...{ boot: 1, sequence: 1, version: '', addresses: [], engine: undefined, instances: [report], cannot: [] },
      ...{ images: [], packages: [], ledger: new Uint8Array(16) },
    }
    return [member.id, { member, state, beacon }]
  })
  const placed: Placed = {
    ...{ chute, copy: 0, instance, subject, claim, holder: undefined, cause: undefined },
    ...{ ranks: [], waitsFor: undefined, obstacles: new Map() },
  }
  return {
    authority: new Authority([], [], keyOf(0)),
    barred: [],
    membership: NO_MEMBERS,
    ...{ chutes: [chute], claims: { get: () => [] }, candidates: new Map(candidates), placed: [placed] },
    electorates: new Map(),
    isBraked: false,
    neighbourhoods: neighbourhoodsOf(new Map(), new Map()),
  }
}

const KEY = hex(chute.key)

test('a migration lasts from the last sign of the one AP until the other serves, and nothing was served meanwhile', () => {
  const figures = new Figures()
  const heard = () => 9000
  assert.equal(figures.look(outlookOf([A, 'alive']), 9500, heard), [])
  assert.equal(figures.look(outlookOf([A, 'dead']), 11_000, heard), [])
  assert.equal(figures.look(outlookOf([A, 'dead']), 11_500, heard), [])
  const [migration] = figures.look(outlookOf([A, 'dead'], [B, 'alive']), 12_000, heard)
  assert.equal(migration, { instance, from: A.id, to: B.id, cause: 'dead', ms: 3000 })
  assert.equal(figures.migration(), { count: 1, p50: 3000, p99: 3000 })
  assert.equal(figures.of(KEY), { missingSeconds: 2.5, duplicateSeconds: 0 })
})

test('one that comes back by itself has not migrated, and two copies count for as long as both serve', () => {
  const figures = new Figures()
  const heard = () => undefined
  figures.look(outlookOf([A, 'alive']), 0, heard)
  figures.look(outlookOf(), 1000, heard)
  assert.equal(figures.look(outlookOf([A, 'alive']), 2000, heard), [])
  figures.look(outlookOf([A, 'alive'], [B, 'suspect']), 5000, heard)
  figures.look(outlookOf([B, 'alive']), 7000, heard)
  assert.is(figures.migration().count, 0)
  assert.is(figures.of(KEY).duplicateSeconds, 3)
})

test('what is handed over while it runs has moved, though in no time that counts', () => {
  const figures = new Figures()
  const heard = () => undefined
  figures.look(outlookOf([A, 'alive']), 0, heard)
  assert.equal(figures.look(outlookOf([A, 'alive'], [B, 'alive']), 1000, heard), [])
  const moved = figures.look(outlookOf([B, 'alive']), 2000, heard)
  assert.equal(moved, [{ instance, from: A.id, to: B.id, cause: 'dead', ms: 0 }])
  assert.is(figures.migration().count, 0)
  assert.is(figures.of(KEY).missingSeconds, 0)
})

test('of many detections the middle and the worst are told', () => {
  const figures = new Figures()
  assert.equal(figures.detection(), { count: 0, p50: null, p99: null })
  for (let ms = 1; ms <= 300; ms++) figures.died(ms)
  assert.equal(figures.detection(), { count: 100, p50: 251, p99: 300 })
})

test.run()
