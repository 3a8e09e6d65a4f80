import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { z } from 'zod'
import { equalBytes } from '../../protocols/bytes.js'
import { decode, encode } from '../../protocols/codec.js'
import { reachCard } from '../../protocols/datagram.js'
import { MeshError } from '../../protocols/error.js'
import { MAX_BOOT, MAX_SEQUENCE } from '../../protocols/limits.js'
import * as wire from '../../protocols/wire.js'

const uint = fc.maxSafeNat().map((n) => n % (2 ** 48 + 1))
const boot = fc.maxSafeNat().map((n) => n % (MAX_BOOT + 1))
const sequence = fc.maxSafeNat().map((n) => n % (MAX_SEQUENCE + 1))
const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length })
const envelope = fc.uint8Array({ minLength: 1, maxLength: 100 })
const some = <T>(one: fc.Arbitrary<T>) => fc.array(one, { maxLength: 5 })
const object = <T extends object>(fields: { [K in keyof T]: fc.Arbitrary<T[K]> }, needed?: (keyof T)[]) =>
  fc.record(fields, { noNullPrototype: true, ...(needed === undefined ? {} : { requiredKeys: needed }) })
const word = <T extends unknown[]>(name: string, ...rest: { [I in keyof T]: fc.Arbitrary<T[I]> }) =>
  fc.tuple(fc.constant(name), ...rest)
const hashes = some(bytes(32)).map((all) => Uint8Array.from(all.flatMap((hash) => [...hash])))
const prefix = fc.stringMatching(/^[0-9a-f]{0,62}$/)

/** Each frame of each protocol, and what it can say. */
const FRAMES = {
  joinRequest: word('join', envelope, envelope),
  joinReply: fc.oneof(word('welcome', uint), word('refused', fc.string({ maxLength: 512 }))),
  pulse: object({ boot, sequence, away: fc.nat(60_000), ledger: bytes(16) }, ['boot', 'sequence', 'ledger']),
  probeRequest: object({ ap: bytes(32) }, []),
  probeReply: object({ boot, sequence, reached: fc.boolean() }),
  beaconRequest: fc.constant({}),
  beaconReply: object({ beacon: envelope }, []),
  leaseRequest: object({ asks: some(fc.tuple(bytes(25), uint, uint)), releases: some(fc.tuple(bytes(25), uint)) }),
  leaseReply: some(
    fc.oneof(word('granted'), fc.tuple(fc.constantFrom('unknown', 'quiet', 'held', 'superseded'), uint, uint)),
  ),
  syncFrame: fc.oneof(
    word('hello', bytes(16), uint, some(fc.tuple(bytes(32), boot, sequence))),
    word('ranges', some(fc.oneof(word('digests', prefix, bytes(256)), word('hashes', prefix, hashes)))),
    word('want', hashes),
    word('records', some(envelope)),
    word('beacons', some(envelope)),
    word('end'),
  ),
  reachCard: object({ port: fc.integer({ min: 1, max: 65535 }), id: fc.nat(2 ** 31 - 1), key: bytes(32) }),
} satisfies Partial<Record<keyof typeof wire | 'reachCard', fc.Arbitrary<unknown>>>
const SCHEMAS: Record<keyof typeof FRAMES, z.ZodType> = { ...wire, reachCard }

const anyFrame = fc
  .constantFrom(...(Object.keys(FRAMES) as (keyof typeof FRAMES)[]))
  .chain((name) => fc.tuple(fc.constant(name), FRAMES[name] as fc.Arbitrary<unknown>))

const anything = fc.anything({
  values: [
    fc.uint8Array({ maxLength: 40 }),
    fc.string(),
    fc.integer(),
    fc.boolean(),
    fc.constant(null),
    fc.double({ noNaN: true, noDefaultInfinity: true }),
  ],
  key: fc.string(),
  maxDepth: 4,
})

test('every frame is read as it was written', () => {
  fc.assert(
    fc.property(anyFrame, ([name, frame]) => {
      assert.equal(wire.readFrame(SCHEMAS[name], encode(frame)), frame)
    }),
    { numRuns: 1500 },
  )
})

test('a range of a sync is written as it was read', () => {
  fc.assert(
    fc.property(fc.oneof(word('digests', prefix, bytes(4096)), word('hashes', prefix, hashes)), (range) => {
      const read = range as Parameters<typeof wire.readRange>[0]
      assert.equal(wire.writeRange(wire.readRange(read)), range)
    }),
    { numRuns: 200 },
  )
})

test('a frame of more items than a record has bytes is refused before it is built, one of fewer and long ones is read', () => {
  const many = encode(['records', Array.from({ length: 125_000 }, () => new Uint8Array(1))])
  const started = process.cpuUsage()
  assert.throws(() => wire.readFrame(wire.syncFrame, many), /more than 32768 items/)
  assert.ok(process.cpuUsage(started).user < 50_000, 'it took longer than 50 ms')
  const long = ['records', Array.from({ length: 4096 }, () => new Uint8Array(60))]
  assert.equal(wire.readFrame(wire.syncFrame, encode(long)), long)
})

test('any value is read as it was written', () => {
  fc.assert(
    fc.property(anything, (value) => {
      const written = encode(value)
      assert.ok(equalBytes(encode(decode(written)), written))
    }),
    { numRuns: 1000 },
  )
})

test('whatever comes in place of a frame is refused with a MeshError, or is one', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...(Object.keys(FRAMES) as (keyof typeof FRAMES)[])),
      fc.oneof(
        fc.uint8Array({ maxLength: 100 }),
        anything.map(encode),
        anyFrame.map(([, frame]) => encode(frame)),
      ),
      (name, input) => {
        try {
          wire.readFrame(SCHEMAS[name], input)
        } catch (error) {
          assert.instance(error, MeshError)
        }
      },
    ),
    { numRuns: 2000 },
  )
})

test.run()
