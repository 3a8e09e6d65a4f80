// From the text of a compose.yaml to a checked chute (decision 17): the tables from PORT to MANIFEST say which keys are
// accepted and how each is read; any other is refused by its name and line. Keys are named as in the Compose
// specification, https://github.com/compose-spec/compose-spec. Pure: reads no file and no environment, builds no image.
import {
  attempt,
  byKind,
  defined,
  type Fields,
  fields,
  flag,
  issueText,
  items,
  list,
  ManifestError,
  open,
  type Placed,
  parsing,
  placed,
  plain,
  printable,
  type Reader,
  text,
  textOrNumber,
  texts,
  type Value,
  within,
} from './compose-reader.js'
import * as compose from './compose-values.js'
import {
  type ChuteSpec,
  chuteSpec,
  DEFAULT_LIMITS,
  DEFAULT_SECRET_MODE,
  DEFAULT_STOP_GRACE,
  type ImageSpec,
  REBALANCE,
  SECRETS_AT,
  type ServiceSpec,
} from './deployment.js'
import { MeshError } from './error.js'
import { lackingRights, NO_RIGHTS, type Rights, reasonsWhyNever } from './policy.js'

export { ManifestError }

/** Docker's own defaults of a health check, in milliseconds. */
export const DEFAULT_HEALTHCHECK = { interval: 30_000, timeout: 30_000, startPeriod: 0, retries: 3 }

/** Where a service's image comes from. A build's paths are relative: the context to the manifest, the dockerfile to it. */
type ImageSource = { image: string } | { build: { context: string; dockerfile: string; args: Record<string, string> } }

export type ManifestService = Omit<ServiceSpec, 'image'> & { source: ImageSource }

/** A checked chute that has no images yet. */
export type Manifest = Omit<ChuteSpec, 'services' | 'exclusive'> & {
  name?: string
  services: ManifestService[]
  /** Its voters are chosen when it is published. */
  exclusive: boolean
}

// --- What the keys of a chute are, and how each is read ----------------------------------------------------------------

/** What a deployment record itself demands, so that its limits stand in one place. */
const SPEC = chuteSpec.shape
const SERVICE_SPEC = SPEC.services.element.shape

/** The names of services and volumes are the publisher's to choose, within NAME. */
const named = <T>(read: Reader<T>) =>
  byKind<Map<string, Placed<T>>>({
    map: (value) => {
      const all = new Map<string, Placed<T>>()
      for (const [name, at] of value.map()) {
        attempt(at, name, compose.name)
        const is = read(at)
        if (is !== undefined) all.set(name, { at, is })
      }
      return all
    },
  })

const words = byKind<string[]>({ nothing: () => undefined, text: parsing(compose.shellWords), list: texts })

/** `KEY=value` in a list, or a map of such. */
const pairs: Reader<Placed<[string, string]>[]> = (value) => {
  const entries = eachPair(value)
  const seen = new Set<string>()
  for (const { at, is } of entries ?? []) {
    if (seen.has(is[0])) at.refuse(`${is[0]} is given twice`)
    seen.add(is[0])
  }
  return entries
}

const eachPair = byKind<Placed<[string, string]>[]>({
  list: items(placed(text(compose.variable))),
  map: (value) => {
    const entries: Placed<[string, string]>[] = []
    for (const [key, at] of value.map()) {
      const pair = parsing((text): [string, string] => [compose.variableName(key), text])
      const is = byKind({ text: pair, number: pair, flag: pair, nothing: () => at.refuse(compose.noValue(key)) })(at)
      if (is) entries.push({ at, is })
    }
    return entries
  },
})

const variables: Reader<Record<string, string>> = (value) => {
  const entries = pairs(value)
  return entries && Object.fromEntries(entries.map(({ is }) => is))
}

const sysctls: Reader<Placed<NonNullable<ServiceSpec['sysctls']>[number]>[]> = (value) =>
  pairs(value)?.map(({ at, is: [name, value] }) => ({ at, is: { name, value } }))

