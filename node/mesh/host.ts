// The libp2p host of an AP: transports, encryption, gossip. The one file that knows how libp2p is put together.
import '../polyfill.js'
import { type GossipSub, gossipsub } from '@chainsafe/libp2p-gossipsub'
import { bootstrap } from '@libp2p/bootstrap'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { type Identify, identify } from '@libp2p/identify'
import type { Connection, Libp2p, PeerDiscovery, PeerId, Startable, Stream } from '@libp2p/interface'
import { mdns } from '@libp2p/mdns'
import { noise } from '@libp2p/noise'
import { peerIdFromString } from '@libp2p/peer-id'
import { type Ping, ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import type { Multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { sha256, utf8 } from '../../protocols/bytes.js'
import { LAN_SERVICE, mdnsService } from '../../protocols/wire.js'

/** Connections of one peer, and of all that are no members: nobody may take all that there are. Bulk has its own. */
const MAX_CONNECTIONS_EACH = 16
const MAX_STRANGERS = 64
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

export type Host = Libp2p<{ identify: Identify; ping: Ping; pubsub: GossipSub }>

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
  /** How a member stands with this AP: zero, or below where it did what none should. */
  standing?(ap: string): number
}

export async function createHost(options: HostOptions): Promise<Host> {
  let lan: Startable | undefined
  const onLan = (components: Parameters<ReturnType<typeof mdns>>[0]) => {
    const discovery = mdns({ serviceTag: mdnsService(options.mesh), interval: ASK_EVERY })(components)
    lan = discovery as PeerDiscovery & Startable
    return discovery
  }
  const host: Host = await createLibp2p({
    start: false,
    privateKey: await generateKeyPairFromSeed('Ed25519', options.seed),
    addresses: { listen: [...options.listen] },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux({ streamOptions: { maxStreamWindowSize: MAX_WINDOW } })],
    peerDiscovery: [
      ...(options.mdns ? [onLan] : []),
      ...(options.bootstrap.length > 0 ? [bootstrap({ list: [...options.bootstrap], timeout: 0 })] : []),
    ],
    // Pulses tell more, and cost less than a ping stream per connection every ten seconds.
    connectionMonitor: { enabled: false },
    connectionGater: {
      denyInboundEncryptedConnection: (peer) =>
        host.getConnections(peer).length >= MAX_CONNECTIONS_EACH ||
        (!options.isMember(peer.toString()) && strangers(host, options).length >= MAX_STRANGERS),
    },
    connectionManager: {
      // Several APs behind one NAT (or on one machine) come from one address, and all come at once after a power cut.
      inboundConnectionThreshold: 50,
      maxIncomingPendingConnections: 50,
      // Our own dialler redials, for ever.
      reconnectRetries: 0,
      addressDialTimeout: 3000,
    },
    services: {
      identify: identify(),
      ping: ping(),
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
          appSpecificScore: (peer) => (options.isMember(peer) ? (options.standing?.(peer) ?? 0) : -1000),
          appSpecificWeight: 1,
        },
        scoreThresholds: { gossipThreshold: -10, publishThreshold: -50, graylistThreshold: -100 },
      }),
    },
  })
  // It asks when it starts.
  const seeking = setInterval(async () => {
    if (host.status !== 'started' || host.getPeers().some((peer) => options.isMember(peer.toString()))) return
    await lan?.stop()
    if (host.status === 'started') await lan?.start()
  }, SEEK_EVERY)
  seeking.unref()
  host.addEventListener('stop', () => clearInterval(seeking))
  return host
}

const strangers = (host: Host, { isMember }: HostOptions): Connection[] =>
  host.getConnections().filter(({ remotePeer }) => !isMember(remotePeer.toString()))

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
