// What is new to people in what is new to this AP: events made of records that came in, and of an outlook that changed.
import { apId, equalBytes, hex, unhex } from '../protocols/bytes.js'
import { readSecretSubject } from '../protocols/chute.js'
import type { SignedRecord } from '../protocols/envelope.js'
import { newConflicts } from '../protocols/history.js'
import { isKind, type RecordOf } from '../protocols/kinds.js'
import type { Membership } from '../protocols/membership.js'
import type { Outlook } from '../protocols/outlook.js'
import type { Events } from './events.js'
import type { Migration } from './figures.js'
import type { Verdict } from './mesh/conduct.js'
import type { LedgerStore } from './store/ledger-store.js'

/** What people call an AP, or its id where nobody knows. */
export const nameOf = ({ membership }: Outlook, ap: string): string => membership.members.get(ap)?.name ?? ap

export class News {
  constructor(
    private readonly events: Events,
    private readonly ledgerStore: LedgerStore,
  ) {}

  ofRecords(added: readonly SignedRecord[], outlook: Outlook): void {
    for (const record of added) this.ofRecord(record, outlook)
    this.ofConflicts(added.filter((record) => isKind(record, 'deployment')))
  }

  ofOutlook(before: Outlook, after: Outlook): void {
    if (before.membership !== after.membership) this.ofMembers(before.membership, after.membership)
    this.ofNames(before, after)
    this.ofVoters(before, after)
  }

  private ofMembers({ members: before }: Membership, { members: after, forgotten }: Membership): void {
    for (const [ap, { name }] of after) if (!before.has(ap)) this.events.add('joined', { ap, name })
    for (const [ap, { name }] of before)
      if (!after.has(ap)) this.events.add('forgotten', { ap, name, reason: forgotten.get(ap) })
  }

  /** An instance was stopped here. Where another AP has it, data it leaves is a branch that nobody continues (decision 12). */
  ofStop(key: string, instance: string, volumes: readonly string[], outlook: Outlook): void {
    this.events.add('stopped', { instance })
    const holder = outlook.placed.find((placed) => placed.instance === key)?.holder
    if (holder === undefined || volumes.length === 0) return
    this.events.add('branch-kept', { instance, volumes, holder, name: nameOf(outlook, holder) })
  }

  ofMigrations(migrations: readonly Migration[], outlook: Outlook): void {
    for (const { instance, from, to, cause, ms } of migrations) {
      const names = { from: nameOf(outlook, from), to: nameOf(outlook, to) }
      this.events.add('migrated', { instance: instanceNameOf(outlook, unhex(instance)), ...names, cause, ms })
    }
  }

  /** Once an episode: whoever misbehaves must not write to this disk by it. */
  ofVerdict({ kind, who, reason, ms }: Verdict, { membership }: Outlook): void {
    const name = membership.members.get(who)?.name
    this.events.add(kind, { from: who, ...(name !== undefined && { name }), reason, ...(ms !== undefined && { ms }) })
  }

