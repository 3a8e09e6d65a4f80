// What each kind of record says: its subject, its body, how much history of it is kept. One row a kind.
import { z } from 'zod'
import { concat, equalBytes, utf8 } from './bytes.js'
import { creationTime, isInstanceSubject, readChuteSubject, readSecretSubject } from './chute.js'
import { type Clock, clockSchema, compareClocks } from './clock.js'
import { byteString, encode } from './codec.js'
import { chuteSpec, voterKeys } from './deployment.js'
import { describe, FORMAT, type SignedRecord } from './envelope.js'
import { MeshError } from './error.js'
import { verify } from './keys.js'
import {
  DENIED_BYTES,
  DEPLOYMENT_HISTORY,
  HISTORY,
  MAX_AWAY,
  MAX_BOOT,
  MAX_DENIED,
  MAX_GENERATION,
  MAX_KEPT,
  MAX_OF_SIGNER,
  MAX_PATTERNS,
  MAX_RESERVED,
  MAX_SEALED,
  MAX_SECRET,
  MAX_SECRETS,
  MAX_SEQUENCE,
  MAX_SMALL_RECORD,
  MAX_USES,
} from './limits.js'
import { isPrefix } from './neighbourhood.js'
import { isBound } from './voters.js'

const instance = byteString(25, 53).refine(isInstanceSubject, 'an instance')
const uint = z
  .int()
  .min(0)
  .max(2 ** 48)
const boot = z.int().min(0).max(MAX_BOOT)
const sequence = z.int().min(0).max(MAX_SEQUENCE)
/** The first bytes of the hashes of statements against the signer that name a sign it never gave. */
const denies = z.array(byteString(DENIED_BYTES)).max(MAX_DENIED).optional()
const labels = z
  .record(z.string().min(1).max(128), z.string().max(256))
  .refine((l) => Object.keys(l).length <= 32, 'over 32 labels')

/** How an AP came in: a ticket's key (or the mesh key itself, for the founder) signed for the AP's key. */
export const admission = z.object({ ticket: byteString(32), at: clockSchema, signature: byteString(64) })

/** What an AP says of itself. */
export const aboutAp = z.object({ name: z.string().regex(/^[\w.-]{1,63}$/), labels })

/** Subject: the AP's key, which is also the signer. An AP renews its own record when its name or labels change. */
const member = aboutAp.extend({ admission })

/** A name, or the beginning of names and `*`. */
const pattern = (text: RegExp) => z.array(z.string().regex(text)).max(MAX_PATTERNS)

/** What a grant allows. What is left out the grant above decides, but for rights: what is dangerous must be said. */
const scope = z.object({
  /** Names of chutes. Whose they are says the key. */
  chutes: pattern(/^(?=.)[a-z0-9-]{0,63}\*?$/).optional(),
  /** Labels that an AP must have. */
  labels: labels.optional(),
  /** Ceilings over all chutes together: thousandths of a CPU, bytes, instances. */
  cpu: uint.optional(),
  memory: uint.optional(),
  disk: uint.optional(),
  instances: uint.optional(),
  /** Beyond what any chute may: `port:80`. */
  rights: pattern(/^(?=.)[\w:./-]{0,127}\*?$/).optional(),
})

/**
 * Subject: the key that is granted something. With `uses` a ticket's key, which lets in so many; without, a person's.
 * `from` and `expires` are in milliseconds since 1970, 0 for always and never.
 */
const grant = z.object({
  role: z.enum(['ap', 'publisher', 'admin']),
  uses: z.int().min(1).max(MAX_USES).optional(),
  /** Labels of who comes in by this ticket, whatever it says itself. */
  labels: labels.optional(),
  /** The ticket's seed: with it any member lets in whoever asks. */
  seed: byteString(32).optional(),
  from: uint.optional(),
  expires: uint,
  scope: scope.optional(),
})

/**
 * Subject: a key of which nothing counts any more, but the records with these hashes; of a ticket's key, nobody that it let in,
 * but the APs with these keys.
 */
const revocation = z.object({
  keep: byteString(0, 32 * MAX_KEPT).refine(({ length }) => length % 32 === 0, 'hashes of 32 bytes each'),
})

/** Subject: the key of an AP that is a member no more, by every admission up to this record's clock. */
const forget = z.object({})

/** Subject: publisher and name. Signer: the publisher. */
const deployment = z.object({
  creation: byteString(16),
  revision: z
    .int()
    .min(1)
    .max(2 ** 32),
  spec: chuteSpec,
})
const wanted = z.object({ creation: byteString(16), desired: z.enum(['running', 'stopped']), restarts: uint })
/** Removes this creation and every earlier one of the name. */
const removal = z.object({ creation: byteString(16) })

/** What NaCl's secretbox and box add to a message. */
const SEAL = 16

/**
 * Subject: publisher, name, a zero, and the name of the secret. Signer: the publisher. The value is locked by a key of its own,
 * and that by a box for each AP that may run the chute. Without `sealed` there is no such secret any more.
 */
