// Where an AP gets an image from: its engine, else an AP that has it, else the registry the manifest named. Never
// anywhere else.
import { hex } from '../../protocols/bytes.js'
import type { ImageSpec } from '../../protocols/deployment.js'
import { MeshError, messageOf } from '../../protocols/error.js'
import { SYSTEM_TIME, type Time } from '../clock.js'
import type { Images } from './images.js'
import type { Spare } from './transfer.js'

/** A fresh deployment can be here before the beacon that says who has its image: wait so long for one, in milliseconds. */
const HOLDER_PATIENCE = 15_000
const HOLDER_RETRY = 500
/** And so long for those that have it but send to others, who will have it then. */
const BUSY_PATIENCE = 10 * 60_000

export interface SupplyOptions {
  readonly images: Pick<Images, 'has' | 'pull'>
  /** Connected APs whose beacon says that they have the image. */
  readonly holders: (config: string) => string[]
  readonly fetchFrom: (ap: string, image: ImageSpec, spare?: Spare) => Promise<number>
  readonly onEvent: (kind: string, fields: Record<string, unknown>) => void
  /** The set of images that this AP can hand out has changed. */
  readonly onChange: () => void
  readonly time?: Time
}

export class Supply {
  private readonly running = new Map<string, Promise<void>>()
  /** What is being fetched for later. */
  private spare: { key: string; end: Promise<void> } | undefined
  private held: Uint8Array[] = []

  constructor(private readonly options: SupplyOptions) {}

  has(image: ImageSpec): Promise<boolean> {
    return this.options.images.has(image)
  }

  /** Config digests, as of the last `look`. */
  holdings(): Uint8Array[] {
    return this.held
  }

  /** Looks which of these images the engine has. */
  async look(wanted: readonly ImageSpec[]): Promise<void> {
    const unique = [...new Map(wanted.map((image) => [hex(image.config), image])).values()]
    const found: Uint8Array[] = []
    for (const image of unique) if (await this.has(image).catch(() => false)) found.push(image.config)
    const isSame = found.length === this.held.length && found.every((config, i) => hex(config) === hex(this.held[i]!))
    this.held = found
    if (!isSame) this.options.onChange()
  }

  /** Makes an image present in the engine. @throws MeshError `no-image` saying who was asked */
  ensure(image: ImageSpec): Promise<void> {
    const key = hex(image.config)
    let running = this.running.get(key)
    if (running === undefined) {
      // What is here in part is not begun anew; from now on it does not wait for others any more.
      const before = this.spare?.key === key ? this.spare.end.catch(() => {}) : Promise.resolve()
      running = before.then(() => this.obtain(image)).finally(() => this.running.delete(key))
      this.running.set(key, running)
    }
    return running
  }

  /**
   * Fetches an image that may be needed later from an AP that has it, and never from a registry. It stands still while an image
   * is fetched that is needed now. One at a time.
   * @param room bytes that it may have
   * @throws MeshError `too-big`, `busy`, or `no-image`
   */
  async prepare(image: ImageSpec, room: number): Promise<void> {
    const key = hex(image.config)
    if (this.running.size > 0) throw new MeshError('busy', 'other images are needed now')
    const end = this.obtainSpare(image, room)
    this.spare = { key, end }
    await end.finally(() => {
      this.spare = undefined
    })
  }

  private async obtainSpare(image: ImageSpec, room: number): Promise<void> {
    const { holders, fetchFrom, onEvent } = this.options
    const config = hex(image.config)
    const turn = async () => {
      while (this.running.size > 0 && !this.running.has(config))
        await Promise.race(this.running.values()).catch(() => {})
    }
    let failure: unknown = new MeshError('no-image', 'no reachable AP has it')
    for (const ap of holders(config)) {
      try {
        const bytes = await fetchFrom(ap, image, { room, turn })
        onEvent('image-prepared', { image: config, from: ap, bytes })
        return
      } catch (error) {
        failure = error
        if (error instanceof MeshError && error.code === 'too-big') break
      }
    }
    throw failure
  }

  private async obtain(image: ImageSpec): Promise<void> {
    const config = hex(image.config)
    const { images, holders, fetchFrom, onEvent, time = SYSTEM_TIME } = this.options
    if (await images.has(image)) return
    const failures = new Set<string>()
    const began = time.monotonic()
    let isBusy: boolean
    do {
      isBusy = false
      for (const ap of holders(config)) {
        try {
          const bytes = await fetchFrom(ap, image)
          onEvent('image-fetched', { image: config, from: ap, bytes })
          return
        } catch (error) {
          if (error instanceof MeshError && error.code === 'busy') isBusy = true
          else failures.add(messageOf(error))
        }
      }
      if (!isBusy && (failures.size > 0 || image.pull !== undefined)) break
      await new Promise<void>((resolve) => time.after(HOLDER_RETRY, resolve))
    } while (time.monotonic() - began < (isBusy ? BUSY_PATIENCE : HOLDER_PATIENCE))
    if (image.pull !== undefined) {
      await images.pull(image)
      return
    }
    const why = failures.size > 0 ? [...failures].join('; ') : 'no reachable AP has it'
    throw new MeshError('no-image', `image ${config.slice(0, 12)} cannot be had: ${why}`)
  }
}