const bothLimits = textOrNumber((text) => {
  const limit = compose.ulimit(text)
  return { soft: limit, hard: limit }
})
const SOFT_HARD = fields({ soft: textOrNumber(compose.ulimit), hard: textOrNumber(compose.ulimit) })
const softHard: Reader<{ soft: number; hard: number }> = (value) => {
  const read = SOFT_HARD(value) ?? {}
  if (!('soft' in read && 'hard' in read)) value.refuse('needs soft and hard')
  else if (read.soft !== undefined && read.hard !== undefined) return { soft: read.soft, hard: read.hard }
  return undefined
}

const ulimits = byKind<Placed<NonNullable<ServiceSpec['ulimits']>[number]>[]>({
  map: (value) =>
    [...value.map()].flatMap(([key, at]) => {
      const name = attempt(at, key, compose.ulimitName)
      const limits = byKind({ text: bothLimits, number: bothLimits, map: softHard })(at)
      return name === undefined || limits === undefined ? [] : [{ at, is: { name, ...limits } }]
    }),
})

const PORT = fields(
  {
    target: textOrNumber(compose.port),
    published: textOrNumber(compose.port),
    protocol: text(compose.oneOf('tcp', 'udp')),
    // Compose writes "ingress" by default and acts alike on both: the port opens where the container runs.
    mode: text(compose.oneOf('host', 'ingress')),
  },
  { host_ip: 'no two APs share an address' },
)

const port = byKind<ServiceSpec['ports'][number]>({
  text: parsing(compose.portMapping),
  number: parsing(compose.portMapping),
  map: (value) => {
    const read = PORT(value) ?? {}
    if (!('target' in read)) value.refuse('needs a target, the port in the container')
    if (!read.target) return undefined
    return { container: read.target, protocol: read.protocol ?? 'tcp', ...defined({ host: read.published }) }
  },
})

const MOUNT = fields(
  { type: text(compose.mountType), source: text(compose.volumeName), target: text(compose.mountPath), read_only: flag },
  { bind: 'a chute moves between hosts', tmpfs: 'write it under tmpfs of the service' },
)

const mount = byKind<ServiceSpec['mounts'][number]>({
  text: parsing(compose.mount),
  map: (value) => {
    const read = MOUNT(value) ?? {}
    if (!('type' in read)) value.refuse('needs a type: volume')
    else if (!read.type) return undefined
    if (!('source' in read)) value.refuse('is an anonymous volume, whose data nobody could find: name its source')
    if (!('target' in read)) value.refuse('needs a target, the path in the container')
    if (!read.source || !read.target) return undefined
    return { volume: read.source, path: read.target, readOnly: read.read_only ?? false }
  },
})

const SECRET_FILE = fields({
  source: text(compose.secretName),
  target: text(compose.secretFile),
  uid: textOrNumber(compose.owner),
  gid: textOrNumber(compose.owner),
  mode: textOrNumber(compose.fileMode),
})

const secretFile = byKind<NonNullable<ServiceSpec['secrets']>[number]>({
  text: parsing((line) => {
    const name = compose.secretName(line)
    return { name, file: name, mode: DEFAULT_SECRET_MODE }
  }),
  map: (value) => {
    const read = SECRET_FILE(value) ?? {}
    if (!('source' in read)) value.refuse('needs a source: the name of the secret')
    if (!read.source) return undefined
    const { source: name, target: file = name, mode = DEFAULT_SECRET_MODE, uid, gid } = read
    return { name, file, mode, ...defined({ uid, gid }) }
  },
})

const oneTmpfs = placed(within(SERVICE_SPEC.tmpfs.element, text(compose.tmpfs)))
const tmpfs = byKind({ text: (value) => [oneTmpfs(value) ?? []].flat(), list: items(oneTmpfs) })

const CHECK_SPEC = SERVICE_SPEC.healthcheck.unwrap().shape

const checkTest: Reader<string[]> = (value) => {
  const test = texts(value)
  if (!test) return undefined
  const [form, ...rest] = test
  const sound =
    form === 'CMD' ? rest.length > 0 : form === 'CMD-SHELL' ? rest.length === 1 : form === 'NONE' && rest.length === 0
  return sound ? test : value.refuse('must be text, ["CMD", PROGRAM, …], ["CMD-SHELL", LINE] or ["NONE"]')
}

