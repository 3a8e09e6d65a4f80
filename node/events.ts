// What happened on this AP and, as far as it saw, in the mesh: for `dropmesh events`, the log, and whoever asks why.
import { Allowances } from '../protocols/allowance.js'
import { monotonic } from './clock.js'
import type { Store } from './store/store.js'

/**
 * How many events of one kind may come at once, from one AP and from all, and how many a second after that. A
 * member can make others tell something with every record it signs, and must push nobody's history out by that.
 */
const FROM_ONE = { burst: 100, perSecond: 0.1 }
const FROM_ALL = { burst: 500, perSecond: 1 }

/** Characters of a text in an event. */
const MAX_TEXT = 500

export interface MeshEvent {
  /** ISO 8601, UTC. */
  readonly at: string
  readonly kind: string
  /** How many events of this kind were left out since the one before. */
  readonly omitted?: number
  readonly [field: string]: unknown
}

export class Events {
  private readonly listeners = new Set<(event: MeshEvent) => void>()
  private readonly fromOne = new Allowances(FROM_ONE)
  private readonly fromAll = new Allowances(FROM_ALL)
  private readonly omitted = new Map<string, number>()

  constructor(
    private readonly store: Store,
    private readonly now: () => number,
    private readonly log: (event: MeshEvent) => void,
  ) {}

  /** Notes an event. Texts in it may come from anyone. */
  add(kind: string, fields: Record<string, unknown> = {}): void {
    const omitted = this.omitted.get(kind) ?? 0
    const source = fields.from ?? fields.by ?? fields.ap ?? ''
    const now = monotonic()
    if (!this.fromOne.take(`${kind} ${source}`, now) || !this.fromAll.take(kind, now)) {
      this.omitted.set(kind, omitted + 1)
      return
    }
    this.omitted.delete(kind)
    const told = Object.fromEntries(Object.entries(fields).map(([key, value]) => [key, presentable(value)]))
    const event = { at: new Date(this.now()).toISOString(), kind, ...told, ...(omitted > 0 && { omitted }) }
    this.log(event)
    this.store.addEvent(event).catch(() => {})
    for (const listener of this.listeners) listener(event)
  }

  /** Everything kept, oldest first. */
  past(): Promise<MeshEvent[]> {
    return this.store.events<MeshEvent>()
  }

  /** Calls back on each new event until the returned function is called. */
  follow(listener: (event: MeshEvent) => void): () => void {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }
}

/**
 * A text that came from a stranger, fit for a log and a terminal: not long, and what controls a terminal, is invisible or
 * changes the direction of writing is spelt out as `\u{…}`.
 */
export function printable(text: string): string {
  const short = text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}…` : text
  return short.replace(
    /[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}]/gu,
    (char) => `\\u{${char.codePointAt(0)!.toString(16)}}`,
  )
}

function presentable(value: unknown): unknown {
  if (typeof value === 'string') return printable(value)
  return Array.isArray(value) ? value.map(presentable) : value
}
