import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { spreadOf } from '../../cli/commands/publish.js'
import type { InstanceRow } from '../../node/api/queries.js'

const row = (
  ap: string | null,
  state: InstanceRow['state'],
  fetched: number | null = null,
  { instance = `web.${ap}`, revision = 2, epoch = 1 } = {},
) => ({ ap, state, fetched, instance, revision, epoch })

test('publish tells how many APs run a chute, and how far the others are on average', () => {
  const five = Array.from({ length: 5 }, (_, i) => row(`runs${i}`, 'running'))
  const three = [row('a', 'fetching', 20), row('b', 'fetching', 50), row('c', 'fetching', 57)]
  assert.is(spreadOf([...five, ...three], 2), '5 of 8 APs have it, 3 fetching: 42 %')
})

test('an AP that has not told how far it is counts as at the beginning, and one that does not exist as none', () => {
  assert.is(spreadOf([row('a', 'fetching'), row(null, 'waiting')], 2), '0 of 1 APs have it, 1 fetching')
  assert.is(spreadOf([row('a', 'fetching', 80), row('b', 'fetching')], 2), '0 of 2 APs have it, 2 fetching: 40 %')
  assert.is(spreadOf([row('a', 'running'), row(null, 'waiting')], 2), '')
})

test('an AP that runs the earlier revision while it fetches the next is one that fetches, and one that does not yet, neither', () => {
  const before = { revision: 1 }
  const aps = [row('a', 'healthy', 30, before), row('b', 'running', null, before), row('c', 'healthy')]
  assert.is(spreadOf(aps, 2), '1 of 3 APs have it, 1 fetching: 30 %')
})

test('an AP that waits, starts, or has failed is not one that runs it', () => {
  const aps = (['waiting', 'starting', 'failed', 'stopping', 'unhealthy'] as const).map((state) => row(state, state))
  assert.is(spreadOf([...aps, row('a', 'fetching', 7)], 2), '1 of 6 APs have it, 1 fetching: 7 %')
})

test('an AP with several instances is one, that fetches while any of them does, and who gave one up is none', () => {
  const two = [row('a', 'running', null, { instance: 'web.0' }), row('a', 'running', null, { instance: 'web.1' })]
  const mixed = [row('b', 'fetching', 60, { instance: 'web.2' }), row('b', 'running', null, { instance: 'web.3' })]
  const moved = [
    row('b', 'fetching', 60, { instance: 'web.4', epoch: 2 }),
    row('c', 'running', null, { instance: 'web.4' }),
  ]
  assert.is(spreadOf([...two, ...mixed, ...moved], 2), '1 of 2 APs have it, 1 fetching: 60 %')
})

test.run()
