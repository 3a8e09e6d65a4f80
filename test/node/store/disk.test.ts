// What a store makes of a disk whose power is cut, or that is full. On real file systems, and therefore for root alone.
import { cpSync, existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { NodeClock } from '../../../node/clock.js'
import { BootCounter } from '../../../node/identity.js'
import { LedgerStore } from '../../../node/store/ledger-store.js'
import { Store } from '../../../node/store/store.js'
import type { SignedRecord } from '../../../protocols/envelope.js'
import { MeshError } from '../../../protocols/error.js'
import { Disk, inOwnMounts, whyNoDisks } from '../../support/disks.js'
import { scratch } from '../../support/scratch.js'
import { until } from '../../support/until.js'
import { hashes, Realm, refusalOf } from '../realm.js'
import { check, Life } from './life.js'

const obstacle = whyNoDisks()
if (obstacle === undefined) inOwnMounts(import.meta.url)
else console.log(`skipped: ${obstacle}`)
const onDisks = obstacle === undefined ? test : test.skip

const realm = new Realm()

onDisks(
  'whatever moment the power is cut at, what was acknowledged is on the disk, and no boot counter comes twice',
  async () => {
    const disk = new Disk(64)
    const data = join(disk.path, 'data')
    const lives: Life[] = []
    for (let round = 0; round < 10; round++) {
      const life = new Life(data)
      lives.push(life)
      await life.somewhere(round % 3 === 2)
      // Stopped, so that nothing reaches the disk while its content is copied.
      life.child.kill('SIGSTOP')
      await new Promise((resolve) => setTimeout(resolve, 20)) // for a system call that is under way
      await disk.cutPower(() => life.kill())
      await check(data, lives)
    }
    assert.ok(lives.some(({ acknowledged }) => acknowledged.length > 10))
  },
)

onDisks('a boot counter is on the disk as soon as it may be used', async () => {
  const disk = new Disk(16)
  for (let round = 1; round <= 5; round++) {
    assert.is(await (await BootCounter.load(disk.path)).raise(), round)
    await disk.cutPower(async () => {})
  }
})

onDisks(
  'on a full disk records are refused, none that was acknowledged is lost, and with room it goes on by itself',
  async () => {
    const disk = new Disk(40)
    const where = join(disk.path, 'data', 'ledger')
    const store = await Store.open(where)
    const ledger = await LedgerStore.load(store, realm.mesh, new NodeClock())
    const acknowledged: SignedRecord[] = []
    const submit = async (record: SignedRecord) => {
      await ledger.submit(record.bytes)
      acknowledged.push(record)
    }
    /** Submits until it is refused; some at a time, so that some are on their way when it happens. */
    const submitUntilFull = async () => {
      for (;;) {
        const outcomes = await Promise.allSettled(realm.records(5, 20_000).map(submit))
        await store.addEvent({ kind: 'event' }).catch(() => {})
        const refused = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason] : []))
        if (refused.length > 0) return refused as MeshError[]
      }
    }
    for (let round = 0; round < 3; round++) {
      const makeRoom = disk.fill(500_000 * (round + 1))
      for (const error of await submitUntilFull()) {
        assert.instance(error, MeshError)
        assert.is(error.code, 'disk')
        assert.match(error.message, /No space left on device.*; free some space there/)
      }
      // Tidying up, LevelDB may make room enough by itself.
      if (ledger.failure !== undefined) await refusalOf(ledger.submit(realm.record().bytes), 'disk')
      assert.ok((await store.events()).length > 0, 'what is there can be read')

      // As after a kill at this moment.
      const elsewhere = join(scratch('full'), 'ledger')
      cpSync(where, elsewhere, { recursive: true })
      const copy = await Store.open(elsewhere)
      assert.is(copy.damage, undefined)
      const there = new Set(hashes(copy.takeRecords()))
      for (const hash of hashes(acknowledged)) assert.ok(there.has(hash), `${hash} was acknowledged, and is lost`)
      await copy.close()

      makeRoom()
      await until('the disk to be tried again', () => ledger.failure === undefined)
      await submit(realm.record())
      await store.addEvent({ kind: 'event' })
      assert.equal(hashes(await store.loadRecords()), hashes(ledger.ledger.records()))
    }
    await store.close()
    const again = await Store.open(where)
    assert.is(again.damage, undefined)
    assert.equal(hashes(again.takeRecords()), hashes(ledger.ledger.records()))
    await again.close()

    // A start on a full disk is refused rather than taken for damage.
    let makeRoom = () => {}
    await until('a start to be refused', async () => {
      for (const name of ['LOG', 'LOG.old']) rmSync(join(where, name), { force: true }) // to drop them would make room
      makeRoom = disk.fill(0)
      const opened = await Store.open(where).catch((error) => error)
      if (opened instanceof MeshError) return opened.code === 'disk'
      makeRoom() // what LevelDB still had to tidy up made room for it
      return opened.close().then(() => false)
    })
    assert.not.ok(existsSync(`${where}.repair`))
    makeRoom()
    const last = await Store.open(where)
    assert.equal(hashes(last.takeRecords()), hashes(ledger.ledger.records()))
    await last.close()
  },
)

test.run()
