// Blobs between APs: real connections and real files. What an AP decides is left out.
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { SwarmOptions } from '../../../node/packages/swarm.js'
import { hex } from '../../../protocols/bytes.js'
import type { Blob } from '../../../protocols/chunks.js'
import { MAX_CHUNK } from '../../../protocols/limits.js'
import { type Carrier, carriers } from '../../bench/carriers.js'
import { until } from '../../support/until.js'
import { Peers } from '../mesh/support.js'
import { refusalOf } from '../realm.js'
import { Holder } from './holder.js'

const peers = new Peers()
test.after(() => peers.stop())

async function holders(n: number, options: Partial<SwarmOptions> = {}): Promise<Holder[]> {
  const members = await peers.members(n)
  const all = members.map((peer) => new Holder(peer, options))
  for (const { peer } of all) for (const other of all) peer.network.dialler.learn(other.peer.id, other.peer.addresses)
  for (const { swarm } of all) await swarm.start()
  return all
}

const same = async (a: Holder, b: Holder, { digest }: Blob): Promise<void> =>
  assert.ok((await readFile(a.pathOf(hex(digest)))).equals(await readFile(b.pathOf(hex(digest)))))

test('a blob of any size comes whole', async () => {
  const [from, to] = (await holders(2)) as [Holder, Holder]
  to.sources = [from]
  for (const size of [0, 1, MAX_CHUNK - 1, MAX_CHUNK, MAX_CHUNK + 1, 5 * MAX_CHUNK + 7]) {
    const blob = await from.make(size)
    await Promise.all([to.swarm.fetch(blob), to.swarm.fetch(blob)])
    await same(from, to, blob)
    await to.swarm.fetch(blob)
  }
})

test('APs that fetch the same at one time have most of it from each other', async () => {
  const [from, ...others] = (await holders(6)) as [Holder, ...Holder[]]
  // The small ones are there at once, each with the first that asked.
  const blobs: Blob[] = []
  for (const chunks of [60, 4, 4, 2]) blobs.push(await from.make(chunks * MAX_CHUNK))
  // A line that takes so long that they meet.
  const slow = new Holder(from.peer, { rate: 8 * 1024 ** 2 })
  Object.assign(slow, { sizes: from.sizes, dir: from.dir })
  await from.peer.network.host.unhandle(from.peer.network.blobProtocol)
  await slow.swarm.start()
  for (const other of others) other.sources = [from]
  await Promise.all(others.flatMap(({ swarm }) => blobs.map((blob) => swarm.fetch(blob))))
  for (const other of others) for (const blob of blobs) await same(from, other, blob)
  const times = slow.swarm.seeding.sent / blobs.reduce((sum, { size }) => sum + size, 0)
  assert.ok(times < 1.5, `its source sent it ${times.toFixed(2)} times to ${others.length}`)
})

test('a source that lies is named, and not asked again; the blob comes from the others, and nothing twice', async () => {
  const [from, liar, to] = (await holders(3)) as [Holder, Holder, Holder]
  const blob = await from.make(20 * MAX_CHUNK)
  const bytes = await readFile(from.pathOf(hex(blob.digest)))
  bytes[19 * MAX_CHUNK]! ^= 1
  for (let i = 1; i < 19; i += 2) bytes[i * MAX_CHUNK]! ^= 1
  await writeFile(liar.pathOf(hex(blob.digest)), bytes)
  liar.sizes.set(hex(blob.digest), bytes.length)
  // Its hashes are of what it has: they are no hashes of the blob.
  to.sources = [liar]
  const early = to.swarm.fetch(blob)
  await until('the lie to be seen', () => to.lies.length > 0)
  to.sources = [liar, from]
  await early
  await same(from, to, blob)
  assert.equal(to.lies, [liar.peer.id])
})

test('a source that lies in the middle costs one chunk', async () => {
  const [from, liar, to] = (await holders(3)) as [Holder, Holder, Holder]
  const blob = await from.make(20 * MAX_CHUNK)
  const good = await readFile(from.pathOf(hex(blob.digest)))
  await writeFile(liar.pathOf(hex(blob.digest)), good)
  liar.sizes.set(hex(blob.digest), good.length)
  await Reflect.get(liar.swarm, 'leavesOf').call(liar.swarm, hex(blob.digest))
  await writeFile(liar.pathOf(hex(blob.digest)), Buffer.from(good).fill(7))
  to.sources = [liar]
  const early = to.swarm.fetch(blob)
  await until('the lie to be seen', () => to.lies.length > 0)
  to.sources = [from]
  await early
  await same(from, to, blob)
  assert.equal(to.lies, [liar.peer.id])
})

