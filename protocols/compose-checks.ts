// What the parts of a manifest must be beside each other: each refused where it stands, with the place of the other.
import type { Placed, Value } from './compose-reader.js'
import type { Services } from './compose-service.js'
import type { ManifestService } from './compose-spec.js'
import { type ChuteSpec, SECRETS_AT, type ServiceSpec } from './deployment.js'
import { BUILD_RIGHT, holdsRight, lackingRights, type Rights } from './policy.js'

export function refuseStrayMounts(services: Services, volumes: ReadonlyMap<string, unknown>): void {
  for (const { is: service } of services.values()) {
    const paths = new Map<string, Value>()
    for (const { at, is } of [...(service.volumes ?? []), ...(service.tmpfs ?? []), ...(service.configs ?? [])]) {
      const earlier = paths.get(is.path)
      if (earlier) at.refuse(`${is.path} is mounted twice, first on ${earlier.where(at)}`)
      else paths.set(is.path, at)
      if (!('volume' in is) || volumes.has(is.volume)) continue
      at.refuse(`volume ${is.volume} is not declared: add it under volumes`)
    }
  }
}

export function refuseStraySecrets(services: Services, declared: ReadonlyMap<string, unknown>): void {
  for (const { is: service } of services.values()) {
    const files = new Map<string, Value>()
    for (const { at, is } of service.secrets ?? []) {
      const earlier = files.get(is.file)
      if (earlier) at.refuse(`the file ${is.file} is there twice, first on ${earlier.where(at)}`)
      else files.set(is.file, at)
      if (!declared.has(is.name))
        at.refuse(`secret ${is.name} is not declared: add it under secrets, with external: true`)
    }
    if (files.size === 0) continue
    for (const { at, is } of [...(service.volumes ?? []), ...(service.tmpfs ?? [])])
      if (is.path.replace(/\/+$/, '') === SECRETS_AT) at.refuse(`${SECRETS_AT} is where the secrets are`)
  }
}

export function refuseStrayConfigs(services: Services, declared: ReadonlyMap<string, unknown>): void {
  for (const { is: service } of services.values()) {
    for (const { at, is } of service.configs ?? [])
      if (!declared.has(is.config)) at.refuse(`config ${is.config} is not declared: add it under configs`)
  }
}

/** The services of a chute share one network. Those that share none in Compose are kept apart there, and would not be here. */
export function refuseSeparation(services: Services, declared: ReadonlyMap<string, unknown>): void {
  const seen: [string, readonly string[]][] = []
  for (const [name, { at, is: service }] of services) {
    const networks = service.networks?.is ?? []
    const where = service.networks?.at ?? at
    for (const one of networks)
      if (one !== 'default' && !declared.has(one)) where.refuse(`network ${one} is not declared: add it under networks`)
    const own = networks.length > 0 ? networks : ['default']
    const apart = seen.find(([, others]) => !others.some((one) => own.includes(one)))
    if (apart !== undefined)
      where.refuse(
        `is to be kept apart from ${apart[0]}, but the services of a chute share one network: make it a chute of its own`,
      )
    seen.push([name, own])
  }
}

/** What deploy.resources.limits says as well. */
export function refuseDoubleLimits(services: Services): void {
  for (const { is: service } of services.values()) {
    const limits = service.deploy?.resources?.limits
    const both = [
      [service.cpus, limits?.cpus],
      [service.mem_limit, limits?.memory],
      [service.pids_limit, limits?.pids],
    ]
    for (const [short, long] of both)
      if (short && long && short.is !== long.is)
        short.at.refuse(`contradicts ${long.at.path} on ${long.at.where(short.at)}: remove one of the two`)
  }
}

/**
 * What each service waits for, of those that run.
 * @param all those of profiles that are off among them
 */
export function dependenciesOf(
  services: Services,
  all: ReadonlyMap<string, unknown>,
): Map<string, NonNullable<ServiceSpec['dependsOn']>> {
  const found = new Map<string, NonNullable<ServiceSpec['dependsOn']>>()
  for (const [name, { is: service }] of services) {
    const own: NonNullable<ServiceSpec['dependsOn']> = []
    for (const [other, { at, is }] of Object.entries(service.depends_on ?? {})) {
      const waitedFor = services.get(other)
      if (waitedFor === undefined) {
        const why = all.has(other)
          ? `service ${other} is left out: its profiles are off`
          : `there is no service ${other}`
        if (is.required === false) at.note(`ignored: ${why}`)
        else at.refuse(why)
        continue
      }
      const check = waitedFor.is.healthcheck?.is
      if (is.condition === 'service_healthy' && (check?.disable || check?.test?.[0] === 'NONE'))
        at.refuse(`service ${other} has no health check, and would be waited for for ever`)
      own.push({ service: other, ...is })
    }
    if (own.length > 0) found.set(name, own)
  }
  refuseCycles(services, found)
  return found
}

