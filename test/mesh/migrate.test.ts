// Where instances run, and where they go when their AP dies, is drained, or cannot run them.
import { createServer, type Server } from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { InstanceRow } from '../../node/api/queries.js'
import { ensureBusybox } from '../support/busybox.js'
import { eventually, type TestAp, TestMesh } from '../support/mesh.js'
import { freePort } from '../support/scratch.js'

const mesh = new TestMesh()
test.before(async () => {
  await ensureBusybox(mesh.docker)
  await mesh.start(5, (i) => ({ labels: [`number=${i}`, `disk=${i === 2 || i === 3}`] }))
  assert.is((await mesh.cli(['keys', 'new', 'alice'])).status, 0)
})
test.after(() => mesh.close())

const named = (name: string): TestAp => mesh.aps.find((ap) => ap.name === name)!
const withId = (id: string): TestAp => mesh.aps.find((ap) => ap.id === id)!

/** Instance → AP and epoch, of all that runs, as an AP sees it. */
async function places(of = named('ap1')): Promise<Record<string, string>> {
  const rows = (await of.instances()).filter(({ state }) => state === 'running' || state === 'healthy')
  return Object.fromEntries(rows.map(({ instance, apName, epoch }) => [instance, `${apName}, epoch ${epoch}`]).sort())
}

const rowsOf = async (chute: string): Promise<InstanceRow[]> =>
  (await named('ap1').instances()).filter((row) => row.chute === chute)

/** Waits until the only instance of a chute is as the probe wants it. */
const instanceOf = (chute: string, what: string, probe: (row: InstanceRow) => boolean): Promise<InstanceRow> =>
  eventually(`${chute}.0 ${what}`, async () => {
    const rows = await rowsOf(chute)
    if (rows.length === 1 && probe(rows[0]!)) return rows[0]!
    throw new Error(rows.map(({ apName, state, reason }) => `${apName} ${state} ${reason}`).join(', '))
  })

test('the services of a chute reach each other by name', async () => {
  const serve = 'echo hello > /tmp/index.html; exec httpd -f -p 8080 -h /tmp'
  const ask = 'until wget -q -O /tmp/answer http://server:8080/; do sleep 1; done; exec sleep 1000000'
  const dir = await mesh.chute('pair', {
    server: { command: ['sh', '-c', serve] },
    client: {
      command: ['sh', '-c', ask],
      healthcheck: { test: ['CMD', 'grep', '-q', 'hello', '/tmp/answer'], interval: '1s', retries: 60 },
    },
  })
  const { placed } = await named('ap1').json<{ placed: { state: string }[] }>('publish', dir)
  assert.equal(
    placed.map(({ state }) => state),
    ['healthy'],
  )
  assert.is((await named('ap1').cli('rm', 'pair')).status, 0)
})

test('a chute that is to run everywhere runs once on every AP', async () => {
  await mesh.publish(named('ap1'), 'agent', {}, ['--everywhere'])
  const containers = await mesh.running('agent', 5)
  assert.equal(containers.map(({ ap }) => withId(ap).name).sort(), ['ap1', 'ap2', 'ap3', 'ap4', 'ap5'])
})

test('a chute that fits nowhere waits, and says for each AP why', async () => {
  const { status, stderr } = await named('ap1').cli(
    'publish',
    await mesh.chute('gold', { main: {} }),
    ...['--on', 'tier=gold', '--wait', '1s'],
  )
  assert.is(status, 1)
  assert.match(stderr, 'gold is published but does not run: gold.0 is waiting: no AP fits')
  const [row] = await rowsOf('gold')
  assert.equal([row!.state, row!.ap], ['waiting', null])
  for (let i = 1; i <= 5; i++) assert.match(row!.reason!, `ap${i} has no label tier=gold`)
})

test('a newcomer with the label starts what waited for it and its copy of what runs everywhere, and moves nothing else', async () => {
  await mesh.publish(named('ap1'), 'web', {}, ['--replicas', '4'])
  const before = await places()
  await mesh.add('ap6', { labels: ['tier=gold'] })
  await mesh.settled()
  await instanceOf('gold', 'to run on the newcomer', ({ apName, state }) => apName === 'ap6' && state === 'running')
  await mesh.running('agent', 6)
  const after = await eventually('the newcomer to say what it runs', async () => {
    const now = await places()
    return 'agent.ap6' in now && now
  })
  assert.equal(after, { ...before, 'agent.ap6': 'ap6, epoch 1', 'gold.0': 'ap6, epoch 1' })
})

test('draining an AP moves everything off it, and letting it in again moves nothing back', async () => {
  const id = (await mesh.running('web', 4)).find(({ ap }) => ap !== named('ap1').id)!.ap
  const { name } = withId(id)
  assert.is((await named('ap1').cli('drain', name)).status, 0)
  const filters = { label: [`dropmesh.ap=${id}`] }
  await eventually(
    'nothing to be left',
    async () => (await mesh.docker.listContainers({ all: true, filters })).length === 0,
  )
  await mesh.running('web', 4)
  assert.is((await named('ap1').aps()).find((ap) => ap.id === id)!.state, 'draining')
  const drained = await eventually('all to know where web runs', async () => {
    const now = await places()
    return Object.keys(now).filter((instance) => instance.startsWith('web')).length === 4 && now
  })

  assert.is((await named('ap1').cli('undrain', name)).status, 0)
  await mesh.running('agent', 6)
  // A chute that is published now sees the AP take work again, after everything had time to move.
  await mesh.publish(named('ap1'), 'after', {}, ['--on', `number=${name.slice(2)}`])
  const { [`agent.${name}`]: _, 'after.0': after, ...rest } = await places()
  assert.match(after!, name)
  assert.equal(rest, drained)
})

