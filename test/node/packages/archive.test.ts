// Archives of images as people have them, from the real engine and from skopeo; and those that nobody should send.
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { createReadStream, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gunzipSync, gzipSync } from 'node:zlib'
import { pino } from 'pino'
import { pack } from 'tar-stream'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { connectDocker, work } from '../../../node/chutes/docker-client.js'
import { type ImportedImage, importArchive } from '../../../node/packages/archive.js'
import { BlobStore } from '../../../node/packages/blobs.js'
import { digestOf, readManifest } from '../../../node/packages/oci.js'
import { Registry } from '../../../node/packages/registry.js'
import { collect, tarOf } from '../../../node/packages/tar.js'
import { BUSYBOX, ensureBusybox } from '../../support/busybox.js'
import { needTools } from '../../support/hosts.js'
import { scratch } from '../../support/scratch.js'
import { failureOf, refusalOf } from '../realm.js'
import { descriptorOf, IMAGE, INDEX, imageOf } from './client.js'

const test = suite('archive')
const run = promisify(execFile)
const log = pino({ level: 'silent' })
const docker = connectDocker()
const dir = scratch('archive')

/** What is closed at the end, the last first. */
const closing: (() => Promise<void>)[] = []

let stores = 0
async function freshStore(maxBytes = 2 ** 40): Promise<BlobStore> {
  const store = await BlobStore.open(join(dir, `packages${stores++}`), { maxBytes, minFree: 0, log })
  closing.push(() => store.close())
  return store
}

type Files = Record<string, Uint8Array | string | { to: string; type?: 'symlink' | 'link' }>

/** A tar with these entries, as it is. */
async function archive(files: Files | [string, Uint8Array | string][]): Promise<Buffer> {
  const tar = pack()
  for (const [name, content] of Array.isArray(files) ? files : Object.entries(files)) {
    if (typeof content === 'object' && 'to' in content)
      tar.entry({ name, type: content.type ?? 'symlink', linkname: content.to })
    else tar.entry({ name }, Buffer.from(content))
  }
  tar.finalize()
  return collect(tar as AsyncIterable<Uint8Array>)
}

async function* inPieces(bytes: Uint8Array, size = 64 * 1024): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
}

const importing = (store: BlobStore, bytes: Uint8Array, limit?: number) =>
  importArchive(store, inPieces(bytes), { log, ...(limit !== undefined && { limit }) })

const blob = async (store: BlobStore, digest: string): Promise<Buffer> => collect(await store.read(digest))
const manifestOf = async (store: BlobStore, { manifest }: ImportedImage) =>
  JSON.parse(String(await blob(store, manifest))) as {
    config: { digest: string }
    layers: { digest: string; mediaType: string }[]
    manifests: { digest: string }[]
  }

/** Of an archive that was refused nothing stays, on the disk or in the index. */
function isEmpty(store: BlobStore): void {
  assert.equal(store.totals(), { blobs: 0, bytes: 0, uploads: 0, uploadBytes: 0 })
  const folder = join(dir, `packages${stores - 1}`)
  assert.equal(readdirSync(join(folder, 'uploads')), [])
  assert.equal(
    readdirSync(join(folder, 'blobs/sha256')).flatMap((name) => readdirSync(join(folder, 'blobs/sha256', name))),
    [],
  )
}

/** An image of small layers, as `docker save` has it before version 25. */
function smallImage(layers: Buffer[] = [randomBytes(3000), Buffer.alloc(20_000, 'x')], more: object = {}) {
  const config = Buffer.from(
    JSON.stringify({
      ...{ architecture: 'amd64', os: 'linux', config: { Cmd: ['sh'] } },
      rootfs: { type: 'layers', diff_ids: layers.map(digestOf) },
      ...more,
    }),
  )
  return { config, layers, id: digestOf(config).slice('sha256:'.length) }
}

