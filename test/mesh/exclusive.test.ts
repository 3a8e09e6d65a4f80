// An exclusive chute among three APs on one engine: it runs once, and never twice, whatever is killed.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { LEASE } from '../../protocols/leases.js'
import { ensureBusybox } from '../support/busybox.js'
import { Copies } from '../support/copies.js'
import { eventually, type TestAp, TestMesh } from '../support/mesh.js'

const mesh = new TestMesh()
const MARKER = `31536000.${process.pid}`
const copies = new Copies(MARKER)

test.before(async () => {
  await ensureBusybox(mesh.docker)
  await mesh.start(2)
  assert.is((await mesh.cli(['keys', 'new', 'alice'])).status, 0)
})
test.after(async () => {
  copies.stop()
  await mesh.close()
})

/** A test after which no two containers may ever have lived at one time. */
const scene = (promise: string, play: () => Promise<void>) =>
  test(promise, async () => {
    await play()
    assert.equal(copies.twins(), [])
  })

const holder = async (viewer: TestAp = mesh.aps.find(({ isRunning }) => isRunning)!): Promise<TestAp> => {
  const row = await eventually('the instance to run', async () => {
    const rows = (await viewer.instances()).filter(({ chute }) => chute === 'one')
    return rows.length === 1 && rows[0]!.state === 'running' && rows[0]
  })
  return mesh.aps.find(({ id }) => id === row.ap)!
}

scene('a mesh of two says that it cannot run exclusive chutes, and refuses them', async () => {
  const [ap] = mesh.aps
  const dir = await mesh.chute('one', { main: { command: ['sleep', MARKER] } })
  const { status, stderr } = await ap!.cli('publish', dir, '--exclusive')
  assert.is(status, 1)
  assert.match(stderr, 'an exclusive chute needs 3 APs to vote on who runs it, and 2 of this mesh are alive')
  assert.match((await ap!.status()).exclusive, 'they need 3 APs to vote on who runs them, this mesh has 2')
  await mesh.add('ap3')
  await mesh.settled()
  assert.match((await ap!.status()).exclusive, '3 of the 3 APs vote on each')
})

scene('an exclusive chute runs once', async () => {
  const { placed } = await mesh.publish(mesh.aps[0]!, 'one', { command: ['sleep', MARKER] }, ['--exclusive'])
  assert.is(placed.length, 1)
  assert.is(copies.alive().length, 1)
})

scene('a node that is killed and started again at once goes on with its containers', async () => {
  const ap = await holder()
  // On a machine that is busy it may be back too late, and then they had to end.
  for (let tries = 0; tries < 3; tries++) {
    const before = copies.alive()
    const killedAt = performance.now()
    await ap.stop('SIGKILL')
    await ap.start()
    await eventually('the lease to be had again', async () => {
      const events = await ap.events()
      const up = events.findLastIndex(({ kind }) => kind === 'up')
      return events.slice(up).some(({ kind }) => kind === 'lease-taken')
    })
    const isInTime = performance.now() < killedAt + LEASE.holder - LEASE.renew
    await mesh.settled()
    await holder()
    if (!isInTime) continue
    assert.equal(copies.alive(), before)
    return
  }
  assert.unreachable('it was never back in time')
})

scene('a node that is killed leaves containers that its watchdog ends before another AP starts', async () => {
  const ap = await holder()
  const [before] = copies.alive()
  await ap.stop('SIGKILL')
  const viewer = mesh.aps.find(({ isRunning }) => isRunning)!
  await eventually('another AP to run it', async () => {
    const row = (await viewer.instances()).find(({ chute, state }) => chute === 'one' && state === 'running')
    return row !== undefined && row.ap !== ap.id
  })
  assert.equal(copies.alive().length, 1)
  assert.not.equal(copies.alive(), [before])
  await ap.start()
  await mesh.settled()
})

