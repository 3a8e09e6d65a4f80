// How well the mesh does, as this AP sees it: how soon deaths are noticed, how soon what ran there runs elsewhere, and for
// how long instances had no copy, or more than one.
import { hex } from '../protocols/bytes.js'
import type { Outlook } from '../protocols/outlook.js'

/** So many of the latest are kept of each sort. */
const KEPT = 100

/** In milliseconds; null where there were none. */
export interface Spread {
  readonly count: number
  readonly p50: number | null
  readonly p99: number | null
}

export interface Migration {
  /** Hex of its subject. */
  readonly instance: string
  /** AP ids. */
  readonly from: string
  readonly to: string
  /** Why the other claimed it. */
  readonly cause: string
  /** From the last sign of the one to the beacon of the other that it runs; 0 where the one went on until then. */
  readonly ms: number
}

interface Seen {
  /** AP id of who served it last. */
  server: string
  /** Since when nobody has; local milliseconds. */
  goneAt: number | undefined
}

export class Figures {
  private readonly detections: number[] = []
  private readonly migrations: number[] = []
  private readonly seen = new Map<string, Seen>()
  /** Milliseconds, by hex of the chute's key. */
  private readonly lacks = new Map<string, { missing: number; duplicate: number }>()
  private lookedAt: number | undefined

  /** An AP was found dead so many milliseconds after its last sign. */
  died(silence: number): void {
    keep(this.detections, silence)
  }

  /**
   * Takes over what is so now. Times are local milliseconds.
   * @param lastHeard when an AP last gave a sign of itself
   * @returns what is served again, by another AP than before
   */
  look(outlook: Outlook, now: number, lastHeard: (ap: string) => number | undefined): Migration[] {
    const passed = now - (this.lookedAt ?? now)
    this.lookedAt = now
    const migrations: Migration[] = []
    const servers = serversOf(outlook)
    for (const { instance, chute, claim, holder } of outlook.placed) {
      const by = servers.get(instance) ?? []
      const seen = this.seen.get(instance)
      const lack = this.lackOf(hex(chute.key))
      lack.duplicate += passed * Math.max(0, by.length - 1)
      if (by.length === 0 && holder !== undefined && isUnheard(outlook, holder)) {
        this.seen.delete(instance) // it may well be served where nothing is heard of it
      } else if (by.length === 0) {
        if (seen === undefined) continue // it never ran yet
        const before = seen.goneAt
        seen.goneAt ??= Math.min(now, lastHeard(seen.server) ?? now)
        lack.missing += before === undefined ? now - seen.goneAt : passed
      } else if (seen === undefined || !by.includes(seen.server)) {
        if (seen !== undefined) {
          const ms = Math.round(now - (seen.goneAt ?? now))
          migrations.push({ instance, from: seen.server, to: by[0]!, cause: claim?.body.cause ?? 'new', ms })
        }
        this.seen.set(instance, { server: by[0]!, goneAt: undefined })
      } else seen.goneAt = undefined
    }
    const wanted = new Set(outlook.placed.map(({ instance }) => instance))
    for (const instance of this.seen.keys()) if (!wanted.has(instance)) this.seen.delete(instance)
    // What was handed over was never away: it would make the figures look better than they are.
    for (const { ms } of migrations) if (ms > 0) keep(this.migrations, ms)
    return migrations
  }

  detection(): Spread {
    return spreadOf(this.detections)
  }

  migration(): Spread {
    return spreadOf(this.migrations)
  }

  /** Seconds for which instances of a chute had no copy that served, or one too many. */
  of(chuteKey: string): { missingSeconds: number; duplicateSeconds: number } {
    const { missing, duplicate } = this.lackOf(chuteKey)
    return { missingSeconds: Math.round(missing / 100) / 10, duplicateSeconds: Math.round(duplicate / 100) / 10 }
  }

  private lackOf(chute: string) {
    const lack = this.lacks.get(chute) ?? { missing: 0, duplicate: 0 }
    this.lacks.set(chute, lack)
    return lack
  }
}

const isUnheard = ({ neighbourhoods, candidates }: Outlook, ap: string): boolean =>
  neighbourhoods.all.length > 1 && candidates.get(ap)?.beacon === undefined

/** AP ids of those that serve each instance, by what their beacons say. */
function serversOf({ candidates }: Outlook): Map<string, string[]> {
  const servers = new Map<string, string[]>()
  for (const [ap, { state, beacon }] of candidates) {
    if (beacon === undefined || state === 'dead' || state === 'left') continue
    for (const report of beacon.instances) {
      if (report.state !== 'running' && report.state !== 'healthy') continue
      const instance = hex(report.instance)
      servers.set(instance, [...(servers.get(instance) ?? []), ap])
    }
  }
  return servers
}

function keep(of: number[], value: number): void {
  of.push(value)
  if (of.length > KEPT) of.shift()
}

function spreadOf(values: readonly number[]): Spread {
  const inOrder = [...values].sort((a, b) => a - b)
  const at = (share: number) => inOrder[Math.min(inOrder.length - 1, Math.floor(share * inOrder.length))] ?? null
  return { count: inOrder.length, p50: at(0.5), p99: at(0.99) }
}
