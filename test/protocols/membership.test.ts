import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { apId, compareBytes, concat } from '../../protocols/bytes.js'
import type { Clock } from '../../protocols/clock.js'
import type { SignedRecord } from '../../protocols/envelope.js'
import type { Signer } from '../../protocols/keys.js'
import { type Body, checkKind } from '../../protocols/kinds.js'
import { MAX_CLOCK_AHEAD } from '../../protocols/limits.js'
import { type Membership, membershipOf, meshIdOf, meshText, openTicket } from '../../protocols/membership.js'
import { signMember } from '../../protocols/ticket.js'
import { ledgerOf, MESH, NOW, OWNER, record, seedOf, signer } from './support.js'

// APs are signers 1 to 9, tickets from 20 on. Moments are milliseconds after NOW.
const [FOUNDER, A, B, C] = [1, 2, 3, 4]
const clock = (at: number): Clock => [NOW + at, 0]
const idOf = (ap: number): string => apId(signer(ap).publicKey)

const admit = (ap: number, ticket: number, at: number, about: Partial<Body<'member'>> = {}): SignedRecord => {
  const admitted = signMember(signer(ap), signer(ticket), MESH, clock(at), { name: `ap${ap}`, labels: {}, ...about })
  checkKind(admitted)
  return admitted
}
const grant = (by: number, ticket: number, at: number, body: Partial<Body<'grant'>> = {}) =>
  record(signer(by), 'grant', signer(ticket).publicKey, clock(at), { role: 'ap', uses: 1, expires: 0, ...body })
const forget = (by: number, ap: number, at: number) => record(signer(by), 'forget', signer(ap).publicKey, clock(at), {})
const drain = (by: number, ap: number, at: number, draining = true) =>
  record(signer(by), 'drain', signer(ap).publicKey, clock(at), { draining })

/** The member record of an AP once more, with the admission it had. */
function renew(ap: number, first: SignedRecord, at: number, about: Partial<Body<'member'>> = {}): SignedRecord {
  const body = first.body as Body<'member'>
  return record(signer(ap), 'member', first.subject, clock(at), { ...body, ...about })
}

/** The founder is admitted by the mesh key (signer 0) itself. */
const FOUNDED = [admit(FOUNDER, 0, 1)]

/** The same in whatever order the records came. */
function membershipAt(now: number, ...records: SignedRecord[]): Membership {
  const of = (list: SignedRecord[]) => membershipOf(ledgerOf(list), OWNER.publicKey, NOW + now)
  const membership = of(records)
  for (const order of [[...records].reverse(), [...records.slice(1), ...records.slice(0, 1)]]) {
    const other = of(order)
    assert.equal(other.members, membership.members)
    assert.equal(other.forgotten, membership.forgotten)
    for (const { signer: key } of records) assert.is(other.isAdmin(key), membership.isAdmin(key))
  }
  return membership
}

function isIn(ap: number, ...records: SignedRecord[]): boolean {
  return membershipAt(10_000, ...records).members.has(idOf(ap))
}

test('the mesh id follows from the mesh key, and its text is a DNS label of 32 characters', () => {
  assert.equal(meshIdOf(OWNER.publicKey), MESH)
  assert.is(MESH.length, 20)
  assert.match(meshText(MESH), /^[a-z2-7]{32}$/)
  assert.not.equal(meshIdOf(signer(1).publicKey), MESH)
})

test('the AP that the mesh key admits is the founder, an admin, and the only one that it admits', () => {
  const { members, isAdmin } = membershipAt(100, ...FOUNDED, admit(A, 0, 2))
  assert.equal([...members.keys()], [idOf(FOUNDER)])
  assert.is(members.get(idOf(FOUNDER))!.role, 'admin')
  assert.ok(isAdmin(signer(FOUNDER).publicKey))
  assert.ok(isAdmin(OWNER.publicKey))
  assert.not(isAdmin(signer(A).publicKey))
})

test('an empty ledger has no members, and the mesh key as its admin', () => {
  const { members, forgotten, isAdmin } = membershipAt(0)
  assert.is(members.size + forgotten.size, 0)
  assert.ok(isAdmin(OWNER.publicKey))
})

