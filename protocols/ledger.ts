// The ledger: a set of records whose merge is commutative, associative, idempotent and independent of any clock.
// Each (kind, subject, signer) is a register that keeps its newest few records; nothing else is ever dropped.
import { compareBytes, hex, sha256, utf8 } from './bytes.js'
import { type Clock, compareClocks, ZERO_CLOCK } from './clock.js'
import { compareRecords, type SignedRecord } from './envelope.js'
import { MeshError } from './error.js'
import { historyOf, isKind, type Kind, type RecordOf } from './kinds.js'
import { MAX_CLOCK_AHEAD, UNKNOWN_HISTORY } from './limits.js'

/** Number of buckets a ledger is compared by: the first byte of a record's hash. */
export const BUCKETS = 256

export interface Merged {
  /** False where the ledger had the record already, or holds enough newer ones of its register. */
  readonly added: boolean
  /** What the record pushed out of its register's history. */
  readonly dropped: readonly SignedRecord[]
}

export class Ledger {
  private readonly registers = new Map<string, SignedRecord[]>()
  private readonly byKind = new Map<string, Set<SignedRecord>>()
  private readonly byHash = new Map<string, SignedRecord>()
  private whole: Uint8Array | undefined
  private readonly sums = Array.from({ length: BUCKETS }, () => new HashSum())

  get size(): number {
    return this.byHash.size
  }

  has(hash: Uint8Array): boolean {
    return this.byHash.has(hex(hash))
  }

  get(hash: Uint8Array): SignedRecord | undefined {
    return this.byHash.get(hex(hash))
  }

  /**
   * Merges one record, which must have passed `open` and `checkKind`. The outcome of merging a set of records does not
   * depend on their order: a register keeps the greatest few of all it ever saw, by (clock, hash).
   */
  merge(record: SignedRecord): Merged {
    if (record.kind === 'beacon') throw new MeshError('malformed', 'a beacon is no ledger record')
    const id = hex(record.hash)
    if (this.byHash.has(id)) return { added: false, dropped: [] }
    const depth = historyOf(record) ?? UNKNOWN_HISTORY
    const key = registerKey(record)
    const register = this.registers.get(key) ?? []
    register.push(record)
    register.sort((a, b) => compareRecords(b, a))
    const dropped = register.splice(depth)
    this.registers.set(key, register)
    if (dropped.includes(record)) return { added: false, dropped: [] }
    this.index(record)
    for (const old of dropped) this.unindex(old)
    return { added: true, dropped }
  }

  private index(record: SignedRecord): void {
    this.byHash.set(hex(record.hash), record)
    const kind = this.byKind.get(record.kind) ?? new Set()
    this.byKind.set(record.kind, kind.add(record))
    this.sums[record.hash[0]!]!.add(record.hash)
    this.whole = undefined
  }

  private unindex(record: SignedRecord): void {
    this.byHash.delete(hex(record.hash))
    this.byKind.get(record.kind)?.delete(record)
    this.sums[record.hash[0]!]!.remove(record.hash)
    this.whole = undefined
  }

  /** All records, in the order of their hashes. */
  records(): SignedRecord[] {
    return [...this.byHash.values()].sort((a, b) => compareBytes(a.hash, b.hash))
  }

  /**
   * The newest effective record of each (subject, signer) of a kind. A record whose clock lies more than the allowed skew
   * ahead of `nowMs` waits for its time, and the one before it stays in force.
   */
  effective<K extends Kind>(kind: K, nowMs: number): RecordOf<K>[] {
    const newest = new Map<string, RecordOf<K>>()
    for (const record of this.inForce(kind, nowMs)) {
      const key = registerKey(record)
      const other = newest.get(key)
      if (other === undefined || compareRecords(record, other) > 0) newest.set(key, record)
    }
    return [...newest.values()]
  }

  /** What `effective` chooses from: the records of a kind whose time has come, with the history of their registers. */
  inForce<K extends Kind>(kind: K, nowMs: number): RecordOf<K>[] {
    return [...(this.byKind.get(kind) ?? [])].filter(
      (record): record is RecordOf<K> => isKind(record, kind) && record.clock[0] <= nowMs + MAX_CLOCK_AHEAD,
    )
  }

  /** The history of a register of any signer, newest first. */
  history<K extends Kind>(kind: K, subject: Uint8Array): RecordOf<K>[] {
    const found: RecordOf<K>[] = []
    for (const record of this.byKind.get(kind) ?? []) {
      if (isKind(record, kind) && compareBytes(record.subject, subject) === 0) found.push(record)
    }
    return found.sort((a, b) => compareRecords(b, a))
  }

  /** The highest effective clock: below it the clock of an AP that holds this ledger never falls. */
  highestClock(nowMs: number): Clock {
    let highest = ZERO_CLOCK
    for (const record of this.byHash.values()) {
      if (record.clock[0] <= nowMs + MAX_CLOCK_AHEAD && compareClocks(record.clock, highest) > 0) highest = record.clock
    }
    return highest
  }

  /** 16 bytes that are equal on two APs exactly when their ledgers are. */
  digest(): Uint8Array {
    this.whole ??= sha256(...this.sums.map((sum) => sum.digest())).slice(0, 16)
    return this.whole
  }

  /** The digest of each bucket, 16 bytes each. */
  bucketDigests(): Uint8Array[] {
    return this.sums.map((sum) => sum.digest())
  }

  /** The hashes in one bucket. */
  bucket(first: number): Uint8Array[] {
    return [...this.byHash.values()].filter((record) => record.hash[0] === first).map((record) => record.hash)
  }
}

function registerKey(record: SignedRecord): string {
  return historyOf(record) === undefined
    ? `?/${hex(record.signer)}`
    : `${record.kind}/${hex(record.subject)}/${hex(record.signer)}`
}

/**
 * An order-independent digest of a set of hashes: their sum modulo 2^256 (little-endian) and their number, hashed. The
 * construction is AdHash (Bellare and Micciancio, 1997), as range-based set reconciliation uses it.
 */
class HashSum {
  private sum = 0n
  private count = 0
  private cached: Uint8Array | undefined

  add(hash: Uint8Array): void {
    this.cached = undefined
    this.sum = BigInt.asUintN(256, this.sum + toInteger(hash))
    this.count++
  }

  remove(hash: Uint8Array): void {
    this.cached = undefined
    this.sum = BigInt.asUintN(256, this.sum - toInteger(hash))
    this.count--
  }

  digest(): Uint8Array {
    if (this.cached !== undefined) return this.cached
    const bytes = new Uint8Array(36)
    const view = new DataView(bytes.buffer)
    for (let i = 0; i < 4; i++) view.setBigUint64(i * 8, BigInt.asUintN(64, this.sum >> BigInt(64 * i)), true)
    view.setUint32(32, this.count, true)
    this.cached = sha256(utf8('dropmesh set 1\0'), bytes).slice(0, 16)
    return this.cached
  }
}

function toInteger(hash: Uint8Array): bigint {
  const view = new DataView(hash.buffer, hash.byteOffset, 32)
  let value = 0n
  for (let i = 3; i >= 0; i--) value = (value << 64n) | view.getBigUint64(i * 8, true)
  return value
}
