import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { hex } from '../../protocols/bytes.js'
import { chuteKey, chuteSubject, instanceSubject } from '../../protocols/chute.js'
import { type Chute, chutesOf, claimsOf, copiesOf, instanceName } from '../../protocols/desired.js'
import type { SignedRecord } from '../../protocols/envelope.js'
import type { Body } from '../../protocols/kinds.js'
import { MAX_CLOCK_AHEAD } from '../../protocols/limits.js'
import { ANYONE, creationOf, deployment, ledgerOf, memberOf, NOW, record, signer, specOf } from './support.js'

const PUBLISHER = signer(1)
const SUBJECT = chuteSubject(PUBLISHER.publicKey, 'hello')
const [FIRST, SECOND] = [creationOf(1000), creationOf(2000)]

const publish = (at: number, creation = FIRST, changes: Partial<Body<'deployment'>> = {}) =>
  deployment(PUBLISHER, 'hello', [NOW + at, 0], { creation, ...changes })
const want = (at: number, desired: 'running' | 'stopped', creation = FIRST, restarts = 0) =>
  record(PUBLISHER, 'wanted', SUBJECT, [NOW + at, 0], { creation, desired, restarts })
const remove = (at: number, creation = FIRST) => record(PUBLISHER, 'removal', SUBJECT, [NOW + at, 0], { creation })

const chutes = (...records: SignedRecord[]): readonly Chute[] => chutesOf(ledgerOf(records), ANYONE, NOW + 1000).chutes

function theChute(...records: SignedRecord[]): Chute {
  const [chute, ...others] = chutes(...records)
  assert.is(others.length, 0)
  return chute!
}

test('what was published is wanted, in its newest revision', () => {
  const chute = theChute(publish(1), publish(2, FIRST, { revision: 2, spec: specOf({ replicas: 3 }) }))
  assert.is(chute.desired, 'running')
  assert.is(chute.revision, 2)
  assert.is(chute.spec.replicas, 3)
  assert.equal(chute.id, { publisher: PUBLISHER.publicKey, name: 'hello', creation: FIRST })
  assert.equal(chute.key, chuteKey(chute.id))
})

test('a stop and a publish on two sides of a partition both survive, in any order of their clocks', () => {
  for (const records of [
    [publish(1), want(2, 'stopped'), publish(3, FIRST, { revision: 2 })],
    [publish(1), publish(2, FIRST, { revision: 2 }), want(3, 'stopped')],
  ]) {
    const { revision, desired } = theChute(...records)
    assert.equal({ revision, desired }, { revision: 2, desired: 'stopped' })
  }
  assert.is(theChute(publish(1), want(2, 'stopped'), want(3, 'running', FIRST, 4)).restarts, 4)
})

test('a wanted state is of its creation alone, also where one of an earlier creation was signed later', () => {
  assert.is(theChute(publish(1), want(2, 'stopped'), publish(3, SECOND)).desired, 'running')
  assert.is(theChute(publish(1, SECOND), want(2, 'stopped', SECOND), want(3, 'running', FIRST)).desired, 'stopped')
})

test('a removal removes its creation and every earlier one, for ever', () => {
  assert.equal(chutes(publish(1), remove(2)), [])
  assert.equal(chutes(publish(1), remove(2), publish(3), want(4, 'running')), [])
  assert.equal(chutes(publish(1), remove(2, SECOND)), [])
  assert.is(theChute(publish(1), remove(2), publish(3, SECOND)).desired, 'running')
})

test('a removal of an earlier creation that was signed later brings nothing back', () => {
  assert.equal(chutes(publish(1, SECOND), remove(2, SECOND), remove(3, FIRST)), [])
})

test('the latest creation of a name is the chute, also where an earlier one was published again later', () => {
  assert.equal(theChute(publish(1), publish(2, SECOND)).id.creation, SECOND)
  assert.equal(theChute(publish(1, SECOND), publish(2, FIRST)).id.creation, SECOND)
  assert.equal(chutes(publish(1, SECOND), publish(2, FIRST), remove(3, SECOND)), [])
})

test('chutes of two publishers, or of two names, are chutes of their own', () => {
  const other = deployment(signer(2), 'hello', [NOW, 0], { creation: FIRST })
  const named = deployment(PUBLISHER, 'world', [NOW, 0], { creation: FIRST })
  const all = chutes(publish(1), other, named, remove(2))
  assert.equal(
    all.map(({ id }) => `${hex(id.publisher)}/${id.name}`).sort(),
    [`${hex(signer(2).publicKey)}/hello`, `${hex(PUBLISHER.publicKey)}/world`].sort(),
  )
  const keys = all.map(({ key }) => hex(key))
  assert.equal(keys, [...keys].sort())
})

test('what is not wanted before its time is not wanted, but what is removed is gone at once', () => {
  const future = publish(MAX_CLOCK_AHEAD + 5000, FIRST, { revision: 2 })
  const ledger = ledgerOf([publish(1), future])
  assert.is(chutesOf(ledger, ANYONE, NOW).chutes[0]!.revision, 1)
  assert.is(chutesOf(ledger, ANYONE, NOW + 5000).chutes[0]!.revision, 2)
  ledger.merge(remove(MAX_CLOCK_AHEAD + 6000))
  assert.equal(chutesOf(ledger, ANYONE, NOW).chutes, [])
})

test('a chute has a copy for each replica, or one for each member, and none unless it should run', () => {
  const members = new Map([memberOf(1), memberOf(2)].map((member) => [member.id, member]))
  const copies = (replicas: number | 'everywhere', ...more: SignedRecord[]) =>
    copiesOf(theChute(publish(1, FIRST, { spec: specOf({ replicas }) }), ...more), members)
  assert.equal(copies(3), [0, 1, 2])
  assert.equal(copies(0), [])
  assert.equal(copies('everywhere'), [memberOf(1).key, memberOf(2).key])
  assert.equal(copies(3, want(2, 'stopped')), [])
})

test('an instance is called by its ordinal, or by the AP it is for', () => {
  assert.is(
    instanceName('hello', 2, () => 'ap'),
    'hello.2',
  )
  assert.is(
    instanceName('hello', memberOf(1).key, () => 'kitchen'),
    'hello.kitchen',
  )
})

test('of claims on one instance the highest epoch comes first, then the earliest clock, then the lowest key', () => {
  const subject = instanceSubject(new Uint8Array(20), 0)
  const claim = (by: number, epoch: number, at: number) =>
    record(signer(by), 'claim', subject, [NOW + at, 0], { epoch, cause: 'new' })
  const [low, high] = [4, 5].sort((a, b) => (hex(signer(a).publicKey) < hex(signer(b).publicKey) ? -1 : 1))
  const expected = [claim(2, 3, 50), claim(3, 2, 10), claim(low!, 2, 20), claim(high!, 2, 20), claim(6, 1, 1)]
  const other = record(signer(2), 'claim', instanceSubject(new Uint8Array(20), 1), [NOW, 0], { epoch: 9, cause: 'new' })
  for (const order of [expected, [...expected].reverse()]) {
    const claims = claimsOf(ledgerOf([...order, other]), NOW)
    assert.equal(claims.get(hex(subject)), expected)
    assert.equal(claims.get(hex(other.subject)), [other])
    assert.is(claims.get(hex(instanceSubject(new Uint8Array(20), 2))), undefined)
  }
})

test.run()