function saved({ config, layers, id }: ReturnType<typeof smallImage>, tags: string[] | null = ['alice/app:1']): Files {
  return {
    ...Object.fromEntries(layers.map((layer, i) => [`l${i}/layer.tar`, layer])),
    [`${id}.json`]: config,
    'manifest.json': JSON.stringify([
      { Config: `${id}.json`, RepoTags: tags, Layers: layers.map((_, i) => `l${i}/layer.tar`) },
    ]),
  }
}

// --- archives as people have them -------------------------------------------------------------------------------------

const NAME = 'dropmesh-test/archive:1'
let save: Buffer
let id: string

test.before(async () => {
  needTools(['skopeo'])
  await ensureBusybox(docker)
  // An image whose last layer occurs twice: of that `docker save` makes a link.
  const busybox = await collect((await docker.getImage(BUSYBOX).get()) as AsyncIterable<Uint8Array>)
  const store = await freshStore()
  const [base] = await importing(store, busybox)
  const layer = gunzipSync(await blob(store, (await manifestOf(store, base!)).layers[0]!.digest))
  const extra = await archive({ 'extra.txt': 'there' })
  const image = smallImage([layer, extra, extra])
  const load = tarOf(
    Object.entries(saved(image, [NAME])).map(([name, body]) => {
      const bytes = Buffer.from(body as Uint8Array)
      return { name, size: bytes.length, body: [bytes] }
    }),
  )
  await work('load', load, (body, abortSignal) => docker.loadImage(body, { abortSignal }))
  id = (await docker.getImage(NAME).inspect()).Id
  save = await collect((await docker.getImage(NAME).get()) as AsyncIterable<Uint8Array>)
  writeFileSync(join(dir, 'save.tar'), save)
})
test.after(async () => {
  for (const close of closing.reverse()) await close()
  await docker.getImage(NAME).remove({ force: true })
})

test('what docker save wrote is pulled by the engine as the image that it was, by its name and by its digest', async () => {
  const store = await freshStore()
  const registry = await Registry.open({ port: 0, store, log })
  closing.push(() => registry.close())
  const [image, ...others] = await importing(store, save)
  assert.equal([image!.names, others], [[NAME], []])
  const { config, layers } = await manifestOf(store, image!)
  assert.is(config.digest, id)
  assert.is(layers[1]!.digest, layers[2]!.digest, 'a layer that occurs twice is stored once')
  assert.is(store.totals().blobs, 4, 'a manifest, a config and two layers are all that stays')
  assert.equal(await store.catalogue.tag('dropmesh-test/archive', '1'), image!.manifest)
  assert.ok(await store.isKept(layers[0]!.digest))

  await docker.getImage(NAME).remove({ force: true })
  const repository = `127.0.0.1:${registry.port}/dropmesh-test/archive`
  for (const reference of [`${repository}:1`, `${repository}@${image!.manifest}`]) {
    await work('pull', null, (_, abortSignal) => docker.createImage({ fromImage: reference, abortSignal }))
    assert.is((await docker.getImage(reference).inspect()).Id, id)
  }
  await docker.getImage(`${repository}:1`).tag({ repo: 'dropmesh-test/archive', tag: '1' })
  const { stdout } = await run('docker', ['run', '--rm', NAME, '/bin/busybox', 'cat', '/extra.txt'])
  assert.is(stdout, 'there')
  for (const reference of [`${repository}:1`, `${repository}@${image!.manifest}`])
    await docker
      .getImage(reference)
      .remove({ force: true })
      .catch(() => {})
})

