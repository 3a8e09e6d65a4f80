// The roster: what an AP believes of the others. It hears of pulses, beacons, broken connections, probes and signed
// statements, and says whom to probe, what to sign, and who is alive, suspect, dead or left.
import { apId, compareBytes, equalBytes, hex, sha256 } from './bytes.js'
import type { Body, RecordOf } from './kinds.js'
import type { Member } from './membership.js'
import { Arrivals, Health } from './patience.js'
import { majority, watchersOf } from './rendezvous.js'
import { isSameList } from './view.js'

/**
 * All in milliseconds. `ask`, `suspect` and `accuse` are what they are at least: for an AP that is heard irregularly, and while
 * this AP is slow itself, they are longer (patience.ts).
 */
export interface Timing {
  /** How often an AP pulses to its watchers. */
  pulse: number
  /** Silence after which a watcher suspects: three pulses may be late or lost before that. */
  suspect: number
  /** Silence after which a watcher probes: two pulses are due. Nothing follows from a probe that is answered. */
  ask: number
  /** How often a suspect is probed, and the deadline of a direct probe: far above a round trip, far below `accuse`. */
  probe: number
  /** Silence after which a watcher whose probes all failed signs. Above `suspect`, or a restart of the process would move work. */
  accuse: number
  /** The same where its host is there and refuses connections: the process has ended. */
  accuseRefused: number
  /** What replaces a majority where most watchers are gone too, and silence where an AP was not heard in this life. */
  unwitnessed: number
  /** A gap between two ticks longer than this means that we stood still, not that the others died. */
  pause: number
  /** For so long those that went silent are taken as gone at once, where it comes to who is cut off. */
  atOnce: number
}

export const TIMING: Timing = {
  pulse: 500,
  ask: 1000,
  suspect: 1500,
  probe: 400,
  accuse: 1800,
  accuseRefused: 700,
  unwitnessed: 30_000,
  pause: 400,
  atOnce: 300_000,
}

/**
 * How unusual a silence must be, in standard deviations of what was heard before. In a normal distribution these are a chance
 * of 10^-3, 10^-5 and 10^-8 (φ of 3, 5 and 8).
 */
const UNUSUAL = { ask: 3.1, suspect: 4.3, accuse: 5.6 }
/** However irregularly an AP is heard, nobody waits longer, or one could make itself impossible to miss. */
const LONGEST = 6000

export type RosterState = 'alive' | 'suspect' | 'dead' | 'left'

export type RosterEffect =
  /** Reach the AP directly and tell `probed`; then, or if it fails, ask `via` to do the same. */
  | { readonly do: 'probe'; readonly ap: string; readonly via: readonly string[] }
  /** Sign and publish a statement. */
  | { readonly do: 'accuse'; readonly ap: string; readonly statement: Body<'statement'> }
  | { readonly do: 'tell'; readonly ap: string; readonly from: RosterState; readonly to: RosterState }

interface Heard {
  boot: number
  sequence: number
  /** The boot of its last pulse, undefined where none came since we started. */
  pulsed: number | undefined
  readonly arrivals: Arrivals
  /** When it last gave a sign of itself, local milliseconds; undefined if never since we started. */
  at: number | undefined
  /** When we first knew of it as a member. */
  knownAt: number
  suspectedAt: number | undefined
  /** Until when it has asked to be waited for, local milliseconds. */
  awayUntil: number
  probedAt: number
  failedProbes: number
  /** The last probe found its host, and no process. */
  isRefused: boolean
  /** Whether this AP is one of its watchers. */
  isWatched: boolean
  /** Since when it is not alive to us. */
  goneSince: number | undefined
  beacon: RecordOf<'beacon'> | undefined
  told: RosterState
  accused: string
}

/** True where (boot, sequence) `a` is later than `b`. */
export const isNewer = (a: { boot: number; sequence: number }, b: { boot: number; sequence: number }): boolean =>
  a.boot !== b.boot ? a.boot > b.boot : a.sequence > b.sequence

/** What neighbourhoods leave of a mesh to one AP. Watchers may be members that it does not keep track of. */
export interface Surroundings {
  /** AP ids: its neighbourhood, those that it watches, and its watchers. */
  readonly tracked: Iterable<string>
  watchersOf(ap: string): readonly string[]
}

/** Pure: time comes in as local milliseconds on any monotonic scale. Statements and goodbyes come from the ledger. */
export class Roster {
  private members: ReadonlyMap<string, Member> = new Map()
  private surroundings: Surroundings | undefined
  private readonly heardOf = new Map<string, Heard>()
  private readonly watcherCache = new Map<string, readonly string[]>()
  private statements = new Map<string, RecordOf<'statement'>[]>()
  private goodbyes = new Map<string, number>()
  private lastRecords: readonly unknown[] = []
  private readonly firstAccused = new Map<string, number>()
  private watched: readonly Heard[] = []
  /** True while nothing changes with time, but that one of those it watches may be late. */
  private isSettled = false
  private lastTick: number
  private readonly health = new Health()

