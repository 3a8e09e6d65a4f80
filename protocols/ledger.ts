// The ledger: a set of records whose merge is commutative, associative, idempotent and independent of any clock.
// Each (kind, subject, signer) is a register that keeps its newest few records. Beside that only a removal makes records go,
// and a signer that has too many of one kind, or uses too many names. What a revocation lists stays: whoever stole a key must not be able
// to push out with it what was let stay.
import { compareBytes, equalBytes, hex, sha256, unhex, utf8 } from './bytes.js'
import { readSecretSubject } from './chute.js'
import { type Clock, compareClocks, ZERO_CLOCK } from './clock.js'
import { compareRecords, type SignedRecord } from './envelope.js'
import { MeshError } from './error.js'
import { historyOf, isKind, type Kind, quotaOf, type RecordOf } from './kinds.js'
import { MAX_CLOCK_AHEAD, MAX_NAMES, MAX_OF_SIGNER, MAX_SECRETS, UNKNOWN_HISTORY } from './limits.js'

/** Number of buckets a ledger is compared by: the first byte of a record's hash. */
export const BUCKETS = 256

export interface Merged {
  /** False where the ledger had the record already, or holds greater ones that leave it no room. */
  readonly added: boolean
  /** What the record left no room for. */
  readonly dropped: readonly SignedRecord[]
}

/** Kinds of a chute's registers that share one subject: publisher and name. That of a secret goes on with its own name. */
const CHUTE_KINDS = ['deployment', 'wanted', 'removal'] as const satisfies Kind[]

export class Ledger {
  /** By kind and subject: the registers of all signers, together newest first. */
  private readonly registers = new Map<string, Map<string, SignedRecord[]>>()
  /** By kind and signer: its registers of that kind, without what revocations list. */
  private readonly shelves = new Map<string, Shelf>()
  private readonly buckets = Array.from({ length: BUCKETS }, () => new Bucket())
  /** By publisher: subjects of its chutes, removed ones included, and how many records of each no revocation lists. */
  private readonly chutes = new Map<string, Map<string, number>>()
  /** Subjects of each chute's secrets. */
  private readonly secrets = new Map<string, Set<string>>()
  /** Hashes that revocations list, by the key they revoke. */
  private readonly listed = new Map<string, Set<string>>()
  private whole: Uint8Array | undefined
  /** By kind: the highest time in any record so far, and a new object whenever a record comes or goes. */
  private readonly latest = new Map<string, number>()
  private readonly stamps = new Map<string, object>()
  private readonly effectives = new WeakMap<object, readonly SignedRecord[]>()

  /** @param maxNames that each publisher may use */
  constructor(private readonly maxNames = MAX_NAMES) {}

  get size(): number {
    return this.buckets.reduce((sum, { records }) => sum + records.size, 0)
  }

  has(hash: Uint8Array): boolean {
    return this.get(hash) !== undefined
  }

  get(hash: Uint8Array): SignedRecord | undefined {
    return this.buckets[hash[0]!]!.records.get(hex(hash))
  }

