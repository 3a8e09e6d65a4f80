import { multiaddr } from '@multiformats/multiaddr'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { createHost, type Host, openStream } from '../../../node/mesh/host.js'
import type { SignedRecord } from '../../../protocols/envelope.js'
import { apSigner, type Signer } from '../../../protocols/keys.js'
import { MAX_RECORD } from '../../../protocols/limits.js'
import { protocolIds, topics } from '../../../protocols/wire.js'
import { until } from '../../support/until.js'
import { hashes, seed } from '../realm.js'
import { type Peer, Peers } from './support.js'

const peers = new Peers()
const { realm } = peers
const [a, b, c, d] = (await peers.members(4)) as [Peer, Peer, Peer, Peer]
const members = [a, b, c, d]
const hosts: Host[] = []
test.after(async () => {
  await Promise.all([peers.stop(), ...hosts.map((host) => host.stop())])
})

/** A host that speaks the mesh's protocols, and that nobody let in. It hears all that anyone sends it. */
async function stranger(ownSeed = seed()): Promise<{ host: Host; signer: Signer; heard: Uint8Array[] }> {
  const listen = ['/ip4/127.0.0.1/tcp/0']
  const isMember = () => true
  const host = await createHost({ seed: ownSeed, mesh: realm.text, listen, mdns: false, bootstrap: [], isMember })
  const heard: Uint8Array[] = []
  const { records, beacons } = topics(realm.text)
  host.services.pubsub.addEventListener('message', ({ detail }) => heard.push(detail.data))
  await host.start()
  hosts.push(host)
  host.services.pubsub.subscribe(records)
  host.services.pubsub.subscribe(beacons)
  return { host, signer: apSigner(ownSeed), heard }
}

async function publish(from: Peer, record: SignedRecord): Promise<void> {
  await from.ledgerStore.accept([record.bytes])
  from.network.publishRecords([record])
}

const everywhereOnDisk = (record: SignedRecord, where: readonly Peer[] = members) =>
  until('the record to be on every disk', async () => {
    const disks = await Promise.all(where.map((peer) => peer.onDisk()))
    return disks.every((disk) => disk.has(hashes([record])[0]!))
  })

/** Links of gossip that a host has for records. */
const linked = ({ services }: Host): number =>
  (services.pubsub as unknown as { getMeshPeers(topic: string): string[] }).getMeshPeers(topics(realm.text).records)
    .length

// It is let be for 15 seconds, which the other tests use.
const lurker = await stranger()
const lurking = await lurker.host.dial(b.addresses.map(multiaddr))
const lurkingSince = performance.now()

test('a record that one of four APs publishes is on the disks of all', async () => {
  // A chain: c and d hear of a only through b.
  await a.meet(b)
  await Promise.all([b.meet(c), b.meet(d)])
  await until('gossip to have its links', () => linked(b.network.host) === 3)
  const exchanged = members.flatMap(({ synced }) => synced).length
  const record = realm.record()
  await publish(a, record)
  await everywhereOnDisk(record)
  assert.is(members.flatMap(({ synced }) => synced).length, exchanged, 'it was gossip that brought it')
})

test('a stranger neither hears gossip nor is heard, and gets nothing else either', async () => {
  const { host, signer, heard } = lurker
  const unheard = realm.record()
  await host.services.pubsub.publish(topics(realm.text).records, unheard.bytes)
  await host.services.pubsub.publish(topics(realm.text).beacons, realm.beacon(signer, 1).bytes)
  const record = realm.record()
  await publish(a, record)
  a.network.publishBeacon(realm.beacon(a.signer, 5))
  await everywhereOnDisk(record)
  await until('the beacon to be heard', () => b.beacons.has(a.id))
  b.network.sendPulses([host.peerId.toString()])
  const { sync, pulse, probe } = protocolIds(realm.text)
  for (const protocol of [sync, pulse, probe]) {
    const stream = await openStream(host, b.id, protocol, AbortSignal.timeout(5000))
    stream.addEventListener('message', ({ data }) => heard.push(data.subarray()))
    await until(`${protocol} to be reset`, () => stream.status === 'reset')
  }
  assert.not(members.some((peer) => peer.has(unheard)))
  assert.not(b.beacons.has(host.peerId.toString()))
  assert.equal(heard, [])
})

test('a record as big as one may be gets through as well, and so do many at once', async () => {
  const empty = realm.record(1000)
  const biggest = realm.record(1000 + MAX_RECORD - empty.bytes.length)
  assert.ok(biggest.bytes.length > MAX_RECORD - 10 && biggest.bytes.length <= MAX_RECORD, `${biggest.bytes.length}`)
  const many = realm.records(30, 20_000)
  for (const record of [biggest, ...many]) await publish(a, record)
  for (const record of [biggest, ...many]) await everywhereOnDisk(record)
})

test('a beacon reaches all, once, and an older one nobody', async () => {
  const [newer, older] = [realm.beacon(a.signer, 20), realm.beacon(a.signer, 10)]
  a.network.publishBeacon(newer)
  await until('all to have heard it', () => [b, c, d].every((peer) => peer.beacons.get(a.id)?.body.sequence === 20))
  a.network.publishBeacon(older)
  const record = realm.record()
  await publish(a, record)
  await everywhereOnDisk(record)
  assert.ok([b, c, d].every((peer) => peer.beacons.get(a.id)?.body.sequence === 20))
})