test('a ticket lets an AP in, with its name, labels, role and the moment of its admission', () => {
  const labels = { room: 'lab' }
  const { members, isAdmin } = membershipAt(
    100,
    ...FOUNDED,
    grant(FOUNDER, 20, 5),
    admit(A, 20, 6, { name: 'a', labels }),
  )
  assert.equal(members.get(idOf(A)), {
    id: idOf(A),
    key: signer(A).publicKey,
    name: 'a',
    labels,
    role: 'ap',
    since: clock(6),
    ticket: signer(20).publicKey,
    draining: false,
  })
  assert.not(isAdmin(signer(A).publicKey))
})

test('a ticket that nobody granted lets nobody in', () => {
  assert.not(isIn(A, ...FOUNDED, admit(A, 20, 6)))
  assert.not(isIn(A, ...FOUNDED, grant(FOUNDER, 21, 5), admit(A, 20, 6)))
})

test('a ticket is no good before it was granted', () => {
  assert.not(isIn(A, ...FOUNDED, grant(FOUNDER, 20, 5), admit(A, 20, 4)))
})

test('a ticket admits one AP: of two the one with the earlier admission, whatever came first', () => {
  const records = [...FOUNDED, grant(FOUNDER, 20, 5), admit(A, 20, 7), admit(B, 20, 6)]
  for (const order of [records, [...records].reverse()]) {
    assert.ok(isIn(B, ...order))
    assert.not(isIn(A, ...order))
  }
})

test('a ticket of three uses admits the three earliest', () => {
  const joins = [9, 6, 8, 7].map((at, i) => admit(A + i, 20, at))
  const { members } = membershipAt(100, ...FOUNDED, grant(FOUNDER, 20, 5, { uses: 3 }), ...joins)
  assert.equal([...members.keys()].sort(), [idOf(FOUNDER), idOf(A + 1), idOf(A + 2), idOf(A + 3)].sort())
})

test('of admissions at one moment those of the lowest AP keys count, whatever else the records say', () => {
  const aps = [A, B, C].sort((a, b) => compareBytes(signer(a).publicKey, signer(b).publicKey))
  fc.assert(
    fc.property(
      fc.array(fc.string({ unit: 'grapheme-ascii', maxLength: 9 }), { minLength: 3, maxLength: 3 }),
      (texts) => {
        const joins = aps.map((ap, i) => admit(ap, 20, 6, { labels: { text: texts[i]! } }))
        const { members, forgotten } = membershipAt(100, ...FOUNDED, grant(FOUNDER, 20, 5, { uses: 2 }), ...joins)
        assert.equal([...members.keys()].sort(), [FOUNDER, aps[0]!, aps[1]!].map(idOf).sort())
        assert.equal([...forgotten.keys()], [idOf(aps[2]!)])
      },
    ),
    { numRuns: 10 },
  )
})

test('two sides of a partition that let in more than a ticket may keep the same ones when they meet, in whatever order', () => {
  const moment = fc.tuple(fc.nat(9), fc.boolean())
  const ticket = fc.record({ uses: fc.integer({ min: 1, max: 3 }), moments: fc.array(moment, { maxLength: 7 }) })
  const order = fc.infiniteStream(fc.nat())
  fc.assert(
    fc.property(ticket, order, ({ uses, moments }, lots) => {
      const terms = grant(FOUNDER, 20, 5, { uses })
      const aps = moments.map(([at, isLeft], i) => ({
        ap: 30 + i,
        at: 6 + at,
        isLeft,
        record: admit(30 + i, 20, 6 + at),
      }))
      const sideOf = (left: boolean) => aps.filter(({ isLeft }) => isLeft === left).map(({ record }) => record)
      for (const left of [true, false])
        assert.ok(membershipAt(100, ...FOUNDED, terms, ...sideOf(left)).members.size <= 1 + uses)
      const all = [...FOUNDED, terms, ...sideOf(true), ...sideOf(false)]
      const shuffled = all.map((one) => ({ one, lot: lots.next().value as number })).sort((a, b) => a.lot - b.lot)
      const { members } = membershipOf(ledgerOf(shuffled.map(({ one }) => one)), OWNER.publicKey, NOW + 100)
      const first = [...aps].sort((a, b) => a.at - b.at || compareBytes(signer(a.ap).publicKey, signer(b.ap).publicKey))
      assert.equal([...members.keys()].sort(), [FOUNDER, ...first.slice(0, uses).map(({ ap }) => ap)].map(idOf).sort())
    }),
    { numRuns: 60 },
  )
})

