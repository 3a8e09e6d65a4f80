// Watches which containers of a chute have living processes, on the clock of this process and past every engine: what the
// kernel says, whatever a hung engine or a dead node would say.
import { readdirSync, readFileSync } from 'node:fs'

/** Milliseconds between two looks; what two looks of one container frame counts as life. */
const LOOK = 20

export interface Life {
  /** The container's id. */
  readonly id: string
  /** Milliseconds, monotonic. */
  from: number
  to: number
}

export class Copies {
  readonly lives: Life[] = []
  private readonly timer: NodeJS.Timeout

  /** @param marker an argument that no other program on this machine has */
  constructor(private readonly marker: string) {
    this.timer = setInterval(() => this.look(), LOOK)
  }

  stop(): void {
    clearInterval(this.timer)
  }

  /** Ids of the containers that live right now. */
  alive(): string[] {
    return [...new Set(readdirSync('/proc').flatMap((pid) => (Number(pid) > 0 ? this.containerOf(pid) : [])))]
  }

  /** Every two containers that lived at one time, in words; and nothing where there were none. */
  twins(): string[] {
    const inOrder = [...this.lives].sort((a, b) => a.from - b.from)
    return inOrder.flatMap((one, i) =>
      inOrder
        .slice(i + 1)
        .filter((other) => other.id !== one.id && other.from <= one.to)
        .map(
          (other) => `${one.id.slice(0, 12)} and ${other.id.slice(0, 12)} for ${Math.round(one.to - other.from)} ms`,
        ),
    )
  }

  private look(): void {
    const now = performance.now()
    for (const id of this.alive()) {
      const life = this.lives.findLast((one) => one.id === id)
      // A container that is started again has a second life.
      if (life !== undefined && now - life.to < 10 * LOOK) life.to = now
      else this.lives.push({ id, from: now, to: now })
    }
  }

  private containerOf(pid: string): string[] {
    try {
      if (!readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes(this.marker)) return []
      return /[0-9a-f]{64}/.exec(readFileSync(`/proc/${pid}/cgroup`, 'latin1')) ?? []
    } catch {
      return []
    }
  }
}
