// Meshes of real APs for tests: each a `dropmesh up` process of the built command line, on loopback, with a data folder of
// its own. Several share one engine, told apart by label.
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type Docker from 'dockerode'
import { Client } from '../../cli/client.js'
import { invite, type Terms } from '../../cli/ticket.js'
import type { GrantRow } from '../../node/api/grants.js'
import type { ApRow, InstanceRow, Status } from '../../node/api/queries.js'
import { connectDocker } from '../../node/chutes/docker-client.js'
import { killLabelled, removeLabelled } from '../../node/chutes/sweep.js'
import type { MeshEvent } from '../../node/events.js'
import { loadSeed } from '../../node/identity.js'
import { programFile } from '../../node/root.js'
import { hex } from '../../protocols/bytes.js'
import { personSigner, type Signer } from '../../protocols/keys.js'
import { BUSYBOX } from './busybox.js'
import type { Host } from './hosts.js'
import { scratch } from './scratch.js'
import { until } from './until.js'

/** The command line, as a file for node to run. */
export const main = programFile('dropmesh')

/** What takes a second takes much longer where other tests share the cores. */
const PATIENCE = 60_000

/** So little that a dozen instances fit on one AP of a small machine. */
const SMALL = { resources: { limits: { cpus: '0.2', memory: '32m' } } }

/** `until` with the patience that processes and containers need. */
export const eventually: typeof until = (what, probe, options) =>
  until(what, probe, { deadlineMs: PATIENCE, everyMs: 100, ...options })

export interface Finished {
  status: number
  stdout: string
  stderr: string
}

/** What `publish --json` prints. */
interface Published {
  chute: string
  revision: number
  package: string
  placed: { instance: string; ap: string | null; state: string }[]
}

export interface ApOptions {
  /** A ticket; null for none, and then it looks on the LAN where it has multicast. */
  join?: string | null
  labels?: string[]
  /** Further arguments of `up`. */
  args?: string[]
  env?: NodeJS.ProcessEnv
  /** The program: the command line as it is built, unless a test alters it. */
  main?: string
  /** Puts the command into another place, such as a network namespace: prefix of the command line. */
  prefix?: readonly string[]
  /** Null for what `up` chooses by itself. */
  listen?: string | null
}

/** An AP on a host of its own, with that host's engine if it has one, found by multicast DNS. */
export const on = ({ prefix, engine }: Host): ApOptions => ({
  prefix,
  listen: '/ip4/0.0.0.0/tcp/0',
  args: ['--mdns', '--docker-host', engine?.url ?? 'unix:///no/engine'],
})

/** A service of a chute as Compose has it, or what is to differ from one that just sleeps. */
export interface Service {
  command?: string[]
  [key: string]: unknown
}

/** One container that a mesh under test has on the engine. */
export interface TestContainer {
  id: string
  /** AP id. */
  ap: string
  instance: string
  service: string
  revision: string
  running: boolean
}

/** One AP under test. */
export class TestAp {
  readonly client: Client
  readonly data: string
  /** AP id, once it answered. */
  id = ''
  private child: ChildProcess | undefined
  log = ''

  constructor(
    private readonly mesh: TestMesh,
    readonly name: string,
    readonly options: ApOptions,
  ) {
    this.data = join(mesh.dir, name)
    this.client = new Client(this.data)
  }

