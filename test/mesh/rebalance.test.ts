// What moves though nothing is wrong, with the waits cut short: an AP that is new, or back, gets its share.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ensureBusybox } from '../support/busybox.js'
import { HASTE } from '../support/haste.js'
import { eventually, type TestAp, TestMesh } from '../support/mesh.js'

const mesh = new TestMesh()
test.before(async () => {
  await ensureBusybox(mesh.docker)
  await mesh.add('ap1', HASTE)
  assert.is((await mesh.cli(['keys', 'new', 'alice'])).status, 0)
})
test.after(() => mesh.close())

const always = { 'x-dropmesh': { rebalance: 'always' } }
const CHUTES = ['stays', 'roams', 'rambles']

/** By chute, the AP that runs its instance as one AP knows it: all of them, and nothing else. */
async function places(of: TestAp): Promise<Record<string, string | null>> {
  const rows = await of.instances()
  if (rows.length !== CHUTES.length || rows.some(({ state }) => state !== 'running')) throw new Error('not at rest')
  return Object.fromEntries(rows.map(({ chute, apName }) => [chute, apName]))
}

const shared = (places: Record<string, string | null>): boolean =>
  places.stays === 'ap1' && [places.roams, places.rambles].sort().join() === 'ap1,ap2'

test('a new AP gets its share of what may always move, which runs all the while; what does not say so stays', async () => {
  const [ap1] = mesh.aps as [TestAp]
  await mesh.publish(ap1, 'stays')
  await mesh.publish(ap1, 'roams', {}, [], always)
  await mesh.publish(ap1, 'rambles', {}, [], always)
  const ap2 = await mesh.add('ap2', HASTE)
  await mesh.settled()
  const now = await eventually('one to have moved', async () => {
    const seen = await places(ap1)
    return shared(seen) && seen
  })
  const moved = now.roams === 'ap2' ? 'roams' : 'rambles'
  for (const ap of [ap1, ap2]) {
    const migrated = await eventually(`${ap.name} to tell of it`, async () =>
      (await ap.events()).filter(({ kind }) => kind === 'migrated'),
    )
    assert.equal(
      migrated.map(({ instance, from, to, cause, ms }) => [instance, from, to, cause, ms]),
      [[`${moved}.0`, 'ap1', 'ap2', 'rebalance', 0]],
    )
    const { chutes } = (await ap.status()).figures
    for (const { chute, missingSeconds } of chutes) assert.is(missingSeconds, 0, `${chute} as ${ap.name} saw it`)
  }
  const row = (await ap2.instances()).find(({ chute }) => chute === moved)
  assert.equal([row!.epoch, row!.cause], [2, 'rebalance'])
  assert.equal(
    (await mesh.running(moved)).map(({ ap }) => ap),
    [ap2.id],
  )
})

test('an AP that was dead gets its share again once it is back', async () => {
  const [ap1, ap2] = mesh.aps as [TestAp, TestAp]
  await ap2.crash()
  await eventually('all to run on the other one', async () =>
    Object.values(await places(ap1)).every((ap) => ap === 'ap1'),
  )
  await ap2.start()
  await mesh.settled()
  await eventually('one to have moved', async () => shared(await places(ap1)))
  const causes = (await ap1.events()).filter(({ kind }) => kind === 'migrated').map(({ cause }) => cause)
  assert.equal(causes, ['rebalance', 'dead', 'rebalance'])
})

test.run()
