// The leases of one AP: those it grants as a voter, and those by which it may run exclusive instances. What is decided,
// protocols/leases.ts decides; here is the disk it is written to, the clock it is measured on, and the watchdog that
// ends what outlives its lease.
import { apId, apKey, equalBytes, hex, unhex } from '../../protocols/bytes.js'
import { chuteOfInstance, creationTime } from '../../protocols/chute.js'
import type { Chute } from '../../protocols/desired.js'
import { highestAfter } from '../../protocols/epochs.js'
import type { Body, RecordOf } from '../../protocols/kinds.js'
import {
  Holders,
  type LeaseAnswer,
  type LeaseEffect,
  type LeasePromise,
  type LeaseRequest,
  type Seat,
  Voter,
} from '../../protocols/leases.js'
import { MAX_CLOCK_AHEAD, MAX_GENERATION, MAX_LEASES } from '../../protocols/limits.js'
import type { Leased, Outlook } from '../../protocols/outlook.js'
import type { Placed } from '../../protocols/placement.js'
import { ballotOf, type Electorate } from '../../protocols/voters.js'
import type { LeaseMessage } from '../mesh/leases.js'
import type { SmallFile } from '../store/files.js'
import type { ContainerState } from './engine.js'
import type { Guard } from './guard.js'
import { LeaseBook } from './lease-book.js'

/** A lease that ends sooner, in milliseconds, is not worth starting anything for. */
const WORTH_STARTING = 1000

const UNKNOWN: LeaseAnswer = { granted: false, reason: 'unknown', epoch: 0, wait: 0 }

export interface LeasesOptions {
  readonly self: string
  /** Where the lease book lies. */
  readonly file: Pick<SmallFile, 'read' | 'write'>
  readonly guard: Pick<Guard, 'guarded' | 'find' | 'set' | 'drop' | 'close'>
  /** Milliseconds on a clock that runs while the machine sleeps. */
  readonly clock: () => number
  /** Milliseconds since 1970. */
  readonly now: () => number
  /** Puts a message to a voter that is not this AP. */
  readonly call: (voter: string, message: LeaseMessage) => Promise<LeaseAnswer[] | undefined>
  /** Signs for voters, and puts that into the ledger. */
  readonly sign: (chute: Uint8Array, body: Body<'voters'>) => Promise<unknown>
  /** Whether a chute was removed, for ever. */
  readonly isRemoved: (deployment: RecordOf<'deployment'>) => boolean
  /** Whether containers of an instance are here, or may be. */
  readonly isPresent: (instance: string) => boolean
  /** Whether they are being removed. */
  readonly isEnding: (instance: string) => boolean
  /** The name of an instance. */
  readonly nameOf: (instance: string) => string
  /** What this AP may run, or what it says of it, has changed. */
  readonly onChange: () => void
  readonly onEvent: (kind: string, fields: Record<string, unknown>) => void
  readonly onFailure: (what: string, error: unknown) => void
}

export class Leases {
  private readonly containers = new Map<string, string[]>()
  /** Instances of which a start was asked for, and not all containers were seen to run yet. */
  private readonly starting = new Set<string>()
  private wanted = new Map<string, Leased & { since: number }>()
  private claims: Outlook['claims'] = new Map()
  /** By hex of the chute's key. */
  private exclusive = new Map<string, Chute>()
  /** Chutes that were removed while this node ran. */
  private readonly removed = new Set<string>()
  private lastReports = ''
  /** Chutes for whose voters a record is being signed. */
  private readonly casting = new Set<string>()
  private readonly underWay = new Set<Promise<void>>()

  private constructor(
    private readonly options: LeasesOptions,
    private readonly voter: Voter,
    private readonly holders: Holders,
    private readonly book: LeaseBook,
  ) {}

  static async load(options: LeasesOptions): Promise<Leases> {
    const { book, isDamaged } = await LeaseBook.load(options.file)
    if (isDamaged) options.onFailure('reading the file "leases"', new Error('it is damaged, and starts anew'))
    await options.guard.find()
    const signed = [...book.signed].map(([chute, { generation }]) => [chute, generation] as const)
    const voter = new Voter(options.self, options.clock(), book.promises, signed)
    const leases = new Leases(options, voter, new Holders(options.self, book.released), book)
    for (const [instance, { ids, starting }] of options.guard.guarded) {
      leases.containers.set(instance, [...ids])
      if (starting) leases.starting.add(instance)
    }
    return leases
  }

