import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { BootCounter, KnownPeers, loadOrMakeSeed, loadSeed, saveSeed } from '../../node/identity.js'
import { scratch } from '../support/scratch.js'
import { failureOf, refusalOf, seed } from './realm.js'

const dir = scratch('identity')
let count = 0
const fresh = (): string => join(dir, String(count++), 'keys')
const modeOf = (path: string): number => statSync(path).mode & 0o777

test('a key is made once, and is the same ever after', async () => {
  const keys = fresh()
  const made = await loadOrMakeSeed(keys, 'ap')
  assert.is(made.length, 32)
  assert.equal(await loadOrMakeSeed(keys, 'ap'), made)
  assert.equal(await loadSeed(keys, 'ap'), made)
  assert.not.equal(await loadOrMakeSeed(keys, 'mesh'), made)
  assert.is(await loadSeed(keys, 'none'), undefined)
})

test('nobody but its owner can read a key, whatever the umask and what was left behind', async () => {
  const keys = fresh()
  const before = process.umask(0)
  try {
    await loadOrMakeSeed(keys, 'ap')
    assert.is(modeOf(keys), 0o700)
    assert.is(modeOf(join(keys, 'ap.key')), 0o600)
    writeFileSync(join(keys, 'mesh.key.new'), 'left by a power cut', { mode: 0o666 })
    await saveSeed(keys, 'mesh', seed())
    assert.is(modeOf(join(keys, 'mesh.key')), 0o600)
  } finally {
    process.umask(before)
  }
})

test('a damaged key says which file it is and what to do, and is not replaced', async () => {
  for (const content of ['', 'x', 'a'.repeat(63), 'A'.repeat(64), `${'a'.repeat(64)}b`, '\0'.repeat(64)]) {
    const keys = fresh()
    mkdirSync(keys, { recursive: true })
    const path = join(keys, 'ap.key')
    writeFileSync(path, content)
    const { message } = await refusalOf(loadOrMakeSeed(keys, 'ap'), 'key-damaged')
    assert.match(message, path)
    assert.match(message, 'restore it from a backup')
    if (content.length > 60) assert.not.match(message, content, 'what may be half a key is not shown')
    assert.is(readFileSync(path, 'utf8'), content)
  }
})

test('a key that cannot be read is not taken for one that is not there', async () => {
  const keys = fresh()
  mkdirSync(join(keys, 'ap.key'), { recursive: true })
  assert.match((await failureOf(loadOrMakeSeed(keys, 'ap'))).message, 'EISDIR')
})

test('whoever reads while a key is written sees the whole old one or the whole new one', async () => {
  const keys = fresh()
  const all = Array.from({ length: 30 }, seed)
  await saveSeed(keys, 'ap', all[0]!)
  let isWriting = true
  const reading = (async () => {
    let reads = 0
    while (isWriting) {
      const seen = await loadSeed(keys, 'ap')
      assert.ok(all.some((one) => Buffer.compare(one, seen!) === 0))
      reads++
    }
    return reads
  })()
  for (const one of all) await saveSeed(keys, 'ap', one)
  isWriting = false
  assert.ok((await reading) > 0)
  assert.equal(await readdir(keys), ['ap.key'])
})

test('no two lives of an AP share a boot counter, and what it took over from another one counts too', async () => {
  const data = fresh()
  const boots: number[] = []
  for (let life = 0; life < 3; life++) boots.push(await (await BootCounter.load(data)).raise())
  assert.equal(boots, [1, 2, 3])
  const counter = await BootCounter.load(data)
  // At once, and out of order: the file never says less than what somebody was told.
  assert.equal(await Promise.all([counter.raise(), counter.raise(9), counter.raise(7)]), [4, 9, 9])
  assert.is(await (await BootCounter.load(data)).raise(), 10)
  assert.is(modeOf(join(data, 'boot')), 0o600)
})

test('a damaged boot counter says which file it is and what to do, and is not replaced', async () => {
  for (const content of ['', 'x', '-1', '1 2', '\0\0\0']) {
    const data = fresh()
    mkdirSync(data, { recursive: true })
    writeFileSync(join(data, 'boot'), content)
    assert.match((await refusalOf(BootCounter.load(data), 'data-damaged')).message, join(data, 'boot'))
    assert.is(readFileSync(join(data, 'boot'), 'utf8'), content)
  }
})

test('the known peers are as they were saved last', async () => {
  const data = fresh()
  const peers = new KnownPeers(data)
  assert.equal(await peers.load(), {})
  await Promise.all([peers.save({ a: ['/ip4/10.0.0.1/tcp/1'] }), peers.save({ b: ['/ip4/10.0.0.2/tcp/1'] })])
  assert.equal(await new KnownPeers(data).load(), { b: ['/ip4/10.0.0.2/tcp/1'] })
  writeFileSync(join(data, 'peers'), '{"a": [')
  assert.equal(await peers.load(), {}, 'others may find this AP')
})

test.run()
