// Who may do what, on real nodes: a stranger, a publisher, a stolen key, and two APs that cannot hear each other.
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { GrantRow } from '../../node/api/grants.js'
import { loadSeed } from '../../node/identity.js'
import { hex, unhex } from '../../protocols/bytes.js'
import { chuteSubject, newCreation } from '../../protocols/chute.js'
import { seal } from '../../protocols/envelope.js'
import { personSigner } from '../../protocols/keys.js'
import { meshIdOf } from '../../protocols/membership.js'
import { specOf } from '../protocols/support.js'
import { ensureBusybox } from '../support/busybox.js'
import { eventually, type TestAp, TestMesh } from '../support/mesh.js'
import { freePort } from '../support/scratch.js'

const mesh = new TestMesh()
let one: TestAp
let two: TestAp
const keys = new Map<string, string>()
const keyOf = (name: string): string => keys.get(name)!
/** The folder of a chute that one name calls. */
const folders = new Map<string, string>()

test.before(async () => {
  await ensureBusybox(mesh.docker)
  const listen = await Promise.all([freePort(), freePort()])
  await mesh.start(2, (i) => ({ listen: `/ip4/127.0.0.1/tcp/${listen[i - 1]}` }))
  ;[one, two] = mesh.aps as [TestAp, TestAp]
  for (const name of ['pia', 'pat', 'eve']) {
    const { stdout } = await mesh.cli(['keys', 'new', name, '--json'])
    keys.set(name, (JSON.parse(stdout) as { publisher: string }).publisher)
  }
  for (const name of ['web-1', 'web-2', 'cam'])
    folders.set(name, await mesh.chute(name, { main: { stop_grace_period: '0s' } }))
})
test.after(() => mesh.close())

const publish = (ap: TestAp, chute: string, key: string, ...more: string[]) =>
  ap.cli('publish', folders.get(chute)!, '--key', key, ...more)

async function publishes(ap: TestAp, chute: string, key: string, ...more: string[]): Promise<void> {
  const { status, stderr } = await publish(ap, chute, key, ...more)
  assert.is(status, 0, stderr)
}

async function refuses(reason: RegExp, ap: TestAp, ...args: string[]): Promise<void> {
  const { status, stderr } = await ap.cli(...args)
  assert.is(status, 1, stderr)
  assert.match(stderr.trim().split('\n').at(-1)!, reason)
}

const grantsOf = async (ap: TestAp, key: string): Promise<GrantRow[]> =>
  (await ap.json<GrantRow[]>('grants')).filter((row) => row.key === key)

/** Chutes as an AP knows them: name, revision and what is wanted. */
const chutesAt = async (ap: TestAp): Promise<string[]> =>
  (await ap.json<{ chute: string; revision: number; desired: string; wanted: number }[]>('ls'))
    .map(({ chute, revision, desired, wanted }) => `${chute} ${revision} ${desired} ${wanted}`)
    .sort()

async function agree(): Promise<void> {
  await mesh.settled()
  assert.equal(await chutesAt(one), await chutesAt(two))
}

test('who founds a mesh may do everything in it, with a key that is made where there was none', async () => {
  const { stdout } = await mesh.cli(['keys', 'show', 'default', '--json'])
  const { publisher } = JSON.parse(stdout) as { publisher: string }
  const [row, ...others] = await grantsOf(two, publisher)
  assert.equal(others, [])
  assert.is(row!.role, 'admin')
  assert.is(row!.may, 'grant and revoke, and publish any chute with every right')
  assert.match((await two.cli('status')).stdout, /key default, admin: may grant and revoke/)
  assert.match((await two.cli('status')).stdout, /key eve may publish nothing here/)
})

test('a stranger publishes nothing, grants nothing and revokes nothing, and is told what an admin types', async () => {
  const command = new RegExp(
    `key ${keyOf('eve')} may not publish cam: .*: dropmesh grant ${keyOf('eve')} --role publisher$`,
  )
  await refuses(command, two, 'publish', folders.get('cam')!, '--key', 'eve')
  await refuses(/is no admin and can sign no grant/, two, 'grant', 'eve', '--key', 'eve')
  const founder = JSON.parse((await mesh.cli(['keys', 'show', 'default', '--json'])).stdout) as { publisher: string }
  await refuses(/is no admin and can sign no revocation/, two, 'revoke', founder.publisher, '--key', 'eve')
  assert.equal(await chutesAt(one), [])
})

test('a publisher has what it was granted and no more, and that is taken from nobody else', async () => {
  const { stdout } = await one.cli('grant', 'pia', '--chutes', 'web-*', '--instances', '3', '--until', '30d')
  assert.match(stdout, /may publish chutes called web-\* with at most 3 instances in all until 20/)
  await mesh.settled()
  await publishes(two, 'web-1', 'pia')
  await refuses(/its grant is for chutes called web-\*;/, two, 'publish', folders.get('cam')!, '--key', 'pia')
  const beyond = /web-2 is more than key .* may have: the 3 instances granted run already/
  await refuses(beyond, two, 'publish', folders.get('web-2')!, '--key', 'pia', '--replicas', '3')
  await publishes(two, 'web-2', 'pia', '--replicas', '2')

  await mesh.settled()
  await publishes(one, 'cam', 'default')
  assert.is((await one.cli('grant', 'pia', '--chutes', 'web-*', '--instances', '2')).status, 0)
  await mesh.settled()
  const rows = (await two.instances()).filter(({ state }) => state === 'waiting')
  assert.equal(
    rows.map(({ instance, reason }) => `${instance} ${reason}`),
    ['web-2.1 may not be placed: the 2 instances granted run already'],
  )
  const seen = await two.json<{ notAllowed: string; granted: GrantRow[] }>('inspect', 'web-2')
  assert.is(seen.notAllowed, 'the 2 instances granted run already')
  assert.is(seen.granted[0]!.may, 'publish chutes called web-* with at most 2 instances in all')
  await mesh.running('web-2', 1)
  await mesh.running('cam', 1)
})