test('equal images have equal digests, however they come: in gzip, in pieces of any size, again, or as skopeo writes them', async () => {
  const store = await freshStore()
  const [first] = await importing(store, save)
  const before = store.list().sort()
  await run('skopeo', [
    '--insecure-policy',
    'copy',
    `docker-archive:${dir}/save.tar`,
    `docker-archive:${dir}/skopeo.tar:x/y:2`,
  ])
  const ways: [AsyncIterable<Uint8Array>, string][] = [
    [inPieces(save, 997), 'pieces'],
    [inPieces(gzipSync(save)), 'gzip'],
    [createReadStream(join(dir, 'skopeo.tar')), 'skopeo'],
  ]
  for (const [source, way] of ways) {
    const [again] = await importArchive(store, source, { log })
    assert.is(again!.manifest, first!.manifest, way)
    assert.equal(store.list().sort(), before, `${way}: nothing is stored twice`)
    const fresh = await freshStore()
    const bytes = way === 'skopeo' ? readFileSync(join(dir, 'skopeo.tar')) : save
    assert.is((await importArchive(fresh, inPieces(bytes, 4099), { log }))[0]!.manifest, first!.manifest, way)
  }
  assert.is(await store.catalogue.tag('x/y', '2'), first!.manifest)
})

test('an OCI layout comes as it is: as skopeo archives it, as a person does, and in gzip', async () => {
  const to = (where: string) => run('skopeo', ['--insecure-policy', 'copy', `docker-archive:${dir}/save.tar`, where])
  await to(`oci-archive:${dir}/oci.tar:alice/app:2`)
  await to(`oci:${dir}/layout:latest`)
  const { manifests } = JSON.parse(readFileSync(join(dir, 'layout/index.json'), 'utf8')) as {
    manifests: { digest: string }[]
  }
  const times = ['--mtime=2020-01-01 00:00:00.123456789', '--format=pax', '-C', join(dir, 'layout')]
  await run('tar', ['-cf', join(dir, 'pax.tar'), ...times, '.'])
  await run('tar', ['-czf', join(dir, 'pax.tgz'), ...times, '.'])
  for (const [file, names] of [
    ['oci.tar', ['alice/app:2']],
    ['pax.tar', ['latest']],
    ['pax.tgz', ['latest']],
  ] as const) {
    const store = await freshStore()
    const [image] = await importArchive(store, createReadStream(join(dir, file)), { log })
    assert.equal(image, { manifest: manifests[0]!.digest, names }, file)
    const read = readManifest(await blob(store, image!.manifest))
    assert.equal(store.list().sort(), [...read.blobs, image!.manifest].sort(), file)
    assert.ok(await store.isKept(read.blobs[0]!))
  }
})

function layoutOf(images: { config: Buffer; layers: Buffer[] }[], mediaType = 'application/octet-stream') {
  const files: Files = { 'oci-layout': '{"imageLayoutVersion":"1.0.0"}' }
  const store = (bytes: Buffer) => {
    files[`blobs/sha256/${digestOf(bytes).slice('sha256:'.length)}`] = bytes
    return bytes
  }
  const manifests = images.map(({ config, layers }) => {
    const parts = layers.map((layer) => descriptorOf(store(layer), mediaType))
    return store(Buffer.from(JSON.stringify(imageOf(descriptorOf(store(config)), parts))))
  })
  return { files, manifests, store }
}

test('of an index all platforms are kept that are there', async () => {
  const platforms = ['amd64', 'arm64', 'riscv64'].map((architecture) =>
    smallImage([randomBytes(500)], { architecture }),
  )
  const { files, manifests, store: add } = layoutOf(platforms)
  const list = manifests.map((bytes, i) => ({
    ...descriptorOf(bytes, IMAGE),
    platform: { os: 'linux', architecture: `a${i}` },
  }))
  const index = add(Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: INDEX, manifests: list })))
  // The engine saved what it had: of the last one it has the manifest alone.
  delete files[`blobs/sha256/${digestOf(platforms[2]!.layers[0]!).slice('sha256:'.length)}`]
  const named = {
    ...descriptorOf(index, INDEX),
    annotations: { 'io.containerd.image.name': 'docker.io/library/app:3' },
  }
  files['index.json'] = JSON.stringify({ schemaVersion: 2, manifests: [named] })
  const store = await freshStore()
  assert.equal(await importing(store, await archive(files)), [{ manifest: digestOf(index), names: ['app:3'] }])
  assert.is(await store.catalogue.tag('app', '3'), digestOf(index))
  for (const { config, layers } of platforms.slice(0, 2))
    for (const bytes of [config, ...layers]) assert.ok(await store.isKept(digestOf(bytes)))
  assert.not.ok(store.has(digestOf(platforms[2]!.config)))

  // Written right into index.json, without a name each, they are one image as well.
  const bare = layoutOf(platforms)
  bare.files['index.json'] = JSON.stringify({ schemaVersion: 2, manifests: list })
  const [image, ...others] = await importing(await freshStore(), await archive(bare.files))
  assert.equal([image!.manifest, others], [digestOf(Buffer.from(bare.files['index.json'] as string)), []])
})

