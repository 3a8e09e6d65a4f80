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
/** When this side is done, the other one has so long to be done as well, in milliseconds. */
const CLOSING_PATIENCE = 5000

// libp2p's own length-prefixed stream takes in whatever comes while nobody reads, and gives up beyond its buffer, so that a
// fast sender ends every long exchange; it also reads on for ever in a prefix that has no end.
export class Frames {
  private bytes = new Uint8Array()
  private from = 0
  private to = 0
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
      this.append(data.subarray())
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
    const endsAt = this.endsAt()
    let length = 0
    for (let i = 0; ; i++) {
      if (i === MAX_PREFIX) throw new MeshError('malformed', 'a frame whose length has no end')
      const byte = (await this.take(1, endsAt))[0]!
      length += (byte & 0x7f) << (7 * i)
      if (byte < 0x80) break
    }
    if (length > this.maxFrame) {
      throw new MeshError('malformed', `a frame of ${length} bytes; ${this.maxFrame} are allowed`)
    }
    return this.take(length, endsAt)
  }

  async write(message: unknown): Promise<void> {
    await this.writeBytes(encode(message))
  }

  async writeBytes(bytes: Uint8Array): Promise<void> {
    const endsAt = this.endsAt()
    if (this.stream.send(concat(prefix(bytes.length), bytes))) return
    while (this.stream.writableNeedsDrain) {
      if (this.stream.status !== 'open') throw new Error('the stream ended before all was written')
      await this.news(endsAt)
    }
  }

  private endsAt(): number {
    return Math.min(performance.now() + this.deadline, this.mustEndAt)
  }

  private get held(): number {
    return this.to - this.from
  }

  private append(data: Uint8Array): void {
    if (this.to + data.length > this.bytes.length) {
      const held = this.bytes.subarray(this.from, this.to)
      this.bytes = new Uint8Array(2 * (held.length + data.length))
      this.bytes.set(held)
      this.from = 0
      this.to = held.length
    }
    this.bytes.set(data, this.to)
    this.to += data.length
  }

  private async take(size: number, endsAt: number): Promise<Uint8Array> {
    while (this.held < size) {
      this.resume()
      if (this.held >= size) break
      if (this.stream.remoteWriteStatus === 'closed' && this.stream.readBufferLength === 0) {
        throw new Error('the stream ended before a whole frame had come')
      }
      await this.news(endsAt)
    }
    const taken = this.bytes.slice(this.from, this.from + size)
    this.from += size
    if (this.from === this.to) this.from = this.to = 0
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
