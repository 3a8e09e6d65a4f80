// Secrets: who opens them, which of them count, who is given them ahead of time, and what a ledger keeps of them.
import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { authorityOf } from '../../protocols/authority.js'
import { apId, concat, hex, sha256, utf8 } from '../../protocols/bytes.js'
import { chuteKey, chuteSubject, secretSubject } from '../../protocols/chute.js'
import { writeManifest } from '../../protocols/compose-writer.js'
import type { ChuteSpec } from '../../protocols/deployment.js'
import { type Chute, chutesOf, claimsOf } from '../../protocols/desired.js'
import type { SignedRecord } from '../../protocols/envelope.js'
import type { Signer } from '../../protocols/keys.js'
import type { RecordOf } from '../../protocols/kinds.js'
import { MAX_SEALED, MAX_SECRET, MAX_SECRETS } from '../../protocols/limits.js'
import { parseManifest, toSpec } from '../../protocols/manifest.js'
import type { Member } from '../../protocols/membership.js'
import { type Candidate, place } from '../../protocols/placement.js'
import { boxSecret, openSecret, sealKeys, sealValue } from '../../protocols/sealing.js'
import { secretsDigest, withSecrets } from '../../protocols/secrets.js'
import { recipientsOf, sharesToMake } from '../../protocols/sharing.js'
import { authorise } from '../../protocols/submission.js'
import {
  creationOf,
  deployment,
  ledgerOf,
  memberOf,
  NOW,
  OWNER,
  record,
  refusalOf,
  refused,
  seedOf,
  serviceOf,
  signer,
  specOf,
} from './support.js'

const ALICE = signer(1)
const APS = [11, 12, 13, 14, 15]
const CREATION = creationOf(1000)
const random = (n: number) => concat(sha256(utf8(`key ${n}`)), sha256(utf8(`pair ${n}`)))
const value = utf8('correct horse battery staple')

const reading = (...names: string[]): ChuteSpec =>
  specOf({ services: [serviceOf({ secrets: names.map((name) => ({ name, file: name, mode: 0o444 })) })] })

const secret = (aps: readonly number[], at = 0, by: Signer = ALICE, name = 'token', creation = CREATION, of = value) =>
  record(by, 'secret', secretSubject(by.publicKey, 'web', name), [NOW + at, 0], {
    creation,
    sealed: sealValue(
      of,
      aps.map((n) => signer(n).publicKey),
      random(at),
    ),
  })

const open = (of: RecordOf<'secret'>, by: number, ...shares: RecordOf<'share'>[]) =>
  openSecret(of, shares, signer(by).publicKey, boxSecret(seedOf(by)))

const CHUTE_KEY = chuteKey({ publisher: ALICE.publicKey, name: 'web', creation: CREATION })

function share(from: number, to: number, opened: Parameters<typeof sealKeys>[0], at = 0): RecordOf<'share'> {
  const body = sealKeys(opened, signer(to).publicKey, random(1000 + at))!
  return record(signer(from), 'share', concat(CHUTE_KEY, signer(to).publicKey), [NOW + at, 0], body)
}

const WEB = deployment(ALICE, 'web', [NOW, 0], { spec: reading('token') })
const GRANT = record(OWNER, 'grant', ALICE.publicKey, [NOW, 0], { role: 'publisher', expires: 0 })

/** A mesh of APs, all alive, as one of them sees it. */
function viewOf(records: SignedRecord[], labels: Record<number, Record<string, string>> = {}, aps = APS, dead = [0]) {
  const ledger = ledgerOf([GRANT, ...records])
  const members = new Map(
    aps.map((n): [string, Member] => {
      const key = signer(n).publicKey
      return [apId(key), { ...memberOf(n), id: apId(key), key, labels: labels[n] ?? {} }]
    }),
  )
  const authority = authorityOf(ledger, OWNER.publicKey, NOW)
  const chutes = withSecrets(ledger, chutesOf(ledger, authority, NOW).chutes, members, authority, NOW)
  const gone = new Set(dead.map((n) => apId(signer(n).publicKey)))
  const candidates = new Map(
    [...members].map(([id, member]): [string, Candidate] => [
      id,
      { member, state: gone.has(id) ? 'dead' : 'alive', beacon: BEACON },
    ]),
  )
  const claims = claimsOf(ledger, NOW)
  return { ledger, members, chutes, claims, candidates, placed: place(chutes, claims, candidates, NOW) }
}

