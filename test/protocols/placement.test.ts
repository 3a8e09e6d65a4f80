import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { apId, hex } from '../../protocols/bytes.js'
import { type ChuteId, type Copy, chuteKey, instanceSubject } from '../../protocols/chute.js'
import type { ChuteSpec } from '../../protocols/deployment.js'
import { type Chute, claimsOf, copiesOf } from '../../protocols/desired.js'
import type { RecordOf } from '../../protocols/kinds.js'
import { arePlacedAlike, type Candidate, type Placed, place } from '../../protocols/placement.js'
import type { RosterState } from '../../protocols/roster.js'
import { inheritanceOf, successorsOf } from '../../protocols/successors.js'
import { creationOf, keyOf, ledgerOf, memberOf, NOW, serviceOf, specOf, unsigned } from './support.js'

const MIB = 1024 ** 2

interface Ap {
  n: number
  state?: RosterState
  draining?: boolean
  labels?: Record<string, string>
  /** Thousandths; MiB. */
  cpu?: number
  memory?: number
  platform?: string
  engine?: boolean
  beacon?: boolean
  /** Whether it can stop what runs on it without its engine. */
  local?: boolean
  cannot?: { instance: Uint8Array; revision: number; until: number }[]
  /** What it waits with for a lease. */
  waits?: { instance: Uint8Array; epoch: number }[]
}

const idOf = (n: number): string => memberOf(n).id

function candidateOf(ap: Ap): Candidate {
  const { n, state = 'alive', draining = false, labels = {}, cpu = 64_000, memory = 64 * 1024 } = ap
  const local = ap.local ?? true
  const engine = { version: '27', platform: ap.platform ?? 'linux/amd64', cpu, memory: memory * MIB, local }
  const beacon = {
    boot: 1,
    sequence: 1,
    version: '',
    addresses: [],
    engine: ap.engine === false ? undefined : engine,
    instances: (ap.waits ?? []).map((one) => ({
      ...one,
      revision: 1,
      state: 'waiting' as const,
      since: NOW,
      reason: '',
      ports: [],
    })),
    cannot: (ap.cannot ?? []).map((one) => ({ ...one, reason: 'no image' })),
    images: [],
    packages: [],
    ledger: new Uint8Array(16),
  }
  return { member: memberOf(n, { draining, labels }), state, beacon: ap.beacon === false ? undefined : beacon }
}

const meshOf = (...aps: Ap[]): Map<string, Candidate> => new Map(aps.map((ap) => [idOf(ap.n), candidateOf(ap)]))
const alike = (count: number, first = 0): Ap[] => Array.from({ length: count }, (_, n) => ({ n: first + n }))

interface App {
  n: number
  replicas?: number | 'everywhere'
  cpu?: number
  memory?: number
  ports?: number[]
  platform?: string
  volume?: 'ephemeral' | 'persistent'
  constraints?: ChuteSpec['constraints']
  revision?: number
  desired?: Chute['desired']
  exclusive?: boolean
}

function chuteOf(app: App): Chute {
  const { n, replicas = 1, cpu = 10, memory = 8, ports = [], constraints = [], revision = 1, volume } = app
  const spec = specOf({
    services: [
      serviceOf({
        limits: { cpu, memory: memory * MIB, pids: 64 },
        ports: ports.map((host) => ({ container: 80, host, protocol: 'tcp' })),
        images: [{ config: new Uint8Array(32), platform: app.platform ?? 'linux/amd64' }],
      }),
    ],
    volumes: volume ? [{ name: 'data', ephemeral: volume === 'ephemeral' }] : [],
    replicas,
    constraints,
    ...(app.exclusive && { exclusive: { voters: [1, 2, 3].map(keyOf), salt: new Uint8Array(10) } }),
  })
  const id: ChuteId = { publisher: keyOf(1000), name: `chute${n}`, creation: creationOf(1000) }
  const body = { creation: id.creation, revision, spec }
  const deployment = unsigned(id.publisher, 'deployment', id.publisher, [NOW, 0], body)
  return { id, key: chuteKey(id), spec, revision, desired: app.desired ?? 'running', restarts: 0, deployment }
}

const claimOf = (chute: Chute, copy: Copy, ap: number, epoch: number, at: number): RecordOf<'claim'> =>
  unsigned(keyOf(ap), 'claim', instanceSubject(chute.key, copy), [NOW + at, 0], { epoch, cause: 'new' })

type Claims = readonly RecordOf<'claim'>[]

const run = (chutes: readonly Chute[], mesh: ReadonlyMap<string, Candidate>, claims: Claims = []): Placed[] =>
  place(chutes, claimsOf(ledgerOf(claims), NOW), mesh, NOW)