function refuseCycles(services: Services, found: ReadonlyMap<string, NonNullable<ServiceSpec['dependsOn']>>): void {
  const done = new Set<string>()
  const visit = (name: string, chain: readonly string[]): void => {
    if (done.has(name)) return
    for (const { service } of found.get(name) ?? []) {
      const begin = [...chain, name].indexOf(service)
      if (begin < 0) visit(service, [...chain, name])
      else
        services
          .get(name)!
          .is.depends_on![service]!.at.refuse(
            `services wait for each other: ${[...[...chain, name].slice(begin), service].join(' → ')}`,
          )
    }
    done.add(name)
  }
  for (const name of services.keys()) visit(name, [])
}

export function exclusiveOf(everywhere: Placed<boolean> | undefined, exclusive: Placed<boolean> | undefined): boolean {
  if (everywhere?.is && exclusive?.is) {
    exclusive.at.refuse(
      `contradicts ${everywhere.at.path} on ${everywhere.at.where(exclusive.at)}: remove one of the two`,
    )
  }
  return exclusive?.is ?? false
}

export function rebalanceOf(
  everywhere: Placed<boolean> | undefined,
  rebalance: Placed<NonNullable<ChuteSpec['rebalance']>> | undefined,
): ChuteSpec['rebalance'] {
  if (everywhere?.is && rebalance && rebalance.is !== 'never') {
    rebalance.at.refuse(
      `a chute on every AP never moves, and ${everywhere.at.path} on ${everywhere.at.where(rebalance.at)} makes it one: remove one of the two`,
    )
  }
  return rebalance?.is
}

const needs = (right: string): string =>
  `needs the right ${right}, which your key does not hold; an admin gives it with "dropmesh grant KEY --right ${right}"`

/** Whether APs build what services are built of. */
export function buildsOnAp(services: Services, said: Placed<string> | undefined, rights: Rights): boolean {
  if (said?.is !== 'on-ap') return false
  if (![...services.values()].some(({ is }) => is.build)) said.at.refuse('no service has a build')
  else if (!holdsRight(rights, BUILD_RIGHT)) said.at.refuse(needs(BUILD_RIGHT))
  return true
}

/** @param read the same services, as a record has them */
export function refuseWithoutRight(services: Services, read: readonly ManifestService[], rights: Rights): void {
  for (const spec of read) {
    for (const { right, key, index, isGrantable } of lackingRights(spec, rights)) {
      if (key === 'build') continue // it stands at the top, once for all services
      const at = [services.get(spec.name)!.is[key] ?? []].flat()[index]!.at
      at.refuse(isGrantable ? needs(right) : `not supported in a chute: no right gives ${right}`)
    }
  }
}

/** The services of an instance run on one AP, where each port can be had once. */
export function refuseSharedPorts(services: Services): void {
  const taken = new Map<string, Value>()
  for (const { at, is } of [...services.values()].flatMap((service) => service.is.ports ?? [])) {
    if (is.host === undefined) continue
    const port = `${is.host}/${is.protocol}`
    const earlier = taken.get(port)
    if (earlier) at.refuse(`port ${port} is published twice, first on ${earlier.where(at)}`)
    else taken.set(port, at)
  }
}

// An instance is all services of a chute together, on one AP. Compose states placement by service, so they must agree.

export function replicasOf(services: Services, everywhere: Placed<boolean> | undefined): ChuteSpec['replicas'] {
  const said = [...services.values()].flatMap(({ is }) => [is.deploy?.replicas ?? [], is.scale ?? []].flat())
  const [first, ...others] = said
  for (const { at, is } of others) {
    if (is === first!.is) continue
    at.refuse(`the services of a chute run together, and ${first!.at.path} on ${first!.at.where(at)} says ${first!.is}`)
  }
  const modes = [...services.values()].flatMap(({ is }) => is.deploy?.mode ?? [])
  const global = everywhere?.is ? everywhere : modes.find(({ is }) => is === 'global')
  if (!global) return first?.is ?? 1
  for (const { at } of [first ?? [], modes.filter(({ is }) => is !== 'global')].flat())
    at.refuse(`contradicts ${global.at.path} on ${global.at.where(at)}: remove one of the two`)
  return 'everywhere'
}

export function constraintsOf(services: Services): ChuteSpec['constraints'] {
  const all = new Map<string, Placed<ChuteSpec['constraints'][number]>>()
  const stated = [...services.values()].flatMap(({ is }) => is.deploy?.placement?.constraints ?? [])
  for (const { at, is } of stated) {
    const earlier = all.get(is.label)
    if (!earlier) all.set(is.label, { at, is })
    else if (earlier.is.value !== is.value) {
      at.refuse(
        `no AP can fit: the services of a chute run together, and ${earlier.at.where(at)} wants ${earlier.is.value}`,
      )
    }
  }
  return [...all.values()].map(({ is }) => is)
}
