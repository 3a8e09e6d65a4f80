// What a store makes of a LevelDB whose files were damaged.
import { spawnSync } from 'node:child_process'
import { cpSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Level } from 'level'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Store } from '../../../node/store/store.js'
import { open, type SignedRecord } from '../../../protocols/envelope.js'
import { scratch } from '../../support/scratch.js'
import { until } from '../../support/until.js'
import { hashes, Realm } from '../realm.js'

const realm = new Realm()
const dir = scratch('damage')
const records = realm.records(200, 28_000)
const written = new Set(hashes(records))
const template = join(dir, 'template')
let count = 0

// Enough for tables as well as a log, and killed rather than closed: without the last word that closing has.
test.before(async () => {
  const store = await Store.open(join(template, 'ledger'))
  for (let at = 0; at < records.length; at += 10) {
    await store.writeRecords(records.slice(at, at + 10), [], at)
    await store.addEvent({ at })
  }
  await until('the note of what was written', () => Reflect.get(store, 'noted') === 20)
  cpSync(template, join(dir, 'killed'), { recursive: true })
  await store.close()
})

/** A copy of the store, with its files. */
function copy() {
  const data = join(dir, String(count++))
  cpSync(join(dir, 'killed'), data, { recursive: true })
  const where = join(data, 'ledger')
  const files = (pattern: RegExp) =>
    readdirSync(where)
      .filter((name) => pattern.test(name))
      .map((name) => join(where, name))
  return { data, where, files }
}

const storeUrl = new URL('../../../node/store/store.js', import.meta.url).href

/** Opens and closes a store in a process of its own. @returns whether that process lived to the end */
function openElsewhere(where: string): boolean {
  const script = `const { Store } = await import(${JSON.stringify(storeUrl)})
    await (await Store.open(${JSON.stringify(where)})).close()`
  const { status, signal, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script])
  assert.ok(status === 0 || signal === 'SIGABRT', `it ended with ${status ?? signal}: ${stderr}`)
  return status === 0
}

/**
 * Opens a damaged store, and sees that it is a sound one after. Where a byte has put LevelDB's own thoughts out of order
 * it aborts the process: that may happen to the first start, and to no other.
 */
async function mended(where: string): Promise<{ store: Store; kept: SignedRecord[] }> {
  assert.ok(openElsewhere(where) || openElsewhere(where), 'a second start found no way around')
  const store = await Store.open(where)
  const kept = store.takeRecords()
  for (const record of kept) {
    assert.ok(written.has(hashes([record])[0]!), 'a record that nobody wrote')
    open(record.bytes, realm.mesh)
  }
  const more = realm.record()
  await store.writeRecords([more], [], 1)
  const { damage } = store
  await store.close()
  const again = await Store.open(where)
  assert.not.ok(again.isDamageNew, 'what was found once is not found again')
  assert.equal(again.damage, damage, 'but is remembered')
  assert.equal(hashes(again.takeRecords()), hashes([...kept, more]))
  assert.ok((await again.events()).length <= 20)
  return { store: again, kept }
}

function change(path: string, how: (bytes: Buffer) => void): void {
  const bytes = readFileSync(path)
  how(bytes)
  writeFileSync(path, bytes)
}

const flip = (path: string, at: number) =>
  change(path, (bytes) => {
    bytes[Math.floor(at)]! ^= 0x55
  })

const halve = (path: string) => truncateSync(path, statSync(path).size >> 1)

type Files = (pattern: RegExp) => string[]

/** What is done to the files, how many records may be lost by it at most, and what it is called. */
const damages: Record<string, [damage: (files: Files) => void, most: number, found: RegExp]> = {
  'no CURRENT': [(files) => rmSync(files(/CURRENT/)[0]!), 0, /CURRENT is missing/],
  'an empty CURRENT': [(files) => truncateSync(files(/CURRENT/)[0]!), 0, /CURRENT file/],
  'no MANIFEST': [(files) => rmSync(files(/MANIFEST/)[0]!), 0, /No such file/],
  'half a MANIFEST': [(files) => halve(files(/MANIFEST/)[0]!), 200, /./],
  'a log cut short': [(files) => halve(files(/\.log$/).at(-1)!), 100, /writes are missing/],
  'no log': [(files) => rmSync(files(/\.log$/).at(-1)!), 100, /writes are missing/],
  'a byte in a log': [(files) => flip(files(/\.log$/).at(-1)!, 100_000), 100, /./],
  'a table cut short': [(files) => halve(files(/\.ldb$/)[0]!), 200, /./],
  'no table': [(files) => rmSync(files(/\.ldb$/)[0]!), 200, /missing files/],
  'bytes all over a table': [
    (files) =>
      change(files(/\.ldb$/)[0]!, (bytes) => {
        for (let at = 300; at < bytes.length; at += bytes.length / 20) bytes[Math.floor(at)]! ^= 0x55
      }),
    150,
    /./,
  ],
  'a table of zeros': [(files) => change(files(/\.ldb$/)[0]!, (bytes) => bytes.fill(0)), 200, /./],
  'nothing at all': [(files) => files(/./).map((path) => rmSync(path)), 200, /./],
}

