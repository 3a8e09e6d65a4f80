import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { TIMING } from '../../../protocols/roster.js'
import { playCalm } from './calm.js'
import { Members } from './detector.js'
import { Figures, quantile } from './figures.js'
import { playMesh } from './scale.js'
import { sizesWith } from './sizes.js'
import { type Conditions, World } from './world.js'

const LAN: Conditions = { loss: 0.01, latency: 20, jitter: 10 }
const FAR: Conditions = { loss: 0.25, latency: 300, jitter: 200 }
const HOUR = 3_600_000

/** A mesh of 50 at rest. */
function mesh(conditions: Conditions, seed: string): { world: World; figures: Figures } {
  const figures = new Figures()
  const world = new World(new Members(50, () => undefined), conditions, sizesWith(0), figures, seed)
  figures.world = world
  world.runUntil(20_000)
  return { world, figures }
}

test('at 1 % loss half of all power cuts are known to the watchers after 2.0 s, and 99 of 100 after 3.5 s', () => {
  const { world, figures } = mesh(LAN, 'crashes')
  const crashed = Array.from({ length: 20 }, (_, ap) => ap)
  for (const ap of crashed) {
    world.cutPower(ap)
    world.runUntil(world.now + 10_037)
    world.start(ap)
    world.runUntil(world.now + 5000)
  }
  const times = figures.detection(crashed, (ap) => world.members.watchers[ap]!)
  assert.ok(quantile(times, 0.5) <= 2000, `${quantile(times, 0.5)} ms`)
  assert.ok(quantile(times, 0.99) <= 3500, `${quantile(times, 0.99)} ms`)
  assert.ok(Math.min(...times) >= 1000, `${Math.min(...times)} ms`)
  assert.is(figures.falseDeaths.length, 0, figures.stories.join('\n'))
})

test('nine of ten power cuts are known to the watchers after 2.0 s also where three of 50 APs go at once', () => {
  const { world, figures } = mesh(LAN, 'several')
  const times: number[] = []
  for (let round = 0; round < 10; round++) {
    const crashed = [0, 1, 2].map((n) => round * 3 + n)
    for (const ap of crashed) world.cutPower(ap)
    world.runUntil(world.now + 10_037)
    times.push(...figures.detection(crashed, (ap) => world.members.watchers[ap]!))
    for (const ap of crashed) world.start(ap)
    world.runUntil(world.now + 5000)
  }
  assert.ok(quantile(times, 0.9) <= 2000, `${quantile(times, 0.9)} ms`)
  assert.is(figures.falseDeaths.length, 0, figures.stories.join('\n'))
})

test('all that watch an AP of a lost site know of its death within 35 s, also where most watchers died with it', () => {
  const figures = new Figures()
  const members = new Members(200, (ap) => (ap < 40 ? 'lost' : undefined))
  const world = new World(members, LAN, sizesWith(0), figures, 'site')
  figures.world = world
  world.runUntil(20_000)
  const lost = Array.from({ length: 40 }, (_, ap) => ap)
  for (const ap of lost) world.cutPower(ap)
  world.runUntil(world.now + 40_000)
  const times = figures.detection(lost, (ap) => members.watchers[ap]!)
  assert.ok(times.length > 80)
  assert.ok(Math.max(...times) < 35_000, `${Math.max(...times)} ms`)
  assert.ok(Math.max(...times) > TIMING.unwitnessed, 'of none did most watchers die')
  assert.is(figures.falseDeaths.length, 0, figures.stories.join('\n'))
})

test('an AP that is cut off for 6 s accuses those it watches, and is itself the only one that is told dead', () => {
  for (let ap = 0; ap < 5; ap++) {
    const { world, figures } = mesh(LAN, `cut off ${ap}`)
    world.cutOff(ap, 6000)
    world.runUntil(world.now + 20_000)
    assert.equal([...new Set(figures.falseDeaths.map((death) => death.ap))], [ap])
    assert.ok(figures.signers.has(ap))
  }
})

test('an AP that steps aside for 3 s is accused by none of its watchers, though those elsewhere hear no beacons', () => {
  const figures = new Figures()
  const members = new Members(200, () => undefined)
  const world = new World(members, LAN, sizesWith(0), figures, 'handover')
  figures.world = world
  world.runUntil(20_000)
  const restarted = members.homes.map((home) => home[0]!)
  for (const ap of restarted) {
    world.sayAway(ap, 30_000)
    world.runUntil(world.now + 300)
    world.endProcess(ap)
    world.runUntil(world.now + 3000)
    world.start(ap)
    world.runUntil(world.now + 5000)
  }
  assert.ok(restarted.length > 1, 'the mesh is divided')
  assert.is(figures.statements, 0)
})

test('one seed is one run, to the last event', () => {
  const options = { aps: 20, conditions: FAR, troubles: { pauseEvery: 60_000 }, length: HOUR / 12 }
  const [first, second, other] = ['a', 'a', 'b'].map((seed) => playCalm({ ...options, seed }))
  const { cpuSeconds: _, ...one } = first!
  const { cpuSeconds: __, ...two } = second!
  assert.equal(one, two)
  assert.is.not(first!.events, other!.events)
})

const nobodyDies = (name: string, conditions: Conditions, troubles: object, length: number) =>
  test(`nobody is told dead ${name}`, () => {
    const { falseDeaths, events, stories } = playCalm({ aps: 50, conditions, troubles, length, seed: name })
    assert.ok(events > 1e5)
    assert.is(falseDeaths, 0, stories.join('\n'))
  })

nobodyDies('at 1 % loss, in 12 AP-hours', LAN, {}, (12 * HOUR) / 50)
nobodyDies('at 25 % loss and 300 ± 200 ms, in 8 AP-hours', FAR, {}, (8 * HOUR) / 50)
nobodyDies(
  'while each AP stands still for 1 s each minute, in 2 AP-hours',
  LAN,
  { pauseEvery: 60_000 },
  (2 * HOUR) / 50,
)
nobodyDies('while APs are starved, in 4 AP-hours', LAN, { starveEvery: 300_000 }, (4 * HOUR) / 50)

test('a mesh of 200 is divided, each AP keeps track of few, and after crashes and restarts nobody that lives is told dead', () => {
  const { figures } = playMesh({ aps: 200, conditions: LAN, instances: 0, seed: 'test' })
  assert.is(figures.falseDeaths.length, 0, figures.stories.join('\n'))
  assert.ok(new Members(200, () => undefined).tracked.every(({ length }) => length <= 100))
})

test.run()
