import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { apId } from '../../protocols/bytes.js'
import type { RecordOf } from '../../protocols/kinds.js'
import type { Member } from '../../protocols/membership.js'
import { neighbourhoodsOf } from '../../protocols/neighbourhood.js'
import { majority } from '../../protocols/rendezvous.js'
import { Roster, type RosterEffect, TIMING } from '../../protocols/roster.js'
import { keyOf, memberOf, NOW, unsigned } from './support.js'

const TICK = 100

const numbers = (n: number) => Array.from({ length: n }, (_, i) => i)
const membersOf = (n: number | number[]): Map<string, Member> =>
  new Map((typeof n === 'number' ? numbers(n) : n).map((i) => [memberOf(i).id, memberOf(i)]))
const idOf = (n: number): string => memberOf(n).id
const numberOf = new Map(numbers(40).map((n) => [idOf(n), n]))

const beaconOf = (ap: number, boot: number, sequence: number): RecordOf<'beacon'> =>
  unsigned(keyOf(ap), 'beacon', keyOf(ap), [NOW, 0], {
    boot,
    sequence,
    version: '',
    addresses: [],
    instances: [],
    cannot: [],
    images: [],
    packages: [],
    ledger: new Uint8Array(16),
  })
const statementOf = (
  by: number,
  ap: number,
  boot: number,
  sequence: number,
  more: Partial<RecordOf<'statement'>['body']> = {},
): RecordOf<'statement'> =>
  unsigned(keyOf(by), 'statement', keyOf(ap), [NOW, 0], {
    boot,
    sequence,
    silence: 1800,
    probes: 1,
    heard: true,
    watchers: new Uint8Array(16),
    ...more,
  })
const goodbyeOf = (ap: number, boot: number): RecordOf<'goodbye'> =>
  unsigned(keyOf(ap), 'goodbye', keyOf(ap), [NOW, 0], { boot })

/** In a mesh of `n`: an AP, its watchers, and those that are neither. */
function around(ap: number, n: number): { watchers: number[]; others: number[] } {
  const watchers = neighbourhoodsOf(membersOf(n), new Map())
    .watchersOf(idOf(ap))
    .map((id) => numberOf.get(id)!)
  return { watchers, others: numbers(n).filter((i) => i !== ap && !watchers.includes(i)) }
}

/** One AP's roster, on a clock of its own that ticks as it should. */
class Observer {
  now = 10_000
  readonly roster: Roster
  readonly effects: { at: number; effect: RosterEffect }[] = []
  /** What becomes of a probe: an answer, none, or nothing at all yet. */
  probe: 'answers' | 'fails' | 'refuses' | 'hangs' = 'fails'
  /** Of those that pulse. */
  boot = 1
  private sequence = 1

  constructor(
    readonly self: number,
    readonly n: number | number[],
  ) {
    this.roster = new Roster(idOf(self), this.now)
    this.roster.setMembers(membersOf(n), this.now)
  }

  /** Makes all others, or some, known and alive. */
  meet(...some: number[]): this {
    const all = typeof this.n === 'number' ? numbers(this.n) : this.n
    for (const ap of some.length > 0 ? some : all) this.roster.beacon(idOf(ap), beaconOf(ap, 1, 1), this.now)
    return this
  }

  pulse(...aps: number[]): void {
    this.sequence++
    for (const ap of aps) this.roster.pulse(idOf(ap), { boot: this.boot, sequence: this.sequence }, this.now)
  }

  /** Ticks for so many milliseconds, in which `alive` pulse. */
  run(ms: number, ...alive: number[]): this {
    for (const end = this.now + ms; this.now < end; ) {
      this.now += TICK
      if (this.now % TIMING.pulse === 0) this.pulse(...alive)
      this.tick()
    }
    return this
  }

  tick(): void {
    for (const effect of this.roster.tick(this.now)) {
      this.effects.push({ at: this.now, effect })
      if (effect.do !== 'probe' || this.probe === 'hangs') continue
      if (this.probe !== 'answers') this.roster.unreachable(effect.ap, this.probe === 'refuses')
      else this.pulse(numberOf.get(effect.ap)!)
    }
  }

  know(statements: RecordOf<'statement'>[], goodbyes: RecordOf<'goodbye'>[] = []): void {
    this.roster.setRecords(statements, goodbyes, [])
  }

  state(ap: number): string {
    return this.roster.state(idOf(ap), this.now)
  }

  /** Effects of one sort about one AP. */
  of<D extends RosterEffect['do']>(sort: D, ap: number) {
    return this.effects.flatMap(({ at, effect }) =>
      effect.do === sort && effect.ap === idOf(ap) ? [{ at, effect: effect as Extract<RosterEffect, { do: D }> }] : [],
    )
  }
}

const AP = 0
const N = 8
const { watchers: WATCHERS, others: OTHERS } = around(AP, N)
const [WATCHER, ...COLLEAGUES] = WATCHERS as [number, ...number[]]
const STRANGER = OTHERS[0]!
const EVERYONE_ELSE = numbers(N).filter((n) => n !== AP && n !== WATCHER)

/** A watcher of AP that has met everyone and heard AP last at `heardAt`, just now. */
function watching(): Observer & { heardAt: number } {
  const observer = new Observer(WATCHER, N).meet().run(5000, ...numbers(N))
  return Object.assign(observer, { heardAt: observer.now })
}

test('in these tests the mesh has an AP, five watchers of it, and others', () => {
  assert.is(WATCHERS.length, 5)
  assert.is(OTHERS.length, 2)
})

test('pulses keep an AP alive: nobody is probed, suspected or accused', () => {
  const observer = watching().run(60_000, ...numbers(N))
  for (const ap of EVERYONE_ELSE) assert.is(observer.state(ap), 'alive')
  const tells = observer.effects.filter(({ effect }) => effect.do !== 'tell' || effect.to !== 'alive')
  assert.equal(tells, [])
})

