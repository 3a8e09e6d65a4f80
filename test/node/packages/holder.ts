// An AP for tests of blobs: a peer, a swarm, and files in a folder. What it holds and whom it asks, a test says.
import { randomBytes } from 'node:crypto'
import { open, rename, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { describeFile, Swarm, type SwarmOptions } from '../../../node/packages/swarm.js'
import { syncFolder } from '../../../node/store/files.js'
import { hex } from '../../../protocols/bytes.js'
import type { Blob } from '../../../protocols/chunks.js'
import { scratch } from '../../support/scratch.js'
import type { Peer } from '../mesh/support.js'

const WRITTEN_AT_ONCE = 2 ** 20

/** A peer that holds blobs in a folder, and knows of nobody but those that a test tells it of. */
export class Holder {
  readonly sizes = new Map<string, number>()
  readonly lies: string[] = []
  sources: Holder[] = []
  /** Those that are less likely to have it. */
  otherSources: Holder[] = []
  readonly swarm: Swarm

  constructor(
    readonly peer: Peer,
    options: Partial<SwarmOptions> = {},
    readonly dir = scratch('holder'),
  ) {
    this.swarm = new Swarm({
      self: peer.id,
      network: peer.network,
      dir: join(this.dir, 'partial'),
      store: {
        size: (digest) => this.sizes.get(digest),
        pathOf: (digest) => this.pathOf(digest),
        adopt: async (path, digest) => {
          await rename(path, this.pathOf(digest))
          await syncFolder(this.dir)
          this.sizes.set(digest, (await stat(this.pathOf(digest))).size)
        },
      },
      mayShare: () => true,
      sources: () => [this.sources, this.otherSources].map((group) => group.map(({ peer }) => peer.id)),
      isMember: () => true,
      drought: 3000,
      onLie: (ap) => this.lies.push(ap),
      ...options,
    })
  }

  pathOf(digest: string): string {
    return join(this.dir, digest)
  }

  /** A new blob of random bytes. */
  async make(size: number): Promise<Blob> {
    const path = join(this.dir, 'new')
    const file = await open(path, 'w')
    for (let left = size; left > 0; left -= WRITTEN_AT_ONCE)
      await file.write(randomBytes(Math.min(left, WRITTEN_AT_ONCE)))
    await file.close()
    const { blob } = await describeFile(path)
    await rename(path, this.pathOf(hex(blob.digest)))
    this.sizes.set(hex(blob.digest), size)
    return blob
  }

  has({ digest }: Blob): boolean {
    return this.sizes.has(hex(digest))
  }

  /** As if its node had been started anew. */
  reborn(options: Partial<SwarmOptions> = {}): Holder {
    const next = new Holder(this.peer, { dir: join(this.dir, 'partial'), ...options })
    next.sources = this.sources
    return next
  }
}
