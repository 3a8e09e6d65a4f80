// Whom an AP asks for a package. Connections, disks and the exchange of blobs are real, how the mesh looks is made up.
import { Readable } from 'node:stream'
import { pino } from 'pino'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { digestOf } from '../../node/packages/oci.js'
import { Packages, type PackagesOptions } from '../../node/packages/packages.js'
import { Provision, type ProvisionOptions } from '../../node/provision.js'
import { apKey } from '../../protocols/bytes.js'
import type { ChuteSpec } from '../../protocols/deployment.js'
import { scratch } from '../support/scratch.js'
import { type Peer, Peers } from './mesh/support.js'

const peers = new Peers()
const log = pino({ level: 'silent' })
const closing: { close(): Promise<void> }[] = []
test.after(async () => {
  for (const each of closing) await each.close()
  await peers.stop()
})

async function packagesOf({ id: self, network }: Peer): Promise<Packages> {
  const packages = await Packages.open({
    ...{ self, network, log, dir: scratch('packages'), maxBytes: 2 ** 33, rate: undefined, port: 0 },
    ...{ platform: () => undefined, holders: () => [], isMember: () => true, now: () => performance.now() },
    ...{ turn: async () => {}, admit: async () => {}, onFailure: () => {}, onChange: () => {}, onEvent: () => {} },
  } satisfies PackagesOptions)
  closing.push(packages)
  await packages.start()
  return packages
}

test('a package comes from who published it, or any that is connected, where the only AP that says it has it refuses', async () => {
  for (const isOriginKnown of [true, false]) {
    const [from, refusing, to] = (await peers.members(3)) as [Peer, Peer, Peer]
    for (const other of [from, refusing]) to.network.dialler.learn(other.id, other.addresses)
    const published = await packagesOf(from)
    await packagesOf(refusing) // it knows of no chute, and gives nothing
    const digest = digestOf(Buffer.from('sources'))
    await published.store.write(digest, Readable.from([Buffer.from('sources')]))
    const ref = await published.make([digest.slice('sha256:'.length)])
    const spec = { services: [], package: ref } as unknown as ChuteSpec
    published.follow({ specs: [spec], needed: new Set() })
    const candidates = new Map([
      [refusing.id, { state: 'alive', beacon: { packages: [ref.digest] } }],
      [from.id, { state: 'alive', beacon: { packages: [] } }],
    ])
    const origins = isOriginKnown ? [{ signer: apKey(from.id) }] : []
    const provision = new Provision({
      ...{ self: to.id, log, isMember: () => true, platform: () => undefined },
      ...{
        config: {
          data: scratch('provision'),
          prefetchMax: 0,
          packagesMax: 2 ** 33,
          packageRate: undefined,
          registryPort: 0,
        },
      },
      ledgerStore: { ledger: { effectiveOn: () => origins }, clock: { now: () => 0 } },
      outlook: () => ({ chutes: [{ spec }], placed: [], candidates }),
      connected: () => (isOriginKnown ? [refusing.id] : [refusing.id, from.id]),
      ...{ onChange: () => {}, onEvent: () => {} },
    } as unknown as ProvisionOptions)
    closing.push(provision)
    await provision.open(to.network)
    const descriptor = await provision.packages.descriptor(ref)
    assert.equal([...descriptor.keys()], [digest.slice('sha256:'.length)])
  }
})

test.run()
