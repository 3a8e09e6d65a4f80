// What happened on this AP and, as far as it saw, in the mesh: for `dropmesh events`, the log, and whoever asks why.
import type { Store } from './store/store.js'

export interface MeshEvent {
  /** ISO 8601, UTC. */
  readonly at: string
  readonly kind: string
  readonly [field: string]: unknown
}

export class Events {
  private readonly listeners = new Set<(event: MeshEvent) => void>()

  constructor(
    private readonly store: Store,
    private readonly now: () => number,
    private readonly log: (event: MeshEvent) => void,
  ) {}

  add(kind: string, fields: Record<string, unknown> = {}): void {
    const event: MeshEvent = { at: new Date(this.now()).toISOString(), kind, ...fields }
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
