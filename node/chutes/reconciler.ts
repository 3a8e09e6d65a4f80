// The reconciler: compares what this AP should run with what Docker says it runs, again and again, and closes the gap.
// Level-triggered: a lost event, a restart of the node or the engine, and a person with `docker rm` are all the same case.

import { hex, unhex } from '../../protocols/bytes.js'
import { chuteOfInstance } from '../../protocols/chute.js'
import { isPinnedByData } from '../../protocols/deployment.js'
import { MeshError, messageOf } from '../../protocols/error.js'
import type { Body, InstanceState } from '../../protocols/kinds.js'
import { SYSTEM_TIME, type Time } from '../clock.js'
import type { Wanted } from '../packages/supply.js'
import { type ContainerState, type Engine, EngineError, type EngineInfo, type InstancePlan } from './engine.js'
import type { Files } from './files.js'
import { isDone, orderOf } from './order.js'

/** All in milliseconds. */
const EVERY = 10_000
/** An engine that does not answer for so long is gone; a restart of it takes less, and must not move work. */
const ENGINE_GRACE = 15_000
const ENGINE_RETRY = 1000
const BACKOFF_FIRST = 1000
const BACKOFF_CAP = 60_000
/** So long an exclusive instance waits for the next renewal of a lease that is about to end. */
const LEASE_PATIENCE = 500
/** A container that ran so long has recovered from its crashes. */
const RECOVERED = 60_000
/** How long an AP that cannot run an instance lets others try; doubled each time. */
const CANNOT_FIRST = 30_000
const CANNOT_CAP = 600_000

/** One instance that this AP should run. */
export interface Desired {
  readonly plan: InstancePlan
  readonly subject: Uint8Array
  readonly revision: number
  readonly epoch: number
}

export type Report = Body<'beacon'>['instances'][number]
export type Cannot = Body<'beacon'>['cannot'][number]

export interface ReconcilerOptions {
  readonly engine: Engine
  /** Has the engine get what a service runs from, from wherever it is. @throws MeshError with the reason */
  readonly fetch: (wanted: Wanted) => Promise<void>
  /** Puts the files of an instance where its containers find them, and removes what none uses. `place` throws a MeshError. */
  readonly files?: Pick<Files, 'place' | 'see'>
  /** Of exclusive instances alone. Their containers must not be started where it says no, or throws. */
  readonly beforeStart: (key: string, containers: readonly string[]) => Promise<boolean>
  /** What containers there are, and whether more may come of an instance that is being worked on. */
  readonly onSeen: (actual: ReadonlyMap<string, readonly ContainerState[]>, isBusy: (key: string) => boolean) => void
  /** Containers that should not run here were removed; `volumes`, as the manifest names them, hold data that stays. */
  readonly onStopped: (key: string, instance: string, volumes: readonly string[]) => void
  /** Whether the engine has it. */
  readonly has: (wanted: Wanted) => Promise<boolean>
  /** Milliseconds since 1970. */
  readonly now: () => number
  /** Something that the beacon says has changed. */
  readonly onChange: () => void
  readonly onEvent: (kind: string, fields: Record<string, unknown>) => void
  readonly time?: Time
}

interface Backoff {
  failures: number
  notBefore: number
  /** True while a crash was noted and the restart is what comes after the wait. */
  restart: boolean
}

export class Reconciler {
  private desired: ReadonlyMap<string, Desired> = new Map()
  private kept: ReadonlySet<string> = new Set()
  private readonly reports = new Map<string, Report>()
  private readonly refusals = new Map<string, Cannot & { times: number }>()
  private readonly busy = new Set<string>()
  /** Of these the step that is over: they are busy until a look that began after it shows what has become of it. */
  private readonly unseen = new Set<string>()
  private readonly removing = new Set<string>()
  private readonly backoffs = new Map<string, Backoff>()
  /** Ids of containers that are not started before another one is as they need it. */
  private readonly held = new Set<string>()
  /** Instances whose latest step failed by a fault of the engine, for the first time. */
  private readonly doubted = new Set<string>()
  private readonly stopping = new AbortController()
  private info: EngineInfo | undefined
  private silentSince: number | undefined
  private cancelGrace = () => {}
  private passing = false
  private kicked = false
  private cancelTimer = () => {}
  private actual: ReadonlyMap<string, ContainerState[]> = new Map()
  private hasLooked = false

