// Images between the local engine and peers, against a real Docker.
import { createHash, randomBytes } from 'node:crypto'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { gzipSync } from 'node:zlib'
import { pack } from 'tar-stream'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { connectDocker, work } from '../../../node/chutes/docker-client.js'
import { EngineError } from '../../../node/chutes/engine.js'
import { heldName, Images } from '../../../node/packages/images.js'
import { collect, entriesOf, tarOf } from '../../../node/packages/tar.js'
import { hex } from '../../../protocols/bytes.js'
import type { ImageSpec } from '../../../protocols/deployment.js'
import { MeshError } from '../../../protocols/error.js'
import { BUSYBOX, ensureBusybox } from '../../support/busybox.js'

const docker = connectDocker()
const images = new Images(docker)
const label = `dropmesh-test-${randomBytes(6).toString('hex')}`
let base: ImageSpec
let baseLayer: Buffer

const test = suite('images')

test.before(async () => {
  base = await images.inspect(await ensureBusybox(docker))
  baseLayer = (await filesOf(images.export(base, 0))).get(`${hex(base.diffIds[0]!)}.tar`)!
})

test.after(async () => {
  for (const { Id } of await docker.listImages({ filters: { label: [label] } })) {
    await docker
      .getImage(Id)
      .remove({ force: true })
      .catch(() => {})
  }
})

const sha256 = (bytes: Uint8Array): Uint8Array => new Uint8Array(createHash('sha256').update(bytes).digest())

/** A tar archive with one file. */
function layerWith(name: string, text: string): Promise<Buffer> {
  const bytes = Buffer.from(text)
  return collect(tarOf([{ name, size: bytes.length, body: [bytes] }]))
}

interface Made {
  spec: ImageSpec
  files: Map<string, Buffer>
}

/** An image on top of busybox, different from every other one, and the files that `export` would send of it. */
async function make(
  more: Buffer[] = [],
  change: (config: Record<string, unknown>) => object = (c) => c,
): Promise<Made> {
  const layers = [baseLayer, await layerWith('unique', randomBytes(8).toString('hex')), ...more]
  const platform = base.platform.split('/')
  const config = Buffer.from(
    JSON.stringify(
      change({
        os: platform[0],
        architecture: platform[1],
        ...(platform[2] && { variant: platform[2] }),
        created: '1970-01-01T00:00:00Z',
        config: { Env: ['PATH=/bin'], Cmd: ['sh'], Labels: { [label]: '' } },
        rootfs: { type: 'layers', diff_ids: layers.map((layer) => `sha256:${hex(sha256(layer))}`) },
        history: layers.map(() => ({ created: '1970-01-01T00:00:00Z' })),
      }),
    ),
  )
  const spec = { config: sha256(config), diffIds: layers.map(sha256), platform: base.platform }
  return {
    spec,
    files: new Map([
      [`${hex(spec.config)}.json`, config],
      ['manifest.json', Buffer.from('[]')],
      ...layers.map((layer) => [`${hex(sha256(layer))}.tar`, layer] as const),
    ]),
  }
}

const archiveOf = (files: Map<string, Buffer>): AsyncIterable<Uint8Array> =>
  tarOf([...files].map(([name, bytes]) => ({ name, size: bytes.length, body: [bytes] })))

async function filesOf(archive: AsyncIterable<Uint8Array>): Promise<Map<string, Buffer>> {
  const files = new Map<string, Buffer>()
  for await (const { header, body } of entriesOf(archive)) files.set(header.name, await collect(body))
  return files
}

async function have({ spec, files }: Made): Promise<ImageSpec> {
  await images.import(spec, archiveOf(files))
  return spec
}

/** The ids of all images of this test that the engine has under any name, or none. */
const present = async (): Promise<string[]> =>
  (await docker.listImages({ all: true, filters: { label: [label] } })).map(({ Id }) => Id).sort()

