// Attacks by name, on a mesh of real nodes. During each what is honest gets through, the victim's memory stays what it was, and
// `events` says who it was. Replays are in replays.test.ts, what nobody may have run in ungranted.test.ts, what a revoked
// publisher does on the cut-off side of a partition in authority.test.ts and test/hosts/partition.test.ts, random bytes in
// test/node/mesh/hostile.test.ts.
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { exchange, Frames } from '../../node/mesh/frames.js'
import { createHost, type Host } from '../../node/mesh/host.js'
import { askToJoin } from '../../node/mesh/join.js'
import { apKey, concat, utf8 } from '../../protocols/bytes.js'
import { chuteSubject, newCreation } from '../../protocols/chute.js'
import { encode } from '../../protocols/codec.js'
import { seal } from '../../protocols/envelope.js'
import { apSigner } from '../../protocols/keys.js'
import { MAX_EXCESS, MAX_NAMES, MAX_RESERVED, MAX_SYNC_FRAME } from '../../protocols/limits.js'
import { meshIdOf } from '../../protocols/membership.js'
import { electorateOf } from '../../protocols/roster.js'
import { readTicket, redeem, writeTicket } from '../../protocols/ticket.js'
import { joinRequest, probeReply, syncFrame } from '../../protocols/wire.js'
import { refusalOf, seed } from '../node/realm.js'
import { serviceOf, specOf } from '../protocols/support.js'
import { eventually, type TestAp, TestMesh } from '../support/mesh.js'
import { dare, spoilt, Villain } from '../support/villain.js'

/** An honest record is everywhere within so long, whatever is going on; and the victim has grown by less. */
const DEADLINE = 10_000
const MAX_GROWN_MB = 150

/**
 * Within so long it comes by sync alone, however many lie: what a sync brought a beacon tells a second later, a digest that differs is
 * borne with for 1.5 s, and looked at each half second; the rest is what a busy machine takes.
 */
const ECLIPSED = 10_000

const mesh = new TestMesh()
const noEngine = () => ({ args: ['--docker-host', 'unix:///no/engine'] })
const [victim, witness] = (await mesh.start(3, noEngine)) as [TestAp, TestAp, TestAp]
const realm = meshIdOf(readTicket(await mesh.ticket(victim)).meshKey)
const villains: Villain[] = []
const sockets: Socket[] = []
// Those of one test would be heard in the next ones, and slow them down.
test.after.each(async () => {
  for (const socket of sockets.splice(0)) socket.destroy()
  await Promise.all(villains.splice(0).map(({ host }) => host.stop()))
})
test.after(() => mesh.close())

const invite = (): Promise<string> => mesh.ticket(victim)

async function stranger(target = victim): Promise<Villain> {
  const villain = await Villain.appear(target, await invite())
  villains.push(villain)
  return villain
}

async function member(name: string): Promise<Villain> {
  const villain = await stranger()
  await villain.join(await invite(), name)
  return villain
}

const victimPort = async (): Promise<number> => Number(/tcp\/(\d+)/.exec((await victim.status()).addresses[0]!)![1])

