// Pulses and probes by datagram, between peers on loopback, and between APs on hosts of their own whose networks drop UDP or TCP.
import { createSocket, type Socket } from 'node:dgram'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { connectionTo } from '../../../node/mesh/host.js'
import { apKey } from '../../../protocols/bytes.js'
import { encode } from '../../../protocols/codec.js'
import { type DatagramMessage, sealDatagram } from '../../../protocols/datagram.js'
import { apSigner } from '../../../protocols/keys.js'
import { TIMING } from '../../../protocols/roster.js'
import { type Host, makeHosts, whyNoHosts } from '../../support/hosts.js'
import { eventually, on, TestMesh } from '../../support/mesh.js'
import { until } from '../../support/until.js'
import { seed } from '../realm.js'
import { type Peer, Peers } from './support.js'

const test = suite('datagrams')
const peers = new Peers()
const { realm } = peers
const [a, b, c] = (await peers.members(3)) as [Peer, Peer, Peer]
await Promise.all([a.meet(b), a.meet(c), b.meet(c)])

/** Whatever a sends by UDP, as it goes out. */
const overheard: Uint8Array[] = []
const outside = createSocket('udp4')
test.after(async () => {
  outside.close()
  await peers.stop()
})

const datagramsOf = (peer: Peer) => Reflect.get(peer.network, 'datagrams')
const socketOf = (peer: Peer): Socket => Reflect.get(datagramsOf(peer), 'socket')
const stateOf = (peer: Peer, of: Peer) => Reflect.get(datagramsOf(peer), 'peers').get(of.id)
const keysHeldBy = (peer: Peer): number => Reflect.get(datagramsOf(peer), 'given').size

const throwAt = (peer: Peer, bytes: Uint8Array): Promise<void> =>
  new Promise((resolve) => outside.send(bytes, socketOf(peer).address().port, '127.0.0.1', () => resolve()))

const pulsesAt = (peer: Peer, from = a) => peer.pulses.filter((pulse) => pulse.from === from.id)

/** Pulses of a, and of b, which watches it and is watched by it, while `meanwhile` runs. */
async function pulsing(meanwhile: () => Promise<unknown>, [one, two] = [a, b], every = 100): Promise<void> {
  const timer = setInterval(() => {
    one.network.sendPulses([two.id])
    two.network.sendPulses([one.id])
  }, every)
  await meanwhile().finally(() => clearInterval(timer))
}

const more = async (pulses: number, at = b, from = a): Promise<void> => {
  const before = pulsesAt(at, from).length
  await until(`${pulses} more pulses`, () => pulsesAt(at, from).length >= before + pulses, { everyMs: 10 })
}

/** Ends every connection between two peers, and keeps them from dialling each other while `meanwhile` runs. */
async function apart(one: Peer, two: Peer, meanwhile: () => Promise<unknown>): Promise<void> {
  for (const { network } of [one, two]) network.dialler.stop()
  one.network.hangUp(two.id)
  await until('both to be without a connection', () => !one.isConnectedTo(two) && !two.isConnectedTo(one))
  await meanwhile()
  assert.not(one.isConnectedTo(two))
  for (const { network } of [one, two]) network.dialler.start()
  await until('the two to be connected again', () => one.isConnectedTo(two) && two.isConnectedTo(one))
}

/** Waits until what two peers send each other passes, and they know. */
const passing = (one = a, two = b) =>
  pulsing(
    () =>
      until(
        'datagrams to pass both ways',
        () => stateOf(one, two)?.isProven && stateOf(two, one)?.isProven && stateOf(one, two).used !== undefined,
      ),
    [one, two],
  )

test('pulses and probes need no connection once keys were given, and the two find each other again', async () => {
  await passing()
  await apart(a, b, () =>
    pulsing(async () => {
      await more(4)
      await more(1, a, b)
      assert.equal(await b.network.probes.direct(a.id), { boot: 1, sequence: a.sequence })
    }),
  )
})

test('once a watcher says that it hears, nothing goes by stream any more', async () => {
  await passing()
  const pulses = Reflect.get(a.network, 'pulses')
  const byStream: string[] = []
  const real = pulses.sendByStream
  pulses.sendByStream = (ap: string, message: object) => byStream.push(ap) && real.call(pulses, ap, message)
  const steady = async () => {
    await more(2)
    const before = byStream.length
    await more(3)
    assert.is(byStream.length, before)
  }
  await pulsing(steady, [a, b], TIMING.pulse)
  delete pulses.sendByStream
})

