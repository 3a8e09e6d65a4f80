// A blob that is still coming: chunks in any order, each checked before it is written, and read by others as soon as it is. Beside
// the file lie the hashes of its chunks. What of it is right after a crash is what matches them: nothing else need be remembered.
import { createHash } from 'node:crypto'
import { type FileHandle, mkdir, open, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { equalBytes, hex } from '../../protocols/bytes.js'
import { type Blob, ChunkSet, chunksOf, Leaves, spanOf } from '../../protocols/chunks.js'
import { MeshError } from '../../protocols/error.js'
import { MAX_CHUNK } from '../../protocols/limits.js'
import { asDiskError } from '../store/store.js'

/** Bytes after which what was written is sent to the disk. */
const SYNC_EVERY = 16 * 2 ** 20

export class Partial {
  readonly here: ChunkSet
  private known: Leaves | undefined
  private readonly watchers = new Set<() => void>()
  private failure: Error | undefined
  private readers = 0
  private isOver = false
  /** Of the first `hashed` chunks. What comes in its turn is hashed as it is, the rest read again as soon as all before it is here. */
  private readonly digest = createHash('sha256')
  private hashed = 0
  private hashing: Promise<void> | undefined
  private unsynced = 0
  private syncing: Promise<void> | undefined

  private constructor(
    readonly blob: Blob,
    readonly path: string,
    private readonly file: FileHandle,
  ) {
    this.here = new ChunkSet(chunksOf(blob.size))
    if (this.here.count <= 1) this.known = Leaves.ofOne(blob)
  }

  /** Begins a blob, or goes on with what of it lies in the folder. @throws MeshError `disk` */
  static async open(dir: string, blob: Blob): Promise<Partial> {
    const path = join(dir, hex(blob.digest))
    const file = await openOrMake(dir, path).catch((error) => {
      throw asDiskError(error, path)
    })
    const partial = new Partial(blob, path, file)
    try {
      await partial.recover()
    } catch (error) {
      await file.close()
      throw error
    }
    return partial
  }

  private async recover(): Promise<void> {
    const leaves = await readFile(this.leavesPath).catch(() => undefined)
    try {
      if (leaves !== undefined) this.known = Leaves.of(this.blob, new Uint8Array(leaves))
    } catch {
      await rm(this.leavesPath, { force: true }) // a crash left half of it
    }
    const { size } = await this.file.stat()
    if (size > this.blob.size) await this.file.truncate(this.blob.size)
    if (this.known === undefined) return
    for (let index = 0; index < this.here.count && spanOf(this.blob.size, index).end <= size; index++)
      if (this.known.matches(index, await this.readAt(index))) this.here.add(index)
  }

  /** Undefined until a source gave them. */
  get leaves(): Uint8Array | undefined {
    return this.known?.bytes
  }

  /** @throws MeshError `malformed` where they are not those of the blob; `disk` */
  async learn(leaves: Uint8Array): Promise<void> {
    if (this.known !== undefined) return
    const known = Leaves.of(this.blob, leaves)
    try {
      await writeFile(this.leavesPath, leaves, { mode: 0o600 })
    } catch (error) {
      throw asDiskError(error, this.path)
    }
    this.known = known
  }

  /**
   * Takes a chunk, in one piece or several.
   * @returns false where it is not the chunk that belongs there: whoever sent it lies
   * @throws MeshError `disk`
   */
  async put(index: number, ...chunk: Uint8Array[]): Promise<boolean> {
    if (this.known?.matches(index, ...chunk) !== true) return false
    if (this.here.has(index)) return true
    const { start, end } = spanOf(this.blob.size, index)
    try {
      const { bytesWritten } = await this.file.writev(chunk, start)
      if (bytesWritten !== end - start) throw new Error(`it took ${bytesWritten} of ${end - start} bytes`)
    } catch (error) {
      throw asDiskError(error, this.path)
    }
    if (!this.here.add(index)) return true
    if (index === this.hashed) this.hash(...chunk)
    this.hashOn().catch(() => {}) // `finish` hears of it
    this.syncOn(end - start)
    this.wake()
    return true
  }

  private hash(...chunk: Uint8Array[]): void {
    for (const piece of chunk) this.digest.update(piece)
    this.hashed++
  }

  /** Hashes what is here up to the first chunk that is not. */
  private hashOn(): Promise<void> {
    if (!this.here.has(this.hashed) || this.hashed === this.here.count) return this.hashing ?? Promise.resolve()
    this.hashing ??= this.hashFromDisk().finally(() => {
      this.hashing = undefined
    })
    return this.hashing
  }

  private async hashFromDisk(): Promise<void> {
    const buffer = Buffer.allocUnsafeSlow(MAX_CHUNK)
    while (this.hashed < this.here.count && this.here.has(this.hashed))
      this.hash(await this.readAt(this.hashed, buffer))
  }

  // Little by little, or there would be much to wait for at the end.
  private syncOn(bytes: number): void {
    this.unsynced += bytes
    if (this.unsynced < SYNC_EVERY || this.syncing !== undefined) return
    this.unsynced = 0
    this.syncing = this.file
      .datasync()
      .catch(() => {}) // `finish` syncs all of it once more
      .finally(() => {
        this.syncing = undefined
      })
  }

  /** A chunk that is here, read into a buffer where one is given. */
  async readAt(index: number, buffer?: Uint8Array): Promise<Uint8Array> {
    const { start, end } = spanOf(this.blob.size, index)
    const bytes = buffer ?? Buffer.allocUnsafeSlow(end - start)
    const { bytesRead } = await this.file.read(bytes, 0, end - start, start)
    return bytes.subarray(0, bytesRead)
  }

  /** Resolves when the next chunk comes, or `fail` is called. */
  news(): Promise<void> {
    return new Promise((resolve) => {
      const watcher = () => {
        this.watchers.delete(watcher)
        resolve()
      }
      this.watchers.add(watcher)
    })
  }

  /** Bytes from `start` up to, and without, `end`, as they come. @throws what `fail` was told */
  async *read(start: number, end: number): AsyncGenerator<Uint8Array> {
    this.readers++
    try {
      for (let at = start; at < end; ) {
        const index = Math.floor(at / MAX_CHUNK)
        while (!this.here.has(index)) {
          if (this.failure !== undefined) throw this.failure
          await this.news()
        }
        const span = spanOf(this.blob.size, index)
        const chunk = await this.readAt(index)
        yield chunk.subarray(at - span.start, Math.min(end, span.end) - span.start)
        at = span.end
      }
    } finally {
      this.readers--
      await this.closeIfIdle()
    }
  }

  /** Nobody will bring more: whoever waits for it waits no longer. What is here stays. */
  async fail(error: Error): Promise<void> {
    this.failure = error
    this.isOver = true
    this.wake()
    await this.closeIfIdle()
  }

  /**
   * All chunks are here: makes sure that they are the blob, and lie on disk. The file is no longer this object's then.
   * @throws MeshError `blob-refused` where who signed for it named a root that is not that of the digest
   */
  async finish(): Promise<string> {
    while (this.hashed < this.here.count) await this.hashOn()
    const digest = new Uint8Array(this.digest.digest())
    if (!equalBytes(digest, this.blob.digest)) {
      await this.discard()
      throw new MeshError('blob-refused', `blob ${hex(this.blob.digest)} was signed with the hashes of another one`)
    }
    await this.syncing
    await this.file.sync()
    return this.path
  }

  /** Call it once the file lies elsewhere. Whoever reads it goes on. */
  async release(): Promise<void> {
    await rm(this.leavesPath, { force: true })
    this.isOver = true
    this.wake()
    await this.closeIfIdle()
  }

  async discard(): Promise<void> {
    await this.fail(new Error('it is given up'))
    await rm(this.path, { force: true })
    await rm(this.leavesPath, { force: true })
  }

  private async closeIfIdle(): Promise<void> {
    if (!this.isOver || this.readers > 0) return
    await Promise.allSettled([this.hashing, this.syncing])
    await this.file.close()
  }

  private get leavesPath(): string {
    return `${this.path}.leaves`
  }

  private wake(): void {
    for (const watcher of [...this.watchers]) watcher()
  }
}

async function openOrMake(dir: string, path: string): Promise<FileHandle> {
  await mkdir(dir, { recursive: true, mode: 0o700 })
  await (await open(path, 'a', 0o600)).close()
  return open(path, 'r+')
}
