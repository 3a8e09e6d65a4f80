// `dropmesh demo`: several APs on this machine, a chute, a crash, and the chute comes back. Everything is real: processes,
// sockets, signatures, containers. All of it stays on loopback and is cleaned up.
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join, relative } from 'node:path'
import type { Command } from 'commander'
import type Docker from 'dockerode'
import type { ApRow, InstanceRow, Status } from '../../node/api/queries.js'
import { killLabelled, removeLabelled } from '../../node/chutes/sweep.js'
import type { MeshEvent } from '../../node/events.js'
import { programFile } from '../../node/root.js'
import { MeshError, messageOf } from '../../protocols/error.js'
import { Client } from '../client.js'
import { describeEvent } from '../describe.js'
import { withExample } from '../options.js'
import { colour, print } from '../output.js'

interface DemoOptions {
  aps: string
  fast?: boolean
  keep?: boolean
}

/** Milliseconds to wait for each thing that should happen. */
const PATIENCE = 90_000
const READING = 2500

export function addDemo(program: Command): void {
  const command = program
    .command('demo')
    .description('several APs on this machine: publish a chute, crash its AP, watch it move')
    .option('--aps <n>', 'how many APs', '3')
    .option('--fast', 'no pauses for reading')
    .option('--keep', 'leave the mesh running, and say how to talk to it')
  withExample(command, 'dropmesh demo --aps 5').action(demo)
}

async function demo(options: DemoOptions): Promise<void> {
  const count = Number(options.aps)
  if (!Number.isInteger(count) || count < 3 || count > 20)
    throw new MeshError('aps', `--aps "${options.aps}": a number from 3 to 20`)
  // Loaded only here, so that the other commands start fast.
  const { connectDocker } = await import('../../node/chutes/docker-client.js')
  const docker = connectDocker()
  await docker.version().catch((error) => {
    throw new MeshError(
      'no-engine',
      `the demo needs a Docker engine, and none answers (${messageOf(error)}); start one, or set DOCKER_HOST`,
    )
  })
  const stage = new Stage(docker, await mkdtemp(join(tmpdir(), 'dropmesh-demo-')))
  const interrupted = new Promise<never>((_, reject) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.once(signal, () => reject(new MeshError('interrupted', `stopped by ${signal}`)))
    }
  })
  let isDone = false
  try {
    await Promise.race([play(stage, count, options), interrupted])
    isDone = true
  } finally {
    if (isDone && options.keep) tellHowToTalk(stage)
    else await stage.clear()
  }
}

/** The processes, folders and containers of one demo. */
class Stage {
  readonly nodes: DemoAp[] = []
  mesh: string | undefined
  private isCleared = false

  constructor(
    readonly docker: Docker,
    readonly dir: string,
  ) {}

  /** The user of the demo has keys of its own. */
  private get env(): NodeJS.ProcessEnv {
    return { ...process.env, XDG_DATA_HOME: join(this.dir, 'user') }
  }

  /** Starts an AP with a data folder of its own, and returns it when it is up. */
  async up(name: string, args: string[]): Promise<{ node: DemoAp; status: Status }> {
    if (this.isCleared) throw new MeshError('demo', 'the demo is over')
    const node = new DemoAp(name, join(this.dir, name), args, this.env)
    this.nodes.push(node)
    return { node, status: await node.start() }
  }

  /** Runs the command line as a person would, and returns what it prints. */
  async cli(args: string[], show = false): Promise<string> {
    const child = spawn(process.execPath, [main, ...args], {
      env: this.env,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let out = ''
    let err = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      out += text
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      err += text
      if (show) process.stdout.write(colour.dim(text.replace(/^(?=.)/gm, '    ')))
    })
    const status = await new Promise<number>((resolve) => child.on('close', (code) => resolve(code ?? 1)))
    if (status !== 0) throw new MeshError('demo', `dropmesh ${args[0]} failed: ${err.trim().split('\n').at(-1)}`)
    return out.trimEnd()
  }

