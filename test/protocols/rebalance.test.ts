import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Authority } from '../../protocols/authority.js'
import { apId, hex } from '../../protocols/bytes.js'
import { chuteKey } from '../../protocols/chute.js'
import { type ChuteSpec, resourcesOf } from '../../protocols/deployment.js'
import { type Chute, claimsOf, instanceOf } from '../../protocols/desired.js'
import type { RecordOf } from '../../protocols/kinds.js'
import { neighbourhoodsOf } from '../../protocols/neighbourhood.js'
import { dutiesOf, type Outlook } from '../../protocols/outlook.js'
import { BALANCE } from '../../protocols/pace.js'
import { type Candidate, type Placed, place, REBALANCED } from '../../protocols/placement.js'
import { type Move, nextMove, OVERLOAD, Rebalancing } from '../../protocols/rebalance.js'
import type { RosterState } from '../../protocols/roster.js'
import { creationOf, keyOf, ledgerOf, memberOf, NO_MEMBERS, NOW, serviceOf, specOf, unsigned } from './support.js'

const MIB = 1024 ** 2
const idOf = (n: number): string => memberOf(n).id

interface App {
  n: number
  replicas?: ChuteSpec['replicas']
  /** Thousandths of a CPU. */
  cpu?: number
  /** MiB. */
  memory?: number
  mode?: ChuteSpec['rebalance']
  isExclusive?: boolean
  hasData?: boolean
  port?: number | undefined
}

function chuteOf({ n, replicas = 1, cpu = 500, memory = 64, mode, isExclusive, hasData, port }: App): Chute {
  const service = serviceOf({
    limits: { cpu, memory: memory * MIB, pids: 64 },
    ports: port === undefined ? [] : [{ container: 80, host: port, protocol: 'tcp' }],
  })
  const spec = specOf({
    services: [service],
    replicas,
    volumes: hasData ? [{ name: 'data', ephemeral: false }] : [],
    ...(mode && { rebalance: mode }),
    ...(isExclusive && { exclusive: { voters: [1, 2, 3].map(keyOf), salt: new Uint8Array(10) } }),
  })
  const id = { publisher: keyOf(1000), name: `chute${n}`, creation: creationOf(1000) }
  const body = { creation: id.creation, revision: 1, spec }
  const deployment = unsigned(id.publisher, 'deployment', id.publisher, [NOW, 0], body)
  return { id, key: chuteKey(id), spec, revision: 1, desired: 'running', restarts: 0, deployment }
}

/** The latest claims, and what APs say, of a mesh whose APs do at once what they should. */
class TestMesh {
  now = NOW
  readonly claims: RecordOf<'claim'>[] = []
  readonly states = new Map<number, RosterState>()
  readonly boots = new Map<number, number>()
  /** Instances (by name of their AP) that do not come up. */
  readonly failing = new Set<string>()
  readonly cannot = new Map<string, { instance: Uint8Array; revision: number; reason: string; until: number }[]>()

  constructor(
    readonly chutes: readonly Chute[],
    /** Thousandths of CPUs and MiB of each. */
    readonly aps: readonly { cpu: number; memory: number }[],
  ) {
    for (const n of aps.keys()) this.states.set(n, 'alive')
  }

  claim(subject: Uint8Array, n: number, cause = 'new'): void {
    const known = claimsOf(ledgerOf(this.claims), this.now).get(hex(subject))?.[0]
    const body = { epoch: (known?.body.epoch ?? 0) + 1, cause, ...(known && { previous: known.hash }) }
    this.claims.push(unsigned(keyOf(n), 'claim', subject, [this.now, this.claims.length], body))
  }

  candidates(): Map<string, Candidate> {
    return new Map(
      this.aps.map(({ cpu, memory }, n) => {
        const engine = { version: '27', platform: 'linux/amd64', cpu, memory: memory * MIB, local: true }
        const own = this.claims.filter(({ signer }) => apId(signer) === idOf(n))
        const instances = own
          .filter(() => !this.failing.has(idOf(n)))
          .map(({ subject, body }) => ({
            ...{ instance: subject, epoch: body.epoch, revision: 1, state: 'running' as const, since: NOW, ports: [] },
          }))
        const beacon = {
          ...{
            boot: this.boots.get(n) ?? 1,
            sequence: 1,
            version: '',
            addresses: [],
            engine,
            instances,
            images: [],
            packages: [],
          },
          ...{ cannot: this.cannot.get(idOf(n)) ?? [], ledger: new Uint8Array(16) },
        }
        return [idOf(n), { member: memberOf(n), state: this.states.get(n)!, beacon }]
      }),
    )
  }

