// How the engine of this AP comes to have what a service runs from: it pulls an image from the registry of this AP, which gets
// what it lacks from other APs; or it builds one of the sources in the package. Never from anywhere else.
import type Docker from 'dockerode'
import { hex } from '../../protocols/bytes.js'
import { type ImageSpec, imageFor, type PackageRef, type ServiceSpec } from '../../protocols/deployment.js'
import { MeshError, messageOf } from '../../protocols/error.js'
import { MAX_IMAGE } from '../../protocols/limits.js'
import { buildImage } from './build.js'
import { buildKey, type Images } from './images.js'
import { CHUTES, type Packages } from './packages.js'

/** A service, and the package that has what it runs from; undefined where the engine has it, or never will. */
export interface Wanted {
  readonly service: ServiceSpec
  readonly package: PackageRef | undefined
}

export interface SupplyOptions {
  readonly docker: Docker
  readonly images: Pick<Images, 'has' | 'referenceFor' | 'pull' | 'holdBuilt'>
  readonly packages: () => Packages
  readonly platform: () => string | undefined
  readonly onEvent: (kind: string, fields: Record<string, unknown>) => void
  /** The set of images in the engine has changed. */
  readonly onChange: () => void
}

/** Bytes that a layer may be longer for being packed: headers of gzip, and a little for each block. */
const PACKING = 64 * 1024

/** An image that the engine is pulling. */
interface Pull {
  /** Bytes that its layers may have, unpacked. */
  readonly limit: number
  readonly blobs: ReadonlySet<string>
  readonly layers: ReadonlySet<string>
  readonly sizes: Map<string, number>
  /** Ends it, with the reason: an engine would try five times, and tell only that a connection broke. */
  readonly end: AbortController
}

export class Supply {
  private readonly running = new Map<string, { wanted: Wanted; end: Promise<void> }>()
  private spare: { key: string; end: Promise<void> } | undefined
  private readonly pulls = new Set<Pull>()
  /** Blobs of what is on its way, by what it is for; and those that the engine turned out to have. */
  private readonly parts = new Map<string, { digests: readonly string[]; skipped: Set<string> }>()
  private held: Uint8Array[] = []

  constructor(private readonly options: SupplyOptions) {}

  async has({ service }: Pick<Wanted, 'service'>): Promise<boolean> {
    const platform = this.options.platform()
    return platform !== undefined && (await this.options.images.referenceFor(service, platform)) !== undefined
  }

  /** Config digests of images that the engine has, as of the last `look`. */
  holdings(): readonly Uint8Array[] {
    return this.held
  }

  /** Looks which of these images the engine has. */
  async look(wanted: readonly ImageSpec[]): Promise<void> {
    const unique = [...new Map(wanted.map((image) => [hex(image.config), image])).values()]
    const found: Uint8Array[] = []
    for (const image of unique) if (await this.options.images.has(image).catch(() => false)) found.push(image.config)
    const isSame = found.length === this.held.length && found.every((config, i) => hex(config) === hex(this.held[i]!))
    this.held = found
    if (!isSame) this.options.onChange()
  }

  /** Has the engine get what a service runs from. @throws MeshError `no-image`, with the reason */
  ensure(wanted: Wanted): Promise<void> {
    const key = this.keyOf(wanted.service)
    const before = this.running.get(key)
    if (before !== undefined) return before.end
    // What is being fetched for later is not begun anew; from now on it does not wait for others any more.
    const spare = this.spare?.key === key ? this.spare.end.catch(() => {}) : Promise.resolve()
    const running = { wanted, end: spare.then(() => this.obtain(wanted, 'image-fetched')) }
    this.running.set(key, running)
    running.end = running.end.finally(() => this.running.delete(key))
    return running.end
  }

  /**
   * Fetches an image that may be needed later. It stands still while others are fetched that are needed now. One at a time.
   * @param room bytes that it may have
   * @throws MeshError `too-big`, `busy`, or `no-image`
   */
  async prepare(wanted: Wanted, room: number): Promise<void> {
    if (this.running.size > 0) throw new MeshError('busy', 'other images are needed now')
    const { size = MAX_IMAGE } = this.imageOf(wanted.service)
    if (size > room) throw new MeshError('too-big', `there is no room for ${size} bytes`)
    const end = this.obtain(wanted, 'image-prepared')
    this.spare = { key: this.keyOf(wanted.service), end }
    await end.finally(() => {
      this.spare = undefined
    })
  }

  /** Resolves when no blob is being fetched that is more urgent than this one, by its digest in hex. */
  async turn(digest: string): Promise<void> {
    while (this.spare !== undefined && this.running.size > 0 && !this.isUrgent(digest))
      await Promise.race([...this.running.values()].map(({ end }) => end.catch(() => {})))
  }

  private isUrgent(digest: string): boolean {
    const packages = new Set(this.options.packages().packagesOf(digest))
    return [...this.running.values()].some(({ wanted }) => wanted.package && packages.has(hex(wanted.package.digest)))
  }

