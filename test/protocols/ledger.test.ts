import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { compareBytes, concat, hex, utf8 } from '../../protocols/bytes.js'
import { chuteSubject, instanceSubject } from '../../protocols/chute.js'
import type { Clock } from '../../protocols/clock.js'
import { chutesOf, claimsOf } from '../../protocols/desired.js'
import { compareRecords, type SignedRecord, seal } from '../../protocols/envelope.js'
import type { Kind } from '../../protocols/kinds.js'
import { BUCKETS, Ledger } from '../../protocols/ledger.js'
import { DEPLOYMENT_HISTORY, HISTORY, MAX_CLOCK_AHEAD, MAX_NAMES, UNKNOWN_HISTORY } from '../../protocols/limits.js'
import { membershipOf } from '../../protocols/membership.js'
import { ANYONE, creationOf, deployment, ledgerOf, MESH, NOW, record, refused, signer } from './support.js'

const SIGNERS = [signer(1), signer(2), signer(3)]
const [ONE, TWO] = SIGNERS as [(typeof SIGNERS)[0], (typeof SIGNERS)[0]]
const KINDS = ['drain', 'grant', 'claim', 'wanted', 'deployment', 'forget'] as const satisfies Kind[]

/** A clock that many share, some of them in the future at NOW. */
const clockOf = (i: number): Clock => [NOW + [0, 1, 2, 3, MAX_CLOCK_AHEAD, MAX_CLOCK_AHEAD + 1, 10 ** 7][i % 7]!, i % 2]

/** Records of every sort: known, reserved and unknown kinds, full registers, equal clocks, future ones. */
const POOL: SignedRecord[] = SIGNERS.flatMap((by, s) => [
  ...Array.from({ length: 8 }, (_, i) =>
    record(by, 'drain', SIGNERS[i % 2]!.publicKey, clockOf(i), { draining: i > 4 }),
  ),
  ...Array.from({ length: 5 }, (_, i) =>
    record(by, 'grant', SIGNERS[s]!.publicKey, clockOf(i), { role: 'ap', uses: i + 1, expires: 0 }),
  ),
  ...Array.from({ length: 8 }, (_, i) =>
    record(by, 'claim', instanceSubject(new Uint8Array(20), i % 2), clockOf(i), { epoch: i + 1, cause: 'new' }),
  ),
  ...Array.from({ length: 4 }, (_, i) =>
    record(by, 'wanted', chuteSubject(by.publicKey, 'hello'), clockOf(i), {
      creation: creationOf(5 + (i % 3)),
      desired: 'stopped',
      restarts: i,
    }),
  ),
  ...Array.from({ length: 14 }, (_, i) =>
    deployment(by, 'hello', clockOf(i), { creation: creationOf(5 + (i % 3)), revision: i + 1 }),
  ),
  ...[5, 6, 5].map((at, i) =>
    record(by, 'removal', chuteSubject(by.publicKey, 'hello'), clockOf(3 * i), { creation: creationOf(at) }),
  ),
  record(by, 'forget', ONE.publicKey, clockOf(s), {}),
  ...Array.from({ length: 5 }, (_, i) => seal(by, MESH, clockOf(i), 'lease', utf8(`l${i % 2}`), { i })),
])

/** More records of unknown kinds than one signer may have. */
const UNKNOWN: SignedRecord[] = Array.from({ length: UNKNOWN_HISTORY + 30 }, (_, i) =>
  seal(ONE, MESH, [NOW + (i % 9), i % 3], `unknown-${'ab'[i % 2]}`, utf8(`s${i % 5}`), { i }),
)

const records = fc.shuffledSubarray(POOL, { minLength: 1 })
const TIMES = [NOW - 10 ** 7, NOW, NOW + 1, NOW + 10 ** 8]

