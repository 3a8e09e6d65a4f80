// The base image of chutes in JavaScript: dropmesh/node, made of the Node.js that runs this AP, so that a mesh needs no
// registry to build its first chute. Equal binaries make equal images, whichever AP makes them: the id is a digest of
// what is in it and nothing else.
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { realpath, stat } from 'node:fs/promises'
import { posix } from 'node:path'
import { promisify } from 'node:util'
import type Docker from 'dockerode'
import { hex, sha256 } from '../../protocols/bytes.js'
import { MeshError, messageOf } from '../../protocols/error.js'
import { ask, unless, work } from '../chutes/docker-client.js'
import { type TarFile, type TarFolder, tarOf } from './tar.js'

export const BASE_IMAGE = 'dropmesh/node:latest'

/** Its name by what it is, which is there for as long as the Node.js that it was made of. */
const ownName = (config: Uint8Array): string => `dropmesh/node:${hex(config)}`

/** The user of dropmesh/node, which owns /data and /home/node in it. */
const USER = 1000

const NODE = '/usr/local/bin/node'

/** glibc before 2.34 loads these by name when it looks up a host; `ldd` does not see that. */
const NAME_SERVICE = ['libnss_dns.so.2', 'libnss_files.so.2', 'libresolv.so.2']

const ARCHITECTURES: Partial<Record<NodeJS.Architecture, string>> = { x64: 'amd64', ia32: '386' }

const TEXTS = {
  '/etc/passwd':
    'root:x:0:0:root:/:/sbin/nologin\n' +
    `node:x:${USER}:${USER}:node:/home/node:/sbin/nologin\n` +
    'nobody:x:65534:65534:nobody:/:/sbin/nologin\n',
  '/etc/group': `root:x:0:\nnode:x:${USER}:\nnobody:x:65534:\n`,
  '/etc/nsswitch.conf': 'hosts: files dns\n',
}

/** True when a Dockerfile builds on dropmesh/node. */
export const usesBaseImage = (dockerfile: string): boolean =>
  /^\s*FROM\s+(--\S+\s+)*dropmesh\/node(:latest)?(\s|$)/im.test(dockerfile)

/**
 * Makes sure that the engine has dropmesh/node:latest, of this very Node.js. Costs reading its binary once, and loading
 * about 100 MB where it is not there. There is no shell in it, and no npm.
 * @returns the engine's id of the image.
 * @throws MeshError `base-image` when the libraries of the binary cannot be found.
 */
export async function ensureBaseImage(docker: Docker, log: (line: string) => void = () => {}): Promise<string> {
  const { config, size, archive } = await baseImage()
  const look = async (name: string) =>
    (
      await unless(
        [404],
        ask(`look at image ${name}`, () => docker.getImage(name).inspect()),
      )
    )?.Id
  const held = ownName(config)
  const wanted = await look(held)
  if (wanted === undefined) {
    log(`making ${BASE_IMAGE} of Node.js ${process.version}, ${Math.round(size / 1e6)} MB`)
    await work(`load ${BASE_IMAGE}`, archive(), (body, abortSignal) => docker.loadImage(body, { abortSignal }))
  } else if ((await look(BASE_IMAGE)) !== wanted) {
    const [repo = '', tag] = BASE_IMAGE.split(':')
    await ask(`name ${BASE_IMAGE}`, () => docker.getImage(held).tag({ repo, tag }))
  }
  const id = await look(BASE_IMAGE)
  if (id === undefined) throw new MeshError('base-image', `${BASE_IMAGE} was loaded, and is not there`)
  return id
}

/**
 * The image as it would be made here and now.
 * @returns the digest of its config, its size in bytes, and an archive for `docker load`.
 */
export async function baseImage(): Promise<{
  config: Uint8Array
  size: number
  archive: () => AsyncIterable<Uint8Array>
}> {
  const entries = await layerEntries()
  const hash = createHash('sha256')
  let size = 0
  for await (const chunk of tarOf(layerOf(entries))) {
    hash.update(chunk)
    size += chunk.length
  }
  const document = Buffer.from(JSON.stringify(configOf(hash.digest('hex'))))
  const config = sha256(document)
  const manifest = [{ Config: `${hex(config)}.json`, RepoTags: [BASE_IMAGE, ownName(config)], Layers: ['layer.tar'] }]
  const archive = () =>
    tarOf([
      fileOf(`${hex(config)}.json`, document),
      { name: 'layer.tar', size, body: tarOf(layerOf(entries)) },
      fileOf('manifest.json', Buffer.from(JSON.stringify(manifest))),
    ])
  return { config, size, archive }
}

