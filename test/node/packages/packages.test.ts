// Packages between APs: real connections, disks and registries, no engines. What an AP decides is left out.
import { randomBytes } from 'node:crypto'
import { existsSync, readdirSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pino } from 'pino'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { digestOf } from '../../../node/packages/oci.js'
import { Packages, type PackagesOptions } from '../../../node/packages/packages.js'
import { hex, unhex } from '../../../protocols/bytes.js'
import { type ChuteSpec, DEFAULT_LIMITS, type PackageRef } from '../../../protocols/deployment.js'
import { scratch } from '../../support/scratch.js'
import { until } from '../../support/until.js'
import { type Peer, Peers } from '../mesh/support.js'
import { refusalOf } from '../realm.js'
import { Client, descriptorOf, imageOf } from './client.js'

const peers = new Peers()
const log = pino({ level: 'silent' })
const closing: Packages[] = []
test.after(async () => {
  for (const packages of closing) await packages.close()
  await peers.stop()
})

class Holder {
  readonly dir: string
  readonly events: Record<string, unknown>[] = []
  sources: Holder[] = []
  packages!: Packages
  now = 0

  constructor(
    readonly peer: Peer,
    dir = join(scratch('packages'), 'packages'),
  ) {
    this.dir = dir
  }

  async open(options: Partial<PackagesOptions> = {}): Promise<this> {
    this.packages = await Packages.open({
      ...{ self: this.peer.id, network: this.peer.network, dir: this.dir, maxBytes: 2 ** 33, rate: undefined, port: 0 },
      platform: () => 'linux/amd64',
      holders: () => [this.sources.map(({ peer }) => peer.id)],
      ...{ isMember: () => true, turn: async () => {}, admit: async () => {}, onFailure: () => {}, onChange: () => {} },
      onEvent: (kind, fields) => this.events.push({ kind, ...fields }),
      ...{ log, now: () => this.now, drought: 2000 },
      ...options,
    })
    closing.push(this.packages)
    await this.packages.start()
    return this
  }

  /** Pushes an image for a platform to its registry, and returns what a record says of it. */
  async push(size: number, architecture = 'amd64') {
    const client = new Client(Number(this.packages.address.split(':')[1]))
    const layer = randomBytes(size)
    const config = Buffer.from(JSON.stringify({ os: 'linux', architecture, id: randomBytes(4).toString('hex') }))
    for (const bytes of [layer, config])
      await this.packages.store.write(digestOf(bytes), Readable.from([bytes], { objectMode: false }))
    const manifest = Buffer.from(JSON.stringify(imageOf(descriptorOf(config), [descriptorOf(layer)])))
    const digest = digestOf(manifest)
    assert.is((await client.pushManifest('x', digest, String(manifest))).status, 201)
    const bare = (text: string) => text.slice('sha256:'.length)
    return {
      ...{ layer: bare(digestOf(layer)), manifest: bare(digest) },
      image: {
        config: unhex(bare(digestOf(config))),
        platform: `linux/${architecture}`,
        manifest: unhex(bare(digest)),
      },
    }
  }
}

/** @param options of all but the first */
async function holders(n: number, options: Partial<PackagesOptions> = {}): Promise<Holder[]> {
  const members = await peers.members(n)
  for (const one of members) for (const other of members) one.network.dialler.learn(other.id, other.addresses)
  return Promise.all(members.map((peer, i) => new Holder(peer).open(i === 0 ? {} : options)))
}

type Image = Awaited<ReturnType<Holder['push']>>['image']

const specOf = (ref: PackageRef, ...images: Image[]): ChuteSpec => ({
  services: [
    {
      ...{ name: 'web', images, environment: {}, ports: [], mounts: [], tmpfs: [], stopGrace: 0 },
      limits: DEFAULT_LIMITS,
    },
  ],
  ...{ volumes: [], replicas: 1, constraints: [], package: ref },
})

const NOTHING: ReadonlySet<string> = new Set()

test('an AP gets a package by what the record says and nothing else, and tells that it has what its platform needs', async () => {
  const [from, to] = (await holders(2)) as [Holder, Holder]
  const [own, foreign] = [await from.push(700_000), await from.push(50_000, 'arm64')]
  const ref = await from.packages.make([own.manifest, foreign.manifest])
  const spec = specOf(ref, own.image, foreign.image)
  for (const { packages } of [from, to]) packages.follow({ specs: [spec], needed: NOTHING })
  to.sources = [from]
  await to.packages.look()
  assert.equal(to.packages.holdings(), [])
  const descriptor = await to.packages.descriptor(ref)
  assert.is(descriptor.size, 6)
  const { blobs } = await to.packages.manifest(own.manifest)
  for (const blob of blobs) await to.packages.fetch(blob.slice('sha256:'.length))
  await to.packages.look()
  assert.equal(to.packages.holdings().map(hex), [hex(ref.digest)])
  assert.not(to.packages.store.has(`sha256:${foreign.layer}`), 'what is for another platform was fetched')
  const { bytes, from: aps } = to.packages.takeArrivals([hex(ref.digest), ...descriptor.keys()])
  assert.equal(aps, [from.peer.id])
  assert.ok(bytes > 700_000 && bytes < 705_000, `${bytes}`)
})

