// What the reconciler says of an instance while its engine answers late: on that hangs who may run an exclusive one.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { ContainerState } from '../../node/chutes/engine.js'
import { Reconciler } from '../../node/chutes/reconciler.js'
import type { Time } from '../../node/clock.js'
import { specOf } from '../protocols/support.js'
import { SimEngine } from './engine.js'
import { Random } from './random.js'
import { Scheduler } from './scheduler.js'

const KEY = `${'c0'.repeat(20)}0000000000`
const END = 60_000

/** Wants an instance and wants it no more, at random times. @returns when it ran and was said not to be there */
async function play(seed: number): Promise<string[]> {
  const random = new Random(`looks ${seed}`)
  const scheduler = new Scheduler()
  const faults: string[] = []
  const engine = new SimEngine(
    {
      after: (ms, run) => scheduler.after(ms, run),
      wall: () => scheduler.now,
      onStarted: () => {},
      onStopped: () => {},
    },
    random.fork('engine'),
    { version: 'sim', platform: 'linux/amd64', cpu: 4000, memory: 2 ** 32, local: true },
  )
  const time: Time = {
    wall: () => scheduler.now,
    monotonic: () => scheduler.now,
    after: (ms, run) => {
      let isCancelled = false
      scheduler.after(Math.max(1, ms), () => {
        scheduler.touch()
        if (!isCancelled) run()
      })
      return () => {
        isCancelled = true
      }
    },
    breathe: async () => {},
  }
  const deliver = (run: () => void) => {
    scheduler.touch()
    run()
  }
  const reconciler = new Reconciler({
    engine: engine.connect(deliver, () => true),
    beforeStart: async () => true,
    onSeen: (actual: ReadonlyMap<string, readonly ContainerState[]>, isBusy: (key: string) => boolean) => {
      if (engine.isRunning(KEY) && !actual.has(KEY) && !isBusy(KEY))
        faults.push(`${scheduler.now} a look does not show it`)
    },
    onStopped: () => {},
    has: async () => true,
    fetch: async () => {},
    now: () => scheduler.now,
    onChange: () => {},
    onEvent: () => {},
    time,
  })
  const plan = (n: number) => ({
    ...{ key: KEY, instance: 'one.0', chute: 'one', chuteKey: 'c0'.repeat(20), revision: '1', epoch: String(n) },
    ...{ generation: String(n), spec: specOf(), environment: {} },
  })
  reconciler.start()
  for (let at = 0, n = 1; at < END; at += random.between(50, 3000), n++) {
    const desired = { plan: plan(n), subject: new Uint8Array(25), revision: 1, epoch: n }
    const isWanted = random.chance(0.6)
    scheduler.at(at, () => deliver(() => reconciler.want(new Map(isWanted ? [[KEY, desired]] : []), new Set())))
  }
  for (let at = 0; at < END; at += 5) {
    scheduler.at(at, () => {
      if (engine.isRunning(KEY) && !reconciler.isPresent(KEY)) faults.push(`${at} it is said not to be here`)
    })
  }
  await scheduler.runUntil(END)
  reconciler.stop()
  return faults
}

test('what runs is never said not to be here, however late the engine tells of it', async () => {
  for (let seed = 0; seed < 40; seed++) assert.equal(await play(seed), [], `seed ${seed}`)
})

test.run()