  // --- voting -----------------------------------------------------------------------------------------------------

  /** Takes over who votes on what, who has claimed what, and which instances there are; signs for others if need be. */
  look(outlook: Outlook): void {
    const { electorates, claims, chutes } = outlook
    this.claims = claims
    const before = this.exclusive
    this.exclusive = new Map(
      chutes.map((chute) => [hex(chute.key), chute] as const).filter(([key]) => electorates.has(key)),
    )
    for (const [key, { deployment }] of before) {
      if (this.exclusive.has(key) || !this.options.isRemoved(deployment)) continue
      this.removed.add(key)
      this.voter.forget(key)
      this.book.forget(key)
      this.track(this.book.save())
    }
    for (const [chute, electorate] of electorates) {
      const voters = electorate.voters.map(apId)
      this.voter.learn(chute, electorate.generation, voters, this.options.clock())
      if (voters.includes(this.options.self)) this.elect(chute, electorate, outlook)
    }
  }

  private elect(chute: string, electorate: Electorate, { membership, candidates }: Outlook): void {
    const self = apKey(this.options.self)
    const generation = electorate.generation + 1
    if (electorate.ballots.some(({ signer }) => equalBytes(signer, self))) {
      this.voter.sign(chute, generation) // its book may have been lost
      return
    }
    if (this.casting.has(chute)) return
    const signed = this.book.signed.get(chute)
    const isAlive = (ap: string) => candidates.get(ap)?.state === 'alive'
    // One that is in the book and not in the ledger was cast when the power was cut.
    const voters =
      signed?.generation === generation
        ? signed.voters.map(unhex)
        : ballotOf(unhex(chute), electorate, membership, self, isAlive)
    if (voters === undefined || generation > MAX_GENERATION) return
    this.casting.add(chute)
    this.track(this.cast(chute, generation, voters).finally(() => this.casting.delete(chute)))
  }

  private async cast(chute: string, generation: number, voters: readonly Uint8Array[]): Promise<void> {
    if (this.voter.sign(chute, generation)) this.book.signed.set(chute, { generation, voters: voters.map(hex) })
    await this.book.save()
    await this.options.sign(unhex(chute), { generation, voters: [...voters], forced: false })
  }

  /** Answers what an AP asks of this one. What an answer promises is on disk before it is returned. */
  async answer(from: string, { asks, releases }: LeaseMessage): Promise<LeaseAnswer[]> {
    for (const { instance, epoch } of releases) this.voter.release(from, instance, epoch)
    const verdicts = asks.map((request) => ({ request, ...this.judge(from, request) }))
    const saves = verdicts.flatMap(({ request, save }) =>
      save === undefined ? [] : [[request.instance, save] as const],
    )
    const isSaved = saves.length === 0 || (await this.save(saves))
    return verdicts.map(({ answer, save }) => (isSaved || save === undefined ? answer : UNKNOWN))
  }

  /** @returns false where the disk takes nothing */
  private async save(promises: readonly (readonly [string, LeasePromise])[]): Promise<boolean> {
    for (const [instance, promise] of promises) this.book.promises.set(instance, promise)
    try {
      await this.book.save()
    } catch (error) {
      this.options.onFailure('writing what was promised', error)
      return false
    }
    for (const [instance, promise] of promises) this.voter.saved(instance, promise)
    return true
  }

  private judge(from: string, request: LeaseRequest) {
    // Else a peer could fill the disk with promises for instances that nobody wants.
    const ordinal = Number.parseInt(request.instance.slice(40), 16)
    const chute = this.exclusive.get(chuteOfInstance(request.instance))
    // An exclusive chute is never everywhere.
    if (chute === undefined || !(ordinal < (chute.spec.replicas as number))) return { answer: UNKNOWN, save: undefined }
    const others = this.claims.get(request.instance)?.filter(({ signer }) => apId(signer) !== from) ?? []
    const claimed = Math.max(0, ...others.map(({ body }) => body.epoch))
    const highest = this.highestNow(request.generation, creationTime(chute.id.creation))
    return this.voter.request(from, request, claimed, this.options.clock(), highest)
  }

