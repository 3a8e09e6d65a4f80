// From a folder with a Dockerfile to an image in the local engine.
import { lstat, readdir, readFile, stat } from 'node:fs/promises'
import { posix, resolve, sep } from 'node:path'
import type { Readable } from 'node:stream'
import dockerignore from '@balena/dockerignore'
import type Docker from 'dockerode'
import { pack } from 'tar-fs'
import { pack as tarPack } from 'tar-stream'
import { MeshError } from '../../protocols/error.js'
import { work } from '../chutes/docker-client.js'
import { EngineError } from '../chutes/engine.js'
import { ensureBaseImage } from './base-image.js'

/** Microseconds over which the kernel counts CPU time: its own default. */
const CPU_PERIOD = 100_000

export interface BuildOptions {
  /** Path of the Dockerfile within the context. */
  dockerfile: string
  /** Values for its ARGs. */
  args: Record<string, string>
  /** `os/architecture`; without it, the engine's own. */
  platform?: string
  /** Whether the Dockerfile builds on dropmesh/node (`usesBaseImage`), so that it has to be there. */
  onBaseImage: boolean
  /** What its steps may take: thousandths of a CPU, bytes. Without it, as much as there is. */
  limits?: { cpu: number; memory: number }
}

/**
 * Builds an image, whose steps have no network: what an image is made of is in its context and its base. A base that
 * the engine does not have it pulls itself, where it can.
 * @param context a tar archive, as `packContext` makes it.
 * @param onOutput gets the engine's words, line by line.
 * @returns the engine's id of the image.
 * @throws MeshError `build-failed` with the engine's reason.
 */
export async function buildImage(
  docker: Docker,
  context: AsyncIterable<Uint8Array>,
  { dockerfile, args, platform, onBaseImage, limits }: BuildOptions,
  onOutput: (line: string) => void = () => {},
): Promise<string> {
  if (onBaseImage) await ensureBaseImage(docker, onOutput)
  let id: string | undefined
  let output = ''
  try {
    await work(
      'build the image',
      context,
      (body, abortSignal) =>
        docker.buildImage(body, {
          dockerfile,
          buildargs: args,
          networkmode: 'none',
          // Containers of steps that failed go as well.
          forcerm: true,
          platform,
          ...(limits && {
            memory: limits.memory,
            memswap: limits.memory,
            cpuperiod: CPU_PERIOD,
            cpuquota: Math.ceil((limits.cpu * CPU_PERIOD) / 1000),
          }),
          abortSignal,
        }),
      ({ stream, status, aux }) => {
        if (aux?.ID !== undefined) id = aux.ID
        const lines = (output + (stream ?? (status === undefined ? '' : `${status}\n`))).split('\n')
        output = lines.pop() ?? ''
        for (const line of lines) if (line.trim() !== '') onOutput(line.trimEnd())
      },
    )
  } catch (error) {
    if (error instanceof EngineError && error.code !== 'no-engine') {
      throw new MeshError('build-failed', error.message, { cause: error })
    }
    throw error
  }
  if (output.trim() !== '') onOutput(output.trimEnd())
  if (id === undefined) throw new MeshError('build-failed', 'cannot build the image: the engine names no result')
  return id
}

/**
 * The files of a folder that .dockerignore leaves in, and the Dockerfile in any case, as a tar archive. Times and owners
 * are fixed, so that a fresh checkout of the same files builds the same layers. Links stay links.
 * @param dockerfile path within the folder.
 * @param inline what the Dockerfile says, where it is no file of the folder: then it has that path in the archive.
 * @throws MeshError `build-context` when folder or Dockerfile is not there.
 */
export async function packContext(dir: string, dockerfile = 'Dockerfile', inline?: string): Promise<Readable> {
  const root = resolve(dir)
  const entries = await contextOf(root, dockerfile, inline)
  const archive = tarPack()
  if (inline !== undefined)
    archive.entry({ name: posix.normalize(dockerfile), mode: 0o644, mtime: new Date(0) }, inline)
  return pack(root, {
    pack: archive,
    entries,
    // The entries are all there is: nothing found inside a folder is added to them.
    ignore: () => true,
    umask: 0,
    map: (header) => ({ ...header, uid: 0, gid: 0, mtime: new Date(0) }),
  } as Parameters<typeof pack>[1]) as unknown as Readable
}

/** How much `packContext` packs: files, links among them, and the bytes that are in them. @throws as it does */
export async function measureContext(
  dir: string,
  dockerfile: string,
  inline?: string,
): Promise<{ files: number; bytes: number }> {
  const root = resolve(dir)
  const measured = { files: 0, bytes: 0 }
  if (inline !== undefined) Object.assign(measured, { files: 1, bytes: Buffer.byteLength(inline) })
  for (const path of await contextOf(root, dockerfile, inline)) {
    const stats = await lstat(resolve(root, path))
    if (stats.isDirectory()) continue
    measured.files++
    if (stats.isFile()) measured.bytes += stats.size
  }
  return measured
}

/** Paths of what is packed of a folder. */
async function contextOf(root: string, dockerfile: string, inline: string | undefined): Promise<string[]> {
  const file = resolve(root, dockerfile)
  const refused = (why: string) => new MeshError('build-context', `cannot build ${root}: ${why}`)
  if (!(await stat(root).catch(() => undefined))?.isDirectory()) throw refused('there is no such folder')
  if (!file.startsWith(root + sep)) throw refused(`the Dockerfile ${file} lies outside of it`)
  if (inline === undefined && !(await stat(file).catch(() => undefined))?.isFile())
    throw refused(`there is no Dockerfile ${file}`)
  const first = posix.normalize(dockerfile)
  const entries = (await filesOf(root)).filter((path) => path !== first)
  return inline === undefined ? [first, ...entries] : entries
}

/** Paths of what .dockerignore leaves in, sorted; sockets and devices are nothing to build from. */
async function filesOf(root: string): Promise<string[]> {
  const patterns = await readFile(resolve(root, '.dockerignore'), 'utf8').catch(() => '')
  const matcher = dockerignore.default({ ignorecase: false }).add(patterns)
  // With an exception somewhere, a folder that is left out may yet have something in it that is not.
  const hasExceptions = /^\s*!/m.test(patterns)
  const paths: string[] = []
  const visit = async (folder: string) => {
    for (const entry of await readdir(resolve(root, folder), { withFileTypes: true })) {
      const path = posix.join(folder, entry.name)
      const ignored = matcher.ignores(path)
      if (!ignored && (entry.isFile() || entry.isDirectory() || entry.isSymbolicLink())) paths.push(path)
      if (entry.isDirectory() && (!ignored || hasExceptions)) await visit(path)
    }
  }
  await visit('')
  return paths.sort()
}
