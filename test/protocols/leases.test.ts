import * as fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { beginOf } from '../../protocols/epochs.js'
import { Holders, isSafe, LEASE, type LeaseEffect, type LeaseTiming, Voter } from '../../protocols/leases.js'
import { explore, play, type Scenario } from './lease-model.js'

/** As tight as the rule allows, in few steps, with clocks that are a quarter wrong. */
const SMALL: LeaseTiming = { voter: 5, holder: 2.25, kill: 1, renew: 0.75, drift: 0.25 }
const [SLOW, FAST] = [1 - SMALL.drift, 1 + SMALL.drift]

const RATES = [
  [SLOW, FAST, FAST],
  [FAST, SLOW, FAST],
  [SLOW, SLOW, FAST],
  [1, 1, 1],
]
const scenario = (rates: number[], changes: Partial<Scenario> = {}): Scenario => ({
  timing: SMALL,
  rates,
  generations: [[0, 1, 2]],
  candidates: [0, 1],
  end: 9,
  ...changes,
})
/** One AP leaves the voters, another one becomes one. */
const CHANGE: Partial<Scenario> = { generations: [[0, 1, 2], [1, 2, 3]], candidates: [0, 3] } // biome-ignore format: short

test('a holder is done before a voter grants anew, whatever their clocks', () => {
  assert.ok(isSafe(LEASE))
  assert.ok(isSafe(SMALL))
})

const CHUTE = 'c0'.repeat(20)
const INSTANCE = `${CHUTE}0000000000`
const ask = (epoch: number) => ({ instance: INSTANCE, generation: 0, epoch })
const SOON = LEASE.voter // after a start, and as true time for what has just begun

const VOTERS = ['v', 'w', 'x']

/** A voter that has voted on the chute for a while. */
function voter(saved: ConstructorParameters<typeof Voter>[2] = []): Voter {
  const made = new Voter('v', 0, saved)
  made.learn(CHUTE, 0, VOTERS, 0)
  return made
}

const grants = (of: Voter, ap: string, epoch: number, now: number, claimed = 0): boolean =>
  of.request(ap, ask(epoch), claimed, now).answer.granted

test('a voter keeps its promise until the time is over, and renews it to whom it gave it', () => {
  const v = voter()
  assert.ok(grants(v, 'a', 1, SOON))
  assert.ok(grants(v, 'a', 1, SOON + 5000))
  assert.not.ok(grants(v, 'b', 1, SOON + 60_000), "the same epoch is never another AP's")
  assert.not.ok(grants(v, 'b', 2, SOON + 5000 + LEASE.voter - 1))
  assert.ok(grants(v, 'b', 2, SOON + 5000 + LEASE.voter))
  assert.not.ok(grants(v, 'a', 1, SOON + 60_000))
})

test('a voter grants nothing for a whole lease after a start, and then no epoch that it has promised before', () => {
  const v = voter([[INSTANCE, { epoch: 3, holder: 'a' }]])
  assert.not.ok(grants(v, 'a', 3, LEASE.voter - 1))
  assert.not.ok(grants(v, 'b', 3, LEASE.voter))
  assert.ok(grants(v, 'a', 3, LEASE.voter))
})

test('a voter asks for each promise to be saved until it is', () => {
  const v = voter()
  const promise = { epoch: 1, holder: 'a' }
  assert.equal(v.request('a', ask(1), 0, SOON).save, promise)
  assert.equal(v.request('a', ask(1), 0, SOON).save, promise)
  v.saved(INSTANCE, promise)
  assert.is(v.request('a', ask(1), 0, SOON).save, undefined)
})

test('a voter grants no epoch that another AP has claimed, and none to whom it does not vote for', () => {
  const v = voter()
  assert.not.ok(grants(v, 'a', 4, SOON, 4))
  assert.ok(grants(v, 'a', 5, SOON, 4))
  assert.not.ok(v.request('a', { ...ask(6), generation: 1 }, 0, SOON).answer.granted)
  v.learn(CHUTE, 1, ['w'], SOON)
  assert.not.ok(v.request('a', { ...ask(beginOf(1) + 5), generation: 1 }, 0, SOON + 60_000).answer.granted)
})

test('what was given back is free at once, and never granted again', () => {
  const v = voter()
  assert.ok(grants(v, 'a', 1, SOON))
  v.release('b', INSTANCE, 1)
  assert.not.ok(grants(v, 'b', 2, SOON))
  v.release('a', INSTANCE, 1)
  assert.not.ok(grants(v, 'a', 1, SOON))
  assert.ok(grants(v, 'b', 2, SOON))
})

const seat = (epoch: number) => ({ instance: INSTANCE, generation: 0, voters: ['x', 'y', 'z'], epoch })
const asked = (effects: LeaseEffect[]) => effects.flatMap((effect) => (effect.do === 'ask' ? [effect] : []))

test('a holder counts from the sending of requests that a majority granted', () => {
  const holders = new Holders('a')
  holders.want([seat(1)], 0)
  const asks = asked(
    holders.tick(
      100,
      () => false,
      () => true,
    ),
  )
  assert.equal(
    asks.map(({ voter }) => voter),
    ['x', 'y', 'z'],
  )
  holders.answered('x', asks[0]!.request, 100, { granted: true }, 900)
  assert.is(holders.holds(INSTANCE, 900), undefined)
  holders.answered('y', asks[1]!.request, 100, { granted: true }, 900)
  assert.is(holders.until(INSTANCE), 100 + LEASE.holder)
  assert.is(holders.holds(INSTANCE, 99 + LEASE.holder), 1)
  assert.is(holders.holds(INSTANCE, 100 + LEASE.holder), undefined)
})

