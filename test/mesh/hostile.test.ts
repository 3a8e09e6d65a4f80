// A hostile peer against a running node, on every protocol and topic: first as a stranger, then as a member that was let in
// and turned bad. The node stays up, its ledger holds only what it should, and honest traffic still passes.
import { randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { multiaddr } from '@multiformats/multiaddr'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { createHost, type Host } from '../../node/mesh/host.js'
import { askToJoin } from '../../node/mesh/join.js'
import { apKey, utf8 } from '../../protocols/bytes.js'
import { encode } from '../../protocols/codec.js'
import { seal } from '../../protocols/envelope.js'
import { apSigner } from '../../protocols/keys.js'
import { meshIdOf, meshText } from '../../protocols/membership.js'
import { readTicket, redeem } from '../../protocols/ticket.js'
import { protocolIds, topics } from '../../protocols/wire.js'
import { eventually, type TestAp, TestMesh } from '../support/mesh.js'

const INPUTS = 40
const mesh = new TestMesh()
let target: TestAp
let witness: TestAp
let attacker: Host
const seed = new Uint8Array(randomBytes(32))
const signer = apSigner(seed)
let ticket: string
let address: string

test.before(async () => {
  ;[target, witness] = (await mesh.start(3)) as [TestAp, TestAp]
  ticket = await mesh.invite(target)
  address = (await target.status()).addresses[0]!
  const id = meshText(meshIdOf(readTicket(ticket).meshKey))
  attacker = await createHost({ seed, mesh: id, listen: [], mdns: false, bootstrap: [], isMember: () => true })
  await attacker.start()
})
test.after(async () => {
  await attacker.stop()
  await mesh.close()
})

const ids = () => protocolIds(meshText(meshIdOf(readTicket(ticket).meshKey)))
const digestOf = async (ap: TestAp) => (await ap.status()).ledger.digest

async function memory(): Promise<number> {
  return Number(/VmRSS:\s+(\d+)/.exec(await readFile(`/proc/${target.pid}/status`, 'utf8'))![1]) / 1024
}

/** Writes bytes on a new stream, and lets it go. */
async function throwAt(protocol: string, bytes: Uint8Array): Promise<void> {
  const connection = await attacker.dial(multiaddr(address))
  try {
    const stream = await connection.newStream(protocol, { signal: AbortSignal.timeout(2000) })
    stream.send(bytes)
    await stream.close({ signal: AbortSignal.timeout(500) }).catch((error) => stream.abort(error))
  } catch {
    // Refused, or cut off: as it should be.
  }
}

const framed = (bytes: Uint8Array): Uint8Array => {
  const length = [(bytes.length & 0x7f) | 0x80, (bytes.length >> 7) & 0x7f]
  return Uint8Array.from([...length, ...bytes])
}

async function garbageOnEveryProtocol(): Promise<void> {
  for (const protocol of [...Object.values(ids()), '/ipfs/id/1.0.0', '/meshsub/1.2.0', '/ipfs/ping/1.0.0']) {
    for (let i = 0; i < INPUTS; i++) {
      const bytes = new Uint8Array(randomBytes(1 + Math.floor((i * 1500) / INPUTS)))
      await throwAt(protocol, i % 2 === 0 ? bytes : framed(bytes))
    }
    await throwAt(protocol, Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0xff, 0xff)) // a length without end
    await throwAt(protocol, framed(encode(['hello', new Uint8Array(16), 1])))
  }
}

async function isUnharmed(before: string): Promise<void> {
  assert.ok(target.isRunning)
  assert.is(await digestOf(target), before)
  assert.ok((await target.aps()).every(({ state }) => state === 'alive'))
}

test('a stranger that sends garbage on every protocol changes nothing, and is disconnected', async () => {
  const before = await digestOf(target)
  await garbageOnEveryProtocol()
  await isUnharmed(before)
  await attacker.dial(multiaddr(address))
  await eventually('the stranger to be disconnected', () => attacker.getConnections().length === 0)
})

