// The images in the local engine: what is there, and how one leaves it for a peer and comes in from one. An image is
// what its config and its uncompressed layers are (decision 16); what one engine or another calls it stays in here.
//
// Docker has two ways of keeping images. In the legacy store an image's id is the digest of its config. In the
// containerd store it is the digest of a manifest, which says how the layers are compressed and so differs from AP to
// AP; nothing there can be asked for by config. So every image that the mesh holds has a name made of its config digest,
// too. The name also keeps it from `docker image prune`, which removes what has none.
import { createHash } from 'node:crypto'
import { statfs } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip } from 'node:zlib'
import type Docker from 'dockerode'
import { z } from 'zod'
import { hex, sha256, unhex } from '../../protocols/bytes.js'
import type { ImageSpec } from '../../protocols/deployment.js'
import { MeshError, messageOf } from '../../protocols/error.js'
import { MAX_IMAGE } from '../../protocols/limits.js'
import { ask, askState, type Progress, socketOf, unhung, unless, unlessAborted, work } from '../chutes/docker-client.js'
import { EngineError } from '../chutes/engine.js'
import { parseOrNothing } from '../store/files.js'
import { collect, entriesOf, plain, skip, type TarFile, tarOf } from './tar.js'

/** Bytes of an image's config, or of an archive's manifest: a few kB in practice. */
const MAX_JSON = 4 * 1024 ** 2

/** Bytes of a tar beside the contents: header and padding of a file at most; the manifest and the end. */
const TAR_OVERHEAD = 1024
const MAX_TAR_END = 32 * 1024

/** Images whose layout in `docker save` is remembered; each is about a kB. */
const MAX_SURVEYS = 128

const HELD = 'dropmesh/image'
/** What an AP fetched for later has this name as well, until it runs there. So nothing else need remember it. */
const SPARE = 'dropmesh/spare'

/** The name under which the mesh holds the image with this config digest. */
export const heldName = (config: Uint8Array): string => `${HELD}:${hex(config)}`

/** `os/architecture` as image configs say it. arm64 has one variant, which some write and some do not. */
export function platformOf(os: string, architecture: string, variant?: string): string {
  return [os, architecture, ...(variant && !(architecture === 'arm64' && variant === 'v8') ? [variant] : [])].join('/')
}

/** What `docker save` gives of an image, and under which name in the archive each layer lies. */
interface Survey {
  /** The config's digest, in hex. */
  digest: string
  /**
   * Undefined where the engine can run the image but not hand it on: a containerd store does not fetch a layer of which
   * it has the content in another compression, and then saves nothing at all.
   */
  config: Buffer | undefined
  /** By diffId in hex; `size` is that of the uncompressed layer. */
  layers: Map<string, { entry: string; size: number; gzip: boolean }>
}

/** One of the images in the manifest.json of an archive. */
interface SavedImage {
  Config: string
  RepoTags: string[] | null
  Layers: string[]
}

export class Images {
  private readonly surveys = new Map<string, Survey>()

  /** @param limit in bytes: what `import` reads at most of an image. */
  constructor(
    private readonly docker: Docker,
    private readonly limit: number = MAX_IMAGE,
  ) {}

  /**
   * What the engine has under a name or an id; from then on held. This reads the whole image once, since nothing else tells
   * how big it is on the way to other APs, nor in a containerd store its config.
   * @throws EngineError `no-image`; MeshError `image-name` where this can be no name of an image.
   */
  async inspect(name: string): Promise<ImageSpec> {
    checkName(name)
    const found = await this.look(name)
    if (found === undefined) throw new EngineError('no-image', `there is no image "${name}" in the local engine`)
    const containerd = await this.isContainerd()
    const config = await this.configOf(found.Id, containerd)
    const image: ImageSpec = {
      config,
      diffIds: layersOf(found).map(unhex),
      platform: platformOf(found.Os, found.Architecture, found.Variant),
    }
    // A containerd store claims a digest in a registry for images that never saw one.
    const [repository] = name.split(/@|:(?!.*\/)/)
    const digests = containerd ? [] : (found.RepoDigests ?? [])
    const pull = digests.find((digest) => digest.startsWith(`${repository}@`)) ?? digests[0]
    if (pull !== undefined) image.pull = pull
    await this.hold(found.Id, image)
    const size = await this.sizeOf(image, 0)
    if (size > this.limit) {
      throw new MeshError('image-too-big', `image "${name}" has ${size} bytes; APs take ${this.limit} at most`)
    }
    return { ...image, size }
  }

