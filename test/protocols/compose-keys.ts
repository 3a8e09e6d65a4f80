// Every key that the Compose schema has, by the object it stands in, with a value to try where a plain text will not do;
// and what becomes of it in a chute. https://github.com/compose-spec/compose-spec/blob/main/schema/compose-spec.json
import { ManifestError } from '../../protocols/compose-remarks.js'
import { parseManifest } from '../../protocols/manifest.js'

/** A manifest around one key of an object. */
type Frame = (line: string) => string

const indented = (depth: number, text: string) => text.replace(/^/gm, ' '.repeat(depth))
const service: Frame = (line) =>
  [
    'services:',
    '  web:',
    ...(/^(image|build):/.test(line) ? [] : ['    image: x']),
    indented(4, line),
    '  db: {image: y}',
  ]
    .concat(['volumes: {data: }', 'networks: {net: }', 'secrets: {s: {external: true}}', 'configs: {c: {content: x}}'])
    .join('\n')
/** In a map of the service, beside what that needs. */
const inside =
  (key: string, beside = ''): Frame =>
  (line) =>
    service(`${key}:\n${indented(2, [line, ...(beside === '' ? [] : [beside])].join('\n'))}`)
/** In an item of a list of the service. */
const item =
  (key: string, beside: Record<string, string>): Frame =>
  (line) => {
    const rest = Object.entries(beside).filter(([name]) => !line.startsWith(`${name}:`))
    return service(`${key}:\n  - ${[line, ...rest.map(([name, is]) => `${name}: ${is}`)].join('\n    ')}`)
  }
const top =
  (section: string, name: string, beside: Record<string, string> = {}): Frame =>
  (line) => {
    const rest = Object.entries(beside).filter(([key]) => !line.startsWith(`${key}:`))
    const body = [line, ...rest.map(([key, is]) => `${key}: ${is}`)].join('\n')
    return `services: {web: {image: x}}\n${section}:\n  ${name}:\n${indented(4, body)}`
  }

const words = (text: string, values: Record<string, string> = {}): Record<string, string> =>
  Object.fromEntries(text.split(' ').map((key) => [key, values[key] ?? 'x']))
const all = (is: string, text: string) => Object.fromEntries(text.split(' ').map((key) => [key, is]))

