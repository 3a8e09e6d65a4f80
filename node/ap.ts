// One AP: composes the rooms of node/ and owns their life cycle. What is decided, protocols/ decides; what is carried out,
// the rooms carry out.
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import type Docker from 'dockerode'
import type { Logger } from 'pino'
import { apId, apKey, equalBytes, hex, unhex } from '../protocols/bytes.js'
import { chuteKey, readChuteSubject } from '../protocols/chute.js'
import { MemberTimes } from '../protocols/clock.js'
import { open, type SignedRecord } from '../protocols/envelope.js'
import { MeshError, messageOf } from '../protocols/error.js'
import { apSigner, type Signer } from '../protocols/keys.js'
import { type Body, isKind, type RecordOf } from '../protocols/kinds.js'
import { meshIdOf, meshText, openTicket, recordsAgainst } from '../protocols/membership.js'
import { dutiesOf, lookOut, type Outlook } from '../protocols/outlook.js'
import { isInformed, REFRESH, TICK } from '../protocols/pace.js'
import { Roster, type RosterEffect, TIMING } from '../protocols/roster.js'
import { authorise } from '../protocols/submission.js'
import type { Papers } from '../protocols/ticket.js'
import { Beacons, type Condition } from './beacons.js'
import { aboutSelf, addressesByAp, belong } from './belonging.js'
import { bootClock } from './boot-clock.js'
import { DockerEngine } from './chutes/docker.js'
import { connectDocker, socketOf } from './chutes/docker-client.js'
import { Files } from './chutes/files.js'
import { Guard } from './chutes/guard.js'
import { Leases } from './chutes/leases.js'
import { Reconciler, type Report } from './chutes/reconciler.js'
import { Secrets } from './chutes/secrets.js'
import { Work } from './chutes/work.js'
import { monotonic, NodeClock, SYSTEM_TIME } from './clock.js'
import type { Config } from './config.js'
import { Events } from './events.js'
import { Figures } from './figures.js'
import { BootCounter, KnownPeers, loadOrMakeSeed } from './identity.js'
import { type Founder, Joining, letIn } from './joining.js'
import { Asks } from './mesh/asks.js'
import { askOnLan } from './mesh/lan.js'
import { Network } from './mesh/network.js'
import { instanceNameOf, News, nameOf } from './news.js'
import { GitSources } from './packages/git.js'
import { Provision } from './provision.js'
import { SmallFile } from './store/files.js'
import { LedgerStore } from './store/ledger-store.js'
import { type Damage, Store } from './store/store.js'
import { Surroundings } from './surroundings.js'
import { VERSION } from './version.js'

/** All in milliseconds. */
const LOOK_AT_PACKAGES = 5000
/** How long a planned stop waits for others to take over, and then for containers to end. */
const HANDOVER_PATIENCE = 20_000
const STOP_PATIENCE = 60_000
/** For how long others wait for the node that takes over from this one, and how long this one's word of it may take. */
const AWAY = 30_000
const WORD_PATIENCE = 300

/** Other APs are asked to probe where a direct probe was not answered by then: not after it has failed, which takes long. */
const PROBE_HEAD_START = 100

const DEFAULT_PORT = 4010

export type ApState = 'joining' | 'running' | 'leaving'

