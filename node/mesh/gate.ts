// The gate of an AP: who may connect, and who may open a stream of which protocol. A stranger gets what is open to strangers,
// which is to ask to be let in, and nothing else; a member gets everything, as long as it behaves (conduct.ts).
//
// libp2p's own protocols stand behind it as well. Identify tells addresses, protocols and versions, and takes in as much from
// the other side: a newcomer needs none of it, for it comes with an address and knows the protocol it wants by the mesh's id.
import type { Server, Socket } from 'node:net'
import type { identify } from '@libp2p/identify'
import type {
  Connection,
  ConnectionGater,
  Listener,
  MultiaddrConnection,
  Stream,
  StreamHandler,
  StreamMuxer,
  StreamMuxerFactory,
  Transport,
} from '@libp2p/interface'
import type { Multiaddr } from '@multiformats/multiaddr'
import { Allowances } from '../../protocols/allowance.js'
import { MeshError } from '../../protocols/error.js'
import type { Conduct } from './conduct.js'

/** Connections of one member: one or two, and one for each image that is fetched. Nobody may take all that there are. */
const MAX_EACH = 16
/** Connections of all strangers, and of those at one address. They last 15 s, and a newcomer is none after a second. */
const MAX_STRANGERS = 64
const MAX_STRANGERS_EACH = 16
/**
 * Connections that are still at the handshake, by address, and of all addresses at which no member was seen: whoever opens
 * them and says nothing keeps nobody else out. A power cut brings fifty at once, behind one NAT, and who is refused dials again.
 */
const MAX_PENDING = 32
/**
 * Handshakes, which cost some 5 ms of CPU: of one address, and of all at which no member was seen. As many as all APs of a
 * neighbourhood and their second attempts; after that, of each address, what a fetch of images takes.
 */
const HANDSHAKES = { burst: 128, perSecond: 16 }
const HANDSHAKES_UNKNOWN = { burst: 128, perSecond: 32 }
/** Addresses at which a member was seen. */
const ADDRESSES_KEPT = 1000

/** What a stranger may send on a connection, in bytes: a handshake, and two requests to join that are as long as can be. */
const STRANGER_BYTES = 192 * 1024
/** Requests of strangers to be let in, each some milliseconds of CPU: of one address, and of all. A crate of new APs is fifty. */
const REQUESTS = { burst: 64, perSecond: 4 }
const REQUESTS_ALL = { burst: 128, perSecond: 8 }

type Registrar = Parameters<ReturnType<typeof identify>>[0]['registrar']

export interface GateOptions {
  readonly self: string
  isMember(ap: string): boolean
  /** What it costs of a stranger's requests to open a stream of this protocol; undefined where it may not. */
  price(protocol: string, ap: string): number | undefined
  readonly conduct: Conduct
}

export class Gate {
  private readonly pending = new Map<MultiaddrConnection, string>()
  /** Addresses at which a member was seen. */
  private readonly known = new Set<string>()
  private readonly handshakes = new Allowances(HANDSHAKES)
  private readonly handshakesUnknown = new Allowances(HANDSHAKES_UNKNOWN)
  private readonly requests = new Allowances(REQUESTS)
  private readonly requestsAll = new Allowances(REQUESTS_ALL)
  private readonly muxers = new WeakMap<readonly Stream[], StreamMuxer>()
  /** How many streams of a protocol are under way with one peer, over all its connections. */
  private readonly underWay = new Map<string, number>()

  /** @param connections all that are open */
  constructor(
    private readonly options: GateOptions,
    private readonly connections: () => Connection[],
  ) {}

  /** What libp2p asks before it goes on with a connection. */
  readonly gater: ConnectionGater = {
    denyDialPeer: (peer) => this.options.conduct.isShutOut(peer.toString()),
    denyInboundConnection: (connection) => this.await(connection),
    denyInboundEncryptedConnection: (peer, connection) => !this.mayEnter(peer.toString(), connection),
    denyInboundUpgradedConnection: (_, connection) => !this.pending.delete(connection),
  }

  /**
   * Stands before all that listen on TCP. What libp2p makes of a socket before it asks its gater costs three times as much as
   * to accept and close it, and a stranger can open thousands a second.
   */
  guardListeners(transport: Transport): Transport {
    const create = transport.createListener.bind(transport)
    transport.createListener = (options) => {
      const listener = create(options)
      const { server } = listener as Listener & { server: Server }
      const [accept] = server.listeners('connection') as [(socket: Socket) => void]
      server.off('connection', accept)
      server.on('connection', (socket) => {
        if (this.mayKnock(hostOf(socket))) accept(socket)
        else socket.destroy()
      })
      return listener
    }
    return transport
  }

  // Before anything is read or computed. All that is known is where it comes from.
  private mayKnock(address: string): boolean {
    const isKnown = this.known.has(address)
    const waiting = [...this.pending.values()]
    if (waiting.filter((from) => from === address).length >= MAX_PENDING) return false
    if (!isKnown && waiting.filter((from) => !this.known.has(from)).length >= MAX_PENDING) return false
    const now = performance.now()
    if (!this.handshakes.take(address, now)) return false
    return isKnown || this.handshakesUnknown.take('', now)
  }

  private await(connection: MultiaddrConnection): false {
    this.pending.set(connection, addressOf(connection.remoteAddr))
    connection.addEventListener('close', () => this.pending.delete(connection))
    return false
  }

