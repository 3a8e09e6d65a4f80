// A stream as a sequence of checked messages, each read and write with a deadline, and never more of it in memory than a
// frame and what the other side may send before it is asked for more.
import type { Stream } from '@libp2p/interface'
import type { z } from 'zod'
import { concat } from '../../protocols/bytes.js'
import { encode } from '../../protocols/codec.js'
import { MeshError } from '../../protocols/error.js'
import { readFrame } from '../../protocols/wire.js'

/** Bytes of the longest length prefix: four hold 2^28, far above any frame. */
const MAX_PREFIX = 4
/**
 * What comes is kept as it came, uncopied, but for pieces of fewer bytes than this, which are put together in blocks of so many: else who
 * sends it byte by byte would make it a hundred times as large here.
 */
const SMALL = 2048
const BLOCK = 16_384
/** When this side is done, the other one has so long to be done as well, in milliseconds. */
const CLOSING_PATIENCE = 5000

// libp2p's own length-prefixed stream takes in whatever comes while nobody reads, and gives up beyond its buffer, so that a
// fast sender ends every long exchange; it also reads on for ever in a prefix that has no end.
export class Frames {
  /** What has come and was not read yet, in pieces, from `from` on in the first one. */
  private pieces: Uint8Array[] = []
  private from = 0
  private held = 0
  /** Where small pieces are put together: the last of the pieces lies in it from `start` to `end`, unless that is nothing. */
  private block = { bytes: new Uint8Array(), start: 0, end: 0 }
  private isResuming = false
  private wake: (() => void) | undefined
  private readonly mustEndAt: number

  /**
   * @param maxFrame bytes; a longer frame ends the stream before it is read
   * @param deadline of each single read or write, in milliseconds; none where the caller sees to it that nothing waits for ever
   * @param total deadline of all of them together, in milliseconds
   */
  constructor(
    private readonly stream: Stream,
    private readonly maxFrame: number,
    private readonly deadline = Number.POSITIVE_INFINITY,
    total = Number.POSITIVE_INFINITY,
  ) {
    this.mustEndAt = performance.now() + total
    stream.addEventListener('message', ({ data }) => {
      for (const piece of data instanceof Uint8Array ? [data] : data) this.append(piece)
      if (!this.isResuming) this.pauseWhenFull()
      this.wake?.()
    })
    for (const event of ['remoteCloseWrite', 'close', 'drain'] as const)
      stream.addEventListener(event, () => this.wake?.())
  }

  /** @throws when the stream ends, the deadline passes, or the frame is none of `schema` */
  async read<T>(schema: z.ZodType<T>): Promise<T> {
    return readFrame(schema, await this.readBytes())
  }

  async readBytes(): Promise<Uint8Array> {
    return concat(...(await this.readPieces()))
  }

  /** The bytes of a frame in the pieces in which they came, for what is large. */
  async readPieces(): Promise<Uint8Array[]> {
    const endsAt = this.endsAt()
    let length = 0
    for (let i = 0; ; i++) {
      if (i === MAX_PREFIX) throw new MeshError('malformed', 'a frame whose length has no end')
      await this.waitFor(1, endsAt)
      const byte = this.take(1)[0]![0]!
      length += (byte & 0x7f) << (7 * i)
      if (byte < 0x80) break
    }
    if (length > this.maxFrame) {
      throw new MeshError('malformed', `a frame of ${length} bytes; ${this.maxFrame} are allowed`)
    }
    await this.waitFor(length, endsAt)
    return this.take(length)
  }

  async write(message: unknown): Promise<void> {
    await this.writeBytes(encode(message))
  }

  async writeBytes(bytes: Uint8Array): Promise<void> {
    await this.send(concat(prefix(bytes.length), bytes))
  }

  /** Writes a message and a frame of bytes, which are not copied, and must stay as they are. */
  async writeWithBytes(message: unknown, bytes: Uint8Array): Promise<void> {
    const head = encode(message)
    await this.send(concat(prefix(head.length), head, prefix(bytes.length)), bytes)
  }