interface Entry {
  path: string
  /** A file of this machine to copy, a text, or neither for a folder. */
  from?: string
  text?: string
  size?: number
  mode: number
  uid: number
}

/** What is in the image, sorted, so that folders come before what is in them. */
async function layerEntries(): Promise<Entry[]> {
  const files: Entry[] = []
  const add = async (path: string, from: string, mode: number) =>
    files.push({ path, from, size: (await stat(from)).size, mode, uid: 0 })
  await add(NODE, await realpath(process.execPath), 0o755)
  // At the very paths that the loader looks at, however this machine has linked them together.
  for (const library of await librariesOf(process.execPath)) await add(library, await realpath(library), 0o755)
  for (const [path, text] of Object.entries(TEXTS)) files.push({ path, text, mode: 0o644, uid: 0 })

  const folders = new Map<string, Entry>()
  for (const { path } of files) {
    for (let at = posix.dirname(path); at !== '/'; at = posix.dirname(at)) {
      folders.set(at, { path: at, mode: 0o755, uid: 0 })
    }
  }
  folders.set('/tmp', { path: '/tmp', mode: 0o1777, uid: 0 })
  // A volume mounted here takes over the owner, so that the user can write to it.
  for (const path of ['/data', '/home/node']) folders.set(path, { path, mode: 0o755, uid: USER })
  folders.set('/home', { path: '/home', mode: 0o755, uid: 0 })
  return [...folders.values(), ...files].sort((a, b) => (a.path < b.path ? -1 : 1))
}

/** Absolute paths of the shared libraries that a binary needs, its loader among them; none when it is static. */
async function librariesOf(binary: string): Promise<string[]> {
  let output: string
  try {
    output = (await promisify(execFile)('ldd', [binary], { env: { ...process.env, LC_ALL: 'C' } })).stdout
  } catch (error) {
    if (/not a dynamic executable|Not a valid dynamic program/i.test(String((error as { stderr?: string }).stderr))) {
      return []
    }
    throw new MeshError('base-image', `cannot tell which libraries ${binary} needs: ${messageOf(error)}`)
  }
  // "libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x…)", "/lib64/ld-linux-x86-64.so.2 (0x…)"; the kernel's has no path.
  const lines = output.split('\n').map((line) => line.trim())
  const missing = lines.find((line) => line.endsWith('not found'))
  if (missing !== undefined) throw new MeshError('base-image', `${binary} needs a library that is not here: ${missing}`)
  const paths = lines.flatMap((line) => /^(?:\S+ => )?(\/.+?)(?: => \/.+)? \(0x[0-9a-f]+\)$/.exec(line)?.[1] ?? [])
  const libc = paths.find((path) => posix.basename(path) === 'libc.so.6')
  for (const name of libc === undefined ? [] : NAME_SERVICE) {
    const path = posix.join(posix.dirname(libc!), name)
    if (await stat(path).catch(() => undefined)) paths.push(path)
  }
  return [...new Set(paths)]
}

function* layerOf(entries: Entry[]): Generator<TarFile | TarFolder> {
  for (const { path, from, text, size, mode, uid } of entries) {
    const name = path.slice(1)
    if (from !== undefined) yield { name, size: size!, body: createReadStream(from), mode }
    else if (text !== undefined) yield { ...fileOf(name, Buffer.from(text)), mode }
    else yield { name: `${name}/`, folder: true, mode, uid }
  }
}

const fileOf = (name: string, bytes: Buffer): TarFile => ({ name, size: bytes.length, body: [bytes] })

function configOf(diffId: string) {
  const created = '1970-01-01T00:00:00Z'
  return {
    architecture: ARCHITECTURES[process.arch] ?? process.arch,
    // What Node.js builds for 32-bit ARM.
    ...(process.arch === 'arm' && { variant: 'v7' }),
    os: 'linux',
    created,
    config: {
      User: `${USER}:${USER}`,
      Env: ['PATH=/usr/local/bin:/usr/bin:/bin', 'HOME=/home/node', `NODE_VERSION=${process.versions.node}`],
      Cmd: ['node'],
      WorkingDir: '/home/node',
    },
    rootfs: { type: 'layers', diff_ids: [`sha256:${diffId}`] },
    history: [{ created, created_by: 'dropmesh' }],
  }
}
