// What becomes of blobs on a disk whose power is cut, or that is full. On real file systems, and therefore for root alone.
import { randomBytes } from 'node:crypto'
import { cpSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pino } from 'pino'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { BlobStore } from '../../../node/packages/blobs.js'
import { digestOf } from '../../../node/packages/oci.js'
import { Registry } from '../../../node/packages/registry.js'
import { hex } from '../../../protocols/bytes.js'
import { MAX_CHUNK } from '../../../protocols/limits.js'
import { Disk, inOwnMounts, whyNoDisks } from '../../support/disks.js'
import { scratch } from '../../support/scratch.js'
import { until } from '../../support/until.js'
import { Peers } from '../mesh/support.js'
import { refusalOf } from '../realm.js'
import { Client, RegistryProcess } from './client.js'
import { Holder } from './holder.js'

const obstacle = whyNoDisks()
if (obstacle === undefined) inOwnMounts(import.meta.url)
else console.log(`skipped: ${obstacle}`)
const onDisks = obstacle === undefined ? test : test.skip

const log = pino({ level: 'silent' })

const closing: (() => Promise<void>)[] = []
test.after.each(async () => {
  for (const close of closing.splice(0)) await close()
})

async function openAt(dir: string): Promise<{ store: BlobStore; client: Client; close: () => Promise<void> }> {
  const store = await BlobStore.open(dir, { maxBytes: 2 ** 40, minFree: 0, log })
  const registry = await Registry.open({ port: 0, store, log })
  const close = async () => {
    closing.splice(closing.indexOf(close), 1)
    await registry.close()
    await store.close()
  }
  closing.push(close)
  return { store, client: new Client(registry.port), close }
}

onDisks(
  'whatever moment the power is cut at, what was acknowledged is on the disk, and all that is served is whole',
  async () => {
    const disk = new Disk(96)
    const dir = join(disk.path, 'packages')
    const blobs: string[] = []
    const tags = new Map<string, string>()
    for (let round = 0; round < 6; round++) {
      const own = await RegistryProcess.start(dir)
      let isOver = false
      const pushing = Promise.allSettled(
        [1, 2, 3].map(async (client) => {
          for (let i = 0; !isOver; i++) {
            const bytes = randomBytes(1 + Math.floor(Math.random() * 100_000))
            if ((await own.pushBlob('alice/app', bytes)).status === 201) blobs.push(digestOf(bytes))
            const tag = `v${round}-${client}-${i}`
            tags.set(tag, (await own.pushImage('alice/app', tag)).digest)
          }
        }),
      )
      await new Promise((resolve) => setTimeout(resolve, 100 + Math.random() * 400))
      // Stopped, so that nothing reaches the disk while its content is copied.
      own.child.kill('SIGSTOP')
      await new Promise((resolve) => setTimeout(resolve, 20)) // for a system call that is under way
      const sure = [...blobs]
      const sureTags = new Map(tags)
      await disk.cutPower(() => own.kill())
      isOver = true
      await pushing
      const { store, client, close } = await openAt(dir)
      for (const digest of sure) assert.ok(store.has(digest), `${digest} was acknowledged, and is lost`)
      for (const digest of store.list()) {
        assert.is(digestOf((await client.get(`/v2/a/blobs/${digest}`)).body), digest)
      }
      for (const [tag, digest] of sureTags) {
        const { headers } = await client.send('HEAD', `/v2/alice/app/manifests/${tag}`)
        assert.is(headers['docker-content-digest'], digest, `${tag} was acknowledged`)
      }
      await close()
    }
    assert.ok(blobs.length > 10 && tags.size > 10, `${blobs.length} blobs and ${tags.size} tags were acknowledged`)
  },
)

onDisks('a single blob is on the disk as soon as it is acknowledged', async () => {
  const disk = new Disk(64)
  const dir = join(disk.path, 'packages')
  for (let round = 0; round < 3; round++) {
    const own = await RegistryProcess.start(dir)
    const bytes = randomBytes(1000)
    assert.is((await own.pushBlob('alice/app', bytes)).status, 201)
    own.child.kill('SIGSTOP')
    await disk.cutPower(() => own.kill())
    const { store, close } = await openAt(dir)
    assert.ok(store.has(digestOf(bytes)), 'it was acknowledged, and is lost')
    await close()
  }
})

