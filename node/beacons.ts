// What this AP says of itself: numbers that only grow, and beacons that carry them. Another node with the same key shows by
// numbers that are ahead of these.
import { equalBytes } from '../protocols/bytes.js'
import { type SignedRecord, seal } from '../protocols/envelope.js'
import { MeshError } from '../protocols/error.js'
import type { Signer } from '../protocols/keys.js'
import { type Body, checkKind, type RecordOf } from '../protocols/kinds.js'
import type { Membership } from '../protocols/membership.js'
import { BEACON_MIN, beaconPause } from '../protocols/pace.js'
import { denialsOf, isNewer } from '../protocols/refutation.js'
import { monotonic } from './clock.js'
import type { BootCounter } from './identity.js'
import type { LifeSign } from './mesh/liveness.js'
import type { LedgerStore } from './store/ledger-store.js'
import { VERSION } from './version.js'

/** What a beacon says beside who sends it and when. */
export type Condition = Omit<Body<'beacon'>, 'boot' | 'sequence' | 'denies' | 'version' | 'away' | 'ledger'>

export interface BeaconsOptions {
  readonly signer: Signer
  readonly ledgerStore: LedgerStore
  readonly boots: BootCounter
  membership(): Membership
  /** False while this AP has nothing to say, or would give away by it what it holds. */
  canSend(): boolean
  /** At most so many of everything that there can be many of. */
  condition(most: number): Condition
  publish(beacon: RecordOf<'beacon'>): void
  onTwin(): void
  onFailure(error: unknown, what: string): void
}

export class Beacons {
  private boot: number
  private sequence = 0
  /** The last one that was sent. */
  latest: RecordOf<'beacon'> | undefined
  private sentAt = Number.NEGATIVE_INFINITY
  /** Whether the last one said something new. */
  private wasNews = false
  /** Whether a sync has brought records that the last one's digest does not know. */
  private hasLearned = false
  private timer: NodeJS.Timeout | undefined
  /** What this AP says of how long it will be silent. */
  away: number | undefined
  /** True once another node was heard that uses the identity of this AP. */
  hasTwin = false

  constructor(private readonly options: BeaconsOptions) {
    this.boot = options.boots.last
  }

  get lastSign(): LifeSign {
    return { boot: this.boot, sequence: this.sequence }
  }

  /** The number of the next sign of life, which none before had. */
  nextSign(): LifeSign {
    this.sequence++
    return this.lastSign
  }

  /** Sends a beacon soon. */
  schedule(): void {
    const wait = Math.max(10, BEACON_MIN - (monotonic() - this.sentAt))
    this.timer ??= setTimeout(() => this.send(), wait)
  }

  stop(): void {
    clearTimeout(this.timer)
  }

  /** Sends one where the last was long ago. @param neighbours how many hear it */
  repeat(neighbours: number): void {
    if (monotonic() - this.sentAt > beaconPause(neighbours, this.wasNews, this.hasLearned)) this.send(false)
  }

  /** Records came that no gossip brought. */
  learned(): void {
    this.hasLearned = true
  }

  // A mistake here must not end the node: it is told, and the next beacon may go well.
  send(isNews = true): void {
    clearTimeout(this.timer)
    this.timer = undefined
    if (!this.options.canSend()) return
    try {
      const beacon = this.seal(256)
      this.latest = beacon
      this.sentAt = monotonic()
      this.wasNews = isNews
      this.hasLearned = false
      this.options.publish(beacon)
    } catch (error) {
      this.options.onFailure(error, 'a beacon could not be sent')
    }
  }

  // A beacon that would be too big says less, rather than nothing.
  private seal(most: number): RecordOf<'beacon'> {
    const { signer, ledgerStore, condition, membership } = this.options
    const { ledger, clock } = ledgerStore
    const sign = this.nextSign()
    const body: Body<'beacon'> = {
      ...sign,
      ...denialsOf(ledger, membership(), signer.publicKey, sign, clock.now()),
      version: VERSION,
      ...(this.away !== undefined && { away: this.away }),
      ...condition(most),
      ledger: ledger.digest(),
    }
    try {
      const record: SignedRecord = seal(
        signer,
        ledgerStore.mesh,
        ledgerStore.clock.next(),
        'beacon',
        signer.publicKey,
        body,
      )
      checkKind(record)
      return record as RecordOf<'beacon'>
    } catch (error) {
      if (most === 0 || !(error instanceof MeshError) || error.code !== 'record-too-big') throw error
      return this.seal(Math.floor(most / 2))
    }
  }

  /**
   * A beacon of this AP's key that is newer than any it sent comes from another node with the same identity. The answer is
   * newer still, so that it gets through to the other one, which then knows as well.
   */
  watchForTwin({ body }: RecordOf<'beacon'>): void {
    if (!isNewer(body, this.lastSign)) return
    if (this.hasTwin) return void this.adopt(body) // both know; to answer each time would never end
    this.hasTwin = true
    this.options.onTwin()
    void this.outdo(body)
  }

  /** An AP that is accused shows that it lives: its next beacon refutes, whatever the statement says. */
  refute(statement: RecordOf<'statement'>): void {
    if (equalBytes(statement.subject, this.options.signer.publicKey)) this.schedule()
  }

  /** Sends a beacon that is newer than `sign`. */
  private async outdo(sign: LifeSign): Promise<void> {
    if (await this.adopt(sign)) this.send()
  }

  /**
   * Goes on counting from `sign`, where that is ahead. A boot counter is on disk before it is used.
   * @returns false where it cannot be
   */
  private async adopt(sign: LifeSign): Promise<boolean> {
    if (!isNewer(sign, this.lastSign)) return true
    try {
      if (sign.boot > this.boot) await this.options.boots.raise(sign.boot)
    } catch (error) {
      this.options.onFailure(error, 'the boot counter could not be written')
      return false
    }
    this.boot = sign.boot
    this.sequence = sign.sequence
    return true
  }
}
