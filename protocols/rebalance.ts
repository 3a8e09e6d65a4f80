// Rebalancing: which instance moves though nothing is wrong with its AP, so that one that came, or came back, gets its share. One
// at a time, and the same on every AP that knows the same; it is the receiver that claims.
import { apId, hex } from './bytes.js'
import { type ChuteSpec, DEFAULT_REBALANCE, isPinnedByData, type Resources, resourcesOf } from './deployment.js'
import type { Chute, Claims } from './desired.js'
import { compareRecords } from './envelope.js'
import { type ClaimToMake, claimNext, type Outlook, serves } from './outlook.js'
import { BALANCE, type Balance } from './pace.js'
import { type Candidate, capacityOf, type Free, fits, type Placed, REBALANCED, take, whyNotClaim } from './placement.js'

/**
 * An AP is overloaded where what it holds takes more than this share of its CPUs or its memory. (Beyond all of them a claim does not
 * hold: see placement.) A quarter is left for what others lose.
 */
export const OVERLOAD = 0.75

export interface Move {
  readonly placed: Placed
  /** AP ids. */
  readonly from: string
  readonly to: string
}

/**
 * The move that is next, or none where all is as even as it should be. Each one lowers the load of the more loaded of its two
 * APs by at least half of what the instance was there, so that moves end, and none is ever taken back.
 * @param mayMove whether it is time for an instance
 * @param mayReceive whether it is time for an AP
 */
export function nextMove(
  placed: readonly Placed[],
  candidates: ReadonlyMap<string, Candidate>,
  nowMs: number,
  mayMove: (placed: Placed) => boolean = () => true,
  mayReceive: (ap: string) => boolean = () => true,
): Move | undefined {
  const free = new Map([...candidates].map(([id, candidate]) => [id, capacityOf(candidate)]))
  const claimed = new Map<string, Placed[]>()
  for (const one of placed) {
    // What fits nowhere runs on where it was claimed, and takes its part there.
    const ap = one.holder ?? (one.cause === 'full' ? apId(one.claim!.signer) : undefined)
    if (ap === undefined) continue
    take(free.get(ap)!, one.chute)
    const others = claimed.get(ap)
    if (others === undefined) claimed.set(ap, [one])
    else others.push(one)
  }
  const loadOf = (ap: string, change?: Resources, sign = 1) =>
    loadAfter(candidates.get(ap)!, free.get(ap)!, change, sign)
  const crowdOf = (ap: string, { key }: Chute) => free.get(ap)!.chutes.get(hex(key)) ?? 0
  const givers = [...claimed.keys()]
    .map((ap) => ({ ap, load: loadOf(ap) }))
    .filter(({ load }) => Number.isFinite(load))
    .sort((a, b) => b.load - a.load || (a.ap < b.ap ? -1 : 1))
  const receivers = [...candidates.keys()].filter(mayReceive).sort()

  for (const { ap: from, load } of givers) {
    let best: { move: Move; worse: number; gained: number } | undefined
    const here = claimed.get(from)!
    const byAge = [...here].sort((a, b) => compareRecords(a.claim!, b.claim!))
    for (const one of here) {
      if (one.holder === undefined || !isMovable(one.chute.spec, load) || !mayMove(one)) continue
      const needs = resourcesOf(one.chute.spec)
      const left = loadOf(from, needs, -1)
      if (!holdsWithout(one, byAge, candidates.get(from)!)) continue
      // What moves off an overloaded AP must not overload another one.
      const most = Math.min((load + left) / 2, modeOf(one.chute.spec) === 'always' ? 1 : OVERLOAD)
      for (const to of receivers) {
        if (to === from || crowdOf(to, one.chute) >= crowdOf(from, one.chute)) continue
        const gained = loadOf(to, needs)
        const worse = Math.max(left, gained)
        const isBetter = !best || worse < best.worse || (worse === best.worse && gained < best.gained)
        if (gained > most || !isBetter) continue
        if (whyNotClaim(one, candidates.get(to)!, free.get(to)!, nowMs) !== undefined) continue
        best = { move: { placed: one, from, to }, worse, gained }
      }
    }
    if (best !== undefined) return best.move
  }
  return undefined
}

/**
 * Whether all that holds on an AP still does when one of it is gone: what fits nowhere could take the room, or a port, and push out what
 * is younger.
 * @param all what was claimed there, the oldest first
 */
