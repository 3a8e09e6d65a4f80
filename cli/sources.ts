// What a chute is published from: a folder with a manifest, a git repository that the node fetches, an image, or an archive of
// one. What is fetched lies in folders that end with the command.
import { rmSync } from 'node:fs'
import { mkdtemp, open, readdir, readFile, realpath, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import type { Status } from '../node/api/queries.js'
import type { Remark } from '../protocols/compose-remarks.js'
import { MeshError } from '../protocols/error.js'
import { folderNameOf, isGitUrl, parseGitUrl, shownUrl } from '../protocols/git-url.js'
import { type Manifest, parseManifest } from '../protocols/manifest.js'
import type { Rights } from '../protocols/policy.js'
import type { Client } from './client.js'
import { type ImageOptions, imageManifest } from './image-alone.js'
import { say } from './output.js'
import { surroundingsOf } from './surroundings.js'
import { unpack } from './unpack.js'

export interface SourceOptions extends ImageOptions {
  image?: string
  profile?: string[]
  dryRun?: boolean
}

export interface Source {
  /** What the chute is called where neither its manifest nor a person says. */
  readonly name: string
  /** What paths of the manifest are relative to. */
  readonly folder: string
  /** A file with the image of its only service, and what that is called there, where a person said. */
  readonly archive?: { file: string; bytes: number; image: string | undefined }
  /** Names of the variables that the manifest has from the environment of the command. */
  readonly taken: ReadonlySet<string>
  /** @throws ManifestError */
  read(rights: Rights): Manifest
}

/** In this order, the first four as Compose looks for them. */
const MANIFESTS = [
  ...['compose.yaml', 'compose.yml', 'docker-compose.yml', 'docker-compose.yaml'],
  ...['paradrop.yaml', 'paradrop.yml'],
]

/** What Compose lays over the manifest of a folder. */
const OVERRIDE = /^(docker-)?compose\.override\.ya?ml$/

/** Compressions that an archive may not have, by its first bytes in hex. */
const OTHER_PACKING = /^(425a68|fd377a585a00|28b52ffd)/

export class Sources {
  private readonly scratch: string[] = []
  private readonly fetched = new Map<string, Promise<string>>()
  private readonly onSignal = (signal: NodeJS.Signals) => {
    this.close()
    process.kill(process.pid, signal)
  }

  constructor(private readonly client: Client) {}

  /**
   * @param path as a person writes it; undefined where they named none
   * @throws MeshError `source`, `manifest`; the node's where it cannot fetch a repository
   */
  async open(path: string | undefined, options: SourceOptions): Promise<Source> {
    if (path !== undefined && isGitUrl(path)) return this.repository(path, options)
    if (path === undefined && options.image !== undefined) return alone(options.image, options)
    const found = await fileOf(path ?? '.')
    const { file } = found
    if (await isArchive(file)) {
      const archive = { file, bytes: (await stat(file)).size, image: options.image }
      return { ...alone(options.image ?? nameOfArchive(file), options), archive }
    }
    if (options.image !== undefined) throw notBoth('--image', 'those of a chute stand in its manifest')
    return this.manifest(found, file, process.env, options)
  }

  /** The folder that a service of a manifest is built from; reading that saw to it that the folder is one of its own. */
  async contextOf(folder: string, context: string): Promise<string> {
    return isGitUrl(context) ? this.fetch(context) : resolve(folder, context)
  }

  /** Removes what was fetched. */
  close(): void {
    for (const dir of this.scratch) rmSync(dir, { recursive: true, force: true })
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, this.onSignal)
  }

  private async repository(url: string, options: SourceOptions): Promise<Source> {
    if (options.image !== undefined) throw notBoth('--image', 'those of a chute stand in its manifest')
    const source = parseGitUrl(url)
    const folder = await this.fetch(url)
    const found = await fileOf(folder, shownUrl(url))
    // It is a stranger's as often as not: of the environment here it gets what --env names.
    return { ...(await this.manifest(found, basename(found.file), {}, options)), name: nameOf(folderNameOf(source)) }
  }

  /**
   * @param shown what messages call the file
   * @param environment what variables of the manifest stand for
   */
  private async manifest(
    { file, others }: Found,
    shown: string,
    environment: NodeJS.ProcessEnv,
    options: SourceOptions,
  ): Promise<Source> {
    const { port, volume, env = [] } = options
    if (port !== undefined) throw notBoth('--port', 'those of a chute stand in its manifest')
    if (volume !== undefined) throw notBoth('--volume', 'those of a chute stand in its manifest')
    const text = await readFile(file, 'utf8')
    const folder = dirname(file)
    const taken = new Set<string>()
    const given = { ...environment, ...variablesOf(env) }
    const { variables, ...files } = surroundingsOf(folder, given, (name) => taken.add(name))
    const source = { name: nameOf(basename(dirname(resolve(file)))), folder, taken }
    const besides = others.map((name) => passedOver(join(dirname(shown), name), basename(file)))
    const withThese = (manifest: Manifest): Manifest => ({ ...manifest, notes: [...besides, ...manifest.notes] })
    if (!/^paradrop\b.*\.ya?ml$/.test(basename(file))) {
      const around = { variables, ...files, profiles: profilesOf(options) }
      return { ...source, read: (rights) => withThese(parseManifest(text, shown, { ...around, rights })) }
    }
    if (options.profile) throw new MeshError('profile', `--profile: ${shown} knows no profiles; a compose.yaml does`)
    const { parseParadrop } = await import('../protocols/paradrop.js')
    const [lightBases, beside] = await Promise.all([this.lightBases(options), hasSources(folder, file)])
    const around = { ...files, lightBases, hasSources: beside }
    return { ...source, read: (rights) => withThese(parseParadrop(text, shown, { ...around, rights })) }
  }

  /** What the node builds light chutes on. A dry run needs no node, and then knows the defaults. */
  private async lightBases({ dryRun }: SourceOptions): Promise<Status['lightBases']> {
    try {
      return (await this.client.get<Status>('/v1/status')).lightBases
    } catch (error) {
      if (dryRun && error instanceof MeshError && error.code === 'no-node') return {}
      throw error
    }
  }

  private fetch(url: string): Promise<string> {
    const known = this.fetched.get(url) ?? this.fetchNow(url)
    this.fetched.set(url, known)
    return known
  }

  private async fetchNow(url: string): Promise<string> {
    parseGitUrl(url)
    const dir = await this.makeFolder()
    say(`fetching ${shownUrl(url)}`)
    const left = await unpack(
      this.client.source(url, (line) => say(`  git | ${line}`)),
      dir,
    )
    for (const link of left) say(`  git | ${JSON.stringify(link)} is a link out of the folder, and is left out`)
    return dir
  }

  private async makeFolder(): Promise<string> {
    if (this.scratch.length === 0)
      for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, this.onSignal)
    const dir = await mkdtemp(join(await realpath(tmpdir()), 'dropmesh-'))
    this.scratch.push(dir)
    return dir
  }
}

