// In which order the services of an instance start, by what each waits for (`depends_on`), and which of them are done. Pure:
// it is told what the engine says of the containers.
import type { ServiceSpec } from '../../protocols/deployment.js'
import type { ContainerState } from './engine.js'

type Service = Pick<ServiceSpec, 'name' | 'dependsOn'>
type Dependency = NonNullable<ServiceSpec['dependsOn']>[number]

export interface Order {
  /** What can be started now. */
  ready: string[]
  /** What runs, and is to be started anew since what it depends on was. */
  stale: string[]
  /** What waits, and for what, in words. */
  waiting: Map<string, string>
}

const hasEnded = ({ running, startedAt, exitCode }: ContainerState): boolean =>
  !running && startedAt !== null && exitCode === 0

/** It ended as it may. */
export const isDone = (state: ContainerState): boolean => state.mayEnd === true && hasEnded(state)

const hasFailed = ({ running, startedAt, exitCode, health }: ContainerState): boolean =>
  (!running && startedAt !== null && exitCode !== 0) || (running && health === 'unhealthy')

/** What a service waits for, in words; undefined where it has it. */
function lack(
  { service, condition, required }: Dependency,
  states: ReadonlyMap<string, ContainerState>,
): string | undefined {
  const state = states.get(service)
  if (state === undefined) return `${service}, which its chute does not have`
  if (required === false && hasFailed(state)) return undefined
  switch (condition) {
    case 'service_started':
      return state.running || hasEnded(state) ? undefined : `${service} to start`
    case 'service_healthy':
      if (state.running && state.health === 'healthy') return undefined
      return state.running && state.health === 'none'
        ? `${service}, which has no health check`
        : `${service} to be healthy`
    case 'service_completed_successfully':
      return hasEnded(state) ? undefined : `${service} to end with status 0`
  }
}

const startOf = ({ startedAt }: ContainerState): number => (startedAt === null ? 0 : Date.parse(startedAt))

/** @param states of the containers of one instance, by service */
export function orderOf(services: readonly Service[], states: ReadonlyMap<string, ContainerState>): Order {
  const order: Order = { ready: [], stale: [], waiting: new Map() }
  for (const { name, dependsOn = [] } of services) {
    const state = states.get(name)
    if (state === undefined || isDone(state)) continue
    const lacks = dependsOn.flatMap((one) => lack(one, states) ?? [])
    const isOlder = ({ service, restart }: Dependency) =>
      restart === true && states.has(service) && startOf(states.get(service)!) > startOf(state)
    if (state.running) {
      if (lacks.length === 0 && dependsOn.some(isOlder)) order.stale.push(name)
    } else if (lacks.length === 0) order.ready.push(name)
    else order.waiting.set(name, `${name} waits for ${lacks.join(' and ')}`)
  }
  return order
}
