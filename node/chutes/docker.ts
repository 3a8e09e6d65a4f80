// The engine of an AP: Docker. Everything it makes carries the labels of its mesh and AP, and what lacks them it neither
// sees nor touches, so that several APs can share one engine with each other and with whatever else a person runs.
import { createHash } from 'node:crypto'
import { hostname } from 'node:os'
import { join, posix } from 'node:path'
import type Docker from 'dockerode'
import { hex } from '../../protocols/bytes.js'
import { DEFAULT_LOGGING, imageFor, SECRETS_AT, type ServiceSpec } from '../../protocols/deployment.js'
import { DEFAULT_ULIMITS } from '../../protocols/policy.js'
import { Images, platformOf } from '../packages/images.js'
import { findSoon } from './arp.js'
import { ask, askState, askVersion, DEADLINE, socketOf, unless } from './docker-client.js'
import { type ContainerState, type Engine, EngineError, type EngineInfo, type InstancePlan } from './engine.js'
import { configFolder } from './files.js'
import { BRIDGE, keepChutesOut } from './firewall.js'
import { isRunningHere, processAtPort } from './processes.js'

/** Milliseconds for what sets up namespaces and networks or copies files: seconds already on a fast machine. */
const SLOW_DEADLINE = 60_000

/** Bytes of the tmpfs that every service has on /tmp, where its root is read-only. */
const TMP_SIZE = 64 * 1024 ** 2

/** The processor names of `uname -m`, where image configs call them otherwise. */
const ARCHITECTURES: Record<string, string> = { x86_64: 'amd64', aarch64: 'arm64', i386: '386', i686: '386' }

const ARM_VARIANTS: Record<string, string> = { armv5l: 'v5', armv6l: 'v6' }

export interface Owner {
  /** The mesh's id. */
  mesh: string
  /** The AP's id. */
  ap: string
}

export class DockerEngine implements Engine {
  private readonly images: Images
  /** Whether the engine is on this machine, and may be kept apart from it. */
  private local = false
  private platform: string | undefined

  /** @param deadline in milliseconds, for questions that a healthy engine answers at once. */
  constructor(
    private readonly docker: Docker,
    private readonly owner: Owner,
    private readonly deadline = DEADLINE,
  ) {
    this.images = new Images(docker)
  }

  async info(): Promise<EngineInfo> {
    const [version, info] = await Promise.all([
      askVersion(this.docker, this.deadline),
      askState(this.docker, this.deadline),
    ])
    // The engine's own architecture, not the kernel's: 32-bit systems on 64-bit kernels are common on small boxes.
    const architecture = ARCHITECTURES[version.Arch] ?? version.Arch
    const variant = architecture === 'arm' ? (ARM_VARIANTS[info.Architecture] ?? 'v7') : undefined
    this.local = await this.isLocal(info.Name)
    this.platform = platformOf(version.Os, architecture, variant)
    return {
      version: version.Version,
      platform: this.platform,
      cpu: info.NCPU * 1000,
      memory: info.MemTotal,
      local: this.local,
      open: this.local ? await keepChutesOut() : 'its engine is on another machine, or its node is not run by root',
    }
  }

  // A socket may lead to another machine, and a node in a container of its own sees no processes of others.
  private async isLocal(machine: string): Promise<boolean> {
    const isOurs = socketOf(this.docker) !== undefined && machine === hostname()
    const mayKill = process.platform === 'linux' && process.getuid?.() === 0
    return isOurs && mayKill && (await isRunningHere('dockerd'))
  }

  async containers(): Promise<ContainerState[]> {
    const found = await Promise.all((await this.find()).map(({ Id }) => this.look(Id)))
    // What vanished between the two questions is undefined.
    return found.filter((info) => info !== undefined).map(stateOf)
  }

  async leftovers(): Promise<string[]> {
    const [networks, containers] = await Promise.all([this.networks(), this.find()])
    const inUse = new Set(containers.map(({ Labels }) => Labels['dropmesh.key']))
    const keys = networks.map(({ Labels }) => Labels?.['dropmesh.key'] ?? '')
    return [...new Set(keys)].filter((key) => !inUse.has(key))
  }

