// Identities of chutes and of their instances: the subjects of their records, and the names people type.
import { compareBytes, concat, sha256, utf8 } from './bytes.js'
import { NAME, SECRET_NAME } from './deployment.js'
import { MeshError } from './error.js'

/** (publisher key, name, creation id): two chutes are the same only where all three are. */
export interface ChuteId {
  readonly publisher: Uint8Array
  readonly name: string
  /** 16 bytes: 48 bits of milliseconds since 1970, big-endian, and 80 bits of `creationMark`. A later creation compares greater. */
  readonly creation: Uint8Array
}

/**
 * Makes a creation id that is later than `after`, the latest one known of this name: 48 bits of time, 16 that count, and
 * the 64 of `creationMark`. Its time is no later than both: a record may not carry a creation that lies after its own
 * clock, and the clock of an AP that is behind stands still at the latest one it has seen.
 */
export function newCreation(nowMs: number, mark: Uint8Array, after?: Uint8Array): Uint8Array {
  const id = new Uint8Array(16)
  const view = new DataView(id.buffer)
  view.setBigUint64(0, BigInt(nowMs) << 16n)
  id.set(mark, 8)
  if (after === undefined || compareBytes(id, after) > 0) return id
  view.setBigUint64(0, new DataView(after.buffer, after.byteOffset).getBigUint64(0) + 1n)
  return id
}

/** Milliseconds since 1970. */
export const creationTime = (creation: Uint8Array): number => Buffer.from(creation).readUIntBE(0, 6)

/** The subject of a chute's registers. All creations of one name share it, so that one removal covers them for ever. */
export const chuteSubject = (publisher: Uint8Array, name: string): Uint8Array => concat(publisher, utf8(name))

/** @throws MeshError `malformed` when `subject` is not publisher and name. */
export function readChuteSubject(subject: Uint8Array): { publisher: Uint8Array; name: string } {
  const name = Buffer.from(subject.subarray(32)).toString('latin1')
  if (subject.length < 33 || !NAME.test(name))
    throw new MeshError('malformed', 'a subject that is no publisher and name')
  return { publisher: subject.slice(0, 32), name }
}

/** The subject of a secret's register: that of its chute, a zero, and its name. */
export const secretSubject = (publisher: Uint8Array, chute: string, secret: string): Uint8Array =>
  concat(chuteSubject(publisher, chute), Uint8Array.of(0), utf8(secret))

/** Reads such a subject; `chute` is that of the chute's registers. @throws MeshError `malformed` */
export function readSecretSubject(subject: Uint8Array): { chute: Uint8Array; publisher: Uint8Array; secret: string } {
  const end = subject.indexOf(0, 32)
  const secret = Buffer.from(subject.subarray(end + 1)).toString('latin1')
  if (end < 0 || !SECRET_NAME.test(secret)) throw new MeshError('malformed', 'a subject that is no secret of a chute')
  const chute = subject.slice(0, end)
  return { chute, publisher: readChuteSubject(chute).publisher, secret }
}

/** 20 bytes that stand for a chute where its three parts would be too long. */
export const chuteKey = (id: ChuteId): Uint8Array =>
  sha256(utf8('dropmesh chute 1\0'), id.publisher, id.creation, utf8(id.name)).slice(0, 20)

/** Which copy of a chute: its ordinal, or for `everywhere` the key of the AP it is for. */
export type Copy = number | Uint8Array

/** The subject of an instance's claims: chute key, then 0 and the ordinal (4 bytes, big-endian), or 1 and the AP's key. */
export function instanceSubject(chute: Uint8Array, copy: Copy): Uint8Array {
  if (typeof copy !== 'number') return concat(chute, Uint8Array.of(1), copy)
  const ordinal = new Uint8Array(4)
  new DataView(ordinal.buffer).setUint32(0, copy)
  return concat(chute, Uint8Array.of(0), ordinal)
}

/** True where `subject` has the shape of an instance's subject. */
export const isInstanceSubject = (subject: Uint8Array): boolean =>
  (subject[20] === 0 && subject.length === 25) || (subject[20] === 1 && subject.length === 53)

/** The hex of a chute's key, of which that of an instance's subject begins. */
export const chuteOfInstance = (instance: string): string => instance.slice(0, 40)
