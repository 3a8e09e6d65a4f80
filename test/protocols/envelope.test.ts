import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { concat, equalBytes, hex, sha256, unhex, utf8 } from '../../protocols/bytes.js'
import type { Clock } from '../../protocols/clock.js'
import { encode } from '../../protocols/codec.js'
import { compareRecords, FORMAT, open, readBack, type SignedRecord, seal } from '../../protocols/envelope.js'
import { MeshError } from '../../protocols/error.js'
import { personSigner } from '../../protocols/keys.js'
import { MAX_DEPTH, MAX_RECORD, MAX_SUBJECT } from '../../protocols/limits.js'
import { MESH, NOW, refusalOf, refused, sealRaw, seedOf, signer } from './support.js'

const BY = signer(1)
const CLOCK: Clock = [NOW, 7]
const SUBJECT = utf8('subject')

const sealed = (body: object, kind = 'note'): SignedRecord => seal(BY, MESH, CLOCK, kind, SUBJECT, body)

/** The seven parts of a payload, with any of them replaced, and what is not CBOR's own taken as bytes. */
function payloadOf(changes: Record<number, unknown> = {}): Uint8Array {
  const parts = [FORMAT, 'note', MESH, BY.publicKey, CLOCK, SUBJECT, {}]
  return encode(parts.map((part, i) => (i in changes ? changes[i] : part)))
}

/** A payload whose body is these bytes, whatever they are. */
const payloadWithBody = (body: Uint8Array): Uint8Array => concat(payloadOf().slice(0, -1), body)

const openRaw = (payload: Uint8Array, kind = 'note', mesh = MESH) => open(sealRaw(BY, kind, mesh, payload), MESH)

const body = fc.dictionary(
  fc.string({ maxLength: 12, unit: 'grapheme' }).filter((key) => key !== '__proto__'),
  fc.oneof(
    fc.maxSafeInteger(),
    fc.string({ unit: 'binary' }),
    fc.boolean(),
    fc.constant(null),
    fc.double({ noNaN: true }).filter((n) => Number.isFinite(n) && !Object.is(n, -0)),
    fc.uint8Array(),
    fc.array(fc.nat(300)),
  ),
  { noNullPrototype: true },
)

test('what was sealed opens as it was, and its bytes are kept as they were signed', () => {
  fc.assert(
    fc.property(
      body,
      fc.stringMatching(/^[a-z][a-z-]{0,23}$/),
      fc.tuple(fc.nat(2 ** 31), fc.nat(2 ** 16 - 1)),
      fc.uint8Array({ minLength: 1, maxLength: MAX_SUBJECT }),
      (content, kind, clock, subject) => {
        const record = seal(BY, MESH, clock, kind, subject, content)
        const opened = open(Uint8Array.from(record.bytes), MESH)
        assert.equal({ ...opened, bytes: record.bytes }, record)
        assert.ok(equalBytes(opened.bytes, record.bytes))
        assert.equal(readBack(record.bytes, record.hash), record)
        assert.is(opened.format, FORMAT)
      },
    ),
    { numRuns: 300 },
  )
})

test('the hash of a record is that of its payload alone, so that a statement signed twice is one record', () => {
  const record = sealed({ text: 'hello' })
  const payload = payloadOf({ 6: { text: 'hello' } })
  assert.equal(record.hash, sha256(payload))
  assert.equal(open(sealRaw(BY, 'note', MESH, payload), MESH).hash, record.hash)
})

test('a record whose payload changed on disk is not read back', () => {
  const { bytes, hash } = sealed({ text: 'hello' })
  const payloadAt = 5
  fc.assert(
    fc.property(
      fc.integer({ min: payloadAt, max: bytes.length - 67 }),
      fc.integer({ min: 1, max: 255 }),
      (at, flip) => {
        const changed = Uint8Array.from(bytes)
        changed[at]! ^= flip
        assert.throws(() => readBack(changed, hash))
      },
    ),
  )
  assert.throws(() => readBack(bytes.subarray(0, 40), hash))
})

