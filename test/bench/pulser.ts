// One peer in a process of its own, for the benchmark of pulses: pulses to another one, gives away a blob, or fetches the one that
// it is told of on its stdin, and prints a line for each pulse that it hears. What it is comes as JSON in its only argument.
import { hex, unhex } from '../../protocols/bytes.js'
import type { Blob } from '../../protocols/chunks.js'
import { open } from '../../protocols/envelope.js'
import { TIMING } from '../../protocols/roster.js'
import { Peer } from '../node/mesh/support.js'
import { Holder } from '../node/packages/holder.js'
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
  /** Bytes of the blob that it gives away. */
  gives: number
  /** Bytes a second at which it gives and fetches at the most. */
  rate: number
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

const holder = new Holder(peer, { sources: () => [[options.other]], drought: 600_000, rate: options.rate })
await holder.swarm.start()
let wanted: Blob | undefined
process.stdin.setEncoding('utf8').on('data', (text: string) => {
  const { digest, size, root } = JSON.parse(text)
  wanted = { digest: unhex(digest), size, root: unhex(root) }
  void holder.swarm.fetch(wanted)
})

setInterval(() => peer.network.sendPulses([options.other]), TIMING.pulse)
let told = 0
setInterval(() => {
  const fetched = wanted === undefined ? 0 : holder.swarm.progress(hex(wanted.digest))
  for (const { at } of peer.pulses.slice(told)) console.log(JSON.stringify({ at, fetched }))
  told = peer.pulses.length
}, 100)
const { digest, size, root } = await holder.make(options.gives)
const blob = { digest: hex(digest), size, root: root && hex(root) }
console.log(JSON.stringify({ addresses: peer.addresses, blob }))