  /** Starts the process, with its ticket where it never ran before, and waits until its API answers. */
  async start(extra: string[] = []): Promise<this> {
    const {
      join: ticket,
      labels = [],
      args = [],
      env = {},
      main: program = main,
      prefix = [],
      listen = '/ip4/127.0.0.1/tcp/0',
    } = this.options
    const up = ['up', '--data', this.data, '--name', this.name, '--log', 'json', ...args, ...extra]
    if (listen !== null) up.push('--listen', listen)
    if (!args.includes('--mdns')) up.push('--no-mdns')
    if (ticket === undefined) up.push('--found')
    else if (ticket !== null && this.id === '') up.push('--join', ticket)
    for (const label of labels) up.push('--label', label)
    const [command, ...rest] = [...prefix, process.execPath, program, ...up.filter((arg) => arg !== '--mdns')]
    const child = spawn(command!, rest, {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, ...this.mesh.env, ...env },
    })
    this.child = child
    child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.log += text
    })
    await until(
      `AP ${this.name} to answer`,
      async () => {
        if (!this.isRunning) return true
        this.id = (await this.status()).ap.id
        return true
      },
      { deadlineMs: PATIENCE },
    )
    if (!this.isRunning) throw new Error(`AP ${this.name} ended with ${child.exitCode}: ${this.log.slice(-500)}`)
    return this
  }

  get pid(): number {
    return this.child!.pid!
  }

  get isRunning(): boolean {
    return this.child !== undefined && this.child.exitCode === null && this.child.signalCode === null
  }

  signal(signal: NodeJS.Signals): void {
    if (this.isRunning) this.child!.kill(signal)
  }

  /** Sends a signal and waits for the end of the process. */
  async stop(signal: NodeJS.Signals = 'SIGKILL'): Promise<number | null> {
    if (!this.isRunning) return this.child?.exitCode ?? null
    const ended = new Promise<number | null>((resolve) => this.child!.once('exit', resolve))
    this.child!.kill(signal)
    return ended
  }

  /** What a power cut does: the node and its containers are gone at once. */
  async crash(docker: Docker = this.mesh.docker): Promise<void> {
    await this.stop('SIGKILL')
    await killLabelled(docker, `dropmesh.ap=${this.id}`)
  }

  status(): Promise<Status> {
    return this.client.get('/v1/status')
  }

  aps(): Promise<ApRow[]> {
    return this.client.get('/v1/aps')
  }

  instances(): Promise<InstanceRow[]> {
    return this.client.get('/v1/instances')
  }

  async events(): Promise<MeshEvent[]> {
    const events: MeshEvent[] = []
    for await (const event of this.client.lines<MeshEvent>('GET', '/v1/events')) events.push(event)
    return events
  }

  /** Runs the command line against this AP. */
  cli(...args: string[]): Promise<Finished> {
    return this.mesh.cli([...args, '--data', this.data])
  }

  /** Runs the command line, which must succeed, and returns its JSON. */
  async json<T>(...args: string[]): Promise<T> {
    const { status, stdout, stderr } = await this.cli(...args, '--json')
    if (status !== 0) throw new Error(`dropmesh ${args.join(' ')} ended with ${status}: ${stderr}`)
    return JSON.parse(stdout) as T
  }
}

/** A mesh under test, with one user's keys. `close` removes everything, and is safe after a failure. */
export class TestMesh {
  readonly dir = scratch('mesh')
  readonly aps: TestAp[] = []
  readonly docker: Docker
  readonly env: NodeJS.ProcessEnv

  constructor(docker: Docker = connectDocker()) {
    this.docker = docker
    this.env = { XDG_DATA_HOME: join(this.dir, 'user'), NO_COLOR: '1' }
  }

  /** Starts an AP: the first one founds the mesh, each other one joins with a fresh ticket from the first. */
  async add(name: string, options: ApOptions = {}): Promise<TestAp> {
    const first = this.aps[0]
    const ap = new TestAp(this, name, { ...options })
    this.aps.push(ap)
    if (first !== undefined && ap.options.join !== null) ap.options.join ??= await this.ticket(first)
    await mkdir(ap.data, { recursive: true })
    await ap.start()
    await this.meshId()
    return ap
  }

  /** What `invite` does, without the time that a process takes to start. */
  async ticket(ap: TestAp, terms: Terms = {}): Promise<string> {
    return invite(ap.client, await this.adminOf(ap), terms)
  }

  private admin: Signer | undefined

  /** Whichever of this user's keys is an admin of the mesh of an AP. */
  async adminOf({ client }: TestAp): Promise<Signer> {
    this.admin ??= await this.findAdmin(client)
    return this.admin
  }

  private async findAdmin(client: Client): Promise<Signer> {
    const dir = join(this.env.XDG_DATA_HOME!, 'dropmesh', 'keys')
    const names = (await readdir(dir)).map((file) => file.replace(/\.key$/, ''))
    const signers = await Promise.all(names.map(async (name) => personSigner((await loadSeed(dir, name))!)))
    const admins = (await client.get<GrantRow[]>('/v1/grants')).filter(({ role }) => role === 'admin')
    return signers.find(({ publicKey }) => admins.some(({ key }) => key === hex(publicKey)))!
  }

  async invite(ap: TestAp, ...args: string[]): Promise<string> {
    const { status, stdout, stderr } = await ap.cli('invite', ...args)
    if (status !== 0) throw new Error(`no ticket: ${stderr}`)
    return stdout.trim().split('\n').at(-1)!
  }

