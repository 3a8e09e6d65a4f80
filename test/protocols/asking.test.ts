import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { codeOf, commitTo, type Exchange, isCommitted, NONCE_BYTES } from '../../protocols/asking.js'

const bytes = fc.uint8Array({ minLength: NONCE_BYTES, maxLength: NONCE_BYTES })
const exchange: fc.Arbitrary<Exchange> = fc.record({
  ...{ meshKey: bytes, asker: bytes, member: bytes, askerNonce: bytes, memberNonce: bytes },
})

test('a code is six digits, the same on both sides', () => {
  fc.assert(
    fc.property(exchange, (said) => {
      assert.match(codeOf(said), /^\d{6}$/)
      assert.is(codeOf({ ...said }), codeOf(said))
    }),
  )
})

test('a code is another one where the mesh, an AP or a number is', () => {
  fc.assert(
    fc.property(
      exchange,
      fc.constantFrom(...(['meshKey', 'asker', 'member', 'askerNonce', 'memberNonce'] as const)),
      bytes,
      (said, what, other) => {
        fc.pre(Buffer.compare(other, said[what]) !== 0)
        assert.is.not(codeOf({ ...said, [what]: other }), codeOf(said))
      },
    ),
    { seed: 1, numRuns: 500 }, // two of a million are equal by chance
  )
})

test('what was committed to is one number and no other', () => {
  fc.assert(
    fc.property(bytes, bytes, (nonce, other) => {
      fc.pre(Buffer.compare(nonce, other) !== 0)
      assert.ok(isCommitted(commitTo(nonce), nonce))
      assert.not(isCommitted(commitTo(nonce), other))
    }),
  )
})

test.run()
