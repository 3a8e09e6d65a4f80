// How an image leaves an engine for a package and comes into one again: a real engine, the registry it pushes to and pulls
// from, real blobs. Other APs are in test/hosts/image.test.ts.
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { gzipSync } from 'node:zlib'
import { pino } from 'pino'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { connectDocker } from '../../../node/chutes/docker-client.js'
import { IdleImages } from '../../../node/packages/idle-images.js'
import { buildKey, heldName, Images, platformOf } from '../../../node/packages/images.js'
import { digestOf } from '../../../node/packages/oci.js'
import { Packages } from '../../../node/packages/packages.js'
import { Publishing } from '../../../node/packages/publishing.js'
import { Supply } from '../../../node/packages/supply.js'
import { collect, tarOf } from '../../../node/packages/tar.js'
import { hex, unhex } from '../../../protocols/bytes.js'
import { type ChuteSpec, DEFAULT_LIMITS, type ImageSpec, type ServiceSpec } from '../../../protocols/deployment.js'
import { BUSYBOX, ensureBusybox, imageIn } from '../../support/busybox.js'
import { scratch } from '../../support/scratch.js'
import { type Peer, Peers } from '../mesh/support.js'
import { refusalOf } from '../realm.js'
import { Client, descriptorOf, INDEX, imageOf } from './client.js'

const test = suite('supply')
const docker = connectDocker()
const images = new Images(docker)
const peers = new Peers()
const log = pino({ level: 'silent' })
const events: Record<string, unknown>[] = []
const onEvent = (kind: string, fields: Record<string, unknown>) => events.push({ kind, ...fields })
const opened: Packages[] = []
/** Tags of images that tests made. */
const made: string[] = []

let platform = 'linux/amd64'
let packages: Packages
let publishing: Publishing
let supply: Supply
let client: Client

let own: Peer
let other: Peer

test.before(async () => {
  platform = (await imageIn(docker, await ensureBusybox(docker))).platform
  ;[own, other] = (await peers.members(2)) as [Peer, Peer]
  other.network.dialler.learn(own.id, own.addresses)
  ;({ packages, supply } = await open(own))
  publishing = new Publishing(docker, images, packages, log)
  client = new Client(Number(packages.address.split(':')[1]))
})

/** The packages of an AP, and what brings them into the engine, which is the same for all. */
async function open({ id: self, network }: Peer, sources: string[] = []) {
  const supply = new Supply({
    ...{ docker, images, packages: () => packages, platform: () => platform, onEvent, onChange: () => {} },
  })
  const packages: Packages = await Packages.open({
    ...{ self, network, dir: join(scratch('supply'), 'packages'), maxBytes: 2 ** 33, rate: undefined, port: 0 },
    ...{ platform: () => platform, holders: () => [sources], isMember: () => true, onChange: () => {}, onEvent, log },
    now: () => performance.now(),
    turn: (digest) => supply.turn(digest),
    admit: (digest) => supply.admit(digest),
    onFailure: (digest, error) => supply.fail(digest, error),
  })
  opened.push(packages)
  await packages.start()
  return { packages, supply }
}

test.after(async () => {
  for (const name of made)
    await docker
      .getImage(name)
      .remove({ force: true })
      .catch(() => {})
  for (const each of opened) await each.close()
  await peers.stop()
})

const serviceOf = (more: Partial<ServiceSpec>): ServiceSpec => ({
  ...{
    name: 'web',
    images: [],
    environment: {},
    ports: [],
    mounts: [],
    tmpfs: [],
    stopGrace: 0,
    limits: DEFAULT_LIMITS,
  },
  ...more,
})

const follow = (...services: ServiceSpec[]) => {
  const spec: ChuteSpec = { services, volumes: [], replicas: 1, constraints: [] }
  return async (roots: readonly (Uint8Array | undefined)[]) => {
    spec.package = await publishing.make(roots.map((root) => hex(root!)))
    packages.follow({ specs: [spec], needed: new Set([hex(spec.package.digest)]) })
    return spec.package
  }
}

/** Builds an image that no engine has, on busybox. */
async function build(): Promise<ImageSpec> {
  const text = `FROM ${BUSYBOX}\nLABEL dropmesh.test=supply-${randomBytes(6).toString('hex')}\nCOPY new /new\n`
  const file = (name: string, content: Buffer) => ({ name, size: content.length, body: [content] })
  const context = tarOf([file('Dockerfile', Buffer.from(text)), file('new', randomBytes(1000))])
  const [image] = await publishing.build(context, { dockerfile: 'Dockerfile', args: {}, onBaseImage: false }, () => {})
  made.push(heldName(image!.config))
  return image!
}

