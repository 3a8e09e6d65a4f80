// Signs what a publisher says of a chute, with a key of this user, and hands it to the local node.
import { randomBytes } from 'node:crypto'
import { unhex } from '../protocols/bytes.js'
import { chuteSubject, newCreation } from '../protocols/chute.js'
import type { Clock } from '../protocols/clock.js'
import type { ChuteSpec } from '../protocols/deployment.js'
import { seal } from '../protocols/envelope.js'
import { MeshError } from '../protocols/error.js'
import type { Signer } from '../protocols/keys.js'
import { type Body, checkKind } from '../protocols/kinds.js'
import type { Client } from './client.js'
import { listKeys, signerOf } from './keys.js'

interface Next {
  mesh: string
  clock: Clock
  creation: string | null
  lastCreation: string | null
  revision: number
  restarts: number
  desired: 'running' | 'stopped' | null
}

interface Submitted {
  hash: string
  /** How many APs have the record on disk. */
  holders: number
}

const askNext = (client: Client, publisher: string, name: string): Promise<Next> =>
  client.get('/v1/next', { publisher, name })

type ChuteKind = 'deployment' | 'wanted' | 'removal'

function submit<K extends ChuteKind>(client: Client, signer: Signer, next: Next, kind: K, name: string, body: Body<K>) {
  const record = seal(signer, unhex(next.mesh), next.clock, kind, chuteSubject(signer.publicKey, name), body)
  checkKind(record)
  return client.post<Submitted>('/v1/records', record.bytes)
}

/** Publishes a revision of a chute, or the first one of a new chute. */
export async function deploy(client: Client, signer: Signer, name: string, spec: ChuteSpec) {
  const next = await askNext(client, Buffer.from(signer.publicKey).toString('hex'), name)
  const creation =
    next.creation === null
      ? newCreation(
          next.clock[0],
          new Uint8Array(randomBytes(10)),
          next.lastCreation === null ? undefined : unhex(next.lastCreation),
        )
      : unhex(next.creation)
  const body = { creation, revision: next.revision, spec }
  return {
    revision: next.revision,
    desired: next.desired,
    ...(await submit(client, signer, next, 'deployment', name, body)),
  }
}

/** Signs a stop, start, restart or removal. `text` is a name or `publisher/name`. @throws MeshError `not-your-chute` */
export async function control(
  client: Client,
  text: string,
  key: string | undefined,
  what: 'stop' | 'start' | 'restart' | 'rm',
) {
  const { publisher, name } = await client.get<{ publisher: string; name: string }>('/v1/chute', { of: text })
  const signer = await signerFor(publisher, name, key)
  const next = await askNext(client, publisher, name)
  const creation = unhex(next.creation!)
  if (what === 'rm') return { chute: name, ...(await submit(client, signer, next, 'removal', name, { creation })) }
  const desired = what === 'stop' ? 'stopped' : 'running'
  const restarts = what === 'restart' ? next.restarts + 1 : next.restarts
  return { chute: name, ...(await submit(client, signer, next, 'wanted', name, { creation, desired, restarts })) }
}

/** The key of a chute's publisher, if it is here. @throws MeshError `not-your-chute` */
export async function signerFor(publisher: string, name: string, key: string | undefined): Promise<Signer> {
  const own = key === undefined ? (await listKeys()).find((candidate) => candidate.publisher === publisher) : undefined
  const signer = own === undefined && key === undefined ? undefined : await signerOf(key ?? own?.name)
  if (signer === undefined || Buffer.from(signer.publicKey).toString('hex') !== publisher) {
    throw new MeshError(
      'not-your-chute',
      `${name} belongs to publisher ${publisher.slice(0, 12)}, and you do not have that key here`,
    )
  }
  return signer
}