/** All that can be seen of a ledger. */
function viewOf(ledger: Ledger) {
  const sorted = (list: readonly SignedRecord[]) => list.map(({ hash }) => hex(hash)).sort()
  return {
    size: ledger.size,
    digest: hex(ledger.digest()),
    buckets: ledger.bucketDigests().map(hex),
    records: ledger.records().map(({ hash }) => hex(hash)),
    effective: TIMES.map((at) => KINDS.map((kind) => sorted(ledger.effective(kind, at)))),
    inForce: TIMES.map((at) => KINDS.map((kind) => sorted(ledger.inForce(kind, at)))),
    history: SIGNERS.map(({ publicKey }) =>
      ledger.history('deployment', chuteSubject(publicKey, 'hello')).map(({ hash }) => hex(hash)),
    ),
    highest: TIMES.map((at) => ledger.highestClock(at)),
  }
}

function mergeInto(ledger: Ledger, ...others: Ledger[]): Ledger {
  for (const other of others) for (const one of other.records()) ledger.merge(one)
  return ledger
}

test('the outcome of a merge does not depend on the order of records, nor on how often they come', () => {
  fc.assert(
    fc.property(records, (some) => {
      const sorted = viewOf(ledgerOf([...some].sort(compareRecords)))
      assert.equal(viewOf(ledgerOf(some)), sorted)
      assert.equal(viewOf(ledgerOf([...some].reverse())), sorted)
      assert.equal(viewOf(ledgerOf([...some, ...some, ...some.slice(0, 9)])), sorted)
    }),
    { numRuns: 60 },
  )
})

test('merging ledgers is commutative, associative and idempotent', () => {
  fc.assert(
    fc.property(records, records, records, (x, y, z) => {
      const [a, b, c] = [ledgerOf(x), ledgerOf(y), ledgerOf(z)] as [Ledger, Ledger, Ledger]
      const whole = viewOf(mergeInto(new Ledger(), a, b, c))
      assert.equal(viewOf(mergeInto(new Ledger(), c, a, b)), whole)
      assert.equal(viewOf(mergeInto(mergeInto(new Ledger(), c, b), a)), whole)
      assert.equal(viewOf(mergeInto(a, mergeInto(b, c))), whole)
      assert.equal(viewOf(mergeInto(a, a, b, c)), whole)
    }),
    { numRuns: 40 },
  )
})

test('records of unknown kinds merge in any order as well, beyond what is kept of them', () => {
  const view = viewOf(ledgerOf(UNKNOWN))
  assert.is(view.size, UNKNOWN_HISTORY)
  fc.assert(
    fc.property(fc.shuffledSubarray(UNKNOWN, { minLength: UNKNOWN.length }), fc.nat(UNKNOWN.length), (some, cut) => {
      assert.equal(viewOf(ledgerOf(some)), view)
      const [a, b] = [ledgerOf(some.slice(0, cut)), ledgerOf(some.slice(cut))]
      assert.equal(viewOf(mergeInto(a, b)), view)
      assert.equal(viewOf(mergeInto(b, a)), view)
    }),
    { numRuns: 20 },
  )
})

test('of one clock the record with the greater hash is the newer one, everywhere', () => {
  const tied = Array.from({ length: 6 }, (_, i) =>
    record(ONE, 'grant', TWO.publicKey, [NOW, 0], { role: 'ap', uses: i + 1, expires: 0 }),
  )
  const newest = [...tied].sort((a, b) => compareBytes(b.hash, a.hash))
  for (const order of [tied, [...tied].reverse()]) {
    const ledger = ledgerOf(order)
    assert.equal(ledger.effective('grant', NOW), [newest[0]])
    assert.equal(ledger.history('grant', TWO.publicKey), newest.slice(0, HISTORY))
  }
})

