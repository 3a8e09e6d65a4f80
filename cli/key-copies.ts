// Copies of secret keys in files that a passphrase locks: a publisher's, and the owner key of a mesh, which need not stay on
// any AP.
import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { loadBelonging } from '../node/belonging.js'
import { loadSeed, removeSeed, saveSeed } from '../node/identity.js'
import { SmallFile } from '../node/store/files.js'
import { equalBytes, hex, unhex } from '../protocols/bytes.js'
import { MeshError, messageOf } from '../protocols/error.js'
import { personSigner } from '../protocols/keys.js'
import { meshIdOf, meshText } from '../protocols/membership.js'
import { type LockedKey, lock, readLocked, unlock } from './key-file.js'
import { keepKey, secretOf } from './keys.js'
import { dataDir, type NodeOptions } from './options.js'
import { print, printJson, say } from './output.js'
import { confirm, newPassphrase, withPassphrase } from './passphrase.js'

/** The name of the mesh's owner key on an AP. */
const MESH = 'mesh'

const describe = ({ kind, name }: Pick<LockedKey, 'kind' | 'name'>): string =>
  kind === 'mesh' ? `the owner key of mesh ${name}` : `publisher key ${name}`

/** @throws MeshError `usage`, `exists`, `no-key`, `no-mesh-key`, and those of a passphrase */
export async function exportKey(
  file: string,
  options: NodeOptions & { key?: string; mesh?: boolean; remove?: boolean; yes?: boolean },
): Promise<void> {
  if (options.mesh ? options.key !== undefined : options.remove)
    throw new MeshError('usage', 'name a key with --key, or say --mesh; --remove goes with --mesh alone')
  if ((await stat(file).catch(() => undefined)) !== undefined)
    throw new MeshError('exists', `${file} exists already, and may be the last copy of a key; choose another name`)
  const keys = join(dataDir(options), 'keys')
  const kind = options.mesh ? 'mesh' : 'publisher'
  const { name, seed } = options.mesh ? await meshSecret(keys) : await secretOf(options.key)
  const what = describe({ kind, name })
  if (options.remove) {
    say(
      `From now on ${what} will be in ${file} alone, and no AP has it. Admins go on inviting and forgetting APs without it.`,
    )
    say('Whoever loses the file or its passphrase can never get the key back: keep two copies, off the APs.')
    if (!options.yes) await confirm('Remove it from this AP?')
  }
  const passphrase = await newPassphrase(file)
  await new SmallFile(file).write(lock(kind, name, seed, passphrase))
  if (options.remove) {
    const copied = unlock(await locked(file), passphrase, file)
    if (copied === undefined || !equalBytes(copied, seed))
      throw new MeshError('key-file', `${file} does not hold what was written; the key stays on this AP`)
    await removeSeed(keys, MESH)
  }
  const removed = options.remove === true
  if (options.json) printJson({ file, kind, name, public: hex(personSigner(seed).publicKey), removed })
  else print(`${what} is in ${file}, locked with the passphrase${removed ? ', and no longer on this AP' : ''}`)
}

/** @throws MeshError `key-file`, `key-exists`, `other-mesh`, `no-mesh`, and those of a passphrase */
export async function importKey(file: string, options: NodeOptions & { name?: string; mesh?: boolean }): Promise<void> {
  const key = await locked(file)
  const what = describe(key)
  if ((key.kind === 'mesh') !== (options.mesh === true)) {
    const instead = options.mesh ? 'leave out --mesh' : 'say --mesh, on the AP that is to have it'
    throw new MeshError('key-file', `${file} holds ${what}: ${instead}`)
  }
  if (options.mesh) await mustBeIn(key, dataDir(options))
  const seed = await withPassphrase(file, (passphrase) => unlock(key, passphrase, file))
  const name = options.name ?? key.name
  if (options.mesh) await saveSeed(join(dataDir(options), 'keys'), MESH, seed)
  else await keepKey(name, seed)
  if (options.json) printJson({ file, kind: key.kind, name, public: key.public })
  else print(options.mesh ? `${what} is on this AP` : `${describe({ ...key, name })} is yours here`)
}

async function locked(file: string): Promise<LockedKey> {
  const text = await readFile(file, 'utf8').catch((cause) => {
    throw new MeshError('key-file', `${file} cannot be read: ${messageOf(cause)}`, { cause })
  })
  return readLocked(text, file)
}

async function meshSecret(keys: string): Promise<{ name: string; seed: Uint8Array }> {
  const seed = await loadSeed(keys, MESH)
  if (seed !== undefined) return { name: meshText(meshIdOf(personSigner(seed).publicKey)), seed }
  throw new MeshError(
    'no-mesh-key',
    `there is no mesh key in ${keys}: it is on the AP that founded the mesh, or in a file it was exported to`,
  )
}

// An AP of no mesh would found this one anew with it, beside the one that there is.
async function mustBeIn(key: LockedKey, data: string): Promise<void> {
  const belonging = await loadBelonging(data)
  if (belonging === undefined)
    throw new MeshError('no-mesh', `${data} is no AP of a mesh; let it join mesh ${key.name} with a ticket first`)
  if (belonging.meshKey === key.public) return
  const mesh = meshText(meshIdOf(unhex(belonging.meshKey)))
  throw new MeshError('other-mesh', `${data} belongs to mesh ${mesh}, not to ${key.name}, whose key this is`)
}
