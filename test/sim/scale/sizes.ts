// What each message has on the wire, in bytes, headers of IP and UDP or TCP included: as the codecs of protocols/ write it.
import { sha256, utf8 } from '../../../protocols/bytes.js'
import { encode } from '../../../protocols/codec.js'
import { type DatagramMessage, sealDatagram } from '../../../protocols/datagram.js'
import { seal } from '../../../protocols/envelope.js'
import { apSigner } from '../../../protocols/keys.js'
import type { Body } from '../../../protocols/kinds.js'

const IP_UDP = 28
/** With timestamps. Each segment of a stream is answered by a bare one, unless something goes back anyway. */
const IP_TCP = 52
/** Length and tag of noise, head of yamux, length prefix of the frame. */
const STREAM = 18 + 12 + 2
/** Of an RPC of gossipsub around a message: tags, lengths and the topic. */
const RPC = 90
/** In an IHAVE: a message id with its tag and length. */
const ID = 34

const signer = apSigner(sha256(utf8('sizes')))
const MESH = new Uint8Array(20)
const CLOCK = [1_700_000_000_000, 7] as const
const SIGN = { boot: 12, sequence: 1_000_000 }

/** Of an AP with two addresses that runs so many instances, each of an image of its own. */
const beaconBody = (instances: number): Body<'beacon'> => ({
  ...SIGN,
  version: '0.1.0',
  addresses: ['/ip4/192.168.17.123/tcp/4010', '/ip6/fd12:3456:789a:1::17/tcp/4010'],
  engine: { version: '26.1.5', platform: 'linux/arm64', cpu: 4000, memory: 4e9, local: true },
  instances: Array.from({ length: instances }, () => ({
    ...{ instance: new Uint8Array(25), epoch: 3, revision: 2, state: 'healthy' as const, since: 1_700_000_000_000 },
    ports: [{ container: 8080, host: 32768, protocol: 'tcp' as const }],
  })),
  cannot: [],
  images: Array.from({ length: instances }, () => new Uint8Array(32)),
  packages: Array.from({ length: instances }, () => new Uint8Array(32)),
  ledger: new Uint8Array(16),
})
const statementBody: Body<'statement'> = {
  ...SIGN,
  silence: 1850,
  probes: 2,
  heard: true,
  watchers: new Uint8Array(16),
}

const envelopeOf = (kind: string, body: object): number =>
  seal(signer, MESH, [...CLOCK], kind, signer.publicKey, body).bytes.length

function datagramOf(message: DatagramMessage): number {
  return IP_UDP + sealDatagram(1, new Uint8Array(32), 1e6, encode(message)).length
}

const gossiped = (envelope: number): number => IP_TCP + STREAM + RPC + envelope

export type Sizes = ReturnType<typeof sizesWith>

/** @param instances that each AP runs */
export const sizesWith = (instances: number) => ({
  pulse: datagramOf(['pulse', { ...SIGN, ledger: new Uint8Array(16) }]),
  heard: datagramOf(['heard']),
  ask: datagramOf(['ask', 1000, {}]),
  askFor: datagramOf(['ask', 1000, { ap: new Uint8Array(32) }]),
  answer: datagramOf(['answer', 1000, { ...SIGN, reached: true }]),
  streamed: IP_TCP + STREAM + encode({ ...SIGN, ledger: new Uint8Array(16) }).length,
  /** Both ways of multistream and the frames of a stream that is opened for one question. */
  opening: 3 * (IP_TCP + STREAM) + 100,
  ack: IP_TCP,
  beacon: gossiped(envelopeOf('beacon', beaconBody(instances))),
  statement: gossiped(envelopeOf('statement', statementBody)),
  /** In a sync: the beacon that is known of one AP. */
  mark: encode([signer.publicKey, SIGN.boot, SIGN.sequence]).length,
  ihave: IP_TCP + STREAM + RPC,
  id: ID,
})
