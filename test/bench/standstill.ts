// How long a node may stand still (SIGSTOP) before it is believed dead.
import { setTimeout as pause } from 'node:timers/promises'
import { TestMesh } from '../support/mesh.js'
import { repeat, report } from './measure.js'

/**
 * In milliseconds: how long a node stands still, and how long it goes on before and after. It is started anew each time, for
 * others wait longer for one that they hear irregularly: of one that stands still again and again none of these is a death.
 */
const LENGTHS = [1000, 1300, 1500, 1750, 2000, 2500]
const BEFORE = 6000
const MORE = 137
const AFTER = 2000

export async function standstill(): Promise<void> {
  const mesh = new TestMesh()
  try {
    await mesh.start(5)
    const [observer, still] = mesh.aps
    const deaths = async () => (await observer!.events()).filter(({ kind }) => kind === 'dead').length
    const lines: string[] = []
    for (const length of LENGTHS) {
      const died = await repeat(10, async (run) => {
        await still!.stop('SIGKILL')
        await still!.start()
        await mesh.settled()
        await pause(BEFORE + run * MORE)
        const before = await deaths()
        still!.signal('SIGSTOP')
        await pause(length)
        still!.signal('SIGCONT')
        await pause(AFTER)
        await mesh.settled()
        return Math.min(1, (await deaths()) - before)
      })
      const times = died.reduce((a, b) => a + b)
      lines.push(`${(length / 1000).toFixed(2)} s: believed dead ${times} of ${died.length} times`)
    }
    report('A node of a mesh of five stands still (SIGSTOP)', lines)
  } finally {
    await mesh.close()
  }
}
