import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Slots } from '../../../node/packages/slots.js'

test('so many have a slot at a time, nobody has two, and what is given back another one takes', () => {
  const slots = new Slots(2)
  const giveBack = slots.take('a')
  assert.is(slots.take('a'), undefined)
  assert.ok(slots.take('b'))
  assert.is(slots.take('c'), undefined)
  giveBack!()
  assert.ok(slots.take('c'))
})

test.run()