test('an AP and a person with one key seal the same record', () => {
  const [ap, person] = [signer(3), personSigner(seedOf(3))].map((by) => seal(by, MESH, CLOCK, 'note', SUBJECT, {}))
  assert.equal(ap, person)
})

test('a bit flipped anywhere is refused', () => {
  const { bytes } = sealed({ name: 'hello', count: 5, key: new Uint8Array(32) })
  for (let bit = 0; bit < bytes.length * 8; bit++) {
    const damaged = Uint8Array.from(bytes)
    damaged[bit >> 3]! ^= 1 << (bit & 7)
    const { code } = refusalOf(() => open(damaged, MESH))
    assert.ok(['malformed', 'other-mesh', 'bad-signature'].includes(code), `bit ${bit}: ${code}`)
  }
})

test('an envelope cut short, or with a byte too many, is malformed', () => {
  const { bytes } = sealed({ name: 'hello' })
  for (let length = 0; length < bytes.length; length++) refused('malformed', () => open(bytes.slice(0, length), MESH))
  refused('malformed', () => open(concat(bytes, Uint8Array.of(0)), MESH))
})

test('a record has at most 32 KiB: one byte more is refused where it is sealed and where it is opened', () => {
  const size = (length: number) => ({ blob: new Uint8Array(length) })
  const overhead = sealed(size(30_000)).bytes.length - 30_000
  const largest = sealed(size(MAX_RECORD - overhead))
  assert.is(largest.bytes.length, 32 * 1024)
  assert.equal(open(largest.bytes, MESH), largest)
  refused('record-too-big', () => sealed(size(MAX_RECORD - overhead + 1)))
  const larger = sealRaw(BY, 'note', MESH, payloadOf({ 6: size(MAX_RECORD - overhead + 1) }))
  assert.is(larger.length, MAX_RECORD + 1)
  refused('record-too-big', () => open(larger, MESH))
})

test('a record of another mesh is refused', () => {
  const other = new Uint8Array(20).fill(9)
  refused('other-mesh', () => open(seal(BY, other, CLOCK, 'note', SUBJECT, {}).bytes, MESH))
})

test('a signature fits no other kind, no other mesh and no other protocol', () => {
  const payload = payloadOf()
  assert.equal(openRaw(payload).kind, 'note')
  refused('bad-signature', () => openRaw(payload, 'nota'))
  refused('bad-signature', () => openRaw(payload, 'note', new Uint8Array(20)))
  for (const message of [payload, concat(MESH, payload), concat(utf8('note\0'), MESH, payload)]) {
    refused('bad-signature', () => open(encode([payload, BY.sign(message)]), MESH))
  }
})

test('a record that someone else signed is refused', () => {
  const payload = payloadOf()
  refused('bad-signature', () => open(sealRaw(signer(2), 'note', MESH, payload), MESH))
  const { bytes } = seal(signer(2), MESH, CLOCK, 'note', SUBJECT, {})
  assert.equal(open(bytes, MESH).signer, signer(2).publicKey)
})

test('a record of a signer whose key has small order is refused, though its signature fits', () => {
  const identity = concat(Uint8Array.of(1), new Uint8Array(31))
  const forged = concat(identity, new Uint8Array(32))
  refused('bad-signature', () => open(encode([payloadOf({ 3: identity }), forged]), MESH))
})

