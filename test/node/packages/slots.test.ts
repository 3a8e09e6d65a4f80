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

test('who waits until none is taken goes on as soon as the last one is given back', async () => {
  const slots = new Slots(2)
  await slots.free()
  const giveBack = ['a', 'b'].map((who) => slots.take(who)!)
  let isFree = false
  const free = slots.free().then(() => {
    isFree = true
  })
  giveBack[0]!()
  await new Promise(setImmediate)
  assert.not(isFree)
  giveBack[1]!()
  await free
})

test.run()