test('where those that are likely to have a blob refuse, bring nothing or lie, others are asked, and not before', async () => {
  const [first, other, to] = (await holders(3, { drought: 1000 })) as [Holder, Holder, Holder]
  const likely = await serveAs(first, { drought: 60_000 })
  to.sources = [likely]
  to.otherSources = [other]
  const blobs: Blob[] = []
  for (let i = 0; i < 4; i++) blobs.push(await other.make(4 * MAX_CHUNK))
  const [held, lacking, awaited, forged] = blobs as [Blob, Blob, Blob, Blob]
  await copy(held, other, likely)
  await to.swarm.fetch(held)
  assert.is(other.swarm.seeding.sent, 0, 'it was asked though others are likelier to have it')
  const patient = to.reborn({ drought: 60_000 })
  patient.otherSources = [other]
  const before = performance.now()
  await patient.swarm.fetch(lacking)
  assert.ok(performance.now() - before < 30_000, 'who refuses was waited for')
  await same(other, patient, lacking)
  const end = likely.swarm.fetch(awaited) // of which nobody has told it
  await until('it to be under way', () => likely.swarm.progress(hex(awaited.digest)) !== undefined)
  await to.swarm.fetch(awaited)
  await end
  await writeFile(likely.pathOf(hex(forged.digest)), Buffer.alloc(forged.size))
  likely.sizes.set(hex(forged.digest), forged.size)
  await to.swarm.fetch(forged)
  for (const blob of [awaited, forged]) await same(other, to, blob)
  assert.equal(to.lies, [likely.peer.id])
})

test('sources that die in mid-transfer hold nobody up', async () => {
  const all = await holders(4, { rate: 2 * 1024 ** 2 })
  const [from, dying, gone, to] = all as [Holder, Holder, Holder, Holder]
  const blob = await from.make(24 * MAX_CHUNK)
  for (const copy of [dying, gone]) {
    await writeFile(copy.pathOf(hex(blob.digest)), await readFile(from.pathOf(hex(blob.digest))))
    copy.sizes.set(hex(blob.digest), blob.size)
  }
  to.sources = [dying, gone, from]
  const end = to.swarm.fetch(blob)
  await until('some to have come from all', () => [dying, gone, from].every(({ swarm }) => swarm.seeding.sent > 0))
  await dying.peer.stop()
  to.peer.network.hangUp(gone.peer.id)
  gone.sizes.clear()
  await end
  await same(from, to, blob)
})

test('what had come before a crash is not fetched again', async () => {
  const [from, to] = (await holders(2)) as [Holder, Holder]
  const blob = await from.make(40 * MAX_CHUNK)
  to.sources = [from]
  const slow = to.reborn({ rate: 4 * 1024 ** 2 })
  const digest = hex(blob.digest)
  const end = slow.swarm.fetch(blob).catch(() => {})
  await until('some to have come', () => (slow.swarm.progress(digest) ?? 0) > 10 * MAX_CHUNK)
  from.sizes.delete(digest)
  to.peer.network.hangUp(from.peer.id)
  from.sizes.set(digest, blob.size)
  // The old process is gone with all that it knew; the file is as it was left.
  const before = from.swarm.seeding.sent
  const next = to.reborn()
  Reflect.set(slow.swarm, 'options', { ...Reflect.get(slow.swarm, 'options'), sources: () => [] })
  await next.swarm.fetch(blob)
  await same(from, next, blob)
  assert.ok(from.swarm.seeding.sent - before <= 34 * MAX_CHUNK, 'more than was missing was sent')
  await end
})

test('a blob is read while it is still coming, and given on', async () => {
  const [from, middle, last] = (await holders(3)) as [Holder, Holder, Holder]
  const blob = await from.make(30 * MAX_CHUNK)
  const slow = middle.reborn({ rate: 4 * 1024 ** 2 })
  await middle.peer.network.host.unhandle(middle.peer.network.blobProtocol)
  await slow.swarm.start()
  slow.sources = [from]
  last.sources = [middle]
  let read = 0
  for await (const bytes of slow.swarm.read(blob, 100, blob.size - 100)) {
    if (read === 0) assert.not(slow.has(blob), 'it was all there before any of it was read')
    if (read === 0) await until('the last one to have some of it', () => startOf(last, blob))
    read += bytes.length
  }
  assert.is(read, blob.size - 200)
  await last.swarm.fetch(blob)
  await same(from, last, blob)
})

test('a slow source is given up in the middle of it, and what it was asked for comes from another', async () => {
  const [from, slow, to] = (await holders(3)) as [Holder, Holder, Holder]
  const blob = await from.make(40 * MAX_CHUNK)
  await copy(blob, from, slow)
  await serveAs(slow, { rate: MAX_CHUNK / 8 })
  await serveAs(from, { rate: 10 * MAX_CHUNK })
  to.sources = [slow, from]
  const end = to.swarm.fetch(blob)
  const asked = () =>
    Reflect.get(Reflect.get(to.swarm, 'fetches').get(hex(blob.digest)).fetch, 'sessions') as Map<string, object>
  await until('both to be asked', () => asked().size === 2)
  await until('the slow one to be given up', () => !asked().has(slow.peer.id))
  assert.ok(to.swarm.progress(hex(blob.digest))! < blob.size, 'it was not given up before the end')
  await end
  await same(from, to, blob)
})

