// The configuration of an AP: one typed object, its defaults, and where each value comes from: flag, over environment
// variable, over DIR/config.yaml.
import { readFile } from 'node:fs/promises'
import { isIP } from 'node:net'
import { homedir, hostname } from 'node:os'
import { join } from 'node:path'
import { parse, YAMLParseError } from 'yaml'
import { z } from 'zod'
import { size } from '../protocols/compose-values.js'
import { MeshError, messageOf } from '../protocols/error.js'
import { checkBase } from '../protocols/paradrop-light.js'
import { excessIn, withoutStacks } from '../protocols/yaml-bounds.js'

export interface Config {
  /** Where this AP keeps everything. */
  data: string
  /** What people call it; letters, digits, `_`, `.` and `-`. */
  name: string
  /** A ticket, for an AP that is in no mesh yet. */
  join: string | undefined
  /** Founds a mesh at once where this AP is in none, and does not look for one on the LAN. */
  found: boolean
  /** The mesh on the LAN to ask, or the beginning of its id, where there are several. */
  ask: string | undefined
  /** A mesh that is founded here lets in any AP on the LAN. */
  open: boolean
  /** Multiaddrs; undefined means TCP 4010 on all interfaces, or a free port where that one is taken. */
  listen: string[] | undefined
  /** What `node.labels.k == v` in a manifest and `publish --on k=v` look at. */
  label: Record<string, string>
  /** URL of the container engine; undefined means DOCKER_HOST or the local socket. */
  dockerHost: string | undefined
  /** What light chutes are built on here, by what they use (`python3`), where that is another image than its default. */
  lightBases: Record<string, string>
  /** Discovery on the LAN by multicast DNS. */
  mdns: boolean
  /** Bytes that images may take that this AP fetched for chutes it would be the next to run; 0 turns it off. */
  prefetchMax: number
  /** Bytes that packages may take of the disk, those included that are kept for others. */
  packagesMax: number
  /** Bytes a second that packages may take of the line, up and down each; undefined is no cap. */
  packageRate: number | undefined
  /** Of the registry on 127.0.0.1, 0 for any; undefined means 5010, or a free one where that is taken. */
  registryPort: number | undefined
  /** HOST:PORT where the API is served to who has a token; none by default, since it is plain HTTP. */
  http: string | undefined
  /** Name or number of the group that may use the socket; undefined means its owner alone. */
  socketGroup: string | undefined
}

/** What may come from a flag, a variable or the file. The keys are those of config.yaml and the flags. */
const settings = z.strictObject({
  name: z.string().optional(),
  join: z.string().optional(),
  found: z.boolean().optional(),
  ask: z.string().optional(),
  open: z.boolean().optional(),
  listen: z.array(z.string()).optional(),
  label: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()]).transform(String)).optional(),
  'docker-host': z.string().optional(),
  'light-base': z.record(z.string(), z.string()).optional(),
  'no-mdns': z.boolean().optional(),
  'prefetch-max': z.union([z.string(), z.number().transform(String)]).optional(),
  'packages-max': z.union([z.string(), z.number().transform(String)]).optional(),
  'package-rate': z.union([z.string(), z.number().transform(String)]).optional(),
  'registry-port': z.union([z.string(), z.number().transform(String)]).optional(),
  http: z.string().optional(),
  'socket-group': z.union([z.string(), z.number().transform(String)]).optional(),
})
export type Settings = z.infer<typeof settings>

/** Some twenty chutes on Node.js, and a part of the flash of a small box that it can spare. */
const PREFETCH_MAX = '2g'

/** A third of the flash of a small box; what is evicted beyond it others have. */
const PACKAGES_MAX = '8g'

/** `/var/lib/dropmesh` for root, else the XDG data folder. */
export function defaultDataDir(env: NodeJS.ProcessEnv): string {
  if (env.DROPMESH_DATA) return env.DROPMESH_DATA
  return process.getuid?.() === 0 ? '/var/lib/dropmesh' : join(userDataDir(env), 'node')
}

/** The data folder of the person at the keyboard: publisher keys live here. */
export const userDataDir = (env: NodeJS.ProcessEnv): string =>
  join(env.XDG_DATA_HOME || join(homedir(), '.local', 'share'), 'dropmesh')

/** Bytes of the path of a Unix socket, on Linux; a longer one is cut off without a word. */
const MAX_SOCKET_PATH = 107

/** Of config.yaml: characters, and how deep its values may be nested. */
const MAX_FILE = 64 * 1024
const MAX_DEPTH = 16

