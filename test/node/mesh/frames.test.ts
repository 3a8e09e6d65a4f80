import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import type { Stream } from '@libp2p/interface'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { z } from 'zod'
import { exchange, Frames } from '../../../node/mesh/frames.js'
import { createHost, type Host } from '../../../node/mesh/host.js'
import { concat } from '../../../protocols/bytes.js'
import { MeshError } from '../../../protocols/error.js'
import { until } from '../../support/until.js'
import { failureOf, seed } from '../realm.js'

const hosts: Host[] = []
test.after(async () => {
  await Promise.all(hosts.map((host) => host.stop()))
})

async function startHost(): Promise<Host> {
  const listen = ['/ip4/127.0.0.1/tcp/0']
  const host = await createHost({
    seed: seed(),
    mesh: 'frames',
    listen,
    mdns: false,
    bootstrap: [],
    isMember: () => true,
  })
  await host.start()
  hosts.push(host)
  return host
}

const [near, far] = [await startHost(), await startHost()]
const connection = await near.dial(far.getMultiaddrs())
let count = 0

/** The two ends of a new stream. */
async function streams(): Promise<[near: Stream, far: Stream]> {
  const protocol = `/test/${count++}`
  const arrived = new Promise<Stream>((resolve) => {
    void far.handle(protocol, resolve)
  })
  const near = await connection.newStream(protocol)
  return [near, await arrived]
}

const text = z.object({ text: z.string() })

test('messages arrive as they were sent, in order, whatever their size', async () => {
  const [a, b] = await streams()
  const [sender, receiver] = [new Frames(a, 300_000, 5000), new Frames(b, 300_000, 5000)]
  const sizes = [0, 1, 127, 128, 16_383, 16_384, 300_000 - 20, 5]
  void Promise.resolve().then(async () => {
    for (const size of sizes) await sender.write({ text: 'x'.repeat(size) })
    await sender.writeBytes(new Uint8Array())
  })
  for (const size of sizes) assert.is((await receiver.read(text)).text.length, size)
  assert.is((await receiver.readBytes()).length, 0)
})

test('a frame beyond the limit, one of another shape, and a length without an end are refused', async () => {
  for (const [bytes, pattern] of [
    [[0x81, 0x08], /frame of 1025 bytes; 1024 are allowed/],
    [[0xff, 0xff, 0xff, 0x7f], /frame of \d+ bytes/],
    [new Uint8Array(100_000).fill(0x80), /length has no end/],
    [[0x03, 0xff, 0xff, 0xff], /not canonical CBOR/],
    [[0x01, 0xa0], /wrong text/],
  ] as const) {
    const [a, b] = await streams()
    a.send(Uint8Array.from(bytes))
    const error = await failureOf(new Frames(b, 1024, 5000).read(text))
    assert.instance(error, MeshError)
    assert.match(error.message, pattern)
    b.abort(error)
  }
})

test('a stream that ends amid a frame, or is reset, ends the wait at once', async () => {
  for (const end of [(a: Stream) => a.close(), async (a: Stream) => a.abort(new Error('enough'))]) {
    const [a, b] = await streams()
    a.send(Uint8Array.of(0x09, 0x01))
    const reading = failureOf(new Frames(b, 1024, 60_000).readBytes())
    await end(a)
    assert.match((await reading).message, /ended before a whole frame/)
  }
})

test('what came before the end is still read after it', async () => {
  const [a, b] = await streams()
  const sender = new Frames(a, 200_000, 5000)
  const receiver = new Frames(b, 200_000, 5000)
  for (let i = 0; i < 5; i++) await sender.writeBytes(new Uint8Array(100_000).fill(i))
  await a.close()
  await until('the end to arrive', () => b.remoteWriteStatus === 'closed')
  for (let i = 0; i < 5; i++) assert.is((await receiver.readBytes())[99_999], i)
  assert.match((await failureOf(receiver.readBytes())).message, /ended/)
})

test('a fast sender waits for a slow reader, of whom it cannot take more memory than a few windows', async () => {
  const [a, b] = await streams()
  const frame = 256 * 1024
  const [sender, receiver] = [new Frames(a, frame, 20_000), new Frames(b, frame, 20_000)]
  let sent = 0
  const sending = (async () => {
    for (let i = 0; i < 100; i++) {
      await sender.writeBytes(new Uint8Array(frame).fill(i))
      sent++
    }
  })()
  // Time enough for the 25 MB to pass, were nobody holding them up.
  await until('the sender to be held up', async () => {
    const before = sent
    await new Promise((resolve) => setTimeout(resolve, 300))
    return sent === before && sent > 0
  })
  assert.ok(sent <= 20, `${sent} of 100 frames were sent although none was read`)
  for (let i = 0; i < 100; i++) {
    const bytes = await receiver.readBytes()
    assert.equal([bytes.length, bytes[0], bytes[frame - 1]], [frame, i, i])
  }
  await sending
})

test('a frame that comes byte by byte is kept in few pieces, and what comes after it changes nothing of it', async () => {
  const stream = new Trickle()
  const frames = new Frames(stream as unknown as Stream, 300_000)
  const bytes = new Uint8Array(200_000).map((_, i) => i)
  stream.say(Uint8Array.of(0xc0, 0x9a, 0x0c)) // the length 200,000
  const before = bytes.subarray(0, 5000)
  stream.say(before)
  for (const byte of bytes.subarray(5000)) stream.say(Uint8Array.of(byte))
  const pieces = Reflect.get(frames, 'pieces') as Uint8Array[]
  assert.ok(pieces.length < 40, `it lies in ${pieces.length} pieces`)
  const read = await frames.readPieces()
  stream.say(new Uint8Array(100).fill(1)) // what comes later changes nothing
  assert.equal(concat(...read), bytes)
  assert.is(pieces.length, 1)
})

/** What frames use of a stream that is only read from. */
class Trickle extends EventTarget {
  readonly readStatus = 'readable'
  say(data: Uint8Array): void {
    this.dispatchEvent(Object.assign(new Event('message'), { data }))
  }
  pause(): void {}
}

test('a deadline comes, for a read and for a write, also after the garbage was collected', async () => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  for (const work of [
    (frames: Frames) => frames.readBytes(),
    async (frames: Frames) => {
      for (;;) await frames.writeBytes(new Uint8Array(100_000))
    },
  ]) {
    for (const deadlines of [[700], [60_000, 700]] as const) {
      const [a, b] = await streams()
      new Frames(b, 1024) // takes in a frame, and reads none
      const startedAt = performance.now()
      const late = failureOf(work(new Frames(a, 200_000, ...deadlines)))
      const collecting = setInterval(collect, 50)
      const error = await late.finally(() => clearInterval(collecting))
      assert.match(error.message, /did not answer in time/)
      assert.ok(performance.now() - startedAt >= 690, 'not before its time')
      a.abort(error)
    }
  }
})

test('an exchange whose other side never closes its half is given up all the same', async () => {
  const [a, b] = await streams()
  a.send(concat(Uint8Array.of(1), Uint8Array.of(0xf6)))
  await exchange(b, () => new Frames(b, 1024, 5000).readBytes())
  assert.is(a.writeStatus, 'writable')
  await until('the stream to be reset', () => b.status === 'aborted' && a.status === 'reset')
})

test('an exchange that fails resets the stream, and says why to its caller', async () => {
  const [a, b] = await streams()
  const error = await failureOf(exchange(b, () => Promise.reject(new Error('no such thing'))))
  assert.is(error.message, 'no such thing')
  await until('the other side to notice', () => a.status === 'reset')
})

test.run()
