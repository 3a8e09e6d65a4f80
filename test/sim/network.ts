// The network between the hosts: links with latency, loss and cuts in each direction, one uplink queue a host, and on top of
// them connections that behave like TCP. Knows nothing of what it carries. There are no datagrams: the node uses none.
import type { Random } from './random.js'
import type { Scheduler } from './scheduler.js'

/** One direction between two hosts. */
interface Link {
  /** One way, milliseconds; what is added varies from message to message. */
  readonly latency: number
  readonly jitter: number
  loss: number
  /** How many reasons there are that nothing comes through. */
  cuts: number
}

/** What a host is to the network. */
export interface Endpoint {
  readonly index: number
  /** False while it has no power: it does not even refuse. */
  isUp(): boolean
  /** Whether a process listens; a host without one refuses at once. */
  isListening(): boolean
  /** False while that process stands still: connections are taken, and nothing is said on them. */
  isAnswering(): boolean
  onConnection(connection: Connection, side: Side): void
  onMessage(connection: Connection, side: Side, message: unknown): void
  onClosed(connection: Connection, side: Side): void
}

/** The dialler's side of a connection is 0, the other one 1. */
export type Side = 0 | 1

/** Bytes of a packet, and of the headers of each. */
const PACKET = 1400
const HEADERS = 60
/** Linux: the least retransmission timeout and the greatest one, in milliseconds, and after how many of them it gives up. */
const RTO_MIN = 200
const RTO_MAX = 120_000
const RETRANSMISSIONS = 15
/** TCP's handshake, noise's and the first of identify: round trips before a connection is of use. */
const HANDSHAKES = 3
const CHUNK = 256 * 1024
const CHUNK_DEADLINE = 10_000

export class Network {
  private readonly links = new Map<number, Link>()
  private readonly uplinks: { bytesPerMs: number; freeAt: number }[] = []
  private readonly endpoints: Endpoint[] = []
  /** Loss on all links, beside that of each. */
  loss = 0

  constructor(
    readonly scheduler: Scheduler,
    private readonly random: Random,
  ) {}

  /** @param bytesPerMs of its uplink */
  attach(endpoint: Endpoint, bytesPerMs: number): void {
    this.endpoints[endpoint.index] = endpoint
    this.uplinks[endpoint.index] = { bytesPerMs, freeAt: 0 }
  }

  link(from: number, to: number): Link {
    const key = from * 1024 + to
    let link = this.links.get(key)
    if (link === undefined) {
      // Most are neighbours on a LAN or in a town, a few are far away.
      const random = this.random.fork(`link ${Math.min(from, to)} ${Math.max(from, to)}`)
      const latency = random.chance(0.1) ? random.between(40, 150) : 0.3 + random.around(6)
      link = { latency, jitter: latency * random.between(0.05, 0.5), loss: 0, cuts: 0 }
      this.links.set(key, link)
    }
    return link
  }

  /** True where a packet sent now would come through, if it is not lost by chance. */
  isOpen(from: number, to: number): boolean {
    return this.link(from, to).cuts === 0 && this.endpoints[to]!.isUp() && this.endpoints[from]!.isUp()
  }

  /** When the last bit of a message leaves the host's uplink, which all its messages share. */
  depart(from: number, bytes: number): number {
    const uplink = this.uplinks[from]!
    uplink.freeAt = Math.max(uplink.freeAt, this.scheduler.now) + (bytes + HEADERS) / uplink.bytesPerMs
    return uplink.freeAt
  }

  latency({ latency, jitter }: Link): number {
    return latency + this.random.around(jitter)
  }

  isLost(link: Link, bytes: number): boolean {
    const loss = 1 - (1 - link.loss) * (1 - this.loss)
    return loss > 0 && this.random.chance(1 - (1 - loss) ** Math.ceil(bytes / PACKET))
  }

  /**
   * Dials. Calls back with a connection that both sides know of, or with nothing once it is refused or the deadline, in
   * milliseconds, has passed, or it is not wanted any more when it is there.
   */
  dial(
    from: Endpoint,
    to: number,
    deadline: number,
    isWanted: () => boolean,
    done: (connection: Connection | undefined) => void,
  ): void {
    const there = this.link(from.index, to)
    const back = this.link(to, from.index)
    const { scheduler } = this
    const fail = (ms: number) => scheduler.after(ms, () => done(undefined))
    let delay = HANDSHAKES * (this.latency(there) + this.latency(back))
    for (let wait = 1000; this.isLost(there, 1) || this.isLost(back, 1); wait *= 2) delay += wait
    if (delay > deadline || !this.isOpen(from.index, to)) {
      fail(deadline)
      return
    }
    scheduler.after(delay, () => {
      const target = this.endpoints[to]!
      if (!this.isOpen(from.index, to) || !this.isOpen(to, from.index)) return fail(deadline - delay)
      if (!target.isListening() || !isWanted()) return done(undefined)
      if (!target.isAnswering()) return fail(deadline - delay)
      const connection = new Connection(this, [from, target])
      target.onConnection(connection, 1)
      done(connection)
    })
  }

