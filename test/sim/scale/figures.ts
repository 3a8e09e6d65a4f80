// What is seen of a run: who was told dead, when, and whether it was.
import type { RosterState } from '../../../protocols/roster.js'
import type { Statement } from './detector.js'
import type { Watch, World } from './world.js'

/** The value below which a share of them lies, by nearest rank; NaN of none. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted.length === 0 ? Number.NaN : sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)]!
}

/** For so long after its start, an AP that is told dead was told so for its last life. */
const RESTARTED = 60_000
const MOST_STORIES = 5

export class Figures implements Watch {
  world!: World
  statements = 0
  readonly signers = new Set<number>()
  /** An AP was told dead, by how many, that was there all the time. */
  readonly falseDeaths: { readonly ap: number; readonly at: number; readonly by: Set<number> }[] = []
  falseSuspicions = 0
  /** APs whose restart was taken for a death. */
  readonly moved = new Set<number>()
  /** An AP that had just started told another dead, by what was signed long ago: it acts on nothing before it has synced. */
  beforeSync = 0
  /** How false deaths came about. */
  readonly stories: string[] = []
  /** By AP that died: who told it dead when, in milliseconds after it died. */
  readonly deaths = new Map<number, Map<number, number>>()
  private readonly lastSigned = new Map<number, { by: number; statement: Statement; now: number; story: string }[]>()

  told(by: number, ap: number, to: RosterState, now: number): void {
    const { world } = this
    const isUp = world.isUp[ap] === 1
    const wasRestarted = world.startedAt[ap]! > 0 && now - world.startedAt[ap]! < RESTARTED
    if (to === 'suspect' && isUp && !wasRestarted) this.falseSuspicions++
    if (to !== 'dead') return
    if (!world.hasSynced(by)) this.beforeSync++
    else if (!isUp) {
      const tells = this.deaths.get(ap) ?? new Map<number, number>()
      this.deaths.set(ap, tells)
      if (!tells.has(by)) tells.set(by, now - world.diedAt[ap]!)
    } else if (wasRestarted) this.moved.add(ap)
    else this.falseDeath(by, ap, now)
  }

  signed(by: number, ap: number, statement: Statement, now: number): void {
    this.statements++
    this.signers.add(by)
    const { world } = this
    const since = (time: number) => (now - time).toFixed(0)
    const stood = world.busyUntil[by]! > 0 ? `, itself awake for ${since(world.busyUntil[by]!)} ms` : ''
    const { silence, probes, boot, sequence } = statement.body
    const story = `${(now / 1000).toFixed(2)} s: AP ${by} signed: silence ${silence} ms, ${probes} failed probes, last heard ${boot}.${sequence}${stood}`
    const signed = this.lastSigned.get(ap) ?? []
    this.lastSigned.set(ap, [...signed.slice(-9), { by, statement, now, story }])
  }

  private falseDeath(by: number, ap: number, now: number): void {
    const last = this.falseDeaths.findLast((death) => death.ap === ap)
    if (last !== undefined && now - last.at < RESTARTED) return void last.by.add(by)
    this.falseDeaths.push({ ap, at: now, by: new Set([by]) })
    if (this.stories.length >= MOST_STORIES) return
    const { world } = this
    const state =
      world.busyUntil[ap]! > now ? `stands still until ${(world.busyUntil[ap]! / 1000).toFixed(2)} s` : 'is awake'
    const lines = (this.lastSigned.get(ap) ?? []).map(({ story }) => `    ${story}`)
    this.stories.push(
      [
        `AP ${ap} (${state}, at sequence ${world.sequence(ap)}) was told dead by AP ${by} at ${(now / 1000).toFixed(2)} s`,
        ...lines,
      ].join('\n'),
    )
  }

  /**
   * How long it took until those that were to know of a death did, in milliseconds; Infinity for who does not.
   * @param whose of an AP that died
   */
  detection(died: readonly number[], whose: (ap: number) => readonly number[]): number[] {
    return died.flatMap((ap) =>
      whose(ap)
        .filter((by) => by !== ap && this.world.isUp[by] === 1)
        .map((by) => this.deaths.get(ap)?.get(by) ?? Number.POSITIVE_INFINITY),
    )
  }

  /** For each death, until the last of them knew. */
  lastToKnow(died: readonly number[], whose: (ap: number) => readonly number[]): number[] {
    return died.flatMap((ap) => {
      const all = this.detection([ap], whose)
      return all.length === 0 ? [] : [Math.max(...all)]
    })
  }
}
