import { randomInt } from 'node:crypto'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { MUTATIONS } from './mutations.js'
import { type Options, run } from './run.js'
import { generate, type Scenario } from './scenario.js'
import { shrink } from './shrink.js'

/** Seeds in which each kind of trouble comes, and some of the bugs that README.md tells of once showed. */
const FIXED: readonly (readonly [seed: string, aps: number])[] = [
  // Two members are hostile: in 199 until all is healed, in 6 until they are forgotten then, in 2 and 12 to the end.
  ...['1', '2', '5', '6', '12', '126', '199'].map((seed) => [seed, 8] as const),
  // As many clocks are hours behind as there may be.
  ['711275935', 8],
  ['158', 9],
  ['65', 9],
  // One that was forgotten, and is yet to hear it, publishes.
  ['5121', 6],
]
const FRESH = 4
const APS = 8

const simulate = (seed: string, options?: Options) => run(generate(seed, APS), options)

async function keepsPromises(seed: string, aps: number): Promise<void> {
  const { violation } = await run(generate(seed, aps))
  if (violation === undefined) return
  assert.unreachable(`${violation.promise}: ${violation.what}; to see it: npm run sim -- --seed ${seed} --aps ${aps}`)
}

for (const [seed, aps] of FIXED)
  test(`a mesh of ${aps} keeps its promises in all troubles of seed ${seed}`, () => keepsPromises(seed, aps))

for (let i = 0; i < FRESH; i++) {
  const seed = String(randomInt(1000, 1e9))
  console.log(`fresh seed: npm run sim -- --seed ${seed} --aps ${APS}`)
  test(`a mesh of ${APS} keeps its promises in all troubles of a fresh seed, ${seed}`, () => keepsPromises(seed, APS))
}

test('one seed is one run, to the last step', async () => {
  const [first, second] = [await simulate('7', { trace: true }), await simulate('7', { trace: true })]
  assert.is(first.steps, second.steps)
  assert.is(first.digest, second.digest)
  assert.equal(first.trace, second.trace)
})

/** What each broken part is, what is seen of it, in meshes of how many APs, and from which seed on it is looked for: one that shows it soon. */
const BROKEN: readonly (readonly [part: string, what: string, promise: RegExp, aps: number, first: number])[] = [
  [
    'merge',
    'a ledger that believes in the order of arrival',
    /^ledgers become equal|^a record comes to every AP/,
    8,
    1,
  ],
  ['fsync', 'a disk that tells of its syncs too early', /an acknowledged record|was not given/, 8, 1],
  ['lease', 'voters that promise one instance to two APs', /^no two copies of an exclusive chute/, 8, 1],
  [
    'majority',
    'a holder that needs one voter alone',
    /^one copy of an instance|^no two copies|^every wanted instance/,
    8,
    33,
  ],
  ['death', 'one watcher that is believed alone', /is taken for dead$/, 6, 10],
  ['beacon', 'a beacon that is believed whoever signed it', /^all that live are believed alive/, 6, 9],
  ['quota', 'a ledger that one key may fill', /^no key has more in a ledger/, 6, 6],
  ['expiry', 'a grant that never ends', /^nothing is left of whose grant is over/, 4, 28],
  ['intake', 'a ledger that takes in what anybody signs', /^no ledger takes in/, 8, 2],
]

for (const [part, what, promise, aps, first] of BROKEN) {
  test(`${what} is found`, async () => {
    for (let seed = first; seed < first + 16; seed++) {
      const { violation } = await run(generate(String(seed), aps), { mutation: MUTATIONS[part]! })
      if (violation !== undefined) return assert.match(violation.promise, promise)
    }
    assert.unreachable('in no seed')
  })
}

test('each part that can be broken is', () => {
  assert.equal(BROKEN.map(([part]) => part).sort(), Object.keys(MUTATIONS).sort())
})

test('a scenario that breaks a promise shrinks to the actions that matter', async () => {
  const action = (at: number) => ({ at, do: 'container-crash', host: at }) as const
  const scenario: Scenario = {
    seed: '',
    builds: [],
    founders: 0,
    actions: Array.from({ length: 40 }, (_, i) => action(i)),
  }
  const breaks = async ({ actions }: Scenario) => [7, 23].every((at) => actions.some((one) => one.at === at))
  const { actions } = await shrink(scenario, breaks, Number.POSITIVE_INFINITY)
  assert.equal(actions, [action(7), action(23)])
})

test.run()
