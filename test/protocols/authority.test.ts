import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { authorityOf, type Scope } from '../../protocols/authority.js'
import { apId, concat, hex } from '../../protocols/bytes.js'
import { withinCeilings } from '../../protocols/ceilings.js'
import type { Clock } from '../../protocols/clock.js'
import { resourcesOf } from '../../protocols/deployment.js'
import { type Chute, chutesOf, copiesOf } from '../../protocols/desired.js'
import { compareRecords, type SignedRecord } from '../../protocols/envelope.js'
import type { Body, RecordOf } from '../../protocols/kinds.js'
import { MAX_CHAIN } from '../../protocols/limits.js'
import { membershipOf } from '../../protocols/membership.js'
import { signMember } from '../../protocols/ticket.js'
import {
  creationOf,
  deployment,
  ledgerOf,
  MESH,
  memberOf,
  NOW,
  OWNER,
  record,
  serviceOf,
  signer,
  specOf,
} from './support.js'

// Moments are milliseconds after NOW. 0 is the mesh key, 1 and 2 admins, 3 and 4 publishers, 5 a stranger, where nothing else is said.
const [ANN, BEN, PIA, PAT, STRANGER] = [1, 2, 3, 4, 5]
const LATER = NOW + 100_000
const clock = (at: number): Clock => [NOW + at, 0]
const keyOf = (n: number) => signer(n).publicKey

const grant = (by: number, to: number, at: number, scope?: Scope, body: Partial<Body<'grant'>> = {}) =>
  record(signer(by), 'grant', keyOf(to), clock(at), { role: 'publisher', expires: 0, ...(scope && { scope }), ...body })
const admin = (by: number, to: number, at: number, scope?: Scope) => grant(by, to, at, scope, { role: 'admin' })
const revoke = (by: number, whom: number, at: number, ...keep: SignedRecord[]) =>
  record(signer(by), 'revocation', keyOf(whom), clock(at), { keep: concat(...keep.map(({ hash }) => hash)) })
const publish = (by: number, name: string, at: number, changes: Partial<Body<'deployment'>> = {}) =>
  deployment(signer(by), name, clock(at), changes)
const onPort = (host: number) =>
  specOf({ services: [serviceOf({ ports: [{ container: 80, host, protocol: 'tcp' as const }] })] })

const publishedBy = (records: Iterable<SignedRecord>, at = LATER) => {
  const ledger = ledgerOf(records)
  return chutesOf(ledger, authorityOf(ledger, OWNER.publicKey, at), at)
}
const namesOf = (records: Iterable<SignedRecord>, at = LATER): string[] =>
  publishedBy(records, at)
    .chutes.map(({ id, revision }) => `${id.name}:${revision}`)
    .sort()
const whyNot = (...records: SignedRecord[]): string => publishedBy(records).barred[0]?.why ?? 'it counts'

test('what counts is what was signed by the mesh key, an admin or a publisher, and nothing of a stranger', () => {
  const chain = [admin(0, ANN, 1), grant(ANN, PIA, 2)]
  const all = [0, ANN, PIA, STRANGER].map((by) => publish(by, `of-${by}`, 3))
  assert.equal(namesOf([...chain, ...all]), ['of-0:1', 'of-1:1', 'of-3:1'])
  assert.is(whyNot(publish(STRANGER, 'x', 1)), 'its publisher has no grant')
})

test('a publisher, an AP and a stranger can grant nothing, and nobody can by a ticket', () => {
  const ticket = record(signer(0), 'grant', keyOf(BEN), clock(1), { role: 'admin', uses: 1, expires: 0 })
  for (const [by, own] of [
    [PIA, grant(0, PIA, 1)],
    [PIA, grant(0, PIA, 1, {}, { role: 'ap' })],
    [STRANGER, grant(0, PIA, 1)],
    [BEN, ticket],
  ] as const) {
    assert.equal(namesOf([own, grant(by, PAT, 2), publish(PAT, 'x', 3)]), [])
  }
})

test('records that come before their grant count once it is there', () => {
  const early = publish(PIA, 'x', 1)
  assert.equal(namesOf([early]), [])
  assert.equal(namesOf([early, grant(0, PIA, 9)]), ['x:1'])
})

