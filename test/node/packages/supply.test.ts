import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Supply, type SupplyOptions } from '../../../node/packages/supply.js'
import { hex } from '../../../protocols/bytes.js'
import type { ImageSpec } from '../../../protocols/deployment.js'
import { MeshError } from '../../../protocols/error.js'
import { refusalOf } from '../realm.js'

const imageOf = (n: number): ImageSpec => ({ config: new Uint8Array(32).fill(n), diffIds: [], platform: 'linux/amd64' })

/** A supply whose fetches go on chunk by chunk, as the test says. */
function realm(options: Partial<SupplyOptions> = {}) {
  const has = new Set<string>()
  const fetches: { image: number; isSpare: boolean; chunks: number; next: () => void; end: () => void }[] = []
  const supply = new Supply({
    images: { has: async ({ config }) => has.has(hex(config)), pull: async () => {} },
    holders: () => ['a'],
    fetchFrom: async (_, image, spare) => {
      const fetch = { image: image.config[0]!, isSpare: spare !== undefined, chunks: 0, next() {}, end() {} }
      fetches.push(fetch)
      for (let isOver = false; !isOver; ) {
        await new Promise<void>((resolve) => {
          fetch.next = resolve
          fetch.end = () => {
            isOver = true
            resolve()
          }
        })
        await spare?.turn()
        fetch.chunks++
      }
      has.add(hex(image.config))
      return fetch.chunks
    },
    onEvent: () => {},
    onChange: () => {},
    ...options,
  })
  return { supply, fetches, has }
}

const settled = () => new Promise(setImmediate)

test('what is fetched for later stands still while an image is fetched that is needed now, and goes on after it', async () => {
  const { supply, fetches } = realm()
  const later = supply.prepare(imageOf(1), 1000)
  await settled()
  const now = supply.ensure(imageOf(2))
  await settled()
  const [spare, needed] = fetches
  assert.ok(spare!.isSpare && !needed!.isSpare)
  spare!.next()
  needed!.next()
  await settled()
  assert.equal([spare!.chunks, needed!.chunks], [0, 1])
  needed!.end()
  await now
  await settled()
  assert.is(spare!.chunks, 1)
  spare!.end()
  await later
})

test('an image that is needed while it is fetched for later is not fetched anew, and waits for no other one', async () => {
  const { supply, fetches } = realm()
  const later = supply.prepare(imageOf(1), 1000)
  await settled()
  const both = Promise.all([supply.ensure(imageOf(1)), supply.ensure(imageOf(2))])
  await settled()
  fetches[0]!.end()
  await later
  fetches[1]!.end()
  await both
  assert.equal(
    fetches.map(({ image }) => image),
    [1, 2],
  )
})

test('nothing is begun for later while an image is fetched that is needed now', async () => {
  const { supply, fetches } = realm()
  const now = supply.ensure(imageOf(2))
  await settled()
  await refusalOf(supply.prepare(imageOf(1), 1000), 'busy')
  fetches[0]!.end()
  await now
  assert.is(fetches.length, 1)
})

test('what there is no room for is asked of one AP alone, and a failure for later fails nothing that is needed', async () => {
  let asked = 0
  const { supply, has } = realm({
    holders: () => ['a', 'b'],
    fetchFrom: async (_, image, spare) => {
      asked++
      if (spare !== undefined) throw new MeshError('too-big', 'there is no room')
      has.add(hex(image.config))
      return 1
    },
  })
  const later = refusalOf(supply.prepare(imageOf(1), 10), 'too-big')
  await supply.ensure(imageOf(1))
  await later
  assert.is(asked, 2)
})

test.run()
