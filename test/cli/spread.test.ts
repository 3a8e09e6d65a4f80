import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { spreadOf } from '../../cli/commands/publish.js'

const row = (ap: string | null, state: 'fetching' | 'running' | 'waiting', fetched: number | null = null) => ({
  ...{ ap, state, fetched },
})

test('publish tells how many APs have a package, and how far the others are on average', () => {
  const five = Array.from({ length: 5 }, (_, i) => row(`has${i}`, 'running'))
  const three = [row('a', 'fetching', 20), row('b', 'fetching', 50), row('c', 'fetching', 57)]
  assert.is(spreadOf([...five, ...three]), '5 of 8 APs have it, 3 fetching: 42 %')
})

test('an AP that has not told how far it is counts as at the beginning, and one that does not exist as none', () => {
  assert.is(spreadOf([row('a', 'fetching'), row(null, 'waiting')]), '0 of 1 APs have it, 1 fetching')
  assert.is(spreadOf([row('a', 'fetching', 80), row('b', 'fetching')]), '0 of 2 APs have it, 2 fetching: 40 %')
  assert.is(spreadOf([row('a', 'running'), row(null, 'waiting')]), '')
})

test.run()
