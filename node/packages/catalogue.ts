// The index of what lies under DIR/packages, in LevelDB: the size and last use of each blob, what manifests refer to, which
// digest a tag means, who refers to a manifest. It knows no blob's content.
//
// What the files say themselves is not synced, for they say it again: a blob that lies under its name is whole. Tags and
// referrers are synced before anyone is told that they are there. Keys, whose parts cannot hold a "!":
//
//   blob!DIGEST                        size, last use
//   manifest!DIGEST                    what it refers to
//   tag!NAME!TAG                       the digest it means
//   referrer!NAME!SUBJECT!DIGEST       that this manifest was pushed to NAME and says something of SUBJECT
import { rename, rm, writeFile } from 'node:fs/promises'
import type { Level } from 'level'
import type { Logger } from 'pino'
import { z } from 'zod'
import { MeshError } from '../../protocols/error.js'
import { parseOrNothing } from '../store/files.js'
import { type Batch, del, type Entry, entriesOf, level } from '../store/layout.js'
import { salvage } from '../store/salvage.js'
import { asDiskError, causeOf, exists, inUse } from '../store/store.js'

const blobNote = z.object({
  /** Bytes. */
  size: z.int().min(0),
  /** Milliseconds since 1970. */
  used: z.number(),
})
export type BlobNote = Readonly<z.infer<typeof blobNote>>

const manifestNote = z.object({
  /** Digests of blobs and manifests without which it is of little use. */
  refers: z.array(z.string()),
  subject: z.string().optional(),
})
export type ManifestNote = Readonly<z.infer<typeof manifestNote>>

const tagNote = z.object({ digest: z.string() })
const referrerNote = z.object({})

const shapes: Record<string, z.ZodType> = {
  blob: blobNote,
  manifest: manifestNote,
  tag: tagNote,
  referrer: referrerNote,
}

export class Catalogue {
  /** LevelDB may not find again what it writes behind half a write: it is opened anew before the next one. */
  private hasFailed = false
  private reopening: Promise<void> | undefined

  private constructor(
    private readonly dir: string,
    private readonly db: Level<string, Uint8Array>,
    private found: readonly Entry[],
  ) {}

  /**
   * Opens it. Of a damaged one it keeps what can be read, and says so in the log: blobs come back from their files, tags that
   * could not be read are lost.
   * @throws MeshError `data-in-use` where another process has it open, `disk` where the disk does not let it
   */
  static async open(dir: string, log: Logger): Promise<Catalogue> {
    // There while it is read: LevelDB may abort the process over what it reads.
    const opening = `${dir}.opening`
    try {
      if (!(await exists(dir)) && (await exists(`${dir}.new`))) await rename(`${dir}.new`, dir)
      const flaw = (await exists(opening)) ? 'reading it ended the process' : undefined
      await writeFile(opening, '')
      const opened = flaw === undefined ? await openAsItIs(dir) : { flaw }
      const { db, entries } = 'flaw' in opened ? await openWhatIsLeft(dir, opened.flaw, log) : opened
      await rm(opening, { force: true })
      return new Catalogue(dir, db, entries)
    } catch (error) {
      throw asDiskError(error, dir)
    }
  }

  /** Every blob it knew when it was opened. Given out once, for they are many. */
  takeBlobs(): Map<string, BlobNote> {
    const notes = new Map<string, BlobNote>()
    for (const { key, value } of this.found) {
      if (!key.startsWith('blob!')) continue
      const note = blobNote.safeParse(parseOrNothing(value)).data
      if (note !== undefined) notes.set(key.slice('blob!'.length), note)
    }
    this.found = []
    return notes
  }

  noteBlob(digest: string, note: BlobNote): Promise<void> {
    return this.write([put(`blob!${digest}`, note)], false)
  }

