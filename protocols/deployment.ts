// What a chute is: the content of a deployment record. Written by the manifest, read by placement and the reconciler.
import { z } from 'zod'
import { hex } from './bytes.js'
import { byteString } from './codec.js'
import { MAX_CHUNK, MAX_IMAGE, MAX_SECRETS } from './limits.js'

const MAX_TEXT = 4096
const text = z.string().max(MAX_TEXT)

/** A DNS label: chutes, services and volumes are named so, since services are reached by their name. */
export const NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/
const name = z.string().regex(NAME)

/** Of a secret, and of the file it becomes. With publisher and chute it fits the subject of a record. */
export const SECRET_NAME = /^(?!\.{1,2}$)[\w.-]{1,32}$/

/** The folder in a container that has a file for each of its secrets. */
export const SECRETS_AT = '/run/secrets'

/** What a chute sees of its secrets and configs is what every user of the container may read, as in Compose. */
export const DEFAULT_SECRET_MODE = 0o444

/** Bytes that the logs of a service may take of its AP's disk: three files of 10 MB, unless its manifest says otherwise. */
export const DEFAULT_LOGGING = { maxSize: 10_000_000, maxFiles: 3 } as const
export const MAX_LOGS = 100_000_000

/** What a service waits for before it is started: that another one runs, is healthy, or has ended with status 0. */
export const CONDITIONS = ['service_started', 'service_healthy', 'service_completed_successfully'] as const

/** An image for one platform, identified by what legacy and containerd image stores share (decision 16). */
const image = z.object({
  /** SHA-256 of the image's config JSON, which names the layers. */
  config: byteString(32),
  /** `os/architecture` as Docker names them: `linux/amd64`. */
  platform: z
    .string()
    .regex(/^[a-z0-9]+\/[a-z0-9]+(\/[a-z0-9]+)?$/)
    .max(64),
  /** Bytes of its unpacked layers, at most; left out, all that an image may have. */
  size: z.int().min(0).max(MAX_IMAGE).optional(),
  /** SHA-256 of its manifest, a blob of the package, by which an engine pulls it. Without it an AP has the image, or cannot get it. */
  manifest: byteString(32).optional(),
})

/** Sources of which each AP makes an image of its own, for its own platform. */
const build = z.object({
  /** SHA-256 of a tar with the build context, a blob of the package. */
  sources: byteString(32),
  /** Path of the Dockerfile within it. */
  dockerfile: z.string().min(1).max(1024),
  args: z.record(z.string().min(1).max(256), text),
  /** It builds on dropmesh/node, which each AP makes itself. */
  onBaseImage: z.boolean(),
})

const port = z.int().min(1).max(65535)
const owner = z
  .int()
  .min(0)
  .max(2 ** 32 - 2)
const device = z
  .string()
  .regex(/^\/dev\/[\w./-]+$/)
  .max(256)

/** A host name, or a domain. */
const host = z
  .string()
  .regex(/^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$/)
  .max(253)
const address = z.union([z.ipv4(), z.ipv6()])