  /** Whether the engine has exactly this image. */
  async has(image: ImageSpec): Promise<boolean> {
    return (await this.reference(image)) !== undefined
  }

  /** What this engine calls the image, as `docker run` would want it; undefined where it has none. */
  async reference(image: ImageSpec): Promise<string | undefined> {
    return (await this.find(image))?.name
  }

  /** Config digests, in hex, of all images that `has` would find. */
  async list(): Promise<string[]> {
    const images = await ask('list images', (abortSignal) => this.docker.listImages({ all: true, abortSignal }))
    const containerd = await this.isContainerd()
    const names = images.flatMap((image) => image.RepoTags ?? []).filter((tag) => tag.startsWith(`${HELD}:`))
    const ids = containerd ? [] : images.map((image) => image.Id.replace('sha256:', ''))
    return [...new Set([...names.map((tag) => tag.slice(HELD.length + 1)), ...ids])]
  }

  /**
   * How many of the image's layers, from the lowest, the engine has already: `import` does without them. A containerd
   * store loads no image of which a layer is missing in the archive, so there it is none.
   */
  async held(image: ImageSpec): Promise<number> {
    if (await this.isContainerd()) return 0
    const wanted = image.diffIds.map(hex)
    const images = await ask('list images', (abortSignal) => this.docker.listImages({ abortSignal }))
    const counts = await Promise.all(
      images.map(async ({ Id }) => {
        const layers = layersOf(await this.look(Id))
        const differs = wanted.findIndex((layer, i) => layer !== layers[i])
        return differs === -1 ? wanted.length : differs
      }),
    )
    return Math.max(0, ...counts)
  }

  /**
   * The image as an archive that `docker load` and `import` understand: config, manifest, and those layers that do not
   * lie among the lowest `skip`.
   *
   * `docker save` sends whole images, says only at the end what is which, and on some engines sends layers compressed,
   * so that their size is not known beforehand. So the first export of an image reads all of it to learn that.
   * @throws EngineError `no-image`.
   */
  async *export(image: ImageSpec, skipLayers: number): AsyncGenerator<Uint8Array> {
    const { id, config, layers } = await this.parts(image)
    yield* tarOf(this.exported(image, skipLayers, id, config, layers))
  }

  /** Bytes that `export` gives at most. @throws EngineError as `export` does */
  async sizeOf(image: ImageSpec, skipLayers: number): Promise<number> {
    const { config, layers } = await this.parts(image)
    const sizes = image.diffIds.slice(skipLayers).map((diffId) => layers.get(hex(diffId))!.size)
    return [config.length, ...sizes].reduce((sum, size) => sum + size + TAR_OVERHEAD, MAX_TAR_END)
  }

  private async parts(image: ImageSpec) {
    const found = await this.find(image)
    if (found === undefined) throw new EngineError('no-image', `the local engine has no image ${short(image)}`)
    const { digest, config, layers } = await this.survey(found.id)
    const has = config !== undefined && image.diffIds.every((diffId) => layers.has(hex(diffId)))
    if (!has || digest !== hex(image.config)) {
      throw new EngineError('refused', `the local engine can run image ${short(image)}, but not hand it on`)
    }
    return { id: found.id, config, layers }
  }

