// A record of each kind that is as it should be.
import { chuteSubject, instanceSubject, secretSubject } from '../../protocols/chute.js'
import type { Clock } from '../../protocols/clock.js'
import type { Signer } from '../../protocols/keys.js'
import { admissionBytes, type Kind } from '../../protocols/kinds.js'
import { writePrefix } from '../../protocols/neighbourhood.js'
import { creationOf, MESH, NOW, OWNER, signer, specOf } from './support.js'

export const [AP, OTHER, PUBLISHER, TICKET] = [signer(1), signer(2), signer(3), signer(4)]
export const CLOCK: Clock = [NOW, 0]
const KEY = OTHER.publicKey
const CHUTE = chuteSubject(PUBLISHER.publicKey, 'hello')
export const INSTANCE = instanceSubject(new Uint8Array(20), 0)
const CREATION = creationOf(NOW - 1000)

export const admission = (at: Clock, by: Signer = TICKET, ap = AP.publicKey, mesh = MESH) => ({
  ticket: TICKET.publicKey,
  at,
  signature: by.sign(admissionBytes(mesh, ap, at)),
})

export interface Sample {
  by: Signer
  subject: Uint8Array
  body: Record<string, unknown>
}

export const GOOD: { [K in Kind]: Sample } = {
  member: {
    by: AP,
    subject: AP.publicKey,
    body: { name: 'ap-1', labels: { room: 'lab' }, admission: admission(CLOCK) },
  },
  grant: { by: OWNER, subject: TICKET.publicKey, body: { role: 'ap', uses: 1, expires: 0 } },
  revocation: { by: OWNER, subject: KEY, body: { keep: new Uint8Array(64) } },
  forget: { by: OWNER, subject: KEY, body: {} },
  deployment: { by: PUBLISHER, subject: CHUTE, body: { creation: CREATION, revision: 1, spec: specOf() } },
  wanted: { by: PUBLISHER, subject: CHUTE, body: { creation: CREATION, desired: 'stopped', restarts: 0 } },
  removal: { by: PUBLISHER, subject: CHUTE, body: { creation: CREATION } },
  secret: {
    by: PUBLISHER,
    subject: secretSubject(PUBLISHER.publicKey, 'hello', 'token'),
    body: {
      creation: CREATION,
      sealed: {
        value: new Uint8Array(20),
        ephemeral: KEY,
        keys: [{ ap: AP.publicKey, box: new Uint8Array(48) }],
      },
    },
  },
  share: {
    by: AP,
    subject: new Uint8Array(52),
    body: { secrets: new Uint8Array(64), ephemeral: KEY, box: new Uint8Array(80) },
  },
  claim: { by: AP, subject: INSTANCE, body: { epoch: 1, cause: 'new' } },
  voters: { by: AP, subject: KEY.slice(0, 20), body: { generation: 1, voters: [KEY], forced: true } },
  statement: {
    by: AP,
    subject: KEY,
    body: { boot: 1, sequence: 2, silence: 1800, probes: 1, heard: true, watchers: new Uint8Array(16) },
  },
  goodbye: { by: AP, subject: AP.publicKey, body: { boot: 1 } },
  alive: { by: AP, subject: AP.publicKey, body: { boot: 1, sequence: 3, addresses: ['/ip4/10.0.0.1/tcp/4010'] } },
  origin: { by: AP, subject: KEY.slice(0, 20), body: {} },
  settings: { by: AP, subject: writePrefix('01'), body: { split: true } },
  drain: { by: AP, subject: AP.publicKey, body: { draining: true } },
  beacon: {
    by: AP,
    subject: AP.publicKey,
    body: {
      boot: 1,
      sequence: 2,
      version: '0.1.0',
      addresses: ['/ip4/10.0.0.1/tcp/4010'],
      engine: { version: '27', platform: 'linux/amd64', cpu: 4000, memory: 2 ** 31 },
      instances: [{ instance: INSTANCE, epoch: 1, revision: 1, state: 'running', since: NOW, ports: [] }],
      cannot: [{ instance: INSTANCE, revision: 1, reason: 'no room', until: NOW }],
      images: [new Uint8Array(32)],
      packages: [new Uint8Array(32)],
      ledger: new Uint8Array(16),
    },
  },
}
