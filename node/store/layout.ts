// How records and events lie in LevelDB: keys, values, and the mark by which damage shows.
import { createHash } from 'node:crypto'
import { Level } from 'level'
import { z } from 'zod'
import { hex, unhex } from '../../protocols/bytes.js'
import { open, readBack, type SignedRecord } from '../../protocols/envelope.js'
import { parseOrNothing } from './files.js'

export interface Entry {
  readonly key: string
  readonly value: Uint8Array
}

export type Batch = { type: 'put'; key: string; value: Uint8Array } | { type: 'del'; key: string }

/** What the records on disk are to be. Part of every write, so that it is exactly as old as they are. */
const mark = z.object({
  /** Number of writes so far. */
  writes: z.int().min(0),
  records: z.int().min(0),
  /** Digests of all envelopes, exclusive-ored; hex. */
  sum: z.string(),
})
export type Mark = Readonly<z.infer<typeof mark>>

export interface Contents {
  readonly records: SignedRecord[]
  /** Keys whose value is no record any more. */
  readonly damaged: string[]
  readonly events: Entry[]
  readonly mark: Mark | undefined
  readonly schema: number | undefined
  /** As in a mark, of all that is there. */
  readonly sum: Sum
  readonly isInOrder: boolean
}

export const level = (dir: string) => new Level<string, Uint8Array>(dir, { keyEncoding: 'utf8', valueEncoding: 'view' })

export const recordKey = (record: SignedRecord): string => `record!${hex(record.hash)}`
export const eventKey = (n: number): string => `event!${String(n).padStart(12, '0')}`

export const put = (record: SignedRecord): Batch => ({ type: 'put', key: recordKey(record), value: record.bytes })
export const del = (key: string): Batch => ({ type: 'del', key })
export const meta = (name: string, value: unknown): Batch => ({
  type: 'put',
  key: `meta!${name}`,
  value: Buffer.from(JSON.stringify(value)),
})

/** Makes sense of entries. With `verify`, records with a wrong signature count as damaged. */
export function sort(entries: readonly Entry[], verify = false): Contents {
  const records: SignedRecord[] = []
  const damaged: string[] = []
  const events: Entry[] = []
  const found = new Map<string, Uint8Array>()
  const sum = new Sum()
  let isInOrder = true
  let before = ''
  for (const entry of entries) {
    const { key, value } = entry
    isInOrder &&= key > before
    before = key
    if (key.startsWith('event!')) events.push(entry)
    else if (!key.startsWith('record!')) found.set(key, value)
    else {
      sum.toggle(value)
      const record = readOrNothing(value, unhex(key.slice('record!'.length)), verify)
      if (record !== undefined) records.push(record)
      else damaged.push(key)
    }
  }
  return {
    records,
    damaged,
    events,
    mark: mark.safeParse(parseOrNothing(found.get('meta!mark'))).data,
    schema: z.int().safeParse(parseOrNothing(found.get('meta!schema'))).data,
    sum,
    isInOrder,
  }
}

export const inOrder = (entries: ReadonlyMap<string, Entry>): Entry[] =>
  [...entries.values()].sort((a, b) => (a.key < b.key ? -1 : 1))

export async function entriesOf(db: Level<string, Uint8Array>): Promise<Entry[]> {
  return (await db.iterator().all()).map(([key, value]) => ({ key, value }))
}

/**
 * Exclusive-or of the digests of envelopes. Takes one out as it brought it in. The ledger's own digest would not do: it is
 * of payloads, and a signature can be damaged as well.
 */
export class Sum {
  private readonly bytes = Buffer.alloc(32)

  static of(records: readonly SignedRecord[]): Sum {
    const sum = new Sum()
    for (const { bytes } of records) sum.toggle(bytes)
    return sum
  }

  toggle(envelope: Uint8Array): void {
    const digest = createHash('sha256').update(envelope).digest()
    for (let i = 0; i < 32; i++) this.bytes[i]! ^= digest[i]!
  }

  toString(): string {
    return this.bytes.toString('hex')
  }
}

function readOrNothing(value: Uint8Array, hash: Uint8Array, verify: boolean): SignedRecord | undefined {
  try {
    const record = readBack(value, hash)
    return verify ? open(value, record.mesh) : record
  } catch {
    return undefined
  }
}