const inEngine = async (name: string): Promise<boolean> =>
  docker
    .getImage(name)
    .inspect()
    .then(() => true)
    .catch(() => false)

test('an image leaves the engine for the store, and comes back into an engine that lost it; its layers are counted unpacked', async () => {
  const image = await build()
  const { Size } = await docker.getImage(`sha256:${hex(image.config)}`).inspect()
  // The engine counts contents of files, a tar has headers besides.
  assert.ok(image.size! >= Size && image.size! < Size * 1.5 + 20_000, `${image.size} bytes, the engine says ${Size}`)
  const service = serviceOf({ images: [image] })
  const ref = await follow(service)([image.manifest])
  await docker.getImage(heldName(image.config)).remove({ force: true })
  assert.not(await supply.has({ service }))
  await supply.ensure({ service, package: ref })
  assert.ok(await supply.has({ service }))
  const { RepoTags, RepoDigests } = await docker.getImage(`sha256:${hex(image.config)}`).inspect()
  assert.equal([RepoTags, RepoDigests], [[heldName(image.config)], []], 'only the name by which the mesh holds it')
  assert.equal(events.filter(({ kind }) => kind === 'image-fetched').at(-1)!.image, hex(image.config))
})

test('layers that the engine has are not fetched, and an AP that lacks them itself does not say that it has the package', async () => {
  const image = await build()
  const service = serviceOf({ images: [image] })
  const ref = await follow(service)([image.manifest])
  await docker.getImage(heldName(image.config)).remove({ force: true }) // but not busybox
  const { packages: store, supply } = await open(other, [own.id])
  const spec: ChuteSpec = { services: [service], volumes: [], replicas: 1, constraints: [], package: ref }
  store.follow({ specs: [spec], needed: new Set() })
  await supply.ensure({ service, package: ref })
  assert.ok(await supply.has({ service }))
  const [base, added] = (await packages.manifest(hex(image.manifest!))).layers.map(({ digest }) => digest)
  assert.equal([store.store.has(base!), store.store.has(added!)], [false, true])
  const { bytes, from } = events.filter(({ kind }) => kind === 'image-fetched').at(-1)!
  assert.ok(Number(bytes) < packages.store.size(base!)!, `${bytes} bytes`)
  assert.equal(from, [own.id])
  await store.look()
  assert.equal(store.holdings(), [])
  // As soon as it could hand on all of it.
  await store.fetch(base!.slice('sha256:'.length))
  await store.look()
  assert.equal(store.holdings().map(hex), [hex(ref.digest)])
})

test('an image that the engine has under a name is found by that, one that was pushed to the registry by that', async () => {
  const [named] = await publishing.resolve(BUSYBOX, () => {})
  assert.is(hex(named!.config), hex((await imageIn(docker, BUSYBOX)).config))
  const { digest } = await client.pushImage('alice/pushed', 'v1', {})
  const parts = JSON.parse(String((await client.get(`/v2/alice/pushed/manifests/${digest}`)).body))
  const config = { os: 'linux', architecture: 'riscv64', rootfs: { type: 'layers', diff_ids: [] } }
  const bytes = Buffer.from(JSON.stringify(config))
  const layer = gzipSync(Buffer.alloc(1024))
  for (const one of [bytes, layer]) await client.pushBlob('alice/pushed', one)
  const manifest = imageOf(descriptorOf(bytes), [descriptorOf(layer)])
  assert.is((await client.pushManifest('alice/pushed', 'v2', JSON.stringify(manifest))).status, 201)
  for (const name of [
    'alice/pushed:v2',
    `${packages.address}/alice/pushed:v2`,
    `localhost:${client.port}/alice/pushed:v2`,
  ]) {
    const [pushed] = await publishing.resolve(name, () => {})
    assert.equal([pushed!.platform, pushed!.size], ['linux/riscv64', 1024], name)
  }
  assert.is(parts.layers.length, 1)
  const { message } = await refusalOf(
    publishing.resolve(`${packages.address}/alice/none:v1`, () => {}),
    'no-image',
  )
  assert.match(message, /alice\/none:v1 in the registry of this AP/)
})

