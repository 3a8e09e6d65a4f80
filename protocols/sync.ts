// Set reconciliation: what one AP answers when another describes what it holds. Two that go on answering each other end up
// with equal ledgers, at a cost that follows their difference. Knows no stream; README.md says how the frames travel.
import { equalBytes, hex } from './bytes.js'
import type { SignedRecord } from './envelope.js'
import { digestOf, type Ledger } from './ledger.js'

/**
 * A part of the space of hashes, those that begin with `prefix` (hexadecimal digits), as one side holds it: either the
 * digests of its equal parts, 16 or 256 of them, or the hashes of all records in it.
 */
export type Range =
  | { readonly prefix: string; readonly digests: readonly Uint8Array[] }
  | { readonly prefix: string; readonly hashes: readonly Uint8Array[] }

export interface Answer {
  /** Parts in which the two differ, as this side holds them. */
  readonly ranges: Range[]
  /** Hashes of records that this side lacks. */
  readonly want: Uint8Array[]
  /** Records that the other side lacks. */
  readonly give: SignedRecord[]
}

/**
 * A range with so few records is described by their hashes, with more by digests. 16 digests of 16 bytes weigh as much as 8
 * hashes, and dividing costs a turn: so this is where an answer is about as long either way, and one turn is saved.
 */
const LISTED = 32

const EMPTY = digestOf([])

/** What an exchange begins with: all of a ledger, in 256 parts. */
export const wholeRange = (ledger: Ledger): Range => ({ prefix: '', digests: ledger.bucketDigests() })

/**
 * Compares a range of the other side with what this one holds there. Neither needs to remember what it sent, and both may
 * take in records meanwhile.
 */
export function compareRange(ledger: Ledger, theirs: Range): Answer {
  const answer: Answer = { ranges: [], want: [], give: [] }
  if ('hashes' in theirs) compareHashes(ledger, theirs.prefix, theirs.hashes, answer)
  else {
    const parts = partsOf(theirs.prefix, theirs.digests.length)
    for (const [i, prefix] of parts.entries()) comparePart(ledger, prefix, theirs.digests[i]!, answer)
  }
  return answer
}

function comparePart(ledger: Ledger, prefix: string, theirs: Uint8Array, answer: Answer): void {
  if (equalBytes(ledger.digestOf(prefix), theirs)) return
  const ours = ledger.within(prefix)
  if (equalBytes(theirs, EMPTY)) answer.give.push(...ours)
  else answer.ranges.push(describe(prefix, ours))
}

function compareHashes(ledger: Ledger, prefix: string, theirs: readonly Uint8Array[], answer: Answer): void {
  const named = new Set(theirs.map(hex))
  answer.want.push(...theirs.filter((hash) => !ledger.has(hash)))
  answer.give.push(...ledger.within(prefix).filter(({ hash }) => !named.has(hex(hash))))
}

function describe(prefix: string, records: readonly SignedRecord[]): Range {
  if (records.length <= LISTED) return { prefix, hashes: records.map(({ hash }) => hash) }
  const parts = partsOf(prefix, 16).map((part) => records.filter(({ hash }) => hex(hash).startsWith(part)))
  return { prefix, digests: parts.map(digestOf) }
}

/** The prefixes of the 16 or 256 equal parts of a range. */
const partsOf = (prefix: string, count: number): string[] =>
  Array.from({ length: count }, (_, i) => prefix + i.toString(16).padStart(count === 256 ? 2 : 1, '0'))
