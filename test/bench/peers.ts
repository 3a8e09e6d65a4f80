// `npm run bench:peers`: the same power cut on the same hosts, with dropmesh and with what Debian packages: Docker Swarm,
// which moves work, and Serf, which only detects. One follows the other, each with its defaults.
import type { ChildProcess } from 'node:child_process'
import { createInterface, type Interface } from 'node:readline'
import { BUSYBOX } from '../support/busybox.js'
import { type Host, type Hosts, needTools, whyNoHosts } from '../support/hosts.js'
import { eventually } from '../support/mesh.js'
import { COMMAND, HEALTHCHECK } from './chute.js'
import { median, repeat, report, summary } from './measure.js'
import { bareHosts, cutAps, cutPower, cutUntilServed, dockerOn, PORT, restorePower } from './powercut.js'

const RUNS = 5
const HOSTS = 3

/** Seconds from each cut of a worker until the other one serves. The only manager is on the first host, which stays: a
 *  cut of the leader takes Swarm longer. */
async function swarm(lan: Hosts): Promise<number[]> {
  const [first, ...workers] = lan.hosts as [Host, ...Host[]]
  const manager = dockerOn(first)
  await manager.swarmInit({ ListenAddr: first.address, AdvertiseAddr: first.address })
  const { JoinTokens } = await manager.swarmInspect()
  for (const host of workers) {
    const [ListenAddr, AdvertiseAddr, RemoteAddrs] = [host.address, host.address, [first.address]]
    await dockerOn(host).swarmJoin({ ListenAddr, AdvertiseAddr, RemoteAddrs, JoinToken: JoinTokens.Worker })
  }
  // By id, since no registry could say what the name means.
  const { Id: Image } = await manager.getImage(BUSYBOX).inspect()
  await manager.createService({
    Name: 'web',
    TaskTemplate: {
      ContainerSpec: { Image, Command: COMMAND, HealthCheck: HEALTHCHECK },
      Placement: { Constraints: ['node.role==worker'] },
    },
    Mode: { Replicated: { Replicas: 1 } },
    EndpointSpec: {
      Ports: [{ Protocol: 'tcp', TargetPort: 8080, PublishedPort: PORT, PublishMode: 'host' }],
    },
  })
  return repeat(RUNS, async () => {
    const victim = await eventually('the service to run and all nodes to be ready', async () => {
      const nodes = await manager.listNodes()
      if (nodes.length < HOSTS || nodes.some(({ Status }) => Status?.State !== 'ready')) return
      const tasks = await manager.listTasks({ filters: { service: ['web'], 'desired-state': ['running'] } })
      const [task, ...more] = tasks.filter(({ Status }) => Status.State === 'running')
      const node = more.length === 0 && nodes.find(({ ID }) => ID === task?.NodeID)
      return node && lan.hosts.find(({ name }) => name === node.Description?.Hostname)
    })
    const { cutAt, servedAt } = await cutUntilServed(lan, victim)
    await restorePower(lan, victim)
    return (servedAt - cutAt) / 1000
  })
}

/** Seconds from each cut until an agent that stays says `member-failed`. */
async function serf(lan: Hosts): Promise<number[]> {
  needTools(['serf'])
  const agents = new Map<Host, { agent: ChildProcess; log: Interface }>()
  const start = (host: Host) => {
    const join = lan.hosts.filter((other) => other !== host).map(({ address }) => `-retry-join=${address}`)
    const args = [`-node=${host.name}`, `-bind=${host.address}`, '-profile=lan', '-retry-interval=1s', ...join]
    const agent = host.exec(['serf', 'agent', ...args], { stdio: ['ignore', 'pipe', 'ignore'] })
    agents.set(host, { agent, log: createInterface({ input: agent.stdout! }) })
  }
  const allAlive = (viewer: Host) =>
    eventually('all agents to know each other', async () => {
      const { stdout } = await viewer.run(['serf', 'members', '-status=alive'])
      return lan.hosts.every(({ name }) => stdout.includes(name))
    })
  try {
    for (const host of lan.hosts) start(host)
    return await repeat(RUNS, async (run) => {
      for (const host of lan.hosts) await allAlive(host)
      const victim = lan.hosts[run % HOSTS]!
      const observer = lan.hosts.find((host) => host !== victim)!
      const told = toldAt(agents.get(observer)!.log, `EventMemberFailed: ${victim.name}`)
      const cutAt = cutPower(lan, victim)
      const failedAt = await told
      await restorePower(lan, victim)
      start(victim)
      return (failedAt - cutAt) / 1000
    })
  } finally {
    for (const { agent } of agents.values()) agent.kill('SIGKILL')
  }
}

/** When a line says this, in Unix milliseconds. */
function toldAt(log: Interface, text: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`not told within 60 s: ${text}`)), 60_000)
    log.on('line', function look(line: string) {
      if (!line.includes(text)) return
      clearTimeout(timer)
      log.off('line', look)
      resolve(Date.now())
    })
  })
}

/** What a peer measured, or why it could not; the others are still to be seen. */
async function measured(name: string, measure: () => Promise<number[]>): Promise<number[] | string> {
  console.error(`${name} …`)
  for (const host of lan.hosts) await restorePower(lan, host) // the one before may have failed with a host dark
  return measure().catch((error: Error) => {
    process.exitCode = 1
    return `could not be measured: ${error.message}`
  })
}

function compared(ours: number[], name: string, theirs: number[] | string, target: number): string[] {
  const lines = [
    ['dropmesh', summary(ours, 's')],
    [name, typeof theirs === 'string' ? theirs : summary(theirs, 's')],
  ]
  if (typeof theirs !== 'string')
    lines.push(['ratio', `${(median(theirs) / median(ours)).toFixed(1)}; target ${target}`])
  return lines.map(([what, value]) => `${what!.padEnd(14)}${value}`)
}

const obstacle = whyNoHosts()
if (obstacle) {
  console.error(`nothing can be measured: ${obstacle}`)
  process.exit(1)
}
const lan = await bareHosts(HOSTS)
try {
  console.error('dropmesh …')
  const { dead, serving } = await cutAps(lan, RUNS)
  const failed = await measured('Serf', () => serf(lan))
  const moved = await measured('Docker Swarm', () => swarm(lan))
  const cut = `Power cut of one of ${HOSTS} hosts (link down, then all SIGKILLed)`
  report(`${cut} → another one knows`, compared(dead, 'Serf (LAN)', failed, 2.5))
  report(
    `${cut} → another one serves, image already there (in Swarm a worker: its one manager stays)`,
    compared(serving, 'Docker Swarm', moved, 5),
  )
} finally {
  lan.close()
}
process.exit()
