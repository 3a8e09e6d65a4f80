import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Events, type MeshEvent, printable } from '../../node/events.js'
import { Store } from '../../node/store/store.js'
import { scratch } from '../support/scratch.js'

const store = await Store.open(join(scratch('events'), 'ledger'))
test.after(() => store.close())

const originalNow = performance.now.bind(performance)
let skipped = 0
performance.now = () => originalNow() + skipped

/** Events that start with nothing told, and the log they write to. */
function fresh(): { events: Events; log: MeshEvent[] } {
  const log: MeshEvent[] = []
  return {
    events: new Events(
      store,
      () => 1_700_000_000_000,
      (event) => log.push(event),
    ),
    log,
  }
}

test('an event goes to the log, to the disk and to all who follow, until they stop', async () => {
  const { events, log } = fresh()
  const [first, second]: [MeshEvent[], MeshEvent[]] = [[], []]
  const stop = events.follow((event) => first.push(event))
  events.follow((event) => second.push(event))
  events.add('up', { name: 'kitchen', boot: 3 })
  stop()
  events.add('joined', { ap: 'x' })
  const expected = [
    { at: '2023-11-14T22:13:20.000Z', kind: 'up', name: 'kitchen', boot: 3 },
    { at: '2023-11-14T22:13:20.000Z', kind: 'joined', ap: 'x' },
  ]
  assert.equal(log, expected)
  assert.equal(first, expected.slice(0, 1))
  assert.equal(second, expected)
  assert.equal(await events.past(), expected)
})

test('one AP that makes noise is told a hundred times, and then how often it was left out', () => {
  const { events, log } = fresh()
  for (let i = 0; i < 5000; i++) events.add('refused', { from: 'villain', reason: String(i) })
  assert.is(log.length, 100)
  events.add('refused', { from: 'another', reason: 'x' })
  assert.is(log.at(-1)!.omitted, 4900)
  events.add('refused', { from: 'another', reason: 'y' })
  assert.is(log.at(-1)!.omitted, undefined)
  assert.is(log.length, 102, 'others are told as before')
  events.add('dead', { ap: 'villain' })
  assert.is(log.at(-1)!.kind, 'dead', 'and so is what else happens')
})

test('one that goes on making noise is told every ten seconds', () => {
  const { events, log } = fresh()
  for (let i = 0; i < 200; i++) events.add('refused', { from: 'villain' })
  const before = log.length
  for (let second = 0; second < 60; second++) {
    skipped += 1000
    for (let i = 0; i < 10; i++) events.add('refused', { from: 'villain' })
  }
  assert.ok(log.length - before >= 5 && log.length - before <= 7, `${log.length - before} in a minute`)
})

test('many that make noise, each under new names, are bounded all together', () => {
  const { events, log } = fresh()
  for (let i = 0; i < 20_000; i++) events.add('claimed', { ap: `made-up-${i}` })
  assert.ok(log.length <= 510, `${log.length}`)
  assert.ok((Reflect.get(Reflect.get(events, 'fromOne'), 'stocks') as Map<string, unknown>).size <= 1001)
})

test('what a stranger wrote controls no terminal, cannot hide, and is not long', () => {
  const { events, log } = fresh()
  const nasty = '\u001b[31mred\u009b0m\r\n{"kind":"up"}\u202egnp.exe\u200b\u2028\u0000\ud800'
  events.add('refused', { from: nasty, reason: 'x'.repeat(100_000), names: [nasty], count: 7 })
  const { from, reason, names, count } = log[0] as MeshEvent & { reason: string; names: string[] }
  assert.is(from, '\\u{1b}[31mred\\u{9b}0m\\u{d}\\u{a}{"kind":"up"}\\u{202e}gnp.exe\\u{200b}\\u{2028}\\u{0}\\u{d800}')
  assert.equal(names, [from])
  assert.ok(reason.length < 600)
  assert.is(count, 7)
  assert.is(printable('Küche, кухня, 厨房 🍳 \\ "quoted"'), 'Küche, кухня, 厨房 🍳 \\ "quoted"')
})

test.run()
