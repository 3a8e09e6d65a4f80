// What a person is told at once of what could never count: a record is refused where it is first submitted. Elsewhere it is
// kept, and not believed.
import { type Authority, authorityOf } from './authority.js'
import { equalBytes, hex } from './bytes.js'
import { limitAll } from './ceilings.js'
import { chuteKey, readChuteSubject, readSecretSubject } from './chute.js'
import { type Chute, chutesOf } from './desired.js'
import type { SignedRecord } from './envelope.js'
import { MeshError } from './error.js'
import { isKind, type RecordOf } from './kinds.js'
import type { Ledger } from './ledger.js'
import { MAX_OF_SIGNER, MAX_SECRETS } from './limits.js'
import { membershipOf } from './membership.js'

/** @throws MeshError `not-granted`, `beyond-grant`, `not-an-admin` or `revoked` */
export function authorise(ledger: Ledger, meshKey: Uint8Array, record: SignedRecord, nowMs: number): void {
  const authority = authorityOf(ledger, meshKey, nowMs)
  if (isKind(record, 'deployment')) authoriseDeployment(ledger, authority, meshKey, record, nowMs)
  else if (isKind(record, 'wanted') && !authority.counts(record, nowMs)) throw notGranted(authority, record, nowMs)
  else if (isKind(record, 'secret')) authoriseSecret(ledger, authority, record, nowMs)
  else if (isKind(record, 'removal') && isRevoked(authority, record.signer)) throw notGranted(authority, record, nowMs)
  else if (isKind(record, 'grant')) {
    const isAdmin = membershipOf(ledger, meshKey, nowMs).isAdmin(record.signer)
    if (!authority.wasByAdmin(record) && !(isAdmin && record.body.uses !== undefined)) throw noAdmin(record)
    if (isRevoked(authority, record.subject)) {
      const whom = hex(record.subject)
      throw new MeshError('revoked', `key ${whom} was revoked, and a grant gives it nothing back: take a new key`)
    }
  } else if (isKind(record, 'forget') || isKind(record, 'drain') || (isKind(record, 'voters') && record.body.forced)) {
    if (!membershipOf(ledger, meshKey, nowMs).wasByAdmin(record)) throw noAdmin(record)
  } else if (isKind(record, 'revocation')) {
    if (!authority.wasByAdmin(record)) throw noAdmin(record)
    if (authority.isAbove(record.signer, record.subject)) return
    const whom = hex(record.subject)
    throw new MeshError(
      'not-an-admin',
      `nothing that key ${whom} may came through key ${hex(record.signer)}: see in "dropmesh grants" who can revoke it`,
    )
  }
}

const isRevoked = (authority: Authority, key: Uint8Array): boolean => {
  const standings = authority.of(key)
  return standings.length > 0 && standings.every(({ revocations }) => revocations.length > 0)
}

/** What a publisher is told who may publish nothing by a name, or undefined where something may be. */
export function whyNotPublish(authority: Authority, key: Uint8Array, name: string, nowMs: number): string | undefined {
  const why = authority.whyNotPublish(key, name, nowMs)
  return why === undefined ? undefined : refusal(authority, key, name, why)
}

function refusal(authority: Authority, key: Uint8Array, name: string, why: string): string {
  if (isRevoked(authority, key)) return `key ${hex(key)} was revoked and can sign nothing any more: take a new key`
  const remedy =
    authority.of(key).length === 0
      ? `an admin types: dropmesh grant ${hex(key)} --role publisher`
      : 'an admin can grant it more with "dropmesh grant"'
  return `key ${hex(key)} may not publish ${name}: ${why}; ${remedy}`
}

function notGranted(
  authority: Authority,
  record: RecordOf<'deployment' | 'wanted' | 'removal' | 'secret'>,
  nowMs: number,
): MeshError {
  const { name } = readChuteSubject(isKind(record, 'secret') ? readSecretSubject(record.subject).chute : record.subject)
  const why = authority.whyNotPublish(record.signer, name, nowMs) ?? 'its grants have all ended'
  return new MeshError('not-granted', refusal(authority, record.signer, name, why))
}

const noAdmin = ({ signer, kind }: SignedRecord): MeshError =>
  new MeshError(
    'not-an-admin',
    `key ${hex(signer)} is no admin and can sign no ${kind} record; use the key of one with --key (see "dropmesh grants")`,
  )

function authoriseSecret(ledger: Ledger, authority: Authority, record: RecordOf<'secret'>, nowMs: number): void {
  if (!authority.counts(record, nowMs)) throw notGranted(authority, record, nowMs)
  if (ledger.hasRoomForSecret(record)) return
  throw new MeshError(
    'too-many-secrets',
    `this chute has ${MAX_SECRETS} secrets, removed ones included, or its publisher ${MAX_OF_SIGNER.secret}, and that is all there may be; put several values into one`,
  )
}

function authoriseDeployment(
  ledger: Ledger,
  authority: Authority,
  meshKey: Uint8Array,
  deployment: RecordOf<'deployment'>,
  nowMs: number,
): void {
  const { creation, spec, revision } = deployment.body
  const id = { ...readChuteSubject(deployment.subject), creation }
  const standings = authority.judge(deployment, id.name, spec, nowMs)
  if (typeof standings === 'string') {
    throw new MeshError('not-granted', refusal(authority, deployment.signer, id.name, standings))
  }
  const all = chutesOf(ledger, authority, nowMs).chutes
  const isSame = (chute: Chute) => equalBytes(chute.deployment.subject, deployment.subject)
  const before = all.find(isSame)
  const desired = before !== undefined && equalBytes(before.id.creation, creation) ? before.desired : 'running'
  const chute: Chute = { id, key: chuteKey(id), spec, revision, desired, restarts: 0, deployment, standings }
  const { members } = membershipOf(ledger, meshKey, nowMs)
  const { limit } = limitAll([...all.filter((one) => !isSame(one)), chute], members).at(-1)!
  if (limit === undefined) return
  throw new MeshError(
    'beyond-grant',
    `${id.name} is more than key ${hex(deployment.signer)} may have: ${limit.why}; stop another chute, or ask an admin for more`,
  )
}
