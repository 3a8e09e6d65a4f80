// Attacks by name, on a mesh of real nodes. During each what is honest gets through, the victim's memory stays what it was, and
// `events` says who it was. What a revoked publisher does on the cut-off side of a partition is in authority.test.ts, random
// bytes and replays in test/node/mesh/hostile.test.ts.
import { readFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { exchange, Frames } from '../../node/mesh/frames.js'
import { createHost, type Host } from '../../node/mesh/host.js'
import { askToJoin } from '../../node/mesh/join.js'
import { apKey, utf8 } from '../../protocols/bytes.js'
import { seal } from '../../protocols/envelope.js'
import { MAX_SYNC_FRAME } from '../../protocols/limits.js'
import { readTicket, redeem, writeTicket } from '../../protocols/ticket.js'
import { joinRequest, syncFrame } from '../../protocols/wire.js'
import { refusalOf, seed } from '../node/realm.js'
import { eventually, type TestAp, TestMesh } from '../support/mesh.js'
import { dare, spoilt, Villain } from '../support/villain.js'

/** An honest record is everywhere within so long, whatever is going on; and the victim has grown by less. */
const DEADLINE = 10_000
const MAX_GROWN_MB = 150

const mesh = new TestMesh()
const noEngine = () => ({ args: ['--docker-host', 'unix:///no/engine'] })
const [victim, witness] = (await mesh.start(3, noEngine)) as [TestAp, TestAp, TestAp]
const villains: Villain[] = []
const sockets: Socket[] = []
test.after(async () => {
  for (const socket of sockets) socket.destroy()
  await Promise.all(villains.map(({ host }) => host.stop()))
  await mesh.close()
})

const invite = (): Promise<string> => mesh.ticket(victim)

async function stranger(): Promise<Villain> {
  const villain = await Villain.appear(victim, await invite())
  villains.push(villain)
  return villain
}

async function member(name: string): Promise<Villain> {
  const villain = await stranger()
  await villain.join(await invite(), name)
  return villain
}

const memory = (): number =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${victim.pid}/status`, 'utf8'))![1]) / 1024
const memoryAtFirst = memory()

/** Somebody honest hands a record to another AP, and it reaches the victim. */
async function honest(): Promise<void> {
  const { realm } = villains[0]!
  const record = seal(await mesh.adminOf(witness), realm, [Date.now(), 0], 'snapshot-head', seed(), {})
  await witness.client.post('/v1/records', record.bytes)
  await eventually(
    'an honest record to be with the victim',
    async () => (await victim.status()).ledger.digest === (await witness.status()).ledger.digest,
    { deadlineMs: DEADLINE },
  )
}

async function unharmed(): Promise<void> {
  assert.ok(victim.isRunning, victim.log.slice(-1000))
  await honest()
  const grown = memory() - memoryAtFirst
  assert.ok(grown < MAX_GROWN_MB, `${Math.round(grown)} MB more than at first`)
  const ours = new Set(mesh.aps.map(({ id }) => id))
  await eventually('all to believe each other alive', async () =>
    [...(await victim.aps()), ...(await witness.aps())].every(({ id, state }) => !ours.has(id) || state === 'alive'),
  )
  assert.not((await victim.events()).some(({ kind, ap }) => kind === 'dead' && ours.has(ap as string)))
}

const told = (kind: string, villain: Villain, name: string) =>
  eventually(`the victim to tell of ${name}`, async () =>
    (await victim.events()).some((event) => event.kind === kind && event.from === villain.id && event.name === name),
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
  const { frames } = await villain.open(join)
  await frames.write(['join', new Uint8Array(10), new Uint8Array(10)])
  assert.ok((await frames.readBytes()).length > 0, 'it is told why not')
  await unharmed()
})

test('eclipse of a joiner: false members welcome it, and it ends in the true mesh all the same, at the true time', async () => {
  const ticket = readTicket(await invite())
  const nextYear = Date.now() + 365 * 86_400_000
  const { ids, realm } = villains[0]!
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
      })
      await host.handle(ids.sync, async (stream) => {
        const frames = new Frames(stream, MAX_SYNC_FRAME, 5000)
        await frames.read(syncFrame)
        for (const frame of [['hello', new Uint8Array(16), nextYear, []], ['end'], ['end']]) await frames.write(frame)
      })
      return host
    }),
  )
  try {
    const addresses = [...fakes.flatMap((host) => host.getMultiaddrs().slice(0, 1).map(String)), ...ticket.addresses]
    const joiner = await mesh.add('joiner', { ...noEngine(), join: writeTicket({ ...ticket, addresses }) })
    await eventually('it to be in', async () => (await joiner.status()).state === 'running', { deadlineMs: 30_000 })
    await mesh.settled()
    const { time, mesh: id } = await joiner.status()
    assert.ok(Math.abs(Date.parse(time) - Date.now()) < 60_000, time)
    assert.is(id, (await victim.status()).mesh)
    assert.ok(realm.length > 0)
    assert.not((await joiner.aps()).some((row) => fakes.some(({ peerId }) => peerId.toString() === row.id)))
  } finally {
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
    await honest()
    // It dials on, and takes each connection for open until the victim has seen who it is.
    await eventually('it to have no connection', () =>
      villain.host.getConnections().every(({ status }) => status !== 'open'),
    )
    await unharmed()
  } finally {
    await stop()
  }
  const mine = (await victim.events()).filter(({ from }) => from === villain.id)
  assert.ok(mine.length < 60, `${mine.length} events`)
})

test('flood of connections that say nothing: nobody else is kept out', async () => {
  const { port } = new URL(`http://x:${/tcp\/(\d+)/.exec((await victim.status()).addresses[0]!)![1]}`)
  for (let i = 0; i < 300; i++) {
    const socket = connect({ host: '127.0.0.1', port: Number(port), localAddress: `127.0.0.${2 + (i % 4)}` })
    socket.on('error', () => {})
    sockets.push(socket)
  }
  const late = await stranger()
  await late.join(await invite(), 'late')
  await unharmed()
  await eventually('the silent ones to be closed', () => sockets.every(({ closed, destroyed }) => closed || destroyed))
})

test('oversize: a member whose frames are too big is named', async () => {
  const villain = await member('glutton')
  const stop = keep(async () => {
    const { stream, frames } = await villain.open(villain.ids.lease)
    await dare(() => frames.writeBytes(new Uint8Array(MAX_SYNC_FRAME)))
    stream.abort(new Error('enough'))
  })
  try {
    await told('throttled', villain, 'glutton')
    await unharmed()
  } finally {
    await stop()
  }
})

test('slow loris: a stream that gets a byte a second is ended at its deadline, and meanwhile all goes on', async () => {
  const villain = await member('loris')
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
  } finally {
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

test('forged certificate: neither one member alone nor statements that it forges make a live AP dead', async () => {
  const villain = await member('forger')
  const body = {
    boot: 2 ** 32,
    sequence: 2 ** 40,
    silence: 60_000,
    probes: 9,
    heard: true,
    watchers: new Uint8Array(16),
  }
  const own = villain.record('statement', apKey(witness.id), body).bytes
  // In the name of all others: each says who signed it, and another one did.
  const forged = mesh.aps.map(({ id }) => {
    const other = { publicKey: apKey(id), sign: (message: Uint8Array) => villain.signer.sign(message) }
    return seal(other, villain.realm, [Date.now(), 0], 'statement', apKey(witness.id), body).bytes
  })
  await villain.hand([own, ...forged])
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

test.run()
