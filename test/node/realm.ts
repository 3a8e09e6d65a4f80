// A mesh on paper for the tests of node/: its keys, and records as its people sign them. Opens nothing.
import { randomBytes } from 'node:crypto'
import * as assert from 'uvu/assert'
import { NodeClock } from '../../node/clock.js'
import { hex } from '../../protocols/bytes.js'
import { type SignedRecord, seal } from '../../protocols/envelope.js'
import { MeshError } from '../../protocols/error.js'
import { apSigner, type Signer } from '../../protocols/keys.js'
import type { Body } from '../../protocols/kinds.js'
import { meshIdOf, meshText } from '../../protocols/membership.js'
import { signMember } from '../../protocols/ticket.js'

export const seed = (): Uint8Array => new Uint8Array(randomBytes(32))

/** The keys of one mesh, and records as its people sign them. Every record comes later than the one before. */
export class Realm {
  readonly owner: Signer
  readonly publisher = apSigner(seed())
  readonly mesh: Uint8Array
  private readonly ticket = apSigner(seed())
  private readonly clock = new NodeClock()
  readonly grant: SignedRecord

  constructor(ownerSeed = seed()) {
    this.owner = apSigner(ownerSeed)
    this.mesh = meshIdOf(this.owner.publicKey)
    this.grant = this.sign(this.owner, 'grant', this.ticket.publicKey, { role: 'ap', uses: 10_000, expires: 0 })
  }

  get text(): string {
    return meshText(this.mesh)
  }

  sign(signer: Signer, kind: string, subject: Uint8Array, body: object): SignedRecord {
    return seal(signer, this.mesh, this.clock.next(), kind, subject, body)
  }

  /** A new ticket and its grant, by the owner of the mesh unless said otherwise. */
  invite(body: Partial<Body<'grant'>> = {}, issuer: Signer = this.owner): { ticket: Signer; grant: SignedRecord } {
    const ticket = apSigner(seed())
    const grant = this.sign(issuer, 'grant', ticket.publicKey, { role: 'ap', uses: 1, expires: 0, ...body })
    return { ticket, grant }
  }

  /** The member record of an AP, let in by a ticket that all may use unless said otherwise. */
  member(ap: Signer, name: string, ticket: Signer = this.ticket): SignedRecord {
    return signMember(ap, ticket, this.mesh, this.clock.next(), { name, labels: {} })
  }

  /** A record of some kind that adds to the ledger and means nothing, of at least `size` bytes. */
  record(size = 0): SignedRecord {
    const padding = new Uint8Array(Math.max(0, size - 250))
    return this.sign(this.owner, 'grant', seed(), { role: 'ap', expires: 0, padding })
  }

  records(n: number, size = 0): SignedRecord[] {
    return Array.from({ length: n }, () => this.record(size))
  }

  beacon(ap: Signer, sequence: number, boot = 1): SignedRecord {
    return this.sign(ap, 'beacon', ap.publicKey, {
      boot,
      sequence,
      version: 'test',
      addresses: [],
      instances: [],
      cannot: [],
      images: [],
      packages: [],
      ledger: new Uint8Array(16),
    })
  }
}

/** Hashes of records as sorted text: for comparing what two have. */
export const hashes = (records: readonly SignedRecord[]): string[] => records.map(({ hash }) => hex(hash)).sort()

/** What a promise is rejected with. */
export async function failureOf(what: Promise<unknown>): Promise<Error> {
  const outcome = await what.then(
    () => undefined,
    (error: unknown) => error,
  )
  assert.instance(outcome, Error, 'it should have failed')
  return outcome as Error
}

/** The MeshError that a promise is rejected with. */
export async function refusalOf(what: Promise<unknown>, code: string): Promise<MeshError> {
  const error = await failureOf(what)
  assert.instance(error, MeshError, error.stack)
  assert.is((error as MeshError).code, code)
  return error as MeshError
}
