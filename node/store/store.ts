// What an AP keeps on disk in LevelDB: records and events, all of which others can give back or nobody misses.
//
// Beside the folder stand small files. `.written` says how far the records on disk had come, and when: what LevelDB has lost
// at its end LevelDB cannot know. `.opening` is there while the folder is opened and read. `.repair` says that it was
// damaged, until the AP has synced with another one. `.new` takes its place once it is whole.
import { access, mkdir, readdir, rename, rm, statfs, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { Level } from 'level'
import { z } from 'zod'
import type { SignedRecord } from '../../protocols/envelope.js'
import { MeshError } from '../../protocols/error.js'
import { parseOrNothing, SmallFile, syncFolder } from './files.js'
import {
  type Batch,
  type Contents,
  del,
  entriesOf,
  eventKey,
  inOrder,
  level,
  type Mark,
  meta,
  put,
  recordKey,
  Sum,
  sort,
} from './layout.js'
import { salvage } from './salvage.js'

/** Raised whenever what lies on disk changes its meaning. Another one is refused. */
const SCHEMA = 2

/** Events kept; at a few a minute this is weeks. */
const MAX_EVENTS = 10_000

/** At most so often is `.written` written, in milliseconds: it costs syncs of its own, and is for accidents alone. */
const NOTE_EVERY = 1000

/** What must be free before LevelDB is opened anew on a disk that was full, in bytes: it writes a few megabytes then. */
const ROOM = 8 * 2 ** 20

const written = z.object({ writes: z.int().min(0), clock: z.int().min(0) })

/** What was wrong with the ledger on disk. */
const damage = z.object({
  /** ISO 8601. */
  at: z.string(),
  found: z.string(),
  /** Records that were there once and could not be read, as far as that can be known. */
  lost: z.int().min(0),
})
export type Damage = Readonly<z.infer<typeof damage>>

export class Store {
  /** Damage after which the AP has not yet synced with another one. */
  damage: Damage | undefined
  /** True where it was found by this process. */
  isDamageNew = false
  /** Why nothing can be written at present. Only `recover` ends it. */
  failure: MeshError | undefined
  /** Called when it comes to that. */
  onFailure: (failure: MeshError) => void = () => {}
  /** What this AP took the time to be when it last wrote, in milliseconds since 1970. */
  clock = 0
  private db!: Level<string, Uint8Array>
  private contents: Contents | undefined
  private queue: { ops: Batch[]; done: () => void; failed: (error: unknown) => void }[] = []
  private flushing: Promise<void> | undefined
  private writes = 0
  private records = 0
  private sum = new Sum()
  private noted = 0
  private noting: NodeJS.Timeout | undefined
  private isClosed = false
  private nextEvent = 0
  private readonly eventsUnderWay = new Set<Promise<void>>()
  private readonly written: SmallFile
  private readonly repair: SmallFile
  private readonly opening: string
  private readonly fresh: string

  private constructor(private readonly dir: string) {
    this.written = new SmallFile(`${dir}.written`)
    this.repair = new SmallFile(`${dir}.repair`)
    this.opening = `${dir}.opening`
    this.fresh = `${dir}.new`
  }

  /**
   * Opens the store. Of a damaged one it keeps what can be read, and says so in `damage`.
   * @throws MeshError `data-in-use` where another process has it open, `data-newer` or `data-older` for another schema,
   * `disk` where the disk does not let it
   */
  static async open(dir: string): Promise<Store> {
    await mkdir(dirname(dir), { recursive: true, mode: 0o700 })
    const store = new Store(dir)
    try {
      await store.openWhole()
    } catch (error) {
      throw asDiskError(error, dir)
    }
    return store
  }

  /** The records that were there when it was opened. Given out once, for they are many. */
  takeRecords(): SignedRecord[] {
    const records = this.contents?.records ?? []
    this.contents = undefined
    return records
  }

  /** Reads the records that are there now. */
  async loadRecords(): Promise<SignedRecord[]> {
    return sort(await entriesOf(this.db)).records
  }

  /**
   * Writes new records, and drops some that are there. When it resolves they are synced to disk. Calls made meanwhile
   * share the next sync.
   * @param nowMs what this AP takes the time to be: kept for a box that boots in 1970
   * @throws MeshError `disk`
   */
  async writeRecords(added: readonly SignedRecord[], dropped: readonly SignedRecord[], nowMs: number): Promise<void> {
    if (this.failure !== undefined) throw this.failure
    this.clock = nowMs
    for (const { bytes } of [...added, ...dropped]) this.sum.toggle(bytes)
    this.records += added.length - dropped.length
    await this.write([...added.map(put), ...dropped.map((record) => del(recordKey(record)))])
  }

  /** Resolves once all writes that were asked for so far are synced. @throws MeshError `disk` where nothing can be written */
  async settled(): Promise<void> {
    if (this.failure !== undefined) throw this.failure
    if (this.flushing !== undefined) await this.write([])
  }

  /**
   * Goes on after a failure: opens LevelDB anew, for what it writes behind half a write it may not find again, and makes
   * the records on disk the ones that are wanted.
   * @param wanted is asked at one moment; what comes after it is for `writeRecords`
   * @throws MeshError `disk` where it fails still
   */
  async recover(wanted: () => readonly SignedRecord[]): Promise<void> {
    const wasWhole = this.damage === undefined
    try {
      await this.flushing
      await this.probe()
      await this.db.close()
      if (this.isClosed) throw new Error('it is closed')
      await this.openWhole()
      if (this.isClosed) await this.db.close()
    } catch (error) {
      this.failure = asDiskError(error, this.dir)
      throw this.failure
    }
    const found = this.takeRecords()
    const keep = wanted()
    const missing = new Map(keep.map((record) => [recordKey(record), record]))
    const extra = found.map(recordKey).filter((key) => !missing.delete(key))
    this.sum = Sum.of(keep)
    this.records = keep.length
    this.failure = undefined
    await this.write([...[...missing.values()].map(put), ...extra.map(del)])
    // What the disk had lost is written again; what it had lost before that is not in memory either.
    if (wasWhole) await this.repaired()
  }

  /** Notes that what damage has cost has come back from others, or that there is nobody who could give it back. */
  async repaired(): Promise<void> {
    if (this.damage === undefined) return
    this.damage = undefined
    await this.repair.remove()
  }

  /** Appends an event; not synced, since an event tells what happened and promises nothing. */
  async addEvent(event: object): Promise<void> {
    if (this.failure !== undefined) throw this.failure
    const n = this.nextEvent++
    const ops: Batch[] = [{ type: 'put', key: eventKey(n), value: Buffer.from(JSON.stringify(event)) }]
    if (n >= MAX_EVENTS) ops.push(del(eventKey(n - MAX_EVENTS)))
    const write = this.db.batch(ops).catch((error) => {
      throw this.fail(error)
    })
    this.eventsUnderWay.add(write)
    await write.finally(() => this.eventsUnderWay.delete(write))
  }

  /** Everything kept, oldest first, with what was appended before the call. @throws MeshError `disk` */
  async events<T>(): Promise<T[]> {
    await Promise.allSettled(this.eventsUnderWay)
    if (this.db.status !== 'open' && this.failure !== undefined) throw this.failure
    const values = await this.db.values({ gte: 'event!', lt: 'event"' }).all()
    return values.flatMap((value) => parseOrNothing<T>(value) ?? [])
  }

  async close(): Promise<void> {
    this.isClosed = true
    await this.flushing
    clearTimeout(this.noting)
    await this.db.close()
    if (this.noted < this.writes) await this.note().catch(() => {})
  }

  // --- writing ----------------------------------------------------------------------------------------------------

  private write(ops: Batch[]): Promise<void> {
    return new Promise((done, failed) => {
      this.queue.push({ ops, done, failed })
      this.flushing ??= this.flush()
    })
  }

  private async flush(): Promise<void> {
    while (this.queue.length > 0) {
      const waiting = this.queue.splice(0)
      const ops = waiting.flatMap((write) => write.ops)
      try {
        if (ops.length > 0) {
          const mark: Mark = { writes: ++this.writes, records: this.records, sum: `${this.sum}` }
          await this.db.batch([...ops, meta('mark', mark)], { sync: true })
          this.noteSoon()
        }
        // Of an event before it half may lie on disk, and this behind it.
        if (this.failure !== undefined) throw this.failure
        for (const { done } of waiting) done()
      } catch (error) {
        const failure = this.fail(error)
        for (const { failed } of [...waiting, ...this.queue.splice(0)]) failed(failure)
      }
    }
    this.flushing = undefined
  }

  private fail(error: unknown): MeshError {
    if (this.failure === undefined) {
      this.failure = asDiskError(error, this.dir)
      this.onFailure(this.failure)
    }
    return this.failure
  }

  private noteSoon(): void {
    this.noting ??= setTimeout(() => {
      this.noting = undefined
      void this.note().catch(() => {}) // records do not depend on it, and the next one may go well
    }, NOTE_EVERY).unref()
  }

  private async note(): Promise<void> {
    const { writes, clock } = this
    await this.written.write(`${JSON.stringify({ writes, clock })}\n`)
    this.noted = writes
  }

  private async probe(): Promise<void> {
    await this.checkRoom()
    const probe = new SmallFile(`${this.dir}.probe`)
    await probe.write('can this be written?')
    await probe.remove()
  }

  private async checkRoom(): Promise<void> {
    const { bavail, bsize } = await statfs(dirname(this.dir))
    if (bavail * bsize < ROOM) throw new Error(`No space left on device (${ROOM / 2 ** 20} MiB are needed)`)
  }

  // --- opening ----------------------------------------------------------------------------------------------------

  private async openWhole(): Promise<void> {
    await this.endSwap()
    const noted = written.safeParse(parseOrNothing(await this.written.read())).data
    this.clock = Math.max(this.clock, noted?.clock ?? 0)
    this.writes = Math.max(this.writes, noted?.writes ?? 0)
    this.damage = damage.safeParse(parseOrNothing(await this.repair.read())).data
    // Where a start ended while it read, it may be the reading that ended it.
    const flaw = (await exists(this.opening)) ? 'reading it ended the process' : await this.openAsItIs()
    if (flaw !== undefined) await this.openWhatIsLeft(flaw)
    const { mark, sum, records, events } = this.contents!
    this.writes = Math.max(this.writes, mark!.writes)
    this.sum = sum
    this.records = records.length
    const last = events.at(-1)?.key.slice('event!'.length)
    this.nextEvent = last === undefined ? 0 : Number(last) + 1
  }

  /** Opens and reads it in the hope that nothing is wrong. @returns what is */
  private async openAsItIs(): Promise<string | undefined> {
    await writeFile(this.opening, '')
    this.contents = undefined
    const isNew = this.writes === 0 && !(await hasData(this.dir))
    const db = level(this.dir) // opens itself in a moment, if nothing else does
    try {
      await db.open({ createIfMissing: isNew })
      const begin: Mark = { writes: 0, records: 0, sum: `${new Sum()}` }
      if (isNew) await db.batch([meta('schema', SCHEMA), meta('mark', begin)], { sync: true })
      const contents = sort(await entriesOf(db))
      const flaw = this.flawOf(contents)
      if (flaw !== undefined) return flaw
      this.db = db
      this.contents = contents
      return undefined
    } catch (error) {
      const { code, message } = causeOf(error)
      if (code === 'LEVEL_LOCKED') throw inUse(this.dir)
      // "Invalid argument" is also what the system says to who reads behind the end of a file.
      if (code === 'LEVEL_CORRUPTION' || /No such file|Invalid argument/.test(message)) return message
      throw error
    } finally {
      if (this.contents === undefined) await db.close()
      await rm(this.opening, { force: true })
    }
  }

  private flawOf({ schema, mark, records, damaged, sum, isInOrder }: Contents): string | undefined {
    if (schema !== undefined && schema !== SCHEMA) {
      const [age, code, what] =
        schema > SCHEMA
          ? ['a newer', 'data-newer', 'install that version']
          : ['an older', 'data-older', 'choose another --data']
      throw new MeshError(
        code,
        `${this.dir} was written by ${age} dropmesh (schema ${schema}, this one knows ${SCHEMA}); ${what}`,
      )
    }
    if (damaged.length > 0) return `${damaged.length} of its records cannot be read`
    if (schema === undefined || mark === undefined || !isInOrder) return 'what it holds is not what was written'
    if (mark.records !== records.length) return `${mark.records} records were written, ${records.length} are there`
    if (mark.sum !== `${sum}`) return 'a record is not as it was written'
    if (mark.writes < this.writes) return `its last ${this.writes - mark.writes} writes are missing`
    return undefined
  }

  /** Makes a new LevelDB of what can be read of the damaged one, which is kept beside it. */
  private async openWhatIsLeft(flaw: string): Promise<void> {
    const asItIs = await salvage(this.dir)
    if (asItIs.isLocked) throw inUse(this.dir)
    const entries = new Map(asItIs.entries.map((entry) => [entry.key, entry]))
    let contents = sort(inOrder(entries), true)
    if (
      asItIs.failure === undefined &&
      this.flawOf(contents) === undefined &&
      (await this.openAsItIs()) === undefined
    ) {
      return // it was not the reading
    }
    await this.noteDamage(asItIs.failure ?? this.flawOf(contents) ?? flaw, 0)
    await this.checkRoom() // or a repair, for want of it, would lose what was sound
    if (asItIs.failure !== undefined) {
      for (const entry of (await salvage(this.dir, true)).entries) {
        if (!entries.has(entry.key)) entries.set(entry.key, entry)
      }
      contents = sort(inOrder(entries), true)
    }
    const { records, events, damaged, mark } = contents
    await this.noteDamage(this.damage!.found, Math.max(damaged.length, (mark?.records ?? 0) - records.length))
    const writes = Math.max(this.writes, mark?.writes ?? 0)
    await this.replaceBy([
      ...records.map(put),
      ...events.map(({ key, value }): Batch => ({ type: 'put', key, value })),
      meta('schema', SCHEMA),
      meta('mark', { writes, records: records.length, sum: `${Sum.of(records)}` }),
    ])
    const still = await this.openAsItIs()
    if (still !== undefined) throw new Error(`it is damaged as soon as it is written: ${still}`)
  }

  private async noteDamage(found: string, lost: number): Promise<void> {
    const at = new Date(Math.max(Date.now(), this.clock)).toISOString()
    this.damage = { at, found: inPlainWords(found), lost: Math.max(lost, 0) }
    this.isDamageNew = true
    await this.repair.write(`${JSON.stringify(this.damage)}\n`)
  }

  private async replaceBy(entries: Batch[]): Promise<void> {
    await rm(this.fresh, { recursive: true, force: true })
    const fresh = level(this.fresh)
    await fresh.open()
    await fresh.batch(entries, { sync: true })
    await fresh.close()
    await syncFolder(this.fresh)
    const folder = dirname(this.dir)
    const aside = `${basename(this.dir)}.damaged-`
    // One is kept for who wants to look into it; more would fill the disk of a box whose disk goes bad.
    for (const name of await readdir(folder)) {
      if (name.startsWith(aside)) await rm(join(folder, name), { recursive: true, force: true })
    }
    await rm(this.opening, { force: true })
    if (await exists(this.dir)) {
      await rename(this.dir, join(folder, `${aside}${this.damage!.at.replaceAll(/[:.]/g, '-')}`))
    }
    await this.endSwap()
  }

  /** Puts a new folder in the place of the one that was moved away. One whose place is still taken was not finished. */
  private async endSwap(): Promise<void> {
    if (!(await exists(this.fresh))) return
    if (await exists(this.dir)) await rm(this.fresh, { recursive: true, force: true })
    else await rename(this.fresh, this.dir)
    await syncFolder(dirname(this.dir))
  }
}

export const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  )

