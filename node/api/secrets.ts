// What the local API answers about the secrets of chutes: names, times, and who was given them. It knows no value.
import type { Hono } from 'hono'
import { apId, hex } from '../../protocols/bytes.js'
import { secretsIn } from '../../protocols/deployment.js'
import type { Chute } from '../../protocols/desired.js'
import { MAX_SEALED } from '../../protocols/limits.js'
import { secretsSetFor } from '../../protocols/secrets.js'
import { recipientsOf } from '../../protocols/sharing.js'
import type { Ap } from '../ap.js'
import { findAp, findChute } from './queries.js'

export interface SecretRow {
  name: string
  /** ISO 8601; null where a service reads it and nobody has set it. */
  set: string | null
  /** Hex of the key that set it. */
  by: string | null
  /** Whether the revision in force reads it. */
  isRead: boolean
  /** Names of the APs that can open it, and of those that may run the chute and cannot. */
  aps: string[]
  lacking: string[]
}

export interface ChuteSecrets {
  chute: string
  publisher: string
  secrets: SecretRow[]
  /** The APs that a secret of this chute is to be sealed to, their keys in hex. Others are given it by these. */
  recipients: string[]
}

export function secretsFor(ap: Ap, chute: Chute): SecretRow[] {
  const { authority, membership } = ap.outlook
  const { ledger, clock } = ap.ledgerStore
  const read = new Set(secretsIn(chute.spec))
  const may = recipientsOf(ap.outlook, chute)
  return secretsSetFor(ledger, chute, membership.members, authority, clock.now())
    .filter(({ name, record }) => record !== undefined || read.has(name))
    .map(({ name, record, givenTo }) => ({
      name,
      set: record === undefined ? null : new Date(record.clock[0]).toISOString(),
      by: record === undefined ? null : hex(record.signer),
      isRead: read.has(name),
      aps: [...membership.members.values()].flatMap((one) => (givenTo.has(hex(one.key)) ? [one.name] : [])),
      lacking: may.flatMap((one) => (givenTo.has(hex(one.key)) ? [] : [one.name])),
    }))
}

function chuteSecrets(ap: Ap, text: string): ChuteSecrets {
  const chute = findChute(ap, text)
  const recipients = recipientsOf(ap.outlook, chute)
  return {
    chute: chute.id.name,
    publisher: hex(chute.id.publisher),
    secrets: secretsFor(ap, chute),
    recipients: recipients.slice(0, MAX_SEALED).map(({ key }) => hex(key)),
  }
}

/** What somebody who has an AP can open, once it is no more this mesh's: `chute/secret`. */
function givenTo(ap: Ap, id: string): string[] {
  const { authority, membership, chutes, barred } = ap.outlook
  const { ledger, clock } = ap.ledgerStore
  return [...chutes, ...barred.map(({ chute }) => chute)].flatMap((chute) =>
    secretsSetFor(ledger, chute, membership.members, authority, clock.now()).flatMap(({ name, givenTo: keys }) =>
      [...keys].some((key) => apId(Buffer.from(key, 'hex')) === id) ? [`${chute.id.name}/${name}`] : [],
    ),
  )
}

export function addSecretRoutes(app: Hono, ap: Ap): void {
  app.get('/v1/secrets', (context) => context.json(chuteSecrets(ap, context.req.query('of') ?? '')))
  app.get('/v1/secrets/given', (context) => context.json(givenTo(ap, findAp(ap, context.req.query('ap') ?? ''))))
}
