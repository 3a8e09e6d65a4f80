// Signs what a publisher says of a chute, with a key of this user, and hands it to the local node.
import { randomBytes } from 'node:crypto'
import type { ChuteSecrets } from '../node/api/secrets.js'
import { hex, unhex } from '../protocols/bytes.js'
import { chuteSubject, newCreation, secretSubject } from '../protocols/chute.js'
import type { Clock } from '../protocols/clock.js'
import type { ChuteSpec, Exclusive } from '../protocols/deployment.js'
import { draft, type SignedRecord } from '../protocols/envelope.js'
import { MeshError } from '../protocols/error.js'
import { type Body, checkKind } from '../protocols/kinds.js'
import type { Rights } from '../protocols/policy.js'
import { creationMark } from '../protocols/voters.js'
import type { Client } from './client.js'
import { listKeys, signerOf, type UserSigner } from './keys.js'

interface Next {
  mesh: string
  clock: Clock
  creation: string | null
  lastCreation: string | null
  revision: number
  restarts: number
  desired: 'running' | 'stopped' | null
  rights: Rights
  /** Why this publisher can publish nothing by this name. */
  refusal: string | null
  /** The voters of an exclusive chute, hex, and their salt. */
  exclusive: { voters: string[]; salt: string } | null
  /** Who could vote on a new exclusive chute, hex; fewer than three where the mesh has no more. */
  candidates: string[]
}

interface Submitted {
  hash: string
  /** How many APs have the record on disk. */
  holders: number
}

const askNext = (client: Client, publisher: string, name: string): Promise<Next> =>
  client.get('/v1/next', { publisher, name })

/** The rights of who may publish by that name: for before a build, which takes long. @throws MeshError `not-granted` */
export async function rightsToPublish(client: Client, signer: UserSigner, name: string): Promise<Rights> {
  const { refusal, rights } = await askNext(client, hex(signer.publicKey), name)
  if (refusal !== null) throw new MeshError('not-granted', refusal)
  return rights
}

/** Signs with a person's key what an admin alone may say. */
export async function signAsAdmin<K extends 'grant' | 'revocation' | 'forget' | 'drain' | 'voters'>(
  client: Client,
  signer: UserSigner,
  kind: K,
  subject: Uint8Array,
  body: Body<K>,
): Promise<Submitted & { record: SignedRecord }> {
  const { mesh, clock } = await client.get<Pick<Next, 'mesh' | 'clock'>>('/v1/clock')
  const record = await sealAsUser(signer, unhex(mesh), clock, kind, subject, body)
  checkKind(record)
  return { ...(await client.post<Submitted>('/v1/records', record.bytes)), record }
}

type ChuteKind = 'deployment' | 'wanted' | 'removal'

async function submit<K extends ChuteKind>(
  client: Client,
  signer: UserSigner,
  next: Next,
  kind: K,
  name: string,
  body: Body<K>,
) {
  const subject = chuteSubject(signer.publicKey, name)
  const record = await sealAsUser(signer, unhex(next.mesh), next.clock, kind, subject, body)
  checkKind(record)
  return client.post<Submitted>('/v1/records', record.bytes)
}

/** Signs a record with a key of this user. @throws MeshError `record-too-big`, `ssh-agent` */
async function sealAsUser(
  signer: UserSigner,
  ...what: [mesh: Uint8Array, clock: Clock, kind: string, subject: Uint8Array, body: object]
): Promise<SignedRecord> {
  const { message, sign } = draft(signer.publicKey, ...what)
  return sign(await signer.sign(message))
}

/**
 * Publishes a revision of a chute, or the first one of a new chute.
 * @param isExclusive whether it is to run at most once
 * @throws MeshError `exclusive` where the chute is not what it is to be, or the mesh is too small
 */
export async function deploy(
  client: Client,
  signer: UserSigner,
  name: string,
  images: ChuteSpec,
  isExclusive: boolean,
) {
  const next = await askNext(client, hex(signer.publicKey), name)
  const exclusive = exclusiveOf(next, name, isExclusive)
  const last = next.lastCreation === null ? undefined : unhex(next.lastCreation)
  const mark = creationMark(new Uint8Array(randomBytes(8)), exclusive)
  const creation = next.creation === null ? newCreation(next.clock[0], mark, last) : unhex(next.creation)
  const spec = exclusive === undefined ? images : { ...images, exclusive }
  const body = { creation, revision: next.revision, spec }
  return {
    revision: next.revision,
    desired: next.desired,
    ...(await submit(client, signer, next, 'deployment', name, body)),
  }
}

function exclusiveOf(next: Next, name: string, isWanted: boolean): Exclusive | undefined {
  if (next.creation !== null && isWanted !== (next.exclusive !== null)) {
    throw new MeshError(
      'exclusive',
      isWanted
        ? `${name} is not exclusive and cannot become so: remove it with "dropmesh rm ${name}" and publish it anew`
        : `${name} is exclusive and stays so: publish it with --exclusive, or remove it with "dropmesh rm ${name}" first`,
    )
  }
  if (!isWanted) return undefined
  if (next.exclusive !== null) {
    return { voters: next.exclusive.voters.map(unhex), salt: unhex(next.exclusive.salt) }
  }
  if (next.candidates.length < 3) {
    throw new MeshError(
      'exclusive',
      `an exclusive chute needs 3 APs to vote on who runs it, and ${next.candidates.length} of this mesh ` +
        `${next.candidates.length === 1 ? 'is' : 'are'} alive: let more join first`,
    )
  }
  return { voters: next.candidates.map(unhex), salt: new Uint8Array(randomBytes(10)) }
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

/**
 * Signs what a secret of a chute is from now on, sealed to the APs that the node says it is for, or that it is no more.
 * @throws MeshError `not-your-chute`
 */
export async function signSecret(
  client: Client,
  { publisher, chute, recipients }: ChuteSecrets,
  secret: string,
  key: string | undefined,
  value: Uint8Array | undefined,
) {
  const signer = await signerFor(publisher, chute, key)
  const { SEAL_RANDOM, sealValue } = await import('../protocols/sealing.js') // a curve, which no other command needs
  const aps = recipients.map(unhex)
  const sealed = value === undefined ? undefined : sealValue(value, aps, new Uint8Array(randomBytes(SEAL_RANDOM)))
  const { mesh, clock, creation } = await askNext(client, publisher, chute)
  const body: Body<'secret'> = { creation: unhex(creation!), sealed }
  const subject = secretSubject(signer.publicKey, chute, secret)
  const record = await sealAsUser(signer, unhex(mesh), clock, 'secret', subject, body)
  checkKind(record)
  return { ...(await client.post<Submitted>('/v1/records', record.bytes)), sealedTo: sealed?.keys.length ?? 0 }
}

/** The key of a chute's publisher, if it is here. @throws MeshError `not-your-chute` */
export async function signerFor(publisher: string, name: string, key: string | undefined): Promise<UserSigner> {
  const own = key === undefined ? (await listKeys()).find((candidate) => candidate.publisher === publisher) : undefined
  const signer = own === undefined && key === undefined ? undefined : await signerOf(key ?? own?.name)
  if (signer === undefined || hex(signer.publicKey) !== publisher) {
    throw new MeshError(
      'not-your-chute',
      `${name} belongs to publisher ${publisher.slice(0, 12)}, and ` +
        (key === undefined
          ? 'you do not have that key here; where it is an SSH key, say --key'
          : `${key} is another key`),
    )
  }
  return signer
}
