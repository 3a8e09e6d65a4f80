import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { NodeClock } from '../../../node/clock.js'
import { LedgerStore } from '../../../node/store/ledger-store.js'
import { Store } from '../../../node/store/store.js'
import { utf8 } from '../../../protocols/bytes.js'
import { encode } from '../../../protocols/codec.js'
import { type SignedRecord, seal } from '../../../protocols/envelope.js'
import { MAX_CLOCK_AHEAD, MAX_RECORD } from '../../../protocols/limits.js'
import { scratch } from '../../support/scratch.js'
import { until } from '../../support/until.js'
import { hashes, Realm, refusalOf } from '../realm.js'

const realm = new Realm()
const dir = scratch('ledger')
let count = 0

interface Opened {
  store: Store
  ledger: LedgerStore
  where: string
}

const opened: Opened[] = []
test.after.each(async () => {
  await Promise.all(opened.splice(0).map(({ store }) => store.close()))
})

async function open(where = join(dir, String(count++)), clock = new NodeClock()): Promise<Opened> {
  const store = await Store.open(where)
  const it = { store, ledger: await LedgerStore.load(store, realm.mesh, clock), where }
  opened.push(it)
  return it
}

async function reopen({ store, where }: Opened, clock?: NodeClock): Promise<Opened> {
  opened.length = 0
  await store.close()
  return open(where, clock)
}

/** A record as it would be signed at some time. */
function recordAt(ms: number, body: object = { role: 'ap', uses: 1, expires: 0 }): SignedRecord {
  return seal(realm.owner, realm.mesh, [ms, 0], 'grant', realm.publisher.publicKey, body)
}

const bytesOf = (records: readonly SignedRecord[]) => records.map(({ bytes }) => bytes)

function flipped(bytes: Uint8Array, at: number): Uint8Array {
  const copy = Uint8Array.from(bytes)
  copy[at < 0 ? bytes.length + at : at]! ^= 1
  return copy
}

/** Lets all writes fail, until the returned function is called. */
function failing(store: Store): () => void {
  const db = Reflect.get(store, 'db') as { batch(...args: unknown[]): Promise<void> }
  db.batch = () => Promise.reject(new Error('no space left'))
  return () => Reflect.deleteProperty(db, 'batch')
}

/** Lets Date.now say something else while `run` runs. */
async function at<T>(ms: number, run: () => Promise<T>): Promise<T> {
  const now = Date.now
  Date.now = () => ms
  try {
    return await run()
  } finally {
    Date.now = now
  }
}

test('each kind of bad envelope is refused with its code, and the good ones among them are kept', async () => {
  const { ledger, store } = await open()
  const good = realm.records(3)
  const other = new Realm()
  const bad: [string, Uint8Array][] = [
    ['malformed', new Uint8Array()],
    ['malformed', utf8('not CBOR at all')],
    ['malformed', encode(['two', 'texts'])],
    ['malformed', encode([encode('no payload'), new Uint8Array(64)])],
    ['malformed', good[0]!.bytes.subarray(0, -1)],
    ['record-too-big', new Uint8Array(MAX_RECORD + 1)],
    ['other-mesh', other.record().bytes],
    ['bad-signature', flipped(good[0]!.bytes, -1)],
    ['bad-signature', flipped(realm.record().bytes, 60)],
    // Well signed, but not what its kind says.
    ['malformed', realm.sign(realm.owner, 'grant', realm.publisher.publicKey, { role: 'king', uses: 1 }).bytes],
    ['malformed', realm.sign(realm.owner, 'goodbye', realm.publisher.publicKey, { boot: 1 }).bytes],
  ]
  const envelopes = [good[0]!.bytes, ...bad.map(([, bytes]) => bytes), good[1]!.bytes, good[2]!.bytes, good[2]!.bytes]
  const { added, beacons, refused } = await ledger.accept(envelopes)
  assert.equal(hashes(added), hashes(good))
  assert.equal(beacons, [])
  assert.equal(
    refused.map((error) => error.code),
    bad.map(([expected]) => expected),
  )
  assert.equal(hashes(await store.loadRecords()), hashes(good))
})

test('a beacon is checked and handed on, but neither kept in the ledger nor on disk', async () => {
  const { ledger, store } = await open()
  const beacon = realm.beacon(realm.owner, 1)
  const { added, beacons } = await ledger.accept([beacon.bytes])
  assert.equal(added, [])
  assert.equal(hashes(beacons), hashes([beacon]))
  assert.is(ledger.ledger.size, 0)
  assert.is((await store.loadRecords()).length, 0)
})

test('kinds that this version does not know are kept and handed on as they are', async () => {
  const { ledger } = await open()
  const strange = realm.sign(realm.owner, 'of-tomorrow', utf8('x'), { what: [1, { is: 'it' }] })
  assert.equal(hashes((await ledger.accept([strange.bytes])).added), hashes([strange]))
  assert.equal(ledger.ledger.get(strange.hash)!.bytes, strange.bytes)
})

test('what a register drops leaves the disk with it', async () => {
  const it = await open()
  const versions = Array.from({ length: 6 }, (_, i) => recordAt(1000 + i))
  for (const version of versions) await it.ledger.accept([version.bytes])
  const newest = hashes(versions.slice(-2))
  assert.equal(hashes(await it.store.loadRecords()), newest)
  assert.is(await it.ledger.acceptOne(versions[0]!), false, 'it is outdated')
  const { ledger } = await reopen(it)
  assert.equal(hashes(ledger.ledger.records()), newest)
})

