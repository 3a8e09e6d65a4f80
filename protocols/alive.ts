// What is known of an AP where its beacons are not heard: what its record of kind alive says. Pure.
import { apId } from './bytes.js'
import type { RecordOf } from './kinds.js'
import type { Ledger } from './ledger.js'
import type { Membership } from './membership.js'
import { refutes } from './refutation.js'
import { isSameList, remembered } from './view.js'

/** The latest that each AP said so, by AP id. */
export const alivesOf = (ledger: Ledger, nowMs: number): ReadonlyMap<string, RecordOf<'alive'>> =>
  remembered(
    ledger,
    'alives',
    [ledger.stamp('alive', nowMs)],
    () => new Map(ledger.effective('alive', nowMs).map((record) => [apId(record.signer), record])),
  )

/**
 * True where an AP in a divided mesh should sign a new one: it is to be found elsewhere than it said, it is accused of what
 * nothing refutes that those far away know, or it is back after a goodbye.
 */
export function mustShowLife(
  ledger: Ledger,
  { members }: Membership,
  key: Uint8Array,
  boot: number,
  addresses: readonly string[],
  nowMs: number,
): boolean {
  const said = alivesOf(ledger, nowMs).get(apId(key))?.body
  if (said === undefined || !isSameList(said.addresses, addresses)) return true
  const statements = ledger.effectiveOn('statement', key, nowMs).filter(({ signer }) => members.has(apId(signer)))
  if (statements.some((statement) => !refutes(said, statement))) return true
  return ledger.effectiveOn('goodbye', key, nowMs).some(({ body }) => body.boot < boot && body.boot >= said.boot)
}