test('what docker save writes since version 25 is taken by its OCI part, and layers that come unpacked are packed', async () => {
  const layers = [await archive({ a: 'a'.repeat(5000) }), await archive({ b: 'b' })]
  const image = smallImage(layers)
  const both = (packed: Buffer[], name: string) => {
    const { files, manifests } = layoutOf([{ ...image, layers: packed }])
    const annotations = {
      'io.containerd.image.name': `docker.io/alice/${name}:1`,
      'org.opencontainers.image.ref.name': '1',
    }
    files['index.json'] = JSON.stringify({
      schemaVersion: 2,
      manifests: [{ ...descriptorOf(manifests[0]!, IMAGE), annotations }],
    })
    files['manifest.json'] = JSON.stringify([
      {
        Config: `blobs/sha256/${image.id}`,
        RepoTags: [`alice/${name}:1`],
        Layers: packed.map((layer) => `blobs/sha256/${digestOf(layer).slice('sha256:'.length)}`),
      },
    ])
    return { files, manifest: digestOf(manifests[0]!) }
  }
  const old = (await importing(await freshStore(), await archive(saved(image))))[0]!
  const unpacked = both(layers, 'app')
  const store = await freshStore()
  assert.equal(await importing(store, await archive(unpacked.files)), [
    { manifest: old.manifest, names: ['alice/app:1'] },
  ])
  for (const layer of layers) assert.not.ok(store.has(digestOf(layer)), 'what was packed is there once')
  const packed = both(
    layers.map((layer) => gzipSync(layer)),
    'other',
  )
  assert.equal(await importing(await freshStore(), await archive(packed.files)), [
    { manifest: packed.manifest, names: ['alice/other:1'] },
  ])
})

test('layers in gzip stay so, and two images of one archive share what they share', async () => {
  const layers = [randomBytes(1000), randomBytes(2000)]
  const one = smallImage(layers)
  const two = smallImage([layers[0]!])
  const packed = layers.map((layer) => gzipSync(layer, { level: 9 }))
  const files: Files = {
    'manifest.json': JSON.stringify([
      { Config: 'one', RepoTags: ['one:1', 'one:2'], Layers: ['a.tar.gz', 'b.tar.gz'] },
      { Config: 'two', RepoTags: null, Layers: ['a.tar.gz'] },
    ]),
    ...{ one: one.config, two: two.config, 'a.tar.gz': packed[0]!, 'b.tar.gz': packed[1]! },
  }
  const store = await freshStore()
  const images = await importing(store, await archive(files))
  assert.equal(
    images.map(({ names }) => names),
    [['one:1', 'one:2'], []],
  )
  assert.is((await manifestOf(store, images[0]!)).layers[1]!.digest, digestOf(packed[1]!))
  assert.is(store.totals().blobs, 6)
  assert.equal(await store.catalogue.tags('one', '', 9), ['1', '2'])
  // One without a name has a tag all the same, or it would be the first to go.
  assert.ok(await store.isKept(images[1]!.manifest))
})

// --- archives that nobody should send ---------------------------------------------------------------------------------

const good = smallImage()

