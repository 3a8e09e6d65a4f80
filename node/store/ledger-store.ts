// The ledger of one AP: the pure ledger, its copy on disk, and the gate through which every record comes, whoever sent it.
import { setImmediate as breathe } from 'node:timers/promises'
import { open, type SignedRecord, seal } from '../../protocols/envelope.js'
import { MeshError } from '../../protocols/error.js'
import type { Signer } from '../../protocols/keys.js'
import { type Body, checkKind, type Kind } from '../../protocols/kinds.js'
import { Ledger } from '../../protocols/ledger.js'
import { MAX_CLOCK_AHEAD, MAX_NAMES } from '../../protocols/limits.js'
import type { NodeClock } from '../clock.js'
import type { Store } from './store.js'

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

export class LedgerStore {
  readonly ledger = new Ledger()
  /** Records that were damaged on disk when it was opened. */
  readonly damaged: number
  private readonly listeners = new Set<(added: readonly SignedRecord[]) => void>()
  /** What is in the ledger while the disk would not take it; the next write brings it along. */
  private unsaved: { added: SignedRecord[]; dropped: SignedRecord[] } = { added: [], dropped: [] }

  private constructor(
    private readonly store: Store,
    readonly mesh: Uint8Array,
    readonly clock: NodeClock,
    loaded: { records: SignedRecord[]; damaged: number },
  ) {
    for (const record of loaded.records) {
      this.ledger.merge(record)
    }
    this.damaged = loaded.damaged
    const highest = this.ledger.highestClock(clock.now())
    clock.raise(highest[0])
    clock.observe(highest)
  }

  static async load(store: Store, mesh: Uint8Array, clock: NodeClock): Promise<LedgerStore> {
    clock.raise((await store.getJson<number>('clock')) ?? 0)
    return new LedgerStore(store, mesh, clock, await store.loadRecords())
  }

  /** Calls back after records were added and synced. */
  onAdded(listener: (added: readonly SignedRecord[]) => void): void {
    this.listeners.add(listener)
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
      if (i % CHECKED_AT_ONCE === CHECKED_AT_ONCE - 1) await breathe()
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
   * @throws MeshError `clock-ahead`, `too-many-names`, or `outdated` where the ledger holds newer ones of its register
   */
  async submit(bytes: Uint8Array): Promise<SignedRecord> {
    const record = this.check(bytes)
    const ahead = record.clock[0] - this.clock.now()
    if (ahead > MAX_CLOCK_AHEAD) {
      throw new MeshError(
        'clock-ahead',
        `the clock of the ${record.kind} record is ${Math.round(ahead / 1000)} s ahead of this AP's; set the clock of the machine that signed it`,
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
    } else if (!(await this.acceptOne(record))) {
      throw new MeshError('outdated', `the ledger holds newer ${record.kind} records of the same signer; sign it again`)
    }
    return record
  }

  /** Resolves once all that is in the ledger now is synced to disk. */
  async saved(): Promise<void> {
    await this.store.settled()
    if (this.unsaved.added.length > 0) await this.save([], [])
  }

  /** Signs a record with the next clock and takes it in. */
  async sign<K extends Kind>(signer: Signer, kind: K, subject: Uint8Array, body: Body<K>): Promise<SignedRecord> {
    const record = seal(signer, this.mesh, this.clock.next(), kind, subject, body)
    checkKind(record)
    await this.acceptOne(record)
    return record
  }

  private async add(records: readonly SignedRecord[]): Promise<SignedRecord[]> {
    const added: SignedRecord[] = []
    const dropped: SignedRecord[] = []
    for (const record of records) {
      if (record.kind === 'beacon') continue
      const merged = this.ledger.merge(record)
      if (!merged.added) continue
      added.push(record)
      dropped.push(...merged.dropped)
      if (record.clock[0] <= this.clock.now() + MAX_CLOCK_AHEAD) this.clock.observe(record.clock)
    }
    if (added.length === 0) return []
    await this.save(added, dropped)
    for (const listener of this.listeners) listener(added)
    return added
  }

  // The ledger has the records before the disk does. Where the disk fails they are known from then on, and nobody would
  // send them again.
  private async save(added: SignedRecord[], dropped: SignedRecord[]): Promise<void> {
    const all = { added: [...this.unsaved.added, ...added], dropped: [...this.unsaved.dropped, ...dropped] }
    this.unsaved = { added: [], dropped: [] }
    try {
      await this.store.writeRecords(all.added, all.dropped, this.clock.now())
    } catch (error) {
      this.unsaved = {
        added: [...all.added, ...this.unsaved.added],
        dropped: [...all.dropped, ...this.unsaved.dropped],
      }
      throw error
    }
  }
}
