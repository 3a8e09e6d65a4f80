// The packages of this AP: the blobs on its disk, the registry that its engine pulls from, and the exchange of blobs with other
// APs, put together. What a package is made of its descriptor says (protocols/package.ts); which ones there are, and who has
// them, Ap says. It knows nothing of engines.
import { join } from 'node:path'
import { Readable } from 'node:stream'
import type { Logger } from 'pino'
import { hex } from '../../protocols/bytes.js'
import type { Blob } from '../../protocols/chunks.js'
import type { ChuteSpec, PackageRef } from '../../protocols/deployment.js'
import { imageFor } from '../../protocols/deployment.js'
import { MeshError } from '../../protocols/error.js'
import { readDescriptor, writeDescriptor } from '../../protocols/package.js'
import type { Network } from '../mesh/network.js'
import { BlobStore } from './blobs.js'
import { LowerEffort } from './lower-effort.js'
import { Manifests, type Source } from './manifests.js'
import { digestOf, type Manifest, readManifest } from './oci.js'
import { Registry } from './registry.js'
import { describeFile, Swarm } from './swarm.js'
import { collect } from './tar.js'
import { Unpacked } from './unpacked.js'

/** The repository by which the engine of this AP pulls images of chutes. */
export const CHUTES = 'dropmesh/chute'
/** The one whose tags keep what was made here, for as long as a record names it. */
const MADE = 'dropmesh/package'
/** Where people and engines find the registry of an AP. */
const USUAL_PORT = 5010
/** Milliseconds for which a package that was made stays though no record names it yet. */
const UNSIGNED = 3_600_000

export interface PackagesOptions {
  readonly self: string
  readonly network: Pick<Network, 'host' | 'blobProtocol' | 'connectForBulk'>
  readonly dir: string
  /** Bytes that all packages may take. */
  readonly maxBytes: number
  /** Bytes a second that blobs may take of the line, up and down each; undefined is no cap. */
  readonly rate: number | undefined
  /** Of the registry, on 127.0.0.1: 0 for a free one; undefined for the usual one, or one that is free where that is taken. */
  readonly port: number | undefined
  /** `os/architecture` of this AP's engine; undefined where there is none. */
  readonly platform: () => string | undefined
  /** APs that are believed to have one of these packages, by digests in hex, the likeliest first, as `FetchOptions` has it. */
  readonly holders: (refs: readonly string[]) => Iterable<readonly string[]>
  readonly isMember: (ap: string) => boolean
  /** Milliseconds after which what nobody has is given up. */
  readonly drought?: number
  /** Resolves when no blob is fetched that is more urgent than this one. */
  readonly turn: (digest: string) => Promise<void>
  /** Sees that a layer may be given to the engine to its end, or throws. */
  readonly admit: (digest: string) => Promise<void>
  /** A blob that the engine is pulling cannot be had. */
  readonly onFailure: (digest: string, error: unknown) => void
  /** The set of packages that this AP can hand on has changed. */
  readonly onChange: () => void
  readonly onEvent: (kind: string, fields: Record<string, unknown>) => void
  readonly log: Logger
  /** Milliseconds, on a clock that never goes back. */
  readonly now: () => number
  /** Milliseconds since 1970, by which the last use of blobs is told. */
  readonly wall?: () => number
}

/** The packages that there are, by what names them. */
export interface Named {
  /** Of all chutes. */
  readonly specs: readonly ChuteSpec[]
  /** Digests in hex of those that this AP runs from, or would next: their blobs are not evicted. */
  readonly needed: ReadonlySet<string>
}

type Descriptor = ReadonlyMap<string, Blob>

const oci = (digest: string): string => `sha256:${digest}`
const bare = (digest: string): string => digest.slice('sha256:'.length)