  /**
   * Merges one record, which must have passed `open` and `checkKind`. The outcome of merging a set of records does not
   * depend on their order, since all that is ever left out is what greater ones of the set leave no room for: a register
   * keeps its greatest few, a removal leaves nothing of what it removes, a publisher has its lowest names, and of these a signer so many
   * records of each kind. (A removal, or a name that goes, makes room for what a bound left out before: whoever has that gives it back.)
   * One thing does: a record that had to go before a revocation came that lists it. Whoever has both gives it back.
   */
  merge(record: SignedRecord): Merged {
    if (record.kind === 'beacon') throw new MeshError('malformed', 'a beacon is no ledger record')
    if (this.has(record.hash) || this.isRemoved(record)) return { added: false, dropped: [] }
    const all = this.sharing(record)
    const place = all.findIndex((other) => compareInRegister(other, record) < 0)
    all.splice(place < 0 ? all.length : place, 0, record)
    const register = all.filter(({ signer }) => equalBytes(signer, record.signer))
    const dropped = register.filter((one) => !this.isListed(one)).slice(historyOf(record) ?? UNKNOWN_HISTORY)
    for (const old of dropped) all.splice(all.indexOf(old), 1)
    if (!dropped.includes(record)) this.index(record)
    for (const old of dropped) if (old !== record) this.unindex(old)
    const isThere = () => !dropped.includes(record)
    if (isThere() && isKind(record, 'removal')) dropped.push(...this.dropRemoved(record))
    if (isThere() && isKind(record, 'revocation')) dropped.push(...this.relist(record.subject))
    // Names first, of which there are no more than the newest deployment of each has room: else it would depend on the order of
    // arrival which of the two bounds a record is beyond, and two ledgers could each refuse what the other keeps.
    if (isThere()) dropped.push(...this.dropNameBeyondCap(record))
    if (isThere()) dropped.push(...this.dropBeyondQuota(record))
    return { added: isThere(), dropped: dropped.filter((one) => one !== record) }
  }

  /** The records that share kind and subject with one, in the order of registers. */
  private sharing(record: SignedRecord): SignedRecord[] {
    const [kind, subject] = whereOf(record)
    const ofKind = getOrMake(this.registers, kind, () => new Map<string, SignedRecord[]>())
    return getOrMake(ofKind, subject, () => [])
  }

  /** True where a removal covers what the record says of a chute. */
  isRemoved(record: SignedRecord): boolean {
    const chute = chuteOf(record)
    if (chute === undefined || record.kind === 'removal' || this.isListed(record)) return false
    const removal = this.history('removal', chute)[0]
    return removal !== undefined && compareBytes(creationOf(record), removal.body.creation) <= 0
  }

  private dropRemoved({ subject }: RecordOf<'removal'>): SignedRecord[] {
    const removed = this.ofChute(subject).filter((record) => this.isRemoved(record))
    for (const record of removed) this.drop(record)
    return removed
  }

  private dropNameBeyondCap(record: SignedRecord): SignedRecord[] {
    const names = this.chutes.get(hex(record.signer))
    if (names === undefined || names.size <= this.maxNames) return []
    let last = ''
    for (const name of names.keys()) if (name > last) last = name
    const dropped = this.ofChute(unhex(last)).filter((one) => !this.isListed(one))
    for (const one of dropped) this.drop(one)
    return dropped
  }

  /** The registers of a chute's secrets, each newest first. */
  private secretsOf(chute: Uint8Array): RecordOf<'secret'>[][] {
    const subjects = this.secrets.get(hex(chute)) ?? new Set()
    return [...subjects].flatMap((subject) => {
      const register = this.history('secret', unhex(subject))
      if (register.length > 0) return [register]
      subjects.delete(subject)
      return []
    })
  }

  private ofChute(subject: Uint8Array): SignedRecord[] {
    return [
      ...CHUTE_KINDS.flatMap((kind): SignedRecord[] => this.history(kind, subject)),
      ...this.secretsOf(subject).flat(),
    ]
  }

  /** What a signer may choose the subjects of it could choose without end. */
  private dropBeyondQuota(record: SignedRecord): SignedRecord[] {
    const quota = historyOf(record) === undefined ? undefined : quotaOf(record.kind)
    const shelf = this.shelfOf(record)
    if (quota === undefined || shelf.count <= quota) return []
    const last = shelf.last()
    return [last, ...this.remove(last)]
  }

  private shelfOf(record: SignedRecord): Shelf {
    return getOrMake(this.shelves, `${whereOf(record)[0]} ${hex(record.signer)}`, () => new Shelf())
  }

  /** Takes out a record, if it is there. @returns what else had to go */
  remove(record: SignedRecord): SignedRecord[] {
    if (!this.has(record.hash)) return []
    this.drop(record)
    return isKind(record, 'revocation') ? this.relist(record.subject) : []
  }

