import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { concat, hex, sha256, utf8 } from '../../protocols/bytes.js'
import { ChunkSet, describeBlob, Leaves, leafOf, rootOf, spanOf } from '../../protocols/chunks.js'
import { MAX_CHUNK } from '../../protocols/limits.js'
import { Picker } from '../../protocols/picker.js'

async function* inParts(bytes: Uint8Array, sizes: readonly number[]): AsyncGenerator<Uint8Array> {
  let at = 0
  for (const size of [...sizes, bytes.length]) {
    if (at < bytes.length) yield bytes.subarray(at, at + size)
    at += size
  }
}

test('the root is that of RFC 6962', () => {
  // The tree hashes of the test vectors that Certificate Transparency's own implementations share.
  const inputs = ['', '00', '10', '2021', '3031', '40414243', '5051525354555657', '606162636465666768696a6b6c6d6e6f']
  const leaves = inputs.map((input) => leafOf(new Uint8Array(Buffer.from(input, 'hex'))))
  const roots = [1, 2, 3, 5, 8].map((n) => hex(rootOf(concat(...leaves.slice(0, n)))))
  assert.equal(roots, [
    '6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d',
    'fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125',
    'aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77',
    '4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4',
    '5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328',
  ])
  assert.is(hex(rootOf(new Uint8Array())), hex(sha256(utf8(''))))
})

test('what is signed of a blob does not depend on how it was read, and each chunk matches its own place alone', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 0, max: 3 * MAX_CHUNK + 5 }),
      fc.array(fc.integer({ min: 1, max: 2 * MAX_CHUNK }), { maxLength: 5 }),
      async (size, sizes) => {
        const bytes = new Uint8Array(size).map((_, i) => (i >> 18) + i)
        const { blob, leaves } = await describeBlob(inParts(bytes, sizes))
        assert.is(hex(blob.digest), createHash('sha256').update(bytes).digest('hex'))
        assert.is(blob.size, size)
        const known = blob.root === undefined ? Leaves.ofOne(blob) : Leaves.of(blob, leaves)
        const count = Math.ceil(size / MAX_CHUNK)
        assert.is(blob.root === undefined, count <= 1)
        for (let index = 0; index < count; index++) {
          const { start, end } = spanOf(size, index)
          const chunk = bytes.slice(start, end)
          assert.ok(known.matches(index, chunk))
          if (count > 1) assert.not(known.matches((index + 1) % count, chunk))
          chunk[0]! ^= 1
          assert.not(known.matches(index, chunk))
        }
      },
    ),
    { numRuns: 20 },
  )
})

test('hashes of chunks that are too few, too many or others are refused', async () => {
  const bytes = new Uint8Array(2 * MAX_CHUNK + 1)
  const { blob, leaves } = await describeBlob(inParts(bytes, []))
  Leaves.of(blob, leaves)
  for (const wrong of [
    leaves.subarray(32),
    concat(leaves, leaves.subarray(0, 32)),
    leaves.map((byte) => byte ^ 1),
    new Uint8Array(),
  ])
    assert.throws(() => Leaves.of(blob, wrong), /not those of the blob/)
})

test('a set of chunks is what went into it, and bits beyond its end are none', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 40 }), fc.array(fc.nat(60)), (count, chosen) => {
      const set = new ChunkSet(count)
      const wanted = new Set(chosen.filter((index) => index < count))
      for (const index of wanted) assert.ok(set.add(index))
      for (const index of wanted) assert.not(set.add(index))
      const again = new ChunkSet(count, set.bits)
      for (let index = 0; index < count; index++) assert.is(again.has(index), wanted.has(index))
      assert.is(again.size, wanted.size)
      assert.is(ChunkSet.full(count).size, count)
      assert.ok(ChunkSet.full(count).isFull)
      assert.throws(() => new ChunkSet(count, new Uint8Array(Math.ceil(count / 8) + 1)), /another size/)
    }),
  )
})

test('whatever sources have, come with and leave with, all that some have is had in the end, rarest first', () => {
  const source = fc.record({
    has: fc.array(fc.nat(19), { maxLength: 20 }),
    dropsAt: fc.nat(60),
    reliable: fc.boolean(),
  })
  fc.assert(
    fc.property(
      fc.array(source, { minLength: 1, maxLength: 5 }),
      fc.infiniteStream(fc.double({ min: 0, max: 0.999, noNaN: true })),
      (sources, randoms) => {
        const picker = new Picker(20, () => randoms.next().value as number)
        const sets = sources.map(({ has }) => {
          const set = new ChunkSet(20)
          for (const index of has) set.add(index)
          return set
        })
        const here = new Set<number>()
        for (const [i, set] of sets.entries()) picker.tell(`s${i}`, 0, set)
        // The last one stays, and answers always.
        const last = sources.length - 1
        for (let step = 0; step < 100; step++) {
          for (const [i, { dropsAt, reliable }] of sources.entries()) {
            if (i !== last && step === dropsAt) picker.drop(`s${i}`)
            if (i !== last && step >= dropsAt) continue
            const index = picker.take(`s${i}`, step, 10)
            if (index === undefined) continue
            assert.ok(sets[i]!.has(index), 'it was asked for what it does not have')
            assert.not(here.has(index), 'what is here was asked for')
            if (reliable || i === last) {
              here.add(index)
              picker.got(index)
            }
          }
        }
        for (let index = 0; index < 20; index++) if (sets[last]!.has(index)) assert.ok(here.has(index))
      },
    ),
  )
})

const setOf = (count: number, ...indices: number[]): ChunkSet => {
  const set = new ChunkSet(count)
  for (const index of indices) set.add(index)
  return set
}

