import { randomInt } from 'node:crypto'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { concat, hex, sha256, utf8 } from '../../protocols/bytes.js'
import { chuteSubject, instanceSubject, secretSubject } from '../../protocols/chute.js'
import type { SignedRecord } from '../../protocols/envelope.js'
import type { Signer } from '../../protocols/keys.js'
import type { Kind } from '../../protocols/kinds.js'
import { Intake } from '../../protocols/known.js'
import { Ledger } from '../../protocols/ledger.js'
import {
  MAX_EXCESS,
  MAX_OF_SIGNER,
  MAX_RECORD,
  MAX_RESERVED,
  MAX_WAITING,
  MAX_WAITING_BYTES,
  MAX_WAITING_OF_SIGNER,
} from '../../protocols/limits.js'
import { signMember } from '../../protocols/ticket.js'
import { creationOf, deployment, MESH, NOW, OWNER, record, refused, signer, specOf, unsigned } from './support.js'

const [FOUNDER, ADMIN, PUBLISHER, AP, HOSTILE] = [1, 2, 3, 4, 5].map(signer) as [Signer, Signer, Signer, Signer, Signer]
const [TICKET, STOLEN] = [signer(20), signer(21)]

const grantOf = (by: Signer, to: Signer, role: 'publisher' | 'admin' | 'ap', at: number, uses?: number) =>
  record(by, 'grant', to.publicKey, [NOW + at, 0], { role, expires: 0, ...(uses !== undefined && { uses }) })
const memberBy = (ap: Signer, ticket: Signer, at: number) =>
  signMember(ap, ticket, MESH, [NOW + at, 0], { name: 'ap', labels: {} })

const FOUNDED = [
  memberBy(FOUNDER, OWNER, 0),
  grantOf(OWNER, ADMIN, 'admin', 1),
  grantOf(ADMIN, PUBLISHER, 'publisher', 2),
  grantOf(OWNER, TICKET, 'ap', 3, 2),
  memberBy(AP, TICKET, 4),
  memberBy(HOSTILE, TICKET, 5),
]

/** A ledger behind its intake. */
class Ap {
  readonly ledger = new Ledger()
  readonly intake = new Intake(this.ledger, MESH)

  /** In so many at a time. */
  take(records: readonly SignedRecord[], at = records.length): this {
    for (let i = 0; i < records.length; i += at) this.intake.admit(records.slice(i, i + at))
    return this
  }

  get digest(): string {
    return hex(this.ledger.digest())
  }
}

/** Both give each other what the other lacks, as often as they differ. @returns how often */
function sync(a: Ap, b: Ap): number {
  for (let round = 0; ; round++) {
    if (a.digest === b.digest) return round
    assert.ok(round < 6, 'they never become equal')
    const lacking = (from: Ap, to: Ap) => from.ledger.records().filter(({ hash }) => !to.ledger.has(hash))
    const [forA, forB] = [lacking(b, a), lacking(a, b)]
    a.take(forA, 7)
    b.take(forB, 7)
  }
}

const claimOf = (by: Uint8Array, n: number, at = n) =>
  unsigned(by, 'claim', instanceSubject(sha256(utf8(`chute ${n}`)).slice(0, 20), 0), [NOW + at, 0], {
    ...{ epoch: 1, cause: 'mine' },
  })

const has = (records: readonly SignedRecord[], of: SignedRecord) =>
  new Ap().take([...FOUNDED, ...records]).ledger.has(of.hash)

