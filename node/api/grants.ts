// What the local API answers about who may do what, in words as well. Changes nothing.
import { type Standing, whatItMay } from '../../protocols/authority.js'
import { apId, apKey, hex, unhex } from '../../protocols/bytes.js'
import { readChuteSubject } from '../../protocols/chute.js'
import type { SignedRecord } from '../../protocols/envelope.js'
import { MeshError } from '../../protocols/error.js'
import { grantText } from '../../protocols/grant-text.js'
import { isKind } from '../../protocols/kinds.js'
import { proofOf } from '../../protocols/proof.js'
import { secretsSetFor } from '../../protocols/secrets.js'
import type { Ap } from '../ap.js'
import { inspectTicket } from './invites.js'
import { findChute } from './queries.js'

export interface GrantRow {
  /** Hex. */
  key: string
  role: 'admin' | 'publisher'
  state: 'in-force' | 'not-yet' | 'ran-out' | 'revoked'
  /** What the key may by it, in a sentence. */
  may: string
  /** Who granted it, the mesh key first; hex. */
  chain: string[]
  /** What all links of the chain allow together: thousandths of a CPU, bytes. */
  chutes: string[] | null
  labels: Record<string, string>
  cpu: number | null
  memory: number | null
  disk: number | null
  instances: number | null
  rights: string[]
  /** ISO 8601, null for always and never. */
  from: string | null
  until: string | null
  hash: string
}

/** Every grant that a chain leads to. Those that lead nowhere count for nothing. */
export const grants = (ap: Ap): GrantRow[] => ap.outlook.authority.all().map((standing) => rowOf(ap, standing))

export const grantsOf = (ap: Ap, key: Uint8Array): GrantRow[] =>
  ap.outlook.authority
    .of(key)
    .filter(({ chain }) => chain.length > 0)
    .map((standing) => rowOf(ap, standing))

function rowOf(ap: Ap, standing: Standing): GrantRow {
  const { key, role, chain } = standing
  const scope = whatItMay(standing)
  const now = ap.ledgerStore.clock.now()
  const state =
    standing.revocations.length > 0
      ? 'revoked'
      : scope.from > now
        ? 'not-yet'
        : scope.expires !== 0 && scope.expires < now
          ? 'ran-out'
          : 'in-force'
  const isEveryName = scope.chutes === undefined || scope.chutes.includes('*')
  return {
    key: hex(key),
    role,
    state,
    may: state === 'revoked' ? 'nothing any more: it was revoked' : grantText(role, { ...scope, scope }, now),
    chain: chain.map(({ signer }) => hex(signer)),
    chutes: isEveryName ? null : scope.chutes!,
    labels: { ...scope.labels },
    cpu: scope.cpu ?? null,
    memory: scope.memory ?? null,
    disk: scope.disk ?? null,
    instances: scope.instances ?? null,
    rights: [...(scope.rights ?? [])],
    from: scope.from === 0 ? null : iso(scope.from),
    until: scope.expires === 0 ? null : iso(scope.expires),
    hash: hex(chain.at(-1)!.hash),
  }
}

const iso = (ms: number): string => new Date(ms).toISOString()

/** The record of a chute and what shows that it counts, as they were signed, in base64: who reads them need not trust this AP. */
export function proof(ap: Ap, text: string): { records: string[] } {
  const { deployment } = findChute(ap, text)
  const { ledger, clock } = ap.ledgerStore
  const records = proofOf(ledger, ap.outlook.authority, deployment, clock.now())
  return { records: records.map(({ bytes }) => Buffer.from(bytes).toString('base64')) }
}

/** A record of a key that counts now and would no more, and what would be lost with it. */
export interface Stake {
  hash: string
  kind: 'chute' | 'state' | 'secret' | 'grant' | 'ticket' | 'forget' | 'drain' | 'voters' | 'revocation' | 'ap'
  what: string
}

/**
 * What counts now of what a key signed: what a revocation of it can let stay. Of tickets those alone by which a member came
 * in: nobody is to come in by the others.
 */
