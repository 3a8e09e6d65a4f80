// A running node against a peer that keeps no rule, first as a stranger and then as a member that was let in.
import { createSocket } from 'node:dgram'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { Connection, Stream } from '@libp2p/interface'
import { multiaddr } from '@multiformats/multiaddr'
import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { loadSeed } from '../../../node/identity.js'
import { exchange, Frames } from '../../../node/mesh/frames.js'
import { createHost, type Host } from '../../../node/mesh/host.js'
import { askToJoin } from '../../../node/mesh/join.js'
import { apKey, concat, hex, sha256, utf8 } from '../../../protocols/bytes.js'
import { instanceSubject } from '../../../protocols/chute.js'
import { encode } from '../../../protocols/codec.js'
import { type ReachCard, reachCard, sealDatagram } from '../../../protocols/datagram.js'
import { open, type SignedRecord, seal } from '../../../protocols/envelope.js'
import { apSigner, personSigner, type Signer } from '../../../protocols/keys.js'
import { MAX_RECORD, MAX_SYNC_FRAME } from '../../../protocols/limits.js'
import { meshIdOf, meshText } from '../../../protocols/membership.js'
import { electorateOf } from '../../../protocols/roster.js'
import { readTicket, redeem } from '../../../protocols/ticket.js'
import { protocolIds, type SyncFrame, splitHashes, syncFrame, topics } from '../../../protocols/wire.js'
import { eventually, type TestAp, TestMesh } from '../../support/mesh.js'
import { seed } from '../realm.js'

const mesh = new TestMesh()
const [target, witness] = (await mesh.start(2, () => ({ args: ['--docker-host', 'unix:///no/engine'] }))) as [
  TestAp,
  TestAp,
]
const ticket = readTicket(await mesh.invite(target))
const realm = meshIdOf(ticket.meshKey)
const ids = protocolIds(meshText(realm))
const { records: recordTopic, beacons: beaconTopic } = topics(meshText(realm))
const address = multiaddr((await target.status()).addresses[0]!)

const villains: Host[] = []
let signer: Signer
let villain: Host
/** Beacons that the villain hears, newest last. */
let overheard: SignedRecord[]

/** The villain comes under a name that nobody knows yet. */
async function disguise(): Promise<void> {
  const ownSeed = seed()
  const heard: SignedRecord[] = []
  signer = apSigner(ownSeed)
  overheard = heard
  villain = await createHost({
    seed: ownSeed,
    mesh: meshText(realm),
    listen: ['/ip4/127.0.0.1/tcp/0'],
    mdns: false,
    bootstrap: [],
    isMember: () => true,
    price: () => 0,
  })
  villains.push(villain)
  const { pubsub } = villain.services
  pubsub.addEventListener('message', ({ detail: { topic, data } }) => {
    if (topic === beaconTopic) heard.push(open(data, realm))
  })
  await villain.start()
  pubsub.subscribe(recordTopic)
  pubsub.subscribe(beaconTopic)
}
await disguise()

async function beLetIn(): Promise<void> {
  await disguise()
  const own = readTicket(await mesh.ticket(target))
  const papers = redeem(own, signer, Date.now(), { name: 'villain', labels: {} })
  // What strangers did before may still be held against its address, and end a connection at any time.
  await eventually('it to be let in', async () => {
    await connect()
    return askToJoin(villain, ids, target.id, papers)
  })
  const id = villain.peerId.toString()
  await eventually('it to be a member', async () => (await witness.aps()).some((row) => row.id === id))
  await eventually('it to take part in gossip', async () => {
    await connect()
    return linked()
  })
}

test.after(async () => {
  await Promise.all(villains.map((host) => host.stop()))
  await mesh.close()
})