test('tricks with names, links and digests are refused by name, and nothing of them stays', async () => {
  const files = saved(good)
  const layer = 'l0/layer.tar'
  const without = (name: string) => Object.fromEntries(Object.entries(files).filter(([one]) => one !== name))
  const manifestWith = (change: object) => ({
    ...files,
    'manifest.json': JSON.stringify([{ ...JSON.parse(files['manifest.json'] as string)[0], ...change }]),
  })
  const hex = digestOf(good.config).slice('sha256:'.length)
  const cases: [Files, RegExp][] = [
    [{ ...files, '../out': 'x' }, /"..\/out" leads out of it/],
    [{ ...files, '/etc/passwd': 'x' }, /leads out of it/],
    [{ ...without(layer), [layer]: { to: '../../../etc/passwd' } }, /"l0\/layer.tar" is not in it/],
    [{ ...without(layer), [layer]: { to: 'layer.tar' } }, /is a link without end/],
    [{ ...without(layer), [layer]: { to: '../l1/layer.tar' } }, /layer "l0\/layer.tar" is sha256:.*, and should be/],
    [{ ...without(layer), [layer]: { to: 'l1/layer.tar', type: 'link' } }, /and should be/],
    [without(layer), /"l0\/layer.tar" is not in it/],
    [{ ...files, [layer]: randomBytes(3000) }, /and should be/],
    [{ ...files, [layer]: gzipSync(randomBytes(3000)) }, /and should be/],
    [{ ...files, [layer]: Buffer.from('fd377a585a0000', 'hex') }, /packed in another way than gzip/],
    [{ ...files, [`${good.id}.json`]: `${good.config} ` }, /has the digest sha256:/],
    [manifestWith({ Layers: [layer] }), /names 2 layers, and manifest.json 1/],
    [manifestWith({ Config: '../x' }), /"..\/x" is not in it/],
    [manifestWith({ Config: layer }), /rootfs|Invalid|expected/i],
    [manifestWith({ Layers: 7 }), /"manifest.json": /],
    [{ ...files, 'manifest.json': '[]' }, /it holds no image/],
    [{ ...files, 'manifest.json': '{' }, /"manifest.json": /],
    [{ ...files, 'manifest.json': `${'['.repeat(100_000)}${']'.repeat(100_000)}` }, /"manifest.json": /],
    [without('manifest.json'), /neither the index.json of an OCI layout nor a manifest.json/],
    [{ [`blobs/sha256/${hex}`]: 'other', ...files }, /what was sent has the digest/],
    [{ 'blobs/sha256/../x': 'other', ...files }, /leads out of it/],
    [{ 'blobs/sha256/x': 'other', ...files }, /is no digest/],
  ]
  for (const [entries, why] of cases) {
    const store = await freshStore()
    const { message } = await failureOf(importing(store, await archive(entries)))
    assert.match(message, why)
    isEmpty(store)
  }
  const twice = await archive([...Object.entries(files), [layer, 'x']] as [string, string][])
  const store = await freshStore()
  assert.match((await refusalOf(importing(store, twice), 'archive')).message, 'is there twice')
  isEmpty(store)
})

test('indexes that lack their blobs, or go on without end, are refused', async () => {
  const refused = async (files: Files, code: string) => {
    const store = await freshStore()
    const { message } = await refusalOf(importing(store, await archive(files)), code)
    isEmpty(store)
    return message
  }
  const layout = (bytes: Buffer, mediaType: string, files: Files): Files => ({
    ...files,
    'index.json': JSON.stringify({ schemaVersion: 2, manifests: [descriptorOf(bytes, mediaType)] }),
  })
  const { files, manifests, store: add } = layoutOf([good])
  const lacking = Object.fromEntries(Object.entries(files).filter(([name]) => !name.includes(good.id)))
  await refused(layout(manifests[0]!, IMAGE, lacking), 'manifest-incomplete')
  await refused(layout(Buffer.from('gone'), IMAGE, files), 'manifest-incomplete')
  await refused(layout(manifests[0]!, INDEX, files), 'manifest-invalid')
  await refused(layout(good.config, IMAGE, files), 'manifest-invalid')
  await refused({ ...files, 'index.json': '{"manifests":[{"digest":"../x","mediaType":"x"}]}' }, 'manifest-incomplete')
  let last = manifests[0]!
  for (let depth = 0; depth < 6; depth++) {
    const manifest = {
      schemaVersion: 2,
      mediaType: INDEX,
      manifests: [descriptorOf(last, depth === 0 ? IMAGE : INDEX)],
    }
    last = add(Buffer.from(JSON.stringify(manifest)))
  }
  assert.match(await refused(layout(last, INDEX, files), 'archive'), 'without end')
})