  /** Forgets a blob that is gone. Its tags stay: it can come back, and a person made them. */
  async forgetBlob(digest: string): Promise<void> {
    await this.write([del(`blob!${digest}`), del(`manifest!${digest}`)], false)
  }

  /** Notes what a manifest refers to. */
  noteManifest(digest: string, note: ManifestNote): Promise<void> {
    return this.write([put(`manifest!${digest}`, note)], false)
  }

  async knowsManifest(digest: string): Promise<boolean> {
    return (await this.db.get(`manifest!${digest}`)) !== undefined
  }

  /** Notes a manifest that was pushed to a repository, under a tag or by its digest alone. On disk when it resolves. */
  async push(name: string, tag: string | undefined, digest: string, note: ManifestNote): Promise<void> {
    const ops = [put(`manifest!${digest}`, note)]
    if (tag !== undefined) ops.push(put(`tag!${name}!${tag}`, { digest }))
    if (note.subject !== undefined) ops.push(put(`referrer!${name}!${note.subject}!${digest}`, {}))
    await this.write(ops, true)
  }

  async tag(name: string, tag: string): Promise<string | undefined> {
    const value = await this.db.get(`tag!${name}!${tag}`)
    return tagNote.safeParse(parseOrNothing(value)).data?.digest
  }

  /** Tags after one, in the order of their bytes. */
  async tags(name: string, after: string, limit: number): Promise<string[]> {
    const start = `tag!${name}!`
    const keys = await this.db.keys({ gt: `${start}${after}`, lt: beyond(start), limit }).all()
    return keys.map((key) => key.slice(start.length))
  }

  async hasTags(name: string): Promise<boolean> {
    return (await this.tags(name, '', 1)).length > 0
  }

  /** Names after one that have tags, in the order of their bytes. */
  async names(after: string, limit: number): Promise<string[]> {
    const names: string[] = []
    let from = after === '' ? 'tag!' : beyond(`tag!${after}!`)
    while (names.length < limit) {
      const [key] = await this.db.keys({ gte: from, lt: beyond('tag!'), limit: 1 }).all()
      if (key === undefined) break
      const name = key.split('!')[1]!
      names.push(name)
      from = beyond(`tag!${name}!`)
    }
    return names
  }

  /** Digests of the manifests pushed to a repository that say something of another one, after one of them. */
  async referrers(name: string, subject: string, after: string): Promise<string[]> {
    const start = `referrer!${name}!${subject}!`
    const keys = await this.db.keys({ gt: `${start}${after}`, lt: beyond(start) }).all()
    return keys.map((key) => key.slice(start.length))
  }

  async removeTag(name: string, tag: string): Promise<void> {
    await this.write([del(`tag!${name}!${tag}`)], true)
  }

  /** Takes a manifest out of a repository: what it is called there, and what it says of others. */
  async removeManifest(name: string, digest: string): Promise<void> {
    const ops: Batch[] = []
    for await (const [key, value] of this.db.iterator(range(`tag!${name}!`))) {
      if (tagNote.safeParse(parseOrNothing(value)).data?.digest === digest) ops.push(del(key))
    }
    for await (const key of this.db.keys(range(`referrer!${name}!`))) if (key.endsWith(`!${digest}`)) ops.push(del(key))
    await this.write(ops, true)
  }

  /**
   * All that is kept for the sake of something else: what tags mean, what of the manifests is needed, all that these refer
   * to, and what says something of them (signatures, bills of materials).
   */
  async kept(isNeeded: (digest: string) => boolean): Promise<Set<string>> {
    const notes = new Map<string, ManifestNote>()
    const referrers = new Map<string, string[]>()
    const roots: string[] = []
    for await (const [key, value] of this.db.iterator(range('manifest!'))) {
      const note = manifestNote.safeParse(parseOrNothing(value)).data
      if (note === undefined) continue
      const digest = key.slice('manifest!'.length)
      notes.set(digest, note)
      if (note.subject !== undefined) referrers.set(note.subject, [...(referrers.get(note.subject) ?? []), digest])
      if (isNeeded(digest)) roots.push(digest)
    }
    for await (const value of this.db.values(range('tag!'))) {
      const note = tagNote.safeParse(parseOrNothing(value)).data
      if (note !== undefined) roots.push(note.digest)
    }
    const kept = new Set<string>()
    for (let digest = roots.pop(); digest !== undefined; digest = roots.pop()) {
      if (kept.has(digest)) continue
      kept.add(digest)
      roots.push(...(notes.get(digest)?.refers ?? []), ...(referrers.get(digest) ?? []))
    }
    return kept
  }