/** Lets first ranks claim until nobody has to. */
function settle(chutes: readonly Chute[], mesh: ReadonlyMap<string, Candidate>, before: Claims = []): Claims {
  const claims = [...before]
  for (let round = 0; round < 50; round++) {
    const open = run(chutes, mesh, claims).filter(({ ranks }) => ranks.length > 0)
    if (open.length === 0) return claims
    for (const { subject, claim, ranks } of open) {
      const { key } = mesh.get(ranks[0]!)!.member
      const epoch = (claim?.body.epoch ?? 0) + 1
      claims.push(unsigned(key, 'claim', subject, [NOW + 1000 + claims.length, 0], { epoch, cause: 'new' }))
    }
  }
  throw new Error('claims do not come to rest')
}

const holders = (placed: readonly Placed[]) => new Map(placed.map(({ instance, holder }) => [instance, holder]))
const firsts = (placed: readonly Placed[]) => placed.map(({ ranks }) => ranks[0])

/** The one instance of one chute. */
function only(app: Omit<App, 'n'>, mesh: ReadonlyMap<string, Candidate>, claims: Claims = []): Placed {
  const placed = run([chuteOf({ n: 0, ...app })], mesh, claims)
  assert.is(placed.length, 1)
  return placed[0]!
}

// --- Worlds of every sort ----------------------------------------------------------------------------------------------

const some = <T>(common: T, ...rare: T[]) =>
  fc.oneof({ weight: 6, arbitrary: fc.constant(common) }, fc.constantFrom(...rare))

const anyAps = fc.array(
  fc.record({
    state: some<RosterState>('alive', 'suspect', 'dead', 'left'),
    draining: some(false, true),
    labels: fc.constantFrom<Record<string, string>>({}, { zone: 'a' }, { zone: 'b' }),
    cpu: fc.constantFrom(0, 200, 1000, 4000),
    memory: fc.constantFrom(100, 512, 2048),
    platform: some('linux/amd64', 'linux/arm64'),
    engine: some(true, false),
    beacon: some(true, false),
  }),
  { minLength: 1, maxLength: 7 },
)

const anyApps = fc.array(
  fc.record({
    replicas: fc.oneof(fc.nat(4), fc.constant('everywhere' as const)),
    cpu: fc.constantFrom(10, 100, 500, 1500),
    memory: fc.constantFrom(8, 64, 400),
    ports: fc.constantFrom<number[]>([], [], [8080], [8443, 8080], [5353]),
    platform: some('linux/amd64', 'linux/arm64'),
    volume: fc.constantFrom(undefined, undefined, 'ephemeral' as const, 'persistent' as const),
    constraints: some<ChuteSpec['constraints']>([], [{ label: 'zone', value: 'a' }]),
    desired: some<Chute['desired']>('running', 'stopped'),
  }),
  { maxLength: 8 },
)

const anyClaims = fc.array(
  fc.record({ chute: fc.nat(7), copy: fc.nat(4), ap: fc.nat(8), epoch: fc.integer({ min: 1, max: 3 }), at: fc.nat(5) }),
  { maxLength: 25 },
)

interface World {
  chutes: Chute[]
  mesh: Map<string, Candidate>
  claims: RecordOf<'claim'>[]
}

const anyWorld: fc.Arbitrary<World> = fc.tuple(anyAps, anyApps, anyClaims).map(([aps, apps, claims]) => {
  const chutes = apps.map((app, n) => chuteOf({ ...app, n }))
  const mesh = new Map(aps.map((ap, n) => [idOf(n), candidateOf({ ...ap, n })]))
  return {
    chutes,
    mesh,
    claims: claims.flatMap(({ chute, copy, ap, epoch, at }) => {
      const of = chutes[chute % Math.max(1, chutes.length)]
      if (of === undefined) return []
      const isForOne = of.spec.replicas === 'everywhere'
      return [claimOf(of, isForOne ? keyOf(ap) : copy, ap, epoch, at)]
    }),
  }
})

/** What is left of each AP's capacity beside what it holds and is first to claim. Undefined for one nothing is known of. */
function leftOf(mesh: World['mesh'], placed: readonly Placed[]) {
  return new Map(
    [...mesh].map(([id, { beacon }]) => {
      const mine = placed
        .filter(({ holder, ranks }) => (holder ?? ranks[0]) === id)
        .flatMap(({ chute }) => chute.spec.services)
      const sum = (of: (service: (typeof mine)[0]) => number) => mine.reduce((total, service) => total + of(service), 0)
      return [
        id,
        {
          known: beacon !== undefined,
          cpu: (beacon?.engine?.cpu ?? 0) - sum(({ limits }) => limits.cpu),
          memory: (beacon?.engine?.memory ?? 0) - sum(({ limits }) => limits.memory),
          ports: mine.flatMap(({ ports }) => ports.map(({ host }) => host)),
        },
      ] as const
    }),
  )
}

