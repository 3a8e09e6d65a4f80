import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Level } from 'level'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Store } from '../../../node/store/store.js'
import { hex } from '../../../protocols/bytes.js'
import { scratch } from '../../support/scratch.js'
import { until } from '../../support/until.js'
import { hashes, Realm, refusalOf } from '../realm.js'

const realm = new Realm()
let count = 0
const dir = scratch('store')
const fresh = (): string => join(dir, String(count++))

/** Writes to the LevelDB of a store that is closed, as nothing else does. */
async function tamper(where: string, change: (db: Level<string, Uint8Array>) => Promise<void>): Promise<void> {
  const db = new Level<string, Uint8Array>(where, { keyEncoding: 'utf8', valueEncoding: 'view' })
  await db.open()
  await change(db)
  await db.close()
}

// This file is also the program that is killed: it writes records, and names each one once it is acknowledged.
if (process.argv[2] === 'write') {
  const store = await Store.open(process.argv[3]!)
  process.stdout.write('ready\n')
  for (;;) {
    const writes = realm.records(4).map(async (record) => {
      await store.writeRecords([record], [], Date.now())
      process.stdout.write(`${hex(record.hash)}\n`)
    })
    await Promise.all(writes)
  }
}

test('what is written is there after the store was closed and opened again', async () => {
  const where = fresh()
  const [kept, dropped] = [realm.records(20), realm.records(5)]
  const store = await Store.open(where)
  await store.writeRecords([...kept, ...dropped], [], 1000)
  await store.writeRecords([], dropped, 2000)
  await store.putJson('peers', { a: ['/ip4/127.0.0.1/tcp/1'] })
  await store.addEvent({ at: 'then', kind: 'up' })
  await store.close()
  const again = await Store.open(where)
  const { records, damaged } = await again.loadRecords()
  assert.equal(hashes(records), hashes(kept))
  assert.is(damaged, 0)
  assert.equal(await again.getJson('peers'), { a: ['/ip4/127.0.0.1/tcp/1'] })
  assert.is(await again.getJson('clock'), 2000)
  assert.equal(await again.events(), [{ at: 'then', kind: 'up' }])
  await again.close()
})

test('many writes at once share a few syncs, and each resolves', async () => {
  const store = await Store.open(fresh())
  const db = Reflect.get(store, 'db') as { batch(ops: unknown[], options: { sync?: boolean }): Promise<void> }
  const batch = db.batch.bind(db)
  let syncs = 0
  db.batch = (ops, options) => {
    if (options.sync) syncs++
    return batch(ops, options)
  }
  const records = realm.records(500)
  await Promise.all(records.map((record) => store.writeRecords([record], [], 0)))
  assert.ok(syncs > 0 && syncs <= 5, `${syncs} syncs for 500 writes`)
  assert.equal(hashes((await store.loadRecords()).records), hashes(records))
  await store.close()
})

test('a write that fails rejects for all who shared it, and leaves the next one unharmed', async () => {
  const store = await Store.open(fresh())
  const db = Reflect.get(store, 'db') as { batch(...args: unknown[]): Promise<void> }
  const batch = db.batch.bind(db)
  db.batch = () => Promise.reject(new Error('no space left'))
  const [a, b, c] = realm.records(3)
  const results = await Promise.allSettled([store.writeRecords([a!], [], 0), store.writeRecords([b!], [], 0)])
  db.batch = batch
  assert.equal(
    results.map(({ status }) => status),
    ['rejected', 'rejected'],
  )
  await store.writeRecords([c!], [], 0)
  assert.equal(hashes((await store.loadRecords()).records), hashes([c!]))
  await store.close()
})

test('no two lives of an AP share a boot counter', async () => {
  const where = fresh()
  const boots: number[] = []
  for (let life = 0; life < 5; life++) {
    const store = await Store.open(where)
    boots.push(await store.nextBoot())
    await store.close()
  }
  assert.equal(boots, [1, 2, 3, 4, 5])
})

test('what a newer version wrote is refused, saying so, and left as it is', async () => {
  const where = fresh()
  await (await Store.open(where)).close()
  await tamper(where, (db) => db.put('meta!schema', Buffer.from('99')))
  for (const _ of [1, 2]) {
    const error = await refusalOf(Store.open(where), 'data-newer')
    assert.match(error.message, 'newer dropmesh (schema 99')
  }
})