  close(): Promise<void> {
    return this.db.close()
  }

  private async write(ops: Batch[], sync: boolean): Promise<void> {
    try {
      if (this.hasFailed) await this.reopen()
      await this.db.batch(ops, { sync })
    } catch (error) {
      this.hasFailed = true
      throw asDiskError(error, this.dir)
    }
  }

  private reopen(): Promise<void> {
    this.reopening ??= (async () => {
      await this.db.close()
      await this.db.open()
      this.hasFailed = false
    })().finally(() => {
      this.reopening = undefined
    })
    return this.reopening
  }
}

const put = (key: string, value: object): Batch => ({ type: 'put', key, value: Buffer.from(JSON.stringify(value)) })

/** The first key behind all that begin so. */
const beyond = (start: string): string => `${start.slice(0, -1)}"`

const range = (start: string) => ({ gte: start, lt: beyond(start) })

type Opened = { db: Level<string, Uint8Array>; entries: readonly Entry[] }

/** Opens it in the hope that nothing is wrong, and says what is. */
async function openAsItIs(dir: string): Promise<Opened | { flaw: string }> {
  const db = level(dir)
  try {
    await db.open()
    return { db, entries: await entriesOf(db) }
  } catch (error) {
    await db.close()
    const { code, message } = causeOf(error)
    if (code === 'LEVEL_LOCKED') throw inUse(dir)
    // "Invalid argument" is also what the system says to who reads behind the end of a file.
    if (code === 'LEVEL_CORRUPTION' || /No such file|Invalid argument/.test(message)) return { flaw: message }
    throw error
  }
}

/** Makes a new LevelDB of what can be read of the damaged one. */
async function openWhatIsLeft(dir: string, flaw: string, log: Logger): Promise<Opened> {
  const read = await salvage(dir)
  if (read.isLocked) throw inUse(dir)
  if (read.failure === undefined) {
    const opened = await openAsItIs(dir)
    if (!('flaw' in opened)) return opened // it was not the reading
  }
  const entries = new Map<string, Entry>()
  for (const entry of [...(await salvage(dir, true)).entries, ...read.entries]) {
    if (isWhole(entry)) entries.set(entry.key, entry)
  }
  const fresh = `${dir}.new`
  await rm(fresh, { recursive: true, force: true })
  const db = level(fresh)
  await db.batch(
    [...entries.values()].map(({ key, value }) => ({ type: 'put', key, value })),
    { sync: true },
  )
  await db.close()
  await rm(dir, { recursive: true })
  await rename(fresh, dir)
  const tags = [...entries.keys()].filter((key) => key.startsWith('tag!')).length
  log.error(
    { dir, found: read.failure ?? flaw, tags },
    'the index of the packages was damaged: tags that could not be read are lost, blobs come back from their files',
  )
  const opened = await openAsItIs(dir)
  if ('flaw' in opened) throw new MeshError('disk', `${dir} is damaged as soon as it is written: ${opened.flaw}`)
  return opened
}

/** Whether an entry of a damaged LevelDB is one that was written here. */
export function isWhole({ key, value }: Entry): boolean {
  const kind = key.slice(0, key.indexOf('!'))
  return Object.hasOwn(shapes, kind) && shapes[kind]!.safeParse(parseOrNothing(value)).success
}