test('what a key may not sign no ledger takes in, whoever passes it on', () => {
  const about = (by: Signer, kind: Kind, subject: Uint8Array, body: object) =>
    record(by, kind, subject, [NOW + 9, 0], body as never)
  const chute = (by: Signer) => chuteSubject(by.publicKey, 'hello')
  const [x, creation] = [signer(40).publicKey, creationOf(1000)]
  const statement = { boot: 1, sequence: 1, silence: 2000, probes: 1, heard: true, watchers: new Uint8Array(16) }
  const instance = instanceSubject(new Uint8Array(20), 0)
  /** Who can have what taken in: the admin (a person), a publisher, an AP, a key that is nobody's. */
  const table: [string, (by: Signer) => SignedRecord, string][] = [
    ['deployment', (by) => deployment(by, 'hello', [NOW + 9, 0]), 'admin publisher'],
    [
      'wanted',
      (by) => about(by, 'wanted', chute(by), { creation, desired: 'stopped', restarts: 0 }),
      'admin publisher',
    ],
    ['removal', (by) => about(by, 'removal', chute(by), { creation }), 'admin publisher'],
    ['grant', (by) => about(by, 'grant', x, { role: 'publisher', expires: 0 }), 'admin'],
    ['ticket', (by) => about(by, 'grant', x, { role: 'ap', uses: 1, expires: 0 }), 'admin'],
    ['revocation', (by) => about(by, 'revocation', x, { keep: new Uint8Array() }), 'admin'],
    ['forget another', (by) => about(by, 'forget', x, {}), 'admin'],
    ['forget itself', (by) => about(by, 'forget', by.publicKey, {}), 'admin ap'],
    ['drain another', (by) => about(by, 'drain', x, { draining: true }), 'admin'],
    ['drain itself', (by) => about(by, 'drain', by.publicKey, { draining: true }), 'admin ap'],
    ['claim', (by) => about(by, 'claim', instance, { epoch: 1, cause: 'new' }), 'admin ap'],
    ['statement', (by) => about(by, 'statement', x, statement), 'admin ap'],
    ['goodbye', (by) => about(by, 'goodbye', by.publicKey, { boot: 1 }), 'admin ap'],
    ['alive', (by) => about(by, 'alive', by.publicKey, { boot: 1, sequence: 1, addresses: [] }), 'admin ap'],
    ['origin', (by) => about(by, 'origin', new Uint8Array(20), {}), 'admin ap'],
    ['settings', (by) => about(by, 'settings', new Uint8Array(7), { split: true }), 'admin ap'],
  ]
  const who = { admin: ADMIN, publisher: PUBLISHER, ap: AP, nobody: signer(41) }
  for (const [what, of, expected] of table) {
    const can = Object.entries(who).flatMap(([name, by]) => (has([of(by)], of(by)) ? [name] : []))
    // What only an AP can mean an admin may sign as well: it is trusted not to fill ledgers.
    assert.equal(new Set(can), new Set(['admin', ...expected.split(' ').filter(Boolean)]), what)
  }
  assert.not.ok(has([memberBy(AP, STOLEN, 9)], memberBy(AP, STOLEN, 9)), 'by a ticket that nobody granted')
})

test('what a key signed before its grant came waits for it, and so does what hangs on that', () => {
  const late = deployment(PUBLISHER, 'hello', [NOW + 9, 0])
  const ap = new Ap().take([late, claimOf(AP.publicKey, 1)])
  assert.is(ap.ledger.size, 0)
  ap.take([...FOUNDED].reverse(), 1)
  assert.ok(ap.ledger.has(late.hash))
  assert.ok(ap.ledger.has(claimOf(AP.publicKey, 1).hash))
  assert.is(ap.intake.waits, 0)
})

test('records of made-up keys wait within bounds, are in no digest, and keep out nothing that is in the ledger', () => {
  const founded = new Ap().take(FOUNDED)
  const { digest } = founded
  for (let n = 0; n < MAX_WAITING + 500; n++) founded.take([claimOf(sha256(utf8(`made up ${n}`)), n)])
  for (let n = 0; n < 99; n++) founded.take([claimOf(sha256(utf8('one of them')), n)])
  assert.is(founded.digest, digest)
  assert.ok(founded.intake.waits <= MAX_WAITING && founded.intake.waits > MAX_WAITING - 99)
  const other = new Ap().take(Array.from({ length: 99 }, (_, n) => claimOf(sha256(utf8('one')), n)))
  assert.is(other.intake.waits, MAX_WAITING_OF_SIGNER)
})

