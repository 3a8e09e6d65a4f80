// The network side of a simulated AP, as node/mesh/ is of a real one: stays connected, gossips, pulses, probes, syncs and
// joins, with the same deadlines, over simulated connections. Deciding is left to the same code as there.
import type { z } from 'zod'
import type { Time } from '../../node/clock.js'
import { admit } from '../../node/mesh/join.js'
import type { LeaseMessage } from '../../node/mesh/leases.js'
import type { LifeSign } from '../../node/mesh/liveness.js'
import { replicate } from '../../node/mesh/replicate.js'
import { answerForgotten, answerSync, initiateSync, type SyncFrames, type SyncResult } from '../../node/mesh/sync.js'
import type { LedgerStore } from '../../node/store/ledger-store.js'
import { isOfDisk } from '../../node/store/store.js'
import type { SignedRecord } from '../../protocols/envelope.js'
import { MeshError, messageOf } from '../../protocols/error.js'
import { isKind, type RecordOf } from '../../protocols/kinds.js'
import type { LeaseAnswer } from '../../protocols/leases.js'
import { membershipOf } from '../../protocols/membership.js'
import { COMPARE, Differences } from '../../protocols/pace.js'
import type { Papers } from '../../protocols/ticket.js'
import type { SyncFrame } from '../../protocols/wire.js'
import type { Connection, Side } from './network.js'
import type { Random } from './random.js'

// As in node/mesh: dialler.ts, liveness.ts, network.ts, host.ts, sync.ts, join.ts. All in milliseconds.
const DIAL = 500
const BACKOFF_FIRST = 500
const BACKOFF_CAP = 15_000
const HEAD_START = 1000
const DIAL_DEADLINE = 5000
const PROBE_DEADLINE = 700
/** So many others that say that they did not reach an AP are enough. */
const ENOUGH_FAILED = 2
const LEASE_DEADLINE = 1500
const STALE = 5000
const IN_A_ROW = 2000
const FRAME_DEADLINE = 10_000
const JOIN_DEADLINE = 5000
const STRANGER_PATIENCE = 15_000
const RENEW_AFTER = 1500
/** Peers that a gossip message is forwarded to, gossipsub's D. */
const DEGREE = 8

/** Bytes on the wire of what has no size of its own. */
const SMALL = 60
const BEACONS = 'beacons'

/** The sign of an AP that was reached; who does not answer says neither. */
export type ProbeAnswer = LifeSign | 'unreached'

export type Message =
  | { readonly is: 'pulse'; readonly sign: LifeSign; readonly ledger: Uint8Array }
  | { readonly is: 'gossip'; readonly bytes: Uint8Array; readonly topic: 'records' | 'beacons' }
  | { readonly is: 'probe'; readonly id: number; readonly ap?: string }
  | { readonly is: 'probed'; readonly id: number; readonly sign: ProbeAnswer }
  | { readonly is: 'lease'; readonly id: number; readonly message: LeaseMessage }
  | { readonly is: 'leased'; readonly id: number; readonly answers: LeaseAnswer[] }
  | { readonly is: 'frame'; readonly stream: number; readonly opens?: 'sync' | 'join'; readonly frame: unknown }
  | { readonly is: 'reset'; readonly stream: number }

type Joining = ['join', Uint8Array, Uint8Array] | ['welcome', number] | ['refused', string]

export interface MeshHost {
  dial(ap: string, deadline: number, isWanted: () => boolean, done: (connection: Connection | undefined) => void): void
  peerOf(connection: Connection, side: Side): string
  /** True where a gossip message would be the second one of its kind there: it is paid for, and nothing follows from it. */
  hasSeen(ap: string, bytes: Uint8Array): boolean
  charge(bytes: number): void
  readonly time: Time
  readonly random: Random
  touch(): void
}

/** As in node/mesh/network.ts. */
export interface MeshHandlers {
  isMember(ap: string): boolean
  forgets(ap: string): SignedRecord[]
  sign(): LifeSign
  beacons(): RecordOf<'beacon'>[]
  onBeacon(beacon: RecordOf<'beacon'>): boolean
  onPulse(from: string, sign: LifeSign): void
  onLease(from: string, message: LeaseMessage): Promise<LeaseAnswer[]>
  onTime(ap: string, ms: number): void
  onConnected(ap: string): void
  onLost(ap: string): void
  onPeers(aps: readonly string[]): void
  onSynced(ap: string, result: SyncResult): void
  onRefused(from: string, error: MeshError): void
  onNewcomer(): void
}

