// The mesh an AP belongs to, in a file of its own (DIR/mesh): without it the ledger on disk could not be opened.
import { join } from 'node:path'
import { z } from 'zod'
import { hex } from '../protocols/bytes.js'
import { MeshError } from '../protocols/error.js'
import { personSigner, type Signer } from '../protocols/keys.js'
import { type Papers, readTicket, redeem } from '../protocols/ticket.js'
import type { NodeClock } from './clock.js'
import type { Config } from './config.js'
import { loadOrMakeSeed } from './identity.js'
import { parseOrNothing, SmallFile } from './store/files.js'

const envelope = z.string().regex(/^([0-9a-f]{2})+$/)

/** What must be known of a mesh before a ledger can be opened. */
const belonging = z.object({
  /** Hex of the public half of the mesh key. */
  meshKey: z.string().regex(/^[0-9a-f]{64}$/),
  /** Hex of the envelopes with which an AP asks to be let in. The one that founded the mesh has none. */
  admission: z.object({ grant: envelope, member: envelope }).optional(),
  /** Where members were to be found when it got these: multiaddrs that end in `/p2p/…`. */
  addresses: z.array(z.string()).optional(),
})
export type Belonging = z.infer<typeof belonging>

/** A mesh that lets this AP in. */
export interface Welcome {
  readonly meshKey: Uint8Array
  readonly papers: Papers
  readonly addresses: readonly string[]
}

/** The mesh an AP belongs to, or undefined where it never had one. @throws MeshError `data-damaged` */
export async function loadBelonging(data: string): Promise<Belonging | undefined> {
  const file = belongingFile(data)
  const text = await file.read()
  if (text === undefined) return undefined
  const { data: known } = belonging.safeParse(parseOrNothing(text))
  if (known === undefined) {
    throw new MeshError('data-damaged', `${file.path} names no mesh; restore it from a backup`)
  }
  return known
}

async function saveBelonging(data: string, belonging: Belonging): Promise<Belonging> {
  await belongingFile(data).write(`${JSON.stringify(belonging)}\n`)
  return belonging
}

const belongingFile = (data: string): SmallFile => new SmallFile(join(data, 'mesh'))

/**
 * Which mesh this AP is in, or comes to be in: the one on disk, the one of the ticket, one that is there already, or one that it
 * founds now.
 * @param ask looks for a mesh that is there, and returns once that has let this AP in, or where there is none
 */
export async function belong(
  keys: string,
  signer: Signer,
  clock: NodeClock,
  config: Config,
  ask: () => Promise<Welcome | undefined> = async () => undefined,
): Promise<Belonging> {
  const known = await loadBelonging(config.data)
  if (config.join !== undefined) {
    const ticket = readTicket(config.join)
    if (known !== undefined && known.meshKey !== hex(ticket.meshKey)) {
      throw new MeshError('other-mesh', `${config.data} belongs to another mesh than the ticket; choose another --data`)
    }
    if (known?.admission === undefined || !isSameTicket(known.admission, ticket)) {
      const papers = redeem(ticket, signer, clock.now(), aboutSelf(config))
      return enter(config.data, { meshKey: ticket.meshKey, papers, addresses: ticket.addresses })
    }
  }
  if (known !== undefined) return known
  const welcome = await ask()
  if (welcome !== undefined) return enter(config.data, welcome)
  const owner = personSigner(await loadOrMakeSeed(keys, 'mesh'))
  return saveBelonging(config.data, { meshKey: hex(owner.publicKey) })
}

function enter(data: string, { meshKey, papers: { grant, member }, addresses }: Welcome): Promise<Belonging> {
  const admission = { grant: hex(grant.bytes), member: hex(member.bytes) }
  return saveBelonging(data, { meshKey: hex(meshKey), admission, addresses: [...addresses] })
}

/** By AP id; addresses of nobody are left out. */
export function addressesByAp(addresses: readonly string[]): Record<string, string[]> {
  const peers: Record<string, string[]> = {}
  for (const address of addresses) {
    const ap = /\/p2p\/([^/]+)$/.exec(address)?.[1]
    if (ap !== undefined) peers[ap] = [...(peers[ap] ?? []), address]
  }
  return peers
}

/** What an AP says of itself in its member record. */
export const aboutSelf = ({ name, label }: Config) => ({ name, labels: label })

const isSameTicket = (admission: { grant: string }, ticket: { grant: Uint8Array }): boolean =>
  admission.grant === hex(ticket.grant)
