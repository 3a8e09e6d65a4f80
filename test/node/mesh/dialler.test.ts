import { createServer, type Server } from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Dialler } from '../../../node/mesh/dialler.js'
import { apId } from '../../../protocols/bytes.js'
import { apSigner } from '../../../protocols/keys.js'
import { freePort } from '../../support/scratch.js'
import { until } from '../../support/until.js'
import { failureOf, seed } from '../realm.js'
import { type Peer, Peers } from './support.js'

const peers = new Peers()
const { realm } = peers
const servers: Server[] = []
test.after(async () => {
  for (const server of servers) server.close()
  await peers.stop()
})

/** An address where someone listens, and never says a word. Counts who came. */
async function silence(): Promise<{ address: string; visits: () => number }> {
  const port = await freePort()
  let visits = 0
  const server = createServer((socket) => {
    visits++
    socket.on('error', () => {})
  })
  servers.push(server)
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
  return { address: `/ip4/127.0.0.1/tcp/${port}`, visits: () => visits }
}

test('an AP that comes back on its address is found again', async () => {
  const port = await freePort()
  const ownSeed = seed()
  const [a] = (await peers.members(1)) as [Peer]
  const records = [realm.grant, realm.member(apSigner(ownSeed), 'returns')]
  await a.ledgerStore.accept(records.map(({ bytes }) => bytes))
  const options = {
    seed: ownSeed,
    listen: `/ip4/127.0.0.1/tcp/${port}`,
    records: [...a.ledgerStore.ledger.records()],
  }
  let b = await peers.add(options)
  await a.meet(b)
  for (let round = 0; round < 2; round++) {
    peers.all.splice(peers.all.indexOf(b), 1)
    await b.stop()
    await until('a to notice', () => !a.isConnectedTo(b) && a.lost.length === round + 1)
    await assertRefused(port)
    b = await peers.add(options)
    await until('a to be connected again', () => a.isConnectedTo(b) && b.isConnectedTo(a), { deadlineMs: 25_000 })
    assert.is(a.connects.length, round + 2)
  }
})

/** Resolves when a dialler has looked at all it knows. */
async function hadItsTurn(dialler: Dialler): Promise<void> {
  const tell = Reflect.get(dialler, 'tell') as () => void
  let turns = 0
  Reflect.set(dialler, 'tell', () => {
    turns++
    tell.call(dialler)
  })
  await until('the dialler to have had its turn', () => turns > 1)
  Reflect.deleteProperty(dialler, 'tell')
}

const assertRefused = (port: number): Promise<void> =>
  until(`port ${port} to be closed`, async () => {
    const server = createServer()
    await new Promise<void>((resolve, reject) => server.once('error', reject).listen(port, '127.0.0.1', resolve))
    await new Promise((resolve) => server.close(resolve))
    return true
  }).then(() => {})

test('two APs that find each other at the same time end up with one connection for both', async () => {
  const [a, b] = (await peers.members(2)) as [Peer, Peer]
  await a.meet(b)
  assert.is(a.network.host.getConnections(b.network.host.peerId).length, 1)
})

test('who is no member is not dialled, and is as soon as it is one', async () => {
  const [a] = (await peers.members(1)) as [Peer]
  const b = await peers.add()
  a.network.dialler.learn(b.id, b.addresses)
  const c = await silence()
  const other = apSigner(seed())
  a.network.dialler.learn(apId(other.publicKey), [c.address])
  await a.ledgerStore.accept([realm.member(b.signer, 'b').bytes])
  await until('a to dial b', () => a.network.dialler.connected().has(b.id))
  assert.is(c.visits(), 0)
})

test('addresses that do not answer keep an AP from being found for a while only', async () => {
  const [a, b] = (await peers.members(2)) as [Peer, Peer]
  const dead = await Promise.all([silence(), silence(), silence()])
  // More than can be tried within the deadline of one attempt come before the good one.
  const order = [...dead.map(({ address }) => address), ...b.addresses]
  a.network.dialler.learn(b.id, order)
  await until('a to find b', () => a.isConnectedTo(b), { deadlineMs: 30_000 })
  assert.ok(dead.some(({ visits }) => visits() > 0))
})

