// A ticket: one line of text that lets an AP into a mesh. It is a secret until it is used.
import { z } from 'zod'
import { equalBytes, fromBase32, toBase32 } from './bytes.js'
import { type Clock, tick } from './clock.js'
import { byteString, decode, encode } from './codec.js'
import { open, type SignedRecord, seal } from './envelope.js'
import { MeshError } from './error.js'
import { personSigner, type Signer } from './keys.js'
import { admissionBytes, type Body, checkKind, isKind } from './kinds.js'
import { MAX_GRANT, MAX_RECORD } from './limits.js'
import { meshIdOf } from './membership.js'

const PREFIX = 'dropmesh1'

export interface Ticket {
  /** Public half of the mesh key; the mesh id follows from it. */
  readonly meshKey: Uint8Array
  /** Seed of the ticket's own key, which admits. */
  readonly seed: Uint8Array
  /** The grant record for the ticket's key. */
  readonly grant: Uint8Array
  /** Addresses of members, as multiaddrs that end in `/p2p/…`. */
  readonly addresses: readonly string[]
}

const schema = z.tuple([byteString(32), byteString(32), byteString(1, MAX_GRANT), z.array(z.string().max(256)).max(16)])

export function writeTicket(ticket: Ticket): string {
  return PREFIX + toBase32(encode([ticket.meshKey, ticket.seed, ticket.grant, ticket.addresses]))
}

/** @throws MeshError `ticket` when the text is no ticket, or was cut short. */
export function readTicket(text: string): Ticket {
  const trimmed = text.trim().toLowerCase()
  const fail = (why: string) =>
    new MeshError('ticket', `this is not a ticket (${why}); copy the whole line that "dropmesh invite" printed`)
  if (!trimmed.startsWith(PREFIX)) throw fail(`it does not begin with ${PREFIX}`)
  if (trimmed.length > 2 * MAX_RECORD) throw fail('it is too long')
  let parsed: z.infer<typeof schema>
  try {
    parsed = schema.parse(decode(fromBase32(trimmed.slice(PREFIX.length))))
  } catch {
    throw fail('it is damaged')
  }
  const [meshKey, seed, grant, addresses] = parsed
  let record: SignedRecord
  try {
    record = open(grant, meshIdOf(meshKey))
    checkKind(record)
  } catch {
    throw fail('it is damaged')
  }
  if (!isKind(record, 'grant')) throw fail('it holds no grant')
  if (!equalBytes(personSigner(seed).publicKey, record.subject)) throw fail('it is damaged')
  return { meshKey, seed, grant, addresses }
}

export type Admission = Body<'member'>['admission']
type About = Pick<Body<'member'>, 'name' | 'labels'>

/** What lets one AP in, and nobody else: signed with a ticket's key, or, for the founder, the mesh key. */
export function admit(admitter: Signer, mesh: Uint8Array, ap: Uint8Array, at: Clock): Admission {
  return { ticket: admitter.publicKey, at, signature: admitter.sign(admissionBytes(mesh, ap, at)) }
}

/** Signs the member record of an AP, admitted by a ticket (or, for the founder, by the mesh key itself). */
export const signMember = (ap: Signer, admitter: Signer, mesh: Uint8Array, clock: Clock, about: About): SignedRecord =>
  asMember(ap, admit(admitter, mesh, ap.publicKey, clock), mesh, clock, about)

const asMember = (ap: Signer, admission: Admission, mesh: Uint8Array, clock: Clock, about: About): SignedRecord =>
  seal(ap, mesh, clock, 'member', ap.publicKey, { ...about, admission } satisfies Body<'member'>)

/** What a joiner hands to the first member it reaches: the grant of its ticket, and its own member record. */
export interface Papers {
  readonly grant: SignedRecord
  readonly member: SignedRecord
}

export function redeem(ticket: Ticket, ap: Signer, nowMs: number, about: About): Papers {
  const mesh = meshIdOf(ticket.meshKey)
  const grant = open(ticket.grant, mesh)
  // Later than the grant, so that the order of clocks is the order of causes even on a box that believes it is 1970.
  const member = signMember(ap, personSigner(ticket.seed), mesh, tick(grant.clock, nowMs), about)
  return { grant, member }
}

/**
 * The papers of an AP that was let in because it asked, and never had the ticket itself.
 * @throws MeshError where what it was given does not let it into that mesh
 */
export function takePapers(
  { grant: bytes, admission }: Approval,
  meshKey: Uint8Array,
  ap: Signer,
  nowMs: number,
  about: About,
): Papers {
  const mesh = meshIdOf(meshKey)
  const grant = open(bytes, mesh)
  checkKind(grant)
  if (!isKind(grant, 'grant') || !equalBytes(grant.subject, admission.ticket))
    throw new MeshError('malformed', 'an approval without the grant of its ticket')
  const member = asMember(ap, admission, mesh, tick(admission.at, nowMs), about)
  checkKind(member)
  return { grant, member }
}

/** What an AP gets that asked to be let in: the grant of a ticket, and what is signed with that for this AP alone. */
export interface Approval {
  readonly grant: Uint8Array
  readonly admission: Admission
}
