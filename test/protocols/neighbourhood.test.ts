import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { apId } from '../../protocols/bytes.js'
import type { Member } from '../../protocols/membership.js'
import {
  type Divisions,
  divisionsOf,
  isPrefix,
  Neighbourhoods,
  neighbourhoodsOf,
  THRESHOLDS,
  writePrefix,
} from '../../protocols/neighbourhood.js'
import { ledgerOf, MESH, memberOf, NOW, record, refused, signer } from './support.js'

type Labels = Member['labels']
const inSite = (site: string | undefined): Labels => (site === undefined ? {} : { site })
const upTo = (n: number) => Array.from({ length: n }, (_, i) => i)
const membersOf = (numbers: Iterable<number>, labels: (n: number) => Labels = () => ({})) =>
  new Map([...numbers].map((n) => [memberOf(n).id, memberOf(n, { labels: labels(n) })]))
const NONE: Divisions = new Map()
const SMALL = { split: 4, join: 2, least: 1 }

const sizes = (of: Neighbourhoods) => of.all.map(({ members }) => members.length)
const allWatchers = (of: Neighbourhoods, members: ReadonlyMap<string, Member>) =>
  new Map([...members.keys()].map((id) => [id, of.watchersOf(id)]))

/** How many each one watches, sorted. */
function loads(of: Neighbourhoods, members: ReadonlyMap<string, Member>): number[] {
  const counts = new Map([...members.keys()].map((id) => [id, 0]))
  for (const watchers of allWatchers(of, members).values())
    for (const id of watchers) counts.set(id, counts.get(id)! + 1)
  return [...counts.values()].sort((a, b) => a - b)
}

test('a mesh of up to 64 is one neighbourhood, whatever its labels say', () => {
  for (const n of [0, 1, 24, 64]) {
    const of = new Neighbourhoods(
      membersOf(upTo(n), (i) => ({ site: `site ${i % 7}` })),
      NONE,
    )
    assert.equal(sizes(of), [n])
    assert.is(of.all[0]!.prefix, '')
  }
})

test('each member of a larger mesh is in one neighbourhood of 8 to about 64, of which the prefixes part the whole', () => {
  for (const n of [65, 200, 2000]) {
    const members = membersOf(upTo(n))
    const of = new Neighbourhoods(members, NONE)
    assert.is(
      sizes(of).reduce((sum, size) => sum + size, 0),
      n,
    )
    for (const size of sizes(of))
      assert.ok(size >= THRESHOLDS.least && size < 64 + 3 * THRESHOLDS.least, `${size} of ${n}`)
    for (const { prefix, members: inside } of of.all) for (const { id } of inside) assert.is(of.of(id)!.prefix, prefix)
    const prefixes = of.all.map(({ prefix }) => prefix)
    for (const [i, a] of prefixes.entries()) for (const b of prefixes.slice(i + 1)) assert.not(b.startsWith(a))
  }
})

test('a site that fits into one neighbourhood is in one, and one that does not is divided on', () => {
  // Members without a site, 20 small sites, and one of 300.
  const siteOf = (n: number) => (n < 100 ? undefined : n < 300 ? `small ${n % 20}` : 'big')
  const members = membersOf(upTo(600), (n) => inSite(siteOf(n)))
  const of = new Neighbourhoods(members, NONE)
  for (const site of upTo(20).map((n) => `small ${n}`)) {
    const inside = [...members.values()].filter(({ labels }) => labels.site === site)
    assert.is(new Set(inside.map(({ id }) => of.of(id)!.prefix)).size, 1, site)
  }
  for (const size of sizes(of)) assert.ok(size >= 8 && size <= 100, `${sizes(of)}`)
  const big = [...members.values()].filter(({ labels }) => labels.site === 'big')
  assert.ok(new Set(big.map(({ id }) => of.of(id)!.prefix)).size > 3)
})

test('what is written down counts between the two sizes alone', () => {
  const at = (n: number, ...divided: string[]) =>
    sizes(new Neighbourhoods(membersOf(upTo(n)), new Map(divided.map((prefix) => [prefix, true])))).length
  assert.equal([at(23, ''), at(24, ''), at(64, ''), at(64), at(65)], [1, 2, 2, 1, 2])
  const undivided = new Neighbourhoods(membersOf(upTo(65)), new Map([['', false]]))
  assert.is(undivided.all.length, 2)
})