  /** How much has come of what services run from that is on its way, in per cent; undefined where nothing is. */
  progress(services: readonly ServiceSpec[]): number | undefined {
    const digests = services.flatMap((service) => {
      const { digests, skipped } = this.parts.get(this.keyOf(service)) ?? { digests: [], skipped: new Set<string>() }
      return digests.filter((digest) => ![...skipped].some((start) => digest.startsWith(start)))
    })
    const { here, of } = this.options.packages().progress(digests)
    return of === 0 ? undefined : Math.floor((100 * here) / of)
  }

  /** Sees that a layer that the engine pulls leaves its image within its size. @throws MeshError `image-too-big`, `layer-format` */
  async admit(digest: string): Promise<void> {
    const packages = this.options.packages()
    for (const pull of this.pulls) {
      if (!pull.layers.has(digest)) continue
      try {
        await packages.fetch(digest.slice('sha256:'.length)) // its last bytes are here, and it is about to be whole
        const others = [...pull.sizes].reduce((sum, [layer, size]) => (layer === digest ? sum : sum + size), 0)
        pull.sizes.set(digest, await packages.unpacked.sizeOf(digest, pull.limit - others))
      } catch (error) {
        pull.end.abort(error)
        throw error
      }
    }
  }

  /** A blob cannot be had: who pulls an image with it need not try again. */
  fail(digest: string, error: unknown): void {
    for (const pull of this.pulls) if (pull.blobs.has(digest)) pull.end.abort(error)
  }

  private async obtain(wanted: Wanted, event: string): Promise<void> {
    const { service, package: ref } = wanted
    if (await this.has(wanted)) return
    const key = this.keyOf(service)
    try {
      if (ref === undefined)
        throw new MeshError('no-image', 'the engine does not have it, and the record names no package')
      const packages = this.options.packages()
      const descriptor = await packages.descriptor(ref)
      if (service.build === undefined) await this.pull(key, this.imageOf(service))
      else await this.build(key, service, descriptor)
      const arrived = packages.takeArrivals([hex(ref.digest), ...this.parts.get(key)!.digests])
      this.options.onEvent(event, { image: key, package: hex(ref.digest), ...arrived })
    } catch (error) {
      if (error instanceof MeshError && ['no-engine', 'build-failed'].includes(error.code)) throw error
      const what = service.build === undefined ? 'image' : 'sources'
      throw new MeshError('no-image', `${what} ${key.slice(0, 12)} cannot be had: ${messageOf(error)}`, {
        cause: error,
      })
    } finally {
      this.parts.delete(key)
    }
  }

  private async pull(key: string, image: ImageSpec): Promise<void> {
    const packages = this.options.packages()
    if (image.manifest === undefined) throw new MeshError('image-refused', 'the record names no manifest for it')
    const manifest = await packages.manifest(hex(image.manifest))
    if (manifest.config !== `sha256:${hex(image.config)}`)
      throw new MeshError('image-refused', 'its manifest is that of another image')
    const layers = new Set(manifest.layers.map(({ digest }) => digest))
    const pull: Pull = {
      ...{ limit: image.size ?? MAX_IMAGE, blobs: new Set(manifest.blobs), layers, sizes: new Map() },
      end: new AbortController(),
    }
    const skipped = new Set<string>()
    const digests = [hex(image.manifest), ...manifest.blobs.map((digest) => digest.slice('sha256:'.length))]
    this.parts.set(key, { digests, skipped })
    // Nothing gets bigger by being packed, but for a little: what is too big here need not be fetched to be measured.
    const packed = packages.progress(manifest.layers.map(({ digest }) => digest.slice('sha256:'.length))).of
    if (packed > pull.limit * 1.01 + PACKING * manifest.layers.length)
      throw new MeshError('image-too-big', `its layers have ${packed} bytes, and its record says ${pull.limit} at most`)
    this.pulls.add(pull)
    try {
      const { signal } = pull.end
      await this.options.images.pull(image, `${packages.address}/${CHUTES}`, (id) => skipped.add(id), signal)
    } catch (error) {
      throw pull.end.signal.reason ?? error
    } finally {
      this.pulls.delete(pull)
    }
  }

  private async build(
    key: string,
    { build, limits }: ServiceSpec,
    descriptor: ReadonlyMap<string, unknown>,
  ): Promise<void> {
    const { docker, images } = this.options
    const packages = this.options.packages()
    const { sources, dockerfile, args, onBaseImage } = build!
    const digest = hex(sources)
    if (!descriptor.has(digest)) throw new MeshError('no-blob', 'the package does not have them')
    this.parts.set(key, { digests: [digest], skipped: new Set() })
    await packages.fetch(digest)
    const context = await packages.store.read(`sha256:${digest}`)
    const id = await buildImage(docker, context, { dockerfile, args, onBaseImage, limits })
    await images.holdBuilt(id, build!)
  }

  /** The image of a service for this AP. @throws MeshError `no-image` where there is none */
  imageOf(service: ServiceSpec): ImageSpec {
    const platform = this.options.platform()
    const image = platform === undefined ? undefined : imageFor(service, platform)
    if (image === undefined)
      throw new MeshError('no-image', `there is none for ${platform ?? 'an AP without an engine'}`)
    return image
  }

  private keyOf({ build, images }: ServiceSpec): string {
    if (build !== undefined) return buildKey(build)
    const platform = this.options.platform()
    return hex((images.find((image) => image.platform === platform) ?? images[0]!).config)
  }
}