/** Everything but room, worked out apart from the code. */
function mayRun({ chute, copy }: Placed, { member, state, beacon }: Candidate): boolean {
  return (
    state === 'alive' &&
    !member.draining &&
    (typeof copy === 'number' || hex(copy) === hex(member.key)) &&
    chute.spec.constraints.every(({ label, value }) => member.labels[label] === value) &&
    chute.spec.services.every(({ images }) => images.some(({ platform }) => platform === beacon?.engine?.platform))
  )
}

const RUNS = { numRuns: 400 }

test('every wanted instance has one entry: a holder, or one it waits for, or ranks, or an obstacle on every AP it may be for', () => {
  fc.assert(
    fc.property(anyWorld, ({ chutes, mesh, claims }) => {
      const placed = run(chutes, mesh, claims)
      const members = new Map([...mesh].map(([id, { member }]) => [id, member]))
      const wanted = chutes.flatMap((chute) =>
        copiesOf(chute, members).map((copy) => hex(instanceSubject(chute.key, copy))),
      )
      assert.equal(placed.map(({ instance }) => instance).sort(), wanted.sort())
      for (const { copy, holder, waitsFor, ranks, obstacles, cause } of placed) {
        assert.is(cause === undefined, holder !== undefined)
        if (holder !== undefined || waitsFor !== undefined) {
          assert.is(ranks.length, 0)
          assert.ok(mesh.has((holder ?? waitsFor)!))
        } else {
          const all = typeof copy === 'number' ? [...mesh.keys()] : [apId(copy)]
          assert.equal([...ranks, ...obstacles.keys()].sort(), all.sort())
        }
      }
    }),
    RUNS,
  )
})

test('an instance that fits somewhere has a first rank, and one that has none fits nowhere', () => {
  fc.assert(
    fc.property(anyWorld, ({ chutes, mesh, claims }) => {
      const placed = run(chutes, mesh, claims)
      const left = leftOf(mesh, placed)
      for (const entry of placed) {
        for (const id of entry.ranks) assert.ok(mayRun(entry, mesh.get(id)!))
        if (entry.holder !== undefined || entry.waitsFor !== undefined || entry.ranks.length > 0) continue
        const { limits, ports } = entry.chute.spec.services[0]!
        for (const [id, candidate] of mesh) {
          const { cpu, memory, ports: taken } = left.get(id)!
          const hasRoom =
            cpu >= limits.cpu && memory >= limits.memory && !ports.some(({ host }) => taken.includes(host))
          assert.not(hasRoom && mayRun(entry, candidate), `${entry.chute.id.name} fits on ${id}`)
        }
      }
    }),
    RUNS,
  )
})

test('what an AP holds and is first to claim never exceeds its CPU, its memory, or one use of each port', () => {
  fc.assert(
    fc.property(anyWorld, ({ chutes, mesh, claims }) => {
      for (const { known, cpu, memory, ports } of leftOf(mesh, run(chutes, mesh, claims)).values()) {
        if (!known) continue // it holds what it claimed until it says what it has
        assert.ok(cpu >= 0 && memory >= 0, `${cpu} thousandths, ${memory} bytes`)
        assert.is(new Set(ports).size, ports.length)
      }
    }),
    RUNS,
  )
})

test('the order of chutes, claims and APs does not matter', () => {
  const view = (placed: Placed[]) =>
    placed.map(({ instance, holder, ranks, cause, waitsFor, claim }) => [
      instance,
      holder,
      ranks,
      cause,
      waitsFor,
      claim,
    ])
  const shuffled = anyWorld.chain((world) =>
    fc
      .tuple(
        ...([world.chutes, [...world.mesh], world.claims] as unknown[][]).map((list) =>
          fc.shuffledSubarray(list, { minLength: list.length }),
        ),
      )
      .map(([chutes, mesh, claims]) => ({
        world,
        other: { chutes, mesh: new Map(mesh as [string, Candidate][]), claims } as unknown as World,
      })),
  )
  fc.assert(
    fc.property(shuffled, ({ world, other }) => {
      const expected = view(run(world.chutes, world.mesh, world.claims))
      assert.equal(view(run(other.chutes, other.mesh, other.claims)), expected)
    }),
    RUNS,
  )
})

