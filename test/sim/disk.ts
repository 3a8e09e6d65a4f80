// The disk of a host: what was synced to it stays, what was not may be lost with the power. Takes the place of
// node/store/store.ts below the ledger store.
import { hex } from '../../protocols/bytes.js'
import type { SignedRecord } from '../../protocols/envelope.js'
import type { Random } from './random.js'
import type { Scheduler } from './scheduler.js'

/** Milliseconds a sync takes: on average, and how often and how long flash storage stalls. */
const SYNC = 4
const STALL = 600
const STALLS = 0.005

interface Write {
  readonly added: readonly SignedRecord[]
  readonly dropped: readonly SignedRecord[]
  readonly meta: readonly (readonly [string, unknown])[]
  readonly done: () => void
  readonly failed: (error: Error) => void
}

export interface DiskWatcher {
  onStored(record: SignedRecord): void
  onDropped(record: SignedRecord): void
}

export class Disk {
  /** What is synced. */
  readonly records = new Map<string, SignedRecord>()
  private readonly meta = new Map<string, unknown>()
  isFull = false
  /** A mutation: tells that it has synced before it has. */
  lies = false
  private queue: Write[] = []
  private flushing: Write[] = []
  private life = 0

  constructor(
    private readonly scheduler: Scheduler,
    private readonly random: Random,
    private readonly watcher: DiskWatcher,
  ) {}

  /** What is on it from the start. */
  provide(records: Iterable<SignedRecord>, meta: Readonly<Record<string, unknown>>): void {
    for (const record of records) this.put(record)
    for (const [name, value] of Object.entries(meta)) this.meta.set(name, value)
  }

  async loadRecords(): Promise<{ records: SignedRecord[]; damaged: number }> {
    return { records: [...this.records.values()], damaged: 0 }
  }

  writeRecords(added: readonly SignedRecord[], dropped: readonly SignedRecord[], nowMs: number): Promise<void> {
    return this.write(added, dropped, [['clock', nowMs]])
  }

  settled(): Promise<void> {
    return this.write([], [], [])
  }

  async nextBoot(): Promise<number> {
    const boot = ((await this.getJson<number>('boot')) ?? 0) + 1
    await this.putJson('boot', boot)
    return boot
  }

  async getJson<T>(name: string): Promise<T | undefined> {
    return this.meta.get(name) as T | undefined
  }

  putJson(name: string, value: unknown): Promise<void> {
    return this.write([], [], [[name, value]])
  }

  /** The process that wrote is gone; with the power, mostly also what was being synced. Nobody hears of what was under way. */
  crash(losesPower: boolean): void {
    if (!this.lies && this.random.chance(losesPower ? 0.3 : 0.9)) this.commit(this.flushing)
    this.flushing = []
    this.queue = []
    this.life++
  }

  /** All that was on it is lost. */
  destroy(): void {
    this.crash(true)
    for (const record of [...this.records.values()]) this.remove(record)
    this.meta.clear()
    this.isFull = false
  }

  private write(
    added: readonly SignedRecord[],
    dropped: readonly SignedRecord[],
    meta: readonly (readonly [string, unknown])[],
  ): Promise<void> {
    this.scheduler.touch()
    return new Promise((done, failed) => {
      this.queue.push({ added, dropped, meta, done, failed })
      if (this.lies) done()
      if (this.flushing.length === 0) this.flush()
    })
  }

  // Writes that come during a sync share the next one.
  private flush(): void {
    this.flushing = this.queue
    this.queue = []
    const { life } = this
    const takes = 0.5 + this.random.around(SYNC) + (this.random.chance(STALLS) ? STALL : 0)
    this.scheduler.after(takes, () => {
      if (life !== this.life) return
      this.scheduler.touch()
      const written = this.flushing
      this.flushing = []
      const isTooMuch = this.isFull && written.some(({ added, meta }) => added.length + meta.length > 0)
      if (!isTooMuch) this.commit(written)
      for (const { done, failed } of written) isTooMuch ? failed(new Error('no space left on device')) : done()
      if (this.queue.length > 0) this.flush()
    })
  }

  private commit(writes: readonly Write[]): void {
    for (const { added, dropped, meta } of writes) {
      for (const record of added) this.put(record)
      for (const record of dropped) this.remove(record)
      for (const [name, value] of meta) this.meta.set(name, value)
    }
  }

  private put(record: SignedRecord): void {
    const id = hex(record.hash)
    if (this.records.has(id)) return
    this.records.set(id, record)
    this.watcher.onStored(record)
  }

  private remove(record: SignedRecord): void {
    if (this.records.delete(hex(record.hash))) this.watcher.onDropped(record)
  }
}
