import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Beacons, type BeaconsOptions } from '../../node/beacons.js'
import type { BootCounter } from '../../node/identity.js'
import type { LedgerStore } from '../../node/store/ledger-store.js'
import { apSigner } from '../../protocols/keys.js'
import type { RecordOf } from '../../protocols/kinds.js'
import { unsigned } from '../protocols/support.js'
import { until } from '../support/until.js'
import { seed } from './realm.js'

test('a node whose identity is in use elsewhere goes on where the disk is full, and says each time what failed', async () => {
  const signer = apSigner(seed())
  const failures: string[] = []
  const beacons = new Beacons({
    signer,
    ledgerStore: {} as LedgerStore,
    boots: { last: 1, raise: () => Promise.reject(new Error('no space left')) } as unknown as BootCounter,
    onTwin: () => {},
    onFailure: (_, what) => failures.push(what),
  } as Partial<BeaconsOptions> as BeaconsOptions)
  const ofTwin = (boot: number) =>
    unsigned(signer.publicKey, 'beacon', signer.publicKey, [0, 0], { boot, sequence: 1 } as RecordOf<'beacon'>['body'])
  for (const boot of [2, 3, 4]) beacons.watchForTwin(ofTwin(boot))
  await until('each failure', () => failures.length === 3)
  assert.equal(new Set(failures), new Set(['the boot counter could not be written']))
  assert.equal(beacons.lastSign, { boot: 1, sequence: 0 })
})

test.run()