/** @throws MeshError `config` naming the source and the key */
export async function loadConfig(data: string, flags: Settings, env: NodeJS.ProcessEnv): Promise<Config> {
  const spare = MAX_SOCKET_PATH - Buffer.byteLength(join(data, 'dropmesh.sock'))
  if (spare < 0) {
    throw new MeshError('config', `--data ${data}: too long by ${-spare} bytes for a socket in it; use a shorter path`)
  }
  const path = join(data, 'config.yaml')
  const merged = {
    ...checked(await readFileSettings(path), (key) => `${path}: ${key}`),
    ...checked(envSettings(env), variableOf),
    ...checked(flags, (key) => `--${key}`),
  }
  const host = hostname().replace(/[^\w.-]/g, '-')
  return {
    data,
    name: merged.name ?? (host.slice(0, 63) || 'ap'),
    join: merged.join,
    found: merged.found ?? false,
    ask: merged.ask,
    open: merged.open ?? false,
    listen: merged.listen,
    label: merged.label ?? {},
    dockerHost: merged['docker-host'],
    lightBases: merged['light-base'] ?? {},
    mdns: !(merged['no-mdns'] ?? false),
    prefetchMax: size(merged['prefetch-max'] ?? PREFETCH_MAX),
    packagesMax: size(merged['packages-max'] ?? PACKAGES_MAX),
    packageRate: merged['package-rate'] === undefined ? undefined : bytesPerSecond(merged['package-rate']),
    registryPort: merged['registry-port'] === undefined ? undefined : Number(merged['registry-port']),
    http: merged.http,
    socketGroup: merged['socket-group'],
  }
}

/** HOST:PORT, an IPv6 host in brackets. Undefined where it is not. */
export function parseHostPort(text: string): { host: string; port: number } | undefined {
  const [, bracketed, plain, digits] = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(text) ?? []
  const host = bracketed ?? plain
  const port = Number(digits)
  return host === undefined || port > 65535 ? undefined : { host, port }
}

/** What is wrong with a value, of those settings where the shape alone does not say. */
const complaints: { [K in keyof Settings]?: (value: NonNullable<Settings[K]>) => string | undefined } = {
  name: (name) => (/^[\w.-]{1,63}$/.test(name) ? undefined : 'use 1 to 63 letters, digits, "_", "." or "-"'),
  listen: (addresses) => {
    if (addresses.length === 0) return 'give at least one address'
    const bad = addresses.find((address) => !isListenAddress(address))
    return bad === undefined ? undefined : `"${bad}" is no address to listen on; write it as /ip4/0.0.0.0/tcp/4010`
  },
  label: (labels) => {
    const isBad = ([key, value]: [string, string]) => key.length === 0 || key.length > 128 || value.length > 256
    const bad = Object.entries(labels).find(isBad)?.[0]
    if (bad !== undefined) return `"${bad.slice(0, 128)}": a key has 1 to 128 characters, a value at most 256`
    return Object.keys(labels).length > 32 ? 'an AP has at most 32 labels' : undefined
  },
  'light-base': (bases) => {
    try {
      for (const [use, image] of Object.entries(bases)) checkBase(use, image)
    } catch (error) {
      return messageOf(error)
    }
    return undefined
  },
  ask: (mesh) => (/^[a-z2-7]{1,32}$/.test(mesh) ? undefined : 'write the id of a mesh, or its first characters'),
  'docker-host': (url) =>
    /^unix:\/\/\/|^(tcp|https?):\/\/[^/]/.test(url) ? undefined : 'write it as unix:///path or tcp://host:port',
  'prefetch-max': (text) => {
    try {
      size(text)
    } catch {
      return 'write it as 2g, 500m or bytes; 0 fetches nothing ahead'
    }
    return undefined
  },
  'packages-max': (text) => {
    try {
      size(text)
    } catch {
      return 'write it as 8g, 500m or bytes'
    }
    return undefined
  },
  'package-rate': (text) =>
    bytesPerSecond(text) === undefined ? 'write it as 20mbit, 500kbit or 1gbit (a second)' : undefined,
  'registry-port': (port) => (/^\d{1,5}$/.test(port) && Number(port) <= 65535 ? undefined : 'write a port, or 0'),
  'socket-group': (group) => (/^[\w.-]{1,64}$/.test(group) ? undefined : 'write the name or the number of a group'),
  http: (address) =>
    parseHostPort(address) === undefined ? 'write it as HOST:PORT, such as 127.0.0.1:4080' : undefined,
}

