// How APs on one LAN find each other, and lose each other for a while, with no address given to anyone: each `dropmesh up`
// has a network of its own, and multicast DNS is all there is.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { readTicket, writeTicket } from '../../protocols/ticket.js'
import { type Host, type Hosts, makeHosts, whyNoHosts } from '../support/hosts.js'
import { eventually, on, type TestAp, TestMesh } from '../support/mesh.js'

const obstacle = whyNoHosts()
const discovery = suite(`discovery${obstacle ? ` (skipped: ${obstacle})` : ''}`)
// Where the whole check runs, a machine that cannot do this is a failure.
const test = obstacle && !process.env.CI ? discovery.skip : discovery

/** The dialler waits 15 s at most, a quarter more by chance, and each dial has 5 s. */
const RECONNECTED = 30_000

const mesh = new TestMesh()
const strangers = [new TestMesh(), new TestMesh()] as const
let lan: Hosts
let founder: TestAp
let second: TestAp
let third: TestAp

discovery.before(async () => {
  if (obstacle) return
  lan = await makeHosts(4)
})
discovery.after(() => lan?.close())

const hostOf = (i: number): Host => lan.hosts[i - 1]!

const peers = async (ap: TestAp): Promise<number> => (await ap.status()).peers

const allConnected = (deadlineMs: number) =>
  eventually(
    'each to be connected to both others',
    async () => (await Promise.all(mesh.aps.map(peers))).every((n) => n === 2),
    { deadlineMs },
  )

/** How `ap` saw another one fare since a moment. */
async function told(ap: TestAp, of: TestAp, since: string): Promise<string[]> {
  const events = await ap.events()
  const fates = ['suspected', 'dead', 'alive']
  return events
    .filter((event) => event.at >= since && event.ap === of.id && fates.includes(event.kind))
    .map(({ kind }) => kind)
}

test('an AP listens on TCP port 4010, a second one on its host on another that is free, and neither needs to be told', async () => {
  const options = { ...on(hostOf(4)), listen: null }
  const [first, other] = [await strangers[0].add('first', options), await strangers[1].add('other', options)]
  const portsOf = async (ap: TestAp) => (await ap.status()).addresses.map((address) => Number(address.split('/')[4]))
  assert.equal([...new Set(await portsOf(first))], [4010])
  const [port, ...more] = [...new Set(await portsOf(other))]
  assert.is(more.length, 0)
  assert.is.not(port, 4010)
  const { stdout } = await hostOf(4).run(['ss', '-tlnH'])
  for (const at of [4010, port]) assert.match(stdout, `0.0.0.0:${at} `)
})

test('APs whose tickets lead nowhere find the founder, and each other, by multicast DNS', async () => {
  founder = await mesh.add('founder', { ...on(hostOf(1)), listen: null })
  const outdated = await mesh.invite(founder)
  await founder.stop()
  await founder.start(['--listen', '/ip4/0.0.0.0/tcp/4999'])
  const { addresses } = readTicket(outdated)
  assert.ok(addresses.length > 0 && addresses.every((address) => address.includes('/tcp/4010/')))
  const silent = writeTicket({ ...readTicket(await mesh.invite(founder)), addresses: [] })

  second = await mesh.add('second', { ...on(hostOf(2)), join: outdated })
  third = await mesh.add('third', { ...on(hostOf(3)), join: silent })
  await mesh.settled()
  await allConnected(RECONNECTED)
})

test('an AP whose cable is pulled is suspected and declared dead, suspects the others, and is back by itself', async () => {
  const since = new Date().toISOString()
  lan.cut(hostOf(3))
  for (const ap of [founder, second]) {
    await eventually(`${ap.name} to declare it dead`, async () => (await told(ap, third, since)).includes('dead'))
  }
  // Long enough for the connections to be given up on both sides, so that TCP alone will not bring them back.
  await eventually(
    'all its connections to be lost',
    async () => (await peers(third)) === 0 && (await peers(founder)) === 1,
  )
  lan.heal(hostOf(3))
  await allConnected(RECONNECTED)

  const isAlive = async (ap: TestAp, of: TestAp) => (await told(ap, of, since)).at(-1) === 'alive'
  for (const ap of [founder, second]) {
    await eventually(`${ap.name} to tell that it lives`, () => isAlive(ap, third))
    await eventually(`it to tell that ${ap.name} lives`, () => isAlive(third, ap))
    const fates = await told(ap, third, since)
    assert.equal(fates.slice(0, 3), ['suspected', 'dead', 'alive'], ap.name)
    assert.is((await told(third, ap, since))[0], 'suspected', ap.name)
  }
})

test('an AP that restarts finds the others though all of them, itself included, have other ports by now', async () => {
  await Promise.all(mesh.aps.map((ap) => ap.stop()))
  const moved = ['--listen', '/ip4/0.0.0.0/tcp/0']
  await Promise.all([founder.start(moved), second.start()])
  await third.start()
  await allConnected(RECONNECTED)
  await mesh.settled()
})

test('an AP that starts while its cable is out finds the others when it is in, though they have other ports by then', async () => {
  const moved = ['--listen', '/ip4/0.0.0.0/tcp/0']
  await Promise.all(mesh.aps.map((ap) => ap.stop()))
  lan.cut(hostOf(3))
  await Promise.all([founder.start(moved), second.start(moved), third.start(moved)])
  await eventually('the others to be connected', async () => (await peers(founder)) === 1)
  lan.heal(hostOf(3))
  await allConnected(RECONNECTED)
})

test('meshes on one LAN hear each other and never connect', async () => {
  for (const stranger of strangers) {
    const { members, peers } = await stranger.aps[0]!.status()
    assert.equal({ members, peers }, { members: 1, peers: 0 })
  }
  const { stdout } = await hostOf(4).run(['cat', '/proc/net/snmp'])
  const counter = (protocol: string, name: string) => {
    const [names, values] = stdout
      .split('\n')
      .filter((line) => line.startsWith(`${protocol}:`))
      .map((line) => line.split(' '))
    return Number(values![names!.indexOf(name)])
  }
  assert.ok(counter('Udp', 'InDatagrams') > 10, 'they did hear multicasts')
  // Of all the time since its network exists.
  assert.is(counter('Tcp', 'PassiveOpens'), 0, 'nobody connected to them')
  assert.is(counter('Tcp', 'ActiveOpens'), 0, 'they connected to nobody')
})

discovery.run()
