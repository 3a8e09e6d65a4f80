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
