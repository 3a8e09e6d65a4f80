// How the parts of a service are read, one reader each: its variables, ports, mounts, files, checks and limits.
import {
  attempt,
  byKind,
  defined,
  fields,
  flag,
  items,
  type Placed,
  parsing,
  placed,
  type Reader,
  text,
  textOrNumber,
  texts,
  type Value,
  within,
} from './compose-reader.js'
import * as compose from './compose-values.js'
import { CONDITIONS, chuteSpec, DEFAULT_SECRET_MODE, type ServiceSpec } from './deployment.js'

/** What a deployment record itself demands, so that its limits stand in one place. */
export const SPEC = chuteSpec.shape
export const SERVICE_SPEC = SPEC.services.element.shape

type Part<K extends keyof ServiceSpec> = NonNullable<ServiceSpec[K]> extends (infer T)[] ? T : never

/** Nothing, as `develop:` alone is. */
export const nothing = () => undefined

export const words = byKind<string[]>({ nothing, text: parsing(compose.shellWords), list: texts })

/** A text, or several. */
export const oneOrMore = <T>(read: Reader<T>) =>
  byKind<T[]>({ text: (value) => [read(value) ?? []].flat() as T[], list: items(read) })

/** `KEY=value` in a list, or a map of such. A key alone has the value that it has where the manifest is published. */
const pairs: Reader<Placed<[string, string]>[]> = (value) => {
  const entries = eachPair(value)
  const seen = new Set<string>()
  for (const { at, is } of entries ?? []) {
    if (seen.has(is[0])) at.refuse(`${is[0]} is given twice`)
    seen.add(is[0])
  }
  return entries
}

const fromOutside = (at: Value, name: string): Placed<[string, string]>[] => {
  const value = at.reading.variables(name)
  if (value === undefined) at.note(`${name} has no value here, and is left out`)
  return value === undefined ? [] : [{ at, is: [name, value] }]
}

const eachPair = byKind<Placed<[string, string]>[]>({
  nothing: () => [],
  list: (value) =>
    value.list().flatMap((at) => {
      const pair = text(compose.variable)(at)
      if (pair === undefined) return []
      return pair[1] === undefined ? fromOutside(at, pair[0]) : [{ at, is: [pair[0], pair[1]] as [string, string] }]
    }),
  map: (value) =>
    [...value.map()].flatMap(([key, at]) => {
      const name = attempt(at, key, compose.variableName)
      if (name === undefined) return []
      if (at.kind === 'nothing') return fromOutside(at, name)
      const plain = parsing((is) => is)
      const is = byKind({ text: plain, number: plain, flag: plain })(at)
      return is === undefined ? [] : [{ at, is: [name, is] as [string, string] }]
    }),
})

export const variables: Reader<Record<string, string>> = (value) => {
  const entries = pairs(value)
  return entries && Object.fromEntries(entries.map(({ is }) => is))
}

export const sysctls: Reader<Placed<Part<'sysctls'>>[]> = (value) =>
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

