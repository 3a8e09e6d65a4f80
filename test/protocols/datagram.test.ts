import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { equalBytes } from '../../protocols/bytes.js'
import { encode } from '../../protocols/codec.js'
import {
  type DatagramMessage,
  datagramMessage,
  keyIdOf,
  openDatagram,
  ReplayWindow,
  sealDatagram,
} from '../../protocols/datagram.js'
import { MAX_BOOT, MAX_DATAGRAM, MAX_SEQUENCE } from '../../protocols/limits.js'
import { readFrame } from '../../protocols/wire.js'

const anyKey = fc.uint8Array({ minLength: 32, maxLength: 32 })
const anyId = fc.integer({ min: 0, max: 2 ** 32 - 1 })
const anyCounter = fc.maxSafeNat().map((n) => n % 2 ** 48)
const anyUint = fc.maxSafeNat().map((n) => n % (2 ** 48 + 1))
const anyBoot = fc.maxSafeNat().map((n) => n % (MAX_BOOT + 1))
const anySequence = fc.maxSafeNat().map((n) => n % (MAX_SEQUENCE + 1))
const anyMessage: fc.Arbitrary<DatagramMessage> = fc.oneof(
  fc
    .record(
      { boot: anyBoot, sequence: anySequence, ledger: fc.uint8Array({ minLength: 16, maxLength: 16 }) },
      { noNullPrototype: true },
    )
    .map((pulse) => ['pulse', pulse] as DatagramMessage),
  fc.constant(['heard'] as DatagramMessage),
  fc
    .tuple(anyUint, fc.option(anyKey, { nil: undefined }))
    .map(([n, ap]) => ['ask', n, ap === undefined ? {} : { ap }] as DatagramMessage),
  fc
    .tuple(
      anyUint,
      fc.record({ boot: anyBoot, sequence: anySequence, reached: fc.boolean() }, { noNullPrototype: true }),
    )
    .map(([n, reply]) => ['answer', n, reply] as DatagramMessage),
)
const opened = (key: Uint8Array, bytes: Uint8Array, window = new ReplayWindow()) =>
  openDatagram(key, window, bytes)?.message

test('every message fits a datagram, and comes out as it went in, once', () => {
  fc.assert(
    fc.property(anyId, anyKey, anyCounter, anyMessage, (id, key, counter, message) => {
      const bytes = sealDatagram(id, key, counter, encode(message))
      assert.ok(bytes.length <= MAX_DATAGRAM, `${bytes.length} bytes`)
      assert.is(keyIdOf(bytes), id)
      const window = new ReplayWindow()
      assert.equal(readFrame(datagramMessage, opened(key, bytes, window)!), message)
      assert.is(window.highest, counter)
      assert.is(opened(key, bytes, window), undefined, 'a replay')
    }),
    { numRuns: 300 },
  )
})

test('nothing of a datagram can be changed on its way but the id of its key, and no other key opens it', () => {
  fc.assert(
    fc.property(
      anyKey,
      anyKey,
      anyCounter,
      anyMessage,
      fc.nat(),
      fc.integer({ min: 1, max: 255 }),
      (key, other, counter, message, at, by) => {
        const bytes = sealDatagram(7, key, counter, encode(message))
        const window = new ReplayWindow()
        if (!equalBytes(key, other)) assert.is(opened(other, bytes, window), undefined)
        const changed = Uint8Array.from(bytes)
        changed[4 + (at % (bytes.length - 4))]! ^= by
        assert.is(opened(key, changed, window), undefined)
        assert.is(opened(key, bytes.subarray(0, bytes.length - 1), window), undefined)
        assert.is(window.highest, -1, 'what is forged moves no window')
        assert.ok(opened(key, bytes, window))
      },
    ),
    { numRuns: 300 },
  )
})

test('what is too short or too long to be a datagram has no key, and the rest is never more than not opened', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), anyKey, (bytes, key) => {
      const id = keyIdOf(bytes)
      assert.is(id !== undefined, bytes.length > 26 && bytes.length <= MAX_DATAGRAM)
      if (id !== undefined) assert.is(opened(key, bytes), undefined)
    }),
    { numRuns: 1000 },
  )
})

test('in whichever order counters come, each counts once, and all but those that are 64 behind do', () => {
  const steps = fc.array(fc.oneof(fc.integer({ min: -70, max: 70 }), fc.constant(2 ** 40)), { maxLength: 300 })
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 100 }), steps, (first, steps) => {
      const window = new ReplayWindow()
      const seen = new Set<number>()
      let highest = -1
      for (const step of [0, ...steps]) {
        const counter = Math.min(2 ** 48 - 1, Math.max(0, (highest < 0 ? first : highest) + step))
        const expected = !seen.has(counter) && counter > highest - 64
        assert.is(window.isNew(counter), expected, `${counter} after ${highest}`)
        if (!expected) continue
        window.add(counter)
        seen.add(counter)
        highest = Math.max(highest, counter)
        assert.is(window.highest, highest)
      }
    }),
    { numRuns: 500 },
  )
})

test.run()