test('of an index each platform is described, what is for no machine is not, and an AP takes its own', async () => {
  const image = await build()
  const own = await client.get(`/v2/x/manifests/sha256:${hex(image.manifest!)}`)
  const type = own.headers['content-type']!
  const foreign = Buffer.from(JSON.stringify({ os: 'linux', architecture: 'arm64', variant: 'v8', rootfs: {} }))
  const nothing = Buffer.from(JSON.stringify({ os: 'unknown', architecture: 'unknown' }))
  const layer = gzipSync(Buffer.alloc(2048))
  for (const bytes of [foreign, nothing, layer]) await client.pushBlob('alice/many', bytes)
  const children = [foreign, nothing].map((config) =>
    Buffer.from(JSON.stringify(imageOf(descriptorOf(config), [descriptorOf(layer)]))),
  )
  for (const child of children)
    assert.is((await client.pushManifest('alice/many', digestOf(child), String(child))).status, 201)
  const manifests = [descriptorOf(own.body, type), ...children.map((child) => descriptorOf(child))]
  const index = { schemaVersion: 2, mediaType: INDEX, manifests }
  assert.is((await client.pushManifest('alice/many', 'all', JSON.stringify(index), INDEX)).status, 201)
  const all = await publishing.resolve('alice/many:all', () => {})
  assert.equal(all.map((one) => one.platform).sort(), ['linux/arm64', platform].sort())

  const service = serviceOf({ images: all })
  const ref = await follow(service)(all.map(({ manifest }) => manifest))
  await docker.getImage(heldName(image.config)).remove({ force: true })
  await supply.ensure({ service, package: ref })
  assert.ok(await inEngine(`sha256:${hex(image.config)}`))
})

test('a layer that unpacks to more than its record says never reaches the engine, and the reason is told', async () => {
  const bomb = gzipSync(
    await collect(tarOf([{ name: 'zeros', size: 64 * 2 ** 20, body: [Buffer.alloc(64 * 2 ** 20)] }])),
  )
  const config = Buffer.from(
    JSON.stringify({
      ...{ os: 'linux', architecture: platform.split('/')[1], config: {} },
      rootfs: { type: 'layers', diff_ids: [digestOf(await collect(Readable.from([bomb])))] },
    }),
  )
  for (const bytes of [bomb, config]) await client.pushBlob('alice/bomb', bytes)
  const type = 'application/vnd.oci.image.layer.v1.tar+gzip'
  const configType = 'application/vnd.oci.image.config.v1+json'
  const manifest = JSON.stringify(imageOf(descriptorOf(config, configType), [descriptorOf(bomb, type)]))
  await client.pushManifest('alice/bomb', 'v1', manifest)
  const image: ImageSpec = {
    ...{ config: unhex(digestOf(config).slice(7)), manifest: unhex(digestOf(Buffer.from(manifest)).slice(7)) },
    ...{ platform, size: 2 ** 20 },
  }
  const service = serviceOf({ images: [image] })
  const ref = await follow(service)([image.manifest])
  const { message } = await refusalOf(supply.ensure({ service, package: ref }), 'no-image')
  assert.match(message, /unpacks to more than the 1048576 bytes/)
  assert.not(await inEngine(`sha256:${hex(image.config)}`))
})

test('layers that are bigger than their record says, packed as they are, are not fetched at all', async () => {
  const image = await build()
  const service = serviceOf({ images: [{ ...image, size: 1000 }] })
  const ref = await follow(service)([image.manifest])
  await docker.getImage(heldName(image.config)).remove({ force: true })
  const { message } = await refusalOf(supply.ensure({ service, package: ref }), 'no-image')
  assert.match(message, /its layers have \d+ bytes, and its record says 1000 at most/)
})

test('a record whose manifest is that of another image, that names no package, or one without it, is refused by each AP', async () => {
  const [one, two] = [await build(), await build()]
  const wrong = serviceOf({ images: [{ ...one, config: randomBytes(32) }] })
  const ref = await follow(wrong)([one.manifest])
  const error = await refusalOf(supply.ensure({ service: wrong, package: ref }), 'no-image')
  assert.match(error.message, /its manifest is that of another image/)
  for (const image of [one, two]) await docker.getImage(heldName(image.config)).remove({ force: true })
  const alone = serviceOf({ images: [one] })
  assert.match(
    (await refusalOf(supply.ensure({ service: alone, package: undefined }), 'no-image')).message,
    /names no package/,
  )
  const strange = { ...two, manifest: new Uint8Array(32).fill(8) }
  const lacking = serviceOf({ images: [strange] })
  assert.match(
    (await refusalOf(supply.ensure({ service: lacking, package: ref }), 'no-image')).message,
    /no package has a blob/,
  )
  const foreign = serviceOf({ images: [{ ...one, platform: 'linux/s390x' }] })
  assert.match(
    (await refusalOf(supply.ensure({ service: foreign, package: ref }), 'no-image')).message,
    /none for linux/,
  )
})

