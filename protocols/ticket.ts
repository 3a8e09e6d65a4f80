// A ticket: one line of text that lets an AP into a mesh. It is a secret until it is used.
import { z } from 'zod'
import { equalBytes, fromBase32, toBase32 } from './bytes.js'
import { type Clock, tick } from './clock.js'
import { byteString, decode, encode } from './codec.js'
import { open, type SignedRecord, seal } from './envelope.js'
import { MeshError } from './error.js'
import { personSigner, type Signer } from './keys.js'
import { admissionBytes, type Body, checkKind, isKind } from './kinds.js'
import { MAX_RECORD } from './limits.js'
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

const schema = z.tuple([byteString(32), byteString(32), byteString(1, 1024), z.array(z.string().max(256)).max(16)])

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

/** Signs the member record of an AP, admitted by a ticket (or, for the founder, by the mesh key itself). */
export function signMember(
  ap: Signer,
  admitter: Signer,
  mesh: Uint8Array,
  clock: Clock,
  about: Pick<Body<'member'>, 'name' | 'labels'>,
): SignedRecord {
  const signature = admitter.sign(admissionBytes(mesh, ap.publicKey, clock))
  const admission = { ticket: admitter.publicKey, at: clock, signature }
  return seal(ap, mesh, clock, 'member', ap.publicKey, { ...about, admission } satisfies Body<'member'>)
}

/** What a joiner hands to the first member it reaches: the grant of its ticket, and its own member record. */
export function redeem(
  ticket: Ticket,
  ap: Signer,
  nowMs: number,
  about: Pick<Body<'member'>, 'name' | 'labels'>,
): { grant: SignedRecord; member: SignedRecord } {
  const mesh = meshIdOf(ticket.meshKey)
  const grant = open(ticket.grant, mesh)
  // Later than the grant, so that the order of clocks is the order of causes even on a box that believes it is 1970.
  const member = signMember(ap, personSigner(ticket.seed), mesh, tick(grant.clock, nowMs), about)
  return { grant, member }
}
