// Who gets into a mesh, who does not and why, and who finds back.
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { InviteRow } from '../../node/api/invites.js'
import { hex } from '../../protocols/bytes.js'
import { open } from '../../protocols/envelope.js'
import { meshIdOf } from '../../protocols/membership.js'
import { readTicket } from '../../protocols/ticket.js'
import { ensureBusybox } from '../support/busybox.js'
import { type ApOptions, eventually, type TestAp, TestMesh } from '../support/mesh.js'
import { freePort } from '../support/scratch.js'

const mesh = new TestMesh()
const other = new TestMesh()
test.before(async () => {
  await ensureBusybox(mesh.docker)
  // Ports of their own, so that they are where they were after a restart.
  const founder = await mesh.add('founder', await anchored())
  await Promise.all([
    mesh.add('admin', { ...(await anchored()), join: await mesh.ticket(founder, { role: 'admin' }) }),
    mesh.add('plain', { ...(await anchored()), labels: ['role=worker'] }),
    other.add('other', await anchored()),
  ])
  await mesh.settled()
  assert.is((await mesh.cli(['keys', 'new', 'alice'])).status, 0)
})
test.after(() => Promise.all([mesh.close(), other.close()]).then(() => {}))

const anchored = async (): Promise<ApOptions> => ({ listen: `/ip4/127.0.0.1/tcp/${await freePort()}` })

const named = (name: string): TestAp => mesh.aps.find((ap) => ap.name === name)!

/** Starts an AP that must not get in, for a reason that it says itself. */
async function refused(name: string, ticket: string, why: string): Promise<void> {
  const ap = await mesh.add(name, { join: ticket })
  try {
    await eventually(`the AP to say "${why}"`, async () =>
      (await ap.status()).warnings.some((text) => text.startsWith(`cannot join the mesh: ${why}`)),
    )
    assert.is((await ap.status()).state, 'joining')
    assert.is((await ap.status()).role, null)
    for (const member of [named('founder'), named('admin')]) {
      assert.not.ok((await member.aps()).some(({ id }) => id === ap.id))
    }
  } finally {
    await ap.stop()
  }
}

/** Ends an AP, and its membership. */
async function leaves(ap: TestAp): Promise<void> {
  await ap.stop('SIGTERM')
  assert.is((await named('founder').cli('forget', ap.name)).status, 0)
  mesh.aps.splice(mesh.aps.indexOf(ap), 1)
}

let ticket: string

test('a newcomer whose inviter is down joins through another AP of its ticket, and gets every record there is', async () => {
  const founder = named('founder')
  await mesh.publish(founder, 'job', {}, ['--on', 'role=worker'])
  ticket = await mesh.ticket(founder)
  await founder.stop('SIGKILL')
  const late = await mesh.add('late', { join: ticket, labels: ['role=worker'] })
  await eventually('the newcomer to be in', async () => (await late.status()).state === 'running')
  await mesh.settled()
  assert.equal(
    (await late.json<{ chute: string }[]>('ls')).map(({ chute }) => chute),
    ['job'],
  )
  assert.ok((await late.events()).some(({ kind, received }) => kind === 'synced' && Number(received) > 0))

  await founder.start()
  await mesh.settled()
  assert.is((await founder.status()).members, 4)
})

test('a ticket lets one AP in, and a second one hears that it is used up', async () => {
  await refused('second', ticket, 'the ticket is used up')
})

test('an expired ticket is refused with that reason', async () => {
  const short = await mesh.invite(named('founder'), '--ttl', '1s')
  const expiry = Date.now() + 1000
  await eventually('the ticket to expire', () => Date.now() > expiry)
  await refused('tardy', short, 'the ticket has expired')
})

