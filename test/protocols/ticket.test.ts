import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { apId, toBase32 } from '../../protocols/bytes.js'
import { compareClocks } from '../../protocols/clock.js'
import { encode } from '../../protocols/codec.js'
import { open, seal } from '../../protocols/envelope.js'
import { checkKind, isKind } from '../../protocols/kinds.js'
import { membershipOf } from '../../protocols/membership.js'
import { readTicket, redeem, type Ticket, writeTicket } from '../../protocols/ticket.js'
import { ledgerOf, MESH, NOW, OWNER, record, refusalOf, refused, seedOf, signer } from './support.js'

const ADDRESSES = [`/ip4/10.0.0.1/tcp/4010/p2p/${apId(OWNER.publicKey)}`, '/ip6/fe80::1/tcp/4010']
const GRANT = record(OWNER, 'grant', signer(9).publicKey, [NOW, 0], { role: 'ap', uses: 1, expires: NOW + 1000 })
const TICKET: Ticket = {
  meshKey: OWNER.publicKey,
  seed: seedOf(9),
  grant: Uint8Array.from(GRANT.bytes),
  addresses: ADDRESSES,
}
const TEXT = writeTicket(TICKET)

test('a ticket round trips, and is one word', () => {
  assert.equal(readTicket(TEXT), TICKET)
  assert.match(TEXT, /^dropmesh1[a-z2-7]+$/)
  fc.assert(
    fc.property(fc.array(fc.string({ maxLength: 64 }), { maxLength: 16 }), (addresses) => {
      assert.equal(readTicket(writeTicket({ ...TICKET, addresses })), { ...TICKET, addresses })
    }),
    { numRuns: 5 },
  )
})

test('a ticket in upper case, as a QR code has it, or with white space around it is the same ticket', () => {
  assert.equal(readTicket(TEXT.toUpperCase()), TICKET)
  assert.equal(readTicket(`\n  ${TEXT}\r\n`), TICKET)
})

test('a ticket that was cut short anywhere is refused as one, with what to do', () => {
  for (let length = 0; length < TEXT.length; length++) {
    const { code, message } = refusalOf(() => readTicket(TEXT.slice(0, length)))
    assert.is(code, 'ticket', `cut to ${length}`)
    assert.match(message, /^this is not a ticket \(.+\); copy the whole line/)
  }
  for (const start of [1, 8, 9, 10, 50]) refused('ticket', () => readTicket(TEXT.slice(start)))
})

test('a ticket with a character changed is refused as damaged, unless the change is in an address alone', () => {
  fc.assert(
    fc.property(
      fc.nat(TEXT.length - 1),
      fc.constantFrom(...'abcdefghijklmnopqrstuvwxyz234567189-'),
      (at, character) => {
        const damaged = TEXT.slice(0, at) + character + TEXT.slice(at + 1)
        fc.pre(damaged !== TEXT)
        let read: Ticket
        try {
          read = readTicket(damaged)
        } catch (error) {
          assert.is((error as { code?: string }).code, 'ticket', String(error))
          return
        }
        assert.equal({ ...read, addresses: ADDRESSES }, TICKET)
      },
    ),
    { numRuns: 60 },
  )
})

test('the grant and the key of a ticket belong together and to its mesh', () => {
  const wrong: Partial<Ticket>[] = [
    { seed: seedOf(8) },
    { meshKey: signer(8).publicKey },
    { grant: GRANT.bytes.slice(1) },
    { grant: record(OWNER, 'forget', signer(9).publicKey, [NOW, 0], {}).bytes },
    { grant: seal(OWNER, MESH, [NOW, 0], 'grant', signer(9).publicKey, { role: 'king', uses: 1, expires: 0 }).bytes },
  ]
  for (const change of wrong) refused('ticket', () => readTicket(writeTicket({ ...TICKET, ...change })))
})

test('other text is refused as no ticket: nothing, too much, other words, other CBOR', () => {
  const texts = [
    '',
    ' ',
    'dropmesh1',
    'dropmesh2abc',
    `x${TEXT}`,
    TEXT.replace('1', ''),
    `dropmesh1${'a'.repeat(70_000)}`,
  ]
  for (const value of [1, [], [1, 2, 3, 4], {}, [TICKET.meshKey, TICKET.seed, TICKET.grant]]) {
    texts.push(`dropmesh1${toBase32(encode(value))}`)
  }
  for (const text of texts) refused('ticket', () => readTicket(text))
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), fc.boolean(), (text, prefixed) =>
      refused('ticket', () => readTicket(prefixed ? `dropmesh1${text}` : text)),
    ),
    { numRuns: 200 },
  )
})

test('a redeemed ticket makes its AP a member, with the name and labels it gave', () => {
  const ap = signer(1)
  const { grant, member } = redeem(readTicket(TEXT), ap, NOW + 5, { name: 'kitchen', labels: { floor: '1' } })
  for (const one of [grant, member]) checkKind(open(one.bytes, MESH))
  const { members } = membershipOf(ledgerOf([grant, member]), OWNER.publicKey, NOW)
  assert.equal([...members.keys()], [apId(ap.publicKey)])
  const { name, labels, role } = members.get(apId(ap.publicKey))!
  assert.equal({ name, labels, role }, { name: 'kitchen', labels: { floor: '1' }, role: 'ap' })
})

test('an AP that believes it is 1970 is admitted after the grant of its ticket all the same', () => {
  for (const now of [0, NOW - 1, NOW, NOW + 1]) {
    const { grant, member } = redeem(TICKET, signer(1), now, { name: 'ap', labels: {} })
    assert.ok(isKind(member, 'member'))
    assert.ok(compareClocks(member.body.admission.at, grant.clock) > 0)
    assert.is(membershipOf(ledgerOf([grant, member]), OWNER.publicKey, NOW).members.size, 1)
  }
})

test.run()