test('a payload with a part of a wrong shape is malformed, though its signature fits', () => {
  const wrong: Record<number, unknown[]> = {
    0: [0, -1, 256, 1.5, '1', null],
    1: ['', 'Note', 'no te', 'note\0', '-note', 'n'.repeat(25), 5],
    3: [new Uint8Array(31), new Uint8Array(33), 'x'],
    4: [[NOW], [NOW, 0, 0], [-1, 0], [2 ** 48, 0], [0, 2 ** 16], [0.5, 0], NOW],
    5: [new Uint8Array(), new Uint8Array(MAX_SUBJECT + 1), 'subject'],
    6: [[], null, 'body', 5, new Uint8Array(5)],
  }
  for (const [part, values] of Object.entries(wrong)) {
    for (const value of values) {
      const kind = part === '1' ? String(value) : 'note'
      refused('malformed', () => openRaw(payloadOf({ [part]: value }), kind))
    }
  }
  for (const mesh of [MESH.slice(1), concat(MESH, Uint8Array.of(0))]) {
    refused('malformed', () => openRaw(payloadOf({ 2: mesh }), 'note', mesh))
  }
  refused('malformed', () => openRaw(encode([FORMAT, 'note', MESH, BY.publicKey, CLOCK, SUBJECT])))
  refused('malformed', () => openRaw(encode([FORMAT, 'note', MESH, BY.publicKey, CLOCK, SUBJECT, {}, {}])))
  refused('malformed', () => open(encode([payloadOf()]), MESH))
  refused('malformed', () => open(encode([payloadOf(), BY.sign(payloadOf()), 0]), MESH))
  refused('malformed', () => open(encode([payloadOf(), new Uint8Array(63)]), MESH))
})

// The body of each is a map that says nothing more than its canonical form would.
const NOT_CANONICAL = {
  'a map of indefinite length': 'bf616101ff',
  'a list of indefinite length': 'a161619f01ff',
  'text of indefinite length': 'a161617f6162ff',
  'bytes of indefinite length': 'a161615f4101ff',
  'an integer in more bytes than needed': 'a161611801',
  'an integer in eight bytes': 'a161611b0000000000000001',
  'a length in more bytes than needed': 'a16161780162',
  'the length of a key in more bytes than needed': 'a178016101',
  'the number of entries in more bytes than needed': 'b801616101',
  'a key given twice': 'a2616101616101',
  'keys out of order': 'a2616201616102',
  'a longer key before a shorter one': 'a262616101616201',
  'a key that is no text': 'a10101',
  'a tag': 'a16161c001',
  'a big number': 'a16161c24101',
  'an integer beyond 2^53': 'a161611b0020000000000000',
  undefined: 'a16161f7',
  'another simple value': 'a16161f820',
  'not a number': 'a16161f97e00',
  infinity: 'a16161f97c00',
  'an integer as a float': 'a16161f93c00',
  'a float in more bytes than needed': 'a16161fb3ff8000000000000',
  'minus zero': 'a16161f98000',
  'text that is no UTF-8': 'a1616161ff',
  'half a character': 'a1616163eda080',
  'a break': 'a16161ff',
  'a second item': 'a001',
}

test('CBOR that is not canonical is malformed, though its signature fits', () => {
  for (const [name, bytes] of Object.entries(NOT_CANONICAL)) {
    assert.is(refusalOf(() => openRaw(payloadWithBody(unhex(bytes)))).code, 'malformed', name)
  }
  // The same in its canonical form opens, so it was the form that was refused.
  for (const bytes of ['a0', 'a1616101', 'a2616101616202', 'a261620162616101', 'a16161f93e00', 'a1616162c3a9']) {
    openRaw(payloadWithBody(unhex(bytes)))
  }
})

test('an envelope that is not canonical is malformed, so that one record has one form', () => {
  const payload = payloadOf()
  const signature = sealRaw(BY, 'note', MESH, payload).slice(-64)
  const [head, tail] = [Uint8Array.of(0x58, payload.length), Uint8Array.of(0x58, 64)]
  const canonical = concat(Uint8Array.of(0x82), head, payload, tail, signature)
  open(canonical, MESH)
  const long = (length: number) => Uint8Array.of(0x59, 0, length)
  const wrong = [
    concat(Uint8Array.of(0x98, 2), head, payload, tail, signature),
    concat(Uint8Array.of(0x9f), head, payload, tail, signature, Uint8Array.of(0xff)),
    concat(Uint8Array.of(0x82), long(payload.length), payload, tail, signature),
    concat(Uint8Array.of(0x82), head, payload, long(64), signature),
    concat(Uint8Array.of(0x82), head, payload, Uint8Array.of(0x5f), tail, signature, Uint8Array.of(0xff)),
    concat(Uint8Array.of(0xc1), canonical),
  ]
  for (const bytes of wrong) refused('malformed', () => open(bytes, MESH))
})

