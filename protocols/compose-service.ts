// The keys of a service: which are read and how, which are passed over with a note, and why the others are refused. Named
// as in the Compose specification; README.md has them as one table.
import * as parts from './compose-parts.js'
import { SERVICE_SPEC, SPEC } from './compose-parts.js'
import {
  attempt,
  byKind,
  type Fields,
  fields,
  flag,
  list,
  type Placed,
  parsing,
  placed,
  plain,
  type Reader,
  text,
  textOrNumber,
  within,
} from './compose-reader.js'
import * as compose from './compose-values.js'
import { isGitUrl, parseGitUrl } from './git-url.js'
import { reasonsWhyNever } from './policy.js'

export const HOST = 'a chute has no access to its host'
export const UNREAD = 'nothing on an AP reads it'
const LIMITS = 'what limits a service is deploy.resources.limits'
const WINDOWS = 'it is for Windows'
const BUILDING = 'an AP builds from a folder and its Dockerfile, without a network'
const SAME_IMAGE = 'the image that comes of it is the same'

/** A path of the manifest's folder, given relative to the file that it stands in. */
export const ownPath = byKind<string>({
  text: (value) => attempt(value, value.text(), (path) => compose.ownPath(path, value.reading.folder)),
})

/** Such a path, or the URL of a git repository, which is fetched when the chute is published. */
const context = byKind<string>({
  text: (value) =>
    attempt(value, value.text(), (text) => {
      if (!isGitUrl(text)) return compose.ownPath(text, value.reading.folder)
      parseGitUrl(text)
      return text
    }),
})

const BUILD = fields(
  {
    context,
    dockerfile: text(compose.ownPath),
    dockerfile_inline: placed(byKind({ text: (value) => value.text() })),
    args: parts.variables,
  },
  {
    refused: {
      target: 'the last stage of a Dockerfile is built: reorder it, or give it a Dockerfile of its own',
      ...Object.fromEntries(
        ['additional_contexts', 'entitlements', 'extra_hosts', 'isolation', 'network', 'privileged', 'secrets', 'ssh']
          .concat('shm_size', 'ulimits')
          .map((key) => [key, BUILDING]),
      ),
      platforms: 'an image is of the platform of the AP that it is published from',
    },
    ignored: {
      ...Object.fromEntries(
        ['cache_from', 'cache_to', 'no_cache', 'provenance', 'pull', 'sbom'].map((key) => [key, SAME_IMAGE]),
      ),
      labels: UNREAD,
      tags: 'an image is named by its digest',
    },
  },
)
const build = byKind<Fields<typeof BUILD>>({ text: (value) => ({ context: context(value) }), map: BUILD })

const cpus = within(SERVICE_SPEC.limits.shape.cpu, textOrNumber(compose.cpus), 'thousandths of a CPU')
const memory = within(SERVICE_SPEC.limits.shape.memory, textOrNumber(compose.size), 'bytes')
const pids = within(SERVICE_SPEC.limits.shape.pids, textOrNumber(compose.whole))
const replicas = placed(within(SPEC.replicas, textOrNumber(compose.whole)))

const SPREAD = 'the mesh spreads instances by itself'
const UPDATES = 'an AP replaces the services of an instance together, and "dropmesh rollback" goes back'
const RESTARTS = 'an AP starts again what failed, and waits longer each time'

const DEPLOY = fields(
  {
    mode: placed(text(compose.oneOf('replicated', 'global'))),
    replicas,
    placement: fields(
      { constraints: list(placed(within(SPEC.constraints.element, text(compose.constraint)))) },
      { ignored: { preferences: SPREAD }, refused: { max_replicas_per_node: SPREAD } },
    ),
    resources: fields({
      limits: fields({ cpus: placed(cpus), memory: placed(memory), pids: placed(pids) }),
      reservations: fields(
        {},
        {
          ignored: { cpus: 'an AP reserves the limits', memory: 'an AP reserves the limits' },
          refused: { devices: 'name each one under devices', generic_resources: 'an AP has CPU and memory to give' },
        },
      ),
    }),
    restart_policy: fields(
      { condition: text(compose.oneOf('none', 'on-failure', 'any')) },
      { ignored: { delay: RESTARTS, max_attempts: RESTARTS, window: RESTARTS } },
    ),
  },
  {
    ignored: {
      endpoint_mode: 'a service is one container in each instance',
      labels: UNREAD,
      rollback_config: UPDATES,
      update_config: UPDATES,
    },
  },
)

const EXTENDS = fields({ service: text(compose.name), file: ownPath })
const extending = byKind<Fields<typeof EXTENDS>>({
  text: (value) => ({ service: text(compose.name)(value) }),
  map: EXTENDS,
})

/** Whether what ends with status 0 is done. `no` alone means that in Compose, and so does not mean it here. */
const restart: Reader<boolean> = byKind({
  text: (value) => {
    const policy = parsing((word) => {
      const [, is, times] = /^(no|always|unless-stopped|on-failure)(?::(\d+))?$/.exec(word) ?? []
      return { is: is ?? compose.oneOf('no', 'always', 'unless-stopped', 'on-failure')(word), times }
    })(value)
    if (policy === undefined) return undefined
    if (policy.is === 'no' || policy.times !== undefined) value.note(`${RESTARTS}; what ends with status 0 is done`)
    return policy.is === 'no' || policy.is === 'on-failure'
  },
})

