// Several hosts on one Linux machine, for tests of what happens between APs: each is a network namespace with a name and
// an address of its own and, where asked for, a Docker engine of its own. A switch joins them, in a namespace apart, so
// that cables can be pulled and nothing of it shows in the machine's own network. There is no route out.
//
// A test process stays outside these networks: it reaches a host through `exec` and `run`, and through Unix sockets (the
// engine's, a node's), which are files and know no namespaces. Needs root and Linux. It knows nothing of dropmesh.

import { type ChildProcess, type SpawnOptions, spawn, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { atExit } from './scratch.js'
import { until } from './until.js'

/** How a program ended, and all it printed. */
export interface RunResult {
  code: number | null
  stdout: string
  stderr: string
}

/** A host's own Docker engine. Its data outlives `stop` and `kill`, until the hosts are closed. */
export interface Engine {
  /** Path of its API socket. */
  readonly socket: string
  /** DOCKER_HOST of this engine. */
  readonly url: string
  /** Folder that holds its data and its log. */
  readonly folder: string
  /** Starts it again after `stop` or `kill`; resolves when it answers. */
  start(): Promise<void>
  /** Stops it as an init system would, its containers with it. */
  stop(): Promise<void>
  /** Ends it as a power cut would: engine and containers at once, nothing of its run-time state left. With
   *  `leaveContainers`, only dockerd and containerd crash and the containers go on. */
  kill(options?: { leaveContainers?: boolean }): Promise<void>
  /** Hangs dockerd: its socket still takes connections, and nothing is answered until `thaw`. Containers go on. */
  freeze(): void
  thaw(): void
}

export interface Host {
  readonly name: string
  /** IPv4 address on the network that all the hosts share. */
  readonly address: string
  readonly engine?: Engine
  /** A command line put before another one runs that on this host: in its network, with its host name. The process that
   *  this starts is the program itself, so that signals reach it. */
  readonly prefix: readonly string[]
  /** Starts a program on this host: as by `prefix` and, where it has an engine, with DOCKER_HOST set. */
  exec(argv: readonly string[], options?: SpawnOptions): ChildProcess
  /** Runs a program on this host to its end, at most `deadlineMs` (30 s). */
  run(argv: readonly string[], options?: { deadlineMs?: number; env?: NodeJS.ProcessEnv }): Promise<RunResult>
  /** Kills everything on this host at once, engine and containers included, as a power cut would. It stays plugged in. */
  crash(): void
}

export interface Hosts {
  readonly hosts: readonly Host[]
  /** Pulls the host's cable: nothing comes in or goes out, and its interface shows that it has no carrier. */
  cut(host: Host): void
  /** Drops what `from` sends to `to`, and only in that direction; neither can see it but by the silence. */
  block(from: Host, to: Host): void
  /** Lets the host send no more than so many megabits a second, with a queue of a tenth of a second before that. */
  slow(host: Host, mbits: number): void
  /** Lets the host send, and be sent, no more than so many megabits a second each, by HTB, with short queues before that. */
  limit(host: Host, mbits: number): void
  /** Loses so many percent of all packets between hosts, at random. */
  lose(percent: number): void
  /** Drops all that hosts send each other by a protocol, as a firewall may. */
  drop(protocol: 'tcp' | 'udp'): void
  /** Undoes every cut and slowing of this host and every block from or to it; of all hosts, and any loss and dropping,
   *  where none is named. */
  heal(host?: Host): void
  /** Removes all of it: processes, containers, engines, networks, folders. */
  close(): void
}

const namespaces = '/run/netns'
const cgroups = '/sys/fs/cgroup'
const setupScript = fileURLToPath(new URL('../../../.ci/setup.mjs', import.meta.url))

/** Why there cannot be hosts on this machine, or undefined where there can. */
export function whyNoHosts(): string | undefined {
  if (process.platform !== 'linux') return 'network namespaces need Linux'
  if (process.getuid?.() !== 0) return 'network namespaces need root'
  return undefined
}

/**
 * Makes `count` hosts (at most 200), with a Docker engine each if `docker` is true (about 50 MB and 1 s apiece).
 * `dockerArgs` are further arguments for dockerd. The engines of the hosts in `containerdStore`, the first of which is 1, are of
 * a newer release and keep their images in containerd's store. What is missing on a Debian machine is installed first. Everything is
 * removed by `close`, or else when the process ends; what a SIGKILL leaves is for `removeLeftovers`.
 */
export async function makeHosts(
  count: number,
  {
    docker = false,
    dockerArgs = [],
    containerdStore = [],
  }: { docker?: boolean; dockerArgs?: readonly string[]; containerdStore?: readonly number[] } = {},
): Promise<Hosts> {
  const obstacle = whyNoHosts()
  if (obstacle) throw new Error(`no hosts can be made: ${obstacle}`)
  if (!Number.isInteger(count) || count < 1 || count > 200) throw new RangeError(`${count} hosts: 1 to 200 can be made`)
  needTools([...tools, ...(docker ? dockerTools : [])])
  const newerEngine = containerdStore.length > 0 ? needNewerEngine() : undefined

  // The owner's pid tells what is left over from a process that is gone; the rest keeps this process's runs apart.
  const run = `dmt-${process.pid}-${randomBytes(2).toString('hex')}`
  const folder = join(tmpdir(), run)
  atExit(() => removeRun(run))
  try {
    mkdirSync(folder)
    const bridge = `${run}-sw`
    // Multicast must reach every port even though nobody here answers IGMP queries: mDNS depends on it.
    ip([`netns add ${bridge}`])
    ip(['link add br0 type bridge mcast_snooping 0', 'link set br0 up'], bridge)
    nft(bridge, filters)
    const hosts: Host[] = []
    for (let i = 1; i <= count; i++) {
      const name = `${run}-${i}`
      ip([`netns add ${name}`, `link add eth0 netns ${name} type veth peer name p${i} netns ${bridge}`])
      ip([`link set p${i} master br0 up`], bridge)
      const multicast = 'route add 224.0.0.0/4 dev eth0'
      ip([`addr add ${addressOf(i)}/24 dev eth0`, 'link set lo up', 'link set eth0 up', multicast], name)
      const programs = containerdStore.includes(i) ? newerEngine : undefined
      hosts.push(makeHost(name, i, docker ? join(folder, String(i)) : undefined, dockerArgs, programs))
    }
    await Promise.all(hosts.map((host) => host.engine?.start()))
    return { hosts, ...makeSwitch(bridge, hosts), close: () => removeRun(run) }
  } catch (error) {
    removeRun(run)
    throw error
  }
}

/** Installs those of these commands that are missing; throws, saying why, where that cannot be. */
export function needTools(commands: readonly string[]): void {
  process.stderr.write(command(process.execPath, [setupScript, 'tools', ...commands]).stderr)
}

/** The folder with the programs of an engine that can keep images in containerd's store; fetched where it is missing. */
function needNewerEngine(): string {
  const { stdout, stderr } = command(process.execPath, [setupScript, 'newer-engine'])
  process.stderr.write(stderr)
  return stdout
}

/** Why there is no such engine on this machine, or undefined where there is. */
export function whyNoNewerEngine(): string | undefined {
  try {
    needNewerEngine()
    return undefined
  } catch (error) {
    return (error as Error).message.replaceAll('\n', ' ')
  }
}

/** Removes hosts whose owner process is gone, and returns the names of their runs. */
export function removeLeftovers(): string[] {
  const names = [namespaces, tmpdir(), ...cgroupRoots()].flatMap(list)
  const runs = new Set(names.flatMap((name) => /^dmt-\d+-[0-9a-f]{4}/.exec(name) ?? []))
  const left = [...runs].filter((run) => !existsSync(`/proc/${run.split('-')[1]}`))
  for (const run of left) removeRun(run)
  return left
}

// ---- the network ----------------------------------------------------------------------------------------------------

const addressOf = (i: number) => `10.77.0.${i}`

/** Bytes that wait before a limit, by its megabits a second: 80 ms. Packets between these hosts have up to 64 kB each. */
const QUEUE = 10_000

// The package of `ip` has `tc` as well.
const tools = ['ip', 'nft', 'nsenter', 'unshare']
const dockerTools = ['dockerd', 'iptables']

/** A filter in the switch itself. Both hosts of a block keep their carrier, as on a radio that no longer hears the other. */
const filters = `table bridge dmt {
  set blocked { type ifname . ifname; }
  chain loss { }
  chain protocols { }
  chain forward { type filter hook forward priority 0; iifname . oifname @blocked drop; jump loss; jump protocols; }
}`

function makeSwitch(
  namespace: string,
  hosts: readonly Host[],
): Pick<Hosts, 'cut' | 'block' | 'slow' | 'limit' | 'lose' | 'drop' | 'heal'> {
  const blocks = new Set<string>()
  const slowed = new Set<Host>()
  const limited = new Set<Host>()
  const portOf = (host: Host) => {
    const index = hosts.indexOf(host)
    if (index < 0) throw new Error(`${host.name} is not on this network`)
    return `p${index + 1}`
  }
  return {
    cut: (host) => ip([`link set ${portOf(host)} down`], namespace),
    block: (from, to) => {
      const pair = `"${portOf(from)}" . "${portOf(to)}"`
      if (blocks.has(pair)) return
      nft(namespace, `add element bridge dmt blocked { ${pair} }`)
      blocks.add(pair)
    },
    slow: (host, mbits) => {
      shape(host.name, 'eth0', ['replace', 'tbf', 'rate', `${mbits}mbit`, 'burst', '32kb', 'latency', '100ms'])
      slowed.add(host)
    },
    limit: (host, mbits) => {
      for (const [where, device] of [
        [host.name, 'eth0'],
        [namespace, portOf(host)],
      ] as const) {
        shape(where, device, ['replace', 'handle', '1:', 'htb', 'default', '1'])
        const rate = ['rate', `${mbits}mbit`, 'burst', '64kb', 'cburst', '64kb']
        command('tc', [
          '-n',
          where,
          'class',
          'replace',
          'dev',
          device,
          'parent',
          '1:',
          'classid',
          '1:1',
          'htb',
          ...rate,
        ])
        const queue = ['parent', '1:1', 'handle', '2:', 'bfifo', 'limit', `${Math.ceil(mbits * QUEUE)}`]
        command('tc', ['-n', where, 'qdisc', 'replace', 'dev', device, ...queue])
      }
      limited.add(host)
    },
    lose: (percent) => {
      nft(namespace, `flush chain bridge dmt loss; add rule bridge dmt loss numgen random mod 100 < ${percent} drop`)
    },
    drop: (protocol) => nft(namespace, `add rule bridge dmt protocols ip protocol ${protocol} drop`),
    heal: (host) => {
      if (host === undefined) nft(namespace, 'flush chain bridge dmt loss; flush chain bridge dmt protocols')
      const ports = host ? [portOf(host)] : hosts.map(portOf)
      for (const pair of [...blocks].filter((pair) => ports.some((port) => pair.includes(`"${port}"`)))) {
        nft(namespace, `delete element bridge dmt blocked { ${pair} }`)
        blocks.delete(pair)
      }
      for (const each of [...slowed].filter((other) => host === undefined || other === host)) {
        shape(each.name, 'eth0', ['del'])
        slowed.delete(each)
      }
      for (const each of [...limited].filter((other) => host === undefined || other === host)) {
        shape(each.name, 'eth0', ['del'])
        shape(namespace, portOf(each), ['del'])
        limited.delete(each)
      }
      ip(
        ports.map((port) => `link set ${port} up`),
        namespace,
      )
    },
  }
}

/** Runs lines of `ip`, in a namespace if one is named. */
function ip(lines: string[], namespace?: string): void {
  command('ip', [...(namespace ? ['-n', namespace] : []), '-batch', '-'], `${lines.join('\n')}\n`)
}

/** Changes the root queue by which a device sends: what is to be done with it, then its kind and parameters. */
function shape(namespace: string, device: string, [action, ...queue]: [string, ...string[]]): void {
  command('tc', ['-n', namespace, 'qdisc', action, 'dev', device, 'root', ...queue])
}

function nft(namespace: string, script: string): void {
  command('nsenter', [`--net=${namespaces}/${namespace}`, 'nft', '-f', '-'], `${script}\n`)
}

// ---- one host -------------------------------------------------------------------------------------------------------

function makeHost(
  name: string,
  index: number,
  engineFolder: string | undefined,
  dockerArgs: readonly string[],
  newerEngine: string | undefined,
): Host {
  // `ip netns exec` would hide the cgroups, without which no container starts.
  const prefix = [
    ...['nsenter', `--net=${namespaces}/${name}`, 'unshare', '--uts', 'sh', '-c'],
    ...['echo "$0" >/proc/sys/kernel/hostname && exec "$@"', name],
  ]
  const exec: Host['exec'] = (argv, options = {}) => {
    const [program = '', ...args] = [...prefix, ...argv]
    return spawn(program, args, { ...options, env: { ...environment(), ...engineEnv, ...options.env } })
  }
  const engine = engineFolder ? makeEngine(name, index, engineFolder, dockerArgs, newerEngine, exec) : undefined
  const engineEnv = engine ? { DOCKER_HOST: engine.url } : {}
  return {
    name,
    address: addressOf(index),
    engine,
    prefix,
    exec,
    run: (argv, { deadlineMs = 30_000, env } = {}) =>
      new Promise((resolve, reject) => {
        const child = exec(argv, { env, stdio: ['ignore', 'pipe', 'pipe'], timeout: deadlineMs, killSignal: 'SIGKILL' })
        const output = { stdout: '', stderr: '' }
        for (const stream of ['stdout', 'stderr'] as const) {
          child[stream]?.setEncoding('utf8').on('data', (chunk: string) => {
            output[stream] += chunk
          })
        }
        child.on('error', reject)
        child.on('close', (code) => resolve({ code, ...output }))
      }),
    crash: () => powerCut(name, engineFolder),
  }
}

function makeEngine(
  name: string,
  index: number,
  folder: string,
  dockerArgs: readonly string[],
  newerEngine: string | undefined,
  exec: Host['exec'],
): Engine {
  const socket = join(folder, 'docker.sock')
  const execRoot = execRootOf(folder)
  const logFile = join(folder, 'dockerd.log')
  let dockerd: ChildProcess | undefined
  const alive = () => dockerd !== undefined && dockerd.exitCode === null && dockerd.signalCode === null
  const gone = (deadlineMs: number) => until(`the end of ${name}'s dockerd`, () => !alive(), { deadlineMs })
  mkdirSync(folder, { recursive: true })

  const engine: Engine = {
    socket,
    url: `unix://${socket}`,
    folder,
    async start() {
      if (alive()) return
      const args = [
        ...['--data-root', join(folder, 'data'), '--exec-root', execRoot, '--pidfile', join(folder, 'docker.pid')],
        ...['-H', engine.url, '--bip', `10.78.${index}.1/24`],
        // A cgroup of its own finds every process of every container, also when the engine is dead. (With the systemd
        // driver, the default where systemd runs, it would have to be a slice.)
        ...['--cgroup-parent', `/${name}`, '--exec-opt', 'native.cgroupdriver=cgroupfs'],
        ...dockerArgs,
      ]
      const { PATH } = environment()
      const env = newerEngine === undefined ? {} : { PATH: `${newerEngine}:${PATH}` }
      if (newerEngine !== undefined) {
        const config = join(folder, 'daemon.json')
        writeFileSync(config, JSON.stringify({ features: { 'containerd-snapshotter': true } }))
        args.push('--config-file', config)
      }
      const log = openSync(logFile, 'a')
      const child = exec(['dockerd', ...args], { detached: true, stdio: ['ignore', log, log], env })
      closeSync(log)
      dockerd = child
      child.on('error', () => {}) // the wait below says what the log says
      const ready = () => !alive() || ping(socket).catch(() => false)
      const answered = await until(`an answer of ${name}'s dockerd`, ready, { deadlineMs: 60_000 }).catch(() => false)
      if (!answered || !alive()) {
        powerCut(name, folder)
        const tail = readFileSync(logFile, 'utf8').trim().split('\n').slice(-12).join('\n')
        throw new Error(`${name}'s dockerd did not start:\n${tail}`)
      }
    },
    async stop() {
      if (!alive()) return
      dockerd?.kill('SIGTERM')
      await gone(30_000)
    },
    async kill({ leaveContainers = false } = {}) {
      if (leaveContainers) {
        dockerd?.kill('SIGKILL')
        // containerd is to die with its parent; where it does not, it would hold its socket against the next one.
        const containerd = processes((p) => p.args[0]?.endsWith('containerd') === true && p.mentions(execRoot))
        killAll(containerd)
        // Where the machine's first process is slow to reap orphans, a dead containerd still looks alive by its pid file.
        rmSync(join(execRoot, 'containerd/containerd.pid'), { force: true })
      } else {
        stopEngine(name, folder)
      }
      await gone(10_000)
    },
    freeze() {
      dockerd?.kill('SIGSTOP')
      // On a busy machine a thread of it may still answer before all of them have stopped.
      for (let tries = 0; tries < 1000 && dockerd?.pid !== undefined && !isStopped(dockerd.pid); tries++) sleep(5)
    },
    thaw: () => void dockerd?.kill('SIGCONT'),
  }
  return engine
}

const isStopped = (pid: number): boolean =>
  list(`/proc/${pid}/task`).every((thread) => /\) [Tt] /.test(read(`/proc/${pid}/task/${thread}/stat`)))

