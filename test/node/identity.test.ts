import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { loadOrMakeSeed, loadSeed, saveSeed } from '../../node/identity.js'
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

test.run()