  /** Starts n APs and waits until all believe all alive. */
  async start(n: number, optionsOf: (i: number) => ApOptions = () => ({})): Promise<TestAp[]> {
    const add = (i: number) => this.add(`ap${i}`, optionsOf(i))
    await add(1)
    await Promise.all(Array.from({ length: n - 1 }, (_, i) => add(i + 2)))
    await this.settled()
    return this.aps
  }

  /** Waits until all running APs believe each other alive and hold the same ledger. */
  async settled(): Promise<void> {
    const running = this.aps.filter(({ isRunning }) => isRunning)
    await until(
      'all APs to know each other',
      async () => {
        const views = await Promise.all(running.map((ap) => ap.aps()))
        const digests = await Promise.all(running.map(async (ap) => (await ap.status()).ledger.digest.slice(0, 8)))
        const stateOf = (rows: ApRow[], { id }: TestAp) => rows.find((row) => row.id === id)?.state ?? 'unknown'
        const doubts = running.flatMap(({ name }, i) =>
          running.map((of) => `${name} sees ${of.name} ${stateOf(views[i]!, of)}`),
        )
        const open = doubts.filter((doubt) => !doubt.endsWith(' alive'))
        if (open.length > 0) throw new Error(open.join(', '))
        if (new Set(digests).size > 1) throw new Error(`ledgers differ: ${digests.join(' ')}`)
        return true
      },
      { deadlineMs: PATIENCE, everyMs: 200 },
    )
  }

  /** Writes the folder of a chute: services as given over one that just sleeps, the rest of its compose.yaml as given. */
  async chute(name: string, services: Record<string, Service>, more: object = {}): Promise<string> {
    const dir = join(this.dir, 'chutes', name)
    await mkdir(dir, { recursive: true })
    const compose = {
      name,
      services: Object.fromEntries(
        Object.entries(services).map(([service, given]) => [
          service,
          { image: BUSYBOX, command: ['sleep', '1000000'], deploy: SMALL, ...given },
        ]),
      ),
      ...more,
    }
    await writeFile(join(dir, 'compose.yaml'), JSON.stringify(compose, null, 2)) // JSON is YAML
    return dir
  }

  /** Publishes a chute with one service, and waits until it runs unless the arguments say otherwise. */
  async publish(ap: TestAp, name: string, service: Service = {}, args: string[] = [], more: object = {}) {
    const dir = await this.chute(name, { main: service }, more)
    return ap.json<Published>('publish', dir, ...args)
  }

  /** Containers of a chute on the engine, stopped ones too. */
  async containers(chute: string): Promise<TestContainer[]> {
    const label = [`dropmesh.mesh=${await this.meshId()}`, `dropmesh.chute=${chute}`]
    const found = await this.docker.listContainers({ all: true, filters: { label } })
    return found.map(({ Id, Labels, State }) => ({
      id: Id,
      ap: Labels['dropmesh.ap']!,
      instance: Labels['dropmesh.instance']!,
      service: Labels['dropmesh.service']!,
      revision: Labels['dropmesh.revision']!,
      running: State === 'running',
    }))
  }

  /** Waits until exactly n containers of a chute exist, all running, and returns them. */
  running(chute: string, n = 1): Promise<TestContainer[]> {
    return eventually(`${n} running containers of ${chute}`, async () => {
      const found = await this.containers(chute)
      return found.length === n && found.every(({ running }) => running) && found
    })
  }

  cli(args: string[], env: NodeJS.ProcessEnv = {}): Promise<Finished> {
    const child = spawn(process.execPath, [main, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...this.env, ...env },
      cwd: this.dir,
    })
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text
    })
    return new Promise((resolve) => child.on('close', (code) => resolve({ status: code ?? 1, stdout, stderr })))
  }

  async close(): Promise<void> {
    const mesh = await this.meshId()
    await Promise.all(this.aps.map((ap) => ap.stop('SIGKILL')))
    if (mesh === undefined) return
    await removeLabelled(this.docker, `dropmesh.mesh=${mesh}`)
  }

  private mesh: string | undefined

  /** The mesh id as text, as long as an AP could be asked once. */
  async meshId(): Promise<string | undefined> {
    for (const ap of this.aps)
      this.mesh ??= await ap.status().then(
        ({ mesh }) => mesh,
        () => undefined,
      )
    return this.mesh
  }
}