  /** What no clock that is right within what is allowed can be beyond. */
  private highestNow(generation: number, created: number): number {
    return highestAfter(generation, this.options.now() + MAX_CLOCK_AHEAD - created)
  }

  // --- holding ----------------------------------------------------------------------------------------------------

  /** Sets what this AP is to hold leases for. */
  want(wanted: readonly Leased[], electorates: Outlook['electorates'], nowMs: number): void {
    const seats = wanted.flatMap(({ placed, epoch }): Seat[] => {
      const electorate = electorates.get(hex(placed.chute.key))
      if (electorate === undefined) return []
      const { generation } = electorate
      const highest = this.highestNow(generation, creationTime(placed.chute.id.creation))
      return [{ generation, voters: electorate.voters.map(apId), instance: placed.instance, epoch, highest }]
    })
    const since = (instance: string) => this.wanted.get(instance)?.since ?? nowMs
    this.wanted = new Map(wanted.map((one) => [one.placed.instance, { ...one, since: since(one.placed.instance) }]))
    this.holders.want(seats, this.options.clock())
  }

  /** The epoch by which this AP may run an instance now. */
  holds(instance: string): number | undefined {
    return this.holders.holds(instance, this.options.clock())
  }

  /** True where an instance is not exclusive, or has the lease by which it was claimed. */
  mayRun({ chute, instance, claim }: Placed): boolean {
    return chute.spec.exclusive === undefined || this.holds(instance) === claim!.body.epoch
  }

  /**
   * True where what runs of an instance that may not run now is to be left alone: of an exclusive one what is left of an
   * earlier life of this node, which the watchdog will end in time.
   */
  mayStay({ chute, instance }: Placed): boolean {
    const { clock, guard } = this.options
    return chute.spec.exclusive === undefined || clock() < (guard.guarded.get(instance)?.until ?? 0)
  }

  /** What this AP says of instances it waits with. */
  reports(): Body<'beacon'>['instances'] {
    const now = this.options.clock()
    return [...this.wanted.values()].flatMap(({ placed, epoch, since }) => {
      if (this.holds(placed.instance) !== undefined || this.mayStay(placed)) return []
      if (this.holders.standing(placed.instance, now) === undefined) return []
      const reason = this.whyNot(placed.instance)
      const { subject: instance, chute } = placed
      return [{ instance, epoch, revision: chute.revision, state: 'waiting' as const, since, reason, ports: [] }]
    })
  }

  /** Call it several times a second. */
  tick(): void {
    const now = this.options.clock()
    const calls = new Map<
      string,
      { asks: (LeaseEffect & { do: 'ask' })[]; releases: LeaseMessage['releases'][number][] }
    >()
    const to = (voter: string) => {
      const call = calls.get(voter) ?? { asks: [], releases: [] }
      calls.set(voter, call)
      return call
    }
    let isChanged = false
    let hasReleased = false
    for (const effect of this.holders.tick(now, this.options.isPresent, this.options.isEnding)) {
      const { instance } = effect.do === 'ask' ? effect.request : effect
      if (effect.do === 'ask') to(effect.voter).asks.push(effect)
      else if (effect.do === 'release') {
        if (!this.removed.has(chuteOfInstance(instance))) {
          hasReleased = true
          this.book.released.set(instance, effect.epoch)
        }
        for (const voter of effect.voters) to(voter).releases.push({ instance, epoch: effect.epoch })
      } else {
        isChanged = true
        this.tell(effect.what, instance, effect.epoch)
      }
    }
    const isNoted = hasReleased ? this.book.save() : Promise.resolve()
    for (const [voter, { asks, releases }] of calls) {
      // An epoch is given back once it is written down that it never will be asked for again.
      for (let i = 0; i < releases.length; i += MAX_LEASES) {
        this.track(isNoted.then(() => this.send(voter, [], releases.slice(i, i + MAX_LEASES))))
      }
      for (let i = 0; i < asks.length; i += MAX_LEASES) {
        this.track(this.send(voter, asks.slice(i, i + MAX_LEASES), []))
      }
    }
    this.guardWhatRuns(now)
    const reports = JSON.stringify(this.reports())
    if (isChanged || reports !== this.lastReports) this.options.onChange()
    this.lastReports = reports
  }