interface Peer {
  dialling: boolean
  failures: number
  notBefore: number
}

interface Link {
  readonly connection: Connection
  readonly side: Side
  unanswered: { since: number; last: number } | undefined
}

export class Mesh {
  hasSynced = false
  /** What a hostile AP says in place of a message, if anything. Streams go their own way. */
  twist: ((message: Message) => Message | undefined) | undefined
  readonly seen = new WeakSet<Uint8Array>()
  private readonly peers = new Map<string, Peer>()
  private readonly links = new Map<string, Link>()
  private readonly syncing = new Map<string, { running: Promise<SyncResult>; next?: Promise<SyncResult> }>()
  private readonly differences: Differences
  private readonly strangers = new Map<string, number>()
  private readonly renewing = new Set<string>()
  private readonly asked = new Map<number, (answer: unknown) => void>()
  private readonly streams = new Map<Connection, Map<number, Stream>>()
  private neighbours: readonly string[] | undefined
  private count = 0

  constructor(
    private readonly self: string,
    private readonly meshKey: Uint8Array,
    private readonly store: LedgerStore,
    private readonly host: MeshHost,
    private readonly handlers: MeshHandlers,
    known: readonly string[],
  ) {
    this.differences = new Differences(host.time.monotonic())
    for (const ap of known) this.learn(ap)
  }

  start(): void {
    this.every(DIAL, () => this.dialAll())
    this.every(COMPARE, () => {
      this.syncWhereDue()
      this.partWithStrangers()
    })
  }

  private get now(): number {
    return this.host.time.monotonic()
  }

  private every(ms: number, what: () => void): void {
    this.host.time.after(ms, () => {
      what()
      this.every(ms, what)
    })
  }

  connected(): string[] {
    return [...this.links.keys()].filter(this.handlers.isMember)
  }

  // --- connections ------------------------------------------------------------------------------------------------

  /** Notes that an AP can be dialled. */
  learn(ap: string): void {
    if (ap === this.self || this.peers.has(ap)) return
    this.peers.set(ap, { dialling: false, failures: 0, notBefore: this.headStart(ap, 0) })
    this.handlers.onPeers([...this.peers.keys()])
  }

  private headStart(ap: string, ms: number): number {
    return this.now + (this.self < ap ? ms : Math.max(ms, HEAD_START))
  }

  private isWanted(ap: string): boolean {
    return this.handlers.isMember(ap) || !this.handlers.isMember(this.self)
  }

  private dialAll(): void {
    for (const [ap, peer] of this.peers) {
      if (peer.dialling || this.now < peer.notBefore || this.links.has(ap) || !this.isWanted(ap)) continue
      peer.dialling = true
      this.connect(ap, DIAL_DEADLINE, (isThere) => {
        peer.dialling = false
        if (isThere) peer.failures = 0
        else {
          const wait = Math.min(BACKOFF_CAP, BACKOFF_FIRST * 2 ** peer.failures++)
          peer.notBefore = this.now + wait * this.host.random.between(0.75, 1.25)
        }
      })
    }
  }

  private connect(ap: string, deadline: number, done: (isThere: boolean) => void): void {
    if (this.links.has(ap) || !this.peers.has(ap)) {
      done(this.links.has(ap))
      return
    }
    // Of two that dial each other at once, the second finds the connection of the first.
    const isWanted = () => !this.links.has(ap)
    this.host.dial(ap, deadline, isWanted, (connection) => {
      if (connection !== undefined) this.onConnection(connection, 0)
      done(this.links.has(ap))
    })
  }

  /** A connection that this AP dialled (side 0), or that was dialled to it. */
  onConnection(connection: Connection, side: Side): void {
    const ap = this.host.peerOf(connection, side)
    const before = this.links.get(ap)
    // Who dials anew has none any more, whatever this side still believes.
    if (before !== undefined) before.connection.vanish(before.side)
    this.links.set(ap, { connection, side, unanswered: undefined })
    this.neighbours = undefined
    if (before !== undefined) this.endStreams(before.connection)
    if (!this.handlers.isMember(ap)) {
      if (!this.strangers.has(ap)) this.strangers.set(ap, this.now)
      return
    }
    this.renewing.delete(ap)
    this.handlers.onConnected(ap)
    if (side === 0 && this.handlers.isMember(this.self)) this.syncQuietly(ap)
  }

