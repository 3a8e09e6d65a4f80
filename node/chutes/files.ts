// The files that containers see of their AP, secrets and configs: put where they read them, in memory and nowhere else.
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { hasFiles } from '../../protocols/deployment.js'
import { MeshError } from '../../protocols/error.js'
import type { ContainerState, InstancePlan } from './engine.js'

/** File systems that may be in memory alone: the first one that is gets the folder `dropmesh`. */
const PLACES = ['/run', '/dev/shm']
/** TMPFS_MAGIC of linux/magic.h. */
const TMPFS = 0x01021994

/** The folder with the configs of a service, each under its number; no service has a dot in its name. */
export const configFolder = (service: string): string => `${service}.configs`

export interface FilesOptions {
  /** AP id. */
  readonly self: string
  /** The value of a secret of a chute, which is named by hex of its key. @throws MeshError */
  readonly secretOf: (chuteKey: string, name: string) => Uint8Array
  readonly places?: readonly string[]
}

export class Files {
  /** Those of all APs of this machine are in it; undefined where there is no memory to put them in. */
  private readonly folder: string | undefined

  constructor(private readonly options: FilesOptions) {
    const place = (options.places ?? PLACES).find(isInMemory)
    this.folder = place && join(place, 'dropmesh')
  }

  /**
   * Puts the files of an instance where its containers find them, and leaves what is there already.
   * @returns a folder with one for each service that has secrets, and one for each that has configs; undefined where none has
   * @throws MeshError `no-secret`, `no-config`, `no-tmpfs`
   */
  place({ key, generation, chuteKey, spec }: InstancePlan): string | undefined {
    if (!hasFiles(spec)) return undefined
    const names = spec.services.flatMap(({ secrets = [] }) => secrets.map(({ name }) => name))
    const values = new Map(names.map((name) => [name, this.options.secretOf(chuteKey, name)]))
    const configs = new Map((spec.configs ?? []).map(({ name, content }) => [name, Buffer.from(content)]))
    const folder = join(this.home(), key, generation)
    for (const service of spec.services) {
      const { name, secrets = [] } = service
      for (const secret of secrets) putFile(join(folder, name), secret.file, secret, values.get(secret.name)!)
      for (const [i, file] of (service.configs ?? []).entries()) {
        const content = configs.get(file.config)
        if (content === undefined)
          throw new MeshError('no-config', `service ${name} has config ${file.config}, which its chute does not have`)
        putFile(join(folder, configFolder(name)), String(i), file, content)
      }
    }
    return folder
  }

  /** Removes what no container uses any more. Call it with all containers there are. */
  see(actual: ReadonlyMap<string, readonly ContainerState[]>, isBusy: (key: string) => boolean): void {
    if (this.folder === undefined || !isOwn(this.folder)) return
    const home = join(this.folder, this.options.self)
    for (const key of listed(home)) {
      if (isBusy(key)) continue
      const used = new Set(actual.get(key)?.map(({ generation }) => generation))
      if (used.size === 0) rmSync(join(home, key), { recursive: true, force: true })
      else
        for (const generation of listed(join(home, key)))
          if (!used.has(generation)) rmSync(join(home, key, generation), { recursive: true, force: true })
    }
  }

  /** This AP's folder, which nobody but its user can enter. @throws MeshError `no-tmpfs` */
  private home(): string {
    const { folder } = this
    if (folder === undefined) {
      const places = (this.options.places ?? PLACES).join(' nor ')
      throw new MeshError(
        'no-tmpfs',
        `neither ${places} is a tmpfs on this AP, and a secret is never written to a disk: mount a tmpfs on /run`,
      )
    }
    mkdirSync(folder, { recursive: true, mode: 0o700 })
    if (isOwn(folder)) return join(folder, this.options.self)
    throw new MeshError('no-tmpfs', `${folder} is another user's, or open to others: remove it`)
  }
}

/** In a place where everyone may make folders, somebody may have made this one, or a link to another. */
function isOwn(folder: string): boolean {
  const found = lstatSync(folder, { throwIfNoEntry: false })
  return (found?.isDirectory() ?? false) && found!.uid === process.getuid?.() && (found!.mode & 0o077) === 0
}

function isInMemory(place: string): boolean {
  try {
    return statfsSync(place).type === TMPFS
  } catch {
    return false
  }
}

const listed = (folder: string): string[] => (existsSync(folder) ? readdirSync(folder) : [])

/** Whole or not at all, under its name. */
function putFile(
  folder: string,
  file: string,
  { uid = 0, gid = 0, mode }: { uid?: number; gid?: number; mode: number },
  value: Uint8Array,
): void {
  const path = join(folder, file)
  if (existsSync(path)) return
  mkdirSync(folder, { recursive: true, mode: 0o755 })
  const unfinished = join(dirname(folder), '.new')
  rmSync(unfinished, { force: true })
  writeFileSync(unfinished, value, { mode: 0o600, flag: 'wx' })
  chownSync(unfinished, uid, gid)
  chmodSync(unfinished, mode)
  renameSync(unfinished, path)
}