test('what a merge says that it added and dropped is what it added and dropped', () => {
  fc.assert(
    fc.property(fc.shuffledSubarray([...POOL, ...UNKNOWN], { minLength: 100 }), (some) => {
      const ledger = new Ledger()
      const kept = new Map<string, SignedRecord>()
      for (const one of some) {
        const { added, dropped } = ledger.merge(one)
        if (added) kept.set(hex(one.hash), one)
        for (const old of dropped) assert.ok(kept.delete(hex(old.hash)))
        assert.is(ledger.has(one.hash), added)
        assert.equal(ledger.merge(one), { added: false, dropped: [] })
      }
      assert.equal(
        ledger.records().map(({ hash }) => hex(hash)),
        [...kept.keys()].sort(),
      )
      assert.is(ledger.size, kept.size)
      for (const one of kept.values()) assert.is(ledger.get(one.hash), one)
    }),
    { numRuns: 30 },
  )
})

test('a register keeps its newest records and no others: ten deployments, two of other kinds', () => {
  const deployments = Array.from({ length: 15 }, (_, i) => deployment(ONE, 'hello', [NOW + i, 0], { revision: i + 1 }))
  const ledger = ledgerOf(deployments)
  assert.is(ledger.size, DEPLOYMENT_HISTORY)
  const revisions = ledger.history('deployment', chuteSubject(ONE.publicKey, 'hello')).map(({ body }) => body.revision)
  assert.equal(revisions, [15, 14, 13, 12, 11, 10, 9, 8, 7, 6])

  const drains = Array.from({ length: 5 }, (_, i) =>
    record(ONE, 'drain', ONE.publicKey, [NOW + i, 0], { draining: i === 4 }),
  )
  assert.equal(ledgerOf(drains).history('drain', ONE.publicKey), [drains[4], drains[3]])
  const leases = Array.from({ length: 5 }, (_, i) => seal(ONE, MESH, [NOW + i, 0], 'lease', utf8('x'), { i }))
  assert.is(ledgerOf(leases).size, HISTORY)
})

test('a removal leaves nothing of what it removes, whichever comes first, and one small record for ever', () => {
  const subject = chuteSubject(ONE.publicKey, 'hello')
  const of = (creation: number) => ({ creation: creationOf(creation) })
  const removed = [
    ...Array.from({ length: 12 }, (_, i) => deployment(ONE, 'hello', [NOW + i, 0], { ...of(5), revision: i + 1 })),
    record(ONE, 'wanted', subject, [NOW + 90, 0], { ...of(4), desired: 'stopped', restarts: 0 }),
  ]
  const removal = record(ONE, 'removal', subject, [NOW + 20, 0], of(5))
  const later = deployment(ONE, 'hello', [NOW + 2, 0], of(6))
  for (const order of [
    [...removed, removal, later],
    [removal, later, ...removed],
    [later, ...removed, removal],
  ]) {
    const ledger = ledgerOf(order)
    assert.equal(
      ledger
        .records()
        .map(({ kind }) => kind)
        .sort(),
      ['deployment', 'removal'],
    )
    assert.equal(ledger.history('deployment', subject), [later])
  }
  assert.ok(removal.bytes.length < 350, `${removal.bytes.length} bytes`)
})

test('a removal of an earlier creation takes the place of none, however late it was signed', () => {
  const subject = chuteSubject(ONE.publicKey, 'hello')
  const [first, second] = [6, 5].map((creation, i) =>
    record(ONE, 'removal', subject, [NOW + i, 0], { creation: creationOf(creation) }),
  )
  for (const order of [
    [first!, second!],
    [second!, first!],
  ])
    assert.equal(ledgerOf(order).records(), [first])
})