test('addresses are learnt, newest first, and those that mean nothing are left out', async () => {
  const [a, b] = (await peers.members(2)) as [Peer, Peer]
  const { dialler } = a.network
  dialler.learn(b.id, [
    'nonsense',
    '/ip4/999.0.0.1/tcp/1',
    '/ip4/127.0.0.1/udp/1',
    '/ip4/127.0.0.1/tcp/99999',
    `/ip4/127.0.0.1/tcp/1/p2p/${a.id}/p2p-circuit`,
    '',
  ])
  assert.equal(dialler.addresses()[b.id] ?? [], [])
  dialler.learn(b.id, [`/ip4/127.0.0.1/tcp/1/p2p/${b.id}`])
  dialler.learn(b.id, ['/ip4/127.0.0.1/tcp/2', '/ip4/127.0.0.1/tcp/1'])
  assert.equal(dialler.addresses()[b.id], ['/ip4/127.0.0.1/tcp/2', '/ip4/127.0.0.1/tcp/1'])
  for (let port = 100; port < 200; port++) dialler.learn(b.id, [`/ip4/127.0.0.1/tcp/${port}`])
  assert.is(dialler.addresses()[b.id]!.length, 16)
  assert.is(dialler.addresses()[b.id]![0], '/ip4/127.0.0.1/tcp/199')
})

test('ids that are none are left out, and an AP never dials itself', async () => {
  const [a] = (await peers.members(1)) as [Peer]
  const { dialler } = a.network
  for (const id of ['', 'nonsense', '12D3KooW', 'constructor', a.id]) dialler.learn(id, a.addresses)
  assert.equal(dialler.addresses(), {})
  // Under the id of another one it would reach itself: it notices, and goes on.
  const other = apSigner(seed())
  await a.ledgerStore.accept([realm.member(other, 'other').bytes])
  dialler.learn(apId(other.publicKey), a.addresses)
  await failureOf(dialler.connect(apId(other.publicKey), AbortSignal.timeout(3000)))
  assert.is(a.network.host.getConnections().length, 0)
})

test('whoever announces peers without end fills neither memory nor disk', async () => {
  const [a, b] = (await peers.members(2)) as [Peer, Peer]
  await a.meet(b)
  await until('the address of b to be told', () => a.saidAddresses.at(-1)?.[b.id])
  const told = a.saidAddresses.length
  const { dialler } = a.network
  for (let i = 0; i < 1500; i++) dialler.learn(apId(seed()), [`/ip4/127.0.0.1/tcp/${1 + i}`])
  const late = await peers.add()
  late.network.dialler.learn(a.id, a.addresses)
  await until('one more stranger to be there', () => dialler.connected().has(late.id))
  assert.ok(Object.keys(dialler.addresses()).length <= 1000)
  assert.ok(b.id in dialler.addresses(), 'members are kept')
  await hadItsTurn(dialler)
  assert.is(a.saidAddresses.length, told)
})

test('the address of one that becomes a member later is kept, though nothing new is heard of it', async () => {
  const [a] = (await peers.members(1)) as [Peer]
  const other = apSigner(seed())
  const id = apId(other.publicKey)
  const { dialler } = a.network
  dialler.learn(id, ['/ip4/127.0.0.1/tcp/9'])
  await hadItsTurn(dialler)
  assert.not(a.saidAddresses.some((said) => id in said))
  await a.ledgerStore.accept([realm.member(other, 'other').bytes])
  await until('its address to be told', () => a.saidAddresses.at(-1)?.[id])
})

test('an AP keeps its connection while only bulk is left of the ones it had', async () => {
  const [a, b] = (await peers.members(2)) as [Peer, Peer]
  await a.meet(b)
  const { setBulk, connectionTo } = await import('../../../node/mesh/host.js')
  const [dialling, other] = a.network.host.getConnections()[0]!.direction === 'outbound' ? [a, b] : [b, a]
  const bulk = await dialling.network.connectForBulk(other.id, AbortSignal.timeout(5000))
  setBulk(bulk)
  const main = connectionTo(dialling.network.host, other.id)!
  assert.is.not(main.id, bulk.id)
  const synced = dialling.synced.length
  await main.close()
  await until('a new connection beside the one for bulk', () => {
    const now = connectionTo(dialling.network.host, other.id)
    return now !== undefined && now.id !== main.id && dialling.isConnectedTo(other)
  })
  assert.is(bulk.status, 'open')
  assert.ok(dialling.lost.includes(other.id))
  await until('the two to sync again', () => dialling.synced.length > synced)
})

test.run()
