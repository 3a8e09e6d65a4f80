// Publisher keys: one file each in the user's own data folder, mode 0600. A key never leaves this folder.
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { userDataDir } from '../node/config.js'
import { loadOrMakeSeed, loadSeed } from '../node/identity.js'
import { hex } from '../protocols/bytes.js'
import { MeshError } from '../protocols/error.js'
import { personSigner, type Signer } from '../protocols/keys.js'

const dir = (): string => join(userDataDir(process.env), 'keys')

export interface PublisherKey {
  name: string
  /** Hex; what the mesh knows this publisher by. */
  publisher: string
  path: string
}

function checked(name: string): string {
  if (!/^[\w-]{1,63}$/.test(name))
    throw new MeshError('key-name', `"${name}": a key's name has letters, digits, "_" and "-"`)
  return name
}

const described = (name: string, seed: Uint8Array): PublisherKey => ({
  name,
  publisher: hex(personSigner(seed).publicKey),
  path: join(dir(), `${name}.key`),
})

/** @throws MeshError `key-exists` */
export async function newKey(name: string): Promise<PublisherKey> {
  if ((await loadSeed(dir(), checked(name))) !== undefined) {
    throw new MeshError('key-exists', `there is a key "${name}" already; see "dropmesh keys ls"`)
  }
  return described(name, await loadOrMakeSeed(dir(), name))
}

/** @throws MeshError `no-key` */
export async function showKey(name: string): Promise<PublisherKey> {
  return described(name, await seedOf(name))
}

export async function listKeys(): Promise<PublisherKey[]> {
  const files = await readdir(dir()).catch(() => [])
  const names = files.filter((file) => file.endsWith('.key')).map((file) => file.slice(0, -4))
  return Promise.all(names.sort().map(showKey))
}

/** What a key is called that is meant where none is named. */
export const DEFAULT_KEY = 'default'

/** The signer of a named key, or of the default or only one there is. @throws MeshError `no-key`, `which-key` */
export async function signerOf(name: string | undefined): Promise<Signer> {
  if (name !== undefined) return personSigner(await seedOf(name))
  const keys = await listKeys()
  if (keys.length === 0)
    throw new MeshError('no-key', 'you have no publisher key yet; make one with "dropmesh keys new NAME"')
  const own = keys.length === 1 ? keys[0] : keys.find((key) => key.name === DEFAULT_KEY)
  if (own === undefined) {
    throw new MeshError(
      'which-key',
      `you have several keys; say which one with --key: ${keys.map((key) => key.name).join(', ')}`,
    )
  }
  return personSigner(await seedOf(own.name))
}

async function seedOf(name: string): Promise<Uint8Array> {
  const seed = await loadSeed(dir(), checked(name))
  if (seed === undefined) throw new MeshError('no-key', `there is no key "${name}"; see "dropmesh keys ls"`)
  return seed
}
