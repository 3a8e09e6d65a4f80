import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { concat } from '../../protocols/bytes.js'
import { chuteSubject, instanceSubject } from '../../protocols/chute.js'
import type { Clock } from '../../protocols/clock.js'
import { encode } from '../../protocols/codec.js'
import { open, type SignedRecord, seal } from '../../protocols/envelope.js'
import { checkKind, historyOf, isKind, type Kind, RESERVED } from '../../protocols/kinds.js'
import { DEPLOYMENT_HISTORY, HISTORY, MAX_GENERATION } from '../../protocols/limits.js'
import { signMember } from '../../protocols/ticket.js'
import { AP, admission, CLOCK, GOOD, OTHER, PUBLISHER, type Sample, TICKET } from './samples.js'
import { creationOf, MESH, NOW, OWNER, refused, sealRaw, serviceOf, specOf } from './support.js'

const KINDS = Object.keys(GOOD) as Kind[]

const sealed = (kind: Kind, changes: Partial<Sample> = {}, clock = CLOCK): SignedRecord => {
  const { by, subject, body } = { ...GOOD[kind], ...changes }
  return seal(by, MESH, clock, kind, subject, body)
}

const passes = (kind: Kind, changes: Partial<Sample> = {}, clock = CLOCK): void => {
  const record = open(sealed(kind, changes, clock).bytes, MESH)
  checkKind(record)
  assert.ok(isKind(record, kind))
}

const fails = (kind: Kind, changes: Partial<Sample> = {}, clock = CLOCK): void =>
  refused('malformed', () => checkKind(open(sealed(kind, changes, clock).bytes, MESH)))

const withBody = (kind: Kind, changes: object): Partial<Sample> => ({ body: { ...GOOD[kind].body, ...changes } })

test('a record of each kind that is as it should be passes', () => {
  for (const kind of KINDS) passes(kind)
})

test('a body that lacks a field, or has one of another type, is malformed', () => {
  for (const kind of KINDS) {
    for (const field of Object.keys(GOOD[kind].body)) {
      if (!['engine', 'uses', 'sealed'].includes(field)) fails(kind, withBody(kind, { [field]: undefined }))
      fails(kind, withBody(kind, { [field]: [[]] }))
    }
  }
})

test('fields that nobody knows yet are tolerated in any body, and kept in its bytes', () => {
  const value = fc.oneof(fc.nat(), fc.string(), fc.uint8Array(), fc.constant(null), fc.array(fc.nat()))
  fc.assert(
    fc.property(fc.constantFrom(...KINDS), fc.dictionary(fc.string({ maxLength: 9 }), value), (kind, extra) => {
      const fresh = Object.fromEntries(Object.entries(extra).map(([key, item]) => [`x-${key}`, item]))
      passes(kind, { body: { ...fresh, ...GOOD[kind].body } })
      const { body } = open(sealed(kind, { body: { ...fresh, ...GOOD[kind].body } }).bytes, MESH)
      assert.equal(body, { ...fresh, ...GOOD[kind].body })
    }),
    { numRuns: 150 },
  )
})

test('reserved and unknown kinds, and known kinds in a later format, pass unread', () => {
  const anyBody = fc.dictionary(fc.string({ maxLength: 9 }), fc.oneof(fc.nat(), fc.string(), fc.uint8Array()))
  const kinds = [...RESERVED, 'not-yet-invented', 'constructor', 'to-string']
  fc.assert(
    fc.property(
      fc.constantFrom(...kinds),
      anyBody,
      fc.uint8Array({ minLength: 1, maxLength: 128 }),
      (kind, body, subject) => {
        checkKind(open(seal(AP, MESH, CLOCK, kind, subject, body).bytes, MESH))
      },
    ),
    { numRuns: 150 },
  )
  for (const kind of KINDS) {
    const payload = encode([2, kind, MESH, AP.publicKey, CLOCK, new Uint8Array(1), { any: 'thing' }])
    const record = open(sealRaw(AP, kind, MESH, payload), MESH)
    checkKind(record)
    assert.not(isKind(record, kind), `a ${kind} of format 2 was taken for one that is understood`)
  }
})

