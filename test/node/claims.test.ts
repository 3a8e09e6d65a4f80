// What an AP does before its own claim is safe: nothing. A real AP and the real engine, of which it asks no more than what it is.
import { join } from 'node:path'
import { pino } from 'pino'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Ap } from '../../node/ap.js'
import { next } from '../../node/api/queries.js'
import { loadConfig } from '../../node/config.js'
import { hex } from '../../protocols/bytes.js'
import { chuteSubject, newCreation } from '../../protocols/chute.js'
import { seal } from '../../protocols/envelope.js'
import { apSigner } from '../../protocols/keys.js'
import { specOf } from '../protocols/support.js'
import { scratch } from '../support/scratch.js'
import { until } from '../support/until.js'
import { seed } from './realm.js'

const flags = { name: 'claimer', listen: ['/ip4/127.0.0.1/tcp/0'], 'no-mdns': true }
const publisher = apSigner(seed())
const config = await loadConfig(join(scratch('claims'), 'ap'), flags, {})
const ap = await Ap.start(config, pino({ level: 'silent' }), async () => publisher.publicKey)
test.after(() => ap.halt())

test('an AP starts what it claimed only once the claim is on disk', async () => {
  let isWritten = () => {}
  const gate = new Promise<void>((resolve) => {
    isWritten = resolve
  })
  const write = ap.store.writeRecords.bind(ap.store)
  ap.store.writeRecords = async (added, dropped, nowMs) => {
    if (added.some(({ kind }) => kind === 'claim')) await gate
    return write(added, dropped, nowMs)
  }
  const wanted: string[][] = []
  const want = ap.reconciler.want.bind(ap.reconciler)
  ap.reconciler.want = (desired, kept) => {
    wanted.push([...desired.keys()])
    want(desired, kept)
  }
  const { clock, revision } = next(ap, publisher.publicKey, 'web')
  const body = { creation: newCreation(clock[0], new Uint8Array(8)), revision, spec: specOf() }
  const subject = chuteSubject(publisher.publicKey, 'web')
  await until('the engine to be known', () => ap.reconciler.engineInfo() !== undefined)
  await ap.submit(seal(publisher, ap.ledgerStore.mesh, clock, 'deployment', subject, body).bytes)

  const held = () => ap.outlook.placed.filter(({ holder }) => holder === ap.id).map(({ instance }) => instance)
  await until('the claim to be made', () => held().length === 1)
  const after = wanted.length
  await until('the AP to have looked again', () => wanted.length > after + 1)
  assert.equal(wanted.flat(), [])
  const claimed = held()
  isWritten()
  // For a moment: nobody has its image.
  await until('what is claimed to be wanted', () => wanted.some((keys) => keys.length === 1))
  assert.equal(
    wanted.find((keys) => keys.length === 1),
    claimed,
  )
  assert.ok(hex(ap.ledgerStore.ledger.inForce('claim', Number.POSITIVE_INFINITY)[0]!.subject) === claimed[0])
})

test.run()
