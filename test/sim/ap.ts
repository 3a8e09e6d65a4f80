// One life of a simulated AP: composes the same code as node/ap.ts in the same way, over a simulated network, disk and
// container engine. Where node/ap.ts changes what follows from what, this file must follow. Its meshes are never divided.
import { isDeepStrictEqual } from 'node:util'
import { Leases } from '../../node/chutes/leases.js'
import { Reconciler } from '../../node/chutes/reconciler.js'
import { Work } from '../../node/chutes/work.js'
import { NodeClock, type Time } from '../../node/clock.js'
import type { LifeSign } from '../../node/mesh/liveness.js'
import { LedgerStore } from '../../node/store/ledger-store.js'
import { apId, equalBytes, hex } from '../../protocols/bytes.js'
import { MemberTimes } from '../../protocols/clock.js'
import { type SignedRecord, seal } from '../../protocols/envelope.js'
import { MeshError, messageOf } from '../../protocols/error.js'
import { type Body, checkKind, isKind, type RecordOf } from '../../protocols/kinds.js'
import { meshIdOf, recordsAgainst } from '../../protocols/membership.js'
import { dutiesOf, lookOut, type Outlook } from '../../protocols/outlook.js'
import { type Balance, BEACON_MIN, beaconPause, isInformed, REFRESH, TICK } from '../../protocols/pace.js'
import { denialsOf, isNewer } from '../../protocols/refutation.js'
import { Roster, type RosterEffect, TIMING } from '../../protocols/roster.js'
import { authorise } from '../../protocols/submission.js'
import type { Papers } from '../../protocols/ticket.js'
import type { Host } from './host.js'
import { Mesh } from './mesh.js'
import { Stock } from './stock.js'
import type { World } from './world.js'

const PROBE_HEAD_START = 100
const JOIN_RETRY = 250
const JOIN_RETRY_CAP = 30_000
const LOOK_AT_IMAGES = 5000
const HANDOVER_PATIENCE = 20_000
const STOP_PATIENCE = 60_000
/** Quicker than real ones, so that instances move within a run. */
const HASTE: Balance = { steady: 12_000, sure: 1000, pause: 4000, settle: 20_000, rest: 30_000 }

export class Ap {
  readonly reconciler: Reconciler
  private leases!: Leases
  private work!: Work
  readonly mesh: Mesh
  readonly roster: Roster
  private readonly stock: Stock
  private readonly times = new MemberTimes()
  private readonly startedAt: number
  private current: Outlook
  private sequence = 0
  private beacon: RecordOf<'beacon'> | undefined
  private lastBeaconAt = Number.NEGATIVE_INFINITY
  private wasNews = false
  private hasLearned = false
  private isBeaconDue = false
  private isRefreshDue = false
  private isReady = false
  private isLeaving = false
  private isHandedOver = false
  private hasTwin = false
  private isHalted = false
  private constructor(
    private readonly world: World,
    readonly host: Host,
    private readonly time: Time,
    readonly ledgerStore: LedgerStore,
    private boot: number,
    private readonly admission: Papers | undefined,
    private readonly peersBefore: readonly string[],
    isAlive: () => boolean,
    deliver: (run: () => void) => void,
  ) {
    this.startedAt = time.monotonic()
    this.roster = new Roster(this.id, time.monotonic())
    this.stock = new Stock({
      has: (config) => host.images.has(config),
      holders: (config) => this.holdersOf(config),
      fetchFrom: (ap, config) => host.fetch(ap, config),
      onEvent: (kind, fields) => this.tell(kind, fields),
      onChange: () => this.scheduleBeacon(),
      time,
    })
    this.reconciler = new Reconciler({
      engine: host.engine.connect(deliver, isAlive),
      beforeStart: (key, containers) => this.leases.beforeStart(key, containers),
      onSeen: (actual, isBusy) => this.leases.see(actual, isBusy),
      onStopped: (_, instance) => this.tell('stopped', { instance }),
      has: async ({ service }) => this.stock.has(service),
      fetch: async ({ service }) => {
        await this.stock.ensure(service)
        await this.lookAtImages()
      },
      now: () => ledgerStore.clock.now(),
      onChange: () => {
        this.scheduleBeacon()
        this.scheduleRefresh()
      },
      onEvent: (kind, fields) => this.tell(kind, fields),
      time,
    })
    this.current = this.lookOut()
    this.mesh = new Mesh(
      this.id,
      world.meshKey,
      ledgerStore,
      {
        time,
        random: host.random,
        dial: (ap, deadline, isWanted, done) => host.dial(ap, deadline, isWanted, done),
        peerOf: (connection, side) => world.hosts[connection.ends[side === 0 ? 1 : 0].index]!.id,
        hasSeen: (ap, bytes) => world.hostOf(ap).ap?.mesh.seen.has(bytes) ?? false,
        charge: (bytes) => void world.network.depart(host.index, bytes),
        touch: () => world.scheduler.touch(),
      },
      {
        isMember: (ap) => this.isMember(ap),
        forgets: (ap) => recordsAgainst(ledgerStore.ledger, this.current.membership, ap),
        sign: () => this.lifeSign(),
        beacons: () => this.beacons(),
        onBeacon: (beacon) => this.takeBeacon(beacon),
        onPulse: (from, sign) => this.roster.pulse(from, sign, time.monotonic()),
        onLease: (from, message) => this.leases.answer(from, message),
        onTime: (ap, ms) => this.noteTime(ap, ms),
        onConnected: (ap) => {
          this.roster.heard(ap, this.roster.lastSign(ap), time.monotonic())
          this.sendPulses()
        },
        onLost: (ap) => this.roster.lost(ap, time.monotonic()),
        onPeers: (known) => void host.disk.write('peers', known).catch(() => {}),
        onSynced: (ap, { received, sent }) => {
          if (received > 0) this.hasLearned = true
          if (received + sent > 0) this.tell('synced', { ap: world.nameOf(ap), received, sent })
        },
        onRefused: (from, error) => this.tell('refused', { from: world.nameOf(from), reason: error.message }),
        onNewcomer: () => this.refresh(),
      },
      peersBefore,
    )
  }