for (const [what, [damage, most, found]] of Object.entries(damages)) {
  test(`with ${what} the store opens, says so, and keeps what can be read`, async () => {
    const { where, files } = copy()
    damage(files)
    const { store, kept } = await mended(where)
    assert.match(store.damage!.found, found)
    const lost = written.size - kept.length
    assert.ok(lost <= most, `${lost} records are lost`)
    await store.close()
  })
}

test('whatever bytes change, what is read is what was written, and what is lost is missed', async () => {
  for (let round = 0; round < 6; round++) {
    const { data, where, files } = copy()
    const paths = files(/CURRENT|MANIFEST|ldb|log/)
    const told: string[] = []
    for (let n = Math.ceil(Math.random() * 3); n > 0; n--) {
      const path = paths[Math.floor(Math.random() * paths.length)]!
      const at = Math.floor(Math.random() * statSync(path).size)
      told.push(`${path} at ${at}`)
      flip(path, at)
    }
    const { store, kept } = await mended(where)
    assert.ok(kept.length === written.size || store.damage !== undefined, `nothing is missed: ${told}`)
    await store.close()
    rmSync(data, { recursive: true })
  }
})

test('a signature that was changed is found, and only its record is lost', async () => {
  const { where } = copy()
  const db = new Level<string, Uint8Array>(where, { keyEncoding: 'utf8', valueEncoding: 'view' })
  await db.open()
  const [key, value] = (await db.iterator({ gte: 'record!8', limit: 1 }).all())[0]!
  const forged = Uint8Array.from(value)
  forged[forged.length - 1]! ^= 1
  await db.put(key, forged)
  await db.close()
  const { store, kept } = await mended(where)
  assert.is(store.damage!.found, '1 of its records cannot be read')
  assert.is(store.damage!.lost, 1)
  assert.is(kept.length, written.size - 1)
  await store.close()
})

test('what could not be read is kept beside the ledger, the last one of it', async () => {
  const { data, where } = copy()
  for (let i = 0; i < 2; i++) {
    flip(join(where, readdirSync(where).find((name) => name === 'CURRENT')!), 3)
    await (await Store.open(where)).close()
  }
  assert.is(readdirSync(data).filter((name) => name.startsWith('ledger.damaged-')).length, 1)
})

test('damage is remembered until the store is told that it is mended', async () => {
  const { where, files } = copy()
  rmSync(files(/CURRENT/)[0]!)
  const { store } = await mended(where)
  await store.repaired()
  await store.close()
  const again = await Store.open(where)
  assert.is(again.damage, undefined)
  await again.close()
})

test('a process that died while it read is no damage, and one that stands in the middle of a repair goes on with it', async () => {
  const { where } = copy()
  writeFileSync(`${where}.opening`, '')
  const store = await Store.open(where)
  assert.is(store.damage, undefined)
  assert.is(store.takeRecords().length, written.size)
  await store.close()

  const half = copy()
  cpSync(half.where, `${half.where}.new`, { recursive: true }) // not known to be whole, as long as the other is in its place
  truncateSync(join(`${half.where}.new`, 'CURRENT'))
  await (await Store.open(half.where)).close()
  assert.equal(readdirSync(half.data).sort(), ['ledger', 'ledger.written'])

  const whole = copy()
  cpSync(whole.where, `${whole.where}.new`, { recursive: true })
  rmSync(whole.where, { recursive: true })
  const swapped = await Store.open(whole.where)
  assert.is(swapped.damage, undefined)
  assert.is(swapped.takeRecords().length, written.size)
  await swapped.close()
})

test.run()
