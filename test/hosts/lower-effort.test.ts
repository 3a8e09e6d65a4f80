// That what an AP sends of packages yields: seen where its packets leave, between APs that carry blobs and nothing else, each on
// a host of its own.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { MAX_CHUNK } from '../../protocols/limits.js'
import { type Carrier, carriers } from '../bench/carriers.js'
import { type Host, type Hosts, makeHosts, needTools, whyNoHosts } from '../support/hosts.js'
import { until } from '../support/until.js'

const obstacle = whyNoHosts()
const effort = suite(`lower effort${obstacle ? ` (skipped: ${obstacle})` : ''}`)
// Where the whole check runs, a machine that cannot do this is a failure.
const test = obstacle && !process.env.CI ? effort.skip : effort

/** Slow enough that the firewall, which nothing waits for, is ahead of most of a blob. */
const RATE = 3 * 1024 ** 2
const SIZE = 24 * MAX_CHUNK

/** After all marking: what has the mark, what would wait in the last band of a queue, and what has neither. */
const COUNTERS = `table ip count { chain out { ${[
  'type filter hook postrouting priority 300',
  'ip protocol tcp ip dscp 1 counter',
  'ip protocol tcp meta priority 0:2 counter',
  'ip protocol tcp ip dscp != 1 meta priority != 0:2 counter',
].join('; ')}; }; }`

let lan: Hosts
let host: Host
let from: Carrier
let to: Carrier

effort.before(async () => {
  if (obstacle) return
  needTools(['iptables', 'nft'])
  lan = await makeHosts(2)
  host = lan.hosts[0]!
  await run('nft', COUNTERS)
  ;[from, to] = (await carriers(2, lan.hosts, { rate: RATE, lowerEffort: true })) as [Carrier, Carrier]
})
effort.after(() => {
  for (const carrier of [from, to]) carrier?.stop()
  lan?.close()
})

async function run(...argv: string[]): Promise<string> {
  const { code, stdout, stderr } = await host.run(argv)
  assert.is(code, 0, stderr)
  return stdout
}

/** Bytes that left the host by TCP, as the counters have them. */
async function left(): Promise<{ marked: number; last: number; plain: number }> {
  const table = await run('nft', 'list table ip count')
  const [marked, last, plain] = [...table.matchAll(/counter packets \d+ bytes (\d+)/g)].map(([, bytes]) =>
    Number(bytes),
  )
  return { marked: marked!, last: last!, plain: plain! }
}

const rules = async (): Promise<string[]> =>
  (await run('iptables', '-t', 'mangle', '-S')).split('\n').filter((line) => line.includes('DROPMESH-LE'))

const isClean = async (): Promise<boolean> => (await rules()).length === 0

test('what an AP sends of a blob says that it may wait, and nothing else that it sends does', async () => {
  const before = await until('a word between them', async () => {
    const count = await left()
    return count.plain > 0 && count
  })
  assert.equal([before.marked, before.last], [0, 0])
  const end = to.fetch([await from.make(SIZE)], [from])
  // One for each mark, and one that leads to them.
  await until('rules for one connection', async () => (await rules()).filter((rule) => /^-A/.test(rule)).length === 3)
  const since = await left()
  await end
  const after = await left()
  const marked = after.marked - since.marked
  const plain = after.plain - since.plain
  assert.ok(marked > SIZE / 4, `${marked} bytes were marked`)
  assert.ok(plain < marked / 20, `${plain} bytes were not, and ${marked} were`)
  assert.is(after.last, after.marked)
})

test('nothing is left in the firewall once no package is on its way', async () => {
  await until('the rules to be gone', isClean)
})

/** Has a transfer go on for as long as it may. */
async function send(): Promise<void> {
  to.fetch([await from.make(SIZE)], [from]).catch(() => {})
  await until('rules', async () => !(await isClean()))
}

test('what a crash left in the firewall goes when the AP starts again', async () => {
  await send()
  from.kill()
  assert.not(await isClean())
  from = await from.reborn()
  // Nobody finds it yet, so it has nothing else to do there.
  await until('the rules to be gone', isClean)
  await from.know(to)
  await to.know(from)
})

test('nothing is left in the firewall by an AP that stops while it sends', async () => {
  await send()
  from.stop()
  await until('the rules to be gone', isClean)
})

effort.run()