  private async *exported(
    image: ImageSpec,
    skipLayers: number,
    id: string,
    config: Buffer,
    layers: Survey['layers'],
  ): AsyncGenerator<TarFile> {
    yield jsonFile(`${hex(image.config)}.json`, config)
    yield manifestOf(image)
    const wanted = new Map<string, string>()
    for (const diffId of image.diffIds.slice(skipLayers).map(hex)) {
      wanted.set(layers.get(diffId)!.entry, diffId)
    }
    if (wanted.size === 0) return
    for await (const { header, body } of this.save(id)) {
      const diffId = wanted.get(header.name)
      if (diffId === undefined) {
        await skip(body)
        continue
      }
      const { size, gzip } = layers.get(diffId)!
      yield { name: layerFile(diffId), size, body: gzip ? gunzip(body) : body }
      wanted.delete(header.name)
      if (wanted.size === 0) return
    }
    this.surveys.delete(id)
    throw new EngineError('refused', `cannot export image ${short(image)}: docker save changed its mind; try again`)
  }

  /**
   * Takes in an image that `export` sent, from a peer that may be hostile: nothing of it is kept unless all of it is
   * what `image` says. Layers that the engine has need not be in it.
   * @throws MeshError `image-refused` when the archive is not the image.
   */
  async import(image: ImageSpec, source: AsyncIterable<Uint8Array>, signal?: AbortSignal): Promise<void> {
    const held = await this.held(image)
    let failure: unknown
    const received = receive(source, signal, (error) => {
      failure = error
    })
    try {
      const archive = tarOf(
        this.checked(image, limited(received, Math.min(this.limit, image.size ?? this.limit), image), held),
      )
      await work(`load image ${short(image)}`, archive, (body, abortSignal) =>
        this.docker.loadImage(body, { abortSignal }),
      )
    } catch (error) {
      // What neither the source nor the engine complained of is an archive that cannot be read.
      throw error === failure || error instanceof MeshError ? error : refusal(image, messageOf(error))
    }
    await this.confirm(image, heldName(image.config))
  }

  // The archive as it should be, made of one that is checked on the way. The manifest is what makes the engine take an
  // archive for an image; it comes last here, and only when everything before it was right.
  private async *checked(image: ImageSpec, source: AsyncIterable<Uint8Array>, held: number): AsyncGenerator<TarFile> {
    const refused = (why: string) => refusal(image, why)
    const config = `${hex(image.config)}.json`
    const expected = new Set(['manifest.json', config, ...image.diffIds.map((diffId) => layerFile(hex(diffId)))])
    const here = new Set(image.diffIds.slice(0, held).map((diffId) => layerFile(hex(diffId))))
    for await (const { header, body } of entriesOf(plain(source))) {
      if (header.type !== 'file') throw refused(`${quoted(header.name)} is a ${header.type}`)
      if (!expected.delete(header.name)) throw refused(`${quoted(header.name)} has no place in it`)
      if (header.name.endsWith('.json')) {
        if (header.size > MAX_JSON) throw refused(`${header.name} has ${header.size} bytes`)
        const bytes = await collect(body)
        if (header.name !== config) continue
        checkConfig(image, bytes, refused)
        yield jsonFile(config, bytes)
      } else {
        yield { name: header.name, size: header.size, body: checkedLayer(header.name, body, refused) }
      }
    }
    const missing = [...expected].filter((name) => name !== 'manifest.json' && !here.has(name))
    if (missing.length > 0) throw refused(`${missing.join(', ')} is missing`)
    yield manifestOf(image)
  }

  /**
   * Has the engine pull `image.pull`, a registry reference with a digest, and holds what came.
   * @throws MeshError `image-refused` when the registry has something else there, which is removed again.
   */
  async pull(image: ImageSpec, onProgress?: (message: Progress) => void): Promise<void> {
    const reference = image.pull ?? ''
    checkName(reference)
    if (!/@sha256:[0-9a-f]{64}$/.test(reference)) {
      throw new MeshError('image-name', `"${reference}" names no digest: a pulled image must have one`)
    }
    const before = await this.look(reference)
    await work(
      `pull ${reference}`,
      null,
      (_, abortSignal) => this.docker.createImage({ fromImage: reference, platform: image.platform, abortSignal }),
      onProgress,
    )
    const found = await this.look(reference)
    const same =
      found !== undefined && hex(await this.configOf(found.Id, await this.isContainerd())) === hex(image.config)
    if (!same) {
      if (before === undefined) await this.drop(reference)
      throw new MeshError('image-refused', `${reference} is not image ${short(image)}, though a record says so`)
    }
    await this.hold(found.Id, image)
    await this.confirm(image, reference)
  }

