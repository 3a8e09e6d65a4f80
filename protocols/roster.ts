// The roster: what an AP believes of the others. It hears of pulses, beacons, broken connections, probes and signed
// statements, and says whom to probe, what to sign, and who is alive, suspect, dead or left.
import { apId, compareBytes, equalBytes, hex, sha256 } from './bytes.js'
import type { Body, RecordOf } from './kinds.js'
import type { Member } from './membership.js'
import { type Divisions, type Neighbourhoods, neighbourhoodsOf } from './neighbourhood.js'
import { Arrivals, Health } from './patience.js'
import { isNewer, refutes } from './refutation.js'
import { majority } from './rendezvous.js'
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
  /**
   * The same where its host is there and refuses a connection that is asked for after so long: the process has ended. One that
   * is started again at once listens by then.
   */
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
  accuseRefused: 1200,
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

/** Through so many others a probe goes: of those that died with it, nobody has heard yet. */
const VIA = 3

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
  /** The gaps between its pulses, of that boot. */
  arrivals: Arrivals
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

/** What stands for the watchers of an AP in a statement, by their keys. */
export const electorateOf = (keys: readonly Uint8Array[]): Uint8Array =>
  sha256(...[...keys].sort(compareBytes)).slice(0, 16)

/**
 * Pure: time comes in as local milliseconds on any monotonic scale. Statements and goodbyes come from the ledger, and of
 * members that are neither neighbours nor watched by this AP all that is known does.
 */
export class Roster {
  private members: ReadonlyMap<string, Member> = new Map()
  private readonly heardOf = new Map<string, Heard>()
  private neighbourhoods: Neighbourhoods = neighbourhoodsOf(this.members, UNDIVIDED)
  /** By AP: those by members that no `alive` refutes. */
  private statements = new Map<string, RecordOf<'statement'>[]>()
  private goodbyes = new Map<string, number>()
  private alives = new Map<string, Body<'alive'>>()
  private lastRecords: readonly unknown[] = []
  private lastStatements: readonly RecordOf<'statement'>[] = []
  /** When the first of the statements came that stand against an AP; and that stand by the ledger alone. */
  private readonly firstAccused = new Map<string, number>()
  private readonly firstInLedger = new Map<string, number>()
  private readonly electorates = new Map<string, Uint8Array>()
  private watched: readonly [ap: string, of: Heard][] = []
  /** True while nothing that is believed of the others can change with time, but by the silence of those that are watched. */
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

  setMembers(
    members: ReadonlyMap<string, Member>,
    now: number,
    neighbourhoods: Neighbourhoods = neighbourhoodsOf(members, UNDIVIDED),
  ): void {
    if (neighbourhoods === this.neighbourhoods) return
    this.neighbourhoods = neighbourhoods
    this.members = members
    const tracked = new Set(this.neighbourhoods.watchedBy(this.self))
    for (const { id } of neighbourhoods.of(this.self)?.members ?? []) tracked.add(id)
    tracked.delete(this.self)
    for (const id of tracked) if (!this.heardOf.has(id)) this.heardOf.set(id, newlyKnown(now))
    for (const id of this.heardOf.keys()) if (!tracked.has(id)) this.heardOf.delete(id)
    for (const [id, of] of this.heardOf) of.isWatched = this.watchers(id).includes(this.self)
    this.watched = [...this.heardOf].filter(([, { isWatched }]) => isWatched)
    this.electorates.clear()
    this.sortStatements()
    for (const first of [this.firstAccused, this.firstInLedger])
      for (const id of first.keys()) if (!members.has(id)) first.delete(id)
  }

  /** Takes the effective records of the ledger. */
  setRecords(
    statements: readonly RecordOf<'statement'>[],
    goodbyes: readonly RecordOf<'goodbye'>[],
    alives: readonly RecordOf<'alive'>[],
  ): void {
    const records = [statements, goodbyes, alives]
    if (isSameList(this.lastRecords, records)) return
    this.lastRecords = records
    this.lastStatements = statements
    this.goodbyes = new Map(goodbyes.map((goodbye) => [apId(goodbye.subject), goodbye.body.boot]))
    this.alives = new Map(alives.map(({ subject, body }) => [apId(subject), body]))
    this.sortStatements()
  }

