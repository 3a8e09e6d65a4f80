// Runs one scenario: carries out its actions at their times, heals everything, and watches until the end.

import type { Ap as RealAp } from '../../node/ap.js'
import { next } from '../../node/api/queries.js'
import { sha256, unhex, utf8 } from '../../protocols/bytes.js'
import { chuteSubject, newCreation } from '../../protocols/chute.js'
import type { ChuteSpec, Exclusive } from '../../protocols/deployment.js'
import { seal } from '../../protocols/envelope.js'
import { personSigner } from '../../protocols/keys.js'
import { type Body, checkKind, type Kind } from '../../protocols/kinds.js'
import { MAX_CLOCK_AHEAD } from '../../protocols/limits.js'
import { redeem } from '../../protocols/ticket.js'
import { creationMark } from '../../protocols/voters.js'
import type { Ap } from './ap.js'
import { EPOCH, type Host } from './host.js'
import { type Fate, Hostile } from './hostile.js'
import type { Checks, Violation } from './invariants.js'
import type { Mutation } from './mutations.js'
import type { Random } from './random.js'
import { type Action, END, HEALED, type Scenario, type Shape } from './scenario.js'
import { World } from './world.js'

export interface Outcome {
  readonly violation: Violation | undefined
  readonly steps: number
  readonly counts: Checks['counts']
  /** Of the ledger of the first live member at the end: one seed, one digest. */
  readonly digest: string
  /** Empty where none was asked for. */
  readonly trace: readonly string[]
}

export interface Options {
  readonly trace?: boolean
  /** What is broken in it. */
  readonly mutation?: Mutation
}

export async function run(scenario: Scenario, { trace = false, mutation }: Options = {}): Promise<Outcome> {
  const world = new World(scenario.seed, trace, mutation)
  const onRejection = (error: unknown) => world.checks.onFailure(undefined, error)
  process.on('unhandledRejection', onRejection)
  const { scheduler, hosts, checks } = world
  for (const build of scenario.builds) world.addHost(build)
  world.found(hosts.slice(0, scenario.founders))
  for (const host of hosts.slice(0, scenario.founders)) host.start()

  const troubles = new Troubles(world)
  for (const action of scenario.actions) {
    scheduler.at(action.at, () => {
      world.tell(hosts['host' in action ? action.host : 0], `-> ${action.do}`, action)
      troubles.carryOut(action)
    })
  }
  scheduler.at(HEALED, () => troubles.heal())
  for (let at = HEALED + 1000; at <= END; at += 1000) scheduler.at(at, () => checks.onQuiet(HEALED))
  await scheduler.runUntil(END)
  process.off('unhandledRejection', onRejection)
  const digest = hosts.find(({ ap }) => ap?.isRunning)?.ap?.ledgerStore.ledger.digest() ?? new Uint8Array()
  return {
    violation: checks.violation,
    steps: scheduler.steps,
    counts: checks.counts,
    digest: Buffer.from(digest).toString('hex'),
    trace: world.trace,
  }
}

/** Carries out actions, and knows how to end what they began. */
class Troubles {
  private readonly ends = new Set<() => void>()

  constructor(private readonly world: World) {}

  carryOut(action: Action) {
    const { hosts } = this.world
    switch (action.do) {
      case 'publish':
        return this.publish(hosts[action.host]!, action.chute, action.shape)
      case 'stop':
      case 'start':
      case 'restart':
      case 'remove':
        return this.command(hosts[action.host]!, action.chute, action.do)
      case 'kill':
      case 'power-cut':
      case 'leave':
        return this.down(hosts[action.host]!, action.do, action.lasts)
      case 'pause':
        return this.pause(hosts[action.host]!, action.lasts)
      case 'destroy':
        return this.destroy(hosts[action.host]!)
      case 'join':
        return this.join(hosts[action.host]!, hosts[action.via]!)
      case 'forget':
      case 'drain':
      case 'undrain':
        return this.administer(hosts[action.host]!, hosts[action.of]!, action.do)
      case 'cut':
        return this.cut(action.hosts, action.way, action.lasts)
      case 'flap':
        return this.flap(action.host, action.period, action.lasts)
      case 'loss':
        return this.lose(action.rate, action.lasts)
      case 'disk-full':
        return this.fillDisk(hosts[action.host]!, action.lasts)
      case 'engine-down':
      case 'engine-fails':
        return this.breakEngine(
          hosts[action.host]!,
          action.do === 'engine-fails' ? action.rate : undefined,
          action.lasts,
        )
      case 'container-crash': {
        const [plan] = hosts[action.host]!.engine.running()
        if (plan !== undefined) hosts[action.host]!.engine.crash(plan.key)
        return
      }
      case 'set-clock':
        return hosts[action.host]!.setClock(action.skew)
      case 'end-grant':
        return this.takeBack(hosts[action.host]!, action.publisher, action.lasts)
      case 'revoke':
        return this.takeBack(hosts[action.host]!, action.publisher)
      case 'turn-hostile':
        return this.turn(hosts[action.host]!, action.fate)
    }
  }