async function rejection(promise: Promise<unknown>): Promise<MeshError> {
  const error = await promise.then(
    () => undefined,
    (thrown) => thrown,
  )
  assert.instance(error, MeshError, `expected a MeshError, got ${error}`)
  return error as MeshError
}

test('inspect tells what an image is, by name and by id', async () => {
  const { spec } = await make()
  const before = await rejection(images.inspect(heldName(spec.config)))
  assert.instance(before, EngineError)
  assert.is(before.code, 'no-image')
  assert.match(before.message, heldName(spec.config))

  const made = await make()
  await have(made)
  const { Id } = await docker.getImage(heldName(made.spec.config)).inspect()
  for (const name of [heldName(made.spec.config), Id]) {
    const { size, ...found } = await images.inspect(name)
    assert.equal(found, made.spec)
    assert.is(size, await images.sizeOf(made.spec, 0))
  }
})

test('inspect refuses what is no name of an image', async () => {
  for (const bad of ['', '../containers', 'a b', 'x/../../info', 'x?y', '-x', 'a'.repeat(600)]) {
    assert.is((await rejection(images.inspect(bad))).code, 'image-name', bad)
  }
})

test('an image of the mesh survives "docker image prune"', async () => {
  const spec = await have(await make())
  await docker.pruneImages({ filters: { label: [label] } })
  assert.ok(await images.has(spec))
})

test('has and list know exactly the images that are there', async () => {
  const { spec, files } = await make()
  assert.not.ok(await images.has(spec))
  await images.import(spec, archiveOf(files))
  assert.ok(await images.has(spec))
  assert.ok((await images.list()).includes(hex(spec.config)))
  assert.not.ok(await images.has({ ...spec, config: sha256(spec.config) }))
  assert.not.ok(await images.has({ ...spec, diffIds: [...spec.diffIds].reverse() }))
  await images.remove(spec)
  assert.not.ok(await images.has(spec))
  assert.not.ok((await images.list()).includes(hex(spec.config)))
  await images.remove(spec)
})

test('what was fetched for later is known as that, and goes without a trace unless it has another name or is kept', async () => {
  const [gone, named, kept] = [await have(await make()), await have(await make()), await have(await make())]
  for (const spec of [gone, named, kept]) await images.spare(spec)
  const other = `${label}/named`
  await docker.getImage((await images.reference(named))!).tag({ repo: other, tag: 'x' })
  const sizes = await images.spares()
  for (const spec of [gone, named, kept]) assert.ok(sizes.get(hex(spec.config))! > 0)
  await images.keep(hex(kept.config))
  for (const spec of [gone, named]) await images.removeSpare(hex(spec.config))
  assert.not.ok(await images.has(gone))
  assert.ok(await images.has(kept))
  assert.ok(await docker.getImage(`${other}:x`).inspect())
  const left = await images.spares()
  for (const spec of [gone, named, kept]) assert.not.ok(left.has(hex(spec.config)))
  await docker.getImage(`${other}:x`).remove()
  await images.remove(kept)
})

test('an export is no bigger than was said before', async () => {
  const made = await make([await layerWith('a', 'a'), await layerWith('b', 'b'.repeat(100_000))])
  const spec = await have(made)
  for (const skip of [0, 2, spec.diffIds.length]) {
    const { length } = await collect(images.export(spec, skip))
    const said = await images.sizeOf(spec, skip)
    assert.ok(length <= said && said < length + 64 * 1024, `${length} bytes, ${said} said`)
  }
})

test('held counts the lowest layers that the engine has, of whichever image', async () => {
  // An engine with a containerd store takes whole images only.
  const all = (await images.held(base)) > 0
  const made = await make([await layerWith('a', 'a'), await layerWith('b', 'b')])
  assert.is(await images.held(made.spec), all ? 1 : 0)
  assert.is(await images.held({ ...made.spec, diffIds: made.spec.diffIds.slice(1) }), 0)
  await have(made)
  assert.is(await images.held(made.spec), all ? 4 : 0)
  const sibling = { ...made.spec, diffIds: [...made.spec.diffIds.slice(0, 3), sha256(Buffer.from('x'))] }
  assert.is(await images.held(sibling), all ? 3 : 0)
})