export class Packages {
  readonly unpacked: Unpacked
  private readonly manifests: Manifests
  private readonly swarm: Swarm
  private readonly lowerEffort: LowerEffort
  private registry!: Registry
  private readonly descriptors = new Map<string, Descriptor>()
  /** The packages that have a blob, by its digest in hex. */
  private readonly parts = new Map<string, Set<string>>()
  private named: Named = { specs: [], needed: new Set() }
  private refs = new Map<string, { ref: PackageRef; spec: ChuteSpec }>()
  /** Made here, and when; what was made before the node started counts as made then. */
  private readonly made = new Map<string, number>()
  private held: Uint8Array[] = []
  /** What came of blobs from other APs, until somebody tells it. */
  private readonly arrivals = new Map<string, { bytes: number; from: readonly string[] }>()
  private looking: Promise<void> | undefined

  private constructor(
    private readonly options: PackagesOptions,
    readonly store: BlobStore,
  ) {
    this.unpacked = new Unpacked(store)
    this.manifests = new Manifests({ store, log: options.log })
    this.lowerEffort = new LowerEffort(options)
    this.swarm = new Swarm({
      ...{ self: options.self, network: options.network, isMember: options.isMember },
      ...{ dir: join(options.dir, 'partial'), turn: options.turn },
      store: {
        size: (digest) => store.size(oci(digest)),
        pathOf: (digest) => store.pathOf(oci(digest)),
        adopt: (path, digest) => store.adopt(path, oci(digest)),
        makeRoom: (bytes) => store.makeRoom(bytes),
      },
      mayShare: (digest) => this.packagesOf(digest).some((ref) => this.refs.has(ref)),
      sources: (digest) => options.holders(this.packagesOf(digest)),
      onBulk: (connection) => this.lowerEffort.add(connection),
      onLie: (ap, digest) => options.onEvent('lied', { ap, blob: digest }),
      onFetched: (digest, arrival) => remember(this.arrivals, digest, arrival),
      ...(options.rate !== undefined && { rate: options.rate }),
      ...(options.drought !== undefined && { drought: options.drought }),
    })
  }

  /** @throws MeshError `data-in-use`, `disk`, `registry` */
  static async open(options: PackagesOptions): Promise<Packages> {
    const { dir, maxBytes, log, port } = options
    const isNeeded = (digest: string) => packages.named.needed.has(bare(digest))
    const store = await BlobStore.open(dir, {
      maxBytes,
      isNeeded,
      log,
      coming: () => packages.swarm.coming,
      now: options.wall,
    })
    const packages: Packages = new Packages(options, store)
    try {
      const open = (port: number) =>
        Registry.open({
          ...{ port, store, log, source: packages.source() },
          hold: (name) => (name === CHUTES ? options.admit : undefined),
        })
      packages.registry = port === undefined ? await open(USUAL_PORT).catch(() => open(0)) : await open(port)
    } catch (error) {
      await store.close()
      throw error
    }
    const tags = await store.catalogue.tags(MADE, '', Number.MAX_SAFE_INTEGER)
    for (const tag of tags) packages.made.set(tag, options.now())
    return packages
  }

  async start(): Promise<void> {
    this.lowerEffort.start()
    await this.swarm.start()
  }

  async close(): Promise<void> {
    await this.lowerEffort.stop()
    await this.registry.close()
    await this.store.close()
  }

  /** `127.0.0.1:PORT`, for the engine of this machine. */
  get address(): string {
    return `127.0.0.1:${this.registry.port}`
  }

  /** Why packages do not yield to what the AP routes, where they should. */
  get whyUnyielding(): string | undefined {
    return this.lowerEffort.failure
  }

  /** What all blobs take of the disk, in bytes. */
  usage(): { blobs: number; bytes: number } {
    const { blobs, bytes } = this.store.totals()
    return { blobs, bytes }
  }

  /** Digests of the packages of which this AP has all that its platform needs. */
  holdings(): readonly Uint8Array[] {
    return this.held
  }

  // --- which packages there are ------------------------------------------------------------------------------------

  /** Says which packages chutes are made of now, and which of them this AP needs. */
  follow(named: Named): void {
    this.named = named
    this.refs = new Map(
      named.specs.flatMap((spec) => (spec.package ? [[hex(spec.package.digest), { ref: spec.package, spec }]] : [])),
    )
    for (const ref of this.descriptors.keys()) if (!this.refs.has(ref) && !this.made.has(ref)) this.forget(ref)
  }

