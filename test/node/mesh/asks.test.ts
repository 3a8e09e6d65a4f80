// A member and APs of strangers that ask it to be let in, over real sockets.
import type { Libp2p } from '@libp2p/interface'
import { multiaddr } from '@multiformats/multiaddr'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Asks, type Request } from '../../../node/mesh/asks.js'
import { exchange, Frames } from '../../../node/mesh/frames.js'
import { createAsker, createHost } from '../../../node/mesh/host.js'
import { codeOf, commitTo } from '../../../protocols/asking.js'
import { apKey } from '../../../protocols/bytes.js'
import { apSigner } from '../../../protocols/keys.js'
import { MAX_ASK_FRAME } from '../../../protocols/limits.js'
import { admit, takePapers } from '../../../protocols/ticket.js'
import { ASK, askedReply, lookReply, pollReply } from '../../../protocols/wire.js'
import { Realm, seed } from '../realm.js'

const realm = new Realm()
const ownSeed = seed()
const member = await createHost({
  ...{ seed: ownSeed, mesh: realm.text, listen: ['/ip4/127.0.0.1/tcp/0'], mdns: false, bootstrap: [] },
  isMember: () => false,
  price: (protocol) => (protocol === ASK ? 1 / 8 : undefined),
})
const told: Request[] = []
const asks = new Asks({
  ...{ host: member, meshKey: realm.owner.publicKey, mdns: false },
  self: { key: apSigner(ownSeed).publicKey, name: 'kitchen' },
  isIn: () => true,
  openTo: () => undefined,
  now: () => Date.now(),
  onAsked: (request) => told.push(request),
})
await member.start()
await asks.start()
const address = multiaddr(member.getMultiaddrs()[0]!.toString())
const hosts: Libp2p[] = []

async function asker(from = seed()): Promise<Libp2p> {
  const host = await createAsker(from)
  hosts.push(host)
  return host
}
test.after(async () => {
  await asks.stop()
  await Promise.all([member, ...hosts].map((host) => host.stop()))
})

async function speak<T>(host: Libp2p, run: (frames: Frames) => Promise<T>): Promise<T> {
  const connection = await host.dial(address)
  try {
    const stream = await connection.newStream(ASK)
    return await exchange(stream, () => run(new Frames(stream, MAX_ASK_FRAME, 5000)))
  } finally {
    await connection.close() // few strangers may be connected at one time
  }
}

const nonce = (n: number): Uint8Array => new Uint8Array(32).fill(n)

/** Asks as one should, or reveals another number than it said. @returns the member's number, or its refusal */
const ask = (host: Libp2p, name: string, number = nonce(1), revealed = number) =>
  speak(host, async (frames) => {
    await frames.write(['ask', commitTo(number), name, {}])
    const reply = await frames.read(askedReply)
    if (reply[0] === 'refused') return reply[1]
    await frames.write(['reveal', revealed])
    await frames.read(pollReply)
    return reply[1]
  })

const poll = (host: Libp2p) =>
  speak(host, async (frames) => {
    await frames.write(['poll'])
    return frames.read(pollReply)
  })

/** Those that fill it. */
const crowd: Libp2p[] = []

const idOf = (host: Libp2p): string => host.peerId.toString()

test('who looks learns which mesh it is, and nothing else is kept of it', async () => {
  const [, meshKey, name] = await speak(await asker(), async (frames) => {
    await frames.write(['look'])
    return frames.read(lookReply)
  })
  assert.equal([meshKey, name], [realm.owner.publicKey, 'kitchen'])
  assert.equal(asks.requests(), [])
})