export class Ap {
  readonly reconciler: Reconciler
  private readonly docker: Docker
  /** Git repositories, for who publishes from one. */
  sources!: GitSources
  readonly provision: Provision
  private readonly roster: Roster
  private readonly news: News
  readonly figures = new Figures()
  private readonly times = new MemberTimes()
  private readonly startedAt = monotonic()
  private readonly timers: NodeJS.Timeout[] = []
  private network!: Network
  asks!: Asks
  private readonly surroundings: Surroundings
  private readonly knownPeers: KnownPeers
  private peersBefore: Readonly<Record<string, readonly string[]>> = {}
  private leases!: Leases
  private readonly secrets: Secrets
  private work!: Work
  private current: Outlook
  private readonly beacons: Beacons
  private refreshTimer: NodeJS.Timeout | undefined
  private isReady = false
  private isLeaving = false
  private stepped!: () => void
  /** Resolves when a node that takes over is to find this one gone. */
  readonly steppedAside = new Promise<void>((resolve) => {
    this.stepped = resolve
  })
  /** True once this AP leaves and nothing it still runs is waited for by anyone. */
  private isHandedOver = false
  private readonly joining: Joining
  /** What was wrong with the ledger on disk, for as long as this process runs. */
  private readonly damage: Damage | undefined
  private constructor(
    readonly config: Config,
    readonly events: Events,
    readonly log: Logger,
    readonly store: Store,
    readonly ledgerStore: LedgerStore,
    readonly signer: Signer,
    private readonly seed: Uint8Array,
    readonly meshKey: Uint8Array,
    boots: BootCounter,
    /** Where members are to be found by what let this AP in. */
    private readonly doors: Readonly<Record<string, readonly string[]>>,
    papers: Papers | undefined,
    founder: Founder | undefined,
  ) {
    this.beacons = new Beacons({
      ...{ signer, ledgerStore, boots, membership: () => this.current.membership },
      canSend: () => this.canSendBeacons(),
      condition: (most) => this.condition(most),
      publish: (beacon) => {
        this.network.publishBeacon(beacon)
        this.scheduleRefresh()
      },
      onTwin: () => {
        const reason = 'a beacon signed with the key of this AP did not come from it'
        events.add('twin', { ap: this.id, reason })
      },
      onFailure: (error, what) => this.log.error({ reason: (error as Error).stack }, what),
    })
    this.joining = new Joining(
      {
        ...{ config, signer, ledgerStore, founder },
        isIn: () => this.isMember(this.id),
        whyOut: () => this.current.membership.forgotten.get(this.id),
        hasOthers: () => this.others().length > 0,
        isLeaving: () => this.isLeaving,
        ask: (papers) => this.network.join(papers),
        look: () => {
          this.current = this.lookOut()
        },
        onIn: () => this.refresh(),
        onEvent: (kind, fields) => events.add(kind, fields),
      },
      papers,
    )
    this.knownPeers = new KnownPeers(config.data)
    this.damage = store.damage
    this.news = new News(events, ledgerStore)
    this.roster = new Roster(this.id, monotonic())
    this.docker = connectDocker(config.dockerHost)
    this.provision = new Provision({
      ...{ self: this.id, config, docker: this.docker, ledgerStore, log },
      outlook: () => this.current,
      platform: () => this.reconciler.engineInfo()?.platform,
      connected: () => this.connected(),
      isMember: (ap) => this.isMember(ap),
      onChange: () => this.beacons.schedule(),
      onEvent: (kind, fields) => events.add(kind, fields),
    })
    this.secrets = new Secrets({ signer, seed, ledgerStore, log, now: monotonic, outlook: () => this.current })
    this.reconciler = new Reconciler({
      files: new Files({ self: this.id, secretOf: (chute, name) => this.secrets.valueOf(chute, name) }),
      engine: new DockerEngine(this.docker, { mesh: this.mesh, ap: this.id }),
      beforeStart: (key, containers) => this.leases.beforeStart(key, containers),
      onSeen: (actual, isBusy) => this.leases.see(actual, isBusy),
      onStopped: (key, instance, volumes) => this.news.ofStop(key, instance, volumes, this.current),
      has: (wanted) => this.provision.supply.has(wanted),
      fetch: async (wanted) => {
        await this.provision.supply.ensure(wanted)
        await this.lookAtPackages()
      },
      now: () => ledgerStore.clock.now(),
      onChange: () => {
        this.beacons.schedule()
        this.scheduleRefresh()
      },
      onEvent: (kind, fields) => events.add(kind, fields),
    })
    this.surroundings = new Surroundings({
      ...{ signer, ledgerStore, now: monotonic },
      addresses: () => this.addresses(),
      boot: () => this.beacons.lastSign.boot,
      nextSign: () => this.beacons.nextSign(),
      ask: async (ap) => {
        const bytes = await this.network.glimpses.ask(ap)
        const record = bytes && ledgerStore.check(bytes)
        return record !== undefined && isKind(record, 'beacon') ? record : undefined
      },
      onChange: () => this.scheduleRefresh(),
      onFailure: (error) => this.log.error({ reason: messageOf(error) }, 'a far AP could not be told or asked'),
    })
    this.current = this.lookOut()
  }

