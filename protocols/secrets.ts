// The secrets of chutes: which are set, and which APs were given them. A view over the ledger, that opens nothing.
import type { Authority } from './authority.js'
import { apId, equalBytes, hex, sha256 } from './bytes.js'
import { readSecretSubject, secretSubject } from './chute.js'
import { secretsIn } from './deployment.js'
import type { Chute } from './desired.js'
import type { Body, RecordOf } from './kinds.js'
import type { Ledger } from './ledger.js'
import type { Member } from './membership.js'
import { remembered } from './view.js'

/** A secret that a chute reads. */
export interface Secret {
  readonly name: string
  /** What its value is, locked; undefined where it was never set, or was removed. */
  readonly record: RecordOf<'secret'> | undefined
  /** The APs that it was sealed to, by hex of their keys. */
  readonly givenTo: ReadonlySet<string>
}

type Asked = Pick<Authority, 'counts' | 'era'>

/** The chutes, each with the secrets that it reads. */
export function withSecrets(
  ledger: Ledger,
  chutes: readonly Chute[],
  members: ReadonlyMap<string, Member>,
  authority: Asked,
  nowMs: number,
): readonly Chute[] {
  if (chutes.every(({ spec }) => secretsIn(spec).length === 0)) return chutes
  const kinds = ['secret', 'share'] as const
  const inputs = [chutes, members, authority, authority.era(nowMs), ...kinds.map((kind) => ledger.stamp(kind, nowMs))]
  return remembered(ledger, 'secrets', inputs, () => {
    const shares = sharesByChute(ledger, nowMs)
    return chutes.map((chute) => {
      const names = secretsIn(chute.spec)
      if (names.length === 0) return chute
      const secrets = names.map((name) => {
        const record = secretOf(ledger, chute, name, authority, nowMs)
        return { name, record, givenTo: givenTo(record, shares.get(hex(chute.key)) ?? [], members) }
      })
      return { ...chute, secrets }
    })
  })
}

/**
 * The record that says what a secret is now. It takes effect at once, whatever its clock says: a register keeps one, and what was
 * before it is gone.
 */
function secretOf(
  ledger: Ledger,
  { id }: Chute,
  name: string,
  authority: Pick<Asked, 'counts'>,
  nowMs: number,
): RecordOf<'secret'> | undefined {
  const newest = ledger
    .history('secret', secretSubject(id.publisher, id.name, name))
    .find((record) => equalBytes(record.body.creation, id.creation) && authority.counts(record, nowMs))
  return newest?.body.sealed === undefined ? undefined : newest
}

/** Every secret that is set for a chute, whether its revision in force reads it or not. */
export function secretsSetFor(
  ledger: Ledger,
  chute: Chute,
  members: ReadonlyMap<string, Member>,
  authority: Pick<Asked, 'counts'>,
  nowMs: number,
): Secret[] {
  const shares = sharesByChute(ledger, nowMs).get(hex(chute.key)) ?? []
  const names = ledger.inForce('secret', Number.POSITIVE_INFINITY).flatMap(({ subject }) => {
    const { chute: of, secret } = readSecretSubject(subject)
    return equalBytes(of, chute.deployment.subject) ? [secret] : []
  })
  return [...new Set([...names, ...secretsIn(chute.spec)])].sort().map((name) => {
    const record = secretOf(ledger, chute, name, authority, nowMs)
    return { name, record, givenTo: givenTo(record, shares, members) }
  })
}

function sharesByChute(ledger: Ledger, nowMs: number): Map<string, RecordOf<'share'>[]> {
  const byChute = new Map<string, RecordOf<'share'>[]>()
  for (const share of ledger.effective('share', nowMs)) {
    const chute = hex(share.subject.subarray(0, 20))
    byChute.set(chute, [...(byChute.get(chute) ?? []), share])
  }
  return byChute
}

// What somebody sealed who cannot have had the key is nothing, and what one sealed that is a member no more may be nothing: it is
// sealed anew, which costs little.
function givenTo(
  record: RecordOf<'secret'> | undefined,
  shares: readonly RecordOf<'share'>[],
  members: ReadonlyMap<string, Member>,
): ReadonlySet<string> {
  const given = new Set(record?.body.sealed?.keys.map(({ ap }) => hex(ap)))
  if (record === undefined) return given
  const id = hex(record.hash)
  const left = new Set(shares.filter((share) => hashesIn(share.body).includes(id) && members.has(apId(share.signer))))
  for (let before = -1; before !== given.size; ) {
    before = given.size
    for (const share of left) {
      if (!given.has(hex(share.signer))) continue
      given.add(hex(share.subject.subarray(20)))
      left.delete(share)
    }
  }
  return given
}

/** Which secrets a share opens: hashes of their records, in hex. */
export const hashesIn = ({ secrets }: Body<'share'>): string[] =>
  Array.from({ length: secrets.length / 32 }, (_, i) => hex(secrets.subarray(32 * i, 32 * (i + 1))))

/** The first secret of a chute that an AP was not given, or that nobody has set. */
export const lackedSecret = ({ secrets = [] }: Chute, ap: Uint8Array): string | undefined =>
  secrets.find(({ givenTo }) => !givenTo.has(hex(ap)))?.name

/** What a change of any secret of a chute changes as well. */
export const secretsDigest = ({ secrets }: Chute): string =>
  secrets === undefined
    ? ''
    : hex(sha256(...secrets.map(({ record }) => record?.hash ?? new Uint8Array(32))).subarray(0, 8))
