// The blobs of packages on this AP's disk: files by digest under DIR/packages, whole or not there at all. It knows nothing of
// HTTP or peers; who needs what, others say.
//
//   blobs/sha256/ab/<64 hex>   a blob; it came there by a rename, after it had been checked and synced
//   uploads/<id>               what clients are sending (uploads.ts)
//   index/                     LevelDB (catalogue.ts)
//
// What makes room, when there is more than `maxBytes` or less free than `minFree`: the blob used longest ago goes first, where
//   1. no instance needs it (`isNeeded`), nor a manifest that one needs refers to it;
//   2. no tag means it, nor a manifest that a tag means refers to it, nor is it about one that stays: who pushed it may have the
//      only copy, and removes the tag when that is no longer so;
//   3. nobody used it for ten minutes: layers come before the manifest that refers to them.
// Where that is not room enough, what would need it is refused (`no-room`).
import { type FileHandle, mkdir, open, readdir, rename, rm, stat, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import type { Logger } from 'pino'
import { MeshError } from '../../protocols/error.js'
import { syncFolder } from '../store/files.js'
import { asDiskError } from '../store/store.js'
import { type BlobNote, Catalogue } from './catalogue.js'
import { isDigest } from './oci.js'
import { Uploads } from './uploads.js'

export interface BlobStoreOptions {
  /** Bytes that blobs and uploads may take together. */
  maxBytes: number
  /** Bytes that stay free on the file system: the ledger and the engine live there too. */
  minFree?: number
  /** Whether an instance that is placed here, or ready to be, needs a blob. Of an image the manifest's digest is enough. */
  isNeeded?: (digest: string) => boolean
  /** Bytes of blobs that are on their way from other APs: they count as if they were here. */
  coming?: () => number
  log: Logger
  /** Milliseconds since 1970. */
  now?: () => number
}

const MIN_FREE = 256 * 2 ** 20

/** Milliseconds for which a blob stays after it was used, whatever is needed. */
const RECENT = 600_000

/** Milliseconds after which a new use of a blob is written down: sooner would be a write for each read. */
const NOTE_EVERY = 60_000

/** The file system is asked for what is free once in so many bytes. */
const ASK_EVERY = 8 * 2 ** 20

/** Part of `maxBytes` that is freed beyond what was asked for: what is kept is found out anew for each time. */
const SLACK = 0.05

/** Bytes read from a file at a time: twice as fast as Node's 64 KiB. */
const READ_AT_ONCE = 512 * 1024

interface Blob {
  readonly size: number
  used: number
  /** `used` as the index has it. */
  noted: number
}

export class BlobStore {
  /** Called when a blob has come. */
  onAdded: (digest: string) => void = () => {}
  private readonly blobs = new Map<string, Blob>()
  private blobBytes = 0
  private unasked = 0
  private turn: Promise<unknown> = Promise.resolve()
  private readonly isNeeded: (digest: string) => boolean
  private readonly now: () => number

  private constructor(
    private readonly dir: string,
    private readonly options: BlobStoreOptions,
    readonly catalogue: Catalogue,
    readonly uploads: Uploads,
  ) {
    this.isNeeded = options.isNeeded ?? (() => false)
    this.now = options.now ?? Date.now
  }

  /**
   * Opens what is there, or begins. Files are not hashed again: a file gets its name after its content was synced, so what has
   * the name has the content; and the size of each is compared with the index.
   * @throws MeshError `data-in-use`, `disk`
   */
  static async open(dir: string, options: BlobStoreOptions): Promise<BlobStore> {
    try {
      await makeFolders(dir)
      const catalogue = await Catalogue.open(join(dir, 'index'), options.log)
      const makeRoom = (bytes: number) => store.makeRoom(bytes)
      const uploads = await Uploads.open(join(dir, 'uploads'), options.now ?? Date.now, makeRoom)
      const store: BlobStore = new BlobStore(dir, options, catalogue, uploads)
      await store.takeStock()
      return store
    } catch (error) {
      throw asDiskError(error, dir)
    }
  }

  has(digest: string): boolean {
    return this.blobs.has(digest)
  }

  /** Bytes of a blob, or undefined where it is not here. */
  size(digest: string): number | undefined {
    return this.blobs.get(digest)?.size
  }

  list(): string[] {
    return [...this.blobs.keys()]
  }

  totals(): { blobs: number; bytes: number; uploads: number; uploadBytes: number } {
    const { count: uploads, bytes: uploadBytes } = this.uploads
    return { blobs: this.blobs.size, bytes: this.blobBytes, uploads, uploadBytes }
  }

  /**
   * A blob's bytes, from `start` up to, and without, `end`. It is read to its end even where it is removed meanwhile.
   * @throws MeshError `no-blob`, also where a file is not as it was written: then it is removed
   */
  async read(digest: string, { start = 0, end }: { start?: number; end?: number } = {}): Promise<Readable> {
    const blob = this.blobs.get(digest)
    if (blob === undefined) throw noBlob(digest)
    this.use(digest)
    let file: FileHandle | undefined
    try {
      file = await open(this.pathOf(digest), 'r')
      const { size } = await file.stat()
      if (size !== blob.size) throw new Error(`it has ${size} bytes, and had ${blob.size}`)
    } catch (error) {
      await file?.close()
      this.options.log.error({ digest, reason: String(error) }, 'a blob is no longer as it was written; it is removed')
      await this.remove(digest)
      throw noBlob(digest)
    }
    const last = (end ?? blob.size) - 1
    // A range of nothing cannot be said to Node.
    if (last < start) {
      await file.close()
      return Readable.from([])
    }
    return file.createReadStream({ start, end: last, highWaterMark: READ_AT_ONCE })
  }

  /** Notes that a blob was used now. */
  use(digest: string): void {
    const blob = this.blobs.get(digest)
    if (blob === undefined) return
    blob.used = this.now()
    if (blob.used - blob.noted < NOTE_EVERY) return
    blob.noted = blob.used
    void this.note(digest, blob)
  }

  /**
   * Makes a finished upload a blob, on disk when it resolves.
   * @throws MeshError `wrong-digest`, `no-upload`, `upload-busy`, `disk`
   */
  commit(upload: string, digest: string): Promise<void> {
    return this.uploads.finish(upload, digest, (path) => this.adopt(path, digest))
  }

  /**
   * Stores what comes as a blob, on disk when it resolves. Of what is cut short nothing stays.
   * @throws MeshError `wrong-digest`, `no-room`, `too-many-uploads`, `disk`; what the source throws
   */
  async write(digest: string, source: AsyncIterable<Uint8Array>): Promise<void> {
    await this.commit(await this.receive(source), digest)
  }

  /**
   * The same of what nobody has named yet.
   * @returns its digest, and whether it was not here before
   * @throws as `write` does
   */
  async take(source: AsyncIterable<Uint8Array>): Promise<{ digest: string; isNew: boolean }> {
    const taken = { digest: '', isNew: false }
    await this.uploads.finish(await this.receive(source), undefined, (path, digest) => {
      Object.assign(taken, { digest, isNew: !this.has(digest) })
      return this.adopt(path, digest)
    })
    return taken
  }

  /** @returns the upload */
  private async receive(source: AsyncIterable<Uint8Array>): Promise<string> {
    const upload = await this.uploads.begin()
    try {
      await this.uploads.append(upload, source)
    } catch (error) {
      await this.uploads.abort(upload) // nobody knows its name
      throw error
    }
    return upload
  }

  /**
   * Takes over a file of this file system that was checked against the digest and synced. When it resolves, the blob is on disk
   * and the file is gone from where it was.
   * @throws MeshError `disk`
   */
  adopt(path: string, digest: string): Promise<void> {
    return this.inTurn(async () => {
      if (!isDigest(digest)) throw new MeshError('wrong-digest', `"${digest.slice(0, 80)}" is no digest`)
      if (this.has(digest)) {
        this.use(digest)
        return rm(path, { force: true })
      }
      try {
        const { size } = await stat(path)
        const target = this.pathOf(digest)
        await rename(path, target)
        await syncFolder(join(target, '..'))
        await this.add(digest, { size, used: this.now() })
      } catch (error) {
        throw asDiskError(error, this.dir)
      }
      this.onAdded(digest)
    })
  }

  /** Removes a blob. Whoever is reading it reads on. */
  remove(digest: string): Promise<void> {
    return this.inTurn(async () => {
      const blob = this.blobs.get(digest)
      if (blob === undefined) return
      this.blobs.delete(digest)
      this.blobBytes -= blob.size
      await rm(this.pathOf(digest), { force: true })
      await this.unnote(digest)
    })
  }

  /** Whether a tag or an instance keeps a blob. */
  async isKept(digest: string): Promise<boolean> {
    return this.isNeeded(digest) || (await this.catalogue.kept(this.isNeeded)).has(digest)
  }

  /**
   * Sees that so many bytes more may come, and removes what is used least where they may not.
   * @throws MeshError `no-room`
   */
  async makeRoom(bytes: number): Promise<void> {
    const { coming = () => 0, maxBytes } = this.options
    const excess = () => this.blobBytes + this.uploads.bytes + coming() + bytes - maxBytes
    if (excess() > 0) {
      await this.evict(excess)
      if (excess() > 0) {
        const free = `delete tags, or raise the limit of ${Math.floor(maxBytes / 2 ** 20)} MiB`
        throw new MeshError('no-room', `there is no room for packages on this AP: all that is here is kept; ${free}`)
      }
    }
    this.unasked += bytes
    if (this.unasked < ASK_EVERY) return
    this.unasked = 0
    let lack = await this.lack()
    if (lack <= 0) return
    const before = this.blobBytes
    await this.evict(() => lack - (before - this.blobBytes))
    lack = await this.lack()
    if (lack <= 0) return
    this.unasked = ASK_EVERY // it is asked again at once
    throw new MeshError('no-room', `the disk of this AP is full: free ${Math.ceil(lack / 2 ** 20)} MiB there`)
  }

  async close(): Promise<void> {
    await this.turn
    await this.catalogue.close()
  }

  // --- the files --------------------------------------------------------------------------------------------------

  /** Where a blob lies, for who only reads it. */
  pathOf(digest: string): string {
    const hex = digest.slice('sha256:'.length)
    return join(this.dir, 'blobs/sha256', hex.slice(0, 2), hex)
  }

  private async add(digest: string, { size, used }: BlobNote): Promise<void> {
    this.blobs.set(digest, { size, used, noted: used })
    this.blobBytes += size
    await this.note(digest, { size, used })
  }

  // What the index lacks of blobs, or has too much, is found out at the next start; so it is no reason to refuse anything.

  private async note(digest: string, { size, used }: BlobNote): Promise<void> {
    await this.catalogue.noteBlob(digest, { size, used }).catch(() => {})
  }

  private async unnote(digest: string): Promise<void> {
    await this.catalogue.forgetBlob(digest).catch(() => {})
  }

  /** Finds out which blobs there are. The files have the last word. */
  private async takeStock(): Promise<void> {
    const notes = this.catalogue.takeBlobs()
    for (const folder of folders) {
      const path = join(this.dir, 'blobs/sha256', folder)
      for (const name of await readdir(path)) {
        const digest = `sha256:${name}`
        if (!isDigest(digest) || !name.startsWith(folder)) continue
        const { size, mtimeMs } = await stat(join(path, name))
        const note = notes.get(digest)
        notes.delete(digest)
        if (note === undefined) await this.add(digest, { size, used: mtimeMs })
        else if (note.size === size) {
          this.blobs.set(digest, { ...note, noted: note.used })
          this.blobBytes += size
        } else {
          this.options.log.error(
            { digest, size, expected: note.size },
            'a blob has another size than it had; it is removed',
          )
          await rm(join(path, name))
          await this.unnote(digest)
        }
      }
    }
    for (const digest of notes.keys()) await this.unnote(digest)
  }

  /** Bytes that are less free than should be. */
  private async lack(): Promise<number> {
    const { bavail, bsize } = await statfs(this.dir)
    return (this.options.minFree ?? MIN_FREE) - bavail * bsize
  }

  /** Removes blobs, those used longest ago first, until nothing is missing, and a little more. */
  private async evict(missing: () => number): Promise<void> {
    const kept = await this.catalogue.kept(this.isNeeded)
    const before = this.now() - RECENT
    const slack = SLACK * this.options.maxBytes
    for (const [digest] of [...this.blobs].sort(([, a], [, b]) => a.used - b.used)) {
      if (missing() + slack <= 0) return
      const blob = this.blobs.get(digest)
      if (blob === undefined || blob.used > before || kept.has(digest) || this.isNeeded(digest)) continue
      await this.remove(digest)
    }
  }

  // A name is taken, and given up, by one at a time, or a blob that is removed would take with it one that just came.
  private inTurn<T>(what: () => Promise<T>): Promise<T> {
    const turn = this.turn.then(what)
    this.turn = turn.catch(() => {})
    return turn
  }
}

const noBlob = (digest: string): MeshError => new MeshError('no-blob', `blob ${digest} is not here`)

const folders = Array.from({ length: 256 }, (_, i) => i.toString(16).padStart(2, '0'))

/** Makes all folders there will ever be, and sees that they outlive a power cut. */
async function makeFolders(dir: string): Promise<void> {
  const blobs = join(dir, 'blobs/sha256')
  await mkdir(blobs, { recursive: true, mode: 0o700 })
  const there = new Set(await readdir(blobs))
  const missing = folders.filter((folder) => !there.has(folder))
  if (missing.length === 0) return
  for (const folder of missing) await mkdir(join(blobs, folder), { mode: 0o700 })
  for (const path of [blobs, join(dir, 'blobs'), dir]) await syncFolder(path)
}
