// Carries lease requests to voters and their answers back. What is granted is decided in protocols/leases.ts.
import type { Connection, Stream } from '@libp2p/interface'
import { hex, unhex } from '../../protocols/bytes.js'
import type { LeaseAnswer, LeaseRequest } from '../../protocols/leases.js'
import { MAX_LEASE_FRAME } from '../../protocols/limits.js'
import { leaseReply, leaseRequest, type protocolIds } from '../../protocols/wire.js'
import type { Dialler } from './dialler.js'
import { exchange, Frames } from './frames.js'
import { type Host, openStream } from './host.js'

/** A voter syncs to disk before it answers. In milliseconds; far below the time between two requests. */
const DEADLINE = 1500

/** What an AP tells a voter at one time: requests, and epochs it gives back. */
export interface LeaseMessage {
  readonly asks: readonly LeaseRequest[]
  readonly releases: readonly { readonly instance: string; readonly epoch: number }[]
}

export interface LeaseHandlers {
  /** One answer for each request, once all that they promise is on disk. */
  onLease(from: string, message: LeaseMessage): Promise<LeaseAnswer[]>
}

export class LeaseCalls {
  constructor(
    private readonly host: Host,
    private readonly ids: ReturnType<typeof protocolIds>,
    private readonly dialler: Dialler,
    private readonly handlers: LeaseHandlers,
  ) {}

  async start(): Promise<void> {
    await this.host.handle(
      this.ids.lease,
      async (stream: Stream, connection: Connection) => {
        const from = connection.remotePeer.toString()
        await exchange(stream, async () => {
          const frames = new Frames(stream, MAX_LEASE_FRAME, DEADLINE)
          const { asks, releases } = await frames.read(leaseRequest)
          const answers = await this.handlers.onLease(from, {
            asks: asks.map(([instance, generation, epoch]) => ({ instance: hex(instance), generation, epoch })),
            releases: releases.map(([instance, epoch]) => ({ instance: hex(instance), epoch })),
          })
          await frames.write(
            answers.map((answer) => (answer.granted ? ['granted'] : [answer.reason, answer.epoch, answer.wait])),
          )
        })
      },
      { maxInboundStreams: 8 },
    )
  }

  /** The answer to each request, or undefined where none came. */
  async call(voter: string, { asks, releases }: LeaseMessage): Promise<LeaseAnswer[] | undefined> {
    try {
      const endsAt = performance.now() + DEADLINE
      const signal = AbortSignal.timeout(DEADLINE)
      await this.dialler.connect(voter, signal)
      const stream = await openStream(this.host, voter, this.ids.lease, signal)
      return await exchange(stream, async () => {
        const frames = new Frames(stream, MAX_LEASE_FRAME, DEADLINE, endsAt - performance.now())
        await frames.write({
          asks: asks.map(({ instance, generation, epoch }) => [unhex(instance), generation, epoch]),
          releases: releases.map(({ instance, epoch }) => [unhex(instance), epoch]),
        })
        const reply = await frames.read(leaseReply)
        if (reply.length !== asks.length) return undefined
        return reply.map(
          (answer): LeaseAnswer =>
            answer[0] === 'granted'
              ? { granted: true }
              : { granted: false, reason: answer[0], epoch: answer[1], wait: answer[2] },
        )
      })
    } catch {
      return undefined
    }
  }
}