test('sources are built by the engine of the AP that needs them, once, with the arguments that the record names', async () => {
  const text = `FROM ${BUSYBOX}\nARG WORD\nRUN echo "$WORD" > /word\nCMD ["cat", "/word"]\n`
  const file = (name: string, content: Buffer) => ({ name, size: content.length, body: [content] })
  const tar = gzipSync(await collect(tarOf([file('Dockerfile', Buffer.from(text))])))
  const { digest, size } = await publishing.keep(Readable.from([tar]))
  assert.is(size, tar.length)
  const word = randomBytes(8).toString('hex')
  const build = { sources: unhex(digest), dockerfile: 'Dockerfile', args: { WORD: word }, onBaseImage: false }
  const service = serviceOf({ build })
  made.push(`dropmesh/built:${buildKey(build)}`)
  const ref = await follow(service)([build.sources])
  await Promise.all([supply.ensure({ service, package: ref }), supply.ensure({ service, package: ref })])
  const reference = (await images.referenceFor(service, platform))!
  const output = new (await import('node:stream')).PassThrough()
  const read = collect(output as AsyncIterable<Uint8Array>)
  const [, container] = (await docker.run(reference, [], output, {
    HostConfig: { NetworkMode: 'none' },
  })) as unknown as [unknown, { remove(): Promise<void> }]
  await container.remove()
  output.end()
  assert.match(String(await read), new RegExp(word))
  assert.is(events.filter(({ kind, image }) => kind === 'image-fetched' && image === buildKey(build)).length, 1)

  const bad = { ...build, dockerfile: 'Missing' }
  const broken = serviceOf({ build: bad })
  await refusalOf(supply.ensure({ service: broken, package: ref }), 'build-failed')
})

test('what no chute names leaves the engine after an hour, unless a container uses it or a person named it', async () => {
  const removed: unknown[] = []
  let now = 0
  const idle = new IdleImages({ images, now: () => now, onEvent: (_, { image }) => removed.push(image) })
  const own = [await build(), await build(), await build(), await build()]
  const [named, gone, used, tagged] = own.map(({ config }) => heldName(config)) as [string, string, string, string]
  const mine = `dropmesh-test/mine:${randomBytes(6).toString('hex')}`
  made.push(mine)
  await docker.getImage(tagged).tag({ repo: mine.split(':')[0]!, tag: mine.split(':')[1]! })
  const container = await docker.createContainer({ Image: used, Labels: { 'dropmesh.test': 'supply' } })
  // Others run on this engine too.
  const look = async (minutes: number, ...also: string[]) => {
    now += minutes * 60_000
    const strange = (await images.held()).filter((name) => ![gone, used, tagged].includes(name))
    await idle.look(new Set([...strange, ...also]))
  }
  await look(0)
  await look(59)
  assert.equal(removed, [])
  await look(0, gone) // a chute that came back
  await look(2)
  assert.not(await inEngine(tagged))
  for (const name of [named, gone, used, mine]) assert.ok(await inEngine(name), name)
  await look(58)
  assert.ok(await inEngine(gone), 'its hour began anew')
  await look(2)
  assert.not(await inEngine(gone))
  assert.ok(await inEngine(used))
  await container.remove()
  await look(1)
  assert.not(await inEngine(used))
  assert.ok(await inEngine(named))
  assert.equal(
    removed,
    [own[3], own[1], own[2]].map((image) => hex(image!.config)),
  )
})

test('an engine that does not reach the registry of its AP is told of by its address', async () => {
  const { message } = await refusalOf(
    images.push((await images.find(BUSYBOX))!.id, '127.0.0.1:9/dropmesh/image:x', () => {}),
    'registry-unreachable',
  )
  assert.match(message, /at 127\.0\.0\.1:9: both have to be on one machine/)
  await images.unname('127.0.0.1:9/dropmesh/image:x')
})

test('a platform is named as images name it', () => {
  assert.equal(
    [platformOf('linux', 'arm64', 'v8'), platformOf('linux', 'arm', 'v7'), platformOf('linux', 'amd64')],
    ['linux/arm64', 'linux/arm/v7', 'linux/amd64'],
  )
})

test.run()