  /** Lets go of an image. The engine removes it unless it has another name, or a container uses it. */
  async remove(image: ImageSpec): Promise<void> {
    await this.drop(heldName(image.config))
  }

  /** Bytes free where the engine keeps its images; without end where it is not on this machine. */
  async free(): Promise<number> {
    if (socketOf(this.docker) === undefined) return Number.POSITIVE_INFINITY
    const { DockerRootDir } = await askState(this.docker)
    const { bavail, bsize } = await statfs(DockerRootDir)
    return bavail * bsize
  }

  /** Marks an image as fetched for later. */
  async spare(image: ImageSpec): Promise<void> {
    await ask(`name image ${short(image)}`, () =>
      this.docker.getImage(heldName(image.config)).tag({ repo: SPARE, tag: hex(image.config) }),
    )
  }

  /** Config digest, in hex, of each image that was fetched for later, and its size in bytes as the engine counts. */
  async spares(): Promise<Map<string, number>> {
    const images = await ask('list images', (abortSignal) =>
      this.docker.listImages({ filters: { reference: [SPARE] }, abortSignal }),
    )
    const named = images.flatMap(({ RepoTags, Size }) => (RepoTags ?? []).map((tag) => [tag, Size] as const))
    return new Map(
      named.filter(([tag]) => tag.startsWith(`${SPARE}:`)).map(([tag, size]) => [tag.slice(SPARE.length + 1), size]),
    )
  }

  /** Keeps for good what was fetched for later. */
  async keep(config: string): Promise<void> {
    await this.drop(`${SPARE}:${config}`)
  }

  /** Removes what was fetched for later, unless a container uses it or it has other names. */
  async removeSpare(config: string): Promise<void> {
    // The mark last: what is left of it by a crash is still known for what it is.
    await this.drop(`${HELD}:${config}`)
    await this.drop(`${SPARE}:${config}`)
  }

  private async find(image: ImageSpec): Promise<{ name: string; id: string } | undefined> {
    for (const name of [`sha256:${hex(image.config)}`, heldName(image.config)]) {
      const found = await this.look(name)
      if (found !== undefined && equalLayers(layersOf(found), image)) return { name, id: found.Id }
    }
    return undefined
  }

  private async confirm(image: ImageSpec, name: string): Promise<void> {
    if (await this.has(image)) return
    await this.drop(name)
    throw new MeshError('image-refused', `the engine understood image ${short(image)} differently; it was removed`)
  }

  private async hold(id: string, image: ImageSpec): Promise<void> {
    await ask(`name image ${id}`, () => this.docker.getImage(id).tag({ repo: HELD, tag: hex(image.config) }))
  }

  private async drop(name: string): Promise<void> {
    await unless(
      [404, 409],
      ask(`remove image ${name}`, () => this.docker.getImage(name).remove()),
    )
  }

  private async configOf(id: string, containerd: boolean): Promise<Uint8Array> {
    return unhex(containerd ? (await this.survey(id)).digest : id.replace('sha256:', ''))
  }

  private async look(name: string): Promise<Docker.ImageInspectInfo | undefined> {
    return unless(
      [404],
      ask(`look at image ${name}`, () => this.docker.getImage(name).inspect()),
    )
  }

  // Asked each time: an engine may be set up anew while the node runs.
  private async isContainerd(): Promise<boolean> {
    const { DriverStatus = [] } = await askState(this.docker)
    return DriverStatus.some(([, value]) => value.startsWith('io.containerd.'))
  }

