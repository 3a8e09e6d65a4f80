// Virtual time: a queue of what is to happen, in order. Nothing waits for a real clock, and events of one moment happen in
// the order in which they were asked for.

interface Event {
  readonly at: number
  readonly order: number
  readonly run: () => void
}

/** Every so many times the event loop has its turn all the same: it tells of rejections that nobody heard. */
const TURN = 256
/** Events of one moment; more of them are a loop. */
const MOST_AT_ONCE = 100_000

export class Scheduler {
  /** Milliseconds since the run began. */
  now = 0
  /** Events that have happened. */
  steps = 0
  private readonly heap: Event[] = []
  private asked = 0
  private isSettled = true
  private settled = 0
  private standing = 0
  private isStopped = false

  at(time: number, run: () => void): void {
    this.push({ at: Math.max(time, this.now), order: this.asked++, run })
  }

  after(ms: number, run: () => void): void {
    this.at(this.now + ms, run)
  }

  /** Tells that promises were settled, or code called that awaits some: all that follows from it comes before the next event. */
  touch(): void {
    this.isSettled = false
  }

  stop(): void {
    this.isStopped = true
  }

  async runUntil(end: number): Promise<void> {
    while (!this.isStopped && this.heap.length > 0 && this.heap[0]!.at <= end) {
      const { at, run } = this.pop()
      this.standing = at > this.now ? 0 : this.standing + 1
      if (this.standing > MOST_AT_ONCE) throw new Error(`time stands still at ${at} ms: events never end`)
      this.now = at
      this.steps++
      run()
      if (this.isSettled) continue
      this.isSettled = true
      await this.settle()
    }
    await new Promise((resolve) => setImmediate(resolve))
    if (!this.isStopped) this.now = end
  }

  /** Lets promises run until there are none that can. A tick comes after them, and costs far less than a turn of the event loop. */
  private settle(): Promise<void> {
    const isTurn = this.settled++ % TURN === 0
    return new Promise((resolve) => (isTurn ? setImmediate(resolve) : process.nextTick(resolve)))
  }

  private push(event: Event): void {
    const { heap } = this
    let i = heap.length
    heap.push(event)
    while (i > 0) {
      const parent = (i - 1) >> 1
      if (!isBefore(event, heap[parent]!)) break
      heap[i] = heap[parent]!
      i = parent
    }
    heap[i] = event
  }

  private pop(): Event {
    const { heap } = this
    const first = heap[0]!
    const last = heap.pop()!
    const length = heap.length
    if (length === 0) return first
    let i = 0
    for (;;) {
      let child = 2 * i + 1
      if (child >= length) break
      if (child + 1 < length && isBefore(heap[child + 1]!, heap[child]!)) child++
      if (!isBefore(heap[child]!, last)) break
      heap[i] = heap[child]!
      i = child
    }
    heap[i] = last
    return first
  }
}

const isBefore = (a: Event, b: Event): boolean => a.at < b.at || (a.at === b.at && a.order < b.order)
