// Two APs that cannot hear each other, and what they say once they do. Real sockets and LevelDB, no containers.

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pino } from 'pino'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { describeEvent } from '../../cli/describe.js'
import { Ap } from '../../node/ap.js'
import { history, next } from '../../node/api/queries.js'
import { loadConfig } from '../../node/config.js'
import type { MeshEvent } from '../../node/events.js'
import { hex, unhex } from '../../protocols/bytes.js'
import { chuteSubject, newCreation } from '../../protocols/chute.js'
import { seal } from '../../protocols/envelope.js'
import { apSigner, type Signer } from '../../protocols/keys.js'
import type { Body, Kind } from '../../protocols/kinds.js'
import { writeTicket } from '../../protocols/ticket.js'
import { specOf } from '../protocols/support.js'
import { freePort, scratch } from '../support/scratch.js'
import { until } from '../support/until.js'
import { seed } from './realm.js'

const dir = scratch('conflict')
const log = pino({ level: 'silent' })
const [alice, bob] = [apSigner(seed()), apSigner(seed())]

const ports = { left: await freePort(), right: await freePort() }
type Side = keyof typeof ports

async function start(name: Side, ticket?: string): Promise<Ap> {
  const listen = [`/ip4/127.0.0.1/tcp/${ports[name]}`]
  const flags = { name, listen, 'no-mdns': true, 'docker-host': 'unix:///no/engine', join: ticket }
  return Ap.start(await loadConfig(join(dir, name), flags, {}), log, async () => alice.publicKey)
}

/** Signs and submits what a person says of chute `web`, from what this AP knows. */
async function say<K extends Kind>(ap: Ap, by: Signer, kind: K, bodyOf: (known: ReturnType<typeof next>) => Body<K>) {
  const known = next(ap, by.publicKey, 'web')
  const subject = chuteSubject(by.publicKey, 'web')
  const { bytes } = seal(by, ap.ledgerStore.mesh, known.clock, kind, subject, bodyOf(known))
  return (await ap.submit(bytes)).record
}

const publish = (ap: Ap, replicas: number, by = alice) =>
  say(ap, by, 'deployment', ({ creation, revision, clock }) => ({
    creation: creation === null ? newCreation(clock[0], new Uint8Array(8)) : unhex(creation),
    revision,
    spec: specOf({ replicas }),
  }))

const grant = ({ publicKey }: Signer) => {
  const { mesh, clock } = left.ledgerStore
  return left.submit(seal(alice, mesh, clock.next(), 'grant', publicKey, { role: 'publisher', expires: 0 }).bytes)
}

const want = (ap: Ap, desired: 'running' | 'stopped') =>
  say(ap, alice, 'wanted', ({ creation, restarts }) => ({
    creation: unhex(creation!),
    desired,
    restarts,
  }))

const digestOf = (ap: Ap): string => hex(ap.ledgerStore.ledger.digest())
const agree = (a: Ap, b: Ap) => until('equal ledgers', () => digestOf(a) === digestOf(b), { deadlineMs: 20_000 })
const told = async (ap: Ap, kind: string): Promise<MeshEvent[]> =>
  (await ap.events.past()).filter((e) => e.kind === kind)

let left = await start('left')

function invite(): string {
  const { mesh, clock } = left.ledgerStore
  const own = seed()
  const body = { role: 'ap', uses: 1, expires: 0 }
  const { bytes } = seal(alice, mesh, clock.next(), 'grant', apSigner(own).publicKey, body)
  return writeTicket({ meshKey: left.meshKey, seed: own, grant: bytes, addresses: left.entrances() })
}

let right = await start('right', invite())
test.after(async () => {
  await Promise.all([left.halt(), right.halt()])
})

