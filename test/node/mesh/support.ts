// Peers for tests of the network: real libp2p hosts, sockets and LevelDB, all in this process. What an AP decides is left
// out: no roster, no placement, no containers.
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { NodeClock } from '../../../node/clock.js'
import type { LifeSign } from '../../../node/mesh/liveness.js'
import { Network } from '../../../node/mesh/network.js'
import type { SyncResult } from '../../../node/mesh/sync.js'
import { LedgerStore } from '../../../node/store/ledger-store.js'
import { Store } from '../../../node/store/store.js'
import { apId, hex } from '../../../protocols/bytes.js'
import { chuteSubject, newCreation } from '../../../protocols/chute.js'
import { type SignedRecord, seal } from '../../../protocols/envelope.js'
import type { MeshError } from '../../../protocols/error.js'
import { apSigner, type Signer } from '../../../protocols/keys.js'
import type { Body, RecordOf } from '../../../protocols/kinds.js'
import { meshIdOf, meshText, membershipOf } from '../../../protocols/membership.js'
import { isNewer } from '../../../protocols/roster.js'
import { signMember } from '../../../protocols/ticket.js'
import { scratch } from '../../support/scratch.js'
import { until } from '../../support/until.js'

export const seed = (): Uint8Array => new Uint8Array(randomBytes(32))

/** The keys of one mesh, and records as its people sign them. Every record comes later than the one before. */
export class Realm {
  readonly owner = apSigner(seed())
  readonly publisher = apSigner(seed())
  readonly mesh = meshIdOf(this.owner.publicKey)
  private readonly ticket = apSigner(seed())
  private readonly clock = new NodeClock()
  private count = 0
  readonly grant = this.sign(this.owner, 'grant', this.ticket.publicKey, { role: 'ap', uses: 10_000, expires: 0 })

  get text(): string {
    return meshText(this.mesh)
  }

  sign(signer: Signer, kind: string, subject: Uint8Array, body: object): SignedRecord {
    return seal(signer, this.mesh, this.clock.next(), kind, subject, body)
  }

  /** A new ticket and its grant, by the owner of the mesh unless said otherwise. */
  invite(body: Partial<Body<'grant'>> = {}, issuer: Signer = this.owner): { ticket: Signer; grant: SignedRecord } {
    const ticket = apSigner(seed())
    const grant = this.sign(issuer, 'grant', ticket.publicKey, { role: 'ap', uses: 1, expires: 0, ...body })
    return { ticket, grant }
  }

  /** The member record of an AP, let in by a ticket that all may use unless said otherwise. */
  member(ap: Signer, name: string, ticket: Signer = this.ticket): SignedRecord {
    return signMember(ap, ticket, this.mesh, this.clock.next(), { name, labels: {} })
  }

  /** A record of some kind that adds to the ledger, of at least `size` bytes. */
  record(size = 0): SignedRecord {
    const subject = chuteSubject(this.publisher.publicKey, `chute-${this.count++}`)
    const creation = newCreation(Date.now(), randomBytes(10))
    const padding = new Uint8Array(Math.max(0, size - 350)) // unknown fields are kept
    return this.sign(this.publisher, 'wanted', subject, { creation, desired: 'running', restarts: 0, padding })
  }

  records(n: number, size = 0): SignedRecord[] {
    return Array.from({ length: n }, () => this.record(size))
  }

  beacon(ap: Signer, sequence: number, boot = 1): SignedRecord {
    return this.sign(ap, 'beacon', ap.publicKey, {
      boot,
      sequence,
      version: 'test',
      addresses: [],
      instances: [],
      cannot: [],
      images: [],
      ledger: new Uint8Array(16),
    })
  }
}

export interface PeerOptions {
  /** Records in the ledger before the network is there. */
  records?: readonly SignedRecord[]
  listen?: string
  /** Known addresses of others, by AP id. */
  peers?: Record<string, string[]>
  signer?: Signer
  seed?: Uint8Array
  /** Milliseconds since 1970 that this peer takes it to be at least. */
  clock?: NodeClock
}

/** One peer, and what its network told it. */
export class Peer {
  readonly pulses: { from: string; sign: LifeSign; at: number }[] = []
  readonly connects: string[] = []
  readonly lost: string[] = []
  readonly synced: ({ ap: string } & SyncResult)[] = []
  readonly refused: { from: string; error: MeshError }[] = []
  readonly failures: unknown[] = []
  readonly newcomers: SignedRecord[] = []
  readonly beacons = new Map<string, RecordOf<'beacon'>>()
  readonly saidAddresses: Record<string, string[]>[] = []
  readonly network!: Network
  sequence = 0
  private members: ReadonlyMap<string, unknown> = new Map()