test('a holder gives back what it does not need any more, but not while anything of it runs', () => {
  const holders = new Holders('a')
  holders.want([seat(1)], 0)
  for (const { voter, request } of asked(
    holders.tick(
      0,
      () => false,
      () => true,
    ),
  )) {
    holders.answered(voter, request, 0, { granted: true }, 1)
  }
  holders.want([], 10)
  assert.not.ok(
    holders
      .tick(
        10,
        () => true,
        () => true,
      )
      .some((effect) => effect.do === 'release'),
  )
  assert.ok(
    holders
      .tick(
        20,
        () => false,
        () => true,
      )
      .some((effect) => effect.do === 'release' && effect.epoch === 1),
  )
  holders.want([seat(1)], 30)
  assert.is(
    asked(
      holders.tick(
        30,
        () => false,
        () => true,
      ),
    )[0]!.request.epoch,
    2,
    'and asks for it no more',
  )
})

test('a holder that is outvoted asks for an epoch above those of the others', () => {
  const holders = new Holders('a')
  holders.want([seat(1)], 0)
  for (const { voter, request } of asked(
    holders.tick(
      0,
      () => false,
      () => true,
    ),
  )) {
    holders.answered(voter, request, 0, { granted: false, reason: 'superseded', epoch: 7, wait: 0 }, 1)
  }
  assert.is(
    asked(
      holders.tick(
        2,
        () => false,
        () => true,
      ),
    )[0]!.request.epoch,
    8,
  )
})

test('no two APs run an instance at once, in every way in which two things go wrong', () => {
  assert.is(explore(scenario(RATES[0]!), 2).violation, undefined)
})

test('nor while the voters change', () => {
  assert.is(explore(scenario([...RATES[0]!, FAST], CHANGE), 2).violation, undefined)
})

test('nor when much goes wrong', () => {
  const choices = fc.infiniteStream(fc.integer({ min: 0, max: 99 }))
  fc.assert(
    fc.property(
      fc.constantFrom(...RATES),
      fc.boolean(),
      fc.integer({ min: 5, max: 60 }),
      choices,
      (rates, changes, trouble, stream) => {
        const played = changes
          ? scenario([...rates, FAST], { ...CHANGE, end: 40 })
          : scenario(rates, { candidates: [0, 1, 2], end: 40 })
        const violation = play(played, (n) => {
          const draw = stream.next().value
          return draw >= trouble ? 0 : 1 + (draw % (n - 1))
        })
        assert.is(violation, undefined)
      },
    ),
    { numRuns: 1500 },
  )
})

test('the model finds it where a voter does not wait long enough', () => {
  assert.ok(explore(scenario(RATES[0]!, { timing: { ...SMALL, voter: 3.5 } }), 2).violation)
})

test('what nobody can stop does not keep its lease; what is being stopped does', () => {
  const held = (ends: boolean): boolean => {
    const holders = new Holders('a')
    const seat = { instance: INSTANCE, generation: 0, voters: ['v', 'w', 'x'], epoch: 1 }
    holders.want([seat], 0)
    for (let now = 0; now < 60_000; now += 200) {
      if (now === 2000) holders.want([], now) // its engine is gone, or it is to run elsewhere
      for (const { voter, request, sentAt } of asked(
        holders.tick(
          now,
          () => true,
          () => ends,
        ),
      )) {
        holders.answered(voter, request, sentAt, { granted: true }, now)
      }
    }
    return holders.holds(INSTANCE, 60_000) !== undefined
  }
  assert.ok(held(true))
  assert.not.ok(held(false))
})

test('voters of one generation that two admins have forced keep quiet for a lease where others may have granted', () => {
  const v = voter()
  v.learn(CHUTE, 1, ['w'], SOON)
  v.learn(CHUTE, 1, ['v'], 100_000)
  const first = { instance: INSTANCE, generation: 1, epoch: beginOf(1) + 1 }
  assert.not.ok(v.request('a', first, 0, 100_000 + LEASE.voter - 1).answer.granted)
  assert.ok(v.request('a', first, 0, 100_000 + LEASE.voter).answer.granted)
})

test('an epoch beyond those of a generation is granted to nobody, and keeps nobody out', () => {
  const v = voter()
  assert.not.ok(grants(v, 'villain', 2 ** 48, SOON))
  assert.ok(grants(v, 'a', 2, SOON, 2 ** 48))
  const holders = new Holders('a')
  holders.want([{ instance: INSTANCE, generation: 0, voters: VOTERS, epoch: 2 ** 48 + 1 }], 0)
  const asks = asked(
    holders.tick(
      0,
      () => false,
      () => true,
    ),
  )
  assert.ok(asks.length === 3 && asks.every(({ request }) => request.epoch === 1))
})

test('no holder and no liar among the voters makes an epoch so high that nobody can ask for a higher one', () => {
  const v = voter()
  const asks = (ap: string, epoch: number, highest: number) =>
    v.request(ap, ask(epoch), 0, SOON, highest).answer.granted
  assert.not.ok(asks('villain', 1001, 1000))
  assert.ok(asks('villain', 1000, 1000))
  v.release('villain', INSTANCE, 1000)
  assert.ok(asks('a', 1001, 1001), 'a millisecond later there is a higher one')

  const holders = new Holders('a')
  holders.want([{ ...seat(1), highest: 1000 }], 0)
  const tick = (now: number) => asked(holders.tick(now, () => false, () => true)) // biome-ignore format: short
  for (const { voter, request } of tick(0)) {
    const answer = { granted: false as const, reason: 'superseded' as const, epoch: voter === 'x' ? 5000 : 7, wait: 0 }
    holders.answered(voter, request, 0, answer, 1)
  }
  assert.equal(
    tick(10).map(({ request }) => request.epoch),
    [8, 8, 8],
  )
})

test.run()