test('what is cut off anywhere, or no archive, leaves nothing; what is not its fault is told as it is', async () => {
  const whole = await archive(saved(good))
  const store = await freshStore()
  for (let at = 0; at < whole.length - 1536; at += 1733) {
    await refusalOf(importing(store, whole.subarray(0, at)), 'archive')
    isEmpty(store)
  }
  const packed = gzipSync(whole)
  for (let at = 100; at < packed.length - 20; at += 500) {
    await refusalOf(importing(store, packed.subarray(0, at)), 'archive')
    isEmpty(store)
  }
  for (const bytes of [randomBytes(5000), Buffer.alloc(0), Buffer.alloc(5000), Buffer.from('BZh91AY&SY')]) {
    await refusalOf(importing(store, bytes), 'archive')
  }
  async function* broken() {
    yield whole.subarray(0, 6000)
    throw new Error('the line went dead')
  }
  assert.is((await failureOf(importArchive(store, broken(), { log }))).message, 'the line went dead')
  isEmpty(store)
  assert.is((await importing(store, whole)).length, 1, 'and the whole one is taken')
})

test('an archive, and a layer, that unpacks to more than it may is stopped on the way', async () => {
  const bomb = gzipSync(await archive({ ...saved(good), zeros: Buffer.alloc(40_000_000) }))
  assert.ok(bomb.length < 100_000)
  const store = await freshStore()
  await refusalOf(importing(store, bomb, 10_000_000), 'image-too-big')
  isEmpty(store)

  const zeros = Buffer.alloc(40_000_000)
  const image = smallImage([zeros])
  const files = { ...saved(image), 'l0/layer.tar': gzipSync(zeros) }
  await refusalOf(importing(store, await archive(files), 10_000_000), 'image-too-big')
  isEmpty(store)

  const small = await freshStore(1_000_000)
  await refusalOf(importing(small, await archive(saved(smallImage([randomBytes(2_000_000)])))), 'no-room')
  isEmpty(small)
})

test('headers that would be read as something else, or for ever, are refused', async () => {
  const pax = async (attributes: Record<string, string>) => {
    const tar = pack()
    tar.entry({ name: 'a', pax: attributes } as Parameters<typeof tar.entry>[0], 'x')
    tar.finalize()
    return collect(tar as AsyncIterable<Uint8Array>)
  }
  const all: Record<string, string>[] = [
    { size: '-512' },
    { size: '1024' },
    { 'GNU.sparse.major': '1' },
    { comment: 'x'.repeat(100_000) },
  ]
  for (const attributes of all) {
    await refusalOf(importing(await freshStore(), await pax(attributes)), 'archive')
  }
  const negative = await archive({ a: 'x' })
  negative.write('\u00ff'.repeat(12), 124, 'latin1')
  await refusalOf(importing(await freshStore(), negative), 'archive')
})

test('what was there before stays, whatever becomes of an archive that has it too', async () => {
  const store = await freshStore()
  const layer = randomBytes(3000)
  await store.write(digestOf(layer), inPieces(layer))
  const files = saved(smallImage([layer, randomBytes(10)]))
  delete files['l1/layer.tar']
  await refusalOf(importing(store, await archive(files)), 'archive')
  assert.equal(store.list(), [digestOf(layer)])
})

mkdirSync(dir, { recursive: true })
test.run()
