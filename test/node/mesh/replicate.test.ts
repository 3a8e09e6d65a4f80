// Before a record is said to be safe, another AP has it on disk.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { hex } from '../../../protocols/bytes.js'
import { until } from '../../support/until.js'
import { refusalOf } from '../realm.js'
import { type Peer, Peers } from './support.js'

const peers = new Peers()
const { realm } = peers
const [a, b, c] = (await peers.members(3)) as [Peer, Peer, Peer]
test.after(() => peers.stop())

/** Lets the disk of a peer refuse what is written, until the returned function is called. */
function failing(peer: Peer): () => void {
  const db = Reflect.get(peer.store, 'db') as { batch(...args: unknown[]): Promise<void> }
  const fail = () => Promise.reject(new Error('no space left'))
  db.batch = fail
  Reflect.set(peer.store, 'probe', fail)
  return () => [db, peer.store].map((it) => Reflect.deleteProperty(it, it === db ? 'batch' : 'probe'))
}

async function submit(): Promise<{ hash: string; holders: number }> {
  const record = realm.record()
  await a.ledgerStore.submit(record.bytes)
  return { hash: hex(record.hash), holders: 1 + (await a.network.replicate()) }
}

test('alone, an AP is the only one that holds a record', async () => {
  assert.is((await submit()).holders, 1)
})

test('connected, others have it on disk too', async () => {
  await Promise.all([a.meet(b), a.meet(c)])
  const { hash, holders } = await submit()
  assert.is(holders, 3)
  for (const peer of [b, c]) assert.ok((await peer.onDisk()).has(hash))
})

test('an AP that does not get it on disk does not count, and another one is enough', async () => {
  const works = failing(b)
  const { hash, holders } = await submit()
  assert.is(holders, 2)
  assert.ok((await c.onDisk()).has(hash))
  works()
  await until('the disk to work', () => b.ledgerStore.failure === undefined)
})

test('where no connected AP confirms, that is said, and the record is kept', async () => {
  const now = performance.now.bind(performance)
  const works = [failing(b), failing(c)]
  const submitting = submit()
  await until('an attempt', () => b.ledgerStore.failure !== undefined)
  performance.now = () => now() + 20_000 // so much time goes by after it
  const { message } = await refusalOf(submitting, 'not-replicated').finally(() => {
    performance.now = now
  })
  assert.match(message, /is on the disk of this AP and will spread, but it is not safe yet: none of 2 connected APs/)
  for (const work of works) work()
  await until('the disks to work', () => [b, c].every(({ ledgerStore }) => ledgerStore.failure === undefined))
  assert.is((await submit()).holders, 3)
  assert.is(a.digest, b.digest)
})

test('many that are submitted at once share a few exchanges', async () => {
  const before = a.synced.length
  const all = await Promise.all(Array.from({ length: 200 }, submit))
  assert.ok(all.every(({ holders }) => holders >= 2))
  const onDisk = await b.onDisk()
  assert.ok(all.every(({ hash }) => onDisk.has(hash)))
  const exchanges = a.synced.length - before
  assert.ok(exchanges <= 20, `${exchanges} exchanges for 200 records`)
})

test.run()
