import * as fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { hex, sha256 } from '../../protocols/bytes.js'
import type { Blob } from '../../protocols/chunks.js'
import { encode } from '../../protocols/codec.js'
import { MeshError } from '../../protocols/error.js'
import { MAX_BLOB, MAX_CHUNK } from '../../protocols/limits.js'
import { readDescriptor, writeDescriptor } from '../../protocols/package.js'

const bytes = fc.uint8Array({ minLength: 32, maxLength: 32 })
const blob: fc.Arbitrary<Blob> = fc.oneof(
  fc.record({ digest: bytes, size: fc.nat(MAX_CHUNK), root: fc.constant(undefined) }),
  fc.record({ digest: bytes, size: fc.integer({ min: MAX_CHUNK + 1, max: MAX_BLOB }), root: bytes }),
)
const blobs = fc.uniqueArray(blob, { minLength: 1, maxLength: 30, selector: ({ digest }) => hex(digest) })

const refusal = (run: () => unknown): string => {
  try {
    run()
  } catch (error) {
    assert.instance(error, MeshError)
    return `${(error as MeshError).code}: ${(error as MeshError).message}`
  }
  throw new Error('it was taken')
}

test('a descriptor is read as it was written, and the same blobs make the same package in any order', () => {
  fc.assert(
    fc.property(blobs, fc.infiniteStream(fc.nat()), (all, order) => {
      const written = writeDescriptor(all)
      assert.equal([...readDescriptor(written).values()].map(hashless).sort(byDigest), all.map(hashless).sort(byDigest))
      const shuffled = all.map((one) => [order.next().value, one] as const).sort(([a], [b]) => a - b)
      assert.is(hex(writeDescriptor([...shuffled, ...shuffled].map(([, one]) => one))), hex(written))
    }),
  )
})
const hashless = ({ digest, size, root }: Blob) => ({ digest: hex(digest), size, root: root && hex(root) })
const byDigest = (a: { digest: string }, b: { digest: string }) => (a.digest < b.digest ? -1 : 1)

test('a descriptor with blobs out of order, twice, without the root they need or with one they do not, is refused', () => {
  const [a, b] = [sha256(Uint8Array.of(1)), sha256(Uint8Array.of(2))].sort((x, y) => Buffer.compare(x, y)) as [
    Uint8Array,
    Uint8Array,
  ]
  const of = (...entries: unknown[]) => encode({ blobs: entries })
  assert.is(readDescriptor(of([a, 1], [b, MAX_CHUNK + 1, a])).size, 2)
  for (const wrong of [
    of([b, 1], [a, 1]),
    of([a, 1], [a, 1]),
    of([a, MAX_CHUNK + 1]),
    of([a, 1, b]),
    of([a, MAX_BLOB + 1, b]),
    of([a, -1]),
    of(),
    encode({}),
    encode([]),
  ])
    assert.match(
      refusal(() => readDescriptor(wrong)),
      /^malformed: /,
    )
})

test('a descriptor is one chunk at most, and who would write more is told', () => {
  const many = Array.from({ length: 8000 }, (_, i) => ({ digest: sha256(encode(i)), size: i }))
  assert.match(
    refusal(() => writeDescriptor(many)),
    /^package-too-big: a package of 8000 blobs/,
  )
  assert.match(
    refusal(() => readDescriptor(new Uint8Array(MAX_CHUNK + 1))),
    /^malformed: /,
  )
})

test.run()
