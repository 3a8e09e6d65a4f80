// The network side of an AP: one object over host, dialler, gossip, pulses, probes, sync and joining. It carries; what is
// carried is decided elsewhere.
import type { Connection, Stream } from '@libp2p/interface'
import { Allowances } from '../../protocols/allowance.js'
import { hex } from '../../protocols/bytes.js'
import type { SignedRecord } from '../../protocols/envelope.js'
import { MeshError } from '../../protocols/error.js'
import { isKind, type RecordOf } from '../../protocols/kinds.js'
import type { LeaseAnswer } from '../../protocols/leases.js'
import { membershipOf } from '../../protocols/membership.js'
import { COMPARE, Differences } from '../../protocols/pace.js'
import type { Papers } from '../../protocols/ticket.js'
import { ASK, protocolIds } from '../../protocols/wire.js'
import type { LedgerStore } from '../store/ledger-store.js'
import { isOfDisk } from '../store/store.js'
import { Conduct, type Verdict } from './conduct.js'
import { Datagrams } from './datagrams.js'
import { Dialler, isDialable } from './dialler.js'
import { exchange } from './frames.js'
import { addressOf } from './gate.js'
import { Glimpses } from './glimpses.js'
import { Gossip } from './gossip.js'
import { closeConnection, connectionTo, createHost, type Host, openStream, peerId } from './host.js'
import { admitNewcomers, askToJoin } from './join.js'
import { LeaseCalls, type LeaseMessage } from './leases.js'
import { type LifeSign, Probes, type PulseSign, Pulses } from './liveness.js'
import { replicate } from './replicate.js'
import { answerForgotten, answerSync, initiateSync, type SyncResult, syncFrames } from './sync.js'

/** A stranger that was not let in by then is disconnected, in milliseconds. */
const STRANGER_PATIENCE = 15_000
/**
 * Gossipsub ignores a stranger, its subscriptions included, and remembers that for a heartbeat (one second). Who becomes a
 * member while connected is therefore disconnected after that, and dialled anew. In milliseconds.
 */
const RENEW_AFTER = 1500

/** Connections that are kept to members that are neither neighbours nor watch, or are watched. */
const FAR_KEPT = 32

/**
 * Beacons by gossip that one AP may sign: BEACON_MIN is 100 ms, and some come late together. What is beyond is not handed on,
 * or one AP could make all others carry as much as it likes.
 */
const BEACONS = { burst: 100, perSecond: 10 }

/** Who waits on the LAN to be let in asks each two seconds whether it was: sixteen of them may be behind one address. */
const ASK_PRICE = 1 / 8

export interface NetworkOptions {
  readonly seed: Uint8Array
  readonly self: string
  /** Mesh id as text. */
  readonly mesh: string
  readonly meshKey: Uint8Array
  readonly listen: readonly string[]
  readonly mdns: boolean
  /** Addresses known from before, by AP id. */
  readonly peers: Readonly<Record<string, readonly string[]>>
}

export interface NetworkHandlers {
  isMember(ap: string): boolean
  /** Members to stay connected to. */
  isNear(ap: string): boolean
  /** Where a member says that it is to be found. */
  whereabouts(ap: string): readonly string[]
  ownBeacon(): Uint8Array | undefined
  /** The records that show an AP that it is a member no more; none where it never was one. */
  forgets(ap: string): SignedRecord[]
  sign(): LifeSign
  /** The latest beacons that are known here of an AP's neighbours, and this one's. */
  beacons(ap: string): RecordOf<'beacon'>[]
  /** Returns whether it was newer than what is known. */
  onBeacon(beacon: RecordOf<'beacon'>): boolean
  away(): number | undefined
  onPulse(from: string, sign: PulseSign): void
  onLease(from: string, message: LeaseMessage): Promise<LeaseAnswer[]>
  /** What a member takes the time to be, in milliseconds since 1970. */
  onTime(ap: string, ms: number): void
  onConnected(ap: string): void
  onLost(ap: string): void
  onAddresses(peers: Record<string, string[]>): void
  onSynced(ap: string, result: SyncResult): void
  /** A sync brought records, however it ends. */
  onLearned(): void
  onRefused(from: string, error: MeshError): void
  /** Somebody is not heard any more, or shut out: a member, by its id, or whoever is at an address. */
  onVerdict(verdict: Verdict): void
  onNewcomer(record: SignedRecord): void
  onFailure(what: string, error: unknown): void
}