  private isListed({ signer, hash }: SignedRecord): boolean {
    return this.listed.get(hex(signer))?.has(hex(hash)) ?? false
  }

  /**
   * Reads anew what the revocations of a key list. What is listed takes no room of what is not, and what none lists any more must
   * find room as any other record.
   */
  private relist(key: Uint8Array): SignedRecord[] {
    const before = this.listed.get(hex(key)) ?? new Set<string>()
    const now = new Set(this.history('revocation', key).flatMap(({ body }) => hashesIn(body.keep)))
    const find = (hashes: Set<string>, others: Set<string>) =>
      [...hashes].flatMap((hash) => (others.has(hash) ? [] : (this.get(unhex(hash)) ?? [])))
    const [unlisted, listed] = [find(before, now), find(now, before)]
    for (const record of unlisted) this.drop(record)
    for (const record of listed) this.unindex(record)
    this.listed.set(hex(key), now)
    for (const record of listed) this.index(record)
    return unlisted.flatMap((record) => {
      const { added, dropped } = this.merge(record)
      if (added) return dropped
      return [...dropped, record, ...(isKind(record, 'revocation') ? this.relist(record.subject) : [])]
    })
  }

  private drop(record: SignedRecord): void {
    this.unindex(record)
    const all = this.sharing(record)
    all.splice(all.indexOf(record), 1)
    if (all.length > 0) return
    const [kind, subject] = whereOf(record)
    this.registers.get(kind)!.delete(subject)
  }

  private index(record: SignedRecord): void {
    this.buckets[record.hash[0]!]!.add(record)
    if (!this.isListed(record)) this.makeRoom(record)
    this.latest.set(record.kind, Math.max(record.clock[0], this.latest.get(record.kind) ?? 0))
    if (isKind(record, 'secret')) {
      const { chute } = readSecretSubject(record.subject)
      getOrMake(this.secrets, hex(chute), () => new Set<string>()).add(hex(record.subject))
    }
    this.noteChange(record)
  }

  private unindex(record: SignedRecord): void {
    this.buckets[record.hash[0]!]!.remove(record)
    if (!this.isListed(record)) this.freeRoom(record)
    this.noteChange(record)
  }

  private makeRoom(record: SignedRecord): void {
    this.shelfOf(record).add(record)
    const chute = chuteOf(record)
    if (chute === undefined) return
    const names = getOrMake(this.chutes, hex(record.signer), () => new Map<string, number>())
    names.set(hex(chute), (names.get(hex(chute)) ?? 0) + 1)
  }

  private freeRoom(record: SignedRecord): void {
    this.shelfOf(record).remove(record)
    const chute = chuteOf(record)
    if (chute === undefined) return
    const names = this.chutes.get(hex(record.signer))!
    const left = names.get(hex(chute))! - 1
    if (left > 0) names.set(hex(chute), left)
    else names.delete(hex(chute))
  }

  private noteChange({ kind }: SignedRecord): void {
    this.whole = undefined
    this.stamps.delete(kind)
  }

  /**
   * The same object for as long as nothing has changed in what there is of a kind and in what of it is due. While a record
   * of the kind is not due, which is rare, always a new one.
   */
  stamp(kind: Kind, nowMs: number): object {
    if ((this.latest.get(kind) ?? 0) > nowMs + MAX_CLOCK_AHEAD) return {}
    return getOrMake(this.stamps, kind, () => ({}))
  }

  /** False where a chute's record would bring its publisher one name more than it may use. */
  hasRoomForName(record: SignedRecord): boolean {
    const chute = chuteOf(record)
    if (chute === undefined) return true
    const names = this.chutes.get(hex(record.signer))
    return names === undefined || names.size < this.maxNames || names.has(hex(chute))
  }

