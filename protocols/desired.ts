// What the mesh is asked to run: chutes with their revision and wanted state, and who claims which instance. A view over
// the ledger.
import type { Authority, Standing } from './authority.js'
import { compareBytes, equalBytes, hex, unhex } from './bytes.js'
import { type ChuteId, type Copy, chuteKey, instanceSubject, readChuteSubject } from './chute.js'
import { compareClocks } from './clock.js'
import type { ChuteSpec } from './deployment.js'
import type { RecordOf } from './kinds.js'
import { isDue, type Ledger } from './ledger.js'
import type { Member } from './membership.js'
import type { Secret } from './secrets.js'
import { remembered } from './view.js'

export interface Chute {
  readonly id: ChuteId
  readonly key: Uint8Array
  readonly spec: ChuteSpec
  readonly revision: number
  readonly desired: 'running' | 'stopped'
  /** Counts `restart`s: a change of it replaces the containers. */
  readonly restarts: number
  readonly deployment: RecordOf<'deployment'>
  /** By what its publisher may have it. */
  readonly standings?: readonly Standing[]
  /** Those it reads, of a chute that reads any. */
  readonly secrets?: readonly Secret[]
  /** Where ceilings leave room for some of its copies alone. */
  readonly limit?: { readonly copies: readonly Copy[]; readonly why: string }
}

/** A chute that is published, and that its publisher may not have. */
export interface Barred {
  readonly chute: Chute
  readonly why: string
}

interface Published {
  /** In the order of their keys. */
  readonly chutes: readonly Chute[]
  readonly barred: readonly Barred[]
}

/**
 * Every chute that is published and not removed. Of several creations of one name the latest is the chute, and of its
 * revisions the latest that its publisher may have: what may not be leaves in force what was.
 */
export function chutesOf(
  ledger: Ledger,
  authority: Pick<Authority, 'counts' | 'judge' | 'era'>,
  nowMs: number,
): Published {
  const inputs = [ledger.stamp('deployment', nowMs), ledger.stamp('wanted', nowMs), authority, authority.era(nowMs)]
  return remembered(ledger, 'chutes', inputs, () => readChutes(ledger, authority, nowMs))
}

function readChutes(ledger: Ledger, authority: Pick<Authority, 'counts' | 'judge'>, nowMs: number): Published {
  const chutes = new Map<string, Chute>()
  const barred = new Map<string, Barred>()
  for (const deployment of ledger.inForce('deployment', nowMs)) {
    const subject = hex(deployment.subject)
    if (chutes.has(subject)) continue
    const { creation, spec, revision } = deployment.body
    const id = { ...readChuteSubject(deployment.subject), creation }
    const judged = authority.judge(deployment, id.name, spec, nowMs)
    const wanted = ledger
      .history('wanted', deployment.subject)
      .find(
        (record) =>
          isDue(record, nowMs) && equalBytes(record.body.creation, creation) && authority.counts(record, nowMs),
      )
    const { desired, restarts } = wanted?.body ?? { desired: 'running', restarts: 0 }
    const chute: Chute = { id, key: chuteKey(id), spec, revision, desired, restarts, deployment }
    if (typeof judged !== 'string') chutes.set(subject, { ...chute, standings: judged })
    else if (!barred.has(subject)) barred.set(subject, { chute, why: judged })
  }
  return {
    chutes: [...chutes.values()].sort((a, b) => compareBytes(a.key, b.key)),
    barred: [...barred].flatMap(([subject, one]) => (chutes.has(subject) ? [] : one)),
  }
}

/** The copies a chute should have, as far as it may. `everywhere` means every member: those that do not fit simply run none. */
export function copiesOf(chute: Chute, members: ReadonlyMap<string, Member>): Copy[] {
  if (chute.desired !== 'running') return []
  if (chute.limit !== undefined) return [...chute.limit.copies]
  if (chute.spec.replicas === 'everywhere') return [...members.values()].map((member) => member.key)
  return Array.from({ length: chute.spec.replicas }, (_, ordinal) => ordinal)
}

/** What claims call the copies of a chute: asked for at each placement, and always the same. */
const instances = new WeakMap<Chute, Map<Copy, Instance>>()

interface Instance {
  readonly subject: Uint8Array
  /** Hex of the subject. */
  readonly instance: string
}

export function instanceOf(chute: Chute, copy: Copy): Instance {
  let known = instances.get(chute)
  if (known === undefined) {
    known = new Map()
    instances.set(chute, known)
  }
  let found = known.get(copy)
  if (found === undefined) {
    const subject = instanceSubject(chute.key, copy)
    found = { subject, instance: hex(subject) }
    known.set(copy, found)
  }
  return found
}

/** What people call an instance: `hello.0`, or `hello.12D3…` for the copy of one AP. */
export const instanceName = (chute: string, copy: Copy, apName: (key: Uint8Array) => string): string =>
  `${chute}.${typeof copy === 'number' ? copy : apName(copy)}`

/** Gives the claims on an instance, by hex of its subject; undefined where nobody ever claimed it. */
export type Claims = Pick<ReadonlyMap<string, readonly RecordOf<'claim'>[]>, 'get'>

/**
 * The claims on each instance, strongest first: the higher epoch, then the earlier clock, then the lower key (decision 12;
 * data lineage comes before them once data moves). Looked up when asked for: most claims of an old ledger are on instances
 * that nobody wants any more.
 */
export function claimsOf(ledger: Ledger, nowMs: number): Claims {
  return remembered(ledger, 'claims', [ledger.stamp('claim', nowMs)], () => {
    const found = new Map<string, readonly RecordOf<'claim'>[]>()
    const find = (instance: string) => {
      const claims = ledger.effectiveOn('claim', unhex(instance), nowMs).sort(strongerClaim)
      found.set(instance, claims)
      return claims
    }
    return {
      get(instance) {
        const claims = found.get(instance) ?? find(instance)
        return claims.length > 0 ? claims : undefined
      },
    }
  })
}

const strongerClaim = (a: RecordOf<'claim'>, b: RecordOf<'claim'>): number =>
  b.body.epoch - a.body.epoch || compareClocks(a.clock, b.clock) || compareBytes(a.signer, b.signer)
