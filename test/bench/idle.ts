// What a node costs that has nothing to do: CPU and resident memory in a mesh of five.
import { readFile } from 'node:fs/promises'
import { TestMesh } from '../support/mesh.js'
import { repeat, report, summary } from './measure.js'

const APS = 5
const RUNS = 5
const WINDOW_MS = 10_000
/** Linux counts CPU time in hundredths of a second. */
const TICKS_PER_SECOND = 100

export async function idle(): Promise<void> {
  const mesh = new TestMesh()
  try {
    const aps = await mesh.start(APS)
    await rest(WINDOW_MS) // what starting leaves to do
    const cpu: number[] = []
    const memory: number[] = []
    await repeat(RUNS, async () => {
      const before = await Promise.all(aps.map(({ pid }) => cpuSeconds(pid)))
      const startedAt = performance.now()
      await rest(WINDOW_MS)
      const seconds = (performance.now() - startedAt) / 1000
      const after = await Promise.all(aps.map(({ pid }) => cpuSeconds(pid)))
      for (const [i, ap] of aps.entries()) {
        cpu.push(((after[i]! - before[i]!) / seconds) * 100)
        memory.push(await residentMegabytes(ap.pid))
      }
      return 0
    })
    report(`An idle node in a mesh of ${APS} (each of ${APS} nodes, windows of ${WINDOW_MS / 1000} s)`, [
      `CPU of one core   ${summary(cpu, '%')}; target 2 %`,
      `resident memory   ${summary(memory, 'MB', 0)}; target 130 MB`,
    ])
  } finally {
    await mesh.close()
  }
}

export const rest = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

export async function cpuSeconds(pid: number): Promise<number> {
  const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1]!.split(' ')
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND
}

async function residentMegabytes(pid: number): Promise<number> {
  const line = /VmRSS:\s+(\d+) kB/.exec(await readFile(`/proc/${pid}/status`, 'utf8'))
  return (Number(line![1]) * 1024) / 1e6
}