test('an AP that gives another content than was signed for is named in events, and nothing of it is kept', async () => {
  const [from, to] = (await holders(2)) as [Holder, Holder]
  const { layer, manifest, image } = await from.push(600_000)
  const ref = await from.packages.make([manifest])
  for (const { packages } of [from, to]) packages.follow({ specs: [specOf(ref, image)], needed: NOTHING })
  to.sources = [from]
  await to.packages.descriptor(ref)
  const path = from.packages.store.pathOf(`sha256:${layer}`)
  const content = await readFile(path)
  content[300_000]! ^= 1
  writeFileSync(path, content)
  const error = await refusalOf(to.packages.fetch(layer), 'no-blob')
  assert.match(error.message, new RegExp(from.peer.id))
  assert.equal(
    to.events.filter(({ kind }) => kind === 'lied').map(({ ap, blob }) => [ap, blob]),
    [[from.peer.id, layer]],
  )
  assert.not(to.packages.store.has(`sha256:${layer}`))
})

test('blobs of no chute in the ledger are given to nobody, whoever asks, also where they were a moment ago', async () => {
  const [from, to] = (await holders(2)) as [Holder, Holder]
  const { manifest, image, layer } = await from.push(1000)
  const ref = await from.packages.make([manifest])
  to.packages.follow({ specs: [specOf(ref, image)], needed: NOTHING })
  to.sources = [from]
  const refused = await refusalOf(to.packages.descriptor(ref), 'no-blob')
  assert.match(refused.message, /does not have that blob|no reachable AP has it/)
  from.packages.follow({ specs: [specOf(ref, image)], needed: NOTHING })
  await to.packages.descriptor(ref)
  from.packages.follow({ specs: [], needed: NOTHING })
  await refusalOf(to.packages.fetch(layer), 'no-blob')
})

test('what was made stays while a record names it, or for an hour; what is on its way for nobody is removed', async () => {
  const [one, other] = (await holders(2)) as [Holder, Holder]
  const { manifest, image, layer } = await one.push(1_000_000)
  const ref = await one.packages.make([manifest])
  const tags = () => one.packages.store.catalogue.tags('dropmesh/package', '', 10)
  one.now = 3_599_000
  await one.packages.sweep(() => false)
  assert.equal(await tags(), [hex(ref.digest)])
  one.now = 3_601_000
  await one.packages.sweep((digest) => digest === hex(ref.digest))
  assert.equal(await tags(), [hex(ref.digest)])
  assert.ok(await one.packages.store.isKept(`sha256:${layer}`))
  await one.packages.sweep(() => false)
  assert.equal(await tags(), [])
  assert.not(await one.packages.store.isKept(`sha256:${layer}`))

  // What came of a blob before its sender went.
  const partial = join(other.dir, 'partial')
  one.packages.follow({ specs: [specOf(ref, image)], needed: NOTHING })
  other.packages.follow({ specs: [specOf(ref, image)], needed: NOTHING })
  other.sources = [one]
  await other.packages.descriptor(ref)
  writeFileSync(join(partial, layer), 'some')
  await other.packages.sweep(() => false)
  assert.ok(existsSync(join(partial, layer)), 'it is still wanted')
  other.packages.follow({ specs: [], needed: NOTHING })
  await other.packages.sweep(() => false)
  assert.equal(readdirSync(partial), [])
})

test('what an instance here runs from is not evicted, whatever comes; a fetch without room is refused and says so', async () => {
  let wall = 0
  const [from, to] = (await holders(2, { maxBytes: 1_000_000, wall: () => wall })) as [Holder, Holder]
  const [needed, big] = [await from.push(600_000), await from.push(900_000)]
  const refs = [await from.packages.make([needed.manifest]), await from.packages.make([big.manifest])] as const
  const specs = [specOf(refs[0], needed.image), specOf(refs[1], big.image)]
  from.packages.follow({ specs, needed: NOTHING })
  to.packages.follow({ specs, needed: new Set([hex(refs[0].digest)]) })
  to.sources = [from]
  for (const [i, { layer }] of [needed, big].entries()) {
    await to.packages.descriptor(refs[i]!)
    if (i === 0) await to.packages.fetch(layer)
    else assert.match((await refusalOf(to.packages.fetch(layer), 'no-room')).message, /no room for packages/)
  }
  wall = 3_600_000 // nothing was used lately
  await refusalOf(to.packages.fetch(big.layer), 'no-room')
  assert.ok(to.packages.store.has(`sha256:${needed.layer}`))
  to.packages.follow({ specs, needed: NOTHING })
  await to.packages.fetch(big.layer)
  assert.not(to.packages.store.has(`sha256:${needed.layer}`))
})

test('a node that is started again knows what was made there, and goes on to give it', async () => {
  const [from, to] = (await holders(2)) as [Holder, Holder]
  const { manifest, image, layer } = await from.push(300_000)
  const ref = await from.packages.make([manifest])
  await from.packages.close()
  closing.splice(closing.indexOf(from.packages), 1)
  await from.peer.network.host.unhandle(from.peer.network.blobProtocol)
  const again = await new Holder(from.peer, from.dir).open()
  for (const { packages } of [again, to]) packages.follow({ specs: [specOf(ref, image)], needed: NOTHING })
  await again.packages.look()
  await until('it to say that it has it', () => again.packages.holdings().length === 1)
  to.sources = [again]
  await to.packages.descriptor(ref)
  await to.packages.fetch(layer)
  assert.ok(to.packages.store.has(`sha256:${layer}`))
})

test.run()