  private readonly time: Time

  constructor(private readonly options: ReconcilerOptions) {
    this.time = options.time ?? SYSTEM_TIME
  }

  start(): void {
    this.kick()
    void this.followEngine()
  }

  /** Stops reconciling. Containers stay as they are. */
  stop(): void {
    this.stopping.abort()
    this.cancelTimer()
    this.cancelGrace()
  }

  /** Sets what this AP should run, and what it should leave alone until another AP has taken it over. */
  want(desired: ReadonlyMap<string, Desired>, kept: ReadonlySet<string>): void {
    const isChanged = (key: string) =>
      desired.get(key)?.plan.generation !== this.desired.get(key)?.plan.generation ||
      kept.has(key) !== this.kept.has(key)
    const changed = [...desired.keys(), ...kept, ...this.desired.keys(), ...this.kept].filter(isChanged)
    for (const key of changed) {
      this.backoffs.delete(key)
      this.doubted.delete(key)
    }
    this.desired = desired
    this.kept = kept
    if (changed.length > 0) this.kick()
  }

  /** The engine, or undefined where none has answered for a while. */
  engineInfo(): EngineInfo | undefined {
    return this.info
  }

  /** False while an engine that is not there yet may still come. */
  knowsEngine(): boolean {
    if (this.info !== undefined) return true
    return this.silentSince !== undefined && this.time.monotonic() - this.silentSince >= ENGINE_GRACE
  }

  /** What each instance on this AP is doing, by hex of its subject. */
  instances(): Report[] {
    return [...this.reports.values()]
  }

  /** What this AP cannot run at the moment. */
  cannot(): Cannot[] {
    return [...this.refusals.values()]
      .filter(({ until }) => until > this.options.now())
      .map(({ times: _, ...cannot }) => cannot)
  }

  /** True while containers of this AP exist. */
  isRunningAnything(): boolean {
    return this.actual.size > 0 || this.busy.size > 0
  }

  /** False where certainly no container of an instance is here. */
  isPresent(key: string): boolean {
    return !this.hasLooked || this.actual.has(key) || this.busy.has(key)
  }

  /** True while an instance that should not run here is being removed by an engine that answers. */
  isEnding(key: string): boolean {
    return this.removing.has(key) && this.info !== undefined
  }

  private kick(): void {
    if (this.stopping.signal.aborted) return
    this.kicked = true
    if (!this.passing) void this.passUntilQuiet()
  }

  private async passUntilQuiet(): Promise<void> {
    this.passing = true
    this.cancelTimer()
    while (this.kicked && !this.stopping.signal.aborted) {
      this.kicked = false
      await this.pass()
    }
    this.passing = false
    if (!this.stopping.signal.aborted) this.cancelTimer = this.time.after(this.nextDue(), () => this.kick())
  }

  private nextDue(): number {
    if (this.silentSince !== undefined) return ENGINE_RETRY
    const waits = [...this.backoffs.values()]
      .map(({ notBefore }) => notBefore - this.time.monotonic())
      .filter((ms) => ms > 0)
    return Math.min(EVERY, ...waits)
  }

  private async pass(): Promise<void> {
    const { engine } = this.options
    let containers: ContainerState[]
    const over = [...this.unseen]
    const askedAt = this.time.monotonic()
    try {
      if (this.info === undefined || this.silentSince !== undefined) this.setInfo(await engine.info())
      containers = await engine.containers()
      this.silentSince = undefined
      this.cancelGrace()
    } catch (error) {
      this.engineSilent(error, askedAt)
      return
    }
    for (const key of over) {
      this.unseen.delete(key)
      this.busy.delete(key)
    }
    for (const id of this.held) if (!containers.some((container) => container.id === id)) this.held.delete(id)
    const actual = new Map<string, ContainerState[]>()
    for (const container of containers) actual.set(container.key, [...(actual.get(container.key) ?? []), container])
    this.actual = actual
    this.hasLooked = true
    this.options.onSeen(actual, (key) => this.busy.has(key))
    this.options.files?.see(actual, (key) => this.busy.has(key))
    for (const key of new Set([...this.desired.keys(), ...actual.keys()])) {
      if (this.busy.has(key) || (this.backoffs.get(key)?.notBefore ?? 0) > this.time.monotonic()) continue
      const desired = this.desired.get(key)
      if (desired !== undefined) this.converge(key, desired, actual.get(key) ?? [])
      else if (!this.kept.has(key)) this.act(key, () => this.removeUnwanted(key))
      else this.noteHealth(key, actual.get(key)!)
    }
    for (const key of this.reports.keys()) {
      if (!this.desired.has(key) && !actual.has(key) && !this.busy.has(key)) this.forget(key)
    }
  }

