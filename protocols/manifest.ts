// From the text of a compose.yaml to a checked chute (decision 17): the tables of keys here and in compose-service.ts say
// which are accepted and how each is read; any other is refused, or passed over with a note, by its name and line. Keys are
// named as in the Compose specification, https://github.com/compose-spec/compose-spec. Pure: what it needs of files and of
// the environment of who publishes it is handed to it.
import { encode } from './codec.js'
import * as checks from './compose-checks.js'
import { Files } from './compose-files.js'
import { envFiles, nothing } from './compose-parts.js'
import {
  attempt,
  byKind,
  defined,
  type Fields,
  fields,
  flag,
  issueText,
  items,
  open,
  type Placed,
  placed,
  type Reader,
  Session,
  type Surroundings,
  text,
  type Value,
} from './compose-reader.js'
import { ManifestError, printable, type Remark } from './compose-remarks.js'
import { HOST, ownPath, type ReadService, type Services, UNREAD } from './compose-service.js'
import { type ManifestService, manifestService } from './compose-spec.js'
import * as compose from './compose-values.js'
import { type ChuteSpec, chuteSpec, type PackageRef, REBALANCE, type ServiceSpec } from './deployment.js'
import { MeshError } from './error.js'
import { MAX_IMAGE, MAX_RECORD } from './limits.js'
import { NO_RIGHTS, type Rights } from './policy.js'

export type { ManifestService }

/** A checked chute that has no images yet. */
export type Manifest = Omit<ChuteSpec, 'services' | 'exclusive'> & {
  name?: string
  services: ManifestService[]
  /** Its voters are chosen when it is published. */
  exclusive: boolean
  /** Each AP builds what is built, of the sources. */
  buildsOnAp?: boolean
  /** What of it was passed over, or stands for something else, and why. */
  notes: Remark[]
}

// --- The keys of the top level ------------------------------------------------------------------------------------------

/** The names of these are the publisher's to choose, within `check`. */
const named = (check: (name: string) => string) =>
  byKind<Map<string, Value>>({
    nothing: () => new Map(),
    map: (value) => {
      for (const [name, at] of value.map()) attempt(at, name, check)
      return value.map()
    },
  })

const NETWORK = 'the services of a chute share one network, which is theirs alone'
const unlessFalse =
  (why: string): Reader<undefined> =>
  (value) =>
    value.kind === 'flag' && flag(value) === false ? undefined : value.refuse(`not supported in a chute: ${why}`)

const network = fields(
  {
    driver: text(compose.oneOf('bridge')),
    external: unlessFalse(NETWORK),
    internal: unlessFalse('an AP cuts off no network'),
  },
  {
    refused: { driver_opts: HOST, enable_ipv4: NETWORK, enable_ipv6: NETWORK, ipam: 'an AP picks the addresses' },
    ignored: { attachable: NETWORK, labels: UNREAD, name: NETWORK },
  },
)

const VOLUME = fields(
  {
    driver: text(compose.oneOf('local')),
    external: unlessFalse('a volume belongs to its chute'),
    'x-dropmesh': fields({ ephemeral: flag }),
  },
  { refused: { driver_opts: HOST }, ignored: { labels: UNREAD, name: 'a volume is named by its key' } },
)
const volume = byKind<Fields<typeof VOLUME>>({ nothing: () => ({}), map: VOLUME })

const SECRET = fields(
  { external: flag },
  {
    refused: {
      file: 'a value never stands in a record: write external: true, and "dropmesh secret set CHUTE NAME --file FILE"',
      environment:
        'a value never stands in a record: write external: true, and pipe it to "dropmesh secret set CHUTE NAME"',
      name: 'a secret is named by its key',
      driver: HOST,
      driver_opts: HOST,
      template_driver: HOST,
    },
    ignored: { labels: UNREAD },
  },
)
const secret: Reader<Fields<typeof SECRET>> = (value) => {
  const read = SECRET(value) ?? {}
  if (!('external' in read) || read.external === false) value.refuse('needs external: true')
  return read
}