test('a grant is for the chutes and the rights it names', () => {
  const scope = { chutes: ['web-*', 'cam'], rights: ['port:8*'] }
  const of = (name: string, host?: number) =>
    whyNot(grant(0, PIA, 1, scope), publish(PIA, name, 2, host === undefined ? {} : { spec: onPort(host) }))
  assert.is(of('web-1'), 'it counts')
  assert.is(of('cam'), 'it counts')
  assert.is(of('web'), 'its grant is for chutes called web-*, cam')
  assert.is(of('camera'), 'its grant is for chutes called web-*, cam')
  assert.is(of('cam', 80), 'it counts')
  assert.is(of('cam', 443), 'service web needs the right port:443, which its publisher does not hold')
  assert.is(
    whyNot(grant(0, PIA, 1), publish(PIA, 'x', 2, { spec: onPort(80) })),
    'service web needs the right port:80, which its publisher does not hold',
  )
  assert.is(whyNot(grant(0, PIA, 1), publish(PIA, 'x', 2, { spec: onPort(8080) })), 'it counts')
})

test('what no right gives not even the mesh key can have run', () => {
  const spec = specOf({ services: [serviceOf({ capabilities: ['SYS_ADMIN'] })] })
  assert.is(whyNot(publish(0, 'x', 2, { spec })), 'service web asks for cap:SYS_ADMIN, which no chute may have')
  assert.is(
    whyNot(grant(0, PIA, 1, { rights: ['*'] }), publish(PIA, 'x', 2, { spec })),
    'service web asks for cap:SYS_ADMIN, which no chute may have',
  )
})

test('a revision that may not be leaves the one before it in force', () => {
  const second = publish(PIA, 'x', 3, { revision: 2, spec: onPort(80) })
  assert.equal(namesOf([grant(0, PIA, 1), publish(PIA, 'x', 2), second]), ['x:1'])
})

test('a grant has its time: what is published ends with it, whatever clock it was signed by', () => {
  const records = [grant(0, PIA, 1, {}, { from: NOW + 50, expires: NOW + 90 }), publish(PIA, 'x', 60)]
  assert.equal(
    [49, 50, 90, 91].map((at) => namesOf(records, NOW + at).length),
    [0, 1, 1, 0],
  )
  const under = [grant(0, ANN, 1, {}, { role: 'admin', expires: NOW + 90 }), grant(ANN, PIA, 2), publish(PIA, 'x', 3)]
  assert.equal(
    [90, 91].map((at) => namesOf(under, NOW + at).length),
    [1, 0],
  )
})

test('a newer grant by the same admin replaces the one before, and that of another admin stands beside it', () => {
  const [first, second] = [grant(0, PIA, 1, { chutes: ['a'] }), grant(0, PIA, 2, { chutes: ['b'] })]
  const other = [admin(0, ANN, 1), grant(ANN, PIA, 1, { chutes: ['c'] })]
  const all = ['a', 'b', 'c'].map((name) => publish(PIA, name, 3))
  assert.equal(namesOf([first, second, ...all]), ['b:1'])
  assert.equal(namesOf([first, second, ...other, ...all]), ['b:1', 'c:1'])
})

test('of a revoked key nothing counts but what is listed, whatever clock it has', () => {
  const [kept, lost] = [publish(PIA, 'kept', 10), publish(PIA, 'lost', 11)]
  const backdated = publish(PIA, 'kept', 5, { revision: 7 })
  const later = publish(PIA, 'kept', 30, { revision: 2 })
  const stop = record(signer(PIA), 'wanted', kept.subject, clock(31), {
    creation: kept.body.creation,
    desired: 'stopped',
    restarts: 0,
  })
  const records = [grant(0, PIA, 1), kept, lost, backdated, later, stop, revoke(0, PIA, 20, kept)]
  const { chutes, barred } = publishedBy(records)
  assert.equal(
    chutes.map(({ id, revision, desired }) => [id.name, revision, desired]),
    [['kept', 1, 'running']],
  )
  assert.equal(
    barred.map(({ why }) => why),
    ['the key was revoked'],
  )
  assert.equal(namesOf([...records, grant(0, PIA, 40)]), ['kept:1'], 'and a new grant gives the key nothing back')
})

