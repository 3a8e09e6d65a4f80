// Asks APs whose beacons are not heard here for the latest one: for people who ask about all of the mesh, and to know whether
// what moved far away serves there.
import type { Stream } from '@libp2p/interface'
import { MAX_JOIN_FRAME } from '../../protocols/limits.js'
import { beaconReply, beaconRequest, type protocolIds } from '../../protocols/wire.js'
import type { Dialler } from './dialler.js'
import { exchange, Frames } from './frames.js'
import { type Host, openStream } from './host.js'

/** In milliseconds: a person waits for it. */
const DEADLINE = 1500

export interface GlimpseHandlers {
  ownBeacon(): Uint8Array | undefined
}

export class Glimpses {
  constructor(
    private readonly host: Host,
    private readonly ids: ReturnType<typeof protocolIds>,
    private readonly dialler: Dialler,
    private readonly handlers: GlimpseHandlers,
  ) {}

  async start(): Promise<void> {
    await this.host.handle(
      this.ids.beacon,
      async (stream: Stream) => {
        await exchange(stream, async () => {
          const frames = new Frames(stream, MAX_JOIN_FRAME, DEADLINE)
          await frames.read(beaconRequest)
          const beacon = this.handlers.ownBeacon()
          await frames.write(beacon === undefined ? {} : { beacon })
        })
      },
      { maxInboundStreams: 4 },
    )
  }

  /** The latest beacon of an AP in an envelope that nobody has opened yet. @throws where it does not answer in time */
  async ask(ap: string): Promise<Uint8Array | undefined> {
    const signal = AbortSignal.timeout(DEADLINE)
    await this.dialler.connect(ap, signal)
    const stream = await openStream(this.host, ap, this.ids.beacon, signal)
    return exchange(stream, async () => {
      const frames = new Frames(stream, MAX_JOIN_FRAME, DEADLINE)
      await frames.write({})
      return (await frames.read(beaconReply)).beacon
    })
  }
}
