// The watchdog of a host, in place of node/chutes/guard.ts and watchdog.ts: it outlives the node, not the power, and ends
// containers whose time is over without asking the engine.
import type { LeasesOptions } from '../../node/chutes/leases.js'
import type { WatchedContainers } from '../../node/chutes/watchdog.js'

/** How long a container may live that an engine has started too late, in milliseconds. */
export const LATE_LIFE = 50
/** Milliseconds until it has answered. */
const ANSWER = 2

export interface WatchdogHost {
  /** Runs something later by the host's own clock, whatever becomes of the node. */
  after(ms: number, run: () => void): void
  clock(): number
  /** Ends what runs of an instance. */
  kill(instance: string): void
}

export class Watchdog {
  private readonly guarded = new Map<string, WatchedContainers>()

  constructor(private readonly host: WatchdogHost) {}

  losePower(): void {
    this.guarded.clear()
  }

  /** The engine has started an instance. */
  onStarted(instance: string): void {
    const guard = this.guarded.get(instance)
    if (guard?.starting) this.endAt(instance, guard, LATE_LIFE)
  }

  private set(instance: string, guard: WatchedContainers): void {
    this.guarded.set(instance, guard)
    this.endAt(instance, guard, 0)
  }

  private endAt(instance: string, guard: WatchedContainers, least: number): void {
    const wait = Math.max(least, guard.until - this.host.clock())
    this.host.after(wait, () => {
      if (this.guarded.get(instance) === guard) this.host.kill(instance)
    })
  }

  /** The node's side of it. @param deliver hands an answer to the node that asked, if it still lives */
  connect(deliver: (run: () => void) => void): LeasesOptions['guard'] {
    const guarded = new Map<string, WatchedContainers>()
    const ask = (what: () => void, then: () => void) =>
      new Promise<void>((resolve) => {
        this.host.after(ANSWER, () => {
          what()
          deliver(() => {
            then()
            resolve()
          })
        })
      })
    return {
      guarded,
      find: () =>
        ask(
          () => {},
          () => {
            for (const [instance, guard] of this.guarded) guarded.set(instance, guard)
          },
        ),
      set: (instance, ids, until, starting) => {
        const guard = { ids, until, starting }
        return ask(
          () => this.set(instance, guard),
          () => guarded.set(instance, guard),
        )
      },
      drop: (instance) => {
        guarded.delete(instance)
        return ask(
          () => this.guarded.delete(instance),
          () => {},
        )
      },
      close: () => {},
    }
  }
}
