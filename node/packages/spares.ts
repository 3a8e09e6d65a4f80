// Images that an AP fetches before it needs them, since it would be the next to run them: one at a time, when nothing else
// is fetched, and within a limit. Which ones, protocols/successors.ts decides. The engine remembers which they are, by name.
import { hex } from '../../protocols/bytes.js'
import { MeshError, messageOf } from '../../protocols/error.js'
import type { Images } from './images.js'
import type { Supply, Wanted } from './supply.js'

/** After something did not work it is left alone for so long, in milliseconds. */
const RETRY = 60_000
/** Of what is free on the engine's disk one image may take so much. */
const SHARE_OF_FREE = 0.1

/** What this AP has images for. */
export interface Needs {
  /** Of what it is to run. */
  readonly own: readonly Wanted[]
  /** Of what it makes ready for, the most likely first. */
  readonly inherited: readonly Wanted[]
  /** Of all chutes there are. */
  readonly all: readonly Wanted[]
}

export interface SparesOptions {
  readonly images: Pick<Images, 'spare' | 'spares' | 'keep' | 'removeSpare'>
  readonly supply: Pick<Supply, 'prepare' | 'holdings' | 'imageOf'>
  /** Bytes that all of them together may take. With 0 there are none. */
  readonly max: number
  /** @param spares hex of the config digests of those there are */
  readonly needs: (spares: ReadonlySet<string>) => Needs
  /** Bytes free on the engine's disk. */
  readonly free: () => Promise<number>
  /** The engine has another set of images. */
  readonly onChange: () => Promise<void>
  readonly onEvent: (kind: string, fields: Record<string, unknown>) => void
  /** Milliseconds, on a clock that never goes back. */
  readonly now: () => number
}

export class Spares {
  private isAtWork = false
  /** By config digest in hex, as of the last change. */
  private known: ReadonlyMap<string, number> | undefined
  /** When each that something did not work with may be touched again. */
  private readonly notBefore = new Map<string, number>()

  constructor(private readonly options: SparesOptions) {}

  /** Does what there is to do, if it is not at it. Call it now and then. */
  async look(): Promise<void> {
    if (this.isAtWork) return
    this.isAtWork = true
    try {
      while (await this.step()) this.known = undefined
    } finally {
      this.isAtWork = false
    }
  }

  /** @returns whether something has changed */
  private async step(): Promise<boolean> {
    const { images, supply, max, needs } = this.options
    this.known ??= await images.spares()
    const spares = this.known
    const { own, inherited, all } = needs(new Set(spares.keys()))
    const used = own.map((one) => this.configOf(one)).find((config) => spares.has(config))
    if (used !== undefined) {
      await images.keep(used)
      return true
    }
    const held = new Set(supply.holdings().map(hex))
    const isNext = (config: string) => !held.has(config) && this.mayTouch(config)
    const next = max > 0 ? inherited.find((one) => isNext(this.configOf(one))) : undefined
    if (next !== undefined) return this.fetch(next, spares, inherited)
    // Only now: a new revision has most layers of the one before.
    const named = new Set(all.map((one) => this.configOf(one)))
    for (const config of this.notBefore.keys())
      if (!named.has(config) && !spares.has(config)) this.notBefore.delete(config)
    const idle = [...spares.keys()].find((config) => (max === 0 || !named.has(config)) && this.mayTouch(config))
    return idle !== undefined && this.remove(idle)
  }

  private async fetch(
    wanted: Wanted,
    spares: ReadonlyMap<string, number>,
    inherited: readonly Wanted[],
  ): Promise<boolean> {
    const { images, supply, max, free, onChange, onEvent } = this.options
    const image = supply.imageOf(wanted.service)
    const config = hex(image.config)
    const taken = [...spares.values()].reduce((sum, size) => sum + size, 0)
    const room = Math.floor(Math.min(max - taken, (await free()) * SHARE_OF_FREE))
    try {
      if (room <= 0) throw new MeshError('too-big', 'there is no room')
      await supply.prepare(wanted, room)
      await images.spare(image)
      this.notBefore.delete(config)
      await onChange()
      return true
    } catch (error) {
      const next = new Set(inherited.map((one) => this.configOf(one)))
      const idle = [...spares.keys()].find((one) => !next.has(one) && this.mayTouch(one))
      if (error instanceof MeshError && error.code === 'too-big' && idle !== undefined) return this.remove(idle)
      if (error instanceof MeshError && error.code === 'busy') return false
      if (!this.notBefore.has(config)) onEvent('image-not-prepared', { image: config, reason: messageOf(error) })
      this.leaveAlone(config)
      return true // perhaps there is another one to fetch
    }
  }

  private async remove(config: string): Promise<boolean> {
    // There may be room now for what there was none for.
    this.notBefore.clear()
    this.leaveAlone(config)
    await this.options.images.removeSpare(config)
    await this.options.onChange()
    return true
  }

  private configOf({ service }: Wanted): string {
    return hex(this.options.supply.imageOf(service).config)
  }

  private mayTouch(config: string): boolean {
    return this.options.now() >= (this.notBefore.get(config) ?? 0)
  }

  private leaveAlone(config: string): void {
    this.notBefore.set(config, this.options.now() + RETRY)
  }
}
