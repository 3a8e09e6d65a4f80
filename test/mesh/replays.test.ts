// What was true once, sent again: to real nodes, by a stranger, by the AP that was forgotten, and by a member. Nothing comes of it,
// and nothing is told as new.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { askToJoin } from '../../node/mesh/join.js'
import { apKey, hex } from '../../protocols/bytes.js'
import { chuteSubject, newCreation } from '../../protocols/chute.js'
import { type SignedRecord, seal } from '../../protocols/envelope.js'
import { isKind } from '../../protocols/kinds.js'
import { DEPLOYMENT_HISTORY } from '../../protocols/limits.js'
import { failureOf, refusalOf } from '../node/realm.js'
import { specOf } from '../protocols/support.js'
import { eventually, type TestAp, TestMesh } from '../support/mesh.js'
import { Villain } from '../support/villain.js'

const mesh = new TestMesh()
const noEngine = () => ({ args: ['--docker-host', 'unix:///no/engine'] })
const [target, witness, mortal] = (await mesh.start(3, noEngine)) as [TestAp, TestAp, TestAp]
const villains: Villain[] = []
test.after(async () => {
  await Promise.all(villains.map(({ host }) => host.stop()))
  await mesh.close()
})

async function villain(): Promise<Villain> {
  const one = await Villain.appear(target, await mesh.ticket(target))
  villains.push(one)
  return one
}

async function member(name: string): Promise<Villain> {
  const one = await villain()
  await one.join(await mesh.ticket(target), name)
  return one
}

const admin = await mesh.adminOf(target)
const [spy, leaver] = await Promise.all([member('spy'), member('leaver')])

/** Every record that was ever seen in the ledger, and every beacon, by hash. */
const seen = new Map<string, SignedRecord>()
const beacons = new Map<string, SignedRecord>()

async function look(): Promise<Set<string>> {
  const { records, beacons: heard } = await eventually('the spy to be told all', () => spy.ledger())
  for (const record of records) seen.set(hex(record.hash), record)
  for (const beacon of heard) beacons.set(hex(beacon.hash), beacon)
  return new Set(records.map(({ hash }) => hex(hash)))
}

let count = 0
/** What an admin signs, and hands to a node. */
const say = (kind: string, subject: Uint8Array, body: object) =>
  witness.client.post('/v1/records', seal(admin, spy.realm, [Date.now(), count++], kind, subject, body).bytes)

const creation = newCreation(Date.now(), new Uint8Array(8))
const deploy = (name: string, revision: number) =>
  say('deployment', chuteSubject(admin.publicKey, name), { creation, revision, spec: specOf() })
const want = (name: string, desired: string) =>
  say('wanted', chuteSubject(admin.publicKey, name), { creation, desired, restarts: 0 })

const stateOf = async (ap: TestAp): Promise<string | undefined> =>
  (await target.aps()).find(({ id }) => id === ap.id)?.state

/** What people see, but for the villains, who come and go. */
async function view(ap: TestAp): Promise<unknown> {
  const ours = new Set(mesh.aps.map(({ id }) => id))
  const aps = (await ap.aps()).map(({ id, name, state }) => ({ id, name, state })).filter(({ id }) => ours.has(id))
  const instances = (await ap.instances()).map(({ instance, ap, state, epoch }) => ({ instance, ap, state, epoch }))
  return { aps, instances, chutes: await ap.client.get('/v1/chutes') }
}

/** What was told since, of anybody but the villains. */
async function news(ap: TestAp, since: number): Promise<unknown[]> {
  const theirs = new Set([...villains.map(({ id }) => id), 'spy', 'leaver'])
  const isTheirs = (event: object) => Object.values(event).some((value) => theirs.has(value as string))
  return (await ap.events()).slice(since).filter((event) => event.kind !== 'synced' && !isTheirs(event))
}

test('what is sent again, by whomever, has no effect, and nothing is told as new', async () => {
  // A deployment that was superseded so often that nobody has it any more, one that was removed, what was wanted before.
  await deploy('gone', 1)
  await deploy('web', 1)
  await want('web', 'stopped')
  await mesh.settled()
  await look()
  for (let revision = 2; revision <= DEPLOYMENT_HISTORY + 1; revision++) await deploy('web', revision)
  for (const desired of ['running', 'stopped', 'running']) await want('web', desired)
  await say('removal', chuteSubject(admin.publicKey, 'gone'), { creation })
  // An AP that was accused and answered, and one that was forgotten.
  witness.signal('SIGSTOP')
  await eventually('the witness to be accused', async () =>
    (await target.events()).some(({ kind, ap }) => kind === 'accused' && ap === witness.id),
  )
  await look()
  witness.signal('SIGCONT')
  await eventually('the witness to be alive again', async () => (await stateOf(witness)) === 'alive')
  await look()
  await say('forget', leaver.signer.publicKey, {})
  await eventually('the leaver to be gone', async () => !(await target.aps()).some(({ id }) => id === leaver.id))
  // One that is dead while its beacons come again.
  assert.ok([...beacons.values()].some(({ signer }) => hex(signer) === hex(apKey(mortal.id))))
  await mortal.stop('SIGKILL')
  await eventually('it to be dead', async () => (await stateOf(mortal)) === 'dead')
  await mesh.settled()

  const now = await look()
  const old = [...seen.values()].filter(({ hash }) => !now.has(hex(hash)))
  const kinds = new Set(old.map(({ kind }) => kind))
  assert.ok(kinds.has('deployment') && kinds.has('wanted'), [...kinds].join())
  for (const kind of ['statement', 'member', 'forget', 'removal'] as const)
    assert.ok(
      [...seen.values()].some((record) => isKind(record, kind)),
      kind,
    )
  const [before, events] = [await view(target), (await target.events()).length]
  const atWitness = (await witness.events()).length

  const again = [...seen.values(), ...beacons.values()].map(({ bytes }) => bytes)
  const stranger = await villain()
  const admission = [...seen.values()].find(
    (one) => isKind(one, 'member') && hex(one.signer) === hex(apKey(leaver.id)),
  )!
  const isItsTicket = (one: SignedRecord) =>
    isKind(admission, 'member') && hex(one.subject) === hex(admission.body.admission.ticket)
  const grant = [...seen.values()].find((one) => isKind(one, 'grant') && isItsTicket(one))!
  for (const who of [stranger, leaver]) {
    await who.connect()
    await refusalOf(askToJoin(who.host, who.ids, target.id, { grant, member: admission }), 'join-refused')
  }
  await failureOf(stranger.hand(again))
  await spy.takePart()
  for (const who of [stranger, spy]) for (const bytes of again) await who.gossip(bytes)
  for (const { bytes } of beacons.values()) await spy.gossip(bytes, spy.topics.beacons)
  // It is silent, so that its connections may end at any time.
  await eventually('the spy to have handed in all', () => spy.hand(again).then(() => true))
  await deploy('after', 1)
  await mesh.settled()

  const after = await look()
  assert.equal(
    old.filter(({ hash }) => after.has(hex(hash))),
    [],
    'what was dropped stays away',
  )
  for (const [ap, since] of [
    [target, events],
    [witness, atWitness],
  ] as const) {
    const told = (await news(ap, since)) as { kind: string; chute?: string }[]
    assert.equal(
      told.map(({ kind, chute }) => `${kind} ${chute}`),
      ['published after'],
      ap.name,
    )
  }
  await say('removal', chuteSubject(admin.publicKey, 'after'), { creation })
  await mesh.settled()
  assert.equal(await view(target), before)
})

test.run()
