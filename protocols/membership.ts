// Who is a member, and who may let others in: a view over the ledger that comes out the same on every AP.
import { type Authority, authorityOf } from './authority.js'
import { apId, compareBytes, hex, sha256, toBase32, utf8 } from './bytes.js'
import { type Clock, compareClocks, ZERO_CLOCK } from './clock.js'
import type { SignedRecord } from './envelope.js'
import type { Body, RecordOf } from './kinds.js'
import type { Ledger } from './ledger.js'
import { remembered } from './view.js'

/** The 20 bytes that stand for a mesh in every record. */
export const meshIdOf = (meshKey: Uint8Array): Uint8Array => sha256(utf8('dropmesh mesh 1\0'), meshKey).slice(0, 20)

/** The mesh id people see: 32 characters, fit for a DNS label. */
export const meshText = (mesh: Uint8Array): string => toBase32(mesh)

export interface Member {
  /** AP id as libp2p prints it. */
  readonly id: string
  readonly key: Uint8Array
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly role: Body<'grant'>['role']
  readonly since: Clock
  readonly draining: boolean
}

export interface Membership {
  /** Members by AP id. */
  readonly members: ReadonlyMap<string, Member>
  /** AP ids that were members once. */
  readonly forgotten: ReadonlySet<string>
  /** True for the key of the mesh, of every person that is an admin, and of every member that was let in as one. */
  isAdmin(key: Uint8Array): boolean
  /** True for what was signed by who was an admin then, whatever it is now. */
  wasByAdmin(record: SignedRecord): boolean
}

/**
 * Folds tickets, admissions and forgets in the order of their clocks, beginning with the mesh key as the only authority: a
 * ticket counts if its signer was an admin at that moment (an AP by this very fold, a person by its grants), an admission if
 * its ticket had uses left and, for an AP that was forgotten, was granted after that, a forget if an admin (or the AP itself)
 * signed it. Records that come later but are older change the outcome on every AP alike.
 */
export function membershipOf(ledger: Ledger, meshKey: Uint8Array, nowMs: number): Membership {
  const authority = authorityOf(ledger, meshKey, nowMs)
  const kinds = ['member', 'forget', 'drain'] as const
  const inputs = [authority, authority.era(nowMs), ...kinds.map((kind) => ledger.stamp(kind, nowMs))]
  return remembered(ledger, 'membership', inputs, () => fold(ledger, authority, meshKey, nowMs))
}

function fold(ledger: Ledger, authority: Authority, meshKey: Uint8Array, nowMs: number): Membership {
  const events = [
    ...ticketsOf(ledger, authority, nowMs).map((record) => ({ at: record.clock, record: record as SignedRecord })),
    ...ledger
      .effective('member', nowMs)
      .map((record) => ({ at: record.body.admission.at, record: record as SignedRecord })),
    ...ledger.effective('forget', nowMs).map((record) => ({ at: record.clock, record: record as SignedRecord })),
  ]
    .filter(({ record }) => !authority.isVoidOfAp(record))
    .sort((a, b) => compareClocks(a.at, b.at) || compareBytes(a.record.hash, b.record.hash))

  // `granted` and `forgotAt` are positions in `events`.
  const tickets = new Map<string, { role: Member['role']; uses: number; expires: number; granted: number }>()
  tickets.set(hex(meshKey), { role: 'admin', uses: 1, expires: 0, granted: -1 })
  const admins = new Set([hex(meshKey)])
  const terms: { key: string; from: Clock; to: Clock | undefined }[] = [
    { key: hex(meshKey), from: ZERO_CLOCK, to: undefined },
  ]
  const members = new Map<string, Member>()
  const forgotten = new Set<string>()
  const forgotAt = new Map<string, number>()
  const drains = drainsOf(ledger, nowMs).filter((record) => !authority.isVoidOfAp(record))
  const isByAdmin = (record: SignedRecord) => admins.has(hex(record.signer)) || authority.wasByAdmin(record)

  for (const [position, { at, record }] of events.entries()) {
    if (record.kind === 'grant') {
      const grant = record as RecordOf<'grant'>
      const { role, uses, expires } = grant.body
      if (uses !== undefined && isByAdmin(grant))
        tickets.set(hex(grant.subject), { role, uses, expires, granted: position })
    } else if (record.kind === 'member') {
      const { body, signer } = record as RecordOf<'member'>
      const ticket = tickets.get(hex(body.admission.ticket))
      if (ticket === undefined || ticket.uses === 0 || (ticket.expires !== 0 && at[0] > ticket.expires)) continue
      const id = apId(signer)
      // Its old ticket is as good as unused where the AP has replaced the record that used it.
      if ((forgotAt.get(id) ?? -1) > ticket.granted) {
        forgotten.add(id)
        continue
      }
      ticket.uses--
      members.set(id, {
        id,
        key: signer,
        name: body.name,
        labels: body.labels,
        role: ticket.role,
        since: at,
        draining: false,
      })
      if (ticket.role === 'admin') {
        admins.add(hex(signer))
        terms.push({ key: hex(signer), from: at, to: undefined })
      }
    } else {
      const id = apId(record.subject)
      if (!isByAdmin(record) && compareBytes(record.signer, record.subject) !== 0) continue
      if (members.delete(id)) forgotten.add(id)
      forgotAt.set(id, position)
      if (compareBytes(record.subject, meshKey) === 0) continue
      admins.delete(hex(record.subject))
      for (const term of terms) if (term.key === hex(record.subject)) term.to ??= at
    }
  }
  for (const [id, member] of members) {
    const drain = drains
      .filter((d) => compareBytes(d.subject, member.key) === 0)
      .find((d) => compareBytes(d.signer, member.key) === 0 || isByAdmin(d))
    if (drain?.body.draining) members.set(id, { ...member, draining: true })
  }
  const wasTerm = ({ signer, clock }: SignedRecord) =>
    terms.some(
      (term) =>
        term.key === hex(signer) &&
        compareClocks(term.from, clock) <= 0 &&
        (term.to === undefined || compareClocks(clock, term.to) < 0),
    )
  const wasByAdmin = (record: SignedRecord) =>
    authority.wasByAdmin(record) || (wasTerm(record) && !authority.isVoidOfAp(record))
  const isAdmin = (key: Uint8Array) => admins.has(hex(key)) || authority.isAdmin(key, nowMs)
  return { members, forgotten, isAdmin, wasByAdmin }
}

/** The newest ticket of each (subject, signer), of those that are not void by a revocation of who signed it. */
function ticketsOf(ledger: Ledger, authority: Authority, nowMs: number): RecordOf<'grant'>[] {
  const newest = new Map<string, RecordOf<'grant'>>()
  for (const record of ledger.inForce('grant', nowMs)) {
    const register = hex(record.subject) + hex(record.signer)
    const isOfPerson = authority.of(record.signer).length > 0
    if (record.body.uses === undefined || newest.has(register)) continue
    if (!isOfPerson || authority.wasByAdmin(record)) newest.set(register, record)
  }
  return [...newest.values()]
}

/** Drain records, newest first. */
const drainsOf = (ledger: Ledger, nowMs: number): RecordOf<'drain'>[] =>
  [...ledger.effective('drain', nowMs)].sort((a, b) => compareClocks(b.clock, a.clock) || compareBytes(b.hash, a.hash))