test('one member alone writes down what is to be remembered, another in its place where it is not alive', () => {
  const members = membersOf(upTo(65))
  const of = new Neighbourhoods(members, NONE)
  const writers = (isAlive: (ap: string) => boolean, neighbourhoods = of) =>
    [...members.keys()].filter((id) => neighbourhoods.divisionsToSign(id, isAlive).length > 0)
  const [first, ...others] = writers(() => true)
  assert.equal(others, [])
  assert.equal(
    of.divisionsToSign(first!, () => true),
    [{ prefix: '', split: true }],
  )
  const [second, ...more] = writers((id) => id !== first)
  assert.ok(second !== undefined && second !== first)
  assert.equal(more, [])
  assert.equal(
    writers(() => true, new Neighbourhoods(members, new Map([['', true]]))),
    [],
  )
  const few = new Neighbourhoods(
    membersOf(upTo(23)),
    new Map([
      ['', true],
      ['0101', true],
    ]),
  )
  const due = upTo(23).flatMap((n) => few.divisionsToSign(memberOf(n).id, () => true))
  assert.equal(
    due.sort((a, b) => a.prefix.length - b.prefix.length),
    [
      { prefix: '', split: false },
      { prefix: '0101', split: false },
    ],
  )
})

test('of what members wrote about a part the latest counts, and nothing that a stranger wrote', () => {
  const by = (n: number, at: number, split: boolean, prefix = '01') =>
    record(signer(n), 'settings', writePrefix(prefix), [at, 0], { split })
  const ids = [1, 2].map((n) => apId(signer(n).publicKey))
  const members = new Map(ids.map((id) => [id, memberOf(1)]))
  const membership = {
    members,
    forgotten: new Map<string, string>(),
    tickets: new Map(),
    isAdmin: () => false,
    wasByAdmin: () => false,
  }
  const ledger = ledgerOf([by(1, 5, true), by(2, 6, false), by(3, 9, true), by(1, 7, true, ''), by(3, 9, true, '1')])
  assert.equal([...divisionsOf(ledger, membership, NOW)].sort(), [
    ['', true],
    ['01', false],
  ])
})

test('the subject of settings is one way to write a prefix, and any other is refused', () => {
  fc.assert(
    fc.property(fc.array(fc.constantFrom('0', '1'), { maxLength: 47 }), (bits) => {
      assert.ok(isPrefix(writePrefix(bits.join(''))))
    }),
  )
  const short = writePrefix('01').subarray(0, 6)
  const unclean = writePrefix('0').fill(1, 1)
  const whole = Uint8Array.of(48, 0, 0, 0, 0, 0, 0)
  for (const subject of [short, unclean, whole, Uint8Array.of(0)]) {
    assert.not(isPrefix(subject))
    refused('malformed', () => record(signer(1), 'settings', subject, [1, 0], { split: true }))
  }
  assert.is(MESH.length, 20)
})

test('neighbourhoods and watchers are the same on every AP, in whatever order it learnt of members', () => {
  const labels = (n: number): Labels => ({ ...(n % 3 > 0 && { site: `s${n % 5}` }), rack: `r${n % 4}` })
  fc.assert(
    fc.property(fc.shuffledSubarray(upTo(40), { minLength: 2 }), (numbers) => {
      const sorted = [...numbers].sort((a, b) => a - b)
      const [a, b] = [numbers, sorted].map((some) => new Neighbourhoods(membersOf(some, labels), NONE, SMALL))
      for (const id of membersOf(numbers).keys()) {
        assert.is(a!.of(id)!.prefix, b!.of(id)!.prefix)
        assert.equal(a!.watchersOf(id), b!.watchersOf(id))
      }
    }),
    { numRuns: 25 },
  )
})

test('an AP has min(5, n − 1) watchers, all different and none itself: three inside where there is an outside', () => {
  fc.assert(
    fc.property(fc.shuffledSubarray(upTo(40), { minLength: 1 }), fc.boolean(), (numbers, isSmall) => {
      const members = membersOf(numbers, (n) => ({ site: `s${n % 4}` }))
      const of = new Neighbourhoods(members, NONE, isSmall ? SMALL : THRESHOLDS)
      for (const id of members.keys()) {
        const watchers = of.watchersOf(id)
        assert.is(watchers.length, Math.min(5, members.size - 1))
        assert.is(new Set([...watchers, id]).size, watchers.length + 1)
        for (const other of watchers) assert.ok(members.has(other))
      }
    }),
    { numRuns: 40 },
  )
  const members = membersOf(upTo(500))
  const of = new Neighbourhoods(members, NONE)
  for (const id of members.keys()) assert.is(of.watchersOf(id).filter((other) => of.of(other) === of.of(id)).length, 3)
})

test('whom an AP watches is whoever has it as a watcher', () => {
  for (const [n, thresholds] of [
    [50, THRESHOLDS],
    [200, THRESHOLDS],
    [30, SMALL],
  ] as const) {
    const members = membersOf(upTo(n), (i) => ({ site: `s${i % 6}` }))
    const of = new Neighbourhoods(members, NONE, thresholds)
    for (const id of members.keys()) {
      const expected = [...members.keys()].filter((other) => of.watchersOf(other).includes(id))
      assert.equal([...of.watchedBy(id)].sort(), expected.sort())
    }
  }
})

