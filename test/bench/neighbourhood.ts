// What a node costs that has nothing to do in a full neighbourhood: traffic each way, CPU. It has a network of its own, so
// that the counters of its one interface are its traffic, Ethernet and IP headers included.
import { readFile } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { type Host, makeHosts, whyNoHosts } from '../support/hosts.js'
import { on, TestMesh } from '../support/mesh.js'
import { until } from '../support/until.js'
import { cpuSeconds, rest } from './idle.js'
import { repeat, report, summary } from './measure.js'

const APS = 50
/** Processes that share the others. */
const CROWDS = 4
const RUNS = 5
const WINDOW_MS = 20_000
/** What starting leaves to do takes longer than a window. */
const SETTLING_MS = 60_000

export async function neighbourhood(): Promise<void> {
  const obstacle = whyNoHosts()
  if (obstacle) return report(`A neighbourhood of ${APS}: not measured, since ${obstacle}`, [])
  const lan = await makeHosts(2)
  const mesh = new TestMesh()
  const [alone, together] = lan.hosts as [Host, Host]
  const crowds = Array.from({ length: CROWDS }, (_, i) =>
    together.exec([process.execPath, crowdScript, mesh.dir, `crowd${i}`], { stdio: ['pipe', 'pipe', 'inherit'] }),
  )
  try {
    const measured = await mesh.add('measured', on(alone))
    const answers = crowds.map(({ stdout }) => createInterface(stdout!)[Symbol.asyncIterator]())
    for (let i = 0; i < APS - 1; i++) {
      crowds[i % CROWDS]!.stdin!.write(`${await mesh.invite(measured)}\n`)
      await answers[i % CROWDS]!.next()
    }
    // Asking all of them again and again would be more work than they have.
    const isComplete = async () => (await measured.aps()).filter(({ state }) => state === 'alive').length === APS
    await until(`all ${APS} to be alive`, isComplete, { deadlineMs: 400_000, everyMs: 2000 })
    await rest(SETTLING_MS)
    const [received, sent, cpu]: number[][] = [[], [], []]
    await repeat(RUNS, async () => {
      const before = { ...(await traffic(measured.pid)), cpu: await cpuSeconds(measured.pid), at: performance.now() }
      await rest(WINDOW_MS)
      const seconds = (performance.now() - before.at) / 1000
      const after = { ...(await traffic(measured.pid)), cpu: await cpuSeconds(measured.pid) }
      received!.push(((after.received - before.received) * 8) / 1000 / seconds)
      sent!.push(((after.sent - before.sent) * 8) / 1000 / seconds)
      cpu!.push(((after.cpu - before.cpu) / seconds) * 100)
      return 0
    })
    report(`An idle node in a neighbourhood of ${APS} (windows of ${WINDOW_MS / 1000} s)`, [
      `received          ${summary(received!, 'kbit/s', 1)}; target 60 kbit/s`,
      `sent              ${summary(sent!, 'kbit/s', 1)}; target 60 kbit/s`,
      `CPU of one core   ${summary(cpu!, '%')}; target 3 %`,
    ])
  } finally {
    for (const crowd of crowds) crowd.kill('SIGKILL')
    await mesh.close()
    lan.close()
  }
}

const crowdScript = fileURLToPath(new URL('./crowd.js', import.meta.url))

/** Bytes so far on all interfaces but loopback of the network that a process is in. */
async function traffic(pid: number): Promise<{ received: number; sent: number }> {
  const lines = (await readFile(`/proc/${pid}/net/dev`, 'utf8')).split('\n').slice(2)
  const counts = lines.map((line) => line.trim().split(/[:\s]+/)).filter(([name]) => name && name !== 'lo')
  const sum = (column: number) => counts.reduce((total, fields) => total + Number(fields[column]), 0)
  return { received: sum(1), sent: sum(9) }
}