  static async start(
    world: World,
    host: Host,
    time: Time,
    isAlive: () => boolean,
    deliver: (run: () => void) => void,
  ): Promise<Ap> {
    const { disk } = host
    const clock = new NodeClock([0, 0], time)
    const ledgerStore = await LedgerStore.load(disk.open(), meshIdOf(world.meshKey), clock, time)
    world.mutation.ledger?.(ledgerStore.ledger)
    world.mutation.intake?.(ledgerStore.intake)
    ledgerStore.check = (bytes) => world.check(bytes)
    const boot = 1 + (disk.read<number>('boot') ?? 0)
    await disk.write('boot', boot)
    const admission = disk.read<Papers>('admission')
    const peers = disk.read<string[]>('peers') ?? []
    const ap = new Ap(world, host, time, ledgerStore, boot, admission, peers, isAlive, deliver)
    await ap.loadLeases(deliver)
    ap.run()
    return ap
  }

  private async loadLeases(deliver: (run: () => void) => void): Promise<void> {
    const { host, time, world } = this
    this.leases = await Leases.load({
      self: this.id,
      file: {
        read: async () => host.disk.read<string>('leases'),
        write: (text) => host.disk.write('leases', text),
      },
      clock: () => time.monotonic(),
      now: () => this.ledgerStore.clock.now(),
      guard: host.watchdog.connect(deliver),
      call: (voter, message) => this.mesh.callVoter(voter, message),
      sign: (chute, body) => this.ledgerStore.sign(host.signer, 'voters', chute, body),
      isRemoved: (deployment) => this.ledgerStore.ledger.isRemoved(deployment),
      isPresent: (instance) => this.reconciler.isPresent(instance),
      isEnding: (instance) => this.reconciler.isEnding(instance),
      nameOf: (instance) => instance.slice(0, 12),
      onChange: () => {
        this.scheduleBeacon()
        this.scheduleRefresh()
      },
      onEvent: (kind, fields) => this.tell(kind, fields),
      onFailure: (what, error) => this.tell('failed', { what, reason: messageOf(error) }),
    })
    world.mutation.leases?.(this.leases)
    world.mutation.roster?.(this.roster)
    this.leases.look(this.current)
    this.work = new Work({
      ...{ self: this.id, signer: host.signer, ledgerStore: this.ledgerStore, time },
      ...{ reconciler: this.reconciler, leases: this.leases, balance: HASTE },
      onClaim: (placed, epoch, cause) => world.checks.onClaim(this, placed, epoch, cause),
      onFailure: (error) => this.tell('failed', { reason: messageOf(error) }),
    })
    this.ledgerStore.onAdded((added) => this.onAdded(added))
  }

  get id(): string {
    return this.host.id
  }

  get outlook(): Outlook {
    return this.current
  }

  get isRunning(): boolean {
    return !this.isLeaving && this.isMember(this.id)
  }