test('watchers are of other racks and sites than the AP and each other, as far as there are any', () => {
  const members = membersOf(upTo(40), (n) => ({ site: `s${n % 4}`, rack: `r${n % 8}` }))
  const of = new Neighbourhoods(members, NONE)
  const siteOf = (id: string) => members.get(id)!.labels.site
  let [alone, sites] = [0, 0]
  for (const id of members.keys()) {
    const watchers = of.watchersOf(id)
    const counts = new Set(watchers.map(siteOf)).size
    sites += counts
    if (counts < 3 || watchers.filter((other) => siteOf(other) === siteOf(id)).length > 2) alone++
  }
  assert.ok(sites / 40 > 3.7, `${sites / 40}`)
  assert.is(alone, 0)
})

test('nobody watches more than a few times its share, also the one AP of another rack', () => {
  const told: string[] = []
  const cases: [number, (n: number) => Labels][] = [
    [50, () => ({})],
    [50, (n) => ({ rack: n === 0 ? 'b' : 'a' })],
    [50, (n) => inSite(n === 0 ? 'far' : undefined)],
    [64, (n) => ({ site: `s${Math.floor(Math.sqrt(n))}` })],
    [500, () => ({})],
    [500, (n) => ({ site: `s${Math.floor(Math.sqrt(n))}` })],
    [2000, (n) => ({ site: n < 1000 ? 'big' : `s${n % 100}` })],
  ]
  for (const [n, labels] of cases) {
    const members = membersOf(upTo(n), labels)
    const sorted = loads(new Neighbourhoods(members, NONE), members)
    const at = (share: number) => sorted[Math.min(n - 1, Math.floor(n * share))]
    told.push(`${n}: min ${sorted[0]}, p50 ${at(0.5)}, p90 ${at(0.9)}, p99 ${at(0.99)}, max ${sorted.at(-1)}`)
    assert.ok(sorted.at(-1)! <= 25, told.at(-1))
  }
  console.log(`  watched by one AP, 5 on average\n    ${told.join('\n    ')}`)
})

test('a member that does not watch an AP comes or goes, and its watchers stay the same', () => {
  fc.assert(
    fc.property(fc.shuffledSubarray(upTo(30), { minLength: 8 }), (numbers) => {
      const ap = numbers[0]!
      const watchers = (some: number[]) => new Neighbourhoods(membersOf(some), NONE).watchersOf(memberOf(ap).id)
      const before = watchers(numbers)
      for (const other of numbers.slice(1)) {
        const without = numbers.filter((n) => n !== other)
        const after = watchers(without)
        if (before.includes(memberOf(other).id)) {
          // The four that stay keep their order, and one is new.
          assert.equal(
            after.slice(0, 4),
            before.filter((id) => id !== memberOf(other).id),
          )
        } else assert.equal(after, before)
      }
    }),
    { numRuns: 40 },
  )
})

test('a member that comes changes the watchers of few', () => {
  const changed = (n: number) => {
    const before = membersOf(upTo(n))
    const after = membersOf(upTo(n + 1))
    const [a, b] = [before, after].map((members) => new Neighbourhoods(members, NONE))
    const watchersBefore = allWatchers(a!, before)
    return [...watchersBefore].filter(
      ([id, watchers]) => `${[...watchers].sort()}` !== `${[...b!.watchersOf(id)].sort()}`,
    ).length
  }
  // No part passes a threshold here: five expect the new one among their watchers, some draw another neighbourhood.
  const counts = [40, 300, 1500].map(changed)
  console.log(`  APs with other watchers after one came, of 40, 300, 1500: ${counts.join(', ')}`)
  for (const count of counts) assert.ok(count <= 40, `${counts}`)
})

test('the same members and divisions are divided once', () => {
  const members = membersOf(upTo(10))
  const first = neighbourhoodsOf(members, NONE)
  assert.is(neighbourhoodsOf(members, NONE), first)
  assert.is.not(neighbourhoodsOf(members, new Map()), first)
  assert.is.not(neighbourhoodsOf(membersOf(upTo(10)), NONE), first)
})

test('ten thousand members are divided, and one finds whom it watches, within a second', () => {
  const members = membersOf(upTo(10_000))
  const began = performance.now()
  const of = new Neighbourhoods(members, NONE)
  const divided = performance.now()
  const watched = of.watchedBy(memberOf(0).id)
  const found = performance.now()
  const again = new Neighbourhoods(membersOf(upTo(10_001)), NONE)
  again.watchedBy(memberOf(0).id)
  console.log(
    `  10,000 members: divided in ${Math.round(divided - began)} ms, watched found in ${Math.round(found - divided)} ms`,
  )
  assert.ok(watched.length > 0 && found - began < 1000, `${found - began} ms`)
})

test.run()