  outlook(): Outlook {
    const candidates = this.candidates()
    const claims = claimsOf(ledgerOf(this.claims), this.now)
    return {
      authority: new Authority([], [], keyOf(0)),
      barred: [],
      membership: NO_MEMBERS,
      ...{ chutes: this.chutes, claims, candidates, electorates: new Map() },
      placed: place(this.chutes, claims, candidates, this.now),
      isBraked: false,
      neighbourhoods: neighbourhoodsOf(new Map(), new Map()),
    }
  }

  /** First ranks claim until nobody has to. */
  settle(): this {
    for (let round = 0; round < 50; round++) {
      const open = this.outlook().placed.filter(({ ranks }) => ranks.length > 0)
      if (open.length === 0) return this
      for (const { subject, ranks } of open)
        this.claim(
          subject,
          this.aps.findIndex((_, n) => idOf(n) === ranks[0]),
        )
    }
    throw new Error('claims do not come to rest')
  }

  next(): Move | undefined {
    const { placed, candidates } = this.outlook()
    return nextMove(placed, candidates, this.now)
  }

  /** Makes all moves there are. */
  balance(after: (move: Move) => void = () => {}): number {
    for (let moves = 0; moves < 500; moves++) {
      const move = this.next()
      if (move === undefined) return moves
      this.claim(
        move.placed.subject,
        this.aps.findIndex((_, n) => idOf(n) === move.to),
        REBALANCED,
      )
      after(move)
    }
    throw new Error('moves do not end')
  }

  holders(): string[] {
    return this.outlook().placed.flatMap(({ holder }) => holder ?? [])
  }

  count(n: number): number {
    return this.holders().filter((ap) => ap === idOf(n)).length
  }

  /** Loads of the APs, highest first: what each move must make smaller, as words are compared. */
  loads(): number[] {
    const used = this.aps.map(() => ({ cpu: 0, memory: 0 }))
    for (const { chute, claim, holder, cause } of this.outlook().placed) {
      if (claim === undefined || (holder === undefined && cause !== 'full')) continue
      const n = this.aps.findIndex((_, i) => idOf(i) === apId(claim.signer))
      const { cpu, memory } = resourcesOf(chute.spec)
      used[n]!.cpu += cpu
      used[n]!.memory += memory
    }
    return this.aps
      .map(({ cpu, memory }, n) => Math.max(used[n]!.cpu / cpu, used[n]!.memory / (memory * MIB)))
      .sort((a, b) => b - a)
  }
}

const BOX = { cpu: 4000, memory: 4096 }

/** Chutes of one instance each, all on the first of some APs. */
function crowded(apps: Omit<App, 'n'>[], aps: TestMesh['aps'] = [BOX, BOX]): TestMesh {
  const mesh = new TestMesh(
    apps.map((app, n) => chuteOf({ n, ...app })),
    aps,
  )
  for (const chute of mesh.chutes) mesh.claim(instanceOf(chute, 0).subject, 0)
  return mesh
}

const several = (count: number, app: Omit<App, 'n'>) => Array.from({ length: count }, () => app)

// --- Which move is next ------------------------------------------------------------------------------------------------