test('all of a frame is taken in at once where it holds several versions of one register', async () => {
  const { ledger, store } = await open()
  const versions = Array.from({ length: 100 }, (_, i) => recordAt(1000 + i))
  await ledger.accept(bytesOf(versions))
  assert.equal(hashes(await store.loadRecords()), hashes(versions.slice(-2)))
})

test('listeners hear of what was added once it is on disk', async () => {
  const { ledger, store } = await open()
  const heard: string[] = []
  let onDisk: Promise<Set<string>> | undefined
  ledger.onAdded((added) => {
    heard.push(...hashes(added))
    onDisk = store.loadRecords().then((records) => new Set(hashes(records)))
  })
  const record = realm.record()
  await ledger.accept([record.bytes])
  await ledger.accept([record.bytes])
  assert.equal(heard, hashes([record]))
  assert.ok((await onDisk!).has(heard[0]!))
})

test('a first submission is refused where its clock is ahead, or the ledger holds newer ones', async () => {
  const { ledger } = await open()
  const ahead = recordAt(Date.now() + MAX_CLOCK_AHEAD + 10_000)
  await refusalOf(ledger.submit(ahead.bytes), 'clock-ahead')
  assert.is(ledger.ledger.size, 0)
  await ledger.submit(recordAt(Date.now() + MAX_CLOCK_AHEAD - 10_000).bytes)
  await ledger.submit(recordAt(3000).bytes)
  await refusalOf(ledger.submit(recordAt(2000).bytes), 'outdated')
  await refusalOf(ledger.submit(flipped(recordAt(4000).bytes, -1)), 'bad-signature')
})

test('one who submits a record twice hears twice that it is safe', async () => {
  const { ledger, store } = await open()
  const record = realm.record()
  const both = await Promise.all([ledger.submit(record.bytes), ledger.submit(record.bytes)])
  assert.equal(hashes(both), hashes([record, record]))
  assert.equal(hashes(await store.loadRecords()), hashes([record]))
})

test('a record that the disk did not take is not said to be safe until it did, and then everyone hears of it', async () => {
  const { ledger, store } = await open()
  const told: string[] = []
  ledger.onAdded((added) => told.push(...hashes(added)))
  const disk: boolean[] = []
  ledger.onDisk = (failure) => disk.push(failure === undefined)
  const works = failing(store)
  const record = realm.record()
  for (const what of [() => ledger.submit(record.bytes), () => ledger.submit(record.bytes), () => ledger.saved()]) {
    assert.match((await refusalOf(what(), 'disk')).message, 'no space left')
  }
  const refused = realm.record()
  await refusalOf(ledger.submit(refused.bytes), 'disk')
  assert.ok(!ledger.ledger.has(refused.hash), 'what is refused from the start is not in memory either')
  assert.equal([told, disk], [[], [false]])
  works()
  await until('the disk to be tried again', () => disk.length === 2)
  await ledger.submit(record.bytes)
  assert.equal(hashes(await store.loadRecords()), hashes([record]))
  await until('everyone to have heard of it', () => told.length > 0)
  assert.equal([told, disk], [hashes([record]), [false, true]])
})

test('what peers bring from the future is kept and takes effect when its time comes', async () => {
  const it = await open()
  const now = Date.now()
  const hour = 3_600_000
  const [present, future] = [recordAt(now - 1000), recordAt(now + hour)]
  assert.is((await it.ledger.accept(bytesOf([present, future]))).added.length, 2)
  const effective = ({ ledger }: Opened) => hashes(ledger.ledger.effective('grant', ledger.clock.now()))
  assert.equal(effective(it), hashes([present]))
  assert.ok(it.ledger.clock.now() < now + 60_000, 'its own clock does not follow')
  assert.ok(it.ledger.clock.next()[0] < now + 60_000)
  const again = await reopen(it)
  assert.equal(effective(again), hashes([present]))
  assert.ok(again.ledger.clock.now() < now + 60_000)
  await at(now + hour, async () => assert.equal(effective(again), hashes([future])))
})

test('what is signed comes after everything effective that was seen', async () => {
  const { ledger } = await open()
  const ahead = Date.now() + MAX_CLOCK_AHEAD - 5000
  await ledger.accept([recordAt(ahead).bytes])
  const signed = await ledger.sign(realm.owner, 'forget', realm.publisher.publicKey, {})
  assert.equal(signed.clock, [ahead, 1])
  assert.ok(ledger.ledger.has(signed.hash))
})

test('a box that boots in 1970 is not behind its ledger, nor behind the time at which it went out', async () => {
  const it = await open()
  const wentOutAt = it.ledger.clock.now()
  const record = realm.record()
  await it.ledger.accept([record.bytes])
  await at(5000, async () => {
    const { ledger } = await reopen(it)
    assert.ok(ledger.clock.now() >= wentOutAt)
    assert.ok(ledger.clock.next()[0] >= record.clock[0])
    const submitted = recordAt(ledger.clock.now())
    await ledger.submit(submitted.bytes)
    assert.equal(hashes(ledger.ledger.effective('grant', ledger.clock.now())), hashes([record, submitted]))
  })
})

test('a ledger is as it was after it was closed and opened again', async () => {
  const it = await open()
  await it.ledger.accept(bytesOf([...realm.records(300), realm.grant]))
  const digest = it.ledger.ledger.digest()
  const again = await reopen(it)
  assert.equal(again.ledger.ledger.digest(), digest)
  assert.is(again.store.damage, undefined)
})

test.run()
