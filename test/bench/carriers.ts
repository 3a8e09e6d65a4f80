// APs that only carry blobs, each in a process of its own (carrier.ts), as their parent sees them.
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { apId, hex } from '../../protocols/bytes.js'
import { apSigner } from '../../protocols/keys.js'
import { Realm, seed } from '../node/realm.js'
import type { Host } from '../support/hosts.js'
import { scratch } from '../support/scratch.js'
import type { BlobName, CarrierOptions, Fetched, Order, Usage } from './carrier.js'

const program = fileURLToPath(new URL('carrier.js', import.meta.url))

export class Carrier {
  addresses: string[] = []
  private readonly waiting = new Map<number, { resolve: (value: never) => void; reject: (error: Error) => void }>()
  private orders = 0

  private constructor(
    readonly ap: string,
    private readonly child: ChildProcess,
    /** Starts it anew, with what its disk has. */
    readonly reborn: () => Promise<Carrier>,
  ) {
    child.on('message', ({ id, result, error }: { id: number; result: never; error?: string }) => {
      const order = this.waiting.get(id)
      this.waiting.delete(id)
      if (error === undefined) order?.resolve(result)
      else order?.reject(new Error(error))
    })
    child.on('exit', () => {
      for (const { reject } of this.waiting.values()) reject(new Error(`carrier ${ap} ended`))
      this.waiting.clear()
    })
  }

  /** Starts one in the network of a host, or in the machine's own. */
  static async start(ap: string, options: CarrierOptions, host?: Host): Promise<Carrier> {
    mkdirSync(options.dir, { recursive: true })
    const argv = [process.execPath, program, JSON.stringify(options)]
    const how: SpawnOptions = { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] }
    const child = host === undefined ? spawn(argv[0]!, argv.slice(1), how) : host.exec(argv, how)
    const carrier = new Carrier(ap, child, () => Carrier.start(ap, options, host))
    await new Promise<void>((resolve, reject) => {
      child.once('message', (said: { addresses: string[] }) => {
        carrier.addresses = said.addresses
        resolve()
      })
      child.once('exit', () => reject(new Error('a carrier ended before it had begun')))
    })
    return carrier
  }

  know = (other: Carrier): Promise<void> => this.order({ do: 'know', ap: other.ap, addresses: other.addresses })
  make = (size: number): Promise<BlobName> => this.order({ do: 'make', size })
  forget = (blobs: BlobName[]): Promise<void> => this.order({ do: 'forget', blobs })
  usage = (): Promise<Usage> => this.order({ do: 'usage' })
  progress = (blob: BlobName): Promise<number | undefined> => this.order({ do: 'progress', blob })
  lie = (): Promise<void> => this.order({ do: 'lie' })
  fetch = (blobs: BlobName[], sources: readonly Carrier[]): Promise<Fetched> =>
    this.order({ do: 'fetch', blobs, sources: sources.map(({ ap }) => ap) })

  /** As a power cut would. */
  kill(): void {
    this.child.kill('SIGKILL')
  }

  stop(): void {
    if (this.child.connected) this.child.disconnect()
  }

  private order<T>(order: Order): Promise<T> {
    const id = ++this.orders
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject })
      this.child.send({ id, order })
    })
  }
}

/** Starts so many members of one mesh that know of each other, each on its host where there are hosts. */
export async function carriers(
  count: number,
  hosts: readonly Host[] = [],
  options: Pick<CarrierOptions, 'rate' | 'lowerEffort'> = {},
): Promise<Carrier[]> {
  const { mesh, text, owner, ...realm } = newRealm(count)
  const dir = scratch('bench-transfer')
  const all = await Promise.all(
    realm.seeds.map((own, i) =>
      Carrier.start(
        apId(apSigner(own).publicKey),
        {
          ...{ mesh: hex(mesh), text, owner: hex(owner.publicKey), seed: hex(own), records: realm.records },
          listen: `/ip4/${hosts[i]?.address ?? '127.0.0.1'}/tcp/0`,
          dir: join(dir, String(i)),
          ...options,
        },
        hosts[i],
      ),
    ),
  )
  for (const one of all) for (const other of all) if (one !== other) await one.know(other)
  return all
}

function newRealm(count: number) {
  const realm = new Realm()
  const seeds = Array.from({ length: count }, seed)
  const members = seeds.map((own, i) => realm.member(apSigner(own), `ap${i}`))
  const records = [realm.grant, ...members].map(({ bytes }) => hex(bytes))
  return { mesh: realm.mesh, text: realm.text, owner: realm.owner, seeds, records }
}