  onClosed(connection: Connection, side: Side): void {
    this.endStreams(connection)
    const ap = this.host.peerOf(connection, side)
    if (this.links.get(ap)?.connection !== connection) return
    this.links.delete(ap)
    this.neighbours = undefined
    this.strangers.delete(ap)
    this.differences.forget(ap)
    const peer = this.peers.get(ap)
    if (peer !== undefined) Object.assign(peer, { failures: 0, notBefore: this.headStart(ap, 100) })
    if (this.handlers.isMember(ap) && !this.renewing.has(ap)) this.handlers.onLost(ap)
  }

  /** Ends the connection to an AP. */
  hangUp(ap: string): void {
    const link = this.links.get(ap)
    if (link === undefined) return
    link.connection.close(link.side)
    this.onClosed(link.connection, link.side)
  }

  /** Tells that the members are others now. */
  membersChanged(): void {
    this.neighbours = undefined
    for (const ap of this.strangers.keys()) {
      if (!this.handlers.isMember(ap)) continue
      this.strangers.delete(ap)
      this.renewing.add(ap)
      this.host.time.after(RENEW_AFTER, () => this.hangUp(ap))
    }
  }

  private partWithStrangers(): void {
    for (const ap of [...this.links.keys()]) {
      if (this.handlers.isMember(ap)) continue
      const since = this.strangers.get(ap) ?? this.now
      this.strangers.set(ap, since)
      if (this.now - since >= STRANGER_PATIENCE && this.handlers.isMember(this.self)) this.hangUp(ap)
    }
  }

  private send(ap: string, message: Message, bytes = SMALL): boolean {
    const link = this.links.get(ap)
    const said = this.twist === undefined ? message : this.twist(message)
    if (said !== undefined) link?.connection.send(link.side, said, bytes)
    return link !== undefined
  }

  onMessage(connection: Connection, side: Side, received: unknown): void {
    const message = received as Message
    const from = this.host.peerOf(connection, side)
    if (message.is === 'frame') this.onFrame(connection, side, from, message)
    else if (message.is === 'reset') this.streamsOf(connection).get(message.stream)?.onReset()
    else if (message.is === 'probed') this.asked.get(message.id)?.(message.sign)
    else if (message.is === 'leased') this.asked.get(message.id)?.(message.answers)
    else if (!this.handlers.isMember(from)) return
    else if (message.is === 'pulse') {
      this.compareDigest(from, message.ledger)
      this.handlers.onPulse(from, message.sign)
    } else if (message.is === 'gossip') this.onGossip(from, message.bytes, message.topic)
    else if (message.is === 'lease') this.answerLease(from, message.id, message.message)
    else if (message.ap === undefined) this.send(from, { is: 'probed', id: message.id, sign: this.handlers.sign() })
    else this.probe(message.ap, (sign) => this.send(from, { is: 'probed', id: message.id, sign: sign ?? 'unreached' }))
  }

  // --- pulses and probes ------------------------------------------------------------------------------------------

  sendPulses(watchers: readonly string[]): void {
    const pulse: Message = { is: 'pulse', sign: this.handlers.sign(), ledger: this.store.ledger.digest() }
    for (const ap of watchers) this.send(ap, pulse)
  }

  /** Reaches an AP by itself; calls back with nothing where it does not answer. */
  probe(ap: string, done: (sign: LifeSign | undefined) => void): void {
    const link = this.links.get(ap)
    this.ask(ap, undefined, PROBE_DEADLINE, (answer) => {
      const sign = typeof answer === 'object' ? answer : undefined
      if (link !== undefined && this.links.get(ap) === link) this.judge(ap, link, sign !== undefined)
      done(sign)
    })
  }

  /** True where one of some other APs reaches it. Who died with it says nothing, so not all are waited for. */
  probeThrough(ap: string, via: readonly string[], done: (isReached: boolean) => void): void {
    let waiting = via.length
    let failed = 0
    let isDone = false
    const conclude = (isReached: boolean) => {
      if (!isDone) done(isReached)
      isDone = true
    }
    if (waiting === 0) conclude(false)
    for (const other of via) {
      this.ask(other, ap, 2 * PROBE_DEADLINE, (answer) => {
        waiting--
        if (answer === 'unreached') failed++
        if (typeof answer === 'object') conclude(true)
        else if (waiting === 0 || failed === ENOUGH_FAILED) conclude(false)
      })
    }
  }

