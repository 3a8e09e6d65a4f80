// What a flood costs the node that it hits, and what it does to the others' traffic: strangers and members send as fast as
// they can, up to 10,000 a second, by each way that there is. Of streams no process opens so many by itself.
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { seal } from '../../protocols/envelope.js'
import { meshIdOf } from '../../protocols/membership.js'
import { readTicket } from '../../protocols/ticket.js'
import { seed } from '../node/realm.js'
import { type TestAp, TestMesh } from '../support/mesh.js'
import { until } from '../support/until.js'
import { cpuSeconds, rest } from './idle.js'
import { repeat, report, summary } from './measure.js'

const APS = 3
const RUNS = 5
const WINDOW_MS = 10_000
/** All that flood together try so many a second. */
const RATE = 10_000
const FLOODS = [
  ['stranger', 'connections', 1],
  ['stranger', 'streams', 1],
  ['stranger', 'streams', 4],
  ['stranger', 'datagrams', 1],
  ['member', 'gossip', 1],
  ['member', 'streams', 1],
  ['member', 'streams', 4],
  ['member', 'datagrams', 1],
] as const

export interface FloodOptions {
  role: string
  way: string
  address: string
  ticket: string
  /** Tries a second. */
  rate: number
}

export async function flood(): Promise<void> {
  const mesh = new TestMesh()
  try {
    const [victim, witness] = (await mesh.start(APS, () => ({ args: ['--docker-host', 'unix:///no/engine'] }))) as [
      TestAp,
      TestAp,
    ]
    const invite = () => mesh.ticket(victim)
    const realm = meshIdOf(readTicket(await invite()).meshKey)
    const address = (await victim.status()).addresses[0]!
    for (const [role, way, count] of FLOODS) {
      const [cpu, rates, latencies]: [number[], number[], number[]] = [[], [], []]
      await repeat(RUNS, async () => {
        const flooders: ChildProcess[] = []
        for (let i = 0; i < count; i++) {
          const options: FloodOptions = { role, way, address, ticket: await invite(), rate: RATE / count }
          const flooder = fork(flooderScript, [JSON.stringify(options)], {
            stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
          })
          flooders.push(flooder)
          await once(flooder, 'message') // it is ready
        }
        for (const flooder of flooders) flooder.send('go')
        const began = performance.now()
        const before = await cpuSeconds(victim.pid)
        while (performance.now() - began < WINDOW_MS) {
          latencies.push(await latency(mesh, victim, witness, realm))
          await rest(500)
        }
        const seconds = (performance.now() - began) / 1000
        cpu.push((((await cpuSeconds(victim.pid)) - before) / seconds) * 100)
        let sent = 0
        for (const flooder of flooders) {
          flooder.send('stop')
          sent += ((await once(flooder, 'message')) as [number])[0]
          flooder.kill('SIGKILL')
        }
        rates.push(sent / seconds)
        return 0
      })
      const deaths = (await victim.events()).filter(
        ({ kind, ap }) => kind === 'dead' && mesh.aps.some(({ id }) => id === ap),
      ).length
      const who = count === 1 ? `A ${role} that floods` : `${count} ${role}s that flood`
      report(`${who} a node by ${way} (windows of ${WINDOW_MS / 1000} s)`, [
        `tried               ${summary(rates, 'a second', 0)}`,
        `CPU of one core     ${summary(cpu, '%', 0)}; target 40 %`,
        `an honest record    ${summary(latencies, 'ms', 0)}`,
        `false deaths so far ${deaths}`,
      ])
    }
  } finally {
    await mesh.close()
  }
}

/** Milliseconds from a record's submission elsewhere until the victim has it. */
async function latency(mesh: TestMesh, victim: TestAp, witness: TestAp, realm: Uint8Array): Promise<number> {
  const record = seal(await mesh.adminOf(witness), realm, [Date.now(), 0], 'snapshot-head', seed(), {})
  const began = performance.now()
  await witness.client.post('/v1/records', record.bytes)
  await until(
    'the record to come',
    async () => (await victim.status()).ledger.digest === (await witness.status()).ledger.digest,
    {
      deadlineMs: 30_000,
      everyMs: 5,
    },
  )
  return performance.now() - began
}

const flooderScript = fileURLToPath(new URL('./flooder.js', import.meta.url))
