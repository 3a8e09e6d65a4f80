// From the content of a deployment record back to the text of a compose.yaml, for people who compare revisions. What a
// manifest need not say is left out, and an image is the beginning of its config digest. Where the reader took a text,
// it takes what is written of it, and gets the same.
import { Document, visit } from 'yaml'
import { hex } from './bytes.js'
import { DEFAULT_HEALTHCHECK } from './compose-spec.js'
import {
  type BuildSpec,
  type ChuteSpec,
  DEFAULT_LIMITS,
  DEFAULT_SECRET_MODE,
  DEFAULT_STOP_GRACE,
  type ServiceSpec,
  secretsIn,
} from './deployment.js'

/** What a terminal would obey or not show. A line's end is YAML's own. */
const UNPRINTABLE = /(?!\n)[\p{C}\u2028\u2029]/gu

/** The text, which is fit for a terminal whoever published the chute. */
export function writeManifest(spec: ChuteSpec): string {
  const document = new Document(composeOf(spec), { schema: 'core', aliasDuplicateObjects: false })
  visit(document, {
    Scalar: (_, node) => {
      // A block that begins with white space is read as another text.
      if (typeof node.value === 'string' && (node.value.search(UNPRINTABLE) >= 0 || /^[ \n]/.test(node.value)))
        node.type = 'QUOTE_DOUBLE'
    },
  })
  return document.toString({ lineWidth: 0, flowCollectionPadding: false }).replace(UNPRINTABLE, escaped)
}

/** A character as YAML writes it between double quotes. */
function escaped(char: string): string {
  const code = char.codePointAt(0)!.toString(16)
  return code.length <= 4 ? `\\u${code.padStart(4, '0')}` : `\\U${code.padStart(8, '0')}`
}

// A later version may say more of a chute than this one knows; that is shown as well, where a manifest would have it.
function composeOf(spec: ChuteSpec): unknown {
  const { services, volumes, replicas, constraints, configs, package: _, ...more } = spec
  const builds = services.some(({ build }) => build !== undefined)
  const extension = {
    ...(replicas === 'everywhere' && { everywhere: true }),
    ...(builds && { build: 'on-ap' }),
    ...more,
  }
  return plain({
    services: Object.fromEntries(
      services.map((service, i) => [service.name, serviceOf(service, i === 0 ? { replicas, constraints } : undefined)]),
    ),
    ...given('volumes', Object.fromEntries(volumes.map(volumeOf))),
    ...given('secrets', Object.fromEntries(secretsIn(spec).map((name) => [name, { external: true }]))),
    ...given('configs', Object.fromEntries((configs ?? []).map(({ name, content }) => [name, { content }]))),
    ...given('x-dropmesh', extension),
  })
}

// Compose states the placement of a chute by service, and one is enough.
function serviceOf(service: ServiceSpec, placement?: Pick<ChuteSpec, 'replicas' | 'constraints'>): object {
  const {
    name: _,
    images,
    build,
    command,
    entrypoint,
    environment,
    ports,
    mounts,
    tmpfs,
    healthcheck,
    ...others
  } = service
  const {
    user,
    workingDir,
    stopGrace,
    limits,
    capabilities,
    devices,
    sysctls,
    ulimits,
    writableRoot,
    secrets,
    ...later
  } = others
  const { rest, ...kept } = comfortsOf(later)
  const { cpu, memory, pids } = limits
  const deploy = {
    ...(typeof placement?.replicas === 'number' && placement.replicas !== 1 && { replicas: placement.replicas }),
    ...given(
      'placement',
      given(
        'constraints',
        placement?.constraints.map((c) => `node.labels.${c.label} == ${c.value}`),
      ),
    ),
    ...given(
      'resources',
      given('limits', {
        ...(cpu !== DEFAULT_LIMITS.cpu && { cpus: cpu / 1000 }),
        ...(memory !== DEFAULT_LIMITS.memory && { memory: sizeText(memory) }),
        ...(pids !== DEFAULT_LIMITS.pids && { pids }),
      }),
    ),
  }
  return {
    ...(build === undefined ? { image: hex(images[0]!.config).slice(0, 12) } : { build: buildOf(build) }),
    ...(entrypoint !== undefined && { entrypoint }),
    ...(command !== undefined && { command }),
    ...given('environment', environment),
    ...given('ports', ports.map(portText)),
    ...given(
      'volumes',
      mounts.map(({ volume, path, readOnly }) => `${volume}:${path}${readOnly ? ':ro' : ''}`),
    ),
    ...given(
      'tmpfs',
      tmpfs.map(({ path, size }) => `${path}:size=${sizeText(size)}`),
    ),
    ...(healthcheck !== undefined && { healthcheck: checkOf(healthcheck) }),
    ...(user !== undefined && { user }),
    ...(workingDir !== undefined && { working_dir: workingDir }),
    ...(stopGrace !== DEFAULT_STOP_GRACE && { stop_grace_period: durationText(stopGrace) }),
    ...given('cap_add', capabilities),
    ...given(
      'devices',
      devices?.map(({ host, container }) => (host === container ? host : `${host}:${container}`)),
    ),
    ...given(
      'sysctls',
      entries(sysctls, ({ value }) => value),
    ),
    ...given(
      'ulimits',
      entries(ulimits, ({ soft, hard }) => (soft === hard ? soft : { soft, hard })),
    ),
    ...given('secrets', secrets?.map(secretOf)),
    ...(writableRoot && { read_only: false }),
    ...kept,
    ...given('deploy', deploy),
    ...rest,
  }
}

