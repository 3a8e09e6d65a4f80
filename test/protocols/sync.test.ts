import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { hex, sha256, utf8 } from '../../protocols/bytes.js'
import { type SignedRecord, seal } from '../../protocols/envelope.js'
import type { Ledger } from '../../protocols/ledger.js'
import { compareRange, type Range, wholeRange } from '../../protocols/sync.js'
import { readRange, writeRange } from '../../protocols/wire.js'
import { ledgerOf, MESH, NOW, signer, unsigned } from './support.js'

const POOL: SignedRecord[] = Array.from({ length: 3000 }, (_, i) =>
  seal(signer(1), MESH, [NOW, i], 'forget', sha256(utf8(`${i}`)), {}),
)

interface Course {
  turns: number
  /** Of ranges and wants, as they travel. */
  bytes: number
  records: number
}

const weight = (range: Range): number => {
  const [, prefix, joined] = writeRange(range)
  return prefix.length + joined.length
}

/** Lets two sides answer each other until one asks nothing. */
function reconcile(a: Ledger, b: Ledger): Course {
  const course = { turns: 0, bytes: 0, records: 0 }
  let ranges: Range[] = [wholeRange(b)]
  let wanted: Uint8Array[] = []
  for (let [ours, theirs] = [a, b]; ranges.length + wanted.length > 0; [ours, theirs] = [theirs, ours]) {
    course.turns++
    course.bytes += ranges.reduce((sum, range) => sum + weight(range), 32 * wanted.length)
    const answers = ranges.map((range) => compareRange(ours, readRange(writeRange(range))))
    const given = [...answers.flatMap(({ give }) => give), ...wanted.map((hash) => ours.get(hash)!)]
    for (const one of given) theirs.merge(one)
    course.records += given.length
    ranges = answers.flatMap((answer) => answer.ranges)
    wanted = answers.flatMap(({ want }) => want)
  }
  return course
}

const some = fc.oneof(fc.shuffledSubarray(POOL), fc.shuffledSubarray(POOL, { maxLength: 50 }))

test('whatever two sides hold, answering each other makes them equal, and no record travels that the other has', () => {
  fc.assert(
    fc.property(some, some, some, (shared, ofA, ofB) => {
      const [a, b] = [ledgerOf([...shared, ...ofA]), ledgerOf([...ofB, ...shared])]
      const union = ledgerOf([...shared, ...ofA, ...ofB])
      const { records, turns } = reconcile(a, b)
      assert.is(hex(a.digest()), hex(union.digest()))
      assert.is(hex(b.digest()), hex(union.digest()))
      assert.is(records, 2 * union.size - new Set([...shared, ...ofA]).size - new Set([...shared, ...ofB]).size)
      assert.ok(turns <= 5, `${turns} turns`)
    }),
    { numRuns: 30 },
  )
})

test('equal ledgers ask for nothing, and an empty side costs no hash', () => {
  const full = ledgerOf(POOL)
  assert.equal(compareRange(full, wholeRange(ledgerOf(POOL))), { ranges: [], want: [], give: [] })
  assert.is(compareRange(full, wholeRange(ledgerOf([]))).give.length, POOL.length)
  const joining = reconcile(ledgerOf([]), ledgerOf(POOL))
  assert.is(joining.records, POOL.length)
  assert.ok(joining.bytes < 6000, `${joining.bytes} bytes`)
})

test('what is asked follows the difference, not the ledgers', () => {
  const costOf = (difference: number) => {
    const [a, b] = [ledgerOf(POOL), ledgerOf(POOL.slice(0, POOL.length - difference))]
    const { bytes, records } = reconcile(a, b)
    assert.is(records, difference)
    return bytes
  }
  const [one, ten] = [costOf(1), costOf(10)] as const
  assert.ok(one < 256 * 16 + 1000, `${one} bytes for one record`)
  assert.ok(ten < 256 * 16 + 10 * 1000, `${ten} bytes for ten records`)
})

test('a large ledger is divided until what differs is small, at the cost of a turn', () => {
  const many = Array.from({ length: 20_000 }, (_, i) =>
    unsigned(signer(1).publicKey, 'grant', sha256(utf8(`${i}`)), [NOW, 0], { role: 'ap', expires: 0 }),
  )
  const [a, b] = [ledgerOf(many), ledgerOf(many.slice(10))]
  const { bytes, turns, records } = reconcile(a, b)
  assert.is(records, 10)
  assert.is(hex(a.digest()), hex(b.digest()))
  // A range in 256 parts, then ten in 16, then what few hashes are in a 4096th.
  assert.ok(bytes < 256 * 16 + 10 * (16 * 16 + 20 * 32), `${bytes} bytes`)
  assert.ok(turns <= 5, `${turns} turns`)
})

test('a range may be as narrow or as wide as the other side likes', () => {
  const ledger = ledgerOf(POOL)
  fc.assert(
    fc.property(fc.nat(POOL.length - 1), fc.nat(64), (i, digits) => {
      const prefix = hex(POOL[i]!.hash).slice(0, digits)
      const inRange = POOL.filter(({ hash }) => hex(hash).startsWith(prefix))
      const { give, want, ranges } = compareRange(ledger, { prefix, hashes: [] })
      assert.equal(give.map(({ hash }) => hex(hash)).sort(), inRange.map(({ hash }) => hex(hash)).sort())
      assert.equal([want, ranges], [[], []])
    }),
    { numRuns: 40 },
  )
})

test.run()
