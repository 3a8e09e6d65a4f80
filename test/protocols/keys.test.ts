import { createPublicKey, verify as cryptoVerify, generateKeyPairSync, sign } from 'node:crypto'
import fc from 'fast-check'
import nacl from 'tweetnacl'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { concat, hex, unhex, utf8 } from '../../protocols/bytes.js'
import { apSigner, isSmallOrder, personSigner, verify } from '../../protocols/keys.js'
import { seedOf, signer } from './support.js'

/** RFC 8032, section 7.1: tests 1, 2 and 3. */
const VECTORS = [
  {
    seed: '9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60',
    publicKey: 'd75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a',
    message: '',
    signature:
      'e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b',
  },
  {
    seed: '4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb',
    publicKey: '3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c',
    message: '72',
    signature:
      '92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00',
  },
  {
    seed: 'c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7',
    publicKey: 'fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025',
    message: 'af82',
    signature:
      '6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a',
  },
]

test('both signers give the keys and signatures of RFC 8032, and tweetnacl and node:crypto accept them', () => {
  for (const vector of VECTORS) {
    for (const make of [apSigner, personSigner]) {
      const { publicKey, sign } = make(unhex(vector.seed))
      assert.is(hex(publicKey), vector.publicKey)
      assert.is(hex(sign(unhex(vector.message))), vector.signature)
    }
    const [publicKey, message, signature] = [vector.publicKey, vector.message, vector.signature].map(unhex)
    assert.ok(verify(publicKey!, message!, signature!))
    assert.ok(nacl.sign.detached.verify(message!, signature!, publicKey!))
  }
})

test('both signers make the same signature of any message with any seed', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 32, maxLength: 32 }), fc.uint8Array({ maxLength: 300 }), (seed, message) => {
      const [ap, person] = [apSigner(seed), personSigner(seed)]
      assert.equal(ap.publicKey, person.publicKey)
      const signature = ap.sign(message)
      assert.equal(signature, person.sign(message))
      assert.ok(verify(ap.publicKey, message, signature))
    }),
    { numRuns: 25 },
  )
})

test('a signature does not verify for another message, another key, or with a bit flipped', () => {
  const { publicKey, sign } = signer(1)
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 1, maxLength: 100 }), fc.nat(511), (message, bit) => {
      const signature = sign(message)
      assert.ok(verify(publicKey, message, signature))
      assert.not(verify(publicKey, concat(message, Uint8Array.of(0)), signature))
      assert.not(verify(signer(2).publicKey, message, signature))
      signature[bit >> 3]! ^= 1 << (bit & 7)
      assert.not(verify(publicKey, message, signature))
    }),
    { numRuns: 200 },
  )
})

/** The order of the group, which S must be below. */
const L = 2n ** 252n + 27742317777372353535851937790883648493n

/** A signature with L added to its S: the same equation, other bytes. */
function malleated(signature: Uint8Array): Uint8Array {
  let s = BigInt(`0x${hex(signature.slice(32).reverse())}`) + L
  const twin = signature.slice()
  for (let i = 32; i < 64; i++, s >>= 8n) twin[i] = Number(s & 255n)
  return twin
}

test('a second signature made by adding L to S is refused, although tweetnacl alone would take it', () => {
  const { publicKey, sign } = signer(1)
  for (const text of ['', 'a', 'a longer message']) {
    const message = utf8(text)
    const twin = malleated(sign(message))
    assert.ok(nacl.sign.detached.verify(message, twin, publicKey), 'the vector is not hostile')
    assert.not(verify(publicKey, message, twin))
  }
})

const fill = (first: string, middle: string, last: string) => `${first}${middle.repeat(30)}${last}`
const Y = [
  fill('00', '00', '00'),
  fill('01', '00', '00'),
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
  fill('ec', 'ff', '7f'),
  // The field's prime and one more: 0 and 1 in other words.
  fill('ed', 'ff', '7f'),
  fill('ee', 'ff', '7f'),
]
const withSign = (y: Uint8Array) => concat(y.subarray(0, 31), Uint8Array.of(y[31]! | 0x80))
/** All points of small order, in all the encodings a lenient decoder takes. */
const SMALL_ORDER = Y.map(unhex).flatMap((y) => [y, withSign(y)])

test('every key of small order is refused, although node:crypto alone would take forgeries by it', () => {
  let forgeries = 0
  for (const publicKey of SMALL_ORDER) {
    assert.ok(isSmallOrder(publicKey), hex(publicKey))
    const der = Buffer.from(concat(unhex('302a300506032b6570032100'), publicKey))
    const key = createPublicKey({ key: der, format: 'der', type: 'spki' })
    // With S = 0 a signature fits where R is the hash times the key, and that is one of eight points.
    const fits = SMALL_ORDER.flatMap((r) =>
      Array.from({ length: 8 }, (_, n) => ({
        message: utf8(`message ${n}`),
        signature: concat(r, new Uint8Array(32)),
      })),
    ).filter(({ message, signature }) => cryptoVerify(null, message, key, signature))
    if (fits.length > 0) forgeries++
    for (const { message, signature } of fits) assert.not(verify(publicKey, message, signature), hex(publicKey))
  }
  assert.ok(forgeries >= 8, `only ${forgeries} keys could forge: the vectors are not hostile`)
})

test('keys and signatures of a wrong length are refused', () => {
  const { publicKey, sign } = signer(1)
  const message = utf8('message')
  const signature = sign(message)
  for (const length of [0, 1, 31, 33, 64]) {
    assert.not(verify(concat(publicKey, publicKey).subarray(0, length), message, signature), `a key of ${length} bytes`)
  }
  for (const length of [0, 1, 63, 65, 128]) {
    const wrong = concat(signature, signature).subarray(0, length)
    assert.not(verify(publicKey, message, wrong), `a signature of ${length} bytes`)
  }
})

test('verify never throws, whatever bytes it is given, and takes none of them', () => {
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 80 }),
    fc.uint8Array({ minLength: 32, maxLength: 32 }),
    fc.uint8Array({ minLength: 64, maxLength: 64 }),
  )
  fc.assert(
    fc.property(bytes, bytes, bytes, (publicKey, message, signature) => {
      assert.is(verify(publicKey, message, signature), false)
    }),
    { numRuns: 1500 },
  )
})

test('verify tells apart more keys than it remembers', () => {
  const message = utf8('message')
  const keys = Array.from({ length: 1100 }, () => {
    const { publicKey, privateKey } = generateKeyPairSync('ed25519')
    const raw = new Uint8Array(publicKey.export({ format: 'der', type: 'spki' }).subarray(12))
    return { raw, signature: new Uint8Array(sign(null, message, privateKey)) }
  })
  for (const { raw, signature } of [...keys, ...keys.slice(0, 50)]) {
    assert.not(isSmallOrder(raw))
    assert.ok(verify(raw, message, signature))
  }
  for (let i = 1; i < keys.length; i++) assert.not(verify(keys[i]!.raw, message, keys[i - 1]!.signature))
})

test('a signer signs with the key of its seed alone', () => {
  assert.not.equal(apSigner(seedOf(1)).publicKey, apSigner(seedOf(2)).publicKey)
})

test.run()