export class Network {
  readonly dialler: Dialler
  readonly probes: Probes
  readonly leases: LeaseCalls
  readonly glimpses: Glimpses
  private readonly ids: ReturnType<typeof protocolIds>
  private readonly gossip: Gossip
  private readonly datagrams: Datagrams
  private readonly pulses: Pulses
  private readonly syncing = new Map<string, { running: Promise<SyncResult>; next?: Promise<SyncResult> }>()
  private readonly differences = new Differences(performance.now())
  /** Since when connected APs that are no members are connected, and those of them that have become members since. */
  private readonly strangers = new Map<string, number>()
  private readonly renewing = new Set<string>()
  private readonly tellers = new Allowances(BEACONS)
  private readonly timers: NodeJS.Timeout[] = []
  /** True once one exchange with a member was completed. */
  hasSynced = false

  private constructor(
    readonly host: Host,
    private readonly options: NetworkOptions,
    private readonly store: LedgerStore,
    private readonly handlers: NetworkHandlers,
    private readonly conduct: Conduct,
  ) {
    this.ids = protocolIds(options.mesh)
    const isWanted = (ap: string) => !conduct.isShutOut(ap) && (handlers.isNear(ap) || !handlers.isMember(options.self))
    this.dialler = new Dialler(host, options.self, isWanted, handlers.onAddresses, handlers.whereabouts)
    for (const [ap, addresses] of Object.entries(options.peers)) this.dialler.learn(ap, addresses)
    const liveness = {
      isMember: handlers.isMember,
      sign: handlers.sign,
      away: handlers.away,
      ledgerDigest: () => store.ledger.digest(),
      mayPulse: (from: string) => conduct.spend(from, 'messages'),
      onPulse: (from: string, sign: PulseSign, ledger: Uint8Array) => {
        this.compareDigest(from, ledger)
        handlers.onPulse(from, sign)
      },
    }
    this.datagrams = new Datagrams(host, this.ids, options.listen, {
      isMember: handlers.isMember,
      onDatagram: (from, message) => {
        this.pulses.take(from, message)
        this.probes.take(from, message)
      },
      onOffence: (from, reason) => conduct.offend(from, reason),
      onFailure: handlers.onFailure,
    })
    this.pulses = new Pulses(host, this.ids, this.datagrams, liveness)
    this.probes = new Probes(host, this.ids, this.dialler, this.datagrams, liveness)
    this.leases = new LeaseCalls(host, this.ids, this.dialler, handlers)
    this.glimpses = new Glimpses(host, this.ids, this.dialler, handlers)
    this.gossip = new Gossip(host, options.mesh, {
      isMember: handlers.isMember,
      onRecord: async (bytes) => ((await store.acceptOne(store.check(bytes))) ? 'new' : 'old'),
      onBeacon: async (bytes) => {
        const beacon = store.check(bytes)
        return this.mayBeTold(beacon) && this.takeBeacon(beacon) ? 'new' : 'old'
      },
      onRefused: (from, error) => this.refuse(from, error),
    })
  }