const engine = { version: '27', platform: 'linux/amd64', cpu: 4000, memory: 2 ** 32, local: true }
const BEACON = {
  boot: 1,
  sequence: 1,
  version: '0',
  addresses: [],
  engine,
  instances: [],
  cannot: [],
  images: [],
  packages: [],
  ledger: new Uint8Array(16),
}

/** Who seals to whom, at a moment. */
const sharing = (view: ReturnType<typeof viewOf>, now = NOW) =>
  APS.filter((n) => view.candidates.get(apId(signer(n).publicKey))?.state === 'alive').flatMap((n) =>
    sharesToMake(view, apId(signer(n).publicKey), now).map((made) => ({ by: n, ...made })),
  )

test('an AP that a value was sealed to opens it, and nobody else does, whatever the value', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 1, maxLength: 500 }), fc.shuffledSubarray(APS), fc.nat(), (of, some, n) => {
      const sealed = secret(some, n % 1000, ALICE, 'token', CREATION, of)
      for (const ap of APS) {
        const opened = open(sealed, ap)
        if (some.includes(ap)) assert.equal(opened?.value, of)
        else assert.is(opened, undefined)
      }
      assert.not(Buffer.from(sealed.bytes).includes(Buffer.from(of)) && of.length > 3)
    }),
    { numRuns: 15 },
  )
})

test('who was sealed to seals on to one that was not, who opens it then; a changed byte opens nothing', () => {
  const sealed = secret([11])
  const other = secret([11], 1, ALICE, 'other', CREATION, utf8('another value'))
  const opened = [other, sealed].map((one) => ({ record: one, key: open(one, 11)!.key }))
  const given = share(11, 12, opened)
  assert.equal(open(sealed, 12, given)?.value, value)
  assert.equal(open(other, 12, given)?.value, utf8('another value'))
  assert.is(open(sealed, 13, given), undefined, 'it is for another AP')
  fc.assert(
    fc.property(fc.nat(given.body.box.length - 1), fc.integer({ min: 1, max: 255 }), (at, bits) => {
      const box = Uint8Array.from(given.body.box)
      box[at]! ^= bits
      assert.is(open(sealed, 12, { ...given, body: { ...given.body, box } }), undefined)
      assert.equal(
        open(sealed, 12, { ...given, body: { ...given.body, box } }, given)?.value,
        value,
        'the next one does',
      )
    }),
    { numRuns: 30 },
  )
})

test('a secret of the greatest size, sealed to as many APs as it may be, fits its record; nothing is sealed to what is no key', () => {
  const aps = Array.from({ length: MAX_SEALED }, (_, i) => signer(11 + (i % 3)).publicKey)
  const sealed = sealValue(new Uint8Array(MAX_SECRET), aps, random(1))
  record(ALICE, 'secret', secretSubject(ALICE.publicKey, 'w'.repeat(63), 's'.repeat(32)), [NOW, 0], {
    creation: CREATION,
    sealed,
  })
  const none = [new Uint8Array(32), new Uint8Array(32).fill(255), Uint8Array.of(1, ...new Uint8Array(31))]
  assert.equal(sealValue(value, none, random(2)).keys, [])
})

test('a chute waits for its secrets: no AP claims it before it was given all of them, and those that were may', () => {
  const reasons = ({ placed }: ReturnType<typeof viewOf>) => [...placed[0]!.obstacles.values()]
  const without = viewOf([WEB])
  assert.equal(new Set(reasons(without)), new Set(['waits for secret token']))
  assert.equal(without.placed[0]!.ranks, [])
  const some = viewOf([WEB, secret([11, 13])])
  assert.equal(new Set(some.placed[0]!.ranks), new Set([11, 13].map((n) => apId(signer(n).publicKey))))
  assert.equal(reasons(some), ['waits for secret token', 'waits for secret token', 'waits for secret token'])
  const [sealed] = [secret([11])]
  const shared = viewOf([WEB, sealed, share(11, 12, [{ record: sealed, key: open(sealed, 11)!.key }])])
  assert.is(shared.placed[0]!.ranks.length, 2)
})

