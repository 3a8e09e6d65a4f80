// Images from a file into the store of blobs, with no engine: an archive of `docker save` (both of its layouts), of `podman save`
// and `skopeo`, or an OCI image layout, each also in gzip. It comes as a stream, from anyone, and in any order: its files become
// blobs (archive-files.ts), and once all are there it is found out what they mean.
import { createHash } from 'node:crypto'
import { createGzip } from 'node:zlib'
import type { Logger } from 'pino'
import { z } from 'zod'
import { describe } from '../../protocols/envelope.js'
import { MeshError, messageOf } from '../../protocols/error.js'
import { MAX_IMAGE } from '../../protocols/limits.js'
import { parseOrNothing } from '../store/files.js'
import { ArchiveFiles, GZIP, mb, OTHER_PACKING, quoted, refusal, through, unpacked } from './archive-files.js'
import type { BlobStore } from './blobs.js'
import { Incomplete, Manifests } from './manifests.js'
import { digestOf, isDigest, isName, isTag, MAX_MANIFEST, type Manifest, readManifest } from './oci.js'
import { collect } from './tar.js'

export interface ImportOptions {
  readonly log: Logger
  /** Bytes of the archive, unpacked, and of each of its layers. */
  readonly limit?: number
  /** Gets what is going on, a line each. */
  readonly say?: (line: string) => void
}

/** An image, or several for different platforms, that is in the store now. */
export interface ImportedImage {
  /** Digest of its manifest or index. */
  readonly manifest: string
  /** What it is called in the archive, as Docker shows names. */
  readonly names: readonly string[]
}

/** Images in one archive, and indexes within each other. */
const MAX_IMAGES = 256
const MAX_DEPTH = 4

/**
 * How hard layers are packed that come unpacked. Measured on a layer of libraries and on Node.js: 1 packs 43 and 30 MB/s to 38
 * and 41 %, 6 packs 17 and 13 MB/s to 34 and 37 %. Over an uplink of 10 Mbit/s one copy takes the same time with both, and on
 * the small CPU of an AP less with 1. Unpacked it would take more than twice as long.
 */
const LEVEL = 1

/** The repository whose tags keep what has no name that could be one here. */
const IMPORTED = 'imported'

const OCI = 'application/vnd.oci.image.'

const savedImages = z
  .array(
    z.object({ Config: z.string(), RepoTags: z.array(z.string()).nullish(), Layers: z.array(z.string()).max(1024) }),
  )
  .max(MAX_IMAGES)

const layoutIndex = z.object({
  manifests: z
    .array(
      z.object({
        mediaType: z.string(),
        digest: z.string(),
        platform: z.object({}).optional(),
        annotations: z.record(z.string(), z.string()).optional(),
      }),
    )
    .max(MAX_IMAGES),
})

const imageConfig = z.object({ rootfs: z.object({ diff_ids: z.array(z.string()) }) })

/** A manifest with those that it refers to and that are complete. */
interface Tree {
  readonly bytes: Uint8Array
  readonly manifest: Manifest
  readonly children: readonly Tree[]
}

/**
 * Brings the images of an archive into the store. Each name that can be one of a repository here becomes its tag, as with
 * `docker load`; an image without any is kept by a tag as well. Of an archive that is refused nothing stays.
 * @throws MeshError `archive` where it is none, or wrong; `image-too-big`; `wrong-digest`, `manifest-invalid`,
 *   `manifest-incomplete`, `no-room`, `disk` as the store does; what the source throws
 */
export async function importArchive(
  store: BlobStore,
  source: AsyncIterable<Uint8Array>,
  { log, limit = MAX_IMAGE, say = () => {} }: ImportOptions,
): Promise<ImportedImage[]> {
  const archive = new ArchiveFiles(store, limit, say)
  const kept = new Set<string>()
  try {
    await archive.read(source)
    const found = await new ArchiveImages(archive).find()
    const manifests = new Manifests({ store, log })
    for (const { tree, names } of found) {
      for (const digest of digestsOf(tree)) kept.add(digest)
      const tags = names.flatMap((name) => tagOf(name) ?? [])
      const fallback = { repository: IMPORTED, tag: digestOf(tree.bytes).replace('sha256:', '') }
      for (const { repository, tag } of tags.length > 0 ? tags : [fallback]) await put(manifests, tree, repository, tag)
    }
    return found.map(({ tree, names }) => ({ manifest: digestOf(tree.bytes), names }))
  } catch (error) {
    kept.clear()
    throw error
  } finally {
    await archive.clean(kept)
  }
}