  /** Everything that can be mended is: cuts, losses, disks, engines; what is down comes up. */
  heal(): void {
    this.world.tell(undefined, '-> heal', {})
    for (const end of [...this.ends]) end()
    for (const host of this.world.hosts) {
      if (host.disk.records.size > 0 && !host.isAlive) host.start()
    }
  }

  /** Does something now, and undoes it after a while or when everything is healed. */
  private for(lasts: number, undo: () => void): void {
    const end = () => {
      if (!this.ends.delete(end)) return
      undo()
    }
    this.ends.add(end)
    this.world.scheduler.after(lasts, end)
  }

  private disturb(hosts: readonly Host[], lasts: number): void {
    const until = Math.min(HEALED, this.world.scheduler.now + lasts)
    for (const host of hosts) host.disturbedUntil = Math.max(host.disturbedUntil, until)
  }

  // --- hosts --------------------------------------------------------------------------------------------------------

  private down(host: Host, how: 'kill' | 'power-cut' | 'leave', lasts: number): void {
    if (!host.isAlive) return
    this.disturb([host], lasts + 10_000)
    const comeBack = () => this.for(lasts, () => host.start())
    if (how === 'leave') {
      this.disturb([host], lasts + 90_000)
      void host.leave(comeBack)
      return
    }
    if (how === 'kill') host.kill()
    else host.losePower()
    comeBack()
  }

  private pause(host: Host, lasts: number): void {
    this.disturb([host], lasts)
    host.pause()
    this.for(lasts, () => host.resume())
  }

  // Those who founded the mesh stay: without an admin nobody could be let in or forgotten.
  private destroy(host: Host): void {
    if (host.index < 2 || host.isDestroyed) return
    this.disturb([host], Number.POSITIVE_INFINITY)
    host.disturbedUntil = Number.POSITIVE_INFINITY
    host.destroy()
  }

  private fillDisk(host: Host, lasts: number): void {
    this.disturb([host], lasts)
    host.disk.isFull = true
    this.for(lasts, () => {
      host.disk.isFull = false
    })
  }

  private breakEngine(host: Host, rate: number | undefined, lasts: number): void {
    this.disturb([host], lasts)
    if (rate === undefined) host.engine.isUp = false
    else host.engine.failing = rate
    this.for(lasts, () => {
      host.engine.isUp = true
      host.engine.failing = 0
    })
  }

  // --- network ------------------------------------------------------------------------------------------------------

  private cut(group: readonly number[], way: 'both' | 'out' | 'in', lasts: number): void {
    const { network, hosts } = this.world
    const inside = new Set(group)
    const links = hosts.flatMap(({ index: a }) =>
      hosts.flatMap(({ index: b }) => {
        if (!inside.has(a) || inside.has(b)) return []
        return [...(way === 'in' ? [] : [network.link(a, b)]), ...(way === 'out' ? [] : [network.link(b, a)])]
      }),
    )
    this.disturb(hosts, lasts)
    for (const link of links) link.cuts++
    this.for(lasts, () => {
      for (const link of links) link.cuts--
    })
  }