  static async create(options: NetworkOptions, store: LedgerStore, handlers: NetworkHandlers): Promise<Network> {
    const bootstrap = Object.entries(options.peers).flatMap(([ap, addresses]) =>
      addresses.map((address) => `${address.replace(/\/p2p\/[^/]+$/, '')}/p2p/${ap}`).filter(isDialable),
    )
    const { isMember } = handlers
    const { join, sync } = protocolIds(options.mesh)
    // Whatever strangers may ask for belongs here. One that was forgotten is told so.
    const price = (protocol: string, ap: string) => {
      if (protocol === ASK) return ASK_PRICE
      return protocol === join || (protocol === sync && handlers.forgets(ap).length > 0) ? 1 : undefined
    }
    const conduct = new Conduct(
      () => performance.now(),
      (verdict) => network.judge(verdict),
    )
    const host = await createHost({ ...options, bootstrap, isMember, price, conduct })
    const network = new Network(host, options, store, handlers, conduct)
    return network
  }

  async start(): Promise<void> {
    this.host.addEventListener('connection:open', ({ detail }) => this.onConnection(detail))
    this.host.addEventListener('connection:close', ({ detail }) => {
      const ap = detail.remotePeer.toString()
      if (connectionTo(this.host, ap) !== undefined) return
      this.strangers.delete(ap)
      this.differences.forget(ap)
      // libp2p remembers each for hours, and ids cost nothing.
      if (!this.handlers.isMember(ap)) this.host.peerStore.delete(detail.remotePeer).catch(() => {})
      if (this.handlers.isMember(ap) && !this.renewing.has(ap)) this.handlers.onLost(ap)
    })
    const { host, ids, store, handlers } = this
    await this.pulses.start()
    await this.probes.start()
    await this.leases.start()
    await this.glimpses.start()
    await admitNewcomers(
      host,
      ids,
      store,
      this.options.meshKey,
      () => handlers.isMember(this.options.self),
      (records) => {
        for (const record of records) this.gossip.publishRecord(record.bytes)
        for (const record of records) handlers.onNewcomer(record)
      },
    )
    await host.handle(
      ids.sync,
      async (stream: Stream, connection: Connection) => {
        const from = connection.remotePeer.toString()
        if (!handlers.isMember(from)) {
          const deps = this.syncDependencies(from)
          return exchange(stream, () => answerForgotten(syncFrames(stream), deps, handlers.forgets(from)))
        }
        const began = performance.now()
        await exchange(stream, () => answerSync(syncFrames(stream), this.syncDependencies(from)))
          .then((result) => this.noteSynced(from, began, result))
          .catch((error) => this.noteFailed(`sync from ${from}`, from, error))
      },
      { maxInboundStreams: 4 },
    )
    await host.start()
    await this.datagrams.start()
    this.gossip.start()
    this.dialler.start()
    this.timers.push(
      setInterval(() => {
        this.syncWhereDue()
        this.partWithStrangers()
        this.partWithTheFar()
      }, COMPARE),
    )
  }

  async stop(): Promise<void> {
    for (const timer of this.timers) clearInterval(timer)
    this.dialler.stop()
    this.datagrams.stop()
    await Promise.race([this.host.stop(), new Promise((resolve) => setTimeout(resolve, 3000).unref())])
  }

  /** Members this AP is connected to. */
  connected(): string[] {
    return [...this.dialler.connected()].filter(this.handlers.isMember)
  }

  /** This AP's own addresses, each ending in `/p2p/…`. */
  addresses(): string[] {
    return this.host.getMultiaddrs().map(String)
  }

  publishRecords(records: readonly SignedRecord[]): void {
    for (const record of records) this.gossip.publishRecord(record.bytes)
  }

  publishBeacon(beacon: SignedRecord): void {
    this.gossip.publishBeacon(beacon.bytes)
  }

  /** Watchers that hear this AP's pulses by datagram; the others get them by stream. */
  heardByDatagram(): ReadonlySet<string> {
    return this.pulses.heardBy()
  }

  /** Says which neighbourhood this AP is in, and where those far away are to be found with whom it stays connected. */
  follow(prefix: string, contacts: readonly string[], overlap?: number): void {
    this.gossip.follow(prefix, overlap)
    for (const ap of contacts) this.dialler.learn(ap, this.handlers.whereabouts(ap))
  }