const HEALTHCHECK = fields({
  test: within(CHECK_SPEC.test, byKind({ text: parsing((line) => ['CMD-SHELL', line]), list: checkTest })),
  interval: within(CHECK_SPEC.interval, textOrNumber(compose.duration), 'ms'),
  timeout: within(CHECK_SPEC.timeout, textOrNumber(compose.duration), 'ms'),
  start_period: within(CHECK_SPEC.startPeriod, textOrNumber(compose.duration), 'ms'),
  retries: within(CHECK_SPEC.retries, textOrNumber(compose.whole)),
  disable: flag,
})

const healthcheck: Reader<NonNullable<ServiceSpec['healthcheck']>> = (value) => {
  const check = HEALTHCHECK(value)
  if (!check) return undefined
  if (check.disable) {
    if (Object.keys(check).length > 1) value.refuse('disable: true stands alone')
    return { test: ['NONE'], ...DEFAULT_HEALTHCHECK }
  }
  if (!('test' in check)) value.refuse("needs a test: the image's own check cannot be tuned, only replaced")
  if (!check.test) return undefined
  const { interval, timeout, start_period: startPeriod, retries } = check
  return { test: check.test, ...DEFAULT_HEALTHCHECK, ...defined({ interval, timeout, startPeriod, retries }) }
}

const BUILD = fields({ context: text(compose.ownPath), dockerfile: text(compose.ownPath), args: variables })

const build = byKind({
  text: (value) => withBuildDefaults({ context: parsing(compose.ownPath)(value) }),
  map: (value) => withBuildDefaults(BUILD(value)),
})

const withBuildDefaults = (build: Fields<typeof BUILD> | undefined) => ({
  context: build?.context ?? '.',
  dockerfile: build?.dockerfile ?? 'Dockerfile',
  args: build?.args ?? {},
})

const DEPLOY = fields(
  {
    replicas: placed(within(SPEC.replicas, textOrNumber(compose.whole))),
    placement: fields({ constraints: list(placed(within(SPEC.constraints.element, text(compose.constraint)))) }),
    resources: fields(
      {
        limits: fields({
          cpus: within(SERVICE_SPEC.limits.shape.cpu, textOrNumber(compose.cpus), 'thousandths of a CPU'),
          memory: within(SERVICE_SPEC.limits.shape.memory, textOrNumber(compose.size), 'bytes'),
          pids: within(SERVICE_SPEC.limits.shape.pids, textOrNumber(compose.whole)),
        }),
      },
      { reservations: 'an AP reserves the limits' },
    ),
  },
  {
    mode: 'for one on every AP write x-dropmesh: {everywhere: true} at the top level',
    restart_policy: 'an AP restarts what stopped',
  },
)

const HOST = 'a chute has no access to its host'
const SERVICE = fields(
  {
    image: text(compose.imageReference),
    build,
    command: within(SERVICE_SPEC.command, words),
    entrypoint: within(SERVICE_SPEC.entrypoint, words),
    environment: within(SERVICE_SPEC.environment, variables),
    ports: list(placed(port)),
    volumes: list(placed(within(SERVICE_SPEC.mounts.element, mount))),
    tmpfs,
    healthcheck,
    user: within(SERVICE_SPEC.user, plain),
    working_dir: within(SERVICE_SPEC.workingDir, text(compose.containerPath)),
    stop_grace_period: within(SERVICE_SPEC.stopGrace, textOrNumber(compose.duration), 'ms'),
    cap_add: list(placed(text(compose.capability))),
    devices: list(placed(text(compose.device))),
    sysctls,
    ulimits,
    secrets: list(placed(secretFile)),
    // Who asks for what a chute has anyway, as hardened manifests do, gets it.
    cap_drop: list(text(compose.capability)),
    read_only: placed(flag),
    privileged: (value) => (flag(value) ? value.refuse(`not supported in a chute: ${HOST}`) : undefined),
    security_opt: list(text(compose.securityOption)),
    deploy: byKind({ nothing: () => undefined, map: DEPLOY }),
  },
  {
    ...reasonsWhyNever(),
    container_name: 'a service is reached by its own name',
    depends_on: 'services start together, and again until they succeed',
    env_file: 'write the variables under environment',
    extends: 'write the service out',
    links: 'a service is reached by its own name',
    mem_limit: 'write deploy.resources.limits.memory',
    cpus: 'write deploy.resources.limits.cpus',
    pids_limit: 'write deploy.resources.limits.pids',
    networks: 'the services of a chute share one network, which is theirs alone',
    restart: 'an AP restarts what stopped',
    scale: 'write deploy.replicas',
  },
)