test('a chute with a volume waits for the AP that has its data, and runs there again with it; one whose volume is ephemeral moves', async () => {
  const write = ['sh', '-c', 'echo here >> /data/log; exec sleep 1000000']
  const volume = { command: write, user: 'app', volumes: ['data:/data'] }
  const on = ['--on', 'disk=true']
  await mesh.publish(named('ap1'), 'db', volume, on, { volumes: { data: {} } })
  await mesh.publish(named('ap1'), 'cache', volume, [...on, '--replicas', '2'], {
    volumes: { data: { 'x-dropmesh': { ephemeral: true } } },
  })
  const [db] = await mesh.running('db')
  assert.is(new Set((await mesh.running('cache', 2)).map(({ ap }) => ap)).size, 2)
  const home = withId(db!.ap)
  const other = home.name === 'ap2' ? 'ap3' : 'ap2'

  await home.crash()
  const waiting = await instanceOf('db', 'to wait', ({ state }) => state === 'waiting')
  assert.is(waiting.reason, `waiting for AP ${home.name}, its data is there`)
  await eventually('both copies of the cache to run on the other AP', async () => {
    const rows = await rowsOf('cache')
    return rows.length === 2 && rows.every(({ apName, state }) => apName === other && state === 'running')
  })
  assert.is((await rowsOf('db'))[0]!.ap, null)

  await home.start()
  await instanceOf('db', 'to run', ({ apName, state }) => apName === home.name && state === 'running')
  const [again] = await mesh.running('db')
  assert.is(again!.ap, home.id)
  assert.is(await run(again!.id, ['cat', '/data/log']), 'here\r\nhere\r\n')
})

test('a host port that a stranger holds makes its chute wait, saying where and who, until the port is free', async () => {
  const port = await freePort()
  const stranger = await new Promise<Server>((resolve) => {
    const server = createServer()
      .listen(port, '0.0.0.0', () => resolve(server))
      .unref()
  })
  const dir = await mesh.chute('fixed', { main: { ports: [`${port}:8080`] } })
  await named('ap1').json('publish', dir, '--on', 'disk=true', '--detach')
  const why = (ap: string) =>
    `${ap} cannot: cannot start fixed.0 (service main): port ${port}/tcp is taken by node (pid ${process.pid})`
  await instanceOf('fixed', 'to wait with its reasons', ({ state, reason }) => {
    return state === 'waiting' && reason!.includes(why('ap2')) && reason!.includes(why('ap3'))
  })
  stranger.close()
  await mesh.running('fixed')
  await instanceOf('fixed', 'to run', ({ state, ports }) => state === 'running' && ports[0]?.host === port)
})

test('of five APs two crash at once, and everything runs again on the others', async () => {
  for (const chute of ['one', 'two']) await mesh.publish(named('ap1'), chute, {}, ['--replicas', '2'])
  const wanted = ['one', 'two', 'web'].flatMap((chute) => [0, 1].map((ordinal) => `${chute}.${ordinal}`))
  const isUp = (now: Record<string, string>) => wanted.every((instance) => instance in now)
  const before = await eventually('all to run', async () => isUp(await places()) && places())
  const victims = ['ap2', 'ap3', 'ap4', 'ap5', 'ap6']
    .map((name) => ({ name, runs: wanted.filter((instance) => before[instance]!.startsWith(name)).length }))
    .sort((a, b) => b.runs - a.runs)
    .slice(0, 2)
    .map(({ name }) => named(name))
  await Promise.all(victims.map((ap) => ap.crash()))
  const epochOf = (place: string) => Number(/epoch (\d+)/.exec(place)![1])
  const isLost = (place: string) => victims.some(({ name }) => place.startsWith(name))
  const after = await eventually('all to run again', async () => {
    const now = await places()
    return isUp(now) && !wanted.some((instance) => isLost(now[instance]!)) && now
  })
  for (const instance of wanted) {
    if (isLost(before[instance]!)) assert.is(epochOf(after[instance]!), epochOf(before[instance]!) + 1)
    else assert.is(after[instance], before[instance])
  }
  const running = await mesh.docker.listContainers({ filters: { label: [`dropmesh.mesh=${await mesh.meshId()}`] } })
  for (const instance of wanted) {
    const copies = running.filter(({ Labels }) => Labels['dropmesh.instance'] === instance)
    assert.equal(
      copies.map(({ Labels }) => withId(Labels['dropmesh.ap']!).name),
      [after[instance]!.split(',')[0]],
    )
  }
})

/** What a command in a container prints. */
async function run(id: string, Cmd: string[]): Promise<string> {
  const exec = await mesh.docker.getContainer(id).exec({ Cmd, AttachStdout: true, Tty: true })
  let text = ''
  for await (const chunk of await exec.start({ Tty: true })) text += chunk
  return text
}

test.run()