const notBoth = (flag: string, why: string) => new MeshError('source', `${flag} is for an image alone: ${why}`)

/** A chute of an image that the node finds by this name. */
function alone(image: string, options: SourceOptions): Source {
  const taken = new Set<string>()
  const variables = (name: string) => {
    const value = process.env[name]
    if (value !== undefined) taken.add(name)
    return value
  }
  const profiles = profilesOf(options)
  // Without registry, tag and digest.
  const name = nameOf(
    image
      .replace(/@.*$/, '')
      .replace(/:[^/]*$/, '')
      .split('/')
      .at(-1)!,
  )
  return { name, folder: '.', taken, read: (rights) => imageManifest(image, options, { variables, profiles, rights }) }
}

const profilesOf = ({ profile }: SourceOptions): string[] =>
  profile ?? (process.env.COMPOSE_PROFILES ?? '').split(',').filter((one) => one !== '')

/** `K=V`, or `K` for what it is here. */
function variablesOf(env: readonly string[]): Record<string, string> {
  const pairs = env.map((text) => {
    const at = text.indexOf('=')
    return at < 0 ? [text, process.env[text]] : [text.slice(0, at), text.slice(at + 1)]
  })
  return Object.fromEntries(pairs.filter(([, value]) => value !== undefined))
}

/** What a thing is called, as the name of a chute, as far as that is possible. */
const nameOf = (text: string): string =>
  text
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .slice(0, 63)
    .replace(/^-|-$/g, '')

/** Whether there is something to build from beside a manifest, and what stands beside any. */
async function hasSources(folder: string, file: string): Promise<boolean> {
  const names = await readdir(folder)
  return names.some((name) => name !== basename(file) && !/^(\.|readme|licen[cs]e)/i.test(name))
}

/** What a person named, or found in the folder that they named. */
interface Found {
  file: string
  /** Names of what may be meant for a manifest as well, in the same folder. */
  others: string[]
}

async function fileOf(path: string, shown = path): Promise<Found> {
  const found = await stat(path).catch(() => undefined)
  if (found === undefined)
    throw new MeshError('source', `${shown} does not exist; name a folder with a compose.yaml or paradrop.yaml`)
  if (found.isFile()) return { file: path, others: [] }
  const entries = await readdir(path, { withFileTypes: true })
  const names = entries.filter((entry) => !entry.isDirectory()).map((entry) => entry.name)
  const [name, ...others] = MANIFESTS.filter((one) => names.includes(one))
  if (name !== undefined) {
    const overrides = names.filter((one) => OVERRIDE.test(one)).sort()
    return { file: join(path, name), others: [...others, ...overrides] }
  }
  throw new MeshError('source', `${shown} has no compose.yaml and no paradrop.yaml; make a chute with "dropmesh init"`)
}

function passedOver(file: string, counts: string): Remark {
  const why = OVERRIDE.test(basename(file))
    ? `no file is laid over another here; write into ${counts} what is to hold`
    : `${counts} comes before it`
  return { file, line: 1, column: 1, path: '', message: `ignored: ${why}` }
}

/** Of a file `app-1.2.tar.gz`: `app-1.2`. */
const nameOfArchive = (path: string): string =>
  basename(path)
    .replace(/\.(tar|tgz|gz|oci)(\.gz)?$/i, '')
    .replace(/^\W+/, '') || 'image'

/** Whether a file is an archive of an image, by how it begins: a tar, or one in gzip. */
async function isArchive(path: string): Promise<boolean> {
  const file = await open(path)
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(512), 0, 512, 0)
    const head = buffer.subarray(0, bytesRead)
    const magic = head.toString('hex', 0, 6)
    if (OTHER_PACKING.test(magic)) {
      throw new MeshError('source', `${path} is packed in another way than gzip; unpack it, or pack it with gzip`)
    }
    return magic.startsWith('1f8b') || head.toString('latin1', 257, 262) === 'ustar'
  } finally {
    await file.close()
  }
}
