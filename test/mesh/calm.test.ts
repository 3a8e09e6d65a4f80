// What looks like a death and is none: nodes that stand still for a moment, or get hardly any time.
import { setTimeout as pause } from 'node:timers/promises'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ensureBusybox } from '../support/busybox.js'
import { eventually, TestMesh } from '../support/mesh.js'

const mesh = new TestMesh()
test.before(async () => {
  await ensureBusybox(mesh.docker)
  await mesh.start(4)
  assert.is((await mesh.cli(['keys', 'new', 'alice'])).status, 0)
  await mesh.publish(mesh.aps[0]!, 'web', {}, ['--replicas', '4'])
  await mesh.running('web', 4)
})
test.after(() => mesh.close())

/** Instance → AP and epoch. */
const places = async (): Promise<string[]> =>
  (await mesh.aps[0]!.instances()).map(({ instance, apName, epoch }) => `${instance} ${apName} ${epoch}`).sort()

/** Sees that `disturb` makes nobody believe an AP dead, and moves nothing. */
async function isBorne(disturb: () => Promise<void>): Promise<void> {
  const before = await places()
  const began = Date.now()
  await disturb()
  await mesh.settled()
  // What is signed at the last moment is known to all once their ledgers are equal, which `settled` waits for.
  for (const ap of mesh.aps) {
    const deaths = (await ap.events()).filter(({ kind, at }) => kind === 'dead' && Date.parse(at) > began)
    assert.equal(deaths, [], `${ap.name} believed it`)
  }
  assert.equal(await places(), before)
}

test('a node that stands still for a second, time and again, is not believed dead', async () => {
  const [, still] = mesh.aps
  await isBorne(async () => {
    for (let i = 0; i < 4; i++) {
      still!.signal('SIGSTOP')
      await pause(1000)
      still!.signal('SIGCONT')
      await pause(1200 + 137 * i)
    }
  })
})

test('a node that gets a third of the time is not believed dead, and believes nobody dead', async () => {
  const [, , starved] = mesh.aps
  await isBorne(async () => {
    for (let i = 0; i < 25; i++) {
      starved!.signal('SIGSTOP')
      await pause(270)
      starved!.signal('SIGCONT')
      await pause(130)
    }
  })
})

test('all nodes but one stand still for ten seconds: that one takes over nothing, and neither do they', async () => {
  const others = mesh.aps.slice(1)
  await isBorne(async () => {
    for (const ap of others) ap.signal('SIGSTOP')
    await eventually('the one that is left to doubt itself', async () =>
      (await mesh.aps[0]!.status()).warnings.some((warning) => warning.startsWith('isolated?')),
    )
    await pause(7000)
    for (const ap of others) ap.signal('SIGCONT')
  })
})

test('a node that stands still for longer is believed dead, and lives again; who said so can be asked later', async () => {
  const [observer, still] = mesh.aps
  still!.signal('SIGSTOP')
  await eventually('its death', async () => {
    const rows = await observer!.aps()
    return rows.some(({ id, state }) => id === still!.id && state === 'dead')
  })
  const witnesses = async () => {
    const { accusations } = await observer!.json<{ accusations: Accusation[] }>('inspect', still!.name)
    return accusations.filter(({ heard }) => heard)
  }
  const standing = (await witnesses()).filter(({ stands }) => stands)
  assert.ok(new Set(standing.map(({ byName }) => byName)).size >= 2)
  still!.signal('SIGCONT')
  await mesh.settled()
  const refuted = await witnesses()
  assert.equal(
    refuted.filter(({ stands }) => stands),
    [],
  )
  for (const { by, signed } of standing) assert.ok(refuted.some((one) => one.by === by && one.signed === signed))
})

interface Accusation {
  by: string
  byName: string
  signed: string
  stands: boolean
  heard: boolean
}

test.run()
