// What an AP takes upon itself: it claims what it is its turn to claim, and tells the reconciler what to run and what to leave
// alone. What is decided, protocols/outlook.ts decides. The simulator runs this as it is.
import { equalBytes, hex } from '../../protocols/bytes.js'
import { firstClock } from '../../protocols/epochs.js'
import type { Signer } from '../../protocols/keys.js'
import type { Body, RecordOf } from '../../protocols/kinds.js'
import { claimsToMake, dutiesOf, type Outlook, Turns } from '../../protocols/outlook.js'
import type { Balance } from '../../protocols/pace.js'
import type { Placed } from '../../protocols/placement.js'
import { Rebalancing } from '../../protocols/rebalance.js'
import { lackedSecret } from '../../protocols/secrets.js'
import type { Time } from '../clock.js'
import type { LedgerStore } from '../store/ledger-store.js'
import type { Leases } from './leases.js'
import { desiredOf } from './plan.js'
import type { Reconciler } from './reconciler.js'

const RUNS: ReadonlySet<string> = new Set(['running', 'healthy', 'unhealthy'])

export interface WorkOptions {
  /** AP id. */
  readonly self: string
  readonly signer: Signer
  readonly ledgerStore: LedgerStore
  readonly reconciler: Reconciler
  readonly leases: Leases
  readonly time: Pick<Time, 'monotonic'>
  readonly balance?: Balance
  readonly onClaim: (placed: Placed, epoch: number, cause: string) => void
  readonly onFailure: (error: unknown) => void
}

export class Work {
  private readonly turns = new Turns()
  private readonly rebalancing: Rebalancing
  /** Epochs of claims that are not on disk yet, by instance: until then nothing follows from them. */
  private readonly claiming = new Map<string, number>()

  constructor(private readonly options: WorkOptions) {
    this.rebalancing = new Rebalancing(options.balance)
  }

  /**
   * Call it with each outlook.
   * @param isLeaving whether this AP takes nothing on any more
   * @param keepsNothing whether it stops even what nobody has taken over
   */
  follow(outlook: Outlook, isLeaving: boolean, keepsNothing: boolean): void {
    const { self, reconciler, leases } = this.options
    this.claim(outlook, isLeaving)
    const { held, kept } = dutiesOf(outlook, self)
    const runnable = held.filter((placed) => this.mayRun(placed) && !this.isAheadOfSecret(placed))
    const desired = new Map(runnable.map((placed) => [placed.instance, desiredOf(placed, outlook, self)]))
    const untouched = held.filter((placed) =>
      this.mayRun(placed) ? this.isAheadOfSecret(placed) : leases.mayStay(placed),
    )
    const staying = [...kept, ...untouched.map(({ instance }) => instance)]
    reconciler.want(desired, new Set(keepsNothing ? [] : staying))
  }

  /** A claim is in the ledger, and on disk. */
  note({ subject, signer, body }: RecordOf<'claim'>): void {
    const instance = hex(subject)
    const isOwn = equalBytes(signer, this.options.signer.publicKey)
    if (isOwn && this.claiming.get(instance) === body.epoch) this.claiming.delete(instance)
  }

  /** What runs here, and what waits here for its lease. */
  reports(): Body<'beacon'>['instances'] {
    const { reconciler, leases } = this.options
    const waiting = leases.reports()
    const keys = new Set(waiting.map(({ instance }) => hex(instance)))
    // What waits for its lease does not run, although a hung engine may still have it otherwise.
    return [...waiting, ...reconciler.instances().filter(({ instance }) => !keys.has(hex(instance)))]
  }

  private claim(outlook: Outlook, isLeaving: boolean): void {
    const { self, signer, ledgerStore, leases, time, onClaim, onFailure } = this.options
    const now = time.monotonic()
    const turns = isLeaving
      ? []
      : [...this.turns.due(outlook, self, now), ...this.rebalancing.due(outlook, self, now, ledgerStore.clock.now())]
    const { due, leased } = claimsToMake(turns, outlook, self, (instance) => leases.holds(instance))
    leases.want(isLeaving ? [] : leased, outlook.electorates, ledgerStore.clock.now())
    for (const { placed, epoch, cause, previous } of due) {
      if (this.claiming.get(placed.instance) === epoch) continue
      this.claiming.set(placed.instance, epoch)
      onClaim(placed, epoch, cause)
      // Where the last epoch was claimed by a clock that is ahead, the next one is only due a millisecond later.
      ledgerStore.clock.observe(firstClock(placed.chute.id.creation, epoch))
      ledgerStore.sign(signer, 'claim', placed.subject, { epoch, cause, previous }).catch(onFailure)
    }
  }

  // A secret has a new value, which is not given to this AP yet, or was removed: what runs with the old one goes on.
  private isAheadOfSecret({ chute, instance }: Placed): boolean {
    if (lackedSecret(chute, this.options.signer.publicKey) === undefined) return false
    const report = this.options.reconciler.instances().find((one) => hex(one.instance) === instance)
    return report !== undefined && RUNS.has(report.state)
  }

  /** True where the claim is on disk, and what is exclusive has its lease. */
  private mayRun(placed: Placed): boolean {
    return this.claiming.get(placed.instance) !== placed.claim!.body.epoch && this.options.leases.mayRun(placed)
  }
}
