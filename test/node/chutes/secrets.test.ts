// Where one AP puts the secrets of what it runs, on a real tmpfs: for whom they are readable, when they go, and what it refuses.
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { ContainerState, InstancePlan } from '../../../node/chutes/engine.js'
import { Files } from '../../../node/chutes/files.js'
import { Secrets } from '../../../node/chutes/secrets.js'
import type { LedgerStore } from '../../../node/store/ledger-store.js'
import { apId, concat, hex, utf8 } from '../../../protocols/bytes.js'
import { chuteKey, secretSubject } from '../../../protocols/chute.js'
import type { Chute } from '../../../protocols/desired.js'
import type { RecordOf } from '../../../protocols/kinds.js'
import type { Outlook } from '../../../protocols/outlook.js'
import { sealKeys, sealValue } from '../../../protocols/sealing.js'
import {
  creationOf,
  deployment,
  ledgerOf,
  NOW,
  record,
  refusalOf,
  seedOf,
  serviceOf,
  signer,
  specOf,
} from '../../protocols/support.js'
import { atExit } from '../../support/scratch.js'

const [ALICE, AP, OTHER] = [signer(1), signer(11), signer(12)]

function borrow(below: string): string {
  const folder = mkdtempSync(join(below, 'secrets-'))
  atExit(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}
const dir = borrow('/dev/shm')

const spec = specOf({
  services: [
    serviceOf({ secrets: [{ name: 'token', file: 'key', uid: 1000, gid: 1001, mode: 0o440 }] }),
    serviceOf({ name: 'plain' }),
  ],
})
const creation = creationOf(1000)
const sealedTo = (...aps: Uint8Array[]): RecordOf<'secret'> =>
  record(ALICE, 'secret', secretSubject(ALICE.publicKey, 'web', 'token'), [NOW, 0], {
    creation,
    sealed: sealValue(utf8('value'), aps, new Uint8Array(64).fill(1)),
  })

const KEY = chuteKey({ publisher: ALICE.publicKey, name: 'web', creation })
const INSTANCE = `${hex(KEY)}0000000000`
const PLAN = { key: INSTANCE, generation: 'aa.1.0.bb', chuteKey: hex(KEY), spec } as InstancePlan

let place = 0
/** An AP's secrets in a folder of their own, and what the AP knows. */
function secretsOf(given: RecordOf<'secret'> | undefined, shares: RecordOf<'share'>[] = [], places?: string[]) {
  const at = join(dir, String(place++))
  mkdirSync(at)
  const chute: Chute = {
    id: { publisher: ALICE.publicKey, name: 'web', creation },
    ...{ key: KEY, spec, revision: 1, desired: 'running', restarts: 0 },
    deployment: deployment(ALICE, 'web', [NOW, 0], { creation, spec }),
    secrets: [{ name: 'token', record: given, givenTo: new Set([hex(AP.publicKey)]) }],
  }
  const ledgerStore = { ledger: ledgerOf(shares), clock: { now: () => NOW } } as unknown as LedgerStore
  const outlook = () => ({ chutes: [chute] }) as unknown as Outlook
  const self = apId(AP.publicKey)
  const secrets = new Secrets({
    ...{ signer: AP, seed: seedOf(11), ledgerStore, outlook, now: () => 0 },
    log: { error: () => assert.unreachable('nothing is given to anyone') },
  })
  const make = () =>
    new Files({ self, secretOf: (chute, name) => secrets.valueOf(chute, name), places: places ?? [at] })
  return { at, make, home: join(at, 'dropmesh', self) }
}

const container = (generation: string) => [{ generation } as ContainerState]

test('a file has the owner and mode that the manifest says, below a folder that is for this user alone', () => {
  const { at, make } = secretsOf(sealedTo(AP.publicKey))
  const folder = make().place(PLAN)!
  const file = lstatSync(join(folder, 'web', 'key'))
  assert.equal([file.uid, file.gid, file.mode & 0o777], [1000, 1001, 0o440])
  assert.is(readFileSync(join(folder, 'web', 'key'), 'utf8'), 'value')
  assert.is(lstatSync(join(at, 'dropmesh')).mode & 0o777, 0o700)
  assert.equal(readdirSync(folder), ['web'])
})

test('what containers use stays, also when this node is another one than made it; what none uses goes, unless it is being made', () => {
  const { make, home } = secretsOf(sealedTo(AP.publicKey))
  make().place(PLAN)
  make().place({ ...PLAN, generation: 'aa.2.0.cc' })
  make().place({ ...PLAN, key: `${hex(KEY)}0000000001` })
  const secrets = make()
  secrets.see(new Map(), () => true)
  assert.is(readdirSync(home).length, 2)
  secrets.see(new Map([[INSTANCE, container('aa.2.0.cc')]]), () => false)
  assert.equal(readdirSync(home), [INSTANCE])
  assert.equal(readdirSync(join(home, INSTANCE)), ['aa.2.0.cc'])
  secrets.see(new Map(), () => false)
  assert.equal(readdirSync(home), [])
})

test('a secret that was never set, or that does not open, is waited for, and nothing is left of the attempt', () => {
  const unset = secretsOf(undefined)
  assert.is(
    refusalOf(() => unset.make().place(PLAN)).message,
    'waits for secret token: its publisher sets it with "dropmesh secret set web token"',
  )
  const sealed = sealedTo(OTHER.publicKey)
  const rubbish = sealKeys([{ record: sealed, key: new Uint8Array(32) }], AP.publicKey, new Uint8Array(64).fill(2))!
  const lie = record(OTHER, 'share', concat(KEY, AP.publicKey), [NOW, 0], rubbish)
  const shut = secretsOf(sealed, [lie])
  const error = refusalOf(() => shut.make().place(PLAN))
  assert.is(error.code, 'no-secret')
  assert.match(error.message, /^waits for secret token: no AP that has it/)
  assert.not(existsSync(shut.home))
})

test('nothing is written to a disk, nor into a folder that others can enter or that leads elsewhere', () => {
  const onDisk = borrow(fileURLToPath(new URL('.', import.meta.url)))
  const disk = secretsOf(sealedTo(AP.publicKey), [], [onDisk])
  const error = refusalOf(() => disk.make().place(PLAN))
  assert.is(error.code, 'no-tmpfs')
  assert.match(error.message, /is a tmpfs on this AP, and a secret is never written to a disk/)
  assert.equal(readdirSync(onDisk), [])

  const open = secretsOf(sealedTo(AP.publicKey))
  mkdirSync(join(open.at, 'dropmesh'))
  chmodSync(join(open.at, 'dropmesh'), 0o755)
  assert.match(refusalOf(() => open.make().place(PLAN)).message, /is another user's, or open to others: remove it/)

  const led = secretsOf(sealedTo(AP.publicKey))
  symlinkSync(onDisk, join(led.at, 'dropmesh'))
  assert.match(refusalOf(() => led.make().place(PLAN)).message, /is another user's, or open to others: remove it/)
  mkdirSync(join(led.home, INSTANCE), { recursive: true })
  led.make().see(new Map(), () => false)
  assert.equal(readdirSync(led.home), [INSTANCE], 'nothing is removed there either')
})

test('configs are files of their own beside the secrets, with the owner and mode that the manifest says', () => {
  const configs = [{ name: 'app', content: 'a: 1\n' }]
  const [first] = spec.services
  const file = { config: 'app', path: '/etc/app.yaml', uid: 7, mode: 0o400 }
  const withConfig = specOf({ services: [{ ...first!, configs: [file] }], configs })
  const { make } = secretsOf(sealedTo(AP.publicKey))
  const folder = make().place({ ...PLAN, spec: withConfig })!
  assert.equal(readdirSync(folder).sort(), ['web', 'web.configs'])
  assert.is(readFileSync(join(folder, 'web.configs', '0'), 'utf8'), 'a: 1\n')
  const { uid, mode } = lstatSync(join(folder, 'web.configs', '0'))
  assert.equal([uid, mode & 0o777], [7, 0o400])
  const hostile = specOf({ services: [serviceOf({ configs: [{ ...file, config: 'other' }] })], configs })
  assert.is(refusalOf(() => make().place({ ...PLAN, spec: hostile })).code, 'no-config')
})

test('a chute without secrets gets no folder', () => {
  const { make, home } = secretsOf(undefined)
  assert.is(make().place({ ...PLAN, spec: specOf() }), undefined)
  assert.not(existsSync(home))
})

test.run()
