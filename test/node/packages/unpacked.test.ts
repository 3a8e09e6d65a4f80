// How big layers are once unpacked, as an engine would unpack them: told of any tar, and of those that lie.
import { Readable } from 'node:stream'
import { gzipSync } from 'node:zlib'
import * as fc from 'fast-check'
import { pack } from 'tar-stream'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { collect, tarOf } from '../../../node/packages/tar.js'
import { Unpacked } from '../../../node/packages/unpacked.js'
import { refusalOf } from '../realm.js'

const LIMIT = 10 * 2 ** 20

/** A store that has one layer, and counts what is read of it. */
class Layers {
  bytesRead = 0
  readonly unpacked = new Unpacked(this)

  constructor(
    private readonly bytes: Uint8Array,
    private readonly piece = 64 * 1024,
  ) {}

  size(): number {
    return this.bytes.length
  }

  async read(_: string, { start = 0, end = this.bytes.length } = {}): Promise<Readable> {
    const { bytes, piece } = this
    const count = (n: number) => {
      this.bytesRead += n
    }
    function* pieces() {
      for (let at = start; at < Math.min(end, bytes.length); at += piece) {
        const part = bytes.subarray(at, Math.min(at + piece, end))
        count(part.length)
        yield part
      }
    }
    return Readable.from(pieces(), { objectMode: false })
  }

  sizeOf(limit = LIMIT): Promise<number> {
    return this.unpacked.sizeOf('sha256:x', limit)
  }
}

type Entry = { name: string; size: number; type?: string; pax?: Record<string, string> }

/** A header of a tar, with any type, and its content. */
function entry({ name, size, type = '0' }: Entry, content = Buffer.alloc(Math.ceil(size / 512) * 512)): Buffer {
  const header = Buffer.alloc(512)
  header.write(name, 0)
  header.write('0000644\0', 100)
  header.write(`${size.toString(8).padStart(11, '0')}\0`, 124)
  header.write('        ', 148)
  header.write(type, 156)
  header.write('ustar\x0000', 257)
  header.write(
    `${header
      .reduce((sum, byte) => sum + byte, 0)
      .toString(8)
      .padStart(6, '0')}\0 `,
    148,
  )
  return Buffer.concat([header, content])
}

const record = (key: string, value: string): string => {
  const rest = ` ${key}=${value}\n`
  for (let length = rest.length; ; length++) if (`${length}${rest}`.length === length) return `${length}${rest}`
}

function attributes(text: string): Buffer {
  const content = Buffer.alloc(Math.ceil(text.length / 512) * 512)
  content.write(text)
  return entry({ name: 'x', size: text.length, type: 'x' }, content)
}

const END = Buffer.alloc(1024)

test('a layer has as many bytes as its tar, packed in gzip or not, however it comes in pieces', async () => {
  const files = fc.array(fc.record({ name: fc.stringMatching(/^[a-z]{1,20}$/), size: fc.nat(3000) }), { maxLength: 8 })
  await fc.assert(
    fc.asyncProperty(files, fc.integer({ min: 1, max: 2000 }), async (all, piece) => {
      const tar = await collect(tarOf(all.map(({ name, size }) => ({ name, size, body: [Buffer.alloc(size, 1)] }))))
      assert.is(await new Layers(tar, piece).sizeOf(), tar.length)
      assert.is(await new Layers(gzipSync(tar), piece).sizeOf(), tar.length)
    }),
    { numRuns: 60 },
  )
})

test('a layer with names, attributes and links of all kinds that tar writers make is measured', async () => {
  const tar = pack()
  tar.entry({ name: 'n'.repeat(300), pax: { 'SCHILY.xattr.user.a': 'b'.repeat(2000) } } as never, 'content')
  tar.entry({ name: 'link', type: 'symlink', linkname: 'l'.repeat(200) })
  tar.entry({ name: 'dev', type: 'character-device', devmajor: 1, devminor: 3 })
  tar.finalize()
  const bytes = await collect(tar as AsyncIterable<Uint8Array>)
  assert.is(await new Layers(bytes).sizeOf(), bytes.length)
})

test('of a layer that unpacks beyond its limit no more is read than tells so', async () => {
  const bomb = gzipSync(Buffer.concat([entry({ name: 'zeros', size: 512 * 2 ** 20 - 1024 }), END]))
  assert.ok(bomb.length < 600_000)
  const layers = new Layers(bomb, 4096)
  await refusalOf(layers.sizeOf(), 'image-too-big')
  assert.ok(layers.bytesRead < bomb.length / 8, `${layers.bytesRead} of ${bomb.length} bytes were read`)
})

test('a file with holes is refused, by its type, by attributes, and where attributes say another size before it', async () => {
  const hidden = Buffer.concat([
    // The header says no content, the attributes say two blocks: what follows them is a file with holes.
    attributes(record('size', '1024')),
    entry({ name: 'a', size: 0 }, Buffer.alloc(1024)),
    entry({ name: 'holes', size: 512, type: 'S' }),
  ])
  for (const tar of [
    entry({ name: 'holes', size: 512, type: 'S' }),
    Buffer.concat([attributes(record('GNU.sparse.major', '1')), entry({ name: 'holes', size: 512 })]),
    Buffer.concat([attributes(record('mtime', '1') + record('GNU.sparse.size', '9')), entry({ name: 'a', size: 0 })]),
    hidden,
  ]) {
    const { message } = await refusalOf(new Layers(Buffer.concat([tar, END])).sizeOf(), 'layer-format')
    assert.match(message, /holes/)
  }
  const sound = Buffer.concat([
    attributes(record('size', '1024')),
    entry({ name: 'a', size: 0 }, Buffer.alloc(1024)),
    END,
  ])
  assert.is(await new Layers(sound).sizeOf(), sound.length)
})

test('a layer in another form than tar or gzip, or cut short, is refused with the reason', async () => {
  for (const head of ['425a6839', 'fd377a585a00', '28b52ffd', '502a4d18']) {
    const { message } = await refusalOf(new Layers(Buffer.from(`${head}00000000`, 'hex')).sizeOf(), 'layer-format')
    assert.match(message, /pack it otherwise/)
  }
  const tar = Buffer.concat([entry({ name: 'a', size: 5000 }), END])
  await refusalOf(new Layers(gzipSync(tar).subarray(0, 40)).sizeOf(), 'layer-format')
  await refusalOf(new Layers(Buffer.alloc(512, 'x')).sizeOf(), 'layer-format')
})

test('what was measured once is not read again, and holds for a tighter limit too', async () => {
  const tar = gzipSync(Buffer.concat([entry({ name: 'a', size: 5000 }), END]))
  const layers = new Layers(tar)
  const size = await layers.sizeOf()
  const read = layers.bytesRead
  assert.is(await layers.sizeOf(), size)
  await refusalOf(layers.sizeOf(size - 1), 'image-too-big')
  assert.is(layers.bytesRead, read)
})

test.run()
