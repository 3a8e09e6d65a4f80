import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { hex } from '../../protocols/bytes.js'
import { chuteKey, newCreation } from '../../protocols/chute.js'
import type { Exclusive } from '../../protocols/deployment.js'
import { chutesOf } from '../../protocols/desired.js'
import type { SignedRecord } from '../../protocols/envelope.js'
import type { Signer } from '../../protocols/keys.js'
import { membershipOf } from '../../protocols/membership.js'
import { creationMark, type Electorate, electoratesOf } from '../../protocols/voters.js'
import { deployment, ledgerOf, NOW, OWNER, record, refused, signer, specOf } from './support.js'

const PUBLISHER = signer(1)
const APS = [11, 12, 13, 14, 15].map(signer)
const keys = (...aps: number[]): Uint8Array[] => aps.map((i) => APS[i]!.publicKey)

const exclusive: Exclusive = { voters: keys(0, 1, 2), salt: new Uint8Array(10).fill(9) }
const creation = newCreation(1000, creationMark(new Uint8Array(), exclusive))
const published = deployment(PUBLISHER, 'one', [NOW, 0], { creation, spec: specOf({ exclusive }) })
const KEY = chuteKey({ publisher: PUBLISHER.publicKey, name: 'one', creation })

const change = (by: Signer, generation: number, voters: Uint8Array[], forced = false, at = generation): SignedRecord =>
  record(by, 'voters', KEY, [NOW + at, 0], { generation, voters, forced })

function electorate(...changes: SignedRecord[]): Electorate {
  const ledger = ledgerOf([published, ...changes])
  const now = NOW + 1000
  const found = electoratesOf(ledger, chutesOf(ledger, now), membershipOf(ledger, OWNER.publicKey, now), now)
  return found.get(hex(KEY))!
}

const is = ({ generation, voters }: Electorate, expected: number, of: Uint8Array[]) => {
  assert.is(generation, expected)
  assert.equal(voters.map(hex), of.map(hex))
}

test('a creation has the voters it was made with, or is not exclusive, and no record says otherwise', () => {
  const plain = newCreation(1000, creationMark(new Uint8Array(10).fill(255)))
  const deploy = (creation: Uint8Array, exclusive: Exclusive | undefined) => () =>
    deployment(PUBLISHER, 'one', [NOW, 0], { creation, spec: specOf(exclusive && { exclusive }) })
  deploy(plain, undefined)()
  refused('malformed', deploy(plain, exclusive))
  refused('malformed', deploy(creation, undefined))
  refused('malformed', deploy(creation, { ...exclusive, voters: keys(0, 1, 3) }))
  refused('malformed', deploy(creation, { ...exclusive, voters: keys(1, 0, 2) }))
  refused('malformed', deploy(creation, { ...exclusive, salt: new Uint8Array(10) }))
})

test('an exclusive chute has three or five different voters', () => {
  for (const voters of [keys(0), keys(0, 1), keys(0, 1, 2, 3), keys(0, 1, 1)]) {
    const odd: Exclusive = { ...exclusive, voters }
    const creation = newCreation(1000, creationMark(new Uint8Array(), odd))
    refused('malformed', () => deployment(PUBLISHER, 'one', [NOW, 0], { creation, spec: specOf({ exclusive: odd }) }))
  }
})

test('the voters are those of the deployment until a majority of them has signed the same others', () => {
  const next = keys(2, 3, 4)
  is(electorate(), 0, exclusive.voters)
  is(electorate(change(APS[0]!, 1, next)), 0, exclusive.voters)
  is(electorate(change(APS[0]!, 1, next), change(APS[1]!, 1, keys(3, 2, 4))), 0, exclusive.voters)
  is(electorate(change(APS[3]!, 1, next), change(APS[4]!, 1, next)), 0, exclusive.voters)
  is(electorate(change(APS[0]!, 1, next), change(APS[1]!, 1, next)), 1, next)
})

test('each generation is chosen by the one before it, in whatever order the records come', () => {
  const [second, third] = [keys(2, 3, 4), keys(0, 3, 4)]
  const changes = [
    change(APS[3]!, 2, third),
    change(APS[1]!, 1, second),
    change(APS[4]!, 2, third),
    change(APS[0]!, 1, second),
  ]
  is(electorate(...changes), 2, third)
  is(electorate(...changes.slice(1)), 1, second)
})

test('a voter counts once a generation, by what it signed first', () => {
  const [first, second] = [keys(2, 3, 4), keys(1, 3, 4)]
  const twice = [change(APS[0]!, 1, first, false, 1), change(APS[0]!, 1, second, false, 2)]
  is(electorate(...twice, change(APS[1]!, 1, second)), 0, exclusive.voters)
  is(electorate(...twice, change(APS[1]!, 1, first)), 1, first)
})

test('an admin alone can force voters, and wins over what the others choose', () => {
  const elected = [change(APS[0]!, 1, keys(2, 3, 4)), change(APS[1]!, 1, keys(2, 3, 4))]
  is(electorate(...elected, change(OWNER, 1, keys(3), true)), 1, keys(3))
  is(electorate(change(APS[0]!, 1, keys(3), true)), 0, exclusive.voters)
})

test.run()