/** By the object: its frame, and its keys with a value each. */
export const KEYS: Record<string, [Frame, Record<string, string>]> = {
  'top level': [
    (line) => (line.startsWith('services:') ? line : `${line}\nservices: {web: {image: x}}`),
    words('version name include services models networks volumes secrets configs', {
      include: '[other.yaml]',
      services: '{web: {image: x}}',
      networks: '{net: }',
      volumes: '{data: }',
      secrets: '{s: {external: true}}',
      configs: '{c: {content: x}}',
    }),
  ],
  'a service': [
    service,
    words(
      'annotations attach blkio_config build cap_add cap_drop cgroup cgroup_parent command configs container_name ' +
        'cpu_count cpu_percent cpu_period cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares cpus cpuset credential_spec ' +
        'depends_on deploy develop device_cgroup_rules devices dns dns_opt dns_search domainname entrypoint env_file ' +
        'environment expose extends external_links extra_hosts gpus group_add healthcheck hostname image init ipc ' +
        'isolation label_file labels links logging mac_address mem_limit mem_reservation mem_swappiness memswap_limit ' +
        'models network_mode networks oom_kill_disable oom_score_adj pid pids_limit platform ports post_start pre_stop ' +
        'privileged profiles provider pull_policy pull_refresh_after read_only restart runtime scale secrets ' +
        'security_opt shm_size stdin_open stop_grace_period stop_signal storage_opt sysctls tmpfs tty ulimits ' +
        'use_api_socket user userns_mode uts volumes volumes_from working_dir',
      {
        ...all('[]', 'cap_drop group_add dns_opt'),
        ...all('true', 'init tty stdin_open read_only privileged'),
        ...{ build: '.', cap_add: '[CHOWN]', configs: '[c]', secrets: '[s]', cpus: '0.5', depends_on: '[db]' },
        ...{ deploy: '{replicas: 1}', devices: '[/dev/ttyUSB0]', dns: '10.0.0.1', dns_search: '[example.org]' },
        ...{ env_file: 'x.env', environment: '{A: x}', extends: 'db', extra_hosts: '["a=10.0.0.1"]', expose: '[80]' },
        ...{ healthcheck: '{test: x}', links: '[db]', logging: '{driver: json-file}', mem_limit: '64m' },
        ...{ networks: '[default]', pids_limit: '9', ports: '["8080:80"]', profiles: '[]', restart: 'always' },
        ...{ scale: '2', security_opt: '["no-new-privileges:true"]', shm_size: '1m', stop_grace_period: '1s' },
        ...{ stop_signal: 'SIGINT', sysctls: '{net.core.somaxconn: 7}', tmpfs: '/run', ulimits: '{nofile: 9}' },
        ...{ volumes: '["data:/data"]', working_dir: '/x' },
      },
    ),
  ],
  build: [
    inside('build'),
    words(
      'context dockerfile dockerfile_inline entitlements args ssh labels cache_from cache_to no_cache ' +
        'additional_contexts network provenance sbom pull target shm_size extra_hosts isolation privileged secrets tags ' +
        'ulimits platforms',
      { args: '{A: x}' },
    ),
  ],
  deploy: [
    inside('deploy'),
    words('mode endpoint_mode replicas labels rollback_config update_config resources restart_policy placement', {
      ...{ mode: 'replicated', replicas: '1', resources: '{limits: {cpus: 1}}', placement: '{constraints: []}' },
      restart_policy: '{condition: any}',
    }),
  ],
  'deploy.placement': [
    (line) => inside('deploy')(`placement: {${line}}`),
    words('constraints preferences max_replicas_per_node', { constraints: '[node.labels.a == b]' }),
  ],
  'deploy.resources': [
    (line) => inside('deploy')(`resources: {${line}}`),
    words('limits reservations', { limits: '{memory: 64m}', reservations: '{}' }),
  ],
  'deploy.resources.limits': [
    (line) => inside('deploy')(`resources: {limits: {${line}}}`),
    { cpus: '1', memory: '64m', pids: '9' },
  ],
  'deploy.resources.reservations': [
    (line) => inside('deploy')(`resources: {reservations: {${line}}}`),
    words('cpus memory generic_resources devices'),
  ],
  'deploy.restart_policy': [
    (line) => inside('deploy')(`restart_policy: {${line}}`),
    words('condition delay max_attempts window', { condition: 'any' }),
  ],
  depends_on: [
    (line) => service(`depends_on: {db: {${line}}}`),
    { condition: 'service_healthy', required: 'true', restart: 'true' },
  ],
  devices: [
    item('devices', { source: '/dev/ttyUSB0' }),
    { source: '/dev/ttyUSB0', target: '/dev/ttyUSB1', permissions: 'rw' },
  ],
  env_file: [item('env_file', { path: 'x.env' }), { path: 'x.env', required: 'true', format: 'raw' }],
  extends: [
    (line) => service(`extends: {${line}${line.startsWith('service') ? '' : ', service: db'}}`),
    { service: 'db', file: 'other.yaml' },
  ],
  healthcheck: [
    (line) => service(`healthcheck: {${line}${/^(test|disable)/.test(line) ? '' : ', test: x'}}`),
    words('disable interval retries test timeout start_period start_interval', {
      ...all('5s', 'interval timeout start_period start_interval'),
      disable: 'true',
      retries: '2',
    }),
  ],
  include: [
    (line) =>
      `include:\n  - {${line}${line.startsWith('path') ? '' : ', path: other.yaml'}}\nservices: {web: {image: x}}`,
    { path: 'other.yaml', env_file: 'x.env', project_directory: 'x' },
  ],
  logging: [inside('logging'), { driver: 'json-file', options: '{max-size: 1m, max-file: "2"}' }],
  'networks of a service': [
    (line) => service(`networks: {default: {${line}}}`),
    words(
      'aliases interface_name ipv4_address ipv6_address link_local_ips mac_address driver_opts priority gw_priority',
    ),
  ],
  ports: [
    item('ports', { target: '80' }),
    words('name mode host_ip target published protocol app_protocol', {
      ...{ mode: 'host', target: '80', published: '8080', protocol: 'tcp' },
    }),
  ],
  'configs of a service': [
    item('configs', { source: 'c' }),
    { source: 'c', target: '/x', uid: '"1"', gid: '"1"', mode: '0440' },
  ],
  'secrets of a service': [
    item('secrets', { source: 's' }),
    { source: 's', target: 'x', uid: '"1"', gid: '"1"', mode: '0440' },
  ],
  'volumes of a service': [
    item('volumes', { type: 'volume', source: 'data', target: '/data' }),
    words('type source target read_only consistency bind volume tmpfs image', {
      ...{ type: 'volume', source: 'data', target: '/x', read_only: 'true', volume: '{}' },
    }),
  ],
  'volumes of a service, volume': [
    (line) => item('volumes', { type: 'volume', source: 'data', target: '/data' })(`volume: {${line}}`),
    words('labels nocopy subpath'),
  ],
  ulimits: [
    (line) => service(`ulimits: {nofile: {${line}, ${line.startsWith('soft') ? 'hard' : 'soft'}: 9}}`),
    all('9', 'soft hard'),
  ],
  configs: [
    (line) => top('configs', 'c', /^(content|file|environment|external)/.test(line) ? {} : { content: 'x' })(line),
    words('name content environment file external labels template_driver', {
      ...{ environment: 'A', file: 'other.yaml', external: 'true' },
    }),
  ],
  networks: [
    top('networks', 'n'),
    words('name driver driver_opts ipam external internal enable_ipv4 enable_ipv6 attachable labels', {
      ...{ driver: 'bridge', external: 'true', internal: 'true' },
    }),
  ],
  secrets: [
    top('secrets', 's', { external: 'true' }),
    words('name environment file external labels driver driver_opts template_driver', { external: 'true' }),
  ],
  volumes: [
    top('volumes', 'v'),
    words('name driver driver_opts external labels', { driver: 'local', external: 'true' }),
  ],
}

