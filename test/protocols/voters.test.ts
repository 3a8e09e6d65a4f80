import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { apId, hex, unhex } from '../../protocols/bytes.js'
import { chuteKey, newCreation } from '../../protocols/chute.js'
import type { Exclusive } from '../../protocols/deployment.js'
import { chutesOf } from '../../protocols/desired.js'
import type { SignedRecord } from '../../protocols/envelope.js'
import type { Signer } from '../../protocols/keys.js'
import type { RecordOf } from '../../protocols/kinds.js'
import { type Member, type Membership, membershipOf } from '../../protocols/membership.js'
import { signMember } from '../../protocols/ticket.js'
import { ballotOf, creationMark, type Electorate, electoratesOf } from '../../protocols/voters.js'
import { ANYONE, deployment, ledgerOf, MESH, NOW, OWNER, record, refused, signer, specOf } from './support.js'

const PUBLISHER = signer(1)
const APS = [11, 12, 13, 14, 15, 16, 17, 18].map(signer)
const keys = (...aps: number[]): Uint8Array[] => aps.map((i) => APS[i]!.publicKey)

const exclusive: Exclusive = { voters: keys(0, 1, 2), salt: new Uint8Array(10).fill(9) }
const creation = newCreation(1000, creationMark(new Uint8Array(), exclusive))
const published = deployment(PUBLISHER, 'one', [NOW, 0], { creation, spec: specOf({ exclusive }) })
const KEY = chuteKey({ publisher: PUBLISHER.publicKey, name: 'one', creation })

const change = (
  by: Signer,
  generation: number,
  voters: Uint8Array[],
  forced = false,
  at = generation,
): RecordOf<'voters'> => record(by, 'voters', KEY, [NOW + at, 0], { generation, voters, forced })

function electorate(...changes: SignedRecord[]): Electorate {
  const ledger = ledgerOf([published, ...changes])
  const now = NOW + 1000
  const found = electoratesOf(
    ledger,
    chutesOf(ledger, ANYONE, now).chutes,
    membershipOf(ledger, OWNER.publicKey, now),
    now,
  )
  return found.get(hex(KEY))!
}

const is = ({ generation, voters }: Electorate, expected: number, of: Uint8Array[]) => {
  assert.is(generation, expected)
  assert.equal(voters.map(hex), of.map(hex))
}

