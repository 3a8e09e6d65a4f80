// How an AP that is accused shows that it lives: by a sign of life later than the one a statement names, or, where that names one it never
// gave, by denying the statement. So nobody can take it numbers to answer with. Pure.
import { apId, equalBytes } from './bytes.js'
import { compareRecords } from './envelope.js'
import type { Body, RecordOf } from './kinds.js'
import type { Ledger } from './ledger.js'
import { DENIED_BYTES, MAX_DENIED } from './limits.js'
import type { Membership } from './membership.js'

export interface Sign {
  readonly boot: number
  readonly sequence: number
}

/** True where (boot, sequence) `a` is later than `b`. */
export const isNewer = (a: Sign, b: Sign): boolean => (a.boot !== b.boot ? a.boot > b.boot : a.sequence > b.sequence)

/** What an AP says that refutes a statement: a beacon, or an `alive`. */
type Answer = Pick<Body<'alive'>, 'boot' | 'sequence' | 'denies'>

const markOf = ({ hash }: RecordOf<'statement'>): Uint8Array => hash.subarray(0, DENIED_BYTES)

export const refutes = (answer: Answer, statement: RecordOf<'statement'>): boolean =>
  isNewer(answer, statement.body) || (answer.denies?.some((mark) => equalBytes(mark, markOf(statement))) ?? false)

/**
 * What the next beacon or `alive` of an AP is to deny, if anything: what members say of a sign that it has not given yet.
 * @param next the sign that the answer gives
 */
export function denialsOf(
  ledger: Ledger,
  { members }: Pick<Membership, 'members'>,
  key: Uint8Array,
  next: Sign,
  nowMs: number,
): Pick<Answer, 'denies'> {
  const lies = ledger
    .effectiveOn('statement', key, nowMs)
    .filter(({ signer, body }) => members.has(apId(signer)) && !isNewer(next, body))
    .sort((a, b) => compareRecords(b, a))
  return lies.length === 0 ? {} : { denies: lies.slice(0, MAX_DENIED).map(markOf) }
}
