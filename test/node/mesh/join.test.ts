import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { NodeClock } from '../../../node/clock.js'
import { exchange, Frames } from '../../../node/mesh/frames.js'
import { createHost } from '../../../node/mesh/host.js'
import { answerSync, syncFrames } from '../../../node/mesh/sync.js'
import { MeshError } from '../../../protocols/error.js'
import { apSigner, type Signer } from '../../../protocols/keys.js'
import { MAX_CLOCK_AHEAD, MAX_JOIN_FRAME } from '../../../protocols/limits.js'
import { membershipOf } from '../../../protocols/membership.js'
import { type Papers, signMember } from '../../../protocols/ticket.js'
import { joinRequest, protocolIds } from '../../../protocols/wire.js'
import { until } from '../../support/until.js'
import { hashes, refusalOf, seed } from '../realm.js'
import { type Peer, Peers } from './support.js'

const peers = new Peers()
const { realm } = peers
const [member] = (await peers.members(1)) as [Peer]
test.after(() => peers.stop())

/** A peer that is in no mesh yet, connected to the member. */
async function newcomer(clock?: NodeClock): Promise<Peer> {
  const peer = await peers.add({ clock })
  peer.network.dialler.learn(member.id, member.addresses)
  await until('the newcomer to be connected', () => peer.network.dialler.connected().has(member.id))
  return peer
}

const admission = (signer: Signer, { ticket, grant } = realm.invite()): Papers => ({
  grant,
  member: realm.member(signer, 'newcomer', ticket),
})

test('a newcomer with a ticket is let in, learns all that the mesh knows, and is told the time', async () => {
  const known = realm.records(20)
  await member.ledgerStore.accept(known.map(({ bytes }) => bytes))
  const peer = await newcomer()
  const paper = admission(peer.signer)
  const now = await peer.network.join(paper)
  assert.ok(Math.abs(now - Date.now()) < 5000)
  assert.is(peer.digest, member.digest)
  assert.ok(known.every((record) => peer.has(record)))
  assert.equal(hashes(member.newcomers), hashes([paper.grant, paper.member]))
  assert.ok(peer.network.hasSynced)
  const onDisk = await member.onDisk()
  for (const hash of hashes([paper.grant, paper.member])) assert.ok(onDisk.has(hash))
})

test('one that asks again, since it did not hear the answer, is welcome again', async () => {
  const peer = await newcomer()
  const paper = admission(peer.signer)
  await peer.network.join(paper)
  await until('it to be let in once more', () => peer.network.join(paper))
})

test('whoever may not come in hears why, and leaves no trace', async () => {
  const peer = await newcomer()
  const other = apSigner(seed())
  const outsider = apSigner(seed())
  const used = realm.invite()
  await member.ledgerStore.accept([used.grant.bytes, realm.member(other, 'first', used.ticket).bytes])
  const early = realm.invite()
  const ahead = Date.now() + MAX_CLOCK_AHEAD + 60_000
  const expired = realm.invite({ expires: Date.now() - 1000 })
  const [one, two] = [realm.invite(), realm.invite()]
  const cases: [RegExp, Papers][] = [
    [/ticket has expired/, admission(peer.signer, expired)],
    [/used up/, admission(peer.signer, used)],
    [/not signed by an admin/, admission(peer.signer, realm.invite({}, outsider))],
    [/of another AP/, admission(other)],
    [/not the one that was granted/, { grant: one.grant, member: realm.member(peer.signer, 'newcomer', two.ticket) }],
    [/not a grant and a member record/, { grant: one.grant, member: realm.record() }],
    [/belongs to another mesh/, { grant: new Peers().realm.grant, member: realm.member(peer.signer, 'x') }],
    [
      /clock of the newcomer is more than five minutes ahead/,
      {
        grant: early.grant,
        member: signMember(peer.signer, early.ticket, realm.mesh, [ahead, 0], { name: 'x', labels: {} }),
      },
    ],
  ]
  const before = member.digest
  for (const [reason, paper] of cases) {
    const error = await until(`an answer like ${reason}`, () => refusalOf(peer.network.join(paper), 'join-refused'))
    assert.match(error.message, reason)
  }
  assert.is(member.digest, before)
})

test('of APs that come at one moment a ticket lets in as many as it may, to the one', async () => {
  const several = realm.invite({ uses: 2 })
  const all = await Promise.all(Array.from({ length: 4 }, () => newcomer()))
  const papers = all.map((peer) => admission(peer.signer, several))
  const outcomes = await Promise.all(
    all.map((peer, i) =>
      until('an answer', async () => {
        const error = await peer.network.join(papers[i]!).then(
          () => undefined,
          (reason: Error) => reason,
        )
        if (error === undefined) return 'in'
        return error instanceof MeshError && error.message
      }),
    ),
  )
  assert.equal(
    outcomes.sort(),
    ['in', 'in', 'the ticket is used up; get a new one', 'the ticket is used up; get a new one'].sort(),
  )
  const { members } = membershipOf(member.ledgerStore.ledger, realm.owner.publicKey, Date.now())
  assert.is(all.filter(({ id }) => members.has(id)).length, 2)
})