  private flap(host: number, period: number, lasts: number): void {
    const until = Math.min(HEALED, this.world.scheduler.now + lasts)
    const again = () => {
      if (this.world.scheduler.now >= until) return
      this.cut([host], 'both', period / 2)
      this.world.scheduler.after(period, again)
    }
    again()
  }

  private lose(rate: number, lasts: number): void {
    const { network } = this.world
    this.disturb(this.world.hosts, lasts)
    network.loss = rate
    this.for(lasts, () => {
      network.loss = 0
    })
  }

  // --- people -------------------------------------------------------------------------------------------------------

  private publish(host: Host, n: number, shape: Shape): void {
    const { ap } = host
    const { signer, name } = this.chute(n)
    if (!ap?.isRunning) return
    const before = next(ap as unknown as RealAp, signer.publicKey, name)
    const random = this.world.random.fork(`creation ${this.world.scheduler.now}`)
    const exclusive = before.creation === null ? votersOf(ap, shape, random) : exclusiveOf(before)
    const mark = creationMark(random.bytes(8), exclusive)
    const last = before.lastCreation === null ? undefined : unhex(before.lastCreation)
    const creation = before.creation === null ? newCreation(before.clock[0], mark, last) : unhex(before.creation)
    const image = sha256(utf8(`${name} ${before.revision} ${this.world.scheduler.now}`))
    host.images.add(Buffer.from(image).toString('hex'))
    this.submit(host, n, 'deployment', before.clock, {
      creation,
      revision: before.revision,
      // Some of the chutes, and not more random numbers, or each seed would be another run.
      spec: { ...specOf(image, shape, exclusive), ...(n % 3 === 0 && { rebalance: 'always' }) },
    })
  }

  private command(host: Host, n: number, what: 'stop' | 'start' | 'restart' | 'remove'): void {
    const { ap } = host
    const { signer, name } = this.chute(n)
    if (!ap?.isRunning) return
    const before = next(ap as unknown as RealAp, signer.publicKey, name)
    if (before.creation === null) return
    const creation = unhex(before.creation)
    const desired = what === 'stop' ? 'stopped' : 'running'
    const restarts = what === 'restart' ? before.restarts + 1 : before.restarts
    if (what === 'remove') this.submit(host, n, 'removal', before.clock, { creation })
    else this.submit(host, n, 'wanted', before.clock, { creation, desired, restarts })
  }

  private chute(n: number) {
    const { publishers } = this.world
    return { signer: publishers[n % publishers.length]!, name: `chute-${n}` }
  }

  private submit<K extends Kind>(
    host: Host,
    n: number,
    kind: K,
    clock: readonly [number, number],
    body: Body<K>,
  ): void {
    const { world } = this
    const { signer, name } = this.chute(n)
    const record = seal(signer, world.mesh, clock, kind, chuteSubject(signer.publicKey, name), body)
    try {
      checkKind(record)
    } catch (error) {
      // Only what comes from far in the future leaves no room for something new.
      const text = `${kind} of ${name} at ${host.build.name}: ${(error as Error).message}`
      if (this.world.hosts.every(({ build }) => Math.abs(build.skew) < MAX_CLOCK_AHEAD / 2 || build.skew < 0)) {
        world.checks.violate('what a person may do can be signed', text)
      }
      return
    }
    world.scheduler.touch()
    host.ap!.submit(record.bytes).then(
      ({ holders }) => world.checks.onAcknowledged(host, record, holders),
      (error) => {
        // A node that is down or whose disk is full takes nothing, and says so.
        world.tell(host, 'not acknowledged', { kind, reason: (error as Error).message })
      },
    )
  }

  private administer(host: Host, of: Host, what: 'forget' | 'drain' | 'undrain'): void {
    const { ap } = host
    if (!ap?.isRunning || (what === 'forget' && of.index < 2)) return
    this.disturb([of], what === 'undrain' ? 10_000 : Number.POSITIVE_INFINITY)
    if (what !== 'undrain') of.disturbedUntil = Number.POSITIVE_INFINITY
    this.world.scheduler.touch()
    const { ledgerStore } = ap
    const signed =
      what === 'forget'
        ? ledgerStore.sign(host.signer, 'forget', of.signer.publicKey, {})
        : ledgerStore.sign(host.signer, 'drain', of.signer.publicKey, { draining: what === 'drain' })
    signed.catch(() => {})
  }

