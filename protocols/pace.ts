// How often an AP looks, tells and compares, and how long it waits for news: what node/ and the simulator have in common
// beyond the decisions themselves. All in milliseconds.
import { equalBytes } from './bytes.js'

/** How often the roster is asked what to do, and the outlook taken even where nothing has changed. */
export const TICK = 100
export const REFRESH = 1000

/** How soon one beacon may follow another, and how long a change waits for others that come with it. */
export const BEACON_MIN = 100
/** A beacon that says something new is repeated once: gossip may not have known of a connection that was just made. */
const BEACON_AGAIN = 2000
const BEACON_EACH = 6000
/**
 * What a sync brought came by no gossip, and others that are not watched may lack it as well, with no digest to compare:
 * who is surrounded by members that pass nothing on hears of it in this way alone.
 */
const BEACON_LEARNED = 1000

/**
 * After how long without a change a beacon goes out all the same: so that one each six seconds is heard, of however many.
 * That an AP lives its pulses say, and a beacon that was lost comes with the next sync.
 * @param isNews whether the last one said something new
 * @param hasLearned whether a sync has brought records since
 */
export function beaconPause(members: number, isNews: boolean, hasLearned = false): number {
  if (hasLearned) return BEACON_LEARNED
  return isNews ? BEACON_AGAIN : members * BEACON_EACH
}

/** Alone in the dark, an AP waits so long for news before it starts what it held. */
const DARK_PATIENCE = 5000

/**
 * True once an AP that started `sinceStart` ago may act on what it knows: what it held may run elsewhere by now. Damage to
 * its ledger may have taken a removal, or somebody's claim: then what runs already runs on, and nothing else begins,
 * however long the dark lasts.
 */
export const isInformed = (isAlone: boolean, hasSynced: boolean, isDamaged: boolean, sinceStart: number): boolean =>
  isAlone || hasSynced || (!isDamaged && sinceStart >= DARK_PATIENCE)

/** How often to see with whom a sync is due. */
export const COMPARE = 500
/** A digest may differ for as long as gossip takes; after that, sync. */
const DIFFERENCE_PATIENCE = 1500
/** And now and then with anyone, in case a digest was never heard. */
const SYNC_EVERY = 30_000

/** Remembers whose ledger differs from this AP's, and says with whom a sync is due. Times are on one monotonic scale. */
export class Differences {
  /** When a digest that differs was heard first, and last. */
  private readonly heard = new Map<string, { first: number; last: number }>()

  constructor(private lastRandom: number) {}

  /** Notes the digest of another AP's ledger, beside this AP's own. */
  compare(ap: string, theirs: Uint8Array, ours: Uint8Array, now: number): void {
    if (equalBytes(theirs, ours)) this.heard.delete(ap)
    else this.heard.set(ap, { first: this.heard.get(ap)?.first ?? now, last: now })
  }

  /**
   * A sync with this AP was completed. A digest that was heard while it went on may know of more than it brought, and from one
   * that this AP is not watched by the next one may be minutes away.
   */
  synced(ap: string, began: number): void {
    const heard = this.heard.get(ap)
    if (heard === undefined) return
    if (heard.last < began) this.heard.delete(ap)
    else this.heard.set(ap, { first: heard.last, last: heard.last })
  }

  /** A sync with this AP came to nothing: there may be no other word of its ledger for minutes, so it is tried again. */
  failed(ap: string, now: number): void {
    if (!this.heard.has(ap)) this.heard.set(ap, { first: now, last: now })
  }

  /** It is gone. */
  forget(ap: string): void {
    this.heard.delete(ap)
  }

  /** @param draw a random number in [0, 1) */
  due(connected: readonly string[], now: number, draw: number): string[] {
    const due = connected.filter((ap) => now - (this.heard.get(ap)?.first ?? now) > DIFFERENCE_PATIENCE)
    if (now - this.lastRandom > SYNC_EVERY && connected.length > 0) {
      this.lastRandom = now
      due.push(connected[Math.floor(draw * connected.length)]!)
    }
    for (const ap of due) this.heard.delete(ap)
    return due
  }
}

/** How slowly instances move where nothing is wrong. */
export interface Balance {
  /** An AP that came, or came back, gets nothing before it has been there for so long: one that comes and goes attracts no work. */
  readonly steady: number
  /** For so long a move must have been next: where waits end, APs see it at not quite the same time, and two moves for one. */
  readonly sure: number
  /** From one move in the mesh to the next. */
  readonly pause: number
  /** A moved instance that does not serve holds up the next move, but not for ever. */
  readonly settle: number
  /** From one move of an instance to its next: where an AP turns out to be wrong for it, it is not tried again and again. */
  readonly rest: number
}

export const BALANCE: Balance = { steady: 120_000, sure: 3000, pause: 30_000, settle: 300_000, rest: 3_600_000 }