  /** False where a record would bring its chute, or its publisher, one secret more than it may have. */
  hasRoomForSecret(record: RecordOf<'secret'>): boolean {
    const registers = this.secretsOf(readSecretSubject(record.subject).chute)
    if (registers.some(([one]) => equalBytes(one!.subject, record.subject))) return true
    return registers.length < MAX_SECRETS && this.shelfOf(record).count < MAX_OF_SIGNER.secret
  }

  /** All records, in the order of their hashes. */
  records(): SignedRecord[] {
    return this.buckets.flatMap(({ records }) => [...records.values()].sort((a, b) => compareBytes(a.hash, b.hash)))
  }

  /**
   * The newest effective record of each (subject, signer) of a kind. A record whose clock lies more than the allowed skew
   * ahead of `nowMs` waits for its time, and the one before it stays in force.
   */
  effective<K extends Kind>(kind: K, nowMs: number): readonly RecordOf<K>[] {
    const stamp = this.stamp(kind, nowMs)
    let records = this.effectives.get(stamp) as readonly RecordOf<K>[] | undefined
    if (records === undefined) {
      records = this.ofKind(kind).flatMap((ofSubject) => newestOfEach(ofSubject, nowMs))
      this.effectives.set(stamp, records)
    }
    return records
  }

  /** The same for one subject, newest first. */
  effectiveOn<K extends Kind>(kind: K, subject: Uint8Array, nowMs: number): RecordOf<K>[] {
    return newestOfEach(this.history(kind, subject), nowMs)
  }

  /** What `effective` chooses from: the records of a kind whose time has come. */
  inForce<K extends Kind>(kind: K, nowMs: number): RecordOf<K>[] {
    return this.ofKind(kind).flatMap((records) => records.filter((record) => isDue(record, nowMs)))
  }

  /** All records on one subject, of all signers, newest first. */
  history<K extends Kind>(kind: K, subject: Uint8Array): RecordOf<K>[] {
    return [...(this.registers.get(kind)?.get(hex(subject)) ?? [])] as RecordOf<K>[]
  }

  private ofKind<K extends Kind>(kind: K): RecordOf<K>[][] {
    return [...(this.registers.get(kind)?.values() ?? [])] as RecordOf<K>[][]
  }

  /** The highest effective clock: below it the clock of an AP that holds this ledger never falls. */
  highestClock(nowMs: number): Clock {
    let highest = ZERO_CLOCK
    for (const { records } of this.buckets) {
      for (const record of records.values()) {
        if (isDue(record, nowMs) && compareClocks(record.clock, highest) > 0) highest = record.clock
      }
    }
    return highest
  }

  /** 16 bytes that are equal on two APs exactly when their ledgers are. */
  digest(): Uint8Array {
    this.whole ??= sha256(...this.bucketDigests()).slice(0, 16)
    return this.whole
  }

  /** The digest of each bucket, 16 bytes each. */
  bucketDigests(): Uint8Array[] {
    return this.buckets.map(({ sum }) => sum.digest())
  }

  /** The records whose hash begins with `prefix`, hexadecimal digits. */
  within(prefix: string): SignedRecord[] {
    const first = prefix.slice(0, 2)
    const [from, to] = [first.padEnd(2, '0'), first.padEnd(2, 'f')].map((digits) => Number.parseInt(digits, 16))
    return this.buckets
      .slice(from, to! + 1)
      .flatMap(({ records }) =>
        prefix.length <= 2
          ? [...records.values()]
          : [...records].flatMap(([id, record]) => (id.startsWith(prefix) ? record : [])),
      )
  }

  /** The digest of what `within` returns. */
  digestOf(prefix: string): Uint8Array {
    if (prefix.length === 2) return this.buckets[Number.parseInt(prefix, 16)]!.sum.digest()
    return digestOf(this.within(prefix))
  }
}

/** 16 bytes that are equal for equal sets of records, in whatever order. */
export function digestOf(records: Iterable<SignedRecord>): Uint8Array {
  const sum = new HashSum()
  for (const { hash } of records) sum.add(hash)
  return sum.digest()
}