test('a chute without secrets is placed as ever, and the list of chutes stays the very same', () => {
  const ledger = ledgerOf([GRANT, deployment(ALICE, 'web', [NOW, 0])])
  const authority = authorityOf(ledger, OWNER.publicKey, NOW)
  const { chutes } = chutesOf(ledger, authority, NOW)
  assert.is(withSecrets(ledger, chutes, new Map(), authority, NOW), chutes)
})

test('what its publisher may not say, or says of another creation, or takes back, is no secret', () => {
  const setOf = (...records: SignedRecord[]) => viewOf([WEB, ...records]).chutes[0]!.secrets![0]!.record
  const good = secret([11])
  assert.is(setOf(good), good)
  assert.is(setOf(secret([11], 0, ALICE, 'token', creationOf(999))), undefined, 'of an earlier chute of that name')
  const removed = record(ALICE, 'secret', good.subject, [NOW + 1, 0], { creation: CREATION })
  assert.is(setOf(good, removed), undefined)
  // Its deployment is let stay, its secret is not.
  const revoked = record(OWNER, 'revocation', ALICE.publicKey, [NOW + 9, 0], { keep: WEB.hash })
  assert.is(setOf(good, revoked), undefined)
  const both = record(OWNER, 'revocation', ALICE.publicKey, [NOW + 9, 0], { keep: concat(WEB.hash, good.hash) })
  assert.is(setOf(good, both), good)
  assert.is(setOf(good, both, secret([12], 20)), good, 'a thief sets it in vain')
})

test('a key that may not publish sets no secret, and is told so', () => {
  const ledger = ledgerOf([GRANT, WEB])
  authorise(ledger, OWNER.publicKey, secret([11]), NOW)
  refused('not-granted', () => authorise(ledger, OWNER.publicKey, secret([11], 0, signer(2)), NOW))
})

test('each AP that may run a chute is given its secrets, by one AP that has them, and by nobody who has not', () => {
  fc.assert(
    fc.property(fc.shuffledSubarray(APS, { minLength: 1, maxLength: 4 }), fc.nat(10 ** 7), (some, later) => {
      const sealed = secret(some)
      const made = sharing(viewOf([WEB, sealed]), NOW + later)
      const lacking = APS.filter((n) => !some.includes(n))
      assert.equal(made.map(({ to }) => hex(to.key)).sort(), lacking.map((n) => hex(signer(n).publicKey)).sort())
      for (const { by, secrets } of made) {
        assert.ok(some.includes(by))
        assert.equal(secrets, [sealed])
      }
    }),
    { numRuns: 30 },
  )
})

test('no AP is given secrets that has not the labels, is dead or is no member, and a dead one gives none', () => {
  const pinned = deployment(ALICE, 'web', [NOW, 0], {
    spec: { ...reading('token'), constraints: [{ label: 'site', value: 'home' }] },
  })
  const home = { site: 'home' }
  const to = (made: ReturnType<typeof sharing>) => made.map((one) => one.to.id)
  const idOf = (n: number) => apId(signer(n).publicKey)
  assert.equal(to(sharing(viewOf([pinned, secret([11])], { 11: home, 13: home }))), [idOf(13)])
  assert.equal(to(sharing(viewOf([WEB, secret([11])], {}, [11, 12, 13], [13]))), [idOf(12)])
  assert.equal(sharing(viewOf([WEB, secret([11])], {}, APS, [11])).length, 0)
  assert.equal(
    sharing(viewOf([WEB, secret([11, 12])], {}, [12, 13])).map(({ by }) => by),
    [12],
    'one that was forgotten gives none',
  )
})

test('an AP that does not give what is its turn to give keeps nobody waiting for ever', () => {
  const view = viewOf([WEB, secret([11, 12, 13])], {}, [11, 12, 13, 14])
  const givers = Array.from({ length: 20 }, (_, i) => sharing(view, NOW + 10_000 * i).map(({ by }) => by))
  assert.ok(givers.every((by) => by.length === 1))
  assert.is(new Set(givers.flat()).size, 3)
})