test('a network that starts to drop UDP costs a pulse some time, in whichever direction it does', async () => {
  for (const deaf of [a, b]) {
    await passing()
    const heard = pulsesAt(b).length
    const dropped = async () => {
      await more(2)
      deaf.blockDatagrams()
      await more(4)
    }
    await pulsing(dropped, [a, b], TIMING.pulse)
    const times = pulsesAt(b).slice(heard)
    const gaps = times.slice(1).map(({ at }, i) => at - times[i]!.at)
    assert.ok(Math.max(...gaps) < 2 * TIMING.pulse, `gaps of ${gaps.map(Math.round)} ms`)
    const numbers = times.map(({ sign }) => sign.sequence)
    assert.is(new Set(numbers).size, numbers.length, 'a pulse that came both ways counts once')
    deaf.blockDatagrams(false)
  }
})

test('neither replays nor garbage nor what is sealed with another key are pulses, or move anyone', async () => {
  await passing(b, c)
  const socket = socketOf(a)
  const { send } = socket
  // biome-ignore lint/suspicious/noExplicitAny: whichever of its many forms
  socket.send = (...args: any[]) => {
    overheard.push(Uint8Array.from(args[0]))
    // biome-ignore lint/suspicious/noExplicitAny: as above
    return (send as any).apply(socket, args)
  }
  await passing()
  await pulsing(() => more(3))
  assert.ok(overheard.length > 3)
  // Whatever comes from here on comes from outside: what the others had sent is there before the bytes that follow it.
  for (const peer of [a, c]) peer.blockDatagrams()
  const last = new Promise<void>((resolve) => {
    socketOf(b).on('message', (_, { port }) => port === outside.address().port && resolve())
  })
  await throwAt(b, new Uint8Array(1))
  await last
  const [before, endpoint] = [b.pulses.length, stateOf(b, a).endpoint]
  const { id, key } = stateOf(b, c).given[0]
  const forged = (key: Uint8Array, id: number, sequence: number) =>
    sealDatagram(id, key, 1000, encode(['pulse', { boot: 1, sequence, ledger: new Uint8Array(16) }]))
  const handlers = Reflect.get(datagramsOf(b), 'handlers')
  const taken: string[] = []
  const { onDatagram } = handlers
  handlers.onDatagram = (from: string, message: DatagramMessage) => {
    taken.push(from)
    onDatagram(from, message)
  }
  const hostile = [
    ...overheard,
    ...overheard.map((bytes) => bytes.map((byte, i) => (i === bytes.length - 1 ? byte ^ 1 : byte))),
    ...[0, 1, 10, 26, 27, 200, 201, 60_000].map((length) => new Uint8Array(length)),
    forged(seed(), stateOf(b, a).given[0].id, 1e6),
    forged(seed(), id, 1e6),
    sealDatagram(id, key, 1001, encode('no message')),
    sealDatagram(id, key, 1002, Uint8Array.of(0xff)),
  ]
  for (const bytes of hostile) await throwAt(b, bytes)
  await throwAt(b, forged(key, id, 1e6)) // c's key, and so c's pulse
  await until('what c could have sent', () => b.pulses.length > before)
  assert.equal(
    b.pulses.slice(before).map(({ from }) => from),
    [c.id],
  )
  assert.equal(taken, [c.id], 'nor does anything follow from them')
  handlers.onDatagram = onDatagram
  for (const peer of [a, c]) peer.blockDatagrams(false)
  assert.equal(stateOf(b, a).endpoint, endpoint)
  assert.equal(b.failures.length, 2, 'told of what c said wrong')
  c.sequence = 1e6
  await pulsing(() => more(2))
})

test('an AP that moved, or sits behind NAT, is where its datagrams come from', async () => {
  await passing()
  const { sealing } = stateOf(a, b)
  const beat = { boot: 1, sequence: ++a.sequence, ledger: new Uint8Array(16) }
  const heard = new Promise<void>((resolve) => outside.once('message', () => resolve()))
  await throwAt(b, sealDatagram(sealing.id, sealing.key, sealing.counter++, encode(['pulse', beat])))
  await heard
  assert.is(stateOf(b, a).endpoint.port, outside.address().port)
  await passing()
  await pulsing(() => more(2))
  assert.is(stateOf(b, a).endpoint.port, socketOf(a).address().port, 'and back')
})