  private mayEnter(peer: string, connection: MultiaddrConnection): boolean {
    const { conduct, isMember } = this.options
    if (conduct.isShutOut(peer)) return false
    const open = this.connections()
    if (open.filter(({ remotePeer }) => remotePeer.toString() === peer).length >= MAX_EACH) return false
    const address = addressOf(connection.remoteAddr)
    if (isMember(peer)) return this.noteKnown(address)
    const strangers = open.filter(({ remotePeer }) => !isMember(remotePeer.toString()))
    const neighbours = strangers.filter(({ remoteAddr }) => addressOf(remoteAddr) === address)
    if (conduct.isShutOut(address) || strangers.length >= MAX_STRANGERS || neighbours.length >= MAX_STRANGERS_EACH) {
      return false
    }
    this.countBytes(peer, address, connection)
    return true
  }

  private noteKnown(address: string): true {
    this.known.delete(address)
    this.known.add(address)
    if (this.known.size > ADDRESSES_KEPT) this.known.delete(this.known.keys().next().value!)
    return true
  }

  // One that lost its ledger takes in all of it from those that it does not know any more.
  private countBytes(peer: string, address: string, connection: MultiaddrConnection): void {
    const { conduct, isMember, self } = this.options
    let bytes = 0
    connection.addEventListener('message', ({ data }) => {
      bytes += data.byteLength
      if (bytes < STRANGER_BYTES || isMember(peer) || !isMember(self)) return
      conduct.offend(address, 'too many bytes of a stranger')
      connection.abort(new Error('too many bytes of a stranger'))
    })
  }

  /** Counts the streams that the other side opens, negotiated or not. Call it with each connection that opens. */
  watch(connection: Connection): void {
    this.muxers.get(connection.streams)?.addEventListener('stream', ({ detail }) => {
      if (!this.options.conduct.spend(this.nameOf(connection), 'streams')) detail.abort(new Error('too many streams'))
    })
  }

  /** Remembers whose muxer is whose: a connection shows its streams alone. */
  remembering(factory: StreamMuxerFactory): StreamMuxerFactory {
    const create = factory.createStreamMuxer.bind(factory)
    factory.createStreamMuxer = (connection) => {
      const muxer = create(connection)
      this.muxers.set(muxer.streams, muxer)
      return muxer
    }
    return factory
  }

  /** Stands before all handlers of protocols, those of libp2p too, and sees to it that libp2p runs none with strangers. */
  guard(registrar: Registrar): void {
    const { handle, register } = registrar
    registrar.handle = (protocol, handler, options) =>
      handle.call(registrar, protocol, this.guarded(protocol, handler, options?.maxInboundStreams), options)
    registrar.register = (protocol, topology, options) =>
      register.call(
        registrar,
        protocol,
        {
          ...topology,
          onConnect: (peer, connection) => {
            if (this.options.isMember(peer.toString())) return topology.onConnect?.(peer, connection)
          },
        },
        options,
      )
  }

  /** @param most streams of one peer at once, over all its connections */
  private guarded(protocol: string, handler: StreamHandler, most = Number.POSITIVE_INFINITY): StreamHandler {
    return async (stream, connection) => {
      if (!this.mayOpen(protocol, connection)) return stream.abort(new Error('not open to you'))
      const key = `${connection.remotePeer} ${protocol}`
      const count = this.underWay.get(key) ?? 0
      if (count >= most) return stream.abort(new Error('too many streams at once'))
      this.underWay.set(key, count + 1)
      stream.addEventListener('close', () => {
        const left = this.underWay.get(key)! - 1
        if (left === 0) this.underWay.delete(key)
        else this.underWay.set(key, left)
      })
      try {
        await handler(stream, connection)
      } catch (error) {
        // What breaks the rules of the wire is the other side's doing; the rest is how networks are.
        if (error instanceof MeshError && error.code === 'malformed') {
          this.options.conduct.offend(this.nameOf(connection), error.message)
        }
        stream.abort(error as Error)
      }
    }
  }

  private mayOpen(protocol: string, connection: Connection): boolean {
    const { conduct, isMember, price } = this.options
    const peer = connection.remotePeer.toString()
    // That it lives is heard all the same: it is not dead because it talks too much.
    if (isMember(peer)) return conduct.isHeard(peer) || isOfLife(protocol)
    const cost = price(protocol, peer)
    if (cost === undefined) return false
    const address = addressOf(connection.remoteAddr)
    const now = performance.now()
    if (this.requests.take(address, now, cost) && this.requestsAll.take('', now, cost)) return true
    conduct.offend(address, 'too many requests of strangers')
    return false
  }

  /** By what the conduct of the other side is known. Ids cost a stranger nothing, addresses something. */
  private nameOf({ remotePeer, remoteAddr }: Connection): string {
    const peer = remotePeer.toString()
    return this.options.isMember(peer) ? peer : addressOf(remoteAddr)
  }
}

const isOfLife = (protocol: string): boolean => /\/(pulse|probe|reach)$/.test(protocol)

/**
 * The host of an address. Whoever has one of IPv6 has as many as it likes, but so have all on a LAN in the same network: it is
 * the limits for all strangers together that hold then.
 */
export const addressOf = (address: Multiaddr): string =>
  address.getComponents().find(({ name }) => name === 'ip4' || name === 'ip6')?.value ?? ''

/** The same of a socket, which writes an address of IPv4 that came over IPv6 in another form. */
const hostOf = ({ remoteAddress = '' }: Socket): string =>
  remoteAddress.startsWith('::ffff:') ? new URL(`http://[${remoteAddress}]`).hostname.slice(1, -1) : remoteAddress