test('what an AP gives again says all that it gave, and a share by one that was never given a secret counts for nothing', () => {
  const two = deployment(ALICE, 'web', [NOW, 0], { spec: reading('token', 'other') })
  const [token, other] = [secret([11]), secret([11], 1, ALICE, 'other')]
  const first = share(11, 12, [{ record: token, key: open(token, 11)!.key }])
  const [made, ...more] = sharing(viewOf([two, token, other, first], {}, [11, 12]))
  assert.equal(more, [])
  assert.equal(made!.secrets.map(({ hash }) => hex(hash)).sort(), [token, other].map(({ hash }) => hex(hash)).sort())
  const both = secret([11, 13])
  const byForgotten = share(13, 12, [{ record: both, key: open(both, 13)!.key }])
  assert.equal(sharing(viewOf([WEB, both, byForgotten], {}, [11, 12, 13])), [])
  const [again] = sharing(viewOf([WEB, both, byForgotten], {}, [11, 12]))
  assert.is(again?.by, 11, 'what one gave that is a member no more is given again')
  const lie = share(13, 12, [{ record: token, key: new Uint8Array(32) }])
  assert.is(sharing(viewOf([WEB, token, lie], {}, [11, 12, 13])).length, 2, 'it is given to both as before')
})

test('in a mesh of more APs than a record has room for some are chosen, the same on every AP, and hardly others when one goes', () => {
  const candidatesOf = (count: number) =>
    new Map(
      Array.from({ length: count }, (_, i): [string, Candidate] => {
        const member = memberOf(100 + i)
        return [member.id, { member, state: 'alive', beacon: BEACON }]
      }),
    )
  const chuteOf = (changes: Partial<ChuteSpec>): Chute => ({
    ...viewOf([WEB]).chutes[0]!,
    spec: { ...reading('token'), ...changes },
  })
  const idsOf = (candidates: Map<string, Candidate>, changes: Partial<ChuteSpec> = {}) =>
    new Set(recipientsOf({ candidates }, chuteOf(changes)).map(({ id }) => id))
  const all = candidatesOf(MAX_SEALED + 50)
  const chosen = idsOf(all)
  assert.is(chosen.size, MAX_SEALED)
  assert.equal(idsOf(new Map([...all].reverse())), chosen)
  const [gone] = chosen
  const after = idsOf(new Map([...all].filter(([id]) => id !== gone)))
  assert.is([...after].filter((id) => !chosen.has(id)).length, 1)
  assert.is(idsOf(all, { replicas: 'everywhere' }).size, all.size)
  assert.is(idsOf(all, { replicas: 70 }).size, 140)
  assert.is(idsOf(candidatesOf(MAX_SEALED)).size, MAX_SEALED)
})

test('a new value changes what containers are made of, a new AP that has it does not', () => {
  const digest = (...records: SignedRecord[]) => secretsDigest(viewOf([WEB, ...records]).chutes[0]!)
  const sealed = secret([11])
  assert.is(digest(sealed), digest(sealed, share(11, 12, [{ record: sealed, key: open(sealed, 11)!.key }])))
  assert.is.not(digest(sealed), digest(sealed, secret([11], 1)))
})

// --- What a ledger keeps ------------------------------------------------------------------------------------------------

const NAMES = Array.from({ length: MAX_SECRETS + 6 }, (_, i) => `s${String(i).padStart(2, '0')}`)
const tiny = (by: Signer, name: string, at: number, creation: number) =>
  record(by, 'secret', secretSubject(by.publicKey, 'web', name), [NOW + at, 0], { creation: creationOf(creation) })
const POOL: SignedRecord[] = [
  ...NAMES.flatMap((name, i) => [5, 6, 7].map((creation) => tiny(ALICE, name, (i * creation) % 7, creation))),
  ...[5, 6].map((creation) =>
    record(ALICE, 'removal', chuteSubject(ALICE.publicKey, 'web'), [NOW, 0], { creation: creationOf(creation) }),
  ),
  ...[5, 6, 7].map((creation) => deployment(ALICE, 'web', [NOW, 0], { creation: creationOf(creation) })),
]

