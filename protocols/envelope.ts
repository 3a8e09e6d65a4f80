// The envelope: how a signed statement looks on the wire, in the ledger and on disk. Knows no kind's meaning.
import { z } from 'zod'
import { concat, equalBytes, hex, sha256, toBase32, utf8 } from './bytes.js'
import { type Clock, clockSchema, compareClocks } from './clock.js'
import { byteString, decode, decodeAgain, encode } from './codec.js'
import { MeshError } from './error.js'
import { type Signer, verify } from './keys.js'
import { MAX_RECORD, MAX_SUBJECT } from './limits.js'

/** The one format version this code writes. Another one is stored and forwarded, not understood. */
export const FORMAT = 1

/** An opened envelope. `bytes` are exactly what was received, and what is stored and forwarded. */
export interface SignedRecord {
  readonly bytes: Uint8Array
  /** SHA-256 of the payload, without the signature: the record's identity. */
  readonly hash: Uint8Array
  readonly format: number
  readonly kind: string
  readonly mesh: Uint8Array
  readonly signer: Uint8Array
  readonly clock: Clock
  readonly subject: Uint8Array
  readonly body: unknown
}

const envelopeSchema = z.tuple([byteString(1, MAX_RECORD), byteString(64)])

const payloadSchema = z.tuple([
  z.int().min(1).max(255),
  z.string().regex(/^[a-z][a-z-]{0,23}$/),
  byteString(20),
  byteString(32),
  clockSchema,
  byteString(1, MAX_SUBJECT),
  z.record(z.string(), z.unknown()),
])

/** What is signed: separated by kind and mesh, so that no signature fits another kind, another mesh or another protocol. */
const signedBytes = (kind: string, mesh: Uint8Array, payload: Uint8Array): Uint8Array =>
  concat(utf8(`dropmesh record 1 ${kind}\0`), mesh, payload)

/** A record that waits for its signature, over `message`. */
export interface Draft {
  readonly message: Uint8Array
  /** @throws MeshError `record-too-big` over 32 KiB. */
  sign(signature: Uint8Array): SignedRecord
}

/** Makes a record for a signer that takes its time to sign, as an agent that asks its user does. */
export function draft(
  signer: Uint8Array,
  mesh: Uint8Array,
  clock: Clock,
  kind: string,
  subject: Uint8Array,
  body: object,
): Draft {
  const payload = encode([FORMAT, kind, mesh, signer, clock, subject, body])
  const sign = (signature: Uint8Array): SignedRecord => {
    const bytes = encode([payload, signature])
    if (bytes.length > MAX_RECORD) {
      throw new MeshError(
        'record-too-big',
        `the ${kind} record has ${bytes.length} bytes, ${MAX_RECORD} are allowed; shorten what it says`,
      )
    }
    return { bytes, hash: sha256(payload), format: FORMAT, kind, mesh, signer, clock, subject, body }
  }
  return { message: signedBytes(kind, mesh, payload), sign }
}

/** Signs a record. @throws MeshError `record-too-big` over 32 KiB. */
export function seal(
  signer: Signer,
  mesh: Uint8Array,
  clock: Clock,
  kind: string,
  subject: Uint8Array,
  body: object,
): SignedRecord {
  const { message, sign } = draft(signer.publicKey, mesh, clock, kind, subject, body)
  return sign(signer.sign(message))
}

/**
 * Opens an envelope that came from anywhere, checking in the order of cost: size, shape, mesh, signature.
 * @throws MeshError `record-too-big`, `malformed`, `other-mesh` or `bad-signature`
 */
export function open(bytes: Uint8Array, mesh: Uint8Array): SignedRecord {
  const record = read(bytes)
  if (hex(record.mesh) !== hex(mesh)) {
    throw new MeshError('other-mesh', `a ${record.kind} record belongs to another mesh (${toBase32(record.mesh)})`)
  }
  const [payload, signature] = decode(bytes) as [Uint8Array, Uint8Array]
  if (!verify(record.signer, signedBytes(record.kind, mesh, payload), signature)) {
    throw new MeshError(
      'bad-signature',
      `the signature of a ${record.kind} record by ${hex(record.signer)} does not verify`,
    )
  }
  return record
}

/** Reads an envelope without verifying its signature. */
function read(bytes: Uint8Array): SignedRecord {
  if (bytes.length > MAX_RECORD) {
    throw new MeshError('record-too-big', `a record of ${bytes.length} bytes; ${MAX_RECORD} are allowed`)
  }
  const envelope = envelopeSchema.safeParse(decode(bytes))
  if (!envelope.success) throw new MeshError('malformed', 'not an envelope [payload, signature]')
  const payload = payloadSchema.safeParse(decode(envelope.data[0]))
  if (!payload.success) throw new MeshError('malformed', `not a payload: ${describe(payload.error)}`)
  return recordOf(bytes, sha256(envelope.data[0]), payload.data)
}

/**
 * Reads back a record that this AP checked before it wrote it to its own disk. That its payload has the hash it had says that
 * all that was checked still holds; the signature, which the hash leaves out, is not looked at.
 * @throws MeshError `malformed` where it has not
 */
export function readBack(bytes: Uint8Array, hash: Uint8Array): SignedRecord {
  let payload: unknown
  try {
    payload = (decodeAgain(bytes) as [unknown])[0]
  } catch {} // no CBOR, or no array
  if (!(payload instanceof Uint8Array) || !equalBytes(sha256(payload), hash))
    throw new MeshError('malformed', 'a record that is not what was written')
  return recordOf(bytes, hash, decodeAgain(payload) as Payload)
}

type Payload = z.infer<typeof payloadSchema>

const recordOf = (
  bytes: Uint8Array,
  hash: Uint8Array,
  [format, kind, mesh, signer, clock, subject, body]: Payload,
): SignedRecord => ({ bytes, hash, format, kind, mesh, signer, clock, subject, body })

/** The total order of records: (clock, hash), the same on every AP. */
export const compareRecords = (a: SignedRecord, b: SignedRecord): number =>
  compareClocks(a.clock, b.clock) || Buffer.compare(a.hash, b.hash)

/** A zod error in one line: where and what, never the value (it came from a stranger). */
export function describe(error: z.ZodError): string {
  const issue = error.issues[0]
  return issue === undefined ? 'wrong shape' : `${issue.path.join('.') || 'value'}: ${issue.message}`
}
