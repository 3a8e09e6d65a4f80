// Crash → serving elsewhere, for a stateless chute whose image is already there.
import { setTimeout as pause } from 'node:timers/promises'
import type { InstanceRow } from '../../node/api/queries.js'
import { connectDocker } from '../../node/chutes/docker-client.js'
import { ensureBusybox } from '../support/busybox.js'
import { TestMesh } from '../support/mesh.js'
import { until } from '../support/until.js'
import { writeChute } from './chute.js'
import { repeat, report, summary } from './measure.js'

const RUNS = 7
/** A few pulses, in milliseconds. */
const PULSES = 2000

export async function failover(): Promise<void> {
  const docker = connectDocker()
  await ensureBusybox(docker)
  const mesh = new TestMesh(docker)
  try {
    await mesh.start(3)
    await mesh.cli(['keys', 'new', 'bench'])
    await mesh.aps[0]!.json('publish', await writeChute(mesh.dir, 'web', 1))
    const dead: number[] = []
    const serving = await repeat(RUNS, async () => {
      const before = await until('the chute to serve', () => served(mesh), { deadlineMs: 60_000 })
      const victim = mesh.aps.find(({ name }) => name === before.apName)!
      const observer = mesh.aps.find((ap) => ap !== victim)!
      const crashedAt = Date.now()
      await victim.crash()
      await until('the chute to serve elsewhere', async () => (await served(mesh, before.ap!)) !== undefined, {
        deadlineMs: 60_000,
        everyMs: 20,
      })
      const took = (Date.now() - crashedAt) / 1000
      const death = await until('the death to be told', async () =>
        (await observer.events()).find(
          ({ kind, ap, at }) => kind === 'dead' && ap === before.ap && Date.parse(at) > crashedAt,
        ),
      )
      dead.push((Date.parse(death.at) - crashedAt) / 1000)
      await victim.start()
      await mesh.settled()
      await pause(PULSES) // who has not heard an AP in its own life takes no part in noticing that it died
      return took
    })
    report('Crash of an AP (node and containers SIGKILLed) in a mesh of three, image already there', [
      `crash → dead     ${summary(dead, 's')}`,
      `crash → serving  ${summary(serving, 's')}; target 1.5 s`,
    ])
  } finally {
    await mesh.close()
  }
}

async function served(mesh: TestMesh, notOn?: string): Promise<InstanceRow | undefined> {
  for (const ap of mesh.aps.filter(({ isRunning }) => isRunning)) {
    const rows = await ap.instances().catch(() => [])
    for (const row of rows) {
      if (row.ap === null || row.ap === notOn || row.ports.length === 0) continue
      const answer = await fetch(`http://127.0.0.1:${row.ports[0]!.host}/`, { signal: AbortSignal.timeout(500) }).catch(
        () => undefined,
      )
      if (answer?.ok) return row
    }
  }
  return undefined
}