const NETWORK_OF_SERVICE = fields(
  {},
  {
    refused: Object.fromEntries(
      ['aliases', 'interface_name', 'ipv4_address', 'ipv6_address', 'link_local_ips', 'mac_address', 'driver_opts'].map(
        (key) => [key, 'a service is reached by its own name, at the address that its AP gives it'],
      ),
    ),
    ignored: { gw_priority: 'there is one network', priority: 'there is one network' },
  },
)
const networks = placed(
  byKind<string[]>({
    nothing: () => [],
    list: (value) => value.list().flatMap((item) => plain(item) ?? []),
    map: (value) =>
      [...value.map()].map(([name, at]) => {
        byKind<unknown>({ nothing: parts.nothing, map: NETWORK_OF_SERVICE })(at)
        return name
      }),
  }),
)

const link: Reader<undefined> = (value) => {
  const name = plain(value)
  if (name?.includes(':')) return value.refuse('a service is reached by its own name alone')
  value.note('ignored: each service reaches the others by their names')
  return undefined
}

export const SERVICE = fields(
  {
    image: text(compose.imageReference),
    build: placed(build),
    extends: placed(extending),
    profiles: list(plain),
    command: within(SERVICE_SPEC.command, parts.words),
    entrypoint: within(SERVICE_SPEC.entrypoint, parts.words),
    environment: within(SERVICE_SPEC.environment, parts.variables),
    env_file: parts.envFiles,
    depends_on: parts.dependencies,
    ports: list(placed(parts.port)),
    volumes: list(placed(within(SERVICE_SPEC.mounts.element, parts.mount))),
    tmpfs: parts.tmpfs,
    shm_size: within(SERVICE_SPEC.shmSize, textOrNumber(compose.size), 'bytes'),
    configs: list(placed(parts.configFile)),
    secrets: list(placed(parts.secretFile)),
    healthcheck: placed(parts.HEALTHCHECK),
    logging: placed(parts.LOGGING),
    user: within(SERVICE_SPEC.user, plain),
    group_add: list(
      placed(
        within(
          SERVICE_SPEC.groups.unwrap().element,
          textOrNumber((is) => is),
        ),
      ),
    ),
    working_dir: within(SERVICE_SPEC.workingDir, text(compose.containerPath)),
    init: flag,
    tty: flag,
    stdin_open: flag,
    stop_signal: textOrNumber(compose.signal),
    stop_grace_period: within(SERVICE_SPEC.stopGrace, textOrNumber(compose.duration), 'ms'),
    restart,
    hostname: within(SERVICE_SPEC.hostname, text(compose.hostName)),
    domainname: text(compose.hostName),
    extra_hosts: parts.extraHosts,
    dns: parts.oneOrMore(placed(text(compose.address))),
    dns_search: parts.oneOrMore(placed(text(compose.hostName))),
    dns_opt: list(placed(within(SERVICE_SPEC.dnsOptions.unwrap().element, plain))),
    networks,
    links: list(link),
    cap_add: list(placed(text(compose.capability))),
    devices: list(placed(parts.device)),
    sysctls: parts.sysctls,
    ulimits: parts.ulimits,
    // Who asks for what a chute has anyway, as hardened manifests do, gets it.
    cap_drop: list(placed(text(compose.capability))),
    read_only: placed(flag),
    privileged: (value) => (flag(value) ? value.refuse(`not supported in a chute: ${HOST}`) : undefined),
    security_opt: list(text(compose.securityOption)),
    deploy: byKind({ nothing: parts.nothing, map: DEPLOY }),
    cpus: placed(cpus),
    mem_limit: placed(memory),
    pids_limit: placed(pids),
    scale: replicas,
  },
  {
    refused: {
      ...reasonsWhyNever(),
      ...Object.fromEntries(
        ['blkio_config', 'cpu_period', 'cpu_quota', 'cpu_rt_period', 'cpu_rt_runtime', 'cpu_shares', 'cpuset'].map(
          (key) => [key, LIMITS],
        ),
      ),
      ...Object.fromEntries(['cpu_count', 'cpu_percent', 'credential_spec', 'isolation'].map((key) => [key, WINDOWS])),
      external_links: 'a chute reaches none of the containers of others',
      mac_address: 'copies of a chute share no address',
      models: 'an AP runs containers alone',
      oom_kill_disable: 'an AP must be able to end what takes its memory',
      oom_score_adj: 'an AP decides what it gives up first',
      platform: 'an image is of the platform of the AP that it is published from',
      post_start: 'an AP runs no commands beside those of a service: write it into the entrypoint',
      pre_stop: 'an AP runs no commands beside those of a service: have it heed stop_signal',
      provider: 'an AP runs containers alone',
      storage_opt: 'what is written lies in volumes and tmpfs',
    },
    ignored: {
      annotations: UNREAD,
      attach: 'nobody is there to watch its output',
      container_name: 'a service is reached by its own name',
      develop: 'it is for "docker compose watch"',
      expose: 'the services of a chute reach each other at every port',
      label_file: UNREAD,
      labels: UNREAD,
      mem_reservation: 'an AP reserves the limits',
      mem_swappiness: 'a chute has no swap',
      memswap_limit: 'a chute has no swap',
      pull_policy: 'an image is found when it is published, and fetched from APs that have it',
      pull_refresh_after: 'an image is found when it is published, and fetched from APs that have it',
    },
  },
)
export type ReadService = Fields<typeof SERVICE>

/** A service as it is read, with what it extends, and where it stands. */
export type Services = Map<string, Placed<ReadService>>
