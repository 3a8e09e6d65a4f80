// One peer in a process of its own, for the benchmark of pulses: pulses to another one, hands out an endless image or fetches
// it, and prints a line for each pulse that it hears. What it is comes as JSON in its only argument.
import type { Images } from '../../node/packages/images.js'
import { fetchImage, serveImages } from '../../node/packages/transfer.js'
import { unhex } from '../../protocols/bytes.js'
import { open } from '../../protocols/envelope.js'
import { MAX_CHUNK } from '../../protocols/limits.js'
import { TIMING } from '../../protocols/roster.js'
import { Peer } from '../node/mesh/support.js'
import type { Realm } from '../node/realm.js'

export interface PulserOptions {
  /** Hex. */
  mesh: string
  text: string
  owner: string
  seed: string
  records: string[]
  listen: string
  /** The other one, and where it is. */
  other: string
  addresses: string[]
}

const options = JSON.parse(process.argv[2]!) as PulserOptions
const mesh = unhex(options.mesh)
const peer = await Peer.start(
  { mesh, text: options.text, owner: { publicKey: unhex(options.owner) } } as unknown as Realm,
  {
    seed: unhex(options.seed),
    records: options.records.map((bytes) => open(unhex(bytes), mesh)),
    listen: options.listen,
    peers: { [options.other]: options.addresses },
  },
)

let fetched = 0
const images = {
  has: async () => true,
  held: async () => 0,
  async *export() {
    for (;;) yield new Uint8Array(MAX_CHUNK)
  },
  async import(_image: unknown, chunks: AsyncIterable<Uint8Array>) {
    for await (const chunk of chunks) fetched += chunk.length
  },
} as unknown as Images
const image = { config: new Uint8Array(32), layers: [] } as never
await serveImages({ network: peer.network, images, imageOf: () => image })
process.stdin.on('data', () => void fetchImage(peer.network, images, options.other, image))

setInterval(() => peer.network.sendPulses([options.other]), TIMING.pulse)
let told = 0
setInterval(() => {
  for (const { at } of peer.pulses.slice(told)) console.log(JSON.stringify({ at, fetched }))
  told = peer.pulses.length
}, 100)
console.log(JSON.stringify({ addresses: peer.addresses }))