  /**
   * Starts an AP on its data folder: founds a mesh, joins one, or goes on in the one it is in.
   * @param founder asked for a key where a mesh is founded: that of the person who may do everything in it
   * @param say tells the person at this AP what it waits for, before it is in a mesh
   * @throws MeshError `data-in-use` (with the pid), `data-newer`, `data-damaged`, `key-damaged`, `ticket`, `other-mesh`,
   * `docker-host`, `listen`
   */
  static async start(
    config: Config,
    log: Logger,
    founder?: Founder,
    say: (text: string) => void = () => {},
  ): Promise<Ap> {
    await mkdir(config.data, { recursive: true, mode: 0o700 })
    const store = await openStore(config.data)
    try {
      const keys = join(config.data, 'keys')
      const seed = await loadOrMakeSeed(keys, 'ap')
      const signer = apSigner(seed)
      const clock = new NodeClock()
      clock.raise(store.clock)
      const ask = async () => {
        if (config.found || !config.mdns) return undefined
        return askOnLan({ seed, signer, about: aboutSelf(config), mesh: config.ask, now: () => clock.now(), say })
      }
      const { meshKey: meshKeyText, admission, addresses } = await belong(keys, signer, clock, config, ask)
      const meshKey = unhex(meshKeyText)
      const ledgerStore = await LedgerStore.load(store, meshIdOf(meshKey), clock)
      const boots = await BootCounter.load(config.data)
      await boots.raise()
      const read = (envelope: string) => open(unhex(envelope), ledgerStore.mesh)
      const presented = admission && { grant: read(admission.grant), member: read(admission.member) }
      const events = new Events(
        store,
        () => clock.now(),
        (event) => log.info(event, event.kind),
      )
      const doors = addressesByAp(addresses ?? [])
      const ap = new Ap(
        config,
        events,
        log,
        store,
        ledgerStore,
        signer,
        seed,
        meshKey,
        boots,
        doors,
        presented,
        founder,
      )
      ap.sources = await GitSources.open(join(config.data, 'sources'))
      await ap.run().catch(async (error) => {
        // What is open would keep the process.
        await ap.network?.stop()
        await ap.provision.close()
        throw error
      })
      return ap
    } catch (error) {
      await store.close()
      throw error
    }
  }

  get id(): string {
    return apId(this.signer.publicKey)
  }

  get mesh(): string {
    return meshText(this.ledgerStore.mesh)
  }

  get state(): ApState {
    if (this.isLeaving) return 'leaving'
    return this.isMember(this.id) ? 'running' : 'joining'
  }

  get outlook(): Outlook {
    return this.current
  }

  connected(): string[] {
    return this.network.connected()
  }

  addresses(): string[] {
    return this.network.addresses()
  }

  /** What was signed against an AP, newest first, as far as it is kept; and whether it is not refuted yet. */
  statements(ap: string): { statement: RecordOf<'statement'>; stands: boolean }[] {
    const standing = new Set(this.roster.accusations(ap).map(({ hash }) => hex(hash)))
    const kept = this.ledgerStore.ledger.history('statement', apKey(ap))
    return kept.map((statement) => ({ statement, stands: standing.has(hex(statement.hash)) }))
  }

  watchers(ap: string): readonly string[] {
    return this.roster.watchers(ap)
  }

  /** Those of this AP's watchers that are connected, and how many of them hear its datagrams. */
  datagrams(): { watchers: number; heardBy: number } {
    const watchers = this.connected().filter((ap) => this.watchers(this.id).includes(ap))
    const heardBy = this.network.heardByDatagram()
    return { watchers: watchers.length, heardBy: watchers.filter((ap) => heardBy.has(ap)).length }
  }

  /** ISO time of the last sign of an AP, or null. */
  lastHeard(ap: string): string | null {
    const at = ap === this.id ? monotonic() : this.roster.lastHeard(ap)
    return at === undefined ? null : new Date(this.ledgerStore.clock.now() - (monotonic() - at)).toISOString()
  }

  /** What is at risk or wrong, in sentences. */
  warnings(): string[] {
    const warnings: string[] = []
    if (this.joining.refusal !== undefined) warnings.push(`cannot join the mesh: ${this.joining.refusal}`)
    if (this.beacons.hasTwin) {
      warnings.push(
        'another node uses the identity of this AP: stop one of the two, and give it a data folder of its own',
      )
    }
    if (this.reconciler.engineInfo() === undefined && this.isReady) {
      warnings.push('no container engine answers: this AP takes no chutes')
    }
    const { failure } = this.ledgerStore
    if (failure !== undefined) warnings.push(`${failure.message}; until then nothing that this AP is told is safe here`)
    if (this.damage !== undefined) warnings.push(this.tellDamage(this.damage))
    if (this.roster.isIsolated(monotonic())) {
      const brake = this.current.isBraked ? '; until that is clear, this one takes over little of what they ran' : ''
      warnings.push(`isolated? most other APs cannot be reached from here${brake}`)
    }
    return warnings
  }

