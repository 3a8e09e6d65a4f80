// Joining: a newcomer hands its ticket's grant and its own member record to any member, which lets it in or says why not.
import type { Connection, Stream } from '@libp2p/interface'
import { apId } from '../../protocols/bytes.js'
import type { SignedRecord } from '../../protocols/envelope.js'
import { MeshError, messageOf } from '../../protocols/error.js'
import { isKind } from '../../protocols/kinds.js'
import { Ledger } from '../../protocols/ledger.js'
import { MAX_CLOCK_AHEAD, MAX_JOIN_FRAME } from '../../protocols/limits.js'
import { EXCESS, type Membership, membershipOf, TICKET_REVOKED } from '../../protocols/membership.js'
import type { Papers } from '../../protocols/ticket.js'
import { joinReply, joinRequest, type protocolIds } from '../../protocols/wire.js'
import { printable } from '../events.js'
import type { LedgerStore } from '../store/ledger-store.js'
import { exchange, Frames } from './frames.js'
import { type Host, openStream } from './host.js'

const DEADLINE = 5000

/** Lets newcomers in. `onJoined` is called after both records are on disk. */
export async function admitNewcomers(
  host: Host,
  ids: ReturnType<typeof protocolIds>,
  store: LedgerStore,
  meshKey: Uint8Array,
  isMember: () => boolean,
  onJoined: (records: readonly SignedRecord[]) => void,
): Promise<void> {
  await host.handle(
    ids.join,
    async (stream: Stream, connection: Connection) => {
      await exchange(stream, async () => {
        const frames = new Frames(stream, MAX_JOIN_FRAME, DEADLINE)
        const [, grant, member] = await frames.read(joinRequest)
        try {
          if (!isMember()) throw new MeshError('not-a-member', 'this AP is not a member itself yet')
          onJoined(await admit(store, meshKey, grant, member, connection.remotePeer.toString()))
          await frames.write(['welcome', store.clock.now()])
        } catch (error) {
          await frames.write(['refused', messageOf(error).slice(0, 500)])
        }
      })
    },
    { maxInboundStreams: 1 },
  )
}

/**
 * Takes in what a newcomer presents, if it lets the AP `remote` in. Resolves with what was new, once it is on disk.
 * @throws MeshError with the reason to give to the newcomer
 */
export async function admit(
  store: LedgerStore,
  meshKey: Uint8Array,
  grant: Uint8Array,
  member: Uint8Array,
  remote: string,
): Promise<readonly SignedRecord[]> {
  const { members } = membershipOf(store.ledger, meshKey, store.clock.now())
  // One that lost its ledger. The ticket that let it in may have expired since.
  if (members.has(remote)) return []
  const admission = checkAdmission(store, grant, member, remote)
  const trial = trialOf(store.ledger, store.clock.now()) // a stranger's records reach the ledger only if they let it in
  for (const record of [admission.grant, admission.member]) trial.merge(record)
  const membership = membershipOf(trial, meshKey, store.clock.now())
  if (!membership.members.has(remote)) throw new MeshError('not-admitted', whyNot(membership, remote))
  // Whoever finds a used ticket could claim to have used it first.
  if ([...members.keys()].some((ap) => !membership.members.has(ap))) {
    throw new MeshError('not-admitted', 'the ticket is used up; get a new one')
  }
  // Both in one go: who comes at the same moment by the same ticket must find it used.
  await store.accept([grant, member])
  return [admission.grant, admission.member]
}

// As much of the ledger as membership depends on: a stranger must not make this AP copy all of it again and again.
function trialOf(ledger: Ledger, nowMs: number): Ledger {
  const trial = new Ledger()
  for (const kind of ['revocation', 'grant', 'member', 'forget'] as const)
    for (const record of ledger.inForce(kind, nowMs)) trial.merge(record)
  return trial
}

/** @throws MeshError with the reason to give to the newcomer */
function checkAdmission(store: LedgerStore, grantBytes: Uint8Array, memberBytes: Uint8Array, remote: string): Papers {
  const grant = store.check(grantBytes)
  const member = store.check(memberBytes)
  if (!isKind(grant, 'grant') || !isKind(member, 'member'))
    throw new MeshError('malformed', 'not a grant and a member record')
  if (apId(member.signer) !== remote) throw new MeshError('not-admitted', 'the member record is of another AP')
  const now = store.clock.now()
  if (member.clock[0] > now + MAX_CLOCK_AHEAD) {
    throw new MeshError('clock-ahead', 'the clock of the newcomer is more than five minutes ahead; set it')
  }
  if (grant.body.expires !== 0 && now > grant.body.expires)
    throw new MeshError('ticket-expired', 'the ticket has expired')
  if (Buffer.compare(grant.subject, member.body.admission.ticket) !== 0) {
    throw new MeshError('not-admitted', 'the ticket of the member record is not the one that was granted')
  }
  return { grant, member }
}

function whyNot({ forgotten }: Membership, id: string): string {
  const why = forgotten.get(id)
  if (why === EXCESS) return 'the ticket is used up; get a new one'
  if (why === TICKET_REVOKED) return 'the ticket was revoked'
  return why === undefined
    ? 'the ticket has expired, or is not signed by an admin of this mesh'
    : `this AP ${why}; it needs a new ticket`
}

/**
 * Asks a member to be let in.
 * @returns the member's time in milliseconds since 1970
 * @throws MeshError `join-refused` with the member's reason
 */
export async function askToJoin(
  host: Host,
  ids: ReturnType<typeof protocolIds>,
  ap: string,
  papers: Papers,
): Promise<number> {
  const stream = await openStream(host, ap, ids.join, AbortSignal.timeout(DEADLINE))
  const reply = await exchange(stream, async () => {
    const frames = new Frames(stream, MAX_JOIN_FRAME, DEADLINE)
    await frames.write(['join', papers.grant.bytes, papers.member.bytes])
    return frames.read(joinReply)
  })
  if (reply[0] === 'refused') throw new MeshError('join-refused', printable(reply[1]))
  return reply[1]
}
