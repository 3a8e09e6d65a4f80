import { setImmediate as turn } from 'node:timers/promises'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Probed } from '../../../node/mesh/liveness.js'
import { TIMING } from '../../../protocols/roster.js'
import { until } from '../../support/until.js'
import { type Peer, Peers } from './support.js'

const peers = new Peers()
const { realm } = peers
const [a, b, c, d] = (await peers.members(4)) as [Peer, Peer, Peer, Peer]
await Promise.all([a.meet(b), a.meet(c), a.meet(d), b.meet(c)])
test.after(() => peers.stop())

const pulsesAt = (peer: Peer) => peer.pulses.filter(({ from }) => from === a.id)

const pulseStreams = () =>
  a.network.host
    .getConnections(b.network.host.peerId)
    .flatMap(({ streams }) => streams)
    .filter(({ protocol, direction }) => protocol.endsWith('/pulse') && direction === 'outbound')

/** Pulses as an AP does while `meanwhile` runs. */
async function pulsing(watchers: readonly Peer[], meanwhile: () => Promise<unknown>): Promise<void> {
  const ids = watchers.map(({ id }) => id)
  const timer = setInterval(() => a.network.sendPulses(ids), TIMING.pulse)
  await meanwhile().finally(() => clearInterval(timer))
}

test('watchers hear a pulse about twice a second, and nobody else hears any', async () => {
  await pulsing([b, c], async () => {
    await until('the first ones', () => pulsesAt(b).length > 0 && pulsesAt(c).length > 0)
    const [began, before] = [performance.now(), pulsesAt(b).length]
    await until('six more', () => pulsesAt(b).length >= before + 6, { everyMs: 5 })
    const each = (performance.now() - began) / 6
    assert.ok(each > 400 && each < 700, `a pulse each ${each} ms`)
  })
  for (const watcher of [b, c]) {
    const numbers = pulsesAt(watcher).map(({ sign }) => sign.sequence)
    assert.equal(
      numbers,
      [...numbers].sort((x, y) => x - y),
      'in order',
    )
    assert.is(new Set(numbers).size, numbers.length)
  }
  assert.is(d.pulses.length, 0)
})

test('who watches no more hears no more', async () => {
  await pulsing([b, c], () => until('c to hear', () => pulsesAt(c).length > 0))
  await pulsing([b], async () => {
    const streams = () =>
      c.network.host
        .getConnections(a.network.host.peerId)
        .flatMap(({ streams }) => streams.map(({ protocol }) => protocol))
    await until('the stream to c to be gone', () => !streams().some((protocol) => protocol.endsWith('/pulse')))
    const [before, atB] = [pulsesAt(c).length, pulsesAt(b).length]
    await until('b to have heard more', () => pulsesAt(b).length > atB + 2)
    assert.is(pulsesAt(c).length, before)
  })
})

test('pulses go on after the connection broke and came back', async () => {
  await pulsing([b], async () => {
    const began = pulsesAt(b).length
    await until('b to hear', () => pulsesAt(b).length > began)
    for (const connection of a.network.host.getConnections(b.network.host.peerId)) connection.abort(new Error('cut'))
    await until('both to notice', () => a.lost.includes(b.id) && b.lost.includes(a.id))
    const before = pulsesAt(b).length
    await until('b to hear again', () => pulsesAt(b).length > before + 1)
  })
})

test('a watcher that does not read holds up neither the others nor itself', async () => {
  a.blockDatagrams()
  await pulsing([b, c], () => until('pulses by stream', () => pulseStreams().length === 1))
  const before = pulsesAt(c).length
  for (const stream of pulseStreams()) {
    // As if its window were used up for ever.
    stream.send = () => false
    stream.writableNeedsDrain = true
  }
  await pulsing([b, c], async () => {
    const atB = pulsesAt(b).length
    await until('c to hear', () => pulsesAt(c).length > before + 3)
    await until('b to hear on a new stream', () => pulsesAt(b).length > atB)
  })
  a.blockDatagrams(false)
})

test('what a pulse says of the ledger leads to a sync where it stays different', async () => {
  const record = realm.record()
  await a.ledgerStore.accept([record.bytes]) // and nobody gossips
  await pulsing([b], () => until('b to have it', () => b.has(record)))
})

test('a probe is answered with a sign of life, over the connection that is there or a new one', async () => {
  const sign = await b.network.probes.direct(a.id)
  assert.equal(sign, { boot: 1, sequence: a.sequence })
  assert.not(d.isConnectedTo(c))
  d.network.dialler.learn(c.id, c.addresses)
  assert.equal(await d.network.probes.direct(c.id), { boot: 1, sequence: c.sequence })
})

test('a probe that cannot get through ends in time, without an answer', async () => {
  const gone = await peers.add({ records: a.ledgerStore.ledger.records() })
  b.network.dialler.learn(gone.id, gone.addresses)
  peers.all.splice(peers.all.indexOf(gone), 1)
  await gone.stop()
  const began = performance.now()
  assert.is(await b.network.probes.direct(gone.id), 'refused', 'its host is there')
  assert.is(await b.network.probes.indirect(gone.id, a.id), 'unreached')
  assert.is(await b.network.probes.indirect(a.id, gone.id), 'refused')
  assert.ok(performance.now() - began < 5000)
})

test('an AP that cannot be reached directly is reached through another one', async () => {
  const [e] = (await peers.members(1)) as [Peer]
  const known = [...a.ledgerStore.ledger.records(), ...e.ledgerStore.ledger.records()].map(({ bytes }) => bytes)
  for (const peer of [a, b, e]) await peer.ledgerStore.accept(known)
  await e.meet(a)
  assert.is(await e.network.probes.direct(d.id), 'silent', 'e knows no address of d')
  assert.equal(await e.network.probes.indirect(d.id, a.id), { boot: 1, sequence: d.sequence })
})

test('one that reaches an AP is enough, two that do not are too, and who does not answer is waited for in vain', async () => {
  const through = async (...outcomes: (Probed | 'never')[]) => {
    const { probes } = a.network
    const named = new Map(outcomes.map((outcome, n) => [`${n}`, outcome]))
    probes.indirect = async (_, via) => {
      const outcome = named.get(via)!
      return outcome === 'never' ? new Promise(() => {}) : outcome
    }
    const answer = probes.through('', [...named.keys()])
    return Promise.race([answer, turn()]).finally(() => Reflect.deleteProperty(probes, 'indirect'))
  }
  const sign = { boot: 1, sequence: 1 }
  assert.is(await through('never', 'never', sign), true)
  assert.is(await through('unreached', 'never', 'unreached'), false)
  assert.is(await through('silent', 'refused', 'unreached'), false)
  assert.is(await through('unreached', 'silent', sign), true)
  assert.is(await through('unreached', 'silent', 'never'), undefined)
  assert.is(await through(), false)
})

test('a probe that its receiver fails to answer is none, and the next one is', async () => {
  const handlers = Reflect.get(c.network.probes, 'handlers') as { sign(): unknown }
  const { sign } = handlers
  handlers.sign = () => {
    throw new Error('hung')
  }
  assert.is(await a.network.probes.direct(c.id), 'silent')
  handlers.sign = sign
  assert.is(typeof (await a.network.probes.direct(c.id)), 'object')
})

test.run()