  /** Looks which packages are here. */
  look(): Promise<void> {
    this.looking ??= this.takeStock().finally(() => {
      this.looking = undefined
    })
    return this.looking
  }

  private async takeStock(): Promise<void> {
    const found: Uint8Array[] = []
    for (const { ref, spec } of this.refs.values()) if (await this.isComplete(ref, spec)) found.push(ref.digest)
    const isSame = found.length === this.held.length && found.every((ref, i) => hex(ref) === hex(this.held[i]!))
    this.held = found
    if (!isSame) this.options.onChange()
  }

  private async isComplete(ref: PackageRef, spec: ChuteSpec): Promise<boolean> {
    const { store, options } = this
    if (!store.has(oci(hex(ref.digest)))) return false
    const descriptor = await this.descriptor(ref).catch(() => undefined)
    if (descriptor === undefined) return false
    const platform = options.platform()
    const hasAll = (digests: Iterable<string>) => [...digests].every((digest) => store.has(oci(digest)))
    for (const service of spec.services) {
      if (service.build !== undefined) {
        if (!hasAll([hex(service.build.sources)])) return false
        continue
      }
      const manifest = platform === undefined ? undefined : imageFor(service, platform)?.manifest
      if (manifest === undefined) return hasAll(descriptor.keys())
      const read = await this.localManifest(hex(manifest))
      if (read === undefined || !hasAll(read.blobs.map(bare))) return false
    }
    return true
  }

  /**
   * Lets go of what was made here for a record that never came, or that is out of every ledger.
   * @param recorded whether any deployment that is kept, old revisions included, names a package
   */
  async sweep(recorded: (ref: string) => boolean): Promise<void> {
    for (const [ref, at] of this.made) {
      if (recorded(ref) || this.options.now() - at < UNSIGNED) continue
      await this.store.catalogue.removeTag(MADE, ref)
      this.made.delete(ref)
    }
    await this.swarm.sweep((digest) => this.packagesOf(digest).length > 0)
  }

  // --- making one ----------------------------------------------------------------------------------------------------

  /**
   * Makes a package of blobs that are here: image manifests or indexes with all that these refer to here, and sources.
   * @param roots digests in hex
   * @throws MeshError `no-blob`, `package-too-big`, `disk`
   */
  async make(roots: readonly string[]): Promise<PackageRef> {
    const blobs = new Map<string, Blob>()
    for (const digest of await this.closure(roots)) blobs.set(digest, await this.describe(digest))
    const bytes = writeDescriptor(blobs.values())
    const digest = digestOf(bytes)
    await this.store.write(digest, Readable.from([bytes]))
    const ref = bare(digest)
    await this.store.catalogue.push(MADE, ref, digest, { refers: [...blobs.keys()].map(oci) })
    this.made.set(ref, this.options.now())
    this.learn(ref, blobs)
    return { digest: Buffer.from(ref, 'hex'), size: bytes.length }
  }

  private async closure(roots: readonly string[]): Promise<Set<string>> {
    const all = new Set<string>()
    const manifests = [...roots]
    for (let digest = manifests.pop(); digest !== undefined; digest = manifests.pop()) {
      const manifest = await this.localManifest(digest)
      // Of other architectures an index may name what was never brought here.
      manifests.push(...(manifest?.children ?? []).filter((child) => this.store.has(child)).map(bare))
      for (const part of [digest, ...(manifest?.blobs ?? []).map(bare)]) {
        if (!this.store.has(oci(part)))
          throw new MeshError('no-blob', `blob ${part} is not here any more; publish again`)
        this.store.use(oci(part))
        all.add(part)
      }
    }
    return all
  }

  private async describe(digest: string): Promise<Blob> {
    for (const ref of this.packagesOf(digest)) {
      const known = this.descriptors.get(ref)?.get(digest)
      if (known !== undefined) return known
    }
    return (await describeFile(this.store.pathOf(oci(digest)))).blob
  }

  // --- getting one ---------------------------------------------------------------------------------------------------

