// The main job, end to end, through the real command line: the story that `dropmesh demo` tells.
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { InstanceRow } from '../../node/api/queries.js'
import { TestMesh } from '../support/mesh.js'
import { until } from '../support/until.js'

const mesh = new TestMesh()
test.after(() => mesh.close())

const page = async (row: InstanceRow): Promise<string> =>
  (await fetch(`http://127.0.0.1:${row.ports[0]!.host}/`, { signal: AbortSignal.timeout(1000) })).text()

test('a chute published from an AP that does not run it is served, survives a power cut of its AP, and is served again', async () => {
  const [publisher] = await mesh.start(3, (i) => (i === 1 ? {} : { labels: ['role=runner'] }))
  assert.is((await mesh.cli(['keys', 'new', 'alice'])).status, 0)
  assert.is((await mesh.cli(['init', 'hello', '--template', 'hello'])).status, 0)
  const published = await publisher!.json<{ chute: string; revision: number; placed: { ap: string; state: string }[] }>(
    'publish',
    join(mesh.dir, 'hello'),
    '--on',
    'role=runner',
  )
  assert.is(published.chute, 'hello')
  assert.is(published.revision, 1)
  assert.is(published.placed[0]!.state, 'healthy')

  const views = await Promise.all(
    mesh.aps.map((ap) =>
      until('the instance to be known everywhere', async () => {
        const [row] = await ap.instances()
        return row?.state === 'healthy' && row
      }),
    ),
  )
  assert.equal(new Set(views.map((row) => row.ap)).size, 1, 'every AP gives the same answer')
  const [before] = views
  assert.match(await page(before!), `instance hello.0, on AP ${before!.ap}, epoch 1`)

  const victim = mesh.aps.find(({ name }) => name === before!.apName)!
  assert.is.not(victim, publisher)
  await victim.crash()
  const after = await until(
    'the chute to be served by another AP',
    async () => {
      const [row] = await publisher!.instances()
      return row !== undefined && row.ap !== before!.ap && row.ports.length > 0 && { row, text: await page(row) }
    },
    { deadlineMs: 60_000 },
  )
  assert.match(after.text, `instance hello.0, on AP ${after.row.ap}, epoch 2`)

  const kinds = (await publisher!.events()).map(({ kind, ap }) => `${kind} ${ap ?? ''}`)
  assert.ok(kinds.includes(`suspected ${before!.ap}`))
  assert.ok(kinds.includes(`dead ${before!.ap}`))
  const state = (await publisher!.aps()).find(({ id }) => id === before!.ap)!.state
  assert.is(state, 'dead')
})

test('the demo runs to its end, prints its timeline, and leaves nothing behind', async () => {
  const { status, stdout, stderr } = await mesh.cli(['demo', '--fast'])
  assert.is(status, 0, stderr)
  for (const what of ['suspected', 'dead', 'started', 'serving'])
    assert.match(stdout, new RegExp(`  ${what} +\\d+\\.\\d s`))
  const label = `dropmesh.mesh=${/founded mesh (\S+)/.exec(stdout)![1]}`
  assert.equal(await mesh.docker.listContainers({ all: true, filters: { label: [label] } }), [])
  assert.equal(await mesh.docker.listNetworks({ filters: { label: [label] } }), [])
})

test.run()