export function stakesOf(ap: Ap, key: Uint8Array): Stake[] {
  const { ledger, clock } = ap.ledgerStore
  const { authority, membership, chutes } = ap.outlook
  const now = clock.now()
  const isOwn = (record: SignedRecord) => hex(record.signer) === hex(key) && !authority.isVoid(record)
  const stakes: Stake[] = []
  const add = (record: SignedRecord, kind: Stake['kind'], what: string) =>
    stakes.push({ hash: hex(record.hash), kind, what })
  // Also of a publisher whose grant has run out: it is what can make its chutes come back, and stay.
  const published = [...chutes, ...ap.outlook.barred.map(({ chute }) => chute)]
  for (const chute of published) {
    const { deployment, id, revision, desired } = chute
    if (!isOwn(deployment)) continue
    add(deployment, 'chute', `chute ${id.name}, revision ${revision}`)
    const wanted = ledger
      .history('wanted', deployment.subject)
      .find(({ body }) => hex(body.creation) === hex(id.creation) && body.desired === desired)
    for (const { name, record } of secretsSetFor(ledger, chute, membership.members, authority, now))
      if (record !== undefined) add(record, 'secret', `secret ${name} of chute ${id.name}`)
    if (wanted !== undefined) add(wanted, 'state', `that chute ${readChuteSubject(wanted.subject).name} is ${desired}`)
  }
  // Of a ticket it is the APs that it let in, by their keys.
  for (const { id, key: ofAp, name, ticket } of membership.members.values())
    if (hex(ticket) === hex(key)) stakes.push({ hash: hex(ofAp), kind: 'ap', what: `AP ${name} (${id})` })
  const tickets = new Map<string, string>()
  for (const { body, signer } of ledger.effective('member', now)) {
    const id = apId(signer)
    if (membership.members.has(id)) tickets.set(hex(body.admission.ticket), `the ticket of AP ${ap.nameOf(id)}`)
  }
  const granted = new Set(authority.all().map(({ chain }) => hex(chain.at(-1)!.hash)))
  for (const grant of ledger.effective('grant', now).filter(isOwn)) {
    const ticket = tickets.get(hex(grant.subject))
    if (grant.body.uses !== undefined && ticket !== undefined) add(grant, 'ticket', ticket)
    if (granted.has(hex(grant.hash))) add(grant, 'grant', `the grant of ${grant.body.role} ${hex(grant.subject)}`)
  }
  for (const kind of ['forget', 'drain', 'revocation'] as const) {
    for (const record of ledger.effective(kind, now).filter(isOwn)) {
      const of = isKind(record, 'revocation') ? `key ${hex(record.subject)}` : `AP ${ap.nameOf(apId(record.subject))}`
      add(record, kind, `the ${kind} of ${of}`)
    }
  }
  for (const record of ledger.inForce('voters', now).filter(isOwn)) {
    const chute = published.find(({ key }) => hex(key) === hex(record.subject))
    if (chute === undefined || !record.body.forced) continue
    add(record, 'voters', `generation ${record.body.generation} of the voters of chute ${chute.id.name}`)
  }
  return stakes
}

/** Finds the key a person means: all of it, the first digits of one that a grant names, or an AP's id. @throws MeshError `no-such-key`, `ambiguous` */
export function findKey(ap: Ap, text: string): Uint8Array {
  if (/^[0-9a-f]{64}$/i.test(text)) return unhex(text)
  if (ap.outlook.membership.members.has(text)) return apKey(text)
  const tickets = [...ap.outlook.membership.tickets.values()].flatMap(({ grant }) => grant?.subject ?? [])
  const keys = [...ap.outlook.authority.all().map(({ key }) => key), ...tickets]
  const all = new Map(keys.map((key) => [hex(key), key]))
  const found = [...all.keys()].filter((key) => text.length >= 8 && key.startsWith(text.toLowerCase()))
  if (found.length === 0)
    throw new MeshError('no-such-key', `no grant names a key "${text}"; see "dropmesh grants" and "dropmesh invites"`)
  if (found.length > 1) throw new MeshError('ambiguous', `several keys begin with "${text}"; type more of it`)
  return all.get(found[0]!)!
}

/** Everything known about the key of a person, an AP or a ticket. @throws MeshError `no-such-key`, `ambiguous` */
export const inspectKey = (ap: Ap, text: string): object => {
  const key = findKey(ap, text)
  const ticket = inspectTicket(ap, key)
  if (ticket !== undefined) return ticket
  if (ap.outlook.authority.of(key).length === 0) throw new MeshError('no-such-key', `no grant names key ${text}`)
  return {
    kind: 'key',
    key: hex(key),
    grants: grantsOf(ap, key),
    signed: stakesOf(ap, key),
  }
}