  private save(id: string) {
    const what = `save image ${id}`
    const source = async function* (docker: Docker) {
      // No deadline for its begin: the engine first writes all of the image to its own disk.
      const stream = await docker.getImage(id).get()
      yield* stream as AsyncIterable<Uint8Array>
    }
    return entriesOf(unhung(what, source(this.docker)))
  }

  /** Reads an image once for where its parts lie in `docker save`, whose order and names differ between engines. */
  private async survey(id: string): Promise<Survey> {
    const known = this.surveys.get(id)
    if (known !== undefined) return known
    const files = new Map<string, Awaited<ReturnType<typeof measure>>>()
    for await (const { header, body } of this.save(id)) {
      if (header.type === 'file') files.set(header.name, await measure(body, header.size))
      else await skip(body)
    }
    const [manifest] = JSON.parse(String(files.get('manifest.json')?.bytes ?? '[]')) as SavedImage[]
    // "<digest>.json" before Docker 25, "blobs/sha256/<digest>" since.
    const digest = /([0-9a-f]{64})(\.json)?$/.exec(manifest?.Config ?? '')?.[1]
    if (manifest === undefined || digest === undefined) {
      throw new EngineError('refused', `docker save of ${id} does not say what is in it`)
    }
    const survey: Survey = { digest, config: files.get(manifest.Config)?.bytes, layers: new Map() }
    const { rootfs } = JSON.parse(String(survey.config ?? '{}')) as { rootfs?: { diff_ids: string[] } }
    for (const [i, diffId] of (rootfs?.diff_ids ?? []).entries()) {
      const entry = manifest.Layers[i] ?? ''
      const file = files.get(entry)
      // A layer that occurs twice is but a link the second time, before Docker 25.
      if (file === undefined || file.compression === 'other') continue
      survey.layers.set(diffId.replace('sha256:', ''), { entry, size: file.size, gzip: file.compression === 'gzip' })
    }
    if (this.surveys.size >= MAX_SURVEYS) this.surveys.clear()
    // What is missing may come yet, with another image.
    if (survey.config !== undefined) this.surveys.set(id, survey)
    return survey
  }
}

const refusal = (image: ImageSpec, why: string) =>
  new MeshError('image-refused', `what came is not image ${short(image)}: ${why}`)

/** What a stranger wrote, fit for a message. */
const quoted = (text: string): string => JSON.stringify(text.slice(0, 128))

const short = (image: ImageSpec): string => hex(image.config).slice(0, 12)

const layerFile = (diffId: string): string => `${diffId}.tar`

const layersOf = (found: Docker.ImageInspectInfo | undefined): string[] =>
  (found?.RootFS.Layers ?? []).map((layer) => layer.replace('sha256:', ''))

const equalLayers = (layers: string[], image: ImageSpec): boolean => layers.join() === image.diffIds.map(hex).join()

const jsonFile = (name: string, bytes: Buffer): TarFile => ({ name, size: bytes.length, body: [bytes] })

/** The document by which `docker load` finds config and layers, and names the image. */
function manifestOf(image: ImageSpec): TarFile {
  const document: SavedImage = {
    Config: `${hex(image.config)}.json`,
    RepoTags: [heldName(image.config)],
    Layers: image.diffIds.map((diffId) => layerFile(hex(diffId))),
  }
  return jsonFile('manifest.json', Buffer.from(JSON.stringify([document])))
}

/** Names go into the path of a request, so that one of "../containers" would ask for something else. */
function checkName(name: string): void {
  if (name.length > 512 || !/^[a-zA-Z0-9][\w./:@-]*$/.test(name) || name.includes('..')) {
    throw new MeshError('image-name', `${quoted(name)} cannot be the name of an image`)
  }
}

type Refusal = (why: string) => MeshError

/** As much of an image's config as says which image it is. */
const imageConfig = z.object({
  os: z.string().optional(),
  architecture: z.string().optional(),
  variant: z.string().optional(),
  rootfs: z.object({ diff_ids: z.array(z.string()).optional() }).optional(),
})

