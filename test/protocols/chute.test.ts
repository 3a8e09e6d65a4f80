import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { compareBytes, concat, hex, utf8 } from '../../protocols/bytes.js'
import {
  type ChuteId,
  chuteKey,
  chuteSubject,
  creationTime,
  instanceSubject,
  isInstanceSubject,
  newCreation,
  readChuteSubject,
} from '../../protocols/chute.js'
import { MAX_SUBJECT } from '../../protocols/limits.js'
import { NOW, refused } from './support.js'

const key = fc.uint8Array({ minLength: 32, maxLength: 32 })
const random = fc.uint8Array({ minLength: 8, maxLength: 8 })
const time = fc.integer({ min: 0, max: 2 ** 47 })
const name = fc.stringMatching(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/)

test('a creation id is 16 bytes that hold its time', () => {
  fc.assert(
    fc.property(time, random, (now, noise) => {
      const creation = newCreation(now, noise)
      assert.is(creation.length, 16)
      assert.is(creationTime(creation), now)
      assert.equal(creation.slice(8), noise)
    }),
    { numRuns: 300 },
  )
})

test('a later creation compares greater, whatever its random part', () => {
  fc.assert(
    fc.property(time, fc.integer({ min: 1, max: 1000 }), random, random, (now, later, a, b) => {
      assert.ok(compareBytes(newCreation(now + later, b), newCreation(now, a)) > 0)
    }),
    { numRuns: 300 },
  )
})

test('a creation is later than the one it comes after, even where the clock went back', () => {
  fc.assert(
    fc.property(time, time, random, random, (before, now, a, b) => {
      const first = newCreation(before, a)
      const second = newCreation(now, b, first)
      assert.ok(compareBytes(second, first) > 0)
      assert.ok(creationTime(second) >= now)
    }),
    { numRuns: 300 },
  )
})

test('a creation lies in no future that its signer has not heard of, so that its record is taken', () => {
  fc.assert(
    fc.property(time, time, random, random, (before, now, a, b) => {
      assert.is(creationTime(newCreation(now, b, newCreation(before, a))), Math.max(before, now))
    }),
    { numRuns: 300 },
  )
})

test('two creations that come after the same one, on clocks that are behind it, differ', () => {
  const first = newCreation(NOW, new Uint8Array(8))
  const other = Uint8Array.from([1, 0, 0, 0, 0, 0, 0, 0])
  assert.not.equal(newCreation(NOW - 1, new Uint8Array(8), first), newCreation(NOW - 1, other, first))
})

test('two creations at one moment differ in their random part', () => {
  const other = Uint8Array.from([0, 0, 0, 0, 0, 0, 0, 1])
  assert.not.equal(newCreation(NOW, new Uint8Array(8)), newCreation(NOW, other))
})

test('the subject of a chute round trips, and is short enough for a record', () => {
  fc.assert(
    fc.property(key, name, (publisher, chute) => {
      const subject = chuteSubject(publisher, chute)
      assert.equal(readChuteSubject(subject), { publisher, name: chute })
      assert.ok(subject.length <= MAX_SUBJECT)
    }),
    { numRuns: 300 },
  )
})

test('what is no publisher and name is refused as a subject', () => {
  const publisher = new Uint8Array(32)
  const names = ['', '-a', 'a-', 'A', 'a b', 'a/b', 'a\n', '\0', 'ä', 'a'.repeat(64)]
  for (const wrong of names) refused('malformed', () => readChuteSubject(chuteSubject(publisher, wrong)))
  refused('malformed', () => readChuteSubject(publisher))
  refused('malformed', () => readChuteSubject(utf8('hello')))
  refused('malformed', () => readChuteSubject(new Uint8Array()))
  // 0xe1 would be "a" if only seven bits of it were looked at.
  refused('malformed', () => readChuteSubject(concat(publisher, Uint8Array.of(0xe1))))
})

test('two chutes have one key only where publisher, name and creation are', () => {
  const part = fc.constantFrom(0, 1)
  const id = fc.tuple(part, part, part).map(
    ([publisher, label, creation]): ChuteId => ({
      publisher: new Uint8Array(32).fill(publisher),
      name: ['hello', 'hello2'][label]!,
      creation: new Uint8Array(16).fill(creation),
    }),
  )
  fc.assert(
    fc.property(id, id, (a, b) => {
      const equal = JSON.stringify([hex(a.publisher), a.name, hex(a.creation)])
      const same = equal === JSON.stringify([hex(b.publisher), b.name, hex(b.creation)])
      assert.is(compareBytes(chuteKey(a), chuteKey(b)) === 0, same)
      assert.is(chuteKey(a).length, 20)
    }),
    { numRuns: 100 },
  )
})

const copy = fc.oneof(
  fc.nat(3),
  fc.nat(2 ** 32 - 1),
  fc.constantFrom(0, 1).map((n) => new Uint8Array(32).fill(n)),
)

test('each copy of each chute has a subject of its own', () => {
  const chute = fc.constantFrom(0, 1).map((n) => new Uint8Array(20).fill(n))
  const text = (value: number | Uint8Array) => (typeof value === 'number' ? String(value) : hex(value))
  fc.assert(
    fc.property(chute, copy, chute, copy, (chuteA, copyA, chuteB, copyB) => {
      const [a, b] = [instanceSubject(chuteA, copyA), instanceSubject(chuteB, copyB)]
      const same = chuteA[0] === chuteB[0] && text(copyA) === text(copyB)
      assert.is(compareBytes(a, b) === 0, same)
      assert.ok(isInstanceSubject(a))
    }),
    { numRuns: 300 },
  )
})

test('the copies of one chute are ordered by their ordinals', () => {
  fc.assert(
    fc.property(fc.nat(2 ** 32 - 1), fc.nat(2 ** 32 - 1), (a, b) => {
      const chute = new Uint8Array(20)
      assert.is(Math.sign(compareBytes(instanceSubject(chute, a), instanceSubject(chute, b))), Math.sign(a - b))
    }),
    { numRuns: 200 },
  )
})

test('what has another length or mark is no subject of an instance', () => {
  const chute = new Uint8Array(20)
  const of = (...tail: number[]) => concat(chute, Uint8Array.from(tail))
  const wrong = [
    new Uint8Array(),
    chute,
    of(0),
    of(0, 0, 0, 0),
    of(0, 0, 0, 0, 0, 0),
    of(2, 0, 0, 0, 0),
    of(1, 0, 0, 0, 0),
  ]
  for (const subject of [...wrong, of(0, ...new Uint8Array(32)), of(1, ...new Uint8Array(33))]) {
    assert.not(isInstanceSubject(subject), hex(subject))
  }
})

test.run()