test('where two moments are said to be placed alike, they are', () => {
  fc.assert(
    fc.property(anyWorld, anyWorld, fc.nat(6), ({ chutes, mesh, claims }, other, which) => {
      // One AP has changed, into one that may differ in nothing that matters.
      const id = [...mesh.keys()][which % mesh.size]!
      const changed = new Map(mesh)
      const { state, beacon } = [...other.mesh.values()][0]!
      const news = beacon && { ...beacon, sequence: 2, instances: [], images: [new Uint8Array(32)] }
      changed.set(id, { member: mesh.get(id)!.member, state, beacon: news })
      if (arePlacedAlike(mesh, changed)) assert.equal(run(chutes, changed, claims), run(chutes, mesh, claims))
    }),
    { numRuns: 500 },
  )
})

test('where an AP says that it cannot run something, two moments are never placed alike, for that ends with time', () => {
  const mesh = meshOf({ n: 0, cannot: [{ instance: new Uint8Array(25), revision: 1, until: NOW }] })
  assert.not(arePlacedAlike(mesh, mesh))
  assert.ok(arePlacedAlike(meshOf({ n: 0 }), meshOf({ n: 0 })))
})

test('once the first ranks have claimed, all is at rest, and nothing that fits is without a holder', () => {
  fc.assert(
    fc.property(anyWorld, ({ chutes, mesh, claims }) => {
      for (const { ranks } of run(chutes, mesh, settle(chutes, mesh, claims))) assert.is(ranks.length, 0)
    }),
    { numRuns: 100 },
  )
})

const withoutClaims = anyWorld.map((world): World => ({ ...world, claims: [] }))

for (const end of ['dead', 'left', 'draining', 'forgotten']) {
  test(`an AP that is ${end} moves what it holds, and nothing else`, () => {
    // The claim that the forgotten AP once took an instance over from would be the strongest again.
    fc.assert(
      fc.property(end === 'forgotten' ? withoutClaims : anyWorld, fc.nat(6), ({ chutes, mesh, claims }, index) => {
        const settled = settle(chutes, mesh, claims)
        const before = holders(run(chutes, mesh, settled))
        const gone = [...mesh.keys()][index % mesh.size]!
        const candidate = mesh.get(gone)!
        const changed = new Map(mesh)
        if (end === 'forgotten') changed.delete(gone)
        else if (end === 'draining')
          changed.set(gone, { ...candidate, member: { ...candidate.member, draining: true } })
        else changed.set(gone, { ...candidate, state: end as RosterState })
        for (const [instance, holder] of holders(run(chutes, changed, settled))) {
          assert.is(holder, before.get(instance) === gone ? undefined : before.get(instance))
        }
        for (const [instance, holder] of holders(run(chutes, changed, settle(chutes, changed, settled)))) {
          assert.is.not(holder, gone)
          const unmoved = before.get(instance)
          if (unmoved !== gone && unmoved !== undefined) assert.is(holder, unmoved)
        }
      }),
      { numRuns: 60 },
    )
  })
}

const viewOf = ({ chutes, mesh, claims }: World) => ({
  chutes,
  candidates: mesh,
  claims: claimsOf(ledgerOf(claims), NOW),
  placed: run(chutes, mesh, claims),
})

test('where an AP dies and nothing else changes, what it held goes to those that made ready for it, in their order', () => {
  fc.assert(
    fc.property(anyWorld, fc.nat(6), (world, index) => {
      const { chutes, mesh, claims } = world
      const settled = settle(chutes, mesh, claims)
      const id = [...mesh.keys()][index % mesh.size]!
      const successors = successorsOf(viewOf({ ...world, claims: [...settled] }), id, NOW)
      const after = run(chutes, new Map(mesh).set(id, { ...mesh.get(id)!, state: 'dead' }), settled)
      for (const { instance, holder } of run(chutes, mesh, settled)) {
        assert.is(successors.has(instance), holder === id)
        if (holder !== id) continue
        const { ranks } = after.find((placed) => placed.instance === instance)!
        assert.equal(successors.get(instance), ranks.slice(0, 2))
      }
    }),
    RUNS,
  )
})

test('an AP makes ready for what it is a successor for, and for that first of which it is the first', () => {
  fc.assert(
    fc.property(anyWorld, fc.nat(6), (world, index) => {
      const view = viewOf(world)
      const self = [...world.mesh.keys()][index % world.mesh.size]!
      const rankOf = ({ holder, instance }: Placed) =>
        holder === undefined ? -1 : (successorsOf(view, holder, NOW).get(instance)?.indexOf(self) ?? -1)
      const found = inheritanceOf(view, self, NOW, () => true)
      const expected = view.placed.filter((placed) => rankOf(placed) >= 0)
      assert.equal(new Set(found), new Set(expected))
      assert.equal(found.map(rankOf), expected.map(rankOf).sort())
      assert.equal(
        inheritanceOf(view, self, NOW, () => false),
        [],
      )
    }),
    { numRuns: 200 },
  )
})

