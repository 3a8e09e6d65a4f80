// How an image gets from the AP that built it to the APs that run it, with no registry: hosts with a Docker engine each,
// none of which has what the others have. Two of the engines keep their images in containerd's store, and one in its own.
import { randomFillSync } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import Docker from 'dockerode'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { InstanceRow } from '../../node/api/queries.js'
import type { MeshEvent } from '../../node/events.js'
import { BUSYBOX, ensureBusybox } from '../support/busybox.js'
import { type Host, type Hosts, makeHosts, whyNoHosts, whyNoNewerEngine } from '../support/hosts.js'
import { eventually, on, type TestAp, TestMesh } from '../support/mesh.js'

const obstacle = whyNoHosts()
const images = suite(`image${obstacle ? ` (skipped: ${obstacle})` : ''}`)
// Where the whole check runs, a machine that cannot do this is a failure.
const test = obstacle && !process.env.CI ? images.skip : images

const MB = 1_000_000
/** Of random data, so that nothing on the way makes it smaller. */
const BIG_LAYER = 110 * MB

/** Not every mirror has the release that it comes from. */
const noNewer = obstacle ?? whyNoNewerEngine()

const mesh = new TestMesh()
let lan: Hosts
let builder: TestAp
/** The one that runs the first revision of the web chute. */
let firstRunner: TestAp

images.before(async () => {
  if (obstacle) return
  lan = await makeHosts(3, { docker: true, containerdStore: noNewer ? [] : [1, 3] })
  await ensureBusybox(dockerOf(1))
  ;[builder] = (await mesh.start(3, (i) => ({
    ...on(hostOf(i)),
    labels: i === 1 ? [] : ['role=runner', `site=${i}`],
    // What is tested here is how an image comes when it is needed.
    env: { DROPMESH_PREFETCH_MAX: '0' },
  }))) as [TestAp]
  assert.is((await mesh.cli(['keys', 'new', 'alice'])).status, 0)
})
images.after(() => lan?.close())

const hostOf = (i: number): Host => lan.hosts[i - 1]!

const seatOf = (ap: TestAp): Host => hostOf(mesh.aps.indexOf(ap) + 1)

const dockerOf = (i: number) => new Docker({ socketPath: hostOf(i).engine!.socket })

/** Writes a chute whose image has a layer of random data on busybox, and above it one with the page it serves. */
async function writeChute(name: string, text: string, bytes = 0): Promise<string> {
  const dir = join(mesh.dir, 'chutes', name)
  await mkdir(dir, { recursive: true })
  if (bytes > 0) await writeFile(join(dir, 'data.bin'), randomFillSync(Buffer.alloc(bytes)))
  await writeFile(join(dir, 'index.html'), text)
  const dockerfile = [
    `FROM ${BUSYBOX}`,
    'COPY data.bin /data.bin',
    'COPY index.html /www/index.html',
    'CMD ["httpd", "-f", "-p", "8080", "-h", "/www"]',
  ]
  await writeFile(join(dir, 'Dockerfile'), `${dockerfile.join('\n')}\n`)
  const service = {
    build: '.',
    ports: ['8080'],
    healthcheck: { test: ['CMD', 'wget', '-q', '-O', '/dev/null', 'http://127.0.0.1:8080/'], interval: '1s' },
  }
  await writeFile(join(dir, 'compose.yaml'), JSON.stringify({ name, services: { main: service } }))
  return dir
}

/** Waits until an instance answers with this text, asked from the builder's host. */
async function answers(row: InstanceRow, text: string): Promise<void> {
  const runner = mesh.aps.find(({ id }) => id === row.ap)!
  const url = `http://${seatOf(runner).address}:${row.ports[0]!.host}/`
  const ask = ['timeout', '3', 'busybox', 'wget', '-q', '-O', '-', url]
  await eventually(`"${text}" from ${url}`, async () => (await hostOf(1).run(ask)).stdout === text)
}

/** The instance of a chute once it is healthy in this revision, on another AP than `not`. */
const healthy = (viewer: TestAp, chute: string, revision: number, not?: TestAp): Promise<InstanceRow> =>
  eventually(`${chute} to be healthy in revision ${revision}`, async () => {
    const rows = (await viewer.instances()).filter((row) => row.chute === chute)
    return rows.find((row) => row.state === 'healthy' && row.revision === revision && row.ap !== not?.id)
  })

const since = async (ap: TestAp, at: string, kind: string): Promise<MeshEvent[]> =>
  (await ap.events()).filter((event) => event.at >= at && event.kind === kind)

