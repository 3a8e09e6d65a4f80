// What makes an AP itself, and what nobody could give back to it: its own key and, on the AP that founded a mesh, the key of
// the mesh (in DIR/keys); how often it has started; where it found others. A file each, apart from the ledger, since a ledger
// can be fetched from others.
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { z } from 'zod'
import { hex, unhex } from '../protocols/bytes.js'
import { MeshError } from '../protocols/error.js'
import { parseOrNothing, SmallFile } from './store/files.js'

/**
 * Reads a 32-byte seed, making a new one where there is none.
 * @throws MeshError `key-damaged`
 */
export async function loadOrMakeSeed(dir: string, name: string): Promise<Uint8Array> {
  return (await loadSeed(dir, name)) ?? (await saveSeed(dir, name, new Uint8Array(randomBytes(32))))
}

/** Reads a seed, or undefined where there is none. @throws MeshError `key-damaged` */
export async function loadSeed(dir: string, name: string): Promise<Uint8Array | undefined> {
  const file = seedFile(dir, name)
  const text = await file.read()
  if (text === undefined) return undefined
  if (!/^[0-9a-f]{64}\s*$/.test(text)) {
    throw new MeshError('key-damaged', `${file.path} holds no key (64 hexadecimal digits); restore it from a backup`)
  }
  return unhex(text.trim())
}

/** Writes a seed so that a power cut leaves the whole file or none. */
export async function saveSeed(dir: string, name: string, seed: Uint8Array): Promise<Uint8Array> {
  await seedFile(dir, name).write(`${hex(seed)}\n`)
  return seed
}

export const removeSeed = (dir: string, name: string): Promise<void> => seedFile(dir, name).remove()

const seedFile = (dir: string, name: string): SmallFile => new SmallFile(join(dir, `${name}.key`))

/** How often an AP has started. A number is on disk before it is used, so that no two lives of the AP share one. */
export class BootCounter {
  private constructor(
    private readonly file: SmallFile,
    private counted: number,
  ) {}

  /** @throws MeshError `data-damaged` */
  static async load(data: string): Promise<BootCounter> {
    const file = new SmallFile(join(data, 'boot'))
    const text = (await file.read()) ?? '0'
    if (!/^\d{1,15}\s*$/.test(text)) {
      throw new MeshError(
        'data-damaged',
        `${file.path} holds no number; write one into it that is higher than the boot "dropmesh inspect" shows of this AP elsewhere`,
      )
    }
    return new BootCounter(file, Number(text))
  }

  get last(): number {
    return this.counted
  }

  /** Counts one on, or up to `to` where that is higher. What it returns may be used. */
  async raise(to = this.counted + 1): Promise<number> {
    this.counted = Math.max(this.counted, to)
    const raised = this.counted
    await this.file.write(`${raised}\n`)
    return raised
  }
}

const peers = z.record(z.string(), z.array(z.string()))

/** Addresses of others by AP id, as this AP last knew them. Without any it may not find the mesh again. */
export class KnownPeers {
  private readonly file: SmallFile

  constructor(data: string) {
    this.file = new SmallFile(join(data, 'peers'))
  }

  /** None where there is no file, or a damaged one: others may find this AP. */
  async load(): Promise<Record<string, string[]>> {
    return peers.safeParse(parseOrNothing(await this.file.read())).data ?? {}
  }

  save(peers: Record<string, string[]>): Promise<void> {
    return this.file.write(`${JSON.stringify(peers)}\n`)
  }
}
