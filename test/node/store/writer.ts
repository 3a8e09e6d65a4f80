// The program that tests kill: counts a start, then writes records for ever, and names each one once it is acknowledged.
import { join } from 'node:path'
import { NodeClock } from '../../../node/clock.js'
import { BootCounter } from '../../../node/identity.js'
import { LedgerStore } from '../../../node/store/ledger-store.js'
import { Store } from '../../../node/store/store.js'
import { hex, sha256, utf8 } from '../../../protocols/bytes.js'
import { Realm } from '../realm.js'

const data = process.argv[2]!
const realm = new Realm(sha256(utf8('the same in each life')))
const boots = await BootCounter.load(data)
process.stdout.write(`boot ${await boots.raise()}\n`)
const store = await Store.open(join(data, 'ledger'))
if (store.damage !== undefined) process.stdout.write(`damage ${JSON.stringify(store.damage)}\n`)
const ledger = await LedgerStore.load(store, realm.mesh, new NodeClock())
for (;;) {
  const writes = realm.records(4).map(async (record) => {
    await ledger.submit(record.bytes)
    process.stdout.write(`${hex(record.hash)}\n`)
  })
  await Promise.all(writes)
}
