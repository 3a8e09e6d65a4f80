// What the node of a publisher does: brings images and sources into the store of packages, and says what a record has to say of
// them. An image leaves the engine by a push to the registry of this AP, so both kinds of image store do it alike, and layers
// that are there already are not sent again.
import { randomUUID } from 'node:crypto'
import type Docker from 'dockerode'
import type { Logger } from 'pino'
import { z } from 'zod'
import { hex, unhex } from '../../protocols/bytes.js'
import type { ImageSpec, PackageRef } from '../../protocols/deployment.js'
import { MeshError } from '../../protocols/error.js'
import { MAX_BLOB, MAX_IMAGE } from '../../protocols/limits.js'
import { EngineError } from '../chutes/engine.js'
import { parseOrNothing } from '../store/files.js'
import { importArchive } from './archive.js'
import { type BuildOptions, buildImage } from './build.js'
import { checkName, type Images, platformOf } from './images.js'
import { isDigest, MAX_MANIFEST, type Manifest, readManifest } from './oci.js'
import type { Packages } from './packages.js'
import { pullImage } from './pull.js'
import { collect } from './tar.js'

/** The repository through which images leave the engine. */
const LEAVING = 'dropmesh/image'

/** As much of an image's config as says what it runs on. */
const imageConfig = z.object({ os: z.string(), architecture: z.string(), variant: z.string().optional() })

/** What an index has beside images: signatures and the like, for no machine. */
const NOWHERE = 'unknown/unknown'

type Say = (line: string) => void

/** Where an image is. The id is the engine's, the digest that of a manifest or index. */
type Found =
  | { at: 'engine'; id: string; platform: string; size: number }
  | { at: 'registry'; digest: string }
  | { at: 'elsewhere' }

export class Publishing {
  constructor(
    private readonly docker: Docker,
    private readonly images: Images,
    private readonly packages: Packages,
    private readonly log: Logger,
  ) {}

  /**
   * Where an image is found by the name that a manifest gives it: in the engine, in the registry of this AP, or in neither, and
   * then in the registry that the name is of. Changes nothing.
   * @throws EngineError `no-engine`; MeshError `no-image` where it can be nowhere else, `image-name`
   */
  async find(name: string): Promise<Found> {
    checkName(name)
    const ours = this.nameHere(name)
    const isOurs = ours !== name
    const digest = await this.tagged(ours)
    if (isOurs && digest !== undefined) return { at: 'registry', digest }
    const held = await this.images.find(name)
    if (held !== undefined) return { at: 'engine', ...held }
    if (digest !== undefined) return { at: 'registry', digest }
    if (isOurs) throw new MeshError('no-image', `there is no image ${ours} in the registry of this AP`)
    return { at: 'elsewhere' }
  }

  /** The same with the platforms that it is for, and bytes for each. @throws as `find` and `describe` do */
  async lookFor(name: string): Promise<{ at: Found['at']; images: { platform: string; size?: number }[] }> {
    const found = await this.find(name)
    const { at } = found
    const images = at === 'registry' ? await this.describe(found.digest) : at === 'engine' ? [found] : []
    return { at, images: images.map(({ platform, size }) => ({ platform, size })) }
  }

  /**
   * Brings an image into the store by the name that a manifest gives it. What is on this AP nowhere the engine pulls.
   * @returns one for each platform
   * @throws as `find` does; MeshError `no-image`, `image-too-big`, `layer-format`
   */
  async resolve(name: string, say: Say): Promise<ImageSpec[]> {
    const found = await this.find(name)
    if (found.at === 'registry') return this.describe(found.digest)
    if (found.at === 'engine') return this.take(found.id, say)
    say(`${name} is not in the local engine; asking its registry`)
    await pullImage(this.docker, name, say)
    const pulled = await this.images.find(name)
    if (pulled === undefined) throw new EngineError('no-image', `${name} was pulled, and is not there`)
    return this.take(pulled.id, say)
  }

  /** Builds an image from a context, sent as a tar. @throws as `buildImage` and `resolve` do */
  async build(context: AsyncIterable<Uint8Array>, options: BuildOptions, say: Say): Promise<ImageSpec[]> {
    return this.take(await buildImage(this.docker, context, options, say), say)
  }

  /**
   * Keeps sources that each AP is to build: a tar with a build context.
   * @returns its digest in hex, and its size in bytes
   * @throws MeshError `sources-too-big`, `no-room`, `disk`
   */
  async keep(context: AsyncIterable<Uint8Array>): Promise<{ digest: string; size: number }> {
    let size = 0
    async function* counted() {
      for await (const chunk of context) {
        size += chunk.length
        if (size > MAX_BLOB) throw new MeshError('sources-too-big', `sources have at most ${MAX_BLOB} bytes`)
        yield chunk
      }
    }
    const { digest } = await this.packages.store.take(counted())
    return { digest: bare(digest), size }
  }