/** TCP connections that stand between two hosts. */
async function connections(a: Host, b: Host): Promise<number> {
  const { stdout } = await a.run(['ss', '-tnH', 'state', 'established', 'dst', b.address])
  return stdout.split('\n').filter((line) => line !== '').length
}

/** The first of these peers to which `host` has one connection more than when this was called. */
async function extraConnection(host: Host, peers: readonly Host[]): Promise<{ peer: Host; before: number }> {
  const before = await Promise.all(peers.map((peer) => connections(host, peer)))
  return eventually('a connection more', async () => {
    const now = await Promise.all(peers.map((peer) => connections(host, peer)))
    const at = now.findIndex((n, i) => n > before[i]!)
    return at >= 0 && { peer: peers[at]!, before: before[at]! }
  })
}

const testStores = noNewer ? images.skip : test
testStores(
  `two engines keep images in containerd's store, one in its own${noNewer ? ` (skipped: ${noNewer})` : ''}`,
  async () => {
    const drivers = await Promise.all([1, 2, 3].map(async (i) => (await dockerOf(i).info()).Driver))
    assert.equal(
      drivers.map((driver) => driver === 'overlayfs'),
      [true, false, true],
    )
  },
)

test('an image travels from the AP that built it to the one that runs it, on a connection of its own; nobody is taken for dead', async () => {
  const at = new Date().toISOString()
  // A saturated uplink: pulses must get through beside the bulk.
  lan.slow(hostOf(1), 250)
  const dir = await writeChute('web', 'first', BIG_LAYER)
  const fetching = extraConnection(hostOf(1), [hostOf(2), hostOf(3)])
  await Promise.all([fetching, builder.json('publish', dir, '--on', 'role=runner')])
  lan.heal()
  const row = await healthy(builder, 'web', 1)
  await answers(row, 'first')

  const runner = mesh.aps.find(({ id }) => id === row.ap)!
  firstRunner = runner
  const [fetched, ...more] = await since(runner, at, 'image-fetched')
  assert.is(more.length, 0)
  assert.equal(fetched!.from, [builder.id])
  const bytes = Number(fetched!.bytes)
  assert.ok(bytes > BIG_LAYER && bytes < BIG_LAYER + 5 * MB, `${bytes} bytes`)
  const { peer, before } = await fetching
  assert.is(peer, seatOf(runner))
  await eventually('the connection to be closed', async () => (await connections(hostOf(1), peer)) === before)
  for (const ap of mesh.aps) assert.equal(await since(ap, at, 'dead'), [], ap.name)
})

test('a new revision moves only the layers that the AP does not have yet', async () => {
  const at = new Date().toISOString()
  const before = await healthy(builder, 'web', 1)
  await builder.json('publish', await writeChute('web', 'second'), '--on', 'role=runner')
  const row = await healthy(builder, 'web', 2)
  assert.is(row.ap, before.ap)
  await answers(row, 'second')
  const runner = mesh.aps.find(({ id }) => id === row.ap)!
  const [fetched] = await since(runner, at, 'image-fetched')
  assert.ok(Number(fetched!.bytes) < 100_000, `${fetched!.bytes} bytes`)
})

test('publish tells how much of a new revision has come to the AP that runs the earlier one meanwhile', async () => {
  await builder.json('publish', await writeChute('grown', 'small', 1000), '--on', 'role=runner')
  lan.slow(hostOf(1), 20)
  const dir = await writeChute('grown', 'grown', 30 * MB)
  const { status, stderr } = await builder.cli('publish', dir, '--on', 'role=runner')
  lan.heal()
  assert.is(status, 0, stderr)
  assert.match(stderr, /0 of 1 APs have it, 1 fetching: [1-9]\d? %/)
  await healthy(builder, 'grown', 2)
  await builder.json('rm', 'grown')
})

test('an AP that takes over after a crash fetches the image from one that has it, and serves', async () => {
  const at = new Date().toISOString()
  const before = await healthy(builder, 'web', 2)
  const victim = mesh.aps.find(({ id }) => id === before.ap)!
  seatOf(victim).crash()
  const row = await healthy(builder, 'web', 2, victim)
  assert.is(row.epoch, before.epoch + 1)
  await answers(row, 'second')
  const runner = mesh.aps.find(({ id }) => id === row.ap)!
  const [fetched] = await since(runner, at, 'image-fetched')
  assert.equal(fetched!.from, [builder.id])

  await seatOf(victim).engine!.start()
  await victim.start()
  await mesh.settled()
})