test('what a publisher may not have any more stops, and comes back with a new grant', async () => {
  assert.is((await one.cli('grant', 'pat')).status, 0)
  await mesh.settled()
  await publishes(two, 'cam', 'pat')
  const publisher = keyOf('pat')
  await one.cli('grant', 'pat', '--until', new Date(Date.now() + 1500).toISOString())
  await eventually('the chute to be stopped', async () =>
    (await two.instances()).some(
      (row) => row.publisher === publisher && row.state === 'waiting' && /ran out/.test(row.reason ?? ''),
    ),
  )
  await eventually('one container of cam', async () => (await mesh.containers('cam')).length === 1)
  assert.is((await grantsOf(two, publisher))[0]!.state, 'ran-out')
  assert.is((await one.cli('grant', 'pat')).status, 0)
  await mesh.running('cam', 2)
})

test('a thief on the cut-off side gets nothing that counts once the sides meet, and what was kept stays', async () => {
  const before = (await mesh.containers('web-1')).map(({ id }) => id)
  const publisher = keyOf('pia')
  await mesh.settled()
  await two.stop()
  const dry = await one.cli('revoke', 'pia', '--dry-run')
  assert.match(dry.stdout, /stays {2}chute web-1, revision 1 /)
  const { stdout, status } = await one.cli('revoke', 'pia')
  assert.is(status, 0)
  assert.match(stdout, /nobody can change the chutes that stay any more; 1 AP holds the record/)
  await refuses(/was revoked and can sign nothing any more/, one, 'publish', folders.get('web-1')!, '--key', 'pia')
  await refuses(/was revoked, and a grant gives it nothing back/, one, 'grant', 'pia')
  await one.stop()

  await two.start()
  await eventually('ap2 to have its engine', async () => (await two.status()).docker !== null)
  // The thief publishes anew, and with a clock of yesterday; and stops and removes what is there.
  await publishes(two, 'web-2', 'pia', '--detach')
  await backdate(two, 'web-3')
  await backdate(two, 'web-1')
  assert.is((await two.cli('rm', `${publisher.slice(0, 12)}/web-1`, '--key', 'pia')).status, 0)
  await one.start()
  await agree()
  const kept = ['web-1 1 running 1', 'web-2 1 running 2']
  const seen = await eventually('the kept chutes alone', async () => {
    const found = (await chutesAt(two)).filter((line) => line.startsWith('web'))
    return JSON.stringify(found.filter((line) => kept.includes(line))) === JSON.stringify(kept) && found
  })
  assert.equal(seen, ['web-1 1 running 1', 'web-2 1 running 2', 'web-3 99 running 1'])
  const history = await two.json<{ revision: number; state: string }[]>('history', `${publisher.slice(0, 12)}/web-2`)
  assert.equal(
    history.map(({ revision, state }) => `${revision} ${state}`),
    ['2 barred', '1 in-force'],
  )
  const [strange] = (await one.instances()).filter(({ chute }) => chute === 'web-3')
  assert.is(strange!.reason, 'may not be placed: the key was revoked')
  assert.equal((await mesh.containers('web-3')).length, 0)
  await mesh.running('web-1', 1)
  assert.is(before.length, 1)
})

test('with --stop-chutes nothing stays', async () => {
  const { stdout } = await two.cli('revoke', 'pia', '--stop-chutes')
  assert.match(stdout, /stops {2}chute web-1/)
  assert.not.match(stdout, /web-3/, 'what the thief signed counts for nothing that could stay')
  await mesh.settled()
  for (const name of ['web-1', 'web-2']) {
    await eventually(`no container of ${name}`, async () => (await mesh.containers(name)).length === 0)
  }
  assert.is((await grantsOf(one, keyOf('pia')))[0]!.may, 'nothing any more: it was revoked')
  await mesh.running('cam', 2)
})

/** Signs a deployment of yesterday with pia's key, as the thief of it can, and hands it to an AP. */
async function backdate(ap: TestAp, name: string): Promise<void> {
  const pia = personSigner((await loadSeed(join(mesh.dir, 'user', 'dropmesh', 'keys'), 'pia'))!)
  const owner = personSigner((await loadSeed(join(one.data, 'keys'), 'mesh'))!)
  const yesterday = Date.now() - 86_400_000
  const known = await ap.client.get<{ creation: string | null }>('/v1/next', { publisher: hex(pia.publicKey), name })
  const creation = known.creation === null ? newCreation(yesterday, new Uint8Array(8)) : unhex(known.creation)
  // Of a chute that is there it can say no more than that it was another one before.
  const at = known.creation === null ? yesterday : Buffer.from(creation).readUIntBE(0, 6)
  const body = { creation, revision: 99, spec: specOf() }
  const subject = chuteSubject(pia.publicKey, name)
  await ap.client.post('/v1/records', seal(pia, meshIdOf(owner.publicKey), [at, 0], 'deployment', subject, body).bytes)
}

test.run()