test('nobody makes ready for what does not migrate: data that stays, a copy for one AP', () => {
  const mesh = meshOf(...alike(4))
  for (const app of [{ volume: 'persistent' as const }, { replicas: 'everywhere' as const }, {}]) {
    const chutes = [chuteOf({ n: 0, ...app })]
    const view = viewOf({ chutes, mesh, claims: [...settle(chutes, mesh)] })
    const { holder, instance } = view.placed[0]!
    const next = successorsOf(view, holder!, NOW).get(instance)!
    assert.is(next.length, Object.keys(app).length > 0 ? 0 : 2)
    assert.not.ok(next.includes(holder!))
  }
})

test('an AP that is added moves nothing', () => {
  fc.assert(
    fc.property(anyWorld, ({ chutes, mesh, claims }) => {
      const settled = settle(chutes, mesh, claims)
      const larger = new Map([...meshOf({ n: 500, cpu: 100_000 }), ...mesh])
      const after = holders(run(chutes, larger, settled))
      for (const [instance, holder] of holders(run(chutes, mesh, settled))) {
        if (holder !== undefined) assert.is(after.get(instance), holder)
      }
    }),
    { numRuns: 150 },
  )
})

test('of new instances an AP that was added gets its share, and what it gets is all that is placed otherwise', () => {
  const chutes = Array.from({ length: 1500 }, (_, n) => chuteOf({ n }))
  const [nine, ten] = [meshOf(...alike(9)), meshOf(...alike(10))]
  const [before, after] = [firsts(run(chutes, nine)), firsts(run(chutes, ten))]
  const moved = after.filter((first, i) => first !== before[i])
  for (const first of moved) assert.is(first, idOf(9))
  assert.ok(Math.abs(moved.length / chutes.length - 0.1) < 0.03, `${moved.length} of ${chutes.length}`)
})

test('APs get shares in proportion to the scarcer of their CPUs and memory', () => {
  const chutes = Array.from({ length: 1500 }, (_, n) => chuteOf({ n }))
  const mesh = meshOf(
    { n: 0, cpu: 32_000, memory: 32 * 1024 },
    { n: 1, cpu: 64_000, memory: 64 * 1024 },
    { n: 2, cpu: 64_000, memory: 32 * 1024 },
  )
  const first = firsts(run(chutes, mesh))
  const share = (n: number) => first.filter((id) => id === idOf(n)).length / chutes.length
  for (const [n, expected] of [0.25, 0.5, 0.25].entries()) {
    assert.ok(Math.abs(share(n) - expected) < 0.05, `${share(n)} instead of ${expected}`)
  }
})

test('what is used does not change the ranks of an AP, only what it has in all', () => {
  const chutes = Array.from({ length: 60 }, (_, n) => chuteOf({ n }))
  const mesh = meshOf(...alike(4))
  const alone = chutes.map((chute) => run([chute], mesh)[0]!.ranks)
  const together = run(chutes, mesh)
  for (const [i, chute] of chutes.entries()) {
    assert.equal(together.find(({ chute: { key } }) => key === chute.key)!.ranks, alone[i])
  }
})

test('replicas go to different APs while there are any, and evenly after that', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 7 }), fc.integer({ min: 1, max: 15 }), fc.nat(1000), (aps, replicas, n) => {
      const chute = chuteOf({ n, replicas })
      const mesh = meshOf(...alike(aps))
      const counts = new Map<string, number>()
      for (const { holder } of run([chute], mesh, settle([chute], mesh))) {
        counts.set(holder!, (counts.get(holder!) ?? 0) + 1)
      }
      assert.is(counts.size, Math.min(aps, replicas))
      assert.ok(Math.max(...counts.values()) <= Math.ceil(replicas / aps))
      // The first ranks alone are spread already, so that all can claim at once.
      assert.is(new Set(firsts(run([chute], mesh))).size, Math.min(aps, replicas))
    }),
    { numRuns: 60 },
  )
})

test('a replica that is placed anew goes where there is none of its chute', () => {
  const chute = chuteOf({ n: 0, replicas: 3 })
  const mesh = meshOf(...alike(4))
  const claims = [claimOf(chute, 0, 0, 1, 1), claimOf(chute, 1, 1, 1, 2)]
  const { ranks } = run([chute], mesh, claims)[2]!
  assert.equal(ranks.slice(0, 2).sort(), [idOf(2), idOf(3)].sort())
  assert.equal(ranks.slice(2).sort(), [idOf(0), idOf(1)].sort())
})