const VOLUME = fields(
  { 'x-dropmesh': fields({ ephemeral: flag }) },
  { external: 'a volume belongs to its chute', name: 'a volume is named by its key', driver: HOST, driver_opts: HOST },
)

const SECRET = fields(
  { external: flag },
  {
    file: 'a value never stands in a record: write external: true, and "dropmesh secret set CHUTE NAME --file FILE"',
    environment:
      'a value never stands in a record: write external: true, and pipe it to "dropmesh secret set CHUTE NAME"',
    name: 'a secret is named by its key',
  },
)

const secret: Reader<Fields<typeof SECRET>> = (value) => {
  const read = SECRET(value) ?? {}
  if (!('external' in read) || read.external === false) value.refuse('needs external: true')
  return read
}

/** As `named`, for names of secrets. */
const secrets: Reader<Map<string, unknown>> = byKind({
  map: (value) => {
    for (const [name, at] of value.map()) {
      attempt(at, name, compose.secretName)
      byKind({ map: secret })(at)
    }
    return value.map()
  },
})

const CHUTE = fields({
  everywhere: placed(flag),
  exclusive: placed(flag),
  rebalance: placed(text(compose.oneOf(...REBALANCE))),
})

const MANIFEST = fields(
  {
    name: text(compose.name),
    version: textOrNumber(() => undefined), // obsolete in Compose, and without meaning
    services: named(SERVICE),
    // What is wrong with a volume is recorded; that it was declared still counts.
    volumes: named((value) => byKind<Fields<typeof VOLUME>>({ nothing: () => ({}), map: VOLUME })(value) ?? {}),
    secrets,
    'x-dropmesh': CHUTE,
  },
  {
    include: 'a chute is one file',
    networks: 'the services of a chute share one network, which is theirs alone',
  },
)

// --- The chute ---------------------------------------------------------------------------------------------------------

type Services = Map<string, Placed<Fields<typeof SERVICE>>>

/**
 * Reads a compose.yaml.
 * @param file what errors call it
 * @param rights what its publisher holds
 * @throws ManifestError, and nothing else, with all that is wrong
 */
export function parseManifest(text: string, file: string, rights: Rights = NO_RIGHTS): Manifest {
  const root = open(text, file)
  const read = MANIFEST(root) ?? {}
  const services: Services = read.services ?? new Map()
  if (root.kind === 'map' && (!('services' in read) || read.services?.size === 0)) root.refuse('has no services')
  for (const { at, is } of services.values()) {
    if (!('image' in is) && !('build' in is)) at.refuse('needs an image or a build')
  }
  refuseStrayMounts(services, 'volumes' in read ? read.volumes : new Map())
  refuseSharedPorts(services)
  refuseStraySecrets(services, 'secrets' in read ? (read.secrets ?? undefined) : new Map())
  refuseWithoutRight(services, rights)
  const manifest: Manifest = {
    ...defined({ name: read.name }),
    services: [...services].map(([name, service]) => serviceOf(name, service)),
    volumes: [...(read.volumes ?? [])].map(([name, { is }]) => ({
      name,
      ephemeral: is['x-dropmesh']?.ephemeral ?? false,
    })),
    replicas: replicasOf(services, read['x-dropmesh']?.everywhere),
    constraints: constraintsOf(services),
    exclusive: exclusiveOf(read['x-dropmesh']),
    ...defined({ rebalance: rebalanceOf(read['x-dropmesh']) }),
  }
  // What the readers do not count: how many there may be of each thing.
  const { error } = root.reading.problems.length > 0 ? {} : chuteSpec.safeParse(specOf(manifest, () => ANY_IMAGE))
  for (const { path, message } of error?.issues ?? []) {
    const service = path[0] === 'services' ? [...services.values()][Number(path[1])] : undefined
    if (service) service.at.refuse(issueText({ path: path.slice(2), message }))
    else root.refuse(issueText({ path, message }))
  }
  if (root.reading.problems.length > 0) throw new ManifestError(file, root.reading.problems)
  return manifest
}