onDisks('on a full disk pushes are refused, what was acknowledged is served, and with room it goes on', async () => {
  const disk = new Disk(40)
  const dir = join(disk.path, 'packages')
  const { store, client, close } = await openAt(dir)
  const images: string[] = []
  const push = async () => {
    const bytes = randomBytes(100_000)
    const answer = await client.pushBlob('alice/app', bytes)
    if (answer.status !== 201) return answer
    images.push(digestOf(bytes))
    return undefined
  }
  for (let round = 0; round < 3; round++) {
    const makeRoom = disk.fill(1_000_000 + round * 500_000)
    let refusal = await push()
    while (refusal === undefined) refusal = await push()
    assert.is(refusal.status, 507)
    assert.match(String(refusal.body), /no space left on device.*; free some space there/i)
    // Tags and manifests as well; a small one may still find its place.
    for (let i = 0; i < 50; i++) await client.pushImage('alice/app', `v${round}-${i}`).catch(() => {})
    for (const digest of images) assert.is(digestOf((await client.get(`/v2/a/blobs/${digest}`)).body), digest)
    makeRoom()
    assert.is(await push(), undefined)
    const { digest } = await client.pushImage('alice/app', `v${round}`)
    const { headers } = await client.get(`/v2/alice/app/manifests/v${round}`)
    assert.is(headers['docker-content-digest'], digest)
  }
  assert.is(store.totals().uploads, 0)
  await close()
  const { store: again } = await openAt(dir)
  for (const digest of images) assert.ok(again.has(digest))
  for (let round = 0; round < 3; round++) assert.ok(await again.catalogue.tag('alice/app', `v${round}`))
})

onDisks('a tag that was acknowledged after others were refused for want of room is there after a kill', async () => {
  const disk = new Disk(40)
  const dir = join(disk.path, 'packages')
  const { store } = await openAt(dir)
  const digest = digestOf(randomBytes(1))
  const tags: string[] = []
  const push = async (): Promise<boolean> => {
    const tag = `v${tags.length}`
    // A long note, so that the disk is full before many are written.
    const pushed = store.catalogue.push('alice/app', tag, digest, { refers: Array(200).fill(digest) })
    const isThere = await pushed.then(
      () => true,
      (error) => {
        assert.is(error.code, 'disk')
        return false
      },
    )
    if (isThere) tags.push(tag)
    return isThere
  }
  for (let round = 0; round < 3; round++) {
    const makeRoom = disk.fill(200_000)
    while (await push());
    makeRoom()
    await until('the index to be written again', push)
    for (let i = 0; i < 20; i++) assert.ok(await push())
    // As after a kill at this moment.
    const elsewhere = join(scratch('killed'), 'packages')
    cpSync(dir, elsewhere, { recursive: true })
    const { store: copy } = await openAt(elsewhere)
    for (const tag of tags) assert.is(await copy.catalogue.tag('alice/app', tag), digest, `${tag} was acknowledged`)
  }
})

onDisks(
  'what is fetched onto a full disk fails for that, names no source a liar, and comes once there is room',
  async () => {
    const peers = new Peers()
    closing.push(() => peers.stop())
    const [from, to] = await peers.members(2)
    to!.network.dialler.learn(from!.id, from!.addresses)
    const disk = new Disk(40)
    const source = new Holder(from!)
    const holder = new Holder(to!, {}, disk.path)
    holder.sources = [source]
    await source.swarm.start()
    await holder.swarm.fetch(await source.make(MAX_CHUNK)) // it makes the folder
    // No room for the hashes of its chunks, and none for the chunks.
    for (const left of [0, 4 * MAX_CHUNK]) {
      const blob = await source.make(40 * MAX_CHUNK)
      const makeRoom = disk.fill(left)
      const { message } = await refusalOf(holder.swarm.fetch(blob), 'disk')
      assert.match(message, /no space left on device.*; free some space there/i)
      makeRoom()
      await holder.swarm.fetch(blob)
      const path = (of: Holder) => of.pathOf(hex(blob.digest))
      assert.ok(readFileSync(path(holder)).equals(readFileSync(path(source))))
    }
    assert.equal(holder.lies, [])
  },
)

test.run()
