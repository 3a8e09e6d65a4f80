import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { belong } from '../../node/belonging.js'
import { NodeClock } from '../../node/clock.js'
import { loadConfig } from '../../node/config.js'
import { hex } from '../../protocols/bytes.js'
import { apSigner, personSigner } from '../../protocols/keys.js'
import { writeTicket } from '../../protocols/ticket.js'
import { scratch } from '../support/scratch.js'
import { Realm, refusalOf, seed } from './realm.js'

const signer = apSigner(seed())

/** A ticket of a mesh, and its grant. */
function invitation(realm = new Realm()) {
  const own = seed()
  const body = { role: 'ap', uses: 1, expires: 0 }
  const grant = realm.sign(realm.owner, 'grant', personSigner(own).publicKey, body).bytes
  return { grant, ticket: writeTicket({ meshKey: realm.owner.publicKey, seed: own, grant, addresses: [] }) }
}

async function begin(data: string, join?: string) {
  return belong(`${data}/keys`, signer, new NodeClock(), await loadConfig(data, { join }, {}))
}

test('an AP without a ticket founds a mesh once, and is in it ever after', async () => {
  const data = scratch('belonging')
  const founded = await begin(data)
  assert.is(founded.admission, undefined)
  assert.equal(await begin(data), founded)
  assert.not.equal(await begin(scratch('belonging')), founded)
})

test('an AP with a ticket keeps what lets it in, and shows the same the next time', async () => {
  const [data, realm] = [scratch('belonging'), new Realm()]
  const { ticket, grant } = invitation(realm)
  const belonging = await begin(data, ticket)
  assert.is(belonging.meshKey, hex(realm.owner.publicKey))
  assert.is(belonging.admission?.grant, hex(grant))
  assert.equal(await begin(data), belonging)
  assert.equal(await begin(data, ticket), belonging)
})

test('an AP without a ticket is in the mesh that lets it in, and asks none once it is in one', async () => {
  const [data, realm] = [scratch('belonging'), new Realm()]
  const config = await loadConfig(data, {}, {})
  const { ticket, grant } = realm.invite()
  const papers = { grant, member: realm.member(signer, 'asker', ticket) }
  const addresses = ['/ip4/10.0.0.1/tcp/4010/p2p/x']
  const welcome = async () => ({ meshKey: realm.owner.publicKey, papers, addresses })
  const belonging = await belong(`${data}/keys`, signer, new NodeClock(), config, welcome)
  assert.equal([belonging.meshKey, belonging.addresses], [hex(realm.owner.publicKey), addresses])
  const never = async () => assert.unreachable('it asked') as undefined
  assert.equal(await belong(`${data}/keys`, signer, new NodeClock(), config, never), belonging)
  const known = await loadConfig(scratch('belonging'), { join: invitation().ticket }, {})
  await belong(`${known.data}/keys`, signer, new NodeClock(), known, never)
})

test('a ticket of another mesh is refused, and the AP stays in its own', async () => {
  const data = scratch('belonging')
  const founded = await begin(data)
  await refusalOf(begin(data, invitation().ticket), 'other-mesh')
  assert.equal(await begin(data), founded)
})

test('a damaged file says which one it is and what to do, and is not replaced', async () => {
  for (const content of ['', 'x', '{}', '{"meshKey":"1"}', 'null', '\0\0\0']) {
    const data = scratch('belonging')
    const file = join(data, 'mesh')
    writeFileSync(file, content)
    const { message } = await refusalOf(begin(data), 'data-damaged')
    assert.match(message, `${file} names no mesh; restore it`)
    assert.is(readFileSync(file, 'utf8'), content)
  }
})

test.run()
