// Keys, records and views for the tests of protocols/: quick to make, and the same in every run.
import * as assert from 'uvu/assert'
import { apId, concat, sha256, utf8 } from '../../protocols/bytes.js'
import { chuteSubject } from '../../protocols/chute.js'
import type { Clock } from '../../protocols/clock.js'
import { encode } from '../../protocols/codec.js'
import type { ChuteSpec } from '../../protocols/deployment.js'
import { type SignedRecord, seal } from '../../protocols/envelope.js'
import { MeshError } from '../../protocols/error.js'
import { apSigner, type Signer } from '../../protocols/keys.js'
import { type Body, checkKind, type Kind, type RecordOf } from '../../protocols/kinds.js'
import { Ledger } from '../../protocols/ledger.js'
import { type Member, type Membership, meshIdOf } from '../../protocols/membership.js'

export const seedOf = (n: number): Uint8Array => sha256(utf8(`test key ${n}`))

/** 32 bytes that stand for a public key where nothing is signed. */
export const keyOf = (n: number): Uint8Array => sha256(utf8(`test public key ${n}`))

const signers = new Map<number, Signer>()

export function signer(n: number): Signer {
  const made = signers.get(n) ?? apSigner(seedOf(n))
  signers.set(n, made)
  return made
}

export const OWNER = signer(0)
export const MESH = meshIdOf(OWNER.publicKey)

/** Where nothing else is said, a moment in 2023. */
export const NOW = 1_700_000_000_000

/** A signed and checked record. */
export function record<K extends Kind>(
  by: Signer,
  kind: K,
  subject: Uint8Array,
  clock: Clock,
  body: Body<K>,
): RecordOf<K> {
  const sealed = seal(by, MESH, clock, kind, subject, body)
  checkKind(sealed)
  return sealed as RecordOf<K>
}

/** A record as views see it, which nobody signed: for what never looks at signatures. */
export function unsigned<K extends Kind>(
  by: Uint8Array,
  kind: K,
  subject: Uint8Array,
  clock: Clock,
  body: Body<K>,
): RecordOf<K> {
  const hash = sha256(encode([kind, by, subject, clock, body]))
  return { bytes: new Uint8Array(), hash, format: 1, kind, mesh: MESH, signer: by, clock, subject, body }
}

export function ledgerOf(records: Iterable<SignedRecord>): Ledger {
  const ledger = new Ledger()
  for (const one of records) ledger.merge(one)
  return ledger
}

/** The MeshError that `run` throws; fails where it throws nothing, or anything else. */
export function refusalOf(run: () => unknown): MeshError {
  let returned: unknown
  try {
    returned = run()
  } catch (error) {
    if (error instanceof MeshError) return error
    throw error
  }
  assert.unreachable(`not refused: ${String(returned)}`)
  throw new Error()
}

export const refused = (code: string, run: () => unknown): void => assert.is(refusalOf(run).code, code)

export function specOf(changes: Partial<ChuteSpec> = {}): ChuteSpec {
  return { services: [serviceOf()], volumes: [], replicas: 1, constraints: [], ...changes }
}

export function serviceOf(changes: Partial<ChuteSpec['services'][number]> = {}): ChuteSpec['services'][number] {
  return {
    name: 'web',
    images: [{ config: new Uint8Array(32).fill(7), platform: 'linux/amd64' }],
    environment: {},
    ports: [],
    mounts: [],
    tmpfs: [],
    stopGrace: 10_000,
    limits: { cpu: 100, memory: 64 * 1024 ** 2, pids: 64 },
    ...changes,
  }
}

/** A creation id of `ms`, with `n` in place of its random part. */
export const creationOf = (ms: number, n = 0): Uint8Array => {
  const creation = new Uint8Array(16)
  const view = new DataView(creation.buffer)
  view.setBigUint64(0, BigInt(ms) << 16n)
  view.setUint32(12, n)
  return creation
}

export const deployment = (by: Signer, name: string, clock: Clock, changes: Partial<Body<'deployment'>> = {}) =>
  record(by, 'deployment', chuteSubject(by.publicKey, name), clock, {
    creation: creationOf(1000),
    revision: 1,
    spec: specOf(),
    ...changes,
  })

export function memberOf(n: number, changes: Partial<Member> = {}): Member {
  const key = keyOf(n)
  return {
    id: apId(key),
    key,
    name: `ap${n}`,
    labels: {},
    role: 'ap',
    since: [n, 0],
    ticket: keyOf(0),
    draining: false,
    ...changes,
  }
}

/** A payload with a signature that fits it, whatever it says. `kind` and `mesh` are those the signature is for. */
export function sealRaw(by: Signer, kind: string, mesh: Uint8Array, payload: Uint8Array): Uint8Array {
  return encode([payload, by.sign(concat(utf8(`dropmesh record 1 ${kind}\0`), mesh, payload))])
}

/** An authority by which everyone may everything: for what is not about that. */
export const ANYONE = { counts: () => true, judge: () => [], era: () => 0 }

/** A membership of nobody: for what is not about that. */
export const NO_MEMBERS: Membership = {
  members: new Map(),
  forgotten: new Map(),
  tickets: new Map(),
  isAdmin: () => false,
  wasByAdmin: () => false,
}