  async create(plan: InstancePlan): Promise<void> {
    const existing = await this.find(plan.key)
    const old = existing.filter(({ Labels }) => Labels['dropmesh.generation'] !== plan.generation)
    await Promise.all(old.map(({ Id }) => this.removeContainer(Id)))
    const kept = new Set(existing.filter((info) => !old.includes(info)).map(({ Labels }) => Labels['dropmesh.service']))
    const missing = plan.spec.services.filter(({ name }) => !kept.has(name))
    if (missing.length === 0) return

    // Somebody may have set up the AP's firewall anew since the last time.
    const [network] = await Promise.all([this.ensureNetwork(plan), this.local && keepChutesOut()])
    for (const volume of plan.spec.volumes) await this.ensureVolume(plan, volume)
    for (const service of missing) await this.createContainer(plan, service, network)
  }

  async start(key: string, services?: readonly string[]): Promise<void> {
    const containers = await this.find(key)
    if (containers.length === 0) throw new EngineError('refused', `cannot start ${key}: it has no containers`)
    // Somebody's `docker network prune` takes the networks of what does not run at that moment.
    if ((await this.networks(key)).length === 0) await this.reconnect(containers)
    // A paused container runs, and a person wants it so.
    const idle = containers.filter(
      ({ State, Labels }) =>
        State !== 'running' &&
        State !== 'paused' &&
        (services === undefined || services.includes(Labels['dropmesh.service'] ?? '')),
    )
    // All to their end, so that nothing of this call is still under way when it throws.
    const results = await Promise.allSettled(idle.map((container) => this.startContainer(container)))
    for (const result of results) if (result.status === 'rejected') throw result.reason
  }

  async stop(key: string, services: readonly string[]): Promise<void> {
    const containers = (await this.find(key)).filter(({ Labels }) =>
      services.includes(Labels['dropmesh.service'] ?? ''),
    )
    await Promise.all(containers.map(({ Id }) => this.stopContainer(Id)))
  }

  async remove(key: string, graceMs?: number): Promise<void> {
    await Promise.all((await this.find(key)).map(({ Id }) => this.removeContainer(Id, graceMs)))
    for (const { Id, Name } of await this.networks(key)) {
      await unless(
        [404],
        this.ask(`remove network ${Name}`, (s) => this.docker.getNetwork(Id).remove({ abortSignal: s })),
      )
    }
  }

  async volumes(chuteKey: string): Promise<string[]> {
    const volumes = await this.findVolumes(chuteKey)
    return volumes.filter((volume) => !isEphemeral(volume)).map(({ Labels }) => Labels['dropmesh.volume'] ?? '')
  }

  async removeVolumes(chuteKey: string, onlyEphemeral = false): Promise<void> {
    for (const volume of await this.findVolumes(chuteKey)) {
      if (onlyEphemeral && !isEphemeral(volume)) continue
      await unless(
        [404],
        this.ask(
          `remove volume ${volume.Name}`,
          (abortSignal) => this.docker.getVolume(volume.Name).remove({ abortSignal }),
          SLOW_DEADLINE,
        ),
      )
    }
  }

  async changes(onChange: () => void, signal: AbortSignal): Promise<void> {
    const stream = await this.ask('watch its events', (deadline) =>
      this.docker.getEvents({
        filters: {
          type: ['container'],
          label: this.labels(),
          event: ['start', 'die', 'oom', 'health_status', 'destroy'],
        },
        abortSignal: AbortSignal.any([deadline, signal]),
      }),
    ).catch((error) => {
      if (!signal.aborted) throw error
    })
    if (stream === undefined || signal.aborted) return
    await new Promise<void>((resolve) => {
      stream.on('data', onChange)
      for (const end of ['end', 'error', 'close']) stream.on(end, () => resolve())
      onChange()
    })
  }

  private ask<T>(what: string, call: (signal: AbortSignal) => Promise<T>, deadline = this.deadline): Promise<T> {
    return ask(what, call, deadline)
  }

  // As filters: what does not have all of these is not ours.
  private labels(...more: string[]): string[] {
    return [`dropmesh.mesh=${this.owner.mesh}`, `dropmesh.ap=${this.owner.ap}`, ...more]
  }

  private find(key?: string): Promise<Docker.ContainerInfo[]> {
    const label = this.labels(key === undefined ? 'dropmesh.key' : `dropmesh.key=${key}`)
    return this.ask('list containers', (abortSignal) =>
      this.docker.listContainers({ all: true, filters: { label }, abortSignal }),
    )
  }

