// The libp2p host of an AP: transports, encryption, gossip. The one file that knows how libp2p is put together.
import '../polyfill.js'
import { type GossipSub, gossipsub } from '@chainsafe/libp2p-gossipsub'
import { bootstrap } from '@libp2p/bootstrap'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { type Identify, identify } from '@libp2p/identify'
import type { Connection, Libp2p, PeerDiscovery, PeerId, Startable, Stream } from '@libp2p/interface'
import { mdns } from '@libp2p/mdns'
import { noise } from '@libp2p/noise'
import { peerIdFromPrivateKey, peerIdFromString } from '@libp2p/peer-id'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import type { Multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { sha256, utf8 } from '../../protocols/bytes.js'
import { LAN_SERVICE, mdnsService } from '../../protocols/wire.js'
import { Conduct } from './conduct.js'
import { Gate } from './gate.js'

/**
 * Streams that the other side may have open on one connection, those that have not said what they are for included. Ours
 * together allow forty.
 */
const MAX_STREAMS = 64
/** Who dials gives up after five seconds, so nobody is waited for longer: in a handshake, or to say what a stream is for. */
const NEGOTIATION_DEADLINE = 5000
/**
 * Bytes a peer may have sent on one stream without being asked for more. Below the 4 MiB that libp2p holds for a stream that
 * is not read from, and enough for 20 MB/s at 50 ms.
 */
const MAX_WINDOW = 1024 ** 2
/** Bytes of one message of gossipsub itself, which can carry many records to one that asked for them. */
const MAX_GOSSIP_MESSAGE = 4 * 1024 ** 2

/**
 * How often an AP asks on the LAN for others, in milliseconds: often while it knows none, and hardly ever once it does. All answer
 * to all, so that of fifty APs that asked each ten seconds each would hear 250 answers a second.
 */
const SEEK_EVERY = 10_000
const ASK_EVERY = 1_800_000

type IdentifyComponents = Parameters<ReturnType<typeof identify>>[0]

export type Host = Libp2p<{ identify: Identify; pubsub: GossipSub }>

export interface HostOptions {
  /** 32-byte seed of the AP's key. */
  seed: Uint8Array
  /** Mesh id as text. */
  mesh: string
  listen: readonly string[]
  mdns: boolean
  /** Addresses to try at start, with `/p2p/…`: of the ticket and of peers known from before. */
  bootstrap: readonly string[]
  /** Members alone take part in gossip; strangers are neither heard nor told. */
  isMember(ap: string): boolean
  /** What it costs a stranger to open a stream of this protocol; undefined where it may not. See gate.ts. */
  price?(protocol: string, ap: string): number | undefined
  readonly conduct?: Conduct
}

export async function createHost(options: HostOptions): Promise<Host> {
  let lan: Startable | undefined
  const onLan = (components: Parameters<ReturnType<typeof mdns>>[0]) => {
    const discovery = mdns({ serviceTag: mdnsService(options.mesh), interval: ASK_EVERY })(components)
    lan = discovery as PeerDiscovery & Startable
    return discovery
  }
  const privateKey = await generateKeyPairFromSeed('Ed25519', options.seed)
  const { isMember, conduct = new Conduct(() => performance.now()), price = () => undefined } = options
  const self = peerIdFromPrivateKey(privateKey).toString()
  const gate = new Gate({ self, isMember, price, conduct }, () => host.getConnections())
  const host: Host = await createLibp2p({
    start: false,
    privateKey,
    addresses: { listen: [...options.listen] },
    transports: [(components) => gate.guardListeners(tcp()(components))],
    connectionEncrypters: [noise()],
    streamMuxers: [
      () =>
        gate.remembering(
          yamux({ maxInboundStreams: MAX_STREAMS, streamOptions: { maxStreamWindowSize: MAX_WINDOW } })(),
        ),
    ],
    peerDiscovery: [
      ...(options.mdns ? [onLan] : []),
      ...(options.bootstrap.length > 0 ? [bootstrap({ list: [...options.bootstrap], timeout: 0 })] : []),
    ],
    // Pulses tell more, and cost less than a ping stream per connection every ten seconds.
    connectionMonitor: { enabled: false },
    connectionGater: gate.gater,
    connectionManager: {
      // The gate counts better: several APs behind one NAT come from one address, and all come at once after a power cut.
      inboundConnectionThreshold: Number.POSITIVE_INFINITY,
      maxIncomingPendingConnections: Number.POSITIVE_INFINITY,
      inboundUpgradeTimeout: NEGOTIATION_DEADLINE,
      inboundStreamProtocolNegotiationTimeout: NEGOTIATION_DEADLINE,
      // Our own dialler redials, for ever.
      reconnectRetries: 0,
      addressDialTimeout: 3000,
    },
    services: {
      identify(components: IdentifyComponents) {
        gate.guard(components.registrar)
        return identify({ runOnConnectionOpen: false })(components)
      },
      pubsub: gossipsub({
        globalSignaturePolicy: 'StrictNoSign', // records are signed themselves (decision 3)
        // While neighbourhoods change one beacon goes to two topics.
        msgIdFn: ({ topic, data }) => sha256(utf8(topic), Uint8Array.of(0), data),
        // What comes on a topic that this AP does not hear would be kept and handed on unseen.
        dataTransform: {
          inboundTransform(topic, data) {
            if (!host.services.pubsub.getTopics().includes(topic)) throw new Error(`not on ${topic}`)
            return data
          },
          outboundTransform: (_, data) => data,
        },
        allowPublishToZeroTopicPeers: true,
        emitSelf: false,
        maxInboundDataLength: MAX_GOSSIP_MESSAGE,
        // Telling all others not to send what just came costs more than a beacon that comes twice.
        idontwantMinDataSize: 8192,
        // A hub that everyone joined through must not leave the others without mesh links.
        D: 8,
        Dhi: 30,
        scoreParams: {
          IPColocationFactorWeight: 0,
          appSpecificScore: (peer) => (isMember(peer) ? -(conduct.points(peer) ** 2) : -1000),
          appSpecificWeight: 1,
        },
        // Who is not heard any more has a hundred points less than none (conduct.ts): gossipsub looks at nothing it sends
        // then, and drops it from its mesh at the next heartbeat. Below zero it takes in no new links with it.
        scoreThresholds: { gossipThreshold: -10, publishThreshold: -50, graylistThreshold: -100 },
      }),
    },
  })
  host.addEventListener('connection:open', ({ detail }) => {
    gate.watch(detail)
    if (isMember(detail.remotePeer.toString())) host.services.identify.identify(detail).catch(() => {})
  })
  countGossip(host.services.pubsub as unknown as GossipReader, conduct)
  // It asks when it starts.
  const seeking = setInterval(async () => {
    if (host.status !== 'started' || host.getPeers().some((peer) => isMember(peer.toString()))) return
    await lan?.stop()
    if (host.status === 'started') await lan?.start()
  }, SEEK_EVERY)
  seeking.unref()
  host.addEventListener('stop', () => clearInterval(seeking))
  return host
}

/** How gossipsub reads what another AP sends it. */
interface GossipReader {
  pipePeerReadStream(from: PeerId, frames: AsyncIterable<{ subarray(): Uint8Array }>): Promise<void>
  /** @throws where the bytes are no message of gossipsub, or say more than one may */
  decodeRpc(bytes: Uint8Array): Rpc
  handleReceivedRpc(from: PeerId, rpc: Rpc): Promise<void>
  handlePeerReadStreamError(error: Error, from: PeerId): void
}
interface Rpc {
  readonly subscriptions?: readonly unknown[]
  readonly messages?: readonly unknown[]
  readonly control?: Readonly<Record<string, readonly unknown[] | undefined>>
}

/** One that is not heard does not know it, and goes on at a moderate pace. Who floods on uses up its budget so much faster. */
const UNHEARD = 16

/** How frames end that are the sender's doing: by a length that is too long, or has no end. */
const BAD_LENGTHS = ['InvalidDataLengthError', 'InvalidDataLengthLengthError']

// Gossipsub asks validators last, of messages that it has not seen, and of nothing else that one can say. What does not decode
// it drops without a word. Here all that comes is counted, and what is no message of gossipsub is an offence.
function countGossip(pubsub: GossipReader, conduct: Conduct): void {
  const read = (from: string, bytes: Uint8Array): Rpc | undefined => {
    try {
      return pubsub.decodeRpc(bytes)
    } catch {
      conduct.offend(from, 'gossip that does not decode')
      return undefined
    }
  }
  pubsub.pipePeerReadStream = async (peer, frames) => {
    const from = peer.toString()
    try {
      for await (const frame of frames) {
        const bytes = frame.subarray()
        const rpc = read(from, bytes)
        const isInBudget = spendGossip(conduct, from, bytes.length, rpc)
        if (rpc !== undefined && isInBudget) pubsub.handleReceivedRpc(peer, rpc).catch(() => {})
      }
    } catch (error) {
      const { name } = error as Error
      if (BAD_LENGTHS.includes(name)) conduct.offend(from, 'a frame of gossip that is too long')
      pubsub.handlePeerReadStreamError(error as Error, peer)
    }
  }
}

/** Returns false where one is not heard, or has used up what it may say. */
function spendGossip(conduct: Conduct, from: string, bytes: number, rpc: Rpc = {}): boolean {
  const { subscriptions = [], messages = [], control = {} } = rpc
  const entries = Object.values(control).reduce((total, list) => total + (list?.length ?? 0), 0)
  const count = Math.max(1, messages.length + subscriptions.length + entries)
  if (conduct.isHeard(from)) return conduct.spend(from, 'messages', count) && conduct.spend(from, 'bytes', bytes)
  conduct.spend(from, 'messages', UNHEARD * count)
  return false
}

/** Closes a connection; at once where the other side holds that up. */
export const closeConnection = (connection: Connection): Promise<void> =>
  connection.close().catch((error) => connection.abort(error))

// Bulk has connections of its own; whatever is small avoids them (decision 5).
const bulk = new WeakSet<Connection>()

/** Marks a connection as one for bulk. */
export const setBulk = (connection: Connection): void => void bulk.add(connection)

/** The oldest open connection to an AP that is not for bulk. */
export const connectionTo = (host: Host, ap: string): Connection | undefined =>
  host.getConnections(peerIdFromString(ap)).find((connection) => connection.status === 'open' && !bulk.has(connection))

/** Opens a stream on the connection that is there. Never dials: the dialler does. */
export async function openStream(host: Host, ap: string, protocol: string, signal: AbortSignal): Promise<Stream> {
  const connection = connectionTo(host, ap)
  if (connection === undefined) throw new Error(`not connected to ${ap}`)
  return connection.newStream(protocol, { signal })
}

export const peerId = (ap: string): PeerId => peerIdFromString(ap)

/** The host of an AP that is in no mesh yet: it dials, and nobody can dial it. */
export const createAsker = async (seed: Uint8Array): Promise<Libp2p> =>
  createLibp2p({
    privateKey: await generateKeyPairFromSeed('Ed25519', seed),
    addresses: { listen: [] },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    connectionMonitor: { enabled: false },
    connectionManager: { reconnectRetries: 0, addressDialTimeout: 3000 },
  })

/**
 * By multicast DNS, the service that all meshes share: a member answers and asks no more than once, and who is in no mesh asks
 * each so many milliseconds and does not answer. Nobody is dialled for what is heard here but by who is in no mesh.
 */
export function lanService(host: Libp2p, asks?: { every: number; onPeer(ap: string, addresses: Multiaddr[]): void }) {
  const addressManager = { getAddresses: () => host.getMultiaddrs() }
  const init = { serviceTag: LAN_SERVICE, broadcast: asks === undefined, interval: asks?.every ?? ASK_EVERY }
  const components = { peerId: host.peerId, logger: host.logger, addressManager }
  const service = mdns(init)(components as unknown as Parameters<ReturnType<typeof mdns>>[0]) as PeerDiscovery &
    Startable
  service.addEventListener('peer', ({ detail }) => asks?.onPeer(detail.id.toString(), detail.multiaddrs))
  return service
}