test('an AP that missed two pulses is probed, directly and through three other watchers, and after three it is suspect', () => {
  const observer = watching()
  observer.run(TIMING.ask, ...EVERYONE_ELSE)
  assert.is(observer.of('probe', AP).length, 0)
  observer.run(TIMING.suspect - TIMING.ask, ...EVERYONE_ELSE)
  assert.is(observer.state(AP), 'alive')
  assert.ok(observer.of('probe', AP).length > 0)
  observer.run(TICK, ...EVERYONE_ELSE)
  assert.is(observer.state(AP), 'suspect')
  const { via } = observer.of('probe', AP)[0]!.effect
  assert.is(via.length, 3)
  for (const id of via) assert.ok(COLLEAGUES.includes(numberOf.get(id)!))
  observer.run(TICK, ...EVERYONE_ELSE)
  const { from, to } = observer.of('tell', AP).at(-1)!.effect
  assert.equal([from, to], ['alive', 'suspect'])
})

test('a probe is not sent through watchers that are silent themselves', () => {
  const observer = watching()
  for (const colleague of COLLEAGUES.slice(1)) observer.roster.lost(idOf(colleague), observer.now)
  observer.run(10_000, COLLEAGUES[0]!, ...OTHERS)
  assert.equal(observer.of('probe', AP).at(-1)!.effect.via, [idOf(COLLEAGUES[0]!)])
})

test('a suspect is probed every 400 ms, no more often', () => {
  const observer = watching().run(6000, ...EVERYONE_ELSE)
  const times = observer.of('probe', AP).map(({ at }) => at)
  for (const [i, at] of times.entries()) if (i > 0) assert.is(at - times[i - 1]!, TIMING.probe)
})

test('an AP whose pulses are lost but that answers probes is never accused', () => {
  const observer = watching()
  observer.probe = 'answers'
  observer.run(60_000, ...EVERYONE_ELSE)
  assert.is(observer.of('accuse', AP).length, 0)
  assert.ok(observer.of('probe', AP).length > 10)
})

test('a watcher whose probes fail accuses after 1.8 s of silence and not before, with what it last heard', () => {
  const observer = watching()
  const { heardAt } = observer
  observer.run(TIMING.accuse - TICK, ...EVERYONE_ELSE)
  assert.is(observer.of('accuse', AP).length, 0)
  observer.run(TICK, ...EVERYONE_ELSE)
  const [accusation] = observer.of('accuse', AP)
  assert.is(accusation!.at - heardAt, TIMING.accuse)
  const { boot, sequence, silence, probes } = accusation!.effect.statement
  assert.equal({ boot, silence }, { boot: 1, silence: TIMING.accuse })
  assert.is(sequence, 11) // ten pulses in five seconds, after the beacon
  assert.ok(probes >= 1)
})

test('nobody is accused while no probe has failed', () => {
  const observer = watching()
  observer.probe = 'hangs'
  observer.run(30_000, ...EVERYONE_ELSE)
  assert.is(observer.of('accuse', AP).length, 0)
  observer.roster.unreachable(idOf(AP))
  observer.run(TICK, ...EVERYONE_ELSE)
  assert.is(observer.of('accuse', AP).length, 1)
})

test('a probe that failed before an AP came back is not held against it', () => {
  const observer = watching().run(TIMING.accuse - TICK, ...EVERYONE_ELSE)
  observer.probe = 'hangs'
  assert.ok(observer.of('probe', AP).length > 0)
  observer.pulse(AP)
  observer.run(20_000, ...EVERYONE_ELSE)
  assert.is(observer.of('accuse', AP).length, 0)
})

test('one silence makes one statement; an AP that came back and fell silent again is accused again', () => {
  const observer = watching().run(20_000, ...EVERYONE_ELSE)
  assert.is(observer.of('accuse', AP).length, 1)
  observer.run(1000, ...EVERYONE_ELSE, AP).run(20_000, ...EVERYONE_ELSE)
  const [first, second, ...more] = observer.of('accuse', AP).map(({ effect }) => effect.statement)
  assert.is(more.length, 0)
  assert.ok(second!.sequence > first!.sequence)
})

test('only watchers probe and accuse', () => {
  const observer = new Observer(STRANGER, N).meet().run(60_000, ...WATCHERS)
  assert.is(observer.of('probe', AP).length, 0)
  assert.is(observer.of('accuse', AP).length, 0)
})

test('where all watchers of an AP are silent, others take their place', () => {
  const observer = new Observer(STRANGER, N).meet()
  for (const watcher of WATCHERS) observer.roster.lost(idOf(watcher), observer.now)
  observer.run(TIMING.unwitnessed, ...OTHERS)
  assert.is(observer.of('accuse', AP).length, 0)
  observer.run(1000, ...OTHERS)
  assert.is(observer.of('accuse', AP).length, 1)
})

test('watchers that left, or were proven dead, are silent too, also for one that never had reason to suspect them', () => {
  // They said goodbye, or were accused, before this AP started: it never heard them.
  const gone = (how: 'left' | 'dead') => {
    const observer = new Observer(STRANGER, N).meet(AP, ...OTHERS)
    const statements = WATCHERS.flatMap((w) => around(w, N).watchers.map((by) => statementOf(by, w, 1, 1)))
    if (how === 'left')
      observer.know(
        [],
        WATCHERS.map((w) => goodbyeOf(w, 1)),
      )
    else observer.know(statements)
    for (const watcher of WATCHERS) assert.is(observer.state(watcher), how)
    return observer.run(TIMING.unwitnessed + 1000, ...OTHERS)
  }
  for (const how of ['left', 'dead'] as const) assert.is(gone(how).of('accuse', AP).length, 1, how)
})

