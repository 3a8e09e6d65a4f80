// Pulses and probes: the small messages by which APs know of each other that they live. They go by datagram, and by stream
// where datagrams do not pass. Who is to be believed dead is not decided here but in protocols/roster.ts.
import { setTimeout as pause } from 'node:timers/promises'
import type { Connection, Stream } from '@libp2p/interface'
import { apId, apKey } from '../../protocols/bytes.js'
import type { DatagramMessage } from '../../protocols/datagram.js'
import { MAX_SMALL_FRAME } from '../../protocols/limits.js'
import { isNewer } from '../../protocols/refutation.js'
import {
  type ProbeReply,
  type ProbeRequest,
  type Pulse,
  probeReply,
  probeRequest,
  type protocolIds,
  pulse,
} from '../../protocols/wire.js'
import type { Datagrams } from './datagrams.js'
import type { Dialler } from './dialler.js'
import { exchange, Frames } from './frames.js'
import { connectionTo, type Host, openStream } from './host.js'

export interface LifeSign {
  boot: number
  sequence: number
}

/** What a pulse says of who sent it: also, where it is about to be silent on purpose, for how many milliseconds. */
export type PulseSign = Omit<Pulse, 'ledger'>

export interface LivenessHandlers {
  isMember(ap: string): boolean
  /** Our own next life sign, for a pulse or an answer. */
  sign(): LifeSign
  /** For how long this AP is about to be silent. */
  away(): number | undefined
  ledgerDigest(): Uint8Array
  /** Counts a pulse that came by stream. False where that AP has sent too many. */
  mayPulse(from: string): boolean
  onPulse(from: string, sign: PulseSign, ledger: Uint8Array): void
}

/** A pulse that cannot be written in this time is given up, and its stream with it, in milliseconds. */
const PULSE_DEADLINE = 2000
/** A pulse of which nobody said that it came goes again, both ways, after so many milliseconds: more than a full queue takes. */
const REPEAT_PULSE = 200

interface OpenStream {
  readonly frames: Frames
  readonly stream: Stream
  busySince: number | undefined
}

/** Sends this AP's pulses, and receives those of the APs it watches. */
export class Pulses {
  private readonly streams = new Map<string, OpenStream>()
  private readonly opening = new Set<string>()
  /** Watchers that said they heard a datagram: since it was last looked, and as of then. */
  private readonly heard = new Set<string>()
  private readonly hearing = new Set<string>()
  /** The latest pulse of each AP: one that comes both ways, or late, counts for nothing the second time. */
  private readonly latest = new Map<string, LifeSign>()

  constructor(
    private readonly host: Host,
    private readonly ids: ReturnType<typeof protocolIds>,
    private readonly datagrams: Datagrams,
    private readonly handlers: LivenessHandlers,
  ) {}

  async start(): Promise<void> {
    await this.host.handle(
      this.ids.pulse,
      async (stream: Stream, connection: Connection) => {
        const from = connection.remotePeer.toString()
        // No deadline: a silent stream costs nothing, there are two a peer at most, and silence is the roster's to judge.
        const frames = new Frames(stream, MAX_SMALL_FRAME)
        for (;;) {
          const message = await frames.read(pulse)
          if (!this.handlers.mayPulse(from)) throw new Error('too many pulses')
          this.count(from, message)
        }
      },
      { maxInboundStreams: 2 },
    )
  }

  /**
   * Sends one pulse to each of the watchers: by datagram, and by stream to those that do not hear datagrams. Never waits for
   * any of them.
   */
  send(watchers: readonly string[]): void {
    for (const ap of this.streams.keys()) if (!watchers.includes(ap)) this.drop(ap)
    const away = this.handlers.away()
    const said = { ...this.handlers.sign(), ledger: this.handlers.ledgerDigest() }
    const message: Pulse = away === undefined ? said : { ...said, away }
    for (const ap of watchers) {
      const isSent = this.datagrams.send(ap, ['pulse', message])
      if (!isSent || !this.hearing.has(ap)) this.sendByStream(ap, message)
    }
    setTimeout(() => this.repeat(watchers, message), REPEAT_PULSE).unref()
  }

  // Looks who heard anything since the last time, not who heard this very pulse: on a long way the answer to it comes later.
  private repeat(watchers: readonly string[], message: Pulse): void {
    for (const ap of watchers) {
      if (this.heard.delete(ap)) this.hearing.add(ap)
      else {
        this.datagrams.send(ap, ['pulse', message])
        if (this.hearing.delete(ap)) this.sendByStream(ap, message)
      }
    }
  }

  /** Watchers that hear this AP's datagrams. */
  heardBy(): ReadonlySet<string> {
    return this.hearing
  }

