// What nobody may have run starts no container on any AP, whoever hands it in and however, while what may run does. Real nodes, and
// a real engine.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { hex } from '../../protocols/bytes.js'
import { chuteSubject, newCreation } from '../../protocols/chute.js'
import type { ChuteSpec } from '../../protocols/deployment.js'
import { seal } from '../../protocols/envelope.js'
import { personSigner, type Signer } from '../../protocols/keys.js'
import { isKind } from '../../protocols/kinds.js'
import { failureOf, seed } from '../node/realm.js'
import { ensureBusybox } from '../support/busybox.js'
import { type TestAp, TestMesh } from '../support/mesh.js'
import { Villain } from '../support/villain.js'

const mesh = new TestMesh()
const villains: Villain[] = []
test.after(async () => {
  await Promise.all(villains.map(({ host }) => host.stop()))
  await mesh.close()
})

async function villain(target: TestAp): Promise<Villain> {
  const one = await Villain.appear(target, await mesh.ticket(target))
  villains.push(one)
  return one
}

test('what a stranger, a member or a publisher beyond its grant sends starts no container; what it may does, and all once it may', async () => {
  const [[one], _] = await Promise.all([mesh.start(2), ensureBusybox(mesh.docker)])
  const stranger = await villain(one!)
  const member = await villain(one!)
  await member.join(await mesh.ticket(one!), 'member')
  const publisher = personSigner(seed())
  const grant = (key: Signer, ...terms: string[]) => one!.json('grant', hex(key.publicKey), ...terms)
  await Promise.all([grant(publisher, '--chutes', 'web-*', '--cpus', '0.5'), mesh.publish(one!, 'sample')])
  const [sample] = (await member.ledger()).records.filter((record) => isKind(record, 'deployment'))
  const { spec } = (sample as unknown as { body: { spec: ChuteSpec } }).body
  const changed = (service: Partial<ChuteSpec['services'][number]>): ChuteSpec => ({
    ...spec,
    services: [{ ...spec.services[0]!, ...service }],
  })
  const creation = newCreation(Date.now(), new Uint8Array(8))
  const deployment = (by: Signer, name: string, what = spec) =>
    seal(by, member.realm, [Date.now(), 0], 'deployment', chuteSubject(by.publicKey, name), {
      ...{ creation, revision: 1, spec: what },
    }).bytes

  const { limits } = spec.services[0]!
  const nobody = personSigner(seed())
  const refused = {
    'of-nobody': deployment(nobody, 'of-nobody'),
    'of-stranger': deployment(stranger.signer, 'of-stranger'),
    'of-member': deployment(member.signer, 'of-member'),
    'other-name': deployment(publisher, 'other-name'),
    'web-wide': deployment(publisher, 'web-wide', changed({ limits: { ...limits, cpu: 600 } })),
    'web-strong': deployment(publisher, 'web-strong', changed({ capabilities: ['NET_RAW'] })),
  }
  await failureOf(stranger.hand(Object.values(refused)))
  for (const bytes of Object.values(refused)) {
    await stranger.gossip(bytes)
    await member.gossip(bytes)
    await failureOf(one!.client.post('/v1/records', bytes))
  }
  await member.hand([...Object.values(refused), deployment(publisher, 'web-fair')])
  await mesh.running('web-fair')
  await mesh.publish(one!, 'honest')
  for (const name of Object.keys(refused)) assert.equal(await mesh.containers(name), [], name)

  // It was for want of a grant, and of nothing else.
  const keys = [nobody, stranger.signer, member.signer, publisher]
  await Promise.all(keys.map((key) => grant(key, '--right', 'cap:NET_RAW')))
  await member.hand(Object.values(refused))
  await Promise.all(Object.keys(refused).map((name) => mesh.running(name)))
})

test.run()
