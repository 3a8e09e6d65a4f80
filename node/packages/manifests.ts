// The manifests among the blobs: what each refers to is noted in the catalogue, and none is called by a name before all is here
// that it needs. The same for those that clients push, peers give, and archives hold.
import { Readable } from 'node:stream'
import type { Logger } from 'pino'
import { MeshError, messageOf } from '../../protocols/error.js'
import type { BlobStore } from './blobs.js'
import type { ManifestNote } from './catalogue.js'
import { digestOf, MAX_MANIFEST, type Manifest, readManifest } from './oci.js'
import { collect, skip } from './tar.js'

/** Where blobs and manifests come from that are not here. */
export interface Source {
  /** What is read is also kept: when a blob was read to its end, the store has it. Content is checked before it is given. */
  blob(digest: string): Promise<RemoteBlob | undefined>
  manifest(digest: string): Promise<Uint8Array | undefined>
}

interface RemoteBlob {
  readonly size: number
  /** From `start` up to, and without, `end`. */
  read(start: number, end: number): AsyncIterable<Uint8Array>
}

interface ManifestsOptions {
  readonly store: BlobStore
  readonly source?: Source
  readonly log: Logger
}

/** What is named to who gives a manifest without what it refers to. */
const MAX_MISSING = 20

/** A manifest refers to what cannot be had. */
export class Incomplete extends MeshError {
  constructor(readonly missing: readonly string[]) {
    super('manifest-incomplete', 'the manifest refers to what is neither here nor with any peer')
  }
}

interface Found {
  readonly bytes: Uint8Array
  readonly manifest: Manifest
}

export class Manifests {
  constructor(private readonly options: ManifestsOptions) {}

  /**
   * Keeps a manifest in a repository, on disk when it resolves.
   * @param tag what keeps it; without one, it is kept for as long as something else refers to it
   * @throws Incomplete; MeshError as `BlobStore.write` does
   */
  async put(name: string, tag: string | undefined, bytes: Uint8Array, manifest: Manifest): Promise<void> {
    const { store } = this.options
    const digest = digestOf(bytes)
    await this.complete(manifest)
    await store.write(digest, Readable.from([bytes]))
    await store.catalogue.push(name, tag, digest, noteOf(manifest))
  }

  /**
   * Sees that all is here that a manifest refers to, so that what is acknowledged can be pulled: blobs that only peers have are
   * fetched. Of an index one manifest is enough: of several architectures an AP takes its own, and others are with who runs them.
   * @throws Incomplete
   */
  private async complete({ blobs, children }: Manifest): Promise<void> {
    const { store } = this.options
    const missing: string[] = []
    for (const digest of blobs) {
      store.use(digest) // or it could be evicted before the manifest says that it is wanted
      if (!store.has(digest) && !(await this.fetch(digest))) missing.push(digest)
      if (missing.length === MAX_MISSING) break
    }
    let found = 0
    for (const digest of children) {
      store.use(digest)
      if (store.has(digest) || (found === 0 && (await this.get(digest)) !== undefined)) found++
    }
    if (children.length > 0 && found === 0) missing.push(...children.slice(0, MAX_MISSING))
    if (missing.length > 0) throw new Incomplete(missing)
  }

  /** Has a blob fetched from peers. @returns whether it is here then */
  private async fetch(digest: string): Promise<boolean> {
    const { store, source, log } = this.options
    try {
      const remote = await source?.blob(digest)
      if (remote !== undefined) await skip(remote.read(0, remote.size))
    } catch (error) {
      log.warn({ digest, reason: messageOf(error) }, 'a blob of a manifest that was pushed could not be fetched')
    }
    return store.has(digest)
  }

  /** A manifest from here or from peers; of peers it is kept. */
  async get(digest: string): Promise<Found | undefined> {
    const { store, source, log } = this.options
    const local = await this.local(digest)
    if (local !== undefined) return local
    const bytes = await source?.manifest(digest)
    if (bytes === undefined || digestOf(bytes) !== digest) return undefined
    const manifest = readManifest(bytes)
    try {
      await store.write(digest, Readable.from([bytes]))
      await store.catalogue.noteManifest(digest, noteOf(manifest))
    } catch (error) {
      log.warn({ digest, reason: messageOf(error) }, 'a manifest from a peer could not be kept')
    }
    return { bytes, manifest }
  }

  /** A manifest that is here. */
  async local(digest: string): Promise<Found | undefined> {
    const { store } = this.options
    if ((store.size(digest) ?? Number.POSITIVE_INFINITY) > MAX_MANIFEST) return undefined
    try {
      const bytes = await collect(await store.read(digest))
      const manifest = readManifest(bytes)
      // One that a peer gave is a file like any other, until it is asked for.
      if (!(await store.catalogue.knowsManifest(digest))) await store.catalogue.noteManifest(digest, noteOf(manifest))
      return { bytes, manifest }
    } catch (error) {
      if (error instanceof MeshError && ['no-blob', 'manifest-invalid'].includes(error.code)) return undefined
      throw error
    }
  }
}

const noteOf = ({ blobs, children, subject }: Manifest): ManifestNote => ({ refers: [...blobs, ...children], subject })