test('what a revocation lists stays though the grant of its publisher has run out', () => {
  const kept = publish(PIA, 'x', 10)
  const records = [grant(0, PIA, 1, { chutes: ['x'] }, { expires: NOW + 50 }), kept]
  assert.equal(namesOf(records), [])
  assert.equal(namesOf([...records, revoke(0, PIA, 60, kept)]), ['x:1'])
})

test('only those above a key can revoke it, and each only what came through them', () => {
  const two = [admin(0, ANN, 1), admin(0, BEN, 1), grant(ANN, PIA, 2), publish(PIA, 'x', 3)]
  assert.equal(namesOf([...two, revoke(BEN, PIA, 4)]), ['x:1'])
  assert.equal(namesOf([...two, revoke(BEN, ANN, 4), revoke(PIA, ANN, 4), revoke(STRANGER, PIA, 4)]), ['x:1'])
  assert.equal(
    namesOf([...two, grant(BEN, PIA, 4), revoke(BEN, PIA, 5)]),
    ['x:1'],
    'a grant is no way to take a key over',
  )
  assert.equal(namesOf([...two, grant(BEN, PIA, 4), revoke(ANN, PIA, 5)]), ['x:1'])
  assert.equal(namesOf([...two, revoke(ANN, PIA, 4)]), [])
  assert.equal(namesOf([...two, revoke(0, PIA, 4)]), [])
  assert.equal(namesOf([...two, revoke(0, ANN, 4)]), [], 'with an admin goes what it granted')
  assert.equal(namesOf([...two, revoke(0, ANN, 4, two[2]!)]), ['x:1'], 'but for what is listed')
})

test('admins who revoke each other lose what they have of each other, and nothing else', () => {
  const pair = [admin(0, ANN, 1), admin(0, BEN, 1), admin(ANN, BEN, 2), admin(BEN, ANN, 2)]
  const all = [...pair, revoke(ANN, BEN, 3), revoke(BEN, ANN, 3), publish(ANN, 'a', 4), publish(BEN, 'b', 4)]
  assert.equal(namesOf(all), ['a:1', 'b:1'])
  assert.equal(namesOf([...all, revoke(0, BEN, 5)]), ['a:1'])
})

test('a revocation of an admin that was revoked itself counts if it is listed', () => {
  const base = [admin(0, ANN, 1), grant(ANN, PIA, 2), publish(PIA, 'x', 3)]
  const revocation = revoke(ANN, PIA, 4)
  assert.equal(namesOf([...base, revocation, revoke(0, ANN, 5, base[1]!)]), ['x:1'])
  assert.equal(namesOf([...base, revocation, revoke(0, ANN, 5, base[1]!, revocation)]), [])
})

test('a chain has an end, and many admins that grant each other everything make no more of them than can be counted', () => {
  const long = Array.from({ length: MAX_CHAIN + 1 }, (_, i) => admin(i, i + 1, i + 1))
  const names = long.map((_, i) => publish(i + 1, `of-${i + 1}`, 50))
  assert.is(namesOf([...long, ...names]).length, MAX_CHAIN)
  const crowd = Array.from({ length: 14 }, (_, i) => i + 20)
  const all = crowd.flatMap((by) => crowd.filter((to) => to !== by).map((to) => admin(by, to, 2)))
  const began = performance.now()
  const authority = authorityOf(ledgerOf([admin(0, 20, 1), grant(0, PIA, 1), ...all]), OWNER.publicKey, LATER)
  assert.ok(authority.all().length < 200)
  assert.is(authority.of(keyOf(PIA)).length, 1)
  assert.ok(performance.now() - began < 5000)
})