/** Blocks this thread, for so many milliseconds. */
const sleep = (ms: number) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)

const execRootOf = (folder: string) => join(folder, 'exec')

/** The test's own environment, with the folders where the tools of a system live, which not every root has in its PATH. */
const environment = () => ({ ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/local/sbin:/usr/sbin:/sbin` })

/** Whether the engine at this socket answers its ping. */
function ping(socketPath: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const outgoing = request({ socketPath, path: '/_ping', timeout: 5_000, agent: false }, (response) => {
      response.resume()
      resolve(response.statusCode === 200)
    })
    outgoing.on('timeout', () => outgoing.destroy(new Error('no answer')))
    outgoing.on('error', reject)
    outgoing.end()
  })
}

// ---- the end of it --------------------------------------------------------------------------------------------------
// All of this is synchronous, because it must also work while the process exits.

/** Ends an engine, its containers and all that runs for them, and removes what a reboot would: mounts and run-time state. */
function stopEngine(host: string, folder: string): void {
  const execRoot = execRootOf(folder)
  killUntilNone(() => [...processes((p) => p.mentions(execRoot)), ...containerProcesses(host)])
  removeShimSockets(execRoot)
  unmountUnder(folder)
  rmSync(execRoot, { recursive: true, force: true })
  rmSync(join(folder, 'docker.pid'), { force: true })
}

function powerCut(host: string, engineFolder: string | undefined): void {
  const inside = sameNamespace([host])
  // Its programs first, or they would see the engine die before they do.
  killUntilNone(() => processes(inside))
  if (engineFolder) stopEngine(host, engineFolder)
}

function removeRun(run: string): void {
  const folder = join(tmpdir(), run)
  const mine = list(namespaces).filter((name) => name.startsWith(`${run}-`))
  const hosts = [...new Set(cgroupRoots().flatMap(list))].filter((name) => name.startsWith(`${run}-`))
  const inside = sameNamespace(mine)
  const belongs = (p: Process) => inside(p) || p.mentions(`${folder}/`, '/exec')
  try {
    killUntilNone(() => [...processes(belongs), ...hosts.flatMap(containerProcesses)])
  } finally {
    for (const host of list(folder)) removeShimSockets(execRootOf(join(folder, host)))
    unmountUnder(folder)
    for (const name of mine) command('ip', ['netns', 'del', name])
    for (const host of hosts) for (const root of cgroupRoots()) removeCgroup(join(root, host))
    rmSync(folder, { recursive: true, force: true })
  }
}

interface Process {
  pid: number
  args: string[]
  /** Whether one of its arguments contains all of these. */
  mentions(...parts: string[]): boolean
}

function processes(matches: (process: Process) => boolean): number[] {
  const pids = list('/proc').map(Number)
  return pids.filter((pid) => {
    if (!(pid > 0) || pid === process.pid) return false
    const args = read(`/proc/${pid}/cmdline`).split('\0')
    return matches({ pid, args, mentions: (...parts) => args.some((arg) => parts.every((part) => arg.includes(part))) })
  })
}

/** Matches processes in one of these network namespaces. */
function sameNamespace(names: readonly string[]): (process: Process) => boolean {
  const inode = (file: string) => {
    try {
      const { dev, ino } = statSync(file)
      return `${dev}:${ino}`
    } catch {
      return undefined
    }
  }
  const wanted = new Set(names.map((name) => inode(join(namespaces, name))))
  wanted.delete(undefined)
  return ({ pid }) => wanted.has(inode(`/proc/${pid}/ns/net`))
}

/** Every process in the containers of a host, found by the cgroup they were born in. */
function containerProcesses(host: string): number[] {
  return cgroupRoots().flatMap((root) =>
    cgroupTree(join(root, host)).flatMap((group) => {
      // A paused container would sleep through its own SIGKILL.
      if (existsSync(join(group, 'freezer.state'))) attempt(() => writeFileSync(join(group, 'freezer.state'), 'THAWED'))
      return read(join(group, 'cgroup.procs')).split('\n').filter(Boolean).map(Number)
    }),
  )
}

/** The hierarchy of cgroup version 2, or the several of version 1. */
const cgroupRoots = () => [cgroups, ...list(cgroups).map((name) => join(cgroups, name))]

/** A cgroup and all below it, the deepest first. */
function cgroupTree(group: string): string[] {
  if (!existsSync(join(group, 'cgroup.procs'))) return []
  return [...list(group).flatMap((name) => cgroupTree(join(group, name))), group]
}

function removeCgroup(group: string): void {
  for (const each of cgroupTree(group)) {
    // The kernel lets go of a cgroup a moment after its last process.
    for (let tries = 0; tries < 40 && existsSync(each); tries++) if (!attempt(() => rmdirSync(each))) pause(25)
  }
}

function killAll(pids: readonly number[]): void {
  for (const pid of pids) attempt(() => process.kill(pid, 'SIGKILL'))
}

/** Kills what `find` finds, again and again, since what is being killed may just have forked. */
function killUntilNone(find: () => number[]): void {
  let pids = find().filter(isRunning)
  for (let tries = 0; pids.length > 0; tries++) {
    if (tries === 200) throw new Error(`processes ${pids.join(', ')} survive SIGKILL`)
    killAll(pids)
    pause(25)
    pids = find().filter(isRunning)
  }
}

/** A zombie is over, but stays listed until its parent, perhaps this very process, can look after it. */
const isRunning = (pid: number) => /^State:\s+[^ZX]/m.test(read(`/proc/${pid}/status`))

/** Shims of killed containers leave their sockets in a folder that all engines of a machine share. */
function removeShimSockets(execRoot: string): void {
  const tasks = join(execRoot, 'containerd/daemon/io.containerd.runtime.v2.task/moby')
  for (const task of list(tasks)) {
    const address = read(join(tasks, task, 'address')).trim()
    if (address.startsWith('unix://')) rmSync(address.slice('unix://'.length), { force: true })
  }
}

function unmountUnder(folder: string): void {
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8').split('\n')
  const targets = mounts.map((line) => line.split(' ')[4] ?? '').filter((target) => target.startsWith(`${folder}/`))
  for (const target of targets.reverse()) spawnSync('umount', ['-l', target], { env: environment() })
}

// ---- small things ---------------------------------------------------------------------------------------------------

/** Runs a program to its end and returns what it wrote to stderr; throws with that if it fails. */
function command(program: string, args: readonly string[], input = ''): { stdout: string; stderr: string } {
  const { status, stdout, stderr, error } = spawnSync(program, args, { input, encoding: 'utf8', env: environment() })
  if (status === 0) return { stdout, stderr }
  throw new Error(
    `${[program, ...args].join(' ')} failed: ${error?.message ?? stderr.trim()}${input && ` (input: ${input.trim()})`}`,
  )
}

/** The names in a folder; none where there is no such folder. */
function list(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    return []
  }
}

/** A file's text; empty where there is no such file any more. */
function read(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}

function attempt(action: () => unknown): boolean {
  try {
    action()
    return true
  } catch {
    return false
  }
}

function pause(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
}
