// How others behave towards this AP: what each may use of it, what it did that none should, and what follows: it is not heard
// for a while, then shut out for a while, longer each time. Knows no socket and no clock.
import { Allowances, type Budget } from '../../protocols/allowance.js'

/**
 * What one peer may use. An honest one never gets there, or the mesh would fall apart by itself: each is a multiple of the
 * most that we can think of. What is beyond costs no more than a look, and goes to its account.
 */
const BUDGETS = {
  /**
   * Messages and control entries of gossip, and pulses by stream, whatever they say. A thousand chutes published at once are a thousand records and a thousand claims,
   * and one neighbour may be first with all of them; 64 neighbours that all change say ten beacons a second each.
   */
  messages: { burst: 8192, perSecond: 640 },
  /** Bytes of gossip: as many beacons of 4 kB, in bursts of the longest. */
  bytes: { burst: 64 * 1024 ** 2, perSecond: 2 * 1024 ** 2 },
  /** Streams. One that publishes without a pause syncs thirty times a second; a probe a tick and what else there is: ten. */
  streams: { burst: 512, perSecond: 64 },
  /** Work in syncs, in comparisons of a hash; see `SyncDependencies`. Four times a ledger of 16,384 records at once. */
  sync: { burst: 524_288, perSecond: 8192 },
} satisfies Record<string, Budget>

export type Resource = keyof typeof BUDGETS

/** What is forgiven each second, in points. What is provably bad, or beyond the budget, is a point. */
const FORGIVEN = 0.5
/** With so many points one is not heard, with so many shut out. Ten bad messages at once could be a fault in one's memory. */
const THROTTLED_AT = 10
const SHUT_OUT_AT = 30
/** For so long the first time, twice as long each further one, in milliseconds; and after so long without it is the first again. */
const SHUT_OUT_FIRST = 10_000
const SHUT_OUT_MOST = 600_000
const FORGOTTEN_AFTER = 3_600_000

const PEERS_KEPT = 1000

export interface Verdict {
  readonly kind: 'throttled' | 'shut-out'
  readonly who: string
  /** What it did last, of what led here. */
  readonly reason: string
  /** For how long it is shut out. */
  readonly ms?: number
}

interface Account {
  points: number
  at: number
  /** True until all is forgiven: it was told that this one is not heard. */
  isTold: boolean
  /** Until when it is shut out, and how often it was. */
  until: number
  times: number
}

export class Conduct {
  private readonly accounts = new Map<string, Account>()
  private readonly stocks = Object.fromEntries(
    Object.entries(BUDGETS).map(([resource, budget]) => [resource, new Allowances(budget, PEERS_KEPT)]),
  ) as Record<Resource, Allowances>

  /**
   * @param now milliseconds on a scale that only grows
   * @param onVerdict called once when somebody is not heard any more, and each time that it is shut out
   */
  constructor(
    private readonly now: () => number,
    private readonly onVerdict: (verdict: Verdict) => void = () => {},
  ) {}

  /** Takes from what a peer may use. False, and to its account, where that is used up. */
  spend(who: string, resource: Resource, amount = 1): boolean {
    if (this.stocks[resource].take(who, this.now(), amount)) return true
    this.offend(who, `too many ${resource}`)
    return false
  }

  /** It did what none should. */
  offend(who: string, reason: string): void {
    const now = this.now()
    const account = this.accounts.get(who) ?? { points: 0, at: now, isTold: false, until: now, times: 0 }
    if (now < account.until) return // what was under way when it was shut out
    const points = this.pointsOf(account)
    if (points === 0) account.isTold = false
    Object.assign(account, { points: points + 1, at: now })
    this.keep(who, account)
    if (account.points >= SHUT_OUT_AT) this.shutOut(who, account, reason)
    else if (account.points >= THROTTLED_AT && !account.isTold) {
      account.isTold = true
      this.onVerdict({ kind: 'throttled', who, reason })
    }
  }

  /** False where what it sends is not looked at. */
  isHeard(who: string): boolean {
    return this.points(who) < THROTTLED_AT && !this.isShutOut(who)
  }

  isShutOut(who: string): boolean {
    return this.now() < (this.accounts.get(who)?.until ?? Number.NEGATIVE_INFINITY)
  }

  points(who: string): number {
    const account = this.accounts.get(who)
    return account === undefined ? 0 : this.pointsOf(account)
  }

  private pointsOf({ points, at }: Account): number {
    return Math.max(0, points - ((this.now() - at) / 1000) * FORGIVEN)
  }

  private shutOut(who: string, account: Account, reason: string): void {
    const now = this.now()
    const times = now - account.until > FORGOTTEN_AFTER ? 1 : account.times + 1
    const ms = Math.min(SHUT_OUT_MOST, SHUT_OUT_FIRST * 2 ** (times - 1))
    // It comes back with nothing on its account but how often it was out.
    Object.assign(account, { points: 0, at: now, isTold: false, until: now + ms, times })
    this.onVerdict({ kind: 'shut-out', who, reason, ms })
  }

  private keep(who: string, account: Account): void {
    this.accounts.delete(who)
    this.accounts.set(who, account)
    if (this.accounts.size > PEERS_KEPT) this.accounts.delete(this.accounts.keys().next().value!)
  }
}