test('a chute is spoken of by its publisher alone: a deployment, a wanted state or a removal by another key is refused', () => {
  for (const kind of ['deployment', 'wanted', 'removal'] as const) {
    fails(kind, { by: OTHER })
    fails(kind, { by: OWNER })
    passes(kind, { by: OTHER, subject: chuteSubject(OTHER.publicKey, 'hello') })
  }
})

test('the subject of a deployment, a wanted state or a removal is a publisher and a name', () => {
  for (const kind of ['deployment', 'wanted', 'removal'] as const) {
    for (const name of ['', 'Hello', 'hello world', '-hello', '../hello']) {
      fails(kind, { subject: chuteSubject(PUBLISHER.publicKey, name) })
    }
    fails(kind, { subject: PUBLISHER.publicKey.slice(1) })
  }
})

test('a creation after the clock of the deployment or removal that carries it is refused', () => {
  for (const kind of ['deployment', 'removal'] as const) {
    passes(kind, withBody(kind, { creation: creationOf(NOW) }))
    fails(kind, withBody(kind, { creation: creationOf(NOW + 1) }))
    fails(kind, withBody(kind, { creation: new Uint8Array(16).fill(255) }))
  }
})

test('a deployment of a chute that contradicts itself is refused', () => {
  const spec = (changes: Parameters<typeof specOf>[0]) => withBody('deployment', { spec: specOf(changes) })
  fails('deployment', spec({ services: [] }))
  fails('deployment', spec({ services: [serviceOf(), serviceOf()] }))
  fails('deployment', spec({ services: [serviceOf({ mounts: [{ volume: 'data', path: '/data', readOnly: false }] })] }))
  fails('deployment', spec({ replicas: -1 }))
  fails('deployment', spec({ replicas: 'nowhere' as never }))
  passes('deployment', spec({ replicas: 'everywhere' }))
})

test('a member record is signed by the AP it is about', () => {
  fails('member', { subject: OTHER.publicKey })
  fails('member', { by: OTHER })
})

test('a member record with a forged admission is refused: by another key, for another AP, moment or mesh', () => {
  const at: Clock = [NOW - 5, 0]
  passes('member', withBody('member', { admission: admission(at) }))
  const forged = [
    admission(at, OTHER),
    admission(at, AP),
    admission(at, TICKET, OTHER.publicKey),
    admission(at, TICKET, AP.publicKey, new Uint8Array(20)),
    { ...admission(at), at: [NOW - 4, 0] },
    { ...admission(at), at: [NOW - 5, 1] },
    { ...admission(at), ticket: OTHER.publicKey },
    { ...admission(at), signature: new Uint8Array(64) },
  ]
  for (const one of forged) fails('member', withBody('member', { admission: one }))
})

test('an admission by a ticket key of small order, which would fit every AP, is refused', () => {
  const identity = concat(Uint8Array.of(1), new Uint8Array(31))
  const signature = concat(identity, new Uint8Array(32))
  fails('member', withBody('member', { admission: { ticket: identity, at: CLOCK, signature } }))
})

test('an admission later than the clock of its member record is refused', () => {
  passes('member', withBody('member', { admission: admission(CLOCK) }))
  fails('member', withBody('member', { admission: admission([NOW, 1]) }))
  fails('member', withBody('member', { admission: admission([NOW + 1, 0]) }))
})

test('an AP renews its name and labels with the admission it has', () => {
  const { admission: first } = GOOD.member.body
  passes('member', { body: { name: 'renamed', labels: {}, admission: first } }, [NOW + 99_999, 3])
})

test('signMember makes a record that passes', () => {
  checkKind(signMember(AP, TICKET, MESH, CLOCK, { name: 'ap', labels: {} }))
})

test('a name of an AP that could not be told from other text is refused', () => {
  for (const name of ['', 'a b', 'a/b', 'a\n', 'ä', '\u001b[31m', 'a'.repeat(64)])
    fails('member', withBody('member', { name }))
})

