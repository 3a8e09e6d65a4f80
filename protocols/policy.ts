// What a chute may ask of the AP that runs it: one table. The manifest and every AP decide by it (`lackingRights`), a
// container is set up by it (`DEFAULT_ULIMITS`), and README.md shows it. A right is a word such as `cap:NET_RAW`, which a
// publisher holds by a grant. What no right allows would make a chute root of its AP, whose keys it would then have.
import { type ChuteSpec, DEFAULT_LOGGING, MAX_LOGS, type ServiceSpec } from './deployment.js'

export interface Rule {
  readonly what: string
  /** The keys of a service in a manifest. */
  readonly keys: readonly string[]
  /** What every chute has, or may ask for. */
  readonly byDefault: string
  /** The right that allows more; undefined where nothing does. */
  readonly right?: string
  /** What the right can be for, or why there is none. */
  readonly remark: string
}

/** Within the namespaces of a container these give power over nothing but it. Docker's own default set, but MKNOD, is among them. */
const CAPABILITIES = [
  ...['AUDIT_WRITE', 'CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'IPC_LOCK', 'KILL', 'NET_ADMIN', 'NET_BIND_SERVICE'],
  ...['NET_RAW', 'SETFCAP', 'SETGID', 'SETPCAP', 'SETUID', 'SYS_CHROOT', 'SYS_NICE'],
]

/** Radios, cameras, sound, buttons, buses: no disk, no memory of the AP, no console of its kernel. */
const DEVICES =
  /^\/dev\/(tty(USB|ACM|AMA|S)\d+|(video|media|hidraw|gpiochip|i2c-)\d+|spidev\d+\.\d+|(snd|input|dri)\/\w+|bus\/usb\/\d+\/\d+|net\/tun)$/

/** Those that each container has for itself. */
const SYSCTLS =
  /^(net\.[\w.-]+|kernel\.(msgmax|msgmnb|msgmni|sem|shmall|shmmax|shmmni|shm_rmid_forced)|fs\.mqueue\.\w+)$/

/** Ports that the services of the AP itself are on: ssh, DNS, its web page. */
const LOW_PORTS = 1024

/** A manifest may ask for less of these. 4096 files is what Linux allows by itself, so that every engine can give it. */
export const DEFAULT_ULIMITS: Readonly<Record<string, number>> = { nofile: 4096, core: 0 }

/** Who has it may have APs build what it publishes: `x-dropmesh: {build: on-ap}`. */
export const BUILD_RIGHT = 'build:on-ap'

const OF_THE_HOST = 'a chute has no access to its host'

export const POLICY: readonly Rule[] = [
  {
    what: 'capabilities',
    keys: ['cap_add', 'cap_drop'],
    byDefault: 'none: all are dropped',
    right: 'cap:NAME',
    remark: `${CAPABILITIES.slice(0, -1).join(', ')} and ${CAPABILITIES.at(-1)}; no right gives another`,
  },
  { what: 'privileged', keys: ['privileged'], byDefault: 'no', remark: OF_THE_HOST },
  {
    what: 'devices',
    keys: ['devices'],
    byDefault: 'none',
    right: 'device:/dev/NAME',
    remark: 'serial ports, cameras, sound, input, GPU, GPIO, I²C, SPI, USB and /dev/net/tun; no right gives another',
  },
  {
    what: 'all devices of a kind',
    keys: ['device_cgroup_rules', 'gpus'],
    byDefault: 'none',
    remark: 'name each one under devices',
  },
  {
    what: "the host's network, PIDs, IPC, host name, users, cgroups",
    keys: ['network_mode', 'pid', 'ipc', 'uts', 'userns_mode', 'cgroup', 'cgroup_parent'],
    byDefault: 'namespaces of its own',
    remark: OF_THE_HOST,
  },
  {
    what: "the host's files, docker.sock among them",
    keys: ['volumes', 'volumes_from', 'use_api_socket'],
    byDefault: 'named volumes of the chute',
    remark: OF_THE_HOST,
  },
  {
    what: 'seccomp, AppArmor, no-new-privileges',
    keys: ['security_opt'],
    byDefault: "Docker's own profiles; no-new-privileges",
    remark: 'the hardening of a chute is fixed',
  },
  { what: 'another runtime', keys: ['runtime'], byDefault: "the engine's own", remark: OF_THE_HOST },
  {
    what: 'kernel settings',
    keys: ['sysctls'],
    byDefault: 'none',
    right: 'sysctl:NAME',
    remark: 'net.*, and those of IPC, which each container has for itself; no right gives another',
  },
  {
    what: 'ulimits',
    keys: ['ulimits'],
    byDefault: `nofile to ${DEFAULT_ULIMITS.nofile}, core ${DEFAULT_ULIMITS.core}`,
    right: 'ulimit:NAME',
    remark: 'as much as the engine itself has',
  },
  {
    what: "the AP's own ports",
    keys: ['ports'],
    byDefault: `${LOW_PORTS} and above, or one that the engine picks`,
    right: 'port:NUMBER',
    remark: `below ${LOW_PORTS}; in its container a chute listens where it likes`,
  },
  {
    what: 'root file system',
    keys: ['read_only'],
    byDefault: 'read-only',
    right: 'root:write',
    remark: "what is written to it has no limit but the AP's disk, and is lost with the container",
  },
  {
    what: 'tmpfs',
    keys: ['tmpfs'],
    byDefault: '64 MiB on /tmp; more where the manifest says so',
    remark: 'what is written counts as memory of the service',
  },
  {
    what: 'images built on APs',
    keys: ['x-dropmesh'],
    byDefault: 'no: they are built where they are published',
    right: BUILD_RIGHT,
    remark: "steps of a build have Docker's default capabilities, no network, and no limit on the disk they take",
  },
  {
    what: 'CPU, memory, processes',
    keys: ['deploy'],
    byDefault: 'half a CPU, 256 MiB, 256; more where the manifest says so',
    remark: 'as much as an AP has free',
  },
  {
    what: 'logs',
    keys: ['logging'],
    byDefault: `${DEFAULT_LOGGING.maxFiles} files of ${DEFAULT_LOGGING.maxSize / 1e6} MB; more where the manifest says so`,
    remark: `${MAX_LOGS / 1e6} MB at most`,
  },
]

/** Why a manifest may never say these keys, by key; those that it may say are in the reader's own table. */
export const reasonsWhyNever = (): Record<string, string> =>
  Object.fromEntries(
    POLICY.filter(({ right }) => right === undefined).flatMap(({ keys, remark }) => keys.map((key) => [key, remark])),
  )

/** What a publisher holds: words such as `cap:NET_RAW`, or the beginnings of such, as in `port:*`. */
export type Rights = readonly string[]

export const NO_RIGHTS: Rights = []

/** Whether who holds a right has all that another one, or its pattern, says. */
const coversRight = (held: string, asked: string): boolean =>
  held === asked || (held.endsWith('*') && asked.startsWith(held.slice(0, -1)))

/** Something a service asks for that not every chute may have. */
export interface Ask {
  readonly right: string
  /** Where a manifest asks for it: the key of the service, and which of the values there. */
  readonly key: 'cap_add' | 'devices' | 'sysctls' | 'ulimits' | 'ports' | 'read_only' | 'build'
  readonly index: number
  /** Whether there is such a right. */
  readonly isGrantable: boolean
}

/** A service, also one that has no images yet. */
type Asking = Omit<ServiceSpec, 'images'>

export function asksOf(service: Asking): Ask[] {
  const { capabilities = [], devices = [], sysctls = [], ulimits = [], ports, writableRoot, build } = service
  const asks = <T>(
    values: readonly T[],
    key: Ask['key'],
    rightOf: (value: T) => string | undefined,
    isGrantable: (value: T) => boolean = () => true,
  ): Ask[] =>
    values.flatMap((value, index) => {
      const right = rightOf(value)
      return right === undefined ? [] : [{ right, key, index, isGrantable: isGrantable(value) }]
    })
  // -1 is no limit.
  const isMore = ({ name, soft, hard }: (typeof ulimits)[number]) =>
    Math.min(soft, hard) < 0 || !(Math.max(soft, hard) <= (new Map(Object.entries(DEFAULT_ULIMITS)).get(name) ?? -1))
  return [
    ...asks(
      capabilities,
      'cap_add',
      (name) => `cap:${name}`,
      (name) => CAPABILITIES.includes(name),
    ),
    ...asks(
      devices,
      'devices',
      ({ host }) => `device:${host}`,
      ({ host }) => DEVICES.test(host),
    ),
    ...asks(
      sysctls,
      'sysctls',
      ({ name }) => `sysctl:${name}`,
      ({ name }) => SYSCTLS.test(name),
    ),
    ...asks(ulimits, 'ulimits', (limit) => (isMore(limit) ? `ulimit:${limit.name}` : undefined)),
    ...asks(ports, 'ports', ({ host }) => (host !== undefined && host < LOW_PORTS ? `port:${host}` : undefined)),
    ...asks(writableRoot ? [true] : [], 'read_only', () => 'root:write'),
    ...asks(build ? [true] : [], 'build', () => BUILD_RIGHT),
  ]
}

/** What of it somebody with these rights may not ask for. */
export const lackingRights = (service: Asking, held: Rights): Ask[] =>
  asksOf(service).filter(({ right, isGrantable }) => !isGrantable || !holdsRight(held, right))

/** Whether somebody with these rights has that one. */
export const holdsRight = (held: Rights, right: string): boolean => held.some((pattern) => coversRight(pattern, right))

/** In a few words, for people. */
const lackText = ({ right, isGrantable }: Ask): string =>
  isGrantable
    ? `needs the right ${right}, which its publisher does not hold`
    : `asks for ${right}, which no chute may have`

/** Why no AP runs a chute of somebody with these rights; undefined where they do. */
export function whyNotAllowed({ services }: ChuteSpec, held: Rights): string | undefined {
  const lacks = services.flatMap((service) =>
    lackingRights(service, held).map((ask) => `service ${service.name} ${lackText(ask)}`),
  )
  return lacks.length > 0 ? lacks.join('; ') : undefined
}
