// How the mesh looks from this AP at one moment: the ledger and the roster put together, and what follows for this AP.
// Derived, never stored.
import { type Authority, authorityOf } from './authority.js'
import { apId, hex } from './bytes.js'
import { withinCeilings } from './ceilings.js'
import { type Barred, type Chute, type Claims, chutesOf, claimsOf } from './desired.js'
import { possibleClaims } from './epochs.js'
import type { RecordOf } from './kinds.js'
import { LEASE } from './leases.js'
import type { Ledger } from './ledger.js'
import { type Membership, membershipOf } from './membership.js'
import { divisionsOf, type Neighbourhoods, neighbourhoodsOf } from './neighbourhood.js'
import { arePlacedAlike, type Candidate, type Placed, place } from './placement.js'
import type { Roster } from './roster.js'
import { withSecrets } from './secrets.js'
import { remembered } from './view.js'
import { type Electorate, electoratesOf } from './voters.js'

export interface Outlook {
  readonly authority: Authority
  readonly membership: Membership
  readonly neighbourhoods: Neighbourhoods
  readonly chutes: readonly Chute[]
  /** What is published by who may not, or not that. */
  readonly barred: readonly Barred[]
  readonly claims: Claims
  /** By AP id, this AP included. */
  readonly candidates: ReadonlyMap<string, Candidate>
  readonly placed: readonly Placed[]
  /** Who votes on the leases of each exclusive chute, by hex of its key. */
  readonly electorates: ReadonlyMap<string, Electorate>
  /** True while so many others went at once that this AP is more likely cut off: it takes over little then. */
  readonly isBraked: boolean
}

export interface Self {
  readonly id: string
  readonly beacon: RecordOf<'beacon'>['body'] | undefined
  /** True once this AP is about to stop for good reasons. */
  readonly leaving: boolean
  /** What far APs said the last time that they were asked, by AP id. */
  readonly glimpses?: ReadonlyMap<string, RecordOf<'beacon'>['body']>
}

/**
 * @param nowMs milliseconds since 1970; @param monotonicMs on the roster's scale
 * @param before what came out the last time: most of the time the placement still follows
 */
export function lookOut(
  ledger: Ledger,
  meshKey: Uint8Array,
  roster: Roster,
  self: Self,
  nowMs: number,
  monotonicMs: number,
  before?: Outlook,
): Outlook {
  const membership = membershipOf(ledger, meshKey, nowMs)
  const { members } = membership
  const neighbourhoods = neighbourhoodsOf(members, divisionsOf(ledger, membership, nowMs))
  roster.setMembers(members, monotonicMs, neighbourhoods)
  roster.setRecords(
    ledger.effective('statement', nowMs),
    ledger.effective('goodbye', nowMs),
    ledger.effective('alive', nowMs),
  )
  const isDivided = neighbourhoods.all.length > 1
  const candidates = new Map<string, Candidate>()
  for (const [id, member] of members) {
    const isSelf = id === self.id
    const state = isSelf && self.leaving ? 'left' : roster.state(id, monotonicMs)
    const beacon = isSelf ? self.beacon : roster.latestBeacon(id)?.body
    const isGone = isDivided && roster.stateInLedger(id, monotonicMs) !== 'alive'
    candidates.set(id, { member, state, beacon, isGone, glimpse: self.glimpses?.get(id) })
  }
  const authority = authorityOf(ledger, meshKey, nowMs)
  const { chutes: permitted, barred } = chutesOf(ledger, authority, nowMs)
  const chutes = withSecrets(ledger, withinCeilings(ledger, permitted, members), members, authority, nowMs)
  const electorates = electoratesOf(ledger, chutes, membership, nowMs)
  const claims = remembered(ledger, 'possible claims', [claimsOf(ledger, nowMs), chutes, electorates, membership], () =>
    possibleClaims(claimsOf(ledger, nowMs), chutes, electorates, membership),
  )
  const isBraked = roster.isBraked(monotonicMs)
  const outlook = { authority, membership, neighbourhoods, chutes, barred, claims, candidates, electorates, isBraked }
  const isAsBefore =
    before?.membership === membership &&
    before.neighbourhoods === neighbourhoods &&
    before.chutes === chutes &&
    before.claims === claims &&
    before.placed.every(({ opensAt }) => opensAt === undefined || nowMs < opensAt) &&
    arePlacedAlike(before.candidates, candidates)
  if (isAsBefore) return { ...outlook, placed: before.placed }
  const own = neighbourhoods.of(self.id)
  const since = (chute: Chute, instance: string) => unclaimedSince(ledger, chute, claims.get(instance)?.[0], nowMs)
  const homes = own && isDivided ? { neighbourhoods, own, since } : undefined
  return { ...outlook, placed: place(chutes, claims, candidates, nowMs, homes) }
}