test('where an AP that sends an image vanishes amid it, what it has not sent comes from another one that has it', async () => {
  const dir = await writeChute('half', 'whole', BIG_LAYER / 2)
  await builder.json('publish', dir, '--on', 'role=runner')
  const before = await healthy(builder, 'half', 1)
  const runner = mesh.aps.find(({ id }) => id === before.ap)!
  const next = mesh.aps.find((ap) => ap !== builder && ap !== runner)!
  const digest = (await builder.client.get<{ package: { digest: string } }>('/v1/inspect', { of: 'half' })).package
    .digest
  await eventually('all to know who has it', async () => {
    const { beacon } = await next.client.get<{ beacon: { packages: string[] } }>('/v1/inspect', { of: runner.name })
    return beacon.packages.includes(digest)
  })

  const at = new Date().toISOString()
  for (const holder of [builder, runner]) lan.slow(seatOf(holder), 60)
  const fetching = extraConnection(seatOf(next), [seatOf(builder)])
  await Promise.all([fetching, builder.json('drain', runner.name)])
  lan.cut(seatOf(builder))
  const row = await healthy(next, 'half', 1, runner)
  assert.is(row.ap, next.id)
  const [fetched] = await since(next, at, 'image-fetched')
  assert.ok((fetched!.from as string[]).includes(runner.id), `${fetched!.from}`)
  assert.ok(Number(fetched!.bytes) < BIG_LAYER, `${fetched!.bytes} bytes`)

  lan.heal()
  await answers(row, 'whole')
  const undrain = () => builder.cli('undrain', runner.name)
  await eventually('the AP to be undrained', async () => (await undrain()).status === 0)
  await builder.json('rm', 'half')
  await mesh.settled()
})

test('a rollback brings the earlier page back, also on an AP that never had its image, and it moves like any other', async () => {
  // Wherever the tests before this one left it.
  await builder.json('drain', firstRunner.name)
  const before = await healthy(builder, 'web', 2, firstRunner)
  const at = new Date().toISOString()
  await builder.json('rollback', 'web')
  const row = await healthy(builder, 'web', 3)
  assert.is(row.ap, before.ap)
  await answers(row, 'first')
  const runner = mesh.aps.find(({ id }) => id === row.ap)!
  const [fetched] = await since(runner, at, 'image-fetched')
  assert.ok(Number(fetched!.bytes) < 100_000, `${fetched!.bytes} bytes`)

  await builder.json('undrain', firstRunner.name)
  await builder.json('drain', runner.name)
  const moved = await healthy(builder, 'web', 3, runner)
  await answers(moved, 'first')
  await builder.json('undrain', runner.name)
  await mesh.settled()
})

test('an AP that is killed amid a fetch gives nobody the half that it has, and fetches only the other half when it is back', async () => {
  const runner = mesh.aps[1]!
  lan.slow(hostOf(1), 60)
  const dir = await writeChute('killed', 'came back', BIG_LAYER / 2)
  await builder.json('publish', dir, '--on', 'site=2', '--detach')
  await eventually('half of it to be there', async () => {
    const row = (await runner.instances()).find(({ chute }) => chute === 'killed')
    return row?.state === 'fetching' && (row.fetched ?? 0) > 40
  })
  await runner.stop('SIGKILL')
  const at = new Date().toISOString()
  await runner.start()
  const { digest } = (await builder.client.get<{ package: { digest: string } }>('/v1/inspect', { of: 'killed' }))
    .package
  const first = await eventually('a beacon of it', async () => {
    type Own = { beacon: { packages: string[] } | null }
    return (await runner.client.get<Own>('/v1/inspect', { of: runner.name })).beacon ?? undefined
  })
  assert.not(first.packages.includes(digest))
  lan.heal()
  const row = await healthy(builder, 'killed', 1)
  await answers(row, 'came back')
  const [fetched] = await since(runner, at, 'image-fetched')
  assert.ok(Number(fetched!.bytes) < 0.65 * (BIG_LAYER / 2), `${fetched!.bytes} bytes`)
  await builder.json('rm', 'killed')
  await mesh.settled()
})

test('where the only AP that has an image vanishes, the one that wanted it says what it lacks, and why', async () => {
  lan.slow(hostOf(1), 60)
  const fetching = extraConnection(hostOf(2), [hostOf(1)])
  const dir = await writeChute('lonely', 'alone', BIG_LAYER / 4)
  await Promise.all([fetching, builder.json('publish', dir, '--on', 'site=2', '--detach')])
  const runner = mesh.aps[1]!
  await builder.stop('SIGKILL')
  const row = await eventually('the reason', async () => {
    const row = (await runner.instances()).find(({ chute }) => chute === 'lonely')
    return row?.state === 'waiting' && row
  })
  assert.match(row.reason!, /ap2 cannot: image [0-9a-f]{12} cannot be had: blob [0-9a-f]{12} cannot be had/)
})

images.run()