for (const n of [2, 3, 4, 5, 6, 8]) {
  test(`of ${n} members: a majority of an AP's watchers makes it dead, one statement less does not`, () => {
    const { watchers } = around(AP, n)
    const needed = majority(watchers.length)
    const of = (count: number) => {
      const observer = new Observer(watchers[0]!, n).meet()
      observer.know(watchers.slice(-count).map((by) => statementOf(by, AP, 1, 1)))
      return observer
    }
    assert.is(of(needed).state(AP), 'dead')
    assert.is(of(needed).roster.certificate(idOf(AP))!.length, needed)
    if (needed > 1) {
      assert.is(of(needed - 1).state(AP), 'suspect')
      assert.is(of(needed - 1).roster.certificate(idOf(AP)), undefined)
    }
  })
}

test('statements of members that do not watch, and of strangers, make no majority', () => {
  const observer = new Observer(WATCHER, N).meet()
  const two = WATCHERS.slice(0, 2).map((by) => statementOf(by, AP, 1, 1))
  observer.know([
    ...two,
    ...OTHERS.map((by) => statementOf(by, AP, 1, 1)),
    ...[20, 21, 22].map((by) => statementOf(by, AP, 1, 1)),
  ])
  assert.is(observer.state(AP), 'suspect')
  assert.is(observer.roster.accusations(idOf(AP)).length, 2 + OTHERS.length)
  observer.know([...two, statementOf(WATCHERS[2]!, AP, 1, 1)])
  assert.is(observer.state(AP), 'dead')
})

test('statements of strangers alone do not even make suspect', () => {
  const observer = new Observer(WATCHER, N).meet()
  observer.know([20, 21, 22].map((by) => statementOf(by, AP, 1, 1)))
  assert.is(observer.state(AP), 'alive')
})

test('the statements of a watcher that was forgotten count no more', () => {
  const observer = new Observer(WATCHER, N).meet()
  observer.know(WATCHERS.slice(1, 4).map((by) => statementOf(by, AP, 1, 1)))
  assert.is(observer.state(AP), 'dead')
  observer.roster.setMembers(membersOf(numbers(N).filter((n) => n !== WATCHERS[1])), observer.now)
  assert.is(observer.state(AP), 'suspect')
})

test('a beacon that is newer than the statements refutes them; one as old or older does not, nor does a pulse', () => {
  const observer = new Observer(WATCHER, N).meet()
  observer.know(WATCHERS.slice(0, 3).map((by) => statementOf(by, AP, 5, 100)))
  const states = (...beacons: [boot: number, sequence: number][]) =>
    beacons.map(([boot, sequence]) => {
      observer.roster.beacon(idOf(AP), beaconOf(AP, boot, sequence), observer.now)
      return observer.state(AP)
    })
  assert.equal(states([1, 200], [4, 500], [5, 99], [5, 100]), ['dead', 'dead', 'dead', 'dead'])
  observer.roster.heard(idOf(AP), { boot: 5, sequence: 101 }, observer.now)
  assert.is(observer.state(AP), 'dead')
  assert.equal(states([5, 102]), ['alive'])
})

test('a beacon of a later boot refutes, whatever its sequence', () => {
  const observer = new Observer(WATCHER, N).meet()
  observer.know(WATCHERS.slice(0, 3).map((by) => statementOf(by, AP, 5, 100)))
  observer.roster.beacon(idOf(AP), beaconOf(AP, 6, 1), observer.now)
  assert.is(observer.state(AP), 'alive')
})

test('a beacon that refutes some statements leaves the others', () => {
  const observer = new Observer(WATCHER, N).meet()
  observer.know(WATCHERS.slice(0, 3).map((by, i) => statementOf(by, AP, 1, 10 + i)))
  observer.roster.beacon(idOf(AP), beaconOf(AP, 1, 11), observer.now)
  assert.is(observer.state(AP), 'suspect')
  assert.is(observer.roster.accusations(idOf(AP)).length, 2)
})

test('a lost connection suspects and probes at once, but does not accuse early', () => {
  const observer = watching()
  const { heardAt } = observer
  observer.roster.lost(idOf(AP), observer.now)
  assert.is(observer.state(AP), 'suspect')
  observer.run(TICK, ...EVERYONE_ELSE)
  assert.is(observer.of('probe', AP).length, 1)
  observer.run(5000, ...EVERYONE_ELSE)
  assert.is(observer.of('accuse', AP)[0]!.at - heardAt, TIMING.accuse)
})

test('an AP whose host is there and refuses is accused sooner, by a refusal that was asked for after that time', () => {
  const observer = watching()
  const { heardAt } = observer
  observer.probe = 'refuses'
  observer.run(2 * TICK, ...EVERYONE_ELSE)
  observer.roster.lost(idOf(AP), observer.now)
  observer.run(3000, ...EVERYONE_ELSE)
  const [accusation] = observer.of('accuse', AP)
  const { at } = accusation!
  assert.ok(at - heardAt >= TIMING.accuseRefused && at - heardAt <= TIMING.accuseRefused + 2 * TICK, `${at - heardAt}`)
  const decisive = observer.of('probe', AP).filter((probe) => probe.at < at)
  assert.ok(decisive.at(-1)!.at - heardAt >= TIMING.accuseRefused)
})

test('an AP that refused, and listens again by then, is not accused', () => {
  const observer = watching()
  observer.probe = 'refuses'
  observer.roster.lost(idOf(AP), observer.now)
  observer.run(TIMING.accuseRefused - TICK, ...EVERYONE_ELSE)
  assert.ok(observer.of('probe', AP).length > 1)
  observer.probe = 'answers'
  observer.run(2 * TICK, ...EVERYONE_ELSE)
  assert.is(observer.of('accuse', AP).length, 0)
  assert.is(observer.state(AP), 'alive')
})