test('a member that asks for keys without end gets three at most that count, and floods do not silence others', async () => {
  await passing()
  for (let i = 0; i < 20; i++) {
    Object.assign(stateOf(a, b), { renewAt: 0 })
    a.network.sendPulses([b.id])
    await until('keys to be agreed', () => stateOf(a, b).renewAt > 0 && !stateOf(a, b).isRenewing, { everyMs: 2 })
  }
  assert.ok(keysHeldBy(b) <= 3 * 2, `${keysHeldBy(b)} keys`)
  const before = pulsesAt(b).length
  const { sealing } = stateOf(a, b)
  let sequence = a.sequence
  for (let i = 0; i < 2000; i++) {
    const beat = { boot: 1, sequence: ++sequence, ledger: new Uint8Array(16) }
    await throwAt(b, sealDatagram(sealing.id, sealing.key, sealing.counter++, encode(['pulse', beat])))
    if (i % 100 === 0) await throwAt(b, new Uint8Array(100))
  }
  a.sequence = sequence
  await pulsing(() => more(1))
  assert.ok(pulsesAt(b).length - before < 1000, `${pulsesAt(b).length - before} of 2000 were looked at`)
  await pulsing(() => more(2, b, c), [c, b])
})

test('after a restart of either side keys are given anew', async () => {
  const own = seed()
  const records = a.ledgerStore.ledger.records()
  const member = (listen?: string) =>
    peers.add({ seed: own, records: [...records, entry], listen, peers: { [a.id]: a.addresses } })
  const entry = realm.member(apSigner(own), 'restarted')
  await a.ledgerStore.accept([entry.bytes])
  let other = await member()
  await other.meet(a)
  await passing(a, other)
  peers.all.splice(peers.all.indexOf(other), 1)
  await other.stop()
  const sequence = other.sequence
  other = await member()
  other.sequence = sequence
  await other.meet(a)
  await passing(a, other)
  await apart(a, other, () => pulsing(() => more(3, other), [a, other]))
})

test('where datagrams pass, a connection that is dead is found nevertheless', async () => {
  await passing()
  const connection = connectionTo(a.network.host, b.id)!
  // As if nothing came back: of what TCP sends nobody else knows.
  connection.newStream = (_protocols, options) =>
    new Promise((_, reject) => options!.signal!.addEventListener('abort', () => reject(new Error('timed out'))))
  Object.assign(stateOf(a, b), { renewAt: 0 })
  await pulsing(() => until('a to give the connection up', () => connection.status !== 'open'))
  await until('the two to be connected again', () => a.isConnectedTo(b) && b.isConnectedTo(a))
})

test('who is a member no more is not heard', async () => {
  await passing(a, c)
  const forget = realm.sign(realm.owner, 'forget', apKey(c.id), {})
  for (const peer of [a, b]) await peer.ledgerStore.accept([forget.bytes])
  assert.not(a.isMember(apKey(c.id)))
  const { sequence } = c
  const before = pulsesAt(a, c).length
  await pulsing(() => until('keys for it to be gone', () => stateOf(a, c) === undefined), [c, a])
  await pulsing(() => until('a pulse more', () => c.sequence > sequence + 3), [c, a])
  assert.is(pulsesAt(a, c).length, before)
})

test.run()

const obstacle = whyNoHosts()
const apartSuite = suite(`datagrams between hosts${obstacle ? ` (skipped: ${obstacle})` : ''}`)
// Where the whole check runs, a machine that cannot do this is a failure.
const testOnHosts = obstacle && !process.env.CI ? apartSuite.skip : apartSuite

testOnHosts('APs whose network drops UDP, or then TCP alone, do not suspect each other', async () => {
  const lan = await makeHosts(2)
  const mesh = new TestMesh()
  try {
    const [one, two] = lan.hosts as [Host, Host]
    await mesh.add('ap1', on(one))
    await mesh.add('ap2', on(two))
    await mesh.settled()
    for (const protocol of ['udp', 'tcp'] as const) {
      lan.heal()
      lan.drop(protocol)
      const since = Date.now()
      const doubts = async () =>
        (await Promise.all(mesh.aps.map((ap) => ap.events())))
          .flat()
          .filter(({ kind, at }) => ['suspected', 'accused', 'dead'].includes(kind) && Date.parse(at) > since)
      let silence = 0
      await eventually(`3 s of pulses without ${protocol}`, async () => {
        const rows = (await Promise.all(mesh.aps.map((ap) => ap.aps()))).flat()
        const heard = rows.map(({ lastHeard }) => Date.parse(lastHeard!))
        silence = Math.max(silence, Date.now() - Math.min(...heard))
        return Math.min(...heard) > since + 3000
      })
      assert.ok(silence < TIMING.suspect, `${silence} ms of silence without ${protocol}`)
      assert.equal(await doubts(), [])
    }
  } finally {
    await mesh.close()
    lan.close()
  }
})

apartSuite.run()
