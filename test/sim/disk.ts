// The disk of a host: what was synced to it stays, what was not may be lost with the power. On it lie the records, behind
// what the ledger store asks of node/store/store.ts, and small files.
import type { RecordStore } from '../../node/store/ledger-store.js'
import { hex } from '../../protocols/bytes.js'
import type { SignedRecord } from '../../protocols/envelope.js'
import { MeshError } from '../../protocols/error.js'
import type { Random } from './random.js'
import type { Scheduler } from './scheduler.js'

/** Milliseconds a sync takes: on average, and how often and how long flash storage stalls. */
const SYNC = 4
const STALL = 600
const STALLS = 0.005
/** How often a write that failed is on the disk all the same. */
const HALF_FAILED = 0.2

export interface DiskWatcher {
  onStored(record: SignedRecord): void
  onDropped(record: SignedRecord): void
}

interface Sync {
  readonly commit: () => void
  readonly isWriting: boolean
}

export class Disk {
  /** What is synced. */
  readonly records = new Map<string, SignedRecord>()
  private readonly files = new Map<string, unknown>()
  isFull = false
  /** A mutation: tells that it has synced before it has. */
  lies = false
  private readonly underWay = new Set<Sync>()
  private life = 0

  constructor(
    private readonly scheduler: Scheduler,
    private readonly random: Random,
    private readonly watcher: DiskWatcher,
  ) {}

  /** What is on it from the start. */
  provide(records: Iterable<SignedRecord>, files: Readonly<Record<string, unknown>>): void {
    for (const record of records) this.put(record)
    for (const [name, value] of Object.entries(files)) this.files.set(name, value)
  }

  /** What a process that starts now finds. */
  open(): SimStore {
    return new SimStore(this)
  }

  read<T>(name: string): T | undefined {
    return this.files.get(name) as T | undefined
  }

  /** Writes a small file, whole or not at all. */
  write(name: string, value: unknown): Promise<void> {
    return this.sync(() => this.files.set(name, value), true)
  }

  /** The process that wrote is gone; with the power, mostly also what was being synced. Nobody hears of what was under way. */
  crash(losesPower: boolean): void {
    for (const { commit } of this.underWay) {
      if (!this.lies && this.random.chance(losesPower ? 0.3 : 0.9)) commit()
    }
    this.underWay.clear()
    this.life++
  }

  /** All that was on it is lost. */
  destroy(): void {
    this.crash(true)
    for (const record of [...this.records.values()]) this.remove(record)
    this.files.clear()
    this.isFull = false
  }

  /** Makes something last, in one piece. */
  sync(commit: () => void, isWriting: boolean): Promise<void> {
    this.scheduler.touch()
    const { life } = this
    const sync = { commit, isWriting }
    this.underWay.add(sync)
    const takes = 0.5 + this.random.around(SYNC) + (this.random.chance(STALLS) ? STALL : 0)
    const synced = new Promise<void>((done, failed) => {
      this.scheduler.after(takes, () => {
        if (life !== this.life) return
        this.scheduler.touch()
        this.underWay.delete(sync)
        const isTooMuch = this.isFull && isWriting
        if (!isTooMuch || this.random.chance(HALF_FAILED)) commit()
        if (isTooMuch) failed(new MeshError('disk', 'no space left on device'))
        else done()
      })
    })
    if (!this.lies) return synced
    synced.catch(() => {})
    return Promise.resolve()
  }

  put(record: SignedRecord): void {
    const id = hex(record.hash)
    if (this.records.has(id)) return
    this.records.set(id, record)
    this.watcher.onStored(record)
  }

  remove(record: SignedRecord): void {
    if (this.records.delete(hex(record.hash))) this.watcher.onDropped(record)
  }
}

interface Write {
  readonly added: readonly SignedRecord[]
  readonly dropped: readonly SignedRecord[]
  readonly done: () => void
  readonly failed: (error: unknown) => void
}

/** The records on a disk as one process has them open: as node/store/store.ts, without what that does about damage. */
export class SimStore implements RecordStore {
  failure: MeshError | undefined
  onFailure: (failure: MeshError) => void = () => {}
  clock: number
  private queue: Write[] = []
  private flushing: Promise<void> | undefined

  constructor(private readonly disk: Disk) {
    this.clock = disk.read('clock') ?? 0
  }

  takeRecords(): SignedRecord[] {
    return [...this.disk.records.values()]
  }

  async writeRecords(added: readonly SignedRecord[], dropped: readonly SignedRecord[], nowMs: number): Promise<void> {
    if (this.failure !== undefined) throw this.failure
    this.clock = nowMs
    await this.write(added, dropped)
  }

  async settled(): Promise<void> {
    if (this.failure !== undefined) throw this.failure
    if (this.flushing !== undefined) await this.write([], [])
  }

  async recover(wanted: () => readonly SignedRecord[]): Promise<void> {
    try {
      await this.flushing
      await this.disk.write('probe', true)
    } catch (error) {
      this.failure = error as MeshError
      throw error
    }
    const missing = new Map(wanted().map((record) => [hex(record.hash), record]))
    const extra = this.takeRecords().filter(({ hash }) => !missing.delete(hex(hash)))
    this.failure = undefined
    await this.write([...missing.values()], extra)
  }

  private write(added: readonly SignedRecord[], dropped: readonly SignedRecord[]): Promise<void> {
    return new Promise((done, failed) => {
      this.queue.push({ added, dropped, done, failed })
      this.flushing ??= this.flush()
    })
  }

  // Writes that come during a sync share the next one.
  private async flush(): Promise<void> {
    const { disk } = this
    while (this.queue.length > 0) {
      const waiting = this.queue.splice(0)
      const added = waiting.flatMap((write) => write.added)
      const dropped = waiting.flatMap((write) => write.dropped)
      const { clock } = this
      const commit = () => {
        for (const record of added) disk.put(record)
        for (const record of dropped) disk.remove(record)
        disk.provide([], { clock })
      }
      try {
        await disk.sync(commit, added.length + dropped.length > 0)
        for (const { done } of waiting) done()
      } catch (error) {
        if (this.failure === undefined) {
          this.failure = error as MeshError
          this.onFailure(this.failure)
        }
        for (const { failed } of [...waiting, ...this.queue.splice(0)]) failed(error)
      }
    }
    this.flushing = undefined
  }
}
