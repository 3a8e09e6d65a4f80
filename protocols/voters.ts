// Who votes on the leases of an exclusive chute. The first voters are part of what the chute is; they change only by a
// record that a majority of them signed, or by the force of an admin. A view over the ledger.
import { apId, concat, equalBytes, hex, sha256, utf8 } from './bytes.js'
import type { Exclusive } from './deployment.js'
import type { Chute } from './desired.js'
import { compareRecords } from './envelope.js'
import type { RecordOf } from './kinds.js'
import type { Ledger } from './ledger.js'
import type { Membership } from './membership.js'
import { majority, score } from './rendezvous.js'
import { remembered } from './view.js'

/** The top bit of a creation id's mark says whether the chute is exclusive. */
const EXCLUSIVE_BIT = 0x80
const MARK = 8

/**
 * The last 8 bytes of a creation id. For an exclusive chute they are a hash of its voters, so that one creation can never
 * have two sets of them; for another one they are `random`.
 */
export function creationMark(random: Uint8Array, exclusive?: Exclusive): Uint8Array {
  const mark = exclusive === undefined ? random.slice(0, MARK) : votersHash(exclusive)
  mark[0] = exclusive === undefined ? mark[0]! & ~EXCLUSIVE_BIT : mark[0]! | EXCLUSIVE_BIT
  return mark
}

const votersHash = ({ voters, salt }: Exclusive): Uint8Array =>
  sha256(utf8('dropmesh voters 1\0'), ...voters, salt).slice(0, MARK)

/** True where a creation id fits what the deployment says of voters: no chute becomes exclusive, or stops being so. */
export function isBound(creation: Uint8Array, exclusive: Exclusive | undefined): boolean {
  const mark = creation.subarray(-MARK)
  if (exclusive === undefined) return (mark[0]! & EXCLUSIVE_BIT) === 0
  return equalBytes(mark, creationMark(new Uint8Array(), exclusive))
}

export interface Electorate {
  /** 0 is the creation's own. */
  readonly generation: number
  /** AP keys. */
  readonly voters: readonly Uint8Array[]
  /** What has been signed for the generation after this one, and not by enough of them yet. */
  readonly ballots: readonly RecordOf<'voters'>[]
}

/** The voters of each exclusive chute, by hex of its key. */
export function electoratesOf(
  ledger: Ledger,
  chutes: readonly Chute[],
  membership: Membership,
  nowMs: number,
): ReadonlyMap<string, Electorate> {
  const inputs = [chutes, membership, ledger.stamp('voters', nowMs)]
  return remembered(ledger, 'electorates', inputs, () => readElectorates(ledger, chutes, membership, nowMs))
}

function readElectorates(
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
  for (const { key, spec } of chutes) {
    if (spec.exclusive === undefined) continue
    const chute = hex(key)
    electorates.set(chute, latest(spec.exclusive.voters, changes.get(chute) ?? [], membership))
  }
  return electorates
}

function latest(first: readonly Uint8Array[], changes: RecordOf<'voters'>[], membership: Membership): Electorate {
  const inOrder = changes.sort(compareRecords)
  let generation = 0
  let voters = first
  for (;;) {
    const next = inOrder.filter(({ body }) => body.generation === generation + 1)
    const forced = next.findLast((change) => change.body.forced && membership.wasByAdmin(change))
    const ballots = next.filter(({ signer, body }) => !body.forced && isAmong(voters, signer))
    const nextVoters = forced?.body.voters ?? elected(voters, ballots)
    if (nextVoters === undefined) return { generation, voters, ballots }
    generation++
    voters = nextVoters
  }
}

const isAmong = (keys: readonly Uint8Array[], key: Uint8Array): boolean => keys.some((one) => equalBytes(one, key))

/**
 * What a majority of voters signed. One that signed for two choices counts for both: if only its first counted, it could take back
 * what was settled by signing another with an earlier clock.
 */
function elected(
  voters: readonly Uint8Array[],
  ballots: readonly RecordOf<'voters'>[],
): readonly Uint8Array[] | undefined {
  const signers = new Map<string, Set<string>>()
  for (const { signer, body } of ballots) {
    const choice = hex(concat(...body.voters))
    const signed = signers.get(choice) ?? new Set()
    signers.set(choice, signed.add(hex(signer)))
    if (signed.size >= majority(voters.length)) return body.voters
  }
  return undefined
}

/**
 * What a voter should sign now, if anything: others in place of voters that are members no more, and three once there can
 * be three again. The first voter that is still a member picks who is alive, the others sign what it picked; two that
 * picked could come to one vote each, and nobody votes twice.
 * @param self AP key
 */
export function ballotOf(
  chute: Uint8Array,
  { voters, ballots }: Electorate,
  { members, forgotten }: Membership,
  self: Uint8Array,
  isAlive: (ap: string) => boolean,
): readonly Uint8Array[] | undefined {
  const isMember = (key: Uint8Array) => members.has(apId(key))
  // One that was forgotten since it was picked is for the next generation to replace: else who signed first and who did not
  // could never agree again.
  const wasMember = (key: Uint8Array) => isMember(key) || forgotten.has(apId(key))
  const stay = voters.filter(isMember)
  if (!isAmong(stay, self)) return undefined
  const size = Math.max(3, voters.length)
  if (stay.length === size) return undefined
  const picked = ballots.find(({ body }) => {
    const keepsAll = stay.every((key) => isAmong(body.voters, key))
    // Nobody who means well picks the same ones: who signs for them, again and again, spends the generations that there are.
    const isChange = body.voters.length !== voters.length || !body.voters.every((key) => isAmong(voters, key))
    return isChange && keepsAll && body.voters.every(wasMember) && body.voters.length >= Math.min(3, size)
  })
  if (picked !== undefined) return picked.body.voters
  if (!equalBytes(stay[0]!, self)) return undefined
  const others = [...members.values()]
    .filter(({ key }) => !isAmong(voters, key) && isAlive(apId(key)))
    .map(({ key }) => ({ key, score: score('voters 1', chute, key, 1) }))
    .sort((a, b) => b.score - a.score)
  const all = [...stay, ...others.map(({ key }) => key)]
  // Two of five that are gone and one to replace them: three are safer than four, of which three must agree.
  return all.length >= size ? all.slice(0, size) : all.length >= 3 && stay.length <= 3 ? all.slice(0, 3) : undefined
}