/** Resident memory of the node in MB. */
const memory = (): number =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${target.pid}/status`, 'utf8'))![1]) / 1024
const memoryAtFirst = memory()

const dial = () => villain.dial(address, { force: true, signal: AbortSignal.timeout(5000) })
const silentConnections = new Set<Connection>()

/** The connection that is there, or a new one. */
const connect = async (): Promise<Connection> =>
  villain.getConnections().find((one) => one.status === 'open' && !silentConnections.has(one)) ?? (await dial())

async function openStream(protocol: string): Promise<Stream> {
  return (await connect()).newStream(protocol, { signal: AbortSignal.timeout(5000) })
}

/** Runs something to which the node may put an end at any time. */
const dare = async (run: () => Promise<unknown>): Promise<void> => void (await run().catch(() => {}))

/** A stream on which frames of any size can be sent. */
const rogue = async (protocol: string) => {
  const stream = await openStream(protocol)
  return { stream, frames: new Frames(stream, 16 * 1024 ** 2, 20_000) }
}

/** Gives the node something to reach us by, and gets the same from it. */
async function reach(card: ReachCard): Promise<ReachCard> {
  const { stream, frames } = await rogue(ids.reach)
  return exchange(stream, async () => {
    await frames.write(card)
    return frames.read(reachCard)
  })
}

const framed = (bytes: Uint8Array): Uint8Array => {
  const prefix: number[] = []
  for (let rest = bytes.length; rest > 0x7f; rest >>>= 7) prefix.push((rest & 0x7f) | 0x80)
  return concat(Uint8Array.of(...prefix, bytes.length >>> (7 * prefix.length)), bytes)
}

const publish = (topic: string, bytes: Uint8Array): Promise<void> =>
  dare(() => villain.services.pubsub.publish(topic, bytes))

const linked = (): boolean => villain.services.pubsub.getSubscribers(recordTopic).length > 0

let clock = 0
/** A record by the villain, signed as it should be. */
function record(kind: string, subject: Uint8Array, body: object, ms = Date.now()): SignedRecord {
  return seal(signer, realm, [ms, clock++], kind, subject, body)
}

function spoilt(bytes: Uint8Array): Uint8Array {
  const copy = Uint8Array.from(bytes)
  copy[copy.length - 1]! ^= 1
  return copy
}

const owner = personSigner((await loadSeed(join(target.data, 'keys'), 'mesh'))!)

/** Sends a record as an honest person would, to the witness, and waits until the node has it as well. */
async function honestTraffic(): Promise<void> {
  const honest = seal(owner, realm, [Date.now(), 0], 'grant', seed(), { role: 'publisher', expires: 0 })
  await witness.client.post('/v1/records', honest.bytes)
  await eventually(
    'an honest record to reach the node',
    async () => (await digestOf(target)) === (await digestOf(witness)),
  )
}

const digestOf = async (ap: TestAp): Promise<string> => (await ap.status()).ledger.digest

async function eventsOf(kind: string): Promise<Record<string, unknown>[]> {
  return (await target.events()).filter((event) => event.kind === kind)
}

/** The node goes on as if nothing had happened; `changes`: with what was done to its ledger, as far as that was right. */
async function unharmed(before: string, { changes = false } = {}): Promise<void> {
  assert.ok(target.isRunning, target.log.slice(-2000))
  const asked = performance.now()
  const { ledger, state } = await target.status()
  assert.ok(performance.now() - asked < 3000, `the API took ${Math.round(performance.now() - asked)} ms`)
  assert.is(state, 'running')
  if (!changes) assert.is(ledger.digest, before)
  await honestTraffic()
  await eventually('the memory of the node to be as before', () => {
    const grown = memory() - memoryAtFirst
    // What V8 keeps for later is its own affair; what is held for a villain would be many times that.
    if (grown >= 200) throw new Error(`${Math.round(grown)} MB more than at first`)
    return true
  })
  await eventually('the two to believe each other alive', async () =>
    [...(await target.aps()), ...(await witness.aps())].every(
      ({ id, state }) => villains.some((host) => host.peerId.toString() === id) || state === 'alive',
    ),
  )
  const errors = target.log.split('\n').filter((line) => /"level":[56]0|unhandled/i.test(line))
  assert.equal(errors, [])
}

const anyProtocol = fc.constantFrom(
  ...Object.values(ids),
  '/meshsub/1.2.0',
  '/ipfs/id/1.0.0',
  '/ipfs/id/push/1.0.0',
  '/ipfs/ping/1.0.0',
)
const cbor = fc
  .anything({
    withBigInt: false,
    maxDepth: 3,
    values: [fc.uint8Array({ maxLength: 64 }), fc.string(), fc.integer(), fc.boolean()],
  })
  .map((value) => {
    try {
      return encode(value)
    } catch {
      return utf8('no CBOR')
    }
  })
const word = fc.constantFrom(
  'hello',
  'ranges',
  'digests',
  'hashes',
  'records',
  'want',
  'end',
  'join',
  'welcome',
  'refused',
  'sending',
)
/** Nearly what the protocols say: a known word, and something after it. */
const nearly = fc
  .tuple(
    word,
    fc.array(fc.oneof(fc.integer(), fc.uint8Array({ maxLength: 200 }), fc.array(fc.uint8Array({ maxLength: 90 })))),
  )
  .map(([kind, rest]) => encode([kind, ...rest]))
const input = fc.oneof(
  fc.uint8Array({ maxLength: 2000 }),
  fc.uint8Array({ maxLength: 2000 }).map(framed),
  cbor.map(framed),
  nearly.map(framed),
  fc.array(fc.oneof(nearly, cbor).map(framed), { maxLength: 5 }).map((frames) => concat(...frames)),
)

async function throwRandomBytes(): Promise<void> {
  const inputs = fc.sample(fc.tuple(anyProtocol, input), 250)
  const one = async ([protocol, bytes]: [string, Uint8Array]) => {
    const stream = await openStream(protocol)
    stream.send(bytes)
    await stream.close({ signal: AbortSignal.timeout(500) }).catch((error) => stream.abort(error))
    await eventually('an end', () => stream.status !== 'open', { deadlineMs: 30, everyMs: 5 }).catch(() => {})
    stream.abort(new Error('enough'))
  }
  while (inputs.length > 0) await Promise.all(inputs.splice(0, 4).map((given) => dare(() => one(given))))
  for (const [topic, bytes] of fc.sample(fc.tuple(fc.constantFrom(recordTopic, beaconTopic), input), 300)) {
    await publish(topic, bytes)
  }
}

async function throwTooMuch(): Promise<void> {
  const prefixes = [
    [0xff, 0xff, 0xff, 0x7f],
    [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
  ].map((bytes) => Uint8Array.from(bytes))
  for (const protocol of Object.values(ids)) {
    for (const start of [...prefixes, framed(new Uint8Array(MAX_SYNC_FRAME + 1)).slice(0, 3)]) {
      await dare(async () => {
        const stream = await openStream(protocol)
        stream.send(start)
        const filler = new Uint8Array(64 * 1024).fill(0x80)
        for (let sent = 0; sent < 8 * 1024 ** 2 && stream.status === 'open'; sent += filler.length) {
          if (!stream.send(filler)) await pause(5)
        }
        stream.abort(new Error('enough'))
      })
    }
  }
}

/** Opens as many streams as it can on every protocol, over a connection of their own, and says nothing on any. */
async function openAndSayNothing(): Promise<Stream[]> {
  const streams: Stream[] = []
  const connection = await dial()
  silentConnections.add(connection)
  const open = async (protocol: string) =>
    void streams.push(await connection.newStream(protocol, { signal: AbortSignal.timeout(5000) }))
  for (const protocol of Object.values(ids)) for (let i = 0; i < 40; i++) await dare(() => open(protocol))
  return streams
}
const silent: Stream[] = []
const isOpen = (stream: Stream): boolean => stream.status === 'open'

function harmless(role: 'stranger' | 'member'): void {
  // A member that others have enough of is accused of not answering, and that is a record.
  const changes = role === 'member'
  test(`random bytes of a ${role} on every protocol and topic do no harm`, async () => {
    if (role === 'member') await beLetIn()
    const before = await digestOf(target)
    await throwRandomBytes()
    await unharmed(before, { changes })
  })

  test(`frames of a ${role} that are too big, or have no end, do no harm`, async () => {
    if (role === 'member') await beLetIn()
    const before = await digestOf(target)
    await throwTooMuch()
    await unharmed(before, { changes })
  })

  test(`streams on which a ${role} says nothing are few`, async () => {
    if (role === 'member') await beLetIn()
    const before = await digestOf(target)
    const streams = await openAndSayNothing()
    silent.push(...streams)
    await eventually('those beyond the limits to be reset', () => streams.filter(isOpen).length <= 1 + 4 + 2 + 8 + 2)
    await unharmed(before, { changes })
  })

  test(`datagrams of a ${role} that are garbage do no harm`, async () => {
    if (role === 'member') await beLetIn()
    const before = await digestOf(target)
    const key = new Uint8Array(32).fill(7)
    const card = role === 'member' ? await reach({ port: 9, id: 1, key }) : undefined
    // As a rule the port is that of TCP.
    const port = card?.port ?? Number(/\/tcp\/(\d+)/.exec(address.toString())![1])
    const socket = createSocket('udp4')
    const send = (bytes: Uint8Array) => new Promise((resolve) => socket.send(bytes, port, '127.0.0.1', resolve))
    let counter = 0
    for (const bytes of fc.sample(fc.oneof(input, cbor, nearly), 5000)) {
      await send(bytes)
      if (card !== undefined) await send(sealDatagram(card.id, card.key, counter++, bytes))
    }
    if (card !== undefined) {
      // It asks for more probes than there are APs, and is slower than the rest of the world.
      for (let number = 0; number < 500; number++) {
        await send(sealDatagram(card.id, card.key, counter++, encode(['ask', number, { ap: apKey(witness.id) }])))
        await send(
          sealDatagram(card.id, card.key, counter++, encode(['ask', number, { ap: sha256(utf8(`${number}`)) }])),
        )
      }
    }
    socket.close()
    await unharmed(before, { changes })
  })
}

harmless('stranger')

test('the villain is let in', beLetIn)

test('beacons that are old change nothing, however they come', async () => {
  interface Inspected {
    beacon: { boot: number; sequence: number }
    accusations: { silence: number }[]
  }
  const look = () => target.client.get<Inspected>('/v1/inspect', { of: witness.id })
  const beaconOf = async () => (await look()).beacon
  const ofWitness = () => overheard.filter(({ subject }) => Buffer.compare(subject, apKey(witness.id)) === 0)
  // Who is accused answers with a beacon.
  let silence = 2000
  await eventually('two beacons of the witness', async () => {
    const { boot, sequence } = await beaconOf()
    const statement = { boot, sequence, silence: ++silence, probes: 1, heard: true, watchers: new Uint8Array(16) }
    await publish(recordTopic, record('statement', apKey(witness.id), statement).bytes)
    return ofWitness().length >= 2
  })
  await eventually('the last accusation to be in the ledger', async () =>
    (await look()).accusations.some((accusation) => accusation.silence === silence),
  )
  const [old] = ofWitness()
  const before = await digestOf(target)
  const known = await beaconOf()
  await publish(beaconTopic, old!.bytes)
  const { stream, frames } = await rogue(ids.sync)
  await exchange(stream, async () => {
    await frames.write(['hello', new Uint8Array(16), Date.now(), []])
    for (let ended = false; !ended; ) ended = (await frames.read(syncFrame))[0] === 'end'
    await frames.write(['records', Array.from({ length: 500 }, () => old!.bytes)])
    await frames.write(['end'])
    await frames.read(syncFrame)
  })
  const after = await beaconOf()
  assert.ok(after.boot > known.boot || after.sequence >= known.sequence, `${after.sequence} after ${known.sequence}`)
  await unharmed(before)
})

test('what is not as it should be is refused, whoever passes it on, and is in the events', async () => {
  const before = await digestOf(target)
  const good = record('snapshot-head', utf8('good'), {})
  const sick = {
    'wrong signature': spoilt(record('snapshot-head', utf8('x'), {}).bytes),
    'another mesh': seal(signer, sha256(utf8('another')).slice(0, 20), [Date.now(), 0], 'snapshot-head', utf8('x'), {})
      .bytes,
    'another AP': record('goodbye', apKey(witness.id), { boot: 2 ** 40 }).bytes,
    'a beacon of another AP': record('beacon', apKey(witness.id), {}).bytes,
    'no body of its kind': record('claim', utf8('x'), { epoch: -1 }).bytes,
    'a label that paints': record('member', signer.publicKey, {
      name: 'villain',
      labels: { '\u001b[31m\u009b0m\r\nfake\u202e': 'x'.repeat(300) },
      admission: { ticket: new Uint8Array(32), at: [0, 0], signature: new Uint8Array(64) },
    }).bytes,
    'too big': new Uint8Array(MAX_RECORD + 100).fill(7),
  }
  // Through sync first, all at once, since gossip soon does not listen any more.
  await eventually('the node to take them in', async () => {
    const { stream, frames } = await rogue(ids.sync)
    await exchange(stream, async () => {
      await frames.write(['hello', new Uint8Array(16), Date.now(), []])
      for (let ended = false; !ended; ) ended = (await frames.read(syncFrame))[0] === 'end'
      const { 'too big': tooBig, ...fitting } = sick
      await frames.write(['records', Object.values(fitting)])
      await frames.write(['end'])
      await frames.read(syncFrame)
      assert.ok(tooBig.length > MAX_RECORD)
    })
    return true
  })
  for (const bytes of Object.values(sick)) await publish(recordTopic, bytes)
  await publish(beaconTopic, sick['a beacon of another AP'])
  await eventually('the refusals to be told', async () => {
    const codes = new Set((await eventsOf('refused')).map(({ code }) => code))
    return ['bad-signature', 'other-mesh', 'malformed'].every((code) => codes.has(code))
  })
  for (const event of await eventsOf('refused'))
    assert.ok(villains.some(({ peerId }) => peerId.toString() === event.from))
  // biome-ignore lint/suspicious/noControlCharactersInRegex: it is about them
  const painting = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202e]/
  assert.match(target.log, '\\\\u{1b}[31m')
  assert.not.match(target.log, painting)
  assert.not.match(JSON.stringify(await eventsOf('refused')), /\\u001b|\\r|\\n|\u009b|\u202e/)
  const { stdout } = await target.cli('events')
  assert.not.match(stdout, painting)
  await unharmed(before)
  assert.ok(good.bytes.length > 0)
})

harmless('member')

test('a sync that never ends does not fill the memory, whichever side the villain is on', async () => {
  await beLetIn()
  const before = await digestOf(target)
  const random = (bytes: number) => {
    const out = new Uint8Array(bytes)
    for (let at = 0; at < bytes; at += 32) out.set(sha256(utf8(`${at} ${Math.random()}`)), at)
    return out
  }
  const page = random(4096 * 32)
  let frame = 0
  const fresh = () => {
    for (let at = 0; at < page.length; at += 32) new DataView(page.buffer).setUint32(at + 4, frame * 4096 + at)
    frame++
    return page
  }
  // Hashes of records that the node does not have: 2.5 million of them.
  const endless = await rogue(ids.sync)
  await dare(async () => {
    await endless.frames.write(['hello', new Uint8Array(16), Date.now(), []])
    for (let i = 0; i < 600; i++) await endless.frames.write(['ranges', [['hashes', hex(Uint8Array.of(i)), fresh()]]])
  })
  await unharmed(before, { changes: true })
  endless.stream.abort(new Error('and never an end'))

  // The node as the one that asks: hundreds of thousands of times it is to send what it has.
  await beLetIn()
  let sent = 0
  let sequence = 0
  let wanted = false
  await villain.handle(ids.sync, async (stream) => {
    await dare(() =>
      exchange(stream, async () => {
        const frames = new Frames(stream, 16 * 1024 ** 2, 20_000)
        await frames.read(syncFrame)
        await frames.write(['hello', new Uint8Array(16), Date.now(), []])
        await frames.write(['ranges', [['digests', '', new Uint8Array(256 * 16)]]])
        await frames.write(['end'])
        const known: Uint8Array[] = []
        for (;;) {
          const next: SyncFrame = await frames.read(syncFrame)
          if (next[0] === 'end') break
          if (next[0] !== 'ranges') continue
          for (const [kind, , joined] of next[1]) if (kind === 'hashes') known.push(...splitHashes(joined))
        }
        const want = concat(...Array.from({ length: 4096 }, (_, i) => known[i % known.length]!))
        for (let i = 0; i < 100; i++) await frames.write(['want', want])
        for (let i = 0; i < 250; i++) await frames.write(['ranges', [['hashes', '', new Uint8Array()]]])
        await frames.write(['end'])
        wanted = true
        for (;;) {
          const next = await frames.read(syncFrame)
          if (next[0] === 'records') sent += next[1].length
          if (next[0] === 'end') break
        }
        await frames.write(['end'])
        assert.ok(sent <= 2 * known.length, `${sent} records sent, of ${known.length}`)
      }),
    )
  })
  let pulses = await rogue(ids.pulse)
  await eventually('the node to ask', async () => {
    // One that does not answer probes is hung up on now and then.
    if (pulses.stream.status !== 'open') pulses = await rogue(ids.pulse)
    await pulses.frames.write({ boot: 1, sequence: ++sequence, ledger: new Uint8Array(16) })
    return wanted && sent > 0
  })
  await villain.unhandle(ids.sync)
  const { ledger } = await target.status()
  assert.ok(sent <= 2 * (ledger.records + 10), `${sent} records sent, of ${ledger.records}`)
  await unharmed(before, { changes: true })

  // Bad records without end: after a while the node has enough.
  const bad = Array.from({ length: 200 }, (_, i) => spoilt(record('snapshot-head', utf8(`b${i}`), {}).bytes))
  let accepted = 0
  const { stream, frames: bombs } = await rogue(ids.sync)
  await dare(async () => {
    await bombs.write(['hello', new Uint8Array(16), Date.now(), []])
    for (let ended = false; !ended; ) ended = (await bombs.read(syncFrame))[0] === 'end'
    for (; accepted < 200; accepted++) {
      await bombs.write(['records', bad])
      await pause(5)
    }
  })
  assert.ok(accepted < 200, 'it was cut off')
  stream.abort(new Error('enough'))
  await unharmed(before, { changes: true })
})

test('a record of the future is kept and handed on, and does nothing yet', async () => {
  await beLetIn()
  const future = record('forget', signer.publicKey, {}, Date.now() + 3_600_000)
  const records = async () => (await target.status()).ledger.records
  const before = await records()
  await eventually('the record to be there', async () => {
    await publish(recordTopic, future.bytes)
    await dare(async () => {
      const { stream, frames } = await rogue(ids.sync)
      await exchange(stream, async () => {
        await frames.write(['hello', new Uint8Array(16), Date.now(), []])
        for (let ended = false; !ended; ) ended = (await frames.read(syncFrame))[0] === 'end'
        await frames.write(['records', [future.bytes]])
        await frames.write(['end'])
        await frames.read(syncFrame)
      })
    })
    return (await records()) === before + 1
  })
  await eventually('the witness to have it', async () => (await digestOf(witness)) === (await digestOf(target)))
  for (const ap of [target, witness]) {
    assert.ok(
      (await ap.aps()).some(({ name }) => name === 'villain'),
      'it will leave in an hour only',
    )
    assert.ok(Math.abs(Date.parse((await ap.status()).time) - Date.now()) < 60_000, 'nobody follows its clock')
  }
  await unharmed(await digestOf(target))
})

test('one that accuses a live AP again and again does not kill it, is refuted, and does not fill the events of others', async () => {
  const watchersOf = async () => {
    const { watchers } = await target.client.get<{ watchers: { id: string }[] }>('/v1/inspect', { of: witness.id })
    return watchers.map(({ id }) => id)
  }
  do await beLetIn()
  while (!(await watchersOf()).includes(villain.peerId.toString()))
  const watchers = electorateOf((await watchersOf()).map(apKey))
  const before = (await target.events()).length
  // One that never pulses is hung up on now and then.
  await eventually('all accusations to be taken in', async () => {
    const { stream, frames } = await rogue(ids.sync)
    await exchange(stream, async () => {
      await frames.write(['hello', new Uint8Array(16), Date.now(), []])
      for (let ended = false; !ended; ) ended = (await frames.read(syncFrame))[0] === 'end'
      for (let i = 0; i < 10; i++) {
        // As much as a statement can say: the accused must still be able to say more.
        const body = { boot: 2 ** 32, sequence: 2 ** 40, silence: 60_000, probes: 100, heard: true, watchers }
        const accusations = Array.from({ length: 50 }, () => record('statement', apKey(witness.id), body))
        await frames.write(['records', accusations.map(({ bytes }) => bytes)])
        // And claims to instances that nobody made.
        const claims = Array.from({ length: 50 }, (_, n) =>
          record('claim', instanceSubject(sha256(utf8(`${i} ${n}`)).slice(0, 20), n), {
            epoch: 2 ** 40,
            cause: 'mine',
          }),
        )
        await frames.write(['records', claims.map(({ bytes }) => bytes)])
      }
      await frames.write(['end'])
      await frames.read(syncFrame)
    })
    return true
  })
  const rows = await target.aps()
  assert.ok(
    rows.every(({ id, state }) => id !== witness.id || state !== 'dead'),
    JSON.stringify(rows),
  )
  const events = (await target.events()).slice(before)
  assert.ok(events.length < 400, `${events.length} events`)
  assert.ok(events.some(({ kind }) => kind === 'accused'))
  assert.ok((await eventsOf('dead')).every(({ ap }) => ap !== witness.id))
  await eventually('the accused to have refuted it', async () =>
    (await target.aps()).some(({ id, state }) => id === witness.id && state === 'alive'),
  )
})

test('one that does nothing but what is refused does not fill the events, nor the log', async () => {
  await beLetIn()
  const [eventsBefore, logBefore] = [(await target.events()).length, target.log.length]
  for (let i = 0; i < 1500; i++) {
    const bad = spoilt(record('snapshot-head', utf8(`f${i}`), {}).bytes)
    await publish(i % 2 === 0 ? recordTopic : beaconTopic, bad)
  }
  for (let round = 0; round < 8; round++) {
    await dare(async () => {
      const { frames } = await rogue(ids.sync)
      await frames.write(['hello', new Uint8Array(16), Date.now(), []])
      for (let ended = false; !ended; ) ended = (await frames.read(syncFrame))[0] === 'end'
      const bad = Array.from({ length: 300 }, (_, i) => spoilt(record('snapshot-head', utf8(`s${i}`), {}).bytes))
      await frames.write(['records', bad])
      await frames.read(syncFrame)
    })
  }
  const events = (await target.events()).length - eventsBefore
  assert.ok(events < 200, `${events} events`)
  assert.ok(target.log.length - logBefore < 200_000, `${target.log.length - logBefore} bytes of log`)
})

test('those on whose streams nothing is said are waited for no longer than others', async () => {
  assert.ok(silent.length > 100)
  // A pulse may be late, and the next layer of an image slow to come.
  const patient = silent.filter(({ protocol }) => [ids.join, ids.sync, ids.probe, ids.reach].includes(protocol))
  await eventually('the patience with them to end', () => patient.filter(isOpen).length === 0)
})

test('after all that the two are as they were to each other, and what is honest gets through', async () => {
  await Promise.all(villain.getConnections().map((connection) => connection.close()))
  await unharmed(await digestOf(target))
  // All that the villain was are members that do not answer, and more than the two.
  const others = (await target.status()).warnings.filter((text) => !/engine|villain|isolated/.test(text))
  assert.equal(others, [])
})

test.run()