  constructor(
    private readonly self: string,
    startedAt: number,
    private readonly timing: Timing = TIMING,
  ) {
    this.lastTick = startedAt
  }

  /** Without `surroundings` an AP keeps track of all members, and any of them may be a watcher. */
  setMembers(members: ReadonlyMap<string, Member>, now: number, surroundings?: Surroundings): void {
    if (members === this.members && surroundings === this.surroundings) return
    const isSame = members.size === this.members.size && [...members.keys()].every((id) => this.members.has(id))
    // Without neighbourhoods watchers follow from the members' keys alone.
    if (!isSame || surroundings !== this.surroundings) this.watcherCache.clear()
    this.members = members
    this.surroundings = surroundings
    const tracked = new Set(surroundings?.tracked ?? members.keys())
    for (const id of tracked) {
      if (id !== this.self && !this.heardOf.has(id)) this.heardOf.set(id, newlyKnown(now))
    }
    for (const id of this.heardOf.keys()) {
      if (tracked.has(id)) continue
      this.heardOf.delete(id)
      this.firstAccused.delete(id)
    }
    for (const [id, of] of this.heardOf) of.isWatched = this.watchers(id).includes(this.self)
    this.watched = [...this.heardOf.values()].filter(({ isWatched }) => isWatched)
    this.isSettled = false
  }

  /** Takes the effective statements and goodbyes of the ledger. */
  setRecords(
    statements: readonly RecordOf<'statement'>[],
    goodbyes: readonly RecordOf<'goodbye'>[],
    idOf: (key: Uint8Array) => string,
  ): void {
    if (isSameList(this.lastRecords, [statements, goodbyes])) return
    this.lastRecords = [statements, goodbyes]
    this.isSettled = false
    this.statements = new Map()
    for (const statement of statements) {
      const ap = idOf(statement.subject)
      this.statements.set(ap, [...(this.statements.get(ap) ?? []), statement])
    }
    this.goodbyes = new Map(goodbyes.map((goodbye) => [idOf(goodbye.subject), goodbye.body.boot]))
  }

  /** A pulse: as `heard`, and who has heard one of this boot may sign that it heard no more. */
  pulse(ap: string, sign: { boot: number; sequence: number }, now: number): void {
    const of = this.heardOf.get(ap)
    if (of === undefined || sign.boot < of.boot) return
    of.pulsed = sign.boot
    of.arrivals.note(now)
    this.heard(ap, sign, now)
  }

  /** The answer to a probe: authenticated by its channel, and no refutation of what others signed. */
  heard(ap: string, sign: { boot: number; sequence: number }, now: number): void {
    const of = this.heardOf.get(ap)
    if (of === undefined || sign.boot < of.boot) return
    if (isNewer(sign, of)) {
      of.boot = sign.boot
      of.sequence = sign.sequence
    }
    of.at = now
    of.suspectedAt = undefined
    of.failedProbes = 0
    of.isRefused = false
  }

  /** Another AP reached what this one could not. */
  misjudged(now: number): void {
    this.health.worsen(now)
  }

  /** A signed beacon. Returns false for one that is not newer than what is known. */
  beacon(ap: string, record: RecordOf<'beacon'>, now: number): boolean {
    const of = this.heardOf.get(ap)
    if (of === undefined || (of.beacon !== undefined && !isNewer(record.body, of.beacon.body))) return false
    of.beacon = record
    if (of.told !== 'alive') this.isSettled = false
    if (isNewer(record.body, of)) {
      if (of.accused !== '' && of.boot === record.body.boot) this.misjudged(now)
      of.accused = ''
    }
    of.awayUntil = record.body.away === undefined ? Number.NEGATIVE_INFINITY : now + record.body.away
    // An old beacon that reaches us late is knowledge of its content, not a sign of life.
    if (isNewer(record.body, of) || of.at === undefined) this.heard(ap, record.body, now)
    return true
  }

  /** The last connection to an AP broke: suspect at once, and probe. */
  lost(ap: string, now: number): void {
    const of = this.heardOf.get(ap)
    if (of === undefined || now < of.awayUntil) return
    of.suspectedAt ??= now
    this.isSettled = false
  }

  /**
   * All ways to reach an AP failed. (Where one succeeded, tell `heard`.)
   * @param isRefused whether its host is there and says that nothing listens
   */
  unreachable(ap: string, isRefused = false): void {
    const of = this.heardOf.get(ap)
    if (of === undefined) return
    of.failedProbes++
    of.isRefused = isRefused
  }

