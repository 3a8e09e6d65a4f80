// What other APs are worth as sources, by how they were as such: how soon one answers, and how fast it sends.

/** What is measured counts for so much against what is known from before. */
const NEW = 0.3
/** Bytes that it is judged by: what one is asked for ahead. Of less the latency would say all, of more nothing. */
const LOAD = 2 ** 20

interface Known {
  /** Milliseconds to the first answer. */
  latency?: number
  /** Bytes a millisecond. */
  rate?: number
}

export class Worth {
  private readonly known = new Map<string, Known>()

  noteLatency(ap: string, ms: number): void {
    this.note(ap, 'latency', ms)
  }

  noteRate(ap: string, bytesPerMs: number): void {
    this.note(ap, 'rate', bytesPerMs)
  }

  /**
   * How fast one gives what it is asked for, in bytes a millisecond. Who is not known yet is worth as much as the middle of those
   * that are, so that each is tried some time.
   */
  of(ap: string): number {
    const own = worthOf(this.known.get(ap))
    if (own !== undefined) return own
    const others = [...this.known.values()].flatMap((known) => worthOf(known) ?? []).sort((a, b) => a - b)
    return others[others.length >> 1] ?? 0
  }

  private note(ap: string, what: keyof Known, value: number): void {
    const known = this.known.get(ap) ?? {}
    const before = known[what] ?? value
    this.known.set(ap, { ...known, [what]: (1 - NEW) * before + NEW * value })
  }
}

const worthOf = ({ latency = 0, rate }: Known = {}): number | undefined =>
  rate === undefined ? undefined : LOAD / (latency + LOAD / rate)