test('everywhere: each member that fits runs one, which no other AP takes over', () => {
  const chute = chuteOf({ n: 0, replicas: 'everywhere', constraints: [{ label: 'zone', value: 'a' }] })
  const zone = { labels: { zone: 'a' } }
  const mesh = meshOf({ n: 0, ...zone }, { n: 1, ...zone, state: 'dead' }, { n: 2 }, { n: 3, ...zone })
  const placed = run([chute], mesh)
  assert.equal(
    firsts(placed)
      .filter((first) => first !== undefined)
      .sort(),
    [idOf(0), idOf(3)].sort(),
  )
  for (const { copy, ranks } of placed) for (const id of ranks) assert.is(id, apId(copy as Uint8Array))
  const dead = run([chute], mesh, [claimOf(chute, keyOf(1), 1, 1, 1)]).find(
    ({ copy }) => hex(copy as Uint8Array) === hex(keyOf(1)),
  )!
  assert.equal([dead.holder, dead.cause, dead.ranks.length], [undefined, 'dead', 0])
  assert.equal([...dead.obstacles.keys()], [idOf(1)])
})

test('a chute that is stopped, removed, or wanted in no copies has no instances', () => {
  for (const app of [{ desired: 'stopped' }, { replicas: 0 }] as const) {
    assert.is(run([chuteOf({ n: 0, ...app })], meshOf(...alike(2))).length, 0)
  }
})

test('labels: an instance runs where all its constraints hold, and leaves where one does no more', () => {
  const constraints = [
    { label: 'zone', value: 'a' },
    { label: 'gpu', value: 'yes' },
  ]
  const both = { zone: 'a', gpu: 'yes' }
  const mesh = meshOf({ n: 0, labels: both }, { n: 1, labels: { zone: 'a' } }, { n: 2, labels: { ...both, zone: 'b' } })
  const { ranks, obstacles } = only({ constraints }, mesh)
  assert.equal(ranks, [idOf(0)])
  assert.is(obstacles.get(idOf(1)), 'has no label gpu=yes')
  const held = only({ constraints }, mesh, [claimOf(chuteOf({ n: 0 }), 0, 1, 1, 1)])
  assert.equal([held.holder, held.cause, held.ranks], [undefined, 'labels', [idOf(0)]])
})

test('CPU and memory: an instance is not placed where there is not enough of both', () => {
  const mesh = meshOf({ n: 0, cpu: 499 }, { n: 1, cpu: 500, memory: 99 }, { n: 2, cpu: 500, memory: 100 })
  const { ranks, obstacles } = only({ cpu: 500, memory: 100 }, mesh)
  assert.equal(ranks, [idOf(2)])
  assert.is(obstacles.get(idOf(0)), 'needs 0.5 CPUs, 0.499 are free')
  assert.is(obstacles.get(idOf(1)), 'needs 100 MiB of memory, 99 are free')
})

test('ports: two chutes that publish one fixed port never share an AP, ones that leave the port open do', () => {
  const fixed = [
    chuteOf({ n: 0, ports: [8080] }),
    chuteOf({ n: 1, ports: [8443, 8080] }),
    chuteOf({ n: 2, ports: [8080] }),
  ]
  const placed = run(fixed, meshOf(...alike(2)))
  assert.equal(new Set(firsts(placed)), new Set([idOf(0), idOf(1), undefined]))
  const without = placed.find(({ ranks }) => ranks.length === 0)!
  assert.is(without.obstacles.get(idOf(0)), 'port 8080/tcp is taken by another chute')
  assert.equal(firsts(run([chuteOf({ n: 0 }), chuteOf({ n: 1 })], meshOf({ n: 0 }))), [idOf(0), idOf(0)])
})

test('platform: an instance is placed where its image runs', () => {
  const mesh = meshOf({ n: 0, platform: 'linux/arm64' }, { n: 1 })
  assert.equal(only({ platform: 'linux/arm64' }, mesh).ranks, [idOf(0)])
  const { ranks, obstacles } = only({}, mesh)
  assert.equal(ranks, [idOf(1)])
  assert.is(obstacles.get(idOf(0)), 'is linux/arm64, the image is linux/amd64')
})

test('an AP without a container engine gets nothing, and what it held moves', () => {
  const mesh = meshOf({ n: 0, engine: false }, { n: 1 })
  const { ranks, cause } = only({}, mesh, [claimOf(chuteOf({ n: 0 }), 0, 0, 1, 1)])
  assert.equal([ranks, cause], [[idOf(1)], 'engine'])
})

test('an AP that drains gets nothing, and what it held moves', () => {
  const mesh = meshOf({ n: 0, draining: true }, { n: 1 })
  const { ranks, cause } = only({}, mesh, [claimOf(chuteOf({ n: 0 }), 0, 0, 1, 1)])
  assert.equal([ranks, cause], [[idOf(1)], 'drain'])
})

