// What must be true of a run, watched as it happens. Each promise is named in a sentence; the first one that is broken ends
// the run.
import type { InstancePlan } from '../../node/chutes/engine.js'
import { equalBytes, hex } from '../../protocols/bytes.js'
import { chuteKey, readChuteSubject } from '../../protocols/chute.js'
import type { ChuteSpec } from '../../protocols/deployment.js'
import type { SignedRecord } from '../../protocols/envelope.js'
import { isKind } from '../../protocols/kinds.js'
import { Ledger } from '../../protocols/ledger.js'
import {
  DEPLOYMENT_HISTORY,
  HISTORY,
  MAX_GENERATION,
  MAX_OF_SIGNER,
  MAX_RESERVED,
  MAX_WAITING_OF_SIGNER,
  UNKNOWN_HISTORY,
} from '../../protocols/limits.js'
import { type Placed, REBALANCED } from '../../protocols/placement.js'
import { majority } from '../../protocols/rendezvous.js'
import type { Electorate } from '../../protocols/voters.js'
import type { Ap } from './ap.js'
import type { Host } from './host.js'
import { MADE_UP } from './lies.js'
import { HEALED } from './scenario.js'
import { LATE_LIFE } from './watchdog.js'
import type { World } from './world.js'

/** Milliseconds of quiet, or after the latest record, within which ledgers become equal. */
const EQUAL_WITHIN = 40_000
/** Milliseconds of quiet within which everything runs where it should, and nothing anywhere else. */
const RUNS_WITHIN = 60_000
/** The last of these: what could not be run during the troubles may be tried again at any time, and takes so long to start. */
const STARTS_WITHIN = 10_000
/**
 * Milliseconds for which a disturbance of an AP is a reason to move what it had: a death without a majority of witnesses
 * takes 30 s to be believed, and after that lower ranks wait for higher ones.
 */
const AFTERMATH = 50_000

/** Milliseconds after the end of a grant, by its own clock, after which an AP runs nothing by it. */
const STOPS_WITHIN = 20_000

/** What the key of an AP can have in ledgers. */
const AP_KINDS: readonly string[] = [
  ...['member', 'claim', 'voters', 'statement', 'goodbye', 'alive', 'settings', 'origin', 'share'],
  ...['forget', 'drain', 'lease', 'of-tomorrow'],
]

/** So many records of a kind a ledger keeps of one key. */
const BOUNDS: Readonly<Record<string, number>> = {
  ...MAX_OF_SIGNER,
  lease: MAX_RESERVED,
  'of-tomorrow': UNKNOWN_HISTORY,
}
/** So many of them in one register. */
const DEPTHS: Readonly<Record<string, number>> = {
  deployment: DEPLOYMENT_HISTORY,
  voters: MAX_GENERATION,
  'of-tomorrow': UNKNOWN_HISTORY,
}

export interface Violation {
  readonly promise: string
  readonly what: string
  readonly at: number
}

export class Checks {
  violation: Violation | undefined
  readonly counts = { records: 0, acknowledged: 0, claims: 0, moves: 0, balanced: 0, starts: 0, excused: 0 }
  /** What all that was ever taken in by anyone comes to: what is not in it was superseded by the ledger's own rules. */
  private readonly reference = new Ledger()
  /** By hash: since when somebody has a record. */
  private readonly known = new Map<string, number>()
  /** By hash: on how many disks a record is. */
  private readonly copies = new Map<string, number>()
  private readonly acknowledged = new Map<string, SignedRecord>()
  /** Publishers of chutes, by hex of the chute's key. */
  private readonly publishers = new Map<string, Uint8Array>()
  private lastRecordAt = 0
  private lastDestroyedAt = Number.NEGATIVE_INFINITY
  /** Claims that are on the disk of the AP that made them, as AP, instance and epoch. */
  private readonly given = new Set<string>()

  private readonly missingSince = new Map<string, number>()
  /** Instances whose latest claim was for the sake of balance: from which host, and when. */
  private readonly balanced = new Map<string, { from: Host; at: number }>()

  constructor(private readonly world: World) {}