  private tellDamage({ at, found, lost }: Damage): string {
    const what = `the ledger on the disk of this AP was damaged (${at}): ${found}; ${lost} records were lost`
    if (this.store.damage === undefined) return `${what}, and what others have is back; see whether the disk is sound`
    return this.isReady
      ? what
      : `${what}, so nothing is started here before this AP has synced with another; if there is none any more, stop this AP, remove ${this.config.data}/ledger.repair and start it`
  }

  /**
   * Takes in a record that a person signed, and returns how many APs have it on disk.
   * @throws MeshError with the reason
   */
  async submit(bytes: Uint8Array): Promise<{ record: SignedRecord; holders: number }> {
    if (this.state !== 'running') throw new MeshError('not-a-member', `this AP is ${this.state}; it takes no records`)
    const { ledger, clock } = this.ledgerStore
    const record = await this.ledgerStore.submit(bytes, (one) => authorise(ledger, this.meshKey, one, clock.now()))
    if (isKind(record, 'deployment')) await this.becomeOrigin(record)
    this.network.publishRecords([record])
    return { record, holders: 1 + (await this.network.replicate()) }
  }

  // Those who do not hear this AP's beacons learn from the ledger that the package can be had here.
  private async becomeOrigin({ subject, body }: RecordOf<'deployment'>): Promise<void> {
    await this.lookAtPackages()
    if (this.current.neighbourhoods.all.length === 1) return
    const chute = chuteKey({ ...readChuteSubject(subject), creation: body.creation })
    await this.ledgerStore.sign(this.signer, 'origin', chute, {})
  }

  /** Where a newcomer finds members: for a ticket. */
  entrances(): string[] {
    const known = Object.entries(this.network.dialler.addresses()).filter(([ap]) => this.isMember(ap))
    const others = known.flatMap(([ap, addresses]) => addresses.slice(0, 2).map((address) => `${address}/p2p/${ap}`))
    const own = this.addresses().sort((a, b) => Number(isLoopback(a)) - Number(isLoopback(b)))
    return [...own, ...others].slice(0, 12)
  }

  /** Leaves as planned: says goodbye, lets others take over what runs here, stops it, and closes everything. */
  async stop(): Promise<void> {
    if (this.isLeaving) return
    this.isLeaving = true
    if (this.isMember(this.id)) await this.handOver()
    await this.halt()
  }

  /** Makes room for another node on this data folder, which takes over what runs here: others are told to wait for it. */
  async stepAside(): Promise<void> {
    this.beacons.away = AWAY
    this.beacons.send()
    this.guarded(() => this.sendPulses()) // some that watch this AP do not hear its beacons
    await pause(WORD_PATIENCE)
    this.stepped()
  }

  /** Ends without a word to anyone, as a crash does. Containers stay as they are. */
  async halt(): Promise<void> {
    this.isLeaving = true
    this.stopNow()
    this.ledgerStore.stop()
    await this.asks.stop()
    await this.network.stop()
    await this.provision.close()
    await this.store.close()
  }

  /** Ends timers and reconciling without a word to anyone. */
  private stopNow(): void {
    for (const timer of this.timers) clearInterval(timer)
    this.beacons.stop()
    clearTimeout(this.refreshTimer)
    this.reconciler.stop()
  }

  private async handOver(): Promise<void> {
    await this.ledgerStore
      .sign(this.signer, 'goodbye', this.signer.publicKey, { boot: this.beacons.lastSign.boot })
      .catch((error) => this.log.error({ reason: messageOf(error) }, 'the goodbye could not be written'))
    this.refresh()
    const canWaitUntil = monotonic() + HANDOVER_PATIENCE
    const isAwaited = () => {
      const running = new Set(this.reconciler.instances().map(({ instance }) => hex(instance)))
      return dutiesOf(this.current, this.id).handedOver.some((instance) => running.has(instance))
    }
    while (isAwaited() && monotonic() < canWaitUntil) await pause(100)
    this.isHandedOver = true
    this.refresh()
    await pause(100)
    const mustEndBy = monotonic() + STOP_PATIENCE
    while (
      this.reconciler.isRunningAnything() &&
      this.reconciler.engineInfo() !== undefined &&
      monotonic() < mustEndBy
    ) {
      await pause(100)
    }
    if (!this.beacons.hasTwin) await this.leases.giveUp()
  }

