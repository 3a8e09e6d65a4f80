// What follows from ledger and roster in a mesh that is divided: who is known by what, and whose turn an instance is.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { mustShowLife } from '../../protocols/alive.js'
import { hex } from '../../protocols/bytes.js'
import { chuteKey, instanceSubject } from '../../protocols/chute.js'
import type { ChuteSpec } from '../../protocols/deployment.js'
import { type Chute, claimsOf } from '../../protocols/desired.js'
import type { SignedRecord } from '../../protocols/envelope.js'
import type { Body, RecordOf } from '../../protocols/kinds.js'
import type { Member, Membership } from '../../protocols/membership.js'
import { Neighbourhoods } from '../../protocols/neighbourhood.js'
import { type Candidate, type Homes, place } from '../../protocols/placement.js'
import { Roster, TIMING } from '../../protocols/roster.js'
import { creationOf, keyOf, ledgerOf, memberOf, NOW, serviceOf, specOf, unsigned } from './support.js'

const N = 24
const upTo = (n: number) => Array.from({ length: n }, (_, i) => i)
const MEMBERS = new Map<string, Member>(
  upTo(N).map((n) => [memberOf(n).id, memberOf(n, { labels: { zone: `z${n % 2}` } })]),
)
const HOODS = new Neighbourhoods(MEMBERS, new Map(), { split: 8, join: 3, least: 2 })
const HOME = HOODS.all[0]!
const SELF = HOME.members[0]!.id
const keyIn = (id: string) => MEMBERS.get(id)!.key
/** Neither a neighbour of this AP nor watched by it. */
const FAR = [...MEMBERS.keys()].find((id) => HOODS.of(id) !== HOME && !HOODS.watchedBy(SELF).includes(id))!

const WATCHERS = new Uint8Array(16)
const statement = (by: string, on: string, sequence = 5): RecordOf<'statement'> =>
  unsigned(keyIn(by), 'statement', keyIn(on), [NOW, 0], {
    ...{ boot: 1, sequence, silence: 2000, probes: 1, heard: true },
    watchers: WATCHERS,
  })
const goodbye = (ap: string, boot: number) => unsigned(keyIn(ap), 'goodbye', keyIn(ap), [NOW, 0], { boot })
const aliveOf = (ap: string, boot: number, sequence: number) =>
  unsigned(keyIn(ap), 'alive', keyIn(ap), [NOW, 0], { boot, sequence, addresses: [] })

function stateOf(
  ap: string,
  statements: RecordOf<'statement'>[],
  goodbyes: RecordOf<'goodbye'>[] = [],
  alives: RecordOf<'alive'>[] = [],
  after = 0,
  broken: readonly string[] = [],
): string {
  const roster = new Roster(SELF, 0)
  roster.setMembers(MEMBERS, 0, HOODS)
  roster.setRecords(statements, goodbyes, alives)
  for (const id of broken) roster.lost(id, 0)
  roster.state(ap, 0)
  return roster.state(ap, after)
}

test('in these tests a mesh of 24 has several neighbourhoods', () => {
  assert.ok(HOODS.all.length >= 3)
  assert.ok(FAR)
})

test('a far AP is alive without a beacon, dead by a certificate, and no longer once it signed that it lives', () => {
  const watchers = HOODS.watchersOf(FAR)
  const certificate = watchers.slice(0, 3).map((id) => statement(id, FAR))
  assert.is(stateOf(FAR, []), 'alive')
  assert.is(stateOf(FAR, certificate.slice(1)), 'alive')
  assert.is(stateOf(FAR, certificate), 'dead')
  assert.is(stateOf(FAR, certificate, [], [aliveOf(FAR, 1, 5)]), 'dead')
  assert.is(stateOf(FAR, certificate, [], [aliveOf(FAR, 1, 6)]), 'alive')
})

test('a far AP has left by its goodbye until it signs that it lives in a later boot', () => {
  assert.is(stateOf(FAR, [], [goodbye(FAR, 2)]), 'left')
  assert.is(stateOf(FAR, [], [goodbye(FAR, 2)], [aliveOf(FAR, 2, 9)]), 'left')
  assert.is(stateOf(FAR, [], [goodbye(FAR, 2)], [aliveOf(FAR, 3, 1)]), 'alive')
})