  private engineSilent(error: unknown, since = this.time.monotonic()): void {
    this.silentSince ??= since
    if (this.info === undefined) return
    const left = this.silentSince + ENGINE_GRACE - this.time.monotonic()
    if (left > 0) {
      // Not left to the next question: a hung engine uses up the deadline of each.
      this.cancelGrace()
      this.cancelGrace = this.time.after(left, () => this.engineSilent(error))
      return
    }
    this.info = undefined
    this.options.onEvent('engine-lost', { reason: messageOf(error) })
    this.options.onChange()
  }

  private setInfo(info: EngineInfo): void {
    const isNew = this.info === undefined
    this.info = info
    if (!isNew) return
    this.options.onEvent('engine-found', { version: info.version })
    this.options.onChange()
  }

  private async followEngine(): Promise<void> {
    const { signal } = this.stopping
    while (!signal.aborted) {
      await this.options.engine.changes(() => this.kick(), signal).catch(() => {})
      this.kick()
      await new Promise<void>((resolve) => this.time.after(ENGINE_RETRY, resolve))
    }
  }

  private converge(key: string, desired: Desired, containers: ContainerState[]): void {
    const { spec, generation } = desired.plan
    const current = containers.filter((container) => container.generation === generation)
    const complete = spec.services.every(({ name }) => current.some(({ service }) => service === name))
    if (!complete || current.length < containers.length) {
      this.act(key, () => this.bringUp(key, desired, containers.length > 0))
      return
    }
    const states = new Map(current.map((container) => [container.service, container]))
    const { ready, stale, waiting } = orderOf(spec.services, states)
    for (const { id, service, running } of current) {
      if (running) this.held.delete(id)
      else if (waiting.has(service)) this.held.add(id)
    }
    // What was held back until now has not crashed since.
    const crashed = current.filter(
      (container) =>
        !container.running && container.startedAt !== null && !isDone(container) && !this.held.has(container.id),
    )
    if (crashed.length > 0) {
      const backoff = this.backoffs.get(key)
      if (backoff?.restart) {
        backoff.restart = false
        this.act(key, () => this.startAll(key, desired))
        return
      }
      const { service, exitCode, oomKilled, error } = crashed[0]!
      const why = error || (oomKilled ? 'ran out of memory' : `exited with status ${exitCode}`)
      this.options.onEvent('crashed', { instance: desired.plan.instance, service, reason: why })
      this.retryLater(key, desired, `${service} ${why}`, crashed).restart = true
      this.kick()
    } else if (ready.length > 0) {
      this.act(key, () => this.startAll(key, desired))
    } else if (stale.length > 0) {
      this.act(key, () => this.startAgain(key, desired, stale))
    } else if (current.some(({ health }) => health === 'unhealthy')) {
      const service = current.find(({ health }) => health === 'unhealthy')!.service
      this.options.onEvent('unhealthy', { instance: desired.plan.instance, service })
      this.report(key, desired, 'unhealthy', `${service} fails its health check`)
      this.retryLater(key, desired, undefined, current)
      this.act(key, () => this.options.engine.remove(key))
    } else if (waiting.size > 0) {
      // The engine tells when something starts, ends, or becomes healthy; then there is another look.
      this.report(
        key,
        desired,
        'starting',
        [...waiting.values()].join('; '),
        current.flatMap(({ ports }) => ports),
      )
    } else {
      this.noteHealth(key, current, desired)
    }
  }