test('a publisher has its lowest names up to a bound, in whatever order they came, and takes none from others', () => {
  const subjects = Array.from({ length: MAX_NAMES + 5 }, (_, i) => chuteSubject(ONE.publicKey, `a${i}`))
  const all = subjects.flatMap((subject, i): SignedRecord[] => {
    const creation = creationOf(5)
    const wanted = record(ONE, 'wanted', subject, [NOW, 0], { creation, desired: 'stopped', restarts: 0 })
    const revision = deployment(ONE, `a${i}`, [NOW + i, 0], { creation })
    return i % 9 === 0
      ? [wanted, record(ONE, 'removal', subject, [NOW, 1], { creation: creationOf(4) }), revision]
      : [revision]
  })
  const other = deployment(TWO, 'zzz', [NOW, 0])
  const kept = new Set(subjects.map(hex).sort().slice(0, MAX_NAMES))
  const whole = ledgerOf([other, ...all])
  assert.ok(whole.has(other.hash))
  for (const one of whole.records()) assert.ok(one === other || kept.has(hex(one.subject)))
  assert.is(new Set(whole.records().map(({ subject }) => hex(subject))).size, MAX_NAMES + 1)
  assert.is(hex(ledgerOf([...[...all].reverse(), other]).digest()), hex(whole.digest()))
  const [used, spare] = ['a1', 'zzz'].map((name) => deployment(ONE, name, [NOW + 1, 0]))
  assert.ok(whole.hasRoomForName(used!))
  assert.not(whole.hasRoomForName(spare!))
  assert.equal(whole.merge(spare!), { added: false, dropped: [] })
  assert.ok(whole.hasRoomForName(deployment(TWO, 'another', [NOW, 0])))
})

test('no signer, subject or kind pushes out what belongs to another', () => {
  const mine = record(ONE, 'drain', ONE.publicKey, [1, 0], { draining: true })
  const others = Array.from({ length: 9 }, (_, i) => [
    record(TWO, 'drain', ONE.publicKey, [NOW + i, 0], { draining: false }),
    record(ONE, 'drain', TWO.publicKey, [NOW + i, 0], { draining: false }),
    record(ONE, 'forget', ONE.publicKey, [NOW + i, 0], {}),
  ]).flat()
  const ledger = ledgerOf([mine, ...others, ...UNKNOWN])
  assert.ok(ledger.has(mine.hash))
  assert.ok(ledger.effective('drain', NOW).includes(mine))
})

test('what one signer may keep of unknown kinds is bounded in all, and leaves others theirs', () => {
  const other = seal(TWO, MESH, [1, 0], 'unknown-a', utf8('x'), {})
  const ledger = ledgerOf([other, ...UNKNOWN])
  assert.is(ledger.size, 1 + UNKNOWN_HISTORY)
  assert.ok(ledger.has(other.hash))
  const newest = [...UNKNOWN].sort((a, b) => compareRecords(b, a)).slice(0, UNKNOWN_HISTORY)
  for (const one of newest) assert.ok(ledger.has(one.hash))
})

test('a record more than five minutes ahead waits for its time, and the one before it stays in force', () => {
  const before = record(ONE, 'drain', ONE.publicKey, [NOW, 0], { draining: false })
  const future = record(ONE, 'drain', ONE.publicKey, [NOW + 3_600_000, 0], { draining: true })
  const ledger = ledgerOf([future, before])
  const due = future.clock[0] - 5 * 60_000
  assert.equal(ledger.effective('drain', NOW), [before])
  assert.equal(ledger.effective('drain', due - 1), [before])
  assert.equal(ledger.effective('drain', due), [future])
  assert.equal(ledger.highestClock(due - 1), before.clock)
  assert.equal(ledger.highestClock(due), future.clock)
  assert.equal(ledger.history('drain', ONE.publicKey), [future, before])
  assert.equal(ledger.inForce('drain', due - 1), [before])
  assert.equal(ledgerOf([before, future]).digest(), ledger.digest())
})

test('a record of a format that is not understood is kept and counts for nothing', () => {
  const drain = record(ONE, 'drain', ONE.publicKey, [NOW, 0], { draining: true })
  const ledger = ledgerOf([drain, { ...record(TWO, 'drain', ONE.publicKey, [NOW, 1], { draining: false }), format: 2 }])
  assert.is(ledger.size, 2)
  assert.equal(ledger.effective('drain', NOW), [drain])
})