  private track(call: Promise<void>): void {
    const tracked = call
      .catch((error) => this.options.onFailure('a lease call', error))
      .finally(() => this.underWay.delete(tracked))
    this.underWay.add(tracked)
  }

  /** Gives back what this AP holds and runs no more, so that others need not wait for the end of it. */
  async giveUp(): Promise<void> {
    this.want([], new Map(), 0)
    this.tick()
    await Promise.all(this.underWay)
    this.options.guard.close()
  }

  private async send(
    voter: string,
    effects: (LeaseEffect & { do: 'ask' })[],
    releases: LeaseMessage['releases'],
  ): Promise<void> {
    const { self, call } = this.options
    const message = { asks: effects.map(({ request }) => request), releases }
    const answers = await (voter === self ? this.answer(self, message) : call(voter, message)).catch(() => undefined)
    for (const [i, { request, sentAt }] of effects.entries()) {
      const { instance } = request
      const before = this.holds(instance)
      this.holders.answered(voter, request, sentAt, answers?.[i], this.options.clock())
      if (before === undefined && this.holds(instance) !== undefined) this.tick()
    }
  }

  private tell(what: 'taken' | 'lost', instance: string, epoch: number): void {
    const fields = { instance: this.options.nameOf(instance), epoch }
    if (what === 'taken') this.options.onEvent('lease-taken', fields)
    else this.options.onEvent('lease-lost', { ...fields, reason: this.whyNot(instance) })
  }

  private whyNot(instance: string): string {
    const { needed, voters, reached } = this.holders.standing(instance, this.options.clock())!
    const obstacle =
      reached < needed ? `reaches ${reached}` : 'which keep it for another AP, or have only just begun to vote'
    return `needs ${needed} of its ${voters} voters, ${obstacle}`
  }

  // --- guarding ---------------------------------------------------------------------------------------------------

  /**
   * Must be called before the containers of an exclusive instance are started, and must resolve.
   * @returns false where there is no lease to start it by
   * @throws MeshError `no-watchdog`
   */
  async beforeStart(instance: string, containers: readonly string[]): Promise<boolean> {
    const until = this.holders.until(instance)
    if (until < this.options.clock() + WORTH_STARTING) return false
    this.containers.set(instance, [...containers])
    this.starting.add(instance)
    await this.options.guard.set(instance, containers, until, true)
    return true
  }

  /**
   * Takes over what containers of exclusive instances there are.
   * @param isBusy whether the reconciler is at work on an instance, so that more may come
   */
  see(actual: ReadonlyMap<string, readonly ContainerState[]>, isBusy: (instance: string) => boolean): void {
    for (const [instance, containers] of actual) {
      if (isBusy(instance)) continue
      this.containers.set(
        instance,
        containers.map(({ id }) => id),
      )
      if (containers.every(({ running }) => running)) this.starting.delete(instance)
    }
    for (const instance of new Set([...this.containers.keys(), ...this.options.guard.guarded.keys()])) {
      if (actual.has(instance) || isBusy(instance)) continue
      this.containers.delete(instance)
      this.starting.delete(instance)
      if (this.options.guard.guarded.has(instance)) this.options.guard.drop(instance).catch(() => {})
    }
  }

  // The watchdog is told of each renewal; of one that fails to tell, the next turn tells again.
  private guardWhatRuns(now: number): void {
    const { guard } = this.options
    for (const [instance, ids] of this.containers) {
      const until = this.holders.until(instance)
      const before = guard.guarded.get(instance)
      const starting = this.starting.has(instance)
      const isSame = before?.until === until && before.starting === starting && equalIds(before.ids, ids)
      if (until <= now || isSame) continue
      guard.set(instance, ids, until, starting).catch((error) => {
        this.options.onFailure('the watchdog', error)
      })
    }
  }
}

const equalIds = (a: readonly string[], b: readonly string[]): boolean =>
  a.length === b.length && a.every((id) => b.includes(id))