const service = z.object({
  name,
  /** One for each platform that it runs on; an AP takes its own. */
  images: z
    .array(image)
    .max(16)
    .refine((all) => new Set(all.map(({ platform }) => platform)).size === all.length, 'two images for one platform'),
  /** In place of images. */
  build: build.optional(),
  command: z.array(text).max(256).optional(),
  entrypoint: z.array(text).max(256).optional(),
  environment: z.record(z.string().min(1).max(256), text),
  /** Published ports; without `host` the engine picks a free one. */
  ports: z.array(z.object({ container: port, host: port.optional(), protocol: z.enum(['tcp', 'udp']) })).max(64),
  mounts: z
    .array(z.object({ volume: name, path: z.string().startsWith('/').max(1024), readOnly: z.boolean() }))
    .max(64),
  /** Sized tmpfs beside the one every service has on /tmp; size in bytes. */
  tmpfs: z.array(z.object({ path: z.string().startsWith('/').max(1024), size: z.int().min(4096) })).max(16),
  /** Docker's health check; times in milliseconds. `test` is Docker's form: `["CMD", …]` or `["CMD-SHELL", line]`. */
  healthcheck: z
    .object({
      test: z.array(text).min(1).max(256),
      interval: z.int().min(1),
      timeout: z.int().min(1),
      startPeriod: z.int().min(0),
      retries: z.int().min(1).max(1000),
    })
    .optional(),
  user: z.string().max(256).optional(),
  workingDir: z.string().max(1024).optional(),
  /** Milliseconds between SIGTERM and SIGKILL. */
  stopGrace: z.int().min(0).max(3_600_000),
  /** Limits, which are also what placement reckons with: thousandths of a CPU, bytes, processes. */
  limits: z.object({
    cpu: z.int().min(10).max(1_024_000),
    memory: z.int().min(6 * 1024 ** 2),
    pids: z.int().min(1).max(100_000),
  }),
  // What not every publisher may ask for: policy.ts says who may. A capability is named as in Docker, without CAP_.
  capabilities: z
    .array(z.string().regex(/^[A-Z_]{1,32}$/))
    .max(64)
    .optional(),
  devices: z
    .array(z.object({ host: device, container: device }))
    .max(32)
    .optional(),
  sysctls: z
    .array(z.object({ name: z.string().min(1).max(256), value: z.string().max(256) }))
    .max(64)
    .optional(),
  /** Of each process, in the units of setrlimit; -1 is no limit. */
  ulimits: z
    .array(z.object({ name: z.string().regex(/^[a-z]{1,16}$/), soft: z.int().min(-1), hard: z.int().min(-1) }))
    .max(16)
    .optional(),
  writableRoot: z.boolean().optional(),
  /** Files in /run/secrets; what is in them a record of its own says. Owner and mode as numbers. */
  secrets: z
    .array(
      z.object({
        name: z.string().regex(SECRET_NAME),
        file: z.string().regex(SECRET_NAME),
        uid: owner.optional(),
        gid: owner.optional(),
        mode: z.int().min(0).max(0o777),
      }),
    )
    .max(MAX_SECRETS)
    .optional(),
  /** Files of which the chute's `configs` has the content. */
  configs: z
    .array(
      z.object({
        config: z.string().regex(SECRET_NAME),
        path: z.string().startsWith('/').max(1024),
        uid: owner.optional(),
        gid: owner.optional(),
        mode: z.int().min(0).max(0o777),
      }),
    )
    .max(32)
    .optional(),
  /** What it waits for. What is not `required` is not waited for once it has failed; `restart`: started anew after it. */
  dependsOn: z
    .array(
      z.object({
        service: name,
        condition: z.enum(CONDITIONS),
        required: z.boolean().optional(),
        restart: z.boolean().optional(),
      }),
    )
    .max(32)
    .optional(),
  /** It may end: with status 0 it is done, and not started again. */
  mayEnd: z.boolean().optional(),
  /** False where the image's own program is to be PID 1; else an init process is. */
  init: z.boolean().optional(),
  /** What asks it to stop: SIGTERM, or what its image says, where it is left out. */
  stopSignal: z
    .string()
    .regex(/^SIG[A-Z0-9+-]{2,10}$/)
    .optional(),
  hostname: host.max(63).optional(),
  domainName: host.optional(),
  /** In its /etc/hosts. */
  extraHosts: z
    .array(z.object({ name: host, address }))
    .max(64)
    .optional(),
  dns: z.array(address).max(8).optional(),
  dnsSearch: z.array(host).max(8).optional(),
  dnsOptions: z
    .array(z.string().regex(/^[a-z0-9:-]{1,32}$/))
    .max(8)
    .optional(),
  /** Further groups of its user, by name or number. */
  groups: z
    .array(z.string().regex(/^[\w.-]{1,32}$/))
    .max(32)
    .optional(),
  tty: z.boolean().optional(),
  stdinOpen: z.boolean().optional(),
  /** Bytes of /dev/shm, which count as memory. */
  shmSize: z.int().min(4096).optional(),
  /** How much of its logs is kept: files of so many bytes each. */
  logging: z
    .object({ maxSize: z.int().min(1000).max(MAX_LOGS), maxFiles: z.int().min(1).max(100) })
    .refine(({ maxSize, maxFiles }) => maxSize * maxFiles <= MAX_LOGS, `more than ${MAX_LOGS / 1e6} MB of logs in all`)
    .optional(),
})

const areDistinct = (keys: Uint8Array[]): boolean => new Set(keys.map(hex)).size === keys.length

/** AP keys that vote on the leases of an exclusive chute. One alone is for emergencies: see `force`. */
export const voterKeys = (...counts: number[]) =>
  z
    .array(byteString(32))
    .max(5)
    .refine((keys) => counts.includes(keys.length) && areDistinct(keys), `${counts.join(' or ')} different keys`)

const exclusive = z.object({
  /** Who grants the leases of the first generation; bound to the creation id. */
  voters: voterKeys(3, 5),
  /** So that two creations of one publisher with the same voters differ. */
  salt: byteString(10),
})
export type Exclusive = z.infer<typeof exclusive>

/**
 * When an instance may move though nothing is wrong with its AP: so that all APs are used alike, only off one that is overloaded,
 * or never.
 */
export const REBALANCE = ['always', 'overloaded', 'never'] as const
export const DEFAULT_REBALANCE: (typeof REBALANCE)[number] = 'overloaded'

