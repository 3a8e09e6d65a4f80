// Which images a simulated AP has, and how it comes to them: from an AP that says it has one, as node/packages does by blobs.

import type { Time } from '../../node/clock.js'
import { hex } from '../../protocols/bytes.js'
import type { ImageSpec } from '../../protocols/deployment.js'
import { MeshError, messageOf } from '../../protocols/error.js'

/** A fresh deployment can be here before the beacon that says who has its image: wait so long for one, in milliseconds. */
const HOLDER_PATIENCE = 15_000
const HOLDER_RETRY = 500

export interface StockOptions {
  readonly has: (config: string) => boolean
  readonly holders: (config: string) => string[]
  /** @returns bytes */
  readonly fetchFrom: (ap: string, config: string) => Promise<number>
  readonly onEvent: (kind: string, fields: Record<string, unknown>) => void
  readonly onChange: () => void
  readonly time: Time
}

export class Stock {
  private readonly running = new Map<string, Promise<void>>()
  private held: Uint8Array[] = []

  constructor(private readonly options: StockOptions) {}

  has({ images }: { images: readonly ImageSpec[] }): boolean {
    return images.some(({ config }) => this.options.has(hex(config)))
  }

  holdings(): Uint8Array[] {
    return this.held
  }

  look(wanted: readonly ImageSpec[]): void {
    const unique = new Map(wanted.map(({ config }) => [hex(config), config]))
    const found = [...unique.values()].filter((config) => this.options.has(hex(config)))
    const isSame = found.length === this.held.length && found.every((config, i) => hex(config) === hex(this.held[i]!))
    this.held = found
    if (!isSame) this.options.onChange()
  }

  ensure({ images: [image] }: { images: readonly ImageSpec[] }): Promise<void> {
    const config = hex(image!.config)
    const running = this.running.get(config) ?? this.obtain(config).finally(() => this.running.delete(config))
    this.running.set(config, running)
    return running
  }

  private async obtain(config: string): Promise<void> {
    const { has, holders, fetchFrom, onEvent, time } = this.options
    const failures = new Set<string>()
    const began = time.monotonic()
    while (!has(config)) {
      for (const ap of holders(config)) {
        try {
          const bytes = await fetchFrom(ap, config)
          onEvent('image-fetched', { image: config, from: [ap], bytes })
          return
        } catch (error) {
          failures.add(messageOf(error))
        }
      }
      if (failures.size > 0 || time.monotonic() - began > HOLDER_PATIENCE)
        throw new MeshError('no-image', [...failures].join('; ') || 'no reachable AP has it')
      await new Promise<void>((resolve) => time.after(HOLDER_RETRY, resolve))
    }
  }
}