export const ulimits = byKind<Placed<Part<'ulimits'>>[]>({
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
  {
    refused: { host_ip: 'no two APs share an address' },
    ignored: { name: 'a word for people', app_protocol: 'a word for people' },
  },
)

export const port = byKind<Part<'ports'>>({
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
  {
    type: text(compose.mountType),
    source: text(compose.volumeName),
    target: text(compose.mountPath),
    read_only: flag,
    volume: fields(
      {},
      {
        refused: { nocopy: 'a new volume begins with what the image has there', subpath: 'a volume is mounted whole' },
        ignored: { labels: 'nothing on an AP reads them' },
      },
    ),
  },
  {
    refused: {
      bind: 'a chute moves between hosts',
      tmpfs: 'write it under tmpfs of the service',
      image: 'a chute mounts named volumes',
    },
    ignored: { consistency: 'a volume is as consistent as it can be' },
  },
)

export const mount = byKind<Part<'mounts'>>({
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

const DEVICE = fields({
  source: text(compose.devicePath),
  target: text(compose.devicePath),
  permissions: text(compose.oneOf('rw')),
})

export const device = byKind<Part<'devices'>>({
  text: parsing(compose.device),
  map: (value) => {
    const read = DEVICE(value) ?? {}
    if (!('source' in read)) value.refuse('needs a source: the device of the AP')
    return read.source === undefined ? undefined : { host: read.source, container: read.target ?? read.source }
  },
})

const owned = {
  uid: textOrNumber(compose.owner),
  gid: textOrNumber(compose.owner),
  mode: textOrNumber(compose.fileMode),
}
const SECRET_FILE = fields({ source: text(compose.secretName), target: text(compose.secretFile), ...owned })

export const secretFile = byKind<Part<'secrets'>>({
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

const CONFIG_FILE = fields({ source: text(compose.secretName), target: text(compose.mountPath), ...owned })

export const configFile = byKind<Part<'configs'>>({
  text: parsing((line) => {
    const config = compose.secretName(line)
    return { config, path: `/${config}`, mode: DEFAULT_SECRET_MODE }
  }),
  map: (value) => {
    const read = CONFIG_FILE(value) ?? {}
    if (!('source' in read)) value.refuse('needs a source: the name of the config')
    if (!read.source) return undefined
    const { source: config, target: path = `/${config}`, mode = DEFAULT_SECRET_MODE, uid, gid } = read
    return { config, path, mode, ...defined({ uid, gid }) }
  },
})

const oneTmpfs = placed(within(SERVICE_SPEC.tmpfs.element, text(compose.tmpfs)))
export const tmpfs = oneOrMore(oneTmpfs)

const CHECK_SPEC = SERVICE_SPEC.healthcheck.unwrap().shape

const checkTest: Reader<string[]> = (value) => {
  const test = texts(value)
  if (!test) return undefined
  const [form, ...rest] = test
  const sound =
    form === 'CMD' ? rest.length > 0 : form === 'CMD-SHELL' ? rest.length === 1 : form === 'NONE' && rest.length === 0
  return sound ? test : value.refuse('must be text, ["CMD", PROGRAM, …], ["CMD-SHELL", LINE] or ["NONE"]')
}

export const HEALTHCHECK = fields(
  {
    test: within(CHECK_SPEC.test, byKind({ text: parsing((line) => ['CMD-SHELL', line]), list: checkTest })),
    interval: within(CHECK_SPEC.interval, textOrNumber(compose.duration), 'ms'),
    timeout: within(CHECK_SPEC.timeout, textOrNumber(compose.duration), 'ms'),
    start_period: within(CHECK_SPEC.startPeriod, textOrNumber(compose.duration), 'ms'),
    retries: within(CHECK_SPEC.retries, textOrNumber(compose.whole)),
    disable: flag,
  },
  { ignored: { start_interval: 'not every engine knows it: checks come at their interval from the start' } },
)

export interface Dependency {
  condition: (typeof CONDITIONS)[number]
  required?: boolean
  restart?: boolean
}
const DEPENDENCY = fields({ condition: text(compose.oneOf(...CONDITIONS)), required: flag, restart: flag })

/** By name of the service that is waited for. */
export const dependencies = byKind<Record<string, Placed<Dependency>>>({
  list: (value) =>
    Object.fromEntries(
      value.list().flatMap((at) => {
        const name = text(compose.name)(at)
        return name === undefined ? [] : [[name, { at, is: { condition: CONDITIONS[0] } }]]
      }),
    ),
  map: (value) =>
    Object.fromEntries(
      [...value.map()].flatMap(([key, at]) => {
        const name = attempt(at, key, compose.name)
        const { condition = CONDITIONS[0], required, restart } = DEPENDENCY(at) ?? {}
        const is = { condition, ...(required === false && { required }), ...(restart && { restart }) }
        return name === undefined ? [] : [[name, { at, is }]]
      }),
    ),
})

/** `somehost=1.2.3.4` in a list, `somehost:1.2.3.4` too, or a map. */
export const extraHosts = byKind<Record<string, Placed<Part<'extraHosts'>>>>({
  list: (value) =>
    Object.fromEntries(
      value.list().flatMap((at) => {
        const is = text(compose.extraHost)(at)
        return is === undefined ? [] : [[`${is.name} ${is.address}`, { at, is }]]
      }),
    ),
  map: (value) =>
    Object.fromEntries(
      [...value.map()].flatMap(([name, entry]) =>
        (entry.kind === 'list' ? entry.list() : [entry]).flatMap((at) => {
          const is = text((address) => compose.extraHost(`${name}=${address}`))(at)
          return is === undefined ? [] : [[`${name} ${is.address}`, { at, is }]]
        }),
      ),
    ),
})

const LOG_OPTIONS = fields({
  'max-size': textOrNumber(compose.logSize),
  'max-file': textOrNumber(compose.whole),
})
export const LOGGING = fields({
  driver: text(compose.oneOf('json-file')),
  options: byKind({ nothing, map: LOG_OPTIONS }),
})

/** `{path, required, format}` as well, one or several. */
export interface EnvFile {
  path: string
  required: boolean
  format: 'quoted' | 'raw'
}
const ENV_FILE = fields({ path: text((is) => is), required: flag, format: text(compose.oneOf('raw')) })
const oneEnvFile = placed(
  byKind<EnvFile>({
    text: parsing((path) => ({ path, required: true, format: 'quoted' as const })),
    map: (value) => {
      const { path, required = true, format = 'quoted' } = ENV_FILE(value) ?? {}
      return path === undefined ? value.refuse('needs a path') : { path, required, format }
    },
  }),
)
export const envFiles = byKind<Placed<EnvFile>[]>({
  text: (value) => [oneEnvFile(value) ?? []].flat(),
  map: (value) => [oneEnvFile(value) ?? []].flat(),
  list: items(oneEnvFile),
})
