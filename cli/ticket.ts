// Tickets and approvals, signed with a key of this user. The node is asked where its members are to be found, and never sees
// the secret of a ticket.
import { randomBytes } from 'node:crypto'
import type { Request } from '../node/mesh/asks.js'
import { apKey, hex, unhex } from '../protocols/bytes.js'
import { tick } from '../protocols/clock.js'
import { MeshError } from '../protocols/error.js'
import { personSigner } from '../protocols/keys.js'
import type { Body } from '../protocols/kinds.js'
import { MAX_GRANT } from '../protocols/limits.js'
import { admit, writeTicket } from '../protocols/ticket.js'
import type { Client } from './client.js'
import type { UserSigner } from './keys.js'
import { signAsAdmin } from './sign.js'

export interface Terms {
  readonly role?: 'ap' | 'admin'
  readonly uses?: number
  /** Milliseconds; 0: for ever. */
  readonly ttl?: number
  readonly labels?: Readonly<Record<string, string>>
}

/** Makes a ticket. @param most how many addresses of members it names; @throws MeshError `not-an-admin`, `labels` */
export async function invite(client: Client, signer: UserSigner, terms: Terms = {}, most = 12): Promise<string> {
  const { meshKey, addresses } = await client.get<{ meshKey: string; addresses: string[] }>('/v1/entrances')
  const seed = new Uint8Array(randomBytes(32))
  const { record } = await grantTo(client, signer, seed, terms)
  return writeTicket({ meshKey: unhex(meshKey), seed, grant: record.bytes, addresses: addresses.slice(0, most) })
}

/** Lets in one AP that asked, by a ticket that is used at once and then thrown away: nobody else can ever come in by it. */
export async function approve(
  client: Client,
  signer: UserSigner,
  { ap }: Pick<Request, 'ap'>,
  labels: Terms['labels'],
): Promise<{ id: string; name: string }> {
  const seed = new Uint8Array(randomBytes(32))
  const { record, hash } = await grantTo(client, signer, seed, { labels })
  const { at, ticket, signature } = admit(personSigner(seed), record.mesh, apKey(ap), tick(record.clock, 0))
  return client.post('/v1/approve', { ap, grant: hash, at, ticket: hex(ticket), signature: hex(signature) })
}

async function grantTo(
  client: Client,
  signer: UserSigner,
  seed: Uint8Array,
  { role = 'ap', uses = 1, ttl = 0, labels = {} }: Terms,
) {
  const body: Body<'grant'> = {
    ...{ role, uses, expires: ttl === 0 ? 0 : Date.now() + ttl },
    ...(Object.keys(labels).length > 0 && { labels }),
  }
  const made = await signAsAdmin(client, signer, 'grant', personSigner(seed).publicKey, body)
  if (made.record.bytes.length <= MAX_GRANT) return made
  throw new MeshError('labels', `the labels make the ticket ${made.record.bytes.length - MAX_GRANT} bytes too long`)
}