  violate(promise: string, what: string): void {
    if (this.violation !== undefined) return
    this.violation = { promise, what, at: this.world.scheduler.now }
    this.world.tell(undefined, 'VIOLATION', { promise, what })
    this.world.scheduler.stop()
  }

  /** A turn of a node threw, or a promise of it was rejected and nobody heard. */
  onFailure(host: Host | undefined, error: unknown): void {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error)
    this.violate('no turn of a node fails', `${host?.build.name ?? 'an AP'}: ${text}`)
  }

  // --- records ------------------------------------------------------------------------------------------------------

  onFounded(records: readonly SignedRecord[]): void {
    for (const record of records) this.note(record)
  }

  onAdded(_ap: Ap, records: readonly SignedRecord[]): void {
    for (const record of records) this.note(record)
  }

  private note(record: SignedRecord): void {
    const id = hex(record.hash)
    if (this.known.has(id)) return
    this.known.set(id, this.world.scheduler.now)
    this.counts.records++
    this.lastRecordAt = this.world.scheduler.now
    this.reference.merge(record)
    if (!isKind(record, 'deployment')) return
    const { creation } = record.body
    this.publishers.set(hex(chuteKey({ ...readChuteSubject(record.subject), creation })), record.signer)
  }

  onStored(host: Host, record: SignedRecord): void {
    const id = hex(record.hash)
    this.copies.set(id, (this.copies.get(id) ?? 0) + 1)
    if (isKind(record, 'claim') && equalBytes(record.signer, host.signer.publicKey)) {
      this.given.add(`${host.index}/${hex(record.subject)}/${record.body.epoch}`)
    }
  }

  onDropped(host: Host, record: SignedRecord): void {
    const id = hex(record.hash)
    const left = this.copies.get(id)! - 1
    this.copies.set(id, left)
    if (left > 0 || !this.acknowledged.has(id)) return
    if (host.isDestroyed) this.acknowledged.delete(id)
    else if (this.reference.has(record.hash)) {
      this.violate(
        'an acknowledged record is never lost',
        `${describe(record)} was dropped from the last disk that had it`,
      )
    }
  }

  onDestroy(_host: Host): void {
    this.lastDestroyedAt = this.world.scheduler.now
  }

  /** A person was told that so many APs hold a record. */
  onAcknowledged(host: Host, record: SignedRecord, holders: number): void {
    this.note(record)
    this.counts.acknowledged++
    const id = hex(record.hash)
    this.world.tell(host, 'acknowledges', { record: describe(record), holders })
    if (!this.reference.has(record.hash)) return
    this.acknowledged.set(id, record)
    const copies = this.copies.get(id) ?? 0
    if (copies < holders && this.world.scheduler.now - this.lastDestroyedAt > 10_000) {
      this.violate(
        'an acknowledged record is on as many disks as was said',
        `${describe(record)} was said to be on ${holders} and is on ${copies}`,
      )
    }
  }

  // --- instances ----------------------------------------------------------------------------------------------------

  onStarted(host: Host, plan: InstancePlan): void {
    this.counts.starts++
    if (!this.given.has(`${host.index}/${plan.key}/${plan.epoch}`)) {
      this.violate(
        'no AP runs what it was not given',
        `${host.build.name} started ${plan.instance}, epoch ${plan.epoch}, without a claim of it on its disk`,
      )
    }
    if (plan.spec.exclusive === undefined || this.otherWith(host, plan) === undefined) return
    // One that an engine was asked to start in time, and starts too late, is killed by the watchdog before it is up.
    this.world.scheduler.after(2 * LATE_LIFE, () => {
      const other = host.engine.isRunning(plan.key) ? this.otherWith(host, plan) : undefined
      if (other === undefined) return
      if (this.canVoteTwice(plan)) {
        this.counts.excused++
        return
      }
      this.violate(
        'no two copies of an exclusive chute ever live at one time',
        `${plan.instance} runs on ${host.build.name} (epoch ${plan.epoch}) and on ${other.build.name}`,
      )
    })
  }

  /**
   * True where the stated number of lying voters is reached: one, while anything divides the honest ones; a majority, always. How
   * often two copies lived then is counted as excused.
   */
  private canVoteTwice({ chuteKey, spec }: InstancePlan): boolean {
    const keys = this.world.hosts.flatMap(({ ap }) => ap?.outlook.electorates.get(chuteKey)?.voters ?? [])
    const voters = new Set(this.hostsOf([...spec.exclusive!.voters, ...keys]))
    const liars = [...voters].filter(({ isHostile }) => isHostile).length
    const isDivided = [...voters].some((voter) => !voter.isHostile && !this.isSound(voter))
    return liars > 0 && (isDivided || liars >= majority(spec.exclusive!.voters.length))
  }

  /** Of AP keys, those that are not made up. */
  private hostsOf(keys: readonly Uint8Array[]): Host[] {
    return this.world.hosts.filter(({ signer }) => keys.some((key) => equalBytes(key, signer.publicKey)))
  }

  /** True where it is honest, and nothing was wrong with it lately. */
  private isSound({ isHostile, disturbedUntil }: Host): boolean {
    return !isHostile && disturbedUntil <= this.world.scheduler.now - AFTERMATH
  }

  private otherWith(host: Host, { key }: InstancePlan): Host | undefined {
    return this.world.hosts.find((other) => other !== host && other.engine.isRunning(key))
  }

  onStopped(host: Host, key: string): void {
    this.world.tell(host, 'stopped', { instance: key.slice(0, 12) })
    const move = this.balanced.get(key)
    if (move?.from !== host || move.at < HEALED + AFTERMATH / 2) return
    if (this.world.hosts.some((other) => other.engine.isRunning(key))) return
    this.violate(
      'what moves for the sake of balance runs all the while',
      `${key.slice(0, 12)} was stopped on ${host.build.name} and runs nowhere else`,
    )
  }

  onClaim(ap: Ap, placed: Placed, epoch: number, cause: string): void {
    this.counts.claims++
    const { world } = this
    this.lastRecordAt = world.scheduler.now // it is in the ledger before it is on the disk, and told of only then
    const holder =
      placed.claim === undefined
        ? undefined
        : world.hosts.find((h) => equalBytes(h.signer.publicKey, placed.claim!.signer))
    const instance = `${placed.chute.id.name}.${typeof placed.copy === 'number' ? placed.copy : 'own'}`
    world.tell(ap.host, 'claims', { instance, epoch, cause, from: holder?.build.name ?? '-' })
    this.balanced.delete(placed.instance)
    if (holder === undefined || cause === 'new') return
    this.counts.moves++
    if (cause === REBALANCED) {
      this.counts.balanced++
      const { rebalance } = placed.chute.spec
      this.balanced.set(placed.instance, { from: holder, at: world.scheduler.now })
      // A hostile AP says what it likes of its capacity.
      if (rebalance !== 'always' && !holder.isHostile)
        this.violate('nothing moves without a cause', `${instance} moves, and no AP is overloaded`)
      return
    }
    const electorate = ap.outlook.electorates.get(hex(placed.chute.key))
    const voters = this.hostsOf(electorate?.voters ?? [])
    const since = world.scheduler.now - AFTERMATH
    const left = voters.filter((voter) => this.isSound(voter)).length
    const hasReason =
      [holder, ap.host].some(({ disturbedUntil }) => disturbedUntil > since) ||
      left < majority(voters.length) ||
      (electorate?.generation ?? 0) > 0 ||
      isUnfit(holder, placed.chute.spec)
    if (!hasReason) {
      this.violate(
        'nothing moves without a cause',
        `${ap.host.build.name} claims ${instance} from ${holder.build.name} (${cause}), and nothing was wrong with either`,
      )
    }
  }

  // --- detection ----------------------------------------------------------------------------------------------------

  /** An AP takes another one for dead. A majority of its watchers can make it, so so many have to be honest and well. */
  onDead({ host, roster }: Ap, id: string): void {
    const of = this.world.hostOf(id)
    const watchers = roster.watchers(id).map((watcher) => this.world.hostOf(watcher))
    const unsound = watchers.filter((watcher) => !this.isSound(watcher)).length
    if (!this.isSound(of) || !this.isSound(host) || unsound >= majority(watchers.length)) return
    this.violate(
      'nobody with whom nothing is wrong is taken for dead',
      `${host.build.name} takes ${of.build.name} for dead`,
    )
  }

  // --- quiet --------------------------------------------------------------------------------------------------------

  /** Called once a second after everything was healed. */
  onQuiet(quietSince: number): void {
    const { now } = this.world.scheduler
    const members = this.members()
    if (now - Math.max(quietSince, this.lastRecordAt) > EQUAL_WITHIN) this.checkEqual(members)
    if (this.world.hosts.some(({ isHostile }) => isHostile)) {
      this.checkSigners(members)
      this.checkSizes(members)
    }
    if (now - quietSince > RUNS_WITHIN - STARTS_WITHIN) {
      this.checkGrants(members)
      // While members lie they take what runs, and what they say of each other may be believed.
      if (this.world.hosts.some(({ fate }) => fate === 'lies-on')) this.checkSpread(members)
      else {
        this.checkRunning(members)
        this.checkBeliefs(members)
      }
    }
  }

  /** The live APs that are members, as they themselves believe, and do not lie. */
  private members(): Ap[] {
    const lies = ({ fate }: Host) => fate === 'is-forgotten' || fate === 'lies-on'
    return this.world.hosts.flatMap((host) => (host.ap?.isRunning && !lies(host) ? host.ap : []))
  }

  private checkEqual(members: readonly Ap[]): void {
    const ledgers = new Map<string, string[]>()
    for (const { host, ledgerStore } of members) {
      const digest = hex(ledgerStore.ledger.digest()).slice(0, 8)
      ledgers.set(digest, [...(ledgers.get(digest) ?? []), host.build.name])
    }
    if (ledgers.size > 1) {
      const groups = [...ledgers].map(([digest, names]) => `${digest}: ${names.join(' ')}`)
      this.violate('ledgers become equal once it is quiet', groups.join('; '))
      return
    }
    const [first] = members
    for (const [id, record] of this.acknowledged) {
      if (first === undefined || first.ledgerStore.ledger.has(record.hash)) continue
      if (!this.reference.has(record.hash)) this.acknowledged.delete(id)
      else this.violate('an acknowledged record comes to every AP', `${describe(record)} is in no ledger`)
    }
  }

  /** What one has all have after a while, though others send more and more. */
  private checkSpread(members: readonly Ap[]): void {
    const { now } = this.world.scheduler
    const all = new Map(
      members.flatMap(({ ledgerStore }) => ledgerStore.ledger.records().map((record) => [hex(record.hash), record])),
    )
    for (const [id, record] of all) {
      if (now - this.known.get(id)! < EQUAL_WITHIN || !this.reference.has(record.hash)) continue
      const without = members.find(({ ledgerStore }) => !ledgerStore.ledger.has(record.hash))
      if (without === undefined) continue
      this.violate(
        'a record comes to every AP while members lie',
        `${describe(record)} is not on ${without.host.build.name}`,
      )
    }
  }

  // Who is hostile here is a member, and neither an admin nor a publisher.
  private checkSigners(members: readonly Ap[]): void {
    const may = new Map<string, readonly string[] | undefined>(
      this.world.hosts.map(({ signer }) => [hex(signer.publicKey), AP_KINDS]),
    )
    for (const { publicKey } of [this.world.owner, ...this.world.publishers]) may.set(hex(publicKey), undefined)
    for (const { host, ledgerStore } of members) {
      const { ledger } = ledgerStore
      for (const record of ledger.records()) {
        const signer = hex(record.signer)
        const isAdmin = this.world.hosts.slice(0, 2).some((one) => equalBytes(one.signer.publicKey, record.signer))
        const isLetIn = !isKind(record, 'member') || this.isGranted(ledger, record.body.admission.ticket)
        if (isAdmin || (isLetIn && may.has(signer) && (may.get(signer)?.includes(record.kind) ?? true))) continue
        this.violate('no ledger takes in what a key may not sign', `${host.build.name} has a ${describe(record)}`)
      }
    }
  }

  private isGranted(ledger: Ledger, ticket: Uint8Array): boolean {
    const { publicKey } = this.world.owner
    const isOfOwner = ({ signer }: SignedRecord) => equalBytes(signer, publicKey)
    return equalBytes(ticket, publicKey) || ledger.history('grant', ticket).some(isOfOwner)
  }

  private checkSizes(members: readonly Ap[]): void {
    for (const { host, ledgerStore } of members) {
      const sizes = new Map<string, number>()
      const count = (what: string, bound: number) => {
        const size = (sizes.get(what) ?? 0) + 1
        sizes.set(what, size)
        if (size > bound) this.violate('no key has more in a ledger than its bound', `${host.build.name}: ${what}`)
      }
      for (const { kind, signer, subject } of ledgerStore.ledger.records()) {
        const ofSigner = `${kind} of ${hex(signer).slice(0, 12)}`
        count(ofSigner, BOUNDS[kind] ?? Number.POSITIVE_INFINITY)
        count(`${ofSigner} on ${hex(subject)}`, DEPTHS[kind] ?? HISTORY)
      }
      if (ledgerStore.intake.waits > MADE_UP * MAX_WAITING_OF_SIGNER)
        this.violate('no key has more waiting than its bound', `${ledgerStore.intake.waits} wait at ${host.build.name}`)
    }
  }

  /** Of whose grant is over, or who was revoked, nothing is there; of whoever else everything is. */
  private checkGrants(members: readonly Ap[]): void {
    for (const { host, ledgerStore, outlook } of members) {
      const { ledger, clock } = ledgerStore
      const now = clock.now()
      const there = new Set(outlook.chutes.map(({ deployment }) => hex(deployment.subject)))
      for (const { publicKey } of this.world.publishers) {
        const isOf = (key: Uint8Array) => equalBytes(key, publicKey)
        const isRevoked = ledger.history('revocation', publicKey).length > 0
        const expires = ledger.history('grant', publicKey)[0]?.body.expires || Number.POSITIVE_INFINITY
        const published = ledger.effective('deployment', now).filter(({ signer }) => isOf(signer))
        const runs = host.engine.running().filter((plan) => isOf(this.publishers.get(plan.chuteKey)!))
        if (isRevoked || expires < now - STOPS_WITHIN) {
          const left = [
            ...published.filter(({ subject }) => there.has(hex(subject))).map(describe),
            ...runs.map(nameOf),
          ]
          if (left.length > 0)
            this.violate('nothing is left of whose grant is over', `${host.build.name} has ${left.join(' ')}`)
        } else if (expires > now && published.some(({ subject }) => !there.has(hex(subject))))
          this.violate('whose grant goes on keeps all chutes', `${host.build.name} lacks some`)
      }
    }
  }

  private checkRunning(members: readonly Ap[]): void {
    const [first] = members
    if (first === undefined) return
    const running = new Map<string, string[]>()
    for (const host of this.world.hosts) {
      for (const { key } of host.engine.running()) running.set(key, [...(running.get(key) ?? []), host.build.name])
    }
    for (const placed of first.outlook.placed) {
      const where = running.get(placed.instance) ?? []
      running.delete(placed.instance)
      const instance = `${placed.chute.id.name}.${typeof placed.copy === 'number' ? placed.copy : this.nameOf(placed.copy)}`
      const movedAt = this.balanced.get(placed.instance)?.at ?? Number.NEGATIVE_INFINITY
      if (where.length > 1 && this.world.scheduler.now - movedAt > STARTS_WITHIN) {
        this.violate('one copy of an instance runs once it is quiet', `${instance} runs on ${where.join(' and ')}`)
      } else if (where.length > 0 || !this.isRunnable(placed, members)) {
        this.missingSince.delete(placed.instance)
      } else if (this.isMissingFor(placed.instance) > STARTS_WITHIN) {
        const why = placed.holder ? `held by ${this.world.nameOf(placed.holder)}` : `no holder: ${placed.cause}`
        this.violate('every wanted instance runs once it is quiet', `${instance} runs nowhere; ${why}`)
      }
    }
    for (const [key, names] of running) {
      this.violate('nothing runs that is not wanted', `${key.slice(0, 12)} runs on ${names.join(' and ')}`)
    }
  }

  private checkBeliefs(members: readonly Ap[]): void {
    for (const { host, outlook } of members) {
      for (const { id, isDestroyed, build } of this.world.hosts) {
        const state = isDestroyed ? outlook.candidates.get(id)?.state : undefined
        if (state !== 'alive' && state !== 'suspect') continue
        this.violate(
          'all that are gone are believed gone once it is quiet',
          `${host.build.name} has ${build.name} for ${state}`,
        )
      }
      for (const other of members) {
        const state = outlook.candidates.get(other.host.id)?.state
        if (other.host === host || state === undefined || state === 'alive') continue
        this.violate(
          'all that live are believed alive once it is quiet',
          `${host.build.name} has ${other.host.build.name} for ${state}`,
        )
      }
    }
  }

  private isMissingFor(instance: string): number {
    const { now } = this.world.scheduler
    const since = this.missingSince.get(instance) ?? now
    this.missingSince.set(instance, since)
    return now - since
  }

  /** True where some live AP could run it, by what is so and not by what anyone believes. */
  private isRunnable(placed: Placed, members: readonly Ap[]): boolean {
    const { chute, copy } = placed
    const able = members.filter(({ host, outlook, reconciler }) => {
      const member = outlook.membership.members.get(host.id)
      const fits = chute.spec.constraints.every(({ label, value }) => host.build.labels[label] === value)
      // One that could not run it during the troubles waits, longer each time, before it tries again.
      const waits = reconciler.cannot().some((cannot) => hex(cannot.instance) === placed.instance)
      return member !== undefined && !member.draining && fits && !waits
    })
    // Nobody has the image any more: a registry is beyond the simulated mesh.
    const hasImage = chute.spec.services.every(({ images }) =>
      able.some(({ host }) => images.some(({ config }) => host.images.has(hex(config)))),
    )
    if (!hasImage) return false
    if (!this.canVote(members[0]!.outlook.electorates.get(hex(chute.key)), members)) return false
    const isPinned = chute.spec.volumes.some(({ ephemeral }) => !ephemeral)
    const isOwn = (host: Host) => typeof copy === 'number' || equalBytes(copy, host.signer.publicKey)
    return able.some(({ host }) => isOwn(host) && (!isPinned || this.hasData(host, placed)))
  }

  /** False where too many voters are gone, or liars that signed for others, or where the honest ones signed for different others. */
  private canVote(electorate: Electorate | undefined, members: readonly Ap[]): boolean {
    if (electorate === undefined) return true
    const { voters, ballots } = electorate
    const there = this.hostsOf(voters).filter((voter) => members.some(({ host }) => host === voter))
    const hasSigned = ({ signer }: Host) => ballots.some((ballot) => equalBytes(ballot.signer, signer.publicKey))
    const honest = there.filter(({ isHostile }) => !isHostile)
    const isSplit = honest.length < voters.length && honest.every(hasSigned)
    const left = there.filter((voter) => !voter.isHostile || !hasSigned(voter)).length
    return left >= majority(voters.length) && !isSplit
  }

  // A chute with volumes waits for the AP that has its data.
  private hasData(host: Host, { claim }: Placed): boolean {
    return claim === undefined || equalBytes(claim.signer, host.signer.publicKey)
  }

  private nameOf(key: Uint8Array): string {
    return this.world.hosts.find(({ signer }) => equalBytes(signer.publicKey, key))?.build.name ?? hex(key)
  }
}

/** True where an AP cannot run what it holds any more: the manifest asks for another label, or the image is lost. */
const isUnfit = ({ build, images }: Host, { constraints, services }: ChuteSpec): boolean =>
  constraints.some(({ label, value }) => build.labels[label] !== value) ||
  services.some((service) => !service.images.some(({ config }) => images.has(hex(config))))

const nameOf = ({ instance }: InstancePlan): string => instance

const describe = (record: SignedRecord): string => `${record.kind} ${hex(record.hash).slice(0, 12)}`