  private async run(): Promise<void> {
    this.peersBefore = await this.knownPeers.load()
    this.leases = await Leases.load({
      self: this.id,
      file: new SmallFile(join(this.config.data, 'leases')),
      clock: bootClock,
      now: () => this.ledgerStore.clock.now(),
      guard: new Guard(join(this.config.data, 'watchdog.sock'), socketOf(this.docker) ?? ''),
      call: (voter, message) => this.network.leases.call(voter, message),
      sign: (chute, body) => this.ledgerStore.sign(this.signer, 'voters', chute, body),
      isRemoved: (deployment) => this.ledgerStore.ledger.isRemoved(deployment),
      isPresent: (instance) => this.reconciler.isPresent(instance),
      isEnding: (instance) => this.reconciler.isEnding(instance),
      nameOf: (instance) => instanceNameOf(this.current, unhex(instance)),
      onChange: () => {
        this.beacons.schedule()
        this.scheduleRefresh()
      },
      onEvent: (kind, fields) => this.events.add(kind, fields),
      onFailure: (what, error) => this.log.warn({ reason: messageOf(error) }, `${what} failed`),
    })
    this.leases.look(this.current)
    this.work = new Work({
      ...{ self: this.id, signer: this.signer, ledgerStore: this.ledgerStore },
      ...{ reconciler: this.reconciler, leases: this.leases, time: SYSTEM_TIME, onClaim: () => {} },
      onFailure: (error) => this.log.error({ reason: messageOf(error) }, 'a claim could not be written'),
    })
    this.network = await Network.create(
      {
        seed: this.seed,
        self: this.id,
        mesh: this.mesh,
        meshKey: this.meshKey,
        listen: this.config.listen ?? (await defaultListen()),
        mdns: this.config.mdns,
        peers: { ...this.doors, ...this.peersBefore },
      },
      this.ledgerStore,
      {
        isMember: (ap) => this.isMember(ap),
        isNear: (ap) => this.isMember(ap) && this.surroundings.isNear(ap),
        whereabouts: (ap) => this.surroundings.whereabouts(ap),
        ownBeacon: () => this.beacons.latest?.bytes,
        forgets: (ap) => recordsAgainst(this.ledgerStore.ledger, this.current.membership, ap),
        sign: () => this.beacons.nextSign(),
        beacons: (ap) => this.beaconsOf(ap),
        onBeacon: (beacon) => this.takeBeacon(beacon),
        away: () => this.beacons.away,
        onPulse: (from, sign) => this.roster.pulse(from, sign, monotonic()),
        onLease: (from, message) => this.leases.answer(from, message),
        onTime: (ap, ms) => this.noteTime(ap, ms),
        onConnected: (ap) => {
          this.noteReached(ap)
          this.sendPulses() // who has never heard this AP could not tell that it died
        },
        onLost: (ap) => this.roster.lost(ap, monotonic()),
        onAddresses: (known) => void this.knownPeers.save(known).catch(() => {}),
        onSynced: (ap, { received, sent }) => {
          if (received + sent > 0) this.events.add('synced', { ap, received, sent })
        },
        onLearned: () => this.beacons.learned(),
        onRefused: (from, error) => this.events.add('refused', { from, code: error.code, reason: error.message }),
        onVerdict: (verdict) => this.news.ofVerdict(verdict, this.current),
        // At once: the newcomer syncs right after its welcome, and must be known by then.
        onNewcomer: () => this.refresh(),
        onFailure: (what, error) => this.log.debug({ reason: messageOf(error) }, `${what} failed`),
      },
    )
    this.ledgerStore.onAdded((added) => this.onAdded(added))
    this.ledgerStore.onDisk = (failure) => {
      if (failure === undefined) this.events.add('disk-works')
      else this.events.add('disk-fails', { reason: failure.message })
    }
    // Meanwhile: who is started again at once must listen before others take it for dead.
    const opening = this.provision.open(this.network)
    opening.catch(() => {}) // it is awaited below
    try {
      await this.network.start()
    } catch (cause) {
      throw new MeshError('listen', `cannot listen: ${whyNotListening(cause)}; choose other addresses with --listen`, {
        cause,
      })
    }
    await opening
    const { boot } = this.beacons.lastSign
    this.events.add('up', { ap: this.id, name: this.config.name, mesh: this.mesh, boot, version: VERSION })
    if (this.store.isDamageNew) this.events.add('repaired', { ...this.store.damage })
    this.asks = new Asks({
      ...{ host: this.network.host, meshKey: this.meshKey, mdns: this.config.mdns },
      self: { key: this.signer.publicKey, name: this.config.name },
      isIn: () => this.state === 'running',
      openTo: (ap) => letIn(openTicket(this.current.membership, this.ledgerStore.clock.now()), ap, this.ledgerStore),
      now: () => this.ledgerStore.clock.now(),
      onAsked: ({ labels, since, ...request }) => this.events.add('asked', { ...request }),
    })
    await this.asks.start()
    await this.joining.begin()
    this.every(TICK, () => this.tick())
    this.every(TIMING.pulse, () => this.sendPulses())
    this.every(REFRESH, () => this.refresh())
    this.every(LOOK_AT_PACKAGES, () => void this.lookAtPackages())
    this.refresh()
  }