test('an AP that says it cannot run an instance is passed over until then, for this instance and revision alone', () => {
  const chute = chuteOf({ n: 0, replicas: 2 })
  const [instance, other] = [0, 1].map((copy) => instanceSubject(chute.key, copy)) as [Uint8Array, Uint8Array]
  const mesh = (cannot: Ap['cannot']) => meshOf({ n: 0, cannot }, { n: 1 })
  const claims = [claimOf(chute, 0, 0, 1, 1)]
  const of = (cannot: Ap['cannot']) => run([chute], mesh(cannot), claims)[0]!

  const refused = of([{ instance, revision: 1, until: NOW + 1 }])
  assert.equal([refused.holder, refused.cause, refused.ranks], [undefined, 'cannot', [idOf(1)]])
  assert.is(refused.obstacles.get(idOf(0)), 'cannot: no image')
  assert.is(of([{ instance, revision: 1, until: NOW }]).holder, idOf(0))
  assert.is(of([{ instance, revision: 2, until: NOW + 1 }]).holder, idOf(0))
  assert.is(of([{ instance: other, revision: 1, until: NOW + 1 }]).holder, idOf(0))
  assert.equal(only({}, mesh([{ instance, revision: 1, until: NOW + 1 }])).ranks, [idOf(1)])
})

test('a suspect keeps what it holds, and gets nothing new', () => {
  const mesh = meshOf({ n: 0, state: 'suspect' }, { n: 1 })
  assert.is(only({}, mesh, [claimOf(chuteOf({ n: 0 }), 0, 0, 1, 1)]).holder, idOf(0))
  const { ranks, obstacles } = only({}, mesh)
  assert.equal(ranks, [idOf(1)])
  assert.is(obstacles.get(idOf(0)), 'is suspect')
})

test('one whose beacon is not known yet keeps what it claimed, and gets nothing new', () => {
  const mesh = meshOf({ n: 0, beacon: false }, { n: 1 })
  assert.is(only({ cpu: 1000 }, mesh, [claimOf(chuteOf({ n: 0 }), 0, 0, 1, 1)]).holder, idOf(0))
  assert.equal(only({}, mesh).ranks, [idOf(1)])
})

test('what was claimed by one that is dead, left or forgotten is free, with the cause', () => {
  const claims = [claimOf(chuteOf({ n: 0 }), 0, 0, 1, 1)]
  for (const state of ['dead', 'left'] as const) {
    const { ranks, cause, waitsFor } = only({}, meshOf({ n: 0, state }, { n: 1 }), claims)
    assert.equal([ranks, cause, waitsFor], [[idOf(1)], state, undefined])
  }
  assert.equal([only({}, meshOf({ n: 1 }), claims).cause, only({}, meshOf({ n: 1 })).cause], ['forgotten', 'new'])
})

test('a chute with a persistent volume waits for the AP that has its data, whatever befell that', () => {
  const claims = [claimOf(chuteOf({ n: 0 }), 0, 0, 1, 1)]
  const befell: Partial<Ap>[] = [
    { state: 'dead' },
    { state: 'left' },
    { draining: true },
    { engine: false },
    { cpu: 5 },
  ]
  for (const change of befell) {
    const mesh = meshOf({ n: 0, ...change }, { n: 1 })
    const { holder, waitsFor, ranks } = only({ volume: 'persistent' }, mesh, claims)
    assert.equal([holder, waitsFor, ranks], [undefined, idOf(0), []])
    assert.equal(only({ volume: 'ephemeral' }, mesh, claims).ranks, [idOf(1)])
  }
  assert.is(only({ volume: 'persistent' }, meshOf(...alike(2)), claims).holder, idOf(0))
})

test('a chute with a persistent volume is free once its AP was forgotten, and before it was ever claimed', () => {
  const mesh = meshOf({ n: 1 })
  assert.equal(only({ volume: 'persistent' }, mesh, [claimOf(chuteOf({ n: 0 }), 0, 0, 1, 1)]).ranks, [idOf(1)])
  assert.equal(only({ volume: 'persistent' }, mesh).ranks, [idOf(1)])
})

test('a chute with a persistent volume does not wait for an AP that says it cannot run it', () => {
  const chute = chuteOf({ n: 0, volume: 'persistent' })
  const cannot = [{ instance: instanceSubject(chute.key, 0), revision: 1, until: NOW + 1 }]
  const [placed] = run([chute], meshOf({ n: 0, cannot }, { n: 1 }), [claimOf(chute, 0, 0, 1, 1)])
  assert.equal([placed!.waitsFor, placed!.ranks], [undefined, [idOf(1)]])
})