test('what an admin did as one outlives its grant, and not its revocation: its tickets and forgets', () => {
  const AP = 9
  const mine = grant(0, ANN, 1, {}, { role: 'admin', expires: NOW + 50 })
  const ticket = record(signer(ANN), 'grant', keyOf(20), clock(2), { role: 'ap', uses: 1, expires: 0 })
  const member = signMember(signer(AP), signer(20), MESH, clock(3), { name: 'ap', labels: {} })
  const isIn = (...more: SignedRecord[]) =>
    membershipOf(ledgerOf([mine, ticket, member, ...more]), OWNER.publicKey, LATER).members.has(apId(keyOf(AP)))
  assert.ok(isIn())
  assert.not(isIn(revoke(0, ANN, 60)))
  assert.ok(isIn(revoke(0, ANN, 60, ticket)))
  const forget = (by: number, at: number) => record(signer(by), 'forget', keyOf(AP), clock(at), {})
  assert.not(isIn(forget(ANN, 40)))
  assert.ok(isIn(forget(ANN, 60)), 'its grant had run out')
  assert.ok(isIn(forget(PIA, 40), grant(0, PIA, 1)), 'a publisher forgets nobody')
  const late = record(signer(ANN), 'grant', keyOf(20), clock(70), { role: 'ap', uses: 1, expires: 0 })
  assert.ok(isIn(late, revoke(0, ANN, 60, ticket)), 'a later ticket of a revoked key does not hide the listed one')
})

test('an AP whose key was revoked is no member, and lets nobody in, whatever it backdates', () => {
  const [AP, NEXT] = [9, 10]
  const forAdmin = record(signer(0), 'grant', keyOf(20), clock(1), { role: 'admin', uses: 1, expires: 0 })
  const member = signMember(signer(AP), signer(20), MESH, clock(2), { name: 'ap', labels: {} })
  const ticket = record(signer(AP), 'grant', keyOf(21), clock(3), { role: 'ap', uses: 1, expires: 0 })
  const next = signMember(signer(NEXT), signer(21), MESH, clock(4), { name: 'next', labels: {} })
  const membersWith = (...more: SignedRecord[]) =>
    membershipOf(ledgerOf([forAdmin, member, ticket, next, ...more]), OWNER.publicKey, LATER).members.size
  assert.is(membersWith(), 2)
  assert.is(membersWith(revoke(0, AP, 50)), 0)
  assert.is(membersWith(revoke(0, AP, 50, member)), 1)
  assert.is(membersWith(revoke(STRANGER, AP, 50)), 2)
  assert.is(membersWith(admin(0, ANN, 1), revoke(ANN, AP, 50)), 0)
})

// --- over all of a publisher's chutes together ----------------------------------------------------------------------

const MEMBERS = new Map(
  [1, 2, 3].map((n) => memberOf(n, { labels: { site: n === 3 ? 'barn' : 'home' } })).map((m) => [m.id, m]),
)
const limited = (records: Iterable<SignedRecord>): readonly Chute[] => {
  const ledger = ledgerOf(records)
  const { chutes } = chutesOf(ledger, authorityOf(ledger, OWNER.publicKey, LATER), LATER)
  return withinCeilings(ledger, chutes, MEMBERS)
}
const copiesBy = (records: Iterable<SignedRecord>): Record<string, number> =>
  Object.fromEntries(limited(records).map((chute) => [chute.id.name, copiesOf(chute, MEMBERS).length]))
const replicas = (n: number | 'everywhere', ms = 1000) => ({ creation: creationOf(ms), spec: specOf({ replicas: n }) })

test('ceilings hold over all chutes of a publisher together, the older ones first', () => {
  const three = [publish(PIA, 'old', 5, replicas(2, 1000)), publish(PIA, 'new', 4, replicas(3, 2000))]
  assert.equal(copiesBy([grant(0, PIA, 1), ...three]), { old: 2, new: 3 })
  assert.equal(copiesBy([grant(0, PIA, 1, { instances: 3 }), ...three]), { old: 2, new: 1 })
  assert.equal(copiesBy([grant(0, PIA, 1, { cpu: 250 }), ...three]), { old: 2, new: 0 })
  assert.equal(copiesBy([grant(0, PIA, 1, { memory: 4 * 64 * 1024 ** 2 }), ...three]), { old: 2, new: 2 })
  const sized = serviceOf({ images: [{ ...serviceOf().images[0]!, size: 10 }] })
  const tens = { ...replicas(2, 1000), spec: specOf({ replicas: 2, services: [sized, { ...sized, name: 'twin' }] }) }
  const sizes = [publish(PIA, 'old', 5, tens), publish(PIA, 'new', 4, replicas(1, 2000))]
  assert.equal(copiesBy([grant(0, PIA, 1, { disk: 19 }), ...sizes]), { old: 1, new: 0 })
  assert.equal(copiesBy([grant(0, PIA, 1, { disk: 20 + 4 * 1024 ** 3 }), ...sizes]), { old: 2, new: 1 })
  const [why] = limited([grant(0, PIA, 1, { cpu: 250 }), ...three]).flatMap(({ limit }) => limit?.why ?? [])
  assert.is(why, 'needs 0.1 CPUs, 0.05 of the 0.25 granted are left')
})

