// Broken parts, to see that the simulator finds what they break. Each takes the place of something right in every AP of a run.
import type { Leases } from '../../node/chutes/leases.js'
import { apId } from '../../protocols/bytes.js'
import { compareRecords, type SignedRecord } from '../../protocols/envelope.js'
import { isKind, type Kind, type RecordOf } from '../../protocols/kinds.js'
import type { Intake } from '../../protocols/known.js'
import type { Holders } from '../../protocols/leases.js'
import type { Ledger, Merged } from '../../protocols/ledger.js'
import type { Roster } from '../../protocols/roster.js'
import type { Disk } from './disk.js'

export interface Mutation {
  leases?(leases: Leases): void
  ledger?(ledger: Ledger): void
  disk?(disk: Disk): void
  intake?(intake: Intake): void
  roster?(roster: Roster): void
  /** Whether a record is taken whatever its kind demands of it. */
  trusts?(record: SignedRecord): boolean
}

export const MUTATIONS: Readonly<Record<string, Mutation>> = {
  /** What comes later is believed to be newer: a record that is older than one of its register is thrown away. */
  merge: {
    ledger(ledger) {
      const merge = ledger.merge.bind(ledger)
      ledger.merge = (record: SignedRecord): Merged => {
        const newer = ledger
          .records()
          .some(
            (other) =>
              other.kind === record.kind &&
              Buffer.compare(other.subject, record.subject) === 0 &&
              Buffer.compare(other.signer, record.signer) === 0 &&
              compareRecords(other, record) > 0,
          )
        return newer ? { added: false, dropped: [] } : merge(record)
      }
    },
  },
  /** Voters grant whatever they are asked for. */
  lease: {
    leases(leases) {
      const answer = leases.answer.bind(leases)
      leases.answer = async (from, message) => (await answer(from, message)).map(() => ({ granted: true }))
    },
  },
  /** A holder needs the promise of one voter alone. */
  majority: {
    leases(leases) {
      const holders = Reflect.get(leases, 'holders') as Holders
      const want = holders.want.bind(holders)
      holders.want = (seats, now) =>
        want(
          seats.map((seat) => ({ ...seat, voters: seat.voters.slice(0, 1) })),
          now,
        )
    },
  },
  /** One watcher is believed that says that an AP is dead. */
  death: {
    roster(roster) {
      roster.certificate = (ap, accusations = roster.accusations(ap)) =>
        accusations.length > 0 ? [...accusations] : undefined
    },
  },
  /** A beacon is believed to come from the AP that it names, whoever signed it. */
  beacon: {
    trusts: ({ kind }) => kind === 'beacon',
    roster(roster) {
      const beacon = roster.beacon.bind(roster)
      roster.beacon = (_, record, now) => beacon(apId(record.subject), record, now)
    },
  },
  /** One key may fill the ledger. */
  quota: {
    ledger(ledger) {
      Reflect.set(ledger, 'dropBeyondQuota', () => [])
    },
  },
  /** Grants never end. */
  expiry: {
    ledger(ledger) {
      const inForce = ledger.inForce.bind(ledger)
      ledger.inForce = <K extends Kind>(kind: K, nowMs: number): RecordOf<K>[] =>
        inForce(kind, nowMs).map((record) =>
          isKind(record, 'grant') ? { ...record, body: { ...record.body, expires: 0 } } : record,
        )
    },
  },
  /** What anybody signs is taken in. */
  intake: {
    intake(intake) {
      Reflect.set(intake, 'known', { takes: () => true, keeps: () => true })
      Reflect.set(intake, 'evict', () => [])
      Reflect.set(intake, 'look', () => false)
    },
  },
  /** The disk says that it has synced as soon as it is asked to. */
  fsync: {
    disk(disk) {
      disk.lies = true
    },
  },
}
