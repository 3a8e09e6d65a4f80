// The watchdog, as a process of its own, against a real Docker.
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { bootClock } from '../../../node/boot-clock.js'
import { connectDocker, socketOf } from '../../../node/chutes/docker-client.js'
import { Guard } from '../../../node/chutes/guard.js'
import { removeLabelled } from '../../../node/chutes/sweep.js'
import { BUSYBOX, ensureBusybox } from '../../support/busybox.js'
import { Copies } from '../../support/copies.js'
import { scratch } from '../../support/scratch.js'
import { until } from '../../support/until.js'

const docker = connectDocker()
const label = `dropmesh.test=${randomBytes(6).toString('hex')}`
const MARKER = `31536001.${process.pid}`
const copies = new Copies(MARKER)

test.before(async () => {
  await ensureBusybox(docker)
})
test.after(async () => {
  copies.stop()
  await removeLabelled(docker, label)
})

const guardAt = (socket: string) => new Guard(socket, socketOf(docker)!)

async function container(): Promise<string> {
  const [name, value] = label.split('=')
  const { id } = await docker.createContainer({
    Image: BUSYBOX,
    Cmd: ['sh', '-c', `sleep ${MARKER} & sleep ${MARKER}`],
    Labels: { [name!]: value! },
    HostConfig: { NetworkMode: 'none' },
  })
  return id
}

/** Sends a signal to the watchdog at a socket. */
const kill = (socket: string, signal: string) => execFileSync('pkill', [`-${signal}`, '-f', `watchdog.js ${socket}`])

const start = (id: string) => docker.getContainer(id).start()
const lives = (id: string) => copies.alive().includes(id)
const alive = (id: string) => until('it to live', () => lives(id), { everyMs: 10 })
const dead = (id: string) => until('it to be dead', () => !lives(id), { everyMs: 10 })

test('all processes of a container are killed when its time is over, and not before', async () => {
  const guard = guardAt(join(scratch(), 'watchdog.sock'))
  const id = await container()
  await start(id)
  await alive(id)
  const end = bootClock() + 700
  await guard.set('a', [id], end, false)
  await dead(id)
  assert.ok(bootClock() >= end, 'too early')
  assert.ok(bootClock() < end + 1000, `${bootClock() - end} ms late`)
  guard.close()
})

test('who renews in time lives on; the others do not', async () => {
  const guard = guardAt(join(scratch(), 'watchdog.sock'))
  const [renewed, left] = [await container(), await container()]
  await Promise.all([start(renewed), start(left)])
  const end = bootClock() + 500
  await guard.set('a', [renewed], end, false)
  await guard.set('b', [left], end, false)
  await guard.set('a', [renewed], end + 60_000, false)
  await dead(left)
  assert.ok(lives(renewed))
  await guard.drop('a')
  guard.close()
})

test('a watchdog outlives its node, the next node finds what it guards, and it ends when all is over', async () => {
  const socket = join(scratch(), 'watchdog.sock')
  const first = guardAt(socket)
  const id = await container()
  await start(id)
  const end = bootClock() + 60_000
  await first.set('a', [id], end, false)
  first.close()

  const second = guardAt(socket)
  await second.find()
  assert.equal([...second.guarded], [['a', { ids: [id], until: end, starting: false }]])
  await second.set('a', [id], bootClock() + 300, false)
  second.close()
  await dead(id)
  await until('the end of the watchdog', () => !existsSync(socket), { deadlineMs: 20_000 })
})

test('the watchdog that follows one that was killed ends what that one guarded, though its time is over', async () => {
  const socket = join(scratch(), 'watchdog.sock')
  const guard = guardAt(socket)
  const id = await container()
  await start(id)
  await alive(id)
  await guard.set('a', [id], bootClock() + 300, false)
  kill(socket, 'SIGKILL')
  await dead(id)
  guard.close()
})

test('a watchdog that stands still keeps no node from starting', async () => {
  const socket = join(scratch(), 'watchdog.sock')
  const first = guardAt(socket)
  await first.set('a', ['0'.repeat(64)], bootClock() + 60_000, false)
  kill(socket, 'SIGSTOP')
  const asked = performance.now()
  const second = guardAt(socket)
  await second.find()
  assert.ok(performance.now() - asked < 5000)
  kill(socket, 'SIGKILL')
  first.close()
  second.close()
})

test('a container that an engine starts when its time is over dies at once', async () => {
  const guard = guardAt(join(scratch(), 'watchdog.sock'))
  const id = await container()
  await guard.set('a', [id], bootClock() - 1000, true)
  await start(id).catch(() => {}) // some engines do not even get to the end of starting it
  await until('it to have ended', async () => {
    const { State } = await docker.getContainer(id).inspect()
    return !State.Running
  })
  const late = copies.lives.filter((life) => life.id === id).map(({ from, to }) => to - from)
  assert.ok(
    late.every((ms) => ms < 500),
    `it lived for ${late} ms`,
  )
  guard.close()
})

test.run()