test('two ledgers have one digest exactly where they hold the same records', () => {
  fc.assert(
    fc.property(records, records, fc.boolean(), (x, y, same) => {
      const [a, b] = [ledgerOf(x), ledgerOf(same ? [...x].reverse() : y)]
      const equal = JSON.stringify(viewOf(a).records) === JSON.stringify(viewOf(b).records)
      assert.is(hex(a.digest()) === hex(b.digest()), equal)
      if (same) assert.ok(equal)
    }),
    { numRuns: 60 },
  )
  const digests = new Set(POOL.map((one) => hex(ledgerOf([one]).digest())))
  assert.is(digests.size, POOL.length)
  assert.not.equal(new Ledger().digest(), ledgerOf(POOL.slice(0, 1)).digest())
})

test('the digest follows every record, also after it was asked for', () => {
  const ledger = new Ledger()
  const seen = new Set([hex(ledger.digest())])
  for (const one of UNKNOWN) {
    ledger.merge(one)
    assert.equal(ledger.digest(), ledgerOf(ledger.records()).digest())
    seen.add(hex(ledger.digest()))
  }
  assert.ok(seen.size > UNKNOWN_HISTORY)
})

const prefixOf = (first: number) => first.toString(16).padStart(2, '0')

test('the digests of buckets differ in just the buckets that differ, and a bucket holds the hashes of its first byte', () => {
  fc.assert(
    fc.property(records, records, (x, y) => {
      const [a, b] = [ledgerOf(x), ledgerOf(y)]
      const [of, other] = [a.bucketDigests(), b.bucketDigests()]
      assert.is(of.length, BUCKETS)
      for (let first = 0; first < BUCKETS; first++) {
        const hashes = [a, b].map((ledger) =>
          ledger
            .within(prefixOf(first))
            .map(({ hash }) => hex(hash))
            .sort(),
        )
        for (const hash of hashes.flat()) assert.is(Number.parseInt(hash.slice(0, 2), 16), first)
        assert.is(hex(of[first]!) === hex(other[first]!), JSON.stringify(hashes[0]) === JSON.stringify(hashes[1]))
      }
      const all = Array.from({ length: BUCKETS }, (_, first) =>
        a.within(prefixOf(first)).map(({ hash }) => hex(hash)),
      ).flat()
      assert.equal(all.sort(), viewOf(a).records)
    }),
    { numRuns: 25 },
  )
})

test('a beacon is refused: it is no ledger record', () => {
  const beacon = seal(ONE, MESH, [NOW, 0], 'beacon', ONE.publicKey, {})
  refused('malformed', () => new Ledger().merge(beacon))
})

const listing = (at: number, ...records: SignedRecord[]) =>
  record(TWO, 'revocation', ONE.publicKey, [NOW + at, 0], { keep: concat(...records.map(({ hash }) => hash)) })

test('what a revocation lists is not pushed out: not by later records, a removal, or other names', () => {
  const kept = deployment(ONE, 'hello', [NOW, 0])
  const { subject, body } = kept
  const want = (at: number, restarts: number) =>
    record(ONE, 'wanted', subject, [NOW + at, 0], { creation: body.creation, desired: 'stopped', restarts })
  const state = want(0, 0)
  const later = Array.from({ length: DEPLOYMENT_HISTORY + 2 }, (_, i) => deployment(ONE, 'hello', [NOW + i + 1, 0]))
  const names = Array.from({ length: MAX_NAMES }, (_, i) => deployment(ONE, `a-${i}`, [NOW, 0]))
  const removal = record(ONE, 'removal', subject, [NOW + 50, 0], { creation: body.creation })
  const ledger = ledgerOf([
    kept,
    state,
    listing(1, kept, state),
    ...later,
    want(1, 1),
    want(2, 2),
    want(3, 3),
    removal,
    ...names,
  ])
  assert.ok(ledger.has(kept.hash))
  assert.ok(ledger.has(state.hash))
  assert.not(ledger.has(later.at(-1)!.hash), 'what is not listed is removed as ever')
})