test('what is no ticket ends `up` with status 1 and a sentence', async () => {
  const data = `${mesh.dir}/nobody`
  for (const [garbage, why] of [
    ['hello', 'it does not begin with dropmesh1'],
    ['dropmesh1!!!', 'it is damaged'],
    [ticket.slice(0, -9), 'it is damaged'],
  ]) {
    const { status, stdout, stderr } = await mesh.cli(['up', '--data', data, '--join', garbage!])
    assert.equal([status, stdout], [1, ''])
    assert.is(stderr, `dropmesh: this is not a ticket (${why}); copy the whole line that "dropmesh invite" printed\n`)
  }
})

test('a data folder of one mesh does not join another', async () => {
  const foreign = await other.ticket(other.aps[0]!)
  const late = named('late')
  await late.stop('SIGKILL')
  const { status, stderr } = await mesh.cli(['up', '--data', late.data, '--no-mdns', '--join', foreign])
  assert.is(status, 1)
  assert.match(stderr, `${late.data} belongs to another mesh than the ticket; choose another --data`)
  await late.start()
  await mesh.settled()
})

test('an AP that lost power before any member answered comes in by the addresses of its ticket', async () => {
  const ap = other.aps[0]!
  const one = await other.ticket(ap)
  await ap.stop('SIGKILL')
  const early = await other.add('early', { join: one })
  await early.stop('SIGKILL')
  await ap.start()
  await early.start()
  await eventually('it to be in', async () => (await early.status()).state === 'running')
})

test('a person who is no admin can forget and drain on no AP', async () => {
  const asAlice = ['--key', 'alice']
  for (const [ap, args, why] of [
    ['plain', ['forget', 'founder', ...asAlice], /is no admin and can sign no forget record; [^\n]+ --key [^\n]+\n$/],
    ['founder', ['drain', ...asAlice], /is no admin and can sign no drain record; [^\n]+ --key [^\n]+\n$/],
  ] as const) {
    const { status, stdout, stderr } = await named(ap).cli(...args)
    assert.equal([status, stdout], [1, ''])
    assert.match(stderr, why)
  }
  assert.is((await named('founder').status()).members, 4)
})

test('who invites is a person, on any AP, and one whose key is no admin’s cannot', async () => {
  const { status, stdout, stderr } = await named('plain').cli('invite', '--key', 'alice')
  assert.equal([status, stdout], [1, ''])
  assert.match(stderr, /^dropmesh: key \w{64} is no admin and can sign no grant record; [^\n]+\n$/)
  assert.match(await mesh.invite(named('plain')), /^dropmesh1/)
})

test('a ticket of two uses lets in two, with the labels that it fixes, by a variable or config.yaml as well', async () => {
  const [plain, term] = [named('plain'), '--ttl=1h']
  const several = await mesh.invite(plain, '--uses', '2', '--label', 'site=school', term)
  await mkdir(join(mesh.dir, 'by-file'), { recursive: true })
  await writeFile(join(mesh.dir, 'by-file', 'config.yaml'), `join: ${several}\n`)
  const labels = ['site=bank', 'desk=4']
  const added = [
    await mesh.add('by-variable', { ...(await anchored()), join: null, env: { DROPMESH_JOIN: several }, labels }),
    await mesh.add('by-file', { ...(await anchored()), join: null }),
  ]
  for (const ap of added) await eventually('it to be in', async () => (await ap.status()).state === 'running')
  await refused('third', several, 'the ticket is used up')
  await mesh.settled()
  const row = (await plain.aps()).find(({ name }) => name === 'by-variable')!
  assert.equal(row.labels, { site: 'school', desk: '4' })
  const invites = await named('founder').json<InviteRow[]>('invites')
  const { uses, left, state, aps } = invites.find((one) => one.uses === 2)!
  assert.equal(
    { uses, left, state, aps: aps.sort() },
    { uses: 2, left: 0, state: 'used-up', aps: ['by-file', 'by-variable'] },
  )
  await Promise.all(added.map(leaves))
})

interface Ticket extends InviteRow {
  kind: string
  may: string
  letIn: { id: string; name: string; member: boolean; why: string | null }[]
}