export const chuteSpec = z
  .object({
    services: z.array(service).min(1).max(32),
    /** An ephemeral volume may be lost with its AP; any other pins its chute to the AP that has the data (decision 13). */
    volumes: z.array(z.object({ name, ephemeral: z.boolean() })).max(64),
    /** The blob that names all blobs of the images and sources (package.ts); left out where there are none to fetch. */
    package: z.object({ digest: byteString(32), size: z.int().min(1).max(MAX_CHUNK) }).optional(),
    /** How many instances, or one on every AP that fits. */
    replicas: z.union([z.int().min(0).max(1000), z.literal('everywhere')]),
    /** All must hold for the labels of the AP. */
    constraints: z.array(z.object({ label: z.string().min(1).max(128), value: z.string().max(256) })).max(32),
    /** Each instance runs at most once at any time, by leases from these voters; else at least once. */
    exclusive: exclusive.optional(),
    rebalance: z.enum(REBALANCE).optional(),
    /** Texts that services have as files. */
    configs: z
      .array(z.object({ name: z.string().regex(SECRET_NAME), content: z.string() }))
      .max(32)
      .optional(),
  })
  .refine((spec) => new Set(spec.services.map((s) => s.name)).size === spec.services.length, 'two services of one name')
  .refine(
    (spec) => spec.services.every((s) => s.mounts.every((m) => spec.volumes.some((v) => v.name === m.volume))),
    'a service mounts a volume that is not declared',
  )
  .refine(
    (spec) => spec.services.every(({ images, build }) => images.length > 0 !== (build !== undefined)),
    'a service has images, or sources to build one from',
  )
  .refine(
    (spec) => !(spec.exclusive && spec.replicas === 'everywhere'),
    'exclusive and everywhere contradict each other',
  )

export type ChuteSpec = z.infer<typeof chuteSpec>
export type ServiceSpec = ChuteSpec['services'][number]
export type ImageSpec = ServiceSpec['images'][number]
export type BuildSpec = NonNullable<ServiceSpec['build']>
export type PackageRef = NonNullable<ChuteSpec['package']>

/** Limits of a service whose manifest states none: small enough that a 2 GB box holds several. */
export const DEFAULT_LIMITS = { cpu: 500, memory: 256 * 1024 ** 2, pids: 256 } as const

/** Docker's own default grace between SIGTERM and SIGKILL, in milliseconds. */
export const DEFAULT_STOP_GRACE = 10_000

export interface Resources {
  /** Thousandths of a CPU. */
  cpu: number
  /** Bytes. */
  memory: number
  /** Fixed host ports as `8080/tcp`. */
  ports: string[]
}

/** What one instance takes of its AP. */
export function resourcesOf(spec: ChuteSpec): Resources {
  return {
    cpu: spec.services.reduce((sum, s) => sum + s.limits.cpu, 0),
    memory: spec.services.reduce((sum, s) => sum + s.limits.memory, 0),
    ports: spec.services.flatMap((s) =>
      s.ports.flatMap((p) => (p.host === undefined ? [] : [`${p.host}/${p.protocol}`])),
    ),
  }
}

/** Bytes that the images of one instance take of its AP's disk, at most. Docker gives volumes no limit, so none counts here. */
export function diskOf(spec: ChuteSpec): number {
  const sizes = new Map<string, number>()
  for (const { name, images, build } of spec.services) {
    if (build !== undefined) sizes.set(name, MAX_IMAGE) // nobody knows before it is built
    // An AP takes the one of its platform: the largest counts.
    const largest = Math.max(0, ...images.map(({ size = MAX_IMAGE }) => size))
    if (images[0] !== undefined) sizes.set(hex(images[0].config), largest)
  }
  return [...sizes.values()].reduce((sum, size) => sum + size, 0)
}

/** The image of a service for a platform; undefined where it has none, or is built. */
export const imageFor = ({ images }: Pick<ServiceSpec, 'images'>, platform: string): ImageSpec | undefined =>
  images.find((image) => image.platform === platform)

/** Whether an AP of a platform can run a service. */
export const runsOn = (service: Pick<ServiceSpec, 'images' | 'build'>, platform: string): boolean =>
  service.build !== undefined || imageFor(service, platform) !== undefined

/** Names of the secrets that a chute reads, each once. */
export const secretsIn = ({ services }: ChuteSpec): string[] =>
  [...new Set(services.flatMap(({ secrets = [] }) => secrets.map(({ name }) => name)))].sort()

/** Whether an AP has to put files where containers see them, which it can where its engine is on its own machine alone. */
export const hasFiles = ({ services }: ChuteSpec): boolean =>
  services.some(({ secrets = [], configs = [] }) => secrets.length + configs.length > 0)

/** Whether a service is checked for its health as long as the chute runs. */
export const isChecked = ({ healthcheck, mayEnd }: Pick<ServiceSpec, 'healthcheck' | 'mayEnd'>): boolean =>
  healthcheck !== undefined && mayEnd !== true

/** True where an instance leaves data behind that does not migrate yet. */
export const isPinnedByData = (spec: ChuteSpec): boolean => spec.volumes.some((volume) => !volume.ephemeral)