  private every(ms: number, what: () => void): void {
    this.timers.push(setInterval(() => this.guarded(what), ms))
  }

  // A mistake in what a timer does must not end the node: it is logged, and the next turn may go well.
  private guarded(what: () => void): void {
    try {
      what()
    } catch (error) {
      this.log.error({ reason: (error as Error).stack }, 'a turn failed')
    }
  }

  private isMember(ap: string): boolean {
    return this.current.membership.members.has(ap) && !(ap === this.id && this.hasLostTheOthers())
  }

  /**
   * Whom this AP has reason to think of as other members: those in its ledger, and those it had addresses of. After damage
   * the ledger may have lost every one of them.
   */
  private others(): string[] {
    const { members, forgotten } = this.current.membership
    const known = [...members.keys(), ...Object.keys(this.peersBefore)]
    return known.filter((ap) => ap !== this.id && !forgotten.has(ap))
  }

  /** Then it must be let in again, for it speaks to members alone, and knows none. */
  private hasLostTheOthers(): boolean {
    return this.store.damage !== undefined && this.current.membership.members.size <= 1 && this.others().length > 0
  }

  private lookOut(): Outlook {
    const { ledger, clock } = this.ledgerStore
    const { glimpses } = this.surroundings
    const self = { id: this.id, beacon: this.beacons.latest?.body, leaving: this.isLeaving, glimpses }
    return lookOut(ledger, this.meshKey, this.roster, self, clock.now(), monotonic(), this.current)
  }

  // --- what changes the outlook -----------------------------------------------------------------------------------

  private scheduleRefresh(): void {
    this.refreshTimer ??= setTimeout(() => {
      this.refreshTimer = undefined
      this.guarded(() => this.refresh())
      this.guarded(() => this.tick()) // a statement may have decided an AP's state
    }, 10)
  }

  private refresh(): void {
    const before = this.current
    this.current = this.lookOut()
    this.leases.look(this.current)
    this.lookAround()
    this.provision.follow(this.current)
    this.news.ofOutlook(before, this.current)
    const migrations = this.figures.look(this.current, monotonic(), (ap) => this.roster.lastHeard(ap))
    this.news.ofMigrations(migrations, this.current)
    this.followMembership(before)
    if (this.network.hasSynced) this.endRepair()
    const isForgotten = this.current.membership.forgotten.has(this.id)
    if (this.state === 'joining' && !isForgotten) return
    this.becomeReady()
    if (!this.isReady) return
    // An AP that was forgotten hears no more of whether others serve what it still runs.
    this.work.follow(this.current, this.isLeaving, this.isHandedOver || isForgotten)
    this.secrets.follow(this.current)
  }

  private lookAround(): void {
    this.surroundings.look(this.current)
    this.network.follow(this.surroundings.prefix, this.surroundings.contacts())
    const running = new Set(this.reconciler.instances().map(({ instance }) => hex(instance)))
    this.surroundings.follow(this.current, running)
  }

  /** Asks the APs that hold instances, and whose beacons are not heard here, what they say of them. */
  async askHolders(): Promise<void> {
    const holders = this.current.placed.flatMap(({ holder }) => holder ?? [])
    await this.surroundings.ask(holders, this.current)
    this.refresh()
  }

  private followMembership({ membership: { members: before } }: Outlook): void {
    const { members } = this.current.membership
    if (members === before) return
    if ([...members.keys()].some((ap) => !before.has(ap))) this.network.membersChanged()
    if (before.has(this.id) && !members.has(this.id)) this.joining.wasPutOut()
    // It comes back at once, and is shown why. Nothing else that it hears would tell it.
    else for (const ap of before.keys()) if (!members.has(ap)) this.network.hangUp(ap)
  }

