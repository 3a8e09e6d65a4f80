import { generateKeyPair, generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import {
  apId,
  apKey,
  compareBytes,
  concat,
  equalBytes,
  fromBase32,
  hex,
  sha256,
  toBase32,
  unhex,
  utf8,
} from '../../protocols/bytes.js'
import { refused, seedOf, signer } from './support.js'

const bytes = fc.uint8Array({ maxLength: 100 })

test('the id of an AP is the peer id that libp2p itself gives to its key', async () => {
  for (let n = 0; n < 8; n++) {
    const peer = peerIdFromPrivateKey(await generateKeyPairFromSeed('Ed25519', seedOf(n)))
    assert.is(apId(signer(n).publicKey), peer.toString())
    assert.equal(apKey(peer.toString()), signer(n).publicKey)
  }
})

test('AP ids and their keys round trip', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 32, maxLength: 32 }), (key) => {
      assert.match(apId(key), /^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$/)
      assert.equal(apKey(apId(key)), key)
    }),
    { numRuns: 200 },
  )
})

test('what is no AP id is refused as one: damaged ids, ids of other kinds of key, any other text', async () => {
  const id = apId(signer(1).publicKey)
  const secp256k1 = peerIdFromPrivateKey(await generateKeyPair('secp256k1')).toString()
  const wrong = ['', 'ap1', id.slice(1), id.slice(0, -1), `1${id}`, `${id}1`, ` ${id}`, `${id} `, `z${id}`, secp256k1]
  for (const text of [...wrong, id.replace('K', '0'), id.toLowerCase(), 'é', '/p2p/', 'Qm'.repeat(23)]) {
    refused('ap-id', () => apKey(text))
  }
  for (const length of [0, 31, 33, 64]) refused('ap-id', () => apKey(apId(new Uint8Array(length))))
  for (const at of [0, 12, 51]) refused('ap-id', () => apKey(`${id.slice(0, at)}\ufffd${id.slice(at + 1)}`))
  fc.assert(
    fc.property(fc.string({ maxLength: 80, unit: 'binary' }), (text) => refused('ap-id', () => apKey(text))),
    { numRuns: 200 },
  )
})

test('a text of any length is told from an AP id at once', () => {
  const text = 'K'.repeat(60_000)
  const before = process.cpuUsage()
  refused('ap-id', () => apKey(text))
  assert.ok(process.cpuUsage(before).user < 50_000, 'it took longer than 50 ms')
})

test('base32 is that of RFC 4648 in lower case without padding', () => {
  const vectors = {
    '': '',
    f: 'my',
    fo: 'mzxq',
    foo: 'mzxw6',
    foob: 'mzxw6yq',
    fooba: 'mzxw6ytb',
    foobar: 'mzxw6ytboi',
  }
  for (const [plain, text] of Object.entries(vectors)) {
    assert.is(toBase32(utf8(plain)), text)
    assert.equal(fromBase32(text), utf8(plain))
  }
})

test('base32 and hex round trip, base32 also in upper case', () => {
  fc.assert(
    fc.property(bytes, (value) => {
      assert.equal(fromBase32(toBase32(value)), value)
      assert.equal(fromBase32(toBase32(value).toUpperCase()), value)
      assert.equal(unhex(hex(value)), value)
    }),
    { numRuns: 300 },
  )
})

test('base32 refuses what it would not have written', () => {
  for (const text of ['m', 'mz=', 'my======', '=', 'm1', 'mz xq', 'mzx', 'mz\n', 'mr'])
    refused('malformed', () => fromBase32(text))
})

test('hex of a part of a buffer is of that part alone', () => {
  assert.is(hex(Uint8Array.of(1, 2, 3, 4).subarray(1, 3)), '0203')
  assert.equal(unhex('0203').buffer.byteLength, 2)
})

test('bytes are ordered as their hex is, and equal where it is', () => {
  fc.assert(
    fc.property(bytes, bytes, (a, b) => {
      const expected = hex(a) < hex(b) ? -1 : hex(a) > hex(b) ? 1 : 0
      assert.is(Math.sign(compareBytes(a, b)), expected)
      assert.is(equalBytes(a, b), expected === 0)
      assert.ok(equalBytes(a, a.slice()))
    }),
    { numRuns: 500 },
  )
})

test('concat is one array after the other, and a hash of parts is the hash of the whole', () => {
  fc.assert(
    fc.property(fc.array(bytes, { maxLength: 5 }), (parts) => {
      const whole = concat(...parts)
      assert.is(hex(whole), parts.map(hex).join(''))
      assert.equal(sha256(...parts), sha256(whole))
    }),
    { numRuns: 200 },
  )
  assert.is(hex(sha256(utf8('abc'))), 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad')
})

test.run()