test('what nests deeper than the limit is malformed, far below what any stack holds', () => {
  const nested = (depth: number) => concat(unhex(`a16161${'81'.repeat(depth)}`), Uint8Array.of(1))
  // The payload and its body are two levels themselves.
  openRaw(payloadWithBody(nested(MAX_DEPTH - 2)))
  for (const depth of [MAX_DEPTH - 1, MAX_DEPTH, 100, 500, 1000, 5000, 20_000, 32_000]) {
    refused('malformed', () => openRaw(payloadWithBody(nested(depth))))
    refused('malformed', () =>
      openRaw(payloadWithBody(concat(unhex('a16161'.repeat(Math.min(depth + 1, 10_000))), Uint8Array.of(1)))),
    )
    refused('malformed', () => open(concat(new Uint8Array(depth).fill(0x81), Uint8Array.of(1)), MESH))
  }
})

const tolerates = (run: () => unknown): void => {
  try {
    run()
  } catch (error) {
    assert.instance(error, MeshError)
  }
}

test('random bytes are refused with a MeshError, and nothing else is ever thrown', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      assert.instance(
        refusalOf(() => open(bytes, MESH)),
        MeshError,
      )
      // As payload and as body they get past the checks before theirs.
      tolerates(() => openRaw(bytes))
      tolerates(() => openRaw(payloadWithBody(bytes)))
    }),
    { numRuns: 1000 },
  )
})

test('a good payload with random bytes in it is refused with a MeshError, or opens', () => {
  const payload = payloadOf({ 6: { name: 'hello', list: [1, 2, { three: new Uint8Array(5) }], big: 2 ** 40 } })
  const change = fc.tuple(fc.nat(payload.length - 1), fc.nat(255))
  fc.assert(
    fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), (changes) => {
      const changed = Uint8Array.from(payload)
      for (const [at, byte] of changes) changed[at] = byte
      tolerates(() => openRaw(changed))
    }),
    { numRuns: 1500 },
  )
})

test('a kind and a format that nobody knows yet open and are told as they are', () => {
  assert.is(open(sealed({ any: 'thing' }, 'not-yet-invented').bytes, MESH).kind, 'not-yet-invented')
  assert.is(openRaw(payloadOf({ 0: 2 })).format, 2)
})

test('a field that is undefined is left out, and one with the name of a prototype reaches no prototype', () => {
  assert.equal(open(sealed({ a: 1, b: undefined, c: { d: undefined } }).bytes, MESH).body, { a: 1, c: {} })
  const opened = openRaw(payloadWithBody(concat(unhex('a1695f5f70726f746f5f5f'), encode({ polluted: true }))))
  assert.is((opened.body as { polluted?: boolean }).polluted, undefined)
  assert.is(({} as { polluted?: boolean }).polluted, undefined)
})

test('records are ordered by clock, then by hash, and equal only to themselves', () => {
  const [a, b] = [sealed({ n: 1 }), sealed({ n: 2 })].sort(compareRecords)
  const later = seal(BY, MESH, [NOW, 8], 'note', SUBJECT, { n: 1 })
  assert.ok(hex(a!.hash) < hex(b!.hash))
  assert.is(compareRecords(a!, a!), 0)
  for (const earlier of [a!, b!]) assert.ok(compareRecords(earlier, later) < 0)
})

test.run()
