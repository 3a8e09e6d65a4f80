// Every hard size limit of the wire, in one place. What exceeds one is refused before it is parsed.

/** A whole envelope, in bytes. What is bigger is a blob that a record names by digest. */
export const MAX_RECORD = 32 * 1024

/** A subject, the key of a register, in bytes. */
export const MAX_SUBJECT = 128

/** Arrays and maps within each other, in anything that is decoded. A deployment, the deepest kind, needs eight. */
export const MAX_DEPTH = 32

/** Items in anything that is decoded, arrays and maps among them: as many as the longest record has bytes. A frame that is
 * longer holds byte strings; of small items it would take ten times as long to read. */
export const MAX_ITEMS = 32 * 1024

/** A frame of the pulse, probe and join protocols, in bytes; a join carries two envelopes. */
export const MAX_SMALL_FRAME = 1024
export const MAX_JOIN_FRAME = 2 * MAX_RECORD + 1024

/** A frame of the ask protocol, in bytes: the name and the labels of an AP, or the grant that lets it in. */
export const MAX_ASK_FRAME = 4096

/** A datagram, in bytes: the longest, a pulse, needs 90. */
export const MAX_DATAGRAM = 200

/** A frame of the lease protocol, in bytes, and the requests in it: more instances than one engine takes. */
export const MAX_LEASE_FRAME = 8 * 1024
export const MAX_LEASES = 64

/** A frame of the sync protocol, in bytes: 256 bucket digests, or a page of hashes or records. */
export const MAX_SYNC_FRAME = 256 * 1024

/** A chunk of an image on the wire, in bytes (decision 5: bulk yields often). */
export const MAX_CHUNK = 256 * 1024

/** One blob of a package, in bytes: 16,384 chunks, of which a set is 2 kB and all hashes are two frames. */
export const MAX_BLOB = 4 * 1024 ** 3

/** A chute's image, in bytes, all layers together: what one AP accepts from another. */
export const MAX_IMAGE = 4 * 1024 ** 3

/** How far ahead of the receiver a record's clock may be where it is first submitted, in milliseconds (decision 8). */
export const MAX_CLOCK_AHEAD = 5 * 60_000

/** Records kept per register and signer, newest first. A deployment's history is what `rollback` can reach. */
export const HISTORY = 2
export const DEPLOYMENT_HISTORY = 10

/**
 * What an AP counts its boots and its signs of life by. The same in all that can name them, or there were signs that a statement could not
 * name, and an AP that nobody could accuse.
 */
export const MAX_BOOT = 2 ** 32
export const MAX_SEQUENCE = 2 ** 40

/** Statements that one beacon can deny, by the first bytes of their hashes. */
export const MAX_DENIED = 64
export const DENIED_BYTES = 8

/** For how long an AP can ask others to wait for it without a sign of life, in milliseconds: a restart, an upgrade. */
export const MAX_AWAY = 60_000

/** How often the voters of a chute can change. Their records are all kept, or it would be forgotten who came after whom. */
export const MAX_GENERATION = 32

/** Records of kinds this version does not know, kept per signer, newest first. */
export const UNKNOWN_HISTORY = 64

/**
 * Registers of a kind whose subjects one signer can choose, or records in them, kept per signer: the newest of each register before the
 * second newest of any, and of these the newest; of secrets those of the lowest subjects. Far more than an honest one needs, and few enough
 * that a hostile one fills megabytes.
 */
export const MAX_OF_SIGNER = {
  /** A mesh key signs one for each ticket, and membership needs them all. */
  grant: 65_536,
  revocation: 4096,
  forget: 16_384,
  drain: 16_384,
  /** Of a publisher, 32 MiB at most: the newest revision of each name (no fewer than MAX_NAMES), and history as far as there is room. */
  deployment: 1024,
  /** 16 MiB at most. */
  secret: 512,
  share: 1024,
  claim: 1024,
  voters: 1024,
  origin: 1024,
  statement: 512,
  settings: 128,
} as const
/** Of each kind that is reserved. */
export const MAX_RESERVED = 128

/** A record of a kind that never has more to say, in bytes: what it says that nobody understands is kept as well. */
export const MAX_SMALL_RECORD = 4096

/** APs beyond the uses of a ticket whose records are kept: so that it can be seen who was let in once too often. */
export const MAX_EXCESS = 8

/** Records of keys that are not known (yet), which wait beside the ledger: in all, and of one signer. */
export const MAX_WAITING = 2048
export const MAX_WAITING_BYTES = 4 * 1024 ** 2
export const MAX_WAITING_OF_SIGNER = 32

/** Names a publisher may use, removed ones included: each leaves a removal behind for ever, of some 200 bytes. */
export const MAX_NAMES = 1024

/** The grant of a ticket, in bytes: the ticket is to be one line that a person can copy. */
export const MAX_GRANT = 1024

/** APs that one ticket lets in: as many as a mesh is made for. */
export const MAX_USES = 10_000

/** Grants one below the other, from the mesh key to a publisher. */
export const MAX_CHAIN = 5

/** Chains to one key that count, of those that begin with one grant of the mesh key: the shortest. */
export const MAX_STANDINGS = 8

/** Patterns of names or rights in a grant. */
export const MAX_PATTERNS = 64

/** Records that a revocation can let stay: as many hashes as fit a record. */
export const MAX_KEPT = 1000

/** A secret's value, in bytes: what a record has room for beside the keys it is sealed to. A certificate with its chain needs 8 KiB. */
export const MAX_SECRET = 16 * 1024

/** Secrets of a chute, those included that were removed while it was there: where they are submitted. */
export const MAX_SECRETS = 16

/** APs that a secret is sealed to by one record; a chute runs on no more of them in a bigger mesh, unless it has half as many replicas. */
export const MAX_SEALED = 128