test('a refusal that is followed by silence counts as silence, and what was asked again counts once it is answered', () => {
  const observer = watching()
  observer.probe = 'refuses'
  observer.roster.lost(idOf(AP), observer.now)
  observer.run(TIMING.accuseRefused - TICK, ...EVERYONE_ELSE)
  observer.probe = 'hangs'
  observer.run(3 * TICK, ...EVERYONE_ELSE)
  assert.is(observer.of('accuse', AP).length, 0)
  observer.probe = 'fails'
  observer.run(TIMING.accuse - TIMING.accuseRefused - 4 * TICK, ...EVERYONE_ELSE)
  assert.is(observer.of('accuse', AP).length, 0)
  observer.run(3 * TICK, ...EVERYONE_ELSE)
  assert.is(observer.of('accuse', AP).length, 1)
})

test('a watcher that had no pulse of this boot says so when it accuses, after 30 s', () => {
  const observer = watching()
  observer.roster.beacon(idOf(AP), beaconOf(AP, 2, 1), observer.now)
  observer.run(TIMING.unwitnessed - TICK, ...EVERYONE_ELSE)
  assert.is(observer.of('accuse', AP).length, 0)
  observer.run(2 * TICK, ...EVERYONE_ELSE)
  assert.equal(
    observer.of('accuse', AP).map(({ effect: { statement } }) => [statement.boot, statement.heard]),
    [[2, false]],
  )
})

test('statements of watchers that had no pulse of this boot make no majority', () => {
  const observer = new Observer(WATCHER, N).meet()
  const of = (heard: boolean[]) => heard.map((h, i) => statementOf(WATCHERS[i]!, AP, 1, 1, { heard: h }))
  observer.know(of([true, true, false, false, false]))
  assert.is(observer.state(AP), 'suspect')
  observer.know(of([true, true, true, false, false]))
  assert.is(observer.state(AP), 'dead')
})

test('a watcher that was started again signs nothing anew that says less than what it signed before', () => {
  const again = (before: RecordOf<'statement'>[]) => {
    const observer = new Observer(WATCHER, N).meet()
    observer.know(before)
    observer.run(TIMING.unwitnessed + 5000, ...EVERYONE_ELSE)
    return observer.of('accuse', AP).map(({ effect: { statement } }) => statement)
  }
  const [statement] = again([])
  assert.is(statement!.heard, false)
  const { watchers } = statement!
  assert.equal(again([statementOf(WATCHER, AP, 1, 1, { watchers })]), [])
  assert.equal(again([statementOf(WATCHER, AP, 1, 1, { watchers, heard: false })]), [])
  // Of another's, or one that is refuted, or was counted against other watchers, nothing is said yet.
  assert.is(again([statementOf(COLLEAGUES[0]!, AP, 1, 1, { watchers })]).length, 1)
  assert.is(again([statementOf(WATCHER, AP, 1, 0, { watchers })]).length, 1)
  assert.is(again([statementOf(WATCHER, AP, 1, 1)]).length, 1)
})

test('statements that were counted against other watchers make no majority together; they are signed anew', () => {
  const observer = new Observer(WATCHER, N).meet()
  const watchers = (n: number) => new Uint8Array(16).fill(n)
  const of = (digests: number[]) =>
    digests.map((n, i) => statementOf(WATCHERS[i]!, AP, 1, 1, { watchers: watchers(n) }))
  observer.know(of([1, 1, 2, 2]))
  assert.is(observer.state(AP), 'suspect')
  observer.know(of([1, 1, 2, 2, 1]))
  assert.is(observer.state(AP), 'dead')

  // The AP has one watcher less, and another one instead.
  const signer = watching().run(3000, ...EVERYONE_ELSE)
  signer.roster.setMembers(membersOf(numbers(N).filter((n) => n !== COLLEAGUES[0])), signer.now)
  signer.run(1000, ...EVERYONE_ELSE)
  const [first, second, ...more] = signer.of('accuse', AP).map(({ effect }) => effect.statement)
  assert.is(more.length, 0)
  assert.equal([first!.boot, first!.sequence], [second!.boot, second!.sequence])
  assert.not.equal(first!.watchers, second!.watchers)
})

test('an AP that is usually late is given as much longer before it is probed and accused, and 6 s at most', () => {
  /** The silence at which an AP that pulsed in these gaps is accused. */
  const accusedAfter = (...gaps: number[]): number => {
    const observer = watching()
    observer.probe = 'answers'
    for (let i = 0; i < 60; i++) {
      observer.run(gaps[i % gaps.length]!, ...EVERYONE_ELSE)
      observer.pulse(AP)
    }
    const heardAt = observer.now
    observer.probe = 'fails'
    observer.run(20_000, ...EVERYONE_ELSE)
    return observer.of('accuse', AP)[0]!.at - heardAt
  }
  assert.is(accusedAfter(500), TIMING.accuse)
  assert.is(accusedAfter(400, 600), TIMING.accuse)
  const late = accusedAfter(300, 300, 300, 1400)
  assert.ok(late > 3000 && late < 3500, `${late}`)
  const longest = accusedAfter(100, 4000)
  assert.ok(longest >= 6000 && longest < 6500, `${longest}`)
})

test('an AP that restarts is not given longer for the gap that this made', () => {
  const observer = watching()
  observer.run(1500, ...EVERYONE_ELSE)
  observer.probe = 'answers'
  observer.run(3000, ...EVERYONE_ELSE)
  observer.probe = 'fails'
  observer.roster.beacon(idOf(AP), beaconOf(AP, 2, 1), observer.now)
  observer.boot = 2
  observer.run(10_000, ...numbers(N))
  const heardAt = observer.now
  observer.run(20_000, ...EVERYONE_ELSE)
  assert.is(observer.of('accuse', AP).at(-1)!.at - heardAt, TIMING.accuse)
})

