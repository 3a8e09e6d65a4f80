// The configuration of an AP: one typed object, its defaults, and where each value comes from: flag, over environment
// variable, over DIR/config.yaml.
import { readFile } from 'node:fs/promises'
import { homedir, hostname } from 'node:os'
import { join } from 'node:path'
import { parse } from 'yaml'
import { z } from 'zod'
import { MeshError, messageOf } from '../protocols/error.js'

export interface Config {
  /** Where this AP keeps everything. */
  data: string
  /** What people call it; letters, digits, `_`, `.` and `-`. */
  name: string
  /** A ticket, for an AP that is in no mesh yet. */
  join: string | undefined
  /** Multiaddrs; undefined means TCP 4010 on all interfaces, or a free port where that one is taken. */
  listen: string[] | undefined
  /** What `node.labels.k == v` in a manifest and `publish --on k=v` look at. */
  label: Record<string, string>
  /** URL of the container engine; undefined means DOCKER_HOST or the local socket. */
  dockerHost: string | undefined
  /** Discovery on the LAN by multicast DNS. */
  mdns: boolean
  /** HOST:PORT of a read-only copy of the API; none by default, since there is no authentication yet. */
  http: string | undefined
}

/** What may come from a flag, a variable or the file. The keys are those of config.yaml and the flags. */
const settings = z.strictObject({
  name: z.string().optional(),
  join: z.string().optional(),
  listen: z.array(z.string()).optional(),
  label: z.record(z.string(), z.coerce.string()).optional(),
  'docker-host': z.string().optional(),
  'no-mdns': z.boolean().optional(),
  http: z.string().optional(),
})
export type Settings = z.infer<typeof settings>

/** `/var/lib/dropmesh` for root, else the XDG data folder. */
export function defaultDataDir(env: NodeJS.ProcessEnv): string {
  if (env.DROPMESH_DATA) return env.DROPMESH_DATA
  return process.getuid?.() === 0 ? '/var/lib/dropmesh' : join(userDataDir(env), 'node')
}

/** The data folder of the person at the keyboard: publisher keys live here. */
export const userDataDir = (env: NodeJS.ProcessEnv): string =>
  join(env.XDG_DATA_HOME || join(homedir(), '.local', 'share'), 'dropmesh')

/** @throws MeshError `config` naming the source and the key */
export async function loadConfig(data: string, flags: Settings, env: NodeJS.ProcessEnv): Promise<Config> {
  const merged = {
    ...(await readFileSettings(join(data, 'config.yaml'))),
    ...defined(envSettings(env)),
    ...defined(flags),
  }
  const name =
    merged.name ??
    (hostname()
      .replace(/[^\w.-]/g, '-')
      .slice(0, 63) ||
      'ap')
  if (!/^[\w.-]{1,63}$/.test(name)) {
    throw new MeshError('config', `name "${name}": use 1 to 63 letters, digits, "_", "." or "-"`)
  }
  for (const [key, value] of Object.entries(merged.label ?? {})) {
    if (key.length === 0 || key.length > 128 || value.length > 256) {
      throw new MeshError('config', `label "${key}": a key has 1 to 128 characters, a value at most 256`)
    }
  }
  return {
    data,
    name,
    join: merged.join,
    listen: merged.listen,
    label: merged.label ?? {},
    dockerHost: merged['docker-host'],
    mdns: !(merged['no-mdns'] ?? false),
    http: merged.http,
  }
}

async function readFileSettings(path: string): Promise<Settings> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return {}
    throw new MeshError('config', `${path} cannot be read: ${messageOf(error)}`, { cause: error })
  }
  let value: unknown
  try {
    value = parse(text) ?? {}
  } catch (error) {
    throw new MeshError('config', `${path} is no YAML: ${messageOf(error).split('\n')[0]}`, { cause: error })
  }
  const parsed = settings.safeParse(value)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!
    throw new MeshError(
      'config',
      `${path}: ${issue.path.join('.')}${issue.path.length > 0 ? ': ' : ''}${issue.message}`,
    )
  }
  return parsed.data
}

function envSettings(env: NodeJS.ProcessEnv): Settings {
  const list = (text: string | undefined) => text?.split(',').map((part) => part.trim())
  return {
    name: env.DROPMESH_NAME,
    join: env.DROPMESH_JOIN,
    listen: list(env.DROPMESH_LISTEN),
    label: env.DROPMESH_LABEL === undefined ? undefined : parseLabels(list(env.DROPMESH_LABEL)!),
    'docker-host': env.DROPMESH_DOCKER_HOST,
    'no-mdns': env.DROPMESH_NO_MDNS === undefined ? undefined : !['', '0', 'false'].includes(env.DROPMESH_NO_MDNS),
    http: env.DROPMESH_HTTP,
  }
}

/** Reads `k=v` pairs. @throws MeshError `config` */
export function parseLabels(pairs: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    pairs.map((pair) => {
      const at = pair.indexOf('=')
      if (at < 1) throw new MeshError('config', `label "${pair}": write it as key=value`)
      return [pair.slice(0, at), pair.slice(at + 1)]
    }),
  )
}

const defined = (given: Settings): Settings =>
  Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
