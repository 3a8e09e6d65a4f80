// How the mesh looks from this AP at one moment: the ledger and the roster put together, and what follows for this AP.
// Derived, never stored.
import { apId, hex } from '../protocols/bytes.js'
import { type Chute, chutesOf, claimsOf, instanceName } from '../protocols/desired.js'
import type { RecordOf } from '../protocols/kinds.js'
import type { Ledger } from '../protocols/ledger.js'
import { type Membership, membershipOf } from '../protocols/membership.js'
import { type Candidate, type Placed, place } from '../protocols/placement.js'
import type { Roster } from '../protocols/roster.js'
import { type Desired, generationOf } from './chutes/reconciler.js'

export interface Outlook {
  readonly membership: Membership
  readonly chutes: readonly Chute[]
  /** By hex of the instance's subject, strongest first. */
  readonly claims: ReadonlyMap<string, readonly RecordOf<'claim'>[]>
  /** By AP id, this AP included. */
  readonly candidates: ReadonlyMap<string, Candidate>
  readonly placed: readonly Placed[]
}

export interface Self {
  readonly id: string
  readonly beacon: RecordOf<'beacon'>['body'] | undefined
  /** True once this AP is about to stop for good reasons. */
  readonly leaving: boolean
}

/** @param nowMs milliseconds since 1970; @param monotonicMs on the roster's scale */
export function lookOut(
  ledger: Ledger,
  meshKey: Uint8Array,
  roster: Roster,
  self: Self,
  nowMs: number,
  monotonicMs: number,
): Outlook {
  const membership = membershipOf(ledger, meshKey, nowMs)
  roster.setMembers(membership.members, monotonicMs)
  roster.setRecords(ledger.effective('statement', nowMs), ledger.effective('goodbye', nowMs), apId)
  const candidates = new Map<string, Candidate>()
  for (const [id, member] of membership.members) {
    const isSelf = id === self.id
    const state = isSelf && self.leaving ? 'left' : roster.state(id, monotonicMs)
    candidates.set(id, { member, state, beacon: isSelf ? self.beacon : roster.latestBeacon(id)?.body })
  }
  const chutes = chutesOf(ledger, nowMs)
  const claims = claimsOf(ledger, nowMs)
  return { membership, chutes, claims, candidates, placed: place(chutes, claims, candidates, nowMs) }
}

export interface Duties {
  /** What this AP holds and should run, by hex of the instance's subject. */
  readonly desired: ReadonlyMap<string, Desired>
  /** What it should leave running although it does not hold it: until the holder's copy serves (decision 12). */
  readonly kept: ReadonlySet<string>
  /** What of `kept` someone else can be expected to take over. */
  readonly handedOver: readonly string[]
}

/** What the outlook asks of the AP `self`. */
export function dutiesOf(outlook: Outlook, self: string): Duties {
  const desired = new Map<string, Desired>()
  const kept = new Set<string>()
  const handedOver: string[] = []
  for (const placed of outlook.placed) {
    if (placed.holder === self) {
      desired.set(placed.instance, desiredOf(placed, outlook, self))
      continue
    }
    const isServedElsewhere =
      placed.holder !== undefined &&
      serves(outlook.candidates.get(placed.holder)?.beacon, placed.instance, placed.claim!)
    if (isServedElsewhere || isNotWorthKeeping(placed)) continue
    kept.add(placed.instance)
    const others = placed.ranks.filter((ap) => ap !== self)
    if (placed.holder !== undefined || others.length > 0) handedOver.push(placed.instance)
  }
  return { desired, kept, handedOver }
}

// An AP that says itself that it cannot run an instance has nothing worth keeping, and a copy that is one AP's alone no other
// takes over. (An engine that is lost may come back as it was.)
const isNotWorthKeeping = ({ holder, cause, copy }: Placed): boolean =>
  holder === undefined && (cause === 'cannot' || (typeof copy !== 'number' && cause !== 'engine'))

const serves = (beacon: Candidate['beacon'], instance: string, claim: RecordOf<'claim'>): boolean =>
  beacon?.instances.some(
    (report) =>
      hex(report.instance) === instance &&
      report.epoch >= claim.body.epoch &&
      (report.state === 'running' || report.state === 'healthy'),
  ) ?? false

function desiredOf(placed: Placed, outlook: Outlook, self: string): Desired {
  const { chute, subject, instance, copy } = placed
  const epoch = placed.claim!.body.epoch
  const name = instanceName(chute.id.name, copy, (key) => outlook.candidates.get(apId(key))?.member.name ?? apId(key))
  return {
    subject,
    epoch,
    revision: chute.revision,
    plan: {
      key: instance,
      instance: name,
      chute: chute.id.name,
      chuteKey: hex(chute.key),
      revision: String(chute.revision),
      epoch: String(epoch),
      generation: generationOf(chute.deployment.hash, epoch, chute.restarts),
      spec: chute.spec,
      environment: {
        DROPMESH_CHUTE: chute.id.name,
        DROPMESH_INSTANCE: name,
        DROPMESH_AP: self,
        DROPMESH_EPOCH: String(epoch),
        // What ParaDrop's chutes look for.
        PARADROP_CHUTE_NAME: chute.id.name,
        PARADROP_CHUTE_VERSION: String(chute.revision),
        PARADROP_ROUTER_ID: self,
        PARADROP_DATA_DIR: '/data',
      },
    },
  }
}

export interface ClaimToMake {
  readonly placed: Placed
  readonly epoch: number
  readonly previous: Uint8Array | undefined
}

/** A lower rank waits so long for each one before it, in milliseconds. */
const RANK_PATIENCE = 5000

/** Remembers for how long instances have been without a holder, and says which ones it is this AP's turn to claim. */
export class Turns {
  private readonly since = new Map<string, number>()

  due(outlook: Outlook, self: string, nowMs: number): ClaimToMake[] {
    const claims: ClaimToMake[] = []
    const open = new Set<string>()
    for (const placed of outlook.placed) {
      const rank = placed.ranks.indexOf(self)
      if (placed.holder !== undefined || placed.ranks.length === 0) continue
      open.add(placed.instance)
      const since = this.since.get(placed.instance) ?? nowMs
      this.since.set(placed.instance, since)
      if (rank < 0 || nowMs - since < rank * RANK_PATIENCE) continue
      const strongest = outlook.claims.get(placed.instance)?.[0]
      claims.push({ placed, epoch: (strongest?.body.epoch ?? 0) + 1, previous: strongest?.hash })
    }
    for (const instance of this.since.keys()) if (!open.has(instance)) this.since.delete(instance)
    return claims
  }
}
