// A host of the simulated mesh: its power, its clocks, its disk, its container engine, its place in the network, and the
// process that runs on it or does not.
import type { EngineInfo } from '../../node/chutes/engine.js'
import type { Time } from '../../node/clock.js'
import { apId } from '../../protocols/bytes.js'
import type { Signer } from '../../protocols/keys.js'
import { Ap } from './ap.js'
import { Disk } from './disk.js'
import { SimEngine } from './engine.js'
import type { Fate } from './hostile.js'
import type { Connection, Endpoint, Side } from './network.js'
import type { Random } from './random.js'
import { Watchdog } from './watchdog.js'
import type { World } from './world.js'

/** The wall clock of a host that is right, when the run begins. */
export const EPOCH = 1_790_000_000_000

export const CAPACITY: EngineInfo = {
  version: 'sim',
  platform: 'linux/amd64',
  cpu: 4000,
  memory: 4 * 1024 ** 3,
  local: true,
}

export interface Build {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  /** Milliseconds by which its wall clock is wrong, and how much too fast or slow it and its monotonic clock run. */
  readonly skew: number
  readonly drift: number
  readonly rate: number
  /** Of its uplink. */
  readonly bytesPerMs: number
}

export class Host implements Endpoint {
  readonly id: string
  readonly disk: Disk
  readonly engine: SimEngine
  readonly watchdog: Watchdog
  readonly images = new Set<string>()
  readonly random: Random
  /** The process, once it is up. */
  ap: Ap | undefined
  isPaused = false
  /** True once its disk is gone: it never comes back. */
  isDestroyed = false
  /** True where it sends what no honest AP would. */
  isHostile = false
  /** How that ends. */
  fate: Fate | undefined
  /** Until when something was wrong with it that can make others think it dead, or it them. */
  disturbedUntil = Number.NEGATIVE_INFINITY
  private isPowered = false
  private life = 0
  private isStarting = false
  private skew: number
  private deferred: (() => void)[] = []
  /** What to do about each image that is sent, where this process ends. */
  private readonly sending = new Set<() => void>()
  private readonly connections = new Map<Connection, Side>()

  constructor(
    private readonly world: World,
    readonly index: number,
    readonly signer: Signer,
    readonly build: Build,
  ) {
    this.id = apId(signer.publicKey)
    this.skew = build.skew
    this.random = world.random.fork(`host ${index}`)
    const { scheduler, checks } = world
    this.disk = new Disk(scheduler, this.random.fork('disk'), {
      onStored: (record) => checks.onStored(this, record),
      onDropped: (record) => checks.onDropped(this, record),
    })
    world.mutation.disk?.(this.disk)
    this.engine = new SimEngine(
      {
        after: (ms, run) => scheduler.after(ms, run),
        wall: () => this.wall(),
        onStarted: (plan) => {
          world.tell(this, 'runs', { instance: plan.instance, epoch: plan.epoch })
          checks.onStarted(this, plan)
          this.watchdog.onStarted(plan.key)
        },
        onStopped: (key) => checks.onStopped(this, key),
      },
      this.random.fork('engine'),
      CAPACITY,
    )
    this.watchdog = new Watchdog({
      after: (ms, run) => scheduler.after(ms / (1 + build.rate), run),
      clock: () => this.monotonic(),
      kill: (instance) => this.engine.crash(instance, 137),
    })
  }

  // --- life ---------------------------------------------------------------------------------------------------------

  get isAlive(): boolean {
    return this.ap !== undefined || this.isStarting
  }

  /** Turns the power on, if it is off, and starts the process. */
  start(): void {
    if (this.isDestroyed || this.isAlive) return
    this.isPowered = true
    this.isStarting = true
    const life = ++this.life
    const isAlive = () => this.life === life
    this.world.scheduler.after(this.random.between(200, 1500), () => {
      if (!isAlive()) return
      this.world.scheduler.touch()
      const time: Time = {
        wall: () => this.wall(),
        monotonic: () => this.monotonic(),
        after: (ms, run) => this.timer(life, ms, run),
        breathe: () => new Promise((resolve) => this.world.scheduler.after(0, () => this.run(life, resolve))),
      }
      const deliver = (run: () => void) => this.run(life, run)
      Ap.start(this.world, this, time, isAlive, deliver).then(
        (ap) => {
          if (!isAlive()) return
          this.ap = ap
          this.isStarting = false
        },
        (error) => {
          this.isStarting = false
          // Only a full disk may keep a node from starting, and a service manager goes on trying.
          if (this.disk.isFull) this.world.scheduler.after(2000, () => isAlive() && this.start())
          else this.world.checks.onFailure(this, error)
        },
      )
    })
  }

