// What the mesh is asked to run: chutes with their revision and wanted state, and who claims which instance. A view over
// the ledger.
import { compareBytes, hex } from './bytes.js'
import { type ChuteId, type Copy, chuteKey, readChuteSubject } from './chute.js'
import { compareClocks } from './clock.js'
import type { ChuteSpec } from './deployment.js'
import { compareRecords } from './envelope.js'
import type { RecordOf } from './kinds.js'
import type { Ledger } from './ledger.js'
import type { Member } from './membership.js'

export interface Chute {
  readonly id: ChuteId
  readonly key: Uint8Array
  readonly spec: ChuteSpec
  readonly revision: number
  readonly desired: 'running' | 'stopped' | 'removed'
  /** Counts `restart`s: a change of it replaces the containers. */
  readonly restarts: number
  readonly deployment: RecordOf<'deployment'>
}

/**
 * Every chute the ledger tells of, also removed ones while their deployment is in the history. Of several creations of one
 * name the latest is the chute, and the others count as removed.
 */
export function chutesOf(ledger: Ledger, nowMs: number): Chute[] {
  // A register's newest record may be of an earlier creation, by a publisher's machine that did not know of the later one.
  const removed = new Map<string, Uint8Array>()
  for (const { subject, body } of ledger.inForce('removal', nowMs)) {
    const before = removed.get(hex(subject))
    if (before === undefined || compareBytes(body.creation, before) > 0) removed.set(hex(subject), body.creation)
  }
  const wanted = ledger.inForce('wanted', nowMs).sort((a, b) => compareRecords(b, a))
  const latest = new Map<string, RecordOf<'deployment'>>()
  for (const deployment of ledger.inForce('deployment', nowMs)) {
    const before = latest.get(hex(deployment.subject))
    if (before === undefined || compareDeployments(deployment, before) > 0)
      latest.set(hex(deployment.subject), deployment)
  }

  return [...latest.values()]
    .map((deployment): Chute => {
      const { creation, spec, revision } = deployment.body
      const id = { ...readChuteSubject(deployment.subject), creation }
      const tombstone = removed.get(hex(deployment.subject))
      const state = wanted.find(
        (w) => compareBytes(w.subject, deployment.subject) === 0 && compareBytes(w.body.creation, creation) === 0,
      )
      const isRemoved = tombstone !== undefined && compareBytes(tombstone, creation) >= 0
      const desired = isRemoved ? 'removed' : (state?.body.desired ?? 'running')
      return { id, key: chuteKey(id), spec, revision, desired, restarts: state?.body.restarts ?? 0, deployment }
    })
    .sort((a, b) => compareBytes(a.key, b.key))
}

const compareDeployments = (a: RecordOf<'deployment'>, b: RecordOf<'deployment'>): number =>
  compareBytes(a.body.creation, b.body.creation) || compareRecords(a, b)

/** The copies a chute should have. `everywhere` means every member: those that do not fit simply run none. */
export function copiesOf(chute: Chute, members: ReadonlyMap<string, Member>): Copy[] {
  if (chute.desired !== 'running') return []
  if (chute.spec.replicas === 'everywhere') return [...members.values()].map((member) => member.key)
  return Array.from({ length: chute.spec.replicas }, (_, ordinal) => ordinal)
}

/** What people call an instance: `hello.0`, or `hello.12D3…` for the copy of one AP. */
export const instanceName = (chute: string, copy: Copy, apName: (key: Uint8Array) => string): string =>
  `${chute}.${typeof copy === 'number' ? copy : apName(copy)}`

/**
 * The claims on each instance (by hex of its subject), strongest first: the higher epoch, then the earlier clock, then
 * the lower key (decision 12; data lineage comes before them once data moves).
 */
export function claimsOf(ledger: Ledger, nowMs: number): Map<string, RecordOf<'claim'>[]> {
  const claims = new Map<string, RecordOf<'claim'>[]>()
  for (const claim of ledger.effective('claim', nowMs)) {
    const instance = hex(claim.subject)
    claims.set(instance, [...(claims.get(instance) ?? []), claim])
  }
  for (const list of claims.values()) list.sort(strongerClaim)
  return claims
}

const strongerClaim = (a: RecordOf<'claim'>, b: RecordOf<'claim'>): number =>
  b.body.epoch - a.body.epoch || compareClocks(a.clock, b.clock) || compareBytes(a.signer, b.signer)