/** False for a record of the future, which waits for its time. */
export const isDue = (record: SignedRecord, nowMs: number): boolean => record.clock[0] <= nowMs + MAX_CLOCK_AHEAD

/** The first one of each signer that is due; `records` come newest first. */
function newestOfEach<R extends SignedRecord>(records: readonly R[], nowMs: number): R[] {
  const due = records.filter((record) => isDue(record, nowMs))
  if (due.length < 2) return due
  const newest = new Map<string, R>()
  for (const record of due) getOrMake(newest, hex(record.signer), () => record)
  return [...newest.values()]
}

// What a later format says of itself cannot be read here, so it is kept as an unknown kind is: in one register a signer.
const whereOf = (record: SignedRecord): [kind: string, subject: string] =>
  historyOf(record) === undefined ? ['?', hex(record.signer)] : [record.kind, hex(record.subject)]

/**
 * The order of records in a register: the total order. A chute's go by their creation first, so that what a removal
 * leaves out is always behind what it does not.
 */
function compareInRegister(a: SignedRecord, b: SignedRecord): number {
  return compareBytes(creationOf(a), creationOf(b)) || compareRecords(a, b)
}

const hashesIn = (keep: Uint8Array): string[] =>
  Array.from({ length: keep.length / 32 }, (_, i) => hex(keep.subarray(32 * i, 32 * (i + 1))))

/** The subject of the registers of the chute that a record is about. */
function chuteOf(record: SignedRecord): Uint8Array | undefined {
  if (isKind(record, 'secret')) return readSecretSubject(record.subject).chute
  return CHUTE_KINDS.some((kind) => isKind(record, kind)) ? record.subject : undefined
}

const NO_CREATION = new Uint8Array()
const creationOf = (record: SignedRecord): Uint8Array =>
  isKind(record, 'deployment') || isKind(record, 'wanted') || isKind(record, 'removal') || isKind(record, 'secret')
    ? record.body.creation
    : NO_CREATION

function getOrMake<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  const there = map.get(key)
  if (there !== undefined) return there
  const made = make()
  map.set(key, made)
  return made
}

/** The records of one kind by one signer, in registers, each newest first. */
class Shelf {
  private readonly registers = new Map<string, SignedRecord[]>()
  count = 0

  add(record: SignedRecord): void {
    const register = getOrMake(this.registers, hex(record.subject), () => [])
    const place = register.findIndex((other) => compareInRegister(other, record) < 0)
    register.splice(place < 0 ? register.length : place, 0, record)
    this.count++
  }

  remove(record: SignedRecord): void {
    const subject = hex(record.subject)
    const register = this.registers.get(subject)!
    register.splice(register.indexOf(record), 1)
    if (register.length === 0) this.registers.delete(subject)
    this.count--
  }

  /** The one that there is room for last. There must be one. What is beyond a bound by this order stays beyond it whatever is added. */
  last(): SignedRecord {
    return [...this.registers.values()].reduce((a, b) => (hasRoomBefore(a, b) ? b : a)).at(-1)!
  }
}

/**
 * True where the last one of a register has room before that of another: the fewer of its register are newer, and then the newer. Secrets
 * go by their names, as the bound of names does: of two ledgers with room for either otherwise each could refuse what the other keeps.
 */
function hasRoomBefore(one: readonly SignedRecord[], other: readonly SignedRecord[]): boolean {
  if (one.length !== other.length) return one.length < other.length
  const [a, b] = [one.at(-1)!, other.at(-1)!]
  return isKind(a, 'secret') ? compareBytes(a.subject, b.subject) < 0 : compareInRegister(a, b) > 0
}

class Bucket {
  /** By hex of the hash. */
  readonly records = new Map<string, SignedRecord>()
  readonly sum = new HashSum()

  add(record: SignedRecord): void {
    this.records.set(hex(record.hash), record)
    this.sum.add(record.hash)
  }

  remove(record: SignedRecord): void {
    this.records.delete(hex(record.hash))
    this.sum.remove(record.hash)
  }
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