  private ask(
    to: string,
    ap: string | undefined,
    deadline: number,
    done: (answer: ProbeAnswer | undefined) => void,
  ): void {
    this.call(
      to,
      (id) => ({ is: 'probe', id, ap }),
      deadline,
      (answer) => done(answer as ProbeAnswer | undefined),
    )
  }

  /** Sends a message that asks for an answer; calls back once, with nothing where none came in time. */
  private call(to: string, ask: (id: number) => Message, deadline: number, done: (answer: unknown) => void): void {
    const id = this.count++
    const settle = (answer: unknown) => {
      if (this.asked.delete(id)) done(answer)
    }
    this.asked.set(id, settle)
    this.host.time.after(deadline, () => settle(undefined))
    this.connect(to, deadline, (isThere) => {
      if (isThere) this.send(to, ask(id))
    })
  }

  /** Puts a message to a voter. */
  callVoter(voter: string, message: LeaseMessage): Promise<LeaseAnswer[] | undefined> {
    return new Promise((resolve) => {
      this.call(
        voter,
        (id) => ({ is: 'lease', id, message }),
        LEASE_DEADLINE,
        (answer) => {
          this.host.touch()
          resolve(answer as LeaseAnswer[] | undefined)
        },
      )
    })
  }

  private answerLease(from: string, id: number, message: LeaseMessage): void {
    this.host.touch()
    this.handlers.onLease(from, message).then(
      (answers) => void this.send(from, { is: 'leased', id, answers }),
      () => {}, // a promise that is not on disk is none
    )
  }

  private judge(ap: string, link: Link, answered: boolean): void {
    const before = link.unanswered
    const since = before !== undefined && this.now - before.last < IN_A_ROW ? before.since : this.now
    link.unanswered = answered ? undefined : { since, last: this.now }
    if (!answered && this.now - since > STALE) this.hangUp(ap)
  }

  // --- gossip -----------------------------------------------------------------------------------------------------

  publishRecord(record: SignedRecord): void {
    this.publish(record.bytes, 'records', this.connected())
  }

  publishBeacon(record: SignedRecord): void {
    this.publish(record.bytes, BEACONS, this.connected())
  }

  private publish(bytes: Uint8Array, topic: 'records' | 'beacons', to: readonly string[], from?: string): void {
    this.seen.add(bytes)
    for (const ap of to) {
      if (ap === from) continue
      if (this.host.hasSeen(ap, bytes)) this.host.charge(bytes.length)
      else this.send(ap, { is: 'gossip', bytes, topic }, bytes.length)
    }
  }

  private onGossip(from: string, bytes: Uint8Array, topic: 'records' | 'beacons'): void {
    if (this.seen.has(bytes)) return
    this.seen.add(bytes)
    const forward = (isNew: boolean) => {
      if (isNew) this.publish(bytes, topic, this.forwardTo(), from)
    }
    try {
      const record = this.store.check(bytes)
      this.host.touch()
      if (topic === BEACONS) forward(this.takeBeacon(record))
      else this.store.acceptOne(record).then(forward, () => {})
    } catch (error) {
      if (error instanceof MeshError) this.handlers.onRefused(from, error)
      else throw error
    }
  }

  private forwardTo(): readonly string[] {
    this.neighbours ??= this.host.random.shuffled(this.connected()).slice(0, DEGREE)
    return this.neighbours
  }

  private takeBeacon(record: SignedRecord): boolean {
    return isKind(record, 'beacon') && this.handlers.onBeacon(record)
  }

  // --- sync -------------------------------------------------------------------------------------------------------

  compareDigest(ap: string, digest: Uint8Array): void {
    this.differences.compare(ap, digest, this.store.ledger.digest(), this.now)
  }

  private syncWhereDue(): void {
    const idle = this.connected().filter((ap) => !this.syncing.has(ap))
    for (const ap of this.differences.due(idle, this.now, this.host.random.next())) this.syncQuietly(ap)
  }

  private syncQuietly(ap: string): void {
    this.host.touch()
    this.sync(ap).catch((error) => this.noteFailed(ap, error))
  }

