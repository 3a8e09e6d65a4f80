// What shows that a deployment counts, without a ledger: it, the grants of the chains that lead to its publisher, and the
// revocations of any key in these. Nobody can know from such a file what is not in it.
import { type Authority, authorityOf, type Standing } from './authority.js'
import { equalBytes, hex } from './bytes.js'
import { limitAll } from './ceilings.js'
import { chutesOf } from './desired.js'
import type { SignedRecord } from './envelope.js'
import { Ledger } from './ledger.js'
import { meshIdOf } from './membership.js'

/** Everything about a deployment that another one can judge it by. */
export function proofOf(ledger: Ledger, authority: Authority, deployment: SignedRecord, nowMs: number): SignedRecord[] {
  const grants = new Set<SignedRecord>(authority.of(deployment.signer).flatMap(({ chain }) => chain))
  const keys = new Set([hex(deployment.signer), ...[...grants].map(({ subject }) => hex(subject))])
  const revocations = ledger.inForce('revocation', nowMs).filter(({ subject }) => keys.has(hex(subject)))
  return [deployment, ...grants, ...revocations]
}

/** What a proof shows: the standing of its publisher by which a deployment may be there, or why it may by none. */
export interface Judgement {
  readonly standing: Standing | undefined
  readonly why: string | undefined
}

/**
 * Judges a deployment at a moment by nothing but these records, whose signatures were verified. How many APs there are no
 * proof says, so of a chute on every AP no copy is counted.
 */
export function judgeProof(records: readonly SignedRecord[], mesh: Uint8Array, nowMs: number): Judgement {
  const meshKey = records.map(({ signer }) => signer).find((signer) => equalBytes(meshIdOf(signer), mesh))
  if (meshKey === undefined) {
    return { standing: undefined, why: 'it has no grant that the key of the mesh signed, and a chain begins with one' }
  }
  const ledger = new Ledger()
  for (const record of records) ledger.merge(record)
  const { chutes, barred } = chutesOf(ledger, authorityOf(ledger, meshKey, nowMs), nowMs)
  const [chute] = chutes
  if (chute === undefined) return { standing: undefined, why: barred[0]?.why ?? 'its time has not come' }
  const alone = chute.standings!.map((standing) => {
    const [limited] = limitAll([{ ...chute, standings: [standing] }], new Map())
    return { standing, why: limited!.limit?.why }
  })
  return alone.find(({ why }) => why === undefined) ?? alone[0]!
}