  private networks(key?: string): Promise<Docker.NetworkInspectInfo[]> {
    const label = this.labels(key === undefined ? 'dropmesh.key' : `dropmesh.key=${key}`)
    return this.ask('list networks', (abortSignal) => this.docker.listNetworks({ filters: { label }, abortSignal }))
  }

  private async findVolumes(chuteKey: string): Promise<Docker.VolumeInspectInfo[]> {
    const label = this.labels(`dropmesh.chute-key=${chuteKey}`)
    const answer = await this.ask('list volumes', (abortSignal) =>
      this.docker.listVolumes({ filters: { label }, abortSignal } as Docker.VolumeListOptions),
    )
    return answer.Volumes ?? []
  }

  private look(id: string): Promise<Docker.ContainerInspectInfo | undefined> {
    return unless(
      [404],
      this.ask(`look at container ${id}`, (abortSignal) => this.docker.getContainer(id).inspect({ abortSignal })),
    )
  }

  /**
   * A name that no other AP or mesh on this engine uses, and that says to a person what it is of.
   * @param unique tells apart what has the same `readable` text.
   */
  private name(readable: string, ...unique: string[]): string {
    const digest = createHash('sha256')
      .update(JSON.stringify([this.owner.mesh, this.owner.ap, ...unique]))
      .digest('hex')
    return `dropmesh-${readable.replace(/[^a-zA-Z0-9_.-]/g, '-').slice(0, 128)}-${digest.slice(0, 20)}`
  }

  // A network belongs to no one service, and a volume to no one instance, revision or epoch: it bears those it was made
  // for.
  private labelsOf(plan: InstancePlan, service = ''): Record<string, string> {
    return {
      'dropmesh.mesh': this.owner.mesh,
      'dropmesh.ap': this.owner.ap,
      'dropmesh.chute': plan.chute,
      'dropmesh.chute-key': plan.chuteKey,
      'dropmesh.instance': plan.instance,
      'dropmesh.key': plan.key,
      'dropmesh.service': service,
      'dropmesh.revision': plan.revision,
      'dropmesh.epoch': plan.epoch,
      'dropmesh.generation': plan.generation,
    }
  }

  private async ensureNetwork(plan: InstancePlan): Promise<string> {
    const name = this.networkName(plan.instance, plan.key)
    if ((await this.networks(plan.key)).length === 0) await this.makeNetwork(name, this.labelsOf(plan))
    return name
  }

  private networkName(instance: string, key: string): string {
    return this.name(instance, key)
  }

  private async makeNetwork(Name: string, Labels: Record<string, string>): Promise<void> {
    const bridge = `${BRIDGE}${Name.slice(-12)}`
    const Options = { 'com.docker.network.bridge.name': bridge }
    const options = { Name, Driver: 'bridge', CheckDuplicate: true, Labels, Options }
    await this.ask(
      `make network ${Name}`,
      (abortSignal) => this.docker.createNetwork({ ...options, abortSignal }),
      SLOW_DEADLINE,
    )
    await findSoon(bridge)
  }

  private async reconnect(containers: Docker.ContainerInfo[]): Promise<void> {
    const { Labels } = containers[0]!
    const name = this.networkName(Labels['dropmesh.instance'] ?? '', Labels['dropmesh.key'] ?? '')
    await this.makeNetwork(name, { ...Labels, 'dropmesh.service': '' })
    for (const { Id, Labels } of containers) {
      const EndpointConfig = { Aliases: [Labels['dropmesh.service'] ?? ''] } as Docker.EndpointSettings
      await this.ask(`connect to network ${name}`, (abortSignal) =>
        this.docker
          .getNetwork(name)
          .connect({ Container: Id, EndpointConfig, abortSignal } as Docker.NetworkConnectOptions),
      )
    }
  }

  private volumeName(plan: InstancePlan, volume: string): string {
    return this.name(`${plan.chute}-${volume}`, plan.chuteKey, volume)
  }