test('both sides come to one code, and who sits between them has another one on each side', async () => {
  const [asking, between] = [await asker(), await asker()]
  const said = await ask(asking, 'attic')
  const passedOn = await ask(between, 'attic')
  const codes = asks.requests().map(({ code }) => code)
  const seen = (host: Libp2p, memberNonce: unknown) =>
    codeOf({
      ...{ meshKey: realm.owner.publicKey, asker: apKey(idOf(host)), member: apKey(idOf(member as unknown as Libp2p)) },
      ...{ askerNonce: nonce(1), memberNonce: memberNonce as Uint8Array },
    })
  assert.equal(codes, [seen(asking, said), seen(between, passedOn)])
  assert.is.not(codes[0], codes[1])
  assert.equal(await poll(asking), ['waiting'])
})

test('a number other than the one that was said before leaves no trace', async () => {
  const cheat = await asker()
  await ask(cheat, 'cheat', nonce(1), nonce(2)).then(
    () => assert.unreachable('it was answered'),
    () => {},
  )
  assert.not.ok(asks.requests().some(({ name }) => name === 'cheat'))
  assert.equal(await poll(cheat), ['unknown'])
})

test('what is approved lets in the AP that asked and no other, and the member never has the ticket', async () => {
  const own = seed()
  const [host, other] = [await asker(own), await asker()]
  await ask(host, 'porch')
  const { ticket, grant } = realm.invite()
  asks.approve(idOf(host), {
    grant: grant.bytes,
    admission: admit(ticket, realm.mesh, apKey(idOf(host)), [Date.now(), 0]),
  })
  const reply = await poll(host)
  assert.is(reply[0], 'let-in')
  if (reply[0] !== 'let-in') return
  const approval = { grant: reply[1], admission: reply[2] }
  const about = { name: 'porch', labels: {} }
  const { member: record } = takePapers(approval, realm.owner.publicKey, apSigner(own), Date.now(), about)
  assert.equal(record.signer, apSigner(own).publicKey)
  assert.throws(
    () => takePapers(approval, realm.owner.publicKey, apSigner(seed()), Date.now(), about),
    /does not fit its body/,
  )
  assert.throws(
    () => takePapers(approval, new Realm().owner.publicKey, apSigner(own), Date.now(), about),
    /another mesh/,
  )
  assert.throws(() => asks.approve(idOf(other), approval), /does not ask to be let in here any more/)
})

test('sixteen wait at most: who comes later is refused, and pushes nobody out', async () => {
  const before = asks.requests().map(({ ap }) => ap)
  crowd.push(...(await Promise.all(Array.from({ length: 17 }, () => asker()))))
  const answers = []
  for (const [i, host] of crowd.entries()) answers.push(await ask(host, `crowd${i}`))
  assert.ok(answers.slice(-2).every((answer) => answer === '16 others are waiting to be let in'))
  const after = asks.requests().map(({ ap }) => ap)
  assert.equal(after.slice(0, before.length), before)
  assert.ok(after.length <= 16)
  assert.equal(told.length, after.length + 1) // one of them was approved
})

test('who asks again and again to come to a certain code gets few of them', async () => {
  const host = crowd[0]!
  const answers: unknown[] = []
  for (let i = 0; i < 20; i++) answers.push(await ask(host, 'crowd0'))
  assert.ok(answers.filter((answer) => answer instanceof Uint8Array).length < 16)
  assert.is(answers.at(-1), 'too many have asked; ask again later')
})

test('nonsense, and more than is due of what is none, is cut off; and the member goes on', async () => {
  const host = await asker()
  for (const nonsense of [
    ['ask', nonce(1), 'bad name!', {}],
    ['ask', nonce(1)],
    ['reveal', nonce(1)],
    7,
    ['look', new Uint8Array(5000)],
  ]) {
    const answer = speak(host, async (frames) => {
      await frames.write(nonsense)
      return frames.readBytes()
    })
    await answer.then(
      () => assert.unreachable(`${JSON.stringify(nonsense)} was answered`),
      () => {},
    )
  }
  let answered = 0
  const ask = async () =>
    answered <= 1000 &&
    (await poll(host).then(
      () => true,
      () => false,
    ))
  while (await ask()) answered++
  assert.ok(answered < 1000)
})

test.run()