test('export sends the config and exactly the layers that are wanted, also when one occurs twice', async () => {
  const twice = await layerWith('twice', 'twice')
  const made = await make([twice, await layerWith('last', 'last'), twice])
  const spec = await have(made)
  const names = (skip: number) =>
    [`${hex(spec.config)}.json`, 'manifest.json', ...spec.diffIds.slice(skip).map((id) => `${hex(id)}.tar`)].sort()
  for (const skip of [0, 1, 3, 4, 5]) {
    const files = await filesOf(images.export(spec, skip))
    assert.equal([...files.keys()].sort(), [...new Set(names(skip))], `skip ${skip}`)
    for (const [name, bytes] of files) {
      if (name.endsWith('.tar')) assert.is(`${hex(sha256(bytes))}.tar`, name)
      else if (name !== 'manifest.json') assert.is(`${hex(sha256(bytes))}.json`, name)
    }
  }
})

test('what is exported is imported as the same image, and runs', async () => {
  const twice = await layerWith('twice', 'twice')
  const made = await make([twice, await layerWith('last', 'the last layer'), twice])
  const spec = await have(made)
  const archive = await collect(images.export(spec, 0))
  await images.remove(spec)
  assert.not.ok(await images.has(spec))
  await images.import(
    spec,
    (async function* () {
      // In chunks that respect no boundary of the archive.
      for (let at = 0; at < archive.length; at += 77_777) yield archive.subarray(at, at + 77_777)
    })(),
  )
  assert.ok(await images.has(spec))
  const container = await docker.createContainer({
    Image: (await images.reference(spec))!,
    Cmd: ['grep', '-q', 'the last layer', '/last'],
    Labels: { [label]: '' },
  })
  try {
    await container.start()
    assert.is((await container.wait()).StatusCode, 0)
  } finally {
    await container.remove({ force: true })
  }
})

test('docker load takes an export as it is', async () => {
  const spec = await have(await make())
  const archive = await collect(images.export(spec, 0))
  await images.remove(spec)
  await work(
    'load',
    (async function* () {
      yield archive
    })(),
    (body) => docker.loadImage(body),
  )
  assert.ok(await images.has(spec))
})

test('import needs no layers that the engine has', async () => {
  const { spec, files } = await make()
  if ((await images.held(spec)) === 0) return
  const without = new Map([...files].filter(([name]) => name !== `${hex(base.diffIds[0]!)}.tar`))
  await images.import(spec, archiveOf(without))
  assert.ok(await images.has(spec))
})

test('export of an image that is not there is no-image', async () => {
  const { spec } = await make()
  assert.is((await rejection(collect(images.export(spec, 0)))).code, 'no-image')
})

test('an export that nobody reads to its end leaves the engine free', async () => {
  const spec = await have(await make())
  for await (const _ of images.export(spec, 0)) break
  assert.ok(await images.has(spec))
})

// Each makes of a good image an archive that a hostile peer could send in its place.
type Attack = (made: Made) => Promise<AsyncIterable<Uint8Array> | Made> | AsyncIterable<Uint8Array> | Made

const replaced = ({ spec, files }: Made, name: string, bytes: Buffer): Made => ({
  spec,
  files: new Map(files).set(name, bytes),
})
const without = ({ spec, files }: Made, name: string): Made => {
  const rest = new Map(files)
  rest.delete(name)
  return { spec, files: rest }
}
const layerName = ({ spec }: Made): string => `${hex(spec.diffIds.at(-1)!)}.tar`
const configName = ({ spec }: Made): string => `${hex(spec.config)}.json`

/** The archive of a good image, with an entry before it. */
function withEntry(made: Made, header: Parameters<ReturnType<typeof pack>['entry']>[0], text = 'x') {
  const tar = pack()
  if (header.type === 'symlink' || header.type === 'link' || header.type === 'directory') tar.entry(header)
  else tar.entry(header, text)
  for (const [name, bytes] of made.files) if (name !== header.name) tar.entry({ name }, bytes)
  tar.finalize()
  return tar as AsyncIterable<Uint8Array>
}

