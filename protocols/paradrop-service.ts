// What a service of a paradrop.yaml, in either form of it, would be in a compose.yaml: its image or build, user, ports and
// /data.
import {
  attempt,
  defined,
  type Fields,
  type fields,
  list,
  type Placed,
  placed,
  text,
  type Value,
} from './compose-reader.js'
import type { ReadService } from './compose-service.js'
import * as compose from './compose-values.js'
import { MeshError } from './error.js'
import type { Circumstances } from './manifest.js'
import * as light from './paradrop-light.js'
import * as parts from './paradrop-parts.js'

/** Of PARADROP_DATA_DIR, in every chute. */
export const DATA_AT = '/data'

export interface ParadropCircumstances extends Omit<Circumstances, 'variables' | 'profiles'> {
  /** What light chutes are built on, by what they use, where it is not the default. */
  lightBases?: Readonly<Record<string, string>>
  /** Whether the manifest's folder has more than it: then these are the sources, wherever else they may be as well. */
  hasSources?: boolean
}

/** Of `x-dropmesh`. */
export const EXTRAS = {
  /** The image that a light service is built on. */
  base: placed(text(compose.imageReference)),
  // What ParaDrop gave to every chute.
  cap_add: list(placed(text(compose.capability))),
  read_only: placed(parts.flag),
}

/** A service in either form. */
export interface Said {
  name: string
  at: Value
  type: Placed<'light' | 'normal' | 'image'> | undefined
  /** The language of a light one, the image of an `image`. */
  image: Placed<string> | undefined
  command: Placed<string[]> | undefined
  environment: Record<string, string> | undefined
  source: Placed<parts.Source> | undefined
  dockerfile: Placed<string> | undefined
  build: Fields<typeof parts.BUILD> | undefined
  dns: Placed<string>[] | undefined
  requests: Fields<typeof parts.REQUESTS>
  asRoot: boolean
  extras: Fields<ReturnType<typeof fields<typeof EXTRAS>>>
}

/**
 * @param from where the sources of the chute are, if it says so
 * @param volume what is at /data
 */
export function serviceOf(
  said: Said,
  from: Placed<parts.Source> | undefined,
  volume: string,
  circumstances: ParadropCircumstances,
): ReadService {
  const { at, type, extras, requests } = said
  const isLight = type?.is === 'light'
  const user = said.asRoot ? light.ROOT : isLight ? light.LIGHT_USER : undefined
  const made = type?.is === 'image' ? imageOf(said) : buildOf(said, from, user ?? light.ROOT, circumstances)
  if (extras?.base && !isLight) extras.base.at.refuse('is what a light chute is built on, and this one is none')
  return {
    ...defined({ command: said.command?.is, ...made }),
    ...defined({
      environment: said.environment,
      dns: said.dns,
      cap_add: extras?.cap_add,
      read_only: extras?.read_only,
    }),
    ...(user !== undefined && { user: `${user}:${user}` }),
    ports: [...(requests['port-bindings'] ?? []), ...(requests.port_bindings ?? [])],
    volumes: [{ at, is: { volume, path: DATA_AT, readOnly: false } }],
    ...(user === light.LIGHT_USER && { tmpfs: [{ at, is: compose.tmpfs(light.HOME) }] }),
  }
}

function imageOf({ at, image, source, dockerfile }: Said): Pick<ReadService, 'image'> {
  if (image === undefined) at.refuse('needs an image')
  for (const one of [source, dockerfile]) one?.at.note('ignored: nothing is built of an image')
  return defined({ image: image && attempt(image.at, image.is, compose.imageReference) })
}

/** What is built, and how: `image` where it is not light. */
function buildOf(
  said: Said,
  from: Placed<parts.Source> | undefined,
  user: number,
  circumstances: ParadropCircumstances,
): Pick<ReadService, 'build' | 'command'> {
  const { at, type, image, dockerfile } = said
  const where = contextOf(said.source, from, circumstances.hasSources ?? false)
  const built = (is: NonNullable<ReadService['build']>['is']) => ({ build: { at: (said.source ?? said).at, is } })
  const build = { context: where.context }
  if (type?.is !== 'light') {
    image?.at.note('ignored: what is built has no name but its digest')
    return built({ ...build, ...defined({ dockerfile_inline: dockerfile }) })
  }
  dockerfile?.at.note('ignored: a light chute has none')
  if (image === undefined) at.refuse('needs to say what it uses, such as python3')
  if (said.command === undefined) at.refuse('needs a command')
  const use = image && attempt(image.at, image.is, light.lightUse)
  if (image === undefined || use === undefined) return built(build)
  const base = baseOf(said, use, circumstances)
  const readFile = (name: string) => (where.folder === undefined ? undefined : peek(at, `${where.folder}/${name}`))
  for (const { languages, file, asks, where: place } of light.SUPPLIES) {
    if (languages.includes(light.languageOf(use)) && asks.test(readFile(file) ?? ''))
      image.at.note(`no build has a network: what ${file} asks for comes from ${place}`)
  }
  const inline = { at: image.at, is: light.lightDockerfile(use, base, user) }
  return {
    ...built({ ...build, dockerfile_inline: inline }),
    ...defined({ command: light.isBareNode(base) ? bareCommand(said.command, readFile('package.json')) : undefined }),
  }
}

function baseOf({ build, extras }: Said, use: string, { lightBases = {} }: ParadropCircumstances): string {
  const { image_source: name, image_version: tag } = build ?? {}
  const said = name === undefined ? undefined : tag === undefined ? name : `${name}:${tag}`
  return extras?.base?.is ?? said ?? light.baseOf(use, lightBases)
}

/** A command on dropmesh/node, which has Node.js and nothing beside it. */
function bareCommand(command: Placed<string[]> | undefined, packageJson: string | undefined): string[] | undefined {
  if (command === undefined) return undefined
  const start = light.npmStart(command.is, packageJson)
  const is = start ?? command.is
  if (light.needsTools(is))
    command.at.refuse(
      'needs a shell or npm, which dropmesh/node lacks: write it as ["node", "index.js"], or name a base',
    )
  else if (start) command.at.note(`npm is not there: ${start.join(' ')}, as package.json says`)
  return is
}

/** The text of a file that only hints depend on. */
function peek(at: Value, path: string): string | undefined {
  try {
    return at.reading.session.readFile(path)
  } catch (error) {
    if (error instanceof MeshError) return undefined
    throw error
  }
}

/** What to build from: a folder of the manifest's own, or a git repository, where a folder may be one in it. */
function contextOf(
  own: Placed<parts.Source> | undefined,
  chute: Placed<parts.Source> | undefined,
  hasSources: boolean,
): { context: string; folder?: string } {
  const folder = own && 'folder' in own.is ? own.is.folder : '.'
  const from = own && !('folder' in own.is) ? own : chute
  if (from === undefined || 'folder' in from.is) return { context: folder, folder }
  if (hasSources) {
    from.at.note('ignored: the sources are here, in the folder of the manifest')
    return { context: folder, folder }
  }
  if ('archive' in from.is) {
    from.at.refuse('no archive is fetched, since a node fetches by git alone: unpack it, and publish its folder')
    return { context: folder }
  }
  const { git, ref = '' } = from.is
  const fragment = folder === '.' ? ref : `${ref}:${folder}`
  return { context: fragment === '' ? git : `${git}#${fragment}` }
}
