// The secrets of an AP, in DIR/keys: its own key, and on the AP that founded a mesh the key of the mesh.
import { randomBytes } from 'node:crypto'
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { hex, unhex } from '../protocols/bytes.js'
import { MeshError } from '../protocols/error.js'

/**
 * Reads a 32-byte seed, making a new one where there is none.
 * @throws MeshError `key-damaged`
 */
export async function loadOrMakeSeed(dir: string, name: string): Promise<Uint8Array> {
  return (await loadSeed(dir, name)) ?? (await saveSeed(dir, name, new Uint8Array(randomBytes(32))))
}

/** Reads a seed, or undefined where there is none. @throws MeshError `key-damaged` */
export async function loadSeed(dir: string, name: string): Promise<Uint8Array | undefined> {
  const path = seedPath(dir, name)
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
  if (!/^[0-9a-f]{64}\s*$/.test(text)) {
    throw new MeshError('key-damaged', `${path} holds no key (64 hexadecimal digits); restore it from a backup`)
  }
  return unhex(text.trim())
}

/** Writes a seed so that a power cut leaves the whole file or none. */
export async function saveSeed(dir: string, name: string, seed: Uint8Array): Promise<Uint8Array> {
  const path = seedPath(dir, name)
  await mkdir(dirname(path), { recursive: true, mode: 0o700 })
  await rm(`${path}.new`, { force: true }) // one that a power cut left would keep its mode, whatever that is
  const file = await open(`${path}.new`, 'wx', 0o600)
  try {
    await file.writeFile(`${hex(seed)}\n`)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(`${path}.new`, path)
  const folder = await open(dirname(path), 'r')
  try {
    await folder.sync() // or the new name may be lost, and with it who this AP is
  } finally {
    await folder.close()
  }
  return seed
}

const seedPath = (dir: string, name: string): string => join(dir, `${name}.key`)