  /** Moves many bytes in chunks, one in flight, over the uplink that everything else shares. */
  transfer(from: number, to: number, bytes: number, done: (isWhole: boolean) => void): void {
    if (bytes <= 0) done(true)
    else if (!this.isOpen(from, to) || !this.isOpen(to, from)) this.scheduler.after(CHUNK_DEADLINE, () => done(false))
    else {
      const arrival = this.depart(from, Math.min(bytes, CHUNK)) + this.latency(this.link(from, to)) * 2
      this.scheduler.at(arrival, () => this.transfer(from, to, bytes - CHUNK, done))
    }
  }
}

/** A TCP connection: what is sent arrives once and in order, late where packets are lost, or the connection breaks. */
export class Connection {
  private readonly pipes: readonly [Pipe, Pipe]
  private readonly isClosed: [boolean, boolean] = [false, false]

  constructor(
    readonly network: Network,
    readonly ends: readonly [Endpoint, Endpoint],
  ) {
    this.pipes = [new Pipe(this, 0), new Pipe(this, 1)]
  }

  isOpen(side: Side): boolean {
    return !this.isClosed[side]
  }

  send(side: Side, message: unknown, bytes: number): void {
    if (!this.isClosed[side]) this.pipes[side].send(message, bytes)
  }

  /** Closes one side; the other one hears of it, if anything comes through. */
  close(side: Side): void {
    if (this.isClosed[side]) return
    this.isClosed[side] = true
    this.reset(side)
  }

  /** The host of a side lost its power: nobody is told. */
  vanish(side: Side): void {
    this.isClosed[side] = true
  }

  /** TCP gave up: the side that sent hears of it. */
  giveUp(side: Side): void {
    if (this.isClosed[side]) return
    this.isClosed[side] = true
    this.ends[side].onClosed(this, side)
  }

  deliver(to: Side, message: unknown): void {
    // What comes for a connection that is gone is answered with a reset.
    if (this.isClosed[to]) this.reset(to)
    else this.ends[to].onMessage(this, to, message)
  }

  private reset(from: Side): void {
    const to = other(from)
    const [sender, receiver] = [this.ends[from].index, this.ends[to].index]
    const link = this.network.link(sender, receiver)
    if (this.isClosed[to] || !this.network.isOpen(sender, receiver) || this.network.isLost(link, 1)) return
    this.network.scheduler.at(this.network.depart(sender, 0) + this.network.latency(link), () => this.giveUp(to))
  }
}

const other = (side: Side): Side => (side === 0 ? 1 : 0)

/** One direction of a connection. */
class Pipe {
  private lastArrival = 0
  /** What waits for a retransmission, oldest first; undefined while all goes well. */
  private stalled: unknown[] | undefined
  private retransmissions = 0

  constructor(
    private readonly connection: Connection,
    private readonly from: Side,
  ) {}

  private get link(): Link {
    const { ends, network } = this.connection
    return network.link(ends[this.from].index, ends[other(this.from)].index)
  }

  send(message: unknown, bytes: number): void {
    const { network, ends } = this.connection
    const departure = network.depart(ends[this.from].index, bytes)
    this.lastArrival = Math.max(this.lastArrival, departure + network.latency(this.link))
    network.scheduler.at(this.lastArrival, () => this.arrive(message, bytes))
  }

  private arrive(message: unknown, bytes: number): void {
    if (this.stalled !== undefined) this.stalled.push(message)
    else if (this.isComingThrough(bytes)) this.connection.deliver(other(this.from), message)
    else {
      this.stalled = [message]
      this.retransmissions = 0
      this.waitToRetransmit()
    }
  }

  private isComingThrough(bytes: number): boolean {
    const { network, ends } = this.connection
    return network.isOpen(ends[this.from].index, ends[other(this.from)].index) && !network.isLost(this.link, bytes)
  }

  private waitToRetransmit(): void {
    const timeout = Math.max(RTO_MIN, 4 * this.link.latency) * 2 ** this.retransmissions++
    this.connection.network.scheduler.after(Math.min(RTO_MAX, timeout), () => {
      if (!this.connection.isOpen(this.from)) return
      if (this.retransmissions > RETRANSMISSIONS) return this.connection.giveUp(this.from)
      if (!this.isComingThrough(1)) return this.waitToRetransmit()
      const waiting = this.stalled!
      this.stalled = undefined
      for (const message of waiting) this.connection.deliver(other(this.from), message)
    })
  }
}
