// Unpacks the files of a chute that come as a tar, into a new folder and nowhere else, whatever the tar says: no file is written
// through a link, and no link that stays leads out of the folder.
import { createWriteStream } from 'node:fs'
import { mkdir, realpath, rm, stat, symlink } from 'node:fs/promises'
import { dirname, join, sep } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { MeshError, messageOf } from '../protocols/error.js'

/** What a node sends at most of a repository. */
const MAX_BYTES = 2 ** 30
const MAX_ENTRIES = 200_000
/** Bytes of attributes of a file: a long name, or where a long link leads. */
const MAX_ATTRIBUTES = 64 * 1024

/**
 * @param dir an empty folder
 * @returns the links that led out of it, and were left out
 * @throws MeshError `source` where the tar is not one of files, folders and links, each once, or is too big, or breaks off
 */
export async function unpack(tar: AsyncIterable<Uint8Array>, dir: string): Promise<string[]> {
  // Loaded only here, since it takes longer to load than most commands run.
  const { entriesOf, plain } = await import('../node/packages/tar.js')
  const links = new Map<string, string>()
  let entries = 0
  let bytes = 0
  try {
    for await (const { header, body } of entriesOf(plain(tar, MAX_ATTRIBUTES))) {
      const path = inside(header.name)
      bytes += header.size
      if (++entries > MAX_ENTRIES || bytes > MAX_BYTES) {
        throw new MeshError(
          'source',
          `what came has more than ${MAX_ENTRIES} files, or than ${MAX_BYTES / 2 ** 20} MiB`,
        )
      }
      if (header.type === 'symlink') links.set(path, header.linkname ?? '')
      else if (header.type === 'directory') await mkdir(join(dir, path), { recursive: true })
      else if (header.type === 'file') {
        await mkdir(dirname(join(dir, path)), { recursive: true })
        const mode = (header.mode ?? 0) & 0o100 ? 0o755 : 0o644
        // As an iteration it fails where the tar does; as a stream of that library it would just never end.
        const content = Readable.from(body, { objectMode: false })
        await pipeline(content, createWriteStream(join(dir, path), { flags: 'wx', mode }))
        continue
      } else throw new MeshError('source', `${JSON.stringify(header.name)} is a ${header.type}, and no file`)
      for await (const _ of body);
    }
    return await makeLinks(links, dir)
  } catch (error) {
    if (error instanceof MeshError) throw error
    throw new MeshError('source', `what came cannot be unpacked: ${messageOf(error)}`, { cause: error })
  }
}

/** A name as a path below the folder. */
function inside(name: string): string {
  const segments = name.split('/').filter((segment) => segment !== '' && segment !== '.')
  if (name.startsWith('/') || name.includes('\0') || segments.includes('..')) {
    throw new MeshError('source', `${JSON.stringify(name.slice(0, 200))} leads out of the folder that it is to be in`)
  }
  return segments.join('/') || '.'
}

/** Once all files are there: what is behind a link is then what it will be. */
async function makeLinks(links: ReadonlyMap<string, string>, dir: string): Promise<string[]> {
  const home = await realpath(dir)
  const isHere = (path: string) => path === home || path.startsWith(home + sep)
  const left: string[] = []
  const made: string[] = []
  // Before there is any link: through one, a folder could be made elsewhere.
  for (const path of links.keys()) await mkdir(dirname(join(home, path)), { recursive: true })
  for (const [path, target] of links) {
    const link = join(home, path)
    if (isHere(join(dirname(link), target)) && !target.startsWith('/')) {
      await symlink(target, link)
      made.push(path)
    } else left.push(path)
  }
  // Through other links it may lead elsewhere than its text says.
  for (const path of made) {
    const link = join(home, path)
    const leads = await realpath(link).catch(() => undefined)
    if (leads !== undefined ? isHere(leads) : await leadsNowhere(link)) continue
    await rm(link, { force: true })
    left.push(path)
  }
  return left
}

/** Whether nothing is behind a link, rather than something that may not be looked at. */
const leadsNowhere = (link: string): Promise<boolean> =>
  stat(link).then(
    () => false,
    (error: NodeJS.ErrnoException) => error.code === 'ENOENT',
  )