  private ofRecord(record: SignedRecord, outlook: Outlook): void {
    if (isKind(record, 'claim')) {
      const instance = instanceNameOf(outlook, record.subject)
      const ap = apId(record.signer)
      this.events.add('claimed', {
        instance,
        ap,
        name: nameOf(outlook, ap),
        epoch: record.body.epoch,
        cause: record.body.cause,
      })
    } else if (isKind(record, 'deployment')) {
      this.events.add('published', {
        chute: chuteNameOf(record),
        revision: record.body.revision,
        publisher: hex(record.signer),
      })
    } else if (isKind(record, 'wanted')) {
      // Of what both sides of a partition asked for, only what counts is news.
      if (this.ledgerStore.ledger.history('wanted', record.subject)[0] !== record) return
      this.events.add('wanted', {
        chute: chuteNameOf(record),
        desired: record.body.desired,
        restarts: record.body.restarts,
      })
    } else if (isKind(record, 'secret')) {
      const { chute, secret } = readSecretSubject(record.subject)
      const isSet = record.body.sealed !== undefined
      this.events.add('secret', {
        chute: chuteNameOf({ subject: chute }),
        secret,
        isSet,
        publisher: hex(record.signer),
      })
    } else if (isKind(record, 'share')) {
      const names = { by: nameOf(outlook, apId(record.signer)), name: nameOf(outlook, apId(record.subject.slice(20))) }
      const chute = outlook.chutes.find(({ key }) => equalBytes(key, record.subject.subarray(0, 20)))?.id.name
      if (chute !== undefined) this.events.add('secret-given', { chute, ...names })
    } else if (isKind(record, 'removal')) {
      this.events.add('removed', { chute: chuteNameOf(record) })
    } else if (isKind(record, 'statement')) {
      const { boot, sequence, silence } = record.body
      const by = nameOf(outlook, apId(record.signer))
      this.events.add('accused', {
        ap: apId(record.subject),
        name: nameOf(outlook, apId(record.subject)),
        by,
        boot,
        sequence,
        silence,
      })
    } else if (isKind(record, 'grant') && record.body.uses === undefined) {
      this.events.add('granted', { key: hex(record.subject), role: record.body.role, by: hex(record.signer) })
    } else if (isKind(record, 'revocation')) {
      const kept = record.body.keep.length / 32
      this.events.add('revoked', { key: hex(record.subject), by: hex(record.signer), kept })
    } else if (isKind(record, 'drain')) {
      this.events.add(record.body.draining ? 'draining' : 'undrained', {
        ap: apId(record.subject),
        name: nameOf(outlook, apId(record.subject)),
      })
    }
  }

  private ofConflicts(added: readonly RecordOf<'deployment'>[]): void {
    const { ledger, clock } = this.ledgerStore
    const news = new Set(added)
    for (const { subject } of new Map(added.map((record) => [hex(record.subject), record])).values()) {
      const conflicts = newConflicts(ledger.history('deployment', subject), (one) => news.has(one), clock.now())
      for (const { winner, loser } of conflicts) {
        this.events.add('conflict', {
          chute: chuteNameOf(loser),
          publisher: hex(loser.signer),
          revision: loser.body.revision,
          winner: revisionOf(winner),
          loser: revisionOf(loser),
        })
      }
    }
  }

  private ofVoters(before: Outlook, after: Outlook): void {
    for (const { id, key } of after.chutes) {
      const electorate = after.electorates.get(hex(key))
      const known = before.electorates.get(hex(key))
      if (electorate === undefined || electorate.generation <= (known?.generation ?? 0)) continue
      const voters = electorate.voters.map((voter) => nameOf(after, apId(voter)))
      this.events.add('voters', { chute: id.name, generation: electorate.generation, voters })
    }
  }

  private ofNames(before: Outlook, after: Outlook): void {
    const known = publishersOf(before)
    for (const [chute, publishers] of publishersOf(after)) {
      if (publishers.length < 2 || publishers.length <= (known.get(chute)?.length ?? 0)) continue
      this.events.add('name-shared', { chute, publishers })
    }
  }
}

/** What people call an instance. */
export function instanceNameOf(outlook: Outlook, subject: Uint8Array): string {
  const chute = outlook.chutes.find(({ key }) => equalBytes(key, subject.subarray(0, 20)))
  const copy =
    subject[20] === 0 ? String(Buffer.from(subject).readUInt32BE(21)) : nameOf(outlook, apId(subject.slice(21)))
  return `${chute?.id.name ?? hex(subject.subarray(0, 20))}.${copy}`
}

const chuteNameOf = (record: Pick<SignedRecord, 'subject'>): string =>
  Buffer.from(record.subject.subarray(32)).toString('latin1')

const revisionOf = ({ body, hash, clock }: RecordOf<'deployment'>) => ({
  revision: body.revision,
  hash: hex(hash),
  signed: new Date(clock[0]).toISOString(),
})

/** The publishers of each name that a chute has. */
function publishersOf({ chutes }: Outlook): Map<string, string[]> {
  const publishers = new Map<string, string[]>()
  for (const { id } of chutes) publishers.set(id.name, [...(publishers.get(id.name) ?? []), hex(id.publisher)])
  return publishers
}