test('records that a stranger gossips reach nobody', async () => {
  const before = await digestOf(target)
  await attacker.dial(multiaddr(address))
  const mesh20 = meshIdOf(readTicket(ticket).meshKey)
  const { records } = topics(meshText(mesh20))
  attacker.services.pubsub.subscribe(records)
  for (let i = 0; i < 20; i++) {
    const { bytes } = seal(signer, mesh20, [Date.now(), i], 'settings', utf8(`s${i}`), {})
    await attacker.services.pubsub.publish(records, bytes).catch(() => {})
  }
  await attacker.stop()
  await isUnharmed(before)
  await attacker.start()
})

test('a member that turns bad cannot forge, overload or bring down a node, nor have a live AP declared dead', async () => {
  const about = { name: 'mallory', labels: {} }
  const admission = redeem(readTicket(ticket), signer, Date.now(), about)
  await attacker.dial(multiaddr(address))
  const targetId = target.id
  await askToJoin(attacker, ids(), targetId, admission)
  await eventually('mallory to be a member everywhere', async () =>
    (await witness.aps()).some(({ name }) => name === 'mallory'),
  )
  // Everything below comes over connections that were made as a member.
  await Promise.all(attacker.getConnections().map((connection) => connection.close()))

  const memoryBefore = await memory()
  await garbageOnEveryProtocol()
  for (const protocol of [ids().sync, ids().pulse, ids().probe, ids().join, ids().image]) {
    const connection = await attacker.dial(multiaddr(address))
    // Streams that say nothing, as many as one gets.
    for (let i = 0; i < 20; i++)
      await connection.newStream(protocol, { signal: AbortSignal.timeout(500) }).catch(() => {})
  }
  await throwAt(ids().sync, new Uint8Array(4 * 1024 ** 2).fill(0x41))

  const mesh20 = meshIdOf(readTicket(ticket).meshKey)
  const { records, beacons } = topics(meshText(mesh20))
  const { pubsub } = attacker.services
  pubsub.subscribe(records)
  pubsub.subscribe(beacons)
  await attacker.dial(multiaddr(address))
  await eventually('gossip with the target', () => pubsub.getSubscribers(records).length > 0)
  const now = Date.now()
  const statement = { boot: 2 ** 32, sequence: 2 ** 40, silence: 9999, probes: 9 }
  const accusation = seal(signer, mesh20, [now, 0], 'statement', apKey(witness.id), statement).bytes
  const forged = seal(signer, mesh20, [now, 1], 'goodbye', signer.publicKey, { boot: 1 }).bytes.slice()
  forged[forged.length - 1]! ^= 1
  const elsewhere = seal(signer, new Uint8Array(20), [now, 2], 'goodbye', signer.publicKey, { boot: 1 }).bytes
  const foreign = seal(signer, mesh20, [now, 3], 'goodbye', apKey(witness.id), { boot: 99 }).bytes
  for (const bytes of [forged, elsewhere, foreign, accusation, new Uint8Array(randomBytes(500))]) {
    await pubsub.publish(records, bytes).catch(() => {})
    await pubsub.publish(beacons, bytes).catch(() => {})
  }

  // The accusation is a record like any other; alone it kills nobody.
  await eventually('the target to have heard', async () =>
    (await target.events()).some(({ kind, ap }) => kind === 'accused' && ap === witness.id),
  )
  await eventually('the accused to have refuted it', async () => {
    const rows = await target.aps()
    return rows.find(({ id }) => id === witness.id)?.state === 'alive'
  })
  const others = (await target.aps()).filter(({ name }) => name !== 'mallory')
  assert.ok(
    others.every(({ state }) => state !== 'dead' && state !== 'left'),
    JSON.stringify(others),
  )
  assert.ok(target.isRunning)
  assert.ok((await memory()) - memoryBefore < 100, `${memoryBefore} MB before, ${await memory()} MB after`)
  const refused = (await target.events()).filter(({ kind }) => kind === 'refused')
  assert.ok(refused.length > 0 && refused.length < 100, `${refused.length} refusals in events`)
})

test('after all that, honest records still reach everyone', async () => {
  const { ticket: fresh } = await target.json<{ ticket: string }>('invite')
  assert.ok(fresh.length > 0)
  const honest = mesh.aps.filter(({ isRunning }) => isRunning)
  await eventually('equal ledgers', async () => new Set(await Promise.all(honest.map(digestOf))).size === 1)
})

test.run()
