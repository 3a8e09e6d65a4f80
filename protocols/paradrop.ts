// From the text of ParaDrop's paradrop.yaml to a checked chute, in both of its forms: of one service, whose keys stand at the
// top level or under `config`, and of several. README.md has its keys as a table. What is read becomes what the same words
// in a compose.yaml would become, so that the same checks and rights hold. Pure, like manifest.ts.
import * as checks from './compose-checks.js'
import {
  attempt,
  byKind,
  defined,
  type Fields,
  fields,
  open,
  type Placed,
  placed,
  type Reader,
  Session,
  text,
  textOrNumber,
  type Value,
} from './compose-reader.js'
import type { Services } from './compose-service.js'
import * as compose from './compose-values.js'
import { CHUTE_KEYS, type Manifest, manifestOf } from './manifest.js'
import * as parts from './paradrop-parts.js'
import { DATA_AT, EXTRAS, type ParadropCircumstances, type Said, serviceOf } from './paradrop-service.js'
import { NO_RIGHTS } from './policy.js'

// --- Keys -----------------------------------------------------------------------------------------------------------------

const MULTI = 'where there are services, each says it itself'

const ABOUT = {
  description: 'nothing on an AP shows it',
  version: 'the mesh counts the revisions of a chute, and PARADROP_CHUTE_VERSION is their number',
  owner: 'a chute is of the key that signs it',
  date: 'nothing on an AP reads it',
  state: '"dropmesh stop" and "start" say it',
  resources: 'a service has half a CPU, whoever else is there',
  systemDir: 'there is no such folder: an AP tells a chute nothing about its clients',
}

const HOST_CONFIG = byKind<Fields<typeof parts.REQUESTS>>({ nothing: () => ({}), map: parts.REQUESTS })

const type = placed(text(compose.oneOf('light', 'normal', 'image')))
const dataDir: Reader<undefined> = (value) => {
  const path = text(compose.containerPath)(value)
  return path === undefined || path === DATA_AT ? undefined : value.refuse(`the data of a chute is at ${DATA_AT}`)
}

/** What a chute says in either form. */
const CHUTE = {
  name: placed(text(compose.name)),
  environment: parts.environment,
  web: byKind<Fields<typeof parts.WEB>>({ nothing: () => ({}), map: parts.WEB }),
  source: parts.source,
  dataDir,
}

/** What the one service of a chute says at the top level, or under config. */
const ONLY = {
  type,
  use: placed(text((is) => is)),
  image: placed(text(compose.imageReference)),
  external_image: placed(text(compose.imageReference)),
  command: parts.command,
  as_root: parts.flag,
  'as-root': parts.flag,
  dns: parts.dns,
  net: parts.interfaces,
  host_config: HOST_CONFIG,
  hostconfig: HOST_CONFIG,
  download: parts.source,
  dockerfile: placed(byKind({ text: (value) => value.text() })),
  image_source: text(compose.imageReference),
  image_version: textOrNumber((is) => is),
}
const PACKAGES = { packages: 'no build has a network to fetch packages by: the base must have them' }

const chuteExtras = fields({ ...CHUTE_KEYS, ...EXTRAS, ephemeral: parts.flag })

const config = <T>(read: Reader<T>) => byKind<T>({ nothing: () => ({}) as T, map: read })
const one = { ...CHUTE, ...ONLY }
const ONE_OTHERS = { ignored: { ...ABOUT, ...PACKAGES } }
const ONE = fields({ ...one, config: config(fields(one, ONE_OTHERS)), 'x-dropmesh': chuteExtras }, ONE_OTHERS)

const SEVERAL_OTHERS = {
  ignored: { ...ABOUT, ...PACKAGES, ...Object.fromEntries(Object.keys(ONLY).map((key) => [key, MULTI])) },
}
const services = byKind<Map<string, Value>>({ nothing: () => new Map(), map: (value) => value.map() })
const SEVERAL = fields(
  { ...CHUTE, config: config(fields(CHUTE, SEVERAL_OTHERS)), services, 'x-dropmesh': chuteExtras },
  SEVERAL_OTHERS,
)

const SERVICE = fields({
  type,
  image: placed(text((is) => is)),
  use: placed(text((is) => is)),
  command: parts.command,
  environment: parts.environment,
  source: parts.source,
  build: byKind<Fields<typeof parts.BUILD>>({ nothing: () => ({}), map: parts.BUILD }),
  dns: parts.dns,
  interfaces: parts.interfaces,
  requests: HOST_CONFIG,
  'x-dropmesh': fields(EXTRAS),
})

// --- The chute -------------------------------------------------------------------------------------------------------------

/** Of two places where a chute may say the same. */
function either<T>(top: Placed<T> | undefined, below: Placed<T> | undefined): Placed<T> | undefined {
  if (top && below && JSON.stringify(top.is) !== JSON.stringify(below.is))
    below.at.refuse(`contradicts ${top.at.path} on ${top.at.where(below.at)}: remove one of the two`)
  return top ?? below
}

/**
 * Reads a paradrop.yaml.
 * @param file what errors call it
 * @throws ManifestError, and nothing else, with all that is wrong
 */