  /** SIGKILL: containers go on, the kernel closes what was open. */
  kill(): void {
    this.endLife(false)
    for (const [connection, side] of this.connections) connection.close(side)
    this.connections.clear()
  }

  /** SIGTERM: it hands over and goes. */
  async leave(then: () => void): Promise<void> {
    const { ap, life } = this
    if (ap === undefined) return then()
    this.world.scheduler.touch()
    await ap.stop()
    if (this.life !== life) return
    this.kill()
    then()
  }

  losePower(): void {
    this.endLife(true)
    this.isPowered = false
    for (const [connection, side] of this.connections) connection.vanish(side)
    this.connections.clear()
    this.engine.losePower()
    this.watchdog.losePower()
  }

  destroy(): void {
    this.losePower()
    this.isDestroyed = true
    this.world.checks.onDestroy(this)
    this.disk.destroy()
  }

  private endLife(losesPower: boolean): void {
    this.life++
    this.ap = undefined
    this.isStarting = false
    this.isPaused = false
    this.deferred = []
    const sending = [...this.sending]
    this.sending.clear()
    for (const fail of sending) fail()
    this.disk.crash(losesPower)
  }

  pause(): void {
    this.isPaused = this.ap !== undefined
  }

  resume(): void {
    this.isPaused = false
    while (!this.isPaused && this.deferred.length > 0) this.deferred.shift()!()
  }

  /** Runs what belongs to a life of the process, unless that is over; later, while it stands still. */
  private run(life: number, what: () => void): void {
    if (this.life !== life) return
    if (this.isPaused) {
      this.deferred.push(() => this.run(life, what))
      return
    }
    this.world.scheduler.touch()
    try {
      what()
    } catch (error) {
      this.world.checks.onFailure(this, error)
    }
  }

  // --- time ---------------------------------------------------------------------------------------------------------

  wall(): number {
    return EPOCH + Math.floor(this.world.scheduler.now * (1 + this.build.drift)) + this.skew
  }

  private monotonic(): number {
    return this.world.scheduler.now * (1 + this.build.rate)
  }

  private timer(life: number, ms: number, run: () => void): () => void {
    let isCancelled = false
    // As Node's: whole milliseconds, and one at least.
    this.world.scheduler.after(Math.max(1, Math.trunc(ms)) / (1 + this.build.rate), () => {
      if (!isCancelled) this.run(life, () => isCancelled || run())
    })
    return () => {
      isCancelled = true
    }
  }

  /** Someone sets the wall clock. */
  setClock(skew: number): void {
    this.skew = skew
  }

  // --- network ------------------------------------------------------------------------------------------------------

  isUp(): boolean {
    return this.isPowered
  }

  isListening(): boolean {
    return this.ap !== undefined
  }

  isAnswering(): boolean {
    return !this.isPaused
  }

  dial(
    ap: string,
    deadline: number,
    isWanted: () => boolean,
    done: (connection: Connection | undefined) => void,
  ): void {
    const { life } = this
    const isStillWanted = () => this.life === life && isWanted()
    this.world.network.dial(this, this.world.hostOf(ap).index, deadline, isStillWanted, (connection) => {
      if (connection !== undefined) this.connections.set(connection, 0)
      this.run(life, () => done(connection))
    })
  }

  onConnection(connection: Connection, side: Side): void {
    this.connections.set(connection, side)
    this.run(this.life, () => this.ap!.mesh.onConnection(connection, side))
  }

  onMessage(connection: Connection, side: Side, message: unknown): void {
    this.run(this.life, () => this.ap?.mesh.onMessage(connection, side, message))
  }

  onClosed(connection: Connection, side: Side): void {
    this.connections.delete(connection)
    this.run(this.life, () => this.ap?.mesh.onClosed(connection, side))
  }

  /** Sends bytes to another AP; the process that is to do so may end before. */
  private send(to: Host, size: number, done: (isWhole: boolean) => void): void {
    const fail = () => done(false)
    this.sending.add(fail)
    this.world.network.transfer(this.index, to.index, size, (isWhole) => {
      if (this.sending.delete(fail)) done(isWhole)
    })
  }

  /** Fetches an image from another AP. @returns its size in bytes */
  fetch(ap: string, config: string): Promise<number> {
    const { life } = this
    const from = this.world.hostOf(ap)
    const size = this.world.sizeOf(config)
    return new Promise((resolve, reject) => {
      const done = (isWhole: boolean) =>
        this.run(life, () => {
          if (isWhole) this.images.add(config)
          isWhole ? resolve(size) : reject(new Error('it was cut off'))
        })
      if (from.ap === undefined || !from.images.has(config)) return reject(new Error('it has not'))
      from.send(this, size, done)
    })
  }
}
