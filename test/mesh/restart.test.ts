// What a node and its containers survive: power cuts, restarts, crashes, a person with `docker rm` in hand.
import { existsSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { MeshEvent } from '../../node/events.js'
import { ensureBusybox } from '../support/busybox.js'
import { eventually, TestMesh } from '../support/mesh.js'

const solo = new TestMesh()
const trio = new TestMesh()
test.before(async () => {
  await ensureBusybox(solo.docker)
  await Promise.all([solo.start(1), trio.start(3, (i) => ({ labels: [`number=${i}`] }))])
  for (const mesh of [solo, trio]) assert.is((await mesh.cli(['keys', 'new', 'alice'])).status, 0)
})
test.after(() => Promise.all([solo.close(), trio.close()]).then(() => {}))

const bootOf = async (mesh: TestMesh, name: string): Promise<number> =>
  (await mesh.aps[0]!.json<{ beacon: { boot: number } }>('inspect', name)).beacon.boot

const ofKind = (events: MeshEvent[], kind: string) => events.filter((event) => event.kind === kind)

test('a node killed and started again keeps identity, ledger and containers, and has a higher boot', async () => {
  const node = solo.aps[0]!
  await solo.publish(node, 'steady', {}, ['--replicas', '2'])
  const before = await solo.running('steady', 2)
  const { ap, mesh, ledger } = await node.status()
  const boot = await bootOf(solo, 'ap1')

  await node.stop('SIGKILL')
  await node.start()
  await eventually('the instances to be reported', async () => {
    const rows = await node.instances()
    return rows.length === 2 && rows.every(({ state }) => state === 'running')
  })
  const status = await node.status()
  assert.equal([status.ap, status.mesh, status.ledger], [ap, mesh, ledger])
  const ids = (containers: typeof before) => containers.map(({ id }) => id).sort()
  assert.equal(ids(await solo.running('steady', 2)), ids(before))
  assert.ok((await bootOf(solo, 'ap1')) > boot)
})

test('a second node on the same data folder is refused with the pid of the first one, which it does not harm', async () => {
  const node = solo.aps[0]!
  const { status, stderr } = await solo.cli(['up', '--data', node.data, '--listen', '/ip4/127.0.0.1/tcp/0'])
  assert.is(status, 1)
  assert.match(stderr, `is in use by the dropmesh node with pid ${node.pid};`)
  assert.ok(node.isRunning)
  assert.is((await node.status()).state, 'running')
  assert.is((await node.json<unknown[]>('ps')).length, 2)
})

test('a container that was removed while its node was down is made again', async () => {
  const node = solo.aps[0]!
  const [victim, other] = await solo.running('steady', 2)
  await node.stop('SIGKILL')
  await solo.docker.getContainer(victim!.id).remove({ force: true })
  await node.start()
  const after = await solo.running('steady', 2)
  assert.ok(after.some(({ id }) => id === other!.id))
  assert.not.ok(after.some(({ id }) => id === victim!.id))
})

test('a container that a person removes is made again', async () => {
  const [victim] = await solo.running('steady', 2)
  await solo.docker.getContainer(victim!.id).remove({ force: true })
  const after = await solo.running('steady', 2)
  assert.ok(after.some(({ instance, id }) => instance === victim!.instance && id !== victim!.id))
})

test('a container that crashes is started again, and the event tells how it ended', async () => {
  const node = solo.aps[0]!
  const [victim] = await solo.running('steady', 2)
  const container = solo.docker.getContainer(victim!.id)
  const { StartedAt } = (await container.inspect()).State
  await container.kill()
  await eventually('the container to run again', async () => {
    const { State } = await container.inspect()
    return State.Running && State.StartedAt !== StartedAt
  })
  const [crash] = ofKind(await node.events(), 'crashed')
  assert.is(crash!.instance, victim!.instance)
  assert.is(crash!.service, 'main')
  assert.is(crash!.reason, 'exited with status 137')
})

test('a container that crashes again and again is restarted ever more rarely, is failed in ps, and the node stays up', async () => {
  const node = solo.aps[0]!
  await solo.publish(node, 'loop', { command: ['sh', '-c', 'exit 7'] }, ['--detach'])
  const crashes = await eventually('four crashes', async () => {
    const of = ofKind(await node.events(), 'crashed').filter(({ instance }) => instance === 'loop.0')
    return of.length >= 4 && of.map(({ at }) => Date.parse(at))
  })
  const [first, second, third] = crashes.slice(1).map((at, i) => at - crashes[i]!)
  assert.ok(first! < second! && second! >= 2000 && third! >= 4000, `waits of ${[first, second, third]} ms`)
  const row = await eventually('the instance to be failed', async () => {
    const rows = await node.json<{ chute: string; state: string; reason: string }[]>('ps')
    return rows.find(({ chute, state }) => chute === 'loop' && state === 'failed')
  })
  assert.is(row.reason, 'main exited with status 7')
  assert.is((await solo.containers('steady')).filter(({ running }) => running).length, 2)
  assert.is((await node.cli('rm', 'loop')).status, 0)
  await solo.running('loop', 0)
})

test('a lone node that is stopped takes its containers along, and runs its chutes again once it is back', async () => {
  const node = solo.aps[0]!
  assert.is(await node.stop('SIGTERM'), 0)
  assert.equal(await solo.containers('steady'), [])
  await node.start()
  await solo.running('steady', 2)
})

test('an AP that was taken for dead goes on with the containers that nobody else may run', async () => {
  const [ap1, ap2] = trio.aps
  await trio.publish(ap1!, 'only2', {}, ['--on', 'number=2'])
  const [before] = await trio.running('only2')
  await ap2!.stop('SIGKILL')
  await eventually('the AP to be dead', async () =>
    (await ap1!.aps()).some((row) => row.id === ap2!.id && row.state === 'dead'),
  )
  const waiting = (await ap1!.instances()).find(({ chute }) => chute === 'only2')!
  assert.is(waiting.state, 'waiting')
  await ap2!.start()
  await trio.settled()
  await eventually('the instance to be reported', async () =>
    (await ap1!.instances()).some(({ chute, state }) => chute === 'only2' && state === 'running'),
  )
  assert.equal(await trio.containers('only2'), [before!])
})

test('an AP that is back ends its copy of what others took over, starts nothing of it, and disturbs nobody', async () => {
  await trio.publish(trio.aps[0]!, 'moves', {})
  const [before] = await trio.running('moves')
  const back = trio.aps.find(({ id }) => id === before!.ap)!
  const other = trio.aps.find((ap) => ap !== back)!
  await back.stop('SIGKILL') // and its container runs on
  const winner = await eventually('another AP to run it', async () =>
    (await trio.containers('moves')).find(({ ap, running }) => ap !== back.id && running),
  )
  await eventually('it to be known', async () =>
    (await other.instances()).some(
      ({ chute, ap, state }) => chute === 'moves' && ap === winner.ap && state === 'running',
    ),
  )
  await back.start()
  const [after] = await trio.running('moves')
  assert.equal(after, winner)
  const kinds = await eventually('it to have said so', async () => {
    const events = await back.events()
    const since = events.slice(events.findLastIndex(({ kind }) => kind === 'up'))
    const of = since.filter(({ instance }) => instance === 'moves.0').map(({ kind }) => kind)
    return of.includes('stopped') && of
  })
  assert.equal(
    kinds.filter((kind) => ['started', 'crashed'].includes(kind)),
    [],
  )
  await trio.settled()
})

test('an AP that reaches nobody waits for word of what moved, and then runs what it held', async () => {
  const [ap1, ap2, ap3] = trio.aps
  await ap2!.crash()
  for (const ap of [ap1!, ap3!]) ap.signal('SIGSTOP')
  const [again] = await ap2!
    .start()
    .then(() => trio.running('only2'))
    .finally(() => {
      for (const ap of [ap1!, ap3!]) ap.signal('SIGCONT')
    })
  const up = ofKind(await ap2!.events(), 'up').at(-1)!
  const started = Date.parse((await trio.docker.getContainer(again!.id).inspect()).State.StartedAt)
  // Five seconds after the process began, which is a little before it said so.
  assert.ok(started - Date.parse(up.at) > 4000, `it was started after ${started - Date.parse(up.at)} ms`)
  await trio.settled()
})

test('a node that takes over from another one moves nothing, and nobody suspects the AP', async () => {
  const [ap1, ap2, ap3] = trio.aps
  await trio.publish(ap1!, 'steadfast', {}, ['--replicas', '3'])
  const before = await trio.running('steadfast', 3)
  assert.ok(before.some(({ ap }) => ap === ap2!.id))
  const boot = await bootOf(trio, 'ap2')
  const counted = async () => {
    const events = (await Promise.all([ap1!.events(), ap3!.events()])).flat()
    return ['suspected', 'dead', 'claimed', 'accused'].map((kind) => ofKind(events, kind).length)
  }
  const events = await counted()
  const old = ap2!.pid
  await ap2!.start(['--handover'])
  await eventually('the new node to be heard of', async () => (await bootOf(trio, 'ap2')) > boot)
  assert.is.not(ap2!.pid, old)
  await eventually('the old node to be gone', () => !existsSync(`/proc/${old}`))
  await trio.settled()
  assert.equal(await counted(), events)
  const ids = (containers: typeof before) => containers.map(({ id }) => id).sort()
  assert.equal(ids(await trio.running('steadfast', 3)), ids(before))
})

test('an AP that is stopped leaves: others serve its chutes before its own copies end, and nobody suspects it', async () => {
  const [ap1, ap2, ap3] = trio.aps
  await trio.publish(ap1!, 'moving', {}, ['--replicas', '3'])
  const before = await trio.running('moving', 3)
  const since = Math.floor(Date.now() / 1000) - 1
  const [suspectedBefore] = await Promise.all([ap1!.events()]).then(([events]) => [ofKind(events, 'suspected').length])
  assert.ok(before.some(({ ap }) => ap === ap2!.id))

  assert.is(await ap2!.stop('SIGTERM'), 0)
  const after = await trio.running('moving', 3)
  assert.not.ok(after.some(({ ap }) => ap === ap2!.id))
  await eventually('the AP to have left', async () =>
    (await Promise.all([ap1!.aps(), ap3!.aps()])).every(
      (rows) => rows.find(({ id }) => id === ap2!.id)?.state === 'left',
    ),
  )
  assert.is(ofKind(await ap1!.events(), 'suspected').length, suspectedBefore)
  assert.equal(
    ofKind(await ap3!.events(), 'suspected').filter(({ at }) => Date.parse(at) / 1000 > since),
    [],
  )
  const filters = { label: [`dropmesh.ap=${ap2!.id}`] }
  assert.equal(await trio.docker.listContainers({ all: true, filters }), [])
  assert.equal(await trio.docker.listNetworks({ filters }), [])

  for (const moved of before.filter(({ ap }) => ap === ap2!.id)) {
    const successor = after.find(({ instance }) => instance === moved.instance)!
    const started = Date.parse((await trio.docker.getContainer(successor.id).inspect()).State.StartedAt)
    assert.ok(started < (await endOf(moved.id, since)), `${moved.instance} was gone before its successor ran`)
  }

  await ap2!.start()
  await trio.settled()
})

/** When a container ended, in milliseconds since 1970: from the engine's events, since it is removed. */
async function endOf(id: string, since: number): Promise<number> {
  const until = Math.ceil(Date.now() / 1000)
  const filters = { container: [id], event: ['die'] }
  let text = ''
  for await (const chunk of await trio.docker.getEvents({ since, until, filters })) text += chunk
  return JSON.parse(text.split('\n')[0]!).timeNano / 1e6
}

test.run()