test('the labels of a ticket are those of its APs, whatever they say themselves, then and later', () => {
  const ticket = grant(FOUNDER, 20, 5, { labels: { site: 'school', floor: '1' } })
  const first = admit(A, 20, 6, { labels: { site: 'bank', room: 'lab' } })
  const records = [...FOUNDED, ticket, first]
  const labelsOf = (...more: SignedRecord[]) => membershipAt(100, ...records, ...more).members.get(idOf(A))!.labels
  assert.equal(labelsOf(), { site: 'school', floor: '1', room: 'lab' })
  assert.equal(labelsOf(renew(A, first, 9, { labels: { site: 'vault', room: 'x' } })), {
    ...{ site: 'school', floor: '1', room: 'x' },
  })
})

test('a ticket that was revoked keeps in those that are listed, and nobody else, however far back they came in', () => {
  const came = [...FOUNDED, grant(FOUNDER, 20, 5, { uses: 5 }), admit(A, 20, 8), admit(B, 20, 9)]
  const revoke = (by: Signer, ...kept: number[]) =>
    record(by, 'revocation', signer(20).publicKey, clock(20), {
      keep: concat(...kept.map((ap) => signer(ap).publicKey)),
    })
  const after = membershipAt(100, ...came, revoke(OWNER, A), admit(C, 20, 6))
  assert.equal([...after.members.keys()].sort(), [FOUNDER, A].map(idOf).sort())
  assert.equal([...after.forgotten.keys()].sort(), [B, C].map(idOf).sort())
  assert.match(after.forgotten.get(idOf(B))!, 'a ticket that was revoked')
  // Those who have no right to revoke it change nothing, and the mesh key is no ticket.
  assert.is(membershipAt(100, ...came, revoke(signer(A), A)).members.size, 3)
  const own = record(OWNER, 'revocation', OWNER.publicKey, clock(20), { keep: new Uint8Array() })
  assert.is(membershipAt(100, ...came, own).members.size, 3)
})

test('an open mesh has a ticket that all its members know, until it is used up, over, or revoked', () => {
  const open = (change: Partial<Body<'grant'>> = {}) => grant(FOUNDER, 20, 5, { seed: seedOf(20), uses: 1, ...change })
  const isOpen = (...records: SignedRecord[]) =>
    openTicket(membershipAt(100, ...FOUNDED, ...records), NOW + 100) !== undefined
  assert.ok(isOpen(open()))
  assert.not(isOpen())
  assert.not(isOpen(grant(FOUNDER, 20, 5)))
  assert.not(isOpen(open(), admit(A, 20, 6)))
  assert.not(isOpen(open({ expires: NOW + 50 })))
  assert.not(isOpen(grant(B, 20, 5, { seed: seedOf(20) })))
  const closed = record(OWNER, 'revocation', signer(20).publicKey, clock(20), { keep: new Uint8Array() })
  assert.not(isOpen(open(), closed))
})

test('a renewed member record takes no second use, and keeps the admission', () => {
  const first = admit(A, 20, 6)
  const records = [...FOUNDED, grant(FOUNDER, 20, 5), first, renew(A, first, 50, { name: 'new-name' })]
  const { members } = membershipAt(100, ...records)
  assert.is(members.get(idOf(A))!.name, 'new-name')
  assert.equal(members.get(idOf(A))!.since, clock(6))
  assert.not(isIn(B, ...records, admit(B, 20, 60)))
})

test('a ticket admits up to the moment it expires, and nobody after it', () => {
  const ticket = grant(FOUNDER, 20, 5, { expires: NOW + 10 })
  assert.ok(isIn(A, ...FOUNDED, ticket, admit(A, 20, 10)))
  assert.not(isIn(A, ...FOUNDED, ticket, admit(A, 20, 11)))
})

test('an AP stays in when its ticket expires, also as it renews its record', () => {
  const first = admit(A, 20, 6)
  const ticket = grant(FOUNDER, 20, 5, { expires: NOW + 10 })
  assert.ok(isIn(A, ...FOUNDED, ticket, first, renew(A, first, 5000)))
})