test('what an admin may take is for all below it together, who was granted first first', () => {
  const chain = [admin(0, ANN, 1, { instances: 3 }), grant(ANN, PIA, 3), grant(ANN, PAT, 2, { instances: 9 })]
  const all = [publish(PIA, 'pia', 5, replicas(2, 1)), publish(PAT, 'pat', 5, replicas(2, 2))]
  assert.equal(copiesBy([...chain, ...all]), { pat: 2, pia: 1 })
})

test('a chute takes of the first grant that has room for all of it', () => {
  const chain = [admin(0, ANN, 1), grant(0, PIA, 2, { instances: 1 }), grant(ANN, PIA, 3, { instances: 5 })]
  assert.equal(copiesBy([...chain, publish(PIA, 'x', 5, replicas(4))]), { x: 4 })
})

test('a grant for some APs keeps its chutes on those, and a copy on every AP counts where it can be', () => {
  const everywhere = publish(PIA, 'x', 5, replicas('everywhere'))
  const [chute] = limited([grant(0, PIA, 1, { labels: { site: 'home' }, instances: 2 }), everywhere])
  assert.equal(chute!.spec.constraints, [{ label: 'site', value: 'home' }])
  assert.is(chute!.limit, undefined)
  assert.is(
    limited([grant(0, PIA, 1, { labels: { site: 'home' }, instances: 1 }), everywhere])[0]!.limit?.copies.length,
    1,
  )
})

test('a stopped chute takes nothing', () => {
  const old = publish(PIA, 'old', 5, replicas(2, 1))
  const body = { creation: old.body.creation, desired: 'stopped', restarts: 0 } as const
  const stop = record(signer(PIA), 'wanted', old.subject, clock(6), body)
  const all = [grant(0, PIA, 1, { instances: 2 }), old, publish(PIA, 'new', 6, replicas(2, 2))]
  assert.equal(copiesBy([...all, stop]), { old: 0, new: 2 })
})

// --- whatever people sign -------------------------------------------------------------------------------------------

const people = fc.constantFrom(0, ANN, BEN, PIA, PAT, STRANGER)
const scopes = fc.record(
  {
    chutes: fc.constantFrom<string[]>(['a*'], ['a'], ['b', 'a*']),
    rights: fc.constantFrom<string[]>(['*'], ['port:80'], ['port:*']),
    instances: fc.nat(5),
    cpu: fc.nat(500),
  },
  { requiredKeys: [] },
)
const acts = fc.oneof(
  { weight: 4, arbitrary: fc.tuple(fc.constant('grant' as const), people, people, fc.nat(50), scopes, fc.boolean()) },
  {
    weight: 3,
    arbitrary: fc.tuple(
      fc.constant('publish' as const),
      people,
      fc.constantFrom('a', 'ab', 'b'),
      fc.nat(50),
      fc.nat(4),
      fc.boolean(),
    ),
  },
)
const POOL = fc.array(acts, { minLength: 6, maxLength: 24 }).map((all) =>
  all.flatMap((act): SignedRecord[] => {
    if (act[0] === 'publish') {
      const [, by, name, at, n, isLow] = act
      const spec = { ...(isLow ? onPort(80) : specOf()), replicas: n }
      return [publish(by, name, 100 + at, { spec, creation: creationOf(n), revision: 1 + at })]
    }
    const [, by, to, at, scope, isAdmin] = act
    return by === to ? [] : [grant(by, to, at, scope, { role: isAdmin ? 'admin' : 'publisher' })]
  }),
)
/** With revocations that list some of what there is. */
const SIGNED = POOL.chain((pool) =>
  fc
    .array(fc.tuple(people, people, fc.subarray(pool, { maxLength: Math.min(4, pool.length) })), { maxLength: 4 })
    .map((all) => [
      ...pool,
      ...all.flatMap(([by, whom, keep]) => (by === whom ? [] : [revoke(by, whom, 200, ...keep)])),
    ]),
)