test('a record that went before it was listed comes back from whoever has both, and goes when nobody lists it any more', () => {
  const kept = deployment(ONE, 'hello', [NOW, 0])
  const later = Array.from({ length: DEPLOYMENT_HISTORY }, (_, i) => deployment(ONE, 'hello', [NOW + i + 1, 0]))
  const [has, lacks] = [ledgerOf([kept, listing(1, kept), ...later]), ledgerOf([kept, ...later, listing(1, kept)])]
  assert.ok(has.has(kept.hash))
  assert.not(lacks.has(kept.hash))
  for (const one of has.records()) lacks.merge(one)
  assert.equal(lacks.digest(), has.digest())
  lacks.merge(listing(2))
  const { dropped } = lacks.merge(listing(3))
  assert.equal(
    dropped.map(({ kind }) => kind),
    ['revocation', 'deployment'],
  )
  assert.not(lacks.has(kept.hash))
  assert.is(lacks.history('deployment', kept.subject).length, DEPLOYMENT_HISTORY)
})

test('two ledgers that give each other all they have become equal, whatever was revoked in which order', () => {
  const ofOne = POOL.filter(({ signer: by, kind }) => hex(by) === hex(ONE.publicKey) && kind !== 'grant')
  const revocations = fc.array(fc.tuple(fc.nat(9), fc.subarray(ofOne, { maxLength: 6 })), {
    minLength: 1,
    maxLength: 5,
  })
  const all = revocations.map((some) => [...POOL, ...some.map(([at, keep]) => listing(at, ...keep))])
  const two = all.chain((pool) => fc.tuple(fc.shuffledSubarray(pool), fc.shuffledSubarray(pool)))
  fc.assert(
    fc.property(two, ([x, y]) => {
      const [a, b] = [ledgerOf(x), ledgerOf(y)]
      for (let round = 0; round < 4 && hex(a.digest()) !== hex(b.digest()); round++) {
        const [ofA, ofB] = [a.records(), b.records()]
        for (const one of ofB) a.merge(one)
        for (const one of ofA) b.merge(one)
      }
      assert.equal(a.digest(), b.digest())
    }),
    { numRuns: 60 },
  )
})

test('what was asked of a ledger before, at other times and of fewer records, changes no answer', () => {
  const instances = [0, 1].map((copy) => hex(instanceSubject(new Uint8Array(20), copy)))
  const answers = (ledger: Ledger, at: number) => {
    const { members, forgotten } = membershipOf(ledger, ONE.publicKey, at)
    const claims = claimsOf(ledger, at)
    return {
      effective: KINDS.map((kind) => ledger.effective(kind, at).map(({ hash }) => hex(hash))),
      members: [...members.values()],
      forgotten: [...forgotten],
      chutes: chutesOf(ledger, ANYONE, at).chutes.map(({ deployment, desired, restarts }) => [
        hex(deployment.hash),
        desired,
        restarts,
      ]),
      claims: instances.map((instance) => claims.get(instance)?.map(({ hash }) => hex(hash))),
    }
  }
  fc.assert(
    fc.property(records, fc.array(fc.constantFrom(...TIMES), { minLength: 3, maxLength: 3 }), (pool, times) => {
      const ledger = new Ledger()
      for (const [i, one] of pool.entries()) {
        ledger.merge(one)
        for (const at of i % 8 === 0 ? times : []) {
          const known = answers(ledger, at)
          assert.equal(known, answers(ledgerOf(pool.slice(0, i + 1)), at))
        }
      }
    }),
    { numRuns: 30 },
  )
})

test.run()