test('a grant by one that is no admin counts for nothing: a member, a stranger, the ticket itself', () => {
  const joined = [...FOUNDED, grant(FOUNDER, 20, 5), admit(A, 20, 6)]
  for (const by of [A, 9, 21]) assert.not(isIn(B, ...joined, grant(by, 21, 7, { role: 'admin' }), admit(B, 21, 8)))
})

test('one that a ticket for admins let in may invite, from that moment on', () => {
  const joined = [...FOUNDED, grant(FOUNDER, 20, 5, { role: 'admin' }), admit(A, 20, 10)]
  assert.ok(membershipAt(100, ...joined).isAdmin(signer(A).publicKey))
  assert.ok(isIn(B, ...joined, grant(A, 21, 11), admit(B, 21, 12)))
  assert.not(isIn(B, ...joined, grant(A, 21, 9), admit(B, 21, 12)))
})

test('an admin that was forgotten invites nobody any more; those it let in before stay', () => {
  const joined = [
    ...FOUNDED,
    grant(FOUNDER, 20, 5, { role: 'admin' }),
    admit(A, 20, 6),
    grant(A, 21, 7),
    admit(B, 21, 8),
  ]
  const after = [...joined, forget(FOUNDER, A, 20), grant(A, 22, 21), admit(C, 22, 22)]
  const { members, isAdmin } = membershipAt(100, ...after)
  assert.equal([...members.keys()].sort(), [idOf(FOUNDER), idOf(B)].sort())
  assert.not(isAdmin(signer(A).publicKey))
})

const JOINED = [...FOUNDED, grant(FOUNDER, 20, 5), admit(A, 20, 6), grant(FOUNDER, 21, 7), admit(B, 21, 8)]

test('an admin, the mesh key or the AP itself forgets an AP', () => {
  for (const by of [FOUNDER, 0, A]) {
    const { members, forgotten } = membershipAt(100, ...JOINED, forget(by, A, 20))
    assert.equal([...members.keys()].sort(), [idOf(FOUNDER), idOf(B)].sort())
    assert.equal([...forgotten], [[idOf(A), 'was forgotten by an admin']])
  }
})

test('a forget by a member that is no admin, or by a stranger, counts for nothing', () => {
  for (const by of [B, 9, 20]) {
    const { members, forgotten } = membershipAt(100, ...JOINED, forget(by, A, 20))
    assert.ok(members.has(idOf(A)))
    assert.is(forgotten.size, 0)
  }
})

test('a forget counts from its clock on: it does not reach an admission after it', () => {
  assert.not(isIn(A, ...JOINED, forget(FOUNDER, A, 6 + 1)))
  const late = [...FOUNDED, forget(FOUNDER, A, 3), grant(FOUNDER, 20, 5), admit(A, 20, 6)]
  assert.ok(isIn(A, ...late))
})

test('a forgotten AP does not return with the admission it had', () => {
  const first = admit(A, 20, 6)
  assert.not(isIn(A, ...JOINED, forget(FOUNDER, A, 20), renew(A, first, 30)))
})

test('a forgotten AP does not return with another admission by a ticket from before, its own or not', () => {
  const used = [...JOINED, forget(FOUNDER, A, 20), admit(A, 20, 30)]
  assert.not(isIn(A, ...used))
  assert.ok(membershipAt(100, ...used).forgotten.has(idOf(A)))
  // Its old record is in the history still, or pushed out of it, or was never known here.
  assert.not(isIn(A, ...used, admit(A, 20, 31), admit(A, 20, 32)))
  assert.not(isIn(A, ...used.filter(({ hash }) => hash !== JOINED[2]!.hash)))
  const many = [...JOINED, grant(FOUNDER, 22, 9, { uses: 5 }), forget(FOUNDER, A, 20)]
  assert.not(isIn(A, ...many, admit(A, 22, 30)))
  assert.ok(isIn(C, ...many, admit(C, 22, 30)))
})

test('a forgotten founder does not return with the mesh key’s own admission', () => {
  const forgotten = [...JOINED, forget(0, FOUNDER, 20)]
  assert.not(isIn(FOUNDER, ...forgotten))
  assert.not(isIn(FOUNDER, ...forgotten, admit(FOUNDER, 0, 30)))
})

