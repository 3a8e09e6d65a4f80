// Who votes on the leases of an exclusive chute. The first voters are part of what the chute is; they change only by a
// record that a majority of them signed, or by the force of an admin. A view over the ledger.
import { concat, equalBytes, hex, sha256, utf8 } from './bytes.js'
import type { Exclusive } from './deployment.js'
import type { Chute } from './desired.js'
import { compareRecords } from './envelope.js'
import type { RecordOf } from './kinds.js'
import type { Ledger } from './ledger.js'
import type { Membership } from './membership.js'
import { majority } from './rendezvous.js'

/** The top bit of a creation id's lower part says whether the chute is exclusive. */
const EXCLUSIVE_BIT = 0x80

/**
 * The 10 bytes of a creation id below its time. For an exclusive chute they are a hash of its voters, so that one
 * creation can never have two sets of them; for another one they are random.
 */
export function creationMark(random: Uint8Array, exclusive?: Exclusive): Uint8Array {
  const mark = exclusive === undefined ? random.slice(0, 10) : votersHash(exclusive)
  mark[0] = exclusive === undefined ? mark[0]! & ~EXCLUSIVE_BIT : mark[0]! | EXCLUSIVE_BIT
  return mark
}

const votersHash = ({ voters, salt }: Exclusive): Uint8Array =>
  sha256(utf8('dropmesh voters 1\0'), ...voters, salt).slice(0, 10)

/** True where a creation id fits what the deployment says of voters: no chute becomes exclusive, or stops being so. */
export function isBound(creation: Uint8Array, exclusive: Exclusive | undefined): boolean {
  if (exclusive === undefined) return (creation[6]! & EXCLUSIVE_BIT) === 0
  return equalBytes(creation.subarray(6), creationMark(new Uint8Array(), exclusive))
}

export interface Electorate {
  /** 0 is the creation's own. */
  readonly generation: number
  /** AP keys. */
  readonly voters: readonly Uint8Array[]
}

/** The voters of each exclusive chute, by hex of its key. */
export function electoratesOf(
  ledger: Ledger,
  chutes: readonly Chute[],
  membership: Membership,
  nowMs: number,
): Map<string, Electorate> {
  const changes = new Map<string, RecordOf<'voters'>[]>()
  for (const change of ledger.inForce('voters', nowMs)) {
    const chute = hex(change.subject)
    changes.set(chute, [...(changes.get(chute) ?? []), change])
  }
  const electorates = new Map<string, Electorate>()
  for (const { key, spec, desired } of chutes) {
    if (spec.exclusive === undefined || desired === 'removed') continue
    const chute = hex(key)
    electorates.set(chute, latest(spec.exclusive.voters, changes.get(chute) ?? [], membership))
  }
  return electorates
}

function latest(first: readonly Uint8Array[], changes: RecordOf<'voters'>[], membership: Membership): Electorate {
  const inOrder = changes.sort(compareRecords)
  let current: Electorate = { generation: 0, voters: first }
  for (;;) {
    const generation = current.generation + 1
    const next = inOrder.filter(({ body }) => body.generation === generation)
    const forced = next.findLast(({ body, signer, clock }) => body.forced && membership.wasAdmin(signer, clock))
    const voters = forced?.body.voters ?? elected(current.voters, next)
    if (voters === undefined) return current
    current = { generation, voters }
  }
}

/** What a majority of voters signed, each counted once, by the first that it signed. */
function elected(voters: readonly Uint8Array[], changes: readonly RecordOf<'voters'>[]): Uint8Array[] | undefined {
  const ballots = new Map<string, number>()
  for (const voter of voters) {
    const ballot = changes.find(({ signer, body }) => !body.forced && equalBytes(signer, voter))
    if (ballot === undefined) continue
    const choice = hex(concat(...ballot.body.voters))
    const count = (ballots.get(choice) ?? 0) + 1
    if (count >= majority(voters.length)) return ballot.body.voters
    ballots.set(choice, count)
  }
  return undefined
}