  /** Runs one step for an instance, then looks again. */
  private act(key: string, step: () => Promise<unknown>): void {
    this.busy.add(key)
    void step()
      .catch((error) => {
        if (error instanceof MeshError && error.code === 'no-engine') this.engineSilent(error)
        else if (isFault(error) && !this.doubted.has(key)) this.doubt(key, error)
        else this.refuse(key, error)
      })
      .finally(() => {
        this.unseen.add(key)
        this.kick()
      })
  }

  private async bringUp(key: string, desired: Desired, replaces: boolean): Promise<void> {
    const { engine, has, fetch } = this.options
    const { plan } = desired
    for (const service of plan.spec.services) {
      const wanted = { service, package: plan.spec.package }
      if (await has(wanted)) continue
      // What runs goes on running while the image of the next revision is fetched.
      if (!replaces) this.report(key, desired, 'fetching')
      await fetch(wanted)
    }
    if (!this.stillWanted(key, desired)) return
    const files = this.options.files?.place(plan)
    if (replaces) await engine.remove(key)
    this.report(key, desired, 'starting')
    await engine.create({ ...plan, files })
    if (!(await this.startAll(key, desired))) return
    this.options.onEvent('started', { instance: plan.instance, epoch: desired.epoch, revision: desired.revision })
  }

  /**
   * Starts what waits for nothing.
   * @returns false where it is an exclusive instance and has no lease to start it by
   */
  private async startAll(key: string, desired: Desired): Promise<boolean> {
    const { engine, beforeStart } = this.options
    const { spec } = desired.plan
    const isOrdered = spec.services.some(({ dependsOn, mayEnd }) => dependsOn !== undefined || mayEnd)
    const look = async () => (await engine.containers()).filter((container) => container.key === key)
    if (spec.exclusive !== undefined) {
      if (!this.stillWanted(key, desired)) return false // by the lease of this epoch: there may be a later one by now
      const containers = await look()
      const ids = containers.map(({ id }) => id)
      if (!(await beforeStart(key, ids))) {
        await new Promise<void>((resolve) => this.time.after(LEASE_PATIENCE, resolve))
        return false
      }
    }
    this.options.files?.place(desired.plan) // a host that was rebooted has lost them
    if (!isOrdered) await engine.start(key)
    else {
      const { ready } = orderOf(spec.services, new Map((await look()).map((state) => [state.service, state])))
      await engine.start(key, ready)
    }
    return true
  }

  /** What depends on another service, and that one was started anew. */
  private async startAgain(key: string, desired: Desired, services: readonly string[]): Promise<void> {
    await this.options.engine.stop(key, services)
    await this.startAll(key, desired)
  }

  private stillWanted(key: string, desired: Desired): boolean {
    return this.desired.get(key)?.plan.generation === desired.plan.generation
  }

  private async removeUnwanted(key: string): Promise<void> {
    const report = this.reports.get(key)
    if (report !== undefined) this.setReport(key, { ...report, state: 'stopping', since: this.options.now() })
    const instance = this.actual.get(key)![0]!.instance
    this.removing.add(key)
    try {
      await this.options.engine.remove(key)
    } finally {
      this.removing.delete(key)
    }
    this.options.onStopped(key, instance, await this.options.engine.volumes(chuteOfInstance(key)))
  }

  // An engine that is being stopped still answers for a moment, and all it says then is that something is wrong with it. A
  // restart of it must not move work, so the second time counts, or the silence that follows.
  private doubt(key: string, error: unknown): void {
    this.doubted.add(key)
    const crashed =
      this.actual.get(key)?.some((state) => !state.running && state.startedAt !== null && !isDone(state)) ?? false
    this.retryLater(key, this.desired.get(key), messageOf(error), []).restart = crashed
  }