/** Bytes a second of `20mbit`, as `tc` writes rates; undefined where it is none. */
function bytesPerSecond(text: string): number | undefined {
  const [, digits, unit] = /^(\d{1,9})(k|m|g)bit$/.exec(text) ?? []
  if (digits === undefined || Number(digits) === 0) return undefined
  return (Number(digits) * { k: 1e3, m: 1e6, g: 1e9 }[unit as 'k' | 'm' | 'g']) / 8
}

function isListenAddress(text: string): boolean {
  const [, family, host, port] = /^\/(ip4|ip6)\/([^/]+)\/tcp\/(\d{1,5})$/.exec(text) ?? []
  return host !== undefined && isIP(host) === (family === 'ip4' ? 4 : 6) && Number(port) <= 65535
}

/** @param placeOf what a person calls the place where the value of a key came from */
function checked(given: Settings, placeOf: (key: string) => string): Settings {
  const settings = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as Settings
  for (const [key, value] of Object.entries(settings)) {
    const complain = complaints[key as keyof Settings] as ((value: unknown) => string | undefined) | undefined
    const complaint = complain?.(value)
    if (complaint === undefined) continue
    const shown = typeof value === 'string' ? ` "${value.slice(0, 100)}"` : ''
    throw new MeshError('config', `${placeOf(key)}${shown}: ${complaint}`)
  }
  return settings
}

async function readFileSettings(path: string): Promise<Settings> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return {}
    throw new MeshError('config', `${path} cannot be read: ${messageOf(error)}`, { cause: error })
  }
  // The parser takes minutes for a document of a few kilobytes that is nothing but nested.
  if (text.length > MAX_FILE) throw new MeshError('config', `${path} is longer than ${MAX_FILE / 1024} KiB`)
  const excess = excessIn(text, MAX_DEPTH)
  if (excess !== undefined) throw new MeshError('config', `${path}:${excess.line}: ${excess.why}`)
  let value: unknown
  try {
    value = withoutStacks(() => parse(text, { logLevel: 'error', prettyErrors: false })) ?? {}
  } catch (error) {
    // The parser's own way to say where looks each of its errors up.
    const where = error instanceof YAMLParseError ? ` at line ${text.slice(0, error.pos[0]).split('\n').length}` : ''
    throw new MeshError('config', `${path} is no YAML: ${messageOf(error)}${where}`, { cause: error })
  }
  const parsed = settings.safeParse(value)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!
    throw new MeshError(
      'config',
      `${path}: ${issue.path.join('.')}${issue.path.length > 0 ? ': ' : ''}${issue.message.split('\n')[0]}`,
    )
  }
  return parsed.data
}

const variableOf = (key: string): string => `DROPMESH_${key.toUpperCase().replace('-', '_')}`

// An empty variable is as good as none: that is how Compose files and unit files leave one out.
function envSettings(env: NodeJS.ProcessEnv): Settings {
  const text = (key: keyof Settings) => env[variableOf(key)] || undefined
  const list = (key: keyof Settings) =>
    text(key)
      ?.split(',')
      .map((part) => part.trim())
  const pairs = (key: keyof Settings) => {
    const all = list(key)
    return all && parseLabels(all, variableOf(key))
  }
  return {
    name: text('name'),
    join: text('join'),
    found: parseSwitch(text('found'), variableOf('found')),
    ask: text('ask'),
    open: parseSwitch(text('open'), variableOf('open')),
    listen: list('listen'),
    label: pairs('label'),
    'docker-host': text('docker-host'),
    'light-base': pairs('light-base'),
    'no-mdns': parseSwitch(text('no-mdns'), variableOf('no-mdns')),
    'prefetch-max': text('prefetch-max'),
    'packages-max': text('packages-max'),
    'package-rate': text('package-rate'),
    'registry-port': text('registry-port'),
    http: text('http'),
    'socket-group': text('socket-group'),
  }
}

function parseSwitch(text: string | undefined, place: string): boolean | undefined {
  if (text === undefined) return undefined
  const word = text.toLowerCase()
  if (['1', 'true', 'yes', 'on'].includes(word)) return true
  if (['0', 'false', 'no', 'off'].includes(word)) return false
  throw new MeshError('config', `${place} "${text.slice(0, 100)}": true or false`)
}

/** Reads `k=v` pairs. @throws MeshError `config` naming `place` */
export function parseLabels(pairs: readonly string[], place: string): Record<string, string> {
  return Object.fromEntries(
    pairs.map((pair) => {
      const at = pair.indexOf('=')
      if (at < 1) throw new MeshError('config', `${place} "${pair.slice(0, 100)}": write it as key=value`)
      return [pair.slice(0, at), pair.slice(at + 1)]
    }),
  )
}