  /** As in node/mesh/network.ts. */
  sync(ap: string): Promise<SyncResult> {
    const busy = this.syncing.get(ap)
    if (busy !== undefined) {
      busy.next ??= busy.running.then(
        () => this.sync(ap),
        () => this.sync(ap),
      )
      return busy.next
    }
    const running = this.syncNow(ap).finally(() => this.syncing.delete(ap))
    this.syncing.set(ap, { running })
    return running
  }

  private async syncNow(ap: string): Promise<SyncResult> {
    const stream = this.openStream(ap, 'sync', FRAME_DEADLINE)
    const began = this.now
    const result = await stream.exchange(() => initiateSync(stream, this.syncDependencies(ap)))
    this.noteSynced(ap, began, result)
    return result
  }

  replicate(): Promise<number> {
    return replicate(
      () => this.connected(),
      (ap) => this.sync(ap),
      this.host.time,
    )
  }

  private syncDependencies(ap: string) {
    return {
      store: this.store,
      ownBeacons: this.handlers.beacons,
      peerBeacons: this.handlers.beacons,
      onBeacon: (beacon: SignedRecord) => void this.takeBeacon(beacon),
      onRefused: (error: MeshError) => this.handlers.onRefused(ap, error),
      onTime: (ms: number) => {
        if (this.handlers.isMember(ap)) this.handlers.onTime(ap, ms)
      },
    }
  }

  private noteSynced(ap: string, began: number, result: SyncResult): void {
    this.hasSynced ||= this.handlers.isMember(ap)
    this.differences.synced(ap, began)
    this.handlers.onSynced(ap, result)
  }

  private noteFailed(ap: string, error: unknown): void {
    if (error instanceof MeshError && !isOfDisk(error)) this.handlers.onRefused(ap, error)
  }

  // --- joining ----------------------------------------------------------------------------------------------------

  /** Asks any connected AP to let this one in. @returns its time; @throws the last refusal */
  async join(admission: Papers): Promise<number> {
    let refusal: unknown = new Error('no member is reachable')
    for (const ap of [...this.links.keys()]) {
      try {
        const now = await this.askToJoin(ap, admission)
        await this.sync(ap)
        if (!membershipOf(this.store.ledger, this.meshKey, now).members.has(ap)) {
          throw new MeshError('join-refused', `${ap} is no member itself`)
        }
        this.hasSynced = true
        return now
      } catch (error) {
        refusal = error
      }
    }
    throw refusal
  }

  private async askToJoin(ap: string, { grant, member }: Papers): Promise<number> {
    const stream = this.openStream(ap, 'join', JOIN_DEADLINE)
    const reply = await stream.exchange(async () => {
      await stream.write(['join', grant.bytes, member.bytes])
      return (await stream.next()) as Joining
    })
    if (reply[0] === 'welcome') return reply[1]
    throw new MeshError('join-refused', String(reply[1]))
  }

  private async answerJoin(stream: Stream, from: string): Promise<void> {
    const [, grant, member] = (await stream.next()) as ['join', Uint8Array, Uint8Array]
    try {
      if (!this.handlers.isMember(this.self)) throw new MeshError('not-a-member', 'not a member yet')
      const records = await admit(this.store, this.meshKey, grant, member, from)
      for (const record of records) this.publishRecord(record)
      if (records.length > 0) this.handlers.onNewcomer()
      await stream.write(['welcome', this.store.clock.now()])
    } catch (error) {
      await stream.write(['refused', messageOf(error)])
    }
  }

  // --- streams ----------------------------------------------------------------------------------------------------

  private openStream(ap: string, protocol: 'sync' | 'join', deadline: number): Stream {
    const link = this.links.get(ap)
    if (link === undefined) throw new Error(`not connected to ${ap}`)
    const id = this.count++ * 2 + link.side
    return this.makeStream(link.connection, link.side, id, deadline, protocol)
  }

  private makeStream(connection: Connection, side: Side, id: number, deadline: number, opens?: 'sync' | 'join') {
    const streams = this.streamsOf(connection)
    const stream = new Stream(this.host, deadline, {
      send: (frame, bytes) => {
        connection.send(side, { is: 'frame', stream: id, opens, frame } satisfies Message, bytes)
        return connection.isOpen(side)
      },
      reset: () => connection.send(side, { is: 'reset', stream: id } satisfies Message, SMALL),
      forget: () => streams.delete(id),
    })
    streams.set(id, stream)
    return stream
  }

