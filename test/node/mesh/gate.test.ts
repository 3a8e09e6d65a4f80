// Who may connect, how often strangers may ask, and how much a member may say: a real host, and sockets and hosts of others.
import { connect, type Socket } from 'node:net'
import type { Connection } from '@libp2p/interface'
import { multiaddr } from '@multiformats/multiaddr'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { exchange, Frames } from '../../../node/mesh/frames.js'
import { createHost, type Host } from '../../../node/mesh/host.js'
import { concat } from '../../../protocols/bytes.js'
import { apSigner } from '../../../protocols/keys.js'
import { protocolIds } from '../../../protocols/wire.js'
import { until } from '../../support/until.js'
import { seed } from '../realm.js'
import { type Peer, Peers } from './support.js'

const peers = new Peers()
const [a, b] = (await peers.members(2)) as [Peer, Peer]
const ids = protocolIds(peers.realm.text)
const hosts: Host[] = []
const sockets: Socket[] = []
test.after(async () => {
  for (const socket of sockets) socket.destroy()
  await Promise.all([peers.stop(), ...hosts.map((host) => host.stop())])
})
await a.meet(b)

async function stranger(own = seed()): Promise<Host> {
  const host = await createHost({
    ...{ seed: own, mesh: peers.realm.text, listen: [], mdns: false, bootstrap: [], isMember: () => true },
  })
  await host.start()
  hosts.push(host)
  return host
}

const dial = (host: Host): Promise<Connection> =>
  host.dial(multiaddr(a.addresses[0]!), { force: true, signal: AbortSignal.timeout(5000) })

const port = Number(/tcp\/(\d+)/.exec(a.addresses[0]!)![1])

function knock(localAddress: string): Socket {
  const socket = connect({ host: '127.0.0.1', port, localAddress })
  socket.on('error', () => {})
  sockets.push(socket)
  return socket
}

const isOver = ({ closed, destroyed }: Socket): boolean => closed || destroyed

test('of one address few strangers are let near at a time, and others and members are still', async () => {
  const here = await Promise.all(Array.from({ length: 20 }, stranger))
  const connections = await Promise.all(here.map((host) => dial(host).catch(() => undefined)))
  const open = () => connections.filter((connection) => connection?.status === 'open').length
  await until('those beyond sixteen to be sent away', () => open() === 16)
  assert.ok(a.isConnectedTo(b))
  a.network.hangUp(b.id)
  await until('the member to be back', () => a.isConnectedTo(b) && b.isConnectedTo(a))
  for (const host of hosts.splice(0)) await host.stop()
})

test('handshakes that go nowhere are few, of one address and of all, and end soon; members come through', async () => {
  const began = performance.now()
  for (let i = 0; i < 60; i++) knock('127.0.0.9')
  const silent = () => sockets.filter((socket) => !isOver(socket)).length
  await until('those of one address to be cut to 32', () => silent() <= 32)
  for (let i = 0; i < 60; i++) knock(`127.0.0.${10 + i}`)
  await until('those of many to be cut to as many', () => silent() <= 32)
  a.network.hangUp(b.id)
  await until('the member to be back', () => a.isConnectedTo(b) && b.isConnectedTo(a))
  await until('the silent ones to be closed', () => silent() === 0)
  assert.ok(performance.now() - began < 9000)
})

test('a stranger that asks again and again is heard some sixty times, and then shut out by its address', async () => {
  const host = await stranger()
  let answers = 0
  let connection = await dial(host)
  const ask = async () => {
    if (connection.status !== 'open') connection = await dial(host)
    const stream = await connection.newStream(ids.join, { signal: AbortSignal.timeout(2000) })
    await exchange(stream, async () => {
      const frames = new Frames(stream, 4096, 2000)
      await frames.write(['join', new Uint8Array(10), new Uint8Array(10)])
      await frames.readBytes()
      answers++
    })
  }
  await until(
    'it to be shut out',
    async () => {
      await ask().catch(() => {})
      return a.verdicts.some(({ kind, who }) => kind === 'shut-out' && who === '127.0.0.1')
    },
    { everyMs: 1 },
  )
  assert.ok(answers >= 60 && answers < 150, `${answers} answers`)
  assert.is(a.verdicts.length, 2, 'it is told when it is not heard, and when it is shut out')
  assert.is(connection.status === 'open', false)
  assert.ok(a.isConnectedTo(b), 'a member at the same address is another matter')
})

test('a stranger that sends more than a request could take is sent away', async () => {
  const other = (await peers.members(1))[0]!
  const host = await stranger()
  const connection = await host.dial(multiaddr(other.addresses[0]!))
  const stream = await connection.newStream(ids.join)
  stream.send(new Uint8Array(250_000).fill(0xff))
  await until('it to be gone', () => connection.status !== 'open')
})

test('libp2p keeps nothing of strangers that came and went', async () => {
  const other = (await peers.members(1))[0]!
  const { host } = other.network
  const known = async () => (await host.peerStore.all()).length
  const before = await known()
  for (let i = 0; i < 5; i++) {
    const one = await stranger()
    const connection = await one.dial(multiaddr(other.addresses[0]!))
    await (await connection.newStream(ids.join)).close()
    await connection.close()
  }
  await until('them to be forgotten', async () => (await known()) <= before)
})

async function villain(name: string): Promise<{ id: string; connection: Connection }> {
  const own = seed()
  await a.ledgerStore.accept([peers.realm.member(apSigner(own), name).bytes])
  const host = await stranger(own)
  return { id: host.peerId.toString(), connection: await dial(host) }
}

/** A message of gossipsub that says nothing in 2 MiB: a field that nobody knows. */
const LONG = concat(Uint8Array.of(0x7a, 0x80, 0x80, 0x80, 0x01), new Uint8Array(2 * 1024 ** 2))

/** What a member may do, and not without end: what it is named for, and how it does more of it. */
const floods: Record<string, (connection: Connection) => Promise<unknown>> = {
  'too many bytes': async (connection) => {
    const stream = await connection.newStream('/meshsub/1.2.0')
    const frames = new Frames(stream, LONG.length)
    for (;;) await frames.writeBytes(LONG)
  },
  'too many streams': async (connection) => {
    const open = () => connection.newStream('/nothing').catch(() => {})
    for (let i = 0; i < 200 && connection.status === 'open'; i++) {
      await Promise.all(Array.from({ length: 16 }, open))
      await new Promise(setImmediate)
    }
  },
}

for (const [reason, flood] of Object.entries(floods)) {
  test(`${reason} of a member: it is not heard any more, and named for that, and another member is`, async () => {
    const { id, connection } = await villain('flooder')
    const flooding = flood(connection).catch(() => {}) // until it is shut out
    const verdict = await until('it to be named', () => a.verdicts.find(({ who }) => who === id), {
      deadlineMs: 30_000,
    })
    assert.equal([verdict.kind, verdict.reason], ['throttled', reason])
    assert.ok(a.isConnectedTo(b))
    assert.type(await b.network.probes.direct(a.id), 'object')
    connection.abort(new Error('enough'))
    await flooding
  })
}

test.run()