test('a whole neighbourhood that is lost is dead after 30 s by those outside, and not while a watcher may live', () => {
  const lost = HOODS.of(FAR)!.members.map(({ id }) => id)
  const statements = lost.flatMap((ap) =>
    HOODS.watchersOf(ap)
      .filter((by) => !lost.includes(by))
      .map((by) => statement(by, ap)),
  )
  const far = lost.filter((id) => !HOODS.watchedBy(SELF).includes(id))
  for (const ap of far) {
    assert.is(stateOf(ap, statements, [], [], TIMING.unwitnessed - 1, lost), 'alive')
    assert.is(stateOf(ap, statements, [], [], TIMING.unwitnessed, lost), 'dead')
  }
  const survivor = HOODS.watchersOf(FAR).find((id) => far.includes(id))!
  const alives = [aliveOf(survivor, 1, 6)]
  assert.is(stateOf(FAR, statements, [], alives, TIMING.unwitnessed, lost), 'alive')
})

test('an AP tracks its neighbours and those it watches, and nobody else', () => {
  const roster = new Roster(SELF, 0)
  roster.setMembers(MEMBERS, 0, HOODS)
  const told = new Set<string>()
  for (let now = 0; now < 2 * TIMING.unwitnessed; now += 100)
    for (const effect of roster.tick(now)) if (effect.do === 'probe') told.add(effect.ap)
  const near = [...HOME.members.map(({ id }) => id), ...HOODS.watchedBy(SELF)].filter((id) => id !== SELF)
  assert.equal([...told].sort(), [...new Set(near)].filter((id) => told.has(id)).sort())
  for (const ap of HOODS.watchedBy(SELF)) assert.ok(told.has(ap), 'it probes those it watches')
})

test('an AP signs that it lives where it is found elsewhere, accused, or back; and then not again', () => {
  const membership: Membership = {
    members: MEMBERS,
    forgotten: new Map(),
    tickets: new Map(),
    isAdmin: () => false,
    wasByAdmin: () => false,
  }
  const must = (boot: number, addresses: string[], ...records: SignedRecord[]) =>
    mustShowLife(ledgerOf(records), membership, keyIn(FAR), boot, addresses, NOW)
  const [by] = HOODS.watchersOf(FAR)
  assert.ok(must(1, []))
  assert.not(must(1, [], aliveOf(FAR, 1, 1)))
  assert.ok(must(1, ['/ip4/1.2.3.4/tcp/1'], aliveOf(FAR, 1, 1)))
  assert.ok(must(1, [], aliveOf(FAR, 1, 5), statement(by!, FAR, 5)))
  assert.not(must(1, [], aliveOf(FAR, 1, 6), statement(by!, FAR, 5)))
  assert.ok(must(3, [], aliveOf(FAR, 2, 6), goodbye(FAR, 2)))
  assert.not(must(3, [], aliveOf(FAR, 3, 1), goodbye(FAR, 2)))
  const stranger = unsigned(keyOf(999), 'statement', keyIn(FAR), [NOW, 0], statement(by!, FAR).body)
  assert.not(must(1, [], aliveOf(FAR, 1, 1), stranger))
})

function chuteOf(n: number, changes: Partial<ChuteSpec> = {}): Chute {
  const limits = { cpu: 10, memory: 1024, pids: 64 }
  const spec = specOf({ services: [serviceOf({ limits })], ...changes })
  const id = { publisher: keyOf(1000), name: `chute${n}`, creation: creationOf(1000) }
  const deployment = unsigned(id.publisher, 'deployment', id.publisher, [NOW, 0], {
    creation: id.creation,
    revision: 1,
    spec,
  })
  return { id, key: chuteKey(id), spec, revision: 1, desired: 'running', restarts: 0, deployment }
}

const engine = { version: '27', platform: 'linux/amd64', cpu: 8000, memory: 8 * 1024 ** 3, local: true }
const beacon = {
  ...{ boot: 1, sequence: 1, version: '', addresses: [], engine },
  ...{ instances: [], cannot: [], images: [], packages: [] },
}
const BEACON: Body<'beacon'> = { ...beacon, ledger: new Uint8Array(16) }

/** What an AP makes of a chute `later` ms after it was published. */
function seenBy(self: string, chute: Chute, later: number, gone: string[] = [], claims: RecordOf<'claim'>[] = []) {
  const own = HOODS.of(self)!
  const candidates = new Map<string, Candidate>()
  for (const [id, member] of MEMBERS) {
    const isGone = gone.includes(id)
    const isNear = HOODS.of(id) === own
    candidates.set(id, { member, isGone, state: isGone ? 'dead' : 'alive', beacon: isNear ? BEACON : undefined })
  }
  const homes: Homes = { neighbourhoods: HOODS, own, since: () => NOW }
  return place([chute], claimsOf(ledgerOf(claims), NOW), candidates, NOW + later, homes)[0]!
}