test('an observer that does not keep time itself waits longer, and for a while after', () => {
  const observer = watching()
  const slow = () => {
    observer.now += TIMING.pause + TICK
    observer.pulse(...numbers(N))
    observer.tick()
  }
  for (let i = 0; i < 4; i++) slow()
  const heardAt = observer.now
  observer.run(20_000, ...EVERYONE_ELSE)
  const silence = observer.of('accuse', AP)[0]!.at - heardAt
  assert.ok(silence > 2 * TIMING.accuse && silence < 5 * TIMING.accuse, `${silence}`)

  observer.run(30_000, ...numbers(N))
  const again = observer.now
  observer.run(20_000, ...EVERYONE_ELSE)
  assert.is(observer.of('accuse', AP).at(-1)!.at - again, TIMING.accuse)
})

test('an observer that was wrong about an AP, or could not reach what others reach, waits longer', () => {
  const accusedAfter = (mistake: (observer: Observer) => void): number => {
    const observer = watching()
    mistake(observer)
    const heardAt = observer.now
    observer.run(20_000, ...EVERYONE_ELSE)
    return observer.of('accuse', AP).at(-1)!.at - heardAt
  }
  const [other] = EVERYONE_ELSE.filter((n) => around(n, N).watchers.includes(WATCHER))
  const silent = EVERYONE_ELSE.filter((n) => n !== other)
  assert.is(
    accusedAfter(() => {}),
    TIMING.accuse,
  )
  const thrice = accusedAfter(({ roster, now }) => {
    for (let i = 0; i < 3; i++) roster.misjudged(now)
  })
  assert.ok(thrice > TIMING.accuse)
  const refuted = (boot: number) =>
    accusedAfter((observer) => {
      observer.run(2500, ...silent, AP)
      assert.is(observer.of('accuse', other!).length, 1)
      observer.roster.misjudged(observer.now)
      observer.roster.pulse(idOf(other!), { boot, sequence: 4999 }, observer.now)
      observer.roster.beacon(idOf(other!), beaconOf(other!, boot, 5000), observer.now)
    })
  assert.ok(refuted(1) > refuted(2), 'who restarted was down')
})

test('an AP that is heard again after its connection was lost is alive, with no trace', () => {
  const observer = watching()
  observer.roster.lost(idOf(AP), observer.now)
  observer.run(1000, ...EVERYONE_ELSE, AP)
  assert.is(observer.state(AP), 'alive')
  observer.run(TIMING.suspect, ...EVERYONE_ELSE)
  assert.is(observer.of('accuse', AP).length, 0)
})

/** A beacon by which an AP asks to be waited for. */
test('an AP that says in a pulse that it will be silent is waited for, until it pulses again', () => {
  const observer = watching()
  observer.roster.pulse(idOf(AP), { boot: 1, sequence: 1000, away: 20_000 }, observer.now)
  observer.roster.pulse(idOf(AP), { boot: 1, sequence: 999 }, observer.now) // it was under way longer
  observer.roster.lost(idOf(AP), observer.now)
  observer.run(19_900, ...EVERYONE_ELSE)
  assert.equal([observer.state(AP), observer.of('accuse', AP).length], ['alive', 0])
  observer.boot = 2
  observer.pulse(AP)
  observer.run(5000, ...EVERYONE_ELSE)
  assert.is(observer.of('accuse', AP).length, 1)
})

function awayBeacon(ap: number, sequence: number, away: number): RecordOf<'beacon'> {
  const beacon = beaconOf(ap, 1, sequence)
  return { ...beacon, body: { ...beacon.body, away } }
}

test('an AP that said for how long it would be silent is alive as long, and then no longer than any other', () => {
  const observer = watching()
  observer.roster.beacon(idOf(AP), awayBeacon(AP, 1000, 20_000), observer.now)
  observer.roster.lost(idOf(AP), observer.now)
  observer.run(20_000, ...EVERYONE_ELSE)
  assert.is(observer.state(AP), 'alive')
  assert.is(observer.of('probe', AP).length, 0)
  observer.run(2500, ...EVERYONE_ELSE)
  assert.is(observer.state(AP), 'suspect')
  assert.is(observer.of('accuse', AP).length, 1)
})

test('an AP that is back from its silence is watched as before', () => {
  const observer = watching()
  observer.roster.beacon(idOf(AP), awayBeacon(AP, 1000, 60_000), observer.now)
  observer.run(1000, ...EVERYONE_ELSE)
  observer.roster.beacon(idOf(AP), beaconOf(AP, 2, 1), observer.now)
  observer.boot = 2
  observer.run(TIMING.pulse, AP)
  observer.run(3000, ...EVERYONE_ELSE)
  assert.is(observer.of('accuse', AP).length, 1)
})

for (const pause of [TIMING.pause + TICK, 10_000, 3_600_000]) {
  test(`an observer that slept for ${pause / 1000} s accuses nobody for it`, () => {
    const observer = watching()
    observer.now += pause
    observer.tick()
    observer.run(1300)
    for (const ap of EVERYONE_ELSE) assert.is(observer.of('accuse', ap).length, 0)
    observer.run(30_000, ...numbers(N))
    assert.is(observer.effects.filter(({ effect }) => effect.do === 'accuse').length, 0)
  })
}

test('an observer that slept soon notices who died meanwhile, also where it was heard just before the first tick', () => {
  for (const heardFirst of [false, true]) {
    const observer = watching()
    observer.now += 3_600_000
    if (heardFirst) observer.pulse(AP)
    observer.tick()
    observer.run(3000, ...EVERYONE_ELSE)
    assert.is(observer.of('accuse', AP).length, 1, heardFirst ? 'heard first' : 'not heard')
  }
})