const CONFIG = fields(
  {
    content: byKind({ text: (value) => value.text() }),
    environment: placed(text(compose.variableName)),
    file: placed(ownPath),
    external: unlessFalse('a config is part of its chute: write its content, or a file of the folder'),
  },
  { refused: { template_driver: HOST }, ignored: { labels: UNREAD, name: 'a config is named by its key' } },
)

const INCLUDE = fields(
  {
    path: byKind<string>({
      text: ownPath,
      list: (value) =>
        value.list().length === 1
          ? ownPath(value.list()[0]!)
          : value.refuse('files are not laid over each other: include one'),
    }),
    env_file: envFiles,
  },
  { refused: { project_directory: 'what a file says is relative to its own folder' } },
)
const include = byKind<Fields<typeof INCLUDE>>({ text: (value) => ({ path: ownPath(value) }), map: INCLUDE })

/** What `x-dropmesh` of a chute says, in either manifest. */
export const CHUTE_KEYS = {
  everywhere: placed(flag),
  exclusive: placed(flag),
  rebalance: placed(text(compose.oneOf(...REBALANCE))),
  build: placed(text(compose.oneOf('on-ap', 'here'))),
}
const CHUTE = fields(CHUTE_KEYS)

const MANIFEST = fields(
  {
    name: text(compose.name),
    include: byKind({ list: items(placed(include)) }),
    services: named(compose.name),
    volumes: named(compose.name),
    networks: named((name) => name),
    secrets: named(compose.secretName),
    configs: named(compose.secretName),
    'x-dropmesh': CHUTE,
  },
  {
    refused: { models: 'an AP runs containers alone' },
    ignored: { version: 'it is obsolete, and says nothing' },
  },
)

// --- The chute ----------------------------------------------------------------------------------------------------------

export interface Circumstances extends Surroundings {
  /** What its publisher holds. */
  rights?: Rights
  /** Which profiles are on; `*` for all. */
  profiles?: readonly string[]
}

/** The parts of a manifest and of what it includes, by name. */
type Parts = Record<'services' | 'volumes' | 'networks' | 'secrets' | 'configs', Map<string, Value>>
const PARTS = ['services', 'volumes', 'networks', 'secrets', 'configs'] as const

/**
 * Reads a compose.yaml.
 * @param file what errors call it
 * @throws ManifestError, and nothing else, with all that is wrong
 */
export function parseManifest(text: string, file: string, circumstances: Circumstances = {}): Manifest {
  const session = new Session(circumstances)
  const files = new Files(session, file)
  const root = open(text, file, session)
  const top = MANIFEST(root) ?? {}
  const parts: Parts = {
    services: new Map(),
    volumes: new Map(),
    networks: new Map(),
    secrets: new Map(),
    configs: new Map(),
  }
  collect(parts, top, files, [file])
  if (root.kind === 'map' && parts.services.size === 0 && (!('services' in top) || top.services))
    root.refuse('has no services')

  for (const at of parts.networks.values()) byKind<unknown>({ nothing, map: network })(at)
  for (const at of parts.secrets.values()) byKind<unknown>({ map: secret })(at)
  const volumes = [...parts.volumes].map(([name, at]) => ({
    name,
    ephemeral: volume(at)?.['x-dropmesh']?.ephemeral ?? false,
  }))
  const configs = new Map([...parts.configs].map(([name, at]) => [name, { at, is: contentOf(at, files) }]))
  const services = servicesOf(parts.services, files, circumstances.profiles ?? [])

  for (const { at, is } of services.values())
    if (!('image' in is) && !('build' in is)) at.refuse('needs an image or a build')
  const dependencies = checks.dependenciesOf(services, parts.services)
  checks.refuseStrayMounts(services, parts.volumes)
  checks.refuseSharedPorts(services)
  checks.refuseStraySecrets(services, parts.secrets)
  checks.refuseStrayConfigs(services, parts.configs)
  checks.refuseSeparation(services, parts.networks)
  checks.refuseDoubleLimits(services)
  return manifestOf(
    { root, name: top.name, services, dependencies, volumes, configs, chute: top['x-dropmesh'] },
    (service) => files.environment(service),
    circumstances.rights ?? NO_RIGHTS,
  )
}

