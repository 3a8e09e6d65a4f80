// Blobs that clients are sending, each a file that only gets longer, until its content is known to be what it is named for. What
// was received outlives the node: a client asks how far it came, and goes on from there.
import { createHash, type Hash, randomUUID } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { type FileHandle, mkdir, open, readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { MeshError } from '../../protocols/error.js'
import { asDiskError } from '../store/store.js'

/** Uploads at once, of all clients. An engine sends five layers at a time. */
export const MAX_UPLOADS = 128

/** Milliseconds without a byte after which an upload is removed: a person who went for lunch goes on where it stopped. */
const MAX_IDLE = 3_600_000

/** Milliseconds after which an upload is removed whatever comes: a byte a minute must not hold a place for ever. */
const MAX_AGE = 24 * 3_600_000

/** Milliseconds after which one that nothing comes for makes room for a new one, where there are too many. */
const STALE = 60_000

/** Bytes that are written at a time: an engine sends pieces of a few KiB, and each write takes its turn in a queue. */
const WRITE_AT_ONCE = 256 * 1024

const ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

interface Upload {
  readonly path: string
  /** Bytes on disk. */
  size: number
  /** Bytes on their way there. */
  coming: number
  /** Of these bytes; undefined where it must be made anew from the file: its state cannot be saved. */
  hash: Hash | undefined
  readonly begun: number
  heard: number
  isBusy: boolean
}

export class Uploads {
  private readonly uploads = new Map<string, Upload>()
  private constructor(
    private readonly dir: string,
    private readonly now: () => number,
    /** Makes room for so many bytes more, or throws. */
    private readonly makeRoom: (bytes: number) => Promise<void>,
  ) {}

  /** Takes up what an earlier process received, and removes what nobody will ask for any more. */
  static async open(dir: string, now: () => number, makeRoom: (bytes: number) => Promise<void>): Promise<Uploads> {
    const uploads = new Uploads(dir, now, makeRoom)
    await mkdir(dir, { recursive: true, mode: 0o700 })
    for (const id of await readdir(dir)) {
      const path = join(dir, id)
      const { size, mtimeMs } = await stat(path)
      if (!ID.test(id) || size === 0) await rm(path, { recursive: true, force: true })
      else uploads.add(id, { path, size, hash: undefined, begun: mtimeMs, heard: mtimeMs })
    }
    await uploads.sweep()
    return uploads
  }

  get count(): number {
    return this.uploads.size
  }

  /** Of all of them, and of what is on its way. */
  get bytes(): number {
    let bytes = 0
    for (const { size, coming } of this.uploads.values()) bytes += size + coming
    return bytes
  }

  /**
   * Begins an upload.
   * @returns its id, which nobody can guess
   * @throws MeshError `too-many-uploads`, `no-room`, `disk`
   */
  async begin(): Promise<string> {
    await this.sweep()
    if (this.uploads.size >= MAX_UPLOADS) await this.dropStalest()
    if (this.uploads.size >= MAX_UPLOADS) {
      throw new MeshError('too-many-uploads', `${MAX_UPLOADS} uploads are open; finish one, or try again in a minute`)
    }
    const id = randomUUID()
    const now = this.now()
    const path = join(this.dir, id)
    this.add(id, { path, size: 0, hash: createHash('sha256'), begun: now, heard: now })
    return id
  }

  /** Bytes received. @throws MeshError `no-upload` */
  sizeOf(id: string): number {
    return this.get(id).size
  }

  /**
   * Appends what comes. What came is kept where the source fails.
   * @throws MeshError `no-upload`, `upload-busy` where another request appends to it, `no-room`, `disk`; what the source throws
   */
  append(id: string, source: AsyncIterable<Uint8Array>): Promise<void> {
    return this.alone(id, async (upload) => {
      const file = await this.openFile(upload)
      let batch: Uint8Array[] = []
      let length = 0
      let written = Promise.resolve()
      // The next bytes are received while the last ones are written.
      const flush = async () => {
        await written
        written = this.write(upload, file, Buffer.concat(batch))
        written.catch(() => {}) // it is awaited later
        batch = []
        length = 0
      }
      try {
        await this.hashOf(upload)
        try {
          for await (const bytes of source) {
            await this.makeRoom(bytes.length)
            this.get(id) // it may have become too old
            upload.heard = this.now()
            upload.coming += bytes.length
            batch.push(bytes)
            length += bytes.length
            if (length >= WRITE_AT_ONCE) await flush()
          }
        } finally {
          await flush()
          await written
        }
      } finally {
        upload.coming = 0
        await file.close()
      }
    })
  }

  /**
   * Ends an upload, which is gone then in any case.
   * @param take gets the file, synced to disk, and takes it away
   * @throws MeshError `no-upload`, `upload-busy`, `disk`; `wrong-digest` where it is not what it is named for
   */
  finish(id: string, digest: string | undefined, take: (path: string, digest: string) => Promise<void>): Promise<void> {
    return this.alone(id, async (upload) => {
      try {
        const file = await this.openFile(upload)
        let found: string
        try {
          found = `sha256:${(await this.hashOf(upload)).digest('hex')}`
          if (found !== (digest ?? found)) {
            throw new MeshError('wrong-digest', `what was sent has the digest ${found}, and not ${digest}`)
          }
          // The hash is of what was written; whether that is what lies there is another question.
          const { size } = await file.stat()
          if (size !== upload.size) throw new Error(`${upload.path} has ${size} bytes, ${upload.size} were written`)
          await file.sync()
        } finally {
          await file.close()
        }
        await take(upload.path, found)
      } catch (error) {
        throw asDiskError(error, this.dir)
      } finally {
        await this.drop(id)
      }
    })
  }

  /** Removes an upload. @throws MeshError `no-upload`, `upload-busy` */
  abort(id: string): Promise<void> {
    return this.alone(id, () => this.drop(id))
  }

  /** Removes those that nothing came for in a long time. */
  async sweep(): Promise<void> {
    const now = this.now()
    for (const [id, { begun, heard, isBusy }] of this.uploads) {
      if (now - begun > MAX_AGE || (!isBusy && now - heard > MAX_IDLE)) await this.drop(id)
    }
  }

  private async dropStalest(): Promise<void> {
    const idle = [...this.uploads].filter(([, { heard, isBusy }]) => !isBusy && this.now() - heard > STALE)
    const [stalest] = idle.sort(([, a], [, b]) => a.heard - b.heard)
    if (stalest !== undefined) await this.drop(stalest[0])
  }

  private get(id: string): Upload {
    const upload = this.uploads.get(id)
    if (upload === undefined) throw new MeshError('no-upload', 'there is no such upload; it may be too old. Begin anew')
    return upload
  }

  private async openFile({ path }: Upload): Promise<FileHandle> {
    try {
      return await open(path, 'a', 0o600)
    } catch (error) {
      throw asDiskError(error, this.dir)
    }
  }

  private async alone(id: string, what: (upload: Upload) => Promise<void>): Promise<void> {
    const upload = this.get(id)
    if (upload.isBusy) throw new MeshError('upload-busy', 'another request is appending to this upload')
    upload.isBusy = true
    try {
      await what(upload)
    } finally {
      upload.isBusy = false
    }
  }

  private async write(upload: Upload, file: FileHandle, bytes: Uint8Array): Promise<void> {
    const hash = await this.hashOf(upload)
    upload.hash = undefined // where the disk fails, the hash is ahead of the file
    const written = file.appendFile(bytes)
    hash.update(bytes) // while the disk is at work
    try {
      await written
    } catch (error) {
      await file.truncate(upload.size).catch(() => {})
      throw asDiskError(error, this.dir)
    }
    upload.hash = hash
    upload.size += bytes.length
    upload.coming -= bytes.length
  }

  private async hashOf(upload: Upload): Promise<Hash> {
    if (upload.hash !== undefined) return upload.hash
    const hash = createHash('sha256')
    if (upload.size > 0) {
      for await (const bytes of createReadStream(upload.path, { end: upload.size - 1 })) hash.update(bytes)
    }
    upload.hash = hash
    return hash
  }

  private add(id: string, upload: Omit<Upload, 'coming' | 'isBusy'>): void {
    this.uploads.set(id, { ...upload, coming: 0, isBusy: false })
  }

  private async drop(id: string): Promise<void> {
    const upload = this.uploads.get(id)
    if (upload === undefined) return
    this.uploads.delete(id)
    await rm(upload.path, { force: true })
  }
}
