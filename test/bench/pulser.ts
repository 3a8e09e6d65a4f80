// One peer in a process of its own, for the benchmark of pulses: pulses to another one, gives a package away or fetches it, and
// prints a line for each pulse that it hears. What it is comes as JSON in its only argument.
import { open as openFile, rename, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { describeFile, Swarm } from '../../node/packages/swarm.js'
import { hex, unhex } from '../../protocols/bytes.js'
import type { Blob } from '../../protocols/chunks.js'
import { open } from '../../protocols/envelope.js'
import { TIMING } from '../../protocols/roster.js'
import { Peer } from '../node/mesh/support.js'
import type { Realm } from '../node/realm.js'
import { scratch } from '../support/scratch.js'

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

/** Bytes of the package: more than a window lets pass. */
const SIZE = 256 * 1024 ** 2

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

const dir = scratch('pulser')
const sizes = new Map<string, number>()
const pathOf = (digest: string) => join(dir, digest)
const swarm = new Swarm({
  ...{ self: peer.id, network: peer.network, dir: join(dir, 'partial') },
  store: {
    size: (digest) => sizes.get(digest),
    pathOf,
    adopt: async (path, digest) => {
      await rename(path, pathOf(digest))
      sizes.set(digest, (await stat(pathOf(digest))).size)
    },
  },
  mayShare: () => true,
  sources: () => [options.other],
  isMember: () => true,
  onLie: () => {},
})
await swarm.start()

/** The same on both sides: nothing but zeroes. */
async function made(): Promise<Blob> {
  const path = join(dir, 'made')
  const file = await openFile(path, 'w')
  await file.truncate(SIZE)
  await file.close()
  const { blob } = await describeFile(path)
  await rename(path, pathOf(hex(blob.digest)))
  return blob
}
const blob = await made()
sizes.set(hex(blob.digest), SIZE)
process.stdin.on('data', () => {
  sizes.delete(hex(blob.digest)) // what it lacks it fetches
  void swarm.fetch(blob)
})

setInterval(() => peer.network.sendPulses([options.other]), TIMING.pulse)
let told = 0
setInterval(() => {
  const fetched = swarm.progress(hex(blob.digest)) ?? 0
  for (const { at } of peer.pulses.slice(told)) console.log(JSON.stringify({ at, fetched }))
  told = peer.pulses.length
}, 100)
console.log(JSON.stringify({ addresses: peer.addresses }))