const anyMesh = fc
  .record({
    aps: fc.array(
      fc.record({ cpu: fc.integer({ min: 500, max: 8000 }), memory: fc.integer({ min: 256, max: 8192 }) }),
      {
        minLength: 1,
        maxLength: 6,
      },
    ),
    apps: fc.array(
      fc.record({
        replicas: fc.constantFrom<ChuteSpec['replicas']>(1, 1, 2, 3, 'everywhere'),
        cpu: fc.integer({ min: 10, max: 2000 }),
        memory: fc.integer({ min: 8, max: 1024 }),
        mode: fc.constantFrom<ChuteSpec['rebalance']>(undefined, 'always', 'always', 'overloaded', 'never'),
        hasData: fc.constantFrom(false, false, false, true),
        port: fc.constantFrom(undefined, undefined, undefined, 8080),
      }),
      { maxLength: 10 },
    ),
    first: fc.array(fc.nat({ max: 2 }), { maxLength: 30 }),
  })
  .map(({ aps, apps, first }) => {
    const mesh = new TestMesh(
      apps.map((app, n) => chuteOf({ n, ...app })),
      aps,
    )
    // They crowd on the first few, as after the others were away.
    mesh.outlook().placed.forEach(({ subject, copy }, i) => {
      if (typeof copy === 'number' && i < first.length) mesh.claim(subject, first[i]! % aps.length)
    })
    return mesh.settle()
  })

const lessThan = (a: number[], b: number[]): boolean => {
  const at = a.findIndex((value, i) => value !== b[i])
  return at >= 0 && a[at]! < b[at]!
}

test('moves end: each makes the loads of the APs, from the highest down, strictly smaller', () => {
  fc.assert(
    fc.property(anyMesh, (mesh) => {
      let before = mesh.loads()
      mesh.balance(() => {
        const after = mesh.loads()
        assert.ok(lessThan(after, before), `${after} after ${before}`)
        before = after
      })
    }),
  )
})

test('a move is of an instance that may, to an AP that can hold it, and takes the claim of nobody else', () => {
  fc.assert(
    fc.property(anyMesh, (mesh) => {
      let before = mesh.outlook().placed
      mesh.balance(({ placed: { instance, chute }, from, to }) => {
        const after = mesh.outlook().placed
        const holderIn = (all: readonly Placed[], of: string) => all.find((one) => one.instance === of)!.holder
        assert.equal([holderIn(before, instance), holderIn(after, instance)], [from, to])
        for (const other of before) {
          if (other.instance !== instance && other.holder !== undefined)
            assert.is(holderIn(after, other.instance), other.holder)
        }
        const { rebalance, replicas, volumes } = chute.spec
        assert.is.not(rebalance, 'never')
        assert.ok(replicas !== 'everywhere' && volumes.length === 0)
        before = after
      })
    }),
  )
})

test('what is to be balanced always is spread evenly', () => {
  const mesh = crowded(several(6, { mode: 'always' }), [BOX, BOX, BOX])
  assert.is(mesh.balance(), 4)
  assert.equal(
    [0, 1, 2].map((n) => mesh.count(n)),
    [2, 2, 2],
  )
})

test('boxes that are as good as alike share evenly, and one that is twice as big gets twice as much', () => {
  const nearly = crowded(several(2, { mode: 'always', memory: 1024 }), [BOX, { ...BOX, memory: BOX.memory - 1 }])
  nearly.balance()
  assert.equal([nearly.count(0), nearly.count(1)], [1, 1])
  const bigger = crowded(several(6, { mode: 'always' }), [BOX, { cpu: 8000, memory: 8192 }])
  bigger.balance()
  assert.equal([bigger.count(0), bigger.count(1)], [2, 4])
})

test('one instance stays where it is, whichever of two equal APs that is', () => {
  assert.is(crowded([{ mode: 'always' }]).next(), undefined)
})

test('by default an instance moves only off an AP of which more than three quarters are taken, and not to make another one so', () => {
  const fits = OVERLOAD * BOX.cpu
  assert.is(crowded(several(fits / 500, {})).next(), undefined)
  const over = crowded(several(fits / 500 + 1, {}))
  assert.is(over.balance(), 1)
  for (const [mode, isMoved] of [
    ['overloaded', false],
    ['always', true],
  ] as const) {
    const full = crowded([
      { cpu: 3000, mode },
      { cpu: 900, mode },
      { cpu: 2200, mode: 'never' },
    ])
    full.claim(instanceOf(full.chutes[2]!, 0).subject, 1)
    assert.is(full.next() !== undefined, isMoved)
  }
})