test('one that came in on another side of a partition, too late for its ticket, is shown that it is out', async () => {
  const { ticket, grant } = realm.invite()
  const [first, late] = [realm.member(apSigner(seed()), 'first', ticket), await newcomer()]
  const own = realm.member(late.signer, 'late', ticket)
  await late.ledgerStore.accept([
    grant.bytes,
    own.bytes,
    ...[...member.ledgerStore.ledger.records()].map(({ bytes }) => bytes),
  ])
  const { ledger } = late.ledgerStore
  const of = () => membershipOf(ledger, realm.owner.publicKey, Date.now())
  assert.ok(of().members.has(late.id))
  await member.ledgerStore.accept([grant.bytes, first.bytes, own.bytes])
  await until('it to learn it', async () => {
    await late.network.sync(member.id)
    return !of().members.has(late.id)
  })
  assert.match(of().forgotten.get(late.id)!, 'on another side of a partition')
})

test('one that was forgotten needs a new ticket', async () => {
  const peer = await newcomer()
  const paper = admission(peer.signer)
  await peer.network.join(paper)
  await member.ledgerStore.accept([realm.sign(realm.owner, 'forget', peer.signer.publicKey, {}).bytes])
  const again = () => refusalOf(peer.network.join(paper), 'join-refused')
  assert.match((await until('an answer', again)).message, 'was forgotten by an admin; it needs a new ticket')
  await until('it to be let in', () => peer.network.join(admission(peer.signer)))
})

test('a box that boots in 1970 comes in, and knows the time then', async () => {
  const clock = new NodeClock()
  const now = Date.now
  const age = now() - 5000
  clock.now = () => Math.max(now() - age, Reflect.get(clock, 'floorMs')) // a wall clock of five seconds after 1970
  const peer = await newcomer(clock)
  const { ticket, grant } = realm.invite()
  const paper = {
    grant,
    member: signMember(peer.signer, ticket, realm.mesh, [grant.clock[0], 1], { name: 'x', labels: {} }),
  }
  clock.raise(await peer.network.join(paper))
  assert.ok(Math.abs(clock.now() - now()) < 5000)
  assert.is(peer.digest, member.digest)
})

test('one that says welcome without being a member itself is not believed, nor is the time it tells', async () => {
  const peer = await peers.add()
  const ids = protocolIds(realm.text)
  const listen = ['/ip4/127.0.0.1/tcp/0']
  const isMember = () => true
  const impostor = await createHost({ seed: seed(), mesh: realm.text, listen, mdns: false, bootstrap: [], isMember })
  const ages = 2 ** 47
  await impostor.handle(ids.join, (stream) =>
    exchange(stream, async () => {
      const frames = new Frames(stream, MAX_JOIN_FRAME, 5000)
      await frames.read(joinRequest)
      await frames.write(['welcome', ages])
    }),
  )
  const { ledgerStore: store } = await peers.add({ records: realm.records(3) })
  store.clock.now = () => ages
  await impostor.handle(ids.sync, async (stream) => {
    await exchange(stream, () =>
      answerSync(syncFrames(stream), {
        store,
        ownBeacons: () => [],
        peerBeacons: () => [],
        onBeacon: () => {},
        onRefused: () => {},
      }),
    )
  })
  await impostor.start()
  try {
    const id = impostor.peerId.toString()
    peer.network.dialler.learn(id, impostor.getMultiaddrs().map(String))
    await until('the newcomer to be connected', () => peer.network.dialler.connected().has(id))
    const error = await refusalOf(peer.network.join(admission(peer.signer)), 'join-refused')
    assert.match(error.message, 'is no member itself')
    assert.ok(peer.ledgerStore.clock.now() < ages / 10)
    assert.not(peer.network.hasSynced)
  } finally {
    await impostor.stop()
  }
})

test('the reason of a refusal reaches no terminal as it came', async () => {
  const peer = await peers.add()
  const ids = protocolIds(realm.text)
  const listen = ['/ip4/127.0.0.1/tcp/0']
  const rude = await createHost({
    seed: seed(),
    mesh: realm.text,
    listen,
    mdns: false,
    bootstrap: [],
    isMember: () => true,
  })
  await rude.handle(ids.join, (stream) =>
    exchange(stream, async () => {
      const frames = new Frames(stream, MAX_JOIN_FRAME, 5000)
      await frames.read(joinRequest)
      await frames.write(['refused', 'no\u001b[2J\u009b31m\u202eway'])
    }),
  )
  await rude.start()
  try {
    const id = rude.peerId.toString()
    peer.network.dialler.learn(id, rude.getMultiaddrs().map(String))
    await until('the newcomer to be connected', () => peer.network.dialler.connected().has(id))
    const { message } = await refusalOf(peer.network.join(admission(peer.signer)), 'join-refused')
    assert.is(message, 'no\\u{1b}[2J\\u{9b}31m\\u{202e}way')
  } finally {
    await rude.stop()
  }
})

test('where no member can be reached, that is said', async () => {
  const alone = await peers.add()
  const error = await alone.network.join(admission(alone.signer)).then(
    () => undefined,
    (error: Error) => error,
  )
  assert.match(error!.message, 'no member is reachable')
})

test.run()
