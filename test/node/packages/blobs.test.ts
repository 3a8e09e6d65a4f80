// Blobs on a real disk.
import { randomBytes } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { pino } from 'pino'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { BlobStore, type BlobStoreOptions } from '../../../node/packages/blobs.js'
import { digestOf } from '../../../node/packages/oci.js'
import { collect } from '../../../node/packages/tar.js'
import { MAX_UPLOADS } from '../../../node/packages/uploads.js'
import { scratch } from '../../support/scratch.js'
import { refusalOf } from '../realm.js'

const test = suite('blobs')

const HOUR = 3_600_000
const ROOMY = 2 ** 40

const logged: string[] = []
const log = pino({ base: null }, { write: (line: string) => void logged.push(line) })

/** What the store takes the time to be. */
let time = Date.now()

const openAt = (dir: string, options: Partial<BlobStoreOptions> = {}): Promise<BlobStore> =>
  BlobStore.open(dir, { maxBytes: ROOMY, minFree: 0, log, now: () => time, ...options })

const folder = (): string => join(scratch('blobs'), 'packages')

const fileOf = (dir: string, digest: string): string => join(dir, 'blobs/sha256', digest.slice(7, 9), digest.slice(7))

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}

async function put(store: BlobStore, bytes: Uint8Array): Promise<string> {
  const digest = digestOf(bytes)
  await store.write(digest, once(bytes))
  return digest
}

const contentOf = async (store: BlobStore, digest: string): Promise<Buffer> => collect(await store.read(digest))

/** Digests of the files that lie there. */
const filesIn = (dir: string): string[] =>
  (readdirSync(join(dir, 'blobs'), { recursive: true }) as string[])
    .map((path) => `sha256:${path.split('/').at(-1)}`)
    .filter((name) => name.length === 71)
    .sort()

test('does what a map of digests and a list of half-sent texts would do, also over restarts', async () => {
  const bytes = fc.uint8Array({ maxLength: 40 })
  const step = fc.oneof(
    fc.record({ do: fc.constant('begin' as const) }),
    fc.record({ do: fc.constant('append' as const), which: fc.nat(), bytes }),
    fc.record({ do: fc.constant('commit' as const), which: fc.nat(), right: fc.boolean() }),
    fc.record({ do: fc.constant('abort' as const), which: fc.nat() }),
    fc.record({ do: fc.constant('write' as const), bytes }),
    fc.record({ do: fc.constant('remove' as const), which: fc.nat() }),
    fc.record({ do: fc.constant('reopen' as const) }),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
      const dir = folder()
      let store = await openAt(dir)
      const blobs = new Map<string, Buffer>()
      const uploads = new Map<string, Buffer>()
      const oneOf = <T>(things: Iterable<T>, which: number): T | undefined => {
        const list = [...things]
        return list[which % list.length]
      }
      for (const step of steps) {
        const id = 'which' in step ? oneOf(uploads.keys(), step.which) : undefined
        if (step.do === 'begin') uploads.set(await store.uploads.begin(), Buffer.alloc(0))
        else if (step.do === 'append' && id !== undefined) {
          await store.uploads.append(id, once(step.bytes))
          uploads.set(id, Buffer.concat([uploads.get(id)!, step.bytes]))
        } else if (step.do === 'commit' && id !== undefined) {
          const sent = uploads.get(id)!
          uploads.delete(id)
          if (step.right) {
            await store.commit(id, digestOf(sent))
            blobs.set(digestOf(sent), sent)
          } else await refusalOf(store.commit(id, digestOf(randomBytes(8))), 'wrong-digest')
        } else if (step.do === 'abort' && id !== undefined) {
          await store.uploads.abort(id)
          uploads.delete(id)
        } else if (step.do === 'write') blobs.set(await put(store, step.bytes), Buffer.from(step.bytes))
        else if (step.do === 'remove') {
          const digest = oneOf(blobs.keys(), step.which)
          if (digest === undefined) continue
          await store.remove(digest)
          blobs.delete(digest)
        } else if (step.do === 'reopen') {
          await store.close()
          store = await openAt(dir)
          // Nothing is lost where nothing had come.
          for (const [id, sent] of uploads) if (sent.length === 0) uploads.delete(id)
        }
      }
      assert.equal(store.list().sort(), [...blobs.keys()].sort())
      assert.equal(filesIn(dir), [...blobs.keys()].sort())
      for (const [digest, content] of blobs) {
        assert.is(store.size(digest), content.length)
        assert.equal(await contentOf(store, digest), content)
      }
      for (const [id, sent] of uploads) assert.is(store.uploads.sizeOf(id), sent.length)
      const sum = (all: Iterable<Buffer>) => [...all].reduce((total, { length }) => total + length, 0)
      assert.equal(store.totals(), {
        blobs: blobs.size,
        bytes: sum(blobs.values()),
        uploads: uploads.size,
        uploadBytes: sum(uploads.values()),
      })
      await store.close()
    }),
    { numRuns: 40 },
  )
})