  private async send(...parts: Uint8Array[]): Promise<void> {
    const endsAt = this.endsAt()
    for (const part of parts) this.stream.send(part)
    while (this.stream.writableNeedsDrain) {
      if (this.stream.status !== 'open') throw new Error('the stream ended before all was written')
      await this.news(endsAt)
    }
  }

  private endsAt(): number {
    return Math.min(performance.now() + this.deadline, this.mustEndAt)
  }

  private append(piece: Uint8Array): void {
    this.held += piece.length
    const { block } = this
    if (piece.length >= SMALL) {
      this.pieces.push(piece)
      block.start = block.end
      return
    }
    if (block.end + piece.length > block.bytes.length) {
      block.bytes = new Uint8Array(Math.max(piece.length, Math.min(BLOCK, 2 * (block.end + piece.length))))
      block.start = block.end = 0
    }
    if (block.start < block.end) this.pieces.pop()
    block.bytes.set(piece, block.end)
    block.end += piece.length
    this.pieces.push(block.bytes.subarray(block.start, block.end))
  }

  private async waitFor(size: number, endsAt: number): Promise<void> {
    while (this.held < size) {
      this.resume()
      if (this.held >= size) break
      if (this.stream.remoteWriteStatus === 'closed' && this.stream.readBufferLength === 0) {
        throw new Error('the stream ended before a whole frame had come')
      }
      await this.news(endsAt)
    }
  }

  /** Of what is held. */
  private take(size: number): Uint8Array[] {
    const taken: Uint8Array[] = []
    let count = 0
    for (let left = size; left > 0; ) {
      const piece = this.pieces[count]!
      const part = piece.subarray(this.from, this.from + left)
      taken.push(part)
      left -= part.length
      this.from += part.length
      if (this.from < piece.length) break
      this.from = 0
      count++
    }
    this.pieces.splice(0, count)
    this.held -= size
    if (this.pieces.length === 0) this.block.start = this.block.end
    return taken
  }

  // While paused, yamux does not ask for more than it has asked for already.
  private pauseWhenFull(): void {
    if (this.held > this.maxFrame && this.stream.readStatus === 'readable') this.stream.pause()
  }

  // Pausing within `resume` would be undone by the end of it.
  private resume(): void {
    if (this.stream.readStatus !== 'paused') return
    this.isResuming = true
    try {
      this.stream.resume()
    } catch {
      // It ended meanwhile; what had come before is here all the same.
    }
    this.isResuming = false
    this.pauseWhenFull()
  }

  // A timer of its own, since on Node 20 the garbage collector takes a timeout that is a source of an AbortSignal.any
  // (nodejs/node#57736), and a deadline that does not come is none.
  private news(endsAt: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const settle = (how: () => void) => () => {
        clearTimeout(timer)
        this.wake = undefined
        how()
      }
      const late = settle(() => reject(new Error('the other side did not answer in time')))
      const timer = endsAt < Number.POSITIVE_INFINITY ? setTimeout(late, endsAt - performance.now()).unref() : undefined
      this.wake = settle(resolve)
    })
  }
}

/** An unsigned varint, as multiformats writes it: seven bits a byte, lowest first. */
function prefix(length: number): Uint8Array {
  const bytes: number[] = []
  for (let rest = length; rest > 0 || bytes.length === 0; rest >>>= 7)
    bytes.push(rest > 0x7f ? (rest & 0x7f) | 0x80 : rest)
  return Uint8Array.from(bytes)
}

/** Runs one side of an exchange on a stream, closing it after, or resetting it on failure. */
export async function exchange<T>(stream: Stream, run: () => Promise<T>): Promise<T> {
  try {
    const result = await run()
    await stream.close({ signal: AbortSignal.timeout(1000) }).catch(() => stream.abort(new Error('not closed in time')))
    // Half closed it would still count as one of the few streams that the other side may have.
    if (stream.status === 'open')
      setTimeout(() => stream.abort(new Error('not closed in time')), CLOSING_PATIENCE).unref()
    return result
  } catch (error) {
    stream.abort(error instanceof Error ? error : new Error(String(error)))
    throw error
  }
}
