// A hostile peer: a libp2p host that keeps no rule, a stranger until it is let in.
import { TopicValidatorResult } from '@chainsafe/libp2p-gossipsub'
import type { Stream } from '@libp2p/interface'
import { multiaddr } from '@multiformats/multiaddr'
import { exchange, Frames } from '../../node/mesh/frames.js'
import { createHost, type Host } from '../../node/mesh/host.js'
import { askToJoin } from '../../node/mesh/join.js'
import { concat } from '../../protocols/bytes.js'
import { open, type SignedRecord, seal } from '../../protocols/envelope.js'
import { apSigner, type Signer } from '../../protocols/keys.js'
import { meshIdOf, meshText } from '../../protocols/membership.js'
import { readTicket, redeem } from '../../protocols/ticket.js'
import { protocolIds, type SyncFrame, syncFrame, topics } from '../../protocols/wire.js'
import { seed } from '../node/realm.js'
import { eventually, type TestAp } from './mesh.js'

/** Runs something to which the other side may put an end at any time. */
export const dare = async (run: () => unknown): Promise<void> => {
  try {
    await run()
  } catch {
    // It did.
  }
}

export class Villain {
  readonly signer: Signer
  readonly ids: ReturnType<typeof protocolIds>
  readonly topics: ReturnType<typeof topics>
  private count = 0

  private constructor(
    readonly host: Host,
    ownSeed: Uint8Array,
    readonly realm: Uint8Array,
    readonly target: TestAp,
    private readonly address: string,
  ) {
    this.signer = apSigner(ownSeed)
    this.ids = protocolIds(meshText(realm))
    this.topics = topics(meshText(realm))
  }

  /** A stranger that knows where an AP is, and has seen a ticket. */
  static async appear(target: TestAp, ticket: string): Promise<Villain> {
    const ownSeed = seed()
    const realm = meshIdOf(readTicket(ticket).meshKey)
    const all = () => true
    const host = await createHost({
      ...{ seed: ownSeed, mesh: meshText(realm), listen: ['/ip4/127.0.0.1/tcp/0'], mdns: false, bootstrap: [] },
      ...{ isMember: all, price: () => 0 },
    })
    await host.start()
    return new Villain(host, ownSeed, realm, target, (await target.status()).addresses[0]!)
  }

  get id(): string {
    return this.host.peerId.toString()
  }

  dial(address = this.address) {
    return this.host.dial(multiaddr(address), { force: true, signal: AbortSignal.timeout(5000) })
  }

  async connect() {
    return this.host.getConnections().find(({ status }) => status === 'open') ?? (await this.dial())
  }

  async open(protocol: string): Promise<{ stream: Stream; frames: Frames }> {
    const stream = await (await this.connect()).newStream(protocol, { signal: AbortSignal.timeout(5000) })
    return { stream, frames: new Frames(stream, 16 * 1024 ** 2, 20_000) }
  }

  /** Is let in, by a ticket, and takes part in gossip. */
  async join(ticket: string, name = 'villain'): Promise<void> {
    await eventually('the villain to be connected', () => this.connect())
    await askToJoin(
      this.host,
      this.ids,
      this.target.id,
      redeem(readTicket(ticket), this.signer, Date.now(), { name, labels: {} }),
    )
    const { pubsub } = this.host.services
    for (const topic of Object.values(this.topics)) pubsub.subscribe(topic)
    await this.takePart()
  }

  /** Is connected, and has a share in gossip: who never says that it lives is left alone now and then. */
  async takePart(): Promise<void> {
    await eventually('the villain to take part in gossip', async () => {
      await this.connect()
      return this.host.services.pubsub.getSubscribers(this.topics.records).length > 0
    })
  }

  /** APs that it passes records on to, and that pass them on to it. */
  get meshPeers(): ReadonlySet<string> {
    const { mesh } = this.host.services.pubsub as unknown as { mesh: ReadonlyMap<string, ReadonlySet<string>> }
    return mesh.get(this.topics.records) ?? new Set()
  }

  /** Hears all by gossip, and passes nothing on. */
  swallow(): void {
    const { topicValidators } = this.host.services.pubsub
    for (const topic of Object.values(this.topics)) topicValidators.set(topic, () => TopicValidatorResult.Ignore)
  }

  record(kind: string, subject: Uint8Array, body: object, ms = Date.now()): SignedRecord {
    return seal(this.signer, this.realm, [ms, this.count++], kind, subject, body)
  }

  gossip(bytes: Uint8Array, topic = this.topics.records): Promise<void> {
    return dare(() => this.host.services.pubsub.publish(topic, bytes))
  }

  /** Hands records over in a sync, as the one that asks for it. @param time that it takes it to be */
  async hand(records: readonly Uint8Array[], time = Date.now()): Promise<void> {
    await this.sync([['records', [...records]], ['end']], time)
  }

  /** All that is in the ledger of the AP that it is connected to, and the beacons that this one has heard. */
  async ledger(): Promise<Record<'records' | 'beacons', SignedRecord[]>> {
    const nothing: SyncFrame = ['ranges', [['hashes', '', new Uint8Array()]]]
    const answer = await this.sync([nothing, ['end']])
    const all = (kind: 'records' | 'beacons') =>
      answer.flatMap((frame) => (frame[0] === kind ? frame[1] : [])).map((bytes) => open(bytes, this.realm))
    return { records: all('records'), beacons: all('beacons') }
  }

  /** Begins a sync, says one turn of its own, and returns what the other side says before and after. */
  private async sync(turn: readonly SyncFrame[], time = Date.now()): Promise<SyncFrame[]> {
    const { stream, frames } = await this.open(this.ids.sync)
    const heard: SyncFrame[] = []
    const listen = async () => {
      do heard.push(await frames.read(syncFrame))
      while (heard.at(-1)![0] !== 'end')
    }
    await exchange(stream, async () => {
      await frames.write(['hello', new Uint8Array(16), time, []])
      await listen()
      for (const frame of turn) await frames.write(frame)
      await listen()
      await frames.write(['end'])
    })
    return heard
  }

  /** Streams on which it talks, by protocol. */
  private readonly talks = new Map<string, Stream>()

  /** Sends bytes as they are, on one stream for as long as that is open. */
  async send(protocol: string, bytes: Uint8Array): Promise<void> {
    let stream = this.talks.get(protocol)
    if (stream?.status !== 'open') {
      stream = (await this.open(protocol)).stream
      this.talks.set(protocol, stream)
    }
    stream.send(bytes)
  }

  /** Sends a frame of less than 128 bytes. */
  say(protocol: string, bytes: Uint8Array): Promise<void> {
    return this.send(protocol, concat(Uint8Array.of(bytes.length), bytes))
  }
}

/** The same with its last bit wrong, which is in the signature. */
export function spoilt(bytes: Uint8Array): Uint8Array {
  const copy = Uint8Array.from(bytes)
  copy[copy.length - 1]! ^= 1
  return copy
}