test('a ticket lets in so many and a few more are kept to be seen, those admitted first, in whatever order they come', () => {
  const uses = 2
  const excess = Array.from({ length: 30 }, (_, n) => memberBy(signer(100 + n), TICKET, 100 + n))
  const [a, b] = [new Ap().take([...FOUNDED, ...excess]), new Ap().take([...FOUNDED, ...[...excess].reverse()], 1)]
  assert.is(a.digest, b.digest)
  assert.is(a.ledger.inForce('member', NOW + 1e9).length, 1 + uses + MAX_EXCESS)
  const early = memberBy(signer(99), TICKET, 3)
  for (const one of [a, b]) {
    const { added, dropped } = one.intake.admit([early])
    assert.equal([added, dropped.length], [[early], 1])
  }
  assert.is(a.digest, b.digest)
})

test('of a kind whose subjects it chooses one signer has so many records, the newest of each subject before any second one', () => {
  const extra = 40
  const twice = Array.from({ length: MAX_OF_SIGNER.claim / 2 + extra }, (_, n) =>
    [0, 1].map((i) => claimOf(HOSTILE.publicKey, n, 10 * n + i)),
  )
  const { ledger } = new Ap().take([...FOUNDED, ...twice.flat()])
  const kept = twice.map((both) => both.map(({ hash }) => ledger.has(hash)))
  assert.ok(kept.every(([, newest]) => newest))
  assert.is(kept.flat().filter(Boolean).length, MAX_OF_SIGNER.claim)
  assert.equal(
    kept.slice(0, 2 * extra).map(([older]) => older),
    Array(2 * extra).fill(false),
  )
})

const MIB = 1024 ** 2

test('whatever a publisher signs, its chutes take 32 MiB of a ledger and its secrets 16; what waits takes 4, and no record 32 KiB', () => {
  const { publicKey } = PUBLISHER
  // As long as can be: nothing longer is sealed or opened.
  const padding = new Uint8Array(MAX_RECORD)
  refused('record-too-big', () => deployment(PUBLISHER, 'a', [NOW, 0], { padding } as never))
  const bytes = padding
  const ofPublisher = (kind: 'deployment' | 'secret', by: Uint8Array, n: number) => {
    const subject = kind === 'secret' ? secretSubject(by, `a${n % 64}`, `s${n}`) : chuteSubject(by, `a${n}`)
    return { ...unsigned(by, kind, subject, [NOW + n, 0], { creation: creationOf(1), revision: 1 } as never), bytes }
  }
  const full = new Ap().take(FOUNDED)
  for (const kind of ['deployment', 'secret'] as const)
    full.take(Array.from({ length: MAX_OF_SIGNER[kind] + 100 }, (_, n) => ofPublisher(kind, publicKey, n)))
  const sizeOf = (kind: 'deployment' | 'secret') =>
    full.ledger.inForce(kind, NOW + 1e9).reduce((sum, one) => sum + one.bytes.length, 0)
  assert.equal([sizeOf('deployment'), sizeOf('secret')], [32 * MIB, 16 * MIB])

  full.take(Array.from({ length: 500 }, (_, n) => ofPublisher('deployment', sha256(utf8(`made up ${n}`)), n)))
  assert.is(MAX_WAITING_BYTES, 4 * MIB)
  assert.is(full.intake.waits, MAX_WAITING_BYTES / MAX_RECORD)
})

test('a publisher keeps the newest revision of each name, and as much history as there is room for', () => {
  const one = (n: number, revision: number) =>
    unsigned(PUBLISHER.publicKey, 'deployment', chuteSubject(PUBLISHER.publicKey, `a${n}`), [NOW + n + revision, 0], {
      ...{ creation: creationOf(1000 + n), revision, spec: specOf() },
    })
  const names = MAX_OF_SIGNER.deployment / 2
  const all = Array.from({ length: names * 3 }, (_, i) => one(i % names, 1 + Math.floor(i / names)))
  const [a, b] = [new Ap().take([...FOUNDED, ...all]), new Ap().take([...[...all].reverse(), ...FOUNDED], 100)]
  const revisions = a.ledger.inForce('deployment', NOW + 1e9).map(({ body }) => body.revision)
  assert.is(revisions.length, MAX_OF_SIGNER.deployment)
  assert.is(revisions.filter((revision) => revision === 3).length, names)
  assert.is(revisions.filter((revision) => revision === 1).length, 0)
  sync(a, b)
  assert.is(a.digest, b.digest)
})

