// Who is a member, and who may let others in: a view over the ledger that comes out the same on every AP.
import { type Authority, authorityOf } from './authority.js'
import { apId, apKey, compareBytes, equalBytes, hex, sha256, toBase32, utf8 } from './bytes.js'
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
  /** Key of the ticket by which it came in; the founder's is the mesh key. */
  readonly ticket: Uint8Array
  readonly draining: boolean
}

/** A ticket that counts, as far as it is used. */
export interface TicketState {
  readonly grant: RecordOf<'grant'> | undefined
  readonly role: Member['role']
  /** How many more it lets in. */
  readonly uses: number
  /** Milliseconds since 1970; 0: never. */
  readonly expires: number
  readonly isRevoked: boolean
}

export interface Membership {
  /** Members by AP id. */
  readonly members: ReadonlyMap<string, Member>
  /** AP ids that were members once, and why they are no more: `was forgotten`, say. */
  readonly forgotten: ReadonlyMap<string, string>
  /** By hex of the ticket's key. */
  readonly tickets: ReadonlyMap<string, TicketState>
  /** True for the key of the mesh, of every person that is an admin, and of every member that was let in as one. */
  isAdmin(key: Uint8Array): boolean
  /** True for what was signed by who was an admin then, whatever it is now. */
  wasByAdmin(record: SignedRecord): boolean
}

/**
 * Folds tickets, admissions and forgets in the order of their clocks, beginning with the mesh key as the only authority: a
 * ticket counts if its signer was an admin at that moment (an AP by this very fold, a person by its grants), an admission if
 * its ticket had uses left and, for an AP that was forgotten, was granted after that, a forget if an admin (or the AP itself)
 * signed it. Records that come later but are older change the outcome on every AP alike: of those that a ticket let in on two
 * sides of a partition, more than it may, the ones with the lowest (clock, AP key) stay.
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
    .sort((a, b) => compareClocks(a.at, b.at) || compareBytes(lotOf(a.record), lotOf(b.record)))

  // `granted` and `forgotAt` are positions in `events`.
  const tickets = new Map<string, Writable<TicketState> & { granted: number }>()
  tickets.set(hex(meshKey), { grant: undefined, role: 'admin', uses: 1, expires: 0, isRevoked: false, granted: -1 })
  const admins = new Set([hex(meshKey)])
  const terms: { key: string; from: Clock; to: Clock | undefined }[] = [
    { key: hex(meshKey), from: ZERO_CLOCK, to: undefined },
  ]
  const members = new Map<string, Member>()
  const forgotten = new Map<string, string>()
  const forgotAt = new Map<string, number>()
  const drains = drainsOf(ledger, nowMs).filter((record) => !authority.isVoidOfAp(record))
  const isByAdmin = (record: SignedRecord) => admins.has(hex(record.signer)) || authority.wasByAdmin(record)

  for (const [position, { at, record }] of events.entries()) {
    if (record.kind === 'grant') {
      const grant = record as RecordOf<'grant'>
      const { role, uses, expires } = grant.body
      const isRevoked = authority.isVoidAdmission(grant.subject, NOBODY)
      if (uses !== undefined && isByAdmin(grant))
        tickets.set(hex(grant.subject), { grant, role, uses, expires, isRevoked, granted: position })
    } else if (record.kind === 'member') {
      const { body, signer } = record as RecordOf<'member'>
      const ticket = tickets.get(hex(body.admission.ticket))
      if (ticket === undefined || (ticket.expires !== 0 && at[0] > ticket.expires)) continue
      const id = apId(signer)
      if (authority.isVoidAdmission(body.admission.ticket, signer)) {
        forgotten.set(id, TICKET_REVOKED)
        continue
      }
      if (ticket.uses === 0) {
        forgotten.set(id, EXCESS)
        continue
      }
      // Its old ticket is as good as unused where the AP has replaced the record that used it.
      if ((forgotAt.get(id) ?? -1) > ticket.granted) {
        forgotten.set(id, FORGOTTEN)
        continue
      }
      ticket.uses--
      members.set(id, {
        id,
        key: signer,
        name: body.name,
        labels: { ...body.labels, ...ticket.grant?.body.labels },
        role: ticket.role,
        since: at,
        ticket: body.admission.ticket,
        draining: false,
      })
      if (ticket.role === 'admin') {
        admins.add(hex(signer))
        terms.push({ key: hex(signer), from: at, to: undefined })
      }
    } else {
      const id = apId(record.subject)
      if (!isByAdmin(record) && compareBytes(record.signer, record.subject) !== 0) continue
      if (members.delete(id)) forgotten.set(id, FORGOTTEN)
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
  return { members, forgotten, tickets, isAdmin, wasByAdmin }
}

const NOBODY = new Uint8Array()

type Writable<T> = { -readonly [K in keyof T]: T[K] }

const FORGOTTEN = 'was forgotten by an admin'
export const TICKET_REVOKED = 'came in by a ticket that was revoked'
export const EXCESS = 'came in by a ticket that had let in as many as it may before, on another side of a partition'

// An AP cannot choose its key's place among others after it has seen the clock it comes in at, but its record's it can.
const lotOf = (record: SignedRecord): Uint8Array => (record.kind === 'member' ? record.signer : record.hash)

/** The ticket of an open mesh: one whose seed every member has, and that still lets in. */
export const openTicket = ({ tickets }: Membership, nowMs: number): TicketState | undefined =>
  [...tickets.values()].find(
    ({ grant, uses, expires, isRevoked }) =>
      grant?.body.seed !== undefined && uses > 0 && !isRevoked && (expires === 0 || nowMs <= expires),
  )

/** The records by which an AP that was a member can see that it is none any more; none where it never was one. */
export function recordsAgainst(
  ledger: Ledger,
  { members, forgotten, tickets }: Membership,
  ap: string,
): SignedRecord[] {
  if (!forgotten.has(ap)) return []
  const key = apKey(ap)
  const own = ledger.history('member', key)[0]
  if (own === undefined) return ledger.history('forget', key)
  const { ticket } = own.body.admission
  const first = [...members.values()].filter((member) => equalBytes(member.ticket, ticket))
  return [
    ...ledger.history('forget', key),
    ...ledger.history('revocation', ticket),
    ...(tickets.get(hex(ticket))?.grant === undefined ? [] : [tickets.get(hex(ticket))!.grant!]),
    ...(forgotten.get(ap) === EXCESS ? first.flatMap((member) => ledger.history('member', member.key)) : []),
  ]
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