test('over 32 labels are refused', () => {
  const labels = (n: number) => Object.fromEntries(Array.from({ length: n }, (_, i) => [`label${i}`, 'x']))
  passes('member', withBody('member', { labels: labels(32) }))
  fails('member', withBody('member', { labels: labels(33) }))
})

test('grants, forgets, drains and statements are about a key of 32 bytes', () => {
  for (const kind of ['grant', 'forget', 'drain', 'statement'] as const) {
    for (const length of [1, 31, 33, 64]) fails(kind, { subject: new Uint8Array(length) })
  }
})

test('whoever may sign a grant, a forget or a drain is left to the membership, so anyone’s passes here', () => {
  for (const kind of ['grant', 'forget', 'drain'] as const) for (const by of [OWNER, AP, OTHER]) passes(kind, { by })
})

test('nobody makes a statement about itself', () => {
  passes('statement', { by: AP, subject: OTHER.publicKey })
  fails('statement', { by: AP, subject: AP.publicKey })
})

test('a goodbye, a sign of life or a beacon of another AP is refused', () => {
  for (const kind of ['goodbye', 'alive', 'beacon'] as const) {
    fails(kind, { by: OTHER })
    fails(kind, { subject: OTHER.publicKey })
  }
})

test('a claim is about an instance', () => {
  const chute = new Uint8Array(20)
  const tails = [[], [0], [0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, ...AP.publicKey]]
  for (const tail of tails) fails('claim', { subject: concat(chute, Uint8Array.from(tail)) })
})

test('the copy that is for one AP is claimed by that AP alone', () => {
  const subject = instanceSubject(new Uint8Array(20), AP.publicKey)
  passes('claim', { by: AP, subject })
  fails('claim', { by: OTHER, subject })
})

test('an epoch is a whole number from 1, and a cause is one word', () => {
  for (const epoch of [0, -1, 1.5, 2 ** 49]) fails('claim', withBody('claim', { epoch }))
  for (const cause of ['', 'two words', 'UPPER', 'x'.repeat(33)]) fails('claim', withBody('claim', { cause }))
  passes('claim', withBody('claim', { previous: new Uint8Array(32) }))
  fails('claim', withBody('claim', { previous: new Uint8Array(31) }))
})

test('whether a record is valid does not depend on how far its clock is ahead or behind', () => {
  for (const kind of KINDS) passes(kind, {}, [2 ** 48 - 1, 0])
  for (const kind of ['grant', 'forget', 'claim', 'statement', 'goodbye', 'drain', 'wanted'] as const)
    passes(kind, {}, [0, 0])
})

test('no body whatsoever makes the check throw anything but a MeshError', () => {
  const value = fc.anything({
    withNullPrototype: false,
    withBigInt: false,
    maxDepth: 2,
    values: [fc.nat(), fc.string(), fc.boolean(), fc.constant(null), fc.uint8Array()],
  })
  fc.assert(
    fc.property(fc.constantFrom(...KINDS), value, value, (kind, a, b) => {
      const fields = Object.keys(GOOD[kind].body)
      const body = { ...GOOD[kind].body, [fields[0] ?? 'a']: a, [fields.at(-1) ?? 'b']: b }
      const record = { ...sealed(kind), body }
      try {
        checkKind(record)
      } catch (error) {
        assert.is((error as { code?: string }).code, 'malformed')
      }
    }),
    { numRuns: 400 },
  )
})

test('a deployment is kept ten deep, a removal and a secret alone, voters for ever, other kinds two deep, and of unknown ones nothing is known', () => {
  const depths: Record<string, number> = {
    deployment: DEPLOYMENT_HISTORY,
    removal: 1,
    secret: 1,
    voters: MAX_GENERATION,
  }
  for (const kind of [...KINDS, ...RESERVED]) {
    const record = seal(AP, MESH, CLOCK, kind, new Uint8Array(1), {})
    assert.is(historyOf(record), depths[kind] ?? HISTORY)
    assert.is(historyOf({ ...record, format: 2 }), undefined)
  }
  assert.is(historyOf(seal(AP, MESH, CLOCK, 'constructor', new Uint8Array(1), {})), undefined)
})

test.run()