test('of two claims the higher epoch holds, then the earlier clock, then the lower key; no stranger’s counts', () => {
  const chute = chuteOf({ n: 0 })
  const mesh = meshOf(...alike(4))
  const [low, high] = [0, 1].sort((a, b) => (hex(keyOf(a)) < hex(keyOf(b)) ? -1 : 1)) as [number, number]
  const of = (...claims: Claims) => {
    const [there, back] = [run([chute], mesh, claims)[0]!, run([chute], mesh, [...claims].reverse())[0]!]
    assert.is(there.holder, back.holder)
    return there.holder
  }
  assert.is(of(claimOf(chute, 0, 0, 1, 1), claimOf(chute, 0, 1, 2, 9)), idOf(1))
  assert.is(of(claimOf(chute, 0, low, 2, 5), claimOf(chute, 0, high, 2, 4)), idOf(high))
  assert.is(of(claimOf(chute, 0, high, 2, 5), claimOf(chute, 0, low, 2, 5)), idOf(low))
  assert.is(of(claimOf(chute, 0, 0, 1, 1), claimOf(chute, 0, 900, 9, 1)), idOf(0))
})

test('a weaker claim does not step in while the strongest is of a member that cannot hold it', () => {
  const chute = chuteOf({ n: 0 })
  const claims = [claimOf(chute, 0, 0, 2, 1), claimOf(chute, 0, 1, 1, 1)]
  const [placed] = run([chute], meshOf({ n: 0, state: 'dead' }, { n: 1 }, { n: 2 }), claims)
  assert.equal([placed!.holder, placed!.cause, placed!.ranks.length], [undefined, 'dead', 2])
})

test('where an AP has not room for all it claimed, what it claimed first stays', () => {
  fc.assert(
    fc.property(
      fc.shuffledSubarray(Array.from({ length: 12 }, (_, n) => n)),
      fc.integer({ min: 0, max: 12 }),
      (order, room) => {
        const chutes = Array.from({ length: 12 }, (_, n) => chuteOf({ n, cpu: 100 }))
        const claims = order.map((n, at) => claimOf(chutes[n]!, 0, 0, 1, at))
        const placed = run(chutes, meshOf({ n: 0, cpu: room * 100 }), claims)
        const held = placed.filter(({ holder }) => holder !== undefined).map(({ chute }) => chute.id.name)
        assert.equal(
          held.sort(),
          order
            .slice(0, room)
            .map((n) => `chute${n}`)
            .sort(),
        )
        for (const { claim, holder, cause } of placed) if (claim && !holder) assert.is(cause, 'full')
      },
    ),
    { numRuns: 100 },
  )
})

test('a chute that was stopped comes back where it was', () => {
  const claims = [claimOf(chuteOf({ n: 0 }), 0, 2, 1, 1)]
  assert.is(run([chuteOf({ n: 0, desired: 'stopped' })], meshOf(...alike(4)), claims).length, 0)
  assert.is(only({ revision: 2 }, meshOf(...alike(4)), claims).holder, idOf(2))
})

test('a mesh without APs places nothing', () => {
  assert.equal(only({}, new Map()).ranks, [])
})

// --- Exclusive chutes --------------------------------------------------------------------------------------------------

test('an exclusive chute is for APs alone that can stop it without their engine', () => {
  const mesh = meshOf({ n: 0, local: false }, { n: 1 })
  assert.equal(only({ exclusive: true }, mesh).ranks, [idOf(1)])
  assert.is(only({}, mesh).ranks.length, 2)
  const claim = claimOf(chuteOf({ n: 0 }), 0, 0, 1, 0)
  assert.is(only({ exclusive: true }, mesh, [claim]).cause, 'engine')
  assert.is(only({}, mesh, [claim]).holder, idOf(0))
  const [nobody] = only({ exclusive: true }, meshOf({ n: 0, local: false })).obstacles
  assert.match(nobody?.[1] ?? '', 'cannot stop what its engine runs by itself')
})

test('who waits for the lease of what it claimed does not hold it, and others may ask for it; an older wait says nothing', () => {
  const chute = chuteOf({ n: 0 })
  const instance = instanceSubject(chute.key, 0)
  const claim = claimOf(chute, 0, 0, 5, 0)
  const waiting = only({ exclusive: true }, meshOf({ n: 0, waits: [{ instance, epoch: 5 }] }, { n: 1 }), [claim])
  assert.is(waiting.holder, undefined)
  assert.is(waiting.cause, 'lease')
  assert.equal([...waiting.ranks].sort(), [idOf(0), idOf(1)].sort())
  const before = only({ exclusive: true }, meshOf({ n: 0, waits: [{ instance, epoch: 4 }] }, { n: 1 }), [claim])
  assert.is(before.holder, idOf(0))
})

test.run()