/** A chute that was read, whichever file it was written in, before it is a manifest. */
interface Read {
  root: Value
  name: string | undefined
  services: Services
  dependencies: ReturnType<typeof checks.dependenciesOf>
  volumes: Manifest['volumes']
  configs: ReadonlyMap<string, Placed<string | undefined>>
  chute: Fields<typeof CHUTE> | undefined
}

/** @throws ManifestError with all that is wrong, and was found wrong before */
export function manifestOf(
  { root, name, services, dependencies, volumes, configs, chute }: Read,
  environmentOf: (service: ReadService) => Record<string, string>,
  rights: Rights,
): Manifest {
  const { remarks } = root.reading.session
  const awaited = new Set(
    [...dependencies.values()]
      .flat()
      .flatMap((one) => (one.condition === 'service_completed_successfully' ? [one.service] : [])),
  )
  const used = new Set(
    [...services.values()].flatMap(({ is }) => (is.configs ?? []).map(({ is: { config } }) => config)),
  )
  const read = [...services].map(([service, placed]) =>
    manifestService(service, placed, {
      environment: environmentOf(placed.is),
      dependsOn: dependencies.get(service) ?? [],
      isAwaited: awaited.has(service),
    }),
  )
  checks.refuseWithoutRight(services, read, rights)
  const manifest: Manifest = {
    ...defined({ name }),
    services: read,
    volumes,
    replicas: checks.replicasOf(services, chute?.everywhere),
    constraints: checks.constraintsOf(services),
    exclusive: checks.exclusiveOf(chute?.everywhere, chute?.exclusive),
    ...defined({
      buildsOnAp: checks.buildsOnAp(services, chute?.build, rights) || undefined,
      rebalance: checks.rebalanceOf(chute?.everywhere, chute?.rebalance),
    }),
    ...(used.size > 0 && {
      configs: [...configs].flatMap(([name, { is }]) =>
        used.has(name) && is !== undefined ? [{ name, content: is }] : [],
      ),
    }),
    notes: [],
  }
  // What the readers do not count: how many there may be of each thing, and how long a record may be.
  const spec = specOf(manifest, () => ANY)
  const { error } = remarks.problems.length > 0 ? {} : chuteSpec.safeParse(spec)
  for (const { path, message } of error?.issues ?? []) {
    const service = path[0] === 'services' ? [...services.values()][Number(path[1])] : undefined
    if (service) service.at.refuse(issueText({ path: path.slice(2), message }))
    else root.refuse(issueText({ path, message }))
  }
  refuseLongConfigs(spec, configs)
  if (remarks.problems.length > 0) throw new ManifestError(remarks.problems)
  return { ...manifest, notes: remarks.notes }
}

/** What a manifest declares, and what it includes, each name once. */
function collect(parts: Parts, read: Fields<typeof MANIFEST>, files: Files, chain: readonly string[]): void {
  for (const part of PARTS) {
    for (const [name, at] of read[part] ?? []) {
      const earlier = parts[part].get(name)
      if (earlier === undefined) parts[part].set(name, at)
      else at.refuse(`${name} is there twice, first in ${earlier.where(at)}`)
    }
  }
  for (const { at, is } of read.include ?? []) {
    if (is.path === undefined) {
      if (!('path' in is)) at.refuse('needs a path')
      continue
    }
    if (chain.includes(is.path)) at.refuse(`files include each other: ${[...chain, is.path].join(', ')}`)
    else {
      const own = Object.assign({}, ...(is.env_file ?? []).map((file) => files.envFile(file.at, file.is)))
      const known = at.reading.variables
      const root = files.manifest(
        at,
        is.path,
        (name) => known(name) ?? (Object.hasOwn(own, name) ? own[name] : undefined),
      )
      if (root) collect(parts, MANIFEST(root) ?? {}, files, [...chain, is.path])
    }
  }
}

