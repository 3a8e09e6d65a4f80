// An AP without a ticket on a LAN: each `dropmesh up` has a network of its own, and multicast DNS is all there is.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { InviteRow, RequestRow } from '../../node/api/invites.js'
import { type Host, type Hosts, makeHosts, whyNoHosts } from '../support/hosts.js'
import { eventually, on, type TestAp, TestMesh } from '../support/mesh.js'
import { QUICK_LOOK } from '../support/quick-look.js'

const obstacle = whyNoHosts()
const asking = suite(`asking${obstacle ? ` (skipped: ${obstacle})` : ''}`)
// Where the whole check runs, a machine that cannot do this is a failure.
const test = obstacle && !process.env.CI ? asking.skip : asking

const mesh = new TestMesh()
const lab = new TestMesh()
let lan: Hosts
let founder: TestAp

asking.before(async () => {
  if (obstacle) return
  lan = await makeHosts(6)
})
asking.after(async () => {
  await Promise.all([mesh.close(), lab.close()])
  lan?.close()
})

const hostOf = (i: number): Host => lan.hosts[i - 1]!
/** Without a ticket, and without being told to found a mesh. */
const fresh = (i: number) => ({ ...on(hostOf(i)), join: null, ...QUICK_LOOK })
const requestsAt = (ap: TestAp): Promise<RequestRow[]> => ap.client.get('/v1/requests')
const isIn = (ap: TestAp) => eventually(`${ap.name} to be in`, async () => (await ap.status()).state === 'running')

test('an AP that finds no mesh on its LAN founds one', async () => {
  founder = await mesh.add('founder', fresh(1))
  await isIn(founder)
  const { origin, members, ownerKey } = await founder.status()
  assert.match(origin!, /^founded the mesh at /)
  assert.equal({ members, ownerKey }, { members: 1, ownerKey: true })
})

test('an AP that finds one asks, and is in once an admin approves the code that both show', async () => {
  const starting = mesh.add('asker', fresh(2))
  const [request] = await eventually('the request', async () => {
    const all = await requestsAt(founder)
    return all.length > 0 && all
  })
  const asker = mesh.aps[1]!
  const code = await eventually('the code at the asker', () => /dropmesh approve (\d{6})/.exec(asker.log)?.[1])
  assert.equal([request!.name, request!.code, request!.address], ['asker', code, hostOf(2).address])
  assert.match(asker.log, new RegExp(`found mesh ${await mesh.meshId()} on the LAN, and asked its AP founder`))
  const wrong = String((Number(code) + 1) % 1_000_000).padStart(6, '0')
  const { status, stderr } = await founder.cli('approve', wrong)
  assert.is(status, 1)
  assert.match(stderr, /no AP asks to be let in here with code/)
  assert.is((await mesh.cli(['keys', 'new', 'nobody'])).status, 0)
  assert.is((await founder.cli('approve', code, '--key', 'nobody')).status, 1)

  const approved = await founder.cli('approve', `${code.slice(0, 3)} ${code.slice(3)}`, '--label', 'site=home')
  assert.is(approved.status, 0, approved.stderr)
  await starting
  await isIn(asker)
  await mesh.settled()
  assert.equal((await founder.aps()).find(({ name }) => name === 'asker')!.labels, { site: 'home' })
  assert.equal(await requestsAt(founder), [])
  const [invite] = (await founder.client.get<InviteRow[]>('/v1/invites')).filter(({ aps }) => aps.includes('asker'))
  assert.equal([invite!.uses, invite!.left, invite!.state], [1, 0, 'used-up'])
})

test('it is in by itself from then on, wherever the others are by then', async () => {
  const asker = mesh.aps[1]!
  await Promise.all([asker.stop(), founder.stop()])
  await founder.start(['--listen', '/ip4/0.0.0.0/tcp/4999'])
  await asker.start()
  await mesh.settled()
})

test('where there are several meshes an AP asks none, and says which there are', async () => {
  await lab.add('lab', { ...on(hostOf(3)), args: [...on(hostOf(3)).args!, '--open'] })
  const { status, stderr } = await cliOn(hostOf(4), ['up', '--data', `${mesh.dir}/undecided`])
  assert.is(status, 1)
  const [one, other] = [await mesh.meshId(), await lab.meshId()].sort()
  assert.match(stderr, new RegExp(`several meshes on the LAN, and none of them was asked: ${one}, ${other}; join one`))
  assert.equal(await requestsAt(founder), [])
})

test('an open mesh lets in who names it, by any member, says that it is open, and lets nobody publish', async () => {
  const named = ['--ask', (await lab.meshId())!.slice(0, 8)]
  const into = (name: string, i: number) => lab.add(name, { ...fresh(i), args: [...fresh(i).args!, ...named] })
  const second = await into('second', 4)
  await isIn(second)
  await lab.settled()
  assert.ok((await second.status()).warnings.some((text) => text.startsWith('this mesh is open: any AP')))
  await lab.aps[0]!.stop('SIGKILL')
  const third = await into('third', 5)
  await isIn(third)
  assert.is((await third.status()).role, 'ap')
  assert.is((await mesh.cli(['keys', 'new', 'guest'])).status, 0)
  const published = await lab.cli(
    ['publish', await lab.chute('web', { main: {} }), '--key', 'guest', '--data', third.data],
    mesh.env,
  )
  assert.match(published.stderr, /may not publish web: its publisher has no grant/)

  const [ticket] = (await third.client.get<InviteRow[]>('/v1/invites')).filter(({ open }) => open)
  const revoked = await third.cli('revoke', ticket!.ticket)
  assert.is(revoked.status, 0, revoked.stderr)
  await lab.aps[0]!.start()
  await lab.settled()
  assert.is((await third.status()).members, 3)
  const late = into('late', 6)
  late.catch(() => {})
  const asked = async () => (await Promise.all(lab.aps.slice(0, 3).map(requestsAt))).flat().length === 1
  await eventually('it to wait as anywhere', asked)
})

test('meshes on one LAN do not mix, whoever asks', async () => {
  assert.is((await founder.status()).members, 2)
  assert.is((await lab.aps[0]!.status()).members, 3)
  for (const ap of [...mesh.aps, ...lab.aps.slice(0, 3)])
    assert.not.ok(
      (await ap.events()).some(({ kind }) => kind === 'refused'),
      ap.name,
    )
})

function cliOn(host: Host, args: string[]) {
  return host
    .run([process.execPath, QUICK_LOOK.main, ...args], { env: { ...process.env, ...mesh.env, ...QUICK_LOOK.env } })
    .then((done) => ({
      ...done,
      status: done.code,
    }))
}

asking.run()
