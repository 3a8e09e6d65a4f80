// Views over the ledger are asked for far more often than anything in the ledger changes that they look at: what came out
// last time is remembered.
import type { Ledger } from './ledger.js'

const outcomes = new WeakMap<Ledger, Map<string, { inputs: readonly unknown[]; outcome: unknown }>>()

/**
 * The last outcome of `make` under this name, while the inputs are the very same as then: all that the outcome follows from,
 * such as `ledger.stamp` of the kinds it looks at.
 */
export function remembered<T>(ledger: Ledger, name: string, inputs: readonly unknown[], make: () => T): T {
  let views = outcomes.get(ledger)
  if (views === undefined) {
    views = new Map()
    outcomes.set(ledger, views)
  }
  const last = views.get(name)
  if (last !== undefined && isSameList(last.inputs, inputs)) return last.outcome as T
  const outcome = make()
  views.set(name, { inputs, outcome })
  return outcome
}

export const isSameList = (a: readonly unknown[], b: readonly unknown[]): boolean =>
  a.length === b.length && a.every((item, i) => item === b[i])
