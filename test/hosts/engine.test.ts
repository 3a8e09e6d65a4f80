// What an AP does when its container engine stops, crashes, stays away or hangs: a restart moves nothing, a loss moves
// everything. Two hosts, each with a Docker engine of its own, and the image on both.
import Docker from 'dockerode'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { InstanceRow } from '../../node/api/queries.js'
import { BUSYBOX, ensureBusybox } from '../support/busybox.js'
import { type Engine, type Host, type Hosts, makeHosts, whyNoHosts } from '../support/hosts.js'
import { eventually, on, type TestAp, TestMesh } from '../support/mesh.js'

const obstacle = whyNoHosts()
const engines = suite(`engine${obstacle ? ` (skipped: ${obstacle})` : ''}`)
// Where the whole check runs, a machine that cannot do this is a failure.
const test = obstacle && !process.env.CI ? engines.skip : engines

/** The node gives an engine 15 s to come back, and asks it at least every 5 s. */
const GRACE = 15_000

const mesh = new TestMesh()
let lan: Hosts

interface Seat {
  ap: TestAp
  host: Host
  engine: Engine
  docker: Docker
}
let seats: readonly [Seat, Seat]

engines.before(async () => {
  if (obstacle) return
  lan = await makeHosts(2, { docker: true })
  const dockers = lan.hosts.map(({ engine }) => new Docker({ socketPath: engine!.socket }))
  await Promise.all(dockers.map(ensureBusybox))
  await mesh.start(2, (i) => on(lan.hosts[i - 1]!))
  const seat = (i: number): Seat => {
    const host = lan.hosts[i]!
    return { ap: mesh.aps[i]!, host, engine: host.engine!, docker: dockers[i]! }
  }
  seats = [seat(0), seat(1)]
  assert.is((await mesh.cli(['keys', 'new', 'alice'])).status, 0)
  await mesh.publish(seats[0].ap, 'web', {
    image: BUSYBOX,
    command: ['sh', '-c', 'echo "it works" >/tmp/index.html && exec httpd -f -p 8080 -h /tmp'],
    ports: ['8080:8080'],
    healthcheck: { test: ['CMD', 'wget', '-q', '-O', '/dev/null', 'http://127.0.0.1:8080/'], interval: '1s' },
  })
})
engines.after(() => lan?.close())

/** The one row of the chute, as `viewer` sees it, once it is healthy on that AP. */
const healthyOn = (viewer: TestAp, { ap }: Seat, deadlineMs = 60_000): Promise<InstanceRow> =>
  eventually(
    `the chute to be healthy on ${ap.name}`,
    async () => {
      const rows = await viewer.instances()
      return rows.find((row) => row.ap === ap.id && row.state === 'healthy')
    },
    { deadlineMs },
  )

/** Who runs the chute, and who does not. */
async function seated(): Promise<{ holder: Seat; spare: Seat; row: InstanceRow }> {
  const row = await eventually('the chute to be healthy', async () => {
    const [row, ...more] = await seats[0].ap.instances()
    return more.length === 0 && row?.state === 'healthy' && row
  })
  const [holder, spare] = row.ap === seats[0].ap.id ? seats : ([seats[1], seats[0]] as const)
  return { holder, spare, row }
}

const containers = ({ docker }: Seat) =>
  docker.listContainers({ all: true, filters: { label: ['dropmesh.chute=web'] } })

/** Whether the chute answers on this host, asked from the other one. */
async function serves({ host }: Seat): Promise<boolean> {
  const other = lan.hosts.find((each) => each !== host)!
  const { stdout } = await other.run([
    'timeout',
    '3',
    'busybox',
    'wget',
    '-q',
    '-O',
    '-',
    `http://${host.address}:8080/`,
  ])
  return stdout.trim() === 'it works'
}

async function kinds({ ap }: Seat, since: string): Promise<string[]> {
  return (await ap.events()).filter(({ at }) => at >= since).map(({ kind }) => kind)
}

/** Does something to the engine that takes less than its grace, and sees the chute back with nothing moved. */
async function outage(what: (seat: Seat) => Promise<void>): Promise<void> {
  const { holder, row } = await seated()
  const since = new Date().toISOString()
  const [before] = await containers(holder)
  const began = performance.now()
  await what(holder)
  assert.ok(performance.now() - began < GRACE, 'too slow a machine for this to be a short outage')
  await eventually('one running container that was started since', async () => {
    const found = await containers(holder)
    const states = await Promise.all(found.map(({ Id }) => holder.docker.getContainer(Id).inspect()))
    return states.length === 1 && states[0]!.State.Running && states[0]!.State.StartedAt >= since
  })
  const after = await healthyOn(holder.ap, holder)
  await eventually('it to be served', () => serves(holder))
  assert.is(after.epoch, row.epoch)
  assert.is((await containers(holder))[0]!.Id, before!.Id, 'it was started again, not made anew')
  for (const seat of seats) {
    const told = await kinds(seat, since)
    for (const kind of ['claimed', 'cannot', 'engine-lost']) assert.not(told.includes(kind), `${seat.ap.name}: ${kind}`)
  }
}

test('an engine that is stopped, its containers with it, and started again has the chute back; the claim stays', () =>
  outage(async ({ engine }) => {
    await engine.stop()
    await engine.start()
  }))

test('an engine that crashes and leaves its containers behind is no outage until it is back, and then one of a moment', () =>
  outage(async (seat) => {
    await seat.engine.kill({ leaveContainers: true })
    assert.ok(await serves(seat))
    await seat.engine.start()
  }))

test('an AP whose engine stays away says so, another AP takes the chute over, and keeps it when the engine is back', async () => {
  const { holder, spare, row } = await seated()
  await holder.engine.stop()
  const moved = await healthyOn(spare.ap, spare, GRACE + 30_000)
  assert.is(moved.epoch, row.epoch + 1)
  const { docker, warnings } = await holder.ap.status()
  assert.is(docker, null)
  assert.ok(warnings.some((warning) => /no container engine/.test(warning)))

  await holder.engine.start()
  await eventually('the AP to see its engine again', async () => (await holder.ap.status()).docker)
  await eventually('what is left of the old copy to be removed', async () => (await containers(holder)).length === 0)
  assert.is((await healthyOn(holder.ap, spare)).epoch, moved.epoch)
  assert.ok(await serves(spare))
})

test('an engine that hangs is one that is gone; the copy that runs on there is stopped when it wakes', async () => {
  const { holder, spare, row } = await seated()
  holder.engine.freeze()
  const moved = await healthyOn(spare.ap, spare, GRACE + 45_000)
  assert.is(moved.epoch, row.epoch + 1)
  assert.is((await holder.ap.status()).docker, null)
  assert.ok(await serves(holder), 'the old copy serves as long as nobody can stop it')

  holder.engine.thaw()
  await eventually('the AP to see its engine again', async () => (await holder.ap.status()).docker)
  await eventually('the old copy to be removed', async () => (await containers(holder)).length === 0)
  assert.is((await healthyOn(holder.ap, spare)).epoch, moved.epoch)
  assert.ok(await serves(spare))
})

engines.run()