  /** The next sign of life. */
  lifeSign(): LifeSign {
    return { boot: this.boot, sequence: ++this.sequence }
  }

  /** As `Ap.submit` in node/ap.ts. */
  async submit(bytes: Uint8Array): Promise<{ record: SignedRecord; holders: number }> {
    if (!this.isRunning) throw new MeshError('not-a-member', 'this AP takes no records')
    const { ledger, clock } = this.ledgerStore
    const { meshKey } = this.world
    const record = await this.ledgerStore.submit(bytes, (one) => authorise(ledger, meshKey, one, clock.now()))
    if (record.kind === 'deployment') await this.lookAtImages()
    this.mesh.publishRecord(record)
    return { record, holders: 1 + (await this.mesh.replicate()) }
  }

  /** As `dropmesh up` ends on SIGTERM. Calls back when the process is to end. */
  async stop(): Promise<void> {
    if (this.isLeaving) return
    this.isLeaving = true
    if (this.isMember(this.id)) await this.handOver()
    this.isHalted = true
    this.reconciler.stop()
    this.ledgerStore.stop()
  }

  private async handOver(): Promise<void> {
    await this.ledgerStore
      .sign(this.host.signer, 'goodbye', this.host.signer.publicKey, { boot: this.boot })
      .catch((error) => this.tell('failed', { reason: messageOf(error) }))
    this.refresh()
    const canWaitUntil = this.time.monotonic() + HANDOVER_PATIENCE
    const isAwaited = () => {
      const running = new Set(this.reconciler.instances().map(({ instance }) => hex(instance)))
      return dutiesOf(this.current, this.id).handedOver.some((instance) => running.has(instance))
    }
    while (isAwaited() && this.time.monotonic() < canWaitUntil) await this.pause(100)
    this.isHandedOver = true
    this.refresh()
    await this.pause(100)
    const mustEndBy = this.time.monotonic() + STOP_PATIENCE
    while (
      this.reconciler.isRunningAnything() &&
      this.reconciler.engineInfo() !== undefined &&
      this.time.monotonic() < mustEndBy
    ) {
      await this.pause(100)
    }
    if (!this.hasTwin) await this.leases.giveUp()
  }