/**
 * The content of a deployment record, but for the voters of an exclusive chute.
 * @param images by name of service
 * @throws MeshError `manifest` where a service has no image, or the record would be refused
 */
export function toSpec(manifest: Manifest, images: ReadonlyMap<string, ImageSpec>): ChuteSpec {
  const spec = specOf(manifest, (service) => {
    const image = images.get(service)
    if (!image) throw new MeshError('manifest', `service ${service} has no image: it was neither built nor found`)
    return image
  })
  const { data, error } = chuteSpec.safeParse(spec)
  if (data) return data
  const issues = error.issues.map((issue) => printable(issueText(issue)))
  throw new MeshError('manifest', `the manifest makes no valid chute: ${issues.join('; ')}`, { cause: error })
}

/** Stands in for the images that are not there yet. */
const ANY_IMAGE: ImageSpec = { config: new Uint8Array(32), diffIds: [], platform: 'linux/amd64' }

function specOf(
  { services, volumes, replicas, constraints, rebalance }: Manifest,
  image: (service: string) => ImageSpec,
): ChuteSpec {
  const withImage = ({ source: _, ...service }: ManifestService) => ({ ...service, image: image(service.name) })
  return { services: services.map(withImage), volumes, replicas, constraints, ...defined({ rebalance }) }
}

function serviceOf(name: string, { is: read }: Placed<Fields<typeof SERVICE>>): ManifestService {
  const bare = <T>(values: Placed<T>[] | undefined): T[] => (values ?? []).map(({ is }) => is)
  const limits = read.deploy?.resources?.limits ?? {}
  return {
    name,
    // Where there is a build, Compose takes the image for the name to give to it. Here an image is its digest.
    source: read.build ? { build: read.build } : { image: read.image ?? '' },
    environment: read.environment ?? {},
    ports: bare(read.ports),
    mounts: bare(read.volumes),
    tmpfs: bare(read.tmpfs),
    stopGrace: read.stop_grace_period ?? DEFAULT_STOP_GRACE,
    limits: { ...DEFAULT_LIMITS, ...defined({ cpu: limits.cpus, memory: limits.memory, pids: limits.pids }) },
    ...defined({
      command: read.command,
      entrypoint: read.entrypoint,
      healthcheck: read.healthcheck,
      user: read.user,
      workingDir: read.working_dir,
      capabilities: read.cap_add && bare(read.cap_add),
      devices: read.devices && bare(read.devices),
      sysctls: read.sysctls && bare(read.sysctls),
      ulimits: read.ulimits && bare(read.ulimits),
      writableRoot: read.read_only?.is === false ? true : undefined,
      secrets: read.secrets && read.secrets.length > 0 ? bare(read.secrets) : undefined,
    }),
  }
}

function refuseStrayMounts(services: Services, volumes: ReadonlyMap<string, unknown> | undefined): void {
  for (const { is: service } of services.values()) {
    const paths = new Map<string, Value>()
    for (const { at, is } of [...(service.volumes ?? []), ...(service.tmpfs ?? [])]) {
      const earlier = paths.get(is.path)
      if (earlier) at.refuse(`${is.path} is mounted twice, first on line ${earlier.line}`)
      else paths.set(is.path, at)
      if (!volumes || !('volume' in is) || volumes.has(is.volume)) continue
      at.refuse(`volume ${is.volume} is not declared: add it under volumes`)
    }
  }
}