const secret = z.object({
  creation: byteString(16),
  sealed: z
    .object({
      value: byteString(SEAL + 1, SEAL + MAX_SECRET),
      /** The public half of the key that the boxes are made with. */
      ephemeral: byteString(32),
      keys: z.array(z.object({ ap: byteString(32), box: byteString(32 + SEAL) })).max(MAX_SEALED),
    })
    .optional(),
})

/**
 * Subject: a chute's key and that of an AP. Signer: an AP that can open secrets of the chute, and lets that one do so: the box
 * holds the keys of the secrets whose records have these hashes.
 */
const share = z.object({
  secrets: byteString(32, 32 * MAX_SECRETS),
  ephemeral: byteString(32),
  box: byteString(32 + SEAL, 32 * MAX_SECRETS + SEAL),
})

/**
 * Subject: an instance. Signer: the AP that holds it, and where the copy is one AP's, that AP. `previous` is the hash of the claim it
 * takes over from.
 */
const claim = z.object({
  epoch: z
    .int()
    .min(1)
    .max(2 ** 48),
  cause: z.string().regex(/^[a-z-]{1,32}$/),
  previous: byteString(32).optional(),
})

/**
 * Subject: a chute's key. Signer: an AP that votes on it, or, where it is forced, an admin. Generation 0 is that of the
 * deployment. One voter signs one record a generation, so all of them are kept.
 */
const voters = z.object({
  generation: z.int().min(1).max(MAX_GENERATION),
  voters: voterKeys(1, 3, 5),
  forced: z.boolean(),
})

/** Subject: the key of the AP that could not be reached. `boot` and `sequence` are the last heard of it. */
const statement = z.object({
  boot,
  sequence,
  silence: uint,
  probes: uint,
  /** Whether the signer had a pulse of this boot. Without, it says only that the AP has not come for a long time. */
  heard: z.boolean(),
  /** Digest of the keys of the AP's watchers, as the signer knew them. */
  watchers: byteString(16),
})

/** Subject: the AP's key, also the signer: it left on purpose, in this boot. */
const goodbye = z.object({ boot })

/** Subject: the AP's key. Signer: the AP itself, or an admin. */
const drain = z.object({ draining: z.boolean() })

/**
 * Subject: the AP's key, also the signer. What those know of it who do not hear its beacons: that it lives, which refutes
 * statements that name no later sign of it, or that it denies, and where it is to be found.
 */
const alive = z.object({ boot, sequence, denies, addresses: z.array(z.string().max(256)).max(8) })

/** Subject: a chute's key. Signer: an AP that has its package, for those who do not hear of it in beacons. */
const origin = z.object({})

/** Subject: a part of the mesh by the prefix of its positions. Signer: any member. */
const settings = z.object({ split: z.boolean() })

const instanceState = z.enum([
  'waiting',
  'fetching',
  'starting',
  'running',
  'healthy',
  'unhealthy',
  'stopping',
  'failed',
])
export type InstanceState = z.infer<typeof instanceState>

/** Subject: the AP's key, also the signer. Gossiped and held in memory, not in the ledger. */
const beacon = z.object({
  boot,
  sequence,
  denies,
  version: z.string().max(32),
  /** It is about to be silent on purpose, for so many milliseconds at most, and what it runs goes on. */
  away: z.int().min(0).max(MAX_AWAY).optional(),
  addresses: z.array(z.string().max(256)).max(32),
  /** The container engine, absent where none answers. Nominal capacity: thousandths of a CPU, bytes. */
  engine: z
    .object({
      version: z.string().max(64),
      platform: z.string().max(64),
      cpu: uint,
      memory: uint,
      /** True where this AP can stop what runs on it without its help, as exclusive chutes need. */
      local: z.boolean().optional(),
    })
    .optional(),
  instances: z
    .array(
      z.object({
        instance,
        epoch: uint,
        revision: uint,
        state: instanceState,
        /** Milliseconds since 1970 at which it came into this state. */
        since: uint,
        reason: z.string().max(256).optional(),
        /** How much has come of what it is to run from, in per cent; where an earlier revision runs meanwhile, of the next. */
        fetched: z.int().min(0).max(100).optional(),
        ports: z.array(z.object({ container: uint, host: uint, protocol: z.enum(['tcp', 'udp']) })).max(64),
      }),
    )
    .max(256),
  /** What this AP cannot run for now, though placement may say that it should. `until` in milliseconds since 1970. */
  cannot: z
    .array(
      z.object({
        instance,
        revision: uint,
        reason: z.string().max(256),
        until: uint,
      }),
    )
    .max(64),
  /** Config digests of the images of chutes that its engine has. */
  images: z.array(byteString(32)).max(256),
  /** Packages of which it has all that it would run from: whom to ask for them. */
  packages: z.array(byteString(32)).max(256),
  /** Digest of this AP's ledger. */
  ledger: byteString(16),
})

const meshKinds = {
  member,
  grant,
  revocation,
  forget,
  deployment,
  wanted,
  removal,
  secret,
  share,
  claim,
  voters,
  statement,
  goodbye,
  alive,
  drain,
  settings,
  origin,
  beacon,
}

