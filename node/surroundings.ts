// What an AP has to do with in a mesh that is divided: its neighbours and few others. It writes down how the mesh is divided,
// tells those far away that it lives and where, and asks what they say of themselves. Where all is one neighbourhood, nothing
// of that is needed.
import { alivesOf, mustShowLife } from '../protocols/alive.js'
import { apId, equalBytes } from '../protocols/bytes.js'
import type { Signer } from '../protocols/keys.js'
import type { Body, RecordOf } from '../protocols/kinds.js'
import { type Neighbourhoods, writePrefix } from '../protocols/neighbourhood.js'
import type { Outlook } from '../protocols/outlook.js'
import { denialsOf } from '../protocols/refutation.js'
import type { LifeSign } from './mesh/liveness.js'
import type { LedgerStore } from './store/ledger-store.js'

/** All in milliseconds. How often this AP may say anew that it lives: addresses that come and go must not flood the mesh. */
const SIGN_EVERY = 5000
/** How old an answer of a far AP may be where a person asks, and where this AP does. */
const FRESH = 1000
const ASK_EVERY = 2000
/** How long an answer is remembered: what is not asked again has been seen by who asked. */
const REMEMBERED = 10_000
/** Far APs that are asked for one question: `ps` in a large mesh is no reason to ask everyone. */
const ASKED_AT_ONCE = 64
const MAX_ADDRESSES = 8

export interface SurroundingsOptions {
  readonly signer: Signer
  readonly ledgerStore: LedgerStore
  readonly addresses: () => string[]
  readonly boot: () => number
  readonly nextSign: () => LifeSign
  /** Asks an AP for its latest beacon. */
  readonly ask: (ap: string) => Promise<RecordOf<'beacon'> | undefined>
  readonly now: () => number
  readonly onChange: () => void
  readonly onFailure: (error: unknown) => void
}

export class Surroundings {
  /** What far APs said of late. */
  readonly glimpses = new Map<string, Body<'beacon'>>()
  private readonly askedAt = new Map<string, number>()
  private neighbourhoods: Neighbourhoods | undefined
  private near: ReadonlySet<string> = new Set()
  private lastSigned = Number.NEGATIVE_INFINITY
  private readonly self: string

  constructor(private readonly options: SurroundingsOptions) {
    this.self = apId(options.signer.publicKey)
  }

  /** True for members whom this AP is to be connected to. */
  isNear(ap: string): boolean {
    return this.near.has(ap)
  }

  /** The prefix of the neighbourhood this AP is in; that of the whole mesh for one that is no member yet. */
  get prefix(): string {
    return this.neighbourhoods?.of(this.self)?.prefix ?? ''
  }

  /** Members far away that watch this AP, or that it watches. */
  contacts(): readonly string[] {
    return this.neighbourhoods?.contactsOf(this.self) ?? []
  }

  /** Call it with each outlook. */
  look(outlook: Outlook): void {
    const { neighbourhoods } = outlook
    if (neighbourhoods !== this.neighbourhoods) this.settle(neighbourhoods)
    this.forget()
    const { options, self } = this
    const { signer, ledgerStore } = options
    const isAlive = (ap: string) => ap === self || outlook.candidates.get(ap)?.state === 'alive'
    if (!outlook.membership.members.has(self) || options.now() - this.lastSigned < SIGN_EVERY) return
    for (const { prefix, split } of neighbourhoods.divisionsToSign(self, isAlive)) {
      this.lastSigned = options.now()
      ledgerStore.sign(signer, 'settings', writePrefix(prefix), { split }).catch(options.onFailure)
    }
    if (neighbourhoods.all.length > 1) this.showLife(outlook)
  }

  private settle(neighbourhoods: Neighbourhoods): void {
    this.neighbourhoods = neighbourhoods
    const neighbours = neighbourhoods.of(this.self)?.members ?? []
    this.near = new Set([...neighbours.map(({ id }) => id), ...neighbourhoods.contactsOf(this.self)])
  }

  private forget(): void {
    const before = this.options.now() - REMEMBERED
    for (const [ap, at] of this.askedAt) {
      if (at > before) continue
      this.askedAt.delete(ap)
      this.glimpses.delete(ap)
    }
  }

  private showLife({ membership }: Outlook): void {
    const { signer, ledgerStore, addresses: allAddresses, boot, nextSign, onFailure } = this.options
    const addresses = allAddresses().sort().slice(0, MAX_ADDRESSES)
    const now = ledgerStore.clock.now()
    if (!mustShowLife(ledgerStore.ledger, membership, signer.publicKey, boot(), addresses, now)) return
    this.lastSigned = this.options.now()
    const sign = nextSign()
    const denials = denialsOf(ledgerStore.ledger, membership, signer.publicKey, sign, now)
    ledgerStore.sign(signer, 'alive', signer.publicKey, { ...sign, ...denials, addresses }).catch(onFailure)
  }

  /** Where a member says that it is to be found. */
  whereabouts(ap: string): readonly string[] {
    const { ledger, clock } = this.options.ledgerStore
    return alivesOf(ledger, clock.now()).get(ap)?.body.addresses ?? []
  }

  /** Asks those of these APs whose beacons are not heard here, and were not asked just now. Resolves when all had their time. */
  async ask(aps: Iterable<string>, outlook: Outlook, age = FRESH): Promise<void> {
    const now = this.options.now()
    const isDue = (ap: string) =>
      ap !== this.self &&
      outlook.candidates.get(ap)?.state === 'alive' &&
      outlook.candidates.get(ap)?.beacon === undefined &&
      now - (this.askedAt.get(ap) ?? Number.NEGATIVE_INFINITY) >= age
    const due = [...new Set(aps)].filter(isDue).slice(0, ASKED_AT_ONCE)
    for (const ap of due) this.askedAt.set(ap, now)
    await Promise.all(due.map((ap) => this.askOne(ap)))
    if (due.length > 0) this.options.onChange()
  }

  private async askOne(ap: string): Promise<void> {
    const beacon = await this.options.ask(ap).catch(() => undefined)
    if (beacon !== undefined && equalBytes(beacon.signer, beacon.subject) && apId(beacon.signer) === ap)
      this.glimpses.set(ap, beacon.body)
    else this.glimpses.delete(ap)
  }

  /** Asks the far holders of what this AP still runs, so that it stops its copies once theirs serve. */
  follow(outlook: Outlook, running: ReadonlySet<string>): void {
    const holders = outlook.placed.flatMap(({ holder, instance }) =>
      holder !== undefined && holder !== this.self && running.has(instance) ? [holder] : [],
    )
    if (holders.length > 0) void this.ask(holders, outlook, ASK_EVERY).catch(this.options.onFailure)
  }
}
