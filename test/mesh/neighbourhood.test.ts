import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { eventually, type TestAp, TestMesh } from '../support/mesh.js'
import { SMALL_MESH } from '../support/small-mesh.js'

const mesh = new TestMesh()
const APS = 8

/** AP ids by neighbourhood, as one AP sees them. */
async function homes(of: TestAp): Promise<Map<string, string[]>> {
  const found = new Map<string, string[]>()
  for (const { id, neighbourhood } of await of.aps())
    found.set(neighbourhood, [...(found.get(neighbourhood) ?? []), id])
  return found
}

const byId = (id: string): TestAp => mesh.aps.find((ap) => ap.id === id)!

/** Where a chute runs, as every AP that runs says. */
async function runsOn(chute: string): Promise<string> {
  let where = ''
  await eventually(`${chute} to run in one place by every AP`, async () => {
    const running = mesh.aps.filter(({ isRunning }) => isRunning)
    const told = new Set<string>()
    for (const ap of running) {
      const rows = (await ap.instances()).filter((row) => row.chute === chute)
      if (rows.length !== 1 || rows[0]!.state !== 'running') throw new Error(`${ap.name}: ${JSON.stringify(rows)}`)
      told.add(rows[0]!.ap!)
    }
    where = [...told][0]!
    return told.size === 1
  })
  return where
}

/** Containers of a chute that run: those of an AP that crashed lie around until it is back. */
const alive = async (chute: string) => (await mesh.containers(chute)).filter(({ running }) => running)

test.before(async () => {
  await mesh.cli(['keys', 'new', 'dev'])
  await mesh.add('ap1', { ...SMALL_MESH, labels: ['site=s1'] })
  await Promise.all(
    Array.from({ length: APS - 1 }, (_, i) =>
      mesh.add(`ap${i + 2}`, { ...SMALL_MESH, labels: [`site=s${(i + 1) % 3}`] }),
    ),
  )
})
test.after(() => mesh.close())

test('eight APs divide into neighbourhoods by site, all in the same way, and all believe each other alive', async () => {
  await mesh.settled()
  const views = await Promise.all(mesh.aps.map(homes))
  for (const view of views) assert.equal([...view].sort(), [...views[0]!].sort())
  assert.ok(views[0]!.size > 1)
  const rows = await mesh.aps[0]!.aps()
  for (const site of ['s0', 's1', 's2'])
    assert.is(new Set(rows.filter(({ labels }) => labels.site === site).map((row) => row.neighbourhood)).size, 1)
  const { neighbourhood } = await mesh.aps[0]!.status()
  assert.is(views[0]!.get(neighbourhood.prefix)!.length, neighbourhood.members)
})

test('a chute published anywhere runs once, and every AP can say where', async () => {
  await mesh.publish(mesh.aps[0]!, 'one')
  const where = await runsOn('one')
  assert.ok(byId(where))
  assert.is((await alive('one')).length, 1)
})

test('its holder dies, and it moves', async () => {
  const holder = byId(await runsOn('one'))
  await holder.crash()
  await eventually('another holder', async () => (await runsOn('one')) !== holder.id)
  assert.is((await alive('one')).length, 1)
  await holder.start()
  await mesh.settled()
})

test('all of a neighbourhood dies, and what ran there runs in another one', async () => {
  const holder = await runsOn('one')
  const observer = mesh.aps.find(({ id }) => id !== holder)!
  const view = await homes(observer)
  const lost = [...view.values()].find((ids) => ids.includes(holder))!
  await Promise.all(lost.map((id) => byId(id).crash()))
  const left = mesh.aps.find(({ isRunning }) => isRunning)!
  await eventually(
    'the chute to run elsewhere',
    async () => {
      const [row] = (await left.instances()).filter(({ chute }) => chute === 'one')
      return row?.state === 'running' && !lost.includes(row.ap!)
    },
    { deadlineMs: 120_000 },
  )
  assert.is((await alive('one')).length, 1)
})

test.run()
