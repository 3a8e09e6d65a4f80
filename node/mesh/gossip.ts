// Gossip: what everyone must know, handed on after it was checked and, for a record, written to disk.
import { TopicValidatorResult } from '@chainsafe/libp2p-gossipsub'
import { MeshError } from '../../protocols/error.js'
import { MAX_RECORD } from '../../protocols/limits.js'
import { topics } from '../../protocols/wire.js'
import { isOfDisk } from '../store/store.js'
import { Backlog } from './backlog.js'
import type { Host } from './host.js'

/** What became of a message: `new` is delivered and forwarded, `old` neither. */
type Judgement = 'new' | 'old'

export interface GossipHandlers {
  isMember(ap: string): boolean
  /**
   * Both throw a MeshError for what is provably bad. `from` is the AP that forwarded it, not its signer: it is to blame all the
   * same, since who forwards checks first. What only this AP cannot use is no fault of anyone's, and `old`.
   */
  onRecord(bytes: Uint8Array, from: string): Promise<Judgement>
  onBeacon(bytes: Uint8Array, from: string): Promise<Judgement>
  onRefused(from: string, reason: MeshError): void
}

/** For so long after a change an AP hears and tells in its former neighbourhood too, in milliseconds: others learn of it later. */
const OVERLAP = 60_000

/**
 * Bytes of messages that wait for the disk, of one peer and of all. What comes beyond is left out, and sync brings it. The
 * records and claims of a thousand chutes are 2 MB, and come faster than a slow disk writes.
 */
const WAITING_EACH = 4 * 1024 ** 2
const WAITING = 8 * 1024 ** 2

export class Gossip {
  private readonly records: string
  /** The topics of beacons, and until when this AP is on each. */
  private readonly beacons = new Map<string, number>()
  private readonly waiting = new Backlog(WAITING_EACH, WAITING)

  constructor(
    private readonly host: Host,
    private readonly mesh: string,
    private readonly handlers: GossipHandlers,
  ) {
    this.records = topics(mesh).records
  }

  start(): void {
    this.subscribe(this.records, this.handlers.onRecord)
    this.follow('')
  }

  private subscribe(topic: string, judge: GossipHandlers['onRecord']): void {
    const { pubsub } = this.host.services
    pubsub.topicValidators.set(topic, (peer, message) => this.validate(judge, peer.toString(), message.data))
    pubsub.subscribe(topic)
  }

  private async validate(
    judge: GossipHandlers['onRecord'],
    from: string,
    data: Uint8Array,
  ): Promise<TopicValidatorResult> {
    const { isMember, onRefused } = this.handlers
    if (!isMember(from)) return TopicValidatorResult.Ignore
    const done = this.waiting.enter(from, data.length)
    if (done === undefined) return TopicValidatorResult.Ignore
    try {
      return (await judge(data, from)) === 'new' ? TopicValidatorResult.Accept : TopicValidatorResult.Ignore
    } catch (error) {
      // Only what a record says of itself is the sender's fault; a full disk is ours.
      if (!(error instanceof MeshError) || isOfDisk(error)) return TopicValidatorResult.Ignore
      onRefused(from, error)
      return TopicValidatorResult.Reject
    } finally {
      done()
    }
  }

  /** Says which neighbourhood this AP is in. Call it again and again: the former one is left a while after a change. */
  follow(prefix: string, overlap = OVERLAP): void {
    const now = performance.now()
    const own = topics(this.mesh, prefix).beacons
    if (!this.beacons.has(own)) this.subscribe(own, this.handlers.onBeacon)
    for (const [topic, until] of this.beacons) {
      if (topic === own) continue
      if (until === Number.POSITIVE_INFINITY) this.beacons.set(topic, now + overlap)
      else if (until < now) this.leave(topic)
    }
    this.beacons.set(own, Number.POSITIVE_INFINITY)
  }

  private leave(topic: string): void {
    this.beacons.delete(topic)
    this.host.services.pubsub.unsubscribe(topic)
    this.host.services.pubsub.topicValidators.delete(topic)
  }

  publishRecord(bytes: Uint8Array): void {
    this.publish(this.records, bytes)
  }

  publishBeacon(bytes: Uint8Array): void {
    for (const topic of this.beacons.keys()) this.publish(topic, bytes)
  }

  // A failed publish is no loss: gossip is best effort, and sync brings what it did not.
  private publish(topic: string, bytes: Uint8Array): void {
    if (bytes.length > MAX_RECORD)
      throw new MeshError('record-too-big', `${bytes.length} bytes are too many for gossip`)
    this.host.services.pubsub.publish(topic, bytes).catch(() => {})
  }
}