test('what has little to say is refused where it is long', () => {
  const instance = instanceSubject(new Uint8Array(20), 0)
  const body = { epoch: 1, cause: 'new', padding: new Uint8Array(5000) }
  refused('record-too-big', () => record(AP, 'claim', instance, [NOW, 0], body as never))
})

/** What members of one mesh, and others, can send: honest records, floods beyond each bound, and records of made-up keys. */
function flood(): SignedRecord[] {
  const keys = Array.from({ length: 12 }, (_, n) => sha256(utf8(`made up ${n}`)))
  const many = (length: number, of: (n: number) => SignedRecord) => Array.from({ length }, (_, n) => of(n))
  const later = (kind: string, by: Uint8Array, n: number) =>
    ({
      ...unsigned(by, 'origin', utf8(`s${n % 60}`), [NOW + ((n * 7919) % 5000), 0], {}),
      kind,
      body: { n },
    }) as SignedRecord
  return [
    ...FOUNDED,
    ...many(MAX_OF_SIGNER.claim + 200, (n) => claimOf(HOSTILE.publicKey, n % 1100, (n * 7919) % 5000)),
    ...many(60, (n) => claimOf(AP.publicKey, n % 40, n)),
    ...many(MAX_RESERVED + 60, (n) => later('lease', HOSTILE.publicKey, n)),
    ...many(90, (n) => later('of-tomorrow', HOSTILE.publicKey, n)),
    ...many(300, (n) => claimOf(keys[n % keys.length]!, n)),
    ...many(20, (n) => deployment(PUBLISHER, `a${n % 7}`, [NOW + n, 0], { revision: n + 1 })),
    ...many(12, (n) => grantOf(HOSTILE, signer(60 + n), 'admin', n)),
    ...many(14, (n) => memberBy(signer(100 + n), TICKET, n)),
    ...many(4, (n) => memberBy(signer(80 + n), STOLEN, n)),
    ...many(3, (n) => grantOf(ADMIN, PUBLISHER, n === 1 ? 'admin' : 'publisher', 20 + n)),
    record(ADMIN, 'revocation', PUBLISHER.publicKey, [NOW + 90, 0], { keep: concat() }),
    record(PUBLISHER, 'removal', chuteSubject(PUBLISHER.publicKey, 'a3'), [NOW + 50, 0], {
      creation: creationOf(1000),
    }),
  ].map((one, n) => ({ ...one, hash: one.bytes.length > 0 ? one.hash : sha256(one.hash, utf8(String(n))) }))
}

const shuffled = (records: readonly SignedRecord[], seed: number): SignedRecord[] =>
  records
    .map((one) => ({ one, place: hex(sha256(one.hash, utf8(String(seed)))) }))
    .sort((a, b) => (a.place < b.place ? -1 : 1))
    .map(({ one }) => one)

test('ledgers that were fed the same records in any order, floods beyond every bound among them, are equal after a sync', () => {
  const all = flood()
  const whole = new Ap().take(all)
  let most = 0
  for (const at of [1, 50, 50, all.length, all.length]) {
    const seed = randomInt(1e9)
    const a = new Ap().take(shuffled(all, seed), at)
    const b = new Ap().take(shuffled(all, seed + 1).slice(all.length / 3), at)
    most = Math.max(most, sync(a, b))
    if (a.digest !== whole.digest) most = Math.max(most, sync(a, whole))
    assert.is(a.digest, whole.digest, `seed ${seed}`)
    const again = new Ap().take(a.ledger.records())
    assert.is(again.digest, a.digest, `seed ${seed}: it holds what it needs to be taken in again`)
  }
  assert.ok(most <= 3, `${most} syncs`)
})

test.run()