  private async ensureVolume(
    plan: InstancePlan,
    { name, ephemeral }: { name: string; ephemeral: boolean },
  ): Promise<void> {
    const Name = this.volumeName(plan, name)
    const labels = {
      ...this.labelsOf(plan),
      'dropmesh.volume': name,
      ...(ephemeral && { 'dropmesh.ephemeral': 'true' }),
    }
    // Of a volume that exists Docker leaves the labels as they were.
    const volume = await this.ask(`make volume ${Name}`, async (abortSignal) => {
      await this.docker.createVolume({ Name, Labels: labels, abortSignal })
      return this.docker.getVolume(Name).inspect()
    })
    if (volume.Labels?.['dropmesh.ap'] !== this.owner.ap || volume.Labels['dropmesh.mesh'] !== this.owner.mesh) {
      throw new EngineError('refused', `volume ${Name} exists and was not made by this AP: remove or rename it`)
    }
    if (!ephemeral && isEphemeral(volume)) {
      throw new EngineError(
        'refused',
        `volume "${name}" of ${plan.chute} was made as an ephemeral one on this AP, and Docker cannot make it a ` +
          'lasting one: give the volume another name in the manifest',
      )
    }
  }

  private async createContainer(plan: InstancePlan, service: ServiceSpec, network: string): Promise<void> {
    const what = `create ${plan.instance} (service ${service.name})`
    this.platform ??= (await this.info()).platform
    const image = await this.images.referenceFor(service, this.platform)
    if (image === undefined) {
      const { config } = imageFor(service, this.platform) ?? {}
      const which = config === undefined ? 'its image' : `image ${hex(config).slice(0, 12)}`
      throw new EngineError('no-image', `cannot ${what}: this engine does not have ${which}`)
    }
    const { limits, healthcheck } = service
    const tmpfs = new Map([['/tmp', TMP_SIZE], ...service.tmpfs.map(({ path, size }) => [clean(path), size] as const)])
    for (const { path } of service.mounts) tmpfs.delete(clean(path))
    const ports = service.ports.map((port) => ({ ...port, inside: `${port.container}/${port.protocol}` }))
    await this.ask(
      what,
      (abortSignal) =>
        this.docker.createContainer({
          name: this.name(`${plan.instance}-${service.name}`, plan.key, service.name),
          Image: image,
          Cmd: service.command,
          Entrypoint: service.entrypoint,
          Env: Object.entries({ ...service.environment, ...plan.environment }).map(([key, value]) => `${key}=${value}`),
          User: service.user,
          WorkingDir: service.workingDir,
          Labels: { ...this.labelsOf(plan, service.name), ...(service.mayEnd && { 'dropmesh.may-end': 'true' }) },
          Hostname: service.hostname,
          Domainname: service.domainName,
          Tty: service.tty,
          OpenStdin: service.stdinOpen,
          StopSignal: service.stopSignal,
          StopTimeout: seconds(service.stopGrace),
          Healthcheck: healthcheck && {
            Test: healthcheck.test,
            Interval: nanoseconds(healthcheck.interval),
            Timeout: nanoseconds(healthcheck.timeout),
            StartPeriod: nanoseconds(healthcheck.startPeriod),
            Retries: healthcheck.retries,
          },
          ExposedPorts: Object.fromEntries(ports.map(({ inside }) => [inside, {}])),
          HostConfig: {
            // What a chute has beyond the default: placement leaves it waiting where its publisher may not ask for it.
            CapAdd: service.capabilities,
            Devices: service.devices?.map(({ host, container }) => ({
              PathOnHost: host,
              PathInContainer: container,
              CgroupPermissions: 'rw',
            })),
            Sysctls: Object.fromEntries((service.sysctls ?? []).map(({ name, value }) => [name, value])),
            Ulimits: ulimitsOf(service),
            ReadonlyRootfs: service.writableRoot !== true,
            // What a chute may not do, whatever its manifest says.
            CapDrop: ['ALL'],
            SecurityOpt: ['no-new-privileges'],
            Privileged: false,
            IpcMode: 'private',
            CgroupnsMode: 'private',
            // What it may use up. No swap beyond its memory: a chute that swaps slows down all others on the AP.
            Memory: limits.memory,
            MemorySwap: limits.memory,
            NanoCpus: limits.cpu * 1_000_000,
            PidsLimit: limits.pids,
            ShmSize: service.shmSize,
            LogConfig: logsOf(service),
            Tmpfs: Object.fromEntries([...tmpfs].map(([path, size]) => [path, tmpfsOptions(size)])),
            Mounts: [
              ...service.mounts.map(({ volume, path, readOnly }) => ({
                Type: 'volume',
                Source: this.volumeName(plan, volume),
                Target: path,
                ReadOnly: readOnly,
              })),
              // All of the host that a container sees. Docker's own tmpfs is empty when a container starts.
              ...filesOf(service, plan.files).map((file) => ({ Type: 'bind', ReadOnly: true, ...file })),
            ],
            PortBindings: bindings(ports),
            NetworkMode: network,
            ExtraHosts: service.extraHosts?.map(({ name, address }) => `${name}:${address}`),
            Dns: service.dns,
            DnsSearch: service.dnsSearch,
            DnsOptions: service.dnsOptions,
            GroupAdd: service.groups,
            // Nothing starts but by the node (decision 15).
            RestartPolicy: { Name: 'no' },
            // An init process, or a program that ignores SIGTERM as PID 1 does would always wait out its grace.
            Init: service.init !== false,
          } as Docker.HostConfig,
          NetworkingConfig: { EndpointsConfig: { [network]: { Aliases: [service.name] } } },
          abortSignal,
        }),
      SLOW_DEADLINE,
    )
  }