test('a beacon is heard in its neighbourhood alone, and for a while after a change in the former one too', async () => {
  let sequence = 100
  const hears = (peer: Peer) =>
    until('a beacon to be heard', () => {
      if (peer.beacons.get(a.id)?.body.sequence === sequence) return true
      a.network.publishBeacon(realm.beacon(a.signer, ++sequence))
      return false
    })
  const move = (peer: Peer, prefix: string) => {
    for (let i = 0; i < 2; i++) peer.network.follow(prefix, [], -1)
  }
  d.network.follow('0', [])
  await hears(d)
  await hears(c)
  move(a, '0')
  await hears(d)
  const last = sequence
  await hears(d)
  const record = realm.record()
  await publish(a, record)
  await everywhereOnDisk(record)
  assert.ok((c.beacons.get(a.id)?.body.sequence ?? 0) <= last)
  for (const peer of [a, d]) move(peer, '')
  await hears(c)
})

test('a record bigger than one may be is never sent, for it would end the gossip between two APs', () => {
  const record = { ...realm.record(), bytes: new Uint8Array(MAX_RECORD + 1) }
  assert.throws(
    () => a.network.publishRecords([record]),
    (error: { code: string }) => error.code === 'record-too-big',
  )
})

test('what is provably bad is not passed on, and who sends it is named, and after a few times not heard any more', async () => {
  const ownSeed = seed()
  await publish(a, realm.member(apSigner(ownSeed), 'villain'))
  await until('all to know the new member', () => members.every((peer) => peer.isMember(apSigner(ownSeed).publicKey)))
  const villain = await stranger(ownSeed)
  await villain.host.dial(b.network.host.getMultiaddrs())
  await until('it to take part', () => linked(villain.host) > 0)
  const { records } = topics(realm.text)
  const said = () => b.refused.filter(({ from }) => from === villain.host.peerId.toString())
  for (let i = 0; i < 12; i++) {
    const bad = Uint8Array.from(realm.record().bytes)
    bad[bad.length - 1]! ^= 1
    await villain.host.services.pubsub.publish(records, bad)
  }
  await until('b to have refused them', () => said().length >= 10)
  assert.ok(said().every(({ error }) => error.code === 'bad-signature'))
  assert.is(members.filter((peer) => peer !== b && peer.refused.length > 0).length, 0, 'nobody got them from b')
  await until('b to hear it no more', async () => {
    const honest = realm.record()
    await villain.host.services.pubsub.publish(records, honest.bytes)
    const known = await until('it to come through', () => b.has(honest), { deadlineMs: 300, everyMs: 20 }).catch(
      () => false,
    )
    return !known
  })
})

test('a newcomer is connected anew and then takes part, and one that is forgotten takes part no more', async () => {
  const ownSeed = seed()
  const newcomer = await peers.add({ seed: ownSeed, records: [realm.grant] })
  newcomer.network.dialler.learn(b.id, b.addresses)
  await until('the newcomer to be connected', () =>
    [newcomer, b].every(({ network }) => network.dialler.connected().size > 0),
  )
  const { ticket, grant } = realm.invite()
  const member = realm.member(newcomer.signer, 'newcomer', ticket)
  await until('the newcomer to be let in', () => newcomer.network.join({ grant, member }))
  await everywhereOnDisk(member, [...members, newcomer])
  assert.equal(hashes(b.newcomers), hashes([grant, member]))
  await until('both to be connected as members', () => newcomer.isConnectedTo(b) && b.connects.includes(newcomer.id))
  assert.not(b.lost.includes(newcomer.id), 'that it was connected anew is no sign of trouble')

  const all = [...members, newcomer]
  for (const from of [a, newcomer]) {
    await until('gossip with the newcomer', async () => {
      const record = realm.record()
      await publish(from, record)
      return until('it to be everywhere', () => all.every((peer) => peer.has(record)), { deadlineMs: 500 })
    })
  }

  const before = newcomer.ledgerStore.ledger.size
  const forget = realm.sign(realm.owner, 'forget', newcomer.signer.publicKey, {})
  await publish(a, forget)
  await everywhereOnDisk(forget)
  const gone = newcomer.network.host.peerId
  await until('it to be sent away', () => b.network.host.getConnections(gone).length === 0, { deadlineMs: 25_000 })
  const secret = realm.record()
  await publish(a, secret)
  await everywhereOnDisk(secret)
  assert.not(newcomer.has(secret))

  // It dials again, and asks. All that it gets is the record that says why it hears nothing, and nobody takes what it has.
  const unheard = realm.record()
  await newcomer.ledgerStore.accept([unheard.bytes])
  await until('it to be told, and to have asked once more', async () => {
    const wasTold = newcomer.has(forget)
    const answer = await newcomer.network.sync(b.id).then(
      () => 'as if what it has were safe there',
      (error) => error.message,
    )
    return wasTold && answer === 'it compares no ledgers with this AP'
  })
  assert.is(newcomer.ledgerStore.ledger.size, before + 2, 'what it was told, and what it had itself')
  assert.not(members.some((peer) => peer.has(unheard)))
})

test('a stranger is given time to join, and then sent away, having heard nothing', async () => {
  await until('the stranger to be sent away', () => lurking.status === 'closed', { deadlineMs: 25_000 })
  assert.ok(performance.now() - lurkingSince > 14_000, 'a newcomer would need a moment')
  assert.equal(lurker.heard, [])
})

test.run()