test('a chunk that is a little later than others is waited for, and comes once', async () => {
  const [from, second, third, to] = (await holders(4)) as [Holder, Holder, Holder, Holder]
  const blob = await from.make(20 * MAX_CHUNK)
  for (const other of [second, third]) await copy(blob, from, other)
  to.sources = [from, second, await serveAs(third, { rate: 8 * MAX_CHUNK })]
  await to.swarm.fetch(blob)
  const sent = to.sources.map(({ swarm }) => swarm.seeding.sent)
  assert.ok(sent[2]! > 0, 'the later one was not asked')
  assert.is(sent[0]! + sent[1]! + sent[2]!, blob.size)
})

test('caps on what goes out and what comes in hold', async () => {
  const [from, other, to] = (await holders(3)) as [Holder, Holder, Holder]
  const seconds = async (holder: Holder, blob: Blob) => {
    const before = performance.now()
    await holder.swarm.fetch(blob)
    return (performance.now() - before) / 1000
  }
  const blob = await from.make(16 * MAX_CHUNK)
  await copy(blob, from, other)
  const out = await serveAs(from, { rate: 8 * MAX_CHUNK })
  to.sources = [from]
  assert.ok((await seconds(to, blob)) > 1.6, 'it went out faster than it may')
  assert.is(out.swarm.seeding.sent, blob.size)
  const capped = new Holder(to.peer, { rate: 8 * MAX_CHUNK })
  capped.sources = [other]
  assert.ok((await seconds(capped, blob)) > 1.6, 'it came in faster than it may')
})

test('an AP that is killed in the middle fetches what it lacks, and no more than a few chunks twice', async () => {
  const all = await carriers(2, [], { rate: 10 * MAX_CHUNK })
  try {
    const [from, to] = all as [Carrier, Carrier]
    const blob = await from.make(30 * MAX_CHUNK)
    to.fetch([blob], [from]).catch(() => {}) // it is killed
    await until('half of it to have come', async () => (await to.progress(blob))! > 15 * MAX_CHUNK)
    to.kill()
    const next = await to.reborn()
    all.push(next)
    await next.know(from)
    await next.fetch([blob], [from])
    const { sent } = await from.usage()
    assert.ok(sent <= blob.size + 8 * MAX_CHUNK, `${sent / MAX_CHUNK} chunks were sent of ${blob.size / MAX_CHUNK}`)
  } finally {
    for (const carrier of all) carrier.stop()
  }
})

/** Puts a holder that is otherwise the same in its place. */
async function serveAs(holder: Holder, options: Partial<SwarmOptions>): Promise<Holder> {
  const next = new Holder(holder.peer, options, holder.dir)
  for (const [digest, size] of holder.sizes) next.sizes.set(digest, size)
  await holder.peer.network.host.unhandle(holder.peer.network.blobProtocol)
  await next.swarm.start()
  return next
}

async function copy({ digest, size }: Blob, from: Holder, to: Holder): Promise<void> {
  await writeFile(to.pathOf(hex(digest)), await readFile(from.pathOf(hex(digest))))
  to.sizes.set(hex(digest), size)
}

function startOf(holder: Holder, blob: Blob): boolean {
  holder.swarm.fetch(blob).catch(() => {})
  return (holder.swarm.progress(hex(blob.digest)) ?? 0) > 0
}

test('what nobody has, may not be had, or was signed with other hashes, is refused and says why', async () => {
  const [from, to, shy] = (await holders(3)) as [Holder, Holder, Holder]
  const blob = await from.make(2 * MAX_CHUNK)
  const closed = new Holder(shy.peer, { mayShare: () => false })
  await shy.peer.network.host.unhandle(shy.peer.network.blobProtocol)
  await closed.swarm.start()
  to.sources = [closed]
  const { message } = await refusalOf(to.swarm.fetch(blob), 'no-blob')
  assert.match(message, `${shy.peer.id}: this AP does not have that blob`)
  to.sources = [from]
  const other = await from.make(2 * MAX_CHUNK)
  await refusalOf(to.swarm.fetch({ ...other, digest: new Uint8Array(32) }), 'no-blob')
  await mkdir(to.dir, { recursive: true })
  await writeFile(from.pathOf(hex(new Uint8Array(32).fill(1))), await readFile(from.pathOf(hex(other.digest))))
  from.sizes.set(hex(new Uint8Array(32).fill(1)), other.size)
  await refusalOf(to.swarm.fetch({ ...other, digest: new Uint8Array(32).fill(1) }), 'blob-refused')
})

test.run()
