// How this AP comes into its mesh: it founds it, or shows its papers to whomever it reaches until someone lets it in. Once
// in, it tells the mesh when its name or labels have changed.
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { equalBytes } from '../protocols/bytes.js'
import { seal } from '../protocols/envelope.js'
import { MeshError, messageOf } from '../protocols/error.js'
import { personSigner, type Signer } from '../protocols/keys.js'
import type { Body } from '../protocols/kinds.js'
import { MAX_USES } from '../protocols/limits.js'
import type { TicketState } from '../protocols/membership.js'
import { type Approval, admit, type Papers, signMember } from '../protocols/ticket.js'
import { aboutSelf } from './belonging.js'
import type { Config } from './config.js'
import { loadSeed } from './identity.js'
import type { LedgerStore } from './store/ledger-store.js'

/** All in milliseconds. */
const RETRY = 250
const RETRY_CAP = 30_000

/** The public key of the person who founds a mesh. */
export type Founder = () => Promise<Uint8Array>

export interface Dependencies {
  readonly config: Config
  readonly signer: Signer
  readonly ledgerStore: LedgerStore
  readonly founder: Founder | undefined
  /** Whether this AP is a member. */
  isIn(): boolean
  /** Why this AP is a member no more, where it was one. */
  whyOut(): string | undefined
  /** Whether there is reason to think that the mesh has other members. */
  hasOthers(): boolean
  isLeaving(): boolean
  /** Shows the papers to whomever this AP is connected to. @returns a member's time; @throws the last refusal */
  ask(papers: Papers): Promise<number>
  /** Sees what this AP has just written. */
  look(): void
  onIn(): void
  onEvent(kind: string, fields: Record<string, unknown>): void
}

export class Joining {
  /** Why this AP is not in, as far as it was told; undefined where it is, or has not been answered yet. */
  refusal: string | undefined

  constructor(
    private readonly its: Dependencies,
    /** The papers by which it was let in, or asks to be; the one that founded the mesh has none. */
    private papers: Papers | undefined,
  ) {}

  async begin(): Promise<void> {
    await this.becomeFounder()
    if (this.its.isIn()) await this.renewMember()
    else void this.askUntilIn()
  }

  /** Notes that this AP has just ceased to be a member. */
  wasPutOut(): void {
    this.refusal = `this AP ${this.its.whyOut() ?? 'is a member no more'}; it needs a new ticket`
  }

  private async askUntilIn(): Promise<void> {
    let wait = RETRY
    while (!this.its.isLeaving() && !this.its.isIn()) {
      await new Promise((resolve) => setTimeout(resolve, wait))
      if (this.papers === undefined) {
        this.refusal = 'this AP was forgotten, or never let in; it needs a ticket: dropmesh up --join TICKET'
        return
      }
      try {
        this.its.ledgerStore.clock.raise(await this.its.ask(this.papers))
        this.refusal = undefined
        this.its.onIn()
      } catch (error) {
        const reason = messageOf(error)
        // That nobody has answered yet is no news while the first connection is being made.
        const isRefusal = error instanceof MeshError
        if (isRefusal && reason !== this.refusal) this.its.onEvent('join-failed', { reason })
        this.refusal = reason
        wait = isRefusal ? Math.min(RETRY_CAP, wait * 2) : RETRY
      }
    }
  }

  /**
   * The AP that founded the mesh needs nobody to be a member of it: the mesh key lets it in. Where it has lost its ledger
   * but knows of others, they are to give it back, and it asks them with a ticket that it makes for itself.
   */
  private async becomeFounder(): Promise<void> {
    const { config, ledgerStore, signer, founder } = this.its
    const seed = await loadSeed(join(config.data, 'keys'), 'mesh')
    if (seed === undefined || this.its.isIn() || this.its.whyOut() !== undefined) return
    const owner = personSigner(seed)
    const about = aboutSelf(config)
    if (!this.its.hasOthers()) {
      // Before the AP is a member: once it is, nobody asks again.
      if (founder !== undefined) {
        const everything: Body<'grant'> = { role: 'admin', expires: 0, scope: { rights: ['*'] } }
        await ledgerStore.sign(owner, 'grant', await founder(), everything)
      }
      if (config.open) await openMesh(ledgerStore, owner)
      await ledgerStore.acceptOne(signMember(signer, owner, ledgerStore.mesh, ledgerStore.clock.next(), about))
      this.its.look()
      return
    }
    const ticket = personSigner(new Uint8Array(randomBytes(32)))
    const body = { role: 'admin', uses: 1, expires: 0 } as const
    const grant = seal(owner, ledgerStore.mesh, ledgerStore.clock.next(), 'grant', ticket.publicKey, body)
    const member = signMember(signer, ticket, ledgerStore.mesh, ledgerStore.clock.next(), about)
    this.papers = { grant, member }
  }

  // A name or label that was changed in the configuration becomes part of the member record.
  private async renewMember(): Promise<void> {
    const { config, ledgerStore, signer } = this.its
    const { ledger, clock } = ledgerStore
    const own = ledger.effective('member', clock.now()).find((one) => equalBytes(one.signer, signer.publicKey))
    const { name, labels } = aboutSelf(config)
    if (own === undefined || JSON.stringify([own.body.name, own.body.labels]) === JSON.stringify([name, labels])) return
    await ledgerStore.sign(signer, 'member', own.subject, { ...own.body, name, labels })
  }
}

/** Makes a ticket that every member has, and so can use for whoever asks: it is in the ledger, with its seed. */
async function openMesh(ledgerStore: LedgerStore, owner: Signer): Promise<void> {
  const seed = new Uint8Array(randomBytes(32))
  const body: Body<'grant'> = { role: 'ap', uses: MAX_USES, expires: 0, seed }
  await ledgerStore.sign(owner, 'grant', personSigner(seed).publicKey, body)
}

/** What lets an AP into an open mesh. */
export function letIn(
  ticket: TicketState | undefined,
  ap: Uint8Array,
  { mesh, clock }: LedgerStore,
): Approval | undefined {
  const { grant } = ticket ?? {}
  if (grant?.body.seed === undefined) return undefined
  const signer = personSigner(grant.body.seed)
  if (!equalBytes(signer.publicKey, grant.subject)) return undefined
  return { grant: grant.bytes, admission: admit(signer, mesh, ap, clock.next()) }
}
