// The ledger of one AP: the pure ledger, its copy on disk, and the intake through which every record comes, whoever sent it.
import { hex } from '../../protocols/bytes.js'
import { open, type SignedRecord, seal } from '../../protocols/envelope.js'
import { MeshError } from '../../protocols/error.js'
import type { Signer } from '../../protocols/keys.js'
import { type Body, checkKind, type Kind } from '../../protocols/kinds.js'
import { Intake, inOrder } from '../../protocols/known.js'
import { Ledger } from '../../protocols/ledger.js'
import { MAX_CLOCK_AHEAD, MAX_NAMES } from '../../protocols/limits.js'
import { type NodeClock, SYSTEM_TIME, type Time } from '../clock.js'
import { isOfDisk, type Store } from './store.js'

/** How long to wait before a disk that failed is tried again, in milliseconds: a few kilobytes are written each time. */
const RETRY = 2000

/** Records checked in one go: a few milliseconds on a small box, after which pulses and requests get their turn. */
const CHECKED_AT_ONCE = 32

export interface Accepted {
  /** What was new, now synced to disk. */
  readonly added: SignedRecord[]
  /** Beacons among them: checked, but not for the ledger. */
  readonly beacons: SignedRecord[]
  /** Why the others were refused. */
  readonly refused: MeshError[]
}

/** What a ledger store asks of the store below it, which in the simulator stands on no disk. */
export type RecordStore = Pick<
  Store,
  'clock' | 'failure' | 'onFailure' | 'takeRecords' | 'writeRecords' | 'settled' | 'recover'
>

export class LedgerStore {
  readonly ledger = new Ledger()
  /** Through which everything comes into it. */
  intake!: Intake
  private readonly listeners = new Set<(added: readonly SignedRecord[]) => void>()
  /** What came into the ledger while the disk would not take it. Nobody was told of it yet. */
  private unsaved: SignedRecord[] = []
  /** Called when writing has become impossible, with the reason, and when it is possible again. */
  onDisk: (failure: MeshError | undefined) => void = () => {}
  private cancelRetry = () => {}

  private constructor(
    private readonly store: RecordStore,
    readonly mesh: Uint8Array,
    readonly clock: NodeClock,
    private readonly time: Time,
  ) {
    store.onFailure = (failure) => {
      this.onDisk(failure)
      this.retryLater()
    }
  }

  static async load(
    store: RecordStore,
    mesh: Uint8Array,
    clock: NodeClock,
    time: Time = SYSTEM_TIME,
  ): Promise<LedgerStore> {
    clock.raise(store.clock)
    const it = new LedgerStore(store, mesh, clock, time)
    const records = store.takeRecords()
    for (const record of inOrder(records)) it.ledger.merge(record)
    it.intake = new Intake(it.ledger, mesh)
    it.intake.evict()
    // The time is not taken from records, or who signs some five minutes ahead would push it on with each restart.
    clock.observe(it.ledger.highestClock(clock.now()))
    // What damage has brought back although it was dropped.
    const outdated = records.filter(({ hash }) => !it.ledger.has(hash))
    if (outdated.length > 0) await store.writeRecords([], outdated, clock.now())
    return it
  }

  /** Why nothing that comes in gets to the disk, or undefined where it does. */
  get failure(): MeshError | undefined {
    return this.store.failure
  }

  /** Calls back after records were added and synced. */
  onAdded(listener: (added: readonly SignedRecord[]) => void): void {
    this.listeners.add(listener)
  }

  /** Ends the attempts to write what the disk did not take. The store is its owner's to close. */
  stop(): void {
    this.cancelRetry()
    this.store.onFailure = () => {}
  }

  /** Opens and checks an envelope as from a stranger. @throws MeshError with the reason */
  check(bytes: Uint8Array): SignedRecord {
    const record = open(bytes, this.mesh)
    checkKind(record)
    return record
  }