  /** @param lasts for so long it may go on, by a new grant; without one its key is revoked */
  private takeBack(host: Host, publisher: number, lasts?: number): void {
    const { world } = this
    if (!host.ap?.isRunning) return
    const { publicKey } = world.publishers[publisher]!
    const { ledgerStore } = host.ap
    world.scheduler.touch()
    const signed =
      lasts === undefined
        ? ledgerStore.sign(world.owner, 'revocation', publicKey, { keep: new Uint8Array() })
        : ledgerStore.sign(world.owner, 'grant', publicKey, {
            role: 'publisher',
            expires: Math.round(EPOCH + world.scheduler.now + lasts),
          })
    // What the owner signs anybody passes on.
    signed.then((record) => host.ap?.mesh.publishRecord(record)).catch(() => {})
  }

  private turn(host: Host, fate: Fate): void {
    if (host.isHostile) return
    host.disturbedUntil = fate === 'repents' ? Math.max(host.disturbedUntil, HEALED) : Number.POSITIVE_INFINITY
    new Hostile(this.world, host, HEALED, fate).start()
    if (fate === 'is-forgotten') this.world.scheduler.at(HEALED, () => this.forget(host))
  }

  /** As soon as an admin's AP is up again. */
  private forget(host: Host): void {
    const { scheduler, hosts } = this.world
    const admin = hosts.slice(0, 2).find(({ ap }) => ap?.isRunning)
    if (admin === undefined) scheduler.after(500, () => this.forget(host))
    else this.administer(admin, host, 'forget')
  }

  /** A new machine with a ticket that the founder made. */
  private join(host: Host, via: Host): void {
    const { world } = this
    const founder = world.hosts[0]!
    if (founder.ap === undefined || !via.isAlive || host.isAlive) return
    const seed = world.random.fork(`ticket ${host.index}`).bytes(32)
    const subject = personSigner(seed).publicKey
    world.scheduler.touch()
    founder.ap.ledgerStore.sign(world.owner, 'grant', subject, { role: 'ap', uses: 1, expires: 0 }).then(
      (grant) => {
        const ticket = { meshKey: world.meshKey, seed, grant: grant.bytes, addresses: [] }
        const about = { name: host.build.name, labels: { ...host.build.labels } }
        const admission = redeem(ticket, host.signer, host.wall(), about)
        host.disk.provide([], { admission, peers: [founder.id, via.id] })
        host.start()
      },
      () => {},
    )
  }
}

/** As node/api/queries.ts picks them, but the same ones in each run of a seed. */
function votersOf({ outlook }: Ap, { isExclusive }: Shape, random: Random): Exclusive | undefined {
  const alive = [...outlook.candidates.values()].filter(({ state }) => state === 'alive')
  if (!isExclusive || alive.length < 3) return undefined
  const voters = random.shuffled(alive.map(({ member }) => member.key)).slice(0, alive.length >= 5 ? 5 : 3)
  return { voters, salt: random.bytes(10) }
}

const exclusiveOf = ({ exclusive }: ReturnType<typeof next>): Exclusive | undefined =>
  exclusive === null ? undefined : { voters: exclusive.voters.map(unhex), salt: unhex(exclusive.salt) }

function specOf(image: Uint8Array, { replicas, hasVolume, label }: Shape, exclusive?: Exclusive): ChuteSpec {
  return {
    services: [
      {
        name: 'web',
        images: [{ config: image, platform: 'linux/amd64' }],
        environment: {},
        ports: [],
        mounts: hasVolume ? [{ volume: 'data', path: '/data', readOnly: false }] : [],
        tmpfs: [],
        stopGrace: 10_000,
        limits: { cpu: 50, memory: 64 * 1024 ** 2, pids: 64 },
      },
    ],
    volumes: hasVolume ? [{ name: 'data', ephemeral: false }] : [],
    replicas: exclusive !== undefined && replicas === 'everywhere' ? 1 : replicas,
    constraints: label === undefined ? [] : [{ label: 'site', value: label }],
    ...(exclusive && { exclusive }),
  }
}
