// What sources.test.ts does not see: tars that no git writes.
import { mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { type Header, pack } from 'tar-stream'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { unpack } from '../../cli/unpack.js'
import { collect } from '../../node/packages/tar.js'
import { refusalOf } from '../node/realm.js'
import { scratch } from '../support/scratch.js'

type Entry = Partial<Header> & { name: string }

async function tarOf(...entries: Entry[]): Promise<Buffer> {
  const tar = pack()
  for (const entry of entries) tar.entry(entry, '')
  tar.finalize()
  return collect(tar as AsyncIterable<Uint8Array>)
}

const link = (name: string, linkname: string): Entry => ({ name, type: 'symlink', linkname })

/** @returns the folder around the one that it is unpacked into */
async function refused(tar: Buffer): Promise<string> {
  const dir = scratch('unpack')
  mkdirSync(join(dir, 'home'))
  async function* source() {
    yield tar
  }
  // Where nothing is waited for any more, Node ends, and no test with it.
  const deadline = setTimeout(() => assert.unreachable('it is read without an end'), 10_000)
  await refusalOf(unpack(source(), join(dir, 'home')), 'source')
  clearTimeout(deadline)
  return dir
}

test('no folder is made behind a link that leads out', async () => {
  // By its text the second one stays inside, through the first one it does not.
  const tar = await tarOf(link('d/up', '..'), link('out', 'd/up/..'), link('out/far/link', 'x'))
  assert.equal(readdirSync(await refused(tar)), ['home'])
})

test('a tar that is none, breaks off, has a name twice, or folders with content is refused as what came', async () => {
  await refused(Buffer.alloc(1024, 1))
  await refused((await tarOf({ name: 'a' })).subarray(0, 700))
  await refused(await tarOf({ name: 'a' }, { name: 'a' }))
  await refused(await tarOf({ name: 'a' }, { name: 'a/b' }))
  // The library waits for the content of a folder without an end.
  const folder = await tarOf({ name: 'a', type: 'directory' })
  folder.write('00000000017', 124)
  folder.fill(' ', 148, 156)
  folder.write(
    `${folder
      .subarray(0, 512)
      .reduce((sum, byte) => sum + byte, 0)
      .toString(8)
      .padStart(6, '0')}\0`,
    148,
  )
  await refused(folder)
})

test.run()