  private becomeReady(): void {
    if (this.isReady || !this.provision.isOpen) return
    const isAlone = this.others().length === 0
    const isDamaged = this.store.damage !== undefined
    if (!isInformed(isAlone, this.network.hasSynced, isDamaged, monotonic() - this.startedAt)) return
    if (isAlone) this.endRepair()
    this.isReady = true
    this.reconciler.start()
    void this.lookAtPackages()
    this.beacons.schedule()
  }

  private endRepair(): void {
    if (this.store.damage === undefined) return
    this.store
      .repaired()
      .catch((error) => this.log.error({ reason: messageOf(error) }, 'the repair could not be ended'))
  }

  private onAdded(added: readonly SignedRecord[]): void {
    for (const record of added) {
      if (equalBytes(record.signer, this.signer.publicKey) || record.kind === 'grant')
        this.network.publishRecords([record])
      if (isKind(record, 'claim')) this.work.note(record)
      if (isKind(record, 'statement')) this.beacons.refute(record)
    }
    this.news.ofRecords(added, this.current)
    this.scheduleRefresh()
  }

  private noteTime(ap: string, ms: number): void {
    const { ledger, clock } = this.ledgerStore
    // A box that knows nothing yet believes the first one that lets it in.
    if (ledger.size <= 2) clock.raise(ms)
    this.times.note(ap, ms, monotonic())
    const corrected = this.times.correction(clock.now(), monotonic(), this.neighbours())
    if (corrected === undefined) return
    this.events.add('clock-corrected', { behind: corrected - clock.now() })
    clock.raise(corrected)
    this.scheduleRefresh()
  }

  private takeBeacon(beacon: RecordOf<'beacon'>): boolean {
    const ap = apId(beacon.signer)
    if (ap === this.id) {
      this.beacons.watchForTwin(beacon)
      return false
    }
    const before = this.roster.latestBeacon(ap)?.body
    if (!this.roster.beacon(ap, beacon, monotonic())) return false
    this.network.dialler.learn(ap, beacon.body.addresses)
    this.network.compareDigest(ap, beacon.body.ledger)
    // Most beacons say what the last one said. (Where one brings an AP back to life, the roster tells.)
    if (before === undefined || !isDeepStrictEqual(newsOf(before), newsOf(beacon.body))) this.scheduleRefresh()
    return true
  }

  private tick(): void {
    const now = monotonic()
    for (const effect of this.roster.tick(now)) this.carryOut(effect)
    // Voters cannot tell the two nodes of one identity apart: neither renews, nor gives back what the other may run by.
    if (this.isReady && !this.beacons.hasTwin) this.leases.tick()
    this.beacons.repeat(this.neighbours().length)
  }

  private sendPulses(): void {
    if (this.state === 'running') this.network.sendPulses(this.roster.watchers(this.id))
  }

  private carryOut(effect: RosterEffect): void {
    const { ap } = effect
    if (effect.do === 'probe') void this.probe(ap, effect.via)
    else if (effect.do === 'accuse') {
      this.ledgerStore
        .sign(this.signer, 'statement', this.current.membership.members.get(ap)!.key, effect.statement)
        .catch((error) => this.log.error({ reason: messageOf(error) }, 'a statement could not be written'))
    } else {
      // What was signed against it before this AP started may be refuted, by a beacon that comes with the first sync.
      if (effect.to === 'dead' && !this.isReady) return
      const kind = { suspect: 'suspected', dead: 'dead', alive: 'alive', left: 'left' }[effect.to]
      this.events.add(kind, { ap, name: this.nameOf(ap), ...this.causeOf(effect.to, ap) })
      if (effect.to === 'dead') this.network.hangUp(ap)
      this.scheduleRefresh()
    }
  }

  private causeOf(state: string, ap: string): object {
    if (state !== 'dead') return {}
    const heardAt = this.roster.lastHeard(ap)
    const silence = heardAt === undefined ? null : Math.round(monotonic() - heardAt)
    if (silence !== null) this.figures.died(silence)
    return { silence, witnesses: this.roster.accusations(ap).map(({ signer }) => this.nameOf(apId(signer))) }
  }

  private async probe(ap: string, via: readonly string[]): Promise<void> {
    const { probes } = this.network
    const began = monotonic()
    const direct = probes.direct(ap)
    const first = await Promise.race([direct, pause(PROBE_HEAD_START).then(() => 'silent' as const)])
    const isAnswered = typeof first === 'object'
    const [own, isReached] = await Promise.all([direct, !isAnswered && probes.through(ap, via)])
    if (typeof own === 'object') this.roster.heard(ap, own, monotonic())
    else if (isReached) {
      // Another AP is believed that it reached this one, not the numbers it gives: a lie would outlast it.
      this.noteReached(ap)
      // One that was dead is coming back.
      if (this.current.candidates.get(ap)?.state !== 'dead') this.roster.misjudged(monotonic())
      // What was heard meanwhile says more than a probe that was under way before.
    } else if ((this.roster.lastHeard(ap) ?? 0) <= began) this.roster.unreachable(ap, own === 'refused')
    if (own === 'refused') this.guarded(() => this.tick())
  }