export function parseParadrop(text: string, file: string, circumstances: ParadropCircumstances = {}): Manifest {
  // ParaDrop knew no variables: a dollar sign is one.
  const session = new Session(circumstances, false)
  const root = open(text, file, session)
  const isMulti = root.kind === 'map' && root.map().has('services')
  const { chute, said } = isMulti ? severalOf(root) : oneOf(root)
  const read: Services = new Map()
  const volumes: Manifest['volumes'] = []
  for (const service of said) {
    const volume = service.type?.is === 'image' ? `data-${service.name}` : 'data'
    if (!volumes.some(({ name }) => name === volume)) volumes.push({ name: volume, ephemeral: chute.ephemeral })
    read.set(service.name, { at: service.at, is: serviceOf(service, chute.source, volume, circumstances) })
  }
  if (said.length > 0) noteData(root, chute.ephemeral)
  publishWeb(chute.web, read)
  checks.refuseSharedPorts(read)
  return manifestOf(
    {
      root,
      name: chute.name?.is,
      services: read,
      dependencies: new Map(),
      volumes,
      configs: new Map(),
      chute: chute.extras,
    },
    (service) => service.environment ?? {},
    circumstances.rights ?? NO_RIGHTS,
  )
}

/** What is the chute's, in either form. */
interface ChuteSaid {
  name: Placed<string> | undefined
  web: Fields<typeof parts.WEB>
  extras: Fields<typeof chuteExtras> | undefined
  ephemeral: boolean
  source: Placed<parts.Source> | undefined
}

function chuteOf(top: Fields<typeof ONE> | Fields<typeof SEVERAL>): ChuteSaid {
  const { config = {}, web, 'x-dropmesh': extras } = top
  return {
    name: either(top.name, config.name),
    web: {
      ...defined({ service: either(web?.service, config.web?.service), port: either(web?.port, config.web?.port) }),
    },
    extras,
    ephemeral: extras?.ephemeral ?? false,
    source: either(top.source, config.source),
  }
}

function oneOf(root: Value): { chute: ChuteSaid; said: Said[] } {
  const top = ONE(root)
  const chute = chuteOf(top ?? {})
  if (top === undefined) return { chute, said: [] }
  const { config = {} } = top
  const both = [top, config]
  const requests = both.flatMap((part) => [part.host_config ?? [], part.hostconfig ?? []].flat())
  const image = either(either(top.use, config.use), either(top.image, config.image))
  const external = either(top.external_image, config.external_image)
  const dockerfile = either(top.dockerfile, config.dockerfile)
  const ports = requests.flatMap((one) => [...(one['port-bindings'] ?? []), ...(one.port_bindings ?? [])])
  const service: Said = {
    name: 'main',
    at: root,
    type: either(top.type, config.type) ?? (external && { at: external.at, is: 'image' }),
    image: image ?? external,
    command: either(top.command, config.command),
    environment: { ...top.environment, ...config.environment },
    source: either(top.download, config.download),
    dockerfile,
    build: defined({
      image_source: config.image_source ?? top.image_source,
      image_version: config.image_version ?? top.image_version,
    }),
    dns: top.dns ?? config.dns,
    requests: { 'port-bindings': ports },
    asRoot: [...both, ...requests].some((part) => part.as_root ?? part['as-root']),
    extras: top['x-dropmesh'] ?? {},
  }
  return { chute, said: [service] }
}

function severalOf(root: Value): { chute: ChuteSaid; said: Said[] } {
  const top = SEVERAL(root) ?? {}
  const chute = chuteOf(top)
  const { config = {}, services = new Map<string, Value>(), 'x-dropmesh': extras = {} } = top
  if ('services' in top && top.services?.size === 0) root.refuse('has no services')
  const said = [...services].flatMap(([key, at]): Said[] => {
    const name = attempt(at, key, compose.name)
    const read = SERVICE(at)
    if (name === undefined || read === undefined) return []
    const { requests = {}, environment } = read
    return [
      {
        ...{ name, at, type: read.type, image: either(read.image, read.use), command: read.command },
        ...{ dockerfile: undefined, build: read.build, dns: read.dns, requests },
        environment: { ...top.environment, ...config.environment, ...environment },
        source: read.source,
        asRoot: requests['as-root'] ?? requests.as_root ?? false,
        extras: {
          ...defined({
            base: read.type?.is === 'light' ? extras.base : undefined,
            cap_add: extras.cap_add,
            read_only: extras.read_only,
          }),
          ...read['x-dropmesh'],
        },
      },
    ]
  })
  return { chute, said }
}

/** The port of its web pages, at any free port of the AP where none was asked for. */
function publishWeb({ service, port }: ChuteSaid['web'], services: Services): void {
  if (port === undefined) return
  const name = service?.is ?? (services.size === 1 ? [...services.keys()][0]! : 'main')
  const owner = services.get(name)
  if (owner === undefined) {
    // Or there is, and it cannot be read.
    if (port.at.reading.session.remarks.problems.length === 0)
      (service ?? port).at.refuse(`there is no service ${name}`)
    return
  }
  const ports = owner.is.ports ?? []
  if (ports.some(({ is }) => is.container === port.is && is.protocol === 'tcp')) return
  owner.is.ports = [...ports, { at: port.at, is: { container: port.is, protocol: 'tcp' } }]
}

/**
 * ParaDrop keeps /data through updates, so a volume is there, and nobody can see in a manifest whether its chute writes to
 * it. Data that is lost without a word is worse than a chute that waits for its AP, and says so; whoever keeps nothing
 * says that in one line.
 */
const noteData = (root: Value, isEphemeral: boolean): void =>
  root.note(
    isEphemeral
      ? `what is in ${DATA_AT} is lost when the chute moves to another AP`
      : `${DATA_AT} outlives updates, so the chute stays with its AP; x-dropmesh: {ephemeral: true} lets it move without its data`,
  )