test('which secrets a ledger keeps does not depend on the order in which they and removals come', () => {
  fc.assert(
    fc.property(fc.shuffledSubarray(POOL, { minLength: 20 }), fc.array(fc.nat()), (some, keys) => {
      const shuffled = some.map((one, i) => ({ one, key: keys[i % keys.length] ?? i })).sort((a, b) => a.key - b.key)
      const [a, b] = [ledgerOf(some), ledgerOf([...shuffled.map(({ one }) => one), ...some])]
      assert.equal(a.digest(), b.digest())
    }),
    { numRuns: 300 },
  )
})

test('a chute has so many secrets and no more, which its publisher is told; with the chute they go', () => {
  const all = NAMES.map((name) => tiny(ALICE, name, 0, 1000))
  const ledger = ledgerOf([GRANT, WEB, ...all.slice(0, MAX_SECRETS)])
  const why = refusalOf(() => authorise(ledger, OWNER.publicKey, all[MAX_SECRETS]!, NOW))
  assert.is(why.code, 'too-many-secrets')
  authorise(ledger, OWNER.publicKey, tiny(ALICE, NAMES[0]!, 1, 1000), NOW)
  assert.is(ledger.effective('secret', NOW).length, MAX_SECRETS)
  const { dropped } = ledger.merge(record(ALICE, 'removal', WEB.subject, [NOW + 9, 0], { creation: CREATION }))
  assert.is(dropped.length, MAX_SECRETS + 1)
  assert.equal(ledger.effective('secret', NOW), [])
  assert.not(ledger.merge(tiny(ALICE, 'late', 0, 1000)).added)
})

// --- The manifest -------------------------------------------------------------------------------------------------------

const manifest = (service: string, top: string) => `services:
  web:
    image: x
    secrets: ${service}
secrets: ${top}
`
const problems = (service: string, top: string): string => {
  const error = refusalOf(() => parseManifest(manifest(service, top), 'compose.yaml'))
  assert.is(error.code, 'manifest')
  return error.message
}

test('Compose names the secrets of a service, and its file, owner and mode; it is written as it was read', () => {
  const text = manifest(
    '[token, {source: key, target: tls.key, uid: "1000", gid: 1001, mode: 0400}]',
    '{token: {external: true}, key: {external: true}}',
  )
  const spec = toSpec(parseManifest(text, 'compose.yaml'), new Map([['web', { images: serviceOf().images }]]))
  assert.equal(spec.services[0]!.secrets, [
    { name: 'token', file: 'token', mode: 0o444 },
    { name: 'key', file: 'tls.key', mode: 0o400, uid: 1000, gid: 1001 },
  ])
  const again = toSpec(parseManifest(writeManifest(spec), 'again'), new Map([['web', { images: serviceOf().images }]]))
  assert.equal(again, spec)
  assert.match(writeManifest(spec), /secrets:\n {2}key:\n {4}external: true\n {2}token:\n {4}external: true\n/)
})

test('a secret that would stand in a record, lie elsewhere or be declared nowhere is refused by name and line', () => {
  const declared = '{token: {external: true}}'
  assert.match(problems('[token]', '{token: {file: ./token}}'), /secrets\.token\.file: .*write external: true/)
  assert.match(problems('[token]', '{token: {environment: TOKEN}}'), /secrets\.token\.environment: .*pipe it to/)
  assert.match(problems('[token]', '{token: {}}'), /needs external: true/)
  assert.match(problems('[other]', declared), /secret other is not declared/)
  assert.match(problems('[token, {source: token}]', declared), /the file token is there twice/)
  assert.match(problems('[{source: token, target: /etc/token}]', declared), /is not the name of a secret/)
  assert.match(problems('[{source: token, target: ..}]', declared), /is not the name of a secret/)
  assert.match(problems('[{source: token, mode: 440}]', declared), /is not a mode: write 0440/)
  assert.match(problems('[{source: token, uid: root}]', declared), /is not the number of a user/)
})

test.run()
