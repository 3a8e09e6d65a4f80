// What the local API answers about who may come in: tickets, and APs that ask to be let in. Changes nothing.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { apId, equalBytes, hex } from '../../protocols/bytes.js'
import type { RecordOf } from '../../protocols/kinds.js'
import { type Member, openTicket, type TicketState } from '../../protocols/membership.js'
import type { Ap } from '../ap.js'

export interface InviteRow {
  /** The ticket's key, hex: what "dropmesh revoke" takes. */
  ticket: string
  /** Who issued it, hex. */
  by: string
  role: string
  state: 'good' | 'used-up' | 'expired' | 'revoked'
  /** True where every member has it, and lets in whoever asks. */
  open: boolean
  /** How many it lets in all together, and how many more. */
  uses: number
  left: number
  /** ISO 8601; null for never. */
  expires: string | null
  issued: string
  labels: Record<string, string>
  /** Names of the members that came in by it. */
  aps: string[]
}

/** Every ticket that an admin issued, the newest first. */
export function invites(ap: Ap): InviteRow[] {
  const { tickets, members } = ap.outlook.membership
  return [...tickets.values()]
    .flatMap((ticket) => (ticket.grant === undefined ? [] : [rowOf(ticket, ticket.grant, [...members.values()], ap)]))
    .sort((a, b) => (a.issued < b.issued ? 1 : -1))
}

function rowOf(
  { uses, expires, isRevoked }: TicketState,
  { subject, signer, body, clock }: RecordOf<'grant'>,
  members: readonly Member[],
  ap: Ap,
): InviteRow {
  const isOver = expires !== 0 && ap.ledgerStore.clock.now() > expires
  return {
    ticket: hex(subject),
    by: hex(signer),
    role: body.role,
    state: isRevoked ? 'revoked' : uses === 0 ? 'used-up' : isOver ? 'expired' : 'good',
    open: body.seed !== undefined,
    uses: body.uses!,
    left: uses,
    expires: expires === 0 ? null : new Date(expires).toISOString(),
    issued: new Date(clock[0]).toISOString(),
    labels: { ...body.labels },
    aps: members.filter(({ ticket }) => hex(ticket) === hex(subject)).map(({ name }) => name),
  }
}

/** What `inspect` says of a ticket; undefined where the key is of none. */
export function inspectTicket(ap: Ap, key: Uint8Array): object | undefined {
  const row = invites(ap).find(({ ticket }) => ticket === hex(key))
  if (row === undefined) return undefined
  const { ledger, clock } = ap.ledgerStore
  const { members, forgotten } = ap.outlook.membership
  const { aps: _, ...terms } = row
  return {
    kind: 'ticket',
    ...terms,
    may: whatItLetsIn(row),
    // Whoever is no member any more has used it all the same.
    letIn: ledger
      .effective('member', clock.now())
      .filter(({ body: { admission } }) => equalBytes(admission.ticket, key))
      .map(({ signer, body: { name, admission } }) => {
        const id = apId(signer)
        const at = new Date(admission.at[0]).toISOString()
        return { key: hex(signer), id, name, at, member: members.has(id), why: forgotten.get(id) ?? null }
      }),
  }
}

function whatItLetsIn({ state, role, open, left, expires, labels }: InviteRow): string {
  if (state === 'revoked') return 'let in nobody any more: it was revoked'
  if (state === 'used-up') return 'let in nobody any more: it is used up'
  if (state === 'expired') return 'let in nobody any more: it has expired'
  const whom = open ? 'any AP that asks' : left === 1 ? 'one more AP' : `${left} more APs`
  const as = role === 'admin' ? ' as admin' : ''
  const fixed = Object.entries(labels).map(([name, value]) => `${name}=${value}`)
  const labelled = fixed.length === 0 ? '' : `, labelled ${fixed.join(', ')}`
  return `let in ${whom}${as}${labelled}, ${expires === null ? 'for ever' : `until ${expires}`}`
}

/** The tickets that let somebody in, but for that of an open mesh, of which a warning tells. */
export function goodTickets(ap: Ap): { count: number; left: number; until: string | null } {
  const good = invites(ap).filter(({ state, open }) => state === 'good' && !open)
  const ends = good.map(({ expires }) => expires)
  return {
    count: good.length,
    left: good.reduce((sum, { left }) => sum + left, 0),
    until: ends.includes(null) ? null : (ends.sort().at(-1) ?? null),
  }
}

export interface RequestRow {
  ap: string
  name: string
  code: string
  address: string
  labels: Record<string, string>
  /** ISO 8601. */
  since: string
}

/** The APs that asked this one to be let in, and still wait. */
export const requests = (ap: Ap): RequestRow[] =>
  ap.asks.requests().map(({ ap: id, name, code, address, labels, since }) => ({
    ...{ ap: id, name, code, address, labels: { ...labels } },
    since: new Date(since).toISOString(),
  }))

/** How an AP came into the mesh, in a sentence. */
export function howItCame(ap: Ap, id: string): string | null {
  const member = ap.outlook.membership.members.get(id)
  if (member === undefined) return null
  const at = new Date(member.since[0]).toISOString()
  if (equalBytes(member.ticket, ap.meshKey)) return `founded the mesh at ${at}`
  const grant = ap.outlook.membership.tickets.get(hex(member.ticket))?.grant
  const by = grant === undefined ? '' : `, issued by key ${hex(grant.signer)}`
  return `came in at ${at} by ticket ${hex(member.ticket).slice(0, 12)}${by}`
}

/** Where the owner key of the mesh is, as far as this AP knows. */
export const ownerKeyIsHere = (ap: Ap): boolean => existsSync(join(ap.config.data, 'keys', 'mesh.key'))

export function doorWarnings(ap: Ap): string[] {
  const ticket = openTicket(ap.outlook.membership, ap.ledgerStore.clock.now())?.grant
  if (ticket === undefined) return []
  const key = hex(ticket.subject).slice(0, 12)
  return [
    `this mesh is open: any AP that reaches a member is let in, and nobody is asked; close it with "dropmesh revoke ${key}"`,
  ]
}