  /** Takes what came by datagram and is about pulses. */
  take(from: string, message: DatagramMessage): void {
    if (message[0] === 'heard') this.heard.add(from)
    if (message[0] !== 'pulse') return
    this.datagrams.send(from, ['heard'])
    this.count(from, message[1])
  }

  private count(from: string, { ledger, ...sign }: Pulse): void {
    if (!this.handlers.isMember(from)) return
    const latest = this.latest.get(from)
    if (latest !== undefined && !isNewer(sign, latest)) return
    this.latest.set(from, sign)
    this.handlers.onPulse(from, sign, ledger)
  }

  private sendByStream(ap: string, message: Pulse): void {
    const open = this.streams.get(ap)
    if (open === undefined || open.stream.status !== 'open') void this.openTo(ap, message)
    else if (open.busySince === undefined) this.write(ap, open, message)
    else if (performance.now() - open.busySince > PULSE_DEADLINE) this.drop(ap)
  }

  private write(ap: string, open: OpenStream, message: Pulse): void {
    open.busySince = performance.now()
    open.frames
      .write(message)
      .then(() => {
        open.busySince = undefined
      })
      .catch(() => this.drop(ap))
  }

  private async openTo(ap: string, message: Pulse): Promise<void> {
    if (this.opening.has(ap) || connectionTo(this.host, ap) === undefined) return
    this.opening.add(ap)
    try {
      const stream = await openStream(this.host, ap, this.ids.pulse, AbortSignal.timeout(PULSE_DEADLINE))
      const open = { stream, frames: new Frames(stream, MAX_SMALL_FRAME), busySince: undefined }
      this.streams.set(ap, open)
      this.write(ap, open, message)
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
const INDIRECT_DEADLINE = 2 * PROBE_DEADLINE
/** So many others that say that they did not reach an AP are enough. */
const ENOUGH_FAILED = 2
/**
 * A probe by datagram is repeated, for each may be lost, and has a head start before the one by stream, in milliseconds. The
 * answer of who probes for us takes a probe of its own, and a stream for nothing is dear.
 */
const REPEAT_PROBE = 100
const HEAD_START = 100
const INDIRECT_HEAD_START = 400
/** Where no stream can be had at all, datagrams still get so long to tell otherwise. A refusal came as late as they would. */
const PATIENCE = 300

/**
 * A connection over which no probe was answered for so long is closed, in milliseconds: where a cable was pulled or a power
 * cut came, TCP would hold on to it for minutes, and nobody would dial anew. Failures that lie further apart are none in a row.
 */
const STALE = 5000
const IN_A_ROW = 2000

const NOT_REACHED: ProbeReply = { boot: 0, sequence: 0, reached: false }

/**
 * What a probe comes to: a life sign, silence, the word of its host that nothing listens there, or that of another AP that it
 * did not reach it.
 */
export type Probed = LifeSign | 'silent' | 'refused' | 'unreached'

/** Asks whether an AP is there: directly, or through another one. */
export class Probes {
  private readonly unanswered = new WeakMap<Connection, { since: number; last: number }>()
  /** Direct probes that are under way, by AP: whoever asks meanwhile waits for the same. */
  private readonly running = new Map<string, Promise<Probed>>()
  /** Our questions by datagram, by number, and those of others that wait for a probe: they are repeated meanwhile. */
  private readonly questions = new Map<number, { ap: string; settle(reply: ProbeReply): void }>()
  private readonly answering = new Set<string>()
  private lastNumber = 0

  constructor(
    private readonly host: Host,
    private readonly ids: ReturnType<typeof protocolIds>,
    private readonly dialler: Dialler,
    private readonly datagrams: Datagrams,
    private readonly handlers: LivenessHandlers,
  ) {}

  async start(): Promise<void> {
    await this.host.handle(
      this.ids.probe,
      async (stream: Stream) => {
        await exchange(stream, async () => {
          const frames = new Frames(stream, MAX_SMALL_FRAME, INDIRECT_DEADLINE)
          await frames.write(await this.answer(await frames.read(probeRequest)))
        })
      },
      { maxInboundStreams: 8 },
    )
  }

  /** Takes what came by datagram and is about probes. */
  take(from: string, message: DatagramMessage): void {
    if (message[0] === 'answer') {
      const question = this.questions.get(message[1])
      if (question?.ap === from) question.settle(message[2])
    }
    if (message[0] !== 'ask') return
    const [, number, request] = message
    const id = `${from} ${number}`
    if (this.answering.has(id)) return
    this.answering.add(id)
    void this.answer(request)
      .then((reply) => this.datagrams.send(from, ['answer', number, reply]))
      .catch(() => {}) // no answer is one
      .finally(() => this.answering.delete(id))
  }

  private async answer({ ap }: ProbeRequest): Promise<ProbeReply> {
    const sign = ap === undefined ? this.handlers.sign() : await this.direct(apId(ap))
    return typeof sign === 'string' ? NOT_REACHED : { boot: sign.boot, sequence: sign.sequence, reached: true }
  }

  /** Reaches an AP by itself: over the connection that is there, else over a new one. */
  direct(ap: string): Promise<Probed> {
    let probe = this.running.get(ap)
    if (probe === undefined) {
      probe = this.ask(ap, {}, PROBE_DEADLINE, HEAD_START).finally(() => this.running.delete(ap))
      this.running.set(ap, probe)
    }
    return probe
  }

  /** True where one of some other APs reaches it. Who died with it says nothing, so not all are waited for. */
  through(ap: string, via: readonly string[]): Promise<boolean> {
    return new Promise((resolve, reject) => {
      let waiting = via.length
      let failed = 0
      if (waiting === 0) resolve(false)
      const count = (outcome: Probed) => {
        waiting--
        if (outcome === 'unreached') failed++
        if (typeof outcome === 'object') resolve(true)
        else if (waiting === 0 || failed === ENOUGH_FAILED) resolve(false)
      }
      for (const other of via) this.indirect(ap, other).then(count, reject)
    })
  }

  /** Lets another AP reach it. */
  indirect(ap: string, via: string): Promise<Probed> {
    return this.ask(via, { ap: apKey(ap) }, INDIRECT_DEADLINE, INDIRECT_HEAD_START)
  }

  private async ask(ap: string, request: ProbeRequest, deadline: number, headStart: number): Promise<Probed> {
    const began = performance.now()
    const number = ++this.lastNumber
    const question = new Promise<ProbeReply>((settle) => this.questions.set(number, { ap, settle }))
    const send = () => this.datagrams.send(ap, ['ask', number, request])
    const isAsked = send()
    const repeating = setInterval(send, REPEAT_PROBE)
    /** The answer by datagram, if it comes until then. */
    const until = (end: number) => Promise.race([question, pause(Math.max(0, end - performance.now()), undefined)])
    try {
      let reply: ProbeReply | 'refused' | undefined
      // A process that ended has no connections any more, and its host refuses one faster than datagrams stay unanswered.
      if (isAsked && connectionTo(this.host, ap) !== undefined) reply = await until(began + headStart)
      reply ??= await Promise.race([question, this.askByStream(ap, request, began + deadline)])
      if (reply === 'refused') return reply
      if (isAsked) reply ??= await until(began + PATIENCE)
      if (reply === undefined) return 'silent'
      const { reached, ...sign } = reply
      return reached ? sign : 'unreached'
    } finally {
      clearInterval(repeating)
      this.questions.delete(number)
    }
  }

  private async askByStream(
    ap: string,
    request: ProbeRequest,
    endsAt: number,
  ): Promise<ProbeReply | 'refused' | undefined> {
    const connection = connectionTo(this.host, ap)
    const reply = await this.overStream(ap, request, endsAt).catch((error) =>
      isRefusal(error) ? ('refused' as const) : undefined,
    )
    if (connection !== undefined && request.ap === undefined) this.judge(connection, typeof reply === 'object')
    return reply
  }

  private async overStream(ap: string, request: ProbeRequest, endsAt: number): Promise<ProbeReply> {
    const left = () => Math.max(1, Math.ceil(endsAt - performance.now()))
    const signal = AbortSignal.timeout(left())
    await this.dialler.connect(ap, signal)
    const stream = await openStream(this.host, ap, this.ids.probe, signal)
    return exchange(stream, async () => {
      const frames = new Frames(stream, MAX_SMALL_FRAME, left())
      await frames.write(request)
      return frames.read(probeReply)
    })
  }

  private judge(connection: Connection, answered: boolean): void {
    const now = performance.now()
    const before = this.unanswered.get(connection)
    const since = before !== undefined && now - before.last < IN_A_ROW ? before.since : now
    if (answered) this.unanswered.delete(connection)
    else this.unanswered.set(connection, { since, last: now })
    if (!answered && now - since > STALE) connection.abort(new Error('no probe was answered'))
  }
}

/**
 * True where a host said that nothing listens, and none of the addresses was silent. (What answers as somebody else, as this
 * AP itself does at a loopback address, is not the one that was asked.)
 */
function isRefusal(error: unknown): boolean {
  const errors = error instanceof AggregateError ? error.errors : [error]
  const isSilent = ({ name, code }: { name?: string; code?: string }) =>
    name === 'AbortError' ||
    name === 'TimeoutError' ||
    ['ETIMEDOUT', 'EHOSTUNREACH', 'ENETUNREACH'].includes(code ?? '')
  return errors.some(({ code }) => code === 'ECONNREFUSED') && !errors.some(isSilent)
}
