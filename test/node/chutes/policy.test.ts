// The table of what a chute may ask for, row by row: what its manifest is refused, and what a real container of it has,
// by default and by right. Two containers, one of each.
import { randomBytes } from 'node:crypto'
import { readFileSync, readlinkSync } from 'node:fs'
import type Docker from 'dockerode'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { DockerEngine } from '../../../node/chutes/docker.js'
import { connectDocker } from '../../../node/chutes/docker-client.js'
import { ManifestError } from '../../../protocols/compose-remarks.js'
import type { ChuteSpec, ImageSpec } from '../../../protocols/deployment.js'
import { parseManifest, toSpec } from '../../../protocols/manifest.js'
import { asksOf, POLICY, whyNotAllowed } from '../../../protocols/policy.js'
import { BUSYBOX, ensureBusybox, imageIn } from '../../support/busybox.js'
import { until } from '../../support/until.js'

interface Case {
  /** What a service says to have more than the default; each is refused by itself. */
  asks: readonly string[]
  /** Said by a service with the right. */
  granted?: string
  /** What no right gives. */
  never?: readonly string[]
  /** What a service may say without any right. */
  free?: readonly string[]
  /** Run in a container; what it prints without and with the right. */
  probe: string
  prints: RegExp
  printsGranted?: RegExp
}

const status = (field: string) => `grep ${field}: /proc/self/status`

/** By `what` of the rule. */
const CASES: Record<string, Case> = {
  capabilities: {
    asks: ['cap_add: [NET_RAW]', 'cap_add: [cap_chown]'],
    granted: 'cap_add: [NET_RAW, CHOWN]',
    never: ['cap_add: [SYS_ADMIN]', 'cap_add: [ALL]', 'cap_add: [SYS_MODULE]', 'cap_add: [DAC_READ_SEARCH]'],
    free: ['cap_drop: [ALL]', 'cap_add: []'],
    probe: status('CapBnd'),
    prints: /CapBnd:\s0{16}$/,
    printsGranted: /CapBnd:\s0{12}2001$/,
  },
  privileged: {
    asks: ['privileged: true'],
    free: ['privileged: false'],
    probe: 'ls -d /dev/kmsg /dev/mem /dev/sda /dev/vda 2>/dev/null; mount -t tmpfs x /tmp 2>&1',
    prints: /^mount: .*(not permitted|denied)/,
  },
  devices: {
    asks: ['devices: [/dev/net/tun]', 'devices: ["/dev/ttyUSB0:/dev/modem:rw"]'],
    granted: 'devices: [/dev/net/tun]',
    never: ['devices: [/dev/sda]', 'devices: [/dev/mem]', 'devices: ["/dev/kmsg:/dev/ttyUSB0"]'],
    probe: 'ls /dev/net/tun 2>&1',
    prints: /No such file/,
    printsGranted: /^\/dev\/net\/tun$/,
  },
  'all devices of a kind': {
    asks: ["device_cgroup_rules: ['c 1:1 rwm']", 'gpus: all'],
    probe: 'mknod /tmp/mem c 1 1 2>&1',
    prints: /not permitted/,
  },
  "the host's network, PIDs, IPC, host name, users, cgroups": {
    asks: [
      ...['network_mode: host', 'pid: host', 'ipc: host', 'uts: host', 'userns_mode: host', 'cgroup: host'],
      ...['cgroup_parent: /', 'network_mode: "container:x"'],
    ],
    probe: 'ls /proc | grep -c "^[0-9]"; ls /sys/class/net | tr "\\n" " "',
    prints: /^[2-9]\neth0 lo$/,
  },
  "the host's files, docker.sock among them": {
    asks: [
      ...['volumes: [/:/host]', 'volumes: [/var/run/docker.sock:/var/run/docker.sock]', 'volumes_from: [x]'],
      ...['volumes: [{type: bind, source: /etc, target: /etc}]', 'use_api_socket: true'],
    ],
    probe: 'find / -xdev -name "*.sock" 2>/dev/null; ls /var/run/docker.sock /run/docker.sock 2>&1 | grep -c "No such"',
    prints: /^2$/,
  },
  'seccomp, AppArmor, no-new-privileges': {
    asks: ['seccomp:unconfined', 'apparmor:unconfined', 'no-new-privileges:false', 'label:disable'].map(
      (option) => `security_opt: ["${option}"]`,
    ),
    free: ['security_opt: ["no-new-privileges:true"]'],
    probe: `${status('Seccomp')}; ${status('NoNewPrivs')}`,
    prints: /^Seccomp:\s2\nNoNewPrivs:\s1$/,
  },
  'another runtime': { asks: ['runtime: other'], probe: 'echo', prints: /^$/ },
  'kernel settings': {
    asks: ['sysctls: {net.core.somaxconn: 77}', 'sysctls: [kernel.shmmni=77]'],
    granted: 'sysctls: {net.core.somaxconn: 77}',
    never: ['sysctls: {kernel.core_pattern: x}', 'sysctls: {vm.overcommit_memory: 1}', 'sysctls: {net./x: 1}'],
    probe: 'echo 78 2>&1 >/proc/sys/net/core/somaxconn; cat /proc/sys/net/core/somaxconn',
    prints: /Read-only file system\n(?!77)\d+$/,
    printsGranted: /Read-only file system\n77$/,
  },
  ulimits: {
    asks: ['ulimits: {nofile: 4097}', 'ulimits: {nofile: {soft: 1, hard: 4097}}', 'ulimits: {memlock: 1}'].concat([
      'ulimits: {core: -1}',
      'ulimits: {core: {soft: -1, hard: 0}}',
    ]),
    granted: 'ulimits: {core: 8192}',
    free: ['ulimits: {nofile: 100}', 'ulimits: {nofile: {soft: 10, hard: 4096}, core: 0}'],
    probe: 'ulimit -Hn; ulimit -Hc',
    prints: /^4096\n0$/,
    printsGranted: /^4096\n[1-9]\d*$/,
  },
  "the AP's own ports": {
    asks: ['ports: ["1023:80"]', 'ports: [{target: 80, published: 22}]', 'ports: ["53:53/udp"]'],
    granted: 'ports: ["1021:80"]',
    free: ['ports: [80]', 'ports: ["1024:80"]'],
    probe: 'echo',
    prints: /^$/,
    printsGranted: /^$/,
  },
  'root file system': {
    asks: ['read_only: false'],
    granted: 'read_only: false',
    free: ['read_only: true'],
    probe: 'echo x 2>&1 >/x; cat /x 2>/dev/null',
    prints: /^.*Read-only file system$/,
    printsGranted: /^x$/,
  },
  tmpfs: {
    asks: [],
    free: ['tmpfs: ["/scratch:size=8m"]'],
    probe: 'df -m /tmp | grep -o "tmpfs *[0-9]*"',
    prints: /^tmpfs *64$/,
  },
  // Asked for by a chute, and not by a service: test/mesh/packages.test.ts.
  'images built on APs': { asks: [], probe: 'echo', prints: /^$/ },
  'CPU, memory, processes': {
    asks: [],
    free: ['deploy: {resources: {limits: {cpus: 1, memory: 512m, pids: 500}}}'],
    probe:
      'cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/memory.max',
    prints: /^256\n268435456$/,
  },
  logs: {
    asks: ['logging: {options: {max-size: 50m, max-file: "3"}}', 'logging: {driver: syslog}'],
    free: ['logging: {driver: json-file, options: {max-size: 50m, max-file: 2}}'],
    probe: 'echo',
    prints: /^$/,
  },
}