  private async startContainer({ Id, Labels }: Docker.ContainerInfo): Promise<void> {
    const what = `start ${Labels['dropmesh.instance']} (service ${Labels['dropmesh.service']})`
    try {
      const start = (abortSignal: AbortSignal) => this.docker.getContainer(Id).start({ abortSignal })
      await unless([304], this.ask(what, start, SLOW_DEADLINE))
    } catch (error) {
      if (!(error instanceof EngineError) || !/port is already allocated|address already in use/.test(error.message)) {
        throw error
      }
      throw new EngineError('port-taken', `cannot ${what}: ${await this.describeConflict(Id, error.message)}`, {
        cause: error,
        status: error.status,
      })
    }
  }

  private async describeConflict(id: string, message: string): Promise<string> {
    // "Bind for 0.0.0.0:80 failed: port is already allocated"; "listen tcp4 0.0.0.0:80: bind: address already in use".
    const port = Number(/(?:\d|\]):(\d+)(?: failed)?: (?:port is|bind:|address)/.exec(message)?.[1])
    const wanted = Object.entries((await this.look(id))?.HostConfig.PortBindings ?? {}) as [
      string,
      { HostPort: string }[],
    ][]
    const protocol = wanted.some(
      ([inside, at]) => inside.endsWith('/udp') && at.some((to) => Number(to.HostPort) === port),
    )
      ? 'udp'
      : 'tcp'
    const running = await this.ask('list containers', (abortSignal) => this.docker.listContainers({ abortSignal }))
    const holder = running.find(({ Id, Ports }) =>
      Ports.some(({ PublicPort, Type }) => Id !== id && PublicPort === port && Type === protocol),
    )
    if (holder !== undefined) return `port ${port}/${protocol} is taken by container ${holder.Names[0]?.slice(1)}`
    // Only an engine behind a socket shares this machine's ports.
    const process = socketOf(this.docker) !== undefined ? await processAtPort(port, protocol) : undefined
    return `port ${port}/${protocol} is taken by ${process ?? 'another process'}`
  }

  /** @returns what completes "remove …"; undefined where there is no such container */
  private async stopContainer(id: string, graceMs?: number): Promise<string | undefined> {
    const info = await this.look(id)
    if (info === undefined) return undefined
    const what = `${info.Config.Labels['dropmesh.instance']} (service ${info.Config.Labels['dropmesh.service']})`
    if (info.State.Running) {
      const grace =
        graceMs === undefined ? ((info.Config as { StopTimeout?: number }).StopTimeout ?? 10) : seconds(graceMs)
      const stop = (abortSignal: AbortSignal) => this.docker.getContainer(id).stop({ t: grace, abortSignal })
      await unless([304, 404], this.ask(`stop ${what}`, stop, grace * 1000 + SLOW_DEADLINE))
    }
    return what
  }

  private async removeContainer(id: string, graceMs?: number): Promise<void> {
    const what = await this.stopContainer(id, graceMs)
    if (what === undefined) return
    // `v` takes the volumes along that the image itself declares, and no other could find again; named ones stay.
    // 409 is a removal that is under way.
    const remove = (abortSignal: AbortSignal) =>
      this.docker.getContainer(id).remove({ v: true, force: true, abortSignal })
    await unless([404, 409], this.ask(`remove ${what}`, remove, SLOW_DEADLINE))
  }
}