/** The services that run: those of profiles that are on, and those of none. What is wrong with others is nobody's problem. */
function servicesOf(all: ReadonlyMap<string, Value>, files: Files, profiles: readonly string[]): Services {
  const services: Services = new Map()
  for (const [name, at] of all) {
    const { is, take } = at.reading.session.remarks.apart(() => files.service(at, all))
    const asked = is?.profiles ?? []
    const isOn = asked.length === 0 || profiles.includes('*') || asked.some((one) => profiles.includes(one))
    if (isOn) take()
    else at.note(`left out: its profiles (${asked.join(', ')}) are off; --profile ${asked[0]} turns one on`)
    if (isOn && is) services.set(name, { at, is })
  }
  return services
}

function contentOf(at: Value, files: Files): string | undefined {
  const read = byKind<Fields<typeof CONFIG>>({ map: CONFIG })(at)
  if (read === undefined || 'external' in read) return undefined
  const said = (['content', 'file', 'environment'] as const).filter((key) => key in read)
  if (said.length !== 1) return at.refuse('needs one of content, file and environment')
  if (read.file) return files.read(read.file.at, read.file.is)
  if (!read.environment) return read.content
  const { at: where, is: name } = read.environment
  return where.reading.variables(name) ?? where.refuse(`variable ${name} has no value here`)
}

/** What the signature and the name add to a record, and images for further platforms, in bytes. */
const OVERHEAD = 1024

function refuseLongConfigs(spec: ChuteSpec, configs: ReadonlyMap<string, Placed<string | undefined>>): void {
  const { configs: used = [] } = spec
  if (used.length === 0) return
  const sizes = new Map(used.map(({ name, content }) => [name, encode(content).length]))
  const all = [...sizes.values()].reduce((sum, size) => sum + size, 0)
  const room = MAX_RECORD - OVERHEAD - (encode(spec).length - all)
  if (all <= room) return
  for (const [name, size] of sizes)
    configs
      .get(name)!
      .at.refuse(
        `has ${size} bytes: the record of this chute has room for ${Math.max(0, room)} bytes of configs, and they have ${all}; put it into the image`,
      )
}

/** What a service runs from. */
export type Made = Pick<ServiceSpec, 'images' | 'build'>

/**
 * The content of a deployment record, but for the voters of an exclusive chute.
 * @param made what each service runs from, by its name
 * @param ref the package that has it; without it APs have it already
 * @throws MeshError `manifest` where a service has nothing to run from, or the record would be refused
 */
export function toSpec(manifest: Manifest, made: ReadonlyMap<string, Made>, ref?: PackageRef): ChuteSpec {
  const spec: ChuteSpec = specOf(manifest, (service) => {
    const one = made.get(service)
    if (!one) throw new MeshError('manifest', `service ${service} has no image: it was neither built nor found`)
    return one
  })
  if (ref !== undefined) spec.package = ref
  const { data, error } = chuteSpec.safeParse(spec)
  if (data) return data
  const issues = error.issues.map((issue) => printable(issueText(issue)))
  throw new MeshError('manifest', `the manifest makes no valid chute: ${issues.join('; ')}`, { cause: error })
}

/** Stands in for what is not there yet. */
const ANY: Made = {
  images: [{ config: new Uint8Array(32), platform: 'linux/amd64', size: MAX_IMAGE, manifest: new Uint8Array(32) }],
}

function specOf(
  { services, volumes, replicas, constraints, rebalance, configs }: Manifest,
  made: (service: string) => Made,
): ChuteSpec {
  const complete = ({ source: _, ...service }: ManifestService) => ({ ...service, ...made(service.name) })
  return { services: services.map(complete), volumes, replicas, constraints, ...defined({ rebalance, configs }) }
}