  private streamsOf(connection: Connection): Map<number, Stream> {
    let streams = this.streams.get(connection)
    if (streams === undefined) {
      streams = new Map()
      this.streams.set(connection, streams)
    }
    return streams
  }

  private endStreams(connection: Connection): void {
    const streams = this.streams.get(connection)
    this.streams.delete(connection)
    for (const stream of [...(streams?.values() ?? [])]) stream.onReset()
  }

  private onFrame(connection: Connection, side: Side, from: string, message: Extract<Message, { is: 'frame' }>): void {
    const known = this.streamsOf(connection).get(message.stream)
    if (known !== undefined) {
      known.onFrame(message.frame)
      return
    }
    // Only the first frame of a stream opens it, and ids tell who opened it.
    if (message.opens === undefined || (message.stream - side) % 2 === 0) return
    const isFirst = message.opens === 'join' || (message.frame as SyncFrame)[0] === 'hello'
    if (!isFirst) return
    const stream = this.makeStream(connection, side, message.stream, FRAME_DEADLINE)
    stream.onFrame(message.frame)
    void stream.exchange(() => this.answer(stream, message.opens!, from)).catch((error) => this.noteFailed(from, error))
  }

  private async answer(stream: Stream, protocol: 'sync' | 'join', from: string): Promise<void> {
    if (protocol === 'join') return this.answerJoin(stream, from)
    if (this.handlers.isMember(from)) {
      return this.noteSynced(from, this.now, await answerSync(stream, this.syncDependencies(from)))
    }
    const records = this.handlers.forgets(from)
    if (records.length === 0) throw new Error('not a member')
    await answerForgotten(stream, this.syncDependencies(from), records)
  }
}

/** A stream on a connection, as node/mesh/frames.ts makes of a real one: whole frames, each read with a deadline. */
class Stream implements SyncFrames {
  private readonly frames: unknown[] = []
  private waiting: { resolve: (frame: unknown) => void; reject: (error: Error) => void } | undefined
  private hasEnded = false

  constructor(
    private readonly host: MeshHost,
    private readonly deadline: number,
    private readonly wire: { send(frame: unknown, bytes: number): boolean; reset(): void; forget(): void },
  ) {}

  async write(frame: unknown): Promise<void> {
    if (this.hasEnded || !this.wire.send(frame, sizeOf(frame))) throw new Error('the stream ended')
  }

  async read<T>(_schema: z.ZodType<T>): Promise<T> {
    return (await this.next()) as T
  }

  async next(): Promise<unknown> {
    if (this.frames.length > 0) return this.frames.shift()
    if (this.hasEnded) throw new Error('the stream ended before a whole frame had come')
    return new Promise((resolve, reject) => {
      const cancel = this.host.time.after(this.deadline, () => {
        this.host.touch()
        this.waiting = undefined
        reject(new Error('the other side did not answer in time'))
      })
      this.waiting = {
        resolve: (frame) => {
          cancel()
          resolve(frame)
        },
        reject: (error) => {
          cancel()
          reject(error)
        },
      }
    })
  }

  onFrame(frame: unknown): void {
    this.host.touch()
    if (this.waiting === undefined) {
      this.frames.push(frame)
      return
    }
    const { resolve } = this.waiting
    this.waiting = undefined
    resolve(frame)
  }

  onReset(): void {
    if (this.hasEnded) return
    this.host.touch()
    this.hasEnded = true
    this.wire.forget()
    const { waiting } = this
    this.waiting = undefined
    waiting?.reject(new Error('the stream was reset'))
  }

  /** Runs one side of an exchange, and resets the stream on failure. */
  async exchange<T>(run: () => Promise<T>): Promise<T> {
    try {
      const result = await run()
      this.hasEnded = true
      this.wire.forget()
      return result
    } catch (error) {
      if (!this.hasEnded) this.wire.reset()
      this.hasEnded = true
      this.wire.forget()
      throw error
    }
  }
}

/** About as many bytes as the frame would have. */
function sizeOf(frame: unknown): number {
  if (frame instanceof Uint8Array) return frame.length + 3
  if (Array.isArray(frame)) return frame.reduce((sum: number, item) => sum + sizeOf(item), 4)
  return typeof frame === 'string' ? frame.length + 1 : 8
}
