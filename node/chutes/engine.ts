// What the reconciler may ask of a container engine, in the words of the mesh. It knows nothing of Docker; the simulator
// has an implementation of its own.
import type { ChuteSpec } from '../../protocols/deployment.js'
import { MeshError } from '../../protocols/error.js'

/**
 * - `no-engine`: no answer, or none in time. Nothing is known of what was asked for; try again later.
 * - `port-taken`: a published port is in use on this AP; the message says by whom, where that can be learnt.
 * - `no-image`: the engine does not have the image.
 * - `refused`: the engine said no; the message is its own.
 */
export type EngineErrorCode = 'no-engine' | 'port-taken' | 'no-image' | 'refused'

export class EngineError extends MeshError {
  declare readonly code: EngineErrorCode
  /** The HTTP status of the engine's answer, where it gave one. */
  readonly status: number | undefined

  constructor(code: EngineErrorCode, message: string, options?: { cause?: unknown; status?: number }) {
    super(code, message, options)
    this.name = 'EngineError'
    this.status = options?.status
  }
}

export interface EngineInfo {
  version: string
  /** `os/architecture` in the words of image configs: `linux/amd64`, `linux/arm64`, `linux/arm/v7`. */
  platform: string
  /** Thousandths of a CPU. */
  cpu: number
  /** Bytes. */
  memory: number
  /** Whether its containers are processes of this machine, which this node may kill. */
  local: boolean
  /** Why chutes can reach services of the AP itself; undefined where they cannot. */
  open?: string | undefined
}

/** One instance as its containers should be. */
export interface InstancePlan {
  /** Hex, unique in the mesh. */
  key: string
  /** What people see: `hello.0`. */
  instance: string
  /** The chute's name. */
  chute: string
  /** Hex, unique in the mesh: volumes belong to it, and outlive instances. */
  chuteKey: string
  revision: string
  epoch: string
  /** Any change of it means that the containers must be replaced. */
  generation: string
  spec: ChuteSpec
  /** A folder of this machine with the secrets and configs of each service, in memory; it is there before containers are made. */
  files?: string | undefined
  /** Added to the environment of each service, and wins over it. */
  environment: Record<string, string>
}

/** One container of this AP, as the engine says it is. */
export interface ContainerState {
  /** The engine's id of it. */
  id: string
  key: string
  instance: string
  chute: string
  chuteKey: string
  service: string
  generation: string
  epoch: string
  revision: string
  running: boolean
  health: 'none' | 'starting' | 'healthy' | 'unhealthy'
  /** Null while it runs, and before it ran for the first time. */
  exitCode: number | null
  oomKilled: boolean
  /** With status 0 it is done, and not to be started again. */
  mayEnd?: boolean
  /** ISO 8601, of the latest start; null before the first. */
  startedAt: string | null
  /** Why it could not start, in the engine's words; else empty. */
  error: string
  /** Published ports, with the host's side as it is now: only a running container has any. */
  ports: { container: number; host: number; protocol: 'tcp' | 'udp' }[]
}

/**
 * An engine as one AP sees it: containers, networks and volumes of others, of another AP or mesh on the same engine
 * among them, are neither shown nor touched. Every method may throw an EngineError, `no-engine` first of all.
 */
export interface Engine {
  info(): Promise<EngineInfo>

  /** Every container of this AP, running or not. */
  containers(): Promise<ContainerState[]>

  /**
   * Keys of which the engine has something, but no container: what a crash amid `create` or `remove` leaves behind.
   * `remove` cleans them up.
   */
  leftovers(): Promise<string[]>

  /**
   * Makes the network, the volumes and the containers of an instance, without starting any. What is there already, of
   * this generation, stays; containers of the same key and another generation are removed first, with their grace.
   * When it throws, call it again, or `remove`.
   */
  create(plan: InstancePlan): Promise<void>

  /**
   * Starts what of the instance does not run, or of these services alone. A container that started before another one
   * could not keeps running.
   */
  start(key: string, services?: readonly string[]): Promise<void>

  /** Stops these services of an instance, each with its grace. They can be started again. */
  stop(key: string, services: readonly string[]): Promise<void>

  /**
   * Stops and removes the containers and the network of an instance. Its named volumes stay. What is missing is fine.
   * @param graceMs between SIGTERM and SIGKILL, rounded up to seconds, in place of each service's own `stopGrace`.
   */
  remove(key: string, graceMs?: number): Promise<void>

  /** Names, as the manifest has them, of the chute's volumes on this AP whose data must not be lost. */
  volumes(chuteKey: string): Promise<string[]>

  /** Removes the chute's volumes and the data in them. Throws `refused` while a container uses one. */
  removeVolumes(chuteKey: string, onlyEphemeral?: boolean): Promise<void>

  /**
   * Calls `onChange` whenever a container of this AP changed, and once as soon as it is watching, since it cannot know
   * what happened before. Resolves when the signal aborts, or when the engine ends the stream (the caller then calls
   * again); throws when watching cannot begin.
   */
  changes(onChange: () => void, signal: AbortSignal): Promise<void>
}