  /**
   * What a package is made of, from here or from other APs.
   * @throws MeshError `no-blob`, `malformed`, `disk`
   */
  async descriptor({ digest, size }: PackageRef): Promise<Descriptor> {
    const ref = hex(digest)
    const known = this.descriptors.get(ref)
    if (known !== undefined) return known
    await this.swarm.fetch({ digest, size })
    const blobs = readDescriptor(await collect(await this.store.read(oci(ref))))
    await this.store.catalogue.noteManifest(oci(ref), { refers: [...blobs.keys()].map(oci) })
    this.learn(ref, blobs)
    return blobs
  }

  /** Has a blob here when it resolves. @throws as `Swarm.fetch` does; MeshError `no-blob` where no package has it */
  async fetch(digest: string): Promise<void> {
    if (this.store.has(oci(digest))) return
    const blob = this.blobOf(digest)
    if (blob === undefined) throw new MeshError('no-blob', `no package has a blob ${digest}`)
    await this.swarm.fetch(blob)
  }

  /** A manifest, from here or from other APs. @throws as `fetch` does; MeshError `manifest-invalid` */
  async manifest(digest: string): Promise<Manifest> {
    await this.fetch(digest)
    return readManifest(await collect(await this.store.read(oci(digest))))
  }

  /** Bytes that came of these blobs, and from whom: once. */
  takeArrivals(digests: readonly string[]): { bytes: number; from: string[] } {
    let bytes = 0
    const from = new Set<string>()
    for (const digest of digests) {
      const arrival = this.arrivals.get(digest)
      bytes += arrival?.bytes ?? 0
      for (const ap of arrival?.from ?? []) from.add(ap)
      this.arrivals.delete(digest)
    }
    return { bytes, from: [...from] }
  }

  /** Bytes of blobs that are here, of so many. */
  progress(digests: readonly string[]): { here: number; of: number } {
    let here = 0
    let of = 0
    for (const digest of digests) {
      const size = this.store.size(oci(digest)) ?? this.blobOf(digest)?.size ?? 0
      here += this.store.has(oci(digest)) ? size : (this.swarm.progress(digest) ?? 0)
      of += size
    }
    return { here, of }
  }

  /** The packages that have a blob, or are it; digests in hex. */
  packagesOf(digest: string): string[] {
    return [...(this.refs.has(digest) ? [digest] : []), ...(this.parts.get(digest) ?? [])]
  }

  private blobOf(digest: string): Blob | undefined {
    for (const ref of this.parts.get(digest) ?? []) return this.descriptors.get(ref)!.get(digest)
    return undefined
  }

  private async localManifest(digest: string): Promise<Manifest | undefined> {
    return (await this.manifests.local(oci(digest)))?.manifest
  }

  private source(): Source {
    return {
      blob: async (digest) => {
        const blob = this.blobOf(bare(digest))
        return blob && { size: blob.size, read: (start, end) => this.read(blob, start, end) }
      },
      manifest: async (digest) => {
        if (this.blobOf(bare(digest)) === undefined) return undefined
        await this.fetch(bare(digest))
        return collect(await this.store.read(digest))
      },
    }
  }

  private async *read(blob: Blob, start: number, end: number): AsyncGenerator<Uint8Array> {
    try {
      yield* this.swarm.read(blob, start, end)
    } catch (error) {
      this.options.onFailure(oci(hex(blob.digest)), error)
      throw error
    }
  }

  private learn(ref: string, blobs: Descriptor): void {
    this.descriptors.set(ref, blobs)
    for (const digest of blobs.keys()) {
      const refs = this.parts.get(digest) ?? new Set()
      this.parts.set(digest, refs.add(ref))
    }
  }

  private forget(ref: string): void {
    for (const digest of this.descriptors.get(ref)?.keys() ?? []) {
      const refs = this.parts.get(digest)
      refs?.delete(ref)
      if (refs?.size === 0) this.parts.delete(digest)
    }
    this.descriptors.delete(ref)
  }
}

/** Things that are remembered of so many blobs. */
const REMEMBERED = 1024

function remember<T>(what: Map<string, T>, digest: string, value: T): void {
  what.delete(digest)
  what.set(digest, value)
  if (what.size > REMEMBERED) what.delete(what.keys().next().value!)
}
