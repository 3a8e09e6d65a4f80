import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { exchange } from '../../../node/mesh/frames.js'
import { openStream } from '../../../node/mesh/host.js'
import { initiateSync, syncFrames } from '../../../node/mesh/sync.js'
import { open } from '../../../protocols/envelope.js'
import { apSigner } from '../../../protocols/keys.js'
import type { RecordOf } from '../../../protocols/kinds.js'
import { protocolIds, type SyncFrame, syncFrame } from '../../../protocols/wire.js'
import { until } from '../../support/until.js'
import { hashes, seed } from '../realm.js'
import { type Peer, Peers } from './support.js'

const peers = new Peers()
const { realm } = peers
const [a, b] = (await peers.members(2)) as [Peer, Peer]
await a.meet(b)
// Now and then an AP syncs with anyone: not here, where exchanges are counted.
for (const { network } of [a, b]) Reflect.set(network, 'lastRandomSync', Number.POSITIVE_INFINITY)
test.after(() => peers.stop())

const give = (peer: Peer, records: { bytes: Uint8Array }[]) =>
  peer.ledgerStore.accept(records.map(({ bytes }) => bytes))

/** One exchange from a to b, and the bytes that it took in both directions. */
async function measured(): Promise<{ bytes: number; received: number; sent: number }> {
  const stream = await openStream(a.network.host, b.id, protocolIds(realm.text).sync, AbortSignal.timeout(5000))
  let bytes = 0
  stream.addEventListener('message', ({ data }) => {
    bytes += data.byteLength
  })
  const send = stream.send.bind(stream)
  stream.send = (data) => {
    bytes += data.byteLength
    return send(data)
  }
  const { ledgerStore: store } = a
  const deps = { store, ownBeacons: () => [], peerBeacons: () => [], onBeacon: () => {}, onRefused: () => {} }
  return { ...(await exchange(stream, () => initiateSync(syncFrames(stream), deps))), bytes }
}

test('whatever two APs hold, one exchange makes their ledgers equal, in memory and on both disks', async () => {
  const sizes = fc.record({ ofA: fc.nat(40), ofB: fc.nat(40), ofBoth: fc.nat(10), initiator: fc.boolean() })
  await fc.assert(
    fc.asyncProperty(sizes, async ({ ofA, ofB, ofBoth, initiator }) => {
      const shared = realm.records(ofBoth)
      await give(a, [...realm.records(ofA, 2000), ...shared])
      await give(b, [...shared, ...realm.records(ofB)])
      const result = await (initiator ? a.network.sync(b.id) : b.network.sync(a.id))
      assert.equal([result.sent, result.received], initiator ? [ofA, ofB] : [ofB, ofA])
      assert.is(a.digest, b.digest)
      const all = hashes(a.ledgerStore.ledger.records())
      for (const peer of [a, b]) assert.equal([...(await peer.onDisk())].sort(), all)
    }),
    { numRuns: 12 },
  )
})

test('thousands of records, many times what a connection holds at once, get across', async () => {
  const many = [...realm.records(4000, 700), ...realm.records(200, 30_000)]
  await give(a, many)
  const { received } = await b.network.sync(a.id)
  assert.is(received, many.length)
  assert.is(a.digest, b.digest)
})

test('what an exchange costs follows the difference, not the ledger', async () => {
  assert.ok(a.ledgerStore.ledger.size > 4000)
  const equal = await measured()
  assert.equal([equal.sent, equal.received], [0, 0])
  assert.ok(equal.bytes < 200, `${equal.bytes} bytes between equal ledgers`)

  await give(a, realm.records(1))
  const one = await measured()
  assert.is(one.sent, 1)
  const digests = 256 * 16
  assert.ok(one.bytes < digests + 2500, `${one.bytes} bytes for one record`)

  await give(a, realm.records(10))
  await give(b, realm.records(10))
  const twenty = await measured()
  assert.equal([twenty.sent, twenty.received], [10, 10])
  assert.ok(twenty.bytes < digests + 20 * 2500, `${twenty.bytes} bytes for twenty records`)
})

test('of what a turn gives, revocations come first, then grants, then members, then all that stands on them', async () => {
  const [teller, asker] = (await peers.members(2)) as [Peer, Peer]
  await asker.meet(teller)
  for (let i = 0; i < 20; i++) {
    await give(teller, [
      realm.sign(teller.signer, 'origin', seed().slice(0, 20), {}),
      realm.member(apSigner(seed()), `ap${i}`),
      realm.record(30_000), // a grant, and a page is 216 kB
      realm.sign(realm.owner, 'revocation', seed(), { keep: new Uint8Array() }),
    ])
  }
  const stream = await openStream(
    asker.network.host,
    teller.id,
    protocolIds(realm.text).sync,
    AbortSignal.timeout(5000),
  )
  const frames = syncFrames(stream)
  const turn = async () => {
    const said: SyncFrame[] = []
    do said.push(await frames.read(syncFrame))
    while (said.at(-1)![0] !== 'end')
    return said
  }
  const pages = await exchange(stream, async () => {
    await frames.write(['hello', new Uint8Array(16), Date.now(), []])
    await turn()
    await frames.write(['ranges', [['hashes', '', new Uint8Array()]]])
    await frames.write(['end'])
    const answer = await turn()
    await frames.write(['end'])
    return answer.flatMap((frame) => (frame[0] === 'records' ? [frame[1]] : []))
  })
  assert.ok(pages.length > 2, `${pages.length} pages`)
  const kinds = pages.flat().map((bytes) => open(bytes, realm.mesh).kind)
  assert.is(kinds.length, teller.ledgerStore.ledger.size)
  const runs = kinds.filter((kind, i) => kind !== kinds[i - 1])
  assert.equal(runs, ['revocation', 'grant', 'member', 'origin'])
})

