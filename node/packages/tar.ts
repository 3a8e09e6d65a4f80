// Tar archives as streams of entries: whatever their size, no more than a chunk is in memory. Knows nothing of images.
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { extract, type Header, pack } from 'tar-stream'

/** One entry to write. `body` is for files: its length must be `size`, or writing fails. */
export interface TarFile {
  name: string
  size: number
  body: AsyncIterable<Uint8Array> | Iterable<Uint8Array>
  mode?: number
}

export interface TarFolder {
  name: string
  folder: true
  mode?: number
  uid?: number
}

/**
 * An archive of the entries in the order given. Time, owner and group of each are fixed, so that equal entries make
 * equal bytes everywhere. Where the entries fail, so does the archive: it has no end then.
 */
export async function* tarOf(
  entries: AsyncIterable<TarFile | TarFolder> | Iterable<TarFile | TarFolder>,
): AsyncGenerator<Uint8Array> {
  const tar = pack()
  const fill = async () => {
    for await (const entry of entries) {
      if ('folder' in entry) {
        const { name, mode = 0o755, uid = 0 } = entry
        tar.entry({ name, type: 'directory', mode, uid, gid: uid, mtime: new Date(0) })
      } else {
        const { name, size, mode = 0o644 } = entry
        await pipeline(entry.body, tar.entry({ name, type: 'file', size, mode, uid: 0, gid: 0, mtime: new Date(0) }))
      }
    }
    tar.finalize()
  }
  void fill().catch((error) => tar.destroy(error))
  yield* tar as AsyncIterable<Uint8Array>
}

/**
 * The entries of an archive, which may come from anyone. Each body must be read or skipped before the next entry is
 * asked for. Names are as they stand in the archive: nothing is said about where they lead.
 */
export async function* entriesOf(
  source: AsyncIterable<Uint8Array>,
): AsyncGenerator<{ header: Header; body: AsyncIterable<Uint8Array> }> {
  const tar = extract()
  const feeding = pipeline(Readable.from(source, { objectMode: false }), tar)
  // The iteration below fails with the same error.
  feeding.catch(() => {})
  for await (const entry of tar) yield { header: entry.header, body: entry as AsyncIterable<Uint8Array> }
}

const BLOCK = 512

/**
 * An archive as it comes, up to the first header that is none of a plain file, or of a link or folder without content: what
 * `tarOf` writes. Others hold attributes of the next one, in megabytes that are kept, or a length below zero, at which the
 * library reads one header for ever.
 * @param maxAttributes bytes of attributes that an entry may have all the same: names and times, as other writers note them
 * @throws Error at that one
 */
export async function* plain(source: AsyncIterable<Uint8Array>, maxAttributes = 0): AsyncGenerator<Uint8Array> {
  const header = new Uint8Array(BLOCK)
  let held = 0
  let content = 0
  let attributes: Uint8Array[] | undefined
  for await (const chunk of source) {
    for (let at = 0; at < chunk.length; ) {
      const size = Math.min(content > 0 ? content : BLOCK - held, chunk.length - at)
      const part = chunk.subarray(at, at + size)
      if (content > 0) {
        content -= size
        attributes?.push(part)
        if (content === 0) checkAttributes(attributes)
      } else {
        header.set(part, held)
        held = (held + size) % BLOCK
        if (held === 0) {
          content = contentOf(header, maxAttributes)
          attributes = header[156] === 0x78 || header[156] === 0x67 ? [] : undefined
        }
      }
      at += size
    }
    yield chunk
  }
}

/** What is said of the next entry must not be another length than its header says, or what follows is read as something else. */
function checkAttributes(parts: readonly Uint8Array[] = []): void {
  if (/ (size|GNU\.sparse[^=]*)=/.test(Buffer.concat(parts).toString('latin1'))) {
    throw new Error('the archive has a file of more than 8 GiB, or with holes')
  }
}

/** Bytes that follow a header, in whole blocks. */
function contentOf(header: Uint8Array, maxAttributes: number): number {
  const isEnd = header.every((byte, i) => byte === 0 || (i >= 148 && i < 156))
  if (isEnd) return 0
  const type = header[156] === 0 ? '0' : String.fromCharCode(header[156]!)
  const octal = /^([0-7]{11})[ \0]$/.exec(Buffer.from(header.subarray(124, 136)).toString('latin1'))?.[1]
  const size = Number.parseInt(octal ?? '', 8)
  const most = type === '0' ? size : /^[1-6]$/.test(type) ? 0 : /^[xgLK]$/.test(type) ? maxAttributes : -1
  if (octal === undefined || size > most) {
    throw new Error('the archive has a header of something else than a plain file')
  }
  return Math.ceil(size / BLOCK) * BLOCK
}

/** A small body as a whole. The caller has looked at the size. */
export async function collect(body: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = []
  for await (const chunk of body) chunks.push(chunk)
  return Buffer.concat(chunks)
}

/** Reads a body to its end and forgets it. */
export async function skip(body: AsyncIterable<Uint8Array>): Promise<void> {
  for await (const _ of body);
}
