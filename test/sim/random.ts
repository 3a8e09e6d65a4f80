// Randomness of a run: everything that is left to chance is drawn from its seed, so that one seed is one run.
import { sha256, utf8 } from '../../protocols/bytes.js'

export class Random {
  private readonly state: Uint32Array

  constructor(private readonly seed: string) {
    this.state = new Uint32Array(sha256(utf8(seed)).slice(0, 16).buffer)
  }

  /** A source of its own for one purpose: what is drawn elsewhere, or left out when a scenario shrinks, does not shift it. */
  fork(purpose: string | number): Random {
    return new Random(`${this.seed}/${purpose}`)
  }

  /** In [0, 1). The generator is sfc32 of Chris Doty-Humphrey's PractRand. */
  next(): number {
    const s = this.state
    const sum = (s[0]! + s[1]! + s[3]!) >>> 0
    s[3] = s[3]! + 1
    s[0] = s[1]! ^ (s[1]! >>> 9)
    s[1] = s[2]! + (s[2]! << 3)
    s[2] = ((s[2]! << 21) | (s[2]! >>> 11)) + sum
    return sum / 2 ** 32
  }

  between(from: number, to: number): number {
    return from + (to - from) * this.next()
  }

  /** An integer in [0, below). */
  int(below: number): number {
    return Math.floor(this.next() * below)
  }

  chance(probability: number): boolean {
    return probability > 0 && this.next() < probability
  }

  /** Exponentially distributed: how long things take that are mostly quick. */
  around(mean: number): number {
    return -mean * Math.log(1 - this.next())
  }

  pick<T>(items: readonly T[]): T {
    return items[this.int(items.length)]!
  }

  shuffled<T>(items: readonly T[]): T[] {
    const all = [...items]
    for (let i = all.length - 1; i > 0; i--) {
      const j = this.int(i + 1)
      ;[all[i], all[j]] = [all[j]!, all[i]!]
    }
    return all
  }

  bytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.int(256))
  }
}
