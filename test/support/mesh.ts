// Meshes of real APs for tests: each a `dropmesh up` process of the built command line, on loopback, with a data folder of
// its own. Several share one engine, told apart by label.
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type Docker from 'dockerode'
import { Client } from '../../cli/client.js'
import type { ApRow, InstanceRow, Status } from '../../node/api/queries.js'
import { connectDocker } from '../../node/chutes/docker-client.js'
import { killLabelled, removeLabelled } from '../../node/chutes/sweep.js'
import type { MeshEvent } from '../../node/events.js'
import { scratch } from './scratch.js'
import { until } from './until.js'

const main = fileURLToPath(new URL('../../cli/main.js', import.meta.url))

export interface Finished {
  status: number
  stdout: string
  stderr: string
}

export interface ApOptions {
  join?: string
  labels?: string[]
  /** Further arguments of `up`. */
  args?: string[]
  env?: NodeJS.ProcessEnv
  /** Puts the command into another place, such as a network namespace: prefix of the command line. */
  prefix?: string[]
  listen?: string
}

/** One AP under test. */
export class TestAp {
  readonly client: Client
  readonly data: string
  private child: ChildProcess | undefined
  log = ''

  constructor(
    private readonly mesh: TestMesh,
    readonly name: string,
    private readonly options: ApOptions,
  ) {
    this.data = join(mesh.dir, name)
    this.client = new Client(this.data)
  }

  /** Starts the process, and waits until its API answers. */
  async start(extra: string[] = []): Promise<this> {
    const {
      join: ticket,
      labels = [],
      args = [],
      env = {},
      prefix = [],
      listen = '/ip4/127.0.0.1/tcp/0',
    } = this.options
    const up = ['up', '--data', this.data, '--name', this.name, '--listen', listen, '--log', 'json', ...args, ...extra]
    if (!args.includes('--mdns')) up.push('--no-mdns')
    if (ticket !== undefined) up.push('--join', ticket)
    for (const label of labels) up.push('--label', label)
    const [command, ...rest] = [
      ...prefix,
      process.execPath,
      '--enable-source-maps',
      main,
      ...up.filter((arg) => arg !== '--mdns'),
    ]
    const child = spawn(command!, rest, {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, ...this.mesh.env, ...env },
    })
    this.child = child
    child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.log += text
    })
    await until(`AP ${this.name} to answer`, () => {
      if (child.exitCode !== null)
        throw new Error(`AP ${this.name} ended with ${child.exitCode}: ${this.log.slice(-500)}`)
      return this.status()
    })
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
    const { id } = (await this.status()).ap
    await this.stop('SIGKILL')
    await killLabelled(docker, `dropmesh.ap=${id}`)
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
    const ticket = options.join ?? (first === undefined ? undefined : await this.invite(first))
    const ap = new TestAp(this, name, { ...options, join: ticket })
    this.aps.push(ap)
    await mkdir(ap.data, { recursive: true })
    await ap.start()
    await this.meshId()
    return ap
  }

  async invite(ap: TestAp, ...args: string[]): Promise<string> {
    const { status, stdout, stderr } = await ap.cli('invite', ...args)
    if (status !== 0) throw new Error(`no ticket: ${stderr}`)
    return stdout.trim().split('\n').at(-1)!
  }

  /** Starts n APs and waits until all believe all alive. */
  async start(n: number, optionsOf: (i: number) => ApOptions = () => ({})): Promise<TestAp[]> {
    for (let i = 1; i <= n; i++) await this.add(`ap${i}`, optionsOf(i))
    await this.settled()
    return this.aps
  }

  /** Waits until all running APs believe each other alive and hold the same ledger. */
  async settled(): Promise<void> {
    const running = this.aps.filter(({ isRunning }) => isRunning)
    await until(
      'all APs to know each other',
      async () => {
        const ids = await Promise.all(running.map(async (ap) => (await ap.status()).ap.id))
        const views = await Promise.all(running.map((ap) => ap.aps()))
        const digests = await Promise.all(running.map(async (ap) => (await ap.status()).ledger.digest))
        const isAlive = (rows: ApRow[], id: string) => rows.some((row) => row.id === id && row.state === 'alive')
        return views.every((rows) => ids.every((id) => isAlive(rows, id))) && new Set(digests).size === 1
      },
      { deadlineMs: 60_000 },
    )
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
