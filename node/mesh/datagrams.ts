// Datagrams to and from other members over one UDP socket. Two APs give each other a key over their libp2p connection, which
// proves who they are; from then on datagrams need no connection, until either process ends. What they say, others know.
import { randomBytes, randomInt } from 'node:crypto'
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { isIPv6 } from 'node:net'
import type { Connection, Stream } from '@libp2p/interface'
import { encode } from '../../protocols/codec.js'
import {
  type DatagramMessage,
  datagramMessage,
  keyIdOf,
  openDatagram,
  type ReachCard,
  ReplayWindow,
  reachCard,
  sealDatagram,
} from '../../protocols/datagram.js'
import { MAX_SMALL_FRAME } from '../../protocols/limits.js'
import { type protocolIds, readFrame } from '../../protocols/wire.js'
import { exchange, Frames } from './frames.js'
import { connectionTo, type Host } from './host.js'

/** Keys are made anew so often, in milliseconds: an address that changed is learnt then too, and a dead connection found. */
const RENEW = 15_000
const RETRY_FIRST = 1000
/**
 * A connection over which keys could not be made anew for so long is closed, in milliseconds. Where datagrams pass, nothing
 * else would notice that it is dead: TCP holds on to it for minutes, and nobody dials anew.
 */
const STALE = 5000
/** Datagrams of one member that are looked at in a second; it has no reason to send thirty. */
const MAX_A_SECOND = 100

/** Something to seal with for another AP. */
interface Sealing {
  readonly id: number
  readonly key: Uint8Array
  counter: number
}

/** What another AP was given to seal with. */
interface Given {
  readonly ap: string
  readonly peer: Peer
  readonly id: number
  readonly key: Uint8Array
  readonly window: ReplayWindow
}

interface Peer {
  /** Newest first. */
  given: Given[]
  /** The newest of them that was used. */
  used: Given | undefined
  sealing: Sealing | undefined
  endpoint: { readonly address: string; readonly port: number } | undefined
  /** True where a datagram came from there since that was agreed. */
  isProven: boolean
  isRenewing: boolean
  renewAt: number
  failures: number
  second: number
  inSecond: number
}

export interface DatagramHandlers {
  isMember(ap: string): boolean
  onDatagram(from: string, message: DatagramMessage): void
  /** It sent what it should not, or more than it should. */
  onOffence(from: string, reason: string): void
  onFailure(what: string, error: unknown): void
}

export class Datagrams {
  private socket: Socket | undefined
  private port = 0
  private readonly peers = new Map<string, Peer>()
  private readonly given = new Map<number, Given>()

  constructor(
    private readonly host: Host,
    private readonly ids: ReturnType<typeof protocolIds>,
    private readonly listen: readonly string[],
    private readonly handlers: DatagramHandlers,
  ) {}

  /** Opens the socket, on the port on which the host listens where that is free. Without one there are streams alone. */
  async start(): Promise<void> {
    const ports = this.host.getMultiaddrs().map((address) => Number(/\/tcp\/(\d+)/.exec(address.toString())?.[1] ?? 0))
    try {
      this.socket = await bind(this.listen, ports[0] ?? 0).catch(() => bind(this.listen, 0))
    } catch (error) {
      this.handlers.onFailure('opening a UDP socket', error)
      return
    }
    this.port = this.socket.address().port
    this.socket.on('message', (bytes, from) => this.receive(bytes, from))
    this.socket.on('error', (error) => this.handlers.onFailure('the UDP socket', error))
    this.host.addEventListener('connection:open', ({ detail }) => {
      // Its process may be another one now, which knows no keys.
      const peer = this.peers.get(detail.remotePeer.toString())
      if (peer !== undefined) Object.assign(peer, { renewAt: 0, isProven: false })
    })
    await this.host.handle(
      this.ids.reach,
      async (stream: Stream, connection: Connection) => {
        const from = connection.remotePeer.toString()
        await exchange(stream, async () => {
          const frames = new Frames(stream, MAX_SMALL_FRAME, STALE)
          const card = await frames.read(reachCard)
          const peer = this.peerOf(from)
          await frames.write(this.give(from, peer))
          this.take(peer, card, connection)
        })
      },
      { maxInboundStreams: 2 },
    )
  }

  stop(): void {
    this.socket?.close()
    this.socket = undefined
  }

  /** Sends to a member, if a key for it is there, and else sees to it that there soon is one. Never waits. */
  send(ap: string, message: DatagramMessage): boolean {
    if (this.socket === undefined || !this.handlers.isMember(ap)) return false
    const peer = this.peerOf(ap)
    this.renewWhereDue(ap, peer)
    const { sealing, endpoint } = peer
    if (sealing === undefined || endpoint === undefined) return false
    const bytes = sealDatagram(sealing.id, sealing.key, sealing.counter++, encode(message))
    this.socket.send(bytes, endpoint.port, endpoint.address, () => {}) // that none came is known by what does not come back
    return true
  }