async function put(manifests: Manifests, tree: Tree, repository: string, tag?: string): Promise<void> {
  for (const child of tree.children) await put(manifests, child, repository)
  await manifests.put(repository, tag, tree.bytes, tree.manifest)
}

const digestsOf = ({ bytes, manifest, children }: Tree): string[] => [
  digestOf(bytes),
  ...manifest.blobs,
  ...children.flatMap(digestsOf),
]

/** What a name comes to in the registry of this AP. */
function tagOf(name: string): { repository: string; tag: string } | undefined {
  const [, repository = '', tag = 'latest'] = /^(.*?)(?::([^/:]*))?$/.exec(name) ?? []
  // A tag alone, as OCI layouts have it, is no name.
  const isWhole = name.includes(':') || name.includes('/')
  return isWhole && isName(repository) && isTag(tag) ? { repository, tag } : undefined
}

/** Finds the images among the files of an archive. */
class ArchiveImages {
  private readonly store: BlobStore
  private readonly layers = new Map<string, Promise<object>>()

  constructor(private readonly files: ArchiveFiles) {
    this.store = files.store
  }

  async find(): Promise<{ tree: Tree; names: string[] }[]> {
    const layout = this.files.documents.get('index.json')
    const saved = this.files.documents.get('manifest.json')
    const found =
      layout !== undefined && !(saved !== undefined && (await this.isUnpacked(layout)))
        ? await this.ofLayout(layout)
        : saved !== undefined
          ? await this.ofSave(saved)
          : undefined
    if (found === undefined) throw refusal('it has neither the index.json of an OCI layout nor a manifest.json')
    if (found.length === 0) throw refusal('it holds no image')
    const images = new Map<string, { tree: Tree; names: string[] }>()
    for (const { tree, names } of found) {
      const digest = digestOf(tree.bytes)
      const known = images.get(digest)?.names ?? []
      images.set(digest, { tree, names: [...new Set([...known, ...names.map(shown)])] })
    }
    return [...images.values()]
  }

  /**
   * Whether an OCI layout holds layers as they are on a disk. That is what `docker save` writes of an engine that keeps them so,
   * and then nobody knows its manifests by their digests; so they are made anew, of packed layers.
   */
  private async isUnpacked(layout: Buffer): Promise<boolean> {
    for (const { digest, mediaType } of read(layoutIndex, layout, 'index.json').manifests) {
      const { manifest } = await this.tree(digest, mediaType)
      for (const blob of manifest.blobs.slice(1))
        if ((await this.files.headOf(blob, 512)).subarray(257, 262).equals(USTAR)) return true
    }
    return false
  }

  private async ofLayout(layout: Buffer): Promise<{ tree: Tree; names: string[] }[]> {
    const { manifests } = read(layoutIndex, layout, 'index.json')
    const namesOf = ({ annotations = {} }: { annotations?: Record<string, string> }) => {
      const name = annotations['io.containerd.image.name'] ?? annotations['org.opencontainers.image.ref.name']
      return name === undefined ? [] : [name]
    }
    // Where nothing but the platform tells them apart, they are one image.
    const isOne = manifests.length > 1 && manifests.every((one) => one.platform && namesOf(one).length === 0)
    if (isOne) return [{ tree: await this.treeOf(layout, undefined, 0), names: [] }]
    const found: { tree: Tree; names: string[] }[] = []
    for (const one of manifests) found.push({ tree: await this.tree(one.digest, one.mediaType), names: namesOf(one) })
    return found
  }

  private async tree(digest: string, mediaType?: string, depth = 0): Promise<Tree> {
    const size = isDigest(digest) ? this.store.size(digest) : undefined
    if (size === undefined) throw new Incomplete([digest.slice(0, 80)])
    if (size > MAX_MANIFEST) throw refusal(`manifest ${digest} has ${size} bytes`)
    return this.treeOf(await collect(await this.store.read(digest)), mediaType, depth)
  }

