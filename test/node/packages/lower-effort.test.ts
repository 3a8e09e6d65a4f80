// Where the firewall refuses to mark packages: programs that stand in for it.
import { chmod, writeFile } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import type { Logger } from 'pino'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { LowerEffort } from '../../../node/packages/lower-effort.js'
import { MAX_CHUNK } from '../../../protocols/limits.js'
import { scratch } from '../../support/scratch.js'
import { until } from '../../support/until.js'
import { Peers } from '../mesh/support.js'
import { Holder } from './holder.js'

const canMark = process.platform === 'linux' && process.getuid?.() === 0
const refusing = suite(`lower effort${canMark ? '' : ' (skipped: the firewall needs root on Linux)'}`)
const test = canMark || process.env.CI ? refusing : refusing.skip

const peers = new Peers()
const path = process.env.PATH

refusing.before(async () => {
  const dir = scratch('firewall')
  for (const program of ['iptables', 'iptables-restore', 'ip6tables', 'ip6tables-restore']) {
    await writeFile(join(dir, program), '#!/bin/sh\necho "no table mangle" >&2\nexit 3\n')
    await chmod(join(dir, program), 0o755)
  }
  process.env.PATH = `${dir}${delimiter}${path}`
})
refusing.after(async () => {
  await peers.stop()
  process.env.PATH = path
})

test('a firewall that refuses fails no transfer, and is told of once', async () => {
  const warnings: string[] = []
  const log = { warn: ({ reason }: { reason: string }) => warnings.push(reason) } as unknown as Logger
  const [giver, taker] = await peers.members(2)
  const lowerEffort = new LowerEffort({ self: giver!.id, log })
  lowerEffort.start()
  const from = new Holder(giver!, { rate: 4 * MAX_CHUNK, onBulk: (connection) => lowerEffort.add(connection) })
  const to = new Holder(taker!)
  taker!.network.dialler.learn(giver!.id, giver!.addresses)
  for (const { swarm } of [from, to]) await swarm.start()
  to.sources = [from]
  for (let i = 0; i < 2; i++) {
    const blob = await from.make(6 * MAX_CHUNK)
    await to.swarm.fetch(blob)
    assert.ok(to.has(blob))
    await until('no connection to mark', () => Reflect.get(lowerEffort, 'connections').size === 0)
  }
  await lowerEffort.stop()
  assert.equal(warnings, ['iptables-restore: no table mangle'])
  assert.is(lowerEffort.failure, warnings[0])
})

refusing.run()