  /** Takes in records that came from peers. Never throws for what a record says; rejects when the disk fails. */
  async accept(envelopes: readonly Uint8Array[]): Promise<Accepted> {
    const refused: MeshError[] = []
    const records: SignedRecord[] = []
    for (const [i, bytes] of envelopes.entries()) {
      if (i % CHECKED_AT_ONCE === CHECKED_AT_ONCE - 1) await this.time.breathe()
      try {
        records.push(this.check(bytes))
      } catch (error) {
        if (!(error instanceof MeshError)) throw error
        refused.push(error)
      }
    }
    const beacons = records.filter(({ kind }) => kind === 'beacon')
    return { added: await this.add(records), beacons, refused }
  }

  /** Takes in one checked record. Returns false where it is known or outdated. */
  async acceptOne(record: SignedRecord): Promise<boolean> {
    return (await this.add([record])).length > 0
  }

  /**
   * Takes in a record at its first submission, where alone the receiver's clock has a say.
   * @param authorise throws where its signer may not
   * @throws MeshError `clock-ahead`, `unknown-key`, `too-many-names`, `outdated` where the ledger holds newer ones of its register, or `disk`
   */
  async submit(bytes: Uint8Array, authorise: (record: SignedRecord) => void = () => {}): Promise<SignedRecord> {
    const record = this.check(bytes)
    if (this.failure !== undefined) throw this.failure
    const ahead = record.clock[0] - this.clock.now()
    if (ahead > MAX_CLOCK_AHEAD) {
      throw new MeshError(
        'clock-ahead',
        `the clock of the ${record.kind} record is ${Math.round(ahead / 1000)} s ahead of this AP's; set the clock of the machine that signed it`,
      )
    }
    authorise(record)
    if (!this.intake.takes(record)) {
      throw new MeshError(
        'unknown-key',
        `key ${hex(record.signer)} is none that may sign a ${record.kind} record in this mesh; an admin can grant it more`,
      )
    }
    if (!this.ledger.hasRoomForName(record)) {
      throw new MeshError(
        'too-many-names',
        `this publisher uses ${MAX_NAMES} names of chutes, removed ones included, and that is all there may be; publish under another key`,
      )
    }
    if (this.ledger.has(record.hash)) {
      await this.saved() // the first submission may still be on its way to the disk
    } else if (!(await this.acceptOne(record).catch(notOnDisk))) {
      throw new MeshError('outdated', `the ledger holds newer ${record.kind} records of the same signer; sign it again`)
    }
    return record
  }

  /** Resolves once all that is in the ledger now is synced to disk. @throws MeshError `disk` */
  saved(): Promise<void> {
    return this.store.settled()
  }

  /** Signs a record with the next clock and takes it in. */
  async sign<K extends Kind>(signer: Signer, kind: K, subject: Uint8Array, body: Body<K>): Promise<SignedRecord> {
    const record = seal(signer, this.mesh, this.clock.next(), kind, subject, body)
    checkKind(record)
    await this.acceptOne(record)
    return record
  }

  private async add(records: readonly SignedRecord[]): Promise<SignedRecord[]> {
    const { added, dropped } = this.intake.admit(records)
    if (added.length + dropped.length === 0) return []
    for (const { clock } of added) if (clock[0] <= this.clock.now() + MAX_CLOCK_AHEAD) this.clock.observe(clock)
    try {
      await this.store.writeRecords(added, dropped, this.clock.now())
    } catch (error) {
      // The ledger has the records before the disk does: they are known from now on, and nobody would send them again.
      this.unsaved.push(...added)
      throw error
    }
    this.tell(added)
    return added
  }

  private tell(added: readonly SignedRecord[]): void {
    for (const listener of this.listeners) listener(added)
  }

  private retryLater(): void {
    this.cancelRetry()
    this.cancelRetry = this.time.after(RETRY, () => void this.retry())
  }

  private async retry(): Promise<void> {
    try {
      await this.store.recover(() => this.ledger.records())
    } catch {
      return this.retryLater()
    }
    this.onDisk(undefined)
    this.tell(this.unsaved.splice(0).filter(({ hash }) => this.ledger.has(hash)))
  }
}

function notOnDisk(error: Error): never {
  if (!isOfDisk(error)) throw error
  throw new MeshError('disk', `${error.message}; the record is only in memory, and is written as soon as that works`)
}
