// A node that crashes and that something starts again at once: whether anyone believes it dead.
import { setTimeout as pause } from 'node:timers/promises'
import { TIMING } from '../../protocols/roster.js'
import { type ApOptions, TestMesh } from '../support/mesh.js'
import { freePort } from '../support/scratch.js'
import { repeat, report, summary } from './measure.js'

const RUNS = 20
/** From a restart to the next crash, in milliseconds; and more each time, so that crashes come at any time between two pulses. */
const BETWEEN = 3000
const MORE = 137

export async function restart(): Promise<void> {
  const mesh = new TestMesh()
  // A port of its own, where it is asked for after the crash.
  const anchored = async (): Promise<ApOptions> => ({ listen: `/ip4/127.0.0.1/tcp/${await freePort()}` })
  try {
    for (let i = 1; i <= 5; i++) await mesh.add(`ap${i}`, await anchored())
    await mesh.settled()
    const [observer, crashing] = mesh.aps
    const deaths = async () => (await observer!.events()).filter(({ kind }) => kind === 'dead').length
    const died: number[] = []
    const took = await repeat(RUNS, async (run) => {
      const before = await deaths()
      const began = performance.now()
      await crashing!.stop('SIGKILL')
      await crashing!.start()
      const answered = (performance.now() - began) / 1000
      await pause(BETWEEN + ((run * MORE) % TIMING.pulse))
      await mesh.settled()
      died.push(Math.min(1, (await deaths()) - before))
      return answered
    })
    report('A node of a mesh of five is killed, and started again at once', [
      `killed → its API answers  ${summary(took, 's')}`,
      `believed dead             ${died.reduce((a, b) => a + b)} of ${died.length} times`,
    ])
  } finally {
    await mesh.close()
  }
}
