// The bounds of what one signer may have in a ledger, against each other: small ones, so that random records get to all of them.
import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { concat, hex, sha256, utf8 } from '../../protocols/bytes.js'
import { chuteSubject, instanceSubject, secretSubject } from '../../protocols/chute.js'
import type { SignedRecord } from '../../protocols/envelope.js'
import type { Body, Kind, RecordOf } from '../../protocols/kinds.js'
import { inOrder } from '../../protocols/known.js'
import { Ledger } from '../../protocols/ledger.js'
import { MAX_OF_SIGNER } from '../../protocols/limits.js'
import { creationOf, keyOf, NOW, specOf, unsigned } from './support.js'

const NAMES = 4
Object.assign(MAX_OF_SIGNER, { deployment: NAMES, secret: 3, claim: 4 })

const [PUBLISHER, ADMIN] = [keyOf(1), keyOf(2)]

const ofPublisher = <K extends Kind>(kind: K, subject: Uint8Array, at: number, body: Body<K>) =>
  unsigned(PUBLISHER, kind, subject, [NOW + at, 0], body)
const listing = (at: number, records: readonly SignedRecord[]): SignedRecord =>
  unsigned(ADMIN, 'revocation', PUBLISHER, [NOW + at, 0], { keep: concat(...records.map(({ hash }) => hash)) })

/** What a hostile publisher signs: all its kinds on more names than it may use, in two creations, the later names now older, now newer. */
const POOL: SignedRecord[] = Array.from({ length: 9 }, (_, n) => {
  const name = `a${n}`
  const subject = chuteSubject(PUBLISHER, name)
  const at = (i: number) => (n * 7 + i * 5) % 23
  const secret = { epoch: 1, nonce: new Uint8Array(24), box: new Uint8Array(16), keys: [] } as never as Body<'secret'>
  return [1, 2].flatMap((of) => {
    const creation = creationOf(of)
    return [
      ...[1, 2, 3].map((revision) =>
        ofPublisher('deployment', subject, at(revision), { creation, revision, spec: specOf() }),
      ),
      ...[1, 2, 3].map((i) => ofPublisher('wanted', subject, at(i), { creation, desired: 'stopped', restarts: i })),
      ...['s', 't', 'u'].flatMap((own) =>
        [1, 2].map((i) =>
          ofPublisher('secret', secretSubject(PUBLISHER, name, own), at(i + own.charCodeAt(0)), {
            ...secret,
            creation,
          }),
        ),
      ),
      ...(n % 3 === of ? [ofPublisher('removal', subject, at(of), { creation })] : []),
      ofPublisher('claim', instanceSubject(sha256(utf8(name)).slice(0, 20), 0), at(of), { epoch: of, cause: 'mine' }),
    ]
  })
}).flat()

/** In one go, as from a peer or from disk: revocations first. */
function take(ledger: Ledger, records: readonly SignedRecord[]): Ledger {
  for (const one of inOrder(records)) ledger.merge(one)
  return ledger
}

/** Numbers of records, which are easier to read than they are. */
const POOLED = POOL.map((_, i) => i)
const KINDS = ['deployment', 'wanted', 'removal', 'secret', 'claim']
const listings = fc.array(fc.tuple(fc.nat(9), fc.subarray(POOLED, { maxLength: 9 })), { maxLength: 3 })
/** Of some kinds, or each AP would be beyond all bounds at once, and of these some. */
const arrivals = (count: number) =>
  fc.tuple(listings, fc.subarray(KINDS, { minLength: 1 })).chain(([some, kinds]) => {
    const all = [...POOLED.filter((i) => kinds.includes(POOL[i]!.kind)), ...some.map((_, i) => POOLED.length + i)]
    const each = fc.array(fc.shuffledSubarray(all), { minLength: count, maxLength: count })
    return fc.record({ some: fc.constant(some), arrivals: each })
  })

const digest = (ledger: Ledger): string => hex(ledger.digest())

/** The ledgers that come of what arrives at each AP, one record after the other. */
function ledgersOf({ some, arrivals }: { some: [number, number[]][]; arrivals: number[][] }): Ledger[] {
  const all = [
    ...POOL,
    ...some.map(([at, keep]) =>
      listing(
        at,
        keep.map((i) => POOL[i]!),
      ),
    ),
  ]
  return arrivals.map((arrival) => {
    const ledger = new Ledger(NAMES)
    for (const i of arrival) ledger.merge(all[i]!)
    return ledger
  })
}

test('ledgers that give each other what the other lacks become equal, whichever bounds a flood is beyond, and in whatever order', () => {
  const sync = (a: Ledger, b: Ledger) => {
    const lacking = (from: Ledger, to: Ledger) => from.records().filter(({ hash }) => !to.has(hash))
    const [forA, forB] = [lacking(b, a), lacking(a, b)]
    take(a, forA)
    take(b, forB)
  }
  fc.assert(
    fc.property(arrivals(3), fc.array(fc.nat(2), { minLength: 30, maxLength: 30 }), (arrived, turns) => {
      const ledgers = ledgersOf(arrived)
      for (const i of [...turns, 0, 1, 2, 0, 1, 2]) sync(ledgers[i]!, ledgers[(i + 1) % 3]!)
      assert.equal(ledgers.map(digest), Array(3).fill(digest(ledgers[0]!)))
    }),
    { numRuns: 200 },
  )
})

test('a ledger that is read again from its own records, in whatever order, is the same', () => {
  fc.assert(
    fc.property(arrivals(1), (arrived) => {
      const ledger = ledgersOf(arrived)[0]!
      const again = take(new Ledger(NAMES), ledger.records().reverse())
      assert.is(digest(again), digest(ledger))
      for (const one of POOL) assert.is(again.hasRoomForName(one), ledger.hasRoomForName(one))
    }),
    { numRuns: 100 },
  )
})

test('a publisher that has all the secrets it may have can change them, and is refused one more before any other goes', () => {
  const secrets = POOL.filter(({ kind }) => kind === 'secret') as RecordOf<'secret'>[]
  const one = (n: number) =>
    secrets.filter(({ subject }) => hex(subject) === hex(secretSubject(PUBLISHER, `a${n}`, 's')))
  const ledger = take(new Ledger(NAMES), [one(1)[0]!, one(2)[0]!, one(3)[0]!])
  for (const n of [1, 2, 3]) assert.ok(one(n).every((record) => ledger.hasRoomForSecret(record)))
  for (const n of [0, 4]) assert.not(ledger.hasRoomForSecret(one(n)[0]!))
})

test.run()
