// The secrets of the chutes that this AP runs: opened when containers are made. And this AP's part in giving them to others.
// What is decided, protocols/sharing.ts decides; where they lie, files.ts.
import { randomBytes } from 'node:crypto'
import type { Logger } from 'pino'
import { apId, concat, hex } from '../../protocols/bytes.js'
import type { Chute } from '../../protocols/desired.js'
import { MeshError, messageOf } from '../../protocols/error.js'
import type { Signer } from '../../protocols/keys.js'
import type { RecordOf } from '../../protocols/kinds.js'
import type { Outlook } from '../../protocols/outlook.js'
import { boxSecret, openSecret, SEAL_RANDOM, sealKeys } from '../../protocols/sealing.js'
import { sharesToMake } from '../../protocols/sharing.js'
import type { LedgerStore } from '../store/ledger-store.js'

/** How often this AP looks whether another one lacks something, where nothing tells it, in milliseconds. */
const EVERY = 2000

export interface SecretsOptions {
  readonly signer: Signer
  readonly seed: Uint8Array
  readonly ledgerStore: LedgerStore
  readonly outlook: () => Outlook
  /** Milliseconds, on a clock that never goes back. */
  readonly now: () => number
  readonly log: Pick<Logger, 'error'>
}

export class Secrets {
  private readonly own: Uint8Array
  /** AP id. */
  private readonly self: string
  private looked: { at: number; chutes: unknown; members: unknown } | undefined

  constructor(private readonly options: SecretsOptions) {
    this.own = boxSecret(options.seed)
    this.self = apId(options.signer.publicKey)
  }

  /** The value of a secret of a chute. @throws MeshError `no-secret` */
  valueOf(chuteKey: string, name: string): Uint8Array {
    const chute = this.options.outlook().chutes.find((one) => hex(one.key) === chuteKey)
    const secret = chute?.secrets?.find((one) => one.name === name)
    if (chute === undefined || secret === undefined)
      throw new MeshError('no-secret', `secret ${name} belongs to a revision that is no more in force`)
    return this.open(chute, name, secret.record).value
  }

  /** Gives others the secrets that it is this AP's turn to give. Call it with each outlook. */
  follow(outlook: Outlook): void {
    const { signer, ledgerStore, now, log } = this.options
    const { chutes, membership } = outlook
    const isNews = this.looked?.chutes !== chutes || this.looked.members !== membership.members
    if (!isNews && now() - this.looked!.at < EVERY) return
    this.looked = { at: now(), chutes, members: membership.members }
    for (const { chute, to, secrets } of sharesToMake(outlook, this.self, ledgerStore.clock.now())) {
      const opened = secrets.flatMap((record) => {
        const key = this.tryOpen(chute, record)?.key
        return key === undefined ? [] : [{ record, key }]
      })
      const body = opened.length === 0 ? undefined : sealKeys(opened, to.key, randomBytes(SEAL_RANDOM))
      if (body === undefined) continue
      ledgerStore
        .sign(signer, 'share', concat(chute.key, to.key), body)
        .catch((error) => log.error({ reason: messageOf(error) }, 'a secret could not be given to another AP'))
    }
  }

  private open(chute: Chute, name: string, record: RecordOf<'secret'> | undefined) {
    const opened = record && this.tryOpen(chute, record)
    if (opened !== undefined) return opened
    throw new MeshError(
      'no-secret',
      record === undefined
        ? `waits for secret ${name}: its publisher sets it with "dropmesh secret set ${chute.id.name} ${name}"`
        : `waits for secret ${name}: no AP that has it has given it to this one yet`,
    )
  }

  private tryOpen(chute: Chute, record: RecordOf<'secret'>) {
    const { ledgerStore, signer } = this.options
    const { ledger, clock } = ledgerStore
    const shares = ledger.effectiveOn('share', concat(chute.key, signer.publicKey), clock.now())
    return openSecret(record, shares, signer.publicKey, this.own)
  }
}