  private sortStatements(): void {
    this.isSettled = false
    this.statements.clear()
    for (const statement of this.lastStatements) {
      const ap = apId(statement.subject)
      const alive = this.alives.get(ap)
      const isRefuted = alive !== undefined && refutes(alive, statement)
      if (isRefuted || !this.members.has(apId(statement.signer))) continue
      const others = this.statements.get(ap)
      if (others === undefined) this.statements.set(ap, [statement])
      else others.push(statement)
    }
  }

  /**
   * A pulse: as `heard`, and who has heard one of this boot may sign that it heard no more. It may say for how many milliseconds
   * its sender will be silent.
   */
  pulse(ap: string, sign: { boot: number; sequence: number; away?: number | undefined }, now: number): void {
    const of = this.heardOf.get(ap)
    if (of === undefined || sign.boot < of.boot) return
    if (isNewer(sign, of)) of.awayUntil = sign.away === undefined ? Number.NEGATIVE_INFINITY : now + sign.away
    // The silence of a restart says nothing of how it is heard.
    if (of.pulsed !== sign.boot) of.arrivals = new Arrivals()
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
    if (of.told !== 'alive') this.isSettled = false
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
    if (of.told !== 'alive' || of.beacon === undefined) this.isSettled = false
    of.beacon = record
    if (isNewer(record.body, of)) {
      // One that comes back in another boot was down indeed.
      if (of.accused.startsWith(`${record.body.boot}.`)) this.misjudged(now)
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

  /** Of a neighbour. Those of others come by chance, and what they said may long be otherwise. */
  latestBeacon(ap: string): RecordOf<'beacon'> | undefined {
    return this.isNeighbour(ap) ? this.heardOf.get(ap)?.beacon : undefined
  }

  /** The latest that is known of it, by whatever way. */
  lastSign(ap: string): { boot: number; sequence: number } {
    const { boot, sequence } = this.heardOf.get(ap) ?? { boot: 0, sequence: 0 }
    return { boot, sequence }
  }

  /** When the AP last gave a sign of itself to us, local milliseconds. */
  lastHeard(ap: string): number | undefined {
    return this.heardOf.get(ap)?.at
  }

  watchers(ap: string): readonly string[] {
    return this.neighbourhoods.watchersOf(ap)
  }

  /** The statements that stand against an AP: by members, and not refuted by a beacon, or an `alive` in the ledger. */
  accusations(ap: string): readonly RecordOf<'statement'>[] {
    const unrefuted = this.accusationsInLedger(ap)
    if (unrefuted.length === 0) return unrefuted
    const beacon = this.heardOf.get(ap)?.beacon?.body
    return beacon === undefined ? unrefuted : unrefuted.filter((statement) => !refutes(beacon, statement))
  }

  private accusationsInLedger(ap: string): readonly RecordOf<'statement'>[] {
    return this.statements.get(ap) ?? NO_STATEMENTS
  }

  /** What a statement says of who else may sign: a digest of the keys of the AP's watchers, as the signer knows them. */
  private electorate(ap: string): Uint8Array {
    let electorate = this.electorates.get(ap)
    if (electorate === undefined) {
      electorate = electorateOf(this.watchers(ap).map((id) => this.members.get(id)!.key))
      this.electorates.set(ap, electorate)
    }
    return electorate
  }

  /**
   * The statements of a majority of an AP's watchers, or undefined: what makes an AP dead. They count together where their
   * signers had heard this boot, and were counted against the same watchers.
   */
  certificate(ap: string, accusations = this.accusations(ap)): RecordOf<'statement'>[] | undefined {
    if (accusations.length === 0) return undefined
    const watchers = this.watchers(ap)
    const counted = accusations.filter(({ signer, body }) => body.heard && watchers.includes(apId(signer)))
    const needed = majority(watchers.length)
    if (counted.length < needed) return undefined
    for (const { body } of counted) {
      const together = counted.filter((other) => equalBytes(other.body.watchers, body.watchers))
      if (together.length >= needed) return together
    }
    return undefined
  }

  state(ap: string, now: number): RosterState {
    if (ap === this.self) return 'alive'
    const of = this.heardOf.get(ap)
    if (of === undefined) return this.stateInLedger(ap, now)
    if (this.hasLeft(ap)) return 'left'
    const accusations = this.accusations(ap)
    if (this.certificate(ap, accusations) !== undefined || this.isUnwitnessedDeath(ap, accusations, now)) return 'dead'
    const isUnheard = of.beacon === undefined && this.isNeighbour(ap)
    return of.suspectedAt !== undefined || isUnheard || accusations.length > 0 ? 'suspect' : 'alive'
  }

  /** What everyone knows, whoever's beacons they hear. An AP that is far away is suspect to nobody here. */
  stateInLedger(ap: string, now: number): RosterState {
    if (!this.members.has(ap)) return 'left'
    const alive = this.alives.get(ap)
    const goodbye = this.goodbyes.get(ap)
    if (goodbye !== undefined && goodbye >= (alive?.boot ?? 0)) return 'left'
    const accusations = this.accusationsInLedger(ap)
    const isDead =
      this.certificate(ap, accusations) !== undefined ||
      this.isUnwitnessedDeath(ap, accusations, now, this.firstInLedger)
    return isDead ? 'dead' : 'alive'
  }

  private isNeighbour(ap: string): boolean {
    return this.neighbourhoods.of(ap) === this.neighbourhoods.of(this.self)
  }

  /**
   * True where so many seem to have gone at once that it is more likely this AP that is cut off: more than half of those
   * that were there, and two at least. With one other AP nobody can tell, and with 3, 5, 50 members it takes 2, 3, 25.
   */
  isBraked(now: number): boolean {
    let there = 0
    let gone = 0
    for (const [ap, of] of this.heardOf) {
      if (this.hasLeft(ap)) continue
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
  private isUnwitnessedDeath(
    ap: string,
    accusations: readonly RecordOf<'statement'>[],
    now: number,
    firsts = this.firstAccused,
  ): boolean {
    if (accusations.length === 0) {
      firsts.delete(ap)
      return false
    }
    const first = firsts.get(ap) ?? now
    firsts.set(ap, first)
    if (now - first < this.timing.unwitnessed) return false
    const signers = accusations.map(({ signer }) => apId(signer))
    const isGone = (id: string) => this.isSilent(id) || this.isLongAccused(id, now, firsts)
    return this.watchers(ap).every((id) => signers.includes(id) || isGone(id))
  }

  // Of watchers that died with those that they watched, and watched each other, none has a majority against it. One that
  // lived would have refuted what was signed.
  private isLongAccused(ap: string, now: number, firsts: ReadonlyMap<string, number>): boolean {
    const first = firsts.get(ap)
    return first !== undefined && now - first >= this.timing.unwitnessed && this.accusations(ap).length > 0
  }

  private hasLeft(ap: string): boolean {
    const goodbye = this.goodbyes.get(ap)
    if (goodbye === undefined) return false
    const of = this.heardOf.get(ap)
    return goodbye >= Math.max(of?.beacon?.body.boot ?? of?.boot ?? 0, this.alives.get(ap)?.boot ?? 0)
  }

  // Nothing is to be expected of it. One that left, or that others saw die, we may never have had reason to suspect.
  private isSilent(ap: string): boolean {
    const of = this.heardOf.get(ap)
    if (of === undefined) return ap !== this.self && (this.hasLeft(ap) || this.accusations(ap).length > 0)
    return of.suspectedAt !== undefined || this.hasLeft(ap) || this.certificate(ap) !== undefined
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
    const looked = this.isSettled ? this.watched.filter(([, of]) => this.mayBeDue(of, now)) : this.heardOf
    this.isSettled = true
    for (const [ap, of] of looked) {
      const before = of.told
      of.told = this.state(ap, now)
      if (of.told !== before) effects.push({ do: 'tell', ap, from: before, to: of.told })
      of.goneSince = of.told === 'alive' ? undefined : (of.goneSince ?? now)
      if (of.told === 'left') continue
      const isAnswered = this.answersFor(ap, of)
      if (isAnswered) effects.push(...this.watch(ap, of, now))
      const isSettled =
        of.told === 'alive' ? of.suspectedAt === undefined : of.told === 'dead' && this.certificate(ap) !== undefined
      if (!isSettled || isAnswered !== of.isWatched) this.isSettled = false
    }
    return effects
  }

  /** Nothing is done about one that is watched before it is late at the least, or was suspected. */
  private mayBeDue(of: Heard, now: number): boolean {
    return of.told !== 'left' && (of.suspectedAt !== undefined || this.silence(of, now) > this.timing.ask)
  }

  private silence(of: Heard, now: number): number {
    return now - Math.max(of.at ?? of.knownAt, of.awayUntil)
  }

  // What we waited for may have come while we slept, so every wait goes on where it stood. What woke us is newer than that.
  private postpone(gap: number, now: number): void {
    for (const of of this.heardOf.values()) {
      if (of.at !== undefined) of.at = Math.min(now, of.at + gap)
      of.knownAt = Math.min(now, of.knownAt + gap)
      of.awayUntil += gap
      of.arrivals.postpone(gap)
    }
    for (const firsts of [this.firstAccused, this.firstInLedger])
      for (const [ap, since] of firsts) firsts.set(ap, Math.min(now, since + gap))
  }

  private watch(ap: string, of: Heard, now: number): RosterEffect[] {
    const silence = this.silence(of, now)
    if (silence < 0) return [] // it said that it would be silent
    // One that does not watch hears beacons, not pulses, and one that was not heard in this life may just be late.
    const isExpected = of.isWatched && of.at !== undefined
    if (silence > (isExpected ? this.patience('suspect', of, now) : this.timing.unwitnessed)) of.suspectedAt ??= now
    const isQuiet = isExpected && silence > this.patience('ask', of, now)
    if (of.suspectedAt === undefined && !isQuiet) return []
    const effects: RosterEffect[] = []
    const refusalCounts = now - silence + this.patience('accuseRefused', of, now)
    const isRefused = of.isRefused && of.probedAt >= refusalCounts
    if (now - of.probedAt >= this.timing.probe || (of.isRefused && !isRefused && now >= refusalCounts)) {
      of.probedAt = now
      of.isRefused = false
      const via = this.watchers(ap).filter((id) => id !== this.self && !this.isSilent(id))
      effects.push({ do: 'probe', ap, via: via.slice(0, VIA) })
    }
    // Who never had a pulse of this boot cannot say that they ended, only that the AP has not come for a long time.
    const heard = of.pulsed === of.boot
    const enough = heard ? this.patience(isRefused ? 'accuseRefused' : 'accuse', of, now) : this.timing.unwitnessed
    if (silence < enough || of.failedProbes === 0) return effects
    const watchers = this.electorate(ap)
    const mark = `${of.boot}.${of.sequence} ${hex(watchers)}`
    if (of.accused !== mark && !this.hasSaidAsMuch(ap, of, heard)) {
      of.accused = mark
      const { boot, sequence, failedProbes: probes } = of
      const statement = { boot, sequence, silence: Math.round(silence), probes, heard, watchers }
      effects.push({ do: 'accuse', ap, statement })
    }
    return effects
  }

  // In an earlier life: what is signed now would take its place, and undo a death, where it says less.
  private hasSaidAsMuch(ap: string, of: Heard, heard: boolean): boolean {
    const own = this.accusations(ap).find(({ signer }) => apId(signer) === this.self)?.body
    if (own === undefined || isNewer(of, own)) return false
    return (own.heard || !heard) && equalBytes(own.watchers, this.electorate(ap))
  }

  private patience(what: 'ask' | 'suspect' | 'accuse' | 'accuseRefused', of: Heard, now: number): number {
    const unusual = what === 'accuseRefused' ? 0 : Math.min(LONGEST, of.arrivals.lateAfter(UNUSUAL[what]))
    return Math.max(this.timing[what], unusual) * this.health.factor(now)
  }
}

const UNDIVIDED: Divisions = new Map()

const NO_STATEMENTS: readonly RecordOf<'statement'>[] = []

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