const docker = connectDocker()
const mesh = `test-${randomBytes(6).toString('hex')}`
const engine = new DockerEngine(docker, { mesh, ap: 'ap' })
let image: ImageSpec

const test = suite('policy')
test.before(async () => {
  image = await imageIn(docker, await ensureBusybox(docker))
})
test.after(async () => {
  for (const key of ['default', 'granted']) await engine.remove(key, 0)
})

const FILE = 'compose.yaml'
const chute = (...lines: string[]): string =>
  [
    'services:',
    '  web:',
    `    image: ${BUSYBOX}`,
    '    command: [sleep, "1000"]',
    ...lines.map((line) => `    ${line}`),
  ].join('\n')

function refusal(text: string, rights?: string[]): string {
  try {
    parseManifest(text, FILE, { rights })
  } catch (error) {
    assert.instance(error, ManifestError)
    return (error as ManifestError).message
  }
  throw new Error(`accepted: ${text}`)
}

const specOf = (text: string, rights: string[]): ChuteSpec =>
  toSpec(parseManifest(text, FILE, { rights }), new Map([['web', { images: [image] }]]))

test('every row of the table has its case, and README.md shows the table', () => {
  assert.equal(
    Object.keys(CASES),
    POLICY.map(({ what }) => what),
  )
  const readme = readFileSync(new URL('../../../../README.md', import.meta.url), 'utf8')
  const rows = readme
    .split('\n')
    .filter((line) => line.startsWith('|'))
    .map((line) => line.split('|').map((cell) => cell.trim()))
  for (const { what, keys, byDefault, right, remark } of POLICY) {
    const row = [
      '',
      what,
      keys.map((key) => `\`${key}\``).join(', '),
      byDefault,
      right ? `\`${right}\`` : 'never',
      remark,
      '',
    ]
    assert.ok(
      rows.some((cells) => cells.join('|') === row.join('|')),
      `README.md lacks the row ${row.join(' | ')}`,
    )
  }
})