test('what is never to be balanced stays even on a crowded AP', () => {
  assert.is(crowded(several(8, { mode: 'never' })).next(), undefined)
  const mixed = crowded([...several(7, { mode: 'never' }), {}])
  const move = mixed.next()
  assert.is(move?.placed.chute.spec.rebalance, undefined)
  assert.is(mixed.balance(), 1)
})

test('an exclusive chute never moves', () => {
  const others = several(7, { mode: 'never' as const })
  assert.is(crowded([...others, { isExclusive: true, mode: 'always' }]).next(), undefined)
  assert.is(crowded([...others, { mode: 'always' }]).next()?.placed.chute.id.name, 'chute7')
})

test('what fits nowhere counts where it was claimed, and gets room by a move only if that pushes nothing out', () => {
  const moves = (youngest: number) => {
    const apps = [{ cpu: 2000, mode: 'always' as const }, { cpu: 3000 }, { cpu: youngest, mode: 'never' as const }]
    const mesh = crowded(apps, [BOX, { cpu: 2900, memory: 4096 }])
    assert.is(mesh.count(0), 2)
    const moves = mesh.balance()
    return [moves, mesh.count(0), mesh.count(1)]
  }
  assert.equal(moves(1900), [0, 2, 0])
  assert.equal(moves(900), [1, 2, 1])
})

test('what fits nowhere for its port gets no room by a move that would take the port from a younger one', () => {
  const moves = (port: number) => {
    const apps = [
      { cpu: 100, memory: 3000, mode: 'always' as const },
      { cpu: 2000, memory: 1500, port: 8080, mode: 'never' as const },
      { cpu: 100, memory: 1000, port, mode: 'never' as const },
    ]
    const mesh = crowded(apps, [BOX, { cpu: 1000, memory: 4096 }])
    assert.equal(mesh.holders().length, 2, 'the second one fits nowhere')
    return mesh.balance()
  }
  assert.equal([moves(8080), moves(8081)], [0, 1])
})

test('replicas do not come together by balancing', () => {
  const mesh = new TestMesh(
    [chuteOf({ n: 0, replicas: 2, mode: 'always' }), ...several(4, {}).map((app, n) => chuteOf({ n: n + 1, ...app }))],
    [BOX, BOX],
  )
  const [twice, ...others] = mesh.chutes
  for (const ap of [0, 1]) mesh.claim(instanceOf(twice!, ap).subject, ap)
  for (const chute of others) mesh.claim(instanceOf(chute, 0).subject, 0)
  assert.is(mesh.next(), undefined)
})

// --- When, and by whom -------------------------------------------------------------------------------------------------

/** A mesh under way: what each AP claims, at a time in ms since all of them know of each other. */
class Course {
  readonly each: Rebalancing[]

  /** @param sure by default a move is sure at once, so that each moment that is tested is the end of one other wait */
  constructor(
    readonly mesh: TestMesh,
    sure = 0,
  ) {
    this.each = mesh.aps.map(() => new Rebalancing({ ...BALANCE, sure }))
    this.at(0)
  }

  /** Who claims what at that moment, and nothing comes of it yet. */
  at(ms: number): { ap: number; instance: string }[] {
    this.mesh.now = NOW + ms
    const outlook = this.mesh.outlook()
    return this.each.flatMap((one, ap) =>
      one.due(outlook, idOf(ap), ms, NOW + ms).map(({ placed, cause }) => {
        assert.is(cause, REBALANCED)
        return { ap, instance: placed.instance }
      }),
    )
  }

  /** Who claims what at that moment, and it is claimed. */
  go(ms: number): { ap: number; instance: string }[] {
    const due = this.at(ms)
    for (const { ap, instance } of due) this.mesh.claim(Uint8Array.from(Buffer.from(instance, 'hex')), ap, REBALANCED)
    return due
  }
}

const { steady, pause, settle, rest, sure } = BALANCE

test('the receiver claims and nobody else, one instance at a time, the next after a pause', () => {
  const course = new Course(crowded(several(6, { mode: 'always' }), [BOX, BOX, BOX]))
  const [first, ...others] = course.go(steady)
  assert.equal(others, [])
  assert.is.not(first!.ap, 0)
  assert.equal(course.go(steady + pause - 1), [])
  assert.is(course.go(steady + pause).length, 1)
})

