// A roster looks at few while nothing is unusual. It must come to the very same as one that looks at everyone each time.
import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { RecordOf } from '../../protocols/kinds.js'
import type { Member } from '../../protocols/membership.js'
import { Neighbourhoods } from '../../protocols/neighbourhood.js'
import { Roster } from '../../protocols/roster.js'
import { keyOf, memberOf, NOW, unsigned } from './support.js'

const N = 12
const TICK = 100
const numbers = Array.from({ length: N }, (_, n) => n)
const ids = numbers.map((n) => memberOf(n).id)
const THRESHOLDS = { split: 7, join: 3, least: 2 }

/** All, or all but one, so that neighbourhoods and watchers are others. Each is there twice, as equal objects. */
const MESHES = [undefined, 3, 7].map((missing) => {
  const members = new Map<string, Member>(numbers.filter((n) => n !== missing).map((n) => [ids[n]!, memberOf(n)]))
  const divide = () => new Neighbourhoods(members, new Map(), THRESHOLDS)
  return { members, twins: [divide(), divide()] as const }
})
const HOODS = MESHES[0]!.twins[0]
const SELF = ids.find((id) => HOODS.watchedBy(id).some((ap) => HOODS.of(ap) !== HOODS.of(id)))!

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
  private mesh = 0
  private sequence = 50

  /** @param isRestless whether it is given members and records anew before each tick, after which it looks at everyone */
  constructor(private readonly isRestless: boolean) {
    this.enter(0)
  }

  enter(mesh: number, twin: 0 | 1 = 0): void {
    this.mesh = mesh
    const { members, twins } = MESHES[mesh]!
    this.roster.setMembers(members, this.now, twins[twin])
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
      ...{ cannot: [], images: [], ledger: new Uint8Array(16) },
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
    if (this.isRestless) {
      this.enter(this.mesh, 1)
      this.enter(this.mesh, 0)
      this.know({ statements: [...this.records.statements] })
    }
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
const ap = fc.nat(2)
const boot = fc.constantFrom(1, 1, 1, 2)
const some = fc.subarray(numbers)
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

const likely = (weight: number, arbitrary: fc.Arbitrary<Step>) => ({ weight, arbitrary })
const step = fc.oneof(
  likely(
    5,
    fc.tuple(fc.integer({ min: 1, max: 60 }), fc.oneof(most, most, some), boot).map(
      ([ticks, alive, boot]) =>
        (run) =>
          run.pass(ticks, alive, boot),
    ),
  ),
  likely(
    5,
    fc.integer({ min: 10, max: 20 }).map((ticks) => (run) => run.pass(ticks, numbers, 1)),
  ),
  likely(
    1,
    fc.tuple(fc.integer({ min: 290, max: 330 }), fc.oneof(most, some)).map(
      ([ticks, alive]) =>
        (run) =>
          run.pass(ticks, alive, 1),
    ),
  ),
  likely(
    1,
    fc.integer({ min: 100, max: 5000 }).map((ms) => (run) => run.sleep(ms)),
  ),
  likely(
    3,
    fc.tuple(ap, boot, fc.constantFrom(0, 0, 40), fc.constantFrom(undefined, undefined, 700, 5000)).map(
      ([ap, boot, age, away]) =>
        (run) =>
          run.beacon(ap, boot, age, away),
    ),
  ),
  likely(
    3,
    fc.tuple(ap, boot).map(
      ([ap, boot]) =>
        (run) =>
          run.pulse(ap, boot),
    ),
  ),
  likely(
    2,
    fc.tuple(ap, boot).map(
      ([ap, boot]) =>
        (run) =>
          run.heard(ap, boot),
    ),
  ),
  likely(
    1,
    ap.map((ap) => (run) => run.lost(ap)),
  ),
  likely(
    2,
    fc.tuple(some, fc.subarray(numbers, { maxLength: 3 }), boot, fc.integer({ min: -30, max: 30 }), fc.boolean()).map(
      ([by, on, boot, ahead, heard]) =>
        (run) =>
          run.know({ statements: statementsOf(by, on, boot, run.latest + ahead, heard) }),
    ),
  ),
  likely(
    3,
    fc.tuple(some, boot).map(
      ([of, boot]) =>
        (run) =>
          run.know({ goodbyes: goodbyesOf(of, boot) }),
    ),
  ),
  likely(
    1,
    fc.tuple(some, boot).map(
      ([of, boot]) =>
        (run) =>
          run.know({ alives: alivesOf(of, boot, run.latest) }),
    ),
  ),
  likely(
    1,
    fc.constant((run) => run.know({ statements: [] })),
  ),
  likely(
    1,
    fc.constant((run) => run.ask()),
  ),
  likely(
    3,
    fc.nat(MESHES.length - 1).map((mesh) => (run) => run.enter(mesh)),
  ),
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
    { numRuns: 700 },
  )
})

test.run()