  // A step failed for a reason that lies on this AP. Where the data is elsewhere or nowhere, others get their turn.
  private refuse(key: string, error: unknown): void {
    const desired = this.desired.get(key)
    const reason = messageOf(error).slice(0, 250)
    if (desired === undefined) {
      this.retryLater(key, undefined, reason, [])
      return
    }
    this.retryLater(key, desired, reason, [])
    void this.holdsData(desired).then((holdsData) => {
      if (holdsData) return
      const before = this.refusals.get(key)
      const times = before?.revision === desired.revision ? before.times + 1 : 1
      const until = this.options.now() + Math.min(CANNOT_CAP, CANNOT_FIRST * 2 ** (times - 1))
      this.refusals.set(key, { instance: desired.subject, revision: desired.revision, reason, until, times })
      this.options.onEvent('cannot', { instance: desired.plan.instance, reason })
      this.options.onChange()
    })
  }

  private async holdsData({ plan }: Desired): Promise<boolean> {
    if (!isPinnedByData(plan.spec)) return false
    return (await this.options.engine.volumes(plan.chuteKey).catch(() => ['unknown'])).length > 0
  }

  // The first restart is immediate; each one after it waits twice as long, until the containers have run for a while.
  private retryLater(
    key: string,
    desired: Desired | undefined,
    reason: string | undefined,
    containers: ContainerState[],
  ): Backoff {
    const ranFor = Math.max(
      0,
      ...containers.map(({ startedAt }) => (startedAt ? this.time.wall() - Date.parse(startedAt) : 0)),
    )
    const before = ranFor > RECOVERED ? 0 : (this.backoffs.get(key)?.failures ?? 0)
    const wait = before === 0 && containers.length > 0 ? 0 : Math.min(BACKOFF_CAP, BACKOFF_FIRST * 2 ** before)
    const backoff = { failures: before + 1, notBefore: this.time.monotonic() + wait, restart: false }
    this.backoffs.set(key, backoff)
    if (desired !== undefined && reason !== undefined) this.report(key, desired, 'failed', reason)
    return backoff
  }

  private noteHealth(key: string, all: ContainerState[], desired?: Desired): void {
    const containers = all.filter((container) => !isDone(container))
    const healths = containers.map(({ health }) => health)
    const state: InstanceState = containers.some(({ running }) => !running)
      ? 'failed'
      : healths.includes('unhealthy')
        ? 'unhealthy'
        : healths.includes('starting')
          ? 'starting'
          : healths.includes('healthy')
            ? 'healthy'
            : 'running'
    const ports = containers.flatMap((container) => container.ports)
    const { epoch, revision } = all[0]!
    const found = { subject: unhex(key), epoch: Number(epoch), revision: Number(revision) }
    this.report(key, desired ?? found, state, undefined, ports)
    if (desired === undefined || (state !== 'healthy' && state !== 'running')) return
    this.refusals.delete(key)
    this.doubted.delete(key)
  }

  private report(
    key: string,
    of: Omit<Desired, 'plan'>,
    state: InstanceState,
    reason?: string,
    ports: Report['ports'] = [],
  ): void {
    const { subject: instance, epoch, revision } = of
    const before = this.reports.get(key)
    const isSame = before?.state === state && before.epoch === epoch && before.revision === revision
    const since = isSame ? before.since : this.options.now()
    this.setReport(key, {
      instance,
      epoch,
      revision,
      state,
      since,
      reason: reason?.slice(0, 250),
      ports: ports.slice(0, 64),
    })
  }

  private setReport(key: string, report: Report): void {
    const before = this.reports.get(key)
    this.reports.set(key, report)
    if (JSON.stringify(before) !== JSON.stringify(report)) this.options.onChange()
  }

  private forget(key: string): void {
    this.reports.delete(key)
    this.backoffs.delete(key)
    this.doubted.delete(key)
    this.options.onChange()
  }
}

/** The engine failed at something, rather than refused it. */
const isFault = (error: unknown): boolean =>
  error instanceof EngineError && error.code === 'refused' && (error.status ?? 0) >= 500

/**
 * What makes two containers interchangeable: the same deployment, epoch, restarts and secrets. A change of it replaces them; a
 * restart of the node does not.
 */
export const generationOf = (deployment: Uint8Array, epoch: number, restarts: number, secrets = ''): string =>
  [hex(deployment.subarray(0, 8)), epoch, restarts, ...(secrets === '' ? [] : [secrets])].join('.')
