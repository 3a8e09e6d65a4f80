// A stream as a sequence of checked messages, each read and write with a deadline.
import type { Stream } from '@libp2p/interface'
import { type LengthPrefixedStream, lpStream } from '@libp2p/utils'
import type { z } from 'zod'
import { encode } from '../../protocols/codec.js'
import { readFrame } from '../../protocols/wire.js'

export class Frames {
  private readonly stream: LengthPrefixedStream<Stream>

  /**
   * @param maxFrame bytes; a longer frame ends the stream before it is read
   * @param deadline of each single read or write, in milliseconds
   */
  constructor(
    raw: Stream,
    maxFrame: number,
    private readonly deadline: number,
    private readonly signal?: AbortSignal,
  ) {
    this.stream = lpStream(raw, { maxDataLength: maxFrame, maxBufferSize: 4 * maxFrame })
  }

  /** @throws when the stream ends, the deadline passes, or the frame is none of `schema` */
  async read<T>(schema: z.ZodType<T>): Promise<T> {
    return readFrame(schema, await this.readBytes())
  }

  async readBytes(): Promise<Uint8Array> {
    return (await this.stream.read({ signal: this.limit() })).subarray()
  }

  async write(message: unknown): Promise<void> {
    await this.stream.write(encode(message), { signal: this.limit() })
  }

  async writeBytes(bytes: Uint8Array): Promise<void> {
    await this.stream.write(bytes, { signal: this.limit() })
  }

  private limit(): AbortSignal {
    const timeout = AbortSignal.timeout(this.deadline)
    return this.signal === undefined ? timeout : AbortSignal.any([timeout, this.signal])
  }
}

/** Runs one side of an exchange on a stream, closing it after, or resetting it on failure. */
export async function exchange<T>(stream: Stream, run: () => Promise<T>): Promise<T> {
  try {
    const result = await run()
    await stream.close({ signal: AbortSignal.timeout(1000) }).catch(() => stream.abort(new Error('not closed in time')))
    return result
  } catch (error) {
    stream.abort(error instanceof Error ? error : new Error(String(error)))
    throw error
  }
}