const outcomeOf = (records: readonly SignedRecord[]) => ({
  chutes: limited(records).map(({ deployment: { hash }, limit, spec }) => [
    hex(hash),
    limit?.copies ?? 'all',
    spec.constraints,
  ]),
  barred: publishedBy(records)
    .barred.map(({ chute, why }) => `${hex(chute.deployment.hash)} ${why}`)
    .sort(),
})

test('what counts follows from the set of records, in whatever order they come', () => {
  fc.assert(
    fc.property(
      SIGNED.chain((pool) => fc.tuple(fc.constant(pool), fc.shuffledSubarray(pool, { minLength: pool.length }))),
      ([pool, shuffled]) => assert.equal(outcomeOf(shuffled), outcomeOf(pool)),
    ),
    { numRuns: 150 },
  )
})

test('no link widens the one above: whatever a key may have, each above it might have had, and together they keep its ceilings', () => {
  fc.assert(
    fc.property(SIGNED, (pool) => {
      const ledger = ledgerOf(pool)
      const authority = authorityOf(ledger, OWNER.publicKey, LATER)
      const used = new Map<string, number>()
      for (const chute of limited(pool)) {
        const grants = new Set<RecordOf<'grant'>>()
        for (const { chain, key } of chute.standings!) {
          assert.equal(key, chute.id.publisher)
          for (const [i, link] of chain.entries()) {
            assert.equal(link.signer, i === 0 ? OWNER.publicKey : chain[i - 1]!.subject)
            const { chutes = ['*'], rights = [] } = link.body.scope ?? {}
            assert.ok(
              chutes.some((p) => p === chute.id.name || (p.endsWith('*') && chute.id.name.startsWith(p.slice(0, -1)))),
            )
            if (chute.spec.services[0]!.ports.length > 0)
              assert.ok(rights.some((p) => p === '*' || p.startsWith('port:')))
          }
        }
        // Only where there is one way is it told from outside of which grants it takes.
        if (chute.standings!.length === 1) for (const link of chute.standings![0]!.chain) grants.add(link)
        for (const { hash } of grants) {
          const id = hex(hash)
          used.set(id, (used.get(id) ?? 0) + copiesOf(chute, MEMBERS).length)
        }
      }
      for (const { chain } of authority.all()) {
        for (const { hash, body } of chain) {
          const n = used.get(hex(hash)) ?? 0
          assert.ok(n <= (body.scope?.instances ?? Number.POSITIVE_INFINITY))
          assert.ok(n * resourcesOf(specOf()).cpu <= (body.scope?.cpu ?? Number.POSITIVE_INFINITY))
        }
      }
    }),
    { numRuns: 150 },
  )
})

test('what the mesh key revoked counts never again but for what is listed, and that still does', () => {
  fc.assert(
    fc.property(POOL, fc.constantFrom(ANN, BEN, PIA), fc.nat(), (pool, whom, choice) => {
      const ofKey = (records: Iterable<SignedRecord>) =>
        publishedBy(records)
          .chutes.map((chute) => chute.deployment)
          .filter(({ signer: by }) => hex(by) === hex(keyOf(whom)))
      const before = ofKey(pool)
      const kept = before.filter((_, i) => ((choice >> i) & 1) === 1)
      const thief = ['a', 'ab', 'b'].flatMap((name, i) => [
        publish(whom, name, 1 + i, { revision: 99, creation: creationOf(9) }),
        publish(whom, name, 300, { revision: 99, creation: creationOf(4) }),
        grant(whom, STRANGER, 10, {}, { role: 'publisher' }),
      ])
      const records = [...pool, ...thief, revoke(0, whom, 200, ...kept)]
      assert.equal(ofKey(records).sort(compareRecords), [...kept].sort(compareRecords))
      const authority = authorityOf(ledgerOf(records), OWNER.publicKey, LATER)
      assert.not(authority.isAdmin(keyOf(whom), LATER))
      for (const { above } of authority.of(keyOf(STRANGER))) assert.not.equal(above?.key, keyOf(whom))
    }),
    { numRuns: 150 },
  )
})

test.run()