  private constructor(
    readonly realm: Realm,
    readonly signer: Signer,
    readonly store: Store,
    readonly ledgerStore: LedgerStore,
  ) {}

  static async start(realm: Realm, options: PeerOptions = {}): Promise<Peer> {
    const ownSeed = options.seed ?? seed()
    const store = await Store.open(join(scratch('peer'), 'ledger'))
    const ledgerStore = await LedgerStore.load(store, realm.mesh, options.clock ?? new NodeClock())
    const peer = new Peer(realm, apSigner(ownSeed), store, ledgerStore)
    await ledgerStore.accept((options.records ?? []).map(({ bytes }) => bytes))
    peer.countMembers()
    ledgerStore.onAdded(() => peer.countMembers())
    const network = await Network.create(
      {
        seed: ownSeed,
        self: peer.id,
        mesh: realm.text,
        meshKey: realm.owner.publicKey,
        listen: [options.listen ?? '/ip4/127.0.0.1/tcp/0'],
        mdns: false,
        peers: options.peers ?? {},
      },
      ledgerStore,
      {
        isMember: (ap) => peer.members.has(ap),
        forgets: () => [],
        sign: () => ({ boot: 1, sequence: ++peer.sequence }),
        beacons: () => [...peer.beacons.values()].map(({ bytes }) => bytes),
        onBeacon: (beacon) => peer.takeBeacon(beacon),
        onPulse: (from, sign) => peer.pulses.push({ from, sign, at: performance.now() }),
        onConnected: (ap) => peer.connects.push(ap),
        onLost: (ap) => peer.lost.push(ap),
        onAddresses: (known) => peer.saidAddresses.push(known),
        onSynced: (ap, result) => peer.synced.push({ ap, ...result }),
        onRefused: (from, error) => peer.refused.push({ from, error }),
        onNewcomer: (record) => peer.newcomers.push(record),
        onFailure: (_what, error) => peer.failures.push(error),
      },
    )
    Object.assign(peer, { network })
    await network.start()
    return peer
  }

  get id(): string {
    return apId(this.signer.publicKey)
  }

  get addresses(): string[] {
    return this.network.addresses()
  }

  get digest(): string {
    return hex(this.ledgerStore.ledger.digest())
  }

  has(record: SignedRecord): boolean {
    return this.ledgerStore.ledger.has(record.hash)
  }

  /** Records on its disk. */
  async onDisk(): Promise<Set<string>> {
    return new Set((await this.store.loadRecords()).records.map(({ hash }) => hex(hash)))
  }

  isConnectedTo(other: Peer): boolean {
    return this.network.connected().includes(other.id)
  }

  /** Dials another peer, as if it had been found on the LAN, and waits until both have exchanged their ledgers. */
  async meet(other: Peer): Promise<void> {
    this.network.dialler.learn(other.id, other.addresses)
    other.network.dialler.learn(this.id, this.addresses)
    await until('two peers to meet', () => this.isConnectedTo(other) && other.isConnectedTo(this))
    await until('their ledgers to be equal', () => this.digest === other.digest)
  }

  async stop(): Promise<void> {
    await this.network.stop()
    await this.store.close()
  }

  private countMembers(): void {
    const { ledger, clock } = this.ledgerStore
    const before = this.members.size
    this.members = membershipOf(ledger, this.realm.owner.publicKey, clock.now()).members
    if (this.members.size > before) this.network?.membersChanged()
  }

  private takeBeacon(beacon: RecordOf<'beacon'>): boolean {
    const ap = apId(beacon.signer)
    const known = this.beacons.get(ap)
    if (!this.members.has(ap) || (known !== undefined && !isNewer(beacon.body, known.body))) return false
    this.beacons.set(ap, beacon)
    return true
  }
}

/** Peers that stop with the test. */
export class Peers {
  readonly all: Peer[] = []

  constructor(readonly realm = new Realm()) {}

  /** Starts members of one mesh that know of each other's membership, but not of each other's addresses. */
  async members(n: number, options: PeerOptions = {}): Promise<Peer[]> {
    const seeds = Array.from({ length: n }, seed)
    const records = seeds.map((own, i) => this.realm.member(apSigner(own), `ap${i}`))
    const known = [this.realm.grant, ...records, ...(options.records ?? [])]
    return Promise.all(seeds.map((own) => this.add({ ...options, seed: own, records: known })))
  }

  async add(options: PeerOptions = {}): Promise<Peer> {
    const peer = await Peer.start(this.realm, options)
    this.all.push(peer)
    return peer
  }

  async stop(): Promise<void> {
    await Promise.all(this.all.splice(0).map((peer) => peer.stop()))
  }
}

/** Bytes of several records, one after the other: for comparing what two peers have. */
export const hashes = (records: readonly SignedRecord[]): string[] => records.map(({ hash }) => hex(hash)).sort()