  sendPulses(watchers: readonly string[]): void {
    this.pulses.send(watchers)
  }

  /** Brings this AP's ledger to others. @returns how many have it on disk; @throws MeshError `not-replicated` */
  replicate(): Promise<number> {
    return replicate(
      () => this.connected(),
      (ap) => this.sync(ap),
    )
  }

  /** Asks any connected AP to let this one in. @returns its time; @throws the last refusal */
  async join(papers: Papers): Promise<number> {
    let refusal: unknown = new Error('no member is reachable')
    for (const peer of this.host.getPeers()) {
      try {
        const ap = peer.toString()
        const now = await askToJoin(this.host, this.ids, ap, papers)
        await this.sync(ap)
        // Anyone can say welcome, and a time; a member can show that it is one.
        if (!membershipOf(this.store.ledger, this.options.meshKey, now).members.has(ap)) {
          throw new MeshError('join-refused', `${ap} is no member itself`)
        }
        this.hasSynced = true
        return now
      } catch (error) {
        refusal = error
      }
    }
    throw refusal
  }

  /**
   * Makes the two ledgers equal. Calls that come during another one share one that runs after it, for they may have come
   * too late for it.
   */
  sync(ap: string): Promise<SyncResult> {
    const busy = this.syncing.get(ap)
    if (busy !== undefined) {
      busy.next ??= busy.running.then(
        () => this.sync(ap),
        () => this.sync(ap),
      )
      return busy.next
    }
    const running = this.syncNow(ap).finally(() => this.syncing.delete(ap))
    this.syncing.set(ap, { running })
    return running
  }

  private async syncNow(ap: string): Promise<SyncResult> {
    const began = performance.now()
    const stream = await openStream(this.host, ap, this.ids.sync, AbortSignal.timeout(5000))
    const result = await exchange(stream, () => initiateSync(syncFrames(stream), this.syncDependencies(ap)))
    this.noteSynced(ap, began, result)
    return result
  }

  /** Opens a connection for bulk alone. The caller closes it. */
  async connectForBulk(ap: string, signal: AbortSignal): Promise<Connection> {
    return this.host.dial(this.dialler.multiaddrs(ap), { force: true, signal })
  }

  /** Ends all connections to an AP, bulk included. Of one that died they are half open, and whoever waits on one waits long. */
  hangUp(ap: string): void {
    for (const connection of [...this.host.getConnections(peerId(ap))]) connection.abort(new Error('the AP is dead'))
  }

  // Its datagrams are heard on, so that nobody takes it for dead because others have enough of it.
  private judge(verdict: Verdict): void {
    this.handlers.onVerdict(verdict)
    if (verdict.kind === 'throttled') return
    for (const connection of [...this.host.getConnections()]) {
      const ap = connection.remotePeer.toString()
      const isAt = !this.handlers.isMember(ap) && addressOf(connection.remoteAddr) === verdict.who
      if (ap === verdict.who || isAt) connection.abort(new Error(verdict.reason))
    }
  }

  private refuse(from: string, error: MeshError): void {
    this.handlers.onRefused(from, error)
    this.conduct.offend(from, error.message)
  }

  // Whose they are is known once the signature is. It is no fault of who forwarded them.
  private mayBeTold(beacon: SignedRecord): boolean {
    return this.tellers.take(hex(beacon.signer), performance.now())
  }

  get blobProtocol(): string {
    return this.ids.blob
  }