test('what fewest have is asked for first, and what was given to others counts as theirs', () => {
  const picker = new Picker(3, () => 0.5)
  picker.tell('a', 0, ChunkSet.full(3))
  picker.tell('b', 0, setOf(3, 0, 2))
  assert.is(picker.take('a', 0, 0), 1, 'the one that b does not have')
  const among = new Picker(4, () => 0.99)
  among.tell('a', 0, ChunkSet.full(4), setOf(4, 0, 2, 3))
  assert.is(among.take('a', 0, 0), 1, 'the one that a gave to nobody')
  among.tell('a', 0, ChunkSet.full(4), setOf(4, 0, 1, 3))
  assert.is(among.take('a', 0, 0), 2, 'it goes by what was told last')
})

test('what who has all gave to another one is left to come from there, for a while', () => {
  const picker = new Picker(3, () => 0)
  picker.tell('a', 1000, ChunkSet.full(3), setOf(3, 0, 1))
  assert.ok(picker.isFirst(2))
  assert.not(picker.isFirst(0))
  assert.is(picker.take('a', 1000, 0), 2)
  assert.is(picker.take('a', 2999, 0), undefined, 'what others were given two seconds ago')
  assert.is(picker.take('a', 2999, 5000), undefined)
  picker.tell('b', 2000, setOf(3, 0))
  assert.is(picker.take('a', 2999, 0), 0, 'one of them can have it by now, and may be slow')
  assert.is(picker.take('a', 3000, 0), 1, 'it was waited for long enough')

  const refused = new Picker(3, () => 0)
  refused.tell('a', 0, ChunkSet.full(3))
  assert.is(refused.take('a', 0, 9000), 0)
  refused.refused('a', 0)
  refused.tell('a', 0, ChunkSet.full(3), setOf(3, 0))
  assert.equal([refused.take('a', 0, 9000), refused.take('a', 0, 9000)], [1, 2])
  assert.is(refused.take('a', 9000, 9000), 0)

  const flickering = new Picker(2, () => 0)
  for (let now = 0; now < 3000; now += 500)
    flickering.tell('liar', now, new ChunkSet(2), now % 1000 === 0 ? setOf(2, 0, 1) : undefined)
  flickering.tell('a', 3000, ChunkSet.full(2))
  flickering.tell('liar', 3000, new ChunkSet(2), setOf(2, 0, 1))
  assert.is(flickering.take('a', 3000, 0), 0, 'whoever says that it gave a chunk, and that it did not')

  const single = new Picker(1, () => 0)
  single.tell('a', 0, ChunkSet.full(1), setOf(1, 0))
  assert.is(single.take('a', 0, 9000), 0, 'one chunk is not worth to wait for')
})

test('whatever sources told before, the rarest is what fewest have by what they told last', () => {
  const told = fc.record({
    who: fc.nat(3),
    has: fc.uniqueArray(fc.nat(9)),
    given: fc.uniqueArray(fc.nat(9)),
    gone: fc.boolean(),
  })
  fc.assert(
    fc.property(
      fc.array(told, { minLength: 1, maxLength: 12 }),
      fc.double({ min: 0, max: 0.999, noNaN: true }),
      (all, random) => {
        const picker = new Picker(10, () => random)
        const last = new Map<number, { has: number[]; given: number[] }>()
        for (const { who, has, given, gone } of all) {
          if (gone) picker.drop(`${who}`)
          else picker.tell(`${who}`, 0, setOf(10, ...has), setOf(10, ...given))
          if (gone) last.delete(who)
          else last.set(who, { has, given })
        }
        const copies = (index: number) =>
          [...last.values()].reduce((n, { has, given }) => n + +has.includes(index) + +given.includes(index), 0)
        for (const [who, { has }] of last) {
          const index = picker.take(`${who}`, 9000, 1)
          if (index === undefined) continue
          picker.got(index)
          const least = Math.min(...has.filter((other) => other === index || !picker.here.has(other)).map(copies))
          assert.is(copies(index), least)
        }
      },
    ),
  )
})

test('a single source is asked for one chunk after the other', () => {
  const randoms = [0.5, 0.1, 0.9, 0.3, 0.7, 0.2]
  const picker = new Picker(5, () => randoms.shift()!)
  picker.tell('a', 0, ChunkSet.full(5))
  assert.equal(
    [1, 2, 3, 4, 5].map((now) => picker.take('a', now, 0)),
    [2, 3, 4, 0, 1],
  )
})

test('what one was asked for is asked of another once it is late, and of no third', () => {
  const picker = new Picker(1, () => 0)
  for (const source of ['a', 'b', 'c']) picker.tell(source, 0, ChunkSet.full(1))
  assert.is(picker.take('a', 1000, 500), 0)
  assert.is(picker.take('b', 1400, 500), undefined, 'it may still come')
  assert.is(picker.take('a', 2000, 500), undefined, 'the same one was asked again')
  assert.is(picker.take('b', 2000, 500), 0)
  assert.is(picker.take('c', 9000, 500), undefined)
  picker.drop('a')
  assert.is(picker.take('c', 9000, 500), 0)
})

test('a source can be spared where others have what it was asked for', () => {
  const picker = new Picker(2, () => 0)
  picker.tell('a', 0, ChunkSet.full(2))
  picker.tell('b', 0, setOf(2, 0))
  assert.ok(picker.canSpare('a'))
  assert.is(picker.take('a', 0, 0), 1)
  assert.not(picker.canSpare('a'), 'it alone has chunk 1')
  picker.got(1)
  assert.is(picker.take('a', 0, 0), 0)
  assert.ok(picker.canSpare('a'))
})

test.run()