test('inspect says of a ticket what it may, who issued it and whom it let in, and status which still let in', async () => {
  const [founder, plain] = [named('founder'), named('plain')]
  await mesh.ticket(founder) // good for ever
  await mesh.settled()
  const before = (await plain.status()).tickets
  const text = await mesh.invite(founder, '--uses', '3', '--label', 'site=school', '--ttl', '12h')
  const { subject, signer } = open(readTicket(text).grant, meshIdOf(readTicket(text).meshKey))
  const short = hex(subject).slice(0, 12)
  const look = () => plain.json<Ticket>('inspect', short)
  await mesh.settled()
  const fresh = await look()
  assert.equal([fresh.kind, fresh.ticket, fresh.by, fresh.role], ['ticket', hex(subject), hex(signer), 'ap'])
  assert.equal([fresh.state, fresh.uses, fresh.left, fresh.letIn], ['good', 3, 3, []])
  assert.is(fresh.may, `let in 3 more APs, labelled site=school, until ${fresh.expires}`)
  assert.equal(fresh, await plain.json<Ticket>('inspect', hex(subject)))

  assert.equal((await plain.status()).tickets, { count: before.count + 1, left: before.left + 3, until: null })
  const line = `${before.count + 1} tickets let in ${before.left + 3} more APs, for ever: see "dropmesh invites"`
  assert.match((await plain.cli('status')).stdout, `\nTickets    ${line}\n`)

  const guest = await mesh.add('guest', { join: text })
  await eventually('it to be in', async () => (await guest.status()).state === 'running')
  await mesh.settled()
  const used = await look()
  assert.equal(
    [used.left, used.letIn.map(({ name, id, member }) => [name, id, member])],
    [2, [['guest', guest.id, true]]],
  )
  await leaves(guest)
  await mesh.settled()
  const [gone] = (await look()).letIn
  assert.equal([gone!.id, gone!.member, gone!.why], [guest.id, false, 'was forgotten by an admin'])
  assert.is((await founder.cli('revoke', short)).status, 0)
  await mesh.settled()
  const over = await look()
  assert.equal([over.state, over.may], ['revoked', 'let in nobody any more: it was revoked'])
  assert.equal((await plain.status()).tickets, before)
})

test('a ticket that was revoked lets nobody in, and who it let in stays', async () => {
  const [founder, plain] = [named('founder'), named('plain')]
  const several = await mesh.ticket(founder, { uses: 9 })
  const { subject } = open(readTicket(several).grant, meshIdOf(readTicket(several).meshKey))
  const inTime = await mesh.add('in-time', { join: several })
  await eventually('it to be in', async () => (await inTime.status()).state === 'running')
  const revoked = await plain.cli('revoke', hex(subject).slice(0, 12))
  assert.is(revoked.status, 0, revoked.stderr)
  await refused('revoker', several, 'the ticket was revoked')
  await mesh.settled()
  assert.is((await inTime.status()).state, 'running')
  assert.ok((await founder.aps()).some(({ id }) => id === inTime.id))
  await leaves(inTime)
})

test('an AP that an admin forgets is no member anywhere, says so, hands its chutes over, and returns with a new ticket', async () => {
  const id = (await mesh.running('job'))[0]!.ap
  const victim = mesh.aps.find((ap) => ap.id === id)!
  const members = mesh.aps.filter((ap) => ap.isRunning && ap !== victim)
  assert.is((await named('admin').cli('forget', victim.name)).status, 0)
  await eventually('the AP to be no member anywhere', async () =>
    (await Promise.all(members.map((ap) => ap.aps()))).every((rows) => !rows.some((row) => row.id === id)),
  )
  const warning = await eventually('the AP to know', async () => {
    const { state, warnings } = await victim.status()
    return state === 'joining' && warnings.find((text) => text.includes('forgotten'))
  })
  assert.is(warning, 'cannot join the mesh: this AP was forgotten by an admin; it needs a new ticket')
  const after = await eventually('the chute to run elsewhere, and there alone', async () => {
    const found = await mesh.containers('job')
    return found.length === 1 && found[0]!.running && found[0]!.ap !== id && found[0]
  })
  assert.ok(members.some((ap) => ap.id === after.ap))

  // Its old ticket is no way back.
  await victim.stop('SIGKILL')
  await victim.start()
  await eventually('it to be refused', async () =>
    (await victim.status()).warnings.some((text) =>
      text.endsWith('this AP was forgotten by an admin; it needs a new ticket'),
    ),
  )
  await victim.stop('SIGKILL')
  await victim.start(['--join', await mesh.ticket(named('admin'))])
  await eventually('the AP to be back', async () => (await victim.status()).state === 'running')
  await mesh.settled()
  assert.is((await named('founder').status()).members, 4)
})