  async clear(): Promise<void> {
    this.isCleared = true
    for (const node of this.nodes) node.kill()
    if (this.mesh !== undefined) await removeLabelled(this.docker, `dropmesh.mesh=${this.mesh}`)
    await rm(this.dir, { recursive: true, force: true })
    print('cleaned up: processes, containers, networks and folders of the demo are gone')
  }
}

const main = programFile('dropmesh')

class DemoAp {
  readonly client: Client
  private process: ChildProcess | undefined
  private log = ''

  constructor(
    readonly name: string,
    readonly data: string,
    private readonly args: string[],
    private readonly env: NodeJS.ProcessEnv,
  ) {
    this.client = new Client(data)
  }

  async start(): Promise<Status> {
    const args = [
      'up',
      '--data',
      this.data,
      '--name',
      this.name,
      '--listen',
      '/ip4/127.0.0.1/tcp/0',
      '--no-mdns',
      '--log',
      'json',
    ]
    // A group of its own, so that Ctrl-C reaches the demo alone, which then cleans up.
    const child = spawn(process.execPath, [main, ...args, ...this.args], {
      detached: true,
      env: this.env,
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.log = (this.log + text).slice(-4000)
    })
    child.unref()
    this.process = child
    return until(`AP ${this.name} to be up`, async () => {
      if (child.exitCode !== null)
        throw new MeshError('demo', `AP ${this.name} ended: ${this.log.trim().split('\n').at(-1)}`)
      const status = await this.client.get<Status>('/v1/status')
      return status.state === 'running' && status.docker !== null ? status : undefined
    })
  }

  /** Lets the process live on without this one. */
  release(): void {
    this.process?.stderr?.destroy()
  }

  kill(): void {
    if (this.process?.pid === undefined || this.process.exitCode !== null) return
    try {
      process.kill(this.process.pid, 'SIGKILL')
    } catch {
      // It is gone already.
    }
  }
}

async function play(stage: Stage, count: number, options: DemoOptions): Promise<void> {
  const pause = () => (options.fast ? Promise.resolve() : new Promise<void>((resolve) => setTimeout(resolve, READING)))
  const chapter = async (text: string) => {
    await pause()
    print(`\n${colour.bold(`== ${text}`)}`)
  }

  await chapter(`${count} APs on this machine, each a process of its own`)
  const {
    node: publisher,
    status: { mesh, ap },
  } = await stage.up('ap1', [])
  stage.mesh = mesh
  print(`ap1 founded mesh ${mesh}`)
  print(colour.dim(`    ${ap.id}`))
  for (let i = 2; i <= count; i++) {
    const ticket = (await stage.cli(['invite', '--data', publisher.data])).split('\n').at(-1)!
    const { node, status } = await stage.up(`ap${i}`, ['--join', ticket, '--label', 'role=runner'])
    print(`${node.name} joined with a ticket, label role=runner`)
    print(colour.dim(`    ${status.ap.id}`))
  }
  await until('all APs to know each other', async () => {
    const views = await Promise.all(stage.nodes.map(({ client }) => client.get<ApRow[]>('/v1/aps')))
    return views.every((rows) => rows.length === count && rows.every(({ state }) => state === 'alive'))
  })
  print(await stage.cli(['aps', '--data', publisher.data]))

  await chapter(
    'A developer makes a key and a chute, is granted to publish, and does so from ap1, which will not run it',
  )
  print((await stage.cli(['keys', 'new', 'alice'])).split('\n')[0]!)
  const folder = join(stage.dir, 'hello')
  await stage.cli(['init', folder, '--template', 'hello'])
  print('$ dropmesh grant alice --instances 2')
  print(`    ${await stage.cli(['grant', 'alice', '--instances', '2', '--data', publisher.data])}`)
  print('$ dropmesh publish hello --key alice --on role=runner')
  print(await stage.cli(['publish', folder, '--key', 'alice', '--on', 'role=runner', '--data', publisher.data], true))

  await chapter('Where it runs, as any AP knows')
  print(await stage.cli(['ps', '--data', publisher.data]))
  const before = await serving(publisher.client)
  print(`GET ${before.url}\n    ${await page(before.url)}`)

  const victim = stage.nodes.find(({ name }) => name === before.row.apName)!
  const observer = publisher
  await chapter(`Power cut: ${victim.name} and its containers are killed, with no goodbye`)
  const crashedAt = Date.now()
  victim.kill()
  await killLabelled(stage.docker, `dropmesh.ap=${before.row.ap}`)
  print(`${new Date(crashedAt).toISOString().slice(11, 23)}  crash          SIGKILL for the node and its containers`)
  const after = await until('the chute to serve from another AP', async () => {
    const found = await serving(observer.client)
    return found.row.ap !== before.row.ap && (await page(found.url)) ? found : undefined
  })
  const servingAt = Date.now()
  const events = await eventsSince(observer.client, new Date(crashedAt).toISOString())
  for (const event of events.filter(({ kind }) => kind !== 'synced')) print(describeEvent(event))

  await chapter('The chute is back')
  print(`GET ${after.url}\n    ${await page(after.url)}`)
  const at = (kind: string, field: string, value: unknown) =>
    events.find((event) => event.kind === kind && event[field] === value)?.at
  const startedAt = (
    await eventsSince(
      stage.nodes.find(({ name }) => name === after.row.apName)!.client,
      new Date(crashedAt).toISOString(),
    )
  ).find(({ kind }) => kind === 'started')?.at
  print('\nTimeline, in seconds after the crash:')
  timeline('suspected', at('suspected', 'ap', before.row.ap), crashedAt)
  timeline('dead', at('dead', 'ap', before.row.ap), crashedAt)
  timeline('started', startedAt, crashedAt)
  timeline('serving', new Date(servingAt).toISOString(), crashedAt)
  print('')
  await pause()
}

