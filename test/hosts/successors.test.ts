// APs that would be the next to run a chute have its image before they need it: hosts with a Docker engine each, none of
// which has what the others have.
import { randomFillSync } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import Docker from 'dockerode'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { InstanceRow } from '../../node/api/queries.js'
import type { MeshEvent } from '../../node/events.js'
import { BUSYBOX, ensureBusybox } from '../support/busybox.js'
import { type Host, type Hosts, makeHosts, whyNoHosts } from '../support/hosts.js'
import { eventually, on, type TestAp, TestMesh } from '../support/mesh.js'

const obstacle = whyNoHosts()
const successors = suite(`successors${obstacle ? ` (skipped: ${obstacle})` : ''}`)
// Where the whole check runs, a machine that cannot do this is a failure.
const test = obstacle && !process.env.CI ? successors.skip : successors

const MB = 1_000_000
/** Room for one of the chutes below, not for two. */
const CAP = 6 * MB

const mesh = new TestMesh()
let lan: Hosts
let builder: TestAp
let left: TestAp
let right: TestAp

successors.before(async () => {
  if (obstacle) return
  lan = await makeHosts(4, { docker: true })
  await ensureBusybox(dockerOf(1))
  // AP 4 comes later.
  ;[builder, left, right] = (await mesh.start(3, (i) => ({
    ...on(hostOf(i)),
    labels: [[], ['role=runner'], ['role=runner', 'site=attic']][i - 1],
  }))) as [TestAp, TestAp, TestAp]
  assert.is((await mesh.cli(['keys', 'new', 'alice'])).status, 0)
})
successors.after(() => lan?.close())

const hostOf = (i: number): Host => lan.hosts[i - 1]!

const seatOf = (ap: TestAp): number => mesh.aps.indexOf(ap) + 1

const dockerOf = (i: number) => new Docker({ socketPath: hostOf(i).engine!.socket })

/** Publishes a chute whose image has 3 MB of its own on busybox, and waits for it to be healthy. */
async function publish(name: string, on: string): Promise<InstanceRow> {
  const dir = join(mesh.dir, 'chutes', name)
  await mkdir(dir, { recursive: true })
  await writeFile(join(dir, 'data.bin'), randomFillSync(Buffer.alloc(3 * MB)))
  await writeFile(join(dir, 'Dockerfile'), `FROM ${BUSYBOX}\nCOPY data.bin /data.bin\nCMD ["sleep", "100000"]\n`)
  await writeFile(join(dir, 'compose.yaml'), JSON.stringify({ name, services: { main: { build: '.' } } }))
  await builder.json('publish', dir, '--on', on)
  return running(name)
}

const running = (chute: string, not?: TestAp): Promise<InstanceRow> =>
  eventually(`${chute} to run`, async () =>
    (await builder.instances()).find((row) => row.chute === chute && row.state === 'running' && row.ap !== not?.id),
  )

const eventsOf = async (ap: TestAp, kind: string): Promise<MeshEvent[]> =>
  (await ap.events()).filter((event) => event.kind === kind)

const inspect = <T>(of: string): Promise<T> => builder.client.get<T>('/v1/inspect', { of })

/** The config digests of the images that an AP says it has. */
const holdings = async (ap: TestAp): Promise<string[]> =>
  (await inspect<{ beacon: { images: string[] } }>(ap.name)).beacon.images

/** Bytes of all images of an engine but busybox itself, the layers they share counted once. */
async function diskUsed(i: number): Promise<number> {
  const { LayersSize } = (await dockerOf(i).df()) as { LayersSize: number }
  return LayersSize
}

test('what is fetched ahead keeps within its limit, and goes when its chute goes', async () => {
  for (const name of ['one', 'two']) await publish(name, 'site=attic')
  const before = await diskUsed(4)
  const attic = await mesh.add('attic', {
    ...on(hostOf(4)),
    labels: ['site=attic'],
    args: [...on(hostOf(4)).args!, '--prefetch-max', String(CAP)],
  })
  const [refused] = await eventually('one of the two to have no room', async () => {
    const events = await eventsOf(attic, 'image-not-prepared')
    return events.length > 0 && events
  })
  assert.match(String(refused!.reason), /no room for \d+ bytes/)
  const [prepared, ...more] = await eventsOf(attic, 'image-prepared')
  assert.is(more.length, 0)
  assert.is.not(prepared!.image, refused!.image)
  await eventually('all to know of it', async () => (await holdings(attic)).join() === prepared!.image)
  const used = (await diskUsed(4)) - before
  assert.ok(used > 3 * MB && used < CAP, `${used} bytes`)

  const rows = await inspect('one')
  const gone = JSON.stringify(rows).includes(String(prepared!.image)) ? 'one' : 'two'
  await builder.json('rm', gone)
  await eventually(
    'the other image to be there in its place',
    async () => (await holdings(attic)).join() === refused!.image,
  )
  const spares = await dockerOf(4).listImages()
  assert.is(spares.length, 1)
})

test('a takeover fetches nothing: the next AP has the image before the one that runs it is gone, and its images with it', async () => {
  const row = await publish('warm', 'role=runner')
  const holder = row.ap === left.id ? left : right
  const successor = row.ap === left.id ? right : left
  const [prepared] = await eventually('the successor to have the image', async () => {
    const events = await eventsOf(successor, 'image-prepared')
    return events.length > 0 && events
  })
  const config = String(prepared!.image)
  await eventually('all to know of it', async () => (await holdings(successor)).includes(config))
  const { successors: next } = await inspect<{ successors: { instance: string; ap: string; ready: boolean }[] }>('warm')
  assert.equal(next, [{ instance: 'warm.0', ap: successor.id, apName: successor.name, ready: true }])
  // Nobody else can give it.
  await dockerOf(1).getImage(`dropmesh/image:${config}`).remove({ force: true })
  await eventually('nobody else to have it', async () => !(await holdings(builder)).includes(config))

  hostOf(seatOf(holder)).crash()
  const moved = await running('warm', holder)
  assert.is(moved.ap, successor.id)
  const fetched = await eventsOf(successor, 'image-fetched')
  assert.not.ok(fetched.some(({ image }) => image === config))
  const images = dockerOf(seatOf(successor))
  await eventually(
    'what runs to be kept for good',
    async () => (await images.listImages({ filters: { reference: ['dropmesh/spare'] } })).length === 0,
  )
  assert.ok(await images.getImage(`dropmesh/image:${config}`).inspect())
})

successors.run()
