// What a service that was read says in a deployment record: defaults filled in, and nothing that goes without saying.
import { attempt, defined, type Placed, type Value } from './compose-reader.js'
import type { ReadService } from './compose-service.js'
import { DEFAULT_LIMITS, DEFAULT_LOGGING, DEFAULT_STOP_GRACE, MAX_LOGS, type ServiceSpec } from './deployment.js'
import { isGitUrl } from './git-url.js'

/** Docker's own defaults of a health check, in milliseconds. */
export const DEFAULT_HEALTHCHECK = { interval: 30_000, timeout: 30_000, startPeriod: 0, retries: 3 }

/** What a Dockerfile that the manifest itself has is called among the files of its context. */
const INLINE_DOCKERFILE = '.dropmesh.Dockerfile'

/** How an image is built. Paths are relative: the context to the manifest, the dockerfile to the context. */
interface Build {
  /** A folder, or the URL of a git repository as `https://…#ref:sub`. */
  context: string
  dockerfile: string
  /** The text of it, where the manifest has it: then no file of the folder is it. */
  dockerfileInline?: string
  args: Record<string, string>
}

type ImageSource = { image: string } | { build: Build }

export type ManifestService = Omit<ServiceSpec, 'images' | 'build'> & { source: ImageSource }

/** What a service is beside what it says of itself. */
export interface Beside {
  environment: Record<string, string>
  dependsOn: NonNullable<ServiceSpec['dependsOn']>
  /** Another service waits for its end. */
  isAwaited: boolean
}

/** A service as a record has it. What is wrong with it as a whole is refused where it stands. */
export function manifestService(
  name: string,
  { at, is: read }: Placed<ReadService>,
  { environment, dependsOn, isAwaited }: Beside,
): ManifestService {
  const bare = <T>(values: Placed<T>[] | undefined): T[] => (values ?? []).map(({ is }) => is)
  const some = <T>(values: Placed<T>[] | undefined) => (values && values.length > 0 ? bare(values) : undefined)
  const limits = read.deploy?.resources?.limits ?? {}
  const folder = at.reading.folder
  const { condition } = read.deploy?.restart_policy ?? {}
  const mayEnd = isAwaited || (condition === undefined ? read.restart : condition !== 'any')
  return {
    name,
    // Where there is a build, Compose takes the image for the name to give to it. Here an image is its digest.
    source: read.build ? { build: buildOf(read.build, folder) } : { image: read.image ?? '' },
    environment,
    ports: bare(read.ports),
    mounts: bare(read.volumes),
    tmpfs: bare(read.tmpfs),
    stopGrace: read.stop_grace_period ?? DEFAULT_STOP_GRACE,
    limits: {
      ...DEFAULT_LIMITS,
      ...defined({
        cpu: (limits.cpus ?? read.cpus)?.is,
        memory: (limits.memory ?? read.mem_limit)?.is,
        pids: (limits.pids ?? read.pids_limit)?.is,
      }),
    },
    ...defined({
      command: read.command,
      entrypoint: read.entrypoint,
      healthcheck: healthcheckOf(read.healthcheck),
      user: read.user,
      workingDir: read.working_dir,
      capabilities: read.cap_add && bare(read.cap_add),
      devices: read.devices && bare(read.devices),
      sysctls: read.sysctls && bare(read.sysctls),
      ulimits: read.ulimits && bare(read.ulimits),
      writableRoot: read.read_only?.is === false ? true : undefined,
      secrets: some(read.secrets),
      configs: some(read.configs),
      dependsOn: dependsOn.length > 0 ? dependsOn : undefined,
      mayEnd: mayEnd || undefined,
      init: read.init === false ? false : undefined,
      stopSignal: read.stop_signal,
      hostname: read.hostname,
      domainName: read.domainname,
      extraHosts: some(read.extra_hosts && Object.values(read.extra_hosts)),
      dns: some(read.dns),
      dnsSearch: some(read.dns_search),
      dnsOptions: some(read.dns_opt),
      groups: some(read.group_add),
      tty: read.tty || undefined,
      stdinOpen: read.stdin_open || undefined,
      shmSize: read.shm_size,
      logging: loggingOf(read.logging),
    }),
  }
}

function buildOf({ at, is: read }: NonNullable<ReadService['build']>, folder: string): Build {
  const { context = folder, dockerfile = 'Dockerfile', dockerfile_inline: inline, args = {} } = read
  if (inline && read.dockerfile !== undefined) inline.at.refuse('contradicts dockerfile: remove one of the two')
  // What could not be read is refused where it stands, and nothing else is meant in its place.
  if (Object.values(read).every((value) => value !== undefined))
    refuseMissing(at, context, inline ? undefined : dockerfile)
  return inline
    ? { context, dockerfile: INLINE_DOCKERFILE, dockerfileInline: inline.is, args }
    : { context, dockerfile, args }
}

/** What is built of a folder needs that, and its Dockerfile. In a repository they are looked for once it was fetched. */
function refuseMissing(at: Value, context: string, dockerfile: string | undefined): void {
  const { kindAt } = at.reading.session.surroundings
  if (kindAt === undefined || isGitUrl(context)) return
  attempt(at, context, (folder) => {
    const file = dockerfile && (folder === '.' ? dockerfile : `${folder}/${dockerfile}`)
    if (kindAt(folder) !== 'folder')
      at.refuse(`there is no folder ${folder} in the folder of the manifest to build from`)
    else if (file && kindAt(file) !== 'file')
      at.refuse(`there is no file ${file} in the folder of the manifest to build by`)
  })
}

function healthcheckOf(read: ReadService['healthcheck']): ServiceSpec['healthcheck'] {
  if (read === undefined) return undefined
  const { at, is: check } = read
  if (check.disable) {
    if (Object.keys(check).length > 1) at.refuse('disable: true stands alone')
    return { test: ['NONE'], ...DEFAULT_HEALTHCHECK }
  }
  if (!('test' in check)) at.refuse("needs a test: the image's own check cannot be tuned, only replaced")
  if (!check.test) return undefined
  const { interval, timeout, start_period: startPeriod, retries } = check
  return { test: check.test, ...DEFAULT_HEALTHCHECK, ...defined({ interval, timeout, startPeriod, retries }) }
}

/** Nothing where it says what goes without saying. */
function loggingOf(read: ReadService['logging']): ServiceSpec['logging'] {
  const { 'max-size': maxSize = DEFAULT_LOGGING.maxSize, 'max-file': maxFiles = DEFAULT_LOGGING.maxFiles } =
    read?.is.options ?? {}
  if (maxSize * maxFiles > MAX_LOGS)
    read?.at.refuse(`keeps ${(maxSize * maxFiles) / 1e6} MB: ${MAX_LOGS / 1e6} MB of logs at most`)
  const isDefault = maxSize === DEFAULT_LOGGING.maxSize && maxFiles === DEFAULT_LOGGING.maxFiles
  return isDefault ? undefined : { maxSize, maxFiles }
}