scene('an exclusive chute stays so, and another one does not become so', async () => {
  const [ap] = mesh.aps
  const dir = await mesh.chute('one', { main: { command: ['sleep', MARKER] } })
  const [loosened] = await Promise.all([ap!.cli('publish', dir), mesh.publish(ap!, 'other', {}, ['--detach'])])
  assert.is(loosened.status, 1)
  assert.match(loosened.stderr, 'one is exclusive and stays so')
  const tightened = await ap!.cli('publish', await mesh.chute('other', { main: {} }), '--exclusive')
  assert.is(tightened.status, 1)
  assert.match(tightened.stderr, 'other is not exclusive and cannot become so: remove it')
})

scene('an AP that is drained gives its lease back, so that nobody waits for the end of it', async () => {
  const ap = await holder()
  const [before] = copies.alive()
  await ap.json('drain')
  const next = await eventually(
    'another container to live',
    () => copies.lives.at(-1)!.id !== before && copies.lives.at(-1),
  )
  const gap = next.from - copies.lives.findLast(({ id }) => id === before)!.to
  assert.ok(gap < 5000, `${gap} ms without a copy`)
  await ap.json('undrain')
})

scene(
  'a voter that is forgotten is replaced by one that the others sign for, and it runs on by their votes',
  async () => {
    const [ap] = mesh.aps
    await mesh.add('ap4')
    await mesh.settled()
    await mesh.aps[2]!.stop('SIGKILL')
    await ap!.json('forget', 'ap3')
    const event = await eventually('other voters', async () =>
      (await ap!.events()).find(({ kind }) => kind === 'voters'),
    )
    assert.is(event.generation, 1)
    assert.equal([...(event.voters as string[])].sort(), ['ap1', 'ap2', 'ap4'])
    await eventually('it to run by their votes', async () =>
      (await ap!.instances()).some(
        ({ chute, state, epoch }) => chute === 'one' && state === 'running' && epoch! > 2 ** 40,
      ),
    )
  },
)

scene('with two of three voters gone it runs nowhere and says why, until an admin forces others upon it', async () => {
  const [ap] = mesh.aps
  await Promise.all(mesh.aps.slice(1).map((other) => other.isRunning && other.crash()))
  await eventually('it to say why', async () =>
    (await ap!.instances()).some(
      ({ chute, state, reason }) =>
        chute === 'one' && state === 'waiting' && /needs 2 of its 3 voters, reaches 1/.test(reason ?? ''),
    ),
  )
  assert.equal(copies.alive(), [])
  const refused = await ap!.cli('force', 'one', '--key', 'alice')
  assert.is(refused.status, 1)
  assert.match(refused.stderr, /is no admin and can sign no voters record; use the key of one with --key/)
  const { stdout, stderr, status } = await ap!.cli('force', 'one')
  assert.is(status, 0, stderr)
  assert.match(stdout, 'ap1 votes on one from now on')
  assert.match(stderr, 'no copy of one runs on an AP that cannot be reached')
  assert.is((await holder()).id, ap!.id)
  assert.is((await ap!.instances()).find(({ chute }) => chute === 'one')!.epoch, 2 ** 41 + 1)
  const { publisher } = JSON.parse((await mesh.cli(['keys', 'show', 'default', '--json'])).stdout)
  const { signed } = await ap!.json<{ signed: { what: string }[] }>('inspect', publisher)
  const whats = signed.map(({ what }) => what)
  assert.ok(whats.includes('generation 2 of the voters of chute one'), whats.join('\n'))
  assert.ok(whats.some((what) => what.startsWith('the forget of AP ')))
})

scene('of an exclusive chute that is removed no AP keeps what it promised and gave back', async () => {
  const [ap] = mesh.aps
  const book = async () => (await readFile(join(ap!.data, 'leases'), 'utf8')).match(/[0-9a-f]{40,}/g)
  assert.ok(await book())
  assert.is((await ap!.cli('rm', 'one')).status, 0)
  await eventually('the copy to end', () => copies.alive().length === 0)
  await eventually('the book to be empty', async () => (await book()) === null)
})

test.run()
