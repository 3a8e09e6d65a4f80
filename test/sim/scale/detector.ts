// The detection of one AP: the real roster, told and asked in numbers of APs. The one file here that knows how a roster is
// used; where node/ap.ts changes that, this file must follow.
import { apId, sha256, utf8 } from '../../../protocols/bytes.js'
import type { Body, RecordOf } from '../../../protocols/kinds.js'
import type { Member } from '../../../protocols/membership.js'
import { Neighbourhoods } from '../../../protocols/neighbourhood.js'
import { Roster, type RosterEffect, type RosterState } from '../../../protocols/roster.js'

/** One AP finds whom it watches in a few hashes a member; for all of them together that would be too many. */
class AllWatched extends Neighbourhoods {
  readonly watchedByAp = new Map<string, readonly string[]>()

  override watchedBy(ap: string): readonly string[] {
    return this.watchedByAp.get(ap)!
  }
}

/** Members of a mesh that never change, by number, and what follows from them. Nothing is signed: keys are hashes. */
export class Members {
  readonly ids: readonly string[]
  readonly keys: readonly Uint8Array[]
  readonly homes: readonly (readonly number[])[]
  /** The number of its neighbourhood, by AP. */
  readonly homeOf: readonly number[]
  readonly watchers: readonly (readonly number[])[]
  readonly watched: readonly (readonly number[])[]
  /** Whom an AP keeps track of: its neighbourhood, and those that it watches. */
  readonly tracked: readonly (readonly number[])[]
  private readonly members = new Map<string, Member>()
  private readonly numbers = new Map<string, number>()
  private readonly neighbourhoods: Neighbourhoods

  constructor(count: number, siteOf: (ap: number) => string | undefined) {
    this.keys = Array.from({ length: count }, (_, ap) => sha256(utf8(`ap ${ap}`)))
    this.ids = this.keys.map(apId)
    for (const [ap, id] of this.ids.entries()) {
      const site = siteOf(ap)
      const labels: Record<string, string> = site === undefined ? {} : { site }
      const key = this.keys[ap]!
      const came = { since: [ap, 0], ticket: key } as const
      this.members.set(id, { id, key, name: `ap${ap}`, labels, role: 'ap', ...came, draining: false })
      this.numbers.set(id, ap)
    }
    const neighbourhoods = new AllWatched(this.members, new Map())
    this.neighbourhoods = neighbourhoods
    this.homes = neighbourhoods.all.map(({ members }) => members.map(({ id }) => this.number(id)))
    const homeOf: number[] = []
    for (const [home, aps] of this.homes.entries()) for (const ap of aps) homeOf[ap] = home
    this.homeOf = homeOf
    this.watchers = this.ids.map((id) => neighbourhoods.watchersOf(id).map((watcher) => this.number(watcher)))
    const watched: number[][] = this.ids.map(() => [])
    for (const [ap, watchers] of this.watchers.entries()) for (const watcher of watchers) watched[watcher]!.push(ap)
    this.watched = watched
    this.tracked = this.ids.map((_, ap) => [...new Set([...this.homes[homeOf[ap]!]!, ...watched[ap]!])])
    for (const [ap, id] of this.ids.entries())
      neighbourhoods.watchedByAp.set(
        id,
        watched[ap]!.map((other) => this.ids[other]!),
      )
  }

  number(id: string): number {
    return this.numbers.get(id)!
  }

  /**
   * For whom something may follow from a statement about an AP: those who keep track of it, and, where it watches others
   * that die with it, those who keep track of these. Neighbourhoods of which all are, and others, by number.
   */
  concernedBy(ap: number): { readonly near: readonly number[]; readonly far: readonly number[] } {
    const { homeOf, watchers, watched } = this
    const subjects = [ap, ...watched[ap]!]
    const near = [...new Set(subjects.map((subject) => homeOf[subject]!))]
    const far = subjects.flatMap((subject) => watchers[subject]!).filter((other) => !near.includes(homeOf[other]!))
    return { near, far: [...new Set(far)] }
  }

  roster(ap: number, now: number): Roster {
    const roster = new Roster(this.ids[ap]!, now)
    roster.setMembers(this.members, now, this.neighbourhoods)
    return roster
  }
}

export type Effect =
  | { readonly do: 'probe'; readonly ap: number; readonly via: readonly number[] }
  | { readonly do: 'accuse'; readonly ap: number; readonly statement: Body<'statement'> }
  | { readonly do: 'tell'; readonly ap: number; readonly from: RosterState; readonly to: RosterState }

export type Beacon = RecordOf<'beacon'>
export type Statement = RecordOf<'statement'>
export type Alive = RecordOf<'alive'>

export class Detector {
  private readonly roster: Roster
  /** The newest of each signer on each subject, as in a ledger. */
  private readonly statements = new Map<number, Statement>()
  private readonly alives = new Map<number, Alive>()
  /** All of these, until there are more. */
  private known: { readonly statements: readonly Statement[]; readonly alives: readonly Alive[] } | undefined