export type Kind = keyof typeof meshKinds
export type Body<K extends Kind> = z.infer<(typeof meshKinds)[K]>
export interface RecordOf<K extends Kind> extends SignedRecord {
  readonly kind: K
  readonly body: Body<K>
}

/** Kinds whose content a later version fills. They are registers like the others: stored, merged and forwarded. */
export const RESERVED = ['ticket-use', 'lease', 'snapshot-head'] as const

/** Kinds that may fill a whole envelope. */
const LONG: readonly Kind[] = ['member', 'grant', 'revocation', 'deployment', 'secret', 'beacon']

const isKey = (subject: Uint8Array) => subject.length === 32
const isSigner = (record: SignedRecord) => equalBytes(record.subject, record.signer)

/** What must hold between a record's parts, beyond the shape of its body. Never depends on the receiver or its clock. */
const rules: { [K in Kind]: (record: RecordOf<K>) => boolean } = {
  member: (r) => isSigner(r) && compareClocks(r.body.admission.at, r.clock) <= 0 && isAdmitted(r),
  grant: (r) => isKey(r.subject),
  revocation: (r) => isKey(r.subject),
  forget: (r) => isKey(r.subject),
  deployment: (r) =>
    signedByPublisher(r) &&
    creationTime(r.body.creation) <= r.clock[0] &&
    isBound(r.body.creation, r.body.spec.exclusive),
  wanted: (r) => signedByPublisher(r),
  removal: (r) => signedByPublisher(r) && creationTime(r.body.creation) <= r.clock[0],
  secret: (r) =>
    equalBytes(readSecretSubject(r.subject).publisher, r.signer) && creationTime(r.body.creation) <= r.clock[0],
  share: (r) =>
    r.subject.length === 52 && r.body.secrets.length % 32 === 0 && r.body.box.length === r.body.secrets.length + SEAL,
  claim: (r) => isInstanceSubject(r.subject) && (r.subject[20] === 0 || equalBytes(r.subject.subarray(21), r.signer)),
  voters: (r) => r.subject.length === 20,
  statement: (r) => isKey(r.subject) && !isSigner(r),
  goodbye: isSigner,
  alive: isSigner,
  drain: (r) => isKey(r.subject),
  settings: (r) => isPrefix(r.subject),
  origin: (r) => r.subject.length === 20,
  beacon: isSigner,
}

/** What a ticket's key signs to let an AP in. */
export const admissionBytes = (mesh: Uint8Array, ap: Uint8Array, at: Clock): Uint8Array =>
  concat(utf8('dropmesh admission 1\0'), mesh, ap, encode(at))

const isAdmitted = (r: RecordOf<'member'>) =>
  verify(r.body.admission.ticket, admissionBytes(r.mesh, r.signer, r.body.admission.at), r.body.admission.signature)

function signedByPublisher(record: SignedRecord): boolean {
  const { publisher } = readChuteSubject(record.subject)
  return equalBytes(publisher, record.signer)
}

const isKnown = (record: SignedRecord): record is RecordOf<Kind> =>
  record.format === FORMAT && Object.hasOwn(meshKinds, record.kind)

/** Narrows a record to one kind of the format this version understands. Its shape was checked by `checkKind` on entry. */
export const isKind = <K extends Kind>(record: SignedRecord, kind: K): record is RecordOf<K> =>
  record.kind === kind && record.format === FORMAT

/**
 * Checks the body and the structural rules of a record whose kind is known; others pass.
 * @throws MeshError `malformed` or `record-too-big`
 */
export function checkKind(record: SignedRecord): void {
  if (!isKnown(record)) return
  if (!LONG.includes(record.kind) && record.bytes.length > MAX_SMALL_RECORD) {
    throw new MeshError(
      'record-too-big',
      `a ${record.kind} record of ${record.bytes.length} bytes; ${MAX_SMALL_RECORD} are allowed`,
    )
  }
  const body = meshKinds[record.kind].safeParse(record.body)
  if (!body.success) throw new MeshError('malformed', `a ${record.kind} record with a wrong ${describe(body.error)}`)
  if (!(rules[record.kind] as (r: SignedRecord) => boolean)(record)) {
    throw new MeshError('malformed', `a ${record.kind} record whose subject, signer or clock does not fit its body`)
  }
}

/** How many records of a kind are kept per signer, or `undefined` where something else bounds them. */
export const quotaOf = (kind: string): number | undefined =>
  Object.hasOwn(MAX_OF_SIGNER, kind)
    ? MAX_OF_SIGNER[kind as keyof typeof MAX_OF_SIGNER]
    : (RESERVED as readonly string[]).includes(kind)
      ? MAX_RESERVED
      : undefined

/** How many records a register keeps per signer, or `undefined` for a kind or format this version does not know. */
export function historyOf(record: SignedRecord): number | undefined {
  if (record.format !== FORMAT) return undefined
  if (record.kind === 'deployment') return DEPLOYMENT_HISTORY
  if (record.kind === 'removal' || record.kind === 'secret') return 1
  if (record.kind === 'voters') return MAX_GENERATION
  const known = Object.hasOwn(meshKinds, record.kind) || (RESERVED as readonly string[]).includes(record.kind)
  return known ? HISTORY : undefined
}
