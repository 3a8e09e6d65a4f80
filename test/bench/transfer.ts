// Blobs between APs.
import { carriers } from './carriers.js'
import { repeat, report, summary } from './measure.js'

const RUNS = 5
const MB = 1e6

export async function transfer(): Promise<void> {
  await oneToOne()
}

/** One AP to one AP over loopback, disk to disk. */
async function oneToOne(): Promise<void> {
  const [from, to] = await carriers(2)
  try {
    for (const size of [200 * MB, 1000 * MB]) {
      const blob = await from!.make(size)
      const used: { cpu: number; memory: number; theirs: number; sent: number }[] = []
      const speeds = await repeat(RUNS, async () => {
        await from!.usage()
        const got = await to!.fetch([blob], [from!])
        const sender = await from!.usage()
        used.push({ cpu: got.cpu, memory: got.memory, theirs: sender.memory, sent: sender.cpu })
        await to!.forget([blob])
        return size / MB / (got.ms / 1000)
      })
      const of = (name: keyof (typeof used)[number], by: number) => used.map((each) => each[name] / by)
      report(`A blob of ${size / MB} MB from one AP to another, loopback, disk to disk`, [
        summary(speeds, 'MB/s', 0),
        `receiver ${summary(of('cpu', size / MB), 'ms of CPU a MB')}, ${summary(of('memory', MB), 'MB more memory', 0)}`,
        `sender   ${summary(of('sent', size / MB), 'ms of CPU a MB')}, ${summary(of('theirs', MB), 'MB more memory', 0)}`,
      ])
      await from!.forget([blob])
    }
  } finally {
    for (const carrier of [from, to]) carrier?.stop()
  }
}