function checkConfig(image: ImageSpec, bytes: Buffer, refused: Refusal): void {
  if (hex(sha256(bytes)) !== hex(image.config)) throw refused('the config has another digest')
  const { data: config } = imageConfig.safeParse(parseOrNothing(bytes))
  if (config === undefined) throw refused('the config is none of an image')
  const diffIds = config.rootfs?.diff_ids ?? []
  if (diffIds.join() !== image.diffIds.map((id) => `sha256:${hex(id)}`).join()) {
    throw refused('the config names other layers')
  }
  const platform = platformOf(config.os ?? '', config.architecture ?? '', config.variant)
  if (platform !== image.platform) throw refused(`the config is for ${quoted(platform)}`)
}

/**
 * Passes a layer on and fails at its end unless it is the one it is named for. It also has to be a plain archive: the
 * engine would inflate a compressed one in full before it sees that the digest is another.
 */
async function* checkedLayer(name: string, body: AsyncIterable<Uint8Array>, refused: Refusal) {
  const hash = createHash('sha256')
  let head = ''
  for await (const chunk of body) {
    if (head.length < 12) head += hex(chunk.subarray(0, 6))
    if (COMPRESSED.test(head)) throw refused(`layer ${name} is compressed`)
    hash.update(chunk)
    yield chunk
  }
  if (`${hash.digest('hex')}.tar` !== name) throw refused(`layer ${name} has another digest`)
}

/** What Docker takes for gzip, bzip2, xz and zstd (with its skippable frames). */
const COMPRESSED = /^(1f8b08|425a68|fd377a585a00|28b52ffd|5.2a4d18)/

/** The chunks of a source, until the signal aborts, even while the source keeps silent. */
async function* receive(
  source: AsyncIterable<Uint8Array>,
  signal: AbortSignal | undefined,
  onFailure: (error: unknown) => void,
): AsyncGenerator<Uint8Array> {
  const chunks = source[Symbol.asyncIterator]()
  try {
    for (;;) {
      // Errors of whoever reads this are thrown at the `yield`; those are not the source's.
      const next = await (signal ? unlessAborted(chunks.next(), signal) : chunks.next()).catch((error) => {
        onFailure(error)
        throw error
      })
      if (next.done) return
      yield next.value
    }
  } finally {
    // Not awaited: a source that hangs would hold up its own end as well.
    void Promise.resolve(chunks.return?.()).catch(() => {})
  }
}

async function* limited(source: AsyncIterable<Uint8Array>, limit: number, image: ImageSpec) {
  let total = 0
  for await (const chunk of source) {
    total += chunk.length
    if (total > limit) throw refusal(image, `it has more than ${limit} bytes`)
    yield chunk
  }
}

async function* gunzip(body: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const inflate = createGunzip()
  // The iteration fails with the same error.
  pipeline(Readable.from(body, { objectMode: false }), inflate).catch(() => {})
  yield* inflate
}

/** The size of a file when it is uncompressed; of JSON documents also what is in them. */
async function measure(body: AsyncIterable<Uint8Array>, size: number) {
  const chunks = body[Symbol.asyncIterator]()
  const first = await chunks.next()
  const head: Uint8Array = first.done ? new Uint8Array() : first.value
  async function* whole() {
    yield head
    yield* { [Symbol.asyncIterator]: () => chunks }
  }
  const magic = hex(head.subarray(0, 6))
  const gzip = magic.startsWith('1f8b08')
  const compression = gzip ? 'gzip' : COMPRESSED.test(magic) ? 'other' : 'none'
  const json = size <= MAX_JSON && (head[0] === 0x7b || head[0] === 0x5b)
  const kept: Uint8Array[] = []
  let length = 0
  for await (const chunk of gzip ? gunzip(whole()) : whole()) {
    length += chunk.length
    if (json) kept.push(chunk)
  }
  return { size: length, compression, bytes: json ? Buffer.concat(kept) : undefined }
}