test('reads any part of a blob, and reads on while it is removed', async () => {
  const store = await openAt(folder())
  const content = randomBytes(2_000_000)
  const digest = await put(store, content)
  for (const [start, end] of [
    [0, 1],
    [5, 5],
    [1_000_000, 1_999_999],
    [1_999_999, 2_000_000],
  ] as const) {
    assert.equal(await collect(await store.read(digest, { start, end })), content.subarray(start, end))
  }
  const stream = await store.read(digest)
  await store.remove(digest)
  assert.equal(await collect(stream), content)
  await refusalOf(store.read(digest), 'no-blob')
  await store.close()
})

test('an upload goes on after a restart, and what was sent before counts', async () => {
  const dir = folder()
  const content = randomBytes(300_000)
  const before = await openAt(dir)
  const id = await before.uploads.begin()
  await before.uploads.append(id, once(content.subarray(0, 100_000)))
  await before.close()
  const store = await openAt(dir)
  assert.is(store.uploads.sizeOf(id), 100_000)
  await store.uploads.append(id, once(content.subarray(100_000)))
  await store.commit(id, digestOf(content))
  assert.equal(await contentOf(store, digestOf(content)), content)
  await store.close()
})

test('what came is kept where its source fails, and another cannot append meanwhile', async () => {
  const store = await openAt(folder())
  const content = randomBytes(3000)
  const id = await store.uploads.begin()
  const failing = store.uploads.append(
    id,
    (async function* () {
      yield content.subarray(0, 1000)
      await refusalOf(store.uploads.append(id, once(content)), 'upload-busy')
      await refusalOf(store.commit(id, digestOf(content)), 'upload-busy')
      throw new Error('the cable')
    })(),
  )
  assert.match(String(await failing.catch((error) => error)), /the cable/)
  assert.is(store.uploads.sizeOf(id), 1000)
  await store.uploads.append(id, once(content.subarray(1000)))
  await store.commit(id, digestOf(content))
  assert.ok(store.has(digestOf(content)))
  await store.close()
})

test('what is not what it is named for is never there, and leaves nothing', async () => {
  const dir = folder()
  const store = await openAt(dir)
  const id = await store.uploads.begin()
  await store.uploads.append(id, once(randomBytes(1000)))
  const other = digestOf(randomBytes(9))
  await refusalOf(store.commit(id, other), 'wrong-digest')
  assert.not.ok(store.has(other))
  assert.equal([filesIn(dir), readdirSync(join(dir, 'uploads'))], [[], []])
  // The file that clients sent was cut behind the store's back.
  const cut = await store.uploads.begin()
  const content = randomBytes(1000)
  await store.uploads.append(cut, once(content))
  truncateSync(join(dir, 'uploads', cut), 999)
  await refusalOf(store.commit(cut, digestOf(content)), 'disk')
  assert.not.ok(store.has(digestOf(content)))
  await store.close()
})

test('takes over a file, tells of it once, and drops a second copy', async () => {
  const dir = folder()
  const store = await openAt(dir)
  const added: string[] = []
  store.onAdded = (digest) => added.push(digest)
  const content = randomBytes(5000)
  const digest = digestOf(content)
  for (const name of ['one', 'two']) {
    writeFileSync(join(dir, name), content)
    await store.adopt(join(dir, name), digest)
    assert.not.ok(existsSync(join(dir, name)))
  }
  assert.equal(added, [digest])
  assert.equal(readFileSync(fileOf(dir, digest)), content)
  writeFileSync(join(dir, 'three'), content)
  await refusalOf(store.adopt(join(dir, 'three'), '../../../etc/passwd'), 'wrong-digest')
  await store.close()
})

test('a file that changed its size is not given out, whether it is found at a start or at a read', async () => {
  const dir = folder()
  let store = await openAt(dir)
  const [one, two, three] = [await put(store, randomBytes(50)), await put(store, randomBytes(60)), randomBytes(70)]
  truncateSync(fileOf(dir, one), 40)
  await refusalOf(store.read(one), 'no-blob')
  assert.not.ok(store.has(one))
  await store.close()
  truncateSync(fileOf(dir, two), 40)
  writeFileSync(fileOf(dir, digestOf(three)), three) // as where the power went before the index knew
  writeFileSync(join(dir, 'uploads', 'rubbish'), 'x')
  store = await openAt(dir)
  assert.equal(store.list(), [digestOf(three)])
  assert.equal(filesIn(dir), [digestOf(three)])
  assert.equal(readdirSync(join(dir, 'uploads')), [])
  await store.close()
})

