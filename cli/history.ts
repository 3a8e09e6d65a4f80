// The revisions of a chute as its publisher knows them: manifests, and what changed between two.
import type { RevisionRow } from '../node/api/queries.js'
import { equalBytes, unhex } from '../protocols/bytes.js'
import { encode } from '../protocols/codec.js'
import { writeManifest } from '../protocols/compose-writer.js'
import type { ChuteSpec } from '../protocols/deployment.js'
import { readBack, type SignedRecord } from '../protocols/envelope.js'
import { MeshError } from '../protocols/error.js'
import type { Body } from '../protocols/kinds.js'
import type { Client } from './client.js'

/** Lines that may differ: a search for more would take longer than anyone would read it. */
const MAX_CHANGES = 2000

export interface Revision extends Omit<RevisionRow, 'envelope'> {
  record: SignedRecord
  spec: ChuteSpec
  manifest: string
  /** Unified, against the revision before it or against nothing; null where next to nothing is alike. */
  diff: string | null
  /** Lines. */
  added: number | null
  removed: number | null
}

/** The revisions that are kept, newest first. `chute` is a name or `publisher/name`. @throws MeshError with the node's reason */
export async function historyOf(client: Client, chute: string): Promise<Revision[]> {
  // Loaded only here, since every command would wait for it.
  const { FILE_HEADERS_ONLY, formatPatch, structuredPatch } = await import('diff')
  const rows = (await client.get<RevisionRow[]>('/v1/history', { of: chute })).map(({ envelope, ...row }) => {
    const record = readBack(new Uint8Array(Buffer.from(envelope, 'base64')), unhex(row.hash))
    const { spec } = record.body as Body<'deployment'>
    return { ...row, record, spec, manifest: writeManifest(spec) }
  })
  return rows.map((row) => {
    const before = rows.find(({ hash }) => hash === row.before)
    const patch = structuredPatch(
      before === undefined ? '/dev/null' : `${before.chute} ${labelOf(before)}`,
      `${row.chute} ${labelOf(row)}`,
      before?.manifest ?? '',
      row.manifest,
      before?.signed,
      row.signed,
      { context: 3, maxEditLength: MAX_CHANGES },
    )
    if (patch === undefined) return { ...row, diff: null, added: null, removed: null }
    const lines = patch.hunks.flatMap((hunk) => hunk.lines)
    const count = (sign: string) => lines.filter((line) => line.startsWith(sign)).length
    return { ...row, diff: formatPatch(patch, FILE_HEADERS_ONLY), added: count('+'), removed: count('-') }
  })
}

/** A revision by its number, and by the beginning of its hash, which tells apart two of one number. */
export const labelOf = ({ revision, hash }: Pick<RevisionRow, 'revision' | 'hash'>): string =>
  `revision ${revision} (${hash.slice(0, 12)})`

/**
 * The revision that a rollback puts in force again: the one asked for, by number or by the beginning of its hash, else the
 * newest earlier one that says something else and lost no conflict.
 * @throws MeshError `no-such-revision`, `ambiguous`, `in-force`
 */
export function revisionToRestore<R extends Pick<Revision, 'chute' | 'revision' | 'hash' | 'state' | 'spec'>>(
  revisions: readonly R[],
  asked: string | undefined,
): R {
  const chute = revisions[0]!.chute
  const inForce = revisions.findIndex(({ state }) => state === 'in-force')
  const kept = `kept are ${revisions.map(labelOf).join(', ')}`
  if (asked === undefined) {
    const current = encode(revisions[inForce]!.spec)
    const earlier = revisions.slice(inForce + 1)
    const found = earlier.find(({ state, spec }) => state === 'superseded' && !equalBytes(encode(spec), current))
    if (found !== undefined) return found
    throw new MeshError('no-such-revision', `${chute} has no earlier revision that says anything else; ${kept}`)
  }
  const numbered = revisions.filter(({ revision }) => String(revision) === asked)
  const byHash = (prefix: string) => revisions.filter(({ hash }) => prefix.length >= 8 && hash.startsWith(prefix))
  const found = numbered.length > 0 ? numbered : byHash(asked.toLowerCase())
  if (found.length === 0) throw new MeshError('no-such-revision', `${chute} has no revision "${asked}"; ${kept}`)
  if (found.length > 1) {
    const hashes = found.map(({ hash }) => hash.slice(0, 12)).join(' or ')
    throw new MeshError('ambiguous', `${chute} has ${found.length} revisions "${asked}", which conflict; say ${hashes}`)
  }
  if (found[0]!.state === 'in-force') throw new MeshError('in-force', `${labelOf(found[0]!)} of ${chute} is in force`)
  return found[0]!
}
