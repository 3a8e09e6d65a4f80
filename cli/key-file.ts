// A secret key in a file that may lie anywhere: locked with a passphrase, by scrypt and tweetnacl's secretbox.
import { randomBytes, scryptSync } from 'node:crypto'
import nacl from 'tweetnacl'
import { z } from 'zod'
import { equalBytes, hex, sha256, unhex, utf8 } from '../protocols/bytes.js'
import { MeshError } from '../protocols/error.js'
import { personSigner } from '../protocols/keys.js'

/** What a guess costs: 128 MiB of memory, which an AP still has, and a third of a second of the core it was measured on. */
const COST = { N: 2 ** 17, r: 8, p: 1 }
/** No file makes this machine spend more than this, in bytes: nor more time than filling them takes, some three seconds. */
const MAX_MEMORY = 1024 ** 3

const hexOf = (bytes: number) => z.string().regex(new RegExp(`^[0-9a-f]{${2 * bytes}}$`))

const locked = z.strictObject({
  format: z.literal('dropmesh key 1'),
  /** `mesh` for the owner key of a mesh. */
  kind: z.enum(['publisher', 'mesh']),
  /** Of a publisher's key its name, of a mesh's the mesh id. */
  name: z.string().regex(/^[\w-]{1,63}$/),
  public: hexOf(32),
  scrypt: z
    .strictObject({ N: z.int().min(2), r: z.int().min(1), p: z.int().min(1).max(16), salt: hexOf(32) })
    // RFC 7914, section 2: N is a power of two below 2^(16 r).
    .refine(
      ({ N, r, p }) => Number.isInteger(Math.log2(N)) && Math.log2(N) < 16 * r && 128 * N * r * p <= MAX_MEMORY,
      'a cost that is out of bounds',
    ),
  nonce: hexOf(nacl.secretbox.nonceLength),
  box: hexOf(32 + nacl.secretbox.overheadLength),
})

export type LockedKey = z.infer<typeof locked>

const keyFrom = (passphrase: string, { N, r, p, salt }: LockedKey['scrypt']): Uint8Array =>
  // One passphrase can be typed as different bytes on two machines (accents apart from their letters, or not).
  new Uint8Array(
    scryptSync(passphrase.normalize('NFKC'), unhex(salt), nacl.secretbox.keyLength, {
      N,
      r,
      p,
      maxmem: 2 * MAX_MEMORY,
    }),
  )

// Tells a damaged file from a wrong passphrase, which a secretbox cannot. Who alters a file on purpose can alter this too.
const checkOf = (key: LockedKey): string => hex(sha256(utf8(JSON.stringify(key)))).slice(0, 16)

/** The text of a key file. */
export function lock(kind: LockedKey['kind'], name: string, seed: Uint8Array, passphrase: string): string {
  const scrypt = { ...COST, salt: hex(randomBytes(32)) }
  const nonce = new Uint8Array(randomBytes(nacl.secretbox.nonceLength))
  const key: LockedKey = {
    format: 'dropmesh key 1',
    kind,
    name,
    public: hex(personSigner(seed).publicKey),
    scrypt,
    nonce: hex(nonce),
    box: hex(nacl.secretbox(seed, nonce, keyFrom(passphrase, scrypt))),
  }
  return `${JSON.stringify({ ...key, check: checkOf(key) }, null, 2)}\n`
}

/** What a key file says without its passphrase. @param path for messages. @throws MeshError `key-file` */
export function readLocked(text: string, path: string): LockedKey {
  let file: unknown
  try {
    file = JSON.parse(text)
  } catch {
    file = undefined
  }
  const { check, ...rest } = Object(file) as Record<string, unknown>
  if (typeof rest.format !== 'string' || !rest.format.startsWith('dropmesh key '))
    throw new MeshError('key-file', `${path} is no file that "dropmesh keys export" wrote, or its beginning is damaged`)
  const key = locked.safeParse(rest)
  // Parsing puts the fields into the order in which they were written.
  if (!key.success || check !== checkOf(key.data))
    throw new MeshError('key-file', `${path} is damaged: no passphrase opens it; take another copy`)
  return key.data
}

/** The seed in a key file, or undefined where the passphrase is wrong. @throws MeshError `key-file` */
export function unlock(key: LockedKey, passphrase: string, path: string): Uint8Array | undefined {
  const seed = nacl.secretbox.open(unhex(key.box), unhex(key.nonce), keyFrom(passphrase, key.scrypt))
  if (seed === null) return undefined
  if (!equalBytes(personSigner(seed).publicKey, unhex(key.public)))
    throw new MeshError('key-file', `${path} holds another key than it says; take another copy`)
  return seed
}