test('an observer that slept waits on for one it never heard', () => {
  const observer = new Observer(WATCHER, N).meet(...EVERYONE_ELSE).run(5000, ...EVERYONE_ELSE)
  observer.now += 3_600_000
  observer.tick()
  observer.run(20_000, ...EVERYONE_ELSE)
  assert.is(observer.of('accuse', AP).length, 0)
  observer.run(6000, ...EVERYONE_ELSE)
  assert.is(observer.of('accuse', AP).length, 1)
})

test('without a majority an AP is dead after 30 s, where the other watchers are silent, and not before', () => {
  const observer = watching()
  for (const colleague of COLLEAGUES) observer.roster.lost(idOf(colleague), observer.now)
  observer.know([statementOf(WATCHER, AP, 1, 11)])
  observer.tick()
  observer.run(TIMING.unwitnessed - TICK, ...OTHERS)
  assert.is(observer.state(AP), 'suspect')
  observer.run(TICK, ...OTHERS)
  assert.is(observer.state(AP), 'dead')
})

test('without a majority an AP is not dead, ever, while one watcher is there that did not accuse it', () => {
  const observer = watching()
  observer.know([statementOf(WATCHER, AP, 1, 11)])
  observer.run(300_000, COLLEAGUES[3]!, ...OTHERS)
  assert.is(observer.state(AP), 'suspect')
})

test('watchers that died too count as silent where nobody has a majority against them, and nobody but they refuted', () => {
  const n = 20
  const { watchers, others } = around(AP, n)
  const [witness, ...gone] = watchers as [number, ...number[]]
  const isBystander = (one: number) => !gone.some((ap) => around(ap, n).watchers.includes(one))
  const observer = new Observer(others.find(isBystander)!, n).meet()
  const living = [witness, ...others]
  observer.know([AP, ...gone].map((ap) => statementOf(witness, ap, 1, 11)))
  observer.run(TIMING.unwitnessed - TICK, ...living)
  assert.is(observer.state(AP), 'suspect')
  observer.run(2 * TICK, ...living)
  assert.is(observer.state(AP), 'dead')
  observer.roster.beacon(idOf(gone[0]!), beaconOf(gone[0]!, 1, 5000), observer.now)
  assert.is(observer.state(AP), 'suspect')
})

test('without any statement an AP is not dead, however silent all are', () => {
  const observer = watching()
  observer.probe = 'hangs'
  observer.run(120_000)
  assert.is(observer.state(AP), 'suspect')
})

test('the 30 s begin anew where a beacon refuted, and where the observer slept they go on', () => {
  const observer = watching()
  const silence = () => COLLEAGUES.map((colleague) => observer.roster.lost(idOf(colleague), observer.now))
  silence()
  observer.know([statementOf(WATCHER, AP, 1, 11)])
  observer.run(20_000)
  observer.roster.beacon(idOf(AP), beaconOf(AP, 1, 5000), observer.now)
  observer.run(TICK)
  assert.is(observer.state(AP), 'alive')
  observer.know([statementOf(WATCHER, AP, 1, 6000)])
  observer.run(20_000)
  assert.is(observer.state(AP), 'suspect')
  observer.now += 3_600_000
  observer.tick()
  assert.is(observer.state(AP), 'suspect')
  observer.run(11_000)
  assert.is(observer.state(AP), 'dead')
})

test('an AP that said goodbye left, and is neither probed nor accused', () => {
  const observer = watching()
  observer.know([], [goodbyeOf(AP, 1)])
  observer.run(60_000, ...EVERYONE_ELSE)
  assert.is(observer.state(AP), 'left')
  assert.is(observer.of('probe', AP).length + observer.of('accuse', AP).length, 0)
  assert.equal(observer.of('tell', AP).at(-1)!.effect.to, 'left')
})

test('an AP that left is alive again with its next boot; a goodbye of an earlier boot says nothing', () => {
  const observer = watching()
  observer.know([], [goodbyeOf(AP, 1)])
  observer.roster.beacon(idOf(AP), beaconOf(AP, 1, 100), observer.now)
  assert.is(observer.state(AP), 'left')
  observer.roster.beacon(idOf(AP), beaconOf(AP, 2, 1), observer.now)
  assert.is(observer.state(AP), 'alive')
})

test('an AP that was never heard in this life is suspect, not probed or accused before 30 s, and accused then', () => {
  const observer = new Observer(WATCHER, N).meet(...EVERYONE_ELSE)
  observer.run(TIMING.unwitnessed, ...EVERYONE_ELSE)
  assert.is(observer.state(AP), 'suspect')
  assert.is(observer.of('probe', AP).length + observer.of('accuse', AP).length, 0)
  observer.run(1000, ...EVERYONE_ELSE)
  assert.equal(observer.of('accuse', AP)[0]!.effect.statement.boot, 0)
})

test('an AP that was never heard and whose connection is refused is probed at once, and accused after 30 s', () => {
  const observer = new Observer(WATCHER, N).meet(...EVERYONE_ELSE)
  observer.roster.lost(idOf(AP), observer.now)
  observer.run(TIMING.unwitnessed - TICK, ...EVERYONE_ELSE)
  assert.ok(observer.of('probe', AP).length > 0)
  assert.is(observer.of('accuse', AP).length, 0)
  observer.run(1000, ...EVERYONE_ELSE)
  assert.is(observer.of('accuse', AP).length, 1)
})

test('a statement about an AP that was never heard is refuted by any beacon of it', () => {
  const observer = new Observer(WATCHER, N)
  observer.know(WATCHERS.map((by) => statementOf(by, AP, 0, 0)))
  assert.is(observer.state(AP), 'dead')
  observer.meet(AP)
  assert.is(observer.state(AP), 'alive')
})

