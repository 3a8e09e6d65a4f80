// Broken parts, to see that the simulator finds what they break. Each takes the place of something right in every AP of a run.
import type { Leases } from '../../node/chutes/leases.js'
import { compareRecords, type SignedRecord } from '../../protocols/envelope.js'
import type { Gate } from '../../protocols/known.js'
import type { Ledger, Merged } from '../../protocols/ledger.js'
import type { Disk } from './disk.js'

export interface Mutation {
  leases?(leases: Leases): void
  ledger?(ledger: Ledger): void
  disk?(disk: Disk): void
  gate?(gate: Gate): void
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
  /** What anybody signs is taken in. */
  gate: {
    gate(gate) {
      Reflect.set(gate, 'known', { takes: () => true, keeps: () => true })
      Reflect.set(gate, 'evict', () => [])
      Reflect.set(gate, 'look', () => false)
    },
  },
  /** The disk says that it has synced as soon as it is asked to. */
  fsync: {
    disk(disk) {
      disk.lies = true
    },
  },
}