  /**
   * Takes in the images of an archive (`docker save`, an OCI layout), for which no engine is needed.
   * @returns what each is called there, and one for each platform
   * @throws as `importArchive` and `describe` do
   */
  async import(
    archive: AsyncIterable<Uint8Array>,
    say: Say,
  ): Promise<{ names: readonly string[]; images: ImageSpec[] }[]> {
    const found: { names: readonly string[]; images: ImageSpec[] }[] = []
    for (const { manifest, names } of await importArchive(this.packages.store, archive, { log: this.log, say })) {
      found.push({ names, images: await this.describe(manifest) })
    }
    return found
  }

  /** One package of manifests and sources that are here, by their digests in hex. @throws as `Packages.make` does */
  make(roots: readonly string[]): Promise<PackageRef> {
    return this.packages.make(roots)
  }

  /**
   * The images that a manifest, or an index of manifests, in the store stands for: one for each platform that is here.
   * @param digest `sha256:…`
   * @throws MeshError `no-image` where it stands for none; `image-too-big`; `layer-format`
   */
  async describe(digest: string): Promise<ImageSpec[]> {
    const top = await this.manifestOf(digest)
    const digests = top.children.length > 0 ? top.children.filter((child) => this.packages.store.has(child)) : [digest]
    const images = new Map<string, ImageSpec>()
    for (const one of digests) {
      const image = await this.imageOf(one)
      if (image !== undefined && !images.has(image.platform)) images.set(image.platform, image)
    }
    if (images.size === 0) throw new MeshError('no-image', `${digest} is none of an image that an AP could run`)
    return [...images.values()]
  }

  private async imageOf(digest: string): Promise<ImageSpec | undefined> {
    const { store, unpacked } = this.packages
    const { config, layers, blobs } = await this.manifestOf(digest)
    if (config === undefined || !blobs.every((blob) => store.has(blob))) return undefined
    if ((store.size(config) ?? 0) > MAX_MANIFEST)
      throw new MeshError('image-too-big', `the config ${config} is too big`)
    const { data } = imageConfig.safeParse(parseOrNothing(await collect(await store.read(config))))
    if (data === undefined) return undefined
    const platform = platformOf(data.os, data.architecture, data.variant)
    if (platform === NOWHERE) return undefined
    let size = 0
    for (const layer of layers) size += await unpacked.sizeOf(layer.digest, MAX_IMAGE - size)
    return { config: unhex(bare(config)), platform, size, manifest: unhex(bare(digest)) }
  }

  private async manifestOf(digest: string): Promise<Manifest> {
    return readManifest(await collect(await this.packages.store.read(digest)))
  }

  /** Brings an image of the engine into the store. */
  private async take(id: string, say: Say): Promise<ImageSpec[]> {
    const { store, address } = this.packages
    const tag = randomUUID()
    const name = `${address}/${LEAVING}:${tag}`
    try {
      await this.images.push(id, name, say)
      const digest = await store.catalogue.tag(LEAVING, tag)
      if (digest === undefined) throw new EngineError('refused', `the engine says that it pushed ${name}, and did not`)
      // What it will be part of keeps it from then on; until then, that it was just used.
      await store.catalogue.removeTag(LEAVING, tag)
      const images = await this.describe(digest)
      const [image] = images
      if (images.length === 1 && image !== undefined) await this.images.hold(id, image.config)
      return images
    } finally {
      await this.images.unname(name)
    }
  }

  /** A name without the address of the registry of this AP. */
  private nameHere(name: string): string {
    const port = this.packages.address.split(':')[1]
    return name.replace(new RegExp(`^(127\\.0\\.0\\.1|localhost):${port}/`), '')
  }

  /** What a name means in the registry of this AP. */
  private async tagged(name: string): Promise<string | undefined> {
    const [, repository = '', tag = 'latest', digest] = /^([^:@]+)(?::([^@]+))?(?:@(.+))?$/.exec(name) ?? []
    if (digest !== undefined) return isDigest(digest) && this.packages.store.has(digest) ? digest : undefined
    const found = await this.packages.store.catalogue.tag(repository, tag)
    return found !== undefined && this.packages.store.has(found) ? found : undefined
  }
}

const bare = (digest: string): string => digest.slice('sha256:'.length)

/** What the local API says of images and packages: digests as hex. */
export const readable = (images: readonly ImageSpec[]): object[] =>
  images.map(({ config, manifest, ...image }) => ({
    ...image,
    config: hex(config),
    ...(manifest !== undefined && { manifest: hex(manifest) }),
  }))
