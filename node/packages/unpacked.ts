// How big layers are once they are unpacked. A layer of a few kilobytes can unpack to terabytes, and an engine would write all
// of them before it sees that something is wrong; so it gets the last byte of a layer only once it was measured here.
import { pipeline } from 'node:stream/promises'
import { createGunzip } from 'node:zlib'
import { MeshError, messageOf } from '../../protocols/error.js'
import type { BlobStore } from './blobs.js'
import { FairQueue } from './fair-queue.js'
import { collect } from './tar.js'

/** Layers that are measured at a time: it takes a core. */
const AT_ONCE = 2

/** Layers whose size is remembered. */
const REMEMBERED = 4096

const GZIP = '1f8b'
/** What engines unpack as well: bzip2, xz, zstd and its skippable frames. */
const OTHER = /^(425a68|fd377a585a00|28b52ffd|5.2a4d18)/

export class Unpacked {
  private readonly sizes = new Map<string, number>()
  private readonly turns = new FairQueue(AT_ONCE)

  constructor(private readonly store: Pick<BlobStore, 'read' | 'size'>) {}

  /**
   * Bytes of a layer of the store, unpacked.
   * @param limit bytes beyond which it is not read on
   * @throws MeshError `image-too-big`; `layer-format` where it is neither a tar nor one in gzip, or has holes; `no-blob`
   */
  async sizeOf(digest: string, limit: number): Promise<number> {
    const end = await this.turns.take(digest)
    try {
      const size = this.sizes.get(digest) ?? (await this.measure(digest, limit))
      this.sizes.delete(digest)
      this.sizes.set(digest, size)
      if (this.sizes.size > REMEMBERED) this.sizes.delete(this.sizes.keys().next().value!)
      if (size > limit) throw tooBig(digest, limit)
      return size
    } finally {
      end()
    }
  }

  private async measure(digest: string, limit: number): Promise<number> {
    const head = (await collect(await this.store.read(digest, { end: 6 }))).toString('hex')
    if (OTHER.test(head)) throw wrong(digest, 'it is packed neither as tar nor in gzip: pack it otherwise')
    const layer = new Layer()
    let refusal: unknown
    const count = async (chunks: AsyncIterable<Uint8Array>) => {
      try {
        for await (const chunk of chunks) {
          layer.take(chunk)
          if (layer.size > limit) throw tooBig(digest, limit)
        }
      } catch (error) {
        refusal = error // a pipeline tells that it was aborted, and not why
        throw error
      }
    }
    try {
      const source = await this.store.read(digest)
      if (head.startsWith(GZIP)) await pipeline(source, createGunzip({ chunkSize: 256 * 1024 }), count)
      else await count(source)
    } catch (error) {
      const why = refusal ?? error
      throw why instanceof MeshError ? why : wrong(digest, messageOf(why))
    }
    return layer.size
  }
}

const tooBig = (digest: string, limit: number): MeshError =>
  new MeshError('image-too-big', `layer ${digest} unpacks to more than the ${limit} bytes that its image may have`)

const wrong = (digest: string, why: string): MeshError =>
  new MeshError('layer-format', `layer ${digest} cannot be taken: ${why}`)

const BLOCK = 512
/** Bytes of attributes before an entry: names and extended attributes of a file, at most. */
const MAX_ATTRIBUTES = 2 ** 20

/**
 * Follows a tar from header to header, and counts. Files with holes are refused: an engine fills these, whatever the size of the
 * tar (types and records as in POSIX pax and GNU tar's manual).
 */
class Layer {
  size = 0
  private readonly header = new Uint8Array(BLOCK)
  private held = 0
  private content = 0
  private attributes: Uint8Array[] | undefined
  /** What attributes say of the next entry's size. */
  private nextSize: number | undefined

  take(chunk: Uint8Array): void {
    this.size += chunk.length
    for (let at = 0; at < chunk.length; ) {
      const isContent = this.content > 0
      const length = Math.min(isContent ? this.content : BLOCK - this.held, chunk.length - at)
      const part = chunk.subarray(at, at + length)
      at += length
      if (isContent) {
        this.attributes?.push(part.slice())
        this.content -= length
        if (this.content === 0) this.readAttributes()
      } else {
        this.header.set(part, this.held)
        this.held = (this.held + length) % BLOCK
        if (this.held === 0) this.readHeader()
      }
    }
  }

  private readHeader(): void {
    const header = Buffer.from(this.header)
    if (header.every((byte) => byte === 0)) return
    const type = String.fromCharCode(header[156] || 0x30)
    const size = numberAt(header, 124, 12)
    if (type === 'S') throw new Error('it has a file with holes')
    if (type === 'x' || type === 'g') {
      if (size > MAX_ATTRIBUTES) throw new Error(`it has an entry with ${size} bytes of attributes`)
      this.content = Math.ceil(size / BLOCK) * BLOCK
      this.attributes = size > 0 ? [] : undefined
      return
    }
    // Links, devices and folders have no content, whatever their size says.
    const length = /[1-6]/.test(type) ? 0 : (this.nextSize ?? size)
    if (!'LK'.includes(type)) this.nextSize = undefined
    this.content = Math.ceil(length / BLOCK) * BLOCK
  }

  private readAttributes(): void {
    if (this.attributes === undefined) return
    const text = Buffer.concat(this.attributes).toString('latin1')
    this.attributes = undefined
    // "LENGTH KEY=VALUE\n", the length that of all of it.
    for (let at = 0; at < text.length; ) {
      const [record, length, key, value] =
        /^(\d{1,7}) ([^=]*)=([\s\S]*)$/.exec(text.slice(at, at + lengthAt(text, at))) ?? []
      if (record === undefined) return
      if (key!.startsWith('GNU.sparse')) throw new Error('it has a file with holes')
      if (key === 'size') this.nextSize = Number(/^\d{1,15}\n$/.test(value!) ? value : Number.NaN)
      if (Number.isNaN(this.nextSize)) throw new Error('it has a size that is no number')
      at += Number(length)
    }
  }
}

const lengthAt = (text: string, at: number): number => Number(/^\d{1,7}/.exec(text.slice(at, at + 7))?.[0] ?? 0)

/** A number of a header: octal digits, or bytes where the first one is 0x80. @throws Error at any other */
function numberAt(header: Buffer, at: number, length: number): number {
  const field = header.subarray(at, at + length)
  if (field[0] === 0x80) {
    const value = field.subarray(1).reduce((sum, byte) => sum * 256 + byte, 0)
    if (Number.isSafeInteger(value)) return value
  }
  const digits = /^[ \0]*([0-7]*)[ \0]*$/.exec(field.toString('latin1'))?.[1]
  if (digits === undefined) throw new Error('it has a header that is none of a tar')
  return digits === '' ? 0 : Number.parseInt(digits, 8)
}
