// Images between APs: a stream of checked chunks on a connection of its own. A later package store replaces this file and
// supply.ts; the reconciler knows of neither.
import type { Connection, Stream } from '@libp2p/interface'
import { hex } from '../../protocols/bytes.js'
import type { ImageSpec } from '../../protocols/deployment.js'
import { MeshError, messageOf } from '../../protocols/error.js'
import { MAX_CHUNK } from '../../protocols/limits.js'
import { imageReply, imageRequest } from '../../protocols/wire.js'
import { exchange, Frames } from '../mesh/frames.js'
import { setBulk } from '../mesh/host.js'
import type { Network } from '../mesh/network.js'
import type { Images } from './images.js'
import { SENT_AT_ONCE, Slots, SPARES_SENT_AT_ONCE } from './slots.js'

/**
 * A chunk that takes longer than this ends the transfer, in milliseconds. Long, since the engine that saves an image first
 * writes all of it to its disk, twice where it never did before, and the one that loads it may be as slow to take it. An AP
 * that dies is noticed sooner: its connections are closed.
 */
const CHUNK_DEADLINE = 300_000

export interface TransferOptions {
  readonly network: Network
  readonly images: Pick<Images, 'has' | 'sizeOf' | 'export'>
  /** The image of a chute with this config digest, in hex: nothing else on this engine is handed out. */
  readonly imageOf: (config: string) => ImageSpec | undefined
}

/** Serves the images of chutes to other APs. */
export async function serveImages({ network, images, imageOf }: TransferOptions): Promise<void> {
  const slots = new Slots(SENT_AT_ONCE)
  const spareSlots = new Slots(SPARES_SENT_AT_ONCE)
  await network.host.handle(
    network.imageProtocol,
    async (stream: Stream, connection: Connection) => {
      setBulk(connection)
      await exchange(stream, async () => {
        const frames = new Frames(stream, MAX_CHUNK, CHUNK_DEADLINE)
        const { config, skip, spare } = await frames.read(imageRequest)
        const image = imageOf(hex(config))
        if (image === undefined || !(await images.has(image))) {
          await frames.write(['refused', 'this AP does not have that image'])
          return
        }
        const giveBack = (spare === undefined ? slots : spareSlots).take(connection.remotePeer.toString())
        if (giveBack === undefined) return frames.write(['busy'])
        try {
          const size = spare === undefined ? 0 : await images.sizeOf(image, skip)
          if (size > (spare ?? size)) return await frames.write(['too-big', size])
          await frames.write(['sending'])
          for await (const bytes of images.export(image, skip)) {
            // What is for later waits for what is needed now; its receiver bears with that.
            if (spare !== undefined) await slots.free()
            for (let at = 0; at < bytes.length; at += MAX_CHUNK)
              await frames.writeBytes(bytes.subarray(at, at + MAX_CHUNK))
          }
          await frames.writeBytes(new Uint8Array())
        } finally {
          giveBack()
        }
      })
    },
    { maxInboundStreams: 2 },
  )
}

/** That an image is fetched for later. */
export interface Spare {
  /** Bytes that it may have at most. */
  readonly room: number
  /** Resolves when there is nothing more urgent. */
  readonly turn: () => Promise<void>
}

/**
 * Fetches an image from one AP into the local engine. Returns the bytes received.
 * @throws MeshError `busy`, `too-big` where it is for later and there is no room for it, or `no-image`
 */
export async function fetchImage(
  network: Network,
  images: Pick<Images, 'held' | 'import'>,
  ap: string,
  image: ImageSpec,
  spare?: Spare,
): Promise<number> {
  const skip = await images.held(image)
  const connection = await network.connectForBulk(ap, AbortSignal.timeout(10_000))
  setBulk(connection)
  try {
    const stream = await connection.newStream(network.imageProtocol, { signal: AbortSignal.timeout(10_000) })
    return await exchange(stream, async () => {
      const frames = new Frames(stream, MAX_CHUNK, CHUNK_DEADLINE)
      await frames.write({ config: image.config, skip, ...(spare && { spare: spare.room }) })
      const reply = await frames.read(imageReply)
      if (reply[0] === 'busy') throw new MeshError('busy', 'it is sending to others')
      if (reply[0] === 'too-big') throw tooBig(reply[1])
      if (reply[0] === 'refused') throw new MeshError('no-image', reply[1])
      let received = 0
      async function* chunks() {
        for (;;) {
          const chunk = await frames.readBytes()
          if (chunk.length === 0) return
          received += chunk.length
          if (received > (spare?.room ?? received)) throw tooBig(received)
          await spare?.turn()
          yield chunk
        }
      }
      await images.import(image, chunks())
      return received
    })
  } catch (error) {
    if (error instanceof MeshError && ['busy', 'too-big'].includes(error.code)) throw error
    throw new MeshError('no-image', `${ap} did not deliver the image: ${messageOf(error)}`, { cause: error })
  } finally {
    await connection.close().catch(() => {})
  }
}

const tooBig = (bytes: number) => new MeshError('too-big', `there is no room for ${bytes} bytes`)