test('what was published on two sides is settled by the later clock, and each AP tells it once', async () => {
  await until('both to be members', () => right.state === 'running' && left.outlook.membership.members.size === 2)
  await publish(left, 1)
  await agree(left, right)
  const remembers = async ({ config }: Ap) =>
    Object.keys(JSON.parse(await readFile(join(config.data, 'peers'), 'utf8'))).length > 0
  await until('each to know where the other is', async () => (await remembers(left)) && (await remembers(right)))

  await right.halt()
  const early = await publish(left, 2)
  await want(left, 'stopped')
  await left.halt()
  right = await start('right')
  const late = await publish(right, 3)
  await want(right, 'running')
  left = await start('left')
  await agree(left, right)

  for (const ap of [left, right]) {
    const [conflict, ...more] = await until('the conflict to be told', async () => {
      const events = await told(ap, 'conflict')
      return events.length > 0 && events
    })
    assert.equal(more, [])
    const { chute, publisher, revision, winner, loser } = conflict!
    assert.equal({ chute, publisher, revision }, { chute: 'web', publisher: hex(alice.publicKey), revision: 2 })
    const about = ({ clock, hash }: typeof early) => ({
      revision: 2,
      hash: hex(hash),
      signed: new Date(clock[0]).toISOString(),
    })
    assert.equal({ winner, loser }, { winner: about(late), loser: about(early) })
    assert.match(
      describeEvent(conflict!),
      /chute web was published on two sides: revision 2 of .* counts, revision 2 of/,
    )

    const rows = history(ap, 'web')
    assert.equal(
      rows.map(({ hash, state, lostTo }) => [hash, state, lostTo]),
      [
        [hex(late.hash), 'in-force', null],
        [hex(early.hash), 'lost', hex(late.hash)],
        [rows[2]!.hash, 'superseded', null],
      ],
    )
    assert.equal([rows[0]!.before, rows[1]!.before], [rows[2]!.hash, rows[2]!.hash])
    await until('what counts to be wanted', () => {
      const [chuteNow] = ap.outlook.chutes
      return chuteNow!.spec.replicas === 3 && chuteNow!.desired === 'running'
    })
  }
  const wanted = (await told(right, 'wanted')).map(({ desired }) => desired)
  assert.equal(wanted, ['running'], 'what the other side asked for in vain is no news')
})

test('a restart tells nothing again', async () => {
  await Promise.all([left.halt(), right.halt()])
  ;[left, right] = await Promise.all([start('left'), start('right')])
  await agree(left, right)
  for (const ap of [left, right]) assert.is((await told(ap, 'conflict')).length, 1)
})

test('two publishers of one name have a chute each, and each AP tells once how to name them', async () => {
  await grant(bob)
  await publish(left, 1, bob)
  await publish(left, 2, bob)
  await agree(left, right)
  for (const ap of [left, right]) {
    await until('revision 2 of both', () => ap.outlook.chutes.filter(({ revision }) => revision === 2).length === 2)
    const [shared, ...more] = await until('it to be told', async () => {
      const events = await told(ap, 'name-shared')
      return events.length > 0 && events
    })
    assert.equal(more, [])
    assert.is((await told(ap, 'conflict')).length, 1)
    const names = [alice, bob].map((by) => `${hex(by.publicKey).slice(0, 12)}/web`)
    for (const name of names) {
      assert.match(describeEvent(shared!), name)
      assert.is(history(ap, name)[0]!.revision, 2)
    }
    assert.throws(() => history(ap, 'web'), /several publishers have a chute "web"; say which one/)
  }
})

test('a record from far ahead keeps nobody from publishing under its name today', async () => {
  const carol = apSigner(seed())
  await grant(carol)
  const ahead = Date.now() + 3_600_000
  const body = { creation: newCreation(ahead, new Uint8Array(8)), revision: 7, spec: specOf({ replicas: 9 }) }
  const subject = chuteSubject(carol.publicKey, 'web')
  await left.ledgerStore.accept([seal(carol, left.ledgerStore.mesh, [ahead, 0], 'deployment', subject, body).bytes])
  await publish(left, 5, carol)
  await until('what is published today to count', () =>
    left.outlook.chutes.some(({ revision, spec }) => revision === 1 && spec.replicas === 5),
  )
})

test.run()
