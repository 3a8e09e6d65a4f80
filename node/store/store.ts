// What an AP keeps on disk, in LevelDB: records, its boot counter, the mesh it belongs to, addresses of peers, events.
import { mkdir } from 'node:fs/promises'
import { Level } from 'level'
import { hex, unhex } from '../../protocols/bytes.js'
import { readBack, type SignedRecord } from '../../protocols/envelope.js'
import { MeshError, messageOf } from '../../protocols/error.js'

/** Raised whenever what lies on disk changes its meaning. An unknown newer one is refused. */
const SCHEMA = 1

/** Events kept; at a few a minute this is weeks. */
const MAX_EVENTS = 10_000

type Batch = { type: 'put'; key: string; value: Uint8Array } | { type: 'del'; key: string }

export interface Loaded {
  readonly records: SignedRecord[]
  /** Keys whose value is no record any more. */
  readonly damaged: number
}

export class Store {
  private queue: { ops: Batch[]; done: () => void; failed: (error: unknown) => void }[] = []
  private flushing = false
  private nextEvent = 0
  private readonly eventsUnderWay = new Set<Promise<void>>()

  private constructor(private readonly db: Level<string, Uint8Array>) {}

  /** @throws MeshError `data-in-use` where another process has it open, `data-newer` for a later schema, `data-damaged` */
  static async open(dir: string): Promise<Store> {
    await mkdir(dir, { recursive: true, mode: 0o700 })
    const db = new Level<string, Uint8Array>(dir, { keyEncoding: 'utf8', valueEncoding: 'view' })
    try {
      await db.open()
    } catch (cause) {
      const code = (cause as { cause?: { code?: string } }).cause?.code
      if (code === 'LEVEL_LOCKED') throw new MeshError('data-in-use', `${dir} is in use by another process`, { cause })
      throw new MeshError('data-damaged', `cannot open ${dir}: ${messageOf((cause as Error).cause ?? cause)}`, {
        cause,
      })
    }
    const store = new Store(db)
    try {
      await store.begin(dir)
    } catch (error) {
      await db.close()
      throw error
    }
    return store
  }

  private async begin(dir: string): Promise<void> {
    const schema = await this.getJson<number>('schema')
    if (schema === undefined) await this.putJson('schema', SCHEMA)
    else if (schema > SCHEMA) {
      throw new MeshError(
        'data-newer',
        `${dir} was written by a newer dropmesh (schema ${schema}, this one knows ${SCHEMA}); install that version`,
      )
    }
    const [last] = await this.db.keys({ gte: 'event!', lt: 'event"', reverse: true, limit: 1 }).all()
    this.nextEvent = last === undefined ? 0 : Number(last.slice('event!'.length)) + 1
  }

  async loadRecords(): Promise<Loaded> {
    const records: SignedRecord[] = []
    let damaged = 0
    for await (const [key, value] of this.db.iterator({ gte: 'record!', lt: 'record"' })) {
      const record = readOrNothing(value, unhex(key.slice('record!'.length)))
      if (record !== undefined) records.push(record)
      else damaged++
    }
    return { records, damaged }
  }

  /**
   * Writes and drops records. When it resolves they are synced to disk. Calls made meanwhile share the next sync.
   * @param nowMs what this AP takes the time to be: kept for a box that boots in 1970, as `clock`
   */
  writeRecords(added: readonly SignedRecord[], dropped: readonly SignedRecord[], nowMs: number): Promise<void> {
    return this.write([
      { type: 'put', key: 'meta!clock', value: Buffer.from(JSON.stringify(nowMs)) },
      ...added.map((record): Batch => ({ type: 'put', key: recordKey(record), value: record.bytes })),
      ...dropped.map((record): Batch => ({ type: 'del', key: recordKey(record) })),
    ])
  }

  /** Resolves once all writes that were asked for so far are done, well or not. Writes nothing itself. */
  settled(): Promise<void> {
    return this.write([])
  }

  /** The next boot counter, synced to disk before it is returned: no two lives of this AP share one. */
  async nextBoot(): Promise<number> {
    const boot = ((await this.getJson<number>('boot')) ?? 0) + 1
    await this.putJson('boot', boot)
    return boot
  }

  async getJson<T>(name: string): Promise<T | undefined> {
    const value = await this.db.get(`meta!${name}`)
    if (value === undefined) return undefined
    const parsed = parseOrNothing<T>(value)
    if (parsed !== undefined) return parsed
    throw new MeshError('data-damaged', `"${name}" in the ledger on disk is damaged; restore DIR/ledger from a backup`)
  }

  putJson(name: string, value: unknown): Promise<void> {
    return this.write([{ type: 'put', key: `meta!${name}`, value: Buffer.from(JSON.stringify(value)) }])
  }

  /** Appends an event; not synced, since an event tells what happened and promises nothing. */
  async addEvent(event: object): Promise<void> {
    const key = (n: number) => `event!${String(n).padStart(12, '0')}`
    const n = this.nextEvent++
    const ops: Batch[] = [{ type: 'put', key: key(n), value: Buffer.from(JSON.stringify(event)) }]
    if (n >= MAX_EVENTS) ops.push({ type: 'del', key: key(n - MAX_EVENTS) })
    const write = this.db.batch(ops)
    this.eventsUnderWay.add(write)
    await write.finally(() => this.eventsUnderWay.delete(write))
  }

  /** Everything kept, oldest first, with what was appended before the call. */
  async events<T>(): Promise<T[]> {
    await Promise.allSettled(this.eventsUnderWay)
    const values = await this.db.values({ gte: 'event!', lt: 'event"' }).all()
    return values.flatMap((value) => parseOrNothing<T>(value) ?? [])
  }

  async close(): Promise<void> {
    await this.db.close()
  }

  private write(ops: Batch[]): Promise<void> {
    return new Promise((done, failed) => {
      this.queue.push({ ops, done, failed })
      if (!this.flushing) void this.flush()
    })
  }

  private async flush(): Promise<void> {
    this.flushing = true
    while (this.queue.length > 0) {
      const waiting = this.queue
      this.queue = []
      try {
        await this.db.batch(
          waiting.flatMap(({ ops }) => ops),
          { sync: true },
        )
        for (const { done } of waiting) done()
      } catch (error) {
        for (const { failed } of waiting) failed(error)
      }
    }
    this.flushing = false
  }
}

const recordKey = (record: SignedRecord): string => `record!${hex(record.hash)}`

function readOrNothing(value: Uint8Array, hash: Uint8Array): SignedRecord | undefined {
  try {
    return readBack(value, hash)
  } catch {
    return undefined
  }
}

function parseOrNothing<T>(value: Uint8Array): T | undefined {
  try {
    return JSON.parse(Buffer.from(value).toString()) as T
  } catch {
    return undefined
  }
}