function refuseStraySecrets(services: Services, declared: ReadonlyMap<string, unknown> | undefined): void {
  for (const { is: service } of services.values()) {
    const files = new Map<string, Value>()
    for (const { at, is } of service.secrets ?? []) {
      const earlier = files.get(is.file)
      if (earlier) at.refuse(`the file ${is.file} is there twice, first on line ${earlier.line}`)
      else files.set(is.file, at)
      if (declared && !declared.has(is.name))
        at.refuse(`secret ${is.name} is not declared: add it under secrets, with external: true`)
    }
    if (files.size === 0) continue
    for (const { at, is } of [...(service.volumes ?? []), ...(service.tmpfs ?? [])])
      if (is.path.replace(/\/+$/, '') === SECRETS_AT) at.refuse(`${SECRETS_AT} is where the secrets are`)
  }
}

function exclusiveOf(chute: Fields<typeof CHUTE> | undefined): boolean {
  const { everywhere, exclusive } = chute ?? {}
  if (everywhere?.is && exclusive?.is) {
    exclusive.at.refuse(`contradicts ${everywhere.at.path} on line ${everywhere.at.line}: remove one of the two`)
  }
  return exclusive?.is ?? false
}

function rebalanceOf(chute: Fields<typeof CHUTE> | undefined): ChuteSpec['rebalance'] {
  const { everywhere, rebalance } = chute ?? {}
  if (everywhere?.is && rebalance && rebalance.is !== 'never') {
    rebalance.at.refuse(
      `a chute on every AP never moves, and ${everywhere.at.path} on line ${everywhere.at.line} makes it one: remove one of the two`,
    )
  }
  return rebalance?.is
}

function refuseWithoutRight(services: Services, rights: Rights): void {
  for (const [name, service] of services) {
    for (const { right, key, index, isGrantable } of lackingRights(serviceOf(name, service), rights)) {
      const at = [service.is[key] ?? []].flat()[index]!.at
      at.refuse(
        isGrantable
          ? `needs the right ${right}, which your key does not hold; an admin gives it with "dropmesh grant KEY --right ${right}"`
          : `not supported in a chute: no right gives ${right}`,
      )
    }
  }
}

/** The services of an instance run on one AP, where each port can be had once. */
function refuseSharedPorts(services: Services): void {
  const taken = new Map<string, Value>()
  for (const { at, is } of [...services.values()].flatMap((service) => service.is.ports ?? [])) {
    if (is.host === undefined) continue
    const port = `${is.host}/${is.protocol}`
    const earlier = taken.get(port)
    if (earlier) at.refuse(`port ${port} is published twice, first on line ${earlier.line}`)
    else taken.set(port, at)
  }
}

// An instance is all services of a chute together, on one AP. Compose states placement by service, so they must agree.

function replicasOf(services: Services, everywhere: Placed<boolean> | undefined): ChuteSpec['replicas'] {
  const [first, ...others] = [...services.values()].flatMap(({ is }) => is.deploy?.replicas ?? [])
  for (const { at, is } of others) {
    if (is === first!.is) continue
    at.refuse(`the services of a chute run together, and ${first!.at.path} on line ${first!.at.line} says ${first!.is}`)
  }
  if (!everywhere?.is) return first?.is ?? 1
  first?.at.refuse(`contradicts ${everywhere.at.path} on line ${everywhere.at.line}: remove one of the two`)
  return 'everywhere'
}

function constraintsOf(services: Services): ChuteSpec['constraints'] {
  const all = new Map<string, Placed<ChuteSpec['constraints'][number]>>()
  const stated = [...services.values()].flatMap(({ is }) => is.deploy?.placement?.constraints ?? [])
  for (const { at, is } of stated) {
    const earlier = all.get(is.label)
    if (!earlier) all.set(is.label, { at, is })
    else if (earlier.is.value !== is.value) {
      at.refuse(
        `no AP can fit: the services of a chute run together, and line ${earlier.at.line} wants ${earlier.is.value}`,
      )
    }
  }
  return [...all.values()].map(({ is }) => is)
}
