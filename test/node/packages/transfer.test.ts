// How an image goes from one AP to another when several want some: real connections, and images that are but bytes.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { fetchImage, type Spare, serveImages } from '../../../node/packages/transfer.js'
import { hex } from '../../../protocols/bytes.js'
import type { ImageSpec } from '../../../protocols/deployment.js'
import { until } from '../../support/until.js'
import { type Peer, Peers } from '../mesh/support.js'
import { refusalOf } from '../realm.js'

const CHUNK = 64 * 1024
/** Many more than a connection holds. */
const CHUNKS = 100

const peers = new Peers()
const [sender, ...askers] = (await peers.members(4)) as [Peer, Peer, Peer, Peer]
for (const asker of askers) await asker.meet(sender)
test.after(() => peers.stop())

/** A gate that is open, or shut. */
class Gate {
  private opened: (() => void) | undefined
  private passage = Promise.resolve()
  /** How often somebody came to it. */
  visits = 0

  shut(): this {
    this.passage = new Promise((resolve) => {
      this.opened = resolve
    })
    return this
  }

  open(): void {
    this.opened?.()
  }

  pass = (): Promise<void> => {
    this.visits++
    return this.passage
  }
}

const imageOf = (n: number): ImageSpec => ({ config: new Uint8Array(32).fill(n), diffIds: [], platform: 'linux/amd64' })
const needed = imageOf(1)
const spare = imageOf(2)
/** Chunks that were read at the sender for who is sent them now, and what holds them up, by image. */
const exports = [needed, spare].map((image) => ({ image, chunks: 0, gate: new Gate() }))
const [ofNeeded, ofSpare] = exports as [(typeof exports)[0], (typeof exports)[0]]
const exportOf = ({ config }: ImageSpec) => exports[config[0]! - 1]!

await serveImages({
  network: sender.network,
  images: {
    has: async () => true,
    sizeOf: async () => CHUNKS * CHUNK,
    export: async function* (image) {
      const from = exportOf(image)
      for (let sent = 1; sent <= CHUNKS; sent++) {
        await from.gate.pass()
        from.chunks = sent
        yield new Uint8Array(CHUNK)
      }
    },
  },
  imageOf: (config) => exports.map(({ image }) => image).find((image) => hex(image.config) === config),
})

/** Fetches an image, and counts the chunks that have come. */
function fetch(asker: Peer, image: ImageSpec, forLater?: Spare, reading = new Gate()) {
  const progress = { chunks: 0, end: Promise.resolve(0) }
  const images = {
    held: async () => 0,
    import: async (_: ImageSpec, source: AsyncIterable<Uint8Array>) => {
      for await (const _ of source) {
        progress.chunks++
        await reading.pass()
      }
    },
  }
  progress.end = fetchImage(asker.network, images, sender.id, image, forLater)
  progress.end.catch(() => {})
  return progress
}

const forLater = (gate = new Gate(), room = CHUNKS * CHUNK): Spare => ({ room, turn: gate.pass })

test('what is sent for later stands still while another AP is sent what it needs now, and is whole in the end', async () => {
  const asker = new Gate().shut()
  const later = fetch(askers[0]!, spare, forLater(asker))
  await until('the first of it to come', () => asker.visits > 0)
  ofNeeded.gate.shut()
  const now = fetch(askers[1]!, needed)
  await until('what is needed to be begun', () => ofNeeded.gate.visits > 0)
  asker.open()
  // All that was under way has come, and the sender has read one chunk that it keeps.
  await until('it to stand still', () => later.chunks === ofSpare.chunks - 1)
  await askers[0]!.network.sync(sender.id)
  assert.ok(later.chunks === ofSpare.chunks - 1 && later.chunks < CHUNKS, `${later.chunks} chunks have come`)
  ofNeeded.gate.open()
  assert.is(await now.end, CHUNKS * CHUNK)
  assert.is(await later.end, CHUNKS * CHUNK)
  assert.is(later.chunks, CHUNKS)
})

test('for later it is sent to one AP at a time, which takes nobody the place of what is needed now', async () => {
  const asker = new Gate().shut()
  const first = fetch(askers[0]!, spare, forLater(asker))
  await until('the first of it to come', () => asker.visits > 0)
  await refusalOf(fetch(askers[1]!, spare, forLater()).end, 'busy')
  await Promise.all(askers.map((asker) => fetch(asker, needed).end))
  asker.open()
  await first.end
})

test('a member that takes nothing of what it is sent has one place, and the others are sent theirs', async () => {
  const [slow, ...others] = askers
  const stuck = new Gate().shut()
  const held = fetch(slow!, needed, undefined, stuck)
  await until('it to be sent something', () => stuck.visits > 0)
  let reason = ''
  fetch(slow!, needed, undefined, stuck).end.catch(({ code }) => {
    reason = code
  })
  await until('it to be refused more', () => reason === 'busy')
  for (const fetched of await Promise.all(others.map((other) => fetch(other, needed).end)))
    assert.is(fetched, CHUNKS * CHUNK)
  stuck.open()
  await held.end
})

test('what is bigger than there is room for is not sent', async () => {
  const before = ofSpare.gate.visits
  const { message } = await refusalOf(fetch(askers[0]!, spare, forLater(undefined, CHUNKS * CHUNK - 1)).end, 'too-big')
  assert.match(message, new RegExp(`no room for ${CHUNKS * CHUNK} bytes`))
  assert.is(ofSpare.gate.visits, before)
})

test.run()