test('uploads are bounded: one that stands still makes room, one nobody goes on with is removed', async () => {
  const dir = folder()
  const store = await openAt(dir)
  const ids: string[] = []
  for (let i = 0; i < MAX_UPLOADS; i++) ids.push(await store.uploads.begin())
  await refusalOf(store.uploads.begin(), 'too-many-uploads')
  time += 30_000
  await store.uploads.append(ids[0]!, once(randomBytes(10)))
  time += 31_000
  await store.uploads.begin()
  assert.throws(() => store.uploads.sizeOf(ids[1]!), /no such upload/)
  assert.is(store.uploads.sizeOf(ids[0]!), 10)
  time += HOUR + 1
  await store.uploads.begin()
  assert.is(store.uploads.count, 1)
  assert.equal(readdirSync(join(dir, 'uploads')), [])
  await store.close()
})

test('a byte now and then does not keep an upload for ever', async () => {
  const store = await openAt(folder())
  const id = await store.uploads.begin()
  const trickle = async function* () {
    for (;;) {
      yield randomBytes(1)
      time += HOUR / 2
      await store.uploads.sweep()
    }
  }
  await refusalOf(store.uploads.append(id, trickle()), 'no-upload')
  assert.equal(store.totals().uploadBytes, 0)
  await store.close()
})

test('makes room with what was used longest ago, and never with what is needed, tagged, referred to or new', async () => {
  const needed = new Set<string>()
  const store = await openAt(folder(), { maxBytes: 100_000, isNeeded: (digest) => needed.has(digest) })
  const layers: Record<string, string> = {}
  for (const name of ['tagged', 'needed', 'ofNeeded', 'old', 'older', 'read']) {
    layers[name] = await put(store, randomBytes(10_000))
  }
  const { catalogue } = store
  const [image, wanted, signature] = await Promise.all(['i', 'w', 's'].map((text) => put(store, Buffer.from(text))))
  await catalogue.push('alice/app', 'latest', image!, { refers: [layers.tagged!] })
  await catalogue.push('alice/app', undefined, signature!, { refers: [], subject: image! })
  await catalogue.noteManifest(wanted!, { refers: [layers.ofNeeded!] })
  needed.add(layers.needed!).add(wanted!)
  time += HOUR
  store.use(layers.old!)
  time += 1000
  store.use(layers.read!)
  time += HOUR
  const fresh = await put(store, randomBytes(10_000))
  // 70,000 bytes and a little are there; 36,000 more, and the slack, are two blobs too much.
  const id = await store.uploads.begin()
  await store.uploads.append(id, once(randomBytes(36_000)))
  assert.not.ok(store.has(layers.older!))
  assert.not.ok(store.has(layers.old!))
  for (const digest of [layers.tagged, layers.needed, layers.ofNeeded, layers.read, image, wanted, signature, fresh]) {
    assert.ok(store.has(digest!), `${digest} is kept`)
  }
  await refusalOf(store.uploads.append(id, once(randomBytes(60_000))), 'no-room')
  assert.not.ok(store.has(layers.read!)) // the last that could go
  assert.ok(store.has(layers.tagged!))
  assert.is(store.uploads.sizeOf(id), 36_000)
  // Without its tag the image can go.
  await catalogue.removeTag('alice/app', 'latest')
  time += HOUR / 2
  await store.uploads.append(id, once(randomBytes(40_000)))
  assert.not.ok(store.has(layers.tagged!))
  await store.close()
})

test('nothing comes where less is free on the disk than should be', async () => {
  const store = await openAt(folder(), { minFree: 2 ** 60 })
  const id = await store.uploads.begin()
  await refusalOf(store.uploads.append(id, once(randomBytes(9 * 2 ** 20))), 'no-room')
  await store.close()
})

test('with a damaged index the blobs are there, and the log says that tags may be lost', async () => {
  const dir = folder()
  let store = await openAt(dir)
  const digest = await put(store, randomBytes(100))
  await store.catalogue.push('alice/app', 'latest', digest, { refers: [] })
  await store.close()
  for (const name of readdirSync(join(dir, 'index'))) writeFileSync(join(dir, 'index', name), randomBytes(500))
  logged.length = 0
  store = await openAt(dir)
  assert.equal(store.list(), [digest])
  assert.match(logged.join(), /index of the packages was damaged/)
  await store.catalogue.push('alice/app', 'again', digest, { refers: [] })
  await store.close()
  logged.length = 0
  store = await openAt(dir)
  assert.is(await store.catalogue.tag('alice/app', 'again'), digest)
  assert.equal(logged, [])
  await store.close()
})

test('a start that was cut short while it read costs no tag', async () => {
  const dir = folder()
  let store = await openAt(dir)
  const digest = await put(store, randomBytes(100))
  await store.catalogue.push('alice/app', 'latest', digest, { refers: [] })
  await store.close()
  writeFileSync(join(dir, 'index.opening'), '')
  store = await openAt(dir)
  assert.is(await store.catalogue.tag('alice/app', 'latest'), digest)
  await store.close()
})

test('two processes do not share one folder', async () => {
  const dir = folder()
  const store = await openAt(dir)
  await refusalOf(openAt(dir), 'data-in-use')
  await store.close()
})

test.run()
