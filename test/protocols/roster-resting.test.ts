// A roster looks at few while nothing is unusual. It must come to the very same as one that looks at everyone each time.
import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { RecordOf } from '../../protocols/kinds.js'
import type { Member } from '../../protocols/membership.js'
import { Neighbourhoods } from '../../protocols/neighbourhood.js'
import { Roster } from '../../protocols/roster.js'
import { keyOf, memberOf, NOW, unsigned } from './support.js'

const N = 16
const TICK = 100
const numbers = Array.from({ length: N }, (_, n) => n)
const ids = numbers.map((n) => memberOf(n).id)
const THRESHOLDS = { split: 9, join: 3, least: 2 }

/** All, or all but one, so that neighbourhoods and watchers are others. */
const MESHES = [undefined, 3, 7].map((missing) => {
  const members = new Map<string, Member>(numbers.filter((n) => n !== missing).map((n) => [ids[n]!, memberOf(n)]))
  return { members, neighbourhoods: new Neighbourhoods(members, new Map(), THRESHOLDS) }
})
const HOODS = MESHES[0]!.neighbourhoods

/** Of those that an AP knows: a neighbour that it watches, one that it does not, and one far away that it watches; or −1. */
function threeOf(self: string): number[] {
  const near = HOODS.of(self)!.members.map(({ id }) => id)
  const watched = HOODS.watchedBy(self)
  const three = [
    near.find((id) => watched.includes(id)),
    near.find((id) => id !== self && !watched.includes(id)),
    watched.find((id) => !near.includes(id)),
  ]
  return three.map((id) => ids.indexOf(id!))
}
const SELF = ids.find((id) => !threeOf(id).includes(-1))!
const FEW = threeOf(SELF)

interface Records {
  statements: RecordOf<'statement'>[]
  goodbyes: RecordOf<'goodbye'>[]
  alives: RecordOf<'alive'>[]
}
const NONE: Records = { statements: [], goodbyes: [], alives: [] }

/** What a roster says in a run: all its effects, and what it answers when it is asked. */
class Run {
  now = 10_000
  readonly said: unknown[] = []
  private readonly roster = new Roster(SELF, 10_000)
  private records = NONE
  private sequence = 50

  /** @param isRestless whether it looks at everyone each time */
  constructor(private readonly isRestless: boolean) {
    this.enter(0)
  }

  enter(mesh: number): void {
    const { members, neighbourhoods } = MESHES[mesh]!
    this.roster.setMembers(members, this.now, neighbourhoods)
  }

  know(change: Partial<Records>): void {
    this.records = { ...this.records, ...change }
    this.give()
  }

  private give(): void {
    const { statements, goodbyes, alives } = this.records
    this.roster.setRecords(statements, goodbyes, alives)
  }

  /** @param age by how much others came before it that were sent later */
  beacon(ap: number, boot: number, age: number, away: number | undefined): void {
    const body = {
      ...{ boot, sequence: ++this.sequence - age, version: '', away, addresses: [], instances: [] },
      ...{ cannot: [], images: [], packages: [], ledger: new Uint8Array(16) },
    }
    this.roster.beacon(ids[ap]!, unsigned(keyOf(ap), 'beacon', keyOf(ap), [NOW, 0], body), this.now)
  }

  pulse(ap: number, boot: number): void {
    this.roster.pulse(ids[ap]!, { boot, sequence: ++this.sequence }, this.now)
  }

  heard(ap: number, boot: number): void {
    this.roster.heard(ids[ap]!, { boot, sequence: ++this.sequence }, this.now)
  }

  lost(ap: number): void {
    this.roster.lost(ids[ap]!, this.now)
  }

  /** The sequence of what is signed now: a statement is refuted by what comes later. */
  get latest(): number {
    return this.sequence
  }

  /** So many ticks, in which some pulse, and probes of others fail. */
  pass(ticks: number, alive: readonly number[], boot: number): void {
    for (let tick = 0; tick < ticks; tick++) {
      this.now += TICK
      if (this.now % 500 === 0) for (const ap of alive) this.pulse(ap, boot)
      this.tick()
    }
  }

  /** It stands still for so long. */
  sleep(ms: number): void {
    this.now += ms
    this.tick()
  }

  private tick(): void {
    if (this.isRestless) Reflect.set(this.roster, 'isSettled', false)
    const effects = this.roster.tick(this.now)
    for (const effect of effects) if (effect.do === 'probe') this.roster.unreachable(effect.ap, this.now % 300 === 0)
    this.said.push([this.now, effects])
  }

  ask(): void {
    const states = ids.map((id) => this.roster.state(id, this.now))
    this.said.push([...states, this.roster.isBraked(this.now), this.roster.isIsolated(this.now)])
  }
}