test('a forgotten AP returns with a ticket that was granted after it was forgotten', () => {
  const { members, forgotten } = membershipAt(
    100,
    ...JOINED,
    forget(FOUNDER, A, 20),
    grant(FOUNDER, 22, 25),
    admit(A, 22, 30),
  )
  assert.equal(members.get(idOf(A))!.since, clock(30))
  assert.is(forgotten.size, 0)
})

test('the mesh key stays an admin, whoever asks to forget it', () => {
  const joined = [...FOUNDED, grant(FOUNDER, 20, 5, { role: 'admin' }), admit(A, 20, 6), forget(A, 0, 7)]
  const { members, isAdmin } = membershipAt(100, ...joined, grant(0, 21, 8), admit(B, 21, 9))
  assert.ok(isAdmin(OWNER.publicKey))
  assert.ok(members.has(idOf(B)))
})

test('an AP is drained by itself and by an admin, not by another member or a stranger', () => {
  const isDraining = (...drains: SignedRecord[]) =>
    membershipAt(100, ...JOINED, ...drains).members.get(idOf(A))!.draining
  for (const by of [A, FOUNDER, 0]) assert.ok(isDraining(drain(by, A, 20)))
  for (const by of [B, 9]) assert.not(isDraining(drain(by, A, 20)))
  assert.not(isDraining(drain(FOUNDER, B, 20)))
})

test('the newest word on draining by one that is entitled is what counts', () => {
  const isDraining = (...drains: SignedRecord[]) =>
    membershipAt(100, ...JOINED, ...drains).members.get(idOf(A))!.draining
  assert.not(isDraining(drain(A, A, 20), drain(FOUNDER, A, 21, false)))
  assert.ok(isDraining(drain(A, A, 21), drain(FOUNDER, A, 20, false)))
  assert.ok(isDraining(drain(A, A, 20), drain(B, A, 21, false)))
  assert.not(isDraining(drain(A, A, 20, false), drain(9, A, 21)))
})

test('what an admin drained is drained no more once that admin is forgotten', () => {
  const joined = [...JOINED, grant(FOUNDER, 22, 9, { role: 'admin' }), admit(C, 22, 10), drain(C, A, 20)]
  assert.ok(membershipAt(100, ...joined).members.get(idOf(A))!.draining)
  assert.not(membershipAt(100, ...joined, forget(FOUNDER, C, 30)).members.get(idOf(A))!.draining)
})

test('records whose time has not come change nothing until it does', () => {
  const far = MAX_CLOCK_AHEAD + 1000
  const records = [...JOINED, forget(FOUNDER, A, far)]
  assert.ok(membershipAt(999, ...records).members.has(idOf(A)))
  assert.not(membershipAt(1000, ...records).members.has(idOf(A)))
})

test('a record that is older but comes later changes the outcome on every AP alike', () => {
  const chain = [
    ...FOUNDED,
    grant(FOUNDER, 20, 5, { role: 'admin' }),
    admit(A, 20, 6),
    grant(A, 21, 7, { role: 'admin' }),
    admit(B, 21, 8),
    grant(B, 22, 9),
    admit(C, 22, 10),
  ]
  assert.ok(isIn(C, ...chain))
  // Had A been forgotten before it invited B, neither would have let anyone in.
  const early = record(OWNER, 'forget', signer(A).publicKey, [NOW + 6, 1], {})
  assert.equal([...membershipAt(100, ...chain, early).members.keys()], [idOf(FOUNDER)])
  assert.equal([...membershipAt(100, ...chain, forget(0, A, 9)).members.keys()].length, 3)
})

test('the membership is the same for any order of any records', () => {
  const pool = [
    ...FOUNDED,
    ...[20, 21, 22].flatMap((ticket, i) => [
      grant(FOUNDER, ticket, 5 + i, { role: 'admin' }),
      grant(A, ticket, 9 + i, { uses: 2 }),
    ]),
    ...[A, B, C].flatMap((ap) => [20, 21, 22].map((ticket) => admit(ap, ticket, 4 + ((ap * ticket) % 11)))),
    ...[A, B, C].flatMap((ap) => [
      forget(FOUNDER, ap, 5 + ap),
      forget(ap, A, 9),
      drain(ap, B, ap),
      drain(FOUNDER, ap, 9),
    ]),
  ]
  fc.assert(
    fc.property(fc.shuffledSubarray(pool), (records) => {
      membershipAt(100, ...records)
    }),
    { numRuns: 150 },
  )
})

test.run()