test('damaged records are left out and counted, and so are damaged events', async () => {
  const where = fresh()
  const records = realm.records(6)
  const store = await Store.open(where)
  await store.writeRecords(records, [], 0)
  for (const kind of ['one', 'two', 'three']) await store.addEvent({ kind })
  await store.close()
  await tamper(where, async (db) => {
    const key = (i: number) => `record!${hex(records[i]!.hash)}`
    const flipped = Uint8Array.from(records[2]!.bytes)
    flipped[flipped.length - 80]! ^= 1 // still a readable record, but another one
    await db.put(key(0), Buffer.from('nothing like a record'))
    await db.put(key(1), records[1]!.bytes.subarray(0, 100))
    await db.put(key(2), flipped)
    await db.put('event!000000000001', Buffer.from('{"kind":'))
  })
  const again = await Store.open(where)
  const loaded = await again.loadRecords()
  assert.is(loaded.damaged, 3)
  assert.equal(hashes(loaded.records), hashes(records.slice(3)))
  assert.equal(await again.events(), [{ kind: 'one' }, { kind: 'three' }])
  await again.close()
})

test('a value that is damaged says so', async () => {
  const where = fresh()
  await (await Store.open(where)).close()
  await tamper(where, (db) => db.put('meta!boot', Buffer.from('{')))
  const store = await Store.open(where)
  assert.match((await refusalOf(store.nextBoot(), 'data-damaged')).message, '"boot"')
  await store.close()
})

test('a store that is open cannot be opened again, and can once it is closed', async () => {
  const where = fresh()
  const store = await Store.open(where)
  await refusalOf(Store.open(where), 'data-in-use')
  await store.close()
  await (await Store.open(where)).close()
})

test('a store whose opening fails is not held on to', async () => {
  const where = fresh()
  await (await Store.open(where)).close()
  await tamper(where, (db) => db.put('meta!schema', Buffer.from('{')))
  await refusalOf(Store.open(where), 'data-damaged')
  await tamper(where, (db) => db.put('meta!schema', Buffer.from('1')))
  await (await Store.open(where)).close()
})

test('who asks for events gets all that were appended before, also those on their way to the disk', async () => {
  const store = await Store.open(fresh())
  for (let n = 0; n < 200; n++) {
    const appending = store.addEvent({ n })
    assert.equal((await store.events()).at(-1), { n })
    await appending
  }
  await store.close()
})

test('events are kept up to their number, the newest ones, also over restarts', async () => {
  const where = fresh()
  const store = await Store.open(where)
  const add = async (from: number, to: number, into: Store) => {
    const writes: Promise<void>[] = []
    for (let n = from; n < to; n++) writes.push(into.addEvent({ n }))
    await Promise.all(writes)
  }
  await add(0, 10_100, store)
  await store.close()
  const again = await Store.open(where)
  await add(10_100, 10_200, again)
  const events = await again.events<{ n: number }>()
  assert.equal([events.length, events[0], events.at(-1)], [10_000, { n: 200 }, { n: 10_199 }])
  await again.close()
})

test('every record that was acknowledged is on disk after the process was killed', async () => {
  for (let round = 0; round < 6; round++) {
    const where = fresh()
    const child: ChildProcess = spawn(process.execPath, [fileURLToPath(import.meta.url), 'write', where], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let output = ''
    child.stdout!.setEncoding('latin1').on('data', (text: string) => {
      output += text
    })
    const ended = new Promise<void>((resolve) => child.once('close', () => resolve()))
    const enough = 1 + Math.floor(Math.random() * 200)
    await until('acknowledgements', () => output.split('\n').length > enough + 1, { deadlineMs: 30_000, everyMs: 1 })
    child.kill('SIGKILL')
    await ended
    const acknowledged = output.split('\n').slice(1, -1)
    assert.ok(acknowledged.length >= enough)
    const store = await Store.open(where)
    const onDisk = new Set(hashes((await store.loadRecords()).records))
    await store.close()
    for (const hash of acknowledged) assert.ok(onDisk.has(hash), `${hash} was acknowledged, and is lost`)
  }
})

test.run()
