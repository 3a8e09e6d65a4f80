// One AP in a process of its own, for the benchmark of transfers: network, swarm and files, nothing else of a node. What it is
// comes as JSON in its only argument, what it is to do over the channel to its parent (carriers.ts).
import { readFileSync, writeFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import pino from 'pino'
import { LowerEffort } from '../../node/packages/lower-effort.js'
import { hex, unhex } from '../../protocols/bytes.js'
import type { Blob } from '../../protocols/chunks.js'
import { open } from '../../protocols/envelope.js'
import { Peer } from '../node/mesh/support.js'
import { Holder } from '../node/packages/holder.js'
import type { Realm } from '../node/realm.js'

export interface CarrierOptions {
  /** Hex. */
  mesh: string
  text: string
  owner: string
  seed: string
  records: string[]
  listen: string
  dir: string
  /** Bytes a second, up and down each. */
  rate?: number
  /** Marks what it sends, as a node does. */
  lowerEffort?: boolean
}

/** As a parent writes it: hex. */
export interface BlobName {
  digest: string
  size: number
  root?: string | undefined
}

export type Order =
  | { do: 'know'; ap: string; addresses: string[] }
  | { do: 'make'; size: number }
  | { do: 'fetch'; blobs: BlobName[]; sources: string[] }
  | { do: 'forget'; blobs: BlobName[] }
  /** Sends chunks of nothing from now on. */
  | { do: 'lie' }
  | { do: 'usage' }
  /** How much of a blob that it fetches is here, in bytes. */
  | { do: 'progress'; blob: BlobName }

/** What a process used since it last began anew: milliseconds on a core, and bytes beyond what it had then. */
export interface Usage {
  cpu: number
  memory: number
  /** Bytes of chunks that it has sent since it started. */
  sent: number
}

export interface Fetched extends Usage {
  ms: number
  lies: string[]
}

const options = JSON.parse(process.argv[2]!) as CarrierOptions
const mesh = unhex(options.mesh)
const peer = await Peer.start(
  { mesh, text: options.text, owner: { publicKey: unhex(options.owner) } } as unknown as Realm,
  {
    seed: unhex(options.seed),
    records: options.records.map((bytes) => open(unhex(bytes), mesh)),
    listen: options.listen,
  },
)
const lowerEffort = new LowerEffort({ self: peer.id, log: pino() })
if (options.lowerEffort) lowerEffort.start()
let sources: string[] = []
const holder = new Holder(
  peer,
  {
    ...{ sources: () => [sources], drought: 30_000, ...(options.rate && { rate: options.rate }) },
    onBulk: (connection) => lowerEffort.add(connection),
  },
  options.dir,
)
await holder.swarm.start()

const blobOf = ({ digest, size, root }: BlobName): Blob => ({
  digest: unhex(digest),
  size,
  root: root === undefined ? undefined : unhex(root),
})

const orders: { [D in Order['do']]: (order: Extract<Order, { do: D }>) => Promise<unknown> } = {
  know: async ({ ap, addresses }) => peer.network.dialler.learn(ap, addresses),
  async make({ size }): Promise<BlobName> {
    const { digest, root } = await holder.make(size)
    return { digest: hex(digest), size, root: root && hex(root) }
  },
  async fetch({ blobs, sources: from }): Promise<Fetched> {
    sources = from
    const end = measure()
    const before = performance.now()
    await Promise.all(blobs.map((blob) => holder.swarm.fetch(blobOf(blob))))
    return {
      ms: performance.now() - before,
      ...end(),
      lies: holder.lies,
    }
  },
  async forget({ blobs }) {
    for (const { digest } of blobs) {
      holder.sizes.delete(digest)
      await rm(holder.pathOf(digest), { force: true })
    }
  },
  async lie() {
    const share = Reflect.get(holder.swarm, 'share') as (digest: string) => Promise<object | undefined>
    Reflect.set(holder.swarm, 'share', async (digest: string) => {
      const shared = await share.call(holder.swarm, digest)
      if (shared === undefined) return undefined
      const read = Reflect.get(shared, 'read') as (index: number) => Promise<Uint8Array | undefined>
      const lie = async (index: number) => (await read.call(shared, index))?.fill(7)
      return Object.create(shared, { read: { value: lie }, bits: { get: () => Reflect.get(shared, 'bits') } })
    })
  },
  progress: async ({ blob }) => holder.swarm.progress(blob.digest),
  async usage(): Promise<Usage> {
    const used = end()
    end = measure()
    return used
  },
}
let end = measure()

/** Begins to measure. @returns what says how much it was */
function measure(): () => Usage {
  const before = process.cpuUsage()
  writeFileSync('/proc/self/clear_refs', '5') // the highest use of memory begins anew (proc(5))
  const resident = memory('VmRSS')
  return () => {
    const { user, system } = process.cpuUsage(before)
    const { sent } = holder.swarm.seeding
    return { cpu: (user + system) / 1000, memory: memory('VmHWM') - resident, sent }
  }
}

function memory(name: string): number {
  const [, kilobytes] = new RegExp(`${name}:\\s+(\\d+)`).exec(readFileSync('/proc/self/status', 'utf8'))!
  return Number(kilobytes) * 1024
}

process.on('message', ({ id, order }: { id: number; order: Order }) => {
  const run = orders[order.do] as (order: Order) => Promise<unknown>
  run(order).then(
    (result) => process.send!({ id, result }),
    (error: Error) => process.send!({ id, error: error.message }),
  )
})
process.on('disconnect', () => void lowerEffort.stop().finally(() => process.exit()))
process.send!({ addresses: peer.addresses })