test('a beacon is taken where it is newer than the one that is known, and told to be old else', () => {
  const { roster, now } = new Observer(WATCHER, N)
  const take = (boot: number, sequence: number) => roster.beacon(idOf(AP), beaconOf(AP, boot, sequence), now)
  assert.equal(
    [take(3, 5), take(3, 5), take(3, 4), take(2, 99), take(3, 6), take(4, 1)],
    [true, false, false, false, true, true],
  )
  assert.equal(roster.latestBeacon(idOf(AP))!.body.boot, 4)
  assert.is(roster.beacon(idOf(30), beaconOf(30, 1, 1), now), false, 'of one that is no member')
})

test('a beacon older than the last pulse is no sign of life', () => {
  const observer = watching()
  observer.run(1400, ...EVERYONE_ELSE)
  assert.ok(observer.roster.beacon(idOf(AP), beaconOf(AP, 1, 5), observer.now))
  observer.run(500, ...EVERYONE_ELSE)
  assert.is(observer.of('accuse', AP).length, 1)
})

test('a beacon newer than the last pulse is one', () => {
  const observer = watching()
  observer.run(1000, ...EVERYONE_ELSE)
  observer.roster.beacon(idOf(AP), beaconOf(AP, 1, 500), observer.now)
  observer.run(1000, ...EVERYONE_ELSE)
  assert.is(observer.of('probe', AP).length, 0)
})

test('a pulse of an earlier boot, or of one that is no member, says nothing', () => {
  const observer = watching()
  observer.roster.beacon(idOf(AP), beaconOf(AP, 2, 1), observer.now)
  observer.run(TIMING.unwitnessed + 1000, ...numbers(N)) // pulses of boot 1
  assert.is(observer.of('accuse', AP).length, 1)
  observer.roster.heard(idOf(30), { boot: 1, sequence: 1 }, observer.now)
  assert.is(observer.roster.lastHeard(idOf(30)), undefined)
})

test('an AP knows itself as alive, and one that is no member as gone', () => {
  const observer = new Observer(WATCHER, N).meet()
  observer.know(numbers(N).map((by) => statementOf(by, WATCHER, 1, 1)))
  assert.is(observer.state(WATCHER), 'alive')
  assert.is(observer.state(30), 'left')
})

test('a member that was forgotten is gone, and met anew if it is let in again', () => {
  const observer = watching()
  for (const colleague of COLLEAGUES) observer.roster.lost(idOf(colleague), observer.now)
  observer.know([statementOf(WATCHER, AP, 1, 11)])
  observer.run(TIMING.unwitnessed + TICK)
  assert.is(observer.state(AP), 'dead')
  observer.roster.setMembers(membersOf(numbers(N).filter((n) => n !== AP)), observer.now)
  assert.is(observer.state(AP), 'left')
  observer.run(1000)
  observer.roster.setMembers(membersOf(N), observer.now)
  assert.is(observer.state(AP), 'suspect')
  assert.is(observer.roster.latestBeacon(idOf(AP)), undefined)
  observer.meet(AP)
  assert.is(observer.state(AP), 'suspect') // the statement still stands, its 30 s begin anew
})

test('an AP that finds more than half of the others gone says that it may be the one that is cut off', () => {
  const isolated = (gone: number, ...left: number[]) => {
    const observer = new Observer(WATCHER, N).meet()
    observer.know(
      [],
      left.map((ap) => goodbyeOf(ap, 1)),
    )
    const others = numbers(N).filter((n) => n !== WATCHER && !left.includes(n))
    for (const ap of others.slice(0, gone)) observer.roster.lost(idOf(ap), observer.now)
    return observer.roster.isIsolated(observer.now)
  }
  assert.equal([isolated(3), isolated(4), isolated(7)], [false, true, true])
  // Those that left are not counted: two of five are gone, and then three.
  assert.equal([isolated(2, 6, 7), isolated(3, 6, 7)], [false, true])
  assert.not(isolated(3, 7), 'half is not more than half')
  assert.not(new Observer(0, 1).roster.isIsolated(0))
})

test('where more than half went at once an AP takes itself for the one that is cut off; of 3, 5, 50 it takes 2, 3, 25', () => {
  const braked = (n: number, gone: number, apart = 0): boolean => {
    const observer = new Observer(0, n).meet().run(1000, ...numbers(n))
    for (const ap of numbers(gone + 1).slice(1)) {
      observer.roster.lost(idOf(ap), observer.now)
      observer.tick()
      if (apart > 0) observer.run(apart, ...numbers(n).slice(ap + 1))
    }
    return observer.roster.isBraked(observer.now)
  }
  const least = (n: number) => numbers(n).find((gone) => braked(n, gone))
  assert.equal([2, 3, 5, 40].map(least), [undefined, 2, 3, 20])
  assert.not(braked(5, 4, TIMING.atOnce / 2), 'one by one')
})

test('an AP that starts and hears nobody takes itself for the one that is cut off', () => {
  assert.ok(new Observer(0, 5).roster.isBraked(10_000))
})

test('irregular pulses, as long as none is late by more than they may be, accuse nobody', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 14 }), { minLength: 5, maxLength: 40 }), (gaps) => {
      const observer = watching()
      for (const gap of gaps) {
        observer.run(gap * TICK, ...EVERYONE_ELSE)
        observer.pulse(AP)
      }
      const tells = observer.of('tell', AP).filter(({ effect }) => effect.to !== 'alive')
      assert.is(tells.length + observer.of('accuse', AP).length, 0)
    }),
    { numRuns: 40 },
  )
})

// --- A whole mesh ------------------------------------------------------------------------------------------------------

/** Several rosters that pulse, probe, sign and refute as APs do. A statement or beacon takes one tick to all it reaches. */
class Mesh {
  now = 0
  readonly up: Set<number>
  readonly boots = new Map<number, number>()
  /** Who cannot reach whom, both ways: sides of a partition. */
  side = (_ap: number): number => 0
  readonly statements = new Map<string, RecordOf<'statement'>>()
  private readonly rosters = new Map<number, Roster>()
  /** Hashes of the statements that their subject has answered. */
  private readonly refuted = new Set<Uint8Array>()
  private sequence = 0