test('a creation has the voters it was made with, or is not exclusive, and no record says otherwise', () => {
  const plain = newCreation(1000, creationMark(new Uint8Array(8).fill(255)))
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

test('a voter that signs twice, whatever it says of when, counts once for each choice, and takes back nothing', () => {
  const [first, second] = [keys(2, 3, 4), keys(1, 3, 4)]
  const twice = [change(APS[0]!, 1, first, false, 2), change(APS[0]!, 1, first, false, 3)]
  is(electorate(...twice), 0, exclusive.voters)
  const settled = [...twice, change(APS[1]!, 1, first)]
  is(electorate(...settled), 1, first)
  is(electorate(...settled, change(APS[0]!, 1, second, false, 1), change(APS[0]!, 1, second, false, 4)), 1, first)
})

test('an admin alone can force voters, and wins over what the others choose', () => {
  const elected = [change(APS[0]!, 1, keys(2, 3, 4)), change(APS[1]!, 1, keys(2, 3, 4))]
  is(electorate(...elected, change(OWNER, 1, keys(3), true)), 1, keys(3))
  is(electorate(change(APS[0]!, 1, keys(3), true)), 0, exclusive.voters)
})

test('a person who is an admin can force voters, until a revocation that does not list it', () => {
  const ann = signer(30)
  const granted = record(OWNER, 'grant', ann.publicKey, [NOW, 0], { role: 'admin', expires: NOW + 5 })
  const forced = change(ann, 1, keys(3), true)
  const revoked = (keep: Uint8Array) => record(OWNER, 'revocation', ann.publicKey, [NOW + 9, 0], { keep })
  is(electorate(forced), 0, exclusive.voters)
  is(electorate(granted, forced), 1, keys(3))
  is(electorate(granted, change(ann, 1, keys(3), true, 6)), 0, exclusive.voters)
  is(electorate(granted, forced, revoked(new Uint8Array())), 0, exclusive.voters)
  is(electorate(granted, forced, revoked(forced.hash)), 1, keys(3))
})

test('an AP that was let in as an admin can force voters, until its key is revoked', () => {
  const forTicket = { role: 'admin', uses: 1, expires: 0 } as const
  const ticket = record(OWNER, 'grant', signer(31).publicKey, [NOW, 0], forTicket)
  const joined = [ticket, signMember(APS[0]!, signer(31), MESH, [NOW, 1], { name: 'ap', labels: {} })]
  const forced = change(APS[0]!, 1, keys(3), true)
  is(electorate(...joined, forced), 1, keys(3))
  const revoked = record(OWNER, 'revocation', APS[0]!.publicKey, [NOW + 9, 0], { keep: new Uint8Array() })
  is(electorate(...joined, forced, revoked), 0, exclusive.voters)
})

// --- who is to be signed for -------------------------------------------------------------------------------------------

const memberOf = (key: Uint8Array): Member => ({
  id: apId(key),
  key,
  name: apId(key).slice(-8),
  labels: {},
  role: 'ap',
  since: [NOW, 0],
  ticket: key,
  draining: false,
})

/** What AP `self` should sign where `members` are members, and of these all but `dead` are alive. */
function ballot(self: number, of: Electorate, members: number[], dead: number[] = []): string[] | undefined {
  const ids = new Map(keys(...members).map((key) => [apId(key), memberOf(key)]))
  const gone = keys(...dead).map(apId)
  const isAlive = (ap: string) => !gone.includes(ap)
  const forgotten = new Map(
    keys(0, 4)
      .map(apId)
      .filter((ap) => !ids.has(ap))
      .map((ap) => [ap, 'was forgotten']),
  )
  const membership: Membership = {
    members: ids,
    forgotten,
    tickets: new Map(),
    isAdmin: () => false,
    wasByAdmin: () => false,
  }
  return ballotOf(KEY, of, membership, APS[self]!.publicKey, isAlive)?.map(hex)
}

const hexes = (...aps: number[]): string[] => keys(...aps).map(hex)

test('nobody signs for other voters as long as all are members, be they dead', () => {
  for (const self of [0, 1, 2, 3]) assert.is(ballot(self, electorate(), [0, 1, 2, 3, 4], [1, 2]), undefined)
})

test('the first voter that is still a member picks another that is alive, and the rest sign what it picked', () => {
  const members = [1, 2, 3, 4]
  assert.equal(ballot(1, electorate(), members, [3]), hexes(1, 2, 4))
  assert.is(ballot(2, electorate(), members, [3]), undefined, 'before the first one did')
  assert.is(ballot(3, electorate(), members), undefined, 'it is no voter')
  const first = change(APS[1]!, 1, keys(1, 2, 4))
  assert.equal(ballot(2, electorate(first), members), hexes(1, 2, 4))
  is(electorate(first, change(APS[2]!, 1, keys(1, 2, 4))), 1, keys(1, 2, 4))
})

test('nobody signs for voters that leave one out who could stay, or that never were members', () => {
  const members = [1, 2, 3, 4]
  assert.is(ballot(2, electorate(change(APS[1]!, 1, keys(1, 3, 4))), members), undefined)
  assert.is(ballot(2, electorate(change(APS[1]!, 1, keys(1, 2, 7))), members), undefined)
  assert.is(ballot(2, electorate(change(APS[3]!, 1, keys(1, 2, 3))), members), undefined, 'it was picked by no voter')
})

test('one that was picked and then forgotten is signed for all the same, and replaced next', () => {
  const first = change(APS[1]!, 1, keys(1, 2, 4))
  const members = [1, 2, 3] // 0 and 4 were forgotten
  assert.equal(ballot(2, electorate(first), members), hexes(1, 2, 4))
  const next = electorate(first, change(APS[2]!, 1, keys(1, 2, 4)))
  is(next, 1, keys(1, 2, 4))
  assert.equal(ballot(1, next, members), hexes(1, 2, 3))
})

test('a voter that is forgotten keeps its seat by nothing that it signed before', () => {
  const members = [1, 2, 3] // 0 was forgotten, and signed for the voters that there are
  const same = [change(APS[0]!, 1, keys(0, 1, 2)), change(APS[0]!, 1, keys(2, 1, 0), false, 2)]
  assert.equal(ballot(1, electorate(...same), members), hexes(1, 2, 3))
  assert.is(ballot(2, electorate(...same), members), undefined)
  assert.equal(ballot(2, electorate(...same, change(APS[1]!, 1, keys(1, 2, 3), false, 3)), members), hexes(1, 2, 3))
})

test('where nobody is there to take the place, the voters stay', () => {
  assert.is(ballot(1, electorate(), [1, 2]), undefined)
  assert.is(ballot(1, electorate(), [1, 2, 3], [3]), undefined)
})

test('one that an admin has made the only voter makes it three as soon as there are three', () => {
  const forced = electorate(change(OWNER, 1, keys(0), true))
  assert.is(ballot(0, forced, [0, 1]), undefined)
  assert.equal(ballot(0, forced, [0, 1, 2, 3], [2])?.sort(), hexes(0, 1, 3).sort())
})

test('whatever is lost of five voters and whoever is there instead, what the first picks the others sign, and it is in force', () => {
  const wide: Electorate = { generation: 0, voters: keys(0, 1, 2, 3, 4), ballots: [] }
  fc.assert(
    fc.property(fc.subarray([0, 1, 2, 3, 4], { minLength: 1 }), fc.subarray([5, 6, 7]), (stay, others) => {
      const picked = ballot(stay[0]!, wide, [...stay, ...others])
      if (picked === undefined) return
      assert.ok([3, 5].includes(picked.length))
      for (const key of hexes(...stay)) assert.ok(picked.includes(key))
      const first = change(APS[stay[0]!]!, 1, picked.map(unhex))
      for (const self of stay) {
        assert.equal(ballot(self, { ...wide, ballots: [first] }, [...stay, ...others]), picked)
      }
    }),
    { numRuns: 200 },
  )
})

test.run()