const isEphemeral = (volume: Docker.VolumeInspectInfo): boolean => volume.Labels?.['dropmesh.ephemeral'] === 'true'

const seconds = (milliseconds: number): number => Math.ceil(milliseconds / 1000)

const nanoseconds = (milliseconds: number): number => milliseconds * 1_000_000

const clean = (path: string): string => posix.resolve('/', path)

/** Writable for every user, like /tmp everywhere. Docker would add noexec unless told otherwise. */
const tmpfsOptions = (size: number): string => `rw,exec,nosuid,nodev,mode=1777,size=${size}`

function ulimitsOf({ ulimits = [] }: ServiceSpec): { Name: string; Soft: number; Hard: number }[] {
  const all = new Map(Object.entries(DEFAULT_ULIMITS).map(([name, limit]) => [name, { soft: limit, hard: limit }]))
  for (const { name, ...limits } of ulimits) all.set(name, limits)
  return [...all].map(([Name, { soft, hard }]) => ({ Name, Soft: soft, Hard: hard }))
}

/** A service that logs without end must not fill the AP's disk. */
function logsOf({ logging: { maxSize, maxFiles } = DEFAULT_LOGGING }: ServiceSpec): Docker.HostConfig['LogConfig'] {
  return { Type: 'json-file', Config: { 'max-size': String(maxSize), 'max-file': String(maxFiles) } }
}

/** What of the folder of its files a service sees, and where: its secrets as one folder, and each of its configs. */
function filesOf({ name, secrets, configs = [] }: ServiceSpec, folder: string | undefined) {
  if (folder === undefined) return []
  const mounted = configs.map(({ path }, i) => ({ Source: join(folder, configFolder(name), String(i)), Target: path }))
  return secrets === undefined ? mounted : [{ Source: join(folder, name), Target: SECRETS_AT }, ...mounted]
}

/** Docker's form of published ports; an empty host port lets the engine pick one. */
function bindings(ports: { inside: string; host?: number }[]): Record<string, { HostPort: string }[]> {
  const result: Record<string, { HostPort: string }[]> = {}
  for (const { inside, host } of ports) {
    result[inside] = [...(result[inside] ?? []), { HostPort: host === undefined ? '' : String(host) }]
  }
  return result
}

function stateOf({ Id, Config, State, NetworkSettings }: Docker.ContainerInspectInfo): ContainerState {
  const label = (name: string) => Config.Labels[`dropmesh.${name}`] ?? ''
  // Docker's zero time.
  const started = State.StartedAt.startsWith('0001-') ? null : State.StartedAt
  const health = State.Health?.Status
  const ports = Object.entries(NetworkSettings.Ports ?? {}).flatMap(([inside, at]) => {
    const [container, protocol] = inside.split('/')
    // An older engine picks one port for IPv4 and one for IPv6, which differ once either was taken (moby issue
    // 42442). A port is told without an address, and must be reached at the usual one: that of IPv4.
    const ipv4 = (at ?? []).filter(({ HostIp }) => !HostIp.includes(':'))
    const hosts = new Set((ipv4.length > 0 ? ipv4 : (at ?? [])).map(({ HostPort }) => Number(HostPort)))
    return [...hosts].map((host) => ({ container: Number(container), host, protocol: protocol as 'tcp' | 'udp' }))
  })
  return {
    id: Id,
    key: label('key'),
    instance: label('instance'),
    chute: label('chute'),
    chuteKey: label('chute-key'),
    service: label('service'),
    generation: label('generation'),
    epoch: label('epoch'),
    revision: label('revision'),
    running: State.Running,
    health: health === 'starting' || health === 'healthy' || health === 'unhealthy' ? health : 'none',
    exitCode: State.Running || (started === null && State.Error === '') ? null : State.ExitCode,
    oomKilled: State.OOMKilled,
    startedAt: started,
    ...(label('may-end') === 'true' && { mayEnd: true }),
    error: State.Error,
    ports: State.Running ? ports : [],
  }
}
