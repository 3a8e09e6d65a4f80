import { join } from 'node:path'
import { Level } from 'level'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Store } from '../../../node/store/store.js'
import { scratch } from '../../support/scratch.js'
import { hashes, Realm, refusalOf } from '../realm.js'
import { check, Life } from './life.js'

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

test('what is written is there after the store was closed and opened again', async () => {
  const where = fresh()
  const [kept, dropped] = [realm.records(20), realm.records(5)]
  const store = await Store.open(where)
  await store.writeRecords([...kept, ...dropped], [], 1000)
  await store.writeRecords([], dropped, 2000)
  await store.addEvent({ at: 'then', kind: 'up' })
  await store.close()
  const again = await Store.open(where)
  assert.equal(hashes(again.takeRecords()), hashes(kept))
  assert.is(again.damage, undefined)
  assert.is(again.clock, 2000)
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
  assert.equal(hashes(await store.loadRecords()), hashes(records))
  await store.close()
})

test('a write that fails rejects for all who shared it and all who come, until the store has recovered with what is wanted', async () => {
  const store = await Store.open(fresh())
  const [a, b, c, d, old] = realm.records(5)
  await store.writeRecords([old!], [], 0)
  const db = Reflect.get(store, 'db') as { batch(...args: unknown[]): Promise<void> }
  db.batch = () => Promise.reject(new Error('no space left'))
  const results = await Promise.allSettled([store.writeRecords([a!], [], 0), store.writeRecords([b!], [], 0)])
  Reflect.deleteProperty(db, 'batch')
  assert.equal(
    results.map(({ status }) => status),
    ['rejected', 'rejected'],
  )
  assert.match((await refusalOf(store.writeRecords([c!], [], 0), 'disk')).message, 'no space left')
  await refusalOf(store.settled(), 'disk')
  await refusalOf(store.addEvent({}), 'disk')
  await store.recover(() => [a!, b!, d!])
  await store.writeRecords([c!], [], 0)
  assert.equal(hashes(await store.loadRecords()), hashes([a!, b!, c!, d!]))
  await store.close()
})

test('what another version wrote is refused, saying so, and left as it is', async () => {
  const where = fresh()
  await (await Store.open(where)).close()
  await tamper(where, (db) => db.put('meta!schema', Buffer.from('99')))
  for (const _ of [1, 2]) {
    const error = await refusalOf(Store.open(where), 'data-newer')
    assert.match(error.message, 'newer dropmesh (schema 99')
  }
  await tamper(where, (db) => db.put('meta!schema', Buffer.from('1')))
  for (const _ of [1, 2]) await refusalOf(Store.open(where), 'data-older')
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
  await tamper(where, (db) => db.put('meta!schema', Buffer.from('99')))
  await refusalOf(Store.open(where), 'data-newer')
  await tamper(where, (db) => db.put('meta!schema', Buffer.from('2')))
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

test('whatever moment the process is killed at, what it acknowledged is there, and no boot counter comes twice', async () => {
  const data = fresh()
  const lives: Life[] = []
  for (let round = 0; round < 12; round++) {
    const life = new Life(data)
    lives.push(life)
    await life.somewhere(round % 3 === 2)
    await life.kill()
    await check(data, lives)
  }
  assert.ok(lives.some(({ acknowledged }) => acknowledged.length > 10))
})

test.run()