  // Whatever anyone sends comes here. What names no key is dropped before it costs anything.
  private receive(bytes: Uint8Array, { address, port }: RemoteInfo): void {
    const id = keyIdOf(bytes)
    const given = id === undefined ? undefined : this.given.get(id)
    const opened = given && openDatagram(given.key, given.window, bytes)
    if (given === undefined || opened === undefined) return
    const { ap, peer } = given
    if (!this.handlers.isMember(ap)) this.forget(ap)
    if (!this.handlers.isMember(ap) || this.isTooMuch(ap, peer)) return
    if (peer.used === undefined || peer.given.indexOf(given) <= peer.given.indexOf(peer.used)) {
      peer.used = given
      // Behind NAT, or after it moved, it is where its datagrams come from.
      if (opened.isLatest) Object.assign(peer, { endpoint: { address, port }, isProven: true })
    }
    try {
      this.handlers.onDatagram(ap, readFrame(datagramMessage, opened.message))
    } catch (error) {
      this.handlers.onFailure(`a datagram from ${ap}`, error)
      this.handlers.onOffence(ap, 'a datagram that says nothing')
    }
  }

  private isTooMuch(ap: string, peer: Peer): boolean {
    const second = Math.floor(performance.now() / 1000)
    if (second !== peer.second) Object.assign(peer, { second, inSecond: 0 })
    if (++peer.inSecond === MAX_A_SECOND + 1) this.handlers.onOffence(ap, 'too many datagrams')
    return peer.inSecond > MAX_A_SECOND
  }

  private renewWhereDue(ap: string, peer: Peer): void {
    if (peer.isRenewing || performance.now() < peer.renewAt) return
    const connection = connectionTo(this.host, ap)
    if (connection === undefined) return
    peer.isRenewing = true
    const began = performance.now()
    this.renew(ap, peer, connection)
      .catch(() => {
        const now = performance.now()
        peer.renewAt = now + Math.min(RENEW, RETRY_FIRST * 2 ** peer.failures++)
        if (now - began > 0.9 * STALE) connection.abort(new Error('no keys could be agreed'))
      })
      .finally(() => {
        peer.isRenewing = false
      })
  }

  private async renew(ap: string, peer: Peer, connection: Connection): Promise<void> {
    const endsAt = performance.now() + STALE
    const stream = await connection.newStream(this.ids.reach, { signal: AbortSignal.timeout(STALE) })
    await exchange(stream, async () => {
      const frames = new Frames(stream, MAX_SMALL_FRAME, STALE, endsAt - performance.now())
      await frames.write(this.give(ap, peer))
      this.take(peer, await frames.read(reachCard), connection)
    })
  }

  private give(ap: string, peer: Peer): ReachCard {
    let id = randomInt(2 ** 32)
    while (this.given.has(id)) id = randomInt(2 ** 32)
    const key = new Uint8Array(randomBytes(32))
    const given: Given = { ap, peer, id, key, window: new ReplayWindow() }
    // The one that is in use stays until another is: this one may get lost. So does the one before: both may ask at once.
    const [last, ...older] = peer.given
    for (const old of older) if (old !== peer.used) this.given.delete(old.id)
    peer.given = [given, ...peer.given.filter((old) => old === last || old === peer.used)]
    this.given.set(id, given)
    return { port: this.port, id, key }
  }

  private take(peer: Peer, { port, id, key }: ReachCard, connection: Connection): void {
    peer.sealing = { id, key, counter: 0 }
    if (!peer.isProven) peer.endpoint = this.endpoint(connection, port)
    Object.assign(peer, { isProven: false, failures: 0, renewAt: performance.now() + RENEW })
  }

  private endpoint(connection: Connection, port: number): Peer['endpoint'] {
    const components = connection.remoteAddr.getComponents()
    const address = components.find(({ name }) => name === 'ip4' || name === 'ip6')?.value
    const isOurs6 = this.socket !== undefined && isIPv6(this.socket.address().address)
    if (address === undefined || (isIPv6(address) && !isOurs6)) return undefined
    const zone = components.find(({ name }) => name === 'ip6zone')?.value
    if (isIPv6(address)) return { address: zone === undefined ? address : `${address}%${zone}`, port }
    return { address: isOurs6 ? `::ffff:${address}` : address, port }
  }

  private peerOf(ap: string): Peer {
    const known = this.peers.get(ap)
    if (known !== undefined) return known
    for (const other of this.peers.keys()) if (!this.handlers.isMember(other)) this.forget(other)
    const peer: Peer = {
      ...{ given: [], used: undefined, sealing: undefined, endpoint: undefined, isProven: false },
      ...{ isRenewing: false, renewAt: 0, failures: 0, second: 0, inSecond: 0 },
    }
    this.peers.set(ap, peer)
    return peer
  }

  private forget(ap: string): void {
    for (const { id } of this.peers.get(ap)?.given ?? []) this.given.delete(id)
    this.peers.delete(ap)
  }
}

/** A socket of IPv6 takes IPv4 as well. Of several addresses to listen on it takes all that there are. */
async function bind(listen: readonly string[], port: number): Promise<Socket> {
  const hosts = listen.map((address) => address.split('/')[2]!)
  const is6 = hosts.some(isIPv6)
  const socket = createSocket(is6 ? 'udp6' : 'udp4')
  try {
    socket.bind({ port, address: hosts.length === 1 ? hosts[0]! : is6 ? '::' : '0.0.0.0' })
    await once(socket, 'listening')
    return socket
  } catch (error) {
    socket.close()
    throw error
  }
}