const attacks: Record<string, Attack> = {
  'another config': (made) =>
    replaced(made, configName(made), Buffer.from(String(made.files.get(configName(made))).replace('"sh"', '"reboot"'))),
  'a config that is no JSON': () => make([], () => ({})).then((m) => replaced(m, configName(m), Buffer.from('{'))),
  'no config': (made) => without(made, configName(made)),
  'a layer with one bit changed': (made) => {
    const bytes = Buffer.from(made.files.get(layerName(made))!)
    bytes[600]! ^= 1
    return replaced(made, layerName(made), bytes)
  },
  'a layer cut short': (made) => replaced(made, layerName(made), made.files.get(layerName(made))!.subarray(0, 1024)),
  'a layer that is missing': (made) => without(made, layerName(made)),
  'a compressed layer': (made) => replaced(made, layerName(made), gzipSync(made.files.get(layerName(made))!)),
  'a layer of another image': async (made) => replaced(made, layerName(made), await layerWith('evil', 'evil')),
  'a config twice': ({ spec, files }) => {
    const twice = [...files, [`${hex(spec.config)}.json`, files.get(`${hex(spec.config)}.json`)!] as const]
    return tarOf(twice.map(([name, bytes]) => ({ name, size: bytes.length, body: [bytes] })))
  },
  'a file that leads out of the archive': (made) => withEntry(made, { name: '../../../tmp/evil' }),
  'a file of an absolute path': (made) => withEntry(made, { name: '/tmp/evil' }),
  'a link in place of a layer': (made) =>
    withEntry(made, { name: layerName(made), type: 'symlink', linkname: '/etc/shadow' }),
  'a hard link in place of the config': (made) =>
    withEntry(made, { name: configName(made), type: 'link', linkname: '/etc/shadow' }),
  'a folder': (made) => withEntry(made, { name: 'blobs', type: 'directory' }),
  'repositories that name the image': (made) => withEntry(made, { name: 'repositories' }, '{"nginx":{"latest":"x"}}'),
  'a name of a megabyte': (made) => withEntry(made, { name: 'x'.repeat(1e6) }),
  'a header of a length below zero, at which a reader could go back': async (made) => {
    const archive = await collect(archiveOf(made.files))
    return (async function* () {
      yield withHeader(archive, 'x', [...new Array(10).fill(0xff), 0xfe, 0])
    })()
  },
  'attributes for all that follows': async (made) => {
    const archive = await collect(archiveOf(made.files))
    return (async function* () {
      yield withHeader(archive, 'g', [...Buffer.from('00000001000 ')])
    })()
  },
  'an archive cut short': async (made) => {
    const archive = await collect(archiveOf(made.files))
    return (async function* () {
      yield archive.subarray(0, archive.length - 3000)
    })()
  },
  'an archive cut amid a layer': async (made) => {
    const archive = await collect(archiveOf(made.files))
    return (async function* () {
      yield archive.subarray(0, 500_000)
    })()
  },
  'no archive at all': () =>
    (async function* () {
      yield randomBytes(10_000)
    })(),
  nothing: () => (async function* (): AsyncGenerator<Uint8Array> {})(),
}

/** An archive whose first header is of another type and length. */
function withHeader(archive: Buffer, type: string, length: readonly number[]): Buffer {
  const changed = Buffer.from(archive)
  changed[156] = type.charCodeAt(0)
  changed.set(length, 124)
  changed.fill(' ', 148, 156)
  const sum = changed.subarray(0, 512).reduce((sum, byte) => sum + byte, 0)
  changed.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148)
  return changed
}

