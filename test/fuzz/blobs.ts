// As much of the store of blobs as archives and manifests need, in memory: on a disk each input would take a hundred times as long.
import { Readable } from 'node:stream'
import type { BlobStore } from '../../node/packages/blobs.js'
import type { Catalogue, ManifestNote } from '../../node/packages/catalogue.js'
import { digestOf } from '../../node/packages/oci.js'
import { collect } from '../../node/packages/tar.js'
import { MeshError } from '../../protocols/error.js'

export class Blobs
  implements
    Pick<BlobStore, 'has' | 'size' | 'use' | 'list' | 'read' | 'write' | 'take' | 'isKept' | 'remove'>,
    Pick<Catalogue, 'push' | 'noteManifest' | 'knowsManifest'>
{
  readonly catalogue = this
  private readonly blobs = new Map<string, Uint8Array>()
  private readonly notes = new Map<string, ManifestNote>()
  private readonly tags = new Map<string, string>()

  /** As what takes a `BlobStore` takes it. */
  get store(): BlobStore {
    return this as unknown as BlobStore
  }

  has(digest: string): boolean {
    return this.blobs.has(digest)
  }

  size(digest: string): number | undefined {
    return this.blobs.get(digest)?.length
  }

  use(): void {}

  list(): string[] {
    return [...this.blobs.keys()]
  }

  async read(digest: string, { start = 0, end }: { start?: number; end?: number } = {}): Promise<Readable> {
    const blob = this.blobs.get(digest)
    if (blob === undefined) throw new MeshError('no-blob', `blob ${digest} is not here`)
    return Readable.from([blob.subarray(start, end)], { objectMode: false })
  }

  async write(digest: string, source: AsyncIterable<Uint8Array>): Promise<void> {
    const bytes = await collect(source)
    const found = digestOf(bytes)
    if (found !== digest) {
      throw new MeshError('wrong-digest', `what was sent has the digest ${found}, and not ${digest}`)
    }
    this.blobs.set(digest, bytes)
  }

  async take(source: AsyncIterable<Uint8Array>): Promise<{ digest: string; isNew: boolean }> {
    const bytes = await collect(source)
    const digest = digestOf(bytes)
    const isNew = !this.has(digest)
    this.blobs.set(digest, bytes)
    return { digest, isNew }
  }

  async remove(digest: string): Promise<void> {
    this.blobs.delete(digest)
    this.notes.delete(digest)
  }

  async isKept(digest: string): Promise<boolean> {
    const kept = new Set(this.tags.values())
    // A set is walked on through what is added to it meanwhile.
    for (const one of kept) for (const refers of this.notes.get(one)?.refers ?? []) kept.add(refers)
    return kept.has(digest)
  }

  async push(name: string, tag: string | undefined, digest: string, note: ManifestNote): Promise<void> {
    await this.noteManifest(digest, note)
    if (tag !== undefined) this.tags.set(`${name}!${tag}`, digest)
  }

  async noteManifest(digest: string, note: ManifestNote): Promise<void> {
    this.notes.set(digest, note)
  }

  async knowsManifest(digest: string): Promise<boolean> {
    return this.notes.has(digest)
  }
}
