// Power cut → dead, and → serving elsewhere: several hosts, each with its own network and engine, and the one that serves
// goes dark. Its cable is pulled first, so that no TCP reset tells the others. The image is everywhere.
import Docker from 'dockerode'
import { removeLabelled } from '../../node/chutes/sweep.js'
import { ensureBusybox } from '../support/busybox.js'
import { type Host, type Hosts, makeHosts, whyNoHosts } from '../support/hosts.js'
import { eventually, on, TestMesh } from '../support/mesh.js'
import { writeChute } from './chute.js'
import { percentile, repeat, report, summary } from './measure.js'

const RUNS = 10
const HOSTS = 5

/** Where what is measured serves, on whatever host. */
export const PORT = 18080

export const dockerOn = ({ engine }: Host): Docker => new Docker({ socketPath: engine!.socket })

export async function powercut(): Promise<void> {
  const obstacle = whyNoHosts()
  if (obstacle) return report(`Power cut: not measured, since ${obstacle}`, [])
  const lan = await bareHosts(HOSTS)
  try {
    const { dead, serving } = await cutAps(lan, RUNS)
    report(
      `Power cut of the AP that serves (link down, then all SIGKILLed) in a mesh of ${HOSTS}, image already there`,
      [
        `cut → dead     ${summary(dead, 's')}, p99 ${percentile(dead, 0.99).toFixed(2)} s; target 2.0 s, p99 3.5 s`,
        `cut → serving  ${summary(serving, 's')}, p99 ${percentile(serving, 0.99).toFixed(2)} s; target 3 s, p99 5 s`,
      ],
    )
  } finally {
    lan.close()
  }
}

/** Hosts with an engine that has the image, and nothing else. */
export async function bareHosts(count: number): Promise<Hosts> {
  const lan = await makeHosts(count, { docker: true })
  await Promise.all(lan.hosts.map((host) => ensureBusybox(dockerOn(host))))
  return lan
}

/** Seconds from each cut until an AP that stays says `dead`, and until another host serves. */
export async function cutAps(lan: Hosts, runs: number): Promise<{ dead: number[]; serving: number[] }> {
  const mesh = new TestMesh()
  try {
    await mesh.start(lan.hosts.length, (i) => on(lan.hosts[i - 1]!))
    await mesh.cli(['keys', 'new', 'bench'])
    await mesh.aps[0]!.json('publish', await writeChute(mesh.dir, 'web', 1, PORT))
    const dead: number[] = []
    const serving = await repeat(runs, async () => {
      const row = await eventually('the chute to be healthy', async () => {
        const rows = await mesh.aps[0]!.instances()
        return rows.length === 1 && rows[0]!.state === 'healthy' && rows[0]
      })
      const victim = mesh.aps.find(({ id }) => id === row.ap)!
      const observer = mesh.aps.find((ap) => ap !== victim)!
      const host = lan.hosts[mesh.aps.indexOf(victim)]!
      const { cutAt, servedAt } = await cutUntilServed(lan, host)
      const death = await eventually('the death to be told', async () =>
        (await observer.events()).find(
          ({ kind, ap, at }) => kind === 'dead' && ap === victim.id && Date.parse(at) > cutAt,
        ),
      )
      dead.push((Date.parse(death.at) - cutAt) / 1000)
      await victim.stop('SIGKILL') // it is dead already: this only waits until that is known here
      await restorePower(lan, host)
      await victim.start()
      await mesh.settled()
      return (servedAt - cutAt) / 1000
    })
    return { dead, serving }
  } finally {
    const label = `dropmesh.mesh=${await mesh.meshId()}`
    await mesh.close()
    await Promise.all(lan.hosts.map((host) => removeLabelled(dockerOn(host), label)))
  }
}

/** As if the plug were pulled: silence first, then nothing is left running. Returns when, in Unix milliseconds. */
export function cutPower(lan: Hosts, host: Host): number {
  const at = Date.now()
  lan.cut(host)
  host.crash()
  return at
}

export async function restorePower(lan: Hosts, host: Host): Promise<void> {
  lan.heal(host)
  await host.engine!.start()
}

/**
 * Asks these addresses until one answers, and prints when that was. A process beside those that are measured, since
 * nothing outside reaches their network; it looks often and costs little. Each question has a connection of its own, which
 * is soon given up: one that was begun a moment before the container could take it would try again only a second later.
 */
const ASK = `
  import { get } from 'node:http'
  const pause = () => new Promise((resolve) => setTimeout(resolve, 20))
  const answers = (url) => new Promise((resolve) => {
    const question = get(url, { agent: false, signal: AbortSignal.timeout(100) }, ({ statusCode }) => resolve(statusCode === 200))
    question.on('error', () => resolve(false))
  })
  const ask = async (url) => {
    while (!(await answers(url))) await pause()
  }
  await Promise.race(process.argv.slice(1).map(ask))
  console.log(Date.now())
  process.exit()`

/** Cuts a host's power and waits until another one serves. In Unix milliseconds. */
export async function cutUntilServed(lan: Hosts, host: Host): Promise<{ cutAt: number; servedAt: number }> {
  const others = lan.hosts.filter((other) => other !== host)
  const urls = others.map(({ address }) => `http://${address}:${PORT}/`)
  const asking = others[0]!.run([process.execPath, '--input-type=module', '-e', ASK, ...urls], { deadlineMs: 120_000 })
  const cutAt = cutPower(lan, host)
  const { stdout, stderr } = await asking
  if (stdout === '') throw new Error(`nobody served within 120 s of the power cut ${stderr}`)
  return { cutAt, servedAt: Number(stdout) }
}