// Where one check would do for another, the test wants the right one.
const reasons: Record<string, RegExp> = {
  'another config': /the config has another digest/,
  'a compressed layer': /is compressed/,
  'a config twice': /no place in it/,
  'a file that leads out of the archive': /no place in it/,
  'a file of an absolute path': /no place in it/,
  'a header of a length below zero, at which a reader could go back': /plain file/,
  'attributes for all that follows': /plain file/,
  'a link in place of a layer': /is a symlink/,
  'a hard link in place of the config': /is a link/,
}

for (const [name, attack] of Object.entries(attacks)) {
  test(`import refuses ${name}, and nothing of it stays`, async () => {
    const before = await present()
    const made = await make([await layerWith('own', 'own layer')])
    const evil = await attack(made)
    const source = 'files' in evil ? archiveOf(evil.files) : evil
    const error = await rejection(images.import(made.spec, source))
    assert.is(error.code, 'image-refused', error.message)
    assert.match(error.message, hex(made.spec.config).slice(0, 12))
    assert.match(error.message, reasons[name] ?? /no place in it|missing|digest|cut|tar|end of data|is a |plain file/)
    assert.ok(error.message.length < 500)
    assert.equal(await present(), before)
  })
}

test('import refuses a config that is right by its digest and wrong in itself', async () => {
  const other = sha256(Buffer.from('other'))
  const cases: Record<string, (config: Record<string, unknown>) => object> = {
    'other layers': (config) => ({ ...config, rootfs: { type: 'layers', diff_ids: [`sha256:${hex(other)}`] } }),
    'no layers': (config) => ({ ...config, rootfs: 'none' }),
    'another platform': (config) => ({ ...config, architecture: 's390x' }),
    // The engine reads keys without regard to case, and takes the last one.
    'two views of its layers': (config) => ({
      ...config,
      RootFS: { type: 'layers', diff_ids: [`sha256:${hex(base.diffIds[0]!)}`] },
    }),
  }
  for (const [name, change] of Object.entries(cases)) {
    const before = await present()
    const made = await make([], change)
    const error = await rejection(images.import(made.spec, archiveOf(made.files)))
    assert.ok(['image-refused', 'refused'].includes(error.code), `${name}: ${error.message}`)
    assert.equal(await present(), before, name)
  }
})

test('import reads no more than its limit, and than the record of its chute says the image has', async () => {
  const { spec, files } = await make()
  const archive = await collect(archiveOf(files))
  for (const [by, image] of [
    [new Images(docker, 1_000_000), spec],
    [images, { ...spec, size: 1_000_000 }],
  ] as const) {
    let read = 0
    async function* counted() {
      for (; read < archive.length; read += 10_000) yield archive.subarray(read, read + 10_000)
    }
    const error = await rejection(by.import(image, counted()))
    assert.is(error.code, 'image-refused')
    assert.match(error.message, /more than 1000000 bytes/)
    assert.ok(read < 1_500_000)
    assert.not.ok(await images.has(spec))
  }
})

test('import passes on what its source fails with, and ends the source when it fails itself', async () => {
  const { spec, files } = await make()
  const broken = new Error('the peer went away')
  let thrown: unknown
  await images
    .import(
      spec,
      (async function* () {
        yield (await collect(archiveOf(files))).subarray(0, 100_000)
        throw broken
      })(),
    )
    .catch((error) => {
      thrown = error
    })
  assert.is(thrown, broken)

  let ended = false
  async function* endless() {
    try {
      for (;;) yield randomBytes(4096)
    } finally {
      ended = true
    }
  }
  await rejection(images.import(spec, endless()))
  await new Promise((resolve) => setTimeout(resolve, 50))
  assert.ok(ended)
})

test('import ends when its signal aborts, though its source keeps silent', async () => {
  const { spec, files } = await make()
  const stop = new AbortController()
  const part = (await collect(archiveOf(files))).subarray(0, 100_000)
  const importing = images.import(
    spec,
    (async function* () {
      yield part
      setTimeout(() => stop.abort(new Error('enough')), 100)
      await new Promise(() => {})
    })(),
    stop.signal,
  )
  const error = await importing.then(
    () => undefined,
    (thrown) => thrown,
  )
  assert.is(error?.message, 'enough')
  assert.not.ok(await images.has(spec))
})