  constructor(readonly n: number) {
    this.up = new Set(numbers(n))
    for (const ap of this.up) this.start(ap)
    for (const ap of this.up) this.beacon(ap)
  }

  start(ap: number): void {
    this.boots.set(ap, (this.boots.get(ap) ?? 0) + 1)
    this.up.add(ap)
    const roster = new Roster(idOf(ap), this.now)
    roster.setMembers(membersOf(this.n), this.now)
    this.rosters.set(ap, roster)
  }

  /** Power is cut: nothing is heard of it any more. */
  kill(ap: number): void {
    this.up.delete(ap)
  }

  /** The connections between two APs break as each notices. */
  lose(a: number, b: number): void {
    this.rosters.get(a)!.lost(idOf(b), this.now)
    this.rosters.get(b)!.lost(idOf(a), this.now)
  }

  private reaches(a: number, b: number): boolean {
    return this.up.has(a) && this.up.has(b) && this.side(a) === this.side(b)
  }

  beacon(ap: number): void {
    const beacon = beaconOf(ap, this.boots.get(ap)!, ++this.sequence)
    for (const [other, roster] of this.rosters) if (this.reaches(ap, other)) roster.beacon(idOf(ap), beacon, this.now)
  }

  run(ms: number): void {
    for (const end = this.now + ms; this.now < end; ) {
      this.now += TICK
      for (const ap of this.up) this.step(ap)
    }
  }

  private step(ap: number): void {
    const roster = this.rosters.get(ap)!
    if (this.now % TIMING.pulse === 0) {
      const sign = { boot: this.boots.get(ap)!, sequence: ++this.sequence }
      for (const id of roster.watchers(idOf(ap))) {
        const watcher = numberOf.get(id)!
        if (this.reaches(ap, watcher)) this.rosters.get(watcher)!.pulse(idOf(ap), sign, this.now)
      }
    }
    if (this.now % 8000 === 0) this.beacon(ap)
    // What is signed on the other side of a partition is known once the sides meet.
    const known = [...this.statements.values()].filter(
      ({ signer }) => this.side(numberOf.get(apId(signer))!) === this.side(ap),
    )
    roster.setRecords(known, [], [])
    const accusations = known.filter(({ subject, hash }) => apId(subject) === idOf(ap) && !this.refuted.has(hash))
    if (accusations.length > 0) this.beacon(ap)
    for (const { hash } of accusations) this.refuted.add(hash)
    for (const effect of roster.tick(this.now)) {
      const other = numberOf.get(effect.ap)!
      if (effect.do === 'probe') {
        const answers = [ap, ...effect.via.map((id) => numberOf.get(id)!)].some(
          (by) => this.reaches(ap, by) && this.reaches(by, other),
        )
        if (answers) roster.heard(effect.ap, { boot: this.boots.get(other)!, sequence: ++this.sequence }, this.now)
        else roster.unreachable(effect.ap)
      } else if (effect.do === 'accuse') {
        const { boot, sequence } = effect.statement
        this.statements.set(`${other} ${ap}`, statementOf(ap, other, boot, sequence))
      }
    }
  }

  /** How the APs that are up, or those of one side, see one of them. */
  views(of: number, side?: number): Set<string> {
    const seers = [...this.up].filter((ap) => ap !== of && (side === undefined || this.side(ap) === side))
    return new Set(seers.map((ap) => this.rosters.get(ap)!.state(idOf(of), this.now)))
  }
}

test('in a mesh that is left alone nobody is ever suspected', () => {
  const mesh = new Mesh(9)
  mesh.run(60_000)
  assert.is(mesh.statements.size, 0)
  for (const ap of mesh.up) assert.equal(mesh.views(ap), new Set(['alive']))
})

test('whoever dies is dead to all within 3 s, is alive to all once it is back, and nobody else is accused', () => {
  fc.assert(
    fc.property(fc.integer({ min: 3, max: 9 }), fc.nat(8), fc.nat(20), (n, index, when) => {
      const mesh = new Mesh(n)
      const victim = index % n
      mesh.run(5000 + when * TICK)
      mesh.kill(victim)
      mesh.run(3000)
      assert.equal(mesh.views(victim), new Set(['dead']))
      mesh.start(victim)
      mesh.beacon(victim)
      mesh.run(1000)
      assert.equal(mesh.views(victim), new Set(['alive']))
      for (const { subject } of mesh.statements.values()) assert.is(apId(subject), idOf(victim))
    }),
    { numRuns: 12 },
  )
})

test('where most die at once, those that are left agree on it within 35 s', () => {
  const mesh = new Mesh(9)
  mesh.run(5000)
  const left = [0, 4, 7]
  for (const ap of numbers(9)) if (!left.includes(ap)) mesh.kill(ap)
  for (const ap of left) for (const other of numbers(9)) if (!left.includes(other)) mesh.lose(ap, other)
  mesh.run(35_000)
  for (const ap of numbers(9)) assert.equal(mesh.views(ap), new Set([left.includes(ap) ? 'alive' : 'dead']), `${ap}`)
})

test('a mesh that was cut in two is whole again soon after it is joined, with nobody dead', () => {
  const mesh = new Mesh(8)
  mesh.run(5000)
  mesh.side = (ap) => Number(ap >= 5)
  mesh.run(5000)
  assert.equal(mesh.views(6, 0), new Set(['dead']))
  mesh.side = () => 0
  mesh.run(3000)
  for (const ap of numbers(8)) assert.equal(mesh.views(ap), new Set(['alive']), `${ap}`)
})

test.run()