test('a manifest that asks for more is refused by service, file and line, and so is its record on each AP', () => {
  for (const { what, right } of POLICY) {
    const { asks, free = [], never = [] } = CASES[what]!
    for (const line of [...asks, ...never]) {
      const key = line.split(':')[0]!
      assert.match(refusal(chute(line)), new RegExp(`^compose.yaml:5:\\d+: services.web.${key}\\b`), line)
    }
    // With every right there is.
    for (const line of right === undefined ? asks : never) refusal(chute(line), ['*'])
    for (const line of free) assert.equal(asksOf(parseManifest(chute(line), FILE).services[0]!), [], line)
    if (right === undefined) continue
    for (const line of asks) {
      assert.match(refusal(chute(line)), new RegExp(`needs the right ${right.split(':')[0]}:`), line)
      const spec = specOf(chute(line), ['*'])
      const rights = spec.services.flatMap((service) => asksOf(service).map((ask) => ask.right))
      assert.match(
        whyNotAllowed(spec, [])!,
        `service web needs the right ${rights[0]}, which its publisher does not hold`,
      )
      assert.is(whyNotAllowed(spec, rights), undefined, 'exactly these rights are enough')
    }
  }
})

test('a record that was signed without a manifest is held to the same table', () => {
  const spec = specOf(chute(), [])
  const web = spec.services[0]!
  const hostile = { ...web, capabilities: ['SYS_ADMIN'], devices: [{ host: '/dev/sda', container: '/dev/video0' }] }
  assert.is(
    whyNotAllowed({ ...spec, services: [hostile] }, ['*', 'cap:SYS_ADMIN']),
    'service web asks for cap:SYS_ADMIN, which no chute may have; service web asks for device:/dev/sda, which no chute may have',
  )
  const ways = { ulimits: [{ name: 'constructor', soft: 1, hard: 1 }], sysctls: [{ name: 'net.x', value: '1' }] }
  for (const [key, values] of Object.entries(ways)) {
    assert.match(whyNotAllowed({ ...spec, services: [{ ...web, [key]: values }] }, [])!, 'needs the right')
  }
})

test('a container has what its row says, by default and by right', async () => {
  const granted = Object.values(CASES).flatMap((row) => row.granted ?? [])
  const rights = specOf(chute(...granted), ['*']).services.flatMap((web) => asksOf(web).map(({ right }) => right))
  const specs = { default: specOf(chute(), []), granted: specOf(chute(...granted), rights) }
  const containers = await Promise.all(Object.entries(specs).map(([key, spec]) => start(key, spec)))
  for (const [what, { probe, prints, printsGranted = prints }] of Object.entries(CASES)) {
    const [byDefault, byRight] = await Promise.all(containers.map((container) => run(container, probe)))
    assert.match(byDefault!, prints, `${what}: ${byDefault}`)
    assert.match(byRight!, printsGranted, `${what}, granted: ${byRight}`)
  }
  assert.is((await containers[1]!.inspect()).NetworkSettings.Ports['80/tcp']![0]!.HostPort, '1021')
  const namespaces = ['net', 'pid', 'ipc', 'uts', 'mnt', 'cgroup']
  const own = (await run(containers[0]!, namespaces.map((name) => `readlink /proc/self/ns/${name}`).join(';'))).split(
    '\n',
  )
  assert.is(own.length, namespaces.length)
  for (const name of namespaces) assert.not(own.includes(readlinkSync(`/proc/self/ns/${name}`)), name)
})

async function start(key: string, spec: ChuteSpec): Promise<Docker.Container> {
  const names = { instance: `${key}.0`, chute: key, chuteKey: key, revision: '1', epoch: '1', generation: '1' }
  await engine.create({ key, ...names, spec, environment: {} })
  await engine.start(key)
  const [state] = (await engine.containers()).filter((container) => container.key === key)
  assert.ok(state!.running, state!.error)
  return docker.getContainer(state!.id)
}

/** What a line of shell prints in a container. */
async function run(container: Docker.Container, line: string): Promise<string> {
  const exec = await container.exec({ Cmd: ['sh', '-c', line], AttachStdout: true, AttachStderr: true, Tty: true })
  const stream = await exec.start({ Tty: true })
  let text = ''
  stream.on('data', (chunk) => {
    text += chunk
  })
  await until('the probe to end', async () => !(await exec.inspect()).Running && stream.readableEnded)
  return text.replaceAll('\r\n', '\n').trim()
}

test.run()
