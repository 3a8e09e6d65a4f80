// Peers for tests of the network: real libp2p hosts, sockets and LevelDB, all in this process. What an AP decides is left
// out: no roster, no placement, no containers.
import { join } from 'node:path'
import { NodeClock } from '../../../node/clock.js'
import type { Verdict } from '../../../node/mesh/conduct.js'
import type { LifeSign } from '../../../node/mesh/liveness.js'
import { Network } from '../../../node/mesh/network.js'
import type { SyncResult } from '../../../node/mesh/sync.js'
import { LedgerStore } from '../../../node/store/ledger-store.js'
import { Store } from '../../../node/store/store.js'
import { apId, hex } from '../../../protocols/bytes.js'
import type { SignedRecord } from '../../../protocols/envelope.js'
import type { MeshError } from '../../../protocols/error.js'
import { apSigner, type Signer } from '../../../protocols/keys.js'
import type { RecordOf } from '../../../protocols/kinds.js'
import { membershipOf, recordsAgainst } from '../../../protocols/membership.js'
import { isNewer } from '../../../protocols/refutation.js'
import { scratch } from '../../support/scratch.js'
import { until } from '../../support/until.js'
import { hashes, Realm, seed } from '../realm.js'

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
  readonly verdicts: Verdict[] = []
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
        isNear: (ap) => peer.members.has(ap),
        whereabouts: () => [],
        ownBeacon: () => peer.beacons.get(peer.id)?.bytes,
        forgets: (ap) =>
          recordsAgainst(ledgerStore.ledger, membershipOf(ledgerStore.ledger, realm.owner.publicKey, Date.now()), ap),
        sign: () => ({ boot: 1, sequence: ++peer.sequence }),
        beacons: () => [...peer.beacons.values()],
        onBeacon: (beacon) => peer.takeBeacon(beacon),
        away: () => undefined,
        onPulse: (from, sign) => peer.pulses.push({ from, sign, at: performance.now() }),
        onLease: async () => [],
        onTime: () => {},
        onConnected: (ap) => peer.connects.push(ap),
        onLost: (ap) => peer.lost.push(ap),
        onAddresses: (known) => peer.saidAddresses.push(known),
        onSynced: (ap, result) => peer.synced.push({ ap, ...result }),
        onLearned: () => {},
        onRefused: (from, error) => peer.refused.push({ from, error }),
        onVerdict: (verdict) => peer.verdicts.push(verdict),
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

  isMember(key: Uint8Array): boolean {
    return this.members.has(apId(key))
  }

  /** Records on its disk. */
  async onDisk(): Promise<Set<string>> {
    return new Set(hashes(await this.store.loadRecords()))
  }

  isConnectedTo(other: Peer): boolean {
    return this.network.connected().includes(other.id)
  }

  /** Dials another peer, as if it had been found on the LAN, and waits until both have exchanged their ledgers. */
  async meet(other: Peer): Promise<void> {
    this.network.dialler.learn(other.id, other.addresses)
    other.network.dialler.learn(this.id, this.addresses)
    const hasSynced = (one: Peer, two: Peer) => one.isConnectedTo(two) && one.synced.some(({ ap }) => ap === two.id)
    await until('two peers to meet', () => hasSynced(this, other) && hasSynced(other, this))
  }

  /** Drops what this peer sends by UDP, or no longer. */
  blockDatagrams(blocked = true): void {
    const socket = Reflect.get(Reflect.get(this.network, 'datagrams'), 'socket')
    if (blocked) socket.send = () => {}
    else delete socket.send
  }

  takeBeacon(beacon: RecordOf<'beacon'>): boolean {
    const ap = apId(beacon.signer)
    const known = this.beacons.get(ap)
    if (!this.members.has(ap) || (known !== undefined && !isNewer(beacon.body, known.body))) return false
    this.beacons.set(ap, beacon)
    return true
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