/** What can end the claim of an AP, by what the ledger says of it. */
const ENDS = ['statement', 'goodbye', 'forget', 'drain', 'member'] as const

/** The latest record that can have left an instance without a holder, whichever it was: the same for all, and good enough. */
function unclaimedSince(
  ledger: Ledger,
  { deployment }: Chute,
  claim: RecordOf<'claim'> | undefined,
  nowMs: number,
): number {
  const holder = claim?.signer
  const ends = holder === undefined ? [] : ENDS.flatMap((kind) => ledger.effectiveOn(kind, holder, nowMs))
  const records = [deployment, claim, ...ledger.effectiveOn('wanted', deployment.subject, nowMs), ...ends]
  return Math.max(...records.map((record) => record?.clock[0] ?? 0))
}

export interface Duties {
  /** What this AP holds and should run. */
  readonly held: readonly Placed[]
  /** What it should leave running although it does not hold it: until the holder's copy serves (decision 12). */
  readonly kept: ReadonlySet<string>
  /** What of `kept` someone else can be expected to take over. */
  readonly handedOver: readonly string[]
}

/** What the outlook asks of the AP `self`. */
export function dutiesOf(outlook: Outlook, self: string): Duties {
  const held: Placed[] = []
  const kept = new Set<string>()
  const handedOver: string[] = []
  for (const placed of outlook.placed) {
    if (placed.holder === self) {
      held.push(placed)
      continue
    }
    if (placed.chute.spec.exclusive !== undefined) continue // of these there is never a copy too many
    if (isServedElsewhere(outlook, placed, self) || isNotWorthKeeping(placed)) continue
    kept.add(placed.instance)
    const others = placed.ranks.filter((ap) => ap !== self)
    if (placed.holder !== undefined || others.length > 0 || placed.elsewhere !== undefined)
      handedOver.push(placed.instance)
  }
  return { held, kept, handedOver }
}

// An AP that says itself that it cannot run an instance has nothing worth keeping, and a copy that is one AP's alone no other
// takes over. (An engine that is lost may come back as it was.)
const isNotWorthKeeping = ({ holder, cause, copy }: Placed): boolean =>
  holder === undefined && (cause === 'cannot' || (typeof copy !== 'number' && cause !== 'engine'))

// By the holder; or, while nobody may hold it, by who held it last and runs it still: one copy is worth keeping then, not each
// that was ever left over.
function isServedElsewhere({ candidates }: Outlook, { holder, claim, instance }: Placed, self: string): boolean {
  const by = holder ?? (claim && apId(claim.signer))
  if (by === undefined || by === self) return false
  const candidate = candidates.get(by)
  return (
    (holder !== undefined || candidate?.state === 'alive') &&
    serves(candidate?.beacon ?? candidate?.glimpse, instance, claim!)
  )
}

/** True where an AP says that what it runs by this claim, or a later one, does. */
export const serves = (beacon: Candidate['beacon'], instance: string, claim: RecordOf<'claim'>): boolean =>
  beacon?.instances.some(
    (report) =>
      hex(report.instance) === instance &&
      report.epoch >= claim.body.epoch &&
      (report.state === 'running' || report.state === 'healthy'),
  ) ?? false

export interface ClaimToMake {
  readonly placed: Placed
  readonly epoch: number
  readonly cause: string
  readonly previous: Uint8Array | undefined
}