/** Objects of the schema of which nothing is read, since the key that they stand under is refused or passed over. */
export const BENEATH: Record<string, string[]> = {
  'top level': ['models'],
  'a service': ['blkio_config', 'credential_spec', 'develop', 'gpus', 'models', 'post_start', 'pre_stop', 'provider'],
  deploy: ['rollback_config', 'update_config'],
  'deploy.placement': ['preferences'],
  'deploy.resources.reservations': ['devices', 'generic_resources'],
  networks: ['ipam'],
  'volumes of a service': ['bind', 'image', 'tmpfs'],
}

const OTHER = 'services:\n  db: {image: z}\n'

export type Verdict = 'runs' | 'ignored' | 'refused'

/** What becomes of a key, and what is said of it. */
export function judge(where: string, key: string): { verdict: Verdict; why: string } {
  const [frame, values] = KEYS[where]!
  // Two files of the same services are one service too many.
  const other = where === 'include' || key === 'include' ? OTHER.replace('db', 'more') : OTHER
  const files: Record<string, string> = { 'other.yaml': other, 'x.env': 'A=1\n' }
  const text = frame(`${key}: ${values[key]}`)
  const isHere = ({ path }: { path: string }) => `.${path.replace(/\[\d+\]$/, '')}`.endsWith(`.${key}`)
  try {
    const { notes } = parseManifest(text, 'compose.yaml', {
      rights: ['*'],
      variables: (name) => (name === 'A' ? '1' : undefined),
      readFile: (path) => files[path],
    })
    const note = notes.find(isHere)
    return { verdict: note ? 'ignored' : 'runs', why: note?.message.replace(/^ignored: /, '') ?? '' }
  } catch (error) {
    if (!(error instanceof ManifestError)) throw error
    const problem = error.problems.find(isHere)
    if (problem === undefined || error.problems.length > 1) throw new Error(`${where}, ${key}: ${error.message}`)
    return { verdict: 'refused', why: problem.message.replace(/^not supported in a chute: /, '') }
  }
}