/** What a service may say beyond what it is and what it takes; `rest` is what this version does not know. */
function comfortsOf(service: Partial<ServiceSpec>): { rest: object } & Record<string, unknown> {
  const { configs, dependsOn, mayEnd, init, stopSignal, hostname, domainName, extraHosts, ...more } = service
  const { dns, dnsSearch, dnsOptions, groups, tty, stdinOpen, shmSize, logging, ...rest } = more
  return {
    rest,
    ...given('depends_on', Object.fromEntries((dependsOn ?? []).map(({ service, ...waits }) => [service, waits]))),
    ...given('configs', configs?.map(configOf)),
    ...(mayEnd && { restart: 'on-failure' }),
    ...(init !== undefined && { init }),
    ...(stopSignal !== undefined && { stop_signal: stopSignal }),
    ...(hostname !== undefined && { hostname }),
    ...(domainName !== undefined && { domainname: domainName }),
    ...given(
      'extra_hosts',
      extraHosts?.map(({ name, address }) => `${name}=${address}`),
    ),
    ...given('dns', dns),
    ...given('dns_search', dnsSearch),
    ...given('dns_opt', dnsOptions),
    ...given('group_add', groups),
    ...(tty && { tty }),
    ...(stdinOpen && { stdin_open: stdinOpen }),
    ...(shmSize !== undefined && { shm_size: sizeText(shmSize) }),
    ...(logging !== undefined && {
      logging: { options: { 'max-size': logging.maxSize, 'max-file': logging.maxFiles } },
    }),
  }
}

function configOf({ config, path, ...owned }: NonNullable<ServiceSpec['configs']>[number]): object | string {
  const more = { ...(path !== `/${config}` && { target: path }), ...ownedBy(owned) }
  return Object.keys(more).length === 0 ? config : { source: config, ...more }
}

function checkOf({ test, interval, timeout, startPeriod, retries }: NonNullable<ServiceSpec['healthcheck']>): object {
  const tuned = {
    ...(interval !== DEFAULT_HEALTHCHECK.interval && { interval: durationText(interval) }),
    ...(timeout !== DEFAULT_HEALTHCHECK.timeout && { timeout: durationText(timeout) }),
    ...(startPeriod !== DEFAULT_HEALTHCHECK.startPeriod && { start_period: durationText(startPeriod) }),
    ...(retries !== DEFAULT_HEALTHCHECK.retries && { retries }),
  }
  if (test[0] === 'NONE' && test.length === 1 && Object.keys(tuned).length === 0) return { disable: true }
  return { test: test[0] === 'CMD-SHELL' && test.length === 2 ? test[1] : test, ...tuned }
}

function secretOf({ name, file, ...owned }: NonNullable<ServiceSpec['secrets']>[number]): object | string {
  const more = { ...(file !== name && { target: file }), ...ownedBy(owned) }
  return Object.keys(more).length === 0 ? name : { source: name, ...more }
}

const ownedBy = ({ uid, gid, mode }: { uid?: number; gid?: number; mode: number }): object => ({
  ...(uid !== undefined && { uid: String(uid) }),
  ...(gid !== undefined && { gid: String(gid) }),
  ...(mode !== DEFAULT_SECRET_MODE && { mode: `0${mode.toString(8).padStart(3, '0')}` }),
})

const volumeOf = ({ name, ephemeral }: ChuteSpec['volumes'][number]): [string, object | null] => [
  name,
  ephemeral ? { 'x-dropmesh': { ephemeral } } : null,
]

const portText = ({ container, host, protocol }: ServiceSpec['ports'][number]): string =>
  `${host === undefined ? '' : `${host}:`}${container}${protocol === 'tcp' ? '' : `/${protocol}`}`

const durationText = (ms: number): string => (ms % 1000 === 0 ? `${ms / 1000}s` : `${ms}ms`)

function sizeText(bytes: number): string {
  const unit = (
    [
      [1024 ** 3, 'g'],
      [1024 ** 2, 'm'],
      [1024, 'k'],
    ] as const
  ).find(([size]) => bytes % size === 0)
  return unit === undefined ? String(bytes) : `${bytes / unit[0]}${unit[1]}`
}

const entries = <T extends { name: string }>(all: readonly T[] | undefined, value: (one: T) => unknown): object =>
  Object.fromEntries((all ?? []).map((one) => [one.name, value(one)]))

/** A key with a value that says something, or nothing. */
function given(key: string, value: object | undefined): object {
  return value === undefined || Object.keys(value).length === 0 ? {} : { [key]: value }
}

/** Bytes as hex, and a dollar sign as a manifest has it, all the way down. */
function plain(value: unknown): unknown {
  if (typeof value === 'string') return value.replaceAll('$', '$$$$')
  if (value instanceof Uint8Array) return hex(value)
  if (Array.isArray(value)) return value.map(plain)
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]))
}

const buildOf = ({ sources, dockerfile, args }: BuildSpec): object => ({
  context: hex(sources).slice(0, 12),
  ...(dockerfile !== 'Dockerfile' && { dockerfile }),
  ...given('args', args),
})
