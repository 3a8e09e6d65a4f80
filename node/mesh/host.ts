// The libp2p host of an AP: transports, encryption, gossip. The one file that knows how libp2p is put together.
import '../polyfill.js'
import { type GossipSub, gossipsub } from '@chainsafe/libp2p-gossipsub'
import { bootstrap } from '@libp2p/bootstrap'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { type Identify, identify } from '@libp2p/identify'
import type { Connection, Libp2p, PeerId, Stream } from '@libp2p/interface'
import { mdns } from '@libp2p/mdns'
import { noise } from '@libp2p/noise'
import { peerIdFromString } from '@libp2p/peer-id'
import { type Ping, ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { createLibp2p } from 'libp2p'
import { sha256 } from '../../protocols/bytes.js'
import { MAX_RECORD } from '../../protocols/limits.js'
import { mdnsService, topics } from '../../protocols/wire.js'

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
}

export async function createHost(options: HostOptions): Promise<Host> {
  const { records, beacons } = topics(options.mesh)
  return createLibp2p({
    start: false,
    privateKey: await generateKeyPairFromSeed('Ed25519', options.seed),
    addresses: { listen: [...options.listen] },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    peerDiscovery: [
      ...(options.mdns ? [mdns({ serviceTag: mdnsService(options.mesh) })] : []),
      ...(options.bootstrap.length > 0 ? [bootstrap({ list: [...options.bootstrap], timeout: 0 })] : []),
    ],
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
        msgIdFn: (message) => sha256(message.data),
        allowPublishToZeroTopicPeers: true,
        emitSelf: false,
        allowedTopics: [records, beacons],
        maxInboundDataLength: MAX_RECORD,
        // A hub that everyone joined through must not leave the others without mesh links.
        D: 8,
        Dhi: 30,
        scoreParams: {
          IPColocationFactorWeight: 0,
          appSpecificScore: (peer) => (options.isMember(peer) ? 0 : -1000),
          appSpecificWeight: 1,
        },
        scoreThresholds: { gossipThreshold: -10, publishThreshold: -50, graylistThreshold: -100 },
      }),
    },
  })
}

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