function holdsWithout(one: Placed, all: readonly Placed[], candidate: Candidate): boolean {
  const free = capacityOf(candidate)
  for (const { instance, chute, holder } of all) {
    if (instance === one.instance) continue
    if (fits(chute, free)) take(free, chute)
    else if (holder !== undefined) return false
  }
  return true
}

const modeOf = (spec: ChuteSpec) => spec.rebalance ?? DEFAULT_REBALANCE

function isMovable(spec: ChuteSpec, load: number): boolean {
  // An exclusive one would have to stand still while it moves.
  if (spec.replicas === 'everywhere' || isPinnedByData(spec) || spec.exclusive !== undefined) return false
  const mode = modeOf(spec)
  return mode === 'always' || (mode === 'overloaded' && load > OVERLOAD)
}

/** The share of its nominal capacity that is taken, of the scarcer of CPUs and memory. */
function loadAfter({ beacon }: Candidate, free: Free, change: Resources | undefined, sign: number): number {
  const engine = beacon?.engine
  if (engine === undefined) return Number.POSITIVE_INFINITY
  const taken = (all: number, left: number, more = 0) => (all - left + sign * more) / all
  return Math.max(taken(engine.cpu, free.cpu, change?.cpu), taken(engine.memory, free.memory, change?.memory))
}

/** Remembers since when each AP has been there, and says which instance this AP is to take over now. */
export class Rebalancing {
  private readonly since = new Map<string, { boot: number; at: number }>()
  /** What this AP would take over, since when. */
  private next: { instance: string; at: number } | undefined

  constructor(private readonly balance: Balance = BALANCE) {}

  /** @param now on a monotonic scale; @param nowMs milliseconds since 1970 */
  due(outlook: Outlook, self: string, now: number, nowMs: number): ClaimToMake[] {
    this.look(outlook.candidates, now)
    const isTime = this.isSteady(self, now) && this.isCalm(outlook, nowMs)
    const move = isTime ? this.moveNow(outlook, now, nowMs) : undefined
    if (move?.to !== self) {
      this.next = undefined
      return []
    }
    const { instance } = move.placed
    if (this.next?.instance !== instance) this.next = { instance, at: now }
    return now - this.next.at >= this.balance.sure ? [claimNext(outlook, move.placed, REBALANCED)] : []
  }

  private moveNow({ placed, candidates, claims }: Outlook, now: number, nowMs: number): Move | undefined {
    const isServed = ({ holder, instance, claim }: Placed) => serves(candidates.get(holder!)!.beacon, instance, claim!)
    return nextMove(
      placed,
      candidates,
      nowMs,
      (one) => isServed(one) && nowMs - movedAt(claims, one) >= this.balance.rest,
      (ap) => this.isSteady(ap, now),
    )
  }

  private look(candidates: Outlook['candidates'], now: number): void {
    for (const [ap, { state, beacon }] of candidates) {
      if (state !== 'alive' || beacon?.engine === undefined) this.since.delete(ap)
      else if (this.since.get(ap)?.boot !== beacon.boot) this.since.set(ap, { boot: beacon.boot, at: now })
    }
    for (const ap of this.since.keys()) if (!candidates.has(ap)) this.since.delete(ap)
  }

  private isSteady(ap: string, now: number): boolean {
    const since = this.since.get(ap)
    return since !== undefined && now - since.at >= this.balance.steady
  }

  /** True where nobody is suspected, nothing waits to be claimed, and the last move is over and some time ago. */
  private isCalm({ placed, candidates }: Outlook, nowMs: number): boolean {
    for (const { state } of candidates.values()) if (state === 'suspect') return false
    for (const { ranks, holder, instance, claim } of placed) {
      if (ranks.length > 0) return false
      if (claim?.body.cause !== REBALANCED) continue
      const ago = nowMs - claim.clock[0]
      if (ago < this.balance.pause) return false
      if (holder === undefined || ago >= this.balance.settle) continue
      if (!serves(candidates.get(holder)!.beacon, instance, claim)) return false
    }
    return true
  }
}

const movedAt = (claims: Claims, { instance }: Placed): number =>
  Math.max(
    Number.NEGATIVE_INFINITY,
    ...(claims.get(instance) ?? []).filter(({ body }) => body.cause === REBALANCED).map(({ clock }) => clock[0]),
  )