  constructor(
    private readonly members: Members,
    private readonly self: number,
    now: number,
    /** Whose records it has; its own, of an earlier life. */
    ledger?: Detector,
  ) {
    this.roster = members.roster(self, now)
    if (ledger !== undefined) this.sync(ledger)
  }

  pulse(from: number, boot: number, sequence: number, away: number | undefined, now: number): void {
    this.roster.pulse(this.members.ids[from]!, { boot, sequence, away }, now)
  }

  beacon(from: number, beacon: Beacon, now: number): boolean {
    return this.roster.beacon(this.members.ids[from]!, beacon, now)
  }

  latestBeacon(ap: number): Beacon | undefined {
    return this.roster.latestBeacon(this.members.ids[ap]!)
  }

  /** Returns false for one that is known, or older than what is. */
  statement(statement: Statement): boolean {
    const { members } = this
    const key = members.number(apId(statement.signer)) * members.ids.length + members.number(apId(statement.subject))
    return this.take(this.statements, key, statement)
  }

  alive(alive: Alive): boolean {
    return this.take(this.alives, this.members.number(apId(alive.signer)), alive)
  }

  private take<R extends Statement | Alive>(records: Map<number, R>, key: number, record: R): boolean {
    const before = records.get(key)
    if (before !== undefined && before.clock[0] >= record.clock[0]) return false
    records.set(key, record)
    this.known = undefined
    return true
  }

  /** As digests of their ledgers tell. */
  differsFrom(other: Detector): boolean {
    return this.statements.size !== other.statements.size || this.alives.size !== other.alives.size
  }

  /** Takes the records that another one has. Returns whether this AP is accused in one that is new. */
  sync(other: Detector): boolean {
    let isAccused = false
    for (const [key, statement] of other.statements) {
      const isNew = this.take(this.statements, key, statement)
      if (isNew && statement.subject === this.members.keys[this.self]) isAccused = true
    }
    for (const [key, alive] of other.alives) this.take(this.alives, key, alive)
    return isAccused
  }

  private all() {
    this.known ??= { statements: [...this.statements.values()], alives: [...this.alives.values()] }
    return this.known
  }

  lost(ap: number, now: number): void {
    this.roster.lost(this.members.ids[ap]!, now)
  }

  /** As node/ap.ts concludes a probe. @param own the life sign that came, or why none did */
  probed(
    ap: number,
    own: { boot: number; sequence: number } | 'silent' | 'refused',
    isReached: boolean,
    began: number,
    now: number,
  ): void {
    const id = this.members.ids[ap]!
    if (typeof own === 'object') this.roster.heard(id, own, now)
    else if (isReached) {
      this.roster.heard(id, this.roster.lastSign(id), now)
      if (this.roster.state(id, now) !== 'dead') this.roster.misjudged(now)
    } else if ((this.roster.lastHeard(id) ?? 0) <= began) this.roster.unreachable(id, own === 'refused')
  }

  tick(now: number): readonly Effect[] {
    const { statements, alives } = this.all()
    this.roster.setRecords(statements, NONE, alives)
    const effects = this.roster.tick(now)
    return effects.length === 0 ? NONE : effects.map((effect) => this.inNumbers(effect))
  }

  state(ap: number, now: number): RosterState {
    return this.roster.state(this.members.ids[ap]!, now)
  }

  isBraked(now: number): boolean {
    return this.roster.isBraked(now)
  }

  private inNumbers(effect: RosterEffect): Effect {
    const ap = this.members.number(effect.ap)
    if (effect.do !== 'probe') return { ...effect, ap }
    return { do: 'probe', ap, via: effect.via.map((id) => this.members.number(id)) }
  }

  beaconOf(self: number, boot: number, sequence: number, away?: number): Beacon {
    return beaconOf(this.members.keys[self]!, boot, sequence, away)
  }

  statementOf(self: number, ap: number, body: Body<'statement'>, now: number): Statement {
    const [signer, subject] = [this.members.keys[self]!, this.members.keys[ap]!]
    return { ...UNSIGNED, kind: 'statement', signer, subject, clock: [now, 0], body }
  }

  aliveOf(self: number, boot: number, sequence: number, now: number): Alive {
    const key = this.members.keys[self]!
    const body = { boot, sequence, addresses: [] }
    return { ...UNSIGNED, kind: 'alive', signer: key, subject: key, clock: [now, 0], body }
  }
}

const NONE: readonly never[] = []

/** A record in memory alone: what was never sealed has no bytes. */
const UNSIGNED = { bytes: new Uint8Array(), hash: new Uint8Array(32), format: 1, mesh: new Uint8Array(20) }
const LEDGER = new Uint8Array(16)

function beaconOf(key: Uint8Array, boot: number, sequence: number, away: number | undefined): Beacon {
  const body = {
    ...{ boot, sequence, version: '', away },
    ...{ addresses: [], instances: [], cannot: [], images: [], packages: [], ledger: LEDGER },
  }
  return { ...UNSIGNED, kind: 'beacon', signer: key, subject: key, clock: [0, 0], body }
}