  private async treeOf(bytes: Buffer, mediaType: string | undefined, depth: number): Promise<Tree> {
    if (depth > MAX_DEPTH) throw refusal('its indexes refer to each other without end')
    const manifest = readManifest(bytes, mediaType)
    const missing = manifest.blobs.filter((digest) => !this.store.has(digest))
    if (missing.length > 0) throw new Incomplete(missing)
    const children: Tree[] = []
    let failure: unknown
    // Of several platforms an engine saves what it has.
    for (const child of manifest.children) {
      try {
        children.push(await this.tree(child, undefined, depth + 1))
      } catch (error) {
        if (!(error instanceof Incomplete)) throw error
        failure ??= error
      }
    }
    if (children.length === 0 && failure !== undefined) throw failure
    return { bytes, manifest, children }
  }

  private async ofSave(document: Buffer): Promise<{ tree: Tree; names: string[] }[]> {
    const found: { tree: Tree; names: string[] }[] = []
    for (const { Config, RepoTags, Layers } of read(savedImages, document, 'manifest.json')) {
      const config = this.files.find(Config)
      const size = this.store.size(config) ?? 0
      if (size > MAX_MANIFEST) throw refusal(`${quoted(Config)} has ${size} bytes`)
      const [named] = /[0-9a-f]{64}/.exec(Config) ?? []
      if (config !== `sha256:${named ?? config.slice(7)}`) throw refusal(`${quoted(Config)} has the digest ${config}`)
      const { diff_ids: diffIds } = read(imageConfig, await collect(await this.store.read(config)), Config).rootfs
      if (diffIds.length !== Layers.length) {
        throw refusal(`${quoted(Config)} names ${diffIds.length} layers, and manifest.json ${Layers.length}`)
      }
      const layers: object[] = []
      for (const [i, name] of Layers.entries()) layers.push(await this.layer(name, diffIds[i]!))
      const manifest = {
        schemaVersion: 2,
        mediaType: `${OCI}manifest.v1+json`,
        config: { mediaType: `${OCI}config.v1+json`, digest: config, size },
        layers,
      }
      const bytes = Buffer.from(JSON.stringify(manifest))
      found.push({ tree: { bytes, manifest: readManifest(bytes), children: [] }, names: RepoTags ?? [] })
    }
    return found
  }

  /** The descriptor of a layer, as it is to be sent: packed. Equal layers are packed once. */
  private layer(name: string, diffId: string): Promise<object> {
    const digest = this.files.find(name)
    const key = `${digest} ${diffId}`
    const descriptor = this.layers.get(key) ?? this.pack(name, digest, diffId)
    this.layers.set(key, descriptor)
    return descriptor
  }

  private async pack(name: string, digest: string, diffId: string): Promise<object> {
    const head = (await this.files.headOf(digest, 6)).toString('hex')
    if (OTHER_PACKING.test(head)) throw refusal(`layer ${quoted(name)} is packed in another way than gzip`)
    const isPacked = head.startsWith(GZIP)
    const found = isPacked ? await this.diffIdOf(digest) : digest
    if (found !== diffId) throw refusal(`layer ${quoted(name)} is ${found}, and should be ${quoted(diffId)}`)
    const packed = isPacked ? digest : await this.files.take(gzip(await this.store.read(digest)))
    const size = this.store.size(packed) ?? 0
    this.files.say(`${digest.slice(7, 19)}: ${mb(size)} packed`)
    return { mediaType: `${OCI}layer.v1.tar+gzip`, digest: packed, size }
  }

  private async diffIdOf(digest: string): Promise<string> {
    const hash = createHash('sha256')
    try {
      for await (const chunk of unpacked(await this.store.read(digest), this.files.limit)) hash.update(chunk)
    } catch (error) {
      throw error instanceof MeshError ? error : refusal(`layer ${digest}: ${messageOf(error)}`, error)
    }
    return `sha256:${hash.digest('hex')}`
  }
}

const USTAR = Buffer.from('ustar')

/** A name as Docker shows it. */
const shown = (name: string): string => name.replace(/^docker\.io\/(library\/)?/, '')

function read<T>(schema: z.ZodType<T>, bytes: Buffer, name: string): T {
  const { data, error } = schema.safeParse(parseOrNothing(bytes))
  if (error) throw refusal(`${quoted(name)}: ${describe(error)}`)
  return data
}

/** Equal on machines with equal zlib: the header has no time, and the pieces in which the content comes make no difference. */
const gzip = (source: AsyncIterable<Uint8Array>) => through(source, createGzip({ level: LEVEL, chunkSize: 256 * 1024 }))
