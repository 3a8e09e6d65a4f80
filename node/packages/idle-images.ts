// What the engine has of chutes that are gone, or of revisions that were replaced: an hour after no record names it any more it goes,
// or the flash of a small box would be full of it in the end. Only the names by which the mesh holds an image are taken from it: one
// that a person named stays.
import type { Images } from './images.js'

/** Milliseconds: a chute that is published anew, or rolled back, finds its image still there. */
const KEPT = 3_600_000

export interface IdleImagesOptions {
  readonly images: Pick<Images, 'held' | 'release'>
  readonly onEvent: (kind: string, fields: Record<string, unknown>) => void
  /** Milliseconds, on a clock that never goes back. */
  readonly now: () => number
}

export class IdleImages {
  /** Since when nobody names each, by the name by which the mesh holds it. */
  private readonly since = new Map<string, number>()

  constructor(private readonly options: IdleImagesOptions) {}

  /**
   * Lets go of what nobody has named for an hour. Call it now and then.
   * @param named the names by which the mesh holds what chutes run from
   */
  async look(named: ReadonlySet<string>): Promise<void> {
    const { images, onEvent, now } = this.options
    const idle = (await images.held()).filter((name) => !named.has(name))
    for (const name of this.since.keys()) if (!idle.includes(name)) this.since.delete(name)
    for (const name of idle) {
      const since = this.since.get(name) ?? now()
      this.since.set(name, since)
      if (now() - since < KEPT || !(await images.release(name))) continue
      this.since.delete(name)
      onEvent('image-removed', { image: name.slice(name.indexOf(':') + 1) })
    }
  }
}