  latestBeacon(ap: string): RecordOf<'beacon'> | undefined {
    return this.heardOf.get(ap)?.beacon
  }

  /** When the AP last gave a sign of itself to us, local milliseconds. */
  lastHeard(ap: string): number | undefined {
    return this.heardOf.get(ap)?.at
  }

  watchers(ap: string): readonly string[] {
    let watchers = this.watcherCache.get(ap)
    if (watchers === undefined) {
      const member = this.members.get(ap)
      if (member === undefined) watchers = []
      else watchers = this.surroundings?.watchersOf(ap) ?? watchersOf(member.key, ap, this.members)
      this.watcherCache.set(ap, watchers)
    }
    return watchers
  }

  /** The statements that stand against an AP: by members, and not refuted by a newer beacon. */
  accusations(ap: string): RecordOf<'statement'>[] {
    const statements = this.statements.get(ap)
    if (statements === undefined) return NO_STATEMENTS
    const beacon = this.heardOf.get(ap)?.beacon?.body
    return statements.filter(
      ({ body, signer }) => (beacon === undefined || !isNewer(beacon, body)) && this.members.has(apId(signer)),
    )
  }

  /** What a statement says of who else may sign: a digest of the keys of the AP's watchers, as the signer knows them. */
  private electorate(ap: string): Uint8Array {
    const keys = this.watchers(ap).map((id) => this.members.get(id)!.key)
    return sha256(...keys.sort(compareBytes)).slice(0, 16)
  }

  /**
   * The statements of a majority of an AP's watchers, or undefined: what makes an AP dead. They count together where their
   * signers had heard this boot, and were counted against the same watchers.
   */
  certificate(ap: string, accusations = this.accusations(ap)): RecordOf<'statement'>[] | undefined {
    if (accusations.length === 0) return undefined
    const watchers = this.watchers(ap)
    const counted = accusations.filter(({ signer, body }) => body.heard && watchers.includes(apId(signer)))
    return counted
      .map(({ body }) => counted.filter((other) => equalBytes(other.body.watchers, body.watchers)))
      .find((together) => together.length >= majority(watchers.length))
  }

  state(ap: string, now: number): RosterState {
    if (ap === this.self) return 'alive'
    const of = this.heardOf.get(ap)
    if (of === undefined) return 'left'
    if (this.hasLeft(ap, of)) return 'left'
    const accusations = this.accusations(ap)
    if (this.certificate(ap, accusations) !== undefined || this.isUnwitnessedDeath(ap, accusations, now)) return 'dead'
    return of.suspectedAt !== undefined || of.beacon === undefined || accusations.length > 0 ? 'suspect' : 'alive'
  }

  /**
   * True where so many seem to have gone at once that it is more likely this AP that is cut off: more than half of those
   * that were there, and two at least. With one other AP nobody can tell, and with 3, 5, 50 members it takes 2, 3, 25.
   */
  isBraked(now: number): boolean {
    let there = 0
    let gone = 0
    for (const [ap, of] of this.heardOf) {
      if (this.hasLeft(ap, of)) continue
      if (of.goneSince === undefined) there++
      else if (now - of.goneSince < this.timing.atOnce) gone++
    }
    return gone > 1 && gone > there
  }

  /** True where more than half of the others seem gone, be it at once or one by one. */
  isIsolated(now: number): boolean {
    const others = [...this.heardOf.keys()].filter((id) => this.state(id, now) !== 'left')
    const gone = others.filter((id) => this.state(id, now) !== 'alive')
    return others.length > 0 && gone.length * 2 > others.length
  }

  // Most watchers died with the AP they watched: after a long wait the statements of those that remain must do.
  private isUnwitnessedDeath(ap: string, accusations: readonly RecordOf<'statement'>[], now: number): boolean {
    if (accusations.length === 0) {
      this.firstAccused.delete(ap)
      return false
    }
    const first = this.firstAccused.get(ap) ?? now
    this.firstAccused.set(ap, first)
    if (now - first < this.timing.unwitnessed) return false
    const signers = new Set(accusations.map(({ signer }) => apId(signer)))
    return this.watchers(ap).every((id) => signers.has(id) || this.isSilent(id))
  }

  private hasLeft(ap: string, of: Heard): boolean {
    const goodbye = this.goodbyes.get(ap)
    return goodbye !== undefined && goodbye >= (of.beacon?.body.boot ?? of.boot)
  }

  // Nothing is to be expected of it. One that left, or that others saw die, we may never have had reason to suspect.
  private isSilent(ap: string): boolean {
    const of = this.heardOf.get(ap)
    if (of === undefined) return false
    return of.suspectedAt !== undefined || this.hasLeft(ap, of) || this.certificate(ap) !== undefined
  }

