// What one may use of something in a while: a stock that fills up again. Kept for many by name, in bounded memory.

export interface Budget {
  /** What there is at most, and at first. */
  readonly burst: number
  readonly perSecond: number
}

/** Who was heard of for the longest time is forgotten beyond so many. */
const KEPT = 1000

export class Allowances {
  private readonly stocks = new Map<string, { left: number; at: number }>()

  constructor(
    private readonly budget: Budget,
    private readonly kept = KEPT,
  ) {}

  /** Takes an amount, or nothing where there is not enough. @param now in milliseconds, on a scale that only grows */
  take(who: string, now: number, amount = 1): boolean {
    const { burst, perSecond } = this.budget
    const before = this.stocks.get(who) ?? { left: burst, at: now }
    const left = Math.min(burst, before.left + ((now - before.at) / 1000) * perSecond)
    const isEnough = left >= amount
    this.stocks.delete(who) // so that the first in the map is the one not heard of for the longest time
    this.stocks.set(who, { left: isEnough ? left - amount : left, at: now })
    if (this.stocks.size > this.kept) this.stocks.delete(this.stocks.keys().next().value!)
    return isEnough
  }
}