  private pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.time.after(ms, resolve))
  }

  private run(): void {
    this.mesh.start()
    this.tell('up', { boot: this.boot })
    if (!this.isMember(this.id)) void this.joinUntilIn()
    this.every(TICK, () => this.tick())
    this.every(TIMING.pulse, () => this.sendPulses())
    this.every(REFRESH, () => this.refresh())
    this.every(LOOK_AT_IMAGES, () => void this.lookAtImages())
    this.refresh()
    void this.renewMember()
  }

  /** As in node/joining.ts: a hostile AP that is an honest one again takes back what it said of itself. */
  private async renewMember(): Promise<void> {
    const { ledgerStore, host } = this
    const { name, labels } = host.build
    const own = ledgerStore.ledger
      .effective('member', ledgerStore.clock.now())
      .find(({ signer }) => equalBytes(signer, host.signer.publicKey))
    if (own === undefined || isDeepStrictEqual([own.body.name, own.body.labels], [name, labels])) return
    await ledgerStore.sign(host.signer, 'member', own.subject, { ...own.body, name, labels: { ...labels } })
  }

  private every(ms: number, what: () => void): void {
    this.time.after(ms, () => {
      if (this.isHalted) return
      what()
      this.every(ms, what)
    })
  }

  private isMember(ap: string): boolean {
    return this.current.membership.members.has(ap)
  }

  private others(): string[] {
    const { members, forgotten } = this.current.membership
    return [...members.keys(), ...this.peersBefore].filter((ap) => ap !== this.id && !forgotten.has(ap))
  }

  private lookOut(): Outlook {
    const { ledger, clock } = this.ledgerStore
    const self = { id: this.id, beacon: this.beacon?.body, leaving: this.isLeaving }
    return lookOut(ledger, this.world.meshKey, this.roster, self, clock.now(), this.time.monotonic(), this.current)
  }

  // --- what changes the outlook -----------------------------------------------------------------------------------

  private scheduleRefresh(): void {
    if (this.isRefreshDue) return
    this.isRefreshDue = true
    this.time.after(10, () => {
      this.isRefreshDue = false
      this.refresh()
      this.tick()
    })
  }

  private refresh(): void {
    if (this.isHalted) return
    const before = this.current
    this.current = this.lookOut()
    this.leases.look(this.current)
    const [members, membersBefore] = [this.current.membership.members, before.membership.members]
    if ([...members.keys()].some((ap) => !membersBefore.has(ap))) this.mesh.membersChanged()
    const isForgotten = this.current.membership.forgotten.has(this.id)
    if (!this.isLeaving && !this.isMember(this.id) && !isForgotten) return
    this.becomeReady()
    if (!this.isReady) return
    this.work.follow(this.current, this.isLeaving, this.isHandedOver || isForgotten)
  }

  private becomeReady(): void {
    if (this.isReady) return
    const isAlone = this.others().length === 0
    if (!isInformed(isAlone, this.mesh.hasSynced, false, this.time.monotonic() - this.startedAt)) return
    this.isReady = true
    this.reconciler.start()
    void this.lookAtImages()
    this.scheduleBeacon()
  }

  private onAdded(added: readonly SignedRecord[]): void {
    for (const record of added) {
      if (equalBytes(record.signer, this.host.signer.publicKey) || record.kind === 'grant')
        this.mesh.publishRecord(record)
      if (isKind(record, 'claim')) this.work.note(record)
      if (isKind(record, 'statement') && equalBytes(record.subject, this.host.signer.publicKey)) this.scheduleBeacon()
    }
    this.world.checks.onAdded(this, added)
    this.scheduleRefresh()
  }

  private noteTime(ap: string, ms: number): void {
    const { ledger, clock } = this.ledgerStore
    if (ledger.size <= 2) clock.raise(ms)
    this.times.note(ap, ms, this.time.monotonic())
    const corrected = this.times.correction(clock.now(), this.time.monotonic(), this.neighbours())
    if (corrected === undefined) return
    this.tell('clock-corrected', { behind: corrected - clock.now() })
    clock.raise(corrected)
    this.scheduleRefresh()
  }

  private takeBeacon(beacon: RecordOf<'beacon'>): boolean {
    const ap = apId(beacon.signer)
    if (ap === this.id) {
      this.watchForTwin(beacon)
      return false
    }
    const before = this.roster.latestBeacon(ap)?.body
    if (!this.roster.beacon(ap, beacon, this.time.monotonic())) return false
    this.mesh.learn(ap)
    this.mesh.compareDigest(ap, beacon.body.ledger)
    if (before === undefined || !isDeepStrictEqual(newsOf(before), newsOf(beacon.body))) this.scheduleRefresh()
    return true
  }

  private watchForTwin({ body }: RecordOf<'beacon'>): void {
    if (!isNewer(body, { boot: this.boot, sequence: this.sequence })) return
    if (this.hasTwin) return void this.adopt(body)
    this.hasTwin = true
    this.tell('twin', {})
    void this.outdo(body)
  }

  private async outdo(sign: LifeSign): Promise<void> {
    if (await this.adopt(sign)) this.sendBeacon()
  }

  private async adopt(sign: LifeSign): Promise<boolean> {
    if (!isNewer(sign, { boot: this.boot, sequence: this.sequence })) return true
    try {
      if (sign.boot > this.boot) await this.host.disk.write('boot', sign.boot)
    } catch (error) {
      this.tell('failed', { reason: messageOf(error) })
      return false
    }
    this.boot = sign.boot
    this.sequence = sign.sequence
    return true
  }

  private tick(): void {
    if (this.isHalted) return
    const now = this.time.monotonic()
    for (const effect of this.roster.tick(now)) this.carryOut(effect)
    if (this.isReady && !this.hasTwin) this.leases.tick()
    const pause = beaconPause(this.neighbours().length, this.wasNews, this.hasLearned)
    if (now - this.lastBeaconAt > pause) this.sendBeacon(false)
  }

  private sendPulses(): void {
    if (this.isRunning) this.mesh.sendPulses(this.roster.watchers(this.id))
  }

  private carryOut(effect: RosterEffect): void {
    const { ap } = effect
    if (effect.do === 'probe') this.probe(ap, effect.via)
    else if (effect.do === 'accuse') {
      this.tell('accuses', { ap: this.world.nameOf(ap), ...effect.statement })
      this.ledgerStore
        .sign(this.host.signer, 'statement', this.current.membership.members.get(ap)!.key, effect.statement)
        .catch((error) => this.tell('failed', { reason: messageOf(error) }))
    } else {
      this.tell(effect.to, { ap: this.world.nameOf(ap), was: effect.from })
      if (effect.to === 'dead') {
        this.world.checks.onDead(this, ap)
        this.mesh.hangUp(ap)
      }
      this.scheduleRefresh()
    }
  }

  private probe(ap: string, via: readonly string[]): void {
    const began = this.time.monotonic()
    const conclude = (sign: LifeSign | undefined) => {
      if (sign !== undefined) this.roster.heard(ap, sign, this.time.monotonic())
      else if ((this.roster.lastHeard(ap) ?? 0) <= began) this.roster.unreachable(ap)
    }
    let left = 2
    let own: LifeSign | undefined
    let isReached = false
    let isConcluded = false
    const settle = () => {
      if (isConcluded || --left > 0) return
      const sign = this.roster.lastSign(ap)
      conclude(own ?? (isReached ? sign : undefined))
      if (own === undefined && isReached) this.roster.misjudged(this.time.monotonic())
    }
    let hasAsked = false
    this.mesh.probe(ap, (sign) => {
      own = sign
      if (sign === undefined || hasAsked) return settle()
      isConcluded = true
      conclude(sign)
    })
    this.time.after(PROBE_HEAD_START, () => {
      if (isConcluded) return
      hasAsked = true
      this.mesh.probeThrough(ap, via, (answer) => {
        isReached = answer
        settle()
      })
    })
  }

  private async joinUntilIn(): Promise<void> {
    let wait = JOIN_RETRY
    while (!this.isLeaving && !this.isMember(this.id) && this.admission !== undefined) {
      await this.pause(wait)
      try {
        this.ledgerStore.clock.raise(await this.mesh.join(this.admission))
        this.refresh()
      } catch (error) {
        wait = error instanceof MeshError ? Math.min(JOIN_RETRY_CAP, wait * 2) : JOIN_RETRY
      }
    }
  }

  // --- beacons ----------------------------------------------------------------------------------------------------

  private scheduleBeacon(): void {
    if (this.isBeaconDue) return
    this.isBeaconDue = true
    const wait = Math.max(10, BEACON_MIN - (this.time.monotonic() - this.lastBeaconAt))
    this.time.after(wait, () => {
      if (this.isBeaconDue) this.sendBeacon()
    })
  }

  private sendBeacon(isNews = true): void {
    this.isBeaconDue = false
    if (!this.isReady || !this.isRunning || this.isHalted) return
    if (!this.reconciler.knowsEngine() && this.current.placed.some(({ holder }) => holder === this.id)) return
    const record = this.sealBeacon()
    this.beacon = record
    this.lastBeaconAt = this.time.monotonic()
    this.wasNews = isNews
    this.hasLearned = false
    this.mesh.publishBeacon(record)
    this.scheduleRefresh()
  }

  private sealBeacon(): RecordOf<'beacon'> {
    const { reconciler, ledgerStore } = this
    const { signer } = this.host
    const { ledger, clock } = ledgerStore
    const sign = this.lifeSign()
    const body: Body<'beacon'> = {
      ...sign,
      ...denialsOf(ledger, this.current.membership, signer.publicKey, sign, clock.now()),
      version: 'sim',
      addresses: [],
      engine: reconciler.engineInfo(),
      instances: this.work.reports(),
      cannot: reconciler.cannot(),
      images: this.stock.holdings(),
      packages: [],
      ledger: ledgerStore.ledger.digest(),
    }
    const record = seal(signer, ledgerStore.mesh, ledgerStore.clock.next(), 'beacon', signer.publicKey, body)
    checkKind(record)
    return record as RecordOf<'beacon'>
  }

  private neighbours(): readonly { id: string }[] {
    return this.current.neighbourhoods.of(this.id)?.members ?? []
  }

  private beacons(): RecordOf<'beacon'>[] {
    const others = [...this.current.membership.members.keys()].map((ap) => this.roster.latestBeacon(ap))
    return [this.beacon, ...others].flatMap((beacon) => beacon ?? [])
  }

  // --- images -----------------------------------------------------------------------------------------------------

  private wantedImages() {
    return this.current.chutes.flatMap(({ spec }) => spec.services.flatMap(({ images }) => images))
  }

  private async lookAtImages(): Promise<void> {
    this.refresh()
    this.stock.look(this.wantedImages())
  }

  private holdersOf(config: string): string[] {
    const connected = new Set(this.mesh.connected())
    return [...this.current.candidates]
      .filter(([ap, { beacon }]) => connected.has(ap) && beacon?.images.some((image) => hex(image) === config))
      .map(([ap]) => ap)
  }

  private tell(kind: string, fields: object): void {
    this.world.tell(this.host, kind, fields)
  }
}

const newsOf = ({ engine, instances, cannot, images }: Body<'beacon'>) => ({ engine, instances, cannot, images })
