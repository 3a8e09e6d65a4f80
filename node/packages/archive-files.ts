// The files of an archive as blobs, whatever they are and in whatever order they come. Their names never reach the disk. It knows
// nothing of images.
import { posix } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip } from 'node:zlib'
import { MeshError, messageOf } from '../../protocols/error.js'
import type { BlobStore } from './blobs.js'
import { isDigest, MAX_MANIFEST } from './oci.js'
import { collect, entriesOf, plain, skip } from './tar.js'

/** Files and folders: a hundred images of a hundred layers. */
const MAX_ENTRIES = 10_000

/** Bytes of attributes of a file: its name, and times to the nanosecond. */
const MAX_ATTRIBUTES = 64 * 1024

/** Links that lead to each other. */
const MAX_LINKS = 8

/** In hex: gzip, and what else engines unpack: bzip2, xz, zstd and its skippable frames. */
export const GZIP = '1f8b'
export const OTHER_PACKING = /^(425a68|fd377a585a00|28b52ffd|5.2a4d18)/

/** Files of `docker save` that say nothing which its manifest.json does not. */
const USELESS = /(^|\/)(VERSION|json|repositories|oci-layout)$/

export class ArchiveFiles {
  /** Digest of each file, by its name. */
  private readonly files = new Map<string, string>()
  /** Where links lead, by their names: `docker save` makes one of a layer that was there before. */
  private readonly links = new Map<string, string>()
  readonly documents = new Map<string, Buffer>()
  /** Blobs that came to the store with it. */
  private readonly added = new Set<string>()

  constructor(
    readonly store: BlobStore,
    readonly limit: number,
    readonly say: (line: string) => void,
  ) {}

  /** Stores the files. */
  async read(source: AsyncIterable<Uint8Array>): Promise<void> {
    let entries = 0
    // What fails on the way here is not the archive's fault.
    let failure: unknown
    const watched = watch(source, (error) => {
      failure = error
    })
    try {
      for await (const { header, body } of entriesOf(plain(unpacked(watched, this.limit), MAX_ATTRIBUTES))) {
        if (++entries > MAX_ENTRIES) throw refusal(`it has more than ${MAX_ENTRIES} files`)
        const name = nameOf(header.name)
        if (header.type === 'directory') await skip(body)
        else if (this.files.has(name) || this.links.has(name) || this.documents.has(name)) {
          throw refusal(`${quoted(name)} is there twice`)
        } else if (header.type === 'symlink' || header.type === 'link') {
          const from = header.type === 'link' ? '' : posix.dirname(name)
          this.links.set(name, posix.join(from, header.linkname ?? ''))
          await skip(body)
        } else if (header.type === 'file') await this.keep(name, header.size, body)
        else throw refusal(`${quoted(name)} is a ${header.type}`)
      }
    } catch (error) {
      if (error instanceof MeshError || error === failure) throw error
      throw refusal(messageOf(error), error)
    }
  }

  private async keep(name: string, size: number, body: AsyncIterable<Uint8Array>): Promise<void> {
    if (name === 'manifest.json' || name === 'index.json') {
      if (size > MAX_MANIFEST) throw refusal(`${name} has ${size} bytes`)
      this.documents.set(name, await collect(body))
      return
    }
    if (USELESS.test(name)) return skip(body)
    const [, hex] = /^blobs\/sha256\/([^/]*)$/.exec(name) ?? []
    const digest = hex === undefined ? await this.take(body) : `sha256:${hex}`
    if (hex !== undefined) {
      if (!isDigest(digest)) throw refusal(`${quoted(name)} is no digest`)
      if (this.store.has(digest)) {
        this.store.use(digest)
        await skip(body)
      } else {
        await this.store.write(digest, body)
        this.added.add(digest)
      }
    }
    this.files.set(name, digest)
    if (size > MAX_MANIFEST) this.say(`${digest.slice(7, 19)}: ${mb(size)}`)
  }

  /** Stores something else that comes of it. @returns its digest */
  async take(source: AsyncIterable<Uint8Array>): Promise<string> {
    const { digest, isNew } = await this.store.take(source)
    if (isNew) this.added.add(digest)
    return digest
  }

  /** Removes what came with it and is not `kept`. */
  async clean(kept: ReadonlySet<string>): Promise<void> {
    for (const digest of this.added)
      if (!kept.has(digest) && !(await this.store.isKept(digest))) await this.store.remove(digest)
  }

  /** The digest of a file, wherever links lead. */
  find(name: string): string {
    let path = posix.normalize(name)
    for (let step = 0; step < MAX_LINKS; step++) {
      const digest = this.files.get(path)
      if (digest !== undefined) return digest
      const next = this.links.get(path)
      if (next === undefined) throw refusal(`${quoted(name)} is not in it`)
      path = next
    }
    throw refusal(`${quoted(name)} is a link without end`)
  }

  /** The first bytes of a file. */
  async headOf(digest: string, length: number): Promise<Buffer> {
    return collect(await this.store.read(digest, { end: Math.min(length, this.store.size(digest) ?? 0) }))
  }
}

export const refusal = (why: string, cause?: unknown): MeshError =>
  new MeshError('archive', `this is no archive of images that can be taken: ${why}`, { cause })

/** What a stranger wrote, fit for a message. */
export const quoted = (text: string): string => JSON.stringify(text.slice(0, 128))

export const mb = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`

/** The name of an entry, as the documents of an archive write it. */
function nameOf(name: string): string {
  if (name.startsWith('/') || name.split('/').includes('..')) throw refusal(`${quoted(name)} leads out of it`)
  return posix.normalize(name).replace(/\/$/, '')
}

async function* watch(source: AsyncIterable<Uint8Array>, onFailure: (error: unknown) => void) {
  try {
    yield* source
  } catch (error) {
    onFailure(error)
    throw error
  }
}

/** What is in a stream that may be packed by gzip, up to a limit. */
export async function* unpacked(source: AsyncIterable<Uint8Array>, limit: number): AsyncGenerator<Uint8Array> {
  const chunks = source[Symbol.asyncIterator]()
  const begin: Uint8Array[] = []
  for (let length = 0; length < 6; ) {
    const next = await chunks.next()
    if (next.done) break
    begin.push(next.value)
    length += next.value.length
  }
  async function* whole() {
    yield* begin
    yield* { [Symbol.asyncIterator]: () => chunks }
  }
  const head = Buffer.concat(begin).toString('hex', 0, 6)
  if (OTHER_PACKING.test(head)) throw refusal('it is packed in another way than gzip')
  let size = 0
  for await (const chunk of head.startsWith(GZIP)
    ? through(whole(), createGunzip({ chunkSize: 256 * 1024 }))
    : whole()) {
    size += chunk.length
    if (size > limit) throw new MeshError('image-too-big', `it unpacks to more than the ${limit} bytes that APs take`)
    yield chunk
  }
}

/** What comes out of a transform. */
export async function* through(
  source: AsyncIterable<Uint8Array>,
  transform: NodeJS.ReadWriteStream,
): AsyncGenerator<Uint8Array> {
  // The iteration fails with the same error.
  pipeline(Readable.from(source, { objectMode: false }), transform).catch(() => {})
  yield* transform as unknown as AsyncIterable<Uint8Array>
}
