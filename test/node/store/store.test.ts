import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Level } from 'level'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { NodeClock } from '../../../node/clock.js'
import { BootCounter } from '../../../node/identity.js'
import { LedgerStore } from '../../../node/store/ledger-store.js'
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

// This file is also the program that is killed: it counts a start, then writes records, and names each one once it is
// acknowledged.
if (process.argv[2] === 'write') {
  const data = process.argv[3]!
  const boots = await BootCounter.load(data)
  process.stdout.write(`boot ${await boots.raise()}\n`)
  const store = await Store.open(join(data, 'ledger'))
  const ledger = await LedgerStore.load(store, realm.mesh, new NodeClock())
  process.stdout.write('ready\n')
  for (;;) {
    const writes = realm.records(4).map(async (record) => {
      await ledger.submit(record.bytes)
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
  const acknowledged = new Set<string>()
  const boots: string[] = []
  for (let round = 0; round < 12; round++) {
    const child: ChildProcess = spawn(process.execPath, [fileURLToPath(import.meta.url), 'write', data], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let output = ''
    child.stdout!.setEncoding('latin1').on('data', (text: string) => {
      output += text
    })
    const ended = new Promise<void>((resolve) => child.once('close', () => resolve()))
    if (round % 3 === 2) {
      // While it starts: as soon as it has counted, or while it opens and reads the store.
      await until('the start', () => output.startsWith('boot '), { deadlineMs: 30_000, everyMs: 1 })
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 50))
    } else {
      const enough = 2 + Math.floor(Math.random() * 200)
      await until('acknowledgements', () => output.split('\n').length > enough + 1, { deadlineMs: 30_000, everyMs: 1 })
    }
    child.kill('SIGKILL')
    await ended
    const [boot, , ...named] = output.split('\n').slice(0, -1)
    boots.push(boot!)
    for (const hash of named) acknowledged.add(hash)
    const store = await Store.open(join(data, 'ledger'))
    assert.is(store.damage, undefined, JSON.stringify(store.damage))
    const onDisk = new Set(hashes(store.takeRecords()))
    await store.close()
    for (const hash of acknowledged) assert.ok(onDisk.has(hash), `${hash} was acknowledged, and is lost`)
  }
  assert.equal(
    boots,
    boots.map((_, i) => `boot ${i + 1}`),
  )
  assert.ok(acknowledged.size > 50)
})

test.run()