/** True where a folder holds, or once held, more than a LevelDB that was never finished. */
const hasData = async (dir: string): Promise<boolean> =>
  (await readdir(dir).catch((): string[] => [])).some((name) => /^CURRENT$|\.(ldb|log)$/.test(name))

/** What LevelDB says, which its wrapper tells as the cause of an error of its own. */
export function causeOf(error: unknown): { code: string | undefined; message: string } {
  const { code, message, cause } = error as NodeJS.ErrnoException & { cause?: NodeJS.ErrnoException }
  return cause === undefined ? { code, message } : { code: cause.code, message: cause.message }
}

const inPlainWords = (found: string): string =>
  found.includes('create_if_missing') ? 'the file CURRENT is missing' : found

/** What a disk threw, as an error for people: where, why, and what to do. */
export function asDiskError(error: unknown, dir: string): MeshError {
  if (error instanceof MeshError) return error
  const reason = causeOf(error).message
  const what = /space|quota/i.test(reason) ? 'free some space there' : 'see whether that disk is sound'
  return new MeshError('disk', `cannot write to ${dir}: ${reason}; ${what}`, { cause: error })
}

export const inUse = (dir: string): MeshError => new MeshError('data-in-use', `${dir} is in use by another process`)

/** True for what is the fault of this AP's own disk, and of nobody who sent a record. */
export const isOfDisk = (error: unknown): boolean => error instanceof MeshError && error.code === 'disk'
