// An exclusive chute on three hosts with a Docker engine each: cut off, hung, restarted. What lives is what the kernel
// says, on one clock, and no two containers of it ever do at one time.
import { connect, createServer } from 'node:net'
import { join } from 'node:path'
import Docker from 'dockerode'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { ensureBusybox } from '../support/busybox.js'
import { Copies } from '../support/copies.js'
import { type Host, type Hosts, makeHosts, whyNoHosts } from '../support/hosts.js'
import { eventually, on, type TestAp, TestMesh } from '../support/mesh.js'

const obstacle = whyNoHosts()
const exclusive = suite(`exclusive${obstacle ? ` (skipped: ${obstacle})` : ''}`)
// Where the whole check runs, a machine that cannot do this is a failure.
const test = obstacle && !process.env.CI ? exclusive.skip : exclusive

const mesh = new TestMesh()
const MARKER = `31536000.${process.pid}`
const copies = new Copies(MARKER)
let lan: Hosts

exclusive.before(async () => {
  if (obstacle) return
  lan = await makeHosts(3, { docker: true })
  await Promise.all(lan.hosts.map(({ engine }) => ensureBusybox(new Docker({ socketPath: engine!.socket }))))
  await Promise.all(lan.hosts.map(listenInFront))
  await mesh.start(3, (i) => {
    const options = on(lan.hosts[i - 1]!)
    return { ...options, args: ['--mdns', '--docker-host', `unix://${inFrontOf(lan.hosts[i - 1]!)}`] }
  })
  assert.is((await mesh.cli(['keys', 'new', 'alice'])).status, 0)
  await mesh.publish(mesh.aps[0]!, 'one', { command: ['sleep', MARKER] }, ['--exclusive'])
})
exclusive.after(async () => {
  copies.stop()
  await mesh.close()
  lan?.close()
})

/** The host whose engine is to hang as soon as it is asked to start a container. */
let hangsAtStart: Host | undefined

const inFrontOf = ({ engine }: Host): string => join(engine!.folder, 'front.sock')

/** Between a node and its engine, so that the engine can hang at the worst moment. */
function listenInFront(host: Host): Promise<void> {
  const server = createServer((node) => {
    const engine = connect(host.engine!.socket)
    node.on('data', (data) => {
      if (host === hangsAtStart && /POST \S*\/start/.test(data.toString('latin1'))) host.engine!.freeze()
      engine.write(data)
    })
    engine.pipe(node)
    for (const side of [node, engine]) side.on('error', () => {})
    node.on('close', () => engine.destroy())
  })
  server.unref()
  return new Promise((resolve) => server.listen(inFrontOf(host), resolve))
}

interface Seat {
  ap: TestAp
  host: Host
}

const rowsOf = async (viewer: TestAp) => (await viewer.instances()).filter(({ chute }) => chute === 'one')

/** Waits until it runs, as `viewer` sees it, on an AP other than `not`. */
async function seated(viewer: TestAp = mesh.aps[0]!, not?: TestAp): Promise<Seat> {
  const row = await eventually('the instance to run', async () => {
    const [row, ...more] = await rowsOf(viewer)
    return more.length === 0 && row?.state === 'running' && row.ap !== not?.id && row
  })
  const i = mesh.aps.findIndex(({ id }) => id === row.ap)
  return { ap: mesh.aps[i]!, host: lan.hosts[i]! }
}

const others = ({ ap }: Seat): TestAp[] => mesh.aps.filter((one) => one !== ap)

const dead = (id: string) => eventually('the old copy to end', () => !copies.alive().includes(id), { everyMs: 20 })

test('a holder that is cut off stops, says why with numbers, and another AP takes over', async () => {
  const seat = await seated()
  const [before] = copies.alive()
  lan.cut(seat.host)
  await dead(before!)
  const row = await eventually('it to say why', async () =>
    (await rowsOf(seat.ap)).find(({ reason }) => /needs 2 of its 3 voters, reaches [01]/.test(reason ?? '')),
  )
  assert.is(row.state, 'waiting')
  const [viewer] = others(seat)
  await seated(viewer, seat.ap)
  const lost = (await seat.ap.events()).find(({ kind }) => kind === 'lease-lost')
  assert.match(String(lost?.reason), /needs 2 of its 3 voters, reaches [01]/)
  assert.equal(copies.twins(), [])
  lan.heal()
  await mesh.settled()
})

test('without a majority of its voters it runs nowhere, until they are back', async () => {
  const seat = await seated()
  for (const host of lan.hosts) lan.cut(host)
  await eventually('it to run nowhere', () => copies.alive().length === 0)
  lan.heal()
  await mesh.settled()
  await seated(seat.ap)
  assert.is(copies.alive().length, 1)
})

test('a copy on an engine that hangs is ended past it, though its node is dead', async () => {
  const seat = await seated()
  const [before] = copies.alive()
  seat.host.engine!.freeze()
  await seat.ap.stop('SIGKILL')
  await dead(before!)
  const [viewer] = others(seat)
  await seated(viewer, seat.ap)
  seat.host.engine!.thaw()
  await seat.ap.start()
  await mesh.settled()
  assert.equal(copies.twins(), [])
})

test('an AP whose engine is gone does not keep the lease of what it cannot run', async () => {
  const seat = await seated()
  await seat.host.engine!.stop()
  await eventually('another AP to run it', async () =>
    (await rowsOf(seat.ap)).some(({ ap, state }) => ap !== seat.ap.id && state === 'running'),
  )
  await seat.host.engine!.start()
  await seated()
  assert.equal(copies.twins(), [])
})

test('a machine that boots, and reaches no voters, starts nothing', async () => {
  const seat = await seated()
  lan.cut(seat.host)
  seat.host.crash()
  await seat.ap.stop('SIGKILL')
  const [viewer] = others(seat)
  const after = await seated(viewer, seat.ap)
  const running = copies.alive()
  await seat.host.engine!.start()
  await seat.ap.start()
  await eventually('it to say why', async () =>
    (await rowsOf(seat.ap)).some(({ reason }) => /needs 2 of its 3 voters, reaches [01]/.test(reason ?? '')),
  )
  assert.equal(copies.alive(), running)
  lan.heal()
  await mesh.settled()
  assert.is((await seated()).ap.id, after.ap.id)
  assert.equal(copies.twins(), [])
})

test('a copy that a hung engine starts when its lease is long over dies at once', async () => {
  const seat = await seated()
  hangsAtStart = seat.host
  await mesh.cli(['restart', 'one', '--data', seat.ap.data])
  await eventually('the engine to hang', () => copies.alive().length === 0)
  lan.cut(seat.host)
  const [viewer] = others(seat)
  await seated(viewer, seat.ap)
  hangsAtStart = undefined
  const thawedAt = performance.now()
  seat.host.engine!.thaw()
  const docker = new Docker({ socketPath: seat.host.engine!.socket })
  await eventually('the node to have cleaned up', async () => (await docker.listContainers({ all: true })).length === 0)
  const lives = copies.lives.filter(({ to }) => to >= thawedAt)
  const late = lives.filter(({ from }) => from >= thawedAt).map(({ from, to }) => to - from)
  assert.is(lives.length - late.length, 1, 'the other AP goes on')
  assert.ok(
    late.every((ms) => ms < 500),
    `it lived for ${late} ms`,
  )
  lan.heal()
  await mesh.settled()
})

exclusive.run()