  private onConnection(connection: Connection): void {
    const ap = connection.remotePeer.toString()
    if (connection.direction === 'outbound') this.dialler.learn(ap, [connection.remoteAddr.toString()])
    if (!this.handlers.isMember(ap)) {
      if (!this.strangers.has(ap)) this.strangers.set(ap, performance.now())
      return
    }
    if (connectionTo(this.host, ap)?.id !== connection.id) return
    this.renewing.delete(ap)
    this.handlers.onConnected(ap)
    if (connection.direction === 'outbound' && this.handlers.isMember(this.options.self)) {
      this.sync(ap).catch((error) => this.noteFailed(`sync with ${ap}`, ap, error))
    }
  }

  /** Tells that the members are others now. */
  membersChanged(): void {
    for (const ap of this.strangers.keys()) {
      if (!this.handlers.isMember(ap)) continue
      this.strangers.delete(ap)
      this.renewing.add(ap)
      const connections = [...this.host.getConnections(peerId(ap))]
      setTimeout(() => {
        for (const connection of connections) void closeConnection(connection)
      }, RENEW_AFTER).unref()
    }
  }

  // A stranger may be a newcomer that joins now; or this AP is one, and learns of the members by joining. Who was a member
  // when it connected and was forgotten since is a stranger too.
  private partWithStrangers(): void {
    const now = performance.now()
    for (const ap of this.dialler.connected()) {
      if (this.handlers.isMember(ap)) continue
      const since = this.strangers.get(ap) ?? now
      this.strangers.set(ap, since)
      if (now - since < STRANGER_PATIENCE || !this.handlers.isMember(this.options.self)) continue
      for (const connection of this.host.getConnections(peerId(ap))) void closeConnection(connection)
    }
  }

  // Who was a neighbour, or had something to ask once. Those that are asked often have the newest connections.
  private partWithTheFar(): void {
    const far = this.connected().filter((ap) => !this.handlers.isNear(ap))
    for (const ap of far.slice(0, Math.max(0, far.length - FAR_KEPT))) {
      for (const connection of this.host.getConnections(peerId(ap))) void closeConnection(connection)
    }
  }

  private takeBeacon(record: SignedRecord): boolean {
    return isKind(record, 'beacon') && this.handlers.onBeacon(record)
  }

  private syncDependencies(ap: string) {
    return {
      store: this.store,
      ownBeacons: () => this.handlers.beacons(this.options.self),
      peerBeacons: () => this.handlers.beacons(ap),
      onBeacon: (beacon: SignedRecord) => void this.takeBeacon(beacon),
      onLearned: () => this.handlers.onLearned(),
      onRefused: (error: MeshError) => this.refuse(ap, error),
      // Larger ledgers are more work to compare, and are worth it.
      spend: (work: number) => this.conduct.spend(ap, 'sync', work / Math.max(1, this.store.ledger.size / 16_384)),
      onTime: (ms: number) => {
        if (this.handlers.isMember(ap)) this.handlers.onTime(ap, ms)
      },
    }
  }

  private noteSynced(ap: string, began: number, result: SyncResult): void {
    this.hasSynced ||= this.handlers.isMember(ap)
    this.differences.synced(ap, began)
    this.handlers.onSynced(ap, result)
  }

  // What breaks the rules of the wire is the other side's doing, and worth telling; the rest is how networks are.
  private noteFailed(what: string, ap: string, error: unknown): void {
    if (error instanceof MeshError && !isOfDisk(error)) this.refuse(ap, error)
    else this.handlers.onFailure(what, error)
  }

  /** Notes that a peer's ledger differs, or does not any more. */
  compareDigest(ap: string, digest: Uint8Array): void {
    this.differences.compare(ap, digest, this.store.ledger.digest(), performance.now())
  }

  private syncWhereDue(): void {
    const idle = this.connected().filter((ap) => !this.syncing.has(ap) && this.conduct.isHeard(ap))
    for (const ap of this.differences.due(idle, performance.now(), Math.random())) {
      this.sync(ap).catch((error) => {
        if (connectionTo(this.host, ap) !== undefined) this.differences.failed(ap, performance.now())
        this.noteFailed(`sync with ${ap}`, ap, error)
      })
    }
  }
}
