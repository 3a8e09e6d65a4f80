// How an AP stands with this one in gossip: who hands on what is provably bad is heard no more for a while.

/** What is forgiven each second, as a share. Ten bad messages at once are the graylist (host.ts). */
const FORGIVEN = 0.1
const PEERS_KEPT = 1000

/** Gossipsub scores topics that it knows from the start alone, and those of neighbourhoods change. */
export class Standing {
  private readonly misdeeds = new Map<string, { count: number; at: number }>()

  /** It handed on something bad. */
  lower(ap: string): void {
    const count = this.countOf(ap) + 1
    this.misdeeds.delete(ap)
    this.misdeeds.set(ap, { count, at: performance.now() })
    if (this.misdeeds.size > PEERS_KEPT) this.misdeeds.delete(this.misdeeds.keys().next().value!)
  }

  /** Zero, or minus the square of how often. */
  of(ap: string): number {
    return -(this.countOf(ap) ** 2)
  }

  private countOf(ap: string): number {
    const known = this.misdeeds.get(ap)
    if (known === undefined) return 0
    return known.count * (1 - FORGIVEN) ** ((performance.now() - known.at) / 1000)
  }
}