test('without an engine everything is no-engine', async () => {
  const { spec, files } = await make()
  const none = new Images(connectDocker('unix:///nonexistent/docker.sock'))
  for (const promise of [
    none.inspect(BUSYBOX),
    none.has(spec),
    none.held(spec),
    none.list(),
    none.import(spec, archiveOf(files)),
    collect(none.export(spec, 0)),
  ]) {
    assert.is((await rejection(promise)).code, 'no-engine')
  }
})

/** A registry on this machine with one image; engines speak plain HTTP with 127.0.0.1. */
async function withRegistry({ spec, files }: Made, run: (reference: string) => Promise<void>): Promise<void> {
  const blobs = new Map<string, Buffer>()
  const put = (bytes: Buffer, mediaType: string) => {
    const digest = `sha256:${hex(sha256(bytes))}`
    blobs.set(digest, bytes)
    return { mediaType, size: bytes.length, digest }
  }
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: 'application/vnd.docker.distribution.manifest.v2+json',
      config: put(files.get(`${hex(spec.config)}.json`)!, 'application/vnd.docker.container.image.v1+json'),
      layers: spec.diffIds.map((id) =>
        put(gzipSync(files.get(`${hex(id)}.tar`)!), 'application/vnd.docker.image.rootfs.diff.tar.gzip'),
      ),
    }),
  )
  const { digest } = put(manifest, '')
  const server = createServer((request, response) => {
    const path = request.url ?? ''
    const found = path === '/v2/' ? Buffer.from('{}') : blobs.get(path.slice(path.lastIndexOf('/') + 1))
    if (found === undefined) return response.writeHead(404).end('{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
    if (path.includes('/manifests/')) {
      response.setHeader('Content-Type', 'application/vnd.docker.distribution.manifest.v2+json')
      response.setHeader('Docker-Content-Digest', digest)
    }
    response.setHeader('Content-Length', found.length)
    response.end(request.method === 'HEAD' ? undefined : found)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  try {
    await run(`127.0.0.1:${(server.address() as AddressInfo).port}/${label}@${digest}`)
  } finally {
    server.closeAllConnections()
    server.close()
  }
}

test('pull gets an image from a registry by digest, and holds it', async () => {
  const made = await make([await layerWith('pulled', 'pulled')])
  await withRegistry(made, async (reference) => {
    const statuses: string[] = []
    await images.pull({ ...made.spec, pull: reference }, ({ status }) => statuses.push(status ?? ''))
    assert.ok(await images.has(made.spec))
    assert.ok(statuses.some((status) => /Pull complete|Download complete/.test(status)))
    const found = await images.inspect(reference)
    assert.is(hex(found.config), hex(made.spec.config))
    if (found.pull !== undefined) assert.is(found.pull, reference)
  })
})

test('pull refuses an image that is not the one of the record, and removes it', async () => {
  const made = await make([await layerWith('pulled', 'pulled')])
  const { spec } = await make()
  const before = await present()
  await withRegistry(made, async (reference) => {
    assert.is((await rejection(images.pull({ ...spec, pull: reference }))).code, 'image-refused')
  })
  assert.equal(await present(), before)
})

test('pull of what the registry does not have, or that names no digest, fails and says so', async () => {
  const made = await make()
  await withRegistry(made, async (reference) => {
    const absent = reference.replace(/[0-9a-f]{64}$/, hex(sha256(Buffer.from('absent'))))
    const error = await rejection(images.pull({ ...made.spec, pull: absent }))
    assert.is(error.code, 'refused', error.message)
    assert.match(error.message, absent)
  })
  assert.is((await rejection(images.pull(made.spec))).code, 'image-name')
  assert.is((await rejection(images.pull({ ...made.spec, pull: BUSYBOX }))).code, 'image-name')
})

test.run()
