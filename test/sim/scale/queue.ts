// Virtual time for millions of events a second: a wheel of milliseconds, whose events are rows of numbers in typed arrays. What
// an event means, others know. Events of one millisecond happen in the order in which they were asked for.

/** Nothing is asked for further ahead, in milliseconds. A power of two. */
const HORIZON = 1 << 14
const NONE = -1

export class Queue {
  /** Milliseconds since the run began. */
  now = 0
  events = 0
  // The event that happens now.
  kind = 0
  who = 0
  a = 0
  b = 0
  private readonly first = new Int32Array(HORIZON).fill(NONE)
  private readonly last = new Int32Array(HORIZON).fill(NONE)
  private kinds = new Uint8Array(1024)
  private whos = new Int32Array(1024)
  private as = new Int32Array(1024)
  private bs = new Int32Array(1024)
  private nexts = new Int32Array(1024)
  private used = 0
  private free = NONE

  /** @param after milliseconds from now, rounded up */
  add(after: number, kind: number, who: number, a: number, b: number): void {
    if (!(after < HORIZON - 1)) throw new Error(`an event ${after} ms ahead; the wheel has ${HORIZON}`)
    let row = this.free
    if (row !== NONE) this.free = this.nexts[row]!
    else {
      row = this.used++
      if (row === this.kinds.length) this.grow()
    }
    this.kinds[row] = kind
    this.whos[row] = who
    this.as[row] = a
    this.bs[row] = b
    this.nexts[row] = NONE
    const slot = (this.now + Math.ceil(Math.max(0, after))) & (HORIZON - 1)
    const last = this.last[slot]!
    if (last === NONE) this.first[slot] = row
    else this.nexts[last] = row
    this.last[slot] = row
  }

  /** Makes the next event until `end` the current one; false where there is none. */
  next(end: number): boolean {
    let slot = this.now & (HORIZON - 1)
    while (this.first[slot] === NONE) {
      if (this.now >= end) return false
      this.now++
      slot = this.now & (HORIZON - 1)
    }
    const row = this.first[slot]!
    const next = this.nexts[row]!
    this.first[slot] = next
    if (next === NONE) this.last[slot] = NONE
    this.kind = this.kinds[row]!
    this.who = this.whos[row]!
    this.a = this.as[row]!
    this.b = this.bs[row]!
    this.nexts[row] = this.free
    this.free = row
    this.events++
    return true
  }

  private grow(): void {
    const rows = this.kinds.length * 2
    const grown = new Uint8Array(rows)
    grown.set(this.kinds)
    this.kinds = grown
    this.whos = longer(this.whos, rows)
    this.as = longer(this.as, rows)
    this.bs = longer(this.bs, rows)
    this.nexts = longer(this.nexts, rows)
  }
}

function longer(array: Int32Array<ArrayBuffer>, rows: number): Int32Array<ArrayBuffer> {
  const grown = new Int32Array(rows)
  grown.set(array)
  return grown
}
