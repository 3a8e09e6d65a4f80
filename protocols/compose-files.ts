// What a manifest takes from files beside it: services that others extend, included manifests, env files. Files of the
// manifest's own folder alone.
import { readEnv } from './compose-env.js'
import { extended } from './compose-merge.js'
import type { EnvFile } from './compose-parts.js'
import { attempt, open, type Session, type Value } from './compose-reader.js'
import { ManifestError } from './compose-remarks.js'
import { type ReadService, SERVICE } from './compose-service.js'
import { ownPath } from './compose-values.js'

export class Files {
  private readonly manifests = new Map<string, Value | undefined>()

  /** @param file the manifest, as people see it. */
  constructor(
    private readonly session: Session,
    private readonly file: string,
  ) {}

  /** The text of a file; where there is none, that is refused where it is named, or noted. */
  read(at: Value, path: string, isRequired = true): string | undefined {
    let isAnswered = false
    const text = attempt(at, path, () => {
      const is = this.session.readFile(path)
      isAnswered = true
      return is
    })
    if (text !== undefined || !isAnswered) return text
    if (isRequired) at.refuse(`there is no file ${path} in the folder of the manifest`)
    else at.note(`there is no file ${path}, and it need not be there`)
    return undefined
  }

  /** The root of another manifest; a file that cannot be read as one is refused as a whole. */
  manifest(at: Value, path: string, variables = at.reading.variables): Value | undefined {
    if (this.manifests.has(path)) return this.manifests.get(path)
    const text = this.read(at, path)
    // Named as the manifest is: by the path to its folder, and its own below it.
    const shown = this.file.slice(0, this.file.lastIndexOf('/') + 1) + path
    let root: Value | undefined
    try {
      root = text === undefined ? undefined : open(text, shown, this.session, dirname(path), variables)
    } catch (error) {
      if (!(error instanceof ManifestError)) throw error
      for (const problem of error.problems) this.session.remarks.refuse(problem)
    }
    this.manifests.set(path, root)
    return root
  }

  /** A service with all that it extends, the nearest first; undefined where something of it cannot be found. */
  service(at: Value, siblings: ReadonlyMap<string, Value>, heirs: readonly Value[] = []): ReadService | undefined {
    const own = SERVICE(at)
    const base = own?.extends
    if (own === undefined || base === undefined) return own
    const { service: name, file } = base.is
    if (name === undefined) return 'service' in base.is ? undefined : base.at.refuse('needs a service')
    const others = file === undefined ? siblings : servicesOf(this.manifest(base.at, file))
    const parent = others?.get(name)
    if (others === undefined) return undefined
    if (parent === undefined) return base.at.refuse(`there is no service ${name}${file ? ` in ${file}` : ''}`)
    if ([...heirs, at].some((heir) => isSame(heir, parent)))
      return base.at.refuse(`services extend each other: ${[...heirs, at, parent].map(nameOf).join(', ')}`)
    const inherited = this.service(parent, others, [...heirs, at])
    return inherited && extended(inherited, own)
  }

  /** The variables of a service: those of its env files, the later before the earlier, and before these its own. */
  environment({ env_file: files = [], environment = {} }: ReadService): Record<string, string> {
    const all: Record<string, string> = {}
    for (const { at, is } of files) Object.assign(all, this.envFile(at, is))
    return { ...all, ...environment }
  }

  envFile(at: Value, { path: named, required, format }: EnvFile): Record<string, string> {
    const path = attempt(at, named, (text) => ownPath(text, at.reading.folder))
    const text = path === undefined ? undefined : this.read(at, path, required)
    if (text === undefined) return {}
    const { lines, problems } = readEnv(text, at.reading.variables, format)
    for (const { line, message } of problems) at.refuse(`${path}:${line}: ${message}`)
    for (const { line, name, value } of lines)
      if (value === undefined) at.note(`${path}:${line}: ${name} has no value here, and is left out`)
    return Object.fromEntries(lines.flatMap(({ name, value }) => (value === undefined ? [] : [[name, value]])))
  }
}

/** Of a whole manifest that is extended from elsewhere. */
function servicesOf(root: Value | undefined): Map<string, Value> | undefined {
  if (root === undefined) return undefined
  return root.map().get('services')?.map() ?? new Map()
}

const dirname = (path: string): string => path.slice(0, Math.max(0, path.lastIndexOf('/'))) || '.'
const nameOf = ({ path }: Value): string => path.slice(path.lastIndexOf('.') + 1)
const isSame = (a: Value, b: Value): boolean => a.path === b.path && a.reading.file === b.reading.file