const timeline = (what: string, at: string | undefined, crashedAt: number): void =>
  print(
    `  ${what.padEnd(10)} ${at === undefined ? '   ?' : ((Date.parse(at) - crashedAt) / 1000).toFixed(1).padStart(5)} s`,
  )

async function serving(client: Client): Promise<{ row: InstanceRow; url: string }> {
  const rows = await client.get<InstanceRow[]>('/v1/instances')
  const row = rows.find(
    ({ ports, ap, state }) => ap !== null && ports.length > 0 && ['starting', 'running', 'healthy'].includes(state),
  )
  if (row === undefined) throw new Error('no instance has a port')
  return { row, url: `http://127.0.0.1:${row.ports[0]!.host}/` }
}

async function page(url: string): Promise<string> {
  const response = await fetch(url, { signal: AbortSignal.timeout(1000) })
  return (await response.text()).trim()
}

async function eventsSince(client: Client, since: string): Promise<MeshEvent[]> {
  const events: MeshEvent[] = []
  for await (const event of client.lines<MeshEvent>('GET', '/v1/events', { since })) events.push(event)
  return events
}

/** Asks again until there is an answer. A probe that throws has none yet; a MeshError of the demo ends the wait. */
async function until<T>(what: string, probe: () => Promise<T | undefined | false>): Promise<T> {
  const deadline = performance.now() + PATIENCE
  let last: unknown
  while (performance.now() < deadline) {
    try {
      const answer = await probe()
      if (answer) return answer
    } catch (error) {
      if (error instanceof MeshError && error.code === 'demo') throw error
      last = error
    }
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  throw new MeshError(
    'demo',
    `waited ${PATIENCE / 1000} s for ${what}${last === undefined ? '' : `: ${messageOf(last)}`}`,
  )
}

function tellHowToTalk({ nodes, dir, mesh }: Stage): void {
  for (const node of nodes) node.release()
  const called = process.argv[1]!
  const dropmesh = called.endsWith('.js') ? `node ${relative(process.cwd(), called)}` : basename(called)
  const ofMesh = `--filter label=dropmesh.mesh=${mesh}`
  print('The mesh keeps running. Talk to it with, for example:')
  print(`  ${dropmesh} ps --data ${nodes[0]!.data}`)
  print(`  ${dropmesh} events -f --data ${nodes[0]!.data}`)
  print('and when you have seen enough:')
  print(`  pkill -KILL -f ${dir}; rm -r ${dir}`)
  print(`  docker rm -f $(docker ps -aq ${ofMesh}); docker network rm $(docker network ls -q ${ofMesh})`)
}
