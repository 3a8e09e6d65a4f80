// Gossip: what everyone must know, handed on after it was checked and, for a record, written to disk.
import { TopicValidatorResult } from '@chainsafe/libp2p-gossipsub'
import { MeshError } from '../../protocols/error.js'
import { MAX_RECORD } from '../../protocols/limits.js'
import { topics } from '../../protocols/wire.js'
import { isOfDisk } from '../store/store.js'
import type { Host } from './host.js'

/** What became of a message: `new` is delivered and forwarded, `old` neither. */
type Judgement = 'new' | 'old'

export interface GossipHandlers {
  isMember(ap: string): boolean
  /** Both throw a MeshError for what is provably bad. `from` is the AP that forwarded it, not its signer. */
  onRecord(bytes: Uint8Array, from: string): Promise<Judgement>
  onBeacon(bytes: Uint8Array, from: string): Promise<Judgement>
  onRefused(from: string, reason: MeshError): void
}

export class Gossip {
  private readonly topics: ReturnType<typeof topics>

  constructor(
    private readonly host: Host,
    mesh: string,
    handlers: GossipHandlers,
  ) {
    this.topics = topics(mesh)
    const { pubsub } = host.services
    const validate =
      (judge: (bytes: Uint8Array, from: string) => Promise<Judgement>) =>
      async (peer: { toString(): string }, message: { data: Uint8Array }): Promise<TopicValidatorResult> => {
        const from = peer.toString()
        if (!handlers.isMember(from)) return TopicValidatorResult.Ignore
        try {
          return (await judge(message.data, from)) === 'new' ? TopicValidatorResult.Accept : TopicValidatorResult.Ignore
        } catch (error) {
          // Only what a record says of itself is the sender's fault; a full disk is ours.
          if (!(error instanceof MeshError) || isOfDisk(error)) return TopicValidatorResult.Ignore
          handlers.onRefused(from, error)
          return TopicValidatorResult.Reject
        }
      }
    pubsub.topicValidators.set(this.topics.records, validate(handlers.onRecord))
    pubsub.topicValidators.set(this.topics.beacons, validate(handlers.onBeacon))
  }

  start(): void {
    this.host.services.pubsub.subscribe(this.topics.records)
    this.host.services.pubsub.subscribe(this.topics.beacons)
  }

  publishRecord(bytes: Uint8Array): void {
    this.publish(this.topics.records, bytes)
  }

  publishBeacon(bytes: Uint8Array): void {
    this.publish(this.topics.beacons, bytes)
  }

  // A failed publish is no loss: gossip is best effort, and sync brings what it did not.
  private publish(topic: string, bytes: Uint8Array): void {
    if (bytes.length > MAX_RECORD)
      throw new MeshError('record-too-big', `${bytes.length} bytes are too many for gossip`)
    this.host.services.pubsub.publish(topic, bytes).catch(() => {})
  }
}