const all = [...MEMBERS.keys()]

test('of an instance that nobody holds one neighbourhood has the first turn, all its members rank alike, and the rest say whose turn it is', () => {
  for (const n of upTo(20)) {
    const chute = chuteOf(n)
    const views = all.map((id) => ({ id, view: seenBy(id, chute, 0) }))
    const open = views.filter(({ view }) => view.ranks.length > 0)
    const homes = new Set(open.map(({ id }) => HOODS.of(id)))
    assert.is(homes.size, 1)
    const [home] = homes
    assert.is(open.length, home!.members.length)
    for (const { view } of open) assert.equal(view.ranks, open[0]!.view.ranks)
    assert.equal([...open[0]!.view.ranks].sort(), home!.members.map(({ id }) => id).sort())
    for (const { id, view } of views) assert.is(view.elsewhere, HOODS.of(id) === home ? undefined : home!.prefix)
  }
})

test('turns go to one more neighbourhood each 15 s, and an AP knows when its own comes', () => {
  const chute = chuteOf(1)
  const openAt = (later: number) =>
    new Set(all.filter((id) => seenBy(id, chute, later).ranks.length > 0).map((id) => HOODS.of(id)!.prefix))
  const sizes = upTo(HOODS.all.length + 2).map((turn) => openAt(turn * 15_000).size)
  assert.equal(
    sizes,
    sizes.map((_, turn) => Math.min(turn + 1, HOODS.all.length)),
  )
  for (const id of all) {
    const { opensAt } = seenBy(id, chute, 0)
    if (opensAt === undefined) continue
    assert.is(seenBy(id, chute, opensAt - NOW - 1).ranks.length, 0)
    assert.ok(seenBy(id, chute, opensAt - NOW).ranks.length > 0)
  }
})

test('a neighbourhood of which nobody may take an instance by the ledger has no turn', () => {
  const chute = chuteOf(1)
  const first = all.find((id) => seenBy(id, chute, 0).ranks.length > 0)!
  const gone = HOODS.of(first)!.members.map(({ id }) => id)
  const next = all.filter((id) => !gone.includes(id)).filter((id) => seenBy(id, chute, 0, gone).ranks.length > 0)
  assert.is(new Set(next.map((id) => HOODS.of(id))).size, 1)
  const z0 = chuteOf(1, { constraints: [{ label: 'zone', value: 'none' }] })
  for (const id of all) assert.is(seenBy(id, z0, 3_600_000).ranks.length, 0)
})

test('a neighbourhood of which nobody was given the secrets of a chute has no turn', () => {
  const chosen = HOODS.of(FAR)!.members.slice(0, 2)
  const givenTo = new Set(chosen.map(({ id }) => hex(keyIn(id))))
  const chute: Chute = { ...chuteOf(1), secrets: [{ name: 'token', record: undefined, givenTo }] }
  for (const id of all) {
    const { ranks } = seenBy(id, chute, 0)
    if (HOODS.of(id) !== HOODS.of(FAR)) assert.equal(ranks, [])
    else assert.equal([...ranks].sort(), chosen.map((one) => one.id).sort())
  }
})

test('a far holder holds as long as the ledger does not say otherwise', () => {
  const chute = chuteOf(1)
  const claim = unsigned(keyIn(FAR), 'claim', instanceSubject(chute.key, 0), [NOW, 0], { epoch: 1, cause: 'new' })
  assert.is(seenBy(SELF, chute, 0, [], [claim]).holder, FAR)
  const dead = seenBy(SELF, chute, 0, [FAR], [claim])
  assert.equal([dead.holder, dead.cause], [undefined, 'dead'])
})

test('more members that may take it make a neighbourhood come first more often', () => {
  const wins = new Map(HOODS.all.map(({ prefix }) => [prefix, 0]))
  const rounds = 600
  for (const n of upTo(rounds)) {
    const { elsewhere } = seenBy(SELF, chuteOf(n), 0)
    const prefix = elsewhere ?? HOME.prefix
    wins.set(prefix, wins.get(prefix)! + 1)
  }
  for (const { prefix, members } of HOODS.all) {
    const [share, expected] = [wins.get(prefix)! / rounds, members.length / N]
    assert.ok(Math.abs(share - expected) < 0.07, `${prefix}: ${share} instead of ${expected}`)
  }
})

test.run()