test('a move is made once it has been the next one for a moment, without a break', () => {
  const mesh = crowded(several(2, { mode: 'always' }), [BOX, BOX])
  const course = new Course(mesh, sure)
  assert.equal(course.at(steady), [])
  assert.equal(course.at(steady + sure - 1), [])
  mesh.failing.add(idOf(0))
  assert.equal(course.at(steady + sure), [])
  mesh.failing.clear()
  assert.equal(course.at(steady + sure + 1), [])
  assert.is(course.at(steady + 2 * sure + 1).length, 1)
})

test('an AP gets nothing before it has been there for a while, nor after a restart or a suspicion', () => {
  const course = new Course(crowded(several(2, { mode: 'always' })))
  assert.equal(course.at(steady - 1), [])
  assert.is(course.at(steady).length, 1)
  course.mesh.boots.set(1, 2)
  assert.equal(course.at(steady + 1), [])
  assert.is(course.at(2 * steady + 1).length, 1)
  course.mesh.states.set(1, 'suspect')
  assert.equal(course.at(2 * steady + 2), [])
  course.mesh.states.set(1, 'alive')
  assert.equal(course.at(2 * steady + 3), [])
  assert.equal(course.at(3 * steady + 2), [])
  assert.is(course.at(3 * steady + 3).length, 1)
})

test('nothing moves while anyone is suspected or an instance waits to be claimed', () => {
  const mesh = crowded(several(2, { mode: 'always' }), [BOX, BOX, BOX])
  const course = new Course(mesh)
  mesh.states.set(2, 'suspect')
  assert.equal(course.at(steady), [])
  mesh.states.set(2, 'alive')
  assert.is(course.at(steady).length, 1)
  mesh.claims.pop()
  assert.equal(course.at(steady), [])
})

test('the next move waits until what moved last serves, but not for ever', () => {
  const course = new Course(crowded(several(6, { mode: 'always' }), [BOX, BOX, BOX]))
  const [first] = course.go(steady)
  course.mesh.failing.add(idOf(first!.ap))
  assert.equal(course.at(steady + pause), [])
  assert.equal(course.at(steady + settle - 1), [])
  assert.is(course.at(steady + settle).length, 1)
})

test('what does not serve where it is does not move', () => {
  const course = new Course(crowded(several(2, { mode: 'always' })))
  course.mesh.failing.add(idOf(0))
  assert.equal(course.at(steady), [])
})

test('the copy that is left behind runs on until the new one serves', () => {
  const course = new Course(crowded(several(2, { mode: 'always' })))
  const [move] = course.go(steady)
  course.mesh.failing.add(idOf(1))
  const keeps = () => dutiesOf(course.mesh.outlook(), idOf(0)).kept.has(move!.instance)
  assert.is(keeps(), true)
  course.mesh.failing.clear()
  assert.is(keeps(), false)
})

test('what the receiver cannot run goes back to where it came from, and is not tried again for an hour', () => {
  const course = new Course(
    crowded(
      several(2, { mode: 'always' }),
      Array.from({ length: 12 }, () => BOX),
    ),
  )
  const { mesh } = course
  const [{ ap, instance }] = course.go(steady) as [{ ap: number; instance: string }]
  const placedNow = () => mesh.outlook().placed.find((one) => one.instance === instance)!
  const refuse = (until: number) =>
    mesh.cannot.set(idOf(ap), [{ instance: placedNow().subject, revision: 1, reason: 'no image', until }])
  refuse(NOW + steady + 40_000)
  mesh.now = NOW + steady + 10_000
  assert.equal([placedNow().cause, placedNow().ranks[0]], ['cannot', idOf(0)])
  mesh.claim(placedNow().subject, 0, 'cannot')
  // The other one goes instead.
  const [other] = course.go(steady + pause)
  assert.is.not(other!.instance, instance)
  for (const at of [2, 3, 10]) assert.equal(course.go(steady + at * pause), [])
  assert.is(placedNow().holder, idOf(0))
  mesh.claim(Buffer.from(other!.instance, 'hex'), 0)
  assert.equal(course.at(steady + rest - 1), [])
  assert.is(course.at(steady + rest)[0]?.instance, instance)
})

test.run()