type Step = (run: Run) => void

// Few, so that much happens to one.
const ap = fc.constantFrom(...FEW)
const boot = fc.constantFrom(1, 1, 1, 2)
const some = fc.subarray(numbers)
const few = fc.subarray(FEW)
const all = fc.constant(numbers)
const most = fc.subarray(numbers, { minLength: N - 2 })

function statementsOf(by: readonly number[], on: readonly number[], boot: number, sequence: number, heard: boolean) {
  const watchers = new Uint8Array(16)
  return on.flatMap((ap) =>
    by.map((n) =>
      unsigned(keyOf(n), 'statement', keyOf(ap), [NOW, 0], {
        ...{ boot, sequence, silence: 1800, probes: 1, heard, watchers },
      }),
    ),
  )
}
const goodbyesOf = (of: readonly number[], boot: number) =>
  of.map((n) => unsigned(keyOf(n), 'goodbye', keyOf(n), [NOW, 0], { boot }))
const alivesOf = (of: readonly number[], boot: number, sequence: number) =>
  of.map((n) => unsigned(keyOf(n), 'alive', keyOf(n), [NOW, 0], { boot, sequence, addresses: [] }))

function likely<A extends unknown[]>(
  weight: number,
  act: (run: Run, ...args: A) => void,
  ...args: { [K in keyof A]: fc.Arbitrary<A[K]> }
) {
  return {
    weight,
    arbitrary: fc.tuple(...args).map(
      (values): Step =>
        (run) =>
          act(run, ...(values as A)),
    ),
  }
}
const between = (min: number, max: number) => fc.integer({ min, max })

const step = fc.oneof(
  likely(5, (run, ticks, alive, boot) => run.pass(ticks, alive, boot), between(1, 60), fc.oneof(most, some), boot),
  likely(5, (run, ticks) => run.pass(ticks, numbers, 1), between(10, 20)),
  likely(3, (run, ticks, alive) => run.pass(ticks, alive, 1), between(290, 330), fc.oneof(all, most, some)),
  likely(1, (run, ms) => run.sleep(ms), between(100, 5000)),
  likely(4, (run, ap, boot, age) => run.beacon(ap, boot, age, undefined), ap, boot, fc.constantFrom(0, 40)),
  likely(1, (run, ap, away) => run.beacon(ap, 1, 0, away), ap, between(500, 5000)),
  likely(4, (run, ap, boot) => run.pulse(ap, boot), ap, boot),
  likely(2, (run, ap, boot) => run.heard(ap, boot), ap, boot),
  likely(2, (run, ap) => run.lost(ap), ap),
  likely(
    3,
    (run, by, on, boot, ahead, heard) => {
      run.know({ statements: statementsOf(by, on, boot, run.latest + ahead, heard) })
    },
    ...([fc.oneof(some, all), few, boot, between(-30, 30), fc.boolean()] as const),
  ),
  likely(4, (run, of, boot) => run.know({ goodbyes: goodbyesOf(of, boot) }), fc.oneof(some, few), boot),
  likely(1, (run, of, boot) => run.know({ alives: alivesOf(of, boot, run.latest) }), some, boot),
  likely(2, (run) => run.know({ statements: [] })),
  likely(1, (run) => run.ask()),
  likely(3, (run, mesh) => run.enter(mesh), fc.nat(MESHES.length - 1)),
)

function play(isRestless: boolean, met: readonly number[], steps: readonly Step[]): unknown[] {
  const run = new Run(isRestless)
  for (const ap of met) run.beacon(ap, 1, 0, undefined)
  run.pass(15, numbers, 1)
  for (const step of steps) step(run)
  run.ask()
  return run.said
}

test('a roster that looks at few comes to the same as one that looks at everyone, whatever happens', () => {
  fc.assert(
    fc.property(fc.oneof(fc.constant(numbers), most), fc.array(step, { minLength: 1, maxLength: 16 }), (met, steps) => {
      assert.equal(play(false, met, steps), play(true, met, steps))
    }),
    { numRuns: 1000 },
  )
})

test('also where an AP is back after it left, and its beacon comes after pulses that are newer', () => {
  const ap = FEW[0]!
  const steps: Step[] = [
    (run) => run.know({ goodbyes: goodbyesOf([ap], 1) }),
    (run) => run.pass(15, numbers, 1),
    (run) => run.pulse(ap, 2),
    (run) => run.pass(3, numbers, 1),
    (run) => run.beacon(ap, 2, 40, undefined),
    (run) => run.pass(3, numbers, 1),
  ]
  assert.equal(play(false, numbers, steps), play(true, numbers, steps))
})

test.run()
