// Known keys: whose records a ledger takes in, and of which kinds. A view over the ledger that asks neither for the time nor for what was
// revoked: what a key was ever let do it leaves records of. What comes from any other key waits beside the ledger, within bounds: else a
// member could fill all ledgers with records of keys that it makes up.
import { compareBytes, equalBytes, hex } from './bytes.js'
import { compareClocks } from './clock.js'
import type { SignedRecord } from './envelope.js'
import { isKind, type RecordOf } from './kinds.js'
import type { Ledger } from './ledger.js'
import { MAX_EXCESS, MAX_WAITING, MAX_WAITING_BYTES, MAX_WAITING_OF_SIGNER } from './limits.js'
import { meshIdOf } from './membership.js'
import { remembered } from './view.js'

/** Keys in hex. */
interface Keys {
  /** Who can sign grants, revocations and tickets. */
  readonly admins: ReadonlySet<string>
  /** Who can sign chutes: publishers, and admins that are no APs. */
  readonly publishers: ReadonlySet<string>
  readonly aps: ReadonlySet<string>
  readonly tickets: ReadonlySet<string>
}

/** What the kinds that it writes itself let an AP sign. */
const AP_KINDS: readonly string[] = ['claim', 'voters', 'statement', 'goodbye', 'alive', 'settings', 'origin', 'share']
const ADMIN_KINDS: readonly string[] = ['grant', 'revocation']
const CHUTE_KINDS: readonly string[] = ['deployment', 'wanted', 'removal', 'secret']

export class Known {
  constructor(
    private readonly keys: Keys,
    private readonly mesh: Uint8Array,
  ) {}

  /** True where the ledger takes a record in, believed or not. */
  takes(record: SignedRecord): boolean {
    const { admins, publishers, aps, tickets } = this.keys
    const signer = hex(record.signer)
    const isAp = aps.has(signer)
    if (admins.has(signer)) return true
    if (isKind(record, 'member')) {
      if (tickets.has(hex(record.body.admission.ticket))) return true
    } else if (isKind(record, 'forget') || isKind(record, 'drain')) {
      if (isAp && equalBytes(record.signer, record.subject)) return true
    } else if (CHUTE_KINDS.includes(record.kind)) {
      if (publishers.has(signer)) return true
    } else if (AP_KINDS.includes(record.kind)) {
      if (isAp) return true
    } else if (!ADMIN_KINDS.includes(record.kind) && (isAp || publishers.has(signer))) return true
    // The mesh key is known before anything that it signed.
    return equalBytes(meshIdOf(isKind(record, 'member') ? record.body.admission.ticket : record.signer), this.mesh)
  }

  /** True where it stays there: of the APs that present one ticket only some do. */
  keeps(record: SignedRecord): boolean {
    return isKind(record, 'member') ? this.keys.aps.has(hex(record.signer)) : this.takes(record)
  }
}

/** A time at which every record is due. */
const EVER = Number.POSITIVE_INFINITY

function knownTo(ledger: Ledger, mesh: Uint8Array): Known {
  const inputs = (['grant', 'member', 'forget'] as const).map((kind) => ledger.stamp(kind, EVER))
  return remembered(ledger, 'known', inputs, () => new Known(findKeys(ledger, mesh), mesh))
}

function findKeys(ledger: Ledger, mesh: Uint8Array): Keys {
  const grants = ledger.inForce('grant', EVER)
  const members = ledger.effective('member', EVER)
  const forgets = ledger.effective('forget', EVER)
  const signers = [...grants.map(({ signer }) => signer), ...members.map(({ body }) => body.admission.ticket)]
  const meshKey = signers.find((key) => equalBytes(meshIdOf(key), mesh))
  const root = meshKey === undefined ? [] : [hex(meshKey)]
  // Who is an admin by what an admin signed: once more, until no more are found.
  for (let admins = new Set(root); ; ) {
    const publishers = new Set(root)
    const found = new Set(admins)
    const tickets = new Map<string, { uses: number; isForAdmins: boolean }>(
      root.map((key) => [key, { uses: 1, isForAdmins: true }]),
    )
    for (const { signer, subject, body } of grants) {
      if (!admins.has(hex(signer))) continue
      const key = hex(subject)
      if (body.uses !== undefined) {
        const before = tickets.get(key)
        tickets.set(key, {
          uses: Math.max(body.uses, before?.uses ?? 0),
          isForAdmins: body.role === 'admin' || (before?.isForAdmins ?? false),
        })
      } else if (body.role !== 'ap') {
        publishers.add(key)
        if (body.role === 'admin') found.add(key)
      }
    }
    const wereForgotten = new Set(
      forgets.filter(({ signer }) => admins.has(hex(signer))).map(({ subject }) => hex(subject)),
    )
    const aps = new Set<string>()
    const taken = new Map<string, number>()
    for (const { signer, body } of [...members].sort(byAdmission)) {
      const ticket = hex(body.admission.ticket)
      const granted = tickets.get(ticket)
      const count = taken.get(ticket) ?? 0
      if (granted === undefined || (!wereForgotten.has(hex(signer)) && count >= granted.uses + MAX_EXCESS)) continue
      if (!wereForgotten.has(hex(signer))) taken.set(ticket, count + 1)
      aps.add(hex(signer))
      if (granted.isForAdmins) found.add(hex(signer))
    }
    if (found.size === admins.size) return { admins, publishers, aps, tickets: new Set(tickets.keys()) }
    admins = found
  }
}

