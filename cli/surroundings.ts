// What a manifest is read with where it is published: the environment of the command, the `.env` beside it, and files of
// its own folder. A manifest may be a stranger's, who must not get other files so, whichever way links lead.
import { readFileSync, realpathSync, statSync } from 'node:fs'
import { join, sep } from 'node:path'
import { readEnv } from '../protocols/compose-env.js'
import type { Lookup } from '../protocols/compose-interpolation.js'
import { ManifestError, type Remark } from '../protocols/compose-remarks.js'
import { MeshError } from '../protocols/error.js'
import type { Circumstances } from '../protocols/manifest.js'

/** Bytes of one file: more than a record can hold many times over. */
const MAX_FILE = 256 * 1024

/**
 * @param folder of the manifest
 * @param taken is told the name of each variable that the manifest has from `environment`
 * @throws ManifestError where `.env` cannot be read
 */
export function surroundingsOf(
  folder: string,
  environment: NodeJS.ProcessEnv,
  taken: (name: string) => void = () => {},
): Required<Pick<Circumstances, 'variables' | 'readFile' | 'kindAt'>> {
  const readFile = (path: string) => readInside(folder, path)
  const own: Lookup = (name) => (Object.hasOwn(environment, name) ? environment[name] : undefined)
  const { lines, problems } = readEnv(readFile('.env') ?? '', own)
  if (problems.length > 0) {
    const file = join(folder, '.env')
    throw new ManifestError(problems.map(({ line, message }): Remark => ({ file, line, column: 1, path: '', message })))
  }
  const beside = new Map(lines.flatMap(({ name, value }) => (value === undefined ? [] : [[name, value] as const])))
  const variables: Lookup = (name) => {
    const value = own(name)
    if (value !== undefined) taken(name)
    return value ?? beside.get(name)
  }
  return { variables, readFile, kindAt: (path) => kindInside(folder, path) }
}

const refused = (path: string, why: string) => new MeshError('manifest', `${path} ${why}`)

/** What `take` makes of a path in a folder, with no links left in it; undefined where nothing is there. */
function inside<T>(folder: string, path: string, take: (real: string) => T): T | undefined {
  try {
    const home = realpathSync(folder)
    const real = realpathSync(join(folder, path))
    if (real !== home && !real.startsWith(home.endsWith(sep) ? home : home + sep))
      throw refused(path, 'leads out of the folder of the manifest')
    return take(real)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    throw error instanceof MeshError ? error : refused(path, `cannot be read: ${code}`)
  }
}

function kindInside(folder: string, path: string): 'file' | 'folder' | undefined {
  const stats = inside(folder, path, (real) => statSync(real))
  return stats?.isDirectory() ? 'folder' : stats?.isFile() ? 'file' : undefined
}

/** The text of a file in a folder; undefined where there is none. */
function readInside(folder: string, path: string): string | undefined {
  const bytes = inside(folder, path, (real) => readFileSync(real))
  if (bytes === undefined) return undefined
  if (bytes.length > MAX_FILE) throw refused(path, `has more than ${MAX_FILE / 1024} KiB`)
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw refused(path, 'is not text: put it into the image')
  }
}