/** The claim that takes an instance over from whoever claimed it last. */
export function claimNext({ claims }: Outlook, placed: Placed, cause: string): ClaimToMake {
  const strongest = claims.get(placed.instance)?.[0]
  return { placed, epoch: (strongest?.body.epoch ?? 0) + 1, cause, previous: strongest?.hash }
}

/** A lower rank waits so long for each one before it, in milliseconds. */
const RANK_PATIENCE = 5000
/** The first rank may have to wait for the end of the last lease. */
const EXCLUSIVE_RANK_PATIENCE = RANK_PATIENCE + LEASE.voter
/** While it is braked, an AP takes over one instance of the dead each so many milliseconds. */
const BRAKED_PACE = 10_000

/** Remembers for how long instances have been without a holder, and says which ones it is this AP's turn to claim. */
export class Turns {
  private readonly since = new Map<string, number>()
  /** Takeovers that were begun under the brake. */
  private readonly begun = new Set<string>()
  private lastBegun = Number.NEGATIVE_INFINITY

  due(outlook: Outlook, self: string, nowMs: number): ClaimToMake[] {
    const claims: ClaimToMake[] = []
    const open = new Set<string>()
    for (const placed of outlook.placed) {
      const rank = placed.ranks.indexOf(self)
      if (placed.holder !== undefined || placed.ranks.length === 0) continue
      open.add(placed.instance)
      const since = this.since.get(placed.instance) ?? nowMs
      this.since.set(placed.instance, since)
      const patience = placed.chute.spec.exclusive === undefined ? RANK_PATIENCE : EXCLUSIVE_RANK_PATIENCE
      if (rank < 0 || nowMs - since < rank * patience) continue
      if (outlook.isBraked && !this.mayBegin(placed, nowMs)) continue
      claims.push(claimNext(outlook, placed, placed.cause ?? 'new'))
    }
    for (const instance of this.since.keys()) if (!open.has(instance)) this.since.delete(instance)
    for (const instance of this.begun) if (!open.has(instance)) this.begun.delete(instance)
    return claims
  }

  // An exclusive instance follows its lease, which nobody gets who is cut off.
  private mayBegin({ chute, cause, instance }: Placed, nowMs: number): boolean {
    if (cause !== 'dead' || chute.spec.exclusive !== undefined || this.begun.has(instance)) return true
    if (nowMs - this.lastBegun < BRAKED_PACE) return false
    this.lastBegun = nowMs
    this.begun.add(instance)
    return true
  }
}

/** An instance this AP holds, or has the turn to take, that it may run by a lease alone. */
export interface Leased {
  readonly placed: Placed
  /** The least epoch to ask for. */
  readonly epoch: number
}

/**
 * What an AP claims when its turns have come, and what it needs a lease for, be it to claim it or to run what it has
 * claimed. An exclusive instance is claimed by whoever has its lease, and with the epoch of that.
 * @param self AP id
 * @param holds the epoch by which it may run an instance now, if it has the lease
 */
export function claimsToMake(
  turns: readonly ClaimToMake[],
  { placed: all }: Outlook,
  self: string,
  holds: (instance: string) => number | undefined,
): { due: ClaimToMake[]; leased: Leased[] } {
  const isLeased = ({ chute }: Placed) => chute.spec.exclusive !== undefined
  const due = turns.filter(({ placed }) => !isLeased(placed))
  const leased = new Map<string, Leased>()
  for (const turn of turns) if (isLeased(turn.placed)) leased.set(turn.placed.instance, turn)
  for (const placed of all) {
    const { instance, claim, holder, cause } = placed
    if (!isLeased(placed) || claim === undefined || apId(claim.signer) !== self) continue
    if (holder === self || cause === 'lease') leased.set(instance, { placed, epoch: claim.body.epoch })
  }
  for (const { placed } of leased.values()) {
    const epoch = holds(placed.instance)
    if (epoch === undefined || epoch === placed.claim?.body.epoch) continue
    due.push({ placed, epoch, cause: placed.cause ?? 'new', previous: placed.claim?.hash })
  }
  return { due, leased: [...leased.values()] }
}