const memory = (): number =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${victim.pid}/status`, 'utf8'))![1]) / 1024
const memoryAtFirst = memory()

/** Somebody honest hands a record to another AP, and it reaches the victim. */
async function honest(): Promise<void> {
  const record = seal(await mesh.adminOf(witness), realm, [Date.now(), 0], 'snapshot-head', seed(), {})
  await witness.client.post('/v1/records', record.bytes)
  await eventually(
    'an honest record to be with the victim',
    async () => (await victim.status()).ledger.digest === (await witness.status()).ledger.digest,
    { deadlineMs: DEADLINE },
  )
}

/** @param grown by how many megabytes the victim may have grown */
async function unharmed(grown = MAX_GROWN_MB): Promise<void> {
  assert.ok(victim.isRunning, victim.log.slice(-1000))
  await honest()
  // What V8 keeps for a while is its own affair.
  await eventually('the memory of the victim to be as before', () => {
    const more = memory() - memoryAtFirst
    if (more >= grown) throw new Error(`${Math.round(more)} MB more than at first`)
    return true
  })
  const ours = new Set(mesh.aps.map(({ id }) => id))
  await eventually('all to believe each other alive', async () =>
    [...(await victim.aps()), ...(await witness.aps())].every(({ id, state }) => !ours.has(id) || state === 'alive'),
  )
  assert.not((await victim.events()).some(({ kind, ap }) => kind === 'dead' && ours.has(ap as string)))
}

const told = (kind: string, villain: Villain, name: string) =>
  eventually(`the victim to tell that ${name} is ${kind}`, async () =>
    (await victim.events()).find((event) => event.kind === kind && event.from === villain.id && event.name === name),
  )

/** Repeats something until it is told to stop. */
function keep(doing: () => Promise<unknown>): () => Promise<void> {
  let isOver = false
  const going = (async () => {
    while (!isOver) {
      await dare(doing)
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
  })()
  return () => {
    isOver = true
    return going
  }
}

/** It says twice a second that it lives, and each time that its ledger is another one. */
function live(villain: Villain): () => Promise<void> {
  let sequence = 0
  return keep(async () => {
    const ledger = new Uint8Array(randomBytes(16))
    await villain.say(villain.ids.pulse, encode({ boot: 1, sequence: ++sequence, ledger }))
    await new Promise((resolve) => setTimeout(resolve, 500))
  })
}

test('a stranger gets no protocol but the one by which it is let in', async () => {
  const villain = await stranger()
  const { join, ...closed } = villain.ids
  for (const protocol of [
    ...Object.values(closed),
    '/ipfs/id/1.0.0',
    '/ipfs/id/push/1.0.0',
    '/ipfs/ping/1.0.0',
    '/meshsub/1.2.0',
  ]) {
    await dare(async () => {
      const { stream } = await villain.open(protocol)
      let heard = 0
      stream.addEventListener('message', ({ data }) => {
        heard += data.byteLength
      })
      await eventually(`${protocol} to be refused`, () => stream.status !== 'open', { deadlineMs: 2000 })
      assert.is(heard, 0, protocol)
    })
    const left = villain.host
      .getConnections()
      .flatMap(({ streams }) => streams.filter((one) => one.protocol === protocol))
    assert.equal(
      left.filter(({ direction, status }) => direction === 'outbound' && status === 'open'),
      [],
      protocol,
    )
  }
  assert.equal(villain.host.services.pubsub.getPeers(), [], 'nor does the node begin gossip by itself')
  const { frames } = await villain.open(join)
  await frames.write(['join', new Uint8Array(10), new Uint8Array(10)])
  assert.ok((await frames.readBytes()).length > 0, 'it is told why not')
  await unharmed()
})

test('eclipse of a joiner: false members welcome it, and it ends in the true mesh all the same, at the true time', async () => {
  const ticket = readTicket(await invite())
  const nextYear = Date.now() + 365 * 86_400_000
  const { ids } = await stranger()
  let welcomes = 0
  const fakes: Host[] = await Promise.all(
    Array.from({ length: 12 }, async () => {
      const all = () => true
      const listen = ['/ip4/127.0.0.1/tcp/0']
      const host = await createHost({
        seed: seed(),
        mesh: 'eclipse',
        listen,
        mdns: false,
        bootstrap: [],
        isMember: all,
      })
      await host.start()
      await host.handle(ids.join, async (stream) => {
        const frames = new Frames(stream, MAX_SYNC_FRAME, 5000)
        await frames.read(joinRequest)
        await frames.write(['welcome', nextYear])
        welcomes++
      })
      await host.handle(ids.sync, async (stream) => {
        const frames = new Frames(stream, MAX_SYNC_FRAME, 5000)
        await frames.read(syncFrame)
        for (const frame of [['hello', new Uint8Array(16), nextYear, []], ['end'], ['end']]) await frames.write(frame)
      })
      return host
    }),
  )
  // The way to the true mesh opens once a fake has welcomed it.
  const port = await victimPort()
  const door = createServer((outer) => {
    const inner = connect(port, '127.0.0.1')
    for (const socket of [outer, inner]) sockets.push(socket.on('error', () => {}))
    if (welcomes === 0) outer.destroy()
    else outer.pipe(inner).pipe(outer)
  }).listen(0, '127.0.0.1')
  await once(door, 'listening')
  const way = `/ip4/127.0.0.1/tcp/${(door.address() as AddressInfo).port}/p2p/${victim.id}`
  try {
    const addresses = [...fakes.flatMap((host) => host.getMultiaddrs().slice(0, 1).map(String)), way]
    const joiner = await mesh.add('joiner', { ...noEngine(), join: writeTicket({ ...ticket, addresses }) })
    await eventually('it to be in', async () => (await joiner.status()).state === 'running', { deadlineMs: 30_000 })
    await mesh.settled()
    const { time, mesh: id } = await joiner.status()
    assert.ok(Math.abs(Date.parse(time) - Date.now()) < 60_000, time)
    assert.is(id, (await victim.status()).mesh)
    assert.not((await joiner.aps()).some((row) => fakes.some(({ peerId }) => peerId.toString() === row.id)))
  } finally {
    door.close()
    await Promise.all(fakes.map((host) => host.stop()))
  }
  await unharmed()
})

test('flood: a member that sends bad messages is throttled, then shut out, by name, and once', async () => {
  const villain = await member('flooder')
  const stop = keep(async () => {
    const bad = Array.from({ length: 50 }, (_, i) => spoilt(villain.record('snapshot-head', utf8(`f${i}`), {}).bytes))
    await Promise.all(bad.map((bytes) => villain.gossip(bytes)))
    await dare(() => villain.connect())
  })
  try {
    await told('throttled', villain, 'flooder')
    await eventually('it to be shut out', async () => {
      await dare(() => villain.hand([spoilt(villain.record('snapshot-head', utf8('x'), {}).bytes)]))
      return (await victim.events()).some(({ kind, from }) => kind === 'shut-out' && from === villain.id)
    })
    // Who is merely throttled is still asked whether it lives.
    const isAnswered = async () => (await probe(villain).catch(() => undefined)) !== undefined
    for (let i = 0; i < 5; i++) assert.not(await isAnswered())
    await unharmed()
  } finally {
    await stop()
  }
  const mine = (await victim.events()).filter(({ from }) => from === villain.id)
  assert.ok(mine.length < 60, `${mine.length} events`)
  const count = (kind: string) => mine.filter((event) => event.kind === kind).length
  assert.ok(count('throttled') <= count('shut-out') + 1, 'once an episode')
})

async function probe(villain: Villain): Promise<unknown> {
  const { stream, frames } = await villain.open(villain.ids.probe)
  return exchange(stream, async () => {
    await frames.write({})
    return frames.read(probeReply)
  })
}

test('flood of connections that say nothing: nobody else is kept out', async () => {
  const port = await victimPort()
  const silent: Socket[] = []
  for (let i = 0; i < 300; i++) {
    const socket = connect({ host: '127.0.0.1', port, localAddress: `127.0.0.${2 + (i % 4)}` })
    socket.on('error', () => {})
    silent.push(socket)
  }
  sockets.push(...silent)
  const late = await stranger()
  await late.join(await invite(), 'late')
  await unharmed()
  await eventually('the silent ones to be closed', () => silent.every(({ closed, destroyed }) => closed || destroyed))
})

test('oversize: a member whose frames are too big is named', async () => {
  const villain = await member('glutton')
  const stop = keep(async () => {
    const { stream, frames } = await villain.open(villain.ids.lease)
    await dare(() => frames.writeBytes(new Uint8Array(MAX_SYNC_FRAME)))
    stream.abort(new Error('enough'))
  })
  try {
    const { reason } = await told('throttled', villain, 'glutton')
    assert.match(reason as string, /^a frame of \d+ bytes; \d+ are allowed$/)
    await unharmed()
  } finally {
    await stop()
  }
})

test('slow loris: a stream that gets a byte a second is ended at its deadline, and meanwhile all goes on', async () => {
  const villain = await member('loris')
  const stop = live(villain)
  const connection = await villain.connect()
  const began = performance.now()
  const streams = await Promise.all(
    [villain.ids.sync, villain.ids.join, villain.ids.probe, villain.ids.lease].map((protocol) =>
      villain.open(protocol),
    ),
  )
  const drip = setInterval(() => {
    for (const { stream } of streams) if (stream.status === 'open') void dare(() => stream.send(Uint8Array.of(0x7f)))
  }, 1000)
  try {
    await unharmed()
    await eventually('all to be ended', () => streams.every(({ stream }) => stream.status !== 'open'))
    assert.ok(performance.now() - began < 20_000)
    assert.is(connection.status, 'open', 'by their deadlines, not with the connection')
  } finally {
    await stop()
    clearInterval(drip)
  }
})

test('sync bomb: a member that asks for syncs without end gets bounded work, and is named', async () => {
  const villain = await member('bomber')
  const hashes = new Uint8Array(4096 * 32)
  const bomb = async () => {
    const { stream, frames } = await villain.open(villain.ids.sync)
    await exchange(stream, async () => {
      await frames.write(['hello', new Uint8Array(16), Date.now(), []])
      for (let ended = false; !ended; ) ended = (await frames.read(syncFrame))[0] === 'end'
      for (let i = 0; i < 100; i++) await frames.write(['want', hashes])
      await frames.write(['end'])
      await frames.read(syncFrame)
    })
  }
  const stop = keep(() => Promise.all([dare(bomb), dare(bomb), dare(bomb)]))
  try {
    await told('throttled', villain, 'bomber')
    await unharmed()
  } finally {
    await stop()
  }
})

const watchersOf = async ({ id }: TestAp): Promise<string[]> => {
  const { watchers } = await witness.client.get<{ watchers: { id: string }[] }>('/v1/inspect', { of: id })
  return watchers.map((watcher) => watcher.id)
}

/** A member that is let in as one of those that watch the witness. */
async function watcherOfWitness(): Promise<Villain> {
  return eventually('one of the villains to watch the witness', async () => {
    const villain = await member('forger')
    await eventually('it to be a member', async () => (await witness.aps()).some(({ id }) => id === villain.id))
    return (await watchersOf(witness)).includes(villain.id) && villain
  })
}

test('forged certificate: neither one watcher alone nor statements that it forges make a live AP dead', async () => {
  const villain = await watcherOfWitness()
  // The most that one can sign: of its next boot, that it was heard, and with the watchers that all others see.
  const watchers = electorateOf((await watchersOf(witness)).map(apKey))
  const body = { boot: 2 ** 32, sequence: 2 ** 40, silence: 60_000, probes: 9, heard: true, watchers }
  const own = villain.record('statement', apKey(witness.id), body).bytes
  // In the name of all others: each says who signed it, and another one did.
  const forged = mesh.aps.map(({ id }) => {
    const other = { publicKey: apKey(id), sign: (message: Uint8Array) => villain.signer.sign(message) }
    return seal(other, villain.realm, [Date.now(), 0], 'statement', apKey(witness.id), body).bytes
  })
  await villain.hand([own, ...forged])
  await eventually('its own to be with the victim', async () =>
    (await victim.events()).some(({ kind, ap, by }) => kind === 'accused' && ap === witness.id && by === 'forger'),
  )
  await eventually('the forgeries to be told', async () =>
    (await victim.events()).some(
      ({ kind, from, code }) => kind === 'refused' && from === villain.id && code === 'bad-signature',
    ),
  )
  await unharmed()
})

test('stolen ticket: of two that use it one gets in, and a record that is dated back changes nothing', async () => {
  const ticket = await invite()
  const [first, thief] = [await stranger(), await stranger()]
  await first.join(ticket, 'first')
  await thief.connect()
  for (const ms of [Date.now(), Date.now() - 86_400_000]) {
    const admission = redeem(readTicket(ticket), thief.signer, ms, { name: 'thief', labels: {} })
    await refusalOf(askToJoin(thief.host, thief.ids, victim.id, admission), 'join-refused')
  }
  await unharmed()
  const names = (await victim.aps()).map(({ name }) => name)
  assert.ok(names.includes('first'))
  assert.not(names.includes('thief'))
})

test('clock set to next year: what it signs waits, nobody follows it, and people are told', async () => {
  const villain = await member('next-year')
  const nextYear = Date.now() + 365 * 86_400_000
  const future = villain.record('snapshot-head', utf8('future'), {}, nextYear)
  const { error } = (await victim.client.post('/v1/records', future.bytes).catch((error) => ({ error }))) as {
    error: Error
  }
  assert.match(error.message, /the clock of the snapshot-head record is \d+ s ahead of this AP's/)
  const leave = villain.record('goodbye', villain.signer.publicKey, { boot: 1 }, nextYear)
  await villain.hand([leave.bytes], nextYear)
  await unharmed()
  for (const ap of [victim, witness]) {
    assert.ok(Math.abs(Date.parse((await ap.status()).time) - Date.now()) < 60_000)
    assert.not((await ap.events()).some(({ kind, ap: of }) => kind === 'left' && of === villain.id))
  }
})

/** What nobody can read, as a frame of each protocol of ours. */
const GARBAGE = Uint8Array.of(0xff, 0xff)
const GOSSIP = '/meshsub/1.2.0'

/** Many frames at once: who is throttled and goes on at a moderate pace is not shut out. */
const often = (frame: () => Uint8Array): Uint8Array =>
  concat(...Array.from({ length: 100 }, frame).flatMap((bytes) => [Uint8Array.of(bytes.length), bytes]))

/** What gossipsub sends of one message: field 2 of an RPC, which has data and topic in its fields 2 and 4. */
function published(data: Uint8Array, topic: string): Uint8Array {
  const message = concat(Uint8Array.of(0x12, data.length), data, Uint8Array.of(0x22, topic.length), utf8(topic))
  return concat(Uint8Array.of(0x12, message.length), message)
}
const rubbish = (topic: string) => often(() => published(new Uint8Array(randomBytes(20)), topic))

/** How a member can say nothing that anybody can use: what it does again and again, and what it is named for. */
const nonsense: Record<string, [reason: RegExp, say: (villain: Villain) => Promise<void>]> = {
  'no-record': [/CBOR|envelope/, (villain) => villain.send(GOSSIP, rubbish(villain.topics.records))],
  'no-beacons': [/CBOR|envelope/, (villain) => villain.send(GOSSIP, rubbish(villain.topics.beacons))],
  'no-gossip': [
    /^gossip that does not decode$/,
    (villain) =>
      villain.send(
        GOSSIP,
        often(() => Uint8Array.of(0x12, 0x7f)),
      ),
  ],
  'no-end': [
    /^a frame of gossip that is too long$/,
    async (villain) => {
      const { stream } = await villain.open(GOSSIP)
      stream.send(new Uint8Array(9).fill(0xff))
      await stream.close({ signal: AbortSignal.timeout(1000) })
    },
  ],
  'no-content': [/^too many messages$/, (villain) => villain.send(GOSSIP, new Uint8Array(16 * 1024))],
  'old-pulses': [
    /^too many messages$/,
    (villain) =>
      villain.send(
        villain.ids.pulse,
        often(() => encode({ boot: 1, sequence: 1, ledger: new Uint8Array(16) })),
      ),
  ],
  ...Object.fromEntries(
    (['join', 'sync', 'pulse', 'probe', 'reach', 'lease', 'blob', 'beacon'] as const).map((protocol) => [
      `no-${protocol}`,
      [/CBOR/, (villain: Villain) => villain.say(villain.ids[protocol], GARBAGE)] as const,
    ]),
  ),
}

/** What one can say that is throttled: gossip, on a stream that is open, and whether it lives. Whoever goes on is shut out. */
const COMES_ALL_THE_SAME = /^(no-(record|beacons|gossip|content|pulse|probe|reach)|old-pulses)$/

test('undecodable: a member that says what nobody can read is throttled, then shut out, by name, whichever way it says it', async () => {
  const ticket = await mesh.ticket(victim, { uses: 20 })
  // All are in before the first one begins: who is shut out and dials on takes the handshakes of its address from the others.
  const members: Record<string, Villain> = {}
  await Promise.all(
    Object.keys(nonsense).map(async (name) => {
      const villain = await stranger()
      villain.swallow()
      await villain.join(ticket, name)
      members[name] = villain
    }),
  )
  const one = async ([name, [reason, say]]: [string, (typeof nonsense)[string]]) => {
    const villain = members[name]!
    const stop = keep(() => say(villain))
    try {
      assert.match((await told('throttled', villain, name)).reason as string, reason)
      if (COMES_ALL_THE_SAME.test(name)) await told('shut-out', villain, name)
    } finally {
      await stop()
    }
  }
  await Promise.all(Object.entries(nonsense).map(one))
  await unharmed()
})

/** An honest AP that neither watches the victim nor is watched by it, so that none hears the other's pulses; where there is one. */
async function farFromVictim(): Promise<TestAp> {
  const [victims, honest] = [await watchersOf(victim), mesh.aps.filter((ap) => ap !== victim)]
  for (const ap of honest) if (!victims.includes(ap.id) && !(await watchersOf(ap)).includes(victim.id)) return ap
  return witness
}

test('eclipse of a member: twelve that have its gossip, lie about their ledgers and pass nothing on delay a record by seconds', async () => {
  const ticket = await mesh.ticket(victim, { uses: 13 })
  const liars = await Promise.all(
    Array.from({ length: 12 }, async (_, i) => {
      const liar = await stranger()
      await liar.host.handle(liar.ids.sync, () => {}) // takes a sync, and says nothing in it
      liar.swallow()
      await liar.join(ticket, `liar${i}`)
      return liar
    }),
  )
  const stops = liars.map(live)
  try {
    await eventually('all to have the gossip of the victim', () =>
      liars.every(({ meshPeers }) => meshPeers.has(victim.id)),
    )
    const far = await farFromVictim()
    const messenger = await stranger(far)
    await messenger.join(ticket, 'messenger')
    // What came by a sync, as after a partition, goes by no gossip.
    const admin = await mesh.adminOf(far)
    const body = { creation: newCreation(Date.now(), new Uint8Array(8)), revision: 1, spec: specOf() }
    const subject = chuteSubject(admin.publicKey, 'eclipsed')
    await messenger.hand([seal(admin, realm, [Date.now(), 0], 'deployment', subject, body).bytes])
    await eventually(
      'the victim to know the chute',
      async () =>
        (await victim.client.get<{ chute: string }[]>('/v1/chutes')).some(({ chute }) => chute === 'eclipsed'),
      { deadlineMs: ECLIPSED },
    )
    await honest()
  } finally {
    await Promise.all(stops.map((stop) => stop()))
  }
  await unharmed()
})

test('flood of sound records: a granted publisher and a member fill the room that each has, and no more', async () => {
  const villain = await member('filler')
  const publisher = apSigner(seed())
  const [admin, now] = [await mesh.adminOf(victim), Date.now()]
  const grant = seal(admin, realm, [now, 0], 'grant', publisher.publicKey, { role: 'publisher', expires: 0 })
  await victim.client.post('/v1/records', grant.bytes)
  const { records } = (await victim.status()).ledger
  // Of some 3 kB each, and none of them runs.
  const services = [serviceOf({ environment: { A: 'x'.repeat(2500) } })]
  const published = Array.from({ length: MAX_NAMES + 256 }, (_, i) => {
    const body = { creation: newCreation(now, new Uint8Array(8)), revision: 1, spec: specOf({ replicas: 0, services }) }
    return seal(publisher, realm, [now, i], 'deployment', chuteSubject(publisher.publicKey, `f${i}`), body).bytes
  })
  const own = Array.from(
    { length: 2 * MAX_RESERVED },
    (_, i) => villain.record('snapshot-head', utf8(`f${i}`), {}).bytes,
  )
  for (const [all, each] of [
    [published, 80],
    [own, 500],
  ] as const)
    for (let at = 0; at < all.length; at += each)
      await eventually('a page to be taken', () => villain.hand(all.slice(at, at + each)).then(() => true))
  const kept = (await victim.status()).ledger.records - records
  // What else was said meanwhile is a few records.
  assert.ok(kept > MAX_NAMES && kept < MAX_NAMES + MAX_RESERVED + MAX_EXCESS + 50, `${kept} more records`)
  await mesh.settled()
  // Some 4 MB stay; the rest is what V8 takes for that.
  await unharmed(2 * MAX_GROWN_MB)
})

test.run()
