// Publisher keys: one file each in the user's own data folder, mode 0600, or a key that the user has for SSH.
import { readdir } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { userDataDir } from '../node/config.js'
import { loadOrMakeSeed, loadSeed, saveSeed } from '../node/identity.js'
import { equalBytes, hex } from '../protocols/bytes.js'
import { MeshError } from '../protocols/error.js'
import { personSigner } from '../protocols/keys.js'
import { AGENT, sshPublicKey, sshSigner } from './ssh.js'

/** Signs with a key of this user, which may be in an agent that is asked and takes its time. */
export interface UserSigner {
  readonly publicKey: Uint8Array
  sign(message: Uint8Array): Uint8Array | Promise<Uint8Array>
}

const dir = (): string => join(userDataDir(process.env), 'keys')
const NAME = /^[\w-]{1,63}$/
const isSsh = (key: string): boolean => key === AGENT || !NAME.test(key)

export interface PublisherKey {
  name: string
  /** Hex; what the mesh knows this publisher by. */
  publisher: string
  path: string
}

function checked(name: string): string {
  if (!NAME.test(name) || name === AGENT)
    throw new MeshError('key-name', `"${name}": a key's name has letters, digits, "_" and "-", and is not ${AGENT}`)
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

/** @param name of a key, or the file of an SSH key, or `agent`. @throws MeshError `no-key`, and those of `sshPublicKey` */
export async function showKey(name: string): Promise<PublisherKey> {
  if (isSsh(name)) return { name, publisher: hex(await sshPublicKey(name)), path: name }
  return described(name, await seedOf(name))
}

export async function listKeys(): Promise<PublisherKey[]> {
  const files = await readdir(dir()).catch(() => [])
  const names = files.filter((file) => file.endsWith('.key')).map((file) => file.slice(0, -4))
  return Promise.all(names.sort().map(showKey))
}

/** What a key is called that is meant where none is named. */
export const DEFAULT_KEY = 'default'

/**
 * The signer of a key, or of the default or only named one there is. `key` is a name, the file of an SSH key, `agent`, or the
 * file of a key of dropmesh, as `DIR/keys/mesh.key` is on the AP that founded a mesh.
 * @throws MeshError `no-key`, `which-key`, and those of `sshSigner`
 */
export async function signerOf(key: string | undefined): Promise<UserSigner> {
  if (key?.endsWith('.key')) return signerOfFile(key)
  if (key !== undefined && isSsh(key)) return sshSigner(key)
  return personSigner((await secretOf(key)).seed)
}

async function signerOfFile(path: string): Promise<UserSigner> {
  const seed = await loadSeed(dirname(path), basename(path, '.key'))
  if (seed === undefined) throw new MeshError('no-key', `there is no key ${path}`)
  return personSigner(seed)
}

/** A named key, or the default or only one there is, with its secret. @throws MeshError `no-key`, `which-key` */
export async function secretOf(name: string | undefined): Promise<{ name: string; seed: Uint8Array }> {
  if (name !== undefined) return { name, seed: await seedOf(name) }
  const keys = await listKeys()
  if (keys.length === 0)
    throw new MeshError(
      'no-key',
      'you have no key yet: make one with "dropmesh keys new NAME", or name an SSH key with --key',
    )
  const own = keys.length === 1 ? keys[0] : keys.find((key) => key.name === DEFAULT_KEY)
  if (own === undefined) {
    throw new MeshError(
      'which-key',
      `you have several keys; say which one with --key: ${keys.map((key) => key.name).join(', ')}`,
    )
  }
  return { name: own.name, seed: await seedOf(own.name) }
}

/** Keeps a key that was made elsewhere. @throws MeshError `key-exists` where another one has that name */
export async function keepKey(name: string, seed: Uint8Array): Promise<PublisherKey> {
  const present = await loadSeed(dir(), checked(name))
  if (present !== undefined && !equalBytes(present, seed))
    throw new MeshError('key-exists', `there is another key "${name}" already; choose a name with --name`)
  return described(name, await saveSeed(dir(), name, seed))
}

async function seedOf(name: string): Promise<Uint8Array> {
  const seed = await loadSeed(dir(), checked(name))
  if (seed === undefined)
    throw new MeshError('no-key', `there is no key "${name}"; see "dropmesh keys ls", or name a file as ./${name}`)
  return seed
}
