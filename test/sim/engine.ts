// A container engine in the simulator: what it is asked for takes time and may fail. Containers outlive the node that asked
// for them, as they do in Docker, and end with the power.
import type { ContainerState, Engine, EngineInfo, InstancePlan } from '../../node/chutes/engine.js'
import { EngineError } from '../../node/chutes/engine.js'
import type { Random } from './random.js'

/** Milliseconds, on average. */
const ANSWER = 2
const CREATE = 150
const START = 300
const REMOVE = 300
/** Now and then, a look at all containers. */
const SLOW_LOOK = 700

export interface EngineHost {
  /** Runs something later, whatever becomes of the node. */
  after(ms: number, run: () => void): void
  wall(): number
  onStarted(plan: InstancePlan): void
  onStopped(key: string): void
}

/** The engine of one host. The node asks through `connect`, one connection a life. */
export class SimEngine {
  /** False while it does not answer. */
  isUp = true
  /** How often starting a container fails, between 0 and 1. */
  failing = 0
  private readonly containers = new Map<string, { plan: InstancePlan; states: ContainerState[] }>()
  private readonly volumes = new Map<string, Set<string>>()
  private listener = () => {}
  private powers = 0

  constructor(
    private readonly host: EngineHost,
    private readonly random: Random,
    private readonly capacity: EngineInfo,
  ) {}

  /** The keys of all instances that run, with their plan. */
  running(): InstancePlan[] {
    return [...this.containers.values()].flatMap(({ plan, states }) => (states.some((s) => s.running) ? [plan] : []))
  }

  isRunning(key: string): boolean {
    return this.containers.get(key)?.states.some(({ running }) => running) ?? false
  }

  hasVolumes(chuteKey: string): boolean {
    return (this.volumes.get(chuteKey)?.size ?? 0) > 0
  }

  /** All containers end; they are there still when the engine comes back. */
  losePower(): void {
    for (const key of this.containers.keys()) this.end(key, 137)
    this.listener = () => {}
    this.powers++
  }

  /** What runs of an instance ends without the engine's doing: by itself, or killed. */
  crash(key: string, exitCode = 1): void {
    this.end(key, exitCode)
    this.listener()
  }

  private end(key: string, exitCode: number): void {
    const container = this.containers.get(key)
    if (container === undefined || !container.states.some(({ running }) => running)) return
    container.states = container.states.map((state) => ({ ...state, running: false, exitCode }))
    this.host.onStopped(key)
  }

  /** @param deliver hands a result to the node that asked, if it still lives */
  connect(deliver: (run: () => void) => void, isAlive: () => boolean): Engine {
    const ask = <T>(mean: number, what: () => T): Promise<T> =>
      new Promise((resolve, reject) => {
        if (!isAlive()) return
        const { powers } = this
        this.host.after(0.2 + this.random.around(mean), () => {
          if (powers !== this.powers) return // it went down with what it was doing
          let settle: () => void
          try {
            if (!this.isUp) throw new EngineError('no-engine', 'the engine does not answer')
            const result = what()
            settle = () => resolve(result)
          } catch (error) {
            settle = () => reject(error)
          }
          deliver(settle)
        })
      })
    return {
      info: () => ask(ANSWER, () => this.capacity),
      // It is asked about each container by itself, so that what it said first is old when the last is heard of.
      containers: () =>
        ask(ANSWER, () => [...this.containers.values()].flatMap(({ states }) => states)).then((states) =>
          ask(this.random.chance(0.1) ? SLOW_LOOK : ANSWER, () => states),
        ),
      leftovers: () => ask(ANSWER, () => []),
      create: (plan) => ask(CREATE, () => this.create(plan)),
      start: (key) => ask(START, () => this.start(key)),
      stop: (key) => ask(REMOVE, () => this.end(key, 0)),
      remove: (key) => ask(REMOVE, () => this.remove(key)),
      volumes: (chuteKey) => ask(ANSWER, () => [...(this.volumes.get(chuteKey) ?? [])]),
      removeVolumes: (chuteKey) => ask(ANSWER, () => void this.volumes.delete(chuteKey)),
      changes: (onChange, signal) => {
        this.listener = () => deliver(onChange)
        deliver(onChange)
        return new Promise((resolve) => signal.addEventListener('abort', () => resolve()))
      },
    }
  }

  private create(plan: InstancePlan): void {
    const { key, instance, chute, chuteKey, generation, epoch, revision, spec } = plan
    if (this.containers.get(key)?.plan.generation === generation) return
    this.remove(key)
    const volumes = this.volumes.get(chuteKey) ?? new Set()
    for (const { name, ephemeral } of spec.volumes) if (!ephemeral) volumes.add(name)
    this.volumes.set(chuteKey, volumes)
    const states = spec.services.map(
      ({ name: service }): ContainerState => ({
        ...{ id: `${key}.${service}`, key, instance, chute, chuteKey, service, generation, epoch, revision },
        ...{ running: false, health: 'none', exitCode: null, oomKilled: false, startedAt: null, error: '', ports: [] },
      }),
    )
    this.containers.set(key, { plan, states })
  }

  private start(key: string): void {
    const container = this.containers.get(key)
    if (container === undefined) throw new EngineError('refused', 'no such container', { status: 404 })
    if (this.random.chance(this.failing)) throw new EngineError('refused', 'it does not start', { status: 500 })
    if (container.states.every(({ running }) => running)) return
    const startedAt = new Date(this.host.wall()).toISOString()
    container.states = container.states.map((state) => ({ ...state, running: true, exitCode: null, startedAt }))
    this.host.onStarted(container.plan)
    this.listener()
  }

  private remove(key: string): void {
    const container = this.containers.get(key)
    if (container === undefined) return
    this.end(key, 0)
    this.containers.delete(key)
    this.listener()
  }
}