const isInvited = ({ name }: TestAp): boolean => ['admin', 'plain'].includes(name)

test('APs that all lost power find each other again, without tickets and without multicast', async () => {
  const { records } = (await named('founder').status()).ledger
  const aps = mesh.aps.filter(({ isRunning }) => isRunning)
  await Promise.all(aps.map((ap) => ap.stop('SIGKILL')))
  // At first only some that were invited by one that is not there.
  const [early, late] = [aps.filter(isInvited), aps.filter((ap) => !isInvited(ap))]
  for (const some of [early, late]) {
    await Promise.all(some.map((ap) => ap.start()))
    await mesh.settled()
  }
  // More are no fault: one that is slow to come back may have been accused meanwhile.
  assert.ok((await named('founder').status()).ledger.records >= records)
})

test('an AP that was forgotten while it was down hears of it when it returns', async () => {
  const late = named('late')
  await late.stop('SIGKILL')
  assert.is((await named('founder').cli('forget', 'late')).status, 0)
  await late.start()
  await eventually('the AP to know', async () => {
    const { state, warnings } = await late.status()
    return state === 'joining' && warnings.some((text) => text.includes('this AP was forgotten'))
  })
})

test('of two APs that one ticket let in on two sides the later one is put out, says why, and stops what it runs', async () => {
  const [founder, plain] = [named('founder'), named('plain')]
  for (const ap of mesh.aps) if (ap !== founder && ap !== plain) await ap.stop('SIGKILL')
  const one = await mesh.ticket(founder)
  await mesh.settled()
  const isIn = (ap: TestAp) => eventually(`${ap.name} to be in`, async () => (await ap.status()).state === 'running')
  await plain.stop('SIGKILL')
  const early = await mesh.add('early', { ...(await anchored()), join: one })
  await isIn(early)
  await Promise.all([founder.stop('SIGKILL'), early.stop('SIGKILL')])
  await plain.start()
  const late = await mesh.add('late-side', { ...(await anchored()), join: one, labels: ['only=late'] })
  await isIn(late)
  await eventually('it to have its engine', async () => (await late.status()).docker !== null)
  await mesh.publish(late, 'lonely', {}, ['--on', 'only=late'])
  assert.is((await mesh.running('lonely'))[0]!.ap, late.id)

  await Promise.all([founder.start(), early.start()])
  const why = 'came in by a ticket that had let in as many as it may before, on another side of a partition'
  await eventually('it to know', async () => {
    const { state, warnings } = await late.status()
    return state === 'joining' && warnings.includes(`cannot join the mesh: this AP ${why}; it needs a new ticket`)
  })
  for (const ap of [founder, plain, early]) {
    await eventually(`${ap.name} to have one of them`, async () => {
      const ids = (await ap.aps()).map(({ id }) => id)
      return ids.includes(early.id) && !ids.includes(late.id)
    })
  }
  await eventually('what it ran to stop', async () => (await mesh.containers('lonely')).length === 0)
  const told = (await plain.events()).findLast(({ kind }) => kind === 'forgotten')
  assert.equal([told?.ap, told?.reason], [late.id, why])
})

test.run()