  // An AP answers for those it watches, and for those whose watchers are all gone.
  private answersFor(ap: string, of: Heard): boolean {
    return of.isWatched || this.watchers(ap).every((id) => this.isSilent(id))
  }

  /** Call it at least every `probe` milliseconds. */
  tick(now: number): RosterEffect[] {
    const gap = now - this.lastTick
    this.lastTick = now
    const effects: RosterEffect[] = []
    if (gap > this.timing.pause) {
      this.postpone(gap, now)
      this.health.worsen(now)
    }
    if (this.isSettled && this.watched.every((of) => !this.isLate(of, now))) return effects
    this.isSettled = true
    for (const [ap, of] of this.heardOf) {
      const before = of.told
      of.told = this.state(ap, now)
      if (of.told !== before) effects.push({ do: 'tell', ap, from: before, to: of.told })
      of.goneSince = of.told === 'alive' ? undefined : (of.goneSince ?? now)
      const isAnswered = of.told !== 'left' && this.answersFor(ap, of)
      if (isAnswered) effects.push(...this.watch(ap, of, now))
      const isStill = !isAnswered || (of.isWatched && of.suspectedAt === undefined && of.at !== undefined)
      if (of.told === 'suspect' || !isStill) this.isSettled = false
    }
    return effects
  }

  /** Late at the least: whoever is not, nothing needs to be done about. */
  private isLate(of: Heard, now: number): boolean {
    return of.told !== 'left' && now - Math.max(of.at ?? of.knownAt, of.awayUntil) > this.timing.ask
  }

  // What we waited for may have come while we slept, so every wait goes on where it stood. What woke us is newer than that.
  private postpone(gap: number, now: number): void {
    for (const of of this.heardOf.values()) {
      if (of.at !== undefined) of.at = Math.min(now, of.at + gap)
      of.knownAt = Math.min(now, of.knownAt + gap)
      of.awayUntil += gap
      of.arrivals.postpone(gap)
    }
    for (const [ap, since] of this.firstAccused) this.firstAccused.set(ap, Math.min(now, since + gap))
  }

  private watch(ap: string, of: Heard, now: number): RosterEffect[] {
    const silence = now - Math.max(of.at ?? of.knownAt, of.awayUntil)
    if (silence < 0) return [] // it said that it would be silent
    // One that does not watch hears beacons, not pulses, and one that was not heard in this life may just be late.
    const isExpected = of.isWatched && of.at !== undefined
    if (silence > (isExpected ? this.patience('suspect', of, now) : this.timing.unwitnessed)) of.suspectedAt ??= now
    const isQuiet = isExpected && silence > this.patience('ask', of, now)
    if (of.suspectedAt === undefined && !isQuiet) return []
    const effects: RosterEffect[] = []
    if (now - of.probedAt >= this.timing.probe) {
      of.probedAt = now
      const via = this.watchers(ap).filter((id) => id !== this.self && !this.isSilent(id))
      effects.push({ do: 'probe', ap, via: via.slice(0, 2) })
    }
    // Who never had a pulse of this boot cannot say that they ended, only that the AP has not come for a long time.
    const heard = of.pulsed === of.boot
    const enough = heard ? this.patience(of.isRefused ? 'accuseRefused' : 'accuse', of, now) : this.timing.unwitnessed
    if (silence < enough || of.failedProbes === 0) return effects
    const watchers = this.electorate(ap)
    const mark = `${of.boot}.${of.sequence} ${hex(watchers)}`
    if (of.accused !== mark) {
      of.accused = mark
      const { boot, sequence, failedProbes: probes } = of
      const statement = { boot, sequence, silence: Math.round(silence), probes, heard, watchers }
      effects.push({ do: 'accuse', ap, statement })
    }
    return effects
  }

  private patience(what: 'ask' | 'suspect' | 'accuse' | 'accuseRefused', of: Heard, now: number): number {
    const unusual = what === 'accuseRefused' ? 0 : Math.min(LONGEST, of.arrivals.lateAfter(UNUSUAL[what]))
    return Math.max(this.timing[what], unusual) * this.health.factor(now)
  }
}

const NO_STATEMENTS: RecordOf<'statement'>[] = []

const newlyKnown = (now: number): Heard => ({
  boot: 0,
  sequence: 0,
  pulsed: undefined,
  arrivals: new Arrivals(),
  at: undefined,
  knownAt: now,
  suspectedAt: undefined,
  awayUntil: Number.NEGATIVE_INFINITY,
  probedAt: Number.NEGATIVE_INFINITY,
  failedProbes: 0,
  isRefused: false,
  isWatched: false,
  goneSince: now,
  beacon: undefined,
  told: 'suspect',
  accused: '',
})