test('of beacons an exchange brings those that are newer than what the other side knows, and no others', async () => {
  const { signer } = a
  const heard: string[] = []
  for (const [name, peer] of Object.entries({ a, b })) {
    const takeBeacon = peer.takeBeacon.bind(peer)
    peer.takeBeacon = (beacon) => {
      heard.push(`${name} ${beacon.body.sequence}`)
      return takeBeacon(beacon)
    }
  }
  const fetched = async (by: Peer, from: Peer) => {
    heard.length = 0
    await by.network.sync(from.id)
    return heard.join(' and ')
  }
  const tell = (peer: Peer, sequence: number) => peer.takeBeacon(realm.beacon(signer, sequence) as RecordOf<'beacon'>)
  tell(a, 1)
  assert.is(await fetched(b, a), 'b 1')
  assert.is(await fetched(b, a), '')
  tell(a, 3)
  tell(b, 2)
  assert.is(await fetched(b, a), 'b 3')
  tell(b, 4)
  assert.is(await fetched(a, b), 'a 4')
})

test('a ledger that grows while an exchange begins does not break it', async () => {
  const record = realm.record()
  await give(b, [record])
  const now = a.ledgerStore.clock.now.bind(a.ledgerStore.clock)
  a.ledgerStore.clock.now = () => {
    a.ledgerStore.clock.now = now
    a.ledgerStore.ledger.merge(record) // gossip was faster: a said that it differs, and now it does not any more
    return now()
  }
  assert.equal(await a.network.sync(b.id), { received: 0, sent: 0 })
  assert.is(a.digest, b.digest)
})

test('an AP that answers says that all is done only when all is on its disk', async () => {
  const record = realm.record()
  const db = Reflect.get(b.store, 'db') as { batch(...args: unknown[]): Promise<void> }
  const batch = db.batch.bind(db)
  let writesAllowed = () => {}
  const gate = new Promise<void>((resolve) => {
    writesAllowed = resolve
  })
  let asked = false
  db.batch = async (...args) => {
    await gate
    return batch(...args)
  }
  const settled = b.store.settled.bind(b.store)
  b.store.settled = () => {
    asked = true
    return settled()
  }
  const given = give(b, [record]) // known to b from now on, but not on its disk
  await give(a, [record])
  let isDone = false
  const synced = a.network.sync(b.id).then(() => {
    isDone = true
  })
  await until('b to have all it needs', () => asked)
  // What b had sent before that would have come by the time it answers something else.
  for (let i = 0; i < 3; i++) assert.is(typeof (await a.network.probes.direct(b.id)), 'object')
  const wasDone = isDone
  db.batch = batch
  writesAllowed()
  await Promise.all([synced, given])
  assert.not(wasDone)
  assert.ok((await b.onDisk()).has(hashes([record])[0]!))
})

test('many who wait for one peer share one exchange', async () => {
  const before = b.synced.length
  await Promise.all(Array.from({ length: 50 }, () => a.network.sync(b.id)))
  await until('b to have noticed', () => b.synced.length > before + 1)
  assert.is(b.synced.length - before, 2)
})

test('a record that came after the exchange began is part of the next one, which its submitter waits for', async () => {
  const first = a.network.sync(b.id)
  const record = realm.record()
  await give(a, [record])
  await Promise.all([first, a.network.sync(b.id)])
  assert.ok(b.has(record))
})

test('bad records among good ones are told and left out, and the good ones kept', async () => {
  const good = realm.records(3)
  const bad = Uint8Array.from(good[1]!.bytes)
  bad[bad.length - 1]! ^= 1
  await give(a, good)
  const held = a.ledgerStore.ledger.get(good[1]!.hash)!
  Reflect.set(held, 'bytes', bad)
  const before = b.refused.length
  const { received } = await b.network.sync(a.id)
  Reflect.set(held, 'bytes', good[1]!.bytes)
  assert.is(received, 2)
  assert.ok(b.has(good[0]!) && b.has(good[2]!))
  assert.equal(
    b.refused.slice(before).map(({ from, error }) => [from, error.code]),
    [[a.id, 'bad-signature']],
  )
})

test.run()