const byAdmission = (a: RecordOf<'member'>, b: RecordOf<'member'>): number =>
  compareClocks(a.body.admission.at, b.body.admission.at) || compareBytes(a.signer, b.signer)

/** Records whose keys are not known: in memory alone, in no digest, and never passed on. */
class WaitingRecords {
  private readonly records = new Map<string, SignedRecord>()
  private bytes = 0

  hold(record: SignedRecord): void {
    const id = hex(record.hash)
    if (this.records.has(id)) return
    const own = [...this.records.values()].filter(({ signer }) => equalBytes(signer, record.signer))
    if (own.length >= MAX_WAITING_OF_SIGNER) this.drop(hex(own[0]!.hash))
    this.records.set(id, record)
    this.bytes += record.bytes.length
    while (this.records.size > MAX_WAITING || this.bytes > MAX_WAITING_BYTES)
      this.drop(this.records.keys().next().value!)
  }

  /** Gives out those that are waited with no longer. */
  release(known: Known): SignedRecord[] {
    const released = [...this.records.values()].filter((record) => known.takes(record))
    for (const { hash } of released) this.drop(hex(hash))
    return released
  }

  private drop(id: string): void {
    this.bytes -= this.records.get(id)!.bytes.length
    this.records.delete(id)
  }

  get size(): number {
    return this.records.size
  }
}

/** The way into a ledger. */
export class Intake {
  private readonly waiting = new WaitingRecords()
  private known: Known

  constructor(
    private readonly ledger: Ledger,
    private readonly mesh: Uint8Array,
  ) {
    this.known = knownTo(ledger, mesh)
  }

  /** How many records wait for their keys to become known. */
  get waits(): number {
    return this.waiting.size
  }

  /** True where a record need not wait. */
  takes(record: SignedRecord): boolean {
    return this.known.takes(record)
  }

  /**
   * Merges records, and those that waited for them; what is left waits.
   * @returns what is in the ledger now and was not before, and what was before and is not any more
   */
  admit(records: readonly SignedRecord[]): { added: SignedRecord[]; dropped: SignedRecord[] } {
    const added = new Map<string, SignedRecord>()
    const dropped = new Map<string, SignedRecord>()
    const note = (gone: readonly SignedRecord[]) => {
      for (const one of gone) if (!added.delete(hex(one.hash))) dropped.set(hex(one.hash), one)
    }
    let left = inOrder(records)
    for (;;) {
      const strange: SignedRecord[] = []
      for (const record of left) {
        if (record.kind === 'beacon') continue
        if (!this.known.takes(record)) {
          strange.push(record)
          continue
        }
        const merged = this.ledger.merge(record)
        if (merged.added && !dropped.delete(hex(record.hash))) added.set(hex(record.hash), record)
        note(merged.dropped)
      }
      if (!this.look()) {
        for (const record of strange) this.waiting.hold(record)
        return { added: [...added.values()], dropped: [...dropped.values()] }
      }
      note(this.evict())
      left = [...strange, ...this.waiting.release(this.known)]
    }
  }

  /** @returns whether other keys may be known now */
  private look(): boolean {
    const before = this.known
    this.known = knownTo(this.ledger, this.mesh)
    return this.known !== before
  }

  /** Takes out what is of no known key, or of none any more, such as an AP of whose ticket others made use first. */
  evict(): SignedRecord[] {
    const gone: SignedRecord[] = []
    for (;;) {
      const strange = this.ledger.records().filter((record) => !this.known.keeps(record))
      if (strange.length === 0) return gone
      for (const record of strange) gone.push(record, ...this.ledger.remove(record))
      this.known = knownTo(this.ledger, this.mesh)
    }
  }
}

/** Of records that come together those first on which it depends what becomes of others: what a revocation lists must not go before it comes. */
const FIRST: readonly string[] = ['revocation', 'grant', 'member']

export function inOrder(records: readonly SignedRecord[]): readonly SignedRecord[] {
  return records.some(({ kind }) => FIRST.includes(kind)) ? [...records].sort((a, b) => rankOf(a) - rankOf(b)) : records
}

const rankOf = ({ kind }: SignedRecord): number => (FIRST.includes(kind) ? FIRST.indexOf(kind) : FIRST.length)
