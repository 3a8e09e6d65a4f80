import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { excessIn, withoutStacks } from '../../protocols/yaml-bounds.js'

test('a text is refused where it is nested too deep, or breaks off brackets line by line, and says where', () => {
  assert.equal(excessIn('a: [[1]]\n', 4), undefined)
  assert.equal(excessIn('x: 1\na: [[[1]]]\n', 4), { line: 2, why: 'nested more than 4 deep' })
  assert.equal(excessIn('a: [{\n'.repeat(16), 64), undefined, 'the parser says what is wrong')
  assert.match(excessIn('a: [{\n'.repeat(20), 64)?.why ?? '', 'brackets are not closed')
})

test('brackets in text, and lists over many lines, are no excess', () => {
  const text = ['"[{[{"', "'[{'", 'b[{', '1 # [{', '|\n  [{[{'].map((value, i) => `a${i}: ${value}\n`)
  assert.equal(excessIn(text.join('').repeat(50), 8), undefined)
  assert.equal(excessIn(`a: [\n${'  [1, {b: 2}],\n'.repeat(500)}]\n`, 8), undefined)
})

test('errors are made without stacks for as long as is asked, also where that throws', () => {
  assert.not.match(withoutStacks(() => new Error('a')).stack ?? '', ' at ')
  assert.throws(() =>
    withoutStacks(() => {
      throw new Error('b')
    }),
  )
  assert.match(new Error('c').stack ?? '', ' at ')
})

test.run()