  /** An AP gave a sign of itself, and no number with it. */
  private noteReached(ap: string): void {
    this.roster.heard(ap, this.roster.lastSign(ap), monotonic())
  }

  // --- beacons ----------------------------------------------------------------------------------------------------

  private canSendBeacons(): boolean {
    if (!this.isReady || this.state !== 'running') return false
    // "No engine" gives away what this AP holds. After a boot the engine may just be slower than the node.
    return this.reconciler.knowsEngine() || !this.current.placed.some(({ holder }) => holder === this.id)
  }

  private condition(most: number): Condition {
    return {
      addresses: this.addresses().slice(0, 32),
      engine: this.reconciler.engineInfo(),
      instances: this.work
        .reports()
        .slice(0, most)
        .map((report) => this.withProgress(report)),
      cannot: this.reconciler.cannot().slice(0, Math.min(most, 64)),
      images: this.provision.supply.holdings().slice(0, most),
      packages: this.provision.holdings().slice(0, most),
    }
  }

  // Also while an earlier revision runs until the next one is here.
  private withProgress(report: Report): Report {
    const fetched = this.provision.progress(hex(report.instance))
    return fetched === undefined ? report : { ...report, fetched }
  }

  private neighbours(ap = this.id): readonly { id: string }[] {
    return this.current.neighbourhoods.of(ap)?.members ?? []
  }

  /** What this AP has heard of the neighbours of an AP, and its own. */
  private beaconsOf(ap: string): RecordOf<'beacon'>[] {
    const others = this.neighbours(ap).map(({ id }) => this.roster.latestBeacon(id))
    return [this.beacons.latest, ...others].flatMap((beacon) => beacon ?? [])
  }

  // --- packages ---------------------------------------------------------------------------------------------------

  private async lookAtPackages(): Promise<void> {
    this.refresh()
    await this.provision.look(this.isReady && !this.isLeaving)
    // What is on its way makes no other news.
    if (this.work.reports().some((report) => this.withProgress(report).fetched !== undefined)) this.beacons.schedule()
  }

  // --- telling ----------------------------------------------------------------------------------------------------

  nameOf(ap: string): string {
    return nameOf(this.current, ap)
  }
}

/** What placement and people look at in a beacon. */
const newsOf = ({ engine, instances, cannot, images, packages }: Body<'beacon'>) => ({
  engine,
  instances,
  cannot,
  images,
  packages,
})

const isLoopback = (address: string): boolean => /^\/ip4\/127\.|^\/ip6\/::1\//.test(address)

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

/** Opens the store, or says who has it open. The pid file is written only by whoever holds LevelDB's own lock. */
async function openStore(data: string): Promise<Store> {
  const pidFile = join(data, 'pid')
  try {
    const store = await Store.open(join(data, 'ledger'))
    await writeFile(pidFile, `${process.pid}\n`)
    return store
  } catch (error) {
    if (!(error instanceof MeshError) || error.code !== 'data-in-use') throw error
    const pid = (await readFile(pidFile, 'utf8').catch(() => 'unknown')).trim()
    throw new MeshError(
      'data-in-use',
      `${data} is in use by the dropmesh node with pid ${pid}; stop it, or choose another --data`,
    )
  }
}

// libp2p puts advice about its own settings and stack traces around each address and what is wrong with it.
function whyNotListening(error: unknown): string {
  const found = [...messageOf(error).matchAll(/^\s+(\/\S+): Error: (.*)$/gm)]
  return found.map(([, address, why]) => `${address}: ${why}`).join('; ') || messageOf(error).split('\n')[0]!
}

/** All interfaces on the default port, or on a free one where that is taken. */
async function defaultListen(): Promise<string[]> {
  const isFree = await new Promise<boolean>((resolve) => {
    const server = createServer()
    server.once('error', () => resolve(false))
    server.listen(DEFAULT_PORT, '0.0.0.0', () => server.close(() => resolve(true)))
  })
  return [`/ip4/0.0.0.0/tcp/${isFree ? DEFAULT_PORT : 0}`]
}
