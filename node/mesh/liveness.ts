// Pulses and probes: the small frames by which APs know of each other that they live. Who is to be believed dead is not
// decided here but in protocols/roster.ts.
import type { Connection, Stream } from '@libp2p/interface'
import { apId, apKey } from '../../protocols/bytes.js'
import { MAX_SMALL_FRAME } from '../../protocols/limits.js'
import { probeReply, probeRequest, type protocolIds, pulse } from '../../protocols/wire.js'
import type { Dialler } from './dialler.js'
import { exchange, Frames } from './frames.js'
import { connectionTo, type Host, openStream } from './host.js'

export interface LifeSign {
  boot: number
  sequence: number
}

export interface LivenessHandlers {
  isMember(ap: string): boolean
  /** Our own next life sign, for a pulse or an answer. */
  sign(): LifeSign
  ledgerDigest(): Uint8Array
  onPulse(from: string, sign: LifeSign, ledger: Uint8Array): void
}

/** A pulse that cannot be written in this time is given up, and its stream with it, in milliseconds. */
const PULSE_DEADLINE = 2000

/** Sends this AP's pulses, and receives those of the APs it watches. */
export class Pulses {
  private readonly streams = new Map<string, { frames: Frames; stream: Stream; busySince: number | undefined }>()
  private readonly opening = new Set<string>()

  constructor(
    private readonly host: Host,
    private readonly ids: ReturnType<typeof protocolIds>,
    private readonly handlers: LivenessHandlers,
  ) {}

  async start(): Promise<void> {
    await this.host.handle(
      this.ids.pulse,
      async (stream: Stream, connection: Connection) => {
        const from = connection.remotePeer.toString()
        if (!this.handlers.isMember(from)) return stream.abort(new Error('not a member'))
        // No deadline: a silent stream costs nothing, there are two a peer at most, and silence is the roster's to judge.
        const frames = new Frames(stream, MAX_SMALL_FRAME)
        try {
          for (;;) {
            const { ledger, ...sign } = await frames.read(pulse)
            this.handlers.onPulse(from, sign, ledger)
          }
        } catch (error) {
          stream.abort(error as Error)
        }
      },
      { maxInboundStreams: 2 },
    )
  }

  /** Sends one pulse to each of the watchers that is connected. Never waits for any of them. */
  send(watchers: readonly string[]): void {
    for (const ap of this.streams.keys()) if (!watchers.includes(ap)) this.drop(ap)
    const message = { ...this.handlers.sign(), ledger: this.handlers.ledgerDigest() }
    for (const ap of watchers) {
      const open = this.streams.get(ap)
      if (open === undefined || open.stream.status !== 'open') void this.openTo(ap)
      else if (open.busySince !== undefined) {
        if (performance.now() - open.busySince > PULSE_DEADLINE) this.drop(ap)
      } else {
        open.busySince = performance.now()
        open.frames
          .write(message)
          .then(() => {
            open.busySince = undefined
          })
          .catch(() => this.drop(ap))
      }
    }
  }

  private async openTo(ap: string): Promise<void> {
    if (this.opening.has(ap) || connectionTo(this.host, ap) === undefined) return
    this.opening.add(ap)
    try {
      const stream = await openStream(this.host, ap, this.ids.pulse, AbortSignal.timeout(PULSE_DEADLINE))
      this.streams.set(ap, { stream, frames: new Frames(stream, MAX_SMALL_FRAME), busySince: undefined })
    } catch {
      // The next pulse tries again.
    } finally {
      this.opening.delete(ap)
    }
  }

  private drop(ap: string): void {
    this.streams.get(ap)?.stream.abort(new Error('pulse stopped'))
    this.streams.delete(ap)
  }
}

/** Deadline of each probe, in milliseconds: direct ones on loopback or a LAN take a few. */
const PROBE_DEADLINE = 700

/**
 * A connection over which no probe was answered for so long is closed, in milliseconds: where a cable was pulled or a power
 * cut came, TCP would hold on to it for minutes, and nobody would dial anew. Failures that lie further apart are none in a row.
 */
const STALE = 5000
const IN_A_ROW = 2000

/** Asks whether an AP is there: directly, or through another one. */
export class Probes {
  private readonly unanswered = new WeakMap<Connection, { since: number; last: number }>()

  constructor(
    private readonly host: Host,
    private readonly ids: ReturnType<typeof protocolIds>,
    private readonly dialler: Dialler,
    private readonly handlers: LivenessHandlers,
  ) {}

  async start(): Promise<void> {
    await this.host.handle(
      this.ids.probe,
      async (stream: Stream, connection: Connection) => {
        if (!this.handlers.isMember(connection.remotePeer.toString())) return stream.abort(new Error('not a member'))
        await exchange(stream, async () => {
          const frames = new Frames(stream, MAX_SMALL_FRAME, 2 * PROBE_DEADLINE)
          const request = await frames.read(probeRequest)
          const sign = request.ap === undefined ? this.handlers.sign() : await this.direct(apId(request.ap))
          await frames.write({ boot: 0, sequence: 0, ...sign, reached: sign !== undefined })
        }).catch(() => {})
      },
      { maxInboundStreams: 8 },
    )
  }

  /** Reaches an AP by itself: over the connection that is there, else over a new one. Undefined where it does not answer. */
  async direct(ap: string): Promise<LifeSign | undefined> {
    const connection = connectionTo(this.host, ap)
    const sign = await this.ask(ap, {}, PROBE_DEADLINE)
    if (connection !== undefined) this.judge(connection, sign !== undefined)
    return sign
  }

  private judge(connection: Connection, answered: boolean): void {
    const now = performance.now()
    const before = this.unanswered.get(connection)
    const since = before !== undefined && now - before.last < IN_A_ROW ? before.since : now
    if (answered) this.unanswered.delete(connection)
    else this.unanswered.set(connection, { since, last: now })
    if (!answered && now - since > STALE) connection.abort(new Error('no probe was answered'))
  }

  /** Lets another AP reach it. */
  indirect(ap: string, via: string): Promise<LifeSign | undefined> {
    return this.ask(via, { ap: apKey(ap) }, 2 * PROBE_DEADLINE)
  }

  private async ask(ap: string, request: { ap?: Uint8Array }, deadline: number): Promise<LifeSign | undefined> {
    try {
      const endsAt = performance.now() + deadline
      const signal = AbortSignal.timeout(deadline)
      await this.dialler.connect(ap, signal)
      const stream = await openStream(this.host, ap, this.ids.probe, signal)
      return await exchange(stream, async () => {
        const frames = new Frames(stream, MAX_SMALL_FRAME, deadline, endsAt - performance.now())
        await frames.write(request)
        const { reached, ...sign } = await frames.read(probeReply)
        return reached ? sign : undefined
      })
    } catch {
      return undefined
    }
  }
}
